//! A run's outputs are held against the contract.

use penstock_tensor::contract::Contract;
use penstock_tensor::outputs::{Lengths, settle};
use penstock_tensor::{Datatype, Tensor};

fn contract(outputs: &str) -> Contract {
    let text = format!(
        "description = \"for tests\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\", \"S\"]\n{outputs}"
    );
    Contract::parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn output(datatype: &str, shape: &str) -> String {
    format!("[[outputs]]\nname = \"y\"\ndatatype = \"{datatype}\"\nshape = {shape}\n")
}

fn tensor(name: &str, datatype: Datatype, shape: &[u64]) -> Tensor {
    let elements: u64 = shape.iter().product();
    let bytes = elements as usize * datatype.size_bytes().unwrap();
    Tensor {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        data: vec![0; bytes].into(),
    }
}

/// Checks an output `y` of a call with an input of `input`'s shape.
fn judged(outputs: &str, input: [u64; 2], mut y: Tensor) -> Result<Datatype, String> {
    let contract = contract(outputs);
    let lengths = Lengths::of(&contract, [("x", input)].into_iter());
    settle(&contract, lengths, &[], std::slice::from_mut(&mut y)).map(|()| y.datatype)
}

#[test]
fn an_output_that_meets_the_contract_passes_and_gets_the_contracts_type() {
    for (datatype, shape, input, found, came) in [
        ("FP32", "[\"N\", 3]", [2, 9], &[2, 3][..], Datatype::Fp32),
        ("FP32", "[\"N\", \"S\"]", [2, 9], &[2, 9], Datatype::Fp32),
        ("FP32", "[\"N\", \"K\"]", [2, 9], &[2, 5], Datatype::Fp32),
        ("FP32", "[]", [2, 9], &[], Datatype::Fp32),
        ("INT64", "[\"K\", 4]", [2, 9], &[0, 4], Datatype::Int64),
        ("BOOL", "[\"N\"]", [2, 9], &[2], Datatype::Uint8),
        ("INT8", "[\"N\"]", [2, 9], &[2], Datatype::Uint8),
        ("BF16", "[\"N\"]", [2, 9], &[2], Datatype::Bf16),
    ] {
        let settled = judged(&output(datatype, shape), input, tensor("y", came, found));
        assert_eq!(settled.map(Datatype::as_str), Ok(datatype), "{shape}");
    }
}

#[test]
fn an_output_that_breaks_the_contract_is_named_with_the_shape_to_write() {
    let fp32 = Datatype::Fp32;
    for (shape, input, found, wanted) in [
        ("[\"N\", 2]", [1, 9], &[1, 3][..], "[\"N\", 3]"),
        // One column, or none.
        ("[\"N\"]", [2, 9], &[2, 1], "[\"N\", 1]"),
        ("[\"N\"]", [1, 9], &[1, 1], "[\"N\", 1]"),
        ("[\"N\", 1]", [2, 9], &[2], "[\"N\"]"),
        ("[1]", [2, 9], &[2], "[\"N\"]"),
        ("[\"N\"]", [2, 9], &[1], "[1]"),
        ("[\"N\", \"S\"]", [2, 9], &[2, 5], "[\"N\", \"S_1\"]"),
        ("[]", [1, 9], &[1], "[\"N\"]"),
        ("[\"N\", 3]", [2, 9], &[3], "[3]"),
    ] {
        let message = judged(&output("FP32", shape), input, tensor("y", fp32, found))
            .expect_err(&format!("{shape} {found:?}"));
        let remedy = format!("write shape = {wanted}, or");
        assert!(message.contains(&remedy), "{shape} {found:?}: {message}");
        assert!(
            message.starts_with("output \"y\" was returned as ["),
            "{message}"
        );
    }
    let message = judged(
        &output("FP32", "[\"N\", 2]"),
        [4, 9],
        tensor("y", fp32, &[4, 3]),
    );
    assert_eq!(
        message,
        Err(
            "output \"y\" was returned as [4, 3], and model.toml says [N, 2] with N = 4; write shape = [\"N\", 3], or correct \
             the graph"
                .into()
        )
    );
}

#[test]
fn two_labels_never_stand_over_three_columns() {
    let labelled = |shape| format!("{}labels = [\"no\", \"yes\"]\n", output("FP32", shape));
    for shape in ["[\"N\", 2]", "[\"N\", \"K\"]"] {
        let message = judged(
            &labelled(shape),
            [1, 9],
            tensor("y", Datatype::Fp32, &[1, 3]),
        )
        .expect_err(shape);
        assert!(message.contains("3 labels where there are 2"), "{message}");
        let sound = judged(
            &labelled(shape),
            [1, 9],
            tensor("y", Datatype::Fp32, &[1, 2]),
        );
        assert_eq!(sound, Ok(Datatype::Fp32), "{shape}");
    }
}

#[test]
fn a_type_of_the_same_size_is_another_type() {
    for (promised, came) in [
        ("FP32", Datatype::Int32),
        ("INT32", Datatype::Fp32),
        ("FP16", Datatype::Bf16),
        ("INT64", Datatype::Fp64),
        ("UINT8", Datatype::Int32),
    ] {
        let message = judged(
            &output(promised, "[\"N\"]"),
            [2, 9],
            tensor("y", came, &[2]),
        )
        .expect_err(promised);
        let expected = format!("write datatype = \"{came}\"");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn an_output_that_does_not_come_or_is_cut_short_is_named() {
    let message = judged(
        &output("FP32", "[\"N\"]"),
        [2, 9],
        tensor("z", Datatype::Fp32, &[2]),
    );
    assert!(
        message
            .unwrap_err()
            .starts_with("output \"y\" was not returned")
    );
    let mut cut = tensor("y", Datatype::Fp32, &[2]);
    cut.data.to_mut().pop();
    let message = judged(&output("FP32", "[\"N\"]"), [2, 9], cut);
    assert!(message.unwrap_err().contains("7 bytes"));
    // An output that was not requested is not required.
    let contract = contract(&format!(
        "{}[[outputs]]\nname = \"z\"\ndatatype = \"FP32\"\nshape = [\"N\"]\n",
        output("FP32", "[\"N\"]")
    ));
    let lengths = || Lengths::of(&contract, [("x", [2, 9])].into_iter());
    let mut one = [tensor("z", Datatype::Fp32, &[2])];
    assert_eq!(
        settle(&contract, lengths(), &["z".into()], &mut one),
        Ok(())
    );
    assert!(settle(&contract, lengths(), &[], &mut one).is_err());
}

#[test]
fn one_axis_has_one_length_across_outputs_however_many_there_are() {
    let mut text = String::new();
    for at in 0..20 {
        text += &format!(
            "[[outputs]]\nname = \"y{at}\"\ndatatype = \"FP32\"\nshape = [\"A{at}\", \"A{}\"]\n",
            at / 2
        );
    }
    let contract = contract(&text);
    let made = |last: u64| -> Vec<Tensor> {
        (0..20u64)
            .map(|at| {
                let length = |axis: u64| if axis == 19 { last } else { axis + 1 };
                tensor(&format!("y{at}"), Datatype::Fp32, &[length(at), at / 2 + 1])
            })
            .collect()
    };
    assert_eq!(
        settle(&contract, Lengths::default(), &[], &mut made(20)),
        Ok(())
    );
    let mut wrong = made(20);
    wrong[19].shape[1] = 4;
    wrong[19].data = vec![0; 4 * 80].into();
    let message = settle(&contract, Lengths::default(), &[], &mut wrong).unwrap_err();
    assert!(
        message.contains("\"y19\"") && message.contains("A9 = 10"),
        "{message}"
    );
}
