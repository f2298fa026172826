//! Limits, idempotency and usage over HTTP: the built components in the built server, on all stores,
//! with crashes.

use crate::common;

use common::{Options, Response, Server, call, root, try_call};
use penstock_testkit::RedisServer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

const IDENTITY: &str = "/v1/models/identity:predict";
const SLOW: &str = "/v1/models/slow:predict";
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
const SLOW_BODY: &str = r#"{"inputs":{"a":[[0.001]]}}"#;

/// Models `identity` and `slow` in a new folder.
fn models(folder: &Path) -> std::path::PathBuf {
    let models = folder.join("models");
    for (name, from) in [("identity", "models/identity"), ("slow", "tests/data/slow")] {
        std::fs::create_dir_all(models.join(name).join("1")).unwrap();
        for file in ["model.toml", "1/model.onnx"] {
            let to = models.join(name).join(file);
            std::fs::copy(root().join(from).join(file), to).unwrap();
        }
    }
    models
}

fn server(policy: &str, runtime_config: Option<String>) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(Options {
        policy_text: Some(policy.to_owned()),
        runtime_config_text: runtime_config,
        models: Some(models(folder.path())),
        ..Options::default()
    });
    server.ready();
    (server, folder)
}

fn predict(address: SocketAddr, path: &str, key: Option<&str>, body: &str) -> Response {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    call(address, "POST", path, &headers, Some(body.as_bytes()))
}

fn code(answer: &Response) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Sends calls at once from as many threads, and returns the answers.
fn at_once(count: usize, one: impl Fn(usize) -> Response + Sync) -> Vec<Response> {
    let (barrier, one) = (Barrier::new(count), &one);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|n| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    one(n)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn statuses(answers: &[Response]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status).or_default() += 1;
    }
    counts
}

/// The usage counters of one model.
fn used(address: SocketAddr, model: &str) -> Value {
    let answer = call(address, "GET", "/v1/usage", &[], None);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let rows = answer.json()["usage"].as_array().unwrap().clone();
    let row = rows.into_iter().find(|row| row["model"] == model);
    row.unwrap_or_else(|| json!({ "requests": 0, "items": 0 }))
}

#[test]
fn sixty_four_callers_with_one_key_run_a_slow_model_once() {
    let (server, _folder) = server("[usage]\nenabled = true\n", None);
    let answers = at_once(64, |_| predict(server.address, SLOW, Some("k"), SLOW_BODY));
    let counts = statuses(&answers);
    assert_eq!(
        counts.values().sum::<usize>(),
        counts.get(&200).unwrap_or(&0) + counts.get(&409).unwrap_or(&0),
        "{counts:?}"
    );
    let mut bodies: Vec<&[u8]> = Vec::new();
    let mut executed = 0;
    for answer in &answers {
        match answer.status {
            200 => {
                executed += usize::from(answer.header("idempotency-replayed").is_none());
                bodies.push(&answer.bytes);
            }
            _ => {
                assert_eq!(code(answer), "idempotency_in_flight");
                assert_eq!(answer.header("retry-after"), Some("1"));
            }
        }
    }
    assert_eq!(executed, 1, "{counts:?}");
    // All later callers get the same bytes.
    let later = at_once(16, |_| predict(server.address, SLOW, Some("k"), SLOW_BODY));
    for answer in &later {
        assert_eq!(answer.header("idempotency-replayed"), Some("true"));
        bodies.push(&answer.bytes);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let row = used(server.address, "slow");
    assert_eq!((&row["requests"], &row["items"]), (&json!(80), &json!(1)));
}

#[test]
fn of_twenty_five_requests_against_a_limit_of_twenty_exactly_twenty_pass() {
    for algorithm in ["sliding-window", "fixed-window"] {
        let policy = format!(
            "[[limits]]\nname = \"all\"\nalgorithm = \"{algorithm}\"\nlimit = 20\nwindow_s = 3600\n"
        );
        let (one_by_one, _folder) = server(&policy, None);
        for n in 0..25 {
            let answer = predict(one_by_one.address, IDENTITY, None, ONE_ITEM);
            let remaining = answer.header("x-ratelimit-remaining").unwrap().to_owned();
            if n < 20 {
                assert_eq!(answer.status, 200, "{n}: {}", answer.json());
                assert_eq!(remaining, (19 - n).to_string());
                let policy = answer.header("ratelimit-policy").unwrap();
                assert_eq!(policy, "\"all\";q=20;w=3600");
                let service = answer.header("ratelimit").unwrap();
                assert!(
                    service.starts_with(&format!("\"all\";r={};t=", 19 - n)),
                    "{service}"
                );
                assert_eq!(answer.header("x-ratelimit-limit"), Some("20"));
            } else {
                assert_eq!((answer.status, remaining.as_str()), (429, "0"), "{n}");
                assert_eq!(code(&answer), "quota_exceeded");
                let message = answer.json()["error"]["message"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                assert!(message.contains("`all` of 20 requests"), "{message}");
                let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=7200).contains(&seconds));
            }
        }
        drop(one_by_one);
        let (at_the_same_time, _folder) = server(&policy, None);
        let address = at_the_same_time.address;
        let answers = at_once(25, |_| predict(address, IDENTITY, None, ONE_ITEM));
        assert_eq!(
            statuses(&answers),
            BTreeMap::from([(200, 20), (429, 5)]),
            "{algorithm}"
        );
    }
}

