//! The engine's throughput with many concurrent callers: items a second through [`Model::infer`], with shared runs and
//! without, compared with the runtime called directly with its best batch size on as many threads. Compare the ratios
//! of one run; nothing is asserted.
//!
//! ```text
//! PENSTOCK_ONNXRUNTIME=… cargo bench -p penstock-nn --bench batching [-- seconds]
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_nn::batching::{DynamicBatching, Padding};
use penstock_nn::{Backend, Backends, GraphSource, LoadOptions, Model, NnTensor, TensorType};

const CALLERS: [usize; 3] = [1, 8, 32];
const BATCHES: [u32; 6] = [1, 2, 4, 8, 16, 32];

struct Case {
    name: &'static str,
    /// The inputs of a call of so many items; calls differ by their number where lengths may.
    inputs: fn(items: u32, call: u32) -> Vec<(String, NnTensor)>,
    padding: Option<Padding>,
}

fn floats(dims: &[u32]) -> NnTensor {
    let elements: u32 = dims.iter().product();
    let data: Vec<u8> = (0..elements)
        .flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes())
        .collect();
    NnTensor::new(TensorType::Fp32, dims.to_vec(), data).expect("sound")
}

fn tokens(items: u32, length: u32, value: fn(u32) -> i64) -> NnTensor {
    let data: Vec<u8> = (0..items * length)
        .flat_map(|i| value(i).to_le_bytes())
        .collect();
    NnTensor::new(TensorType::I64, vec![items, length], data).expect("sound")
}

fn sentence(items: u32, length: u32) -> Vec<(String, NnTensor)> {
    vec![
        (
            "input_ids".into(),
            tokens(items, length, |i| 1000 + i64::from(i) * 37 % 20_000),
        ),
        ("attention_mask".into(), tokens(items, length, |_| 1)),
        ("token_type_ids".into(), tokens(items, length, |_| 0)),
    ]
}

fn cases() -> Vec<Case> {
    let fill = || (1, 0i64.to_le_bytes().to_vec());
    let padding = Padding {
        inputs: ["input_ids", "attention_mask", "token_type_ids"]
            .map(|name| (name.to_owned(), fill()))
            .into(),
        outputs: [("last_hidden_state".to_owned(), 1)].into(),
        max_tokens: 4096,
    };
    vec![
        Case {
            name: "identity",
            inputs: |items, _| vec![("a".into(), floats(&[items, 4]))],
            padding: None,
        },
        Case {
            name: "digits",
            inputs: |items, _| vec![("pixels".into(), floats(&[items, 64]))],
            padding: None,
        },
        Case {
            name: "cls",
            inputs: |items, _| vec![("x".into(), floats(&[items, 3, 48, 192]))],
            padding: None,
        },
        Case {
            name: "minilm",
            inputs: |items, _| sentence(items, 32),
            padding: None,
        },
        Case {
            name: "minilm",
            inputs: |items, call| sentence(items, 16 + call * 7 % 33),
            padding: Some(padding),
        },
    ]
}

/// The call of middle length, where calls have lengths.
const MIDDLE: u32 = 7;

/// The most items a second the runtime gives: batches of one size from so many threads at once.
fn direct(
    backend: &dyn Backend,
    graph: &Path,
    case: &Case,
    instances: usize,
    span: Duration,
) -> (f64, u32) {
    let options = LoadOptions {
        instances: Some(instances),
        intra_op_threads: 2 / instances.min(2),
        ..LoadOptions::default()
    };
    let session = backend
        .load(&GraphSource::from(graph), &options)
        .expect("loads");
    let mut best = (0.0, 0);
    for batch in BATCHES {
        let inputs: Vec<NnTensor> = (case.inputs)(batch, MIDDLE)
            .into_iter()
            .map(|(_, t)| t)
            .collect();
        let run = || {
            let mut instance = session.instance().expect("an instance");
            instance.run(&inputs).expect("runs");
            let (started, mut runs) = (Instant::now(), 0u64);
            while started.elapsed() < span / 3 {
                instance.run(&inputs).expect("runs");
                runs += 1;
            }
            runs as f64 * f64::from(batch) / started.elapsed().as_secs_f64()
        };
        let rate: f64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..instances).map(|_| scope.spawn(run)).collect();
            threads.into_iter().map(|t| t.join().expect("runs")).sum()
        });
        if rate > best.0 {
            best = (rate, batch);
        }
    }
    best
}

