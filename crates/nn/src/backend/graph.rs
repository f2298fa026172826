//! A graph's file as it describes itself, without a runtime: ports, operators, versions.

use std::collections::BTreeMap;
use std::path::Path;

use super::cost::Node;
#[cfg(feature = "native")]
use super::onnx_file::Composed;
use super::onnx_file::{self, Declared};
use super::options::GraphSource;
use super::port::Port;
use crate::error::NnError;

/// The domains whose operators a backend has itself. A contract needs no library for them.
const BUILT_IN_DOMAINS: [&str; 11] = [
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft",
    "com.microsoft.experimental",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
    "org.openvinotoolkit",
    "org.pytorch.aten",
];

/// The description of an ONNX file.
#[derive(Debug)]
pub struct Graph(Declared);

impl Graph {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such file, `InvalidEncoding` when it is not ONNX, `Security` when it names files
    /// outside of its folder.
    pub fn read(path: &Path) -> Result<Self, NnError> {
        onnx_file::examine(&GraphSource::from(path)).map(Self)
    }

    /// The same; `None` for a file that is not ONNX.
    pub fn of(path: &Path) -> Option<Self> {
        Self::read(path).ok()
    }

    /// The graph's inputs, without initializers.
    pub fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    /// The graph's outputs, in the order of the file.
    pub fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    /// The parts of the input or output of this name, if it is a sequence or a map.
    #[cfg(feature = "native")]
    pub(crate) fn composed(&self, name: &str) -> Option<Composed> {
        self.0.composed.get(name).copied()
    }

    /// The keys of the maps in the output of this name, if the graph names them.
    #[cfg(feature = "native")]
    pub(crate) fn classes(&self, name: &str) -> Option<&[String]> {
        self.0.classes.get(name).map(Vec::as_slice)
    }

    /// The other files in its folder that hold weights.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.0.files.iter().map(String::as_str)
    }

    /// The version of the file format; 0 if the file does not name one.
    pub fn ir_version(&self) -> u64 {
        self.0.facts.ir_version
    }

    /// The version of each set of operators, by domain; ONNX's own is `""`.
    pub fn opsets(&self) -> &BTreeMap<String, u64> {
        &self.0.facts.opsets
    }

    /// The program that wrote it, and that program's version.
    pub fn producer(&self) -> (&str, &str) {
        (&self.0.facts.producer, &self.0.facts.producer_version)
    }

    /// The description that the author wrote; may be empty.
    pub fn description(&self) -> &str {
        &self.0.facts.description
    }

    /// Keys and values that its author added.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.0.facts.metadata
    }

    /// The number of elements in its initializers: its weights.
    pub fn parameters(&self) -> u64 {
        self.0.facts.parameters
    }

    /// Each operator that is used anywhere in it, by domain and name, and how often.
    pub fn operators(&self) -> &BTreeMap<(String, String), u64> {
        &self.0.facts.operators
    }

    /// The names of the operators that neither a backend nor the file itself defines, by domain. A library must have them.
    pub fn foreign_operators(&self) -> BTreeMap<String, Vec<String>> {
        let mut foreign: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (domain, name) in self.operators().keys() {
            let is_defined = (self.0.functions.iter())
                .any(|function| function.domain == *domain && function.name == *name);
            if !is_defined && !BUILT_IN_DOMAINS.contains(&domain.as_str()) {
                let names = foreign.entry(domain.clone()).or_default();
                names.push(name.clone());
            }
        }
        foreign
    }

    /// Returns whether the shape of an output follows from values that callers send. A sequence is given out as two tensors,
    /// and the second has its own name.
    pub(crate) fn has_open_shape(&self, output: &str) -> bool {
        let of_sequence = output.strip_suffix(".shapes").unwrap_or(output);
        [output, of_sequence]
            .iter()
            .any(|name| self.0.open_outputs.contains(*name))
    }

    /// Lengths of the initializer of this name.
    pub(crate) fn table(&self, name: &str) -> Option<&[u64]> {
        self.0.tables.get(name).map(Vec::as_slice)
    }

    /// The attribute `axis` of the operator whose first output has this name.
    pub(crate) fn axis(&self, output: &str) -> Option<i64> {
        self.0.axes.get(output).copied()
    }

    /// Bytes of the weights as 32-bit numbers: the memory of a runtime that unpacks quantised weights.
    pub fn weight_bytes(&self) -> u64 {
        self.parameters().saturating_mul(4)
    }

    /// The operators of the outermost graph.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.0.nodes
    }
}
