//! Finds the lines of text of an image by the map of a detector like that of PaddleOCR (DBNet). A second model reads them:
//! the step `recognise` of the contract's pipeline, in batches over all images of the call.
//!
//! Follows RapidOCR 1.4 in the evaluation of the map. Contours are connected pixels here, and holes are ignored.

use crate::lines::Reading;
use crate::outputs::{config, floats, json, tensor};
use crate::picture::{Allowance, Area, MAX_PIXELS, Picture, Scaling, picture};
use crate::{Adapter, AdapterAnswer, AdapterRefusal, Item, RefusalKind, Step, each, only_part};
use penstock_tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::VecDeque;

/// The step of the pipeline that reads lines.
const RECOGNISE: &str = "recognise";
/// The most pixels of a detector's input.
const MAX_INPUT_PIXELS: usize = 4 << 20;
/// Both sides of a detector's input are multiples of this.
const STRIDE: usize = 32;
/// The least side of a line in the map, in pixels.
const MIN_SIDE: f64 = 3.0;
/// The most lines of an image.
const MAX_LINES: usize = 1_000;
/// The most lines of one run.
const MAX_BATCH: usize = 32;
/// The most pixels of all lines of a call. Overlapping boxes must not multiply the pixels of an image.
const MAX_LINE_PIXELS: usize = 2 * MAX_PIXELS as usize;
/// Lines whose tops differ by less than this, in pixels of the image, are ordered from left to right.
const SAME_LINE: f64 = 10.0;
/// A line that is taller than its width by this factor is rotated.
const UPRIGHT: f64 = 1.5;
/// The channels of the input: red, green and blue.
const DEPTH: usize = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    detect: Detect,
    recognise: Reading,
    /// Lines with a lower score are left out.
    #[serde(default = "half")]
    min_confidence: f32,
}

fn half() -> f32 {
    0.5
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detect {
    input: String,
    output: Option<String>,
    /// The shorter side is scaled up to this; larger images keep their size.
    min_side: u32,
    /// The longer side is scaled down to this.
    max_side: u32,
    /// The value of the map from which a pixel is text.
    threshold: f32,
    /// The least mean of a line's pixels.
    min_score: f32,
    /// The ratio by which a line is enlarged beyond its area in the map.
    unclip: f64,
}

/// A point in pixels of the image: from the left, from the top.
type Point = [f64; 2];
/// Four corners from the upper left, clockwise.
type Corners = [Point; 4];

/// A line that was found.
struct Found {
    item: usize,
    corners: Corners,
    score: f32,
    crop: Picture,
}

/// The state of the adapter between two steps.
#[derive(Default)]
struct State {
    pictures: Vec<Picture>,
    /// The picture whose map comes next, and the size of the detector's input.
    detecting: Option<(usize, usize, usize)>,
    found: Vec<Found>,
    /// The lines still to be read, by number, the narrowest first.
    waiting: VecDeque<usize>,
    /// The lines that are being read.
    reading: Vec<usize>,
    texts: Vec<Option<(String, f32)>>,
}

/// The adapter, opened with a configuration.
pub struct Ocr {
    config: Config,
    state: RefCell<State>,
}

#[derive(Serialize)]
struct Page<'a> {
    text: String,
    lines: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    confidence: f32,
    /// Its corners in pixels of the image, from the upper left, clockwise.
    #[serde(rename = "box")]
    corners: Corners,
    /// The score of the detector.
    score: f32,
}

impl Config {
    fn check(&self) -> Result<(), String> {
        let detect = &self.detect;
        if detect.min_side == 0 || detect.min_side > detect.max_side {
            return Err("`min_side` must be 1 to `max_side`".into());
        }
        let side = detect.max_side as usize + STRIDE;
        if side.saturating_mul(side) > MAX_INPUT_PIXELS {
            let most = (MAX_INPUT_PIXELS as f64).sqrt() as usize - STRIDE;
            return Err(format!("`max_side` must be at most {most}"));
        }
        let shares = [detect.threshold, detect.min_score, self.min_confidence];
        if !shares.iter().all(|share| (0.0..=1.0).contains(share))
            || !(0.0..=10.0).contains(&detect.unclip)
        {
            return Err("`threshold`, `min_score` and `min_confidence` must be 0 to 1, and `unclip` 0 to 10".into());
        }
        self.recognise.check()
    }
}

