//! The versions of ONNX that each backend reads, and the refusal of newer graphs.
//!
//! A graph names the version of the file format (IR) and, for each domain, of the set of operators (opset). ONNX
//! Runtime refuses a version that it does not know. OpenVINO and tract read any version, and would compute an operator
//! that has changed since in the old way. So a graph of a newer opset goes to them only if none of its operators has
//! changed.

use super::graph::Graph;

/// The versions that a backend reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// The newest opset of ONNX's own operators.
    pub opset: u64,
    /// The newest version of the file format.
    pub ir: u64,
    /// Whether it refuses newer graphs even if they would mean the same.
    pub strict: bool,
}

/// The newest opset at the time of writing, and its file format (onnx 1.23.2).
pub const NEWEST_OPSET: u64 = 28;
/// The newest version of the file format, as of [`NEWEST_OPSET`].
pub const NEWEST_IR: u64 = 14;

/// Opsets up to this one, and file formats up to [`ALWAYS_READ_IR`], are read by every version of every backend that
/// this server takes. Nothing is asked for them.
pub const ALWAYS_READ_OPSET: u64 = 21;
/// The newest file format that every backend reads, as of [`ALWAYS_READ_OPSET`].
pub const ALWAYS_READ_IR: u64 = 10;

/// The operators that each opset added or changed, from [`ALWAYS_READ_OPSET`] on, from onnx 1.23.2.
const CHANGED: [(u64, &[&str]); 7] = [
    (
        22,
        &[
            "Acos",
            "Acosh",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
            "AveragePool",
            "Bernoulli",
            "Conv",
            "ConvTranspose",
            "Cos",
            "Cosh",
            "DeformConv",
            "Det",
            "Dropout",
            "Elu",
            "EyeLike",
            "GRU",
            "GlobalAveragePool",
            "GlobalLpPool",
            "GlobalMaxPool",
            "GridSample",
            "HardSigmoid",
            "HardSwish",
            "InstanceNormalization",
            "LSTM",
            "LpNormalization",
            "LpPool",
            "MaxPool",
            "MaxRoiPool",
            "MaxUnpool",
            "Mish",
            "Multinomial",
            "NegativeLogLikelihoodLoss",
            "RNN",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
            "RoiAlign",
            "Round",
            "Selu",
            "Sin",
            "Sinh",
            "Softplus",
            "Softsign",
            "Tan",
            "ThresholdedRelu",
        ],
    ),
    (
        23,
        &[
            "Attention",
            "Cast",
            "CastLike",
            "Constant",
            "ConstantOfShape",
            "DequantizeLinear",
            "Flatten",
            "Identity",
            "If",
            "Loop",
            "Pad",
            "QuantizeLinear",
            "RMSNormalization",
            "Reshape",
            "RotaryEmbedding",
            "Scan",
            "Shape",
            "Size",
            "Squeeze",
            "Transpose",
            "Unsqueeze",
        ],
    ),
    (
        24,
        &[
            "Attention",
            "Cast",
            "CastLike",
            "Constant",
            "ConstantOfShape",
            "DequantizeLinear",
            "Flatten",
            "Identity",
            "If",
            "Loop",
            "Pad",
            "QuantizeLinear",
            "Reshape",
            "Scan",
            "Shape",
            "Size",
            "SplitToSequence",
            "Squeeze",
            "Swish",
            "TensorScatter",
            "TopK",
            "Transpose",
            "Unsqueeze",
        ],
    ),
    (
        25,
        &[
            "Attention",
            "Cast",
            "CastLike",
            "Constant",
            "ConstantOfShape",
            "DequantizeLinear",
            "Flatten",
            "Identity",
            "If",
            "Loop",
            "Pad",
            "QuantizeLinear",
            "Reshape",
            "Scan",
            "Shape",
            "Size",
            "Squeeze",
            "Transpose",
            "Unsqueeze",
        ],
    ),
    (26, &["BitCast", "CumProd"]),
    (27, &["CausalConvWithState", "LinearAttention", "Range"]),
    (
        28,
        &[
            "BitShift",
            "Cast",
            "Celu",
            "Compress",
            "DepthToSpace",
            "DequantizeLinear",
            "Einsum",
            "Mod",
            "OneHot",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "QuantizeLinear",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReverseSequence",
            "SpaceToDepth",
            "SwiGLU",
            "Unique",
        ],
    ),
];

