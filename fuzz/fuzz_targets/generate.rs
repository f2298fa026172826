//! Bodies of generate: no panic, and what is accepted meets the contract and survives being written as an answer and
//! read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_tensor::{Contract, Unknown, check_tensors, generate};
use std::sync::LazyLock;

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    Contract::parse(include_str!("model.toml")).expect("the targets' contract is valid")
});

fuzz_target!(|body: &[u8]| {
    let Ok(parsed) = generate::parse(body, &CONTRACT, Unknown::Ignore) else {
        return;
    };
    check_tensors(&parsed.inputs, &CONTRACT).expect("what was parsed meets the contract");
    let answer = generate::render("m", "1", None, &parsed.inputs, &CONTRACT, 0);
    let text = std::str::from_utf8(&answer).expect("JSON is UTF-8");
    let inputs = text.strip_prefix("{\"model_name\":\"m\",\"model_version\":\"1\",");
    let again = format!("{{{}", inputs.expect("the answer begins with its names"));
    let again = generate::parse(again.as_bytes(), &CONTRACT, Unknown::Refuse).expect("what was written is taken");
    assert_eq!(again.inputs, parsed.inputs);
});
