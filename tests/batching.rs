//! Callers of the built server share runs of a real model. No caller gets another's answer or another's error.

use crate::common;

use common::{Options, Server, root};
use serde_json::{Value, json};

const CALLERS: usize = 16;
const ROUNDS: usize = 4;
/// Largest difference between vectors of the same sentence, alone and in a batch: sums come in another order.
const TOLERANCE: f64 = 1e-4;

/// A different sentence for every number, from 2 to 24 tokens.
fn sentence(number: usize) -> String {
    let length = 2 + number * 7 % 23;
    let ids: Vec<usize> = (0..length)
        .map(|at| 1000 + (number * 131 + at * 17) % 20_000)
        .collect();
    let inputs = json!({
        "input_ids": [ids],
        "attention_mask": [vec![1; length]],
        "token_type_ids": [vec![0; length]],
    });
    json!({ "inputs": inputs }).to_string()
}

fn vectors(server: &Server, body: &str) -> Vec<Vec<f64>> {
    let answer = server.post_json("/v1/models/minilm:predict", body);
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    let value = answer.json();
    let tokens = value["predictions"][0]["last_hidden_state"].as_array();
    let tokens = tokens.unwrap_or_else(|| panic!("no vectors in {value}"));
    let numbers = |token: &Value| {
        token
            .as_array()
            .expect("a vector")
            .iter()
            .map(|x| x.as_f64().expect("a number"))
            .collect()
    };
    tokens.iter().map(numbers).collect()
}

/// Calls and runs of a model, from the log when the server stops.
fn told(server: &mut Server, model: &str) -> (usize, usize) {
    let (code, _) = server.terminate();
    assert_eq!(code, Some(0));
    // Only this model is called.
    let line = server.logged(" calls answered in ");
    assert!(
        line.contains(&format!("model {model} version 1: ")),
        "{line}"
    );
    let numbers = line.split_once("version 1: ").and_then(|(_, rest)| {
        let (calls, rest) = rest.split_once(" calls answered in ")?;
        let (runs, _) = rest.split_once(" runs")?;
        Some((calls.parse().ok()?, runs.parse().ok()?))
    });
    numbers.unwrap_or_else(|| panic!("no counts in {line}"))
}

/// The served model, with shared runs for sentences of different lengths.
fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (root().join("models/minilm"), folder.path().join("minilm"));
    std::fs::create_dir_all(to.join("1")).unwrap();
    let contract = std::fs::read_to_string(from.join("model.toml")).unwrap();
    let padding = "[batching.padding]\naxis = \"S\"\nmax_tokens = 4096\n";
    std::fs::write(to.join("model.toml"), format!("{contract}\n{padding}")).unwrap();
    for file in ["1/model.onnx", "sentence.json"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    folder
}

fn sentences_of_many_callers_share_runs(door: &'static str) {
    let models = models();
    let mut server = Server::start_with(Options {
        door: Some(door),
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    let alone: Vec<_> = (0..CALLERS)
        .map(|number| vectors(&server, &sentence(number)))
        .collect();
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (server, alone) = (&server, &alone);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let number = (caller + round * 5) % CALLERS;
                    let together = vectors(server, &sentence(number));
                    let expected = &alone[number];
                    assert_eq!(
                        together.len(),
                        expected.len(),
                        "as many tokens as were sent"
                    );
                    for (a, b) in together.iter().flatten().zip(expected.iter().flatten()) {
                        assert!((a - b).abs() < TOLERANCE, "{a} in company and {b} alone");
                    }
                }
            });
        }
    });
    let (calls, runs) = told(&mut server, "minilm");
    println!("{door} door: {calls} calls in {runs} runs");
    assert_eq!(calls, CALLERS * (ROUNDS + 1));
    assert!(runs < calls, "no call shared a run");
}

#[test]
fn sentences_of_many_callers_share_runs_and_each_gets_its_own_vectors() {
    for door in ["direct", "http"] {
        sentences_of_many_callers_share_runs(door);
    }
}
