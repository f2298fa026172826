//! Turns a PNG or JPEG into the input of an image classifier, and its scores into an answer. The configuration has all
//! differences between such models: size, fit, order of colours, normalisation, labels.

use crate::outputs::{classified, config, floats, tensor};
use crate::picture::{Allowance, Area, Picture, Scaling, picture};
use crate::{Adapter, AdapterRefusal, Item, RefusalKind, Step, each, only_part};
use penstock_tensor::Tensor;
use serde::Deserialize;
use std::cell::Cell;
use std::collections::BTreeSet;

/// The most pixels of a model's input: 1,024 by 1,024, 12 MiB of numbers.
const MAX_INPUT_PIXELS: u64 = 1 << 20;
/// The most bytes of the tensor of one call. An instance holds a few copies of it.
const MAX_TENSOR_BYTES: u64 = 32 << 20;
/// The most classes of a model. The configuration has no room for many more.
const MAX_LABELS: usize = 65_536;

/// The method that fits an image to the size of the model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fit {
    /// Both sides are scaled independently.
    Stretch,
    /// Scaled until it covers the model's input; the excess is cut off equally on both sides.
    Cover,
    /// A line of text: scaled to the full height, and squeezed if it is too wide; zeros fill the rest on the right.
    Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Channels {
    Rgb,
    Bgr,
    Grey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Layout {
    #[serde(rename = "NCHW")]
    Nchw,
    #[serde(rename = "NHWC")]
    Nhwc,
}

/// The meaning of the model's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scores {
    /// Probabilities, which are returned unchanged.
    #[default]
    Probabilities,
    /// Logits; a softmax turns them into probabilities.
    Logits,
}

fn smooth() -> Scaling {
    Scaling::Smooth
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The name of the model's input for the pixels.
    input: String,
    /// The model's output; optional if it has only one.
    output: Option<String>,
    width: u32,
    height: u32,
    fit: Fit,
    #[serde(default = "smooth")]
    scaling: Scaling,
    channels: Channels,
    layout: Layout,
    /// Subtracted from each channel's value, 0 to 255, in the order of `channels`.
    mean: Vec<f32>,
    /// The divisor of the difference.
    std: Vec<f32>,
    #[serde(default)]
    scores: Scores,
    /// The labels of the output's classes, in their order.
    labels: Vec<String>,
}

/// The adapter, opened with a configuration.
pub struct Image {
    config: Config,
    /// The number of items of the requested run.
    running: Cell<u64>,
}

impl Config {
    fn depth(&self) -> usize {
        match self.channels {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Grey => 1,
        }
    }

    fn check(&self) -> Result<(), String> {
        let pixels = u64::from(self.width) * u64::from(self.height);
        if pixels == 0 || pixels > MAX_INPUT_PIXELS {
            return Err(format!(
                "`width` by `height` must be 1 to {MAX_INPUT_PIXELS} pixels"
            ));
        }
        if self.mean.len() != self.depth() || self.std.len() != self.depth() {
            return Err(format!(
                "`mean` and `std` must have a number for each of the {} channels",
                self.depth()
            ));
        }
        if !self.mean.iter().all(|m| m.is_finite()) || !self.std.iter().all(|s| s.is_normal()) {
            return Err("`mean` must be finite, and `std` not 0".into());
        }
        if self.labels.is_empty() || self.labels.len() > MAX_LABELS {
            return Err(format!("`labels` must name 1 to {MAX_LABELS} classes"));
        }
        let different: BTreeSet<&str> = self.labels.iter().map(String::as_str).collect();
        if different.len() != self.labels.len() {
            return Err("`labels` must differ from each other".into());
        }
        Ok(())
    }
}

