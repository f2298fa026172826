//! Writes gRPC answer messages. Outputs are raw, as in Triton. The other messages are translated from the JSON
//! answers of REST.

use penstock_proto::inference as pb;
use penstock_tensor::contract::wire_shape;
use penstock_tensor::{Buffer, Tensor};
use prost::Message;
use prost::bytes::Bytes;
use prost::encoding::{self, WireType};
use serde_json::Value;
use std::collections::BTreeMap;

/// Triton's parameter that tells streaming clients that a request has no further answers.
const FINAL: &str = "triton_final_response";

/// The content of a `ModelInferResponse`.
#[derive(Clone, Debug, Default)]
pub struct Inference<'a> {
    /// The name of the model that answered.
    pub model: &'a str,
    /// The version of the model.
    pub version: &'a str,
    /// The caller's own id of the call.
    pub id: Option<&'a str>,
    /// The parameters of the answer, each a name and a text.
    pub parameters: &'a [(&'a str, &'a str)],
    /// The outputs, in the order of the answer.
    pub outputs: Vec<Tensor>,
}

/// The message type of an answer to an inference request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The answer to a unary call, `ModelInferResponse`.
    Unary,
    /// The answer to a message of a stream, `ModelStreamInferResponse`.
    Stream,
    /// The result of a call that becomes an operation, `ModelInferResponse`.
    Operation,
}

/// Encodes the answer. Outputs that the host holds stay there. Errors with the message's size in bytes if the memory for it
/// cannot be allocated.
pub fn encode_infer(said: Inference<'_>, form: Form) -> Result<Buffer, u64> {
    let mut parameters: BTreeMap<String, pb::InferParameter> = said
        .parameters
        .iter()
        .map(|(name, value)| {
            let choice = pb::infer_parameter::ParameterChoice::StringParam((*value).to_owned());
            ((*name).to_owned(), parameter(choice))
        })
        .collect();
    if form == Form::Stream {
        let choice = pb::infer_parameter::ParameterChoice::BoolParam(true);
        parameters.insert(FINAL.to_owned(), parameter(choice));
    }
    let mut response = pb::ModelInferResponse {
        model_name: said.model.to_owned(),
        model_version: said.version.to_owned(),
        id: said.id.unwrap_or_default().to_owned(),
        parameters,
        outputs: Vec::with_capacity(said.outputs.len()),
        raw_output_contents: Vec::with_capacity(said.outputs.len()),
    };
    let any_held = (said.outputs.iter()).any(|output| output.data.place().is_some());
    let mut held = Vec::new();
    for output in said.outputs {
        response
            .outputs
            .push(pb::model_infer_response::InferOutputTensor {
                name: output.name,
                datatype: output.datatype.as_str().to_owned(),
                shape: (wire_shape(&output.shape).iter())
                    .map(|length| signed(*length))
                    .collect(),
                parameters: BTreeMap::new(),
                contents: None,
            });
        if any_held {
            held.push(output.data);
            continue;
        }
        // This moves the tensor's bytes and copies nothing.
        let bytes = Bytes::from(output.data.into_vec());
        response.raw_output_contents.push(bytes);
    }
    if any_held {
        return around(&response, held, form);
    }
    let message = match form {
        Form::Unary | Form::Operation => written(&response),
        Form::Stream => written(&pb::ModelStreamInferResponse {
            error_message: String::new(),
            infer_response: Some(response),
        }),
    };
    message.map(Buffer::from)
}

/// The number of `raw_output_contents` in a `ModelInferResponse`. No field has a greater one, so its bytes come last.
const RAW_OUTPUT_CONTENTS: u32 = 6;
/// The number of `infer_response` in a `ModelStreamInferResponse`.
const INFER_RESPONSE: u32 = 2;

/// Encodes a message around raw contents that the host holds: the same bytes as of a message that has them.
fn around(response: &pb::ModelInferResponse, raw: Vec<Buffer>, form: Form) -> Result<Buffer, u64> {
    let head = |number: u32, bytes: usize| {
        let mut head = Vec::new();
        encoding::encode_key(number, WireType::LengthDelimited, &mut head);
        encoding::encode_varint(bytes as u64, &mut head);
        Buffer::from(head)
    };
    let mut parts = vec![written(response)?.into()];
    for contents in raw {
        parts.push(head(RAW_OUTPUT_CONTENTS, contents.len()));
        parts.push(contents);
    }
    if form == Form::Stream {
        let bytes = parts.iter().map(Buffer::len).sum();
        parts.insert(0, head(INFER_RESPONSE, bytes));
    }
    Ok(Buffer::joined(parts))
}

/// Encodes the stream message for one failed request. The stream continues.
pub fn stream_error(message: &str, id: &str) -> Vec<u8> {
    pb::ModelStreamInferResponse {
        error_message: message.to_owned(),
        infer_response: Some(pb::ModelInferResponse {
            id: id.to_owned(),
            parameters: BTreeMap::from([(
                FINAL.to_owned(),
                parameter(pb::infer_parameter::ParameterChoice::BoolParam(true)),
            )]),
            ..pb::ModelInferResponse::default()
        }),
    }
    .encode_to_vec()
}

