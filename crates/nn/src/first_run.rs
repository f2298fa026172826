//! The runs before a model serves: with the contract's samples, or else with made-up inputs.
//!
//! A model need not accept every input that its contract allows: an input may be a shape, an index or a divisor, and a
//! convolution needs a least length. So several inputs are made up and tried in turn until one runs. [`tries`] decides
//! which ones and in which order, without running anything. [`find`] runs them through a function that it is given.
//!
//! Both have bounds: [`MAX_TRIES`], [`MAX_TRY_BYTES`], and [`TIME_FOR_TRIES`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use penstock_tensor::Tensor;
use penstock_tensor::contract::{Contract, Dim as Axis, FirstRun, Sample, TensorSpec};

use crate::backend::cost::{Attribute, Node};
use crate::backend::{Graph, SAME_VALUES};
use crate::contract_check::{self, Fill, SHARE};
use crate::error::{EngineRefusal, ErrorCode, NnError};
use crate::layout::{CONTRACT_FILE, SAMPLE_FILE};
use crate::tensor::NnTensor;

/// Most inputs that are made up for one model.
pub const MAX_TRIES: usize = 24;

/// The largest tensor of a try after the first. Only the first has exactly the contract's size. Activations take many
/// times their input, and a try must not fill memory.
const MAX_TRY_BYTES: usize = 16 << 20;

/// After this time no further try begins. Tries that fail do so at once in most graphs, because shapes and indices are
/// checked early.
pub const TIME_FOR_TRIES: Duration = Duration::from_secs(15);

/// Lengths that are tried for symbolic axes if the least length does not run: powers of two up to the size of an image,
/// the usual side of an image, and a second of sound at 16 kHz.
const LENGTHS: [u64; 11] = [2, 4, 8, 16, 32, 64, 128, 224, 512, 4096, 16_000];

/// Most different causes that a message repeats.
const MAX_CAUSES: usize = 3;

/// Named tensors, as a call has them.
pub type Inputs = Vec<(String, NnTensor)>;

/// An input that is made up.
#[derive(Debug)]
pub struct Try {
    /// A description, for the message.
    pub what: String,
    /// The input, or why it cannot be made.
    pub inputs: Result<Inputs, NnError>,
}

