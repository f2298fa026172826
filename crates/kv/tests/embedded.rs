//! The store on disk: the suite, opening and closing, and its bounds.

use penstock_kv::embedded::OpenError;
use penstock_kv::{EmbeddedSettings, EmbeddedStore, Reply, Store, StoreError};
use penstock_testkit::kv_suite::Subject;
use std::sync::Arc;
use std::time::Duration;

mod suite {
    use super::*;

    async fn make() -> Subject {
        let directory = tempfile::tempdir().unwrap();
        let settings = EmbeddedSettings::new(directory.path().join("store"));
        Subject::strict(EmbeddedStore::open(settings).unwrap(), directory)
    }

    penstock_testkit::kv_suite!(make);
}

/// The same with a batch so small that writers wait for room all the time.
mod suite_with_small_batches {
    use super::*;

    async fn make() -> Subject {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = EmbeddedSettings::new(directory.path());
        settings.max_pending_entries = 40;
        Subject::strict(EmbeddedStore::open(settings).unwrap(), directory)
    }

    penstock_testkit::kv_suite!(make);
}

#[tokio::test]
async fn written_entries_are_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    // Parents are made too.
    let place = directory.path().join("var/lib/penstock");
    let settings = EmbeddedSettings::new(&place);
    let store = EmbeddedStore::open(settings.clone()).unwrap();
    store.set("value", b"12345678").await.unwrap();
    store.set("", b"of the empty name").await.unwrap();
    store.increment("counter", -5).await.unwrap();
    store.set("gone", b"").await.unwrap();
    store.delete("gone").await.unwrap();
    // Closing writes entries that no caller waited for.
    store.close().unwrap();

    let store = EmbeddedStore::open(settings.clone()).unwrap();
    assert_eq!(store.increment("counter", 1).await.unwrap(), -4);
    let value = store.get("value").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"12345678"[..]));
    // Kinds are remembered: 8 bytes that were set are no counter.
    let sum = store.increment("value", 1).await;
    assert_eq!(sum, Err(StoreError::NotACounter));
    assert!(!store.exists("gone").await.unwrap());
    assert!(store.exists("").await.unwrap());
    // So does dropping.
    drop(store);
    let store = EmbeddedStore::open(settings).unwrap();
    assert_eq!(store.increment("counter", 0).await.unwrap(), -4);
    assert!(store.describe().contains("var/lib/penstock"));
}

#[test]
fn a_directory_has_one_user_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings::new(directory.path());
    let store = EmbeddedStore::open(settings.clone()).unwrap();
    let error = EmbeddedStore::open(settings.clone()).err().unwrap();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
    store.close().unwrap();
    EmbeddedStore::open(settings).unwrap();
}

#[test]
fn a_place_that_cannot_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let place = file.path().join("store");
    let error = EmbeddedStore::open(EmbeddedSettings::new(&place));
    let message = error.err().unwrap().to_string();
    assert!(message.contains(place.to_str().unwrap()), "{message}");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = EmbeddedSettings::new(directory.path());
    settings.max_pending_entries = 0;
    let error = EmbeddedStore::open(settings).err().unwrap();
    assert!(matches!(error, OpenError::Setting(_)));
    let mut settings = EmbeddedSettings::new(directory.path());
    settings.max_pending_bytes = 1024;
    let error = EmbeddedStore::open(settings).err().unwrap();
    assert!(matches!(error, OpenError::Setting(_)));
}

#[tokio::test]
async fn a_store_over_its_size_only_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings::new(directory.path());
    let store = EmbeddedStore::open(settings.clone()).unwrap();
    store.set("entry", b"value").await.unwrap();
    store.increment("counter", 1).await.unwrap();
    store.close().unwrap();

    // As it would be if the disk were nearly full, and if the store itself were large.
    let mut crowded = settings.clone();
    crowded.min_free_disk_bytes = u64::MAX;
    let mut large = settings.clone();
    large.max_disk_bytes = 1;
    for settings in [crowded, large] {
        let store = EmbeddedStore::open(settings).unwrap();
        for refused in [
            store.set("new", b"").await.err(),
            store.set("entry", b"longer value").await.err(),
            store.increment("new", 1).await.err(),
            store.compare_and_swap("new", None, b"").await.err(),
        ] {
            assert!(matches!(refused, Some(StoreError::Full(_))), "{refused:?}");
        }
        store.increment("counter", 1).await.unwrap();
        store.set("entry", b"short").await.unwrap();
        store.durable(store.position()).await.unwrap();
    }
    let store = EmbeddedStore::open(settings).unwrap();
    assert_eq!(store.increment("counter", 0).await.unwrap(), 3);
    store.set("new", b"").await.unwrap();
}

/// Deleting is the way out of a full store, so it must lead there, without opening it afresh.
#[tokio::test]
async fn deleting_makes_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = EmbeddedSettings::new(directory.path());
    settings.max_disk_bytes = 96 << 20;
    let store = EmbeddedStore::open(settings).unwrap();
    // Values that do not compress.
    let mut random = 88_172_645_463_325_252_u64;
    let mut value = || -> Vec<u8> {
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        (0..32_768).flat_map(|_| next().to_le_bytes()).collect()
    };
    let mut written = 0;
    while let Ok(()) = store.set(&format!("entry/{written}"), &value()).await {
        store.durable(store.position()).await.unwrap();
        written += 1;
        assert!(written < 2000, "the bound does not hold");
    }
    let refused = store.set("new", b"value").await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    for entry in 0..written {
        store.delete(&format!("entry/{entry}")).await.unwrap();
    }
    store.durable(store.position()).await.unwrap();
    let from = std::time::Instant::now();
    while let Err(error) = store.set("new", b"value").await {
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(from.elapsed() < Duration::from_secs(30), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.durable(store.position()).await.unwrap();
    assert_eq!(store.list(None).await.unwrap().names, ["new"]);
}

/// Waiting for the disk needs no tokio, and no thread is held meanwhile: 100 waits on one thread.
#[test]
fn waiting_for_the_disk_holds_no_thread() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(EmbeddedSettings::new(directory.path())).unwrap();
    let store = Arc::new(store);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..100 {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                assert!(matches!(store.increment("counter", 1), Reply::Ready(_)));
                let position = store.position();
                assert!(position.0 > task);
                store.durable(position).await.unwrap();
                assert!(store.durable_position() >= position);
            });
        }
        tasks.join_all().await;
    });
    // A position that was never written is not waited for.
    runtime
        .block_on(store.durable(penstock_kv::Position(u64::MAX)))
        .unwrap();
}

/// A read of an entry that is still on its way to the disk returns the newest value, in every order of commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_follow_writes_through_commits() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(EmbeddedSettings::new(directory.path())).unwrap();
    let store = Arc::new(store);
    let until = std::time::Instant::now() + Duration::from_millis(700);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let name = format!("counter/{task}");
            let mut count = 0;
            while std::time::Instant::now() < until {
                count += 1;
                assert_eq!(store.increment(&name, 1).await.unwrap(), count);
                let read = store.get(&name).await.unwrap().unwrap();
                assert_eq!(i64::from_le_bytes(read.try_into().unwrap()), count);
                if count % 1000 == 0 {
                    // Gives the overlay a chance to be emptied under the reads.
                    store.durable(store.position()).await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
}
