//! Decides the next step of a delivery from the facts so far. The caller makes the step, adds the facts that it gave, and asks
//! again. So all decisions are here, and all waiting is elsewhere.

use super::delivery::{Delivery, DeliveryState, EventKind, Outcome};
use super::entries;
use super::target::Target;
use super::{TenantWebhooks, WebhooksSettings};
use crate::operations::PERIOD_MS;

/// Time after which the components are asked again for an event that they could not give, in milliseconds.
const ASK_AGAIN_MS: u64 = 30_000;

/// Milliseconds after the time in its id by which the call of an operation is stored, if it ever is. Ids of keyed calls
/// carry the beginning of an hour, and are used until its end.
const STORED_MS: u64 = 2 * PERIOD_MS;

/// Time before another look at an operation that may be about to be stored, in milliseconds. It doubles.
const LOOK_AGAIN_MS: u64 = 60_000;

const GONE: &str = "the operation was deleted or has expired before it could be announced";
const NO_TENANT: &str =
    "the operator has removed the webhooks of the tenant ([[webhooks.tenants]])";
const NOT_PER_CALL: &str =
    "calls of the tenant may not name a webhook any more ([[webhooks.tenants]] `per_call`)";
const NO_URL: &str = "the tenant has no URL any more ([[webhooks.tenants]] `url`)";
/// The reason of an attempt whose host stopped.
const LOST: &str = "the host stopped during this attempt";
const DISABLED: &str = "the receiver answered 410 before";

/// The event of an operation, as the components know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventOf {
    /// The operation has ended.
    Ended {
        /// The kind of event, by the end of the operation.
        kind: EventKind,
        /// The bytes of the message, as all attempts send them.
        payload: Vec<u8>,
    },
    /// It has not ended.
    Unfinished,
    /// It was deleted, or it has expired.
    Gone,
    /// The components failed, so the event is not known.
    Unknown,
}

/// A claim of an attempt that another host has, or a host that stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The number of the attempt.
    pub attempt: u32,
    /// The time at which this host saw it first, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// The claim of the next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claim {
    /// This host has not tried to get it.
    #[default]
    Untried,
    /// This host makes the attempt.
    Own,
    /// Another host makes it, or stopped during it.
    Taken(Taken),
}

/// The facts about a delivery.
#[derive(Debug, Default)]
pub struct Facts {
    /// The present time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The time in the id of the operation.
    pub made_ms: u64,
    /// The wish for the announcement, if there was one.
    pub target: Option<Target>,
    /// The record, if one was written.
    pub record: Option<Delivery>,
    /// Whether the mark that it is over was written, if it was looked for.
    pub is_marked: Option<bool>,
    /// The payload, if one was written.
    pub payload: Option<Vec<u8>>,
    /// The event, if the components were asked.
    pub event: Option<EventOf>,
    /// Whether the receiver wants no more messages, if the mark was read.
    pub is_disabled: Option<bool>,
    /// The claim of the next attempt.
    pub claim: Claim,
    /// Time after which a claim of another host without an outcome is lost, in milliseconds.
    pub lost_after_ms: u64,
}

/// The next step for a delivery. The host takes it and then decides again.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The delivery is over or has no target, or its operation has not ended: do nothing.
    Ignore,
    /// Look at it again at this time.
    Later(u64),
    /// Look for the mark that this generation is over.
    ReadMark(u32),
    /// Write the mark that this generation is over. The record says so.
    Mark(u32),
    /// Write this record, which is over, and the mark.
    End(Delivery),
    /// Ask the components for the event.
    AskEvent,
    /// Read whether the receiver wants no more messages. The value is the name of the mark.
    ReadDisabled(String),
    /// Write the payload, so that all attempts send the same bytes.
    KeepPayload(Vec<u8>),
    /// Claim the attempt with this number.
    Claim(u32),
    /// Add an attempt to the record whose host stopped.
    Lose(Taken),
    /// Send the payload to this URL.
    Send(String),
}

