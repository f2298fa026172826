//! Tests inference requests over gRPC: their decoding, and the errors of invalid ones.

use pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use penstock_core::Code;
use penstock_gate::grpc::decode::{MAX_ID_BYTES, MAX_LISTED, heading};
use penstock_gate::grpc::{self, Decoded, Form, Inference, encode_infer};
use penstock_proto::inference as pb;
use penstock_tensor::finite::any_non_finite;
use penstock_tensor::tensor::push_byte_string;
use penstock_tensor::{Contract, Datatype, Rejection, Tensor, Unknown};
use proptest::prelude::*;
use prost::Message;
use prost::bytes::Bytes;

const LIMIT: u64 = 1 << 20;

/// Decodes with unknown parameters refused, so that tests see every place that is checked.
fn decode_infer(message: &[u8], contract: &Contract, limit: u64) -> Result<Decoded, Rejection> {
    grpc::decode_infer(message, contract, limit, Unknown::Refuse)
}

/// Returns a model with one input `x` of this datatype and variable length, and two outputs.
fn contract(datatype: Datatype) -> Contract {
    Contract::parse(&format!(
        "description = \"d\"\n[[inputs]]\nname = \"x\"\ndatatype = \"{datatype}\"\nshape = [\"length\"]\n\n[[outputs]]\nname = \"y\"\ndatatype = \
         \"FP32\"\nshape = [\"length\"]\n\n[[outputs]]\nname = \"z\"\ndatatype = \"FP32\"\nshape = [\"length\"]\n\n[limits]\nmax_items = 10000000\n"
    ))
    .unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn two_inputs() -> Contract {
    Contract::parse(
        "description = \"d\"\n[[inputs]]\nname = \"a\"\ndatatype = \"FP32\"\nshape = [2]\n\n[[inputs]]\nname = \"b\"\ndatatype = \"INT8\"\nshape = \
         [3]\nminimum = 0\n\n[[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1]\n",
    )
    .unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn request(inputs: Vec<InferInputTensor>, raw: &[&[u8]]) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "m".to_owned(),
        inputs,
        raw_input_contents: raw.iter().map(|r| Bytes::copy_from_slice(r)).collect(),
        ..Default::default()
    }
}

fn read(request: &pb::ModelInferRequest, contract: &Contract) -> Result<Decoded, Rejection> {
    decode_infer(&request.encode_to_vec(), contract, LIMIT)
}

/// Returns the code and the rules of a rejected request.
fn refusal(request: &pb::ModelInferRequest, contract: &Contract) -> (Code, Vec<String>) {
    let rejection = read(request, contract).unwrap_err();
    assert!(!rejection.message.is_empty());
    let rules = rejection.violations.into_iter().map(|v| v.rule);
    (rejection.code, rules.collect())
}

fn parameter(choice: pb::infer_parameter::ParameterChoice) -> pb::InferParameter {
    pb::InferParameter {
        parameter_choice: Some(choice),
    }
}

/// Converts a tensor to typed contents; `None` if its datatype has none.
fn typed(tensor: &Tensor) -> Option<pb::InferTensorContents> {
    macro_rules! numbers {
        ($type:ty) => {
            tensor
                .data
                .as_chunks::<{ size_of::<$type>() }>()
                .0
                .iter()
                .map(|bytes| <$type>::from_le_bytes(*bytes).into())
                .collect()
        };
    }
    let mut contents = pb::InferTensorContents::default();
    match tensor.datatype {
        Datatype::Bool => contents.bool_contents = tensor.data.iter().map(|b| *b == 1).collect(),
        Datatype::Int8 => contents.int_contents = numbers!(i8),
        Datatype::Int16 => contents.int_contents = numbers!(i16),
        Datatype::Int32 => contents.int_contents = numbers!(i32),
        Datatype::Int64 => contents.int64_contents = numbers!(i64),
        Datatype::Uint8 => contents.uint_contents = numbers!(u8),
        Datatype::Uint16 => contents.uint_contents = numbers!(u16),
        Datatype::Uint32 => contents.uint_contents = numbers!(u32),
        Datatype::Uint64 => contents.uint64_contents = numbers!(u64),
        Datatype::Fp32 => contents.fp32_contents = numbers!(f32),
        Datatype::Fp64 => contents.fp64_contents = numbers!(f64),
        Datatype::Bytes => {
            contents.bytes_contents = penstock_tensor::tensor::ByteStrings::new(&tensor.data)
                .map(<[u8]>::to_vec)
                .collect();
        }
        _ => return None,
    }
    Some(contents)
}

