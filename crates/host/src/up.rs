//! `penstock up`: puts manifest, components, models and server together, and says what it serves.

use crate::AppOptions;
use crate::access;
use crate::admin::{self, Admin, AdminListen};
use crate::app::{self, Cached, Finding, Manifest};
use crate::audit::Audit;
use crate::doors::{Direct, DoorKind, DoorSettings, Http, RETAINED_BYTES, link};
use crate::ending;
use crate::engine::{self, Ticker};
use crate::jwks;
use crate::kv::{self, Durability, ModelStore, RuntimeConfig, StoreConfig, Stores};
use crate::pulls::{AtStart, Pulls};
use crate::secrets;
use crate::server::{Door, Fittings, NotReady, Server};
use crate::settings::Settings;
use crate::state::InstanceSource;
use crate::tls::Tls;
use crate::variables::{self, Variables};
use anyhow::Context;
use penstock_core::model_store;
use penstock_kv::Store;
use penstock_nn::repository::{Event, EventKind, Readiness};
use penstock_nn::{Backends, Repository};
use penstock_policy::auth::api_key::Pepper;
use penstock_policy::auth::token::Issuers;
use penstock_policy::quota::limits::{Algorithm, Limit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Where a gate expects the models directory.
const MODELS_MOUNT: &str = "/models";

/// Where components find the operator's policy, whichever file it is.
pub(crate) const POLICY_FILE: &str = "/penstock.toml";

/// Where components find what the server's own headers begin with.
const HOST_TOKEN: &str = "PENSTOCK_HOST_TOKEN";

/// The store that the auth component keeps keys in.
const KEY_STORE: &str = admin::STORE;

/// The variable by which components hear that others than this machine reach the server.
const HOST_LISTENER: &str = "PENSTOCK_LISTENER";

/// The variable by which components hear that there is an audit log to tell of.
const HOST_AUDITS: &str = "PENSTOCK_AUDIT";

/// What `up` is told.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// What to serve.
    pub app: AppOptions,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Which door requests go through.
    pub door: DoorKind,
    /// Where the admin API listens, whatever the policy says.
    pub admin: Option<AdminListen>,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(options: UpOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(serve(options));
    // What is still running after a drain is not waited for.
    runtime.shutdown_timeout(CLOSING);
    ending::with(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// The longest that tasks are waited for after a drain.
const CLOSING: Duration = Duration::from_millis(500);

async fn serve(options: UpOptions) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut settings = Settings::load(&options.app.policy).map_err(several)?;
    let is_local = options.listen.ip().is_loopback();
    settings.models.derive.get_or_insert(is_local);
    // Before the components are compiled, because that takes longer.
    let tls = Tls::open(&settings.tls, &options.app.policy)?;
    let audit = Audit::start(&settings.audit, &options.app.state_dir())?;
    let prepared = prepare(&options.app, &settings).await?;
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; choose another --listen",
            options.listen
        )
    })?;
    let address = listener.local_addr()?;
    let Prepared {
        manifest,
        component,
        mut source,
        repository,
        models,
        backends,
        runs_models,
        compiled,
        ..
    } = prepared;
    let pulls = Pulls::open(&options.app, &settings, &models)?;
    let token = format!("{:032x}", rand::random::<u128>());
    source
        .environment
        .push((HOST_TOKEN.to_owned(), token.clone()));
    if !address.ip().is_loopback() {
        let public = (HOST_LISTENER.to_owned(), "public".to_owned());
        source.environment.push(public);
    }
    if settings.audit.path.is_some() {
        source
            .environment
            .push((HOST_AUDITS.to_owned(), "1".to_owned()));
    }
    for warning in access::warnings(&settings, &options.app.policy, Some(address)) {
        tracing::warn!("{warning}");
    }
    let admin_listen = match options.admin {
        Some(AdminListen::Off) => None,
        Some(AdminListen::At(address)) => Some(address),
        None => settings.admin.as_ref().map(|admin| admin.listen),
    };
    let admin = match admin_listen {
        Some(listen) => {
            let state_dir = options.app.state_dir();
            let models = admin::rollouts::Models {
                repository: repository.clone(),
                directory: models.clone(),
            };
            Some(Admin::open(listen, &manifest, &source.stores, models, &state_dir).await?)
        }
        None => None,
    };
    // Where the auth component reads them, and where there is somebody whose keys are sets.
    let key_store = (settings.auth.issuers.iter())
        .any(|issuer| issuer.jwks_url.is_some() || issuer.jwks_file.is_some())
        .then(|| source.stores.store(KEY_STORE).cloned())
        .flatten();
    for line in source.stores.describe() {
        tracing::info!("{line}");
    }
    for (fallen_back, line) in limit_lines(&settings, &source.stores) {
        if fallen_back {
            tracing::warn!("{line}");
        } else {
            tracing::info!("{line}");
        }
    }
    let _ticker = Ticker::start(component.engine()).context("cannot start the epoch thread")?;
    let door_settings = DoorSettings {
        retained_bytes: if runs_models {
            RETAINED_BYTES
        } else {
            // What an instance holds then is models, and opening them again for each request is dearer.
            settings.instances.memory_bytes
        },
        count: settings.instances.count,
        max_reuse: settings.instances.max_reuse,
        total_timeout: Duration::from_millis(settings.server.total_timeout_ms),
    };
    let pre =
        link(&component).map_err(|e| anyhow::anyhow!("cannot link the application: {e:#}"))?;
    let door = match options.door {
        DoorKind::Direct => {
            Direct::new(pre, source, door_settings).map(|door| Door::Direct(Arc::new(door)))
        }
        DoorKind::Http => Http::new(pre, source, door_settings).map(Door::Http),
    }
    .map_err(|e| anyhow::anyhow!("the application has no such door: {e:#}"))?;
    // What waits and is behind the models goes at once: what they remember of the old ones may be large.
    let retiring = retire_with(&door, &repository);
    let mut server_settings = settings.server.clone();
    server_settings.max_body_bytes = settings.body_limit();
    let drain = Duration::from_millis(settings.server.drain_timeout_ms);
    let for_requests = drain - ending::closing(drain);
    server_settings.drain_timeout_ms = u64::try_from(for_requests.as_millis()).unwrap_or(u64::MAX);
    if server_settings.max_body_bytes < settings.server.max_body_bytes {
        tracing::warn!(
            "bodies of more than {} bytes are refused, although server.max_body_bytes is {}: an instance of \
             instances.memory_bytes = {} has no room for the tensors of a larger one",
            server_settings.max_body_bytes,
            settings.server.max_body_bytes,
            settings.instances.memory_bytes
        );
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let following = tls.clone().map(|tls| tokio::spawn(tls.follow()));
    // Components that open the models themselves have none to load.
    let loaded = Arc::new(AtomicBool::new(!runs_models));
    let fittings = Fittings {
        tls,
        audit: audit.clone(),
        token: Some(token),
        not_ready: Some(not_ready(
            repository.clone(),
            loaded.clone(),
            pulls.as_ref().map(Pulls::state),
        )),
    };
    let server = Server::with(door, server_settings, fittings);
    tracing::info!(
        "{} {} on {scheme}://{address} ({compiled}); models are {}",
        manifest.application.name,
        manifest.application.version,
        if runs_models {
            "loading, /ready tells when they are"
        } else {
            "opened by the components that run them, when they are first asked for"
        },
    );
    let pull_state = pulls.as_ref().map(Pulls::state);
    let pulling = pulls.map(|pulls| tokio::spawn(pulls.run(repository.clone(), runs_models)));
    let events = repository.events();
    let noting = tokio::spawn(note_all(events));
    let repository_at_end = repository.clone();
    let loading = tokio::spawn({
        let repository = repository.clone();
        let poll = match settings.models.poll_interval_ms {
            0 => None,
            interval_ms => Some(Duration::from_millis(interval_ms)),
        };
        async move {
            let served = async {
                if runs_models {
                    repository.load_all(|_| {}).await;
                    loaded.store(true, Ordering::Relaxed);
                    for (name, version) in &backends {
                        tracing::info!("backend {name} {version}");
                    }
                }
                tracing::info!(
                    "serving {scheme}://{address} after {} ms; API in README.md, errors at {scheme}://{address}/errors",
                    started.elapsed().as_millis()
                );
            };
            // Beside each other: one model that takes long to load must not keep changes to others from being seen.
            let followed = async {
                if runs_models {
                    repository.run(poll).await;
                }
            };
            tokio::join!(served, followed);
        }
    });
    ending::watch(drain)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut again = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let (stopped, stopping) = tokio::sync::oneshot::channel();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
        let _ = stopped.send(());
    };
    let hurry = async move {
        // These have seen the first signal, too.
        let _ = stopping.await;
        for _ in 0..2 {
            tokio::select! {
                _ = again.0.recv() => {}
                _ = again.1.recv() => {}
            }
        }
        tracing::info!("a second signal: the listener closes now");
    };
    let administrating = admin.map(Admin::serve);
    let key_sets = key_store.map(|store| {
        let folder = options
            .app
            .policy
            .parent()
            .unwrap_or(Path::new(""))
            .to_owned();
        tokio::spawn(jwks::keep_fresh(settings.auth.clone(), folder, store))
    });
    let left = server.serve_until(listener, stop, hurry).await;
    if let Some(administrating) = administrating {
        administrating.stop().await;
    }
    if let Some(pulls) = pull_state {
        pulls.stop();
    }
    for task in [loading, noting, retiring]
        .into_iter()
        .chain(pulling)
        .chain(following)
        .chain(key_sets)
    {
        task.abort();
    }
    if let Some(audit) = audit {
        audit.close();
    }
    if left > 0 {
        tracing::warn!("{left} connections were still open when the drain's time ran out");
    }
    for line in statistics(&repository_at_end) {
        tracing::info!("{line}");
    }
    let counts = server.door().counts();
    tracing::info!(
        "stopped: {} instances made, {} live, {} requests trapped",
        counts.created(),
        counts.live(),
        counts.trapped()
    );
    Ok(())
}

