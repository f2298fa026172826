//! Valid example inputs: `[[samples]]` in `model.toml`, or the file `sample.json` beside it. A server runs them before the
//! model serves. Without samples it generates inputs, on which some models fail.

use super::Contract;
use super::reader::Reader;
use super::tensors::MAX_RANK;
use crate::parameters::Unknown;
use crate::rejection::Rejection;
use crate::tensor::Tensor;
use crate::{parse_infer, parse_predict};
use toml::Spanned;
use toml::de::DeValue;

/// Most samples of a contract. Each costs a run before the model serves.
pub const MAX_SAMPLES: usize = 8;

/// Deepest nesting of a sample: the axes of a tensor, and the list of inputs.
const MAX_SAMPLE_DEPTH: usize = MAX_RANK + 2;

/// One tensor for each input, in the contract's order.
pub type Sample = Vec<Tensor>;

/// Parses a `sample.json`: a body of `:predict`, or a body of `infer` of the Open Inference Protocol.
///
/// # Errors
///
/// The violations of the form that the body resembles.
pub fn read_sample(body: &[u8], contract: &Contract) -> Result<Sample, Rejection> {
    let predict = match parse_predict(body, contract) {
        Ok(request) => return Ok(request.inputs),
        Err(rejection) => rejection,
    };
    match parse_infer(body, 0, contract, Unknown::Ignore) {
        Ok(request) => Ok(request.inputs),
        // Only the Open Inference Protocol has the datatype of each input.
        Err(infer) if body.windows(10).any(|part| part == b"\"datatype\"") => Err(infer),
        Err(_) => Err(predict),
    }
}

impl Reader<'_> {
    /// Reads the samples, and checks them against the contract, which is complete already.
    pub(super) fn samples(
        &mut self,
        contract: &Contract,
        value: &Spanned<DeValue<'_>>,
    ) -> Vec<Sample> {
        let DeValue::Array(entries) = value.get_ref() else {
            self.wrong_type(value, "samples", "one [[samples]] table per sample");
            return Vec::new();
        };
        if entries.len() > MAX_SAMPLES {
            self.fault(
                value.span(),
                format!("there are {} samples", entries.len()),
                format!(
                    "Keep at most {MAX_SAMPLES}: the model runs each of them before it serves."
                ),
            );
            return Vec::new();
        }
        let mut samples = Vec::new();
        for entry in entries.iter() {
            let Some(mut members) = self.table(entry, "a sample") else {
                continue;
            };
            let Some(inputs) = members.take("inputs") else {
                let remedy = "Write e.g. inputs = { x = [[1.0, 2.0]] }, one value for each input.";
                self.missing(&members, "inputs", remedy);
                continue;
            };
            self.unknown_members(members);
            let mut json = String::from("{\"inputs\":");
            if let Err(what) = write_json(inputs.get_ref(), MAX_SAMPLE_DEPTH, &mut json) {
                let remedy = "Write numbers, booleans, strings, and arrays of them.";
                self.fault(inputs.span(), format!("a sample holds {what}"), remedy);
                continue;
            }
            json.push('}');
            match parse_predict(json.as_bytes(), contract) {
                Ok(request) => samples.push(request.inputs),
                Err(rejection) => {
                    let at = (rejection.violations.first()).map_or("", |first| &*first.pointer);
                    let message =
                        format!("a sample does not fit the contract at {at:?}: {rejection}");
                    self.fault(
                        inputs.span(),
                        message,
                        "Correct the sample, or the input's table.",
                    );
                }
            }
        }
        samples
    }
}

/// Writes a TOML value as JSON. The error names a value that JSON or a tensor cannot contain.
fn write_json(value: &DeValue<'_>, depth: usize, json: &mut String) -> Result<(), &'static str> {
    let depth = depth
        .checked_sub(1)
        .ok_or("arrays that are nested too deeply")?;
    match value {
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| "an integer of more than 64 bits")?;
            json.push_str(&number.to_string());
        }
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => json.push_str(&format!("{number:?}")),
            _ => return Err("a number that is not finite"),
        },
        DeValue::Boolean(true) => json.push_str("true"),
        DeValue::Boolean(false) => json.push_str("false"),
        DeValue::String(text) => write_text(text, json),
        DeValue::Datetime(_) => return Err("a date"),
        DeValue::Array(entries) => {
            json.push('[');
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                write_json(entry.get_ref(), depth, json)?;
            }
            json.push(']');
        }
        DeValue::Table(table) => {
            json.push('{');
            for (index, (key, entry)) in table.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                write_text(key.get_ref(), json);
                json.push(':');
                write_json(entry.get_ref(), depth, json)?;
            }
            json.push('}');
        }
    }
    Ok(())
}

