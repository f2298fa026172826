//! The operations of the guest, one function per case.

use crate::Call;
use crate::bindings::penstock::nn::tensors::{self, ElementType};
use crate::bindings::wasi::nn::errors::{Error, ErrorCode};
use crate::bindings::wasi::nn::graph::{ExecutionTarget, GraphEncoding, load, load_by_name};
use crate::bindings::wasi::nn::inference::GraphExecutionContext;
use crate::bindings::wasi::nn::tensor::{Tensor, TensorType};
use serde_json::{Value, json};
use std::time::Instant;

const MEGABYTE: usize = 1 << 20;

fn code(error: &Error) -> &'static str {
    match error.code() {
        ErrorCode::InvalidArgument => "invalid-argument",
        ErrorCode::InvalidEncoding => "invalid-encoding",
        ErrorCode::Timeout => "timeout",
        ErrorCode::RuntimeError => "runtime-error",
        ErrorCode::UnsupportedOperation => "unsupported-operation",
        ErrorCode::TooLarge => "too-large",
        ErrorCode::NotFound => "not-found",
        ErrorCode::Security => "security",
        ErrorCode::Unknown => "unknown",
    }
}

fn told(error: &Error) -> Value {
    json!([code(error), error.data()])
}

fn name_of(ty: TensorType) -> &'static str {
    match ty {
        TensorType::Fp16 => "FP16",
        TensorType::Fp32 => "FP32",
        TensorType::Fp64 => "FP64",
        TensorType::Bf16 => "BF16",
        TensorType::U8 => "U8",
        TensorType::I32 => "I32",
        TensorType::I64 => "I64",
    }
}

fn context(model: &str) -> GraphExecutionContext {
    let graph = load_by_name(model).unwrap_or_else(|e| panic!("{model}: {}", e.data()));
    let context = graph.init_execution_context();
    context.unwrap_or_else(|e| panic!("{model}: {}", e.data()))
}

/// A tensor of ones.
fn ones(dims: &[u32]) -> Tensor {
    let elements: u32 = dims.iter().product();
    let bytes = 1f32.to_le_bytes().repeat(elements as usize);
    Tensor::new(dims, TensorType::Fp32, &bytes)
}

type Computed = Result<Vec<(String, Tensor)>, Error>;

fn compute(context: &GraphExecutionContext, name: &str, tensor: Tensor) -> Computed {
    context.compute(vec![(name.to_owned(), tensor)])
}

fn shown(computed: &Computed) -> Value {
    match computed {
        Ok(outputs) => outputs
            .iter()
            .map(|(name, tensor)| {
                let sum: u64 = tensor.data().iter().map(|&b| u64::from(b)).sum();
                json!({
                    "name": name, "dims": tensor.dimensions(), "ty": name_of(tensor.ty()),
                    "bytes": tensor.data().len(), "sum": sum,
                })
            })
            .collect(),
        Err(error) => told(error),
    }
}

pub fn every_call_answers(_: &Call) -> Value {
    let input = ones(&[2, 4]);
    let seen = json!([
        input.dimensions(),
        name_of(input.ty()),
        input.data().len(),
        input.data().len()
    ]);
    let computed = compute(&context("identity@1"), "a", input);
    json!({ "input": seen, "outputs": shown(&computed) })
}

pub fn every_type_and_shape_reads_back(_: &Call) -> Value {
    use TensorType::*;
    let mut seen = Vec::new();
    for (ty, size) in [
        (Fp16, 2),
        (Fp32, 4),
        (Fp64, 8),
        (Bf16, 2),
        (U8, 1),
        (I32, 4),
        (I64, 8),
    ] {
        for dims in [&[][..], &[1], &[3, 5], &[0, 7], &[1; 40]] {
            let elements: usize = dims.iter().map(|&d| d as usize).product();
            let bytes: Vec<u8> = (0..elements * size).map(|n| n as u8).collect();
            let tensor = Tensor::new(dims, ty, &bytes);
            let same = tensor.dimensions() == dims
                && tensor.ty() == ty
                && tensor.data() == bytes
                && tensor.data() == bytes;
            seen.push(json!([name_of(ty), dims, same]));
        }
    }
    // A tensor's declared type and shape are kept, true or not, until a run uses them.
    let liar = Tensor::new(&[u32::MAX; 3], I64, &[1, 2, 3]);
    let same = liar.dimensions() == [u32::MAX; 3] && liar.data() == [1, 2, 3];
    seen.push(json!(["liar", [], same]));
    seen.into()
}

