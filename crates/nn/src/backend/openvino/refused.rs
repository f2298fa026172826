//! Graphs that OpenVINO's CPU plugin would answer wrong, found from their structure. Measured with OpenVINO 2026.4.1
//! against ONNX Runtime 1.32; docs/decisions/0029 has the list. Pure.
//!
//! - `Softmax` before opset 13 covers all axes from its axis on. OpenVINO computes it along the axis alone. The two
//!   agree only if every axis after it has length 1. If the rank is not known, a written axis counts as the last.
//! - INT64 is computed in 32 bits, and sums of INT32 go through FP32. An output of such a type must not be arithmetic
//!   on values that callers send. Arithmetic on lengths and places (`Shape`, `ArgMax`) cannot grow so large.
//! - Arithmetic on 8-bit integers saturates instead of wrapping around.
//! - NaN becomes a number in some operators; see [`LOSES_NAN`].
//! - Forms of single operators: `forms`. Indices that are not checked against a table: `indices`.

use std::collections::HashSet;

use crate::backend::onnx_file::structure::{Operator, Structure};
use crate::backend::port::{Port, PortType};
use crate::error::{NnError, quoted};
use crate::tensor::TensorType;

mod forms;
mod indices;
mod shapes;

pub(super) use indices::Guard;
use shapes::{Shapes, passed, producers, unbounded};

/// Operators that answer NaN with a number.
const LOSES_NAN: &[&str] = &[
    "Relu",
    "HardSigmoid",
    "Clip",
    "Softmax",
    "Exp",
    "Celu",
    "Max",
    "Min",
    "ReduceMax",
    "ReduceMin",
    "ArgMin",
    "Greater",
    "GreaterOrEqual",
    "LogSoftmax",
    "ThresholdedRelu",
    "Cast",
];

/// Refuses graphs that would be answered wrong. Returns the checks to make in each call to a graph whose inputs are
/// `ports`.
///
/// # Errors
///
/// `UnsupportedOperation`, naming the operator, the node, the fault and the remedy.
pub(super) fn check(
    structure: &Structure,
    ports: &[Port],
    non_finite: bool,
) -> Result<Vec<Guard>, NnError> {
    let refuse = |operator: &Operator, fault: &str| -> Result<Vec<Guard>, NnError> {
        Err(NnError::unsupported(format!(
            "OpenVINO gets the operator {} wrong, at the node {}: it {fault}; load the graph with backend = \
             \"onnxruntime\", or export it otherwise",
            operator.op,
            quoted(operator.place())
        )))
    };
    if non_finite && let Some(operator) = loses_nan(structure, LOSES_NAN) {
        return refuse(
            operator,
            "answers NaN with a number, and model.toml has allow_non_finite = true",
        );
    }
    if let Some(operator) = softmax(structure) {
        return refuse(
            operator,
            "computes it along one axis; up to opset 12 it covers all axes from that one on",
        );
    }
    for output in &structure.outputs {
        if let Some((operator, fault)) = arithmetic(structure, output) {
            return refuse(operator, fault);
        }
    }
    if let Some((operator, fault)) = forms::find(structure) {
        return refuse(operator, fault);
    }
    indices::guards(structure, ports).or_else(|(operator, fault)| refuse(operator, fault))
}

/// The first operator of a list.
pub(crate) fn loses_nan<'s>(structure: &'s Structure, list: &[&str]) -> Option<&'s Operator> {
    let losing = |operator: &&Operator| list.iter().any(|op| operator.is(op));
    structure.operators.iter().find(losing)
}

/// A Softmax that is not over the last axis, or of which that is not known.
fn softmax(structure: &Structure) -> Option<&Operator> {
    if structure.opset >= 13 {
        return None;
    }
    let mut shapes = Shapes::of(structure);
    structure.operators.iter().find(|operator| {
        let wrong = operator.is("Softmax") && {
            let axis = operator.integer("axis").unwrap_or(1);
            let dims = shapes.input(operator, 0);
            match (axis, dims) {
                (-1, _) => false,
                // Exporters of that time moved the axis to the end and wrote its number.
                (axis, None) => axis <= 0 || operator.integer("axis").is_none(),
                (axis, Some(dims)) => {
                    let rank = i64::try_from(dims.len()).unwrap_or(i64::MAX);
                    let axis = if axis < 0 { axis + rank } else { axis };
                    let behind = usize::try_from(axis + 1).unwrap_or(0);
                    dims.iter().skip(behind).any(|length| *length != Some(1))
                }
            }
        };
        shapes.infer(operator);
        wrong
    })
}

