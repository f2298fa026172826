//! One suite for every backend: refused graphs and inputs, and runs that fail or are interrupted.

use crate::every_backend_common::{load, run, unit};
use crate::support;
use bytes::Bytes;
use penstock_nn::backend::tract;
use penstock_nn::{ErrorCode, GraphSource, LoadOptions, NnTensor, TensorType};
use support::*;

#[test]
fn every_fault_of_an_input_is_an_invalid_argument_that_names_it() {
    let n3 = &[D::S("N"), D::N(3)];
    let graph = onnx(
        &[Node("Add", vec!["a", "b"], vec!["y"])],
        &[p("a", onnx_type::FLOAT, n3), p("b", onnx_type::FLOAT, n3)],
        &[p("y", onnx_type::FLOAT, n3)],
    );
    let lie = |dims: Vec<u32>, bytes: usize| NnTensor {
        ty: TensorType::Fp32,
        dims,
        data: Bytes::from(vec![0; bytes]),
    };
    let good = || fp32(&[1, 3], &[1.0, 2.0, 3.0]);
    let cases: Vec<(Vec<(&str, NnTensor)>, &str)> = vec![
        (vec![], "input \"a\" (FP32 [N,3]) is missing"),
        (vec![("a", good())], "input \"b\" (FP32 [N,3]) is missing"),
        (
            vec![("a", good()), ("b", good()), ("c", good())],
            "no input \"c\"; its inputs are \"a\", \"b\"",
        ),
        (vec![("a", good()), ("A", good())], "no input \"A\""),
        (
            vec![("a", good()), ("a", good()), ("b", good())],
            "\"a\" was sent twice",
        ),
        (
            vec![
                (
                    "a",
                    NnTensor {
                        ty: TensorType::I32,
                        ..good()
                    },
                ),
                ("b", good()),
            ],
            "INT32 was sent; send FP32",
        ),
        (
            vec![("a", fp32(&[3], &[0.0; 3])), ("b", good())],
            "has 1 dimensions; the model takes [N,3]",
        ),
        (
            vec![("a", fp32(&[1, 4], &[0.0; 4])), ("b", good())],
            "[1,4] was sent; the model takes [N,3]",
        ),
        (
            vec![("a", fp32(&[0, 3], &[])), ("b", good())],
            "[0,3] has no elements",
        ),
        (
            vec![("a", lie(vec![2, 3], 12)), ("b", good())],
            "takes 24 bytes but 12",
        ),
        (
            vec![("a", lie(vec![1, 3], 13)), ("b", good())],
            "takes 12 bytes but 13",
        ),
        (
            vec![("a", lie(vec![u32::MAX, 3], 12)), ("b", good())],
            "but 12 were sent",
        ),
        (
            vec![("a", lie(vec![u32::MAX; 4], 12)), ("b", good())],
            "more FP32 elements than memory",
        ),
        (
            vec![
                ("a", lie(vec![u32::MAX, u32::MAX, u32::MAX, 0], 0)),
                ("b", good()),
            ],
            "more FP32 elements than memory",
        ),
        (
            vec![("a", lie(vec![1; 1_000_000], 4)), ("b", good())],
            "1000000 dimensions was sent",
        ),
    ];
    for backend in every_backend_both_ways() {
        let model = load(&*backend, &graph).expect("loads");
        for (inputs, part) in &cases {
            let error = run(&model, inputs.clone()).expect_err(part);
            assert_eq!(
                error.code,
                ErrorCode::InvalidArgument,
                "{}: {error}",
                backend.name()
            );
            assert!(
                error.message.contains(part),
                "{}: {part} is not in {error}",
                backend.name()
            );
            assert!(error.message.len() < 500, "{}", error.message.len());
        }
        assert_eq!(model.stats().refusals.invalid, cases.len() as u64);
        assert!(
            run(&model, vec![("a", good()), ("b", good())]).is_ok(),
            "the model still answers"
        );
    }
}

#[test]
fn a_bool_that_is_neither_true_nor_false_is_refused() {
    for backend in every_backend_both_ways() {
        let model = load(&*backend, &identity(onnx_type::BOOL, &[D::S("N")])).expect("loads");
        let tensor = NnTensor::new(TensorType::U8, vec![3], vec![0u8, 1, 2]).expect("sound");
        let error = run(&model, vec![("x", tensor)]).expect_err("2 is no boolean");
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.message.contains("send 0 or 1"), "{error}");
    }
}

