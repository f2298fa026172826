//! Models from elsewhere: pulled while the server starts, and by `penstock models pull`, `verify` and `prune`.

use crate::settings::Settings;
use crate::{AppOptions, prepare};
use penstock_admin::client::columns;
use penstock_app::{self as app, Manifest, Serving};
use penstock_core::clock::rfc3339;
use penstock_nn::Repository;
use penstock_sources::plan::UpToDateReason;
use penstock_sources::progress::human;
use penstock_sources::pull::cache_folder;
pub use penstock_sources::{Address, Digest, Source, SourceSettings};
use penstock_sources::{Outcome, Progress, Puller, install};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The folder of the cache in the state directory.
const CACHE: &str = "models";
/// Time between two lines about one download, if no bar is drawn.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Time between two states of a bar.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Number of character cells of a progress bar.
const BAR_CELLS: u64 = 24;

/// Environment variables that have a value.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns every version for which the policy has a source. The settings were checked before.
fn sources(settings: &Settings, policy: &Path) -> anyhow::Result<Vec<Source>> {
    let mut all = Vec::new();
    for source in &settings.models.sources {
        let found = source.sources(folder_of(policy));
        all.extend(found.map_err(|(setting, why)| anyhow::anyhow!("`{setting}` {why}"))?);
    }
    Ok(all)
}

/// The folder that the policy's relative paths are in.
fn folder_of(policy: &Path) -> &Path {
    match policy.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn puller(
    models: &Path,
    state_dir: &Path,
    policy: &Path,
    settings: &Settings,
) -> anyhow::Result<Puller> {
    let (cache, folder) = (state_dir.join(CACHE), folder_of(policy));
    Ok(Puller::new(
        models,
        &cache,
        folder,
        &settings.models.pull,
        Arc::new(environment),
    )?)
}

/// The pulls of a starting server.
#[derive(Default)]
pub(crate) struct AtStart {
    /// The state of each missing model's pull, as text.
    waiting: Mutex<BTreeMap<(String, u64), String>>,
    stop: AtomicBool,
}

impl AtStart {
    /// Returns why the server is not ready, if a model that was never installed is still being pulled.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        let ((name, version), state) = waiting.first_key_value()?;
        let more = match waiting.len() {
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        Some(format!(
            "the server is pulling model {name} version {version} ({state}){more}"
        ))
    }

    /// Ends pulls at their next step.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn say(&self, source: &Source, text: String) {
        let mut waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(state) = waiting.get_mut(&(source.name.clone(), source.version)) {
            *state = text;
        }
    }

    fn done(&self, source: &Source) {
        let mut waiting = self.waiting.lock().unwrap_or_else(|e| e.into_inner());
        waiting.remove(&(source.name.clone(), source.version));
    }
}

/// The pulls of a server, with their sources and state.
pub(crate) struct Pulls {
    sources: Vec<Source>,
    puller: Puller,
    at_once: usize,
    state: Arc<AtStart>,
}

impl Pulls {
    /// Opens the pulls of the policy. Returns `None` if it has none.
    pub(crate) fn open(
        options: &AppOptions,
        settings: &Settings,
        models: &Path,
    ) -> anyhow::Result<Option<Self>> {
        let sources = sources(settings, &options.policy)?;
        if sources.is_empty() {
            return Ok(None);
        }
        let state = AtStart::default();
        {
            let mut waiting = state.waiting.lock().unwrap_or_else(|e| e.into_inner());
            for source in &sources {
                let folder = models.join(&source.name).join(source.version.to_string());
                // An installed model serves until the newer one is installed.
                if !folder.exists() {
                    waiting.insert(
                        (source.name.clone(), source.version),
                        "it is queued".to_owned(),
                    );
                }
            }
        }
        Ok(Some(Self {
            sources,
            puller: puller(models, &options.state_dir(), &options.policy, settings)?,
            at_once: settings.models.pull.at_once,
            state: Arc::new(state),
        }))
    }

    /// The state of the pulls, for `/ready`.
    pub(crate) fn state(&self) -> Arc<AtStart> {
        self.state.clone()
    }

