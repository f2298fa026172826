//! Statistics, the repository's index, loading and unloading, over HTTP, as clients of the Open Inference Protocol
//! request them.

use crate::common;

use common::{Options, Response, Server, root};
use serde_json::{Value, json};
use std::path::Path;

const CONTROL: &str = "[models]\ncontrol = true\npoll_interval_ms = 0\n";

/// `identity` in two versions, and `broken`, whose graph is invalid.
fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = root().join("models/identity");
    let contract = std::fs::read_to_string(from.join("model.toml")).unwrap();
    let graph = std::fs::read(from.join("1/model.onnx")).unwrap();
    for (name, version, graph) in [
        ("identity", "1", &graph[..]),
        ("identity", "2", &graph[..]),
        ("broken", "1", b"not a graph"),
    ] {
        write(
            folder.path(),
            &format!("{name}/{version}/model.onnx"),
            graph,
        );
        write(
            folder.path(),
            &format!("{name}/model.toml"),
            contract.as_bytes(),
        );
    }
    folder
}

fn write(folder: &Path, file: &str, content: &[u8]) {
    let file = folder.join(file);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content).unwrap();
}

fn start(models: &Path, policy: &'static str) -> Server {
    let server = Server::start_with(Options {
        models: Some(models.to_owned()),
        policy: Some(policy),
        ..Options::default()
    });
    server.logged("model broken: not served");
    server.logged("model identity version 2: ready");
    server.logged("model identity version 1: ready");
    server
}

