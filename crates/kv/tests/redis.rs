//! The store on Redis: the suite on a server of the test's own, and servers that go away.

use penstock_kv::redis::ConnectError;
use penstock_kv::{RedisSettings, RedisStore, Store, StoreError, Swap};
use penstock_testkit::RedisServer;
use penstock_testkit::kv_suite::Subject;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

mod suite {
    use super::*;

    async fn make() -> Subject {
        let server = RedisServer::start();
        // Others use the server as well.
        server.talk("SET elsewhere value").unwrap();
        server.talk("SET penstock:other:name value").unwrap();
        let mut settings = RedisSettings::new(server.url(), "suite");
        // A machine with two cores runs many of these at once.
        settings.command_timeout = Duration::from_secs(10);
        let store = RedisStore::connect(settings).await.unwrap();
        Subject {
            store: Arc::new(store),
            lists_exactly_once: false,
            tags_counters: false,
            guard: Box::new(server),
        }
    }

    penstock_testkit::kv_suite!(make);
}

/// Quick to say no and quick to come back, so that the tests are.
fn quick(server: &RedisServer) -> RedisSettings {
    let mut settings = RedisSettings::new(server.url(), "test");
    settings.command_timeout = Duration::from_millis(300);
    settings.connect_timeout = Duration::from_millis(500);
    settings.max_reconnect_delay = Duration::from_millis(100);
    settings
}

