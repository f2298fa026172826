//! Bodies of JSON and bytes: how they are cut, filled and refused.

use crate::binary_common::{
    TWO, asked, binary_input, contract, copied, faults, floats, one, parse_infer, read, request,
    strings,
};
use penstock_core::Code;
use penstock_tensor::binary::{Framed, fill, frame, raw};
use penstock_tensor::{BinaryInput, Datatype, Tensor};
use proptest::prelude::*;
use serde_json::json;

/// Inputs behind the JSON, in the order of the body.
fn behind(binary: &[(usize, u64)]) -> Vec<BinaryInput> {
    let each = binary.iter().enumerate();
    each.map(|(index, (input, bytes))| BinaryInput {
        input: *input,
        index,
        bytes: *bytes,
    })
    .collect()
}

#[test]
fn inputs_behind_the_json_are_cut_in_the_order_sent() {
    let contract = contract(TWO);
    let (x, s) = (floats(&[1.0, -2.5, 3.0, 10.0]), strings(&[b"a\xFFb", b""]));
    let json = request(
        &[
            binary_input("x", "[2,2]", "FP32", "16"),
            binary_input("s", "[2,1]", "BYTES", &s.len().to_string()),
        ],
        "",
    );
    let body = [json.as_bytes(), &x, &s].concat();
    let read = read(Some(&format!(" {} ", json.len())), &body, &contract).unwrap();
    // The inputs are in the contract's order, and the cuts in the tail's.
    assert_eq!(read.binary, behind(&[(1, 16), (0, 11)]));
    let names: Vec<_> = read
        .inputs
        .iter()
        .map(|t| (t.name.as_str(), &t.data[..]))
        .collect();
    assert_eq!(names, [("s", &s[..]), ("x", &x)]);
}

#[test]
fn an_input_as_json_stands_beside_one_behind_it() {
    let contract = contract(TWO);
    let json = request(
        &[
            "{\"name\":\"s\",\"shape\":[1,1],\"datatype\":\"BYTES\",\"data\":[\"é\"]}".to_owned(),
            binary_input("x", "[1,2]", "FP32", "8"),
        ],
        "",
    );
    let x = floats(&[1.0, 2.0]);
    let body = [json.as_bytes(), &x].concat();
    let read = read(Some(&json.len().to_string()), &body, &contract).unwrap();
    assert_eq!(read.inputs[0].data, strings(&["é".as_bytes()]));
    assert_eq!(read.inputs[1].data, x);
}

#[test]
fn a_header_that_does_not_cut_the_body_is_refused() {
    let body = b"{\"inputs\":[]}";
    for length in [
        "",
        " ",
        "-1",
        "+1",
        "1.0",
        "0x10",
        "1e1",
        "twelve",
        "12, 12",
        "１２",
        "14",
        "18446744073709551616",
        "99999999999999999999999999999999999999",
    ] {
        let rejection = frame(Some(length), body.len()).unwrap_err();
        assert_eq!(
            (rejection.code, faults(&rejection)),
            (Code::MalformedRequest, vec![("", "wrong_header_length")]),
            "{length:?}"
        );
        assert!(
            rejection
                .message
                .contains("Inference-Header-Content-Length")
        );
    }
    let json = |json_bytes| Ok(Framed::Json { json_bytes });
    assert_eq!(frame(None, 13), json(13));
    assert_eq!(frame(Some("13"), 13), json(13));
    assert_eq!(frame(Some("012"), 13), json(12));
    assert_eq!(frame(Some("00"), 13), Ok(Framed::Raw));
    assert_eq!(frame(Some("0"), 0), Ok(Framed::Raw));
}

#[test]
fn of_a_body_in_the_host_only_the_json_is_copied() {
    let bounded = one("FP32", "[\"N\", 2]", "minimum = -1\nmaximum = 1");
    let numbers = floats(&[0.5; 256]);
    let input = binary_input("x", "[128,2]", "FP32", "1024");
    let json = request(&[input], "");
    let body = [json.as_bytes(), &numbers].concat();
    let length = json.len().to_string();
    // Finite and within the range: the host found that out.
    let copied_parts = copied(&length, &body, &bounded);
    assert_eq!(copied_parts.len(), 1);
    assert_eq!(copied_parts[0], 0..json.len());
    assert_eq!(copied("0", &numbers, &bounded), []);
}

