//! Long-running operations over real HTTP, with the real components, store and runtime.

use crate::common;
use crate::support::graphs;

use common::{Options, Response, Server, try_call};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PREDICT: &str = "/v1/models/identity:predict";
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;

fn defer(server: &Server, headers: &[(&str, &str)], body: &str) -> Response {
    let mut all = vec![
        ("content-type", "application/json"),
        ("prefer", "respond-async"),
    ];
    all.extend(headers.iter().copied());
    server.call("POST", PREDICT, &all, Some(body.as_bytes()))
}

/// Waits for the end of an operation, and returns it.
fn ended(server: &Server, location: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = server.call("GET", location, &[("prefer", "wait=10")], None);
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
        let operation = answer.json();
        if operation["done"] == true {
            return operation;
        }
        assert!(Instant::now() < deadline, "{operation}");
    }
}

/// The runtime configuration of a store that outlives its server.
fn store(folder: &std::path::Path) -> String {
    format!(
        "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
        folder.join("default.kv").display()
    )
}

#[test]
fn an_accepted_call_runs_and_its_operation_has_the_answer_of_a_synchronous_call() {
    let server = Server::start();
    server.ready();
    let accepted = defer(&server, &[], ONE_ITEM);
    assert_eq!(
        accepted.status,
        202,
        "{}",
        String::from_utf8_lossy(&accepted.bytes)
    );
    assert_eq!(accepted.header("preference-applied"), Some("respond-async"));
    assert_eq!(
        accepted.header("penstock-operation"),
        None,
        "the note is for the host"
    );
    let location = accepted.header("location").unwrap().to_owned();
    let operation = accepted.json();
    let id = operation["metadata"]["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/v1/operations/{id}"));
    assert_eq!(
        operation["name"],
        format!("tenants/anonymous/operations/{id}")
    );

    let operation = ended(&server, &location);
    assert_eq!(operation["metadata"]["state"], "succeeded");
    let synchronous = server.post_json(PREDICT, ONE_ITEM).json();
    assert_eq!(
        operation["response"]["predictions"],
        synchronous["predictions"]
    );
    assert_eq!(operation["metadata"]["attempt"], 1);

    let answer = server.get(&format!("{location}/response"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["predictions"], synchronous["predictions"]);
    assert!(answer.header("x-model-version").is_some());

    // The form of Google's clients has the members that these know, and no other.
    let google = server
        .get(&format!("/v1/tenants/anonymous/operations/{id}"))
        .json();
    let members: Vec<&String> = google.as_object().unwrap().keys().collect();
    assert_eq!(members, ["name", "metadata", "done", "response"]);
    assert_eq!(
        google["response"]["value"]["predictions"],
        synchronous["predictions"]
    );

    let list = server.get("/v1/operations?state=succeeded").json();
    assert_eq!(list["operations"][0]["metadata"]["id"], id);
    let cancelled = server.post_json(&format!("{location}:cancel"), "{}").json();
    assert_eq!(
        cancelled["metadata"]["state"], "succeeded",
        "it tells what really happened"
    );
    assert_eq!(server.call("DELETE", &location, &[], None).status, 200);
    let gone = server.get(&location);
    assert_eq!(
        (gone.status, gone.json()["error"]["code"].as_str()),
        (404, Some("unknown_operation"))
    );
}

