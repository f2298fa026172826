//! Implements the Open Inference Protocol's `infer`: named tensors in and out. Tensors are JSON, or bytes after the
//! JSON (Triton's binary tensor data extension). Outputs can be classes (Triton's classification extension).
//!
//! If an answer has bytes, `Inference-Header-Content-Length` is the length of its JSON. A caller that accepts
//! `application/octet-stream` but not JSON gets every output as bytes, regardless of the forms that the body requests.

use super::body::{JSON, names_model, text};
use crate::call::ModelCall;
use crate::catalogue::Opened;
use crate::ports::{ContractPort, Ports};
use crate::problem::{outputs_too_large, rejected};
use crate::record::Response;
use crate::route::shorten;
use crate::run::prepare::item_count;
use crate::run::{RunOptions, Runner, SurfaceAnswer, Work};
use penstock_core::negotiate::{self, is_json};
use penstock_core::{Code, Problem};
use penstock_tensor::binary::{self, Framed, HEADER};
use penstock_tensor::classification::classify;
use penstock_tensor::{Buffer, InferRequest, Tensor, render};
use std::borrow::Cow;

/// The media type of a body with bytes after its JSON, or without JSON.
pub(crate) const OCTETS: &str = "application/octet-stream";

/// A body that meets the contract.
struct Infer {
    parsed: InferRequest,
    items: u64,
    /// Whether every output is returned as bytes, regardless of the forms that the body requests.
    only_bytes: bool,
}

/// Reads a body and checks it against the contract.
pub(super) fn decode<'b, P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    model: &str,
    body: impl FnOnce() -> Result<Cow<'b, Buffer>, Problem>,
) -> Result<Box<dyn Work<P>>, Problem> {
    let request = call.request;
    check_type(request.content_type()?)?;
    let body = body()?;
    // The header's value is the length of the uncompressed JSON. Several such headers join to a value that is not a
    // number.
    let length = request.header_list(HEADER);
    let contract = &opened.contract;
    let parsed = match binary::frame(length.as_deref(), body.len()).map_err(rejected)? {
        Framed::Raw => binary::raw(&body, contract).map_err(rejected)?,
        Framed::Json { json_bytes } => {
            let json = body.part(0..json_bytes).unwrap_or_default();
            let tail_bytes = (body.len() - json_bytes) as u64;
            let mut parsed = opened
                .validation
                .parse_infer(text(&json)?, tail_bytes, call.policies.unknown)
                .map_err(rejected)?;
            names_model(&parsed, model)?;
            let body = (&*body, json_bytes);
            binary::fill(&mut parsed.inputs, &parsed.binary, body, contract).map_err(rejected)?;
            parsed
        }
    };
    let accept = request.header_list("accept");
    Ok(Box::new(Infer {
        items: item_count(&parsed.inputs, contract),
        parsed,
        only_bytes: negotiate::accepts_only_octets(accept.as_deref()),
    }))
}

/// Checks whether a body of this type can be read. `Inference-Header-Content-Length` decides its form. Without that
/// header even `application/octet-stream` is JSON, because some clients send it that way.
fn check_type(content_type: Option<&str>) -> Result<(), Problem> {
    let essence = content_type.map(|c| c.split(';').next().unwrap_or_default().trim());
    match essence {
        None | Some("") => Ok(()),
        Some(e) if is_json(e) || e.eq_ignore_ascii_case(OCTETS) => Ok(()),
        Some(other) => Err(Problem::new(
            Code::UnsupportedMediaType,
            format!(
                "the content type `{}` is not accepted here; send `content-type: application/json`, or \
                 `application/octet-stream` with Inference-Header-Content-Length for tensors as bytes",
                shorten(other)
            ),
        )),
    }
}

impl<P: Ports> Work<P> for Infer {
    fn items(&self) -> u64 {
        self.items
    }

    fn model_version(&self) -> Option<&str> {
        said_version(&self.parsed)
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let Infer {
            mut parsed,
            only_bytes,
            ..
        } = *self;
        let inputs = std::mem::take(&mut parsed.inputs);
        let mut outputs = run(runner, &parsed, inputs)?;
        let mut binary = Vec::with_capacity(outputs.len());
        for tensor in &mut outputs {
            let (as_bytes, classes) = parsed.form_of(&tensor.name);
            binary.push(as_bytes || only_bytes);
            if classes > 0 {
                let numbers = std::mem::replace(tensor, empty());
                *tensor =
                    classify(numbers, runner.contract(), classes).map_err(outputs_too_large)?;
            }
        }
        let capacity = runner.capacity(&outputs, render::Form::Flat(&binary), 1)?;
        let prediction_id = runner.prediction_id();
        let as_json = outputs.iter().zip(&binary).filter(|(_, binary)| !**binary);
        let non_finite: u64 = as_json
            .map(|(tensor, _)| render::unrepresentable(tensor))
            .sum();
        let mut parameters = vec![("prediction_id", prediction_id.as_str())];
        let non_finite_text = non_finite.to_string();
        if non_finite > 0 {
            parameters.push(("non_finite", &non_finite_text));
        }
        let written = render::write_infer_response(
            runner.model,
            &runner.serving.version.to_string(),
            parsed.id.as_deref(),
            (&outputs, &binary),
            &parameters,
            capacity,
        );
        let content_type = match written.header_bytes {
            Some(_) => OCTETS,
            None => JSON,
        };
        let mut response = Response::new(200, content_type, written.body);
        if let Some(bytes) = written.header_bytes {
            response.push(HEADER, bytes.to_string());
        }
        Ok(SurfaceAnswer {
            response,
            prediction_id: Some(prediction_id),
        })
    }
}

/// Returns the version that the body names. Some clients send an empty version for none.
pub(super) fn said_version(parsed: &InferRequest) -> Option<&str> {
    let version = parsed.model_version.as_deref();
    version.filter(|version| !version.is_empty())
}

/// Runs the model with a request's options, and applies the disclosure rules to the outputs. Classification comes
/// later, so classes reveal no more than scores.
pub(super) fn run<P: Ports>(
    runner: &mut Runner<'_, P>,
    asked: &InferRequest,
    inputs: Vec<Tensor>,
) -> Result<Vec<Tensor>, Problem> {
    let wanted = asked.outputs.iter();
    let names: Vec<String> = wanted.map(|output| output.name.clone()).collect();
    let options = RunOptions {
        priority: asked.priority,
        timeout_us: asked.timeout_us,
        is_combined: false,
    };
    let mut outputs = runner.infer(inputs, &names, options)?;
    runner.disclose(&mut outputs);
    Ok(outputs)
}

/// Returns a placeholder for a tensor that is being converted.
fn empty() -> Tensor {
    Tensor {
        name: String::new(),
        datatype: penstock_tensor::Datatype::Uint8,
        shape: vec![0],
        data: Vec::new().into(),
    }
}
