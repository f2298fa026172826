//! Describes the operations on long-running calls: the methods that make them, and the paths under `operations` in both
//! forms.

use super::content::{CALL_PARAMETERS, as_json, named};
use super::operation::{Operation, operation};
use super::v1::{BATCH_PREDICT, PREDICT};
use crate::openapi::about::About;
use crate::openapi::errors::Kind;
use serde_json::{Value, json};

/// Returns the operations on long-running calls.
pub fn operations(about: &About) -> Vec<Operation> {
    let mut operations = calls();
    for google in [false, true] {
        operations.extend(of_form(google, about));
    }
    operations
}

/// Returns the messages that the server sends (`webhooks` of OpenAPI 3.1).
pub fn webhooks() -> Value {
    let text = |name: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": true,
            "description": description,
            "schema": { "type": "string" },
        })
    };
    let post = json!({
        "operationId": "operationEnded",
        "tags": ["operations"],
        "summary": "An operation has ended",
        "description": "Sent in the form of Standard Webhooks to the URL of the call or of the tenant. Any status of 200 to 299 takes the \
            message; 410 says that the receiver wants no more. Other answers, and none within 15 seconds, lead to another attempt: \
            ten over three days. The same message may come more than once.",
        "parameters": [
            text("webhook-id", "The id of the message, the same for all attempts."),
            text("webhook-timestamp", "The time of the attempt, in seconds since the Unix epoch."),
            text("webhook-signature", "Signatures of id, timestamp and body: `v1` by each secret of the tenant, `v1a` by the key at /.well-known/penstock/webhook-keys."),
        ],
        "requestBody": { "required": true, "content": named("OperationMessage") },
        "responses": { "2XX": { "description": "The message is taken." } },
    });
    json!({ "operationEnded": { "post": post } })
}

/// Returns the methods that always make an operation.
fn calls() -> Vec<Operation> {
    let mut operations = Vec::new();
    for (call, summary) in [
        (PREDICT, "Run a model as an operation"),
        (
            BATCH_PREDICT,
            "Run a model on several requests as an operation",
        ),
    ] {
        for pinned in [false, true] {
            let (below, of, parameters): (_, _, &[&str]) = match pinned {
                false => ("", "Model", &["model"]),
                true => ("/versions/{version}", "ModelVersion", &["model", "version"]),
            };
            let verb = call.verb;
            let summary = match pinned {
                false => summary.to_owned(),
                true => summary.replace("a model", "a version of a model"),
            };
            let made = operation(
                ("post", &format!("/v1/models/{{model}}{below}:{verb}Async")),
                &format!("{verb}Async{of}"),
                "operations",
                &summary,
                Kind::Call,
            )
            .saying(&format!(
                "Takes the body of `:{verb}`. It is checked now and runs later; the operation has the result."
            ))
            .not_deferrable()
            .with(parameters)
            .with(&CALL_PARAMETERS)
            .with(&["Prefer"])
            .taking(named(call.request))
            .accepting()
            .answering(
                "200",
                "The result, if it was there within the wait that `Prefer` asks for.",
                named(call.response),
            );
            operations.push(match verb {
                "predict" => made.with(&["explain", "target"]).or_taking(
                    &["*/*"],
                    "JSON. For models with an adapter also the raw content with its own content type.",
                ),
                _ => made.answering(
                    "207",
                    "Some requests failed; each has its own status.",
                    named(call.response),
                ),
            });
        }
    }
    operations
}

