//! Decides from a graph's operators whether the time of a run follows from the shapes of its inputs alone. Pure.
//!
//! A run may happen on a server thread only if no value in a caller's tensors can make it long. So this is a list of
//! operators that are known to be safe. Everything else counts as unsafe: control flow, operators whose output grows
//! with a value, random numbers, sequences, text, operators of other domains, and operators that a later version of
//! ONNX adds.
//!
//! The values of a graph are of two kinds. *Known* values follow from constants and from shapes (an initializer, the
//! output of `Shape`, arithmetic on both). All others are *data*. An operator such as `Reshape` or `Expand` is safe if
//! the input with the new shape is known. By induction every value then has a shape that follows from the shapes of the
//! inputs, and so has every operator's work.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// The property that the time of a run depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cost {
    /// On the shapes of the inputs. A run on shorter inputs takes no longer.
    Shapes,
    /// On the shapes of the inputs, and the backend prepares itself for each new set of shapes, which takes long.
    EachShape,
    /// On values in the inputs as well, or it is not known; with the reason.
    Values(String),
}

impl Default for Cost {
    fn default() -> Self {
        Self::Values("its operators are not known".into())
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shapes => f.write_str("its time follows from the shapes of its inputs"),
            Self::EachShape => f.write_str("its time follows from shapes, each prepared once"),
            Self::Values(reason) => f.write_str(reason),
        }
    }
}

/// An operator of a graph, as far as the decision needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub op: String,
    pub domain: String,
    /// Names of its inputs; an empty name is an input that is left out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Whether it holds graphs, as `If` and `Loop` do.
    pub has_graphs: bool,
    /// Its own name, which may be empty.
    pub name: String,
    pub attributes: BTreeMap<String, Attribute>,
}

/// An attribute of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attribute {
    Int(i64),
    /// The bits of a floating-point number.
    Float(u32),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<u32>),
    Tensor(Initial),
    /// One that is too long to be kept, of another type, or given by the caller of a function.
    Other,
}

/// A constant of the file: its shape, and its elements if they are few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Initial {
    pub dims: Vec<i64>,
    /// The elements of a tensor of whole numbers or truth values.
    pub ints: Option<Vec<i64>>,
    /// The bits of the elements of an FP32 tensor.
    pub floats: Option<Vec<u32>>,
}

/// An operator that the file itself defines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Function {
    pub domain: String,
    pub name: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub nodes: Vec<Node>,
    /// The version of ONNX's own operators, if the function names one.
    pub opset: Option<i64>,
}

/// Most operators that are looked at. Functions may call functions, so a small file can describe an endless graph. The
/// largest exported graphs have some ten thousand operators.
const MAX_STEPS: usize = 1 << 18;

/// Most functions that may be inside one another.
const MAX_FUNCTION_DEPTH: usize = 16;

/// The inputs of an operator that decide the shape of its output, and so must be known.
enum Shaped {
    /// No input must be known: the shapes of the inputs decide.
    Free,
    /// Those from this index to the other, both included.
    By(usize, usize),
}

/// ONNX's operators whose time follows from the shapes of their inputs, in alphabetical order.
const SHAPED: [&str; 127] = [
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Det",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "EyeLike",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "RNN",
    "Reciprocal",
    "Relu",
    "ReverseSequence",
    "RotaryEmbedding",
    "Round",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Transpose",
    "Trilu",
    "Where",
    "Xor",
];

/// The inputs that must be known for an operator of ONNX to be safe; `None` if it never is.
fn shaped(domain: &str, op: &str) -> Option<Shaped> {
    use Shaped::{By, Free};
    const ALL: usize = usize::MAX;
    Some(match domain {
        "" | "ai.onnx" => match op {
            op if SHAPED.binary_search(&op).is_ok() => Free,
            "CenterCropPad" | "Expand" | "OneHot" | "ReduceL1" | "ReduceL2" | "ReduceLogSum"
            | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd"
            | "ReduceSum" | "ReduceSumSquare" | "Reshape" | "Split" | "Squeeze" | "TopK"
            | "Unsqueeze" | "Upsample" => By(1, 1),
            "Pad" | "Resize" | "Slice" | "Tile" => By(1, ALL),
            // These are safe on constants and shapes, as exporters use them.
            "Compress" | "ConstantOfShape" | "NonZero" | "Range" => By(0, ALL),
            _ => return None,
        },
        "ai.onnx.ml" => match op {
            "ArrayFeatureExtractor"
            | "Binarizer"
            | "FeatureVectorizer"
            | "Imputer"
            | "LabelEncoder"
            | "LinearClassifier"
            | "LinearRegressor"
            | "Normalizer"
            | "OneHotEncoder"
            | "SVMClassifier"
            | "SVMRegressor"
            | "Scaler"
            | "TreeEnsemble"
            | "TreeEnsembleClassifier"
            | "TreeEnsembleRegressor"
            | "ZipMap" => Free,
            _ => return None,
        },
        _ => return None,
    })
}