    /// Pulls all, a few at a time, and loads the installed versions. One that fails or takes long delays no other.
    pub(crate) async fn run(self, repository: Arc<Repository>, runs_models: bool) {
        let turns = Arc::new(Semaphore::new(self.at_once));
        let pulls = self.sources.into_iter().map(|source| {
            let (turns, puller, state) = (turns.clone(), self.puller.clone(), self.state.clone());
            let repository = repository.clone();
            tokio::spawn(async move {
                let turn = turns.acquire_owned().await;
                let progress = Logged { source: source.clone(), state: state.clone(), last: Mutex::new(Instant::now()) };
                let pulling = source.clone();
                let pulled = tokio::task::spawn_blocking(move || puller.pull(&pulling, &progress)).await;
                drop(turn);
                let Source { name, version, from, .. } = &source;
                let installed = match pulled {
                    Ok(Ok(outcome)) => {
                        tracing::info!("model {name} version {version}: {}", told(&outcome, from));
                        if let Some(why) = &outcome.offline {
                            tracing::warn!("model {name} version {version}: its source could not be reached: {why}");
                        }
                        for file in outcome.installed.iter().flat_map(|installed| &installed.kept) {
                            tracing::warn!(
                                "model {name}: {file} differs from the source's file. It was kept, because it was not pulled \
                                 or was edited since then"
                            );
                        }
                        outcome.installed.is_some()
                    }
                    Ok(Err(error)) => {
                        tracing::error!("model {name} version {version}: not pulled from {from}: {error}");
                        false
                    }
                    Err(_) => {
                        tracing::error!("model {name} version {version}: not pulled: the pull panicked");
                        false
                    }
                };
                if installed && runs_models {
                    state.say(&source, "it is loading".to_owned());
                    // The repository's events report the result.
                    let _ = repository.load_version(name, *version).await;
                }
                state.done(&source);
            })
        });
        for pull in pulls.collect::<Vec<_>>() {
            let _ = pull.await;
        }
    }
}

/// Describes the result of a pull.
fn told(outcome: &Outcome, from: &impl std::fmt::Display) -> String {
    let signed = if outcome.signed {
        ", signature good"
    } else {
        ""
    };
    let sum = format!("sha256 {}{signed}", outcome.sha256);
    match (outcome.kept, &outcome.installed) {
        (Some(UpToDateReason::Pinned), _) => format!("already installed, as pinned ({sum})"),
        (Some(UpToDateReason::Same), _) => format!("{from} has nothing newer ({sum})"),
        (Some(UpToDateReason::Offline), _) => format!("serving the installed model ({sum})"),
        (None, _) if outcome.cached => format!("installed from the cache ({sum})"),
        (None, Some(installed)) if installed.replaced => {
            format!(
                "replaced with the present content of {from}, {} fetched ({sum})",
                human(outcome.fetched_bytes)
            )
        }
        (None, _) => format!(
            "pulled from {from}, {} fetched ({sum})",
            human(outcome.fetched_bytes)
        ),
    }
}

/// Reports progress to the log and to `/ready`.
struct Logged {
    source: Source,
    state: Arc<AtStart>,
    last: Mutex<Instant>,
}

impl Progress for Logged {
    fn step(&self, text: &str) {
        let Source { name, version, .. } = &self.source;
        tracing::debug!("model {name} version {version}: {text}");
        // It becomes part of a header, which takes ASCII only.
        let plain = |c: char| {
            if c.is_ascii() && !c.is_control() {
                c
            } else {
                '?'
            }
        };
        self.state
            .say(&self.source, text.chars().map(plain).collect());
    }

    fn bytes(&self, _: &str, done: u64, total: Option<u64>) {
        let text = amount(done, total);
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let Source { name, version, .. } = &self.source;
            tracing::info!("model {name} version {version}: {text} fetched");
        }
        self.state.say(&self.source, text);
    }

    fn retry(&self, text: &str) {
        let Source { name, version, .. } = &self.source;
        tracing::warn!("model {name} version {version}: {text}");
    }

    fn cancelled(&self) -> bool {
        self.state.stop.load(Ordering::Relaxed)
    }
}

fn amount(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{} of {}", human(done), human(total)),
        None => human(done),
    }
}

/// Draws a bar on a terminal. Elsewhere it writes a line now and then.
struct Terminal {
    draws: bool,
    state: Mutex<Drawn>,
}

