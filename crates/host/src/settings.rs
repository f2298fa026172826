//! `penstock.toml`: the operator's settings of the server. Every setting has a default for a small machine. Unknown
//! settings are errors. Otherwise a misspelt limit would silently not apply.

use penstock_app::{Finding, SourceLocation};
use penstock_core::ModelName;
use penstock_core::metrics::models::DEFAULT_MODEL_VERSIONS;
use penstock_policy::auth::settings::AuthSettings;
use penstock_policy::batches::BatchesSettings;
use penstock_policy::cache::CacheEntry;
use penstock_policy::cors::CorsSettings;
use penstock_policy::disclosure::{self, Disclosure};
use penstock_policy::document::MEMORY_PER_BODY;
use penstock_policy::idempotency::IdempotencySettings;
use penstock_policy::operations::OperationsSettings;
use penstock_policy::quota::limits::{
    Algorithm, Backoff, DEFAULT_MAX_WAIT_MS, Limit, limit_faults,
};
use penstock_policy::usage::UsageSettings;
use penstock_policy::validation::ValidationSettings;
use penstock_policy::webhooks::WebhooksSettings;
use penstock_runtime::settings::InstanceSettings;
use penstock_server::settings::{AuditSettings, ServerSettings, TlsSettings};
use penstock_sources::{PullSettings, SourceSettings};
use penstock_tensor::contract::Isolation;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A policy file, `penstock.toml`, with all its sections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The section `[server]`: connections and requests.
    pub server: ServerSettings,
    /// The section `[tls]`: the certificate, and clients' certificates.
    pub tls: TlsSettings,
    /// The section `[audit]`: the log of callers and requests.
    pub audit: AuditSettings,
    /// The section `[instances]`: the pool of component instances.
    pub instances: InstanceSettings,
    /// The section `[models]`: how this host's models follow their files, and their limits.
    pub models: ModelsSettings,
    /// The section `[auth]`: the accepted callers. Used by the auth component.
    pub auth: AuthSettings,
    /// The entries `[[limits]]`: the limits of callers. Used by the quota component.
    pub limits: Vec<Limit>,
    /// The section `[backoff]`: callers that are refused again and again. Used by the quota component.
    pub backoff: Backoff,
    /// The section `[idempotency]`: calls that may be repeated. Used by the component of that name.
    pub idempotency: IdempotencySettings,
    /// The section `[operations]`: calls that run later. Used by the component of that name, and by this host, which runs
    /// them.
    pub operations: OperationsSettings,
    /// The section `[batches]`: files and batches. Used by the component of that name.
    pub batches: BatchesSettings,
    /// The section `[webhooks]`: announcements of operations that end. Used by the gate, and by this host, which sends them.
    pub webhooks: WebhooksSettings,
    /// The section `[usage]`: the usage counters. Used by the component of that name.
    pub usage: UsageSettings,
    /// The entries `[[cache]]`: results that are kept. Used by the gate and the component of that name.
    pub cache: Vec<CacheEntry>,
    /// The section `[validation]`: bodies of the Open Inference Protocol. Used by the gate.
    pub validation: ValidationSettings,
    /// The section `[cors]`: pages of other origins. Used by the gate.
    pub cors: CorsSettings,
    /// The entries `[[disclosure]]`: the precision of scores in answers. Used by the gate.
    pub disclosure: Vec<Disclosure>,
    /// The section `[custom]`: settings of the operator's own policy. Only that component reads and checks them.
    pub custom: toml::Table,
    /// The section `[admin]`: the admin API for keys and tenants. Without it, there is no admin API.
    pub admin: Option<AdminSettings>,
    /// The section `[metrics]`: the metrics at `/metrics`.
    pub metrics: MetricsSettings,
}

