//! One suite, every backend: what a model must do whichever runtime it is loaded on. Where a backend cannot, the
//! suite says so by name.

mod support;

use bytes::{Bytes, BytesMut};
use penstock_nn::backend::tract;
use penstock_nn::{
    Backend, Dim, ErrorCode, GraphSource, LoadOptions, Model, NnError, NnTensor, Port, PortType,
    TensorType,
};
use support::*;

fn load(backend: &dyn Backend, graph: &GraphSource) -> Result<Model, NnError> {
    Model::load(
        "m",
        "1",
        backend,
        graph,
        &LoadOptions {
            lanes: Some(2),
            ..LoadOptions::default()
        },
    )
}

fn run(model: &Model, inputs: Vec<(&str, NnTensor)>) -> Result<Vec<(String, NnTensor)>, NnError> {
    let inputs = inputs
        .into_iter()
        .map(|(name, tensor)| (name.to_string(), tensor))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(model.infer(inputs))
}

/// ONNX's type, the port it makes, and how it is carried.
const TYPES: [(u64, PortType, TensorType); 9] = [
    (
        onnx_type::FLOAT16,
        PortType::Tensor(TensorType::Fp16),
        TensorType::Fp16,
    ),
    (
        onnx_type::FLOAT,
        PortType::Tensor(TensorType::Fp32),
        TensorType::Fp32,
    ),
    (
        onnx_type::DOUBLE,
        PortType::Tensor(TensorType::Fp64),
        TensorType::Fp64,
    ),
    (
        onnx_type::BFLOAT16,
        PortType::Tensor(TensorType::Bf16),
        TensorType::Bf16,
    ),
    (
        onnx_type::UINT8,
        PortType::Tensor(TensorType::U8),
        TensorType::U8,
    ),
    (
        onnx_type::INT32,
        PortType::Tensor(TensorType::I32),
        TensorType::I32,
    ),
    (
        onnx_type::INT64,
        PortType::Tensor(TensorType::I64),
        TensorType::I64,
    ),
    (onnx_type::BOOL, PortType::Bool, TensorType::U8),
    (onnx_type::INT8, PortType::I8, TensorType::U8),
];

/// Known limitations: what a backend refuses, and must refuse at load.
fn refuses(backend: &dyn Backend, port: PortType) -> bool {
    backend.name() == tract::NAME && port == PortType::Tensor(TensorType::Bf16)
}

fn pattern(port: PortType, ty: TensorType, elements: usize) -> Bytes {
    let byte = |index: usize| {
        if port == PortType::Bool {
            (index % 2) as u8
        } else {
            (index * 37 + 11) as u8
        }
    };
    (0..elements * ty.size()).map(byte).collect()
}

#[test]
fn every_type_goes_through_bit_by_bit_whatever_the_shape() {
    let shapes: [(&[D], &[u32]); 5] = [
        (&[D::S("N"), D::N(3)], &[5, 3]),
        (&[D::N(2), D::N(3)], &[2, 3]),
        (&[D::Open, D::Open], &[1, 7]),
        (&[], &[]),
        (&[D::N(1)], &[1]),
    ];
    for backend in every_backend() {
        for (onnx_ty, port, ty) in TYPES {
            for (declared, dims) in shapes {
                let what = format!("{} {port} {dims:?}", backend.name());
                let loaded = load(&*backend, &identity(onnx_ty, declared));
                if refuses(&*backend, port) {
                    let error = loaded
                        .err()
                        .unwrap_or_else(|| panic!("{what} was expected to be refused"));
                    assert_eq!(
                        error.code,
                        ErrorCode::UnsupportedOperation,
                        "{what}: {error}"
                    );
                    assert!(
                        error.message.contains("BF16") && error.message.contains("onnxruntime"),
                        "{what}: {error}"
                    );
                    continue;
                }
                let model = loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(
                    (model.inputs()[0].ty, model.outputs()[0].ty),
                    (port, port),
                    "{what}"
                );
                let elements = dims.iter().product::<u32>() as usize;
                let tensor =
                    NnTensor::new(ty, dims.to_vec(), pattern(port, ty, elements)).expect("sound");
                let outputs = run(&model, vec![("x", tensor.clone())])
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(outputs, [("y".to_string(), tensor)], "{what}");
            }
        }
    }
}

