//! Defines the schemas of operations that no struct has: those for Google's client libraries, and the body of `:wait`.

use super::form::{Named, any_object, array, object, or_null, reference, typed};
use serde_json::json;

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    vec![
        (
            "OperationWait",
            object(
                "How long to wait.",
                json!({ "timeout": or_null(json!({
                    "type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,9})?s$",
                    "description": "Seconds, such as `10s`. The server waits 50 seconds at most, which is the default.",
                })) }),
                &[],
            ),
        ),
        (
            "GoogleOperation",
            object(
                "An operation as `google.longrunning.Operation`. It has `response` or `error` once it is done.",
                json!({
                    "name": { "type": "string" },
                    "metadata": any_object("A `google.protobuf.Any` with the members of OperationMetadata in `value`."),
                    "done": { "type": "boolean" },
                    "error": reference("GoogleStatus"),
                    "response": any_object("A `google.protobuf.Any` with the answer of the call in `value`."),
                }),
                &["name", "metadata", "done"],
            ),
        ),
        (
            "GoogleStatus",
            object(
                "An error as `google.rpc.Status`.",
                json!({
                    "code": typed("integer", "The number of the gRPC status."),
                    "message": { "type": "string" },
                }),
                &["code", "message"],
            ),
        ),
        (
            "GoogleOperationList",
            object(
                "A page of operations, the newest first.",
                json!({
                    "operations": array(reference("GoogleOperation")),
                    "nextPageToken": typed("string", "The token of the next page, if there may be one."),
                }),
                &["operations"],
            ),
        ),
    ]
}
