//! Defines the answers about operations, in the plain form and in that of Google's client libraries.

use crate::route::OperationForm;
use penstock_core::clock::rfc3339;
use penstock_core::{Code, GrpcStatus, json};
use penstock_policy::operations::notes::QueuePlace;
use penstock_policy::operations::words::{End, Operation as Words, OperationState};
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;

/// The type of a JSON object in an `Any` of protocol buffers.
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
/// The type of any other JSON value in an `Any`.
const VALUE: &str = "type.googleapis.com/google.protobuf.Value";

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
        OperationForm::Google { .. } => format!("/v1/{}", name(words)),
    }
}

fn status(end: &End) -> GrpcStatus {
    if end.state == OperationState::Cancelled {
        return GrpcStatus::Cancelled;
    }
    Code::parse(&end.code).map_or(GrpcStatus::Unknown, |code| code.grpc_status())
}

/// Writes an operation, with its result if it is there.
pub(crate) fn operation(words: &Words, queue: Option<QueuePlace>, form: &OperationForm) -> Vec<u8> {
    let written = Operation::new(words, queue);
    let succeeded = (words.end.as_ref()).filter(|end| end.state == OperationState::Succeeded);
    let response = succeeded.and_then(|end| response(words, end));
    match form {
        OperationForm::Plain => {
            with_member(json::to_bytes(&written), "response", response.as_deref())
        }
        OperationForm::Google { .. } => google(&written, response.as_deref()),
    }
}

/// Returns the JSON of a result: the body itself, or a description of one that is not JSON.
fn response<'a>(words: &Words, end: &'a End) -> Option<Cow<'a, [u8]>> {
    let body = end.body.as_deref()?;
    let header = end.headers.iter().find(|(name, _)| name == "content-type");
    let content_type = header.map_or("", |(_, value)| value.as_str());
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    // An answer with binary tensors begins with JSON and has its length in a header.
    let is_json = essence == "application/json";
    Some(match is_json {
        true => Cow::Borrowed(body),
        false => Cow::Owned(json::to_bytes(&OtherResponse {
            content_type,
            bytes: end.body_bytes,
            location: format!("/v1/operations/{}/response", words.id),
        })),
    })
}

/// Adds a member whose value is written to a written object.
fn with_member(mut object: Vec<u8>, member: &str, value: Option<&[u8]>) -> Vec<u8> {
    let Some(value) = value else {
        return object;
    };
    object.pop();
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
