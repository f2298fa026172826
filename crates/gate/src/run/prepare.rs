//! Has an adapter prepare items, and checks the tensors it makes like those of any caller: the adapter is a component of its
//! own.

use crate::ports::{AdapterPort, AdapterRefusal, Item, Step};
use crate::problem::{broken_adapter, content_refused};
use penstock_core::{Code, Problem};
use penstock_tensor::check::NOT_FINITE;
use penstock_tensor::contract::{Dim, TooLong};
use penstock_tensor::{Contract, Tensor};

/// Why items could not be prepared.
pub(crate) enum Unprepared {
    /// The adapter refuses one of them.
    Refused(AdapterRefusal),
    /// The adapter is broken.
    Broken(Problem),
}

/// To how many tokens the contract has longer texts cut.
pub(crate) fn cut_to(contract: &Contract) -> Option<u32> {
    let adapter = contract.adapter.as_ref()?;
    (adapter.too_long == TooLong::Truncate).then_some(u32::MAX)
}

/// How many items of a call run together.
pub(crate) fn at_once(contract: &Contract) -> usize {
    usize::try_from(contract.limits.max_items).unwrap_or(usize::MAX)
}

/// Turns items into what the model is to run on first, checked like a stranger's: the adapter is a component of its own.
pub(crate) fn prepare<A: AdapterPort>(
    adapter: &A,
    contract: &Contract,
    model: &str,
    items: &[Item<'_>],
) -> Result<Step, Problem> {
    prepare_cut(adapter, contract, model, items, cut_to(contract)).map_err(|e| match e {
        Unprepared::Refused(refusal) => content_refused(refusal),
        Unprepared::Broken(problem) => problem,
    })
}

/// The same, with longer texts cut to so many tokens; the caller words what the adapter refuses.
pub(crate) fn prepare_cut<A: AdapterPort>(
    adapter: &A,
    contract: &Contract,
    model: &str,
    items: &[Item<'_>],
    cut_to: Option<u32>,
) -> Result<Step, Unprepared> {
    let step = adapter
        .prepare(items, cut_to)
        .map_err(Unprepared::Refused)?;
    if let Step::Tensors(tensors) = &step {
        check_adapted(tensors, contract, model).map_err(Unprepared::Broken)?;
    }
    Ok(step)
}

pub(crate) fn check_adapted(
    tensors: &[Tensor],
    contract: &Contract,
    model: &str,
) -> Result<(), Problem> {
    penstock_tensor::check_tensors(tensors, contract).map_err(|r| {
        // Content can lead to such numbers: the samples of a sound, or the state of a model that they were fed to.
        let from_content =
            !r.violations.is_empty() && r.violations.iter().all(|v| v.rule == NOT_FINITE);
        match from_content {
            true => Problem::new(
                Code::ModelRejectedInputs,
                format!(
                    "the content leads to numbers that the model does not take: {}",
                    r.message
                ),
            ),
            false => broken_adapter(model, &r.message),
        }
    })
}

/// How many items a batch has: the size of the batch axis, or one.
pub(crate) fn item_count(inputs: &[Tensor], contract: &Contract) -> u64 {
    let Some(batch) = contract.batch_axis() else {
        return 1;
    };
    // An optional input may not be there.
    let batched = contract
        .inputs
        .iter()
        .filter(|spec| matches!(spec.shape.first(), Some(Dim::Symbol(name)) if name == batch))
        .find_map(|spec| inputs.iter().find(|tensor| tensor.name == spec.name));
    batched
        .and_then(|tensor| tensor.shape.first())
        .copied()
        .unwrap_or(1)
}
