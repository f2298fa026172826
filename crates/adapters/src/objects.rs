//! Turns an image into the input of an object detector like YOLO, and its output into boxes. The image is scaled into the
//! model's square with a border (letterbox). The answer has the boxes above a threshold; of boxes that overlap only the
//! best stays (non-maximum suppression). Boxes are in pixels of the caller's image.

use crate::outputs::{config, floats, json, tensor};
use crate::picture::{Allowance, Area, Picture, Scaling, picture};
use crate::{Adapter, AdapterAnswer, AdapterRefusal, Item, RefusalKind, Step, each, only_part};
use penstock_tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

/// The most pixels of the model's input.
const MAX_INPUT_PIXELS: u64 = 4 << 20;
/// The most bytes of a run's input.
const MAX_TENSOR_BYTES: usize = 64 << 20;
/// Most classes that a model may have.
const MAX_LABELS: usize = 4_096;
/// The most boxes that are compared, the best ones. Each is compared with all boxes that stay.
const MAX_CANDIDATES: usize = 4_096;
/// The most boxes of an answer.
const MAX_OBJECTS: usize = 300;
/// Numbers of a box: its centre and its size.
const BOX: usize = 4;
/// The channels of the input: red, green and blue.
const DEPTH: usize = 3;

/// The layout of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// `[N, 4 + classes, boxes]`: centre, size, a score for each class (version 8 and later).
    Yolov8,
    /// `[N, boxes, 5 + classes]`: centre, size, the probability of an object, a score for each class (up to version 7).
    Yolov5,
}

/// The place of the scaled image in the model's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ImagePosition {
    /// In the middle of the input, with the borders filled.
    #[default]
    Center,
    /// In the upper left corner of the input, with the borders filled.
    TopLeft,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    input: String,
    output: Option<String>,
    width: u32,
    height: u32,
    form: Form,
    #[serde(default)]
    place: ImagePosition,
    #[serde(default = "linear")]
    scaling: Scaling,
    /// The value of the border, 0 to 255.
    #[serde(default = "grey")]
    border: f32,
    labels: Vec<String>,
    #[serde(default = "usual_score")]
    min_score: f32,
    /// The largest overlap of two boxes (intersection over union).
    #[serde(default = "usual_overlap")]
    max_overlap: f32,
    /// Whether boxes of different classes are compared too.
    #[serde(default)]
    across_classes: bool,
}

fn linear() -> Scaling {
    Scaling::Linear
}
fn grey() -> f32 {
    114.0
}
fn usual_score() -> f32 {
    0.25
}
fn usual_overlap() -> f32 {
    0.45
}

/// The mapping from the model's pixels to the image's.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Frame {
    scale: f64,
    left: f64,
    top: f64,
    width: usize,
    height: usize,
}

/// The adapter, opened with a configuration.
pub struct Objects {
    config: Config,
    running: RefCell<Vec<Frame>>,
}

#[derive(Serialize)]
struct Found<'a> {
    objects: Vec<Object<'a>>,
    width: usize,
    height: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Object<'a> {
    label: &'a str,
    score: f32,
    #[serde(rename = "box")]
    area: Corners,
}

/// A box in pixels of the image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Corners {
    xmin: f32,
    ymin: f32,
    xmax: f32,
    ymax: f32,
}

impl Config {
    fn check(&self) -> Result<(), String> {
        let pixels = u64::from(self.width) * u64::from(self.height);
        if pixels == 0 || pixels > MAX_INPUT_PIXELS {
            return Err(format!(
                "`width` by `height` must be 1 to {MAX_INPUT_PIXELS} pixels"
            ));
        }
        if self.labels.is_empty() || self.labels.len() > MAX_LABELS {
            return Err(format!("`labels` must name 1 to {MAX_LABELS} classes"));
        }
        let shares = [self.min_score, self.max_overlap];
        if !shares.iter().all(|share| (0.0..=1.0).contains(share))
            || !(0.0..=255.0).contains(&self.border)
        {
            return Err(
                "`min_score` and `max_overlap` must be 0 to 1, and `border` 0 to 255".into(),
            );
        }
        Ok(())
    }
}