/// Returns the paths under `operations` in the plain form, or in that of Google's client libraries.
fn of_form(google: bool, about: &About) -> Vec<Operation> {
    let (base, of, note, schema, list): (_, _, _, _, _) = match google {
        false => (
            "/v1/operations",
            "Operation",
            "",
            "Operation",
            "OperationList",
        ),
        true => (
            "/v1/tenants/{tenant}/operations",
            "TenantOperation",
            ", in the form of Google's client libraries",
            "GoogleOperation",
            "GoogleOperationList",
        ),
    };
    let parameters: &[&str] = if google { &["tenant"] } else { &[] };
    let one = |method, below: &str, verb: &str, summary: &str| {
        operation(
            (method, &format!("{base}/{{operation}}{below}")),
            &format!("{verb}{of}"),
            "operations",
            &format!("{summary}{note}"),
            Kind::Operations,
        )
        .with(parameters)
        .with(&["operation"])
    };
    let mut list_all = operation(
        ("get", base),
        &format!("list{of}s"),
        "operations",
        &format!("List the operations{note}"),
        Kind::Operations,
    )
    .saying("The operations of the caller's tenant, the newest first, without their results. A page may have fewer operations than asked for, or none, and still name a next one.")
    .with(parameters)
    .answering("200", "A page of operations.", named(list));
    list_all.parameters.extend(list_parameters(google));
    let stored = json!({
        "application/json": { "schema": {} },
        "application/octet-stream": { "schema": { "type": "string", "format": "binary" } },
        "application/protobuf": { "schema": { "type": "string", "format": "binary" } },
    });
    let mut one_or_events = named(schema);
    one_or_events["text/event-stream"] = json!({
        "schema": {
            "type": "string",
            "description": "Events of the HTML standard: `operation.queued`, `operation.running`, and one of `operation.succeeded`, \
                `operation.failed` and `operation.cancelled`, each with the operation as its data. `error` ends a stream early; its data \
                is an error with the member `reconnect`.",
        },
    });
    let mut operations = vec![
        list_all,
        one("get", "", "get", "Get an operation")
            .saying("With `Prefer: wait=N` the answer waits up to N seconds for the end. With `Accept: text/event-stream` it is a stream of the operation's events until the end; a client that names the last of them gets 204. Limits on calls do not apply.")
            .with(&["Prefer", "Last-Event-ID"])
            .tagged()
            .answering("200", "The operation, or its events.", one_or_events),
        one("delete", "", "delete", "Delete a finished operation")
            .saying("Deletes the operation with its result. One that has not ended is refused with 409.")
            .answering("200", "It is deleted.", as_json(json!({ "type": "object" }))),
        one("post", ":cancel", "cancel", "Cancel an operation")
            .saying("Asks for the end. The answer is the operation as it is then; cancelling it again changes nothing.")
            .answering("200", "The operation.", named(schema)),
        one("post", ":wait", "wait", "Wait for an operation")
            .saying("Waits for the end, up to `timeout`, and answers with the operation as it is then.")
            .with(&["Prefer"])
            .taking_if_any(named("OperationWait"))
            .answering("200", "The operation.", named(schema)),
        one("get", "/response", "getResponseOf", "Get the result of an operation")
            .saying("The answer that a synchronous call would have got: its status, its headers and its body.")
            .failing_as(Kind::Call)
            .answering("200", "The result.", stored.clone())
            .answering("207", "Some requests of a batch failed; each has its own status.", stored),
    ];
    if about.sends_webhooks {
        operations.push(
            one(
                "post",
                ":announce",
                "announce",
                "Send the webhook of an operation again",
            )
            .saying("The message is sent again, with the same id, from the first attempt on.")
            .answering("200", "The operation.", named(schema)),
        );
    }
    operations
}

/// Returns the parameters of a list.
fn list_parameters(google: bool) -> Vec<Value> {
    let (size, token) = match google {
        false => ("page_size", "page_token"),
        true => ("pageSize", "pageToken"),
    };
    let filter = match google {
        false => json!({
            "name": "state", "in": "query",
            "description": "Lists only operations in this state.",
            "schema": { "type": "string", "enum": ["queued", "running", "succeeded", "failed", "cancelled"] },
        }),
        true => json!({
            "name": "filter", "in": "query",
            "description": "Lists only operations in a state: `state = \"running\"`.",
            "schema": { "type": "string" },
        }),
    };
    vec![
        filter,
        json!({
            "name": size, "in": "query",
            "description": "The operations on a page: 50 if it is missing or 0, and 200 at most.",
            "schema": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
        }),
        json!({
            "name": token, "in": "query",
            "description": "The token of the page, from the answer before.",
            "schema": { "type": "string" },
        }),
    ]
}