#[test]
fn inputs_that_fit_their_ports_but_not_each_other_fail_alone_and_without_a_path_in_the_message() {
    let graph = onnx(
        &[Node("MatMul", vec!["a", "b"], vec!["y"])],
        &[
            p("a", onnx_type::FLOAT, &[D::S("N"), D::S("K")]),
            p("b", onnx_type::FLOAT, &[D::S("L"), D::S("M")]),
        ],
        &[p("y", onnx_type::FLOAT, &[D::S("N"), D::S("M")])],
    );
    for backend in every_backend_both_ways() {
        let model =
            load(&*backend, &graph).unwrap_or_else(|error| panic!("{}: {error}", backend.name()));
        let error = run(
            &model,
            vec![
                ("a", fp32(&[1, 2], &[1.0; 2])),
                ("b", fp32(&[3, 1], &[1.0; 3])),
            ],
        )
        .expect_err("the inner dimensions differ");
        assert!(
            matches!(
                error.code,
                ErrorCode::InvalidArgument | ErrorCode::RuntimeError
            ),
            "{error}"
        );
        for path in [".cc", ".rs", "onnxruntime_src", "/home", "/tmp", "/root"] {
            assert!(!error.message.contains(path), "{}: {error}", backend.name());
        }
        let outputs = run(
            &model,
            vec![
                ("a", fp32(&[1, 2], &[1.0, 2.0])),
                ("b", fp32(&[2, 1], &[3.0, 4.0])),
            ],
        );
        assert_eq!(
            as_fp32(&outputs.expect("runs")[0].1),
            [11.0],
            "{}",
            backend.name()
        );
        assert_eq!(
            (model.stats().failures, model.stats().execution_count),
            (1, 1)
        );
    }
}

