//! Calls that share runs: the calls that go together, the outputs that each gets back, and the cost of one bad or
//! impatient call for the others.

use crate::support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::batching::{DynamicBatching, Padding};
use penstock_nn::{
    CallOptions, Dim, EngineRefusal, ErrorCode, LoadOptions, Model, NnError, NnTensor, Port,
    PortType, SharedRuns, TensorType,
};
use support::{Gate, as_fp32, fp32, load_script, until};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

fn batching() -> DynamicBatching {
    DynamicBatching {
        max_queue_delay: Duration::ZERO,
        ..DynamicBatching::default()
    }
}

fn model(backend: &Scripted, batching: DynamicBatching) -> Model {
    let options = LoadOptions {
        instances: Some(1),
        queue_max: 64,
        batching: Ok(batching),
        ..LoadOptions::default()
    };
    load_script(backend, &options)
}

fn input(values: &[f32]) -> Vec<(String, NnTensor)> {
    vec![("x".into(), fp32(&[values.len() as u32], values))]
}

type Called = JoinHandle<Result<Vec<(String, NnTensor)>, NnError>>;

fn call(model: &Model, values: &[f32], terms: CallOptions) -> Called {
    let (model, input) = (model.clone(), input(values));
    tokio::spawn(async move { model.infer_with(input, terms).await })
}

/// A backend that remembers how many items each run had, and whose first run waits at a gate.
fn gated(
    script: impl Fn(&[NnTensor]) -> Step + Send + Sync + 'static,
) -> (Scripted, Gate, Arc<Mutex<Vec<u32>>>) {
    let (gate, sizes) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
    let backend = Scripted::new({
        let (gate, sizes) = (gate.clone(), sizes.clone());
        move |run, inputs| {
            sizes.lock().unwrap().push(inputs[0].dims[0]);
            if run == 0 {
                gate.pass();
            }
            script(inputs)
        }
    });
    (backend, gate, sizes)
}

