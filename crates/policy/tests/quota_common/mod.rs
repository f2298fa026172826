//! The common parts of the quota tests: documents, callers, and stores that misbehave on purpose.

#![allow(dead_code)]

use penstock_core::{Caller, Kv, KvError};
use penstock_policy::quota::{
    Admission, CallAttributes, Cost, Quota, QuotaDocument, QuotaRefusal, StoreAccess,
};
use penstock_testkit::{Faults, Sim, SimKv};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

/// The time 2026-01-01T00:00:00Z: the beginning of a minute, an hour, a day and a month.
pub const START_MS: u64 = 1_767_225_600_000;

pub const ONE: Cost = Cost {
    requests: 1,
    bytes: 0,
};

pub fn document(text: &str) -> QuotaDocument {
    toml::from_str(text).unwrap_or_else(|e| panic!("{e}"))
}

pub fn quota(text: &str) -> Quota {
    Quota::new(document(text)).unwrap_or_else(|faults| panic!("{faults:?}"))
}

pub fn tenant(name: &str) -> Caller {
    Caller {
        tenant: name.to_owned(),
        api_key_id: Some("main".to_owned()),
        tier: "free".to_owned(),
        ..Caller::anonymous(Some("192.0.2.1".to_owned()))
    }
}

pub fn call(caller: &Caller) -> CallAttributes<'_> {
    CallAttributes {
        caller,
        route: "predict",
        model: Some("m"),
    }
}

/// Runs one caller in a world where nothing fails.
pub fn alone<F: Future<Output = ()> + 'static>(caller: impl FnOnce(Sim) -> F) -> Sim {
    let sim = Sim::new(1, START_MS, Faults::NONE);
    sim.spawn(START_MS, caller(sim.clone()));
    sim.run(|_| {});
    sim
}

/// Asks for one admission now.
pub async fn admit(
    quota: &mut Quota,
    sim: &Sim,
    caller: &Caller,
    cost: Cost,
) -> Result<Admission, QuotaRefusal> {
    let kv = sim.kv();
    let store = StoreAccess::new(&kv, sim.now_ms(), sim.below(u64::MAX));
    quota.admit(store, &call(caller), cost).await
}

/// A store whose swaps always succeed, like SQLite's for two creators of one entry.
#[derive(Clone)]
pub struct LyingSwap(pub SimKv);

/// A store that has no swap.
#[derive(Clone)]
pub struct NoSwap(pub SimKv);

macro_rules! delegate {
    () => {
        async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
            self.0.get(kv_key).await
        }
        async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
            self.0.exists(kv_key).await
        }
        async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
            self.0.set(kv_key, value).await
        }
        async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
            self.0.delete(kv_key).await
        }
        async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
            self.0.increment(kv_key, delta).await
        }
    };
}

impl Kv for LyingSwap {
    type Swap = String;
    delegate!();

    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, String), KvError> {
        Ok((self.0.get(kv_key).await?, kv_key.to_owned()))
    }

    async fn swap(&self, kv_key: String, value: &[u8]) -> Result<bool, KvError> {
        self.0.set(&kv_key, value).await?;
        Ok(true)
    }
}

impl Kv for NoSwap {
    type Swap = ();
    delegate!();

    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, ()), KvError> {
        Ok((self.0.get(kv_key).await?, ()))
    }

    async fn swap(&self, (): (), _: &[u8]) -> Result<bool, KvError> {
        Err(KvError::new("not supported"))
    }
}

/// A value that several callers share.
pub type Shared<T> = Rc<RefCell<T>>;

pub fn shared<T>(value: T) -> Shared<T> {
    Rc::new(RefCell::new(value))
}
