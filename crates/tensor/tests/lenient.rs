//! Members and parameters of other servers' clients: they are ignored, unless that would change the result.
//! And `null`, which counts as left out, and integers, which may be written with a point or an exponent.

use penstock_core::Code;
use penstock_tensor::parameters::NOT_SUPPORTED;
use penstock_tensor::{
    BinaryInput, Contract, Datatype, InferRequest, Rejection, Unknown, generate, parse_infer,
    parse_predict,
};

const CONTRACT: &str = r#"
description = "numbers"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 3]
[batching]
priority_levels = 4
"#;

fn contract(text: &str) -> Contract {
    Contract::parse(text).unwrap()
}

fn lenient(body: &str) -> Result<InferRequest, Rejection> {
    parse_infer(body.as_bytes(), 0, &contract(CONTRACT), Unknown::Ignore)
}

fn strict(body: &str) -> Result<InferRequest, Rejection> {
    parse_infer(body.as_bytes(), 0, &contract(CONTRACT), Unknown::Refuse)
}

fn faults(rejection: &Rejection) -> Vec<(&str, &str)> {
    let violations = rejection.violations.iter();
    violations
        .map(|v| (v.pointer.as_str(), v.rule.as_str()))
        .collect()
}

const INPUTS: &str = r#"[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]"#;

#[test]
fn what_nothing_here_knows_is_ignored_and_refused_by_strict_servers() {
    let plain = lenient(&format!("{{\"inputs\":{INPUTS}}}")).unwrap();
    for (body, pointer) in [
        (
            format!(r#"{{"inputs":{INPUTS},"raw":{{"a":[1,{{}}]}}}}"#),
            "/raw",
        ),
        (
            format!(r#"{{"parameters":{{"content_type":"np"}},"inputs":{INPUTS}}}"#),
            "",
        ),
        (
            format!(r#"{{"parameters":{{"headers":{{"a":["b"]}}}},"inputs":{INPUTS}}}"#),
            "/parameters/headers",
        ),
        (
            format!(r#"{{"parameters":{{"top_k":1e400}},"inputs":{INPUTS}}}"#),
            "/parameters/top_k",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","layout":"C","data":[1,2]}]}"#
                .to_owned(),
            "/inputs/0/layout",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"k":[]},"data":[1,2]}]}"#
                .to_owned(),
            "/inputs/0/parameters/k",
        ),
    ] {
        assert_eq!(lenient(&body).as_ref(), Ok(&plain), "{body}");
        if pointer.is_empty() {
            continue;
        }
        let rejection = strict(&body).unwrap_err();
        assert_eq!(rejection.code, Code::InvalidBody);
        assert_eq!(rejection.violations[0].pointer, pointer, "{body}");
        assert!(rejection.violations[0].rule.starts_with("unknown_"));
    }
    let body = format!(
        r#"{{"inputs":{INPUTS},"outputs":[{{"name":"y","dtype":"x","parameters":{{"content_type":"np"}}}}]}}"#
    );
    assert_eq!(lenient(&body).unwrap().outputs[0].name, "y");
    // Syntax is checked in ignored members too.
    let rejection = lenient(&format!(r#"{{"inputs":{INPUTS},"raw":[1,]}}"#)).unwrap_err();
    assert_eq!(rejection.code, Code::MalformedJson);
}

#[test]
fn null_counts_as_left_out_wherever_a_member_is_optional() {
    let plain = lenient(&format!("{{\"inputs\":{INPUTS}}}")).unwrap();
    let nulls = format!(
        r#"{{"id":null,"parameters":null,"outputs":null,"model_name":null,"model_version":null,"inputs":{INPUTS}}}"#
    );
    let within = r#"{"parameters":{"priority":null,"timeout":null,"sequence_id":null,"binary_data_output":null},
        "inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":null,"data":[1,2]}]}"#;
    let size = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":null},"data":[1,2]}]}"#;
    for body in [nulls.as_str(), within, size] {
        for read in [lenient(body), strict(body)] {
            assert_eq!(read.as_ref(), Ok(&plain), "{body}");
        }
    }
    let output = format!(
        r#"{{"inputs":{INPUTS},"outputs":[{{"name":"y","parameters":{{"classification":null,"binary_data":null}}}}]}}"#
    );
    let output = strict(&output).unwrap().outputs.remove(0);
    assert_eq!((output.binary, output.classes), (false, 0));
    let bytes = br#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8},"data":null}]}"#;
    let read = parse_infer(bytes, 8, &contract(CONTRACT), Unknown::Refuse).unwrap();
    let binary = BinaryInput {
        input: 0,
        index: 0,
        bytes: 8,
    };
    assert_eq!(read.binary, [binary]);
    // A required member that is null counts as missing.
    for (body, pointer) in [
        (r#"{"inputs":null}"#, ""),
        (
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":null}]}"#,
            "/inputs/0",
        ),
    ] {
        let rejection = lenient(body).unwrap_err();
        assert_eq!(faults(&rejection), [(pointer, "missing_member")], "{body}");
    }
    let predict =
        br#"{"id":null,"parameters":null,"model_version":null,"content":null,"inputs":[[1,2]]}"#;
    let plain = parse_predict(b"{\"inputs\":[[1,2]]}", &contract(CONTRACT)).unwrap();
    assert_eq!(
        parse_predict(predict, &contract(CONTRACT)),
        Ok(plain.clone())
    );
    let null = br#"{"inputs":[[1,2]],"parameters":{"a":null}}"#;
    assert_eq!(parse_predict(null, &contract(CONTRACT)), Ok(plain));
    for unknown in [Unknown::Ignore, Unknown::Refuse] {
        let body =
            br#"{"x":[1,2],"id":null,"parameters":{"x":null,"priority":null,"timeout":null}}"#;
        let read = generate::parse(body, &contract(CONTRACT), unknown).unwrap();
        assert_eq!(
            (read.id, read.priority, read.timeout_us),
            (None, None, None)
        );
        let body = br#"{"x":[1,2],"parameters":null}"#;
        assert!(generate::parse(body, &contract(CONTRACT), unknown).is_ok());
    }
}

