//! Implements OpenAI's `/v1/moderations`, for models whose contract maps classes to categories (`[moderation]`).

use super::body::text;
use super::texts::{self, Common, Texts};
use super::{classify, scan};
use crate::answer::text::{self as answer, ModerationResponse};
use crate::catalogue::Opened;
use crate::ports::Ports;
use crate::problem::broken_adapter;
use crate::record::Response;
use crate::run::{Runner, SurfaceAnswer, Work};
use penstock_core::{Code, Problem};
use penstock_tensor::contract::Moderation;
use serde_json::Value;
use std::collections::BTreeMap;

/// The members of a body.
const MEMBERS: &[&str] = &[
    "model",
    "input",
    "truncate",
    "truncate_prompt_tokens",
    "user",
];

struct Moderations {
    texts: Texts,
    /// Whether all texts are parts of one input, which has one result.
    is_one: bool,
}

/// Reads the body of a call. The adapter checks all texts before any item is charged or run.
pub(super) fn decode<P: Ports>(
    opened: &Opened<P>,
    model: &str,
    body: &[u8],
) -> Result<Box<dyn Work<P>>, Problem> {
    let (mut common, mut input) = (Common::default(), None);
    for (name, value) in texts::members(text(body)?, MEMBERS)? {
        match name.as_str() {
            "input" => input = Some(value),
            name => {
                common.read(name, value)?;
            }
        }
    }
    let expected = "a string, a list of strings, or a list of parts of type text";
    let input = input.ok_or_else(|| texts::missing("input", expected))?;
    if opened.contract.moderation.is_none() {
        return Err(texts::refuse(
            Code::InvalidInputs,
            "/model",
            "wrong_model",
            "a model whose contract has [moderation]",
            format!(
                "model `{model}` has no moderation categories; the operator defines them with [moderation] in model.toml"
            ),
        ));
    }
    let in_parts =
        scan::kind(input) == b'[' && input.trim_start().get(1..).map(scan::kind) == Some(b'{');
    let (all, is_list) = match in_parts {
        true => (parts("/input", input)?, true),
        false => texts::strings("/input", input)?,
    };
    let rows = all.into_iter().map(|text| vec![text]).collect();
    let places = Box::new(move |row: usize, _: usize| match (is_list, in_parts) {
        (false, _) => "/input".to_owned(),
        (true, false) => format!("/input/{row}"),
        (true, true) => format!("/input/{row}/text"),
    });
    Ok(Box::new(Moderations {
        texts: Texts::new(
            opened,
            model,
            (rows, places),
            common.cut_to,
            classify::GIVES,
        )?,
        is_one: in_parts,
    }))
}

/// Returns the texts of an input in parts. Images are refused, because an unchecked image must not count as harmless.
fn parts(pointer: &str, value: &str) -> Result<Vec<String>, Problem> {
    let expected = "parts of the form {\"type\": \"text\", \"text\": …}";
    let each = texts::list(pointer, value, expected)?
        .into_iter()
        .enumerate();
    let all = each.map(|(at, value)| {
        let at = format!("{pointer}/{at}");
        if scan::kind(value) != b'{' {
            return Err(texts::wrong(&at, expected, value));
        }
        let mut text = None;
        for (name, value) in scan::present(value)? {
            match name.as_str() {
                "type" if scan::of::<String>(value).as_deref() == Some("text") => {}
                "text" => text = Some(texts::string(&format!("{at}/text"), value)?),
                _ => return Err(texts::wrong(&format!("{at}/{name}"), expected, value)),
            }
        }
        text.ok_or_else(|| texts::wrong(&at, expected, value))
    });
    all.collect()
}

/// The result of one text. The full scores decide the flags; the scores in the answer follow the disclosure rules.
#[derive(Default)]
struct ModerationResult {
    flags: BTreeMap<String, bool>,
    scores: BTreeMap<String, f64>,
}

impl ModerationResult {
    /// Adds the scores of one text. Each category keeps the highest score of all texts.
    fn add(
        &mut self,
        moderation: &Moderation,
        (whole, told): (&Value, &Value),
    ) -> Result<(), String> {
        for (name, category) in &moderation.categories {
            let score = whole["scores"][&category.label].as_f64();
            let score = score.ok_or_else(|| {
                format!(
                    "its answer has no score of the label `{}`, which the category `{name}` needs",
                    category.label
                )
            })?;
            let flagged = score >= category.threshold;
            *self.flags.entry(name.clone()).or_default() |= flagged;
            let told = told["scores"][&category.label].as_f64().unwrap_or(0.0);
            let most = self.scores.entry(name.clone()).or_default();
            *most = told.max(*most);
        }
        Ok(())
    }

    fn write(self) -> answer::Moderation {
        let types = self.flags.keys();
        let types = types.map(|name| (name.clone(), &["text"][..])).collect();
        answer::Moderation {
            flagged: self.flags.values().any(|flag| *flag),
            categories: self.flags,
            category_scores: self.scores,
            category_applied_input_types: types,
        }
    }
}

impl<P: Ports> Work<P> for Moderations {
    fn items(&self) -> u64 {
        self.texts.count() as u64
    }

    fn run(mut self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let answers = self.texts.run(runner)?;
        let Some(moderation) = &runner.contract().moderation else {
            return Err(self.texts.lacking(runner.model));
        };
        let mut results: Vec<ModerationResult> = Vec::new();
        for answer in answers {
            let (whole, told) = self.texts.told(runner, answer)?;
            if !whole["scores"].is_object() {
                return Err(self.texts.lacking(runner.model));
            }
            if !self.is_one || results.is_empty() {
                results.push(ModerationResult::default());
            }
            if let Some(result) = results.last_mut() {
                let added = result.add(moderation, (&whole, &told));
                added.map_err(|message| broken_adapter(runner.model, &message))?;
            }
        }
        let prediction_id = runner.prediction_id();
        let body = ModerationResponse {
            id: prediction_id.as_str(),
            model: runner.model,
            results: results.into_iter().map(ModerationResult::write).collect(),
        };
        let response = Response::json(200, &body);
        Ok(SurfaceAnswer {
            response,
            prediction_id: Some(prediction_id),
        })
    }
}
