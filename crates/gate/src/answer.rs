//! Writes the JSON bodies of successful answers. An answer that has one shape for every model is a struct, which also
//! describes it in the document of the API. Predictions depend on the model's contract and are written by hand.

pub(crate) mod usage;

use crate::catalogue::Opened;
use crate::oip::{self, platform};
use crate::ports::Ports;
use penstock_core::{Code, ModelVersion, PredictionId, Problem, RequestId};
use penstock_tensor::render;
use serde_json::{Value, json};

/// The content of a `:predict` answer.
pub struct Prediction<'a> {
    /// The permanent id of the prediction.
    pub id: &'a PredictionId,
    /// The caller's own id of the call.
    pub caller_id: Option<&'a str>,
    /// The model that answered.
    pub model: &'a str,
    /// The version of the model.
    pub version: ModelVersion,
    /// The predictions as a written JSON array; `None` if the caller wants only an explanation.
    pub predictions: Option<&'a [u8]>,
    /// The number of values in it that JSON cannot represent and that appear as `null`.
    pub non_finite: u64,
    /// The explanation of the prediction as a written JSON object.
    pub explanation: Option<&'a [u8]>,
    /// The time since the request arrived, in nanoseconds.
    pub latency_ns: u64,
    /// The id of the request.
    pub request_id: &'a RequestId,
}

/// Writes the body of a `:predict` answer.
pub fn prediction(said: &Prediction<'_>) -> Vec<u8> {
    let Prediction {
        id,
        caller_id,
        model,
        version,
        predictions,
        non_finite,
        explanation,
        latency_ns,
        request_id,
    } = *said;
    let written = predictions.map_or(0, <[u8]>::len) + explanation.map_or(0, <[u8]>::len);
    let mut body = Vec::with_capacity(written + 256);
    body.extend_from_slice(b"{\"prediction_id\":");
    render::write_string(&mut body, id.as_str());
    if let Some(caller_id) = caller_id {
        body.extend_from_slice(b",\"id\":");
        render::write_string(&mut body, caller_id);
    }
    body.extend_from_slice(b",\"model\":");
    render::write_string(&mut body, model);
    body.extend_from_slice(b",\"model_version\":");
    render::write_string(&mut body, &version.to_string());
    if let Some(predictions) = predictions {
        body.extend_from_slice(b",\"predictions\":");
        body.extend_from_slice(predictions);
    }
    if non_finite > 0 {
        body.extend_from_slice(format!(",\"non_finite\":{non_finite}").as_bytes());
    }
    if let Some(explanation) = explanation {
        body.extend_from_slice(b",\"explanation\":");
        body.extend_from_slice(explanation);
    }
    write_latency(&mut body, latency_ns);
    body.extend_from_slice(b",\"request_id\":");
    render::write_string(&mut body, request_id.as_str());
    body.push(b'}');
    body
}

/// Writes the member `latency_ms`, in milliseconds with three decimals.
pub fn write_latency(body: &mut Vec<u8>, latency_ns: u64) {
    let us = latency_ns / 1_000;
    body.extend_from_slice(format!(",\"latency_ms\":{}.{:03}", us / 1_000, us % 1_000).as_bytes());
}

/// Returns a model in OpenAI's form. `created` is the modification time of the contract in use.
pub fn openai_model(name: &str, created_s: u64) -> Value {
    json!({ "id": name, "object": "model", "created": created_s, "owned_by": "penstock" })
}

/// Returns one entry of `/v1/models`.
pub fn model<P: Ports>(name: &str, versions: &[ModelVersion], opened: &Opened<P>) -> Value {
    let contract = &opened.contract;
    let mut value = openai_model(name, opened.written_s);
    let more = json!({
        "name": name,
        "description": contract.description,
        "versions": version_names(versions),
        "format": contract.format.as_str(),
        "inputs": contract.inputs,
        "outputs": contract.outputs,
        "axes": contract.axes,
        "limits": contract.limits,
        "predict": format!("/v1/models/{name}:predict"),
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    if let Some(explain) = &contract.explain {
        value["explain"] = json!(explain);
    }
    if let Some(adapter) = &contract.adapter {
        value["adapter"] = json!(adapter.name);
    }
    value
}

/// Returns a model's metadata in the Open Inference Protocol's form.
pub fn model_metadata<P: Ports>(
    name: &str,
    versions: &[ModelVersion],
    opened: &Opened<P>,
) -> Value {
    let contract = &opened.contract;
    let ports = |specs: &[penstock_tensor::TensorSpec]| -> Vec<Value> {
        specs
            .iter()
            .map(|s| {
                json!({
                    "name": s.name,
                    "datatype": s.datatype.as_str(),
                    "shape": penstock_tensor::contract::dims_oip(s),
                })
            })
            .collect()
    };
    json!({
        "name": name,
        "versions": version_names(versions),
        "platform": platform(contract),
        "inputs": ports(&contract.inputs),
        "outputs": ports(&contract.outputs),
    })
}

/// Returns the server's metadata in the Open Inference Protocol's form.
pub fn server_metadata() -> Value {
    json!({ "name": "penstock", "version": env!("CARGO_PKG_VERSION"), "extensions": oip::EXTENSIONS })
}

/// Returns the error of one request in a batch.
pub fn error_of_item(problem: &Problem) -> Value {
    let mut value = json!({
        "code": problem.code.as_str(),
        "status": problem.code.status(),
        "message": problem.message,
    });
    if !problem.violations.is_empty() {
        value["details"] = json!(problem.violations);
    }
    if problem.violations_omitted > 0 {
        value["details_omitted"] = json!(problem.violations_omitted);
    }
    if let Some(seconds) = problem.retry_after_s {
        value["retry_after_s"] = json!(seconds);
    }
    value
}

/// Returns one entry of the catalogue of errors.
pub fn error_entry(code: Code) -> Value {
    json!({
        "code": code.as_str(), "status": code.status(),
        "title": code.title(), "remedy": code.remedy(),
    })
}

fn version_names(versions: &[ModelVersion]) -> Vec<String> {
    versions.iter().map(ToString::to_string).collect()
}
