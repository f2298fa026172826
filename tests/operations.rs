//! Long-running operations over real HTTP, with the real components, store and runtime.

use crate::common;
use crate::support::graphs;

use common::{Options, Response, Server, heavy_model, try_call, until_found};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PREDICT: &str = "/v1/models/identity:predict";
const HEAVY: &str = "/v1/models/heavy:predictAsync";
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
fn store(folder: &Path) -> String {
    format!(
        "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
        folder.join("default.kv").display()
    )
}

/// Reads all pages of the list.
fn listed(server: &Server) -> Vec<Value> {
    let mut listed = Vec::new();
    let mut page = String::new();
    loop {
        let list = server
            .get(&format!("/v1/operations?page_size=200{page}"))
            .json();
        listed.extend(list["operations"].as_array().unwrap().clone());
        match list["next_page_token"].as_str() {
            Some(token) => page = format!("&page_token={token}"),
            None => return listed,
        }
    }
}

fn id_of(operation: &Value) -> String {
    operation["metadata"]["id"].as_str().unwrap().to_owned()
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
}

#[test]
fn a_call_that_validation_refuses_gets_422_at_once_and_leaves_no_operation() {
    let server = Server::start();
    server.ready();
    let body = r#"{"inputs":{"a":[["x"]]}}"#;
    for refused in [
        defer(&server, &[], body),
        defer(&server, &[("prefer", "wait=10")], body),
        defer(&server, &[("idempotency-key", "refused")], body),
        server.post_json("/v1/models/identity:predictAsync", body),
    ] {
        let text = String::from_utf8_lossy(&refused.bytes);
        assert_eq!(refused.status, 422, "{text}");
        assert_eq!(refused.header("location"), None, "{text}");
        assert_eq!(refused.header("preference-applied"), None, "{text}");
    }
    let listed = listed(&server);
    assert!(listed.is_empty(), "{listed:?}");
}

#[test]
fn a_stream_is_answered_at_once_and_never_becomes_an_operation() {
    for (policy, status_of_a_call) in [("", 200), ("[operations]\nfrom_items = 1\n", 202)] {
        let server = Server::start_with(Options {
            policy: Some(policy),
            ..Options::default()
        });
        server.ready();
        let headers = [
            ("content-type", "application/json"),
            ("accept", "text/event-stream"),
            ("prefer", "respond-async"),
        ];
        let path = "/v2/models/identity/generate_stream";
        let body = r#"{"a":[1,2,3,4]}"#;
        let answer = server.call("POST", path, &headers, Some(body.as_bytes()));
        let text = String::from_utf8_lossy(&answer.bytes);
        assert_eq!(answer.status, 200, "{policy}: {text}");
        let content_type = answer.header("content-type").unwrap_or_default();
        assert!(
            content_type.starts_with("text/event-stream"),
            "{policy}: {content_type}"
        );
        let event: Value = serde_json::from_str(text.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["model_name"], "identity", "{event}");
        assert!(event["b"].is_array(), "{event}");
        assert_eq!(answer.header("location"), None, "{policy}");
        assert_eq!(answer.header("preference-applied"), None, "{policy}");
        let listed = listed(&server);
        assert!(listed.is_empty(), "{policy}: {listed:?}");
        // The setting has its effect on a call without a stream.
        let call = server.post_json(PREDICT, ONE_ITEM);
        assert_eq!(call.status, status_of_a_call, "{policy}");
    }
}

const STORM_POLICY: &str = "[operations]\nlease_ms = 1000\nworkers = 1\nmax_attempts = 16\n\
                            [idempotency]\nlease_ms = 1000\n";

/// Calls that are posted while the server is killed and started again.
struct Storm {
    /// The address of the server; `None` while there is none.
    address: Mutex<Option<SocketAddr>>,
    /// The number of the next call.
    next: AtomicUsize,
    /// The operations of the calls that have a 202, by the numbers of the calls.
    accepted: Mutex<BTreeMap<usize, String>>,
    /// Posts that a kill cut off.
    cut_off: AtomicUsize,
    /// Posts that were answered with an error that passes.
    refused: AtomicUsize,
    deadline: Instant,
}

impl Storm {
    const CALLS: usize = 120;
    const POSTERS: usize = 4;
    /// The last kill comes when every call has its 202.
    const KILLS: usize = 4;
    /// Some 20 ms for a run, so that the posters post faster than the one worker runs.
    const ROUNDS: usize = 20_000;