#[test]
fn bursts_and_drips_pass_as_each_algorithm_promises() {
    // A window of two seconds returns all units in four.
    for algorithm in ["sliding-window", "fixed-window"] {
        let policy = format!(
            "[backoff]\nsoft = false\n[[limits]]\nname = \"all\"\nalgorithm = \"{algorithm}\"\nlimit = 5\nwindow_s = 2\n"
        );
        let (server, _folder) = server(&policy, None);
        let burst = at_once(12, |_| predict(server.address, IDENTITY, None, ONE_ITEM));
        let passed = statuses(&burst)[&200];
        // A window may end in the middle.
        assert!((5..=10).contains(&passed), "{algorithm}: {passed}");
        std::thread::sleep(Duration::from_millis(4_100));
        let again = at_once(5, |_| predict(server.address, IDENTITY, None, ONE_ITEM));
        assert_eq!(statuses(&again)[&200], 5, "{algorithm}");
    }
    // A bucket of four that refills with two per second.
    let (bucket, _folder) = server(
        "[backoff]\nsoft = false\n[[limits]]\nname = \"bucket\"\nalgorithm = \"token-bucket\"\nlimit = 2\nwindow_s = 1\nburst = 4\n",
        None,
    );
    let started = Instant::now();
    let burst = at_once(12, |_| predict(bucket.address, IDENTITY, None, ONE_ITEM));
    let passed = statuses(&burst)[&200];
    let most = 4 + 1 + 2 * (started.elapsed().as_millis() as usize).div_ceil(1000);
    assert!((4..=most).contains(&passed), "{passed}");
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(550));
        let drip = predict(bucket.address, IDENTITY, None, ONE_ITEM);
        assert_eq!(drip.status, 200, "{}", drip.json());
    }
    drop(bucket);
    // Ten per second, one after the other, even if they come at once.
    let (paced, _folder) = server(
        "[[limits]]\nname = \"pace\"\nalgorithm = \"leaky-bucket\"\nlimit = 10\nwindow_s = 1\nmax_wait_ms = 1500\n",
        None,
    );
    let started = Instant::now();
    let burst = at_once(8, |_| predict(paced.address, IDENTITY, None, ONE_ITEM));
    assert_eq!(statuses(&burst), BTreeMap::from([(200, 8)]));
    assert!(
        started.elapsed() >= Duration::from_millis(690),
        "eight calls a tenth of a second apart took {:?}",
        started.elapsed()
    );
    drop(paced);
    // A daily quota is exact.
    let (day, _folder) = server(
        "[[limits]]\nname = \"day\"\nalgorithm = \"calendar\"\nperiod = \"month\"\ntime_zone = \"Europe/Berlin\"\nlimit = 3\n",
        None,
    );
    let answers: Vec<Response> = (0..5)
        .map(|_| predict(day.address, IDENTITY, None, ONE_ITEM))
        .collect();
    assert_eq!(statuses(&answers), BTreeMap::from([(200, 3), (429, 2)]));
}

