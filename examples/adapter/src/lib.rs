//! Shows a custom adapter: it describes a text to a model as four numbers, and labels the model's output.
//! docs/EXTENDING.md shows how to build and serve it.

#![allow(missing_docs)]

use penstock_guest::adapter::{
    Adapter, AdapterAnswer, AdapterRefusal, Component, Item, Part, RefusalKind, Step, bindings,
};
use penstock_tensor::{Datatype, Tensor};

const LABELS: [&str; 4] = ["characters", "words", "digits", "capitals"];

struct TextFeatures;

type Features = Component<TextFeatures>;
bindings::export!(Features with_types_in bindings);

impl Adapter for TextFeatures {
    /// `config` is the file that the contract names under `[adapter]`, if any.
    fn open(_name: &str, _config: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let mut data = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let [Part::Text(text)] = item.parts.as_slice() else {
                let kind = RefusalKind::UnsupportedMediaType("text/plain".into());
                return Err(AdapterRefusal {
                    item: index as u32,
                    part: None,
                    kind,
                });
            };
            let count = |test: fn(char) -> bool| text.chars().filter(|c| test(*c)).count();
            let words = text.split_whitespace().count();
            let features = [
                count(|_| true),
                words,
                count(char::is_numeric),
                count(char::is_uppercase),
            ];
            for feature in features {
                data.extend((feature as f32).to_le_bytes());
            }
        }
        let shape = vec![items.len() as u64, LABELS.len() as u64];
        let tensor = Tensor {
            name: "a".into(),
            datatype: Datatype::Fp32,
            shape,
            data: data.into(),
        };
        Ok(Step::Tensors(vec![tensor]))
    }

    /// Converts each row of the output to one answer.
    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let [scores] = outputs.as_slice() else {
            return Err(format!(
                "expected one output, the model returned {}",
                outputs.len()
            ));
        };
        let row = |row: &[u8]| {
            let values = row
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes(four.try_into().unwrap()));
            let members = LABELS
                .iter()
                .zip(values)
                .map(|(label, value)| format!("\"{label}\":{value}"));
            let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
            AdapterAnswer { text, units: 0 }
        };
        Ok(Step::Answers(
            scores
                .data
                .chunks_exact(4 * LABELS.len())
                .map(row)
                .collect(),
        ))
    }
}
