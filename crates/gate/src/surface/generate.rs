//! Implements Triton's `generate` and `generate_stream`: one JSON object of inputs, one JSON object of outputs.
//! Models give a single answer, so a stream has one event. Errors before the run are answered as on other routes.

use super::body::{JSON, names_model, text};
use super::infer;
use crate::call::ModelCall;
use crate::catalogue::Opened;
use crate::ports::{ContractPort, Ports};
use crate::problem::rejected;
use crate::record::Response;
use crate::run::prepare::item_count;
use crate::run::{Runner, SurfaceAnswer, Work};
use penstock_core::Problem;
use penstock_tensor::generate::{EVENT_STREAM, event, render};
use penstock_tensor::{InferRequest, render::Form};

/// A body that meets the contract.
struct Generate {
    parsed: InferRequest,
    items: u64,
    streamed: bool,
}

/// Reads a body and checks it against the contract.
pub(super) fn decode<P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    model: &str,
    (body, streamed): (&[u8], bool),
) -> Result<Box<dyn Work<P>>, Problem> {
    let parsed = opened
        .validation
        .parse_generate(text(body)?, call.policies.unknown)
        .map_err(rejected)?;
    names_model(&parsed, model)?;
    Ok(Box::new(Generate {
        items: item_count(&parsed.inputs, &opened.contract),
        parsed,
        streamed,
    }))
}

impl<P: Ports> Work<P> for Generate {
    fn items(&self) -> u64 {
        self.items
    }

    fn model_version(&self) -> Option<&str> {
        infer::said_version(&self.parsed)
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let Generate {
            mut parsed,
            streamed,
            ..
        } = *self;
        let inputs = std::mem::take(&mut parsed.inputs);
        let outputs = infer::run(runner, &parsed, inputs)?;
        // A streamed answer is written and then copied into its event, so memory holds it twice.
        let copies = if streamed { 2 } else { 1 };
        let capacity = runner.capacity(&outputs, Form::Items(runner.contract()), copies)?;
        let json = render(
            runner.model,
            &runner.serving.version.to_string(),
            parsed.id.as_deref(),
            &outputs,
            runner.contract(),
            capacity,
        );
        let response = match streamed {
            true => Response::new(200, EVENT_STREAM, event(&json)),
            false => Response::new(200, JSON, json),
        };
        Ok(SurfaceAnswer {
            response,
            prediction_id: Some(runner.prediction_id()),
        })
    }
}
