//! Decides from a graph's operators whether the rows of a batch are independent: whether the answer to one item is the
//! same whichever other items are in the run. Pure.
//!
//! The walk follows each value and notes along which axis the items lie. Every input begins with the axis of items.
//! An operator that reduces, normalises, quantises, sorts or scans along that axis makes rows dependent, and so does a
//! reshape that takes the items apart. Operators that this list does not know do too: a wrong "independent" would hand
//! one caller's numbers to another, and a wrong "dependent" only costs speed.
//!
//! What is followed:
//!
//! - **Lengths** are products of numbers and names ([`Length`]). The number of items is one of the names. So a reshape
//!   from `[N,S,384]` to `[N*S,384]` and back keeps the items in their order, and one to `[S,N*384]` does not.
//! - **Small whole numbers** (shapes, axes, constants) are computed, because they say where an operator works. A value
//!   that contains the number of items may be a size, and must not be computed with as data.
//! - **A value that mixes items** carries the reason. Only a reason that reaches an output counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::rc::Rc;

use super::cost::{Attribute, Function, Initial, Node};
use super::port::{Dim, Port};

/// Whether the answer to an item depends on the other items of its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// It does not, by the graph's operators.
    Independent,
    /// It does, or nobody can tell; with the operator and the reason.
    Dependent(String),
}

impl Default for Rows {
    fn default() -> Self {
        Self::Dependent("its operators are not known".into())
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Independent => f.write_str("its rows do not depend on each other"),
            Self::Dependent(reason) => f.write_str(reason),
        }
    }
}

/// A graph, as far as the decision needs it.
pub(crate) struct Graph<'a> {
    pub nodes: &'a [Node],
    pub initials: HashMap<String, Initial>,
    pub functions: &'a [Function],
    /// The version of ONNX's own operators.
    pub opset: i64,
    pub inputs: &'a [Port],
    pub outputs: &'a [Port],
}

/// Most operators that are looked at; as in [`super::cost`].
const MAX_STEPS: usize = 1 << 18;
/// Most functions that may be inside one another.
const MAX_FUNCTION_DEPTH: usize = 16;
/// The most whole numbers of one value that are followed. Shapes and lists of axes have fewer.
pub(crate) const MAX_NUMBERS: usize = 64;
/// The most names in one product.
const MAX_NAMES: usize = 16;
/// The most of a name that a reason repeats.
const MAX_SHOWN_CHARS: usize = 60;

/// From this end on a slice takes all there is: exporters write such numbers, and no axis is as long.
const WHOLE_AXIS: i64 = 1_000_000_000;

/// The number of items, as a name in a [`Length`].
const ITEMS: u32 = 0;

/// A whole number: a factor times names of unknown lengths, each as often as it stands there, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Length {
    factor: i64,
    names: Vec<u32>,
}

impl Length {
    fn number(factor: i64) -> Self {
        Self {
            factor,
            names: Vec::new(),
        }
    }

    fn name(name: u32) -> Self {
        Self {
            factor: 1,
            names: vec![name],
        }
    }

    fn known(&self) -> Option<i64> {
        self.names.is_empty().then_some(self.factor)
    }

    fn is(&self, number: i64) -> bool {
        self.known() == Some(number)
    }

    fn times(&self, other: &Self) -> Option<Self> {
        let factor = self.factor.checked_mul(other.factor)?;
        if factor == 0 {
            return Some(Self::number(0));
        }
        let mut names = [&self.names[..], &other.names[..]].concat();
        names.sort_unstable();
        (names.len() <= MAX_NAMES).then_some(Self { factor, names })
    }

    /// The quotient, where there is one without a rest whatever the names stand for.
    fn over(&self, other: &Self) -> Option<Self> {
        if other.factor == 0 || self.factor % other.factor != 0 {
            return None;
        }
        let mut names = self.names.clone();
        for name in &other.names {
            let at = names.iter().position(|own| own == name)?;
            names.remove(at);
        }
        Some(Self {
            factor: self.factor / other.factor,
            names,
        })
    }

    fn product<'a>(lengths: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        (lengths.into_iter()).try_fold(Self::number(1), |product, length| product.times(length))
    }
}

/// Along which axis items lie. The axis may be longer than there are items: `outer` parts, each of all items, and of
/// each item as many elements as are left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Items {
    axis: usize,
    outer: Length,
}

impl Items {
    fn along(axis: usize) -> Self {
        Self {
            axis,
            outer: Length::number(1),
        }
    }

    fn moved(&self, axis: usize) -> Self {
        Self {
            axis,
            outer: self.outer.clone(),
        }
    }
}

/// A value whose rows do not depend on each other.
#[derive(Debug, Clone, Default)]
struct Value {
    /// The lengths of its axes; `None` where not even their number is known, which only constants may have.
    dims: Option<Vec<Length>>,
    /// Where the items are; `None` for a value that is the same whatever items are in the run.
    items: Option<Items>,
    /// Its elements in order, where it is a whole number or a list of some.
    numbers: Option<Vec<Length>>,
    /// Whether it is a list of floating-point numbers that begins with 1, as scales of `Resize` do.
    begins_with_one: bool,
    /// Whether its elements say where in the run an item is.
    place: Place,
}

/// What the elements of a value have to do with the place of an item in its run. Exporters count the items to take each
/// item's row of another input; everything else that is computed of a place depends on the other items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    None,
    /// Each element is the place of its item.
    Index,
    /// The last axis holds coordinates, of which the first is the place of the item.
    First,
    /// Something else was computed of it. Its shape may still be asked for.
    Other,
}

/// Why a value is not one of those.
type Reason = Rc<str>;
type Followed = Result<Rc<Value>, Reason>;
/// What an operator's case says; the operator and the node are put before it.
type Case<T> = Result<T, String>;

fn no<T>(why: &str) -> Case<T> {
    Err(why.to_owned())
}

/// What is said of an operator that works along the axis of items.
const ALONG: &str = "works along the axis that counts the items of a run";
const UNKNOWN: &str = "is not among those whose rows are known to be independent";
const OF_PLACE: &str = "computes with the place of an item in its run";
const NO_RANK: &str = "has an input whose number of axes is not known";

/// Whether the rows of each of a graph's outputs are independent.
pub(crate) fn rows(graph: &Graph<'_>) -> BTreeMap<String, Rows> {
    let mut walk = Walk {
        functions: (graph.functions.iter())
            .map(|function| ((function.domain.as_str(), function.name.as_str()), function))
            .collect(),
        steps: 0,
        // The first is the number of items.
        of_items: vec![true],
        computed: HashSet::new(),
        made: HashMap::new(),
    };
    let mut names = HashMap::new();
    let mut values: HashMap<String, Followed> = (graph.initials.iter())
        .map(|(name, initial)| (name.clone(), Ok(Rc::new(Value::of(initial)))))
        .collect();
    for port in graph.inputs {
        values.insert(port.name.clone(), walk.input(port, &mut names));
    }
    let walked = walk.nodes(graph.nodes, values, graph.opset, MAX_FUNCTION_DEPTH);
    let judged = |port: &Port| match &walked {
        Err(reason) => Rows::Dependent(reason.clone()),
        Ok(values) => match values.get(&port.name) {
            None => Rows::Dependent(format!("nothing makes output {}", shown(&port.name))),
            Some(Err(reason)) => Rows::Dependent(reason.to_string()),
            Some(Ok(value)) if value.place != Place::None => Rows::Dependent(format!(
                "output {} follows from the place of an item in its run, which an operator Range counts",
                shown(&port.name)
            )),
            Some(Ok(value)) => {
                let first = value.dims.as_ref().and_then(|dims| dims.first());
                let one_each =
                    first == Some(&Length::name(ITEMS)) && value.items == Some(Items::along(0));
                match one_each {
                    true => Rows::Independent,
                    false => Rows::Dependent(format!(
                        "output {} does not have one row for each item",
                        shown(&port.name)
                    )),
                }
            }
        },
    };
    (graph.outputs.iter())
        .map(|port| (port.name.clone(), judged(port)))
        .collect()
}

fn shown(name: &str) -> String {
    let cut: String = name.chars().take(MAX_SHOWN_CHARS).collect();
    format!("{cut:?}")
}

impl Value {
    fn of(initial: &Initial) -> Self {
        let dims: Vec<Length> = (initial.dims.iter().copied()).map(Length::number).collect();
        let numbers = (initial.ints.as_ref())
            .filter(|ints| dims.len() <= 1 && ints.len() <= MAX_NUMBERS)
            .map(|ints| ints.iter().copied().map(Length::number).collect());
        let first = initial.floats.as_ref().and_then(|floats| floats.first());
        Self {
            dims: Some(dims),
            items: None,
            numbers,
            begins_with_one: first.is_some_and(|first| f32::from_bits(*first) == 1.0),
            place: Place::None,
        }
    }

    fn constant(dims: Option<Vec<Length>>) -> Self {
        Self {
            dims,
            ..Self::default()
        }
    }

    fn new(dims: Vec<Length>, items: Option<Items>) -> Self {
        Self {
            dims: Some(dims),
            items,
            ..Self::default()
        }
    }

    /// A whole number, or a list of some.
    fn numbers(numbers: Vec<Length>, is_list: bool) -> Self {
        let dims = match is_list {
            true => vec![Length::number(numbers.len() as i64)],
            false => Vec::new(),
        };
        Self {
            dims: Some(dims),
            numbers: Some(numbers),
            ..Self::default()
        }
    }

    fn dims(&self) -> Case<&[Length]> {
        self.dims.as_deref().ok_or_else(|| NO_RANK.to_owned())
    }

    fn rank(&self) -> Case<usize> {
        Ok(self.dims()?.len())
    }

    fn axis(&self) -> Option<usize> {
        self.items.as_ref().map(|items| items.axis)
    }

    /// The whole numbers, where all are known.
    fn known(&self) -> Option<Vec<i64>> {
        self.numbers.as_ref()?.iter().map(Length::known).collect()
    }

    /// One element, whatever its axes.
    fn is_single(&self) -> bool {
        (self.dims.as_ref()).is_some_and(|dims| dims.iter().all(|dim| dim.is(1)))
    }
}

/// An axis counted from the front.
fn from_front(axis: i64, rank: usize) -> Case<usize> {
    let from = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(from) {
        Ok(axis) if axis < rank => Ok(axis),
        _ => no("names an axis that its input does not have"),
    }
}

struct Walk<'a> {
    functions: HashMap<(&'a str, &'a str), &'a Function>,
    steps: usize,
    /// By name in a [`Length`]: whether it follows from the number of items.
    of_items: Vec<bool>,
    /// Names of numbers that were computed, which may be negative; all others are lengths of axes.
    computed: HashSet<u32>,
    /// Lengths that are no product, by how they were computed, so that the same gets the same name.
    made: HashMap<(&'static str, Length, Length), u32>,
}

/// One operator with what goes into it.
struct Call<'a> {
    node: &'a Node,
    /// `None` for an input that is left out.
    inputs: &'a [Option<Rc<Value>>],
    opset: i64,
}

impl Call<'_> {
    fn get(&self, index: usize) -> Option<&Value> {
        self.inputs.get(index)?.as_deref()
    }

    fn input(&self, index: usize) -> Case<&Value> {
        self.get(index)
            .ok_or_else(|| "lacks an input that it needs".to_owned())
    }

    fn given(&self) -> impl Iterator<Item = &Value> {
        self.inputs.iter().flatten().map(|value| &**value)
    }

    /// A whole number among the attributes.
    fn int(&self, name: &str, default: i64) -> Case<i64> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(format!("has an attribute {name} that cannot be read here")),
        }
    }

    /// A list among the attributes.
    fn ints(&self, name: &str) -> Case<Option<&[i64]>> {
        match self.node.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(format!("has an attribute {name} that cannot be read here")),
        }
    }

    fn text(&self, name: &str, default: &str) -> Case<String> {
        match self.node.attributes.get(name) {
            None => Ok(default.to_owned()),
            Some(Attribute::Text(text)) => Ok(text.clone()),
            Some(_) => Err(format!("has an attribute {name} that cannot be read here")),
        }
    }

    /// Axes from an input or from an attribute; `None` where neither is there.
    fn axes(&self, input: usize) -> Case<Option<Vec<i64>>> {
        if let Some(value) = self.get(input) {
            let known = value.known();
            return known
                .map(Some)
                .ok_or_else(|| "has axes that are computed".into());
        }
        Ok(self.ints("axes")?.map(<[i64]>::to_vec))
    }

    /// That these inputs are the same whatever items are in the run.
    fn constant(&self, from: usize) -> Case<()> {
        let mut rest = self.inputs.iter().skip(from).flatten();
        match rest.all(|value| value.items.is_none()) {
            true => Ok(()),
            false => no("takes items where it is known with constants only"),
        }
    }
}

