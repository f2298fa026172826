//! Handles idempotency keys: looks up the earlier call, claims the key, and keeps the answer.

use crate::call::{ModelCall, Surface};
use crate::coding::{self, Coding};
use crate::exchange::Exchange;
use crate::grpc::serve;
use crate::ports::{Ports, Services};
use crate::prefer::{Preferences, RESPOND_ASYNC};
use crate::record::{Request, Response};
use crate::route::{Target, percent_decoded, shorten};
use crate::version;
use penstock_core::{Code, Problem, negotiate};
use penstock_policy::idempotency::key::{CallParts, Fingerprint};
use penstock_policy::idempotency::service::{AttemptService, IdempotencyService};
use penstock_policy::idempotency::words::{
    self, ClaimOutcome, Completion, Lookup, Refusal, StoredAnswer,
};

/// A header that changes how the body is read, so it is part of the fingerprint. A version in a header counts like
/// one in the path.
const DESCRIBING: &str = "inference-header-content-length";

/// The idempotency component's handle of a call.
pub(super) type Attempt<P> = <<P as Services>::Idempotency as IdempotencyService>::Attempt;

/// The result of a claim.
pub(super) enum Claim<A> {
    /// This call may run the model.
    Granted(A),
    /// The call runs without a record.
    Unprotected,
    /// Another call has completed meanwhile, with this answer.
    Done(StoredAnswer),
}

/// Claims the key, so that only this call runs the model.
pub(super) fn claim<P: Ports>(
    ports: &P,
    attempt: Attempt<P>,
) -> Result<Claim<Attempt<P>>, Problem> {
    match attempt.claim(ports.unix_ms(), ports.random() as u64) {
        Ok(ClaimOutcome::Granted) => Ok(Claim::Granted(attempt)),
        Ok(ClaimOutcome::Unprotected) => Ok(Claim::Unprotected),
        Ok(ClaimOutcome::Done(kept)) => Ok(Claim::Done(kept)),
        Err(refusal) => Err(refusal.problem()),
    }
}

/// Looks up an earlier call with the same idempotency key. `model` and `target` are the router's result. Different
/// spellings of a path therefore count as the same call.
pub(super) fn look_up<P: Ports>(
    call: &ModelCall<'_, P>,
    (model, target): (&str, &Target),
    coding: Option<Coding>,
) -> Result<Earlier<Attempt<P>>, Problem> {
    let ModelCall {
        policies, request, ..
    } = *call;
    if !policies.rules.enabled {
        return Ok(Earlier::Unkeyed);
    }
    let idempotency_keys: Vec<&[u8]> = request
        .headers
        .iter()
        .filter(|header| header.name == "idempotency-key")
        .map(|header| header.value.as_slice())
        .collect();
    if idempotency_keys.is_empty() {
        let kind = call.kind.as_str();
        if policies.rules.required.iter().any(|r| r == kind) {
            return Err(Problem::new(
                Code::IdempotencyKeyMissing,
                format!(
                    "calls of `{kind}` must carry an Idempotency-Key header here; send one that you choose once for \
                     this call and repeat when you retry it"
                ),
            ));
        }
        return Ok(Earlier::Unkeyed);
    }
    let mut call_name = format!("{} {model}", call.surface.as_str());
    // All requests of a stream share its metadata, so their own ids distinguish them.
    if serve::is_streamed(request) {
        call_name.push('#');
        call_name.push_str(&serve::call_id(request));
    }
    let call_name = call_name.as_str();
    let query = parameters(request)?;
    let content_type = request.content_type()?.unwrap_or_default();
    let mut described = coding::described(content_type, coding).into_owned();
    if let Some(value) = request.header_list(DESCRIBING) {
        described.push_str(&format!("\0{DESCRIBING}={value}"));
    }
    // A version counts the same in the path, after the name and in a header.
    if let Some(version) = version::pinned(target, request, None)? {
        described.push_str(&format!("\0version={version}"));
    }
    // On this surface, `Accept` chooses the form of the answer.
    let accept = request.header_list("accept");
    if call.surface == Surface::Infer && negotiate::accepts_only_octets(accept.as_deref()) {
        described.push_str("\0bytes");
    }
    // Disclosure rules differ by tier, so an answer for one tier must not be replayed to another.
    if policies
        .disclosure
        .iter()
        .any(|entry| !entry.tiers.is_empty())
    {
        described.push_str("\0tier=");
        described.push_str(&call.caller.tier);
    }
    let fingerprint = Fingerprint::of(&CallParts {
        tenant: &call.caller.tenant,
        method: &request.method,
        call_name,
        query: &query,
        content_type: &described,
        body: &request.body,
    });
    let looked = policies.idempotency.look_up(
        &words::Call {
            tenant: &call.caller.tenant,
            method: &request.method,
            call_name,
            idempotency_keys,
            fingerprint: fingerprint.as_str(),
        },
        call.context.unix_ms,
    );
    match looked.map_err(Refusal::problem)? {
        Lookup::Free(attempt) => Ok(Earlier::Free(
            attempt,
            match call.deferral.may_apply(&policies.operation_rules) {
                true => key_of(call_name, &fingerprint, request),
                false => String::new(),
            },
        )),
        Lookup::Done(kept) => Ok(Earlier::Done(kept)),
        Lookup::Unprotected => Ok(Earlier::Unkeyed),
    }
}

