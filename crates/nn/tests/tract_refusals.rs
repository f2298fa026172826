//! Graphs that tract answers wrong do not load on it, and graphs that it answers right do.

use crate::support;

use penstock_nn::backend::tract::Tract;
use penstock_nn::{Backend, ErrorCode, GraphSource, LoadOptions, NnError, NnTensor};
use prost::Message;
use support::{as_fp32, fp32, onnxruntime};
use tract_onnx::pb::tensor_shape_proto::Dimension;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Length;
use tract_onnx::pb::type_proto::{Tensor as TensorTypeProto, Value as Kind};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};

const FLOAT: i32 = 1;
const INT64: i32 = 7;

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let (domain, name) = operator.rsplit_once('/').unwrap_or(("", operator));
    NodeProto {
        op_type: name.into(),
        domain: domain.into(),
        name: format!("/the/{name}"),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: outputs.iter().map(|name| name.to_string()).collect(),
        ..NodeProto::default()
    }
}

trait With: Sized {
    fn with(self, attribute: AttributeProto) -> Self;
    fn int(self, name: &str, i: i64) -> Self {
        self.with(AttributeProto {
            name: name.into(),
            r#type: 2,
            i,
            ..AttributeProto::default()
        })
    }
    fn text(self, name: &str, text: &str) -> Self {
        self.with(AttributeProto {
            name: name.into(),
            r#type: 3,
            s: text.into(),
            ..AttributeProto::default()
        })
    }
    fn ints(self, name: &str, ints: &[i64]) -> Self {
        self.with(AttributeProto {
            name: name.into(),
            r#type: 7,
            ints: ints.to_vec(),
            ..AttributeProto::default()
        })
    }
    fn floats(self, name: &str, floats: &[f32]) -> Self {
        self.with(AttributeProto {
            name: name.into(),
            r#type: 6,
            floats: floats.to_vec(),
            ..AttributeProto::default()
        })
    }
    fn texts(self, name: &str, texts: &[&str]) -> Self {
        self.with(AttributeProto {
            name: name.into(),
            r#type: 8,
            strings: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
            ..AttributeProto::default()
        })
    }
}

impl With for NodeProto {
    fn with(mut self, attribute: AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }
}

