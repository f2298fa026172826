//! Refreshes the key sets of issuers: decides when each is fetched, and writes valid sets to the store, where the
//! checkers of tokens read them.
//!
//! Components cannot fetch, so the host does. They meet in the store (`penstock_policy::auth::record`): a set is under
//! `key_set_name`. A checker that misses one, or a key in it, raises the counter `key_set_asked_name`, and the host
//! fetches when it sees that the counter has moved. A set that cannot be fetched or read changes nothing: the previous
//! one stays.

use crate::https::{self, Location};
use penstock_kv::{Store, StoreError};
use penstock_policy::auth::record::{self, KeySet};
use penstock_policy::auth::settings::{AuthSettings, Issuer};
use penstock_policy::auth::token::{Issuers, MAX_SET_BYTES};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

/// The Accept header for an issuer.
const ACCEPT: &str = "application/jwk-set+json, application/json;q=0.9";

/// The times of all steps. Tests use shorter ones.
#[derive(Clone, Copy, Debug)]
struct RefreshTimings {
    /// Time between two checks of the counter and of the file.
    look: Duration,
    /// Shortest time between two fetches when the first succeeded. Tokens with unknown keys cost nothing to make, and
    /// must not cause a fetch each.
    gap_ms: u64,
    /// Wait after the first failure. Each further one doubles it.
    first_wait_ms: u64,
    /// The longest wait after failures, in milliseconds.
    longest_wait_ms: u64,
    /// Longest time for an issuer's answer.
    timeout: Duration,
}

const TIMINGS: RefreshTimings = RefreshTimings {
    look: Duration::from_millis(500),
    gap_ms: 10_000,
    first_wait_ms: 1_000,
    longest_wait_ms: 60_000,
    timeout: Duration::from_secs(10),
};

/// Refreshes the sets of all issuers that have one, until it is dropped. File names are relative to the folder of the
/// policy file.
pub async fn keep_fresh(settings: AuthSettings, policy_dir: PathBuf, store: Arc<dyn Store>) {
    keep(settings, &policy_dir, store, TIMINGS).await;
}

async fn keep(
    settings: AuthSettings,
    policy_dir: &Path,
    store: Arc<dyn Store>,
    timings: RefreshTimings,
) {
    let mut tasks = JoinSet::new();
    for issuer in &settings.issuers {
        if let Some(keeper) = Keeper::new(issuer, &settings, policy_dir, timings) {
            tasks.spawn(keeper.run(store.clone()));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(e) = ended {
            tracing::error!("a key set is no longer refreshed: {e}");
        }
    }
}

/// Decides when a set is fetched. Times are milliseconds on one monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rhythm {
    last: Option<Last>,
    /// Failures since the last success.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    at_ms: u64,
    /// The counter before the fetch, or `None` if it could not be read.
    asked: Option<i64>,
    /// The wait after a failure.
    wait_ms: Option<u64>,
}

impl Rhythm {
    /// Returns whether it is time to fetch.
    fn due(&self, now_ms: u64, asked: Option<i64>, refresh_ms: u64, gap_ms: u64) -> bool {
        let Some(last) = self.last else {
            return true;
        };
        let since_ms = now_ms.saturating_sub(last.at_ms);
        match last.wait_ms {
            Some(wait_ms) => since_ms >= wait_ms,
            None => {
                let moved = asked.is_some() && asked != last.asked;
                since_ms >= refresh_ms || (moved && since_ms >= gap_ms)
            }
        }
    }

    /// Updates the state after a fetch that ended now.
    fn after(
        self,
        now_ms: u64,
        asked: Option<i64>,
        went_well: bool,
        timings: &RefreshTimings,
        random: u64,
    ) -> Self {
        let failures = if went_well {
            0
        } else {
            self.failures.saturating_add(1)
        };
        // Half of each wait is random, so that hosts that failed together do not retry together.
        let wait_ms = (!went_well).then(|| {
            let doublings = (failures - 1).min(32);
            let most = (timings.first_wait_ms << doublings).min(timings.longest_wait_ms);
            most / 2 + random % (most / 2 + 1)
        });
        let last = Some(Last {
            at_ms: now_ms,
            asked,
            wait_ms,
        });
        Self { last, failures }
    }
}

/// The source of an issuer's set.
#[derive(Clone, Debug)]
enum Source {
    Url {
        url: String,
        ca_file: Option<PathBuf>,
    },
    File(PathBuf),
}

