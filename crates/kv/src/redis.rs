//! A store that several machines share, in Redis or Valkey.
//!
//! Every operation is one command on one key (several entries are several commands in one write), so the server defines
//! the order that all machines see. Compare-and-swap is a script that the server runs without interruption. Names of a
//! store start with `penstock:<label>:`, so several stores and other applications can share a server.
//!
//! **Failures.** One task keeps one connection. It tests a quiet connection, and makes a new one when it breaks, at
//! growing and jittered intervals. Without a connection every operation fails at once with [`StoreError::Unavailable`];
//! nothing is queued. With a connection, the operations under way are bounded in number and bytes, and each operation
//! is bounded in time, including its wait for a place.
//!
//! **Never twice.** No command is sent a second time automatically. If a reply is lost, the operation returns
//! [`StoreError::Unavailable`], and it is unknown whether it was applied: an increment may have counted, and only the
//! caller knows whether counting again is right. (A script that the server does not know has not run, and is sent again
//! with its text.)
//!
//! **Durability** depends on the server's configuration: [`Store::durable`] is ready at once. With `appendonly yes` and
//! `appendfsync always` it is as strong as on the embedded store.
//!
//! **Counters** are decimal text here. A value that `set` wrote can be told from a counter only if it is not a 64-bit
//! number.
//!
//! **Cluster.** No command touches two keys, so a proxy in front of a cluster serves this store. The redirections of a
//! cluster without a proxy are not followed.

use crate::store::{
    MAX_LIST_PAGE, Page, Position, Reply, Store, StoreError, Swap, check_kv_key, check_value,
};
use ::redis as client;
use client::aio::MultiplexedConnection;
use client::{Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, ServerErrorKind};
use parking_lot::RwLock;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};

/// The longest time of an operation by default, including the wait for a place. A healthy server answers within a
/// millisecond; a request that waits longer than this should get an error.
pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest a connection takes to be made by default, names and TLS included.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest pause between two attempts to connect by default: how late a server that came back is
/// noticed at most.
pub const DEFAULT_MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Most operations under way by default: a fast server answers so many in some tens of milliseconds.
pub const DEFAULT_MAX_IN_FLIGHT: usize = 4096;

/// Bytes of the longest label. It is part of every key.
pub const MAX_LABEL_BYTES: usize = 64;

/// The first pause between two attempts to connect; each further one doubles.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(20);

/// Interval at which a quiet connection is tested, so that a dead one is found before a request finds it.
const PING_EVERY: Duration = Duration::from_secs(1);

/// Each of these many bytes of an operation counts as a further operation under way, which bounds the
/// bytes that wait for the network to this many for each place.
const BYTES_FOR_A_PLACE: usize = 16 << 10;

/// Commands in one write. Longer lists of entries are sent in parts, so that others get their turn.
const PIPELINE: usize = 256;

/// The page size that SCAN is asked for. The server may send some more, so a page stops short of its limit.
const SCAN_COUNT: usize = 100;

/// Most SCANs for a page. If other applications have many keys, a page may be empty although it is not the last.
const SCANS_A_PAGE: usize = 50;

/// Prefix of this store's cursors.
const CURSOR_PREFIX: &str = "redis:";

/// Says 1 if it wrote, nothing if the entry is absent and should not be, and else the entry as it is.
/// A comparison of strings is one of bytes.
const SWAP_SCRIPT: &str = "\
local now = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
  if now then return now end
elseif now ~= ARGV[2] then
  return now
end
redis.call('SET', KEYS[1], ARGV[3])
return 1";

/// The server of a [`RedisStore`], and the store's bounds.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host[:port][/number]`, or `rediss://` for TLS. It is never shown.
    pub url: String,
    /// The label of the store; part of every key. Letters, digits, `-`, `_` and `.`.
    pub label: String,
    /// Certificate authorities to trust for `rediss://`, as PEM; `None` trusts the system's.
    pub certificate_authorities: Option<Vec<u8>>,
    /// The longest an operation takes.
    pub command_timeout: Duration,
    /// The longest a connection takes to be made.
    pub connect_timeout: Duration,
    /// The longest pause between two attempts to connect.
    pub max_reconnect_delay: Duration,
    /// Most operations under way, a large one counting as several.
    pub max_in_flight: usize,
}

