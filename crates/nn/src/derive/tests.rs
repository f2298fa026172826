use super::*;
use crate::backend::PortType;
use crate::tensor::TensorType;

const FP32: PortType = PortType::Tensor(TensorType::Fp32);
const I64: PortType = PortType::Tensor(TensorType::I64);

fn port(name: &str, ty: PortType, dims: &[&str]) -> Port {
    let dims = dims.iter().map(|dim| match dim.parse() {
        Ok(length) => Dim::Fixed(length),
        Err(_) => Dim::Symbolic((*dim).to_owned()),
    });
    Port {
        name: name.into(),
        ty,
        dims: Some(dims.collect()),
    }
}

fn shapes(inputs: Vec<Port>, outputs: Vec<Port>) -> (Contract, Derived) {
    let derived = derive(&Description {
        inputs,
        outputs,
        ..Description::default()
    });
    let contract = Contract::parse(&derived.text)
        .unwrap_or_else(|faults| panic!("{faults:?} in\n{}", derived.text));
    (contract, derived)
}

#[test]
fn every_port_is_in_the_contract_as_the_graph_has_it() {
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a str, &'a str, bool);
    let cases: [Case<'_>; 7] = [
        (&["", "3"], &["", "2"], "[N, 3]", "[N, 2]", true),
        (&["batch", "3"], &["batch"], "[batch, 3]", "[batch]", true),
        (
            &["batch", "3"],
            &["", "2"],
            "[batch, 3]",
            "[batch, 2]",
            true,
        ),
        (
            &["batch size*2", "s"],
            &["batch size*2", "s"],
            "[batch_size_2, s]",
            "[batch_size_2, s]",
            true,
        ),
        (
            &["1", "3", "h", "w"],
            &["1", ""],
            "[1, 3, h, w]",
            "[1, A]",
            false,
        ),
        (&["a", "3"], &["b", "2"], "[a, 3]", "[b, 2]", false),
        (&[], &[], "[]", "[]", false),
    ];
    for (input, output, in_contract, out_contract, shared_runs) in cases {
        let (contract, derived) =
            shapes(vec![port("x", FP32, input)], vec![port("y", FP32, output)]);
        assert_eq!(
            contract.inputs[0].shape_text(),
            in_contract,
            "{}",
            derived.text
        );
        assert_eq!(
            contract.outputs[0].shape_text(),
            out_contract,
            "{}",
            derived.text
        );
        assert_eq!(
            contract.batch_axis().is_some(),
            shared_runs,
            "{}",
            derived.text
        );
        assert!(derived.obstacles.is_empty());
    }
}

#[test]
fn facts_that_the_graph_lacks_are_asked_and_facts_that_it_has_are_not() {
    let derived = derive(&Description {
        text: "Finds \"things\"\nand more".into(),
        inputs: vec![
            port("input_ids", I64, &["b", "s"]),
            port("attention_mask", I64, &["b", "s"]),
            Port {
                dims: None,
                ..port("x# [other]", FP32, &[])
            },
        ],
        outputs: vec![
            port("y", FP32, &["b", "3"]),
            port("z", PortType::Other("a sequence"), &[]),
        ],
        tables: [("input_ids".to_owned(), 30522)].into(),
        most_tokens: Some(512),
        labels: vec!["a".into(), "\"b\"".into(), "c".into()],
        ..Description::default()
    });
    let contract = Contract::parse(&derived.text)
        .unwrap_or_else(|faults| panic!("{faults:?} in\n{}", derived.text));
    assert_eq!(contract.description, "Finds \"things\"");
    assert_eq!(
        contract.inputs[0]
            .maximum
            .map(|max| max.to_string())
            .as_deref(),
        Some("30521")
    );
    assert_eq!(
        contract.inputs[1]
            .maximum
            .map(|max| max.to_string())
            .as_deref(),
        Some("1")
    );
    assert_eq!(contract.axes["s"].max, Some(512));
    assert_eq!(contract.outputs.len(), 1, "a sequence is left out");
    assert_eq!(contract.outputs[0].labels.as_ref().map(Vec::len), Some(3));
    let asked = derived.questions.join("\n");
    assert!(
        asked.contains("how many axes x# [other] has")
            && asked.contains("Which values does x# [other]"),
        "{asked}"
    );
    assert!(
        !asked.contains("input_ids") && !asked.contains("attention_mask"),
        "{asked}"
    );
    for question in &derived.questions {
        assert!(derived.text.contains("# ?"), "{question}");
    }
}

