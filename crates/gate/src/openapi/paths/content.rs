//! Describes the contents of bodies and answers.

use crate::openapi::schema::reference;
use serde_json::{Value, json};

/// Returns JSON content with a schema.
pub(super) fn as_json(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// Returns JSON content with a named schema.
pub(super) fn named(name: &str) -> Value {
    as_json(reference(name))
}

/// Returns the content of an `infer` answer: JSON, or JSON followed by bytes. Bytes have the form of OpenAPI 3.0,
/// because generators do not yet support its replacement in 3.1.
pub(super) fn infer_answer() -> Value {
    let mut content = named("InferResponse");
    content["application/octet-stream"] = json!({
        "schema": { "type": "string", "format": "binary", "description": BYTES_NOTE },
    });
    content
}

const BYTES_NOTE: &str = "JSON of `Inference-Header-Content-Length` bytes, followed by the tensors that are sent as \
    bytes.";

/// The media types of an `infer` body besides JSON, and their description.
pub(super) const INFER_BYTES: (&[&str], &str) = (
    &["application/octet-stream"],
    "JSON; or, as `application/octet-stream`, JSON of `Inference-Header-Content-Length` bytes followed by the \
     tensors that are sent as bytes.",
);

/// The rules for tensors that schemas cannot express.
pub(super) const TENSOR_NOTE: &str = "Bodies may be compressed (`Content-Encoding: gzip` or `zstd`). Nested arrays must be equally long \
on each level, axes of one name equally long in all inputs, and `data` must have as many elements as `shape` says. A body that \
does not meet the contract is answered with 422, which lists everything that is wrong.";

/// The parameters that every call has.
pub(super) const CALL_PARAMETERS: [&str; 2] = ["Idempotency-Key", "X-Model-Version"];
