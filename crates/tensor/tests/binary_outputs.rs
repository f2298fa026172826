//! Outputs as bytes and classes: the requests for them, and the answers.

use crate::binary_common::{TWO, asked, contract, floats, one, read, strings};
use penstock_tensor::classification::classify;
use penstock_tensor::fp8::Fp8;
use penstock_tensor::render::write_infer_response;
use penstock_tensor::tensor::push_byte_string;
use penstock_tensor::{Contract, Datatype, OutputRequest, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn requests_for_outputs_are_read_in_every_place() {
    let output = |name: &str, binary, classes| OutputRequest {
        name: name.into(),
        binary,
        classes,
    };
    let read = asked(
        ",\"outputs\":[{\"parameters\":{\"classification\":2},\"name\":\"y\"},{\"name\":\"t\",\"parameters\":{\"binary_data\":false}}],\
         \"parameters\":{\"binary_data_output\":true}",
    )
    .unwrap();
    assert_eq!(read.outputs, [output("y", true, 2), output("t", false, 0)]);
    assert_eq!(
        (read.form_of("y"), read.form_of("t"), read.form_of("z")),
        ((true, 2), (false, 0), (true, 0))
    );
    // The parameters of tritonclient for an output as classes after the JSON, and for all outputs.
    let read = asked(",\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":3,\"binary_data\":true}}]").unwrap();
    assert_eq!(read.outputs, [output("y", true, 3)]);
    let read = asked(",\"parameters\":{\"binary_data_output\":true}").unwrap();
    assert!(read.outputs.is_empty() && read.binary_outputs);
}

fn output(name: &str, datatype: Datatype, shape: &[u64], data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        data: data.into(),
    }
}

fn classes(tensor: &Tensor) -> Vec<String> {
    let strings = penstock_tensor::tensor::ByteStrings::new(&tensor.data);
    strings
        .map(|s| String::from_utf8(s.to_vec()).unwrap())
        .collect()
}

#[test]
fn classes_are_the_greatest_elements_of_each_item_with_their_labels() {
    let labelled = contract(TWO);
    let y = output(
        "y",
        Datatype::Fp32,
        &[2, 3],
        floats(&[0.25, 0.5, 0.25, -0.0, f32::NAN, 0.0]),
    );
    let found = classify(y.clone(), &labelled, 2).unwrap();
    assert_eq!(
        (found.datatype, found.shape.as_slice()),
        (Datatype::Bytes, [2, 2].as_slice())
    );
    assert_eq!(
        classes(&found),
        ["0.5:1:pear", "0.25:0:apple", "-0.0:0:apple", "0.0:2:plum"]
    );
    assert!(found.is_consistent());
    // More than there are is all there are, and NaN is the last.
    let found = classify(y.clone(), &labelled, 65_536).unwrap();
    assert_eq!(found.shape, [2, 3]);
    assert_eq!(classes(&found)[5], "NaN:1:pear");
    // Without a batch axis and labels.
    let plain = one("FP32", "[1]", "");
    let y = output(
        "y",
        Datatype::Fp32,
        &[4],
        floats(&[1.0, 5.0, 10.0, f32::INFINITY]),
    );
    let found = classify(y, &plain, 2).unwrap();
    assert_eq!(
        (found.shape.as_slice(), classes(&found)),
        (
            [2].as_slice(),
            vec!["inf:3".to_owned(), "10.0:2".to_owned()]
        )
    );
    let scalar = output("y", Datatype::Int64, &[], 7i64.to_le_bytes().to_vec());
    assert_eq!(classes(&classify(scalar, &plain, 5).unwrap()), ["7:0"]);
}

