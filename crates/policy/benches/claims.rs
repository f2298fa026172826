//! Measures the idempotent calls per second that the durable store takes, and the limit that the disk sets.
//!
//! Prints a table and asserts nothing. Usage: `cargo bench --package penstock-policy [-- DIRECTORY]`; the
//! directory is on the disk to be measured (without one: the system's temporary directory).

use penstock_core::kv::Many;
use penstock_core::{Kv, KvError};
use penstock_kv::{EmbeddedSettings, EmbeddedStore, Store, StoreError, Swap};
use penstock_policy::idempotency::{
    CallParts, ClaimResult, CompleteResult, Fingerprint, Idempotency, IdempotencyKey,
    IdempotencySettings, Outcome, RecordState, Scope,
};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const EACH: Duration = Duration::from_secs(4);
const CALLERS: u64 = 64;

/// The store as policies see it. They see writes at once; the caller waits for the disk at the end.
#[derive(Clone)]
struct StoreKv(Arc<EmbeddedStore>);

fn failed(error: StoreError) -> KvError {
    KvError::new(error.to_string())
}

impl Kv for StoreKv {
    type Swap = (String, Option<Vec<u8>>);

    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(kv_key).await.map_err(failed)
    }
    async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
        self.0.exists(kv_key).await.map_err(failed)
    }
    async fn read_many(&self, kv_keys: &[String], values: usize) -> Result<Many, KvError> {
        let found = self.0.get_many(kv_keys).await.map_err(failed)?;
        Ok(Many::of(found, values))
    }
    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
        self.0.set(kv_key, value).await.map_err(failed)
    }
    async fn set_many(&self, entries: &[(String, Vec<u8>)]) -> Result<(), KvError> {
        self.0.set_many(entries).await.map_err(failed)
    }
    async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
        self.0.delete(kv_key).await.map_err(failed)
    }
    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
        self.0.increment(kv_key, delta).await.map_err(failed)
    }
    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError> {
        let value = self.get(kv_key).await?;
        Ok((value.clone(), (kv_key.to_owned(), value)))
    }
    async fn swap(&self, (kv_key, was): Self::Swap, value: &[u8]) -> Result<bool, KvError> {
        let swapped = self
            .0
            .compare_and_swap(&kv_key, was.as_deref(), value)
            .await;
        Ok(swapped.map_err(failed)? == Swap::Swapped)
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as u64)
}

/// Calls of one caller until the time is over: claimed and, if `completed`, recorded, each waiting until
/// what it did is durable. How many.
async fn caller(number: u64, store: Arc<EmbeddedStore>, completed: bool, end: Instant) -> u64 {
    let kv = StoreKv(store.clone());
    let mut policy = Idempotency::new(IdempotencySettings::default());
    let mut count = 0;
    while Instant::now() < end {
        let key = format!("{completed}-{number}-{count}");
        let call = CallParts {
            tenant: "bench",
            method: "POST",
            call_name: "predict identity",
            query: "",
            content_type: "application/json",
            body: b"{}",
        };
        let key = IdempotencyKey::parse(key.as_bytes()).expect("a key");
        let (scope, print) = (Scope::of(&call, &key), Fingerprint::of(&call));
        let Ok(RecordState::Free(slot)) = policy.look_up(&kv, &scope, &print, unix_ms()).await
        else {
            panic!("a new key is free");
        };
        let random = number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(count);
        let claimed = policy
            .claim(&kv, &scope, &print, &slot, unix_ms(), random)
            .await;
        let Ok(ClaimResult::Granted(lease)) = claimed else {
            panic!("nobody else wants it");
        };
        if completed {
            let body = [b'x'; 400];
            let outcome = Outcome::of(print, unix_ms(), 200, [], &body, 1 << 20);
            let published = policy
                .complete(&kv, &scope, &lease, &outcome, unix_ms())
                .await;
            assert_eq!(published, Ok(CompleteResult::Published));
        }
        store
            .durable(store.position())
            .await
            .expect("the disk is there");
        count += 1;
    }
    count
}

fn syncs_a_second(folder: &Path) -> f64 {
    let mut file = tempfile::tempfile_in(folder).expect("a file");
    let (started, mut count) = (Instant::now(), 0.0);
    while started.elapsed() < EACH / 2 {
        file.write_all(&[0; 4096]).expect("room");
        file.sync_data().expect("a disk");
        count += 1.0;
    }
    count / started.elapsed().as_secs_f64()
}

fn main() {
    let named = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let folder = named.map_or_else(std::env::temp_dir, Into::into);
    std::fs::create_dir_all(&folder).expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let syncs = syncs_a_second(&folder);
    println!(
        "{:<58} {syncs:>10.0} a second",
        "append and sync, one after the other"
    );
    for (what, completed) in [
        ("durable claims, 64 callers", false),
        ("durable claims with their outcomes, 64 callers", true),
    ] {
        let place = tempfile::tempdir_in(&folder).expect("a folder");
        let store = EmbeddedStore::open(EmbeddedSettings::new(place.path().join("store")));
        let store = Arc::new(store.expect("a store"));
        let (started, end) = (Instant::now(), Instant::now() + EACH);
        let count: u64 = runtime.block_on(async {
            let callers: Vec<_> = (0..CALLERS)
                .map(|number| {
                    let store = store.clone();
                    // Policies are not Send: each caller has a thread's worth of its own.
                    tokio::task::spawn_blocking(move || {
                        tokio::runtime::Handle::current()
                            .block_on(caller(number, store, completed, end))
                    })
                })
                .collect();
            let mut count = 0;
            for caller in callers {
                count += caller.await.expect("no caller panics");
            }
            count
        });
        let rate = count as f64 / started.elapsed().as_secs_f64();
        println!(
            "{what:<58} {rate:>10.0} a second  {:.0} for each sync",
            rate / syncs
        );
    }
}
