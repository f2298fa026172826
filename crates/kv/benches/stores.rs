//! Measures the operations per second of each store, and the limit that the disk sets for the durable one.
//!
//! Prints a table and asserts nothing: machines differ, so compare only the ratio to the raw sync rate of the same minutes.
//! Usage:
//! `cargo bench --package penstock-kv [-- DIRECTORY]`; the directory, on the disk to be measured, is
//! made if it is missing (without one: the system's temporary directory).

use penstock_kv::{
    EmbeddedSettings, EmbeddedStore, MemoryStore, RedisSettings, RedisStore, Reply, Store,
};
use penstock_testkit::RedisServer;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_secs(3);
const WRITERS: usize = 64;

fn row(what: &str, count: u64, unit: &str, from: Instant, note: &str) {
    let rate = count as f64 / from.elapsed().as_secs_f64();
    println!("{what:<58} {rate:>12.0} {unit:<10} {note}");
}

/// The value of a reply that is ready, without a runtime: the cost for a request.
fn now<T>(mut reply: Reply<'_, T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match std::pin::Pin::new(&mut reply).poll(&mut context) {
        std::task::Poll::Ready(answer) => answer.unwrap_or_else(|error| panic!("{error}")),
        std::task::Poll::Pending => panic!("the answer is not there"),
    }
}

/// As many increments as fit into the time, on each thread over as many names.
fn increments(store: &(impl Store + ?Sized), threads: usize, names: usize) -> u64 {
    std::thread::scope(|scope| {
        let run = |thread: usize| {
            let names: Vec<String> = (0..names)
                .map(|name| format!("quota/caller-{thread}-{name:06}/29384756"))
                .collect();
            let from = Instant::now();
            let mut count = 0;
            while from.elapsed() < EACH {
                for _ in 0..1000 {
                    now(store.increment(&names[count % names.len()], 1));
                    count += 1;
                }
            }
            count as u64
        };
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        running.into_iter().map(|run| run.join().unwrap()).sum()
    })
}

/// The disk's best rate: appending a page and a sync, one after another.
fn raw_syncs(directory: &Path) -> u64 {
    let mut file = std::fs::File::create(directory.join("raw")).unwrap();
    let page = [7; 4096];
    let (from, mut count) = (Instant::now(), 0);
    while from.elapsed() < EACH {
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    count
}

/// Writers that each count, record and wait for the disk, as a request does.
async fn durable_writes(store: Arc<dyn Store>) -> u64 {
    let until = Instant::now() + EACH;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let counter = format!("usage/caller-{writer:03}");
            let record = [b'r'; 200];
            let mut requests = 0_u64;
            while Instant::now() < until {
                store.increment(&counter, 1).await.unwrap();
                let name = format!("idempotency/{writer:03}/{requests:08}");
                store.set(&name, &record).await.unwrap();
                store.durable(store.position()).await.unwrap();
                requests += 1;
            }
            requests
        });
    }
    tasks.join_all().await.into_iter().sum()
}

async fn pipelined(store: Arc<dyn Store>, callers: usize) -> u64 {
    let until = Instant::now() + EACH;
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let name = format!("quota/caller-{caller:03}");
            let mut count = 0_u64;
            while Instant::now() < until {
                store.increment(&name, 1).await.unwrap();
                count += 1;
            }
            count
        });
    }
    tasks.join_all().await.into_iter().sum()
}

fn main() {
    // `cargo bench` and `cargo test` add options of their own.
    let given = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let made;
    let directory = match &given {
        Some(given) => Path::new(given),
        None => {
            made = tempfile::tempdir().unwrap();
            made.path()
        }
    };
    std::fs::create_dir_all(directory).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();

    for (threads, names) in [(1, 1), (1, 10_000), (2, 1), (2, 10_000)] {
        let store = MemoryStore::default();
        let from = Instant::now();
        let count = increments(&store, threads, names);
        let what = format!("memory: increment, {threads} threads, {names} names each");
        row(&what, count, "ops/s", from, "");
    }

    let place = tempfile::tempdir_in(directory).unwrap();
    let store = EmbeddedStore::open(EmbeddedSettings::new(place.path().join("store")));
    let store = Arc::new(store.unwrap());
    // Before, between and after: the disk is seldom alone.
    for callers in [1, 2] {
        let from = Instant::now();
        let count = raw_syncs(place.path());
        row("disk: append 4 KiB and sync", count, "syncs/s", from, "");
        let from = Instant::now();
        let requests = runtime.block_on(durable_writes(store.clone()));
        let what = format!("embedded: {WRITERS} writers, increment + set, durable ({callers})");
        row(&what, 2 * requests, "writes/s", from, "");
    }
    let from = Instant::now();
    let count = raw_syncs(place.path());
    row("disk: append 4 KiB and sync", count, "syncs/s", from, "");
    let name = "usage/caller-000";
    let from = Instant::now();
    let mut count = 0;
    while from.elapsed() < EACH {
        count += 1;
        runtime.block_on(async { store.increment(name, 1).await.unwrap() });
    }
    row(
        "embedded: increment of one name, not waiting",
        count,
        "ops/s",
        from,
        "",
    );
    drop(store);

    if std::process::Command::new("redis-server")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("redis: no redis-server on the PATH");
        return;
    }
    let server = RedisServer::start();
    let settings = RedisSettings::new(server.url(), "bench");
    let store = runtime.block_on(RedisStore::connect(settings)).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    for callers in [1, 64, 512] {
        let from = Instant::now();
        let count = runtime.block_on(pipelined(Arc::clone(&store), callers));
        let what = format!("redis: increment, {callers} callers on one connection");
        row(&what, count, "ops/s", from, "server on the same machine");
    }
}
