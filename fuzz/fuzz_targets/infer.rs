//! Inference requests: no panic, and what is accepted meets the contract and survives being
//! rendered and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_tensor::render::{write_flat, write_nested, write_string};
use penstock_tensor::{Contract, Tensor, Unknown, check_tensors, parse_infer};
use std::sync::LazyLock;

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    Contract::parse(include_str!("model.toml")).expect("the targets' contract is valid")
});

/// The tensors as a request, with `data` before the rest or after it.
fn request(tensors: &[Tensor], nested: bool, data_first: bool) -> Vec<u8> {
    let mut body = b"{\"inputs\":[".to_vec();
    for (index, tensor) in tensors.iter().enumerate() {
        let mut data = b"\"data\":".to_vec();
        let replaced = if nested {
            write_nested(&mut data, tensor)
        } else {
            write_flat(&mut data, tensor)
        };
        assert_eq!(replaced, 0, "what was parsed from JSON is JSON");
        let mut rest = b"\"name\":".to_vec();
        write_string(&mut rest, &tensor.name);
        rest.extend(
            format!(
                ",\"shape\":{:?},\"datatype\":\"{}\"",
                tensor.shape, tensor.datatype
            )
            .bytes(),
        );
        let (first, second) = if data_first {
            (data, rest)
        } else {
            (rest, data)
        };
        body.extend_from_slice(if index == 0 { b"{" } else { b",{" });
        body.extend(first);
        body.push(b',');
        body.extend(second);
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    body
}

fuzz_target!(|body: &[u8]| {
    let Ok(parsed) = parse_infer(body, 0, &CONTRACT, Unknown::Ignore) else {
        return;
    };
    check_tensors(&parsed.inputs, &CONTRACT).expect("what was parsed meets the contract");
    for (nested, data_first) in [(false, false), (true, true)] {
        let again = parse_infer(
            &request(&parsed.inputs, nested, data_first),
            0,
            &CONTRACT,
            Unknown::Refuse,
        );
        assert_eq!(
            again.expect("what was written is taken").inputs,
            parsed.inputs
        );
    }
});
