//! Which graphs OpenVINO's CPU plugin would answer wrong, from their structure. Measured with OpenVINO 2026.4.1 against
//! ONNX Runtime 1.32; docs/decisions/0029 has the list. Pure.
//!
//! - `Softmax` before opset 13 is over everything from its axis on. OpenVINO takes it along the axis alone, which is the
//!   same only where nothing longer than 1 follows the axis. Where the rank is not known, an axis that is written is taken
//!   for the last.
//! - INT64 is computed in 32 bits, and sums of INT32 go through FP32. An output of such a type must not be arithmetic on
//!   what callers send. Arithmetic on lengths and places (`Shape`, `ArgMax`) cannot grow so large.
//! - Arithmetic on 8-bit integers saturates instead of wrapping around.
//! - NaN becomes a number in some operators; see [`LOSES_NAN`].
//! - Forms of single operators: `forms`. Indices that nothing holds against a table: `indices`.

use std::collections::{HashMap, HashSet};

use crate::backend::onnx_file::structure::{Operator, Structure};
use crate::backend::{Port, PortType};
use crate::error::{NnError, quoted};
use crate::tensor::TensorType;

mod forms;
mod indices;

pub(super) use indices::Guard;

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

/// Refuses what would be answered wrong. Returns what is to be checked in each call to a graph whose inputs are `ports`.
///
/// # Errors
///
/// `UnsupportedOperation`, naming the operator, the node, the fault and what to do.
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
            "computes it along one axis, where opset 12 and before ask for everything from the axis on",
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

type Dims = Vec<Option<u64>>;

/// Shapes of values: those the file declares, and those that follow.
struct Shapes<'s> {
    declared: &'s Structure,
    inferred: HashMap<&'s str, Dims>,
}

impl<'s> Shapes<'s> {
    fn of(declared: &'s Structure) -> Self {
        Self {
            declared,
            inferred: HashMap::new(),
        }
    }

    fn get(&self, name: &str) -> Option<Dims> {
        let declared = self.declared.values.get(name);
        let declared = declared.and_then(|value| value.dims.clone());
        declared.or_else(|| self.inferred.get(name).cloned())
    }

    fn input(&self, operator: &Operator, index: usize) -> Option<Dims> {
        self.get(operator.inputs.get(index)?)
    }

    /// Notes the shape of an operator's outputs, where it follows from its inputs.
    fn infer(&mut self, operator: &'s Operator) {
        if !matches!(&*operator.domain, "" | "ai.onnx") {
            return;
        }
        let Some(dims) = self.output(operator) else {
            return;
        };
        if let Some(output) = operator.outputs.first() {
            self.inferred.insert(output, dims);
        }
    }

    fn output(&self, operator: &Operator) -> Option<Dims> {
        let first = || self.input(operator, 0);
        let open = |rank: usize| vec![None; rank];
        let axes = || operator.integers.get("axes").map(Vec::len);
        Some(match &*operator.op {
            "Relu"
            | "LeakyRelu"
            | "Elu"
            | "Selu"
            | "Sigmoid"
            | "HardSigmoid"
            | "HardSwish"
            | "Tanh"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Neg"
            | "Abs"
            | "Erf"
            | "Softplus"
            | "Softsign"
            | "Cast"
            | "DequantizeLinear"
            | "QuantizeLinear"
            | "Identity"
            | "Dropout"
            | "BatchNormalization"
            | "InstanceNormalization"
            | "LayerNormalization"
            | "LRN"
            | "Clip"
            | "Softmax"
            | "LogSoftmax"
            | "PRelu"
            | "Floor"
            | "Ceil"
            | "Reciprocal"
            | "Not" => first()?,
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Where" | "Max" | "Min" | "Sum" | "Mean" => {
                let each = (0..operator.inputs.len()).map(|index| self.input(operator, index));
                let each = each.collect::<Option<Vec<_>>>()?;
                each.into_iter().reduce(broadcast)?
            }
            "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool" | "LpPool" | "Transpose"
            | "Concat" | "Pad" | "Slice" | "Resize" | "Upsample" | "Expand" | "Split"
            | "CumSum" => open(first()?.len()),
            "GlobalAveragePool" | "GlobalMaxPool" => {
                let mut dims = first()?;
                dims.iter_mut().skip(2).for_each(|length| *length = Some(1));
                dims
            }
            "Gemm" | "Flatten" => open(2),
            "MatMul" => {
                let (left, right) = (first()?.len(), self.input(operator, 1)?.len());
                if left < 2 || right < 2 {
                    return None;
                }
                open(left.max(right))
            }
            // The lengths are a vector; how long it is, is the rank.
            "Reshape" => match self.input(operator, 1)?[..] {
                [Some(rank)] => open(usize::try_from(rank).ok()?),
                _ => return None,
            },
            "Gather" => open((first()?.len() + self.input(operator, 1)?.len()).checked_sub(1)?),
            "Squeeze" => open(first()?.len().checked_sub(axes()?)?),
            "Unsqueeze" => open(first()?.len() + axes()?),
            op if op.starts_with("Reduce") => {
                let rank = first()?.len();
                match operator.integer("keepdims") {
                    None | Some(1) => open(rank),
                    _ => open(rank.checked_sub(axes()?)?),
                }
            }
            _ => return None,
        })
    }
}