struct Drawn {
    since: Instant,
    last: Instant,
    file: String,
    first: u64,
    on_screen: bool,
}

impl Terminal {
    fn new() -> Self {
        let now = Instant::now();
        let state = Drawn {
            since: now,
            last: now,
            file: String::new(),
            first: 0,
            on_screen: false,
        };
        Self {
            draws: std::io::stderr().is_terminal(),
            state: Mutex::new(state),
        }
    }

    fn line(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let clear = if std::mem::take(&mut state.on_screen) {
            "\r\x1b[K"
        } else {
            ""
        };
        let plain: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let _ = writeln!(std::io::stderr(), "{clear}{plain}");
    }

    fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if std::mem::take(&mut state.on_screen) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Progress for Terminal {
    fn step(&self, text: &str) {
        self.line(text);
    }

    fn bytes(&self, file: &str, done: u64, total: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let now = Instant::now();
        if state.file != file {
            let (file, on_screen) = (file.to_owned(), state.on_screen);
            *state = Drawn {
                since: now,
                last: now,
                file,
                first: done,
                on_screen,
            };
        }
        let finished = total == Some(done);
        let every = if self.draws { DRAW_EVERY } else { LINE_EVERY };
        if now.duration_since(state.last) < every && !(finished && self.draws) {
            return;
        }
        state.last = now;
        let rate = (done - state.first.min(done)) as f64
            / now.duration_since(state.since).as_secs_f64().max(0.001);
        let name: String = file.chars().filter(|c| !c.is_control()).take(40).collect();
        let text = bar(&name, done, total, rate as u64);
        if self.draws {
            state.on_screen = true;
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    fn retry(&self, text: &str) {
        self.line(text);
    }
}

/// One state of a bar.
fn bar(name: &str, done: u64, total: Option<u64>, rate: u64) -> String {
    let rate = format!("{}/s", human(rate));
    let Some(total) = total.filter(|total| *total > 0) else {
        return format!("{name}  {}  {rate}", human(done));
    };
    let part = |of: u64| {
        u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total))
            .unwrap_or(of)
    };
    let full = part(BAR_CELLS);
    let cells: String = (0..BAR_CELLS)
        .map(|cell| if cell < full { '#' } else { '.' })
        .collect();
    format!(
        "{name}  [{cells}] {:>3} %  {}  {rate}",
        part(100),
        amount(done, Some(total))
    )
}

/// The options of the commands.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The application, with its models directory and its policy.
    pub app: AppOptions,
    /// Whether to print JSON instead of text.
    pub json: bool,
}

impl PullOptions {
    /// Returns the models directory: the one that was named, or the one that the manifest mounts.
    fn models(&self) -> anyhow::Result<PathBuf> {
        if let Some(named) = &self.app.models {
            return Ok(named.clone());
        }
        let mut mounts = Vec::new();
        if self.app.app.exists() {
            let text = |findings: Vec<app::Finding>| {
                let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
                anyhow::anyhow!(
                    "the models directory is unknown:\n{}\nname it with --models",
                    lines.join("\n")
                )
            };
            let manifest = Manifest::load(&self.app.app, Serving::default()).map_err(text)?;
            let root = prepare::root_component(&manifest)?.to_owned();
            mounts = app::visible(&manifest, &root, &[prepare::POLICY_FILE])
                .map_err(text)?
                .directories;
        }
        Ok(prepare::models_directory(&self.app, &mut mounts))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        Settings::load(&self.app.policy).map_err(|findings| {
            let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", lines.join("\n"))
        })
    }
}