struct Row {
    rate: f64,
    p50: Duration,
    p99: Duration,
    items_a_run: f64,
    queue_delay: Duration,
}

fn through(
    runtime: &tokio::runtime::Runtime,
    model: &Model,
    case: &Case,
    callers: usize,
    span: Duration,
) -> Row {
    let before = model.stats();
    let mut latencies = runtime.block_on(async {
        let until = Instant::now() + span;
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let model = model.clone();
            let inputs: Vec<_> = (0..8)
                .map(|i| (case.inputs)(1, caller as u32 * 8 + i))
                .collect();
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                for inputs in inputs.iter().cycle() {
                    if Instant::now() >= until {
                        break;
                    }
                    let sent = Instant::now();
                    model.infer(inputs.clone()).await.expect("answered");
                    latencies.push(sent.elapsed());
                }
                latencies
            });
        }
        let mut all = Vec::new();
        while let Some(latencies) = tasks.join_next().await {
            all.extend(latencies.expect("the task ran"));
        }
        all
    });
    latencies.sort();
    let after = model.stats();
    let runs = after.execution_count - before.execution_count;
    Row {
        rate: latencies.len() as f64 / span.as_secs_f64(),
        p50: latencies[latencies.len() / 2],
        p99: latencies[latencies.len() * 99 / 100],
        items_a_run: (after.inference_count - before.inference_count) as f64 / runs.max(1) as f64,
        queue_delay: after.queue_delay,
    }
}

fn main() {
    let library =
        std::env::var_os("PENSTOCK_ONNXRUNTIME").expect("PENSTOCK_ONNXRUNTIME is not set");
    let backends = Backends::with_onnxruntime(Path::new(&library)).expect("the library loads");
    let backend = backends.choose("onnxruntime").expect("present");
    let seconds = std::env::args()
        .skip(1)
        .find_map(|a| a.parse::<f64>().ok())
        .unwrap_or(3.0);
    let span = Duration::from_secs_f64(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models");
    for case in cases() {
        let graph = models.join(case.name).join("1/model.onnx");
        if !graph.is_file() {
            println!("{}: no graph at {}", case.name, graph.display());
            continue;
        }
        let floors = [1, 2].map(|instances| direct(&*backend, &graph, &case, instances, span));
        let floor = floors[0].0.max(floors[1].0);
        println!(
            "\n{}{}: directly {:.0} items/s (1 instance of 2 threads: {:.0} at {}; 2 instances of 1: {:.0} at {})",
            case.name,
            if case.padding.is_some() {
                ", lengths 16 to 48"
            } else {
                ""
            },
            floor,
            floors[0].0,
            floors[0].1,
            floors[1].0,
            floors[1].1,
        );
        for (instances, shared_runs) in [(2, false), (2, true), (1, true)] {
            let batching = DynamicBatching {
                padding: case.padding.clone(),
                ..DynamicBatching::default()
            };
            let options = LoadOptions {
                instances: Some(instances),
                intra_op_threads: 2 / instances,
                batching: if shared_runs {
                    Ok(batching)
                } else {
                    Err("measured without".into())
                },
                ..LoadOptions::default()
            };
            let model = Model::load("m", "1", &*backend, &GraphSource::from(&*graph), &options)
                .expect("loads");
            model.warm_up((case.inputs)(1, 0)).expect("runs");
            let model = Arc::new(model);
            for callers in CALLERS {
                let row = through(&runtime, &model, &case, callers, span);
                println!(
                    "  {} instances {} {callers:>2} callers {:>8.0}/s = {:.2} of directly, p50 {:>9.1?} p99 {:>9.1?}, \
                     {:.1} items a run, queue delay {:.1?}",
                    instances,
                    if shared_runs { "shared" } else { "alone " },
                    row.rate,
                    row.rate / floor,
                    row.p50,
                    row.p99,
                    row.items_a_run,
                    row.queue_delay,
                );
            }
            if shared_runs {
                let tried = model.try_batching((case.inputs)(1, 1), (case.inputs)(1, 5));
                println!("  together and alone differ by {tried:?}");
            }
        }
    }
}
