//! ONNX's own operators, by family.

use super::value::{Case, UNKNOWN, Value, no};
use super::walk::{Call, Walk};

impl Walk<'_> {
    pub(super) fn onnx(&mut self, call: &Call<'_>) -> Case<Vec<Value>> {
        for family in [
            Self::elementwise,
            Self::products,
            Self::spatial_operators,
            Self::reductions,
            Self::layout,
            Self::parts,
            Self::recurrences,
        ] {
            if let Some(values) = family(self, call)? {
                return Ok(values);
            }
        }
        no(UNKNOWN)
    }
}
