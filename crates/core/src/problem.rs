//! The catalogue of errors: the code, status, title and remedy of each, and its rendering in each style. Host and gate both
//! render from here, so their errors look the same.

use crate::clock::rfc3339;
use crate::error_forms::{Error, ErrorBody, ErrorFacts, OipError, ProblemDetails};
use crate::ids::RequestId;
use crate::json::to_bytes;
use crate::negotiate::ErrorStyle;
use crate::violation::Violation;

macro_rules! catalogue {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $title:literal, $remedy:literal;)*) => {
        /// Every error of Penstock. The word is stable; the number is not.
        ///
        /// ```
        /// use penstock_core::Code;
        ///
        /// let code = Code::parse("quota_exceeded").unwrap();
        /// assert_eq!(code, Code::QuotaExceeded);
        /// assert_eq!(code.as_str(), "quota_exceeded");
        /// assert_eq!(code.status(), 429);
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// All codes, in the order of the catalogue.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code that a word names; `None` for any other word.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == word)
            }

            /// The stable `snake_case` word for programs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// The HTTP status of the answer.
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// A short title, the same for every occurrence (RFC 9457 `title`).
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }

            /// The remedy for a caller or an operator.
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$variant => $remedy,)* }
            }
        }
    };
}

catalogue! {
    /// The request is not valid HTTP (target, header or percent-encoding).
    MalformedRequest = "malformed_request", 400, "Malformed request",
        "Send a well-formed HTTP request; the message names the part that is not.";
    /// The body is not JSON (RFC 8259), repeats a member name, or nests too deep.
    MalformedJson = "malformed_json", 400, "Malformed JSON",
        "Send a JSON text; the details name the byte offset and what was expected there.";
    /// A gRPC message is not the protobuf message of its method.
    MalformedProtobuf = "malformed_protobuf", 400, "Malformed protobuf message",
        "Send the whole message of the method's definition; the error states the byte at which it is not valid.";
    /// The body is JSON, but not of the form of this method.
    InvalidBody = "invalid_body", 400, "Wrong form of body",
        "Send the members the method documents, with their types; the details list each that is wrong.";
    /// A text has more tokens than the model can read.
    ContextLengthExceeded = "context_length_exceeded", 400, "Text too long for the model",
        "Send the text in pieces, or have it cut with `truncate_prompt_tokens`; the message states the maximum number of tokens.";
    /// The body ended before its announced length.
    IncompleteBody = "incomplete_body", 400, "Incomplete body",
        "Send as many bytes as Content-Length announces, or end the last chunk.";
    /// The body does not match its `Content-Encoding`.
    InvalidContentCoding = "invalid_content_coding", 400, "Body not in its content coding",
        "Send the whole body in the coding that Content-Encoding names, or send it uncompressed and without that header; the message states where it is not valid.";
    /// A call that needs an idempotency key has none.
    IdempotencyKeyMissing = "idempotency_key_missing", 400, "Idempotency key missing",
        "Send an Idempotency-Key header: a value you choose once for each call and repeat with each retry, e.g. a UUID.";
    /// The `Idempotency-Key` header is not valid.
    IdempotencyKeyInvalid = "idempotency_key_invalid", 400, "Invalid idempotency key",
        "Send one Idempotency-Key header of 1 to 255 visible ASCII characters, in double quotes or bare.";
    /// The call names a webhook that it may not have.
    WebhookRefused = "webhook_refused", 400, "Webhook refused",
        "Correct the URL in the header Webhook-Url, or leave the header out; the message states what is wrong with it.";
    /// A parameter of the query is not valid.
    InvalidParameter = "invalid_parameter", 400, "Invalid parameter",
        "Correct the query parameter the message names.";
    /// The call needs credentials and has none.
    CredentialsMissing = "credentials_missing", 401, "Credentials missing",
        "Send an API key as `Authorization: Bearer`, `X-API-Key` or `api-key`, or a token of an issuer the operator trusts.";
    /// The credentials are malformed.
    CredentialsMalformed = "credentials_malformed", 401, "Credentials malformed",
        "Copy the whole API key or token; the message states the missing part.";
    /// One request has several different credentials.
    CredentialsAmbiguous = "credentials_ambiguous", 401, "Several credentials",
        "Send one credential; the message names the headers that carry different ones.";
    /// The credentials do not exist, or their secret is wrong.
    CredentialsInvalid = "credentials_invalid", 401, "Credentials not valid",
        "Use credentials from the operator. A lost key cannot be shown again; the operator can rotate it.";
    /// The credentials have expired, or are not valid yet.
    CredentialsExpired = "credentials_expired", 401, "Credentials not valid at this time",
        "Get a new token, or ask the operator to rotate the API key; for signatures and tokens also check your clock.";
    /// The credentials were revoked.
    CredentialsRevoked = "credentials_revoked", 401, "Credentials revoked",
        "Ask the operator for a new API key.";
    /// A signed request was sent a second time.
    SignatureReplayed = "signature_replayed", 401, "Signed request replayed",
        "Sign each request again, with a new nonce; to repeat a call safely, send the same Idempotency-Key.";
    /// The caller has no right to this call.
    PermissionDenied = "permission_denied", 403, "Not permitted",
        "Ask the operator for the permission; the message names the scope or the reason.";
    /// The caller's tenant is disabled.
    TenantDisabled = "tenant_disabled", 403, "Tenant disabled",
        "Ask the operator to enable the tenant again.";
    /// No route has this path.
    UnknownPath = "unknown_path", 404, "No such path",
        "Use one of the paths the API documents; GET /v1/models lists the models.";
    /// No model has this name.
    UnknownModel = "unknown_model", 404, "No such model",
        "Use one of the models that exist; the details list them.";
    /// The model has no such version.
    UnknownVersion = "unknown_version", 404, "No such model version",
        "Use one of the versions that exist, or leave the version out; the details list them.";
    /// The caller has no operation with this id.
    UnknownOperation = "unknown_operation", 404, "No such operation",
        "Use the name from the answer that accepted the call; operations expire some time after their end. GET /v1/operations lists yours.";
    /// The caller has no file with this id.
    UnknownFile = "unknown_file", 404, "No such file",
        "Use the id from the answer to the upload; files expire. GET /v1/files lists yours.";
    /// The caller has no batch with this id.
    UnknownBatch = "unknown_batch", 404, "No such batch",
        "Use the id from the answer that created the batch; batches expire. GET /v1/batches lists yours.";
    /// The object that an administrator named does not exist.
    UnknownResource = "unknown_resource", 404, "No such resource",
        "Use a name or id that a list shows: GET /admin/v1/tenants, GET /admin/v1/keys, GET /admin/v1/models.";
    /// The path exists, but not with this method.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed",
        "Use a method the Allow header names.";
    /// `Accept` excludes every representation of this path.
    NotAcceptable = "not_acceptable", 406, "Not acceptable",
        "Accept application/json, or leave the Accept header out.";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", 408, "The request arrived too slowly",
        "Send the whole request without long pauses; the message names the limit.";
    /// The same call is running, sent by another request with the same idempotency key.
    IdempotencyInFlight = "idempotency_in_flight", 409, "The same call is in flight",
        "Repeat the call after Retry-After seconds to get its result.";
    /// The object to be created exists already.
    AlreadyExists = "already_exists", 409, "Already exists",
        "Use another name, or use the existing one.";
    /// The state of the object does not allow the operation.
    FailedPrecondition = "failed_precondition", 409, "Not possible in the current state",
        "Follow the message. Then retry after `Retry-After`.";
    /// The call of the key was started too often without finishing.
    IdempotencyKeyExhausted = "idempotency_key_exhausted", 409, "Idempotency key exhausted",
        "Use a new idempotency key; this one reached the maximum number of attempts.";
    /// The call was completed, and its answer was too large to store.
    ReplayUnavailable = "replay_unavailable", 409, "The answer was not stored",
        "The call was made; its answer was larger than max_record_bytes. Make it again with a new idempotency key, or ask for less.";
    /// The model's version is past its sunset.
    VersionGone = "version_gone", 410, "Model version gone",
        "Use the version the message names as its successor, or leave the version out.";
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413, "Body too large",
        "Send a smaller body or fewer items; the message names the limit in bytes.";
    /// The request target is longer than the limit.
    TargetTooLong = "target_too_long", 414, "Request target too long",
        "Shorten the path or the query.";
    /// The method does not support the body's content type.
    UnsupportedMediaType = "unsupported_media_type", 415, "Unsupported media type",
        "Send the body with a content type the message names.";
    /// The body is well formed but does not meet the model's contract.
    InvalidInputs = "invalid_inputs", 422, "Inputs do not meet the model's contract",
        "Correct each input the details name; GET the model for its contract.";
    /// The contract holds, but the model could not run on a tensor of this size.
    ModelRejectedInputs = "model_rejected_inputs", 422, "The model cannot run on these inputs",
        "Use sizes the model supports on the axes its contract leaves open.";
    /// The idempotency key was used for a call that differs.
    IdempotencyKeyReused = "idempotency_key_reused", 422, "Idempotency key reused for another call",
        "Use a new idempotency key for each call; repeat one only with the same method, path, query, content type and body.";
    /// A limit is used up.
    QuotaExceeded = "quota_exceeded", 429, "Limit used up",
        "Wait for Retry-After seconds; the message names the limit.";
    /// The header block is larger than the limit.
    HeadersTooLarge = "headers_too_large", 431, "Headers too large",
        "Send fewer or shorter headers.";
    /// The server failed internally; never the caller's fault.
    Internal = "internal", 500, "Internal error",
        "Try again; if it persists, report the request id to the operator.";
    /// The model's runtime failed on inputs that meet its contract.
    InferenceFailed = "inference_failed", 500, "The model failed",
        "Try again; if it persists, report the request id to the operator.";
    /// The model's outputs do not meet its contract.
    ModelContractBroken = "model_contract_broken", 500, "The model broke its contract",
        "Report the message to the operator. It names the output that differs from model.toml, and the correction.";
    /// This host does not support the request.
    NotSupported = "not_supported", 501, "Not supported here",
        "Leave out the part that the message names, or use a host that supports it. Penstock's own host supports \
         everything in the API's documentation.";
    /// The model exists and is not ready: loading, or failed to load.
    ModelNotReady = "model_not_ready", 503, "Model not ready",
        "Try again after Retry-After seconds; GET /ready lists the models that are not ready.";
    /// A queue or a pool is full; the request was not run.
    Overloaded = "overloaded", 503, "Overloaded",
        "Try again after Retry-After seconds, with backoff; the request was not run.";
    /// The store that a policy needs does not answer, or could not make the data of the answer durable.
    StoreUnavailable = "store_unavailable", 503, "Store not available",
        "Try again after Retry-After seconds, with the same idempotency key if you sent one; the effects of the call \
         may be lost.";
    /// The call forbids a run, and the cache has no result for it.
    NotCached = "not_cached", 504, "Not in the cache",
        "Remove only-if-cached from Cache-Control to run the model.";
    /// The request took longer than its deadline.
    DeadlineExceeded = "deadline_exceeded", 504, "Deadline exceeded",
        "Send fewer items, or raise the deadline; the message names the limit.";
}