/// Generates tensors of every datatype with finite numbers.
fn tensors() -> impl Strategy<Value = Tensor> {
    let datatype = prop::sample::select(Datatype::ALL);
    (datatype, prop::collection::vec(any::<[u8; 8]>(), 1..20)).prop_map(|(datatype, words)| {
        let mut data = Vec::new();
        for word in &words {
            match datatype.size_bytes() {
                None => assert!(push_byte_string(
                    &mut data,
                    &word[..usize::from(word[0] % 8)]
                )),
                Some(1) if datatype == Datatype::Bool => data.push(word[0] & 1),
                Some(1) if datatype.narrow_range().is_some() => data.push(word[0] & 1),
                Some(4) if datatype == Datatype::Fp32 => {
                    let number = f32::from(i16::from_le_bytes([word[0], word[1]]));
                    data.extend_from_slice(&number.to_le_bytes());
                }
                Some(8) if datatype == Datatype::Fp64 => {
                    let number = f64::from(i16::from_le_bytes([word[0], word[1]]));
                    data.extend_from_slice(&number.to_le_bytes());
                }
                Some(size) => data.extend_from_slice(&word[..size]),
            }
        }
        let finite = !any_non_finite(datatype, &data);
        Tensor {
            name: "x".to_owned(),
            data: if finite {
                data.into()
            } else {
                vec![0; data.len()].into()
            },
            datatype,
            shape: vec![words.len() as u64],
        }
    })
}

#[test]
fn nan_and_infinity_are_refused_typed_and_raw_unless_the_contract_lets_them_in() {
    let words = [1.0, f64::NAN, f64::INFINITY];
    let sixteen = |bits: [u16; 3]| bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let cases: [(Datatype, Vec<u8>); 4] = [
        (
            Datatype::Fp32,
            words
                .iter()
                .flat_map(|word| (*word as f32).to_le_bytes())
                .collect(),
        ),
        (
            Datatype::Fp64,
            words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        ),
        (Datatype::Fp16, sixteen([0x3C00, 0x7E00, 0x7C00])),
        (Datatype::Bf16, sixteen([0x3F80, 0x7FC0, 0x7F80])),
    ];
    for (datatype, data) in cases {
        let raw = request(vec![input("x", datatype.as_str(), &[3])], &[&data]);
        let mut sent = vec![raw.clone()];
        let tensor = Tensor {
            name: "x".to_owned(),
            datatype,
            shape: vec![3],
            data: data.into(),
        };
        if let Some(contents) = typed(&tensor) {
            let mut message = raw;
            message.raw_input_contents.clear();
            message.inputs[0].contents = Some(contents);
            sent.push(message);
        }
        let mut contract = contract(datatype);
        for message in &sent {
            let (code, rules) = refusal(message, &contract);
            assert_eq!((code, rules.len()), (Code::InvalidInputs, 2), "{datatype}");
            assert!(rules.iter().all(|rule| rule == "not_finite"), "{rules:?}");
            let told = read(message, &contract).unwrap_err().message;
            assert!(
                told.contains("input \"x\" has the value NaN at [1]"),
                "{told}"
            );
        }
        contract.inputs[0].allow_non_finite = true;
        for message in &sent {
            assert!(read(message, &contract).is_ok(), "{datatype}");
        }
    }
}