impl Source {
    async fn read(&self, timeout: Duration) -> Result<String, String> {
        let bytes = match self {
            Self::Url { url, ca_file } => {
                let location = Location::parse(url)?;
                let ca_file = ca_file.clone();
                // Authorities are files that may have been replaced, so each fetch reads them anew.
                let read = move || https::trust(ca_file.as_deref(), "jwks_ca_file");
                let trust = tokio::task::spawn_blocking(read).await;
                let trust = trust.map_err(|e| e.to_string())??;
                let got = https::get(&location, trust, ACCEPT, MAX_SET_BYTES, timeout);
                got.await?.to_vec()
            }
            Self::File(path) => read_file(path).await?,
        };
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| format!("it cannot be read: {e}");
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    if !file.metadata().await.map_err(unreadable)?.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut bounded = file.take(MAX_SET_BYTES as u64 + 1);
    bounded.read_to_end(&mut bytes).await.map_err(unreadable)?;
    Ok(bytes)
}

/// Keeps the key set of one issuer up to date in the store.
struct Keeper {
    issuer: Issuer,
    /// Reads sets as the checkers will.
    judge: Issuers,
    source: Source,
    timings: RefreshTimings,
    started: Instant,
    rhythm: Rhythm,
    /// The last set that was read, accepted or not.
    read: Option<Result<String, String>>,
    /// The last fault that was logged.
    told: Option<String>,
}

impl Keeper {
    fn new(
        issuer: &Issuer,
        settings: &AuthSettings,
        policy_dir: &Path,
        timings: RefreshTimings,
    ) -> Option<Self> {
        let source = match (&issuer.jwks_url, &issuer.jwks_file) {
            (Some(url), _) => Source::Url {
                url: url.clone(),
                ca_file: issuer
                    .jwks_ca_file
                    .as_ref()
                    .map(|file| policy_dir.join(file)),
            },
            (None, Some(file)) => Source::File(policy_dir.join(file)),
            (None, None) => return None,
        };
        let judge = Issuers::new(std::slice::from_ref(issuer), &settings.tiers, |_| None);
        Some(Self {
            issuer: issuer.clone(),
            judge: judge.ok()?,
            source,
            timings,
            started: Instant::now(),
            rhythm: Rhythm::default(),
            read: None,
            told: None,
        })
    }