impl RedisSettings {
    /// The defaults, for this server and label.
    pub fn new(url: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            label: label.into(),
            certificate_authorities: None,
            command_timeout: DEFAULT_COMMAND_TIMEOUT,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            max_reconnect_delay: DEFAULT_MAX_RECONNECT_DELAY,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
        }
    }
}

impl std::fmt::Debug for RedisSettings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSettings")
            .field("label", &self.label)
            .field("command_timeout", &self.command_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_reconnect_delay", &self.max_reconnect_delay)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}

/// The reason that a store could not be opened. No message contains a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// A setting is out of range or not of its form.
    #[error("{0}")]
    Setting(String),
    /// The server did not answer, or not as one.
    #[error("cannot reach {server}: {message}")]
    Unreachable {
        /// The server's address, without a password.
        server: String,
        /// The error, for an operator.
        message: String,
    },
}

/// The connection's state for operations.
enum Link {
    Up {
        connection: MultiplexedConnection,
        generation: u64,
    },
    Down(StoreError),
}

struct Shared {
    /// The server without user and password.
    server: String,
    label: String,
    key_prefix: String,
    command_timeout: Duration,
    max_in_flight: usize,
    places: Semaphore,
    link: RwLock<Link>,
    /// The generation of the youngest connection that a caller found broken.
    broken: AtomicU64,
    broken_found: Notify,
    swap_hash: String,
    /// Cut out of every message, should a server or a library repeat them.
    secrets: Vec<String>,
}

impl Shared {
    fn unavailable(&self, message: &str) -> StoreError {
        let mut message = format!("{}: {message}", self.server);
        for secret in &self.secrets {
            message = message.replace(secret, "***");
        }
        StoreError::Unavailable(message)
    }

    fn key(&self, kv_key: &str) -> String {
        let mut key = String::with_capacity(self.key_prefix.len() + kv_key.len());
        key.push_str(&self.key_prefix);
        key.push_str(kv_key);
        key
    }

    /// The error for a caller. An error reply is a valid answer; only a lost reply takes the connection down.
    fn error(&self, error: &RedisError, generation: u64) -> StoreError {
        let away = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        if away || error.is_unrecoverable_error() || error.is_io_error() {
            self.found_broken(generation);
        }
        let message = error.to_string();
        // Of several commands, and of a script on older servers, the code is only in the text.
        if error.code() == Some("OOM") || message.contains("command not allowed when used memory") {
            return StoreError::Full("the server's memory is used up".into());
        }
        self.unavailable(&message)
    }

    fn found_broken(&self, generation: u64) {
        self.broken.fetch_max(generation, Ordering::AcqRel);
        self.broken_found.notify_one();
    }

    fn link(&self) -> Result<(MultiplexedConnection, u64), StoreError> {
        match &*self.link.read() {
            Link::Up {
                connection,
                generation,
            } => Ok((connection.clone(), *generation)),
            Link::Down(error) => Err(error.clone()),
        }
    }

    /// Carries out an operation of this many bytes within its time, on the connection there is.
    async fn run<T, F>(
        &self,
        bytes: usize,
        operation: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let (connection, generation) = self.link().map_err(Failed::Store)?;
        let places = (1 + bytes / BYTES_FOR_A_PLACE).min(self.max_in_flight);
        let late = format!("no answer within {:?}", self.command_timeout);
        let place = timeout(
            self.command_timeout,
            self.places.acquire_many(places as u32),
        )
        .await;
        let Ok(place) = place else {
            // Too much is on its way; nothing was sent, and the connection is not at fault.
            return Err(Failed::Store(self.unavailable(&late)));
        };
        let _place = place.expect("never closed");
        match timeout(self.command_timeout, operation(connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failed::Redis(error, generation)),
            Err(_) => {
                // The answers behind it are late as well, for every cause of the delay.
                self.found_broken(generation);
                Err(Failed::Store(self.unavailable(&late)))
            }
        }
    }

    async fn command<T: FromRedisValue>(&self, bytes: usize, command: Cmd) -> Result<T, Failed> {
        self.run(bytes, |mut connection| async move {
            command.query_async(&mut connection).await
        })
        .await
    }

    fn told(&self, failed: Failed) -> StoreError {
        match failed {
            Failed::Store(error) => error,
            Failed::Redis(error, generation) => self.error(&error, generation),
        }
    }

