//! Versions of a model over HTTP: aliases that move, a canary and its callers, a canary that fails and is rolled back
//! automatically, deprecated versions, the commands, and the state after a restart. The second version of `digits` is
//! the first again, or one that loads and fails on ink.

use crate::common;

use common::{Options, Response, Server, root};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PREDICT: &str = "/v1/models/digits:predict";

fn state_dir() -> PathBuf {
    root().join("target/penstock-test-state")
}

/// The state that one server leaves to the next: models and a store.
struct Setup {
    files: tempfile::TempDir,
}

impl Setup {
    /// Two versions of `digits`; the second is the graph in this file.
    fn new(second: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let setup = Self { files };
        setup.copy("models/digits/model.toml", "digits/model.toml");
        setup.copy("models/digits/1/model.onnx", "digits/1/model.onnx");
        setup.copy(second, "digits/2/model.onnx");
        setup
    }

    fn copy(&self, from: &str, to: &str) {
        let to = self.files.path().join("models").join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root().join(from), to).unwrap();
    }

    fn start(&self) -> Running {
        let store = self.files.path().join("default.kv");
        let server = Server::start_with(Options {
            admin: true,
            models: Some(self.files.path().join("models")),
            runtime_config_text: Some(runtime_config(&store)),
            policy: Some("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n"),
            ..Options::default()
        });
        server.ready();
        let line = server.logged("admin API on http://");
        let (_, rest) = line.split_once("admin API on http://").unwrap();
        let admin = rest.split_once(';').unwrap().0.parse().unwrap();
        Running { server, admin }
    }
}

fn runtime_config(store: &Path) -> String {
    format!(
        "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
        store.display()
    )
}

struct Running {
    server: Server,
    admin: SocketAddr,
}

impl Running {
    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let token = std::fs::read_to_string(state_dir().join("admin-token")).unwrap();
        let bearer = format!("Bearer {}", token.trim_end());
        let mut headers = vec![("authorization", bearer.as_str())];
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let body = body.map(|body| body.to_string());
        let path = format!("/admin/v1/models/digits{path}");
        common::call(
            self.admin,
            method,
            &path,
            &headers,
            body.as_ref().map(String::as_bytes),
        )
    }

    fn done(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        answer.json()
    }

    fn refused(&self, method: &str, path: &str, body: Option<Value>, status: u16) -> String {
        let answer = self.ask(method, path, body);
        let error = answer.json();
        assert_eq!(answer.status, status, "{error}");
        error["error"]["message"].as_str().unwrap().to_owned()
    }

    /// Runs `penstock models` with these arguments. Returns whether it succeeded, and its output.
    fn command(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .arg("models")
            .args(args)
            .args(["--admin", &format!("http://{}", self.admin), "--state-dir"])
            .arg(state_dir())
            .env_remove("PENSTOCK_ADMIN_TOKEN")
            .env_remove("PENSTOCK_ADMIN_TOKEN_FILE")
            .output()
            .unwrap();
        let text = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// A call by a caller of this address, with this much ink on its sheet.
    fn call(&self, path: &str, caller: u8, ink: u8) -> Response {
        let row = vec![ink.to_string(); 64].join(",");
        let body = format!("{{\"inputs\":{{\"pixels\":[[{row}]]}}}}");
        let from = format!("10.0.0.{caller}");
        let headers = [
            ("content-type", "application/json"),
            ("x-forwarded-for", &from),
        ];
        self.server
            .call("POST", path, &headers, Some(body.as_bytes()))
    }

    /// Returns the version that answers, and the reason.
    fn says(&self, path: &str, caller: u8) -> (String, String) {
        let answer = self.call(path, caller, 0);
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        let header = |name| answer.header(name).unwrap().to_owned();
        (header("x-model-version"), header("x-model-version-reason"))
    }

    /// Waits until a caller gets this version for this reason.
    fn until(&self, path: &str, caller: u8, version: &str, reason: &str) {
        let wanted = (version.to_owned(), reason.to_owned());
        self.server.until(&format!("{wanted:?}"), || {
            let answer = self.call(path, caller, 0);
            let header = |name| answer.header(name).unwrap_or_default().to_owned();
            let said = (header("x-model-version"), header("x-model-version-reason"));
            answer.status == 200 && said == wanted
        });
    }
}

/// Waits longer than an instance may use the rollouts that it read.
fn wait() {
    std::thread::sleep(Duration::from_millis(1_200));
}