/// The arithmetic that an output of integers comes from, with its fault.
fn arithmetic<'s>(structure: &'s Structure, output: &str) -> Option<(&'s Operator, &'static str)> {
    let ty = structure.values.get(output)?.ty;
    let (operators, fault): (&[&str], _) = match ty {
        PortType::Tensor(TensorType::I64 | TensorType::U64 | TensorType::U32) => (
            &[
                "Add",
                "Sub",
                "Mul",
                "Pow",
                "Sum",
                "CumSum",
                "MatMul",
                "Gemm",
                "Einsum",
                "ReduceSum",
                "ReduceProd",
                "ReduceMean",
                "ReduceL1",
                "ReduceL2",
                "ReduceSumSquare",
            ],
            "computes INT64, UINT64 and UINT32 in 32 bits with a sign",
        ),
        PortType::Tensor(TensorType::I32) => (
            &[
                "MatMul",
                "Gemm",
                "ReduceSum",
                "ReduceProd",
                "ReduceMean",
                "ReduceL1",
                "ReduceL2",
                "ReduceSumSquare",
            ],
            "computes this of INT32 in FP32",
        ),
        PortType::Tensor(TensorType::U8 | TensorType::I8) => (
            &["Add", "Sub", "Mul", "Sum"],
            "saturates 8-bit integers where they must wrap around",
        ),
        PortType::Tensor(TensorType::U16 | TensorType::I16) => (
            &["Add", "Sub", "Mul", "Sum"],
            "computes 16-bit integers in 32 bits and does not wrap them around",
        ),
        _ => return None,
    };
    let narrow = matches!(
        ty,
        PortType::Tensor(TensorType::U8 | TensorType::I8 | TensorType::U16 | TensorType::I16)
    );
    let producers = producers(structure);
    let mut seen = HashSet::new();
    let mut values = vec![output];
    while let Some(value) = values.pop() {
        let Some(operator) = producers.get(value).filter(|_| seen.insert(value)) else {
            continue;
        };
        if operators.iter().any(|op| operator.is(op)) {
            let grows = |input: &String| narrow || unbounded(structure, &producers, input, &[]);
            if operator.inputs.iter().any(grows) {
                return Some((*operator, fault));
            }
        }
        values.extend(passed(operator));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::onnx_file::structure::Value;
    use std::collections::HashMap;

    fn check(structure: &Structure, non_finite: bool) -> Result<(), NnError> {
        let port = |name: &String| Port {
            name: name.clone(),
            ty: structure.values[name].ty,
            dims: None,
        };
        let ports: Vec<Port> = structure.inputs.iter().map(port).collect();
        super::check(structure, &ports, non_finite).map(drop)
    }

    const I64: PortType = PortType::Tensor(TensorType::I64);
    const FP32: PortType = PortType::Tensor(TensorType::Fp32);

    fn operator(op: &str, inputs: &[&str], output: &str) -> Operator {
        Operator {
            op: op.into(),
            inputs: inputs.iter().map(|name| (*name).into()).collect(),
            outputs: vec![output.into()],
            ..Operator::default()
        }
    }

    fn softmax_of(axis: Option<i64>, input: &str) -> Operator {
        let mut softmax = operator("Softmax", &[input], "y");
        softmax
            .integers
            .extend(axis.map(|axis| ("axis".into(), vec![axis])));
        softmax
    }

    /// A graph with the input `x`, the initializer `w` and the output `y`.
    fn graph(
        opset: u64,
        ty: PortType,
        dims: &[Option<u64>],
        operators: Vec<Operator>,
    ) -> Structure {
        let value = |dims: Option<Vec<Option<u64>>>| Value {
            ty,
            dims,
            first: None,
        };
        Structure {
            opset,
            operators,
            values: HashMap::from([
                ("x".into(), value(Some(dims.to_vec()))),
                ("w".into(), value(Some(vec![Some(3)]))),
                ("y".into(), value(None)),
            ]),
            inputs: HashSet::from(["x".into()]),
            outputs: vec!["y".into()],
        }
    }

    #[test]
    fn softmax_before_opset_13_is_refused_where_it_is_over_more_than_its_axis() {
        for (opset, dims, axis, sound) in [
            (11, &[None, Some(3), Some(4)][..], None, false),
            (11, &[None, Some(3), Some(4)], Some(0), false),
            (11, &[None, Some(3), Some(4)], Some(-2), false),
            (11, &[None, Some(3), Some(4)], Some(2), true),
            (11, &[None, Some(3), Some(4)], Some(-1), true),
            (13, &[None, Some(3), Some(4)], Some(1), true),
            (12, &[None, Some(1000)], None, true),
            // SqueezeNet's.
            (9, &[None, Some(1000), Some(1), Some(1)], Some(1), true),
            (9, &[None, Some(1000), Some(1), None], Some(1), false),
        ] {
            let judged = check(
                &graph(opset, FP32, dims, vec![softmax_of(axis, "x")]),
                false,
            );
            assert_eq!(
                judged.is_ok(),
                sound,
                "opset {opset}, {dims:?}, axis {axis:?}: {judged:?}"
            );
        }
    }

    #[test]
    fn the_rank_before_a_softmax_follows_from_the_operators_before_it() {
        let image = [None, Some(3), Some(8), Some(8)];
        let pooled = || {
            vec![
                operator("Conv", &["x", "k"], "a"),
                operator("Relu", &["a"], "b"),
                operator("GlobalAveragePool", &["b"], "c"),
            ]
        };
        let with = |mut operators: Vec<Operator>, last: Operator| {
            operators.push(last);
            check(&graph(11, FP32, &image, operators), false).is_ok()
        };
        assert!(with(pooled(), softmax_of(Some(1), "c")), "all behind is 1");
        assert!(!with(pooled(), softmax_of(Some(1), "b")));
        let flat = || {
            vec![
                operator("Flatten", &["x"], "a"),
                operator("Gemm", &["a", "k"], "b"),
            ]
        };
        assert!(with(flat(), softmax_of(None, "b")));
        assert!(!with(flat(), softmax_of(Some(0), "b")));
        // Without a known rank, a written axis counts as the last.
        let mystery = || vec![operator("Mystery", &["x"], "a")];
        assert!(with(mystery(), softmax_of(Some(1), "a")));
        assert!(!with(mystery(), softmax_of(Some(0), "a")));
        assert!(!with(
            vec![operator("Mystery", &["x"], "a")],
            softmax_of(None, "a")
        ));
        let reshaped = || vec![operator("Reshape", &["x", "w"], "a")];
        assert!(
            with(reshaped(), softmax_of(Some(2), "a")),
            "w has three elements"
        );
        assert!(!with(reshaped(), softmax_of(Some(1), "a")));
    }

    #[test]
    fn arithmetic_on_what_callers_send_must_not_reach_an_output_of_integers() {
        let i32 = PortType::Tensor(TensorType::I32);
        let u8 = PortType::Tensor(TensorType::U8);
        type Case<'a> = (PortType, &'a [(&'a str, &'a [&'a str], &'a str)], bool);
        let cases: [Case<'_>; 13] = [
            (I64, &[("Add", &["x", "w"], "y")], false),
            (
                I64,
                &[("Mul", &["x", "w"], "a"), ("Reshape", &["a", "w"], "y")],
                false,
            ),
            (I64, &[("ReduceSum", &["x"], "y")], false),
            (I64, &[("Gather", &["w", "x"], "y")], true),
            (I64, &[("Identity", &["x"], "y")], true),
            (
                I64,
                &[("ArgMax", &["x"], "a"), ("Add", &["a", "w"], "y")],
                true,
            ),
            (
                I64,
                &[
                    ("Equal", &["x", "w"], "a"),
                    ("Cast", &["a"], "b"),
                    ("CumSum", &["b", "w"], "y"),
                ],
                true,
            ),
            (
                I64,
                &[("Cast", &["x"], "b"), ("CumSum", &["b", "w"], "y")],
                false,
            ),
            // Only places come out.
            (
                I64,
                &[("Mul", &["x", "w"], "a"), ("ArgMax", &["a"], "y")],
                true,
            ),
            (i32, &[("ReduceSum", &["x"], "y")], false),
            (i32, &[("Add", &["x", "w"], "y")], true),
            (u8, &[("Add", &["x", "w"], "y")], false),
            (FP32, &[("Add", &["x", "w"], "y")], true),
        ];
        for (ty, operators, sound) in cases {
            let all = operators
                .iter()
                .map(|(op, inputs, output)| operator(op, inputs, output));
            let judged = check(&graph(17, ty, &[None], all.collect()), false);
            assert_eq!(judged.is_ok(), sound, "{ty} {operators:?}: {judged:?}");
        }
    }

    #[test]
    fn an_operator_that_loses_nan_is_refused_only_where_nan_may_come() {
        for op in LOSES_NAN {
            let relu = graph(17, FP32, &[Some(3)], vec![operator(op, &["x"], "y")]);
            assert!(check(&relu, false).is_ok(), "{op}");
            let error = check(&relu, true).expect_err(op);
            assert!(error.message.contains("allow_non_finite"), "{error}");
        }
        let sound = graph(17, FP32, &[Some(3)], vec![operator("Neg", &["x"], "y")]);
        assert!(check(&sound, true).is_ok());
    }
}
