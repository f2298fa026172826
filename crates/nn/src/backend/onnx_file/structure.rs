//! The structure of an ONNX file's operators: a second walk over the file, for rules about forms of operators that a
//! runtime answers wrong. Weights are skipped here too.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};

use super::field;
use super::types::port_type;
use super::wire::{Item, MAX_DEPTH, Malformed, Walked, Wire};
use crate::backend::options::GraphSource;
use crate::backend::port::{Dim, PortType};
use crate::tensor::TensorType;

/// Most integers of one attribute or shape that are read. Axes are a handful.
const MAX_INTEGERS: usize = 64;

/// A graph's operators and the known facts about its values.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Structure {
    /// The version of ONNX's own operators.
    pub opset: u64,
    /// Every operator, those of inner graphs and of functions included, in the file's order.
    pub operators: Vec<Operator>,
    /// Types and shapes of the values that the file declares, constants included.
    pub values: HashMap<String, Value>,
    /// The names of the inputs that callers send.
    pub inputs: HashSet<String>,
    /// The names of the outputs.
    pub outputs: Vec<String>,
}

/// The declaration of a value. Lengths that the file leaves open are `None`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value {
    pub ty: PortType,
    pub dims: Option<Vec<Option<u64>>>,
    /// The first element of a constant: an integer, or a number in FP32. `None` if it is not in the file.
    pub first: Option<f64>,
}

/// An operator of the graph, with the facts that checks need.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Operator {
    pub op: String,
    pub domain: String,
    pub name: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Its attributes that are integers or lists of them.
    pub integers: HashMap<String, Vec<i64>>,
    /// Its attributes that are a text.
    pub texts: HashMap<String, String>,
}

impl Operator {
    /// Returns whether it is this operator of ONNX itself.
    pub fn is(&self, op: &str) -> bool {
        self.op == op && matches!(&*self.domain, "" | "ai.onnx")
    }

    /// An attribute that is one integer.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.integers.get(name)?.first().copied()
    }

    /// The name of the input number `index`, if it is given.
    pub fn input(&self, index: usize) -> Option<&str> {
        let name = self.inputs.get(index)?;
        (!name.is_empty()).then_some(name)
    }

    /// A name for its place in the graph, for messages.
    pub fn place(&self) -> &str {
        match self.name.is_empty() {
            true => self.outputs.first().map_or("", String::as_str),
            false => &self.name,
        }
    }
}

/// Reads the structure of a graph that was examined before; `None` if it cannot be read.
pub(crate) fn structure(graph: &GraphSource) -> Option<Structure> {
    match graph {
        GraphSource::File(path) => read(BufReader::new(File::open(path).ok()?)),
        GraphSource::Bytes(bytes) => read(Cursor::new(bytes)),
    }
}

fn read(source: impl BufRead + Seek) -> Option<Structure> {
    let mut wire = Wire::new(source);
    let mut structure = Structure::default();
    let end = wire.length().ok()?;
    wire.structure(end, &mut structure).ok()?;
    Some(structure)
}

/// Fields that only this walk reads.
mod more {
    pub const MODEL_OPSET: u64 = 8;
    pub const OPSET_DOMAIN: u64 = 1;
    pub const OPSET_VERSION: u64 = 2;
    pub const GRAPH_VALUE: u64 = 13;
    pub const NODE_NAME: u64 = 3;
    pub const ATTRIBUTE_NAME: u64 = 1;
    pub const ATTRIBUTE_INTEGER: u64 = 3;
    pub const ATTRIBUTE_INTEGERS: u64 = 8;
    pub const TENSOR_DIM: u64 = 1;
    pub const TENSOR_TYPE: u64 = 2;
}