#[test]
fn an_alias_moves_for_everybody_and_is_there_after_a_restart() {
    let setup = Setup::new("models/digits/1/model.onnx");
    let mut running = setup.start();
    assert_eq!(running.says(PREDICT, 1), ("2".into(), "latest".into()));
    running.done("PUT", "/aliases/stable", Some(json!({ "version": 1 })));
    let shown = running.done("PUT", "/default", Some(json!({ "to": "stable" })));
    assert_eq!(
        (&shown["aliases"], &shown["default"]),
        (&json!({ "stable": 1 }), &json!("stable"))
    );
    wait();
    for caller in 0..10 {
        assert_eq!(
            running.says(PREDICT, caller),
            ("1".into(), "default:stable".into())
        );
    }
    for path in [
        "/v1/models/digits@stable:predict",
        "/v1/models/digits/versions/stable:predict",
    ] {
        assert_eq!(running.says(path, 1), ("1".into(), "alias:stable".into()));
    }
    let unknown = running.call("/v1/models/digits@beta:predict", 1, 0);
    assert_eq!(unknown.status, 404);
    assert_eq!(
        unknown.json()["error"]["available"],
        json!(["1", "2", "stable", "latest"])
    );
    running.done("PUT", "/aliases/stable", Some(json!({ "version": 2 })));
    wait();
    for caller in 0..10 {
        assert_eq!(
            running.says(PREDICT, caller),
            ("2".into(), "default:stable".into())
        );
    }
    for (method, path, body, status, word) in [
        (
            "PUT",
            "/aliases/stable",
            Some(json!({ "version": 9 })),
            400,
            "no version 9",
        ),
        (
            "PUT",
            "/aliases/latest",
            Some(json!({ "version": 1 })),
            409,
            "cannot be moved",
        ),
        ("DELETE", "/aliases/stable", None, 409, "the default"),
        ("DELETE", "/aliases/beta", None, 404, "no alias `beta`"),
        (
            "PUT",
            "/canary",
            Some(json!({ "version": 2, "percent": 5 })),
            409,
            "set the default",
        ),
        (
            "PUT",
            "/canary",
            Some(json!({ "version": 1, "percent": 5.001 })),
            400,
            "percent",
        ),
        ("POST", ":promote", None, 404, "no canary"),
        ("GET", "/nothing", None, 404, "no such path"),
    ] {
        let message = running.refused(method, path, body, status);
        assert!(message.contains(word), "{path}: {message}");
    }
    let (status, _) = running.server.terminate();
    assert_eq!(status, Some(0));
    let again = setup.start();
    assert_eq!(
        again.says(PREDICT, 1),
        ("2".into(), "default:stable".into())
    );
    assert_eq!(
        again.done("GET", "", None)["aliases"],
        json!({ "stable": 2 })
    );
}

#[test]
fn a_canary_keeps_its_callers_and_is_promoted() {
    let running = Setup::new("models/digits/1/model.onnx").start();
    running.done("PUT", "/default", Some(json!({ "to": 1 })));
    let shown = running.done(
        "PUT",
        "/canary",
        Some(json!({ "version": 2, "percent": 30 })),
    );
    let id = shown["canary"]["id"].as_u64().unwrap();
    wait();
    let tries = |caller: &u8| {
        let (version, reason) = running.says(PREDICT, *caller);
        match version.as_str() {
            "2" => assert_eq!(reason, format!("canary:{id}")),
            _ => assert_eq!((version.as_str(), reason.as_str()), ("1", "default:1")),
        }
        version == "2"
    };
    let inside: BTreeSet<u8> = (0..100).filter(tries).collect();
    assert!((12..50).contains(&inside.len()), "{inside:?}");
    let again: BTreeSet<u8> = (0..100).filter(tries).collect();
    assert_eq!(inside, again, "who tries it goes on trying it");
    running.done("PATCH", "/canary", Some(json!({ "percent": 60 })));
    wait();
    let more: BTreeSet<u8> = (0..100).filter(tries).collect();
    assert!(more.is_superset(&inside) && more.len() > inside.len());
    let recent = &running.done("GET", "", None)["canary"]["recent"];
    assert_eq!(recent["canary"]["failed"], json!(0));
    assert!(recent["canary"]["calls"].as_u64().unwrap() > 0, "{recent}");
    let shown = running.done("POST", ":promote", Some(json!({})));
    assert_eq!(
        (&shown["default"], &shown["canary"]),
        (&json!(2), &Value::Null)
    );
    wait();
    for caller in 0..20 {
        assert_eq!(
            running.says(PREDICT, caller),
            ("2".into(), "default:2".into())
        );
    }
}