/// The property that the time of a run depends on, for a graph with these operators. `known` are the names that have a
/// value already: the initializers.
pub(crate) fn cost(nodes: &[Node], known: HashSet<String>, functions: &[Function]) -> Cost {
    let mut walk = Walk {
        functions: functions
            .iter()
            .map(|function| ((function.domain.as_str(), function.name.as_str()), function))
            .collect(),
        steps: 0,
    };
    match walk.nodes(nodes, known, MAX_FUNCTION_DEPTH) {
        Ok(_) => Cost::Shapes,
        Err(reason) => Cost::Values(reason),
    }
}

/// The inputs that decide the output's shape of an operator that [`shaped`] does not have. `None` if no input does, or
/// if the operator is unknown.
fn shaped_at_run_time(node: &Node) -> Option<(usize, usize)> {
    const ALL: usize = usize::MAX;
    if !matches!(node.domain.as_str(), "" | "ai.onnx") {
        return None;
    }
    Some(match node.op.as_str() {
        "AffineGrid" => (1, 1),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => (0, 0),
        "Col2Im" | "DFT" => (1, 2),
        "MaxUnpool" => (2, 2),
        "MelWeightMatrix" => (0, 1),
        "NonMaxSuppression" | "StringNormalizer" | "StringSplit" | "Unique" => (0, ALL),
        "STFT" => (1, 3),
        op if op.contains("Sequence") || op.starts_with("Optional") => (0, ALL),
        _ => return None,
    })
}

/// The values whose shapes follow from values that callers send, and not from shapes alone. A run with made-up values
/// proves nothing about these shapes. `known` are the names of the initializers.
pub(crate) fn open_shapes<'n>(
    nodes: &'n [Node],
    known: &'n HashSet<String>,
    functions: &[Function],
) -> HashSet<&'n str> {
    let mut known: HashSet<&str> = known.iter().map(String::as_str).collect();
    let mut open: HashSet<&str> = HashSet::new();
    let decides = |node: &Node| match shaped(&node.domain, &node.op) {
        Some(Shaped::By(from, to)) => Some((from, to)),
        Some(Shaped::Free) => None,
        None => shaped_at_run_time(node),
    };
    for node in nodes {
        let is_known = |name: &String| name.is_empty() || known.contains(name.as_str());
        let function = (functions.iter())
            .find(|function| function.domain == node.domain && function.name == node.op);
        let deciding = match function {
            Some(function) => (function.nodes.iter().any(|node| decides(node).is_some()))
                .then_some((0, usize::MAX)),
            None => decides(node),
        };
        // Inner graphs use values of the outer one that are no inputs of the operator.
        let decided = node.has_graphs
            || deciding.is_some_and(|(from, to)| {
                let mut inputs = node.inputs.iter().enumerate();
                inputs.any(|(index, name)| (from..=to).contains(&index) && !is_known(name))
            });
        let follows = node.inputs.iter().any(|name| open.contains(name.as_str()));
        let measures = matches!(node.op.as_str(), "Shape" | "Size") && node.domain.is_empty();
        let outputs = (node.outputs.iter()).filter(|name| !name.is_empty());
        if decided || follows {
            open.extend(outputs.map(String::as_str));
        } else if measures || node.inputs.iter().all(is_known) {
            known.extend(outputs.map(String::as_str));
        }
    }
    open
}

struct Walk<'a> {
    functions: HashMap<(&'a str, &'a str), &'a Function>,
    steps: usize,
}

