//! Tests webhooks through the gate: which calls may name one, the message for the host to send, and how a client has it sent again.

use crate::operations_common::{
    ASYNC, BODY, PREDICT, accept, get, hosted, order, ports, post, run, send,
};
use penstock_core::kv::run_ready;
use penstock_core::{Kv, OperationId};
use penstock_policy::webhooks::delivery::{Delivery, DeliveryState, MAX_PAYLOAD_BYTES, Outcome};
use penstock_policy::webhooks::entries::Names;
use penstock_testkit::InMemory;
use penstock_testkit::models::{ECHO, echo};
use serde_json::{Value, json};

const URL: &str = "https://hooks.example/x";
const SECRET: &str = "[[webhooks.tenants]]\ntenant = \"anonymous\"\nsecrets_file = \"s\"\n";

/// A gate on a host that sends webhooks, under a policy.
fn announcing(policy: &str) -> InMemory {
    announcing_of(ports(), policy)
}

fn announcing_of(ports: InMemory, policy: &str) -> InMemory {
    let ports = hosted(ports);
    let mut environment = ports.environment.borrow_mut();
    environment.insert("PENSTOCK_WEBHOOK_KEY".into(), "whpk_1".into());
    drop(environment);
    ports.set_policy(policy);
    ports
}

fn set(ports: &InMemory, name: &str, value: &[u8]) {
    run_ready(ports.kv.set(name, value)).unwrap();
}

#[test]
fn a_call_names_its_webhook_and_the_operation_shows_its_delivery() {
    let ports = announcing(SECRET);
    let accepted = send(
        &ports,
        "POST",
        PREDICT,
        &[ASYNC, ("webhook-url", URL)],
        BODY,
    );
    let id = accepted.id();
    let webhook = |ports: &InMemory| {
        get(ports, &format!("/v1/operations/{id}")).body["metadata"]["webhook"].clone()
    };
    assert_eq!(
        webhook(&ports),
        json!({ "url": URL, "state": "pending", "attempts": [] })
    );
    run(&ports, &id);
    let now_ms = penstock_core::Clock::unix_ms(&*ports.clock);
    let outcome = Outcome::Answered {
        status: 503,
        retry_after_ms: Some(60_000),
    };
    let delivery = Delivery::due(now_ms).after(outcome, (now_ms, 12), now_ms, 0);
    let operation = OperationId::parse(&id).unwrap();
    set(&ports, &Names::of(&operation).record(), &delivery.encode());
    let shown = webhook(&ports);
    assert_eq!(shown["state"], "pending");
    assert_eq!(shown["attempts"][0]["status"], 503);
    assert_eq!(shown["attempts"][0]["duration_ms"], 12);
    assert_eq!(shown["attempts"][0]["error"], "it answered 503");
    assert!(shown["next_attempt_time"].is_string(), "{shown}");
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    let listed = send(&ports, "GET", "/v1/operations", &local, b"").body;
    assert_eq!(listed["operations"][0]["metadata"]["id"], id);
    assert_eq!(listed["operations"][0]["metadata"].get("webhook"), None);
}

#[test]
fn a_tenants_own_webhook_is_told_of_all_its_operations_and_its_url_is_not_shown() {
    let ports = announcing(&format!("{SECRET}url = \"{URL}\"\n"));
    let id = accept(&ports).id();
    let shown = get(&ports, &format!("/v1/operations/{id}")).body["metadata"]["webhook"].clone();
    assert_eq!(shown, json!({ "state": "pending", "attempts": [] }));
    // A call that is answered at once is no operation.
    assert_eq!(send(&ports, "POST", PREDICT, &[], BODY).status(), 200);
}

#[test]
fn a_webhook_that_cannot_be_is_refused_before_anything_is_charged_or_stored() {
    let hook = ("webhook-url", URL);
    let limited = format!(
        "{SECRET}[[limits]]\nname = \"items\"\nunit = \"items\"\nlimit = 3\nwindow_s = 3600\n"
    );
    let with = |url| [ASYNC, ("webhook-url", url)];
    let other_tenant = "[[webhooks.tenants]]\ntenant = \"a\"\nsecrets_file = \"s\"\n";
    let refused = |ports: &InMemory, headers: &[(&str, &str)], part: &str| {
        let answer = send(ports, "POST", PREDICT, headers, BODY);
        assert_eq!((answer.status(), answer.code()), (400, "webhook_refused"));
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        assert_eq!(answer.header("location"), None);
    };
    let ports = announcing(&limited);
    refused(
        &ports,
        &with("http://hooks.example"),
        "must begin with https://",
    );
    refused(&ports, &with("https://10.0.0.1/"), "not a public address");
    refused(&ports, &with(""), "must begin with https://");
    refused(&ports, &[ASYNC, hook, hook], "several headers");
    refused(&ports, &[hook], "`Prefer: respond-async`");
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    let listed = send(&ports, "GET", "/v1/operations", &local, b"");
    assert_eq!(listed.body["operations"], json!([]));
    // The three items are still there.
    assert_eq!(
        send(&ports, "POST", PREDICT, &[ASYNC, hook], BODY).status(),
        202
    );
    refused(&announcing(other_tenant), &[ASYNC, hook], "no secret");
    let per_call = format!("{SECRET}url = \"{URL}\"\nper_call = false\n");
    refused(&announcing(&per_call), &[ASYNC, hook], "`per_call`");
    // A host that sends none.
    let silent = super::operations_common::ports();
    silent.set_policy(SECRET);
    refused(&silent, &[ASYNC, hook], "sends no webhooks");
}

