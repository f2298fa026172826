//! `penstock up`: puts manifest, components, models and server together, and says what it serves.

use crate::AppOptions;
use crate::access;
use crate::ending;
use crate::jwks;
use crate::listen::Reserved;
use crate::model_events::{note_all, statistics};
use crate::prepare::several;
pub use crate::prepare::{Prepared, prepare, prepare_with};
use crate::pulls::{AtStart, Pulls};
use crate::settings::Settings;
use crate::signals;
use anyhow::Context;
use penstock_admin::{self as admin, Admin, AdminListen};
use penstock_nn::Repository;
use penstock_nn::repository::Readiness;
use penstock_policy::quota::limits::{Algorithm, Limit};
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
    pub door: EntryPointKind,
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
    // All of these come before the components are compiled, because that takes longer.
    let public = Reserved::public(options.listen)?;
    let admin = Reserved::admin(options.admin, settings.admin.as_ref())?;
    let tls = Tls::open(&settings.tls, &options.app.policy)?;
    let audit = Audit::start(&settings.audit, &options.app.state_dir())?;
    let mut prepared = prepare(&options.app, &settings).await?;
    let listener = public.listen()?;
    let address = listener.local_addr()?;
    let pulls = Pulls::open(&options.app, &settings, &prepared.models)?;
    let token = tell_components(&mut prepared.source, &settings, address);
    for warning in access::warnings(&settings, &options.app.policy, Some(address)) {
        tracing::warn!("{warning}");
    }
    let admin = match admin {
        Some(reserved) => Some(open_admin(reserved, &options, &prepared)?),
        None => None,
    };
    log_stores(&settings, &prepared.source.stores);
    let engine = prepared.component.engine();
    let _ticker = Ticker::start(engine).context("cannot start the epoch thread")?;
    let entry = open_entry_point(options.door, &prepared, &settings)?;
    // Idle instances that remember old models may hold much memory. They go when the models change.
    let retiring = retire_with(&entry, &prepared.repository);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let following = tls.clone().map(|tls| tokio::spawn(tls.follow()));
    // Components that open the models themselves have none to load.
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
    let administrating = admin.map(Admin::serve);
    let key_sets = fetch_key_sets(&settings, &options, &prepared.source.stores);
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
    log_end(&server, &prepared.repository, left);
    Ok(())
}

/// Tells components of this server through their environment. Returns the token that its own headers begin with.
fn tell_components(
    source: &mut InstanceSource,
    settings: &Settings,
    address: SocketAddr,
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
    token
}

/// Makes the admin API, on the address that was reserved for it.
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

/// Logs where entries are kept, and how limits are counted.
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
    let door_settings = EntryPointSettings {
        retained_bytes: if prepared.runs_models {
            RETAINED_BYTES
        } else {
            // What an instance holds then is models, and opening them again for each request is dearer.
            settings.instances.memory_bytes
        },
        count: settings.instances.count,
        max_reuse: settings.instances.max_reuse,
        total_timeout: Duration::from_millis(settings.server.total_timeout_ms),
    };
    let pre = link(&prepared.component)
        .map_err(|e| anyhow::anyhow!("cannot link the application: {e:#}"))?;
    let source = prepared.source.clone();
    match kind {
        EntryPointKind::Direct => {
            Direct::new(pre, source, door_settings).map(|door| EntryPoint::Direct(Arc::new(door)))
        }
        EntryPointKind::Http => Http::new(pre, source, door_settings).map(EntryPoint::Http),
    }
    .map_err(|e| anyhow::anyhow!("the application has no such door: {e:#}"))
}

/// The settings of the server, within what instances can hold and with time left to end the process.
fn server_settings(settings: &Settings) -> ServerSettings {
    let mut own = settings.server.clone();
    own.max_body_bytes = settings.body_limit();
    let drain = Duration::from_millis(settings.server.drain_timeout_ms);
    let for_requests = drain - ending::closing(drain);
    own.drain_timeout_ms = u64::try_from(for_requests.as_millis()).unwrap_or(u64::MAX);
    if own.max_body_bytes < settings.server.max_body_bytes {
        tracing::warn!(
            "bodies of more than {} bytes are refused, although server.max_body_bytes is {}: an instance of \
             instances.memory_bytes = {} has no room for the tensors of a larger one",
            own.max_body_bytes,
            settings.server.max_body_bytes,
            settings.instances.memory_bytes
        );
    }
    own
}

fn log_application(prepared: &Prepared, origin: &str) {
    tracing::info!(
        "{} {} on {origin} ({}); models are {}",
        prepared.manifest.application.name,
        prepared.manifest.application.version,
        prepared.compiled,
        if prepared.runs_models {
            "loading, /ready tells when they are"
        } else {
            "opened by the components that run them, when they are first asked for"
        },
    );
}

/// Loads the models, says when they are loaded, and follows their files.
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
        // Beside each other: one model that takes long to load must not keep changes to others from being seen.
        let followed = async {
            if runs_models {
                repository.run(poll).await;
            }
        };
        tokio::join!(served, followed);
    }
}

/// Keeps the key sets of token issuers fresh, where the policy names any, in the store that the auth component reads.
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
        tracing::warn!("{left} connections were still open when the drain's time ran out");
    }
    for line in statistics(repository) {
        tracing::info!("{line}");
    }
    let counts = server.door().counts();
    tracing::info!(
        "stopped: {} instances made, {} live, {} requests trapped",
        counts.created(),
        counts.live(),
        counts.trapped()
    );
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
            evicted,
            unloaded,
            failed,
        } = repository.readiness();
        // What an operator unloaded is not broken.
        let others = ready + loading + evicted + unloaded;
        (failed > 0 && others == 0).then(|| "every model failed to load".into())
    })
}

/// Lets go of idle instances whenever the models change. Behind the HTTP door they go by themselves.
fn retire_with(door: &EntryPoint, repository: &Repository) -> tokio::task::JoinHandle<()> {
    let mut generations = repository.generations();
    let direct = match door {
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
