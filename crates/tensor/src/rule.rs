//! The rule for the elements of an input, apart from its contract. A host that holds the bytes can check them by it.

use crate::datatype::Datatype;

/// The values that the elements of an input may have, apart from its contract, so that a host can check them where they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueRule {
    /// The type of the elements.
    pub datatype: Datatype,
    /// Whether NaN and infinity are refused.
    pub finite: bool,
    /// The least value that is allowed.
    pub minimum: Option<f64>,
    /// The greatest value that is allowed.
    pub maximum: Option<f64>,
}
