//! Represents a model call: its surface, the data that all steps share, and its cost so far.

use crate::exchange::Context;
use crate::grpc::Form;
use crate::options::CallOptions;
use crate::policies::Policies;
use crate::ports::{FailureKind, Ports};
use crate::prefer::Deferral;
use crate::record::Request;
use penstock_core::{Caller, RouteKind};

/// The surface of a call, which determines the form of its body and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// One prediction for all items of a body: `:predict`.
    Predict,
    /// Several predictions, each with its own result: `:batchPredict`.
    BatchPredict,
    /// The attributions of a prediction: `:explain`.
    Explain,
    /// The Open Inference Protocol's `infer`.
    Infer,
    /// The Open Inference Protocol's inference over gRPC, as a unary call, a stream message or an operation.
    Grpc(Form),
    /// Triton's `generate`: one JSON object of inputs, one JSON object of outputs.
    Generate,
    /// Triton's `generate_stream`: the same as a stream of events.
    GenerateStream,
    /// OpenAI's `embeddings`: texts become vectors.
    Embeddings,
    /// The `classify` of vLLM and of Text Embeddings Inference.
    Classify,
    /// OpenAI's `moderations`: texts are flagged by category.
    Moderations,
    /// Cohere's `rerank`: documents are ordered by their relevance for a query.
    Rerank,
    /// vLLM's `score`: pairs of texts become scores.
    Score,
}

impl Surface {
    /// Returns the surface's own name, independent of the spelling of the path. Idempotency keys are scoped by it, so
    /// it must not change.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::BatchPredict => "batchPredict",
            Self::Explain => "explain",
            Self::Infer => "infer",
            Self::Grpc(Form::Unary) => "ModelInfer",
            Self::Grpc(Form::Stream) => "ModelStreamInfer",
            Self::Grpc(Form::Operation) => "ModelInferAsync",
            Self::Generate => "generate",
            Self::GenerateStream => "generate_stream",
            Self::Embeddings => "embeddings",
            Self::Classify => "classify",
            Self::Moderations => "moderations",
            Self::Rerank => "rerank",
            Self::Score => "score",
        }
    }

    /// Returns whether the body names the model instead of the path.
    pub fn names_model_in_body(self) -> bool {
        matches!(
            self,
            Self::Embeddings | Self::Classify | Self::Moderations | Self::Rerank | Self::Score
        )
    }
}

/// The data of a call that all its steps share.
pub(crate) struct ModelCall<'a, P: Ports> {
    /// The interfaces to the host and the other components.
    pub ports: &'a P,
    /// The policies as the operator configured them.
    pub policies: &'a Policies<P>,
    /// The HTTP request, with its body.
    pub request: &'a Request,
    /// The ids and times fixed when the request arrived.
    pub context: &'a Context,
    /// The caller, after authentication.
    pub caller: &'a Caller,
    /// The priority level of the caller's tier.
    pub priority: Option<u8>,
    /// The surface of the call.
    pub surface: Surface,
    /// The kind of route that policies name.
    pub kind: RouteKind,
    /// The options in the query.
    pub options: &'a CallOptions,
    /// The facts that decide whether the call becomes an operation.
    pub deferral: Deferral,
}

/// The cost of a call so far, and the results of its runs.
#[derive(Default)]
pub(crate) struct Meter {
    /// The items that were run.
    pub items: u64,
    /// The time in the model, in nanoseconds.
    pub compute_ns: u64,
    /// The model's name, set after the model was found.
    pub model: Option<String>,
    /// The kind of the last run's failure, if it failed. A timeout that the caller chose too short is recorded as
    /// [`FailureKind::InputsRejected`], because it says nothing about the model's health.
    pub failed: Option<FailureKind>,
    /// The number of runs of the model so far.
    pub runs: u64,
    /// Whether a run completed and then failed. Such a run is charged.
    pub ran_and_failed: bool,
    /// Whether nothing ran, although the answer is not an error. Such an answer is not kept for a replay.
    pub is_to_forget: bool,
}