#[test]
fn a_version_that_fails_ends_by_itself_and_stays_ended_after_a_restart() {
    let setup = Setup::new("tests/data/digits-failing/model.onnx");
    let mut running = setup.start();
    running.done("PUT", "/default", Some(json!({ "to": 1 })));
    running.done(
        "PUT",
        "/canary",
        Some(json!({ "version": 2, "percent": 50 })),
    );
    wait();
    let (mut failed, mut calls) = (0, 0);
    let tripped = loop {
        let answer = running.call(PREDICT, (calls % 200) as u8, 9);
        calls += 1;
        match (answer.status, answer.header("x-model-version")) {
            (500, Some("2")) => failed += 1,
            (200, Some("1")) => {}
            other => panic!("{other:?}: {:?}", answer.json()),
        }
        assert!(
            calls < 5_000,
            "it goes on: {:?}",
            running.done("GET", "", None)
        );
        if calls % 50 == 0
            && let Some(why) = running.done("GET", "", None)["canary"]["tripped"].as_str()
        {
            break why.to_owned();
        }
    };
    assert!(tripped.contains("calls failed (100.0 %)"), "{tripped}");
    assert!((50..400).contains(&failed), "{failed} of {calls} failed");
    running.server.logged("the canary was ended");
    wait();
    for caller in 0..100 {
        let answer = running.call(PREDICT, caller, 9);
        assert_eq!(
            (answer.status, answer.header("x-model-version")),
            (200, Some("1"))
        );
    }
    let message = running.refused("POST", ":promote", Some(json!({})), 409);
    assert!(message.contains("rolled back automatically"), "{message}");
    running.server.terminate();
    let again = setup.start();
    for caller in 0..50 {
        assert_eq!(
            again.says(PREDICT, caller),
            ("1".into(), "default:1".into())
        );
    }
    assert_eq!(
        again.done("GET", "", None)["canary"]["tripped"],
        json!(tripped)
    );
    let shown = again.done("POST", ":rollback", Some(json!({})));
    assert_eq!(shown["canary"], Value::Null);
    assert!(
        shown["ended"]["how"]
            .as_str()
            .unwrap()
            .starts_with("rolled back automatically")
    );
}

#[test]
fn a_version_that_is_to_go_says_so_until_it_is_gone_and_commands_do_what_the_api_does() {
    let running = Setup::new("models/digits/1/model.onnx").start();
    let ok = |args: &[&str]| {
        let (succeeded, text) = running.command(args);
        assert!(succeeded, "{args:?}: {text}");
        text
    };
    ok(&["alias", "set", "digits", "stable", "2"]);
    ok(&["default", "digits", "stable"]);
    ok(&[
        "deprecate",
        "digits",
        "1",
        "--sunset-in",
        "6s",
        "--successor",
        "stable",
        "--link",
        "https://example.com/why",
    ]);
    let begun = Instant::now();
    wait();
    let pinned = "/v1/models/digits@1:predict";
    let warned = running.call(pinned, 1, 0);
    assert_eq!(warned.status, 200);
    let deprecated = warned.header("deprecation").unwrap();
    assert!(deprecated.strip_prefix('@').unwrap().parse::<u64>().is_ok());
    assert!(warned.header("sunset").unwrap().ends_with(" GMT"));
    let link = warned.header("link").unwrap();
    assert!(
        link.contains("</v1/models/digits/versions/stable>; rel=\"successor-version\"")
            && link.contains("<https://example.com/why>; rel=\"deprecation\""),
        "{link}"
    );
    assert_eq!(running.call(PREDICT, 1, 0).header("deprecation"), None);
    std::thread::sleep(Duration::from_secs(8).saturating_sub(begun.elapsed()));
    let gone = running.call(pinned, 1, 0);
    assert_eq!(gone.status, 410);
    let error = &gone.json()["error"];
    assert_eq!(
        (&error["code"], &error["available"]),
        (&json!("version_gone"), &json!(["stable"]))
    );
    running.until(PREDICT, 1, "2", "default:stable");
    ok(&["undeprecate", "digits", "1"]);
    running.until(pinned, 1, "1", "pinned");
    ok(&[
        "canary",
        "start",
        "digits",
        "1",
        "--percent",
        "100%",
        "--min-calls",
        "20",
    ]);
    let shown: Value = serde_json::from_str(&ok(&["show", "digits", "--json"])).unwrap();
    assert_eq!(shown["canary"]["rollback"]["min_calls"], json!(20));
    assert!(ok(&["show", "digits"]).contains("canary       version 1 at 100"));
    let listed = ok(&["list"]);
    assert!(
        listed.contains("digits") && listed.contains("stable=2"),
        "{listed}"
    );
    ok(&[
        "canary",
        "set",
        "digits",
        "--percent",
        "12.5",
        "--no-rollback",
    ]);
    ok(&["canary", "stop", "digits"]);
    ok(&[
        "split", "digits", "--arm", "1=1", "--arm", "stable=1", "--header", "X-Plan", "--value",
        "gold=1",
    ]);
    ok(&["split", "digits", "--end"]);
    ok(&["shadow", "digits", "1", "--percent", "50"]);
    ok(&["shadow", "digits", "--end"]);
    let (succeeded, text) = running.command(&["alias", "remove", "digits", "stable"]);
    assert!(!succeeded && text.contains("the default"), "{text}");
    let (succeeded, text) = running.command(&["show", "nothing"]);
    assert!(!succeeded && text.contains("no model"), "{text}");
    let (succeeded, _) = running.command(&["show", "../keys"]);
    assert!(!succeeded);
}