proptest! {
    #[test]
    fn a_tensor_is_the_same_raw_and_typed(tensor in tensors(), id in "[a-z]{0,8}") {
        let contract = contract(tensor.datatype);
        let shape: Vec<i64> = tensor.shape.iter().map(|l| *l as i64).collect();
        let mut raw = request(
            vec![input("x", tensor.datatype.as_str(), &shape)],
            &[&tensor.data],
        );
        raw.id = id.clone();
        let expected = Decoded {
            id: (!id.is_empty()).then_some(id),
            inputs: vec![tensor.clone()],
            ..Decoded::default()
        };
        prop_assert_eq!(read(&raw, &contract).unwrap(), expected.clone());
        if let Some(contents) = typed(&tensor) {
            let mut message = raw.clone();
            message.raw_input_contents.clear();
            message.inputs[0].contents = Some(contents);
            prop_assert_eq!(read(&message, &contract).unwrap(), expected);
        }
    }

    #[test]
    fn an_answer_reads_back_as_what_was_written(tensor in tensors(), stream in any::<bool>()) {
        let said = Inference {
            model: "m",
            version: "2",
            id: Some("7"),
            parameters: &[("prediction_id", "p")],
            outputs: vec![tensor.clone()],
        };
        let form = if stream { Form::Stream } else { Form::Unary };
        let written = encode_infer(said, form).unwrap();
        let response = if stream {
            let read = pb::ModelStreamInferResponse::decode(written.as_slice()).unwrap();
            prop_assert_eq!(read.error_message, "");
            read.infer_response.unwrap()
        } else {
            pb::ModelInferResponse::decode(written.as_slice()).unwrap()
        };
        prop_assert_eq!((&*response.model_name, &*response.model_version, &*response.id), ("m", "2", "7"));
        prop_assert_eq!(&response.raw_output_contents[0][..], &tensor.data[..]);
        prop_assert_eq!(&*response.outputs[0].datatype, tensor.datatype.as_str());
        prop_assert_eq!(response.outputs[0].shape[0] as u64, tensor.shape[0]);
        prop_assert_eq!(response.parameters.len(), 1 + usize::from(stream));
    }

    #[test]
    fn whatever_prost_refuses_is_refused_and_nothing_panics(
        mut message in prop::collection::vec(any::<u8>(), 0..200),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        whole in any::<bool>(),
    ) {
        let contract = two_inputs();
        if whole {
            let mut inputs = vec![input("a", "FP32", &[2]), input("b", "INT8", &[3])];
            inputs[0].contents = Some(pb::InferTensorContents { fp32_contents: vec![1.0, 2.0], ..Default::default() });
            inputs[1].contents = Some(pb::InferTensorContents { int_contents: vec![1, 2, 300], ..Default::default() });
            message = request(inputs, &[]).encode_to_vec();
            for (index, byte) in flips {
                let index = index.index(message.len());
                message[index] ^= byte;
            }
        }
        let ours = decode_infer(&message, &contract, LIMIT);
        if pb::ModelInferRequest::decode(message.as_slice()).is_err() {
            prop_assert!(ours.is_err());
        } else if let Err(rejection) = ours {
            // prost accepts a broken field that its definitions do not have. The reverse is not allowed: the decoder
            // refuses every message that prost refuses. Groups are skipped everywhere.
            prop_assert_ne!(rejection.code, Code::Internal);
        }
    }
}

#[test]
fn a_message_that_is_cut_is_never_taken_for_a_whole_one() {
    let contract = two_inputs();
    let mut inputs = vec![input("a", "FP32", &[2]), input("b", "INT8", &[3])];
    let raw = request(inputs.clone(), &[&[0; 8], &[1; 3]]).encode_to_vec();
    assert!(decode_infer(&raw, &contract, LIMIT).is_ok());
    inputs[0].contents = Some(pb::InferTensorContents {
        fp32_contents: vec![1.0, 2.0],
        ..Default::default()
    });
    inputs[1].contents = Some(pb::InferTensorContents {
        int_contents: vec![1, 2, 3],
        ..Default::default()
    });
    let typed = request(inputs, &[]).encode_to_vec();
    assert!(decode_infer(&typed, &contract, LIMIT).is_ok());
    for message in [raw, typed] {
        for end in 0..message.len() {
            assert!(
                decode_infer(&message[..end], &contract, LIMIT).is_err(),
                "{end}"
            );
        }
    }
}

#[test]
fn inputs_come_in_the_contracts_order_whatever_theirs_was() {
    let inputs = vec![input("b", "INT8", &[3]), input("a", "FP32", &[2])];
    let found = read(&request(inputs, &[&[1; 3], &[0; 8]]), &two_inputs()).unwrap();
    let names: Vec<&str> = found.inputs.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(found.inputs[1].data, [1; 3]);
}

