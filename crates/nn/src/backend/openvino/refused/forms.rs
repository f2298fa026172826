//! Forms of operators that OpenVINO answers wrong although it loads them. Each was found by ONNX's operator tests
//! (`scripts/operators`) and confirmed in OpenVINO's own Python package, 2026.4.1, against ONNX Runtime 1.32.

use std::collections::{HashMap, HashSet};

use super::shapes::{Shapes, passed, producers};
use crate::backend::onnx_file::structure::{Operator, Structure};

/// The first operator of a form that is answered wrong, with the fault.
pub(super) fn find(structure: &Structure) -> Option<(&Operator, &'static str)> {
    let mut shapes = Shapes::of(structure);
    let producers = producers(structure);
    structure.operators.iter().find_map(|operator| {
        let fault = fault(structure, &shapes, &producers, operator);
        shapes.infer(operator);
        Some((operator, fault?))
    })
}

fn fault<'s>(
    structure: &'s Structure,
    shapes: &Shapes<'s>,
    producers: &HashMap<&'s str, &'s Operator>,
    operator: &'s Operator,
) -> Option<&'static str> {
    if !matches!(&*operator.domain, "" | "ai.onnx") {
        return None;
    }
    let is_set = |name: &str| operator.integer(name).is_some_and(|value| value != 0);
    match &*operator.op {
        "Attention" => attention(structure, shapes, operator),
        "ConvTranspose"
            if operator.integer("group").is_some_and(|groups| groups > 1)
                && operator.integers.contains_key("output_shape") =>
        {
            Some("shifts the output of groups to fit output_shape")
        }
        "DFT" if is_set("onesided") => Some("returns a onesided transform in another shape"),
        "DFT" if structure.opset >= 20 => dft(structure, shapes, operator),
        "LSTM" if operator.input(7).is_some() => Some("leaves the peephole weights out"),
        "GRU" | "LSTM" | "RNN" => {
            let dims = shapes.input(operator, 0);
            let is_fixed = dims.is_some_and(|dims| dims.iter().all(Option::is_some));
            (operator.input(4).is_some() && !is_fixed)
                .then_some("ignores sequence_lens where an axis is dynamic")
        }
        "MaxPool" => max_pool(shapes, operator),
        "NonMaxSuppression" => overlap(structure, operator),
        "Resize" => match operator.texts.get("keep_aspect_ratio_policy") {
            Some(policy) if policy != "stretch" => Some("ignores keep_aspect_ratio_policy"),
            _ if is_set("antialias") => Some("computes antialias differently from ONNX"),
            _ if is_set("exclude_outside") => Some("ignores exclude_outside"),
            _ => None,
        },
        "Tile" => tile(structure, shapes, producers, operator),
        "TopK" => top_k(structure, producers, operator),
        "Unique"
            if operator.integer("sorted") == Some(0)
                && operator.outputs.get(2).is_none_or(|name| name.is_empty()) =>
        {
            Some("loses values of an unsorted result without inverse indices")
        }
        _ => None,
    }
}

/// With past keys, OpenVINO aligns the causal mask with the last query, and ONNX with the first. They agree if there
/// are as many new keys as queries, as in a decoder.
fn attention(
    structure: &Structure,
    shapes: &Shapes<'_>,
    operator: &Operator,
) -> Option<&'static str> {
    if operator.integer("is_causal") != Some(1) || operator.input(4).is_none() {
        return None;
    }
    let length = |index| {
        let dims = shapes.input(operator, index)?;
        dims.len().checked_sub(2).and_then(|axis| dims[axis])
    };
    let same = match (length(0), length(1)) {
        (Some(queries), Some(keys)) => queries == keys,
        // Queries and keys that the graph computes come from the same tokens.
        _ => [0, 1].iter().all(|index| {
            (operator.input(*index)).is_some_and(|name| !structure.inputs.contains(name))
        }),
    };
    (!same).then_some("shifts the causal mask if the numbers of new keys and of queries differ")
}

