//! Defines the descriptions of models, in our form, in OpenAI's and in the Open Inference Protocol's.

use super::LIST;
use crate::oip::platform;
use penstock_core::ModelVersion;
use penstock_tensor::contract::{AxisBounds, Explain, Limits, dims_oip};
use penstock_tensor::{Contract, Datatype, TensorSpec};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const MODEL: &str = "model";

/// The models that the caller may see.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelList<'a> {
    #[schemars(extend("const" = LIST))]
    object: &'static str,
    /// The usable models, for OpenAI's clients.
    data: Vec<ModelId<'a>>,
    models: Vec<Model<'a>>,
}

impl<'a> ModelList<'a> {
    pub(crate) fn new(models: Vec<Model<'a>>) -> Self {
        Self {
            object: LIST,
            // OpenAI's form has no place for a model's errors.
            data: models.iter().filter_map(|model| model.id).collect(),
            models,
        }
    }
}

/// A model in OpenAI's form.
#[derive(Clone, Copy, Serialize, JsonSchema)]
struct ModelId<'a> {
    /// The name, for OpenAI's clients.
    id: &'a str,
    #[schemars(extend("const" = MODEL))]
    object: &'static str,
    /// The modification time of the contract in use, in seconds since the Unix epoch.
    created: u64,
    owned_by: &'static str,
}

/// A model and its contract. A list also has models that cannot be used, with only a name and an error.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Model<'a> {
    #[serde(flatten)]
    id: Option<ModelId<'a>>,
    name: &'a str,
    #[serde(flatten)]
    contract: Option<ContractMembers<'a>>,
    /// In lists: whether a version can run now.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    /// In lists: the reason why the model cannot be used, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Model<'a> {
    /// Returns a usable model. `created_s` is the modification time of its contract.
    pub(crate) fn new(
        name: &'a str,
        versions: &[ModelVersion],
        contract: &'a Contract,
        created_s: u64,
    ) -> Self {
        Self {
            id: Some(ModelId {
                id: name,
                object: MODEL,
                created: created_s,
                owned_by: "penstock",
            }),
            name,
            contract: Some(ContractMembers::new(name, versions, contract)),
            ready: None,
            error: None,
        }
    }

    /// Returns a model that cannot be used.
    pub(crate) fn broken(name: &'a str, error: &'a str) -> Self {
        Self {
            id: None,
            name,
            contract: None,
            ready: Some(false),
            error: Some(error),
        }
    }

    /// Adds whether a version can run now.
    pub(crate) fn with_ready(self, ready: bool) -> Self {
        Self {
            ready: Some(ready),
            ..self
        }
    }
}

/// The members of a model that its contract gives.
#[derive(Serialize, JsonSchema)]
struct ContractMembers<'a> {
    description: &'a str,
    /// The model's versions, in ascending order.
    versions: Vec<String>,
    /// `onnx` or `openvino`.
    format: &'static str,
    inputs: &'a [TensorSpec],
    outputs: &'a [TensorSpec],
    /// The bounds of named axes.
    #[schemars(with = "Map<String, Value>")]
    axes: &'a BTreeMap<String, AxisBounds>,
    /// The limits of one call.
    #[schemars(with = "Map<String, Value>")]
    limits: Limits,
    /// The path of `:predict`.
    predict: String,
    /// The settings of explanations, if the contract allows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Map<String, Value>")]
    explain: Option<&'a Explain>,
    /// The adapter that reads content for the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a str>,
}

impl<'a> ContractMembers<'a> {
    fn new(name: &str, versions: &[ModelVersion], contract: &'a Contract) -> Self {
        Self {
            description: &contract.description,
            versions: version_names(versions),
            format: contract.format.as_str(),
            inputs: &contract.inputs,
            outputs: &contract.outputs,
            axes: &contract.axes,
            limits: contract.limits,
            predict: format!("/v1/models/{name}:predict"),
            explain: contract.explain.as_ref(),
            adapter: contract
                .adapter
                .as_ref()
                .map(|adapter| adapter.name.as_str()),
        }
    }
}

/// A model's inputs and outputs, in the Open Inference Protocol's form.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelMetadata<'a> {
    name: &'a str,
    /// The model's versions, in ascending order.
    versions: Vec<String>,
    platform: &'static str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
}

impl<'a> ModelMetadata<'a> {
    pub(crate) fn new(name: &'a str, versions: &[ModelVersion], contract: &'a Contract) -> Self {
        let tensors = |specs: &'a [TensorSpec]| specs.iter().map(TensorMetadata::new).collect();
        Self {
            name,
            versions: version_names(versions),
            platform: platform(contract),
            inputs: tensors(&contract.inputs),
            outputs: tensors(&contract.outputs),
        }
    }
}

/// An input or output.
#[derive(Serialize, JsonSchema)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: Datatype,
    /// The lengths of the axes; -1 for any length.
    #[schemars(inner(range(min = -1)))]
    shape: Vec<i64>,
}

impl<'a> TensorMetadata<'a> {
    fn new(spec: &'a TensorSpec) -> Self {
        Self {
            name: &spec.name,
            datatype: spec.datatype,
            shape: dims_oip(spec),
        }
    }
}

fn version_names(versions: &[ModelVersion]) -> Vec<String> {
    versions.iter().map(ToString::to_string).collect()
}