/// The OpenAI and Anthropic clients ignore a `Retry-After` of this many seconds or more, and retry within a second instead.
/// `x-should-retry: false` stops them. openai-python accepts 60 s itself; openai-node does not.
pub const LONGEST_HONOURED_WAIT_S: u32 = 60;

/// One error on its way to a caller.
///
/// ```
/// use penstock_core::negotiate::ErrorStyle;
/// use penstock_core::{Code, Problem, RequestId};
///
/// let problem = Problem::new(Code::QuotaExceeded, "60 calls a minute are used up").retry_after(7);
/// assert_eq!(problem.code.status(), 429);
/// assert!(problem.headers().contains(&("retry-after", "7".to_owned())));
///
/// let (content_type, body) = problem.render(ErrorStyle::ProblemJson, &RequestId::generate(0, 0), 0);
/// assert_eq!(content_type, "application/problem+json");
/// assert!(String::from_utf8(body).unwrap().contains("60 calls a minute are used up"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The error code, which decides the status and the documentation of the error.
    pub code: Code,
    /// The message of this occurrence. It names the fault, its place and the remedy.
    pub message: String,
    /// One entry for each fault of the body.
    pub violations: Vec<Violation>,
    /// Violations found beyond those listed.
    pub violations_omitted: u64,
    /// The names that exist instead (models, versions), if any.
    pub available: Vec<String>,
    /// Seconds after which a retry can pass, sent as `Retry-After`.
    pub retry_after_s: Option<u32>,
    /// The methods of the path, sent as `Allow`.
    pub allow: Option<&'static str>,
    /// The challenge, sent as `WWW-Authenticate`.
    pub challenge: Option<String>,
}

