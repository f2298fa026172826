//! The state of an operation, and the decision on a worker's next step. Pure functions of the entries and the time.

use super::record::{Accepted, Ended, Notice, RunRecord};
use super::settings::{LONGEST_DELAY_MS, OperationsSettings};
use crate::idempotency::claimed_ms;

/// The amount that a close adds to a fate, as in idempotency.
pub(super) const CLOSE: i64 = 1 << 32;

/// The amount that seals a fate: the commit is known to be earlier than the closes. The sum of a commit and a close does not say
/// which was first. So a reader seals a commit without a close before it says that the operation has ended. Otherwise a later
/// close would hide the end from the next reader, until an owner adopts it.
pub(super) const SEAL: i64 = 1 << 48;

/// Most epochs of an operation. The last ones only end the operation.
pub(super) const MAX_EPOCHS: u32 = 64;

/// The last epoch in which an operation may run. The others are for owners that die while they end it.
const LAST_RUN: u32 = MAX_EPOCHS - 8;

/// Returns whether a fate contains a commit, before or after a close.
pub(super) fn has_commit(fate: i64) -> bool {
    fate % CLOSE != 0
}

/// Returns whether a fate contains a close.
pub(super) fn is_closed(fate: i64) -> bool {
    fate % SEAL >= CLOSE
}

/// Returns whether a fate is sealed.
pub(super) fn is_sealed(fate: i64) -> bool {
    fate >= SEAL
}

/// Returns whether the end counts: it was committed, and no close was earlier. It is false as well while the order is
/// unknown.
pub(super) fn counts(fate: i64) -> bool {
    is_sealed(fate) || (has_commit(fate) && !is_closed(fate))
}

/// Returns whether a fate directly after a close shows that the commit was earlier than all closes.
pub(super) fn was_closed_after_its_commit(fate: i64) -> bool {
    has_commit(fate) && fate % SEAL < 2 * CLOSE
}

/// The entries of a claimed epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Epoch {
    pub claim: i64,
    pub run: Option<RunRecord>,
    pub notice: Option<Notice>,
    pub end: Option<Ended>,
    pub fate: i64,
}

/// The entries of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub accepted: Accepted,
    pub cancel_requested: bool,
    /// The claimed epochs, the first one first. The search ends at the first one that is committed.
    pub epochs: Vec<Epoch>,
}

/// The phase of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// Its end was committed, and no later epoch changes it.
    Ended(Ended),
    /// An owner holds it until a time.
    Held {
        epoch: u32,
        run: Option<RunRecord>,
        until_ms: u64,
    },
    /// The epoch may be claimed from a time on.
    Free { epoch: u32, from_ms: u64 },
}

/// The progress of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Progress {
    pub phase: Phase,
    /// Runs that began, except those that were given back without counting.
    pub attempts: u32,
    /// The last run that began.
    pub last_run: Option<RunRecord>,
    /// The error of the last run that was given back.
    pub last_error: Option<(String, String)>,
}

/// The error of an operation whose workers all died.
const DIED: (&str, &str) = (
    "internal",
    "the workers that ran the operation stopped before it ended",
);

/// Finds the progress of an operation. Leases from before `dead_before_ms` are over, because the process that held them is
/// known to have ended; 0 if nothing is known.
pub(super) fn progress(
    seen: &Seen,
    settings: &OperationsSettings,
    now_ms: u64,
    dead_before_ms: u64,
) -> Progress {
    let mut progress = Progress {
        phase: Phase::Free {
            epoch: 1,
            from_ms: seen.accepted.created_ms,
        },
        attempts: 0,
        last_run: None,
        last_error: None,
    };
    for (epoch, found) in (1..).zip(&seen.epochs) {
        let held_ms = found
            .run
            .as_ref()
            .map_or_else(|| claimed_ms(found.claim, now_ms), |run| run.renewed_ms);
        if let Some(run) = &found.run {
            progress.last_run = Some(run.clone());
        }
        if counts(found.fate)
            && let Some(ended) = &found.end
        {
            progress.attempts = ended.attempts;
            progress.phase = Phase::Ended(ended.clone());
            return progress;
        }
        if !is_closed(found.fate) {
            let until_ms = held_ms.saturating_add(settings.lease_ms);
            if now_ms < until_ms && held_ms >= dead_before_ms {
                progress.attempts += u32::from(found.run.is_some());
                progress.phase = Phase::Held {
                    epoch,
                    run: found.run.clone(),
                    until_ms,
                };
                return progress;
            }
        }
        let mut from_ms = now_ms.min(held_ms);
        match &found.notice {
            Some(notice) => {
                progress.attempts += u32::from(notice.counts);
                progress.last_error = Some((notice.code.clone(), notice.message.clone()));
                from_ms = notice.not_before_ms;
            }
            None if found.run.is_some() => {
                progress.attempts += 1;
                progress.last_error = Some((DIED.0.to_owned(), DIED.1.to_owned()));
            }
            None => {}
        }
        progress.phase = Phase::Free {
            epoch: epoch + 1,
            from_ms,
        };
    }
    progress
}

