//! The violations of each form of request, with their pointer and rule.

use penstock_core::Code;
use penstock_tensor::{
    Contract, Datatype, InferRequest, OutputRequest, ParameterValue, Rejection, Tensor, Unknown,
    check_outputs, check_tensors, parse_predict,
};

/// Unknown members are refused, so that tests see each of them; `lenient.rs` has the other mode.
fn parse_infer(
    body: &[u8],
    tail_bytes: u64,
    contract: &Contract,
) -> Result<InferRequest, Rejection> {
    penstock_tensor::parse_infer(body, tail_bytes, contract, Unknown::Refuse)
}

const TWO: &str = r#"
description = "two inputs"
[[inputs]]
name = "a"
datatype = "INT32"
shape = ["N", 4]
minimum = 0
maximum = 256
[[inputs]]
name = "b/~"
datatype = "FP32"
shape = ["N", "W"]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 2]
[axes]
W = { min = 2, max = 3 }
[limits]
max_items = 3
"#;

const ONE: &str = r#"
description = "one input"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 2]
"#;

fn contract(text: &str) -> Contract {
    Contract::parse(text).unwrap()
}

fn one_of(datatype: &str, shape: &str, extra: &str) -> Contract {
    contract(&format!(
        "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{datatype}\"\nshape = {shape}\n{extra}\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1]\n"
    ))
}

fn faults(rejection: &Rejection) -> Vec<(&str, &str)> {
    rejection
        .violations
        .iter()
        .map(|v| (v.pointer.as_str(), v.rule.as_str()))
        .collect()
}

/// Each body with its code and the pointer and rule of each violation.
type Table<'t> = &'t [(&'t str, Code, &'t [(&'t str, &'t str)])];

fn check_table<T: std::fmt::Debug>(
    table: Table<'_>,
    parse: impl Fn(&[u8]) -> Result<T, Rejection>,
) {
    for (body, code, expected) in table {
        let rejection = parse(body.as_bytes()).expect_err(body);
        assert_eq!(
            (rejection.code, faults(&rejection)),
            (*code, expected.to_vec()),
            "{body}\n{rejection:#?}"
        );
        for violation in &rejection.violations {
            assert!(
                !violation.expected.is_empty() && !violation.message.is_empty(),
                "{violation:?}"
            );
        }
        if let [only] = rejection.violations.as_slice() {
            assert_eq!(rejection.message, only.message);
        } else {
            assert!(
                rejection
                    .message
                    .starts_with(&format!("{} things are wrong; the first: ", expected.len()))
            );
        }
    }
}

