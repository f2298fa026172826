//! Tests OpenAI's files and batches through the gate: uploads, the lines of a batch as calls, limits, permissions and lists.

use crate::operations_common::{Answer, get, hosted, order, send};
use crate::surfaces_common;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_testkit::InMemory;
use penstock_testkit::keys::{add_key, add_tenant};
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;

const LOCAL: (&str, &str) = ("spin-client-addr", "127.0.0.1:4711");
const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=XX");

fn ports() -> InMemory {
    hosted(surfaces_common::ports())
}

fn line(id: &str, body: &Value) -> String {
    let line = json!({ "custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body });
    format!("{line}\n")
}

fn embed(id: &str) -> String {
    line(id, &json!({ "model": "vectors", "input": id }))
}

fn form(purpose: &str, content: &str) -> Vec<u8> {
    format!(
        "--XX\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n\
         --XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n{content}\r\n--XX--\r\n"
    )
    .into_bytes()
}

fn upload(ports: &InMemory, with: &[(&str, &str)], content: &str) -> Answer {
    let headers: Vec<_> = [FORM].iter().chain(with).copied().collect();
    send(
        ports,
        "POST",
        "/v1/files",
        &headers,
        &form("batch", content),
    )
}

fn create(ports: &InMemory, with: &[(&str, &str)], content: &str) -> Answer {
    let file = upload(ports, with, content);
    assert_eq!(file.status(), 200, "{}", file.body);
    let body = json!({
        "input_file_id": file.body["id"], "endpoint": "/v1/embeddings", "completion_window": "24h",
        "metadata": { "job": "nightly" },
    });
    send(
        ports,
        "POST",
        "/v1/batches",
        with,
        body.to_string().as_bytes(),
    )
}

/// Runs the steps of a batch as the host does, until `stop` says so or none follows. Returns the last note.
fn drive(ports: &InMemory, created: &Answer, stop: impl Fn(&Value) -> bool) -> Value {
    let mut id = created.note["id"].as_str().unwrap().to_owned();
    let run = json!({ "do": "run", "holder": "worker", "dead_before_ms": 0 });
    loop {
        let ran = order(ports, &id, &run);
        assert_eq!(ran.status(), 204, "{}", ran.body);
        assert_eq!(ran.note["again_ms"], Value::Null, "{}", ran.note);
        let Some(next) = ran.note["next"]["id"].as_str() else {
            return ran.note;
        };
        if stop(&ran.note["next"]) {
            return ran.note;
        }
        next.clone_into(&mut id);
    }
}

fn run(ports: &InMemory, created: &Answer) {
    drive(ports, created, |_| false);
}

fn read(ports: &InMemory, created: &Answer, with: &[(&str, &str)]) -> Value {
    let path = format!("/v1/batches/{}", created.body["id"].as_str().unwrap());
    let answer = send(ports, "GET", &path, with, b"");
    assert_eq!(answer.status(), 200, "{}", answer.body);
    answer.body
}

fn content(ports: &InMemory, id: &Value, with: &[(&str, &str)]) -> Vec<Value> {
    let path = format!("/v1/files/{}/content", id.as_str().unwrap());
    let headers: Vec<_> = [("accept", "application/binary")]
        .iter()
        .chain(with)
        .copied()
        .collect();
    let answer = send(ports, "GET", &path, &headers, b"");
    assert_eq!(answer.status(), 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/binary"));
    let text = String::from_utf8(answer.response.body.to_vec()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_batch_has_the_answers_of_its_calls_and_the_members_that_openais_clients_read() {
    let ports = ports();
    let file = upload(&ports, &[], &embed("a")).body;
    let id = file["id"].as_str().unwrap();
    assert!(id.starts_with("file-"));
    assert_eq!(
        file,
        json!({
            "id": id, "object": "file", "bytes": embed("a").len(), "created_at": 1_767_225_600,
            "expires_at": 1_767_225_600 + 7 * 86_400, "filename": "in.jsonl", "purpose": "batch", "status": "processed",
        })
    );
    let text = [
        embed("hello"),
        line("bad", &json!({ "model": "vectors" })),
        embed("b"),
    ]
    .concat();
    let created = create(&ports, &[], &text);
    assert_eq!(created.status(), 200, "{}", created.body);
    assert_eq!(created.note["push"]["tenant"], "anonymous");
    let made = 1_767_225_600;
    assert_eq!(
        created.body,
        json!({
            "id": created.body["id"], "object": "batch", "endpoint": "/v1/embeddings", "errors": null,
            "input_file_id": created.body["input_file_id"], "completion_window": "24h", "status": "validating",
            "output_file_id": null, "error_file_id": null, "created_at": made, "in_progress_at": null,
            "expires_at": made + 86_400, "finalizing_at": null, "completed_at": null, "failed_at": null,
            "expired_at": null, "cancelling_at": null, "cancelled_at": null,
            "request_counts": { "total": 0, "completed": 0, "failed": 0 }, "metadata": { "job": "nightly" },
        })
    );
    run(&ports, &created);
    let batch = read(&ports, &created, &[]);
    assert_eq!(batch["status"], "completed");
    assert_eq!(
        batch["request_counts"],
        json!({ "total": 3, "completed": 2, "failed": 1 })
    );
    for at in ["in_progress_at", "finalizing_at", "completed_at"] {
        assert!(batch[at].is_u64(), "{at}");
    }
    let output = content(&ports, &batch["output_file_id"], &[]);
    let ids: Vec<&Value> = output.iter().map(|line| &line["custom_id"]).collect();
    assert_eq!(ids, ["hello", "b"]);
    let direct = json!({ "model": "vectors", "input": "hello" });
    let direct = send(
        &ports,
        "POST",
        "/v1/embeddings",
        &[],
        direct.to_string().as_bytes(),
    );
    assert_eq!(output[0]["response"]["status_code"], 200);
    assert_eq!(output[0]["response"]["body"], direct.body);
    assert!(
        output[0]["response"]["request_id"]
            .as_str()
            .unwrap()
            .starts_with("req_")
    );
    assert_eq!(output[0]["error"], Value::Null);
    let errors = content(&ports, &batch["error_file_id"], &[]);
    assert_eq!(errors[0]["response"]["status_code"], 400);
    assert_eq!(errors[0]["response"]["body"]["error"]["param"], "input");
}

#[test]
fn an_upload_that_is_no_form_or_has_another_purpose_is_refused() {
    let ports = ports();
    let json_type = send(&ports, "POST", "/v1/files", &[], b"{}");
    assert_eq!(
        (json_type.status(), json_type.code()),
        (415, "unsupported_media_type")
    );
    for (body, says) in [
        (form("fine-tune", ""), "`fine-tune`"),
        (form("batch", "")[..40].to_vec(), "the form is broken"),
        (b"--XX--".to_vec(), "`purpose`"),
    ] {
        let refused = send(&ports, "POST", "/v1/files", &[FORM], &body);
        assert_eq!((refused.status(), refused.code()), (400, "invalid_body"));
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
    }
    let small = ports_with("[batches]\nmax_file_bytes = 1024\n");
    let large = upload(&small, &[], &"x".repeat(1_025));
    assert_eq!((large.status(), large.code()), (413, "body_too_large"));
}

fn ports_with(policy: &str) -> InMemory {
    let ports = ports();
    ports.set_policy(policy);
    ports
}

#[test]
fn a_batch_that_cannot_be_created_names_the_member_that_is_wrong() {
    let ports = ports();
    let file = upload(&ports, &[], &embed("a")).body["id"].clone();
    let good =
        json!({ "input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h" });
    for (member, value) in [
        ("input_file_id", json!(null)),
        ("input_file_id", json!("file-1")),
        ("endpoint", json!("/v1/chat/completions")),
        ("completion_window", json!("1h")),
        ("metadata", json!({ "a": 1 })),
    ] {
        let mut body = good.clone();
        body[member] = value;
        let refused = send(
            &ports,
            "POST",
            "/v1/batches",
            &[],
            body.to_string().as_bytes(),
        );
        assert_eq!((refused.status(), refused.code()), (400, "invalid_body"));
        assert_eq!(refused.body["error"]["param"], member, "{}", refused.body);
    }
    let not_json = send(&ports, "POST", "/v1/batches", &[], b"[");
    assert_eq!((not_json.status(), not_json.code()), (400, "invalid_body"));
    for (method, path, code) in [
        ("GET", "/v1/files/file-1", "unknown_file"),
        ("DELETE", "/v1/files/file-1", "unknown_file"),
        ("GET", "/v1/files/file-1/content", "unknown_file"),
        ("GET", "/v1/batches/batch_1", "unknown_batch"),
        ("POST", "/v1/batches/batch_1/cancel", "unknown_batch"),
    ] {
        let headers = [("accept", "*/*")];
        let answer = send(&ports, method, path, &headers, b"");
        assert_eq!((answer.status(), answer.code()), (404, code), "{path}");
    }
}

#[test]
fn a_file_that_is_not_valid_fails_the_batch_as_at_openai() {
    let ports = ports();
    let created = create(&ports, &[], &format!("{}oops\n", embed("a")));
    run(&ports, &created);
    let batch = read(&ports, &created, &[]);
    assert_eq!(batch["status"], "failed");
    assert!(batch["failed_at"].is_u64());
    assert_eq!(batch["errors"]["object"], "list");
    assert_eq!(batch["errors"]["data"][0]["code"], "invalid_json_line");
    assert_eq!(batch["errors"]["data"][0]["line"], 2);
    assert_eq!(ports.runs.get(), 0);
}

#[test]
fn a_batch_that_is_cancelled_stops_and_says_what_it_did() {
    let ports = ports();
    let created = create(&ports, &[], &[embed("a"), embed("b")].concat());
    drive(&ports, &created, |_| true);
    let path = format!(
        "/v1/batches/{}/cancel",
        created.body["id"].as_str().unwrap()
    );
    let cancelling = send(&ports, "POST", &path, &[], b"");
    assert_eq!(
        cancelling.body["status"], "cancelling",
        "{}",
        cancelling.body
    );
    assert!(cancelling.body["cancelling_at"].is_u64());
    let step = json!({ "id": cancelling.note["id"] });
    let created_at = Answer {
        note: step,
        ..created
    };
    run(&ports, &created_at);
    let batch = read(&ports, &created_at, &[]);
    assert_eq!(batch["status"], "cancelled");
    assert_eq!(
        batch["request_counts"],
        json!({ "total": 2, "completed": 0, "failed": 2 })
    );
    assert_eq!(ports.runs.get(), 0);
    let errors = content(&ports, &batch["error_file_id"], &[]);
    assert_eq!(errors[0]["error"]["code"], "batch_cancelled");
}

#[test]
fn a_limit_makes_a_batch_wait_and_fails_no_line() {
    let ports =
        ports_with("[[limits]]\nname = \"items\"\nunit = \"items\"\nlimit = 1\nwindow_s = 60\n");
    let created = create(&ports, &[], &[embed("a"), embed("b")].concat());
    let waiting = drive(&ports, &created, |next| {
        next["due_ms"].as_u64() > Some(1_767_225_600_000)
    });
    let batch = read(&ports, &created, &[]);
    assert_eq!(batch["status"], "in_progress");
    assert_eq!(
        batch["request_counts"],
        json!({ "total": 2, "completed": 1, "failed": 0 })
    );
    let due_ms = waiting["next"]["due_ms"].as_u64().unwrap();
    ports.clock.advance_ms(due_ms - 1_767_225_600_000 + 60_000);
    let rest = Answer {
        note: json!({ "id": waiting["next"]["id"] }),
        ..created
    };
    run(&ports, &rest);
    let batch = read(&ports, &rest, &[]);
    assert_eq!(batch["status"], "completed");
    assert_eq!(batch["request_counts"]["completed"], 2);
}

#[test]
fn a_model_that_is_not_ready_is_waited_for() {
    let left = Rc::new(Cell::new(1));
    let counted = left.clone();
    let models: [(&str, &str, &[&str]); 1] =
        [("vectors", &surfaces_common::adapted("vectors"), &["1"])];
    let ports = hosted(InMemory::new(&models, move |model, version, inputs| {
        if counted.replace(0) == 1 {
            return Err(Failure {
                kind: FailureKind::NotReady,
                message: "it loads".into(),
                retry_after_ms: Some(7_000),
            });
        }
        surfaces_common::echo(model, version, inputs)
    }));
    let created = create(&ports, &[], &embed("a"));
    let waiting = drive(&ports, &created, |next| {
        next["due_ms"].as_u64() > Some(1_767_225_600_000)
    });
    assert_eq!(waiting["next"]["due_ms"], 1_767_225_607_000_u64);
    let rest = Answer {
        note: json!({ "id": waiting["next"]["id"] }),
        ..created
    };
    // Nobody begins the next step before it is due.
    let order_to_run = json!({ "do": "run", "holder": "worker", "dead_before_ms": 0 });
    let early = order(&ports, rest.note["id"].as_str().unwrap(), &order_to_run);
    assert_eq!(early.note["again_ms"], 1_767_225_607_000_u64);
    ports.clock.advance_ms(7_000);
    run(&ports, &rest);
    assert_eq!(read(&ports, &rest, &[])["request_counts"]["completed"], 1);
}

#[test]
fn lines_run_with_the_scopes_of_the_batchs_caller_and_tenants_see_only_their_own() {
    let ports = ports();
    ports.set_policy("[auth.tiers.free]\n");
    add_tenant(&ports, "acme");
    add_tenant(&ports, "other");
    let narrow = add_key(&ports, "acme", &["embeddings:vectors"], "free");
    let other = add_key(&ports, "other", &["*"], "free");
    let (narrow, other) = (format!("Bearer {narrow}"), format!("Bearer {other}"));
    let narrow = [("authorization", narrow.as_str())];
    let other = [("authorization", other.as_str())];
    let text = [
        embed("a"),
        line("hidden", &json!({ "model": "ids", "input": "a" })),
    ]
    .concat();
    let created = create(&ports, &narrow, &text);
    assert_eq!(created.status(), 200, "{}", created.body);
    run(&ports, &created);
    let batch = read(&ports, &created, &narrow);
    assert_eq!(
        batch["request_counts"],
        json!({ "total": 2, "completed": 1, "failed": 1 })
    );
    let errors = content(&ports, &batch["error_file_id"], &narrow);
    let response = &errors[0]["response"];
    assert_eq!(response["status_code"], 404);
    assert_eq!(response["body"]["error"]["code"], "unknown_model");
    let id = batch["id"].as_str().unwrap();
    let file = batch["output_file_id"].as_str().unwrap();
    for path in [
        format!("/v1/batches/{id}"),
        format!("/v1/files/{file}"),
        format!("/v1/files/{file}/content"),
    ] {
        let headers: Vec<_> = [("accept", "*/*")].iter().chain(&other).copied().collect();
        assert_eq!(
            send(&ports, "GET", &path, &headers, b"").status(),
            404,
            "{path}"
        );
    }
    let listed = send(&ports, "GET", "/v1/batches", &other, b"");
    assert_eq!(listed.body["data"], json!([]));
    let listed = send(&ports, "GET", "/v1/batches", &narrow, b"");
    assert_eq!(listed.body["data"][0]["id"], *id);
    let operations = send(&ports, "GET", "/v1/operations", &narrow, b"");
    assert_eq!(operations.body["operations"], json!([]));
}

#[test]
fn lists_are_pages_and_only_this_machine_lists_without_credentials() {
    let ports = ports();
    let ids: Vec<Value> = (0..3)
        .map(|_| upload(&ports, &[], "x").body["id"].clone())
        .collect();
    assert_eq!(get(&ports, "/v1/files").status(), 403);
    assert_eq!(get(&ports, "/v1/batches").status(), 403);
    let page = send(
        &ports,
        "GET",
        "/v1/files?limit=2&purpose=batch",
        &[LOCAL],
        b"",
    )
    .body;
    assert_eq!(page["object"], "list");
    assert_eq!((&page["first_id"], &page["last_id"]), (&ids[2], &ids[1]));
    assert_eq!(page["has_more"], true);
    let after = page["last_id"].as_str().unwrap();
    let rest = send(
        &ports,
        "GET",
        &format!("/v1/files?after={after}"),
        &[LOCAL],
        b"",
    )
    .body;
    assert_eq!(
        (&rest["data"][0]["id"], &rest["has_more"]),
        (&ids[0], &json!(false))
    );
    let oldest = send(&ports, "GET", "/v1/files?order=asc&limit=1", &[LOCAL], b"").body;
    assert_eq!(oldest["data"][0]["id"], ids[0]);
    for query in ["limit=x", "order=up", "purpose=x", "after=file-1", "size=1"] {
        let refused = send(&ports, "GET", &format!("/v1/files?{query}"), &[LOCAL], b"");
        assert_eq!(
            (refused.status(), refused.code()),
            (400, "invalid_parameter"),
            "{query}"
        );
    }
}

#[test]
fn a_host_without_workers_runs_a_step_for_each_poll() {
    let ports = surfaces_common::ports();
    let created = create(&ports, &[], &embed("a"));
    assert_eq!(created.note, Value::Null);
    let states: Vec<Value> = (0..3)
        .map(|_| read(&ports, &created, &[])["status"].clone())
        .collect();
    assert_eq!(states, ["in_progress", "finalizing", "completed"]);
}

#[test]
fn files_and_batches_can_be_turned_off() {
    for policy in [
        "[batches]\nenabled = false\n",
        "[operations]\nenabled = false\n",
    ] {
        let ports = ports_with(policy);
        let answer = get(&ports, "/v1/batches/batch_1");
        assert_eq!((answer.status(), answer.code()), (404, "unknown_path"));
    }
}

#[test]
fn uploads_and_new_batches_are_charged_and_polls_are_not() {
    let ports = ports_with("[[limits]]\nname = \"calls\"\nlimit = 2\nwindow_s = 3600\n");
    let created = create(&ports, &[], &embed("a"));
    assert_eq!(created.status(), 200);
    assert_eq!(upload(&ports, &[], "x").status(), 429);
    for _ in 0..5 {
        assert_eq!(read(&ports, &created, &[])["status"], "validating");
    }
}
