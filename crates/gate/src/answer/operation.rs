//! Defines the answers about operations, in the plain form, in that of Google's client libraries, and as messages over gRPC.

use crate::grpc::operations::{self as messages, MAX_STRUCT_BYTES};
use crate::grpc::structs::{self, STRUCT, VALUE};
use crate::route::{MESSAGE_TYPE, OperationForm};
use penstock_core::clock::rfc3339;
use penstock_core::{Code, GrpcStatus, json};
use penstock_policy::operations::notes::QueuePlace;
use penstock_policy::operations::words::{End, Operation as Words, OperationState, Webhook};
use penstock_policy::webhooks::delivery::{EventKind, MAX_PAYLOAD_BYTES};
use penstock_proto::google::protobuf::Any as AnyMessage;
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;

/// An operation: a call that was accepted and runs later (Google AIP-151).
#[derive(Serialize, JsonSchema)]
pub(crate) struct Operation<'a> {
    /// The full name.
    name: String,
    /// Whether it has ended. Then it has either `response` or `error`.
    done: bool,
    metadata: OperationMetadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OperationError<'a>>,
    /// The answer of the call, if it succeeded. A result that is not JSON is described instead, and read at `location`.
    // It is always `None` here: the stored bytes are written after the other members, without a second parse.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<serde_json::Value>,
}

/// The state of an operation.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OperationMetadata<'a> {
    id: &'a str,
    #[schemars(extend("enum" = ["queued", "running", "succeeded", "failed", "cancelled"]))]
    state: &'static str,
    /// Whether a caller asked for its end.
    cancel_requested: bool,
    /// The kind of call.
    kind: &'a str,
    model: &'a str,
    model_version: String,
    items: u64,
    /// Runs so far.
    attempt: u32,
    #[schemars(extend("format" = "date-time"))]
    create_time: String,
    /// When the last run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    end_time: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    update_time: String,
    /// When it is deleted with its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    expire_time: Option<String>,
    /// When the next run may begin, after one that failed for a reason that may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    next_attempt_time: Option<String>,
    /// The number of operations that begin before it, about.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<u64>,
    /// The time until it begins, in milliseconds, about.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_wait_ms: Option<u64>,
    /// The announcement of its end, if there is one. Lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<OperationWebhook<'a>>,
}

/// The announcement of the end of an operation.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OperationWebhook<'a> {
    /// The URL that the call named. It is missing if the tenant's own is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    /// `skipped`: the operator chose that the tenant is not told of this kind of event. `disabled`: the receiver answered 410.
    #[schemars(extend("enum" = ["pending", "delivered", "failed", "disabled", "skipped"]))]
    state: &'static str,
    /// The attempts since the end, or since the last request to send it again.
    attempts: Vec<OperationWebhookAttempt<'a>>,
    /// When the next attempt is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    next_attempt_time: Option<String>,
    /// Why no attempt follows, if that is not because of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

/// An attempt to send a webhook.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OperationWebhookAttempt<'a> {
    #[schemars(extend("format" = "date-time"))]
    time: String,
    duration_ms: u64,
    /// The status of the receiver's answer, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The error, if the attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> OperationWebhook<'a> {
    fn new(webhook: &'a Webhook) -> Self {
        let delivery = &webhook.delivery;
        let next = (delivery.next_ms > 0 && !delivery.state.is_over()).then_some(delivery.next_ms);
        let attempts = delivery.attempts.iter();
        Self {
            url: webhook.url.as_deref(),
            state: delivery.state.as_str(),
            attempts: attempts
                .map(|attempt| OperationWebhookAttempt {
                    time: rfc3339(attempt.began_ms),
                    duration_ms: attempt.took_ms,
                    status: attempt.status,
                    error: attempt.error.as_deref(),
                })
                .collect(),
            next_attempt_time: next.map(rfc3339),
            note: delivery.note.as_deref(),
        }
    }
}

