//! Models in separate processes, over HTTP: the cost of a process's end, its report, and its remains. The tests end and
//! stop the processes from outside.

use crate::common;
use crate::support::graphs;

use common::heavy_model::{beside_identity, counting_contract, endless_contract};
use common::{Options, Response, Server, children, stat, until, until_found, write};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

const POLICY: &str = "[server]\ntotal_timeout_ms = 4000\ndrain_timeout_ms = 4000\n";

/// A models directory with `heavy`, which counts, and `identity` beside it.
fn models() -> tempfile::TempDir {
    beside_identity(&counting_contract(1), &graphs::counting_loop())
}

fn serve(models: &tempfile::TempDir, policy: &'static str) -> Server {
    let server = Server::start_with(Options {
        policy: Some(policy),
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    server.ready();
    server
}

fn rounds(times: u64) -> String {
    format!(r#"{{"inputs":{{"times":[{times}],"x":[0.5]}}}}"#)
}

fn heavy(server: &Server, times: u64) -> Response {
    server.post_json("/v1/models/heavy:predict", &rounds(times))
}

fn identity(server: &Server) -> Response {
    server.post_json(
        "/v1/models/identity:predict",
        r#"{"inputs":{"a":[[1,2,3,4]]}}"#,
    )
}

fn text(answer: &Response) -> String {
    String::from_utf8_lossy(&answer.bytes).into_owned()
}

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "process {pid} is there");
}

/// The process in which a model runs now, from the log.
fn process_of(server: &Server, model: &str) -> u32 {
    until_found(|| {
        let pid = last_process_of(server, model);
        let runs = |(parent, state): (u32, char)| parent == server.pid() && state != 'Z';
        pid.filter(|pid| stat(*pid).is_some_and(runs))
            .ok_or_else(|| format!("{model} runs in no process"))
    })
}

/// The last process in the log. The log is a moment behind.
fn last_process_of(server: &Server, model: &str) -> Option<u32> {
    let wanted = format!("model \"{model}\" version 1: runs ");
    let log = server.log.lock().unwrap();
    let line = log.iter().rev().find(|line| line.contains(&wanted))?;
    let number = line.rsplit("in process ").next()?;
    number
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .ok()
}

fn descriptors(of: u32) -> usize {
    std::fs::read_dir(format!("/proc/{of}/fd")).unwrap().count()
}

fn process_stats(server: &Server, model: &str) -> Value {
    let stats = server.get(&format!("/v2/models/{model}/stats")).json();
    stats["model_stats"][0]["process"].clone()
}

fn readiness_of(server: &Server, model: &str) -> Value {
    let ready = server.get("/ready").json();
    let models = ready["models"]
        .as_array()
        .unwrap_or_else(|| panic!("{ready}"))
        .clone();
    models
        .into_iter()
        .find(|entry| entry["name"] == model)
        .unwrap_or_else(|| panic!("{ready}"))
}

#[test]
fn a_crash_costs_the_call_that_ran_and_nothing_else() {
    let models = models();
    let server = serve(&models, POLICY);
    let (child, beside) = (
        process_of(&server, "heavy"),
        process_of(&server, "identity"),
    );
    assert_eq!(heavy(&server, 2).status, 200);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| heavy(&server, 2_000_000_000));
        until("it runs", || {
            let stats = server.get("/v2/models/heavy/stats").json();
            stats["model_stats"][0]["in_flight"] == 1
        });
        let waiting: Vec<_> = (0..6).map(|_| scope.spawn(|| heavy(&server, 3))).collect();
        until("they wait", || {
            let stats = server.get("/v2/models/heavy/stats").json();
            stats["model_stats"][0]["waiting"] == 6
        });
        signal(child, "-SEGV");
        let answer = running.join().unwrap();
        assert_eq!(answer.status, 503, "{}", text(&answer));
        assert_eq!(
            answer.json()["error"]["code"],
            "model_not_ready",
            "{}",
            text(&answer)
        );
        assert!(answer.header("retry-after").is_some());
        assert!(text(&answer).contains("SIGSEGV"), "{}", text(&answer));
        assert!(!text(&answer).contains("/home") && !text(&answer).contains("/work"));
        for _ in 0..10 {
            assert_eq!(identity(&server).status, 200);
            assert_eq!(server.get("/healthz").status, 200);
        }
        for call in waiting {
            let answer = call.join().unwrap();
            assert_eq!(answer.status, 200, "{}", text(&answer));
        }
    });
    let line = server.logged("SIGSEGV");
    assert!(
        line.contains("model \"heavy\" version 1") && line.contains("ERROR"),
        "{line}"
    );
    let stats = process_stats(&server, "heavy");
    assert_eq!(
        (&stats["crashes"], &stats["restarts"]),
        (&1.into(), &1.into()),
        "{stats}"
    );
    assert_eq!(stats["down"], Value::Null);
    assert!(
        stats["resident_bytes"].as_u64().unwrap() > 1 << 20,
        "{stats}"
    );
    assert_eq!(process_stats(&server, "identity")["crashes"], 0);
    assert_eq!(process_of(&server, "identity"), beside);
    assert_ne!(process_of(&server, "heavy"), child);
    assert!(stat(child).is_none(), "no zombie is left");
}

