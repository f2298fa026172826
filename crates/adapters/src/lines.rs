//! Turns an image of a line of text into the input of a recogniser, and its outputs into text: the likeliest character of
//! each step, without repeats and blanks (CTC). For models like those of PaddleOCR.
//!
//! The lines of a batch are scaled to one height and are as wide as the widest; zeros fill the others on the right.

use crate::outputs::{config, floats, json, tensor};
use crate::picture::{Allowance, Area, Picture, Scaling, picture};
use crate::{Adapter, AdapterAnswer, AdapterRefusal, Item, RefusalKind, Step, each, only_part};
use penstock_tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::cell::Cell;

/// The widest line after scaling. Such models read some hundred characters.
const MAX_WIDTH: u32 = 8_192;
/// The tallest line after scaling.
const MAX_HEIGHT: u32 = 256;
/// The most characters of a model.
const MAX_CHARACTERS: usize = 65_536;
/// The most bytes of a run's input.
const MAX_TENSOR_BYTES: usize = 64 << 20;
/// The most numbers of a run's output, 64 MiB.
const MAX_OUTPUT_NUMBERS: usize = 16 << 20;
/// The channels of the input: red, green and blue.
const DEPTH: usize = 3;

/// The settings for the preparation and reading of lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reading {
    /// The name of the model's input for the pixels.
    pub input: String,
    /// The model's output; optional if it has only one.
    pub output: Option<String>,
    pub height: u32,
    /// The least width of a batch.
    pub min_width: u32,
    /// The greatest width of a batch, in pixels. A longer line is squeezed.
    pub max_width: u32,
    /// Pixels of the input to a step of the output.
    pub step: u32,
    /// The characters of the classes, in their order. The blank comes before them.
    pub characters: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    confidence: f32,
}

impl Reading {
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_HEIGHT).contains(&self.height) {
            return Err(format!("`height` must be 1 to {MAX_HEIGHT}"));
        }
        if self.min_width == 0 || self.max_width > MAX_WIDTH || self.min_width > self.max_width {
            return Err(format!(
                "`min_width` and `max_width` must be 1 to {MAX_WIDTH}, in this order"
            ));
        }
        if !(1..=self.min_width).contains(&self.step) {
            return Err("`step` must be 1 to `min_width`".into());
        }
        if self.characters.is_empty() || self.characters.len() > MAX_CHARACTERS {
            return Err(format!(
                "`characters` must have 1 to {MAX_CHARACTERS} entries"
            ));
        }
        Ok(())
    }

    /// The width of an image after scaling.
    pub fn width(&self, picture: &Picture) -> usize {
        let wide = (self.height as f64 * picture.width as f64 / picture.height as f64).ceil();
        wide.clamp(1.0, f64::from(self.max_width)) as usize
    }

    /// The number of lines of a width in one run.
    pub fn room(&self, width: usize) -> usize {
        let input = width * self.height as usize * DEPTH * size_of::<f32>();
        let output = (width / self.step as usize).max(1) * (self.characters.len() + 1);
        (MAX_TENSOR_BYTES / input)
            .min(MAX_OUTPUT_NUMBERS / output)
            .max(1)
    }

    /// One batch of lines, as wide as the widest.
    pub fn batch(&self, pictures: &[Picture]) -> Tensor {
        let height = self.height as usize;
        let widths: Vec<usize> = pictures.iter().map(|picture| self.width(picture)).collect();
        let width = widths
            .iter()
            .copied()
            .max()
            .unwrap_or(0)
            .max(self.min_width as usize);
        let mut numbers = vec![0.0f32; pictures.len() * DEPTH * height * width];
        for (at, (picture, filled)) in pictures.iter().zip(widths).enumerate() {
            let area = Area {
                x: 0.0,
                y: 0.0,
                width: picture.width as f64,
                height: picture.height as f64,
            };
            let scaled = picture.scaled(area, filled, height, Scaling::Linear);
            for channel in 0..DEPTH {
                // Blue, green, red, as in OpenCV.
                let from = if picture.channels == 1 {
                    0
                } else {
                    DEPTH - 1 - channel
                };
                for y in 0..height {
                    let row = ((at * DEPTH + channel) * height + y) * width;
                    for x in 0..filled {
                        let value = scaled[(y * filled + x) * picture.channels + from];
                        numbers[row + x] = value / 127.5 - 1.0;
                    }
                }
            }
        }
        let shape = vec![
            pictures.len() as u64,
            DEPTH as u64,
            height as u64,
            width as u64,
        ];
        tensor(&self.input, shape, &numbers)
    }

    /// The text of a run's output, and its score: the mean of the characters' scores.
    pub fn read(&self, outputs: &[Tensor], rows: usize) -> Result<Vec<(String, f32)>, String> {
        let classes = self.characters.len() + 1;
        let named = |tensor: &&Tensor| self.output.as_ref().is_none_or(|name| *name == tensor.name);
        let steps = outputs
            .iter()
            .find(named)
            .and_then(|output| output.shape.get(1).copied());
        let steps = steps.ok_or("the model returned no output with three axes")?;
        let scores = floats(
            outputs,
            self.output.as_deref(),
            &[rows as u64, steps, classes as u64],
        )?;
        if steps == 0 {
            return Ok(vec![(String::new(), 0.0); rows]);
        }
        Ok(scores
            .chunks_exact(steps as usize * classes)
            .map(|row| self.spelt(row))
            .collect())
    }

    fn spelt(&self, row: &[f32]) -> (String, f32) {
        let (mut text, mut sum, mut count) = (String::new(), 0.0f64, 0u32);
        let mut before = 0;
        for step in row.chunks_exact(self.characters.len() + 1) {
            // Of equal scores the first.
            let best = (0..step.len())
                .rev()
                .max_by(|a, b| step[*a].total_cmp(&step[*b]))
                .unwrap_or(0);
            if best != 0 && best != before {
                text.push_str(&self.characters[best - 1]);
                sum += f64::from(step[best]);
                count += 1;
            }
            before = best;
        }
        let confidence = if count == 0 {
            0.0
        } else {
            (sum / f64::from(count)) as f32
        };
        (text, confidence)
    }
}