#[test]
fn ports_are_described_as_the_graph_declares_them() {
    let graph = onnx(
        &[Node("Add", vec!["a", "b"], vec!["sum"])],
        &[
            p("a", onnx_type::FLOAT, &[D::S("N"), D::N(4)]),
            p("b", onnx_type::FLOAT, &[D::N(4)]),
        ],
        &[p("sum", onnx_type::FLOAT, &[D::S("N"), D::N(4)])],
    );
    for backend in every_backend() {
        let model = load(&*backend, &graph).expect("loads");
        let n4 = Some(vec![Dim::Symbolic("N".into()), Dim::Fixed(4)]);
        let ty = PortType::Tensor(TensorType::Fp32);
        let expected = [
            Port {
                name: "a".into(),
                ty,
                dims: n4.clone(),
            },
            Port {
                name: "b".into(),
                ty,
                dims: Some(vec![Dim::Fixed(4)]),
            },
        ];
        assert_eq!(model.inputs(), expected, "{}", backend.name());
        assert_eq!(
            model.outputs(),
            [Port {
                name: "sum".into(),
                ty,
                dims: n4
            }],
            "{}",
            backend.name()
        );
        assert_eq!(model.lanes(), 2);
    }
}

#[test]
fn a_scalar_and_a_port_of_unknown_rank_are_told_apart() {
    for backend in every_backend() {
        let scalar = load(&*backend, &identity(onnx_type::FLOAT, &[])).expect("loads");
        assert_eq!(scalar.inputs()[0].dims, Some(vec![]), "{}", backend.name());
        assert!(run(&scalar, vec![("x", fp32(&[1], &[1.0]))]).is_err());
        let anything = P {
            dims: None,
            ..p("x", onnx_type::FLOAT, &[])
        };
        let graph = onnx(
            &[Node("Identity", vec!["x"], vec!["y"])],
            std::slice::from_ref(&anything),
            &[P {
                name: "y",
                ..anything.clone()
            }],
        );
        let model =
            load(&*backend, &graph).unwrap_or_else(|error| panic!("{}: {error}", backend.name()));
        assert_eq!(model.inputs()[0].dims, None, "{}", backend.name());
        for dims in [&[][..], &[1], &[1, 1]] {
            let outputs = run(&model, vec![("x", fp32(dims, &[3.0]))]).expect("any rank goes");
            assert_eq!(outputs[0].1.dims, dims, "{}", backend.name());
        }
    }
}

#[test]
fn inputs_are_taken_in_any_order_and_outputs_given_in_the_graphs() {
    let n = &[D::S("N")];
    let graph = onnx(
        &[
            Node("Sub", vec!["a", "b"], vec!["difference"]),
            Node("Add", vec!["a", "b"], vec!["sum"]),
        ],
        &[p("a", onnx_type::FLOAT, n), p("b", onnx_type::FLOAT, n)],
        &[
            p("sum", onnx_type::FLOAT, n),
            p("difference", onnx_type::FLOAT, n),
        ],
    );
    for backend in every_backend() {
        let model = load(&*backend, &graph).expect("loads");
        let (a, b) = (fp32(&[2], &[5.0, 7.0]), fp32(&[2], &[1.0, 2.0]));
        for inputs in [
            vec![("a", a.clone()), ("b", b.clone())],
            vec![("b", b), ("a", a)],
        ] {
            let outputs = run(&model, inputs).expect("runs");
            let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["sum", "difference"], "{}", backend.name());
            assert_eq!(as_fp32(&outputs[0].1), [6.0, 9.0]);
            assert_eq!(as_fp32(&outputs[1].1), [4.0, 5.0]);
        }
        let options = LoadOptions {
            outputs: Some(vec!["difference".into()]),
            ..LoadOptions::default()
        };
        let model = Model::load("m", "1", &*backend, &graph, &options).expect("loads");
        let outputs = run(
            &model,
            vec![("a", fp32(&[1], &[2.0])), ("b", fp32(&[1], &[1.0]))],
        )
        .expect("runs");
        assert_eq!(outputs.len(), 1, "{}", backend.name());
        assert_eq!(
            (outputs[0].0.as_str(), as_fp32(&outputs[0].1)),
            ("difference", vec![1.0])
        );
        let options = LoadOptions {
            outputs: Some(vec!["product".into()]),
            ..LoadOptions::default()
        };
        let error = Model::load("m", "1", &*backend, &graph, &options)
            .err()
            .expect("there is no such output");
        assert!(
            error
                .message
                .contains("no output \"product\"; it has \"sum\", \"difference\""),
            "{error}"
        );
    }
}

#[test]
fn one_model_takes_many_lengths_of_its_symbolic_axis() {
    for backend in every_backend() {
        let model = load(
            &*backend,
            &identity(onnx_type::FLOAT, &[D::S("N"), D::Open]),
        )
        .expect("loads");
        // More shapes than plans are kept, and back to the first.
        for round in 0..2 {
            for n in 1..=12u32 {
                let values: Vec<f32> = (0..n * 2).map(|value| (value + round) as f32).collect();
                let outputs = run(&model, vec![("x", fp32(&[n, 2], &values))]).expect("runs");
                assert_eq!(as_fp32(&outputs[0].1), values, "{}", backend.name());
            }
        }
        assert_eq!(
            model.stats().inference_count,
            2 * 78,
            "items are counted along the first axis"
        );
        assert_eq!(model.stats().execution_count, 24);
    }
}