impl Adapter for Image {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let config: Config = config(name, bytes)?;
        config
            .check()
            .map_err(|e| format!("the configuration of adapter `{name}` is wrong: {e}"))?;
        Ok(Self {
            config,
            running: Cell::default(),
        })
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let config = &self.config;
        let (width, height) = (config.width as usize, config.height as usize);
        let one = width * height * config.depth();
        let mut allowance = Allowance::default();
        let mut numbers: Vec<f32> = Vec::new();
        each(items, |item| {
            let part = only_part(item, "an image")?;
            if ((numbers.len() + one) * size_of::<f32>()) as u64 > MAX_TENSOR_BYTES {
                return Err((
                    None,
                    RefusalKind::InvalidContent(format!(
                        "One call of this model takes at most {} images. Send fewer images per call.",
                        numbers.len() / one
                    )),
                ));
            }
            let picture = picture(&part, config.channels == Channels::Grey, &mut allowance)
                .map_err(|kind| (Some(0), kind))?;
            self.append(&picture, &mut numbers);
            Ok(())
        })?;
        self.running.set(items.len() as u64);
        if items.is_empty() {
            return Ok(Step::Answers(Vec::new()));
        }
        let (n, h, w) = (items.len() as u64, height as u64, width as u64);
        let c = config.depth() as u64;
        let shape = match config.layout {
            Layout::Nchw => vec![n, c, h, w],
            Layout::Nhwc => vec![n, h, w, c],
        };
        Ok(Step::Tensors(vec![tensor(&config.input, shape, &numbers)]))
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let config = &self.config;
        let running = self.running.take();
        if running == 0 {
            return Err("outputs were given, but the adapter requested no run".into());
        }
        let classes = config.labels.len();
        let shape = [running, classes as u64];
        let mut scores = floats(&outputs, config.output.as_deref(), &shape)?;
        if config.scores == Scores::Logits {
            scores.chunks_exact_mut(classes).for_each(softmax);
        }
        classified(&scores, &config.labels)
    }
}

impl Image {
    /// Appends the model's input for a picture.
    fn append(&self, picture: &Picture, numbers: &mut Vec<f32>) {
        let config = &self.config;
        let (width, height) = (config.width as usize, config.height as usize);
        let (from_width, from_height) = (picture.width as f64, picture.height as f64);
        let mut area = Area {
            x: 0.0,
            y: 0.0,
            width: from_width,
            height: from_height,
        };
        let mut filled = width;
        match config.fit {
            Fit::Stretch => {}
            Fit::Cover => {
                let scale = (from_width / width as f64).min(from_height / height as f64);
                area.width = width as f64 * scale;
                area.height = height as f64 * scale;
                area.x = (from_width - area.width) / 2.0;
                area.y = (from_height - area.height) / 2.0;
            }
            Fit::Line => {
                let wide = (height as f64 * from_width / from_height).ceil();
                filled = wide.clamp(1.0, width as f64) as usize;
            }
        }
        let scaled = picture.scaled(area, filled, height, config.scaling);
        let depth = config.depth();
        let value = |x: usize, y: usize, channel: usize| {
            if x >= filled {
                return 0.0;
            }
            let from = match (picture.channels, config.channels) {
                (1, _) => 0,
                (_, Channels::Bgr) => 2 - channel,
                _ => channel,
            };
            let value = scaled[(y * filled + x) * picture.channels + from];
            (value - config.mean[channel]) / config.std[channel]
        };
        numbers.reserve(width * height * depth);
        match config.layout {
            Layout::Nchw => {
                for channel in 0..depth {
                    for y in 0..height {
                        numbers.extend((0..width).map(|x| value(x, y, channel)));
                    }
                }
            }
            Layout::Nhwc => {
                for y in 0..height {
                    for x in 0..width {
                        numbers.extend((0..depth).map(|channel| value(x, y, channel)));
                    }
                }
            }
        }
    }
}

