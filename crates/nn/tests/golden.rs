//! The same numbers from every runtime: real models on fixed inputs, compared between ONNX Runtime, OpenVINO and tract.
//! The allowed difference is given for each model, from measurements here, so that a runtime that begins to compute in
//! another precision is noticed. (tests/nn_component.rs tests that tract in WebAssembly agrees.)

use crate::support;

use std::path::PathBuf;
use std::sync::Arc;

use penstock_nn::{Backend, GraphSource, LoadOptions, NnTensor, Port, TensorType};
use support::*;

/// Two runtimes, by the names of the backends, and how far apart their numbers may be.
type Tolerance = (&'static str, &'static str, f32);

/// The generator of Knuth: the same inputs on every machine, and no dependency for them.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = (self.0)
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }

    /// Returns a number from `low` to `high`.
    fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.below(1 << 20) as f32 / (1 << 20) as f32
    }
}

fn reals(dims: &[u32], low: f32, high: f32) -> NnTensor {
    let mut numbers = Numbers(42);
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|_| numbers.real(low, high))
        .collect();
    fp32(dims, &values)
}

fn i64s(dims: &[u32], values: &[i64]) -> NnTensor {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    NnTensor::new(TensorType::I64, dims.to_vec(), bytes).expect("as many values as the shape has")
}

fn model(name: &str) -> GraphSource {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../models/{name}/1/model.onnx"));
    assert!(
        path.exists(),
        "this test needs the model {name}: run scripts/models"
    );
    GraphSource::File(path)
}

fn outputs(backend: &dyn Backend, name: &str, inputs: &[(&str, NnTensor)]) -> Vec<f32> {
    let session = backend
        .load(&model(name), &LoadOptions::default())
        .unwrap_or_else(|error| panic!("{name} on {}: {error}", backend.name()));
    let of = |port: &Port| {
        let found = inputs.iter().find(|(input, _)| *input == port.name);
        found
            .map(|(_, tensor)| tensor.clone())
            .expect("every input is given")
    };
    let bound: Vec<NnTensor> = session.inputs().iter().map(of).collect();
    let outputs = session
        .instance()
        .and_then(|mut instance| instance.run(&bound))
        .unwrap_or_else(|error| panic!("{name} on {}: {error}", backend.name()));
    outputs.iter().flat_map(as_fp32).collect()
}

fn furthest(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    assert!(left.iter().chain(right).all(|value| value.is_finite()));
    let apart = left.iter().zip(right).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

/// The answers of all backends, after a check that any two are near enough.
fn agree(
    name: &str,
    inputs: &[(&str, NnTensor)],
    tolerances: &[Tolerance],
) -> Vec<(&'static str, Vec<f32>)> {
    let backends: Vec<Arc<dyn Backend>> = every_backend();
    let answers: Vec<(&'static str, Vec<f32>)> = (backends.iter())
        .map(|backend| (backend.name(), outputs(&**backend, name, inputs)))
        .collect();
    let of = |name: &str| answers.iter().find(|(other, _)| *other == name);
    for (left, right, tolerance) in tolerances {
        // OpenVINO may be left out by the environment; the others are always there.
        let (Some((_, a)), Some((_, b))) = (of(left), of(right)) else {
            continue;
        };
        let apart = furthest(a, b);
        println!("{name}: {left} and {right} are {apart:e} apart");
        assert!(
            apart <= *tolerance,
            "{name}: {left} and {right} are {apart:e} apart, more than {tolerance:e}"
        );
    }
    answers
}

const fn within(tolerance: f32) -> [Tolerance; 3] {
    [
        ("onnxruntime", "openvino", tolerance),
        ("onnxruntime", "tract", tolerance),
        ("openvino", "tract", tolerance),
    ]
}

// Measured here (two cores of an AMD EPYC with AVX-512 and VNNI): 1.2e-7 for digits, 6e-7 for cls, 1.5e-6 for magika.
// The tolerance leaves room for processors that add in another order, and none for BF16, which OpenVINO would choose
// by itself here: cls is then 1.2e-2 off, magika 1.2e-4.

#[test]
fn digits_gives_the_same_probabilities_on_every_runtime() {
    agree(
        "digits",
        &[("pixels", reals(&[5, 64], 0.0, 16.0))],
        &within(2e-6),
    );
}

#[test]
fn cls_gives_the_same_probabilities_on_every_runtime() {
    agree(
        "cls",
        &[("x", reals(&[2, 3, 48, 192], -1.0, 1.0))],
        &within(1e-5),
    );
}

#[test]
fn magika_gives_the_same_probabilities_on_every_runtime() {
    let mut numbers = Numbers(7);
    let bytes: Vec<u8> = (0..3 * 2048)
        .flat_map(|_| (numbers.below(257) as i32).to_le_bytes())
        .collect();
    let tensor = NnTensor::new(TensorType::I32, vec![3, 2048], bytes).expect("sound");
    agree("magika", &[("bytes", tensor)], &within(1e-5));
}

#[test]
fn minilm_gives_embeddings_that_mean_the_same_on_every_runtime() {
    const ROWS: usize = 2;
    const COLUMNS: usize = 16;
    let mut numbers = Numbers(3);
    let mut ids = vec![0i64; ROWS * COLUMNS];
    let mut mask = vec![0i64; ROWS * COLUMNS];
    for (row, length) in [COLUMNS, 9].into_iter().enumerate() {
        for column in 0..length {
            let at = row * COLUMNS + column;
            mask[at] = 1;
            ids[at] = match column {
                0 => 101,
                last if last == length - 1 => 102,
                _ => 1000 + numbers.below(29_000) as i64,
            };
        }
    }
    let dims = [ROWS as u32, COLUMNS as u32];
    let inputs = [
        ("input_ids", i64s(&dims, &ids)),
        ("attention_mask", i64s(&dims, &mask)),
        ("token_type_ids", i64s(&dims, &vec![0; ROWS * COLUMNS])),
    ];
    // Measured here: 7.4e-5 on vectors of length about 6. Only the weights have 8 bits: the graph turns them into FP32
    // (Cast, Mul), and every product is one of FP32. The only difference is the order of sums through six layers. Activations
    // of 8 bits would be off by more than ten times as much.
    let answers = agree("minilm", &inputs, &within(2e-4));
    // A caller's use of it: a sentence's embedding, of which the direction counts.
    let embedding = |answer: &[f32], row: usize| -> Vec<f32> {
        let size = answer.len() / (ROWS * COLUMNS);
        let token = |column: usize| &answer[(row * COLUMNS + column) * size..][..size];
        let mut sum = vec![0f32; size];
        for column in (0..COLUMNS).filter(|column| mask[row * COLUMNS + column] == 1) {
            sum.iter_mut()
                .zip(token(column))
                .for_each(|(sum, value)| *sum += value);
        }
        sum
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let (_, reference) = &answers[0];
    for (name, answer) in &answers[1..] {
        for row in 0..ROWS {
            let (a, b) = (embedding(reference, row), embedding(answer, row));
            let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!(cosine > 0.99999, "{name}, sentence {row}: {cosine}");
        }
    }
}
