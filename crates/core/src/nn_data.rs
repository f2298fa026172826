//! Data that our components and our host exchange through `wasi:nn` where it has no field: in an error's data, in a graph's
//! name, and in the names of a shadow call's tensors. This module is the only place that formats and parses them.
//!
//! The data of an error for which `wasi:nn` has no code:
//!
//! ```text
//! data    = word [ " retry_after_ms=" digits ] ": " message
//! word    = "queue_full" / "not_ready" / "rows_depend"
//! digits  = "0" / ( %x31-39 *9DIGIT )
//! ```
//!
//! `queue_full` refuses a call because of load: the queue is full, or too long for the call's deadline. `not_ready` is a
//! version that exists and cannot run now. `rows_depend` refuses a call of several requests' items: the answer to each would
//! depend on the others, so each must run alone. `retry_after_ms` gives the time until a retry can pass, if the engine knows
//! it; older hosts omit it. Data of any other form is only a message, because it may come from another host.

use std::fmt;

/// The errors for which `wasi:nn` has no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NnWord {
    /// Refused because of load; not run.
    QueueFull,
    /// The version exists and is not ready; not run.
    NotReady,
    /// The call has items of several requests in one run, and the rows of the version depend on each other; not run.
    RowsDepend,
}

impl NnWord {
    /// All words, for [`NnData::parse`].
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::NotReady, Self::RowsDepend];

    /// The word in the data.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::NotReady => "not_ready",
            Self::RowsDepend => "rows_depend",
        }
    }
}

const RETRY_AFTER: &str = " retry_after_ms=";

/// The most digits of a wait: 317 years in milliseconds. They never overflow.
const MAX_DIGITS: usize = 10;

/// The longest wait that can be written.
pub const MAX_RETRY_AFTER_MS: u64 = 9_999_999_999;

/// The data of one error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NnData<'a> {
    /// The kind of the error.
    pub word: NnWord,
    /// Milliseconds after which a retry can pass.
    pub retry_after_ms: Option<u64>,
    /// The message for the caller.
    pub message: &'a str,
}

impl<'a> NnData<'a> {
    /// Parses data; `None` for another form, which is only a message.
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

/// The options of a graph's calls. `wasi:nn` has no field for them, so they are part of the graph's name, and only if they
/// differ from the defaults, because other hosts do not know such names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GraphOptions {
    /// The priority in the model's queue; 1 runs first.
    pub priority: Option<u8>,
    /// The timeout of a call in milliseconds, if it is shorter than that of its request.
    pub timeout_ms: Option<u32>,
    /// Whether calls are shadow runs. A shadow call gets inputs and the returned outputs, and returns immediately without
    /// outputs. The host compares and counts it. See [`ShadowTensor`].
    pub shadow: bool,
    /// Whether the rows of a call are items of several requests. If rows depend on each other, such a call fails with
    /// [`NnWord::RowsDepend`] without a run.
    pub joined: bool,
}

/// The name of a graph for `load-by-name`.
///
/// ```text
/// name       = model [ "@" version [ "#" priority ] [ "~" timeout-ms ] [ "!shadow" ] [ "!joined" ] ]
/// priority   = number of at most 8 bits
/// timeout-ms = number of at most 32 bits
/// number     = "0" / ( %x31-39 *DIGIT )
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphName<'a> {
    /// The name of the model.
    pub model: &'a str,
    /// Its version; `None` for the highest that is ready.
    pub version: Option<&'a str>,
    /// The options of its calls.
    pub options: GraphOptions,
}

/// The prefixes of the options, in their order.
const PRIORITY: char = '#';
const TIMEOUT: char = '~';
const SHADOW: &str = "!shadow";
const JOINED: &str = "!joined";

impl<'a> GraphName<'a> {
    /// Parses the name of a graph. If the text after a version is not exactly options in their order, it stays part of the
    /// version, which
    /// then does not exist. Options are never applied in part.
    pub fn parse(name: &'a str) -> Self {
        let Some((model, rest)) = name.split_once('@') else {
            return Self {
                model: name,
                version: None,
                options: GraphOptions::default(),
            };
        };
        let (version, options) = options(rest).unwrap_or((rest, GraphOptions::default()));
        Self {
            model,
            version: Some(version),
            options,
        }
    }

    /// Writes the name of a graph, with the options that are not the default.
    pub fn write(model: &str, version: u64, options: GraphOptions) -> String {
        let mut name = format!("{model}@{version}");
        let GraphOptions {
            priority,
            timeout_ms,
            shadow,
            joined,
        } = options;
        if let Some(priority) = priority {
            name.push(PRIORITY);
            name.push_str(&priority.to_string());
        }
        if let Some(timeout_ms) = timeout_ms {
            name.push(TIMEOUT);
            name.push_str(&timeout_ms.to_string());
        }
        if shadow {
            name.push_str(SHADOW);
        }
        if joined {
            name.push_str(JOINED);
        }
        name
    }
}

