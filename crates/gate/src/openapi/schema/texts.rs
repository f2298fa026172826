//! Defines the schemas of calls over texts and pairs of texts.

use super::form::{Named, array, closed, or_null, reference, typed};
use serde_json::{Value, json};

/// Returns all schemas of this file.
pub fn all() -> Vec<Named> {
    let schemas = classify()
        .into_iter()
        .chain(moderations())
        .chain(rerank_requests())
        .chain(rerank_answers())
        .chain(score());
    schemas.collect()
}

/// Returns the schema of the model's name in the body.
fn model() -> Value {
    typed("string", "The model's name, or `name@version`.")
}

/// Returns the schema of one text or several.
fn strings() -> Value {
    json!({ "anyOf": [
        { "type": "string", "minLength": 1 },
        { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
    ] })
}

fn truncate() -> Value {
    or_null(typed(
        "boolean",
        "Cuts each text at its end to the number of tokens that the model can read.",
    ))
}

fn truncate_to() -> Value {
    or_null(json!({
        "type": "integer", "minimum": -1,
        "description": "Cuts each text at its end to this many tokens; -1 means as many as the model can read.",
    }))
}

fn user() -> Value {
    or_null(typed("string", "Not used."))
}

/// Returns the schemas of `/v1/classify` bodies.
fn classify() -> Vec<Named> {
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
                "description": "vLLM's form for `input`, Text Embeddings Inference's form for `inputs`.",
                "anyOf": [reference("Classification"), scores(), array(scores())],
            }),
        ),
    ]
}

/// Returns the schemas of `/v1/moderations` bodies.
fn moderations() -> Vec<Named> {
    vec![
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
    ]
}

/// Returns the schemas of `/v1/rerank` requests.
fn rerank_requests() -> Vec<Named> {
    vec![
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
                    "return_text": or_null(typed("boolean", "The name of `return_documents` in Text Embeddings Inference.")),
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
    ]
}

/// Returns the schemas of `/v1/rerank` answers.
fn rerank_answers() -> Vec<Named> {
    vec![(
        "RerankResponse",
        json!({
            "description": "Cohere's form for `documents`, Text Embeddings Inference's form for `texts`.",
            "anyOf": [reference("Reranking"), array(reference("Ranked"))],
        }),
    )]
}

/// Returns the schemas of `/v1/score` bodies.
fn score() -> Vec<Named> {
    vec![(
        "ScoreRequest",
        closed(
            "Two texts, one text and a list, or two lists of equal length.",
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
    )]
}
