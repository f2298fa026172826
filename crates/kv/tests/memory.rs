//! The store in memory: the suite, and its bounds.

use penstock_kv::memory::ENTRY_OVERHEAD_BYTES;
use penstock_kv::{MemorySettings, MemoryStore, Reply, Store, StoreError, Swap};
use penstock_testkit::kv_suite::Subject;
use penstock_testkit::{FaultyStore, faulty_kv::Faults};
use std::sync::Arc;

mod suite {
    use super::*;

    async fn make() -> Subject {
        Subject::strict(MemoryStore::default(), ())
    }

    penstock_testkit::kv_suite!(make);
}

/// The same behind a store that lets others go first at every step.
mod suite_with_dawdling {
    use super::*;

    async fn make() -> Subject {
        let faults = Faults {
            delay: 500,
            ..Faults::default()
        };
        let inner = Arc::new(MemoryStore::default());
        Subject::strict(FaultyStore::new(inner, 1, faults), ())
    }

    penstock_testkit::kv_suite!(make);
}

#[tokio::test]
async fn entries_are_bounded() {
    let store = MemoryStore::new(MemorySettings {
        max_entries: 2,
        ..MemorySettings::default()
    });
    store.set("a", b"").await.unwrap();
    store.increment("b", 1).await.unwrap();
    let full = |answer: Option<StoreError>| matches!(answer, Some(StoreError::Full(_)));
    assert!(full(store.set("c", b"").await.err()));
    assert!(full(store.increment("c", 1).await.err()));
    assert!(full(store.compare_and_swap("c", None, b"").await.err()));
    assert!(!store.exists("c").await.unwrap());
    assert_eq!(store.bytes(), 2 * (1 + ENTRY_OVERHEAD_BYTES) + 8);

    // Existing entries are served.
    assert_eq!(store.increment("b", 1).await.unwrap(), 2);
    store.set("a", b"longer").await.unwrap();
    assert_eq!(store.increment("c", 0).await.unwrap(), 0);
    store.delete("a").await.unwrap();
    store.set("c", b"").await.unwrap();
    assert_eq!(store.entries(), 2);
}

#[tokio::test]
async fn bytes_are_bounded() {
    let store = MemoryStore::new(MemorySettings {
        max_bytes: 2 * ENTRY_OVERHEAD_BYTES + 20,
        ..MemorySettings::default()
    });
    store.set("a", &[0; 10]).await.unwrap();
    let refused = store.set("b", &[0; 9]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    store.set("b", &[0; 8]).await.unwrap();
    assert_eq!(store.bytes(), 2 * ENTRY_OVERHEAD_BYTES + 20);
    let refused = store.set("a", &[0; 11]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    let refused = store.compare_and_swap("a", Some(&[0; 10]), &[0; 11]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    // Nothing of it was applied, and smaller values are welcome.
    assert_eq!(store.get("a").await.unwrap(), Some(vec![0; 10]));
    let swap = store.compare_and_swap("a", Some(&[0; 10]), b"").await;
    assert_eq!(swap.unwrap(), Swap::Swapped);
    store.set("b", &[0; 18]).await.unwrap();
    store.delete("a").await.unwrap();
    store.delete("b").await.unwrap();
    assert_eq!((store.bytes(), store.entries()), (0, 0));
}

/// A request that only counts must not pay for a future.
#[test]
fn answers_are_there_at_once() {
    let store = MemoryStore::default();
    assert!(matches!(store.increment("counter", 1), Reply::Ready(_)));
    assert!(matches!(store.get("counter"), Reply::Ready(_)));
    assert!(matches!(store.durable(store.position()), Reply::Ready(_)));
}

/// The store for tests fails as it says: an error after the fact leaves the fact.
#[tokio::test]
async fn faults_are_what_they_say() {
    let faults = |before, after| Faults {
        before,
        after,
        delay: 0,
    };
    let inner = Arc::new(MemoryStore::default());
    let store = FaultyStore::new(inner.clone(), 7, faults(1000, 0));
    store.increment("counter", 1).await.unwrap_err();
    assert_eq!(inner.increment("counter", 0).await.unwrap(), 0);
    store.set_faults(faults(0, 1000));
    store.increment("counter", 1).await.unwrap_err();
    assert_eq!(inner.increment("counter", 0).await.unwrap(), 1);
    store.set_faults(faults(300, 300));
    let before = store.failures();
    for _ in 0..1000 {
        let _ = store.increment("counter", 1).await;
    }
    let failed = store.failures() - before;
    assert!((400..620).contains(&failed), "{failed} of 1000");
}
