//! Tests event streams of operations through the gate: when a caller gets one, its parts, and where it begins again.

use crate::operations_common::{
    ASYNC, Answer, BODY, PREDICT, TOKEN, accept, get, get_own_list, order, ports, post, run, send,
};
use penstock_testkit::InMemory;
use penstock_testkit::keys::{add_key, add_tenant};
use penstock_testkit::models::{ECHO, echo};
use serde_json::{Value, json};

const EVENTS: (&str, &str) = ("accept", "text/event-stream");
const CONTENT_TYPE: &str = "text/event-stream; charset=utf-8";

/// An event, as a client of the HTML standard reads it.
#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
}

/// Reads the events of a part, and whether it says when to reconnect.
fn events(answer: &Answer) -> (bool, Vec<Event>) {
    let text = String::from_utf8(answer.response.body.to_vec()).unwrap();
    let (mut retry, mut events) = (false, Vec::new());
    for block in text.split_terminator("\n\n") {
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            block.lines().find_map(|line| line.strip_prefix(&prefix))
        };
        if field("retry") == Some("2000") {
            retry = true;
            continue;
        }
        let data: Vec<&str> = (block.lines())
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        events.push(Event {
            name: field("event").unwrap().to_owned(),
            id: field("id").map(str::to_owned),
            data: serde_json::from_str(&data.join("\n")).unwrap(),
        });
    }
    (retry, events)
}

