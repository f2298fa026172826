//! Decides how exact the returned scores are, by model and tier. Model inversion, extraction and membership inference
//! attacks need exact scores; labels are enough for most callers.
//!
//! All entries that match a call apply, and the strictest value of each rule. An entry without outputs applies to every
//! output of floating-point numbers. In a tensor the rules act along the last axis, whose elements are the scores of
//! classes; equal scores rank by their index. NaN stays NaN: it shows that the model failed, and reveals no confidence.
//! Integers, booleans and strings are not changed.
//!
//! No rule makes a number more precise, and none is random, so repeated calls reveal nothing more.

use crate::pattern::Pattern;
use penstock_tensor::fp8::Fp8;
use penstock_tensor::{Datatype, Tensor};
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Most entries of `[[disclosure]]`. A call walks through all of them.
pub const MAX_ENTRIES: usize = 64;
/// The most names in a list of an entry.
pub const MAX_NAMES: usize = 64;
/// The longest name of a tier or an output.
pub const MAX_NAME_BYTES: usize = 256;
/// Largest number of decimals: single precision has no more for a number near 1.
pub const MAX_DECIMALS: u8 = 6;
/// Smallest number of buckets. A single one would return no information.
pub const MIN_BUCKETS: u16 = 2;
/// Largest number of buckets. More would hide nothing.
pub const MAX_BUCKETS: u16 = 1_000;
/// The most classes to return. This many are held in memory for each row.
pub const MAX_TOP: u32 = 1_000;

/// Members of an adapter's answer that are scores, without regard to case.
const SCORE_NAMES: [&str; 10] = [
    "confidence",
    "confidences",
    "logit",
    "logits",
    "prob",
    "probability",
    "probabilities",
    "probs",
    "score",
    "scores",
];

/// An entry of `[[disclosure]]`: the precision of scores for the models and callers that it selects.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disclosure {
    /// The models; empty for all.
    pub models: Vec<Pattern>,
    /// The tiers of callers; empty for all.
    pub tiers: Vec<String>,
    /// The outputs; empty for all of floating-point numbers.
    pub outputs: Vec<String>,
    /// The decimals to which numbers are rounded.
    pub round_decimals: Option<u8>,
    /// The number of equal parts of the range 0 to 1. A number becomes the middle of its part.
    pub buckets: Option<u16>,
    /// The number of greatest scores that are returned; the others become 0.
    pub top: Option<u32>,
    /// Whether only the winner is returned, without its score.
    pub withhold_scores: bool,
}

/// All faults of the entries, each with its remedy.
pub fn faults(entries: &[Disclosure]) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    if entries.len() > MAX_ENTRIES {
        faults.push((
            "disclosure".to_owned(),
            format!(
                "may have at most {MAX_ENTRIES} entries, not {}",
                entries.len()
            ),
        ));
    }
    for (at, entry) in entries.iter().enumerate() {
        let Disclosure {
            models,
            tiers,
            outputs,
            round_decimals,
            buckets,
            top,
            withhold_scores,
        } = entry;
        let mut fault = |setting: &str, message: String| {
            faults.push((format!("disclosure[{at}].{setting}"), message));
        };
        if let Some(decimals) = round_decimals
            && *decimals > MAX_DECIMALS
        {
            fault(
                "round_decimals",
                format!("must be 0 to {MAX_DECIMALS}, not {decimals}"),
            );
        }
        if let Some(buckets) = buckets
            && !(MIN_BUCKETS..=MAX_BUCKETS).contains(buckets)
        {
            fault(
                "buckets",
                format!("must be {MIN_BUCKETS} to {MAX_BUCKETS}, not {buckets}"),
            );
        }
        if let Some(top) = top
            && !(1..=MAX_TOP).contains(top)
        {
            fault("top", format!("must be 1 to {MAX_TOP}, not {top}"));
        }
        let says_nothing =
            round_decimals.is_none() && buckets.is_none() && top.is_none() && !withhold_scores;
        if says_nothing {
            fault(
                "models",
                "has no rule; add `round_decimals`, `buckets`, `top` or `withhold_scores = true`"
                    .to_owned(),
            );
        }
        for (setting, count) in [
            ("models", models.len()),
            ("tiers", tiers.len()),
            ("outputs", outputs.len()),
        ] {
            if count > MAX_NAMES {
                fault(
                    setting,
                    format!("may name at most {MAX_NAMES}, not {count}"),
                );
            }
        }
        for (setting, names) in [("tiers", tiers), ("outputs", outputs)] {
            if names
                .iter()
                .any(|name| name.is_empty() || name.len() > MAX_NAME_BYTES)
            {
                fault(
                    setting,
                    format!("has a name that is empty or longer than {MAX_NAME_BYTES} bytes"),
                );
            }
        }
    }
    faults
}

