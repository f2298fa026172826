//! One caller's numbers never change another's answer, over HTTP: models whose rows depend on each other, on our host
//! and in WebAssembly, with and without a result cache.

use crate::common;
use crate::support::graphs;

use common::{Options, Server};
use graphs::{FLOAT, file, graph, int, node, reals, scalar, tensor, value};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wide and deep enough that calls wait for each other on one instance.
const WIDTH: u64 = 256;
const LAYERS: usize = 6;

const NEIGHBOURS: usize = 12;
const ROUNDS: usize = 40;

fn contract(width: u64, out: u64, more: &str) -> String {
    format!(
        "description = \"for tests\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\", {width}]\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [\"N\", {out}]\n[engine]\nlanes = 1\n{more}"
    )
}

/// The same numbers on every machine.
fn numbers(count: u64, seed: u64, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) + 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * size
        })
        .collect()
}

/// Layers after the case's own operations on `x`, whose result is named `h0`.
fn deep(first: Vec<Vec<u8>>, mut constants: Vec<Vec<u8>>) -> Vec<u8> {
    let mut nodes = first;
    for layer in 0..LAYERS {
        let (w, a) = (format!("w{layer}"), format!("a{layer}"));
        constants.push(reals(
            &w,
            &[WIDTH, WIDTH],
            &numbers(WIDTH * WIDTH, layer as u64, 0.3),
        ));
        nodes.push(node("MatMul", &[&format!("h{layer}"), &w], &[&a], &[]));
        nodes.push(node("Relu", &[&a], &[&format!("h{}", layer + 1)], &[]));
    }
    constants.push(reals("last", &[WIDTH, 3], &numbers(WIDTH * 3, 99, 0.01)));
    nodes.push(node(
        "MatMul",
        &[&format!("h{LAYERS}"), "last"],
        &["z"],
        &[],
    ));
    nodes.push(node("Softmax", &["z"], &["y"], &[]));
    file(&graph(
        &nodes,
        &constants,
        &[value("x", FLOAT, &[0, WIDTH])],
        &[value("y", FLOAT, &[0, 3])],
    ))
}

fn running_sum() -> Vec<u8> {
    file(&graph(
        &[node("CumSum", &["x", "axis"], &["y"], &[])],
        &[scalar("axis", 0)],
        &[value("x", FLOAT, &[0, 4])],
        &[value("y", FLOAT, &[0, 4])],
    ))
}

fn put(folder: &Path, name: &str, contract: &str, graph: &[u8]) {
    let version = folder.join(name).join("1");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::write(version.join("model.onnx"), graph).unwrap();
    std::fs::write(folder.join(name).join("model.toml"), contract).unwrap();
}

fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let own = contract(WIDTH, 3, "");
    let relative = deep(
        vec![
            node("ReduceMax", &["x"], &["m"], &[int("keepdims", 0)]),
            node("Div", &["x", "m"], &["h0"], &[]),
        ],
        Vec::new(),
    );
    put(at, "relative", &own, &relative);
    let weights: Vec<u8> = numbers(WIDTH * WIDTH, 7, 250.0)
        .iter()
        .map(|x| (*x + 128.0) as u8)
        .collect();
    let quantised = deep(
        vec![
            node("DynamicQuantizeLinear", &["x"], &["q", "s", "z0"], &[]),
            node("MatMulInteger", &["q", "qw", "z0"], &["i"], &[]),
            node("Cast", &["i"], &["f"], &[int("to", FLOAT)]),
            node("Mul", &["s", "k"], &["scale"], &[]),
            node("Mul", &["f", "scale"], &["h0"], &[]),
        ],
        vec![
            tensor("qw", 2, &[WIDTH, WIDTH], &weights),
            reals("k", &[1], &[0.001]),
        ],
    );
    put(at, "quantised", &own, &quantised);
    let plain = deep(vec![node("Identity", &["x"], &["h0"], &[])], Vec::new());
    put(at, "plain", &own, &plain);
    put(at, "running-sum", &contract(4, 4, ""), &running_sum());
    let off = contract(4, 4, "[batching]\nenabled = false\n");
    put(at, "running-sum-alone", &off, &running_sum());
    folder
}