#[test]
fn every_lie_about_sizes_is_refused_with_its_pointer_and_rule() {
    use Code::{InvalidBody as Form, InvalidInputs as Inputs};
    let contract = contract(TWO);
    let good = binary_input("s", "[1,1]", "BYTES", "5");
    let at_size = "/inputs/1/parameters/binary_data_size";
    type Case<'t> = (String, u64, Code, Vec<(&'t str, &'t str)>);
    let x = |shape: &str, bytes: &str| binary_input("x", shape, "FP32", bytes);
    let cases: Vec<Case<'_>> = vec![
        // A tail that is cut short, and one that is too long.
        (x("[1,2]", "8"), 12, Form, vec![("/inputs", "wrong_tail")]),
        (x("[1,2]", "8"), 14, Form, vec![("/inputs", "wrong_tail")]),
        (x("[1,2]", "8"), 0, Form, vec![("/inputs", "wrong_tail")]),
        (x("[1,2]", "8"), u64::MAX, Form, vec![("/inputs", "wrong_tail")]),
        // A size that is not the shape's.
        (x("[1,2]", "9"), 14, Inputs, vec![(at_size, "wrong_size")]),
        (x("[1,2]", "0"), 5, Inputs, vec![(at_size, "wrong_size")]),
        (x("[2,2]", "8"), 13, Inputs, vec![(at_size, "wrong_size")]),
        // Shapes whose product overflows, in elements and in bytes.
        (x("[9223372036854775808,2]", "0"), 5, Inputs, vec![(at_size, "wrong_size")]),
        (x("[4611686018427387904,2]", "0"), 5, Inputs, vec![(at_size, "wrong_size")]),
        (x("[2305843009213693952,2]", "8"), 13, Inputs, vec![(at_size, "wrong_size")]),
        (x("[18446744073709551616,2]", "8"), 13, Form, vec![("/inputs/1/shape/0", "wrong_type")]),
        // Sizes that are none, and ones whose sum overflows.
        (x("[1,2]", "-8"), 5, Form, vec![(at_size, "wrong_type")]),
        (x("[1,2]", "8.5"), 13, Form, vec![(at_size, "wrong_type")]),
        (x("[1,2]", "\"8\""), 13, Form, vec![(at_size, "wrong_type")]),
        (x("[1,2]", "true"), 13, Form, vec![(at_size, "wrong_type")]),
        (x("[1,2]", "null"), 5, Form, vec![("/inputs/1", "missing_member")]),
        (x("[1,2]", "18446744073709551616"), 5, Form, vec![(at_size, "wrong_type")]),
        (x("[1,2]", "1e400"), 5, Form, vec![(at_size, "number_out_of_range"), ("/inputs/1", "missing_member")]),
        (
            x("[1,2]", "9223372036854775807"),
            5,
            Form,
            vec![(at_size, "wrong_size"), ("/inputs", "wrong_tail")],
        ),
        // A fault of an input does not hide a fault of the tail.
        (
            binary_input("z", "[1,2]", "FP32", "8"),
            5,
            Form,
            vec![("/inputs/1/name", "unknown_input"), ("/inputs", "missing_input"), ("/inputs", "wrong_tail")],
        ),
        (
            binary_input("s", "[1,1]", "BYTES", "5"),
            10,
            Inputs,
            vec![("/inputs/1/name", "duplicate_input"), ("/inputs", "missing_input")],
        ),
        (
            binary_input("x", "[1,2]", "FP64", "16"),
            21,
            Inputs,
            vec![("/inputs/1/datatype", "wrong_datatype")],
        ),
        // Elements in both places, and in neither.
        (
            "{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2],\"parameters\":{\"binary_data_size\":8}}".to_owned(),
            13,
            Form,
            vec![(at_size, "data_given_twice")],
        ),
        (
            "{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"parameters\":{}}".to_owned(),
            5,
            Form,
            vec![("/inputs/1", "missing_member")],
        ),
    ];
    for (input, tail, code, expected) in cases {
        let body = request(&[good.clone(), input], "");
        let rejection = parse_infer(body.as_bytes(), tail, &contract).expect_err(&body);
        // A size that cannot be used says nothing of the tail.
        assert_eq!(
            (rejection.code, faults(&rejection)),
            (code, expected),
            "{body} {tail}"
        );
    }
    let rejection = parse_infer(b"{\"inputs\":[]}", 7, &contract).unwrap_err();
    assert!(
        rejection
            .violations
            .iter()
            .any(|v| v.rule == "wrong_tail" && v.message.contains("no input claims")),
        "{rejection:?}"
    );
    let most = i64::MAX.to_string();
    let body = request(
        &[x("[1,2]", &most), x("[1,2]", &most), x("[1,2]", &most)],
        "",
    );
    let rejection = parse_infer(body.as_bytes(), u64::MAX, &contract).unwrap_err();
    let last = rejection.violations.last().unwrap();
    assert_eq!(last.rule, "wrong_tail");
    assert!(
        last.message.contains("more bytes than can be counted"),
        "{last:?}"
    );
}

