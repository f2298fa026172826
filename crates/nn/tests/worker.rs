//! Engines in separate processes: the cost of their ends, and their remains. The tests end, stop and bloat children
//! from outside; no graph here makes a runtime crash.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::overdue::GRACE;
use penstock_nn::repository::Compare;
use penstock_nn::{
    Backends, EngineRefusal, GraphSource, LoadOptions, Model, Repository, Settings, State,
    TensorType,
};
use penstock_tensor::contract::Isolation;
use support::child::*;
use support::*;
use tokio::time::Instant;

#[test]
fn worker_process() {
    serve_as_child(&find);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_costs_the_calls_that_ran_and_those_that_wait_are_answered() {
    let model = load(1);
    let other = load(1);
    let (before, beside) = (pid(&model).await, pid(&other).await);
    assert_ne!(before, std::process::id());
    let crashing = tokio::spawn({
        let model = model.clone();
        async move { ask(&model, asks::SIGSEGV).await }
    });
    // The call may be over before the first check.
    until("the call runs", || {
        model.stats().running == 1 || crashing.is_finished()
    })
    .await;
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let model = model.clone();
            tokio::spawn(async move { ask(&model, asks::PID).await })
        })
        .collect();
    let error = crashing.await.unwrap().expect_err("its process ended");
    assert_eq!(error.refusal, Some(EngineRefusal::Ended), "{error}");
    assert!(error.message.contains("SIGSEGV (signal 11)"), "{error}");
    assert!(error.retry_after.is_some());
    for call in waiting {
        let answered = call
            .await
            .unwrap()
            .expect("it is answered after the restart");
        assert_ne!(answered as u32, before);
    }
    let stats = process(&model);
    assert_eq!((stats.down, stats.crashes, stats.restarts), (None, 1, 1));
    assert_eq!(model.stats().failures, 1);
    assert!(!is_there(before), "it was waited for");
    assert_eq!((pid(&other).await, process(&other).crashes), (beside, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_run_happens_on_the_processor_of_the_thread_that_waits_and_others_anywhere() {
    let all = std::thread::available_parallelism().unwrap().get() as f32;
    let processors = async |model: &Model| ask(model, asks::PROCESSORS).await.expect("it answers");
    let model = load(1);
    assert_eq!(processors(&model).await, all, "no run was measured yet");
    // Runs of other tests may make one of these long.
    let mut kept = 0;
    for _ in 0..200 {
        kept += u32::from(processors(&model).await == 1.0);
    }
    assert!(kept > 0, "{kept} of 200");
    let child = pid(&model).await;
    let slow = tokio::spawn({
        let model = model.clone();
        async move { ask(&model, asks::SLOW).await }
    });
    until("a long run may use every processor", || {
        model.stats().running == 1 && threads_may_use(child, all as usize)
    })
    .await;
    assert!(!slow.is_finished(), "while it runs");
    slow.await.unwrap().expect("it answers");
    assert_eq!(processors(&model).await, all, "after a long run");
    let threads = load_with(LoadOptions {
        instances: Some(1),
        intra_op_threads: 2,
        ..LoadOptions::default()
    });
    for _ in 0..50 {
        assert_eq!(processors(&threads).await, all, "its threads would inherit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_share_a_run_all_fail_with_it_and_it_is_not_tried_again() {
    let model = load_with(LoadOptions {
        instances: Some(1),
        batching: Ok(penstock_nn::batching::DynamicBatching {
            max_items: 16,
            ..Default::default()
        }),
        ..LoadOptions::default()
    });
    let slow = tokio::spawn({
        let model = model.clone();
        async move { ask(&model, asks::SLOW).await }
    });
    until("a call runs", || model.stats().running == 1).await;
    // They wait, and run together next; the first of them ends the process.
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let model = model.clone();
            tokio::spawn(async move { ask(&model, asks::SIGSEGV).await })
        })
        .collect();
    slow.await.unwrap().expect("it is answered");
    for call in calls {
        let error = call.await.unwrap().expect_err("its process ended");
        assert_eq!(error.refusal, Some(EngineRefusal::Ended), "{error}");
    }
    until("it is back", || process(&model).down.is_none()).await;
    assert_eq!(process(&model).crashes, 1);
    assert_eq!(ask(&model, asks::ECHO).await, Ok(asks::ECHO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_between_calls_comes_back_by_itself() {
    let model = load(2);
    let before = pid(&model).await;
    signal(before, 9);
    until("it was seen", || process(&model).crashes == 1).await;
    until("it is back", || process(&model).down.is_none()).await;
    assert_ne!(pid(&model).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_is_ended_after_the_grace_and_the_model_goes_on() {
    let model = load(1);
    let before = pid(&model).await;
    // Short runs, so that the next ones are on a server thread.
    for _ in 0..100 {
        assert_eq!(ask(&model, asks::ECHO).await, Ok(asks::ECHO));
    }
    signal(before, 19);
    until("it stands still", || is_stopped(before)).await;
    let began = Clock::now();
    let deadline = Some(Instant::now() + Duration::from_millis(200));
    let error = model
        .infer_by(input(asks::ECHO), deadline)
        .await
        .expect_err("nobody answers");
    assert_eq!(error.refusal, Some(EngineRefusal::Deadline), "{error}");
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert_ne!(pid(&model).await, before);
    assert!(began.elapsed() < GRACE * 5, "{:?}", began.elapsed());
    let stats = model.stats();
    assert_eq!((stats.lost, stats.overdue, stats.in_flight), (0, 0, 0));
    assert_eq!(process(&model).crashes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_hear_is_ended_and_one_that_hears_is_not() {
    let model = load(1);
    let before = pid(&model).await;
    let call = async |value: f32| {
        let deadline = Some(Instant::now() + Duration::from_millis(200));
        let error = model
            .infer_by(input(value), deadline)
            .await
            .expect_err("too late");
        assert_eq!(error.refusal, Some(EngineRefusal::Deadline), "{error}");
    };
    for _ in 0..3 {
        call(asks::UNTIL_INTERRUPTED).await;
        assert_eq!(pid(&model).await, before, "it ended when it was told to");
    }
    call(asks::DEAF).await;
    assert_ne!(pid(&model).await, before);
    assert_eq!((model.stats().lost, process(&model).crashes), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_takes_memory_without_end_is_stopped_by_its_limit() {
    let model = load_with(LoadOptions {
        instances: Some(1),
        working_bytes: Some(64 << 20),
        ..LoadOptions::default()
    });
    let error = ask(&model, asks::BLOAT)
        .await
        .expect_err("256 GiB are more than it may take");
    assert_eq!(error.refusal, Some(EngineRefusal::Ended), "{error}");
    assert!(error.message.contains("SIGABRT"), "{error}");
    assert_eq!(ask(&model, asks::ECHO).await, Ok(asks::ECHO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_its_call_and_not_the_process() {
    let model = load(1);
    let before = pid(&model).await;
    let error = ask(&model, asks::PANIC).await.expect_err("it panics");
    assert!(error.message.contains("panicked"), "{error}");
    assert_eq!(pid(&model).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_a_warm_up_is_an_error_of_the_load() {
    let model = load(2);
    let error = model
        .warm_up(input(asks::SIGSEGV))
        .expect_err("its process ended");
    assert!(error.message.contains("SIGSEGV"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_up_that_hangs_is_ended_when_loading_is_given_up() {
    let model = load(1);
    let loading = tokio::task::spawn_blocking({
        let model = model.clone();
        move || model.warm_up(input(asks::DEAF))
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    model.give_up_loading();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!loading.is_finished(), "it does not hear");
    model.give_up_loading();
    let error = loading.await.unwrap().expect_err("its process was ended");
    assert!(error.message.contains("given up"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_ends_its_process_again_and_again_is_refused_at_once() {
    let model = load(1);
    let mut refused = None;
    for _ in 0..40 {
        let error = ask(&model, asks::SIGSEGV).await.expect_err("it crashes");
        match error.refusal {
            Some(EngineRefusal::Ended) => {}
            Some(EngineRefusal::NotReady) => {
                refused = Some(error);
                break;
            }
            other => panic!("{other:?}: {error}"),
        }
    }
    let error = refused.expect("in the end it is not even tried");
    assert!(
        error.retry_after.expect("it is known") > Duration::from_secs(1),
        "{error:?}"
    );
    assert!(error.message.contains("SIGSEGV"), "{error}");
    assert!(process(&model).crashes < 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_gets_few_descriptors_and_no_secrets() {
    let model = load(1);
    // Standard input, output and error, the socket, the segments of an instance, and the folder that is listed.
    let descriptors = ask(&model, asks::DESCRIPTORS).await.unwrap();
    assert!(descriptors <= 3.0 + 1.0 + 4.0 + 2.0, "{descriptors}");
    assert_eq!(ask(&model, asks::SECRETS).await, Ok(0.0));
    let before = pid(&model).await;
    assert_eq!(ask(&model, asks::NO_NEW_PRIVILEGES).await, Ok(1.0));
    // Of a terminal or a service manager, for all processes of the server.
    for number in [1, 2, 15] {
        signal(before, number);
    }
    assert_eq!(pid(&model).await, before);
    let stat = std::fs::read_to_string(format!("/proc/{before}/stat")).unwrap();
    let group = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split_whitespace()
        .nth(2)
        .unwrap()
        .to_owned();
    assert_eq!(
        group,
        before.to_string(),
        "it is in a process group of its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_tensors_go_through_and_come_back_while_others_are_held() {
    let model = load(1);
    let elements = 3 << 20;
    let values: Vec<f32> = (0..elements).map(|index| index as f32 + 100.0).collect();
    let mut kept = Vec::new();
    for round in 1..=6u32 {
        let part = &values[..(elements / round as usize)];
        let dims = [part.len() as u32];
        let sent = vec![("x".to_owned(), fp32(&dims, part))];
        let outputs = model.infer(sent).await.expect("it answers");
        kept.push((part, outputs));
    }
    for (part, outputs) in &kept {
        assert_eq!(outputs[0].1.ty, TensorType::Fp32);
        assert!(
            as_fp32(&outputs[0].1) == *part,
            "an answer is not overwritten by the next"
        );
    }
}

/// So many callers at once make so many calls each, and each call is answered with its own number.
async fn each_gets_its_own(model: &Model, callers: u64, calls: u64) {
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let model = model.clone();
            tokio::spawn(async move {
                for call in 0..calls {
                    let value = 1000.0 + (caller * 1000 + call) as f32;
                    assert_eq!(ask(&model, value).await, Ok(value));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_get_their_own_answers() {
    let model = load(2);
    each_gets_its_own(&model, 8, 500).await;
    assert_eq!(process(&model).crashes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_share_runs_get_their_own_answers() {
    let model = load_with(LoadOptions {
        instances: Some(1),
        batching: Ok(penstock_nn::batching::DynamicBatching {
            max_items: 16,
            ..Default::default()
        }),
        ..LoadOptions::default()
    });
    const CALLERS: u64 = 8;
    const CALLS: u64 = 300;
    each_gets_its_own(&model, CALLERS, CALLS).await;
    let stats = model.stats();
    assert!(
        stats.execution_count < CALLERS * CALLS,
        "{}",
        stats.execution_count
    );
    assert_eq!((stats.failures, process(&model).crashes), (0, 0));
}

/// Returns the next number of the generator SplitMix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[tokio::test(flavor = "multi_thread")]
async fn held_answers_stay_as_they_were_whatever_ends_the_process_and_no_call_gets_anothers() {
    type Outputs = Vec<(String, penstock_nn::NnTensor)>;
    const STEPS: u32 = 100;
    for seed in 1..=3u64 {
        let mut state = seed;
        let model = load_that_comes_back_at_once();
        let mut held: Vec<(Vec<f32>, Outputs)> = Vec::new();
        let (mut answered, mut ended) = (0, 0);
        for step in 0..STEPS {
            match random(&mut state) % 8 {
                0 => {
                    if let Some(pid) = process(&model).pid {
                        // It may have ended since it was asked for.
                        let _ = std::process::Command::new("kill")
                            .args(["-9", &pid.to_string()])
                            .output();
                    }
                }
                1 => {
                    let error = ask(&model, asks::SIGSEGV).await.expect_err("it ends");
                    assert!(error.refusal.is_some(), "{error}");
                    ended += 1;
                }
                2 => {
                    // The caller leaves, with its run under way or not.
                    let patience = Duration::from_micros(random(&mut state) % 3_000);
                    let call = ask(&model, asks::UNTIL_INTERRUPTED);
                    let _ = tokio::time::timeout(patience, call).await;
                }
                3 if !held.is_empty() => {
                    let at = random(&mut state) as usize % held.len();
                    held.swap_remove(at);
                }
                _ => {
                    // Small ones are copied, large ones lent, the largest copied again.
                    let most =
                        [10, 40_000, 40_000, 40_000, 4_500_000][random(&mut state) as usize % 5];
                    let elements = 1 + random(&mut state) as usize % most;
                    let mark = 100.0 + step as f32;
                    let sent: Vec<f32> = (0..elements).map(|at| mark + (at % 977) as f32).collect();
                    let call = vec![("x".to_owned(), fp32(&[elements as u32], &sent))];
                    match model.infer(call).await {
                        Ok(outputs) => {
                            answered += 1;
                            held.push((sent, outputs));
                        }
                        Err(error) => assert!(error.refusal.is_some(), "{error}"),
                    }
                    if held.len() > 4 {
                        held.remove(0);
                    }
                }
            }
            for (sent, outputs) in &held {
                assert!(
                    as_fp32(&outputs[0].1) == *sent,
                    "seed {seed}, step {step}: an answer changed"
                );
            }
        }
        assert!(answered > 10 && ended > 4, "{answered} {ended}");
    }
}

#[test]
fn a_graph_that_changed_on_disk_is_not_started_again_under_the_old_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, identity_bytes()).unwrap();
    let backend = isolated(Arc::new(penstock_nn::backend::tract::Tract));
    let model = Model::load(
        "m",
        "1",
        &*backend,
        &GraphSource::from(path.as_path()),
        &LoadOptions::default(),
    )
    .expect("it loads");
    std::fs::write(&path, b"something else").unwrap();
    signal(process(&model).pid.expect("it runs"), 9);
    let began = Clock::now();
    loop {
        let down = process(&model).down.unwrap_or_default();
        if down.contains("changed since they were loaded") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{down}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_counts_the_memory_of_a_process_and_not_the_size_of_its_file() {
    const HELD: usize = 64 << 20;
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let model = folder.path().join(name);
        std::fs::create_dir_all(model.join("1")).unwrap();
        std::fs::write(model.join("model.toml"), VECTOR).unwrap();
        std::fs::write(model.join("1/model.onnx"), b"a few bytes").unwrap();
    }
    let open = |budget: usize| {
        let settings = Settings {
            memory_budget_bytes: Some(budget as u64),
            isolation: Some(Isolation::Process),
            launcher: Some(launcher_of_children_that_hold(HELD)),
            ..Settings::default()
        };
        let backends = Backends::builtin().prefer(Arc::new(Scripted::echo()));
        Repository::open(folder.path(), backends, settings).expect("it opens")
    };
    // Room for one of the two.
    let repository = open(HELD * 3 / 2);
    repository.load_all(|_| {}).await;
    until("one of the two is evicted", || {
        let readiness = repository.readiness();
        (readiness.ready, readiness.evicted) == (1, 1)
    })
    .await;
    for name in ["a", "b", "a"] {
        let handle = repository.handle(name, None).expect("it answers");
        let model = handle.model().await.expect("it is loaded again");
        assert_eq!(ask(&model, asks::ECHO).await, Ok(asks::ECHO));
        drop(model);
        let held = repository.memory_bytes();
        assert!(
            (HELD as u64..2 * HELD as u64).contains(&held),
            "{name}: {held}"
        );
        let resident = repository.get(name, None).ok();
        let resident = resident.and_then(|model| process(&model).resident_bytes);
        assert!(resident.expect("it serves") >= HELD as u64);
    }
    drop(repository);
    // A process that does not fit alone counts as the whole budget: its model serves, alone.
    let repository = open(HELD / 2);
    repository.load_all(|_| {}).await;
    for name in ["a", "b", "a"] {
        let handle = repository.handle(name, None).expect("it answers");
        let model = handle.model().await.expect("it is loaded again");
        assert_eq!(ask(&model, asks::ECHO).await, Ok(asks::ECHO));
        drop(model);
        until("it is alone", || {
            repository.memory_bytes() == HELD as u64 / 2
        })
        .await;
    }
}

/// The result of comparing a scripted model with tract in the background, whose process behaves so.
async fn compared_with_tract(
    script: Scripted,
    backends: Backends,
    others: &'static str,
) -> &'static str {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m");
    std::fs::create_dir_all(model.join("1")).unwrap();
    std::fs::write(model.join("model.toml"), VECTOR).unwrap();
    std::fs::write(model.join("1/model.onnx"), identity_bytes()).unwrap();
    let settings = Settings {
        compare: Compare::Warn,
        compare_later: true,
        launcher: Some(launcher_of_other_backends_that(others)),
        ..Settings::default()
    };
    let backends = backends.prefer(Arc::new(script));
    let repository = Repository::open(folder.path(), backends, settings).expect("it opens");
    let mut told = None;
    repository
        .load_all(|report| {
            if let State::Ready(model) = report.state {
                told = Some(model.agreement_state());
            }
        })
        .await;
    let told = told.expect("it serves, whatever another backend answers");
    let model = repository.get("m", None).expect("it serves");
    until("it is compared", || {
        model.agreement_state() != Some("pending")
    })
    .await;
    if others == WAIT {
        assert_eq!(told, Some("pending"), "it was ready before");
    }
    let inputs = vec![("x".into(), fp32(&[2], &[1.0, 2.0]))];
    assert!(model.try_run(inputs).is_ok());
    model.agreement_state().expect("it was compared")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_serves_is_compared_in_the_background() {
    let one_more = |_: usize, inputs: &[penstock_nn::NnTensor]| {
        let values = as_fp32(&inputs[0]);
        let more: Vec<f32> = values.iter().map(|value| value * 2.0 + 1.0).collect();
        Step::Answer(vec![fp32(&inputs[0].dims, &more)])
    };
    let both = Backends::builtin;
    let same = compared_with_tract(Scripted::echo(), both(), WAIT).await;
    assert_eq!(same, "agrees");
    let other = compared_with_tract(Scripted::new(one_more), both(), WAIT).await;
    assert_eq!(other, "differs");
    let alone = compared_with_tract(Scripted::echo(), Backends::default(), "").await;
    assert_eq!(alone, "unknown");
    let crashes = compared_with_tract(Scripted::echo(), both(), CRASH).await;
    assert_eq!(crashes, "unknown", "a crash costs only the comparison");
}

fn identity_bytes() -> Vec<u8> {
    match identity(onnx_type::FLOAT, &[D::S("N")]) {
        GraphSource::Bytes(bytes) => bytes.to_vec(),
        GraphSource::File(_) => unreachable!("it is made in memory"),
    }
}
