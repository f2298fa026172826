//! Generates the schemas of one model: its inputs, outputs and calls, with the shapes, ranges and labels of its
//! contract.

use super::form::{any_object, array, closed, object, or_null, reference, typed};
use super::predictions::predict_response;
use super::requests::tensor_request;
use crate::openapi::about::Described;
use crate::openapi::names::component;
use penstock_tensor::contract::Dim;
use penstock_tensor::fp8::Fp8;
use penstock_tensor::{Contract, Datatype, TensorSpec};
use serde_json::{Map, Value, json};

/// The most labels that a schema lists. If there are more, a label is any string.
const MAX_LABELS: usize = 256;

/// The greatest finite values of the floating-point datatypes.
const FP16_MAX: f64 = 65504.0;
const BF16_MAX: f64 = 3.389_531_389_251_535_5e38;

/// Returns the schema of one element of a tensor in a request.
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

/// Returns the schema of one element of a tensor in an answer. Values that JSON cannot represent are `null`.
fn answered_element(spec: &TensorSpec) -> Value {
    match spec.datatype {
        Datatype::Bool => json!({ "type": "boolean" }),
        Datatype::Bytes => json!({ "type": "string" }),
        datatype if datatype.is_float() => json!({ "type": ["number", "null"] }),
        _ => json!({ "type": "integer" }),
    }
}

/// Returns the smallest and the greatest length of an axis of an input; `None` if there is no upper bound.
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

/// Returns the schema of arrays nested to a shape.
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

/// Returns the schema of one input in `:predict`.
fn input(spec: &TensorSpec, contract: &Contract) -> Value {
    nested(element(spec), &spec.shape, contract, true)
}

/// Returns the schema of the inputs of `:predict`, by name.
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

/// Returns the schema of one input in `infer`.
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
    // All axes share one schema, with the bounds that hold for each of them. `prefixItems` would be more precise, but
    // generators disagree on it. openapi-python-client refuses `"items": false` with it, Spectral requires `items`,
    // and hey-api treats any other `items` as one more axis.
    let mut axis = json!({ "type": "integer" });
    if let Some(least) = bounds.iter().map(|(least, _)| *least).min() {
        axis["minimum"] = json!(least);
    }
    let greatest: Option<Vec<u64>> = bounds.iter().map(|(_, greatest)| *greatest).collect();
    if let Some(greatest) = greatest.and_then(|all| all.into_iter().max()) {
        axis["maximum"] = json!(greatest);
    }
    let shape = if rank == 0 {
        // A scalar is sent as one axis of one element, or with an empty shape.
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

/// Returns the name of the schema of a model's input in `infer`.
fn infer_input(model: &str, contract: &Contract, index: usize) -> String {
    match contract.inputs.len() {
        1 => component("InferInput", model),
        _ => component(&format!("InferInput{}", index + 1), model),
    }
}

/// Returns the schema of an `infer` body in JSON.
fn infer_request(model: &str, contract: &Contract) -> Value {
    let count = contract.inputs.len();
    let mut inputs: Vec<Value> = (0..count)
        .map(|index| reference(&infer_input(model, contract, index)))
        .collect();
    let one = match count {
        // The model has no inputs, but generators need a schema of the elements.
        0 => json!({ "type": "object" }),
        1 => inputs.pop().unwrap_or_default(),
        _ => json!({ "oneOf": inputs }),
    };
    let least = contract.inputs.iter().filter(|spec| !spec.optional).count();
    let outputs = json!({
        "type": "array",
        "description": "The requested outputs; all if it is empty.",
        "items": reference(&component("InferOutput", model)),
        "maxItems": contract.outputs.len(),
    });
    object(
        &format!("Tensors for `{model}`, in the Open Inference Protocol's form."),
        json!({
            "id": or_null(reference("CallerId")),
            "parameters": or_null(reference("InferParameters")),
            "inputs": { "type": "array", "items": one, "minItems": least, "maxItems": count },
            "outputs": or_null(outputs),
        }),
        &["inputs"],
    )
}

/// Returns the schema of a requested output in `infer`.
fn infer_output(contract: &Contract) -> Value {
    let outputs: Vec<&str> = contract.outputs.iter().map(|s| s.name.as_str()).collect();
    object(
        "A requested output and its form.",
        json!({
            "name": { "type": "string", "enum": outputs },
            "parameters": or_null(reference("OutputParameters")),
        }),
        &["name"],
    )
}

/// Returns the schema of one prediction of `:predict`. Disclosure rules may remove members, so none is required.
fn prediction(model: &str, contract: &Contract) -> Value {
    if contract.adapter.is_some() {
        return any_object(
            "The adapter's result for the content, or the outputs by name if the request has tensors.",
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
            json!({ "type": ["string", "null"], "description": "The most likely class." });
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
        top["description"] = json!("The most likely classes, in descending order.");
        properties.insert("top".to_owned(), top);
    }
    object("The outputs by name.", Value::Object(properties), &[])
}

/// Returns the schema of a class's score.
fn confidence(spec: &TensorSpec) -> Value {
    let kind = if spec.datatype.is_float() {
        "number"
    } else {
        "integer"
    };
    json!({ "type": [kind, "null"], "description": "The value of the class." })
}

/// Returns the schemas of one model.
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