impl Adapter for Ocr {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let config: Config = config(name, bytes)?;
        config
            .check()
            .map_err(|e| format!("the configuration of adapter `{name}` is wrong: {e}"))?;
        Ok(Self {
            config,
            state: RefCell::default(),
        })
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let mut allowance = Allowance::default();
        let mut pixels = 0u64;
        let pictures = each(items, |item| {
            let part = only_part(item, "an image")?;
            let picture = picture(&part, false, &mut allowance).map_err(|kind| (Some(0), kind))?;
            // The images of the call stay in memory until their lines are cut out.
            pixels += (picture.width * picture.height) as u64;
            if pixels > MAX_PIXELS {
                return Err((
                    None,
                    RefusalKind::InvalidContent(format!(
                        "The images of a call may have {MAX_PIXELS} pixels together. Send fewer in one call."
                    )),
                ));
            }
            Ok(picture)
        })?;
        let mut state = State {
            pictures,
            ..State::default()
        };
        let step = self.next(&mut state).map_err(|message| AdapterRefusal {
            item: 0,
            part: None,
            kind: RefusalKind::InvalidContent(message),
        })?;
        self.state.replace(state);
        Ok(step)
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let mut state = self.state.take();
        if let Some(due) = state.detecting.take() {
            self.locate(&mut state, due, &outputs)?;
        } else if !state.reading.is_empty() {
            let reading = std::mem::take(&mut state.reading);
            let read = self.config.recognise.read(&outputs, reading.len())?;
            for (line, text) in reading.into_iter().zip(read) {
                state.texts[line] = Some(text);
            }
        } else {
            return Err("outputs were given, but the adapter requested no run".into());
        }
        let step = self.next(&mut state)?;
        self.state.replace(state);
        Ok(step)
    }
}

impl Ocr {
    /// Returns the next step for the item: a run of a model, or the answer.
    fn next(&self, state: &mut State) -> Result<Step, String> {
        let at = state
            .pictures
            .iter()
            .position(|picture| !picture.bytes.is_empty());
        if let Some(at) = at {
            let picture = &state.pictures[at];
            let (width, height) = self.size(picture);
            let input = self.seen(picture, width, height);
            state.detecting = Some((at, width, height));
            return Ok(Step::Tensors(vec![input]));
        }
        if state.texts.len() < state.found.len() {
            state.texts.resize(state.found.len(), None);
            let mut order: Vec<usize> = (0..state.found.len()).collect();
            order.sort_by_key(|line| self.config.recognise.width(&state.found[*line].crop));
            state.waiting = order.into();
        }
        if state.waiting.is_empty() {
            return self.answers(state).map(Step::Answers);
        }
        let mut batch = Vec::new();
        while let Some(line) = state.waiting.front() {
            let width = self.config.recognise.width(&state.found[*line].crop);
            let room = self
                .config
                .recognise
                .room(width.max(self.config.recognise.min_width as usize));
            if batch.len() >= room.min(MAX_BATCH) {
                break;
            }
            batch.push(*line);
            state.waiting.pop_front();
        }
        let empty = || Picture {
            width: 1,
            height: 1,
            channels: 1,
            bytes: Vec::new(),
        };
        let crops: Vec<Picture> = batch
            .iter()
            .map(|line| std::mem::replace(&mut state.found[*line].crop, empty()))
            .collect();
        state.reading = batch;
        let input = self.config.recognise.batch(&crops);
        Ok(Step::Other(RECOGNISE.to_owned(), vec![input]))
    }