fn finish(work: impl FnOnce() -> anyhow::Result<bool>) -> ExitCode {
    match work() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `penstock models pull`: one source, or all sources of the policy if none is given.
pub fn pull(options: &PullOptions, source: Option<SourceSettings>) -> ExitCode {
    finish(|| {
        let settings = options.settings()?;
        let models = options.models()?;
        let wanted = match source {
            // Typed paths are relative to the working directory.
            Some(source) => source
                .sources(Path::new(""))
                .map_err(|(setting, why)| anyhow::anyhow!("{} {why}", flag(setting)))?,
            None => sources(&settings, &options.app.policy)?,
        };
        if wanted.is_empty() {
            anyhow::bail!(
                "nothing to pull: write an address behind `penstock models pull`, or [[models.sources]] in {}",
                options.app.policy.display()
            );
        }
        let puller = puller(
            &models,
            &options.app.state_dir(),
            &options.app.policy,
            &settings,
        )?;
        let mut all = true;
        for source in &wanted {
            let terminal = Terminal::new();
            let pulled = puller.pull(source, &terminal);
            terminal.clear();
            let Source {
                name,
                version,
                from,
                ..
            } = source;
            match pulled {
                Ok(outcome) => report(options, source, &outcome, &models)?,
                Err(error) => {
                    all = false;
                    eprintln!(
                        "error: model {name} version {version} was not pulled from {from}: {error}"
                    );
                }
            }
        }
        Ok(all)
    })
}

/// The setting's name on the command line.
fn flag(setting: &str) -> String {
    match setting {
        "from" => "the address".to_owned(),
        other => format!("--{}", other.replace('_', "-")),
    }
}

fn report(
    options: &PullOptions,
    source: &Source,
    outcome: &Outcome,
    models: &Path,
) -> anyhow::Result<()> {
    let Source {
        name,
        version,
        from,
        ..
    } = source;
    let mut out = std::io::stdout().lock();
    if options.json {
        let line = json!({
            "model": name, "version": version, "from": from.to_string(), "sha256": outcome.sha256.to_string(),
            "identity": outcome.identity, "changed": outcome.installed.is_some(), "from_cache": outcome.cached,
            "offline": outcome.offline, "signed": outcome.signed, "fetched_bytes": outcome.fetched_bytes,
            "files": outcome.files, "kept": outcome.installed.as_ref().map(|installed| &installed.kept),
        });
        return Ok(writeln!(out, "{line}")?);
    }
    writeln!(
        out,
        "model {name} version {version}: {}",
        told(outcome, from)
    )?;
    if let Some(why) = &outcome.offline {
        writeln!(out, "  its source could not be reached: {why}")?;
    }
    for file in outcome
        .installed
        .iter()
        .flat_map(|installed| &installed.kept)
    {
        writeln!(out, "{file} differs from the source's file; it was kept")?;
    }
    let folder = models.join(name);
    writeln!(
        out,
        "  in {}: {}",
        folder.join(version.to_string()).display(),
        outcome.files.join(", ")
    )?;
    if !outcome.has_contract {
        writeln!(
            out,
            "  the source has no model.toml; write {}",
            folder.join("model.toml").display()
        )?;
    }
    if source.sha256.is_none() {
        writeln!(
            out,
            "  to pin it: --sha256 {0}, or sha256 = \"{0}\" in [[models.sources]]",
            outcome.sha256
        )?;
    }
    Ok(())
}

/// Returns the state of a pulled version. `hash` says that its files were read.
fn state_of(verification: &install::Verification, pin: Option<Digest>, hash: bool) -> &'static str {
    if !verification.faults.is_empty() {
        "changed"
    } else if pin.is_some_and(|pin| pin != verification.record.sha256) {
        "not as pinned"
    } else if !verification.edited.is_empty() {
        "edited"
    } else if hash {
        "good"
    } else {
        "there"
    }
}

