//! The memory of one run: a small request must not make the process grow by gigabytes, nor stay large after it. The
//! numbers are the operating system's, so these tests have their own process and run one after another.

mod support;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use penstock_nn::backend::tract::Tract;
use penstock_nn::{
    Backend, ErrorCode, GraphSource, LoadOptions, Model, NnError, NnTensor, TensorType,
};
use support::*;

const MIB: usize = 1 << 20;

/// The memory limit of a run here.
const LIMIT: usize = 256 * MIB;

/// Memory that may stay after runs: the allocators' reserves.
const SLACK: usize = 96 * MIB;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = (status.lines())
        .find(|line| line.starts_with(field))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

fn resident() -> usize {
    status("VmRSS:")
}

/// The most that was resident since this was called last.
fn peak() -> usize {
    let peak = status("VmHWM:");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak
}

fn load(backend: &dyn Backend, graph: &GraphSource) -> Model {
    let options = LoadOptions {
        instances: Some(1),
        working_bytes: Some(LIMIT),
        ..LoadOptions::default()
    };
    Model::load("m", "1", backend, graph, &options).unwrap()
}

fn run(model: &Model, inputs: &[(&str, NnTensor)]) -> Result<Vec<(String, NnTensor)>, NnError> {
    let inputs = (inputs.iter())
        .map(|(name, tensor)| (name.to_string(), tensor.clone()))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(model.infer(inputs))
}

fn number(value: i64, dims: &[u32]) -> NnTensor {
    NnTensor::new(TensorType::I64, dims.to_vec(), value.to_le_bytes().to_vec()).unwrap()
}

struct Case {
    name: &'static str,
    graph: GraphSource,
    /// Inputs that make about so many elements, of four or eight bytes.
    inputs: fn(elements: i64) -> Vec<(&'static str, NnTensor)>,
}

fn cases() -> Vec<Case> {
    let many = p("n", onnx_type::INT64, &[D::N(1)]);
    let long = p("y", onnx_type::FLOAT, &[D::S("N")]);
    let one = p("x", onnx_type::FLOAT, &[D::N(1)]);
    vec![
        Case {
            name: "ConstantOfShape",
            graph: onnx(
                &[Node("ConstantOfShape", vec!["n"], vec!["y"])],
                std::slice::from_ref(&many),
                std::slice::from_ref(&long),
            ),
            inputs: |elements| vec![("n", number(elements, &[1]))],
        },
        Case {
            name: "Expand",
            graph: onnx(
                &[Node("Expand", vec!["x", "n"], vec!["y"])],
                &[one.clone(), many.clone()],
                std::slice::from_ref(&long),
            ),
            inputs: |elements| vec![("x", fp32(&[1], &[2.0])), ("n", number(elements, &[1]))],
        },
        Case {
            name: "Tile",
            graph: onnx(
                &[Node("Tile", vec!["x", "n"], vec!["y"])],
                &[one, many.clone()],
                &[long],
            ),
            inputs: |elements| vec![("x", fp32(&[1], &[2.0])), ("n", number(elements, &[1]))],
        },
        Case {
            name: "a large value between operators and a small output",
            graph: onnx(
                &[
                    Node("ConstantOfShape", vec!["n"], vec!["a"]),
                    Node("Exp", vec!["a"], vec!["b"]),
                    Node("ReduceSum", vec!["b"], vec!["y"]),
                ],
                &[many],
                &[p("y", onnx_type::FLOAT, &[D::N(1)])],
            ),
            inputs: |elements| vec![("n", number(elements, &[1]))],
        },
        range(false),
        range(true),
    ]
}

/// `Range`, and its sum where only that goes out.
fn range(summed: bool) -> Case {
    let scalar = |name| p(name, onnx_type::INT64, &[]);
    let last = match summed {
        true => Node("ReduceMax", vec!["r"], vec!["y"]),
        false => Node("Identity", vec!["r"], vec!["y"]),
    };
    let dims = match summed {
        true => [D::N(1)],
        false => [D::S("N")],
    };
    Case {
        name: if summed { "Range, summed up" } else { "Range" },
        graph: onnx(
            &[Node("Range", vec!["from", "to", "by"], vec!["r"]), last],
            &[scalar("from"), scalar("to"), scalar("by")],
            &[p("y", onnx_type::INT64, &dims)],
        ),
        inputs: |elements| {
            vec![
                ("from", number(0, &[])),
                ("to", number(elements, &[])),
                ("by", number(1, &[])),
            ]
        },
    }
}

/// Small, too large, within the limit, and many times.
fn bounded(backend: &dyn Backend, case: &Case) {
    let title = format!("{}, {}", backend.name(), case.name);
    let model = load(backend, &case.graph);
    run(&model, &(case.inputs)(1000)).unwrap();
    let (before, _) = (resident(), peak());
    for elements in [700_000_000, 1 << 40, i64::MAX / 16] {
        let error = run(&model, &(case.inputs)(elements)).unwrap_err();
        assert!(
            error.code == ErrorCode::TooLarge || elements > 1 << 39,
            "{title}, {elements}: {error}"
        );
        if elements == 700_000_000 {
            assert!(
                error.message.contains(&LIMIT.to_string())
                    && error.message.contains("run_memory_bytes"),
                "{title}: {error}"
            );
        }
    }
    let (after, most) = (resident(), peak());
    println!(
        "{title}: {} MiB before, {} at most, {} after it was refused",
        before / MIB,
        most / MIB,
        after / MIB
    );
    assert!(most < before + SLACK, "{title}: {before} {most}");
    for _ in 0..3 {
        run(&model, &(case.inputs)(12_000_000)).unwrap();
    }
    let after = resident();
    println!("{title}: {} MiB after runs within the limit", after / MIB);
    assert!(after < before + SLACK, "{title}: {before} {after}");
    assert_eq!(run(&model, &(case.inputs)(1000)).unwrap().len(), 1);
}

#[test]
fn a_run_on_onnxruntime_ends_before_it_takes_more_than_it_may_and_gives_back_what_it_took() {
    let _alone = alone();
    let backend = onnxruntime();
    for case in cases() {
        bounded(&*backend, &case);
    }
}

#[test]
fn a_run_on_tract_ends_before_it_takes_more_than_it_may_and_gives_back_what_it_took() {
    let _alone = alone();
    for case in [range(false), range(true)] {
        bounded(&Tract, &case);
    }
}

#[test]
fn a_run_of_many_operator_threads_is_bounded_too() {
    let _alone = alone();
    let backend = onnxruntime();
    let options = LoadOptions {
        instances: Some(1),
        intra_op_threads: 4,
        working_bytes: Some(LIMIT),
        ..LoadOptions::default()
    };
    for case in cases() {
        let model = Model::load("m", "1", &*backend, &case.graph, &options).unwrap();
        let error = run(&model, &(case.inputs)(700_000_000)).unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge, "{}: {error}", case.name);
        run(&model, &(case.inputs)(10_000_000)).unwrap();
    }
}

