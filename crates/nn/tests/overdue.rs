//! Runs that take longer than their callers wait: their effect on other calls, on their instances, and their end.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::backend::tract::Tract;
use penstock_nn::overdue::{GRACE, MAX_LOST_OF_MODEL, at_work};
use penstock_nn::{
    Backend, Cost, EngineRefusal, ErrorCode, GraphSource, LoadOptions, Model, NnTensor, TensorType,
};
use support::{as_fp32, fp32, graphs, onnxruntime, until};
use tokio::time::Instant;

fn load(backend: &dyn Backend, graph: Vec<u8>, instances: usize) -> Model {
    let options = LoadOptions {
        instances: Some(instances),
        ..LoadOptions::default()
    };
    let graph = GraphSource::Bytes(graph.into());
    Model::load("m", "1", backend, &graph, &options).expect("it loads")
}

/// Answers with its input. Keeps its instance for as many milliseconds as the input says, and ignores interrupts.
fn deaf() -> Scripted {
    Scripted::new(|_, inputs| match as_fp32(&inputs[0])[0] {
        0.0 => Step::Echo,
        ms => Step::Deaf(Duration::from_millis(ms as u64)),
    })
}

fn input(value: f32) -> Vec<(String, NnTensor)> {
    vec![("x".into(), fp32(&[1], &[value]))]
}

/// A call that is waited for so long.
async fn call(model: &Model, value: f32, wait: Duration) -> Result<f32, Option<EngineRefusal>> {
    let deadline = Some(Instant::now() + wait);
    let answered = model.infer_by(input(value), deadline).await;
    answered
        .map(|outputs| as_fp32(&outputs[0].1)[0])
        .map_err(|error| error.refusal)
}