/// Says why a server whose models this host runs takes no new work: it has not tried all that were there at its start, or
/// none of those it has can answer. One that failed beside others that answer is its own callers' affair.
fn not_ready(
    repository: Arc<Repository>,
    loaded: Arc<AtomicBool>,
    pulls: Option<Arc<AtStart>>,
) -> NotReady {
    Box::new(move || {
        if !loaded.load(Ordering::Relaxed) {
            return Some("the server is loading its models".into());
        }
        if let Some(why) = pulls.as_ref().and_then(|pulls| pulls.not_ready()) {
            return Some(why.into());
        }
        let Readiness {
            ready,
            loading,
            resting,
            unloaded,
            failed,
        } = repository.readiness();
        // What an operator unloaded is not broken.
        let others = ready + loading + resting + unloaded;
        (failed > 0 && others == 0).then(|| "every model failed to load".into())
    })
}

/// Lets go of idle instances whenever the models change. Behind the HTTP door they go by themselves.
fn retire_with(door: &Door, repository: &Repository) -> tokio::task::JoinHandle<()> {
    let mut generations = repository.generations();
    let direct = match door {
        Door::Direct(direct) => Some(direct.clone()),
        Door::Http(_) => None,
    };
    tokio::spawn(async move {
        let Some(direct) = direct else { return };
        while generations.changed().await.is_ok() {
            direct.retire();
        }
    })
}

