//! `penstock up`: starts manifest, components, models and server together, and logs the models and addresses that it serves.

use crate::AppOptions;
use crate::access;
use crate::ending;
use crate::jwks;
use crate::listen::Reserved;
use crate::metrics::{self, Sources};
use crate::model_events::{note_all, statistics};
use crate::operations;
use crate::prepare::several;
pub use crate::prepare::{Prepared, prepare, prepare_with};
use crate::pulls::{AtStart, Pulls};
use crate::second_server;
use crate::settings::Settings;
use crate::signals;
use crate::webhooks::{Attempts, Running, Webhooks};
use anyhow::Context;
use penstock_admin::scrape::Scrapes;
use penstock_admin::{self as admin, Admin, AdminListen, Listening};
use penstock_app::secrets::Secret;
use penstock_core::metrics::note::HOST_COUNTS;
use penstock_nn::Repository;
use penstock_nn::repository::Readiness;
use penstock_policy::quota::limits::{Algorithm, Limit};
use penstock_runtime::Cached;
use penstock_runtime::engine::Ticker;
use penstock_runtime::entry_points::{
    Direct, EntryPointKind, EntryPointSettings, Http, RETAINED_BYTES, link,
};
use penstock_runtime::kv::Stores;
use penstock_runtime::state::InstanceSource;
use penstock_server::audit::Audit;
use penstock_server::settings::ServerSettings;
use penstock_server::tls::Tls;
use penstock_server::{EntryPoint, NotReady, Server, ServerOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The variable with the prefix of the server's own headers, for components.
const HOST_TOKEN: &str = "PENSTOCK_HOST_TOKEN";

/// Time in which running operations are given back, and webhooks are sent to their end, when the server stops. It is part of
/// the time that ending takes anyway.
const GIVE_BACK_TIME: Duration = Duration::from_millis(500);

/// The store that the auth component keeps keys in.
const KEY_STORE: &str = admin::STORE;

/// The variable that tells components that other machines can reach the server.
const HOST_LISTENER: &str = "PENSTOCK_LISTENER";

/// The variable that tells components that there is an audit log.
const HOST_AUDITS: &str = "PENSTOCK_AUDIT";

/// The variable with the public key of this host's webhooks, for components. Without it this host sends none.
const HOST_WEBHOOK_KEY: &str = "PENSTOCK_WEBHOOK_KEY";

/// The options of `penstock up`, from the command line.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The files of the application.
    pub app: AppOptions,
    /// The address of the API.
    pub listen: SocketAddr,
    /// The address of the admin API. It overrides the policy.
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
    // Tasks that still run after a drain are not waited for.
    runtime.shutdown_timeout(CLOSING);
    ending::with(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Longest wait for tasks after a drain.
const CLOSING: Duration = Duration::from_millis(500);

async fn serve(options: UpOptions) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut settings = Settings::load(&options.app.policy).map_err(several)?;
    let is_local = options.listen.ip().is_loopback();
    settings.models.derive.get_or_insert(is_local);
    // All of these come before the components are compiled, because that takes longer.
    let public = Reserved::public(options.listen)?;
    let admin = Reserved::admin(options.admin, settings.admin.as_ref())?;
    let own = Reserved::metrics(&settings.metrics)?;
    let tls = Tls::open(&settings.tls, &options.app.policy)?;
    let audit = Audit::start(&settings.audit, &options.app.state_dir())?;
    let mut prepared = open_application(&options, &settings).await?;
    let listener = public.listen()?;
    let address = listener.local_addr()?;
    let pulls = Pulls::open(&options.app, &settings, &prepared.models)?;
    let operation_store = prepared.source.stores.store(operations::STORE).cloned();
    let webhooks = Webhooks::open(&options.app, &settings, operation_store.as_ref())?;
    let webhook_key = webhooks.as_ref().map(Webhooks::public_key);
    let measured = admin.is_some() || own.is_some();
    let metrics_token = match measured {
        true => Some(metrics::token(&options.app.state_dir())?),
        false => None,
    };
    let told = HostFacts {
        address,
        webhook_key,
        counts: measured,
    };
    let token = tell_components(&mut prepared.source, &settings, told);
    for warning in access::warnings(&settings, &options.app.policy, Some(address)) {
        tracing::warn!("{warning}");
    }
    let admin = match admin {
        Some(reserved) => Some(open_admin(reserved, &options, &prepared)?),
        None => None,
    };
    log_stores(&settings, &prepared.source.stores);
    let engine = prepared.compiled.component.engine();
    let _ticker = Ticker::start(engine).context("cannot start the epoch thread")?;
    let entry = open_entry_point(options.app.serving.entry_point, &prepared, &settings)?;
    // Idle instances that hold old models may use much memory. They are dropped when the models change.
    let retiring = retire_with(&entry, &prepared.repository);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let following = tls.clone().map(|tls| tokio::spawn(tls.follow()));
    // Components that open the models themselves need no load here.
    let loaded = Arc::new(AtomicBool::new(!prepared.runs_models));
    let pull_state = pulls.as_ref().map(Pulls::state);
    let server_options = ServerOptions {
        tls,
        audit: audit.clone(),
        token: Some(token),
        not_ready: Some(not_ready(
            prepared.repository.clone(),
            loaded.clone(),
            pull_state.clone(),
        )),
        work: operations::work(
            &settings,
            operation_store.as_ref(),
            webhooks.as_ref().map(Webhooks::ends),
        ),
    };
    let server = Server::with(entry, server_settings(&settings), server_options);
    let origin = format!("{scheme}://{address}");
    log_application(&prepared, &origin);
    let repository = &prepared.repository;
    let pulling =
        pulls.map(|pulls| tokio::spawn(pulls.run(repository.clone(), prepared.runs_models)));
    let noting = tokio::spawn(note_all(repository.events()));
    let loading = tokio::spawn(load(&prepared, &settings, loaded, origin, started));
    ending::watch(Duration::from_millis(settings.server.drain_timeout_ms))?;
    let (stop, hurry) = signals::stop_and_hurry()?;
    let attempts = webhooks.as_ref().map(Webhooks::attempts);
    let listening = match metrics_token {
        Some(token) => {
            let scrapes = scrapes(&token, &settings, (&server, &prepared), attempts);
            serve_metrics((admin, own), &settings, &scrapes)?
        }
        None => Vec::new(),
    };
    let key_sets = fetch_key_sets(&settings, &options, &prepared.source.stores);
    let working = operation_store.map(|store| tokio::spawn(operations::run(server.clone(), store)));
    let webhooks = webhooks.map(|webhooks| webhooks.start(server.clone()));
    let stop = async {
        stop.await;
        // Attempts in progress may finish while the server drains.
        if let Some(webhooks) = &webhooks {
            webhooks.stop();
        }
    };
    let left = server.serve_until(listener, stop, hurry).await;
    tokio::join!(stop_operations(&server, working), end_webhooks(webhooks));
    let stopping = listening.into_iter().map(Listening::stop);
    for stopping in stopping.map(tokio::spawn).collect::<Vec<_>>() {
        let _ = stopping.await;
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
    log_end(&server, &prepared.repository, left);
    Ok(())
}

/// Makes the application ready. In the default state directory, a second server gets its own store.
async fn open_application(options: &UpOptions, settings: &Settings) -> anyhow::Result<Prepared> {
    if options.app.state_dir.is_some() {
        return prepare(&options.app, settings).await;
    }
    let port = options.listen.port();
    prepare_with(&options.app, settings, async |configs| {
        second_server::open_stores(configs, port).await
    })
    .await
}

/// Stops the runs of operations, and gives them back to the store.
async fn stop_operations(server: &Server, working: Option<tokio::task::JoinHandle<()>>) {
    server.stop_operations();
    if let Some(mut working) = working
        && tokio::time::timeout(GIVE_BACK_TIME, &mut working)
            .await
            .is_err()
    {
        tracing::warn!("some operations were not given back; they run again after their lease");
        working.abort();
    }
}

/// Ends the attempts to send webhooks.
async fn end_webhooks(webhooks: Option<Running>) {
    if let Some(webhooks) = webhooks {
        webhooks.end(GIVE_BACK_TIME).await;
    }
}

/// Joins the places that metrics come from.
fn scrapes(
    token: &Secret,
    settings: &Settings,
    (server, prepared): (&Arc<Server>, &Prepared),
    webhooks: Option<Arc<Attempts>>,
) -> Arc<Scrapes> {
    let sources = Sources {
        settings: settings.metrics.clone(),
        server: server.clone(),
        repository: prepared.repository.clone(),
        webhooks,
    };
    Scrapes::new(&token.text, metrics::writer(sources))
}

/// Serves the admin API, and the metrics on their own listener, if there is one.
fn serve_metrics(
    (admin, own): (Option<Admin>, Option<Reserved>),
    settings: &Settings,
    scrapes: &Arc<Scrapes>,
) -> anyhow::Result<Vec<Listening>> {
    let mut listening = Vec::new();
    if let Some(own) = own {
        listening.push(metrics::serve(own, &settings.metrics, scrapes.clone())?);
    }
    listening.extend(admin.map(|admin| admin.serve(scrapes.clone())));
    Ok(listening)
}

/// The facts about this server for its components.
struct HostFacts {
    address: SocketAddr,
    webhook_key: Option<String>,
    /// Whether requests are counted by route and model.
    counts: bool,
}

/// Tells components about this server through their environment. Returns the token at the beginning of its headers.
fn tell_components(
    source: &mut InstanceSource,
    settings: &Settings,
    HostFacts {
        address,
        webhook_key,
        counts,
    }: HostFacts,
) -> String {
    let token = format!("{:032x}", rand::random::<u128>());
    let mut tell = |name: &str, value: &str| {
        (source.environment).push((name.to_owned(), value.to_owned()));
    };
    tell(HOST_TOKEN, &token);
    if !address.ip().is_loopback() {
        tell(HOST_LISTENER, "public");
    }
    if settings.audit.path.is_some() {
        tell(HOST_AUDITS, "1");
    }
    if counts {
        tell(HOST_COUNTS, "1");
    }
    if let Some(key) = webhook_key {
        tell(HOST_WEBHOOK_KEY, &key);
    }
    token
}

/// Opens the admin API on the address that was reserved for it.
fn open_admin(
    reserved: Reserved,
    options: &UpOptions,
    prepared: &Prepared,
) -> anyhow::Result<Admin> {
    let store = |label: &str| prepared.source.stores.store(label).cloned();
    let models = admin::rollouts::Models {
        repository: prepared.repository.clone(),
        directory: prepared.models.clone(),
    };
    let state_dir = options.app.state_dir();
    Admin::open(
        reserved.listen()?,
        &prepared.manifest,
        store,
        models,
        &state_dir,
    )
}

/// Logs the stores of all labels, and how limits are counted.
fn log_stores(settings: &Settings, stores: &Stores) {
    for line in stores.describe() {
        tracing::info!("{line}");
    }
    for (fallen_back, line) in limit_lines(settings, stores) {
        if fallen_back {
            tracing::warn!("{line}");
        } else {
            tracing::info!("{line}");
        }
    }
}

/// Links the component and makes the pool of its instances.
fn open_entry_point(
    kind: EntryPointKind,
    prepared: &Prepared,
    settings: &Settings,
) -> anyhow::Result<EntryPoint> {
    let pool_settings = EntryPointSettings {
        retained_bytes: if prepared.runs_models {
            RETAINED_BYTES
        } else {
            // Then instances hold models, and opening these again for each request costs more.
            settings.instances.memory_bytes
        },
        count: settings.instances.count,
        max_reuse: settings.instances.max_reuse,
        total_timeout: Duration::from_millis(settings.server.total_timeout_ms),
    };
    let pre = link(&prepared.compiled)
        .map_err(|e| anyhow::anyhow!("cannot link the application: {e:#}"))?;
    let source = prepared.source.clone();
    match kind {
        EntryPointKind::Direct => Direct::new(pre, source, pool_settings)
            .map(|direct| EntryPoint::Direct(Arc::new(direct))),
        EntryPointKind::Http => Http::new(pre, source, pool_settings).map(EntryPoint::Http),
    }
    .map_err(|e| anyhow::anyhow!("the application lacks this entry point: {e:#}"))
}

/// The settings of the server, within the memory of instances and with time left to end the process.
fn server_settings(settings: &Settings) -> ServerSettings {
    let mut own = settings.server.clone();
    own.max_body_bytes = settings.body_limit();
    let drain = Duration::from_millis(settings.server.drain_timeout_ms);
    let for_requests = drain - ending::closing(drain);
    own.drain_timeout_ms = u64::try_from(for_requests.as_millis()).unwrap_or(u64::MAX);
    if own.max_body_bytes < settings.server.max_body_bytes {
        tracing::warn!(
            "bodies of more than {} bytes are refused, although server.max_body_bytes is {}: an instance of \
             instances.memory_bytes = {} is too small for the tensors of a larger body",
            own.max_body_bytes,
            settings.server.max_body_bytes,
            settings.instances.memory_bytes
        );
    }
    own
}

fn log_application(prepared: &Prepared, origin: &str) {
    let outcome = &prepared.compiled.outcome;
    let compiled = match outcome.cached {
        Cached::Hit => format!("components from the cache in {} ms", outcome.millis),
        _ => format!("components compiled in {} ms", outcome.millis),
    };
    tracing::info!(
        "{} {} on {origin} ({compiled}); models are {}",
        prepared.manifest.application.name,
        prepared.manifest.application.version,
        if prepared.runs_models {
            "loading, /ready tells when they are"
        } else {
            "opened by the components that run them, at the first call"
        },
    );
}

/// Loads the models, reports when they are loaded, and follows their files.
fn load(
    prepared: &Prepared,
    settings: &Settings,
    loaded: Arc<AtomicBool>,
    origin: String,
    started: Instant,
) -> impl Future<Output = ()> + Send + use<> {
    let repository = prepared.repository.clone();
    let backends = prepared.backends.clone();
    let runs_models = prepared.runs_models;
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
                "serving {origin} after {} ms; API in docs/API.md, errors at {origin}/errors",
                started.elapsed().as_millis()
            );
        };
        // In parallel: a model that takes long to load must not delay changes to others.
        let followed = async {
            if runs_models {
                repository.run(poll).await;
            }
        };
        tokio::join!(served, followed);
    }
}

