//! Reads a model's outputs for an adapter, and builds answers from the scores of classes. The operator chose the model, so
//! an output that does not fit gives a sentence for the operator.

use crate::{AdapterAnswer, Step};
use penstock_tensor::{Datatype, Tensor};
use serde::Serialize;
use serde_json::value::Value;

/// The number of best classes in an answer.
const MAX_LISTED: usize = 10;

/// The numbers of the output of this name; without a name, of the only output.
pub fn floats(outputs: &[Tensor], name: Option<&str>, shape: &[u64]) -> Result<Vec<f32>, String> {
    let output = match (name, outputs) {
        (None, [output]) => output,
        (None, _) => {
            return Err(format!(
                "the model returned {} outputs; name the one to use in the adapter's configuration",
                outputs.len()
            ));
        }
        (Some(name), _) => outputs
            .iter()
            .find(|output| output.name == name)
            .ok_or_else(|| format!("the model returned no output `{name}`"))?,
    };
    if output.datatype != Datatype::Fp32 || output.shape != shape || !output.is_consistent() {
        return Err(format!(
            "the model returned {} of shape {:?} as `{}`; expected is FP32 of shape {shape:?}",
            output.datatype, output.shape, output.name
        ));
    }
    let (numbers, _) = output.data.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if numbers.iter().any(|number| !number.is_finite()) {
        return Err(format!(
            "the model's output `{}` has numbers that are not finite",
            output.name
        ));
    }
    Ok(numbers)
}

/// An input of floating-point numbers.
pub fn tensor(name: &str, shape: Vec<u64>, numbers: &[f32]) -> Tensor {
    Tensor {
        name: name.into(),
        datatype: Datatype::Fp32,
        shape,
        data: numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
    }
}

/// Writes a value as JSON text. It cannot fail, because all keys are names.
pub fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| format!("an answer cannot be written: {e}"))
}

/// The answer for classes' scores.
#[derive(Serialize)]
struct Classified<'a> {
    label: &'a str,
    confidence: f32,
    /// Scores by label, best first.
    #[serde(serialize_with = "in_order")]
    scores: Vec<(&'a str, f32)>,
    /// Scores in the order of the classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    probs: Option<&'a [f32]>,
}

fn in_order<S: serde::Serializer>(
    scores: &[(&str, f32)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(scores.iter().copied())
}

/// An answer for each row of scores: the best label, its score, and the best few with theirs.
pub fn classified(scores: &[f32], labels: &[String]) -> Result<Step, String> {
    let answers = scores.chunks_exact(labels.len().max(1)).map(|row| {
        Ok(AdapterAnswer {
            text: classes(row, labels, MAX_LISTED, false)?,
            units: 0,
        })
    });
    answers.collect::<Result<_, String>>().map(Step::Answers)
}

/// The answer for one row of scores, with the `most` best; and with all of them in the order of the labels if `wanted`.
pub fn classes(
    row: &[f32],
    labels: &[String],
    most: usize,
    wanted: bool,
) -> Result<String, String> {
    let mut ranked: Vec<(&str, f32)> = labels
        .iter()
        .map(String::as_str)
        .zip(row.iter().copied())
        .collect();
    // A stable sort, so that of equal scores the first class stays first.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(most);
    let (label, confidence) = ranked.first().copied().unwrap_or_default();
    json(&Classified {
        label,
        confidence,
        scores: ranked,
        probs: wanted.then_some(row),
    })
}

/// Numbers as shares of 1.
pub fn softmax(numbers: &[f32]) -> Vec<f32> {
    let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = numbers.iter().map(|n| f64::from(n - most).exp());
    let sum: f64 = powers.clone().sum();
    powers.map(|power| (power / sum) as f32).collect()
}

/// Parses an adapter's configuration. No configuration counts as an empty one.
pub fn config<T: serde::de::DeserializeOwned>(adapter: &str, bytes: &[u8]) -> Result<T, String> {
    let read = match bytes.is_empty() {
        true => serde_json::from_value(Value::Object(Default::default())),
        false => serde_json::from_slice(bytes),
    };
    read.map_err(|e| format!("the configuration of adapter `{adapter}` cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_does_not_fit_is_named() {
        let good = tensor("a", vec![1, 2], &[0.5, 1.0]);
        let outputs = [good.clone(), tensor("b", vec![1], &[f32::NAN])];
        assert_eq!(floats(&outputs, Some("a"), &[1, 2]), Ok(vec![0.5, 1.0]));
        for (name, shape) in [
            (Some("a"), &[2, 1][..]),
            (Some("b"), &[1]),
            (Some("c"), &[1]),
            (None, &[1, 2]),
        ] {
            assert!(floats(&outputs, name, shape).is_err(), "{name:?}");
        }
        assert!(floats(std::slice::from_ref(&good), None, &[1, 2]).is_ok());
        let mut short = good.clone();
        short.data.to_mut().pop();
        assert!(floats(&[short], None, &[1, 2]).is_err());
        let mut other = good;
        other.datatype = Datatype::Int32;
        assert!(floats(&[other], None, &[1, 2]).is_err());
        assert!(floats(&[], None, &[1]).is_err());
    }

    #[test]
    fn classes_are_told_best_first_with_the_shortest_numbers() {
        let labels = ["x".to_owned(), "y".to_owned(), "z".to_owned()];
        let step = classified(&[0.1, 0.7, 0.2, 0.4, 0.2, 0.4], &labels).unwrap();
        let Step::Answers(answers) = step else {
            panic!("{step:?}");
        };
        assert_eq!(
            answers[0].text,
            r#"{"label":"y","confidence":0.7,"scores":{"y":0.7,"z":0.2,"x":0.1}}"#
        );
        assert_eq!(
            answers[1].text,
            r#"{"label":"x","confidence":0.4,"scores":{"x":0.4,"z":0.4,"y":0.2}}"#
        );
    }
}
