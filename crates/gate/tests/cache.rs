//! Tests the result cache over in-memory ports: hits, their cost, and the headers of the answers. `penstock-policy`
//! simulates races between callers.

use crate::surfaces_common::call_at as send;
use penstock_gate::Response;
use penstock_gate::ports::{Failure, FailureKind, Ports, Services};
use penstock_policy::cache::Lookup;
use penstock_policy::cache::result;
use penstock_policy::cache::service::CacheService;
use penstock_policy::cache::words::CacheAddress;
use penstock_tensor::Tensor;
use penstock_testkit::models::ADAPTED;
use penstock_testkit::{InMemory, LIMITS};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const MODEL: &str = r#"
description = "doubles what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "c"
datatype = "FP32"
shape = ["N", 2]
[limits]
max_items = 8
"#;

const CACHE: &str = "[[cache]]\nmodel = \"m\"\nttl_s = 60\n[[cache]]\nmodel = \"lengths\"\n";
const PREDICT: &str = "/v1/models/m:predict";
const INFER: &str = "/v2/models/m/infer";

fn outputs(inputs: &[Tensor]) -> Vec<Tensor> {
    let input = &inputs[0];
    let named = |name: &str| Tensor {
        name: name.into(),
        ..input.clone()
    };
    match input.name.as_str() {
        "a" => vec![named("b"), named("c")],
        _ => vec![named("y")],
    }
}

fn ports() -> InMemory {
    let models: [(&str, &str, &[&str]); 2] =
        [("m", MODEL, &["1", "2"]), ("lengths", ADAPTED, &["1"])];
    let ports = InMemory::new(&models, |_, _, inputs| Ok(outputs(&inputs)));
    ports.set_policy(CACHE);
    ports
}

fn predict(ports: &InMemory, control: Option<&str>, number: i32) -> Response {
    let body = json!({ "inputs": { "a": [[number, 2]] } }).to_string();
    let headers: Vec<_> = control.map(|c| ("cache-control", c)).into_iter().collect();
    send(ports, PREDICT, &headers, body.as_bytes())
}

fn status(response: &Response) -> &str {
    response.header("cache-status").unwrap_or("none")
}

fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).expect("JSON")
}

