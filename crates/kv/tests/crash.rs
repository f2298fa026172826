//! Kills the writing process at random moments, and checks the remaining entries: everything that was called durable,
//! and of the rest exactly the writes up to some position.
//!
//! A killed process loses its memory, but not the data that the operating system holds. So this tests the store's
//! order, its promises, and the recovery from a journal that was cut short. That each commit is synced is tested by its
//! cost: benches/stores.rs prints it next to the disk's own.

use penstock_kv::{EmbeddedSettings, EmbeddedStore, Store};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Names the child's directory; without it the child's test does nothing.
const DIRECTORY: &str = "PENSTOCK_CRASH_DIRECTORY";

const ROUNDS: u64 = 25;
const WRITERS: usize = 8;

/// A number in steps of these is written between two words about durability.
const TRAIL_STEPS: i64 = 50;

/// Not a test by itself: the parent runs it as a child and kills it.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(write_for_ever(Path::new(&directory)));
}

fn tell(line: &str) {
    let mut out = std::io::stderr().lock();
    // One write for each line, so that a line is printed whole or not at all.
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
}

async fn write_for_ever(directory: &Path) {
    let store = Arc::new(EmbeddedStore::open(EmbeddedSettings::new(directory)).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let counter = format!("counter/{writer}");
            loop {
                let next = store.increment(&counter, 0).await.unwrap() + 1;
                let entry = format!("entry/{writer}/{next}");
                // The entry first: a counter that is there vouches for the entries up to it.
                store.set(&entry, &next.to_le_bytes()).await.unwrap();
                assert_eq!(store.increment(&counter, 1).await.unwrap(), next);
                store.durable(store.position()).await.unwrap();
                tell(&format!("writer {writer} {next}"));
            }
        });
    }
    // A trail of single writes in a known order, mostly without waiting.
    tasks.spawn(async move {
        let mut step = store.increment("trail", 0).await.unwrap();
        // The process before may have died between the count and the deleting that follows it.
        store.delete(&format!("trail/{}", step - 10)).await.unwrap();
        loop {
            step += 1;
            let entry = format!("trail/{step}");
            store.set(&entry, b"here").await.unwrap();
            store.increment("trail", 1).await.unwrap();
            if step > 1 {
                // Deleting is a write too: only the last few are left.
                let old = format!("trail/{}", step - 10);
                store.delete(&old).await.unwrap();
            }
            if step % TRAIL_STEPS == 0 {
                store.durable(store.position()).await.unwrap();
                tell(&format!("trail {step}"));
            } else if step % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    tasks.join_all().await;
}

/// Runs the child for a while, kills it, and adds its last reports to the earlier ones.
fn run_and_kill(directory: &Path, after: Duration, said: &mut BTreeMap<String, i64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let listening = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for line in lines {
            heard.push(line.unwrap());
        }
        heard
    });
    std::thread::sleep(after);
    // SIGKILL: nothing of the child runs after this.
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let heard = listening.join().unwrap();
    assert!(
        status.code().is_none(),
        "the child ended by itself: {heard:#?}"
    );
    for line in heard {
        let (who, number) = line.rsplit_once(' ').unwrap();
        let number = number.parse().unwrap();
        let last = said.entry(who.to_owned()).or_insert(0);
        assert!(number > *last, "{line} after {last}");
        *last = number;
    }
}

/// Compares the remaining entries with the reports, and takes them as reported from now on. A writer that is killed
/// twice in a row before it reports is two ahead of its reports, and an entry that was found once must stay.
async fn look(directory: &Path, said: &mut BTreeMap<String, i64>) {
    let store = EmbeddedStore::open(EmbeddedSettings::new(directory)).unwrap();
    for writer in 0..WRITERS {
        let count = store.increment(&format!("counter/{writer}"), 0).await;
        let count = count.unwrap();
        let told = said.get(&format!("writer {writer}")).copied().unwrap_or(0);
        // It says each one, so at most one more was written.
        assert!(
            count == told || count == told + 1,
            "writer {writer}: counter at {count}, told {told}"
        );
        said.insert(format!("writer {writer}"), count);
        let names: Vec<String> = (1..=count + 2)
            .map(|n| format!("entry/{writer}/{n}"))
            .collect();
        let found = store.get_many(&names).await.unwrap();
        for (n, value) in (1..).zip(found) {
            let there = Some(i64::to_le_bytes(n).to_vec());
            match n - count {
                ..=0 => assert_eq!(value, there, "writer {writer}, entry {n} of {count}"),
                // The write between the last entry and its count.
                1 => assert!(value.is_none() || value == there),
                _ => assert_eq!(value, None, "writer {writer}, entry {n} of {count}"),
            }
        }
    }
    let count = store.increment("trail", 0).await.unwrap();
    let told = said.get("trail").copied().unwrap_or(0);
    assert!(
        count >= told && count <= told + TRAIL_STEPS,
        "trail at {count}, told {told}"
    );
    said.insert("trail".to_owned(), count);
    for step in 1..=count + 2 {
        let there = store.exists(&format!("trail/{step}")).await.unwrap();
        match step - count {
            // Between the count and the deleting that follows it.
            -10 => {}
            ..-10 => assert!(!there, "trail: {step} of {count} was deleted"),
            -9..=0 => assert!(there, "trail: {step} of {count} was written"),
            1 => {}
            _ => assert!(!there, "trail: {step} of {count} was never written"),
        }
    }
}

#[test]
fn a_killed_process_leaves_what_it_called_durable_and_nothing_out_of_order() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut said = BTreeMap::new();
    let mut random = u64::from(std::process::id()) | 1;
    for _ in 0..ROUNDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let after = Duration::from_millis(20 + random % 280);
        run_and_kill(directory.path(), after, &mut said);
        runtime.block_on(look(directory.path(), &mut said));
    }
    let told: i64 = said.values().sum();
    assert!(told > 100, "the children hardly wrote: {said:?}");
    println!("{ROUNDS} kills; told durable at the end: {said:?}");
}
