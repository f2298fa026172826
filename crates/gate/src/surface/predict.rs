//! Implements `:predict`. The body is named inputs in JSON, a content body for the model's adapter, or raw content as
//! a single part.

use super::body::{BodyKind, JSON, body_kind, text};
use super::content::{self, Content, OwnedPart};
use crate::answer;
use crate::call::ModelCall;
use crate::catalogue::Opened;
use crate::ports::{Blob, ContractPort, Item, Part, Ports, Step};
use crate::problem::rejected;
use crate::record::Response;
use crate::run::prepare::{item_count, prepare};
use crate::run::{RunOptions, Runner, SurfaceAnswer, Work};
use penstock_core::Problem;
use penstock_tensor::{Buffer, Tensor, render};
use std::borrow::Cow;

/// Decoded inputs, or content that the adapter has prepared.
pub(super) struct Predict {
    pub said: Envelope,
    pub begun: Begun,
}

pub(super) enum Begun {
    Tensors { inputs: Vec<Tensor>, items: u64 },
    Adapted(Step),
}

/// The members of a body other than its inputs or content.
#[derive(Default)]
pub(super) struct Envelope {
    /// The caller's own id of the call.
    pub id: Option<String>,
    /// The version that the caller requests, by number or alias.
    pub model_version: Option<String>,
}

/// Reads a body, and checks its inputs or lets the adapter prepare its content.
pub(super) fn decode<'b, P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    model: &str,
    body: impl FnOnce() -> Result<Cow<'b, Buffer>, Problem>,
) -> Result<Predict, Problem> {
    let content_type = call.request.content_type()?;
    let kind = body_kind(content_type, opened.adapter.is_some())?;
    let body = body()?;
    if let (BodyKind::Raw, Some(adapter)) = (kind, &opened.adapter) {
        let item = Item {
            parts: vec![bare(content_type, &body)],
        };
        let step = prepare(adapter, &opened.contract, model, &[item])?;
        return Ok(Predict {
            said: Envelope::default(),
            begun: Begun::Adapted(step),
        });
    }
    let (read, said) = read_json(opened, &body)?;
    let begun = match read {
        Body::Tensors(inputs) => Begun::Tensors {
            items: item_count(&inputs, &opened.contract),
            inputs,
        },
        Body::Parts(parts) => Begun::Adapted(content::begin(opened, model, &parts)?),
    };
    Ok(Predict { said, begun })
}

/// Returns a raw body as one part of content, by its media type.
fn bare<'b>(content_type: Option<&'b str>, body: &'b [u8]) -> Part<'b> {
    let blob = Blob {
        media_type: content_type,
        body,
    };
    let main = content_type.and_then(|text| text.split('/').next());
    match main.map(|main| main.trim().to_ascii_lowercase()).as_deref() {
        Some("image") => Part::Image(blob),
        Some("audio") => Part::Audio(blob),
        Some("text") => match std::str::from_utf8(body) {
            Ok(text) => Part::Text(text),
            Err(_) => Part::Bytes(blob),
        },
        _ => Part::Bytes(blob),
    }
}

impl<P: Ports> Work<P> for Predict {
    fn items(&self) -> u64 {
        match self.begun {
            Begun::Tensors { items, .. } => items,
            Begun::Adapted(_) => 1,
        }
    }

    fn model_version(&self) -> Option<&str> {
        self.said.model_version.as_deref()
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let (predictions, non_finite) = match self.begun {
            Begun::Adapted(step) => {
                let answers = runner.adapt(1, step)?;
                let text = answers.into_iter().next().map_or(String::new(), |a| a.text);
                (format!("[{text}]").into_bytes(), 0)
            }
            Begun::Tensors { inputs, .. } => {
                let outputs = runner.infer(inputs, &[], RunOptions::default())?;
                write(runner, outputs)?
            }
        };
        let caller_id = self.said.id;
        let prediction_id = runner.prediction_id();
        let call = runner.call;
        let (context, ports) = (call.context, call.ports);
        let body = answer::prediction(&answer::Prediction {
            id: &prediction_id,
            caller_id: caller_id.as_deref(),
            model: runner.model,
            version: runner.serving.version,
            predictions: Some(&predictions),
            non_finite,
            explanation: None,
            latency_ns: ports.monotonic_ns().saturating_sub(context.started_ns),
            request_id: &context.request_id,
        });
        Ok(SurfaceAnswer {
            response: Response::new(200, JSON, body),
            prediction_id: Some(prediction_id),
        })
    }
}

/// Writes outputs as a JSON array of predictions. Also returns the number of values that JSON cannot represent.
pub(super) fn write<P: Ports>(
    runner: &Runner<'_, P>,
    mut outputs: Vec<Tensor>,
) -> Result<(Vec<u8>, u64), Problem> {
    let contract = runner.contract();
    let ranking = runner.disclose(&mut outputs);
    // A prediction is written and then copied into the answer, so memory holds it twice.
    let capacity = runner.capacity(&outputs, render::Form::Items(contract), 2)?;
    let non_finite = outputs.iter().map(render::unrepresentable).sum();
    let written = render::predictions_ranked(&outputs, contract, ranking.as_ref(), capacity);
    Ok((written, non_finite))
}

/// The content of a JSON body: inputs, or parts that the adapter has not yet prepared.
pub(super) enum Body {
    Tensors(Vec<Tensor>),
    Parts(Vec<OwnedPart>),
}

/// Reads a JSON body: its inputs or content, and its other members.
pub(super) fn read_json<P: Ports>(
    opened: &Opened<P>,
    body: &[u8],
) -> Result<(Body, Envelope), Problem> {
    let read = text(body)?;
    if content::is_content(body) {
        let read = content::read(opened, read)?;
        let said = Envelope {
            id: read.id,
            model_version: read.model_version,
        };
        return Ok(match read.content {
            Content::Tensors(inputs) => (Body::Tensors(inputs), said),
            Content::Parts(parts) => (Body::Parts(parts), said),
        });
    }
    let parsed = opened.validation.parse_predict(read).map_err(rejected)?;
    let said = Envelope {
        id: parsed.id,
        model_version: parsed.model_version,
    };
    Ok((Body::Tensors(parsed.inputs), said))
}
