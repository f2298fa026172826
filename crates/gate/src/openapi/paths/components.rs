//! Defines the parameters and headers that operations refer to.

use serde_json::{Value, json};

/// Returns the parameters of requests.
pub fn parameters() -> Value {
    json!({
        "model": {
            "name": "model", "in": "path", "required": true,
            "description": "A model's name, of which `/v1/models` has the list.",
            "schema": { "type": "string" },
        },
        "version": {
            "name": "version", "in": "path", "required": true,
            "description": "One of the model's versions, or an alias of one.",
            "schema": { "type": "string" },
        },
        "explain": {
            "name": "explain", "in": "query",
            "description": "Whether the answer has an `explanation` beside its prediction.",
            "schema": { "type": "string", "enum": ["true", "false"] },
        },
        "target": {
            "name": "target", "in": "query",
            "description": "The class whose value is explained, by label or number; the likeliest where it is left out.",
            "schema": { "type": "string" },
        },
        "X-Request-Id": {
            "name": "X-Request-Id", "in": "header",
            "description": "The caller's name for the request, repeated in the answer; one is made where it is left out or of no use.",
            "schema": { "type": "string" },
        },
        "X-Model-Version": {
            "name": "X-Model-Version", "in": "header",
            "description": "The version that is to answer, where the path names none.",
            "schema": { "type": "string" },
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key", "in": "header",
            "description": "Chosen once for each call and repeated with each retry; the call is made once, and retries get its answer.",
            "schema": {
                "type": "string",
                "pattern": "^([!#-+\\--:<-~]{1,255}|\"([ !#-\\[\\]-~]|\\\\[\"\\\\]){1,255}\")$",
            },
        },
        "If-None-Match": {
            "name": "If-None-Match", "in": "header",
            "description": "Entity tags of copies the caller holds; 304 where one is still good.",
            "schema": { "type": "string" },
        },
        "Inference-Header-Content-Length": {
            "name": "Inference-Header-Content-Length", "in": "header",
            "description": "Bytes of JSON at the beginning of the body; tensors that are sent as bytes follow it.",
            "schema": { "type": "integer", "minimum": 0 },
        },
    })
}

/// Returns the headers of answers.
pub fn headers() -> Value {
    let text =
        |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let number = |description: &str| json!({ "description": description, "schema": { "type": "integer", "minimum": 0 } });
    json!({
        "X-Request-Id": text("Names the request; give it to the operator."),
        "X-Model-Version": text("The version that answered."),
        "X-Model-Version-Reason": text("Why that version, in a word."),
        "X-Prediction-Id": text("Names the prediction for good."),
        "Idempotency-Replayed": text("`true` where the call was made before and this is its answer."),
        "RateLimit": text("How each limit stands: `\"name\";r=<left>;t=<seconds>`."),
        "RateLimit-Policy": text("The limits that apply: `\"name\";q=<quota>;w=<seconds>`."),
        "Retry-After": number("Seconds after which a retry has a chance."),
        "ETag": text("Names this body in this content coding."),
        "Cache-Control": text("Whether the answer may be kept."),
        "Allow": text("The methods the path takes."),
        "Accept-Encoding": text("The accepted content codings."),
        "WWW-Authenticate": text("Which credentials would do."),
        "Age": number("Seconds since the result was computed, where it was kept."),
        "Cache-Status": text("Whether the result was kept from an earlier call (RFC 9211)."),
        "Deprecation": text("Since when the version is on its way out (RFC 9745)."),
        "Sunset": text("Until when the version answers (RFC 8594)."),
        "Link": text("The version to use in its place."),
    })
}
