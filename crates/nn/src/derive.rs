//! A contract made from a graph: the facts about its ports, and questions about everything that a graph cannot state.
//!
//! Pure: a [`Description`] goes in, and text comes out. `penstock init` writes the text to `model.toml`, and a server
//! with `[models] derive = true` serves a folder without a `model.toml` under it.
//!
//! Decisions:
//!
//! - **Nothing is invented.** A name, a type and a length stand in the contract as the graph has them. Other facts that
//!   follow from the graph are written too: an index may be as large as its table. Everything else is a question, a
//!   line that begins with `# ?`.
//! - **The first axis counts items** if the graph has it open in every input and every output under one name, or
//!   without a name. Otherwise each axis keeps its own name, and a question explains the use of one name.
//! - **Sequences and maps are written as the tensors that carry them** (docs/TYPES.md). The keys of the maps that
//!   `ZipMap` makes are the output's labels.
//! - **Outputs that no tensor carries are left out**; an input that none carries makes the model impossible to serve.
//! - **Operators that no backend has** become a question for each domain, with the table `[engine]` as a comment.
//! - **A run outranks the graph.** If a run shows other axes than the graph declares, [`Description::correct`] writes
//!   the axes of the run, and a question.

use std::collections::{BTreeMap, BTreeSet};

use penstock_tensor::Contract;
use penstock_tensor::contract::{DERIVED_MEMBERS, Format, MAX_NAME_BYTES, MAX_TENSOR_NAME_BYTES};

use crate::backend::{Composed, Dim, Graph, Port, PortType};
use crate::contract_check::datatype_of;
use crate::index_bounds::IndexBounds;

mod libraries;

/// Longest description that is taken over from a graph, in characters.
const MAX_DESCRIPTION_CHARS: usize = 200;

/// Longest question that is written to a contract, in characters: it repeats values from files beside the graph.
const MAX_QUESTION_CHARS: usize = 800;

/// The input that holds the numbers of a text's tokens.
const TOKENS: &str = "input_ids";

/// Names of inputs that mark the end of a text: 1 for a token, 0 for padding.
const MASKS: [&str; 3] = ["attention_mask", "input_mask", "mask"];

/// The facts about a graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Description {
    /// The format of its file.
    pub format: Format,
    /// The author's description; may be empty.
    pub text: String,
    /// The origin, for a comment.
    pub origin: String,
    /// The inputs, in the graph's order.
    pub inputs: Vec<Port>,
    /// The outputs, in the graph's order.
    pub outputs: Vec<Port>,
    /// The length of the table that each input of indices leads into.
    pub tables: BTreeMap<String, u64>,
    /// The number of axes of ports whose number the graph does not give, if it is known from elsewhere.
    pub ranks: BTreeMap<String, usize>,
    /// The least length that ran, if the graph does not run on less.
    pub least: BTreeMap<String, u64>,
    /// Axes of the contract of which a longer call changes the number of axes of an answer: one element at most.
    pub single: BTreeSet<String>,
    /// The longest text in tokens, if a configuration in the graph's folder gives it.
    pub most_tokens: Option<u64>,
    /// The names of the classes, if a configuration in the graph's folder gives them.
    pub labels: Vec<String>,
    /// The keys of maps, by the output that carries them, if the graph gives them.
    pub classes: BTreeMap<String, Vec<String>>,
    /// The ports whose first axis does not count items: those that carry a sequence.
    pub pieces: BTreeSet<String>,
    /// The shapes that a run gave, by output, if they contradict the graph.
    pub came: BTreeMap<String, Vec<u64>>,
    /// The adapter, if there is evidence for one.
    pub adapter: Option<AdapterTable>,
    /// Operators that no backend has, by domain ([`Graph::foreign_operators`]). Only for a graph that did not load.
    pub foreign: BTreeMap<String, Vec<String>>,
    /// Questions of other parts, which are added to those of the contract.
    pub questions: Vec<String>,
}

/// The table `[adapter]` of a contract.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdapterTable {
    /// The name of the adapter.
    pub name: String,
    /// Its files beside the contract: the setting, and the name of the file.
    pub files: Vec<(&'static str, String)>,
    /// Questions without whose answers it would give wrong answers. With any, the table is a comment.
    pub open: Vec<String>,
}