#[test]
fn a_stopped_process_is_replaced_and_its_callers_are_told_in_time() {
    let models = models();
    let server = serve(&models, "[server]\ntotal_timeout_ms = 1000\n");
    // Often enough that server threads wait for its runs.
    for _ in 0..50 {
        assert_eq!(identity(&server).status, 200);
    }
    let child = process_of(&server, "identity");
    signal(child, "-STOP");
    until("it stands still", || {
        stat(child).is_some_and(|(_, state)| state == 'T')
    });
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (identity(&server), Instant::now())))
            .collect();
        let began = Instant::now();
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..20 {
            assert_eq!(server.get("/healthz").status, 200);
            assert_eq!(heavy(&server, 2).status, 200);
        }
        assert!(
            began.elapsed() < Duration::from_millis(900),
            "nobody else is held up"
        );
        for call in calls {
            let (answer, at) = call.join().unwrap();
            assert!(matches!(answer.status, 503 | 504), "{}", text(&answer));
            assert!(at - began < Duration::from_millis(1900), "{:?}", at - began);
        }
    });
    until("it answers again", || identity(&server).status == 200);
    assert!(
        server
            .logged("an abandoned run did not end")
            .contains("identity")
    );
    assert_eq!(process_stats(&server, "identity")["crashes"], 1);
    assert_eq!(process_stats(&server, "heavy")["crashes"], 0);
    let stats = server.get("/v2/models/identity/stats").json();
    assert_eq!(stats["model_stats"][0]["lost"], 0, "{stats}");
}