impl Walk<'_> {
    /// Goes through operators in their order; returns the names of all known values.
    fn nodes(
        &mut self,
        nodes: &[Node],
        mut known: HashSet<String>,
        depth: usize,
    ) -> Result<HashSet<String>, String> {
        for node in nodes {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(format!("the graph has more than {MAX_STEPS} operators"));
            }
            let is_known: Vec<bool> = (node.inputs.iter())
                .map(|name| name.is_empty() || known.contains(name))
                .collect();
            let named = node.outputs.iter().filter(|name| !name.is_empty());
            let called = (node.domain.as_str(), node.op.as_str());
            if let Some(function) = self.functions.get(&called).copied() {
                let given = self.call(function, &is_known, depth)?;
                let known_outputs = named.zip(given).filter(|(_, is_known)| *is_known);
                known.extend(known_outputs.map(|(name, _)| name.clone()));
                continue;
            }
            let unsafe_here = |why: &str| {
                let shown: String = node.op.chars().take(MAX_SHOWN_CHARS).collect();
                Err(format!("operator {shown} {why}"))
            };
            if node.has_graphs {
                return unsafe_here("decides at run time what else is run");
            }
            match shaped(&node.domain, &node.op) {
                None => return unsafe_here("is not among those whose time follows from shapes"),
                Some(Shaped::By(from, to)) => {
                    let mut deciding = is_known
                        .iter()
                        .skip(from)
                        .take(to.saturating_sub(from).saturating_add(1));
                    if deciding.any(|is_known| !is_known) {
                        return unsafe_here("has a size that is computed from values");
                    }
                }
                Some(Shaped::Free) => {}
            }
            let measures = matches!(node.op.as_str(), "Shape" | "Size")
                && matches!(node.domain.as_str(), "" | "ai.onnx");
            if measures || is_known.iter().all(|is_known| *is_known) {
                known.extend(named.cloned());
            }
        }
        Ok(known)
    }

    /// A call of a function of the file; returns which of its outputs are known.
    fn call(
        &mut self,
        function: &Function,
        arguments: &[bool],
        depth: usize,
    ) -> Result<Vec<bool>, String> {
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| "the graph's functions are nested too deep".to_owned())?;
        let given = function.inputs.iter().enumerate();
        let known = given
            // An input that a call leaves out has no value, like an input with an empty name.
            .filter(|(index, _)| arguments.get(*index).is_none_or(|is_known| *is_known))
            .map(|(_, name)| name.clone())
            .collect();
        let known = self.nodes(&function.nodes, known, depth)?;
        Ok((function.outputs.iter())
            .map(|name| known.contains(name))
            .collect())
    }
}

