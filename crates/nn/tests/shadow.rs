//! Shadow runs: they are compared and counted separately, and they delay no call.

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::shadow::{MAX_OF_MODEL, ShadowStats, ShadowTotals};
use penstock_nn::{ErrorCode, GraphSource, LoadOptions, Model, NnError, NnTensor, Stats};
use support::{Gate, as_fp32, fp32, until};
use tokio::task::JoinSet;

fn model(backend: &Scripted, instances: usize) -> Model {
    beside(backend, instances, &Arc::default())
}

/// One of the models that share the limits of shadow runs.
fn beside(backend: &Scripted, instances: usize, held: &Arc<ShadowTotals>) -> Model {
    let options = LoadOptions {
        instances: Some(instances),
        queue_max: 16,
        ..LoadOptions::default()
    };
    let graph = GraphSource::Bytes(Default::default());
    Model::load_beside("m", "1", backend, &graph, &options, held).expect("a script loads")
}

fn input(value: f32) -> Vec<(String, NnTensor)> {
    vec![("x".into(), fp32(&[1], &[value]))]
}

fn answered(value: f32) -> Vec<(String, NnTensor)> {
    vec![("y".into(), fp32(&[1], &[value]))]
}

/// Starts a shadow run that holds a clone of `held` until its end.
fn shadow(model: &Model, sent: f32, answered_with: f32, held: &Arc<()>) {
    (model.shadow(input(sent), answered(answered_with), held.clone())).expect("it is sound");
}

async fn over(model: &Model, held: &Arc<()>) -> ShadowStats {
    until("all shadow runs are over", || {
        model.stats().shadow.in_flight == 0 && Arc::strong_count(held) == 1
    })
    .await;
    model.stats().shadow
}