#[test]
fn numbers_are_read_packed_and_one_by_one_and_in_parts() {
    // Sends `int_contents` in two fields, the first unpacked and the second packed.
    let mut x = input("x", "INT16", &[3]).encode_to_vec();
    x.extend_from_slice(&[0x2a, 2, 0x10, 7]);
    x.extend_from_slice(&[0x2a, 5, 0x12, 3, 8, 0xac, 0x02]);
    let mut message = vec![0x2a, x.len() as u8];
    message.extend_from_slice(&x);
    let found = decode_infer(&message, &contract(Datatype::Int16), LIMIT).unwrap();
    assert_eq!(found.inputs[0].data, [7, 0, 8, 0, 44, 1]);
}

fn fp32(values: &[f32]) -> Option<pb::InferTensorContents> {
    Some(pb::InferTensorContents {
        fp32_contents: values.to_vec(),
        ..Default::default()
    })
}

fn ints(values: &[i32]) -> Option<pb::InferTensorContents> {
    Some(pb::InferTensorContents {
        int_contents: values.to_vec(),
        ..Default::default()
    })
}

fn with(
    mut input: InferInputTensor,
    contents: Option<pb::InferTensorContents>,
) -> InferInputTensor {
    input.contents = contents;
    input
}

fn good_a() -> InferInputTensor {
    with(input("a", "FP32", &[2]), fp32(&[1.0, 2.0]))
}

fn good_b() -> InferInputTensor {
    with(input("b", "INT8", &[3]), ints(&[1, 2, 3]))
}

/// A name, inputs, raw contents, and the code and the rules of their refusal.
type WrongInputs = (
    &'static str,
    Vec<InferInputTensor>,
    &'static [&'static [u8]],
    Code,
    &'static [&'static str],
);

fn wrong_inputs() -> [WrongInputs; 15] {
    [
        (
            "none",
            vec![],
            &[],
            Code::InvalidInputs,
            &["missing_input", "missing_input"],
        ),
        (
            "one",
            vec![good_a()],
            &[],
            Code::InvalidInputs,
            &["missing_input"],
        ),
        (
            "unknown",
            vec![good_a(), good_b(), input("c", "FP32", &[0])],
            &[],
            Code::InvalidInputs,
            &["unknown_input"],
        ),
        (
            "twice",
            vec![good_a(), good_b(), good_a()],
            &[],
            Code::InvalidInputs,
            &["duplicate_tensor"],
        ),
        (
            "datatype",
            vec![good_a(), with(input("b", "INT16", &[3]), ints(&[1, 2, 3]))],
            &[],
            Code::InvalidInputs,
            &["wrong_datatype"],
        ),
        (
            "no datatype",
            vec![good_a(), with(input("b", "int8", &[3]), ints(&[1, 2, 3]))],
            &[],
            Code::InvalidInputs,
            &["wrong_datatype"],
        ),
        (
            "field",
            vec![good_a(), with(input("b", "INT8", &[3]), fp32(&[1.0]))],
            &[],
            Code::InvalidInputs,
            &["wrong_contents"],
        ),
        (
            "count",
            vec![good_a(), with(input("b", "INT8", &[3]), ints(&[1]))],
            &[],
            Code::InvalidInputs,
            &["wrong_count"],
        ),
        (
            "no contents",
            vec![good_a(), input("b", "INT8", &[3])],
            &[],
            Code::InvalidInputs,
            &["wrong_count"],
        ),
        (
            "values",
            vec![
                good_a(),
                with(input("b", "INT8", &[3]), ints(&[128, -129, 3])),
            ],
            &[],
            Code::InvalidInputs,
            &["out_of_range", "out_of_range"],
        ),
        (
            "range",
            vec![good_a(), with(input("b", "INT8", &[3]), ints(&[1, -1, 3]))],
            &[],
            Code::InvalidInputs,
            &["out_of_range"],
        ),
        (
            "shape",
            vec![
                good_a(),
                with(input("b", "INT8", &[1, 3]), ints(&[1, 2, 3])),
            ],
            &[],
            Code::InvalidInputs,
            &["wrong_shape"],
        ),
        (
            "negative",
            vec![good_a(), with(input("b", "INT8", &[-3]), ints(&[1, 2, 3]))],
            &[],
            Code::InvalidInputs,
            &["wrong_shape"],
        ),
        (
            "overflow",
            vec![
                good_a(),
                with(input("b", "INT8", &[i64::MAX, i64::MAX]), ints(&[1])),
            ],
            &[],
            Code::InvalidInputs,
            &["wrong_count"],
        ),
        (
            "rank",
            vec![good_a(), with(input("b", "INT8", &[1; 40]), ints(&[1]))],
            &[],
            Code::InvalidInputs,
            &["wrong_shape"],
        ),
    ]
}