/// A contract made from a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// The text of `model.toml`, with the questions as comments.
    pub text: String,
    /// Facts that the graph does not state, as the text asks for them.
    pub questions: Vec<String>,
    /// Reasons that the graph cannot be served.
    pub obstacles: Vec<String>,
}

impl Description {
    /// The facts of an ONNX file.
    pub fn of(graph: &Graph) -> Self {
        let (producer, version) = graph.producer();
        let opset = graph.opsets().get("").copied().unwrap_or_default();
        let by = [producer, version].join(" ");
        let mut pieces = BTreeSet::new();
        let mut carried = |ports: &[Port]| -> Vec<Port> {
            ports
                .iter()
                .flat_map(|port| carried_by(port, graph, &mut pieces))
                .collect()
        };
        let (inputs, outputs) = (carried(graph.inputs()), carried(graph.outputs()));
        let classes = (graph.outputs().iter())
            .filter(|port| graph.composed(&port.name).is_some())
            .filter_map(|port| Some((port.name.clone(), graph.classes(&port.name)?.to_vec())))
            .collect();
        Self {
            text: graph.description().to_owned(),
            origin: format!(
                "opset {opset}, IR {}, written by {}",
                graph.ir_version(),
                or_unknown(by.trim())
            ),
            inputs,
            outputs,
            tables: IndexBounds::of(graph, graph.inputs()).by_name(graph.inputs()),
            classes,
            pieces,
            ..Self::default()
        }
    }

    /// Takes over the shapes of outputs that contradict `contract`, which was derived from this description. `runs` has
    /// the shapes of each run, the longest last. If a longer run changes the number of an output's axes, the contract
    /// allows one item: only its shape is known.
    pub fn correct_by(&mut self, contract: &Contract, outputs: &[String], runs: &[Shapes]) {
        let ranks = |name: &str| -> Vec<Option<usize>> {
            (runs.iter())
                .map(|run| shape_of(&run.outputs, name).map(<[u64]>::len))
                .collect()
        };
        let changes = outputs.iter().any(|name| {
            let ranks = ranks(name);
            ranks.iter().any(|rank| *rank != ranks[0])
        });
        if !changes {
            return self.correct(outputs, runs);
        }
        let first = contract.inputs.iter().filter_map(|spec| spec.shape.first());
        self.single.extend(first.filter_map(|dim| match dim {
            penstock_tensor::contract::Dim::Symbol(name) => Some(name.clone()),
            penstock_tensor::contract::Dim::Fixed(_) => None,
        }));
        self.correct(outputs, &runs[..1]);
    }

    /// Takes over the shapes of outputs that contradict the graph. `runs` has the shapes of each run, the longest last.
    pub fn correct(&mut self, outputs: &[String], runs: &[Shapes]) {
        let Some(last) = runs.last() else { return };
        for name in outputs {
            let Some(shape) = shape_of(&last.outputs, name) else {
                continue;
            };
            let Some(index) = self.outputs.iter().position(|port| port.name == *name) else {
                continue;
            };
            let dims = (0..shape.len()).map(|at| self.axis_that_came(index, at, runs));
            self.outputs[index].dims = Some(dims.collect());
            self.came.insert(name.clone(), shape.to_vec());
        }
    }