    async fn ask<T: FromRedisValue>(&self, bytes: usize, command: Cmd) -> Result<T, StoreError> {
        let answer = self.command(bytes, command).await;
        answer.map_err(|failed| self.told(failed))
    }

    /// Sends commands in one write and waits for all answers.
    async fn ask_many<T: FromRedisValue>(
        &self,
        bytes: usize,
        commands: impl Iterator<Item = Cmd>,
    ) -> Result<Vec<T>, StoreError> {
        let mut pipeline = client::Pipeline::new();
        for command in commands {
            pipeline.add_command(command);
        }
        let answers = self.run(bytes, |mut connection| async move {
            pipeline.query_async(&mut connection).await
        });
        answers.await.map_err(|failed| self.told(failed))
    }

    async fn increment(&self, kv_key: &str, delta: i64) -> Result<i64, StoreError> {
        check_kv_key(kv_key)?;
        let mut command = Cmd::new();
        if delta == 0 {
            // INCRBY would create it.
            command.arg("GET").arg(self.key(kv_key));
            let found: Result<Option<Vec<u8>>, Failed> = self.command(0, command).await;
            return match found {
                Ok(None) => Ok(0),
                Ok(Some(text)) => counter(&text).ok_or(StoreError::NotACounter),
                Err(failed) => Err(self.not_counted(failed)),
            };
        }
        command.arg("INCRBY").arg(self.key(kv_key)).arg(delta);
        let sum = self.command(0, command).await;
        sum.map_err(|failed| self.not_counted(failed))
    }

    fn not_counted(&self, failed: Failed) -> StoreError {
        if let Failed::Redis(error, _) = &failed {
            let detail = error.detail().unwrap_or_default();
            if error.code() == Some("WRONGTYPE") || detail.contains("not an integer") {
                return StoreError::NotACounter;
            }
            if detail.contains("would overflow") {
                return StoreError::Overflow;
            }
        }
        self.told(failed)
    }

    async fn swap(
        &self,
        kv_key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        check_kv_key(kv_key)?;
        check_value(value)?;
        let bytes = value.len() + expected.map_or(0, <[u8]>::len);
        let command = |verb: &str, script: &str| {
            let mut command = Cmd::new();
            command.arg(verb).arg(script).arg(1).arg(self.key(kv_key));
            command.arg(if expected.is_some() { "1" } else { "0" });
            command.arg(expected.unwrap_or_default()).arg(value);
            command
        };
        let mut answer = self
            .command(bytes, command("EVALSHA", &self.swap_hash))
            .await;
        if let Err(Failed::Redis(error, _)) = &answer
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        {
            answer = self.command(bytes, command("EVAL", SWAP_SCRIPT)).await;
        }
        match answer.map_err(|failed| self.told(failed))? {
            client::Value::Int(1) => Ok(Swap::Swapped),
            client::Value::Nil => Ok(Swap::Differs(None)),
            client::Value::BulkString(found) => Ok(Swap::Differs(Some(found))),
            other => Err(self.unavailable(&format!("an answer of a wrong kind: {other:?}"))),
        }
    }

