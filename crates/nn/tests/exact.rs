//! An answer agrees with the model's contract and with its graph on every backend, or there is none.

use crate::support;

use std::sync::Arc;

use penstock_nn::backend::tract::Tract;
use penstock_nn::{
    Backend, Backends, GraphSource, LoadOptions, Model, NnError, NnTensor, Repository, Settings,
    TensorType, Unavailable,
};
use penstock_tensor::contract::Precision;
use support::graphs::{
    FLOAT, INT64, file_of, graph, int, node, number, open_matrix, part, tensor, value,
};
use support::{as_fp32, every_backend, fp32, onnxruntime, openvino};

const INT8: u64 = 3;

/// A list of integers as an attribute.
fn ints(name: &str, values: &[u64]) -> Vec<u8> {
    let mut attribute = part(1, name);
    values
        .iter()
        .for_each(|value| attribute.extend(number(8, *value)));
    attribute.extend(number(20, 7));
    attribute
}

/// `y = x`, through a shape that no backend knows before a run: the declaration of `y` need not be true.
fn declares(x: &[u64], y: &[u64]) -> Vec<u8> {
    let nodes = [
        node("Shape", &["x"], &["s"], &[]),
        node("Unsqueeze", &["s", "zero"], &["u"], &[]),
        node(
            "ReduceMax",
            &["u"],
            &["r"],
            &[ints("axes", &[0]), int("keepdims", 0)],
        ),
        node("Reshape", &["x", "r"], &["y"], &[]),
    ];
    let zero = tensor("zero", INT64, &[1], &0i64.to_le_bytes());
    let graph = graph(
        &nodes,
        &[zero],
        &[value("x", FLOAT, x)],
        &[value("y", FLOAT, y)],
    );
    file_of(&graph, 17)
}

/// Serves a model with this graph and contract, and returns its state.
fn served(backend: Arc<dyn Backend>, file: &[u8], contract: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m");
    std::fs::create_dir_all(model.join("1")).unwrap();
    std::fs::write(model.join("1/model.onnx"), file).unwrap();
    std::fs::write(model.join("model.toml"), contract).unwrap();
    let backends = Backends::default().prefer(backend);
    let repository = Repository::open(folder.path(), backends, Settings::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(repository.load_all(|_| {}));
    match repository.get("m", None) {
        Ok(_) => Ok(()),
        Err(Unavailable::Failed(reason)) => Err(reason),
        Err(other) => panic!("{other:?}"),
    }
}

fn contract(x: &str, y: &str, more: &str) -> String {
    let port = |side, name, shape| {
        format!("[[{side}]]\nname = \"{name}\"\ndatatype = \"FP32\"\nshape = {shape}\n")
    };
    format!(
        "description = \"for tests\"\n{}{}{more}",
        port("inputs", "x", x),
        port("outputs", "y", y)
    )
}

#[test]
fn two_labels_over_three_columns_are_refused_when_the_model_is_loaded() {
    let nodes = [node("Softmax", &["x"], &["y"], &[int("axis", 1)])];
    let open = graph(&nodes, &[], &[open_matrix("x")], &[open_matrix("y")]);
    let file = file_of(&open, 17);
    for backend in every_backend() {
        let name = backend.name();
        let labels = "labels = [\"no\", \"yes\"]\n";
        let two = contract("[\"N\", 3]", "[\"N\", 2]", labels);
        let reason = served(backend.clone(), &file, &two).expect_err(name);
        for part in [
            "output \"y\" was returned as [",
            "model.toml says [N, 2]",
            "write shape = [\"N\", 3] and 3 labels where there are 2",
        ] {
            assert!(reason.contains(part), "{name}: {part} is not in {reason}");
        }
        let labels = "labels = [\"no\", \"maybe\", \"yes\"]\n";
        let three = contract("[\"N\", 3]", "[\"N\", 3]", labels);
        assert_eq!(served(backend, &file, &three), Ok(()), "{name}");
    }
}

#[test]
fn the_shape_that_comes_out_is_the_right_one_whatever_the_graph_declares() {
    // CatBoost declares [N] and answers [N, 1]; LightGBM declares [1] and answers [N].
    let column = (declares(&[0, 1], &[0]), "[\"N\", 1]", "[\"N\", 1]");
    let flat = (declares(&[0], &[1]), "[\"N\"]", "[\"N\"]");
    for (file, x, right) in [column, flat] {
        for y in ["[\"N\"]", "[\"N\", 1]", "[1]", "[1, 1]"] {
            let judged = served(onnxruntime(), &file, &contract(x, y, ""));
            if y == right {
                assert_eq!(judged, Ok(()), "{y}");
                continue;
            }
            let reason = judged.expect_err(y);
            let remedy = format!("write shape = {right}, or correct the graph");
            assert!(reason.contains(&remedy), "{y}: {reason}");
        }
    }
}

fn options(precision: Precision, non_finite: bool) -> LoadOptions {
    LoadOptions {
        instances: Some(1),
        precision,
        non_finite,
        ..LoadOptions::default()
    }
}

fn loaded(backend: &dyn Backend, file: &[u8], options: &LoadOptions) -> Result<Model, NnError> {
    let source = GraphSource::Bytes(file.to_vec().into());
    Model::load("m", "1", backend, &source, options)
}

fn run(model: &Model, inputs: Vec<(String, NnTensor)>) -> NnTensor {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut outputs = runtime.block_on(model.infer(inputs)).expect("it runs");
    outputs.remove(0).1
}

/// Numbers that look random, from −1 to 1.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn weights_of_8_bits_are_multiplied_exactly_unless_the_contract_says_fast() {
    const WIDTH: usize = 64;
    let weights: Vec<i8> = noise(WIDTH * WIDTH)
        .iter()
        .map(|w| (w * 127.0) as i8)
        .collect();
    let raw: Vec<u8> = weights.iter().map(|w| w.cast_unsigned()).collect();
    let scale = 1.0f32 / 127.0;
    let width = WIDTH as u64;
    let nodes = [
        node("DequantizeLinear", &["q", "s"], &["w"], &[]),
        node("MatMul", &["x", "w"], &["y"], &[]),
    ];
    let weights_8_bit = graph(
        &nodes,
        &[
            tensor("q", INT8, &[width, width], &raw),
            tensor("s", FLOAT, &[], &scale.to_le_bytes()),
        ],
        &[value("x", FLOAT, &[0, width])],
        &[value("y", FLOAT, &[0, width])],
    );
    let file = file_of(&weights_8_bit, 21);
    let x = noise(WIDTH);
    let exact: Vec<f64> = (0..WIDTH)
        .map(|column| {
            let terms = x.iter().enumerate().map(|(row, x)| {
                f64::from(*x) * f64::from(weights[row * WIDTH + column]) * f64::from(scale)
            });
            terms.sum()
        })
        .collect();
    let off = |backend: &dyn Backend, precision| {
        let model = loaded(backend, &file, &options(precision, false)).expect("it loads");
        let y = run(&model, vec![("x".into(), fp32(&[1, 64], &x))]);
        let apart = as_fp32(&y).into_iter().zip(&exact);
        apart
            .map(|(y, exact)| (f64::from(y) - exact).abs())
            .fold(0.0, f64::max)
    };
    let mut native = vec![onnxruntime()];
    native.extend(openvino());
    for backend in native {
        let name = backend.name();
        let exact = off(&*backend, Precision::Exact);
        assert!(exact <= 1e-5, "{name} is {exact:e} off");
        let fast = off(&*backend, Precision::Fast);
        assert!(fast <= 1e-1, "{name} is {fast:e} off");
        if name == "onnxruntime" {
            assert!(fast > 1e-4, "{name}: the setting has no effect");
        }
    }
}