impl Reads {
    /// The reason that this backend cannot read a graph; `None` if it can.
    pub fn refusal(&self, graph: &Graph) -> Option<String> {
        let ir = graph.ir_version();
        if ir > self.ir {
            return Some(format!(
                "reads file formats (IR) up to {}, and the graph has {ir}",
                self.ir
            ));
        }
        let opset = graph.opsets().get("").copied().unwrap_or_default();
        if opset <= self.opset {
            return None;
        }
        let said = format!(
            "reads opsets up to {}, and the graph has {opset}",
            self.opset
        );
        if self.strict {
            return Some(said);
        }
        if opset > NEWEST_OPSET {
            return Some(format!("{said}, which is newer than this server knows"));
        }
        let changed = CHANGED
            .iter()
            .filter(|(since, _)| (self.opset + 1..=opset).contains(since))
            .find_map(|(since, operators)| {
                let own = graph
                    .operators()
                    .keys()
                    .filter(|(domain, _)| domain.is_empty());
                let mut names = own.map(|(_, operator)| operator.as_str());
                Some((since, names.find(|name| operators.contains(name))?))
            })?;
        Some(format!(
            "{said}: operator {} has changed in opset {}",
            changed.1, changed.0
        ))
    }
}

/// Returns whether any backend might be too old for a graph.
pub fn is_recent(graph: &Graph) -> bool {
    let opset = graph.opsets().get("").copied().unwrap_or_default();
    opset > ALWAYS_READ_OPSET || graph.ir_version() > ALWAYS_READ_IR
}

/// The smallest ONNX file with these versions: one `Identity` from `x` to `y`.
pub fn smallest(ir: u64, opset: u64) -> Vec<u8> {
    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }
    fn part(field: u64, content: &[u8]) -> Vec<u8> {
        let length = varint(content.len() as u64);
        [varint(field << 3 | 2), length, content.to_vec()].concat()
    }
    let port = |name: &str| {
        let dim = part(1, &number(1, 1));
        let tensor = [number(1, 1), part(2, &dim)].concat();
        [part(1, name.as_bytes()), part(2, &part(1, &tensor))].concat()
    };
    let node = [part(1, b"x"), part(2, b"y"), part(4, b"Identity")].concat();
    let graph = [
        part(1, &node),
        part(2, b"g"),
        part(11, &port("x")),
        part(12, &port("y")),
    ]
    .concat();
    [number(1, ir), part(7, &graph), part(8, &number(2, opset))].concat()
}

/// The largest number from `known`, which is read, up to `most` for which `reads` says yes; numbers that are read are
/// taken to be without a gap.
pub fn newest(known: u64, most: u64, mut reads: impl FnMut(u64) -> bool) -> u64 {
    let (mut low, mut high) = (known, most + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if reads(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(ir: u64, opset: u64) -> Graph {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, smallest(ir, opset)).expect("written");
        Graph::read(&path).expect("it is ONNX")
    }

    #[test]
    fn a_graph_that_is_newer_than_a_backend_is_refused_with_both_numbers() {
        let strict = Reads {
            opset: 26,
            ir: 13,
            strict: true,
        };
        assert_eq!(strict.refusal(&graph(13, 26)), None);
        let refusal = strict.refusal(&graph(13, 28)).expect("newer");
        assert_eq!(refusal, "reads opsets up to 26, and the graph has 28");
        let refusal = strict.refusal(&graph(14, 26)).expect("newer");
        assert_eq!(
            refusal,
            "reads file formats (IR) up to 13, and the graph has 14"
        );
    }

    #[test]
    fn a_backend_that_reads_any_opset_is_trusted_with_operators_that_have_not_changed() {
        let lenient = Reads {
            opset: 25,
            ir: 14,
            strict: false,
        };
        assert_eq!(
            lenient.refusal(&graph(14, 28)),
            None,
            "Identity changed last in 25"
        );
        let older = Reads {
            opset: 24,
            ..lenient
        };
        let refusal = older.refusal(&graph(14, 28)).expect("it changed");
        assert!(
            refusal.ends_with("operator Identity has changed in opset 25"),
            "{refusal}"
        );
        assert!(
            lenient
                .refusal(&graph(14, 29))
                .expect("unknown")
                .contains("newer than this server knows")
        );
    }

    #[test]
    fn the_newest_number_is_found_by_halving() {
        for newest_is in 21..=64 {
            assert_eq!(newest(21, 64, |n| n <= newest_is), newest_is);
        }
    }
}