/// What each model version that was called did, in a line.
fn statistics(repository: &Repository) -> Vec<String> {
    let ms = |ns: u64| {
        if ns == u64::MAX {
            "more than 60000".to_owned()
        } else {
            format!("{:.2}", ns as f64 / 1e6)
        }
    };
    let models = repository.list().into_iter().flat_map(|model| {
        (model.versions.into_iter()).filter_map(move |(version, state)| match state {
            penstock_nn::State::Ready(loaded) => {
                Some((model.name.clone(), version, loaded.stats()))
            }
            _ => None,
        })
    });
    models
        .filter(|(_, _, stats)| stats.total.count > 0)
        .map(|(model, version, stats)| {
            format!(
                "model {model} version {version}: {} calls answered in {} runs of {:.1} items, {} failed, {} refused, {} \
                 left; waited {} ms at p50 and {} at p99, ran {} and {} ms",
                stats.success,
                stats.execution_count,
                stats.inference_count as f64 / stats.execution_count.max(1) as f64,
                stats.failures,
                stats.refusals.refused() + stats.refusals.invalid,
                stats.refusals.cancelled,
                ms(stats.queue.quantile_ns(0.5)),
                ms(stats.queue.quantile_ns(0.99)),
                ms(stats.compute.quantile_ns(0.5)),
                ms(stats.compute.quantile_ns(0.99)),
            )
        })
        .collect()
}

