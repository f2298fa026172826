//! What an ONNX file says of itself, read before a runtime sees it: the graph's ports, which other files it would
//! have a runtime open, and what the time of a run follows from.
//!
//! Decisions:
//!
//! - **A graph opens no file but those beside it.** ONNX lets a tensor name a file that holds its numbers, by any
//!   path, and runtimes have followed `../`, absolute paths and words with a meaning of their own. A model file may
//!   come from anywhere, so the names are looked at here, the same for every backend, whatever a runtime does about
//!   them itself. A link that the operator put into the folder is the operator's and is followed.
//! - **Weights are skipped, not read.** The walk keeps the ports, the initializers' names and shapes, constants of a few
//!   numbers, and the operators with their attributes, so that a file of two gigabytes costs little memory here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::{Component, Path};

use super::cost::{self, Attribute, Cost, Function, Initial, Node};
use super::options::{GraphSource, LoadOptions};
use super::port::{Dim, Port, PortType};
use super::rows::{self, MAX_NUMBERS, Rows};
use crate::error::{ErrorCode, NnError, quoted};
use crate::tensor::TensorType;

#[cfg(feature = "native")]
pub(crate) mod structure;

/// How deep graphs may lie in one another (the branches of an `If`, the body of a `Loop`). Protocol buffers' own
/// readers end at 100 messages, which is fewer graphs than this.
const MAX_DEPTH: usize = 64;

/// The longest name that is read. Exporters' longest are a few hundred bytes; a length that lies must not become
/// memory.
const MAX_NAME_BYTES: u64 = 64 * 1024;

/// What a graph declares.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Declared {
    /// What goes in, initializers left out.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
    /// The files its tensors are kept in.
    pub files: BTreeSet<String>,
    /// What the time of a run follows from.
    pub cost: Cost,
    /// What the file says of itself beside its ports.
    pub facts: Facts,
    /// The operators of the outermost graph.
    pub nodes: Vec<Node>,
    /// The operators that the file itself defines.
    pub functions: Vec<Function>,
    /// Lengths of the outermost graph's initializers, by name.
    pub tables: BTreeMap<String, Vec<u64>>,
    /// The attribute `axis` of operators that have it, by the name of their first output.
    pub axes: BTreeMap<String, i64>,
    /// By output: whether its rows depend on each other.
    pub rows: BTreeMap<String, Rows>,
    /// The outputs whose shapes follow from values that callers send.
    pub open_outputs: BTreeSet<String>,
    /// The inputs and outputs that are sequences or maps, by name.
    pub composed: BTreeMap<String, Composed>,
    /// The keys of the maps that `ZipMap` makes, by the name of its output.
    pub classes: BTreeMap<String, Vec<String>>,
}

/// What an input or output consists of that is no tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Composed {
    /// Tensors of one type.
    Sequence(PortType),
    /// Maps; a single one unless `list`.
    Maps {
        key: PortType,
        value: PortType,
        list: bool,
    },
}

impl Declared {
    /// Whether rows depend on each other in what is loaded of the graph.
    pub(crate) fn rows(&self, options: &LoadOptions) -> Rows {
        let loaded = |name: &str| {
            let wanted = options.outputs.as_ref();
            wanted.is_none_or(|wanted| wanted.iter().any(|other| other == name))
        };
        let mut judged = (self.outputs.iter())
            .filter(|port| loaded(&port.name))
            .map(|port| self.rows.get(&port.name).cloned().unwrap_or_default());
        judged
            .find(|rows| *rows != Rows::Independent)
            .unwrap_or(Rows::Independent)
    }
}

/// What a file says of itself beside its ports.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Facts {
    /// The version of the file format; 0 where the file does not say.
    pub ir_version: u64,
    /// The version of each set of operators, by domain; ONNX's own is `""`.
    pub opsets: BTreeMap<String, u64>,
    /// The program that wrote it, and its version.
    pub producer: String,
    pub producer_version: String,
    pub description: String,
    /// Keys and values that its author added, at most [`MAX_METADATA`].
    pub metadata: Vec<(String, String)>,
    /// Numbers in the tensors of the outermost graph.
    pub parameters: u64,
    /// Each operator that is used anywhere, by domain and name, and how often.
    pub operators: BTreeMap<(String, String), u64>,
}

/// Most entries of metadata that are kept; files have a handful.
const MAX_METADATA: usize = 256;

/// Reads what `graph` declares, and refuses it when it would have a runtime open a file that is not beside it.
///
/// # Errors
///
/// `NotFound` when there is no such file, `InvalidEncoding` when it is not ONNX, `Security` when it names files that
/// it may not.
pub(crate) fn examine(graph: &GraphSource) -> Result<Declared, NnError> {
    let (declared, folder) = match graph {
        GraphSource::File(path) => {
            if path.extension().is_some_and(|extension| extension == "xml") {
                return Err(NnError::unsupported(
                    "the graph is in OpenVINO's own format, which only OpenVINO reads; load it with backend = \
                     \"openvino\"",
                ));
            }
            let file = File::open(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    NnError::not_found("the graph's file does not exist")
                }
                kind => NnError::runtime(format!("the graph's file cannot be read: {kind}")),
            })?;
            (
                read(BufReader::new(file))?,
                Some(path.parent().unwrap_or(Path::new(""))),
            )
        }
        GraphSource::Bytes(bytes) => (read(Cursor::new(bytes))?, None),
    };
    for file in &declared.files {
        allowed(file, folder)?;
    }
    Ok(declared)
}