impl Problem {
    /// A problem with only a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            violations: Vec::new(),
            violations_omitted: 0,
            available: Vec::new(),
            retry_after_s: None,
            allow: None,
            challenge: None,
        }
    }

    /// Adds the violations, and the number of those that are not listed.
    #[must_use]
    pub fn with_violations(mut self, violations: Vec<Violation>, omitted: u64) -> Self {
        self.violations = violations;
        self.violations_omitted = omitted;
        self
    }

    /// Adds the names that exist instead.
    #[must_use]
    pub fn with_available(mut self, available: Vec<String>) -> Self {
        self.available = available;
        self
    }

    /// Adds the header `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds the header `Allow`, with the methods that the path supports.
    #[must_use]
    pub fn with_allow(mut self, allow: &'static str) -> Self {
        self.allow = Some(allow);
        self
    }

    /// Adds the header `WWW-Authenticate`, unless the challenge is `None`.
    #[must_use]
    pub fn with_challenge(mut self, challenge: Option<String>) -> Self {
        self.challenge = challenge;
        self
    }

    /// The headers that belong to this problem, beside those of every answer.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if let Some(seconds) = self.retry_after_s {
            headers.push(("retry-after", seconds.to_string()));
            let waits = matches!(self.code.status(), 429 | 503);
            if waits && seconds >= LONGEST_HONOURED_WAIT_S {
                headers.push(("x-should-retry", "false".to_owned()));
            }
        }
        if let Some(allow) = self.allow {
            headers.push(("allow", allow.to_owned()));
        }
        if let Some(challenge) = &self.challenge {
            headers.push(("www-authenticate", challenge.clone()));
        }
        // A shared cache must not return one caller's refusal to another caller.
        if matches!(self.code.status(), 401 | 403 | 429) {
            headers.push(("cache-control", "no-store".to_owned()));
        }
        headers
    }

    /// The `type` of the error in OpenAI's form.
    fn openai_type(&self) -> &'static str {
        match self.code.status() {
            429 => "rate_limit_error",
            ..500 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The member of the body that is wrong, if it is one of them.
    fn openai_param(&self) -> Option<&str> {
        let pointer = self.violations.first()?.pointer.strip_prefix('/')?;
        pointer.split('/').next()
    }

    /// The content type and the body in the given style.
    pub fn render(
        &self,
        style: ErrorStyle,
        request_id: &RequestId,
        unix_ms: u64,
    ) -> (&'static str, Vec<u8>) {
        let omitted = (self.violations_omitted > 0).then(|| Violation {
            pointer: String::new(),
            rule: "more_violations".to_owned(),
            expected: String::new(),
            message: format!("{} more are not listed", self.violations_omitted),
        });
        let (code, message, status) = (self.code.as_str(), &*self.message, self.code.status());
        let facts = ErrorFacts {
            details: self.violations.iter().chain(&omitted).collect(),
            available: &self.available,
            request_id: request_id.as_str(),
            timestamp: rfc3339(unix_ms),
        };
        match style {
            ErrorStyle::ProblemJson => {
                let body = ProblemDetails {
                    kind: format!("/errors/{code}"),
                    title: self.code.title(),
                    status,
                    detail: message,
                    code,
                    facts,
                };
                ("application/problem+json", to_bytes(&body))
            }
            ErrorStyle::OpenInference => {
                let body = OipError {
                    error: message,
                    code,
                    status,
                    facts,
                };
                ("application/json", to_bytes(&body))
            }
            ErrorStyle::Penstock | ErrorStyle::OpenAi => {
                let is_openai = style == ErrorStyle::OpenAi;
                let error = ErrorBody {
                    code,
                    message,
                    status,
                    kind: is_openai.then(|| self.openai_type()),
                    param: is_openai.then(|| self.openai_param()),
                    facts,
                };
                ("application/json", to_bytes(&Error { error }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_unique_an_error_status_and_tells_what_to_do() {
        let mut seen = BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert!((400..600).contains(&code.status()));
            assert!(code.remedy().ends_with('.') && !code.title().ends_with('.'));
        }
    }

    #[test]
    fn clients_that_honour_no_long_wait_are_told_not_to_retry() {
        for (code, seconds, told) in [
            (Code::QuotaExceeded, 59, false),
            (Code::QuotaExceeded, 60, true),
            (Code::QuotaExceeded, 2_700, true),
            (Code::ModelNotReady, 60, true),
            (Code::IdempotencyInFlight, 60, false),
            (Code::CredentialsInvalid, 60, false),
        ] {
            let headers = Problem::new(code, "").retry_after(seconds).headers();
            let said = headers.contains(&("x-should-retry", "false".to_owned()));
            assert_eq!(said, told, "{code:?} {seconds}");
        }
        let headers = Problem::new(Code::QuotaExceeded, "").headers();
        assert!(headers.iter().all(|(name, _)| *name != "x-should-retry"));
    }

    #[test]
    fn each_style_carries_the_same_facts_in_its_own_form() {
        let problem = Problem::new(Code::InvalidInputs, "2 inputs are wrong").with_violations(
            vec![Violation::new(
                "/inputs/a",
                "wrong_shape",
                "[N, 4]",
                "got [1, 3]",
            )],
            1,
        );
        let id = RequestId::from_header(b"r1").unwrap();
        let read = |style| -> (&str, Value) {
            let (content_type, body) = problem.render(style, &id, 0);
            (content_type, serde_json::from_slice(&body).unwrap())
        };
        let (kind, own) = read(ErrorStyle::Penstock);
        assert_eq!(kind, "application/json");
        assert_eq!(own["error"]["code"], "invalid_inputs");
        assert_eq!(own["error"]["details"][0]["pointer"], "/inputs/a");
        assert_eq!(own["error"]["details"][1]["rule"], "more_violations");
        assert_eq!(own["error"]["timestamp"], "1970-01-01T00:00:00.000Z");
        let (kind, rfc) = read(ErrorStyle::ProblemJson);
        assert_eq!(kind, "application/problem+json");
        assert_eq!(
            (&rfc["type"], &rfc["status"]),
            (&json!("/errors/invalid_inputs"), &json!(422))
        );
        let (kind, openai) = read(ErrorStyle::OpenAi);
        assert_eq!(kind, "application/json");
        assert_eq!(openai["error"]["code"], "invalid_inputs");
        assert_eq!(openai["error"]["type"], "invalid_request_error");
        assert_eq!(openai["error"]["param"], "inputs");
        let (_, oip) = read(ErrorStyle::OpenInference);
        assert_eq!(oip["error"], "2 inputs are wrong");
        assert_eq!(oip["request_id"], "r1");
    }
}