#[test]
fn the_same_question_is_answered_from_the_first_run_in_every_form() {
    let ports = ports();
    let first = predict(&ports, None, 1);
    assert_eq!(
        (first.status, status(&first)),
        (200, "penstock; fwd=miss; stored")
    );
    assert_eq!(first.header("age"), None);
    ports.clock.advance_ms(2_500);
    let second = predict(&ports, None, 1);
    assert_eq!(
        (second.status, status(&second)),
        (200, "penstock; hit; ttl=58")
    );
    assert_eq!(second.header("age"), Some("2"));
    let (one, other) = (json(&first), json(&second));
    assert_eq!(one["predictions"], other["predictions"]);
    assert_ne!(one["prediction_id"], other["prediction_id"]);
    // The same inputs in the other form are a cache hit.
    let body = json!({ "inputs": [
        { "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] },
    ] });
    let infer = send(&ports, INFER, &[], body.to_string().as_bytes());
    assert_eq!(
        (infer.status, status(&infer)),
        (200, "penstock; hit; ttl=58")
    );
    assert_eq!(json(&infer)["outputs"][0]["data"], json!([1.0, 2.0]));
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn another_question_is_another_run() {
    let ports = ports();
    predict(&ports, None, 1);
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    let one_output = json!({
        "inputs": [{ "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] }],
        "outputs": [{ "name": "c" }],
    });
    let one_output = one_output.to_string();
    for (target, body) in [
        (PREDICT, br#"{"inputs":{"a":[[1,3]]}}"#.as_slice()),
        (PREDICT, br#"{"inputs":{"a":[[1,2],[1,2]]}}"#),
        ("/v1/models/m/versions/1:predict", body),
        (INFER, one_output.as_bytes()),
    ] {
        let before = ports.runs.get();
        for expected in ["penstock; fwd=miss; stored", "penstock; hit; ttl=60"] {
            assert_eq!(
                status(&send(&ports, target, &[], body)),
                expected,
                "{target}"
            );
        }
        assert_eq!(ports.runs.get(), before + 1);
    }
}

#[test]
fn a_result_is_not_answered_from_when_its_time_is_over() {
    let ports = ports();
    predict(&ports, None, 1);
    ports.clock.advance_ms(60_000);
    assert_eq!(status(&predict(&ports, None, 1)), "penstock; hit; ttl=0");
    ports.clock.advance_ms(1);
    assert_eq!(
        status(&predict(&ports, None, 1)),
        "penstock; fwd=miss; stored"
    );
}

#[test]
fn tenants_share_no_results_unless_the_operator_says_so() {
    let keyed = |scope: &str| {
        let ports = ports();
        ports.set_policy(&format!(
            "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n[[cache]]\nmodel = \"m\"\nscope = \"{scope}\"\n"
        ));
        ports
    };
    // Two tenants use the cache.
    for (scope, runs) in [("tenant", 2), ("shared", 1)] {
        let ports = keyed(scope);
        predict(&ports, None, 1);
        let seen = ports.kv.names();
        let names: Vec<_> = seen
            .iter()
            .filter(|name| name.starts_with("cache:m:"))
            .collect();
        assert_eq!(names.len(), 1, "{seen:?}");
        let digest = |tenant: Option<&str>| {
            penstock_policy::cache::Question {
                tenant,
                model: "m",
                version: 2,
                contract: &penstock_policy::cache::fingerprint(MODEL),
                inputs: &[Tensor {
                    name: "a".into(),
                    datatype: penstock_tensor::Datatype::Fp32,
                    shape: vec![1, 2],
                    data: [1f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
                }],
                outputs: &[],
                is_combined: false,
            }
            .digest()
        };
        let found = |tenant| {
            let digest = digest(tenant);
            let at = CacheAddress {
                space: "m",
                places: 992,
                digest: &digest,
                lease_ms: 2_000,
            };
            matches!(
                ports.open_cache().look_up(&at, 0, None, ports.unix_ms()),
                Ok(Lookup::Hit(..))
            )
        };
        let callers = [Some("anonymous"), Some("another")];
        let theirs = callers.map(|tenant| found(if scope == "shared" { None } else { tenant }));
        assert_eq!(
            theirs.iter().filter(|found| !**found).count(),
            runs - 1,
            "{scope}"
        );
    }
}

#[test]
fn a_request_says_what_it_takes_from_the_cache_and_leaves_in_it() {
    let ports = ports();
    let refused = predict(&ports, Some("only-if-cached"), 1);
    assert_eq!(refused.status, 504);
    assert_eq!(json(&refused)["error"]["code"], "not_cached");
    assert_eq!(ports.runs.get(), 0);
    for (control, expected, runs) in [
        // The refused call above left no claim, so the next call need not wait.
        ("no-store", "penstock; fwd=request", 1),
        ("no-store", "penstock; fwd=request", 2),
        ("no-cache", "penstock; fwd=request; stored", 3),
        ("only-if-cached", "penstock; hit; ttl=60", 3),
        ("max-age=0", "penstock; hit; ttl=60", 3),
        ("no-cache", "penstock; fwd=request; stored", 4),
        ("No-Store, max-age=5", "penstock; fwd=request", 5),
    ] {
        let response = predict(&ports, Some(control), 1);
        assert_eq!(
            (response.status, status(&response)),
            (200, expected),
            "{control}"
        );
        assert_eq!(ports.runs.get(), runs, "{control}");
    }
    ports.clock.advance_ms(10_000);
    assert_eq!(
        status(&predict(&ports, Some("max-age=9"), 1)),
        "penstock; fwd=miss; stored"
    );
    ports.clock.advance_ms(10_000);
    assert_eq!(
        status(&predict(&ports, Some("max-age=10"), 1)),
        "penstock; hit; ttl=50"
    );
    assert_eq!(
        status(&predict(&ports, Some("min-fresh=51"), 1)),
        "penstock; fwd=miss; stored"
    );
    assert_eq!(
        predict(&ports, Some("no-cache, only-if-cached"), 1).status,
        504
    );
}

#[test]
fn a_model_without_a_cache_says_nothing_of_one_and_runs_nothing_where_nothing_is_to_run() {
    let ports = ports();
    ports.set_policy("");
    for _ in 0..2 {
        let response = predict(&ports, None, 1);
        assert_eq!((response.status, status(&response)), (200, "none"));
    }
    assert_eq!(ports.runs.get(), 2);
    assert_eq!(predict(&ports, Some("only-if-cached"), 1).status, 504);
    assert_eq!(ports.runs.get(), 2);
}

#[test]
fn a_hit_costs_its_request_and_no_items() {
    let ports = ports();
    let policy = format!("{CACHE}[usage]\nenabled = true\n{LIMITS}");
    ports.set_policy(&policy);
    predict(&ports, None, 1);
    predict(&ports, None, 1);
    let refused = predict(&ports, Some("only-if-cached"), 9);
    assert_eq!(refused.status, 504);
    let log = ports.quota_log.borrow().join(" ");
    assert_eq!(log.matches("charge 1").count(), 3, "{log}");
    assert_eq!(log.matches("refund").count(), 2, "{log}");
    let usage = penstock_testkit::send(&ports, "GET", "/v1/usage", &[], b"");
    let row = &json(&usage)["usage"][0];
    assert_eq!(
        (&row["requests"], &row["items"]),
        (&json!(3), &json!(1)),
        "{row}"
    );
}

#[test]
fn a_run_that_fails_is_not_kept_and_holds_nobody_up() {
    let fails = Rc::new(Cell::new(true));
    let failing = fails.clone();
    let models: [(&str, &str, &[&str]); 1] = [("m", MODEL, &["1"])];
    let ports = InMemory::new(&models, move |_, _, inputs| match failing.get() {
        true => Err(Failure {
            kind: FailureKind::Failed,
            message: "it fails as it was told to".into(),
            retry_after_ms: None,
        }),
        false => Ok(outputs(&inputs)),
    });
    ports.set_policy(CACHE);
    for _ in 0..3 {
        let response = predict(&ports, None, 1);
        assert_eq!((response.status, status(&response)), (500, "none"));
    }
    assert_eq!(ports.slept_ms.get(), 0);
    fails.set(false);
    assert_eq!(
        status(&predict(&ports, None, 1)),
        "penstock; fwd=miss; stored"
    );
}

#[test]
fn a_result_that_is_too_large_is_not_kept_and_not_waited_for() {
    let ports = ports();
    ports.set_policy("[[cache]]\nmodel = \"m\"\nmax_result_bytes = 256\n");
    let rows: Vec<[f32; 2]> = vec![[1.0, 2.0]; 8];
    // Two outputs of eight rows have 128 bytes in addition to their names.
    let small = json!({ "inputs": { "a": rows } }).to_string();
    let response = send(&ports, PREDICT, &[], small.as_bytes());
    assert_eq!(status(&response), "penstock; fwd=miss; stored");
    let wide = MODEL.replace("shape = [\"N\", 2]", "shape = [\"N\", 20]");
    let large = InMemory::new(&[("m", wide.as_str(), &["1"])], |_, _, inputs| {
        Ok(outputs(&inputs))
    });
    large.set_policy("[[cache]]\nmodel = \"m\"\nmax_result_bytes = 256\n");
    let body = json!({ "inputs": { "a": [vec![1.0; 20], vec![2.0; 20]] } }).to_string();
    for expected in [
        "penstock; fwd=miss",
        "penstock; fwd=bypass; detail=too-large",
    ] {
        let response = send(&large, PREDICT, &[], body.as_bytes());
        assert_eq!((response.status, status(&response)), (200, expected));
    }
    assert_eq!(large.runs.get(), 2);
}

#[test]
fn a_store_that_fails_costs_a_run_and_is_said() {
    let ports = ports();
    ports.set_policy(&format!("{CACHE}[idempotency]\nenabled = false\n"));
    predict(&ports, None, 1);
    ports.kv.set_failing(true);
    let response = predict(&ports, None, 1);
    let said = "penstock; fwd=bypass; detail=store-failure";
    assert_eq!((response.status, status(&response)), (200, said));
    assert_eq!(predict(&ports, Some("only-if-cached"), 1).status, 504);
    let asked = predict(&ports, Some("no-cache"), 1);
    assert_eq!(
        (asked.status, status(&asked)),
        (200, "penstock; fwd=request")
    );
}

/// Stores a result as another caller that runs the same call. The result contains the cache's replies to that caller.
fn another_runs(ports: &InMemory) -> impl Fn(&InMemory, &[Tensor]) + 'static {
    let digest = penstock_policy::cache::Question {
        tenant: Some("anonymous"),
        model: "m",
        version: 2,
        contract: &penstock_policy::cache::fingerprint(MODEL),
        inputs: &[Tensor {
            name: "a".into(),
            datatype: penstock_tensor::Datatype::Fp32,
            shape: vec![1, 2],
            data: [1f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
        }],
        outputs: &[],
        is_combined: false,
    }
    .digest();
    fn at(digest: &[u8; 32]) -> CacheAddress<'_> {
        CacheAddress {
            space: "m",
            places: 992,
            digest,
            lease_ms: 2_000,
        }
    }
    let looked = ports
        .open_cache()
        .look_up(&at(&digest), 0, None, ports.unix_ms());
    let Ok(Lookup::Run(ticket)) = looked else {
        panic!("{looked:?}")
    };
    move |ports, outputs| {
        let value = result::encode(outputs, 1 << 16).expect("it is small");
        let now_ms = ports.unix_ms();
        ports
            .open_cache()
            .keep(&at(&digest), ticket, &value, now_ms)
            .expect("the store answers");
    }
}

#[test]
fn who_asks_the_same_meanwhile_waits_for_the_one_run() {
    let ports = ports();
    let keep = another_runs(&ports);
    let result = outputs(&[Tensor {
        name: "a".into(),
        datatype: penstock_tensor::Datatype::Fp32,
        shape: vec![1, 2],
        data: [7f32, 8.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
    }]);
    let began_ms = ports.unix_ms();
    *ports.meanwhile.borrow_mut() = Some(Box::new(move |ports| {
        if ports.unix_ms() - began_ms >= 300 {
            keep(ports, &result);
        }
    }));
    let response = predict(&ports, None, 1);
    let said = (status(&response), response.header("age"));
    assert_eq!(said, ("penstock; fwd=miss; collapsed", Some("0")));
    assert_eq!(json(&response)["predictions"][0]["b"], json!([7.0, 8.0]));
    assert_eq!(ports.runs.get(), 0);
    assert!(
        (300..400).contains(&ports.slept_ms.get()),
        "{}",
        ports.slept_ms.get()
    );
}

#[test]
fn who_waits_for_a_runner_that_died_runs_it() {
    let ports = ports();
    let _never_kept = another_runs(&ports);
    // A call with `only-if-cached` does not wait for a run.
    assert_eq!(predict(&ports, Some("only-if-cached"), 1).status, 504);
    assert_eq!(ports.slept_ms.get(), 0);
    let response = predict(&ports, None, 1);
    assert_eq!(status(&response), "penstock; fwd=miss; stored");
    assert!(
        (1_900..2_100).contains(&ports.slept_ms.get()),
        "{}",
        ports.slept_ms.get()
    );
    assert_eq!(status(&predict(&ports, None, 1)), "penstock; hit; ttl=60");
}

#[test]
fn who_may_take_less_time_than_the_other_run_is_told_so() {
    let ports = ports();
    let _never_kept = another_runs(&ports);
    let body = json!({
        "inputs": [{ "name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2] }],
        "parameters": { "timeout": 100_000 },
    });
    let response = send(&ports, INFER, &[], body.to_string().as_bytes());
    assert_eq!(response.status, 504);
    assert_eq!(json(&response)["code"], "deadline_exceeded");
    assert!(
        (100..130).contains(&ports.slept_ms.get()),
        "{}",
        ports.slept_ms.get()
    );
}

#[test]
fn an_adapters_answer_is_made_anew_from_kept_outputs() {
    let ports = ports();
    let send = || {
        send(
            &ports,
            "/v1/models/lengths:predict",
            &[("content-type", "text/plain")],
            b"four",
        )
    };
    let (first, second) = (send(), send());
    assert_eq!(
        (first.status, second.status),
        (200, 200),
        "{}",
        json(&first)
    );
    assert_eq!(json(&first)["predictions"], json(&second)["predictions"]);
    assert_eq!(status(&second), "penstock; hit; ttl=60");
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn a_batch_is_answered_from_the_cache_as_a_whole() {
    let ports = ports();
    let body = json!({ "requests": [
        { "inputs": { "a": [[1, 2]] } }, { "inputs": { "a": [[3, 4]] } },
    ] });
    let target = "/v1/models/m:batchPredict";
    for expected in ["penstock; fwd=miss; stored", "penstock; hit; ttl=60"] {
        let response = send(&ports, target, &[], body.to_string().as_bytes());
        assert_eq!((response.status, status(&response)), (200, expected));
        assert_eq!(json(&response)["succeeded"], 2);
    }
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn a_batch_is_not_answered_from_what_was_kept_of_a_tensor_of_several_rows() {
    // The rows of a caller's own tensor may depend on each other; those of a batch may not.
    let ports = ports();
    let tensor = br#"{"inputs":{"a":[[1,2],[3,4]]}}"#;
    let body = json!({ "requests": [
        { "inputs": { "a": [[1, 2]] } }, { "inputs": { "a": [[3, 4]] } },
    ] });
    send(&ports, PREDICT, &[], tensor);
    ports.rows_depend.set(true);
    let target = "/v1/models/m:batchPredict";
    let response = send(&ports, target, &[], body.to_string().as_bytes());
    assert_eq!(json(&response)["succeeded"], 2);
    assert_eq!(ports.runs.get(), 3, "each request ran by itself");
    let response = send(&ports, PREDICT, &[], tensor);
    assert_eq!(status(&response), "penstock; hit; ttl=60");
}

#[test]
fn a_contract_that_was_changed_is_not_answered_from_what_was_kept_before() {
    let ports = ports();
    predict(&ports, None, 1);
    let changed = MODEL.replace("doubles", "triples");
    let mut another = InMemory::new(&[("m", changed.as_str(), &["1", "2"])], |_, _, inputs| {
        Ok(outputs(&inputs))
    });
    another.kv = ports.kv.clone();
    another.clock = ports.clock.clone();
    another.set_policy(CACHE);
    assert_eq!(
        status(&predict(&another, None, 1)),
        "penstock; fwd=miss; stored"
    );
}

#[test]
fn a_repetition_is_replayed_and_keeps_its_idempotency_key() {
    let ports = ports();
    let body = br#"{"inputs":{"a":[[1,2]]}}"#;
    let seen = RefCell::new(Vec::new());
    for key in ["k1", "k1", "k2"] {
        let response = send(&ports, PREDICT, &[("idempotency-key", key)], body);
        let replayed = response.header("idempotency-replayed").is_some();
        seen.borrow_mut()
            .push((replayed, status(&response).to_owned()));
    }
    let expected = [
        (false, "penstock; fwd=miss; stored".to_owned()),
        (true, "none".to_owned()),
        (false, "penstock; hit; ttl=60".to_owned()),
    ];
    assert_eq!(*seen.borrow(), expected);
    assert_eq!(ports.runs.get(), 1);
}