/// Returns a text that all retries of a call with an idempotency key have in common.
fn key_of(route: &str, fingerprint: &Fingerprint, request: &Request) -> String {
    let key = request.header("idempotency-key").unwrap_or_default();
    let key = String::from_utf8_lossy(key);
    format!("{route}\n{}\n{key}", fingerprint.as_str())
}

/// Ends a claimed run. Keeps an answer that is to be replayed; otherwise releases the claim.
pub(super) fn finish<P: Ports>(
    call: &ModelCall<'_, P>,
    exchange: &mut Exchange<'_>,
    attempt: &Attempt<P>,
    result: Result<Response, Problem>,
) -> Result<Response, Problem> {
    let mut failed = None;
    let response = match result {
        Ok(mut response) => {
            exchange.headers.write_content(&mut response);
            response
        }
        Err(problem) if is_kept(problem.code) => {
            failed = Some(problem.code);
            exchange.render(&problem)
        }
        Err(problem) => {
            attempt.release();
            return Err(problem);
        }
    };
    let Response {
        status,
        headers,
        body,
    } = response;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let kept = StoredAnswer {
        status,
        headers: headers
            .iter()
            .map(|header| (header.name.clone(), text(&header.value)))
            .collect(),
        body: match body.len() as u64 {
            bytes if bytes > call.policies.rules.max_record_bytes => Err(bytes),
            _ => Ok(body.to_vec()),
        },
    };
    let response = match attempt.complete(kept, call.ports.unix_ms()) {
        Ok(Completion::Published) => {
            // The answer is written here, so nothing later sees that it is an error.
            exchange.trail.code = failed;
            Response {
                status,
                headers,
                body,
            }
        }
        Ok(Completion::Superseded(kept)) => replay(exchange, kept)?,
        Err(refusal) => return Err(refusal.problem()),
    };
    exchange.headers.content_is_written();
    Ok(response)
}

/// Returns the decoded parameters of a query, sorted by name. Their order and their encoding have no meaning.
/// Parameters of the same name keep their order.
fn parameters(request: &Request) -> Result<String, Problem> {
    let decoded = |text: &str| {
        percent_decoded(&text.replace('+', " ")).ok_or_else(|| {
            Problem::new(
                Code::InvalidParameter,
                format!(
                    "the query has `{}`, which is not valid percent-encoded UTF-8; write `%` as `%25`",
                    shorten(text)
                ),
            )
        })
    };
    let pairs = request.parameters();
    let pairs = pairs.map(|(name, value)| Ok((decoded(name)?, decoded(value)?)));
    let mut pairs = pairs.collect::<Result<Vec<(String, String)>, Problem>>()?;
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    // Length prefixes keep different lists of parameters distinct.
    let written = pairs
        .iter()
        .map(|(name, value)| format!("{}:{name}{}:{value}", name.len(), value.len()));
    Ok(written.collect())
}

/// The result of looking up an idempotency key.
pub(super) enum Earlier<A> {
    /// The call has no key, or is not protected.
    Unkeyed,
    /// There is no earlier call, so this call may claim the key. The text is the same for all retries of the call; it is empty
    /// for a call that cannot become an operation.
    Free(A, String),
    /// An earlier call completed with this answer.
    Done(StoredAnswer),
}

/// Returns whether a failure is the result of the call and is replayed. Other failures are refusals to run.
fn is_kept(code: Code) -> bool {
    matches!(
        code,
        Code::InferenceFailed | Code::ModelContractBroken | Code::Internal
    )
}

/// Returns a kept answer again.
///
/// The kept answer names the version that answered the earlier call. The version chosen for this call is not named.
pub(super) fn replay(exchange: &mut Exchange<'_>, kept: StoredAnswer) -> Result<Response, Problem> {
    let StoredAnswer {
        status,
        headers,
        body,
    } = kept;
    let body = body.map_err(|bytes| {
        let id = headers
            .iter()
            .find(|(name, _)| name == "x-prediction-id")
            .map(|(_, id)| format!(", prediction {id}"));
        Problem::new(
            Code::ReplayUnavailable,
            format!(
                "the call was made (status {status}{}), and its answer of {bytes} bytes was too large to keep; make it again \
                 with a new idempotency key, or ask for fewer items",
                id.unwrap_or_default()
            ),
        )
    })?;
    let mut response = Response {
        status,
        headers: Vec::with_capacity(headers.len() + 8),
        body: body.into(),
    };
    for (name, value) in headers {
        response.push(&name, value);
    }
    exchange.headers.is_replay = true;
    // The call became an operation.
    if status == 202 && Preferences::of(exchange.request).respond_async {
        exchange.headers.preference_applied = Some(RESPOND_ASYNC);
    }
    Ok(response)
}
