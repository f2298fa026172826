//! Calls, ends, times and a store with operations, which the tests of operations share.

#![allow(dead_code)]

use penstock_core::kv::run_ready;
use penstock_core::{Caller, Kv, OperationId};
use penstock_policy::operations::words::{
    Abandoned, Claim, End, Operation, OperationState, Renewal, Run, Submission,
};
use penstock_policy::operations::{Acceptance, Operations, OperationsSettings};
use penstock_testkit::MemoryKv;

/// A time in the middle of an hour.
pub const NOW_MS: u64 = 1_795_262_400_000 + 1_800_000;
pub const HOUR_MS: u64 = 3_600_000;

pub fn caller(tenant: &str) -> Caller {
    Caller {
        tenant: tenant.to_owned(),
        ..Caller::anonymous(Some("192.0.2.1".to_owned()))
    }
}

pub fn submission(tenant: &str, body: &[u8]) -> Submission {
    Submission {
        caller: caller(tenant),
        kind: "predict".to_owned(),
        model: "m".to_owned(),
        version: 3,
        priority: Some(2),
        items: 5,
        method: "POST".to_owned(),
        target: "/v1/models/m:predict?x=1".to_owned(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.to_vec(),
        request_id: "req_1".to_owned(),
        receipt: "receipt".to_owned(),
        retry_of: None,
        webhook: None,
    }
}

pub fn end(state: OperationState, body: &[u8]) -> End {
    let succeeded = state == OperationState::Succeeded;
    let text = |text: &str| if succeeded { "" } else { text }.to_owned();
    End {
        state,
        code: text("internal"),
        message: text("it failed"),
        status: if succeeded { 200 } else { 500 },
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body_bytes: 0,
        body: Some(body.to_vec()),
    }
}

pub fn success(body: &[u8]) -> End {
    end(OperationState::Succeeded, body)
}

pub const LEASE_MS: u64 = 15_000;
pub const MIB: usize = 1 << 20;

/// Operations over a store in memory.
pub struct World {
    pub kv: MemoryKv,
    pub policy: Operations,
    pub random: u128,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut OperationsSettings)) -> Self {
        let mut settings = OperationsSettings::default();
        change(&mut settings);
        assert!(settings.faults().is_empty());
        Self {
            kv: MemoryKv::default(),
            policy: Operations::new(settings),
            random: 0,
        }
    }

    pub fn try_accept(&mut self, submission: Submission, now_ms: u64) -> Acceptance {
        self.random += 1;
        run_ready((self.policy).accept(&self.kv, submission, now_ms, self.random)).unwrap()
    }

    pub fn accept(&mut self, submission: Submission, now_ms: u64) -> OperationId {
        match self.try_accept(submission, now_ms) {
            Acceptance::Accepted(accepted) => accepted.operation.id,
            Acceptance::Full(message) => panic!("{message}"),
        }
    }

    pub fn new_one(&mut self) -> OperationId {
        self.accept(submission("t", b"body"), NOW_MS)
    }

    pub fn claim(&mut self, id: &OperationId, holder: &str, now_ms: u64) -> Claim {
        self.claim_after(id, holder, 0, now_ms)
    }

    pub fn claim_after(
        &mut self,
        id: &OperationId,
        holder: &str,
        dead_ms: u64,
        now_ms: u64,
    ) -> Claim {
        run_ready((self.policy).claim(&self.kv, id, holder, dead_ms, now_ms)).unwrap()
    }

    pub fn run(&mut self, id: &OperationId, holder: &str, now_ms: u64) -> Run {
        match self.claim(id, holder, now_ms) {
            Claim::Granted(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    pub fn complete(&self, id: &OperationId, run: &Run, end: End, now_ms: u64) -> bool {
        let of = (run.epoch, run.attempt);
        run_ready(self.policy.complete(&self.kv, id, of, end, now_ms)).unwrap()
    }

    pub fn give_back(&self, id: &OperationId, run: &Run, now_ms: u64) -> u64 {
        let (of, error) = (
            (run.epoch, run.attempt),
            ("overloaded".into(), "full".into()),
        );
        run_ready((self.policy).give_back(&self.kv, id, of, error, (now_ms, 7))).unwrap()
    }

    pub fn renew(&self, id: &OperationId, holder: &str, now_ms: u64) -> Renewal {
        run_ready(self.policy.renew(&self.kv, id, holder, now_ms)).unwrap()
    }

    pub fn abandon(
        &self,
        id: &OperationId,
        holder: &str,
        why: Abandoned,
        now_ms: u64,
    ) -> Option<u64> {
        run_ready((self.policy).abandon(&self.kv, id, holder, why, (now_ms, 7))).unwrap()
    }

    pub fn find(&self, id: &OperationId, now_ms: u64) -> Option<Operation> {
        run_ready(self.policy.get(&self.kv, id, Some("t"), true, now_ms)).unwrap()
    }

    pub fn get(&self, id: &OperationId, now_ms: u64) -> Operation {
        self.find(id, now_ms).expect("it is there")
    }

    pub fn state(&self, id: &OperationId, now_ms: u64) -> OperationState {
        self.get(id, now_ms).state
    }

    pub fn cancel(&mut self, id: &OperationId, now_ms: u64) -> (OperationState, String) {
        let cancelled = run_ready(self.policy.cancel(&self.kv, id, "t", now_ms)).unwrap();
        let cancelled = cancelled.expect("it is there");
        (cancelled.operation.state, cancelled.receipt)
    }

    pub fn delete(&self, id: &OperationId, now_ms: u64) -> Option<Operation> {
        run_ready(self.policy.delete(&self.kv, id, "t", now_ms)).unwrap()
    }

    /// Accepts, runs and ends an operation.
    pub fn ended(&mut self, now_ms: u64) -> OperationId {
        let id = self.accept(submission("t", b"body"), now_ms);
        let run = self.run(&id, "w", now_ms);
        assert!(self.complete(&id, &run, success(b"result"), now_ms));
        id
    }

    /// All pages of a tenant's list.
    pub fn pages(&self, most: usize, now_ms: u64) -> Vec<Vec<OperationId>> {
        let (mut pages, mut start) = (Vec::new(), None);
        loop {
            let listed = self.policy.list(&self.kv, "t", start, most, now_ms);
            let listing = run_ready(listed).unwrap();
            pages.push(
                listing
                    .operations
                    .into_iter()
                    .map(|found| found.id)
                    .collect(),
            );
            start = listing.next;
            if start.is_none() {
                return pages;
            }
            assert!(pages.len() < 1_000, "the list has no end");
        }
    }

    /// The sum of the counters of all tenants but `other`.
    pub fn used(&self) -> i64 {
        let other = &blake3::hash(b"other").to_hex()[..32];
        let names = self.kv.names();
        let of_tenants = names
            .iter()
            .filter(|name| name.starts_with("ou/") && !name.contains(other));
        of_tenants
            .map(|name| run_ready(self.kv.increment(name, 0)).unwrap())
            .sum()
    }

    /// Accepts calls of another tenant, by instances that have just started.
    pub fn sweep(&mut self, now_ms: u64) {
        for _ in 0..400 {
            self.policy = Operations::new(self.policy.settings().clone());
            self.accept(submission("other", b""), now_ms);
        }
    }
}
