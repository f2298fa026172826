//! Tests rollouts over in-memory ports: the chosen version, its headers, and the end of a canary.

use crate::gate_common::{JSON, request};
use penstock_core::ModelVersion;
use penstock_gate::ports::{Failure, FailureKind, Services};
use penstock_gate::{Gate, Response};
use penstock_policy::rollout::Rollouts;
use penstock_policy::rollout::service::RolloutService;
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;

const CONTRACT: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 1]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 1]
"#;

const CALL: &str = "/v1/models/m:predict";
const ID: u64 = 64;

/// A gate over a model with three versions. The second fails on demand.
struct Setup {
    ports: InMemory,
    gate: Gate<InMemory>,
    failing: Rc<Cell<Option<FailureKind>>>,
}

impl Setup {
    fn new(rollout: Value) -> Self {
        let failing: Rc<Cell<Option<FailureKind>>> = Rc::default();
        let fails = failing.clone();
        let ports = InMemory::new(
            &[("m", CONTRACT, &["1", "2", "3"])],
            move |_, version, mut inputs: Vec<Tensor>| {
                if let (2, Some(kind)) = (version.get(), fails.get()) {
                    return Err(Failure {
                        kind,
                        message: "as the test said".into(),
                        retry_after_ms: None,
                    });
                }
                inputs[0].name = "b".into();
                Ok(inputs)
            },
        );
        let setup = Self {
            gate: Gate::new(ports.clone()),
            ports,
            failing,
        };
        setup.say(rollout);
        setup
    }

    fn say(&self, rollout: Value) {
        let document = json!({ "v": 1, "generation": 1, "models": { "m": rollout } }).to_string();
        Rollouts::parse(&document).unwrap();
        self.ports.set_rollouts(Some(&document));
        // The gate uses the last read rollouts for a second.
        self.ports.clock.advance_ms(1_000);
    }

    fn ask(&mut self, target: &str, headers: &[(&str, &str)]) -> Response {
        let headers = [JSON, headers].concat();
        let (method, body) = match target.contains(':') {
            true => ("POST", &br#"{"inputs":{"a":[[1]]}}"#[..]),
            false => ("GET", &b""[..]),
        };
        self.gate.handle(&request(method, target, &headers, body))
    }

    fn says(&mut self, target: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
        let response = self.ask(target, headers);
        let header = |name| response.header(name).unwrap_or("-").to_owned();
        (
            response.status,
            header("x-model-version"),
            header("x-model-version-reason"),
        )
    }
}

fn said(status: u16, version: &str, reason: &str) -> (u16, String, String) {
    (status, version.to_owned(), reason.to_owned())
}

fn body(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

#[test]
fn an_alias_names_a_version_wherever_a_number_may_stand_and_moves_within_a_second() {
    let stable = |version| json!({ "aliases": { "stable": version }, "default": "stable" });
    let mut setup = Setup::new(stable(1));
    assert_eq!(setup.says(CALL, &[]), said(200, "1", "default:stable"));
    for (target, headers) in [
        ("/v1/models/m@stable:predict", &[][..]),
        ("/v1/models/m/versions/stable:predict", &[]),
        (CALL, &[("x-model-version", "stable")]),
    ] {
        assert_eq!(setup.says(target, headers), said(200, "1", "alias:stable"));
    }
    assert_eq!(
        setup.says("/v1/models/m@3:predict", &[]),
        said(200, "3", "pinned")
    );
    assert_eq!(
        setup.says("/v1/models/m@latest:predict", &[]),
        said(200, "3", "alias:latest")
    );
    assert_eq!(setup.says("/v1/models/m@stable", &[]).1, "1");
    assert_eq!(setup.says("/v1/models/m", &[]).1, "1");
    setup.say(stable(2));
    assert_eq!(setup.says(CALL, &[]), said(200, "2", "default:stable"));
    assert_eq!(setup.says("/v1/models/m@stable:predict", &[]).1, "2");
    let unknown = setup.ask("/v1/models/m@beta:predict", &[]);
    assert_eq!(unknown.status, 404);
    let error = &body(&unknown)["error"];
    assert_eq!(error["code"], "unknown_version");
    assert_eq!(
        error["available"],
        json!(["1", "2", "3", "stable", "latest"])
    );
    let both = setup.ask("/v1/models/m@stable:predict", &[("x-model-version", "2")]);
    assert_eq!(both.status, 400, "two names are two wishes");
}

#[test]
fn a_call_is_answered_by_what_was_read_last_while_the_rollouts_cannot_be_read() {
    let mut setup = Setup::new(json!({ "default": 1 }));
    assert_eq!(setup.says(CALL, &[]).1, "1");
    setup.ports.set_rollouts(Some("{"));
    setup.ports.clock.advance_ms(1_000);
    assert_eq!(setup.says(CALL, &[]), said(200, "1", "default:1"));
    assert!(setup.ports.logged.borrow()[0].contains("cannot be read"));
    // An instance without any earlier read refuses the call. A version number needs no read.
    setup.gate = Gate::new(setup.ports.clone());
    let refused = setup.ask(CALL, &[]);
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("2"))
    );
    assert_eq!(
        setup.says("/v1/models/m@2:predict", &[]),
        said(200, "2", "pinned")
    );
    setup.ports.set_rollouts(None);
    assert_eq!(setup.says(CALL, &[]), said(200, "3", "latest"));
}

