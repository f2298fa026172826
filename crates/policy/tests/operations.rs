//! Operations on a store in memory, at explicit times: the view of callers and of workers.

use crate::operations_common;
use operations_common::*;
use penstock_core::OperationId;
use penstock_core::kv::run_ready;
use penstock_policy::operations::words::{Abandoned, Claim, OperationState, Renewal};

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