/// Whether a graph may keep weights in `file`; `folder` is the graph's own, where it has one.
fn allowed(file: &str, folder: Option<&Path>) -> Result<(), NnError> {
    let refused = |why: &str| {
        Err(NnError::new(
            ErrorCode::Security,
            format!(
                "the graph keeps weights in the file {}, {why}; a graph may only use files in its own folder: \
                 export it again with all weights inside",
                quoted(file)
            ),
        ))
    };
    let Some(folder) = folder else {
        return refused("and was given as bytes, without a folder");
    };
    // ONNX Runtime takes "*/_ORT_MEM_ADDR_/*" for an address in this process's own memory.
    let plain = !file.is_empty()
        && !file.contains(['\\', '*', '\0'])
        && Path::new(file)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return refused("which is outside of its folder");
    }
    if !folder.join(file).is_file() {
        return Err(NnError::not_found(format!(
            "the graph keeps weights in the file {}, which is not beside it; put it there",
            quoted(file)
        )));
    }
    Ok(())
}

fn read(source: impl BufRead + Seek) -> Result<Declared, NnError> {
    let mut walk = Walk::at_start(source);
    let end = walk.length().map_err(not_onnx)?;
    let initialized = walk.model(end).map_err(not_onnx)?;
    let Walk {
        mut declared,
        nodes,
        functions,
        initials,
        opset,
        ..
    } = walk;
    let open = cost::open_shapes(&nodes, &initialized, &functions);
    declared.open_outputs = (declared.outputs.iter())
        .filter(|port| open.contains(port.name.as_str()))
        .map(|port| port.name.clone())
        .collect();
    declared.cost = cost::cost(&nodes, initialized, &functions);
    let tables = initials
        .iter()
        .filter(|(_, initial)| !initial.dims.is_empty());
    declared.tables = tables
        .map(|(name, initial)| {
            let dims = initial.dims.iter().map(|dim| dim.unsigned_abs());
            (name.clone(), dims.collect())
        })
        .collect();
    declared.rows = rows::rows(&rows::Graph {
        nodes: &nodes,
        initials,
        functions: &functions,
        opset,
        inputs: &declared.inputs,
        outputs: &declared.outputs,
    });
    declared.nodes = nodes;
    declared.functions = functions;
    Ok(declared)
}

fn not_onnx(Malformed(what): Malformed) -> NnError {
    NnError::new(
        ErrorCode::InvalidEncoding,
        format!("the graph is not an ONNX file: {what}"),
    )
}