pub fn a_graph_dropped_before_its_context(_: &Call) -> Value {
    let graph = load_by_name("identity").map_err(|e| e.data()).unwrap();
    let context = graph
        .init_execution_context()
        .map_err(|e| e.data())
        .unwrap();
    drop(graph);
    shown(&compute(&context, "a", ones(&[1, 4])))
}

pub fn a_context_dropped_before_its_outputs(_: &Call) -> Value {
    let context = context("identity");
    let computed = compute(&context, "a", ones(&[1, 4]));
    drop(context);
    // Other tensors come and go in the meantime.
    for _ in 0..100 {
        drop(ones(&[64, 4]));
    }
    shown(&computed)
}

pub fn an_error_outlives_what_raised_it(_: &Call) -> Value {
    let context = context("identity");
    let Err(kept) = compute(&context, "nobody", ones(&[1, 4])) else {
        return Value::Null;
    };
    let before = told(&kept);
    drop(context);
    let others: Vec<Error> = (0..100)
        .filter_map(|n| load_by_name(&format!("missing{n}")).err())
        .collect();
    let between = others.len();
    drop(others);
    json!({ "before": before, "after": told(&kept), "between": between })
}

pub fn many_graphs_and_contexts_of_one_model(_: &Call) -> Value {
    let graphs: Vec<_> = (0..20)
        .map(|_| load_by_name("identity").map_err(|e| e.data()).unwrap())
        .collect();
    let contexts: Vec<_> = graphs
        .iter()
        .flat_map(|graph| {
            [
                graph.init_execution_context(),
                graph.init_execution_context(),
            ]
        })
        .map(|context| context.map_err(|e| e.data()).unwrap())
        .collect();
    drop(graphs);
    let right = contexts
        .iter()
        .filter(|context| compute(context, "a", ones(&[1, 4])).is_ok());
    json!([right.count(), contexts.len()])
}

pub fn shapes_that_lie(_: &Call) -> Value {
    use TensorType::*;
    let identity = context("identity");
    let lies: &[(&str, &[u32], TensorType, usize)] = &[
        ("fewer bytes than the shape", &[2, 4], Fp32, 28),
        ("more bytes than the shape", &[2, 4], Fp32, 36),
        ("no bytes", &[1, 4], Fp32, 0),
        ("a product beyond 32 bits", &[65_536, 65_536, 4], Fp32, 16),
        ("a product beyond 64 bits", &[u32::MAX; 4], Fp32, 16),
        (
            "a product that wraps to the bytes",
            &[1 << 31, 1 << 31, 4],
            Fp32,
            0,
        ),
        (
            "zero times more than fits",
            &[0, u32::MAX, u32::MAX, u32::MAX],
            Fp32,
            0,
        ),
        ("no items", &[0, 4], Fp32, 0),
        ("an empty axis", &[1, 0], Fp32, 0),
        ("a scalar", &[], Fp32, 4),
        ("too few dimensions", &[4], Fp32, 16),
        ("too many dimensions", &[1, 1, 4], Fp32, 16),
        ("seventeen dimensions", &[1; 17], Fp32, 4),
        ("a hundred thousand dimensions", &[1; 100_000], Fp32, 4),
        ("another fixed length", &[1, 5], Fp32, 20),
        ("the right length in another type", &[1, 4], I32, 16),
        ("a wider type", &[1, 4], Fp64, 32),
        ("a narrower type", &[1, 4], Fp16, 8),
        ("bytes", &[1, 4], U8, 4),
    ];
    lies.iter()
        .map(|(what, dims, ty, bytes)| {
            let tensor = Tensor::new(dims, *ty, &vec![0; *bytes]);
            json!([what, shown(&compute(&identity, "a", tensor))])
        })
        .collect()
}

