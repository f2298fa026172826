//! Writes the schemas of bodies: those that hold for any model, and those of one model's contract.

use super::Described;
use penstock_tensor::classification::MAX_CLASSES;
use penstock_tensor::contract::Dim;
use penstock_tensor::{Contract, Datatype, TensorSpec};
use serde_json::{Map, Value, json};

/// The most labels that are listed; beyond it a label is any string.
const MAX_LABELS: usize = 256;

/// Greatest values of the floating-point datatypes.
const FP16_MAX: f64 = 65504.0;
const BF16_MAX: f64 = 3.389_531_389_251_535_5e38;

/// The name of a model's schema; names of models are letters, digits, `-` and `_`, which references may have.
pub fn component(model: &str, what: &str) -> String {
    format!("{model}.{what}")
}

/// A reference to a schema.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// One element of a tensor, in a request.
fn element(spec: &TensorSpec) -> Value {
    let mut schema = match spec.datatype {
        Datatype::Bool => return json!({ "type": "boolean" }),
        Datatype::Bytes => return json!({ "type": "string" }),
        datatype => match datatype.integer_range() {
            Some((least, greatest)) => {
                let least = i64::try_from(least).unwrap_or(i64::MIN);
                let greatest = u64::try_from(greatest).unwrap_or(u64::MAX);
                json!({ "type": "integer", "minimum": least, "maximum": greatest })
            }
            None => {
                let greatest = match datatype {
                    Datatype::Fp16 => FP16_MAX,
                    Datatype::Bf16 => BF16_MAX,
                    Datatype::Fp32 => f64::from(f32::MAX),
                    _ => f64::MAX,
                };
                json!({ "type": "number", "minimum": -greatest, "maximum": greatest })
            }
        },
    };
    if let Some(least) = spec.minimum {
        schema["minimum"] = json!(least);
    }
    if let Some(greatest) = spec.maximum {
        schema["maximum"] = json!(greatest);
    }
    schema
}

/// One element of a tensor, in an answer: what JSON cannot say is `null`.
fn answered_element(spec: &TensorSpec) -> Value {
    match spec.datatype {
        Datatype::Bool => json!({ "type": "boolean" }),
        Datatype::Bytes => json!({ "type": "string" }),
        datatype if datatype.is_float() => json!({ "type": ["number", "null"] }),
        _ => json!({ "type": "integer" }),
    }
}

/// The least and the greatest length of an axis of an input.
fn lengths(dim: &Dim, contract: &Contract) -> (u64, Option<u64>) {
    let axis = match dim {
        Dim::Fixed(length) => return (*length, Some(*length)),
        Dim::Symbol(axis) => axis,
    };
    let (least, mut greatest) = match contract.axes.get(axis) {
        Some(bounds) => (bounds.min, bounds.max),
        None => (1, None),
    };
    if contract.batch_axis() == Some(axis) {
        let most = contract.limits.max_items;
        greatest = Some(greatest.map_or(most, |max| max.min(most)));
    }
    (least, greatest)
}

/// Arrays nested as a shape says.
fn nested(element: Value, shape: &[Dim], contract: &Contract, bounded: bool) -> Value {
    shape.iter().rev().fold(element, |inner, dim| {
        let mut array = json!({ "type": "array", "items": inner });
        if bounded {
            let (least, greatest) = lengths(dim, contract);
            array["minItems"] = json!(least);
            if let Some(greatest) = greatest {
                array["maxItems"] = json!(greatest);
            }
        }
        array
    })
}

fn described(mut schema: Value, spec: &TensorSpec) -> Value {
    let shape = format!("{} {}", spec.datatype.as_str(), spec.shape_text());
    schema["description"] = json!(match &spec.description {
        Some(text) => format!("{text} ({shape})"),
        None => shape,
    });
    schema
}

/// The value of one input in `:predict`.
fn input(spec: &TensorSpec, contract: &Contract) -> Value {
    nested(element(spec), &spec.shape, contract, true)
}

/// `inputs` of `:predict`: by name, or the value alone where there is one input.
fn inputs(contract: &Contract) -> Value {
    let properties: Map<String, Value> = contract
        .inputs
        .iter()
        .map(|spec| (spec.name.clone(), described(input(spec, contract), spec)))
        .collect();
    let names: Vec<&str> = contract.inputs.iter().map(|s| s.name.as_str()).collect();
    let by_name = json!({
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": false,
    });
    match contract.inputs.as_slice() {
        [only] => json!({ "anyOf": [by_name, input(only, contract)] }),
        _ => by_name,
    }
}