    /// The size of the detector's input for a picture.
    fn size(&self, picture: &Picture) -> (usize, usize) {
        let (width, height) = (picture.width as f64, picture.height as f64);
        let (min, max) = (
            f64::from(self.config.detect.min_side),
            f64::from(self.config.detect.max_side),
        );
        let up = (min / width.min(height)).max(1.0);
        let ratio = up.min(max / width.max(height));
        let side = |length: f64| {
            let whole = (length * ratio).floor() / STRIDE as f64;
            (whole.round_ties_even() as usize * STRIDE).max(STRIDE)
        };
        (side(width), side(height))
    }

    fn seen(&self, picture: &Picture, width: usize, height: usize) -> Tensor {
        let area = Area {
            x: 0.0,
            y: 0.0,
            width: picture.width as f64,
            height: picture.height as f64,
        };
        let scaled = picture.scaled(area, width, height, Scaling::Linear);
        let mut numbers = Vec::with_capacity(DEPTH * width * height);
        for channel in 0..DEPTH {
            // Blue, green, red, as in OpenCV.
            let from = if picture.channels == 1 {
                0
            } else {
                DEPTH - 1 - channel
            };
            numbers.extend(
                scaled
                    .iter()
                    .skip(from)
                    .step_by(picture.channels)
                    .map(|v| v / 127.5 - 1.0),
            );
        }
        tensor(
            &self.config.detect.input,
            vec![1, DEPTH as u64, height as u64, width as u64],
            &numbers,
        )
    }

    /// Finds the lines of a picture in its map and cuts them out.
    fn locate(
        &self,
        state: &mut State,
        (item, width, height): (usize, usize, usize),
        outputs: &[Tensor],
    ) -> Result<(), String> {
        let detect = &self.config.detect;
        let map = floats(
            outputs,
            detect.output.as_deref(),
            &[1, 1, height as u64, width as u64],
        )?;
        let picture = std::mem::replace(
            &mut state.pictures[item],
            Picture {
                width: 1,
                height: 1,
                channels: 1,
                bytes: Vec::new(),
            },
        );
        let (across, down) = (
            picture.width as f64 / width as f64,
            picture.height as f64 / height as f64,
        );
        let mut lines: Vec<(Corners, f32)> = Vec::new();
        for pixels in components(&map, width, height, detect.threshold) {
            let Some(shown) = tightest(&pixels) else {
                continue;
            };
            if shown.side() < MIN_SIDE {
                continue;
            }
            let score = mean(&map, (width, height), &shown.corners());
            if score < detect.min_score {
                continue;
            }
            let around = shown.widened(detect.unclip);
            if around.side() < MIN_SIDE + 2.0 {
                continue;
            }
            let corners = around.corners().map(|[x, y]| {
                [
                    (x * across).round().clamp(0.0, picture.width as f64),
                    (y * down).round().clamp(0.0, picture.height as f64),
                ]
            });
            lines.push((corners, score));
            if lines.len() == MAX_LINES {
                break;
            }
        }
        in_reading_order(&mut lines);
        let mut pixels: usize = state
            .found
            .iter()
            .map(|found| found.crop.width * found.crop.height)
            .sum();
        for (corners, score) in lines {
            let Some((width, height)) = extent(&corners) else {
                continue;
            };
            pixels += width * height;
            if pixels > MAX_LINE_PIXELS {
                break;
            }
            let crop = cut_out(&picture, &corners, width, height);
            state.found.push(Found {
                item,
                corners,
                score,
                crop,
            });
        }
        Ok(())
    }

    fn answers(&self, state: &mut State) -> Result<Vec<AdapterAnswer>, String> {
        let items = state.pictures.len();
        let answers = (0..items).map(|item| {
            let of_item = state
                .found
                .iter()
                .zip(&state.texts)
                .filter(|(found, _)| found.item == item);
            let lines: Vec<Line<'_>> = of_item
                .filter_map(|(found, text)| {
                    let (text, confidence) = text.as_ref()?;
                    let sure = *confidence >= self.config.min_confidence;
                    sure.then_some(Line {
                        text,
                        confidence: *confidence,
                        corners: found.corners,
                        score: found.score,
                    })
                })
                .collect();
            let text: Vec<&str> = lines.iter().map(|line| line.text).collect();
            Ok(AdapterAnswer {
                text: json(&Page {
                    text: text.join("\n"),
                    lines,
                })?,
                units: 0,
            })
        });
        answers.collect()
    }
}