#[test]
fn a_layer_in_training_mode_keeps_nothing_of_a_call_for_the_next() {
    let training = node(
        "BatchNormalization",
        &["x", "scale", "bias", "mean", "variance"],
        &["y", "new_mean", "new_variance"],
        &[int("training_mode", 1)],
    );
    // The values of a layer that was never trained: the mean is the bias, and the variance the scale.
    let constant = |name, value: f32| tensor(name, FLOAT, &[1], &value.to_le_bytes());
    let constants = [
        constant("scale", 1.0),
        constant("bias", 0.0),
        constant("mean", 0.0),
        constant("variance", 1.0),
    ];
    let graph = graph(
        &[training],
        &constants,
        &[value("x", FLOAT, &[1, 1, 3])],
        &[value("y", FLOAT, &[1, 1, 3])],
    );
    let file = file_of(&graph, 15);
    for precision in [Precision::Exact, Precision::Fast] {
        let options = options(precision, false);
        let model = loaded(&*onnxruntime(), &file, &options).expect("it loads");
        for _ in 0..3 {
            let x = vec![("x".into(), fp32(&[1, 1, 3], &[1.0, 2.0, 3.0]))];
            let y = as_fp32(&run(&model, x));
            let expected = [-1.224_7, 0.0, 1.224_7];
            let apart = y.iter().zip(expected).map(|(y, right)| (y - right).abs());
            assert!(apart.fold(0.0, f32::max) < 1e-3, "{precision:?}: {y:?}");
        }
    }
}

#[test]
fn sums_of_int64_are_right_or_refused() {
    let axes = tensor("axes", INT64, &[1], &1i64.to_le_bytes());
    let nodes = [node(
        "ReduceSum",
        &["x", "axes"],
        &["y"],
        &[int("keepdims", 0)],
    )];
    let sum = graph(
        &nodes,
        &[axes],
        &[value("x", INT64, &[0, 3])],
        &[value("y", INT64, &[0])],
    );
    let file = file_of(&sum, 17);
    for backend in every_backend() {
        let name = backend.name();
        let model = match loaded(&*backend, &file, &options(Precision::Exact, false)) {
            Ok(model) => model,
            Err(error) => {
                assert_ne!(name, "onnxruntime", "{error}");
                assert!(error.message.contains("ReduceSum"), "{name}: {error}");
                continue;
            }
        };
        let x: Vec<u8> = [2_000_000_000i64; 3]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let x = NnTensor::new(TensorType::I64, vec![1, 3], x).unwrap();
        let y = run(&model, vec![("x".into(), x)]);
        assert_eq!(&y.data[..], &6_000_000_000i64.to_le_bytes(), "{name}");
    }
}

