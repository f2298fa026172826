//! Reads the requests of `google.longrunning.Operations`, and writes its messages.

use super::{status, structs};
use crate::record::Response;
use crate::route::{MESSAGE_TYPE, OperationForm, OperationTarget, shorten};
use penstock_core::{Code, Problem, Violation, grpc};
use penstock_proto::google::longrunning as pb;
use penstock_proto::google::protobuf::{Any, Duration};
use prost::Message;

/// The type of the result of a call over gRPC.
const RESULT: &str = "type.googleapis.com/inference.ModelInferResponse";

/// The largest result in bytes that is written as a `google.protobuf.Struct`. Clients of gRPC refuse messages of more than 4 MiB by
/// default; this leaves room for the other fields. A larger result is described instead.
pub const MAX_STRUCT_BYTES: usize = (4 << 20) - (64 << 10);

/// The form of names in messages.
const NAME: &str = "tenants/{tenant}/operations/{id}";

/// The parameters of a list, as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// The tenant whose operations are listed.
    pub tenant: String,
    /// Empty, or the state to select.
    pub filter: String,
    /// The operations on a page; 0 for the default.
    pub page_size: i32,
    /// Empty, or the token of a page.
    pub page_token: String,
}

/// Reads the name of an operation.
pub fn target(name: &str) -> Result<OperationTarget, Problem> {
    let parts: Vec<&str> = name.splitn(5, '/').collect();
    match parts.as_slice() {
        ["tenants", tenant, "operations", id] if !tenant.is_empty() && !id.is_empty() => {
            Ok(OperationTarget {
                id: (*id).to_owned(),
                form: OperationForm::Grpc {
                    tenant: (*tenant).to_owned(),
                },
            })
        }
        _ => Err(malformed("name", name, NAME)),
    }
}

/// Reads the request of a list.
pub fn list(said: pb::ListOperationsRequest) -> Result<ListRequest, Problem> {
    let parts: Vec<&str> = said.name.splitn(4, '/').collect();
    let tenant = match parts.as_slice() {
        ["tenants", tenant] | ["tenants", tenant, "operations"] if !tenant.is_empty() => *tenant,
        _ => return Err(malformed("name", &said.name, "tenants/{tenant}")),
    };
    Ok(ListRequest {
        tenant: tenant.to_owned(),
        filter: said.filter,
        page_size: said.page_size,
        page_token: said.page_token,
    })
}

/// Reads the longest time of a wait, in milliseconds.
pub fn timeout_ms(timeout: Duration) -> Result<u64, Problem> {
    let Duration { seconds, nanos } = timeout;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos @ 0..=999_999_999)) => {
            let whole_ms = seconds.saturating_mul(1_000);
            Ok(whole_ms.saturating_add(u64::from(nanos / 1_000_000)))
        }
        _ => Err(malformed(
            "timeout",
            &format!("{seconds} s and {nanos} ns"),
            "a duration of 0 or more, with 0 to 999999999 nanoseconds",
        )),
    }
}

/// Returns the problem of a field that is not in its form.
fn malformed(field: &str, sent: &str, expected: &str) -> Problem {
    let message = format!("`{field}` is `{}`; write `{expected}`", shorten(sent));
    let violation = Violation::new(
        format!("/{field}"),
        "malformed",
        expected.to_owned(),
        message.clone(),
    );
    Problem::new(Code::InvalidBody, message).with_violations(vec![violation], 0)
}

/// The parts of an operation for its message.
pub struct Parts<'a> {
    /// The full name.
    pub name: &'a str,
    /// The metadata as JSON.
    pub metadata: Vec<u8>,
    /// Whether it has ended.
    pub done: bool,
    /// The error, if it failed or was cancelled.
    pub error: Option<Error<'a>>,
    /// The result, if it succeeded and was asked for.
    pub response: Option<Any>,
}

