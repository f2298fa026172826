//! The stored record of a call and its answer, and its format.
//!
//! A record is written once and never changed. It begins with the number of its format, so that a later release can
//! recognise it.

use super::key::Fingerprint;
use serde::{Deserialize, Serialize};

/// Headers of an answer that describe its content. All others belong to one exchange (ids, limits, dates, the connection)
/// and are computed again for a replay.
pub const REPLAYED_HEADERS: &[&str] = &[
    "content-type",
    "content-language",
    "inference-header-content-length",
    "x-model-version",
    "x-model-version-reason",
    "x-prediction-id",
    // An accepted call.
    "location",
    "preference-applied",
    "deprecation",
    "sunset",
    "link",
    // The status of a gRPC answer. Without them a failure would be replayed as an empty success.
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
];

/// The format of the records that this release writes.
const FORM: u8 = 1;

/// The record of a finished call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The fingerprint of the call.
    pub fingerprint: Fingerprint,
    /// The time at which it finished, in milliseconds since the Unix epoch.
    pub completed_ms: u64,
    /// The HTTP status of the answer, which a replay repeats.
    pub status: u16,
    /// Headers in lower case, only [`REPLAYED_HEADERS`].
    pub headers: Vec<(String, String)>,
    /// The body; or its size in bytes if it was too large to store.
    pub body: Result<Vec<u8>, u64>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    fingerprint: String,
    completed_ms: u64,
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    omitted_bytes: Option<u64>,
}

impl Outcome {
    /// Makes the record of an answer: the headers that are replayed, and the body unless it is larger than `max_bytes`.
    pub fn of(
        fingerprint: Fingerprint,
        completed_ms: u64,
        status: u16,
        headers: impl IntoIterator<Item = (String, String)>,
        body: &[u8],
        max_bytes: u64,
    ) -> Self {
        Self {
            fingerprint,
            completed_ms,
            status,
            headers: headers
                .into_iter()
                .filter(|(name, _)| REPLAYED_HEADERS.contains(&name.as_str()))
                .collect(),
            body: if body.len() as u64 > max_bytes {
                Err(body.len() as u64)
            } else {
                Ok(body.to_vec())
            },
        }
    }

    /// The value of one header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Writes the stored bytes: the format, the length of the head, the head as JSON, the body.
    pub fn encode(&self) -> Vec<u8> {
        let head = Head {
            fingerprint: self.fingerprint.as_str().to_owned(),
            completed_ms: self.completed_ms,
            status: self.status,
            headers: self.headers.clone(),
            omitted_bytes: self.body.as_ref().err().copied(),
        };
        let head = serde_json::to_vec(&head).expect("strings and numbers are JSON");
        let body = self.body.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(5 + head.len() + body.len());
        bytes.push(FORM);
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(body);
        bytes
    }

    /// Parses the bytes of [`Outcome::encode`]; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&form, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if form != FORM || rest.len() < length {
            return None;
        }
        let (head, body) = rest.split_at(length);
        let head: Head = serde_json::from_slice(head).ok()?;
        Some(Self {
            fingerprint: Fingerprint::from_name(&head.fingerprint)?,
            completed_ms: head.completed_ms,
            status: head.status,
            headers: head.headers,
            body: match head.omitted_bytes {
                Some(bytes) => Err(bytes),
                None => Ok(body.to_vec()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idempotency::key::CallParts;

    fn outcome(body: &[u8], max_bytes: u64) -> Outcome {
        let call = CallParts {
            tenant: "t",
            method: "POST",
            call_name: "/",
            query: "",
            content_type: "",
            body: b"",
        };
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Outcome::of(
            Fingerprint::of(&call),
            7,
            200,
            [
                header("content-type", "application/json"),
                header("x-prediction-id", "pred_1"),
                header("x-request-id", "req_1"),
                header("ratelimit", "\"a\";r=1"),
                header("set-cookie", "a=b"),
            ],
            body,
            max_bytes,
        )
    }

    #[test]
    fn an_outcome_reads_back_as_it_was_with_the_headers_that_describe_it() {
        for body in [&b""[..], b"{}", b"\0\xff\n"] {
            let outcome = outcome(body, 100);
            assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome.clone()));
            assert_eq!(outcome.headers.len(), 2);
            assert_eq!(outcome.header("x-prediction-id"), Some("pred_1"));
            assert_eq!(outcome.body.as_deref(), Ok(body));
        }
    }

    #[test]
    fn a_body_over_the_limit_is_remembered_by_its_size() {
        let outcome = outcome(&[b'x'; 11], 10);
        assert_eq!(outcome.body, Err(11));
        let bytes = outcome.encode();
        assert!(bytes.len() < 300);
        assert_eq!(Outcome::decode(&bytes), Some(outcome));
    }

    #[test]
    fn bytes_that_are_no_record_are_not_decoded() {
        let good = outcome(b"body", 100).encode();
        for bytes in [&b""[..], &[1], &[1, 255, 255, 255, 255], &[2, 0, 0, 0, 0]] {
            assert_eq!(Outcome::decode(bytes), None);
        }
        for end in 0..good.len() - b"body".len() {
            assert_eq!(Outcome::decode(&good[..end]), None);
        }
    }
}