/// The adapter, opened with a configuration.
pub struct Lines {
    reading: Reading,
    /// The number of lines of the requested run.
    running: Cell<usize>,
}

impl Adapter for Lines {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let reading: Reading = config(name, bytes)?;
        reading
            .check()
            .map_err(|e| format!("the configuration of adapter `{name}` is wrong: {e}"))?;
        Ok(Self {
            reading,
            running: Cell::default(),
        })
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let mut allowance = Allowance::default();
        let mut widest = self.reading.min_width as usize;
        let mut pictures = Vec::with_capacity(items.len());
        each(items, |item| {
            let part = only_part(item, "an image")?;
            let picture = picture(&part, false, &mut allowance).map_err(|kind| (Some(0), kind))?;
            widest = widest.max(self.reading.width(&picture));
            if pictures.len() == self.reading.room(widest) {
                return Err((
                    None,
                    RefusalKind::InvalidContent(format!(
                        "A call whose widest line has {widest} pixels takes at most {} lines. Send fewer lines per \
                         call.",
                        pictures.len()
                    )),
                ));
            }
            pictures.push(picture);
            Ok(())
        })?;
        self.running.set(pictures.len());
        if pictures.is_empty() {
            return Ok(Step::Answers(Vec::new()));
        }
        Ok(Step::Tensors(vec![self.reading.batch(&pictures)]))
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let rows = self.running.take();
        if rows == 0 {
            return Err("outputs were given, but the adapter requested no run".into());
        }
        let answers = self
            .reading
            .read(&outputs, rows)?
            .into_iter()
            .map(|(text, confidence)| {
                Ok(AdapterAnswer {
                    text: json(&Line {
                        text: &text,
                        confidence,
                    })?,
                    units: 0,
                })
            });
        answers.collect::<Result<_, String>>().map(Step::Answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn reading() -> Value {
        json!({
            "input": "x", "height": 8, "min_width": 16, "max_width": 64, "step": 8,
            "characters": ["a", "b", " "],
        })
    }

    fn picture(width: usize, height: usize) -> Picture {
        Picture {
            width,
            height,
            channels: 1,
            bytes: vec![255; width * height],
        }
    }

    #[test]
    fn repeats_and_blanks_are_left_out_and_the_rest_is_spelt() {
        let reading: Reading = serde_json::from_value(reading()).unwrap();
        let best = [1, 1, 0, 1, 2, 3, 0, 2];
        let mut scores = Vec::new();
        for class in best {
            scores.extend((0..4).map(|at| if at == class { 0.5 } else { 0.1f32 }));
        }
        let read = reading
            .read(&[tensor("y", vec![1, 8, 4], &scores)], 1)
            .unwrap();
        assert_eq!(read, [("aab b".to_owned(), 0.5)]);
        let blank = reading
            .read(&[tensor("y", vec![1, 1, 4], &[1.0, 0.0, 0.0, 0.0])], 1)
            .unwrap();
        assert_eq!(blank, [(String::new(), 0.0)]);
        assert!(
            reading
                .read(&[tensor("y", vec![1, 1, 5], &[0.0; 5])], 1)
                .is_err()
        );
        assert!(reading.read(&[], 1).is_err());
    }

    #[test]
    fn lines_keep_their_shape_and_are_as_wide_as_the_widest() {
        let reading: Reading = serde_json::from_value(reading()).unwrap();
        let batch = reading.batch(&[picture(16, 16), picture(40, 16), picture(9_000, 10)]);
        assert_eq!(batch.shape, [3, 3, 8, 64]);
        let batch = reading.batch(&[picture(16, 16)]);
        assert_eq!(batch.shape, [1, 3, 8, 16]);
        let (numbers, _) = batch.data.as_chunks::<4>();
        let row: Vec<f32> = numbers[..16]
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        assert_eq!(row[..8], [1.0; 8]);
        assert_eq!(row[8..], [0.0; 8]);
    }

    #[test]
    fn a_configuration_that_contradicts_itself_is_refused() {
        for (member, value) in [
            ("height", json!(0)),
            ("min_width", json!(65)),
            ("step", json!(0)),
            ("characters", json!([])),
            ("more", json!(1)),
        ] {
            let mut changed = reading();
            changed[member] = value;
            assert!(
                Lines::open("ocr-recognition", changed.to_string().as_bytes()).is_err(),
                "{member}"
            );
        }
    }
}
