//! Lists the errors of each operation: every code of the catalogue, by the kind of operation.

use super::schema::reference;
use penstock_core::Code;
use serde_json::{Map, Value, json};

/// The kind of an operation, which determines its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reports a state, and needs no authentication.
    Probe,
    /// Reads data about models, errors or usage.
    Read,
    /// Runs a model, in any form of calls.
    Call,
    /// Loads or unloads a model.
    Control,
    /// Reads or ends a long-running call.
    Operations,
    /// Stores, reads or deletes a file or a batch.
    Batches,
}

const ALL: [Kind; 6] = [
    Kind::Probe,
    Kind::Read,
    Kind::Call,
    Kind::Control,
    Kind::Operations,
    Kind::Batches,
];

/// The kinds of operations that exist. `true` stands for the Open Inference Protocol's form of errors.
const FORMS: [(Kind, bool); 9] = [
    (Kind::Probe, false),
    (Kind::Probe, true),
    (Kind::Read, false),
    (Kind::Read, true),
    (Kind::Call, false),
    (Kind::Call, true),
    (Kind::Control, true),
    (Kind::Operations, false),
    (Kind::Batches, false),
];

/// Returns the kinds of operations that can return a code. The match is exhaustive, so a new code must be classified
/// before it compiles.
fn kinds(code: Code) -> &'static [Kind] {
    use Kind::{Batches, Call, Control, Operations, Read};
    const EVERY: &[Kind] = &ALL;
    const KNOWN: &[Kind] = &[Read, Call, Control];
    const CALLERS: &[Kind] = &[Read, Call, Control, Operations, Batches];
    const BODIES: &[Kind] = &[Call, Control];
    match code {
        Code::MalformedRequest
        | Code::UnknownPath
        | Code::MethodNotAllowed
        | Code::NotAcceptable
        | Code::IncompleteBody
        | Code::RequestTimeout
        | Code::BodyTooLarge
        | Code::TargetTooLong
        | Code::HeadersTooLarge
        | Code::Internal
        | Code::Overloaded
        | Code::DeadlineExceeded => EVERY,
        Code::CredentialsMissing
        | Code::CredentialsMalformed
        | Code::CredentialsAmbiguous
        | Code::CredentialsInvalid
        | Code::CredentialsExpired
        | Code::CredentialsRevoked
        | Code::SignatureReplayed
        | Code::PermissionDenied
        | Code::TenantDisabled
        | Code::InvalidParameter
        | Code::StoreUnavailable => CALLERS,
        Code::UnknownModel | Code::UnknownVersion | Code::VersionGone | Code::ModelNotReady => {
            KNOWN
        }
        Code::QuotaExceeded => &[Read, Call, Control, Batches],
        Code::InvalidBody | Code::FailedPrecondition => &[Call, Control, Operations, Batches],
        Code::UnsupportedMediaType => &[Call, Control, Batches],
        Code::MalformedJson | Code::InvalidContentCoding => BODIES,
        Code::IdempotencyKeyMissing
        | Code::IdempotencyKeyInvalid
        | Code::IdempotencyInFlight
        | Code::IdempotencyKeyExhausted
        | Code::ReplayUnavailable
        | Code::IdempotencyKeyReused
        | Code::ContextLengthExceeded
        | Code::WebhookRefused
        | Code::InvalidInputs
        | Code::ModelRejectedInputs
        | Code::InferenceFailed
        | Code::ModelContractBroken
        | Code::NotCached => &[Call],
        // Statistics and the index, control, and parameters of a call return this code.
        Code::NotSupported => &[Read, Control, Call],
        Code::UnknownOperation => &[Operations],
        Code::UnknownFile | Code::UnknownBatch => &[Batches],
        // Only the admin API, which has another address, and gRPC return these codes.
        Code::UnknownResource | Code::AlreadyExists | Code::MalformedProtobuf => &[],
    }
}

/// Returns the codes with one status that a kind of operation can return.
fn codes(kind: Kind, status: u16) -> Vec<Code> {
    let wanted = |code: &Code| code.status() == status && kinds(*code).contains(&kind);
    Code::ALL.iter().copied().filter(wanted).collect()
}

/// Returns the error statuses that a kind of operation can return.
fn statuses(kind: Kind) -> Vec<u16> {
    let mut statuses: Vec<u16> = Code::ALL
        .iter()
        .filter(|code| kinds(**code).contains(&kind))
        .map(|code| code.status())
        .collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn name(kind: Kind, oip: bool, status: u16) -> String {
    format!("{kind:?}{}{status}", if oip { "Oip" } else { "" })
}

/// Returns references to the errors of one operation, by status.
pub fn of(kind: Kind, oip: bool) -> Map<String, Value> {
    statuses(kind)
        .into_iter()
        .map(|status| {
            let place = format!("#/components/responses/{}", name(kind, oip, status));
            (status.to_string(), json!({ "$ref": place }))
        })
        .collect()
}

/// Returns all responses that [`of`] refers to.
pub fn responses() -> Map<String, Value> {
    let mut all = Map::new();
    for (kind, oip) in FORMS {
        for status in statuses(kind) {
            all.insert(name(kind, oip, status), response(kind, oip, status));
        }
    }
    all
}

fn response(kind: Kind, oip: bool, status: u16) -> Value {
    let codes = codes(kind, status);
    let lines: Vec<String> = codes
        .iter()
        .map(|code| format!("`{}`: {}. {}", code.as_str(), code.title(), code.remedy()))
        .collect();
    let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    // The codes are listed beside the schemas, which are the same for all responses. A generated client therefore has
    // one class instead of one for each status, and a new code is not a breaking change.
    let own = reference(if oip { "OipError" } else { "Error" });
    let problem = reference("Problem");
    let mut headers = json!({ "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" } });
    let more: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        405 => &["Allow"],
        409 | 503 => &["Retry-After"],
        415 => &["Accept-Encoding"],
        429 => &["Retry-After", "RateLimit", "RateLimit-Policy"],
        _ => &[],
    };
    for header in more {
        headers[*header] = json!({ "$ref": format!("#/components/headers/{header}") });
    }
    json!({
        "description": lines.join("\n\n"),
        "headers": headers,
        "x-error-codes": words,
        "content": {
            "application/json": { "schema": own },
            "application/problem+json": { "schema": problem },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_a_caller_can_meet_is_described_with_its_remedy() {
        let all = responses();
        let text = Value::Object(all).to_string();
        for code in Code::ALL {
            let described = text.contains(&format!("`{}`: ", code.as_str()));
            assert_eq!(described, !kinds(*code).is_empty(), "{}", code.as_str());
        }
    }

    #[test]
    fn every_status_of_a_kind_is_there() {
        let all = responses();
        for (kind, oip) in FORMS {
            for (status, reference) in of(kind, oip) {
                let place = reference["$ref"].as_str().unwrap();
                let name = place.rsplit('/').next().unwrap();
                assert!(all.contains_key(name), "{kind:?} {status}");
            }
        }
    }
}
