//! Prints what a graph costs on each backend: load, raw run, and the same run through [`Model::infer`].
//!
//! ```text
//! PENSTOCK_ONNXRUNTIME=… cargo run --release -p penstock-nn --example measure -- model.onnx [axis=length …]
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_nn::{Backends, Dim, GraphSource, LoadOptions, Model, NnError, NnTensor, Port};

const RUN_FOR: Duration = Duration::from_millis(1500);
const MAX_RUNS: usize = 20_000;

fn zeros(port: &Port, axes: &HashMap<String, u32>) -> Result<NnTensor, NnError> {
    let ty = port
        .ty
        .carried_as()
        .ok_or_else(|| NnError::unsupported(format!("{} is {}", port.name, port.ty)))?;
    let dims: Vec<u32> = (port.dims.iter().flatten())
        .map(|dim| match dim {
            Dim::Fixed(length) => *length,
            Dim::Symbolic(name) => axes
                .get(name)
                .or_else(|| axes.get("*"))
                .copied()
                .unwrap_or(1),
        })
        .collect();
    let bytes = dims.iter().map(|dim| *dim as usize).product::<usize>() * ty.size();
    NnTensor::new(ty, dims, vec![0u8; bytes])
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
    axes: &HashMap<String, u32>,
) -> Result<(), NnError> {
    let backend = backends.choose(backend)?;
    let graph = GraphSource::from(path);
    let before = resident_mib();
    let started = Instant::now();
    let model = Model::load("m", "1", &*backend, &graph, &LoadOptions::default())?;
    let loaded = started.elapsed();
    for port in model.inputs().iter().chain(model.outputs()) {
        println!("{:>14}{} {} {}", "", port.name, port.ty, port.shape_text());
    }
    let inputs: Vec<(String, NnTensor)> = model
        .inputs()
        .iter()
        .map(|port| Ok((port.name.clone(), zeros(port, axes)?)))
        .collect::<Result<_, NnError>>()?;
    let started = Instant::now();
    model.warm_up(inputs.clone())?;
    let warmed = started.elapsed();
    let grown = resident_mib() - before;

    let longer = axes.iter().map(|(name, length)| (name.clone(), length + 1)).collect();
    let other: Vec<(String, NnTensor)> =
        model.inputs().iter().map(|port| Ok((port.name.clone(), zeros(port, &longer)?))).collect::<Result<_, NnError>>()?;
    let started = Instant::now();
    let other = model.warm_up(other).map(|()| started.elapsed());

    let session = backend.load(&graph, &LoadOptions::default())?;
    let mut lane = session.lane()?;
    let plain: Vec<NnTensor> = inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    let raw = median(|| lane.run(&plain).map(drop))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let model = Arc::new(model);
    let through = {
        let model = model.clone();
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
        "{:>12}: load {:.0?}, warm-up {:.0?} on {} lanes, +{grown:.0} MiB; run {raw:.1?}, through infer {through:.1?}; \
         first runs one longer {other:.1?}",
        backend.name(),
        loaded,
        warmed,
        model.lanes(),
    );
    Ok(())
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: measure model.onnx [axis=length …]   (*=length for every other axis)");
        std::process::exit(2);
    };
    let axes: HashMap<String, u32> = arguments
        .filter_map(|argument| {
            let (name, length) = argument.split_once('=')?;
            Some((name.to_string(), length.parse().ok()?))
        })
        .collect();
    let backends = match std::env::var_os("PENSTOCK_ONNXRUNTIME") {
        Some(library) => Backends::with_onnxruntime(Path::new(&library)).unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(1);
        }),
        None => Backends::builtin(),
    };
    println!("{path}");
    for name in ["onnxruntime", "tract"] {
        if let Err(error) = measure(name, &backends, Path::new(&path), &axes) {
            println!("{name:>12}: {error}");
        }
    }
}