/// Why a file is none.
struct Malformed(&'static str);

impl From<std::io::Error> for Malformed {
    fn from(_: std::io::Error) -> Self {
        Malformed("it ends early or cannot be read")
    }
}

/// A value of protocol buffers' wire format, as far as the field's number does not say more.
enum Item {
    Number(u64),
    /// A string or a message, up to this place.
    Until(u64),
    /// A number of 32 bits.
    Bits(u32),
    /// A number of 64 bits; none of those is of interest.
    Fixed,
}

/// Goes through a file once, from front to back.
struct Walk<R> {
    source: R,
    at: u64,
    declared: Declared,
    /// The operators of the outermost graph.
    nodes: Vec<Node>,
    functions: Vec<Function>,
    /// The outermost graph's initializers, by name.
    initials: HashMap<String, Initial>,
    /// The version of ONNX's own operators.
    opset: i64,
}

/// The numbers of the fields that are read, by message, as `onnx.proto` has them.
mod field {
    pub const MODEL_IR_VERSION: u64 = 1;
    pub const MODEL_PRODUCER: u64 = 2;
    pub const MODEL_PRODUCER_VERSION: u64 = 3;
    pub const MODEL_DESCRIPTION: u64 = 6;
    pub const MODEL_GRAPH: u64 = 7;
    pub const MODEL_OPSET: u64 = 8;
    pub const MODEL_METADATA: u64 = 14;
    pub const FUNCTION_OPSET: u64 = 9;
    pub const OPSET_DOMAIN: u64 = 1;
    pub const OPSET_VERSION: u64 = 2;
    pub const MODEL_TRAINING: u64 = 20;
    pub const MODEL_FUNCTIONS: u64 = 25;
    pub const TRAINING_INITIALIZATION: u64 = 1;
    pub const TRAINING_ALGORITHM: u64 = 2;
    pub const FUNCTION_NAME: u64 = 1;
    pub const FUNCTION_INPUT: u64 = 4;
    pub const FUNCTION_OUTPUT: u64 = 5;
    pub const FUNCTION_NODE: u64 = 7;
    pub const FUNCTION_DOMAIN: u64 = 10;
    pub const FUNCTION_ATTRIBUTE: u64 = 11;
    pub const GRAPH_NODE: u64 = 1;
    pub const GRAPH_INITIALIZER: u64 = 5;
    pub const GRAPH_INPUT: u64 = 11;
    pub const GRAPH_OUTPUT: u64 = 12;
    pub const GRAPH_SPARSE_INITIALIZER: u64 = 15;
    pub const NODE_INPUT: u64 = 1;
    pub const NODE_OUTPUT: u64 = 2;
    pub const NODE_NAME: u64 = 3;
    pub const NODE_OPERATOR: u64 = 4;
    pub const NODE_ATTRIBUTE: u64 = 5;
    pub const NODE_DOMAIN: u64 = 7;
    pub const ATTRIBUTE_NAME: u64 = 1;
    pub const ATTRIBUTE_FLOAT: u64 = 2;
    pub const ATTRIBUTE_INT: u64 = 3;
    pub const ATTRIBUTE_TEXT: u64 = 4;
    pub const ATTRIBUTE_FLOATS: u64 = 7;
    pub const ATTRIBUTE_INTS: u64 = 8;
    pub const ATTRIBUTE_TEXTS: u64 = 9;
    pub const ATTRIBUTE_REFERENCE: u64 = 21;
    pub const ATTRIBUTE_TENSOR: u64 = 5;
    pub const ATTRIBUTE_GRAPH: u64 = 6;
    pub const ATTRIBUTE_TENSORS: u64 = 10;
    pub const ATTRIBUTE_GRAPHS: u64 = 11;
    pub const ATTRIBUTE_SPARSE: u64 = 22;
    pub const ATTRIBUTE_SPARSES: u64 = 23;
    pub const SPARSE_VALUES: u64 = 1;
    pub const SPARSE_INDICES: u64 = 2;
    pub const SPARSE_DIMS: u64 = 3;
    pub const TENSOR_DIMS: u64 = 1;
    pub const TENSOR_ELEMENT: u64 = 2;
    pub const TENSOR_FLOATS: u64 = 4;
    pub const TENSOR_INT32S: u64 = 5;
    pub const TENSOR_INT64S: u64 = 7;
    pub const TENSOR_RAW: u64 = 9;
    pub const TENSOR_NAME: u64 = 8;
    pub const TENSOR_EXTERNAL: u64 = 13;
    pub const ENTRY_KEY: u64 = 1;
    pub const ENTRY_VALUE: u64 = 2;
    pub const VALUE_NAME: u64 = 1;
    pub const VALUE_TYPE: u64 = 2;
    pub const TYPE_TENSOR: u64 = 1;
    pub const TYPE_SEQUENCE: u64 = 4;
    pub const TYPE_MAP: u64 = 5;
    pub const SEQUENCE_ELEMENT: u64 = 1;
    pub const MAP_KEY: u64 = 1;
    pub const MAP_VALUE: u64 = 2;
    pub const TENSOR_TYPE_ELEMENT: u64 = 1;
    pub const TENSOR_TYPE_SHAPE: u64 = 2;
    pub const SHAPE_DIM: u64 = 1;
    pub const DIM_VALUE: u64 = 1;
    pub const DIM_PARAM: u64 = 2;
}

type Walked<T> = Result<T, Malformed>;

impl<R: BufRead + Seek> Walk<R> {
    fn at_start(source: R) -> Self {
        Self {
            source,
            at: 0,
            declared: Declared::default(),
            nodes: Vec::new(),
            functions: Vec::new(),
            initials: HashMap::new(),
            // What a file without a version means.
            opset: 1,
        }
    }

    fn length(&mut self) -> Walked<u64> {
        let end = self.source.seek(std::io::SeekFrom::End(0))?;
        self.source.rewind()?;
        Ok(end)
    }

    fn byte(&mut self) -> Walked<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        self.at += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> Walked<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte has one bit that counts; what is above it is dropped, as other readers do.
            value |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("it holds a number of more than ten bytes"))
    }

    /// The next field of a message that ends at `end`.
    fn next(&mut self, end: u64) -> Walked<Option<(u64, Item)>> {
        if self.at == end {
            return Ok(None);
        }
        let tag = self.varint()?;
        let item = match tag & 7 {
            0 => Item::Number(self.varint()?),
            1 => {
                self.skip_to(self.at + 8)?;
                Item::Fixed
            }
            2 => {
                let length = self.varint()?;
                let until = self.at.checked_add(length).filter(|until| *until <= end);
                Item::Until(until.ok_or(Malformed("a part of it is longer than the whole"))?)
            }
            5 => {
                let mut bytes = [0; 4];
                self.source.read_exact(&mut bytes)?;
                self.at += 4;
                Item::Bits(u32::from_le_bytes(bytes))
            }
            _ => return Err(Malformed("it is not in protocol buffers' format")),
        };
        if self.at > end || tag >> 3 == 0 {
            return Err(Malformed("it is not in protocol buffers' format"));
        }
        Ok(Some((tag >> 3, item)))
    }

    fn skip_to(&mut self, to: u64) -> Walked<()> {
        let ahead = i64::try_from(to - self.at).map_err(|_| Malformed("it is too long"))?;
        self.source.seek_relative(ahead)?;
        self.at = to;
        Ok(())
    }

    /// Whole numbers one after the other; `None`, and skipped, where they are many.
    fn numbers(&mut self, end: u64) -> Walked<Option<Vec<i64>>> {
        // A number has ten bytes at most.
        if end - self.at > 10 * MAX_NUMBERS as u64 {
            self.skip_to(end)?;
            return Ok(None);
        }
        let mut numbers = Vec::new();
        while self.at < end {
            numbers.push(self.varint()? as i64);
        }
        match self.at == end {
            true => Ok(Some(numbers)),
            false => Err(Malformed("it is not in protocol buffers' format")),
        }
    }

    /// The bytes up to a place; `None`, and skipped, where they are many.
    fn bytes(&mut self, end: u64) -> Walked<Option<Vec<u8>>> {
        let length = end - self.at;
        // An element has eight bytes at most.
        if length > 8 * MAX_NUMBERS as u64 {
            self.skip_to(end)?;
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes)?;
        self.at = end;
        Ok(Some(bytes))
    }

    /// The version of ONNX's own operators; `None` where it is another domain's.
    /// The version of ONNX's own operators, where this is that set.
    fn opset(&mut self, end: u64) -> Walked<Option<i64>> {
        let (domain, version) = self.operators_of(end)?;
        Ok(domain.is_empty().then_some(version.cast_signed()))
    }

    /// A set of operators: its domain, and its version.
    fn operators_of(&mut self, end: u64) -> Walked<(String, u64)> {
        let (mut domain, mut version) = (String::new(), 1);
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::OPSET_DOMAIN, Item::Until(until)) => domain = self.text(until)?,
                (field::OPSET_VERSION, Item::Number(number)) => version = number,
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        // ONNX's own operators go by two names.
        if domain == "ai.onnx" {
            domain.clear();
        }
        Ok((domain, version))
    }

    fn text(&mut self, end: u64) -> Walked<String> {
        let length = end - self.at;
        if length > MAX_NAME_BYTES {
            return Err(Malformed("it holds a name of more than 64 KiB"));
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(Malformed("it ends early or cannot be read"));
        }
        self.at = end;
        String::from_utf8(bytes).map_err(|_| Malformed("it holds a name that is not UTF-8"))
    }

    /// The whole file; returns the names of the outermost graph's initializers.
    fn model(&mut self, end: u64) -> Walked<HashSet<String>> {
        let mut initialized = HashSet::new();
        while let Some((field, item)) = self.next(end)? {
            let until = match (field, item) {
                (field::MODEL_IR_VERSION, Item::Number(version)) => {
                    self.declared.facts.ir_version = version;
                    continue;
                }
                (_, Item::Until(until)) => until,
                _ => continue,
            };
            match field {
                field::MODEL_PRODUCER => self.declared.facts.producer = self.note(until)?,
                field::MODEL_PRODUCER_VERSION => {
                    self.declared.facts.producer_version = self.note(until)?;
                }
                field::MODEL_DESCRIPTION => self.declared.facts.description = self.note(until)?,
                field::MODEL_OPSET => {
                    let (domain, version) = self.operators_of(until)?;
                    if domain.is_empty() {
                        self.opset = version.cast_signed();
                    }
                    self.declared.facts.opsets.insert(domain, version);
                }
                field::MODEL_METADATA => {
                    let entry = self.entry(until)?;
                    if self.declared.facts.metadata.len() < MAX_METADATA {
                        self.declared.facts.metadata.push(entry);
                    }
                }
                field::MODEL_GRAPH => self.graph(until, Some(&mut initialized), MAX_DEPTH)?,
                field::MODEL_TRAINING => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (
                                field::TRAINING_INITIALIZATION | field::TRAINING_ALGORITHM,
                                Item::Until(until),
                            ) => self.graph(until, None, MAX_DEPTH)?,
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                field::MODEL_FUNCTIONS => {
                    let function = self.function(until)?;
                    self.functions.push(function);
                }
                _ => self.skip_to(until)?,
            }
        }
        let Declared { inputs, .. } = &mut self.declared;
        inputs.retain(|port| !initialized.contains(&port.name));
        Ok(initialized)
    }

    /// A text for people, which no walk may fail for: one that is too long or is not UTF-8 is left out.
    fn note(&mut self, end: u64) -> Walked<String> {
        if end - self.at > MAX_NAME_BYTES {
            self.skip_to(end)?;
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        (&mut self.source)
            .take(end - self.at)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 != end - self.at {
            return Err(Malformed("it ends early or cannot be read"));
        }
        self.at = end;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn entry(&mut self, end: u64) -> Walked<(String, String)> {
        let (mut key, mut value) = (String::new(), String::new());
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::ENTRY_KEY, Item::Until(until)) => key = self.note(until)?,
                (field::ENTRY_VALUE, Item::Until(until)) => value = self.note(until)?,
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok((key, value))
    }

    fn function(&mut self, end: u64) -> Walked<Function> {
        let mut function = Function::default();
        while let Some((field, item)) = self.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                field::FUNCTION_NAME => function.name = self.text(until)?,
                field::FUNCTION_DOMAIN => function.domain = self.text(until)?,
                field::FUNCTION_INPUT => function.inputs.push(self.text(until)?),
                field::FUNCTION_OUTPUT => function.outputs.push(self.text(until)?),
                field::FUNCTION_NODE => function.nodes.push(self.node(until, MAX_DEPTH)?),
                field::FUNCTION_ATTRIBUTE => drop(self.attribute(until, MAX_DEPTH)?),
                field::FUNCTION_OPSET => function.opset = self.opset(until)?.or(function.opset),
                _ => self.skip_to(until)?,
            }
        }
        Ok(function)
    }

    /// A graph; `initialized` is where the outermost one's initializers are noted, and tells it from the others.
    fn graph(
        &mut self,
        end: u64,
        mut initialized: Option<&mut HashSet<String>>,
        depth: usize,
    ) -> Walked<()> {
        let depth = depth
            .checked_sub(1)
            .ok_or(Malformed("its graphs lie too deep in one another"))?;
        while let Some((field, item)) = self.next(end)? {
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
                _ => self.skip_to(until)?,
            }
        }
        Ok(())
    }

    fn node(&mut self, end: u64, depth: usize) -> Walked<Node> {
        let mut node = Node::default();
        while let Some((field, item)) = self.next(end)? {
            let Item::Until(until) = item else { continue };
            match field {
                field::NODE_INPUT => node.inputs.push(self.text(until)?),
                field::NODE_OUTPUT => node.outputs.push(self.text(until)?),
                field::NODE_OPERATOR => node.op = self.text(until)?,
                field::NODE_DOMAIN => node.domain = self.text(until)?,
                field::NODE_NAME => node.name = self.text(until)?,
                field::NODE_ATTRIBUTE => {
                    let (name, attribute, has_graphs) = self.attribute(until, depth)?;
                    node.has_graphs |= has_graphs;
                    node.attributes.insert(name, attribute);
                }
                _ => self.skip_to(until)?,
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
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::ATTRIBUTE_NAME, Item::Until(until)) => name = self.text(until)?,
                (field::ATTRIBUTE_REFERENCE, Item::Until(until)) => {
                    refers = until > self.at;
                    self.skip_to(until)?;
                }
                (field::ATTRIBUTE_INT, Item::Number(number)) => {
                    value = Some(Attribute::Int(number as i64));
                }
                (field::ATTRIBUTE_FLOAT, Item::Bits(bits)) => value = Some(Attribute::Float(bits)),
                (field::ATTRIBUTE_TEXT, Item::Until(until)) => {
                    let bytes = self.bytes(until)?.map(String::from_utf8);
                    value = Some(match bytes {
                        Some(Ok(text)) => Attribute::Text(text),
                        _ => Attribute::Other,
                    });
                }
                (field::ATTRIBUTE_INTS, Item::Number(number)) => {
                    ints.get_or_insert_default().push(number as i64);
                }
                (field::ATTRIBUTE_INTS, Item::Until(until)) => match self.numbers(until)? {
                    Some(more) => ints.get_or_insert_default().extend(more),
                    None => value = Some(Attribute::Other),
                },
                (field::ATTRIBUTE_FLOATS, Item::Bits(bits)) => {
                    floats.get_or_insert_default().push(bits);
                }
                (field::ATTRIBUTE_FLOATS, Item::Until(until)) => match self.bytes(until)? {
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
                        Some(kept) if kept.len() < MAX_NUMBERS => self.bytes(until)?,
                        _ => {
                            self.skip_to(until)?;
                            None
                        }
                    };
                    match text.map(String::from_utf8) {
                        Some(Ok(text)) => kept.iter_mut().for_each(|kept| kept.push(text.clone())),
                        _ => *kept = None,
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
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
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::SPARSE_VALUES, Item::Until(until)) => name = self.tensor(until)?.0,
                (field::SPARSE_INDICES, Item::Until(until)) => drop(self.tensor(until)?),
                (field::SPARSE_DIMS, Item::Number(dim)) => dims.push(dim as i64),
                (field::SPARSE_DIMS, Item::Until(until)) => {
                    dims.extend(self.numbers(until)?.unwrap_or_default());
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        let initial = Initial {
            dims,
            ..Initial::default()
        };
        Ok((name, initial))
    }

    /// A tensor; returns its name, its shape and few elements, and notes the file it is kept in. Whether the tensor also
    /// says that it is kept in a file is not asked: runtimes differ in what they ask.
    fn tensor(&mut self, end: u64) -> Walked<(Option<String>, Initial)> {
        let mut name = None;
        let (mut dims, mut element): (Vec<i64>, u64) = (Vec::new(), 0);
        let (mut typed, mut floats, mut raw) = (Vec::new(), Vec::new(), None);
        // More than are kept of one value stand for a value that is not kept.
        let mut is_large = false;
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::TENSOR_DIMS, Item::Number(dim)) => dims.push(dim as i64),
                (field::TENSOR_DIMS, Item::Until(until)) => {
                    dims.extend(self.numbers(until)?.unwrap_or_default());
                }
                (field::TENSOR_ELEMENT, Item::Number(number)) => element = number,
                (field::TENSOR_INT32S | field::TENSOR_INT64S, Item::Number(number)) => {
                    typed.push(number as i64);
                }
                (field::TENSOR_INT32S | field::TENSOR_INT64S, Item::Until(until)) => {
                    match self.numbers(until)? {
                        Some(more) => typed.extend(more),
                        None => is_large = true,
                    }
                }
                (field::TENSOR_FLOATS, Item::Bits(bits)) => floats.push(bits),
                (field::TENSOR_FLOATS, Item::Until(until)) => match self.bytes(until)? {
                    Some(bytes) => floats.extend(words(&bytes)),
                    None => is_large = true,
                },
                (field::TENSOR_RAW, Item::Until(until)) => match self.bytes(until)? {
                    Some(bytes) => raw = Some(bytes),
                    None => is_large = true,
                },
                (field::TENSOR_NAME, Item::Until(until)) => name = Some(self.text(until)?),
                (field::TENSOR_EXTERNAL, Item::Until(until)) => {
                    is_large = true;
                    let (mut key, mut value) = (String::new(), String::new());
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::ENTRY_KEY, Item::Until(until)) => key = self.text(until)?,
                            (field::ENTRY_VALUE, Item::Until(until)) => value = self.text(until)?,
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                    if key == "location" {
                        self.declared.files.insert(value);
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
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

    fn port(&mut self, end: u64) -> Walked<Port> {
        let mut port = Port {
            name: String::new(),
            ty: PortType::Other("a sequence, map or optional"),
            dims: None,
        };
        let mut composed = None;
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::VALUE_NAME, Item::Until(until)) => port.name = self.text(until)?,
                (field::VALUE_TYPE, Item::Until(until)) => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::TYPE_TENSOR, Item::Until(until)) => {
                                self.tensor_type(until, &mut port)?;
                            }
                            (field::TYPE_SEQUENCE, Item::Until(until)) => {
                                composed = self.sequence_type(until)?;
                            }
                            (field::TYPE_MAP, Item::Until(until)) => {
                                composed = self.map_type(until, false)?;
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        if let Some(composed) = composed {
            self.declared.composed.insert(port.name.clone(), composed);
        }
        Ok(port)
    }

    /// A sequence of tensors or of maps; `None` for one of anything else.
    fn sequence_type(&mut self, end: u64) -> Walked<Option<Composed>> {
        let mut composed = None;
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::SEQUENCE_ELEMENT, Item::Until(until)) => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::TYPE_TENSOR, Item::Until(until)) => {
                                composed = Some(Composed::Sequence(self.element_type(until)?));
                            }
                            (field::TYPE_MAP, Item::Until(until)) => {
                                composed = self.map_type(until, true)?;
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok(composed)
    }

    /// A map of single values; `None` for one of anything else.
    fn map_type(&mut self, end: u64, list: bool) -> Walked<Option<Composed>> {
        let (mut keys, mut values) = (None, None);
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::MAP_KEY, Item::Number(element)) => keys = Some(port_type(element)),
                (field::MAP_VALUE, Item::Until(until)) => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::TYPE_TENSOR, Item::Until(until)) => {
                                values = Some(self.element_type(until)?);
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        let both = keys.zip(values);
        Ok(both.map(|(key, value)| Composed::Maps { key, value, list }))
    }

    /// The type of a tensor's elements.
    fn element_type(&mut self, end: u64) -> Walked<PortType> {
        let mut port = Port {
            name: String::new(),
            ty: port_type(0),
            dims: None,
        };
        self.tensor_type(end, &mut port)?;
        Ok(port.ty)
    }

    fn tensor_type(&mut self, end: u64, port: &mut Port) -> Walked<()> {
        port.ty = port_type(0);
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::TENSOR_TYPE_ELEMENT, Item::Number(element)) => {
                    port.ty = port_type(element);
                }
                (field::TENSOR_TYPE_SHAPE, Item::Until(until)) => {
                    let dims = port.dims.get_or_insert_default();
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::SHAPE_DIM, Item::Until(until)) => dims.push(self.dim(until)?),
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn dim(&mut self, end: u64) -> Walked<Dim> {
        let mut dim = Dim::Symbolic(String::new());
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::DIM_VALUE, Item::Number(size)) => {
                    // A negative length stands for one that is open, in files that predate symbols.
                    dim = u32::try_from(size)
                        .map_or_else(|_| Dim::Symbolic(String::new()), Dim::Fixed);
                }
                (field::DIM_PARAM, Item::Until(until)) => dim = Dim::Symbolic(self.text(until)?),
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok(dim)
    }
}