impl Walk<'_> {
    /// A name for a length that nobody knows.
    fn unknown(&mut self, of_items: bool) -> Length {
        self.of_items.push(of_items);
        Length::name(self.of_items.len() as u32 - 1)
    }

    /// Whether a length follows from the number of items.
    fn has_items(&self, length: &Length) -> bool {
        (length.names.iter()).any(|name| self.of_items[*name as usize])
    }

    /// A length of so many parts a number of items: it has that as a factor, once.
    fn is_of_items(&self, length: &Length) -> bool {
        let of_items = |name: &&u32| self.of_items[**name as usize];
        let mut names = length.names.iter().filter(of_items);
        names.next() == Some(&ITEMS) && names.next().is_none() && length.factor > 0
    }

    fn counts_items(&self, value: &Value) -> bool {
        (value.numbers.iter().flatten()).any(|number| self.has_items(number))
    }

    fn input<'n>(&mut self, port: &'n Port, names: &mut HashMap<&'n str, u32>) -> Followed {
        let counts = match port.dims.as_deref() {
            Some([Dim::Symbolic(_), rest @ ..]) => rest,
            _ => {
                let text = format!(
                    "input {} does not begin with an axis of any length",
                    shown(&port.name)
                );
                return Err(text.into());
            }
        };
        let mut dims = vec![Length::name(ITEMS)];
        for dim in counts {
            dims.push(match dim {
                Dim::Fixed(length) => Length::number(i64::from(*length)),
                Dim::Symbolic(name) if name.is_empty() => self.unknown(false),
                Dim::Symbolic(name) => match names.get(name.as_str()) {
                    Some(known) => Length::name(*known),
                    None => {
                        let length = self.unknown(false);
                        names.insert(name, length.names[0]);
                        length
                    }
                },
            });
        }
        Ok(Rc::new(Value::new(dims, Some(Items::along(0)))))
    }

    /// Goes through operators in their order; returns all values.
    fn nodes(
        &mut self,
        nodes: &[Node],
        mut values: HashMap<String, Followed>,
        opset: i64,
        depth: usize,
    ) -> Result<HashMap<String, Followed>, String> {
        for node in nodes {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(format!("the graph has more than {MAX_STEPS} operators"));
            }
            let mut mixed = None;
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for name in &node.inputs {
                inputs.push(match values.get(name) {
                    _ if name.is_empty() => None,
                    Some(Ok(value)) => Some(value.clone()),
                    Some(Err(reason)) => {
                        mixed.get_or_insert_with(|| reason.clone());
                        None
                    }
                    None => {
                        let text = format!("nothing makes the value {}", shown(name));
                        mixed.get_or_insert_with(|| text.into());
                        None
                    }
                });
            }
            let called = (node.domain.as_str(), node.op.as_str());
            let results: Vec<Followed> = match (mixed, self.functions.get(&called).copied()) {
                (Some(reason), _) => vec![Err(reason); node.outputs.len()],
                (None, Some(function)) => self.call(function, &inputs, opset, depth)?,
                (None, None) => {
                    let call = Call {
                        node,
                        inputs: &inputs,
                        opset,
                    };
                    match self.operator(&call) {
                        Ok(outputs) => outputs.into_iter().map(|v| Ok(Rc::new(v))).collect(),
                        Err(why) => {
                            let op: String = node.op.chars().take(MAX_SHOWN_CHARS).collect();
                            let name = match node.name.is_empty() {
                                true => shown(node.outputs.first().map_or("", String::as_str)),
                                false => shown(&node.name),
                            };
                            let text = format!("operator {op} (node {name}) {why}");
                            vec![Err(text.into()); node.outputs.len()]
                        }
                    }
                }
            };
            for (index, name) in node.outputs.iter().enumerate() {
                if !name.is_empty() {
                    let none = || Err(format!("nothing makes the value {}", shown(name)).into());
                    values.insert(
                        name.clone(),
                        results.get(index).cloned().unwrap_or_else(none),
                    );
                }
            }
        }
        Ok(values)
    }

    /// A call of a function of the file.
    fn call(
        &mut self,
        function: &Function,
        arguments: &[Option<Rc<Value>>],
        opset: i64,
        depth: usize,
    ) -> Result<Vec<Followed>, String> {
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| "the graph's functions are too deep inside one another".to_owned())?;
        let given = function.inputs.iter().enumerate();
        let values = given
            .filter_map(|(index, name)| {
                let value = arguments.get(index)?.clone()?;
                Some((name.clone(), Ok(value)))
            })
            .collect();
        let opset = function.opset.unwrap_or(opset);
        let values = self.nodes(&function.nodes, values, opset, depth)?;
        let none = || Err("a function of the graph does not make its output".into());
        Ok((function.outputs.iter())
            .map(|name| values.get(name).cloned().unwrap_or_else(none))
            .collect())
    }

    fn operator(&mut self, call: &Call<'_>) -> Case<Vec<Value>> {
        let Node { op, domain, .. } = call.node;
        if call.node.has_graphs {
            return no("decides at run time what else is run");
        }
        let is_onnx = matches!(domain.as_str(), "" | "ai.onnx");
        if is_onnx && is_random(op) {
            return no("draws random numbers");
        }
        if is_onnx && let Some(value) = self.arithmetic(call)? {
            return Ok(vec![value]);
        }
        let places = call.given().any(|value| value.place != Place::None);
        if places && !(is_onnx && may_hold_places(op)) {
            return no(OF_PLACE);
        }
        let sizes = match (is_onnx, op.as_str()) {
            (true, "Reshape" | "Expand" | "Tile") => 1..2,
            (true, "ConstantOfShape") => 0..1,
            (true, "Slice" | "Pad" | "Resize" | "Upsample") => 1..5,
            (true, "Shape" | "Size") => 0..1,
            (true, "Range") => 1..2,
            _ => 0..0,
        };
        let data = call.inputs.iter().enumerate();
        let mut data = data.filter(|(index, _)| !sizes.contains(index));
        if data.any(|(_, value)| value.as_ref().is_some_and(|v| self.counts_items(v))) {
            return no("computes with the number of items in the run");
        }
        let judged = match domain.as_str() {
            "" | "ai.onnx" => self.onnx(call),
            "ai.onnx.ml" => self.classical(call),
            "com.microsoft" => self.microsoft(call),
            _ => return no(UNKNOWN),
        };
        let values = match judged {
            // Of constants alone come constants, whatever the operator does; only their shape is not known.
            Err(_)
                if is_onnx
                    && call.given().all(|v| v.items.is_none())
                    && !call.given().any(|v| self.counts_items(v)) =>
            {
                vec![Value::constant(None); call.node.outputs.len()]
            }
            judged => judged?,
        };
        let is_constant = is_onnx && call.node.op == "Constant";
        let mut values = values;
        for value in &mut values {
            // What is computed of whole numbers came above. Others must not pass for what they were computed of.
            if !is_constant {
                value.numbers = None;
                value.begins_with_one = false;
            }
            if places {
                value.place = place_of(call, value)?;
            }
            let axis = value.axis();
            for (index, dim) in value.dims.iter().flatten().enumerate() {
                let sound = match axis == Some(index) {
                    true => self.is_of_items(dim),
                    false => !self.has_items(dim),
                };
                if !sound {
                    return no("has an output whose shape mixes the number of items with another");
                }
            }
        }
        Ok(values)
    }

    /// Whole numbers computed of whole numbers; `None` where it is not that.
    fn arithmetic(&mut self, call: &Call<'_>) -> Case<Option<Value>> {
        let op = call.node.op.as_str();
        if op == "Shape" {
            let Some(dims) = call.input(0)?.dims.clone() else {
                return Ok(None);
            };
            if dims.len() > MAX_NUMBERS {
                return Ok(None);
            }
            let clamp = |at: i64| {
                let rank = dims.len() as i64;
                (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize
            };
            let (start, end) = (
                clamp(call.int("start", 0)?),
                clamp(call.int("end", i64::MAX)?),
            );
            let numbers = dims.get(start..end).unwrap_or_default().to_vec();
            return Ok(Some(Value::numbers(numbers, true)));
        }
        if op == "Size" {
            let dims = call.input(0)?.dims.as_ref();
            let size = dims.and_then(Length::product);
            return Ok(size.map(|size| Value::numbers(vec![size], false)));
        }
        if op == "ConstantOfShape" {
            let wanted = call.input(0)?.known();
            let value = match call.node.attributes.get("value") {
                Some(Attribute::Tensor(Initial {
                    ints: Some(ints), ..
                })) => ints.first().copied(),
                // Without one it is the floating-point number 0.
                _ => None,
            };
            return Ok(match (wanted.as_deref(), value) {
                (Some([count]), Some(value)) if (0..=MAX_NUMBERS as i64).contains(count) => {
                    let numbers = vec![Length::number(value); *count as usize];
                    Some(Value::numbers(numbers, true))
                }
                _ => None,
            });
        }
        let lists: Option<Vec<&Vec<Length>>> = (call.inputs.iter())
            .map(|value| value.as_ref()?.numbers.as_ref())
            .collect();
        let Some(lists) = lists.filter(|lists| !lists.is_empty()) else {
            return Ok(None);
        };
        let first = call.input(0)?;
        let is_list = call.given().any(|value| value.rank() == Ok(1));
        let all_known = || {
            let known = lists.iter().skip(1).map(|list| {
                let numbers = list.iter().map(Length::known);
                numbers.collect::<Option<Vec<i64>>>()
            });
            known.collect::<Option<Vec<Vec<i64>>>>()
        };
        let numbers = match op {
            "Identity" => lists[0].clone(),
            // INT32 and INT64. What becomes a fraction is data.
            "Cast" if matches!(call.int("to", 0)?, 6 | 7) => lists[0].clone(),
            "Squeeze" | "Unsqueeze" => {
                let list = op == "Unsqueeze";
                let fits = match list {
                    true => first.rank()? == 0,
                    false => lists[0].len() == 1,
                };
                return Ok(fits.then(|| Value::numbers(lists[0].clone(), list)));
            }
            "Reshape" => match &call.input(1)?.known().as_deref() {
                Some([-1]) => return Ok(Some(Value::numbers(lists[0].clone(), true))),
                Some([count]) if *count == lists[0].len() as i64 => {
                    return Ok(Some(Value::numbers(lists[0].clone(), true)));
                }
                Some([]) if lists[0].len() == 1 => {
                    return Ok(Some(Value::numbers(lists[0].clone(), false)));
                }
                _ => return Ok(None),
            },
            "Concat" => lists.iter().flat_map(|list| (*list).clone()).collect(),
            "Gather" => {
                let Some(indices) = all_known() else {
                    return Ok(None);
                };
                let count = lists[0].len() as i64;
                let one = |at: &i64| {
                    let at = if *at < 0 { at + count } else { *at };
                    lists[0].get(usize::try_from(at).ok()?).cloned()
                };
                let taken: Option<Vec<Length>> = indices[0].iter().map(one).collect();
                let is_list = call.input(1)?.rank()? == 1;
                return Ok(taken.map(|numbers| Value::numbers(numbers, is_list)));
            }
            "Slice" if call.inputs.len() >= 3 => {
                let Some(rest) = all_known() else {
                    return Ok(None);
                };
                let count = lists[0].len() as i64;
                let step = rest
                    .get(3)
                    .and_then(|steps| steps.first())
                    .copied()
                    .unwrap_or(1);
                let (&[start], &[end]) = (&rest[0][..], &rest[1][..]) else {
                    return Ok(None);
                };
                if step != 1 {
                    return Ok(None);
                }
                let at = |at: i64| (if at < 0 { at + count } else { at }).clamp(0, count) as usize;
                let numbers = lists[0].get(at(start)..at(end)).unwrap_or_default();
                return Ok(Some(Value::numbers(numbers.to_vec(), true)));
            }
            "ReduceProd" if call.inputs.len() == 1 => {
                let product = Length::product(lists[0]);
                let keeps = call.int("keepdims", 1)? != 0;
                return Ok(product.map(|product| Value::numbers(vec![product], keeps)));
            }
            "Neg" | "Abs" | "Not" | "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min"
            | "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or"
            | "Where" => {
                let count = lists.iter().map(|list| list.len()).max().unwrap_or(0);
                if lists
                    .iter()
                    .any(|list| list.len() != count && list.len() != 1)
                {
                    return Ok(None);
                }
                let at = |list: &[Length], index: usize| list[index.min(list.len() - 1)].clone();
                let mut numbers = Vec::with_capacity(count);
                for index in 0..count {
                    let row: Vec<Length> = lists.iter().map(|list| at(list, index)).collect();
                    numbers.push(self.computed(op, &row));
                }
                numbers
            }
            _ => return Ok(None),
        };
        if numbers.len() > MAX_NUMBERS {
            return Ok(None);
        }
        let is_list = is_list || op == "Concat";
        Ok(Some(Value::numbers(numbers, is_list)))
    }

    /// One whole number of others.
    fn computed(&mut self, op: &str, row: &[Length]) -> Length {
        let known: Option<Vec<i64>> = row.iter().map(Length::known).collect();
        let truth = |is: bool| Some(i64::from(is));
        if let Some(known) = known {
            let found = match (op, &known[..]) {
                ("Neg", [a]) => a.checked_neg(),
                ("Abs", [a]) => a.checked_abs(),
                ("Not", [a]) => truth(*a == 0),
                ("Add", [a, b]) => a.checked_add(*b),
                ("Sub", [a, b]) => a.checked_sub(*b),
                ("Mul", [a, b]) => a.checked_mul(*b),
                ("Div", [a, b]) => a.checked_div(*b),
                // The sign of the rest depends on an attribute.
                ("Mod", [a, b]) if *a >= 0 && *b > 0 => Some(a % b),
                ("Max", all) => all.iter().max().copied(),
                ("Min", all) => all.iter().min().copied(),
                ("Equal", [a, b]) => truth(a == b),
                ("Less", [a, b]) => truth(a < b),
                ("LessOrEqual", [a, b]) => truth(a <= b),
                ("Greater", [a, b]) => truth(a > b),
                ("GreaterOrEqual", [a, b]) => truth(a >= b),
                ("And", [a, b]) => truth(*a != 0 && *b != 0),
                ("Or", [a, b]) => truth(*a != 0 || *b != 0),
                ("Where", [test, yes, no]) => Some(if *test != 0 { *yes } else { *no }),
                _ => None,
            };
            if let Some(found) = found {
                return Length::number(found);
            }
        }
        let found = match (op, row) {
            ("Mul", [a, b]) => a.times(b),
            ("Div", [a, b]) => a.over(b),
            ("Neg", [a]) => a.times(&Length::number(-1)),
            ("Add" | "Sub", [a, b]) if b.is(0) => Some(a.clone()),
            ("Add", [a, b]) if a.is(0) => Some(b.clone()),
            ("Max" | "Min", [a, b]) if a == b => Some(a.clone()),
            ("Max" | "Min", [a]) => Some(a.clone()),
            // The length of an axis is never negative.
            ("Equal", [a, b]) => {
                let is_length =
                    |l: &Length| l.factor > 0 && !l.names.iter().any(|n| self.computed.contains(n));
                let is_negative = |l: &Length| l.known().is_some_and(|number| number < 0);
                let differ = (is_length(a) && is_negative(b)) || (is_negative(a) && is_length(b));
                differ.then(|| Length::number(0))
            }
            ("Where", [test, yes, no]) => match test.known() {
                Some(0) => Some(no.clone()),
                Some(_) => Some(yes.clone()),
                None if yes == no => Some(yes.clone()),
                None => None,
            },
            _ => None,
        };
        if let Some(found) = found {
            return found;
        }
        let of_items = row.iter().any(|length| self.has_items(length));
        let op = match op {
            "Add" => "Add",
            "Sub" => "Sub",
            "Div" => "Div",
            _ => "",
        };
        if op.is_empty() || row.len() != 2 {
            let length = self.unknown(of_items);
            self.computed.insert(length.names[0]);
            return length;
        }
        let key = (op, row[0].clone(), row[1].clone());
        if let Some(name) = self.made.get(&key) {
            return Length::name(*name);
        }
        let length = self.unknown(of_items);
        self.computed.insert(length.names[0]);
        self.made.insert(key, length.names[0]);
        length
    }

    /// What several values give element by element.
    fn broadcast(&mut self, values: &[&Value]) -> Case<Value> {
        let Some(with_items) = values.iter().find(|value| value.items.is_some()) else {
            let ranks: Option<Vec<usize>> = values.iter().map(|v| v.rank().ok()).collect();
            let Some(ranks) = ranks else {
                return Ok(Value::constant(None));
            };
            let rank = ranks.into_iter().max().unwrap_or(0);
            let dims = self.merged(values, rank, None)?;
            return Ok(Value::new(dims, None));
        };
        let mut rank = 0;
        for value in values {
            rank = rank.max(value.rank()?);
        }
        let place = |value: &Value, axis: usize| axis + rank - value.rank().unwrap_or(rank);
        let items = with_items.items.clone().ok_or(UNKNOWN)?;
        let length = with_items.dims()?[items.axis].clone();
        let axis = place(with_items, items.axis);
        for value in values {
            match &value.items {
                Some(own) => {
                    if place(value, own.axis) != axis {
                        return no("puts items along two axes");
                    }
                    if value.dims()?[own.axis] != length || own.outer != items.outer {
                        return no("puts items beside others in another order");
                    }
                }
                None => {
                    let dims = value.dims()?;
                    let own = (axis + dims.len()).checked_sub(rank);
                    if own.is_some_and(|own| !dims[own].is(1)) {
                        return no("puts items beside a value that has a length of its own there");
                    }
                }
            }
        }
        let dims = self.merged(values, rank, Some((axis, length)))?;
        Ok(Value::new(dims, Some(items.moved(axis))))
    }

    fn merged(
        &mut self,
        values: &[&Value],
        rank: usize,
        items: Option<(usize, Length)>,
    ) -> Case<Vec<Length>> {
        let mut dims = Vec::with_capacity(rank);
        for index in 0..rank {
            if let Some((axis, length)) = &items
                && *axis == index
            {
                dims.push(length.clone());
                continue;
            }
            let mut merged: Option<Length> = None;
            for value in values {
                let own = value.dims()?;
                let Some(at) = (index + own.len()).checked_sub(rank) else {
                    continue;
                };
                let dim = &own[at];
                merged = Some(match merged {
                    None => dim.clone(),
                    Some(before) if before == *dim || dim.is(1) => before,
                    Some(before) if before.is(1) => dim.clone(),
                    Some(before) if before.known().is_some() => before,
                    Some(_) if dim.known().is_some() => dim.clone(),
                    Some(_) => self.unknown(false),
                });
            }
            dims.push(merged.unwrap_or_else(|| Length::number(1)));
        }
        Ok(dims)
    }

    /// A value in another shape.
    fn reshaped(&mut self, value: &Value, target: &[Length]) -> Case<Value> {
        let dims = value.dims()?;
        let mut out = target.to_vec();
        if let Some(at) = out.iter().position(|length| length.is(-1)) {
            let others = out
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != at)
                .map(|(_, l)| l);
            let total = Length::product(dims);
            let rest = Length::product(others);
            let quotient = total.zip(rest).and_then(|(total, rest)| total.over(&rest));
            let is_explicit = (out.iter().enumerate()).any(|(i, l)| i != at && self.has_items(l));
            out[at] = match quotient {
                Some(length) => length,
                // Where another axis has all items, this one has none of them.
                None if is_explicit || value.items.is_none() => self.unknown(false),
                None => return no("puts items into a shape that is not known"),
            };
        }
        if out.iter().any(|length| length.factor < 0) {
            return no("puts items into a shape that is not known");
        }
        let Some(items) = &value.items else {
            return Ok(Value::new(out, None));
        };
        let mut places = (0..out.len()).filter(|at| self.has_items(&out[*at]));
        let (Some(axis), None) = (places.next(), places.next()) else {
            return no("puts items into a shape that does not keep them apart");
        };
        let before = Length::product(&dims[..items.axis]).and_then(|l| l.times(&items.outer));
        let outer = before.zip(Length::product(&out[..axis]));
        let outer = outer.and_then(|(before, own)| before.over(&own));
        let apart = outer.filter(|outer| {
            self.is_of_items(&out[axis]) && out[axis].over(outer).is_some_and(|l| l.factor > 0)
        });
        match apart {
            Some(outer) => Ok(Value::new(out, Some(Items { axis, outer }))),
            None => no("puts items into a shape that does not keep them apart"),
        }
    }

    fn matmul(&mut self, a: &Value, b: &Value) -> Case<Value> {
        let (ra, rb) = (a.rank()?, b.rank()?);
        if ra == 0 || rb == 0 {
            return no("multiplies a value without axes");
        }
        if a.axis() == Some(ra - 1) || (rb >= 2 && b.axis() == Some(rb - 2)) {
            return no("sums over the items of a run");
        }
        if rb == 1 && b.items.is_some() {
            return no("sums over the items of a run");
        }
        let own = |value: &Value, count: usize| -> Case<Value> {
            let dims = value.dims()?;
            let leading = &dims[..dims.len().saturating_sub(count)];
            let items = value
                .items
                .clone()
                .filter(|items| items.axis < leading.len());
            Ok(Value::new(leading.to_vec(), items))
        };
        let (lead_a, lead_b) = (own(a, 2)?, own(b, 2)?);
        let of_rows = ra >= 2 && a.axis() == Some(ra - 2);
        let of_columns = rb >= 2 && b.axis() == Some(rb - 1);
        if (of_rows && b.items.is_some()) || (of_columns && a.items.is_some()) {
            return no("multiplies items with items");
        }
        let leading = self.broadcast(&[&lead_a, &lead_b])?;
        let mut dims = leading.dims()?.to_vec();
        let mut items = leading.items;
        if ra >= 2 {
            if of_rows {
                items = a.items.as_ref().map(|items| items.moved(dims.len()));
            }
            dims.push(a.dims()?[ra - 2].clone());
        }
        if rb >= 2 {
            if of_columns {
                items = b.items.as_ref().map(|items| items.moved(dims.len()));
            }
            dims.push(b.dims()?[rb - 1].clone());
        }
        Ok(Value::new(dims, items))
    }

    /// The same value with its last two axes swapped, where `is_turned`.
    fn turned(value: &Value, is_turned: bool) -> Case<Value> {
        let rank = value.rank()?;
        if !is_turned || rank < 2 {
            return Ok(value.clone());
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 1, rank - 2);
        transposed(value, &order)
    }

    /// An operator over images or signals, whose first axis is a batch.
    fn spatial(&mut self, call: &Call<'_>, channels: Option<Length>) -> Case<Value> {
        let x = call.input(0)?;
        call.constant(1)?;
        let rank = x.rank()?;
        if x.axis().is_some_and(|axis| axis != 0) {
            return no(ALONG);
        }
        let kernel = match call.ints("kernel_shape")? {
            Some(kernel) => Some(kernel.to_vec()),
            None => (call.get(1))
                .and_then(|w| w.dims.as_ref())
                .and_then(|dims| dims.get(2..)?.iter().map(Length::known).collect()),
        };
        let strides = call.ints("strides")?.map(<[i64]>::to_vec);
        let pads = call.ints("pads")?.map(<[i64]>::to_vec);
        let dilations = call.ints("dilations")?.map(<[i64]>::to_vec);
        let auto = call.text("auto_pad", "NOTSET")?;
        let ceil = call.int("ceil_mode", 0)? != 0;
        let is_plain = call.node.op != "ConvTranspose";
        let mut dims = x.dims()?.to_vec();
        if let (Some(channels), true) = (channels, rank > 1) {
            dims[1] = channels;
        }
        let count = rank.saturating_sub(2);
        for at in 0..count {
            let length = dims[at + 2].known();
            let size = || -> Option<i64> {
                let of = |list: &Option<Vec<i64>>, or: i64| {
                    list.as_ref().map_or(Some(or), |l| l.get(at).copied())
                };
                let (length, kernel) = (length?, *kernel.as_ref()?.get(at)?);
                let stride = of(&strides, 1).filter(|stride| *stride > 0)?;
                let span = of(&dilations, 1)?.checked_mul(kernel - 1)?.checked_add(1)?;
                if auto.starts_with("SAME") {
                    return Some((length + stride - 1) / stride);
                }
                let pad = match auto.as_str() {
                    "VALID" => 0,
                    _ => match &pads {
                        None => 0,
                        Some(pads) => pads.get(at)?.checked_add(*pads.get(at + count)?)?,
                    },
                };
                let left = length.checked_add(pad)?.checked_sub(span)?;
                // Where a window hangs over the end, runtimes differ.
                if left < 0 || (ceil && left % stride != 0) {
                    return None;
                }
                Some(left / stride + 1)
            };
            dims[at + 2] = match size().filter(|_| is_plain) {
                Some(size) => Length::number(size),
                None => self.unknown(false),
            };
        }
        Ok(Value::new(dims, x.items.clone()))
    }

    fn onnx(&mut self, call: &Call<'_>) -> Case<Vec<Value>> {
        let op = call.node.op.as_str();
        let one = |value: Value| Ok(vec![value]);
        match op {
            "Constant" => {
                let value = match (
                    call.node.attributes.iter().next(),
                    call.node.attributes.len(),
                ) {
                    (Some((_, Attribute::Tensor(initial))), 1) => Value::of(initial),
                    (Some((_, Attribute::Int(value))), 1) => {
                        Value::numbers(vec![Length::number(*value)], false)
                    }
                    (Some((_, Attribute::Ints(values))), 1) if values.len() <= MAX_NUMBERS => {
                        let numbers = values.iter().copied().map(Length::number);
                        Value::numbers(numbers.collect(), true)
                    }
                    (Some((_, Attribute::Float(_))), 1) => Value::new(Vec::new(), None),
                    (Some((_, Attribute::Floats(values))), 1) => {
                        Value::new(vec![Length::number(values.len() as i64)], None)
                    }
                    _ => Value::constant(None),
                };
                one(value)
            }
            "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitwiseNot"
            | "Cast" | "CastLike" | "Ceil" | "Celu" | "Cos" | "Cosh" | "Elu" | "Erf" | "Exp"
            | "Floor" | "Gelu" | "HardSigmoid" | "HardSwish" | "Identity" | "IsInf" | "IsNaN"
            | "LeakyRelu" | "Log" | "Mish" | "Neg" | "Not" | "Reciprocal" | "Relu" | "Round"
            | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh" | "Softplus" | "Softsign"
            | "Sqrt" | "Swish" | "Tan" | "Tanh" | "ThresholdedRelu" => {
                let x = call.input(0)?;
                one(x.clone())
            }
            op if is_elementwise(op) => {
                // Before opset 7 these two attributes said along which axis.
                if ["axis", "broadcast"]
                    .iter()
                    .any(|name| call.node.attributes.contains_key(*name))
                {
                    return no("has an attribute that opset 7 removed");
                }
                let all: Vec<&Value> = call.given().collect();
                one(self.broadcast(&all)?)
            }
            "Clip" => {
                if call.given().skip(1).any(|bound| !bound.is_single()) {
                    return no("has bounds of more than one element");
                }
                call.constant(1)?;
                one(call.input(0)?.clone())
            }
            "Dropout" => {
                let training = match call.get(2) {
                    None => false,
                    Some(value) => value.known() != Some(vec![0]),
                };
                if training || call.node.attributes.contains_key("is_test") {
                    return no("may draw random numbers");
                }
                let x = call.input(0)?.clone();
                Ok(vec![x; call.node.outputs.len()])
            }
            "MatMul" => one(self.matmul(call.input(0)?, call.input(1)?)?),
            "MatMulInteger" | "QLinearMatMul" => {
                let (b, zeros): (usize, &[usize]) = match op {
                    "MatMulInteger" => (1, &[2]),
                    _ => (3, &[1, 2, 6, 7]),
                };
                for at in zeros {
                    if call.get(*at).is_some_and(|zero| !zero.is_single()) {
                        return no("has a scale or zero point for each row");
                    }
                }
                let scales = (0..call.inputs.len()).filter(|at| *at != 0 && *at != b);
                if scales
                    .filter_map(|at| call.get(at))
                    .any(|v| v.items.is_some())
                {
                    return no("has a scale or zero point that follows from items");
                }
                one(self.matmul(call.input(0)?, call.input(b)?)?)
            }
            "Gemm" => {
                let a = Self::turned(call.input(0)?, call.int("transA", 0)? != 0)?;
                let b = Self::turned(call.input(1)?, call.int("transB", 0)? != 0)?;
                if a.rank()? != 2 || b.rank()? != 2 {
                    return no("multiplies values of other than two axes");
                }
                let product = self.matmul(&a, &b)?;
                match call.get(2) {
                    Some(c) => one(self.broadcast(&[&product, c])?),
                    None => one(product),
                }
            }
            "Einsum" => one(einsum(call)?),
            "Conv" | "ConvInteger" | "QLinearConv" => {
                let weights = if op == "QLinearConv" { 3 } else { 1 };
                if op == "QLinearConv" && call.get(3).is_some_and(|w| w.items.is_some()) {
                    return no("has weights that follow from items");
                }
                let channels = call
                    .get(weights)
                    .and_then(|w| w.dims.as_ref()?.first().cloned());
                let unknown = self.unknown(false);
                let mut value = self.spatial(call, Some(channels.unwrap_or(unknown)))?;
                if op == "QLinearConv" && call.ints("kernel_shape")?.is_none() {
                    for dim in value
                        .dims
                        .iter_mut()
                        .flat_map(|dims| dims.iter_mut().skip(2))
                    {
                        *dim = self.unknown(false);
                    }
                }
                one(value)
            }
            "ConvTranspose" => {
                let channels = self.unknown(false);
                one(self.spatial(call, Some(channels))?)
            }
            "AveragePool" | "MaxPool" | "LpPool" => {
                // The second output counts elements of the whole input.
                if call
                    .node
                    .outputs
                    .get(1)
                    .is_some_and(|name| !name.is_empty())
                {
                    return no("gives places in the whole batch");
                }
                one(self.spatial(call, None)?)
            }
            "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" => {
                let mut value = self.first_is_batch(call)?;
                for dim in value
                    .dims
                    .iter_mut()
                    .flat_map(|dims| dims.iter_mut().skip(2))
                {
                    *dim = Length::number(1);
                }
                one(value)
            }
            "BatchNormalization" => {
                let trains = call.int("training_mode", 0)? != 0
                    || (call.opset < 7 && call.int("is_test", 0)? == 0);
                if trains
                    || call
                        .node
                        .outputs
                        .iter()
                        .skip(1)
                        .any(|name| !name.is_empty())
                {
                    return no("normalises over the items of a run");
                }
                one(self.first_is_batch(call)?)
            }
            "InstanceNormalization" | "GroupNormalization" | "LRN" => {
                if call.input(0)?.rank()? < 2 {
                    return no(ALONG);
                }
                one(self.first_is_batch(call)?)
            }
            "DepthToSpace" | "SpaceToDepth" => {
                let mut value = self.first_is_batch(call)?;
                for dim in value
                    .dims
                    .iter_mut()
                    .flat_map(|dims| dims.iter_mut().skip(1))
                {
                    *dim = self.unknown(false);
                }
                one(value)
            }
            "Resize" | "Upsample" => one(self.resized(call)?),
            "GridSample" => {
                let (x, grid) = (call.input(0)?, call.input(1)?);
                if x.items != Some(Items::along(0))
                    || x.items != grid.items
                    || x.dims()?[0] != grid.dims()?[0]
                {
                    return no(ALONG);
                }
                let mut dims = x.dims()?.to_vec();
                for dim in dims.iter_mut().skip(2) {
                    *dim = self.unknown(false);
                }
                one(Value::new(dims, x.items.clone()))
            }
            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax"
            | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => {
                let x = call.input(0)?;
                let axes = call.axes(1)?.filter(|axes| !axes.is_empty());
                if axes.is_none() && call.int("noop_with_empty_axes", 0)? != 0 {
                    return one(x.clone());
                }
                let keeps = call.int("keepdims", 1)? != 0;
                one(reduced(x, axes.as_deref(), keeps)?)
            }
            "ArgMax" | "ArgMin" => {
                let axis = call.int("axis", 0)?;
                let keeps = call.int("keepdims", 1)? != 0;
                one(reduced(call.input(0)?, Some(&[axis]), keeps)?)
            }
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                let x = call.input(0)?;
                // Before opset 13 it normalises over this axis and all behind it.
                let old = call.opset < 13;
                let axis = from_front(call.int("axis", if old { 1 } else { -1 })?, x.rank()?)?;
                let crosses = (x.axis()).is_some_and(|own| own == axis || (old && own > axis));
                if crosses {
                    return no("normalises over the items of a run");
                }
                one(x.clone())
            }
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                let x = call.input(0)?;
                call.constant(1)?;
                let axis = from_front(call.int("axis", -1)?, x.rank()?)?;
                if x.axis().is_some_and(|own| own >= axis) {
                    return no("normalises over the items of a run");
                }
                let mut rest = x.clone();
                for dim in rest
                    .dims
                    .iter_mut()
                    .flat_map(|dims| dims.iter_mut().skip(axis))
                {
                    *dim = Length::number(1);
                }
                Ok(vec![x.clone(), rest.clone(), rest])
            }
            "LpNormalization" => {
                let x = call.input(0)?;
                let axis = from_front(call.int("axis", -1)?, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("normalises over the items of a run");
                }
                one(x.clone())
            }
            "MeanVarianceNormalization" => {
                let x = call.input(0)?;
                let axes = call.ints("axes")?.unwrap_or(&[0, 2, 3]).to_vec();
                reduced(x, Some(&axes), true)?;
                one(x.clone())
            }
            "CumSum" | "CumProd" => {
                let x = call.input(0)?;
                let axis = match call.input(1)?.known().as_deref() {
                    Some([axis]) => from_front(*axis, x.rank()?)?,
                    _ => return no("has an axis that is computed"),
                };
                if x.axis() == Some(axis) {
                    return no("sums over the items of a run");
                }
                one(x.clone())
            }
            "TopK" => {
                let x = call.input(0)?;
                call.constant(1)?;
                let axis = from_front(call.int("axis", -1)?, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("sorts the items of a run");
                }
                let mut dims = x.dims()?.to_vec();
                let count = match call.node.attributes.get("k") {
                    Some(Attribute::Int(k)) => Some(Length::number(*k)),
                    _ => call
                        .get(1)
                        .and_then(|k| k.numbers.as_ref()?.first().cloned()),
                };
                dims[axis] = match count {
                    Some(count) => count,
                    None => self.unknown(false),
                };
                let value = Value::new(dims, x.items.clone());
                Ok(vec![value.clone(), value])
            }
            "Transpose" => {
                let x = call.input(0)?;
                let rank = x.rank()?;
                let order: Vec<usize> = match call.ints("perm")? {
                    None => (0..rank).rev().collect(),
                    Some(order) => {
                        let order = order.iter().map(|axis| from_front(*axis, rank));
                        order.collect::<Case<_>>()?
                    }
                };
                one(transposed(x, &order)?)
            }
            "Reshape" => {
                let x = call.input(0)?;
                let zero = call.int("allowzero", 0)? != 0;
                let given = call.ints("shape")?;
                let target = match given {
                    Some(shape) => shape.iter().copied().map(Length::number).collect(),
                    None => {
                        let shape = call.input(1)?.numbers.clone();
                        shape.ok_or("has a shape that is computed from values")?
                    }
                };
                let dims = x.dims()?;
                let target: Vec<Length> = (target.into_iter().enumerate())
                    .map(|(at, length)| match length.is(0) && !zero {
                        true => dims.get(at).cloned().unwrap_or(length),
                        false => length,
                    })
                    .collect();
                one(self.reshaped(x, &target)?)
            }
            "Flatten" => {
                let x = call.input(0)?;
                let dims = x.dims()?;
                let axis = call.int("axis", 1)?;
                let axis = match axis == dims.len() as i64 {
                    true => dims.len(),
                    false => from_front(axis, dims.len())?,
                };
                let halves = Length::product(&dims[..axis]).zip(Length::product(&dims[axis..]));
                let (front, back) = halves.ok_or("has too many axes")?;
                one(self.reshaped(x, &[front, back])?)
            }
            "Squeeze" | "Unsqueeze" => {
                let x = call.input(0)?;
                let axes = call.axes(1)?;
                one(match op {
                    "Squeeze" => squeezed(x, axes.as_deref())?,
                    _ => unsqueezed(x, &axes.ok_or("lacks its axes")?)?,
                })
            }
            "Expand" => {
                let shape = call.input(1)?.numbers.clone();
                let shape = shape.ok_or("has a shape that is computed from values")?;
                one(self.expanded(call.input(0)?, &shape)?)
            }
            "Tile" => {
                let x = call.input(0)?;
                let times = call.input(1)?.numbers.clone();
                let times = times.ok_or("has a shape that is computed from values")?;
                let mut dims = x.dims()?.to_vec();
                let mut items = x.items.clone();
                if times.len() != dims.len() {
                    return no("has a shape that does not fit its input");
                }
                for (at, times) in times.iter().enumerate() {
                    let is_repeated = self.has_items(times);
                    if x.axis() == Some(at) && !times.is(1) || is_repeated && items.is_some() {
                        return no("repeats the items of a run");
                    }
                    if is_repeated {
                        items = Some(Items::along(at));
                    }
                    dims[at] = match dims[at].times(times) {
                        Some(length) => length,
                        None => self.unknown(false),
                    };
                }
                one(Value::new(dims, items))
            }
            "ConstantOfShape" => {
                let Some(shape) = call.input(0)?.numbers.clone() else {
                    call.constant(0)?;
                    return one(Value::constant(None));
                };
                one(self.expanded(&Value::new(Vec::new(), None), &shape)?)
            }
            "Range" => {
                call.constant(0)?;
                let limit = match call.get(1).and_then(|limit| limit.numbers.as_deref()) {
                    Some([limit])
                        if call.input(0)?.known() == Some(vec![0])
                            && call.input(2)?.known() == Some(vec![1]) =>
                    {
                        Some(limit.clone())
                    }
                    _ => None,
                };
                if limit == Some(Length::name(ITEMS)) {
                    let mut places = Value::new(vec![Length::name(ITEMS)], Some(Items::along(0)));
                    places.place = Place::Index;
                    return one(places);
                }
                if self.counts_items(call.input(1)?) {
                    return no("computes with the number of items in the run");
                }
                let length = match limit {
                    Some(limit) => limit,
                    None => self.unknown(false),
                };
                one(Value::new(vec![length], None))
            }
            "Concat" => {
                let all: Vec<&Value> = call.given().collect();
                let first = call.input(0)?;
                let axis = from_front(call.int("axis", 1)?, first.rank()?)?;
                if all.len() == 1 {
                    return one(first.clone());
                }
                if all.iter().any(|value| value.axis() == Some(axis)) {
                    return no("puts other values beside the items of a run");
                }
                let mut sum = Length::number(0);
                let mut others = Vec::new();
                for value in &all {
                    if value.rank()? != first.rank()? {
                        return no("has inputs of different numbers of axes");
                    }
                    let length = value.dims()?[axis].clone();
                    sum = self.computed("Add", &[sum, length]);
                    let mut value = (*value).clone();
                    if let Some(dims) = &mut value.dims {
                        dims[axis] = Length::number(1);
                    }
                    others.push(value);
                }
                let mut value = self.broadcast(&others.iter().collect::<Vec<_>>())?;
                if let Some(dims) = &mut value.dims {
                    dims[axis] = sum;
                }
                one(value)
            }
            "Split" => {
                let x = call.input(0)?;
                call.constant(1)?;
                let axis = from_front(call.int("axis", 0)?, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("takes the items of a run apart");
                }
                let count = call.node.outputs.len();
                let given = match call.ints("split")? {
                    Some(parts) => Some(parts.iter().copied().map(Length::number).collect()),
                    None => call.get(1).and_then(|parts| parts.numbers.clone()),
                };
                let length = x.dims()?[axis].over(&Length::number(count as i64));
                let mut outputs = Vec::new();
                for at in 0..count {
                    let part = match (&given, &length) {
                        (Some(parts), _) => parts.get(at).cloned(),
                        (None, length) if call.get(1).is_none() => length.clone(),
                        _ => None,
                    };
                    let mut value = x.clone();
                    let part = part.unwrap_or_else(|| self.unknown(false));
                    if let Some(dims) = &mut value.dims {
                        dims[axis] = part;
                    }
                    outputs.push(value);
                }
                Ok(outputs)
            }
            "Slice" => one(self.sliced(call)?),
            "Pad" => one(self.padded(call)?),
            "Gather" => one(gathered(call)?),
            "GatherElements" | "ScatterElements" | "Scatter" => {
                let x = call.input(0)?;
                let axis = from_front(call.int("axis", 0)?, x.rank()?)?;
                let (items, dims) = (&x.items, x.dims()?);
                let place = items
                    .as_ref()
                    .ok_or("takes elements of a constant by place")?;
                for value in call.given().skip(1) {
                    if value.items != *items || value.dims()?[place.axis] != dims[place.axis] {
                        return no("takes elements by their place among the items");
                    }
                }
                if place.axis == axis {
                    return no("takes elements by their place among the items");
                }
                one(match op {
                    "GatherElements" => call.input(1)?.clone(),
                    _ => x.clone(),
                })
            }
            "GatherND" => {
                let (x, at) = (call.input(0)?, call.input(1)?);
                let depth = at.dims()?.last().and_then(Length::known);
                let depth = usize::try_from(depth.unwrap_or(-1));
                let depth = depth.map_err(|_| "has indices of unknown length")?;
                let shared = call.int("batch_dims", 0)?;
                let sound = match (x.axis(), at.axis()) {
                    // Each item takes of its own row.
                    (Some(0), Some(axis)) if at.place == Place::First => {
                        shared == 0
                            && axis + 1 < at.rank()?
                            && x.items == Some(Items::along(0))
                            && x.dims()?[0] == Length::name(ITEMS)
                    }
                    _ if at.place != Place::None => false,
                    (None, Some(axis)) => shared == 0 && axis + 1 < at.rank()?,
                    (Some(0), Some(0)) => {
                        shared >= 1 && x.dims()?[0] == at.dims()?[0] && x.items == at.items
                    }
                    _ => false,
                };
                let taken = usize::try_from(shared).unwrap_or(0) + depth;
                if !sound || taken > x.rank()? {
                    return no("takes elements by their place among the items");
                }
                let mut dims = at.dims()?[..at.rank()? - 1].to_vec();
                dims.extend_from_slice(&x.dims()?[taken..]);
                one(Value::new(dims, at.items.clone()))
            }
            "Compress" => {
                let x = call.input(0)?;
                call.constant(1)?;
                let Some(Attribute::Int(axis)) = call.node.attributes.get("axis") else {
                    return no("takes elements by their place among the items");
                };
                let axis = from_front(*axis, x.rank()?)?;
                if x.axis() == Some(axis) {
                    return no("takes elements by their place among the items");
                }
                let mut dims = x.dims()?.to_vec();
                dims[axis] = self.unknown(false);
                one(Value::new(dims, x.items.clone()))
            }
            "ReverseSequence" => {
                let (x, lengths) = (call.input(0)?, call.input(1)?);
                let rank = x.rank()?;
                let of_items = from_front(call.int("batch_axis", 1)?, rank)?;
                if x.axis() != Some(of_items)
                    || lengths.axis() != Some(0)
                    || lengths.dims()?[0] != x.dims()?[of_items]
                {
                    return no(ALONG);
                }
                one(x.clone())
            }
            "Trilu" => {
                let x = call.input(0)?;
                call.constant(1)?;
                if x.axis()
                    .is_some_and(|axis| axis + 2 >= x.rank().unwrap_or(0))
                {
                    return no(ALONG);
                }
                one(x.clone())
            }
            "OneHot" => {
                let x = call.input(0)?;
                call.constant(1)?;
                let axis = call.int("axis", -1)?;
                let rank = x.rank()? + 1;
                let at = from_front(axis, rank)?;
                let mut dims = x.dims()?.to_vec();
                let depth = call
                    .get(1)
                    .and_then(|d| d.numbers.as_ref()?.first().cloned());
                dims.insert(
                    at,
                    match depth {
                        Some(depth) => depth,
                        None => self.unknown(false),
                    },
                );
                let items = x
                    .items
                    .as_ref()
                    .map(|items| items.moved(items.axis + usize::from(at <= items.axis)));
                one(Value::new(dims, items))
            }
            "Det" => {
                let x = call.input(0)?;
                let kept = x.rank()?.saturating_sub(2);
                if x.axis().is_some_and(|axis| axis >= kept) {
                    return no(ALONG);
                }
                one(Value::new(x.dims()?[..kept].to_vec(), x.items.clone()))
            }
            "DynamicQuantizeLinear" => {
                let x = call.input(0)?;
                if x.items.is_some() {
                    return no("takes one scale over all items of a run");
                }
                let single = Value::new(Vec::new(), None);
                Ok(vec![
                    Value::constant(x.dims.clone()),
                    single.clone(),
                    single,
                ])
            }
            "QuantizeLinear" | "DequantizeLinear" => {
                let x = call.input(0)?;
                call.constant(1)?;
                let scale = call.input(1)?;
                if let (Some(axis), false) = (x.axis(), scale.is_single()) {
                    let own = from_front(call.int("axis", 1)?, x.rank()?)?;
                    // A scale of several axes goes with blocks of the input.
                    if own == axis || scale.rank()? > 1 {
                        return no("has a scale for each item");
                    }
                }
                one(x.clone())
            }
            "LSTM" | "GRU" | "RNN" => self.recurrent(call),
            "NonZero" | "Unique" | "NonMaxSuppression" => {
                no("gives as many rows as it finds in all items of a run")
            }
            _ => no(UNKNOWN),
        }
    }

    /// An operator whose first input begins with the batch and whose others are constants; the shape stays.
    fn first_is_batch(&mut self, call: &Call<'_>) -> Case<Value> {
        let x = call.input(0)?;
        call.constant(1)?;
        x.rank()?;
        if x.axis().is_some_and(|axis| axis != 0) {
            return no(ALONG);
        }
        Ok(x.clone())
    }

    fn expanded(&mut self, x: &Value, shape: &[Length]) -> Case<Value> {
        let mut items = None;
        for (axis, length) in shape.iter().enumerate() {
            if length.factor < 0 {
                return no("has a shape that is computed from values");
            }
            if self.has_items(length) {
                if items.is_some() || !self.is_of_items(length) {
                    return no("puts items into a shape that does not keep them apart");
                }
                items = Some(Items::along(axis));
            }
        }
        // Every part of the new shape is the same, so in which order its items stand is free: as those they meet.
        if let (Some(items), Some(own)) = (&mut items, &x.items) {
            items.outer = own.outer.clone();
        }
        self.broadcast(&[x, &Value::new(shape.to_vec(), items)])
    }

    fn resized(&mut self, call: &Call<'_>) -> Case<Value> {
        let x = call.input(0)?;
        let rank = x.rank()?;
        if x.axis().is_some_and(|axis| axis != 0) {
            return no(ALONG);
        }
        let given =
            |at: usize| (call.get(at)).filter(|value| value.dims != Some(vec![Length::number(0)]));
        let of_axes = call.ints("axes")?.map(<[i64]>::to_vec);
        let is_whole = match &of_axes {
            None => false,
            Some(axes) => {
                let axes = axes.iter().map(|axis| from_front(*axis, rank));
                !axes.collect::<Case<Vec<_>>>()?.contains(&0)
            }
        };
        let (scales, sizes) = match (call.node.op.as_str(), call.opset < 11) {
            ("Upsample", _) | (_, true) => (1, usize::MAX),
            _ => (2, 3),
        };
        let keeps = is_whole
            || match (given(sizes), given(scales)) {
                (Some(sizes), _) => {
                    let first = sizes.numbers.as_ref().and_then(|numbers| numbers.first());
                    of_axes.is_none() && first == Some(&x.dims()?[0])
                }
                (None, Some(scales)) => of_axes.is_none() && scales.begins_with_one,
                (None, None) => match call.node.attributes.get("scales") {
                    Some(Attribute::Floats(scales)) => {
                        scales.first().copied().map(f32::from_bits) == Some(1.0)
                    }
                    _ => false,
                },
            };
        if x.items.is_some() && !keeps {
            return no("resizes the axis that counts the items of a run");
        }
        let mut dims = x.dims()?.to_vec();
        for dim in dims.iter_mut().skip(1) {
            *dim = self.unknown(false);
        }
        if x.items.is_none() && !keeps {
            dims[0] = self.unknown(false);
        }
        Ok(Value::new(dims, x.items.clone()))
    }

    fn sliced(&mut self, call: &Call<'_>) -> Case<Value> {
        let x = call.input(0)?;
        let rank = x.rank()?;
        let list = |at: usize, name: &str| -> Case<Option<Vec<Length>>> {
            if let Some(value) = call.get(at) {
                if value.items.is_some() {
                    return no("takes a part that follows from items");
                }
                return Ok(value.numbers.clone());
            }
            let attribute = call.ints(name)?;
            Ok(attribute.map(|list| list.iter().copied().map(Length::number).collect()))
        };
        let (starts, ends) = (list(1, "starts")?, list(2, "ends")?);
        let has_axes = call.get(3).is_some() || call.ints("axes")?.is_some();
        let axes: Vec<usize> = match (list(3, "axes")?, has_axes) {
            (Some(axes), _) => {
                let axes = axes.iter().map(|axis| match axis.known() {
                    Some(axis) => from_front(axis, rank),
                    None => no("has axes that are computed"),
                });
                axes.collect::<Case<_>>()?
            }
            (None, true) => return no("has axes that are computed"),
            (None, false) => {
                let count = starts.as_ref().or(ends.as_ref()).map_or(rank, Vec::len);
                (0..count.min(rank)).collect()
            }
        };
        let has_steps = call.get(4).is_some();
        let steps = list(4, "steps")?;
        let mut dims = x.dims()?.to_vec();
        for (index, axis) in axes.iter().enumerate() {
            let of = |list: &Option<Vec<Length>>| {
                list.as_ref().and_then(|list| list.get(index).cloned())
            };
            let (start, end) = (of(&starts), of(&ends));
            let step = match has_steps {
                true => of(&steps).and_then(|step| step.known()),
                false => Some(1),
            };
            let length = dims[*axis].clone();
            let begins = start.as_ref().is_some_and(|start| start.is(0));
            let ends = end.as_ref().is_some_and(|end| {
                *end == length || end.known().is_some_and(|end| end >= WHOLE_AXIS)
            });
            if begins && ends && step == Some(1) {
                continue;
            }
            if x.axis() == Some(*axis) {
                return no("takes a part of the items of a run");
            }
            for bound in [&start, &end].into_iter().flatten() {
                if self.has_items(bound) {
                    return no("takes a part that follows from the number of items");
                }
            }
            let known = || -> Option<i64> {
                let length = length.known()?;
                let at = |bound: &Option<Length>| -> Option<i64> {
                    let at = bound.as_ref()?.known()?;
                    let from = if at < 0 { at.checked_add(length)? } else { at };
                    Some(from.clamp(0, length))
                };
                let step = step.filter(|step| *step > 0)?;
                let count = (at(&end)? - at(&start)?).max(0);
                Some(count.checked_add(step - 1)? / step)
            };
            dims[*axis] = match known() {
                Some(length) => Length::number(length),
                None => self.unknown(false),
            };
        }
        Ok(Value::new(dims, x.items.clone()))
    }

    fn padded(&mut self, call: &Call<'_>) -> Case<Value> {
        let x = call.input(0)?;
        call.constant(1)?;
        let rank = x.rank()?;
        let pads: Option<Vec<Length>> = match call.get(1) {
            Some(pads) => pads.numbers.clone(),
            None => {
                let list = match call.ints("pads")? {
                    None => call.ints("paddings")?,
                    list => list,
                };
                list.map(|list| list.iter().copied().map(Length::number).collect())
            }
        };
        let axes: Vec<usize> = match call.get(3) {
            None => (0..rank).collect(),
            Some(axes) => {
                let axes = axes.known().ok_or("has axes that are computed")?;
                let axes = axes.iter().map(|axis| from_front(*axis, rank));
                axes.collect::<Case<_>>()?
            }
        };
        let mut dims = x.dims()?.to_vec();
        for (index, axis) in axes.iter().enumerate() {
            let pair = pads.as_ref().and_then(|pads| {
                let before = pads.get(index)?.clone();
                Some([before, pads.get(index + axes.len())?.clone()])
            });
            let none = (pair.as_ref()).is_some_and(|pair| pair.iter().all(|pad| pad.is(0)));
            if none {
                continue;
            }
            if x.axis() == Some(*axis) {
                return no("adds rows to the items of a run");
            }
            if pair.iter().flatten().any(|pad| self.has_items(pad)) {
                return no("computes with the number of items in the run");
            }
            let length = match pair {
                Some([before, after]) => {
                    let sum = self.computed("Add", &[before, after]);
                    self.computed("Add", &[dims[*axis].clone(), sum])
                }
                None => self.unknown(false),
            };
            dims[*axis] = length;
        }
        Ok(Value::new(dims, x.items.clone()))
    }

    fn recurrent(&mut self, call: &Call<'_>) -> Case<Vec<Value>> {
        let x = call.input(0)?;
        let layout = call.int("layout", 0)? != 0;
        let axis = if layout { 0 } else { 1 };
        if x.rank()? != 3 {
            return no("has an input of other than three axes");
        }
        if x.items.is_none() {
            return no("runs on a constant");
        }
        if x.items != Some(Items::along(axis)) {
            return no("goes from one item of a run to the next");
        }
        for (at, value) in call.inputs.iter().enumerate().skip(1) {
            let Some(value) = value else { continue };
            let wanted = match at {
                // Lengths of the sequences, and states.
                4 => Some(0),
                5 | 6 => Some(axis),
                _ => None,
            };
            match (&value.items, wanted) {
                (Some(items), Some(wanted)) if *items == Items::along(wanted) => {
                    if value.dims()?[wanted] != x.dims()?[axis] {
                        return no("has states of another number of items");
                    }
                }
                (None, None) => {}
                _ => return no("has states that do not go with the items of a run"),
            }
        }
        let (count, length) = (x.dims()?[axis].clone(), x.dims()?[1 - axis].clone());
        let both = call.text("direction", "forward")? == "bidirectional";
        let directions = Length::number(if both { 2 } else { 1 });
        let hidden = Length::number(call.int("hidden_size", 0)?);
        let (all, last) = match layout {
            false => (
                Value::new(
                    vec![length, directions.clone(), count.clone(), hidden.clone()],
                    Some(Items::along(2)),
                ),
                Value::new(vec![directions, count, hidden], Some(Items::along(1))),
            ),
            true => (
                Value::new(
                    vec![count.clone(), length, directions.clone(), hidden.clone()],
                    Some(Items::along(0)),
                ),
                Value::new(vec![count, directions, hidden], Some(Items::along(0))),
            ),
        };
        Ok(vec![all, last.clone(), last])
    }

    /// Trees, linear models and what prepares data for them. Rows are items where the input has two axes.
    fn classical(&mut self, call: &Call<'_>) -> Case<Vec<Value>> {
        let x = call.input(0)?;
        let op = call.node.op.as_str();
        let table = || -> Case<Length> {
            let dims = x.dims()?;
            match x.items == Some(Items::along(0)) && dims.len() == 2 {
                true => Ok(dims[0].clone()),
                false => no("has an input that is not one row for each item"),
            }
        };
        let same = x.clone();
        match op {
            "Binarizer" | "CategoryMapper" | "LabelEncoder" => Ok(vec![same]),
            "Imputer" | "Normalizer" | "Scaler" => {
                table()?;
                Ok(vec![same])
            }
            "LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier" => {
                let count = table()?;
                let scores = vec![count.clone(), self.unknown(false)];
                Ok(vec![
                    Value::new(vec![count], Some(Items::along(0))),
                    Value::new(scores, Some(Items::along(0))),
                ])
            }
            "LinearRegressor" | "SVMRegressor" | "TreeEnsemble" | "TreeEnsembleRegressor" => {
                let targets = match op {
                    "LinearRegressor" => call.int("targets", 1)?,
                    "SVMRegressor" => 1,
                    _ => call.int("n_targets", 0)?,
                };
                let targets = match targets {
                    0 => self.unknown(false),
                    targets => Length::number(targets),
                };
                let dims = vec![table()?, targets];
                Ok(vec![Value::new(dims, Some(Items::along(0)))])
            }
            "OneHotEncoder" => {
                let mut dims = x.dims()?.to_vec();
                dims.push(self.unknown(false));
                Ok(vec![Value::new(dims, x.items.clone())])
            }
            "FeatureVectorizer" => {
                for value in call.given() {
                    let begins = value.items == Some(Items::along(0)) && value.rank()? == 2;
                    if !begins {
                        return no("has an input that is not one row for each item");
                    }
                }
                let dims = vec![table()?, self.unknown(false)];
                Ok(vec![Value::new(dims, Some(Items::along(0)))])
            }
            "ArrayFeatureExtractor" => {
                let at = call.input(1)?;
                let mut dims = x.dims()?.to_vec();
                let last = dims
                    .len()
                    .checked_sub(1)
                    .ok_or("has an input without axes")?;
                match (&x.items, &at.items) {
                    (Some(items), None) if items.axis < last => {
                        dims[last] = match Length::product(at.dims()?) {
                            Some(count) => count,
                            None => self.unknown(false),
                        };
                        Ok(vec![Value::new(dims, x.items.clone())])
                    }
                    // A table of names, and each item's place in it.
                    (None, Some(items)) if items.outer.is(1) && dims.len() == 1 => {
                        let count = Length::product(at.dims()?).ok_or(UNKNOWN)?;
                        if count != Length::name(ITEMS) {
                            return no("takes several elements for each item");
                        }
                        let dims = vec![Length::number(1), count];
                        Ok(vec![Value::new(dims, Some(Items::along(1)))])
                    }
                    _ => no("takes elements by their place among the items"),
                }
            }
            _ => no(UNKNOWN),
        }
    }

    /// Operators that ONNX Runtime's optimiser writes into files.
    fn microsoft(&mut self, call: &Call<'_>) -> Case<Vec<Value>> {
        let op = call.node.op.as_str();
        let x = call.input(0)?;
        match op {
            "Gelu" | "FastGelu" | "BiasGelu" | "QuickGelu" => {
                let all: Vec<&Value> = call.given().collect();
                Ok(vec![self.broadcast(&all)?])
            }
            "FusedMatMul" => {
                for name in ["transBatchA", "transBatchB"] {
                    if call.int(name, 0)? != 0 {
                        return no(UNKNOWN);
                    }
                }
                let a = Self::turned(x, call.int("transA", 0)? != 0)?;
                let b = Self::turned(call.input(1)?, call.int("transB", 0)? != 0)?;
                Ok(vec![self.matmul(&a, &b)?])
            }
            "FusedGemm" => {
                let a = Self::turned(x, call.int("transA", 0)? != 0)?;
                let b = Self::turned(call.input(1)?, call.int("transB", 0)? != 0)?;
                let product = self.matmul(&a, &b)?;
                Ok(vec![match call.get(2) {
                    Some(c) => self.broadcast(&[&product, c])?,
                    None => product,
                }])
            }
            "FusedConv" => {
                let channels = call.get(1).and_then(|w| w.dims.as_ref()?.first().cloned());
                let unknown = self.unknown(false);
                Ok(vec![self.spatial(call, Some(channels.unwrap_or(unknown)))?])
            }
            "MatMulNBits" => {
                call.constant(1)?;
                let rank = x.rank()?;
                if x.axis() == Some(rank.saturating_sub(1)) {
                    return no("sums over the items of a run");
                }
                let mut dims = x.dims()?.to_vec();
                if let Some(last) = dims.last_mut() {
                    *last = Length::number(call.int("N", 0)?);
                }
                Ok(vec![Value::new(dims, x.items.clone())])
            }
            "MatMulIntegerToFloat" => {
                call.constant(2)?;
                for at in [2, 4] {
                    if call.get(at).is_some_and(|scale| !scale.is_single()) {
                        return no("has a scale or zero point for each row");
                    }
                }
                Ok(vec![self.matmul(x, call.input(1)?)?])
            }
            "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM" => {
                no("takes one scale over all items of a run")
            }
            "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
                call.constant(2)?;
                let sum = self.broadcast(&[x, call.input(1)?])?;
                let rank = sum.rank()?;
                if sum.axis().is_some_and(|axis| axis + 1 >= rank) {
                    return no("normalises over the items of a run");
                }
                let mut rest = sum.clone();
                for dim in rest.dims.iter_mut().flat_map(|dims| dims.last_mut()) {
                    *dim = Length::number(1);
                }
                Ok(vec![sum.clone(), rest.clone(), rest, sum])
            }
            "EmbedLayerNormalization" => {
                let items = Some(Items::along(0));
                let sizes = call.input(2)?.dims()?;
                for at in [0, 1, 7] {
                    if let Some(value) = call.get(at)
                        && (value.items != items || value.dims()?[0] != x.dims()?[0])
                    {
                        return no(ALONG);
                    }
                }
                if (2..7).any(|at| call.get(at).is_some_and(|v| v.items.is_some()))
                    || call.get(8).is_some()
                    || x.rank()? != 2
                    || sizes.len() != 2
                {
                    return no(UNKNOWN);
                }
                let dims = vec![x.dims()?[0].clone(), x.dims()?[1].clone(), sizes[1].clone()];
                let all = Value::new(dims, items.clone());
                let mask = Value::new(vec![x.dims()?[0].clone()], items);
                Ok(vec![all.clone(), mask, all])
            }
            "Attention" => {
                let items = Some(Items::along(0));
                call.constant_but(&[0, 3])?;
                let sizes = call.input(1)?.dims()?.to_vec();
                let mask_fits = match call.get(3) {
                    None => true,
                    Some(mask) => mask.items == items && mask.dims()?[0] == x.dims()?[0],
                };
                if x.items != items || x.rank()? != 3 || !mask_fits || call.inputs.len() > 4 {
                    return no(UNKNOWN);
                }
                let mut dims = x.dims()?.to_vec();
                let third = sizes.get(1).and_then(|s| s.over(&Length::number(3)));
                dims[2] = match third {
                    Some(third) => third,
                    None => self.unknown(false),
                };
                Ok(vec![Value::new(dims, items)])
            }
            "MultiHeadAttention" => {
                let items = Some(Items::along(0));
                call.constant_but(&[0, 1, 2, 4])?;
                for at in [1, 2, 4] {
                    if let Some(value) = call.get(at)
                        && (value.items != items || value.dims()?[0] != x.dims()?[0])
                    {
                        return no(ALONG);
                    }
                }
                if x.items != items || x.rank()? != 3 || call.inputs.len() > 5 {
                    return no(UNKNOWN);
                }
                let mut dims = x.dims()?.to_vec();
                dims[2] = self.unknown(false);
                Ok(vec![Value::new(dims, items)])
            }
            _ => no(UNKNOWN),
        }
    }
}

