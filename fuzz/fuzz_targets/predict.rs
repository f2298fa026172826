//! `:predict` bodies: no panic, JSON exactly where serde_json finds JSON, and numbers that equal the
//! standard library's reading of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_core::Code;
use penstock_tensor::{Contract, Datatype, check_tensors, parse_predict};
use serde_json::Value;
use std::sync::LazyLock;

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    Contract::parse(include_str!("model.toml")).expect("the targets' contract is valid")
});

/// Rules by which this server is stricter than RFC 8259's grammar on purpose.
const STRICTER: [&str; 3] = ["duplicate_member", "too_deep", "too_many_members"];

fn scalars<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| scalars(value, out)),
        value => out.push(value),
    }
}

fuzz_target!(|body: &[u8]| {
    let ours = parse_predict(body, &CONTRACT);
    let theirs = match serde_json::from_slice::<Value>(body) {
        // A magnitude beyond double precision is no matter of syntax here.
        Err(error) if error.to_string().contains("number out of range") => return,
        other => other,
    };
    match &ours {
        Err(rejection) if rejection.code == Code::MalformedJson => {
            let stricter = STRICTER.contains(&rejection.violations[0].rule.as_str());
            assert!(
                stricter || theirs.is_err(),
                "only serde_json takes it: {rejection}"
            );
        }
        _ => assert!(theirs.is_ok(), "only we take it: {theirs:?}"),
    }
    let (Ok(request), Ok(theirs)) = (ours, theirs) else {
        return;
    };
    check_tensors(&request.inputs, &CONTRACT).expect("what was parsed meets the contract");
    for tensor in &request.inputs {
        let mut values = Vec::new();
        scalars(&theirs["inputs"][&tensor.name], &mut values);
        let numbers = values.iter().filter_map(|value| value.as_f64());
        match tensor.datatype {
            Datatype::Fp32 => {
                // serde_json rounds to a double first, so the last place may differ.
                for (bytes, theirs) in tensor.data.as_chunks::<4>().0.iter().zip(numbers) {
                    let ours = f32::from_le_bytes(*bytes);
                    assert!(
                        (ours.to_bits()).abs_diff((theirs as f32).to_bits()) <= 1,
                        "{ours} {theirs}"
                    );
                }
            }
            Datatype::Int32 => {
                for (bytes, theirs) in tensor.data.as_chunks::<4>().0.iter().zip(numbers) {
                    assert_eq!(f64::from(i32::from_le_bytes(*bytes)), theirs);
                }
            }
            _ => {}
        }
    }
});
