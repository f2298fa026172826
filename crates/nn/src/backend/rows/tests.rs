use super::*;
use crate::backend::cost::{Attribute, Function, Initial, Node};
use crate::backend::port::Dim;

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Node {
        op: op.to_owned(),
        inputs: own(inputs),
        outputs: own(outputs),
        ..Node::default()
    }
}

fn with(mut node: Node, name: &str, attribute: Attribute) -> Node {
    node.attributes.insert(name.to_owned(), attribute);
    node
}

fn int(node: Node, name: &str, value: i64) -> Node {
    with(node, name, Attribute::Int(value))
}

fn ints(node: Node, name: &str, values: &[i64]) -> Node {
    with(node, name, Attribute::Ints(values.to_vec()))
}

fn port(name: &str, dims: &[&str]) -> Port {
    let dim = |dim: &&str| match dim.parse() {
        Ok(length) => Dim::Fixed(length),
        Err(_) => Dim::Symbolic((*dim).to_owned()),
    };
    Port {
        name: name.into(),
        ty: crate::backend::PortType::Tensor(crate::tensor::TensorType::Bool),
        dims: Some(dims.iter().map(dim).collect()),
    }
}

fn list(values: &[i64]) -> Initial {
    Initial {
        dims: vec![values.len() as i64],
        ints: Some(values.to_vec()),
        floats: None,
    }
}

fn weight(dims: &[i64]) -> Initial {
    Initial {
        dims: dims.to_vec(),
        ..Initial::default()
    }
}

/// `x` is `[N,4]`, `t` is `[N,S,8]`, `n` a number an item; constants are `w`, `[4,4]`, and lists of whole numbers.
fn judged(nodes: &[Node], more: &[(&str, Initial)]) -> Rows {
    judged_in(17, nodes, more)
}

fn judged_in(opset: i64, nodes: &[Node], more: &[(&str, Initial)]) -> Rows {
    let constants = [
        ("w", weight(&[4, 4])),
        ("v", weight(&[8, 8])),
        ("b", weight(&[4])),
        ("five", weight(&[5, 4])),
        ("zero", list(&[0])),
        ("one", list(&[1])),
        ("two", list(&[2])),
        ("last", list(&[-1])),
    ];
    let constants = constants.iter().chain(more);
    let graph = Graph {
        nodes,
        initials: constants
            .map(|(name, initial)| ((*name).to_owned(), initial.clone()))
            .collect(),
        functions: &[],
        opset,
        inputs: &[
            port("x", &["N", "4"]),
            port("t", &["N", "S", "8"]),
            port("n", &["N"]),
        ],
        outputs: &[port("y", &["N"])],
    };
    rows(&graph)["y"].clone()
}

fn independent(nodes: &[Node]) {
    assert_eq!(judged(nodes, &[]), Rows::Independent, "{nodes:?}");
}

fn dependent(nodes: &[Node], op: &str, word: &str) {
    depends(judged(nodes, &[]), op, word);
}

fn depends(rows: Rows, op: &str, word: &str) {
    let Rows::Dependent(reason) = rows else {
        panic!("{op} {word} passes for independent");
    };
    assert!(reason.contains(word), "{op} {word}: {reason}");
    assert!(reason.contains(op), "{op} {word}: {reason}");
}

#[test]
fn layers_that_work_along_other_axes_keep_rows_apart() {
    independent(&[
        node("MatMul", &["x", "w"], &["a"]),
        node("Add", &["a", "b"], &["c"]),
        node("Relu", &["c"], &["d"]),
        node("Softmax", &["d"], &["y"]),
    ]);
    independent(&[int(node("Gemm", &["x", "w", "b"], &["y"]), "transB", 1)]);
    independent(&[ints(node("ReduceMean", &["t"], &["y"]), "axes", &[-1])]);
    independent(&[node("LayerNormalization", &["x", "b", "b"], &["y"])]);
    independent(&[int(node("TopK", &["x", "two"], &["y", "i"]), "axis", 1)]);
    independent(&[node("CumSum", &["x", "one"], &["y"])]);
}