#[test]
fn a_graph_whose_shapes_are_fixed_and_too_large_is_refused_by_tract_when_it_is_loaded() {
    let dims = [D::N(20_000), D::N(20_000)];
    let graph = onnx(
        &[
            Node("MatMul", vec!["column", "row"], vec!["product"]),
            Node("ReduceSum", vec!["product"], vec!["y"]),
        ],
        &[
            p("column", onnx_type::FLOAT, &[dims[0], D::N(1)]),
            p("row", onnx_type::FLOAT, &[D::N(1), dims[1]]),
        ],
        &[p("y", onnx_type::FLOAT, &[D::N(1), D::N(1)])],
    );
    let options = LoadOptions {
        working_bytes: Some(LIMIT),
        ..LoadOptions::default()
    };
    let error = Tract.load(&graph, &options).err().expect("1.6 GB");
    assert_eq!(error.code, ErrorCode::TooLarge, "{error}");
}

#[test]
fn large_outputs_that_callers_keep_are_not_charged_to_the_next_run() {
    let _alone = alone();
    let backend = onnxruntime();
    let case = &cases()[0];
    let model = load(&*backend, &case.graph);
    // 160 MiB each, of 256.
    let kept: Vec<_> = (0..4)
        .map(|_| run(&model, &(case.inputs)(40 << 20)).unwrap())
        .collect();
    drop(kept);
    let started = Instant::now();
    run(&model, &(case.inputs)(1)).unwrap();
    println!("a small run after them: {:?}", started.elapsed());
}

#[test]
fn runs_at_once_have_a_limit_each() {
    let _alone = alone();
    let backend = onnxruntime();
    let case = &cases()[0];
    let options = LoadOptions {
        instances: Some(4),
        working_bytes: Some(LIMIT),
        ..LoadOptions::default()
    };
    let model = Arc::new(Model::load("m", "1", &*backend, &case.graph, &options).unwrap());
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (model, inputs) = (model.clone(), case.inputs);
            std::thread::spawn(move || {
                for _ in 0..10 {
                    if thread % 2 == 0 {
                        run(&model, &inputs(20 << 20)).unwrap();
                    } else {
                        let error = run(&model, &inputs(700_000_000)).unwrap_err();
                        assert_eq!(error.code, ErrorCode::TooLarge, "{error}");
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn openvino_refuses_outputs_that_are_too_large_after_the_run_and_gives_their_memory_back() {
    let _alone = alone();
    let Some(backend) = openvino() else {
        return;
    };
    // OpenVINO has no place where its allocations could be counted, so the memory is taken first.
    for case in &cases()[..3] {
        let model = load(&*backend, &case.graph);
        run(&model, &(case.inputs)(1000)).unwrap();
        let before = resident();
        for _ in 0..3 {
            let error = run(&model, &(case.inputs)(100_000_000)).unwrap_err();
            assert_eq!(error.code, ErrorCode::TooLarge, "{}: {error}", case.name);
        }
        run(&model, &(case.inputs)(20_000_000)).unwrap();
        let after = resident();
        println!(
            "openvino, {}: {} MiB before, {} after",
            case.name,
            before / MIB,
            after / MIB
        );
        // Its own allocators keep a part, but less than a run may take.
        assert!(after < before + LIMIT, "{}: {before} {after}", case.name);
        assert_eq!(run(&model, &(case.inputs)(1000)).unwrap().len(), 1);
    }
}
