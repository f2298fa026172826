//! Tests long-running calls through the gate: how a call becomes an operation, its run for the host, and the routes of operations.

use penstock_gate::ports::{Failure, FailureKind};
use penstock_gate::{Gate, Header, Request, Response};
use penstock_testkit::keys::{add_key, add_tenant};
use penstock_testkit::models::{ADAPTED, ECHO, echo};
use penstock_testkit::{InMemory, LIMITS};
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;

pub(super) const PREDICT: &str = "/v1/models/m:predict";
pub(super) const BODY: &[u8] = br#"{"inputs":{"a":[[1,2],[3,4],[5,6]]}}"#;
pub(super) const ASYNC: (&str, &str) = ("prefer", "respond-async");
pub(super) const TOKEN: &str = "the host's token";
/// Allows as many items in an hour as [`BODY`] has.
const THREE_ITEMS: &str =
    "[[limits]]\nname = \"items\"\nunit = \"items\"\nlimit = 3\nwindow_s = 3600\n";

/// A gate on Penstock's own host.
pub(super) fn hosted(ports: InMemory) -> InMemory {
    let mut environment = ports.environment.borrow_mut();
    environment.insert("PENSTOCK_HOST_TOKEN".into(), TOKEN.into());
    drop(environment);
    ports
}

pub(super) fn ports() -> InMemory {
    hosted(InMemory::new(
        &[("m", ECHO, &["1", "2"]), ("n", ECHO, &["1"])],
        echo,
    ))
}

/// A model that fails so many times, and then works.
fn failing(times: u32, kind: FailureKind) -> InMemory {
    let left = Rc::new(Cell::new(times));
    hosted(InMemory::new(
        &[("m", ECHO, &["1"])],
        move |model, version, inputs| {
            if left.get() == 0 {
                return echo(model, version, inputs);
            }
            left.set(left.get() - 1);
            Err(Failure {
                kind,
                message: "it fails as it was told to".into(),
                retry_after_ms: None,
            })
        },
    ))
}

pub(super) struct Answer {
    pub response: Response,
    pub body: Value,
    pub note: Value,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.response.status
    }

    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.header(name)
    }

    /// The id of the operation that accepted a call.
    pub fn id(&self) -> String {
        assert_eq!(self.status(), 202, "{}", self.body);
        self.body["metadata"]["id"].as_str().unwrap().to_owned()
    }
}

/// Sends a request of a client. Its address is of another machine.
pub(super) fn send(
    ports: &InMemory,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let own = [
        ("content-type", "application/json"),
        ("spin-client-addr", "192.0.2.7:4711"),
    ];
    // A later header of one name would not replace an earlier one.
    let own = own
        .iter()
        .filter(|(name, _)| headers.iter().all(|(other, _)| other != name));
    let request = Request {
        method: method.into(),
        target: target.into(),
        headers: headers
            .iter()
            .chain(own)
            .map(|(name, value)| Header {
                name: (*name).into(),
                value: value.as_bytes().to_vec(),
            })
            .collect(),
        body: body.to_vec(),
    };
    let response = Gate::new(ports.clone()).handle(&request);
    let note = response.header("penstock-operation");
    Answer {
        body: serde_json::from_slice(&response.body).unwrap_or(Value::Null),
        note: note.map_or(Value::Null, |note| serde_json::from_str(note).unwrap()),
        response,
    }
}

pub(super) fn get(ports: &InMemory, target: &str) -> Answer {
    send(ports, "GET", target, &[], b"")
}

pub(super) fn post(ports: &InMemory, target: &str) -> Answer {
    send(ports, "POST", target, &[], b"")
}

pub(super) fn accept(ports: &InMemory) -> Answer {
    send(ports, "POST", PREDICT, &[ASYNC], BODY)
}

/// Sends an order of the host about an operation.
pub(super) fn order(ports: &InMemory, id: &str, work: &Value) -> Answer {
    let order = format!("{TOKEN} {}", json!({ "work": work }));
    let headers = [("penstock-connection", order.as_str())];
    send(
        ports,
        "POST",
        &format!("/v1/operations/{id}"),
        &headers,
        b"",
    )
}

pub(super) fn run(ports: &InMemory, id: &str) -> Answer {
    let work = json!({ "do": "run", "holder": "worker 1", "dead_before_ms": 0 });
    let answer = order(ports, id, &work);
    assert_eq!(answer.status(), 204, "{}", answer.body);
    answer
}

