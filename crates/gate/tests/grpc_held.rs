//! Messages that the host holds: decoded without their tensors, and written around them.

use crate::gate_common::request;
use pb::model_infer_request::InferInputTensor;
use penstock_core::Code;
use penstock_gate::Gate;
use penstock_gate::grpc::{
    Form, Inference, condense, decode_condensed, decode_infer, encode_infer,
};
use penstock_proto::inference as pb;
use penstock_tensor::{Buffer, Contract, Datatype, Tensor, Unknown};
use penstock_testkit::models::{ECHO, echo};
use penstock_testkit::{HostBody, InMemory};
use proptest::prelude::*;
use prost::Message;
use prost::bytes::Bytes;

const LIMIT: u64 = 1 << 20;

/// A model with three inputs of variable length.
fn contract() -> Contract {
    let input = |name: &str| {
        format!(
            "[[inputs]]\nname = \"{name}\"\ndatatype = \"UINT8\"\nshape = [\"{name}_length\"]\nmaximum = 200\noptional = true\n"
        )
    };
    let inputs: String = ["a", "b", "c"].map(input).concat();
    let text = format!(
        "description = \"d\"\n{inputs}[[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1]\n[limits]\nmax_items = 10000000\n"
    );
    Contract::parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn message(tensors: &[Vec<u8>]) -> Vec<u8> {
    let inputs = tensors.iter().zip(["a", "b", "c"]);
    let inputs = inputs.map(|(data, name)| InferInputTensor {
        name: name.to_owned(),
        datatype: "UINT8".to_owned(),
        shape: vec![data.len() as i64],
        ..Default::default()
    });
    let message = pb::ModelInferRequest {
        model_name: "m".to_owned(),
        id: "7".to_owned(),
        inputs: inputs.collect(),
        raw_input_contents: tensors
            .iter()
            .map(|data| Bytes::copy_from_slice(data))
            .collect(),
        ..Default::default()
    };
    message.encode_to_vec()
}

/// A tensor of one of the lengths around the bounds, with one value that the contract may refuse.
fn tensor() -> impl Strategy<Value = Vec<u8>> {
    let length = prop::sample::select(vec![0usize, 1, 100, 4_095, 4_096, 4_097, 9_000, 30_000]);
    (length, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(length, at, value)| {
        let mut data = vec![3; length];
        if length > 0 {
            data[at.index(length)] = value;
        }
        data
    })
}

proptest! {
    #[test]
    fn a_message_in_the_host_is_read_as_one_that_is_here(
        tensors in prop::collection::vec(tensor(), 1..4),
        limit in prop::sample::select(vec![100u64, 5_000, 20_000, LIMIT]),
    ) {
        let contract = contract();
        let message = message(&tensors);
        let host = HostBody::new(message.clone());
        let expected = decode_infer(&message, &contract, limit, Unknown::Refuse);
        let large = tensors.iter().filter(|data| data.len() >= 4_096).count();
        let condensed = condense(&host.buffer());
        prop_assert_eq!(condensed.is_some(), large > 0);
        let Some(condensed) = condensed else { return Ok(()) };
        prop_assert_eq!(condensed.raw.len(), large);
        let found = decode_condensed(&condensed, &contract, limit, Unknown::Refuse);
        prop_assert_eq!(&found, &expected);
        // A sound tensor was never copied.
        if found.is_ok() {
            let asked = host.take();
            let copied: usize = asked.copied.iter().map(|part| part.len()).sum();
            // The comparison above copied each once. The rest is copied at most twice, and a window more for each.
            let compared: usize = condensed.raw.iter().map(|(_, data)| data.len()).sum();
            let rest = message.len() - compared;
            let most = compared + 2 * rest + 4_096 * (large + 1);
            prop_assert!(copied <= most, "{asked:?}");
            prop_assert_eq!(asked.checked.len(), large);
        }
    }

    #[test]
    fn a_broken_message_is_read_whole_or_refused_alike(
        tensors in prop::collection::vec(tensor(), 1..3),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let contract = contract();
        let mut message = message(&tensors);
        for (index, byte) in flips {
            let index = index.index(message.len().min(200));
            message[index] ^= byte;
        }
        if cuts {
            message.truncate(cut.index(message.len()));
        }
        let expected = decode_infer(&message, &contract, LIMIT, Unknown::Refuse);
        let host = HostBody::new(message);
        if let Some(condensed) = condense(&host.buffer()) {
            let found = decode_condensed(&condensed, &contract, LIMIT, Unknown::Refuse);
            match (&found, &expected) {
                // The gate reads the whole message then.
                (Err(fault), _) if fault.code == Code::MalformedProtobuf => {}
                _ => prop_assert_eq!(found, expected),
            }
        }
    }
}

#[test]
fn a_fault_after_a_tensor_in_the_host_is_found_at_its_place_in_the_whole_message() {
    let sound = message(&[vec![3; 9_000]]);
    // Field 7 as a number, after the tensor. A model that is not UTF-8, before it.
    let after = [&sound[..], &[0x38, 0x01]].concat();
    let mut before = sound.clone();
    before[2] = 0xff;
    for body in [after, before, sound] {
        let answer = |body: Buffer| {
            let ports = InMemory::new(&[("m", ECHO, &["1"])], echo);
            let headers = [("content-type", "application/grpc"), ("te", "trailers")];
            let target = "/inference.GRPCInferenceService/ModelInfer";
            let mut request = request("POST", target, &headers, b"");
            request.body = body;
            let answer = Gate::new(ports).handle(&request);
            let said = |name: &str| answer.header(name).map(str::to_owned);
            (said("grpc-status"), said("grpc-message"))
        };
        let here = answer(body.clone().into());
        assert_eq!(here.0.as_deref(), Some("3"), "{here:?}");
        assert_eq!(answer(HostBody::new(body).buffer()), here);
    }
}

#[test]
fn the_steps_of_reading_are_bounded_by_the_length_of_the_message() {
    let read = |message: Vec<u8>| {
        let host = HostBody::new(message);
        let condensed = condense(&host.buffer());
        (condensed, host.take().copied.len())
    };
    // Half a megabyte of the smallest fields, then a tensor.
    let small = [[0x40, 0x01]; 1 << 18].concat();
    let large = [&small[..], &[0x3a, 0x80, 0x40], &[9; 8192]].concat();
    let (condensed, reads) = read(large);
    let condensed = condensed.unwrap();
    assert_eq!(condensed.raw[0].1.len(), 8192);
    assert_eq!(condensed.message, [&small[..], &[0x3a, 0x00]].concat());
    assert!(reads < 200, "{reads}");
    // A field that says it is longer than memory.
    let endless = [
        0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ];
    assert!(read([&endless[..], &[0; 8192]].concat()).0.is_none());
    let group = [&[0x0b, 0x0c, 0x3a, 0x80, 0x40][..], &[9; 8192]].concat();
    assert!(read(group).0.is_none(), "read whole");
    assert!(condense(&Buffer::from(vec![0; 10])).is_none(), "it is here");
}

#[test]
fn an_answer_around_outputs_in_the_host_has_the_same_bytes() {
    let data: Vec<Vec<u8>> = vec![vec![1; 20_000], vec![2; 7], vec![3; 300]];
    let said = |hold: &dyn Fn(&Vec<u8>) -> Buffer| Inference {
        model: "m",
        version: "3",
        id: Some("7"),
        parameters: &[("prediction_id", "p")],
        outputs: (data.iter().zip(["x", "y", "z"]))
            .map(|(data, name)| Tensor {
                name: name.into(),
                datatype: Datatype::Uint8,
                shape: vec![data.len() as u64],
                data: hold(data),
            })
            .collect(),
    };
    for form in [Form::Unary, Form::Stream] {
        let here = encode_infer(said(&|data| data.clone().into()), form).unwrap();
        let held = encode_infer(said(&|data| HostBody::new(data.clone()).buffer()), form).unwrap();
        let mixed = |data: &Vec<u8>| match data.len() {
            7 => data.clone().into(),
            _ => HostBody::new(data.clone()).buffer(),
        };
        let mixed = encode_infer(said(&mixed), form).unwrap();
        assert_eq!(here.clone().into_parts().len(), 1);
        assert!(
            held.clone()
                .into_parts()
                .iter()
                .any(|part| part.place().is_some())
        );
        assert!(held == here && mixed == here, "{form:?}");
    }
}
