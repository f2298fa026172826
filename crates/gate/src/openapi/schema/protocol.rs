//! Defines the schemas of the Open Inference Protocol and of Triton's extensions.

use super::form::{Named, any_object, array, object, or_null, reference, typed};
use penstock_tensor::classification::MAX_CLASSES;
use serde_json::{Value, json};

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    let schemas = parameters()
        .into_iter()
        .chain(infer_requests())
        .chain(infer_answers())
        .chain(generate());
    schemas.collect()
}

/// Returns the members of a tensor in the protocol's form.
fn tensor(parameters: Value) -> Value {
    json!({
        "name": { "type": "string" },
        "shape": array(json!({ "type": "integer", "minimum": 0 })),
        "datatype": reference("Datatype"),
        "data": {
            "type": "array",
            "items": {},
            "description": "Elements in row-major order, flat or nested.",
        },
        "parameters": parameters,
    })
}

/// Returns the schemas of parameters of requests, inputs and outputs.
fn parameters() -> Vec<Named> {
    vec![
        (
            "InferParameters",
            object(
                "Parameters of the request. The server ignores unknown parameters that cannot change the result.",
                json!({
                    "binary_data_output": or_null(typed(
                        "boolean",
                        "Whether outputs without `binary_data` are returned as bytes after the JSON.",
                    )),
                    "priority": or_null(json!({
                        "type": "integer", "minimum": 0, "maximum": i64::MAX,
                        "description": "The priority level in the model's queue; 1 runs first. 0, or a level that the model does not have, means the default. The caller's tier may limit it.",
                    })),
                    "timeout": or_null(json!({
                        "type": "integer", "minimum": 0, "maximum": i64::MAX,
                        "description": "The time that the call may take, in microseconds; 0 means the server's own limit.",
                    })),
                }),
                &[],
            ),
        ),
        (
            "InputParameters",
            any_object(
                "In a body with bytes after its JSON, `binary_data_size` is the number of bytes of this input, in \
                 place of `data`.",
            ),
        ),
        (
            "OutputParameters",
            object(
                "The form of one output.",
                json!({
                    "binary_data": or_null(typed("boolean", "Whether the output is returned as bytes after the JSON.")),
                    "classification": or_null(json!({
                        "type": "integer", "minimum": 0, "maximum": MAX_CLASSES,
                        "description": "The number of greatest values to return as strings `value:index:label` instead of the tensor; 0 means the tensor.",
                    })),
                }),
                &[],
            ),
        ),
    ]
}

/// Returns the schemas of `infer` requests.
fn infer_requests() -> Vec<Named> {
    vec![
        (
            "InferInput",
            object(
                "An input.",
                tensor(or_null(reference("InputParameters"))),
                &["name", "shape", "datatype"],
            ),
        ),
        (
            "InferRequestedOutput",
            object(
                "A requested output and its form.",
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
    ]
}

/// Returns the schemas of `infer` answers.
fn infer_answers() -> Vec<Named> {
    vec![
        (
            "InferOutput",
            object(
                "An output.",
                tensor(any_object("`binary_data_size` if the data are bytes.")),
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
                    "parameters": any_object("`prediction_id`, and `non_finite` if values are `null`."),
                    "outputs": array(reference("InferOutput")),
                }),
                &["model_name", "model_version", "outputs"],
            ),
        ),
    ]
}

/// Returns the schemas of `generate` requests and answers.
fn generate() -> Vec<Named> {
    vec![
        (
            "GenerateRequest",
            json!({
                "type": "object",
                "description": "The inputs by name: nested as their shapes, without the batch axis, or flat.",
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