fn wrong_inputs_with_raw_contents() -> [WrongInputs; 5] {
    [
        (
            "both",
            vec![good_a(), good_b()],
            &[&[0; 8], &[1; 3]],
            Code::InvalidBody,
            &["contents_given_twice", "contents_given_twice"],
        ),
        (
            "few raw",
            vec![input("a", "FP32", &[2]), input("b", "INT8", &[3])],
            &[&[0; 8]],
            Code::InvalidBody,
            &["wrong_count"],
        ),
        (
            "many raw",
            vec![input("a", "FP32", &[2])],
            &[&[0; 8], &[1; 3]],
            Code::InvalidBody,
            &["wrong_count", "missing_input"],
        ),
        (
            "raw size",
            vec![input("a", "FP32", &[2]), input("b", "INT8", &[3])],
            &[&[0; 7], &[1; 4]],
            Code::InvalidInputs,
            &["wrong_count", "wrong_count"],
        ),
        (
            "several",
            vec![
                with(input("a", "FP99", &[2]), None),
                with(input("b", "INT8", &[3]), ints(&[1, 2, -3])),
            ],
            &[],
            Code::InvalidInputs,
            &["wrong_datatype", "out_of_range"],
        ),
    ]
}

#[test]
fn wrong_inputs_are_refused_with_everything_that_is_wrong() {
    let contract = two_inputs();
    let wrong = wrong_inputs().into_iter();
    for (what, inputs, raw, code, rules) in wrong.chain(wrong_inputs_with_raw_contents()) {
        let (found, found_rules) = refusal(&request(inputs, raw), &contract);
        assert_eq!(
            (found, found_rules.as_slice()),
            (
                code,
                &rules.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>()[..]
            ),
            "{what}"
        );
    }
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        let x = with(input("x", datatype.as_str(), &[1]), fp32(&[1.0]));
        let found = refusal(&request(vec![x], &[]), &self::contract(datatype));
        assert_eq!(
            found,
            (Code::InvalidInputs, vec!["wrong_contents".to_owned()])
        );
    }
}

#[test]
fn parameters_that_say_something_are_taken_and_the_others_refused() {
    use pb::infer_parameter::ParameterChoice as Choice;
    let contract = contract(Datatype::Uint8);
    let base = || request(vec![input("x", "UINT8", &[1])], &[&[1]]);
    let with = |name: &str, choice: Choice| {
        let mut request = base();
        request
            .parameters
            .insert(name.to_owned(), parameter(choice));
        request
    };
    let timed = read(&with("timeout", Choice::Int64Param(1_500)), &contract).unwrap();
    assert_eq!(timed.timeout_us, Some(1_500));
    for (name, choice) in [
        ("timeout", Choice::Int64Param(0)),
        ("priority", Choice::Uint64Param(0)),
        ("priority", Choice::Uint64Param(u64::MAX)),
        ("binary_data_output", Choice::BoolParam(true)),
        (
            "triton_enable_empty_final_response",
            Choice::BoolParam(true),
        ),
        ("sequence_id", Choice::Int64Param(0)),
        ("sequence_start", Choice::BoolParam(false)),
    ] {
        let found = read(&with(name, choice), &contract).unwrap();
        assert_eq!((found.timeout_us, found.priority), (None, None), "{name}");
    }
    for (name, choice, rule) in [
        ("timeout", Choice::StringParam("soon".into()), "wrong_type"),
        ("timeout", Choice::Int64Param(-1), "wrong_type"),
        ("sequence_id", Choice::Int64Param(7), "not_supported"),
        (
            "shared_memory_region",
            Choice::StringParam("r".into()),
            "not_supported",
        ),
        ("tiemout", Choice::Int64Param(1), "unknown_parameter"),
    ] {
        let code = match rule {
            "not_supported" => Code::NotSupported,
            _ => Code::InvalidBody,
        };
        let found = refusal(&with(name, choice), &contract);
        assert_eq!(found, (code, vec![rule.to_owned()]), "{name}");
    }
    // As in JSON, 4.0 is 4.
    for (number, expected) in [(4.0, Some(4)), (0.0, None)] {
        let found = read(&with("timeout", Choice::DoubleParam(number)), &contract);
        assert_eq!(found.unwrap().timeout_us, expected);
    }
    for number in [4.5, -4.0, f64::NAN, f64::INFINITY, 1e300] {
        let found = refusal(&with("timeout", Choice::DoubleParam(number)), &contract);
        assert_eq!(found.1, ["wrong_type"], "{number}");
    }
    let mut shared = base();
    let region = parameter(Choice::StringParam("r".into()));
    shared.inputs[0]
        .parameters
        .insert("shared_memory_region".into(), region);
    assert_eq!(refusal(&shared, &contract).1, ["not_supported"]);
    let mut long = base();
    long.id = "x".repeat(MAX_ID_BYTES + 1);
    assert_eq!(refusal(&long, &contract).1, ["id_too_long"]);
}

