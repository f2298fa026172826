//! The other models that an adapter runs to answer one call.

use super::reader::{MAX_NAME_BYTES, Reader};
use serde::Serialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::DeValue;

/// Most steps of a pipeline, without the model itself. Each step costs a run.
pub const MAX_STEPS: usize = 8;

/// A model at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PipelineStep {
    /// The name of the model.
    pub model: String,
    /// The number of the version. It is fixed, so that answers always come from the same graphs.
    pub version: u64,
}

impl Reader<'_> {
    /// Reads the section `[pipeline]`: steps by name, each `"model@version"`.
    pub(super) fn pipeline(
        &mut self,
        value: &Spanned<DeValue<'_>>,
    ) -> BTreeMap<String, PipelineStep> {
        let mut steps = BTreeMap::new();
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value, "pipeline", "a table");
            return steps;
        };
        for (name, value) in table.iter() {
            let Some(text) = self.string(value, "a step") else {
                continue;
            };
            let parsed = text.split_once('@').and_then(|(model, version)| {
                let version: u64 = version.parse().ok().filter(|version| *version > 0)?;
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                let begins = model
                    .chars()
                    .next()
                    .is_some_and(|c| c.is_ascii_alphanumeric());
                let is_name = begins && model.len() <= MAX_NAME_BYTES;
                (is_name && model.chars().all(plain)).then(|| PipelineStep {
                    model: model.to_owned(),
                    version,
                })
            });
            match parsed {
                Some(step) => {
                    steps.insert(name.get_ref().to_string(), step);
                }
                None => self.fault(
                    value.span(),
                    "a step is not a model at a version",
                    "Write the model's name and the number of its version: recognise = \"ocr-rec@1\".",
                ),
            }
        }
        if steps.len() > MAX_STEPS {
            let message = format!("the pipeline has {} steps", steps.len());
            self.fault(value.span(), message, format!("Keep at most {MAX_STEPS}."));
        }
        steps
    }
}