    async fn run(mut self, store: Arc<dyn Store>) {
        loop {
            self.look(&*store).await;
            tokio::time::sleep(self.timings.look).await;
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Fetches if it is time to, and writes a valid set.
    async fn look(&mut self, store: &dyn Store) {
        let asked_name = record::key_set_asked_name(&self.issuer.name);
        let asked = store.increment(&asked_name, 0).await.ok();
        let refresh_ms = self.issuer.refresh_s.saturating_mul(1_000);
        let due = (self.rhythm).due(self.now_ms(), asked, refresh_ms, self.timings.gap_ms);
        // A file is read each time. That costs little, and an operator that replaces it waits for the effect.
        if !due && matches!(self.source, Source::Url { .. }) {
            return;
        }
        let read = self.source.read(self.timings.timeout).await;
        if !due && self.read.as_ref() == Some(&read) {
            return;
        }
        let outcome = match &read {
            Ok(text) => self.take(text.clone(), store).await,
            Err(e) => Err(e.clone()),
        };
        self.read = Some(read);
        self.rhythm = self.rhythm.after(
            self.now_ms(),
            asked,
            outcome.is_ok(),
            &self.timings,
            rand::random(),
        );
        self.tell(outcome);
    }

    /// Writes a set if it is valid. Returns the number of usable keys.
    async fn take(&mut self, jwks: String, store: &dyn Store) -> Result<usize, String> {
        self.judge.set_keys(&self.issuer.name, &jwks)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let set = KeySet {
            v: record::VERSION,
            fetched_ms: since.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
            jwks,
        };
        let name = record::key_set_name(&self.issuer.name);
        let written = store.set(&name, &record::encode(&set)).await;
        written.map_err(|e: StoreError| format!("it cannot be stored: {e}"))?;
        Ok(self.judge.key_count(&self.issuer.name).unwrap_or(0))
    }

    /// Logs the outcome of a fetch, if it differs from the outcome that was logged last.
    fn tell(&mut self, outcome: Result<usize, String>) {
        let name = &self.issuer.name;
        let from = match &self.source {
            Source::Url { url, .. } => url.clone(),
            Source::File(path) => path.display().to_string(),
        };
        let (wrong, kept) = match outcome {
            Ok(0) => {
                let wrong = "it has no key for the issuer's algorithms, so its tokens are refused";
                (Some(wrong.to_owned()), "")
            }
            Ok(_) => (None, ""),
            Err(wrong) => (
                Some(wrong),
                "; the previous set stays in use, if there was one",
            ),
        };
        if wrong == self.told {
            return;
        }
        match &wrong {
            Some(wrong) => tracing::warn!("key set of issuer {name} from {from}: {wrong}{kept}"),
            None => tracing::info!("key set of issuer {name} from {from}: good again"),
        }
        self.told = wrong;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper::body::{Bytes, Frame};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use penstock_kv::{MemorySettings, MemoryStore};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    const QUICK: RefreshTimings = RefreshTimings {
        look: Duration::from_millis(5),
        gap_ms: 20,
        first_wait_ms: 10,
        longest_wait_ms: 40,
        timeout: Duration::from_secs(20),
    };

    #[test]
    fn a_set_is_fetched_at_start_then_when_it_is_old_or_asked_for() {
        let fetched = Rhythm::default().after(1_000, Some(3), true, &TIMINGS, 0);
        assert!(Rhythm::default().due(0, None, 300_000, 10_000));
        for (now_ms, asked, due) in [
            (1_000, Some(3), false),
            (300_999, Some(3), false),
            (301_000, Some(3), true),
            (301_000, None, true),
            (10_999, Some(4), false),
            (11_000, Some(4), true),
            (11_000, Some(3), false),
            // A counter that disappeared and returned is another counter.
            (11_000, Some(0), true),
            (11_000, None, false),
            // The clock never goes back, but a decision must not panic on it.
            (0, Some(4), false),
        ] {
            let said = fetched.due(now_ms, asked, 300_000, 10_000);
            assert_eq!(said, due, "{now_ms} {asked:?}");
        }
        // The gap does not delay a refresh that is due sooner.
        assert!(fetched.due(6_000, Some(3), 5_000, 10_000));
        // Requests that came while the counter could not be read are seen later.
        let blind = Rhythm::default().after(0, None, true, &TIMINGS, 0);
        assert!(!blind.due(20_000, None, 300_000, 10_000));
        assert!(blind.due(20_000, Some(0), 300_000, 10_000));
    }

    #[test]
    fn failures_are_repeated_ever_more_rarely_and_never_at_once() {
        let mut rhythm = Rhythm::default();
        for (failure, most_ms) in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
            .into_iter()
            .enumerate()
        {
            for random in [0, 1, 12_345_678_901, u64::MAX] {
                let next = rhythm.after(500, None, false, &TIMINGS, random);
                let wait_ms = next.last.unwrap().wait_ms.unwrap();
                assert!(
                    (most_ms / 2..=most_ms).contains(&wait_ms),
                    "{failure} {wait_ms}"
                );
                assert!(!next.due(500 + wait_ms - 1, Some(9), 1, 1));
                assert!(next.due(500 + wait_ms, None, u64::MAX, u64::MAX));
            }
            rhythm = rhythm.after(500, None, false, &TIMINGS, 7);
        }
        for _ in 0..100 {
            rhythm = rhythm.after(500, None, false, &TIMINGS, 7);
        }
        assert!(rhythm.last.unwrap().wait_ms.unwrap() <= 60_000);
        rhythm.failures = u32::MAX;
        let rhythm = rhythm.after(500, None, false, &TIMINGS, 7);
        // One success resets all failures.
        let well = rhythm.after(500, Some(1), true, &TIMINGS, 7);
        assert_eq!((well.failures, well.last.unwrap().wait_ms), (0, None));
    }

    fn set(kid: &str) -> String {
        format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}]}}"#
        )
    }

    /// The next answer of the server.
    #[derive(Clone)]
    enum IssuerReply {
        Whole(u16, String),
        /// Pieces of a body without a declared length.
        Endless,
        Nothing,
    }

    struct TlsServer {
        port: u16,
        directory: tempfile::TempDir,
        answer: Arc<Mutex<IssuerReply>>,
        asked: Arc<AtomicUsize>,
        _task: tokio::task::JoinHandle<()>,
    }

    impl TlsServer {
        async fn start() -> Self {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("ca.pem"), made.cert.pem()).unwrap();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let answer = Arc::new(Mutex::new(IssuerReply::Whole(200, set("first"))));
            let asked = Arc::new(AtomicUsize::new(0));
            let (answers, count) = (answer.clone(), asked.clone());
            let task = tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, answers, count) =
                        (acceptor.clone(), answers.clone(), count.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        let service = service_fn(move |request| {
                            answered(request, answers.clone(), count.clone())
                        });
                        let serving = hyper::server::conn::http1::Builder::new();
                        let _ = serving
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    });
                }
            });
            Self {
                port,
                directory,
                answer,
                asked,
                _task: task,
            }
        }

        fn says(&self, answer: IssuerReply) {
            *self.answer.lock().unwrap() = answer;
        }

        fn url(&self) -> String {
            format!("https://localhost:{}/keys?of=main", self.port)
        }

        async fn read(&self, url: &str, ca: bool, timeout: Duration) -> Result<String, String> {
            let ca_file = ca.then(|| self.directory.path().join("ca.pem"));
            let url = url.to_owned();
            Source::Url { url, ca_file }.read(timeout).await
        }
    }

    type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

    async fn answered(
        request: hyper::Request<hyper::body::Incoming>,
        answers: Arc<Mutex<IssuerReply>>,
        count: Arc<AtomicUsize>,
    ) -> Result<hyper::Response<Body>, std::convert::Infallible> {
        count.fetch_add(1, Ordering::SeqCst);
        let answer = answers.lock().unwrap().clone();
        let response = hyper::Response::builder();
        assert_eq!(request.uri().to_string(), "/keys?of=main");
        Ok(match answer {
            IssuerReply::Whole(status, text) => response
                .status(status)
                .header("location", "https://localhost/elsewhere")
                .body(Full::new(Bytes::from(text)).boxed_unsync())
                .unwrap(),
            IssuerReply::Endless => {
                let piece = || Ok(Frame::data(Bytes::from(vec![b' '; 4_096])));
                let pieces = futures_util::stream::repeat_with(piece);
                response
                    .body(StreamBody::new(pieces).boxed_unsync())
                    .unwrap()
            }
            IssuerReply::Nothing => std::future::pending().await,
        })
    }

    fn settings(source: &str) -> AuthSettings {
        let text = format!(
            "[tiers.free]\n[[issuers]]\nname = \"main\"\nissuer = \"i\"\naudiences = [\"a\"]\nalgorithms = [\"EdDSA\"]\n\
             tenant = \"acme\"\ntier = \"free\"\nrefresh_s = 86400\n{source}\n"
        );
        let settings: AuthSettings = toml::from_str(&text).unwrap();
        assert_eq!(settings.faults(), []);
        settings
    }

    async fn kept(store: &MemoryStore) -> Option<KeySet> {
        let bytes = store.get(&record::key_set_name("main")).await.unwrap();
        bytes.map(|bytes| record::decode(&bytes).unwrap())
    }

    /// Waits until this set is in the store.
    async fn becomes(store: &MemoryStore, jwks: &str) {
        while kept(store).await.map(|set| set.jwks).as_deref() != Some(jwks) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_set_is_fetched_over_tls_and_nothing_else_is_taken_for_one() {
        let server = TlsServer::start().await;
        let (url, patience) = (server.url(), QUICK.timeout);
        assert_eq!(server.read(&url, true, patience).await, Ok(set("first")));
        let refused = |read: Result<String, String>, reason: &str| {
            let said = read.unwrap_err();
            assert!(said.contains(reason), "{said}");
        };
        refused(server.read(&url, false, patience).await, "");
        let by_address = url.replace("localhost", "127.0.0.1");
        refused(server.read(&by_address, true, patience).await, "TLS failed");
        let plain = url.replace("https", "http");
        refused(server.read(&plain, true, patience).await, "https://");
        for status in [301, 302, 303, 307, 308] {
            server.says(IssuerReply::Whole(status, set("moved")));
            refused(
                server.read(&url, true, patience).await,
                "redirects are not followed",
            );
        }
        for status in [201, 204, 206, 401, 404, 500, 503] {
            server.says(IssuerReply::Whole(status, String::new()));
            refused(
                server.read(&url, true, patience).await,
                &format!("answered {status}"),
            );
        }
        server.says(IssuerReply::Whole(200, " ".repeat(MAX_SET_BYTES)));
        assert!(server.read(&url, true, patience).await.is_ok());
        server.says(IssuerReply::Whole(200, " ".repeat(MAX_SET_BYTES + 1)));
        refused(
            server.read(&url, true, patience).await,
            "more than 65536 bytes",
        );
        server.says(IssuerReply::Endless);
        refused(
            server.read(&url, true, patience).await,
            "more than 65536 bytes",
        );
        server.says(IssuerReply::Nothing);
        let short = Duration::from_millis(50);
        refused(server.read(&url, true, short).await, "within 50 ms");
        let missing = Source::Url {
            url: url.clone(),
            ca_file: Some(server.directory.path().join("none.pem")),
        };
        refused(missing.read(patience).await, "none.pem");
        std::fs::write(server.directory.path().join("empty.pem"), "").unwrap();
        let empty = Source::Url {
            url,
            ca_file: Some(server.directory.path().join("empty.pem")),
        };
        refused(empty.read(patience).await, "no certificate");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_fetched_set_is_kept_until_a_better_one_is_asked_for() {
        let server = TlsServer::start().await;
        let store = Arc::new(MemoryStore::new(MemorySettings::default()));
        let url = server.url();
        let settings = settings(&format!("jwks_url = \"{url}\"\njwks_ca_file = \"ca.pem\""));
        let (directory, opened) = (server.directory.path().to_owned(), store.clone());
        let keeping = tokio::spawn(async move { keep(settings, &directory, opened, QUICK).await });
        becomes(&store, &set("first")).await;
        let asked = server.asked.load(Ordering::SeqCst);
        // An invalid set does not replace it, and is fetched again.
        server.says(IssuerReply::Whole(200, "<html>".to_owned()));
        let asked_name = record::key_set_asked_name("main");
        store.increment(&asked_name, 1).await.unwrap();
        while server.asked.load(Ordering::SeqCst) < asked + 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(kept(&store).await.unwrap().jwks, set("first"));
        server.says(IssuerReply::Whole(200, set("second")));
        becomes(&store, &set("second")).await;
        assert!(kept(&store).await.unwrap().fetched_ms > 1_700_000_000_000);
        // Dropping it stops it.
        keeping.abort();
        assert!(keeping.await.unwrap_err().is_cancelled());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_is_read_again_when_it_changes_or_the_store_has_lost_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let store = Arc::new(MemoryStore::new(MemorySettings::default()));
        let settings = settings("jwks_file = \"keys.json\"");
        let mut keeper =
            Keeper::new(&settings.issuers[0], &settings, directory.path(), QUICK).unwrap();
        keeper.look(&*store).await;
        assert_eq!(kept(&store).await, None);
        assert!(keeper.told.as_ref().unwrap().contains("cannot be read"));
        std::fs::write(&path, set("first")).unwrap();
        keeper.look(&*store).await;
        assert_eq!(kept(&store).await.unwrap().jwks, set("first"));
        assert_eq!(keeper.told, None);
        for (text, reason) in [
            ("{".to_owned(), "JSON"),
            (
                set("first").replace("\"x\"", "\"d\":\"AA\",\"x\""),
                "private",
            ),
            (" ".repeat(MAX_SET_BYTES + 1), "bytes"),
        ] {
            std::fs::write(&path, text).unwrap();
            keeper.look(&*store).await;
            assert_eq!(kept(&store).await.unwrap().jwks, set("first"));
            assert!(
                keeper.told.as_ref().unwrap().contains(reason),
                "{:?}",
                keeper.told
            );
        }
        // A set without any key is how an issuer revokes everything.
        std::fs::write(&path, "{\"keys\":[]}").unwrap();
        keeper.look(&*store).await;
        assert_eq!(kept(&store).await.unwrap().jwks, "{\"keys\":[]}");
        assert!(keeper.told.as_ref().unwrap().contains("no key"));
        std::fs::write(&path, set("second")).unwrap();
        keeper.look(&*store).await;
        assert_eq!(kept(&store).await.unwrap().jwks, set("second"));
        // A checker misses it.
        store.delete(&record::key_set_name("main")).await.unwrap();
        store
            .increment(&record::key_set_asked_name("main"), 1)
            .await
            .unwrap();
        let keeping = tokio::spawn(keeper.run(store.clone()));
        becomes(&store, &set("second")).await;
        keeping.abort();
    }

    #[tokio::test]
    async fn issuers_without_a_set_are_left_alone() {
        let mut settings = settings("jwks_file = \"keys.json\"");
        settings.issuers[0].jwks_file = None;
        settings.issuers[0].secret_variable = Some("secret".to_owned());
        let store = Arc::new(MemoryStore::new(MemorySettings::default()));
        keep(settings, Path::new("."), store.clone(), QUICK).await;
        assert_eq!(store.entries(), 0);
    }
}