/// One input in `infer`.
fn named_tensor(spec: &TensorSpec, contract: &Contract) -> Value {
    let axes: Vec<Value> = spec
        .shape
        .iter()
        .map(|dim| {
            let (least, greatest) = lengths(dim, contract);
            let mut axis = json!({ "type": "integer", "minimum": least });
            if let Some(greatest) = greatest {
                axis["maximum"] = json!(greatest);
            }
            axis
        })
        .collect();
    let rank = axes.len();
    let flat = json!({ "type": "array", "items": element(spec), "minItems": 1 });
    let data = if rank > 1 {
        json!({ "anyOf": [flat, input(spec, contract)] })
    } else {
        flat
    };
    let shape = json!({
        "type": "array", "prefixItems": axes, "items": false, "minItems": rank, "maxItems": rank,
    });
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "const": spec.name },
            "datatype": { "const": spec.datatype.as_str() },
            "shape": if rank == 0 { json!({ "type": "array", "items": { "const": 1 }, "maxItems": 1 }) } else { shape },
            "parameters": reference("InputParameters"),
            "data": data,
        },
        "required": ["name", "shape", "datatype", "data"],
        "additionalProperties": true,
    });
    described(schema, spec)
}

/// A body of `infer` as JSON.
fn infer_request(contract: &Contract) -> Value {
    let inputs: Vec<Value> = contract
        .inputs
        .iter()
        .map(|spec| named_tensor(spec, contract))
        .collect();
    let count = inputs.len();
    let outputs: Vec<&str> = contract.outputs.iter().map(|s| s.name.as_str()).collect();
    let one = if count == 1 {
        inputs.into_iter().next().unwrap_or_default()
    } else {
        json!({ "oneOf": inputs })
    };
    json!({
        "type": "object",
        "properties": {
            "id": reference("CallerId"),
            "parameters": reference("InferParameters"),
            "inputs": { "type": "array", "items": one, "minItems": count, "maxItems": count },
            "outputs": {
                "type": ["array", "null"],
                "description": "The outputs that are wanted; all where there are none.",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": { "enum": outputs },
                        "parameters": reference("OutputParameters"),
                    },
                    "required": ["name"],
                    "additionalProperties": true,
                },
                "maxItems": contract.outputs.len(),
            },
        },
        "required": ["inputs"],
        "additionalProperties": true,
    })
}

/// A body of `:predict` as JSON.
fn predict_request(contract: &Contract) -> Value {
    let tensors = json!({
        "type": "object",
        "title": "Tensors",
        "properties": {
            "inputs": inputs(contract),
            "id": reference("CallerId"),
            "model_version": reference("Version"),
            "parameters": reference("Parameters"),
        },
        "required": ["inputs"],
        "additionalProperties": false,
    });
    if contract.adapter.is_some() {
        json!({ "anyOf": [tensors, reference("ContentRequest")] })
    } else {
        tensors
    }
}

/// One prediction of `:predict`. What a caller is told may be cut by policy, so nothing is required.
fn prediction(contract: &Contract) -> Value {
    if contract.adapter.is_some() {
        return json!({
            "description": "What the model's adapter says of the content; outputs by name where tensors were sent.",
        });
    }
    let batched = contract.batch_axis().is_some();
    let mut properties = Map::new();
    for spec in &contract.outputs {
        let shape = spec.shape.get(usize::from(batched)..).unwrap_or_default();
        let value = nested(answered_element(spec), shape, contract, false);
        properties.insert(spec.name.clone(), described(value, spec));
    }
    if let Some((spec, labels)) = contract.labelled_output() {
        let label = if labels.len() <= MAX_LABELS {
            let mut listed: Vec<&String> = Vec::with_capacity(labels.len());
            for label in labels {
                if !listed.contains(&label) {
                    listed.push(label);
                }
            }
            json!({ "type": ["string", "null"], "examples": listed })
        } else {
            json!({ "type": ["string", "null"] })
        };
        let confidence = answered_element(spec);
        let confidence = if spec.datatype.is_float() {
            confidence
        } else {
            json!({ "type": ["integer", "null"] })
        };
        properties.insert("label".to_owned(), label);
        properties.insert("confidence".to_owned(), confidence.clone());
        properties.insert(
            "top".to_owned(),
            json!({
                "type": "array",
                "description": "The most likely classes, the likeliest first.",
                "items": {
                    "type": "object",
                    "properties": { "label": { "type": "string" }, "confidence": confidence },
                },
            }),
        );
    }
    json!({ "type": "object", "properties": properties })
}