/// The numbers of 32 bits that lie in these bytes.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let (four, _) = bytes.as_chunks::<4>();
    four.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

/// ONNX's number for an element type.
pub(super) fn port_type(element: u64) -> PortType {
    match element {
        1 => PortType::Tensor(TensorType::Fp32),
        2 => PortType::Tensor(TensorType::U8),
        3 => PortType::Tensor(TensorType::I8),
        4 => PortType::Tensor(TensorType::U16),
        5 => PortType::Tensor(TensorType::I16),
        6 => PortType::Tensor(TensorType::I32),
        7 => PortType::Tensor(TensorType::I64),
        8 => PortType::Tensor(TensorType::Bytes),
        9 => PortType::Tensor(TensorType::Bool),
        10 => PortType::Tensor(TensorType::Fp16),
        11 => PortType::Tensor(TensorType::Fp64),
        12 => PortType::Tensor(TensorType::U32),
        13 => PortType::Tensor(TensorType::U64),
        14 | 15 => PortType::Other("a complex number"),
        16 => PortType::Tensor(TensorType::Bf16),
        17 => PortType::Tensor(TensorType::Fp8E4m3fn),
        18 => PortType::Tensor(TensorType::Fp8E4m3fnuz),
        19 => PortType::Tensor(TensorType::Fp8E5m2),
        20 => PortType::Tensor(TensorType::Fp8E5m2fnuz),
        21 => PortType::Tensor(TensorType::U4),
        22 => PortType::Tensor(TensorType::I4),
        25 => PortType::Tensor(TensorType::U2),
        26 => PortType::Tensor(TensorType::I2),
        _ => PortType::Other("a number of less than a byte or of a rare format"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// A message's field that is itself a message or a text.
    fn part(field: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for mut value in [field << 3 | 2, content.len() as u64] {
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        }
        bytes.extend_from_slice(content);
        bytes
    }

    fn tensor_in(file: &str) -> Vec<u8> {
        let entry = |key: &str, value: &str| {
            part(
                field::TENSOR_EXTERNAL,
                &[
                    part(field::ENTRY_KEY, key.as_bytes()),
                    part(field::ENTRY_VALUE, value.as_bytes()),
                ]
                .concat(),
            )
        };
        [entry("offset", "0"), entry("location", file)].concat()
    }

    fn graph(content: Vec<u8>) -> Vec<u8> {
        part(field::MODEL_GRAPH, &content)
    }

    /// Every place in a file where a tensor can lie.
    fn everywhere(tensor: &[u8]) -> Vec<Vec<u8>> {
        let sparse = part(field::SPARSE_INDICES, tensor);
        let attribute =
            |content: Vec<u8>| part(field::GRAPH_NODE, &part(field::NODE_ATTRIBUTE, &content));
        let initializer = part(field::GRAPH_INITIALIZER, tensor);
        vec![
            graph(initializer.clone()),
            graph(part(field::GRAPH_SPARSE_INITIALIZER, &sparse)),
            graph(attribute(part(field::ATTRIBUTE_TENSOR, tensor))),
            graph(attribute(part(field::ATTRIBUTE_TENSORS, tensor))),
            graph(attribute(part(field::ATTRIBUTE_SPARSE, &sparse))),
            graph(attribute(part(field::ATTRIBUTE_SPARSES, &sparse))),
            graph(attribute(part(field::ATTRIBUTE_GRAPH, &initializer))),
            graph(attribute(part(
                field::ATTRIBUTE_GRAPHS,
                &attribute(part(field::ATTRIBUTE_GRAPH, &initializer)),
            ))),
            part(
                field::MODEL_FUNCTIONS,
                &part(
                    field::FUNCTION_NODE,
                    &part(
                        field::NODE_ATTRIBUTE,
                        &part(field::ATTRIBUTE_TENSOR, tensor),
                    ),
                ),
            ),
            part(
                field::MODEL_FUNCTIONS,
                &part(
                    field::FUNCTION_ATTRIBUTE,
                    &part(field::ATTRIBUTE_TENSOR, tensor),
                ),
            ),
            part(
                field::MODEL_TRAINING,
                &part(field::TRAINING_ALGORITHM, &initializer),
            ),
        ]
    }

    #[test]
    fn a_file_outside_of_the_folder_is_refused_wherever_a_graph_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        std::fs::write(folder.path().join("weights.bin"), [0; 4]).expect("written");
        for outside in [
            "../secret",
            "/etc/passwd",
            "a/../../secret",
            "..",
            "",
            "..\\secret",
            "*/_ORT_MEM_ADDR_/*",
            "weights.bin\0",
        ] {
            for bytes in everywhere(&tensor_in(outside)) {
                std::fs::write(&path, &bytes).expect("written");
                for source in [
                    GraphSource::from(path.as_path()),
                    GraphSource::Bytes(Bytes::from(bytes)),
                ] {
                    let error = examine(&source).expect_err(outside);
                    assert_eq!(error.code, ErrorCode::Security, "{outside:?}: {error}");
                }
            }
        }
        for bytes in everywhere(&tensor_in("weights.bin")) {
            std::fs::write(&path, &bytes).expect("written");
            let declared = examine(&GraphSource::from(path.as_path())).expect("it is beside it");
            assert!(declared.files.contains("weights.bin"));
            let error = examine(&GraphSource::Bytes(Bytes::from(bytes))).expect_err("no folder");
            assert_eq!(error.code, ErrorCode::Security, "{error}");
        }
        std::fs::write(
            &path,
            graph(part(field::GRAPH_INITIALIZER, &tensor_in("absent"))),
        )
        .expect("written");
        let error = examine(&GraphSource::from(path.as_path())).expect_err("not there");
        assert!(
            error.code == ErrorCode::NotFound && error.message.contains("\"absent\""),
            "{error}"
        );
    }

    #[test]
    fn what_a_run_costs_is_read_with_the_operators_of_graph_and_functions() {
        let node = |operator: &str, domain: &str, inputs: &[&str], more: &[u8]| {
            let inputs = inputs
                .iter()
                .map(|name| part(field::NODE_INPUT, name.as_bytes()));
            [
                inputs.collect::<Vec<_>>().concat(),
                part(field::NODE_OUTPUT, b"y"),
                part(field::NODE_OPERATOR, operator.as_bytes()),
                part(field::NODE_DOMAIN, domain.as_bytes()),
                more.to_vec(),
            ]
            .concat()
        };
        let cost = |node: Vec<u8>, more: Vec<u8>| {
            let shape = part(field::GRAPH_INITIALIZER, &part(field::TENSOR_NAME, b"c"));
            let bytes = [
                graph([shape, part(field::GRAPH_NODE, &node)].concat()),
                more,
            ]
            .concat();
            examine(&GraphSource::Bytes(bytes.into()))
                .expect("sound")
                .cost
        };
        assert_eq!(cost(node("Relu", "", &["x"], b""), vec![]), Cost::Shapes);
        assert_eq!(
            cost(node("Reshape", "", &["x", "c"], b""), vec![]),
            Cost::Shapes
        );
        let subgraph = part(field::NODE_ATTRIBUTE, &part(field::ATTRIBUTE_GRAPH, b""));
        for unsafe_node in [
            node("Reshape", "", &["x", "z"], b""),
            node("Relu", "elsewhere", &["x"], b""),
            node("Relu", "", &["x"], &subgraph),
        ] {
            assert!(matches!(cost(unsafe_node, vec![]), Cost::Values(_)));
        }
        let function = |body: &str| {
            part(
                field::MODEL_FUNCTIONS,
                &[
                    part(field::FUNCTION_NAME, b"Own"),
                    part(field::FUNCTION_DOMAIN, b"own"),
                    part(field::FUNCTION_INPUT, b"x"),
                    part(field::FUNCTION_OUTPUT, b"y"),
                    part(field::FUNCTION_NODE, &node(body, "", &["x"], b"")),
                ]
                .concat(),
            )
        };
        let call = || node("Own", "own", &["x"], b"");
        assert_eq!(cost(call(), function("Relu")), Cost::Shapes);
        assert!(matches!(cost(call(), function("Loop")), Cost::Values(_)));
    }

    #[test]
    fn an_input_that_has_a_value_already_is_none() {
        let value = |name: &[u8]| part(field::VALUE_NAME, name);
        let bytes = graph(
            [
                part(field::GRAPH_INPUT, &value(b"x")),
                part(field::GRAPH_INPUT, &value(b"weight")),
                part(
                    field::GRAPH_INITIALIZER,
                    &part(field::TENSOR_NAME, b"weight"),
                ),
            ]
            .concat(),
        );
        let declared = examine(&GraphSource::Bytes(bytes.into())).expect("sound");
        let names: Vec<&str> = declared
            .inputs
            .iter()
            .map(|port| port.name.as_str())
            .collect();
        assert_eq!(names, ["x"]);
    }

    #[test]
    fn graphs_in_graphs_without_end_are_refused_and_not_followed() {
        let mut bytes = Vec::new();
        for _ in 0..MAX_DEPTH + 1 {
            bytes = part(
                field::GRAPH_NODE,
                &part(field::NODE_ATTRIBUTE, &part(field::ATTRIBUTE_GRAPH, &bytes)),
            );
        }
        let error = examine(&GraphSource::Bytes(graph(bytes).into())).expect_err("too deep");
        assert!(error.message.contains("too deep"), "{error}");
    }

    #[test]
    fn no_bytes_make_the_walk_panic_or_take_memory() {
        let sound = everywhere(&tensor_in("weights.bin")).concat();
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut bytes = sound.clone();
            for _ in 0..3 {
                // Knuth's generator: the same bytes each time, so that a failure can be had again.
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            drop(examine(&GraphSource::Bytes(bytes.into())));
        }
    }
}
