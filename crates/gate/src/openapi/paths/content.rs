//! Contents of bodies and answers.

use crate::openapi::schema::reference;
use serde_json::{Value, json};

/// JSON content of a schema.
pub(super) fn as_json(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// JSON content of a schema that has a name.
pub(super) fn named(name: &str) -> Value {
    as_json(reference(name))
}

/// An answer of `infer`: JSON, or JSON with bytes behind it. Bytes are written as OpenAPI 3.0 has them: generators know that
/// form, and not yet what 3.1 has in its place.
pub(super) fn infer_answer() -> Value {
    let mut content = named("InferResponse");
    content["application/octet-stream"] = json!({
        "schema": { "type": "string", "format": "binary", "description": BYTES_NOTE },
    });
    content
}

const BYTES_NOTE: &str = "JSON of `Inference-Header-Content-Length` bytes, followed by the tensors that are sent as \
    bytes.";

/// What a body of `infer` may be besides JSON.
pub(super) const INFER_BYTES: (&[&str], &str) = (
    &["application/octet-stream"],
    "JSON; or, as `application/octet-stream`, JSON of `Inference-Header-Content-Length` bytes followed by the \
     tensors that are sent as bytes.",
);

/// What holds for tensors beyond their schemas.
pub(super) const TENSOR_NOTE: &str = "Bodies may be compressed (`Content-Encoding: gzip` or `zstd`). Nested arrays must be equally long \
on each level, axes of one name equally long in all inputs, and `data` must have as many elements as `shape` says. A body that \
does not meet the contract is answered with 422, which lists everything that is wrong.";

/// The headers of every call.
pub(super) const CALL_PARAMETERS: [&str; 2] = ["Idempotency-Key", "X-Model-Version"];
