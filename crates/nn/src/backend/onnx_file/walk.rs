//! The walk over a whole file: its facts, ports, operators and small constants.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Seek};

use super::declared::Declared;
use super::field;
use super::wire::{Item, MAX_DEPTH, Malformed, Walked, Wire, words};
use crate::backend::cost::{Attribute, Function, Initial, Node};
use crate::backend::port::Port;
use crate::backend::rows::MAX_NUMBERS;

/// Most entries of metadata that are kept; files have a handful.
const MAX_METADATA: usize = 256;

/// Reads a file once, from front to back, and collects its description.
pub struct Walk<R> {
    wire: Wire<R>,
    /// The description, without the properties that follow from the operators.
    pub declared: Declared,
    /// The operators of the outermost graph.
    pub nodes: Vec<Node>,
    /// The operators that the file defines.
    pub functions: Vec<Function>,
    /// The outermost graph's initializers, by name.
    pub initials: HashMap<String, Initial>,
    /// The version of ONNX's own operators.
    pub opset: i64,
}

impl<R: BufRead + Seek> Walk<R> {
    /// A walk at the start of a file.
    pub fn new(source: R) -> Self {
        Self {
            wire: Wire::new(source),
            declared: Declared::default(),
            nodes: Vec::new(),
            functions: Vec::new(),
            initials: HashMap::new(),
            // The version that ONNX gives a file without one.
            opset: 1,
        }
    }

    /// Reads the whole file and returns the names of the outermost graph's initializers.
    pub fn file(&mut self) -> Walked<HashSet<String>> {
        let end = self.wire.length()?;
        self.model(end)
    }

    fn port(&mut self, end: u64) -> Walked<Port> {
        let (port, composed) = self.wire.port(end)?;
        if let Some(composed) = composed {
            self.declared.composed.insert(port.name.clone(), composed);
        }
        Ok(port)
    }