/// The section `[metrics]`: the listener of the metrics, and their contents. The admin API has them, too.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// The address of a listener for metrics alone. Without it, only the admin API has them.
    pub listen: Option<SocketAddr>,
    /// Whether callers of that listener need the metrics token. Without the setting, only if other machines can reach it.
    pub access: Option<MetricsAccess>,
    /// Whether the counters of models are written with the names of Triton, too.
    pub triton_names: bool,
    /// The versions of models that have series of their own. Further ones are added up as `other`.
    pub model_versions: u32,
}

/// The access to the listener for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsAccess {
    /// Callers need no token.
    Open,
    /// Callers need the metrics token.
    Token,
}

/// Most versions with series of their own. Each takes up to 20 KB of a scrape, which has at most 2 MiB.
const MAX_MODEL_VERSIONS: u32 = 1_000;

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            listen: None,
            access: None,
            triton_names: false,
            model_versions: DEFAULT_MODEL_VERSIONS as u32,
        }
    }
}

impl MetricsSettings {
    /// Returns whether callers of a listener on this address need no token.
    pub fn is_open(&self, address: IpAddr) -> bool {
        match self.access {
            Some(access) => access == MetricsAccess::Open,
            None => address.to_canonical().is_loopback(),
        }
    }

    fn faults(&self) -> Vec<(&'static str, String)> {
        let Self {
            // An address and a word are valid, or the file cannot be read.
            listen,
            access,
            triton_names: _,
            model_versions,
        } = self;
        let mut faults = Vec::new();
        if access.is_some() && listen.is_none() {
            let message = "has no effect without metrics.listen; set that, or remove this";
            faults.push(("access", message.to_owned()));
        }
        if !(1..=MAX_MODEL_VERSIONS).contains(model_versions) {
            let message = format!("must be from 1 to {MAX_MODEL_VERSIONS}");
            faults.push(("model_versions", message));
        }
        faults
    }
}

/// The section `[admin]`: the admin API, on its own listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// The address to listen on. Without it [`DEFAULT_ADMIN_LISTEN`], or any free port if that is taken.
    pub listen: Option<SocketAddr>,
}

/// The default address of the admin API.
pub const DEFAULT_ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3001);

impl AdminSettings {
    /// The address of the admin API, if it is free.
    pub fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or(DEFAULT_ADMIN_LISTEN)
    }
}

/// The section `[models]`: the life cycle of the models that this host runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsSettings {
    /// Milliseconds between two looks at the models directory; 0 never looks again.
    pub poll_interval_ms: u64,
    /// Bytes that the loaded models may hold together. Without it, every model is loaded.
    pub memory_budget_bytes: Option<u64>,
    /// Models loaded at the same time.
    pub load_at_once: u32,
    /// Bytes that one run may hold, without weights and inputs.
    pub run_memory_bytes: u64,
    /// Milliseconds that loading a version may take, its first runs included.
    pub load_timeout_ms: u64,
    /// The isolation of runtimes, `process` or `thread`. Without it, native runtimes run in processes, and tract on threads.
    pub isolation: Option<String>,
    /// Bytes of private memory that a model's process may map. Without it, the memory of the load plus that of its
    /// runs.
    pub process_memory_bytes: Option<u64>,
    /// The consequence if a second backend gives other outputs; `off` runs no second backend.
    pub compare: Compare,
    /// The permitted difference, as a part of the output's largest element.
    pub compare_tolerance: f64,
    /// Whether callers with the scope may load and unload models.
    pub control: bool,
    /// Whether a folder with a graph and without a `model.toml` serves under a contract derived from the graph. Without
    /// the setting, only if the server listens on the loopback address alone, because a derived contract has no bounds
    /// on values and lengths.
    pub derive: Option<bool>,
    /// Libraries of operators that `operators` of `[engine]` in a `model.toml` may name, each with its file.
    pub operators: BTreeMap<String, PathBuf>,
    /// The models without which the server is not ready; `*` means all that exist. Used by the gate.
    pub required: Vec<String>,
    /// The entries `[[models.sources]]`: models that are pulled.
    pub sources: Vec<SourceSettings>,
    /// The section `[models.pull]`: limits and trust of pulls.
    pub pull: PullSettings,
}

