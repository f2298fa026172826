//! OpenAI's files and batches over real HTTP, with the real components, store and runtime.

use crate::common;

use common::{Options, Server, root};
use serde_json::{Value, json};
use std::path::Path;

/// The most lines of a step, which a crash may repeat.
const STEP: u64 = 256;

fn line(id: &str, body: &Value) -> String {
    let line = json!({ "custom_id": id, "method": "POST", "url": "/v1/classify", "body": body });
    format!("{line}\n")
}

fn classify(id: &str) -> String {
    line(id, &json!({ "model": "toxic", "input": "you are kind" }))
}

fn upload(server: &Server, content: &str) -> Value {
    let body = format!(
        "--XX\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n{content}\r\n--XX--\r\n"
    );
    let answer = server.post(
        "/v1/files",
        "multipart/form-data; boundary=XX",
        body.as_bytes(),
    );
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    answer.json()
}

fn create(server: &Server, content: &str) -> Value {
    let file = upload(server, content);
    let body = json!({ "input_file_id": file["id"], "endpoint": "/v1/classify", "completion_window": "24h" });
    let answer = server.post_json("/v1/batches", &body.to_string());
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    assert_eq!(
        answer.header("penstock-operation"),
        None,
        "the note is for the host"
    );
    answer.json()
}

fn read(server: &Server, batch: &Value) -> Value {
    let answer = server.get(&format!("/v1/batches/{}", batch["id"].as_str().unwrap()));
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    answer.json()
}

/// Waits until a batch is over, and returns it.
fn ended(server: &Server, batch: &Value) -> Value {
    let mut last = Value::Null;
    server.until("the batch is over", || {
        last = read(server, batch);
        let over = ["completed", "failed", "expired", "cancelled"];
        over.iter().any(|state| last["status"] == *state)
    });
    last
}

/// The ids of the lines of a file, in order.
fn ids(server: &Server, file: &Value) -> Vec<String> {
    let Some(id) = file.as_str() else {
        return Vec::new();
    };
    let answer = server.get(&format!("/v1/files/{id}/content"));
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.bytes).unwrap();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["custom_id"].as_str().unwrap().to_owned()
    });
    lines.collect()
}

fn server(folder: &Path) -> Server {
    let store = folder.join("default.kv");
    let server = Server::start_with(Options {
        models: Some(root().join("tests/data/texts")),
        policy: Some("[usage]\nenabled = true\n[operations]\nlease_ms = 1000\nworkers = 2\n"),
        runtime_config_text: Some(format!(
            "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
            store.display()
        )),
        ..Options::default()
    });
    server.ready();
    server
}

/// The calls of `toxic` that were counted.
fn counted(server: &Server) -> u64 {
    let usage = server.get("/v1/usage").json();
    let rows = usage["usage"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row["model"] == "toxic");
    rows.map(|row| row["requests"].as_u64().unwrap()).sum()
}

#[test]
fn a_batch_runs_by_itself_and_its_files_have_the_answers_of_its_calls() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let direct = json!({ "model": "toxic", "input": "you are kind" });
    let direct = server.post_json("/v1/classify", &direct.to_string()).json();
    let text = [
        classify("a"),
        line("wrong", &json!({ "model": "toxic" })),
        classify("b"),
    ]
    .concat();
    let batch = ended(&server, &create(&server, &text));
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(
        batch["request_counts"],
        json!({ "total": 3, "completed": 2, "failed": 1 })
    );
    assert_eq!(ids(&server, &batch["output_file_id"]), ["a", "b"]);
    assert_eq!(ids(&server, &batch["error_file_id"]), ["wrong"]);
    let output = batch["output_file_id"].as_str().unwrap();
    let content = server.get(&format!("/v1/files/{output}/content")).bytes;
    let first = content.split(|byte| *byte == b'\n').next().unwrap();
    let first: Value = serde_json::from_slice(first).unwrap();
    assert_eq!(first["response"]["body"]["data"], direct["data"]);

    let failed = ended(&server, &create(&server, "oops\n"));
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["errors"]["data"][0]["code"], "invalid_json_line");

    let listed = server.get("/v1/batches").json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let operations = server.get("/v1/operations").json();
    assert_eq!(operations["operations"], json!([]), "steps are not listed");
    let path = format!("/v1/files/{output}");
    assert_eq!(server.call("DELETE", &path, &[], None).status, 200);
    assert_eq!(server.get(&path).status, 404);
}

#[test]
fn a_batch_goes_on_after_a_kill_and_repeats_no_line_of_a_step_that_had_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = server(folder.path());
    let names: Vec<String> = (0..4_000).map(|n| format!("line-{n}")).collect();
    let text: String = names.iter().map(|name| classify(name)).collect();
    let batch = create(&running, &text);
    let mut kills = 0;
    let mut done = 0;
    for share in [0.2, 0.5, 0.8] {
        running.until("a part of the lines has run", || {
            done = read(&running, &batch)["request_counts"]["completed"]
                .as_u64()
                .unwrap();
            done as f64 >= share * names.len() as f64
        });
        running.kill();
        kills += 1;
        running = server(folder.path());
        let counts = read(&running, &batch)["request_counts"].clone();
        assert!(
            counts["completed"].as_u64() >= Some(done),
            "{counts} after {done}"
        );
    }
    let batch = ended(&running, &batch);
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(ids(&running, &batch["output_file_id"]), names);
    assert_eq!(batch["error_file_id"], Value::Null);
    let counted = counted(&running);
    let most = names.len() as u64 + kills * STEP;
    assert!(
        counted <= most,
        "{counted} calls ran for {} lines and {kills} kills",
        names.len()
    );
}

#[test]
fn a_batch_that_is_cancelled_ends_soon_and_each_line_has_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let names: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let text: String = names.iter().map(|name| classify(name)).collect();
    let batch = create(&server, &text);
    server.until("some lines have run", || {
        read(&server, &batch)["request_counts"]["completed"].as_u64() > Some(0)
    });
    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
    let cancelling = server.post_json(&path, "{}").json();
    assert_eq!(cancelling["status"], "cancelling", "{cancelling}");
    let batch = ended(&server, &batch);
    assert_eq!(batch["status"], "cancelled", "{batch}");
    let mut all = ids(&server, &batch["output_file_id"]);
    let completed = all.len() as u64;
    all.extend(ids(&server, &batch["error_file_id"]));
    assert_eq!(all, names);
    assert_eq!(batch["request_counts"]["completed"], completed);
    assert_eq!(
        batch["request_counts"]["failed"],
        names.len() as u64 - completed
    );
    assert_eq!(server.post_json(&path, "{}").json()["status"], "cancelled");
}
