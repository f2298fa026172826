//! Implements `penstock:validation` over `penstock-tensor`. This component parses untrusted bytes.

#[cfg(feature = "validation")]
pub use component::{Opened, Validation, bindings};

/// The component's side: its exports.
#[cfg(feature = "validation")]
mod component {
    use crate::types::{rejection_to_wit, tensors, tensors_to_wit};
    use penstock_tensor::{Contract, Unknown, generate, infer, predict};

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:validation/component",
            path: ["../../wit/types", "../../wit/validation"],
            with: { "penstock:types/held@0.1.0": crate::types::held, "penstock:types/tensors@0.1.0": crate::types::tensors },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::validation::bindings",
        });
    }

    use bindings::exports::penstock::validation::validation as wit;

    /// The type that exports the interface.
    pub struct Validation;

    /// A contract that was parsed once.
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
            let parsed =
                predict::parse_predict(body.as_bytes(), &self.0).map_err(rejection_to_wit)?;
            Ok(wit::PredictRequest {
                id: parsed.id,
                model_version: parsed.model_version,
                inputs: tensors_to_wit(parsed.inputs),
            })
        }

        fn parse_infer(
            &self,
            body: String,
            tail_bytes: u64,
            unknown: wit::Unknown,
        ) -> Result<wit::InferRequest, tensors::Rejection> {
            infer::parse_infer(body.as_bytes(), tail_bytes, &self.0, of_wit(unknown))
                .map(infer_to_wit)
                .map_err(rejection_to_wit)
        }

        fn parse_generate(
            &self,
            body: String,
            unknown: wit::Unknown,
        ) -> Result<wit::InferRequest, tensors::Rejection> {
            generate::parse(body.as_bytes(), &self.0, of_wit(unknown))
                .map(infer_to_wit)
                .map_err(rejection_to_wit)
        }
    }

    fn of_wit(unknown: wit::Unknown) -> Unknown {
        match unknown {
            wit::Unknown::Ignore => Unknown::Ignore,
            wit::Unknown::Refuse => Unknown::Refuse,
        }
    }

    fn infer_to_wit(parsed: infer::InferRequest) -> wit::InferRequest {
        wit::InferRequest {
            id: parsed.id,
            model_name: parsed.model_name,
            model_version: parsed.model_version,
            inputs: tensors_to_wit(parsed.inputs),
            binary: parsed
                .binary
                .into_iter()
                // A contract has far fewer inputs than a `u32` can count.
                .filter_map(|one| {
                    Some(wit::BinaryInput {
                        input: u32::try_from(one.input).ok()?,
                        index: u32::try_from(one.index).ok()?,
                        bytes: one.bytes,
                    })
                })
                .collect(),
            outputs: parsed
                .outputs
                .into_iter()
                .map(|output| wit::OutputRequest {
                    name: output.name,
                    binary: output.binary,
                    classes: output.classes,
                })
                .collect(),
            binary_outputs: parsed.binary_outputs,
            priority: parsed.priority,
            timeout_us: parsed.timeout_us,
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::validation::validation as wit;
    use crate::types::{rejection_from_wit, tensors_from_wit};
    use penstock_gate::ports::{ContractPort, ParsedBody};
    use penstock_tensor::infer::OutputRequest;
    use penstock_tensor::{BinaryInput, InferRequest, Rejection, Unknown};

    impl ContractPort for wit::Contract {
        fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection> {
            let parsed = self.parse_predict(body).map_err(rejection_from_wit)?;
            Ok(ParsedBody {
                id: parsed.id,
                model_version: parsed.model_version,
                inputs: tensors_from_wit(parsed.inputs),
            })
        }

        fn parse_infer(
            &self,
            body: &str,
            tail_bytes: u64,
            unknown: Unknown,
        ) -> Result<InferRequest, Rejection> {
            self.parse_infer(body, tail_bytes, unknown_to_wit(unknown))
                .map(infer_from_wit)
                .map_err(rejection_from_wit)
        }

        fn parse_generate(&self, body: &str, unknown: Unknown) -> Result<InferRequest, Rejection> {
            self.parse_generate(body, unknown_to_wit(unknown))
                .map(infer_from_wit)
                .map_err(rejection_from_wit)
        }
    }

    fn unknown_to_wit(unknown: Unknown) -> wit::Unknown {
        match unknown {
            Unknown::Ignore => wit::Unknown::Ignore,
            Unknown::Refuse => wit::Unknown::Refuse,
        }
    }

    fn infer_from_wit(parsed: wit::InferRequest) -> InferRequest {
        let binary = parsed.binary.into_iter();
        let outputs = parsed.outputs.into_iter();
        InferRequest {
            id: parsed.id,
            model_name: parsed.model_name,
            model_version: parsed.model_version,
            inputs: tensors_from_wit(parsed.inputs),
            binary: binary
                .map(|one| BinaryInput {
                    input: one.input as usize,
                    index: one.index as usize,
                    bytes: one.bytes,
                })
                .collect(),
            outputs: outputs
                .map(|output| OutputRequest {
                    name: output.name,
                    binary: output.binary,
                    classes: output.classes,
                })
                .collect(),
            binary_outputs: parsed.binary_outputs,
            priority: parsed.priority,
            timeout_us: parsed.timeout_us,
        }
    }
}
