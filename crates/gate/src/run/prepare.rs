//! Lets an adapter prepare items, and checks its tensors like those of any caller, because the adapter is a separate
//! component.

use crate::ports::{AdapterPort, AdapterRefusal, Item, Step};
use crate::problem::{broken_adapter, content_refused};
use penstock_core::{Code, Problem};
use penstock_tensor::check::NOT_FINITE;
use penstock_tensor::contract::{Dim, TooLong};
use penstock_tensor::{Contract, Tensor};

/// The reason why items could not be prepared.
pub(crate) enum Unprepared {
    /// The adapter refused one of the items.
    Refused(AdapterRefusal),
    /// The adapter gave something that breaks its interface, with the problem for the caller.
    Broken(Problem),
}

/// Returns the number of tokens to which the contract cuts longer texts: as many as the model can read, or `None` for
/// no cut.
pub(crate) fn cut_to(contract: &Contract) -> Option<u32> {
    let adapter = contract.adapter.as_ref()?;
    (adapter.too_long == TooLong::Truncate).then_some(u32::MAX)
}

/// Returns the most items of a call that run together.
pub(crate) fn at_once(contract: &Contract) -> usize {
    usize::try_from(contract.limits.max_items).unwrap_or(usize::MAX)
}

/// Converts items to the inputs of the model's first run. They are checked like a caller's, because the adapter is a
/// separate component.
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

/// Does the same as [`prepare`], and cuts longer texts to `cut_to` tokens. Returns a refusal to the caller, which
/// builds its message.
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
        // The content can cause such values, for example the samples of a sound, or a model's state that was computed
        // from them.
        let from_content =
            !r.violations.is_empty() && r.violations.iter().all(|v| v.rule == NOT_FINITE);
        match from_content {
            true => Problem::new(
                Code::ModelRejectedInputs,
                format!(
                    "the content produces values that the model does not accept: {}",
                    r.message
                ),
            ),
            false => broken_adapter(model, &r.message),
        }
    })
}

/// Returns the number of items in a batch: the size of the batch axis, or one if there is no batch axis.
pub(crate) fn item_count(inputs: &[Tensor], contract: &Contract) -> u64 {
    let Some(batch) = contract.batch_axis() else {
        return 1;
    };
    // An optional input may be absent, so use the first batched input that is present.
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