#[test]
fn every_refusal_of_a_predict_body_has_its_pointer_and_rule() {
    use Code::{InvalidBody as Form, InvalidInputs as Inputs, MalformedJson as Syntax};
    let contract = contract(TWO);
    check_table(
        &[
            ("", Syntax, &[("", "json_syntax")]),
            ("{", Syntax, &[("", "json_syntax")]),
            ("{\"inputs\":{}} x", Syntax, &[("", "json_syntax")]),
            (
                "{\"inputs\":{},\"inputs\":{}}",
                Syntax,
                &[("", "duplicate_member")],
            ),
            (
                "{\"inputs\":{\"c\":{\"d\":1,\"d\":2}}}",
                Syntax,
                &[("", "duplicate_member")],
            ),
            ("{\"id\":\"\u{fffd}\"}", Form, &[("", "missing_member")]),
            ("[]", Form, &[("", "wrong_type")]),
            ("7", Form, &[("", "wrong_type")]),
            ("{}", Form, &[("", "missing_member")]),
            (
                "{\"inputs\":[[1,2,3,4]]}",
                Form,
                &[("/inputs", "wrong_type")],
            ),
            ("{\"inputs\":null}", Form, &[("", "missing_member")]),
            (
                "{\"inputs\":{\"a\":[[1,2,3,4]],\"b/~\":[[1,2]]},\"extra/\":[1,{}],\"id\":7,\"parameters\":[]}",
                Form,
                &[
                    ("/extra~1", "unknown_member"),
                    ("/id", "wrong_type"),
                    ("/parameters", "wrong_type"),
                ],
            ),
            (
                "{\"inputs\":{\"a\":[[1,2,3,4]],\"b/~\":[[1,2]]},\"parameters\":{\"p\":null,\"q\":[],\"r\":1e999}}",
                Form,
                &[
                    ("/parameters/q", "wrong_type"),
                    ("/parameters/r", "number_out_of_range"),
                ],
            ),
            (
                "{\"inputs\":{}}",
                Inputs,
                &[("/inputs", "missing_input"), ("/inputs", "missing_input")],
            ),
            (
                "{\"inputs\":{\"a\":[[1,2,3,4]],\"c\":1}}",
                Inputs,
                &[("/inputs/c", "unknown_input"), ("/inputs", "missing_input")],
            ),
            (
                // Form and contract: the form decides the code, and all are listed.
                "{\"inputs\":{\"a\":[[1,2,3]],\"b/~\":[[1,2]]},\"x\":1}",
                Form,
                &[("/inputs/a", "wrong_shape"), ("/x", "unknown_member")],
            ),
            (
                "{\"inputs\":{\"a\":[[1,2,3,4],[1,2,3],5,[]],\"b/~\":[[1,2],[1,[2]]]}}",
                Inputs,
                &[
                    ("/inputs/a/1", "ragged"),
                    ("/inputs/a/2", "ragged"),
                    ("/inputs/a/3", "ragged"),
                    ("/inputs/b~1~0/1/1", "ragged"),
                ],
            ),
            (
                "{\"inputs\":{\"a\":[[1.5,true,\"1\",null],[1e10,-1,257,{}]],\"b/~\":[[1,2],[1e39,2]]}}",
                Inputs,
                &[
                    ("/inputs/a/0/0", "not_an_integer"),
                    ("/inputs/a/0/1", "wrong_datatype"),
                    ("/inputs/a/0/2", "wrong_datatype"),
                    ("/inputs/a/0/3", "wrong_datatype"),
                    ("/inputs/a/1/0", "number_out_of_range"),
                    ("/inputs/a/1/3", "wrong_datatype"),
                    ("/inputs/a/1/1", "out_of_range"),
                    ("/inputs/a/1/2", "out_of_range"),
                    ("/inputs/b~1~0/1/0", "number_out_of_range"),
                ],
            ),
            (
                "{\"inputs\":{\"a\":[1,2,3,4],\"b/~\":[[[1,2]]]}}",
                Inputs,
                &[
                    ("/inputs/a", "wrong_shape"),
                    ("/inputs/b~1~0", "wrong_shape"),
                ],
            ),
            (
                "{\"inputs\":{\"a\":[],\"b/~\":[[],[]]}}",
                Inputs,
                &[
                    ("/inputs/a", "empty_tensor"),
                    ("/inputs/b~1~0", "empty_tensor"),
                ],
            ),
            (
                "{\"inputs\":{\"a\":[[1,2,3,4]],\"b/~\":[[1,2],[3,4]]}}",
                Inputs,
                &[("/inputs/b~1~0", "axis_mismatch")],
            ),
            (
                "{\"inputs\":{\"b/~\":[[1],[1],[1],[1]],\"a\":[[1,2,3,4],[1,2,3,4],[1,2,3,4],[1,2,3,4]]}}",
                Inputs,
                &[
                    ("/inputs/b~1~0", "too_many_items"),
                    ("/inputs/b~1~0", "axis_out_of_range"),
                ],
            ),
            (
                "{\"inputs\":{\"a\":[[1,2,3,4]],\"b/~\":[[1,2,3,4]]}}",
                Inputs,
                &[("/inputs/b~1~0", "axis_out_of_range")],
            ),
            (
                "{\"inputs\":{\"a\":{},\"b/~\":\"x\"}}",
                Inputs,
                &[
                    ("/inputs/a", "wrong_shape"),
                    ("/inputs/b~1~0", "wrong_shape"),
                ],
            ),
        ],
        |body| parse_predict(body, &contract),
    );
}