impl Call<'_> {
    /// That all inputs but these are the same whatever items are in the run.
    fn constant_but(&self, but: &[usize]) -> Case<()> {
        let mut rest = self.inputs.iter().enumerate();
        let constant = |(at, value): (usize, &Option<Rc<Value>>)| {
            but.contains(&at) || value.as_ref().is_none_or(|value| value.items.is_none())
        };
        match rest.all(constant) {
            true => Ok(()),
            false => no("takes items where it is known with constants only"),
        }
    }
}

/// Whether it is known here what becomes of places in an operator.
fn may_hold_places(op: &str) -> bool {
    is_elementwise(op)
        || matches!(
            op,
            "Identity"
                | "Cast"
                | "Squeeze"
                | "Unsqueeze"
                | "Expand"
                | "Concat"
                | "GatherND"
                | "Shape"
        )
}

/// What an operator makes of places.
fn place_of(call: &Call<'_>, value: &Value) -> Case<Place> {
    let first = call.input(0)?;
    let mut others = call.given().skip(1);
    Ok(match call.node.op.as_str() {
        "Identity" | "Squeeze" | "Unsqueeze" | "Expand" if first.place == Place::Index => {
            Place::Index
        }
        "Cast" if first.place == Place::Index && matches!(call.int("to", 0)?, 6 | 7) => {
            Place::Index
        }
        "Concat" => {
            let last = value.rank()?.checked_sub(1).ok_or(OF_PLACE)?;
            let axis = from_front(call.int("axis", 1)?, value.rank()?)?;
            let is_first = first.place == Place::Index && first.dims()?[last].is(1);
            match axis == last && is_first && others.all(|other| other.place == Place::None) {
                true => Place::First,
                false => Place::Other,
            }
        }
        "GatherND" if first.place == Place::None && others.all(|o| o.place == Place::First) => {
            Place::None
        }
        "GatherND" => return no(OF_PLACE),
        _ => Place::Other,
    })
}