impl Adapter for Objects {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let config: Config = config(name, bytes)?;
        config
            .check()
            .map_err(|e| format!("the configuration of adapter `{name}` is wrong: {e}"))?;
        Ok(Self {
            config,
            running: RefCell::default(),
        })
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let config = &self.config;
        let one = config.width as usize * config.height as usize * DEPTH;
        let (mut numbers, mut allowance) = (Vec::new(), Allowance::default());
        let frames = each(items, |item| {
            let part = only_part(item, "an image")?;
            if (numbers.len() + one) * size_of::<f32>() > MAX_TENSOR_BYTES {
                return Err((
                    None,
                    RefusalKind::InvalidContent(format!(
                        "One call of this model takes at most {} images. Send fewer images per call.",
                        numbers.len() / one
                    )),
                ));
            }
            let picture = picture(&part, false, &mut allowance).map_err(|kind| (Some(0), kind))?;
            Ok(self.append(&picture, &mut numbers))
        })?;
        if frames.is_empty() {
            return Ok(Step::Answers(Vec::new()));
        }
        let shape = vec![
            frames.len() as u64,
            DEPTH as u64,
            u64::from(config.height),
            u64::from(config.width),
        ];
        self.running.replace(frames);
        Ok(Step::Tensors(vec![tensor(&config.input, shape, &numbers)]))
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let frames = self.running.take();
        if frames.is_empty() {
            return Err("outputs were given, but the adapter requested no run".into());
        }
        let config = &self.config;
        let named = |tensor: &&Tensor| {
            config
                .output
                .as_ref()
                .is_none_or(|name| *name == tensor.name)
        };
        let found = outputs
            .iter()
            .find(named)
            .map(|output| output.shape.as_slice());
        let classes = config.labels.len() as u64;
        let rows = frames.len() as u64;
        let (shape, boxes) = match (config.form, found) {
            (Form::Yolov8, Some([_, _, boxes])) => ([rows, BOX as u64 + classes, *boxes], *boxes),
            (Form::Yolov5, Some([_, boxes, _])) => {
                ([rows, *boxes, BOX as u64 + 1 + classes], *boxes)
            }
            _ => return Err("the model returned no output with three axes".into()),
        };
        let numbers = floats(&outputs, config.output.as_deref(), &shape)?;
        let each = (shape[1] * shape[2]) as usize;
        let answers = frames.into_iter().enumerate().map(|(at, frame)| {
            let objects = self.objects(&numbers[at * each..(at + 1) * each], boxes as usize, frame);
            let (width, height) = (frame.width, frame.height);
            Ok(AdapterAnswer {
                text: json(&Found {
                    objects,
                    width,
                    height,
                })?,
                units: 0,
            })
        });
        answers.collect::<Result<_, String>>().map(Step::Answers)
    }
}

impl Objects {
    /// Appends the model's input for a picture, and returns its placement.
    fn append(&self, picture: &Picture, numbers: &mut Vec<f32>) -> Frame {
        let config = &self.config;
        let (width, height) = (config.width as usize, config.height as usize);
        let (from_width, from_height) = (picture.width as f64, picture.height as f64);
        let scale = (width as f64 / from_width).min(height as f64 / from_height);
        let filled = |from: f64, most: usize| ((from * scale).round() as usize).clamp(1, most);
        let (wide, high) = (filled(from_width, width), filled(from_height, height));
        let (left, top) = match config.place {
            ImagePosition::Center => ((width - wide) / 2, (height - high) / 2),
            ImagePosition::TopLeft => (0, 0),
        };
        let area = Area {
            x: 0.0,
            y: 0.0,
            width: from_width,
            height: from_height,
        };
        let scaled = picture.scaled(area, wide, high, config.scaling);
        numbers.reserve(DEPTH * width * height);
        for channel in 0..DEPTH {
            let from = if picture.channels == 1 { 0 } else { channel };
            for y in 0..height {
                for x in 0..width {
                    let inside = (left..left + wide).contains(&x) && (top..top + high).contains(&y);
                    let value = match inside {
                        true => scaled[((y - top) * wide + x - left) * picture.channels + from],
                        false => config.border,
                    };
                    numbers.push(value / 255.0);
                }
            }
        }
        Frame {
            scale,
            left: left as f64,
            top: top as f64,
            width: picture.width,
            height: picture.height,
        }
    }

