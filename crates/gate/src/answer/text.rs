//! Defines the answers of the calls over texts. The scores are the adapter's own numbers.

use super::LIST;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub(crate) const SCORE: &str = "score";

/// The tokens of all inputs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmbeddingUsage")]
pub(crate) struct TokenUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}

impl TokenUsage {
    pub(crate) fn new(tokens: u64) -> Self {
        Self {
            prompt_tokens: tokens,
            total_tokens: tokens,
        }
    }
}

/// The classes of each input.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Classification<'a> {
    pub(crate) id: &'a str,
    #[schemars(extend("const" = LIST))]
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) data: Vec<Classified>,
    pub(crate) usage: TokenUsage,
}

/// The classes of one input.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Classified {
    /// The index of the input, from 0.
    pub(crate) index: usize,
    /// The best class.
    pub(crate) label: String,
    pub(crate) scores: Vec<ClassScore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) num_classes: Option<usize>,
    /// Scores in the order of the model's classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<f64>")]
    pub(crate) probs: Option<Vec<Value>>,
}

/// A class and its score.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ClassScore {
    pub(crate) label: String,
    #[schemars(with = "f64")]
    pub(crate) score: Value,
}

/// A result for each input. Several parts of one input have a single result.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ModerationResponse<'a> {
    pub(crate) id: &'a str,
    pub(crate) model: &'a str,
    pub(crate) results: Vec<Moderation>,
}

/// The result of one input.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Moderation {
    pub(crate) flagged: bool,
    pub(crate) categories: BTreeMap<String, bool>,
    pub(crate) category_scores: BTreeMap<String, f64>,
    pub(crate) category_applied_input_types: BTreeMap<String, &'static [&'static str]>,
}

/// The documents, best first.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Reranking<'a> {
    pub(crate) id: &'a str,
    pub(crate) model: &'a str,
    pub(crate) results: Vec<RankedDocument<'a>>,
    #[schemars(with = "Map<String, Value>")]
    pub(crate) meta: Value,
    pub(crate) usage: TokenUsage,
}

/// A document and its score.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RankedDocument<'a> {
    /// The index in the request, from 0.
    pub(crate) index: usize,
    #[schemars(with = "f64")]
    pub(crate) relevance_score: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "document")]
    pub(crate) document: Option<RerankDocument<'a>>,
}

/// A document as requests have it.
#[derive(Serialize)]
pub(crate) struct RerankDocument<'a> {
    pub(crate) text: &'a str,
}

/// A text and its score.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Ranked<'a> {
    /// The index in the request, from 0.
    pub(crate) index: usize,
    #[schemars(with = "f64")]
    pub(crate) score: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<&'a str>,
}

/// A score for each pair.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ScoreResponse<'a> {
    pub(crate) id: &'a str,
    #[schemars(extend("const" = LIST))]
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) data: Vec<Scored>,
    pub(crate) usage: TokenUsage,
}

/// The score of one pair.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Scored {
    /// The index of the pair, from 0.
    pub(crate) index: usize,
    #[schemars(extend("const" = SCORE))]
    pub(crate) object: &'static str,
    #[schemars(with = "f64")]
    pub(crate) score: Value,
}

/// Returns a reference to the document of a request, whose schema is made by hand.
fn document(_: &mut SchemaGenerator) -> Schema {
    Schema::new_ref("#/components/schemas/RerankDocument".to_owned())
}