/// OpenVINO transforms axis 1 from opset 20 on, for every value of the input `axis`.
fn dft(structure: &Structure, shapes: &Shapes<'_>, operator: &Operator) -> Option<&'static str> {
    let is_axis_1 = match operator.input(2) {
        Some(axis) => constant(structure, axis) == Some(1.0),
        // The default is the last axis but one.
        None => shapes
            .input(operator, 0)
            .is_some_and(|dims| dims.len() == 3),
    };
    (!is_axis_1).then_some("transforms axis 1, whatever the input axis is")
}

/// With `ceil_mode`, ONNX leaves out a last window that begins in the padding.
fn max_pool(shapes: &Shapes<'_>, operator: &Operator) -> Option<&'static str> {
    if operator.integer("ceil_mode") != Some(1) {
        return None;
    }
    let list = |name: &str| operator.integers.get(name);
    let kernel = list("kernel_shape")?;
    let dims = shapes.input(operator, 0);
    let differs = (kernel.iter().enumerate()).any(|(axis, kernel)| {
        let at = |name: &str, index: usize, default: i64| {
            list(name)
                .and_then(|list| list.get(index).copied())
                .unwrap_or(default)
        };
        let kernel = at("dilations", axis, 1) * (kernel - 1) + 1;
        let stride = at("strides", axis, 1).max(1);
        let before = at("pads", axis, 0);
        let behind = at("pads", axis + list("pads").map_or(0, Vec::len) / 2, 0);
        if kernel >= stride + behind {
            return false;
        }
        let length = (dims.as_ref())
            .and_then(|dims| *dims.get(axis + 2)?)
            .and_then(|length| i64::try_from(length).ok());
        length.is_none_or(|length| {
            let room = length + before + behind - kernel;
            let windows = (room + stride - 1).div_euclid(stride) + 1;
            (windows - 1) * stride >= length + before
        })
    });
    differs.then_some("keeps a last window that begins in the padding")
}

/// OpenVINO drops a box whose overlap is the threshold, and ONNX keeps it. Boxes that do not touch overlap by 0.
fn overlap(structure: &Structure, operator: &Operator) -> Option<&'static str> {
    let threshold = operator
        .input(3)
        .map_or(Some(0.0), |name| constant(structure, name));
    (threshold.is_none_or(|threshold| threshold <= 0.0))
        .then_some("drops boxes whose overlap is the threshold, which is 0 here or is not known")
}

/// OpenVINO returns memory that was never written if all of four repeats are above 1 and not constant.
fn tile<'s>(
    structure: &'s Structure,
    shapes: &Shapes<'s>,
    producers: &HashMap<&'s str, &'s Operator>,
    operator: &'s Operator,
) -> Option<&'static str> {
    /// The number of axes; the difference was not seen with fewer.
    const AXES: usize = 4;
    let is_short = (shapes.input(operator, 0)).is_some_and(|dims| dims.len() < AXES);
    if is_short || !varies(structure, shapes, producers, operator.input(1)?) {
        return None;
    }
    Some("returns memory that was never written if four repeats are not constant")
}

/// Among equal elements OpenVINO does not take the first. Indices that pick something else are accepted: they pick an
/// equal value.
fn top_k<'s>(
    structure: &'s Structure,
    producers: &HashMap<&'s str, &'s Operator>,
    operator: &'s Operator,
) -> Option<&'static str> {
    let indices = operator.outputs.get(1).filter(|name| !name.is_empty())?;
    let mut seen = HashSet::new();
    let mut values: Vec<&str> = structure.outputs.iter().map(String::as_str).collect();
    while let Some(value) = values.pop() {
        if value == indices {
            return Some("returns the index of another of several equal elements than the first");
        }
        if !seen.insert(value) {
            continue;
        }
        if let Some(producer) = producers.get(value) {
            values.extend(passed(producer));
            if producer.is("Cast") {
                values.extend(producer.input(0));
            }
        }
    }
    None
}

/// The first element of a constant.
fn constant(structure: &Structure, name: &str) -> Option<f64> {
    let is_input = structure.inputs.contains(name);
    (structure.values.get(name))
        .filter(|_| !is_input)
        .and_then(|value| value.first)
}