/// Orders lines from top to bottom, and those of one height from left to right.
fn in_reading_order(lines: &mut [(Corners, f32)]) {
    lines.sort_by(|(a, _), (b, _)| {
        a[0][1]
            .total_cmp(&b[0][1])
            .then(a[0][0].total_cmp(&b[0][0]))
    });
    for last in 1..lines.len() {
        for at in (0..last).rev() {
            let (above, below) = (lines[at].0[0], lines[at + 1].0[0]);
            if (below[1] - above[1]).abs() >= SAME_LINE || below[0] >= above[0] {
                break;
            }
            lines.swap(at, at + 1);
        }
    }
}

/// Connected pixels of text; for each component the outermost pixels of every row.
fn components(map: &[f32], width: usize, height: usize, threshold: f32) -> Vec<Vec<Point>> {
    // Each pixel of text also marks its neighbours on the right and below (a dilation by 2 by 2).
    let is_text = |x: usize, y: usize| map[y * width + x] > threshold;
    let mut open: Vec<bool> = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let left = x > 0 && is_text(x - 1, y);
            let above = y > 0 && (is_text(x, y - 1) || (x > 0 && is_text(x - 1, y - 1)));
            open.push(is_text(x, y) || left || above);
        }
    }
    let mut found = Vec::new();
    let mut stack = Vec::new();
    for start in 0..open.len() {
        if !open[start] || found.len() == MAX_LINES {
            continue;
        }
        // The hull needs only the least and the greatest column of each row.
        let mut rows: std::collections::BTreeMap<usize, (usize, usize)> = Default::default();
        open[start] = false;
        stack.push(start);
        while let Some(at) = stack.pop() {
            let (x, y) = (at % width, at / width);
            let row = rows.entry(y).or_insert((x, x));
            *row = (row.0.min(x), row.1.max(x));
            for near_y in y.saturating_sub(1)..(y + 2).min(height) {
                for near_x in x.saturating_sub(1)..(x + 2).min(width) {
                    let near = near_y * width + near_x;
                    if std::mem::take(&mut open[near]) {
                        stack.push(near);
                    }
                }
            }
        }
        let ends = rows
            .into_iter()
            .flat_map(|(y, (from, to))| [[from as f64, y as f64], [to as f64, y as f64]]);
        found.push(ends.collect());
    }
    found
}

/// A rotated rectangle: its middle, its axes of length 1 and half its sides.
#[derive(Clone, Copy, Debug)]
struct Rectangle {
    middle: Point,
    axis: Point,
    half: Point,
}

impl Rectangle {
    /// Returns the length of the shorter side.
    fn side(&self) -> f64 {
        2.0 * self.half[0].min(self.half[1])
    }

    /// The rectangle with a border on all sides. Its width is the area divided by the perimeter, times `ratio`.
    fn widened(&self, ratio: f64) -> Self {
        let [a, b] = self.half;
        let border = if a + b > 0.0 {
            a * b * ratio / (a + b)
        } else {
            0.0
        };
        Self {
            half: [a + border, b + border],
            ..*self
        }
    }

    /// Returns the corners clockwise. The first is the upper one of the two corners on the left.
    fn corners(&self) -> Corners {
        let ([x, y], [ax, ay], [a, b]) = (self.middle, self.axis, self.half);
        let corner = |s: f64, t: f64| [x + s * a * ax - t * b * ay, y + s * a * ay + t * b * ax];
        let mut all = [
            corner(-1.0, -1.0),
            corner(1.0, -1.0),
            corner(1.0, 1.0),
            corner(-1.0, 1.0),
        ];
        all.sort_by(|p, q| p[0].total_cmp(&q[0]));
        let [l1, l2, r1, r2] = all;
        let (tl, bl) = if l2[1] > l1[1] { (l1, l2) } else { (l2, l1) };
        let (tr, br) = if r2[1] > r1[1] { (r1, r2) } else { (r2, r1) };
        [tl, tr, br, bl]
    }
}