#[test]
fn calls_at_once_are_limited_and_their_places_given_back() {
    let (server, _folder) = server(
        "[[limits]]\nname = \"at-once\"\nalgorithm = \"concurrency\"\nlimit = 2\nmodels = [\"slow\"]\n",
        None,
    );
    for _ in 0..2 {
        let answers = at_once(6, |_| predict(server.address, SLOW, None, SLOW_BODY));
        let passed = statuses(&answers)[&200];
        // A call that ends early makes room for one that came late.
        assert!((2..=3).contains(&passed), "{passed}");
        let refused = answers.iter().find(|a| a.status == 429).expect("a refusal");
        assert!(refused.header("retry-after").is_some());
    }
    let other = predict(server.address, IDENTITY, None, ONE_ITEM);
    assert_eq!(other.status, 200, "the limit is the other model's");
}

#[test]
fn items_and_bytes_are_counted_and_a_refused_call_burns_nothing() {
    let (server, _folder) = server(
        "[[limits]]\nname = \"calls\"\nalgorithm = \"fixed-window\"\nlimit = 100\nwindow_s = 3600\n\
         [[limits]]\nname = \"items\"\nalgorithm = \"fixed-window\"\nlimit = 10\nwindow_s = 3600\nunit = \"items\"\n\
         [[limits]]\nname = \"bytes\"\nalgorithm = \"fixed-window\"\nlimit = 1000\nwindow_s = 3600\nunit = \"bytes\"\n",
        None,
    );
    let body = |items: usize| json!({ "inputs": { "a": vec![[1, 2, 3, 4]; items] } }).to_string();
    let left = |answer: &Response, name: &str| -> u64 {
        let list = answer.header("ratelimit").unwrap();
        let item = list
            .split(", ")
            .find(|i| i.starts_with(&format!("\"{name}\"")));
        let remaining = item.unwrap().split(";r=").nth(1).unwrap();
        remaining.split(';').next().unwrap().parse().unwrap()
    };
    let first = predict(server.address, IDENTITY, None, &body(8));
    assert_eq!(first.status, 200, "{}", first.json());
    assert_eq!((left(&first, "calls"), left(&first, "items")), (99, 2));
    assert_eq!(left(&first, "bytes"), 1000 - body(8).len() as u64);
    // Too many items: neither the call nor its bytes count.
    let refused = predict(server.address, IDENTITY, None, &body(3));
    assert_eq!(
        (refused.status, code(&refused).as_str()),
        (429, "quota_exceeded")
    );
    assert!(
        refused.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("`items`")
    );
    let second = predict(server.address, IDENTITY, Some("k"), &body(2));
    assert_eq!((left(&second, "calls"), left(&second, "items")), (98, 0));
    assert_eq!(
        left(&second, "bytes"),
        1000 - body(8).len() as u64 - body(2).len() as u64
    );
    // A replay is a call, and its items are not.
    let replay = predict(server.address, IDENTITY, Some("k"), &body(2));
    assert_eq!(replay.status, 200);
    assert_eq!(replay.bytes, second.bytes);
    assert_eq!(left(&replay, "calls"), 97);
    // More bytes at once than are ever allowed.
    let large = predict(server.address, IDENTITY, None, &body(80));
    assert_eq!(
        (large.status, code(&large).as_str()),
        (413, "body_too_large")
    );
    assert!(large.header("retry-after").is_none());
}

#[test]
fn a_shadow_limit_counts_and_refuses_nobody_and_headers_are_not_for_callers_to_forge() {
    let (server, _folder) = server(
        "[[limits]]\nname = \"shadow\"\nper = [\"address\"]\nalgorithm = \"fixed-window\"\nlimit = 1\nwindow_s = 3600\nshadow = true\n\
         [[limits]]\nname = \"address\"\nper = [\"address\"]\nalgorithm = \"fixed-window\"\nlimit = 3\nwindow_s = 3600\n",
        None,
    );
    let passed = (0..6)
        .filter(|n| {
            let forged = format!("192.0.2.{n}:1");
            let headers = [
                ("content-type", "application/json"),
                ("spin-client-addr", forged.as_str()),
            ];
            server
                .call("POST", IDENTITY, &headers, Some(ONE_ITEM.as_bytes()))
                .status
                == 200
        })
        .count();
    assert_eq!(
        passed, 3,
        "a client that names another address is still itself"
    );
}

