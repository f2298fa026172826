//! Opens the policies of one instance from the operator's file. The first request that needs them opens them.

use crate::connection::Connection;
use crate::ports::Ports;
use crate::record::Request;
use penstock_core::headers::{CREDENTIALS, SIGNATURE};
use penstock_core::{Code, Problem, RouteKind};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words::{Admitted, CertificateShown, Environment, Presented, Refusal};
use penstock_policy::batches::{self, service::BatchesService};
use penstock_policy::cache::CacheEntry;
use penstock_policy::custom::{self, service::CustomService};
use penstock_policy::disclosure::Disclosure;
use penstock_policy::document;
use penstock_policy::idempotency::{self, service::IdempotencyService};
use penstock_policy::operations::{self, service::OperationsService};
use penstock_policy::quota::{self, service::QuotaService};
use penstock_policy::usage::service::UsageService;
use penstock_policy::webhooks::WebhooksSettings;
use penstock_tensor::Unknown;
use sha2::{Digest, Sha256};

/// Returns for each of the named models whether the caller may see it.
pub(crate) type Sees<'a> = &'a dyn Fn(&[String]) -> Vec<bool>;

/// The policies of one instance.
pub struct Policies<P: Ports> {
    /// Authentication and authorisation of callers.
    pub auth: P::Auth,
    /// Charges calls to the rate limits.
    pub quota: P::Quota,
    /// The kinds of limits that exist, so that unused ones are skipped.
    pub scope: quota::words::Scope,
    /// Finds and stores the answers of calls with an idempotency key.
    pub idempotency: P::Idempotency,
    /// The rules of idempotency that the gate applies itself.
    pub rules: idempotency::words::Rules,
    /// Stores calls that run later, and their results.
    pub operations: P::Operations,
    /// The rules of long-running calls.
    pub operation_rules: operations::words::Rules,
    /// Stores files and batches, and decides the steps of a batch.
    pub batches: P::Batches,
    /// The rules of files and batches that the gate applies itself.
    pub batch_rules: batches::words::Rules,
    /// Counts calls, items, bytes and compute time.
    pub usage: P::Usage,
    /// Whether calls are counted.
    pub counts: bool,
    /// Decides calls by the operator's own policy.
    pub custom: P::Custom,
    /// The data that the operator's own policy needs.
    pub custom_scope: custom::words::Scope,
    /// The entries `[[disclosure]]`, in the order of the file.
    pub disclosure: Vec<Disclosure>,
    /// The models whose results are cached.
    pub cache: Vec<CacheEntry>,
    /// Stores and finds results of runs.
    pub results: P::Cache,
    /// The most bytes of any decoded body.
    pub body_limit: u64,
    /// Whether a tier has a priority.
    pub ranks_tiers: bool,
    /// The treatment of unknown members and parameters.
    pub unknown: Unknown,
    /// The receivers of the ends of operations.
    pub webhooks: WebhooksSettings,
    /// The public key of the host's signatures; `None` if the host sends no webhooks.
    pub webhook_key: Option<String>,
}

impl<P: Ports> Policies<P> {
    /// Opens the policies of an instance. Logs an error in the operator's policy, and returns it as an internal problem.
    pub fn open(ports: &P) -> Result<Self, Problem> {
        let broken = |message: String| {
            ports.log(&format!("the policy cannot be used: {message}"));
            Problem::new(
                Code::Internal,
                "the operator's policy cannot be used; the server's log says why",
            )
        };
        let text = ports.policy_text().map_err(broken)?;
        // Penstock's own host keeps the key sets in the store instead, so a missing file is not an error.
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
        let operations = ports.open_operations(&text).map_err(broken)?;
        let batches = ports.open_batches(&text).map_err(broken)?;
        let usage = ports.open_usage(&text).map_err(broken)?;
        let custom = ports.open_custom(&text).map_err(broken)?;
        let mut custom_scope = custom.scope();
        custom_scope
            .headers
            .retain(|name| custom::is_readable(name));
        Ok(Self {
            scope: quota.scope(),
            rules: idempotency.rules(),
            operation_rules: operations.rules(),
            operations,
            batch_rules: batches.rules(),
            batches,
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
            webhooks: document::webhooks(&text).map_err(broken)?,
            webhook_key: webhook_key(ports),
            quota,
            idempotency,
            usage,
        })
    }
}

/// The environment variable by which a host states that other machines can reach it.
const LISTENER: &str = "PENSTOCK_LISTENER";

/// The environment variable with the public key of the host's signatures of webhooks.
const WEBHOOK_KEY: &str = "PENSTOCK_WEBHOOK_KEY";

/// Returns the public key of the host's signatures of webhooks; `None` if the host sends none.
pub(crate) fn webhook_key<P: Ports>(ports: &P) -> Option<String> {
    let key = ports.environment(WEBHOOK_KEY);
    key.filter(|key| !key.is_empty())
}

/// Returns whether a request carries a signature.
pub(crate) fn is_signed(request: &Request) -> bool {
    let mut headers = request.headers.iter();
    headers.any(|header| SIGNATURE.contains(&header.name.as_str()))
}

/// Authenticates the caller and checks its permission for the route and the model.
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
    // A signature may cover any header. Without a signature, only the credentials are copied.
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