#[test]
fn lengths_that_contradict_each_other_are_never_run() {
    let graph = |op: &'static str, a: D, b: D| {
        onnx(
            &[Node(op, vec!["a", "b"], vec!["y"])],
            &[
                p("a", onnx_type::FLOAT, &[a]),
                p("b", onnx_type::FLOAT, &[b]),
            ],
            &[p("y", onnx_type::FLOAT, &[D::Open])],
        )
    };
    for backend in every_backend_both_ways() {
        for (a, b) in [
            (D::S("N"), D::S("M")),
            (D::S("N"), D::S("N")),
            (D::Open, D::Open),
            (D::S("N"), D::N(3)),
        ] {
            let model = load(&*backend, &graph("Add", a, b))
                .unwrap_or_else(|error| panic!("{}: {error}", backend.name()));
            for length in [2, 3, 2, 3, 4] {
                let outcome = run(
                    &model,
                    vec![
                        ("a", fp32(&[length], &vec![1.0; length as usize])),
                        ("b", fp32(&[3], &[1.0; 3])),
                    ],
                );
                match outcome {
                    Ok(outputs) => {
                        assert_eq!(
                            (length, as_fp32(&outputs[0].1)),
                            (3, vec![2.0; 3]),
                            "{}",
                            backend.name()
                        );
                    }
                    Err(error) => {
                        assert_ne!(length, 3, "{}: {error}", backend.name());
                        assert!(
                            matches!(
                                error.code,
                                ErrorCode::InvalidArgument | ErrorCode::RuntimeError
                            ),
                            "{error}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_that_is_no_graph_does_not_load() {
    let cut = {
        let whole = onnx_bytes(
            &[Node("Identity", vec!["x"], vec!["y"])],
            &[p("x", onnx_type::FLOAT, &[])],
            &[p("y", onnx_type::FLOAT, &[])],
        );
        whole.slice(..whole.len() / 2)
    };
    let sources = [
        GraphSource::Bytes(Bytes::new()),
        GraphSource::Bytes(Bytes::from_static(b"not a graph at all")),
        GraphSource::Bytes(Bytes::from(vec![0xFF; 4096])),
        GraphSource::Bytes(cut),
        GraphSource::File("no/such/model.onnx".into()),
        onnx(
            &[Node("NoSuchOperator", vec!["x"], vec!["y"])],
            &[p("x", onnx_type::FLOAT, &[])],
            &[p("y", onnx_type::FLOAT, &[])],
        ),
        onnx(
            &[Node("Identity", vec!["nothing"], vec!["y"])],
            &[p("x", onnx_type::FLOAT, &[])],
            &[p("y", onnx_type::FLOAT, &[])],
        ),
        onnx(
            &[],
            &[p("x", onnx_type::FLOAT, &[])],
            &[p("y", onnx_type::FLOAT, &[])],
        ),
    ];
    for backend in every_backend_both_ways() {
        for (index, source) in sources.iter().enumerate() {
            let error = load(&*backend, source).err();
            let error =
                error.unwrap_or_else(|| panic!("{}: source {index} loaded", backend.name()));
            assert!(
                !error.message.is_empty() && !error.message.contains("no/such"),
                "{}: {error}",
                backend.name()
            );
        }
    }
}

#[test]
fn a_type_that_no_tensor_carries_is_refused_at_load() {
    const COMPLEX64: u64 = 14;
    for backend in every_backend_both_ways() {
        let loaded = load(&*backend, &identity(COMPLEX64, &[D::S("N")]));
        let error = loaded.err().expect("cannot be carried");
        assert!(!error.message.is_empty(), "{}: {error}", backend.name());
    }
}

#[test]
fn a_graph_may_keep_weights_in_its_own_folder_and_nowhere_else() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("1");
    std::fs::create_dir_all(folder.join("deeper")).expect("made");
    let weights: Vec<u8> = [1f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    for place in ["secret", "1/weights.bin", "1/deeper/weights.bin"] {
        std::fs::write(root.path().join(place), &weights).expect("written");
    }
    let path = folder.join("model.onnx");
    let absolute = root.path().join("secret");
    let absolute = absolute.to_str().expect("UTF-8");
    for backend in every_backend_both_ways() {
        for inside in ["weights.bin", "deeper/weights.bin"] {
            std::fs::write(&path, adds_weights_in(inside)).expect("written");
            let model = load(&*backend, &GraphSource::from(path.as_path()))
                .unwrap_or_else(|error| panic!("{} {inside}: {error}", backend.name()));
            let outputs = run(&model, vec![("x", fp32(&[4], &[0.5; 4]))]).expect("runs");
            assert_eq!(
                as_fp32(&outputs[0].1),
                [1.5, 2.5, 3.5, 4.5],
                "{}",
                backend.name()
            );
        }
        for outside in [
            "../secret",
            "deeper/../../secret",
            absolute,
            "*/_ORT_MEM_ADDR_/*",
            "",
        ] {
            let bytes = adds_weights_in(outside);
            std::fs::write(&path, &bytes).expect("written");
            for source in [GraphSource::from(path.as_path()), GraphSource::Bytes(bytes)] {
                let error = load(&*backend, &source)
                    .err()
                    .unwrap_or_else(|| panic!("{} opened {outside:?}", backend.name()));
                assert_eq!(
                    error.code,
                    ErrorCode::Security,
                    "{}: {error}",
                    backend.name()
                );
                let folder = folder.to_str().expect("UTF-8");
                assert!(
                    !error.message.contains(folder),
                    "{}: {error}",
                    backend.name()
                );
            }
        }
        std::fs::write(&path, adds_weights_in("absent.bin")).expect("written");
        let error = load(&*backend, &GraphSource::from(path.as_path())).err();
        let error = error.expect("there is no such file");
        assert_eq!(
            error.code,
            ErrorCode::NotFound,
            "{}: {error}",
            backend.name()
        );
    }
}

/// The number of products in the long graph. With matrices of [`LONG_SIDE`] it runs for most of a second on one thread,
/// with [`LONGER_SIDE`] for several seconds.
const LONG_CHAIN: usize = 200;
const LONG_SIDE: u32 = 512;
const LONGER_SIDE: u32 = 1024;

/// `y = x · x · x · …`: long if x is large, quick if it is small, and many operators in both cases.
fn long_graph(side: D) -> GraphSource {
    let names: Vec<&'static str> = (0..LONG_CHAIN)
        .map(|index| &*format!("v{index}").leak())
        .chain(["y"])
        .collect();
    let nodes: Vec<Node> = (0..LONG_CHAIN)
        .map(|index| {
            let from = if index == 0 { "x" } else { names[index] };
            Node("MatMul", vec![from, "x"], vec![names[index + 1]])
        })
        .collect();
    let square = &[side, side];
    onnx(
        &nodes,
        &[p("x", onnx_type::FLOAT, square)],
        &[p("y", onnx_type::FLOAT, square)],
    )
}

#[test]
fn a_run_that_is_interrupted_ends_early_and_the_next_one_does_not_feel_it() {
    use std::time::{Duration, Instant};
    let options = LoadOptions {
        instances: Some(1),
        ..LoadOptions::default()
    };
    for backend in every_backend_both_ways() {
        // The first and the second run. If shapes are open, the first is never waited for to its end.
        for (side, long, next) in [
            (D::S("N"), unit(LONGER_SIDE), unit(4)),
            (D::N(LONG_SIDE.into()), unit(LONG_SIDE), unit(LONG_SIDE)),
        ] {
            let session = backend.load(&long_graph(side), &options).expect("loads");
            let mut instance = session.instance().expect("an instance");
            let Some(interrupt) = instance.interrupt() else {
                assert_eq!(backend.name(), tract::NAME, "only tract cannot");
                continue;
            };
            // An interrupt just before the run is meant for it; an interrupt that was reset has no effect.
            interrupt.interrupt();
            let error = instance
                .run(std::slice::from_ref(&next))
                .expect_err("ended");
            assert_eq!(
                error.message,
                "the run was ended early",
                "{}",
                backend.name()
            );
            interrupt.reset();
            let outputs = instance.run(std::slice::from_ref(&next)).expect("runs");
            assert_eq!(outputs[0], next, "{}", backend.name());
            for _ in 0..2 {
                let started = Instant::now();
                let outcome = std::thread::scope(|scope| {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(50));
                        interrupt.interrupt();
                    });
                    instance.run(std::slice::from_ref(&long))
                });
                let took = started.elapsed();
                // Only a run that was ended says so.
                let error = outcome.expect_err("it was interrupted");
                assert_eq!(
                    error.message,
                    "the run was ended early",
                    "{}",
                    backend.name()
                );
                assert!(
                    took < Duration::from_secs(3),
                    "{}: {took:?}",
                    backend.name()
                );
                interrupt.reset();
                let outputs = instance.run(std::slice::from_ref(&next)).expect("runs");
                assert_eq!(outputs[0], next, "{}", backend.name());
            }
        }
    }
}

#[test]
fn a_run_is_right_or_ended_whenever_it_is_interrupted() {
    use std::sync::atomic::{AtomicBool, Ordering};
    const SIDE: u32 = 48;
    let options = LoadOptions {
        instances: Some(1),
        ..LoadOptions::default()
    };
    for backend in every_backend_both_ways() {
        let graph = long_graph(D::N(u64::from(SIDE)));
        let session = backend.load(&graph, &options).expect("loads");
        let mut instance = session.instance().expect("an instance");
        let Some(interrupt) = instance.interrupt() else {
            continue;
        };
        let (done, mut ended) = (AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut wait = 0;
                while !done.load(Ordering::Relaxed) {
                    interrupt.interrupt();
                    wait = (wait + 370) % 15_000;
                    std::thread::sleep(std::time::Duration::from_micros(wait));
                }
            });
            for _ in 0..300 {
                interrupt.reset();
                match instance.run(&[unit(SIDE)]) {
                    Ok(outputs) => assert_eq!(outputs, [unit(SIDE)], "{}", backend.name()),
                    Err(error) => {
                        assert_eq!(
                            error.message,
                            "the run was ended early",
                            "{}",
                            backend.name()
                        );
                        ended += 1;
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(ended > 0, "{}: no run of 300 was ended", backend.name());
        // The last interrupt may have come after the last reset.
        interrupt.reset();
        assert!(instance.run(&[unit(SIDE)]).is_ok(), "{}", backend.name());
    }
}

#[test]
fn runs_that_fail_in_the_middle_of_a_graph_cost_no_other_call_its_answer() {
    // b meets a only after many operators.
    let names: Vec<&'static str> = (0..40).map(|index| &*format!("v{index}").leak()).collect();
    let nodes: Vec<Node> = (0..40)
        .map(|index| {
            let from = if index == 0 { "a" } else { names[index - 1] };
            let by = if index < 20 { "a" } else { "b" };
            let to = if index == 39 { "y" } else { names[index] };
            Node("MatMul", vec![from, by], vec![to])
        })
        .collect();
    let port = |name, rows, columns| p(name, onnx_type::FLOAT, &[D::S(rows), D::S(columns)]);
    let graph = onnx(
        &nodes,
        &[port("a", "N", "K"), port("b", "L", "M")],
        &[port("y", "N", "M")],
    );
    for backend in every_backend_both_ways() {
        let options = LoadOptions {
            instances: Some(2),
            ..LoadOptions::default()
        };
        let session = backend.load(&graph, &options).expect("loads");
        std::thread::scope(|scope| {
            for caller in 0..2u32 {
                let mut instance = session.instance().expect("an instance");
                let name = backend.name();
                scope.spawn(move || {
                    for step in 0..40u32 {
                        let n = [4, 8, 5, 16][((step * 7 + caller) % 4) as usize];
                        let m = if (step + caller) % 3 == 0 { n + 3 } else { n };
                        match instance.run(&[unit(n), unit(m)]) {
                            Ok(outputs) => assert_eq!((m, outputs), (n, vec![unit(n)]), "{name}"),
                            Err(error) => assert_ne!(m, n, "{name} in step {step}: {error}"),
                        }
                    }
                });
            }
        });
    }
}