#[test]
fn parameters_that_nothing_acts_on_are_ignored_unless_they_would_change_the_result() {
    use pb::infer_parameter::ParameterChoice as Choice;
    let contract = contract(Datatype::Uint8);
    let lenient = |request: &pb::ModelInferRequest| {
        grpc::decode_infer(&request.encode_to_vec(), &contract, LIMIT, Unknown::Ignore)
    };
    let base = request(vec![input("x", "UINT8", &[2])], &[&[1, 2]]);
    let plain = lenient(&base).unwrap();
    // KServe's client states the size of raw bytes, and MLServer's codecs state their encoding.
    let mut kserve = base.clone();
    for (name, choice) in [
        ("binary_data_size", Choice::Int64Param(2)),
        ("content_type", Choice::StringParam("np".into())),
        ("layout", Choice::StringParam("C".into())),
    ] {
        let parameters = &mut kserve.inputs[0].parameters;
        parameters.insert(name.to_owned(), parameter(choice));
    }
    kserve
        .parameters
        .insert("headers".to_owned(), parameter(Choice::BoolParam(true)));
    // Adds a parameter without a value.
    kserve
        .parameters
        .insert("priority".to_owned(), Default::default());
    assert_eq!(lenient(&kserve).as_ref(), Ok(&plain));
    assert_eq!(refusal(&kserve, &contract).0, Code::InvalidBody);
    for (name, choice, code) in [
        (
            "binary_data_size",
            Choice::Int64Param(3),
            Code::InvalidInputs,
        ),
        (
            "binary_data_size",
            Choice::StringParam("2".into()),
            Code::InvalidBody,
        ),
        (
            "shared_memory_region",
            Choice::StringParam("r".into()),
            Code::NotSupported,
        ),
        (
            "content_type",
            Choice::StringParam("base64".into()),
            Code::NotSupported,
        ),
        ("classification", Choice::Int64Param(3), Code::NotSupported),
    ] {
        let mut request = base.clone();
        let parameters = &mut request.inputs[0].parameters;
        parameters.insert(name.to_owned(), parameter(choice));
        let rejection = lenient(&request).unwrap_err();
        assert_eq!(rejection.code, code, "{name}");
        assert_eq!(
            rejection.violations[0].pointer,
            format!("/inputs/0/parameters/{name}")
        );
    }
}

#[test]
fn a_fault_of_a_tensor_points_to_its_place_in_the_message() {
    let contract = two_inputs();
    let good = [0u8; 8];
    let message = request(
        vec![input("b", "INT8", &[3]), input("a", "FP32", &[2])],
        &[&[1, 2, 255], &good],
    );
    let rejection = read(&message, &contract).unwrap_err();
    let violation = &rejection.violations[0];
    assert_eq!(
        (violation.pointer.as_str(), violation.rule.as_str()),
        ("/inputs/0", "out_of_range")
    );
    assert!(
        violation.message.contains("the value -1 at [2]"),
        "{violation:?}"
    );
}

