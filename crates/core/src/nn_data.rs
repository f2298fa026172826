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

/// A graph as `load-by-name` is asked for it: `model`, `model@version` or `model@version#priority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphName<'a> {
    /// The model.
    pub model: &'a str,
    /// Its version; the highest that is ready where there is none.
    pub version: Option<&'a str>,
    /// Which of the model's lines calls wait in, 1 the first to run. `wasi:nn` has no place for it, so it is part of the
    /// name, and only where it is asked for: other hosts know no such names.
    pub priority: Option<u8>,
}

impl<'a> GraphName<'a> {
    /// Takes a name apart. What is behind `#` and no priority is left in the version, which then nobody has.
    pub fn parse(name: &'a str) -> Self {
        let Some((model, rest)) = name.split_once('@') else {
            return Self {
                model: name,
                version: None,
                priority: None,
            };
        };
        let parted = rest
            .split_once('#')
            .and_then(|(version, priority)| Some((version, priority.parse().ok()?)));
        let (version, priority) = match parted {
            Some((version, priority)) => (version, Some(priority)),
            None => (rest, None),
        };
        Self {
            model,
            version: Some(version),
            priority,
        }
    }

    /// Puts a name together.
    pub fn write(model: &str, version: u32, priority: Option<u8>) -> String {
        match priority {
            Some(priority) => format!("{model}@{version}#{priority}"),
            None => format!("{model}@{version}"),
        }
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

    #[test]
    fn a_graph_s_name_is_read_as_it_was_written() {
        for (name, version, priority) in [
            ("m", None, None),
            ("m@3", Some("3"), None),
            ("m@3#2", Some("3"), Some(2)),
            ("m@3#x", Some("3#x"), None),
            ("m@3#999", Some("3#999"), None),
        ] {
            let read = GraphName::parse(name);
            assert_eq!(
                (read.model, read.version, read.priority),
                ("m", version, priority)
            );
        }
        assert_eq!(GraphName::write("m", 3, Some(2)), "m@3#2");
        assert_eq!(GraphName::write("m", 3, None), "m@3");
    }
}