impl<R: BufRead + Seek> Wire<R> {
    fn structure(&mut self, end: u64, into: &mut Structure) -> Walked<()> {
        while let Some((field, item)) = self.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                more::MODEL_OPSET => {
                    let (mut domain, mut version) = (String::new(), 0);
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (more::OPSET_DOMAIN, Item::Until(until)) => {
                                domain = self.text(until)?
                            }
                            (more::OPSET_VERSION, Item::Number(number)) => version = number,
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                    if matches!(&*domain, "" | "ai.onnx") {
                        into.opset = version;
                    }
                }
                field::MODEL_GRAPH => self.operators(until, into, true, MAX_DEPTH)?,
                field::MODEL_FUNCTIONS => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::FUNCTION_NODE, Item::Until(until)) => {
                                self.operator(until, into, MAX_DEPTH)?;
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                _ => self.skip_to(until)?,
            }
        }
        Ok(())
    }

    fn operators(
        &mut self,
        end: u64,
        into: &mut Structure,
        outermost: bool,
        depth: usize,
    ) -> Walked<()> {
        let depth = depth
            .checked_sub(1)
            .ok_or(Malformed("its graphs are nested too deep"))?;
        while let Some((field, item)) = self.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                field::GRAPH_NODE => self.operator(until, into, depth)?,
                field::GRAPH_INITIALIZER => {
                    if let (Some(name), value) = self.constant(until)? {
                        into.inputs.remove(&name);
                        into.values.insert(name, value);
                    }
                }
                field::GRAPH_INPUT | field::GRAPH_OUTPUT | more::GRAPH_VALUE => {
                    let (port, _) = self.port(until)?;
                    if outermost && field == field::GRAPH_OUTPUT {
                        into.outputs.push(port.name.clone());
                    }
                    let constant = into.values.contains_key(&port.name);
                    if outermost && field == field::GRAPH_INPUT && !constant {
                        into.inputs.insert(port.name.clone());
                    }
                    let dims = port.dims.map(|dims| {
                        let known = dims.iter().map(|dim| match dim {
                            Dim::Fixed(length) => Some(u64::from(*length)),
                            Dim::Symbolic(_) => None,
                        });
                        known.collect()
                    });
                    into.values.entry(port.name).or_insert(Value {
                        ty: port.ty,
                        dims,
                        first: None,
                    });
                }
                _ => self.skip_to(until)?,
            }
        }
        Ok(())
    }

    fn operator(&mut self, end: u64, into: &mut Structure, depth: usize) -> Walked<()> {
        let mut operator = Operator::default();
        let mut value = None;
        while let Some((field, item)) = self.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                field::NODE_INPUT => operator.inputs.push(self.text(until)?),
                field::NODE_OUTPUT => operator.outputs.push(self.text(until)?),
                field::NODE_OPERATOR => operator.op = self.text(until)?,
                field::NODE_DOMAIN => operator.domain = self.text(until)?,
                more::NODE_NAME => operator.name = self.text(until)?,
                field::NODE_ATTRIBUTE => {
                    let (mut name, mut integers, mut text) = (String::new(), Vec::new(), None);
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (more::ATTRIBUTE_NAME, Item::Until(until)) => {
                                name = self.text(until)?
                            }
                            (more::ATTRIBUTE_INTEGER | more::ATTRIBUTE_INTEGERS, item) => {
                                self.integers(item, &mut integers)?;
                            }
                            (field::ATTRIBUTE_TENSOR, Item::Until(until)) => {
                                value = Some(self.constant(until)?.1);
                            }
                            (field::ATTRIBUTE_TEXT, Item::Until(until)) => {
                                // ONNX's own attributes have no text of another kind.
                                text = self
                                    .bytes(until)?
                                    .and_then(|raw| String::from_utf8(raw).ok());
                            }
                            (
                                field::ATTRIBUTE_GRAPH | field::ATTRIBUTE_GRAPHS,
                                Item::Until(until),
                            ) => {
                                self.operators(until, into, false, depth)?;
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                    if let Some(text) = text {
                        operator.texts.insert(name.clone(), text);
                    }
                    operator.integers.insert(name, integers);
                }
                _ => self.skip_to(until)?,
            }
        }
        if operator.is("Constant")
            && let (Some(value), Some(output)) = (value, operator.outputs.first())
        {
            into.values.insert(output.clone(), value);
        }
        into.operators.push(operator);
        Ok(())
    }

    /// Type and shape of a tensor in the file, and its name if it has one.
    fn constant(&mut self, end: u64) -> Walked<(Option<String>, Value)> {
        let (mut name, mut dims, mut ty) = (None, Vec::new(), port_type(0));
        let (mut float, mut integers, mut raw) = (None, Vec::new(), None);
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::TENSOR_NAME, Item::Until(until)) => name = Some(self.text(until)?),
                (more::TENSOR_TYPE, Item::Number(number)) => ty = port_type(number),
                (more::TENSOR_DIM, item) => self.integers(item, &mut dims)?,
                (field::TENSOR_FLOATS, Item::Bits(bits)) if float.is_none() => float = Some(bits),
                (field::TENSOR_FLOATS, Item::Until(until)) => {
                    float = float.or(first_word(self.bytes(until)?));
                }
                (field::TENSOR_INT32S | field::TENSOR_INT64S, item) => {
                    self.integers(item, &mut integers)?;
                }
                (field::TENSOR_RAW, Item::Until(until)) => raw = self.bytes(until)?,
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        let dims = dims
            .into_iter()
            .map(|dim| u64::try_from(dim).ok())
            .collect();
        let dims = Some(dims);
        let first = match ty {
            PortType::Tensor(TensorType::Fp32) => {
                (float.or(first_word(raw))).map(|bits| f64::from(f32::from_bits(bits)))
            }
            PortType::Tensor(TensorType::I64) => (integers.first().copied())
                .or_else(|| Some(i64::from_le_bytes(*raw?.first_chunk()?)))
                .map(|number| number as f64),
            _ => None,
        };
        Ok((name, Value { ty, dims, first }))
    }

    /// Integers one by one or packed; all are read, and the first ones kept.
    fn integers(&mut self, item: Item, into: &mut Vec<i64>) -> Walked<()> {
        let mut push = |number: u64| {
            if into.len() < MAX_INTEGERS {
                into.push(number.cast_signed());
            }
        };
        match item {
            Item::Number(number) => push(number),
            Item::Until(until) => {
                while self.at < until {
                    push(self.varint()?);
                }
            }
            Item::Bits(_) | Item::Fixed => {}
        }
        Ok(())
    }
}

/// The first number of 32 bits.
fn first_word(bytes: Option<Vec<u8>>) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes?.first_chunk()?))
}
