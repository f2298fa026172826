//! Defines the schemas of answers under `/v1/models`.

use super::form::{Named, any_object, array, object, reference, typed};
use serde_json::{Value, json};

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    let schemas = predict().into_iter().chain(explain()).chain(batch());
    schemas.collect()
}

/// Returns the schema of a `:predict` answer.
pub(super) fn predict_response(model: Value, prediction: Value) -> Value {
    let mut predictions = array(prediction);
    predictions["description"] = json!("One prediction for each item, in order.");
    object(
        "The predictions, and the version of the model.",
        json!({
            "prediction_id": typed("string", "The permanent id of the prediction."),
            "id": typed("string", "The caller's own id for the call."),
            "model": model,
            "model_version": typed("string", "The version that answered."),
            "predictions": predictions,
            "explanation": reference("Explanation"),
            "non_finite": {
                "type": "integer", "minimum": 1,
                "description": "The number of values that are `null` because JSON has no NaN and no infinity.",
            },
            "latency_ms": typed("number", "Milliseconds from the request's arrival to its answer."),
            "request_id": typed("string", "The id of the request, as in the header `X-Request-Id`."),
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

/// Returns the schemas of `:predict` answers.
fn predict() -> Vec<Named> {
    vec![(
        "PredictResponse",
        predict_response(typed("string", "The model that answered."), json!({})),
    )]
}

/// Returns the schemas of `:explain` answers.
fn explain() -> Vec<Named> {
    let integer = || json!({ "type": "integer" });
    vec![
        (
            "Explanation",
            object(
                "The contribution of each group of features.",
                json!({
                    "method": { "type": "string", "const": "occlusion" },
                    "output": typed("string", "The explained output."),
                    "target": { "type": ["string", "integer"], "description": "The explained class." },
                    "target_index": integer(),
                    "base_score": { "type": ["number", "null"], "description": "The value of the class with nothing hidden." },
                    "baseline": any_object("The value that hides each input."),
                    "items": typed("integer", "The number of items charged for the explanation."),
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
                        "description": "The decrease of the class's value when the group is hidden.",
                    },
                }),
                &["name", "input", "attribution"],
            ),
        ),
        (
            "ExplainResponse",
            object(
                "An explanation instead of the predictions.",
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
    ]
}

/// Returns the schemas of `:batchPredict` answers.
fn batch() -> Vec<Named> {
    let integer = || json!({ "type": "integer" });
    vec![
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
                        "description": "The indices of failed requests that may succeed on a retry.",
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
                    "index": typed("integer", "The index of the request in `requests`, from 0."),
                    "status": typed("integer", "The HTTP status that the request would have as a separate call."),
                    "id": { "type": "string" },
                    "prediction_id": { "type": "string" },
                    "predictions": array(json!({})),
                    "non_finite": integer(),
                    "error": reference("BatchError"),
                }),
                &["index", "status"],
            ),
        ),
    ]
}