    async fn page(&self, cursor: Option<&str>) -> Result<Page, StoreError> {
        let mut place: u64 = match cursor {
            None => 0,
            Some(text) => text
                .strip_prefix(CURSOR_PREFIX)
                .and_then(|number| number.parse().ok())
                .ok_or(StoreError::BadCursor)?,
        };
        let mut names = Vec::new();
        for _ in 0..SCANS_A_PAGE {
            let mut command = Cmd::new();
            command.arg("SCAN").arg(place);
            // A label has no character that means something in a pattern.
            command.arg("MATCH").arg(format!("{}*", self.key_prefix));
            command.arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.ask(0, command).await?;
            place = next;
            // Other applications may have made keys of this form that are not names. They are not ours.
            names.extend(keys.into_iter().filter_map(|key| {
                let key = String::from_utf8(key).ok()?;
                key.strip_prefix(&self.key_prefix).map(str::to_owned)
            }));
            if place == 0 || names.len() + 4 * SCAN_COUNT > MAX_LIST_PAGE {
                break;
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(Page {
            names,
            cursor: (place != 0).then(|| format!("{CURSOR_PREFIX}{place}")),
        })
    }
}

/// The reason that an operation has no answer.
enum Failed {
    /// An error that is returned to the caller as it is.
    Store(StoreError),
    /// An error of this connection's server or of the library, and the connection's generation.
    Redis(RedisError, u64),
}

/// Reads a counter as the server would: no sign but a minus, no zeros in front.
fn counter(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let count: i64 = text.parse().ok()?;
    (count.to_string() == text).then_some(count)
}

fn single(verb: &str, key: String) -> Cmd {
    let mut command = Cmd::new();
    command.arg(verb).arg(key);
    command
}

/// Keeps the connection for as long as the store lives.
async fn keep(
    shared: Arc<Shared>,
    server: client::Client,
    config: client::AsyncConnectionConfig,
    settings: RedisSettings,
    mut first: Option<MultiplexedConnection>,
) {
    let mut generation = 0;
    let mut delay = MIN_RECONNECT_DELAY;
    loop {
        let connected = match first.take() {
            Some(connection) => Ok(connection),
            None => connect(&server, &config, settings.connect_timeout).await,
        };
        match connected {
            Ok(connection) => {
                generation += 1;
                *shared.link.write() = Link::Up {
                    connection: connection.clone(),
                    generation,
                };
                if generation > 1 {
                    tracing::info!(server = %shared.server, "connected again");
                }
                let why = watch(&shared, connection, generation).await;
                tracing::warn!(server = %shared.server, %why, "the connection is lost");
                *shared.link.write() = Link::Down(shared.unavailable(&why));
                delay = MIN_RECONNECT_DELAY;
            }
            Err(message) => {
                *shared.link.write() = Link::Down(shared.unavailable(&message));
                delay = (delay * 2).min(settings.max_reconnect_delay);
            }
        }
        // Between half and the whole delay, so that machines do not all reconnect at once.
        let random = RandomState::new().build_hasher().finish();
        sleep(delay / 2 + (delay / 2).mul_f64(random as f64 / u64::MAX as f64)).await;
    }
}

/// Watches over a connection until it is broken, and says why.
async fn watch(shared: &Shared, mut connection: MultiplexedConnection, generation: u64) -> String {
    loop {
        if shared.broken.load(Ordering::Acquire) >= generation {
            return "the connection was lost".into();
        }
        tokio::select! {
            // The generation tells a late notice about an older connection.
            () = shared.broken_found.notified() => {}
            () = sleep(PING_EVERY) => {
                let ping = client::cmd("PING");
                let answer = timeout(
                    shared.command_timeout,
                    ping.query_async::<client::Value>(&mut connection),
                );
                match answer.await {
                    Ok(Ok(_)) => {}
                    // This is an answer all the same: loading, for example, or not permitted.
                    Ok(Err(error)) if !error.is_io_error() && !error.is_unrecoverable_error() => {}
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return format!("no answer within {:?}", shared.command_timeout),
                }
            }
        }
    }
}

async fn connect(
    server: &client::Client,
    config: &client::AsyncConnectionConfig,
    within: Duration,
) -> Result<MultiplexedConnection, String> {
    let connecting = server.get_multiplexed_async_connection_with_config(config);
    match timeout(within, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {within:?}")),
    }
}

/// A store on a Redis or Valkey server. It needs a tokio runtime with time and I/O enabled.
pub struct RedisStore {
    shared: Arc<Shared>,
    keeper: tokio::task::JoinHandle<()>,
}

impl RedisStore {
    /// Connects, or says why that is not possible.
    pub async fn connect(settings: RedisSettings) -> Result<Self, ConnectError> {
        let (shared, server, config) = prepare(&settings)?;
        let first = connect(&server, &config, settings.connect_timeout).await;
        let first = first.map_err(|message| ConnectError::Unreachable {
            server: shared.server.clone(),
            message: scrub(&shared, message),
        })?;
        Ok(Self::keeping(shared, server, config, settings, Some(first)))
    }

    /// A store that connects in the background: for a service that starts before its server does. Until
    /// there is a connection every operation fails. Only the settings can be wrong. Called within the
    /// runtime.
    pub fn start(settings: RedisSettings) -> Result<Self, ConnectError> {
        let (shared, server, config) = prepare(&settings)?;
        Ok(Self::keeping(shared, server, config, settings, None))
    }

    fn keeping(
        shared: Shared,
        server: client::Client,
        config: client::AsyncConnectionConfig,
        settings: RedisSettings,
        first: Option<MultiplexedConnection>,
    ) -> Self {
        let shared = Arc::new(shared);
        if let Some(connection) = &first {
            // At once, not when the task gets its turn.
            *shared.link.write() = Link::Up {
                connection: connection.clone(),
                generation: 1,
            };
        }
        let keeper = tokio::spawn(keep(Arc::clone(&shared), server, config, settings, first));
        Self { shared, keeper }
    }

    /// Returns whether there is a connection now: for readiness and metrics.
    pub fn connected(&self) -> bool {
        matches!(*self.shared.link.read(), Link::Up { .. })
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn scrub(shared: &Shared, message: String) -> String {
    let cut = |message: String, secret: &String| message.replace(secret, "***");
    shared.secrets.iter().fold(message, cut)
}

fn prepare(
    settings: &RedisSettings,
) -> Result<(Shared, client::Client, client::AsyncConnectionConfig), ConnectError> {
    let setting = |message: &str| ConnectError::Setting(message.to_owned());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if settings.label.is_empty()
        || settings.label.len() > MAX_LABEL_BYTES
        || !settings.label.chars().all(plain)
    {
        return Err(setting(
            "the label of a Redis store has 1 to 64 letters, digits, `-`, `_` or `.`",
        ));
    }
    if settings.max_in_flight == 0 || settings.max_in_flight > u32::MAX as usize >> 4 {
        return Err(setting("max_in_flight must be between 1 and 268435455"));
    }
    if settings.command_timeout.is_zero() || settings.connect_timeout.is_zero() {
        return Err(setting("the timeouts of a Redis store must not be zero"));
    }
    // The message does not repeat the URL, because the URL may contain a password.
    let wrong_url = || {
        setting(
            "the URL of a Redis store is not of the form \
             `redis://[user:password@]host[:port][/number]` (or `rediss://`, for TLS)",
        )
    };
    let url = settings.url.as_str();
    if !url.starts_with("redis://") && !url.starts_with("rediss://") {
        return Err(wrong_url());
    }
    let info = url.into_connection_info().map_err(|_| wrong_url())?;
    let (scheme, host, port) = match info.addr() {
        client::ConnectionAddr::Tcp(host, port) => ("redis", host.clone(), *port),
        client::ConnectionAddr::TcpTls { host, port, .. } => ("rediss", host.clone(), *port),
        _ => return Err(wrong_url()),
    };
    let server = format!("{scheme}://{host}:{port}/{}", info.redis_settings().db());
    let password = info.redis_settings().password();
    let mut secrets: Vec<String> = password.map(str::to_owned).into_iter().collect();
    // As it stands in the URL it may be escaped.
    if let Some((_, rest)) = url.split_once("://")
        && let Some((user, _)) = rest.rsplit_once('@')
        && let Some((_, escaped)) = user.split_once(':')
    {
        secrets.push(escaped.to_owned());
    }
    secrets.retain(|secret| !secret.is_empty());

    let opened = if scheme == "rediss" {
        // Any provider will do. An error means that the process has installed one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trusted = client::TlsCertificates {
            client_tls: None,
            root_cert: settings.certificate_authorities.clone(),
        };
        match &settings.certificate_authorities {
            Some(_) => client::Client::build_with_tls(info, trusted)
                .map_err(|_| setting("the certificate authorities of a Redis store are not PEM"))?,
            None => client::Client::open(info).map_err(|_| wrong_url())?,
        }
    } else {
        client::Client::open(info).map_err(|_| wrong_url())?
    };
    // Time is kept here, for the wait before and the command together.
    let config = client::AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_pipeline_buffer_size(1024);
    let shared = Shared {
        link: RwLock::new(Link::Down(StoreError::Unavailable(format!(
            "{server}: not connected yet"
        )))),
        server,
        label: settings.label.clone(),
        key_prefix: format!("penstock:{}:", settings.label),
        command_timeout: settings.command_timeout,
        max_in_flight: settings.max_in_flight,
        places: Semaphore::new(settings.max_in_flight),
        broken: AtomicU64::new(0),
        broken_found: Notify::new(),
        swap_hash: client::Script::new(SWAP_SCRIPT).get_hash().to_owned(),
        secrets,
    };
    Ok((shared, opened, config))
}

impl Store for RedisStore {
    fn describe(&self) -> String {
        format!("{} (label {})", self.shared.server, self.shared.label)
    }

    fn get<'a>(&'a self, kv_key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        Reply::later(async move {
            check_kv_key(kv_key)?;
            let command = single("GET", self.shared.key(kv_key));
            self.shared.ask(0, command).await
        })
    }

    fn get_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, Vec<Option<Vec<u8>>>> {
        Reply::later(async move {
            kv_keys.iter().try_for_each(|kv_key| check_kv_key(kv_key))?;
            let mut values = Vec::with_capacity(kv_keys.len());
            for part in kv_keys.chunks(PIPELINE) {
                let gets = part.iter().map(|k| single("GET", self.shared.key(k)));
                let bytes = part.len() * BYTES_FOR_A_PLACE;
                values.extend(self.shared.ask_many(bytes, gets).await?);
            }
            Ok(values)
        })
    }

    fn exists<'a>(&'a self, kv_key: &'a str) -> Reply<'a, bool> {
        Reply::later(async move {
            check_kv_key(kv_key)?;
            let command = single("EXISTS", self.shared.key(kv_key));
            self.shared.ask(0, command).await
        })
    }

    fn set<'a>(&'a self, kv_key: &'a str, value: &'a [u8]) -> Reply<'a, ()> {
        Reply::later(async move {
            check_kv_key(kv_key)?;
            check_value(value)?;
            let mut command = single("SET", self.shared.key(kv_key));
            command.arg(value);
            self.shared.ask(value.len(), command).await
        })
    }

