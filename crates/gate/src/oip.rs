//! Converts a contract to a Triton model configuration. It has the members for which the contract has data, in the
//! names and forms of Triton's `ModelConfig`. The structs also describe it in the document of the API.

use penstock_core::ModelVersion;
use penstock_tensor::contract::{Backend, dims_oip};
use penstock_tensor::{Contract, Datatype, TensorSpec};
use schemars::JsonSchema;
use serde::Serialize;

/// The supported extensions of the protocol, by the names that common servers use in their metadata.
pub const EXTENSIONS: [&str; 6] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
];

/// Returns the platform name for the Open Inference Protocol's metadata.
pub(crate) fn platform(contract: &Contract) -> &'static str {
    match contract.format.as_str() {
        "openvino" => "openvino_ir",
        _ => "onnx_onnxv1",
    }
}

/// The members of Triton's `ModelConfig` that a contract fills.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelConfig<'a> {
    name: &'a str,
    platform: &'static str,
    /// The runtime; empty if the host chooses it.
    backend: &'static str,
    version_policy: ModelVersionPolicy,
    /// The most items of a call; 0 if the model has no batch axis.
    max_batch_size: i32,
    input: Vec<ModelConfigTensor<'a>>,
    output: Vec<ModelConfigTensor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dynamic_batching: Option<ModelDynamicBatching<'a>>,
}

/// The installed versions.
#[derive(Serialize, JsonSchema)]
struct ModelVersionPolicy {
    specific: SpecificVersions,
}

/// Versions by number.
#[derive(Serialize, JsonSchema)]
struct SpecificVersions {
    versions: Vec<u64>,
}

/// An input or output of a configuration.
#[derive(Serialize, JsonSchema)]
struct ModelConfigTensor<'a> {
    name: &'a str,
    /// The name of the datatype in Triton's configurations, such as `TYPE_FP32`.
    data_type: &'static str,
    /// The lengths of the axes, without the batch axis if `max_batch_size` is not 0; -1 for any length.
    #[schemars(inner(range(min = -1)))]
    dims: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reshape: Option<ModelTensorReshape>,
}

/// The shape that the model receives in place of `dims`.
#[derive(Serialize, JsonSchema)]
struct ModelTensorReshape {
    shape: &'static [i64],
}

/// The settings of dynamic batching.
#[derive(Serialize, JsonSchema)]
struct ModelDynamicBatching<'a> {
    preferred_batch_size: &'a [u32],
    priority_levels: u8,
    default_priority_level: u8,
    /// The longest queue delay, if the contract sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_queue_delay_microseconds: Option<u64>,
}

/// Returns a model's configuration for `/v2/models/{m}/config`.
pub(crate) fn model_config<'a>(
    name: &'a str,
    versions: &[ModelVersion],
    contract: &'a Contract,
) -> ModelConfig<'a> {
    let batched = is_batched(contract);
    let backend = match contract.engine.backend {
        // The contract does not determine which backend the host chooses.
        Backend::Auto => "",
        named => named.as_str(),
    };
    let versions = versions.iter().map(|version| version.get()).collect();
    let batching = &contract.batching;
    let dynamic_batching = (batched && batching.enabled).then(|| {
        let levels = batching.priority_levels;
        let to_us = |wait_ms: f64| (wait_ms * 1_000.0).round() as u64;
        ModelDynamicBatching {
            preferred_batch_size: &batching.preferred_items,
            priority_levels: levels,
            default_priority_level: batching.default_priority.unwrap_or(levels),
            max_queue_delay_microseconds: batching.max_wait_ms.map(to_us),
        }
    });
    ModelConfig {
        name,
        platform: platform(contract),
        backend,
        version_policy: ModelVersionPolicy {
            specific: SpecificVersions { versions },
        },
        max_batch_size: if batched { max_batch_size(contract) } else { 0 },
        input: tensors(&contract.inputs, batched),
        output: tensors(&contract.outputs, batched),
        dynamic_batching,
    }
}

/// Returns whether the configuration's dims omit the batch axis. That requires a second axis in every tensor, because
/// dims must not be empty. Otherwise dims are whole shapes, as in metadata and answers.
fn is_batched(contract: &Contract) -> bool {
    let mut tensors = contract.inputs.iter().chain(&contract.outputs);
    contract.batch_axis().is_some() && tensors.all(|spec| spec.shape.len() > 1)
}

/// Returns the most items of one request. The configuration has 32 bits for the number.
pub fn max_batch_size(contract: &Contract) -> i32 {
    i32::try_from(contract.limits.max_items).unwrap_or(i32::MAX)
}

fn tensors(specs: &[TensorSpec], batched: bool) -> Vec<ModelConfigTensor<'_>> {
    let tensors = specs.iter().map(|spec| ModelConfigTensor {
        name: &spec.name,
        data_type: data_type(spec.datatype),
        dims: config_dims(spec, batched),
        // Callers send a scalar as one axis of one element, and the model receives a scalar.
        reshape: spec
            .shape
            .is_empty()
            .then_some(ModelTensorReshape { shape: &[] }),
    });
    tensors.collect()
}