fn softmax(row: &mut [f32]) {
    let greatest = row.iter().copied().fold(f32::MIN, f32::max);
    row.iter_mut().for_each(|v| *v = (*v - greatest).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::{JPEG, png_of};
    use crate::{Blob, Part};
    use serde_json::{Value, json};

    fn config() -> Value {
        json!({
            "input": "x", "width": 8, "height": 4, "fit": "line", "channels": "bgr", "layout": "NCHW",
            "mean": [127.5, 127.5, 127.5], "std": [127.5, 127.5, 127.5], "labels": ["0", "180"],
        })
    }

    fn open(changes: Value) -> Result<Image, String> {
        let mut config = config();
        for (name, value) in changes.as_object().unwrap() {
            config[name] = value.clone();
        }
        Image::open("image", config.to_string().as_bytes())
    }

    fn item(body: &[u8]) -> Item<'_> {
        Item {
            parts: vec![Part::Image(Blob {
                media_type: None,
                body,
            })],
        }
    }

    fn seen(image: &Image, items: &[Item<'_>]) -> (Vec<u64>, Vec<f32>) {
        match image.prepare(items) {
            Ok(Step::Tensors(tensors)) => {
                assert!(tensors[0].is_consistent());
                let numbers = tensors[0].data.as_chunks::<4>().0.iter();
                let numbers = numbers.map(|b| f32::from_le_bytes(*b)).collect();
                (tensors[0].shape.clone(), numbers)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_is_scaled_to_the_height_and_padded_on_the_right() {
        let file = png_of(1, 1, png::ColorType::Rgb, &[255, 0, 127]);
        let (shape, numbers) = seen(&open(json!({})).unwrap(), &[item(&file)]);
        assert_eq!(shape, [1, 3, 4, 8]);
        for (channel, value) in [(0, 127.0 / 127.5 - 1.0), (1, -1.0), (2, 1.0)] {
            for row in numbers[channel * 32..(channel + 1) * 32].chunks_exact(8) {
                assert!(row[..4].iter().all(|v| (v - value).abs() < 1e-5), "{row:?}");
                assert_eq!(row[4..], [0.0; 4]);
            }
        }
        // Wider than the model's input: squeezed.
        let file = png_of(100, 2, png::ColorType::Grayscale, &[255; 200]);
        let (_, numbers) = seen(&open(json!({})).unwrap(), &[item(&file)]);
        assert!(numbers.iter().all(|v| (v - 1.0).abs() < 1e-5));
    }

    #[test]
    fn an_image_covers_or_is_stretched_as_the_configuration_says() {
        // A black row above, then white: square, for a model that is twice as wide as high.
        let mut bytes = [255; 64];
        bytes[..8].fill(0);
        let file = png_of(8, 8, png::ColorType::Grayscale, &bytes);
        let grey = json!({
            "channels": "grey", "mean": [0.0], "std": [255.0], "layout": "NHWC", "fit": "cover",
        });
        let (shape, numbers) = seen(&open(grey.clone()).unwrap(), &[item(&file)]);
        assert_eq!(shape, [1, 4, 8, 1]);
        assert!(numbers.iter().all(|v| (v - 1.0).abs() < 1e-5), "cut off");
        let mut stretch = grey;
        stretch["fit"] = json!("stretch");
        let (_, numbers) = seen(&open(stretch).unwrap(), &[item(&file)]);
        assert!(numbers[..8].iter().all(|v| *v < 0.8));
        assert!(numbers[8..16].iter().all(|v| *v > 0.8));
    }

    #[test]
    fn several_images_are_one_batch_and_are_answered_in_their_order() {
        let image = open(json!({})).unwrap();
        let file = png_of(1, 1, png::ColorType::Rgb, &[255, 0, 127]);
        let (shape, _) = seen(&image, &[item(JPEG), item(&file)]);
        assert_eq!(shape, [2, 3, 4, 8]);
        let output = tensor("o", vec![2, 2], &[0.1, 0.9, 0.75, 0.25]);
        let step = image.advance(vec![output.clone()]).unwrap();
        let Step::Answers(answers) = step else {
            panic!("{step:?}");
        };
        assert_eq!(
            answers[0].text,
            r#"{"label":"180","confidence":0.9,"scores":{"180":0.9,"0":0.1}}"#
        );
        assert!(answers[1].text.starts_with(r#"{"label":"0","#));
        assert!(image.advance(vec![output]).is_err(), "nothing runs");
    }

    #[test]
    fn logits_become_probabilities() {
        let image = open(json!({"scores": "logits"})).unwrap();
        let _ = seen(&image, &[item(JPEG)]);
        let step = image.advance(vec![tensor("o", vec![1, 2], &[1000.0, 1000.0])]);
        let Ok(Step::Answers(answers)) = step else {
            panic!("{step:?}");
        };
        assert!(answers[0].text.contains(r#""confidence":0.5"#));
    }

    #[test]
    fn the_item_that_is_refused_is_named() {
        let image = open(json!({})).unwrap();
        let refusal = image.prepare(&[item(JPEG), item(b"GIF89a")]).unwrap_err();
        assert_eq!((refusal.item, refusal.part), (1, Some(0)));
        assert!(matches!(refusal.kind, RefusalKind::UnsupportedMediaType(_)));
        let large = open(json!({"width": 1024, "height": 1024})).unwrap();
        let refusal = large
            .prepare(&[item(JPEG), item(JPEG), item(JPEG)])
            .unwrap_err();
        assert_eq!((refusal.item, refusal.part), (2, None));
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_an_error() {
        for changes in [
            json!({"width": 0}),
            json!({"width": 4_000_000_000u32, "height": 4_000_000_000u32}),
            json!({"mean": [1.0]}),
            json!({"std": [1.0, 0.0, 1.0]}),
            json!({"labels": []}),
            json!({"labels": ["a", "a"]}),
            json!({"fit": "guess"}),
            json!({"more": 1}),
        ] {
            assert!(open(changes.clone()).is_err(), "{changes}");
        }
        assert!(Image::open("image", b"").is_err());
        assert!(Image::open("image", b"{").is_err());
    }
}