/// The state of an operation.
fn state(ports: &InMemory, id: &str) -> String {
    let answer = get(ports, &format!("/v1/operations/{id}"));
    assert_eq!(answer.status(), 200, "{}", answer.body);
    answer.body["metadata"]["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn log(ports: &InMemory) -> Vec<String> {
    ports.quota_log.borrow().clone()
}

#[test]
fn a_call_that_prefers_an_operation_is_accepted_with_202_and_where_to_find_it() {
    let ports = ports();
    let accepted = accept(&ports);
    let id = accepted.id();
    let path = format!("/v1/operations/{id}");
    assert_eq!(accepted.header("location"), Some(path.as_str()));
    assert_eq!(accepted.header("preference-applied"), Some("respond-async"));
    assert_eq!(accepted.header("content-type"), Some("application/json"));
    let written = "2026-01-01T00:00:00.000Z";
    assert_eq!(
        accepted.body,
        json!({
            "name": format!("tenants/anonymous/operations/{id}"),
            "done": false,
            "metadata": {
                "id": id, "state": "queued", "cancel_requested": false, "kind": "predict", "model": "m",
                "model_version": "2", "items": 3, "attempt": 0, "create_time": written, "update_time": written,
            },
        })
    );
    // The host's queue needs no more than this.
    assert_eq!(
        accepted.note,
        json!({ "id": id, "push": { "tenant": "anonymous", "model": "m", "items": 3 } })
    );
    assert_eq!(ports.runs.get(), 0);
    let polled = get(&ports, &path);
    assert_eq!((polled.status(), &polled.body), (200, &accepted.body));
    assert_eq!(polled.header("retry-after"), Some("1"));
}

#[test]
fn an_operation_that_the_host_runs_has_the_answer_of_a_synchronous_call() {
    let ports = ports();
    let direct = send(&ports, "POST", PREDICT, &[], BODY);
    let id = accept(&ports).id();
    ports.clock.advance_ms(5);
    let ran = run(&ports, &id);
    assert_eq!(ran.note, json!({ "id": id }));
    assert_eq!(ports.runs.get(), 2);
    let polled = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!(polled.body["done"], true);
    assert_eq!(polled.header("retry-after"), None);
    assert_eq!(
        polled.body["response"]["predictions"],
        direct.body["predictions"]
    );
    assert_eq!(polled.body.get("error"), None);
    let metadata = &polled.body["metadata"];
    assert_eq!(metadata["state"], "succeeded");
    assert_eq!(metadata["attempt"], 1);
    assert_eq!(metadata["start_time"], "2026-01-01T00:00:00.005Z");
    assert_eq!(metadata["end_time"], "2026-01-01T00:00:00.005Z");
    assert_eq!(metadata["expire_time"], "2026-01-02T00:00:00.005Z");

    let stored = get(&ports, &format!("/v1/operations/{id}/response"));
    assert_eq!(
        (stored.status(), &stored.body),
        (200, &polled.body["response"])
    );
    for name in ["content-type", "x-model-version"] {
        assert_eq!(stored.header(name), direct.header(name), "{name}");
    }
    assert!(stored.header("x-prediction-id").is_some());

    // Another order to run it finds that it has ended.
    assert_eq!(run(&ports, &id).note, json!({ "id": id }));
    assert_eq!(ports.runs.get(), 2);
}

#[test]
fn the_methods_for_operations_need_no_preference_and_say_that_none_was_applied() {
    let ports = ports();
    let batch = br#"{"requests":[{"inputs":{"a":[[1,2]]}},{"inputs":{"a":[[3]]}}]}"#;
    for (target, body) in [
        ("/v1/models/m:predictAsync", BODY),
        ("/v1/models/m/versions/1:predictAsync", BODY),
        ("/v1/models/m:batchPredictAsync", batch),
    ] {
        let accepted = send(&ports, "POST", target, &[], body);
        let id = accepted.id();
        assert_eq!(accepted.header("preference-applied"), None, "{target}");
        run(&ports, &id);
        let polled = get(&ports, &format!("/v1/operations/{id}"));
        assert_eq!(polled.body["metadata"]["state"], "succeeded", "{target}");
        let version = if target.contains("versions") {
            "1"
        } else {
            "2"
        };
        assert_eq!(polled.body["metadata"]["model_version"], version);
        if target.contains("batch") {
            let results = &polled.body["response"]["results"];
            assert_eq!(
                (&results[0]["status"], &results[1]["status"]),
                (&json!(200), &json!(422))
            );
        }
    }
}

#[test]
fn every_surface_that_answers_at_once_runs_as_an_operation_too() {
    let ports = hosted(InMemory::new(
        &[
            ("m", ECHO, &["1", "2"]),
            ("v", &ADAPTED.replace("\"length\"", "\"vectors\""), &["1"]),
        ],
        |model, version, inputs| {
            let mut outputs = echo(model, version, inputs)?;
            if model == "v" {
                outputs[0].name = "y".into();
            }
            Ok(outputs)
        },
    ));
    let infer =
        json!({ "inputs": [{ "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] }] });
    let embeddings = json!({ "model": "v", "input": ["one", "two"] });
    for (target, body, kind, member) in [
        ("/v2/models/m/versions/1/infer", infer, "infer", "outputs"),
        ("/v1/embeddings", embeddings, "embeddings", "data"),
    ] {
        let body = body.to_string();
        let direct = send(&ports, "POST", target, &[], body.as_bytes());
        assert_eq!(direct.status(), 200, "{}", direct.body);
        let id = send(&ports, "POST", target, &[ASYNC], body.as_bytes()).id();
        run(&ports, &id);
        let polled = get(&ports, &format!("/v1/operations/{id}"));
        assert_eq!(polled.body["metadata"]["kind"], kind);
        assert_eq!(polled.body["response"][member], direct.body[member]);
        assert!(!direct.body[member].is_null());
    }
}

#[test]
fn a_call_with_an_idempotency_key_is_one_operation_also_after_a_lost_answer() {
    let ports = ports();
    let keyed = |key: &str| {
        let headers = [ASYNC, ("idempotency-key", key)];
        send(&ports, "POST", PREDICT, &headers, BODY)
    };
    let first = keyed("k");
    let second = keyed("k");
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(second.header("preference-applied"), Some("respond-async"));
    assert_eq!(second.id(), first.id());
    assert_eq!(second.header("location"), first.header("location"));
    assert_eq!(second.body, first.body);
    // A replay queues nothing.
    assert_eq!(second.note, Value::Null);
    assert_ne!(keyed("other").id(), first.id());
    let id = first.id();
    run(&ports, &id);
    assert_eq!(keyed("k").id(), id);
    assert_eq!(ports.runs.get(), 1);
    let other = br#"{"inputs":{"a":[[1,2]]}}"#;
    let headers = [ASYNC, ("idempotency-key", "k")];
    let reused = send(&ports, "POST", PREDICT, &headers, other);
    assert_eq!(
        (reused.status(), reused.code()),
        (422, "idempotency_key_reused")
    );
}

#[test]
fn a_call_that_could_not_succeed_is_refused_before_it_is_accepted() {
    let ports = ports();
    for (target, headers, body, status, code) in [
        (PREDICT, &[ASYNC][..], &b"{"[..], 400, "malformed_json"),
        (
            PREDICT,
            &[ASYNC],
            br#"{"inputs":{"a":[[1]]}}"#,
            422,
            "invalid_inputs",
        ),
        ("/v1/models/x:predictAsync", &[], BODY, 404, "unknown_model"),
        (
            "/v1/models/m/versions/9:predictAsync",
            &[],
            BODY,
            404,
            "unknown_version",
        ),
        (
            PREDICT,
            &[ASYNC, ("content-type", "text/plain")],
            BODY,
            415,
            "unsupported_media_type",
        ),
    ] {
        let refused = send(&ports, "POST", target, headers, body);
        assert_eq!(
            (refused.status(), refused.code()),
            (status, code),
            "{target} {}",
            refused.body
        );
        assert_eq!(refused.header("preference-applied"), None);
        assert_eq!(refused.note, Value::Null);
    }
    assert_eq!(
        get_own_list(&ports).body["operations"],
        json!([]),
        "nothing was stored"
    );
}

/// The list of the operator on this machine.
fn get_own_list(ports: &InMemory) -> Answer {
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    send(ports, "GET", "/v1/operations", &local, b"")
}

#[test]
fn items_are_charged_when_the_call_is_accepted_and_returned_if_it_never_runs() {
    let ports = ports();
    ports.set_policy(THREE_ITEMS);
    let id = accept(&ports).id();
    let refused = accept(&ports);
    assert_eq!((refused.status(), refused.code()), (429, "quota_exceeded"));
    let cancelled = post(&ports, &format!("/v1/operations/{id}:cancel"));
    assert_eq!(cancelled.body["metadata"]["state"], "cancelled");
    // The charge is free again, once.
    let id = accept(&ports).id();
    assert_eq!(accept(&ports).status(), 429);
    run(&ports, &id);
    let cancelled = post(&ports, &format!("/v1/operations/{id}:cancel"));
    assert_eq!(cancelled.body["metadata"]["state"], "succeeded");
    assert_eq!(accept(&ports).status(), 429, "a run is not returned");
    let settled: Vec<String> = log(&ports)
        .into_iter()
        .filter(|line| line.starts_with("settle deferred"))
        .collect();
    assert_eq!(settled, ["settle deferred None", "settle deferred Some(0)"]);
}

#[test]
fn an_operation_that_expires_in_the_queue_fails_and_its_items_are_returned() {
    let ports = ports();
    ports.set_policy(&format!(
        "{THREE_ITEMS}[operations]\nmax_queue_time_s = 60\n"
    ));
    let id = accept(&ports).id();
    ports.clock.advance_ms(60_000);
    run(&ports, &id);
    assert_eq!(ports.runs.get(), 0);
    let polled = get(&ports, &format!("/v1/operations/{id}"));
    let error = &polled.body["error"];
    assert_eq!(polled.body["metadata"]["state"], "failed");
    assert_eq!(error["reason"], "deadline_exceeded");
    assert_eq!((&error["code"], &error["status"]), (&json!(4), &json!(504)));
    let response = get(&ports, &format!("/v1/operations/{id}/response"));
    assert_eq!(
        (response.status(), response.code()),
        (504, "deadline_exceeded")
    );
    assert_eq!(accept(&ports).status(), 202);
}

#[test]
fn a_call_is_admitted_once_and_its_run_and_polls_are_not_charged() {
    let ports = ports();
    ports.set_policy(LIMITS);
    let id = accept(&ports).id();
    let admitted = log(&ports);
    assert_eq!(
        admitted,
        ["admit predict m 192.0.2.7 36", "charge 3", "settle 0"]
    );
    for _ in 0..3 {
        get(&ports, &format!("/v1/operations/{id}"));
    }
    post(&ports, &format!("/v1/operations/{id}:wait"));
    get_own_list(&ports);
    assert_eq!(log(&ports), admitted);
    run(&ports, &id);
    assert_eq!(log(&ports)[3..], ["settle deferred Some(0)"]);
}

#[test]
fn polls_pass_when_all_calls_of_the_window_are_used() {
    let ports = ports();
    ports.set_policy("[[limits]]\nname = \"calls\"\nlimit = 1\nwindow_s = 3600\n");
    let id = accept(&ports).id();
    assert_eq!(accept(&ports).status(), 429);
    assert_eq!(get(&ports, "/v1/models").status(), 429);
    let path = format!("/v1/operations/{id}");
    assert_eq!(get(&ports, &path).status(), 200);
    assert_eq!(post(&ports, &format!("{path}:wait")).status(), 200);
    assert_eq!(post(&ports, &format!("{path}:cancel")).status(), 200);
    assert_eq!(send(&ports, "DELETE", &path, &[], b"").status(), 200);
}

#[test]
fn the_form_for_googles_clients_has_only_the_members_that_they_know() {
    let ports = ports();
    let batch = send(&ports, "POST", "/v1/models/m:predictAsync", &[], BODY);
    let name = batch.body["name"].as_str().unwrap().to_owned();
    let path = format!("/v1/{name}");
    let members = |value: &Value| {
        let object = value.as_object().unwrap();
        object.keys().cloned().collect::<Vec<_>>()
    };
    let queued = get(&ports, &path);
    assert_eq!(members(&queued.body), ["name", "metadata", "done"]);
    assert_eq!(queued.body["name"], name);
    let id = batch.id();
    run(&ports, &id);
    let done = get(&ports, &path);
    assert_eq!(
        members(&done.body),
        ["name", "metadata", "done", "response"]
    );
    for any in ["metadata", "response"] {
        assert_eq!(members(&done.body[any]), ["@type", "value"]);
        assert_eq!(
            done.body[any]["@type"],
            "type.googleapis.com/google.protobuf.Struct"
        );
    }
    let plain = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!(done.body["response"]["value"], plain.body["response"]);
    assert_eq!(done.body["metadata"]["value"], plain.body["metadata"]);

    let id = accept(&ports).id();
    let path = format!("/v1/tenants/anonymous/operations/{id}");
    let cancelled = post(&ports, &format!("{path}:cancel"));
    assert_eq!(
        members(&cancelled.body),
        ["name", "metadata", "done", "error"]
    );
    assert_eq!(members(&cancelled.body["error"]), ["code", "message"]);
    assert_eq!(cancelled.body["error"]["code"], 1);
    let foreign = get(&ports, &format!("/v1/tenants/acme/operations/{id}"));
    assert_eq!(
        (foreign.status(), foreign.code()),
        (404, "unknown_operation")
    );
}

#[test]
fn other_tenants_and_keys_for_other_models_find_no_operation() {
    let ports = ports();
    ports.set_policy("[auth.tiers.free]\npriority = 2\n");
    for tenant in ["acme", "other"] {
        add_tenant(&ports, tenant);
    }
    let key = |tenant: &str, scope: &str| add_key(&ports, tenant, &[scope], "free");
    let owner = key("acme", "predict:m");
    let with = |key: &str, method: &str, target: &str, body: &[u8]| {
        send(
            &ports,
            method,
            target,
            &[("x-api-key", key), ("content-type", "application/json")],
            body,
        )
    };
    let accepted = with(&owner, "POST", "/v1/models/m:predictAsync", BODY);
    let id = accepted.id();
    assert_eq!(accepted.note["push"]["tenant"], "acme");
    assert_eq!(accepted.note["push"]["priority"], 2);
    let path = format!("/v1/operations/{id}");
    let unknown = "/v1/operations/op_01kdvdna00000000000000000a";
    let foreign = key("other", "*");
    let elsewhere = key("acme", "embeddings:n");
    for stranger in [&foreign, &elsewhere] {
        for (method, end) in [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", ":cancel"),
            ("POST", ":wait"),
            ("GET", "/response"),
        ] {
            let found = with(stranger, method, &format!("{path}{end}"), b"");
            assert_eq!(
                (found.status(), found.code()),
                (404, "unknown_operation"),
                "{method} {end}"
            );
            assert_eq!(found.note, Value::Null);
            // The answer does not tell it from an operation that never existed.
            let other = with(stranger, method, &format!("{unknown}{end}"), b"");
            let without = |answer: &Answer, id: &str| {
                let message = answer.body["error"]["message"].as_str().unwrap();
                message.replace(id, "?")
            };
            assert_eq!(without(&found, &id), without(&other, &unknown[15..]));
        }
        let list = with(stranger, "GET", "/v1/operations", b"");
        assert_eq!(list.body["operations"], json!([]));
    }
    assert_eq!(state_of(&with(&owner, "GET", &path, b"")), "queued");
    let watcher = key("acme", "operations");
    assert_eq!(state_of(&with(&watcher, "GET", &path, b"")), "queued");
    let call = with(&watcher, "POST", PREDICT, BODY);
    assert_eq!((call.status(), call.code()), (403, "permission_denied"));
    let reader = key("acme", "models");
    let refused = with(&reader, "GET", &path, b"");
    assert_eq!(
        (refused.status(), refused.code()),
        (403, "permission_denied")
    );
    let polled = with(&owner, "GET", &path, b"");
    assert!(polled.header("cache-control").unwrap().contains("private"));
}

fn state_of(answer: &Answer) -> &str {
    answer.body["metadata"]["state"]
        .as_str()
        .unwrap_or_default()
}

#[test]
fn callers_without_credentials_list_operations_only_from_this_machine() {
    let ports = ports();
    let id = accept(&ports).id();
    let refused = get(&ports, "/v1/operations");
    assert_eq!(
        (refused.status(), refused.code()),
        (403, "permission_denied")
    );
    let listed = get_own_list(&ports);
    assert_eq!(listed.status(), 200, "{}", listed.body);
    assert_eq!(listed.body["operations"][0]["metadata"]["id"], id);
    // The id itself is the permission to read one.
    assert_eq!(state(&ports, &id), "queued");
}

#[test]
fn a_list_has_pages_newest_first_and_filters_by_state() {
    let ports = ports();
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    let list = |query: &str| {
        let target = format!("/v1/operations{query}");
        send(&ports, "GET", &target, &local, b"")
    };
    let mut ids = Vec::new();
    for hour in 0..5 {
        ids.insert(0, accept(&ports).id());
        // The last two are in the same hour.
        ports
            .clock
            .advance_ms(if hour < 3 { 3_600_000 } else { 1_000 });
    }
    run(&ports, &ids[2]);
    post(&ports, &format!("/v1/operations/{}:cancel", ids[0]));
    let of = |answer: &Answer| -> Vec<String> {
        assert_eq!(answer.status(), 200, "{}", answer.body);
        let listed = answer.body["operations"].as_array().unwrap().iter();
        listed
            .map(|found| found["metadata"]["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let everything = list("");
    assert_eq!(of(&everything), ids);
    assert!(everything.body.get("next_page_token").is_none());
    assert!(everything.body["operations"][2].get("response").is_none());

    let mut found = Vec::new();
    let mut token = String::new();
    for _ in 0..5 {
        let page = list(&format!("?page_size=2&page_token={token}"));
        found.extend(of(&page));
        assert!(of(&page).len() <= 2);
        match page.body["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(found, ids);

    for (query, expected) in [
        ("?state=succeeded", &ids[2..3]),
        ("?filter=state%3D%22cancelled%22", &ids[..1]),
        ("?filter=state=queued", &[&ids[1..2], &ids[3..]].concat()),
        (
            "?filter=state%20%3D%20queued",
            &[&ids[1..2], &ids[3..]].concat(),
        ),
        ("?state=running", &[]),
        ("?page_size=0&filter=", &ids[..]),
        ("?pageSize=100000&pageToken=", &ids[..]),
    ] {
        assert_eq!(of(&list(query)), expected, "{query}");
    }
    for query in [
        "?state=done",
        "?filter=model%3Dm",
        "?page_size=many",
        "?page_size=-1",
        "?page_token=abc",
        "?page_token=1.x",
        "?page_token=1",
        "?page_token=99999999999999999999.1",
        "?state=%ff",
        "?order=asc",
    ] {
        let refused = list(query);
        assert_eq!(
            (refused.status(), refused.code()),
            (400, "invalid_parameter"),
            "{query}"
        );
    }
    let far = format!("?page_token={}.{}", u64::MAX, u64::MAX);
    assert_eq!(of(&list(&far)), ids);
    assert_eq!(of(&list("?page_token=0.0")), [""; 0]);
    let google = send(&ports, "GET", "/v1/tenants/other/operations", &local, b"");
    assert_eq!(google.status(), 404);
}

#[test]
fn a_list_for_googles_clients_has_their_form() {
    let ports = ports();
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    accept(&ports).id();
    accept(&ports).id();
    let target = "/v1/tenants/anonymous/operations?pageSize=1";
    let listed = send(&ports, "GET", target, &local, b"");
    assert_eq!(listed.status(), 200, "{}", listed.body);
    let mut members: Vec<&String> = listed.body.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["nextPageToken", "operations"]);
    let found = listed.body["operations"][0].as_object().unwrap();
    assert!(
        found
            .keys()
            .all(|member| ["name", "metadata", "done"].contains(&member.as_str()))
    );
    assert_eq!(
        found["metadata"]["@type"],
        "type.googleapis.com/google.protobuf.Struct"
    );
}

#[test]
fn a_cancelled_operation_never_runs_and_cancelling_again_changes_nothing() {
    let ports = ports();
    let id = accept(&ports).id();
    let path = format!("/v1/operations/{id}");
    for _ in 0..2 {
        let cancelled = post(&ports, &format!("{path}:cancel"));
        assert_eq!(cancelled.status(), 200);
        assert_eq!(cancelled.body["done"], true);
        assert_eq!(state_of(&cancelled), "cancelled");
        assert_eq!(cancelled.body["metadata"]["cancel_requested"], true);
        assert_eq!(cancelled.body["error"]["status"], 499);
        assert_eq!(cancelled.note, json!({ "id": id, "cancel": true }));
    }
    run(&ports, &id);
    assert_eq!(ports.runs.get(), 0);
    let response = get(&ports, &format!("{path}/response"));
    assert_eq!(
        (response.status(), response.code()),
        (409, "failed_precondition")
    );
    let finished = accept(&ports).id();
    run(&ports, &finished);
    let late = post(&ports, &format!("/v1/operations/{finished}:cancel"));
    assert_eq!(state_of(&late), "succeeded");
    assert!(late.body["response"]["predictions"].is_array());
    assert_eq!(late.body["metadata"]["cancel_requested"], false);
}

#[test]
fn only_a_finished_operation_can_be_deleted_and_then_it_is_unknown() {
    let ports = ports();
    let id = accept(&ports).id();
    let path = format!("/v1/operations/{id}");
    let early = send(&ports, "DELETE", &path, &[], b"");
    assert_eq!((early.status(), early.code()), (409, "failed_precondition"));
    run(&ports, &id);
    let deleted = send(&ports, "DELETE", &path, &[], b"");
    assert_eq!((deleted.status(), &deleted.body), (200, &json!({})));
    for (method, target) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("GET", format!("{path}/response")),
        ("POST", format!("{path}:cancel")),
    ] {
        let gone = send(&ports, method, &target, &[], b"");
        assert_eq!(
            (gone.status(), gone.code()),
            (404, "unknown_operation"),
            "{method} {target}"
        );
    }
    assert_eq!(get_own_list(&ports).body["operations"], json!([]));
}

#[test]
fn a_result_expires_after_its_time_to_live() {
    let ports = ports();
    ports.set_policy("[operations]\nresult_ttl_s = 60\n");
    let id = accept(&ports).id();
    run(&ports, &id);
    ports.clock.advance_ms(59_999);
    assert_eq!(state(&ports, &id), "succeeded");
    ports.clock.advance_ms(1);
    let gone = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!((gone.status(), gone.code()), (404, "unknown_operation"));
}

#[test]
fn a_client_that_waits_is_told_to_the_host_with_its_time_and_its_form() {
    let ports = ports();
    let accepted = send(
        &ports,
        "POST",
        PREDICT,
        &[("prefer", "respond-async, wait=7")],
        BODY,
    );
    assert_eq!(
        (&accepted.note["wait_ms"], &accepted.note["then"]),
        (&json!(7_000), &json!({ "do": "answer" }))
    );
    let id = accepted.id();
    let plain = format!("/v1/operations/{id}");
    let google = format!("/v1/tenants/anonymous/operations/{id}");
    for (method, target, prefer, body, wait_ms, google) in [
        ("GET", &plain, Some("wait=3"), "", Some(3_000), false),
        ("GET", &plain, Some("wait=0"), "", None, false),
        ("GET", &plain, None, "", None, false),
        ("GET", &google, Some("wait=300"), "", Some(50_000), true),
        (
            "POST",
            &format!("{plain}:wait"),
            None,
            "",
            Some(50_000),
            false,
        ),
        (
            "POST",
            &format!("{plain}:wait"),
            None,
            "{}",
            Some(50_000),
            false,
        ),
        (
            "POST",
            &format!("{plain}:wait"),
            Some("wait=2"),
            "",
            Some(2_000),
            false,
        ),
        (
            "POST",
            &format!("{plain}:wait"),
            None,
            r#"{"timeout":"10s"}"#,
            Some(10_000),
            false,
        ),
        (
            "POST",
            &format!("{plain}:wait"),
            None,
            r#"{"timeout":"0.25s"}"#,
            Some(250),
            false,
        ),
        (
            "POST",
            &format!("{plain}:wait"),
            None,
            r#"{"timeout":"999999999999.999999999s"}"#,
            Some(50_000),
            false,
        ),
        (
            "POST",
            &format!("{google}:wait"),
            None,
            r#"{"timeout":"1s","name":"x"}"#,
            Some(1_000),
            true,
        ),
    ] {
        let headers: Vec<_> = prefer.iter().map(|prefer| ("prefer", *prefer)).collect();
        let waits = send(&ports, method, target, &headers, body.as_bytes());
        assert_eq!(waits.status(), 200, "{target} {body}");
        let note = match wait_ms {
            Some(wait_ms) => json!({
                "id": id, "push": { "tenant": "anonymous", "model": "m", "items": 3 },
                "wait_ms": wait_ms, "then": { "do": "describe", "google": google },
            }),
            None => Value::Null,
        };
        assert_eq!(waits.note, note, "{method} {target} {prefer:?} {body}");
    }
    for body in [
        "[",
        "[]",
        r#"{"timeout":10}"#,
        r#"{"timeout":"ten"}"#,
        r#"{"timeout":"-1s"}"#,
        r#"{"timeout":"NaNs"}"#,
        r#"{"timeout":"1e9s"}"#,
        r#"{"timeout":"1.s"}"#,
        r#"{"timeout":"+1s"}"#,
    ] {
        let refused = send(
            &ports,
            "POST",
            &format!("{plain}:wait"),
            &[],
            body.as_bytes(),
        );
        assert_eq!(
            (refused.status(), refused.code()),
            (400, "invalid_body"),
            "{body}"
        );
    }
    // After the wait, the host asks for one of these.
    let described = order(&ports, &id, &json!({ "do": "describe", "google": true }));
    assert_eq!(described.body, get(&ports, &google).body);
    let early = order(&ports, &id, &json!({ "do": "answer" }));
    assert_eq!(early.id(), id);
    assert_eq!(early.header("location"), Some(plain.as_str()));
    // The host takes this header from the answer before the wait.
    assert_eq!(early.header("preference-applied"), None);
    run(&ports, &id);
    let answered = order(&ports, &id, &json!({ "do": "answer" }));
    assert_eq!(answered.status(), 200);
    assert!(answered.body["predictions"].is_array());
    // A finished operation is answered without a wait.
    let headers = [("prefer", "wait=3")];
    assert_eq!(send(&ports, "GET", &plain, &headers, b"").note, Value::Null);
}

#[test]
fn the_place_in_the_queue_is_shown_where_the_host_knows_it() {
    let ports = ports();
    let id = accept(&ports).id();
    let said = format!(
        "{TOKEN} {}",
        json!({ "queue": { "position": 4, "wait_ms": 1200 } })
    );
    let headers = [("penstock-connection", said.as_str())];
    let target = format!("/v1/operations/{id}");
    let queued = send(&ports, "GET", &target, &headers, b"");
    assert_eq!(queued.body["metadata"]["queue_position"], 4);
    assert_eq!(queued.body["metadata"]["estimated_wait_ms"], 1_200);
    run(&ports, &id);
    let done = send(&ports, "GET", &target, &headers, b"");
    assert_eq!(done.body["metadata"].get("queue_position"), None);
}

#[test]
fn a_malformed_preference_is_ignored() {
    let ports = ports();
    for prefer in [
        "",
        ",",
        "wait=soon",
        "respond-asynchronously",
        "respond-async-please; wait=5",
        "\"respond-async\"",
        "return=minimal",
        "=respond-async",
    ] {
        let direct = send(&ports, "POST", PREDICT, &[("prefer", prefer)], BODY);
        assert_eq!(direct.status(), 200, "{prefer}");
        assert_eq!(direct.header("preference-applied"), None);
        assert!(direct.body["predictions"].is_array());
    }
    // The rest of a line with a malformed preference counts.
    let mixed = send(
        &ports,
        "POST",
        PREDICT,
        &[("prefer", "wait=x, respond-async")],
        BODY,
    );
    assert_eq!(mixed.status(), 202);
    assert_eq!(mixed.note.get("wait_ms"), None);
}

#[test]
fn orders_without_the_hosts_token_are_not_obeyed() {
    let ports = ports();
    let id = accept(&ports).id();
    let path = format!("/v1/operations/{id}");
    let order = json!({ "work": { "do": "run", "holder": "x", "dead_before_ms": 0 } }).to_string();
    for said in [
        order.clone(),
        format!("guess {order}"),
        format!(" {order}"),
        format!("{TOKEN}{order}"),
    ] {
        let headers = [("penstock-connection", said.as_str())];
        let polled = send(&ports, "GET", &path, &headers, b"");
        assert_eq!(
            (polled.status(), state_of(&polled)),
            (200, "queued"),
            "{said}"
        );
        assert_eq!(send(&ports, "POST", &path, &headers, b"").status(), 405);
    }
    assert_eq!(ports.runs.get(), 0);

    // A host without a token obeys nobody, and gets no notes.
    ports.environment.borrow_mut().clear();
    let said = format!("{TOKEN} {order}");
    let headers = [("penstock-connection", said.as_str())];
    assert_eq!(
        state_of(&send(&ports, "GET", &path, &headers, b"")),
        "queued"
    );
    let empty = format!(" {order}");
    let headers = [("penstock-connection", empty.as_str())];
    assert_eq!(
        state_of(&send(&ports, "GET", &path, &headers, b"")),
        "queued"
    );
    assert_eq!(ports.runs.get(), 0);
    let accepted = accept(&ports);
    assert_eq!(accepted.status(), 202);
    assert_eq!(accepted.header("penstock-operation"), None);
}

#[test]
fn a_run_that_fails_ends_with_the_problem_of_a_synchronous_call() {
    let ports = failing(1, FailureKind::Failed);
    ports.set_policy(THREE_ITEMS);
    let id = accept(&ports).id();
    assert_eq!(run(&ports, &id).note, json!({ "id": id }));
    let polled = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!(polled.status(), 200);
    assert_eq!(state_of(&polled), "failed");
    assert_eq!(polled.body.get("response"), None);
    let error = &polled.body["error"];
    assert_eq!(error["reason"], "inference_failed");
    assert_eq!(error["status"], 500);
    let response = get(&ports, &format!("/v1/operations/{id}/response"));
    assert_eq!(
        (response.status(), response.code()),
        (500, "inference_failed")
    );
    assert_eq!(response.body["error"]["message"], error["message"]);
    // The model ran, so the items stay charged.
    assert_eq!(accept(&ports).status(), 429);
}

#[test]
fn a_model_without_room_is_tried_again_later_and_then_succeeds() {
    let ports = failing(2, FailureKind::Overloaded);
    let id = accept(&ports).id();
    for attempt in 1..=2u64 {
        let note = run(&ports, &id).note;
        let now_ms = penstock_core::Clock::unix_ms(&*ports.clock);
        let again_ms = note["again_ms"].as_u64().unwrap();
        let longest = 500 << (attempt - 1);
        assert!(
            (longest / 2..=longest).contains(&(again_ms - now_ms)),
            "{note}"
        );
        let polled = get(&ports, &format!("/v1/operations/{id}"));
        assert_eq!(state_of(&polled), "queued");
        assert_eq!(polled.body["metadata"]["attempt"], attempt);
        assert!(polled.body["metadata"]["next_attempt_time"].is_string());
        // An order that comes too early does nothing.
        assert_eq!(run(&ports, &id).note["again_ms"], again_ms);
        ports.clock.advance_ms(again_ms - now_ms);
    }
    assert_eq!(run(&ports, &id).note, json!({ "id": id }));
    let polled = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!(state_of(&polled), "succeeded");
    assert_eq!(polled.body["metadata"]["attempt"], 3);
}

#[test]
fn after_the_last_attempt_the_operation_fails_with_the_last_error() {
    let ports = failing(u32::MAX, FailureKind::Overloaded);
    ports.set_policy("[operations]\nmax_attempts = 2\n");
    let id = accept(&ports).id();
    let note = run(&ports, &id).note;
    assert!(note["again_ms"].is_u64(), "{note}");
    ports.clock.advance_ms(500);
    assert_eq!(run(&ports, &id).note, json!({ "id": id }));
    let polled = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!(state_of(&polled), "failed");
    assert_eq!(polled.body["error"]["reason"], "overloaded");
    assert_eq!(polled.body["error"]["code"], 14);
    assert_eq!(ports.runs.get(), 2);
}

#[test]
fn a_worker_renews_its_lease_and_learns_of_a_cancellation_and_a_lost_lease() {
    // The run sends the other requests in its middle.
    let ports = ports();
    let id = accept(&ports).id();
    let renew = |holder: &str| {
        let work = json!({ "do": "renew", "holder": holder });
        order(&ports, &id, &work).note["renewal"].clone()
    };
    assert_eq!(renew("worker 1"), "lost");
    let seen: Rc<std::cell::RefCell<Vec<Value>>> = Rc::default();
    let inside = {
        let (ports, id, seen) = (ports.clone(), id.clone(), seen.clone());
        move |model: &str, version, inputs| {
            let renew = |holder: &str| {
                let work = json!({ "do": "renew", "holder": holder });
                order(&ports, &id, &work).note["renewal"].clone()
            };
            seen.borrow_mut().push(renew("worker 1"));
            seen.borrow_mut().push(renew("worker 2"));
            let path = format!("/v1/operations/{id}");
            seen.borrow_mut()
                .push(get(&ports, &path).body["metadata"]["state"].clone());
            let cancelled = post(&ports, &format!("{path}:cancel"));
            seen.borrow_mut()
                .push(cancelled.body["metadata"]["state"].clone());
            seen.borrow_mut().push(renew("worker 1"));
            let work = json!({ "do": "abandon", "holder": "worker 1", "why": "cancelled" });
            seen.borrow_mut().push(order(&ports, &id, &work).note);
            echo(model, version, inputs)
        }
    };
    let mut runner = ports.clone();
    runner.run = Rc::new(inside);
    run(&runner, &id);
    assert_eq!(
        *seen.borrow(),
        [
            json!("renewed"),
            json!("lost"),
            json!("running"),
            json!("running"),
            json!("cancelled"),
            // The answer to an order without more says that the operation has ended.
            json!({ "id": id })
        ]
    );
    // The late result of the run does not count.
    assert_eq!(state(&ports, &id), "cancelled");
    assert_eq!(renew("worker 1"), "lost");
}

#[test]
fn a_worker_that_stops_gives_the_operation_back_without_an_attempt() {
    let ports = ports();
    let id = accept(&ports).id();
    for (why, attempt, ended) in [
        ("stopping", 0, false),
        ("crashed", 1, false),
        ("timed_out", 2, true),
    ] {
        let inside = {
            let (ports, id) = (ports.clone(), id.clone());
            move |_: &str, _, _| {
                let work = json!({ "do": "abandon", "holder": "worker 1", "why": why });
                let abandoned = order(&ports, &id, &work);
                assert_eq!(abandoned.note["again_ms"].is_u64(), !ended, "{why}");
                Err(Failure {
                    kind: FailureKind::Failed,
                    message: "interrupted".into(),
                    retry_after_ms: None,
                })
            }
        };
        let mut runner = ports.clone();
        runner.run = Rc::new(inside);
        run(&runner, &id);
        let polled = get(&ports, &format!("/v1/operations/{id}"));
        assert_eq!(polled.body["metadata"]["attempt"], attempt, "{why}");
        assert_eq!(polled.body["done"], ended, "{why}");
        ports.clock.advance_ms(1_000);
    }
    let polled = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!(polled.body["error"]["reason"], "deadline_exceeded");
}

#[test]
fn a_result_beyond_the_limit_ends_the_operation_with_the_reason() {
    let ports = ports();
    ports.set_policy("[operations]\nmax_result_bytes = 1024\n");
    let row = "[1.5,2.5]";
    let body = format!("{{\"inputs\":{{\"a\":[{}]}}}}", [row; 200].join(","));
    let id = send(&ports, "POST", PREDICT, &[ASYNC], body.as_bytes()).id();
    run(&ports, &id);
    let polled = get(&ports, &format!("/v1/operations/{id}"));
    assert_eq!(state_of(&polled), "failed");
    assert_eq!(polled.body["error"]["reason"], "model_rejected_inputs");
    let message = polled.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("operations.max_result_bytes"), "{message}");
}

#[test]
fn a_result_in_bytes_is_described_and_read_as_it_is() {
    let ports = ports();
    let head = json!({
        "inputs": [{ "name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": { "binary_data_size": 8 } }],
        "parameters": { "binary_data_output": true },
    })
    .to_string();
    let mut body = head.clone().into_bytes();
    body.extend(
        [1.5f32, -2.0]
            .iter()
            .flat_map(|number| number.to_le_bytes()),
    );
    let length = head.len().to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", length.as_str()),
        ASYNC,
    ];
    let target = "/v2/models/m/infer";
    let direct = send(&ports, "POST", target, &headers[..2], &body);
    assert_eq!(direct.status(), 200);
    let id = send(&ports, "POST", target, &headers, &body).id();
    run(&ports, &id);
    let path = format!("/v1/operations/{id}");
    let polled = get(&ports, &path);
    let location = format!("{path}/response");
    assert_eq!(
        polled.body["response"],
        json!({
            "content_type": "application/octet-stream",
            "bytes": direct.response.body.len(),
            "location": location,
        })
    );
    let stored = get(&ports, &location);
    assert_eq!(stored.response.body.len(), direct.response.body.len());
    let name = "inference-header-content-length";
    assert_eq!(stored.header(name), direct.header(name));
    assert_eq!(
        stored.header("content-type"),
        Some("application/octet-stream")
    );
    let at: usize = stored.header(name).unwrap().parse().unwrap();
    assert_eq!(stored.response.body[at..], direct.response.body[at..]);
}

#[test]
fn a_result_that_is_not_there_yet_is_409_with_when_to_ask_again() {
    let ports = ports();
    let id = accept(&ports).id();
    let early = get(&ports, &format!("/v1/operations/{id}/response"));
    assert_eq!((early.status(), early.code()), (409, "failed_precondition"));
    assert_eq!(early.header("retry-after"), Some("1"));
}

#[test]
fn a_poll_of_an_unchanged_operation_is_304() {
    let ports = ports();
    let id = accept(&ports).id();
    let path = format!("/v1/operations/{id}");
    let first = get(&ports, &path);
    let tag = first.header("etag").expect("a tag").to_owned();
    let held = [("if-none-match", tag.as_str())];
    assert_eq!(send(&ports, "GET", &path, &held, b"").status(), 304);
    run(&ports, &id);
    let changed = send(&ports, "GET", &path, &held, b"");
    assert_eq!(
        (changed.status(), &changed.body["done"]),
        (200, &json!(true))
    );
}

#[test]
fn calls_of_many_items_become_operations_where_the_operator_says_so() {
    let ports = ports();
    ports.set_policy("[operations]\nfrom_items = 3\n");
    let large = send(&ports, "POST", PREDICT, &[], BODY);
    assert_eq!(large.status(), 202);
    assert_eq!(large.header("preference-applied"), None);
    let small = br#"{"inputs":{"a":[[1,2],[3,4]]}}"#;
    assert_eq!(send(&ports, "POST", PREDICT, &[], small).status(), 200);
}

#[test]
fn without_operations_only_calls_that_demand_one_are_refused() {
    let ports = ports();
    ports.set_policy("[operations]\nenabled = false\nfrom_items = 1\n");
    let refused = send(&ports, "POST", "/v1/models/m:predictAsync", &[], BODY);
    assert_eq!((refused.status(), refused.code()), (501, "not_supported"));
    let direct = accept(&ports);
    assert_eq!(direct.status(), 200, "a preference may be ignored");
    assert_eq!(direct.header("preference-applied"), None);
    for path in ["/v1/operations", "/v1/operations/op_1"] {
        let unknown = get(&ports, path);
        assert_eq!((unknown.status(), unknown.code()), (404, "unknown_path"));
        let message = unknown.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("`[operations]`"), "{message}");
    }
}

#[test]
fn a_tenant_with_as_many_operations_as_it_may_have_is_told_so() {
    let ports = ports();
    ports.set_policy(
        &format!("{THREE_ITEMS}[operations]\nmax_per_tenant = 1\n")
            .replace("limit = 3", "limit = 6"),
    );
    let id = accept(&ports).id();
    let full = accept(&ports);
    assert_eq!((full.status(), full.code()), (429, "quota_exceeded"));
    assert_eq!(full.header("retry-after"), Some("30"));
    run(&ports, &id);
    send(&ports, "DELETE", &format!("/v1/operations/{id}"), &[], b"");
    // The refused call was returned its items.
    assert_eq!(accept(&ports).status(), 202);
}

#[test]
fn ids_that_no_operation_can_have_are_unknown_and_never_an_error_of_the_server() {
    let ports = ports();
    for id in [
        "op_",
        "op_1",
        "x",
        "op_01KDVDNA00000000000000000A",
        "OP_01kdvdna00000000000000000a",
        "%00",
        "op_%2e%2e",
    ] {
        let unknown = get(&ports, &format!("/v1/operations/{id}"));
        assert_eq!(
            (unknown.status(), unknown.code()),
            (404, "unknown_operation"),
            "{id}"
        );
    }
    for (method, target, status) in [
        ("PUT", "/v1/operations/op_1", 405),
        ("GET", "/v1/operations/op_1:cancel", 405),
        ("GET", "/v1/operations/op_1:pause", 404),
        ("POST", "/v1/operations", 405),
        ("GET", "/v1/operations/op_1/response/more", 404),
        ("OPTIONS", "/v1/operations/op_1", 204),
    ] {
        assert_eq!(
            send(&ports, method, target, &[], b"").status(),
            status,
            "{method} {target}"
        );
    }
    let options = send(&ports, "OPTIONS", "/v1/operations/op_1", &[], b"");
    assert!(options.header("allow").unwrap().contains("DELETE"));
}

#[test]
fn streams_never_become_operations() {
    let ports = ports();
    let target = "/v2/models/m/generate_stream";
    let headers = [ASYNC, ("accept", "text/event-stream")];
    let body = br#"{"a":[1,2]}"#;
    let answer = send(&ports, "POST", target, &headers, body);
    assert_ne!(answer.status(), 202);
    assert_eq!(answer.note, Value::Null);
}

#[test]
fn the_usage_of_an_operation_is_counted_once() {
    let ports = ports();
    ports.set_policy("[usage]\nenabled = true\n");
    let id = accept(&ports).id();
    run(&ports, &id);
    run(&ports, &id);
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    let usage = send(&ports, "GET", "/v1/usage", &local, b"");
    assert_eq!(usage.status(), 200, "{}", usage.body);
    let text = usage.body.to_string();
    assert!(text.contains("\"requests\":1"), "{text}");
    assert!(text.contains("\"items\":3"), "{text}");
}

#[test]
fn on_a_host_that_runs_no_operations_a_caller_that_waits_runs_its_own() {
    let ports = InMemory::new(&[("m", ECHO, &["1"])], echo);
    let id = accept(&ports).id();
    let path = format!("/v1/operations/{id}");
    assert_eq!(state(&ports, &id), "queued", "reading runs nothing");
    assert_eq!(ports.runs.get(), 0);
    let waited = send(&ports, "GET", &path, &[("prefer", "wait=5")], b"");
    assert_eq!(state_of(&waited), "succeeded", "{}", waited.body);
    assert!(waited.body["response"]["predictions"].is_array());
    let again = post(&ports, &format!("{path}:wait"));
    assert_eq!((state_of(&again), ports.runs.get()), ("succeeded", 1));
    assert_eq!(waited.header("penstock-operation"), None);
}
