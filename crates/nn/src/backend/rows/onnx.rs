//! ONNX's own operators, by family.

use super::value::{Case, UNKNOWN, Value, no};
use super::walk::{Operation, Walk};

impl Walk<'_> {
    pub(super) fn onnx(&mut self, operation: &Operation<'_>) -> Case<Vec<Value>> {
        for family in [
            Self::elementwise,
            Self::products,
            Self::spatial_operators,
            Self::reductions,
            Self::layout,
            Self::parts,
            Self::recurrences,
        ] {
            if let Some(values) = family(self, operation)? {
                return Ok(values);
            }
        }
        no(UNKNOWN)
    }
}
