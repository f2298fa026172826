//! Tests statistics, index, loading and unloading over in-memory ports: the calls of the host, the answers, and the
//! refusals.

use crate::gate_common::{json_of, send};
use penstock_core::ModelVersion;
use penstock_gate::Response;
use penstock_gate::ports::Failure;
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use penstock_testkit::models::ECHO;
use penstock_testkit::ports::Control;
use serde_json::{Value, json};
use std::rc::Rc;

fn never(_: &str, _: ModelVersion, _: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    unreachable!("nothing here calls a model")
}

fn ports() -> InMemory {
    InMemory::new(&[("identity", ECHO, &["1", "2"])], never)
}

fn controlled() -> InMemory {
    let entry =
        |name: &str| json!({ "name": name, "version": "1", "state": "READY", "reason": "" });
    let mut ports = ports();
    ports.control = Some(Rc::new(Control {
        statistics: json!({ "model_stats": [entry("identity"), entry("hidden")] }).to_string(),
        index: json!([entry("identity"), entry("hidden")]).to_string(),
        ..Control::default()
    }));
    ports
}

#[track_caller]
fn refused(response: &Response, status: u16, code: &str) {
    let text = String::from_utf8_lossy(&response.body);
    assert_eq!(response.status, status, "{text}");
    assert!(text.contains(&format!("\"{code}\"")), "{text}");
}

fn asked(ports: &InMemory) -> Vec<String> {
    ports
        .control
        .as_ref()
        .expect("it is controlled")
        .asked
        .take()
}

#[test]
fn models_are_loaded_and_unloaded_and_the_answer_has_no_body() {
    let ports = controlled();
    for (path, body, done) in [
        (
            "/v2/repository/models/identity/load",
            &b""[..],
            "load identity",
        ),
        (
            "/v2/repository/models/identity/load",
            b" {} ",
            "load identity",
        ),
        (
            "/v2/repository/models/new/load",
            b"{\"parameters\":{}}",
            "load new",
        ),
        (
            "/v2/repository/models/identity/unload",
            b"{}",
            "unload identity",
        ),
        (
            "/v2/repository/models/identity/load",
            b"{\"parameters\":null,\"more\":[1]}",
            "load identity",
        ),
        (
            "/v2/repository/models/identity/load",
            b"{\"parameters\":{\"config\":null,\"other\":1}}",
            "load identity",
        ),
        (
            "/v2/repository/models/identity/unload",
            b"{\"parameters\":{\"unload_dependents\":null,\"\\u0000\":1}}",
            "unload identity",
        ),
        (
            "/v2/repository/models/identity/unload",
            b"{\"parameters\":{\"unload_dependents\":false}}",
            "unload identity",
        ),
    ] {
        let answer = send(&ports, "POST", path, &[], body);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
        assert_eq!(asked(&ports), [done]);
    }
}

#[test]
fn a_body_that_is_not_what_is_taken_is_400_and_nothing_is_done() {
    let ports = controlled();
    let (index, load, unload) = (
        "/v2/repository/index",
        "/v2/repository/models/identity/load",
        "/v2/repository/models/identity/unload",
    );
    let deep = [&b"["[..]; 100_000].concat();
    for (path, body, code) in [
        (index, &b"{"[..], "malformed_json"),
        (index, b"\xff", "malformed_json"),
        (index, b"{} {}", "malformed_json"),
        (index, deep.as_slice(), "body_too_large"),
        (index, &deep[..1000], "malformed_json"),
        (index, b"[]", "invalid_body"),
        (index, b"null", "invalid_body"),
        (index, b"true", "invalid_body"),
        (index, b"{\"ready\":1}", "invalid_body"),
        (index, b"{\"ready\":true,\"ready\":true}", "malformed_json"),
        (load, b"{\"parameters\":[]}", "invalid_body"),
        (
            load,
            b"{\"parameters\":{\"config\":\"{}\"}}",
            "not_supported",
        ),
        (
            load,
            b"{\"parameters\":{\"file:1/model.onnx\":\"\"}}",
            "not_supported",
        ),
        (
            unload,
            b"{\"parameters\":{\"unload_dependents\":1}}",
            "invalid_body",
        ),
    ] {
        let answer = send(&ports, "POST", path, &[], body);
        let status = match code {
            "body_too_large" => 413,
            "not_supported" => 501,
            _ => 400,
        };
        refused(&answer, status, code);
        assert!(asked(&ports).is_empty(), "{path}");
    }
    let answer = send(
        &ports,
        "POST",
        load,
        &[("content-encoding", "gzip")],
        b"no gzip",
    );
    refused(&answer, 400, "invalid_content_coding");
}

#[test]
fn what_is_told_is_what_the_host_says_of_models_that_the_caller_may_know_of() {
    let ports = controlled();
    let names = |answer: &Response| -> Vec<Value> {
        assert_eq!(answer.status, 200);
        let told = json_of(answer);
        let list = told.get("model_stats").unwrap_or(&told);
        let list = list.as_array().expect("a list");
        list.iter().map(|entry| entry["name"].clone()).collect()
    };
    let both = [json!("identity"), json!("hidden")];
    assert_eq!(
        names(&send(
            &ports,
            "POST",
            "/v2/repository/index",
            &[],
            b"{\"ready\":true}"
        )),
        both
    );
    assert_eq!(
        names(&send(&ports, "GET", "/v2/models/stats", &[], b"")),
        both
    );
    let scoped = "[auth.anonymous]\nscopes = [\"models:identity\"]\nfrom = \"anywhere\"\n";
    scoped.clone_into(&mut ports.policy.borrow_mut());
    for (method, path) in [
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/models/stats"),
    ] {
        let seen = names(&send(&ports, method, path, &[], b""));
        assert_eq!(seen, both[..1], "{path}");
    }
    // Permission to read does not include permission to change.
    for what in ["load", "unload"] {
        let path = format!("/v2/repository/models/identity/{what}");
        refused(
            &send(&ports, "POST", &path, &[], b""),
            401,
            "credentials_missing",
        );
    }
    assert!(asked(&ports).is_empty());
}

#[test]
fn statistics_are_of_models_and_versions_that_there_are() {
    let ports = controlled();
    for path in [
        "/v2/models/identity/stats",
        "/v2/models/identity/versions/2/stats",
    ] {
        assert_eq!(send(&ports, "GET", path, &[], b"").status, 200, "{path}");
    }
    refused(
        &send(&ports, "GET", "/v2/models/nobody/stats", &[], b""),
        404,
        "unknown_model",
    );
    let path = "/v2/models/identity/versions/3/stats";
    refused(&send(&ports, "GET", path, &[], b""), 404, "unknown_version");
}

#[test]
fn where_the_host_has_no_repository_everything_about_it_is_501() {
    let ports = ports();
    for (method, path) in [
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/identity/stats"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/identity/load"),
        ("POST", "/v2/repository/models/identity/unload"),
    ] {
        refused(&send(&ports, method, path, &[], b""), 501, "not_supported");
    }
}