#[test]
fn a_number_that_does_not_fit_int32_is_refused_with_its_pointer() {
    let body = b"{\"inputs\":{\"a\":[[1,2,2147483648,4]],\"b/~\":[[1,2]]}}";
    let rejection = parse_predict(body, &contract(TWO)).unwrap_err();
    assert_eq!(rejection.violations[0].pointer, "/inputs/a/0/2");
    assert_eq!(
        rejection.message,
        "2147483648 in input \"a\" does not fit INT32; send an integer from -2147483648 to 2147483647"
    );
}

#[test]
fn a_single_item_without_its_batch_axis_is_told_to_wrap_it() {
    let rejection = parse_predict(b"{\"inputs\":[1,2]}", &contract(ONE)).unwrap_err();
    assert_eq!(faults(&rejection), [("/inputs", "wrong_shape")]);
    assert!(
        rejection.message.contains("wrap it in one more array"),
        "{rejection}"
    );
    // Without a batch axis there is nothing to wrap it in.
    let fixed = one_of("FP32", "[1, 2]", "");
    let rejection = parse_predict(b"{\"inputs\":[1,2]}", &fixed).unwrap_err();
    assert!(
        rejection.message.contains("nest arrays 2 deep"),
        "{rejection}"
    );
}

#[test]
fn a_predict_body_becomes_tensors_in_the_contracts_order() {
    let body = br#" { "id" : "r\u00e9-1" , "parameters":{"t":0.5,"n":3,"s":"x","f":true,"big":1e3},
        "inputs" : { "b\/~" : [ [ 1 , -2.5e0 , 3 ] ] , "a" : [[0,1,256,3.0]] } } "#;
    let request = parse_predict(body, &contract(TWO)).unwrap();
    assert_eq!(request.id.as_deref(), Some("r\u{e9}-1"));
    let names: Vec<_> = request
        .inputs
        .iter()
        .map(|t| (t.name.as_str(), t.shape.clone()))
        .collect();
    assert_eq!(names, [("a", vec![1, 4]), ("b/~", vec![1, 3])]);
    let a: Vec<u8> = [0i32, 1, 256, 3]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let b: Vec<u8> = [1f32, -2.5, 3.0]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    assert_eq!(request.inputs[0].data, a);
    assert_eq!(request.inputs[1].data, b);
    use ParameterValue::*;
    let expected = [
        ("t", Number(0.5)),
        ("n", Integer(3)),
        ("s", String("x".into())),
        ("f", Bool(true)),
        ("big", Integer(1000)),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    assert_eq!(request.parameters, expected);
}

#[test]
fn a_model_of_one_input_takes_its_value_directly() {
    let direct = parse_predict(b"{\"inputs\":[[1,2],[3,4]]}", &contract(ONE)).unwrap();
    let named = parse_predict(b"{\"inputs\":{\"x\":[[1,2],[3,4]]}}", &contract(ONE)).unwrap();
    assert_eq!(direct, named);
    assert_eq!(direct.inputs[0].shape, [2, 2]);
    let scalar = parse_predict(b"{\"inputs\":{\"x\": 7 }}", &one_of("INT64", "[]", "")).unwrap();
    assert_eq!(
        (
            scalar.inputs[0].shape.len(),
            scalar.inputs[0].data.as_slice()
        ),
        (0, &7i64.to_le_bytes()[..])
    );
    let rejection = parse_predict(b"{\"inputs\":[[1,\"2\"]]}", &contract(ONE)).unwrap_err();
    assert_eq!(faults(&rejection), [("/inputs/0/1", "wrong_datatype")]);
}