    /// Axis `at` of an output, as the runs show it.
    fn axis_that_came(&self, index: usize, at: usize, runs: &[Shapes]) -> Dim {
        let port = &self.outputs[index];
        let lengths: Vec<Option<u64>> = (runs.iter())
            .map(|run| shape_of(&run.outputs, &port.name)?.get(at).copied())
            .collect();
        let fixed = lengths[0].filter(|first| lengths.iter().all(|length| *length == Some(*first)));
        let of_input = |input: &Port, at: usize| -> Vec<Option<u64>> {
            (runs.iter())
                .map(|run| shape_of(&run.inputs, &input.name)?.get(at).copied())
                .collect()
        };
        // An open axis of an input at the same place that was as long in every run.
        let follows = (self.inputs.iter()).find_map(|input| {
            let dim = input.dims.as_deref()?.get(at)?;
            let is_open = matches!(dim, Dim::Symbolic(_));
            (runs.len() > 1 && is_open && of_input(input, at) == lengths).then(|| dim.clone())
        });
        if let Some(dim) = follows {
            return dim;
        }
        let same_rank = port.dims.as_ref().is_some_and(|dims| {
            shape_of(&runs[runs.len() - 1].outputs, &port.name)
                .is_some_and(|shape| shape.len() == dims.len())
        });
        let declared = port
            .dims
            .as_ref()
            .and_then(|dims| dims.get(at))
            .filter(|_| same_rank);
        match (declared, fixed) {
            (Some(Dim::Fixed(length)), Some(only)) if u64::from(*length) == only => {
                Dim::Fixed(*length)
            }
            // A name proves nothing if an input has it with another length.
            (Some(Dim::Symbolic(symbol)), _)
                if !symbol.is_empty()
                    && !(self.inputs.iter().flat_map(|input| &input.dims).flatten())
                        .any(|dim| matches!(dim, Dim::Symbolic(other) if other == symbol)) =>
            {
                Dim::Symbolic(symbol.clone())
            }
            // An axis of one element may be longer in a longer call, and one run alone shows no axis to be fixed.
            (_, Some(only)) if only > 1 && runs.len() > 1 => {
                u32::try_from(only).map_or(Dim::Symbolic(format!("{}_{at}", port.name)), Dim::Fixed)
            }
            _ => Dim::Symbolic(format!("{}_{at}", port.name)),
        }
    }
}

fn shape_of<'a>(shapes: &'a [(String, Vec<u64>)], name: &str) -> Option<&'a [u64]> {
    let (_, shape) = shapes.iter().find(|(other, _)| other == name)?;
    Some(shape)
}

/// The shapes of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shapes {
    /// The lengths of each input, by name.
    pub inputs: Vec<(String, Vec<u64>)>,
    /// The lengths of each output, by name.
    pub outputs: Vec<(String, Vec<u64>)>,
}

/// The ports of the tensors that carry a port: itself, unless it is a sequence or a map.
fn carried_by(port: &Port, graph: &Graph, pieces: &mut BTreeSet<String>) -> Vec<Port> {
    let Some(composed) = graph.composed(&port.name) else {
        return vec![port.clone()];
    };
    let name = &port.name;
    let one = |suffix: &str, ty, dims: Vec<Dim>| Port {
        name: format!("{name}{suffix}"),
        ty,
        dims: Some(dims),
    };
    let axis = |what: &str| Dim::Symbolic(format!("{name}_{what}"));
    match composed {
        Composed::Sequence(ty) => {
            let shapes = format!("{name}.shapes");
            pieces.extend([name.clone(), shapes]);
            let int64 = PortType::Tensor(crate::tensor::TensorType::I64);
            vec![
                one("", ty, vec![axis("elements")]),
                one(".shapes", int64, vec![axis("tensors"), axis("axes")]),
            ]
        }
        Composed::Maps { key, value, list } => {
            let classes = graph
                .classes(name)
                .and_then(|classes| classes.len().try_into().ok());
            let columns = classes.map_or_else(|| axis("keys"), Dim::Fixed);
            let mut dims = vec![columns.clone()];
            if list {
                dims.insert(0, Dim::Symbolic(String::new()));
            }
            let mut ports = vec![one("", value, dims)];
            // The keys give the columns' meaning if nothing else does.
            if classes.is_none() {
                pieces.insert(format!("{name}.keys"));
                ports.push(one(".keys", key, vec![columns]));
            }
            ports
        }
    }
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() {
        "an unknown program"
    } else {
        text
    }
}

/// Names for the axes that a graph leaves open.
struct Axes {
    /// The graph's name to the contract's.
    names: BTreeMap<String, String>,
    taken: BTreeSet<String>,
    /// The name of the axis that counts items, if there is one.
    items: Option<String>,
}

