use super::*;
use crate::disk::TAG_COUNTER;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

/// The behaviour of a disk that the test controls.
#[derive(Default)]
struct Control {
    entries: Mutex<BTreeMap<String, Value>>,
    commits: AtomicUsize,
    held: AtomicBool,
    fails: AtomicBool,
    panics: AtomicBool,
}

struct TestDisk(Arc<Control>);

impl Disk for TestDisk {
    fn get(&self, name: &str) -> Result<Option<Value>, String> {
        Ok(self.0.entries.lock().get(name).cloned())
    }

    fn commit(&self, batch: &Batch) -> Result<(), String> {
        while self.0.held.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!self.0.panics.load(Ordering::Acquire), "as the test asked");
        if self.0.fails.load(Ordering::Acquire) {
            return Err("No space left on device".into());
        }
        let mut entries = self.0.entries.lock();
        for (name, write) in &batch.writes {
            match write {
                Some(value) => entries.insert(name.to_string(), value.clone()),
                None => entries.remove(&**name),
            };
        }
        self.0.commits.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn names<'a>(
        &'a self,
        after: Option<&str>,
    ) -> Box<dyn Iterator<Item = Result<String, String>> + 'a> {
        let names = self.0.entries.lock().keys().cloned().collect::<Vec<_>>();
        let after = after.map(str::to_owned);
        Box::new(
            names
                .into_iter()
                .filter(move |name| after.as_ref().is_none_or(|after| name > after))
                .map(Ok),
        )
    }

    fn used(&self) -> Result<u64, String> {
        Ok(0)
    }

    fn free(&self) -> Result<u64, String> {
        Ok(u64::MAX)
    }

    fn reclaim(&self) -> Result<(), String> {
        Ok(())
    }
}

fn open(max_pending_entries: usize) -> (Arc<Control>, Arc<EmbeddedStore>) {
    let control = Arc::new(Control::default());
    let mut settings = EmbeddedSettings::new("nowhere");
    settings.max_pending_entries = max_pending_entries;
    let store = EmbeddedStore::over(settings, Box::new(TestDisk(Arc::clone(&control))));
    (control, Arc::new(store.unwrap()))
}

/// The writer thread has taken the open batch, and is held in the commit.
async fn taken(store: &EmbeddedStore) {
    while store.pending() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_full_batch_makes_writers_wait_and_lets_them_go_on() {
    let (control, store) = open(3);
    control.held.store(true, Ordering::Release);
    store.set("first", b"").await.unwrap();
    taken(&store).await;
    for name in ["a", "b", "c"] {
        assert!(matches!(store.set(name, b""), Reply::Ready(_)));
    }
    let waits = Arc::clone(&store);
    let waiting = tokio::spawn(async move {
        let names: Vec<_> = (0..10).map(|i| (format!("many/{i}"), vec![])).collect();
        waits.set_many(&names).await?;
        waits.increment("a counter", 1).await
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!waiting.is_finished());
    assert_eq!(store.pending(), 3, "the bound holds");
    // Reads and writes that change nothing do not wait.
    assert!(store.exists("c").await.unwrap());
    assert_eq!(store.increment("counter", 0).await.unwrap(), 0);

    control.held.store(false, Ordering::Release);
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    store.durable(store.position()).await.unwrap();
    assert_eq!(control.entries.lock().len(), 4 + 10 + 1);
}

#[tokio::test]
async fn of_several_writes_of_a_name_a_batch_keeps_the_last() {
    let (control, store) = open(1000);
    control.held.store(true, Ordering::Release);
    store.set("first", b"").await.unwrap();
    taken(&store).await;
    for _ in 0..500 {
        store.increment("counter", 1).await.unwrap();
    }
    store.set("gone", b"x").await.unwrap();
    store.delete("gone").await.unwrap();
    assert_eq!(store.pending(), 2);
    assert_eq!(store.position(), Position(503));
    control.held.store(false, Ordering::Release);
    store.durable(store.position()).await.unwrap();
    assert_eq!(control.commits.load(Ordering::Acquire), 2);
    let entries = control.entries.lock();
    assert_eq!(entries.get("counter"), Some(&Value::Counter(500)));
    assert!(!entries.contains_key("gone"));
}

#[tokio::test]
async fn pages_are_right_across_overlay_and_disk() {
    let (control, store) = open(1000);
    for name in ["b", "d", "f"] {
        store.set(name, b"").await.unwrap();
    }
    store.durable(store.position()).await.unwrap();
    control.held.store(true, Ordering::Release);
    for name in ["a", "d", "g"] {
        store.set(name, b"new").await.unwrap();
    }
    store.delete("b").await.unwrap();
    store.delete("f").await.unwrap();
    let page = store.list(None).await.unwrap();
    assert_eq!(page.names, ["a", "d", "g"]);
    let page = store.list(Some("embedded:a")).await.unwrap();
    assert_eq!(page.names, ["d", "g"]);
    control.held.store(false, Ordering::Release);
}

/// A store whose disk failed reports it to waiting writes, to later writes, and to reads as well.
#[tokio::test]
async fn a_failed_commit_is_never_called_durable() {
    for panics in [false, true] {
        let (control, store) = open(2);
        store.set("before", b"").await.unwrap();
        let before = store.position();
        store.durable(before).await.unwrap();

        control.held.store(true, Ordering::Release);
        store.set("lost", b"").await.unwrap();
        let lost = store.position();
        taken(&store).await;
        let waits = Arc::clone(&store);
        let durable = tokio::spawn(async move { waits.durable(lost).await });
        store.set("a", b"").await.unwrap();
        store.set("b", b"").await.unwrap();
        let waits = Arc::clone(&store);
        let writer = tokio::spawn(async move { waits.set("c", b"").await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!durable.is_finished() && !writer.is_finished());
        control.fails.store(true, Ordering::Release);
        control.panics.store(panics, Ordering::Release);
        control.held.store(false, Ordering::Release);

        let unavailable = |error: Option<StoreError>| match error {
            Some(StoreError::Unavailable(message)) => message,
            other => panic!("{other:?}"),
        };
        let message = unavailable(durable.await.unwrap().err());
        assert!(panics || message.contains("No space left"), "{message}");
        unavailable(writer.await.unwrap().err());
        unavailable(store.set("d", b"").await.err());
        unavailable(store.get("before").await.err());
        unavailable(store.list(None).await.err());
        unavailable(store.durable(store.position()).await.err());
        // Entries that were durable before stay durable.
        store.durable(before).await.unwrap();
        assert_eq!(store.durable_position(), before);
        // The disk being well again changes nothing.
        control.fails.store(false, Ordering::Release);
        control.panics.store(false, Ordering::Release);
        unavailable(store.set("d", b"").await.err());
        let store = Arc::into_inner(store).unwrap();
        unavailable(store.close().err());
        assert_eq!(control.entries.lock().len(), 1);
    }
}

#[test]
fn values_keep_their_kind_on_disk() {
    for value in [
        Value::Counter(i64::MIN),
        Value::Bytes(Arc::from(&b""[..])),
        Value::Bytes(Arc::from(&[TAG_COUNTER; 8][..])),
    ] {
        assert_eq!(Value::decode(&value.encode()), Ok(value));
    }
    for unknown in [&b""[..], &[7, 1, 2], &[TAG_COUNTER, 1]] {
        assert!(Value::decode(unknown).is_err());
    }
}
