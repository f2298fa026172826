//! The kinds of routes. Scopes, limits, idempotency, usage, the audit log and the documentation name routes by them.

use std::fmt;

/// A kind of route in policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// Calls of `:predict` and `:batchPredict`.
    Predict,
    /// Calls of `infer`, over REST and gRPC, of `generate` and of `generate_stream`.
    Infer,
    /// Calls of `/v1/embeddings`: texts become vectors.
    Embeddings,
    /// Calls of `/v1/classify`: texts become labels with scores.
    Classify,
    /// Calls of `/v1/moderations`: texts are flagged by category.
    Moderations,
    /// Calls of `/v1/rerank` and `/v2/rerank`.
    Rerank,
    /// Calls of `/v1/score`: pairs of texts become scores.
    Score,
    /// Calls of `:explain`, and of `:predict` with `explain=true`.
    Explain,
    /// Calls that only read: the models, their metadata and statistics, the repository's index, the description of the API.
    Models,
    /// Loading and unloading a model.
    Repository,
    /// Reading, cancelling and deleting operations.
    Operations,
    /// Reading the caller's own usage.
    Usage,
    /// Reading the details of the server's readiness.
    Ready,
}

impl RouteKind {
    /// Every kind, those that run a model first.
    pub const ALL: [Self; 13] = [
        Self::Predict,
        Self::Infer,
        Self::Embeddings,
        Self::Classify,
        Self::Moderations,
        Self::Rerank,
        Self::Score,
        Self::Explain,
        Self::Models,
        Self::Repository,
        Self::Operations,
        Self::Usage,
        Self::Ready,
    ];

    /// The word in policy files and in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Infer => "infer",
            Self::Embeddings => "embeddings",
            Self::Classify => "classify",
            Self::Moderations => "moderations",
            Self::Rerank => "rerank",
            Self::Score => "score",
            Self::Explain => "explain",
            Self::Models => "models",
            Self::Repository => "repository",
            Self::Operations => "operations",
            Self::Usage => "usage",
            Self::Ready => "ready",
        }
    }

    /// The kind that a word names; `None` for any other word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Returns whether a call of this kind runs a model. Such a call may have an idempotency key, and is counted.
    pub const fn runs_model(self) -> bool {
        !matches!(
            self,
            Self::Models | Self::Repository | Self::Operations | Self::Usage | Self::Ready
        )
    }

    /// The words of some kinds, separated by commas, for messages.
    pub fn list(kinds: impl IntoIterator<Item = Self>) -> String {
        let words: Vec<&str> = kinds.into_iter().map(Self::as_str).collect();
        words.join(", ")
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own_and_is_found_by_it() {
        for kind in RouteKind::ALL {
            assert_eq!(RouteKind::parse(kind.as_str()), Some(kind));
        }
        for word in ["", "Predict", "*", "batchPredict"] {
            assert_eq!(RouteKind::parse(word), None);
        }
    }
}
