//! Decides when a message is sent again, by the receiver's answers. The record of a delivery changes only here.

use penstock_core::OperationId;
use serde::{Deserialize, Serialize};

/// Waits before each attempt, in milliseconds, as Standard Webhooks recommends: ten attempts over three days.
pub const WAITS_MS: [u64; 10] = [
    0,
    5_000,
    5 * MINUTE_MS,
    30 * MINUTE_MS,
    2 * HOUR_MS,
    5 * HOUR_MS,
    10 * HOUR_MS,
    14 * HOUR_MS,
    20 * HOUR_MS,
    24 * HOUR_MS,
];

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// The share of a wait that is random, in per cent, both ways. Without it, receivers that were down get all messages at once.
const JITTER_PERCENT: u64 = 10;

/// The longest wait that a receiver may ask for by `Retry-After`, in milliseconds: no longer than the longest of the schedule.
pub const MAX_RETRY_AFTER_MS: u64 = 24 * HOUR_MS;

/// The longest time of one attempt, in milliseconds.
pub const TIMEOUT_MS: u64 = 15_000;

/// Time after which an attempt without an outcome counts as lost, in milliseconds: its host stopped in it. Clocks may differ.
pub const LOST_MS: u64 = 60_000;

/// Time for which the entries of a delivery are needed after its operation expired, in milliseconds. A caller may ask for
/// the message again just before, and a receiver may ask for the longest wait each time.
pub const KEEP_MS: u64 = 12 * 24 * HOUR_MS;

/// The most times that a caller may ask for a message again. Each leaves entries until the sweep.
pub const MAX_AGAIN: u32 = 20;

/// Most bytes of a payload. Results in larger ones are left out.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// Most bytes of a receiver's answer that are read. Its content is ignored.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Most bytes of the reason of a failure in the record.
const MAX_REASON_BYTES: usize = 200;

/// The kinds of events: the three ends of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// An operation has a result.
    #[serde(rename = "operation.succeeded")]
    Succeeded,
    /// An operation ended with an error.
    #[serde(rename = "operation.failed")]
    Failed,
    /// An operation was cancelled.
    #[serde(rename = "operation.cancelled")]
    Cancelled,
}

impl EventKind {
    /// The word in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "operation.succeeded",
            Self::Failed => "operation.failed",
            Self::Cancelled => "operation.cancelled",
        }
    }
}

/// The id of the message about an operation. It is the same for all attempts.
pub fn message_id(id: &OperationId) -> String {
    format!("msg_{}", id.short())
}

/// The state of a delivery. Only [`DeliveryState::Pending`] has a next attempt, until a caller asks again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Another attempt will be made.
    #[default]
    Pending,
    /// The receiver took the message.
    Delivered,
    /// All attempts failed, or there is nothing to send.
    Failed,
    /// The receiver wants no more messages (status 410).
    Disabled,
    /// The tenant wants no messages about this kind of event.
    Skipped,
}

impl DeliveryState {
    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
            Self::Skipped => "skipped",
        }
    }

    /// Returns whether no attempt follows.
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

/// One attempt to send a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The start of the attempt, in milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// The duration of the attempt, in milliseconds.
    pub took_ms: u64,
    /// The status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The error, if the attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver sent an answer, of any status.
    Answered {
        /// The HTTP status of the answer.
        status: u16,
        /// The wait that it asked for, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// It did not; the reason.
    Failed(String),
}

/// The record of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The state after the attempts so far.
    pub state: DeliveryState,
    /// The attempts since the message was made, or since a caller asked for it again.
    pub attempts: Vec<Attempt>,
    /// The last attempt number taken before those, with one for an attempt that may be in progress. No number comes twice.
    #[serde(default)]
    pub earlier: u32,
    /// The time of the next attempt, in milliseconds since the Unix epoch, if the state is pending.
    pub next_ms: u64,
    /// Number of times that a caller asked for the message again, at most [`MAX_AGAIN`].
    #[serde(default)]
    pub generation: u32,
    /// The reason why no further attempt is made, if that is not because of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Delivery {
    /// A delivery whose first attempt is due.
    pub fn due(now_ms: u64) -> Self {
        Self {
            next_ms: now_ms,
            ..Self::default()
        }
    }

    /// Writes the record as JSON, for the store.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of plain members")
    }

    /// Reads stored bytes; `None` if no release wrote them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The number of the next attempt, for its claim.
    pub fn next_attempt(&self) -> u32 {
        self.earlier + u32::try_from(self.attempts.len()).unwrap_or(u32::MAX) + 1
    }

    /// The delivery after an attempt.
    pub fn after(
        mut self,
        outcome: Outcome,
        (began_ms, took_ms): (u64, u64),
        now_ms: u64,
        random: u64,
    ) -> Self {
        let (status, error, retry_after_ms) = match outcome {
            Outcome::Answered {
                status,
                retry_after_ms,
            } => (Some(status), unwelcome(status), retry_after_ms),
            Outcome::Failed(reason) => (None, Some(reason), None),
        };
        let state = match status {
            Some(200..=299) => DeliveryState::Delivered,
            Some(410) => DeliveryState::Disabled,
            _ => DeliveryState::Pending,
        };
        self.attempts.push(Attempt {
            began_ms,
            took_ms,
            status,
            error: error.map(shortened),
        });
        self.state = state;
        if state == DeliveryState::Pending {
            match WAITS_MS.get(self.attempts.len()) {
                Some(wait_ms) => {
                    let asked_ms = retry_after_ms.unwrap_or(0).min(MAX_RETRY_AFTER_MS);
                    // Never earlier than asked, and not all messages at the same time.
                    let asked_ms = asked_ms + random % (asked_ms / 100 * JITTER_PERCENT + 1);
                    self.next_ms = now_ms.saturating_add(jittered(*wait_ms, random).max(asked_ms));
                }
                None => self.state = DeliveryState::Failed,
            }
        }
        self
    }

    /// The delivery once a caller asks for the message again.
    pub fn again(self, now_ms: u64) -> Self {
        Self {
            // An attempt may be in progress, and its number is taken.
            earlier: self.next_attempt(),
            generation: self.generation + 1,
            ..Self::due(now_ms)
        }
    }
}