impl Axes {
    fn of(description: &Description) -> Self {
        let mut axes = Self {
            names: BTreeMap::new(),
            taken: BTreeSet::new(),
            items: None,
        };
        let mut first: BTreeSet<&str> = BTreeSet::new();
        let mut all_open = !description.inputs.is_empty();
        let sides = [(true, &description.inputs), (false, &description.outputs)];
        let ports = sides
            .iter()
            .flat_map(|(is_input, ports)| ports.iter().map(move |port| (*is_input, port)));
        for (is_input, port) in ports {
            if datatype_of(port.ty).is_none() {
                continue;
            }
            match port.dims.as_deref().and_then(|dims| dims.first()) {
                _ if description.pieces.contains(&port.name) => all_open = false,
                Some(Dim::Symbolic(name)) => drop(first.insert(name)),
                // An output of which nothing is known need not count items.
                _ if port.dims.is_none() && is_input => drop(first.insert("")),
                _ => all_open = false,
            }
        }
        let named: Vec<&str> = first
            .iter()
            .copied()
            .filter(|name| !name.is_empty())
            .collect();
        if all_open && named.len() <= 1 {
            let name = named.first().copied().unwrap_or_default();
            let ours = axes.fresh(if name.is_empty() { "N" } else { name });
            if !name.is_empty() {
                axes.names.insert(name.to_owned(), ours.clone());
            }
            axes.items = Some(ours);
        }
        axes
    }

    /// A name that a contract may have, and that no other axis has.
    fn fresh(&mut self, wanted: &str) -> String {
        let mut name: String = wanted
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            name.insert(0, '_');
        }
        // Room for a number behind it.
        name.truncate(MAX_NAME_BYTES - 8);
        let mut number = 2;
        let mut free = name.clone();
        while !self.taken.insert(free.clone()) {
            free = format!("{name}_{number}");
            number += 1;
        }
        free
    }

    fn name(&mut self, symbol: &str, at: usize) -> String {
        if symbol.is_empty() {
            return match (&self.items, at) {
                (Some(items), 0) => items.clone(),
                _ => self.fresh(["N", "A", "B", "C", "D"].get(at).copied().unwrap_or("E")),
            };
        }
        if let Some(known) = self.names.get(symbol) {
            return known.clone();
        }
        let ours = self.fresh(symbol);
        self.names.insert(symbol.to_owned(), ours.clone());
        ours
    }

    fn shape(&mut self, port: &Port, ranks: &BTreeMap<String, usize>) -> Vec<ShapeDim> {
        let open: Vec<Dim>;
        let dims = match &port.dims {
            Some(dims) => dims,
            None => {
                let rank = ranks.get(&port.name).copied().unwrap_or(2);
                open = vec![Dim::Symbolic(String::new()); rank];
                &open
            }
        };
        (dims.iter().enumerate())
            .map(|(at, dim)| match dim {
                // A contract has no axis of no elements.
                Dim::Fixed(0) => ShapeDim::Open(self.name("", at)),
                Dim::Fixed(length) => ShapeDim::Fixed(*length),
                Dim::Symbolic(symbol) => ShapeDim::Open(self.name(symbol, at)),
            })
            .collect()
    }
}

enum ShapeDim {
    Fixed(u32),
    Open(String),
}