const SOON: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_ended_loses_its_instance_and_the_model_goes_on() {
    let model = load(&deaf(), vec![], 1);
    let began = Instant::now();
    let late = call(&model, 4000.0, SOON).await;
    assert_eq!(late, Err(Some(EngineRefusal::Deadline)));
    assert!(began.elapsed() < Duration::from_secs(1), "in time");
    // One instance, and it is taken: this call waits until the run is given up.
    let answer = call(&model, 0.0, 3 * GRACE).await;
    assert_eq!(answer, Ok(0.0));
    assert!(began.elapsed() >= GRACE && began.elapsed() < 3 * GRACE);
    let stats = model.stats();
    assert_eq!((stats.lost, stats.overdue, stats.in_flight), (1, 1, 0));
    assert_eq!((stats.failures, stats.success), (1, 1));
    until("the lost run ends", || model.stats().overdue == 0).await;
    assert_eq!(call(&model, 0.0, SOON).await, Ok(0.0));
    assert_eq!(model.stats().lost, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_can_be_ended_is_and_keeps_its_instance() {
    let backend = Scripted::new(|_, inputs| match as_fp32(&inputs[0])[0] {
        0.0 => Step::Echo,
        _ => Step::UntilInterrupted,
    });
    let model = load(&backend, vec![], 1);
    let late = call(&model, 1.0, SOON).await;
    assert_eq!(late, Err(Some(EngineRefusal::Deadline)));
    assert_eq!(call(&model, 0.0, GRACE / 2).await, Ok(0.0));
    tokio::time::sleep(2 * GRACE).await;
    assert_eq!((model.stats().lost, model.stats().overdue), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_a_run_keeps_its_instance_and_calls_are_refused_until_one_ends() {
    let model = load(&deaf(), vec![], 1);
    for lost in 0..MAX_LOST_OF_MODEL {
        let late = call(&model, 9000.0, SOON).await;
        assert_eq!(late, Err(Some(EngineRefusal::Deadline)));
        until("its instance is free", || {
            model.stats().lost == 1 + lost as u64
        })
        .await;
    }
    let late = call(&model, 9000.0, SOON).await;
    assert_eq!(late, Err(Some(EngineRefusal::Deadline)));
    until("it is overdue", || {
        model.stats().overdue == MAX_LOST_OF_MODEL + 1
    })
    .await;
    let error = model
        .infer(input(0.0))
        .await
        .expect_err("no instance is left");
    assert_eq!(error.refusal, Some(EngineRefusal::NotReady));
    assert!(error.retry_after.is_some());
    assert!(error.message.contains("all 1 instances"), "{error}");
    // The first of them ends, and its place is the third's.
    until("an instance is back", || {
        model.stats().lost == 1 + MAX_LOST_OF_MODEL as u64
    })
    .await;
    assert_eq!(call(&model, 0.0, 3 * GRACE).await, Ok(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_without_a_deadline_does_not_leave_its_run_for_ever() {
    let model = load(&deaf(), vec![], 1);
    let leaving = tokio::spawn({
        let model = model.clone();
        async move { model.infer(input(4000.0)).await }
    });
    until("it runs", || model.stats().in_flight == 1).await;
    leaving.abort();
    assert_eq!(call(&model, 0.0, 3 * GRACE).await, Ok(0.0));
    assert_eq!(model.stats().lost, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_no_longer_than_the_grace_for_a_shadow_run_that_cannot_be_ended() {
    let model = load(&deaf(), vec![], 1);
    model
        .shadow(input(6000.0), input(0.0), ())
        .expect("it is dropped or begins");
    assert_eq!(call(&model, 0.0, 3 * GRACE).await, Ok(0.0));
    assert_eq!(model.stats().shadow.shed, 1);
}

#[tokio::test]
async fn a_model_whose_cost_follows_from_values_never_runs_on_a_server_thread() {
    let here = std::thread::current().id();
    let on_server_thread = Arc::new(AtomicUsize::new(0));
    let backend = Scripted::new({
        let count = on_server_thread.clone();
        move |_, _| {
            let is_here = std::thread::current().id() == here;
            count.fetch_add(usize::from(is_here), Ordering::SeqCst);
            Step::Echo
        }
    });
    let of_values = load(
        &backend.clone().costing(Cost::Values("Loop".into())),
        vec![],
        1,
    );
    let of_shapes = load(&backend, vec![], 1);
    for _ in 0..50 {
        of_values.infer(input(0.0)).await.expect("runs");
    }
    assert_eq!(on_server_thread.load(Ordering::SeqCst), 0);
    for _ in 0..50 {
        of_shapes.infer(input(0.0)).await.expect("runs");
    }
    let quick = on_server_thread.load(Ordering::SeqCst);
    assert!(quick >= 40, "{quick} of 50 plain calls stayed on the task");
}

#[tokio::test]
async fn after_a_long_run_a_model_is_off_the_server_threads() {
    let here = std::thread::current().id();
    let on_server_thread = Arc::new(AtomicUsize::new(0));
    let backend = Scripted::new({
        let count = on_server_thread.clone();
        move |call, _| {
            let is_here = std::thread::current().id() == here;
            count.fetch_add(usize::from(is_here), Ordering::SeqCst);
            match call {
                20 => Step::Delay(Duration::from_millis(5), Box::new(Step::Echo)),
                _ => Step::Echo,
            }
        }
    });
    let model = load(&backend, vec![], 1);
    for _ in 0..21 {
        model.infer(input(0.0)).await.expect("runs");
    }
    on_server_thread.store(0, Ordering::SeqCst);
    for _ in 0..10 {
        model.infer(input(0.0)).await.expect("runs");
    }
    assert_eq!(on_server_thread.load(Ordering::SeqCst), 0);
}

fn rounds(times: i64) -> Vec<(String, NnTensor)> {
    let times = NnTensor::new(TensorType::I64, vec![1], times.to_le_bytes().to_vec()).expect("one");
    vec![("times".into(), times), ("x".into(), fp32(&[1], &[0.5]))]
}

/// Two server threads, as on the smallest machine: a run on them would stop everything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_over_a_value_delays_no_other_call_and_ends_at_its_deadline() {
    let model = load(&*onnxruntime(), graphs::counting_loop(), 2);
    assert!(
        matches!(model.cost(), Cost::Values(_)),
        "{:?}",
        model.cost()
    );
    model.warm_up(rounds(0)).expect("runs");
    for _ in 0..30 {
        let outputs = model.infer(rounds(3)).await.expect("runs");
        assert_eq!(as_fp32(&outputs[0].1), [3.5]);
    }
    let wait = Duration::from_millis(700);
    let began = Instant::now();
    let heavy: Vec<_> = (0..2)
        .map(|_| {
            let model = model.clone();
            let deadline = Some(began + wait);
            tokio::spawn(async move { model.infer_by(rounds(2_000_000_000), deadline).await })
        })
        .collect();
    until("both run", || model.stats().in_flight == 2).await;
    // As a health check: a task of its own.
    for _ in 0..10 {
        let asked = Instant::now();
        tokio::spawn(async {}).await.expect("it runs");
        assert!(asked.elapsed() < wait / 4, "{:?}", asked.elapsed());
    }
    for call in heavy {
        let error = call.await.expect("no panic").expect_err("it takes an hour");
        assert_eq!(error.refusal, Some(EngineRefusal::Deadline));
    }
    assert!(began.elapsed() < wait + GRACE / 2, "{:?}", began.elapsed());
    // ONNX Runtime ends a loop between two rounds: no instance is lost.
    assert_eq!(model.infer(rounds(3)).await.map(|_| ()), Ok(()));
    assert_eq!(model.stats().lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_tract_cannot_end_is_given_up() {
    // Rows of the scan, and rows of the matrix: some seconds in one operator each.
    let scan = |rows: usize| vec![("x".into(), fp32(&[rows as u32, 1], &vec![0.0; rows]))];
    let model = load(&Tract, graphs::slow_scan(0), 1);
    assert!(
        matches!(model.cost(), Cost::Values(_)),
        "{:?}",
        model.cost()
    );
    model.infer(scan(1)).await.expect("runs");
    let step = model.service_time();
    let rows = (Duration::from_secs(5).as_nanos() / step.as_nanos().max(1)) as usize + 1;
    let began = Instant::now();
    let error = model
        .infer_by(scan(rows), Some(began + SOON))
        .await
        .expect_err("it takes seconds");
    assert_eq!(error.refusal, Some(EngineRefusal::Deadline));
    assert!(began.elapsed() < 5 * SOON, "{:?}", began.elapsed());
    model
        .infer(scan(1))
        .await
        .expect("on an instance made anew");
    assert_eq!(model.stats().lost, 1);
    assert!(at_work() > 0, "the lost run goes on");
    until("it ends", || model.stats().overdue == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tract_is_ended_between_two_operators() {
    use support::{D, Node, onnx_bytes, onnx_type, p};
    // A hundred products in a row, some milliseconds each.
    let names: Vec<&'static str> = (0..=100)
        .map(|index| &*format!("m{index}").leak())
        .collect();
    let nodes: Vec<Node> = (names.windows(2))
        .map(|pair| Node("MatMul", vec![pair[0], "x"], vec![pair[1]]))
        .collect();
    let mut all = vec![Node("Identity", vec!["x"], vec![names[0]])];
    all.extend(nodes);
    let square = |name| p(name, onnx_type::FLOAT, &[D::N(700), D::N(700)]);
    let graph = onnx_bytes(&all, &[square("x")], &[square(names[100])]);
    let model = load(&Tract, graph.to_vec(), 1);
    assert_eq!(model.cost(), Cost::Shapes);
    let inputs = || vec![("x".into(), fp32(&[700, 700], &vec![0.0; 490_000]))];
    let began = Instant::now();
    let deadline = Some(began + SOON);
    let error = model
        .infer_by(inputs(), deadline)
        .await
        .expect_err("too slow");
    assert_eq!(
        (error.refusal, error.code),
        (Some(EngineRefusal::Deadline), ErrorCode::Timeout)
    );
    until("it ended", || at_work() == 0 || model.stats().running == 0).await;
    assert!(began.elapsed() < SOON + GRACE, "{:?}", began.elapsed());
    assert_eq!(model.stats().lost, 0);
}

#[test]
fn plain_small_models_may_run_on_server_threads() {
    let models = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models");
    for name in ["identity", "digits"] {
        let graph = GraphSource::File(models.join(name).join("1/model.onnx"));
        let options = LoadOptions::default();
        for (backend, cost) in [
            (onnxruntime(), Cost::Shapes),
            (Arc::new(Tract) as Arc<dyn Backend>, Cost::EachShape),
        ] {
            let model = Model::load(name, "1", &*backend, &graph, &options).expect("it loads");
            assert_eq!(model.cost(), cost, "{name} on {}", backend.name());
        }
    }
}
