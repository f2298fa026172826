//! Models whose runs take too long, over HTTP. All other callers are answered, the caller gets its error in time, and
//! the server ends when it is told to.

use crate::common;
use crate::support::graphs;

use common::heavy_model::{beside_identity, counting_contract, endless_contract};
use common::{Options, Response, Server, onnxruntime, root};
use std::process::Command;
use std::time::{Duration, Instant};

const POLICY: &str = "[server]\ntotal_timeout_ms = 2000\ndrain_timeout_ms = 4000\n";
const TOTAL: Duration = Duration::from_millis(2000);
const DRAIN: Duration = Duration::from_millis(4000);

/// Longer than the answer of a busy machine, and far shorter than the runs here.
const AT_ONCE: Duration = Duration::from_millis(700);

const SCAN: &str = r#"description = "Multiplies"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 1]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 1]
[engine]
lanes = 2
[batching]
enabled = false
[limits]
max_items = 10000
"#;

fn serve(models: &tempfile::TempDir, tract: bool) -> Server {
    let server = Server::start_with(Options {
        policy: Some(POLICY),
        models: Some(models.path().to_owned()),
        tract,
        ..Options::default()
    });
    server.ready();
    server
}

fn heavy(server: &Server, body: &str) -> Response {
    server.post_json("/v1/models/heavy:predict", body)
}

/// Sends two heavy calls at once. Meanwhile probes and other models are answered, and both calls get 504 in time.
fn two_heavy_calls_hold_up_nobody(server: &Server, body: &str) {
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let began = Instant::now();
                    (heavy(server, body), began.elapsed())
                })
            })
            .collect();
        std::thread::sleep(TOTAL / 4);
        for _ in 0..10 {
            let asked = Instant::now();
            assert_eq!(server.get("/healthz").status, 200);
            assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        }
        let identity = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
        let asked = Instant::now();
        let answer = server.post_json("/v1/models/identity:predict", identity);
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        for call in calls {
            let (answer, took) = call.join().unwrap();
            assert_eq!(
                answer.status,
                504,
                "{}",
                String::from_utf8_lossy(&answer.bytes)
            );
            assert!(took < TOTAL + AT_ONCE, "{took:?}");
        }
    });
}

#[test]
fn a_loop_over_a_value_holds_up_nobody_and_leaves_nothing_behind() {
    let models = beside_identity(&counting_contract(2), &graphs::counting_loop());
    let mut server = serve(&models, false);
    let rounds = |times: u64| format!(r#"{{"inputs":{{"times":[{times}],"x":[0.5]}}}}"#);
    // Enough short calls that an estimate from their times would put the next on a server thread.
    for _ in 0..30 {
        let answer = heavy(&server, &rounds(2));
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.bytes)
        );
    }
    for _ in 0..2 {
        two_heavy_calls_hold_up_nobody(&server, &rounds(2_000_000_000));
    }
    assert_eq!(
        heavy(&server, &rounds(2)).status,
        200,
        "its instances are free"
    );
    // SIGTERM while one runs.
    std::thread::scope(|scope| {
        let address = server.address;
        scope.spawn(move || {
            let agent = common::client(None);
            let url = format!("http://{address}/v1/models/heavy:predict");
            let request = agent.post(url).header("content-type", "application/json");
            let _ = request.send(rounds(2_000_000_000));
        });
        std::thread::sleep(TOTAL / 4);
        let (code, took) = server.terminate();
        assert!(took < DRAIN, "{took:?}");
        assert_eq!(code, Some(0));
    });
}

#[test]
fn runs_that_nothing_can_interrupt_are_given_up_and_named_in_the_log() {
    let models = beside_identity(SCAN, &graphs::slow_scan(0));
    let mut server = serve(&models, true);
    let rows = |count: usize| format!(r#"{{"inputs":{{"x":[{}]}}}}"#, vec!["[0]"; count].join(","));
    assert_eq!(heavy(&server, &rows(1)).status, 200);
    // Some milliseconds each.
    two_heavy_calls_hold_up_nobody(&server, &rows(9000));
    let line = server.logged("cannot be interrupted");
    assert!(
        line.contains("model \"heavy\" version 1") && line.contains("WARN"),
        "{line}"
    );
    // Their instances were replaced.
    assert_eq!(heavy(&server, &rows(1)).status, 200);
    let stats = server.get("/v2/models/heavy/stats").json();
    assert_eq!(stats["model_stats"][0]["lost"], 2, "{stats}");
    assert_eq!(stats["model_stats"][0]["overdue"], 2, "{stats}");
    // They continue, and the server still ends well.
    let (code, took) = server.terminate();
    assert!(took < DRAIN, "{took:?}");
    assert_eq!(code, Some(0));
}

#[test]
fn check_and_the_server_give_up_a_graph_whose_first_run_never_ends() {
    let models = beside_identity(&endless_contract(2), &graphs::endless_loop());
    let policy = models.path().join("penstock.toml");
    let text = common::open_to_all("[models]\nload_timeout_ms = 2000\n");
    std::fs::write(&policy, text).unwrap();
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .env_remove("PENSTOCK_OPENVINO")
        .arg("check")
        .arg("--app")
        .arg(root().join("spin.toml"))
        .arg("--models")
        .arg(models.path())
        .arg("--policy")
        .arg(&policy)
        .arg("--onnxruntime")
        .arg(onnxruntime())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(began.elapsed() < Duration::from_secs(60), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.contains("still warming up"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("heavy/model.toml"), "{line}");
    assert!(said.contains("raise models.load_timeout_ms"), "{said}");

    let mut server = Server::start_with(Options {
        policy: Some("[models]\nload_timeout_ms = 2000\n[server]\ndrain_timeout_ms = 4000\n"),
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    let identity = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    let answer = server.post_json("/v1/models/identity:predict", identity);
    assert_eq!(answer.status, 200, "the other model serves");
    let line = server.logged("the load was given up");
    assert!(
        line.contains("heavy") && line.contains("warming up"),
        "{line}"
    );
    let (code, took) = server.terminate();
    assert!(took < DRAIN && code == Some(0), "{code:?} {took:?}");
}