#[test]
fn bytes_that_lie_at_an_odd_address_are_read_right() {
    for backend in every_backend() {
        let model = load(&*backend, &identity(onnx_type::INT64, &[D::S("N")])).expect("loads");
        for offset in 0..8 {
            let mut buffer = BytesMut::zeroed(offset);
            for value in [1i64, -2, i64::MAX] {
                buffer.extend_from_slice(&value.to_le_bytes());
            }
            let tensor = NnTensor::new(TensorType::I64, vec![3], buffer.freeze().slice(offset..))
                .expect("sound");
            let outputs = run(&model, vec![("x", tensor.clone())]).expect("runs");
            assert_eq!(outputs[0].1, tensor, "{} at {offset}", backend.name());
        }
    }
}

#[test]
fn a_large_output_stays_valid_after_its_input_its_model_and_its_backend_are_gone() {
    for backend in every_backend() {
        let graphs = [
            identity(onnx_type::FLOAT, &[D::S("N")]),
            // The input itself is an output, without a node between them.
            onnx(
                &[Node("Neg", vec!["x"], vec!["z"])],
                &[p("x", onnx_type::FLOAT, &[D::S("N")])],
                &[
                    p("x", onnx_type::FLOAT, &[D::S("N")]),
                    p("z", onnx_type::FLOAT, &[D::S("N")]),
                ],
            ),
        ];
        for graph in graphs {
            let model = match load(&*backend, &graph) {
                Ok(model) => model,
                Err(error) => panic!("{}: {error}", backend.name()),
            };
            let values: Vec<f32> = (0..100_000).map(|value| value as f32).collect();
            let outputs = run(&model, vec![("x", fp32(&[100_000], &values))]).expect("runs");
            drop(model);
            // Written over where the input was, if it was freed.
            let noise: Vec<Vec<u8>> = (0..16).map(|_| vec![0xAA; 400_000]).collect();
            assert_eq!(as_fp32(&outputs[0].1), values, "{}", backend.name());
            drop(noise);
        }
    }
}

#[test]
fn whatever_a_caller_sends_wrong_is_an_invalid_argument_that_says_what() {
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
            "I32 was sent; send FP32",
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
    for backend in every_backend() {
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
    for backend in every_backend() {
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
    for backend in every_backend() {
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
    for backend in every_backend() {
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
fn callers_on_several_lanes_of_one_graph_do_not_see_each_others_numbers() {
    let square = &[D::S("N"), D::S("N")];
    let graph = onnx(
        &[
            Node("MatMul", vec!["a", "a"], vec!["b"]),
            Node("MatMul", vec!["b", "a"], vec!["y"]),
        ],
        &[p("a", onnx_type::FLOAT, square)],
        &[p("y", onnx_type::FLOAT, square)],
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    for backend in every_backend() {
        let options = LoadOptions {
            lanes: Some(4),
            ..LoadOptions::default()
        };
        let model = Model::load("m", "1", &*backend, &graph, &options).expect("loads");
        runtime.block_on(async {
            let mut calls = tokio::task::JoinSet::new();
            for caller in 1..=64u32 {
                let model = model.clone();
                calls.spawn(async move {
                    for round in 0..20u32 {
                        // A multiple of the unit matrix, so that the answer is the multiple's cube.
                        let (n, factor) = (4 + (caller + round) % 3 * 30, caller as f32);
                        let cell = |at: u32, value: f32| {
                            if at.is_multiple_of(n + 1) { value } else { 0.0 }
                        };
                        let unit =
                            |value: f32| (0..n * n).map(|at| cell(at, value)).collect::<Vec<f32>>();
                        let inputs = vec![("a".to_string(), fp32(&[n, n], &unit(factor)))];
                        let outputs = model.infer(inputs).await.expect("runs");
                        assert_eq!(outputs[0].1.dims, [n, n]);
                        assert_eq!(as_fp32(&outputs[0].1), unit(factor * factor * factor));
                    }
                });
            }
            while let Some(call) = calls.join_next().await {
                call.unwrap_or_else(|error| panic!("{}: {error}", backend.name()));
            }
        });
        assert_eq!(model.stats().execution_count, 64 * 20, "{}", backend.name());
    }
}

#[test]
fn what_is_no_graph_does_not_load() {
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
    for backend in every_backend() {
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
fn a_type_wasi_nn_cannot_carry_is_refused_at_load_with_its_name() {
    for backend in every_backend() {
        for (ty, name) in [(onnx_type::UINT16, "UINT16"), (onnx_type::STRING, "STRING")] {
            let error = load(&*backend, &identity(ty, &[D::S("N")]))
                .err()
                .expect("cannot be carried");
            assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
            assert!(error.message.contains(name), "{}: {error}", backend.name());
        }
    }
}