fn written(message: &impl Message) -> Result<Vec<u8>, u64> {
    let bytes = message.encoded_len();
    let mut written = Vec::new();
    written.try_reserve_exact(bytes).map_err(|_| bytes as u64)?;
    // The buffer has room for the whole message.
    message.encode(&mut written).map_err(|_| bytes as u64)?;
    Ok(written)
}

fn parameter(choice: pb::infer_parameter::ParameterChoice) -> pb::InferParameter {
    pb::InferParameter {
        parameter_choice: Some(choice),
    }
}

fn signed(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn text(value: &Value, member: &str) -> String {
    match value.get(member) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn texts(value: &Value, member: &str) -> Vec<String> {
    let list = value.get(member).and_then(Value::as_array);
    let texts = list.into_iter().flatten();
    texts
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

fn number(value: &Value, member: &str) -> u64 {
    value.get(member).and_then(Value::as_u64).unwrap_or(0)
}

fn integers(value: &Value, member: &str) -> Vec<i64> {
    let list = value.get(member).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_i64)
        .collect()
}

fn list<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(member)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Translates the JSON of `/v2` to a `ServerMetadataResponse`.
pub fn server_metadata(said: &Value) -> Vec<u8> {
    pb::ServerMetadataResponse {
        name: text(said, "name"),
        version: text(said, "version"),
        extensions: texts(said, "extensions"),
    }
    .encode_to_vec()
}

/// Translates the JSON of `/v2/models/{m}` to a `ModelMetadataResponse`.
pub fn model_metadata(said: &Value) -> Vec<u8> {
    let tensors = |member: &str| {
        let tensors =
            list(said, member).map(|tensor| pb::model_metadata_response::TensorMetadata {
                name: text(tensor, "name"),
                datatype: text(tensor, "datatype"),
                shape: integers(tensor, "shape"),
            });
        tensors.collect()
    };
    pb::ModelMetadataResponse {
        name: text(said, "name"),
        versions: texts(said, "versions"),
        platform: text(said, "platform"),
        inputs: tensors("inputs"),
        outputs: tensors("outputs"),
    }
    .encode_to_vec()
}

/// Translates the member `dynamic_batching` of a configuration.
fn dynamic_batching(said: &Value) -> Option<pb::model_config::SchedulingChoice> {
    let batching = said.get("dynamic_batching").filter(|b| b.is_object());
    batching.map(|batching| {
        let policy = batching
            .get("default_queue_policy")
            .filter(|p| p.is_object());
        pb::model_config::SchedulingChoice::DynamicBatching(pb::ModelDynamicBatching {
            preferred_batch_size: integers(batching, "preferred_batch_size")
                .iter()
                .map(|size| *size as i32)
                .collect(),
            max_queue_delay_microseconds: number(batching, "max_queue_delay_microseconds"),
            preserve_ordering: batching.get("preserve_ordering").and_then(Value::as_bool)
                == Some(true),
            priority_levels: number(batching, "priority_levels"),
            default_priority_level: number(batching, "default_priority_level"),
            default_queue_policy: policy.map(|policy| pb::ModelQueuePolicy {
                timeout_action: 0,
                default_timeout_microseconds: number(policy, "default_timeout_microseconds"),
                allow_timeout_override: policy
                    .get("allow_timeout_override")
                    .and_then(Value::as_bool)
                    == Some(true),
                max_queue_size: number(policy, "max_queue_size") as u32,
            }),
            priority_queue_policy: BTreeMap::new(),
        })
    })
}

/// Translates the member `version_policy` of a configuration.
fn version_policy(said: &Value) -> Option<pb::ModelVersionPolicy> {
    let policy = said.get("version_policy").filter(|p| p.is_object());
    policy.map(|policy| {
        use pb::model_version_policy::{All, Latest, PolicyChoice, Specific};
        let choice = if let Some(latest) = policy.get("latest") {
            PolicyChoice::Latest(Latest {
                num_versions: number(latest, "num_versions") as u32,
            })
        } else if let Some(specific) = policy.get("specific") {
            PolicyChoice::Specific(Specific {
                versions: integers(specific, "versions"),
            })
        } else {
            PolicyChoice::All(All {})
        };
        pb::ModelVersionPolicy {
            policy_choice: Some(choice),
        }
    })
}

/// Translates the JSON of `/v2/models/{m}/config` to a `ModelConfigResponse`.
pub fn model_config(said: &Value) -> Vec<u8> {
    let data_type = |tensor: &Value| {
        let name = text(tensor, "data_type");
        pb::DataType::from_str_name(&name).map_or(0, |found| found as i32)
    };
    let input = list(said, "input").map(|input| pb::ModelInput {
        name: text(input, "name"),
        data_type: data_type(input),
        format: pb::model_input::Format::from_str_name(&text(input, "format"))
            .map_or(0, |found| found as i32),
        dims: integers(input, "dims"),
        optional: input.get("optional").and_then(Value::as_bool) == Some(true),
    });
    let output = list(said, "output").map(|output| pb::ModelOutput {
        name: text(output, "name"),
        data_type: data_type(output),
        dims: integers(output, "dims"),
        label_filename: text(output, "label_filename"),
    });
    let group = list(said, "instance_group").map(|group| pb::ModelInstanceGroup {
        name: text(group, "name"),
        count: number(group, "count") as i32,
        gpus: integers(group, "gpus")
            .iter()
            .map(|gpu| *gpu as i32)
            .collect(),
        kind: pb::model_instance_group::Kind::from_str_name(&text(group, "kind"))
            .map_or(0, |found| found as i32),
    });
    let parameters = said.get("parameters").and_then(Value::as_object);
    let parameters = parameters.into_iter().flatten().map(|(name, value)| {
        let string_value = match value {
            Value::String(text) => text.clone(),
            other => text(other, "string_value"),
        };
        (name.clone(), pb::ModelParameter { string_value })
    });
    let flag = |member: &str, inner: &str| {
        let found = said.get(member)?.get(inner)?.as_bool()?;
        Some(found)
    };
    pb::ModelConfigResponse {
        config: Some(pb::ModelConfig {
            name: text(said, "name"),
            platform: text(said, "platform"),
            version_policy: version_policy(said),
            max_batch_size: said
                .get("max_batch_size")
                .and_then(Value::as_i64)
                .and_then(|size| i32::try_from(size).ok())
                .unwrap_or(0),
            input: input.collect(),
            output: output.collect(),
            instance_group: group.collect(),
            default_model_filename: text(said, "default_model_filename"),
            cc_model_filenames: BTreeMap::new(),
            metric_tags: BTreeMap::new(),
            parameters: parameters.collect(),
            backend: text(said, "backend"),
            model_transaction_policy: flag("model_transaction_policy", "decoupled")
                .map(|decoupled| pb::ModelTransactionPolicy { decoupled }),
            response_cache: flag("response_cache", "enable")
                .map(|enable| pb::ModelResponseCache { enable }),
            runtime: text(said, "runtime"),
            scheduling_choice: dynamic_batching(said),
        }),
    }
    .encode_to_vec()
}

/// Translates the JSON of `/v2/models/{m}/stats` to a `ModelStatisticsResponse`.
pub fn statistics(said: &Value) -> Vec<u8> {
    fn duration(value: &Value, member: &str) -> Option<pb::StatisticDuration> {
        let duration = value.get(member)?;
        Some(pb::StatisticDuration {
            count: number(duration, "count"),
            ns: number(duration, "ns"),
        })
    }
    let model_stats = list(said, "model_stats").map(|model| {
        let runs = model.get("inference_stats").filter(|s| s.is_object());
        let batches = list(model, "batch_stats").map(|batch| pb::InferBatchStatistics {
            batch_size: number(batch, "batch_size"),
            compute_input: duration(batch, "compute_input"),
            compute_infer: duration(batch, "compute_infer"),
            compute_output: duration(batch, "compute_output"),
        });
        let memory = list(model, "memory_usage").map(|usage| pb::MemoryUsage {
            r#type: text(usage, "type"),
            id: usage.get("id").and_then(Value::as_i64).unwrap_or(0),
            byte_size: number(usage, "byte_size"),
        });
        pb::ModelStatistics {
            name: text(model, "name"),
            version: text(model, "version"),
            last_inference: number(model, "last_inference"),
            inference_count: number(model, "inference_count"),
            execution_count: number(model, "execution_count"),
            inference_stats: runs.map(|runs| pb::InferStatistics {
                success: duration(runs, "success"),
                fail: duration(runs, "fail"),
                queue: duration(runs, "queue"),
                compute_input: duration(runs, "compute_input"),
                compute_infer: duration(runs, "compute_infer"),
                compute_output: duration(runs, "compute_output"),
                cache_hit: duration(runs, "cache_hit"),
                cache_miss: duration(runs, "cache_miss"),
            }),
            batch_stats: batches.collect(),
            memory_usage: memory.collect(),
            response_stats: BTreeMap::new(),
        }
    });
    pb::ModelStatisticsResponse {
        model_stats: model_stats.collect(),
    }
    .encode_to_vec()
}

/// Translates the JSON of `/v2/repository/index` to a `RepositoryIndexResponse`.
pub fn index(said: &Value) -> Vec<u8> {
    let models = said.as_array().into_iter().flatten();
    let models = models.map(|model| pb::repository_index_response::ModelIndex {
        name: text(model, "name"),
        version: text(model, "version"),
        state: text(model, "state"),
        reason: text(model, "reason"),
    });
    pb::RepositoryIndexResponse {
        models: models.collect(),
    }
    .encode_to_vec()
}