/// A version and its options; `None` if the text after the version is not options.
fn options(text: &str) -> Option<(&str, GraphOptions)> {
    let (text, joined) = match text.strip_suffix(JOINED) {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (text, shadow) = match text.strip_suffix(SHADOW) {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (text, timeout_ms) = match text.split_once(TIMEOUT) {
        Some((text, number)) => (text, Some(plain_number(number)?)),
        None => (text, None),
    };
    let (version, priority) = match text.split_once(PRIORITY) {
        Some((text, number)) => (text, Some(plain_number(number)?)),
        None => (text, None),
    };
    let options = GraphOptions {
        priority,
        timeout_ms,
        shadow,
        joined,
    };
    Some((version, options))
}

/// Parses a number in canonical form: only digits, without leading zeros.
fn plain_number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// A tensor of a shadow call. Such a call contains the inputs and the returned outputs, distinguished by the prefix of their
/// names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowTensor<'a> {
    /// An input of the model, by its name.
    Input(&'a str),
    /// A returned output, by its name.
    Expected(&'a str),
}

const INPUT: &str = "input/";
const EXPECTED: &str = "expected/";

impl<'a> ShadowTensor<'a> {
    /// Parses a tensor's name; `None` if it is neither.
    pub fn parse(name: &'a str) -> Option<Self> {
        let input = name.strip_prefix(INPUT).map(Self::Input);
        input.or_else(|| name.strip_prefix(EXPECTED).map(Self::Expected))
    }
}

impl fmt::Display for ShadowTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(name) => write!(f, "{INPUT}{name}"),
            Self::Expected(name) => write!(f, "{EXPECTED}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_data_are_read_again() {
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
    fn text_of_nearly_the_form_is_a_message_and_nothing_more() {
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
        let priorities = [None, Some(0), Some(1), Some(2), Some(10), Some(u8::MAX)];
        let timeouts = [None, Some(0), Some(1), Some(250), Some(u32::MAX)];
        for priority in priorities {
            for timeout_ms in timeouts {
                for (shadow, joined) in [(false, false), (true, false), (false, true), (true, true)]
                {
                    for version in [0, 3, 10, u64::MAX] {
                        let options = GraphOptions {
                            priority,
                            timeout_ms,
                            shadow,
                            joined,
                        };
                        let written = GraphName::write("m", version, options);
                        let version = version.to_string();
                        let read = GraphName {
                            model: "m",
                            version: Some(&version),
                            options,
                        };
                        assert_eq!(GraphName::parse(&written), read, "{written}");
                    }
                }
            }
        }
        let all = GraphOptions {
            priority: Some(2),
            timeout_ms: Some(50),
            shadow: true,
            joined: false,
        };
        assert_eq!(GraphName::write("m", 3, all), "m@3#2~50!shadow");
        assert_eq!(GraphName::write("m", 3, GraphOptions::default()), "m@3");
        assert_eq!(GraphName::parse("m").version, None);
    }

    #[test]
    fn a_name_with_malformed_options_is_a_version_that_does_not_exist() {
        for rest in [
            "3#",
            "3#x",
            "3#256",
            "3#+2",
            "3#02",
            "3#2#2",
            "3#2 ",
            "3# 2",
            "3#٢",
            "3~",
            "3~x",
            "3~-1",
            "3~007",
            "3~4294967296",
            "3~99999999999999999999999",
            "3~5~5",
            "3~5#2",
            "3!shadow#2",
            "3!shadow~5",
            "3!shadow!shadow",
            "3!joined!shadow",
            "3!joined~5",
            "3!joined!joined",
            "3!Joined",
            "3!Shadow",
            "3!shado",
            "3!",
            "3#2~5!",
        ] {
            let name = format!("m@{rest}");
            let read = GraphName::parse(&name);
            let version = read.version.unwrap_or_default();
            assert!(version.parse::<u64>().is_err(), "{name}: {version}");
        }
        // Terms want a version, or there is none.
        for name in ["m#2", "m~5", "m!shadow"] {
            assert_eq!(GraphName::parse(name).model, name);
        }
    }

    #[test]
    fn every_name_is_read_without_harm_and_written_back_where_it_has_terms() {
        // Every text of up to six of the signs that mean something, and some that do not.
        const SIGNS: [&str; 10] = ["3", "0", "#", "~", "!shadow", "!joined", "!", "@", "m", "é"];
        let mut texts = vec![String::new()];
        for _ in 0..5 {
            let longer: Vec<String> = (texts.iter())
                .flat_map(|text| SIGNS.map(|sign| format!("{text}{sign}")))
                .collect();
            for text in &longer {
                let read = GraphName::parse(text);
                if read.options == GraphOptions::default() {
                    continue;
                }
                // Options that were parsed must be the whole text after the version.
                let version = read.version.expect("options stand behind a version");
                let known = GraphName::write("x", 7, read.options);
                let options = known.strip_prefix("x@7").expect("it begins so");
                assert_eq!(*text, format!("{}@{version}{options}", read.model));
            }
            texts = longer;
        }
    }

    #[test]
    fn a_shadow_s_tensors_are_told_apart_whatever_they_are_called() {
        for name in ["", "x", "input/", "expected/x", "é", "a/b"] {
            for tensor in [ShadowTensor::Input(name), ShadowTensor::Expected(name)] {
                assert_eq!(ShadowTensor::parse(&tensor.to_string()), Some(tensor));
            }
        }
        for name in [
            "", "x", "input", "Input/x", "output/x", " input/x", "expected",
        ] {
            assert_eq!(ShadowTensor::parse(name), None, "{name:?}");
        }
    }
}