/// A port; a length of 0 is left open.
fn port(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let dim = (dims.iter())
        .map(|length| Dimension {
            value: Some(match length {
                0 => Length::DimParam("N".into()),
                length => Length::DimValue(*length),
            }),
            ..Dimension::default()
        })
        .collect();
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(Kind::TensorType(TensorTypeProto {
                elem_type,
                shape: Some(TensorShapeProto { dim }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn floats(name: &str, dims: &[i64]) -> TensorProto {
    let elements = dims.iter().product::<i64>();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        float_data: (0..elements).map(|index| (index as f32).sin()).collect(),
        ..TensorProto::default()
    }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: INT64,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn graph(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    constants: Vec<TensorProto>,
) -> GraphSource {
    let set = |domain: &str, version| OperatorSetIdProto {
        domain: domain.into(),
        version,
    };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![set("", 17), set("ai.onnx.ml", 3)],
        graph: Some(GraphProto {
            node: nodes,
            name: "g".into(),
            input: inputs,
            output: outputs,
            initializer: constants,
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    GraphSource::Bytes(model.encode_to_vec().into())
}

fn run(
    backend: &dyn Backend,
    graph: &GraphSource,
    inputs: &[NnTensor],
) -> Result<Vec<NnTensor>, NnError> {
    let session = backend.load(graph, &LoadOptions::default())?;
    session.instance()?.run(inputs)
}

/// Checks that tract refuses the graph at load, with a message that says how to mend it.
fn refused(graph: &GraphSource, operator: &str, form: &str) {
    let error = Tract
        .load(graph, &LoadOptions::default())
        .err()
        .unwrap_or_else(|| panic!("{operator} with {form} loads"));
    assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
    for part in [operator, form, "/the/", "tract 0.23.", "onnxruntime"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    let loaded = onnxruntime().load(graph, &LoadOptions::default());
    assert!(loaded.is_ok(), "{operator}: {:?}", loaded.err());
}

fn recurrent(
    operator: &str,
    gates: i64,
    change: impl FnOnce(NodeProto) -> NodeProto,
) -> GraphSource {
    let layer = node(operator, &["x", "w", "r"], &["y"]).int("hidden_size", 4);
    graph(
        vec![change(layer)],
        vec![port("x", FLOAT, &[5, 1, 3])],
        vec![port("y", FLOAT, &[5, 1, 1, 4])],
        vec![
            floats("w", &[1, gates * 4, 3]),
            floats("r", &[1, gates * 4, 4]),
        ],
    )
}

#[test]
fn recurrent_layers_load_forward_and_are_refused_reversed_clipped_or_with_other_activations() {
    for (operator, gates, activations) in [
        ("LSTM", 4, &["Sigmoid", "Relu", "Tanh"][..]),
        ("GRU", 3, &["Sigmoid", "Relu"]),
        ("RNN", 1, &["Relu"]),
    ] {
        let forward = recurrent(operator, gates, |layer| layer.text("direction", "forward"));
        let x = fp32(
            &[5, 1, 3],
            &(0..15).map(|x| (x as f32).cos()).collect::<Vec<_>>(),
        );
        let ours = run(&Tract, &forward, std::slice::from_ref(&x)).unwrap();
        let theirs = run(&*onnxruntime(), &forward, &[x]).unwrap();
        for (a, b) in as_fp32(&ours[0]).iter().zip(as_fp32(&theirs[0])) {
            assert!((a - b).abs() < 1e-4, "{operator}: {a} {b}");
        }
        let reversed = recurrent(operator, gates, |layer| layer.text("direction", "reverse"));
        refused(&reversed, operator, "direction=reverse");
        let other = recurrent(operator, gates, |layer| {
            layer.texts("activations", activations)
        });
        refused(&other, operator, "activations");
        let clipped = recurrent(operator, gates, |layer| {
            layer.with(AttributeProto {
                name: "clip".into(),
                r#type: 1,
                f: 0.5,
                ..AttributeProto::default()
            })
        });
        refused(&clipped, operator, "clip");
    }
}

#[test]
fn sums_of_int64_are_refused_and_sums_of_numbers_and_of_lengths_load() {
    let sum = |ty| {
        graph(
            vec![node("ReduceSum", &["x", "axes"], &["y"]).int("keepdims", 0)],
            vec![port("x", ty, &[0, 3])],
            vec![port("y", ty, &[0])],
            vec![integers("axes", &[1])],
        )
    };
    refused(&sum(INT64), "ReduceSum", "0:int64");
    let outputs = run(&Tract, &sum(FLOAT), &[fp32(&[1, 3], &[1.0, 2.0, 4.0])]).unwrap();
    assert_eq!(as_fp32(&outputs[0]), [7.0]);
    // The elements of x, from its shape.
    let lengths = graph(
        vec![
            node("Shape", &["x"], &["shape"]),
            node("ReduceProd", &["shape"], &["size"]).int("keepdims", 1),
            node("Reshape", &["x", "size"], &["y"]),
        ],
        vec![port("x", FLOAT, &[2, 3])],
        vec![port("y", FLOAT, &[6])],
        vec![],
    );
    assert!(Tract.load(&lengths, &LoadOptions::default()).is_ok());
}

/// Two trees of one split each, for so many classes.
fn trees(classes: i64, ids: &[i64]) -> GraphSource {
    let labels: Vec<i64> = (0..classes).collect();
    let ensemble = node(
        "ai.onnx.ml/TreeEnsembleClassifier",
        &["x"],
        &["label", "scores"],
    )
    .ints("nodes_treeids", &[0, 0, 0, 1, 1, 1])
    .ints("nodes_nodeids", &[0, 1, 2, 0, 1, 2])
    .ints("nodes_featureids", &[0; 6])
    .ints("nodes_truenodeids", &[1, 0, 0, 1, 0, 0])
    .ints("nodes_falsenodeids", &[2, 0, 0, 2, 0, 0])
    .floats("nodes_values", &[0.0; 6])
    .texts(
        "nodes_modes",
        &["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
    )
    .ints("class_treeids", &[0, 0, 1, 1])
    .ints("class_nodeids", &[1, 2, 1, 2])
    .ints("class_ids", ids)
    .floats("class_weights", &[0.1, 0.4, 0.2, 0.5])
    .ints("classlabels_int64s", &labels)
    .text("post_transform", "NONE");
    graph(
        vec![ensemble],
        vec![port("x", FLOAT, &[0, 2])],
        vec![
            port("label", INT64, &[0]),
            port("scores", FLOAT, &[0, classes]),
        ],
        vec![],
    )
}

#[test]
fn trees_with_two_classes_are_refused_and_with_three_answer_as_onnxruntime() {
    // As scikit-learn's forests and LightGBM's trees are exported: one score a leaf.
    refused(
        &trees(2, &[0, 0, 0, 0]),
        "TreeEnsembleClassifier",
        "classlabels_int64s#2",
    );
    refused(
        &trees(2, &[0, 1, 0, 1]),
        "TreeEnsembleClassifier",
        "classlabels_int64s#2",
    );
    let three = trees(3, &[0, 1, 2, 1]);
    let x = fp32(&[2, 2], &[-1.0, 0.0, 1.0, 0.0]);
    let ours = run(&Tract, &three, std::slice::from_ref(&x)).unwrap();
    assert_eq!(ours, run(&*onnxruntime(), &three, &[x]).unwrap());
}

#[test]
fn rows_that_are_masked_whole_answer_as_onnxruntime() {
    // Scores and a mask of zero or the least FP32, or minus infinity, as attention adds it.
    let attention = graph(
        vec![
            node("Add", &["scores", "mask"], &["masked"]),
            node("Softmax", &["masked"], &["y"]).int("axis", -1),
        ],
        vec![port("scores", FLOAT, &[0, 4]), port("mask", FLOAT, &[0, 4])],
        vec![port("y", FLOAT, &[0, 4])],
        vec![],
    );
    for least in [f32::MIN, f32::NEG_INFINITY, -1e4] {
        let inputs = [
            fp32(&[2, 4], &[1.0, -2.0, 3.0, 0.5, 1.0, 2.0, 3.0, 4.0]),
            fp32(&[2, 4], &[least, least, least, least, 0.0, 0.0, least, 0.0]),
        ];
        let ours = as_fp32(&run(&Tract, &attention, &inputs).unwrap()[0]);
        let theirs = as_fp32(&run(&*onnxruntime(), &attention, &inputs).unwrap()[0]);
        for (a, b) in ours.iter().zip(&theirs) {
            let same = (a - b).abs() < 1e-5 || (a.is_nan() && b.is_nan());
            assert!(same, "{least}: {ours:?} {theirs:?}");
        }
    }
}

#[test]
fn an_operator_in_the_body_of_another_is_found_too() {
    let reverse = node("LSTM", &["x", "w", "r"], &["z"])
        .int("hidden_size", 4)
        .text("direction", "reverse");
    let plain = node("Identity", &["i"], &["z"]);
    let branch = |nodes: Vec<NodeProto>| GraphProto {
        node: nodes,
        name: "branch".into(),
        output: vec![port("z", FLOAT, &[5, 1, 1, 4])],
        ..GraphProto::default()
    };
    let body = |name: &str, graph: GraphProto| AttributeProto {
        name: name.into(),
        r#type: 5,
        g: Some(graph),
        ..AttributeProto::default()
    };
    let choice = node("If", &["on"], &["y"])
        .with(body("then_branch", branch(vec![reverse])))
        .with(body("else_branch", branch(vec![plain])));
    let graph = graph(
        vec![choice],
        vec![
            port("x", FLOAT, &[5, 1, 3]),
            port("i", FLOAT, &[5, 1, 1, 4]),
            port("on", 9, &[1]),
        ],
        vec![port("y", FLOAT, &[5, 1, 1, 4])],
        vec![floats("w", &[1, 16, 3]), floats("r", &[1, 16, 4])],
    );
    refused(&graph, "LSTM", "direction=reverse");
}

#[test]
fn dropout_that_may_be_asked_to_train_is_refused_and_dropout_that_never_trains_loads() {
    const BOOL: i32 = 9;
    let dropout = |training: &str, constant: Option<bool>| {
        let mut inputs = vec![port("x", FLOAT, &[2, 3])];
        let mut constants = vec![TensorProto {
            float_data: vec![0.5],
            ..floats("ratio", &[])
        }];
        match constant {
            Some(value) => constants.push(TensorProto {
                name: "training".into(),
                data_type: BOOL,
                int32_data: vec![value.into()],
                ..TensorProto::default()
            }),
            None if !training.is_empty() => inputs.push(port("training", BOOL, &[])),
            None => {}
        }
        graph(
            vec![node("Dropout", &["x", "ratio", training], &["y"])],
            inputs,
            vec![port("y", FLOAT, &[2, 3])],
            constants,
        )
    };
    refused(&dropout("training", None), "Dropout", "training");
    refused(&dropout("training", Some(true)), "Dropout", "training");
    for loads in [dropout("", None), dropout("training", Some(false))] {
        let x = fp32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let outputs = run(&Tract, &loads, &[x]).expect("it never trains");
        assert_eq!(as_fp32(&outputs[0]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
