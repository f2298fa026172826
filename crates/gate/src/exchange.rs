//! One request and what is known of its answer so far. The steps of the pipeline read it and add to it, and
//! [`Exchange::respond`] makes the answer of it.

use crate::connection::Connection;
use crate::grpc::{serve::Rpc, service};
use crate::ports::Headers;
use crate::problem;
use crate::record::{Header, Request, Response};
use crate::representation::{self, MIN_ENCODED_BYTES, Representation};
use crate::rollout::Serving;
use crate::trail::Trail;
use penstock_core::{ModelVersion, PredictionId, Problem, RequestId};

/// What is fixed when a request arrives.
pub(crate) struct Context {
    /// Names the request.
    pub request_id: RequestId,
    /// 128 random bits for this request.
    pub random: u128,
    /// When it arrived, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// When it arrived, on the clock that never goes back.
    pub started_ns: u64,
}

/// A request and what is known of its answer.
pub(crate) struct Exchange<'r> {
    /// The request.
    pub request: &'r Request,
    /// What is fixed about it.
    pub context: &'r Context,
    /// How it reached the gate.
    pub connection: &'r Connection,
    /// Whether it is a call over gRPC.
    pub is_rpc: bool,
    /// The call over gRPC, once it is read.
    pub rpc: Option<Rpc>,
    /// What the audit log is told.
    pub trail: Trail,
    /// The headers of the answer that are not its body's own.
    pub headers: HeaderSlots,
    /// How the answer goes out.
    pub representation: Representation,
    /// The bytes from which the answer is compressed.
    pub encoded_from: usize,
}

/// Headers of an answer by what they are about. Each slot is set by the step that knows it; [`HeaderSlots::write`] has the
/// order and the rules.
#[derive(Default)]
pub(crate) struct HeaderSlots {
    /// The version that answers, or that is described, and why it answers.
    pub version: Option<AnsweringVersion>,
    /// The prediction's id, where the answer is one prediction.
    pub prediction_id: Option<PredictionId>,
    /// Whether the answer has the headers of [`HeaderSlots::write_content`] already.
    content_is_written: bool,
    /// Whether the answer is that of an earlier call with the same idempotency key.
    pub is_replay: bool,
    /// How the limits stand after the last charge or refund.
    pub rate_limit: Headers,
    /// The codings that are taken, where the one of the body is not.
    pub accept_encoding: Option<&'static str>,
    /// Whether the cache answered.
    pub cache: Headers,
    /// What callers are told of a version that is to go.
    pub deprecation: Headers,
    /// What the policy of the operator's own adds.
    pub custom: Headers,
}

/// A version as the head of an answer names it.
pub(crate) struct AnsweringVersion {
    /// The version.
    pub version: ModelVersion,
    /// Why it answers, in a word; `None` where it is only described.
    pub reason: Option<String>,
}

impl HeaderSlots {
    /// Names the version that is described.
    pub fn describe(&mut self, version: ModelVersion) {
        self.version = Some(AnsweringVersion {
            version,
            reason: None,
        });
    }

    /// Names the version that answers a call.
    pub fn answer_by(&mut self, serving: &Serving) {
        self.version = Some(AnsweringVersion {
            version: serving.version,
            reason: Some(serving.reason.clone()),
        });
        self.deprecation.clone_from(&serving.notice);
    }

    /// Names no version: another one answered, or none is chosen yet.
    pub fn forget_version(&mut self) {
        self.version = None;
        self.deprecation.clear();
    }

    /// Writes into an answer the headers that belong to its content. A kept answer keeps them too, so they are written when it
    /// is recorded.
    pub fn write_content(&self, response: &mut Response) {
        if let Some(AnsweringVersion { version, reason }) = &self.version {
            response.push("x-model-version", version.to_string());
            if let Some(reason) = reason {
                response.push("x-model-version-reason", reason);
            }
        }
        if let Some(id) = &self.prediction_id {
            response.push("x-prediction-id", id.as_str());
        }
    }

    /// Notes that the answer has the headers of [`HeaderSlots::write_content`]. A problem in its place has not.
    pub fn content_is_written(&mut self) {
        self.content_is_written = true;
    }

    /// Writes all slots into an answer. No slot repeats what the answer says already:
    ///
    /// * the operator's own policy adds headers, and changes none;
    /// * a problem says itself when to retry, so the limits' `Retry-After` never goes out;
    /// * a problem names no prediction, and is no replay;
    /// * a problem names the version that was to answer, if it was chosen.
    fn write(mut self, response: &mut Response, is_problem: bool) {
        if is_problem {
            self.prediction_id = None;
            self.is_replay = false;
        }
        if is_problem || !self.content_is_written {
            self.write_content(response);
        }
        if self.is_replay {
            // Not in the draft; the name that most services use.
            response.push("idempotency-replayed", "true");
        }
        let limits = self.rate_limit.into_iter();
        let limits = limits.filter(|(name, _)| name != "retry-after");
        for (name, value) in limits.chain(self.cache).chain(self.deprecation) {
            response.headers.push(Header {
                name,
                value: value.into_bytes(),
            });
        }
        if let Some(codings) = self.accept_encoding {
            response.push("accept-encoding", codings);
        }
        for (name, value) in self.custom {
            if response.header(&name).is_none() {
                response.push(&name, value);
            }
        }
    }
}

impl<'r> Exchange<'r> {
    /// An exchange of which nothing is known but the request.
    pub fn new(request: &'r Request, context: &'r Context, connection: &'r Connection) -> Self {
        Self {
            request,
            context,
            connection,
            is_rpc: service::is_call(request),
            rpc: None,
            trail: Trail::default(),
            headers: HeaderSlots::default(),
            representation: Representation::Result,
            encoded_from: MIN_ENCODED_BYTES,
        }
    }

    /// The whole answer: its form, its head, its coding and its tag.
    pub fn respond(&mut self, answered: Result<Response, Problem>) -> Response {
        let is_problem = answered.is_err();
        let mut response = match (answered, &self.rpc) {
            (Ok(response), Some(rpc)) => rpc.translate(response),
            (Ok(response), None) => response,
            (Err(problem), rpc) => {
                self.trail.code = Some(problem.code);
                let softened = rpc.as_ref().and_then(|rpc| rpc.soften(&problem));
                softened.unwrap_or_else(|| self.render(&problem))
            }
        };
        std::mem::take(&mut self.headers).write(&mut response, is_problem);
        response.push("x-request-id", self.context.request_id.as_str());
        // gRPC has codings of its own.
        if !self.is_rpc {
            let (kind, from) = (self.representation, self.encoded_from);
            response = representation::finish(self.request, response, kind, from);
        }
        // A cache must not give one caller's answer to the next, which shows another header.
        let known = self.trail.caller.as_ref();
        let is_personal = self.trail.personal || known.is_some_and(|caller| !caller.anonymous);
        if is_personal && response.header("cache-control").is_none() {
            response.push("cache-control", "no-store");
        }
        response
    }

    /// The answer that a problem is, in the form the request accepts.
    pub fn render(&self, problem: &Problem) -> Response {
        let Context {
            request_id,
            unix_ms,
            ..
        } = self.context;
        problem::render(problem, self.request, request_id, *unix_ms)
    }
}
