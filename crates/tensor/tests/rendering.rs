//! The form of answers.

use penstock_tensor::render::{
    Ranking, predictions, predictions_ranked, unrepresentable, write_flat, write_infer_response,
    write_item, write_nested,
};
use penstock_tensor::tensor::push_byte_string;
use penstock_tensor::{Contract, Datatype, Tensor};
use serde_json::{Value, json};

fn floats(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
        data,
    }
}

fn strings(shape: &[u64], values: &[&[u8]]) -> Tensor {
    let mut data = Vec::new();
    for value in values {
        push_byte_string(&mut data, value);
    }
    Tensor {
        name: "s".into(),
        datatype: Datatype::Bytes,
        shape: shape.to_vec(),
        data: data.into(),
    }
}

fn nested(tensor: &Tensor) -> (String, u64) {
    let mut out = Vec::new();
    let replaced = write_nested(&mut out, tensor);
    assert_eq!(
        replaced,
        unrepresentable(tensor).max(u64::from(!tensor.is_consistent()))
    );
    (String::from_utf8(out).unwrap(), replaced)
}

fn contract(outputs: &str) -> Contract {
    let input =
        "description = \"\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\"]\n";
    Contract::parse(&format!("{input}{outputs}")).unwrap()
}

#[test]
fn tensors_nest_by_their_shape() {
    assert_eq!(nested(&floats("x", &[], &[0.1])).0, "0.1");
    assert_eq!(
        nested(&floats("x", &[3], &[1.0, -2.5, 1e-7])).0,
        "[1.0,-2.5,1e-7]"
    );
    assert_eq!(
        nested(&floats("x", &[2, 1, 2], &[1.0, 2.0, 3.0, 4.0])).0,
        "[[[1.0,2.0]],[[3.0,4.0]]]"
    );
    assert_eq!(nested(&floats("x", &[0], &[])).0, "[]");
    assert_eq!(nested(&floats("x", &[2, 0, 3], &[])).0, "[[],[]]");
    assert_eq!(nested(&floats("x", &[u64::MAX, 0], &[])).0, "[]");
    let bools = Tensor {
        name: "b".into(),
        datatype: Datatype::Bool,
        shape: vec![2],
        data: vec![1, 0].into(),
    };
    assert_eq!(nested(&bools).0, "[true,false]");
    assert_eq!(
        nested(&strings(&[2, 1], &[b"a\"\n\x01", "é".as_bytes()])).0,
        "[[\"a\\\"\\n\\u0001\"],[\"é\"]]"
    );
}

#[test]
fn values_that_json_cannot_represent_are_replaced_and_counted() {
    let odd = floats(
        "x",
        &[4],
        &[f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY],
    );
    assert_eq!(nested(&odd), ("[null,null,-0.0,null]".to_owned(), 3));
    assert_eq!(
        nested(&strings(&[2], &[b"\xFFa", b"b"])),
        ("[\"\u{FFFD}a\",\"b\"]".to_owned(), 1)
    );
    for datatype in [Datatype::Fp16, Datatype::Bf16] {
        let tensor = Tensor {
            name: "x".into(),
            datatype,
            shape: vec![2],
            data: vec![0xFF, 0x7F, 0, 0].into(),
        };
        assert_eq!(nested(&tensor), ("[null,0.0]".to_owned(), 1));
    }
}

#[test]
fn a_tensor_whose_data_does_not_fit_its_shape_is_null() {
    assert_eq!(
        nested(&floats("x", &[u64::MAX], &[1.0])),
        ("null".to_owned(), 1)
    );
    assert_eq!(nested(&floats("x", &[2], &[1.0])), ("null".to_owned(), 1));
}

#[test]
fn items_are_slices_along_the_first_axis() {
    let item = |tensor: &Tensor, index| {
        let mut out = Vec::new();
        let replaced = write_item(&mut out, tensor, index);
        (String::from_utf8(out).unwrap(), replaced)
    };
    let tensor = floats("x", &[2, 2], &[1.0, 2.0, f32::NAN, 4.0]);
    assert_eq!(item(&tensor, 0), ("[1.0,2.0]".to_owned(), 0));
    assert_eq!(item(&tensor, 1), ("[null,4.0]".to_owned(), 1));
    assert_eq!(item(&tensor, 2), ("null".to_owned(), 1));
    assert_eq!(item(&floats("x", &[1], &[5.0]), 0), ("5.0".to_owned(), 0));
    assert_eq!(
        item(&strings(&[2], &[b"a", b"b"]), 1),
        ("\"b\"".to_owned(), 0)
    );
    assert_eq!(item(&floats("x", &[], &[5.0]), 0), ("null".to_owned(), 1));
    let mut out = Vec::new();
    assert_eq!(write_flat(&mut out, &tensor), 1);
    assert_eq!(out, b"[1.0,2.0,null,4.0]");
}

