//! Follows the values of a graph from operator to operator.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::value::{
    Case, Followed, ITEMS, ItemIndexUse, Items, Length, OF_PLACE, UNKNOWN, Value, from_front, no,
};
use crate::backend::cost::{Attribute, Function, Initial, Node};
use crate::backend::port::{Dim, Port};

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

/// Most operators that are looked at; as in `cost`.
pub(super) const MAX_STEPS: usize = 1 << 18;

/// Most functions that may be inside one another.
pub(super) const MAX_FUNCTION_DEPTH: usize = 16;

/// The most of a name that a reason repeats.
pub(super) const MAX_SHOWN_CHARS: usize = 60;

pub(super) fn shown(name: &str) -> String {
    let cut: String = name.chars().take(MAX_SHOWN_CHARS).collect();
    format!("{cut:?}")
}

pub(super) struct Walk<'a> {
    pub(super) functions: HashMap<(&'a str, &'a str), &'a Function>,
    pub(super) steps: usize,
    /// By name in a [`Length`]: whether it follows from the number of items.
    pub(super) of_items: Vec<bool>,
    /// Names of numbers that were computed, which may be negative; all others are lengths of axes.
    pub(super) computed: HashSet<u32>,
    /// Lengths that are no product, by how they were computed, so that the same gets the same name.
    pub(super) made: HashMap<(&'static str, Length, Length), u32>,
}

/// An operator with its inputs.
pub(super) struct Operation<'a> {
    pub(super) node: &'a Node,
    /// `None` for an input that is left out.
    pub(super) inputs: &'a [Option<Rc<Value>>],
    pub(super) opset: i64,
}

impl Operation<'_> {
    pub(super) fn get(&self, index: usize) -> Option<&Value> {
        self.inputs.get(index)?.as_deref()
    }

    pub(super) fn input(&self, index: usize) -> Case<&Value> {
        self.get(index)
            .ok_or_else(|| "lacks an input that it needs".to_owned())
    }

    pub(super) fn given(&self) -> impl Iterator<Item = &Value> {
        self.inputs.iter().flatten().map(|value| &**value)
    }

    /// A whole number among the attributes.
    pub(super) fn int(&self, name: &str, default: i64) -> Case<i64> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(format!("has an attribute {name} that cannot be read here")),
        }
    }

    /// A list among the attributes.
    pub(super) fn ints(&self, name: &str) -> Case<Option<&[i64]>> {
        match self.node.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(format!("has an attribute {name} that cannot be read here")),
        }
    }

    pub(super) fn text(&self, name: &str, default: &str) -> Case<String> {
        match self.node.attributes.get(name) {
            None => Ok(default.to_owned()),
            Some(Attribute::Text(text)) => Ok(text.clone()),
            Some(_) => Err(format!("has an attribute {name} that cannot be read here")),
        }
    }

    /// Axes from an input or from an attribute; `None` without either.
    pub(super) fn axes(&self, input: usize) -> Case<Option<Vec<i64>>> {
        if let Some(value) = self.get(input) {
            let known = value.known();
            return known
                .map(Some)
                .ok_or_else(|| "has axes that are computed".into());
        }
        Ok(self.ints("axes")?.map(<[i64]>::to_vec))
    }

    /// Checks that these inputs are the same for all items that the run may have.
    pub(super) fn constant(&self, from: usize) -> Case<()> {
        let mut rest = self.inputs.iter().skip(from).flatten();
        match rest.all(|value| value.items.is_none()) {
            true => Ok(()),
            false => no("takes items where it is known with constants only"),
        }
    }
}