/// The one event of a part.
fn event(answer: &Answer) -> Event {
    let (_, mut events) = events(answer);
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn call(ports: &InMemory, target: &str, headers: &[(&str, &str)]) -> Answer {
    send(ports, "POST", target, headers, BODY)
}

fn open(ports: &InMemory, id: &str, last: Option<&str>) -> Answer {
    let mut headers = vec![EVENTS];
    headers.extend(last.map(|last| ("last-event-id", last)));
    send(ports, "GET", &format!("/v1/operations/{id}"), &headers, b"")
}

/// The id of the operation that a stream is about.
fn id_of(answer: &Answer) -> String {
    answer.note["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_call_that_accepts_events_becomes_an_operation_whose_stream_begins_with_its_creation() {
    let ports = ports();
    let opened = call(&ports, PREDICT, &[EVENTS]);
    assert_eq!(opened.status(), 200);
    assert_eq!(opened.header("content-type"), Some(CONTENT_TYPE));
    assert_eq!(opened.header("cache-control"), Some("no-store"));
    assert_eq!(opened.header("x-accel-buffering"), Some("no"));
    assert_eq!(opened.header("content-encoding"), None);
    let id = id_of(&opened);
    let path = format!("/v1/operations/{id}");
    assert_eq!(opened.header("location"), Some(path.as_str()));
    assert!(events(&opened).0, "it says when to reconnect");
    let created = event(&opened);
    assert_eq!(created.name, "operation.created");
    assert_eq!(created.id, Some(format!("{id}.0")));
    assert_eq!(created.data, get(&ports, &path).body);
    assert_eq!(ports.runs.get(), 0);
    let next = json!({ "do": "stream", "form": "plain", "after": format!("{id}.0") });
    assert_eq!(
        opened.note,
        json!({
            "id": id, "push": { "tenant": "anonymous", "model": "m", "items": 3 }, "stream": next,
        })
    );

    // The host asks with the orders that it gets.
    let queued = order(&ports, &id, &next);
    let told = event(&queued);
    assert_eq!(
        (told.name.as_str(), told.id),
        ("operation.queued", Some(format!("{id}.1")))
    );
    assert!(!events(&queued).0, "once is enough");
    let next = &queued.note["stream"];
    let unchanged = order(&ports, &id, next);
    assert_eq!(unchanged.status(), 200);
    assert!(unchanged.response.body.is_empty());
    assert_eq!(&unchanged.note["stream"], next);
    run(&ports, &id);
    let ended = order(&ports, &id, next);
    let told = event(&ended);
    assert_eq!(
        (told.name.as_str(), told.id),
        ("operation.succeeded", Some(format!("{id}.end")))
    );
    assert_eq!(told.data, get(&ports, &path).body);
    assert!(told.data["response"]["predictions"].is_array());
    assert_eq!(ended.note, json!({ "id": id }), "it is over");
}

#[test]
fn every_call_that_may_become_an_operation_has_a_stream() {
    let ports = ports();
    let batch = br#"{"requests":[{"inputs":{"a":[[1,2]]}}]}"#;
    let tensor = br#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"data":[1,2]}]}"#;
    for (target, body) in [
        (PREDICT, BODY),
        ("/v1/models/m/versions/1:predict", BODY),
        ("/v1/models/m:predictAsync", BODY),
        ("/v1/models/m:batchPredict", batch),
        ("/v1/models/m:batchPredictAsync", batch),
        ("/v2/models/m/infer", tensor),
        ("/v2/models/m/generate", br#"{"a":[1,2]}"#),
    ] {
        let opened = send(&ports, "POST", target, &[EVENTS], body);
        assert_eq!(opened.status(), 200, "{target}: {}", opened.body);
        assert_eq!(event(&opened).name, "operation.created", "{target}");
        let id = id_of(&opened);
        run(&ports, &id);
        let ended = event(&open(&ports, &id, None));
        assert_eq!(
            ended.name, "operation.succeeded",
            "{target}: {:?}",
            ended.data
        );
        // A caller that accepts events reads JSON.
        assert!(
            ended.data["response"].get("content_type").is_none(),
            "{target}"
        );
    }
}

#[test]
fn json_is_answered_unless_a_stream_is_named_and_preferred() {
    let ports = ports();
    for (accept, streamed) in [
        ("application/json", false),
        ("*/*", false),
        ("text/event-stream, application/json", false),
        ("text/event-stream, */*", false),
        ("text/event-stream;q=0.5, application/json", false),
        ("text/event-stream, application/json;q=0.9", true),
        ("Text/Event-Stream", true),
    ] {
        let answer = call(&ports, PREDICT, &[("accept", accept)]);
        assert_eq!(answer.status(), 200, "{accept}: {}", answer.body);
        assert_eq!(answer.header("location").is_some(), streamed, "{accept}");
        assert_eq!(answer.body["predictions"].is_array(), !streamed, "{accept}");
    }
    let id = accept(&ports).id();
    let path = format!("/v1/operations/{id}");
    let json = send(&ports, "GET", &path, &[("accept", "*/*")], b"");
    assert_eq!(json.header("content-type"), Some("application/json"));
    // Paths without a stream say so.
    for (method, path) in [
        ("GET", "/v1/operations".to_owned()),
        ("GET", format!("{path}/response")),
        ("POST", format!("{path}:wait")),
        ("DELETE", path),
        ("GET", "/v1/models".to_owned()),
    ] {
        let refused = send(&ports, method, &path, &[EVENTS], b"");
        assert_eq!(
            (refused.status(), refused.code()),
            (406, "not_acceptable"),
            "{path}"
        );
        assert_eq!(refused.note, Value::Null);
    }
}

#[test]
fn a_call_that_would_not_be_accepted_gets_an_ordinary_error_and_no_stream() {
    let ports = ports();
    ports.set_policy("[operations]\nmax_per_tenant = 1\n");
    for (target, body, status) in [
        (PREDICT, &br#"{"inputs":{"a":[["x"]]}}"#[..], 422),
        (PREDICT, b"{", 400),
        ("/v1/models/none:predict", BODY, 404),
    ] {
        let refused = send(&ports, "POST", target, &[EVENTS], body);
        assert_eq!(refused.status(), status, "{}", refused.body);
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert_eq!(refused.note, Value::Null);
        assert_eq!(refused.header("location"), None);
    }
    accept(&ports);
    let full = call(&ports, PREDICT, &[EVENTS]);
    assert_eq!((full.status(), full.code()), (429, "quota_exceeded"));
    let listed = get_own_list(&ports);
    assert_eq!(listed.body["operations"].as_array().unwrap().len(), 1);
}

#[test]
fn a_stream_begins_again_after_the_event_that_its_client_names() {
    let ports = ports();
    let id = accept(&ports).id();
    let other = accept(&ports).id();
    let queued = format!("{id}.1");
    let first = open(&ports, &id, None);
    assert_eq!(event(&first).id.as_ref(), Some(&queued));
    assert_eq!(first.note["push"]["model"], "m", "its host may be gone");
    assert_eq!(first.header("etag"), None);
    // The state that it knows is not sent again.
    let again = open(&ports, &id, Some(&queued));
    assert_eq!(events(&again), (true, Vec::new()));
    assert_eq!(again.note["stream"]["after"], queued);
    for none in [
        "",
        "1",
        "x",
        "end",
        &format!("{id}.7"),
        &format!("{id}.end"),
        &format!("{other}.1"),
    ] {
        let begun = open(&ports, &id, Some(none));
        assert_eq!(event(&begun).id.as_ref(), Some(&queued), "{none}");
    }
    run(&ports, &id);
    let ended = open(&ports, &id, Some(&queued));
    assert_eq!(event(&ended).name, "operation.succeeded");
    assert_eq!(ended.note, Value::Null, "the answer is the whole stream");
    let over = open(&ports, &id, Some(&format!("{id}.end")));
    assert_eq!((over.status(), over.response.body.len()), (204, 0));
    assert_eq!(over.note, Value::Null);
}

#[test]
fn a_failed_and_a_cancelled_operation_end_their_streams_with_their_events() {
    let ports = ports();
    let id = accept(&ports).id();
    post(&ports, &format!("/v1/operations/{id}:cancel"));
    let ended = event(&open(&ports, &id, None));
    assert_eq!(ended.name, "operation.cancelled");
    assert_eq!(ended.data["error"]["code"], 1);
    // An operation that is gone is an ordinary error for the host, which tells its client.
    send(&ports, "DELETE", &format!("/v1/operations/{id}"), &[], b"");
    let gone = order(&ports, &id, &json!({ "do": "stream", "form": "plain" }));
    assert_eq!((gone.status(), gone.code()), (404, "unknown_operation"));
    assert_eq!(open(&ports, &id, None).status(), 404);
}

#[test]
fn the_stream_for_googles_clients_has_their_form() {
    let ports = ports();
    let id = accept(&ports).id();
    let path = format!("/v1/tenants/anonymous/operations/{id}");
    let opened = send(&ports, "GET", &path, &[EVENTS], b"");
    assert_eq!(event(&opened).data, get(&ports, &path).body);
    run(&ports, &id);
    let ended = order(&ports, &id, &opened.note["stream"]);
    assert_eq!(event(&ended).data, get(&ports, &path).body);
}

#[test]
fn a_repeated_call_with_its_key_gets_the_stream_of_the_same_operation() {
    let ports = ports();
    let key = ("idempotency-key", "k");
    let first = call(&ports, PREDICT, &[EVENTS, key]);
    let id = id_of(&first);
    let again = call(&ports, PREDICT, &[EVENTS, key]);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(event(&again).id, Some(format!("{id}.0")));
    assert_eq!(again.note["stream"], first.note["stream"]);
    // A client that repeats its call to reconnect names its last event.
    let last = format!("{id}.1");
    let resumed = call(&ports, PREDICT, &[EVENTS, key, ("last-event-id", &last)]);
    assert_eq!(events(&resumed), (true, Vec::new()));
    assert_eq!(resumed.note["stream"]["after"], last);
    let over = format!("{id}.end");
    let over = call(&ports, PREDICT, &[EVENTS, key, ("last-event-id", &over)]);
    assert_eq!(over.status(), 204);
    // The id of another operation is none of this one.
    let foreign = accept(&ports).id();
    let foreign = format!("{foreign}.1");
    let begun = call(&ports, PREDICT, &[EVENTS, ("last-event-id", &foreign)]);
    assert_eq!(event(&begun).name, "operation.created");
    // Without a wish for events, the retry has the 202.
    let json = call(&ports, PREDICT, &[ASYNC, key]);
    assert_eq!((json.status(), json.id()), (202, id));
}

#[test]
fn a_wish_to_wait_does_not_end_a_stream() {
    let ports = ports();
    let opened = call(
        &ports,
        PREDICT,
        &[EVENTS, ("prefer", "respond-async, wait=5")],
    );
    assert_eq!(opened.header("preference-applied"), Some("respond-async"));
    let id = id_of(&opened);
    let headers = [EVENTS, ("prefer", "wait=5")];
    let read = send(
        &ports,
        "GET",
        &format!("/v1/operations/{id}"),
        &headers,
        b"",
    );
    for note in [opened.note, read.note] {
        assert!(note["stream"].is_object(), "{note}");
        assert_eq!(note.get("wait_ms"), None);
        assert_eq!(note.get("then"), None);
    }
}

#[test]
fn a_host_without_room_for_a_stream_refuses_before_the_call_is_accepted() {
    let ports = ports();
    let full = format!("{TOKEN} {}", json!({ "streams_full": true }));
    let told = ("penstock-connection", full.as_str());
    let refused = call(&ports, PREDICT, &[EVENTS, told]);
    assert_eq!((refused.status(), refused.code()), (503, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("5"));
    let message = refused.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("operations.max_streams"), "{message}");
    assert_eq!(get_own_list(&ports).body["operations"], json!([]));
    // The calls that want no stream are answered.
    assert_eq!(call(&ports, PREDICT, &[told]).status(), 200);
    let id = accept(&ports).id();
    let path = format!("/v1/operations/{id}");
    assert_eq!(
        send(&ports, "GET", &path, &[EVENTS, told], b"").status(),
        503
    );
    assert_eq!(send(&ports, "GET", &path, &[told], b"").status(), 200);
    run(&ports, &id);
    // The end needs no room.
    assert_eq!(
        send(&ports, "GET", &path, &[EVENTS, told], b"").status(),
        200
    );
}

#[test]
fn without_operations_a_caller_that_accepts_only_events_is_told_so() {
    let ports = ports();
    ports.set_policy("[operations]\nenabled = false\n");
    let refused = call(&ports, PREDICT, &[EVENTS]);
    assert_eq!((refused.status(), refused.code()), (406, "not_acceptable"));
    let also_json = ("accept", "text/event-stream, application/json;q=0.1");
    let direct = call(&ports, PREDICT, &[also_json]);
    assert_eq!(direct.status(), 200);
    assert!(direct.body["predictions"].is_array());
}

#[test]
fn streams_have_the_access_rules_of_reads() {
    let ports = ports();
    ports.set_policy("[auth.tiers.free]\npriority = 2\n");
    for tenant in ["acme", "other"] {
        add_tenant(&ports, tenant);
    }
    let owner = add_key(&ports, "acme", &["predict:m"], "free");
    let opened = call(&ports, PREDICT, &[EVENTS, ("x-api-key", &owner)]);
    let id = id_of(&opened);
    let path = format!("/v1/operations/{id}");
    for stranger in [
        add_key(&ports, "other", &["*"], "free"),
        add_key(&ports, "acme", &["embeddings:n"], "free"),
    ] {
        let headers = [EVENTS, ("x-api-key", stranger.as_str())];
        let refused = send(&ports, "GET", &path, &headers, b"");
        assert_eq!(
            (refused.status(), refused.code()),
            (404, "unknown_operation")
        );
        assert_eq!(refused.note, Value::Null);
    }
    assert_eq!(send(&ports, "GET", &path, &[EVENTS], b"").status(), 401);
    let own = [EVENTS, ("x-api-key", owner.as_str())];
    assert_eq!(send(&ports, "GET", &path, &own, b"").status(), 200);
}

#[test]
fn polls_by_streams_pass_when_all_calls_of_the_window_are_used() {
    let ports = ports();
    ports.set_policy("[[limits]]\nname = \"calls\"\nlimit = 1\nwindow_s = 3600\n");
    let id = id_of(&call(&ports, PREDICT, &[EVENTS]));
    assert_eq!(call(&ports, PREDICT, &[EVENTS]).status(), 429);
    assert_eq!(open(&ports, &id, None).status(), 200);
}

#[test]
fn the_answer_to_head_is_no_stream() {
    let ports = ports();
    let id = accept(&ports).id();
    let head = send(
        &ports,
        "HEAD",
        &format!("/v1/operations/{id}"),
        &[EVENTS],
        b"",
    );
    assert_eq!(head.status(), 200);
    assert_eq!(head.header("content-type"), Some(CONTENT_TYPE));
    assert_eq!(head.note, Value::Null);
}

#[test]
fn on_a_host_that_runs_no_operations_a_client_that_asks_for_the_stream_runs_its_own() {
    let ports = InMemory::new(&[("m", ECHO, &["1"])], echo);
    let created = call(&ports, PREDICT, &[EVENTS]);
    let told = event(&created);
    assert_eq!(told.name, "operation.created");
    assert_eq!(created.header("penstock-operation"), None);
    let id = told.data["metadata"]["id"].as_str().unwrap().to_owned();
    assert_eq!(ports.runs.get(), 0);
    let ended = open(&ports, &id, told.id.as_deref());
    assert_eq!(event(&ended).name, "operation.succeeded");
    assert_eq!(ports.runs.get(), 1);
    let over = open(&ports, &id, event(&ended).id.as_deref());
    assert_eq!(over.status(), 204);
}
