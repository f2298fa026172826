//! The policies of one instance, opened from the operator's file by the first request that needs them.

use crate::ports::{
    Headers, IdempotencyPort, IdempotencyRefusal, IdempotencyRefusalKind, IdempotencyRules, Ports,
    QuotaPort, QuotaRefusal, QuotaRefusalKind, QuotaScope, UsagePort,
};
use crate::record::Request;
use penstock_core::{Caller, Code, Problem};
use penstock_policy::disclosure::Disclosure;
use penstock_policy::document;
use std::net::{IpAddr, SocketAddr};

/// Where the server says who is at the other end.
const CLIENT_ADDRESS_HEADER: &str = "spin-client-addr";

/// Seconds a caller is told to wait for a store: it reconnects within seconds.
pub(crate) const RETRY_STORE_S: u32 = 2;

/// The policies of one instance.
pub struct Policies<P: Ports> {
    /// The limits.
    pub quota: P::Quota,
    /// Which limits there are.
    pub scope: QuotaScope,
    /// Idempotency.
    pub idempotency: P::Idempotency,
    /// Its rules.
    pub rules: IdempotencyRules,
    /// Usage counters.
    pub usage: P::Usage,
    /// Whether calls are counted.
    pub counts: bool,
    /// How much of models' answers goes out.
    pub disclosure: Vec<Disclosure>,
    /// The most bytes of any body, decoded.
    pub body_limit: u64,
}

impl<P: Ports> Policies<P> {
    /// Opens them; what stands in the way is the operator's to mend.
    pub fn open(ports: &P) -> Result<Self, Problem> {
        let broken = |message: String| {
            Problem::new(
                Code::Internal,
                format!("the operator's policy cannot be used: {message}"),
            )
        };
        let text = ports.policy_text().map_err(broken)?;
        let quota = ports.open_quota(&text).map_err(broken)?;
        let idempotency = ports.open_idempotency(&text).map_err(broken)?;
        let usage = ports.open_usage(&text).map_err(broken)?;
        Ok(Self {
            scope: quota.scope(),
            rules: idempotency.rules(),
            counts: usage.enabled(),
            disclosure: document::disclosure(&text).map_err(broken)?,
            body_limit: document::body_limit(&text).map_err(broken)?,
            quota,
            idempotency,
            usage,
        })
    }
}

/// Who calls. Without authentication everybody is anonymous, and known by the address. Of several the last
/// counts: some hosts put their own behind what the client sent. What is no address is none.
pub fn caller(request: &Request) -> Caller {
    let named = request
        .headers
        .iter()
        .rfind(|header| header.name == CLIENT_ADDRESS_HEADER)
        .and_then(|header| std::str::from_utf8(&header.value).ok());
    let address = named.and_then(|text| {
        let socket = text.parse::<SocketAddr>().map(|socket| socket.ip());
        socket.or_else(|_| text.parse::<IpAddr>()).ok()
    });
    Caller::anonymous(address.map(|ip| ip.to_string()))
}

/// The problem a refusal by a limit is answered with, and the headers it comes with.
pub fn quota_problem(refusal: QuotaRefusal) -> (Problem, Headers) {
    let code = match refusal.kind {
        QuotaRefusalKind::UsedUp => Code::QuotaExceeded,
        QuotaRefusalKind::TooLarge => Code::BodyTooLarge,
        QuotaRefusalKind::StoreFailed => Code::StoreUnavailable,
    };
    let mut problem = Problem::new(code, refusal.message);
    // Sending the same again never helps what is too large.
    if refusal.kind != QuotaRefusalKind::TooLarge {
        problem = problem.retry_after(refusal.retry_after_s);
    }
    (problem, refusal.headers)
}

/// The problem a refusal by idempotency is answered with.
pub fn idempotency_problem(refusal: IdempotencyRefusal) -> Problem {
    use IdempotencyRefusalKind as Kind;
    let code = match refusal.kind {
        Kind::Invalid => Code::IdempotencyKeyInvalid,
        Kind::InFlight => Code::IdempotencyInFlight,
        Kind::Mismatch => Code::IdempotencyKeyReused,
        Kind::Exhausted => Code::IdempotencyKeyExhausted,
        Kind::StoreFailed => Code::StoreUnavailable,
    };
    let problem = Problem::new(code, refusal.message);
    match (refusal.retry_after_s, refusal.kind) {
        (Some(seconds), _) => problem.retry_after(seconds),
        (None, Kind::StoreFailed) => problem.retry_after(RETRY_STORE_S),
        (None, _) => problem,
    }
}