#[test]
fn a_parameter_that_would_change_the_result_is_not_supported_in_either_mode() {
    for refused in NOT_SUPPORTED {
        let value = match refused.value {
            Some(value) => format!("\"{value}\""),
            None => "7".to_owned(),
        };
        let parameter = format!("{{\"{}\":{value}}}", refused.name);
        for (body, pointer) in [
            (
                format!(r#"{{"parameters":{parameter},"inputs":{INPUTS}}}"#),
                "/parameters",
            ),
            (
                format!(
                    r#"{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{parameter},"data":[1,2]}}]}}"#
                ),
                "/inputs/0/parameters",
            ),
            (
                format!(
                    r#"{{"inputs":{INPUTS},"outputs":[{{"name":"y","parameters":{parameter}}}]}}"#
                ),
                "/outputs/0/parameters",
            ),
        ] {
            for rejection in [lenient(&body).unwrap_err(), strict(&body).unwrap_err()] {
                assert_eq!(rejection.code, Code::NotSupported, "{body}");
                let pointer = format!("{pointer}/{}", refused.name);
                assert_eq!(faults(&rejection), [(pointer.as_str(), "not_supported")]);
                assert!(rejection.message.contains(refused.why), "{rejection}");
            }
        }
        let asks_nothing = match refused.value {
            Some(_) => "\"other\"",
            None => "0",
        };
        let body = format!(
            r#"{{"parameters":{{"{}":{asks_nothing}}},"inputs":{INPUTS}}}"#,
            refused.name
        );
        assert!(lenient(&body).is_ok() && strict(&body).is_ok(), "{body}");
    }
    // A parameter of something else would be another answer than was asked for.
    for (parameter, place) in [
        ("classification", "an output"),
        ("binary_data", "an output"),
    ] {
        let body = format!(r#"{{"parameters":{{"{parameter}":true}},"inputs":{INPUTS}}}"#);
        let rejection = lenient(&body).unwrap_err();
        assert_eq!(rejection.code, Code::NotSupported);
        assert!(rejection.message.contains(place), "{rejection}");
    }
}

#[test]
fn wrong_values_of_what_is_known_are_errors_in_either_mode() {
    for (parameters, rule) in [
        (r#"{"priority":"high"}"#, "wrong_type"),
        (r#"{"timeout":1.5}"#, "wrong_type"),
        (r#"{"timeout":-1}"#, "wrong_type"),
        (r#"{"binary_data_output":1}"#, "wrong_type"),
        (r#"{"priority":[]}"#, "wrong_type"),
        (r#"{"priority":1e999}"#, "number_out_of_range"),
        ("[]", "wrong_type"),
    ] {
        let body = format!(r#"{{"parameters":{parameters},"inputs":{INPUTS}}}"#);
        for rejection in [lenient(&body).unwrap_err(), strict(&body).unwrap_err()] {
            assert_eq!(rejection.code, Code::InvalidBody);
            assert_eq!(faults(&rejection)[0].1, rule, "{body}");
        }
    }
    for member in [
        r#""id":7"#,
        r#""model_name":7"#,
        r#""model_version":1"#,
        r#""outputs":{}"#,
    ] {
        let body = format!("{{{member},\"inputs\":{INPUTS}}}");
        let rejection = lenient(&body).unwrap_err();
        assert_eq!(faults(&rejection)[0].1, "wrong_type", "{body}");
    }
}

#[test]
fn an_integer_gets_the_same_verdict_however_it_is_written() {
    let spelled = ["4", "4.0", "4e0", "40e-1", "0.4E1", "4.000"];
    let contract = contract(CONTRACT);
    for four in spelled {
        let body =
            format!(r#"{{"parameters":{{"priority":{four},"timeout":{four}}},"inputs":{INPUTS}}}"#);
        let read = lenient(&body).unwrap();
        assert_eq!(
            (read.priority, read.timeout_us),
            (Some(4), Some(4)),
            "{four}"
        );
        let body = format!(
            r#"{{"inputs":{INPUTS},"outputs":[{{"name":"y","parameters":{{"classification":{four}}}}}]}}"#
        );
        assert_eq!(lenient(&body).unwrap().outputs[0].classes, 4, "{four}");
        let body = format!(r#"{{"x":[1,2],"parameters":{{"priority":{four}}}}}"#);
        let read = generate::parse(body.as_bytes(), &contract, Unknown::Ignore).unwrap();
        assert_eq!(read.priority, Some(4));
        let body = format!(
            r#"{{"inputs":[{{"name":"x","shape":[{four},2],"datatype":"FP32","data":[1,2,3,4,5,6,7,8]}}]}}"#
        );
        assert_eq!(lenient(&body).unwrap().inputs[0].shape, [4, 2], "{four}");
        let body = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{{"binary_data_size":{four}}}}}]}}"#
        );
        let rejection = parse_infer(body.as_bytes(), 4, &contract, Unknown::Ignore).unwrap_err();
        assert_eq!(faults(&rejection)[0].1, "wrong_size", "{four}");
        assert_eq!(penstock_tensor::json::whole_number(four), Some(4));
    }
    for (none, verdict) in [
        ("4.5", None),
        ("-4", None),
        ("18446744073709551616", None),
        ("18446744073709551615", Some(u64::MAX)),
        ("1.8446744073709551615e19", Some(u64::MAX)),
    ] {
        let body = format!(r#"{{"parameters":{{"timeout":{none}}},"inputs":{INPUTS}}}"#);
        let read = lenient(&body).ok().and_then(|read| read.timeout_us);
        assert_eq!(read, verdict, "{none}");
        assert_eq!(penstock_tensor::json::whole_number(none), verdict, "{none}");
    }
    for text in ["", "4 5", "\"4\"", "null", "[4]", "NaN", "04"] {
        assert_eq!(penstock_tensor::json::whole_number(text), None, "{text}");
    }
}

#[test]
fn a_model_and_a_version_in_the_body_are_told_to_the_caller_of_the_parser() {
    let body = format!(r#"{{"model_name":"m","model_version":"2","inputs":{INPUTS}}}"#);
    for read in [lenient(&body).unwrap(), strict(&body).unwrap()] {
        assert_eq!(read.model_name.as_deref(), Some("m"));
        assert_eq!(read.model_version.as_deref(), Some("2"));
    }
    let long = "m".repeat(129);
    let rejection =
        lenient(&format!(r#"{{"model_name":"{long}","inputs":{INPUTS}}}"#)).unwrap_err();
    assert_eq!(faults(&rejection), [("/model_name", "model_name_too_long")]);
}

#[test]
fn unknown_members_of_a_generate_body_are_parameters() {
    let contract = contract(CONTRACT);
    let parse = |body: &str, unknown| generate::parse(body.as_bytes(), &contract, unknown);
    let plain = parse(r#"{"x":[1,2]}"#, Unknown::Ignore).unwrap();
    for body in [
        r#"{"x":[1,2],"stream":false,"sampling_parameters":{"temperature":0}}"#,
        r#"{"x":[1,2],"parameters":{"stream":true,"bad_words":[""]}}"#,
    ] {
        assert_eq!(parse(body, Unknown::Ignore).as_ref(), Ok(&plain), "{body}");
        assert!(parse(body, Unknown::Refuse).is_err(), "{body}");
    }
    let read = parse(r#"{"x":[1,2],"priority":2,"timeout":5}"#, Unknown::Ignore).unwrap();
    assert_eq!((read.priority, read.timeout_us), (Some(2), Some(5)));
    for body in [
        r#"{"x":[1,2],"sequence_id":7}"#,
        r#"{"x":[1,2],"parameters":{"sequence_id":7}}"#,
    ] {
        let rejection = parse(body, Unknown::Ignore).unwrap_err();
        assert_eq!(rejection.code, Code::NotSupported, "{body}");
    }
    // An input that is misspelt is still missing.
    let rejection = parse(r#"{"X":[1,2]}"#, Unknown::Ignore).unwrap_err();
    assert_eq!(faults(&rejection), [("", "missing_input")]);
}

#[test]
fn a_scalar_may_be_sent_as_an_axis_of_one_element() {
    let scalar = contract(
        "description = \"\"\n[[inputs]]\nname = \"sr\"\ndatatype = \"INT64\"\nshape = []\nmaximum = 16000\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = []\n",
    );
    let body = |shape: &str, data: &str| {
        format!(
            r#"{{"inputs":[{{"name":"sr","shape":{shape},"datatype":"INT64","data":{data}}}]}}"#
        )
    };
    let parse = |body: &str| parse_infer(body.as_bytes(), 0, &scalar, Unknown::Ignore);
    for shape in ["[]", "[1]"] {
        let read = parse(&body(shape, "[16000]")).unwrap();
        let sr = &read.inputs[0];
        assert_eq!(
            (sr.shape.len(), sr.datatype),
            (0, Datatype::Int64),
            "{shape}"
        );
        assert_eq!(sr.data, 16_000i64.to_le_bytes());
        let rejection = parse(&body(shape, "[16001]")).unwrap_err();
        assert_eq!(faults(&rejection), [("/inputs/0/data/0", "out_of_range")]);
    }
    for (shape, data, rule) in [
        ("[2]", "[1,2]", "wrong_shape"),
        ("[1,1]", "[1]", "wrong_shape"),
        ("[0]", "[]", "empty_tensor"),
    ] {
        let rejection = parse(&body(shape, data)).unwrap_err();
        assert!(
            faults(&rejection).iter().any(|(_, found)| *found == rule),
            "{shape}"
        );
    }
    let bytes = r#"{"inputs":[{"name":"sr","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":8}}]}"#;
    let read = parse_infer(bytes.as_bytes(), 8, &scalar, Unknown::Ignore).unwrap();
    assert!(read.inputs[0].shape.is_empty());
}
