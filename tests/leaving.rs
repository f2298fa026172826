//! Callers that disconnect before their answer, over HTTP, through both entry points and all policies. A waiting call
//! leaves the model's queue, and its charges are returned. A running call with an `Idempotency-Key` finishes, because a
//! retry will ask for the answer.

use crate::common;

use common::{Options, Response, Server, connect, root};
use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const SLOW: &str = "/v1/models/slow:predict";
const BODY: &str = r#"{"inputs":{"a":[[0.001]]}}"#;
const DOORS: [&str; 2] = ["direct", "http"];

/// `slow` with one instance, so that the second call waits for the first.
fn server(door: &'static str, policy: &str, engine: &str) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("slow");
    std::fs::create_dir_all(model.join("1")).unwrap();
    let from = root().join("tests/data/slow");
    std::fs::copy(from.join("1/model.onnx"), model.join("1/model.onnx")).unwrap();
    let contract = std::fs::read_to_string(from.join("model.toml")).unwrap();
    std::fs::write(
        model.join("model.toml"),
        format!("{contract}\n[engine]\nlanes = 1\n{engine}"),
    )
    .unwrap();
    let server = Server::start_with(Options {
        door: Some(door),
        policy_text: Some(policy.to_owned()),
        models: Some(folder.path().to_owned()),
        ..Options::default()
    });
    server.ready();
    (server, folder)
}