/// The message of a webhook, in the form that Standard Webhooks recommends.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OperationMessage<'a> {
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["operation.succeeded", "operation.failed", "operation.cancelled"]))]
    kind: &'static str,
    /// When the operation ended.
    #[schemars(extend("format" = "date-time"))]
    timestamp: String,
    /// The operation. A result that makes the message larger than 64 KiB is left out.
    // It is always `None` here: the operation is written after the other members.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Operation<'a>>,
}

/// Writes the message that announces the end of an operation. A result that makes it too large is left out.
pub(crate) fn message(kind: EventKind, words: &Words) -> Vec<u8> {
    let message = json::to_bytes(&OperationMessage {
        kind: kind.as_str(),
        timestamp: rfc3339(words.ended_ms.unwrap_or(words.created_ms)),
        data: None,
    });
    let about = |operation: &[u8]| with_member(message.clone(), "data", Some(operation));
    // A result that was not read is too large as well.
    if words.end.as_ref().is_none_or(|end| end.body.is_some()) {
        let whole = about(&operation(words, None, &OperationForm::Plain));
        if whole.len() <= MAX_PAYLOAD_BYTES {
            return whole;
        }
    }
    about(&json::to_bytes(&Operation::new(words, None)))
}

/// The error of an operation that failed or was cancelled (`google.rpc.Status`).
#[derive(Serialize, JsonSchema)]
pub(crate) struct OperationError<'a> {
    /// The number of the gRPC status.
    code: u8,
    /// The problem and the remedy.
    message: &'a str,
    /// The stable word of the error, as in other answers.
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    /// The HTTP status that a synchronous call would have got.
    status: u16,
}

/// The answer of an operation whose result is not JSON.
#[derive(Serialize)]
struct OtherResponse<'a> {
    content_type: &'a str,
    bytes: u64,
    location: String,
}

/// A page of operations.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OperationList<'a> {
    /// The newest first, without their results.
    operations: Vec<Operation<'a>>,
    /// The token of the next page, if there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

/// Writes a page of operations.
pub(crate) fn list(
    operations: &[Words],
    next_page_token: Option<String>,
    form: &OperationForm,
) -> Vec<u8> {
    let operations = operations.iter().map(|words| Operation::new(words, None));
    match form {
        OperationForm::Plain => json::to_bytes(&OperationList {
            operations: operations.collect(),
            next_page_token,
        }),
        OperationForm::Google { .. } => {
            let written: Vec<Operation<'_>> = operations.collect();
            json::to_bytes(&GoogleList {
                operations: written.iter().map(GoogleOperation::of).collect(),
                next_page_token,
            })
        }
        OperationForm::Grpc { .. } => {
            let written = operations.map(|written| messages::operation(parts(&written, None)));
            messages::written_list(written.collect(), next_page_token)
        }
    }
}

impl<'a> Operation<'a> {
    fn new(words: &'a Words, queue: Option<QueuePlace>) -> Self {
        let latest_ms = words
            .ended_ms
            .or(words.started_ms)
            .unwrap_or(words.created_ms);
        let queue = queue.filter(|_| words.state == OperationState::Queued);
        let failed = (words.end.as_ref()).filter(|end| end.state != OperationState::Succeeded);
        Self {
            name: name(words),
            done: words.state.is_final(),
            metadata: OperationMetadata {
                id: words.id.as_str(),
                state: words.state.as_str(),
                cancel_requested: words.cancel_requested,
                kind: &words.kind,
                model: &words.model,
                model_version: words.version.to_string(),
                items: words.items,
                attempt: words.attempts,
                create_time: rfc3339(words.created_ms),
                start_time: words.started_ms.map(rfc3339),
                end_time: words.ended_ms.map(rfc3339),
                update_time: rfc3339(latest_ms),
                expire_time: words.expires_ms.map(rfc3339),
                next_attempt_time: words.next_attempt_ms.map(rfc3339),
                queue_position: queue.map(|queue| queue.position),
                estimated_wait_ms: queue.and_then(|queue| queue.wait_ms),
                webhook: words.webhook.as_ref().map(OperationWebhook::new),
            },
            error: failed.map(|end| OperationError {
                code: status(end).number(),
                message: &end.message,
                reason: &end.code,
                status: end.status,
            }),
            response: None,
        }
    }
}

