//! Holds one request and the data of its answer so far. The steps of the pipeline read and extend it, and
//! [`Exchange::respond`] builds the answer.

use crate::connection::Connection;
use crate::grpc::{serve::Rpc, service};
use crate::ports::Headers;
use crate::problem;
use crate::record::{Header, Request, Response};
use crate::representation::{self, MIN_ENCODED_BYTES, Representation};
use crate::rollout::Serving;
use crate::trail::Trail;
use penstock_core::negotiate::Events;
use penstock_core::{ModelVersion, PredictionId, Problem, RequestId};
use penstock_policy::operations::notes::{self, Note};

/// The data fixed when a request arrives.
pub(crate) struct Context {
    /// The id that the server gave the request. It is in the answer and in logs.
    pub request_id: RequestId,
    /// 128 random bits for this request.
    pub random: u128,
    /// The arrival time in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The arrival time on the monotonic clock, in nanoseconds.
    pub started_ns: u64,
}

/// A request and the data of its answer.
pub(crate) struct Exchange<'r> {
    /// The HTTP request, with its body.
    pub request: &'r Request,
    /// The data fixed when the request arrived.
    pub context: &'r Context,
    /// The trusted facts about the connection.
    pub connection: &'r Connection,
    /// Whether the request is a call over gRPC.
    pub is_rpc: bool,
    /// The call over gRPC, after it has been read.
    pub rpc: Option<Rpc>,
    /// The record for the audit log.
    pub trail: Trail,
    /// The headers of the answer other than those of its body.
    pub headers: HeaderSlots,
    /// The class of the answer, which decides its caching and compression.
    pub representation: Representation,
    /// The number of bytes from which the answer is compressed.
    pub encoded_from: usize,
    /// Whether the caller accepts an event stream instead.
    pub events: Events,
}

/// The headers of an answer, one slot for each topic. The step that knows a value sets its slot.
/// [`HeaderSlots::write`] applies the order and the rules.
#[derive(Default)]
pub(crate) struct HeaderSlots {
    /// The version that answers or is described, and the reason for its choice.
    pub version: Option<AnsweringVersion>,
    /// The prediction's id, if the answer is one prediction.
    pub prediction_id: Option<PredictionId>,
    /// Whether the answer already has the headers of [`HeaderSlots::write_content`].
    content_is_written: bool,
    /// Whether the answer is a replay of an earlier call with the same idempotency key.
    pub is_replay: bool,
    /// The state of the limits after the last charge or refund.
    pub rate_limit: Headers,
    /// The supported codings, if the body's coding is not supported.
    pub accept_encoding: Option<&'static str>,
    /// The headers that report a cache hit or miss.
    pub cache: Headers,
    /// The deprecation notice of the version.
    pub deprecation: Headers,
    /// The headers that the operator's own policy adds.
    pub custom: Headers,
    /// The preference that was followed (RFC 7240 §3).
    pub preference_applied: Option<&'static str>,
    /// The note for the host.
    pub host_note: Option<Note>,
}

/// The version that the headers of an answer name.
pub(crate) struct AnsweringVersion {
    /// The number of the version.
    pub version: ModelVersion,
    /// The reason for the choice, in one word; `None` if the version is only described.
    pub reason: Option<String>,
}

impl HeaderSlots {
    /// Sets the version that is described.
    pub fn describe(&mut self, version: ModelVersion) {
        self.version = Some(AnsweringVersion {
            version,
            reason: None,
        });
    }

    /// Sets the version that answers a call, with its deprecation notice.
    pub fn answer_by(&mut self, serving: &Serving) {
        self.version = Some(AnsweringVersion {
            version: serving.version,
            reason: Some(serving.reason.clone()),
        });
        self.deprecation.clone_from(&serving.notice);
    }

    /// Removes the version, because another one answered or none is chosen yet.
    pub fn forget_version(&mut self) {
        self.version = None;
        self.deprecation.clear();
    }

    /// Writes the headers that belong to the content. A kept answer includes them, so they are written when the
    /// answer is recorded.
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

    /// Records that the answer has the headers of [`HeaderSlots::write_content`]. A problem that replaces the answer
    /// does not have them.
    pub fn content_is_written(&mut self) {
        self.content_is_written = true;
    }

    /// Writes all slots into an answer. No slot repeats a header that the answer already has:
    ///
    /// * the operator's own policy adds headers, and changes none;
    /// * a problem has its own `Retry-After`, so the limits' `Retry-After` is never sent;
    /// * a problem has no prediction id, and is not a replay;
    /// * a problem names the version that was chosen before it occurred, if any.
    fn write(mut self, response: &mut Response, is_problem: bool) {
        if is_problem {
            self.prediction_id = None;
            self.is_replay = false;
        }
        if is_problem || !self.content_is_written {
            self.write_content(response);
        }
        if self.is_replay {
            // The IETF draft defines no such header. Most services use this name.
            response.push("idempotency-replayed", "true");
        }
        if let Some(preference) = self.preference_applied.filter(|_| !is_problem) {
            response.push("preference-applied", preference);
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
    /// Creates an exchange for a request without any data of the answer.
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
            events: Events::No,
        }
    }

    /// Builds the whole answer: its form, headers, coding and tag.
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
        let note = self.headers.host_note.take();
        std::mem::take(&mut self.headers).write(&mut response, is_problem);
        if let Some(note) = note.filter(|_| self.connection.is_hosted) {
            response.push(notes::HEADER, note.to_header());
        }
        response.push("x-request-id", self.context.request_id.as_str());
        // gRPC has its own codings.
        if !self.is_rpc {
            let (kind, from) = (self.representation, self.encoded_from);
            response = representation::finish(self.request, response, kind, from);
        }
        // A shared cache must not return one caller's answer to another caller.
        let known = self.trail.caller.as_ref();
        let is_personal = self.trail.personal || known.is_some_and(|caller| !caller.anonymous);
        if is_personal && response.header("cache-control").is_none() {
            response.push("cache-control", "no-store");
        }
        response
    }

    /// Renders a problem in the form of REST, also for a call over gRPC.
    pub fn render_over_rest(&self, problem: &Problem) -> Response {
        let Context {
            request_id,
            unix_ms,
            ..
        } = self.context;
        problem::render_over_rest(problem, self.request, request_id, *unix_ms)
    }

    /// Renders a problem in the form that the request accepts.
    pub fn render(&self, problem: &Problem) -> Response {
        let Context {
            request_id,
            unix_ms,
            ..
        } = self.context;
        problem::render(problem, self.request, request_id, *unix_ms)
    }
}