#[test]
fn a_model_that_ends_again_and_again_is_not_ready_and_the_others_are() {
    let models = models();
    let server = serve(&models, POLICY);
    assert_eq!(readiness_of(&server, "heavy")["ready"], true);
    let mut last = 0;
    while readiness_of(&server, "heavy")["ready"] == true {
        if let Some(child) = last_process_of(&server, "heavy")
            && child != last
            && stat(child).is_some()
        {
            signal(child, "-KILL");
            last = child;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let entry = readiness_of(&server, "heavy");
    assert!(
        entry["reason"].as_str().unwrap().contains("SIGKILL"),
        "{entry}"
    );
    assert_eq!(readiness_of(&server, "identity")["ready"], true);
    assert_eq!(
        server.get("/ready").status,
        200,
        "one model is its own callers' affair"
    );
    assert_eq!(server.get("/v2/models/heavy/ready").status, 503);
    let began = Instant::now();
    let answer = heavy(&server, 2);
    assert_eq!(answer.status, 503, "{}", text(&answer));
    assert!(answer.header("retry-after").is_some());
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "it is refused at once"
    );
    assert_eq!(identity(&server).status, 200);
    until("it answers again", || heavy(&server, 2).status == 200);
    assert_eq!(readiness_of(&server, "heavy")["ready"], true);
}

#[test]
fn a_process_that_ends_in_its_warm_up_is_a_model_that_failed_and_the_others_serve() {
    let models = beside_identity(&endless_contract(1), &graphs::endless_loop());
    let aside = tempfile::tempdir().unwrap();
    let (there, later) = (models.path().join("heavy"), aside.path().join("heavy"));
    std::fs::rename(&there, &later).unwrap();
    // A server reports that it serves after it has tried all models.
    let server = serve(&models, POLICY);
    for file in ["model.toml", "1/model.onnx"] {
        write(&there, file, std::fs::read(later.join(file)).unwrap());
    }
    server.logged("model \"heavy\" version 1: runs in process");
    std::thread::sleep(Duration::from_millis(500));
    signal(process_of(&server, "heavy"), "-ABRT");
    let line = server.logged("fails its first run");
    assert!(line.contains("SIGABRT") && line.contains("heavy"), "{line}");
    until("the other serves", || identity(&server).status == 200);
    until("nothing of it is left", || {
        children(server.pid()).len() == 1
    });
    let answer = server.post_json("/v1/models/heavy:predict", r#"{"inputs":{"x":[0.5]}}"#);
    assert_eq!(answer.status, 503, "{}", text(&answer));
}

#[test]
fn nothing_is_left_after_many_ends_nor_after_the_server() {
    let models = models();
    let mut server = serve(&models, POLICY);
    assert_eq!(identity(&server).status, 200);
    let held = |server: &Server| (descriptors(server.pid()), children(server.pid()).len());
    let before = held(&server);
    for round in 1..=4 {
        signal(process_of(&server, "identity"), "-KILL");
        until("it is back", || {
            process_stats(&server, "identity")["restarts"] == round
        });
        assert_eq!(identity(&server).status, 200);
    }
    until("as many as before", || {
        let (descriptors, children) = held(&server);
        // A connection or two of this test.
        descriptors <= before.0 + 3 && children == before.1
    });
    let left: Vec<u32> = children(server.pid())
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(left.len(), 2);
    // The signal goes to all processes of the server, as a service manager or a terminal sends it.
    for child in &left {
        signal(*child, "-TERM");
        signal(*child, "-INT");
    }
    assert_eq!(identity(&server).status, 200);
    // One process is stopped, so it does not notice the closed socket.
    signal(left[0], "-STOP");
    let (code, took) = server.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(4), "{took:?}");
    until("they are gone", || {
        left.iter().all(|child| stat(*child).is_none())
    });
}

#[test]
fn children_go_with_a_server_that_is_killed() {
    let models = models();
    let server = serve(&models, POLICY);
    let left: Vec<u32> = children(server.pid())
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(left.len(), 2);
    server.kill();
    until("they are gone", || {
        left.iter()
            .all(|child| stat(*child).is_none_or(|(_, state)| state == 'Z'))
    });
}

#[test]
fn a_model_comes_back_after_the_servers_file_was_replaced() {
    let models = models();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("penstock");
    std::fs::copy(env!("CARGO_BIN_EXE_penstock"), &program).unwrap();
    let server = Server::start_with(Options {
        policy: Some(POLICY),
        models: Some(models.path().to_owned()),
        program: Some(program.clone()),
        ..Options::default()
    });
    server.ready();
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "another version").unwrap();
    signal(process_of(&server, "identity"), "-KILL");
    until("it is back", || {
        process_stats(&server, "identity")["restarts"] == 1
    });
    assert_eq!(identity(&server).status, 200);
}

#[test]
fn where_models_run_is_a_setting_of_the_policy_and_of_the_model() {
    let contract = counting_contract(1) + "isolation = \"process\"\n";
    let mixed = beside_identity(&contract, &graphs::counting_loop());
    let server = serve(&mixed, "[models]\nisolation = \"thread\"\n");
    assert_eq!(children(server.pid()).len(), 1, "`heavy` alone");
    assert_eq!(identity(&server).status, 200);
    assert_eq!(heavy(&server, 2).status, 200);
    assert_eq!(process_stats(&server, "identity"), Value::Null);
    drop(server);
    let server = serve(&mixed, "[models]\nprocess_memory_bytes = 1073741824\n");
    assert_eq!(children(server.pid()).len(), 2);
    assert_eq!(identity(&server).status, 200);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process_of(&server, "heavy")));
    let limits = limits.unwrap();
    let data = limits
        .lines()
        .find(|line| line.starts_with("Max data size"))
        .unwrap();
    assert!(data.contains("1073741824"), "{data}");
}