/// `penstock models verify`, and `penstock models list --sources`, which does not read the files.
pub fn verify(options: &PullOptions, hash: bool) -> ExitCode {
    finish(|| {
        let settings = options.settings()?;
        let models = options.models()?;
        let wanted = sources(&settings, &options.app.policy)?;
        let verifications = install::verify(&models, hash)?;
        let mut good = true;
        let mut out = std::io::stdout().lock();
        let head = [
            "MODEL", "VERSION", "FROM", "SHA256", "PINNED", "PULLED", "STATE",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        let mut seen = BTreeSet::new();
        let mut faults = Vec::new();
        for verification in &verifications {
            seen.insert((verification.name.clone(), verification.version));
            let source = wanted
                .iter()
                .find(|one| one.name == verification.name && one.version == verification.version);
            let pin = source.and_then(|source| source.sha256);
            let state = state_of(verification, pin, hash);
            good &= !matches!(state, "changed" | "not as pinned");
            let pulled = rfc3339(verification.record.pulled_s.saturating_mul(1000));
            if options.json {
                let line = json!({
                    "model": verification.name, "version": verification.version, "from": verification.record.from,
                    "sha256": verification.record.sha256.to_string(), "pinned": pin.map(|pin| pin.to_string()),
                    "identity": verification.record.identity, "signed_by": verification.record.signed_by, "pulled": pulled,
                    "state": state, "faults": verification.faults, "edited": verification.edited,
                });
                writeln!(out, "{line}")?;
                continue;
            }
            lines.push(vec![
                verification.name.clone(),
                verification.version.to_string(),
                verification.record.from.clone(),
                verification.record.sha256.to_string()[..16].to_owned(),
                if pin.is_some() { "yes" } else { "no" }.to_owned(),
                pulled,
                state.to_owned(),
            ]);
            let whose = format!("{} version {}", verification.name, verification.version);
            faults.extend(
                verification
                    .faults
                    .iter()
                    .map(|fault| format!("{whose}: {fault}")),
            );
            faults.extend(
                verification
                    .edited
                    .iter()
                    .map(|file| format!("{whose}: {file} was edited since it was pulled")),
            );
        }
        for source in wanted
            .iter()
            .filter(|one| !seen.contains(&(one.name.clone(), one.version)))
        {
            good = false;
            if options.json {
                let pin = source.sha256.map(|pin| pin.to_string());
                let (model, version, from) =
                    (&source.name, source.version, source.from.to_string());
                let line = json!({ "model": model, "version": version, "from": from, "pinned": pin, "state": "missing" });
                writeln!(out, "{line}")?;
                continue;
            }
            let dash = || "-".to_owned();
            let pinned = if source.sha256.is_some() { "yes" } else { "no" };
            let (name, version) = (source.name.clone(), source.version.to_string());
            lines.push(vec![
                name,
                version,
                source.from.to_string(),
                dash(),
                pinned.to_owned(),
                dash(),
                "missing".to_owned(),
            ]);
        }
        if !options.json {
            if lines.len() == 1 {
                writeln!(out, "no model in {} was pulled", models.display())?;
            } else {
                columns(&lines, head.len(), &mut out)?;
            }
            for fault in faults {
                writeln!(out, "{fault}")?;
            }
        }
        Ok(good || !hash)
    })
}

/// Runs `penstock models prune`: removes cached files that no source and no installed version needs. `dry` only counts them.
pub fn prune(options: &PullOptions, dry: bool) -> ExitCode {
    finish(|| {
        let settings = options.settings()?;
        let models = options.models()?;
        let wanted = sources(&settings, &options.app.policy)?;
        let mut keys: BTreeSet<String> = wanted.iter().map(Puller::key).collect();
        let mut used = BTreeSet::new();
        for verification in install::verify(&models, false)? {
            keys.insert(verification.record.source);
            used.extend(
                verification
                    .record
                    .files
                    .values()
                    .chain(verification.record.beside.values())
                    .map(|blob| blob.sha256),
            );
        }
        let default = options.app.state_dir().join(CACHE);
        let folder = cache_folder(
            &settings.models.pull,
            folder_of(&options.app.policy),
            &default,
        );
        let pruned = penstock_sources::cache::Cache::open(&folder)?.prune(&keys, &used, dry)?;
        let mut out = std::io::stdout().lock();
        if options.json {
            let line: Value = json!({ "removed": pruned.files, "freed_bytes": pruned.bytes, "kept": pruned.kept, "dry": dry });
            writeln!(out, "{line}")?;
            return Ok(true);
        }
        let would = if dry { "would remove" } else { "removed" };
        writeln!(
            out,
            "{would} {} files and free {}; {} files stay in {}",
            pruned.files,
            human(pruned.bytes),
            pruned.kept,
            folder.display()
        )?;
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn a_bar_shows_how_far_a_download_is() {
        assert_eq!(
            bar("model.onnx", 5_000_000, Some(20_000_000), 1_500_000),
            "model.onnx  [######..................]  25 %  5.0 MB of 20.0 MB  1.5 MB/s"
        );
        assert_eq!(bar("m", 10, None, 1), "m  10 B  1 B/s");
        assert!(bar("m", 30, Some(20), 1).contains("100 %"));
    }
}