/// The answers to callers in a storm: each key with its body.
type Answers = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Sends keyed calls from eight threads until the server is gone.
fn storm(
    address: SocketAddr,
    round: usize,
    told: &Answers,
    sent: &Arc<AtomicU64>,
) -> Vec<std::thread::JoinHandle<()>> {
    (0..8)
        .map(|thread| {
            let (told, sent) = (told.clone(), sent.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    let key = format!("{round}-{thread}-{n}");
                    let body = format!(r#"{{"inputs":{{"a":[[{round},{thread},{n},0]]}}}}"#);
                    sent.fetch_add(1, Ordering::Relaxed);
                    let Some(answer) = try_predict(address, &key, &body) else {
                        return;
                    };
                    assert_eq!(answer.0, 200);
                    told.lock().unwrap().insert(key, answer.1);
                }
            })
        })
        .collect()
}

/// A call to a server that may be gone; `None` without a whole answer.
fn try_predict(address: SocketAddr, key: &str, body: &str) -> Option<(u16, Vec<u8>)> {
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    let answer = try_call(address, "POST", IDENTITY, &headers, Some(body.as_bytes())).ok()?;
    let length: usize = answer.header("content-length")?.parse().ok()?;
    (answer.bytes.len() == length).then_some((answer.status, answer.bytes))
}

#[test]
fn a_killed_server_forgets_nothing_it_told_and_runs_nothing_of_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
        folder.path().join("store").display()
    );
    let models = models(folder.path());
    let start = || {
        let server = Server::start_with(Options {
            policy: Some("[idempotency]\nlease_ms = 1000\n[usage]\nenabled = true\n"),
            runtime_config_text: Some(config.clone()),
            models: Some(models.clone()),
            ..Options::default()
        });
        server.ready();
        server
    };
    let (told, sent) = (Answers::default(), Arc::new(AtomicU64::new(0)));
    for round in 0..4 {
        let server = start();
        let threads = storm(server.address, round, &told, &sent);
        std::thread::sleep(Duration::from_millis(400 + 150 * round as u64));
        server.kill();
        for thread in threads {
            thread.join().expect("every answer of a storm is a 200");
        }
    }
    let server = start();
    let told = told.lock().unwrap();
    assert!(
        told.len() > 100,
        "{} answers are too few to show anything",
        told.len()
    );
    // The counted items are at least the answered ones, and at most the sent ones.
    let counted = used(server.address, "identity")["items"].as_u64().unwrap();
    let range = told.len() as u64..=sent.load(Ordering::Relaxed);
    assert!(range.contains(&counted), "{counted} of {range:?}");
    for (key, body) in told.iter() {
        let parts: Vec<&str> = key.split('-').collect();
        let request = format!(
            r#"{{"inputs":{{"a":[[{},{},{},0]]}}}}"#,
            parts[0], parts[1], parts[2]
        );
        let answer = predict(server.address, IDENTITY, Some(key), &request);
        assert_eq!(answer.status, 200, "{key}: {}", answer.json());
        assert_eq!(answer.header("idempotency-replayed"), Some("true"), "{key}");
        assert_eq!(&answer.bytes, body, "{key}");
    }
    let after = used(server.address, "identity")["items"].as_u64().unwrap();
    assert_eq!(after, counted, "replays run nothing");
}

fn on_redis(url: &str) -> Option<String> {
    Some(format!(
        "[key_value_store.default]\ntype = \"redis\"\nurl = \"{url}\"\n\
         [key_value_store.counters]\ntype = \"redis\"\nurl = \"{url}\"\n"
    ))
}

#[test]
fn three_servers_on_one_redis_hold_one_limit_and_run_a_call_once() {
    let redis = RedisServer::start();
    let policy = "[usage]\nenabled = true\n\
        [[limits]]\nname = \"window\"\nalgorithm = \"sliding-window\"\nlimit = 20\nwindow_s = 3600\nmodels = [\"identity\"]\n\
        [[limits]]\nname = \"bucket\"\nalgorithm = \"token-bucket\"\nlimit = 1\nwindow_s = 3600\nburst = 40\nmodels = [\"identity\"]\n";
    let servers: Vec<_> = (0..3)
        .map(|_| server(policy, on_redis(&redis.url())))
        .collect();
    let address = |n: usize| servers[n % 3].0.address;
    let answers = at_once(60, |n| predict(address(n), IDENTITY, None, ONE_ITEM));
    let counts = statuses(&answers);
    assert_eq!(counts, BTreeMap::from([(200, 20), (429, 40)]));
    let answers = at_once(30, |n| predict(address(n), SLOW, Some("k"), SLOW_BODY));
    let ran = answers
        .iter()
        .filter(|a| a.status == 200 && a.header("idempotency-replayed").is_none());
    assert_eq!(ran.count(), 1);
    let bodies: Vec<Vec<u8>> = (0..6)
        .map(|n| predict(address(n), SLOW, Some("k"), SLOW_BODY).bytes)
        .collect();
    assert!(bodies.iter().all(|b| *b == bodies[0]));
    assert_eq!(used(address(0), "slow")["items"], 1);
    assert_eq!(used(address(1), "slow")["requests"], 36);
}

