//! Describes the operations under `/v2`: the Open Inference Protocol with Triton's extensions.

use super::content::{CALL_PARAMETERS, INFER_BYTES, TENSOR_NOTE, infer_answer, named};
use super::operation::{Operation, operation};
use crate::openapi::errors::Kind;
use serde_json::{Value, json};

/// Returns the operations under `/v2`.
pub fn operations() -> Vec<Operation> {
    let mut operations = vec![
        operation(
            ("get", "/v2"),
            "getServerMetadata",
            "oip",
            "Get the server's name, version and extensions",
            Kind::Read,
        )
        .saying("The protocol's server metadata.")
        .answering(
            "200",
            "The server's name, version and extensions.",
            named("ServerMetadata"),
        ),
        operation(
            ("get", "/v2/health/live"),
            "getServerLive",
            "oip",
            "Check that the server is live",
            Kind::Probe,
        )
        .saying("The protocol's liveness probe.")
        .answering("200", "It is live.", named("ServerLive")),
        operation(
            ("get", "/v2/health/ready"),
            "getServerReady",
            "oip",
            "Check that the server is ready",
            Kind::Probe,
        )
        .saying("The protocol's readiness probe: as `/ready`, without the models.")
        .answering("200", "The server accepts calls.", named("Status"))
        .answering("503", "The server accepts no calls.", named("Status")),
    ];
    operations.extend(repository());
    for pinned in [false, true] {
        operations.extend(model(pinned));
    }
    operations
}

/// Returns the operations on a model, or on a version of it.
fn model(pinned: bool) -> Vec<Operation> {
    let (base, of, a_model, parameters): (_, _, _, &[&str]) = if pinned {
        (
            "/v2/models/{model}/versions/{version}",
            "ModelVersion",
            "a version of a model",
            &["model", "version"],
        )
    } else {
        ("/v2/models/{model}", "Model", "a model", &["model"])
    };
    let read = |below: &str, id: String, summary: &str, description: &str, schema: &str| {
        let path = format!("{base}{below}");
        let summary = summary.replace("{}", a_model);
        operation(("get", &path), &id, "oip", &summary, Kind::Read)
            .saying(description)
            .with(parameters)
            .answering("200", description, named(schema))
    };
    let call = |below: &str, id: String, summary: &str, description: &str| {
        let path = format!("{base}/{below}");
        let summary = summary.replace("{}", a_model);
        operation(("post", &path), &id, "oip", &summary, Kind::Call)
            .saying(description)
            .with(parameters)
            .with(&CALL_PARAMETERS)
    };
    let events = json!({ "text/event-stream": { "schema": { "type": "string" } } });
    vec![
        read(
            "",
            format!("get{of}Metadata"),
            "Get the inputs and outputs of {}",
            "The protocol's model metadata.",
            "ModelMetadata",
        ),
        read(
            "/ready",
            format!("get{of}Ready"),
            "Check that {} is ready",
            "The model is ready; otherwise the answer is 503.",
            "ModelReady",
        ),
        read(
            "/config",
            format!("get{of}Config"),
            "Get the configuration of {}",
            "The configuration in Triton's form.",
            "ModelConfig",
        ),
        read(
            "/stats",
            format!("get{of}Statistics"),
            "Get the statistics of {}",
            "The number and duration of runs, in Triton's form.",
            "ModelStatistics",
        ),
        call(
            "generate",
            format!("generate{of}"),
            "Run {} on inputs by name",
            "Triton's generate extension: one object of inputs, one object of outputs.",
        )
        .taking(named("GenerateRequest"))
        .answering("200", "The result.", named("GenerateResponse")),
        call(
            "generate_stream",
            format!("generateStream{of}"),
            "Run {} and answer with an event",
            "As `generate`; the answer is one server-sent event.",
        )
        .not_deferrable()
        .taking(named("GenerateRequest"))
        .answering("200", "The result.", events),
        call(
            "infer",
            format!("infer{of}"),
            "Run {} on tensors",
            TENSOR_NOTE,
        )
        .with(&["Inference-Header-Content-Length"])
        .taking(named("InferRequest"))
        .or_taking(INFER_BYTES.0, INFER_BYTES.1)
        .answering("200", "The result.", infer_answer()),
    ]
}

/// Returns the operations on the model repository.
fn repository() -> Vec<Operation> {
    let control = |verb: &'static str, id: &str, summary: &str| {
        let path = format!("/v2/repository/models/{{model}}/{verb}");
        operation(("post", &path), id, "oip", summary, Kind::Control)
            .saying("The operator allows it with `control = true` under `[models]`; otherwise the answer is 409.")
            .with(&["model"])
            .taking_if_any(named("RepositoryControl"))
            .answering("200", "Success.", Value::Null)
    };
    vec![
        operation(
            ("get", "/v2/models/stats"),
            "getStatistics",
            "oip",
            "Get the statistics of all models",
            Kind::Read,
        )
        .saying("The models that the caller may see, in Triton's form.")
        .answering(
            "200",
            "The number and duration of runs of each version.",
            named("ModelStatistics"),
        ),
        operation(
            ("post", "/v2/repository/index"),
            "listRepository",
            "oip",
            "List the models and their states",
            Kind::Control,
        )
        .saying("The models that the caller may see.")
        .taking_if_any(named("RepositoryIndexRequest"))
        .answering(
            "200",
            "One entry for each version.",
            named("RepositoryIndex"),
        ),
        control("load", "loadModel", "Load or reload a model"),
        control("unload", "unloadModel", "Unload a model"),
    ]
}
