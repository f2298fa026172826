//! The meaning of a model's classes for `/v1/moderations`.

use super::reader::Reader;
use serde::Serialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::DeValue;

/// Most categories of a model. OpenAI has thirteen.
const MAX_CATEGORIES: usize = 256;
/// Longest name of a category or of a label.
const MAX_CATEGORY_BYTES: usize = 128;
/// The default score from which a text is flagged.
const USUAL_THRESHOLD: f64 = 0.5;

/// The categories of a moderation model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moderation {
    /// The categories, by name; at least one.
    pub categories: BTreeMap<String, Category>,
}

/// The condition under which a text is flagged for a category.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Category {
    /// The label whose score counts.
    pub label: String,
    /// The score from which a text is flagged.
    pub threshold: f64,
}

impl Reader<'_> {
    /// Reads the section `[moderation]`; `None` after a fault.
    pub(super) fn moderation(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Moderation> {
        let mut members = self.table(value, "moderation")?;
        let threshold = members
            .take("threshold")
            .and_then(|value| self.number(value, "threshold", (0.0, 1.0)))
            .unwrap_or(USUAL_THRESHOLD);
        let remedy = "Write the categories: [moderation.categories] hate = { label = \"toxic\", threshold = 0.5 }.";
        let Some(listed) = members.take("categories") else {
            self.missing(&members, "categories", remedy);
            self.unknown_members(members);
            return None;
        };
        self.unknown_members(members);
        let DeValue::Table(table) = listed.get_ref() else {
            self.wrong_type(listed, "categories", "a table");
            return None;
        };
        let mut categories = BTreeMap::new();
        for (name, value) in table.iter() {
            let category = self.category(value, threshold)?;
            if name.get_ref().is_empty() || name.get_ref().len() > MAX_CATEGORY_BYTES {
                let message = "a category's name is empty or too long";
                let remedy = format!("Write 1 to {MAX_CATEGORY_BYTES} bytes.");
                self.fault(name.span(), message, remedy);
                return None;
            }
            categories.insert(name.get_ref().to_string(), category);
        }
        if categories.is_empty() || categories.len() > MAX_CATEGORIES {
            let message = format!("there are {} categories", categories.len());
            self.fault(
                listed.span(),
                message,
                format!("Write 1 to {MAX_CATEGORIES}."),
            );
            return None;
        }
        Some(Moderation { categories })
    }

    /// Reads the value of a category: a label, or a table with one.
    fn category(&mut self, value: &Spanned<DeValue<'_>>, usual: f64) -> Option<Category> {
        if let DeValue::String(label) = value.get_ref() {
            return Some(Category {
                label: label.to_string(),
                threshold: usual,
            });
        }
        let mut members = self.table(value, "a category")?;
        let label = match members.take("label") {
            Some(value) => self.string(value, "label"),
            None => {
                self.missing(
                    &members,
                    "label",
                    "Write the label whose score the category uses.",
                );
                None
            }
        };
        let threshold = members.take("threshold").map_or(Some(usual), |value| {
            self.number(value, "threshold", (0.0, 1.0))
        });
        self.unknown_members(members);
        Some(Category {
            label: label?,
            threshold: threshold?,
        })
    }
}