/// The schemas of one model.
pub fn of_model(model: &Described<'_>) -> Map<String, Value> {
    let Described { name, contract, .. } = *model;
    let mut schemas = Map::new();
    let mut put = |what: &str, schema: Value| schemas.insert(component(name, what), schema);
    put("PredictRequest", predict_request(contract));
    put(
        "PredictResponse",
        json!({
            "allOf": [reference("PredictResponse")],
            "properties": {
                "model": { "const": name },
                "predictions": { "type": "array", "items": prediction(contract) },
            },
        }),
    );
    put(
        "BatchPredictRequest",
        json!({
            "type": "object",
            "properties": {
                "requests": {
                    "type": "array",
                    "items": reference(&component(name, "PredictRequest")),
                    "minItems": 1,
                    "maxItems": contract.limits.max_items,
                },
            },
            "required": ["requests"],
            "additionalProperties": false,
        }),
    );
    put("InferRequest", infer_request(contract));
    schemas
}

/// The schemas that hold for every model.
pub fn generic() -> Map<String, Value> {
    let members = [
        (
            "CallerId",
            json!({
                "type": ["string", "null"], "maxLength": 256,
                "description": "The caller's own name for the call, at most 256 bytes; repeated in the answer.",
            }),
        ),
        (
            "Version",
            json!({
                "type": ["string", "null"],
                "description": "The version that is to answer, by number or alias.",
            }),
        ),
        (
            "Parameters",
            json!({
                "type": ["object", "null"],
                "description": "Passed over unless the method documents them.",
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
            }),
        ),
        (
            "InferParameters",
            json!({
                "type": ["object", "null"],
                "properties": {
                    "binary_data_output": {
                        "type": ["boolean", "null"],
                        "description": "Outputs that say nothing themselves come as bytes behind the JSON.",
                    },
                    "priority": {
                        "type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX,
                        "description": "Which line of the model the call waits in, 1 the first to run; 0, and one it has not, is its default. The caller's tier may allow less.",
                    },
                    "timeout": {
                        "type": ["integer", "null"], "minimum": 0, "maximum": i64::MAX,
                        "description": "Microseconds the call may take; 0 is as many as any may.",
                    },
                },
                "additionalProperties": true,
            }),
        ),
        (
            "InputParameters",
            json!({
                "type": ["object", "null"],
                "description": "In a body with bytes behind its JSON, `binary_data_size` says how many of them are this input's, in place of `data`.",
                "additionalProperties": true,
            }),
        ),
        (
            "OutputParameters",
            json!({
                "type": ["object", "null"],
                "properties": {
                    "binary_data": {
                        "type": ["boolean", "null"],
                        "description": "The output comes as bytes behind the JSON.",
                    },
                    "classification": {
                        "type": ["integer", "null"], "minimum": 0, "maximum": MAX_CLASSES,
                        "description": "So many of the greatest values, as strings `value:index:label`, in place of the tensor; 0 for the tensor.",
                    },
                },
                "additionalProperties": true,
            }),
        ),
        ("Part", part()),
        (
            "ContentRequest",
            json!({
                "type": "object",
                "title": "Content",
                "properties": {
                    "content": {
                        "anyOf": [
                            { "type": "array", "items": reference("Part"), "minItems": 1, "maxItems": 64 },
                            reference("Part"),
                            { "type": "string" },
                        ],
                    },
                    "id": reference("CallerId"),
                    "model_version": reference("Version"),
                },
                "required": ["content"],
                "additionalProperties": false,
            }),
        ),
        (
            "PredictRequest",
            json!({
                "anyOf": [
                    {
                        "type": "object",
                        "title": "Tensors",
                        "properties": {
                            "inputs": {
                                "description": "Values nested as the shapes say: an object of all inputs by name, or the value alone where the model has one input.",
                            },
                            "id": reference("CallerId"),
                            "model_version": reference("Version"),
                            "parameters": reference("Parameters"),
                        },
                        "required": ["inputs"],
                        "additionalProperties": false,
                    },
                    reference("ContentRequest"),
                ],
            }),
        ),
        (
            "PredictResponse",
            json!({
                "type": "object",
                "properties": {
                    "prediction_id": { "type": "string" },
                    "id": { "type": "string" },
                    "model": { "type": "string" },
                    "model_version": { "type": "string" },
                    "predictions": { "type": "array", "description": "One for each item, in order." },
                    "explanation": reference("Explanation"),
                    "non_finite": {
                        "type": "integer", "minimum": 1,
                        "description": "How many numbers are `null` because JSON has no NaN and no infinity.",
                    },
                    "latency_ms": { "type": "number" },
                    "request_id": { "type": "string" },
                },
                "required": ["prediction_id", "model", "model_version", "predictions", "latency_ms", "request_id"],
            }),
        ),
        (
            "Explanation",
            json!({
                "type": "object",
                "properties": {
                    "method": { "const": "occlusion" },
                    "output": { "type": "string" },
                    "target": { "type": ["string", "integer"] },
                    "target_index": { "type": "integer" },
                    "base_score": { "type": ["number", "null"] },
                    "baseline": { "type": "object" },
                    "items": { "type": "integer" },
                    "attributions": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": { "type": "string" },
                                "input": { "type": "string" },
                                "attribution": { "type": ["number", "null"] },
                            },
                            "required": ["name", "input", "attribution"],
                        },
                    },
                    "sum": { "type": ["number", "null"] },
                },
                "required": ["method", "output", "target", "base_score", "attributions"],
            }),
        ),
        (
            "ExplainResponse",
            json!({
                "type": "object",
                "properties": {
                    "prediction_id": { "type": "string" },
                    "id": { "type": "string" },
                    "model": { "type": "string" },
                    "model_version": { "type": "string" },
                    "explanation": reference("Explanation"),
                    "latency_ms": { "type": "number" },
                    "request_id": { "type": "string" },
                },
                "required": ["prediction_id", "model", "model_version", "explanation"],
            }),
        ),
        (
            "BatchPredictRequest",
            json!({
                "type": "object",
                "properties": {
                    "requests": {
                        "type": "array", "minItems": 1,
                        "description": "Bodies of `:predict`.",
                        "items": reference("PredictRequest"),
                    },
                },
                "required": ["requests"],
                "additionalProperties": false,
            }),
        ),
        (
            "BatchPredictResponse",
            json!({
                "type": "object",
                "properties": {
                    "model": { "type": "string" },
                    "model_version": { "type": "string" },
                    "results": {
                        "type": "array",
                        "description": "One for each request, in order.",
                        "items": {
                            "type": "object",
                            "properties": {
                                "index": { "type": "integer" },
                                "status": { "type": "integer" },
                                "id": { "type": "string" },
                                "prediction_id": { "type": "string" },
                                "predictions": { "type": "array" },
                                "non_finite": { "type": "integer" },
                                "error": { "type": "object" },
                            },
                            "required": ["index", "status"],
                        },
                    },
                    "succeeded": { "type": "integer" },
                    "failed": { "type": "integer" },
                    "retry": {
                        "type": "array", "items": { "type": "integer" },
                        "description": "Which of the failed requests may fare better another time.",
                    },
                    "latency_ms": { "type": "number" },
                    "request_id": { "type": "string" },
                },
                "required": ["model", "model_version", "results", "succeeded", "failed", "retry"],
            }),
        ),
        (
            "InferRequest",
            json!({
                "type": "object",
                "properties": {
                    "id": reference("CallerId"),
                    "parameters": reference("InferParameters"),
                    "inputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": { "type": "string" },
                                "shape": { "type": "array", "items": { "type": "integer", "minimum": 0 } },
                                "datatype": reference("Datatype"),
                                "parameters": reference("InputParameters"),
                                "data": { "type": "array", "description": "Elements in row-major order, flat or nested." },
                            },
                            "required": ["name", "shape", "datatype"],
                            "additionalProperties": true,
                        },
                    },
                    "outputs": {
                        "type": ["array", "null"],
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": { "type": "string" },
                                "parameters": reference("OutputParameters"),
                            },
                            "required": ["name"],
                            "additionalProperties": true,
                        },
                    },
                },
                "required": ["inputs"],
                "additionalProperties": true,
            }),
        ),
        (
            "InferResponse",
            json!({
                "type": "object",
                "properties": {
                    "model_name": { "type": "string" },
                    "model_version": { "type": "string" },
                    "id": { "type": "string" },
                    "parameters": { "type": "object" },
                    "outputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": { "type": "string" },
                                "shape": { "type": "array", "items": { "type": "integer" } },
                                "datatype": reference("Datatype"),
                                "parameters": { "type": "object" },
                                "data": { "type": "array" },
                            },
                            "required": ["name", "shape", "datatype"],
                        },
                    },
                },
                "required": ["model_name", "model_version", "outputs"],
            }),
        ),
        (
            "Datatype",
            json!({
                "enum": ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES"],
            }),
        ),
        (
            "GenerateRequest",
            json!({
                "type": "object",
                "description": "The inputs by name, nested as their shapes say or without the axis of items; `text_input` is no other than the rest.",
                "properties": {
                    "id": reference("CallerId"),
                    "parameters": { "type": "object" },
                },
            }),
        ),
        (
            "GenerateResponse",
            json!({
                "type": "object",
                "description": "The outputs by name.",
                "properties": {
                    "id": { "type": "string" },
                    "model_name": { "type": "string" },
                    "model_version": { "type": "string" },
                },
                "required": ["model_name", "model_version"],
            }),
        ),
        (
            "ModelConfig",
            json!({
                "type": "object",
                "description": "The members of Triton's `ModelConfig` that a contract says something of.",
                "properties": {
                    "name": { "type": "string" },
                    "platform": { "type": "string" },
                    "backend": { "type": "string" },
                    "version_policy": { "type": "object" },
                    "max_batch_size": { "type": "integer" },
                    "input": { "type": "array", "items": { "type": "object" } },
                    "output": { "type": "array", "items": { "type": "object" } },
                    "dynamic_batching": { "type": "object" },
                },
                "required": ["name", "platform", "max_batch_size", "input", "output"],
            }),
        ),
        ("EmbeddingRequest", embedding_request()),
        (
            "EmbeddingResponse",
            json!({
                "type": "object",
                "properties": {
                    "object": { "const": "list" },
                    "data": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "object": { "const": "embedding" },
                                "index": { "type": "integer" },
                                "embedding": {
                                    "anyOf": [
                                        { "type": "array", "items": { "type": "number" } },
                                        { "type": "string", "contentEncoding": "base64" },
                                    ],
                                },
                            },
                            "required": ["object", "index", "embedding"],
                        },
                    },
                    "model": { "type": "string" },
                    "usage": {
                        "type": "object",
                        "properties": {
                            "prompt_tokens": { "type": "integer" },
                            "total_tokens": { "type": "integer" },
                        },
                        "required": ["prompt_tokens", "total_tokens"],
                    },
                },
                "required": ["object", "data", "model", "usage"],
            }),
        ),
        (
            "Model",
            json!({
                "type": "object",
                "properties": {
                    "name": { "type": "string" },
                    "id": { "type": "string", "description": "The name, as OpenAI's clients read it." },
                    "object": { "const": "model" },
                    "created": {
                        "type": "integer", "minimum": 0,
                        "description": "When the contract in force was written, in seconds since the Unix epoch.",
                    },
                    "owned_by": { "type": "string" },
                    "description": { "type": "string" },
                    "versions": { "type": "array", "items": { "type": "string" } },
                    "format": { "type": "string" },
                    "inputs": { "type": "array", "items": { "type": "object" } },
                    "outputs": { "type": "array", "items": { "type": "object" } },
                    "axes": { "type": "object" },
                    "limits": { "type": "object" },
                    "predict": { "type": "string" },
                    "adapter": { "type": "string" },
                    "ready": { "type": "boolean", "description": "In lists: whether some version could run now." },
                    "error": { "type": "string", "description": "Why the model cannot be used, where it cannot." },
                },
                "required": ["name"],
            }),
        ),
        (
            "ModelList",
            json!({
                "type": "object",
                "properties": {
                    "object": { "const": "list" },
                    "data": {
                        "type": "array",
                        "description": "The models that can be used, as OpenAI's clients read them.",
                        "items": {
                            "type": "object",
                            "properties": {
                                "id": { "type": "string" },
                                "object": { "const": "model" },
                                "created": { "type": "integer", "minimum": 0 },
                                "owned_by": { "type": "string" },
                            },
                            "required": ["id", "object", "created", "owned_by"],
                        },
                    },
                    "models": { "type": "array", "items": reference("Model") },
                },
                "required": ["object", "data", "models"],
            }),
        ),
        (
            "ModelMetadata",
            json!({
                "type": "object",
                "properties": {
                    "name": { "type": "string" },
                    "versions": { "type": "array", "items": { "type": "string" } },
                    "platform": { "type": "string" },
                    "inputs": { "type": "array", "items": reference("TensorMetadata") },
                    "outputs": { "type": "array", "items": reference("TensorMetadata") },
                },
                "required": ["name", "platform", "inputs", "outputs"],
            }),
        ),
        (
            "TensorMetadata",
            json!({
                "type": "object",
                "properties": {
                    "name": { "type": "string" },
                    "datatype": reference("Datatype"),
                    "shape": { "type": "array", "items": { "type": "integer", "minimum": -1 } },
                },
                "required": ["name", "datatype", "shape"],
            }),
        ),
        (
            "ServerMetadata",
            json!({
                "type": "object",
                "properties": {
                    "name": { "type": "string" },
                    "version": { "type": "string" },
                    "extensions": { "type": "array", "items": { "type": "string" } },
                },
                "required": ["name", "version", "extensions"],
            }),
        ),
        (
            "RepositoryIndex",
            json!({
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": { "type": "string" },
                        "version": { "type": "string" },
                        "state": { "type": "string" },
                        "reason": { "type": "string" },
                    },
                    "required": ["name"],
                },
            }),
        ),
        (
            "ModelStatistics",
            json!({
                "type": "object",
                "properties": { "model_stats": { "type": "array", "items": { "type": "object" } } },
                "required": ["model_stats"],
            }),
        ),
        (
            "RepositoryIndexRequest",
            json!({
                "type": "object",
                "properties": {
                    "ready": { "type": ["boolean", "null"], "description": "Only what is ready." },
                },
                "additionalProperties": true,
            }),
        ),
        (
            "RepositoryControl",
            json!({
                "type": "object",
                "properties": {
                    "parameters": { "type": ["object", "null"], "description": "`unload_dependents`, for unloading." },
                },
                "additionalProperties": true,
            }),
        ),
        (
            "Usage",
            json!({
                "type": "object",
                "properties": {
                    "tenant": { "type": "string" },
                    "usage": { "type": "array", "items": { "type": "object" } },
                    "next_page_token": { "type": "string" },
                },
                "required": ["tenant", "usage"],
            }),
        ),
        (
            "Violation",
            json!({
                "type": "object",
                "properties": {
                    "pointer": { "type": "string", "description": "Where: a JSON pointer (RFC 6901) into the body." },
                    "rule": { "type": "string", "description": "Which rule, in a stable word." },
                    "expected": { "type": "string" },
                    "message": { "type": "string" },
                },
                "required": ["pointer", "rule", "expected", "message"],
            }),
        ),
    ];
    members
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// A part of content.
fn part() -> Value {
    let blob = |kind: &str| {
        json!({
            "type": "object",
            "properties": {
                "type": { "const": kind },
                "data": { "type": "string", "contentEncoding": "base64" },
                "url": { "type": "string", "description": "A data: URL; nothing is fetched from elsewhere." },
                "media_type": { "type": "string" },
            },
            "required": ["type"],
            "oneOf": [{ "required": ["data"] }, { "required": ["url"] }],
            "additionalProperties": false,
        })
    };
    json!({
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "type": { "const": "text" },
                    "text": { "type": "string" },
                    "tokens": { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": u32::MAX } },
                },
                "required": ["type"],
                "oneOf": [{ "required": ["text"] }, { "required": ["tokens"] }],
                "additionalProperties": false,
            },
            blob("image"),
            blob("audio"),
            blob("bytes"),
            {
                "type": "object",
                "properties": {
                    "type": { "const": "tensor" },
                    "name": { "type": "string" },
                    "datatype": reference("Datatype"),
                    "shape": { "type": "array", "items": { "type": "integer", "minimum": 0 } },
                    "data": { "type": "array" },
                },
                "required": ["type", "name", "datatype", "shape", "data"],
                "additionalProperties": false,
            },
        ],
    })
}

/// The body of `/v1/embeddings`, after OpenAI's reference.
fn embedding_request() -> Value {
    let tokens =
        json!({ "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1 });
    json!({
        "type": "object",
        "properties": {
            "model": { "type": "string" },
            "input": {
                "anyOf": [
                    { "type": "string", "minLength": 1 },
                    { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
                    tokens,
                    { "type": "array", "items": tokens, "minItems": 1 },
                ],
            },
            "encoding_format": { "enum": ["float", "base64", null] },
            "dimensions": {
                "type": ["integer", "null"], "minimum": 1,
                "description": "Only what the model gives anyway: its vectors cannot be cut.",
            },
            "user": { "type": ["string", "null"] },
            "truncate_prompt_tokens": {
                "type": ["integer", "null"], "minimum": -1,
                "description": "Cuts each text at its end to so many tokens; -1 means as many as the model can read. \
                                Without it, a longer text is refused unless the model's contract says otherwise.",
            },
        },
        "required": ["model", "input"],
        "additionalProperties": false,
    })
}
