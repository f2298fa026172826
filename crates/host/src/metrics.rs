//! Collects the metrics of this server, and reserves the address of their listener. `penstock_core::metrics` has the families and
//! their text; `penstock_admin::scrape` answers the requests.

use crate::listen::Reserved;
use crate::settings::MetricsSettings;
use crate::webhooks::Attempts;
use penstock_admin::Listening;
use penstock_admin::scrape::{self, Scrapes, Writer};
use penstock_app::secrets::{self, Origin, Secret};
use penstock_core::metrics::models::{self, ModelCounts, ProcessCounts, TritonCounts};
use penstock_core::metrics::process::{ProcessFacts, Units, max_open_files};
use penstock_core::metrics::{Bounds, Distribution, Format, Text, families as f, histogram};
use penstock_nn::Repository;
use penstock_nn::histogram::{BOUNDS_NS, Histogram};
use penstock_nn::repository::IndexEntry;
use penstock_nn::stats::Stats;
use penstock_server::Server;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The bounds of the times that the engine measures.
static MODEL_DURATION: Bounds = Bounds {
    limits: &BOUNDS_NS,
    scale: 1e9,
};

/// The states of versions in the repository's index.
const STATES: [&str; 4] = ["READY", "LOADING", "UNLOADING", "UNAVAILABLE"];

/// The places that metrics come from.
pub(crate) struct Sources {
    pub(crate) settings: MetricsSettings,
    pub(crate) server: Arc<Server>,
    pub(crate) repository: Arc<Repository>,
    pub(crate) webhooks: Option<Arc<Attempts>>,
}

/// Opens the token of the metrics, if a listener serves them, and logs where it is.
///
/// # Errors
///
/// If the token can be neither read nor made.
pub(crate) fn token(state_dir: &Path) -> anyhow::Result<Secret> {
    let token = secrets::metrics_token(state_dir, &secrets::environment)?;
    let from = match &token.origin {
        Origin::Given => "given".to_owned(),
        Origin::Kept(path) => format!("in {}", path.display()),
        Origin::Made(path) => format!("new, in {}", path.display()),
    };
    tracing::info!(target: "admin", "the token of the metrics is {from}");
    Ok(token)
}

/// Serves the metrics on the listener that was reserved for them.
///
/// # Errors
///
/// If another process has begun to listen on the address.
pub(crate) fn serve(
    reserved: Reserved,
    settings: &MetricsSettings,
    scrapes: Arc<Scrapes>,
) -> anyhow::Result<Listening> {
    let listener = reserved.listen()?;
    let address = listener.local_addr()?;
    let is_open = settings.is_open(address.ip());
    let rule = if is_open {
        "without a token"
    } else {
        "with the metrics token"
    };
    tracing::info!(target: "admin", "metrics on http://{address}{} {rule}", scrape::PATH);
    if is_open && !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            target: "admin",
            "other machines can read the metrics on {address} without a token; set metrics.access = \"token\" to refuse them"
        );
    }
    Ok(scrape::serve(listener, scrapes, is_open)?)
}

/// Returns the writer of scrapes.
pub(crate) fn writer(sources: Sources) -> Writer {
    Box::new(move |format| sources.write(format))
}

impl Sources {
    fn write(&self, format: Format) -> Vec<u8> {
        let mut text = Text::new(format);
        let mut build = text.family(&f::BUILD);
        build.value(&[env!("CARGO_PKG_VERSION")], 1_u64);
        write_process(&mut text);
        if let Some(attempts) = &self.webhooks {
            let mut rows = text.family(&f::WEBHOOK_ATTEMPTS);
            for (outcome, count) in attempts.read() {
                rows.value(&[outcome], count);
            }
        }
        self.server.write_metrics(&mut text);
        self.write_models(&mut text);
        text.finish()
    }

    /// Writes the families of models. The lock of each model is held for the copy of its counters, and that of the repository for the
    /// copy of its index.
    fn write_models(&self, text: &mut Text) {
        let index = self.repository.index();
        let mut rows = text.family(&f::MODELS);
        for state in STATES {
            let count = index.iter().filter(|entry| entry.state == state).count();
            rows.value(&[&state.to_lowercase()], count);
        }
        let entries: BTreeMap<(&str, u64), &IndexEntry> = (index.iter())
            .map(|entry| ((entry.model.as_str(), entry.version), entry))
            .collect();
        // Without a model's name there is no error.
        let versions = self.repository.statistics(None, None).unwrap_or_default();
        let counts = versions.into_iter().filter_map(|version| {
            let entry = entries.get(&(version.model.as_str(), version.version))?;
            let is_loaded = entry.state == STATES[0] || version.stats.process.is_some();
            is_loaded.then(|| counts_of(version.model, version.version, entry, &version.stats))
        });
        let most = self.settings.model_versions as usize;
        let counts = models::bounded(counts.collect(), most);
        models::write(&counts, self.settings.triton_names, text);
    }
}

