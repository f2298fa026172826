//! Tests the routes of operations through the gate: reading, waiting, listing, cancelling and deleting.

use crate::operations_common::{
    ASYNC, Answer, BODY, PREDICT, TOKEN, accept, get, get_own_list, order, ports, post, run, send,
    state, state_of,
};
use penstock_testkit::keys::{add_key, add_tenant};
use serde_json::{Value, json};

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
    // Only the first one ends it.
    for note in [
        json!({ "id": id, "cancel": true, "is_final": true, "ended": "operation.cancelled" }),
        json!({ "id": id, "cancel": true, "is_final": true }),
    ] {
        let cancelled = post(&ports, &format!("{path}:cancel"));
        assert_eq!(cancelled.status(), 200);
        assert_eq!(cancelled.body["done"], true);
        assert_eq!(state_of(&cancelled), "cancelled");
        assert_eq!(cancelled.body["metadata"]["cancel_requested"], true);
        assert_eq!(cancelled.body["error"]["status"], 499);
        assert_eq!(cancelled.note, note);
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
        let form = if google { "google" } else { "plain" };
        let note = match wait_ms {
            Some(wait_ms) => json!({
                "id": id, "push": { "tenant": "anonymous", "model": "m", "items": 3 },
                "wait_ms": wait_ms, "then": { "do": "describe", "form": form },
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
    let described = order(&ports, &id, &json!({ "do": "describe", "form": "google" }));
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