#[test]
fn an_infer_response_has_the_protocols_form() {
    let outputs = [floats("y\"", &[1, 2], &[0.5, 2.0]), strings(&[1], &[b"b"])];
    let body = write_infer_response(
        "m",
        "3",
        Some("id\n"),
        (&outputs, &[]),
        &[("prediction_id", "p")],
        0,
    );
    assert_eq!(body.header_bytes, None);
    assert_eq!(
        serde_json::from_slice::<Value>(&body.body).unwrap(),
        json!({
            "model_name": "m", "model_version": "3", "id": "id\n",
            "parameters": {"prediction_id": "p"},
            "outputs": [
                {"name": "y\"", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 2.0]},
                {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["b"]},
            ],
        })
    );
    let body = write_infer_response("m", "3", None, (&[], &[]), &[], 0);
    assert_eq!(
        body.body,
        b"{\"model_name\":\"m\",\"model_version\":\"3\",\"outputs\":[]}"
    );
}

#[test]
fn predictions_of_a_batch_are_one_object_for_each_item_with_its_label() {
    let contract = contract(
        "[[outputs]]\nname = \"p\"\ndatatype = \"FP32\"\nshape = [\"N\", 6]\n\
         labels = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\"]\n\
         [[outputs]]\nname = \"s\"\ndatatype = \"BYTES\"\nshape = [\"N\"]\n",
    );
    let rows = [
        0.1,
        0.5,
        0.2,
        0.5,
        f32::NAN,
        0.0,
        f32::NAN,
        f32::NAN,
        f32::NAN,
        f32::NAN,
        f32::NAN,
        f32::NAN,
    ];
    let outputs = [
        floats("p", &[2, 6], &rows),
        strings(&[2], &[b"one", b"two"]),
    ];
    let found: Value = serde_json::from_slice(&predictions(&outputs, &contract, 0)).unwrap();
    assert_eq!(
        found,
        json!([
            {
                "p": [0.1, 0.5, 0.2, 0.5, null, 0.0], "s": "one", "label": "b", "confidence": 0.5,
                "top": [
                    {"label": "b", "confidence": 0.5}, {"label": "d", "confidence": 0.5},
                    {"label": "c", "confidence": 0.2}, {"label": "a", "confidence": 0.1},
                    {"label": "f", "confidence": 0.0},
                ],
            },
            {"p": [null, null, null, null, null, null], "s": "two", "label": null, "confidence": null, "top": []},
        ])
    );
    assert_eq!(
        predictions(&[floats("p", &[0, 6], &[])], &contract, 0),
        b"[]"
    );
}

#[test]
fn classes_rank_as_they_did_before_their_values_were_changed() {
    let contract = contract(
        "[[outputs]]\nname = \"p\"\ndatatype = \"FP32\"\nshape = [\"N\", 3]\nlabels = [\"a\", \"b\", \"c\"]\n",
    );
    let exact = [floats("p", &[2, 3], &[0.1, 0.2, 0.7, 0.3, 0.4, 0.3])];
    let changed = [floats("p", &[2, 3], &[0.5; 6])];
    let ranking = Ranking::of(&exact, &contract, 2, true).unwrap();
    let found = predictions_ranked(&changed, &contract, Some(&ranking), 0);
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(
        found[0]["top"],
        json!([{"label": "c", "confidence": 0.5}, {"label": "b", "confidence": 0.5}])
    );
    assert_eq!(
        (&found[1]["label"], &found[1]["p"]),
        (&json!("b"), &json!([0.5, 0.5, 0.5]))
    );
    let ranking = Ranking::of(&exact, &contract, 1, false).unwrap();
    let found = predictions_ranked(&changed, &contract, Some(&ranking), 0);
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(
        found[0],
        json!({"p": [0.5, 0.5, 0.5], "label": "c", "top": [{"label": "c"}]})
    );
    // A shape that claims items without data ranks nothing, and at once.
    let empty = [floats("p", &[u64::MAX, 0], &[])];
    assert!(Ranking::of(&empty, &contract, 1, true).is_some());
    let broken = [floats("p", &[9, 3], &[])];
    assert!(Ranking::of(&broken, &contract, 1, true).is_none());
}

#[test]
fn predictions_without_a_batch_axis_are_one_object() {
    let contract = contract(
        "[[outputs]]\nname = \"p\"\ndatatype = \"FP32\"\nshape = [1, 2]\nlabels = [\"a\", \"b\"]\n",
    );
    let found = predictions(&[floats("p", &[1, 2], &[0.25, 0.75])], &contract, 0);
    assert_eq!(
        serde_json::from_slice::<Value>(&found).unwrap(),
        json!([{
            "p": [[0.25, 0.75]], "label": "b", "confidence": 0.75,
            "top": [{"label": "b", "confidence": 0.75}, {"label": "a", "confidence": 0.25}],
        }])
    );
}

#[test]
fn predictions_of_broken_tensors_are_bounded() {
    let contract = contract("[[outputs]]\nname = \"p\"\ndatatype = \"FP32\"\nshape = [\"N\"]\n");
    assert_eq!(
        predictions(&[floats("p", &[u64::MAX], &[1.0])], &contract, 0),
        b"[{\"p\":null}]"
    );
}