#[test]
fn a_client_that_waits_long_enough_gets_the_answer_itself() {
    let server = Server::start();
    server.ready();
    let answer = defer(&server, &[("prefer", "wait=20")], ONE_ITEM);
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    assert!(answer.json()["predictions"].is_array() || answer.json()["predictions"].is_object());
    let operation = server.post_json("/v1/models/identity:predictAsync", ONE_ITEM);
    assert_eq!(operation.status, 202);
    let location = operation.header("location").unwrap();
    let waited = server
        .post_json(&format!("{location}:wait"), r#"{"timeout":"20s"}"#)
        .json();
    assert_eq!(waited["done"], true);
    // Bad input is refused at once, and not as an operation.
    let refused = defer(&server, &[], r#"{"inputs":{"a":[["x"]]}}"#);
    assert_eq!(refused.status, 422);
}

#[test]
fn operations_survive_a_server_that_is_killed_again_and_again_and_each_ends_once() {
    const OPERATIONS: usize = 120;
    const KILLS: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        Server::start_with(Options {
            policy: Some(
                "[operations]\nlease_ms = 1000\nworkers = 2\nmax_attempts = 16\n[idempotency]\nlease_ms = 1000\n",
            ),
            runtime_config_text: Some(store(folder.path())),
            ..Options::default()
        })
    };
    let mut server = start();
    server.ready();
    let mut accepted: BTreeMap<usize, String> = BTreeMap::new();
    for kill in 0..=KILLS {
        let killed_at = Instant::now() + Duration::from_millis(700);
        let mut number = 0;
        while (kill == KILLS && accepted.len() < OPERATIONS) || Instant::now() < killed_at {
            number = (number + 1) % OPERATIONS;
            if accepted.contains_key(&number) {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            let key = format!("kill-{number}");
            let body = json!({ "inputs": { "a": [[number, 0, 0, 1]] } }).to_string();
            let headers = [
                ("content-type", "application/json"),
                ("prefer", "respond-async"),
                ("idempotency-key", key.as_str()),
            ];
            let answer = try_call(
                server.address,
                "POST",
                PREDICT,
                &headers,
                Some(body.as_bytes()),
            );
            // A call whose key is still held by the server that died is repeated later.
            if let Ok(answer) = answer
                && answer.status == 202
            {
                let name = answer.json()["metadata"]["id"].as_str().unwrap().to_owned();
                accepted.insert(number, name);
            }
            if kill < KILLS {
                std::thread::sleep(Duration::from_millis(15));
            }
        }
        if kill < KILLS {
            server.kill();
            server = start();
            server.ready();
        }
    }
    for (number, id) in &accepted {
        let operation = ended(&server, &format!("/v1/operations/{id}"));
        assert_eq!(operation["metadata"]["state"], "succeeded", "{operation}");
        let text = operation["response"]["predictions"].to_string();
        assert!(
            text.contains(&format!("[{number}")),
            "{number}: {operation}"
        );
    }
    // One key made one operation, also where its answer was lost with the server.
    let mut listed = Vec::new();
    let mut page = String::new();
    loop {
        let list = server
            .get(&format!("/v1/operations?page_size=200{page}"))
            .json();
        listed.extend(list["operations"].as_array().unwrap().clone());
        match list["next_page_token"].as_str() {
            Some(token) => page = format!("&page_token={token}"),
            None => break,
        }
    }
    assert_eq!(listed.len(), accepted.len());
    assert!(listed.iter().all(|operation| operation["done"] == true));
}

/// A model that counts as long as it is told.
const LOOP: &str = r#"description = "Counts"
[[inputs]]
name = "times"
datatype = "INT64"
shape = [1]
[[inputs]]
name = "x"
datatype = "FP32"
shape = [1]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [1]
"#;

/// Longer than any test.
const LONG: &str = r#"{"inputs":{"times":[2000000000],"x":[1]}}"#;

fn heavy(folder: &std::path::Path) -> std::path::PathBuf {
    let models = folder.join("models");
    std::fs::create_dir_all(models.join("heavy/1")).unwrap();
    std::fs::write(models.join("heavy/model.toml"), LOOP).unwrap();
    std::fs::write(models.join("heavy/1/model.onnx"), graphs::counting_loop()).unwrap();
    models
}

/// Waits until an operation is in a state.
fn reaches(server: &Server, location: &str, state: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let operation = server.get(location).json();
        if operation["metadata"]["state"] == state {
            return operation;
        }
        assert!(Instant::now() < deadline, "{operation}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_running_operation_is_cancelled_and_one_that_a_stopping_server_gave_back_runs_again() {
    let folder = tempfile::tempdir().unwrap();
    let models = heavy(folder.path());
    let start = || {
        Server::start_with(Options {
            policy: Some("[server]\ndrain_timeout_ms = 4000\n[operations]\nworkers = 1\n"),
            runtime_config_text: Some(store(folder.path())),
            models: Some(models.clone()),
            ..Options::default()
        })
    };
    let mut server = start();
    server.ready();
    let long = |server: &Server| {
        let answer = server.post_json("/v1/models/heavy:predictAsync", LONG);
        assert_eq!(
            answer.status,
            202,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
        answer.header("location").unwrap().to_owned()
    };
    let (first, second) = (long(&server), long(&server));
    reaches(&server, &first, "running");
    let queued = reaches(&server, &second, "queued");
    assert_eq!(queued["metadata"]["queue_position"], 0);

    let asked = server.post_json(&format!("{first}:cancel"), "{}").json();
    assert_eq!(asked["metadata"]["cancel_requested"], true);
    let ended = ended(&server, &first);
    assert_eq!(ended["metadata"]["state"], "cancelled", "{ended}");
    assert_eq!(ended["error"]["code"], 1, "CANCELLED of gRPC");

    // The worker is free, and runs the next one, until the server is told to stop.
    reaches(&server, &second, "running");
    let (code, _) = server.terminate();
    assert_eq!(code, Some(0));
    let server = start();
    server.ready();
    let again = reaches(&server, &second, "running");
    assert_eq!(
        again["metadata"]["attempt"], 1,
        "the run that was given back does not count"
    );
    server.post_json(&format!("{second}:cancel"), "{}");
    let ended = reaches(&server, &second, "cancelled");
    assert_eq!(ended["done"], true);
}