    /// Sends the entries in parts: within the part that meets an error, entries after it may be written too.
    fn set_many<'a>(&'a self, entries: &'a [(String, Vec<u8>)]) -> Reply<'a, ()> {
        Reply::later(async move {
            for (index, (kv_key, value)) in entries.iter().enumerate() {
                if let Err(error) = check_kv_key(kv_key).and_then(|()| check_value(value)) {
                    self.set_many(&entries[..index]).await?;
                    return Err(error);
                }
            }
            let mut rest = entries;
            while !rest.is_empty() {
                // As many as count as one part, or a single large one.
                let (mut count, mut bytes) = (0, 0);
                for (_, value) in rest.iter().take(PIPELINE) {
                    if count > 0 && bytes + value.len() > PIPELINE * BYTES_FOR_A_PLACE {
                        break;
                    }
                    (count, bytes) = (count + 1, bytes + value.len());
                }
                let (part, after) = rest.split_at(count);
                let sets = part.iter().map(|(kv_key, value)| {
                    let mut command = single("SET", self.shared.key(kv_key));
                    command.arg(value.as_slice());
                    command
                });
                let bytes = bytes + count * BYTES_FOR_A_PLACE;
                let _: Vec<()> = self.shared.ask_many(bytes, sets).await?;
                rest = after;
            }
            Ok(())
        })
    }

