//! `penstock.toml`: what the operator decides about the server. Every setting has a default that
//! suits a small machine; unknown settings are errors, so that a misspelt limit is not a limit that
//! silently does not hold.

use crate::app::finding::{Finding, Place};
use penstock_policy::idempotency::IdempotencySettings;
use penstock_policy::quota::limits::{
    Algorithm, Backoff, DEFAULT_MAX_WAIT_MS, Limit, limit_faults,
};
use penstock_policy::usage::UsageSettings;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[server]`: connections and requests.
    pub server: ServerSettings,
    /// `[instances]`: the pool of component instances.
    pub instances: InstanceSettings,
    /// `[models]`: how the models this host runs follow their files, and what they may hold.
    pub models: ModelsSettings,
    /// `[[limits]]`: how much callers may use. Acted upon by the quota component.
    pub limits: Vec<Limit>,
    /// `[backoff]`: callers who are refused again and again. Acted upon by the quota component.
    pub backoff: Backoff,
    /// `[idempotency]`: calls that may be repeated. Acted upon by the component of that name.
    pub idempotency: IdempotencySettings,
    /// `[usage]`: what is counted. Acted upon by the component of that name.
    pub usage: UsageSettings,
    /// `[admin]`: who administers keys and tenants; without it, there is no admin API.
    pub admin: Option<AdminSettings>,
}

/// `[admin]`: the admin API, on a listener of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where it listens.
    pub listen: SocketAddr,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 3001).into(),
        }
    }
}

/// `[server]`: what a connection and a request may cost.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Largest body in bytes taken of any request; a model's contract may allow less.
    pub max_body_bytes: u64,
    /// Largest header block in bytes.
    pub max_header_bytes: u32,
    /// Longest request target in bytes.
    pub max_target_bytes: u32,
    /// Connections open at once; one more is answered 503 and closed.
    pub max_connections: u32,
    /// Requests in flight at once; one more is answered 503.
    pub max_in_flight: u32,
    /// Milliseconds a client has to send a request's headers.
    pub header_timeout_ms: u64,
    /// Milliseconds a client may pause while it sends a body.
    pub body_idle_timeout_ms: u64,
    /// Milliseconds from the end of the headers to the answer.
    pub total_timeout_ms: u64,
    /// Milliseconds a client may take none of an answer before its connection is closed.
    pub write_timeout_ms: u64,
    /// Milliseconds requests in flight have to finish after SIGTERM.
    pub drain_timeout_ms: u64,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            max_header_bytes: 16 << 10,
            max_target_bytes: 8 << 10,
            max_connections: 10_000,
            max_in_flight: 512,
            header_timeout_ms: 15_000,
            body_idle_timeout_ms: 10_000,
            total_timeout_ms: 30_000,
            write_timeout_ms: 15_000,
            drain_timeout_ms: 20_000,
        }
    }
}

/// `[instances]`: what one instance may use and how many there are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceSettings {
    /// Instances at once; each serves one request at a time. Requests beyond it wait.
    pub count: u32,
    /// Requests an instance serves before it is replaced, so that no leak outlives it.
    pub max_reuse: u32,
    /// Bytes each memory of an instance may grow to (one memory for each policy).
    pub memory_bytes: usize,
    /// Milliseconds of computing one request may use in WebAssembly, models not counted.
    pub cpu_time_ms: u64,
}

impl Default for InstanceSettings {
    fn default() -> Self {
        Self {
            count: 64,
            max_reuse: 10_000,
            memory_bytes: 256 << 20,
            cpu_time_ms: 10_000,
        }
    }
}

/// `[models]`: the life of the models that this host runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsSettings {
    /// Milliseconds between two looks at the models directory; 0 never looks again.
    pub poll_interval_ms: u64,
    /// Bytes the loaded models may hold together; none means what is there is loaded.
    pub memory_budget_bytes: Option<u64>,
    /// Models loaded at the same time.
    pub load_at_once: u32,
}

impl Default for ModelsSettings {
    fn default() -> Self {
        Self {
            poll_interval_ms: 1_000,
            memory_budget_bytes: None,
            load_at_once: penstock_nn::repository::LOAD_AT_ONCE as u32,
        }
    }
}

/// The shortest interval between looks: a look lists every folder, and on a network file system takes milliseconds.
const MIN_POLL_INTERVAL_MS: u64 = 50;

/// The longest: beyond it, who copies a model in waits long enough to think that it is not seen.
const MAX_POLL_INTERVAL_MS: u64 = 3_600_000;

/// The most loads at once: each takes about twice its graph in memory, and a core.
const MAX_LOAD_AT_ONCE: u32 = 64;

impl ModelsSettings {
    fn faults(&self) -> Vec<(&'static str, String)> {
        let Self {
            poll_interval_ms,
            memory_budget_bytes,
            load_at_once,
        } = self;
        let mut faults = Vec::new();
        let interval = MIN_POLL_INTERVAL_MS..=MAX_POLL_INTERVAL_MS;
        if *poll_interval_ms != 0 && !interval.contains(poll_interval_ms) {
            let (least, most) = (interval.start(), interval.end());
            let message = format!("must be 0, which never looks, or from {least} to {most}");
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
        faults
    }

    /// What the engine is told; it publishes a catalogue where components do not read the models themselves.
    pub fn repository(&self, publish: bool) -> penstock_nn::Settings {
        penstock_nn::Settings {
            load_at_once: self.load_at_once as usize,
            memory_budget_bytes: self.memory_budget_bytes,
            publish,
            ..penstock_nn::Settings::default()
        }
    }
}

/// How many times a body must fit into a memory of an instance: the gate holds it as it came, as tensors of up to eight
/// bytes for each two of JSON, and those tensors a second time as blocks (`tests/large.rs` sends the worst).
const MEMORY_PER_BODY: u64 = 16;

impl Settings {
    /// The largest body that is taken: what the operator allows, and no more than an instance has the memory for, so
    /// that a body too large is answered 413 and never traps.
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
                let place = line.map(|at| Place {
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
            instances,
            models,
            limits,
            backoff,
            idempotency,
            usage,
            // An address is one, or the file cannot be read.
            admin: _,
        } = self;
        let mut faults = limit_faults(limits);
        faults.extend(backoff.faults());
        for (at, limit) in limits.iter().enumerate() {
            let waiting = most_waiting(limit);
            let allowed = u64::from(instances.count / PACED_SHARE).max(1);
            if waiting > allowed {
                faults.push((
                    format!("limits[{at}].max_wait_ms"),
                    format!(
                        "lets {waiting} calls wait for their turn, each in an instance; at most {allowed} may, a quarter of \
                         instances.count"
                    ),
                ));
            }
        }
        let sections = idempotency.faults().into_iter().chain(usage.faults());
        faults.extend(sections.map(|(setting, message)| (setting.to_owned(), message)));
        let models = models.faults().into_iter();
        faults.extend(models.map(|(setting, message)| (setting.to_owned(), message)));
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
        // hyper refuses to read heads into less.
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
            "must be at least 4194304, what the components need to start",
        );
        at_least(
            "cpu_time_ms",
            instances.cpu_time_ms,
            10,
            "must be at least 10, one interruption",
        );
        faults
    }
}

/// One part in so many of the instances may hold calls that a limit paces, so that the others are free.
const PACED_SHARE: u32 = 4;

/// How many calls a pacing limit may hold back at once.
fn most_waiting(limit: &Limit) -> u64 {
    if limit.algorithm != Algorithm::LeakyBucket {
        return 0;
    }
    let wait_ms = limit.max_wait_ms.unwrap_or(DEFAULT_MAX_WAIT_MS);
    let window_ms = limit.window_s.unwrap_or(1).max(1).saturating_mul(1_000);
    limit.limit.saturating_mul(wait_ms).div_ceil(window_ms)
}

/// The line, from 0, that a setting with a fault stands on: `lease_ms`, `backoff.double_every`,
/// `limits[2].window_s`. Where the setting is not there, because it is missing, its table's.
fn line_of(text: &str, setting: &str) -> Option<usize> {
    let (entry, field) = setting.rsplit_once('.').unwrap_or(("", setting));
    let lines = || text.lines().map(str::trim_start).enumerate();
    let index = entry
        .strip_prefix("limits[")
        .and_then(|rest| rest.strip_suffix(']'));
    let Some(index) = index.and_then(|index| index.parse().ok()) else {
        let found = lines().find(|(_, line)| line.starts_with(field));
        return found.map(|(at, _)| at);
    };
    let (header, _) = lines()
        .filter(|(_, line)| line.starts_with("[[limits]]"))
        .nth(index)?;
    let mut inside = lines()
        .skip(header + 1)
        .take_while(|(_, line)| !line.starts_with('['));
    let field = inside.find(|(_, line)| line.starts_with(field));
    Some(field.map_or(header, |(at, _)| at))
}

/// The place of a byte offset.
fn place_of(text: &str, at: usize) -> Place {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
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
    fn a_misspelt_or_impossible_setting_is_found_with_its_line() {
        for (text, line, word) in [
            ("[server]\nmax_bodi_bytes = 1\n", 2, "max_bodi_bytes"),
            ("[server]\n\nmax_in_flight = 0\n", 3, "max_in_flight"),
            ("[instances]\ncount = \"many\"\n", 2, "invalid type"),
            ("[oops]\n", 1, "oops"),
            ("[idempotency]\n\nttl_s = 9000000\n", 3, "604800"),
            ("[usage]\nretention_days = 0\n", 2, "3650"),
            ("[models]\npoll_interval_ms = 5\n", 2, "50"),
            ("[models]\nmemory_budget_bytes = 0\n", 2, "no budget"),
            ("[models]\nload_at_once = 0\n", 2, "64"),
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
