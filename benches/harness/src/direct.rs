//! The floor: ONNX Runtime called directly on prepared tensors, with the same settings as in the server: one thread
//! inside a run, no spinning, one run at a time in each thread.

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

/// An input of a run.
#[derive(Clone)]
pub struct Input {
    name: &'static str,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone)]
enum Data {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Input {
    /// Numbers that look random.
    pub fn floats(name: &'static str, shape: &[usize]) -> Self {
        let mut random = Random(11);
        let numbers = shape.iter().product();
        Self {
            name,
            shape: shape.to_vec(),
            data: Data::Floats((0..numbers).map(|_| random.unit()).collect()),
        }
    }

    /// Numbers by their position.
    pub fn integers(name: &'static str, shape: &[usize], value: impl Fn(usize) -> i64) -> Self {
        let numbers = shape.iter().product();
        Self {
            name,
            shape: shape.to_vec(),
            data: Data::Integers((0..numbers).map(value).collect()),
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Runs batches of one size from `sessions` threads at once, each with a session of `threads` threads.
pub fn batches(
    library: &Path,
    model: &Path,
    inputs: &dyn Fn(usize) -> Vec<Input>,
    batch: usize,
    sessions: usize,
    threads: usize,
    span: Duration,
) -> anyhow::Result<Measured> {
    if ENVIRONMENT.get().is_none() {
        let environment = ort::init_from(library.canonicalize()?)?
            .with_name("bench")
            .build()?;
        let _ = ENVIRONMENT.set(environment);
    }
    let inputs = inputs(batch);
    let results: Vec<anyhow::Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..sessions)
            .map(|_| scope.spawn(|| looped(model, &inputs, threads, span)))
            .collect();
        (running.into_iter())
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

fn looped(
    model: &Path,
    inputs: &[Input],
    threads: usize,
    span: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let environment = ENVIRONMENT.get().expect("set before threads start");
    let text = |e: ort::Error<SessionBuilder>| anyhow!("{e}");
    let mut session = SessionBuilder::new(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(text)?
        .with_intra_threads(threads)
        .map_err(text)?
        .with_intra_op_spinning(false)
        .map_err(text)?
        .commit_from_file(model)?;
    let mut run = || -> anyhow::Result<()> {
        let mut feeds = Vec::with_capacity(inputs.len());
        for input in inputs {
            let shape = input.shape.clone();
            let value: ort::session::SessionInputValue<'_> = match &input.data {
                Data::Floats(data) => TensorRef::from_array_view((shape, data.as_slice()))?.into(),
                Data::Integers(data) => {
                    TensorRef::from_array_view((shape, data.as_slice()))?.into()
                }
            };
            feeds.push((input.name, value));
        }
        let outputs = session.run(feeds)?;
        outputs[0].try_extract_tensor::<f32>()?;
        Ok(())
    };
    let warm = Instant::now();
    while warm.elapsed() < span / 4 {
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
