//! The Open Inference Protocol's `infer`: named tensors in and out.

use super::run::{Answer, Runner, Wishes, Work, item_count};
use super::{Call, JSON, rejected, text};
use crate::catalogue::Opened;
use crate::ports::{ContractPort, Ports};
use crate::record::Response;
use penstock_core::Problem;
use penstock_tensor::{InferRequest, render};

/// A body that meets the contract.
struct Infer {
    parsed: InferRequest,
    items: u64,
}

/// Reads a body.
pub(super) fn decode<P: Ports>(
    _call: &Call<'_, P>,
    opened: &Opened<P>,
    body: &[u8],
) -> Result<Box<dyn Work<P>>, Problem> {
    let parsed = opened
        .validation
        .parse_infer(text(body)?, 0)
        .map_err(rejected)?;
    Ok(Box::new(Infer {
        items: item_count(&parsed.inputs, &opened.contract),
        parsed,
    }))
}

impl<P: Ports> Work<P> for Infer {
    fn items(&self) -> u64 {
        self.items
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<Answer, Problem> {
        let InferRequest {
            id,
            inputs,
            outputs: wanted,
            priority,
            timeout_us,
            ..
        } = self.parsed;
        let names: Vec<String> = wanted.into_iter().map(|output| output.name).collect();
        let wishes = Wishes {
            priority,
            timeout_us,
        };
        let mut outputs = runner.infer(inputs, &names, wishes)?;
        runner.disclose(&mut outputs);
        let capacity = runner.capacity(&outputs, render::Form::Flat, 1)?;
        let prediction_id = runner.prediction_id();
        let non_finite: u64 = outputs.iter().map(render::unrepresentable).sum();
        let mut parameters = vec![("prediction_id", prediction_id.as_str())];
        let non_finite_text = non_finite.to_string();
        if non_finite > 0 {
            parameters.push(("non_finite", &non_finite_text));
        }
        let body = render::write_infer_response(
            runner.model,
            &runner.serving.version.to_string(),
            id.as_deref(),
            &outputs,
            &parameters,
            capacity,
        );
        Ok(Answer {
            response: Response::new(200, JSON, body),
            prediction_id: Some(prediction_id),
        })
    }
}