/// The way an operator uses one of its inputs, if it does not accept every value.
#[derive(Debug, Clone, PartialEq)]
enum Use {
    /// Any value that is 0.
    Zeros,
    /// Any value that is 1: repeats, scales, steps, divisors, counts.
    Ones,
    /// 1 in every try: integers divided by 0 end some runtimes.
    Divisor,
    /// The value 2 in every element.
    Twos,
    /// The values 0, 1, 2, …, for axes.
    Ramp,
    /// The shape of the operator's input 0.
    Shape,
    /// A shape for as many elements as the operator's input 0 has.
    Reshape,
    /// Parts that the operator's input 0 is cut into along this axis, or along its last.
    Parts(i64),
    /// The length of the first axis of the operator's input 0, then these numbers.
    FirstLength(&'static [f64]),
    /// The lengths of an image of which the operator's input 0 has the blocks: as many as its last axis is long.
    Blocks(Window),
    /// The shape of which a pooling operator made the operator's input 0.
    Unpooled(Window),
    /// The numbers of a fixed list that the operator needs, repeated.
    Of(&'static [f64]),
}

/// The attributes of an operator that slides a window; an empty list stands for the default.
#[derive(Debug, Clone, Default, PartialEq)]
struct Window {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    pads: Vec<i64>,
}

impl Window {
    fn of(node: &Node) -> Self {
        let list = |name: &str| match node.attributes.get(name) {
            Some(Attribute::Ints(list)) => list.clone(),
            _ => Vec::new(),
        };
        Self {
            kernel: list("kernel_shape"),
            strides: list("strides"),
            pads: list("pads"),
        }
    }

    fn stride(&self, axis: usize) -> f64 {
        self.strides.get(axis).map_or(1.0, |stride| *stride as f64)
    }

    /// The padding before and behind an axis, together.
    fn padding(&self, axis: usize) -> f64 {
        let behind = axis + self.pads.len() / 2;
        let at = |index| self.pads.get(index).map_or(0.0, |pad: &i64| *pad as f64);
        at(axis) + at(behind)
    }
}

/// The way an operator uses its input number `index`, by the ONNX specification. `None` if any value will do, or if
/// nothing is known.
fn use_of(node: &Node, index: usize) -> Option<Use> {
    let operator = node.op.as_str();
    Some(match (operator, index) {
        ("Reshape", 1) => Use::Reshape,
        ("Expand" | "ConstantOfShape" | "Tile" | "TopK" | "Loop", 0 | 1)
            if (operator == "ConstantOfShape" || operator == "Loop") == (index == 0) =>
        {
            Use::Ones
        }
        ("Upsample", 1) | ("Resize", 2) => Use::Ones,
        ("Resize", 3) | ("CenterCropPad", 1) => Use::Shape,
        ("Slice", 1) | ("Pad", 1) => Use::Zeros,
        ("Slice", 2 | 4) => Use::Ones,
        ("Slice" | "Pad", 3) => Use::Ramp,
        ("Unsqueeze" | "Squeeze", 1) => Use::Ramp,
        (
            "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
            | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare",
            1,
        ) => Use::Ramp,
        (
            "Gather" | "GatherElements" | "GatherND" | "ScatterElements" | "ScatterND" | "Scatter",
            1,
        ) => Use::Zeros,
        ("CumSum" | "Trilu", 1) | ("OneHot", 0) => Use::Zeros,
        ("OneHot", 1) => Use::Twos,
        ("Split" | "SplitToSequence", 1) => Use::Parts(match node.attributes.get("axis") {
            Some(Attribute::Int(axis)) => *axis,
            _ => 0,
        }),
        ("Range", 0) => Use::Zeros,
        ("Range", 1) => Use::Of(&[4.0]),
        ("Range", 2) => Use::Ones,
        ("Div" | "Mod", 1) => Use::Divisor,
        ("Clip", 2) | ("BatchNormalization", 4) => Use::Ones,
        ("Clip", 1) => Use::Zeros,
        ("NonMaxSuppression", 2) => Use::Ones,
        ("AffineGrid", 1) => Use::FirstLength(&[1.0, 2.0, 2.0, 2.0]),
        ("Col2Im", 1) => Use::Blocks(Window::of(node)),
        ("Col2Im", 2) => Use::Ones,
        ("MaxUnpool", 2) => Use::Unpooled(Window::of(node)),
        ("HannWindow" | "HammingWindow" | "BlackmanWindow", 0) => Use::Of(&[8.0]),
        ("DFT", 1) => Use::Of(&[4.0]),
        ("DFT", 2) => Use::Ones,
        ("STFT", 1) => Use::Of(&[4.0]),
        ("STFT", 3) => Use::Of(&[8.0]),
        ("MelWeightMatrix", 0) => Use::Of(&[8.0]),
        ("MelWeightMatrix", 1) => Use::Of(&[16.0]),
        ("MelWeightMatrix", 2) => Use::Of(&[8192.0]),
        ("MelWeightMatrix", 3) => Use::Zeros,
        ("MelWeightMatrix", 4) => Use::Of(&[4096.0]),
        ("QuantizeLinear" | "DequantizeLinear", 1) => Use::Ones,
        ("SequenceAt" | "SequenceErase", 1) | ("SequenceInsert", 2) => Use::Zeros,
        _ => return None,
    })
}

/// The ways that a graph uses each input, followed through operators that pass it on.
fn uses(graph: &Graph, contract: &Contract) -> BTreeMap<String, (Use, Option<String>)> {
    // The names under which each input's values go.
    let mut named: BTreeMap<&str, &str> = (contract.inputs.iter())
        .map(|spec| (spec.name.as_str(), spec.name.as_str()))
        .collect();
    let mut uses = BTreeMap::new();
    for node in graph.nodes() {
        for (index, name) in node.inputs.iter().enumerate() {
            let Some(input) = named.get(name.as_str()) else {
                continue;
            };
            if let Some(used) = use_of(node, index).filter(|_| node.domain.is_empty()) {
                let data = node
                    .inputs
                    .first()
                    .and_then(|name| named.get(name.as_str()));
                uses.entry((*input).to_owned())
                    .or_insert((used, data.map(|data| (*data).to_owned())));
            }
        }
        if SAME_VALUES.contains(&&*node.op)
            && let (Some(from), Some(to)) = (node.inputs.first(), node.outputs.first())
            && let Some(input) = named.get(from.as_str()).copied()
        {
            named.insert(to, input);
        }
    }
    uses
}

/// Names that inputs have whose values are a shape, or a count, in graphs whose operators are not known.
const SHAPE_NAMES: [&str; 4] = ["shape", "size", "sizes", "dims"];

/// The made-up inputs, in the order in which they are tried; at most [`MAX_TRIES`]. `graph` is `None` if its operators
/// are not known.
pub fn tries(contract: &Contract, graph: Option<&Graph>) -> impl Iterator<Item = Try> {
    let mut plans: Vec<Plan> = Vec::new();
    let uses = graph.map(|graph| uses(graph, contract)).unwrap_or_default();
    let plan = |what: &str, values, lengths| Plan {
        what: what.to_owned(),
        values,
        lengths,
    };
    // An operator may not accept every value: a division by zero among integers ends some runtimes. So suitable values
    // come first, if they are known.
    if !uses.is_empty() {
        plans.push(plan(
            "values that suit the operators which read them",
            Values::Suit,
            Lengths::Least,
        ));
        if uses.values().any(|(used, _)| matches!(used, Use::Parts(_))) {
            plans.push(plan(
                "parts of the last axis",
                Values::SuitLast,
                Lengths::Least,
            ));
        }
    } else if (contract.inputs.iter()).any(|spec| SHAPE_NAMES.contains(&&*spec.name.to_lowercase()))
    {
        plans.push(plan(
            "the shape of the first input where a name says so",
            Values::Named,
            Lengths::Least,
        ));
    }
    plans.push(plan(
        "the least values at the least lengths",
        Values::Least,
        Lengths::Least,
    ));
    plans.push(plan("ones", Values::Ones, Lengths::Least));
    if contract.inputs.iter().any(TensorSpec::has_range) {
        plans.push(plan(
            "the middle of each range",
            Values::Middle,
            Lengths::Least,
        ));
    }
    plans.push(plan(
        "0, 1, 2, … along each input",
        Values::Ramp,
        Lengths::Least,
    ));
    plans.push(plan("random values", Values::Random, Lengths::Least));
    let symbols: BTreeSet<&str> = (contract.inputs.iter().flat_map(|spec| &spec.shape))
        .filter_map(|axis| match axis {
            Axis::Symbol(symbol) => Some(symbol.as_str()),
            Axis::Fixed(_) => None,
        })
        .collect();
    let batch = contract.batch_axis();
    let open = symbols.iter().any(|symbol| Some(*symbol) != batch);
    let values = if uses.is_empty() {
        Values::Ones
    } else {
        Values::Suit
    };
    if open {
        for length in LENGTHS {
            plans.push(plan(
                &format!("length {length}"),
                values,
                Lengths::All {
                    length,
                    batch: false,
                },
            ));
        }
    }
    if !symbols.is_empty() {
        for length in [2, 8] {
            let what = format!("length {length}, also of the first axis");
            plans.push(plan(
                &what,
                values,
                Lengths::All {
                    length,
                    batch: true,
                },
            ));
        }
    }
    plans.truncate(MAX_TRIES);
    plans.into_iter().enumerate().map(move |(index, plan)| Try {
        inputs: plan.inputs(contract, &uses, index == 0),
        what: plan.what,
    })
}

/// The plan of one try.
struct Plan {
    what: String,
    values: Values,
    lengths: Lengths,
}

#[derive(Clone, Copy, PartialEq)]
enum Values {
    Least,
    Suit,
    SuitLast,
    Named,
    Ones,
    Middle,
    Ramp,
    Random,
}

#[derive(Clone, Copy)]
enum Lengths {
    Least,
    All { length: u64, batch: bool },
}

impl Plan {
    fn inputs(
        &self,
        contract: &Contract,
        uses: &BTreeMap<String, (Use, Option<String>)>,
        is_first: bool,
    ) -> Result<Inputs, NnError> {
        let batch_axis = contract.batch_axis();
        let length = |symbol: &str| {
            let bounds = contract.axes.get(symbol);
            let least = bounds.map_or(1, |bounds| bounds.min);
            let most = bounds.and_then(|bounds| bounds.max).unwrap_or(u64::MAX);
            match self.lengths {
                Lengths::All { length, batch } if batch || Some(symbol) != batch_axis => {
                    length.clamp(least, most)
                }
                _ => least,
            }
        };
        let shape_of = |name: &str| -> Vec<u64> {
            let spec = contract.input(name);
            let axes = spec.into_iter().flat_map(|spec| &spec.shape);
            axes.map(|axis| match axis {
                Axis::Fixed(length) => *length,
                Axis::Symbol(symbol) => length(symbol),
            })
            .collect()
        };
        let most = if is_first {
            contract_check::MAX_EXAMPLE_BYTES
        } else {
            MAX_TRY_BYTES
        };
        (contract.inputs.iter().enumerate())
            .map(|(index, spec)| {
                let suited = match self.values {
                    _ if matches!(uses.get(&spec.name), Some((Use::Divisor, _))) => Some(vec![1.0]),
                    Values::Suit | Values::SuitLast => uses.get(&spec.name).map(|(used, data)| {
                        let data = data.as_deref().map(&shape_of);
                        suited(used, data.as_deref(), self.values == Values::SuitLast)
                    }),
                    Values::Named if SHAPE_NAMES.contains(&&*spec.name.to_lowercase()) => {
                        contract.inputs.first().map(|first| {
                            shape_of(&first.name)
                                .iter()
                                .map(|dim| *dim as f64)
                                .collect()
                        })
                    }
                    _ => None,
                };
                let fill = match (suited, self.values) {
                    (Some(list), _) => Fill::List(list),
                    (None, Values::Ones) => Fill::Ones,
                    (None, Values::Suit | Values::SuitLast | Values::Named | Values::Least) => {
                        Fill::Least
                    }
                    (None, Values::Middle) => Fill::Middle,
                    (None, Values::Ramp) => Fill::Ramp,
                    (None, Values::Random) => Fill::Random(index as u64 + 1),
                };
                let tensor = contract_check::filled(contract, spec, &length, &fill, most)?;
                Ok((spec.name.clone(), tensor))
            })
            .collect()
    }
}

/// The values that suit a use. A list that is shorter than the tensor is repeated.
fn suited(used: &Use, data: Option<&[u64]>, last: bool) -> Vec<f64> {
    let shape = || {
        data.unwrap_or(&[1])
            .iter()
            .map(|dim| *dim as f64)
            .collect::<Vec<_>>()
    };
    match used {
        Use::Zeros => vec![0.0],
        Use::Ones | Use::Divisor => vec![1.0],
        Use::Twos => vec![2.0],
        Use::Ramp => (0..16).map(f64::from).collect(),
        Use::Of(list) => list.to_vec(),
        Use::Shape => shape(),
        Use::Reshape => {
            // All elements along the first axis, for any number of axes.
            let elements: f64 = shape().iter().product();
            let mut list = vec![1.0; contract_check::MAX_FILL_LIST];
            list[0] = elements;
            list
        }
        Use::Parts(axis) => {
            let shape = shape();
            let rank = i64::try_from(shape.len()).unwrap_or(i64::MAX);
            let axis = if *axis < 0 { axis + rank } else { *axis };
            let length = match last {
                true => shape.last(),
                false => usize::try_from(axis).ok().and_then(|axis| shape.get(axis)),
            };
            vec![length.copied().unwrap_or(1.0), SHARE]
        }
        Use::FirstLength(rest) => {
            let first = shape().first().copied().unwrap_or(1.0);
            [first].iter().chain(*rest).copied().collect()
        }
        Use::Blocks(window) => {
            // Blocks of one element: along all axes but the first, as few of them as the padding lets there be.
            let blocks = |axis| (window.padding(axis) / window.stride(axis)).floor() + 1.0;
            let axes = window.strides.len().max(window.pads.len() / 2);
            let others: f64 = (1..axes).map(blocks).product();
            let first = shape().last().copied().unwrap_or(1.0) / others;
            let mut list = vec![1.0; contract_check::MAX_FILL_LIST];
            list[0] = (first - 1.0) * window.stride(0) + 1.0 - window.padding(0);
            list
        }
        Use::Unpooled(window) => {
            let length = |(axis, length): (usize, f64)| match axis.checked_sub(2) {
                Some(axis) => {
                    let kernel = window.kernel.get(axis).map_or(1.0, |kernel| *kernel as f64);
                    (length - 1.0) * window.stride(axis) + kernel - window.padding(axis)
                }
                None => length,
            };
            shape().into_iter().enumerate().map(length).collect()
        }
    }
}

/// Runs a contract's samples, or the inputs of [`tries`] until one runs. `elapsed` is the time since it began.
///
/// # Errors
///
/// When a sample fails, or every try does; the message names the tries, the reason and the remedy.
pub fn find(
    contract: &Contract,
    version: u64,
    sample_file: Option<Sample>,
    graph: Option<&Graph>,
    mut elapsed: impl FnMut() -> Duration,
    mut run: impl FnMut(Inputs) -> Result<(), NnError>,
) -> Result<(), NnError> {
    if contract.engine.first_run == FirstRun::Skip {
        return Ok(());
    }
    let given = (contract.samples.iter().enumerate())
        .map(|(index, sample)| (format!("sample {} of {CONTRACT_FILE}", index + 1), sample))
        .chain(
            sample_file
                .iter()
                .map(|sample| (SAMPLE_FILE.to_owned(), sample)),
        );
    let mut has_samples = false;
    for (name, sample) in given {
        has_samples = true;
        run(tensors(sample)?).map_err(|error| {
            let remedy = match remedy(&error) {
                Some(remedy) => remedy.to_owned(),
                None => "correct the sample or the graph".into(),
            };
            let text = format!(
                "version {version} fails its first run, on {name}: {}; {remedy}",
                error.message
            );
            NnError::new(error.code, text)
        })?;
    }
    if has_samples {
        return Ok(());
    }
    let mut failed = Failures::default();
    for one in tries(contract, graph) {
        let outcome = one.inputs.and_then(&mut run);
        let Err(error) = outcome else { return Ok(()) };
        let ends = ends_tries(&error);
        failed.add(one.what, error);
        if ends || elapsed() >= TIME_FOR_TRIES {
            break;
        }
    }
    Err(failed.error(version))
}

/// Returns whether other inputs would make no difference.
fn ends_tries(error: &NnError) -> bool {
    // After an input that ended the runtime's process, no other is tried.
    matches!(
        error.code,
        ErrorCode::Timeout | ErrorCode::Security | ErrorCode::NotFound
    ) || error.refusal == Some(EngineRefusal::Ended)
        || error.message.contains("given up")
        || error.message.contains("does not implement")
}

/// The tries, grouped by their result.
#[derive(Default)]
struct Failures(Vec<(Vec<String>, NnError)>);

impl Failures {
    fn add(&mut self, what: String, error: NnError) {
        match self
            .0
            .iter_mut()
            .find(|(_, known)| known.message == error.message)
        {
            Some((tried, _)) => tried.push(what),
            None => self.0.push((vec![what], error)),
        }
    }

    fn error(self, version: u64) -> NnError {
        let tries: usize = self.0.iter().map(|(tried, _)| tried.len()).sum();
        let Some((_, first)) = self.0.first() else {
            return NnError::runtime(format!("version {version} could not be tried"));
        };
        let code = first.code;
        let remedy = (self.0.iter().all(|(_, error)| remedy(error).is_some()))
            .then(|| remedy(first))
            .flatten()
            .unwrap_or(
                "give an input that it takes, in [[samples]] of model.toml or in sample.json beside it; or write the \
                 ranges of values and the least lengths of axes that it needs; or serve it untried with first_run = \
                 \"skip\" under [engine]",
            );
        let many = self.0.len();
        let causes: Vec<String> = (self.0.into_iter().take(MAX_CAUSES))
            .map(|(tried, error)| format!("with {}: {}", shortened(&tried), error.message))
            .collect();
        let more = match many.saturating_sub(MAX_CAUSES) {
            0 => String::new(),
            more => format!("; and {more} other causes"),
        };
        let inputs = if tries == 1 {
            "made-up input"
        } else {
            "made-up inputs"
        };
        NnError::new(
            code,
            format!(
                "version {version} fails its first run, on {tries} {inputs}: {}{more}; {remedy}",
                causes.join("; ")
            ),
        )
    }
}

/// A few of the tries that had the same outcome.
fn shortened(tried: &[String]) -> String {
    match tried {
        [first, second, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second} and {} others", rest.len())
        }
        tried => tried.join(" and "),
    }
}

/// The remedy for a failure that no other input can avoid; `None` if another input may.
fn remedy(error: &NnError) -> Option<&'static str> {
    match error.code {
        ErrorCode::TooLarge => Some("or write smaller least lengths of axes in model.toml"),
        ErrorCode::UnsupportedOperation => {
            Some("choose another backend in model.toml, or export the graph without that operator")
        }
        ErrorCode::Timeout => Some("the model may be too slow for this machine"),
        ErrorCode::NotFound | ErrorCode::Security | ErrorCode::InvalidEncoding => {
            Some("correct the graph")
        }
        _ if error.message.contains("given up") => {
            Some("correct the graph, or raise models.load_timeout_ms")
        }
        _ => None,
    }
}