#[test]
fn an_input_that_no_tensor_carries_is_an_obstacle() {
    let derived = derive(&Description {
        inputs: vec![port("x", PortType::Other("a sequence"), &["1"])],
        outputs: vec![port("y", FP32, &["1"])],
        ..Description::default()
    });
    assert_eq!(
        derived.obstacles,
        ["input x is a sequence, which this server does not carry"]
    );
}

#[test]
fn no_name_in_a_graph_makes_a_contract_that_does_not_parse() {
    for name in [
        "\"",
        "\\",
        "a\u{0}b",
        "'''",
        "é",
        "${x}",
        "a b",
        "\u{202e}x",
    ] {
        let derived = derive(&Description {
            text: name.into(),
            origin: name.into(),
            inputs: vec![port(&format!("x{name}"), FP32, &[name, "2"])],
            outputs: vec![port(&format!("y{name}"), FP32, &[name])],
            ..Description::default()
        });
        match Contract::parse(&derived.text) {
            Ok(contract) => assert_eq!(contract.inputs[0].name, format!("x{name}")),
            // The contract refuses the name itself, not its form.
            Err(faults) => assert!(
                faults.iter().all(|fault| fault.message.contains("name is")),
                "{faults:?}"
            ),
        }
    }
}
fn of_file(name: &str) -> (Contract, Derived) {
    let path = format!(
        "{}/../../tests/data/types/{name}/1/model.onnx",
        env!("CARGO_MANIFEST_DIR")
    );
    let graph = Graph::read(path.as_ref()).expect("the graph is in the repository");
    let derived = derive(&Description::of(&graph));
    let contract = Contract::parse(&derived.text)
        .unwrap_or_else(|faults| panic!("{faults:?} in\n{}", derived.text));
    (contract, derived)
}

#[test]
fn the_keys_of_a_classifiers_maps_are_the_labels_of_its_probabilities() {
    for name in ["forest-zipmap", "lightgbm-zipmap"] {
        let (contract, derived) = of_file(name);
        let probabilities = contract.outputs.iter().find(|spec| spec.labels.is_some());
        let probabilities = probabilities.unwrap_or_else(|| panic!("{}", derived.text));
        assert_eq!(probabilities.shape_text(), "[N, 3]", "{name}");
        assert_eq!(
            probabilities.labels.as_deref(),
            Some(&["setosa", "versicolor", "virginica"].map(str::to_owned)[..])
        );
        assert_eq!(contract.batch_axis(), Some("N"), "{name}");
    }
}

#[test]
fn classes_that_cannot_be_labels_are_told_in_a_comment() {
    let description = Description {
        inputs: vec![port("x", FP32, &["", "4"])],
        outputs: vec![port("label", I64, &[""]), port("p", FP32, &["", "2"])],
        classes: [("p".to_owned(), vec!["0".to_owned(), "1".to_owned()])].into(),
        ..Description::default()
    };
    let derived = derive(&description);
    let contract = Contract::parse(&derived.text).expect("it is a contract");
    assert!(contract.outputs[1].labels.is_none(), "{}", derived.text);
    assert!(
        derived.text.contains("# The columns are 0, 1."),
        "{}",
        derived.text
    );
}

#[test]
fn a_sequence_is_the_tensors_that_carry_it_and_counts_no_items() {
    let (contract, derived) = of_file("sequence");
    let names = contract.inputs.iter().chain(&contract.outputs);
    let carried = names.filter(|spec| spec.name.ends_with(".shapes")).count();
    assert!(carried > 0, "{}", derived.text);
    assert_eq!(contract.batch_axis(), None, "{}", derived.text);
}

