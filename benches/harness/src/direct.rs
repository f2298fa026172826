//! The floor: ONNX Runtime called directly on tensors that are ready, with the same settings the
//! server uses: one thread inside a run, no spinning, one run at a time in each thread.

use crate::load::Measured;
use crate::{CLS_NUMBERS, Random};
use anyhow::anyhow;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::TensorRef;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static ENVIRONMENT: OnceLock<ort::environment::Environment> = OnceLock::new();

/// Runs `cls` on one image at a time: from `threads` threads at once, and from one.
pub fn measure(
    library: &Path,
    model: &Path,
    threads: usize,
    span: Duration,
) -> anyhow::Result<(Measured, Measured)> {
    if ENVIRONMENT.get().is_none() {
        let environment = ort::init_from(library.canonicalize()?)?
            .with_name("bench")
            .build()?;
        let _ = ENVIRONMENT.set(environment);
    }
    Ok((together(model, threads, span)?, together(model, 1, span)?))
}

fn together(model: &Path, threads: usize, span: Duration) -> anyhow::Result<Measured> {
    let results: Vec<anyhow::Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| alone(model, span)))
            .collect();
        running
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            })
            .collect()
    });
    let mut latencies = Vec::new();
    for result in results {
        latencies.extend(result?);
    }
    Ok(Measured::of(latencies, span))
}

fn alone(model: &Path, span: Duration) -> anyhow::Result<Vec<Duration>> {
    let environment = ENVIRONMENT.get().expect("set before threads start");
    let text = |e: ort::Error<SessionBuilder>| anyhow!("{e}");
    let mut session = SessionBuilder::new(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(text)?
        .with_intra_threads(1)
        .map_err(text)?
        .with_intra_op_spinning(false)
        .map_err(text)?
        .commit_from_file(model)?;
    let mut random = Random(11);
    let image: Vec<f32> = (0..CLS_NUMBERS).map(|_| random.unit()).collect();
    let mut run = || -> anyhow::Result<f32> {
        let input = TensorRef::from_array_view(([1usize, 3, 48, 192], image.as_slice()))?;
        let outputs = session.run(ort::inputs![input])?;
        let (_, scores) = outputs[0].try_extract_tensor::<f32>()?;
        Ok(scores.iter().sum())
    };
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_secs(1) {
        run()?;
    }
    let started = Instant::now();
    let mut latencies = Vec::new();
    while started.elapsed() < span {
        let sent = Instant::now();
        run()?;
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}