/// The decision of a worker that looks at an operation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// The operation has ended, and nothing remains to be done.
    Ended,
    /// Look again at this time.
    Later(u64),
    /// Claim the epoch, and run the operation.
    Run(u32),
    /// Claim the epoch, and end the operation without a run.
    End(u32, WithoutRun),
}

/// The reason why an operation ends without a further run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WithoutRun {
    /// A caller asked for it.
    Cancelled,
    /// It waited too long for its first run.
    QueuedTooLong,
    /// It has no attempts left; the last error.
    Exhausted(String, String),
}

/// Decides the next step of a worker that looks at an operation.
pub(super) fn decide(
    seen: &Seen,
    progress: &Progress,
    settings: &OperationsSettings,
    now_ms: u64,
) -> Decision {
    let (epoch, from_ms) = match &progress.phase {
        Phase::Ended(_) => return Decision::Ended,
        Phase::Held { until_ms, .. } => return Decision::Later(*until_ms),
        Phase::Free { epoch, from_ms } => (*epoch, *from_ms),
    };
    if epoch > MAX_EPOCHS {
        // Each further one would only add entries. It stays as it is until it is swept.
        return Decision::Ended;
    }
    if seen.cancel_requested {
        return Decision::End(epoch, WithoutRun::Cancelled);
    }
    if progress.attempts >= settings.max_attempts {
        return Decision::End(epoch, exhausted(progress));
    }
    let queue_ms = settings.max_queue_time_s.saturating_mul(1_000);
    if progress.attempts == 0 && now_ms >= seen.accepted.created_ms.saturating_add(queue_ms) {
        return Decision::End(epoch, WithoutRun::QueuedTooLong);
    }
    if epoch > LAST_RUN {
        return Decision::End(epoch, exhausted(progress));
    }
    if now_ms < from_ms {
        return Decision::Later(from_ms);
    }
    Decision::Run(epoch)
}

fn exhausted(progress: &Progress) -> WithoutRun {
    let (code, message) = match &progress.last_error {
        Some((code, message)) if !code.is_empty() => (code.clone(), message.clone()),
        _ => (DIED.0.to_owned(), DIED.1.to_owned()),
    };
    WithoutRun::Exhausted(code, message)
}

/// The first delay before another attempt, in milliseconds. Each further one is twice as long.
const FIRST_DELAY_MS: u64 = 500;