fn body(row: &[f32]) -> String {
    json!({ "inputs": { "x": [row] } }).to_string()
}

fn answer(server: &Server, model: &str, row: &[f32]) -> Value {
    let answer = server.post_json(&format!("/v1/models/{model}:predict"), &body(row));
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    answer.json()["predictions"].clone()
}

/// The answers to a caller, again and again, while others send rows of another size.
fn beside(server: &Server, model: &str, row: &[f32], size: f32) -> Vec<Value> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for neighbour in 0..NEIGHBOURS as u64 {
            let over = &over;
            scope.spawn(move || {
                let mut round = 0;
                while !over.load(Ordering::SeqCst) {
                    round += 1;
                    answer(
                        server,
                        model,
                        &numbers(WIDTH, neighbour * 1_000 + round, size),
                    );
                }
            });
        }
        let answers = (0..ROUNDS).map(|_| answer(server, model, row)).collect();
        over.store(true, Ordering::SeqCst);
        answers
    })
}

#[test]
fn an_answer_is_the_same_alone_and_beside_neighbours_to_the_last_bit() {
    let models = models();
    let server = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    for (model, operator) in [
        ("relative", "ReduceMax"),
        ("quantised", "DynamicQuantizeLinear"),
    ] {
        let line = server.logged(&format!("model {model} version 1: ready"));
        assert!(
            line.contains("one by one") && line.contains(operator),
            "{line}"
        );
    }
    let line = server.logged("model plain version 1: ready");
    assert!(line.contains("calls share runs"), "{line}");
    for model in ["relative", "quantised", "plain"] {
        let row = numbers(WIDTH, 42, 2.0);
        let alone = answer(&server, model, &row);
        for together in beside(&server, model, &row, 1e4) {
            assert_eq!(together, alone, "{model}");
        }
    }
}

#[test]
fn a_result_cache_keeps_the_lone_answer() {
    let models = models();
    let policy = "[[cache]]\nmodel = \"quantised\"\nscope = \"shared\"\n";
    let fresh = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    let row = numbers(WIDTH, 42, 2.0);
    let alone = answer(&fresh, "quantised", &row);
    let server = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        policy: Some(policy),
        ..Options::default()
    });
    for kept in beside(&server, "quantised", &row, 1e4) {
        assert_eq!(kept, alone);
    }
}

#[test]
fn the_requests_of_a_batch_do_not_change_each_other_whether_joining_is_on_or_off() {
    let models = models();
    let requests = json!({ "requests": [
        { "inputs": { "x": [[1, 2, 3, 4]] } },
        { "inputs": { "x": [[10, 20, 30, 40]] } },
    ] });
    for in_webassembly in [false, true] {
        let server = Server::start_with(Options {
            models: Some(models.path().to_owned()),
            in_webassembly,
            tract: in_webassembly,
            ..Options::default()
        });
        for model in ["running-sum", "running-sum-alone"] {
            let path = format!("/v1/models/{model}:batchPredict");
            let answer = server.post_json(&path, &requests.to_string());
            let text = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert_eq!(answer.status, 200, "{text}");
            let results = &answer.json()["results"];
            for (at, row) in [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]
                .iter()
                .enumerate()
            {
                assert_eq!(
                    results[at]["predictions"],
                    json!([{ "y": row }]),
                    "{model}, in WebAssembly: {in_webassembly}"
                );
            }
            // A caller's own tensor of two rows is one run, as asked.
            let own = json!({ "inputs": { "x": [[1, 2, 3, 4], [10, 20, 30, 40]] } }).to_string();
            let answer = server.post_json(&format!("/v1/models/{model}:predict"), &own);
            assert_eq!(
                answer.json()["predictions"][1],
                json!({ "y": [11.0, 22.0, 33.0, 44.0] })
            );
        }
    }
}