#[test]
fn the_host_gets_the_message_once_the_operation_has_ended() {
    let ports = announcing(&format!("{SECRET}url = \"{URL}\"\n"));
    let id = accept(&ports).id();
    let announce = json!({ "do": "announce" });
    let early = order(&ports, &id, &announce);
    assert_eq!((early.status(), &early.note), (200, &json!({ "id": id })));
    run(&ports, &id);
    let message = order(&ports, &id, &announce);
    assert_eq!(
        message.note,
        json!({ "id": id, "event": "operation.succeeded" })
    );
    assert_eq!(message.body["type"], "operation.succeeded");
    assert!(message.body["timestamp"].is_string());
    let mut described = get(&ports, &format!("/v1/operations/{id}")).body;
    described["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("webhook");
    assert_eq!(message.body["data"], described);
    let gone = order(&ports, "op_01m7yzmhg0nkcc0b9v2mmj145w", &announce);
    assert_eq!((gone.status(), &gone.note), (404, &Value::Null));
}

#[test]
fn a_message_with_a_large_result_has_the_operation_without_it() {
    // The second result has room in a message, but not beside the rest of the message.
    for values in [20_000, 6_510] {
        let wide = ECHO.replace("[\"N\", 2]", &format!("[\"N\", {values}]"));
        let ports = announcing_of(InMemory::new(&[("m", &wide, &["1"])], echo), SECRET);
        ports.set_policy(&format!("{SECRET}url = \"{URL}\"\n"));
        let row = vec!["1.2345678"; values].join(",");
        let body = format!("{{\"inputs\":{{\"a\":[[{row}]]}}}}");
        let id = send(&ports, "POST", PREDICT, &[ASYNC], body.as_bytes()).id();
        run(&ports, &id);
        let whole = get(&ports, &format!("/v1/operations/{id}/response"));
        let fits = whole.response.body.len() <= MAX_PAYLOAD_BYTES;
        assert_eq!(fits, values == 6_510);
        let message = order(&ports, &id, &json!({ "do": "announce" }));
        assert_eq!(message.body["data"]["done"], true);
        assert_eq!(message.body["data"].get("response"), None);
        assert!(message.response.body.len() < 2_000);
    }
}

#[test]
fn a_client_has_the_message_sent_again() {
    let ports = announcing(SECRET);
    let without = accept(&ports).id();
    let id = send(
        &ports,
        "POST",
        PREDICT,
        &[ASYNC, ("webhook-url", URL)],
        BODY,
    )
    .id();
    let again = |id: &str| post(&ports, &format!("/v1/operations/{id}:announce"));
    let refused = |id: &str, part: &str| {
        let answer = again(id);
        assert_eq!(
            (answer.status(), answer.code()),
            (409, "failed_precondition")
        );
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    };
    refused(&without, "named a webhook");
    refused(&id, "has not ended");
    run(&ports, &id);
    let operation = OperationId::parse(&id).unwrap();
    let names = Names::of(&operation);
    let failed = Delivery {
        state: DeliveryState::Failed,
        ..Delivery::default()
    };
    set(&ports, &names.record(), &failed.encode());
    set(&ports, &names.over(0), b"1");
    let answer = again(&id);
    assert_eq!(answer.status(), 200, "{}", answer.body);
    assert_eq!(answer.note, json!({ "id": id, "announce": true }));
    assert_eq!(answer.body["metadata"]["webhook"]["state"], "pending");
    assert!(answer.body["response"].is_object(), "{}", answer.body);
    assert!(ports.kv.names().contains(&names.again(1)));
    let skipped = Delivery {
        state: DeliveryState::Skipped,
        ..Delivery::default()
    };
    set(&ports, &names.record(), &skipped.encode());
    refused(&id, "`events`");
    let unknown = again("op_01m7yzmhg0nkcc0b9v2mmj145w");
    assert_eq!(
        (unknown.status(), unknown.code()),
        (404, "unknown_operation")
    );
}

#[test]
fn the_public_key_is_shown_without_credentials_where_webhooks_are_sent() {
    let path = "/.well-known/penstock/webhook-keys";
    let keys = get(&announcing(""), path);
    assert_eq!(
        keys.body,
        json!({ "keys": [{ "algorithm": "ed25519", "public_key": "whpk_1" }] })
    );
    let none = get(&super::operations_common::ports(), path);
    assert_eq!((none.status(), none.code()), (404, "unknown_path"));
}