/// Returns the lengths of a tensor's axes; -1 stands for any length. If the model is `batched`, the batch axis is
/// omitted. A scalar becomes one axis of one element.
pub fn config_dims(spec: &TensorSpec, batched: bool) -> Vec<i64> {
    let mut dims = dims_oip(spec);
    if batched {
        dims.remove(0);
    }
    dims
}

/// Returns a data type's name in a configuration.
pub fn data_type(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "TYPE_BOOL",
        Datatype::Uint8 => "TYPE_UINT8",
        Datatype::Uint16 => "TYPE_UINT16",
        Datatype::Uint32 => "TYPE_UINT32",
        Datatype::Uint64 => "TYPE_UINT64",
        Datatype::Int8 => "TYPE_INT8",
        Datatype::Int16 => "TYPE_INT16",
        Datatype::Int32 => "TYPE_INT32",
        Datatype::Int64 => "TYPE_INT64",
        Datatype::Fp16 => "TYPE_FP16",
        Datatype::Bf16 => "TYPE_BF16",
        Datatype::Fp32 => "TYPE_FP32",
        Datatype::Fp64 => "TYPE_FP64",
        Datatype::Bytes => "TYPE_STRING",
        // Triton has no name for these types. Clients treat this value as an unknown type.
        _ => "TYPE_INVALID",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_tensor::fp8::Fp8;
    use serde_json::{Value, json};

    fn config(text: &str) -> Value {
        let contract = Contract::parse(text).unwrap();
        let versions = ["1", "3"].map(|v| ModelVersion::parse(v).unwrap());
        serde_json::to_value(model_config("m", &versions, &contract)).unwrap()
    }

    #[test]
    fn a_batched_models_dims_leave_out_the_axis_that_counts_items() {
        let found = config(
            "description = \"\"\n[[inputs]]\nname = \"text\"\ndatatype = \"BYTES\"\nshape = [\"N\", 1]\n\
             [[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\", \"T\", 3]\n\
             [[outputs]]\nname = \"y\"\ndatatype = \"BF16\"\nshape = [\"N\", 10]\n\
             [limits]\nmax_items = 64\n[engine]\nbackend = \"onnxruntime\"\n\
             [batching]\npreferred_items = [4, 8]\nmax_wait_ms = 1.5\npriority_levels = 3\ndefault_priority = 2\n",
        );
        assert_eq!(
            found,
            json!({
                "name": "m", "platform": "onnx_onnxv1", "backend": "onnxruntime",
                "version_policy": {"specific": {"versions": [1, 3]}},
                "max_batch_size": 64,
                "input": [
                    {"name": "text", "data_type": "TYPE_STRING", "dims": [1]},
                    {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]},
                ],
                "output": [{"name": "y", "data_type": "TYPE_BF16", "dims": [10]}],
                "dynamic_batching": {
                    "preferred_batch_size": [4, 8], "priority_levels": 3, "default_priority_level": 2,
                    "max_queue_delay_microseconds": 1500,
                },
            })
        );
    }

    #[test]
    fn a_model_without_a_batch_axis_has_whole_dims_and_joins_nothing() {
        let found = config(
            "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"INT64\"\nshape = []\n\
             [[outputs]]\nname = \"y\"\ndatatype = \"BOOL\"\nshape = [1, \"T\"]\n",
        );
        assert_eq!(
            (&found["max_batch_size"], &found["backend"]),
            (&json!(0), &json!(""))
        );
        assert_eq!(found["input"][0]["reshape"], json!({"shape": []}));
        assert_eq!(found["output"][0]["dims"], json!([1, -1]));
        assert_eq!(found.get("dynamic_batching"), None);
    }

    #[test]
    fn a_tensor_of_the_batch_axis_alone_has_whole_dims_like_its_metadata() {
        let found = config(
            "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\", 4]\n\
             [[outputs]]\nname = \"label\"\ndatatype = \"INT64\"\nshape = [\"N\"]\n",
        );
        assert_eq!(found["max_batch_size"], json!(0));
        assert_eq!(found["input"][0]["dims"], json!([-1, 4]));
        assert_eq!(found["output"][0]["dims"], json!([-1]));
        assert_eq!(found["output"][0].get("reshape"), None);
    }

    #[test]
    fn every_datatype_is_named_like_its_own() {
        for datatype in Datatype::ALL {
            let name = data_type(*datatype).strip_prefix("TYPE_").unwrap();
            match datatype {
                Datatype::Bytes => assert_eq!(name, "STRING"),
                rare if rare.narrow_range().is_some() || Fp8::of(*rare).is_some() => {
                    assert_eq!(name, "INVALID");
                }
                other => assert_eq!(name, other.as_str()),
            }
        }
    }
}
