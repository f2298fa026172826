//! Implements `penstock:inference` over `wasi:nn` and `penstock:nn`: models by name, tensors of every type.
//!
//! Graphs and execution contexts are opened on a model version's first call and kept for the life of the instance.
//! Those of calls with their own timeout are not kept. Callers choose the timeout, so two are rarely equal. Opening
//! one costs four host calls in addition to the copies of a run's tensors. [`GraphName`] defines the names for
//! `load-by-name`.

#[cfg(feature = "inference")]
pub use component::{Inference, bindings};
#[cfg(feature = "gate")]
pub(crate) use gate::failure;

/// The component's side: its exports.
#[cfg(feature = "inference")]
mod component {
    use crate::types::{
        bulk_bytes, bulk_to_wit, datatype_from_wit, datatype_to_wit, placed, tensors,
    };
    use penstock_core::{GraphName, GraphOptions, NnData, NnWord, ShadowTensor};
    use penstock_tensor::Datatype;
    use penstock_tensor::tensor::{axis_too_long, elements};
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:inference/component",
            path: ["../../wit/types", "../../wit/deps/nn", "../../wit/nn", "../../wit/inference"],
            with: {
                "penstock:types/held@0.1.0": crate::types::held,
                "penstock:types/tensors@0.1.0": crate::types::tensors,
            },
            generate_all,
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::inference::bindings",
        });
    }

    use bindings::exports::penstock::inference::inference as wit;
    use bindings::penstock::nn::held;
    use bindings::penstock::nn::tensors::{self as nn, ElementType};
    use bindings::wasi::nn::errors::{Error, ErrorCode};
    use bindings::wasi::nn::graph::load_by_name;
    use bindings::wasi::nn::inference::GraphExecutionContext;
    use bindings::wasi::nn::tensor::Tensor as NnTensor;

    /// The type that exports the interface.
    pub struct Inference;

    /// The most execution contexts that an instance keeps open. Beyond it all are closed and opened again on demand,
    /// which costs one host call for each model still in use.
    const MAX_OPEN_CONTEXTS: usize = 256;

    thread_local! {
        static CONTEXTS: RefCell<BTreeMap<Opened, GraphExecutionContext>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// The key of an execution context: model, version and the options of its calls.
    type Opened = (String, u64, GraphOptions);

    impl wit::Guest for Inference {
        fn infer(
            model: String,
            version: u64,
            inputs: Vec<tensors::Tensor>,
            outputs: Vec<String>,
            options: wit::RunOptions,
        ) -> Result<Vec<tensors::Tensor>, wit::Failure> {
            let named = inputs
                .into_iter()
                .map(to_nn)
                .collect::<Result<Vec<_>, _>>()?;
            let held_from = options.held_from_bytes;
            let options = GraphOptions {
                priority: options.priority,
                timeout_ms: options.timeout_ms,
                shadow: false,
                joined: options.joined,
            };
            compute(model, version, options, named)?
                .into_iter()
                .filter(|(name, _)| outputs.is_empty() || outputs.contains(name))
                .map(|output| from_nn(output, held_from))
                .collect()
        }

        fn shadow(
            model: String,
            version: u64,
            inputs: Vec<tensors::Tensor>,
            expected: Vec<tensors::Tensor>,
        ) -> Result<(), wit::Failure> {
            let input = |tensor: tensors::Tensor| {
                let name = ShadowTensor::Input(&tensor.name).to_string();
                to_nn(tensors::Tensor { name, ..tensor })
            };
            let answered = |tensor: tensors::Tensor| {
                let name = ShadowTensor::Expected(&tensor.name).to_string();
                to_nn(tensors::Tensor { name, ..tensor })
            };
            let named = (inputs.into_iter().map(input))
                .chain(expected.into_iter().map(answered))
                .collect::<Result<Vec<_>, _>>()?;
            let options = GraphOptions {
                shadow: true,
                ..GraphOptions::default()
            };
            compute(model, version, options, named).map(drop)
        }

        fn ready(model: String, version: u64) -> Result<(), wit::Failure> {
            // Do not use the kept contexts, because a model can stop being ready after it was opened.
            load_by_name(&GraphName::write(&model, version, GraphOptions::default()))
                .map(drop)
                .map_err(failure)
        }
    }

    fn compute(
        model: String,
        version: u64,
        options: GraphOptions,
        named: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, wit::Failure> {
        let at = (model, version, options);
        if options.joined {
            // Another host does not know such a name. Report dependent rows then, so that each item runs separately.
            let known = CONTEXTS.with_borrow_mut(|contexts| opened(contexts, at.clone()).map(drop));
            if let Err(wit::Failure {
                kind: wit::FailureKind::NotReady,
                message,
                ..
            }) = known
            {
                return Err(wit::Failure {
                    kind: wit::FailureKind::RowsDepend,
                    message,
                    retry_after_ms: None,
                });
            }
        }
        if options.timeout_ms.is_some() {
            return nn::compute(&open(&at)?, named).map_err(failure);
        }
        CONTEXTS
            .with_borrow_mut(|contexts| nn::compute(opened(contexts, at)?, named).map_err(failure))
    }

    fn open((model, version, options): &Opened) -> Result<GraphExecutionContext, wit::Failure> {
        let graph = load_by_name(&GraphName::write(model, *version, *options)).map_err(failure)?;
        graph.init_execution_context().map_err(failure)
    }

    fn opened(
        contexts: &mut BTreeMap<Opened, GraphExecutionContext>,
        at: Opened,
    ) -> Result<&GraphExecutionContext, wit::Failure> {
        if !contexts.contains_key(&at) {
            if contexts.len() >= MAX_OPEN_CONTEXTS {
                contexts.clear();
            }
            let context = open(&at)?;
            return Ok(contexts.entry(at).or_insert(context));
        }
        Ok(&contexts[&at])
    }

    /// Returns the element type of `penstock:nn` for a datatype.
    fn element_type(datatype: Datatype) -> ElementType {
        match datatype {
            Datatype::Fp16 => ElementType::Fp16,
            Datatype::Fp32 => ElementType::Fp32,
            Datatype::Fp64 => ElementType::Fp64,
            Datatype::Bf16 => ElementType::Bf16,
            Datatype::Uint8 => ElementType::Uint8,
            Datatype::Int32 => ElementType::Int32,
            Datatype::Int64 => ElementType::Int64,
            Datatype::Bool => ElementType::BoolValue,
            Datatype::Int8 => ElementType::Int8,
            Datatype::Int16 => ElementType::Int16,
            Datatype::Uint16 => ElementType::Uint16,
            Datatype::Uint32 => ElementType::Uint32,
            Datatype::Uint64 => ElementType::Uint64,
            Datatype::Bytes => ElementType::Bytes,
            Datatype::Int2 => ElementType::Int2,
            Datatype::Uint2 => ElementType::Uint2,
            Datatype::Int4 => ElementType::Int4,
            Datatype::Uint4 => ElementType::Uint4,
            Datatype::Fp8E4m3fn => ElementType::Fp8E4m3fn,
            Datatype::Fp8E4m3fnuz => ElementType::Fp8E4m3fnuz,
            Datatype::Fp8E5m2 => ElementType::Fp8E5m2,
            Datatype::Fp8E5m2fnuz => ElementType::Fp8E5m2fnuz,
        }
    }

    fn datatype(ty: ElementType) -> Datatype {
        match ty {
            ElementType::Fp16 => Datatype::Fp16,
            ElementType::Fp32 => Datatype::Fp32,
            ElementType::Fp64 => Datatype::Fp64,
            ElementType::Bf16 => Datatype::Bf16,
            ElementType::Uint8 => Datatype::Uint8,
            ElementType::Int32 => Datatype::Int32,
            ElementType::Int64 => Datatype::Int64,
            ElementType::BoolValue => Datatype::Bool,
            ElementType::Int8 => Datatype::Int8,
            ElementType::Int16 => Datatype::Int16,
            ElementType::Uint16 => Datatype::Uint16,
            ElementType::Uint32 => Datatype::Uint32,
            ElementType::Uint64 => Datatype::Uint64,
            ElementType::Bytes => Datatype::Bytes,
            ElementType::Int2 => Datatype::Int2,
            ElementType::Uint2 => Datatype::Uint2,
            ElementType::Int4 => Datatype::Int4,
            ElementType::Uint4 => Datatype::Uint4,
            ElementType::Fp8E4m3fn => Datatype::Fp8E4m3fn,
            ElementType::Fp8E4m3fnuz => Datatype::Fp8E4m3fnuz,
            ElementType::Fp8E5m2 => Datatype::Fp8E5m2,
            ElementType::Fp8E5m2fnuz => Datatype::Fp8E5m2fnuz,
        }
    }

    fn to_nn(tensor: tensors::Tensor) -> Result<(String, NnTensor), wit::Failure> {
        let tensors::Tensor {
            name,
            datatype,
            shape,
            data,
        } = tensor;
        let refused = |message| wit::Failure {
            kind: wit::FailureKind::InputsRejected,
            message,
            retry_after_ms: None,
        };
        let dimensions = shape
            .iter()
            .map(|&d| u32::try_from(d))
            .collect::<Result<Vec<u32>, _>>()
            .map_err(|_| refused(axis_too_long(&name)))?;
        let ty = element_type(datatype_from_wit(datatype));
        let tensor = match data.held {
            Some(place) => held::create(&dimensions, ty, place),
            None => nn::create(&dimensions, ty, bulk_bytes(&data)),
        };
        Ok((name, tensor))
    }

    fn from_nn(
        (name, tensor): (String, NnTensor),
        held_from: Option<u64>,
    ) -> Result<tensors::Tensor, wit::Failure> {
        let datatype = datatype(nn::type_of(&tensor));
        let shape: Vec<u64> = tensor.dimensions().into_iter().map(u64::from).collect();
        let is_large = |from| bytes_of(datatype, &shape).is_some_and(|bytes| bytes >= from);
        let place = match held_from {
            Some(from) if is_large(from) => held::keep(&tensor),
            _ => None,
        };
        let data = match place {
            Some(place) => placed(place),
            None => bulk_to_wit(&tensor.data()),
        };
        Ok(tensors::Tensor {
            name,
            datatype: datatype_to_wit(datatype),
            shape,
            data,
        })
    }

    /// The length of a tensor's data. `None` for byte strings, whose shape does not tell it.
    fn bytes_of(datatype: Datatype, shape: &[u64]) -> Option<u64> {
        let size = datatype.size_bytes()? as u64;
        elements(shape)?.checked_mul(size)
    }

    fn failure(error: Error) -> wit::Failure {
        use wit::FailureKind as Kind;
        let data = error.data();
        if let Some(said) = NnData::parse(&data) {
            return wit::Failure {
                kind: match said.word {
                    NnWord::QueueFull => Kind::Overloaded,
                    NnWord::NotReady => Kind::NotReady,
                    NnWord::RowsDepend => Kind::RowsDepend,
                },
                message: said.message.to_owned(),
                retry_after_ms: said.retry_after_ms,
            };
        }
        let kind = match error.code() {
            ErrorCode::NotFound => Kind::NotReady,
            ErrorCode::Timeout => Kind::DeadlineExceeded,
            ErrorCode::InvalidArgument | ErrorCode::TooLarge | ErrorCode::UnsupportedOperation => {
                Kind::InputsRejected
            }
            _ => Kind::Failed,
        };
        wit::Failure {
            kind,
            message: data,
            retry_after_ms: None,
        }
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::inference::inference as wit;
    use penstock_gate::ports::{Failure, FailureKind};

    pub(crate) fn failure(failure: wit::Failure) -> Failure {
        use wit::FailureKind as Wit;
        let kind = match failure.kind {
            Wit::NotReady => FailureKind::NotReady,
            Wit::Overloaded => FailureKind::Overloaded,
            Wit::DeadlineExceeded => FailureKind::DeadlineExceeded,
            Wit::InputsRejected => FailureKind::InputsRejected,
            Wit::Failed => FailureKind::Failed,
            Wit::RowsDepend => FailureKind::RowsDepend,
        };
        Failure {
            kind,
            message: failure.message,
            retry_after_ms: failure.retry_after_ms,
        }
    }
}