    /// Looks until there is a value.
    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < self.deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Posts calls, one after the other, until no call is left.
    fn post_all(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= Self::CALLS {
                return;
            }
            let id = self.post(number);
            self.accepted.lock().unwrap().insert(number, id);
        }
    }

    /// Posts a call with its key until it has a 202. Returns the id of its operation.
    fn post(&self, number: usize) -> String {
        self.until("a 202", || self.try_post(number))
    }

    fn try_post(&self, number: usize) -> Option<String> {
        let address = (*self.address.lock().unwrap())?;
        let key = format!("call-{number}");
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", key.as_str()),
        ];
        let body = json!({ "inputs": { "times": [Self::ROUNDS], "x": [number] } }).to_string();
        let sent = try_call(address, "POST", HEAVY, &headers, Some(body.as_bytes()));
        let Ok(answer) = sent else {
            self.cut_off.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        if answer.status == 202 {
            return Some(id_of(&answer.json()));
        }
        // The server that died holds the key until its lease ends.
        let text = String::from_utf8_lossy(&answer.bytes);
        assert!(
            [409, 503].contains(&answer.status),
            "call {number}: {} {text}",
            answer.status
        );
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Reads an operation until it has ended. The reads have no `Prefer: wait`, so they make nothing run.
    fn ended(&self, server: &Server, number: usize, id: &str) -> Value {
        self.until("the end of all operations", || {
            let answer = server.get(&format!("/v1/operations/{id}"));
            assert_eq!(answer.status, 200, "call {number}: {id} is lost");
            let operation = answer.json();
            (operation["done"] == true).then_some(operation)
        })
    }
}

/// The metadata of operations, by their ids.
fn metadata(operations: &[Value]) -> BTreeMap<String, Value> {
    operations
        .iter()
        .map(|operation| (id_of(operation), operation["metadata"].clone()))
        .collect()
}

#[test]
fn operations_survive_a_server_that_is_killed_again_and_again_and_each_ends_once() {
    let folder = tempfile::tempdir().unwrap();
    let models = heavy(folder.path());
    let start = || {
        let server = Server::start_with(Options {
            policy: Some(STORM_POLICY),
            runtime_config_text: Some(store(folder.path())),
            models: Some(models.clone()),
            ..Options::default()
        });
        server.ready();
        server
    };
    let first = start();
    let storm = Storm {
        address: Mutex::new(Some(first.address)),
        next: AtomicUsize::new(0),
        accepted: Mutex::default(),
        cut_off: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
        deadline: Instant::now() + Duration::from_secs(40),
    };
    // The operations that had ended before a kill, and the number of the others at each kill.
    let mut ended_before = BTreeMap::new();
    let mut unfinished = Vec::new();
    let server = std::thread::scope(|scope| {
        for _ in 0..Storm::POSTERS {
            scope.spawn(|| storm.post_all());
        }
        let mut server = first;
        for kill in 1..=Storm::KILLS {
            let wanted = kill * Storm::CALLS / Storm::KILLS;
            storm.until("the 202s before a kill", || {
                (storm.accepted.lock().unwrap().len() >= wanted).then_some(())
            });
            let (ended, others): (Vec<Value>, Vec<Value>) = listed(&server)
                .into_iter()
                .partition(|operation| operation["done"] == true);
            for (id, end) in metadata(&ended) {
                ended_before.entry(id).or_insert(end);
            }
            unfinished.push(others.len());
            server.kill();
            *storm.address.lock().unwrap() = None;
            server = start();
            *storm.address.lock().unwrap() = Some(server.address);
        }
        server
    });
    let accepted = storm.accepted.lock().unwrap().clone();
    let mut ends = Vec::new();
    for (&number, id) in &accepted {
        let operation = storm.ended(&server, number, id);
        assert_eq!(operation["metadata"]["state"], "succeeded", "{operation}");
        let y = operation["response"]["predictions"][0]["y"][0].as_f64();
        let expected = (number + Storm::ROUNDS) as f64;
        assert_eq!(y, Some(expected), "call {number}: {operation}");
        ends.push(operation);
    }
    let ends = metadata(&ends);
    let cut_off = storm.cut_off.load(Ordering::Relaxed);
    let ran_again = ends.values().filter(|end| end["attempt"] != 1).count();
    println!(
        "{} calls and {} kills: {cut_off} posts were cut off, and {} refused; operations that were unfinished at the \
         kills: {unfinished:?}; {} had ended before a kill; {ran_again} ran more than once",
        accepted.len(),
        Storm::KILLS,
        storm.refused.load(Ordering::Relaxed),
        ended_before.len()
    );
    assert!(cut_off > 0, "no kill cut a post off");
    assert!(
        unfinished.iter().any(|count| *count > 0),
        "all operations had ended before each kill"
    );
    assert_eq!(ends.len(), Storm::CALLS, "no two calls share an operation");
    for (id, before) in &ended_before {
        assert_eq!(ends.get(id), Some(before), "{id} ended a second time");
    }
    for (&number, id) in &accepted {
        assert_eq!(storm.post(number), *id, "call {number}: retried");
    }
    let listed = listed(&server);
    assert_eq!(listed.len(), Storm::CALLS);
    assert_eq!(metadata(&listed), ends);
}

/// Longer than any test.
const LONG: &str = r#"{"inputs":{"times":[2000000000],"x":[1]}}"#;

/// A models directory with `heavy`, which counts.
fn heavy(folder: &Path) -> PathBuf {
    let models = folder.join("models");
    let contract = heavy_model::counting_contract(2);
    heavy_model::put(&models, &contract, &graphs::counting_loop());
    models
}

/// Waits until an operation is in a state.
fn reaches(server: &Server, location: &str, state: &str) -> Value {
    until_found(|| {
        let operation = server.get(location).json();
        if operation["metadata"]["state"] == state {
            Ok(operation)
        } else {
            Err(operation)
        }
    })
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
        let answer = server.post_json(HEAVY, LONG);
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
