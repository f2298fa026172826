//! The components in `examples/`, served in place of the built-in ones.

#![allow(missing_docs)]

mod common;

use common::{Options, Server, models_with_adapter};
use serde_json::json;

#[test]
fn the_example_policy_admits_three_calls_a_minute_and_refuses_the_fourth_with_429() {
    let server = Server::start_with(Options {
        replaced: &[("quota.wasm", "test/example-policy.wasm")],
        tract: true,
        ..Options::default()
    });
    server.ready();
    let call = || {
        server.post_json(
            "/v1/models/identity:predict",
            r#"{"inputs":{"a":[[1,2,3,4]]}}"#,
        )
    };
    // The window may turn between two calls, so more than three can be admitted, but not more than six.
    let mut admitted = 0;
    let refused = loop {
        let answer = call();
        if answer.status != 200 {
            break answer;
        }
        let left: u32 = answer.header("x-calls-left").unwrap().parse().unwrap();
        assert!(left < 3, "{answer:?}");
        admitted += 1;
        assert!(admitted <= 6, "no call is refused");
    };
    assert!(admitted >= 3, "{admitted} calls were admitted");
    assert_eq!(refused.status, 429, "{refused:?}");
    let wait_s: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait_s), "{wait_s}");
    let problem = &refused.json()["error"];
    assert_eq!(problem["code"], "quota_exceeded");
    assert_eq!(problem["message"], "4 calls in this minute, 3 are allowed");
}

#[test]
fn the_example_adapter_turns_a_text_into_labelled_numbers() {
    let files = tempfile::tempdir().unwrap();
    let server = Server::start_with(Options {
        replaced: &[("adapters.wasm", "test/example-adapter.wasm")],
        models: Some(models_with_adapter(files.path(), "text-features")),
        tract: true,
        ..Options::default()
    });
    server.ready();
    let path = "/v1/models/text-features:predict";
    let answer = server.post(path, "text/plain", b"Call 112 NOW");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.json()["predictions"],
        json!([{"characters": 12, "words": 3, "digits": 3, "capitals": 4}])
    );
    assert_eq!(server.post(path, "image/png", b"\x89PNG").status, 415);
}
