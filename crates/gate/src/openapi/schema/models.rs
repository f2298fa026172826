//! Defines the schemas of descriptions of models.

use super::form::{Named, any_object, array, object, or_null, reference, typed};
use serde_json::{Value, json};

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    let schemas = contracts()
        .into_iter()
        .chain(metadata())
        .chain(repository());
    schemas.collect()
}

/// Returns the schema of a list of names.
fn names(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

/// Returns the schemas of models and their contracts.
fn contracts() -> Vec<Named> {
    vec![
        (
            "Model",
            object(
                "A model and its contract.",
                json!({
                    "name": { "type": "string" },
                    "id": typed("string", "The name, for OpenAI's clients."),
                    "object": { "type": "string", "const": "model" },
                    "created": {
                        "type": "integer", "minimum": 0,
                        "description": "The modification time of the contract in use, in seconds since the Unix epoch.",
                    },
                    "owned_by": { "type": "string" },
                    "description": { "type": "string" },
                    "versions": names("The model's versions, in ascending order."),
                    "format": typed("string", "`onnx` or `openvino`."),
                    "inputs": array(reference("TensorContract")),
                    "outputs": array(reference("TensorContract")),
                    "axes": any_object("The bounds of named axes."),
                    "limits": any_object("The limits of one call."),
                    "predict": typed("string", "The path of `:predict`."),
                    "explain": any_object("The settings of explanations, if the contract allows them."),
                    "adapter": typed("string", "The adapter that reads content for the model."),
                    "ready": typed("boolean", "In lists: whether a version can run now."),
                    "error": typed("string", "The reason why the model cannot be used, if so."),
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
                        "description": "The lengths of the axes. A name stands for any length within its bounds in `axes`.",
                        "items": { "type": ["integer", "string"] },
                    },
                    "minimum": typed("number", "The smallest accepted value."),
                    "maximum": typed("number", "The greatest accepted value."),
                    "labels": {
                        "type": "array",
                        "description": "The names of the classes along the last axis.",
                        "items": { "type": "string" },
                    },
                    "optional": typed("boolean", "Whether a call may omit this input, or an answer may omit this output."),
                    "allow_non_finite": typed("boolean", "Whether NaN and infinity are accepted."),
                    "description": { "type": ["string", "null"] },
                }),
                &["name", "datatype", "shape"],
            ),
        ),
        (
            "ModelList",
            object(
                "The models that the caller may see.",
                json!({
                    "object": { "type": "string", "const": "list" },
                    "data": {
                        "type": "array",
                        "items": reference("ModelId"),
                        "description": "The usable models, for OpenAI's clients.",
                    },
                    "models": array(reference("Model")),
                }),
                &["object", "data", "models"],
            ),
        ),
        (
            "ModelId",
            object(
                "A model in OpenAI's form.",
                json!({
                    "id": { "type": "string" },
                    "object": { "type": "string", "const": "model" },
                    "created": { "type": "integer", "minimum": 0 },
                    "owned_by": { "type": "string" },
                }),
                &["id", "object", "created", "owned_by"],
            ),
        ),
    ]
}

/// Returns the schemas of models in the Open Inference Protocol's form and in Triton's.
fn metadata() -> Vec<Named> {
    let metadata = || array(reference("TensorMetadata"));
    vec![
        (
            "ModelMetadata",
            object(
                "A model's inputs and outputs, in the Open Inference Protocol's form.",
                json!({
                    "name": { "type": "string" },
                    "versions": names("The model's versions, in ascending order."),
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
                    "version_policy": any_object("The installed versions."),
                    "max_batch_size": typed("integer", "The most items of a call; 0 if the model has no batch axis."),
                    "input": array(any_object("`name`, `data_type`, `dims`, `reshape`.")),
                    "output": array(any_object("`name`, `data_type`, `dims`, `reshape`.")),
                    "dynamic_batching": any_object("The settings of dynamic batching."),
                }),
                &["name", "platform", "max_batch_size", "input", "output"],
            ),
        ),
    ]
}

/// Returns the schemas of statistics and of the repository.
fn repository() -> Vec<Named> {
    vec![
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
                "The models to list.",
                json!({ "ready": or_null(typed("boolean", "Lists only models that are ready.")) }),
                &[],
            ),
        ),
        (
            "RepositoryControl",
            object(
                "Options for loading or unloading.",
                json!({ "parameters": or_null(any_object("`unload_dependents`, for unloading.")) }),
                &[],
            ),
        ),
    ]
}
