//! Operations on a store in memory, at explicit times: the view of callers and of workers, the bounds, and the sweep.

use crate::operations_common;

use operations_common::*;
use penstock_core::kv::run_ready;
use penstock_core::{Kv, KvError, OperationId};
use penstock_policy::operations::words::{
    Abandoned, Claim, End, Operation, OperationState, Renewal, Run, Submission,
};
use penstock_policy::operations::{Acceptance, Operations, OperationsSettings};
use penstock_testkit::MemoryKv;
use std::cell::{Cell, RefCell};

const LEASE_MS: u64 = 15_000;
const MIB: usize = 1 << 20;

struct World {
    kv: MemoryKv,
    policy: Operations,
    random: u128,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut OperationsSettings)) -> Self {
        let mut settings = OperationsSettings::default();
        change(&mut settings);
        assert!(settings.faults().is_empty());
        Self {
            kv: MemoryKv::default(),
            policy: Operations::new(settings),
            random: 0,
        }
    }

    fn try_accept(&mut self, submission: Submission, now_ms: u64) -> Acceptance {
        self.random += 1;
        run_ready((self.policy).accept(&self.kv, submission, now_ms, self.random)).unwrap()
    }

    fn accept(&mut self, submission: Submission, now_ms: u64) -> OperationId {
        match self.try_accept(submission, now_ms) {
            Acceptance::Accepted(accepted) => accepted.operation.id,
            Acceptance::Full(message) => panic!("{message}"),
        }
    }

    fn new_one(&mut self) -> OperationId {
        self.accept(submission("t", b"body"), NOW_MS)
    }

    fn claim(&mut self, id: &OperationId, holder: &str, now_ms: u64) -> Claim {
        self.claim_after(id, holder, 0, now_ms)
    }

    fn claim_after(&mut self, id: &OperationId, holder: &str, dead_ms: u64, now_ms: u64) -> Claim {
        run_ready((self.policy).claim(&self.kv, id, holder, dead_ms, now_ms)).unwrap()
    }

    fn run(&mut self, id: &OperationId, holder: &str, now_ms: u64) -> Run {
        match self.claim(id, holder, now_ms) {
            Claim::Granted(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    fn complete(&self, id: &OperationId, run: &Run, end: End, now_ms: u64) -> bool {
        let of = (run.epoch, run.attempt);
        run_ready(self.policy.complete(&self.kv, id, of, end, now_ms)).unwrap()
    }

    fn give_back(&self, id: &OperationId, run: &Run, now_ms: u64) -> u64 {
        let (of, error) = (
            (run.epoch, run.attempt),
            ("overloaded".into(), "full".into()),
        );
        run_ready((self.policy).give_back(&self.kv, id, of, error, (now_ms, 7))).unwrap()
    }

    fn renew(&self, id: &OperationId, holder: &str, now_ms: u64) -> Renewal {
        run_ready(self.policy.renew(&self.kv, id, holder, now_ms)).unwrap()
    }

    fn abandon(&self, id: &OperationId, holder: &str, why: Abandoned, now_ms: u64) -> Option<u64> {
        run_ready((self.policy).abandon(&self.kv, id, holder, why, (now_ms, 7))).unwrap()
    }

    fn find(&self, id: &OperationId, now_ms: u64) -> Option<Operation> {
        run_ready(self.policy.get(&self.kv, id, Some("t"), true, now_ms)).unwrap()
    }

    fn get(&self, id: &OperationId, now_ms: u64) -> Operation {
        self.find(id, now_ms).expect("it is there")
    }

    fn state(&self, id: &OperationId, now_ms: u64) -> OperationState {
        self.get(id, now_ms).state
    }

    fn cancel(&mut self, id: &OperationId, now_ms: u64) -> (OperationState, String) {
        let cancelled = run_ready(self.policy.cancel(&self.kv, id, "t", now_ms)).unwrap();
        let cancelled = cancelled.expect("it is there");
        (cancelled.operation.state, cancelled.receipt)
    }

    fn delete(&self, id: &OperationId, now_ms: u64) -> Option<Operation> {
        run_ready(self.policy.delete(&self.kv, id, "t", now_ms)).unwrap()
    }

    /// Accepts, runs and ends an operation.
    fn ended(&mut self, now_ms: u64) -> OperationId {
        let id = self.accept(submission("t", b"body"), now_ms);
        let run = self.run(&id, "w", now_ms);
        assert!(self.complete(&id, &run, success(b"result"), now_ms));
        id
    }

    /// All pages of a tenant's list.
    fn pages(&self, most: usize, now_ms: u64) -> Vec<Vec<OperationId>> {
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
    fn used(&self) -> i64 {
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
    fn sweep(&mut self, now_ms: u64) {
        for _ in 0..400 {
            self.policy = Operations::new(self.policy.settings().clone());
            self.accept(submission("other", b""), now_ms);
        }
    }
}

#[test]
fn an_accepted_call_is_run_once_and_its_result_is_read_back() {
    let mut world = World::new();
    let id = world.new_one();
    let queued = world.get(&id, NOW_MS);
    assert_eq!(queued.state, OperationState::Queued);
    assert_eq!(
        (queued.created_ms, queued.attempts, queued.items),
        (NOW_MS, 0, 5)
    );
    assert_eq!((queued.tenant.as_str(), queued.version), ("t", 3));
    let run = world.run(&id, "w1", NOW_MS + 5);
    assert_eq!((run.epoch, run.attempt, run.max_attempts), (1, 1, 3));
    let mut accepted = submission("t", b"body");
    accepted.caller.address = None;
    assert_eq!(run.submission, accepted, "everything but the address");
    let claim = world.claim(&id, "w2", NOW_MS + 6);
    assert_eq!(claim, Claim::Later(NOW_MS + 5 + LEASE_MS));
    let running = world.get(&id, NOW_MS + 6);
    assert_eq!(running.state, OperationState::Running);
    assert_eq!(
        (running.started_ms, running.attempts),
        (Some(NOW_MS + 5), 1)
    );
    assert!(world.complete(&id, &run, success(b"[1]"), NOW_MS + 9));
    let found = world.get(&id, NOW_MS + 10);
    assert_eq!(found.state, OperationState::Succeeded);
    assert_eq!(
        (found.started_ms, found.ended_ms),
        (Some(NOW_MS + 5), Some(NOW_MS + 9))
    );
    assert_eq!(found.expires_ms, Some(NOW_MS + 9 + 86_400_000));
    let kept = found.end.unwrap();
    assert_eq!((kept.status, kept.body_bytes), (200, 3));
    assert_eq!(kept.body.as_deref(), Some(&b"[1]"[..]));
    assert_eq!(kept.headers, success(b"").headers);
    assert_eq!(
        world.claim(&id, "w3", NOW_MS + 11),
        Claim::Ended(String::new())
    );
    let without = run_ready(world.policy.get(&world.kv, &id, None, false, NOW_MS + 11));
    assert_eq!(without.unwrap().unwrap().end.unwrap().body, None);
}

#[test]
fn an_unknown_operation_is_gone_for_each_request() {
    let mut world = World::new();
    let id = OperationId::generate(NOW_MS, 1);
    assert_eq!(world.find(&id, NOW_MS), None);
    assert_eq!(world.claim(&id, "w", NOW_MS), Claim::Gone);
    assert_eq!(world.delete(&id, NOW_MS), None);
    assert_eq!(world.renew(&id, "w", NOW_MS), Renewal::Lost);
    assert_eq!(world.abandon(&id, "w", Abandoned::Crashed, NOW_MS), None);
    assert_eq!(
        run_ready(world.policy.cancel(&world.kv, &id, "t", NOW_MS)),
        Ok(None)
    );
    let late = run_ready((world.policy).complete(&world.kv, &id, (1, 1), success(b""), NOW_MS));
    assert_eq!(late, Ok(false));
    assert!(world.kv.names().is_empty(), "{:?}", world.kv.names());
}

#[test]
fn a_failed_run_is_repeated_after_growing_delays_until_no_attempts_are_left() {
    let mut world = World::new();
    let id = world.new_one();
    let mut now_ms = NOW_MS;
    for (attempt, least_ms) in [(1, 250), (2, 500)] {
        let run = world.run(&id, "w", now_ms);
        assert_eq!((run.epoch, run.attempt), (attempt, attempt));
        let again_ms = world.give_back(&id, &run, now_ms);
        assert!((least_ms..=2 * least_ms).contains(&(again_ms - now_ms)));
        let waiting = world.get(&id, now_ms);
        assert_eq!(waiting.state, OperationState::Queued);
        assert_eq!(
            (waiting.next_attempt_ms, waiting.attempts),
            (Some(again_ms), attempt)
        );
        assert_eq!(world.claim(&id, "w", again_ms - 1), Claim::Later(again_ms));
        now_ms = again_ms;
    }
    let run = world.run(&id, "w", now_ms);
    assert_eq!(run.attempt, run.max_attempts);
    world.give_back(&id, &run, now_ms);
    assert_eq!(world.claim(&id, "w", now_ms), Claim::Ended(String::new()));
    let failed = world.get(&id, now_ms);
    assert_eq!((failed.state, failed.attempts), (OperationState::Failed, 3));
    let end = failed.end.unwrap();
    assert_eq!(
        (end.code.as_str(), end.message.as_str()),
        ("overloaded", "full")
    );
    assert!(end.status >= 400, "{}", end.status);
}

#[test]
fn a_worker_that_renews_keeps_its_lease_and_one_that_does_not_loses_it() {
    let mut world = World::new();
    let id = world.new_one();
    let slow = world.run(&id, "slow", NOW_MS);
    let mut now_ms = NOW_MS;
    for _ in 0..5 {
        now_ms += LEASE_MS - 1;
        assert_eq!(world.renew(&id, "slow", now_ms), Renewal::Renewed);
        assert_eq!(world.renew(&id, "other", now_ms), Renewal::Lost);
        assert_eq!(
            world.claim(&id, "other", now_ms),
            Claim::Later(now_ms + LEASE_MS)
        );
    }
    now_ms += LEASE_MS;
    let other = world.run(&id, "other", now_ms);
    assert_eq!((other.epoch, other.attempt), (2, 2));
    assert_eq!(world.renew(&id, "slow", now_ms), Renewal::Lost);
    assert!(!world.complete(&id, &slow, success(b"late"), now_ms));
    assert_eq!(world.state(&id, now_ms), OperationState::Running);
    assert!(world.complete(&id, &other, success(b"kept"), now_ms));
    assert!(!world.complete(&id, &slow, success(b"later"), now_ms));
    let end = world.get(&id, now_ms).end.unwrap();
    assert_eq!(end.body.as_deref(), Some(&b"kept"[..]));
}

#[test]
fn a_worker_that_completes_before_it_is_replaced_counts_however_late_it_is() {
    let mut world = World::new();
    let id = world.new_one();
    let slow = world.run(&id, "slow", NOW_MS);
    let later_ms = NOW_MS + 2 * LEASE_MS;
    assert!(world.complete(&id, &slow, success(b"kept"), later_ms));
    assert_eq!(
        world.claim(&id, "other", later_ms),
        Claim::Ended(String::new())
    );
    assert_eq!(world.get(&id, later_ms).end.unwrap().body.unwrap(), b"kept");
}

#[test]
fn a_dead_worker_is_replaced_when_its_lease_ends_or_at_once_if_its_death_is_known() {
    let mut world = World::new();
    let id = world.new_one();
    world.run(&id, "dead", NOW_MS);
    let claim = world.claim(&id, "w", NOW_MS + LEASE_MS - 1);
    assert_eq!(claim, Claim::Later(NOW_MS + LEASE_MS));
    assert_eq!(world.run(&id, "w", NOW_MS + LEASE_MS).epoch, 2);

    let id = world.new_one();
    world.run(&id, "dead", NOW_MS);
    let claim = world.claim_after(&id, "w", NOW_MS, NOW_MS + 1);
    assert_eq!(
        claim,
        Claim::Later(NOW_MS + LEASE_MS),
        "it may be of this process"
    );
    let claim = world.claim_after(&id, "w", NOW_MS + 1, NOW_MS + 1);
    assert!(matches!(claim, Claim::Granted(run) if (run.epoch, run.attempt) == (2, 2)));
}

#[test]
fn an_operation_whose_workers_all_die_fails() {
    let mut world = World::new();
    let id = world.new_one();
    for attempt in 0..3 {
        world.run(&id, "dead", NOW_MS + attempt * LEASE_MS);
    }
    let now_ms = NOW_MS + 3 * LEASE_MS;
    assert_eq!(world.state(&id, now_ms - 1), OperationState::Running);
    assert_eq!(world.claim(&id, "w", now_ms), Claim::Ended(String::new()));
    let failed = world.get(&id, now_ms);
    assert_eq!((failed.state, failed.attempts), (OperationState::Failed, 3));
    let end = failed.end.unwrap();
    assert_eq!((end.code.as_str(), end.status), ("internal", 500));
    assert!(
        end.message.contains("stopped before it ended"),
        "{}",
        end.message
    );
}

#[test]
fn a_cancelled_operation_that_did_not_run_returns_its_receipt_once() {
    let mut world = World::new();
    let id = world.new_one();
    assert_eq!(
        world.cancel(&id, NOW_MS),
        (OperationState::Cancelled, "receipt".to_owned())
    );
    assert_eq!(
        world.cancel(&id, NOW_MS),
        (OperationState::Cancelled, String::new())
    );
    assert_eq!(world.claim(&id, "w", NOW_MS), Claim::Ended(String::new()));
    let found = world.get(&id, NOW_MS);
    assert!(found.cancel_requested);
    assert_eq!((found.attempts, found.started_ms), (0, None));
    assert_eq!(found.end.unwrap().status, 499);
}

#[test]
fn a_cancelled_run_is_interrupted_by_its_worker_and_returns_no_receipt() {
    let mut world = World::new();
    let id = world.new_one();
    let run = world.run(&id, "w", NOW_MS);
    assert_eq!(
        world.cancel(&id, NOW_MS),
        (OperationState::Running, String::new())
    );
    assert!(world.get(&id, NOW_MS).cancel_requested);
    assert_eq!(world.renew(&id, "w", NOW_MS), Renewal::Cancelled);
    assert_eq!(world.abandon(&id, "w", Abandoned::Cancelled, NOW_MS), None);
    assert_eq!(world.state(&id, NOW_MS), OperationState::Cancelled);
    assert!(!world.complete(&id, &run, success(b"late"), NOW_MS));
    assert_eq!(world.state(&id, NOW_MS), OperationState::Cancelled);

    // A run that ends before it is interrupted: a success stays one, a failure is that of the cancelling.
    for (state, seen) in [
        (OperationState::Succeeded, OperationState::Succeeded),
        (OperationState::Failed, OperationState::Cancelled),
    ] {
        let id = world.new_one();
        let run = world.run(&id, "w", NOW_MS);
        world.cancel(&id, NOW_MS);
        assert!(world.complete(&id, &run, end(state, b"x"), NOW_MS));
        assert_eq!(world.state(&id, NOW_MS), seen);
    }

    // The worker of a cancelled run died, or gave it back.
    for gives_back in [false, true] {
        let id = world.new_one();
        let run = world.run(&id, "w", NOW_MS);
        world.cancel(&id, NOW_MS);
        if gives_back {
            world.give_back(&id, &run, NOW_MS);
        }
        let now_ms = NOW_MS + if gives_back { 0 } else { LEASE_MS };
        assert_eq!(world.claim(&id, "w", now_ms), Claim::Ended(String::new()));
        assert_eq!(world.state(&id, now_ms), OperationState::Cancelled);
    }
}

#[test]
fn cancelling_a_finished_operation_changes_nothing() {
    let mut world = World::new();
    let id = world.ended(NOW_MS);
    let before = world.get(&id, NOW_MS);
    assert_eq!(
        world.cancel(&id, NOW_MS),
        (OperationState::Succeeded, String::new())
    );
    assert_eq!(world.get(&id, NOW_MS), before);
}

#[test]
fn a_running_operation_is_not_deleted_and_a_finished_one_is_gone_with_its_bytes() {
    let mut world = World::new();
    let id = world.new_one();
    assert_eq!(
        world.delete(&id, NOW_MS).unwrap().state,
        OperationState::Queued
    );
    let run = world.run(&id, "w", NOW_MS);
    assert_eq!(
        world.delete(&id, NOW_MS).unwrap().state,
        OperationState::Running
    );
    assert!(world.complete(&id, &run, success(&[7; 3 * MIB]), NOW_MS));
    assert_eq!(world.used(), (1 << 40) + 4 + 3 * MIB as i64);
    let deleted = world.delete(&id, NOW_MS).unwrap();
    assert_eq!(deleted.state, OperationState::Succeeded);
    assert_eq!(world.find(&id, NOW_MS), None);
    assert_eq!(world.delete(&id, NOW_MS), None);
    assert_eq!(world.claim(&id, "w", NOW_MS), Claim::Gone);
    assert_eq!(world.used(), 0);
    let large = |name: &&String| name.contains("/b") || name.contains("/t");
    let names = world.kv.names();
    assert_eq!(names.iter().find(large), None);
    assert_eq!(world.pages(10, NOW_MS), [[]], "it is not listed");
}

#[test]
fn another_tenant_sees_and_changes_nothing() {
    let mut world = World::new();
    let id = world.ended(NOW_MS);
    let kv = world.kv.clone();
    let other = Some("other");
    assert_eq!(
        run_ready(world.policy.get(&kv, &id, other, true, NOW_MS)),
        Ok(None)
    );
    assert_eq!(
        run_ready(world.policy.cancel(&kv, &id, "other", NOW_MS)),
        Ok(None)
    );
    assert_eq!(
        run_ready(world.policy.delete(&kv, &id, "other", NOW_MS)),
        Ok(None)
    );
    let listed = run_ready(world.policy.list(&kv, "other", None, 10, NOW_MS)).unwrap();
    assert!(listed.operations.is_empty());
    assert_eq!(world.state(&id, NOW_MS), OperationState::Succeeded);
    let host = run_ready(world.policy.get(&kv, &id, None, true, NOW_MS)).unwrap();
    assert!(host.is_some(), "the host sees all");
}

#[test]
fn operations_are_listed_newest_first_in_pages_of_any_size_over_many_hours() {
    let mut world = World::with(|settings| {
        settings.result_ttl_s = 7 * 86_400;
        settings.max_queue_time_s = 7 * 86_400;
    });
    let mut made = Vec::new();
    for hours in [0, 0, 0, 1, 5, 5, 70, 71, 71, 71, 140] {
        let at_ms = NOW_MS + hours * HOUR_MS;
        made.push(world.accept(submission("t", b""), at_ms));
        world.accept(submission("other", b""), at_ms);
    }
    made.reverse();
    let now_ms = NOW_MS + 140 * HOUR_MS;
    for most in [1, 2, 3, 4, 10, 11, 100] {
        let pages = world.pages(most, now_ms);
        assert!(pages.iter().all(|page| page.len() <= most));
        assert_eq!(pages.concat(), made, "pages of {most}");
    }
    // A page after a deletion goes on where the page before it ended.
    let page = |start| run_ready((world.policy).list(&world.kv, "t", start, 3, now_ms)).unwrap();
    let first = page(None);
    assert_eq!(
        first.operations.len(),
        1,
        "the others are more than a page of hours away"
    );
    let second = page(first.next);
    let third = &made[4];
    let run = world.run(third, "w", now_ms);
    assert!(world.complete(third, &run, success(b""), now_ms));
    world.delete(third, now_ms);
    let (mut rest, mut start) = (Vec::new(), second.next);
    while start.is_some() {
        let listed = (world.policy).list(&world.kv, "t", start, 2, now_ms);
        let listing = run_ready(listed).unwrap();
        rest.extend(listing.operations.into_iter().map(|found| found.id));
        start = listing.next;
    }
    assert_eq!(rest, made[5..]);
    // Places that no page named.
    for start in [(0, 0), (u64::MAX, u64::MAX), (now_ms / HOUR_MS, u64::MAX)] {
        let listed = (world.policy).list(&world.kv, "t", Some(start), 1_000, now_ms);
        assert!(run_ready(listed).unwrap().operations.len() < made.len());
    }
}

#[test]
fn a_result_expires_after_its_time_to_live() {
    let mut world = World::with(|settings| settings.result_ttl_s = 60);
    let id = world.ended(NOW_MS);
    assert!(world.find(&id, NOW_MS + 59_999).is_some());
    assert_eq!(world.find(&id, NOW_MS + 60_000), None);
    assert_eq!(world.delete(&id, NOW_MS + 60_000), None);
    assert_eq!(world.pages(10, NOW_MS + 60_000), [[]]);
    // It lives from its end on, not from its beginning.
    let id = world.new_one();
    let later_ms = NOW_MS + 20 * HOUR_MS;
    let run = world.run(&id, "w", later_ms);
    assert!(world.complete(&id, &run, success(b"x"), later_ms));
    assert!(world.find(&id, later_ms + 59_999).is_some());
}

#[test]
fn a_tenant_stores_no_more_operations_than_its_limit_until_some_are_deleted_or_swept() {
    let mut world = World::with(|settings| {
        settings.max_per_tenant = 3;
        settings.result_ttl_s = 60;
        settings.max_queue_time_s = 60;
    });
    let ids: Vec<OperationId> = (0..3).map(|_| world.ended(NOW_MS)).collect();
    let Acceptance::Full(message) = world.try_accept(submission("t", b"body"), NOW_MS) else {
        panic!("three are enough");
    };
    assert!(
        message.contains("3 operations") && message.contains("delete"),
        "{message}"
    );
    world.accept(submission("other", b"body"), NOW_MS);
    world.delete(&ids[1], NOW_MS);
    world.new_one();
    assert!(matches!(
        world.try_accept(submission("t", b""), NOW_MS),
        Acceptance::Full(_)
    ));
    // Nobody else calls. The tenant's own calls, which are refused, make room once its operations have expired.
    let soon_ms = NOW_MS + 1_000;
    for _ in 0..200 {
        let refused = world.try_accept(submission("t", b""), soon_ms);
        assert!(
            matches!(refused, Acceptance::Full(_)),
            "they have not expired"
        );
    }
    let later_ms = NOW_MS + 30 * HOUR_MS;
    let accepted = |world: &mut World| {
        let accepted = world.try_accept(submission("t", b"body"), later_ms);
        matches!(accepted, Acceptance::Accepted(_))
    };
    assert!(
        (0..200).any(|_| accepted(&mut world)),
        "it stays full for ever"
    );
}

#[test]
fn a_tenant_stores_no_more_bytes_than_its_limit_requests_and_results_together() {
    let mut world = World::with(|settings| settings.max_bytes_per_tenant = 1_000);
    let refused = |world: &mut World, bytes: usize| {
        matches!(
            world.try_accept(submission("t", &vec![0; bytes]), NOW_MS),
            Acceptance::Full(_)
        )
    };
    assert!(refused(&mut world, 1_001));
    let id = world.accept(submission("t", &[0; 400]), NOW_MS);
    assert!(refused(&mut world, 601));
    let run = world.run(&id, "w", NOW_MS);
    assert!(world.complete(&id, &run, success(&[0; 300]), NOW_MS));
    assert!(refused(&mut world, 301));
    assert!(!refused(&mut world, 300));
    assert!(refused(&mut world, 1));
    world.delete(&id, NOW_MS);
    assert!(!refused(&mut world, 700));
}

#[test]
fn a_counter_that_lost_what_was_never_counted_does_not_lock_its_tenant_out() {
    for lost in [-1, -100, -(1 << 40), -(5 << 40) - 700, -(1 << 37)] {
        let mut world = World::new();
        world.new_one();
        let names = world.kv.names();
        let name = names.iter().find(|name| name.starts_with("ou/")).unwrap();
        run_ready(world.kv.increment(name, lost)).unwrap();
        for _ in 0..3 {
            let accepted = world.try_accept(submission("t", b"body"), NOW_MS);
            assert!(
                matches!(accepted, Acceptance::Accepted(_)),
                "{lost}: {accepted:?}"
            );
        }
    }
}

#[test]
fn bodies_and_results_of_several_parts_read_back_as_they_were() {
    for bytes in [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5] {
        let body: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        let result: Vec<u8> = body.iter().rev().copied().collect();
        let mut world = World::new();
        let id = world.accept(submission("t", &body), NOW_MS);
        let run = world.run(&id, "w", NOW_MS);
        assert!(run.submission.body == body, "{bytes}");
        assert!(world.complete(&id, &run, success(&result), NOW_MS));
        let end = world.get(&id, NOW_MS).end.unwrap();
        assert_eq!(end.body_bytes, bytes as u64);
        assert!(end.body.unwrap() == result, "{bytes}");
        assert_eq!(world.used(), (1 << 40) + 2 * bytes as i64);
    }
}

/// A call with an idempotency key.
fn keyed(tenant: &str, call: &str) -> Submission {
    Submission {
        retry_of: Some(call.to_owned()),
        ..submission(tenant, b"body")
    }
}

#[test]
fn retries_of_one_call_are_one_operation_also_across_the_hour() {
    let hour_ms = NOW_MS / HOUR_MS * HOUR_MS + HOUR_MS;
    for first_ms in [hour_ms - 1, hour_ms, hour_ms - HOUR_MS] {
        let mut world = World::new();
        let id = world.accept(keyed("t", "call"), first_ms);
        for later_ms in [0, 1, HOUR_MS - 1, HOUR_MS] {
            assert_eq!(
                world.accept(keyed("t", "call"), first_ms + later_ms),
                id,
                "{later_ms}"
            );
        }
        assert_ne!(world.accept(keyed("t", "other call"), first_ms), id);
        assert_ne!(world.accept(keyed("other", "call"), first_ms), id);
        assert_eq!(world.pages(10, first_ms).concat().len(), 2);
        assert_eq!(
            world.used(),
            2 * ((1 << 40) + 4),
            "only operations are counted"
        );
    }
    let mut world = World::new();
    assert_ne!(
        world.new_one(),
        world.new_one(),
        "calls without a key are not retries"
    );
}

#[test]
fn a_retry_is_told_that_its_operation_was_made_before_and_makes_a_new_one_after_a_deletion() {
    let mut world = World::new();
    let accept = |world: &mut World| match world.try_accept(keyed("t", "call"), NOW_MS) {
        Acceptance::Accepted(accepted) => *accepted,
        Acceptance::Full(message) => panic!("{message}"),
    };
    let first = accept(&mut world);
    assert!(first.is_new);
    assert_eq!(first.operation, world.get(&first.operation.id, NOW_MS));
    let id = first.operation.id;
    let run = world.run(&id, "w", NOW_MS);
    let retry = accept(&mut world);
    assert!(!retry.is_new);
    assert_eq!(retry.operation.state, OperationState::Running);
    assert!(world.complete(&id, &run, success(b"x"), NOW_MS));
    world.delete(&id, NOW_MS);
    let again = accept(&mut world);
    assert!(again.is_new);
    assert_ne!(again.operation.id, id);
    assert_eq!(
        world.state(&again.operation.id, NOW_MS),
        OperationState::Queued
    );
    assert_eq!(world.find(&id, NOW_MS), None);
}

#[test]
fn a_run_that_the_host_gave_back_counts_no_attempt_if_it_gives_itself_back_later() {
    let mut world = World::new();
    let id = world.new_one();
    let run = world.run(&id, "w", NOW_MS);
    assert_eq!(
        world.abandon(&id, "w", Abandoned::Stopping, NOW_MS),
        Some(NOW_MS)
    );
    world.give_back(&id, &run, NOW_MS);
    assert_eq!(world.get(&id, NOW_MS).attempts, 0);
    assert_eq!(world.run(&id, "w", NOW_MS).attempt, 1);
}

#[test]
fn a_renewal_just_after_the_end_lets_the_worker_finish_its_answer() {
    let mut world = World::new();
    let id = world.new_one();
    let run = world.run(&id, "w", NOW_MS);
    assert!(world.complete(&id, &run, success(b"x"), NOW_MS));
    assert_eq!(world.renew(&id, "w", NOW_MS), Renewal::Renewed);
    assert_eq!(world.renew(&id, "another", NOW_MS), Renewal::Lost);
}

#[test]
fn an_operation_that_was_accepted_in_several_attempts_is_listed_once() {
    let mut world = World::new();
    let keyed = || Submission {
        retry_of: Some("call".to_owned()),
        ..submission("t", b"body")
    };
    for operations in 0..12 {
        let kv = Interrupted {
            kv: &world.kv,
            before: "",
            act: RefCell::new(None),
            left: Cell::new(operations),
        };
        let mut instance = Operations::new(world.policy.settings().clone());
        let _ = run_ready(instance.accept(&kv, keyed(), NOW_MS, operations.into()));
    }
    let id = world.accept(keyed(), NOW_MS + 1);
    for most in [1, 2, 10] {
        assert_eq!(
            world.pages(most, NOW_MS + 1).concat(),
            std::slice::from_ref(&id)
        );
    }
    let places = |name: &&String| name.starts_with("ol/");
    assert!(
        world.kv.names().iter().filter(places).count() > 1,
        "more than one attempt got that far"
    );
}

#[test]
fn an_operation_that_waits_too_long_for_its_first_run_fails_and_returns_its_receipt() {
    let mut world = World::with(|settings| settings.max_queue_time_s = 10);
    let id = world.new_one();
    let until_ms = NOW_MS + 10_000;
    assert_eq!(
        world.claim(&id, "w", until_ms),
        Claim::Ended("receipt".to_owned())
    );
    assert_eq!(world.claim(&id, "w", until_ms), Claim::Ended(String::new()));
    let failed = world.get(&id, until_ms);
    assert_eq!((failed.state, failed.attempts), (OperationState::Failed, 0));
    let end = failed.end.unwrap();
    assert_eq!(end.code, "deadline_exceeded");
    assert!(end.message.contains("10 seconds"), "{}", end.message);

    let id = world.new_one();
    let run = world.run(&id, "w", until_ms - 1);
    let again_ms = world.give_back(&id, &run, until_ms - 1);
    assert_eq!(world.run(&id, "w", again_ms).attempt, 2, "it began in time");
}

#[test]
fn a_worker_without_a_name_claims_nothing_that_is_to_run() {
    let mut world = World::new();
    let id = world.new_one();
    assert_eq!(world.claim(&id, "", NOW_MS), Claim::Later(NOW_MS));
    assert_eq!(world.run(&id, "w", NOW_MS).epoch, 1);
}

#[test]
fn an_abandoned_run_ends_or_runs_again_by_the_reason() {
    let mut world = World::new();
    let id = world.new_one();
    for _ in 0..5 {
        let run = world.run(&id, "w", NOW_MS);
        assert_eq!(run.attempt, 1, "stops of the host are no attempts");
        let again_ms = world.abandon(&id, "other", Abandoned::TimedOut, NOW_MS);
        assert_eq!(again_ms, Some(NOW_MS + LEASE_MS), "another worker has it");
        let again_ms = world.abandon(&id, "w", Abandoned::Stopping, NOW_MS);
        assert_eq!(again_ms, Some(NOW_MS));
    }

    let id = world.new_one();
    for attempt in 1..3 {
        let now_ms = NOW_MS + u64::from(attempt) * 10_000;
        assert_eq!(world.run(&id, "w", now_ms).attempt, attempt);
        let again_ms = world.abandon(&id, "w", Abandoned::Crashed, now_ms).unwrap();
        assert!(again_ms > now_ms);
        assert_eq!(world.claim(&id, "w", now_ms), Claim::Later(again_ms));
    }
    let now_ms = NOW_MS + 100_000;
    world.run(&id, "w", now_ms);
    assert_eq!(world.abandon(&id, "w", Abandoned::Crashed, now_ms), None);
    let failed = world.get(&id, now_ms);
    assert_eq!((failed.state, failed.attempts), (OperationState::Failed, 3));
    assert!(failed.end.unwrap().message.contains("3 attempts"));

    for (why, state, code) in [
        (
            Abandoned::TimedOut,
            OperationState::Failed,
            "deadline_exceeded",
        ),
        (Abandoned::Cancelled, OperationState::Cancelled, ""),
    ] {
        let id = world.new_one();
        let run = world.run(&id, "w", NOW_MS);
        assert_eq!(world.abandon(&id, "w", why, NOW_MS + 3), None);
        assert!(!world.complete(&id, &run, success(b"late"), NOW_MS + 4));
        let found = world.get(&id, NOW_MS + 5);
        assert_eq!((found.state, found.attempts), (state, 1));
        assert_eq!(
            (found.started_ms, found.ended_ms),
            (Some(NOW_MS), Some(NOW_MS + 3))
        );
        assert_eq!(found.end.unwrap().code, code);
        assert_eq!(world.abandon(&id, "w", why, NOW_MS + 6), None);
    }
}

#[test]
fn a_run_that_ended_before_it_was_abandoned_keeps_its_end() {
    for why in [
        Abandoned::Stopping,
        Abandoned::Crashed,
        Abandoned::TimedOut,
        Abandoned::Cancelled,
    ] {
        let mut world = World::new();
        let id = world.new_one();
        let run = world.run(&id, "w", NOW_MS);
        assert!(world.complete(&id, &run, success(b"kept"), NOW_MS));
        assert_eq!(world.abandon(&id, "w", why, NOW_MS), None);
        assert_eq!(world.get(&id, NOW_MS).end.unwrap().body.unwrap(), b"kept");
    }
}

#[test]
fn an_operation_that_never_comes_to_run_ends_after_its_last_epoch() {
    let mut world = World::new();
    let id = world.new_one();
    for turn in 0..100 {
        match world.claim(&id, "w", NOW_MS) {
            Claim::Granted(_) => {
                assert!(turn < 64);
                world.abandon(&id, "w", Abandoned::Stopping, NOW_MS);
            }
            Claim::Ended(receipt) => {
                assert_eq!(receipt, "", "a run began");
                assert_eq!(world.state(&id, NOW_MS), OperationState::Failed);
                assert_eq!(world.get(&id, NOW_MS).end.unwrap().code, "internal");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("it does not end");
}

#[test]
fn after_its_time_to_live_the_store_holds_no_entry_of_an_operation() {
    let mut world = World::with(|settings| {
        settings.result_ttl_s = 3_600;
        settings.max_queue_time_s = 3_600;
    });
    // One in each state.
    let body = vec![1; 2 * MIB + 1];
    for _ in 0..3 {
        world.new_one();
        world.accept(submission("t", &body), NOW_MS);
        let id = world.ended(NOW_MS);
        world.delete(&id, NOW_MS);
        world.ended(NOW_MS);
        let id = world.new_one();
        world.cancel(&id, NOW_MS);
        let id = world.new_one();
        let run = world.run(&id, "w", NOW_MS);
        world.give_back(&id, &run, NOW_MS);
        let id = world.new_one();
        world.run(&id, "w", NOW_MS);
        world.abandon(&id, "w", Abandoned::TimedOut, NOW_MS);
        // Replaced, and both store a result.
        let id = world.new_one();
        let late = world.run(&id, "w", NOW_MS);
        let run = world.run(&id, "w2", NOW_MS + LEASE_MS);
        assert!(world.complete(&id, &run, success(&body), NOW_MS + LEASE_MS));
        assert!(!world.complete(&id, &late, success(&body), NOW_MS + LEASE_MS));
        // Deleted while a replaced worker still runs.
        let id = world.new_one();
        let late = world.run(&id, "w", NOW_MS);
        let run = world.run(&id, "w2", NOW_MS + LEASE_MS);
        assert!(world.complete(&id, &run, success(b"x"), NOW_MS + LEASE_MS));
        world.delete(&id, NOW_MS + LEASE_MS);
        assert!(!world.complete(&id, &late, success(&body), NOW_MS + LEASE_MS));
        let id = world.accept(
            Submission {
                retry_of: Some(format!("call {}", world.random)),
                ..submission("t", b"body")
            },
            NOW_MS,
        );
        world.run(&id, "w", NOW_MS);
    }
    let hour = NOW_MS / HOUR_MS;
    let old = |world: &World| -> Vec<String> {
        let of_then = |name: &String| name.split('/').any(|field| field == hour.to_string());
        world.kv.names().into_iter().filter(of_then).collect()
    };
    // Not one is deleted too early.
    world.sweep(NOW_MS + 2 * HOUR_MS);
    let swept_early = old(&world).len();
    assert!(swept_early > 50, "{swept_early}");
    world.sweep(NOW_MS + 8 * HOUR_MS);
    assert_eq!(old(&world), Vec::<String>::new());
    assert_eq!(world.used(), 0);
}

#[test]
fn entries_of_an_instance_that_died_while_it_accepted_a_call_are_swept() {
    let mut world = World::new();
    let body = vec![1; 2 * MIB];
    // Each instance dies after one operation of the store more.
    for operations in 0..12 {
        world.policy = Operations::new(world.policy.settings().clone());
        let kv = Interrupted {
            kv: &world.kv,
            before: "",
            act: RefCell::new(None),
            left: Cell::new(operations),
        };
        let random = u128::from(operations) << 4;
        let accepted = world
            .policy
            .accept(&kv, submission("t", &body), NOW_MS, random);
        let _ = run_ready(accepted);
    }
    let hour = (NOW_MS / HOUR_MS).to_string();
    world.policy = Operations::new(world.policy.settings().clone());
    world.sweep(NOW_MS + 60 * HOUR_MS);
    let names = world.kv.names();
    let old: Vec<&String> = names
        .iter()
        .filter(|name| name.split('/').any(|field| field == hour))
        .collect();
    assert!(old.is_empty(), "{old:?}");
}

#[test]
fn an_end_that_a_reader_saw_stays_when_another_worker_closes_the_run_and_dies() {
    for operations in 0..8 {
        let mut world = World::new();
        let id = world.new_one();
        let slow = world.run(&id, "slow", NOW_MS);
        let later_ms = NOW_MS + LEASE_MS;
        // The other worker has found the lease over, and is about to claim the next epoch.
        let complete = || {
            assert!(world.complete(&id, &slow, success(b"kept"), later_ms));
            assert_eq!(world.state(&id, later_ms), OperationState::Succeeded);
        };
        let kv = Interrupted {
            kv: &world.kv,
            before: "/c2",
            act: RefCell::new(Some(&complete)),
            left: Cell::new(operations),
        };
        let other = Operations::new(world.policy.settings().clone());
        let _ = run_ready(other.claim(&kv, &id, "other", 0, later_ms));
        assert!(kv.act.borrow().is_none(), "it was interrupted");
        let found = world.get(&id, later_ms);
        assert_eq!(found.state, OperationState::Succeeded, "{operations}");
        assert_eq!(found.end.unwrap().body.unwrap(), b"kept");
    }
}

#[test]
fn a_run_that_completes_while_it_is_abandoned_keeps_its_end() {
    for why in [
        Abandoned::Stopping,
        Abandoned::Crashed,
        Abandoned::TimedOut,
        Abandoned::Cancelled,
    ] {
        let mut world = World::with(|settings| settings.max_attempts = 1);
        let id = world.new_one();
        let run = world.run(&id, "w", NOW_MS);
        let complete = || assert!(world.complete(&id, &run, success(b"kept"), NOW_MS));
        let kv = Interrupted {
            kv: &world.kv,
            before: "",
            act: RefCell::new(Some(&complete)),
            left: Cell::new(u64::MAX),
        };
        let abandoned = (world.policy).abandon(&kv, &id, "w", why, (NOW_MS, 7));
        assert_eq!(run_ready(abandoned), Ok(None), "{why:?}");
        assert!(kv.act.borrow().is_none(), "it was interrupted");
        let found = world.get(&id, NOW_MS);
        assert_eq!(found.state, OperationState::Succeeded, "{why:?}");
        assert_eq!(found.end.unwrap().body.unwrap(), b"kept");
    }
}

#[test]
fn a_worker_that_dies_right_after_its_commit_has_ended_the_operation() {
    let mut world = World::new();
    let id = world.new_one();
    let run = world.run(&id, "w", NOW_MS);
    let kv = Interrupted {
        kv: &world.kv,
        before: "/f1",
        act: RefCell::new(Some(&|| {})),
        left: Cell::new(1),
    };
    let of = (run.epoch, run.attempt);
    let completed = (world.policy).complete(&kv, &id, of, success(b""), NOW_MS);
    assert!(run_ready(completed).is_err(), "it dies");
    let again_ms = world.abandon(&id, "w", Abandoned::Stopping, NOW_MS);
    assert_eq!(again_ms, None);
    assert_eq!(world.state(&id, NOW_MS), OperationState::Succeeded);
}

#[test]
fn an_end_without_a_run_that_does_not_count_is_not_told_as_the_end() {
    let mut world = World::new();
    let id = world.new_one();
    // Another worker is about to commit the cancelling when its lease is over, and a third one runs the operation.
    let later_ms = NOW_MS + LEASE_MS;
    run_ready(world.kv.increment(&name_of(&world, "/h", "/x"), 1)).unwrap();
    let third = RefCell::new(Operations::new(world.policy.settings().clone()));
    let take_over = || {
        let claim = run_ready((third.borrow_mut()).claim(&world.kv, &id, "third", 0, later_ms));
        assert_eq!(claim, Ok(Claim::Ended("receipt".to_owned())));
    };
    let kv = Interrupted {
        kv: &world.kv,
        before: "/s1",
        act: RefCell::new(Some(&take_over)),
        left: Cell::new(u64::MAX),
    };
    let claim = run_ready((world.policy).claim(&kv, &id, "w", 0, NOW_MS));
    assert_eq!(
        claim,
        Ok(Claim::Later(NOW_MS + LEASE_MS)),
        "without the receipt"
    );
}

/// The name of the only entry with this end, with another end.
fn name_of(world: &World, end: &str, other: &str) -> String {
    let names = world.kv.names();
    let name = names
        .iter()
        .find(|name| name.starts_with("o/") && name.ends_with(end));
    name.unwrap().trim_end_matches(end).to_owned() + other
}

/// A store on which another caller acts before the first write of an entry with this end, and which fails for good after some
/// operations more.
struct Interrupted<'a> {
    kv: &'a MemoryKv,
    before: &'static str,
    act: RefCell<Option<&'a dyn Fn()>>,
    left: Cell<u64>,
}

impl Interrupted<'_> {
    fn write(&self, kv_key: &str) -> Result<(), KvError> {
        if kv_key.ends_with(self.before)
            && let Some(act) = self.act.take()
        {
            act();
        }
        self.read()
    }

    fn read(&self) -> Result<(), KvError> {
        if self.act.borrow().is_some() {
            return Ok(());
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        match left {
            0 => Err(KvError::new("the instance died")),
            _ => Ok(()),
        }
    }
}

impl Kv for Interrupted<'_> {
    type Swap = <MemoryKv as Kv>::Swap;

    async fn get(&self, kv_key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.read()?;
        self.kv.get(kv_key).await
    }
    async fn exists(&self, kv_key: &str) -> Result<bool, KvError> {
        self.read()?;
        self.kv.exists(kv_key).await
    }
    async fn set(&self, kv_key: &str, value: &[u8]) -> Result<(), KvError> {
        self.write(kv_key)?;
        self.kv.set(kv_key, value).await
    }
    async fn delete(&self, kv_key: &str) -> Result<(), KvError> {
        self.write(kv_key)?;
        self.kv.delete(kv_key).await
    }
    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, KvError> {
        match delta {
            0 => self.read()?,
            _ => self.write(kv_key)?,
        }
        self.kv.increment(kv_key, delta).await
    }
    async fn read_to_swap(&self, kv_key: &str) -> Result<(Option<Vec<u8>>, Self::Swap), KvError> {
        self.read()?;
        self.kv.read_to_swap(kv_key).await
    }
    async fn swap(&self, swap: Self::Swap, value: &[u8]) -> Result<bool, KvError> {
        self.read()?;
        self.kv.swap(swap, value).await
    }
}
