//! Operations in the store: the bounds of a tenant, retries, the sweep, and instances that die between two writes.

use crate::operations_common;
use operations_common::*;
use penstock_core::kv::run_ready;
use penstock_core::{Kv, KvError, OperationId};
use penstock_policy::operations::words::{Abandoned, Claim, OperationState, Submission};
use penstock_policy::operations::{Acceptance, Operations};
use penstock_testkit::MemoryKv;
use std::cell::{Cell, RefCell};

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
