//! Writes the JSON bodies of successful answers. An answer that has one shape for every model is a struct, which also
//! describes it in the document of the API. Predictions depend on the model's contract and are written by hand.

pub(crate) mod batch;
pub(crate) mod errors;
pub(crate) mod events;
pub(crate) mod model;
pub(crate) mod operation;
pub(crate) mod server;
pub(crate) mod text;
pub(crate) mod usage;

use penstock_core::{ModelVersion, PredictionId, RequestId};
use penstock_tensor::render;

/// The `object` of OpenAI's lists.
pub(crate) const LIST: &str = "list";

/// The content of a `:predict` answer.
pub struct Prediction<'a> {
    /// The permanent id of the prediction.
    pub id: &'a PredictionId,
    /// The caller's own id of the call.
    pub caller_id: Option<&'a str>,
    /// The name of the model that answered.
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
    /// The id that the server gave the request, for support.
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
