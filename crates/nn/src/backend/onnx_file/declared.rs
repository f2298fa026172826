//! The description of an ONNX file: its ports, its facts, and the properties of a run that follow from its operators.

use std::collections::{BTreeMap, BTreeSet};

use crate::backend::cost::{Cost, Function, Node};
use crate::backend::options::LoadOptions;
use crate::backend::port::{Port, PortType};
use crate::backend::rows::Rows;

/// The description of a graph.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Declared {
    /// The inputs that a call gives: those without an initializer.
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// The files that hold tensors of the graph.
    pub files: BTreeSet<String>,
    /// The property that the time of a run depends on.
    pub cost: Cost,
    pub facts: Facts,
    /// The operators of the outermost graph.
    pub nodes: Vec<Node>,
    /// The operators that the file defines.
    pub functions: Vec<Function>,
    /// Lengths of the outermost graph's initializers, by name.
    pub tables: BTreeMap<String, Vec<u64>>,
    /// The attribute `axis` of operators that have it, by the name of their first output.
    pub axes: BTreeMap<String, i64>,
    /// The dependence of rows on each other, by output.
    pub rows: BTreeMap<String, Rows>,
    /// The outputs whose shapes follow from values that callers send.
    pub open_outputs: BTreeSet<String>,
    /// The inputs and outputs that are sequences or maps, by name.
    pub composed: BTreeMap<String, Composed>,
    /// The keys of the maps that `ZipMap` makes, by the name of its output.
    pub classes: BTreeMap<String, Vec<String>>,
}

/// The parts of an input or output that is not a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Composed {
    /// A list of tensors of one type.
    Sequence(PortType),
    /// Maps; a single one unless `list`.
    Maps {
        key: PortType,
        value: PortType,
        list: bool,
    },
}

impl Declared {
    /// Returns the dependence of rows on each other in the outputs that are loaded.
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

/// The metadata that the file states about itself.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Facts {
    /// The version of the file format; 0 if the file does not name one.
    pub ir_version: u64,
    /// The version of each set of operators, by domain; ONNX's own is `""`.
    pub opsets: BTreeMap<String, u64>,
    /// The program that wrote the file.
    pub producer: String,
    pub producer_version: String,
    pub description: String,
    /// Keys and values that its author added. The walk keeps a bounded number of them.
    pub metadata: Vec<(String, String)>,
    /// Numbers in the tensors of the outermost graph.
    pub parameters: u64,
    /// Each operator that is used anywhere, by domain and name, and how often.
    pub operators: BTreeMap<(String, String), u64>,
}