#[test]
fn axes_that_came_outrank_those_that_the_graph_declares() {
    // Input; declared output; the shapes that came for lengths 1 and 2, or for 1 alone; the contract's shape.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a [u64]], &'a str);
    let cases: [Case<'_>; 7] = [
        // ddddocr: an axis more than declared.
        (
            &["1", "w"],
            &["1", "seq"],
            &[&[1, 1, 8210], &[1, 1, 8210]],
            "[y_0, y_1, 8210]",
        ),
        // CatBoost.
        (&["N", "4"], &["N"], &[&[1, 1], &[2, 1]], "[N, y_1]"),
        // LightGBM.
        (&["N", "4"], &["1"], &[&[1], &[2]], "[N]"),
        // speechmos: a scalar is declared, and numbers of other counts come.
        (&["N", "4"], &[], &[&[3], &[6]], "[y_0]"),
        (&["N", "4"], &[], &[&[3], &[3]], "[3]"),
        // An axis of the input's name that is not as long; one run shows no axis to be fixed.
        (&["N", "4"], &["N"], &[&[4]], "[y_0]"),
        // Without a contradiction the graph is believed.
        (
            &["N", "4"],
            &["N", "7", "z"],
            &[&[1, 7, 5], &[3, 7, 9]],
            "[y_0, 7, z]",
        ),
    ];
    for (input, declared, came, right) in cases {
        let mut description = Description {
            inputs: vec![port("x", FP32, input)],
            outputs: vec![port("y", FP32, declared)],
            ..Description::default()
        };
        let runs: Vec<Shapes> = (came.iter().zip(1u64..))
            .map(|(came, length)| Shapes {
                inputs: vec![(
                    "x".into(),
                    input
                        .iter()
                        .map(|dim| dim.parse().unwrap_or(length))
                        .collect(),
                )],
                outputs: vec![("y".into(), came.to_vec())],
            })
            .collect();
        description.correct(&["y".to_owned()], &runs);
        let derived = derive(&description);
        let contract = Contract::parse(&derived.text)
            .unwrap_or_else(|faults| panic!("{faults:?} in\n{}", derived.text));
        assert_eq!(contract.outputs[0].shape_text(), right, "{came:?}");
        assert!(
            derived.text.contains("]. Are these its axes?"),
            "{}",
            derived.text
        );
    }
}

#[test]
fn operators_that_no_backend_has_are_asked_about_with_the_setting_that_names_their_library() {
    let names =
        |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let derived = derive(&Description {
        inputs: vec![port("x", FP32, &["N", "3"])],
        outputs: vec![port("y", FP32, &["N", "3"])],
        foreign: BTreeMap::from([
            ("ai.onnx.contrib".to_owned(), names(&["StringUpper"])),
            ("own\n[engine]".to_owned(), names(&["Double", "Halve"])),
        ]),
        ..Description::default()
    });
    let commented = "\n# [engine]\n# operators = [\"extensions\", \"own__engine_\"]\n";
    assert!(derived.text.contains(commented), "{}", derived.text);
    for part in [
        "# ? Which library has the operators of the domain \"ai.onnx.contrib\" (\"StringUpper\")?",
        "onnxruntime-extensions has operators of this domain",
        "# ? Which library has the operators of the domain \"own\\n[engine]\" (\"Double\", \"Halve\")?",
        "under [models.operators]: own__engine_ = \"/path/to/library.so\"",
    ] {
        assert!(
            derived.text.contains(part),
            "{part} is not in\n{}",
            derived.text
        );
    }
    let asked = (derived.questions.iter()).filter(|question| question.contains("[engine]"));
    assert_eq!(asked.count(), 2);
    Contract::parse(&derived.text).expect("the table is a comment");
    let answered = derived.text.replace("\n# [engine]\n# ", "\n[engine]\n");
    let contract = Contract::parse(&answered).expect("the marks were removed");
    assert_eq!(contract.engine.operators.len(), 2);
}
