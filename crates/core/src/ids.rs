//! Newtypes for names and ids. A value of one of these types has passed its check. The crates behind the gate therefore never
//! see a name that could leave its folder or break a header.

use serde::Serialize;
use std::fmt;

/// Longest model name, in bytes. It is a folder name, a path segment, and part of keys in the store, which have 512 bytes.
pub const MAX_MODEL_NAME_BYTES: usize = 128;
/// Digits of the longest version: a decimal number that fits `u64` has at most 20.
pub const MAX_MODEL_VERSION_DIGITS: usize = 20;
/// Longest `x-request-id` that is accepted from a caller. Every log line of the request repeats it.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// The name of a model: 1 to 128 of `A-Z a-z 0-9 - _ .`, not beginning with a dot.
///
/// Triton and KServe accept these names too. A name is one segment of a path and no hidden file: it has no `/` and no leading
/// dot, so it is neither `.` nor `..`. It has none of the characters with a meaning here: `@ # ~ !` in names of graphs, `:` in
/// paths and in keys of the store. Names are compared byte by byte, so `Cls` and `cls` are two models. If a file system
/// treats them as one, the listing of the folder decides which name exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ModelName(String);

impl ModelName {
    /// The rule in words, for messages.
    pub const RULE: &str =
        "1 to 128 letters (A-Z, a-z), digits, '-', '_' and '.', not beginning with '.'";

    /// Checks and wraps a name; `None` if it breaks the rule above.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let fits = (1..=MAX_MODEL_NAME_BYTES).contains(&bytes.len())
            && bytes.first() != Some(&b'.')
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        fits.then(|| Self(text.to_owned()))
    }

    /// Returns the name as it stands in paths and files.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a model: a positive decimal number without leading zeros, as its folder is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ModelVersion(u64);

impl ModelVersion {
    /// Checks and wraps a version; `None` if it is not a positive decimal `u64` in canonical form.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical = !text.is_empty()
            && text.len() <= MAX_MODEL_VERSION_DIGITS
            && text.bytes().all(|b| b.is_ascii_digit())
            && !text.starts_with('0');
        if !canonical {
            return None;
        }
        text.parse().ok().map(Self)
    }

    /// The version as a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a request in every log line and answer. It is the caller's, if the caller sent a valid one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RequestId(String);

impl RequestId {
    /// Accepts a caller's id of 1 to 128 visible ASCII characters. `None` for others; then the server makes its own.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        let usable = (1..=MAX_REQUEST_ID_BYTES).contains(&value.len())
            && value.iter().all(|b| b.is_ascii_graphic());
        usable.then(|| Self(String::from_utf8_lossy(value).into_owned()))
    }

    /// Makes an id from time and randomness: `req_` and 26 characters that sort by time.
    pub fn generate(unix_ms: u64, random: u128) -> Self {
        Self(sortable("req_", unix_ms, random))
    }

    /// Returns the id as answers and headers show it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The permanent id of a prediction. Feedback and replays refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PredictionId(String);

impl PredictionId {
    /// Makes an id from time and randomness: `pred_` and 26 characters that sort by time.
    pub fn generate(unix_ms: u64, random: u128) -> Self {
        Self(sortable("pred_", unix_ms, random))
    }

    /// Returns the id as answers and headers show it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PredictionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Defines the id of something stored: a prefix and 26 characters that sort by time. The time names the hour in which its entries
/// are stored.
macro_rules! stored_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(String);

        impl $name {
            const PREFIX: &str = $prefix;

            /// Makes an id from time and 80 random bits, so that nobody can guess it.
            pub fn generate(unix_ms: u64, random: u128) -> Self {
                Self(sortable(Self::PREFIX, unix_ms, random))
            }

            /// Accepts an id in the form in which `generate` writes it; `None` for others.
            pub fn parse(text: &str) -> Option<Self> {
                let ulid = ulid::Ulid::from_string(text.strip_prefix(Self::PREFIX)?).ok()?;
                let written = sortable(Self::PREFIX, ulid.timestamp_ms(), ulid.random());
                (written == text).then_some(Self(written))
            }

            /// The time in the id, in milliseconds since the Unix epoch.
            pub fn unix_ms(&self) -> u64 {
                ulid::Ulid::from_string(self.short()).map_or(0, |ulid| ulid.timestamp_ms())
            }

            /// Returns the id as answers and headers show it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The id without its prefix, for names of entries.
            pub fn short(&self) -> &str {
                &self.0[Self::PREFIX.len()..]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

stored_id! {
    /// The id of an operation: `op_` and 26 characters.
    OperationId, "op_"
}
stored_id! {
    /// The id of a file, in OpenAI's form: `file-` and 26 characters.
    FileId, "file-"
}
stored_id! {
    /// The id of a batch, in OpenAI's form: `batch_` and 26 characters.
    BatchId, "batch_"
}

fn sortable(prefix: &str, unix_ms: u64, random: u128) -> String {
    let ulid = ulid::Ulid::from_parts(unix_ms, random);
    let mut buffer = [0; ulid::ULID_LEN];
    let text: &str = ulid.array_to_str(&mut buffer);
    let mut id = String::with_capacity(prefix.len() + text.len());
    id.push_str(prefix);
    for c in text.chars() {
        id.push(c.to_ascii_lowercase());
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_name_cannot_leave_its_folder() {
        let longest = "a".repeat(MAX_MODEL_NAME_BYTES);
        for good in [
            "magika",
            "cls",
            "a",
            "0",
            "resnet-50_v1.5",
            "MyModel",
            "_under",
            "-dash",
            "a..b",
            "A.",
            &longest,
        ] {
            assert!(ModelName::parse(good).is_some(), "{good}");
        }
        let long = "a".repeat(MAX_MODEL_NAME_BYTES + 1);
        for bad in [
            "",
            ".",
            "..",
            "...",
            ".git",
            "../x",
            "a/b",
            "a\\b",
            "ä",
            "a b",
            "a\0",
            "a@1",
            "a:predict",
            "a#1",
            "a~1",
            "a!shadow",
            "a%2e",
            "a*",
            &long,
        ] {
            assert!(ModelName::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_version_has_one_spelling() {
        assert_eq!(ModelVersion::parse("1").map(ModelVersion::get), Some(1));
        assert_eq!(
            ModelVersion::parse("4294967295").map(ModelVersion::get),
            Some(4_294_967_295)
        );
        // Times as versions, which TensorFlow Serving's exporters make.
        for large in ["20251129021500", "1764382500123", "18446744073709551615"] {
            let version = ModelVersion::parse(large).unwrap();
            assert_eq!(version.to_string(), large);
        }
        for bad in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            "1.0",
            "v1",
            "18446744073709551616",
            "100000000000000000000",
        ] {
            assert!(ModelVersion::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_callers_request_id_is_taken_only_when_it_cannot_break_a_log_line_or_a_header() {
        assert_eq!(RequestId::from_header(b"abc-1").unwrap().as_str(), "abc-1");
        for bad in [&b""[..], b"a b", b"a\nb", b"\xff", &[b'a'; 129]] {
            assert!(RequestId::from_header(bad).is_none());
        }
    }

    #[test]
    fn generated_ids_sort_by_time_and_differ_by_randomness() {
        let early = RequestId::generate(1_000, 7);
        let late = RequestId::generate(2_000, 3);
        assert!(early.as_str() < late.as_str());
        assert_eq!(early.as_str().len(), "req_".len() + 26);
        assert_ne!(PredictionId::generate(1, 1), PredictionId::generate(1, 2));
    }
}