#[test]
fn outputs_are_those_of_the_contract_each_once_and_with_its_classes() {
    use pb::infer_parameter::ParameterChoice as Choice;
    let contract = contract(Datatype::Uint8);
    let wanted = |names: &[(&str, Option<Choice>)]| {
        let mut request = request(vec![input("x", "UINT8", &[1])], &[&[1]]);
        request.outputs = names
            .iter()
            .map(|(name, classes)| InferRequestedOutputTensor {
                name: (*name).to_owned(),
                parameters: classes
                    .iter()
                    .map(|c| ("classification".to_owned(), parameter(c.clone())))
                    .collect(),
            })
            .collect();
        request
    };
    let found = read(
        &wanted(&[("z", None), ("y", Some(Choice::Int64Param(3)))]),
        &contract,
    )
    .unwrap();
    assert_eq!(found.outputs, [("z".to_owned(), 0), ("y".to_owned(), 3)]);
    assert_eq!(
        refusal(&wanted(&[("q", None)]), &contract).1,
        ["unknown_output"]
    );
    assert_eq!(
        refusal(&wanted(&[("y", None), ("y", None)]), &contract).1,
        ["duplicate_output"]
    );
    let odd = wanted(&[("y", Some(Choice::StringParam("3".into())))]);
    assert_eq!(refusal(&odd, &contract).1, ["wrong_type"]);
}

#[test]
fn a_million_of_anything_costs_no_more_than_what_was_sent() {
    let contract = contract(Datatype::Int64);
    let million = 1_000_000;
    // Empty inputs, outputs, raw contents and parameters take two bytes each.
    for key in [0x2a, 0x32, 0x3a, 0x22] {
        let message = [key, 0].repeat(million);
        let rejection = decode_infer(&message, &contract, LIMIT).unwrap_err();
        assert!(rejection.violations.len() <= 32, "{key}");
        if key == 0x2a {
            assert!(
                rejection.violations.iter().any(|v| v.rule == "too_many"),
                "{:?}",
                rejection.violations
            );
        }
    }
    // An element has one byte in the message and eight in the tensor. They are counted before memory is reserved.
    let mut x = input("x", "INT64", &[million as i64]);
    x.contents = Some(pb::InferTensorContents {
        int64_contents: vec![1; million],
        ..Default::default()
    });
    let message = request(vec![x], &[]).encode_to_vec();
    let rejection = decode_infer(&message, &contract, LIMIT).unwrap_err();
    assert_eq!(rejection.code, Code::BodyTooLarge);
    let found = decode_infer(&message, &contract, 8 * LIMIT).unwrap();
    assert_eq!(found.inputs[0].data.len(), 8 * million);
    // Raw inputs share the limit.
    let raw = request(vec![input("x", "INT64", &[1 << 17])], &[&vec![0; 1 << 20]]);
    assert!(read(&raw, &contract).is_ok());
    assert!(decode_infer(&raw.encode_to_vec(), &contract, LIMIT - 1).is_err());
    // Sends a million axes, and a million parameters of an input.
    let mut x = input("x", "INT64", &vec![1; million]).encode_to_vec();
    x.extend([0x22, 0].repeat(million));
    let mut message = vec![0x2a];
    prost::encoding::encode_varint(x.len() as u64, &mut message);
    message.extend_from_slice(&x);
    let rejection = decode_infer(&message, &contract, LIMIT).unwrap_err();
    assert!(rejection.violations.len() <= 32);
    assert_eq!(MAX_LISTED, 256);
}

#[test]
fn a_heading_is_read_of_any_message_and_names_are_cut() {
    let mut said = request(Vec::new(), &[]);
    said.model_name = "m".repeat(100_000);
    said.id = "i".repeat(100_000);
    let found = heading(&said.encode_to_vec()).unwrap();
    assert!(found.target.model.len() < 300 && found.id.len() < 300);
    assert_eq!(found.target.version, None);
    assert_eq!(
        heading(&[0x0a, 0xff]).unwrap_err().code,
        Code::MalformedProtobuf
    );
}