fn is_elementwise(op: &str) -> bool {
    matches!(
        op,
        "Add"
            | "And"
            | "BitShift"
            | "BitwiseAnd"
            | "BitwiseOr"
            | "BitwiseXor"
            | "Div"
            | "Equal"
            | "Greater"
            | "GreaterOrEqual"
            | "Less"
            | "LessOrEqual"
            | "Max"
            | "Mean"
            | "Min"
            | "Mod"
            | "Mul"
            | "Or"
            | "PRelu"
            | "Pow"
            | "Sub"
            | "Sum"
            | "Where"
            | "Xor"
    )
}

fn is_random(op: &str) -> bool {
    matches!(
        op,
        "RandomNormal"
            | "RandomNormalLike"
            | "RandomUniform"
            | "RandomUniformLike"
            | "Multinomial"
            | "Bernoulli"
    )
}

fn transposed(value: &Value, order: &[usize]) -> Case<Value> {
    let dims = value.dims()?;
    if order.len() != dims.len() {
        return no("has an order of other axes than its input");
    }
    let items = match &value.items {
        None => None,
        Some(items) => {
            let axis = order.iter().position(|axis| *axis == items.axis);
            Some(items.moved(axis.ok_or("drops the axis that counts the items")?))
        }
    };
    Ok(Value::new(
        order.iter().map(|axis| dims[*axis].clone()).collect(),
        items,
    ))
}