/// The error of an operation for its message.
pub struct Error<'a> {
    /// The number of the gRPC status.
    pub code: u8,
    /// The problem and the remedy.
    pub message: &'a str,
    /// The stable word of the error; empty if there is none.
    pub reason: &'a str,
    /// The HTTP status that a synchronous call over REST would have got.
    pub http_status: u16,
}

/// Makes the message of an operation.
pub fn operation(parts: Parts<'_>) -> pb::Operation {
    let error = parts.error.map(|error| {
        let Error {
            code,
            message,
            reason,
            http_status,
        } = error;
        pb::operation::Result::Error(status::of_operation(code, message, (reason, http_status)))
    });
    let response = parts.response.map(pb::operation::Result::Response);
    pb::Operation {
        name: parts.name.to_owned(),
        metadata: structs::any_of(&parts.metadata, usize::MAX),
        done: parts.done,
        result: error.or(response),
    }
}

/// Writes the message of an operation.
pub fn written(parts: Parts<'_>) -> Vec<u8> {
    operation(parts).encode_to_vec()
}

/// Writes a page of operations.
pub fn written_list(operations: Vec<pb::Operation>, next_page_token: Option<String>) -> Vec<u8> {
    pb::ListOperationsResponse {
        operations,
        next_page_token: next_page_token.unwrap_or_default(),
    }
    .encode_to_vec()
}

/// Returns the result of a call over gRPC in its type.
pub fn result(message: &[u8]) -> Any {
    Any {
        type_url: RESULT.to_owned(),
        value: message.to_vec(),
    }
}

/// Makes the answer of a call over gRPC one that is kept as a result. It is also read over REST, where a message has its own media
/// type and no status of gRPC.
pub fn kept(mut response: Response) -> Response {
    response
        .headers
        .retain(|header| header.name != grpc::STATUS && header.name != "content-type");
    response.push("content-type", MESSAGE_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_tenant_and_an_id_and_every_other_form_is_refused() {
        let read = target("tenants/acme/operations/op_1").expect("a name");
        assert_eq!(read.id, "op_1");
        assert_eq!(read.form.tenant(), Some("acme"));
        for name in [
            "",
            "op_1",
            "operations/op_1",
            "tenants/acme/operations",
            "tenants/acme/operations/",
            "tenants//operations/op_1",
            "tenants/acme/operations/op_1/response",
            "/tenants/acme/operations/op_1",
            "users/acme/operations/op_1",
        ] {
            let refused = target(name).expect_err(name);
            assert_eq!(refused.code, Code::InvalidBody, "{name}");
            assert_eq!(refused.violations.len(), 1, "{name}");
        }
    }

    #[test]
    fn a_list_names_its_tenant() {
        let asked = |name: &str| {
            list(pb::ListOperationsRequest {
                name: name.to_owned(),
                page_size: 3,
                ..Default::default()
            })
        };
        for name in ["tenants/acme", "tenants/acme/operations"] {
            let read = asked(name).expect(name);
            assert_eq!((read.tenant.as_str(), read.page_size), ("acme", 3));
        }
        for name in [
            "",
            "operations",
            "tenants",
            "tenants/",
            "tenants//operations",
            "tenants/acme/models",
            "tenants/acme/operations/op_1",
        ] {
            assert_eq!(asked(name).expect_err(name).code, Code::InvalidBody);
        }
    }

    #[test]
    fn a_timeout_is_a_duration_that_is_not_negative() {
        let read = |seconds, nanos| timeout_ms(Duration { seconds, nanos }).ok();
        for (seconds, nanos, expected) in [
            (0, 0, Some(0)),
            (10, 999_999, Some(10_000)),
            (1, 500_000_000, Some(1_500)),
            (i64::MAX, 0, Some(u64::MAX)),
            (-1, 0, None),
            (0, -1, None),
            (0, 1_000_000_000, None),
        ] {
            assert_eq!(read(seconds, nanos), expected, "{seconds} {nanos}");
        }
    }
}
