//! A request on its way to a component, and the facts that the host keeps while the component works.

use crate::cancellation::Cancellation;
use std::sync::Arc;

/// The header by which a client says that it may repeat the call.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request in the form of an entry point.
pub struct EntryPointRequest {
    /// The method, the target and the headers.
    pub parts: ::http::request::Parts,
    /// The complete body, in one piece.
    pub body: bytes::Bytes,
    /// The time after which its answer is useless.
    pub deadline: tokio::time::Instant,
}

/// The deadline and the cancellation of the request that an instance serves.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The time after which the answer is useless.
    pub deadline: tokio::time::Instant,
    /// Set when the caller is gone.
    pub cancellation: Arc<Cancellation>,
    /// Whether a retry may get the answer. A run that has begun then finishes even if the caller is gone.
    pub repeatable: bool,
}

impl RequestContext {
    /// The context of a request that has arrived.
    pub fn of(request: &EntryPointRequest, cancellation: Arc<Cancellation>) -> Self {
        Self {
            deadline: request.deadline,
            cancellation,
            repeatable: request.parts.headers.contains_key(IDEMPOTENCY_KEY),
        }
    }
}