pub fn names_that_are_wrong(_: &Call) -> Value {
    let identity = context("identity");
    let one = || ones(&[1, 4]);
    let named = |names: &[&str]| {
        let inputs = names.iter().map(|name| ((*name).to_owned(), one()));
        shown(&identity.compute(inputs.collect()))
    };
    let long = "é".repeat(MEGABYTE / 2);
    json!([
        ["none", named(&[])],
        ["empty", named(&[""])],
        ["another", named(&["x"])],
        ["an output's", named(&["b"])],
        ["other case", named(&["A"])],
        ["with a zero", named(&["a\0"])],
        ["twice", named(&["a", "a"])],
        ["right and wrong", named(&["a", "x"])],
        ["a megabyte", named(&[&long])],
        ["two thousand", named(&vec!["x"; 2000])],
    ])
}

pub fn hostile_model_names(_: &Call) -> Value {
    let long = "m".repeat(MEGABYTE);
    let names = [
        "",
        ".",
        "..",
        "/",
        "../identity",
        "../models/identity",
        "/etc/passwd",
        "/models/identity",
        "identity/",
        "identity/1",
        "identity/../identity",
        "./identity",
        "identity\0",
        "\0",
        "identity\n",
        " identity",
        "IDENTITY",
        "idéntity",
        "\u{202e}ytitnedi",
        "@",
        "@1",
        "identity@",
        "identity@0",
        "identity@01",
        "identity@+1",
        "identity@-1",
        "identity@1 ",
        "identity@ 1",
        "identity@1.0",
        "identity@one",
        "identity@١",
        "identity@2",
        "identity@4294967297",
        "identity@18446744073709551617",
        "identity@99999999999999999999",
        "identity@1@1",
        "identity@@1",
        "identity@../1",
        "identity@1#",
        "identity@1#x",
        "identity@1#256",
        "identity@1~",
        "identity@1~01",
        "identity@1~4294967296",
        "identity@1~5#1",
        "identity@1!shadow!shadow",
        "identity@1!Shadow",
        "identity@2#1~5",
        "missing",
        "broken",
        "broken@1",
        &long,
    ];
    names
        .iter()
        .map(|name| {
            let shown: String = name.chars().take(40).collect();
            match load_by_name(name) {
                Ok(_) => json!([shown, ["loaded", ""]]),
                Err(error) => json!([shown, told(&error)]),
            }
        })
        .collect()
}

pub fn nothing_is_loaded_from_bytes(_: &Call) -> Value {
    use ExecutionTarget::*;
    use GraphEncoding::*;
    let large = vec![7u8; MEGABYTE];
    let mut seen = Vec::new();
    for encoding in [
        Openvino,
        Onnx,
        Tensorflow,
        Pytorch,
        Tensorflowlite,
        Ggml,
        Autodetect,
    ] {
        for target in [Cpu, Gpu, Tpu] {
            for builder in [&[][..], std::slice::from_ref(&large)] {
                seen.push(match load(builder, encoding, target) {
                    Ok(_) => json!(["loaded", ""]),
                    Err(error) => told(&error),
                });
            }
        }
    }
    seen.into()
}

pub fn computes_again_after_an_error(_: &Call) -> Value {
    let identity = context("identity");
    let wrong = shown(&compute(&identity, "a", ones(&[1, 5])));
    let right = shown(&compute(&identity, "a", ones(&[1, 4])));
    let wrong_again = shown(&compute(&identity, "x", ones(&[1, 4])));
    let right_again = shown(&compute(&identity, "a", ones(&[3, 4])));
    json!([wrong, right, wrong_again, right_again])
}

pub fn computes_ten_thousand_times(_: &Call) -> Value {
    let identity = context("identity");
    let right = (0..10_000u32).filter(|n| {
        let number = f32::from_bits(*n);
        let bytes = number.to_le_bytes().repeat(4);
        let input = Tensor::new(&[1, 4], TensorType::Fp32, &bytes);
        compute(&identity, "a", input)
            .is_ok_and(|outputs| outputs.len() == 1 && outputs[0].1.data() == bytes)
    });
    json!(right.count())
}

/// The sum of a column of `rows` and a row of `columns`.
pub fn outputs_too_large(call: &Call) -> Value {
    let outer = context("outer");
    let computed = outer.compute(vec![
        ("rows".to_owned(), ones(&[call.number("rows") as u32, 1])),
        (
            "columns".to_owned(),
            ones(&[1, call.number("columns") as u32]),
        ),
    ]);
    match &computed {
        Ok(outputs) => json!(["computed", outputs[0].1.dimensions()]),
        Err(error) => told(error),
    }
}