/// A client that has sent its call. It hangs up when it is dropped, which an HTTP client cannot do before the answer.
fn sent(server: &Server, key: Option<&str>) -> TcpStream {
    let mut stream = connect(server.address);
    let key = key.map_or(String::new(), |key| format!("idempotency-key: {key}\r\n"));
    write!(
        stream,
        "POST {SLOW} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
    .unwrap();
    stream
}

fn predict(server: &Server, key: Option<&str>) -> Response {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    server.call("POST", SLOW, &headers, Some(BODY.as_bytes()))
}

/// Items of the model that were charged.
fn items(server: &Server) -> u64 {
    let answer = server.get("/v1/usage").json();
    let rows = answer["usage"].as_array().unwrap();
    rows.iter()
        .filter(|row| row["model"] == "slow")
        .filter_map(|row| row["items"].as_u64())
        .sum()
}

/// The time of a run on this machine now.
fn pace(server: &Server) -> Duration {
    let begun = Instant::now();
    assert_eq!(predict(server, None).status, 200);
    begun.elapsed()
}

/// Long enough for a request to reach the model on a busy machine, and shorter than its run.
fn a_moment(pace: Duration) -> Duration {
    pace / 3
}

#[test]
fn a_client_that_hangs_up_while_it_waits_frees_its_place() {
    for door in DOORS {
        let (server, _folder) = server(
            door,
            "[usage]\nenabled = true\n[[limits]]\nname = \"at-once\"\nalgorithm = \"concurrency\"\nlimit = 2\n",
            "queue_max = 1\n",
        );
        let moment = a_moment(pace(&server));
        let runs = sent(&server, None);
        std::thread::sleep(moment);
        let waits = sent(&server, None);
        std::thread::sleep(moment / 4);
        // The queue is full, and so is the limit on calls at once.
        let refused = predict(&server, None);
        assert_eq!(refused.status, 429, "{door}: {}", refused.json());
        drop(waits);
        std::thread::sleep(moment / 4);
        // Both places are free again, although the first call still runs.
        let answer = predict(&server, None);
        assert_eq!(answer.status, 200, "{door}: {}", answer.json());
        drop(runs);
        // The first call, the one that ran, and the last one count. The one that left does not.
        assert_eq!(items(&server), 3, "{door}");
    }
}

#[test]
fn a_keyed_call_that_waits_leaves_the_line_and_its_claim() {
    for door in DOORS {
        let (server, _folder) = server(door, "[usage]\nenabled = true\n", "");
        let moment = a_moment(pace(&server));
        let runs = sent(&server, None);
        std::thread::sleep(moment);
        let waits = sent(&server, Some("k"));
        std::thread::sleep(moment / 4);
        drop(waits);
        std::thread::sleep(moment / 4);
        // No call holds the key, and nothing is replayed: this is the run.
        let answer = predict(&server, Some("k"));
        assert_eq!(answer.status, 200, "{door}: {}", answer.json());
        assert_eq!(answer.header("idempotency-replayed"), None, "{door}");
        let again = predict(&server, Some("k"));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        drop(runs);
        assert_eq!(items(&server), 3, "{door}");
    }
}

#[test]
fn a_keyed_call_that_runs_is_run_to_its_end_for_the_retry() {
    for door in DOORS {
        let (server, _folder) = server(door, "[usage]\nenabled = true\n", "");
        let pace = pace(&server);
        let gone = sent(&server, Some("k"));
        std::thread::sleep(a_moment(pace));
        drop(gone);
        let begun = Instant::now();
        let answer = loop {
            let answer = predict(&server, Some("k"));
            if answer.status != 409 {
                break answer;
            }
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(answer.status, 200, "{door}: {}", answer.json());
        assert_eq!(
            answer.header("idempotency-replayed"),
            Some("true"),
            "{door}: the model ran twice"
        );
        assert_eq!(items(&server), 2, "{door}");
    }
}

#[test]
fn a_call_without_a_key_is_given_up_where_it_runs() {
    for door in DOORS {
        let (server, _folder) = server(
            door,
            "[usage]\nenabled = true\n[[limits]]\nname = \"at-once\"\nalgorithm = \"concurrency\"\nlimit = 1\n",
            "",
        );
        let moment = a_moment(pace(&server));
        let gone = sent(&server, None);
        std::thread::sleep(moment);
        assert_eq!(predict(&server, None).status, 429, "{door}: it runs");
        drop(gone);
        std::thread::sleep(moment / 2);
        // Its place in the limit is free before its run would have ended.
        assert_eq!(predict(&server, None).status, 200, "{door}");
        assert_eq!(items(&server), 2, "{door}: nobody pays for it");
    }
}

#[test]
fn a_deadline_is_504_and_gives_back_what_was_taken() {
    for door in DOORS {
        let (server, _folder) = server(
            door,
            "[server]\ntotal_timeout_ms = 40\n[usage]\nenabled = true\n[idempotency]\nenabled = true\n",
            "",
        );
        let late = predict(&server, Some("k"));
        let shed = late.status == 503;
        let told: Value = late.json();
        if shed {
            // An engine that knows its pace refuses it before it runs.
            assert_eq!(told["error"]["code"], "overloaded", "{door}: {told}");
            assert!(late.header("retry-after").is_some());
        } else {
            assert_eq!(late.status, 504, "{door}: {told}");
            assert_eq!(told["error"]["code"], "deadline_exceeded");
        }
        // The claim is released, so the same call is not in flight forever.
        let begun = Instant::now();
        loop {
            let again = predict(&server, Some("k"));
            if again.status != 409 {
                assert!([503, 504].contains(&again.status), "{}", again.json());
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{door}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_full_line_is_503_with_a_time_to_come_back() {
    for door in DOORS {
        let (server, _folder) = server(door, "", "queue_max = 1\n");
        let moment = a_moment(pace(&server));
        let runs = sent(&server, None);
        std::thread::sleep(moment);
        let waits = sent(&server, None);
        std::thread::sleep(moment / 4);
        let refused = predict(&server, None);
        let told = refused.json();
        assert_eq!(
            (refused.status, &told["error"]["code"]),
            (503, &json!("overloaded")),
            "{door}"
        );
        let message = told["error"]["message"].as_str().unwrap();
        assert!(!message.contains("queue_full"), "{message}");
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        drop((runs, waits));
    }
}
