//! One suite for every backend: the behaviour of a model on every runtime. The suite names the backends that lack
//! something.

use crate::support;

use bytes::{Bytes, BytesMut};
use penstock_nn::backend::{openvino, tract};
use penstock_nn::tensor::push_string;
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
            instances: Some(2),
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

/// Every type, with ONNX's number for it.
const TYPES: [(u64, TensorType); 14] = [
    (onnx_type::FLOAT16, TensorType::Fp16),
    (onnx_type::FLOAT, TensorType::Fp32),
    (onnx_type::DOUBLE, TensorType::Fp64),
    (onnx_type::BFLOAT16, TensorType::Bf16),
    (onnx_type::UINT8, TensorType::U8),
    (onnx_type::INT32, TensorType::I32),
    (onnx_type::INT64, TensorType::I64),
    (onnx_type::BOOL, TensorType::Bool),
    (onnx_type::INT8, TensorType::I8),
    (onnx_type::INT16, TensorType::I16),
    (onnx_type::UINT16, TensorType::U16),
    (onnx_type::UINT32, TensorType::U32),
    (onnx_type::UINT64, TensorType::U64),
    (onnx_type::STRING, TensorType::Bytes),
];

/// Known limitations: types that a backend refuses, and must refuse at load.
fn refuses(backend: &dyn Backend, ty: TensorType) -> bool {
    match backend.name() {
        tract::NAME => matches!(ty, TensorType::Bf16 | TensorType::Bytes),
        // It would compute FP64 in FP32.
        openvino::NAME => matches!(ty, TensorType::Fp64 | TensorType::Bytes),
        _ => false,
    }
}

/// The greatest integer a backend computes with.
fn greatest(backend: &dyn Backend) -> i64 {
    match backend.name() {
        openvino::NAME => i64::from(i32::MAX),
        _ => i64::MAX,
    }
}

