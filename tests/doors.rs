//! The same request through either entry point gives the same answer.

use crate::common;

use common::{Options, Response, Server, root};
use penstock_host::app::{self, EntryPointKind, Manifest, Nn, Serving};
use penstock_host::engine::Concurrency;
use penstock_host::nn::may_hold;
use penstock_host::settings::Settings;

/// An answer without the parts that differ between any two requests.
fn comparable(answer: &Response) -> (u16, Vec<(String, String)>, serde_json::Value) {
    let mut body = answer.json();
    for part in [
        "/prediction_id",
        "/latency_ms",
        "/request_id",
        "/timestamp",
        "/error/request_id",
        "/error/timestamp",
        "/parameters/prediction_id",
    ] {
        if let Some(value) = body.pointer_mut(part) {
            *value = "varies".into();
        }
    }
    // The time when the server published it, and the tag of that time.
    let mut varies = vec![];
    if let Some(created) = body.get_mut("created") {
        *created = "varies".into();
        varies = vec!["etag"];
    }
    for list in ["data", "models"] {
        let models = body.get_mut(list).and_then(serde_json::Value::as_array_mut);
        for model in models.into_iter().flatten() {
            if let Some(created) = model.get_mut("created") {
                *created = "varies".into();
                varies = vec!["etag"];
            }
        }
    }
    varies.extend(["date", "x-request-id", "x-prediction-id", "content-length"]);
    let headers = answer
        .headers
        .iter()
        .filter(|(n, _)| !varies.contains(&n.as_str()));
    (
        answer.status,
        headers.map(|(n, v)| (n.clone(), v.clone())).collect(),
        body,
    )
}

#[test]
fn both_doors_give_the_same_answers() {
    let direct = Server::start_with(Options {
        door: Some("direct"),
        ..Options::default()
    });
    let http = Server::start_with(Options {
        door: Some("http"),
        ..Options::default()
    });
    let json = &[("content-type", "application/json")][..];
    let good: &[u8] = br#"{"inputs":{"a":[[1,2.5,-3e-3,4]]},"id":"x"}"#;
    let oip: &[u8] =
        br#"{"id":"7","inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    for (method, path, headers, body) in [
        ("GET", "/healthz", &[][..], None),
        ("GET", "/ready", &[], None),
        ("GET", "/v2", &[], None),
        ("GET", "/v2/models/cls", &[], None),
        ("GET", "/v1/models", &[], None),
        ("GET", "/v1/models/identity?x=1", &[], None),
        ("GET", "/nowhere", &[], None),
        (
            "GET",
            "/nowhere",
            &[("accept", "application/problem+json")],
            None,
        ),
        ("DELETE", "/v1/models", &[], None),
        ("POST", "/v1/models/identity:predict", json, Some(good)),
        ("POST", "/v1/models/identity:predict", json, Some(&b"{"[..])),
        (
            "POST",
            "/v1/models/identity:predict",
            json,
            Some(br#"{"inputs":{"a":[[1,2,3,"x"]]}}"#),
        ),
        (
            "POST",
            "/v1/models/identity:predict",
            &[("content-type", "text/plain")],
            Some(good),
        ),
        ("POST", "/v1/models/nope:predict", json, Some(good)),
        (
            "POST",
            "/v1/models/magika:predict",
            &[],
            Some(b"# A title\n\nSome *text* with [a link](x).\n"),
        ),
        ("POST", "/v2/models/identity/infer", json, Some(oip)),
        (
            "POST",
            "/v2/models/identity/versions/9/infer",
            json,
            Some(oip),
        ),
        ("POST", "/v2/models/identity/infer", json, Some(b"[]")),
    ] {
        let a = direct.call(method, path, headers, body);
        let b = http.call(method, path, headers, body);
        assert_eq!(comparable(&a), comparable(&b), "{method} {path}");
    }
}

/// The shipped application, composed and compiled for these ways of serving.
fn compiled(serving: Serving) -> penstock_host::compile::Compiled {
    let manifest = Manifest::load(&root().join("spin.toml"), serving).expect("it is built");
    let composed = app::compose(&manifest, "gate", |_| true).expect("it fits together");
    let settings = Settings::default().instances;
    let cache = root().join("target/penstock-test-state/cache");
    penstock_host::compile(&settings, &composed.bytes, &composed.imports, &cache)
        .expect("it compiles")
}

#[test]
fn the_shipped_application_needs_concurrency_for_wasi_http_alone() {
    for (entry_point, concurrency) in [
        (EntryPointKind::Direct, Concurrency::Off),
        (EntryPointKind::Http, Concurrency::On),
    ] {
        let nn = Nn::Native;
        let compiled = compiled(Serving { entry_point, nn });
        assert_eq!(compiled.concurrency, concurrency, "{entry_point:?}");
    }
}