/// The most of an operator's name that a reason repeats.
const MAX_SHOWN_CHARS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_are_in_the_order_in_which_they_are_searched() {
        assert!(SHAPED.is_sorted());
    }

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Node {
            op: op.to_owned(),
            inputs: own(inputs),
            outputs: own(outputs),
            ..Node::default()
        }
    }

    /// `x` is the graph's input, `c` an initializer.
    fn judged(nodes: &[Node]) -> Cost {
        cost(nodes, HashSet::from(["c".to_owned()]), &[])
    }

    fn of_values(cost: Cost, word: &str) {
        match cost {
            Cost::Values(reason) => assert!(reason.contains(word), "{reason}"),
            other => panic!("{word}: {other:?}"),
        }
    }

    #[test]
    fn plain_layers_cost_what_their_shapes_say() {
        let layers = [
            node("MatMul", &["x", "c"], &["a"]),
            node("Add", &["a", "c"], &["b"]),
            node("Relu", &["b"], &["d"]),
            node("Softmax", &["d"], &["y"]),
        ];
        assert_eq!(judged(&layers), Cost::Shapes);
        let forest = Node {
            domain: "ai.onnx.ml".into(),
            ..node("TreeEnsembleClassifier", &["x"], &["label", "p"])
        };
        assert_eq!(judged(&[forest]), Cost::Shapes);
    }

    #[test]
    fn shapes_that_follow_from_values_are_open_and_so_are_those_behind_them() {
        let open = |nodes: &[Node]| {
            let known = HashSet::from(["c".to_owned()]);
            open_shapes(nodes, &known, &[]).contains("y")
        };
        assert!(open(&[node("Slice", &["x", "s", "c"], &["y"])]));
        assert!(open(&[node("Reshape", &["x", "s"], &["y"])]));
        assert!(open(&[node("NonZero", &["x"], &["y"])]));
        assert!(open(&[
            node("HannWindow", &["x"], &["a"]),
            node("Mul", &["a", "c"], &["y"]),
        ]));
        assert!(open(&[
            node("Unique", &["x"], &["a"]),
            node("Shape", &["a"], &["b"]),
            node("Expand", &["c", "b"], &["y"]),
        ]));
        // Lengths that are constants, or that follow from lengths.
        assert!(!open(&[node("Slice", &["x", "c", "c"], &["y"])]));
        assert!(!open(&[
            node("Shape", &["x"], &["a"]),
            node("Reshape", &["x", "a"], &["y"]),
        ]));
        // CatBoost's and LightGBM's graphs, whose declarations are false.
        let forest = Node {
            domain: "ai.onnx.ml".into(),
            ..node("TreeEnsembleRegressor", &["x"], &["y"])
        };
        assert!(!open(&[forest]));
    }

    #[test]
    fn a_size_may_come_from_constants_and_shapes_and_not_from_values() {
        for (op, at) in [
            ("Reshape", 1),
            ("Expand", 1),
            ("Tile", 1),
            ("OneHot", 1),
            ("TopK", 1),
            ("Squeeze", 1),
            ("Unsqueeze", 1),
            ("ReduceMean", 1),
            ("Split", 1),
            ("Pad", 1),
            ("Slice", 2),
            ("Resize", 3),
            ("ConstantOfShape", 0),
            ("Range", 1),
            ("NonZero", 0),
            ("Compress", 1),
        ] {
            let with = |name: &str| {
                let mut inputs = vec!["c"; at + 1];
                inputs[at] = name;
                let measured = [
                    node("Shape", &["x"], &["s"]),
                    node("Gather", &["s", "c"], &["d"]),
                    node("Concat", &["d", "c"], &["size"]),
                    node(op, &inputs, &["y"]),
                ];
                judged(&measured)
            };
            assert_eq!(with("c"), Cost::Shapes, "{op} of a constant");
            assert_eq!(with("size"), Cost::Shapes, "{op} of a shape");
            assert_eq!(with(""), Cost::Shapes, "{op} without it");
            of_values(with("x"), op);
        }
    }

    #[test]
    fn a_value_that_was_only_computed_from_data_is_data() {
        let nodes = [
            node("Cast", &["x"], &["n"]),
            node("Add", &["n", "c"], &["m"]),
            node("Expand", &["c", "m"], &["y"]),
        ];
        of_values(judged(&nodes), "Expand");
        let unordered = [
            node("Expand", &["x", "later"], &["y"]),
            node("Identity", &["c"], &["later"]),
        ];
        of_values(judged(&unordered), "Expand");
    }

    #[test]
    fn control_flow_chance_text_and_everything_unknown_are_never_safe() {
        for op in [
            "If",
            "Loop",
            "Scan",
            "RandomNormal",
            "RandomUniformLike",
            "Multinomial",
            "Bernoulli",
            "SequenceAt",
            "SplitToSequence",
            "SequenceMap",
            "Unique",
            "NonMaxSuppression",
            "StringSplit",
            "StringNormalizer",
            "RegexFullMatch",
            "TfIdfVectorizer",
            "RoiAlign",
            "MaxRoiPool",
            "OfTomorrow",
            "",
        ] {
            of_values(judged(&[node(op, &["c"], &["y"])]), op);
        }
        let foreign = Node {
            domain: "com.example".into(),
            ..node("Relu", &["x"], &["y"])
        };
        of_values(judged(&[foreign]), "Relu");
        let nested = Node {
            has_graphs: true,
            ..node("Relu", &["x"], &["y"])
        };
        of_values(judged(&[nested]), "Relu");
    }

    #[test]
    fn a_function_of_the_file_is_judged_by_its_body_and_by_what_it_is_given() {
        let own = |op: &str, inputs: &[&str], outputs: &[&str]| Node {
            domain: "own".into(),
            ..node(op, inputs, outputs)
        };
        let grow = Function {
            domain: "own".into(),
            name: "Grow".into(),
            inputs: vec!["a".into(), "size".into()],
            outputs: vec!["b".into()],
            nodes: vec![node("Expand", &["a", "size"], &["b"])],
            opset: None,
        };
        let judged = |nodes: &[Node], functions: &[Function]| {
            cost(nodes, HashSet::from(["c".to_owned()]), functions)
        };
        let functions = std::slice::from_ref(&grow);
        let safe = judged(&[own("Grow", &["x", "c"], &["y"])], functions);
        assert_eq!(safe, Cost::Shapes);
        of_values(
            judged(&[own("Grow", &["c", "x"], &["y"])], functions),
            "Expand",
        );
        // Known inputs give known outputs.
        let twice = [
            own("Grow", &["c", "c"], &["d"]),
            own("Grow", &["x", "d"], &["y"]),
        ];
        assert_eq!(judged(&twice, functions), Cost::Shapes);
        // A function may stand in for an operator of ONNX; its body counts then.
        let relu = Function {
            domain: String::new(),
            name: "Relu".into(),
            inputs: vec!["a".into()],
            outputs: vec!["b".into()],
            nodes: vec![node("Loop", &["a"], &["b"])],
            opset: None,
        };
        of_values(judged(&[node("Relu", &["x"], &["y"])], &[relu]), "Loop");
    }

    #[test]
    fn functions_without_end_are_not_followed_without_end() {
        let call =
            |name: &str, times: usize| -> Vec<Node> { vec![node(name, &["a"], &["b"]); times] };
        let function = |name: &str, nodes: Vec<Node>| Function {
            domain: String::new(),
            name: name.into(),
            inputs: vec!["a".into()],
            outputs: vec!["b".into()],
            nodes,
            opset: None,
        };
        let itself = function("F", call("F", 1));
        of_values(cost(&call("F", 1), HashSet::new(), &[itself]), "too deep");
        let wide: Vec<Function> = (0..12)
            .map(|level| function(&format!("F{level}"), call(&format!("F{}", level + 1), 9)))
            .chain([function("F12", call("Relu", 1))])
            .collect();
        of_values(cost(&call("F0", 1), HashSet::new(), &wide), "more than");
    }
}