#[test]
fn booleans_and_strings_are_read_for_their_datatypes_only() {
    let bools = parse_predict(
        b"{\"inputs\":[true,false,true]}",
        &one_of("BOOL", "[3]", ""),
    )
    .unwrap();
    assert_eq!(bools.inputs[0].data, [1, 0, 1]);
    let rejection = parse_predict(
        b"{\"inputs\":[1,false,\"true\"]}",
        &one_of("BOOL", "[3]", ""),
    )
    .unwrap_err();
    assert_eq!(
        faults(&rejection),
        [
            ("/inputs/0", "wrong_datatype"),
            ("/inputs/2", "wrong_datatype")
        ]
    );
    let body = br#"{"inputs":["a\u0000\ud83d\ude00\"","",  "\u00e9"]}"#;
    let strings = parse_predict(body, &one_of("BYTES", "[3]", "")).unwrap();
    let mut expected = Vec::new();
    for text in ["a\0\u{1F600}\"", "", "\u{e9}"] {
        penstock_tensor::tensor::push_byte_string(&mut expected, text.as_bytes());
    }
    assert_eq!(strings.inputs[0].data, expected);
    let rejection =
        parse_predict(b"{\"inputs\":[\"\",1,[\"\"]]}", &one_of("BYTES", "[3]", "")).unwrap_err();
    assert_eq!(
        faults(&rejection),
        [("/inputs/1", "wrong_datatype"), ("/inputs/2", "ragged")]
    );
}

#[test]
fn bounds_are_rounded_to_the_datatype_before_they_are_compared() {
    for datatype in ["FP16", "BF16", "FP32", "FP64"] {
        let bounded = one_of(datatype, "[2]", "minimum = -0.1\nmaximum = 0.1");
        parse_predict(b"{\"inputs\":[0.1,-0.1]}", &bounded).unwrap();
        let rejection = parse_predict(b"{\"inputs\":[0.11,-0.11]}", &bounded).unwrap_err();
        assert_eq!(
            faults(&rejection),
            [("/inputs/0", "out_of_range"), ("/inputs/1", "out_of_range")]
        );
        assert!(
            rejection.violations[0]
                .expected
                .contains("from -0.1 to 0.1")
        );
    }
}

#[test]
fn a_value_that_cannot_be_read_is_not_reported_a_second_time_as_out_of_range() {
    let bounded = one_of("INT32", "[2]", "minimum = 5");
    let rejection = parse_predict(b"{\"inputs\":[null,1.5]}", &bounded).unwrap_err();
    assert_eq!(
        faults(&rejection),
        [
            ("/inputs/0", "wrong_datatype"),
            ("/inputs/1", "not_an_integer")
        ]
    );
}

#[test]
fn violations_beyond_the_limit_are_counted() {
    let body = format!("{{\"inputs\":[[{}1]]}}", "null,".repeat(999));
    let rejection = parse_predict(body.as_bytes(), &one_of("INT8", "[1, \"W\"]", "")).unwrap_err();
    assert_eq!(
        (rejection.violations.len(), rejection.omitted),
        (32, 999 - 32)
    );
    assert!(rejection.message.starts_with("999 things are wrong"));
}

#[test]
fn a_long_name_is_cut_in_the_answer() {
    let long = "n".repeat(100_000);
    for body in [
        format!("{{\"{long}\":1,\"inputs\":[[1,2]]}}"),
        format!("{{\"inputs\":{{\"{long}\":1}}}}"),
        format!("{{\"inputs\":[[1,1{long}]]}}"),
        format!("{{\"inputs\":[[1,1e{}]]}}", "9".repeat(100_000)),
        format!("{{\"inputs\":[[1,2]],\"parameters\":{{\"{long}\":[]}}}}"),
        format!("{{\"inputs\":[[1,2]],\"parameters\":{{\"{long}\":1,\"{long}\":1}}}}"),
    ] {
        let rejection = parse_predict(body.as_bytes(), &contract(ONE)).unwrap_err();
        assert!(
            format!("{rejection:?}").len() < 2_000,
            "{}",
            rejection.message.len()
        );
    }
}