/// The rules for scores: the strictest value of each rule that applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Measure {
    decimals: Option<u8>,
    buckets: Option<u16>,
    top: Option<usize>,
    withheld: bool,
}

impl Measure {
    fn with(self, entry: &Disclosure) -> Self {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        let top = entry.top.map(|top| top as usize);
        Self {
            decimals: least(self.decimals, entry.round_decimals),
            buckets: least(self.buckets, entry.buckets),
            top: least(self.top, top),
            withheld: self.withheld || entry.withhold_scores,
        }
    }

    /// The number of entries of a ranking that are returned.
    fn listed(&self) -> usize {
        match self.withheld {
            true => 1,
            false => self.top.unwrap_or(usize::MAX),
        }
    }

    /// A score under the rules.
    fn score(&self, value: f64) -> f64 {
        let value = match self.buckets {
            Some(buckets) => bucketed(value, buckets),
            None => value,
        };
        self.rounded(value)
    }

    fn rounded(&self, value: f64) -> f64 {
        match self.decimals {
            Some(decimals) => rounded(value, decimals),
            None => value,
        }
    }
}

/// The entries that apply to one call.
#[derive(Debug)]
pub struct Rules<'e> {
    entries: Vec<&'e Disclosure>,
}

/// The entries for a call of a model by a caller of a tier; `None` if there are none.
pub fn rules<'e>(entries: &'e [Disclosure], model: &str, tier: &str) -> Option<Rules<'e>> {
    let applies = |entry: &&Disclosure| {
        (entry.models.is_empty() || entry.models.iter().any(|pattern| pattern.matches(model)))
            && (entry.tiers.is_empty() || entry.tiers.iter().any(|own| own == tier))
    };
    let entries: Vec<_> = entries.iter().filter(applies).collect();
    (!entries.is_empty()).then_some(Rules { entries })
}

impl Rules<'_> {
    /// The rules for an output; `None` if there are none.
    fn measure(&self, output: &str) -> Option<Measure> {
        let about = |entry: &&&Disclosure| {
            entry.outputs.is_empty() || entry.outputs.iter().any(|name| name == output)
        };
        let mut entries = self.entries.iter().filter(about).peekable();
        entries.peek()?;
        Some(entries.fold(Measure::default(), |measure, entry| measure.with(entry)))
    }

    /// The number of classes of an output that may be listed, and whether with their scores.
    pub fn classes(&self, output: &str) -> (usize, bool) {
        match self.measure(output) {
            Some(measure) => (measure.listed(), !measure.withheld),
            None => (usize::MAX, true),
        }
    }

    /// Applies the rules to a tensor.
    pub fn tensor(&self, tensor: &mut Tensor) {
        if !tensor.datatype.is_float() || !tensor.is_consistent() {
            return;
        }
        let Some(measure) = self.measure(&tensor.name) else {
            return;
        };
        let row = tensor.shape.last().copied().unwrap_or(1);
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        macro_rules! rows {
            ($size:literal, $read:expr, $write:expr) => {{
                let (elements, _) = tensor.data.as_chunks_mut::<$size>();
                for row in elements.chunks_mut(row.max(1)) {
                    disclose_row(&measure, row, $read, $write);
                }
            }};
        }
        match tensor.datatype {
            Datatype::Fp16 => rows!(
                2,
                |bytes| half::f16::from_le_bytes(bytes).to_f64(),
                |value| half::f16::from_f64(value).to_le_bytes()
            ),
            Datatype::Bf16 => rows!(
                2,
                |bytes| half::bf16::from_le_bytes(bytes).to_f64(),
                |value| half::bf16::from_f64(value).to_le_bytes()
            ),
            Datatype::Fp32 => rows!(4, |bytes| f64::from(f32::from_le_bytes(bytes)), |value| {
                (value as f32).to_le_bytes()
            }),
            Datatype::Fp64 => rows!(8, f64::from_le_bytes, f64::to_le_bytes),
            datatype => {
                if let Some(format) = Fp8::of(datatype) {
                    rows!(1, |[byte]: [u8; 1]| format.to_f64(byte), |value| {
                        [format.saturated(value)]
                    });
                }
            }
        }
    }

    /// Applies the rules to an adapter's answer, which is JSON. Members with a name of scores, or of an entry's output, are
    /// scores. Other numbers with a fraction are rounded if an entry applies to every output. The error is a sentence for
    /// the operator.
    pub fn answer(&self, text: &str) -> Result<String, String> {
        let mut value: Value =
            serde_json::from_str(text).map_err(|e| format!("its answer is not JSON: {e}"))?;
        let about = About {
            measure: self
                .entries
                .iter()
                .fold(Measure::default(), |measure, entry| measure.with(entry)),
            outputs: self
                .entries
                .iter()
                .flat_map(|entry| entry.outputs.iter().map(String::as_str))
                .collect(),
            rounds_all: self.entries.iter().any(|entry| entry.outputs.is_empty()),
        };
        about.value(&mut value, false);
        Ok(value.to_string())
    }
}

