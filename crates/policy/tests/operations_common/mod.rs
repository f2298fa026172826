//! Calls, ends and times that the tests of operations share.

#![allow(dead_code)]

use penstock_core::Caller;
use penstock_policy::operations::words::{End, OperationState, Submission};

/// A time in the middle of an hour.
pub const NOW_MS: u64 = 1_795_262_400_000 + 1_800_000;
pub const HOUR_MS: u64 = 3_600_000;

pub fn caller(tenant: &str) -> Caller {
    Caller {
        tenant: tenant.to_owned(),
        ..Caller::anonymous(Some("192.0.2.1".to_owned()))
    }
}

pub fn submission(tenant: &str, body: &[u8]) -> Submission {
    Submission {
        caller: caller(tenant),
        kind: "predict".to_owned(),
        model: "m".to_owned(),
        version: 3,
        priority: Some(2),
        items: 5,
        method: "POST".to_owned(),
        target: "/v1/models/m:predict?x=1".to_owned(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.to_vec(),
        request_id: "req_1".to_owned(),
        receipt: "receipt".to_owned(),
        retry_of: None,
        webhook: None,
    }
}

pub fn end(state: OperationState, body: &[u8]) -> End {
    let succeeded = state == OperationState::Succeeded;
    let text = |text: &str| if succeeded { "" } else { text }.to_owned();
    End {
        state,
        code: text("internal"),
        message: text("it failed"),
        status: if succeeded { 200 } else { 500 },
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body_bytes: 0,
        body: Some(body.to_vec()),
    }
}

pub fn success(body: &[u8]) -> End {
    end(OperationState::Succeeded, body)
}