/// A value without these axes, or with a length of 1 there; without any where `axes` is `None`.
fn reduced(value: &Value, axes: Option<&[i64]>, keeps: bool) -> Case<Value> {
    let dims = value.dims()?;
    let axes: Vec<usize> = match axes {
        None => (0..dims.len()).collect(),
        Some(axes) => {
            let axes = axes.iter().map(|axis| from_front(*axis, dims.len()));
            axes.collect::<Case<_>>()?
        }
    };
    if value.axis().is_some_and(|axis| axes.contains(&axis)) {
        return no("reduces over the items of a run");
    }
    if keeps {
        let kept = dims
            .iter()
            .enumerate()
            .map(|(at, dim)| match axes.contains(&at) {
                true => Length::number(1),
                false => dim.clone(),
            });
        return Ok(Value::new(kept.collect(), value.items.clone()));
    }
    let kept = dims.iter().enumerate().filter(|(at, _)| !axes.contains(at));
    let dims = kept.map(|(_, dim)| dim.clone()).collect();
    let items = value.items.as_ref().map(|items| {
        let before = axes.iter().filter(|axis| **axis < items.axis);
        let mut before: Vec<&usize> = before.collect();
        before.sort_unstable();
        before.dedup();
        items.moved(items.axis - before.len())
    });
    Ok(Value::new(dims, items))
}

