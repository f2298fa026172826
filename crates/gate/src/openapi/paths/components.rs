//! Defines the parameters and headers that operations refer to.

use penstock_policy::webhooks::target::MAX_URL_BYTES;
use serde_json::{Value, json};

/// Returns the parameters of requests.
pub fn parameters() -> Value {
    json!({
        "model": {
            "name": "model", "in": "path", "required": true,
            "description": "A model's name. `/v1/models` lists the names.",
            "schema": { "type": "string" },
        },
        "version": {
            "name": "version", "in": "path", "required": true,
            "description": "A version of the model, or an alias.",
            "schema": { "type": "string" },
        },
        "explain": {
            "name": "explain", "in": "query",
            "description": "Whether the answer has an `explanation` in addition to its prediction.",
            "schema": { "type": "string", "enum": ["true", "false"] },
        },
        "target": {
            "name": "target", "in": "query",
            "description": "The class to explain, by label or number. The default is the most likely class.",
            "schema": { "type": "string" },
        },
        "X-Request-Id": {
            "name": "X-Request-Id", "in": "header",
            "description": "The caller's id of the request. The answer repeats it. The server generates one if it is missing or invalid.",
            "schema": { "type": "string" },
        },
        "X-Model-Version": {
            "name": "X-Model-Version", "in": "header",
            "description": "The requested version, if the path names none.",
            "schema": { "type": "string" },
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key", "in": "header",
            "description": "A key that the caller chooses for each call and repeats in each retry. The call runs once, and retries get its answer.",
            "schema": {
                "type": "string",
                "pattern": "^([!#-+\\--:<-~]{1,255}|\"([ !#-\\[\\]-~]|\\\\[\"\\\\]){1,255}\")$",
            },
        },
        "Prefer": {
            "name": "Prefer", "in": "header",
            "description": "`respond-async` asks for an operation instead of the result, and `wait=N` waits up to N seconds for the result first (RFC 7240).",
            "schema": { "type": "string" },
        },
        "Last-Event-ID": {
            "name": "Last-Event-ID", "in": "header",
            "description": "The id of the last event that the client has. The stream begins after it. An id of no event begins with the present state.",
            "schema": { "type": "string" },
        },
        "Webhook-Url": {
            "name": "Webhook-Url", "in": "header",
            "description": "The URL that is told of the end of the operation. Only for calls that become operations, and for tenants with a secret.",
            "schema": { "type": "string", "format": "uri", "maxLength": MAX_URL_BYTES },
        },
        "operation": {
            "name": "operation", "in": "path", "required": true,
            "description": "The `id` from the answer that accepted the call.",
            "schema": { "type": "string" },
        },
        "file": {
            "name": "file", "in": "path", "required": true,
            "description": "The `id` of a file.",
            "schema": { "type": "string" },
        },
        "batch": {
            "name": "batch", "in": "path", "required": true,
            "description": "The `id` of a batch.",
            "schema": { "type": "string" },
        },
        "tenant": {
            "name": "tenant", "in": "path", "required": true,
            "description": "The caller's tenant, as in the `name` of its operations.",
            "schema": { "type": "string" },
        },
        "If-None-Match": {
            "name": "If-None-Match", "in": "header",
            "description": "Entity tags of the caller's copies. The answer is 304 if one is still valid.",
            "schema": { "type": "string" },
        },
        "Inference-Header-Content-Length": {
            "name": "Inference-Header-Content-Length", "in": "header",
            "description": "The length in bytes of the JSON at the start of the body. Tensors sent as bytes follow it.",
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
        "X-Request-Id": text("The id of the request. Report it to the operator."),
        "X-Model-Version": text("The version that answered."),
        "X-Model-Version-Reason": text("The reason for the version, in one word."),
        "X-Prediction-Id": text("The permanent id of the prediction."),
        "Idempotency-Replayed": text("`true` if this is the answer of an earlier call with the same key."),
        "RateLimit": text("The state of each limit: `\"name\";r=<left>;t=<seconds>`."),
        "RateLimit-Policy": text("The limits that apply: `\"name\";q=<quota>;w=<seconds>`."),
        "Location": text("The path of the operation."),
        "Preference-Applied": text("`respond-async` if the operation was made because of `Prefer`."),
        "Retry-After": number("The delay in seconds after which a retry may succeed."),
        "ETag": text("The entity tag of this body in this content coding."),
        "Cache-Control": text("Whether and how the answer may be cached."),
        "Allow": text("The methods of the path."),
        "Accept-Encoding": text("The accepted content codings."),
        "WWW-Authenticate": text("The accepted kinds of credentials."),
        "Age": number("The age in seconds of a cached result."),
        "Cache-Status": text("Whether the result comes from the cache (RFC 9211)."),
        "Deprecation": text("The time since which the version is deprecated (RFC 9745)."),
        "Sunset": text("The time until which the version answers (RFC 8594)."),
        "Link": text("The version to use instead."),
    })
}
