//! Explanations of models that are computed here: the hidden elements, their attributions, and the refusals.

use penstock_core::Code;
use penstock_tensor::explain::{Explanation, Plan};
use penstock_tensor::{Contract, Datatype, Rejection, Tensor};
use proptest::prelude::*;

/// A contract of one input and one output, with some sections behind them.
fn contract(input: &str, output: &str, more: &str) -> Contract {
    parsed(input, output, more).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn parsed(input: &str, output: &str, more: &str) -> Result<Contract, Vec<String>> {
    let text = format!(
        "description = \"d\"\n[[inputs]]\nname = \"x\"\n{input}\n[[outputs]]\nname = \"y\"\n{output}\n{more}\n"
    );
    Contract::parse(&text).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

const FLAT: &str = "datatype = \"FP64\"\nshape = [\"N\", 4]";
const ONE: &str = "datatype = \"FP64\"\nshape = [\"N\", 1]";

fn tensor(shape: &[u64], values: &[f64]) -> Tensor {
    Tensor {
        name: "x".into(),
        datatype: Datatype::Fp64,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let elements = tensor.data.as_chunks::<8>().0.iter();
    elements.map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

/// Runs a model of one input, given as a function of an item, over the batches of a plan.
fn run(plan: &Plan<'_>, model: impl Fn(&[f64]) -> Vec<f64>) -> Vec<Vec<Tensor>> {
    let batches = plan.batches().map(|inputs| {
        let [input] = inputs.as_slice() else {
            panic!("one input")
        };
        let each = (input.data.len() / 8) / input.shape[0] as usize;
        let rows: Vec<Vec<f64>> = numbers(input).chunks(each).map(&model).collect();
        let mut out = tensor(&[rows.len() as u64, rows[0].len() as u64], &rows.concat());
        out.name = "y".into();
        vec![out]
    });
    batches.collect()
}

fn explained(
    contract: &Contract,
    input: &Tensor,
    target: Option<&str>,
    model: impl Fn(&[f64]) -> Vec<f64>,
) -> Result<Explanation, Rejection> {
    let inputs = std::slice::from_ref(input);
    let plan = Plan::new(contract, inputs, target).expect("it explains")?;
    let outputs = run(&plan, model);
    let class = plan.class(&outputs[0])?;
    Ok(plan
        .attribute(class, &outputs)
        .expect("outputs of its batches"))
}

fn found(explanation: &Explanation) -> Vec<(String, f64)> {
    let owned = |(name, value): (&str, f64)| (name.to_owned(), value);
    explanation.attributions().map(owned).collect()
}

proptest! {
    /// With whole numbers nothing is rounded, so equality is meant.
    #[test]
    fn attributions_of_a_linear_model_are_weight_times_value_less_baseline(
        weights in prop::collection::vec(-1000i32..1000, 6),
        values in prop::collection::vec(-1000i32..1000, 6),
        baseline in -1000i32..1000, max_items in 1u32..10, bias in -1000i32..1000,
    ) {
        let more = format!("[explain]\nbaseline = {{ x = {baseline} }}\n[limits]\nmax_items = {max_items}\n");
        let contract = contract("datatype = \"FP64\"\nshape = [\"N\", 2, 3]", ONE, &more);
        let real: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let model = |item: &[f64]| {
            let parts = item.iter().zip(&weights).map(|(x, w)| x * f64::from(*w));
            vec![f64::from(bias) + parts.sum::<f64>()]
        };
        let explanation = explained(&contract, &tensor(&[1, 2, 3], &real), None, model).unwrap();
        prop_assert_eq!(explanation.base, model(&real)[0]);
        let mut sum = 0.0;
        for (at, (name, attribution)) in found(&explanation).into_iter().enumerate() {
            let expected = f64::from(weights[at]) * f64::from(values[at] - baseline);
            prop_assert_eq!((name, attribution), (format!("x[{at}]"), expected));
            sum += expected;
        }
        prop_assert_eq!(explanation.sum(), sum);
    }

    #[test]
    fn a_model_that_ignores_its_input_has_attributions_of_zero(
        values in prop::collection::vec(any::<f64>(), 4), answer in -1e9f64..1e9,
    ) {
        let contract = contract(FLAT, ONE, "[explain]");
        let input = tensor(&[1, 4], &values);
        let explanation = explained(&contract, &input, None, |_| vec![answer]).unwrap();
        prop_assert!(explanation.attributions().all(|(_, value)| value == 0.0));
        prop_assert_eq!(explanation.attributions().count(), 4);
    }
}

#[test]
fn the_item_comes_first_and_then_each_group_hidden_within_the_limits() {
    let contract = contract(FLAT, ONE, "[explain]\n[limits]\nmax_items = 2\n");
    let input = [tensor(&[1, 4], &[1.0, 2.0, 3.0, 4.0])];
    let plan = Plan::new(&contract, &input, None).unwrap().unwrap();
    assert_eq!((plan.items(), plan.output()), (5, "y"));
    let batches: Vec<(Vec<u64>, Vec<f64>)> = plan
        .batches()
        .map(|batch| (batch[0].shape.clone(), numbers(&batch[0])))
        .collect();
    let expected = [
        (vec![2, 4], vec![1.0, 2.0, 3.0, 4.0, 0.0, 2.0, 3.0, 4.0]),
        (vec![2, 4], vec![1.0, 0.0, 3.0, 4.0, 1.0, 2.0, 0.0, 4.0]),
        (vec![1, 4], vec![1.0, 2.0, 3.0, 0.0]),
    ];
    assert_eq!(batches, expected);
}

#[test]
fn no_batch_has_more_bytes_than_a_body_may() {
    let more = "[explain]\n[limits]\nmax_body_bytes = 100\n";
    let contract = contract(FLAT, ONE, more);
    let input = [tensor(&[1, 4], &[1.0; 4])];
    let plan = Plan::new(&contract, &input, None).unwrap().unwrap();
    let sizes: Vec<usize> = plan.batches().map(|batch| batch[0].data.len()).collect();
    assert_eq!(sizes, [96, 64]);
}

#[test]
fn the_cells_of_a_grid_cover_every_plane_and_nothing_twice() {
    for (shape, grid, height, width) in [
        ("[\"N\", 3, 5, 7]", "rows = 2\ncolumns = 3", 5usize, 7usize),
        ("[\"N\", 3, \"H\", \"W\"]", "rows = 9\ncolumns = 9", 5, 7),
        ("[\"N\", 3, 35]", "rows = 2\ncolumns = 3\nwidth = 7", 5, 7),
        ("[\"N\", 5, 7]", "rows = 5\ncolumns = 1", 5, 7),
    ] {
        let planes = if shape.contains("3,") { 3 } else { 1 };
        let contract = contract(
            &format!("datatype = \"FP64\"\nshape = {shape}"),
            ONE,
            &format!("[explain.grid]\n{grid}\n"),
        );
        let item = match shape.matches(',').count() {
            3 => vec![1, planes, 5, 7],
            2 if planes == 3 => vec![1, 3, 35],
            _ => vec![1, 5, 7],
        };
        let count = planes as usize * height * width;
        let input = [tensor(&item, &vec![1.0; count])];
        let plan = Plan::new(&contract, &input, None).unwrap().unwrap();
        let mut hidden = vec![0; count];
        for batch in plan.batches() {
            for item in numbers(&batch[0]).chunks(count) {
                let zeros: Vec<usize> = (0..count).filter(|at| item[*at] == 0.0).collect();
                for at in &zeros {
                    hidden[*at] += 1;
                }
                let of_plane = |plane| {
                    zeros
                        .iter()
                        .filter(|at| **at / (height * width) == plane)
                        .count()
                };
                assert!((0..planes as usize).all(|plane| of_plane(plane) == of_plane(0)));
            }
        }
        assert_eq!(hidden, vec![1; count], "{shape} {grid}");
    }
}

#[test]
fn the_mean_stands_in_where_it_is_asked_for() {
    let more = "[explain]\nbaseline = { x = \"mean\" }\n";
    let real = contract(FLAT, ONE, more);
    let input = tensor(&[1, 4], &[1.0, 2.0, 3.0, 6.0]);
    let explanation = explained(&real, &input, None, |item| vec![item.iter().sum()]).unwrap();
    let values: Vec<f64> = found(&explanation).into_iter().map(|(_, v)| v).collect();
    assert_eq!(values, [-2.0, -1.0, 0.0, 3.0]);
    let broken = tensor(&[1, 4], &[f64::INFINITY, 2.0, 3.0, 6.0]);
    let refused = explained(&real, &broken, None, |_| vec![0.0]).unwrap_err();
    assert_eq!(refused.code, Code::InvalidInputs);
    assert!(refused.message.contains("finite"), "{refused}");
    // Of integers, the whole number nearest to it.
    let whole = contract(
        "datatype = \"UINT8\"\nshape = [\"N\", 3]\nminimum = 5",
        ONE,
        more,
    );
    let input = [Tensor {
        name: "x".into(),
        datatype: Datatype::Uint8,
        shape: vec![1, 3],
        data: vec![5, 6, 255].into(),
    }];
    let plan = Plan::new(&whole, &input, None).unwrap().unwrap();
    let batch = plan.batches().next().unwrap();
    assert_eq!(batch[0].data, [5, 6, 255, 89, 6, 255, 5, 89, 255, 5, 6, 89]);
}

#[test]
fn the_greatest_class_is_explained_unless_another_is_asked_for() {
    let output = "datatype = \"FP64\"\nshape = [\"N\", 3]\nlabels = [\"a\", \"2\", \"c\"]";
    let labelled = contract(FLAT, output, "[explain]");
    let plain = contract(
        FLAT,
        "datatype = \"FP64\"\nshape = [\"N\", \"C\"]",
        "[explain]",
    );
    let input = tensor(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let model = |item: &[f64]| vec![item[0], item[1] * 10.0, f64::NAN];
    let value = |contract, target| {
        let explanation = explained(contract, &input, target, model)?;
        let mut json = Vec::new();
        explanation.write_json(&mut json);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        Ok::<_, Rejection>((json["target"].clone(), json["target_index"].as_u64()))
    };
    assert_eq!(value(&labelled, None).unwrap(), ("2".into(), Some(1)));
    assert_eq!(value(&labelled, Some("a")).unwrap(), ("a".into(), Some(0)));
    assert_eq!(value(&labelled, Some("2")).unwrap(), ("2".into(), Some(1)));
    assert_eq!(value(&plain, None).unwrap(), (1.into(), Some(1)));
    assert_eq!(value(&plain, Some("2")).unwrap(), (2.into(), Some(2)));
    for (contract, target) in [
        (&labelled, "0"),
        (&labelled, ""),
        (&plain, "3"),
        (&plain, "-1"),
        (&plain, "99999999999999999999999"),
        (&plain, "18446744073709551615"),
    ] {
        let refused = value(contract, Some(target)).unwrap_err();
        assert_eq!(refused.code, Code::InvalidInputs, "{target}");
        assert_eq!(refused.violations[0].rule, "unknown_target");
    }
}

#[test]
fn an_explanation_is_written_whole() {
    let output = "datatype = \"FP64\"\nshape = [\"N\", 2]\nlabels = [\"no\", \"yes\"]";
    let contract = contract(
        FLAT,
        output,
        "[explain]\nbaseline = { x = 0.5 }\n[[explain.groups]]\nname = \"first \\\"two\\\"\"\nstart = 0\nend = 2\n\
         [explain.grid]\nrows = 1\ncolumns = 2\nwidth = 2\n",
    );
    let input = tensor(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let model = |item: &[f64]| vec![0.0, item.iter().sum()];
    let explanation = explained(&contract, &input, None, model).unwrap();
    let mut json = Vec::new();
    explanation.write_json(&mut json);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "method": "occlusion", "output": "y", "target": "yes", "target_index": 1, "base_score": 10.0,
            "baseline": {"x": {"kind": "constant", "value": 0.5}}, "items": 4,
            "attributions": [
                {"name": "first \"two\"", "input": "x", "attribution": 2.0},
                {"name": "r0c0", "input": "x", "rows": [0, 2], "columns": [0, 1], "attribution": 3.0},
                {"name": "r0c1", "input": "x", "rows": [0, 2], "columns": [1, 2], "attribution": 5.0},
            ],
            "sum": 10.0,
        })
    );
}

#[test]
fn several_items_and_what_is_too_large_are_refused() {
    let contract = contract(
        "datatype = \"FP64\"\nshape = [\"N\", \"S\"]",
        ONE,
        "[explain]\n[[explain.groups]]\nname = \"a\"\nend = 9\n[explain.grid]\nrows = 1\ncolumns = 255\nwidth = 1000\n",
    );
    let refused = |input: Tensor| {
        let inputs = [input];
        let rejection = Plan::new(&contract, &inputs, None).unwrap().unwrap_err();
        rejection.violations[0].rule.clone()
    };
    assert_eq!(refused(tensor(&[2, 1], &[0.0; 2])), "too_many_items");
    assert_eq!(refused(tensor(&[1, 600_000], &[0.0; 600_000])), "too_large");
    // Groups that the item is too short for are left out.
    let short = [tensor(&[1, 3], &[1.0; 3])];
    let plan = Plan::new(&contract, &short, None).unwrap().unwrap();
    assert_eq!(plan.items(), 2);
    assert_eq!(
        numbers(&plan.batches().next().unwrap()[0]),
        [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn outputs_that_are_not_those_of_the_batches_explain_nothing() {
    let contract = contract(FLAT, ONE, "[explain]");
    let input = [tensor(&[1, 4], &[1.0; 4])];
    let plan = Plan::new(&contract, &input, None).unwrap().unwrap();
    let outputs = run(&plan, |_| vec![1.0]);
    assert!(plan.attribute(0, &outputs).is_some());
    assert!(plan.attribute(1, &outputs).is_none());
    assert!(plan.attribute(0, &[]).is_none());
    assert!(
        plan.attribute(0, &[outputs[0].clone(), outputs[0].clone()])
            .is_none()
    );
    let mut broken = outputs.clone();
    broken[0][0].shape = vec![u64::MAX, u64::MAX];
    assert!(plan.attribute(0, &broken).is_none());
    broken[0][0].name = "z".into();
    assert!(plan.attribute(0, &broken).is_none());
    let without = contract_without();
    assert!(Plan::new(&without, &input, None).is_none());
}

fn contract_without() -> Contract {
    contract(FLAT, ONE, "")
}

#[test]
fn faults_of_the_section_are_found_together_with_their_remedies() {
    let two = "datatype = \"FP64\"\nshape = [\"N\", 4]\n[[inputs]]\nname = \"s\"\ndatatype = \"BYTES\"\nshape = [\"N\"]";
    for (input, output, more, words) in [
        (FLAT, ONE, "[explain]\nfoo = 1", "no member \"foo\""),
        (
            FLAT,
            ONE,
            "[explain]\ntarget = \"z\"",
            "no output is named \"z\"",
        ),
        (
            FLAT,
            ONE,
            "[explain]\nbaseline = 0",
            "baseline is an integer",
        ),
        (
            FLAT,
            ONE,
            "[explain.baseline]\nx = \"median\"",
            "baseline of \"x\"",
        ),
        (
            FLAT,
            ONE,
            "[explain.baseline]\nz = 0",
            "no input is named \"z\"",
        ),
        (
            two,
            ONE,
            "[explain.baseline]\ns = 0",
            "input \"s\" is BYTES",
        ),
        (
            two,
            ONE,
            "[[explain.groups]]\nname = \"a\"\nend = 1",
            "a group has no input",
        ),
        (
            FLAT,
            ONE,
            "[[explain.groups]]\nname = \"a\"\nend = 5",
            "0 to 5",
        ),
        (
            FLAT,
            ONE,
            "[[explain.groups]]\nname = \"a\"\nstart = 2\nend = 2",
            "2 to 2",
        ),
        (
            FLAT,
            ONE,
            "[[explain.groups]]\nend = 2",
            "a group has no name",
        ),
        (
            FLAT,
            ONE,
            "[[explain.groups]]\nname = \"a\"\nend = 2\n[[explain.groups]]\nname = \"a\"\nend = 3",
            "two groups are named \"a\"",
        ),
        (
            FLAT,
            ONE,
            "[explain.grid]\nrows = 2\ncolumns = 2",
            "cannot cover",
        ),
        (
            FLAT,
            ONE,
            "[explain.grid]\nrows = 2\ncolumns = 2\nwidth = 3",
            "cannot cover",
        ),
        (
            FLAT,
            ONE,
            "[explain.grid]\nrows = 17\ncolumns = 16\nwidth = 2",
            "272 groups",
        ),
        (
            FLAT,
            ONE,
            "[explain.grid]\nrows = 2\nwidth = 2",
            "grid has no columns",
        ),
        (
            "datatype = \"FP64\"\nshape = [\"N\", 300]",
            ONE,
            "[explain]",
            "300 groups",
        ),
        (
            "datatype = \"FP64\"\nshape = [\"N\", \"S\"]",
            ONE,
            "[explain]",
            "any number of groups",
        ),
        (
            "datatype = \"FP64\"\nshape = [4]",
            "datatype = \"FP64\"\nshape = [1]",
            "[explain]",
            "no batch axis",
        ),
        (
            FLAT,
            "datatype = \"FP64\"\nshape = [\"N\", 2, 3]",
            "[explain]",
            "output \"y\" is FP64 of shape [N, 2, 3]",
        ),
        (
            FLAT,
            "datatype = \"BYTES\"\nshape = [\"N\", 1]",
            "[explain]",
            "output \"y\" is BYTES",
        ),
        (
            "datatype = \"INT8\"\nshape = [\"N\", 4]\nminimum = 1",
            ONE,
            "[explain]",
            "does not accept 0",
        ),
        (
            "datatype = \"INT8\"\nshape = [\"N\", 4]",
            ONE,
            "[explain.baseline]\nx = 128",
            "baseline of \"x\"",
        ),
    ] {
        let faults = parsed(input, output, more).unwrap_err();
        assert!(
            faults.iter().any(|f| f.contains(words)),
            "{more}: {faults:?}"
        );
    }
}
