//! Prints the times of a graph on each backend: load, raw run, and the same run through [`Model::infer`].
//!
//! ```text
//! PENSTOCK_ONNXRUNTIME=… PENSTOCK_OPENVINO=… cargo run --release -p penstock-nn --example measure -- model.onnx
//! [axis=length | input=1x3x48x192 …] ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_nn::{
    Backends, Dim, GraphSource, LoadOptions, Model, NnError, NnTensor, Port, TensorType,
};

const RUN_FOR: Duration = Duration::from_millis(1500);
const MAX_RUNS: usize = 20_000;

/// A tensor for a port, filled with small numbers that are the same on every backend.
fn sample(port: &Port, lengths: &Lengths) -> Result<NnTensor, NnError> {
    let ty = (port.ty.carried_as())
        .ok_or_else(|| NnError::unsupported(format!("{} is {}", port.name, port.ty)))?;
    let dims: Vec<u32> = match lengths.shapes.get(&port.name) {
        Some(shape) => shape.clone(),
        None => (port.dims.iter().flatten())
            .map(|dim| match dim {
                Dim::Fixed(length) => *length,
                Dim::Symbolic(name) => lengths.axes.get(name).copied().unwrap_or(1),
            })
            .collect(),
    };
    let elements = dims.iter().map(|dim| *dim as usize).product::<usize>();
    let mut data = Vec::with_capacity(elements * ty.size());
    for index in 0..elements {
        let real = (index as f32 * 0.37).sin();
        match ty {
            TensorType::Fp32 => data.extend_from_slice(&real.to_le_bytes()),
            TensorType::Fp64 => data.extend_from_slice(&f64::from(real).to_le_bytes()),
            TensorType::I32 => data.extend_from_slice(&((index % 2) as i32).to_le_bytes()),
            TensorType::I64 => data.extend_from_slice(&((index % 2) as i64).to_le_bytes()),
            TensorType::U8 | TensorType::I8 | TensorType::Bool => data.push((index % 2) as u8),
            // Zeros: half of a number, and empty strings.
            _ => data.resize(data.len() + ty.size(), 0),
        }
    }
    NnTensor::new(ty, dims, data)
}

/// The lengths on the command line: of axes by name, and whole shapes of inputs by name.
#[derive(Clone, Default)]
struct Lengths {
    axes: HashMap<String, u32>,
    shapes: HashMap<String, Vec<u32>>,
}

type Named = Vec<(String, NnTensor)>;

fn samples(model: &Model, lengths: &Lengths) -> Result<Named, NnError> {
    model
        .inputs()
        .iter()
        .map(|port| Ok((port.name.clone(), sample(port, lengths)?)))
        .collect()
}

/// The largest difference between two backends' FP32 outputs.
fn difference(left: &Named, right: &Named) -> String {
    let mut largest = 0f32;
    for ((name, a), (_, b)) in left.iter().zip(right) {
        if a.dims != b.dims || a.ty != b.ty {
            return format!("{name} is {:?} here and {:?} there", a.dims, b.dims);
        }
        if a.ty == TensorType::Fp32 {
            let floats = |tensor: &NnTensor| -> Vec<f32> {
                tensor
                    .data
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes))
                    .collect()
            };
            for (a, b) in floats(a).iter().zip(floats(b)) {
                largest = largest.max((a - b).abs());
            }
        }
    }
    format!("{largest:e}")
}

