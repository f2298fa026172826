//! Tests long-running calls through the gate: how a call becomes an operation, and its run for the host.

use crate::operations_common::{
    ASYNC, BODY, PREDICT, TOKEN, accept, get, get_own_list, hosted, order, ports, post, run, send,
    state, state_of,
};
use penstock_gate::ports::{Failure, FailureKind};
use penstock_testkit::models::{ADAPTED, ECHO, echo};
use penstock_testkit::{InMemory, LIMITS};
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;

/// Allows as many items in an hour as [`BODY`] has.
const THREE_ITEMS: &str =
    "[[limits]]\nname = \"items\"\nunit = \"items\"\nlimit = 3\nwindow_s = 3600\n";

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

/// The note after a run that has ended an operation.
fn ended(id: &str, how: &str) -> Value {
    json!({ "id": id, "ended": format!("operation.{how}") })
}

#[test]
fn an_operation_that_the_host_runs_has_the_answer_of_a_synchronous_call() {
    let ports = ports();
    let direct = send(&ports, "POST", PREDICT, &[], BODY);
    let id = accept(&ports).id();
    ports.clock.advance_ms(5);
    let ran = run(&ports, &id);
    assert_eq!(ran.note, ended(&id, "succeeded"));
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
    assert_eq!(run(&ports, &id).note, ended(&id, "failed"));
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
    assert_eq!(run(&ports, &id).note, ended(&id, "succeeded"));
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
    assert_eq!(run(&ports, &id).note, ended(&id, "failed"));
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
            // An answer without another look says that the operation has ended, and how.
            json!({ "id": id, "ended": "operation.cancelled" })
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
