//! What the document is made for: the server, and the models to be described.

use penstock_core::ModelVersion;
use penstock_tensor::Contract;

/// A model to be described.
#[derive(Clone, Copy)]
pub struct Described<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its versions, ascending.
    pub versions: &'a [ModelVersion],
    /// What it takes and gives.
    pub contract: &'a Contract,
}

/// What the document says of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Calls without credentials are refused.
    pub needs_credentials: bool,
    /// Use is counted and can be read.
    pub counts_usage: bool,
}