#[test]
fn a_number_that_openvino_cannot_hold_is_no_answer() {
    let Some(backend) = openvino() else { return };
    let nodes = [node("Cast", &["x"], &["y"], &[int("to", INT64)])];
    let cast = graph(
        &nodes,
        &[],
        &[value("x", FLOAT, &[1])],
        &[value("y", INT64, &[1])],
    );
    let model = loaded(
        &*backend,
        &file_of(&cast, 17),
        &options(Precision::Exact, false),
    )
    .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let infer = |x: f32| runtime.block_on(model.infer(vec![("x".into(), fp32(&[1], &[x]))]));
    let outputs = infer(7.0).expect("it fits");
    assert_eq!(&outputs[0].1.data[..], &7i64.to_le_bytes());
    let error = infer(3e9).expect_err("it does not fit");
    assert!(
        error
            .message
            .contains("output \"y\" holds the smallest 32-bit number"),
        "{error}"
    );
}

#[test]
fn a_softmax_over_several_axes_is_right_or_refused() {
    for (opset, axis) in [(11, None), (11, Some(1)), (11, Some(2)), (13, Some(1))] {
        let axes: Vec<Vec<u8>> = axis.map(|axis| int("axis", axis)).into_iter().collect();
        let nodes = [node("Softmax", &["x"], &["y"], &axes)];
        let shape = [0, 3, 4];
        let softmax = graph(
            &nodes,
            &[],
            &[value("x", FLOAT, &shape)],
            &[value("y", FLOAT, &shape)],
        );
        let file = file_of(&softmax, opset);
        let x = noise(12);
        let together = opset < 13 && axis != Some(2);
        for backend in every_backend() {
            let name = backend.name();
            let model = match loaded(&*backend, &file, &options(Precision::Exact, false)) {
                Ok(model) => model,
                Err(error) => {
                    assert!(
                        together && name == "openvino",
                        "{name}, opset {opset}: {error}"
                    );
                    assert!(error.message.contains("Softmax"), "{error}");
                    continue;
                }
            };
            let y = as_fp32(&run(&model, vec![("x".into(), fp32(&[1, 3, 4], &x))]));
            for at in 0..12 {
                let group: Vec<usize> = match (together, axis) {
                    (true, _) => (0..12).collect(),
                    (false, Some(2)) => (0..12).filter(|other| other / 4 == at / 4).collect(),
                    _ => (0..12).filter(|other| other % 4 == at % 4).collect(),
                };
                let sum: f32 = group.iter().map(|other| x[*other].exp()).sum();
                let right = x[at].exp() / sum;
                assert!(
                    (y[at] - right).abs() < 1e-6,
                    "{name}, opset {opset}, axis {axis:?}"
                );
            }
        }
    }
}

#[test]
fn nan_comes_out_as_nan_or_the_model_is_refused_where_callers_may_send_it() {
    let nodes = [node("Relu", &["x"], &["y"], &[])];
    let relu = graph(
        &nodes,
        &[],
        &[value("x", FLOAT, &[3])],
        &[value("y", FLOAT, &[3])],
    );
    let file = file_of(&relu, 17);
    let allowing = contract("[3]", "[3]", "").replace(
        "shape = [3]\n[[outputs]]",
        "shape = [3]\nallow_non_finite = true\n[[outputs]]",
    );
    let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::new(Tract)];
    backends.extend(openvino());
    for backend in backends {
        let name = backend.name();
        let error = loaded(&*backend, &file, &options(Precision::Exact, true)).err();
        let error = error.expect(name).message;
        assert!(
            error.contains("allow_non_finite") && error.contains("Relu"),
            "{error}"
        );
        assert!(
            loaded(&*backend, &file, &options(Precision::Exact, false)).is_ok(),
            "{name}"
        );
        // The contract says so to the backend.
        let reason = served(backend, &file, &allowing).expect_err(name);
        assert!(reason.contains("allow_non_finite"), "{reason}");
    }
    let model = loaded(&*onnxruntime(), &file, &options(Precision::Exact, true)).unwrap();
    let y = as_fp32(&run(
        &model,
        vec![("x".into(), fp32(&[3], &[f32::NAN, 1.0, -1.0]))],
    ));
    assert!(y[0].is_nan() && y[1..] == [1.0, 0.0], "{y:?}");
    assert_eq!(served(onnxruntime(), &file, &allowing), Ok(()));
}