/// Decides the next step of a delivery from its facts.
pub fn decide(facts: &Facts, settings: &WebhooksSettings) -> Step {
    let Some(target) = &facts.target else {
        return Step::Ignore;
    };
    let due = Delivery::due(facts.now_ms);
    let record = facts.record.as_ref().unwrap_or(&due);
    if record.state.is_over() {
        // Its host may have stopped before it wrote the mark.
        return match facts.is_marked {
            None => Step::ReadMark(record.generation),
            Some(false) => Step::Mark(record.generation),
            Some(true) => Step::Ignore,
        };
    }
    if record.next_ms > facts.now_ms {
        return Step::Later(record.next_ms);
    }
    let event = match (&facts.payload, &facts.event) {
        (Some(_), _) => None,
        (None, None) => return Step::AskEvent,
        // Its end is announced when it comes.
        (None, Some(EventOf::Unfinished)) => return Step::Ignore,
        (None, Some(EventOf::Unknown)) => {
            return Step::Later(facts.now_ms.saturating_add(ASK_AGAIN_MS));
        }
        // The call may be about to be stored. If its instance died, a retry of the call stores it under the same id.
        (None, Some(EventOf::Gone)) if facts.now_ms < facts.made_ms.saturating_add(STORED_MS) => {
            let age_ms = facts.now_ms.saturating_sub(facts.made_ms);
            return Step::Later(facts.now_ms.saturating_add(age_ms.max(LOOK_AGAIN_MS)));
        }
        (None, Some(EventOf::Gone)) => return end(record, DeliveryState::Failed, GONE),
        (None, Some(EventOf::Ended { kind, payload })) => Some((*kind, payload)),
    };
    let Some(of_tenant) = settings.tenant(&target.tenant) else {
        return end(record, DeliveryState::Failed, NO_TENANT);
    };
    if let Some((kind, _)) = event
        && !of_tenant.events.is_empty()
        && !of_tenant.events.contains(&kind)
    {
        let note = format!("the tenant wants no messages about {}", kind.as_str());
        return end(record, DeliveryState::Skipped, &note);
    }
    let url = match url(target, of_tenant) {
        Ok(url) => url,
        Err(note) => return end(record, DeliveryState::Failed, note),
    };
    // A URL that a call names is asked each time. Marks of such URLs would be as many as callers choose.
    let is_own = target.url.is_none();
    match facts.is_disabled {
        None if is_own => return Step::ReadDisabled(entries::disabled(&target.tenant, url)),
        // A caller that asks for a message again knows that the receiver wants messages.
        Some(true) if record.generation == 0 => {
            return end(record, DeliveryState::Disabled, DISABLED);
        }
        _ => {}
    }
    if let Some((_, payload)) = event {
        return Step::KeepPayload(payload.clone());
    }
    attempt(facts, record.next_attempt(), url)
}

/// The URL to send to. The settings count that hold now.
fn url<'a>(target: &'a Target, of_tenant: &'a TenantWebhooks) -> Result<&'a str, &'static str> {
    match (&target.url, &of_tenant.url) {
        (Some(_), _) if !of_tenant.per_call => Err(NOT_PER_CALL),
        (Some(url), _) | (None, Some(url)) => Ok(url),
        (None, None) => Err(NO_URL),
    }
}

/// The step towards an attempt.
fn attempt(facts: &Facts, number: u32, url: &str) -> Step {
    match facts.claim {
        Claim::Own => Step::Send(url.to_owned()),
        Claim::Taken(taken) if taken.attempt == number => {
            let lost_ms = taken.since_ms.saturating_add(facts.lost_after_ms);
            match facts.now_ms < lost_ms {
                true => Step::Later(lost_ms),
                false => Step::Lose(taken),
            }
        }
        Claim::Taken(_) | Claim::Untried => Step::Claim(number),
    }
}

