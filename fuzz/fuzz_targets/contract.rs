//! `model.toml`: no panic, faults that lie in the file, and no request that makes a parsed contract
//! panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_tensor::{
    Contract, Unknown, binary::raw, contract::dims_oip, generate, parse_infer, parse_predict,
};

fuzz_target!(|text: &str| {
    match Contract::parse(text) {
        Err(faults) => {
            let lines = text.split('\n').count();
            assert!(!faults.is_empty());
            assert!(
                faults
                    .iter()
                    .all(|fault| (1..=lines).contains(&fault.line) && fault.column >= 1)
            );
        }
        Ok(contract) => {
            for spec in contract.inputs.iter().chain(&contract.outputs) {
                assert_eq!(dims_oip(spec).len(), spec.shape.len().max(1));
                let body = format!("{{\"inputs\":{{{:?}:[[1,2],[3]]}}}}", spec.name);
                let _ = parse_predict(body.as_bytes(), &contract);
            }
            let _ = parse_predict(b"{\"inputs\":[[1.5,-1],[true,\"\"]]}", &contract);
            let _ = parse_infer(
                b"{\"inputs\":[{\"name\":\"x\",\"shape\":[2],\"data\":[1,2]}]}",
                0,
                &contract,
                Unknown::Ignore,
            );
            let _ = raw(&b"01234567".into(), &contract);
            let _ = generate::parse(b"{\"x\":[[1,2],[3,4]]}", &contract, Unknown::Ignore);
            let _ = contract.batch_axis();
            serde_json::to_string(&contract).expect("a contract is serialisable");
        }
    }
});
