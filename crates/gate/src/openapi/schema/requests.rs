//! Defines the schemas of requests under `/v1/models`.

use super::form::{Named, array, closed, or_null, reference, typed};
use serde_json::{Value, json};

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    let schemas = calls().into_iter().chain(parts());
    schemas.collect()
}

/// Returns the schema of a `:predict` body with tensors. `inputs` is the schema of all its inputs.
pub(super) fn tensor_request(description: &str, inputs: Value) -> Value {
    closed(
        description,
        json!({
            "inputs": inputs,
            "id": or_null(reference("CallerId")),
            "model_version": or_null(reference("Version")),
            "parameters": or_null(reference("Parameters")),
        }),
        &["inputs"],
    )
}

/// Returns the schemas of calls' bodies.
fn calls() -> Vec<Named> {
    vec![
        (
            "CallerId",
            json!({
                "type": "string", "maxLength": 256,
                "description": "The caller's own id for the call, at most 256 bytes; the answer repeats it.",
            }),
        ),
        (
            "Version",
            typed("string", "The requested version, by number or alias."),
        ),
        (
            "Parameters",
            json!({
                "type": "object",
                "description": "Ignored unless the method documents them.",
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
            }),
        ),
        (
            "TensorRequest",
            tensor_request(
                "Tensors for any model.",
                json!({
                    "description": "Values nested as the shapes: an object of all inputs by name, or only the value if the model has one input.",
                }),
            ),
        ),
        (
            "ContentRequest",
            closed(
                "Content for a model with an adapter.",
                json!({
                    "content": {
                        "description": "Parts, one part, or a text.",
                        "anyOf": [
                            { "type": "array", "items": reference("Part"), "minItems": 1, "maxItems": 64 },
                            reference("Part"),
                            { "type": "string" },
                        ],
                    },
                    "id": or_null(reference("CallerId")),
                    "model_version": or_null(reference("Version")),
                }),
                &["content"],
            ),
        ),
        (
            "PredictRequest",
            json!({
                "description": "Tensors or content for any model.",
                "anyOf": [reference("TensorRequest"), reference("ContentRequest")],
            }),
        ),
        (
            "BatchPredictRequest",
            closed(
                "Several requests for one model.",
                json!({
                    "requests": {
                        "type": "array", "minItems": 1,
                        "description": "Bodies of `:predict`.",
                        "items": reference("PredictRequest"),
                    },
                }),
                &["requests"],
            ),
        ),
    ]
}

/// Returns the schemas of content parts. Each form has its own schema, so a part with both `data` and `url` matches
/// none.
fn parts() -> Vec<Named> {
    let kinds = || json!({ "type": "string", "enum": ["image", "audio", "bytes"] });
    let media_type = || or_null(typed("string", "Such as `image/png`."));
    let text = || json!({ "type": "string", "const": "text" });
    vec![
        (
            "Part",
            json!({
                "description": "One part of the content.",
                "oneOf": [
                    reference("TextPart"),
                    reference("TokensPart"),
                    reference("DataPart"),
                    reference("UrlPart"),
                    reference("TensorPart"),
                ],
            }),
        ),
        (
            "TextPart",
            closed(
                "A text.",
                json!({ "type": text(), "text": { "type": "string" } }),
                &["type", "text"],
            ),
        ),
        (
            "TokensPart",
            closed(
                "A text as token ids of the model's vocabulary.",
                json!({
                    "type": text(),
                    "tokens": array(json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })),
                }),
                &["type", "tokens"],
            ),
        ),
        (
            "DataPart",
            closed(
                "An image, a recording or any bytes, in base64.",
                json!({
                    "type": kinds(),
                    "data": { "type": "string", "contentEncoding": "base64" },
                    "media_type": media_type(),
                }),
                &["type", "data"],
            ),
        ),
        (
            "UrlPart",
            closed(
                "An image, a recording or any bytes, in a `data:` URL.",
                json!({
                    "type": kinds(),
                    "url": typed("string", "A `data:` URL; the server fetches nothing."),
                    "media_type": media_type(),
                }),
                &["type", "url"],
            ),
        ),
        (
            "TensorPart",
            closed(
                "A tensor in the Open Inference Protocol's form.",
                json!({
                    "type": { "type": "string", "const": "tensor" },
                    "name": { "type": "string" },
                    "datatype": reference("Datatype"),
                    "shape": array(json!({ "type": "integer", "minimum": 0 })),
                    "data": array(json!({})),
                }),
                &["type", "name", "datatype", "shape", "data"],
            ),
        ),
    ]
}
