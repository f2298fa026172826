//! Defines the schemas of the bodies that store a file and create a batch, which no struct of an answer has.

use super::form::{Named, object, or_null};
use serde_json::json;

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    vec![
        (
            "OpenAiFileUpload",
            object(
                "A file to store.",
                json!({
                    "purpose": { "type": "string", "enum": ["batch"] },
                    "file": { "type": "string", "format": "binary" },
                }),
                &["purpose", "file"],
            ),
        ),
        (
            "OpenAiBatchCreation",
            object(
                "A batch to create.",
                json!({
                    "input_file_id": { "type": "string", "description": "The id of a file with the purpose `batch`." },
                    "endpoint": {
                        "type": "string",
                        "enum": ["/v1/embeddings", "/v1/moderations", "/v1/classify", "/v1/rerank", "/v1/score"],
                        "description": "The path that each line calls.",
                    },
                    "completion_window": { "type": "string", "enum": ["24h"] },
                    "metadata": or_null(json!({
                        "type": "object",
                        "maxProperties": 16,
                        "additionalProperties": { "type": "string", "maxLength": 512 },
                        "description": "The client's own notes.",
                    })),
                }),
                &["input_file_id", "endpoint", "completion_window"],
            ),
        ),
    ]
}