#[test]
fn syntax_errors_name_the_byte_and_what_was_expected_there() {
    for (body, message) in [
        ("", "byte 0: expected a JSON text, found an empty body"),
        (
            "{\"inputs\":[[1,]]}",
            "byte 14: expected a value (JSON allows no trailing comma), found ']'",
        ),
        (
            "{\"inputs\":[[NaN,1]]}",
            "byte 12: expected a finite number (JSON has no NaN), found 'N'",
        ),
        (
            "{\"inputs\":[[Infinity]]}",
            "byte 12: expected a finite number (JSON has no Infinity), found 'I'",
        ),
        (
            "{\"inputs\":[[-Infinity]]}",
            "byte 13: expected a finite number (JSON has no Infinity), found 'I'",
        ),
        (
            "{\"inputs\":[[+1,2]]}",
            "byte 12: expected a number without a plus sign, found '+'",
        ),
        (
            "{\"inputs\":[[.5,2]]}",
            "byte 12: expected a digit before the decimal point, found '.'",
        ),
        (
            "{\"inputs\":[[1.,2]]}",
            "byte 14: expected a digit after the decimal point, found ','",
        ),
        (
            "{\"inputs\":[[01,2]]}          ",
            "byte 13: expected no digit after a leading zero, found '1'",
        ),
        (
            "{\"inputs\":[[1e,2]]}          ",
            "byte 14: expected a digit in the exponent, found ','",
        ),
        (
            "{\"inputs\":[[1 2]]}",
            "byte 14: expected ',' or ']' after an element, found '2'",
        ),
        (
            "{\"inputs\":[[1,2]]]",
            "byte 17: expected ',' or '}' after a member, found ']'",
        ),
        (
            "{\"a\":1,}",
            "byte 7: expected a member name (JSON allows no trailing comma), found '}'",
        ),
        (
            "{\"id\":\"\\ud800\"}",
            "byte 9: expected a high and a low surrogate together, found 'd'",
        ),
        (
            "{\"id\":\"\n\"}",
            "byte 7: expected no control character in a string (escape it as \\u00XX), found byte 0x0A",
        ),
        (
            "{'a':1}",
            "byte 1: expected a member name in double quotes, found '''",
        ),
        (
            "{\"a\":True}",
            "byte 5: expected true or false in lower case, found a capital letter",
        ),
        ("{\"a\":nul}", "byte 8: expected null, found '}'"),
    ] {
        let rejection = parse_predict(body.as_bytes(), &contract(ONE)).unwrap_err();
        assert_eq!(
            (rejection.code, rejection.message.as_str()),
            (Code::MalformedJson, message),
            "{body}"
        );
    }
    let rejection = parse_predict(b"{\"id\":\"\xC3\x28\"}", &contract(ONE)).unwrap_err();
    assert_eq!(rejection.message, "byte 7: expected UTF-8, found byte 0xC3");
}

#[test]
fn nesting_and_members_are_bounded() {
    let deep = format!("{{\"inputs\":{}1{}}}", "[".repeat(63), "]".repeat(63));
    assert_eq!(
        parse_predict(deep.as_bytes(), &contract(ONE))
            .unwrap_err()
            .code,
        Code::InvalidInputs
    );
    for opening in ["[", "{\"a\":"] {
        let deeper = format!("{{\"inputs\":{}", opening.repeat(1_000_000));
        let rejection = parse_predict(deeper.as_bytes(), &contract(ONE)).unwrap_err();
        assert_eq!(faults(&rejection), [("", "too_deep")]);
    }
    let members: Vec<String> = (0..1025).map(|i| format!("\"{i}\":0")).collect();
    let wide = format!("{{{}}}", members.join(","));
    let rejection = parse_predict(wide.as_bytes(), &contract(ONE)).unwrap_err();
    assert_eq!(faults(&rejection), [("", "too_many_members")]);
    let fits = format!("{{{}}}", members[..1024].join(","));
    assert_eq!(
        parse_predict(fits.as_bytes(), &contract(ONE))
            .unwrap_err()
            .code,
        Code::InvalidBody
    );
}