#[test]
fn classes_compare_in_their_own_datatype() {
    let plain = one("FP32", "[1]", "");
    let found = |datatype, data: Vec<u8>| {
        let size = datatype_size(datatype);
        let shape = [(data.len() / size) as u64];
        classes(&classify(output("y", datatype, &shape, data), &plain, 1).unwrap())
    };
    // Doubles would round these to one number.
    let near = [u64::MAX - 1, u64::MAX, u64::MAX - 2];
    assert_eq!(
        found(
            Datatype::Uint64,
            near.iter().flat_map(|v| v.to_le_bytes()).collect()
        ),
        [format!("{}:1", u64::MAX)]
    );
    let near = [i64::MIN, -1, i64::MAX - 1, i64::MAX];
    assert_eq!(
        found(
            Datatype::Int64,
            near.iter().flat_map(|v| v.to_le_bytes()).collect()
        ),
        [format!("{}:3", i64::MAX)]
    );
    assert_eq!(found(Datatype::Int8, vec![0xFF, 0x80, 0x7F]), ["127:2"]);
    assert_eq!(found(Datatype::Uint8, vec![0xFF, 0x80, 0x7F]), ["255:0"]);
    // -2 and -1 in binary16 and bfloat16.
    assert_eq!(
        found(Datatype::Fp16, vec![0x00, 0xC0, 0x00, 0xBC]),
        ["-1.0:1"]
    );
    assert_eq!(
        found(Datatype::Bf16, vec![0x00, 0xC0, 0x80, 0xBF]),
        ["-1.0:1"]
    );
}

fn datatype_size(datatype: Datatype) -> usize {
    datatype.size_bytes().unwrap()
}

#[test]
fn an_output_without_classes_is_left_as_it_is() {
    let plain = one("FP32", "[\"N\"]", "");
    for tensor in [
        output("y", Datatype::Bool, &[1], vec![1]),
        output("y", Datatype::Bytes, &[1], strings(&[b"a"])),
        output("y", Datatype::Fp32, &[u64::MAX], floats(&[1.0])),
    ] {
        assert_eq!(classify(tensor.clone(), &plain, 3), Ok(tensor));
    }
    // Items without elements have no classes, however many of them a shape claims.
    let empty = classify(
        output("y", Datatype::Fp32, &[u64::MAX, 0], Vec::new()),
        &plain,
        3,
    )
    .unwrap();
    assert_eq!(
        (empty.shape.as_slice(), empty.is_consistent()),
        ([u64::MAX, 0].as_slice(), true)
    );
}

#[test]
fn outputs_behind_the_json_keep_their_order_and_state_their_size() {
    let outputs = [
        output("a", Datatype::Fp32, &[2], floats(&[f32::NAN, 1.0])),
        output("b", Datatype::Int64, &[1], 5i64.to_le_bytes().to_vec()),
        output("c", Datatype::Bytes, &[2], strings(&[b"\xFF", b"x"])),
        output("d", Datatype::Fp32, &[9], floats(&[1.0])),
        output("e", Datatype::Fp32, &[0], Vec::new()),
    ];
    let written = write_infer_response(
        "m",
        "1",
        Some("7"),
        (&outputs, &[true, false, true, true, true]),
        &[],
        0,
    );
    let (json, tail) = written.body.split_at(written.header_bytes.unwrap());
    assert_eq!(
        serde_json::from_slice::<Value>(json).unwrap(),
        json!({"model_name": "m", "model_version": "1", "id": "7", "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [5]},
            {"name": "c", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
            {"name": "d", "datatype": "FP32", "shape": [9], "data": null},
            {"name": "e", "datatype": "FP32", "shape": [0], "parameters": {"binary_data_size": 0}},
        ]})
    );
    assert_eq!(
        tail,
        [outputs[0].data.as_slice(), &outputs[2].data].concat()
    );
}