#[test]
fn an_operator_along_the_items_makes_rows_depend_and_the_reason_names_operator_and_node() {
    let named = Node {
        name: "scale/max".into(),
        ..int(node("ReduceMax", &["x"], &["m"]), "keepdims", 0)
    };
    let reason = judged(&[named, node("Div", &["x", "m"], &["y"])], &[]).to_string();
    assert_eq!(
        reason,
        "operator ReduceMax (node \"scale/max\") reduces over the items of a run"
    );
    dependent(&[node("CumSum", &["x", "zero"], &["y"])], "CumSum", "sums");
    dependent(
        &[int(node("Softmax", &["x"], &["y"]), "axis", 0)],
        "Softmax",
        "normalises",
    );
    dependent(
        &[int(node("TopK", &["x", "two"], &["y", "i"]), "axis", 0)],
        "TopK",
        "sorts",
    );
    dependent(
        &[
            node("DynamicQuantizeLinear", &["x"], &["q", "s", "z"]),
            node("DequantizeLinear", &["q", "s", "z"], &["y"]),
        ],
        "DynamicQuantizeLinear",
        "one scale over all items",
    );
    for op in ["NonZero", "Unique", "NonMaxSuppression"] {
        dependent(&[node(op, &["x"], &["y"])], op, "finds in all items");
    }
    dependent(
        &[ints(node("Transpose", &["x"], &["y"]), "perm", &[1, 0])],
        "output",
        "one row",
    );
    dependent(
        &[node("LSTM", &["t", "w", "w"], &["y"])],
        "LSTM",
        "one item of a run to the next",
    );
    dependent(
        &[node("MatMul", &["w", "x"], &["y"])],
        "MatMul",
        "sums over",
    );
    dependent(
        &[node("Gather", &["x", "zero"], &["y"])],
        "Gather",
        "by their place",
    );
    dependent(
        &[
            node("Concat", &["x", "five"], &["a"]),
            int(node("Concat", &["x", "five"], &["y"]), "axis", 0),
        ],
        "Concat",
        "beside",
    );
    dependent(
        &[node("Add", &["x", "five"], &["y"])],
        "Add",
        "length of its own",
    );
    dependent(&[node("Squeeze", &["x"], &["y"])], "Squeeze", "length 1");
    dependent(
        &[node("RandomNormalLike", &["x"], &["y"])],
        "RandomNormalLike",
        "random",
    );
    dependent(
        &[node("OfTomorrow", &["x"], &["y"])],
        "OfTomorrow",
        "not among",
    );
    let foreign = Node {
        domain: "com.example".into(),
        ..node("Relu", &["x"], &["y"])
    };
    dependent(&[foreign], "Relu", "not among");
    let nested = Node {
        has_graphs: true,
        ..node("If", &["x"], &["y"])
    };
    dependent(&[nested], "If", "at run time");
}

#[test]
fn the_softmax_before_opset_13_normalises_over_all_axes_behind_its_own() {
    let softmax = |axis| [int(node("Softmax", &["t"], &["y"]), "axis", axis)];
    assert_eq!(judged_in(12, &softmax(1), &[]), Rows::Independent);
    depends(judged_in(12, &softmax(0), &[]), "Softmax", "normalises");
    let turned = [
        ints(node("Transpose", &["t"], &["u"]), "perm", &[1, 0, 2]),
        int(node("Softmax", &["u"], &["v"]), "axis", 0),
        ints(node("Transpose", &["v"], &["y"]), "perm", &[1, 0, 2]),
    ];
    assert_eq!(judged_in(13, &turned, &[]), Rows::Independent);
    depends(judged_in(12, &turned, &[]), "Softmax", "normalises");
}

#[test]
fn shapes_that_are_computed_keep_items_apart_or_do_not() {
    let shape = |to: Node| {
        [
            node("Shape", &["t"], &["s"]),
            node("Gather", &["s", "zero"], &["count"]),
            node("Gather", &["s", "one"], &["length"]),
            to,
            node("Reshape", &["t", "target"], &["y"]),
        ]
    };
    let concat = |inputs: &[&str]| int(node("Concat", inputs, &["target"]), "axis", 0);
    independent(&shape(concat(&["count", "length", "two", "last"])));
    independent(&shape(concat(&["count", "last"])));
    independent(&shape(concat(&["zero", "last"])));
    independent(&shape(concat(&["last", "length", "two", "two", "two"])));
    dependent(&shape(concat(&["length", "last"])), "Reshape", "apart");
    dependent(&shape(concat(&["two", "last"])), "Reshape", "apart");
    // Into one list of tokens, through a layer, and back.
    independent(&[
        with(
            node("Constant", &[], &["flat"]),
            "value_ints",
            Attribute::Ints(vec![-1, 8]),
        ),
        node("Reshape", &["t", "flat"], &["a"]),
        node("MatMul", &["a", "v"], &["c"]),
        node("Shape", &["t"], &["s"]),
        node("Reshape", &["c", "s"], &["y"]),
    ]);
    // Items between the other two axes, as with batch_first = False.
    let inner = [
        ints(node("Transpose", &["t"], &["u"]), "perm", &[1, 0, 2]),
        with(
            node("Constant", &[], &["flat"]),
            "value_ints",
            Attribute::Ints(vec![-1, 8]),
        ),
        node("Reshape", &["u", "flat"], &["a"]),
        node("MatMul", &["a", "v"], &["c"]),
        node("Shape", &["u"], &["s"]),
        node("Reshape", &["c", "s"], &["d"]),
        ints(node("Transpose", &["d"], &["y"]), "perm", &[1, 0, 2]),
    ];
    independent(&inner);
}