/// Keeps this many unneeded objects until the request ends.
pub fn hoards(call: &Call) -> Value {
    let count = call.number("count");
    let identity = context("identity");
    let graph = load_by_name("identity").map_err(|e| e.data()).unwrap();
    let (mut tensors, mut errors, mut graphs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut contexts, mut outputs) = (Vec::new(), Vec::new());
    for _ in 0..count {
        match call.text("what") {
            "tensors" => tensors.push(ones(&[1])),
            "bytes" => tensors.push(Tensor::new(&[], TensorType::U8, &vec![0; MEGABYTE])),
            "errors" => errors.extend(load_by_name("missing").err()),
            "graphs" => graphs.extend(load_by_name("identity").ok()),
            "contexts" => contexts.extend(graph.init_execution_context().ok()),
            "outputs" => outputs.extend(compute(&identity, "a", ones(&[1, 4])).ok()),
            _ => return Value::Null,
        }
    }
    json!(tensors.len() + errors.len() + graphs.len() + contexts.len() + outputs.len())
}

/// Never drops some of its objects.
pub fn leaks_a_little(call: &Call) -> Value {
    let count = call.number("count");
    for _ in 0..count {
        std::mem::forget(ones(&[1]));
        std::mem::forget(load_by_name("missing").err());
    }
    json!(count)
}

/// The same handle, as only a component without these bindings would pass it.
fn alias(tensor: &Tensor) -> Tensor {
    // SAFETY: no memory is affected: a handle is an index that the host checks.
    unsafe { Tensor::from_handle(tensor.handle()) }
}

pub fn one_tensor_passed_twice(_: &Call) -> Value {
    let identity = context("identity");
    let tensor = ones(&[1, 4]);
    let twice = vec![("a".to_owned(), alias(&tensor)), ("b".to_owned(), tensor)];
    shown(&identity.compute(twice))
}

pub fn a_dropped_handle(_: &Call) -> Value {
    let tensor = ones(&[1, 4]);
    let same = alias(&tensor);
    drop(tensor);
    json!(same.data())
}

pub fn a_made_up_handle(call: &Call) -> Value {
    // SAFETY: as above.
    let tensor = unsafe { Tensor::from_handle(call.number("handle") as u32) };
    json!(tensor.data())
}

pub fn waits_for_a_slow_model(_: &Call) -> Value {
    let begun = Instant::now();
    let computed = compute(&context("slow"), "a", ones(&[1, 1]));
    json!({ "computed": shown(&computed), "ms": begun.elapsed().as_millis() as u64 })
}

/// Opens `slow` with `terms` in its name and computes.
pub fn waits_no_longer_than_it_says(call: &Call) -> Value {
    let context = context(&format!("slow@1{}", call.text("terms")));
    shown(&compute(&context, "a", ones(&[1, 1])))
}

/// Two shadow runs of `identity`, the first with the right answer, and the faults of others.
pub fn runs_in_the_shadow(_: &Call) -> Value {
    let open = |name: &str| {
        let graph = load_by_name(name)?;
        graph.init_execution_context()
    };
    let identity = match open("identity@1!shadow") {
        Ok(context) => context,
        Err(error) => return told(&error),
    };
    let named = |tensors: &[(&str, u32)]| {
        let tensor = |(name, rows): &(&str, u32)| ((*name).to_owned(), ones(&[*rows, 4]));
        shown(&identity.compute(tensors.iter().map(tensor).collect()))
    };
    let long = "é".repeat(MEGABYTE / 2);
    json!({
        "agrees": named(&[("input/a", 2), ("expected/b", 2)]),
        "differs": named(&[("input/a", 2), ("expected/b", 3)]),
        "wrong": [
            named(&[("expected/b", 2)]),
            named(&[("input/x", 2), ("expected/b", 2)]),
            named(&[("input/a", 2), ("input/a", 2)]),
            named(&[("a", 2), ("b", 2)]),
            named(&[(&long, 2)]),
            named(&[]),
        ],
        "unknown": open("identity@9!shadow").err().map(|error| told(&error)),
        "broken": open("broken@1!shadow").err().map(|error| told(&error)),
    })
}