/// Says what becomes of the models.
async fn note_all(mut events: tokio::sync::mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = events.recv().await {
        note(&event);
    }
}

fn note(event: &Event) {
    let Event {
        model,
        version,
        kind,
        text,
    } = event;
    match kind {
        EventKind::Ready | EventKind::Rested | EventKind::Unloaded | EventKind::Removed => {
            tracing::info!("model {model} version {version}: {text}");
        }
        EventKind::Slow | EventKind::Noted | EventKind::Differs => {
            tracing::warn!("model {model} version {version}: {text}");
        }
        EventKind::Failed => tracing::error!("model {model}: not served: {text}"),
        EventKind::Skipped => tracing::warn!("model {model}: {text}"),
        EventKind::Kept if *version == 0 => {
            tracing::error!("model {model}: what served before does so still: {text}");
        }
        EventKind::Kept => {
            tracing::error!(
                "model {model} version {version}: what served before does so still: {text}"
            );
        }
        EventKind::Unseen => tracing::error!("{text}"),
    }
}

/// An application, ready for a door.
pub struct Prepared {
    /// The manifest.
    pub manifest: Manifest,
    /// The composed component, compiled.
    pub component: wasmtime::component::Component,
    /// What instances are made from.
    pub source: InstanceSource,
    /// The models.
    pub repository: Arc<Repository>,
    /// The directory they are in.
    pub models: PathBuf,
    /// The inference backends, each with its version.
    pub backends: Vec<(&'static str, String)>,
    /// Whether the application asks this host to run models; if not, none are loaded.
    pub runs_models: bool,
    /// Whether it was compiled or taken from the cache, in words.
    pub compiled: String,
}

/// Reads, composes and compiles an application, and opens its stores and its models directory.
pub async fn prepare(options: &AppOptions, settings: &Settings) -> anyhow::Result<Prepared> {
    prepare_with(options, settings, async |configs| kv::open(&configs).await).await
}

/// The same, with stores that the caller opens: of those configured, the ones that are granted. A
/// label it leaves out is told `no-such-store`.
pub async fn prepare_with(
    options: &AppOptions,
    settings: &Settings,
    open: impl AsyncFnOnce(
        BTreeMap<String, StoreConfig>,
    ) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>>,
) -> anyhow::Result<Prepared> {
    let state_dir = options.state_dir();
    let manifest = Manifest::load(&options.app, options.nn).map_err(several)?;
    let root = root_component(&manifest)?.to_owned();
    let composed = app::compose(&manifest, &root, provided).map_err(several)?;
    for warning in manifest.warnings.iter().chain(&composed.warnings) {
        tracing::warn!("{warning}");
    }
    // Before the components are compiled, because that takes longer.
    let variables =
        Variables::resolve(&manifest, &root, &state_dir, &secrets::environment).map_err(several)?;
    // The auth component would find the same, with the first request.
    let pepper = variables.get("pepper").filter(|text| !text.is_empty());
    let checked = pepper.map(|text| Pepper::new(text.as_bytes())).transpose();
    let secret = |name: &str| variables.get(name).map(str::to_owned);
    checked
        .and_then(|_| Issuers::new(&settings.auth.issuers, &settings.auth.tiers, secret))
        .map_err(|why| {
            anyhow::anyhow!("[auth] cannot be used: {why}; variables are named in the manifest and given as docs/KEYS.md says")
        })?;
    let mut stores = stores(options, &manifest, &root, &state_dir, open).await?;
    let engine = engine::build(&settings.instances)
        .map_err(|e| anyhow::anyhow!("cannot start the WebAssembly engine: {e:#}; [instances] may ask for more memory than there is"))?;
    let (component, outcome) = app::compile(&engine, &composed.bytes, &state_dir.join("cache"))?;
    let compiled = match outcome.cached {
        Cached::Hit => format!("components from the cache in {} ms", outcome.millis),
        _ => format!("components compiled in {} ms", outcome.millis),
    };
    let app::Visible {
        directories: mut mounts,
        mut files,
    } = app::visible(&manifest, &root, &[POLICY_FILE]).map_err(several)?;
    let models = models_directory(options, &mut mounts);
    let copies = if files.is_empty() {
        None
    } else {
        for file in files.iter_mut().filter(|f| f.guest == POLICY_FILE) {
            file.host = options.policy.clone();
        }
        let folder = tempfile::Builder::new().prefix("penstock-").tempdir()?;
        app::copy(&files, folder.path())?;
        mounts.push(app::Mount {
            host: folder.path().to_owned(),
            guest: "/".to_owned(),
        });
        Some(Arc::new(folder))
    };
    let engines = backends(options)?;
    let backends = engines.list();
    let runs_models = composed.imports.iter().any(|i| i.starts_with("wasi:nn/"));
    let mounted = mounts.iter().any(|mount| mount.guest == MODELS_MOUNT);
    let repository_settings = penstock_nn::Settings {
        launcher: options.launcher.clone(),
        ..settings.models.repository(runs_models && mounted)
    };
    let repository = Arc::new(Repository::open(&models, engines, repository_settings)?);
    // What this host runs, components see as this host has accepted it, and not as the operator is changing it.
    let catalogue = (runs_models && mounted).then(|| {
        mounts.retain(|mount| mount.guest != MODELS_MOUNT);
        MODELS_MOUNT.to_owned()
    });
    let environment = manifest.components[&root]
        .environment
        .clone()
        .into_iter()
        .collect();
    if runs_models {
        // Where components run the models themselves, this host knows nothing of them, and there is no such store.
        let store = ModelStore::new(repository.clone(), settings.models.control);
        stores.insert(
            model_store::LABEL.to_owned(),
            (Arc::new(store), Durability::default()),
        );
    }
    let granted = &manifest.components[&root].key_value_stores;
    let labels = granted.iter().map(|label| label.name.as_str());
    let stores = Stores::grant(labels, stores);
    let source = InstanceSource {
        mounts: mounts
            .into_iter()
            .map(|m| crate::state::Mount {
                host: m.host,
                guest: m.guest,
            })
            .collect(),
        catalogue,
        environment,
        copies,
        repository: repository.clone(),
        stores,
        variables: Arc::new(variables),
        memory_bytes: settings.instances.memory_bytes,
        cpu_time: Duration::from_millis(settings.instances.cpu_time_ms),
    };
    Ok(Prepared {
        manifest,
        component,
        source,
        repository,
        models,
        backends,
        runs_models,
        compiled,
    })
}

/// Opens the stores that a component is granted, by label.
async fn stores(
    options: &AppOptions,
    manifest: &Manifest,
    root: &str,
    state_dir: &Path,
    open: impl AsyncFnOnce(
        BTreeMap<String, StoreConfig>,
    ) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>>,
) -> anyhow::Result<BTreeMap<String, (Arc<dyn Store>, Durability)>> {
    let granted = &manifest.components[root].key_value_stores;
    let config =
        RuntimeConfig::load(options.runtime_config.as_deref(), state_dir).map_err(several)?;
    config.covers(&manifest.path, granted).map_err(several)?;
    let labels = || granted.iter().map(|label| label.name.as_str());
    let mut wanted = config.stores;
    wanted.retain(|label, _| labels().any(|granted| granted == label));
    let durability: BTreeMap<String, Durability> = wanted
        .iter()
        .map(|(label, store)| (label.clone(), store.durability))
        .collect();
    let opened = open(wanted).await?;
    let opened = opened.into_iter().map(|(label, store)| {
        let durability = durability.get(&label).copied().unwrap_or_default();
        (label, (store, durability))
    });
    Ok(opened.collect())
}

/// How each limit is counted and where, and whether that differs from what the policy asks for.
fn limit_lines(settings: &Settings, stores: &Stores) -> Vec<(bool, String)> {
    // As the quota component chooses.
    let store = stores.first_of(&["counters", "default"]);
    let lines = settings.limits.iter().map(|limit| {
        let Limit { name, algorithm, .. } = limit;
        let wants_swap = matches!(
            algorithm,
            Algorithm::TokenBucket | Algorithm::LeakyBucket
        );
        let algorithm = algorithm.as_str();
        match store {
            None => (
                true,
                format!("limit {name}: there is no store `counters` or `default` to count in; grant one in key_value_stores"),
            ),
            Some((label, false)) if wants_swap => (
                true,
                format!(
                    "limit {name}: a sliding window on {label} in place of the {algorithm}, because the store's \
                     compare-and-swap cannot be trusted"
                ),
            ),
            Some((label, _)) => (false, format!("limit {name}: {algorithm} on {label}")),
        }
    });
    lines.collect()
}

/// The inference backends there are: those whose libraries were named, and tract.
pub(crate) fn backends(options: &AppOptions) -> Result<Backends, penstock_nn::NnError> {
    Backends::with(options.onnxruntime.as_deref(), options.openvino.as_deref())
}

/// The component that all paths lead to; this host serves one application with one gate.
pub(crate) fn root_component(manifest: &Manifest) -> anyhow::Result<&str> {
    manifest.route("/").with_context(|| {
        format!(
            "{}: no [[trigger.http]] has the route \"/...\"; name the component that serves all paths",
            manifest.path.display()
        )
    })
}

/// The models directory: the one the operator named, else the one the manifest mounts.
pub(crate) fn models_directory(options: &AppOptions, mounts: &mut Vec<app::Mount>) -> PathBuf {
    let mounted = mounts.iter_mut().find(|m| m.guest == MODELS_MOUNT);
    match (&options.models, mounted) {
        (Some(named), Some(mount)) => {
            mount.host = named.clone();
            named.clone()
        }
        (Some(named), None) => {
            mounts.push(app::Mount {
                host: named.clone(),
                guest: MODELS_MOUNT.to_owned(),
            });
            named.clone()
        }
        (None, Some(mount)) => mount.host.clone(),
        (None, None) => PathBuf::from("models"),
    }
}

/// Whether the host provides an import.
pub(crate) fn provided(import: &str) -> bool {
    const PROVIDED: &[&str] = &[
        "wasi:cli/",
        "wasi:clocks/",
        "wasi:filesystem/",
        "wasi:http/types@0.3",
        "wasi:http/client@0.3",
        "wasi:io/",
        "wasi:nn/",
        "penstock:nn/tensors@0.1.0",
        "wasi:random/",
        "wasi:sockets/",
    ];
    PROVIDED.iter().any(|known| import.starts_with(known))
        || kv::INTERFACES.contains(&import)
        || import == variables::INTERFACE
}

/// Findings as one error, each on lines of its own.
fn several(findings: Vec<Finding>) -> anyhow::Error {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("the application cannot be served:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_provided_in_the_versions_there_are_and_no_other() {
        for import in kv::INTERFACES {
            assert!(provided(import), "{import}");
        }
        assert!(provided(variables::INTERFACE));
        for import in [
            "wasi:keyvalue/watcher@0.2.0-draft2",
            "wasi:keyvalue/store@0.2.0-draft",
            "fermyon:spin/key-value@3.0.0",
            "fermyon:spin/sqlite@2.0.0",
            "fermyon:spin/variables@3.0.0",
            "spin:key-value/key-value@4.0.0",
        ] {
            assert!(!provided(import), "{import}");
        }
    }
}