#[test]
fn every_refusal_of_an_infer_body_has_its_pointer_and_rule() {
    use Code::{InvalidBody as Form, InvalidInputs as Inputs, MalformedJson as Syntax};
    let contract = contract(ONE);
    check_table(
        &[
            ("{\"inputs\":[", Syntax, &[("", "json_syntax")]),
            ("[]", Form, &[("", "wrong_type")]),
            ("{}", Form, &[("", "missing_member")]),
            ("{\"inputs\":{}}", Form, &[("/inputs", "wrong_type")]),
            (
                "{\"inputs\":[7]}",
                Form,
                &[("/inputs/0", "wrong_type"), ("/inputs", "missing_input")],
            ),
            ("{\"inputs\":[]}", Inputs, &[("/inputs", "missing_input")]),
            (
                "{\"inputs\":[{}]}",
                Form,
                &[
                    ("/inputs/0", "missing_member"),
                    ("/inputs/0", "missing_member"),
                    ("/inputs/0", "missing_member"),
                    ("/inputs/0", "missing_member"),
                    ("/inputs", "missing_input"),
                ],
            ),
            (
                "{\"inputs\":[{\"name\":1,\"shape\":2,\"datatype\":3,\"data\":4,\"more\":5,\"parameters\":6}]}",
                Form,
                &[
                    ("/inputs/0/name", "wrong_type"),
                    ("/inputs/0/shape", "wrong_type"),
                    ("/inputs/0/datatype", "wrong_type"),
                    ("/inputs/0/data", "wrong_type"),
                    ("/inputs/0/more", "unknown_member"),
                    ("/inputs/0/parameters", "wrong_type"),
                    ("/inputs", "missing_input"),
                ],
            ),
            (
                "{\"inputs\":[{\"name\":\"z\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]}]}",
                Inputs,
                &[
                    ("/inputs/0/name", "unknown_input"),
                    ("/inputs", "missing_input"),
                ],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]},{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]}]}",
                Inputs,
                &[("/inputs/1/name", "duplicate_input")],
            ),
            (
                // The elements are not held against a datatype that is wrong already.
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"BYTES\",\"data\":[\"\",\"\"]}]}",
                Inputs,
                &[("/inputs/0/datatype", "wrong_datatype")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"data\":[\"\",\"\"],\"shape\":[1,2],\"datatype\":\"BYTES\"}]}",
                Inputs,
                &[("/inputs/0/datatype", "wrong_datatype")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"data\":[null,2],\"shape\":[1,2],\"datatype\":\"BYTES\",\"z\":0}]}",
                Form,
                &[
                    ("/inputs/0/z", "unknown_member"),
                    ("/inputs/0/datatype", "wrong_datatype"),
                ],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2,3]}]}",
                Inputs,
                &[("/inputs/0/data", "wrong_count")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[[1,2],[3,4]]}]}",
                Inputs,
                &[("/inputs/0/data", "wrong_count")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[2,2],\"datatype\":\"FP32\",\"data\":[[1,2],[3]]}]}",
                Inputs,
                &[("/inputs/0/data/1", "ragged")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[[[1,2]]]}]}",
                Inputs,
                &[("/inputs/0/data", "wrong_shape")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,[2]]}]}",
                Inputs,
                &[("/inputs/0/data/1", "ragged")],
            ),
            (
                "{\"inputs\":[{\"data\":[1,true],\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\"}]}",
                Inputs,
                &[("/inputs/0/data/1", "wrong_datatype")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,3],\"datatype\":\"FP32\",\"data\":[1,2,3]}]}",
                Inputs,
                &[("/inputs/0/shape", "wrong_shape")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[300,2],\"datatype\":\"FP32\",\"data\":[1]}]}",
                Inputs,
                &[("/inputs/0/data", "wrong_count")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[9223372036854775808,2],\"datatype\":\"FP32\",\"data\":[1]}]}",
                Inputs,
                &[("/inputs/0/data", "wrong_count")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[-1,2],\"datatype\":\"FP32\",\"data\":[1,2]}]}",
                Form,
                &[("/inputs/0/shape/0", "wrong_type")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[0,2],\"datatype\":\"FP32\",\"data\":[]}]}",
                Inputs,
                &[("/inputs/0/shape", "empty_tensor")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],\"datatype\":\"FP32\",\"data\":[1,2]}]}",
                Inputs,
                &[("/inputs/0/shape", "wrong_shape")],
            ),
            (
                "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]}],\"outputs\":[{\"name\":\"z\"},{\"name\":\"y\"},{\"name\":\"y\"},{},7,{\"name\":1}]}",
                Form,
                &[
                    ("/outputs/0/name", "unknown_output"),
                    ("/outputs/2/name", "duplicate_output"),
                    ("/outputs/3", "missing_member"),
                    ("/outputs/4", "wrong_type"),
                    ("/outputs/5/name", "wrong_type"),
                ],
            ),
        ],
        |body| parse_infer(body, 0, &contract),
    );
}

fn asked(name: &str, binary: bool, classes: u32) -> OutputRequest {
    OutputRequest {
        name: name.to_owned(),
        binary,
        classes,
    }
}

#[test]
fn an_infer_body_reads_the_same_in_any_order_of_members_flat_or_nested() {
    let members = [
        "\"name\":\"x\"",
        "\"shape\":[2,2]",
        "\"datatype\":\"FP32\"",
        "\"parameters\":{}",
    ];
    let expected: Vec<u8> = [1f32, 2.5, -3.0, 4.0]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    for data in ["\"data\":[1,2.5,-3,4]", "\"data\" : [ [1,2.5], [-3,4] ]"] {
        for place in 0..=members.len() {
            for rotated in 0..members.len() {
                let mut order = members.to_vec();
                order.rotate_left(rotated);
                order.insert(place, data);
                let body = format!(
                    "{{\"id\":\"7\",\"inputs\":[{{{}}}],\"outputs\":[{{\"name\":\"y\",\"parameters\":{{\"binary_data\":false}}}}]}}",
                    order.join(",")
                );
                let request = parse_infer(body.as_bytes(), 0, &contract(ONE)).expect(&body);
                assert_eq!(
                    (request.id.as_deref(), request.outputs),
                    (Some("7"), vec![asked("y", false, 0)])
                );
                assert_eq!(
                    (&request.inputs[0].shape, &request.inputs[0].data),
                    (&vec![2, 2], &expected.clone().into())
                );
            }
        }
    }
    let body = format!(
        "{{\"id\":\"{}\",\"inputs\":[{{\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[1,2]}}]}}",
        "i".repeat(257)
    );
    let rejection = parse_infer(body.as_bytes(), 0, &contract(ONE)).unwrap_err();
    assert_eq!(faults(&rejection), [("/id", "id_too_long")]);
}

#[test]
fn scalars_and_higher_ranks_are_read_from_flat_data() {
    let scalar = one_of("INT64", "[]", "");
    let body = b"{\"inputs\":[{\"name\":\"x\",\"shape\":[],\"datatype\":\"INT64\",\"data\":[5]}]}";
    assert_eq!(
        parse_infer(body, 0, &scalar).unwrap().inputs[0].data,
        5i64.to_le_bytes()
    );
    let cube = one_of("UINT8", "[2, 1, 2]", "maximum = 7");
    for data in ["[1,2,3,4]", "[[[1,2]],[[3,4]]]"] {
        let body = format!(
            "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[2,1,2],\"datatype\":\"UINT8\",\"data\":{data}}}]}}"
        );
        assert_eq!(
            parse_infer(body.as_bytes(), 0, &cube).unwrap().inputs[0].data,
            [1, 2, 3, 4]
        );
    }
    for (data, pointer) in [
        ("[1,2,3,8]", "/inputs/0/data/3"),
        ("[[[1,2]],[[3,8]]]", "/inputs/0/data/1/0/1"),
    ] {
        let body = format!(
            "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[2,1,2],\"datatype\":\"UINT8\",\"data\":{data}}}]}}"
        );
        assert_eq!(
            faults(&parse_infer(body.as_bytes(), 0, &cube).unwrap_err()),
            [(pointer, "out_of_range")]
        );
    }
}

#[test]
fn a_claimed_shape_takes_no_memory() {
    let huge = one_of("FP64", "[1099511627776]", "");
    for body in [
        "{\"inputs\":[1,2]}".to_owned(),
        "{\"inputs\":[{\"name\":\"x\",\"shape\":[1099511627776],\"datatype\":\"FP64\",\"data\":[1]}]}".to_owned(),
    ] {
        assert!(parse_predict(body.as_bytes(), &huge).is_err());
        assert!(parse_infer(body.as_bytes(), 0, &huge).is_err());
    }
}

fn tensor(name: &str, datatype: Datatype, shape: &[u64], data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        data: data.into(),
    }
}