/// Returns the full name of an operation. Google's clients need a collection before `operations`.
pub(crate) fn name(words: &Words) -> String {
    format!("tenants/{}/operations/{}", words.tenant, words.id)
}

/// Returns the path of an operation in a form.
pub(crate) fn path(words: &Words, form: &OperationForm) -> String {
    match form {
        OperationForm::Plain => format!("/v1/operations/{}", words.id),
        OperationForm::Google { .. } | OperationForm::Grpc { .. } => {
            format!("/v1/{}", name(words))
        }
    }
}

fn status(end: &End) -> GrpcStatus {
    if end.state == OperationState::Cancelled {
        return GrpcStatus::Cancelled;
    }
    Code::parse(&end.code).map_or(GrpcStatus::Unknown, |code| code.grpc_status())
}

/// Writes an operation. One that succeeded has its result, or the place of a result that was not read: `done` without either would
/// break AIP-151.
pub(crate) fn operation(words: &Words, queue: Option<QueuePlace>, form: &OperationForm) -> Vec<u8> {
    let written = Operation::new(words, queue);
    let succeeded = (words.end.as_ref()).filter(|end| end.state == OperationState::Succeeded);
    let response = || succeeded.map(|end| response(words, end));
    match form {
        OperationForm::Plain => {
            with_member(json::to_bytes(&written), "response", response().as_deref())
        }
        OperationForm::Google { .. } => google(&written, response().as_deref()),
        OperationForm::Grpc { .. } => {
            let response = succeeded.and_then(|end| any_response(words, end));
            messages::written(parts(&written, response))
        }
    }
}

/// Returns the JSON of a result: the body itself, or a description of one that is not JSON or was not read.
fn response<'a>(words: &Words, end: &'a End) -> Cow<'a, [u8]> {
    // An answer with binary tensors begins with JSON and has its length in a header.
    match (essence(content_type(end)), end.body.as_deref()) {
        ("application/json", Some(body)) => Cow::Borrowed(body),
        _ => Cow::Owned(location_of(words, end)),
    }
}

/// Returns the result in an `Any`: the message of a call over gRPC, the body of another call as a `Struct`, or a description of a body
/// that is not JSON, is too large for a message, or was not read.
fn any_response(words: &Words, end: &End) -> Option<AnyMessage> {
    let described = || structs::any_of(&location_of(words, end), usize::MAX);
    match (essence(content_type(end)), end.body.as_deref()) {
        (MESSAGE_TYPE, Some(body)) => Some(messages::result(body)),
        ("application/json", Some(body)) => {
            structs::any_of(body, MAX_STRUCT_BYTES).or_else(described)
        }
        _ => described(),
    }
}

/// Returns the JSON that describes a result, and the place to read it at.
fn location_of(words: &Words, end: &End) -> Vec<u8> {
    json::to_bytes(&OtherResponse {
        content_type: content_type(end),
        bytes: end.body_bytes,
        location: format!("/v1/operations/{}/response", words.id),
    })
}

fn content_type(end: &End) -> &str {
    let header = end.headers.iter().find(|(name, _)| name == "content-type");
    header.map_or("", |(_, value)| value.as_str())
}

/// Returns a media type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Returns the parts of the message of an operation.
fn parts<'a>(written: &'a Operation<'a>, response: Option<AnyMessage>) -> messages::Parts<'a> {
    messages::Parts {
        name: &written.name,
        metadata: json::to_bytes(&written.metadata),
        done: written.done,
        error: written.error.as_ref().map(|error| messages::Error {
            code: error.code,
            message: error.message,
            reason: error.reason,
            http_status: error.status,
        }),
        response,
    }
}

