//! A server: its entry point, its settings, and the places that connections and requests take.

use super::addresses::Addresses;
use super::drain::Phase;
use super::entry_point::EntryPoint;
use super::metered::Metrics;
use crate::audit::Audit;
use crate::proxies::Proxies;
use crate::settings::ServerSettings;
use crate::tls::Tls;
use crate::work::{Work, WorkSettings};
use http::HeaderValue;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Seconds after which a caller that was refused for load should retry.
pub(crate) const RETRY_AFTER_S: u32 = 1;
/// While less than one part in this many of the connections is free, idle connections are kept only as long as a head may
/// take. So idle connections go before busy ones.
pub(crate) const CROWDED_SHARE: usize = 4;
/// Calls that watch the server's health: a few for each balancer, and few enough that checking for all of them every
/// second costs next to nothing.
pub(crate) const MAX_WATCHES: usize = 256;
/// Refused connections that get a moment to read their answer, at once.
pub(crate) const MAX_REFUSING: usize = 64;
/// One part in this many of the incoming bodies may be slow, so that there is always room for fast ones. One part in
/// this many of those may come from one address, with a small minimum.
pub(crate) const SLOW_UPLOADS_SHARE: u32 = 2;
/// One part in this many of the requests in flight may be messages of streams, so that there is always room for others.
pub(crate) const STREAMED_SHARE: u32 = 2;

/// The parts of a server besides its entry point and its settings.
#[derive(Default)]
pub struct ServerOptions {
    /// The certificate of the server. Without one it speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// The audit log, with a line for each request.
    pub audit: Option<Arc<Audit>>,
    /// The beginning of the header `penstock-connection`, by which components recognise this server. Components read it
    /// from their environment. Without it they get no facts.
    pub token: Option<String>,
    /// Gives the reason why the server takes no new work, if it takes none, in plain ASCII. It is called for each
    /// health check.
    pub not_ready: Option<NotReady>,
    /// The settings for running operations. Without them, this host runs none.
    pub work: Option<WorkSettings>,
}

/// Gives the reason why a server takes no new work.
pub type NotReady = Box<dyn Fn() -> Option<Cow<'static, str>> + Send + Sync>;

/// A server over one entry point.
pub struct Server {
    pub(crate) entry_point: EntryPoint,
    pub(crate) settings: ServerSettings,
    pub(crate) proxies: Proxies,
    pub(crate) options: ServerOptions,
    pub(crate) hsts: Option<HeaderValue>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) in_flight: Semaphore,
    /// Places of messages of streams, from their first byte to their answer. Streams wait for these places, and for
    /// nothing that others need.
    pub(crate) streamed: Arc<Semaphore>,
    pub(crate) watches: Semaphore,
    pub(crate) receiving: Semaphore,
    /// Addresses with slow uploads in progress.
    pub(crate) slow_uploads: Arc<Addresses>,
    pub(crate) all_slow_uploads: Semaphore,
    /// Bytes of bodies that have arrived in part.
    pub(crate) arriving: AtomicU64,
    pub(crate) refusing: Arc<Semaphore>,
    /// gRPC streams that are open.
    pub(crate) open_streams: AtomicU64,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) work: Option<Arc<Work>>,
    pub(crate) open: AtomicU64,
    pub(crate) metrics: Metrics,
    /// The values of `Keep-Alive` in HTTP/1.1 answers: usually, and while connections are scarce.
    pub(crate) keep_alive: [Option<HeaderValue>; 2],
}

impl Server {
    /// Creates a server with the limits of the settings.
    pub fn new(entry_point: EntryPoint, settings: ServerSettings) -> Arc<Self> {
        Self::with(entry_point, settings, ServerOptions::default())
    }

    /// Makes a server with options.
    pub fn with(
        entry_point: EntryPoint,
        settings: ServerSettings,
        options: ServerOptions,
    ) -> Arc<Self> {
        let hsts = options.tls.as_ref().and_then(|tls| tls.hsts_max_age_s());
        let header_ms = settings.header_timeout_ms;
        let kept_ms = [
            settings.keep_alive_timeout_ms,
            settings.keep_alive_timeout_ms.min(header_ms),
        ];
        Arc::new(Self {
            entry_point,
            proxies: Proxies::new(settings.trusted_proxies.clone(), settings.forwarded_header),
            hsts: hsts.and_then(|s| HeaderValue::from_str(&format!("max-age={s}")).ok()),
            // Components are reached only with the token.
            work: (options.work.clone())
                .filter(|work| work.operations.enabled && options.token.is_some())
                .map(|work| Arc::new(Work::new(work))),
            options,
            addresses: Arc::default(),
            connections: Arc::new(Semaphore::new(settings.max_connections as usize)),
            in_flight: Semaphore::new(settings.max_in_flight as usize),
            streamed: Arc::new(Semaphore::new(
                (settings.max_in_flight / STREAMED_SHARE).max(1) as usize,
            )),
            watches: Semaphore::new(MAX_WATCHES),
            receiving: Semaphore::new(settings.max_in_flight as usize),
            slow_uploads: Arc::default(),
            all_slow_uploads: Semaphore::new(
                (settings.max_in_flight / SLOW_UPLOADS_SHARE).max(1) as usize
            ),
            arriving: AtomicU64::new(0),
            refusing: Arc::new(Semaphore::new(MAX_REFUSING)),
            settings,
            open_streams: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Serving),
            open: AtomicU64::new(0),
            metrics: Metrics::default(),
            keep_alive: kept_ms.map(kept_for),
        })
    }

    /// Returns the entry point that requests go through.
    pub fn entry_point(&self) -> &EntryPoint {
        &self.entry_point
    }

    /// Returns whether so few connections are left that unused ones are closed early.
    pub(crate) fn is_crowded(&self) -> bool {
        let free = self.connections.available_permits();
        free < self.settings.max_connections as usize / CROWDED_SHARE
    }

    /// Returns the time for which a connection is kept between two requests.
    pub(crate) fn idle_time(&self) -> Duration {
        let kept_ms = self.settings.keep_alive_timeout_ms;
        Duration::from_millis(match self.is_crowded() {
            true => kept_ms.min(self.settings.header_timeout_ms),
            false => kept_ms,
        })
    }
}

/// The value of `Keep-Alive` for a time. It has whole seconds; a shorter time has no value.
fn kept_for(ms: u64) -> Option<HeaderValue> {
    let seconds = Duration::from_millis(ms).as_secs();
    let value = HeaderValue::from_str(&format!("timeout={seconds}")).ok()?;
    (seconds > 0).then_some(value)
}
