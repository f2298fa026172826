//! Bodies with bytes behind their JSON: no panic, and what is accepted meets the contract and survives being written
//! behind JSON and read again. The first line of the input is the value of `Inference-Header-Content-Length`; without
//! one, it is of the body that follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_tensor::binary::{Framed, fill, frame, raw};
use penstock_tensor::classification::classify;
use penstock_tensor::render::write_infer_response;
use penstock_tensor::{Contract, InferRequest, Tensor, Unknown, check_tensors, parse_infer};
use std::sync::LazyLock;

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    Contract::parse(include_str!("model.toml")).expect("the targets' contract is valid")
});

/// One input of open shape, for bodies without JSON.
static ONE: LazyLock<Contract> = LazyLock::new(|| {
    let text = "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP16\"\nshape = [\"N\", \"T\", 2]\n\
                [[outputs]]\nname = \"y\"\ndatatype = \"FP16\"\nshape = [\"N\", \"T\", 2]\n[axes]\nT = { max = 9 }\n";
    Contract::parse(text).expect("the target's contract is valid")
});

fn read(length: Option<&str>, body: &[u8]) -> Option<(InferRequest, &'static Contract)> {
    let (request, contract) = match frame(length, body).ok()? {
        Framed::Raw(body) => (raw(body, &ONE).ok()?, &*ONE),
        Framed::Json { json, tail } => {
            let mut request = parse_infer(json, tail.len() as u64, &CONTRACT, Unknown::Ignore).ok()?;
            fill(&mut request.inputs, &request.binary, tail, &CONTRACT).ok()?;
            (request, &*CONTRACT)
        }
    };
    Some((request, contract))
}

/// The tensors as a request, all behind the JSON.
fn request(tensors: &[Tensor]) -> (String, Vec<u8>) {
    let binary = vec![true; tensors.len()];
    let written = write_infer_response("m", "1", None, (tensors, &binary), &[], 0);
    let length = written.header_bytes.expect("there are inputs");
    let (json, tail) = written.body.split_at(length);
    let json = std::str::from_utf8(json).expect("JSON is UTF-8");
    let (_, outputs) = json
        .split_once("\"outputs\":")
        .expect("an answer has outputs");
    let json = format!("{{\"inputs\":{outputs}");
    (json.len().to_string(), [json.as_bytes(), tail].concat())
}

fuzz_target!(|input: &[u8]| {
    let line = input.iter().position(|byte| *byte == b'\n');
    let (length, body) = match line {
        Some(at) => (std::str::from_utf8(&input[..at]).ok(), &input[at + 1..]),
        None => (None, input),
    };
    let Some((parsed, contract)) = read(length, body) else {
        return;
    };
    check_tensors(&parsed.inputs, contract).expect("what was parsed meets the contract");
    for tensor in &parsed.inputs {
        let classes = classify(tensor.clone(), contract, 3).expect("there is memory for it");
        assert!(classes.is_consistent());
    }
    if std::ptr::eq(contract, &*CONTRACT) {
        let (length, body) = request(&parsed.inputs);
        let (again, _) = read(Some(&length), &body).expect("what was written is taken");
        assert_eq!(again.inputs, parsed.inputs);
    }
});