#[test]
fn byte_strings_that_are_cut_short_or_too_many_are_refused() {
    let contract = contract(TWO);
    let x = "{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]}".to_owned();
    let cases: [&[u8]; 6] = [
        &[9, 0, 0, 0, 1],
        &[0xFF, 0xFF, 0xFF, 0xFF, 1],
        &[1, 0, 0, 0, 7, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0],
        &[1, 0, 0, 0, 7, 0, 0, 0, 0],
    ];
    for data in cases {
        let s = binary_input("s", "[1,1]", "BYTES", &data.len().to_string());
        let json = request(&[s, x.clone()], "");
        let body = [json.as_bytes(), data].concat();
        let rejection = read(Some(&json.len().to_string()), &body, &contract).unwrap_err();
        assert_eq!(
            faults(&rejection),
            [("/inputs/0", "wrong_count")],
            "{data:?}"
        );
    }
    // Fewer bytes than the lengths alone take need no look behind the JSON.
    let s = binary_input("s", "[1,1]", "BYTES", "3");
    let json = request(&[s, x], "");
    let rejection = parse_infer(json.as_bytes(), 3, &contract).unwrap_err();
    assert_eq!(
        faults(&rejection),
        [("/inputs/0/parameters/binary_data_size", "wrong_size")]
    );
}

#[test]
fn values_behind_the_json_meet_the_same_range() {
    let contract = contract(TWO);
    let json = request(
        &[
            binary_input("s", "[2,1]", "BYTES", "8"),
            binary_input("x", "[2,2]", "FP32", "16"),
        ],
        "",
    );
    let tail = [
        vec![0; 8],
        floats(&[1.0, 10.5, f32::NAN, f32::NEG_INFINITY]),
    ]
    .concat();
    let body = [json.as_bytes(), &tail].concat();
    let rejection = read(Some(&json.len().to_string()), &body, &contract).unwrap_err();
    // A number that is not finite is reported once, and not again for its range.
    assert_eq!(
        faults(&rejection),
        [
            ("/inputs/1", "not_finite"),
            ("/inputs/1", "not_finite"),
            ("/inputs/1", "out_of_range")
        ]
    );
    let places: Vec<_> = (rejection.violations.iter())
        .map(|v| v.message.as_str())
        .collect();
    let remedy = "send a finite number. To accept NaN and infinity, the operator writes allow_non_finite = true for \
                  this input in model.toml";
    assert_eq!(
        places,
        [
            format!("input \"x\" has the value NaN at [1, 0]; {remedy}").as_str(),
            format!("input \"x\" has the value -inf at [1, 1]; {remedy}").as_str(),
            "input \"x\" has the value 10.5 at [0, 1]; send a value of at most 10",
        ]
    );
    let bools = one("BOOL", "[3]", "");
    let json = request(&[binary_input("x", "[3]", "BOOL", "3")], "");
    let body = [json.as_bytes(), &[1, 0, 2]].concat();
    let rejection = read(Some(&json.len().to_string()), &body, &bools).unwrap_err();
    assert_eq!(faults(&rejection), [("/inputs/0", "out_of_range")]);
    assert!(
        rejection.message.contains("the byte 2 at [2] as a BOOL"),
        "{rejection}"
    );
}