/// Every type of `penstock:nn/tensors` under its name in the protocol, with the bytes of one element; none for strings.
const ELEMENTS: [(ElementType, &str, Option<usize>); 22] = [
    (ElementType::Fp16, "FP16", Some(2)),
    (ElementType::Fp32, "FP32", Some(4)),
    (ElementType::Fp64, "FP64", Some(8)),
    (ElementType::Bf16, "BF16", Some(2)),
    (ElementType::Uint8, "UINT8", Some(1)),
    (ElementType::Int32, "INT32", Some(4)),
    (ElementType::Int64, "INT64", Some(8)),
    (ElementType::BoolValue, "BOOL", Some(1)),
    (ElementType::Int8, "INT8", Some(1)),
    (ElementType::Int16, "INT16", Some(2)),
    (ElementType::Uint16, "UINT16", Some(2)),
    (ElementType::Uint32, "UINT32", Some(4)),
    (ElementType::Uint64, "UINT64", Some(8)),
    (ElementType::Bytes, "BYTES", None),
    (ElementType::Int2, "INT2", Some(1)),
    (ElementType::Uint2, "UINT2", Some(1)),
    (ElementType::Int4, "INT4", Some(1)),
    (ElementType::Uint4, "UINT4", Some(1)),
    (ElementType::Fp8E4m3fn, "FP8E4M3FN", Some(1)),
    (ElementType::Fp8E4m3fnuz, "FP8E4M3FNUZ", Some(1)),
    (ElementType::Fp8E5m2, "FP8E5M2", Some(1)),
    (ElementType::Fp8E5m2fnuz, "FP8E5M2FNUZ", Some(1)),
];

fn element_name(ty: ElementType) -> &'static str {
    let found = ELEMENTS.iter().find(|(other, _, _)| *other == ty);
    found.map_or("", |(_, name, _)| name)
}

