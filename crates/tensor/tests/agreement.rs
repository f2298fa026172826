//! This parser and serde_json accept the same JSON, and no bytes cause a panic.

use penstock_core::Code;
use penstock_tensor::{Contract, InferRequest, Rejection, Unknown, parse_predict};
use proptest::prelude::*;

/// Unknown members are refused, so that tests see each of them; `lenient.rs` has the other mode.
fn parse_infer(
    body: &[u8],
    tail_bytes: u64,
    contract: &Contract,
) -> Result<InferRequest, Rejection> {
    penstock_tensor::parse_infer(body, tail_bytes, contract, Unknown::Refuse)
}

const CONTRACT: &str = r#"
description = "inputs of several kinds"
[[inputs]]
name = "f"
datatype = "FP32"
shape = ["N", 2]
[[inputs]]
name = "i"
datatype = "INT32"
shape = ["N"]
minimum = 0
[[inputs]]
name = "s"
datatype = "BYTES"
shape = ["N"]
[[inputs]]
name = "b"
datatype = "BOOL"
shape = ["N"]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N"]
"#;

const PREDICT: &str = r#"{"id":"caf\u00e9 \ud83d\ude00","parameters":{"t":-1.5e-3,"on":true},
 "inputs":{"f":[[0.5,-1.25e2],[3,0.49803921580314636]],"i":[1,20000000],"s":["a\"\\\/\b\f\n\r\t","é\u0000"],"b":[true,false]}}"#;

const INFER: &str = r#"{"id":"7","inputs":[{"name":"f","shape":[1,2],"datatype":"FP32","data":[0.5,-1.25e2]},
 {"data":[12345678],"shape":[1],"name":"i","datatype":"INT32"},{"name":"s","shape":[1],"datatype":"BYTES","data":["x"]},
 {"name":"b","datatype":"BOOL","shape":[1],"data":[true]}],"outputs":[{"name":"y","parameters":{"binary_data":false}}]}"#;

/// Whether the body is JSON to this crate; `None` where it is stricter on purpose.
fn is_json<T>(result: Result<T, penstock_tensor::Rejection>) -> Option<bool> {
    match result {
        Err(rejection) if rejection.code == Code::MalformedJson => {
            let stricter = ["duplicate_member", "too_deep", "too_many_members"];
            (!stricter.contains(&rejection.violations[0].rule.as_str())).then_some(false)
        }
        _ => Some(true),
    }
}

fn agrees_with_serde_json(body: &[u8]) {
    let theirs = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(_) => true,
        // Magnitude is no matter of syntax here.
        Err(error) if error.to_string().contains("number out of range") => return,
        Err(_) => false,
    };
    let contract = Contract::parse(CONTRACT).unwrap();
    for ours in [
        is_json(parse_predict(body, &contract)),
        is_json(parse_infer(body, 0, &contract)),
    ] {
        assert_eq!(
            ours.unwrap_or(theirs),
            theirs,
            "{:?}",
            String::from_utf8_lossy(body)
        );
    }
}

#[derive(Clone, Debug)]
enum Edit {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Splice(prop::sample::Index, &'static str),
}

fn edit() -> impl Strategy<Value = Edit> {
    let byte = prop_oneof![
        prop::sample::select(b"{}[]\",:\\ue.-+0123456789 \n\ttfn".to_vec()),
        any::<u8>()
    ];
    let at = any::<prop::sample::Index>;
    let pieces = vec![
        "1e400",
        "-",
        "0.",
        "00",
        "\\u12",
        "\\ud800",
        "\\udc00",
        "\u{7f}",
        "é",
        "null",
        "NaN",
        "[[[[",
        "{\"a\":1}",
        "123456789012345678901234567890",
        "0.00000000000000000000001",
        ",,",
        "\"\"",
        " ",
        "12345678.12345678",
    ];
    prop_oneof![
        (at(), byte.clone()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        (at(), byte).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        (at(), 1usize..12).prop_map(|(at, length)| Edit::Remove(at, length)),
        (at(), 1usize..12).prop_map(|(at, length)| Edit::Repeat(at, length)),
        (at(), prop::sample::select(pieces)).prop_map(|(at, piece)| Edit::Splice(at, piece)),
    ]
}

fn apply(body: &mut Vec<u8>, edit: &Edit) {
    let place = |at: &prop::sample::Index, length| if length == 0 { 0 } else { at.index(length) };
    match edit {
        Edit::Replace(at, byte) => {
            let at = place(at, body.len());
            if let Some(old) = body.get_mut(at) {
                *old = *byte;
            }
        }
        Edit::Insert(at, byte) => body.insert(place(at, body.len()), *byte),
        Edit::Remove(at, length) => {
            let at = place(at, body.len());
            body.drain(at..(at + length).min(body.len()));
        }
        Edit::Repeat(at, length) => {
            let at = place(at, body.len());
            let piece = body[at..(at + length).min(body.len())].to_vec();
            body.splice(at..at, piece);
        }
        Edit::Splice(at, piece) => {
            let at = place(at, body.len());
            body.splice(at..at, piece.bytes());
        }
    }
}

#[test]
fn the_bodies_that_are_mutated_are_valid_to_begin_with() {
    let contract = Contract::parse(CONTRACT).unwrap();
    parse_predict(PREDICT.as_bytes(), &contract).unwrap();
    parse_infer(INFER.as_bytes(), 0, &contract).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn mutated_bodies_are_json_to_both_or_to_neither(
        predict in any::<bool>(),
        edits in prop::collection::vec(edit(), 0..5),
    ) {
        let mut body = if predict { PREDICT } else { INFER }.as_bytes().to_vec();
        for edit in &edits {
            apply(&mut body, edit);
        }
        agrees_with_serde_json(&body);
    }

    #[test]
    fn arbitrary_bytes_are_answered_and_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        agrees_with_serde_json(&body);
    }

    #[test]
    fn arbitrary_text_in_a_string_is_json_to_both_or_to_neither(text in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut body = b"{\"inputs\":{},\"id\":\"".to_vec();
        body.extend_from_slice(&text);
        body.extend_from_slice(b"\"}");
        agrees_with_serde_json(&body);
    }

    #[test]
    fn any_string_is_written_as_serde_json_reads_it(text in any::<String>()) {
        let mut out = Vec::new();
        penstock_tensor::render::write_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn arbitrary_text_as_a_contract_is_answered_and_never_panics(text in any::<String>()) {
        let _ = Contract::parse(&text);
    }

    #[test]
    fn mutated_contracts_are_answered_with_faults_that_lie_in_the_file(edits in prop::collection::vec(edit(), 0..5)) {
        let mut text = CONTRACT.as_bytes().to_vec();
        for edit in &edits {
            apply(&mut text, edit);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Err(faults) = Contract::parse(&text) {
            prop_assert!(!faults.is_empty());
            let lines = text.split('\n').count();
            for fault in faults {
                prop_assert!((1..=lines).contains(&fault.line) && fault.column >= 1, "{:?}", fault);
            }
        }
    }
}