#[test]
fn nan_and_infinity_are_refused_unless_the_contract_lets_them_in() {
    let sixteen = |bits: [u16; 2]| {
        bits.iter()
            .flat_map(|b| b.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let double = [1.0, f64::NEG_INFINITY]
        .iter()
        .flat_map(|n| n.to_le_bytes());
    for (datatype, data, shown) in [
        ("FP32", floats(&[1.0, f32::NAN]), "NaN"),
        ("FP32", floats(&[1.0, f32::INFINITY]), "inf"),
        ("FP64", double.collect(), "-inf"),
        ("FP16", sixteen([0x3C00, 0x7E00]), "NaN"),
        ("BF16", sixteen([0x3F80, 0xFF80]), "-inf"),
    ] {
        let json = request(
            &[binary_input("x", "[2]", datatype, &data.len().to_string())],
            "",
        );
        let body = [json.as_bytes(), &data].concat();
        let length = json.len().to_string();
        let refused = one(datatype, "[2]", "");
        let rejection = read(Some(&length), &body, &refused).unwrap_err();
        assert_eq!(
            faults(&rejection),
            [("/inputs/0", "not_finite")],
            "{datatype}"
        );
        assert_eq!(rejection.code, Code::InvalidInputs);
        let told = format!("input \"x\" has the value {shown} at [1]; send a finite number");
        assert!(rejection.message.starts_with(&told), "{rejection}");
        // The same as a body without JSON.
        let rejection = read(Some("0"), &data, &refused).unwrap_err();
        assert_eq!(faults(&rejection), [("", "not_finite")], "{datatype}");
        // A range binds the finite elements alone.
        for more in ["", "minimum = 0.0\nmaximum = 1.0\n"] {
            let allowed = one(datatype, "[2]", &format!("allow_non_finite = true\n{more}"));
            read(Some(&length), &body, &allowed).unwrap_or_else(|r| panic!("{datatype}: {r}"));
        }
    }
}

#[test]
fn another_tail_than_was_parsed_for_is_refused() {
    let contract = contract(TWO);
    let tensor = Tensor {
        name: "x".into(),
        datatype: Datatype::Fp32,
        shape: vec![1, 2],
        data: Vec::new().into(),
    };
    for (binary, tail) in [
        (vec![(0, 8)], vec![0; 7]),
        (vec![(0, 8)], vec![0; 9]),
        (vec![(1, 8)], vec![0; 8]),
        (vec![(0, u64::MAX)], vec![0; 8]),
    ] {
        let rejection = fill(
            &mut [tensor.clone()],
            &behind(&binary),
            (&tail.into(), 0),
            &contract,
        )
        .unwrap_err();
        assert_eq!(
            faults(&rejection),
            [("/inputs", "wrong_tail")],
            "{binary:?}"
        );
    }
}

#[test]
fn a_raw_body_is_the_one_input_where_its_shape_can_be_told() {
    let sixteen = floats(&[1.0, 2.0, 3.0, 4.0]);
    for (shape, expected) in [
        ("[4]", vec![4]),
        ("[2, 2]", vec![2, 2]),
        ("[\"N\", 2]", vec![2, 2]),
        ("[\"N\", 4]", vec![1, 4]),
        ("[\"N\", \"T\"]", vec![1, 4]),
        ("[2, \"T\"]", vec![2, 2]),
        ("[\"N\", \"T\", 2]", vec![1, 2, 2]),
    ] {
        let contract = one("FP32", shape, "");
        let read = read(Some("0"), &sixteen, &contract).expect(shape);
        assert_eq!(
            (&read.inputs[0].shape, &read.inputs[0].data),
            (&expected, &sixteen.clone().into()),
            "{shape}"
        );
        assert!(read.binary_outputs && read.binary.is_empty() && read.outputs.is_empty());
    }
    for (shape, body, rule) in [
        ("[4]", &sixteen[..12], "wrong_count"),
        ("[4]", &sixteen[..15], "wrong_size"),
        ("[4]", b"".as_slice(), "wrong_count"),
        ("[\"N\", 2]", b"", "wrong_count"),
        ("[\"N\", 3]", &sixteen, "wrong_count"),
        ("[\"A\", \"B\"]", &sixteen, "wrong_count"),
        ("[\"N\", \"A\", \"B\"]", &sixteen, "wrong_count"),
    ] {
        let contract = one("FP32", shape, "");
        let rejection = read(Some("0"), body, &contract).expect_err(shape);
        assert_eq!(faults(&rejection), [("", rule)], "{shape}");
        assert_eq!(rejection.code, Code::InvalidInputs);
    }
    // A single element leaves no choice, however many axes are open.
    let open = one("FP32", "[\"N\", \"A\", \"B\"]", "");
    assert_eq!(
        read(Some("0"), &sixteen[..4], &open).unwrap().inputs[0].shape,
        [1, 1, 1]
    );
    let bounded = one("FP32", "[4]", "maximum = 3.5");
    let rejection = read(Some("0"), &sixteen, &bounded).unwrap_err();
    assert_eq!(faults(&rejection), [("", "out_of_range")]);
    let many = one("UINT8", "[\"N\", 1]", "[limits]\nmax_items = 3");
    let rejection = read(Some("0"), b"1234", &many).unwrap_err();
    assert_eq!(faults(&rejection), [("", "too_many_items")]);
}

#[test]
fn a_raw_body_is_one_byte_string_without_its_length() {
    for (shape, expected) in [
        ("[1]", vec![1]),
        ("[\"N\"]", vec![1]),
        ("[\"N\", 1]", vec![1, 1]),
    ] {
        for body in [b"".as_slice(), b"\xFF text"] {
            let read = read(Some("0"), body, &one("BYTES", shape, "")).unwrap();
            assert_eq!(
                (&read.inputs[0].shape, &read.inputs[0].data),
                (&expected, &strings(&[body]).into())
            );
        }
    }
    let rejection = read(Some("0"), b"a", &one("BYTES", "[2]", "")).unwrap_err();
    assert_eq!(faults(&rejection), [("", "wrong_count")]);
    let rejection = read(Some("0"), b"a", &contract(TWO)).unwrap_err();
    assert_eq!(faults(&rejection), [("", "unsupported_raw_body")]);
    assert!(rejection.message.contains("s, x"), "{rejection}");
}

#[test]
fn priority_and_timeout_are_read_and_zero_is_the_default() {
    for (parameters, priority, timeout_us) in [
        ("{}", None, None),
        ("{\"priority\":0,\"timeout\":0}", None, None),
        ("{\"priority\":1,\"timeout\":1500}", Some(1), Some(1500)),
        ("{\"priority\":3}", Some(3), None),
        // Beyond the model's levels is its default, as in Triton.
        ("{\"priority\":4}", None, None),
        ("{\"priority\":9223372036854775807}", None, None),
        (
            "{\"timeout\":9223372036854775807}",
            None,
            Some(i64::MAX as u64),
        ),
        (
            "{\"sequence_id\":0,\"sequence_start\":false,\"sequence_end\":false,\"triton_enable_empty_final_response\":false}",
            None,
            None,
        ),
    ] {
        let read = asked(&format!(",\"parameters\":{parameters}")).expect(parameters);
        assert_eq!(
            (read.priority, read.timeout_us),
            (priority, timeout_us),
            "{parameters}"
        );
    }
}

#[test]
fn every_parameter_that_nothing_acts_on_is_refused() {
    for (more, pointer, rule) in [
        (
            "\"parameters\":{\"priority\":-1}",
            "/parameters/priority",
            "wrong_type",
        ),
        (
            "\"parameters\":{\"priority\":\"1\"}",
            "/parameters/priority",
            "wrong_type",
        ),
        (
            "\"parameters\":{\"timeout\":1.5}",
            "/parameters/timeout",
            "wrong_type",
        ),
        (
            "\"parameters\":{\"timeout\":-1}",
            "/parameters/timeout",
            "wrong_type",
        ),
        (
            "\"parameters\":{\"timeout\":1e30}",
            "/parameters/timeout",
            "wrong_type",
        ),
        (
            "\"parameters\":{\"binary_data_output\":1}",
            "/parameters/binary_data_output",
            "wrong_type",
        ),
        (
            "\"parameters\":{\"sequence_id\":7}",
            "/parameters/sequence_id",
            "not_supported",
        ),
        (
            "\"parameters\":{\"sequence_id\":\"a\"}",
            "/parameters/sequence_id",
            "not_supported",
        ),
        (
            "\"parameters\":{\"sequence_start\":true}",
            "/parameters/sequence_start",
            "not_supported",
        ),
        (
            "\"parameters\":{\"headers\":\"x\"}",
            "/parameters/headers",
            "unknown_parameter",
        ),
        (
            "\"parameters\":{\"priorty\":0}",
            "/parameters/priorty",
            "unknown_parameter",
        ),
        (
            "\"parameters\":{\"binary_data\":true}",
            "/parameters/binary_data",
            "not_supported",
        ),
        (
            "\"parameters\":{\"a/b~\":false}",
            "/parameters/a~1b~0",
            "unknown_parameter",
        ),
        (
            "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":\"yes\"}}]",
            "/outputs/0/parameters/binary_data",
            "wrong_type",
        ),
        (
            "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":-1}}]",
            "/outputs/0/parameters/classification",
            "wrong_type",
        ),
        (
            "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":2.5}}]",
            "/outputs/0/parameters/classification",
            "wrong_type",
        ),
        (
            "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":65537}}]",
            "/outputs/0/parameters/classification",
            "number_out_of_range",
        ),
        (
            "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"shared_memory_region\":\"r\"}}]",
            "/outputs/0/parameters/shared_memory_region",
            "not_supported",
        ),
        (
            "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data_size\":8}}]",
            "/outputs/0/parameters/binary_data_size",
            "not_supported",
        ),
    ] {
        let rejection = asked(&format!(",{more}")).expect_err(more);
        let code = match rule {
            "not_supported" => Code::NotSupported,
            _ => Code::InvalidBody,
        };
        assert_eq!(
            (rejection.code, faults(&rejection)),
            (code, vec![(pointer, rule)]),
            "{more}"
        );
    }
    let rejection =
        asked(",\"outputs\":[{\"name\":\"t\",\"parameters\":{\"classification\":1}}]").unwrap_err();
    assert_eq!(
        faults(&rejection),
        [("/outputs/0/parameters/classification", "wrong_datatype")]
    );
    let shared = "{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"parameters\":{\"shared_memory_region\":\"r\",\"k\":1}}]}";
    let rejection = parse_infer(shared.as_bytes(), 0, &one("FP32", "[1]", "")).unwrap_err();
    assert_eq!(
        faults(&rejection),
        [
            ("/inputs/0/parameters/shared_memory_region", "not_supported"),
            ("/inputs/0/parameters/k", "unknown_parameter"),
            ("/inputs/0", "missing_member"),
        ]
    );
}

