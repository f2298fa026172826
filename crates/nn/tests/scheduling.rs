//! The order of runs: instances, their queue, deadlines, cancellation, and the cost of a broken backend.

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::{EngineRefusal, ErrorCode, LoadOptions, Model, NnError, NnTensor};
use support::{Gate, PATIENCE, as_fp32, fp32, load_script, until};
use tokio::task::JoinSet;
use tokio::time::Instant;

fn model(backend: &Scripted, instances: usize, queue_max: usize) -> Model {
    let options = LoadOptions {
        instances: Some(instances),
        queue_max,
        ..LoadOptions::default()
    };
    load_script(backend, &options)
}

fn input(value: f32) -> Vec<(String, NnTensor)> {
    vec![("x".into(), fp32(&[1], &[value]))]
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_share_the_instances_and_each_gets_its_own_answer() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let backend = Scripted::new({
        let (running, most) = (running.clone(), most.clone());
        move |_, _| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            running.fetch_sub(1, Ordering::SeqCst);
            Step::Echo
        }
    });
    let model = model(&backend, 3, 64);
    let mut calls = JoinSet::new();
    for caller in 0..64 {
        let model = model.clone();
        calls.spawn(async move {
            for round in 0..5 {
                let value = (caller * 100 + round) as f32;
                let outputs = model.infer(input(value)).await.expect("the line has room");
                assert_eq!(
                    (outputs[0].0.as_str(), as_fp32(&outputs[0].1)),
                    ("y", vec![value])
                );
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("no caller failed");
    }
    assert_eq!(
        most.load(Ordering::SeqCst),
        3,
        "all instances were used and no more"
    );
    let stats = model.stats();
    assert_eq!(
        (
            stats.execution_count,
            stats.failures,
            stats.refusals.refused()
        ),
        (320, 0, 0)
    );
    assert_eq!((stats.in_flight, stats.waiting), (0, 0));
    assert!(
        stats.compute.sum_ns >= 320 * 1_000_000 && stats.queue.sum_ns > 0,
        "{stats:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_and_the_next_caller_is_refused_at_once() {
    let gate = Gate::default();
    let backend = Scripted::new({
        let gate = gate.clone();
        move |_, _| {
            gate.pass();
            Step::Echo
        }
    });
    let model = model(&backend, 1, 2);
    let call = || {
        tokio::spawn({
            let model = model.clone();
            async move { model.infer(input(1.0)).await }
        })
    };
    let running = call();
    until("the first call runs", || model.stats().in_flight == 1).await;
    let waiting = [call(), call()];
    until("two calls wait", || model.stats().waiting == 2).await;
    let error = model.infer(input(1.0)).await.expect_err("the line is full");
    assert_eq!(
        (error.refusal, error.code),
        (Some(EngineRefusal::QueueFull), ErrorCode::RuntimeError)
    );
    assert!(
        error
            .message
            .contains("2 calls already wait for model \"m\""),
        "{error}"
    );
    gate.open();
    for call in [running].into_iter().chain(waiting) {
        call.await.unwrap().expect("those in line are served");
    }
    assert_eq!(
        (
            model.stats().refusals.refused(),
            model.stats().execution_count
        ),
        (1, 3)
    );
    model.infer(input(1.0)).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_while_it_waits_gives_its_place_up() {
    let gate = Gate::default();
    let backend = Scripted::new({
        let gate = gate.clone();
        move |_, _| {
            gate.pass();
            Step::Echo
        }
    });
    let model = model(&backend, 1, 1);
    let call = || {
        tokio::spawn({
            let model = model.clone();
            async move { model.infer(input(1.0)).await }
        })
    };
    let running = call();
    until("the first call runs", || model.stats().in_flight == 1).await;
    for _ in 0..3 {
        let waiting = call();
        until("the second waits", || model.stats().waiting == 1).await;
        waiting.abort();
        until("its place is free", || model.stats().waiting == 0).await;
    }
    let last = call();
    until("another has the place", || model.stats().waiting == 1).await;
    gate.open();
    running.await.unwrap().expect("served");
    last.await.unwrap().expect("served");
    assert_eq!(backend.calls(), 2, "those that went were not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_while_its_call_runs_gives_the_instance_back_when_the_run_ends() {
    let gate = Gate::default();
    let backend = Scripted::new({
        let gate = gate.clone();
        move |call, _| {
            if call == 0 {
                gate.pass();
            }
            Step::Echo
        }
    });
    let model = model(&backend, 1, 4);
    let gone = tokio::spawn({
        let model = model.clone();
        async move { model.infer(input(1.0)).await }
    });
    until("the call runs", || model.stats().in_flight == 1).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let next = tokio::spawn({
        let model = model.clone();
        async move { model.infer(input(2.0)).await }
    });
    until("the next waits for the instance", || {
        model.stats().waiting == 1
    })
    .await;
    assert_eq!(
        model.stats().in_flight,
        1,
        "the abandoned run holds its instance"
    );
    gate.open();
    assert_eq!(as_fp32(&next.await.unwrap().expect("served")[0].1), [2.0]);
    assert_eq!(model.stats().execution_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_waiting_and_running_alike() {
    let gate = Gate::default();
    let backend = Scripted::new({
        let gate = gate.clone();
        move |_, _| {
            gate.pass();
            Step::Echo
        }
    });
    let model = model(&backend, 1, 4);
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    for when in ["while the model ran", "while the call waited"] {
        let error = model
            .infer_by(input(1.0), soon())
            .await
            .expect_err("too slow");
        assert_eq!(
            (error.refusal, error.code),
            (Some(EngineRefusal::Deadline), ErrorCode::Timeout)
        );
        assert!(error.message.contains(when), "{error}");
    }
    let past = Some(Instant::now() - Duration::from_millis(1));
    let error = model
        .infer_by(input(1.0), past)
        .await
        .expect_err("it is late already");
    assert!(error.message.contains("before the call began"), "{error}");
    assert_eq!(
        (model.stats().refusals.refused(), model.stats().waiting),
        (3, 0)
    );
    gate.open();
    let later = Some(Instant::now() + PATIENCE);
    model
        .infer_by(input(1.0), later)
        .await
        .expect("the instance came back");
    assert_eq!(
        backend.calls(),
        2,
        "what ran out of time in line was not run"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_backend_costs_one_call_wherever_it_runs() {
    let backend = Scripted::new(|call, _| {
        if call % 3 == 2 {
            Step::Panic("a bug at /srv/x.rs:1")
        } else {
            Step::Echo
        }
    });
    // The second round is quick enough to run on the task itself.
    for warm in [false, true] {
        let model = model(&backend, 2, 16);
        if warm {
            model
                .warm_up(input(0.0))
                .expect("calls 0 and 1 of a round do not panic");
        }
        let (mut good, mut bad) = (0, 0);
        for _ in 0..30 {
            match model.infer(input(7.0)).await {
                Ok(outputs) => {
                    assert_eq!(as_fp32(&outputs[0].1), [7.0]);
                    good += 1;
                }
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::RuntimeError);
                    assert!(
                        error.message.contains("a bug") && !error.message.contains("/srv"),
                        "{error}"
                    );
                    bad += 1;
                }
            }
        }
        assert_eq!((good, bad), (20, 10));
        assert_eq!(
            (model.stats().failures, model.stats().execution_count),
            (10, 20)
        );
        while !backend.calls().is_multiple_of(3) {
            let _ = model.infer(input(0.0)).await;
        }
    }
}

#[tokio::test]
async fn a_backends_error_reaches_only_its_caller() {
    let refusal = NnError::new(ErrorCode::UnsupportedOperation, "not today");
    let backend = Scripted::new({
        let refusal = refusal.clone();
        move |call, _| {
            if call == 0 {
                Step::Fail(refusal.clone())
            } else {
                Step::Echo
            }
        }
    });
    let model = model(&backend, 1, 1);
    assert_eq!(model.infer(input(1.0)).await, Err(refusal));
    assert!(model.infer(input(1.0)).await.is_ok());
}

#[tokio::test]
async fn an_answer_with_another_number_of_outputs_is_an_error() {
    let backend = Scripted::new(|_, _| Step::Answer(vec![]));
    let error = model(&backend, 1, 1)
        .infer(input(1.0))
        .await
        .expect_err("one output is missing");
    assert!(
        error.message.contains("0 outputs and the graph has 1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_quick_model_runs_on_the_task_that_asks_and_a_slow_one_never_does() {
    let here = std::thread::current().id();
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let backend = Scripted::new({
        let elsewhere = elsewhere.clone();
        move |_, inputs| {
            elsewhere.fetch_add(
                usize::from(std::thread::current().id() != here),
                Ordering::SeqCst,
            );
            let value = as_fp32(&inputs[0])[0];
            if value > 0.0 {
                Step::Delay(Duration::from_millis(value as u64), Box::new(Step::Echo))
            } else {
                Step::Echo
            }
        }
    });
    let unknown = model(&backend, 1, 4);
    unknown.infer(input(0.0)).await.expect("runs");
    assert_eq!(
        elsewhere.swap(0, Ordering::SeqCst),
        1,
        "a model of unknown run time runs elsewhere"
    );

    let quick = model(&backend, 1, 4);
    quick.warm_up(input(0.0)).expect("runs");
    for _ in 0..50 {
        quick.infer(input(0.0)).await.expect("runs");
    }
    let hops = elsewhere.swap(0, Ordering::SeqCst);
    assert!(hops <= 10, "{hops} of 50 quick calls left the task");

    let slow = model(&backend, 1, 4);
    slow.warm_up(input(3.0)).expect("runs");
    elsewhere.store(0, Ordering::SeqCst);
    for _ in 0..5 {
        slow.infer(input(3.0)).await.expect("runs");
    }
    assert_eq!(elsewhere.load(Ordering::SeqCst), 5);
    assert!(slow.service_time() >= Duration::from_millis(3));
}

#[tokio::test]
async fn short_calls_in_a_loop_give_way_to_other_tasks() {
    let model = model(&Scripted::echo(), 1, 4);
    model.warm_up(input(0.0)).expect("runs");
    let turns = Arc::new(AtomicUsize::new(0));
    let other = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..2000 {
        model.infer(input(0.0)).await.expect("runs");
    }
    other.abort();
    assert!(turns.load(Ordering::SeqCst) >= 5, "{turns:?}");
}

#[test]
fn warming_up_runs_every_instance_once_and_counts_nothing() {
    let backend = Scripted::echo();
    let model = model(&backend, 4, 4);
    model.warm_up(input(0.0)).expect("runs");
    assert_eq!(backend.calls(), 4);
    let nothing = penstock_nn::Stats {
        most_items: 1,
        ..penstock_nn::Stats::default()
    };
    assert_eq!(model.stats(), nothing);
    assert!(model.service_time() > Duration::ZERO);
    let error = model.warm_up(vec![]).expect_err("the input is missing");
    assert_eq!(error.code, ErrorCode::InvalidArgument);
}