#[test]
fn the_number_of_items_may_be_a_size_and_not_a_number() {
    independent(&[
        node("Shape", &["x"], &["s"]),
        node("ConstantOfShape", &["s"], &["ones"]),
        node("Add", &["x", "ones"], &["y"]),
    ]);
    dependent(
        &[
            node("Shape", &["x"], &["s"]),
            node("Gather", &["s", "zero"], &["count"]),
            int(node("Cast", &["count"], &["c"]), "to", 1),
            node("Div", &["x", "c"], &["y"]),
        ],
        "Cast",
        "number of items",
    );
    dependent(
        &[
            node("Shape", &["n"], &["s"]),
            node("Squeeze", &["s"], &["count"]),
            with(
                node("Constant", &[], &["from"]),
                "value_int",
                Attribute::Int(0),
            ),
            with(
                node("Constant", &[], &["step"]),
                "value_int",
                Attribute::Int(1),
            ),
            node("Range", &["from", "count", "step"], &["r"]),
            node("Add", &["n", "r"], &["y"]),
        ],
        "Range",
        "place of an item",
    );
}

#[test]
fn an_item_may_take_its_own_row_by_its_place_and_no_other() {
    let to = |more: &[Node]| {
        let mut nodes = vec![
            node("Shape", &["x"], &["s"]),
            node("Gather", &["s", "nought"], &["count"]),
            node("Range", &["nought", "count", "single"], &["r"]),
            node("Unsqueeze", &["r", "last"], &["places"]),
        ];
        nodes.extend_from_slice(more);
        let scalar = |value| Initial {
            dims: Vec::new(),
            ints: Some(vec![value]),
            floats: None,
        };
        judged(&nodes, &[("nought", scalar(0)), ("single", scalar(1))])
    };
    let own = [
        node("Expand", &["one", "places_shape"], &["column"]),
        int(node("Concat", &["places", "column"], &["at"]), "axis", -1),
        node("GatherND", &["x", "at"], &["y"]),
    ];
    let shape = node("Shape", &["places"], &["places_shape"]);
    assert_eq!(
        to(&[&[shape.clone()][..], &own].concat()),
        Rows::Independent
    );
    let swapped = [
        shape,
        own[0].clone(),
        int(node("Concat", &["column", "places"], &["at"]), "axis", -1),
        own[2].clone(),
    ];
    depends(to(&swapped), "GatherND", "place");
    depends(
        to(&[node("Add", &["x", "places"], &["y"])]),
        "Range",
        "place",
    );
    let wrong = [
        node("Sub", &["places", "one"], &["before"]),
        node("GatherND", &["x", "before"], &["y"]),
    ];
    depends(to(&wrong), "GatherND", "place");
    depends(
        to(&[node("Gather", &["x", "r"], &["y"])]),
        "Gather",
        "place",
    );
}

#[test]
fn trees_and_linear_models_have_rows_of_their_own() {
    let classical = |op: &str, inputs: &[&str], outputs: &[&str]| Node {
        domain: "ai.onnx.ml".into(),
        ..node(op, inputs, outputs)
    };
    independent(&[
        classical("Scaler", &["x"], &["a"]),
        classical("TreeEnsembleClassifier", &["a"], &["y", "p"]),
    ]);
    // scikit-learn's class names: the place of the greatest, in a list of names.
    independent(&[
        classical("TreeEnsembleRegressor", &["x"], &["p"]),
        int(
            int(node("ArgMax", &["p"], &["i"]), "axis", 1),
            "keepdims",
            1,
        ),
        classical("ArrayFeatureExtractor", &["b", "i"], &["names"]),
        node("Reshape", &["names", "last"], &["y"]),
    ]);
    dependent(
        &[classical("Normalizer", &["n"], &["y"])],
        "Normalizer",
        "one row for each item",
    );
}

#[test]
fn a_function_of_the_file_is_judged_by_its_body() {
    let function = |op: Node| Function {
        domain: "own".into(),
        name: "Own".into(),
        inputs: vec!["a".into()],
        outputs: vec!["b".into()],
        nodes: vec![op],
        opset: None,
    };
    let judged = |op: Node| {
        let operation = Node {
            domain: "own".into(),
            ..node("Own", &["x"], &["y"])
        };
        let functions = [function(op)];
        let graph = Graph {
            nodes: &[operation],
            initials: HashMap::new(),
            functions: &functions,
            opset: 17,
            inputs: &[port("x", &["N", "4"])],
            outputs: &[port("y", &["N", "4"])],
        };
        rows(&graph)["y"].clone()
    };
    assert_eq!(judged(node("Relu", &["a"], &["b"])), Rows::Independent);
    depends(
        judged(int(node("Softmax", &["a"], &["b"]), "axis", 0)),
        "Softmax",
        "normalises",
    );
    // An axis that the call gives is not known.
    depends(
        judged(with(
            node("Softmax", &["a"], &["b"]),
            "axis",
            Attribute::Other,
        )),
        "Softmax",
        "cannot be read",
    );
}