/// Adds a member whose value is written to a written object.
fn with_member(mut object: Vec<u8>, member: &str, value: Option<&[u8]>) -> Vec<u8> {
    let Some(value) = value else {
        return object;
    };
    object.pop();
    // A large value gets no larger allocation than it needs.
    object.reserve_exact(value.len() + member.len() + 5);
    object.extend_from_slice(format!(",\"{member}\":").as_bytes());
    object.extend_from_slice(value);
    object.push(b'}');
    object
}

/// The JSON of a `google.longrunning.Operation` without its response. Its parsers refuse members that they do not know.
#[derive(Serialize)]
struct GoogleOperation<'a> {
    name: &'a str,
    metadata: Any<'a, OperationMetadata<'a>>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Status<'a>>,
}

/// The JSON of a `google.longrunning.ListOperationsResponse`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GoogleList<'a> {
    operations: Vec<GoogleOperation<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

/// The JSON of a `google.protobuf.Any` with a well-known type.
#[derive(Serialize)]
struct Any<'a, T> {
    #[serde(rename = "@type")]
    kind: &'static str,
    value: &'a T,
}

/// The JSON of a `google.rpc.Status`.
#[derive(Serialize)]
struct Status<'a> {
    code: u8,
    message: &'a str,
}

impl<'a> GoogleOperation<'a> {
    fn of(written: &'a Operation<'a>) -> Self {
        Self {
            name: &written.name,
            metadata: Any {
                kind: STRUCT,
                value: &written.metadata,
            },
            done: written.done,
            error: written.error.as_ref().map(|error| Status {
                code: error.code,
                message: error.message,
            }),
        }
    }
}

fn google(written: &Operation<'_>, response: Option<&[u8]>) -> Vec<u8> {
    let object = json::to_bytes(&GoogleOperation::of(written));
    let response = response.map(|value| {
        let kind = match value.first() {
            Some(b'{') => STRUCT,
            _ => VALUE,
        };
        with_member(
            format!("{{\"@type\":\"{kind}\"}}").into_bytes(),
            "value",
            Some(value),
        )
    });
    with_member(object, "response", response.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_core::OperationId;

    #[test]
    fn an_operation_that_succeeded_has_a_response_also_if_its_result_was_not_read() {
        let id = OperationId::generate(1_700_000_000_000, 7);
        let words = Words {
            id: id.clone(),
            tenant: "acme".to_owned(),
            kind: "predict".to_owned(),
            model: "m".to_owned(),
            version: 1,
            items: 1,
            state: OperationState::Succeeded,
            cancel_requested: false,
            created_ms: 1,
            started_ms: Some(2),
            ended_ms: Some(3),
            expires_ms: None,
            next_attempt_ms: None,
            attempts: 1,
            epoch: 1,
            end: Some(End {
                state: OperationState::Succeeded,
                code: String::new(),
                message: String::new(),
                status: 200,
                headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                body_bytes: 9,
                body: None,
            }),
            webhook: None,
        };
        let place = format!("/v1/operations/{id}/response");
        let tenant = "acme".to_owned();
        for form in [
            OperationForm::Plain,
            OperationForm::Google {
                tenant: tenant.clone(),
            },
        ] {
            let written = operation(&words, None, &form);
            let written: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
            let response = &written["response"];
            let described = response.get("value").unwrap_or(response);
            assert_eq!(written["done"], true);
            assert_eq!(described["location"], place.as_str());
            assert_eq!(described["bytes"], 9);
        }
        let written = operation(&words, None, &OperationForm::Grpc { tenant });
        let place = place.as_bytes();
        assert!(written.windows(place.len()).any(|part| part == place));
        // A message leaves a result out that is too large, and says so by its absence.
        let message = message(EventKind::Succeeded, &words);
        let message: serde_json::Value = serde_json::from_slice(&message).expect("JSON");
        assert!(message["data"].get("response").is_none());
    }
}