/// The consequence if a second backend gives different outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    /// No second backend runs, and nothing is compared.
    #[default]
    Off,
    /// It serves, and the log, the index and `/ready` report the difference.
    Warn,
    /// The version is not served.
    Refuse,
}

impl From<Compare> for penstock_nn::agreement::Compare {
    fn from(compare: Compare) -> Self {
        match compare {
            Compare::Off => Self::Off,
            Compare::Warn => Self::Warn,
            Compare::Refuse => Self::Refuse,
        }
    }
}

/// Most libraries of operators. Each is loaded for the models that ask for it.
const MAX_OPERATOR_LIBRARIES: usize = 64;

/// The number of models that a server lists.
const MAX_REQUIRED_MODELS: usize = 1024;

impl Default for ModelsSettings {
    fn default() -> Self {
        Self {
            poll_interval_ms: 1_000,
            memory_budget_bytes: None,
            load_at_once: penstock_nn::repository::LOAD_AT_ONCE as u32,
            run_memory_bytes: penstock_nn::RUN_MEMORY_BYTES as u64,
            load_timeout_ms: penstock_nn::repository::LOAD_TIMEOUT.as_millis() as u64,
            isolation: None,
            process_memory_bytes: None,
            compare: Compare::default(),
            compare_tolerance: penstock_nn::agreement::TOLERANCE,
            // A caller that unloads a model takes it from all callers.
            control: false,
            derive: None,
            operators: BTreeMap::new(),
            required: Vec::new(),
            sources: Vec::new(),
            pull: PullSettings::default(),
        }
    }
}

/// Shortest interval between looks. A look lists every folder, and takes milliseconds on a network file system.
const MIN_POLL_INTERVAL_MS: u64 = 50;

/// Largest `poll_interval_ms`: an hour. With a longer one, an operator that copies a model would think that the server does
/// not see it.
const MAX_POLL_INTERVAL_MS: u64 = 3_600_000;

/// Smallest memory of a run. Runtimes take some of it for themselves.
const MIN_RUN_MEMORY_BYTES: u64 = 1 << 20;

/// Smallest memory of a model's process. A runtime's library takes a good part of it.
const MIN_PROCESS_MEMORY_BYTES: u64 = 64 << 20;

/// Most loads at once. Each takes about twice its graph in memory, and a core.
const MAX_LOAD_AT_ONCE: u32 = 64;

/// Shortest time for a load. With less, a busy machine gives up valid models.
const MIN_LOAD_TIMEOUT_MS: u64 = 1_000;

/// Longest time for a load. With more, nobody notices a load that never ends.
const MAX_LOAD_TIMEOUT_MS: u64 = 3_600_000;

