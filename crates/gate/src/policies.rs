//! The policies of one instance, opened from the operator's file by the first request that needs them.

use crate::connection::Connection;
use crate::ports::Ports;
use crate::record::Request;
use penstock_core::headers::{CREDENTIALS, SIGNATURE};
use penstock_core::{Code, Problem, RouteKind};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words::{Admitted, CertificateShown, Environment, Presented, Refusal};
use penstock_policy::cache::CacheEntry;
use penstock_policy::custom::{self, service::CustomService};
use penstock_policy::disclosure::Disclosure;
use penstock_policy::document;
use penstock_policy::idempotency::{self, service::IdempotencyService};
use penstock_policy::quota::{self, service::QuotaService};
use penstock_policy::usage::service::UsageService;
use penstock_tensor::Unknown;
use sha2::{Digest, Sha256};

/// Says of some models, by name, whether the caller may know of each.
pub(crate) type Sees<'a> = &'a dyn Fn(&[String]) -> Vec<bool>;

/// The policies of one instance.
pub struct Policies<P: Ports> {
    /// Who may call.
    pub auth: P::Auth,
    /// The limits.
    pub quota: P::Quota,
    /// Which limits there are.
    pub scope: quota::words::Scope,
    /// Idempotency.
    pub idempotency: P::Idempotency,
    /// Its rules.
    pub rules: idempotency::words::Rules,
    /// Usage counters.
    pub usage: P::Usage,
    /// Whether calls are counted.
    pub counts: bool,
    /// The policy of the operator's own.
    pub custom: P::Custom,
    /// What it wants to know.
    pub custom_scope: custom::words::Scope,
    /// How much of models' answers goes out.
    pub disclosure: Vec<Disclosure>,
    /// Whose results are kept.
    pub cache: Vec<CacheEntry>,
    /// Where they are kept.
    pub results: P::Cache,
    /// The most bytes of any body, decoded.
    pub body_limit: u64,
    /// Whether some tier has a priority.
    pub ranks_tiers: bool,
    /// What happens to members and parameters that nothing here knows.
    pub unknown: Unknown,
}

impl<P: Ports> Policies<P> {
    /// Opens them; what stands in the way is the operator's to mend.
    pub fn open(ports: &P) -> Result<Self, Problem> {
        let broken = |message: String| {
            ports.log(&format!("the policy cannot be used: {message}"));
            Problem::new(
                Code::Internal,
                "the operator's policy cannot be used; the server's log says why",
            )
        };
        let text = ports.policy_text().map_err(broken)?;
        // A host of ours keeps the sets in the store instead, so a file that is not there is no fault.
        let key_sets = document::key_set_files(&text).map_err(broken)?.into_iter();
        let environment = Environment {
            key_sets: key_sets
                .filter_map(|(issuer, file)| Some((issuer, ports.read_policy_file(&file)?)))
                .collect(),
            public: ports
                .environment(LISTENER)
                .is_some_and(|value| value == "public"),
        };
        let auth = ports.open_auth(&text, environment).map_err(broken)?;
        let quota = ports.open_quota(&text).map_err(broken)?;
        for fallback in quota.fallbacks(ports.unix_ms(), ports.random() as u64) {
            ports.log(&fallback);
        }
        let idempotency = ports.open_idempotency(&text).map_err(broken)?;
        let usage = ports.open_usage(&text).map_err(broken)?;
        let custom = ports.open_custom(&text).map_err(broken)?;
        let mut custom_scope = custom.scope();
        custom_scope
            .headers
            .retain(|name| custom::is_readable(name));
        Ok(Self {
            scope: quota.scope(),
            rules: idempotency.rules(),
            counts: usage.enabled(),
            custom_scope,
            custom,
            auth,
            disclosure: document::disclosure(&text).map_err(broken)?,
            cache: document::cache(&text).map_err(broken)?,
            results: ports.open_cache(),
            body_limit: document::body_limit(&text).map_err(broken)?,
            ranks_tiers: document::ranks_tiers(&text).map_err(broken)?,
            unknown: document::validation(&text).map_err(broken)?.unknown(),
            quota,
            idempotency,
            usage,
        })
    }
}

/// The variable by which a host says that others than this machine reach it.
const LISTENER: &str = "PENSTOCK_LISTENER";

/// Whether a request carries a signature.
pub(crate) fn is_signed(request: &Request) -> bool {
    let mut headers = request.headers.iter();
    headers.any(|header| SIGNATURE.contains(&header.name.as_str()))
}

/// Who calls, and whether they may.
pub fn authenticate<P: Ports>(
    policies: &Policies<P>,
    request: &Request,
    connection: &Connection,
    (route, model): (RouteKind, Option<&str>),
    (now_ms, random): (u64, u64),
) -> Result<Admitted, Refusal> {
    let has = |names: &[&str], name: &str| names.contains(&name);
    let signed = is_signed(request);
    let headers = request.headers.iter();
    // A signature may cover any header; otherwise the others are not needed, and not copied.
    let headers: Vec<(&str, &[u8])> = headers
        .filter(|header| signed || has(&CREDENTIALS, &header.name))
        .map(|header| (header.name.as_str(), header.value.as_slice()))
        .collect();
    let shown = Presented {
        method: if signed { &request.method } else { "" },
        target: if signed { &request.target } else { "" },
        headers: &headers,
        body_sha256: signed.then(|| Sha256::digest(&request.body).into()),
        address: connection.address.as_deref(),
        forwarded: connection.forwarded || connection.named,
        certificate: (connection.certificate.as_ref()).map(|certificate| CertificateShown {
            sha256: &certificate.sha256,
            names: &certificate.names,
        }),
        route: route.as_str(),
        model,
    };
    policies.auth.admit(&shown, now_ms, random)
}