async fn recovers(store: &RedisStore) {
    let from = Instant::now();
    while let Err(error) = store.exists("anything").await {
        assert!(from.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn assert_unavailable(error: &StoreError) {
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn stores_share_a_server_by_label() {
    let server = RedisServer::start();
    let one = RedisStore::connect(RedisSettings::new(server.url(), "one"));
    let two = RedisStore::connect(RedisSettings::new(server.url(), "two"));
    let again = RedisStore::connect(RedisSettings::new(server.url(), "one"));
    let (one, two, again) = (one.await.unwrap(), two.await.unwrap(), again.await.unwrap());
    one.increment("counter", 1).await.unwrap();
    assert_eq!(two.increment("counter", 1).await.unwrap(), 1);
    assert_eq!(again.increment("counter", 1).await.unwrap(), 2);
    assert_eq!(two.list(None).await.unwrap().names, ["counter"]);
    // Operators who look at the server rely on the form of the keys.
    let answer = server.talk("GET penstock:one:counter").unwrap();
    assert_eq!(answer, "$1\r\n2\r\n");
}

#[tokio::test]
async fn swaps_go_on_when_the_server_forgets_the_script() {
    let server = RedisServer::start();
    let store = RedisStore::connect(quick(&server)).await.unwrap();
    let swap = store.compare_and_swap("entry", None, b"1").await;
    assert_eq!(swap.unwrap(), Swap::Swapped);
    server.talk("SCRIPT FLUSH").unwrap();
    let swap = store.compare_and_swap("entry", Some(b"1"), b"2").await;
    assert_eq!(swap.unwrap(), Swap::Swapped);
}

#[tokio::test]
async fn a_foreign_kind_of_entry_is_no_counter() {
    let server = RedisServer::start();
    let store = RedisStore::connect(quick(&server)).await.unwrap();
    server.talk("RPUSH penstock:test:list value").unwrap();
    for delta in [0, 1] {
        let sum = store.increment("list", delta).await;
        assert_eq!(sum, Err(StoreError::NotACounter));
    }
    assert_unavailable(&store.get("list").await.unwrap_err());
    // That was an answer: the connection is still good.
    assert!(store.connected());
}

#[tokio::test]
async fn a_full_server_says_so() {
    let server = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let store = RedisStore::connect(quick(&server)).await.unwrap();
    for answer in [
        store.set("entry", b"value").await.err(),
        store.increment("counter", 1).await.err(),
        store.set_many(&[("a".into(), vec![])]).await.err(),
        store.compare_and_swap("a", None, b"").await.err(),
    ] {
        assert!(matches!(answer, Some(StoreError::Full(_))), "{answer:?}");
    }
    store.delete("entry").await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_is_unavailable_at_once_and_found_again() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(quick(&server)).await.unwrap();
    store.set("entry", b"value").await.unwrap();
    server.stop();
    assert_unavailable(&store.get("entry").await.unwrap_err());
    while store.connected() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Without a connection there is nothing to wait for.
    let from = Instant::now();
    for _ in 0..1000 {
        assert_unavailable(&store.increment("counter", 1).await.unwrap_err());
    }
    assert!(from.elapsed() < Duration::from_secs(1));
    server.restart();
    recovers(&store).await;
    assert_eq!(store.increment("counter", 0).await.unwrap(), 0);
}

/// Stops and starts the server under load. The server keeps nothing here, so it can lose counts that were confirmed.
/// But between two stops every sum is returned once: nothing is sent twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn load_goes_on_after_every_stop() {
    let mut server = RedisServer::start();
    let store = Arc::new(RedisStore::connect(quick(&server)).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let slowest = Arc::new(AtomicI64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        let slowest = Arc::clone(&slowest);
        tasks.spawn(async move {
            let (mut counted, mut refused) = (0_u64, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let from = Instant::now();
                match store.increment("counter", 1).await {
                    Ok(_) => counted += 1,
                    Err(error) => {
                        assert_unavailable(&error);
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                let took = from.elapsed().as_millis() as i64;
                slowest.fetch_max(took, Ordering::Relaxed);
            }
            (counted, refused)
        });
    }
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.restart();
        recovers(&store).await;
    }
    stop.store(true, Ordering::Relaxed);
    let counts = tasks.join_all().await;
    let counted: u64 = counts.iter().map(|(counted, _)| counted).sum();
    let refused: u64 = counts.iter().map(|(_, refused)| refused).sum();
    assert!(counted > 100 && refused > 0, "{counted}, {refused}");
    // The bound on a command, with room for a busy machine.
    let slowest = slowest.load(Ordering::Relaxed);
    assert!(slowest < 2000, "an operation took {slowest} ms");
}

/// A connection that is cut loses replies, not counts, and never counts twice. On a server that keeps running, the sum
/// is at least the confirmed count and at most the requested count.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cut_connection_never_counts_twice() {
    let server = RedisServer::start();
    let store = Arc::new(RedisStore::connect(quick(&server)).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        tasks.spawn(async move {
            let (mut told, mut asked) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                asked += 1;
                match store.increment("counter", 1).await {
                    Ok(_) => told += 1,
                    Err(error) => {
                        assert_unavailable(&error);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            (told, asked)
        });
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        server.talk("CLIENT KILL TYPE normal SKIPME yes").unwrap();
        recovers(&store).await;
    }
    stop.store(true, Ordering::Relaxed);
    let counts = tasks.join_all().await;
    let told: i64 = counts.iter().map(|(told, _)| told).sum();
    let asked: i64 = counts.iter().map(|(_, asked)| asked).sum();
    recovers(&store).await;
    let sum = store.increment("counter", 0).await.unwrap();
    assert!(told <= sum && sum <= asked, "{told} <= {sum} <= {asked}");
    assert!(told < asked, "no reply was lost: nothing was tested");
}

/// A server that hangs is worse than one that is gone: its connections stay open.
#[tokio::test]
async fn a_server_that_hangs_costs_each_caller_its_time_and_no_more() {
    let server = RedisServer::start();
    let store = RedisStore::connect(quick(&server)).await.unwrap();
    let store = Arc::new(store);
    server.hold();
    let from = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let store = Arc::clone(&store);
        tasks.spawn(async move { store.get("entry").await });
    }
    for answer in tasks.join_all().await {
        assert_unavailable(&answer.unwrap_err());
    }
    assert!(
        from.elapsed() < Duration::from_secs(2),
        "together, not in turn"
    );
    server.release();
    recovers(&store).await;
}

/// A quiet store notices by itself, before a request does.
#[tokio::test]
async fn a_dead_connection_is_noticed_in_quiet_times() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(quick(&server)).await.unwrap();
    server.stop();
    let from = Instant::now();
    while store.connected() {
        assert!(from.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.restart();
    while !store.connected() {
        assert!(from.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_store_may_be_there_before_its_server() {
    let mut server = RedisServer::start();
    server.stop();
    let refused = RedisStore::connect(quick(&server)).await.err().unwrap();
    assert!(
        matches!(refused, ConnectError::Unreachable { .. }),
        "{refused}"
    );
    let store = RedisStore::start(quick(&server)).unwrap();
    assert_unavailable(&store.get("entry").await.unwrap_err());
    server.restart();
    recovers(&store).await;
}

#[tokio::test]
async fn passwords_are_used_and_never_told() {
    // In the URL the second one is escaped. No message may contain either form.
    let server = RedisServer::start_with(&["--requirepass", "s3cr3t/word"]);
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}/0", server.port());
    let mut settings = quick(&server);
    settings.url = url("s3cr3t%2Fword");
    let store = RedisStore::connect(settings.clone()).await.unwrap();
    store.set("entry", b"value").await.unwrap();
    let secret = |text: &str| text.contains("s3cr3t") || text.contains("wr0ng");
    assert!(!secret(&store.describe()), "{}", store.describe());
    assert!(!secret(&format!("{settings:?}")));

    settings.url = url("wr0ng%2Fword");
    let error = RedisStore::connect(settings.clone()).await.err().unwrap();
    assert!(!secret(&error.to_string()), "{error}");
    let store = RedisStore::start(settings.clone()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = store.get("entry").await.unwrap_err();
    assert_unavailable(&error);
    assert!(!secret(&error.to_string()), "{error}");

    for url in [
        "s3cr3t",
        "http://:s3cr3t@host",
        "redis://:s3cr3t@host:port/0",
        "redis://:s3cr3t@127.0.0.1/number",
        "redis+unix:///s3cr3t",
    ] {
        settings.url = url.to_owned();
        let error = RedisStore::connect(settings.clone()).await.err().unwrap();
        assert!(matches!(error, ConnectError::Setting(_)), "{url}: {error}");
        assert!(!secret(&error.to_string()), "{error}");
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let settings = RedisSettings::new("redis://127.0.0.1", "test");
    let change = |change: fn(&mut RedisSettings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        RedisStore::start(settings).err()
    };
    for refused in [
        change(|s| s.label.clear()),
        change(|s| s.label = "a*".into()),
        change(|s| s.label = "a:b".into()),
        change(|s| s.label = "l".repeat(65)),
        change(|s| s.max_in_flight = 0),
        change(|s| s.command_timeout = Duration::ZERO),
        change(|s| {
            s.url = "rediss://127.0.0.1".into();
            s.certificate_authorities = Some(b"-----BEGIN CERTIFICATE-----\nno".to_vec());
        }),
    ] {
        assert!(
            matches!(refused, Some(ConnectError::Setting(_))),
            "{refused:?}"
        );
    }
    assert!(change(|_| ()).is_none());
}

/// TLS with an authority of one's own: trusted when named, and refused when not.
#[tokio::test]
async fn tls_trusts_whom_it_is_told_to() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let made = made.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("certificate.pem"),
        directory.path().join("key.pem"),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = penstock_testkit::free_port();
    let _server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-ca-cert-file",
        certificate.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
    ]);
    let mut settings = RedisSettings::new(format!("rediss://localhost:{port}/0"), "test");
    let refused = RedisStore::connect(settings.clone()).await.err().unwrap();
    assert!(
        refused.to_string().contains("certificate"),
        "refused for its certificate: {refused}"
    );
    settings.certificate_authorities = Some(made.cert.pem().into_bytes());
    let store = RedisStore::connect(settings).await.unwrap();
    assert_eq!(store.increment("counter", 1).await.unwrap(), 1);
    assert!(store.describe().starts_with("rediss://localhost"));
}