/// The delay before the attempt after `attempt`, in milliseconds: exponential, and between half of it and all of it, so that
/// operations that failed together do not come back together.
pub(super) fn delay_ms(attempt: u32, random: u64) -> u64 {
    let doubled = FIRST_DELAY_MS << attempt.saturating_sub(1).min(16);
    let longest = doubled.min(LONGEST_DELAY_MS);
    longest / 2 + random % (longest / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::record::EndState;
    use penstock_core::Caller;

    const NOW: u64 = 1_700_000_000_000;

    fn seen(epochs: Vec<Epoch>) -> Seen {
        Seen {
            accepted: Accepted {
                caller: Caller::anonymous(None),
                owner: "o".to_owned(),
                kind: "predict".to_owned(),
                model: "m".to_owned(),
                version: 1,
                priority: None,
                items: 1,
                method: "POST".to_owned(),
                target: "/v1/models/m:predict".to_owned(),
                headers: Vec::new(),
                body_bytes: 0,
                request_id: "r".to_owned(),
                receipt: String::new(),
                created_ms: NOW - 1_000,
                number: 0,
                webhook: false,
            },
            cancel_requested: false,
            epochs,
        }
    }

    fn claimed(at_ms: u64) -> Epoch {
        Epoch {
            claim: at_ms as i64,
            ..Epoch::default()
        }
    }

    fn running(since_ms: u64, renewed_ms: u64) -> Epoch {
        Epoch {
            run: Some(RunRecord {
                holder: "w".to_owned(),
                started_ms: since_ms,
                renewed_ms,
            }),
            ..claimed(since_ms)
        }
    }

    fn ended(epoch: Epoch, fate: i64) -> Epoch {
        Epoch {
            end: Some(Ended {
                state: EndState::Succeeded,
                code: String::new(),
                message: String::new(),
                status: 200,
                headers: Vec::new(),
                body_bytes: 2,
                parts_epoch: 1,
                attempts: 1,
                started_ms: Some(NOW),
                ended_ms: NOW,
            }),
            fate,
            ..epoch
        }
    }

    fn given_back(epoch: Epoch, not_before_ms: u64, counts: bool) -> Epoch {
        Epoch {
            notice: Some(Notice {
                not_before_ms,
                counts,
                code: "overloaded".to_owned(),
                message: "full".to_owned(),
            }),
            fate: CLOSE,
            ..epoch
        }
    }

    fn decided(seen: &Seen, dead_before_ms: u64) -> Decision {
        let settings = OperationsSettings::default();
        let progress = progress(seen, &settings, NOW, dead_before_ms);
        decide(seen, &progress, &settings, NOW)
    }

    #[test]
    fn each_state_of_the_entries_has_its_decision() {
        let lease = OperationsSettings::default().lease_ms;
        let fresh = || running(NOW - 5_000, NOW - 1_000);
        let dead = || running(NOW - 2 * lease, NOW - lease);
        for (name, epochs, decision) in [
            ("new", vec![], Decision::Run(1)),
            (
                "claimed",
                vec![claimed(NOW - 1)],
                Decision::Later(NOW - 1 + lease),
            ),
            (
                "running",
                vec![fresh()],
                Decision::Later(NOW - 1_000 + lease),
            ),
            ("dead", vec![dead()], Decision::Run(2)),
            ("ended", vec![ended(fresh(), 1)], Decision::Ended),
            (
                "ended after its lease",
                vec![ended(dead(), 1)],
                Decision::Ended,
            ),
            ("ended twice", vec![ended(fresh(), 3)], Decision::Ended),
            (
                "closed after its end was seen",
                vec![ended(dead(), SEAL + CLOSE + 1)],
                Decision::Ended,
            ),
            ("not committed", vec![ended(dead(), 0)], Decision::Run(2)),
            (
                "closed before its commit",
                vec![ended(dead(), CLOSE + 1)],
                Decision::Run(2),
            ),
            (
                "given back",
                vec![given_back(fresh(), NOW, true)],
                Decision::Run(2),
            ),
            (
                "given back for later",
                vec![given_back(fresh(), NOW + 7, true)],
                Decision::Later(NOW + 7),
            ),
            (
                "too often",
                (0..3).map(|_| given_back(fresh(), NOW, true)).collect(),
                Decision::End(
                    4,
                    WithoutRun::Exhausted("overloaded".to_owned(), "full".to_owned()),
                ),
            ),
            (
                "given back at stops of the host",
                (0..3).map(|_| given_back(fresh(), NOW, false)).collect(),
                Decision::Run(4),
            ),
            (
                "died too often",
                vec![dead(), dead(), dead()],
                Decision::End(
                    4,
                    WithoutRun::Exhausted(DIED.0.to_owned(), DIED.1.to_owned()),
                ),
            ),
            (
                "an end that did not count, and a later one that does",
                vec![ended(dead(), CLOSE + 1), ended(fresh(), 1)],
                Decision::Ended,
            ),
        ] {
            assert_eq!(decided(&seen(epochs), 0), decision, "{name}");
        }
    }

    #[test]
    fn a_lease_of_a_process_that_ended_is_over_at_once() {
        let operation = seen(vec![running(NOW - 5_000, NOW - 1_000)]);
        assert_eq!(decided(&operation, NOW - 500), Decision::Run(2));
        assert!(matches!(
            decided(&operation, NOW - 2_000),
            Decision::Later(_)
        ));
    }

    #[test]
    fn a_cancelled_operation_ends_without_a_run_unless_one_is_in_progress() {
        let mut operation = seen(vec![]);
        operation.cancel_requested = true;
        assert_eq!(
            decided(&operation, 0),
            Decision::End(1, WithoutRun::Cancelled)
        );
        operation.epochs = vec![running(NOW - 5_000, NOW - 1_000)];
        assert!(matches!(decided(&operation, 0), Decision::Later(_)));
        operation.epochs = vec![ended(running(NOW - 5_000, NOW), 1)];
        assert_eq!(decided(&operation, 0), Decision::Ended);
    }

    #[test]
    fn an_operation_that_did_not_begin_in_time_fails_and_one_that_began_does_not() {
        let mut operation = seen(vec![]);
        let queue_ms = OperationsSettings::default().max_queue_time_s * 1_000;
        operation.accepted.created_ms = NOW - queue_ms;
        assert_eq!(
            decided(&operation, 0),
            Decision::End(1, WithoutRun::QueuedTooLong)
        );
        operation.epochs = vec![given_back(running(NOW - 9, NOW - 9), NOW, true)];
        assert_eq!(decided(&operation, 0), Decision::Run(2));
    }

    #[test]
    fn delays_double_up_to_a_minute_and_vary_by_half() {
        for (attempt, least, most) in [
            (1, 250, 500),
            (2, 500, 1_000),
            (5, 4_000, 8_000),
            (40, 30_000, 60_000),
        ] {
            for random in [0, 1, 12_345, u64::MAX] {
                let delay = delay_ms(attempt, random);
                assert!((least..=most).contains(&delay), "{attempt} {delay}");
            }
        }
    }
}