impl ModelsSettings {
    fn faults(&self) -> Vec<(&'static str, String)> {
        let Self {
            poll_interval_ms,
            memory_budget_bytes,
            load_at_once,
            run_memory_bytes,
            load_timeout_ms,
            isolation,
            process_memory_bytes,
            compare: _,
            compare_tolerance,
            control: _,
            derive: _,
            operators,
            required,
            // See `Settings::faults`.
            sources: _,
            pull: _,
        } = self;
        let mut faults = Vec::new();
        if isolation.is_some() && self.isolated().is_none() {
            faults.push(("isolation", "must be `process` or `thread`".to_owned()));
        }
        if process_memory_bytes.is_some_and(|bytes| bytes < MIN_PROCESS_MEMORY_BYTES) {
            let message = format!("must be at least {MIN_PROCESS_MEMORY_BYTES}");
            faults.push(("process_memory_bytes", message));
        }
        if operators.len() > MAX_OPERATOR_LIBRARIES {
            let message = format!("must name at most {MAX_OPERATOR_LIBRARIES} libraries");
            faults.push(("operators", message));
        }
        if let Some((name, path)) = operators.iter().find(|(_, path)| !path.is_file()) {
            let message = format!(
                "gives `{name}` the file {}, which does not exist",
                path.display()
            );
            faults.push(("operators", message));
        }
        if required.len() > MAX_REQUIRED_MODELS {
            let message = format!("must name at most {MAX_REQUIRED_MODELS} models");
            faults.push(("required", message));
        }
        let is_name = |name: &&String| *name == "*" || ModelName::parse(name).is_some();
        if let Some(name) = required.iter().find(|name| !is_name(name)) {
            let message = format!("has `{name}`, which is not a model name; `*` means all models");
            faults.push(("required", message));
        }
        let interval = MIN_POLL_INTERVAL_MS..=MAX_POLL_INTERVAL_MS;
        if *poll_interval_ms != 0 && !interval.contains(poll_interval_ms) {
            let (least, most) = (interval.start(), interval.end());
            let message = format!("must be 0 (never poll) or from {least} to {most}");
            faults.push(("poll_interval_ms", message));
        }
        if *memory_budget_bytes == Some(0) {
            let message = "must be at least 1; leave it out for no budget".to_owned();
            faults.push(("memory_budget_bytes", message));
        }
        if !(1..=MAX_LOAD_AT_ONCE).contains(load_at_once) {
            let message = format!("must be from 1 to {MAX_LOAD_AT_ONCE}");
            faults.push(("load_at_once", message));
        }
        if *run_memory_bytes < MIN_RUN_MEMORY_BYTES {
            let message = format!("must be at least {MIN_RUN_MEMORY_BYTES}");
            faults.push(("run_memory_bytes", message));
        }
        if !(0.0..=1.0).contains(compare_tolerance) {
            let message = "must be from 0 to 1, a part of an output's largest element".to_owned();
            faults.push(("compare_tolerance", message));
        }
        if !(MIN_LOAD_TIMEOUT_MS..=MAX_LOAD_TIMEOUT_MS).contains(load_timeout_ms) {
            let message = format!("must be from {MIN_LOAD_TIMEOUT_MS} to {MAX_LOAD_TIMEOUT_MS}");
            faults.push(("load_timeout_ms", message));
        }
        faults
    }

    /// The setting where runtimes run, if it is set and valid.
    fn isolated(&self) -> Option<Isolation> {
        let named = self.isolation.as_deref()?;
        let mut cases = Isolation::ALL.into_iter();
        cases.find(|case| case.as_str() == named)
    }

    /// The settings of the engine. It publishes a catalogue unless components read the models themselves.
    pub fn repository(&self, publish: bool) -> penstock_nn::Settings {
        penstock_nn::Settings {
            load_at_once: self.load_at_once as usize,
            load_timeout: Duration::from_millis(self.load_timeout_ms),
            memory_budget_bytes: self.memory_budget_bytes,
            compare: self.compare.into(),
            // It loads every graph twice, and no start should wait for that; docs/decisions/0029 has the cost.
            compare_later: true,
            compare_tolerance: self.compare_tolerance,
            run_memory_bytes: usize::try_from(self.run_memory_bytes).unwrap_or(usize::MAX),
            derive: self.derive.unwrap_or(true),
            isolation: self.isolated(),
            process_memory_bytes: self.process_memory_bytes,
            operators: self.operators.clone(),
            publish,
            ..penstock_nn::Settings::default()
        }
    }
}

impl Settings {
    /// The largest accepted body: at most the operator's limit, and at most the size for which an instance has memory,
    /// so that a larger body gets 413 and never traps.
    pub fn body_limit(&self) -> u64 {
        let holdable = (self.instances.memory_bytes as u64 / MEMORY_PER_BODY).max(1);
        self.server.max_body_bytes.min(holdable)
    }

