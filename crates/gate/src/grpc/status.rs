//! Maps an error to a gRPC answer: the status code, the message, and a `google.rpc.Status` with details for programs.
//! The texts come from the catalogue of errors.

use super::encode;
use crate::record::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use penstock_core::{Code, Problem, RequestId, grpc};
use penstock_proto::google::protobuf::{Any, Duration};
use penstock_proto::google::rpc;
use penstock_tensor::Buffer;
use prost::Message;
use std::collections::BTreeMap;

/// The most bytes of a `google.rpc.Status`. In base64 it has to fit the clients' limit for headers, 8 KiB by default.
/// Violations that do not fit are left out and counted.
pub const MAX_DETAILS_BYTES: usize = 3_584;

/// The most bytes of the list of names that exist.
const MAX_AVAILABLE_BYTES: usize = 1_024;

/// The domain of the error reasons (`google.rpc.ErrorInfo`).
const DOMAIN: &str = "penstock";

/// Returns the answer of a successful call.
pub fn succeeded(message: impl Into<Buffer>) -> Response {
    let mut response = Response::new(200, grpc::CONTENT_TYPE, message);
    response.push(grpc::STATUS, "0");
    response
}

/// Returns the answer of a failed call. It has no message.
pub fn refused(problem: &Problem, request_id: &RequestId) -> Response {
    let mut response = Response::new(200, grpc::CONTENT_TYPE, Vec::new());
    let status = problem.code.grpc_status();
    response.push(grpc::STATUS, status.number().to_string());
    response.push(grpc::MESSAGE, grpc::encode_message(&problem.message));
    let details = details(problem, request_id).encode_to_vec();
    response.push(grpc::DETAILS, STANDARD_NO_PAD.encode(details));
    if let Some(seconds) = problem.retry_after_s {
        response.push(grpc::PUSHBACK, (u64::from(seconds) * 1_000).to_string());
    }
    for (name, value) in problem.headers() {
        if name != "allow" {
            response.push(name, value);
        }
    }
    response
}

/// Returns the answer to one failed message of a stream; the stream continues. An unauthenticated caller or a
/// disabled tenant gets an error that ends the stream, because no later message can succeed.
pub fn refused_in_stream(problem: &Problem, request_id: &RequestId, id: &str) -> Response {
    if problem.code.status() == 401 || problem.code == Code::TenantDisabled {
        return refused(problem, request_id);
    }
    let text = format!("{}: {}", problem.code.as_str(), problem.message);
    let end = text.floor_char_boundary(grpc::MAX_MESSAGE_BYTES);
    let text = text.get(..end).unwrap_or_default();
    succeeded(encode::stream_error(text, id))
}

