//! Generates `/openapi.json`, an OpenAPI 3.1.0 document, from the served contracts and the catalogue of errors. It
//! therefore promises nothing else than the code does. The functions are pure and receive only the models that the
//! caller may see.
//!
//! Paths with `{model}` describe every method once, for any model. In addition, each model has its own paths, such as
//! `/v1/models/digits:predict`, with the shapes, ranges and labels of its contract and an example that runs. The
//! server also checks rules that a schema cannot express: nested arrays must have equal lengths, and inputs must have
//! equal numbers of items. It answers violations with 422, as the description of each operation states.
//!
//! [`MAX_DOCUMENT_BYTES`] bounds the document. Models that do not fit are named in `info`, and
//! `/openapi.json?model=<name>` describes a single model. Lists of labels and examples have their own bounds.

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

/// The most bytes that descriptions of models add to the document. The descriptions of the methods take about 250 KB
/// more.
pub const MAX_DOCUMENT_BYTES: usize = 2 << 20;

/// The version of OpenAPI of the document. Its schemas use JSON Schema 2020-12.
pub const VERSION: &str = "3.1.0";

/// Returns the document for a caller that may see these models.
pub fn document(models: &[Described<'_>], about: &About) -> Value {
    let mut all_paths = paths::generic(about);
    let mut schemas = schema::generic();
    let mut parameters = paths::parameters();
    if !about.sends_webhooks {
        for of_webhooks in ["OperationMessage", "WebhookKeys", "WebhookKey"] {
            schemas.remove(of_webhooks);
        }
        parameters
            .as_object_mut()
            .map(|all| all.remove("Webhook-Url"));
    }
    let mut room = MAX_DOCUMENT_BYTES;
    let mut left_out = Vec::new();
    let mut shared = paths::Shared::default();
    for model in models {
        let own_paths = paths::of_model(model, about);
        let own_schemas = schema::of_model(model);
        let bytes = length(&own_paths) + length(&own_schemas);
        // The first model is always described, so that a request for a single model succeeds.
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
            "parameters": parameters,
            "headers": paths::headers(),
            "responses": errors::responses(),
            "securitySchemes": security_schemes(),
        },
    });
    if about.sends_webhooks {
        document["webhooks"] = paths::webhooks();
    }
    if !left_out.is_empty() {
        document["info"]["x-models-left-out"] = json!({
            "models": left_out,
            "description": "These models do not fit into this document. /openapi.json?model=<name> describes one of them.",
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
    // Writing to a counter cannot fail.
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
            "description": "An API key, or a JSON Web Token of an issuer that the operator trusts.",
        },
        "apiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key." },
        "azureApiKey": {
            "type": "apiKey", "in": "header", "name": "api-key",
            "description": "An API key, in the header of Azure's clients.",
        },
        "signature": {
            "type": "apiKey", "in": "header", "name": "Signature",
            "description": "An HTTP message signature (RFC 9421) made with the API key's secret, together with `Signature-Input`. The secret is not sent.",
        },
        "certificate": {
            "type": "mutualTLS",
            "description": "A client certificate that the operator's policy names.",
        },
    })
}