    /// Reads a file; a missing file means the defaults. Every fault is a finding with its line.
    pub fn load(path: &Path) -> Result<Self, Vec<Finding>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => {
                return Err(vec![Finding::error(
                    path,
                    None,
                    format!("cannot read the policy: {e}"),
                    "make the file readable, or name another with --policy",
                )]);
            }
        };
        let settings: Self = toml::from_str(&text).map_err(|e| {
            let place = e.span().map(|s| place_of(&text, s.start));
            vec![Finding::error(
                path,
                place,
                e.message().to_owned(),
                "correct the setting; docs/SETTINGS.md lists them all",
            )]
        })?;
        let faults = settings.faults();
        if faults.is_empty() {
            return Ok(settings);
        }
        Err(faults
            .into_iter()
            .map(|(setting, message)| {
                let line = line_of(&text, &setting);
                let place = line.map(|at| SourceLocation {
                    line: at + 1,
                    column: 1,
                });
                Finding::error(
                    path,
                    place,
                    format!("`{setting}` {message}"),
                    "correct the setting; docs/SETTINGS.md lists them all",
                )
            })
            .collect())
    }

    fn faults(&self) -> Vec<(String, String)> {
        let Self {
            server,
            tls,
            audit,
            instances,
            models,
            auth,
            limits,
            backoff,
            idempotency,
            operations,
            batches,
            webhooks,
            usage,
            cache,
            cors,
            disclosure,
            // It is one of two words, or the file cannot be read.
            validation: _,
            // The component checks them.
            custom: _,
            // An address is valid, or the file cannot be read.
            admin: _,
            metrics,
        } = self;
        let mut faults = limit_faults(limits);
        faults.extend(backoff.faults());
        faults.extend(disclosure::faults(disclosure));
        faults.extend(penstock_policy::cache::settings::faults(cache));
        for (at, limit) in limits.iter().enumerate() {
            let waiting = most_waiting(limit);
            let allowed = u64::from(instances.count / PACED_SHARE).max(1);
            if waiting > allowed {
                faults.push((
                    format!("limits[{at}].max_wait_ms"),
                    format!(
                        "lets {waiting} calls wait, each in an instance; at most {allowed} may wait, a quarter of \
                         instances.count"
                    ),
                ));
            }
        }
        let sections = idempotency
            .faults()
            .into_iter()
            .chain(operations.faults())
            .chain(batches.faults())
            .chain(usage.faults())
            .chain(cors.faults());
        faults.extend(sections.map(|(setting, message)| (setting.to_owned(), message)));
        let named = |section: &str, setting: &str| format!("{section}.{setting}");
        let tls = tls.faults().into_iter();
        faults.extend(tls.map(|(setting, message)| (named("tls", setting), message)));
        let audit = audit.faults().into_iter();
        faults.extend(audit.map(|(setting, message)| (named("audit", setting), message)));
        let auth = auth.faults().into_iter();
        faults.extend(auth.map(|(setting, message)| (named("auth", &setting), message)));
        let webhooks = webhooks.faults().into_iter();
        faults.extend(webhooks.map(|(setting, message)| (named("webhooks", &setting), message)));
        let sources = penstock_sources::settings::faults(&models.sources).into_iter();
        faults
            .extend(sources.map(|(at, setting, message)| {
                (format!("models.sources[{at}].{setting}"), message)
            }));
        let pull = models.pull.faults().into_iter();
        faults.extend(pull.map(|(setting, message)| (format!("models.pull.{setting}"), message)));
        let metrics = metrics.faults().into_iter();
        faults.extend(metrics.map(|(setting, message)| (named("metrics", setting), message)));
        let models = models.faults().into_iter();
        faults.extend(models.map(|(setting, message)| (setting.to_owned(), message)));
        faults.extend(number_faults(server, instances));
        faults
    }
}