    fn model(&mut self, end: u64) -> Walked<HashSet<String>> {
        let mut initialized = HashSet::new();
        while let Some((field, item)) = self.wire.next(end)? {
            let until = match (field, item) {
                (field::MODEL_IR_VERSION, Item::Number(version)) => {
                    self.declared.facts.ir_version = version;
                    continue;
                }
                (_, Item::Until(until)) => until,
                _ => continue,
            };
            match field {
                field::MODEL_PRODUCER => self.declared.facts.producer = self.wire.note(until)?,
                field::MODEL_PRODUCER_VERSION => {
                    self.declared.facts.producer_version = self.wire.note(until)?;
                }
                field::MODEL_DESCRIPTION => {
                    self.declared.facts.description = self.wire.note(until)?
                }
                field::MODEL_OPSET => {
                    let (domain, version) = self.wire.operators_of(until)?;
                    if domain.is_empty() {
                        self.opset = version.cast_signed();
                    }
                    self.declared.facts.opsets.insert(domain, version);
                }
                field::MODEL_METADATA => {
                    let entry = self.wire.entry(until)?;
                    if self.declared.facts.metadata.len() < MAX_METADATA {
                        self.declared.facts.metadata.push(entry);
                    }
                }
                field::MODEL_GRAPH => self.graph(until, Some(&mut initialized), MAX_DEPTH)?,
                field::MODEL_TRAINING => {
                    while let Some((field, item)) = self.wire.next(until)? {
                        match (field, item) {
                            (
                                field::TRAINING_INITIALIZATION | field::TRAINING_ALGORITHM,
                                Item::Until(until),
                            ) => self.graph(until, None, MAX_DEPTH)?,
                            (_, Item::Until(until)) => self.wire.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                field::MODEL_FUNCTIONS => {
                    let function = self.function(until)?;
                    self.functions.push(function);
                }
                _ => self.wire.skip_to(until)?,
            }
        }
        let Declared { inputs, .. } = &mut self.declared;
        inputs.retain(|port| !initialized.contains(&port.name));
        Ok(initialized)
    }

    fn function(&mut self, end: u64) -> Walked<Function> {
        let mut function = Function::default();
        while let Some((field, item)) = self.wire.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                field::FUNCTION_NAME => function.name = self.wire.text(until)?,
                field::FUNCTION_DOMAIN => function.domain = self.wire.text(until)?,
                field::FUNCTION_INPUT => function.inputs.push(self.wire.text(until)?),
                field::FUNCTION_OUTPUT => function.outputs.push(self.wire.text(until)?),
                field::FUNCTION_NODE => function.nodes.push(self.node(until, MAX_DEPTH)?),
                field::FUNCTION_ATTRIBUTE => drop(self.attribute(until, MAX_DEPTH)?),
                field::FUNCTION_OPSET => {
                    function.opset = self.wire.opset(until)?.or(function.opset)
                }
                _ => self.wire.skip_to(until)?,
            }
        }
        Ok(function)
    }

    /// Reads a graph up to the offset `end`. `initialized` is given for the outermost graph only, and collects the names of
    /// its initializers.
    fn graph(
        &mut self,
        end: u64,
        mut initialized: Option<&mut HashSet<String>>,
        depth: usize,
    ) -> Walked<()> {
        let depth = depth
            .checked_sub(1)
            .ok_or(Malformed("its graphs are nested too deep"))?;
        while let Some((field, item)) = self.wire.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                field::GRAPH_NODE => {
                    let node = self.node(until, depth)?;
                    // Graphs inside of operators are looked at for the files they name alone.
                    if initialized.is_some() {
                        self.nodes.push(node);
                    }
                }
                field::GRAPH_INITIALIZER | field::GRAPH_SPARSE_INITIALIZER => {
                    let (name, initial) = if field == field::GRAPH_INITIALIZER {
                        let (name, initial) = self.tensor(until)?;
                        if initialized.is_some() {
                            let count = (initial.dims.iter())
                                .fold(1u64, |count, dim| count.saturating_mul(dim.unsigned_abs()));
                            let parameters = &mut self.declared.facts.parameters;
                            *parameters = parameters.saturating_add(count);
                        }
                        (name, initial)
                    } else {
                        self.sparse(until)?
                    };
                    if let (Some(names), Some(name)) = (&mut initialized, name) {
                        self.initials.insert(name.clone(), initial);
                        names.insert(name);
                    }
                }
                field::GRAPH_INPUT if initialized.is_some() => {
                    let port = self.port(until)?;
                    self.declared.inputs.push(port);
                }
                field::GRAPH_OUTPUT if initialized.is_some() => {
                    let port = self.port(until)?;
                    self.declared.outputs.push(port);
                }
                _ => self.wire.skip_to(until)?,
            }
        }
        Ok(())
    }

    fn node(&mut self, end: u64, depth: usize) -> Walked<Node> {
        let mut node = Node::default();
        while let Some((field, item)) = self.wire.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                field::NODE_INPUT => node.inputs.push(self.wire.text(until)?),
                field::NODE_OUTPUT => node.outputs.push(self.wire.text(until)?),
                field::NODE_OPERATOR => node.op = self.wire.text(until)?,
                field::NODE_DOMAIN => node.domain = self.wire.text(until)?,
                field::NODE_NAME => node.name = self.wire.text(until)?,
                field::NODE_ATTRIBUTE => {
                    let (name, attribute, has_graphs) = self.attribute(until, depth)?;
                    node.has_graphs |= has_graphs;
                    node.attributes.insert(name, attribute);
                }
                _ => self.wire.skip_to(until)?,
            }
        }
        if let (Some(Attribute::Int(axis)), Some(output)) =
            (node.attributes.get("axis"), node.outputs.first())
        {
            self.declared.axes.insert(output.clone(), *axis);
        }
        if node.op == "ZipMap"
            && let Some(output) = node.outputs.first()
        {
            let classes = node
                .attributes
                .values()
                .find_map(|attribute| match attribute {
                    Attribute::Ints(classes) => Some(classes.iter().map(i64::to_string).collect()),
                    Attribute::Texts(classes) => Some(classes.clone()),
                    _ => None,
                });
            if let Some(classes) = classes {
                self.declared.classes.insert(output.clone(), classes);
            }
        }
        if node.domain == "ai.onnx" {
            node.domain.clear();
        }
        let operator = (node.domain.clone(), node.op.clone());
        *self.declared.facts.operators.entry(operator).or_default() += 1;
        Ok(node)
    }

    /// An attribute; returns its name, its value, and whether it is a graph or several.
    fn attribute(&mut self, end: u64, depth: usize) -> Walked<(String, Attribute, bool)> {
        let (mut name, mut has_graphs, mut refers) = (String::new(), false, false);
        // A list may come in several pieces; an empty one comes in none.
        let mut value = None;
        let (mut ints, mut floats): (Option<Vec<i64>>, Option<Vec<u32>>) = (None, None);
        let mut texts: Option<Option<Vec<String>>> = None;
        while let Some((field, item)) = self.wire.next(end)? {
            match (field, item) {
                (field::ATTRIBUTE_NAME, Item::Until(until)) => name = self.wire.text(until)?,
                (field::ATTRIBUTE_REFERENCE, Item::Until(until)) => {
                    refers = until > self.wire.at;
                    self.wire.skip_to(until)?;
                }
                (field::ATTRIBUTE_INT, Item::Number(number)) => {
                    value = Some(Attribute::Int(number as i64));
                }
                (field::ATTRIBUTE_FLOAT, Item::Bits(bits)) => value = Some(Attribute::Float(bits)),
                (field::ATTRIBUTE_TEXT, Item::Until(until)) => {
                    let bytes = self.wire.bytes(until)?.map(String::from_utf8);
                    value = Some(match bytes {
                        Some(Ok(text)) => Attribute::Text(text),
                        _ => Attribute::Other,
                    });
                }
                (field::ATTRIBUTE_INTS, Item::Number(number)) => {
                    ints.get_or_insert_default().push(number as i64);
                }
                (field::ATTRIBUTE_INTS, Item::Until(until)) => match self.wire.numbers(until)? {
                    Some(more) => ints.get_or_insert_default().extend(more),
                    None => value = Some(Attribute::Other),
                },
                (field::ATTRIBUTE_FLOATS, Item::Bits(bits)) => {
                    floats.get_or_insert_default().push(bits);
                }
                (field::ATTRIBUTE_FLOATS, Item::Until(until)) => match self.wire.bytes(until)? {
                    Some(bytes) => floats.get_or_insert_default().extend(words(&bytes)),
                    None => value = Some(Attribute::Other),
                },
                (field::ATTRIBUTE_TENSOR, Item::Until(until)) => {
                    value = Some(Attribute::Tensor(self.tensor(until)?.1));
                }
                (field::ATTRIBUTE_TENSORS, Item::Until(until)) => {
                    drop(self.tensor(until)?);
                    value = Some(Attribute::Other);
                }
                (field::ATTRIBUTE_SPARSE | field::ATTRIBUTE_SPARSES, Item::Until(until)) => {
                    drop(self.sparse(until)?);
                    value = Some(Attribute::Other);
                }
                (field::ATTRIBUTE_GRAPH | field::ATTRIBUTE_GRAPHS, Item::Until(until)) => {
                    has_graphs = true;
                    self.graph(until, None, depth)?;
                }
                (field::ATTRIBUTE_TEXTS, Item::Until(until)) => {
                    // Too many, too long or not UTF-8: none is kept.
                    let kept = texts.get_or_insert_with(|| Some(Vec::new()));
                    let text = match kept {
                        Some(kept) if kept.len() < MAX_NUMBERS => self.wire.bytes(until)?,
                        _ => {
                            self.wire.skip_to(until)?;
                            None
                        }
                    };
                    match text.map(String::from_utf8) {
                        Some(Ok(text)) => kept.iter_mut().for_each(|kept| kept.push(text.clone())),
                        _ => *kept = None,
                    }
                }
                (_, Item::Until(until)) => self.wire.skip_to(until)?,
                _ => {}
            }
            if ints.as_ref().is_some_and(|ints| ints.len() > MAX_NUMBERS)
                || floats
                    .as_ref()
                    .is_some_and(|floats| floats.len() > MAX_NUMBERS)
            {
                (ints, floats) = (None, None);
                value = Some(Attribute::Other);
            }
        }
        if let Some(texts) = texts {
            value = Some(texts.map_or(Attribute::Other, Attribute::Texts));
        }
        let value = match (value, ints, floats) {
            _ if refers => Attribute::Other,
            (Some(value), None, None) => value,
            (None, Some(ints), None) => Attribute::Ints(ints),
            (None, None, Some(floats)) => Attribute::Floats(floats),
            _ => Attribute::Other,
        };
        Ok((name, value, has_graphs))
    }

    fn sparse(&mut self, end: u64) -> Walked<(Option<String>, Initial)> {
        let (mut name, mut dims) = (None, Vec::new());
        while let Some((field, item)) = self.wire.next(end)? {
            match (field, item) {
                (field::SPARSE_VALUES, Item::Until(until)) => name = self.tensor(until)?.0,
                (field::SPARSE_INDICES, Item::Until(until)) => drop(self.tensor(until)?),
                (field::SPARSE_DIMS, Item::Number(dim)) => dims.push(dim as i64),
                (field::SPARSE_DIMS, Item::Until(until)) => {
                    dims.extend(self.wire.numbers(until)?.unwrap_or_default());
                }
                (_, Item::Until(until)) => self.wire.skip_to(until)?,
                _ => {}
            }
        }
        let initial = Initial {
            dims,
            ..Initial::default()
        };
        Ok((name, initial))
    }

    /// Reads a tensor up to the offset `end`. Returns its name, its shape and few elements, and notes the file that holds it.
    /// The flag for
    /// external data is ignored, because runtimes differ in whether they check it.
    fn tensor(&mut self, end: u64) -> Walked<(Option<String>, Initial)> {
        let mut name = None;
        let (mut dims, mut element): (Vec<i64>, u64) = (Vec::new(), 0);
        let (mut typed, mut floats, mut raw) = (Vec::new(), Vec::new(), None);
        // More than are kept of one value stand for a value that is not kept.
        let mut is_large = false;
        while let Some((field, item)) = self.wire.next(end)? {
            match (field, item) {
                (field::TENSOR_DIMS, Item::Number(dim)) => dims.push(dim as i64),
                (field::TENSOR_DIMS, Item::Until(until)) => {
                    dims.extend(self.wire.numbers(until)?.unwrap_or_default());
                }
                (field::TENSOR_ELEMENT, Item::Number(number)) => element = number,
                (field::TENSOR_INT32S | field::TENSOR_INT64S, Item::Number(number)) => {
                    typed.push(number as i64);
                }
                (field::TENSOR_INT32S | field::TENSOR_INT64S, Item::Until(until)) => {
                    match self.wire.numbers(until)? {
                        Some(more) => typed.extend(more),
                        None => is_large = true,
                    }
                }
                (field::TENSOR_FLOATS, Item::Bits(bits)) => floats.push(bits),
                (field::TENSOR_FLOATS, Item::Until(until)) => match self.wire.bytes(until)? {
                    Some(bytes) => floats.extend(words(&bytes)),
                    None => is_large = true,
                },
                (field::TENSOR_RAW, Item::Until(until)) => match self.wire.bytes(until)? {
                    Some(bytes) => raw = Some(bytes),
                    None => is_large = true,
                },
                (field::TENSOR_NAME, Item::Until(until)) => name = Some(self.wire.text(until)?),
                (field::TENSOR_EXTERNAL, Item::Until(until)) => {
                    is_large = true;
                    let (mut key, mut value) = (String::new(), String::new());
                    while let Some((field, item)) = self.wire.next(until)? {
                        match (field, item) {
                            (field::ENTRY_KEY, Item::Until(until)) => {
                                key = self.wire.text(until)?
                            }
                            (field::ENTRY_VALUE, Item::Until(until)) => {
                                value = self.wire.text(until)?
                            }
                            (_, Item::Until(until)) => self.wire.skip_to(until)?,
                            _ => {}
                        }
                    }
                    if key == "location" {
                        self.declared.files.insert(value);
                    }
                }
                (_, Item::Until(until)) => self.wire.skip_to(until)?,
                _ => {}
            }
            if typed.len().max(floats.len()) > MAX_NUMBERS {
                (typed, floats) = (Vec::new(), Vec::new());
                is_large = true;
            }
        }
        let count = (dims.iter()).try_fold(1i64, |count, dim| count.checked_mul(*dim));
        let whole = |count: usize| count as i64 == dims.iter().product::<i64>();
        let mut initial = Initial {
            dims: dims.clone(),
            ..Initial::default()
        };
        if !is_large && count.is_some_and(|count| count <= MAX_NUMBERS as i64) {
            match (element, &raw) {
                (1, Some(raw)) => floats = words(raw).collect(),
                (2 | 9, Some(raw)) => typed = raw.iter().map(|byte| i64::from(*byte)).collect(),
                (3, Some(raw)) => typed = raw.iter().map(|byte| i64::from(*byte as i8)).collect(),
                (6, Some(raw)) => typed = words(raw).map(|word| i64::from(word as i32)).collect(),
                (7, Some(raw)) => {
                    let (eight, _) = raw.as_chunks::<8>();
                    typed = eight
                        .iter()
                        .map(|bytes| i64::from_le_bytes(*bytes))
                        .collect();
                }
                // A number of 32 bits below zero comes in 64.
                (6, None) => typed.iter_mut().for_each(|n| *n = i64::from(*n as i32)),
                _ => {}
            }
            match element {
                1 if whole(floats.len()) => initial.floats = Some(floats),
                2 | 3 | 6 | 7 | 9 if whole(typed.len()) => initial.ints = Some(typed),
                _ => {}
            }
        }
        Ok((name, initial))
    }
}