/// Ends a delivery without a further attempt. The attempts so far stay in the record, because their numbers must not come twice.
fn end(record: &Delivery, state: DeliveryState, note: &str) -> Step {
    Step::End(Delivery {
        state,
        note: Some(note.to_owned()),
        ..record.clone()
    })
}

/// The record after an attempt whose host stopped.
pub fn lose(record: Option<Delivery>, taken: Taken, now_ms: u64, random: u64) -> Delivery {
    let record = record.unwrap_or_else(|| Delivery::due(taken.since_ms));
    let outcome = Outcome::Failed(LOST.to_owned());
    record.after(outcome, (taken.since_ms, 0), now_ms, random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const URL: &str = "https://a.example/x";

    fn settings() -> WebhooksSettings {
        WebhooksSettings {
            tenants: vec![TenantWebhooks {
                tenant: "a".to_owned(),
                url: Some(URL.to_owned()),
                events: vec![EventKind::Succeeded],
                secrets_file: "a.secret".to_owned(),
                ..TenantWebhooks::default()
            }],
            ..WebhooksSettings::default()
        }
    }

    fn target(tenant: &str, url: Option<&str>) -> Option<Target> {
        Some(Target {
            tenant: tenant.to_owned(),
            url: url.map(str::to_owned),
        })
    }

    fn ended(kind: EventKind) -> Option<EventOf> {
        Some(EventOf::Ended {
            kind,
            payload: b"{}".to_vec(),
        })
    }

    /// The facts about a delivery whose first attempt is due, before anything was written.
    fn first() -> Facts {
        Facts {
            now_ms: NOW,
            target: target("a", None),
            lost_after_ms: 60_000,
            ..Facts::default()
        }
    }

    /// The facts about a delivery that lacks nothing but its claim.
    fn complete() -> Facts {
        Facts {
            payload: Some(b"{}".to_vec()),
            is_disabled: Some(false),
            ..first()
        }
    }

    /// A record with one failed attempt, after which the next one is due.
    fn failed_once() -> Delivery {
        let outcome = Outcome::Failed("no answer".to_owned());
        let record = Delivery::due(1).after(outcome, (1, 1), 1, 0);
        assert!(record.next_ms < NOW);
        record
    }

    fn over(record: Delivery, state: DeliveryState, note: &str) -> Step {
        end(&record, state, note)
    }

    #[test]
    fn nothing_is_done_for_operations_that_nobody_is_told_of_or_that_are_not_due() {
        let later = Delivery::due(NOW + 1);
        let delivered = Delivery {
            state: DeliveryState::Delivered,
            ..Delivery::due(1)
        };
        for (facts, step) in [
            (Facts::default(), Step::Ignore),
            (
                Facts {
                    record: Some(later),
                    ..complete()
                },
                Step::Later(NOW + 1),
            ),
            (
                Facts {
                    record: Some(delivered.clone()),
                    ..complete()
                },
                Step::ReadMark(0),
            ),
            (
                Facts {
                    record: Some(delivered.clone()),
                    is_marked: Some(false),
                    ..complete()
                },
                Step::Mark(0),
            ),
            (
                Facts {
                    record: Some(delivered),
                    is_marked: Some(true),
                    ..complete()
                },
                Step::Ignore,
            ),
        ] {
            assert_eq!(decide(&facts, &settings()), step, "{facts:?}");
        }
    }

    #[test]
    fn the_event_decides_while_no_payload_is_stored() {
        use DeliveryState::*;
        let due = || Delivery::due(NOW);
        for (event, step) in [
            (None, Step::AskEvent),
            (Some(EventOf::Unfinished), Step::Ignore),
            (Some(EventOf::Unknown), Step::Later(NOW + 30_000)),
            (Some(EventOf::Gone), over(due(), Failed, GONE)),
            (
                ended(EventKind::Failed),
                over(
                    due(),
                    Skipped,
                    "the tenant wants no messages about operation.failed",
                ),
            ),
            (
                ended(EventKind::Succeeded),
                Step::ReadDisabled(entries::disabled("a", URL)),
            ),
        ] {
            let facts = Facts { event, ..first() };
            assert_eq!(decide(&facts, &settings()), step, "{facts:?}");
        }
        let facts = Facts {
            event: ended(EventKind::Succeeded),
            is_disabled: Some(false),
            ..first()
        };
        let kept = Step::KeepPayload(b"{}".to_vec());
        assert_eq!(decide(&facts, &settings()), kept);
        assert_eq!(decide(&complete(), &settings()), Step::Claim(1));
    }

    #[test]
    fn an_operation_that_may_be_about_to_be_stored_is_not_given_up() {
        let decided = |made_ms| {
            let facts = Facts {
                made_ms,
                event: Some(EventOf::Gone),
                ..first()
            };
            decide(&facts, &settings())
        };
        assert_eq!(decided(NOW - 1_000), Step::Later(NOW + 60_000));
        assert_eq!(
            decided(NOW - STORED_MS + 1),
            Step::Later(NOW + STORED_MS - 1)
        );
        let gone = over(Delivery::due(NOW), DeliveryState::Failed, GONE);
        assert_eq!(decided(NOW - STORED_MS), gone);
    }

    #[test]
    fn the_settings_of_now_decide_where_a_message_goes() {
        let mut closed = settings();
        closed.tenants[0].per_call = false;
        let mut without = settings();
        without.tenants[0].url = None;
        let own = "https://b.example/y";
        let failed = |note| over(Delivery::due(NOW), DeliveryState::Failed, note);
        let send = |url: &str| Step::Send(url.to_owned());
        for (target, settings, step) in [
            (target("a", None), settings(), send(URL)),
            (target("a", Some(own)), settings(), send(own)),
            (target("a", Some(own)), without.clone(), send(own)),
            (target("a", None), without, failed(NO_URL)),
            (target("a", None), closed.clone(), send(URL)),
            (target("a", Some(own)), closed, failed(NOT_PER_CALL)),
            (target("z", Some(own)), settings(), failed(NO_TENANT)),
        ] {
            let facts = Facts {
                target,
                claim: Claim::Own,
                ..complete()
            };
            assert_eq!(decide(&facts, &settings), step, "{facts:?}");
        }
    }

    #[test]
    fn a_receiver_that_wants_no_messages_gets_one_if_a_caller_asks_for_it_again() {
        let disabled = |record: Option<Delivery>| {
            let facts = Facts {
                record,
                is_disabled: Some(true),
                ..complete()
            };
            decide(&facts, &settings())
        };
        let ended = |record| over(record, DeliveryState::Disabled, DISABLED);
        assert_eq!(disabled(None), ended(Delivery::due(NOW)));
        // The attempts so far stay in the record.
        assert_eq!(disabled(Some(failed_once())), ended(failed_once()));
        assert_eq!(disabled(Some(failed_once().again(2))), Step::Claim(3));
    }

    #[test]
    fn an_attempt_of_another_host_is_waited_for_and_then_lost() {
        let taken = |attempt, since_ms| Claim::Taken(Taken { attempt, since_ms });
        for (claim, lost_after_ms, step) in [
            (Claim::Untried, 60_000, Step::Claim(2)),
            (taken(2, NOW), 60_000, Step::Later(NOW + 60_000)),
            (
                taken(2, NOW - 60_000),
                60_000,
                Step::Lose(Taken {
                    attempt: 2,
                    since_ms: NOW - 60_000,
                }),
            ),
            (
                taken(2, NOW),
                0,
                Step::Lose(Taken {
                    attempt: 2,
                    since_ms: NOW,
                }),
            ),
            // The other host has finished that one.
            (taken(1, NOW), 60_000, Step::Claim(2)),
            (Claim::Own, 60_000, Step::Send(URL.to_owned())),
        ] {
            let facts = Facts {
                record: Some(failed_once()),
                claim,
                lost_after_ms,
                ..complete()
            };
            assert_eq!(decide(&facts, &settings()), step, "{facts:?}");
        }
    }
}
