//! Defines the schemas of data about the server: metadata, errors, usage.

use super::form::{Named, any_object, array, object, reference, typed};
use serde_json::json;

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    let entry_members = || {
        json!({
            "code": typed("string", "A stable word for programs."),
            "status": typed("integer", "The HTTP status."),
            "title": { "type": "string" },
            "remedy": typed("string", "What to do next."),
        })
    };
    vec![
        (
            "ServerMetadata",
            object(
                "The server in the Open Inference Protocol's form.",
                json!({
                    "name": { "type": "string" },
                    "version": { "type": "string" },
                    "extensions": array(json!({ "type": "string" })),
                }),
                &["name", "version", "extensions"],
            ),
        ),
        (
            "Status",
            any_object("The state of the server or of a model."),
        ),
        (
            "ErrorCatalogue",
            object(
                "All errors.",
                json!({ "errors": array(reference("ErrorEntry")) }),
                &["errors"],
            ),
        ),
        (
            "ErrorEntry",
            object(
                "One error of the catalogue.",
                entry_members(),
                &["code", "status", "title", "remedy"],
            ),
        ),
        (
            "Violation",
            object(
                "One violation.",
                json!({
                    "pointer": typed("string", "The place in the body: a JSON pointer (RFC 6901)."),
                    "rule": typed("string", "The violated rule, as a stable word."),
                    "expected": { "type": "string" },
                    "message": { "type": "string" },
                }),
                &["pointer", "rule", "expected", "message"],
            ),
        ),
    ]
}
