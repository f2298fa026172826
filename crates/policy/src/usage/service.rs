//! Usage as a service: a policy opened from its text, over a store whose operations complete immediately.

use super::Usage;
use super::words::{Amounts, Report, UsageSubject};
use crate::document;
use penstock_core::kv::run_ready;
use penstock_core::{Caller, Kv};
use std::cell::RefCell;

/// The usage counters of a policy.
pub trait UsageService {
    /// Returns whether calls are counted.
    fn enabled(&self) -> bool;
    /// Counts a call after its end.
    fn count(
        &self,
        caller: &Caller,
        model: &str,
        amounts: Amounts,
        now_ms: u64,
        random: u64,
    ) -> Result<(), String>;
    /// Reads a page of the counts from the first to the last of two days.
    fn read(
        &self,
        days: (u64, u64),
        tenant: Option<&str>,
        start: Option<(u64, u64)>,
    ) -> Result<Report, String>;
}

/// Usage over a store, with the memory of one instance.
#[derive(Debug)]
pub struct KvUsage<K> {
    usage: RefCell<Usage>,
    kv: K,
}

impl<K: Kv> KvUsage<K> {
    /// Reads the `[usage]` of a policy file; the error is a sentence for the operator.
    pub fn open(text: &str, kv: K) -> Result<Self, String> {
        Ok(Self {
            usage: RefCell::new(Usage::new(document::usage(text)?)),
            kv,
        })
    }
}

impl<K: Kv> UsageService for KvUsage<K> {
    fn enabled(&self) -> bool {
        self.usage.borrow().settings().enabled
    }

    fn count(
        &self,
        caller: &Caller,
        model: &str,
        amounts: Amounts,
        now_ms: u64,
        random: u64,
    ) -> Result<(), String> {
        let subject = UsageSubject::new(caller, model);
        let mut usage = self.usage.borrow_mut();
        run_ready(usage.record(&self.kv, &subject, &amounts, now_ms, random)).map_err(|e| e.message)
    }

    fn read(
        &self,
        days: (u64, u64),
        tenant: Option<&str>,
        start: Option<(u64, u64)>,
    ) -> Result<Report, String> {
        let usage = self.usage.borrow();
        run_ready(usage.report(&self.kv, days, tenant, start)).map_err(|e| e.message)
    }
}
