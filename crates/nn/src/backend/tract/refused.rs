//! Graphs that tract would answer wrong: the forms of operators in `refused.txt`, looked for when a graph is loaded.
//!
//! Decisions:
//!
//! - **A wrong answer is worse than none.** tract runs where there is no native library, and a graph that it gets wrong
//!   runs on ONNX Runtime.
//! - **A rule names a form, not an operator**: attributes, types and constants, so that correct uses stay allowed.
//! - **Types are tract's own.** A sum of lengths is INT64 in ONNX and symbolic in tract, where it is right.
//! - In the bodies of Scan, Loop and If the types of values are not known. Rules that ask for a type do not match
//!   there.

use std::sync::LazyLock;

use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto};
use tract_onnx::prelude::{DatumType, Tensor};

use crate::error::{NnError, quoted};

const TABLE: &str = include_str!("refused.txt");

/// A line of the table.
struct Rule {
    operator: &'static str,
    conditions: Vec<Condition>,
    /// The text of the form in messages.
    shown: &'static str,
    fault: &'static str,
}

enum Condition {
    Is(&'static str, Vec<&'static str>),
    IsNot(&'static str, Vec<&'static str>),
    Length(&'static str, usize),
    NegativeAttribute(&'static str),
    Type(usize, DatumType),
    Negative { input: usize, unless_known: bool },
    MaybeTrue(usize),
}

struct Table {
    tract: &'static str,
    rules: Vec<Rule>,
}

static RULES: LazyLock<Table> = LazyLock::new(|| parse(TABLE));

/// The version of tract that the table was measured with.
#[cfg(test)]
pub fn measured_with() -> &'static str {
    RULES.tract
}

fn parse(text: &'static str) -> Table {
    let mut table = Table {
        tract: "",
        rules: Vec::new(),
    };
    for line in text.lines().map(str::trim) {
        if let Some(version) = line.strip_prefix("tract ") {
            table.tract = version;
        }
        let mut columns = line.split('|').map(str::trim);
        let (Some(operator), Some(shown), Some(fault)) =
            (columns.next(), columns.next(), columns.next())
        else {
            continue;
        };
        if operator.starts_with('#') {
            continue;
        }
        table.rules.push(Rule {
            operator,
            conditions: (shown.split(';').map(str::trim))
                .filter(|condition| !condition.is_empty())
                .filter_map(condition)
                .collect(),
            shown,
            fault,
        });
    }
    table
}

/// A test holds that every condition of the table is read.
fn condition(text: &'static str) -> Option<Condition> {
    let several = |text: &'static str| text.split('/').collect();
    if let Some((name, values)) = text.split_once("!=") {
        return Some(Condition::IsNot(name, several(values)));
    }
    if let Some((name, values)) = text.split_once('=') {
        return Some(Condition::Is(name, several(values)));
    }
    if let Some((name, length)) = text.split_once('#') {
        return Some(Condition::Length(name, length.parse().ok()?));
    }
    if let Some((input, ty)) = text.split_once(':') {
        let ty = match ty {
            "int64" => DatumType::I64,
            "int32" => DatumType::I32,
            "int8" => DatumType::I8,
            "uint8" => DatumType::U8,
            _ => return None,
        };
        return Some(Condition::Type(input.parse().ok()?, ty));
    }
    if let Some(input) = text.strip_suffix("?true") {
        return Some(Condition::MaybeTrue(input.parse().ok()?));
    }
    let name = text.strip_suffix("<0")?;
    let (name, unless_known) = match name.strip_suffix('?') {
        Some(name) => (name, true),
        None => (name, false),
    };
    Some(match name.parse() {
        Ok(input) => Condition::Negative {
            input,
            unless_known,
        },
        Err(_) => Condition::NegativeAttribute(name),
    })
}

/// The facts about a value that tract knows: its type, and the value itself if it is a constant.
pub struct Known {
    /// The type of its elements, if it is known.
    pub ty: Option<DatumType>,
    /// Its elements, if it is a constant.
    pub value: Option<std::sync::Arc<Tensor>>,
}

/// Refuses a graph that tract would answer wrong. `known` looks a value of the outermost graph up by name.
///
/// # Errors
///
/// `UnsupportedOperation`, naming the operator, the form, the node and the remedy.
pub fn check(model: &ModelProto, mut known: impl FnMut(&str) -> Known) -> Result<(), NnError> {
    if let Some(graph) = &model.graph {
        nodes(&graph.node, &mut known)?;
    }
    for function in &model.functions {
        nodes(&function.node, &mut unknown)?;
    }
    Ok(())
}

/// Operators that answer NaN with a number; `refused.txt` says why the table leaves them out.
const LOSES_NAN: &[&str] = &[
    "Relu",
    "Clip",
    "HardSigmoid",
    "Celu",
    "Max",
    "Min",
    "Sigmoid",
    "Tanh",
    // They have Sigmoid and Tanh inside.
    "LSTM",
    "GRU",
    "RNN",
];

/// Refuses a graph that answers NaN with a number, for a model whose callers may send NaN.
///
/// # Errors
///
/// `UnsupportedOperation`, naming the operator, the node and the remedy.
pub fn loses_nan(model: &ModelProto) -> Result<(), NnError> {
    let graph = model.graph.iter().flat_map(|graph| &graph.node);
    let functions = (model.functions.iter()).flat_map(|function| &function.node);
    let mut left: Vec<&NodeProto> = graph.chain(functions).collect();
    while let Some(node) = left.pop() {
        let ours = matches!(&*node.domain, "" | "ai.onnx");
        if ours && LOSES_NAN.contains(&&*node.op_type) {
            return Err(NnError::unsupported(format!(
                "tract {} answers NaN with a number in the operator {}, at the node {}, and model.toml has \
                 allow_non_finite = true; load the graph with backend = \"onnxruntime\"",
                RULES.tract,
                node.op_type,
                quoted(place(node))
            )));
        }
        let bodies = (node.attribute.iter())
            .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        left.extend(bodies.flat_map(|body| &body.node));
    }
    Ok(())
}

fn place(node: &NodeProto) -> &str {
    match node.name.is_empty() {
        true => node.output.first().map_or("", String::as_str),
        false => &node.name,
    }
}

fn unknown(_: &str) -> Known {
    Known {
        ty: None,
        value: None,
    }
}

fn nodes(nodes: &[NodeProto], known: &mut dyn FnMut(&str) -> Known) -> Result<(), NnError> {
    for node in nodes {
        if let Some(rule) = RULES.rules.iter().find(|rule| rule.holds(node, known)) {
            return Err(refusal(rule, node));
        }
        let bodies = (node.attribute.iter())
            .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        for body in bodies {
            let body: &GraphProto = body;
            self::nodes(&body.node, &mut unknown)?;
        }
    }
    Ok(())
}

fn refusal(rule: &Rule, node: &NodeProto) -> NnError {
    let form = match rule.shown {
        "" => String::new(),
        shown => format!(" with {shown}"),
    };
    NnError::unsupported(format!(
        "tract {} gets the operator {}{form} wrong, at the node {}: it {}; load the graph with backend = \"onnxruntime\"",
        RULES.tract,
        rule.operator,
        quoted(place(node)),
        rule.fault
    ))
}

impl Rule {
    fn holds(&self, node: &NodeProto, known: &mut dyn FnMut(&str) -> Known) -> bool {
        let domain = match &*node.domain {
            "ai.onnx" => "",
            domain => domain,
        };
        let same = match self.operator.rsplit_once('.') {
            Some((wanted, name)) => domain == wanted && node.op_type == name,
            None => domain.is_empty() && node.op_type == self.operator,
        };
        same && (self.conditions.iter()).all(|condition| condition.holds(node, known))
    }
}

impl Condition {
    fn holds(&self, node: &NodeProto, known: &mut dyn FnMut(&str) -> Known) -> bool {
        let attribute =
            |name: &str| (node.attribute.iter()).find(|attribute| attribute.name == name);
        let mut input = |at: usize| match node.input.get(at) {
            Some(name) if !name.is_empty() => Some(known(name)),
            _ => None,
        };
        match self {
            Self::Is(name, values) => attribute(name).is_some_and(|attribute| {
                values.contains(&"*") || values.contains(&text(attribute).as_str())
            }),
            Self::IsNot(name, values) => {
                attribute(name).is_none_or(|attribute| !values.contains(&text(attribute).as_str()))
            }
            Self::Length(name, length) => attribute(name).is_some_and(|attribute| {
                [
                    attribute.ints.len(),
                    attribute.floats.len(),
                    attribute.strings.len(),
                ]
                .contains(length)
            }),
            Self::NegativeAttribute(name) => attribute(name).is_some_and(|attribute| {
                attribute.i < 0 || attribute.ints.iter().any(|number| *number < 0)
            }),
            Self::Type(at, ty) => input(*at).is_some_and(|known| known.ty == Some(*ty)),
            Self::MaybeTrue(at) => input(*at).is_some_and(|known| {
                let value = known.value.and_then(|value| {
                    let value = value.cast_to::<bool>().ok()?;
                    let values = value.try_as_plain_ram().ok()?;
                    values.as_slice::<bool>().ok()?.first().copied()
                });
                value.unwrap_or(true)
            }),
            Self::Negative {
                input: at,
                unless_known,
            } => input(*at).is_some_and(|known| match known.value {
                None => *unless_known,
                Some(value) => (value.cast_to::<f64>().ok())
                    .and_then(|value| {
                        let values = value.try_as_plain_ram().ok()?;
                        let negative = values.as_slice::<f64>().ok()?.iter().any(|x| *x < 0.0);
                        Some(negative)
                    })
                    .unwrap_or(*unless_known),
            }),
        }
    }
}

/// An attribute's value as the table writes it.
fn text(attribute: &AttributeProto) -> String {
    if !attribute.s.is_empty() {
        return String::from_utf8_lossy(&attribute.s).into_owned();
    }
    if !attribute.strings.is_empty() {
        let strings: Vec<_> = (attribute.strings.iter())
            .map(|text| String::from_utf8_lossy(text))
            .collect();
        return strings.join(" ");
    }
    if !attribute.ints.is_empty() {
        let numbers: Vec<String> = attribute.ints.iter().map(i64::to_string).collect();
        return numbers.join(" ");
    }
    attribute.i.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_of_the_table_is_read() {
        for rule in &RULES.rules {
            let written = (rule.shown.split(';')).filter(|part| !part.trim().is_empty());
            assert_eq!(
                rule.conditions.len(),
                written.count(),
                "{}: {}",
                rule.operator,
                rule.shown
            );
            assert!(!rule.fault.is_empty(), "{}", rule.operator);
        }
        assert!(RULES.rules.len() > 20);
    }

    #[test]
    fn the_table_was_measured_with_the_version_of_tract_that_is_built_in() {
        let lock = include_str!("../../../../../Cargo.lock");
        let locked = (lock.split("\n\n"))
            .find(|package| package.contains("name = \"tract-onnx\"\n"))
            .and_then(|package| package.split("version = \"").nth(1))
            .and_then(|rest| rest.split('"').next());
        assert_eq!(
            locked,
            Some(measured_with()),
            "run scripts/tract-conformance again"
        );
        assert_eq!(super::super::VERSION, measured_with());
    }
}