#[test]
fn a_byte_beyond_an_integer_of_less_than_a_byte_is_refused_with_the_value_it_holds() {
    for (datatype, good, bad, range) in [
        ("INT4", vec![0xF8, 7], 8, "-8 to 7"),
        ("UINT4", vec![0, 15], 0x10, "0 to 15"),
        ("INT2", vec![0xFE, 1], 0xFC, "-2 to 1"),
        ("UINT2", vec![0, 3], 4, "0 to 3"),
    ] {
        let contract = one(datatype, "[2]", "");
        let body = |data: &[u8]| {
            let head = json!({"inputs": [{"name": "x", "shape": [2], "datatype": datatype,
                              "parameters": {"binary_data_size": 2}}]});
            let head = head.to_string();
            (head.len().to_string(), [head.as_bytes(), data].concat())
        };
        let (length, sent) = body(&good);
        assert_eq!(
            read(Some(&length), &sent, &contract).unwrap().inputs[0].data,
            good
        );
        let (length, sent) = body(&[good[0], bad]);
        let refused = read(Some(&length), &sent, &contract).unwrap_err();
        let violation = &refused.violations[0];
        assert_eq!(violation.rule, "out_of_range");
        assert!(violation.message.contains(range), "{}", violation.message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes_with_any_header_are_answered_and_never_panic(
        length in prop::option::of(prop_oneof!["[0-9]{0,3}", ".{0,6}"]),
        body in prop::collection::vec(any::<u8>(), 0..60),
        tail in any::<u64>(),
    ) {
        let contract = contract(TWO);
        let _ = read(length.as_deref(), &body, &contract);
        let _ = parse_infer(&body, tail, &contract);
        let _ = raw(&body.as_slice().into(), &one("FP32", "[\"N\", 2]", ""));
    }

    #[test]
    fn a_body_cut_anywhere_is_refused(cut in any::<prop::sample::Index>()) {
        let contract = contract(TWO);
        let json = request(
            &[binary_input("s", "[1,1]", "BYTES", "6"), binary_input("x", "[1,2]", "FP32", "8")],
            "",
        );
        let body = [json.as_bytes(), &strings(&[b"ab"]), &floats(&[1.0, 2.0])].concat();
        let length = json.len().to_string();
        prop_assert!(read(Some(&length), &body, &contract).is_ok());
        prop_assert!(read(Some(&length), &body[..cut.index(body.len())], &contract).is_err());
        // The header may lie too.
        let lie = cut.index(body.len() + 9);
        prop_assert_eq!(read(Some(&lie.to_string()), &body, &contract).is_ok(), lie == json.len());
    }
}