/// A call's first input, by which a script tells shadow runs from others: theirs are negative.
fn first(inputs: &[NnTensor]) -> f32 {
    as_fp32(&inputs[0])[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_run_is_compared_and_counted_apart() {
    let model = model(&Scripted::echo(), 1);
    let held = Arc::new(());
    shadow(&model, 1.0, 1.0, &held);
    over(&model, &held).await;
    shadow(&model, 1.0, 1.0001, &held);
    over(&model, &held).await;
    shadow(&model, 1.0, 1.5, &held);
    let counted = over(&model, &held).await;
    assert_eq!((counted.runs, counted.agreed, counted.differed), (3, 2, 1));
    assert_eq!((counted.failed, counted.shed), (0, 0));
    assert_eq!(counted.largest_difference, 0.5);
    assert_eq!(counted.compute.count, 3);
    let nothing = Stats {
        most_items: 1,
        shadow: counted,
        ..Stats::default()
    };
    assert_eq!(model.stats(), nothing, "nobody else's counts moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_run_that_fails_or_panics_costs_no_call_anything() {
    let backend = Scripted::new(|_, inputs| match first(inputs) {
        -1.0 => Step::Fail(NnError::runtime("as the test asked")),
        -2.0 => Step::Panic("as the test asked"),
        _ => Step::Echo,
    });
    let model = model(&backend, 1);
    let held = Arc::new(());
    for value in [-1.0, -2.0] {
        shadow(&model, value, value, &held);
        over(&model, &held).await;
    }
    let refused = model.shadow(Vec::new(), Vec::new(), ());
    assert_eq!(refused.unwrap_err().code, ErrorCode::InvalidArgument);
    let counted = model.stats().shadow;
    assert_eq!((counted.runs, counted.failed, counted.agreed), (2, 3, 0));
    let outputs = model.infer(input(4.0)).await.expect("the instance is back");
    assert_eq!(as_fp32(&outputs[0].1), [4.0]);
    let stats = model.stats();
    assert_eq!(
        (stats.success, stats.failures, stats.refusals.invalid),
        (1, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_to_wait_ends_the_shadow_run_before_it_and_drops_the_rest() {
    let backend = Scripted::new(|_, inputs| match first(inputs) {
        value if value < 0.0 => Step::UntilInterrupted,
        _ => Step::Echo,
    });
    let model = model(&backend, 1);
    let held = Arc::new(());
    for _ in 0..3 {
        shadow(&model, -1.0, -1.0, &held);
    }
    until("one runs", || backend.calls() == 1).await;
    assert_eq!(model.stats().shadow.in_flight, 3);
    let outputs = model.infer(input(2.0)).await.expect("it has the instance");
    assert_eq!(as_fp32(&outputs[0].1), [2.0]);
    let counted = over(&model, &held).await;
    assert_eq!((counted.shed, counted.runs, counted.failed), (3, 0, 0));
    assert_eq!(backend.calls(), 2, "those that had not begun never ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_shadow_run_begins_while_a_call_waits() {
    let gate = Gate::default();
    let backend = Scripted::new({
        let gate = gate.clone();
        move |_, _| {
            gate.pass();
            Step::Echo
        }
    });
    let model = model(&backend, 1);
    let call = || {
        let model = model.clone();
        tokio::spawn(async move { model.infer(input(1.0)).await })
    };
    let held = Arc::new(());
    let runs = call();
    until("one runs", || model.stats().in_flight == 1).await;
    // An instance is busy and no call waits: the shadow run waits for the instance.
    shadow(&model, -1.0, -1.0, &held);
    assert_eq!(model.stats().shadow.in_flight, 1);
    assert_eq!(model.stats().waiting, 0, "it takes no place in the line");
    let waits = call();
    until("one waits", || model.stats().waiting == 1).await;
    assert_eq!(model.stats().shadow.shed, 1, "who waits sheds it");
    shadow(&model, -1.0, -1.0, &held);
    assert_eq!(model.stats().shadow.shed, 2, "and the next is not taken");
    gate.open();
    runs.await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
    assert_eq!(over(&model, &held).await.runs, 0);
    assert_eq!(backend.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_shadow_run_begins_while_a_call_waits_for_another_model() {
    let gated = || {
        let gate = Gate::default();
        let passed = gate.clone();
        let backend = Scripted::new(move |_, _| {
            passed.pass();
            Step::Echo
        });
        (gate, backend)
    };
    let all = Arc::default();
    let (gate, backend) = gated();
    let serves = beside(&backend, 1, &all);
    let (other_gate, other_backend) = gated();
    let shadowed = beside(&other_backend, 1, &all);
    let call = |model: &Model| {
        let model = model.clone();
        tokio::spawn(async move { model.infer(input(1.0)).await })
    };
    let held = Arc::new(());
    let own = call(&shadowed);
    until("its instance is busy", || shadowed.stats().in_flight == 1).await;
    shadow(&shadowed, -1.0, -1.0, &held);
    assert_eq!(shadowed.stats().shadow.in_flight, 1, "nobody waits yet");
    let runs = call(&serves);
    until("one runs", || serves.stats().in_flight == 1).await;
    let waits = call(&serves);
    until("one waits", || serves.stats().waiting == 1).await;
    shadow(&shadowed, -1.0, -1.0, &held);
    assert_eq!(shadowed.stats().shadow.shed, 1, "a new one is not taken");
    other_gate.open();
    own.await.unwrap().unwrap();
    let counted = over(&shadowed, &held).await;
    assert_eq!((counted.shed, counted.runs), (2, 0), "nor begins the older");
    gate.open();
    runs.await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
    shadow(&shadowed, 1.0, 1.0, &held);
    assert_eq!(
        over(&shadowed, &held).await.agreed,
        1,
        "when all have theirs"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_shadow_runs_than_their_bound_and_closing_drops_them() {
    let backend = Scripted::new(|_, _| Step::UntilInterrupted);
    let model = model(&backend, 1);
    let held = Arc::new(());
    for _ in 0..MAX_OF_MODEL + 3 {
        shadow(&model, -1.0, -1.0, &held);
    }
    let counted = model.stats().shadow;
    assert_eq!((counted.in_flight, counted.shed), (MAX_OF_MODEL, 3));
    until("one runs", || backend.calls() == 1).await;
    model.close();
    let counted = over(&model, &held).await;
    assert_eq!(counted.shed, MAX_OF_MODEL as u64 + 3);
    shadow(&model, -1.0, -1.0, &held);
    assert_eq!(over(&model, &held).await.shed, MAX_OF_MODEL as u64 + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_shadow_runs_is_worked_off_on_idle_instances() {
    let model = model(&Scripted::echo(), 2);
    let held = Arc::new(());
    for _ in 0..MAX_OF_MODEL {
        shadow(&model, 3.0, 3.0, &held);
    }
    let counted = over(&model, &held).await;
    assert_eq!((counted.agreed, counted.shed), (MAX_OF_MODEL as u64, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_every_call_gets_its_answer_and_every_shadow_run_is_accounted_for() {
    let running = Arc::new(AtomicUsize::new(0));
    let backend = Scripted::new({
        let running = running.clone();
        move |number, _| {
            assert!(
                running.fetch_add(1, Ordering::SeqCst) < 2,
                "more runs than instances"
            );
            std::thread::sleep(Duration::from_micros(number as u64 % 7 * 100));
            running.fetch_sub(1, Ordering::SeqCst);
            Step::Echo
        }
    });
    let model = model(&backend, 2);
    let held = Arc::new(());
    const CALLERS: usize = 6;
    const ROUNDS: usize = 100;
    let mut calls = JoinSet::new();
    for caller in 0..CALLERS {
        let (model, held) = (model.clone(), held.clone());
        calls.spawn(async move {
            for round in 0..ROUNDS {
                let value = (caller * ROUNDS + round) as f32;
                let outputs = model.infer(input(value)).await.expect("the line has room");
                assert_eq!(as_fp32(&outputs[0].1), [value]);
                shadow(&model, value, value, &held);
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("no caller failed");
    }
    let counted = over(&model, &held).await;
    let all = (CALLERS * ROUNDS) as u64;
    assert_eq!(
        counted.agreed + counted.shed + counted.failed,
        all,
        "{counted:?}"
    );
    assert_eq!((counted.differed, counted.failed), (0, 0), "{counted:?}");
    let stats = model.stats();
    assert_eq!((stats.success, stats.failures), (all, 0));
    assert_eq!((stats.running, stats.in_flight, stats.waiting), (0, 0, 0));
}