/// Applies the rules to an adapter's answer. Its recursion is as deep as serde_json parses: 128 levels.
struct About<'e> {
    measure: Measure,
    /// Names of outputs that members may have.
    outputs: Vec<&'e str>,
    rounds_all: bool,
}

impl About<'_> {
    fn is_score(&self, name: &str) -> bool {
        SCORE_NAMES
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
            || self.outputs.contains(&name)
    }

    fn value(&self, value: &mut Value, is_score: bool) {
        match value {
            Value::Number(number) => self.number(number, is_score),
            Value::Array(entries) => self.array(entries, is_score),
            Value::Object(members) => self.object(members, is_score),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    fn number(&self, number: &mut Number, is_score: bool) {
        let Some(value) = number.as_f64() else { return };
        let told = match is_score {
            true => self.measure.score(value),
            false if self.rounds_all && number.is_f64() => self.measure.rounded(value),
            false => return,
        };
        // An unchanged answer is returned as it was.
        if told != value
            && let Some(told) = Number::from_f64(told)
        {
            *number = told;
        }
    }

    fn array(&self, entries: &mut Vec<Value>, is_score: bool) {
        let listed = self.measure.listed();
        if is_score && entries.iter().any(Value::is_number) {
            let kept = greatest(entries.iter().map(Value::as_f64), listed);
            for (index, entry) in entries.iter_mut().enumerate() {
                match kept.binary_search(&index) {
                    Ok(_) => self.value(entry, true),
                    Err(_) if entry.is_number() => *entry = Value::from(0),
                    Err(_) => self.value(entry, true),
                }
            }
            return;
        }
        if entries.len() > listed && entries.iter().any(|entry| self.score_of(entry).is_some()) {
            let kept = greatest(entries.iter().map(|entry| self.score_of(entry)), listed);
            let mut index = 0;
            entries.retain(|_| {
                index += 1;
                kept.binary_search(&(index - 1)).is_ok()
            });
        }
        for entry in entries {
            self.value(entry, is_score);
        }
    }

    fn object(&self, members: &mut Map<String, Value>, is_score: bool) {
        if self.measure.withheld {
            members.retain(|name, _| !self.is_score(name));
        }
        // Scores by label.
        if is_score && members.values().any(Value::is_number) {
            let kept = greatest(members.values().map(Value::as_f64), self.measure.listed());
            let mut index = 0;
            members.retain(|_, value| {
                index += 1;
                !value.is_number() || kept.binary_search(&(index - 1)).is_ok()
            });
        }
        for (name, value) in members.iter_mut() {
            self.value(value, is_score || self.is_score(name));
        }
    }

    /// The score of an entry of a list, if it has one.
    fn score_of(&self, entry: &Value) -> Option<f64> {
        let members = entry.as_object()?.iter();
        let mut scores = members.filter(|(name, _)| self.is_score(name));
        scores.find_map(|(_, value)| value.as_f64())
    }
}

/// A score with its index, ordered by score; of equal scores the earlier is greater.
#[derive(PartialEq)]
struct Ranked(f64, Reverse<usize>);

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        // NaN was left out before, and -0 became 0.
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The indices of the `most` greatest scores, ascending. NaN is not among them.
fn greatest(values: impl Iterator<Item = Option<f64>>, most: usize) -> Vec<usize> {
    let ranked = values.enumerate().filter_map(|(index, value)| {
        let value = value.filter(|value| !value.is_nan())?;
        Some(Ranked(value + 0.0, Reverse(index)))
    });
    let mut kept: Vec<usize> = if most == usize::MAX {
        ranked.map(|ranked| ranked.1.0).collect()
    } else {
        let mut heap: BinaryHeap<Reverse<Ranked>> = BinaryHeap::new();
        for one in ranked {
            if heap.len() < most {
                heap.push(Reverse(one));
            } else if let Some(mut least) = heap.peek_mut()
                && one > least.0
            {
                *least = Reverse(one);
            }
        }
        heap.into_iter().map(|ranked| ranked.0.1.0).collect()
    };
    kept.sort_unstable();
    kept
}

/// Applies the rules to one row of elements.
fn disclose_row<const N: usize>(
    measure: &Measure,
    row: &mut [[u8; N]],
    read: impl Fn([u8; N]) -> f64,
    write: impl Fn(f64) -> [u8; N],
) {
    let listed = measure.listed();
    let ranks = listed < row.len() || measure.withheld;
    let kept = match ranks {
        true => greatest(row.iter().map(|bytes| Some(read(*bytes))), listed),
        false => Vec::new(),
    };
    let mut next = kept.iter().peekable();
    for (index, bytes) in row.iter_mut().enumerate() {
        let value = read(*bytes);
        let is_kept = !ranks || next.next_if(|kept| **kept == index).is_some();
        if value.is_nan() {
            continue;
        }
        *bytes = write(match (is_kept, measure.withheld) {
            (false, _) => 0.0,
            (true, true) => 1.0,
            (true, false) => measure.score(value),
        });
    }
}

/// The middle of the part of 0 to 1 that contains a number, or is nearest to it.
fn bucketed(value: f64, buckets: u16) -> f64 {
    if value.is_nan() {
        return value;
    }
    let buckets = f64::from(buckets);
    let index = (value * buckets).floor().clamp(0.0, buckets - 1.0);
    (index + 0.5) / buckets
}

/// Rounds a number to decimals, halves away from zero. Numbers too large for decimals stay.
fn rounded(value: f64, decimals: u8) -> f64 {
    let scale = 10f64.powi(i32::from(decimals));
    let told = (value * scale).round() / scale;
    match told.is_finite() {
        // Adding 0 makes -0 0.
        true => told + 0.0,
        false => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn entry(text: &str) -> Disclosure {
        toml::from_str(text).unwrap()
    }

    fn floats(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
        Tensor {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    fn read(tensor: &Tensor) -> Vec<f32> {
        let (chunks, _) = tensor.data.as_chunks::<4>();
        chunks.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// A row after the entries.
    fn told(entries: &[&str], values: &[f32]) -> Vec<f32> {
        let entries: Vec<_> = entries.iter().map(|text| entry(text)).collect();
        assert_eq!(faults(&entries), []);
        let mut tensor = floats("p", &[1, values.len() as u64], values);
        rules(&entries, "m", "t").unwrap().tensor(&mut tensor);
        read(&tensor)
    }

    fn answered(entries: &[&str], answer: &Value) -> Value {
        let entries: Vec<_> = entries.iter().map(|text| entry(text)).collect();
        let rules = rules(&entries, "m", "t").unwrap();
        serde_json::from_str(&rules.answer(&answer.to_string()).unwrap()).unwrap()
    }

    #[test]
    fn an_entry_applies_to_its_models_and_tiers_and_to_no_others() {
        let entries = [
            entry("models = [\"cls*\", \"x\"]\ntiers = [\"free\"]\ntop = 1"),
            entry("tiers = [\"partner\"]\ntop = 2"),
        ];
        for (model, tier, applies) in [
            ("cls", "free", 1),
            ("cls-2", "free", 1),
            ("x", "free", 1),
            ("xx", "free", 0),
            ("cls", "premium", 0),
            ("anything", "partner", 1),
        ] {
            let found = rules(&entries, model, tier).map_or(0, |rules| rules.entries.len());
            assert_eq!(found, applies, "{model} {tier}");
        }
        assert!(rules(&[], "m", "t").is_none());
    }

    #[test]
    fn each_rule_does_what_it_says() {
        let scores = [0.12345, 0.5, 0.26, 0.11655];
        assert_eq!(
            told(&["round_decimals = 2"], &scores),
            [0.12, 0.5, 0.26, 0.12]
        );
        assert_eq!(told(&["round_decimals = 0"], &scores), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(told(&["buckets = 10"], &scores), [0.15, 0.55, 0.25, 0.15]);
        assert_eq!(told(&["buckets = 2"], &scores), [0.25, 0.75, 0.25, 0.25]);
        assert_eq!(told(&["top = 2"], &scores), [0.0, 0.5, 0.26, 0.0]);
        assert_eq!(told(&["top = 9"], &scores), scores);
        assert_eq!(
            told(&["withhold_scores = true"], &scores),
            [0.0, 1.0, 0.0, 0.0]
        );
    }

    #[test]
    fn several_rules_and_entries_add_up_to_the_strictest() {
        let scores = [0.12345, 0.5, 0.26, 0.11655];
        assert_eq!(
            told(
                &[
                    "round_decimals = 1",
                    "round_decimals = 3\ntop = 3",
                    "top = 2"
                ],
                &scores
            ),
            [0.0, 0.5, 0.3, 0.0]
        );
        assert_eq!(
            told(&["buckets = 10\ntop = 1"], &scores),
            [0.0, 0.55, 0.0, 0.0],
            "what is left out is 0 and no bucket"
        );
        assert_eq!(
            told(&["buckets = 4\nround_decimals = 2"], &scores),
            [0.13, 0.63, 0.38, 0.13]
        );
        assert_eq!(
            told(&["withhold_scores = true", "top = 3\nbuckets = 4"], &scores),
            [0.0, 1.0, 0.0, 0.0]
        );
    }

    #[test]
    fn rules_act_along_the_last_axis_of_the_outputs_they_name() {
        let entries = [entry("outputs = [\"p\"]\nwithhold_scores = true")];
        let rules = rules(&entries, "m", "t").unwrap();
        let values = [0.1, 0.9, 0.8, 0.2, 0.5, 0.5];
        let mut named = floats("p", &[3, 1, 2], &values);
        rules.tensor(&mut named);
        assert_eq!(
            read(&named),
            [0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
            "of equal scores the earlier wins"
        );
        let mut other = floats("q", &[3, 2], &values);
        rules.tensor(&mut other);
        assert_eq!(read(&other), values);
        assert_eq!(rules.classes("p"), (1, false));
        assert_eq!(rules.classes("q"), (usize::MAX, true));
    }

    #[test]
    fn numbers_that_are_none_and_numbers_without_end_have_their_place() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let same = |told: Vec<f32>, expected: &[f32]| {
            assert_eq!(format!("{told:?}"), format!("{expected:?}"));
        };
        same(told(&["top = 1"], &[nan, 0.2, 0.7]), &[nan, 0.0, 0.7]);
        same(
            told(&["withhold_scores = true"], &[nan, 0.2, inf]),
            &[nan, 0.0, 1.0],
        );
        same(told(&["withhold_scores = true"], &[nan, nan]), &[nan, nan]);
        same(
            told(&["buckets = 4"], &[inf, -inf, nan, -3.0, 1.0]),
            &[0.875, 0.125, nan, 0.125, 0.875],
        );
        same(
            told(&["round_decimals = 6"], &[inf, -inf, 3.0e38, -0.000_000_1]),
            &[inf, -inf, 3.0e38, 0.0],
        );
        same(told(&["top = 1"], &[-0.0, 0.0]), &[-0.0, 0.0]);
    }

    #[test]
    fn every_floating_point_type_is_served_and_no_other() {
        let entries = [entry("top = 1\nround_decimals = 1")];
        let rules = rules(&entries, "m", "t").unwrap();
        let tensor = |datatype, data: Vec<u8>| Tensor {
            name: "p".into(),
            datatype,
            shape: vec![2],
            data: data.into(),
        };
        let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
        let brain = |v: f32| half::bf16::from_f32(v).to_le_bytes();
        for (datatype, before, after) in [
            (
                Datatype::Fp16,
                [half(0.26), half(0.1)].concat(),
                [half(0.3), half(0.0)].concat(),
            ),
            (
                Datatype::Bf16,
                [brain(0.26), brain(0.1)].concat(),
                [brain(0.3), brain(0.0)].concat(),
            ),
            (
                Datatype::Fp64,
                [0.26f64.to_le_bytes(), 0.1f64.to_le_bytes()].concat(),
                [0.3f64.to_le_bytes(), 0f64.to_le_bytes()].concat(),
            ),
            (Datatype::Uint8, vec![9, 3], vec![9, 3]),
            (Datatype::Int64, vec![1; 16], vec![1; 16]),
            // Data that does not fit the shape is written as `null`, regardless of its bytes.
            (Datatype::Fp32, vec![1; 7], vec![1; 7]),
        ] {
            let mut changed = tensor(datatype, before);
            rules.tensor(&mut changed);
            assert_eq!(changed.data, after, "{datatype}");
        }
        for shape in [vec![], vec![0, 3], vec![3, 0], vec![u64::MAX, 0]] {
            let bytes = if shape.is_empty() { vec![0; 4] } else { vec![] };
            let mut odd = Tensor {
                shape,
                ..tensor(Datatype::Fp32, bytes)
            };
            rules.tensor(&mut odd);
        }
    }

    #[test]
    fn scores_in_an_adapters_answer_are_found_by_their_names() {
        let answer = json!({
            "label": "png", "confidence": 0.98765, "mime_type": "image/png", "pages": 3, "ratio": 1.23456,
            "top": [
                { "label": "png", "confidence": 0.98765 },
                { "label": "gif", "confidence": 0.01 },
                { "label": "bmp", "confidence": 0.002 },
            ],
        });
        let rounded = answered(&["round_decimals = 2"], &answer);
        assert_eq!(rounded["confidence"], 0.99);
        assert_eq!(rounded["top"][2]["confidence"], 0.0);
        assert_eq!(
            (&rounded["pages"], &rounded["ratio"]),
            (&json!(3), &json!(1.23))
        );
        let bucketed = answered(&["buckets = 10"], &answer);
        assert_eq!(bucketed["confidence"], 0.95);
        assert_eq!(
            (&bucketed["pages"], &bucketed["ratio"]),
            (&json!(3), &json!(1.23456))
        );
        let top = answered(&["top = 2"], &answer);
        assert_eq!(top["top"].as_array().unwrap().len(), 2);
        assert_eq!(top["confidence"], 0.98765);
        assert_eq!(
            answered(&["withhold_scores = true"], &answer),
            json!({
                "label": "png", "mime_type": "image/png", "pages": 3, "ratio": 1.23456, "top": [{ "label": "png" }],
            })
        );
        let named = answered(&["outputs = [\"ratio\"]\nround_decimals = 1"], &answer);
        assert_eq!(
            (&named["ratio"], &named["confidence"]),
            (&json!(1.2), &json!(1.0))
        );
    }

    #[test]
    fn lists_of_scores_and_scores_by_label_keep_their_greatest_wherever_they_stand() {
        let answer = json!({
            "scores": [0.1, 0.7, 0.2, null], "Probabilities": { "cat": 0.1, "dog": 0.7, "cow": 0.2 },
            "boxes": [{ "id": 1, "score": 0.2 }, { "id": 2, "score": 0.9 }, { "id": 3 }],
            "matrix": [[1.5, 2.5], [3.5, 4.5]],
        });
        assert_eq!(
            answered(&["top = 1"], &answer),
            json!({
                "scores": [0, 0.7, 0, null], "Probabilities": { "dog": 0.7 },
                "boxes": [{ "id": 2, "score": 0.9 }],
                "matrix": [[1.5, 2.5], [3.5, 4.5]],
            })
        );
    }

    #[test]
    fn an_answer_that_is_not_json_is_the_adapters_fault() {
        let entries = [entry("top = 1")];
        let rules = rules(&entries, "m", "t").unwrap();
        assert!(rules.answer("{").unwrap_err().contains("not JSON"));
        assert!(rules.answer(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn an_entry_that_says_nothing_or_too_much_is_a_fault() {
        for (text, setting) in [
            ("models = [\"m\"]", "disclosure[0].models"),
            ("round_decimals = 7", "disclosure[0].round_decimals"),
            ("buckets = 1", "disclosure[0].buckets"),
            ("buckets = 1001", "disclosure[0].buckets"),
            ("top = 0", "disclosure[0].top"),
            ("top = 1001", "disclosure[0].top"),
            ("top = 1\ntiers = [\"\"]", "disclosure[0].tiers"),
        ] {
            let faults = faults(&[entry(text)]);
            assert!(
                faults.len() == 1 && faults[0].0 == setting,
                "{text}: {faults:?}"
            );
        }
        let many = vec![entry("top = 1"); MAX_ENTRIES + 1];
        assert_eq!(faults(&many).len(), 1);
        assert!(toml::from_str::<Disclosure>("models = [\"a b\"]").is_err());
        assert!(toml::from_str::<Disclosure>("topp = 1").is_err());
    }

    fn any_entry() -> impl Strategy<Value = Disclosure> {
        let one = (
            proptest::option::of(0..=MAX_DECIMALS),
            proptest::option::of(MIN_BUCKETS..=MAX_BUCKETS),
            proptest::option::of(1..6u32),
            proptest::bool::weighted(0.2),
        );
        one.prop_map(
            |(round_decimals, buckets, top, withhold_scores)| Disclosure {
                round_decimals,
                buckets,
                top,
                withhold_scores,
                ..Disclosure::default()
            },
        )
    }

    fn any_float() -> impl Strategy<Value = f32> {
        prop_oneof![0f32..1.0, proptest::num::f32::ANY]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_more_goes_out_than_the_strictest_entry_allows(
            entries in proptest::collection::vec(any_entry(), 1..4),
            width in 1..8usize,
            values in proptest::collection::vec(any_float(), 0..32),
        ) {
            let rows = values.len() / width;
            let values = &values[..rows * width];
            let mut tensor = floats("p", &[rows as u64, width as u64], values);
            let rules = rules(&entries, "m", "t").unwrap();
            rules.tensor(&mut tensor);
            let told = read(&tensor);
            let (listed, scores) = rules.classes("p");
            for (before, row) in values.chunks(width).zip(told.chunks(width)) {
                let shown = row.iter().filter(|v| !v.is_nan() && **v != 0.0).count();
                prop_assert!(shown <= listed);
                let winner = before.iter().enumerate().filter(|(_, v)| !v.is_nan());
                let winner = winner.fold(None, |best: Option<(usize, f32)>, (i, v)| match best {
                    Some((_, b)) if b >= *v => best,
                    _ => Some((i, *v)),
                });
                for (index, (b, t)) in before.iter().zip(row).enumerate() {
                    prop_assert_eq!(b.is_nan(), t.is_nan());
                    if !scores && !b.is_nan() {
                        let hot = winner.is_some_and(|(at, _)| at == index);
                        prop_assert_eq!(*t, if hot { 1.0 } else { 0.0 });
                    }
                }
            }
            // A bucket's middle may round into another, and the 0 for a hidden score may exceed a negative number.
            let mut again = tensor.clone();
            if entries.iter().all(|e| e.top.is_none())
                && (entries.iter().all(|e| e.buckets.is_none()) || entries.iter().all(|e| e.round_decimals.is_none())) {
                rules.tensor(&mut again);
                prop_assert_eq!(&again.data, &tensor.data, "telling what was told changes nothing");
            }
        }

        #[test]
        fn every_answer_of_an_adapter_stays_json(
            entries in proptest::collection::vec(any_entry(), 1..3),
            text in "[\\[\\]{}\",:a0-9.e-]{0,40}",
            scores in proptest::collection::vec(proptest::num::f64::ANY, 0..6),
        ) {
            let rules = rules(&entries, "m", "t").unwrap();
            for text in [text, json!({ "scores": scores, "top": [{ "score": scores }, { "score": 1e300 }] }).to_string()] {
                if let Ok(answer) = rules.answer(&text) {
                    prop_assert!(serde_json::from_str::<Value>(&answer).is_ok());
                }
            }
        }
    }
}