/// One call runs, and these wait behind it in this order.
async fn behind_one(model: &Model, calls: &[&[f32]]) -> (Called, Vec<Called>) {
    let first = call(model, &[0.0], CallOptions::default());
    until("the first call runs", || model.stats().in_flight == 1).await;
    let mut waiting = Vec::new();
    for (index, values) in calls.iter().enumerate() {
        waiting.push(call(model, values, CallOptions::default()));
        until("the next call waits", || model.stats().waiting == index + 1).await;
    }
    (first, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_share_the_next_run_and_each_gets_its_own_part() {
    let (backend, gate, sizes) = gated(|_| Step::Echo);
    let model = model(&backend, batching());
    let (first, waiting) = behind_one(&model, &[&[1.0], &[2.0, 3.0], &[4.0]]).await;
    gate.open();
    first.await.unwrap().expect("answered");
    for (call, expected) in waiting
        .into_iter()
        .zip([vec![1.0], vec![2.0, 3.0], vec![4.0]])
    {
        let outputs = call.await.unwrap().expect("answered");
        assert_eq!(as_fp32(&outputs[0].1), expected);
        assert_eq!(outputs[0].1.dims, [expected.len() as u32]);
    }
    assert_eq!(*sizes.lock().unwrap(), [1, 4]);
    let stats = model.stats();
    assert_eq!(
        (stats.execution_count, stats.inference_count, stats.success),
        (2, 5, 4)
    );
    assert_eq!((stats.batches[&1].count, stats.batches[&4].count), (1, 1));
    assert_eq!(
        (stats.queue.count, stats.compute.count, stats.total.count),
        (4, 4, 4)
    );
    assert!(stats.compute_input_ns > 0 && stats.total.sum_ns >= stats.compute.sum_ns);
    assert!(stats.last_inference.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_no_more_items_than_it_may_and_the_rest_follow() {
    let (backend, gate, sizes) = gated(|_| Step::Echo);
    let batching = DynamicBatching {
        max_items: 3,
        ..batching()
    };
    let model = model(&backend, batching);
    let calls: [&[f32]; 5] = [&[1.0], &[2.0], &[3.0; 4], &[4.0], &[5.0]];
    let (first, waiting) = behind_one(&model, &calls).await;
    gate.open();
    first.await.unwrap().expect("answered");
    for (call, expected) in waiting.into_iter().zip(calls) {
        assert_eq!(
            as_fp32(&call.await.unwrap().expect("answered")[0].1),
            expected
        );
    }
    assert_eq!(
        *sizes.lock().unwrap(),
        [1, 2, 4, 2],
        "the large call runs by itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_call_fails_alone_and_the_others_of_its_run_are_answered() {
    for panics in [false, true] {
        let (backend, gate, sizes) = gated(move |inputs| {
            if !as_fp32(&inputs[0]).contains(&666.0) {
                Step::Echo
            } else if panics {
                Step::Panic("cannot bear it")
            } else {
                Step::Fail(NnError::runtime("cannot bear it"))
            }
        });
        let model = model(&backend, batching());
        let calls: [&[f32]; 4] = [&[1.0], &[2.0], &[666.0], &[4.0]];
        let (first, waiting) = behind_one(&model, &calls).await;
        gate.open();
        first.await.unwrap().expect("answered");
        for (call, sent) in waiting.into_iter().zip(calls) {
            match call.await.unwrap() {
                Ok(outputs) => assert_eq!(as_fp32(&outputs[0].1), sent),
                Err(error) => {
                    assert_eq!(
                        (sent, error.code),
                        (&[666.0f32][..], ErrorCode::RuntimeError)
                    );
                    assert!(error.message.contains("cannot bear it"), "{error}");
                }
            }
        }
        assert_eq!(*sizes.lock().unwrap(), [1, 4, 2, 2, 1, 1]);
        let stats = model.stats();
        assert_eq!(
            (stats.success, stats.failures, stats.failed_executions),
            (4, 1, 3)
        );
        assert_eq!((stats.in_flight, stats.running, stats.waiting), (0, 0, 0));
        assert!(matches!(model.shared_runs(), SharedRuns::Yes(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_outputs_are_not_one_part_an_item_stops_joining_and_still_answers() {
    let (backend, gate, sizes) = gated(|_| Step::Answer(vec![fp32(&[1], &[7.0])]));
    let model = model(&backend, batching());
    let (first, waiting) = behind_one(&model, &[&[1.0], &[2.0]]).await;
    gate.open();
    first.await.unwrap().expect("answered");
    for call in waiting {
        assert_eq!(as_fp32(&call.await.unwrap().expect("answered")[0].1), [7.0]);
    }
    assert_eq!(*sizes.lock().unwrap(), [1, 2, 1, 1]);
    let SharedRuns::No(reason) = model.shared_runs() else {
        panic!("it joins calls it cannot split");
    };
    assert!(
        reason.contains("a run of 2 items gave an output of shape [1]"),
        "{reason}"
    );
    assert_eq!(model.stats().most_items, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_or_runs_out_of_time_leaves_the_others_of_its_run_alone() {
    let (backend, gate, sizes) = gated(|inputs| {
        let wait = if inputs[0].dims[0] > 1 { 100 } else { 0 };
        Step::Delay(Duration::from_millis(wait), Box::new(Step::Echo))
    });
    let model = model(&backend, batching());
    let (first, mut waiting) = behind_one(&model, &[&[1.0], &[2.0], &[3.0]]).await;
    let begun = Arc::new(AtomicBool::new(false));
    let impatient = call(
        &model,
        &[4.0],
        CallOptions {
            begun: Some(begun.clone()),
            ..CallOptions::default()
        },
    );
    until("four wait", || model.stats().waiting == 4).await;
    waiting.remove(0).abort();
    until("three wait", || model.stats().waiting == 3).await;
    assert_eq!(model.stats().refusals.cancelled, 1);
    assert!(!begun.load(Ordering::SeqCst));
    gate.open();
    until("the others run together", || model.stats().in_flight == 3).await;
    assert!(begun.load(Ordering::SeqCst));
    impatient.abort();
    first.await.unwrap().expect("answered");
    for (call, expected) in waiting.into_iter().zip([2.0, 3.0]) {
        assert_eq!(
            as_fp32(&call.await.unwrap().expect("answered")[0].1),
            [expected]
        );
    }
    assert_eq!(*sizes.lock().unwrap(), [1, 3]);
    until("all is over", || model.stats().running == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_run_is_ended_early_and_its_instance_is_good_again() {
    let backend = Scripted::new(|_, inputs| match as_fp32(&inputs[0])[..] {
        [0.0] => Step::Echo,
        _ => Step::UntilInterrupted,
    });
    let model = model(&backend, batching());
    // One whose caller goes, and one whose time runs out.
    let gone = call(&model, &[1.0], CallOptions::default());
    until("it runs", || model.stats().in_flight == 1).await;
    gone.abort();
    until("its run ends", || model.stats().running == 0).await;
    let terms = CallOptions {
        deadline: Some(Instant::now() + Duration::from_millis(30)),
        ..CallOptions::default()
    };
    let error = call(&model, &[1.0], terms)
        .await
        .unwrap()
        .expect_err("too slow");
    assert_eq!(error.refusal, Some(EngineRefusal::Deadline));
    assert!(error.retry_after.is_some_and(|wait| wait > Duration::ZERO));
    until("its run ends", || model.stats().running == 0).await;
    model
        .infer(input(&[0.0]))
        .await
        .expect("the instance is good");
    assert_eq!(model.stats().refusals.deadline, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_not_ended_while_one_of_its_callers_waits() {
    let (backend, gate, _) = gated(|inputs| {
        if inputs[0].dims[0] == 2 {
            Step::Delay(Duration::from_millis(60), Box::new(Step::Echo))
        } else {
            Step::Echo
        }
    });
    let model = model(&backend, batching());
    let (first, mut waiting) = behind_one(&model, &[&[1.0], &[2.0]]).await;
    gate.open();
    first.await.unwrap().expect("answered");
    until("both run", || model.stats().in_flight == 2).await;
    waiting.remove(0).abort();
    let stays = waiting.remove(0).await.unwrap().expect("answered");
    assert_eq!(as_fp32(&stays[0].1), [2.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_queue_would_make_late_is_shed_at_once_with_a_time_to_retry() {
    let gate = Gate::default();
    let backend = Scripted::new({
        let gate = gate.clone();
        move |run, _| {
            if run < 2 {
                return Step::Delay(Duration::from_millis(50), Box::new(Step::Echo));
            }
            gate.pass();
            Step::Echo
        }
    });
    let options = LoadOptions {
        instances: Some(1),
        queue_max: 64,
        ..LoadOptions::default()
    };
    let model = load_script(&backend, &options);
    for _ in 0..2 {
        model.infer(input(&[0.0])).await.expect("answered");
    }
    let (first, waiting) = behind_one(&model, &[&[1.0], &[2.0], &[3.0]]).await;
    let terms = |ms| CallOptions {
        deadline: Some(Instant::now() + Duration::from_millis(ms)),
        ..CallOptions::default()
    };
    let asked = Instant::now();
    let error = call(&model, &[4.0], terms(100))
        .await
        .unwrap()
        .expect_err("no time");
    assert_eq!(error.refusal, Some(EngineRefusal::Shed));
    assert!(
        asked.elapsed() < Duration::from_millis(90),
        "it was not let wait"
    );
    let retry = error.retry_after.expect("it is told");
    assert!(
        retry > Duration::from_millis(100) && retry < Duration::from_secs(1),
        "{retry:?}"
    );
    let patient = call(&model, &[5.0], terms(10_000));
    until("the patient one waits", || model.stats().waiting == 4).await;
    gate.open();
    for call in [first, patient].into_iter().chain(waiting) {
        call.await.unwrap().expect("answered");
    }
    assert_eq!(backend.calls(), 7, "what was shed did not run");
    assert_eq!(model.stats().refusals.shed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_gives_the_last_place_to_a_call_of_higher_priority() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (backend, gate, _) = gated({
        let order = order.clone();
        move |inputs| {
            order.lock().unwrap().extend(as_fp32(&inputs[0]));
            Step::Echo
        }
    });
    let options = LoadOptions {
        instances: Some(1),
        queue_max: 3,
        priority_levels: 3,
        default_priority: Some(2),
        ..LoadOptions::default()
    };
    let model = load_script(&backend, &options);
    let of = |priority: Option<u8>| CallOptions {
        priority,
        ..CallOptions::default()
    };
    let first = call(&model, &[0.0], of(None));
    until("the first call runs", || model.stats().in_flight == 1).await;
    let mut calls = Vec::new();
    for (value, priority) in [(1.0, Some(9)), (2.0, None), (3.0, Some(3))] {
        calls.push(call(&model, &[value], of(priority)));
        until("it waits", || model.stats().waiting == calls.len()).await;
    }
    let error = call(&model, &[4.0], of(Some(3)))
        .await
        .unwrap()
        .expect_err("full");
    assert_eq!(error.refusal, Some(EngineRefusal::QueueFull));
    let urgent = call(&model, &[5.0], of(Some(1)));
    let error = calls
        .pop()
        .unwrap()
        .await
        .unwrap()
        .expect_err("the newest of the last");
    assert_eq!(error.refusal, Some(EngineRefusal::QueueFull));
    assert!(error.message.contains("higher priority"), "{error}");
    gate.open();
    for call in [first, urgent].into_iter().chain(calls) {
        call.await.unwrap().expect("answered");
    }
    assert_eq!(*order.lock().unwrap(), [0.0, 5.0, 2.0, 1.0]);
    let refusals = model.stats().refusals;
    assert_eq!((refusals.queue_full, refusals.displaced), (1, 1));
}

/// Tokens `[N, S, 2]` in, one vector a token and one number an item out.
fn sequences(script: impl Fn(usize, &[NnTensor]) -> Step + Send + Sync + 'static) -> Scripted {
    let port = |name: &str, dims: &[Option<u32>]| Port {
        name: name.into(),
        ty: PortType::Tensor(TensorType::Fp32),
        dims: Some(
            (dims.iter())
                .map(|dim| dim.map_or(Dim::Symbolic(String::new()), Dim::Fixed))
                .collect(),
        ),
    };
    Scripted::new(script).with_ports(
        vec![port("x", &[None, None, Some(2)])],
        vec![port("y", &[None, None, Some(2)])],
    )
}

fn padding() -> DynamicBatching {
    DynamicBatching {
        padding: Some(Padding {
            inputs: [("x".to_owned(), (1, (-1.0f32).to_le_bytes().to_vec()))].into(),
            outputs: [("y".to_owned(), 1)].into(),
            max_tokens: 12,
        }),
        ..batching()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_of_different_lengths_share_a_run_and_get_their_own_lengths_back() {
    let (gate, shapes) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
    let backend = sequences({
        let (gate, shapes) = (gate.clone(), shapes.clone());
        move |run, inputs| {
            shapes.lock().unwrap().push(inputs[0].dims.clone());
            if run == 0 {
                gate.pass();
            } else if inputs[0].dims[0] == 4 {
                let filled = as_fp32(&inputs[0]).iter().filter(|x| **x == -1.0).count();
                assert_eq!(filled, 4, "two tokens are missing from the shorter one");
            }
            Step::Echo
        }
    });
    let model = model(&backend, padding());
    let sent = [
        fp32(&[1, 1, 2], &[0.0; 2]),
        fp32(&[1, 3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        fp32(&[2, 3, 2], &[7.0; 12]),
        fp32(&[1, 1, 2], &[8.0, 9.0]),
        // With this one the run would have more tokens than it may.
        fp32(&[2, 3, 2], &[6.0; 12]),
    ];
    let mut calls = Vec::new();
    for (index, tensor) in sent.iter().enumerate() {
        let (model_, tensor) = (model.clone(), tensor.clone());
        calls.push(tokio::spawn(async move {
            model_.infer(vec![("x".into(), tensor)]).await
        }));
        until("it runs or waits", || {
            let stats = model.stats();
            stats.in_flight + stats.waiting == index + 1
        })
        .await;
    }
    gate.open();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert_eq!(
        *shapes.lock().unwrap(),
        [vec![1, 1, 2], vec![4, 3, 2], vec![2, 3, 2]]
    );
    for (answer, sent) in answers.iter().zip(&sent) {
        assert_eq!(&answer.as_ref().expect("answered")[0].1, sent);
    }
}

#[test]
fn a_model_that_mixes_its_items_is_found_out_and_its_calls_run_alone() {
    let mixing = Scripted::new(|_, inputs| {
        let values = as_fp32(&inputs[0]);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        Step::Answer(vec![fp32(
            &[values.len() as u32],
            &vec![mean; values.len()],
        )])
    });
    let mixed = model(&mixing, batching());
    let shared_runs = mixed
        .try_batching(input(&[1.0]), input(&[2.0]))
        .expect("each runs alone");
    let SharedRuns::No(reason) = shared_runs else {
        panic!("{shared_runs:?}");
    };
    assert!(
        reason.contains("depend on what else is in the run"),
        "{reason}"
    );
    assert_eq!(
        (mixed.shared_runs(), mixed.stats().most_items),
        (SharedRuns::No(reason), 1)
    );

    let slightly = Scripted::new(|_, inputs| {
        let values = as_fp32(&inputs[0]);
        let shift = 1e-6 * values.len() as f32;
        let moved: Vec<f32> = values.iter().map(|value| value + shift).collect();
        Step::Answer(vec![fp32(&[values.len() as u32], &moved)])
    });
    // Slightly is too much, unless the contract asks for shared runs.
    let exact = model(&slightly, batching());
    let shared_runs = exact.try_batching(input(&[1.0]), input(&[2.0]));
    let Ok(SharedRuns::No(reason)) = shared_runs else {
        panic!("{shared_runs:?}");
    };
    assert!(
        reason.contains("with [batching] enabled = true"),
        "{reason}"
    );
    let asked = DynamicBatching {
        exact: false,
        ..batching()
    };
    let model_ = model(&slightly, asked);
    let SharedRuns::Yes(Some(difference)) = model_
        .try_batching(input(&[1.0]), input(&[2.0]))
        .expect("each runs alone")
    else {
        panic!("{:?}", model_.shared_runs());
    };
    assert!((1e-7..1e-5).contains(&difference), "{difference}");

    let alone_only = Scripted::new(|_, inputs| {
        if inputs[0].dims[0] > 1 {
            Step::Fail(NnError::runtime("one at a time"))
        } else {
            Step::Echo
        }
    });
    let model_ = model(&alone_only, batching());
    let shared_runs = model_
        .try_batching(input(&[1.0]), input(&[2.0]))
        .expect("each runs alone");
    assert!(matches!(shared_runs, SharedRuns::No(reason) if reason.contains("one at a time")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_callers_that_go_and_fail_and_run_late_leaves_nothing_behind() {
    let backend = Scripted::new(|run, inputs| {
        let values = as_fp32(&inputs[0]);
        if run % 97 == 13 {
            return Step::Panic("now and then");
        }
        if values.contains(&666.0) {
            return Step::Fail(NnError::runtime("a bad call"));
        }
        let us = if run % 3 == 0 { 1500 } else { 20 };
        Step::Delay(Duration::from_micros(us), Box::new(Step::Echo))
    });
    let options = LoadOptions {
        instances: Some(2),
        queue_max: 16,
        priority_levels: 2,
        batching: Ok(DynamicBatching {
            max_items: 8,
            max_queue_delay: Duration::from_millis(2),
            ..DynamicBatching::default()
        }),
        ..LoadOptions::default()
    };
    let model = load_script(&backend, &options);
    let mut callers = JoinSet::new();
    for caller in 0..32u64 {
        let model = model.clone();
        callers.spawn(async move {
            for round in 0..150u64 {
                let mark = caller * 1000 + round;
                let value = if mark % 41 == 7 { 666.0 } else { mark as f32 };
                let terms = CallOptions {
                    deadline: (mark % 5 == 0).then(|| Instant::now() + Duration::from_millis(4)),
                    priority: Some(1 + (mark % 2) as u8),
                    begun: None,
                    is_combined: false,
                };
                let asked = model.infer_with(input(&[value, value]), terms);
                if mark % 7 == 3 {
                    let patience = Duration::from_micros(mark % 2000);
                    let _ = tokio::time::timeout(patience, asked).await;
                } else if let Ok(outputs) = asked.await {
                    assert_eq!(
                        as_fp32(&outputs[0].1),
                        [value, value],
                        "somebody else's answer"
                    );
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.expect("no caller saw a wrong answer");
    }
    until("all runs end", || model.stats().running == 0).await;
    let stats = model.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0), "{stats:?}");
    assert!(stats.batches.keys().any(|items| *items > 2), "{stats:?}");
    for _ in 0..50 {
        let mut together = JoinSet::new();
        for _ in 0..2 {
            let model = model.clone();
            together.spawn(async move { model.infer(input(&[1.0])).await.is_ok() });
        }
        while let Some(answered) = together.join_next().await {
            answered.expect("both instances are there");
        }
    }
}
