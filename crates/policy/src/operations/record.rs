//! The stored records of an operation, and their formats. Each begins with the number of its format, so that a later release
//! can recognise it.

use super::words::{OperationState, Submission};
use crate::records::decode;
use penstock_core::Caller;
use penstock_core::headers::Headers;
use serde::{Deserialize, Serialize};

/// Bytes in one entry of a body or a result. Every store takes values of this size.
pub(super) const PART_BYTES: usize = 1 << 20;

/// The amount by which one operation moves the counter of its owner. The lower bits count bytes.
pub(super) const ONE: i64 = 1 << 40;

/// A call as it was accepted, without its body. It is written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The caller, without its address.
    pub caller: Caller,
    /// The owner in names of entries: a hash of the tenant.
    pub owner: String,
    /// The kind of route, such as `predict`.
    pub kind: String,
    /// The name of the model.
    pub model: String,
    /// The number of the version that runs it, fixed when the call was accepted.
    pub version: u64,
    /// The priority of the caller's tier.
    pub priority: Option<u8>,
    /// The number of items in the call.
    pub items: u64,
    /// The HTTP method of the call.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The headers that change how the call is read or answered.
    pub headers: Headers,
    /// Size of the body in bytes. The body is stored in parts of its own.
    pub body_bytes: u64,
    /// The id of the request that created it, for logs.
    pub request_id: String,
    /// The charges to return if it never runs.
    pub receipt: String,
    /// The time of acceptance, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Its number among those of its owner and hour.
    pub number: u64,
    /// Whether its end is announced.
    #[serde(default)]
    pub webhook: bool,
}

/// A run, as its owner reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    pub holder: String,
    pub started_ms: u64,
    pub renewed_ms: u64,
}

/// The notice of an owner that gave an operation back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// The time from which the next attempt may begin, in milliseconds since the Unix epoch.
    pub not_before_ms: u64,
    /// Whether the run counts as an attempt.
    pub counts: bool,
    /// The error code of the run.
    pub code: String,
    /// The error message of the run.
    pub message: String,
}

/// The end of an operation, without the result's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub state: EndState,
    pub code: String,
    pub message: String,
    pub status: u16,
    pub headers: Headers,
    pub body_bytes: u64,
    /// The epoch in the names of the result's entries.
    pub parts_epoch: u32,
    pub attempts: u32,
    pub started_ms: Option<u64>,
    pub ended_ms: u64,
}

/// A final state, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EndState {
    Succeeded,
    Failed,
    Cancelled,
}

impl From<EndState> for OperationState {
    fn from(state: EndState) -> Self {
        match state {
            EndState::Succeeded => Self::Succeeded,
            EndState::Failed => Self::Failed,
            EndState::Cancelled => Self::Cancelled,
        }
    }
}

impl Accepted {
    /// Parses a stored record; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }

    /// The call, with its body.
    pub(super) fn submission(self, body: Vec<u8>) -> Submission {
        Submission {
            caller: self.caller,
            kind: self.kind,
            model: self.model,
            version: self.version,
            priority: self.priority,
            items: self.items,
            method: self.method,
            target: self.target,
            headers: self.headers,
            body,
            request_id: self.request_id,
            receipt: self.receipt,
            retry_of: None,
            webhook: None,
        }
    }
}

/// Divides a body into its entries.
pub(super) fn split(body: Vec<u8>) -> Vec<Vec<u8>> {
    // Most bodies are one entry, which needs no copy.
    match parts(body.len() as u64) {
        0 => Vec::new(),
        1 => vec![body],
        _ => body.chunks(PART_BYTES).map(<[u8]>::to_vec).collect(),
    }
}

/// The number of entries of a body.
pub(super) fn parts(bytes: u64) -> u64 {
    bytes.div_ceil(PART_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::encode;

    #[test]
    fn a_record_reads_back_as_it_was_and_other_bytes_are_none() {
        let run = RunRecord {
            holder: "h".to_owned(),
            started_ms: 1,
            renewed_ms: 2,
        };
        let bytes = encode(&run);
        assert_eq!(decode(&bytes), Some(run));
        for bytes in [&b""[..], b"{}", &[2, b'{', b'}'], &bytes[..bytes.len() - 1]] {
            assert_eq!(decode::<RunRecord>(bytes), None);
        }
    }

    #[test]
    fn a_body_is_divided_into_parts_of_one_size() {
        for (bytes, count) in [(0, 0), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2)] {
            assert_eq!(parts(bytes), count);
            let body: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
            let divided = split(body.clone());
            assert_eq!((divided.len() as u64, divided.concat()), (count, body));
        }
    }
}