/// Returns the faults of the numbers of `[server]` and `[instances]`.
fn number_faults(server: &ServerSettings, instances: &InstanceSettings) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut at_least = |setting: &str, value: u64, least: u64, message: &str| {
        if value < least {
            faults.push((setting.to_owned(), message.to_owned()));
        }
    };
    let timeout = "must be at least 1 ms, or no request can be answered";
    at_least(
        "max_body_bytes",
        server.max_body_bytes,
        1,
        "must be at least 1",
    );
    // hyper refuses smaller buffers.
    at_least(
        "max_header_bytes",
        server.max_header_bytes.into(),
        8192,
        "must be at least 8192",
    );
    at_least(
        "max_target_bytes",
        server.max_target_bytes.into(),
        64,
        "must be at least 64",
    );
    at_least(
        "max_connections",
        server.max_connections.into(),
        1,
        "must be at least 1",
    );
    at_least(
        "max_connections_per_address",
        server.max_connections_per_address.into(),
        1,
        "must be at least 1",
    );
    at_least(
        "max_in_flight",
        server.max_in_flight.into(),
        1,
        "must be at least 1",
    );
    at_least("header_timeout_ms", server.header_timeout_ms, 1, timeout);
    at_least(
        "body_idle_timeout_ms",
        server.body_idle_timeout_ms,
        1,
        timeout,
    );
    at_least(
        "keep_alive_timeout_ms",
        server.keep_alive_timeout_ms,
        1,
        timeout,
    );
    at_least(
        "stream_idle_timeout_ms",
        server.stream_idle_timeout_ms,
        1,
        timeout,
    );
    at_least("total_timeout_ms", server.total_timeout_ms, 1, timeout);
    at_least("write_timeout_ms", server.write_timeout_ms, 1, timeout);
    at_least("count", instances.count.into(), 1, "must be at least 1");
    at_least(
        "max_reuse",
        instances.max_reuse.into(),
        1,
        "must be at least 1",
    );
    at_least(
        "memory_bytes",
        instances.memory_bytes as u64,
        4 << 20,
        "must be at least 4194304, the minimum that the components need to start",
    );
    at_least(
        "cpu_time_ms",
        instances.cpu_time_ms,
        10,
        "must be at least 10, one interruption",
    );
    let (delay, all) = (server.drain_delay_ms, server.drain_timeout_ms);
    if delay.is_some_and(|delay| delay > 0 && delay >= all) {
        faults.push((
            "drain_delay_ms".to_owned(),
            format!(
                "must be less than drain_timeout_ms ({all}), of which it is a part, so that requests in flight have time \
                 to finish"
            ),
        ));
    }
    faults
}

/// One part in this many of the instances may hold calls that a limit paces, so that the others are free.
const PACED_SHARE: u32 = 4;

/// Calls that a pacing limit may delay at once.
fn most_waiting(limit: &Limit) -> u64 {
    if limit.algorithm != Algorithm::LeakyBucket {
        return 0;
    }
    let wait_ms = limit.max_wait_ms.unwrap_or(DEFAULT_MAX_WAIT_MS);
    let window_ms = limit.window_s.unwrap_or(1).max(1).saturating_mul(1_000);
    limit.limit.saturating_mul(wait_ms).div_ceil(window_ms)
}

/// The line, from 0, of a setting with a fault: `lease_ms`, `backoff.double_every`, `limits[2].window_s`. If the
/// setting is missing, the line of its table.
fn line_of(text: &str, setting: &str) -> Option<usize> {
    let (entry, field) = setting.rsplit_once('.').unwrap_or(("", setting));
    let lines = || text.lines().map(str::trim_start).enumerate();
    let indexed = entry.strip_suffix(']').and_then(|e| e.split_once('['));
    let indexed = indexed.and_then(|(table, index)| Some((table, index.parse().ok()?)));
    let Some((table, index)) = indexed else {
        let found = lines().find(|(_, line)| line.starts_with(field));
        return found.map(|(at, _)| at);
    };
    let (header, _) = lines()
        .filter(|(_, line)| line.starts_with(&format!("[[{table}]]")))
        .nth(index)?;
    let mut inside = lines()
        .skip(header + 1)
        .take_while(|(_, line)| !line.starts_with('['));
    let field = inside.find(|(_, line)| line.starts_with(field));
    Some(field.map_or(header, |(at, _)| at))
}

