//! The facts from which an adapter is guessed, and the result of a guess.

use penstock_nn::derive::Description;
use penstock_nn::{Dim, Port};
use serde_json::{Map, Value};
use std::path::Path;

/// Largest file beside a graph that is read. A tokenizer has some megabytes.
const MAX_BESIDE_BYTES: u64 = 64 << 20;

/// The file with the adapter's configuration.
pub(crate) const CONFIG_FILE: &str = "adapter.json";

/// A model, as its graph, its first run and the files beside it show it.
pub(crate) struct Facts<'a> {
    /// The path of the graph. Files are looked for beside it.
    pub(crate) graph: &'a Path,
    /// The inputs and outputs of the graph, with the facts known about them.
    pub(crate) description: &'a Description,
    /// The outputs of the first run: names and lengths. Empty if the model did not run.
    pub(crate) ran: &'a [(String, Vec<u32>)],
}

impl Facts<'_> {
    pub(crate) fn json(&self, name: &str) -> Option<Value> {
        json_beside(self.graph, name)
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        beside(self.graph, name)
    }

    pub(crate) fn input(&self, name: &str) -> Option<&Port> {
        (self.description.inputs.iter()).find(|port| port.name == name)
    }

    pub(crate) fn output(&self, name: &str) -> Option<&Port> {
        (self.description.outputs.iter()).find(|port| port.name == name)
    }

    /// The lengths of an output's axes: those of the first run, or else the fixed ones of the graph. Open ones are
    /// `None`.
    pub(crate) fn lengths(&self, output: &Port) -> Option<Vec<Option<u32>>> {
        let ran = self.ran.iter().find(|(name, _)| *name == output.name);
        if let Some((_, dims)) = ran {
            return Some(dims.iter().copied().map(Some).collect());
        }
        let dims = output.dims.as_deref()?;
        Some(dims.iter().map(fixed).collect())
    }

    /// The output of this name, or the only output.
    pub(crate) fn named_or_only(&self, name: &str) -> Option<&Port> {
        match (self.output(name), self.description.outputs.as_slice()) {
            (Some(output), _) | (None, [output]) => Some(output),
            _ => None,
        }
    }

    /// The member `output` of a configuration, which a graph with a single output does not need.
    pub(crate) fn name_output(&self, output: &Port, config: &mut Map<String, Value>) {
        if self.description.outputs.len() > 1 {
            config.insert("output".into(), output.name.clone().into());
        }
    }
}

/// The length of an axis, if the graph gives one.
pub(crate) fn fixed(dim: &Dim) -> Option<u32> {
    match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Symbolic(_) => None,
    }
}

/// Reads a file beside the graph, or in the folder above it, as repositories of models have them.
fn beside(graph: &Path, name: &str) -> Option<Vec<u8>> {
    let folder = graph.parent()?;
    let above = folder.parent().unwrap_or(folder);
    [folder, above].iter().find_map(|folder| {
        let path = folder.join(name);
        let small = std::fs::metadata(&path).ok()?.len() <= MAX_BESIDE_BYTES;
        small.then(|| std::fs::read(&path).ok())?
    })
}

/// Reads a JSON file beside the graph, or in the folder above it.
pub(crate) fn json_beside(graph: &Path, name: &str) -> Option<Value> {
    serde_json::from_slice(&beside(graph, name)?).ok()
}

/// The name of the model's class in transformers, such as `BertForTokenClassification`. `None` if the configuration
/// names none, or several.
pub(crate) fn architecture(config: Option<&Value>) -> Option<&str> {
    match config?.get("architectures")?.as_array()?.as_slice() {
        [one] => one.as_str(),
        _ => None,
    }
}

/// The names of the classes in their order, from `id2label`. Empty if there are none, or if their numbers have gaps.
pub(crate) fn labels(config: Option<&Value>) -> Vec<String> {
    let by_id = config.and_then(|config| config.get("id2label")?.as_object());
    let Some(by_id) = by_id else {
        return Vec::new();
    };
    let named = (0..by_id.len()).map(|id| Some(by_id.get(&id.to_string())?.as_str()?.to_owned()));
    named.collect::<Option<_>>().unwrap_or_default()
}

/// The outcome of a guess.
#[derive(Debug)]
pub(crate) enum Guess {
    /// Nothing suggests that the model reads texts, images or sound.
    Nothing,
    /// The model may read such content, but no adapter can be written.
    Ask(String),
    /// The model reads such content by this adapter.
    Adapter(Proposal),
}

/// An adapter with its configuration.
#[derive(Debug, Default)]
pub(crate) struct Proposal {
    /// The name of the adapter, for `[adapter]`.
    pub(crate) name: &'static str,
    /// The members of its configuration.
    pub(crate) config: Map<String, Value>,
    /// Files beside the graph that the adapter reads: the setting of `[adapter]`, the name and the content.
    pub(crate) files: Vec<(&'static str, &'static str, Vec<u8>)>,
    /// Questions without whose answers the adapter would give wrong answers.
    pub(crate) open: Vec<String>,
    /// Questions that an operator should answer too, although the adapter works without.
    pub(crate) remarks: Vec<String>,
}

impl Proposal {
    /// Adds a member to the configuration.
    pub(crate) fn set(&mut self, member: &str, value: impl Into<Value>) {
        self.config.insert(member.into(), value.into());
    }

    /// The configuration as the gate gives it to the adapter: files are members of it.
    pub(crate) fn whole(&self) -> Result<Vec<u8>, String> {
        let mut config = self.config.clone();
        for (setting, file, bytes) in &self.files {
            let content: Value =
                serde_json::from_slice(bytes).map_err(|error| format!("{file}: {error}"))?;
            config.insert((*setting).into(), content);
        }
        serde_json::to_vec(&config).map_err(|error| error.to_string())
    }
}
