//! The section `[explain]` of `model.toml`: the explained output, the groups of elements that count as one feature, and the
//! baselines that replace hidden elements. Without the section the model's answers are not explained.

use super::Contract;
use super::reader::{MAX_NAME_BYTES, Reader};
use super::tensors::{Bound, Dim, MAX_TENSORS, TensorSpec, as_f64, round_to};
use crate::datatype::Datatype;
use crate::excerpt::excerpt;
use serde::Serialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::DeValue;

/// Most groups of features. The model runs on one item for each, and answers list each.
pub const MAX_GROUPS: u64 = 256;

/// The settings for explanations of a model's answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explain {
    /// The output whose values are explained.
    pub target: String,
    /// The baseline of hidden elements, by input; [`Baseline::ZERO`] by default.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub baseline: BTreeMap<String, Baseline>,
    /// Elements that are hidden together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Groups that are the cells of a grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
}

/// The value that replaces hidden elements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Baseline {
    /// Each hidden element gets this number.
    Constant(Bound),
    /// The mean of the input's elements.
    #[serde(serialize_with = "mean")]
    Mean,
}

fn mean<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("mean")
}

impl Baseline {
    /// The number 0, which is the default.
    pub const ZERO: Self = Self::Constant(Bound::Integer(0));
}

/// A range of an input's elements within one item, in row-major order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The name of the group in answers.
    pub name: String,
    /// The name of the input in the contract.
    pub input: String,
    /// The first element that belongs to the group, from 0.
    pub start: u64,
    /// The element after its last.
    pub end: u64,
}

/// Cells of equal size over an input's last two axes. A cell covers all elements of the axes before these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grid {
    /// The name of the input in the contract.
    pub input: String,
    /// Cells from top to bottom.
    pub rows: u64,
    /// Cells from left to right.
    pub columns: u64,
    /// Elements in a row, if the rows of an image follow each other along one last axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u64>,
}

/// Returns whether elements of a datatype can be hidden and compared.
fn is_number(datatype: Datatype) -> bool {
    !matches!(datatype, Datatype::Bool | Datatype::Bytes)
}

/// The number of elements of one item, if the contract fixes all its axes.
fn item_elements(spec: &TensorSpec) -> Option<u64> {
    let item = spec.shape.get(1..).unwrap_or_default();
    item.iter().try_fold(1u64, |product, dim| match dim {
        Dim::Fixed(length) => product.checked_mul(*length),
        Dim::Symbol(_) => None,
    })
}

/// Returns whether an input accepts a value.
fn takes(spec: &TensorSpec, value: Bound) -> bool {
    let number = as_f64(value);
    let within = |bound: Option<Bound>, fits: fn(f64, f64) -> bool| {
        bound.is_none_or(|bound| fits(number, as_f64(bound)))
    };
    let holds = match (value, spec.datatype.integer_range()) {
        (Bound::Integer(integer), Some((least, greatest))) => {
            (least..=greatest).contains(&i128::from(integer))
        }
        (Bound::Real(_), Some(_)) => false,
        (_, None) => round_to(spec.datatype, number).is_finite(),
    };
    holds && within(spec.minimum, |n, b| n >= b) && within(spec.maximum, |n, b| n <= b)
}