fn counts_of(model: String, version: u64, entry: &IndexEntry, stats: &Stats) -> ModelCounts {
    let mut batches = Distribution::empty(&histogram::BATCH_SIZE);
    for (size, batch) in &stats.batches {
        batches.add_many((*size).into(), batch.count);
    }
    // Above 32 items, the engine counts sizes under a power of two, so the sum must come from its own counter.
    batches.sum = stats.inference_count;
    let (refusals, shadow) = (&stats.refusals, &stats.shadow);
    ModelCounts {
        model,
        version: version.to_string(),
        memory_bytes: entry.memory_bytes,
        waiting: stats.waiting as u64,
        running: stats.running as u64,
        overdue: stats.overdue as u64,
        queue: distribution(&stats.queue),
        compute: distribution(&stats.compute),
        batches,
        success: stats.success,
        failures: stats.failures,
        // In the order of `models::REASONS`.
        refused: [
            refusals.invalid,
            refusals.queue_full,
            refusals.displaced,
            refusals.shed,
            refusals.deadline,
            refusals.cancelled,
            refusals.not_ready,
        ],
        failed_runs: stats.failed_executions,
        // In the order of `models::SHADOW_RESULTS`.
        shadow: [shadow.agreed, shadow.differed, shadow.failed, shadow.shed],
        process: stats.process.as_ref().map(|process| ProcessCounts {
            restarts: process.restarts,
            resident_bytes: process.resident_bytes.unwrap_or_default(),
        }),
        triton: TritonCounts {
            items: stats.inference_count,
            runs: stats.execution_count,
            total_ns: stats.total.sum_ns,
            input_ns: stats.calls_input_ns,
            output_ns: stats.calls_output_ns,
        },
    }
}

fn distribution(histogram: &Histogram) -> Distribution {
    Distribution {
        bounds: &MODEL_DURATION,
        counts: histogram.buckets.to_vec(),
        sum: histogram.sum_ns,
    }
}

/// Writes the facts of this process. A fact that the system does not tell is left out.
fn write_process(text: &mut Text) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let own = read("/proc/self/stat");
    if let Some(facts) = ProcessFacts::read(&own, &read("/proc/stat"), units()) {
        text.single(&f::CPU_SECONDS, facts.cpu_s);
        text.single(&f::RESIDENT_BYTES, facts.resident_bytes);
        text.single(&f::VIRTUAL_BYTES, facts.virtual_bytes);
        text.single(&f::THREADS, facts.threads);
        text.single(&f::START_TIME, facts.started_s);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the listing itself.
        text.single(&f::OPEN_FDS, open.count().saturating_sub(1));
    }
    if let Some(most) = max_open_files(&read("/proc/self/limits")) {
        text.single(&f::MAX_FDS, most);
    }
}

/// The sizes that this kernel counts in.
fn units() -> Units {
    let value = |name: libc::c_int, usual: u64| {
        // SAFETY: sysconf takes any number, and reads no memory of ours.
        let value = unsafe { libc::sysconf(name) };
        u64::try_from(value)
            .ok()
            .filter(|value| *value > 0)
            .unwrap_or(usual)
    };
    Units {
        ticks_per_s: value(libc::_SC_CLK_TCK, 100),
        page_bytes: value(libc::_SC_PAGESIZE, 4096),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_process_are_written() {
        let mut text = Text::new(Format::Prometheus);
        write_process(&mut text);
        let text = String::from_utf8(text.finish()).unwrap();
        for family in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_threads ",
            "process_start_time_seconds ",
            "process_open_fds ",
        ] {
            let line = text.lines().find(|line| line.starts_with(family));
            assert!(
                line.is_some_and(|line| !line.ends_with(" 0")),
                "{family}\n{text}"
            );
        }
    }

    #[test]
    fn the_times_of_the_engine_keep_their_counts_and_their_sum() {
        let mut buckets = [0; BOUNDS_NS.len() + 1];
        (buckets[0], buckets[BOUNDS_NS.len()]) = (3, 1);
        let read = distribution(&Histogram {
            count: 4,
            sum_ns: 61_000_000_000,
            buckets,
        });
        assert_eq!((read.count(), read.sum), (4, 61_000_000_000));
        assert_eq!(read.counts.len(), read.bounds.limits.len() + 1);
    }
}