/// A sample as the engine takes it.
pub(crate) fn tensors(sample: &[Tensor]) -> Result<Inputs, NnError> {
    sample
        .iter()
        .map(|tensor| {
            let ty = contract_check::tensor_type(tensor.datatype);
            let dims = (tensor.shape.iter())
                .map(|dim| {
                    u32::try_from(*dim)
                        .map_err(|_| NnError::too_large("a sample has an axis beyond 2^32"))
                })
                .collect::<Result<Vec<u32>, _>>()?;
            Ok((
                tensor.name.clone(),
                NnTensor::new(ty, dims, tensor.data.to_vec())?,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, attributes: &[(&str, &[i64])]) -> Node {
        Node {
            op: op.into(),
            attributes: (attributes.iter())
                .map(|(name, list)| ((*name).into(), Attribute::Ints(list.to_vec())))
                .collect(),
            ..Node::default()
        }
    }

    fn made(node: &Node, index: usize, data: &[u64]) -> Vec<f64> {
        let used = use_of(node, index).expect("the operator is known");
        suited(&used, Some(data), false)
    }

    #[test]
    fn lengths_that_are_values_follow_from_the_operators_attributes_and_its_data() {
        let theta = [2, 2, 3];
        assert_eq!(made(&node("AffineGrid", &[]), 1, &theta)[..2], [2.0, 1.0]);
        let image = |attributes: &[(&str, &[i64])], blocks| {
            made(&node("Col2Im", attributes), 1, &[1, 5, blocks])[..2].to_vec()
        };
        assert_eq!(image(&[], 5), [5.0, 1.0]);
        // Three blocks fit along the second axis, which is 1 and has a column of padding on both sides.
        assert_eq!(image(&[("pads", &[0, 1, 0, 1])], 15), [5.0, 1.0]);
        assert_eq!(image(&[("strides", &[2, 2])], 4), [7.0, 1.0]);
        let pool = [("kernel_shape", &[2i64, 2][..]), ("strides", &[2, 2])];
        assert_eq!(
            made(&node("MaxUnpool", &pool), 2, &[1, 3, 2, 4]),
            [1.0, 3.0, 4.0, 8.0]
        );
    }

    #[test]
    fn parts_are_those_of_the_axis_that_is_cut() {
        let mut split = node("SplitToSequence", &[]);
        assert_eq!(made(&split, 1, &[3, 6]), [3.0, SHARE]);
        for (axis, length) in [(1, 6.0), (-1, 6.0), (-2, 3.0)] {
            (split.attributes).insert("axis".into(), Attribute::Int(axis));
            assert_eq!(made(&split, 1, &[3, 6]), [length, SHARE], "axis {axis}");
        }
    }
}