impl Walk<'_> {
    /// A name for an unknown length.
    pub(super) fn unknown(&mut self, of_items: bool) -> Length {
        self.of_items.push(of_items);
        Length::name(self.of_items.len() as u32 - 1)
    }

    /// Returns whether a length follows from the number of items.
    pub(super) fn has_items(&self, length: &Length) -> bool {
        (length.names.iter()).any(|name| self.of_items[*name as usize])
    }

    /// A length of so many parts a number of items: it has that as a factor, once.
    pub(super) fn is_of_items(&self, length: &Length) -> bool {
        let of_items = |name: &&u32| self.of_items[**name as usize];
        let mut names = length.names.iter().filter(of_items);
        names.next() == Some(&ITEMS) && names.next().is_none() && length.factor > 0
    }

    pub(super) fn counts_items(&self, value: &Value) -> bool {
        (value.numbers.iter().flatten()).any(|number| self.has_items(number))
    }

    pub(super) fn input<'n>(
        &mut self,
        port: &'n Port,
        names: &mut HashMap<&'n str, u32>,
    ) -> Followed {
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
    pub(super) fn nodes(
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
                    let operation = Operation {
                        node,
                        inputs: &inputs,
                        opset,
                    };
                    match self.operator(&operation) {
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
    pub(super) fn call(
        &mut self,
        function: &Function,
        arguments: &[Option<Rc<Value>>],
        opset: i64,
        depth: usize,
    ) -> Result<Vec<Followed>, String> {
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| "the graph's functions are nested too deep".to_owned())?;
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

    pub(super) fn operator(&mut self, operation: &Operation<'_>) -> Case<Vec<Value>> {
        let Node { op, domain, .. } = operation.node;
        if operation.node.has_graphs {
            return no("decides at run time what else is run");
        }
        let is_onnx = matches!(domain.as_str(), "" | "ai.onnx");
        if is_onnx && is_random(op) {
            return no("draws random numbers");
        }
        if is_onnx && let Some(value) = self.arithmetic(operation)? {
            return Ok(vec![value]);
        }
        let places = operation
            .given()
            .any(|value| value.place != ItemIndexUse::None);
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
        let data = operation.inputs.iter().enumerate();
        let mut data = data.filter(|(index, _)| !sizes.contains(index));
        if data.any(|(_, value)| value.as_ref().is_some_and(|v| self.counts_items(v))) {
            return no("computes with the number of items in the run");
        }
        let judged = match domain.as_str() {
            "" | "ai.onnx" => self.onnx(operation),
            "ai.onnx.ml" => self.classical(operation),
            "com.microsoft" => self.microsoft(operation),
            _ => return no(UNKNOWN),
        };
        let values = match judged {
            // The outputs of constants alone are constants, for every operator; only their shape is not known.
            Err(_)
                if is_onnx
                    && operation.given().all(|v| v.items.is_none())
                    && !operation.given().any(|v| self.counts_items(v)) =>
            {
                vec![Value::constant(None); operation.node.outputs.len()]
            }
            judged => judged?,
        };
        let is_constant = is_onnx && operation.node.op == "Constant";
        let mut values = values;
        for value in &mut values {
            // Values computed from whole numbers are handled above. Other values must not pass for them.
            if !is_constant {
                value.numbers = None;
                value.begins_with_one = false;
            }
            if places {
                value.place = place_of(operation, value)?;
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

    /// The result of several values element by element.
    pub(super) fn broadcast(&mut self, values: &[&Value]) -> Case<Value> {
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

    pub(super) fn merged(
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
}

impl Operation<'_> {
    /// Checks that all inputs except these are the same for all items that the run may have.
    pub(super) fn constant_but(&self, but: &[usize]) -> Case<()> {
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

/// Returns whether the rules here know the result of an operator on places.
pub(super) fn may_hold_places(op: &str) -> bool {
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

/// The result of an operator on places.
pub(super) fn place_of(operation: &Operation<'_>, value: &Value) -> Case<ItemIndexUse> {
    let first = operation.input(0)?;
    let mut others = operation.given().skip(1);
    Ok(match operation.node.op.as_str() {
        "Identity" | "Squeeze" | "Unsqueeze" | "Expand" if first.place == ItemIndexUse::Index => {
            ItemIndexUse::Index
        }
        "Cast"
            if first.place == ItemIndexUse::Index && matches!(operation.int("to", 0)?, 6 | 7) =>
        {
            ItemIndexUse::Index
        }
        "Concat" => {
            let last = value.rank()?.checked_sub(1).ok_or(OF_PLACE)?;
            let axis = from_front(operation.int("axis", 1)?, value.rank()?)?;
            let is_first = first.place == ItemIndexUse::Index && first.dims()?[last].is(1);
            match axis == last && is_first && others.all(|other| other.place == ItemIndexUse::None)
            {
                true => ItemIndexUse::First,
                false => ItemIndexUse::Other,
            }
        }
        "GatherND"
            if first.place == ItemIndexUse::None
                && others.all(|o| o.place == ItemIndexUse::First) =>
        {
            ItemIndexUse::None
        }
        "GatherND" => return no(OF_PLACE),
        _ => ItemIndexUse::Other,
    })
}

pub(super) fn is_elementwise(op: &str) -> bool {
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

pub(super) fn is_random(op: &str) -> bool {
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