/// Returns whether a value may be another in the next call: it follows from the inputs of callers, or from lengths that are
/// open.
fn varies<'s>(
    structure: &'s Structure,
    shapes: &Shapes<'s>,
    producers: &HashMap<&'s str, &'s Operator>,
    name: &'s str,
) -> bool {
    let mut seen = HashSet::new();
    let mut values = vec![name];
    while let Some(value) = values.pop() {
        if value.is_empty() || !seen.insert(value) {
            continue;
        }
        if structure.inputs.contains(value) {
            return true;
        }
        let Some(producer) = producers.get(value) else {
            continue;
        };
        if producer.is("Shape") || producer.is("Size") {
            let dims = shapes.input(producer, 0);
            if dims.is_none_or(|dims| dims.contains(&None)) {
                return true;
            }
        } else {
            values.extend(producer.inputs.iter().map(String::as_str));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::onnx_file::structure::Value;
    use crate::backend::port::PortType;
    use crate::tensor::TensorType;

    const FP32: PortType = PortType::Tensor(TensorType::Fp32);

    /// A graph of one operator with the inputs `x` and `z`, the initializers `zero`, `half` and `one`, and the outputs
    /// `y` and `i`.
    struct Form(Structure);

    fn form(op: &str, inputs: &[&str], dims: &[Option<u64>]) -> Form {
        let constant = |first| Value {
            ty: FP32,
            dims: Some(vec![]),
            first: Some(first),
        };
        let port = || Value {
            ty: FP32,
            dims: Some(dims.to_vec()),
            first: None,
        };
        Form(Structure {
            opset: 23,
            operators: vec![Operator {
                op: op.into(),
                inputs: inputs.iter().map(|name| (*name).into()).collect(),
                outputs: vec!["y".into(), "i".into()],
                ..Operator::default()
            }],
            values: HashMap::from([
                ("x".into(), port()),
                ("z".into(), port()),
                ("zero".into(), constant(0.0)),
                ("half".into(), constant(0.5)),
                ("one".into(), constant(1.0)),
            ]),
            inputs: HashSet::from(["x".into(), "z".into()]),
            outputs: vec!["y".into(), "i".into()],
        })
    }

    impl Form {
        fn with(mut self, name: &str, list: &[i64]) -> Self {
            (self.0.operators[0].integers).insert(name.into(), list.to_vec());
            self
        }

        fn text(mut self, name: &str, text: &str) -> Self {
            (self.0.operators[0].texts).insert(name.into(), text.into());
            self
        }

        fn is_refused(&self) -> bool {
            find(&self.0).is_some()
        }
    }

    #[test]
    fn pooling_is_refused_where_a_last_window_begins_in_the_padding() {
        let pool = |kernel, stride, pad: i64, length: Option<u64>| {
            form("MaxPool", &["x"], &[Some(1), Some(1), length])
                .with("kernel_shape", &[kernel])
                .with("strides", &[stride])
                .with("pads", &[pad, pad])
                .with("ceil_mode", &[1])
                .is_refused()
        };
        // Measured: kernel, stride, padding, length, and whether OpenVINO's shape is another.
        for (kernel, stride, pad, length, differs) in [
            (3, 2, 0, 8, false),
            (1, 2, 0, 8, true),
            (1, 3, 0, 5, true),
            (2, 3, 0, 6, true),
            (3, 3, 1, 2, true),
            (2, 2, 1, 2, false),
            (2, 2, 1, 3, true),
        ] {
            let form = (kernel, stride, pad, Some(length));
            assert_eq!(pool(form.0, form.1, form.2, form.3), differs, "{form:?}");
        }
        assert!(!pool(3, 2, 1, None), "no length makes a difference");
        assert!(pool(2, 3, 0, None), "some length does");
    }

    #[test]
    fn forms_that_are_answered_wrong_are_refused_and_their_siblings_are_not() {
        let dims = &[Some(2), Some(3), Some(4), Some(8)][..];
        let short = &[Some(2), Some(3), Some(2)][..];
        let open = &[None, Some(3), Some(2)][..];
        let cases = [
            (
                form("LSTM", &["x", "w", "r", "", "", "", "", "p"], short),
                true,
            ),
            (form("LSTM", &["x", "w", "r"], short), false),
            (form("GRU", &["x", "w", "r", "", "lens"], short), false),
            (form("GRU", &["x", "w", "r", "", "lens"], open), true),
            (form("LSTM", &["x", "w", "r", "b", "lens"], open), true),
            (form("RNN", &["y", "w", "r", "", "lens"], short), true),
            (form("RNN", &["x", "w", "r", "b"], open), false),
            (form("DFT", &["x", "", "one"], dims), false),
            (form("DFT", &["x", "", "zero"], dims), true),
            (form("DFT", &["x", "", "z"], dims), true),
            (form("DFT", &["x"], short), false),
            (form("DFT", &["x"], dims), true),
            (
                form("DFT", &["x", "", "one"], dims).with("onesided", &[1]),
                true,
            ),
            (
                form("NonMaxSuppression", &["x", "z", "m", "half"], short),
                false,
            ),
            (
                form("NonMaxSuppression", &["x", "z", "m", "zero"], short),
                true,
            ),
            (form("NonMaxSuppression", &["x", "z", "m"], short), true),
            (
                form("NonMaxSuppression", &["x", "w", "m", "z"], short),
                true,
            ),
            (form("Resize", &["x"], dims).with("antialias", &[1]), true),
            (
                form("Resize", &["x"], dims).with("exclude_outside", &[1]),
                true,
            ),
            (form("Resize", &["x"], dims).with("antialias", &[0]), false),
            (
                form("Resize", &["x"], dims).text("keep_aspect_ratio_policy", "not_larger"),
                true,
            ),
            (
                form("Resize", &["x"], dims).text("keep_aspect_ratio_policy", "stretch"),
                false,
            ),
            (form("Tile", &["x", "z"], dims), true),
            (form("Tile", &["x", "one"], dims), false),
            (form("Tile", &["x", "z"], short), false),
            (
                form("ConvTranspose", &["x", "w"], dims)
                    .with("group", &[2])
                    .with("output_shape", &[8, 8]),
                true,
            ),
            (
                form("ConvTranspose", &["x", "w"], dims).with("group", &[2]),
                false,
            ),
            (
                form("ConvTranspose", &["x", "w"], dims).with("output_shape", &[8, 8]),
                false,
            ),
            (form("Unique", &["x"], short).with("sorted", &[0]), true),
            (form("Unique", &["x"], short).with("sorted", &[1]), false),
            (form("Unique", &["x"], short), false),
            (form("TopK", &["x", "one"], short), true),
        ];
        for (index, (form, refused)) in cases.iter().enumerate() {
            assert_eq!(
                form.is_refused(),
                *refused,
                "case {index}: {:?}",
                form.0.operators
            );
        }
        let mut picks = form("TopK", &["x", "one"], short);
        picks.0.outputs = vec!["y".into()];
        assert!(!picks.is_refused(), "the indices do not come out");
    }

    #[test]
    fn a_causal_mask_over_past_keys_is_refused_where_keys_and_queries_may_differ() {
        let attention = |length| {
            let mut form = form(
                "Attention",
                &["x", "z", "v", "", "pk", "pv"],
                &[Some(1), length, Some(8)],
            );
            form.0.operators[0]
                .integers
                .insert("is_causal".into(), vec![1]);
            form
        };
        assert!(!attention(Some(4)).is_refused());
        assert!(attention(None).is_refused());
        let mut computed = attention(None);
        computed.0.inputs.clear();
        assert!(!computed.is_refused(), "both come from the same tokens");
        let mut other = attention(Some(4));
        other.0.values.get_mut("z").unwrap().dims = Some(vec![Some(1), Some(6), Some(8)]);
        assert!(other.is_refused());
        other.0.operators[0].inputs.truncate(3);
        assert!(!other.is_refused(), "without past keys both align alike");
    }
}