/// The place of a byte offset.
fn place_of(text: &str, at: usize) -> SourceLocation {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    SourceLocation {
        line: 1 + before.matches('\n').count(),
        column: 1 + before[line_start..].chars().count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, Vec<Finding>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Settings::load(file.path())
    }

    #[test]
    fn a_missing_policy_means_the_defaults() {
        assert_eq!(
            Settings::load(Path::new("/nonexistent/penstock.toml")),
            Ok(Settings::default())
        );
    }

    #[test]
    fn health_checks_fail_for_a_while_before_a_server_stops_that_others_than_this_machine_reach() {
        for (text, loopback, delay_ms) in [
            ("", true, 0),
            ("", false, 5_000),
            ("[server]\ndrain_timeout_ms = 3000\n", false, 1_500),
            ("[server]\ndrain_delay_ms = 250\n", true, 250),
            ("[server]\ndrain_delay_ms = 0\n", false, 0),
        ] {
            let delay = load(text).unwrap().server.drain_delay(loopback);
            assert_eq!(delay, Duration::from_millis(delay_ms), "{text}");
        }
    }

    #[test]
    fn metrics_need_a_token_where_other_machines_reach_them_unless_a_setting_says_otherwise() {
        for (text, address, open) in [
            ("", "127.0.0.1", true),
            ("", "::1", true),
            ("", "0.0.0.0", false),
            ("", "10.0.0.7", false),
            (
                "[metrics]\nlisten = \"0.0.0.0:9464\"\naccess = \"open\"\n",
                "0.0.0.0",
                true,
            ),
            (
                "[metrics]\nlisten = \"127.0.0.1:9464\"\naccess = \"token\"\n",
                "127.0.0.1",
                false,
            ),
        ] {
            let metrics = load(text).unwrap().metrics;
            assert_eq!(
                metrics.is_open(address.parse().unwrap()),
                open,
                "{text} {address}"
            );
        }
    }

    #[test]
    fn a_misspelt_or_impossible_setting_is_found_with_its_line() {
        for (text, line, word) in [
            ("[server]\nmax_bodi_bytes = 1\n", 2, "max_bodi_bytes"),
            ("[server]\n\nmax_in_flight = 0\n", 3, "max_in_flight"),
            ("[instances]\ncount = \"many\"\n", 2, "invalid type"),
            ("[oops]\n", 1, "oops"),
            ("[metrics]\naccess = \"open\"\n", 2, "metrics.listen"),
            ("[idempotency]\n\nttl_s = 9000000\n", 3, "604800"),
            ("[usage]\nretention_days = 0\n", 2, "3650"),
            ("[models]\npoll_interval_ms = 5\n", 2, "50"),
            ("[models]\nmemory_budget_bytes = 0\n", 2, "no budget"),
            ("[models]\nload_at_once = 0\n", 2, "64"),
            ("[models]\nrun_memory_bytes = 1000\n", 2, "1048576"),
            ("[models]\nload_timeout_ms = 10\n", 2, "1000"),
            ("[models]\ncompare = \"on\"\n", 2, "refuse"),
            ("[models]\ncompare_tolerance = 2.0\n", 2, "from 0 to 1"),
            ("[models]\nisolation = \"vm\"\n", 2, "`thread`"),
            ("[models]\nprocess_memory_bytes = 1\n", 2, "67108864"),
            ("[tls]\n\ncertificate = \"a.pem\"\n", 3, "tls.private_key"),
            ("[tls]\nclient_ca = \"a.pem\"\n", 2, "does not use TLS"),
            (
                "[tls]\nclient_certificates = \"optional\"\n",
                2,
                "tls.client_ca",
            ),
            ("[tls]\nclient_certificates = \"perhaps\"\n", 2, "optional"),
            ("[tls]\nwarn_days = 1000\n", 2, "398"),
            ("[audit]\nmax_bytes = 10\n", 2, "4096"),
            ("[audit]\nkeep = 0\n", 2, "1000"),
            (
                "[server]\ntrusted_proxies = [\"localhost\"]\n",
                2,
                "localhost",
            ),
            (
                "[server]\nforwarded_header = \"via\"\n",
                2,
                "x-forwarded-for",
            ),
            (
                "[server]\nmax_connections_per_address = 0\n",
                2,
                "max_connections_per_address",
            ),
            (
                "[server]\nkeep_alive_timeout_ms = 0\n",
                2,
                "keep_alive_timeout_ms",
            ),
            (
                "[server]\nstream_idle_timeout_ms = 0\n",
                2,
                "stream_idle_timeout_ms",
            ),
            (
                "[server]\ndrain_delay_ms = 20000\n",
                2,
                "less than drain_timeout_ms (20000)",
            ),
            ("[models]\nrequired = [\"a b\"]\n", 2, "`a b`"),
            ("[models]\nrequired = \"cls\"\n", 2, "invalid type"),
            (
                "[[models.sources]]\nname = \"a\"\nfrom = \"x\"\n[[models.sources]]\nname = \"b\"\nfrom = \"ftp://x/y\"\n",
                6,
                "unknown scheme",
            ),
            (
                "[[models.sources]]\nname = \"a b\"\nfrom = \"x\"\n",
                2,
                "letters",
            ),
            (
                "[[models.sources]]\nname = \"a\"\nfrom = \"https://u:p@h/x\"\n",
                3,
                "credentials_env",
            ),
            (
                "[[models.sources]]\nname = \"a\"\nfrom = \"x\"\nversions = [1, 2]\n",
                4,
                "{version}",
            ),
            (
                "[[models.sources]]\nname = \"a\"\nfrom = \"x\"\n[[models.sources]]\nname = \"a\"\nfrom = \"y\"\n",
                5,
                "twice",
            ),
            (
                "[[models.sources]]\nname = \"a\"\nfrom = \"x\"\nsha256 = \"12\"\n",
                4,
                "64 hexadecimal digits",
            ),
            ("[models.pull]\nat_once = 0\n", 2, "from 1 to 64"),
            ("[models.pull]\nallow_http = true\n", 2, "allow_http"),
            (
                "[[webhooks.tenants]]\ntenant = \"a\"\nsecrets_file = \"s\"\n[[webhooks.tenants]]\ntenant = \"b\"\n\
                 url = \"http://b.example/\"\nsecrets_file = \"s\"\n",
                6,
                "https://",
            ),
            (
                "[[webhooks.tenants]]\ntenant = \"a\"\n",
                1,
                "must name a file",
            ),
            ("[metrics]\nmodel_versions = 0\n", 2, "from 1 to 1000"),
            ("[metrics]\naccess = \"none\"\n", 2, "open"),
            ("[metrics]\nport = 1\n", 2, "port"),
            ("[admin]\nlisten = \"here\"\n", 2, "socket address"),
            ("[admin]\nlissen = \"127.0.0.1:1\"\n", 2, "lissen"),
            ("[models]\npol_interval_ms = 5\n", 2, "pol_interval_ms"),
            (
                "[[limits]]\nname = \"a\"\nalgorithm = \"leaky-bucket\"\nlimit = 100\nwindow_s = 1\nmax_wait_ms = 10000\n",
                6,
                "1000 calls",
            ),
            ("[backoff]\ndouble_every = 0\n", 2, "double_every"),
            (
                "[[limits]]\nname = \"a\"\nlimit = 1\nwindow_s = 1\n[[limits]]\nname = \"b\"\nlimit = 0\nwindow_s = 1\n",
                7,
                "limit",
            ),
            ("[[limits]]\nname = \"a\"\nlimit = 1\n", 1, "window_s"),
        ] {
            let findings = load(text).unwrap_err();
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].line, Some(line), "{findings:?}");
            assert!(findings[0].message.contains(word), "{findings:?}");
        }
    }
}
