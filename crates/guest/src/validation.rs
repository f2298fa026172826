//! `penstock:validation` over `penstock-tensor`: the component that parses strangers' bytes.

use crate::types::{rejection_to_wit, tensors, tensors_to_wit};
use penstock_tensor::{Contract, infer, predict};

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:validation/component",
        path: ["../../wit/types", "../../wit/validation"],
        with: { "penstock:types/tensors@0.1.0": crate::types::tensors },
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::validation::bindings",
    });
}

use bindings::exports::penstock::validation::validation as wit;

/// The component.
pub struct Validation;

/// A contract parsed once.
pub struct Opened(Contract);

impl wit::Guest for Validation {
    type Contract = Opened;
}

impl wit::GuestContract for Opened {
    fn open(text: String) -> Result<wit::Contract, String> {
        match Contract::parse(&text) {
            Ok(contract) => Ok(wit::Contract::new(Opened(contract))),
            Err(faults) => Err(faults
                .into_iter()
                .map(|f| format!("line {}: {}", f.line, f.message))
                .collect::<Vec<_>>()
                .join("; ")),
        }
    }

    fn parse_predict(&self, body: String) -> Result<wit::PredictRequest, tensors::Rejection> {
        let parsed = predict::parse_predict(body.as_bytes(), &self.0).map_err(rejection_to_wit)?;
        Ok(wit::PredictRequest {
            id: parsed.id,
            inputs: tensors_to_wit(parsed.inputs),
        })
    }

    fn parse_infer(&self, body: String) -> Result<wit::InferRequest, tensors::Rejection> {
        let parsed = infer::parse_infer(body.as_bytes(), &self.0).map_err(rejection_to_wit)?;
        Ok(wit::InferRequest {
            id: parsed.id,
            inputs: tensors_to_wit(parsed.inputs),
            outputs: parsed.outputs,
        })
    }
}