fn write_text(text: &str, json: &mut String) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                json.push('\\');
                json.push(c);
            }
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = "description = \"d\"\n[[inputs]]\nname = \"x \\\" y\"\ndatatype = \"FP32\"\nshape = [\"N\", 2]\n\
        [[inputs]]\nname = \"n\"\ndatatype = \"INT64\"\nshape = [1]\nminimum = 3\n\
        [[outputs]]\nname = \"z\"\ndatatype = \"FP32\"\nshape = [\"N\"]\n";

    fn parse(samples: &str) -> Result<Contract, String> {
        Contract::parse(&format!("{CONTRACT}{samples}")).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            faults.join("\n")
        })
    }

    #[test]
    fn samples_are_tensors_of_the_contract() {
        let sample =
            "[[samples]]\n[samples.inputs]\n\"x \\\" y\" = [[0.5, 1e-7], [-1, 0x10]]\nn = [4]\n";
        let contract = parse(sample).expect("sound");
        let [sample] = &contract.samples[..] else {
            panic!("one sample")
        };
        assert_eq!(
            (&*sample[0].name, &sample[0].shape[..]),
            ("x \" y", &[2, 2][..])
        );
        let numbers: Vec<f32> = (sample[0].data.chunks(4))
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(numbers, [0.5, 1e-7, -1.0, 16.0]);
        assert_eq!(sample[1].data, 4i64.to_le_bytes());
        assert!(parse("").expect("sound").samples.is_empty());
    }

    #[test]
    fn a_sample_that_does_not_fit_is_a_fault_with_its_place() {
        for (samples, part) in [
            (
                "[[samples]]\ninputs = { n = [1] }\n",
                "does not fit the contract",
            ),
            ("[[samples]]\ninputs = { n = [inf] }\n", "not finite"),
            ("[[samples]]\ninputs = { n = [1979-05-27] }\n", "a date"),
            (
                "[[samples]]\ninput = { n = [1] }\n",
                "a sample has no inputs",
            ),
            ("samples = 3\n[other]\n", "no member \"other\""),
        ] {
            // A key of the top must stand before the tables.
            let error = if samples.starts_with("samples") {
                Contract::parse(&format!("{samples}{CONTRACT}"))
                    .map(drop)
                    .map_err(|faults| {
                        faults
                            .iter()
                            .map(ToString::to_string)
                            .collect::<Vec<_>>()
                            .join("\n")
                    })
            } else {
                parse(samples).map(drop)
            }
            .expect_err(samples);
            assert!(
                error.contains(part) && error.contains("line "),
                "{samples}: {error}"
            );
        }
        let many = "[[samples]]\ninputs = {}\n".repeat(MAX_SAMPLES + 1);
        assert!(parse(&many).expect_err("too many").contains("at most 8"));
    }

    #[test]
    fn a_sample_file_is_read_in_either_form_of_a_request() {
        let contract = parse("").expect("sound");
        let predict = br#"{"inputs": {"x \" y": [[1, 2]], "n": [3]}}"#;
        let infer = br#"{"inputs": [{"name": "x \" y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
            {"name": "n", "datatype": "INT64", "shape": [1], "data": [3]}]}"#;
        let of = |body: &[u8]| read_sample(body, &contract);
        assert_eq!(of(predict).expect("sound"), of(infer).expect("sound"));
        let error = of(br#"{"inputs": {"n": [2]}}"#).expect_err("below the minimum");
        assert!(
            error
                .violations
                .iter()
                .any(|v| v.pointer.contains("/inputs/n")),
            "{error:?}"
        );
        let error =
            of(br#"{"inputs": [{"name": "q", "datatype": "FP32", "shape": [1], "data": [1]}]}"#);
        assert!(error.expect_err("no such input").to_string().contains('q'));
    }
}
