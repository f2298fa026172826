//! Implements the Open Inference Protocol's inference over gRPC: the same call as [`super::infer`], in protobuf
//! messages.

use crate::call::ModelCall;
use crate::catalogue::Opened;
use crate::grpc::decode::heading;
use crate::grpc::{
    Decoded, Form, Inference, condense, decode_condensed, decode_infer, encode_infer, status,
};
use crate::ports::Ports;
use crate::problem::rejected;
use crate::route::Target;
use crate::run::prepare::item_count;
use crate::run::{RunOptions, Runner, SurfaceAnswer, Work};
use penstock_core::{Code, Problem};
use penstock_tensor::classification::classify;
use penstock_tensor::{Buffer, Tensor};

/// A message that meets the contract.
struct Infer {
    decoded: Decoded,
    items: u64,
    form: Form,
}

/// Reads a message whose tensors may have `limit` bytes together.
pub(super) fn decode<P: Ports>(
    call: &ModelCall<'_, P>,
    opened: &Opened<P>,
    message: &Buffer,
    (target, limit): (&Target, u64),
    form: Form,
) -> Result<Box<dyn Work<P>>, Problem> {
    // Only the start of a compressed message was read before authentication, so compare the targets.
    let condensed = condense(message).and_then(|condensed| {
        let said = heading(&condensed.message).ok()?;
        Some((condensed, said))
    });
    let (condensed, said) = match condensed {
        Some((condensed, said)) => (Some(condensed), said),
        None => (None, heading(message).map_err(rejected)?),
    };
    if said.target != *target {
        return Err(Problem::new(
            Code::InvalidBody,
            "`model_name` or `model_version` comes after the tensors of a compressed message; write them first, or \
             send the message uncompressed",
        ));
    }
    let (contract, unknown) = (&opened.contract, call.policies.unknown);
    let decoded = match condensed {
        Some(condensed) => match decode_condensed(&condensed, contract, limit, unknown) {
            // The whole message tells the place of the fault.
            Err(fault) if fault.code == Code::MalformedProtobuf => {
                decode_infer(message, contract, limit, unknown)
            }
            decoded => decoded,
        },
        None => decode_infer(message, contract, limit, unknown),
    };
    let decoded = decoded.map_err(rejected)?;
    Ok(Box::new(Infer {
        items: item_count(&decoded.inputs, &opened.contract),
        decoded,
        form,
    }))
}

impl<P: Ports> Work<P> for Infer {
    fn items(&self) -> u64 {
        self.items
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let Decoded {
            id,
            inputs,
            outputs: wanted,
            priority,
            timeout_us,
        } = self.decoded;
        let names: Vec<String> = wanted.iter().map(|(name, _)| name.clone()).collect();
        let options = RunOptions {
            priority,
            timeout_us,
            is_combined: false,
        };
        let mut outputs = runner.infer(inputs, &names, options)?;
        // Disclosure rules apply before classification, so classes reveal no more than scores.
        runner.disclose(&mut outputs);
        let outputs: Result<Vec<Tensor>, usize> = outputs
            .into_iter()
            .map(|tensor| {
                let asked = wanted.iter().find(|(name, _)| *name == tensor.name);
                match asked {
                    Some((_, classes)) if *classes > 0 => {
                        classify(tensor, runner.contract(), *classes)
                    }
                    _ => Ok(tensor),
                }
            })
            .collect();
        let outputs = outputs.map_err(|bytes| too_much(bytes as u64))?;
        let prediction_id = runner.prediction_id();
        let said = Inference {
            model: runner.model,
            version: &runner.serving.version.to_string(),
            id: id.as_deref(),
            parameters: &[("prediction_id", prediction_id.as_str())],
            outputs,
        };
        let message = encode_infer(said, self.form).map_err(too_much)?;
        Ok(SurfaceAnswer {
            response: status::succeeded(message),
            prediction_id: Some(prediction_id),
        })
    }
}

/// Returns the problem of outputs that need more memory than is available.
fn too_much(bytes: u64) -> Problem {
    Problem::new(
        Code::ModelRejectedInputs,
        format!(
            "the model answered, but its outputs are {bytes} bytes, more than the available memory; send fewer items"
        ),
    )
}