/// Texts as `penstock:nn/tensors` carries them.
fn texts(texts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

pub fn every_element_type_reads_back(_: &Call) -> Value {
    let mut seen = Vec::new();
    for (ty, name, size) in ELEMENTS {
        for dims in [&[][..], &[1], &[3, 5], &[0, 7]] {
            let elements: usize = dims.iter().map(|&d| d as usize).product();
            let bytes = match size {
                Some(size) => (0..elements * size).map(|n| n as u8 & 1).collect(),
                None => texts(&vec!["é"; elements]),
            };
            let tensor = tensors::create(dims, ty, &bytes);
            let same = tensor.dimensions() == dims
                && tensors::type_of(&tensor) == ty
                && tensor.data() == bytes;
            seen.push(json!([name, dims, same]));
        }
    }
    seen.into()
}

/// The result of `penstock:nn/tensors` for one row of two elements.
fn computed_as(model: &str, ty: ElementType, dims: &[u32], bytes: &[u8]) -> Value {
    let context = match load_by_name(model).and_then(|graph| graph.init_execution_context()) {
        Ok(context) => context,
        Err(error) => return told(&error),
    };
    let tensor = tensors::create(dims, ty, bytes);
    match tensors::compute(&context, vec![("a".to_owned(), tensor)]) {
        Ok(outputs) => outputs
            .iter()
            .map(|(name, tensor)| {
                let ty = element_name(tensors::type_of(tensor));
                json!([name, ty, tensor.dimensions(), tensor.data() == bytes])
            })
            .collect(),
        Err(error) => told(&error),
    }
}

/// Models that return their inputs: through `penstock:nn/tensors`, and through `wasi:nn` as far as it supports them.
pub fn every_element_type_computes(_: &Call) -> Value {
    let wide = [u64::MAX.to_le_bytes(), 1u64.to_le_bytes()].concat();
    let plain = |model: &str, bytes: &[u8]| {
        let tensor = Tensor::new(&[1, 2], TensorType::U8, bytes);
        shown(&compute(&context(model), "a", tensor))
    };
    json!({
        "flags": computed_as("flags", ElementType::BoolValue, &[1, 2], &[1, 0]),
        "wide": computed_as("wide", ElementType::Uint64, &[1, 2], &wide),
        "words": computed_as("words", ElementType::Bytes, &[1, 2], &texts(&["", "grün"])),
        "identity": computed_as("identity", ElementType::Fp32, &[1, 4], &[0; 16]),
        "flags through wasi:nn": plain("flags", &[0, 1]),
    })
}

pub fn elements_that_lie(_: &Call) -> Value {
    let one = |model: &str, ty, dims: &[u32], bytes: &[u8]| computed_as(model, ty, dims, bytes);
    let mut cut = texts(&["a", "b"]);
    cut.pop();
    let far = [&u32::MAX.to_le_bytes()[..], b"ab"].concat();
    json!([
        [
            "neither 0 nor 1",
            one("flags", ElementType::BoolValue, &[1, 2], &[1, 2])
        ],
        [
            "no elements",
            one("flags", ElementType::BoolValue, &[0, 2], &[])
        ],
        [
            "fewer bytes",
            one("wide", ElementType::Uint64, &[1, 2], &[0; 15])
        ],
        [
            "more bytes",
            one("wide", ElementType::Uint64, &[1, 2], &[0; 24])
        ],
        ["signed", one("wide", ElementType::Int64, &[1, 2], &[0; 16])],
        [
            "as bytes",
            one("wide", ElementType::Uint8, &[1, 16], &[0; 16])
        ],
        [
            "numbers for texts",
            one("words", ElementType::Uint8, &[1, 2], &[0; 2])
        ],
        [
            "a text cut off",
            one("words", ElementType::Bytes, &[1, 2], &cut)
        ],
        [
            "a length beyond the end",
            one("words", ElementType::Bytes, &[1, 1], &far)
        ],
        [
            "half a length",
            one("words", ElementType::Bytes, &[1, 1], &[0; 3])
        ],
        [
            "fewer texts",
            one("words", ElementType::Bytes, &[1, 2], &texts(&["a"]))
        ],
        [
            "more texts",
            one(
                "words",
                ElementType::Bytes,
                &[1, 2],
                &texts(&["a", "b", "c"])
            )
        ],
        [
            "texts for numbers",
            one("identity", ElementType::Bytes, &[1, 4], &texts(&["a"; 4]))
        ],
    ])
}

/// `tensor.ty` of `wasi:nn` has no value for it.
pub fn a_type_that_wasi_nn_lacks(call: &Call) -> Value {
    let (ty, _, size) = ELEMENTS[call.number("element") % ELEMENTS.len()];
    let bytes = size.map_or_else(|| texts(&["a"]), |size| vec![0; size]);
    json!(name_of(tensors::create(&[1], ty, &bytes).ty()))
}

/// A model that divides by the largest of its rows, and one whose rows do not depend on each other.
pub fn rows_that_were_put_together(_: &Call) -> Value {
    let ask = |name: &str, dims: &[u32]| shown(&compute(&context(name), "a", ones(dims)));
    json!({
        "relative": ask("relative@1", &[3, 1]),
        "relative, joined": ask("relative@1!joined", &[3, 1]),
        "identity, joined": ask("identity@1!joined", &[2, 4]),
    })
}

/// The time of a round over the border: a tensor in, a run, the bytes out. Microseconds of each.
pub fn crossing(call: &Call) -> Value {
    let rows = (call.number("bytes") / 16).max(1) as u32;
    let identity = context("identity");
    let bytes = vec![1u8; rows as usize * 16];
    let mut took = Vec::new();
    for _ in 0..call.number("count") {
        let begun = Instant::now();
        let input = Tensor::new(&[rows, 4], TensorType::Fp32, &bytes);
        let made = begun.elapsed();
        let outputs = compute(&identity, "a", input).unwrap_or_else(|e| panic!("{}", e.data()));
        let computed = begun.elapsed();
        let read = outputs[0].1.data();
        let done = begun.elapsed();
        assert_eq!(read.len(), bytes.len());
        let us = |from: std::time::Duration, to: std::time::Duration| {
            ((to - from).as_nanos() as f64 / 100.0).round() / 10.0
        };
        took.push(json!([
            us(std::time::Duration::ZERO, made),
            us(made, computed),
            us(computed, done),
            us(std::time::Duration::ZERO, done)
        ]));
    }
    took.into()
}