#[test]
fn a_deprecated_version_warns_and_after_its_sunset_is_gone() {
    let mut setup = Setup::new(json!({}));
    let now_ms = penstock_core::Clock::unix_ms(&*setup.ports.clock);
    let sunset_ms = now_ms + 3_600_000;
    setup.say(json!({
        "aliases": { "stable": 2 },
        "deprecated": { "1": {
            "since_ms": 1_000, "sunset_ms": sunset_ms, "link": "https://example.com/why", "successor": "stable",
        } },
    }));
    let target = "/v1/models/m@1:predict";
    let warned = setup.ask(target, &[]);
    assert_eq!(warned.status, 200);
    assert_eq!(warned.header("deprecation"), Some("@1"));
    assert!(warned.header("sunset").unwrap().ends_with(" GMT"));
    assert_eq!(
        warned.header("link"),
        Some(
            "</v1/models/m/versions/stable>; rel=\"successor-version\", <https://example.com/why>; rel=\"deprecation\""
        )
    );
    let other = setup.ask(CALL, &[]);
    assert_eq!(
        (other.header("deprecation"), other.header("sunset")),
        (None, None)
    );
    setup.ports.clock.advance_ms(3_600_000);
    let gone = setup.ask(target, &[]);
    assert_eq!(gone.status, 410);
    let error = &body(&gone)["error"];
    assert_eq!(
        (&error["code"], &error["available"]),
        (&json!("version_gone"), &json!(["stable"]))
    );
    assert!(error["message"].as_str().unwrap().contains("use `stable`"));
    assert_eq!(setup.says(CALL, &[]).0, 200);
}

#[test]
fn calls_of_a_canary_are_counted_and_a_bad_one_ends_by_itself() {
    let mut setup = Setup::new(json!({
        "default": 1,
        "canary": { "id": ID, "version": 2, "percent": 100, "started_ms": 0, "rollback": {} },
    }));
    let canary = format!("canary:{ID}");
    assert_eq!(setup.says(CALL, &[]), said(200, "2", &canary));
    assert_eq!(setup.ports.canary_counters(), [1]);
    // A call with a pinned version is not counted, and a full queue says nothing about the version.
    assert_eq!(
        setup.says("/v1/models/m@2:predict", &[]),
        said(200, "2", "pinned")
    );
    setup.failing.set(Some(FailureKind::Overloaded));
    assert_eq!(setup.says(CALL, &[]), said(503, "2", &canary));
    setup.failing.set(Some(FailureKind::InputsRejected));
    assert_eq!(setup.says(CALL, &[]), said(422, "2", &canary));
    assert_eq!(setup.ports.canary_counters(), [1]);
    setup.failing.set(Some(FailureKind::Failed));
    let mut failed = 0;
    while setup.says(CALL, &[]).0 == 500 {
        failed += 1;
        assert!(failed < 1_000, "it goes on");
        setup.ports.clock.advance_ms(20);
    }
    // At least 50 calls are counted. Then one call in four judges the canary, and the result takes effect within a
    // second.
    assert!((49..250).contains(&failed), "{failed}");
    assert_eq!(setup.says(CALL, &[]), said(200, "1", "default:1"));
    let why = setup.ports.open_rollouts().rolled_back("m", ID).unwrap();
    assert!(why.as_deref().unwrap().contains("calls failed"), "{why:?}");
    assert!(
        setup
            .ports
            .logged
            .borrow()
            .iter()
            .any(|line| line.contains("the canary was ended"))
    );
}

#[test]
fn callers_are_split_by_header_and_shadows_run_beside_what_answers() {
    let mut setup = Setup::new(json!({
        "default": 1,
        "split": { "id": 4, "header": { "name": "x-plan", "values": { "gold": 2 } } },
        "shadow": { "version": 3, "percent": 100 },
    }));
    assert_eq!(
        setup.says(CALL, &[("x-plan", "gold")]),
        said(200, "2", "header:x-plan")
    );
    assert_eq!(
        setup.says(CALL, &[("x-plan", "tin")]),
        said(200, "1", "default:1")
    );
    let three = ModelVersion::parse("3").unwrap();
    assert_eq!(*setup.ports.shadowed.borrow(), [three, three]);
    // A call with a pinned version has no shadow run. A failed run has none either.
    assert_eq!(setup.says("/v1/models/m@1:predict", &[]).0, 200);
    setup.failing.set(Some(FailureKind::Failed));
    assert_eq!(setup.says(CALL, &[("x-plan", "gold")]).0, 500);
    assert_eq!(setup.ports.shadowed.borrow().len(), 2);
}

#[test]
fn a_default_that_is_not_there_is_the_operators_to_mend_and_never_another_version() {
    let mut setup = Setup::new(json!({ "default": 9 }));
    let refused = setup.ask(CALL, &[]);
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("60"))
    );
    assert!(
        body(&refused)["error"]["message"]
            .as_str()
            .unwrap()
            .contains("version 9")
    );
    assert_eq!(setup.says("/v1/models/m@3:predict", &[]).0, 200);
}