#[test]
fn a_redis_that_goes_away_closes_or_opens_limits_as_configured_and_is_found_again() {
    let mut redis = RedisServer::start();
    let policy = "[idempotency]\non_store_failure = \"closed\"\n\
        [[limits]]\nname = \"strict\"\nalgorithm = \"fixed-window\"\nlimit = 100000\nwindow_s = 3600\nmodels = [\"slow\"]\non_store_failure = \"closed\"\n\
        [[limits]]\nname = \"lenient\"\nalgorithm = \"fixed-window\"\nlimit = 100000\nwindow_s = 3600\nmodels = [\"identity\"]\non_store_failure = \"open\"\n";
    let (server, _folder) = server(policy, on_redis(&redis.url()));
    let address = server.address;
    assert_eq!(predict(address, IDENTITY, Some("a"), ONE_ITEM).status, 200);
    // Under load: while the store disappears and returns, every answer is 200 or 503.
    let stop = Arc::new(AtomicU64::new(0));
    let load: Vec<_> = (0..4)
        .map(|thread| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut seen = BTreeMap::<u16, u64>::new();
                let mut n = 0;
                while stop.load(Ordering::Relaxed) == 0 {
                    n += 1;
                    let key = format!("load-{thread}-{n}");
                    let started = Instant::now();
                    let answer = predict(address, IDENTITY, Some(&key), ONE_ITEM);
                    assert!(started.elapsed() < Duration::from_secs(10));
                    *seen.entry(answer.status).or_default() += 1;
                }
                seen
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    redis.stop();
    std::thread::sleep(Duration::from_millis(500));
    let open = predict(address, IDENTITY, None, ONE_ITEM);
    assert_eq!(open.status, 200, "{}", open.json());
    let closed = predict(address, SLOW, None, SLOW_BODY);
    assert_eq!(
        (closed.status, code(&closed).as_str()),
        (503, "store_unavailable")
    );
    assert!(closed.header("retry-after").is_some());
    let keyed = predict(address, IDENTITY, Some("b"), ONE_ITEM);
    assert_eq!(
        (keyed.status, code(&keyed).as_str()),
        (503, "store_unavailable")
    );
    redis.restart();
    // Each label has its own connection.
    common::until("the stores are found again", || {
        predict(address, IDENTITY, Some("c"), ONE_ITEM).status == 200
            && predict(address, SLOW, None, SLOW_BODY).status == 200
    });
    stop.store(1, Ordering::Relaxed);
    for thread in load {
        let seen = thread.join().unwrap();
        assert!(
            seen.keys().all(|status| [200, 503].contains(status)),
            "{seen:?}"
        );
        assert!(
            seen.contains_key(&200) && seen.contains_key(&503),
            "{seen:?}"
        );
    }
}

#[test]
fn both_doors_lead_to_the_same_policies() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(Options {
        door: Some("http"),
        policy: Some(
            "[usage]\nenabled = true\n[[limits]]\nname = \"all\"\nalgorithm = \"fixed-window\"\nlimit = 3\nwindow_s = 3600\n",
        ),
        models: Some(models(folder.path())),
        ..Options::default()
    });
    server.ready();
    let first = predict(server.address, IDENTITY, Some("k"), ONE_ITEM);
    let second = predict(server.address, IDENTITY, Some("k"), ONE_ITEM);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.bytes, second.bytes);
    assert_eq!(used(server.address, "identity")["items"], 1);
    assert_eq!(
        predict(server.address, IDENTITY, None, ONE_ITEM).status,
        429
    );
}