#[test]
fn tensors_of_an_adapter_are_held_to_the_contract() {
    let contract = contract(TWO);
    let a = |rows: u64| {
        tensor(
            "a",
            Datatype::Int32,
            &[rows, 4],
            vec![0; rows as usize * 16],
        )
    };
    let b = |rows: u64, width: u64| {
        tensor(
            "b/~",
            Datatype::Fp32,
            &[rows, width],
            vec![0; (rows * width * 4) as usize],
        )
    };
    check_tensors(&[b(2, 3), a(2)], &contract).unwrap();
    let mut out_of_range = a(1);
    out_of_range.data[7] = 1;
    type Case<'t> = (Vec<Tensor>, Vec<(&'t str, &'t str)>);
    let cases: Vec<Case<'_>> = vec![
        (
            vec![],
            vec![("/inputs", "missing_input"), ("/inputs", "missing_input")],
        ),
        (
            vec![a(1), a(1), b(1, 2)],
            vec![("/inputs/a", "duplicate_tensor")],
        ),
        (
            vec![a(1), b(1, 2), tensor("z", Datatype::Bool, &[], vec![0])],
            vec![("/inputs/z", "unknown_input")],
        ),
        (
            vec![a(2), b(1, 2)],
            vec![("/inputs/b~1~0", "axis_mismatch")],
        ),
        (
            vec![a(1), b(1, 4)],
            vec![("/inputs/b~1~0", "axis_out_of_range")],
        ),
        (vec![a(4), b(4, 2)], vec![("/inputs/a", "too_many_items")]),
        (
            vec![a(0), b(0, 2)],
            vec![
                ("/inputs/a", "empty_tensor"),
                ("/inputs/b~1~0", "empty_tensor"),
            ],
        ),
        (
            vec![out_of_range, b(1, 2)],
            vec![("/inputs/a/0/1", "out_of_range")],
        ),
        (
            vec![tensor("a", Datatype::Int64, &[1, 4], vec![0; 32]), b(1, 2)],
            vec![("/inputs/a", "wrong_datatype")],
        ),
        (
            vec![
                tensor("a", Datatype::Int32, &[u64::MAX, 4], vec![0; 16]),
                b(1, 2),
            ],
            vec![("/inputs/a", "wrong_count")],
        ),
        (
            vec![tensor("a", Datatype::Int32, &[4], vec![0; 16]), b(1, 2)],
            vec![("/inputs/a", "wrong_shape")],
        ),
    ];
    for (tensors, expected) in cases {
        let rejection = check_tensors(&tensors, &contract).unwrap_err();
        assert_eq!(
            (rejection.code, faults(&rejection)),
            (Code::InvalidInputs, expected),
            "{tensors:?}"
        );
    }
    let bools = one_of("BOOL", "[2]", "");
    let rejection =
        check_tensors(&[tensor("x", Datatype::Bool, &[2], vec![1, 2])], &bools).unwrap_err();
    assert_eq!(faults(&rejection), [("/inputs/x/1", "out_of_range")]);
}

#[test]
fn outputs_of_a_model_may_be_empty_but_not_of_another_shape() {
    let contract = contract(TWO);
    let y = |shape: &[u64]| {
        tensor(
            "y",
            Datatype::Fp32,
            shape,
            vec![0; 4 * shape.iter().product::<u64>() as usize],
        )
    };
    check_outputs(&[y(&[0, 2])], &contract).unwrap();
    check_outputs(&[y(&[100, 2])], &contract).unwrap();
    let rejection = check_outputs(&[y(&[1, 3])], &contract).unwrap_err();
    assert_eq!(faults(&rejection), [("/outputs/y", "wrong_shape")]);
    let rejection = check_outputs(&[], &contract).unwrap_err();
    assert_eq!(faults(&rejection), [("/outputs", "missing_output")]);
}