#[test]
fn the_direct_entry_point_leaves_large_tensors_in_the_host_only_if_models_run_there() {
    for (nn, holds) in [(Nn::Native, true), (Nn::Component, false)] {
        let entry_point = EntryPointKind::Direct;
        let compiled = compiled(Serving { entry_point, nn });
        assert_eq!(may_hold(&compiled.component), holds, "{nn:?}");
    }
}

/// A folder with `identity` alone, for large calls.
fn large_identity() -> tempfile::TempDir {
    let models = tempfile::tempdir().unwrap();
    let (from, to) = (
        root().join("models/identity"),
        models.path().join("identity"),
    );
    std::fs::create_dir_all(to.join("1")).unwrap();
    std::fs::copy(from.join("1/model.onnx"), to.join("1/model.onnx")).unwrap();
    let contract = std::fs::read_to_string(from.join("model.toml")).unwrap();
    let limits = "\n[limits]\nmax_items = 100000\n";
    std::fs::write(to.join("model.toml"), contract + limits).unwrap();
    models
}

/// A call with these numbers as bytes, and its answer as bytes or as JSON.
fn call_with_bytes(
    server: &Server,
    numbers: &[f32],
    as_bytes: bool,
    more: &[(&str, &str)],
) -> Response {
    let data: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let head = serde_json::json!({
        "inputs": [{"name": "a", "datatype": "FP32", "shape": [numbers.len() / 4, 4],
                    "parameters": {"binary_data_size": data.len()}}],
        "parameters": {"binary_data_output": as_bytes},
    });
    let head = head.to_string();
    let length = head.len().to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", length.as_str()),
    ];
    let headers = [&headers[..], more].concat();
    let body = [head.as_bytes(), &data].concat();
    server.call("POST", "/v2/models/identity/infer", &headers, Some(&body))
}

/// The JSON of an answer, with placeholders for the members that differ between any two, and the bytes after it.
fn in_parts(answer: &Response) -> (u16, serde_json::Value, Vec<u8>) {
    let length = answer.header("inference-header-content-length");
    let length = length.map_or(answer.bytes.len(), |length| length.parse().unwrap());
    let (head, tail) = answer.bytes.split_at(length);
    let mut head: serde_json::Value = serde_json::from_slice(head).unwrap();
    for part in ["/parameters/prediction_id", "/request_id", "/timestamp"] {
        if let Some(value) = head.pointer_mut(part) {
            *value = "varies".into();
        }
    }
    (answer.status, head, tail.to_vec())
}

#[test]
fn large_tensors_in_the_host_give_the_answers_of_tensors_in_the_components() {
    let start = |door, in_webassembly| {
        let models = large_identity();
        let server = Server::start_with(Options {
            door: Some(door),
            in_webassembly,
            models: Some(models.path().to_owned()),
            ..Options::default()
        });
        (server, models)
    };
    // The direct entry point with models of the host is the only one that leaves large tensors there.
    let (in_host, _models) = start("direct", false);
    let (over_http, _more) = start("http", false);
    let (in_webassembly, _most) = start("direct", true);
    let sound: Vec<f32> = (0..150_000).map(|at| at as f32 / 7.0 - 9_000.0).collect();
    let mut spoilt = sound.clone();
    spoilt[149_999] = f32::NAN;
    for (numbers, status) in [(&sound, 200), (&spoilt, 422)] {
        for as_bytes in [true, false] {
            let expected = in_parts(&call_with_bytes(&over_http, numbers, as_bytes, &[]));
            assert_eq!(expected.0, status);
            let data = numbers.iter().flat_map(|n| n.to_le_bytes());
            if as_bytes && status == 200 {
                assert!(
                    expected.2.iter().copied().eq(data),
                    "the model returns its input"
                );
            }
            for server in [&in_host, &in_webassembly] {
                let found = in_parts(&call_with_bytes(server, numbers, as_bytes, &[]));
                assert!(found == expected, "{status} {as_bytes}: {}", found.1);
            }
        }
    }
    // A retry gets the same bytes, from the record of the first call.
    let key = [("idempotency-key", "large-1")];
    let small = &sound[..20_000];
    let first = call_with_bytes(&in_host, small, true, &key);
    let again = call_with_bytes(&in_host, small, true, &key);
    assert_eq!((first.status, again.status), (200, 200));
    assert!(first.bytes == again.bytes, "{:?}", again.headers);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
}
