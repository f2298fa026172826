//! Says which errors an operation can be answered with: every code of the catalogue, sorted by what asks.

use super::schema::reference;
use penstock_core::Code;
use serde_json::{Map, Value, json};

/// What kind of operation it is, as far as its errors are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Says how things stand, and asks nobody who they are.
    Probe,
    /// Reads what is known of models, errors or use.
    Read,
    /// Runs a model.
    Call,
    /// Loads or unloads a model.
    Control,
}

const ALL: [Kind; 4] = [Kind::Probe, Kind::Read, Kind::Call, Kind::Control];

/// Which kinds of operations there are in which of the two forms.
const FORMS: [(Kind, bool); 7] = [
    (Kind::Probe, false),
    (Kind::Probe, true),
    (Kind::Read, false),
    (Kind::Read, true),
    (Kind::Call, false),
    (Kind::Call, true),
    (Kind::Control, true),
];

/// Which kinds of operations are answered with a code. Exhaustive, so that a new code has its place before it compiles.
fn kinds(code: Code) -> &'static [Kind] {
    use Kind::{Call, Control, Read};
    const EVERY: &[Kind] = &ALL;
    const KNOWN: &[Kind] = &[Read, Call, Control];
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
        | Code::UnknownModel
        | Code::UnknownVersion
        | Code::VersionGone
        | Code::InvalidParameter
        | Code::QuotaExceeded
        | Code::ModelNotReady
        | Code::StoreUnavailable => KNOWN,
        Code::MalformedJson
        | Code::InvalidBody
        | Code::InvalidContentCoding
        | Code::UnsupportedMediaType
        | Code::FailedPrecondition => BODIES,
        Code::IdempotencyKeyMissing
        | Code::IdempotencyKeyInvalid
        | Code::IdempotencyInFlight
        | Code::IdempotencyKeyExhausted
        | Code::ReplayUnavailable
        | Code::IdempotencyKeyReused
        | Code::ContextLengthExceeded
        | Code::InvalidInputs
        | Code::ModelRejectedInputs
        | Code::InferenceFailed
        | Code::ModelContractBroken
        | Code::NotCached => &[Call],
        // Reading statistics and the index, control, and parameters of a call.
        Code::NotSupported => &[Read, Control, Call],
        // Of the admin API, which has another address, and of gRPC.
        Code::UnknownResource | Code::AlreadyExists | Code::MalformedProtobuf => &[],
    }
}

/// The codes an operation of a kind is answered with, of one status.
fn codes(kind: Kind, status: u16) -> Vec<Code> {
    let wanted = |code: &Code| code.status() == status && kinds(*code).contains(&kind);
    Code::ALL.iter().copied().filter(wanted).collect()
}

/// The statuses of errors an operation of a kind is answered with.
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

/// References to the errors of one operation, by status.
pub fn of(kind: Kind, oip: bool) -> Map<String, Value> {
    statuses(kind)
        .into_iter()
        .map(|status| {
            let place = format!("#/components/responses/{}", name(kind, oip, status));
            (status.to_string(), json!({ "$ref": place }))
        })
        .collect()
}

/// All responses that [`of`] refers to.
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
    // The words stand beside the schemas, which are the same everywhere: one class in a generated client, not one for each
    // status. A new code is no breaking change either.
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

/// The three forms of an error, in the codes' own schemas narrowed to those of a status.
pub fn schemas() -> Map<String, Value> {
    let with = |description: &str, members: Value, required: &[&str]| {
        let mut schema = json!({
            "type": "object",
            "description": description,
            "properties": {
                "code": { "type": "string", "description": "A stable word for programs." },
                "status": { "type": "integer", "description": "The HTTP status." },
                "details": {
                    "type": "array", "items": reference("Violation"),
                    "description": "Everything that is wrong with the body.",
                },
                "available": {
                    "type": "array", "items": { "type": "string" },
                    "description": "The names that exist, where the one that was sent does not.",
                },
                "request_id": { "type": "string", "description": "Names the request, as the header `X-Request-Id` does." },
                "timestamp": { "type": "string", "format": "date-time" },
            },
            "required": required,
        });
        if let (Some(properties), Value::Object(members)) =
            (schema["properties"].as_object_mut(), members)
        {
            properties.extend(members);
        }
        schema
    };
    let message = || json!({ "type": "string", "description": "What is wrong, and what to do." });
    let body = with(
        "What is wrong.",
        json!({ "message": message() }),
        &["code", "message", "status", "request_id", "timestamp"],
    );
    let error = json!({
        "type": "object",
        "description": "An error.",
        "properties": { "error": reference("ErrorBody") },
        "required": ["error"],
    });
    let oip = with(
        "An error in the Open Inference Protocol's form.",
        json!({ "error": message() }),
        &["error", "code", "status", "request_id"],
    );
    let problem = with(
        "An error as RFC 9457 has it.",
        json!({
            "type": { "type": "string", "format": "uri-reference", "description": "The entry of the catalogue." },
            "title": { "type": "string" },
            "detail": message(),
        }),
        &["type", "title", "status", "detail", "code", "request_id"],
    );
    [
        ("Error", error),
        ("ErrorBody", body),
        ("OipError", oip),
        ("Problem", problem),
    ]
    .map(|(name, schema)| (name.to_owned(), schema))
    .into_iter()
    .collect()
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
