//! Writes the schemas of bodies: those that hold for any model, and those of one model's contract.

use super::Described;
use super::names::component;
use penstock_tensor::classification::MAX_CLASSES;
use penstock_tensor::contract::Dim;
use penstock_tensor::fp8::Fp8;
use penstock_tensor::{Contract, Datatype, TensorSpec};
use serde_json::{Map, Value, json};

/// The most labels that are listed; beyond it a label is any string.
const MAX_LABELS: usize = 256;

/// Greatest values of the floating-point datatypes.
const FP16_MAX: f64 = 65504.0;
const BF16_MAX: f64 = 3.389_531_389_251_535_5e38;

/// A reference to a schema.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object that may have further members.
fn object(description: &str, properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({ "type": "object", "properties": properties });
    if !description.is_empty() {
        schema["description"] = json!(description);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// An object whose other members are refused.
fn closed(description: &str, properties: Value, required: &[&str]) -> Value {
    let mut schema = object(description, properties, required);
    schema["additionalProperties"] = json!(false);
    schema
}

/// An optional member of a request: `null` stands for nothing.
fn or_null(schema: Value) -> Value {
    match schema.get("type") {
        Some(Value::String(one)) => {
            let types = json!([one, "null"]);
            let mut schema = schema;
            schema["type"] = types;
            if let Some(Value::Array(values)) = schema.get_mut("enum") {
                values.push(Value::Null);
            }
            schema
        }
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// An array of one schema. Every array says what it holds: generators refuse one that does not.
fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A string, an integer, a number: each with what it is.
fn typed(kind: &str, description: &str) -> Value {
    json!({ "type": kind, "description": description })
}

/// An object of any members.
fn any_object(description: &str) -> Value {
    json!({ "type": "object", "description": description, "additionalProperties": true })
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
                    _ => Fp8::of(datatype).map_or(f64::MAX, Fp8::max),
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

/// The inputs of `:predict`, by name.
fn inputs(contract: &Contract) -> Value {
    let properties: Map<String, Value> = contract
        .inputs
        .iter()
        .map(|spec| (spec.name.clone(), described(input(spec, contract), spec)))
        .collect();
    let sent = contract.inputs.iter().filter(|spec| !spec.optional);
    let names: Vec<&str> = sent.map(|spec| spec.name.as_str()).collect();
    closed("The inputs by name.", Value::Object(properties), &names)
}

/// One input in `infer`.
fn named_tensor(spec: &TensorSpec, contract: &Contract) -> Value {
    let bounds: Vec<(u64, Option<u64>)> = spec
        .shape
        .iter()
        .map(|dim| lengths(dim, contract))
        .collect();
    let rank = bounds.len();
    let flat = json!({ "type": "array", "items": element(spec), "minItems": u8::from(!spec.may_be_empty) });
    let data = if rank > 1 {
        json!({ "anyOf": [flat, input(spec, contract)] })
    } else {
        flat
    };
    // One schema for all axes, with the bounds that hold for each. `prefixItems` could say more, but not to every generator:
    // openapi-python-client refuses `"items": false` behind it, Spectral refuses none, and hey-api takes any other for one
    // more axis.
    let mut axis = json!({ "type": "integer" });
    if let Some(least) = bounds.iter().map(|(least, _)| *least).min() {
        axis["minimum"] = json!(least);
    }
    let greatest: Option<Vec<u64>> = bounds.iter().map(|(_, greatest)| *greatest).collect();
    if let Some(greatest) = greatest.and_then(|all| all.into_iter().max()) {
        axis["maximum"] = json!(greatest);
    }
    let shape = if rank == 0 {
        // A scalar is an axis of one element, or none.
        json!({ "type": "array", "items": { "type": "integer", "const": 1 }, "maxItems": 1 })
    } else {
        json!({ "type": "array", "items": axis, "minItems": rank, "maxItems": rank })
    };
    let schema = object(
        "",
        json!({
            "name": { "type": "string", "const": spec.name },
            "datatype": { "type": "string", "const": spec.datatype.as_str() },
            "shape": shape,
            "parameters": or_null(reference("InputParameters")),
            "data": data,
        }),
        &["name", "shape", "datatype", "data"],
    );
    described(schema, spec)
}

/// The name of the schema of a model's input in `infer`.
fn infer_input(model: &str, contract: &Contract, index: usize) -> String {
    match contract.inputs.len() {
        1 => component("InferInput", model),
        _ => component(&format!("InferInput{}", index + 1), model),
    }
}

/// A body of `infer` as JSON.
fn infer_request(model: &str, contract: &Contract) -> Value {
    let count = contract.inputs.len();
    let mut inputs: Vec<Value> = (0..count)
        .map(|index| reference(&infer_input(model, contract, index)))
        .collect();
    let one = match count {
        // There is none, and generators want to know of what.
        0 => json!({ "type": "object" }),
        1 => inputs.pop().unwrap_or_default(),
        _ => json!({ "oneOf": inputs }),
    };
    let least = contract.inputs.iter().filter(|spec| !spec.optional).count();
    let outputs = json!({
        "type": "array",
        "description": "The outputs that are wanted; all where there are none.",
        "items": reference(&component("InferOutput", model)),
        "maxItems": contract.outputs.len(),
    });
    object(
        &format!("Tensors for `{model}`, as the Open Inference Protocol writes them."),
        json!({
            "id": or_null(reference("CallerId")),
            "parameters": or_null(reference("InferParameters")),
            "inputs": { "type": "array", "items": one, "minItems": least, "maxItems": count },
            "outputs": or_null(outputs),
        }),
        &["inputs"],
    )
}

/// An output that is asked for in `infer`.
fn infer_output(contract: &Contract) -> Value {
    let outputs: Vec<&str> = contract.outputs.iter().map(|s| s.name.as_str()).collect();
    object(
        "An output that is wanted, and its form.",
        json!({
            "name": { "type": "string", "enum": outputs },
            "parameters": or_null(reference("OutputParameters")),
        }),
        &["name"],
    )
}

/// A body of `:predict` with tensors; `inputs` is a schema of all of them.
fn tensor_request(description: &str, inputs: Value) -> Value {
    closed(
        description,
        json!({
            "inputs": inputs,
            "id": or_null(reference("CallerId")),
            "model_version": or_null(reference("Version")),
            "parameters": or_null(reference("Parameters")),
        }),
        &["inputs"],
    )
}

/// One prediction of `:predict`. What a caller is told may be cut by policy, so nothing is required.
fn prediction(model: &str, contract: &Contract) -> Value {
    if contract.adapter.is_some() {
        return any_object(
            "The adapter's result for the content; the outputs by name where the request has tensors.",
        );
    }
    let batched = contract.batch_axis().is_some();
    let mut properties = Map::new();
    for spec in &contract.outputs {
        let shape = spec.shape.get(usize::from(batched)..).unwrap_or_default();
        let value = nested(answered_element(spec), shape, contract, false);
        properties.insert(spec.name.clone(), described(value, spec));
    }
    if let Some((spec, labels)) = contract.labelled_output() {
        let mut label =
            json!({ "type": ["string", "null"], "description": "The likeliest class." });
        if labels.len() <= MAX_LABELS {
            let mut listed: Vec<&String> = Vec::with_capacity(labels.len());
            for label in labels {
                if !listed.contains(&label) {
                    listed.push(label);
                }
            }
            label["examples"] = json!(listed);
        }
        properties.insert("label".to_owned(), label);
        properties.insert("confidence".to_owned(), confidence(spec));
        let mut top = array(reference(&component("Class", model)));
        top["description"] = json!("The most likely classes, the likeliest first.");
        properties.insert("top".to_owned(), top);
    }
    object("The outputs by name.", Value::Object(properties), &[])
}

/// The value of a class.
fn confidence(spec: &TensorSpec) -> Value {
    let kind = if spec.datatype.is_float() {
        "number"
    } else {
        "integer"
    };
    json!({ "type": [kind, "null"], "description": "The value of the class." })
}

/// The members of an answer of `:predict`.
fn predict_response(model: Value, prediction: Value) -> Value {
    let mut predictions = array(prediction);
    predictions["description"] = json!("One for each item, in order.");
    object(
        "The predictions, and which version of the model made them.",
        json!({
            "prediction_id": typed("string", "Names the prediction for good."),
            "id": typed("string", "The caller's own id for the call."),
            "model": model,
            "model_version": typed("string", "The version that answered."),
            "predictions": predictions,
            "explanation": reference("Explanation"),
            "non_finite": {
                "type": "integer", "minimum": 1,
                "description": "How many numbers are `null` because JSON has no NaN and no infinity.",
            },
            "latency_ms": typed("number", "Milliseconds from the request's arrival to its answer."),
            "request_id": typed("string", "Names the request, as the header `X-Request-Id` does."),
        }),
        &[
            "prediction_id",
            "model",
            "model_version",
            "predictions",
            "latency_ms",
            "request_id",
        ],
    )
}

/// The schemas of one model.
pub fn of_model(model: &Described<'_>) -> Map<String, Value> {
    let Described { name, contract, .. } = *model;
    let mut schemas = Map::new();
    let mut put = |what: &str, schema: Value| schemas.insert(component(what, name), schema);
    put("Inputs", inputs(contract));
    let by_name = reference(&component("Inputs", name));
    let all = match contract.inputs.as_slice() {
        [only] => json!({
            "description": "The input by name, or its value alone.",
            "anyOf": [by_name, input(only, contract)],
        }),
        _ => by_name,
    };
    let tensors = tensor_request(&format!("Tensors for `{name}`."), all);
    if contract.adapter.is_some() {
        put("TensorRequest", tensors);
        put(
            "PredictRequest",
            json!({
                "description": format!("Tensors or content for `{name}`."),
                "anyOf": [reference(&component("TensorRequest", name)), reference("ContentRequest")],
            }),
        );
    } else {
        put("PredictRequest", tensors);
        if let Some((spec, _)) = contract.labelled_output() {
            let label = typed("string", "The name of the class.");
            let members = json!({ "label": label, "confidence": confidence(spec) });
            put("Class", object("A class and its value.", members, &[]));
        }
    }
    put("Prediction", prediction(name, contract));
    put(
        "PredictResponse",
        predict_response(
            json!({ "type": "string", "const": name }),
            reference(&component("Prediction", name)),
        ),
    );
    put(
        "BatchPredictRequest",
        closed(
            &format!("Several requests for `{name}`."),
            json!({
                "requests": {
                    "type": "array",
                    "items": reference(&component("PredictRequest", name)),
                    "minItems": 1,
                    "maxItems": contract.limits.max_items,
                },
            }),
            &["requests"],
        ),
    );
    put("InferRequest", infer_request(name, contract));
    put("InferOutput", infer_output(contract));
    for (index, spec) in contract.inputs.iter().enumerate() {
        let schema = named_tensor(spec, contract);
        schemas.insert(infer_input(name, contract, index), schema);
    }
    schemas
}

/// The schemas that hold for every model.
pub fn generic() -> Map<String, Value> {
    let members = requests()
        .into_iter()
        .chain(parts())
        .chain(predictions())
        .chain(protocol())
        .chain(embeddings())
        .chain(texts())
        .chain(models())
        .chain(server());
    members
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

type Named = (&'static str, Value);

/// Bodies of calls under `/v1`.
fn requests() -> Vec<Named> {
    vec![
        (
            "CallerId",
            json!({
                "type": "string", "maxLength": 256,
                "description": "The caller's own id for the call, at most 256 bytes; the answer repeats it.",
            }),
        ),
        (
            "Version",
            typed(
                "string",
                "The version that is to answer, by number or alias.",
            ),
        ),
        (
            "Parameters",
            json!({
                "type": "object",
                "description": "Ignored unless the method documents them.",
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
            }),
        ),
        (
            "TensorRequest",
            tensor_request(
                "Tensors for any model.",
                json!({
                    "description": "Values nested as the shapes say: an object of all inputs by name, or the value alone where the model has one input.",
                }),
            ),
        ),
        (
            "ContentRequest",
            closed(
                "Content for a model with an adapter.",
                json!({
                    "content": {
                        "description": "Parts, one part, or a text.",
                        "anyOf": [
                            { "type": "array", "items": reference("Part"), "minItems": 1, "maxItems": 64 },
                            reference("Part"),
                            { "type": "string" },
                        ],
                    },
                    "id": or_null(reference("CallerId")),
                    "model_version": or_null(reference("Version")),
                }),
                &["content"],
            ),
        ),
        (
            "PredictRequest",
            json!({
                "description": "Tensors or content for any model.",
                "anyOf": [reference("TensorRequest"), reference("ContentRequest")],
            }),
        ),
        (
            "BatchPredictRequest",
            closed(
                "Several requests for one model.",
                json!({
                    "requests": {
                        "type": "array", "minItems": 1,
                        "description": "Bodies of `:predict`.",
                        "items": reference("PredictRequest"),
                    },
                }),
                &["requests"],
            ),
        ),
    ]
}

/// Parts of content. Each form has a schema of its own, so that a part with `data` and `url` meets none.
fn parts() -> Vec<Named> {
    let kinds = || json!({ "type": "string", "enum": ["image", "audio", "bytes"] });
    let media_type = || or_null(typed("string", "Such as `image/png`."));
    let text = || json!({ "type": "string", "const": "text" });
    vec![
        (
            "Part",
            json!({
                "description": "One piece of content.",
                "oneOf": [
                    reference("TextPart"),
                    reference("TokensPart"),
                    reference("DataPart"),
                    reference("UrlPart"),
                    reference("TensorPart"),
                ],
            }),
        ),
        (
            "TextPart",
            closed(
                "A text.",
                json!({ "type": text(), "text": { "type": "string" } }),
                &["type", "text"],
            ),
        ),
        (
            "TokensPart",
            closed(
                "A text as numbers of the model's vocabulary.",
                json!({
                    "type": text(),
                    "tokens": array(json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })),
                }),
                &["type", "tokens"],
            ),
        ),
        (
            "DataPart",
            closed(
                "An image, a recording or any bytes, in base64.",
                json!({
                    "type": kinds(),
                    "data": { "type": "string", "contentEncoding": "base64" },
                    "media_type": media_type(),
                }),
                &["type", "data"],
            ),
        ),
        (
            "UrlPart",
            closed(
                "An image, a recording or any bytes, in a `data:` URL.",
                json!({
                    "type": kinds(),
                    "url": typed("string", "A `data:` URL; the server fetches nothing."),
                    "media_type": media_type(),
                }),
                &["type", "url"],
            ),
        ),
        (
            "TensorPart",
            closed(
                "A tensor, as the Open Inference Protocol writes it.",
                json!({
                    "type": { "type": "string", "const": "tensor" },
                    "name": { "type": "string" },
                    "datatype": reference("Datatype"),
                    "shape": array(json!({ "type": "integer", "minimum": 0 })),
                    "data": array(json!({})),
                }),
                &["type", "name", "datatype", "shape", "data"],
            ),
        ),
    ]
}

/// Bodies of answers under `/v1`.
fn predictions() -> Vec<Named> {
    let integer = || json!({ "type": "integer" });
    vec![
        (
            "PredictResponse",
            predict_response(typed("string", "The model that answered."), json!({})),
        ),
        (
            "Explanation",
            object(
                "How much each group of features accounts for.",
                json!({
                    "method": { "type": "string", "const": "occlusion" },
                    "output": typed("string", "The output that is explained."),
                    "target": { "type": ["string", "integer"], "description": "The class that is explained." },
                    "target_index": integer(),
                    "base_score": { "type": ["number", "null"], "description": "The value of the class with nothing hidden." },
                    "baseline": any_object("The value that hides each input."),
                    "items": typed("integer", "The items that the explanation cost."),
                    "attributions": array(reference("Attribution")),
                    "sum": { "type": ["number", "null"], "description": "The sum of all attributions." },
                }),
                &["method", "output", "target", "base_score", "attributions"],
            ),
        ),
        (
            "Attribution",
            object(
                "One group of features.",
                json!({
                    "name": { "type": "string" },
                    "input": { "type": "string" },
                    "attribution": {
                        "type": ["number", "null"],
                        "description": "By how much the value of the class falls when the group is hidden.",
                    },
                }),
                &["name", "input", "attribution"],
            ),
        ),
        (
            "ExplainResponse",
            object(
                "An explanation in place of the predictions.",
                json!({
                    "prediction_id": { "type": "string" },
                    "id": { "type": "string" },
                    "model": { "type": "string" },
                    "model_version": { "type": "string" },
                    "explanation": reference("Explanation"),
                    "latency_ms": { "type": "number" },
                    "request_id": { "type": "string" },
                }),
                &["prediction_id", "model", "model_version", "explanation"],
            ),
        ),
        (
            "BatchPredictResponse",
            object(
                "One result for each request.",
                json!({
                    "model": { "type": "string" },
                    "model_version": { "type": "string" },
                    "results": array(reference("BatchResult")),
                    "succeeded": integer(),
                    "failed": integer(),
                    "retry": {
                        "type": "array", "items": integer(),
                        "description": "The failed requests that may succeed when they are sent again, by index.",
                    },
                    "latency_ms": { "type": "number" },
                    "request_id": { "type": "string" },
                }),
                &[
                    "model",
                    "model_version",
                    "results",
                    "succeeded",
                    "failed",
                    "retry",
                ],
            ),
        ),
        (
            "BatchResult",
            object(
                "The predictions of one request, or its error.",
                json!({
                    "index": typed("integer", "The place of the request in `requests`, from 0."),
                    "status": typed("integer", "The HTTP status the request would have alone."),
                    "id": { "type": "string" },
                    "prediction_id": { "type": "string" },
                    "predictions": array(json!({})),
                    "non_finite": integer(),
                    "error": any_object("`code`, `status`, `message` and `details`, as in an error."),
                }),
                &["index", "status"],
            ),
        ),
    ]
}

/// Bodies of the Open Inference Protocol and of Triton's extensions.
fn protocol() -> Vec<Named> {
    let tensor = |data: Value| {
        json!({
            "name": { "type": "string" },
            "shape": array(json!({ "type": "integer", "minimum": 0 })),
            "datatype": reference("Datatype"),
            "data": data,
        })
    };
    let with_parameters = |mut members: Value, parameters: Value| {
        members["parameters"] = parameters;
        members
    };
    let elements = || {
        let mut data = array(json!({}));
        data["description"] = json!("Elements in row-major order, flat or nested.");
        data
    };
    vec![
        (
            "InferParameters",
            object(
                "Parameters of the request; the server ignores those it does not know and that cannot change the result.",
                json!({
                    "binary_data_output": or_null(typed(
                        "boolean",
                        "Outputs that do not say otherwise come as bytes after the JSON.",
                    )),
                    "priority": or_null(json!({
                        "type": "integer", "minimum": 0, "maximum": i64::MAX,
                        "description": "The model's queue to wait in; 1 runs first. 0, or a level that the model does not have, is the default. The caller's tier may allow less.",
                    })),
                    "timeout": or_null(json!({
                        "type": "integer", "minimum": 0, "maximum": i64::MAX,
                        "description": "Microseconds the call may take; 0 is the server's own limit.",
                    })),
                }),
                &[],
            ),
        ),
        (
            "InputParameters",
            any_object(
                "In a body with bytes behind its JSON, `binary_data_size` is the number of bytes of this input, in place of `data`.",
            ),
        ),
        (
            "OutputParameters",
            object(
                "The form of one output.",
                json!({
                    "binary_data": or_null(typed("boolean", "The output comes as bytes after the JSON.")),
                    "classification": or_null(json!({
                        "type": "integer", "minimum": 0, "maximum": MAX_CLASSES,
                        "description": "The number of greatest values to answer with, as strings `value:index:label`, in place of the tensor; 0 for the tensor.",
                    })),
                }),
                &[],
            ),
        ),
        (
            "InferInput",
            object(
                "An input.",
                with_parameters(tensor(elements()), or_null(reference("InputParameters"))),
                &["name", "shape", "datatype"],
            ),
        ),
        (
            "InferRequestedOutput",
            object(
                "An output that is wanted, and its form.",
                json!({
                    "name": { "type": "string" },
                    "parameters": or_null(reference("OutputParameters")),
                }),
                &["name"],
            ),
        ),
        (
            "InferRequest",
            object(
                "Tensors for any model.",
                json!({
                    "id": or_null(reference("CallerId")),
                    "parameters": or_null(reference("InferParameters")),
                    "inputs": array(reference("InferInput")),
                    "outputs": or_null(array(reference("InferRequestedOutput"))),
                }),
                &["inputs"],
            ),
        ),
        (
            "InferOutput",
            object(
                "An output.",
                with_parameters(
                    tensor(elements()),
                    any_object("`binary_data_size` where the data are bytes."),
                ),
                &["name", "shape", "datatype"],
            ),
        ),
        (
            "InferResponse",
            object(
                "The outputs.",
                json!({
                    "model_name": { "type": "string" },
                    "model_version": { "type": "string" },
                    "id": { "type": "string" },
                    "parameters": any_object("`prediction_id`, and `non_finite` where numbers are `null`."),
                    "outputs": array(reference("InferOutput")),
                }),
                &["model_name", "model_version", "outputs"],
            ),
        ),
        (
            "Datatype",
            json!({
                "type": "string",
                "description": "The type of a tensor's elements.",
                "enum": Datatype::ALL.iter().map(|datatype| datatype.as_str()).collect::<Vec<_>>(),
            }),
        ),
        (
            "GenerateRequest",
            json!({
                "type": "object",
                "description": "The inputs by name, nested as their shapes say, or without the axis that counts items, or flat.",
                "properties": {
                    "id": or_null(reference("CallerId")),
                    "parameters": or_null(any_object("Inputs by name, `priority` and `timeout`.")),
                },
                "additionalProperties": true,
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
                "additionalProperties": true,
            }),
        ),
    ]
}

/// Bodies of `/v1/embeddings`, after OpenAI's reference.
fn embeddings() -> Vec<Named> {
    let tokens =
        json!({ "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1 });
    vec![
        (
            "EmbeddingRequest",
            closed(
                "Texts for a model that makes vectors of text.",
                json!({
                    "model": typed("string", "The model's name, or `name@version`."),
                    "input": {
                        "description": "A text, several, or the same as numbers of the model's vocabulary.",
                        "anyOf": [
                            { "type": "string", "minLength": 1 },
                            { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
                            tokens,
                            { "type": "array", "items": tokens, "minItems": 1 },
                        ],
                    },
                    "encoding_format": or_null(json!({
                        "type": "string", "enum": ["float", "base64"],
                        "description": "`base64` is that of little-endian 32-bit floats.",
                    })),
                    "dimensions": or_null(json!({
                        "type": "integer", "minimum": 1,
                        "description": "The length of the model's vectors; they are not shortened.",
                    })),
                    "user": or_null(typed("string", "Not used.")),
                    "truncate_prompt_tokens": or_null(json!({
                        "type": "integer", "minimum": -1,
                        "description": "Cuts each text at its end to this many tokens; -1 is as many as the model reads. Without it a longer text is refused, unless the model's contract says otherwise.",
                    })),
                }),
                &["model", "input"],
            ),
        ),
        (
            "EmbeddingResponse",
            object(
                "One vector for each input.",
                json!({
                    "object": { "type": "string", "const": "list" },
                    "data": array(reference("Embedding")),
                    "model": { "type": "string" },
                    "usage": reference("EmbeddingUsage"),
                }),
                &["object", "data", "model", "usage"],
            ),
        ),
        (
            "Embedding",
            object(
                "The vector of one input.",
                json!({
                    "object": { "type": "string", "const": "embedding" },
                    "index": typed("integer", "The place of the input, from 0."),
                    "embedding": {
                        "anyOf": [
                            { "type": "array", "items": { "type": "number" } },
                            { "type": "string", "contentEncoding": "base64" },
                        ],
                    },
                }),
                &["object", "index", "embedding"],
            ),
        ),
        (
            "EmbeddingUsage",
            object(
                "The tokens of all inputs.",
                json!({
                    "prompt_tokens": { "type": "integer" },
                    "total_tokens": { "type": "integer" },
                }),
                &["prompt_tokens", "total_tokens"],
            ),
        ),
    ]
}

/// Bodies of the surfaces over texts and pairs of texts.
fn texts() -> Vec<Named> {
    let model = || typed("string", "The model's name, or `name@version`.");
    let strings = || {
        json!({ "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
        ] })
    };
    let truncate = || {
        or_null(typed(
            "boolean",
            "Cuts each text at its end to what the model reads.",
        ))
    };
    let truncate_to = || {
        or_null(json!({
            "type": "integer", "minimum": -1,
            "description": "Cuts each text at its end to this many tokens; -1 is as many as the model reads.",
        }))
    };
    let user = || or_null(typed("string", "Not used."));
    let flags = |kind: Value| json!({ "type": "object", "additionalProperties": kind });
    let scores = || array(reference("ClassScore"));
    vec![
        (
            "ClassifyRequest",
            closed(
                "Texts for a model that classifies: `input`, or `inputs`.",
                json!({
                    "model": model(),
                    "input": or_null(strings()),
                    "inputs": or_null(json!({ "anyOf": [
                        { "type": "string", "minLength": 1 },
                        { "type": "array", "minItems": 1, "items": {
                            "type": "array", "minItems": 1, "maxItems": 2, "items": { "type": "string", "minLength": 1 },
                        } },
                    ] })),
                    "truncate": truncate(),
                    "truncate_prompt_tokens": truncate_to(),
                    "raw_scores": or_null(json!({ "type": "boolean", "const": false })),
                    "user": user(),
                }),
                &["model"],
            ),
        ),
        (
            "ClassifyResponse",
            json!({
                "description": "The form of vLLM for `input`; for `inputs` that of Text Embeddings Inference.",
                "anyOf": [reference("Classification"), scores(), array(scores())],
            }),
        ),
        (
            "Classification",
            object(
                "The classes of each input.",
                json!({
                    "id": { "type": "string" },
                    "object": { "type": "string", "const": "list" },
                    "created": { "type": "integer" },
                    "model": { "type": "string" },
                    "data": array(reference("Classified")),
                    "usage": reference("EmbeddingUsage"),
                }),
                &["id", "object", "created", "model", "data", "usage"],
            ),
        ),
        (
            "Classified",
            object(
                "The classes of one input.",
                json!({
                    "index": typed("integer", "The place of the input, from 0."),
                    "label": typed("string", "The best class."),
                    "scores": scores(),
                    "probs": { "type": "array", "items": { "type": "number" }, "description": "Scores in the order of the model's classes." },
                    "num_classes": { "type": "integer" },
                }),
                &["index", "label", "scores"],
            ),
        ),
        (
            "ClassScore",
            object(
                "A class and its score.",
                json!({ "label": { "type": "string" }, "score": { "type": "number" } }),
                &["label", "score"],
            ),
        ),
        (
            "ModerationRequest",
            closed(
                "Texts to flag.",
                json!({
                    "model": model(),
                    "input": { "anyOf": [
                        { "type": "string", "minLength": 1 },
                        { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
                        { "type": "array", "minItems": 1, "items": reference("ModerationPart") },
                    ] },
                    "truncate": truncate(),
                    "truncate_prompt_tokens": truncate_to(),
                    "user": user(),
                }),
                &["model", "input"],
            ),
        ),
        (
            "ModerationPart",
            closed(
                "A part of an input.",
                json!({
                    "type": { "type": "string", "const": "text" },
                    "text": { "type": "string", "minLength": 1 },
                }),
                &["type", "text"],
            ),
        ),
        (
            "ModerationResponse",
            object(
                "A result for each input; parts have one together.",
                json!({
                    "id": { "type": "string" },
                    "model": { "type": "string" },
                    "results": array(reference("Moderation")),
                }),
                &["id", "model", "results"],
            ),
        ),
        (
            "Moderation",
            object(
                "What is flagged.",
                json!({
                    "flagged": { "type": "boolean" },
                    "categories": flags(json!({ "type": "boolean" })),
                    "category_scores": flags(json!({ "type": "number" })),
                    "category_applied_input_types": flags(json!({ "type": "array", "items": { "type": "string" } })),
                }),
                &[
                    "flagged",
                    "categories",
                    "category_scores",
                    "category_applied_input_types",
                ],
            ),
        ),
        (
            "RerankRequest",
            closed(
                "A query, and `documents` or `texts`.",
                json!({
                    "model": model(),
                    "query": { "type": "string", "minLength": 1 },
                    "documents": or_null(json!({ "type": "array", "minItems": 1, "items": {
                        "anyOf": [{ "type": "string" }, reference("RerankDocument")],
                    } })),
                    "texts": or_null(json!({ "type": "array", "minItems": 1, "items": { "type": "string" } })),
                    "top_n": or_null(json!({ "type": "integer", "minimum": 1, "description": "The most results." })),
                    "return_documents": or_null(typed("boolean", "Whether results repeat their document.")),
                    "return_text": or_null(typed("boolean", "The same, as Text Embeddings Inference calls it.")),
                    "truncate": truncate(),
                    "truncate_prompt_tokens": truncate_to(),
                    "raw_scores": or_null(json!({ "type": "boolean", "const": false })),
                    "priority": or_null(typed("integer", "Not used.")),
                    "user": user(),
                }),
                &["model", "query"],
            ),
        ),
        (
            "RerankDocument",
            closed(
                "A document.",
                json!({ "text": { "type": "string" } }),
                &["text"],
            ),
        ),
        (
            "RerankResponse",
            json!({
                "description": "The form of Cohere for `documents`; for `texts` that of Text Embeddings Inference.",
                "anyOf": [reference("Reranking"), array(reference("Ranked"))],
            }),
        ),
        (
            "Reranking",
            object(
                "The documents, best first.",
                json!({
                    "id": { "type": "string" },
                    "model": { "type": "string" },
                    "results": array(reference("RankedDocument")),
                    "meta": { "type": "object" },
                    "usage": reference("EmbeddingUsage"),
                }),
                &["id", "model", "results", "meta", "usage"],
            ),
        ),
        (
            "RankedDocument",
            object(
                "A document and its score.",
                json!({
                    "index": typed("integer", "Its place in the call, from 0."),
                    "relevance_score": { "type": "number" },
                    "document": reference("RerankDocument"),
                }),
                &["index", "relevance_score"],
            ),
        ),
        (
            "Ranked",
            object(
                "A text and its score.",
                json!({
                    "index": typed("integer", "Its place in the call, from 0."),
                    "score": { "type": "number" },
                    "text": { "type": "string" },
                }),
                &["index", "score"],
            ),
        ),
        (
            "ScoreRequest",
            closed(
                "Two texts, one and several, or as many and as many.",
                json!({
                    "model": model(),
                    "text_1": strings(),
                    "text_2": strings(),
                    "truncate": truncate(),
                    "truncate_prompt_tokens": truncate_to(),
                    "user": user(),
                }),
                &["model", "text_1", "text_2"],
            ),
        ),
        (
            "ScoreResponse",
            object(
                "A score for each pair.",
                json!({
                    "id": { "type": "string" },
                    "object": { "type": "string", "const": "list" },
                    "created": { "type": "integer" },
                    "model": { "type": "string" },
                    "data": array(reference("Scored")),
                    "usage": reference("EmbeddingUsage"),
                }),
                &["id", "object", "created", "model", "data", "usage"],
            ),
        ),
        (
            "Scored",
            object(
                "The score of one pair.",
                json!({
                    "index": typed("integer", "The place of the pair, from 0."),
                    "object": { "type": "string", "const": "score" },
                    "score": { "type": "number" },
                }),
                &["index", "object", "score"],
            ),
        ),
    ]
}

/// What is told of models.
fn models() -> Vec<Named> {
    let names = |description: &str| json!({ "type": "array", "items": { "type": "string" }, "description": description });
    let metadata = || array(reference("TensorMetadata"));
    vec![
        (
            "Model",
            object(
                "A model and its contract.",
                json!({
                    "name": { "type": "string" },
                    "id": typed("string", "The name, as OpenAI's clients read it."),
                    "object": { "type": "string", "const": "model" },
                    "created": {
                        "type": "integer", "minimum": 0,
                        "description": "When the contract in force was written, in seconds since the Unix epoch.",
                    },
                    "owned_by": { "type": "string" },
                    "description": { "type": "string" },
                    "versions": names("Its versions, the lowest first."),
                    "format": typed("string", "`onnx` or `openvino`."),
                    "inputs": array(reference("TensorContract")),
                    "outputs": array(reference("TensorContract")),
                    "axes": any_object("The bounds of axes that have a name."),
                    "limits": any_object("Bounds of one call."),
                    "predict": typed("string", "The path of `:predict`."),
                    "adapter": typed("string", "The adapter that reads content for the model."),
                    "ready": typed("boolean", "In lists: whether some version can run now."),
                    "error": typed("string", "Why the model cannot be used, where it cannot."),
                }),
                &["name"],
            ),
        ),
        (
            "TensorContract",
            object(
                "An input or output of a contract.",
                json!({
                    "name": { "type": "string" },
                    "datatype": reference("Datatype"),
                    "shape": {
                        "type": "array",
                        "description": "The lengths of the axes; a name where any length within `axes` will do.",
                        "items": { "type": ["integer", "string"] },
                    },
                    "description": { "type": ["string", "null"] },
                }),
                &["name", "datatype", "shape"],
            ),
        ),
        (
            "ModelList",
            object(
                "The models that the caller may know of.",
                json!({
                    "object": { "type": "string", "const": "list" },
                    "data": {
                        "type": "array",
                        "items": reference("ModelId"),
                        "description": "The models that can be used, as OpenAI's clients read them.",
                    },
                    "models": array(reference("Model")),
                }),
                &["object", "data", "models"],
            ),
        ),
        (
            "ModelId",
            object(
                "A model, as OpenAI's clients read it.",
                json!({
                    "id": { "type": "string" },
                    "object": { "type": "string", "const": "model" },
                    "created": { "type": "integer", "minimum": 0 },
                    "owned_by": { "type": "string" },
                }),
                &["id", "object", "created", "owned_by"],
            ),
        ),
        (
            "ModelMetadata",
            object(
                "A model's inputs and outputs, in the Open Inference Protocol's form.",
                json!({
                    "name": { "type": "string" },
                    "versions": names("Its versions, the lowest first."),
                    "platform": { "type": "string" },
                    "inputs": metadata(),
                    "outputs": metadata(),
                }),
                &["name", "platform", "inputs", "outputs"],
            ),
        ),
        (
            "TensorMetadata",
            object(
                "An input or output.",
                json!({
                    "name": { "type": "string" },
                    "datatype": reference("Datatype"),
                    "shape": {
                        "type": "array",
                        "description": "The lengths of the axes; -1 for any length.",
                        "items": { "type": "integer", "minimum": -1 },
                    },
                }),
                &["name", "datatype", "shape"],
            ),
        ),
        (
            "ModelConfig",
            object(
                "The members of Triton's `ModelConfig` that a contract fills.",
                json!({
                    "name": { "type": "string" },
                    "platform": { "type": "string" },
                    "backend": { "type": "string" },
                    "version_policy": any_object("The versions that are there."),
                    "max_batch_size": typed("integer", "The most items of a call; 0 where no axis counts items."),
                    "input": array(any_object("`name`, `data_type`, `dims`, `reshape`.")),
                    "output": array(any_object("`name`, `data_type`, `dims`, `reshape`.")),
                    "dynamic_batching": any_object("How calls are run together."),
                }),
                &["name", "platform", "max_batch_size", "input", "output"],
            ),
        ),
        (
            "ModelStatistics",
            object(
                "Statistics in Triton's form.",
                json!({ "model_stats": array(reference("VersionStatistics")) }),
                &["model_stats"],
            ),
        ),
        (
            "VersionStatistics",
            json!({
                "type": "object",
                "description": "The counts and times of one version of a model.",
                "properties": {
                    "name": { "type": "string" },
                    "version": { "type": "string" },
                    "inference_count": typed("integer", "The items that ran."),
                    "execution_count": typed("integer", "The batches that ran."),
                },
                "additionalProperties": true,
            }),
        ),
        ("RepositoryIndex", array(reference("RepositoryEntry"))),
        (
            "RepositoryEntry",
            object(
                "One version of a model, and its state.",
                json!({
                    "name": { "type": "string" },
                    "version": { "type": "string" },
                    "state": typed("string", "Such as `READY` or `UNAVAILABLE`."),
                    "reason": { "type": "string" },
                }),
                &["name"],
            ),
        ),
        (
            "RepositoryIndexRequest",
            object(
                "Which models to list.",
                json!({ "ready": or_null(typed("boolean", "Only those that are ready.")) }),
                &[],
            ),
        ),
        (
            "RepositoryControl",
            object(
                "How to load or unload.",
                json!({ "parameters": or_null(any_object("`unload_dependents`, for unloading.")) }),
                &[],
            ),
        ),
    ]
}

/// What the server says of itself.
fn server() -> Vec<Named> {
    let entry_members = || {
        json!({
            "code": typed("string", "A stable word for programs."),
            "status": typed("integer", "The HTTP status."),
            "title": { "type": "string" },
            "remedy": typed("string", "What to do next."),
        })
    };
    vec![
        (
            "ServerMetadata",
            object(
                "The server in the Open Inference Protocol's form.",
                json!({
                    "name": { "type": "string" },
                    "version": { "type": "string" },
                    "extensions": array(json!({ "type": "string" })),
                }),
                &["name", "version", "extensions"],
            ),
        ),
        ("Status", any_object("How things stand.")),
        (
            "ErrorCatalogue",
            object(
                "All errors.",
                json!({ "errors": array(reference("ErrorEntry")) }),
                &["errors"],
            ),
        ),
        (
            "ErrorEntry",
            object(
                "One error of the catalogue.",
                entry_members(),
                &["code", "status", "title", "remedy"],
            ),
        ),
        (
            "Usage",
            object(
                "A page of the caller's own use.",
                json!({
                    "tenant": { "type": "string" },
                    "usage": array(reference("UsageRow")),
                    "next_page_token": typed("string", "Names the next page, where there is one."),
                }),
                &["tenant", "usage"],
            ),
        ),
        (
            "UsageRow",
            object(
                "The use of one day, model and API key.",
                json!({
                    "date": { "type": "string", "format": "date" },
                    "model": { "type": "string" },
                    "api_key_id": { "type": "string" },
                    "requests": { "type": "integer" },
                    "items": { "type": "integer" },
                    "bytes": { "type": "integer" },
                    "compute_ms": { "type": "number" },
                }),
                &[],
            ),
        ),
        (
            "Violation",
            object(
                "One thing that is wrong.",
                json!({
                    "pointer": typed("string", "Where: a JSON pointer (RFC 6901) into the body."),
                    "rule": typed("string", "Which rule, in a stable word."),
                    "expected": { "type": "string" },
                    "message": { "type": "string" },
                }),
                &["pointer", "rule", "expected", "message"],
            ),
        ),
    ]
}