/// Returns the reason why an answer is no success; `None` for 200 to 299.
fn unwelcome(status: u16) -> Option<String> {
    Some(match status {
        200..=299 => return None,
        300..=399 => format!("it answered {status}; redirects are not followed"),
        410 => "it answered 410: it wants no more messages".to_owned(),
        _ => format!("it answered {status}"),
    })
}

fn jittered(wait_ms: u64, random: u64) -> u64 {
    let least = wait_ms / 100 * (100 - JITTER_PERCENT);
    least + random % (wait_ms / 100 * 2 * JITTER_PERCENT + 1)
}

fn shortened(mut reason: String) -> String {
    let mut end = MAX_REASON_BYTES.min(reason.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn answered(status: u16, retry_after_ms: Option<u64>) -> Outcome {
        Outcome::Answered {
            status,
            retry_after_ms,
        }
    }

    fn after(delivery: Delivery, outcome: Outcome, random: u64) -> Delivery {
        delivery.after(outcome, (NOW, 3), NOW, random)
    }

    #[test]
    fn ten_attempts_are_made_over_three_days_and_then_it_failed() {
        for random in [0, 7, u64::MAX] {
            let mut delivery = Delivery::due(NOW);
            let mut now_ms = NOW;
            for attempt in 1..=10 {
                assert_eq!(delivery.next_attempt(), attempt);
                assert_eq!(delivery.state, DeliveryState::Pending);
                now_ms = delivery.next_ms;
                delivery = delivery.after(answered(500, None), (now_ms, 1), now_ms, random);
            }
            assert_eq!(delivery.state, DeliveryState::Failed);
            assert_eq!(delivery.attempts.len(), 10);
            let hours = (now_ms - NOW) / HOUR_MS;
            assert!((67..=84).contains(&hours), "{hours}");
        }
    }

    #[test]
    fn the_entries_are_kept_for_longer_than_all_attempts_take() {
        let longest = WAITS_MS.map(|wait_ms| wait_ms.max(MAX_RETRY_AFTER_MS));
        let waits: u64 = longest[1..]
            .iter()
            .map(|wait_ms| wait_ms / 100 * (100 + JITTER_PERCENT))
            .sum();
        let attempts = WAITS_MS.len() as u64 * (TIMEOUT_MS + LOST_MS);
        assert!(waits + attempts <= KEEP_MS);
    }

    #[test]
    fn each_answer_means_what_the_specification_says() {
        use DeliveryState::*;
        for (status, state) in [
            (200, Delivered),
            (202, Delivered),
            (299, Delivered),
            (301, Pending),
            (307, Pending),
            (400, Pending),
            (401, Pending),
            (404, Pending),
            (410, Disabled),
            (429, Pending),
            (500, Pending),
            (503, Pending),
        ] {
            let delivery = after(Delivery::due(NOW), answered(status, None), 5);
            assert_eq!(delivery.state, state, "{status}");
            assert_eq!(delivery.attempts[0].error.is_none(), state == Delivered);
        }
        let failed = after(Delivery::due(NOW), Outcome::Failed("\u{e4}".repeat(300)), 5);
        assert_eq!(failed.state, Pending);
        assert_eq!(failed.attempts[0].error.as_ref().unwrap().len(), 200);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_wait_and_not_for_a_shorter_one() {
        let next = |asked| {
            let delivery = after(Delivery::due(NOW), answered(503, Some(asked)), 0);
            delivery.next_ms - NOW
        };
        assert_eq!(next(1), 4_500);
        assert_eq!(next(60_000), 60_000);
        assert_eq!(next(u64::MAX), MAX_RETRY_AFTER_MS);
    }

    #[test]
    fn a_message_that_is_sent_again_takes_no_number_twice() {
        let delivery = after(Delivery::due(NOW), answered(410, None), 0).again(NOW + 1);
        assert_eq!(delivery.next_attempt(), 3);
        assert_eq!(
            (delivery.state, delivery.next_ms),
            (DeliveryState::Pending, NOW + 1)
        );
        let delivery = after(delivery, answered(200, None), 0).again(NOW + 2);
        assert_eq!(delivery.next_attempt(), 5);
        assert_eq!(Delivery::decode(&delivery.encode()), Some(delivery));
        assert_eq!(Delivery::decode(b"{"), None);
    }
}
