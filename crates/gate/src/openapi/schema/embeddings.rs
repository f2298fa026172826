//! Defines the schemas of `/v1/embeddings`, which follow OpenAI's reference.

use super::form::{Named, array, closed, object, or_null, reference, typed};
use serde_json::json;

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    let tokens =
        json!({ "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1 });
    vec![
        (
            "EmbeddingRequest",
            closed(
                "Texts for a model that embeds texts.",
                json!({
                    "model": typed("string", "The model's name, or `name@version`."),
                    "input": {
                        "description": "A text, several texts, or the same as token ids of the model's vocabulary.",
                        "anyOf": [
                            { "type": "string", "minLength": 1 },
                            { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
                            tokens,
                            { "type": "array", "items": tokens, "minItems": 1 },
                        ],
                    },
                    "encoding_format": or_null(json!({
                        "type": "string", "enum": ["float", "base64"],
                        "description": "`base64` encodes little-endian 32-bit floats.",
                    })),
                    "dimensions": or_null(json!({
                        "type": "integer", "minimum": 1,
                        "description": "The length of the model's vectors. Vectors are not shortened, so no other value is accepted.",
                    })),
                    "user": or_null(typed("string", "Not used.")),
                    "truncate_prompt_tokens": or_null(json!({
                        "type": "integer", "minimum": -1,
                        "description": "Cuts each text at its end to this many tokens; -1 means as many as the model can read. Without it a longer text is refused, unless the model's contract allows it.",
                    })),
                }),
                &["model", "input"],
            ),
        ),
        (
            "EmbeddingResponse",
            object(
                "One vector for each input.",
                json!({
                    "object": { "type": "string", "const": "list" },
                    "data": array(reference("Embedding")),
                    "model": { "type": "string" },
                    "usage": reference("EmbeddingUsage"),
                }),
                &["object", "data", "model", "usage"],
            ),
        ),
        (
            "Embedding",
            object(
                "The vector of one input.",
                json!({
                    "object": { "type": "string", "const": "embedding" },
                    "index": typed("integer", "The index of the input, from 0."),
                    "embedding": {
                        "anyOf": [
                            { "type": "array", "items": { "type": "number" } },
                            { "type": "string", "contentEncoding": "base64" },
                        ],
                    },
                }),
                &["object", "index", "embedding"],
            ),
        ),
    ]
}
