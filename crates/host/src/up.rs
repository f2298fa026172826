//! `penstock up`: puts manifest, components, models and server together, and says what it serves.

use crate::AppOptions;
use crate::access;
use crate::admin::{self, Admin, AdminListen};
use crate::audit::Audit;
use crate::doors::{Direct, DoorKind, DoorSettings, Http, RETAINED_BYTES, link};
use crate::ending;
use crate::engine::Ticker;
use crate::jwks;
use crate::kv::Stores;
use crate::prepare::several;
pub use crate::prepare::{Prepared, prepare, prepare_with};
use crate::pulls::{AtStart, Pulls};
use crate::server::{Door, NotReady, Server, ServerOptions};
use crate::settings::Settings;
use crate::tls::Tls;
use anyhow::Context;
use penstock_nn::Repository;
use penstock_nn::repository::{Event, EventKind, Readiness};
use penstock_policy::quota::limits::{Algorithm, Limit};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

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
    let server_options = ServerOptions {
        tls,
        audit: audit.clone(),
        token: Some(token),
        not_ready: Some(not_ready(
            repository.clone(),
            loaded.clone(),
            pulls.as_ref().map(Pulls::state),
        )),
    };
    let server = Server::with(door, server_settings, server_options);
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
