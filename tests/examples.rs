//! The components in `examples/`, served with the built-in ones.

use crate::common;

use common::{Options, Server, models_with_adapter, root};
use serde_json::json;

#[test]
fn the_example_policy_admits_three_calls_a_minute_beside_the_built_in_limits() {
    let server = Server::start_with(Options {
        // The two lines that docs/EXTENDING.md shows.
        manifest: &[
            ("build/custom.wasm", "build/test/example-policy.wasm"),
            (
                "{ component = \"custom\" }",
                "{ component = \"custom\", inherit_configuration = [\"key_value_stores\"] }",
            ),
        ],
        policy: Some("[[limits]]\nname = \"calls\"\nlimit = 100\nwindow_s = 60\n"),
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
        // The limits decide first, so their headers are on every answer.
        assert!(answer.header("ratelimit").is_some(), "{answer:?}");
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
fn no_crate_no_interface_and_no_manifest_names_the_example_policy() {
    let mut named = Vec::new();
    let mut folders: Vec<_> = ["crates", "components", "wit", "src", "examples", "scripts"]
        .map(|folder| root().join(folder))
        .to_vec();
    folders.push(root().to_path_buf());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && folder != root() {
                folders.push(path);
            } else if kind.is_file() && !path.ends_with("Cargo.lock") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                if ["example-policy", "example_policy", "example-{"]
                    .iter()
                    .any(|name| text.contains(name))
                {
                    named.push(path.strip_prefix(root()).unwrap().display().to_string());
                }
            }
        }
    }
    named.sort();
    // The component itself, its line in the build, and its lints. The manifest of the test above is its fourth place.
    let places = [
        "examples/policy/Cargo.toml",
        "scripts/build",
        "scripts/test",
    ];
    assert_eq!(named, places);
}

#[test]
fn the_example_adapter_turns_a_text_into_labelled_numbers() {
    let files = tempfile::tempdir().unwrap();
    let server = Server::start_with(Options {
        manifest: &[("build/adapters.wasm", "build/test/example-adapter.wasm")],
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
