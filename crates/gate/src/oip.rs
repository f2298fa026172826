//! Converts a contract to a Triton model configuration. It has the members for which the contract has data, in the
//! names and forms of Triton's `ModelConfig`.

use penstock_core::ModelVersion;
use penstock_tensor::contract::{Backend, dims_oip};
use penstock_tensor::{Contract, Datatype, TensorSpec};
use serde_json::{Value, json};

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

/// Returns a model's configuration for `/v2/models/{m}/config`.
pub fn model_config(name: &str, versions: &[ModelVersion], contract: &Contract) -> Value {
    let batched = is_batched(contract);
    let backend = match contract.engine.backend {
        // The contract does not determine which backend the host chooses.
        Backend::Auto => "",
        named => named.as_str(),
    };
    let numbers: Vec<u64> = versions.iter().map(|version| version.get()).collect();
    let mut config = json!({
        "name": name,
        "platform": platform(contract),
        "backend": backend,
        "version_policy": { "specific": { "versions": numbers } },
        "max_batch_size": if batched { max_batch_size(contract) } else { 0 },
        "input": ports(&contract.inputs, batched),
        "output": ports(&contract.outputs, batched),
    });
    let batching = &contract.batching;
    if batched && batching.enabled {
        let levels = batching.priority_levels;
        let mut dynamic = json!({
            "preferred_batch_size": batching.preferred_items,
            "priority_levels": levels,
            "default_priority_level": batching.default_priority.unwrap_or(levels),
        });
        if let Some(wait_ms) = batching.max_wait_ms {
            dynamic["max_queue_delay_microseconds"] = json!((wait_ms * 1_000.0).round() as u64);
        }
        config["dynamic_batching"] = dynamic;
    }
    config
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

fn ports(specs: &[TensorSpec], batched: bool) -> Vec<Value> {
    let port = |spec: &TensorSpec| {
        let mut port = json!({
            "name": spec.name,
            "data_type": data_type(spec.datatype),
            "dims": config_dims(spec, batched),
        });
        // Callers send a scalar as one axis of one element, and the model receives a scalar.
        if spec.shape.is_empty() {
            port["reshape"] = json!({ "shape": [] });
        }
        port
    };
    specs.iter().map(port).collect()
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

    fn config(text: &str) -> Value {
        let contract = Contract::parse(text).unwrap();
        let versions = ["1", "3"].map(|v| ModelVersion::parse(v).unwrap());
        model_config("m", &versions, &contract)
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
