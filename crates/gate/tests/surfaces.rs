//! Tests the surfaces over in-memory ports: batches, content with several parts, idempotency keys, and versions outside the
//! path.

use crate::surfaces_common::{IDENTITY, call, call_at, dependent, echo, ports};
use penstock_gate::ports::{Failure, FailureKind};
use penstock_testkit::{InMemory, LIMITS};
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;

#[test]
fn a_batch_runs_as_one_and_answers_in_order_with_an_id_each() {
    let ports = ports();
    let body = json!({ "requests": [
        { "id": "first", "inputs": { "a": [[1, 2]] } },
        { "inputs": { "a": [[3, 4], [5, 6]] } },
    ] });
    let target = "/v1/models/identity:batchPredict";
    let response = call_at(&ports, target, &[], body.to_string().as_bytes());
    assert_eq!(response.status, 200);
    assert_eq!(ports.runs.get(), 1);
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(value["results"][0]["id"], "first");
    assert_eq!(
        value["results"][0]["predictions"],
        json!([{ "b": [1.0, 2.0] }])
    );
    assert_eq!(
        value["results"][1]["predictions"],
        json!([{ "b": [3.0, 4.0] }, { "b": [5.0, 6.0] }])
    );
    assert_ne!(
        value["results"][0]["prediction_id"],
        value["results"][1]["prediction_id"]
    );
    assert_eq!(
        (&value["succeeded"], &value["failed"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(value["retry"], json!([]));
    assert_eq!(response.header("x-model-version"), Some("2"));
}

#[test]
fn what_is_wrong_with_one_request_of_a_batch_fails_it_alone() {
    let body = json!({ "requests": [
        { "inputs": { "a": [[1, 2]] } },
        { "inputs": { "a": [[1, 2, 3]] } },
        { "inputs": { "a": [[666, 2]] } },
        { "inputs": { "nothing": 1 } },
        7,
        { "inputs": { "a": [[8, 9]] } },
    ] });
    let (status, value) = call("/v1/models/identity:batchPredict", &body);
    assert_eq!(status, 207, "{value}");
    let results = value["results"].as_array().unwrap();
    let statuses: Vec<u64> = results
        .iter()
        .map(|r| r["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 422, 500, 422, 400, 200], "{value}");
    assert_eq!(results[1]["error"]["code"], "invalid_inputs");
    assert!(results[1]["error"]["details"][0]["pointer"].is_string());
    assert_eq!(results[5]["predictions"], json!([{ "b": [8.0, 9.0] }]));
    assert_eq!(
        (&value["succeeded"], &value["failed"]),
        (&json!(2), &json!(4))
    );
    assert_eq!(
        value["retry"],
        json!([2]),
        "only what may fare better another time"
    );
}

#[test]
fn a_batch_that_is_none_is_refused_as_a_whole() {
    for (body, status, rule) in [
        (json!(3), 400, "wrong_type"),
        (json!({}), 400, "missing_member"),
        (json!({ "requests": [] }), 400, "empty"),
        (json!({ "requests": {} }), 400, "wrong_type"),
        (json!({ "requests": [], "more": 1 }), 400, "unknown_member"),
        (
            json!({ "requests": vec![json!({}); 9] }),
            422,
            "too_many_items",
        ),
        (
            json!({ "requests": vec![json!({ "inputs": { "a": [[1, 2], [3, 4], [5, 6]] } }); 3] }),
            422,
            "too_many_items",
        ),
    ] {
        let (got, value) = call("/v1/models/identity:batchPredict", &body);
        assert_eq!(got, status, "{value}");
        assert_eq!(value["error"]["details"][0]["rule"], rule, "{body}");
    }
    let response = call_at(
        &ports(),
        "/v1/models/identity:batchPredict",
        &[],
        b"{\"requests\":[",
    );
    assert_eq!(response.status, 400);
}

#[test]
fn content_of_text_or_tensors_is_predicted_like_what_it_stands_for() {
    let hello = [
        json!({ "content": [{ "type": "text", "text": "hello" }] }),
        json!({ "content": "hello" }),
        json!({ "content": { "type": "bytes", "data": "aGVsbG8=" } }),
        json!({ "content": [{ "type": "bytes", "url": "data:text/plain;base64,aGVsbG8=" }], "id": "x" }),
        json!({ "content": [{ "type": "text", "tokens": [1, 2, 3, 4, 5] }] }),
        json!({ "content": [{ "type": "text", "text": "hel" }, { "type": "text", "text": "lo" }] }),
    ];
    for body in hello {
        let (status, value) = call("/v1/models/lengths:predict", &body);
        assert_eq!(status, 200, "{body}: {value}");
        assert_eq!(value["predictions"], json!([{ "length": 5 }]), "{body}");
    }
    let tensor = json!({ "content": [
        { "type": "tensor", "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] },
    ] });
    let (status, value) = call("/v1/models/identity:predict", &tensor);
    assert_eq!(
        (status, &value["predictions"]),
        (200, &json!([{ "b": [1.0, 2.0] }]))
    );
    // A batch with both kinds of requests works too.
    let both = json!({ "requests": [{ "content": "hello" }, { "inputs": { "x": [[2]] } }] });
    let (status, value) = call("/v1/models/lengths:batchPredict", &both);
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["results"][0]["predictions"], json!([{ "length": 5 }]));
    assert_eq!(value["results"][1]["predictions"], json!([{ "y": [2.0] }]));
}

#[test]
fn content_that_is_wrong_is_refused_with_its_place() {
    for (model, content, status, pointer) in [
        ("lengths", json!([]), 400, "/content"),
        ("lengths", json!(7), 400, "/content"),
        (
            "lengths",
            json!([{ "type": "film" }]),
            400,
            "/content/0/type",
        ),
        ("lengths", json!([{ "type": "text" }]), 400, "/content/0"),
        (
            "lengths",
            json!([{ "type": "text", "text": "a", "tokens": [1] }]),
            400,
            "/content/0",
        ),
        (
            "lengths",
            json!([{ "type": "bytes", "data": "?" }]),
            400,
            "/content/0/data",
        ),
        (
            "lengths",
            json!([{ "type": "text", "text": "a", "colour": 1 }]),
            400,
            "/content/0",
        ),
        (
            "lengths",
            json!([{ "type": "image", "url": "https://example.com/a.png" }]),
            400,
            "/content/0/url",
        ),
        (
            "lengths",
            json!([{ "type": "text", "text": "" }]),
            422,
            "/content/0",
        ),
        ("identity", json!("text"), 422, "/content"),
        (
            "lengths",
            json!([
                { "type": "text", "text": "a" },
                { "type": "tensor", "name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1] },
            ]),
            400,
            "/content",
        ),
        (
            "identity",
            json!([{ "type": "tensor", "name": "a", "datatype": "FP32", "shape": [1, 2] }]),
            400,
            "/content/0",
        ),
        (
            "lengths",
            json!(vec![json!({ "type": "text", "text": "a" }); 65]),
            400,
            "/content",
        ),
    ] {
        let body = json!({ "content": content });
        let (got, value) = call(&format!("/v1/models/{model}:predict"), &body);
        assert_eq!(got, status, "{body}: {value}");
        assert_eq!(value["error"]["details"][0]["pointer"], pointer, "{body}");
    }
    let image = json!({ "content": [{ "type": "image", "data": "AAAA" }] });
    assert_eq!(call("/v1/models/lengths:predict", &image).0, 415);
}

#[test]
fn an_adapter_may_ask_for_several_runs() {
    let ports = ports();
    let body = json!({ "content": "twice" }).to_string();
    let response = call_at(&ports, "/v1/models/lengths:predict", &[], body.as_bytes());
    assert_eq!((response.status, ports.runs.get()), (200, 2));
}

#[test]
fn null_is_absent_for_every_optional_member_of_content() {
    let (status, value) = call(
        "/v1/models/lengths:predict",
        &json!({
            "id": null, "model_version": null,
            "content": [{ "type": "text", "text": "hello", "tokens": null, "media_type": null, "data": null }],
        }),
    );
    assert_eq!(status, 200, "{value}");
    assert_eq!(value["predictions"][0]["length"], 5);
}

#[test]
fn one_idempotency_key_runs_once_however_the_path_is_spelt() {
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    let keyed = [("idempotency-key", "k")];
    let version = [("idempotency-key", "k"), ("x-model-version", "1")];
    // Each list contains spellings of the same call.
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let spellings: [&[(&str, Headers)]; 4] = [
        &[
            ("/v1/models/identity:predict", &keyed),
            ("/v1/models/identity%3Apredict", &keyed),
            ("/v1/models/identity%3apredict", &keyed),
            ("/v1/models/%69dentity:predict", &keyed),
            ("/%76%31/models/identity:%70redict", &keyed),
            ("/v1/models/identity:predict?", &keyed),
        ],
        &[
            ("/v1/models/identity@1:predict", &keyed),
            ("/v1/models/identity%401:predict", &keyed),
            ("/v1/models/identity/versions/1:predict", &keyed),
            ("/v1/models/identity/versions/%31%3Apredict", &keyed),
            ("/v1/models/identity:predict", &version),
        ],
        &[
            ("/v1/models/identity:predict?a=1&b=2", &keyed),
            ("/v1/models/identity:predict?b=2&a=1", &keyed),
            ("/v1/models/identity:predict?%62=%32&a=1&", &keyed),
        ],
        &[
            ("/v1/models/identity:predict?a=%26b%3D1", &keyed),
            ("/v1/models/identity:predict?%61=%26b=1", &keyed),
        ],
    ];
    for call in spellings {
        let ports = ports();
        ports.set_policy("[idempotency]\nenabled = true\n");
        for (at, (target, headers)) in call.iter().enumerate() {
            let response = call_at(&ports, target, headers, body);
            assert_eq!(response.status, 200, "{target}");
            let replayed = response.header("idempotency-replayed");
            assert_eq!(replayed, (at > 0).then_some("true"), "{target}");
        }
        assert_eq!(ports.runs.get(), 1);
    }
    // A different call with the same key is refused and does not run.
    let ports = ports();
    ports.set_policy("[idempotency]\nenabled = true\n");
    let first = call_at(&ports, "/v1/models/identity:predict", &keyed, body);
    assert_eq!(first.status, 200);
    for target in [
        "/v1/models/identity@1:predict",
        "/v1/models/identity/versions/2:predict",
        "/v1/models/identity:predict?a=1",
    ] {
        assert_eq!(
            call_at(&ports, target, &keyed, body).status,
            422,
            "{target}"
        );
    }
    assert_eq!(
        call_at(&ports, "/v1/models/identity:predict?%zz", &keyed, body).status,
        400
    );
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn limits_see_the_route_and_the_model_however_a_path_is_spelt() {
    let ports = ports();
    ports.set_policy(LIMITS);
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    for target in [
        "/v1/models/identity:predict",
        "/v1/models/%69dentity%3apredict",
        "/v1/models/identity@1%3Apredict",
        "/v1/models/identity/versions/1:predict",
    ] {
        assert_eq!(call_at(&ports, target, &[], body).status, 200, "{target}");
    }
    let log = ports.quota_log.borrow();
    let log: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("admit"))
        .collect();
    assert!(log.len() >= 4, "{log:?}");
    assert!(log.iter().all(|line| *line == log[0]), "{log:?}");
}

#[test]
fn a_version_may_be_named_in_path_name_and_header_but_not_two_different_ones() {
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    for (target, header, status, version) in [
        ("/v1/models/identity:predict", None, 200, Some("2")),
        ("/v1/models/identity:predict", Some("1"), 200, Some("1")),
        ("/v1/models/identity@1:predict", None, 200, Some("1")),
        ("/v1/models/identity@1:predict", Some("1"), 200, Some("1")),
        ("/v1/models/identity@1:predict", Some("2"), 400, None),
        (
            "/v1/models/identity/versions/1:predict",
            Some("2"),
            400,
            None,
        ),
        ("/v1/models/identity@3:predict", None, 404, None),
        ("/v1/models/identity@:predict", None, 404, None),
        ("/v1/models/identity:predict", Some("7"), 404, None),
        ("/v2/models/identity@1/infer", Some("2"), 400, None),
    ] {
        let headers: Vec<(&str, &str)> =
            header.map(|v| ("x-model-version", v)).into_iter().collect();
        let response = call_at(&ports(), target, &headers, body);
        assert_eq!(response.status, status, "{target} {header:?}");
        assert_eq!(
            response.header("x-model-version"),
            version,
            "{target} {header:?}"
        );
        if status == 200 {
            let reason = response.header("x-model-version-reason");
            let pinned = header.is_some() || target.contains('@');
            assert_eq!(reason, Some(if pinned { "pinned" } else { "latest" }));
        }
    }
}

#[test]
fn a_version_may_be_named_in_the_body_and_must_be_the_one_of_the_path() {
    let tensor = json!({ "type": "tensor", "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] });
    for (target, version, status, answered) in [
        ("/v1/models/identity:predict", json!("1"), 200, Some("1")),
        ("/v1/models/identity@1:predict", json!("1"), 200, Some("1")),
        ("/v1/models/identity@2:predict", json!("1"), 400, None),
        ("/v1/models/identity:predict", json!("9"), 404, None),
        ("/v1/models/identity:predict", json!(1), 400, None),
        (
            "/v1/models/identity:predict",
            json!("1".repeat(65)),
            400,
            None,
        ),
    ] {
        for what in [
            json!({ "inputs": { "a": [[1, 2]] }, "model_version": version }),
            json!({ "content": [tensor], "model_version": version }),
        ] {
            let response = call_at(&ports(), target, &[], what.to_string().as_bytes());
            let got = response.status;
            // In content, a version that is too long counts as an unknown version.
            let too_long = version.as_str().is_some_and(|text| text.len() > 64);
            let status = match too_long && what.get("content").is_some() {
                true => 404,
                false => status,
            };
            let text = String::from_utf8_lossy(&response.body);
            assert_eq!(got, status, "{target} {what}: {text}");
            // A refusal before the body's version is read names the version that the path selects, so it is not
            // checked here.
            if answered.is_some() {
                assert_eq!(
                    response.header("x-model-version"),
                    answered,
                    "{target} {what}"
                );
            }
        }
    }
    let body = json!({ "requests": [{ "inputs": { "a": [[1, 2]] }, "model_version": "1" }] });
    let (status, value) = call("/v1/models/identity:batchPredict", &body);
    assert_eq!((status, &value["results"][0]["status"]), (207, &json!(400)));
}

#[test]
fn however_much_a_body_holds_no_more_of_it_is_built_than_is_taken() {
    let ids = |count: usize| format!("[{}]", vec!["7"; count].join(","));
    let lists = format!("[{}]", vec!["[0]"; 2_049].join(","));
    for (target, body, status, rule) in [
        (
            "/v1/models/lengths:predict",
            format!(
                "{{\"content\":{{\"type\":\"text\",\"tokens\":{}}}}}",
                ids(65_537)
            ),
            400,
            "too_many_tokens",
        ),
        (
            "/v1/models/lengths:predict",
            format!("{{\"content\":{}}}", ids(1_000_000)),
            400,
            "part_count",
        ),
        (
            "/v1/embeddings",
            format!("{{\"model\":\"vectors\",\"input\":{lists}}}"),
            422,
            "too_many_items",
        ),
        (
            "/v1/embeddings",
            format!("{{\"model\":\"ids\",\"input\":{}}}", ids(65_537)),
            400,
            "too_many_tokens",
        ),
    ] {
        let response = call_at(&ports(), target, &[], body.as_bytes());
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(response.status, status, "{value}");
        assert_eq!(value["error"]["details"][0]["rule"], rule, "{value}");
    }
}

#[test]
fn a_batch_of_which_nothing_ran_is_made_again_with_the_same_idempotency_key() {
    let full = Rc::new(Cell::new(true));
    let is_full = full.clone();
    let ports = InMemory::new(&[("identity", IDENTITY, &["1"])], move |m, v, inputs| {
        if is_full.get() {
            return Err(Failure {
                kind: FailureKind::Overloaded,
                message: "the line is full".into(),
                retry_after_ms: None,
            });
        }
        echo(m, v, inputs)
    });
    ports.set_policy("[idempotency]\nenabled = true\n");
    let body = json!({ "requests": [{ "inputs": { "a": [[1, 2]] } }] }).to_string();
    let again = || {
        let key = [("idempotency-key", "one")];
        let target = "/v1/models/identity:batchPredict";
        call_at(&ports, target, &key, body.as_bytes())
    };
    assert_eq!(again().status, 207);
    full.set(false);
    let response = again();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("idempotency-replayed"), None);
    assert_eq!(again().header("idempotency-replayed"), Some("true"));
}

#[test]
fn the_requests_of_a_batch_run_one_by_one_where_rows_depend_on_each_other() {
    let ports = dependent();
    let body = json!({ "requests": [
        { "inputs": { "a": [[1, 2]] } },
        { "inputs": { "a": [[10, 20]] } },
        // A caller's own tensor of several rows is one run.
        { "inputs": { "a": [[100, 200], [1, 1]] } },
    ] });
    let target = "/v1/models/identity:batchPredict";
    let response = call_at(&ports, target, &[], body.to_string().as_bytes());
    assert_eq!(response.status, 200);
    let value: Value = serde_json::from_slice(&response.body).unwrap();
    let predictions = |at: usize| value["results"][at]["predictions"].clone();
    assert_eq!(predictions(0), json!([{ "b": [1.0, 2.0] }]));
    assert_eq!(predictions(1), json!([{ "b": [10.0, 20.0] }]));
    assert_eq!(
        predictions(2),
        json!([{ "b": [100.0, 200.0] }, { "b": [101.0, 201.0] }])
    );
    assert_eq!(ports.runs.get(), 3);
}
