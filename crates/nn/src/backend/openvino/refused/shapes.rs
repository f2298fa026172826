//! The shapes of a graph's values, as far as they can be followed without running it.

use std::collections::{HashMap, HashSet};

use crate::backend::onnx_file::structure::{Operator, Structure};
use crate::backend::port::PortType;
use crate::tensor::TensorType;

pub(super) type Dims = Vec<Option<u64>>;

/// The shapes of values: those the file declares, and those that follow.
pub(super) struct Shapes<'s> {
    declared: &'s Structure,
    inferred: HashMap<&'s str, Dims>,
}

impl<'s> Shapes<'s> {
    pub(super) fn of(declared: &'s Structure) -> Self {
        Self {
            declared,
            inferred: HashMap::new(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Dims> {
        let declared = self.declared.values.get(name);
        let declared = declared.and_then(|value| value.dims.clone());
        declared.or_else(|| self.inferred.get(name).cloned())
    }

    pub(super) fn input(&self, operator: &Operator, index: usize) -> Option<Dims> {
        self.get(operator.inputs.get(index)?)
    }

    /// Notes the shape of an operator's outputs, if it follows from its inputs.
    pub(super) fn infer(&mut self, operator: &'s Operator) {
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

    pub(super) fn output(&self, operator: &Operator) -> Option<Dims> {
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

pub(super) fn broadcast(left: Dims, right: Dims) -> Dims {
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

pub(super) fn producers(structure: &Structure) -> HashMap<&str, &Operator> {
    let outputs = |operator: &'_ Operator| operator.outputs.len();
    let all = structure
        .operators
        .iter()
        .filter(|operator| outputs(operator) > 0);
    all.flat_map(|operator| operator.outputs.iter().map(move |name| (&**name, operator)))
        .collect()
}

/// The inputs whose elements an operator hands on as they are.
pub(super) fn passed(operator: &Operator) -> impl Iterator<Item = &str> {
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

/// Returns whether elements may be of any size: they come from inputs of callers, or from a number that was converted. The
/// outputs of `limits` may not.
pub(super) fn unbounded(
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