fn pattern(backend: &dyn Backend, ty: TensorType, elements: usize) -> Bytes {
    if greatest(backend) != i64::MAX {
        let value = |index: usize| index as i64 * 0x0102_0304;
        match ty {
            TensorType::I64 => {
                return (0..elements)
                    .flat_map(|index| (value(index) - 3).to_le_bytes())
                    .collect();
            }
            TensorType::U64 => {
                return (0..elements)
                    .flat_map(|index| value(index).to_le_bytes())
                    .collect();
            }
            TensorType::U32 => {
                return (0..elements)
                    .flat_map(|index| (value(index) as u32).to_le_bytes())
                    .collect();
            }
            _ => {}
        }
    }
    if ty == TensorType::Bytes {
        // Not all of it text, and with zeros inside.
        const TEXTS: [&[u8]; 5] = [
            b"a",
            b"",
            "\u{fc}\u{1f600}".as_bytes(),
            b"b\0c",
            b"\xff\xfe",
        ];
        let mut data = Vec::new();
        for index in 0..elements {
            push_string(&mut data, TEXTS[index % TEXTS.len()]).expect("short");
        }
        return data.into();
    }
    let byte = |index: usize| {
        if ty == TensorType::Bool {
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
    for backend in every_backend_both_ways() {
        for (onnx_ty, ty) in TYPES {
            let port = PortType::Tensor(ty);
            for (declared, dims) in shapes {
                let what = format!("{} {port} {dims:?}", backend.name());
                let loaded = load(&*backend, &identity(onnx_ty, declared));
                if refuses(&*backend, ty) {
                    let error = loaded
                        .err()
                        .unwrap_or_else(|| panic!("{what} was expected to be refused"));
                    assert_eq!(
                        error.code,
                        ErrorCode::UnsupportedOperation,
                        "{what}: {error}"
                    );
                    assert!(
                        error.message.contains(ty.as_str())
                            && error.message.contains("onnxruntime"),
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
                let tensor = NnTensor::new(ty, dims.to_vec(), pattern(&*backend, ty, elements))
                    .expect("sound");
                let outputs = run(&model, vec![("x", tensor.clone())])
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(outputs, [("y".to_string(), tensor)], "{what}");
            }
        }
    }
}

#[test]
fn types_of_a_byte_and_less_go_through_onnxruntime_and_are_refused_elsewhere_by_name() {
    const TYPES: [(u64, TensorType, &[u8]); 8] = [
        (onnx_type::INT2, TensorType::I2, &[0, 1, 0xFE, 0xFF, 1]),
        (onnx_type::UINT2, TensorType::U2, &[0, 1, 2, 3, 3]),
        (onnx_type::INT4, TensorType::I4, &[0, 7, 0xF8, 0xFF, 3]),
        (onnx_type::UINT4, TensorType::U4, &[0, 15, 8, 1, 9]),
        (
            onnx_type::FLOAT8E4M3FN,
            TensorType::Fp8E4m3fn,
            &[0, 0x80, 0x7E, 0x38, 0xFE],
        ),
        (
            onnx_type::FLOAT8E4M3FNUZ,
            TensorType::Fp8E4m3fnuz,
            &[0, 1, 0x7F, 0x40, 0xFF],
        ),
        (
            onnx_type::FLOAT8E5M2,
            TensorType::Fp8E5m2,
            &[0, 0x80, 0x7B, 0x3C, 0xFB],
        ),
        (
            onnx_type::FLOAT8E5M2FNUZ,
            TensorType::Fp8E5m2fnuz,
            &[0, 1, 0x7F, 0x40, 0xFF],
        ),
    ];
    for backend in every_backend_both_ways() {
        for (onnx_ty, ty, elements) in TYPES {
            let what = format!("{} {ty}", backend.name());
            let graph = GraphSource::Bytes(support::there_and_back(onnx_ty, &[D::S("N")]));
            let loaded = load(&*backend, &graph);
            if backend.name() != "onnxruntime" {
                let error = loaded.err().unwrap_or_else(|| panic!("{what} was loaded"));
                assert_eq!(
                    error.code,
                    ErrorCode::UnsupportedOperation,
                    "{what}: {error}"
                );
                let names_it = error.message.contains(ty.as_str());
                assert!(
                    names_it && error.message.contains("onnxruntime"),
                    "{what}: {error}"
                );
                continue;
            }
            let model = loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(model.inputs()[0].ty, PortType::Tensor(ty), "{what}");
            for count in 1..=elements.len() {
                let dims = vec![count as u32];
                let tensor = NnTensor::new(ty, dims, elements[..count].to_vec()).expect("sound");
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
    for backend in every_backend_both_ways() {
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
        assert_eq!(model.instances(), 2);
    }
}

#[test]
fn a_scalar_and_a_port_of_unknown_rank_are_told_apart() {
    for backend in every_backend_both_ways() {
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
        let loaded = load(&*backend, &graph);
        if backend.name() == openvino::NAME {
            let error = loaded.err().expect("it takes no input of any rank");
            assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
            // Its own words are left out while other calls of the process are going on: it keeps one text for all.
            assert!(error.message.contains("OpenVINO"), "{error}");
            continue;
        }
        let model = loaded.unwrap_or_else(|error| panic!("{}: {error}", backend.name()));
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
    for backend in every_backend_both_ways() {
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
    for backend in every_backend_both_ways() {
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
    for backend in every_backend_both_ways() {
        let model = load(&*backend, &identity(onnx_type::INT64, &[D::S("N")])).expect("loads");
        for offset in 0..8 {
            let mut buffer = BytesMut::zeroed(offset);
            for value in [1i64, -2, greatest(&*backend)] {
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
    for backend in every_backend_both_ways() {
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
fn bytes_from_wasi_nn_are_taken_where_it_has_no_type_of_its_own() {
    for backend in every_backend() {
        for ty in [TensorType::Bool, TensorType::I8] {
            let (onnx_ty, _) = TYPES[TYPES
                .iter()
                .position(|(_, other)| *other == ty)
                .expect("one")];
            let model = load(&*backend, &identity(onnx_ty, &[D::S("N")])).expect("loads");
            let tensor = NnTensor::new(TensorType::U8, vec![2], vec![0u8, 1]).expect("sound");
            let outputs = run(&model, vec![("x", tensor.clone())]).expect("bytes");
            assert_eq!(outputs[0].1.ty, ty, "{}", backend.name());
            let carried = penstock_nn::for_wasi_nn(outputs).expect("bytes again");
            assert_eq!(carried, [("y".to_owned(), tensor)], "{}", backend.name());
        }
        let model = load(&*backend, &identity(onnx_type::UINT16, &[D::S("N")])).expect("loads");
        let tensor = NnTensor::new(TensorType::U16, vec![1], vec![7u8, 1]).expect("sound");
        let outputs = run(&model, vec![("x", tensor)]).expect("runs");
        let error = penstock_nn::for_wasi_nn(outputs).expect_err("wasi:nn has no UINT16");
        assert!(error.message.contains("penstock:nn/tensors"), "{error}");
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
fn callers_on_several_instances_of_one_graph_do_not_see_each_others_numbers() {
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
    for backend in every_backend_both_ways() {
        let options = LoadOptions {
            instances: Some(4),
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
fn an_input_is_only_read_because_its_bytes_may_be_anothers_too() {
    let n = &[D::S("N"), D::N(4)];
    // Operators that runtimes like to compute in place.
    let graph = onnx(
        &[
            Node("Relu", vec!["x"], vec!["a"]),
            Node("Neg", vec!["a"], vec!["b"]),
            Node("Relu", vec!["b"], vec!["c"]),
            Node("Neg", vec!["x"], vec!["d"]),
            Node("Softmax", vec!["x"], vec!["e"]),
        ],
        &[p("x", onnx_type::FLOAT, n)],
        &[
            p("c", onnx_type::FLOAT, n),
            p("d", onnx_type::FLOAT, n),
            p("e", onnx_type::FLOAT, n),
        ],
    );
    let in_place = |op: &'static str| {
        onnx(
            &[Node(op, vec!["x"], vec!["y"])],
            &[p("x", onnx_type::FLOAT, n)],
            &[p("y", onnx_type::FLOAT, n)],
        )
    };
    for backend in every_backend_both_ways() {
        for graph in [
            &graph,
            &in_place("Relu"),
            &in_place("Softmax"),
            &in_place("Neg"),
        ] {
            let model = load(&*backend, graph).expect("loads");
            for rows in [1u32, 3, 1000] {
                let values: Vec<f32> = (0..rows * 4).map(|at| at as f32 * 0.3 - 2.0).collect();
                let tensor = fp32(&[rows, 4], &values);
                run(&model, vec![("x", tensor.clone())]).expect("runs");
                assert_eq!(as_fp32(&tensor), values, "{}", backend.name());
            }
        }
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

fn unit(n: u32) -> NnTensor {
    let cell = |at: u32| f32::from(u8::from(at.is_multiple_of(n + 1)));
    fp32(&[n, n], &(0..n * n).map(cell).collect::<Vec<f32>>())
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
