//! Leaves in what a model answered what the caller may be told; how much that is, is
//! [`penstock_policy::disclosure`]'s to decide. Adapters see whole scores; what they made of them is cut
//! where they answer.

use penstock_core::Caller;
use penstock_policy::disclosure::{Disclosure, rules};
use penstock_tensor::render::Ranking;
use penstock_tensor::{Contract, Tensor};

/// Cuts the outputs. Gives how the classes ranked before, if that could be seen no more.
pub fn disclose(
    entries: &[Disclosure],
    model: &str,
    caller: &Caller,
    contract: &Contract,
    outputs: &mut [Tensor],
) -> Option<Ranking> {
    let rules = rules(entries, model, &caller.tier)?;
    let ranking = contract.labelled_output().and_then(|(spec, _)| {
        let (most, confidences) = rules.classes(&spec.name);
        Ranking::of(outputs, contract, most, confidences)
    });
    for tensor in outputs {
        rules.tensor(tensor);
    }
    ranking
}