/// Refreshes the key sets of token issuers, if the policy names any, in the store that the auth component reads.
fn fetch_key_sets(
    settings: &Settings,
    options: &UpOptions,
    stores: &Stores,
) -> Option<tokio::task::JoinHandle<()>> {
    let mut issuers = settings.auth.issuers.iter();
    if !issuers.any(|issuer| issuer.jwks_url.is_some() || issuer.jwks_file.is_some()) {
        return None;
    }
    let store = stores.store(KEY_STORE)?.clone();
    let folder = options.app.policy.parent().unwrap_or(Path::new(""));
    let (auth, folder) = (settings.auth.clone(), folder.to_owned());
    Some(tokio::spawn(jwks::keep_fresh(auth, folder, store)))
}

fn log_end(server: &Server, repository: &Repository, left: u64) {
    if left > 0 {
        tracing::warn!("{left} connections were still open at the end of the drain timeout");
    }
    for line in statistics(repository) {
        tracing::info!("{line}");
    }
    let counts = server.entry_point().counts();
    tracing::info!(
        "stopped: {} instances made, {} live, {} requests trapped",
        counts.created(),
        counts.live(),
        counts.trapped()
    );
}

/// Returns why a server whose models this host runs takes no new work: it has not tried all models of its start, or
/// none of them can answer. If others answer, a failed one concerns only its own callers.
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
            evicted,
            unloaded,
            failed,
        } = repository.readiness();
        // A model that an operator unloaded is not broken.
        let others = ready + loading + evicted + unloaded;
        (failed > 0 && others == 0).then(|| "every model failed to load".into())
    })
}

/// Drops idle instances when the models change. With the HTTP entry point they end by themselves.
fn retire_with(entry_point: &EntryPoint, repository: &Repository) -> tokio::task::JoinHandle<()> {
    let mut generations = repository.generations();
    let direct = match entry_point {
        EntryPoint::Direct(direct) => Some(direct.clone()),
        EntryPoint::Http(_) => None,
    };
    tokio::spawn(async move {
        let Some(direct) = direct else { return };
        while generations.changed().await.is_ok() {
            direct.retire();
        }
    })
}

/// Describes how and where each limit is counted, and whether that differs from the policy.
fn limit_lines(settings: &Settings, stores: &Stores) -> Vec<(bool, String)> {
    // The quota component chooses in the same way.
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
                format!("limit {name}: it needs the store `counters` or `default`; add one to key_value_stores"),
            ),
            Some((label, false)) if wants_swap => (
                true,
                format!(
                    "limit {name}: a sliding window on {label} instead of {algorithm}, because the store has no \
                     reliable compare-and-swap"
                ),
            ),
            Some((label, _)) => (false, format!("limit {name}: {algorithm} on {label}")),
        }
    });
    lines.collect()
}
