//! Describes the API: `/openapi.json`, OpenAPI 3.1.0, made from the contracts that serve and from the catalogue of errors,
//! so that it cannot promise what they do not keep. Pure: models come in as a list, those the caller may know of.
//!
//! Paths with `{model}` describe every method once, with what holds for any model. Beside them each model has paths of its
//! own, `/v1/models/digits:predict`, with the shapes, ranges and labels of its contract and an example that runs. What a
//! schema cannot say (that nested arrays are equally long, that two inputs have as many items) the server still checks and
//! answers with 422; the description of each operation says so.
//!
//! The document is bounded by [`MAX_DOCUMENT_BYTES`]: models that find no room are named in `info`, and
//! `/openapi.json?model=<name>` describes one of them alone. Lists of labels and examples have bounds of their own.

mod about;
mod content;
mod errors;
mod example;
mod names;
mod paths;
mod schema;
mod serve;

pub use about::{About, Described};
pub use example::{MAX_EXAMPLE_ELEMENTS, infer as infer_example, predict as predict_example};

pub(crate) use serve::serve;

use serde_json::{Map, Value, json};

/// How long the document may become by the models it describes; what describes the methods is some 100 KB beside it.
pub const MAX_DOCUMENT_BYTES: usize = 2 << 20;

/// The dialect of the schemas: OpenAPI 3.1 takes JSON Schema 2020-12.
pub const VERSION: &str = "3.1.0";

/// The document for a caller who may know of these models.
pub fn document(models: &[Described<'_>], about: &About) -> Value {
    let mut all_paths = paths::generic(about);
    let mut schemas = schema::generic();
    schemas.extend(errors::schemas());
    let mut room = MAX_DOCUMENT_BYTES;
    let mut left_out = Vec::new();
    let mut shared = paths::Shared::default();
    for model in models {
        let own_paths = paths::of_model(model, about);
        let own_schemas = schema::of_model(model);
        let bytes = length(&own_paths) + length(&own_schemas);
        // The first is always described: whoever asks for one model gets it.
        if bytes > room && room < MAX_DOCUMENT_BYTES {
            left_out.push(model.name);
            continue;
        }
        room = room.saturating_sub(bytes);
        all_paths.extend(own_paths);
        shared.offer(model);
        schemas.extend(own_schemas);
    }
    shared.write(&mut all_paths);
    let mut document = json!({
        "openapi": VERSION,
        "info": {
            "title": "Penstock",
            "summary": "Deep-learning models behind one API",
            "description": DESCRIPTION,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": paths::tags(),
        "security": security(about),
        "paths": all_paths,
        "components": {
            "schemas": schemas,
            "parameters": paths::parameters(),
            "headers": paths::headers(),
            "responses": errors::responses(),
            "securitySchemes": security_schemes(),
        },
    });
    if !left_out.is_empty() {
        document["info"]["x-models-left-out"] = json!({
            "models": left_out,
            "description": "There was no room to describe these models here; /openapi.json?model=<name> describes one of them.",
        });
    }
    document
}

const DESCRIPTION: &str = "Call a model with `POST /v1/models/{model}:predict`, in the Open Inference Protocol v2 under \
`/v2`, or in OpenAI's form at `/v1/embeddings` and `/v1/moderations`. Every answer has an `x-request-id`; every error has a stable `code`, \
described at `/errors/{code}`. Errors are RFC 9457 `application/problem+json` where `Accept` prefers that. Answers are \
compressed with zstd or gzip where `Accept-Encoding` asks for it. Every `GET` takes `HEAD` too, and every path `OPTIONS`.";

fn length(members: &Map<String, Value>) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Counting cannot fail.
    let _ = serde_json::to_writer(&mut counter, members);
    counter.0
}

fn security(about: &About) -> Value {
    let mut ways = vec![
        json!({ "bearer": [] }),
        json!({ "apiKey": [] }),
        json!({ "azureApiKey": [] }),
        json!({ "signature": [] }),
        json!({ "certificate": [] }),
    ];
    if !about.needs_credentials {
        ways.insert(0, json!({}));
    }
    Value::Array(ways)
}

fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http", "scheme": "bearer",
            "description": "An API key, or a JSON Web Token of an issuer the operator trusts.",
        },
        "apiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key." },
        "azureApiKey": {
            "type": "apiKey", "in": "header", "name": "api-key",
            "description": "An API key, where clients of Azure put it.",
        },
        "signature": {
            "type": "apiKey", "in": "header", "name": "Signature",
            "description": "An HTTP message signature (RFC 9421) with the API key's secret, beside `Signature-Input`; the secret stays with the caller.",
        },
        "certificate": {
            "type": "mutualTLS",
            "description": "A client certificate that the operator has named.",
        },
    })
}
