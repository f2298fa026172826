//! Implements `:explain` and `:predict?explain=true`: the contribution of each group of input features to an answer.
//!
//! [`penstock_tensor::explain`] decides which runs are needed and computes the result. It receives only scores that
//! the disclosure rules allow. An explanation therefore reveals no more than the caller's own calls with parts of the
//! input hidden would. It is charged one item for each item that the model runs on.

use super::body::JSON;
use super::predict::{self, Begun, Envelope, Predict};
use crate::answer;
use crate::call::ModelCall;
use crate::catalogue::Opened;
use crate::ports::{Ports, Step};
use crate::problem::rejected;
use crate::record::Response;
use crate::run::{RunOptions, Runner, SurfaceAnswer, Work};
use penstock_core::{Code, Problem};
use penstock_tensor::batch::{join, split};
use penstock_tensor::explain::Plan;
use penstock_tensor::{Buffer, Tensor};
use std::borrow::Cow;

/// A call for the explanation of one item.
struct Explain {
    inputs: Vec<Tensor>,
    said: Envelope,
    /// The class to explain, if the caller names one.
    target: Option<String>,
    also: Also,
    items: u64,
}

/// The prediction that accompanies the explanation.
enum Also {
    Nothing,
    /// The model's prediction on the unchanged item.
    Prediction,
    /// The adapter's answer for the item that it prepared.
    Adapted(Step),
}

/// Reads a body of `:explain`. It has the form of `:predict` with one item.
pub(super) fn decode<'b, P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    model: &str,
    body: impl FnOnce() -> Result<Cow<'b, Buffer>, Problem>,
) -> Result<Box<dyn Work<P>>, Problem> {
    if opened.contract.explain.is_none() {
        return Err(Problem::new(
            Code::UnknownPath,
            format!("model `{model}` does not support explanations; its contract has no [explain]"),
        ));
    }
    let read = predict::decode(call, opened, model, body)?;
    begin(call, opened, model, read, false)
}

/// Reads a body of `:predict` with an explanation.
pub(super) fn decode_with_prediction<'b, P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    model: &str,
    body: impl FnOnce() -> Result<Cow<'b, Buffer>, Problem>,
) -> Result<Box<dyn Work<P>>, Problem> {
    let read = predict::decode(call, opened, model, body)?;
    if opened.contract.explain.is_none() {
        return Err(Problem::new(
            Code::InvalidParameter,
            format!(
                "model `{model}` does not support explanations: its contract has no [explain]; remove the parameter `explain`"
            ),
        ));
    }
    begin(call, opened, model, read, true)
}

fn begin<P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    model: &str,
    read: Predict,
    predicts: bool,
) -> Result<Box<dyn Work<P>>, Problem> {
    let target = call.options.target.clone()?;
    let Predict { said, begun } = read;
    let (inputs, also) = match begun {
        Begun::Tensors { inputs, .. } => {
            let also = match predicts {
                true => Also::Prediction,
                false => Also::Nothing,
            };
            (inputs, also)
        }
        Begun::Adapted(step) => {
            let Step::Tensors(inputs) = &step else {
                return Err(Problem::new(
                    Code::InvalidInputs,
                    format!(
                        "model `{model}` does not run on this content, so there is nothing to explain"
                    ),
                ));
            };
            let inputs = inputs.clone();
            let also = match predicts {
                true => Also::Adapted(step),
                false => Also::Nothing,
            };
            (inputs, also)
        }
    };
    let items = plan(opened, &inputs, target.as_deref())?.items();
    let items = items + u64::from(matches!(also, Also::Adapted(_)));
    Ok(Box::new(Explain {
        inputs,
        said,
        target,
        also,
        items,
    }))
}

fn plan<'a, P: Ports>(
    opened: &'a Opened<P>,
    inputs: &'a [Tensor],
    target: Option<&str>,
) -> Result<Plan<'a>, Problem> {
    match Plan::new(&opened.contract, inputs, target) {
        Some(plan) => plan.map_err(rejected),
        None => Err(Problem::new(
            Code::UnknownPath,
            "the model's contract has no [explain]",
        )),
    }
}

impl<P: Ports> Work<P> for Explain {
    fn items(&self) -> u64 {
        self.items
    }

    fn model_version(&self) -> Option<&str> {
        self.said.model_version.as_deref()
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let Self {
            inputs,
            said,
            target,
            also,
            ..
        } = *self;
        let failed = || {
            Problem::new(
                Code::InferenceFailed,
                "the model's outputs are not one row for each item",
            )
        };
        let opened = runner.opened;
        let plan = plan(opened, &inputs, target.as_deref())?;
        let explained = [plan.output().to_owned()];
        let mut class = None;
        let mut predicted = None;
        let mut outputs = Vec::new();
        for (number, batch) in plan.batches().enumerate() {
            let is_first = class.is_none();
            let all = is_first && matches!(also, Also::Prediction);
            let rows = batch.first().and_then(|tensor| tensor.shape.first());
            let rows = rows.copied().unwrap_or(1);
            let asked: &[String] = if all { &[] } else { &explained };
            let combined = match rows {
                0 | 1 => Some(runner.infer(batch, asked, RunOptions::default())?),
                _ => runner.infer_combined(batch, asked)?,
            };
            let mut answered = match combined {
                Some(answered) => answered,
                None => {
                    // Build the batch again, because the engine consumed the first one without running it.
                    let batch = plan.batches().nth(number).ok_or_else(failed)?;
                    let rows = vec![1; usize::try_from(rows).unwrap_or(0)];
                    let mut each = Vec::with_capacity(rows.len());
                    for row in split(batch, &rows).ok_or_else(failed)? {
                        each.push(runner.infer(row, asked, RunOptions::default())?);
                    }
                    let each: Vec<&[Tensor]> = each.iter().map(Vec::as_slice).collect();
                    if !each.windows(2).all(|two| two[0].len() == two[1].len()) {
                        return Err(failed());
                    }
                    join(&each)
                }
            };
            if is_first {
                class = Some(plan.class(&answered).map_err(rejected)?);
            }
            if all {
                let parts = split(answered.clone(), &[1, rows.saturating_sub(1)]);
                let item = parts.and_then(|parts| parts.into_iter().next());
                predicted = Some(predict::write(runner, item.ok_or_else(failed)?)?);
            }
            answered.retain(|tensor| explained.contains(&tensor.name));
            runner.disclose(&mut answered);
            outputs.push(answered);
        }
        let explanation = class.and_then(|class| plan.attribute(class, &outputs));
        let mut written = Vec::new();
        explanation.ok_or_else(failed)?.write_json(&mut written);
        if let Also::Adapted(step) = also {
            let answers = runner.adapt(1, step)?;
            let text = answers.into_iter().next().map_or(String::new(), |a| a.text);
            predicted = Some((format!("[{text}]").into_bytes(), 0));
        }
        let prediction_id = runner.prediction_id();
        let call = runner.call;
        let (context, ports) = (call.context, call.ports);
        let (predictions, non_finite) = predicted.unzip();
        let body = answer::prediction(&answer::Prediction {
            id: &prediction_id,
            caller_id: said.id.as_deref(),
            model: runner.model,
            version: runner.serving.version,
            predictions: predictions.as_deref(),
            non_finite: non_finite.unwrap_or(0),
            explanation: Some(&written),
            latency_ns: ports.monotonic_ns().saturating_sub(context.started_ns),
            request_id: &context.request_id,
        });
        Ok(SurfaceAnswer {
            response: Response::new(200, JSON, body),
            prediction_id: Some(prediction_id),
        })
    }
}