    /// The boxes in the output of one image, the best first.
    fn objects(&self, numbers: &[f32], boxes: usize, frame: Frame) -> Vec<Object<'_>> {
        let config = &self.config;
        let classes = config.labels.len();
        let value = |index: usize, member: usize| match config.form {
            Form::Yolov8 => numbers[member * boxes + index],
            Form::Yolov5 => numbers[index * (BOX + 1 + classes) + member],
        };
        let mut found: Vec<(usize, f32, usize)> = Vec::new();
        for index in 0..boxes {
            let (first, sure) = match config.form {
                Form::Yolov8 => (BOX, 1.0),
                Form::Yolov5 => (BOX + 1, value(index, BOX)),
            };
            if sure < config.min_score {
                continue;
            }
            let score = |class: usize| value(index, first + class) * sure;
            // Of equal scores the first.
            let best = (0..classes)
                .rev()
                .max_by(|a, b| score(*a).total_cmp(&score(*b)))
                .unwrap_or(0);
            if score(best) >= config.min_score {
                found.push((index, score(best), best));
            }
        }
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        found.truncate(MAX_CANDIDATES);
        let mut kept: Vec<(Corners, usize, f32)> = Vec::new();
        for (index, score, class) in found {
            let member = |at| f64::from(value(index, at));
            let (x, y, half_width, half_height) =
                (member(0), member(1), member(2) / 2.0, member(3) / 2.0);
            let across =
                |at: f64| (((at - frame.left) / frame.scale).clamp(0.0, frame.width as f64)) as f32;
            let down =
                |at: f64| (((at - frame.top) / frame.scale).clamp(0.0, frame.height as f64)) as f32;
            let corners = Corners {
                xmin: across(x - half_width),
                ymin: down(y - half_height),
                xmax: across(x + half_width),
                ymax: down(y + half_height),
            };
            let beside = |(other, its, _): &(Corners, usize, f32)| {
                (!config.across_classes && *its != class)
                    || common(*other, corners) <= config.max_overlap
            };
            if kept.iter().all(beside) {
                kept.push((corners, class, score));
                if kept.len() == MAX_OBJECTS {
                    break;
                }
            }
        }
        let object = |(area, class, score): (Corners, usize, f32)| Object {
            label: &config.labels[class],
            score,
            area,
        };
        kept.into_iter().map(object).collect()
    }
}

