//! What our host puts into the data of a `wasi:nn` error where `wasi:nn` has no code for the case, and how our
//! components read it. Written and read here and nowhere else.
//!
//! ```text
//! data    = word [ " retry_after_ms=" digits ] ": " message
//! word    = "queue_full" / "not_ready"
//! digits  = "0" / ( %x31-39 *9DIGIT )
//! ```
//!
//! `queue_full` is a refusal for load: the call was not run, because the line before it is full or too long for its
//! deadline. `not_ready` is a version that exists and cannot run now. `retry_after_ms` says when to come back, where
//! the engine can tell; hosts before it existed leave it out. Data of any other form is a message and nothing more:
//! another host's words are never taken for these by halves.

use std::fmt;

/// The cases `wasi:nn` has no code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NnWord {
    /// Refused for load; not run.
    QueueFull,
    /// The version exists and is not ready; not run.
    NotReady,
}

impl NnWord {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::QueueFull, Self::NotReady];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::NotReady => "not_ready",
        }
    }
}

const RETRY_AFTER: &str = " retry_after_ms=";

/// More digits than any wait has (317 years of milliseconds would take one more), few enough never to overflow.
const MAX_DIGITS: usize = 10;

/// The longest wait that can be written.
pub const MAX_RETRY_AFTER_MS: u64 = 9_999_999_999;

/// The data of one error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NnData<'a> {
    /// The case.
    pub word: NnWord,
    /// Milliseconds after which a retry has a chance.
    pub retry_after_ms: Option<u64>,
    /// What happened, in words.
    pub message: &'a str,
}

impl<'a> NnData<'a> {
    /// Reads data; `None` when it is not of our form, and so all message.
    pub fn parse(data: &'a str) -> Option<Self> {
        let (word, rest) = NnWord::ALL
            .into_iter()
            .find_map(|word| Some((word, data.strip_prefix(word.as_str())?)))?;
        let (retry_after_ms, rest) = match rest.strip_prefix(RETRY_AFTER) {
            None => (None, rest),
            Some(rest) => {
                let (digits, _) = rest.split_once(':')?;
                let plain = (1..=MAX_DIGITS).contains(&digits.len())
                    && digits.bytes().all(|b| b.is_ascii_digit())
                    && (digits == "0" || !digits.starts_with('0'));
                let number = plain.then(|| digits.parse().ok()).flatten()?;
                (Some(number), &rest[digits.len()..])
            }
        };
        Some(Self {
            word,
            retry_after_ms,
            message: rest.strip_prefix(": ")?,
        })
    }
}

impl fmt::Display for NnData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word.as_str())?;
        if let Some(ms) = self.retry_after_ms {
            write!(f, "{RETRY_AFTER}{}", ms.min(MAX_RETRY_AFTER_MS))?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for word in NnWord::ALL {
            for retry_after_ms in [None, Some(0), Some(1), Some(250), Some(MAX_RETRY_AFTER_MS)] {
                for message in ["", "try again", "a: b", " retry_after_ms=5: x", "é\n"] {
                    let data = NnData {
                        word,
                        retry_after_ms,
                        message,
                    };
                    assert_eq!(NnData::parse(&data.to_string()), Some(data));
                }
            }
        }
        let endless = NnData {
            word: NnWord::QueueFull,
            retry_after_ms: Some(u64::MAX),
            message: "x",
        };
        let written = endless.to_string();
        let read = NnData::parse(&written).unwrap();
        assert_eq!(read.retry_after_ms, Some(MAX_RETRY_AFTER_MS));
    }

    #[test]
    fn the_form_without_a_wait_that_older_hosts_send_is_read() {
        let data = NnData::parse("queue_full: 256 calls wait").unwrap();
        assert_eq!((data.word, data.retry_after_ms), (NnWord::QueueFull, None));
        assert_eq!(data.message, "256 calls wait");
        let data = NnData::parse("not_ready: loading").unwrap();
        assert_eq!((data.word, data.message), (NnWord::NotReady, "loading"));
    }

    #[test]
    fn what_is_nearly_of_the_form_is_a_message_and_nothing_more() {
        for data in [
            "",
            "queue_full",
            "queue_full:",
            "queue_full:x",
            "queue_full : x",
            " queue_full: x",
            "Queue_full: x",
            "queue_fuller: x",
            "queue_full retry_after_ms=: x",
            "queue_full retry_after_ms=-1: x",
            "queue_full retry_after_ms=+1: x",
            "queue_full retry_after_ms=007: x",
            "queue_full retry_after_ms=1.5: x",
            "queue_full retry_after_ms=12345678901: x",
            "queue_full retry_after_ms=5 x",
            "queue_full retry_after_ms=5:x",
            "queue_full retry_after_ms=٣: x",
            "queue_full  retry_after_ms=5: x",
            "queue_full retry_after=5: x",
            "the model said: queue_full: x",
        ] {
            assert_eq!(NnData::parse(data), None, "{data:?}");
        }
    }
}