fn predict(server: &Server, path: &str) -> Response {
    server.post_json(path, r#"{"inputs":{"a":[[1,2,3,4],[5,6,7,8]]}}"#)
}

#[track_caller]
fn refused(answer: &Response, status: u16, code: &str) -> String {
    let text = String::from_utf8_lossy(&answer.bytes);
    assert_eq!(answer.status, status, "{text}");
    // Paths of the Open Inference Protocol answer with its form of an error, and the code beside it.
    assert!(text.contains(&format!("\"{code}\"")), "{text}");
    text.into_owned()
}

fn index(server: &Server, body: &[u8]) -> Vec<Value> {
    let answer = server.post("/v2/repository/index", "application/json", body);
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    answer.json().as_array().unwrap().clone()
}

fn load(server: &Server, model: &str) -> Response {
    server.post_json(&format!("/v2/repository/models/{model}/load"), "{}")
}

fn unload(server: &Server, model: &str) -> Response {
    server.post_json(&format!("/v2/repository/models/{model}/unload"), "{}")
}

#[test]
fn statistics_count_what_was_called_and_are_of_what_was_asked_for() {
    let models = models();
    let server = start(models.path(), CONTROL);
    for _ in 0..3 {
        assert_eq!(predict(&server, "/v1/models/identity:predict").status, 200);
    }
    let answered = predict(&server, "/v1/models/identity/versions/1:predict");
    assert_eq!(answered.status, 200);
    let stats = |path: &str| {
        let answer = server.get(path);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{path}: {text}");
        answer.json()["model_stats"].as_array().unwrap().clone()
    };
    let one = stats("/v2/models/identity/versions/2/stats");
    assert_eq!(one.len(), 1);
    assert_eq!(
        (&one[0]["name"], &one[0]["version"]),
        (&json!("identity"), &json!("2"))
    );
    assert_eq!(one[0]["inference_stats"]["success"]["count"], 3);
    assert_eq!(one[0]["inference_count"], 6, "items, not calls");
    assert!(one[0]["last_inference"].as_u64().unwrap() > 1_700_000_000_000);
    assert!(
        one[0]["inference_stats"]["compute_infer"]["ns"]
            .as_u64()
            .unwrap()
            > 0
    );
    let rows = one[0]["batch_stats"].as_array().unwrap();
    let runs: u64 = rows
        .iter()
        .map(|row| row["compute_infer"]["count"].as_u64().unwrap())
        .sum();
    assert_eq!(Some(runs), one[0]["execution_count"].as_u64());
    let of = |listed: &[Value]| -> Vec<String> {
        let name = |one: &Value| format!("{}@{}", one["name"], one["version"]).replace('"', "");
        listed.iter().map(name).collect()
    };
    assert_eq!(
        of(&stats("/v2/models/identity/stats")),
        ["identity@1", "identity@2"]
    );
    let all = of(&stats("/v2/models/stats"));
    assert_eq!(all, ["broken@1", "identity@1", "identity@2"]);
    refused(&server.get("/v2/models/nobody/stats"), 404, "unknown_model");
    for version in ["3", "x", "0"] {
        let path = format!("/v2/models/identity/versions/{version}/stats");
        refused(&server.get(&path), 404, "unknown_version");
    }
    let answer = server.post_json("/v2/models/identity/stats", "{}");
    refused(&answer, 405, "method_not_allowed");
}

#[test]
fn a_model_is_unloaded_and_loaded_again_and_callers_see_it_at_once() {
    for door in ["direct", "http"] {
        let models = models();
        let server = Server::start_with(Options {
            models: Some(models.path().to_owned()),
            policy: Some(CONTROL),
            door: Some(door),
            ..Options::default()
        });
        server.logged("model broken: not served");
        server.logged("model identity version 2: ready");
        server.logged("model identity version 1: ready");
        let states = |body: &[u8]| -> Vec<(String, String, String)> {
            let text =
                |entry: &Value, member: &str| entry[member].as_str().unwrap_or_default().to_owned();
            let listed = index(&server, body);
            let of = |entry: &Value| {
                let reason = text(entry, "reason");
                assert_eq!(reason.is_empty(), entry["state"] == "READY", "{entry}");
                (
                    text(entry, "name"),
                    text(entry, "version"),
                    text(entry, "state"),
                )
            };
            listed.iter().map(of).collect()
        };
        let is = |name: &str, version: &str, state: &str| {
            (name.to_owned(), version.to_owned(), state.to_owned())
        };
        let ready = [is("identity", "1", "READY"), is("identity", "2", "READY")];
        assert_eq!(
            states(b""),
            [&[is("broken", "1", "UNAVAILABLE")][..], &ready].concat()
        );
        assert_eq!(states(b"{\"ready\":true}"), ready);
        assert_eq!(states(b"{\"ready\":false}").len(), 3);
        let answer = unload(&server, "identity");
        assert_eq!((answer.status, answer.bytes.len()), (200, 0), "{door}");
        assert!(states(b"{\"ready\":true}").is_empty());
        let answer = predict(&server, "/v1/models/identity:predict");
        refused(&answer, 503, "model_not_ready");
        assert_eq!(server.get("/v2/models/identity/ready").status, 503);
        // A new version beside it, which no poll has found.
        let graph = std::fs::read(models.path().join("identity/1/model.onnx")).unwrap();
        write(models.path(), "identity/3/model.onnx", &graph);
        let answer = load(&server, "identity");
        assert_eq!((answer.status, answer.bytes.len()), (200, 0), "{door}");
        let answer = predict(&server, "/v1/models/identity:predict");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-model-version"), Some("3"));
        assert_eq!(states(b"{\"ready\":true}").len(), 3);
    }
}

#[test]
fn a_refused_load_gives_its_reason_and_an_unknown_model_lists_the_models() {
    let models = models();
    let server = start(models.path(), CONTROL);
    let text = refused(&load(&server, "broken"), 409, "failed_precondition");
    assert!(!text.contains(&*models.path().to_string_lossy()), "{text}");
    for answer in [
        load(&server, "nobody"),
        unload(&server, "nobody"),
        load(&server, "..%2Fx"),
    ] {
        let text = refused(&answer, 404, "unknown_model");
        assert!(text.contains("identity"), "{text}");
    }
    assert_eq!(predict(&server, "/v1/models/identity:predict").status, 200);
}

#[test]
fn nothing_is_loaded_where_the_operator_does_not_allow_it() {
    let models = models();
    let server = start(models.path(), "[models]\npoll_interval_ms = 0\n");
    for answer in [load(&server, "identity"), unload(&server, "identity")] {
        let text = refused(&answer, 409, "failed_precondition");
        assert!(text.contains("control = true"), "{text}");
    }
    assert_eq!(index(&server, b"{\"ready\":true}").len(), 2);
}

#[test]
fn the_scope_to_read_models_does_not_permit_to_unload_them() {
    let models = models();
    let server = start(
        models.path(),
        "[auth.anonymous]\nscopes = [\"models\", \"predict\"]\nfrom = \"anywhere\"\n[models]\ncontrol = true\n",
    );
    for answer in [load(&server, "identity"), unload(&server, "identity")] {
        // A caller without credentials is refused. A caller with credentials may have the scope.
        refused(&answer, 401, "credentials_missing");
    }
    assert_eq!(index(&server, b"").len(), 3);
    assert_eq!(server.get("/v2/models/stats").status, 200);
}

#[test]
fn bodies_that_are_not_what_the_repository_takes_are_400() {
    let models = models();
    let server = start(models.path(), CONTROL);
    let json_type = "application/json";
    for body in [
        &b"{"[..],
        b"[]",
        b"{\"ready\":1}",
        b"1",
        b"\xff",
        b"{\"ready\":true,\"ready\":true}",
    ] {
        let answer = server.post("/v2/repository/index", json_type, body);
        assert_eq!(
            answer.status,
            400,
            "{body:?}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
    }
    for body in [&b"{"[..], b"[]", b"{\"parameters\":1}"] {
        let answer = server.post("/v2/repository/models/identity/load", json_type, body);
        assert_eq!(
            answer.status,
            400,
            "{body:?}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
    }
    // Members that would change the model are refused by name.
    for body in [
        &b"{\"parameters\":{\"config\":\"{}\"}}"[..],
        b"{\"parameters\":{\"file:1/model.onnx\":\"AAAA\"}}",
    ] {
        let answer = server.post("/v2/repository/models/identity/load", json_type, body);
        assert_eq!(
            answer.status,
            501,
            "{body:?}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
    }
    let answer = server.post(
        "/v2/repository/models/identity/unload",
        json_type,
        b"{\"parameters\":{\"unload_dependents\":true}}",
    );
    assert_eq!(answer.status, 200);
    for (method, path) in [
        ("GET", "/v2/repository/index"),
        ("GET", "/v2/repository/models/identity/load"),
        ("DELETE", "/v2/repository/models/identity/unload"),
    ] {
        let answer = server.call(method, path, &[], None);
        refused(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
}

#[test]
fn where_components_run_the_models_there_is_no_repository_to_ask() {
    let server = Server::start_with(Options {
        in_webassembly: true,
        ..Options::default()
    });
    for answer in [
        server.post_json("/v2/repository/index", "{}"),
        server.get("/v2/models/stats"),
        server.get("/v2/models/identity/stats"),
        load(&server, "identity"),
        unload(&server, "identity"),
    ] {
        refused(&answer, 501, "not_supported");
    }
}