/// Builds the details of an error for programs.
fn details(problem: &Problem, request_id: &RequestId) -> rpc::Status {
    let end = problem.message.floor_char_boundary(grpc::MAX_MESSAGE_BYTES);
    let mut metadata =
        BTreeMap::from([("http_status".to_owned(), problem.code.status().to_string())]);
    if !problem.available.is_empty() {
        let mut listed = problem.available.join(", ");
        listed.truncate(listed.floor_char_boundary(MAX_AVAILABLE_BYTES));
        metadata.insert("available".to_owned(), listed);
    }
    let mut status = rpc::Status {
        code: problem.code.grpc_status().number().into(),
        message: problem.message.get(..end).unwrap_or_default().to_owned(),
        details: vec![
            any(
                "google.rpc.ErrorInfo",
                &rpc::ErrorInfo {
                    reason: problem.code.as_str().to_owned(),
                    domain: DOMAIN.to_owned(),
                    metadata,
                },
            ),
            any(
                "google.rpc.RequestInfo",
                &rpc::RequestInfo {
                    request_id: request_id.as_str().to_owned(),
                    serving_data: String::new(),
                },
            ),
        ],
    };
    if let Some(seconds) = problem.retry_after_s {
        let retry_delay = Some(Duration {
            seconds: seconds.into(),
            nanos: 0,
        });
        status
            .details
            .push(any("google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay }));
    }
    if problem.violations.is_empty() {
        return status;
    }
    let mut bad = rpc::BadRequest::default();
    let mut room = MAX_DETAILS_BYTES.saturating_sub(status.encoded_len() + 128);
    let mut omitted = problem.violations_omitted;
    for violation in &problem.violations {
        let listed = rpc::bad_request::FieldViolation {
            field: field_path(&violation.pointer),
            description: violation.message.clone(),
            reason: violation.rule.clone(),
        };
        match room.checked_sub(listed.encoded_len() + 4) {
            Some(left) if omitted == problem.violations_omitted => {
                room = left;
                bad.field_violations.push(listed);
            }
            _ => omitted += 1,
        }
    }
    if omitted > 0 {
        bad.field_violations.push(rpc::bad_request::FieldViolation {
            field: String::new(),
            description: format!("{omitted} more are not listed"),
            reason: "more_violations".to_owned(),
        });
    }
    status.details.push(any("google.rpc.BadRequest", &bad));
    status
}

/// Returns the error of an operation, with its word for programs and the HTTP status that the call would have got.
pub fn of_operation(code: u8, message: &str, (reason, http_status): (&str, u16)) -> rpc::Status {
    let info = rpc::ErrorInfo {
        reason: reason.to_owned(),
        domain: DOMAIN.to_owned(),
        metadata: BTreeMap::from([("http_status".to_owned(), http_status.to_string())]),
    };
    // An operation that was cancelled has no word of the catalogue.
    let info = (!reason.is_empty()).then(|| any("google.rpc.ErrorInfo", &info));
    rpc::Status {
        code: code.into(),
        message: message.to_owned(),
        details: info.into_iter().collect(),
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

/// Converts a JSON pointer to a field path: `/inputs/0/shape` becomes `inputs[0].shape`.
fn field_path(pointer: &str) -> String {
    let mut path = String::with_capacity(pointer.len());
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        if !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit()) {
            path.push('[');
            path.push_str(&token);
            path.push(']');
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&token);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_core::Violation;

    fn read(response: &Response) -> rpc::Status {
        let text = response.header(grpc::DETAILS).unwrap();
        let bytes = STANDARD_NO_PAD.decode(text).unwrap();
        rpc::Status::decode(bytes.as_slice()).unwrap()
    }

    fn detail<M: Message + Default>(status: &rpc::Status, name: &str) -> Option<M> {
        let url = format!("type.googleapis.com/{name}");
        let any = status.details.iter().find(|any| any.type_url == url)?;
        Some(M::decode(any.value.as_slice()).unwrap())
    }

    fn id() -> RequestId {
        RequestId::from_header(b"r1").unwrap()
    }

    #[test]
    fn an_error_says_the_same_in_its_status_and_in_its_details() {
        let problem = Problem::new(Code::QuotaExceeded, "used up: 50 %").retry_after(7);
        let response = refused(&problem, &id());
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("application/grpc"));
        assert_eq!(response.header("grpc-status"), Some("8"));
        assert_eq!(response.header("grpc-message"), Some("used up: 50 %25"));
        assert_eq!(response.header("grpc-retry-pushback-ms"), Some("7000"));
        assert!(response.body.is_empty());
        let status = read(&response);
        assert_eq!((status.code, status.message.as_str()), (8, "used up: 50 %"));
        let retry: rpc::RetryInfo = detail(&status, "google.rpc.RetryInfo").unwrap();
        assert_eq!(retry.retry_delay.unwrap().seconds, 7);
        let info: rpc::ErrorInfo = detail(&status, "google.rpc.ErrorInfo").unwrap();
        assert_eq!(info.reason, "quota_exceeded");
        let request: rpc::RequestInfo = detail(&status, "google.rpc.RequestInfo").unwrap();
        assert_eq!(request.request_id, "r1");
        assert!(detail::<rpc::BadRequest>(&status, "google.rpc.BadRequest").is_none());
    }

    #[test]
    fn violations_are_fields_and_those_without_room_are_counted() {
        let violation = |index: usize| {
            let at = format!("/inputs/{index}/shape");
            Violation::new(at, "wrong_shape", "[4]", "é".repeat(100))
        };
        let few = Problem::new(Code::InvalidInputs, "wrong")
            .with_violations((0..2).map(violation).collect(), 0);
        let bad: rpc::BadRequest =
            detail(&read(&refused(&few, &id())), "google.rpc.BadRequest").unwrap();
        assert_eq!(bad.field_violations.len(), 2);
        assert_eq!(bad.field_violations[1].field, "inputs[1].shape");
        let many = Problem::new(Code::InvalidInputs, "x".repeat(5_000))
            .with_violations((0..32).map(violation).collect(), 5)
            .with_available(vec!["m".repeat(100); 1_000]);
        let response = refused(&many, &id());
        let status = read(&response);
        assert!(
            status.encoded_len() <= MAX_DETAILS_BYTES,
            "{}",
            status.encoded_len()
        );
        let bad: rpc::BadRequest = detail(&status, "google.rpc.BadRequest").unwrap();
        let listed = bad.field_violations.len() - 1;
        let last = bad.field_violations.last().unwrap();
        assert_eq!(
            last.description,
            format!("{} more are not listed", 32 + 5 - listed)
        );
        let bytes: usize = response
            .headers
            .iter()
            .map(|h| h.name.len() + h.value.len())
            .sum();
        assert!(bytes < 8 << 10, "{bytes}");
    }

    #[test]
    fn an_error_in_a_stream_is_an_answer_unless_its_caller_is_not_known() {
        let problem = Problem::new(Code::UnknownModel, "there is no model `x`");
        let response = refused_in_stream(&problem, &id(), "call 7");
        assert_eq!(response.header("grpc-status"), Some("0"));
        let read =
            penstock_proto::inference::ModelStreamInferResponse::decode(response.body.as_slice())
                .unwrap();
        assert_eq!(read.error_message, "unknown_model: there is no model `x`");
        assert_eq!(read.infer_response.unwrap().id, "call 7");
        let problem = Problem::new(Code::CredentialsRevoked, "revoked");
        let response = refused_in_stream(&problem, &id(), "call 7");
        assert_eq!(response.header("grpc-status"), Some("16"));
    }

    #[test]
    fn a_pointer_is_told_as_a_path_of_fields() {
        for (pointer, path) in [
            ("", ""),
            ("/inputs", "inputs"),
            ("/inputs/0/contents/12", "inputs[0].contents[12]"),
            ("/inputs/a~1b~0c", "inputs.a/b~c"),
            ("/inputs/a/0/3", "inputs.a[0][3]"),
        ] {
            assert_eq!(field_path(pointer), path);
        }
    }
}