/// Tensors of every datatype with any bytes that are elements of it; those that JSON can say where it must.
fn any_tensor(as_json: bool) -> impl Strategy<Value = Tensor> {
    let datatype = prop::sample::select(Datatype::ALL);
    let shape = prop::collection::vec(1u64..4, 0..4);
    (
        datatype,
        shape,
        prop::collection::vec(any::<[u8; 8]>(), 27),
        prop::collection::vec(prop::collection::vec(any::<char>(), 0..5), 0..27),
    )
        .prop_map(move |(datatype, shape, random, texts)| {
            let count: u64 = shape.iter().product();
            let mut data = Vec::new();
            for index in 0..count as usize {
                let bytes = random[index % random.len()];
                match datatype {
                    Datatype::Bool => data.push(bytes[0] & 1),
                    datatype if let Some((least, greatest)) = datatype.narrow_range() => {
                        let values = i16::from(greatest) - i16::from(least) + 1;
                        let value = i16::from(bytes[0]) % values + i16::from(least);
                        data.push(value as u8);
                    }
                    datatype if as_json && let Some(format) = Fp8::of(datatype) => {
                        let is_finite = format.to_f64(bytes[0]).is_finite();
                        data.push(if is_finite { bytes[0] } else { 1 });
                    }
                    Datatype::Bytes if as_json => {
                        let text = texts.get(index).map(|text| text.iter().collect::<String>());
                        push_byte_string(&mut data, text.unwrap_or_default().as_bytes());
                    }
                    Datatype::Bytes => {
                        push_byte_string(&mut data, &bytes[..usize::from(bytes[7] % 8)]);
                    }
                    Datatype::Fp16 | Datatype::Bf16 if as_json => {
                        data.extend([bytes[0], bytes[1] & 0b1011_1111])
                    }
                    Datatype::Fp32 if as_json => {
                        data.extend([bytes[0], bytes[1], bytes[2], bytes[3] & 0b1011_1111])
                    }
                    Datatype::Fp64 if as_json => {
                        let mut bytes = bytes;
                        bytes[7] &= 0b1011_1111;
                        data.extend(bytes);
                    }
                    sized => data.extend(&bytes[..datatype_size(sized)]),
                }
            }
            output("x", datatype, &shape, data)
        })
}

/// A contract with this tensor as its input, for any elements.
fn contract_of(tensor: &Tensor) -> Contract {
    let extra = match tensor.datatype.is_float() {
        true => "allow_non_finite = true",
        false => "",
    };
    one(
        tensor.datatype.as_str(),
        &format!("{:?}", tensor.shape),
        extra,
    )
}

/// An answer's output as a request's input.
fn as_request(json: &[u8]) -> String {
    let mut answer: Value = serde_json::from_slice(json).unwrap();
    json!({"inputs": answer["outputs"].take()}).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_output_behind_the_json_is_read_back_byte_for_byte(tensor in any_tensor(false)) {
        let tensors = [tensor];
        let written = write_infer_response("m", "1", None, (&tensors, &[true]), &[], 0);
        let (json, tail) = written.body.split_at(written.header_bytes.unwrap());
        let json = as_request(json);
        let body = [json.as_bytes(), tail].concat();
        let read = read(Some(&json.len().to_string()), &body, &contract_of(&tensors[0])).unwrap();
        prop_assert_eq!(read.inputs.as_slice(), tensors.as_slice());
    }

    #[test]
    fn an_output_as_json_is_read_back_byte_for_byte(tensor in any_tensor(true)) {
        let tensors = [tensor];
        let written = write_infer_response("m", "1", None, (&tensors, &[false]), &[], 0);
        prop_assert_eq!(written.header_bytes, None);
        // Through serde_json a number may lose digits, so the text is cut instead.
        let text = String::from_utf8(written.body.into_vec()).unwrap();
        let outputs = text.split_once("\"outputs\":").unwrap().1;
        let body = format!("{{\"inputs\":{outputs}");
        let read = read(None, body.as_bytes(), &contract_of(&tensors[0])).unwrap();
        prop_assert_eq!(read.inputs.as_slice(), tensors.as_slice());
    }

    #[test]
    fn classes_are_what_sorting_everything_would_give(
        values in prop::collection::vec(prop_oneof![-3i8..3, any::<i8>()], 0..200),
        wanted in 1u32..40,
    ) {
        let data: Vec<u8> = values.iter().map(|v| *v as u8).collect();
        let tensor = output("y", Datatype::Int8, &[values.len() as u64], data);
        let found = classify(tensor, &one("FP32", "[1]", ""), wanted).unwrap();
        let mut all: Vec<(i8, usize)> = values.iter().copied().zip(0..).collect();
        all.sort_by_key(|(value, index)| (std::cmp::Reverse(*value), *index));
        all.truncate(wanted as usize);
        let expected: Vec<String> = all.iter().map(|(v, i)| format!("{v}:{i}")).collect();
        prop_assert_eq!(classes(&found), expected);
    }
}