/// Returns the overlap of two boxes: intersection over union, from 0 to 1.
fn common(a: Corners, b: Corners) -> f32 {
    let size = |c: Corners| (c.xmax - c.xmin).max(0.0) * (c.ymax - c.ymin).max(0.0);
    let both = size(Corners {
        xmin: a.xmin.max(b.xmin),
        ymin: a.ymin.max(b.ymin),
        xmax: a.xmax.min(b.xmax),
        ymax: a.ymax.min(b.ymax),
    });
    let all = size(a) + size(b) - both;
    if all > 0.0 { both / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::png_of;
    use crate::{Blob, Part};
    use serde_json::{Value, json};

    fn config(changes: Value) -> Value {
        let mut config = json!({ "input": "images", "width": 8, "height": 8, "form": "yolov8", "labels": ["cat", "dog"] });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn open(changes: Value) -> Result<Objects, String> {
        Objects::open("object-detection", config(changes).to_string().as_bytes())
    }

    /// Boxes as the model writes them: centre, size and the scores of two classes.
    fn output(form: Form, boxes: &[[f32; 6]]) -> Tensor {
        let count = boxes.len() as u64;
        match form {
            Form::Yolov8 => {
                let numbers: Vec<f32> = (0..6)
                    .flat_map(|at| boxes.iter().map(move |b| b[at]))
                    .collect();
                tensor("y", vec![1, 6, count], &numbers)
            }
            Form::Yolov5 => {
                let each = boxes
                    .iter()
                    .flat_map(|[x, y, w, h, a, b]| [*x, *y, *w, *h, 0.5, *a, *b]);
                tensor("y", vec![1, count, 7], &each.collect::<Vec<f32>>())
            }
        }
    }

    fn found(adapter: &Objects, image: &[u8], output: Tensor) -> Value {
        let body = Blob {
            media_type: Some("image/png"),
            body: image,
        };
        adapter
            .prepare(&[Item {
                parts: vec![Part::Image(body)],
            }])
            .unwrap();
        let Step::Answers(answers) = adapter.advance(vec![output]).unwrap() else {
            panic!()
        };
        serde_json::from_str(&answers[0].text).unwrap()
    }

    #[test]
    fn of_boxes_that_overlap_the_best_is_kept_in_pixels_of_the_image() {
        // 16 by 8 lies in rows 2 to 6 of 8 by 8, at half its size.
        let image = png_of(16, 8, png::ColorType::Grayscale, &[200; 128]);
        let boxes = [
            [2.0, 4.0, 2.0, 2.0, 0.9, 0.1],
            [2.1, 4.0, 2.0, 2.0, 0.8, 0.1],
            [2.0, 4.0, 2.0, 2.0, 0.1, 0.7],
            [6.0, 4.0, 9.0, 2.0, 0.3, 0.0],
            [6.0, 4.0, 1.0, 1.0, 0.2, 0.0],
        ];
        let answer = found(
            &open(json!({})).unwrap(),
            &image,
            output(Form::Yolov8, &boxes),
        );
        assert_eq!(
            (answer["width"].as_u64(), answer["height"].as_u64()),
            (Some(16), Some(8))
        );
        let objects = answer["objects"].as_array().unwrap();
        assert_eq!(objects.len(), 3, "{answer}");
        assert_eq!(
            objects[0]["box"],
            json!({ "xmin": 2.0, "ymin": 2.0, "xmax": 6.0, "ymax": 6.0 })
        );
        assert_eq!(objects[1]["label"], "dog");
        assert_eq!(objects[2]["box"]["xmax"], 16.0);
        let across = open(json!({ "across_classes": true })).unwrap();
        assert_eq!(
            found(&across, &image, output(Form::Yolov8, &boxes))["objects"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        let older = open(json!({ "form": "yolov5", "min_score": 0.4 })).unwrap();
        let objects = found(&older, &image, output(Form::Yolov5, &boxes))["objects"].clone();
        assert_eq!(objects.as_array().unwrap().len(), 1, "{objects}");
    }

    #[test]
    fn an_image_is_scaled_as_opencv_does_unless_the_configuration_says_otherwise() {
        let seen = |changes: Value| {
            let adapter = open(changes).unwrap();
            let side = 4 * adapter.config.width as usize;
            // Of four columns that become one, the two in the middle are white.
            let picture = Picture {
                width: side,
                height: side,
                channels: 1,
                bytes: (0..side * side)
                    .map(|at| if matches!(at % 4, 1 | 2) { 255 } else { 0 })
                    .collect(),
            };
            let mut numbers = Vec::new();
            adapter.append(&picture, &mut numbers);
            numbers[0]
        };
        assert!((seen(json!({})) - 1.0).abs() < 1e-3);
        let smooth = seen(json!({ "scaling": "smooth" }));
        assert!((0.4..0.8).contains(&smooth), "{smooth}");
    }

    #[test]
    fn outputs_and_configurations_that_do_not_fit_are_errors_and_no_panic() {
        let image = png_of(4, 4, png::ColorType::Grayscale, &[0; 16]);
        let adapter = open(json!({})).unwrap();
        for output in [
            tensor("y", vec![1, 5, 1], &[0.0; 5]),
            tensor("y", vec![6], &[0.0; 6]),
            tensor("y", vec![2, 6, 1], &[0.0; 12]),
        ] {
            let body = Blob {
                media_type: None,
                body: &image,
            };
            adapter
                .prepare(&[Item {
                    parts: vec![Part::Bytes(body)],
                }])
                .unwrap();
            assert!(adapter.advance(vec![output]).is_err());
        }
        assert!(adapter.advance(Vec::new()).is_err());
        assert_eq!(
            found(&adapter, &image, tensor("y", vec![1, 6, 0], &[]))["objects"],
            json!([])
        );
        for changes in [
            json!({ "width": 0 }),
            json!({ "labels": [] }),
            json!({ "min_score": 2 }),
            json!({ "form": "ssd" }),
            json!({ "more": 1 }),
        ] {
            assert!(open(changes.clone()).is_err(), "{changes}");
        }
    }
}