fn shape_text(shape: &[ShapeDim]) -> String {
    let dims: Vec<String> = shape
        .iter()
        .map(|dim| match dim {
            ShapeDim::Fixed(length) => length.to_string(),
            ShapeDim::Open(name) => format!("\"{name}\""),
        })
        .collect();
    format!("[{}]", dims.join(", "))
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One line of a comment: a graph's own text must not end it.
fn comment(text: &str) -> String {
    on_one_line(text, MAX_DESCRIPTION_CHARS)
}

fn on_one_line(text: &str, most_chars: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(most_chars).collect()
}

/// Makes a contract of the facts about a graph, with questions where they do not suffice.
///
/// ```
/// use penstock_nn::derive::{Description, derive};
/// use penstock_nn::backend::Graph;
/// use penstock_tensor::Contract;
///
/// let graph = Graph::read("../../models/identity/1/model.onnx".as_ref()).unwrap();
/// let derived = derive(&Description::of(&graph));
/// let contract = Contract::parse(&derived.text).unwrap();
/// assert_eq!(contract.outputs[0].name, "b");
/// ```
pub fn derive(description: &Description) -> Derived {
    let mut axes = Axes::of(description);
    let mut questions = description.questions.clone();
    let mut obstacles = Vec::new();
    let mut used: Vec<String> = Vec::new();
    let mut of_tokens: BTreeSet<String> = BTreeSet::new();
    let mut labelled = false;
    let mut tables = String::new();
    for (side, ports) in [
        ("inputs", &description.inputs),
        ("outputs", &description.outputs),
    ] {
        for port in ports {
            let shown = comment(&port.name);
            let Some(datatype) = datatype_of(port.ty) else {
                let what = format!(
                    "{} {shown} is {}, which this server does not carry",
                    &side[..side.len() - 1],
                    port.ty
                );
                match side {
                    "inputs" => obstacles.push(what),
                    _ => tables.push_str(&format!("\n# {what}; it is left out.\n")),
                }
                continue;
            };
            let fits = (1..=MAX_TENSOR_NAME_BYTES).contains(&port.name.len());
            if !fits || port.name.chars().any(char::is_control) {
                obstacles.push(format!(
                    "{} {shown} has a name that is empty, too long or holds control characters; rename it in the graph",
                    &side[..side.len() - 1]
                ));
            }
            let shape = axes.shape(port, &description.ranks);
            for dim in &shape {
                if let ShapeDim::Open(name) = dim {
                    if port.name == TOKENS {
                        of_tokens.insert(name.clone());
                    }
                    if !used.contains(name) {
                        used.push(name.clone());
                    }
                }
            }
            tables.push_str(&format!(
                "\n[[{side}]]\nname = {}\ndatatype = \"{}\"\nshape = {}\n",
                quoted(&port.name),
                datatype.as_str(),
                shape_text(&shape)
            ));
            if let Some(came) = description.came.get(&port.name) {
                let question = format!(
                    "The graph declares another shape for {shown}; a run gave {came:?}. Are these its axes?"
                );
                tables.push_str(&format!("# ? {question}\n"));
                questions.push(question);
            }
            let mut ask = |question: String| {
                tables.push_str(&format!("# ? {question}\n"));
                questions.push(question);
            };
            if port.dims.is_none() && !description.ranks.contains_key(&port.name) {
                ask(format!(
                    "The graph does not say how many axes {shown} has: is the shape right?"
                ));
            }
            if side == "inputs" {
                match description.tables.get(&port.name) {
                    Some(length) => {
                        let most = length.saturating_sub(1);
                        tables.push_str(&format!("minimum = 0\nmaximum = {most}\n"));
                    }
                    None if datatype.integer_range().is_some() && MASKS.contains(&&*port.name) => {
                        tables.push_str("minimum = 0\nmaximum = 1\n");
                    }
                    None if datatype.is_float() || datatype.integer_range().is_some() => {
                        ask(format!(
                            "Which values does {shown} take? Write minimum = … and maximum = …, or leave them open."
                        ))
                    }
                    None => {}
                }
            } else if let Some(classes) = description.classes.get(&port.name) {
                // Labels want a row of classes for each item, and members of an answer that no output has taken.
                let is_row = matches!(&shape[..], [ShapeDim::Open(first), _] if axes.items.as_ref() == Some(first));
                let only = !labelled
                    && (description.outputs.iter())
                        .all(|port| !DERIVED_MEMBERS.contains(&port.name.as_str()));
                if is_row && only && all_differ(classes) {
                    labelled = true;
                    tables.push_str(&format!("labels = [{}]\n", list(classes)));
                } else {
                    tables.push_str(&comment(&format!(
                        "# The columns are {}.",
                        classes.join(", ")
                    )));
                    tables.push('\n');
                }
            } else if let Some(ShapeDim::Fixed(classes)) = shape.last()
                && description.labels.len() == *classes as usize
                && shape.len() == 2
                && datatype.is_float()
                && ports
                    .iter()
                    .filter(|port| datatype_of(port.ty).is_some())
                    .count()
                    == 1
            {
                tables.push_str(&format!("labels = [{}]\n", list(&description.labels)));
            }
        }
    }
    let of_inputs: Vec<Option<&Dim>> = (description.inputs.iter())
        .map(|port| port.dims.as_deref().and_then(|dims| dims.first()))
        .collect();
    let open_first = of_inputs
        .iter()
        .all(|dim| matches!(dim, Some(Dim::Symbolic(_))));
    if axes.items.is_none() && open_first && !of_inputs.is_empty() {
        questions.push(
            "Do the first axes count the same items? Give them one name in every input and output; then calls can share a run."
                .into(),
        );
        tables.push_str(&format!("\n# ? {}\n", questions[questions.len() - 1]));
    }
    let bounds = axis_bounds(description, &axes, &used, &of_tokens, &mut questions);
    let out = assembled(description, &tables, &bounds, &mut questions);
    Derived {
        text: out,
        questions,
        obstacles,
    }
}

/// Writes the table `[axes]`: the bounds of each open axis, with a question if they are unknown.
fn axis_bounds(
    description: &Description,
    axes: &Axes,
    used: &[String],
    of_tokens: &BTreeSet<String>,
    questions: &mut Vec<String>,
) -> String {
    let mut bounds = String::new();
    for name in used {
        let least = description.least.get(name).copied().unwrap_or(1);
        let is_items = axes.items.as_ref() == Some(name);
        // Texts are counted in tokens along the axes of their indices.
        let tokens = (description.most_tokens).filter(|_| !is_items && of_tokens.contains(name));
        match (is_items, least, tokens) {
            _ if description.single.contains(name) => {
                let question = format!(
                    "With more than one {name}, an output has another number of axes. No contract can describe that: \
                     correct the graph."
                );
                bounds.push_str(&format!("{name} = {{ min = 1, max = 1 }} # ? {question}\n"));
                questions.push(question);
            }
            (true, 1, _) => {}
            (_, least, Some(most)) => {
                bounds.push_str(&format!("{name} = {{ min = {least}, max = {most} }}\n"));
            }
            (true, least, None) => bounds.push_str(&format!("{name} = {{ min = {least} }}\n")),
            (false, least, None) => {
                let question = format!(
                    "How long may {name} be? Write max = …, or only the size of a body bounds it."
                );
                bounds.push_str(&format!("{name} = {{ min = {least} }} # ? {question}\n"));
                questions.push(question);
            }
        }
    }
    bounds
}

/// The whole contract, of the tables of its inputs and outputs and of the bounds of its axes.
fn assembled(
    description: &Description,
    tables: &str,
    bounds: &str,
    questions: &mut Vec<String>,
) -> String {
    let text = one_line(&description.text);
    let described = if text.is_empty() {
        questions.push("What does the model do? Say it in one sentence, for people.".into());
        "description = \"A model whose contract was derived from its graph\" # ? What does the model do?\n".to_owned()
    } else {
        format!("description = {}\n", quoted(&text))
    };
    let mut out = format!(
        "# Derived from the graph ({}). A line with `# ?` is a question that the graph does not answer.\n{described}format = \
         \"{}\"\n{}{tables}",
        comment(&description.origin),
        description.format.as_str(),
        if description.inputs.is_empty() {
            "inputs = []\n"
        } else {
            ""
        }
    );
    if !bounds.is_empty() {
        out.push_str(&format!("\n[axes]\n{bounds}"));
    }
    if !description.foreign.is_empty() {
        let asked = libraries::questions(&description.foreign);
        out.push('\n');
        for question in &asked {
            out.push_str(&format!(
                "# ? {}\n",
                on_one_line(question, MAX_QUESTION_CHARS)
            ));
        }
        questions.extend(asked);
        let entries = list(&libraries::entries(&description.foreign));
        out.push_str(&format!("# [engine]\n# operators = [{entries}]\n"));
    }
    if let Some(adapter) = &description.adapter {
        out.push('\n');
        for question in &adapter.open {
            out.push_str(&format!(
                "# ? {}\n",
                on_one_line(question, MAX_QUESTION_CHARS)
            ));
        }
        questions.extend(adapter.open.iter().cloned());
        let mark = if adapter.open.is_empty() { "" } else { "# " };
        out.push_str(&format!(
            "{mark}[adapter]\n{mark}name = {}\n",
            quoted(&adapter.name)
        ));
        for (setting, file) in &adapter.files {
            out.push_str(&format!("{mark}{setting} = {}\n", quoted(file)));
        }
    }
    for question in &description.questions {
        out.push_str(&format!(
            "\n# ? {}\n",
            on_one_line(question, MAX_QUESTION_CHARS)
        ));
    }
    out
}

/// Strings as an array of TOML has them.
fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    texts.join(", ")
}

fn all_differ(texts: &[String]) -> bool {
    let different: BTreeSet<&String> = texts.iter().collect();
    different.len() == texts.len() && !texts.is_empty()
}

/// The first line of a text, cut.
fn one_line(text: &str) -> String {
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    line.chars().take(MAX_DESCRIPTION_CHARS).collect()
}

#[cfg(test)]
mod tests;