impl Reader<'_> {
    /// Reads `[explain]` of a contract whose tensors are without faults.
    pub(super) fn explain(
        &mut self,
        contract: &Contract,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Explain> {
        let mut members = self.table(value, "explain")?;
        if contract.batch_axis().is_none() {
            let remedy =
                "Remove [explain]: an explanation runs its variants as the items of a batch.";
            self.fault(value.span(), "the model has no batch axis", remedy);
        }
        if contract.inputs.iter().any(|spec| spec.optional) {
            let remedy =
                "Remove [explain] or optional: an explanation changes every input in turn.";
            self.fault(value.span(), "the model has optional inputs", remedy);
        }
        let target = members.take("target");
        let baseline = members.take("baseline");
        let groups = members.take("groups");
        let grid = members.take("grid");
        self.unknown_members(members);
        let target = self.explained_output(contract, value, target);
        let baseline = baseline.map(|value| self.baselines(contract, value));
        let groups = groups.map(|value| self.feature_groups(contract, value));
        let grid = grid.and_then(|value| self.grid(contract, value));
        let explain = Explain {
            target: target?,
            baseline: baseline.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            grid,
        };
        self.hidden_inputs(contract, &explain, value);
        Some(explain)
    }

    fn explained_output(
        &mut self,
        contract: &Contract,
        explain: &Spanned<DeValue<'_>>,
        target: Option<&Spanned<DeValue<'_>>>,
    ) -> Option<String> {
        let (spec, span) = match target {
            Some(value) => {
                let name = self.string(value, "target")?;
                let Some(spec) = contract.output(&name) else {
                    let known: Vec<&str> =
                        contract.outputs.iter().map(|o| o.name.as_str()).collect();
                    let message = format!("no output is named {:?}", excerpt(&name));
                    let remedy = format!("Write one of: {}.", known.join(", "));
                    self.fault(value.span(), message, remedy);
                    return None;
                };
                (spec, value.span())
            }
            None => {
                let only = match contract.outputs.as_slice() {
                    [only] => Some(only),
                    _ => contract.labelled_output().map(|(spec, _)| spec),
                };
                let Some(spec) = only else {
                    let remedy = "Write target = \"…\", the output that is explained.";
                    self.fault(explain.span(), "explain has no target", remedy);
                    return None;
                };
                (spec, explain.span())
            }
        };
        let batch_axis = contract.batch_axis();
        let is_batch = |dim: &Dim| matches!(dim, Dim::Symbol(n) if Some(n.as_str()) == batch_axis);
        let rows = spec.shape.split_last().map_or(&[][..], |(_, outer)| outer);
        let one_row = rows
            .iter()
            .all(|dim| is_batch(dim) || *dim == Dim::Fixed(1));
        if !one_row || !is_number(spec.datatype) {
            let message = format!(
                "output {:?} is {} of shape {}",
                excerpt(&spec.name),
                spec.datatype,
                spec.shape_text()
            );
            let remedy = "Explain an output with one row of numbers for each item.";
            self.fault(span, message, remedy);
        }
        Some(spec.name.clone())
    }

    /// The input of a name, if its elements can be hidden.
    fn hideable<'c>(
        &mut self,
        contract: &'c Contract,
        name: &str,
        span: std::ops::Range<usize>,
    ) -> Option<&'c TensorSpec> {
        let found = contract.input(name);
        if found.is_none_or(|spec| !is_number(spec.datatype)) {
            let numbers = contract.inputs.iter().filter(|s| is_number(s.datatype));
            let known: Vec<&str> = numbers.map(|spec| spec.name.as_str()).collect();
            let message = match found {
                Some(spec) => format!("input {:?} is {}", excerpt(name), spec.datatype),
                None => format!("no input is named {:?}", excerpt(name)),
            };
            let remedy = format!("Write an input of numbers, one of: {}.", known.join(", "));
            self.fault(span, message, remedy);
            return None;
        }
        found
    }

    fn baselines(
        &mut self,
        contract: &Contract,
        value: &Spanned<DeValue<'_>>,
    ) -> BTreeMap<String, Baseline> {
        let mut baselines = BTreeMap::new();
        let DeValue::Table(table) = value.get_ref() else {
            let wanted = "a table of inputs, each with a number or \"mean\"";
            self.wrong_type(value, "baseline", wanted);
            return baselines;
        };
        for (key, entry) in table.iter() {
            let name = key.get_ref().as_ref();
            let Some(spec) = self.hideable(contract, name, key.span()) else {
                continue;
            };
            let integer = |text: &str, radix| i64::from_str_radix(text, radix).ok();
            let baseline = match entry.get_ref() {
                DeValue::String(word) if word == "mean" => Some(Baseline::Mean),
                DeValue::Integer(n) => {
                    integer(n.as_str(), n.radix()).map(|n| Baseline::Constant(Bound::Integer(n)))
                }
                DeValue::Float(n) => {
                    let number = n.as_str().parse::<f64>().ok().filter(|n| n.is_finite());
                    number.map(|n| Baseline::Constant(Bound::Real(n)))
                }
                _ => None,
            };
            let fits = match baseline {
                Some(Baseline::Constant(bound)) => takes(spec, bound),
                Some(Baseline::Mean) => true,
                None => false,
            };
            match baseline {
                Some(baseline) if fits => {
                    baselines.insert(name.to_owned(), baseline);
                }
                _ => {
                    let message = format!(
                        "the baseline of {:?} is not a value that this input accepts",
                        excerpt(name)
                    );
                    let remedy = format!(
                        "Write a number the input accepts ({}), or \"mean\".",
                        spec.datatype
                    );
                    self.fault(entry.span(), message, remedy);
                }
            }
        }
        baselines
    }

    fn feature_groups(&mut self, contract: &Contract, value: &Spanned<DeValue<'_>>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let DeValue::Array(entries) = value.get_ref() else {
            self.wrong_type(value, "groups", "one [[explain.groups]] table per group");
            return groups;
        };
        for entry in entries.iter() {
            if groups.len() as u64 >= MAX_GROUPS {
                let message = format!("more than {MAX_GROUPS} groups");
                let remedy = "Merge some of them: the model runs once per group.";
                self.fault(entry.span(), message, remedy);
                break;
            }
            let Some(mut members) = self.table(entry, "a group") else {
                continue;
            };
            let name = members.take("name");
            let input = members.take("input");
            let start = members.take("start").and_then(|v| self.place(v, "start"));
            let end_value = members.take("end");
            let end = end_value.and_then(|v| self.place(v, "end"));
            for (there, member, remedy) in [
                (
                    name.is_some(),
                    "name",
                    "Write a name that readers of the explanation understand.",
                ),
                (
                    end_value.is_some(),
                    "end",
                    "Write the index after the group's last element.",
                ),
                (
                    input.is_some() || contract.inputs.len() == 1,
                    "input",
                    "Write the input that the group belongs to.",
                ),
            ] {
                if !there {
                    self.missing(&members, member, remedy);
                }
            }
            self.unknown_members(members);
            let name = name.and_then(|value| {
                let name = self.string(value, "name")?;
                let fits = (1..=MAX_NAME_BYTES).contains(&name.len())
                    && !name.chars().any(char::is_control);
                let taken = groups.iter().any(|other| other.name == name);
                if !fits || taken {
                    let message = match taken {
                        true => format!("two groups are named {name:?}"),
                        false => format!("name is {:?}", excerpt(&name)),
                    };
                    let remedy = format!(
                        "Write a unique name of 1 to {MAX_NAME_BYTES} bytes without control characters."
                    );
                    self.fault(value.span(), message, remedy);
                }
                Some(name)
            });
            let input = match (input, contract.inputs.as_slice()) {
                (Some(value), _) => self.string(value, "input").map(|n| (n, value.span())),
                (None, [only]) => Some((only.name.clone(), entry.span())),
                (None, _) => None,
            };
            let spec = input.and_then(|(name, span)| self.hideable(contract, &name, span));
            let (Some(name), Some(spec), Some(end)) = (name, spec, end) else {
                continue;
            };
            let start = start.unwrap_or(0);
            let elements = item_elements(spec);
            if start >= end || elements.is_some_and(|elements| end > elements) {
                let message = format!(
                    "a group of input {:?} covers {start} to {end}",
                    excerpt(&spec.name)
                );
                let remedy = match elements {
                    Some(elements) => {
                        format!("Write a start below its end, and an end of at most {elements}.")
                    }
                    None => "Write a start below its end.".to_owned(),
                };
                self.fault(entry.span(), message, remedy);
                continue;
            }
            groups.push(Group {
                name,
                input: spec.name.clone(),
                start,
                end,
            });
        }
        groups
    }

    fn place(&mut self, value: &Spanned<DeValue<'_>>, name: &str) -> Option<u64> {
        self.integer(value, name, (0, i64::MAX))
            .and_then(|n| u64::try_from(n).ok())
    }

    fn grid(&mut self, contract: &Contract, value: &Spanned<DeValue<'_>>) -> Option<Grid> {
        let mut members = self.table(value, "grid")?;
        let most = i64::try_from(MAX_GROUPS).unwrap_or(i64::MAX);
        let input = members.take("input");
        let rows = members.take("rows");
        let columns = members.take("columns");
        for (member, there) in [("rows", rows.is_some()), ("columns", columns.is_some())] {
            if !there {
                let remedy = "Write the number of cells along this axis.";
                self.missing(&members, member, remedy);
            }
        }
        if input.is_none() && contract.inputs.len() > 1 {
            self.missing(&members, "input", "Write the input that the grid covers.");
        }
        let rows = rows.and_then(|value| self.integer(value, "rows", (1, most)));
        let columns = columns.and_then(|value| self.integer(value, "columns", (1, most)));
        let width_value = members.take("width");
        let width = width_value.and_then(|v| self.count(v, "width"));
        self.unknown_members(members);
        let (name, span) = match (input, contract.inputs.as_slice()) {
            (Some(value), _) => (self.string(value, "input")?, value.span()),
            (None, [only]) => (only.name.clone(), value.span()),
            (None, _) => return None,
        };
        let spec = self.hideable(contract, &name, span)?;
        let item = spec.shape.get(1..).unwrap_or_default();
        let fits = match (item, width) {
            ([.., Dim::Fixed(length)], Some(width)) => length % width == 0,
            ([.., _], Some(_)) => true,
            ([.., _, _], None) => true,
            _ => false,
        };
        if !fits {
            let message = format!(
                "a grid cannot cover input {:?} of shape {}",
                excerpt(&spec.name),
                spec.shape_text()
            );
            let remedy = "Write width = …, the number of elements in one row of the picture. The last axis holds the \
                rows one after another.";
            self.fault(value.span(), message, remedy);
        }
        Some(Grid {
            input: spec.name.clone(),
            rows: rows?.unsigned_abs(),
            columns: columns?.unsigned_abs(),
            width,
        })
    }

    /// Checks the number of groups, and that inputs accept their baselines.
    fn hidden_inputs(
        &mut self,
        contract: &Contract,
        explain: &Explain,
        value: &Spanned<DeValue<'_>>,
    ) {
        let mut hidden: Vec<&str> = explain.groups.iter().map(|g| g.input.as_str()).collect();
        let mut count = Some(explain.groups.len() as u64);
        if let Some(grid) = &explain.grid {
            hidden.push(&grid.input);
            count = count.and_then(|count| count.checked_add(grid.rows.checked_mul(grid.columns)?));
        }
        if hidden.is_empty() {
            // Each element is its own feature.
            let numbers = contract.inputs.iter().filter(|s| is_number(s.datatype));
            for spec in numbers.take(MAX_TENSORS) {
                hidden.push(&spec.name);
                count = count.and_then(|count| count.checked_add(item_elements(spec)?));
            }
        }
        if !count.is_some_and(|count| (1..=MAX_GROUPS).contains(&count)) {
            let count = count.map_or_else(|| "any number of".to_owned(), |count| count.to_string());
            let remedy = format!(
                "Name groups or a grid, at most {MAX_GROUPS} together; without them each element is a group."
            );
            self.fault(value.span(), format!("explain has {count} groups"), remedy);
        }
        hidden.sort_unstable();
        hidden.dedup();
        for name in hidden {
            let Some(spec) = contract.input(name) else {
                continue;
            };
            if !explain.baseline.contains_key(name) && !takes(spec, Bound::Integer(0)) {
                let message = format!(
                    "input {:?} does not accept 0, the default baseline",
                    excerpt(name)
                );
                let remedy = format!(
                    "Write baseline = {{ {name:?} = … }} with a value it accepts, or \"mean\"."
                );
                self.fault(value.span(), message, remedy);
            }
        }
    }
}
