//! Measures the cost of a model's own process for a call, beside the same engine on a thread. Nothing is asserted about time: machines
//! differ and are shared.
//!
//! ```text
//! cargo test --release -p penstock-nn --test suite -- worker_cost:: --ignored --nocapture
//! ```

use crate::support;

use std::time::{Duration, Instant};

use penstock_nn::{LoadOptions, Model};
use support::*;

/// Rounds in turn, so that both share the load of the rest of the machine.
const ROUNDS: usize = 15;

const ROUND: Duration = Duration::from_millis(200);

/// Numbers of a small and of a large call: the bodies of docs/PERFORMANCE.md.
const SIZES: [usize; 2] = [320, 150_000];

const CALLERS: [usize; 2] = [1, 16];

fn model(backend: &dyn penstock_nn::Backend) -> Model {
    let graph = identity(onnx_type::FLOAT, &[D::S("n")]);
    Model::load("m", "1", backend, &graph, &LoadOptions::default()).expect("it loads")
}

/// The median time of a call, and the calls that were answered, in a round of so many callers.
async fn round(model: &Model, elements: usize, callers: usize) -> (Duration, usize) {
    let values: Vec<f32> = (0..elements).map(|at| at as f32).collect();
    let tensor = fp32(&[elements as u32], &values);
    let until = Instant::now() + ROUND;
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (model, tensor) = (model.clone(), tensor.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let call = vec![("x".to_owned(), tensor.clone())];
                    let began = Instant::now();
                    let outputs = model.infer(call).await.expect("it answers");
                    times.push(began.elapsed());
                    assert_eq!(outputs[0].1.data.len(), tensor.data.len());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await.expect("no caller panics"));
    }
    times.sort();
    (times[times.len() / 2], times.len())
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort();
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn what_a_process_of_its_own_costs_a_call() {
    let engine = onnxruntime();
    let models = [model(&*engine), model(&*isolated(engine))];
    for elements in SIZES {
        for callers in CALLERS {
            let mut rounds = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (model, rounds) in models.iter().zip(&mut rounds) {
                    rounds.push(round(model, elements, callers).await);
                }
            }
            let [thread, process] = rounds.map(|rounds| {
                let (times, counts): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
                (median(times), median(counts))
            });
            println!(
                "{} bytes, {callers} callers: thread {:?} {} calls; process {:?} {} calls; +{:.1} µs, {:.2} of the calls",
                elements * 4,
                thread.0,
                thread.1,
                process.0,
                process.1,
                (process.0.as_secs_f64() - thread.0.as_secs_f64()) * 1e6,
                process.1 as f64 / thread.1 as f64
            );
        }
    }
}