fn squeezed(value: &Value, axes: Option<&[i64]>) -> Case<Value> {
    let dims = value.dims()?;
    match axes {
        Some(axes) => reduced(value, Some(axes), false),
        // A run of one item would lose the axis that counts the items.
        None if value.items.is_some() => {
            no("drops every axis of length 1, also the one that counts the items")
        }
        None if dims.iter().all(|dim| dim.known().is_some()) => {
            let kept = dims.iter().filter(|dim| !dim.is(1));
            Ok(Value::new(kept.cloned().collect(), None))
        }
        None => Ok(Value::constant(None)),
    }
}

fn unsqueezed(value: &Value, axes: &[i64]) -> Case<Value> {
    let mut dims = value.dims()?.to_vec();
    let rank = dims.len() + axes.len();
    let axes = axes.iter().map(|axis| from_front(*axis, rank));
    let mut axes: Vec<usize> = axes.collect::<Case<_>>()?;
    axes.sort_unstable();
    let mut items = value.items.clone();
    for axis in axes {
        if axis > dims.len() {
            return no("names an axis that its input does not have");
        }
        dims.insert(axis, Length::number(1));
        items = items.map(|items| items.moved(items.axis + usize::from(axis <= items.axis)));
    }
    Ok(Value::new(dims, items))
}

