//! Processes of models leave nothing behind in the server. The test is alone in its file, because it counts everything
//! that the process holds.

mod support;

use std::time::Duration;

use penstock_nn::EngineRefusal;
use support::child::*;
use support::*;

#[test]
fn worker_process() {
    serve_as_child(&find);
}

/// Descriptors, mappings of shared memory, and children of this process.
fn held() -> (usize, usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd")
        .expect("it is Linux")
        .count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("it is Linux");
    let shared = maps
        .lines()
        .filter(|line| line.contains("penstock-tensors"))
        .count();
    let me = std::process::id().to_string();
    let children = std::fs::read_dir("/proc")
        .expect("it is Linux")
        .flatten()
        .filter(|item| {
            let stat = std::fs::read_to_string(item.path().join("stat")).unwrap_or_default();
            let after = stat.rsplit(") ").next().unwrap_or_default();
            after.split_whitespace().nth(1) == Some(&me)
        });
    (descriptors, shared, children.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_unloaded_models_nor_restarts_leave_anything() {
    let once = load(2);
    pid(&once).await;
    drop(once);
    let settled = |before: (usize, usize, usize)| move || held() == before;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = held();
    for _ in 0..20 {
        let model = load(2);
        let running = pid(&model).await;
        drop(model);
        until("it has gone", || !is_there(running)).await;
    }
    until("nothing is left", settled(before)).await;
    let model = load_that_comes_back_at_once();
    pid(&model).await;
    let before = held();
    for restart in 1..=200 {
        let error = ask(&model, asks::SIGSEGV)
            .await
            .expect_err("its process ended");
        assert_eq!(error.refusal, Some(EngineRefusal::Ended), "{error}");
        assert_eq!(ask(&model, asks::ECHO).await, Ok(asks::ECHO));
        assert_eq!(process(&model).restarts, restart);
    }
    until("the last one is there", settled(before)).await;
}
