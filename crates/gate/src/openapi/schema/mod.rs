//! Generates the schemas of bodies: those for any model, one file for each group of calls, and those of one model's
//! contract. Answers of one shape are structs, and `derived` generates their schemas from them.

mod batches;
mod derived;
mod embeddings;
mod form;
mod model;
mod operations;
mod predictions;
mod protocol;
mod repository;
mod requests;
mod texts;

pub use form::reference;
pub use model::of_model;

use serde_json::{Map, Value};

/// Returns the schemas for any model.
pub fn generic() -> Map<String, Value> {
    let members = requests::all()
        .into_iter()
        .chain(predictions::all())
        .chain(protocol::all())
        .chain(embeddings::all())
        .chain(texts::all())
        .chain(repository::all())
        .chain(operations::all())
        .chain(batches::all());
    let members = members.map(|(name, schema)| (name.to_owned(), schema));
    members.chain(derived::all()).collect()
}
