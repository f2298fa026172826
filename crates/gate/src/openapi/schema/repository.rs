//! Defines the schemas of statistics and of the model repository. The host writes these answers.

use super::form::{Named, any_object, array, object, or_null, reference, typed};
use serde_json::json;

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
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
                    "agreement": typed("string", "The comparison with another backend: `pending`, `agrees`, `differs`, or `unknown` if it could not be made. Absent if nothing is compared."),
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