/// The rectangle of the least area around some points.
fn tightest(points: &[Point]) -> Option<Rectangle> {
    let hull = hull(points);
    let mut best: Option<(f64, Rectangle)> = None;
    for (at, from) in hull.iter().enumerate() {
        let to = hull[(at + 1) % hull.len()];
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let length = dx.hypot(dy);
        if length == 0.0 {
            continue;
        }
        let axis = [dx / length, dy / length];
        let along = |p: &Point| p[0] * axis[0] + p[1] * axis[1];
        let beside = |p: &Point| p[1] * axis[0] - p[0] * axis[1];
        let ends = |read: &dyn Fn(&Point) -> f64| {
            hull.iter()
                .map(read)
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
                    (a.min(v), b.max(v))
                })
        };
        let ((a, b), (c, d)) = (ends(&along), ends(&beside));
        let (s, t) = ((a + b) / 2.0, (c + d) / 2.0);
        let rectangle = Rectangle {
            middle: [s * axis[0] - t * axis[1], s * axis[1] + t * axis[0]],
            axis,
            half: [(b - a) / 2.0, (d - c) / 2.0],
        };
        let area = (b - a) * (d - c);
        if best.is_none_or(|(least, _)| area < least) {
            best = Some((area, rectangle));
        }
    }
    best.map(|(_, rectangle)| rectangle)
}

