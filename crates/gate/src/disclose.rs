//! Applies the disclosure rules to a model's outputs. [`penstock_policy::disclosure`] decides the rules. Adapters
//! receive the full scores; their answers are reduced later.

use penstock_core::Caller;
use penstock_policy::disclosure::{Disclosure, rules};
use penstock_tensor::render::Ranking;
use penstock_tensor::{Contract, Tensor};

/// Reduces the precision of the outputs. Returns the original ranking of the classes if the reduced scores no longer show it.
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
