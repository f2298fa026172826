//! The same request through either entry point gives the same answer.

use crate::common;

use common::{Options, Response, Server, root};
use penstock_host::app::{self, EntryPointKind, Manifest, Serving};
use penstock_host::engine::Concurrency;
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

#[test]
fn the_shipped_application_needs_concurrency_for_wasi_http_alone() {
    for (entry_point, concurrency) in [
        (EntryPointKind::Direct, Concurrency::Off),
        (EntryPointKind::Http, Concurrency::On),
    ] {
        let serving = Serving {
            entry_point,
            ..Serving::default()
        };
        let manifest = Manifest::load(&root().join("spin.toml"), serving).expect("it is built");
        let composed = app::compose(&manifest, "gate", |_| true).expect("it fits together");
        let settings = Settings::default().instances;
        let cache = root().join("target/penstock-test-state/cache");
        let compiled =
            penstock_host::compile(&settings, &composed.bytes, &composed.imports, &cache)
                .expect("it compiles");
        assert_eq!(compiled.concurrency, concurrency, "{entry_point:?}");
    }
}
