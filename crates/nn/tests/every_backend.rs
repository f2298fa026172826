//! One suite for every backend: the behaviour of a model on every runtime. The suite names the backends that lack
//! something. `every_backend_faults.rs` has the refusals and the interrupted runs.

use crate::every_backend_common::{load, run};
use crate::support;
use bytes::{Bytes, BytesMut};
use penstock_nn::backend::{openvino, tract};
use penstock_nn::tensor::push_string;
use penstock_nn::{
    Backend, Dim, ErrorCode, GraphSource, LoadOptions, Model, NnTensor, Port, PortType, TensorType,
};
use support::*;

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

/// Returns whether this is a known limitation: a type that the backend refuses, and must refuse at load.
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