fn median(mut run: impl FnMut() -> Result<(), NnError>) -> Result<Duration, NnError> {
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < RUN_FOR && times.len() < MAX_RUNS {
        let one = Instant::now();
        run()?;
        times.push(one.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or_default()
        / 1024.0
}

fn measure(
    backend: &str,
    backends: &Backends,
    path: &Path,
    lengths: &Lengths,
) -> Result<Named, NnError> {
    let backend = backends.choose(backend)?;
    let graph = GraphSource::from(path);
    let before = resident_mib();
    let started = Instant::now();
    let model = Model::load("m", "1", &*backend, &graph, &LoadOptions::default())?;
    let loaded = started.elapsed();
    for port in model.inputs().iter().chain(model.outputs()) {
        println!("{:>14}{} {} {}", "", port.name, port.ty, port.shape_text());
    }
    let inputs = samples(&model, lengths)?;
    let started = Instant::now();
    model.warm_up(inputs.clone())?;
    let warmed = started.elapsed();
    let grown = resident_mib() - before;

    let mut longer = lengths.clone();
    longer.axes.values_mut().for_each(|length| *length += 1);
    longer.shapes.values_mut().for_each(|shape| shape[0] += 1);
    let other = samples(&model, &longer)?;
    let started = Instant::now();
    let other = model.warm_up(other).map(|_| started.elapsed());

    let session = backend.load(&graph, &LoadOptions::default())?;
    let mut instance = session.instance()?;
    let plain: Vec<NnTensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    let raw = median(|| instance.run(&plain).map(drop))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let model = Arc::new(model);
    let through = {
        let (model, inputs) = (model.clone(), inputs.clone());
        runtime.block_on(async move {
            let task = tokio::spawn(async move {
                let mut times = Vec::new();
                let started = Instant::now();
                while started.elapsed() < RUN_FOR && times.len() < MAX_RUNS {
                    let inputs = inputs.clone();
                    let one = Instant::now();
                    model.infer(inputs).await?;
                    times.push(one.elapsed());
                }
                times.sort();
                Ok::<_, NnError>(times[times.len() / 2])
            });
            task.await.expect("the task ran")
        })?
    };
    println!(
        "{:>12}: load {:.0?}, warm-up {:.0?} on {} instances, +{grown:.0} MiB; run {raw:.1?}, through infer {through:.1?}; \
         first runs one longer {other:.1?}",
        backend.name(),
        loaded,
        warmed,
        model.instances(),
    );
    runtime.block_on(model.infer(inputs))
}

/// The time of one instance with so many threads, and of two instances with one thread each.
fn compare(
    backend: &str,
    backends: &Backends,
    path: &Path,
    lengths: &Lengths,
) -> Result<(), NnError> {
    let backend = backends.choose(backend)?;
    let graph = GraphSource::from(path);
    let load = |instances, intra_op_threads| {
        let options = LoadOptions {
            instances: Some(instances),
            intra_op_threads,
            ..LoadOptions::default()
        };
        backend.load(&graph, &options)
    };
    let mut latencies = Vec::new();
    for threads in [1, 2] {
        let session = load(1, threads)?;
        let inputs: Vec<NnTensor> = (session.inputs().iter())
            .map(|port| sample(port, lengths))
            .collect::<Result<_, _>>()?;
        let mut instance = session.instance()?;
        for _ in 0..3 {
            instance.run(&inputs)?;
        }
        latencies.push(median(|| instance.run(&inputs).map(drop))?);
    }
    let session = load(2, 1)?;
    let inputs: Vec<NnTensor> = (session.inputs().iter())
        .map(|port| sample(port, lengths))
        .collect::<Result<_, _>>()?;
    let runs: Result<Vec<u32>, NnError> = std::thread::scope(|scope| {
        let instances = [session.instance()?, session.instance()?].map(|mut instance| {
            let inputs = &inputs;
            scope.spawn(move || {
                instance.run(inputs)?;
                let (started, mut runs) = (Instant::now(), 0);
                while started.elapsed() < RUN_FOR {
                    instance.run(inputs)?;
                    runs += 1;
                }
                Ok(runs)
            })
        });
        instances
            .map(|instance| instance.join().expect("the instance ran"))
            .into_iter()
            .collect()
    });
    let a_second = f64::from(runs?.iter().sum::<u32>()) / RUN_FOR.as_secs_f64();
    println!(
        "{:>12}: one instance, 1 thread {:.2?}, 2 threads {:.2?}; two instances of 1 thread {a_second:.0} runs/s",
        backend.name(),
        latencies[0],
        latencies[1],
    );
    Ok(())
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: measure model.onnx [axis=length | input=1x3x48x192 …]");
        std::process::exit(2);
    };
    let mut lengths = Lengths::default();
    for argument in arguments {
        let Some((name, value)) = argument.split_once('=') else {
            continue;
        };
        let dims: Result<Vec<u32>, _> = value.split('x').map(str::parse).collect();
        match dims.as_deref() {
            Ok([length]) => drop(lengths.axes.insert(name.into(), *length)),
            Ok(shape) => drop(lengths.shapes.insert(name.into(), shape.to_vec())),
            Err(error) => eprintln!("{argument}: {error}"),
        }
    }
    let library = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    let (onnxruntime, openvino) = (
        library("PENSTOCK_ONNXRUNTIME"),
        library("PENSTOCK_OPENVINO"),
    );
    let backends =
        Backends::with(onnxruntime.as_deref(), openvino.as_deref()).unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(1);
        });
    println!("{path}");
    let mut answers = Vec::new();
    let names: Vec<&str> = backends.list().iter().map(|(name, _)| *name).collect();
    for name in &names {
        match measure(name, &backends, Path::new(&path), &lengths) {
            Ok(outputs) => answers.push((name, outputs)),
            Err(error) => println!("{name:>12}: {error}"),
        }
    }
    if let [(first, left), others @ ..] = &answers[..] {
        for (name, right) in others {
            println!(
                "{:>12}: {first} and {name} {}",
                "difference",
                difference(left, right)
            );
        }
    }
    for name in &names {
        if let Err(error) = compare(name, &backends, Path::new(&path), &lengths) {
            println!("{name:>12}: {error}");
        }
    }
}
