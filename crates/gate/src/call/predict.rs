//! `:predict`: named inputs in JSON, a body of content for the model's adapter, or a bare body as one part of it.

use super::content::{self, Content, OwnedPart};
use super::run::{Answer, Runner, Wishes, Work, item_count, prepare};
use super::{BodyKind, Call, JSON, body_kind, rejected, text};
use crate::answer;
use crate::catalogue::Opened;
use crate::ports::{Blob, ContractPort, Item, Part, Ports, Step};
use crate::record::Response;
use penstock_core::Problem;
use penstock_tensor::{Tensor, render};
use std::borrow::Cow;

/// Inputs that may be run, or content that an adapter has begun with.
pub(super) enum Predict {
    Tensors {
        inputs: Vec<Tensor>,
        items: u64,
        caller_id: Option<String>,
    },
    Adapted {
        step: Step,
        caller_id: Option<String>,
    },
}

/// Reads a body.
pub(super) fn decode<'b, P: Ports>(
    call: &Call<'_, P>,
    opened: &Opened<P>,
    model: &str,
    body: impl FnOnce() -> Result<Cow<'b, [u8]>, Problem>,
) -> Result<Box<dyn Work<P>>, Problem> {
    let content_type = call.request.header_text("content-type");
    let kind = body_kind(content_type, opened.adapter.is_some())?;
    let body = body()?;
    if let (BodyKind::Raw, Some(adapter)) = (kind, &opened.adapter) {
        let item = Item {
            parts: vec![bare(content_type, &body)],
        };
        let step = prepare(adapter, &opened.contract, model, &[item])?;
        return Ok(Box::new(Predict::Adapted {
            step,
            caller_id: None,
        }));
    }
    let (read, caller_id) = read_json(opened, &body)?;
    Ok(Box::new(match read {
        Read::Tensors(inputs) => Predict::Tensors {
            items: item_count(&inputs, &opened.contract),
            inputs,
            caller_id,
        },
        Read::Parts(parts) => Predict::Adapted {
            step: content::begin(opened, model, &parts)?,
            caller_id,
        },
    }))
}

/// A body that is the content itself, as its type has it.
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
        match self {
            Self::Tensors { items, .. } => *items,
            Self::Adapted { .. } => 1,
        }
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<Answer, Problem> {
        let (caller_id, predictions, non_finite) = match *self {
            Self::Adapted { step, caller_id } => {
                let answers = runner.adapt(1, step)?;
                let text = answers.into_iter().next().map_or(String::new(), |a| a.text);
                (caller_id, format!("[{text}]").into_bytes(), 0)
            }
            Self::Tensors {
                inputs, caller_id, ..
            } => {
                let outputs = runner.infer(inputs, &[], Wishes::default())?;
                let (predictions, non_finite) = write(runner, outputs)?;
                (caller_id, predictions, non_finite)
            }
        };
        let prediction_id = runner.prediction_id();
        let call = runner.call;
        let (context, ports) = (call.context, call.ports);
        let body = answer::prediction(&answer::Prediction {
            id: &prediction_id,
            caller_id: caller_id.as_deref(),
            model: runner.model,
            version: runner.serving.version,
            predictions: &predictions,
            non_finite,
            latency_ns: ports.monotonic_ns().saturating_sub(context.started_ns),
            request_id: &context.request_id,
        });
        Ok(Answer {
            response: Response::new(200, JSON, body),
            prediction_id: Some(prediction_id),
        })
    }
}

/// Outputs as predictions, a JSON array, and how many of their numbers JSON cannot say.
pub(super) fn write<P: Ports>(
    runner: &Runner<'_, P>,
    mut outputs: Vec<Tensor>,
) -> Result<(Vec<u8>, u64), Problem> {
    let contract = runner.contract();
    let ranking = runner.disclose(&mut outputs);
    // A prediction is written and then put into the answer, so it is there twice.
    let capacity = runner.capacity(&outputs, render::Form::Items(contract), 2)?;
    let non_finite = outputs.iter().map(render::unrepresentable).sum();
    let written = render::predictions_ranked(&outputs, contract, ranking.as_ref(), capacity);
    Ok((written, non_finite))
}

/// What a JSON body holds: inputs, or parts that an adapter has not seen yet.
pub(super) enum Read {
    Tensors(Vec<Tensor>),
    Parts(Vec<OwnedPart>),
}

/// Reads a JSON body: what it holds, and the caller's own id.
pub(super) fn read_json<P: Ports>(
    opened: &Opened<P>,
    body: &[u8],
) -> Result<(Read, Option<String>), Problem> {
    let read = text(body)?;
    if content::is_content(body) {
        let read = content::read(opened, read)?;
        return Ok(match read.content {
            Content::Tensors(inputs) => (Read::Tensors(inputs), read.id),
            Content::Parts(parts) => (Read::Parts(parts), read.id),
        });
    }
    let parsed = opened.validation.parse_predict(read).map_err(rejected)?;
    Ok((Read::Tensors(parsed.inputs), parsed.id))
}
