//! Describes the operations on the server: probes, errors, the API description, usage.

use super::content::{as_json, named};
use super::operation::{Operation, operation};
use crate::openapi::about::About;
use crate::openapi::errors::Kind;
use penstock_core::Code;
use serde_json::json;

/// Returns the operations on the server itself.
pub fn operations(about: &About) -> Vec<Operation> {
    let html = json!({ "text/html": { "schema": { "type": "string" } } });
    let mut operations = vec![
        operation(
            ("get", "/healthz"),
            "getHealth",
            "server",
            "Check that the process answers",
            Kind::Probe,
        )
        .saying("For a liveness probe. It checks no model.")
        .answering("200", "It answers.", named("Health")),
        operation(
            ("get", "/ready"),
            "getReady",
            "server",
            "Check that the server accepts calls",
            Kind::Probe,
        )
        .saying("For a readiness probe. Shows the state of each model that the caller may see.")
        .answering("200", "The server accepts calls.", named("Status"))
        .answering(
            "503",
            "The server accepts no calls: it is loading its models, stopping or overloaded, or a required model cannot run.",
            named("Status"),
        ),
        operation(
            ("get", "/errors"),
            "listErrors",
            "server",
            "List the errors",
            Kind::Read,
        )
        .saying("The catalogue of errors, with the remedy for each.")
        .answering("200", "All errors.", named("ErrorCatalogue")),
        operation(
            ("get", "/errors/{code}"),
            "getError",
            "server",
            "Get one error of the catalogue",
            Kind::Read,
        )
        .saying("The `type` of an RFC 9457 error is the URL of this entry.")
        .answering("200", "The error.", named("ErrorEntry")),
        operation(
            ("get", "/openapi.json"),
            "getOpenApi",
            "server",
            "Get this description",
            Kind::Read,
        )
        .saying("Describes the models that the caller may see.")
        .answering(
            "200",
            "An OpenAPI 3.1 document.",
            as_json(json!({
                "type": "object", "description": "An OpenAPI 3.1 document.", "additionalProperties": true,
            })),
        ),
        operation(
            ("get", "/docs"),
            "getDocs",
            "server",
            "Get the page on which to read and try the API",
            Kind::Read,
        )
        .saying("One HTML page that loads nothing from elsewhere.")
        .answering("200", "The page.", html),
    ];
    if about.sends_webhooks {
        operations.push(webhook_keys());
    }
    for operation in &mut operations {
        match operation.id.as_str() {
            "getError" => operation.parameters.push(json!({
                "name": "code", "in": "path", "required": true,
                "description": "The error's `code`.",
                "schema": { "type": "string", "enum": Code::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>() },
            })),
            "getOpenApi" => operation.parameters.push(json!({
                "name": "model", "in": "query",
                "description": "Describes this model alone.",
                "schema": { "type": "string" },
            })),
            _ => {}
        }
    }
    if about.counts_usage {
        operations.push(usage());
    }
    operations
}

/// Returns the operation that reads the public keys of webhooks.
fn webhook_keys() -> Operation {
    operation(
        ("get", "/.well-known/penstock/webhook-keys"),
        "listWebhookKeys",
        "server",
        "List the keys that sign webhooks",
        Kind::Read,
    )
    .saying("The public keys of the signatures `v1a` (Ed25519). Receivers of one tenant check `v1` by their secret instead.")
    .answering("200", "The keys.", named("WebhookKeys"))
}

/// Returns the operation that reads the caller's own usage.
fn usage() -> Operation {
    let mut usage = operation(
        ("get", "/v1/usage"),
        "getUsage",
        "server",
        "Get the caller's own usage",
        Kind::Read,
    )
    .saying("The usage by day, model and API key, for at most one year.")
    .answering("200", "A page of the usage.", named("Usage"));
    for (name, schema, description) in [
        (
            "from",
            json!({ "type": "string", "format": "date" }),
            "The first day. The default is a month before `to`.",
        ),
        (
            "to",
            json!({ "type": "string", "format": "date" }),
            "The last day. The default is today.",
        ),
        (
            "page_token",
            json!({ "type": "string" }),
            "`next_page_token` of the previous page.",
        ),
    ] {
        usage.parameters.push(json!({
            "name": name, "in": "query", "schema": schema, "description": description,
        }));
    }
    usage
}