fn gathered(call: &Call<'_>) -> Case<Value> {
    let (x, at) = (call.input(0)?, call.input(1)?);
    let axis = from_front(call.int("axis", 0)?, x.rank()?)?;
    let (dims, places) = (x.dims()?, at.dims()?);
    let out = [&dims[..axis], places, &dims[axis + 1..]].concat();
    let items = match (&x.items, &at.items) {
        (None, None) => None,
        (None, Some(items)) => Some(items.moved(axis + items.axis)),
        (Some(items), None) if items.axis == axis => {
            return no("takes some of the items of a run by their place");
        }
        (Some(items), None) if items.axis < axis => Some(items.clone()),
        (Some(items), None) => Some(items.moved(items.axis + places.len() - 1)),
        (Some(_), Some(_)) => return no("takes elements of every item for each item"),
    };
    Ok(Value::new(out, items))
}

fn einsum(call: &Call<'_>) -> Case<Value> {
    let equation: String = call.text("equation", "")?.split_whitespace().collect();
    let Some((left, right)) = equation.split_once("->") else {
        return no("has an equation without a result");
    };
    let terms: Vec<&str> = left.split(',').collect();
    if equation.contains('.') || terms.len() != call.inputs.len() || !equation.is_ascii() {
        return no("has an equation that cannot be read here");
    }
    let mut letter = None;
    let mut lengths: HashMap<char, Length> = HashMap::new();
    let mut outer = None;
    for (at, term) in terms.iter().enumerate() {
        let value = call.input(at)?;
        let dims = value.dims()?;
        if term.len() != dims.len() {
            return no("has an equation that does not fit its inputs");
        }
        for (axis, own) in term.chars().enumerate() {
            if value.axis() == Some(axis) {
                if *letter.get_or_insert(own) != own || term.matches(own).count() != 1 {
                    return no("puts items along two axes");
                }
                let items = value.items.clone().ok_or(UNKNOWN)?;
                let before = outer.get_or_insert((items.outer.clone(), dims[axis].clone()));
                if *before != (items.outer, dims[axis].clone()) {
                    return no("puts items beside others in another order");
                }
            }
            let length = lengths.entry(own).or_insert_with(|| dims[axis].clone());
            if length.is(1) {
                *length = dims[axis].clone();
            }
        }
    }
    let out: Option<Vec<Length>> = right
        .chars()
        .map(|own| lengths.get(&own).cloned())
        .collect();
    let out = out.ok_or("has an equation that cannot be read here")?;
    let (Some(letter), Some((outer, _))) = (letter, outer) else {
        return Ok(Value::new(out, None));
    };
    for (at, term) in terms.iter().enumerate() {
        let value = call.input(at)?;
        if value.items.is_none() && term.contains(letter) {
            return no("puts items beside a value that has a length of its own there");
        }
    }
    if right.matches(letter).count() != 1 {
        return no("sums over the items of a run");
    }
    let axis = right.find(letter).ok_or("sums over the items of a run")?;
    Ok(Value::new(out, Some(Items { axis, outer })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Node {
            op: op.to_owned(),
            inputs: own(inputs),
            outputs: own(outputs),
            ..Node::default()
        }
    }

    fn with(mut node: Node, name: &str, attribute: Attribute) -> Node {
        node.attributes.insert(name.to_owned(), attribute);
        node
    }

    fn int(node: Node, name: &str, value: i64) -> Node {
        with(node, name, Attribute::Int(value))
    }

    fn ints(node: Node, name: &str, values: &[i64]) -> Node {
        with(node, name, Attribute::Ints(values.to_vec()))
    }

    fn port(name: &str, dims: &[&str]) -> Port {
        let dim = |dim: &&str| match dim.parse() {
            Ok(length) => Dim::Fixed(length),
            Err(_) => Dim::Symbolic((*dim).to_owned()),
        };
        Port {
            name: name.into(),
            ty: crate::backend::PortType::Tensor(crate::tensor::TensorType::Bool),
            dims: Some(dims.iter().map(dim).collect()),
        }
    }

    fn list(values: &[i64]) -> Initial {
        Initial {
            dims: vec![values.len() as i64],
            ints: Some(values.to_vec()),
            floats: None,
        }
    }

    fn weight(dims: &[i64]) -> Initial {
        Initial {
            dims: dims.to_vec(),
            ..Initial::default()
        }
    }

    /// `x` is `[N,4]`, `t` is `[N,S,8]`, `n` a number an item; constants are `w`, `[4,4]`, and lists of whole numbers.
    fn judged(nodes: &[Node], more: &[(&str, Initial)]) -> Rows {
        judged_in(17, nodes, more)
    }

    fn judged_in(opset: i64, nodes: &[Node], more: &[(&str, Initial)]) -> Rows {
        let constants = [
            ("w", weight(&[4, 4])),
            ("v", weight(&[8, 8])),
            ("b", weight(&[4])),
            ("five", weight(&[5, 4])),
            ("zero", list(&[0])),
            ("one", list(&[1])),
            ("two", list(&[2])),
            ("last", list(&[-1])),
        ];
        let constants = constants.iter().chain(more);
        let graph = Graph {
            nodes,
            initials: constants
                .map(|(name, initial)| ((*name).to_owned(), initial.clone()))
                .collect(),
            functions: &[],
            opset,
            inputs: &[
                port("x", &["N", "4"]),
                port("t", &["N", "S", "8"]),
                port("n", &["N"]),
            ],
            outputs: &[port("y", &["N"])],
        };
        rows(&graph)["y"].clone()
    }

    fn independent(nodes: &[Node]) {
        assert_eq!(judged(nodes, &[]), Rows::Independent, "{nodes:?}");
    }

    fn dependent(nodes: &[Node], op: &str, word: &str) {
        depends(judged(nodes, &[]), op, word);
    }

    fn depends(rows: Rows, op: &str, word: &str) {
        let Rows::Dependent(reason) = rows else {
            panic!("{op} {word} passes for independent");
        };
        assert!(reason.contains(word), "{op} {word}: {reason}");
        assert!(reason.contains(op), "{op} {word}: {reason}");
    }

    #[test]
    fn layers_that_work_along_other_axes_keep_rows_apart() {
        independent(&[
            node("MatMul", &["x", "w"], &["a"]),
            node("Add", &["a", "b"], &["c"]),
            node("Relu", &["c"], &["d"]),
            node("Softmax", &["d"], &["y"]),
        ]);
        independent(&[int(node("Gemm", &["x", "w", "b"], &["y"]), "transB", 1)]);
        independent(&[ints(node("ReduceMean", &["t"], &["y"]), "axes", &[-1])]);
        independent(&[node("LayerNormalization", &["x", "b", "b"], &["y"])]);
        independent(&[int(node("TopK", &["x", "two"], &["y", "i"]), "axis", 1)]);
        independent(&[node("CumSum", &["x", "one"], &["y"])]);
    }

    #[test]
    fn what_works_along_the_items_makes_rows_depend_and_the_reason_names_operator_and_node() {
        let named = Node {
            name: "scale/max".into(),
            ..int(node("ReduceMax", &["x"], &["m"]), "keepdims", 0)
        };
        let reason = judged(&[named, node("Div", &["x", "m"], &["y"])], &[]).to_string();
        assert_eq!(
            reason,
            "operator ReduceMax (node \"scale/max\") reduces over the items of a run"
        );
        dependent(&[node("CumSum", &["x", "zero"], &["y"])], "CumSum", "sums");
        dependent(
            &[int(node("Softmax", &["x"], &["y"]), "axis", 0)],
            "Softmax",
            "normalises",
        );
        dependent(
            &[int(node("TopK", &["x", "two"], &["y", "i"]), "axis", 0)],
            "TopK",
            "sorts",
        );
        dependent(
            &[
                node("DynamicQuantizeLinear", &["x"], &["q", "s", "z"]),
                node("DequantizeLinear", &["q", "s", "z"], &["y"]),
            ],
            "DynamicQuantizeLinear",
            "one scale over all items",
        );
        for op in ["NonZero", "Unique", "NonMaxSuppression"] {
            dependent(&[node(op, &["x"], &["y"])], op, "finds in all items");
        }
        dependent(
            &[ints(node("Transpose", &["x"], &["y"]), "perm", &[1, 0])],
            "output",
            "one row",
        );
        dependent(
            &[node("LSTM", &["t", "w", "w"], &["y"])],
            "LSTM",
            "one item of a run to the next",
        );
        dependent(
            &[node("MatMul", &["w", "x"], &["y"])],
            "MatMul",
            "sums over",
        );
        dependent(
            &[node("Gather", &["x", "zero"], &["y"])],
            "Gather",
            "by their place",
        );
        dependent(
            &[
                node("Concat", &["x", "five"], &["a"]),
                int(node("Concat", &["x", "five"], &["y"]), "axis", 0),
            ],
            "Concat",
            "beside",
        );
        dependent(
            &[node("Add", &["x", "five"], &["y"])],
            "Add",
            "length of its own",
        );
        dependent(&[node("Squeeze", &["x"], &["y"])], "Squeeze", "length 1");
        dependent(
            &[node("RandomNormalLike", &["x"], &["y"])],
            "RandomNormalLike",
            "random",
        );
        dependent(
            &[node("OfTomorrow", &["x"], &["y"])],
            "OfTomorrow",
            "not among",
        );
        let foreign = Node {
            domain: "com.example".into(),
            ..node("Relu", &["x"], &["y"])
        };
        dependent(&[foreign], "Relu", "not among");
        let nested = Node {
            has_graphs: true,
            ..node("If", &["x"], &["y"])
        };
        dependent(&[nested], "If", "at run time");
    }

    #[test]
    fn the_softmax_before_opset_13_normalises_over_all_axes_behind_its_own() {
        let softmax = |axis| [int(node("Softmax", &["t"], &["y"]), "axis", axis)];
        assert_eq!(judged_in(12, &softmax(1), &[]), Rows::Independent);
        depends(judged_in(12, &softmax(0), &[]), "Softmax", "normalises");
        let turned = [
            ints(node("Transpose", &["t"], &["u"]), "perm", &[1, 0, 2]),
            int(node("Softmax", &["u"], &["v"]), "axis", 0),
            ints(node("Transpose", &["v"], &["y"]), "perm", &[1, 0, 2]),
        ];
        assert_eq!(judged_in(13, &turned, &[]), Rows::Independent);
        depends(judged_in(12, &turned, &[]), "Softmax", "normalises");
    }

    #[test]
    fn shapes_that_are_computed_keep_items_apart_or_do_not() {
        let shape = |to: Node| {
            [
                node("Shape", &["t"], &["s"]),
                node("Gather", &["s", "zero"], &["count"]),
                node("Gather", &["s", "one"], &["length"]),
                to,
                node("Reshape", &["t", "target"], &["y"]),
            ]
        };
        let concat = |inputs: &[&str]| int(node("Concat", inputs, &["target"]), "axis", 0);
        independent(&shape(concat(&["count", "length", "two", "last"])));
        independent(&shape(concat(&["count", "last"])));
        independent(&shape(concat(&["zero", "last"])));
        independent(&shape(concat(&["last", "length", "two", "two", "two"])));
        dependent(&shape(concat(&["length", "last"])), "Reshape", "apart");
        dependent(&shape(concat(&["two", "last"])), "Reshape", "apart");
        // Into one list of tokens, through a layer, and back.
        independent(&[
            with(
                node("Constant", &[], &["flat"]),
                "value_ints",
                Attribute::Ints(vec![-1, 8]),
            ),
            node("Reshape", &["t", "flat"], &["a"]),
            node("MatMul", &["a", "v"], &["c"]),
            node("Shape", &["t"], &["s"]),
            node("Reshape", &["c", "s"], &["y"]),
        ]);
        // Items between the other two axes, as with batch_first = False.
        let inner = [
            ints(node("Transpose", &["t"], &["u"]), "perm", &[1, 0, 2]),
            with(
                node("Constant", &[], &["flat"]),
                "value_ints",
                Attribute::Ints(vec![-1, 8]),
            ),
            node("Reshape", &["u", "flat"], &["a"]),
            node("MatMul", &["a", "v"], &["c"]),
            node("Shape", &["u"], &["s"]),
            node("Reshape", &["c", "s"], &["d"]),
            ints(node("Transpose", &["d"], &["y"]), "perm", &[1, 0, 2]),
        ];
        independent(&inner);
    }

    #[test]
    fn the_number_of_items_may_be_a_size_and_not_a_number() {
        independent(&[
            node("Shape", &["x"], &["s"]),
            node("ConstantOfShape", &["s"], &["ones"]),
            node("Add", &["x", "ones"], &["y"]),
        ]);
        dependent(
            &[
                node("Shape", &["x"], &["s"]),
                node("Gather", &["s", "zero"], &["count"]),
                int(node("Cast", &["count"], &["c"]), "to", 1),
                node("Div", &["x", "c"], &["y"]),
            ],
            "Cast",
            "number of items",
        );
        dependent(
            &[
                node("Shape", &["n"], &["s"]),
                node("Squeeze", &["s"], &["count"]),
                with(
                    node("Constant", &[], &["from"]),
                    "value_int",
                    Attribute::Int(0),
                ),
                with(
                    node("Constant", &[], &["step"]),
                    "value_int",
                    Attribute::Int(1),
                ),
                node("Range", &["from", "count", "step"], &["r"]),
                node("Add", &["n", "r"], &["y"]),
            ],
            "Range",
            "place of an item",
        );
    }

    #[test]
    fn an_item_may_take_its_own_row_by_its_place_and_no_other() {
        let to = |more: &[Node]| {
            let mut nodes = vec![
                node("Shape", &["x"], &["s"]),
                node("Gather", &["s", "nought"], &["count"]),
                node("Range", &["nought", "count", "single"], &["r"]),
                node("Unsqueeze", &["r", "last"], &["places"]),
            ];
            nodes.extend_from_slice(more);
            let scalar = |value| Initial {
                dims: Vec::new(),
                ints: Some(vec![value]),
                floats: None,
            };
            judged(&nodes, &[("nought", scalar(0)), ("single", scalar(1))])
        };
        let own = [
            node("Expand", &["one", "places_shape"], &["column"]),
            int(node("Concat", &["places", "column"], &["at"]), "axis", -1),
            node("GatherND", &["x", "at"], &["y"]),
        ];
        let shape = node("Shape", &["places"], &["places_shape"]);
        assert_eq!(
            to(&[&[shape.clone()][..], &own].concat()),
            Rows::Independent
        );
        let swapped = [
            shape,
            own[0].clone(),
            int(node("Concat", &["column", "places"], &["at"]), "axis", -1),
            own[2].clone(),
        ];
        depends(to(&swapped), "GatherND", "place");
        depends(
            to(&[node("Add", &["x", "places"], &["y"])]),
            "Range",
            "place",
        );
        let wrong = [
            node("Sub", &["places", "one"], &["before"]),
            node("GatherND", &["x", "before"], &["y"]),
        ];
        depends(to(&wrong), "GatherND", "place");
        depends(
            to(&[node("Gather", &["x", "r"], &["y"])]),
            "Gather",
            "place",
        );
    }

    #[test]
    fn trees_and_linear_models_have_rows_of_their_own() {
        let classical = |op: &str, inputs: &[&str], outputs: &[&str]| Node {
            domain: "ai.onnx.ml".into(),
            ..node(op, inputs, outputs)
        };
        independent(&[
            classical("Scaler", &["x"], &["a"]),
            classical("TreeEnsembleClassifier", &["a"], &["y", "p"]),
        ]);
        // scikit-learn's class names: the place of the greatest, in a list of names.
        independent(&[
            classical("TreeEnsembleRegressor", &["x"], &["p"]),
            int(
                int(node("ArgMax", &["p"], &["i"]), "axis", 1),
                "keepdims",
                1,
            ),
            classical("ArrayFeatureExtractor", &["b", "i"], &["names"]),
            node("Reshape", &["names", "last"], &["y"]),
        ]);
        dependent(
            &[classical("Normalizer", &["n"], &["y"])],
            "Normalizer",
            "one row for each item",
        );
    }

    #[test]
    fn a_function_of_the_file_is_judged_by_its_body() {
        let function = |op: Node| Function {
            domain: "own".into(),
            name: "Own".into(),
            inputs: vec!["a".into()],
            outputs: vec!["b".into()],
            nodes: vec![op],
            opset: None,
        };
        let judged = |op: Node| {
            let call = Node {
                domain: "own".into(),
                ..node("Own", &["x"], &["y"])
            };
            let functions = [function(op)];
            let graph = Graph {
                nodes: &[call],
                initials: HashMap::new(),
                functions: &functions,
                opset: 17,
                inputs: &[port("x", &["N", "4"])],
                outputs: &[port("y", &["N", "4"])],
            };
            rows(&graph)["y"].clone()
        };
        assert_eq!(judged(node("Relu", &["a"], &["b"])), Rows::Independent);
        depends(
            judged(int(node("Softmax", &["a"], &["b"]), "axis", 0)),
            "Softmax",
            "normalises",
        );
        // An axis that the call gives is not known.
        depends(
            judged(with(
                node("Softmax", &["a"], &["b"]),
                "axis",
                Attribute::Other,
            )),
            "Softmax",
            "cannot be read",
        );
    }
}
