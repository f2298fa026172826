//! Describes the operations under `/v1`.

use super::content::{CALL_PARAMETERS, TENSOR_NOTE, named};
use super::operation::{Operation, operation};
use crate::openapi::errors::Kind;

/// A call like `:predict`, in the form for any model and for one model.
pub(super) struct V1Call {
    pub(super) verb: &'static str,
    /// The summaries for any model, for a version, and for one model. In the last, the model's name replaces `{}`.
    pub(super) summaries: [&'static str; 3],
    pub(super) description: &'static str,
    pub(super) request: &'static str,
    pub(super) response: &'static str,
}

pub(super) const PREDICT: V1Call = V1Call {
    verb: "predict",
    summaries: ["Run a model", "Run a version of a model", "Run {}"],
    description: TENSOR_NOTE,
    request: "PredictRequest",
    response: "PredictResponse",
};

pub(super) const BATCH_PREDICT: V1Call = V1Call {
    verb: "batchPredict",
    summaries: [
        "Run a model on several requests",
        "Run a version of a model on several requests",
        "Run {} on several requests",
    ],
    description: BATCH_NOTE,
    request: "BatchPredictRequest",
    response: "BatchPredictResponse",
};

pub(super) const EXPLAIN: V1Call = V1Call {
    verb: "explain",
    summaries: [
        "Explain a prediction",
        "Explain a prediction of a version",
        "Explain a prediction of {}",
    ],
    description: EXPLAIN_NOTE,
    request: "PredictRequest",
    response: "ExplainResponse",
};

const BATCH_NOTE: &str = "Each request has its own result, in order; one that is wrong fails alone. The items of all \
requests together must not exceed the model's limit.";

const EXPLAIN_NOTE: &str = "For models whose contract has `[explain]`, one item at a time. Each group of features is hidden \
in turn by a baseline; its attribution is by how much the value of the class falls. The call costs one item for each group, and \
one for the item itself.";

/// Returns the operations under `/v1`.
pub fn operations() -> Vec<Operation> {
    let mut operations = vec![
        operation(
            ("get", "/v1/models"),
            "listModels",
            "models",
            "List the models",
            Kind::Read,
        )
        .saying("The models that the caller may see.")
        .answering(
            "200",
            "The models with their contracts.",
            named("ModelList"),
        ),
        operation(
            ("get", "/v1/models/{model}"),
            "getModel",
            "models",
            "Get a model's contract",
            Kind::Read,
        )
        .saying("Inputs, outputs, ranges, labels and limits.")
        .with(&["model"])
        .answering("200", "The contract.", named("Model")),
        operation(
            ("get", "/v1/models/{model}/versions/{version}"),
            "getModelVersion",
            "models",
            "Get the contract of a version",
            Kind::Read,
        )
        .saying("Inputs, outputs, ranges, labels and limits of one version.")
        .with(&["model", "version"])
        .answering("200", "The contract.", named("Model")),
    ];
    operations.extend(calls());
    operations.push(
        operation(
            ("post", "/v1/embeddings"),
            "createEmbeddings",
            "openai",
            "Embed texts",
            Kind::Call,
        )
        .saying("For models whose adapter embeds texts. `model` is the model's name.")
        .with(&["Idempotency-Key"])
        .taking(named("EmbeddingRequest"))
        .answering(
            "200",
            "One vector for each input, in order.",
            named("EmbeddingResponse"),
        ),
    );
    operations.extend(texts());
    operations
}

/// Returns the calls like `:predict`, for a model and for a version.
fn calls() -> Vec<Operation> {
    let mut operations = Vec::new();
    for call in [PREDICT, BATCH_PREDICT, EXPLAIN] {
        for pinned in [false, true] {
            let below = if pinned { "/versions/{version}" } else { "" };
            let path = format!("/v1/models/{{model}}{below}:{}", call.verb);
            let id = format!("{}Model{}", call.verb, if pinned { "Version" } else { "" });
            let summary = call.summaries[usize::from(pinned)];
            let mut operation = operation(("post", &path), &id, "predict", summary, Kind::Call)
                .saying(call.description)
                .with(&["model"])
                .with(if pinned { &["version"] } else { &[] })
                .with(&CALL_PARAMETERS)
                .taking(named(call.request))
                .answering("200", "The result.", named(call.response));
            if call.verb != BATCH_PREDICT.verb {
                operation = operation.or_taking(
                    &["*/*"],
                    "JSON. For models with an adapter also the raw content with its own content type.",
                );
            }
            operation = match call.verb {
                "predict" => operation.with(&["explain", "target"]),
                "explain" => operation.with(&["target"]),
                _ => operation,
            };
            if call.verb == BATCH_PREDICT.verb {
                operation = operation.answering(
                    "207",
                    "Some requests failed; each has its own status.",
                    named(call.response),
                );
            }
            operations.push(operation);
        }
    }
    operations
}

/// Returns the calls over texts and pairs of texts. Their bodies name the model.
fn texts() -> Vec<Operation> {
    let call = |(path, id, tag): (&'static str, &str, &'static str),
                (summary, description): (&str, &str),
                (request, response, answered): (&str, &str, &str)| {
        operation(("post", path), id, tag, summary, Kind::Call)
            .saying(description)
            .with(&["Idempotency-Key"])
            .taking(named(request))
            .answering("200", answered, named(response))
    };
    let rerank = |path, id, summary| {
        call(
            (path, id, "texts"),
            (
                summary,
                "For models whose adapter scores pairs. Accepts the members of Cohere, vLLM, Jina and Text Embeddings Inference (`texts`).",
            ),
            (
                "RerankRequest",
                "RerankResponse",
                "The documents, best first.",
            ),
        )
    };
    vec![
        call(
            ("/v1/classify", "classify", "texts"),
            (
                "Classify texts",
                "For models whose adapter classifies texts. `input` is vLLM's form, `inputs` that of Text Embeddings Inference.",
            ),
            (
                "ClassifyRequest",
                "ClassifyResponse",
                "The classes of each input, in order.",
            ),
        ),
        call(
            ("/v1/moderations", "createModeration", "openai"),
            (
                "Flag texts by categories",
                "For models whose contract has `[moderation]`.",
            ),
            (
                "ModerationRequest",
                "ModerationResponse",
                "A result for each input, in order.",
            ),
        ),
        rerank(
            "/v1/rerank",
            "rerank",
            "Rank documents by how well they fit a query",
        ),
        rerank(
            "/v2/rerank",
            "rerankV2",
            "Rank documents, at the path of Cohere's client",
        ),
        call(
            ("/v1/score", "score", "texts"),
            (
                "Score pairs of texts",
                "For models whose adapter scores pairs: one text with one or more others, or two lists of equal length.",
            ),
            (
                "ScoreRequest",
                "ScoreResponse",
                "A score for each pair, in order.",
            ),
        ),
    ]
}