fn broadcast(left: Dims, right: Dims) -> Dims {
    let rank = left.len().max(right.len());
    let at = |dims: &Dims, place: usize| {
        let before = rank - dims.len();
        place
            .checked_sub(before)
            .map_or(Some(1), |place| dims[place])
    };
    let length = |place| match (at(&left, place), at(&right, place)) {
        (Some(1), other) | (other, Some(1)) => other,
        (left, right) if left == right => left,
        _ => None,
    };
    (0..rank).map(length).collect()
}

/// The arithmetic that an output of integers comes from, with what is wrong about it.
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

fn producers(structure: &Structure) -> HashMap<&str, &Operator> {
    let outputs = |operator: &'_ Operator| operator.outputs.len();
    let all = structure
        .operators
        .iter()
        .filter(|operator| outputs(operator) > 0);
    all.flat_map(|operator| operator.outputs.iter().map(move |name| (&**name, operator)))
        .collect()
}

/// The inputs whose elements an operator hands on as they are.
fn passed(operator: &Operator) -> impl Iterator<Item = &str> {
    let all = operator.inputs.len();
    let range = match &*operator.op {
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Slice"
        | "Gather" | "GatherElements" | "GatherND" | "Split" | "Expand" | "Tile" | "Pad"
        | "Compress" | "Clip" | "Abs" | "Neg" | "TopK" | "ReduceMax" | "ReduceMin" => 0..1,
        "Where" => 1..all,
        "Concat" | "Max" | "Min" => 0..all,
        _ => 0..0,
    };
    let inputs = operator.inputs.get(range).unwrap_or_default();
    inputs.iter().map(String::as_str)
}

/// Whether elements may be of any size: they come from what callers send, or from a number that was converted. The outputs
/// of `limits` may not.
fn unbounded(
    structure: &Structure,
    producers: &HashMap<&str, &Operator>,
    name: &str,
    limits: &[&str],
) -> bool {
    const BOUNDED: &[&str] = &[
        "Shape",
        "Size",
        "ArgMax",
        "ArgMin",
        "NonZero",
        "NonMaxSuppression",
        "Constant",
        "ConstantOfShape",
        "Equal",
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "Not",
        "And",
        "Or",
        "Xor",
        "IsNaN",
        "IsInf",
    ];
    let mut seen = HashSet::new();
    let mut values = vec![name];
    while let Some(value) = values.pop() {
        if !seen.insert(value) || value.is_empty() {
            continue;
        }
        match producers.get(value) {
            None if structure.inputs.contains(value) => {
                let ty = structure.values.get(value).map(|value| value.ty);
                if ty != Some(PortType::Tensor(TensorType::Bool)) {
                    return true;
                }
            }
            // An initializer.
            None => {}
            Some(operator) if BOUNDED.iter().chain(limits).any(|op| operator.is(op)) => {}
            Some(operator)
                if operator.is("TopK")
                    && operator.outputs.first().is_none_or(|first| first != value) => {}
            Some(operator) => values.extend(operator.inputs.iter().map(String::as_str)),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::onnx_file::structure::Value;

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
        // Of what nobody knows, a written axis is the last.
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
