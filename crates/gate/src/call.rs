//! A call of a model: which surface it uses, what is the same in all of its steps, and what it has cost so far.

use crate::exchange::Context;
use crate::grpc::Form;
use crate::options::CallOptions;
use crate::policies::Policies;
use crate::ports::{FailureKind, Ports};
use crate::record::Request;
use penstock_core::{Caller, RouteKind};

/// The surface that a call uses: what its body and its answer look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `:predict`.
    Predict,
    /// `:batchPredict`.
    BatchPredict,
    /// `:explain`.
    Explain,
    /// The Open Inference Protocol's `infer`.
    Infer,
    /// The same over gRPC, in one of two messages.
    Grpc(Form),
    /// Triton's `generate`.
    Generate,
    /// Triton's `generate_stream`.
    GenerateStream,
    /// OpenAI's `embeddings`.
    Embeddings,
    /// The classification of vLLM and of Text Embeddings Inference.
    Classify,
    /// OpenAI's `moderations`.
    Moderations,
    /// Cohere's `rerank`.
    Rerank,
    /// vLLM's `score`.
    Score,
}

impl Surface {
    /// A word of its own: the part of a path that says which surface it is, however the path is spelt. Idempotency keys are
    /// scoped by it, so it must not change.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::BatchPredict => "batchPredict",
            Self::Explain => "explain",
            Self::Infer => "infer",
            Self::Grpc(Form::Unary) => "ModelInfer",
            Self::Grpc(Form::Stream) => "ModelStreamInfer",
            Self::Generate => "generate",
            Self::GenerateStream => "generate_stream",
            Self::Embeddings => "embeddings",
            Self::Classify => "classify",
            Self::Moderations => "moderations",
            Self::Rerank => "rerank",
            Self::Score => "score",
        }
    }

    /// Whether the body names the model, and not the path.
    pub fn names_model_in_body(self) -> bool {
        matches!(
            self,
            Self::Embeddings | Self::Classify | Self::Moderations | Self::Rerank | Self::Score
        )
    }
}

/// What is the same in all steps of a call.
pub(crate) struct ModelCall<'a, P: Ports> {
    /// The gate's ports.
    pub ports: &'a P,
    /// The operator's policies.
    pub policies: &'a Policies<P>,
    /// The request.
    pub request: &'a Request,
    /// What is fixed about it.
    pub context: &'a Context,
    /// The caller.
    pub caller: &'a Caller,
    /// The priority of the caller's tier.
    pub priority: Option<u8>,
    /// The surface.
    pub surface: Surface,
    /// The kind of route, as policies name it.
    pub kind: RouteKind,
    /// What the query asks for.
    pub options: &'a CallOptions,
}

/// What a call has cost so far, and how its runs went.
#[derive(Default)]
pub(crate) struct Meter {
    /// Items that were run.
    pub items: u64,
    /// Nanoseconds in the model.
    pub compute_ns: u64,
    /// The model, once it is known to exist.
    pub model: Option<String>,
    /// How the last run failed, if it did, and not because the caller asked for less time than it takes.
    pub failed: Option<FailureKind>,
    /// The number of runs.
    pub runs: u64,
    /// Whether something ran to its end in vain. It is paid for.
    pub ran_and_failed: bool,
    /// Whether nothing was run for now, although the answer is no error. Such an answer is not replayed.
    pub is_to_forget: bool,
}
