//! Leaves in what a model or its adapter answered what the caller may be told; how much that is, is
//! [`penstock_policy::disclosure`]'s to decide. Adapters see whole scores; what they made of them is cut.

use penstock_core::Caller;
use penstock_policy::disclosure::{Disclosure, rules};
use penstock_tensor::render::Ranking;
use penstock_tensor::{Contract, Tensor};

/// Cuts the outputs, and the answer of an adapter where there is one. Gives how the classes ranked before, if that
/// could be seen no more. The error is a sentence about the adapter.
pub fn disclose(
    entries: &[Disclosure],
    model: &str,
    caller: &Caller,
    contract: &Contract,
    answer: &mut Option<String>,
    outputs: &mut [Tensor],
) -> Result<Option<Ranking>, String> {
    let Some(rules) = rules(entries, model, &caller.tier) else {
        return Ok(None);
    };
    if let Some(text) = answer {
        *text = rules.answer(text)?;
    }
    let ranking = contract.labelled_output().and_then(|(spec, _)| {
        let (most, confidences) = rules.classes(&spec.name);
        Ranking::of(outputs, contract, most, confidences)
    });
    for tensor in outputs {
        rules.tensor(tensor);
    }
    Ok(ranking)
}