/// The convex hull (Andrew's monotone chain).
fn hull(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    sorted.dedup();
    if sorted.len() < 3 {
        return sorted;
    }
    let half = |points: &mut dyn Iterator<Item = &Point>| {
        let mut chain: Vec<Point> = Vec::new();
        for p in points {
            while let [.., a, b] = chain[..] {
                if (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0.0 {
                    break;
                }
                chain.pop();
            }
            chain.push(*p);
        }
        chain.pop();
        chain
    };
    let mut whole = half(&mut sorted.iter());
    whole.extend(half(&mut sorted.iter().rev()));
    whole
}

/// The mean of the map within four corners.
fn mean(map: &[f32], (width, height): (usize, usize), corners: &Corners) -> f32 {
    let range = |axis: usize, length: usize| {
        let values = corners.iter().map(|p| p[axis]);
        let least = values
            .clone()
            .fold(f64::INFINITY, f64::min)
            .floor()
            .max(0.0) as usize;
        let most = values.fold(0.0, f64::max).ceil().min(length as f64 - 1.0) as usize;
        least..most + 1
    };
    // With a margin of half a pixel: pixels on the border belong to the line.
    const ROOM: f64 = 0.5;
    let inside = |x: f64, y: f64| {
        (0..4).all(|at| {
            let (a, b) = (corners[at], corners[(at + 1) % 4]);
            let length = (b[0] - a[0]).hypot(b[1] - a[1]);
            (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) >= -ROOM * length
        })
    };
    let (mut sum, mut count) = (0.0f64, 0u32);
    for y in range(1, height) {
        for x in range(0, width) {
            if inside(x as f64, y as f64) {
                sum += f64::from(map[y * width + x]);
                count += 1;
            }
        }
    }
    if count == 0 {
        0.0
    } else {
        (sum / f64::from(count)) as f32
    }
}

/// The width and the height of a line in whole pixels; `None` if it is empty.
fn extent(corners: &Corners) -> Option<(usize, usize)> {
    let [tl, tr, br, bl] = corners;
    let length = |a: &Point, b: &Point| (b[0] - a[0]).hypot(b[1] - a[1]);
    let width = length(tl, tr).max(length(bl, br)) as usize;
    let height = length(tl, bl).max(length(tr, br)) as usize;
    (width > 0 && height > 0).then_some((width, height))
}

/// Cuts a line out as a straight image, and rotates it if it is upright.
fn cut_out(picture: &Picture, corners: &Corners, width: usize, height: usize) -> Picture {
    let [tl, tr, _, bl] = corners;
    let channels = picture.channels;
    let turned = height as f64 / width as f64 >= UPRIGHT;
    let (wide, high) = if turned {
        (height, width)
    } else {
        (width, height)
    };
    let mut bytes = Vec::with_capacity(wide * high * channels);
    for y in 0..high {
        for x in 0..wide {
            // Rotated counterclockwise.
            let (u, v) = if turned { (width - 1 - y, x) } else { (x, y) };
            let (s, t) = (u as f64 / width as f64, v as f64 / height as f64);
            let from_x = tl[0] + s * (tr[0] - tl[0]) + t * (bl[0] - tl[0]);
            let from_y = tl[1] + s * (tr[1] - tl[1]) + t * (bl[1] - tl[1]);
            let (x0, y0) = (from_x.floor(), from_y.floor());
            let (across, down) = (cubic(from_x - x0), cubic(from_y - y0));
            for channel in 0..channels {
                let mut sum = 0.0;
                for (dy, weight_y) in down.iter().enumerate() {
                    let y = edge(y0 + dy as f64 - 1.0, picture.height);
                    for (dx, weight_x) in across.iter().enumerate() {
                        let x = edge(x0 + dx as f64 - 1.0, picture.width);
                        let value = picture.bytes[(y * picture.width + x) * channels + channel];
                        sum += f64::from(value) * weight_x * weight_y;
                    }
                }
                bytes.push(sum.round().clamp(0.0, 255.0) as u8);
            }
        }
    }
    Picture {
        width: wide,
        height: high,
        channels,
        bytes,
    }
}

/// The index of a pixel, clamped to the picture.
fn edge(at: f64, length: usize) -> usize {
    (at.max(0.0) as usize).min(length - 1)
}

/// The weights of four neighbours at `t` after the second of them (cubic convolution, as in OpenCV).
fn cubic(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::png_of;
    use crate::{Blob, Part};
    use serde_json::{Value, json};

    fn config() -> Value {
        json!({
            "detect": { "input": "x", "min_side": 32, "max_side": 128, "threshold": 0.3, "min_score": 0.5, "unclip": 1.6 },
            "recognise": {
                "input": "x", "height": 8, "min_width": 16, "max_width": 64, "step": 8, "characters": ["a", "b"],
            },
        })
    }

    fn item(bytes: &[u8]) -> Item<'_> {
        Item {
            parts: vec![Part::Image(Blob {
                media_type: None,
                body: bytes,
            })],
        }
    }

    /// A map with text in some rectangles: from, to, in pixels.
    fn map(width: usize, height: usize, marks: &[[usize; 4]]) -> Tensor {
        let mut numbers = vec![0.0f32; width * height];
        for [x0, y0, x1, y1] in marks {
            for y in *y0..*y1 {
                numbers[y * width + x0..y * width + x1].fill(0.9);
            }
        }
        tensor("map", vec![1, 1, height as u64, width as u64], &numbers)
    }

    #[test]
    fn lines_of_all_images_are_read_in_one_batch_in_reading_order() {
        let image = png_of(64, 64, png::ColorType::Grayscale, &[255; 64 * 64]);
        let ocr = Ocr::open("ocr", config().to_string().as_bytes()).unwrap();
        let Step::Tensors(first) = ocr.prepare(&[item(&image), item(&image)]).unwrap() else {
            panic!()
        };
        assert_eq!(first[0].shape, [1, 3, 64, 64]);
        let marks = [[34, 10, 60, 18], [4, 12, 28, 20], [4, 40, 60, 50]];
        assert!(matches!(
            ocr.advance(vec![map(64, 64, &marks)]),
            Ok(Step::Tensors(_))
        ));
        let Step::Other(step, inputs) =
            ocr.advance(vec![map(64, 64, &[[10, 10, 50, 20]])]).unwrap()
        else {
            panic!()
        };
        assert_eq!((step.as_str(), inputs[0].shape[0]), ("recognise", 4));
        // Every line spells `ab`, and the narrowest, which comes first, is not sure of it.
        let mut scores = Vec::new();
        for line in 0..4 {
            let sure = if line == 0 { 0.4 } else { 0.8f32 };
            scores.extend([0.0, sure, 0.1, 0.0, 0.1, sure]);
        }
        let Step::Answers(answers) = ocr
            .advance(vec![tensor("y", vec![4, 2, 3], &scores)])
            .unwrap()
        else {
            panic!()
        };
        let pages: Vec<Value> = answers
            .iter()
            .map(|a| serde_json::from_str(&a.text).unwrap())
            .collect();
        assert_eq!(pages[1]["text"], "ab");
        let lines = pages[0]["lines"].as_array().unwrap();
        assert_eq!(lines.len(), 2, "{}", pages[0]);
        assert_eq!(pages[0]["text"], "ab\nab");
        assert!(lines[0]["box"][0][1].as_f64().unwrap() < lines[1]["box"][0][1].as_f64().unwrap());
        assert!(lines[0]["score"].as_f64().unwrap() > 0.7);
    }

    #[test]
    fn a_rectangle_lies_tight_around_what_is_turned_and_is_widened_evenly() {
        let points: Vec<Point> = (0..20)
            .flat_map(|s| (0..5).map(move |t| [f64::from(s - t), f64::from(s + t)]))
            .collect();
        let found = tightest(&points).unwrap();
        let sides = [2.0 * found.half[0], 2.0 * found.half[1]];
        let (long, short) = (sides[0].max(sides[1]), sides[0].min(sides[1]));
        assert!(
            (long - 19.0 * 2f64.sqrt()).abs() < 1e-9 && (short - 4.0 * 2f64.sqrt()).abs() < 1e-9,
            "{sides:?}"
        );
        let wider = found.widened(1.6);
        let border = long * short * 1.6 / (2.0 * (long + short));
        assert!((wider.side() - (short + 2.0 * border)).abs() < 1e-9);
        assert!(tightest(&[[1.0, 1.0]]).is_none());
    }

    #[test]
    fn lines_of_one_height_are_read_from_left_to_right() {
        let line = |x: f64, y: f64| ([[x, y]; 4], 1.0);
        let mut lines = vec![
            line(50.0, 10.0),
            line(5.0, 14.0),
            line(1.0, 40.0),
            line(90.0, 12.0),
        ];
        in_reading_order(&mut lines);
        let places: Vec<f64> = lines.iter().map(|(corners, _)| corners[0][0]).collect();
        assert_eq!(places, [5.0, 50.0, 90.0, 1.0]);
    }

    #[test]
    fn an_image_without_text_has_no_lines_and_wrong_outputs_are_errors() {
        let image = png_of(40, 40, png::ColorType::Grayscale, &[0; 1600]);
        let ocr = Ocr::open("ocr", config().to_string().as_bytes()).unwrap();
        let Step::Tensors(input) = ocr.prepare(&[item(&image)]).unwrap() else {
            panic!()
        };
        let (h, w) = (input[0].shape[2] as usize, input[0].shape[3] as usize);
        let Step::Answers(answers) = ocr.advance(vec![map(w, h, &[])]).unwrap() else {
            panic!()
        };
        assert_eq!(answers[0].text, r#"{"text":"","lines":[]}"#);
        assert!(ocr.advance(Vec::new()).is_err());
        ocr.prepare(&[item(&image)]).unwrap();
        assert!(ocr.advance(vec![map(8, 8, &[])]).is_err());
        for (place, value) in [
            ("/detect/min_side", json!(0)),
            ("/detect/max_side", json!(90_000)),
            ("/detect/unclip", json!(99)),
            ("/recognise/height", json!(0)),
        ] {
            let mut changed = config();
            *changed.pointer_mut(place).unwrap() = value;
            assert!(
                Ocr::open("ocr", changed.to_string().as_bytes()).is_err(),
                "{place}"
            );
        }
    }
}