    fn delete<'a>(&'a self, kv_key: &'a str) -> Reply<'a, ()> {
        Reply::later(async move {
            check_kv_key(kv_key)?;
            let command = single("DEL", self.shared.key(kv_key));
            self.shared.ask(0, command).await
        })
    }

    fn delete_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, ()> {
        Reply::later(async move {
            kv_keys.iter().try_for_each(|kv_key| check_kv_key(kv_key))?;
            for part in kv_keys.chunks(PIPELINE) {
                let deletes = part.iter().map(|k| single("DEL", self.shared.key(k)));
                let bytes = part.len() * BYTES_FOR_A_PLACE;
                let _: Vec<i64> = self.shared.ask_many(bytes, deletes).await?;
            }
            Ok(())
        })
    }

    fn increment<'a>(&'a self, kv_key: &'a str, delta: i64) -> Reply<'a, i64> {
        Reply::later(self.shared.increment(kv_key, delta))
    }

    fn compare_and_swap<'a>(
        &'a self,
        kv_key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    ) -> Reply<'a, Swap> {
        Reply::later(self.shared.swap(kv_key, expected, value))
    }

    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Reply<'a, Page> {
        Reply::later(self.shared.page(cursor))
    }

    /// Always the same place: how durable a write is, is for the server's configuration to say.
    fn position(&self) -> Position {
        Position::default()
    }

    fn durable<'a>(&'a self, _up_to: Position) -> Reply<'a, ()> {
        Reply::ready(Ok(()))
    }
}
