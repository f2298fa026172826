//! Rows that tract rounds by their place in a run.
//!
//! tract adds the numbers of a row in the order of its place in memory: first those before an aligned address, then the
//! others. In rows of a length that is no multiple of the alignment, the last bit of a sum depends on the number of rows
//! before. The trials of a load see that for a plain `Softmax`, whose inputs all differ, and not for trees, whose scores
//! take few values.

use tract_onnx::pb::NodeProto;

use crate::backend::rows::Rows;

/// Returns whether rows depend on each other in tract, from the answer for every backend and the operators of the graph and
/// of its functions. With operators in a body (`If`, `Loop`), the answer for every backend is that they do.
pub(super) fn rounded<'a>(rows: Rows, nodes: impl IntoIterator<Item = &'a NodeProto>) -> Rows {
    let ends_in_softmax = |node: &&NodeProto| {
        let mut attributes = node.attribute.iter();
        node.domain == "ai.onnx.ml"
            && attributes.any(|one| one.name == "post_transform" && one.s.starts_with(b"SOFTMAX"))
    };
    match nodes.into_iter().find(ends_in_softmax) {
        Some(node) if rows == Rows::Independent => Rows::Dependent(format!(
            "operator {} rounds its softmax by the place of a row in tract",
            node.op_type
        )),
        _ => rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::pb::AttributeProto;

    fn classifier(transform: &str) -> NodeProto {
        NodeProto {
            op_type: "TreeEnsembleClassifier".into(),
            domain: "ai.onnx.ml".into(),
            attribute: vec![AttributeProto {
                name: "post_transform".into(),
                s: transform.as_bytes().to_vec(),
                ..AttributeProto::default()
            }],
            ..NodeProto::default()
        }
    }

    #[test]
    fn trees_that_end_in_a_softmax_share_no_runs_on_tract() {
        for (transform, shares) in [
            ("NONE", true),
            ("LOGISTIC", true),
            ("SOFTMAX", false),
            ("SOFTMAX_ZERO", false),
        ] {
            let rows = rounded(Rows::Independent, &[classifier(transform)]);
            assert_eq!(rows == Rows::Independent, shares, "{transform}");
        }
        let known = Rows::Dependent("another reason".into());
        assert_eq!(rounded(known.clone(), &[classifier("SOFTMAX")]), known);
        assert_eq!(rounded(Rows::Independent, &[]), Rows::Independent);
    }
}
