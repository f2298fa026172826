//! Describes the operations on any model, one file for each group of calls, and those on one model.

mod batches;
mod components;
mod content;
mod model;
mod operation;
mod operations;
mod server;
mod v1;
mod v2;

pub use components::{headers, parameters};
pub use model::{Shared, of_model};

use super::about::About;
use operation::written;
use serde_json::{Map, Value, json};

/// Returns the tags of operations.
pub fn tags() -> Value {
    json!([
        { "name": "predict", "description": "Run models" },
        { "name": "operations", "description": "Calls that run later, and their results" },
        { "name": "batches", "description": "Files of calls that run later, in OpenAI's form" },
        { "name": "models", "description": "List models and their contracts" },
        { "name": "oip", "description": "The Open Inference Protocol v2, with Triton's extensions" },
        { "name": "openai", "description": "OpenAI's form" },
        { "name": "texts", "description": "Classes, ranks and scores of texts, in the forms of vLLM, Text Embeddings Inference and Cohere" },
        { "name": "server", "description": "The server's state and descriptions" },
    ])
}

pub use self::operations::webhooks;

/// Returns the operations on any model, and those without a model.
pub fn generic(about: &About) -> Map<String, Value> {
    let mut operations = server::operations(about);
    operations.extend(v1::operations());
    operations.extend(v2::operations());
    operations.extend(self::operations::operations(about));
    operations.extend(batches::operations());
    written(operations, about)
}
