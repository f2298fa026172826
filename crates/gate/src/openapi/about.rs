//! Defines the inputs of the document: facts about the server, and the models to describe.

use penstock_core::ModelVersion;
use penstock_tensor::Contract;

/// The facts about a model that its description needs.
#[derive(Clone, Copy)]
pub struct Described<'a> {
    /// The name of the model.
    pub name: &'a str,
    /// The model's versions, in ascending order.
    pub versions: &'a [ModelVersion],
    /// The contract, from which its schemas and examples are made.
    pub contract: &'a Contract,
}

/// The facts about the server that the document depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Whether calls without credentials are refused.
    pub needs_credentials: bool,
    /// Whether usage is counted and can be read.
    pub counts_usage: bool,
    /// Whether the server sends webhooks.
    pub sends_webhooks: bool,
}
