//! Turns a PNG or JPEG of a handwritten digit into the model's input: 8 by 8 numbers from 0 for paper to 16 for ink, as in
//! its training data.
//!
//! * If the edge of the image is darker than half, the paper is dark: light pixels are ink.
//! * An image of 8 by 8 pixels is used unchanged.
//! * Of any other image, the drawing is cut out, centred, and scaled until it fills the height or the width. Its darkest
//!   value becomes 16.

use crate::outputs::{classified, config, floats, tensor};
use crate::picture::{Allowance, Area, Picture, Scaling, picture};
use crate::{Adapter, AdapterRefusal, Item, RefusalKind, Step, each, only_part};
use penstock_tensor::Tensor;
use serde::Deserialize;
use std::cell::Cell;

/// Rows and columns of the model's input.
const SIDE: usize = 8;
/// The number for full ink in the model's input.
const INK: f32 = 16.0;
/// The name of the model's input.
const INPUT: &str = "pixels";
/// The number of classes: the digits 0 to 9.
const DIGITS: usize = 10;
/// Rows and columns to which a drawing is scaled first.
const SHEET: usize = 64;
/// The least darkness of ink, as a part of the darkest pixel. Fainter pixels do not extend the drawing.
const FAINTEST: f32 = 0.2;
/// The least difference of paper and ink, as a part of that between black and white. Less is a blank sheet.
const MIN_CONTRAST: f32 = 0.1;

/// There is nothing to configure.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {}

/// The adapter for images of a handwritten digit.
pub struct Digits {
    labels: Vec<String>,
    /// The number of items of the requested run.
    running: Cell<u64>,
}

impl Adapter for Digits {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let Config {} = config(name, bytes)?;
        Ok(Self {
            labels: (0..DIGITS).map(|digit| digit.to_string()).collect(),
            running: Cell::default(),
        })
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let mut allowance = Allowance::default();
        let mut numbers: Vec<f32> = Vec::with_capacity(items.len() * SIDE * SIDE);
        each(items, |item| {
            let part = only_part(item, "an image")?;
            let seen = picture(&part, true, &mut allowance)
                .and_then(|picture| seen(&picture))
                .map_err(|kind| (Some(0), kind))?;
            numbers.extend(seen);
            Ok(())
        })?;
        self.running.set(items.len() as u64);
        if items.is_empty() {
            return Ok(Step::Answers(Vec::new()));
        }
        let shape = vec![items.len() as u64, (SIDE * SIDE) as u64];
        Ok(Step::Tensors(vec![tensor(INPUT, shape, &numbers)]))
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let running = self.running.take();
        if running == 0 {
            return Err("outputs were given, but the adapter requested no run".into());
        }
        let scores = floats(&outputs, None, &[running, DIGITS as u64])?;
        classified(&scores, &self.labels)
    }
}

/// The model's input for a grey picture.
fn seen(picture: &Picture) -> Result<[f32; SIDE * SIDE], RefusalKind> {
    let (width, height) = (picture.width, picture.height);
    let mut ink = Picture {
        width,
        height,
        channels: 1,
        bytes: picture.bytes.clone(),
    };
    if !paper_is_dark(picture) {
        ink.bytes.iter_mut().for_each(|value| *value = 255 - *value);
    }
    let most = ink.bytes.iter().copied().max().unwrap_or(0);
    let least = ink.bytes.iter().copied().min().unwrap_or(0);
    if f32::from(most - least) < MIN_CONTRAST * 255.0 {
        return Err(RefusalKind::InvalidContent(
            "The image is blank: all its pixels have the same shade. Send an image with a digit."
                .into(),
        ));
    }
    let mut seen = [0.0; SIDE * SIDE];
    if (width, height) == (SIDE, SIDE) {
        for (to, from) in seen.iter_mut().zip(&ink.bytes) {
            *to = f32::from(*from) * INK / 255.0;
        }
        return Ok(seen);
    }
    // Paper is not perfectly white; ignore its grain.
    ink.bytes
        .iter_mut()
        .for_each(|value| *value = value.saturating_sub(least));
    let faintest = f32::from(most - least) * FAINTEST;
    let (mut left, mut right, mut top, mut bottom) = (width, 0, height, 0);
    for (at, value) in ink.bytes.iter().enumerate() {
        if f32::from(*value) >= faintest {
            (left, right) = (left.min(at % width), right.max(at % width));
            (top, bottom) = (top.min(at / width), bottom.max(at / width));
        }
    }
    let (box_width, box_height) = (right - left + 1, bottom - top + 1);
    let area = Area {
        x: left as f64,
        y: top as f64,
        width: box_width as f64,
        height: box_height as f64,
    };
    // Scale the drawing onto a larger sheet first, and then scale the sheet to the model's size. In one step, widths would
    // be rounded to eighths.
    let longer = box_width.max(box_height) as f64;
    let side = |length: usize| {
        let scaled = (length as f64 * SHEET as f64 / longer).round() as usize;
        scaled.clamp(1, SHEET)
    };
    let (to_width, to_height) = (side(box_width), side(box_height));
    let (x, y) = ((SHEET - to_width) / 2, (SHEET - to_height) / 2);
    let mut sheet = Picture {
        width: SHEET,
        height: SHEET,
        channels: 1,
        bytes: vec![0; SHEET * SHEET],
    };
    let drawn = ink.scaled(area, to_width, to_height, Scaling::Smooth);
    for (row, values) in drawn.chunks_exact(to_width).enumerate() {
        let at = (y + row) * SHEET + x;
        for (to, value) in sheet.bytes[at..at + to_width].iter_mut().zip(values) {
            *to = value.round() as u8;
        }
    }
    let whole = Area {
        x: 0.0,
        y: 0.0,
        width: SHEET as f64,
        height: SHEET as f64,
    };
    let scaled = sheet.scaled(whole, SIDE, SIDE, Scaling::Smooth);
    let darkest = scaled.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    for (to, value) in seen.iter_mut().zip(scaled) {
        // Rounding must not leave the contract's bounds.
        *to = (value * INK / darkest).clamp(0.0, INK);
    }
    Ok(seen)
}

/// Returns whether the picture's edge is darker than half.
fn paper_is_dark(picture: &Picture) -> bool {
    let (width, height) = (picture.width, picture.height);
    let rows = [0, height - 1];
    let edge = rows
        .iter()
        .flat_map(|row| &picture.bytes[row * width..(row + 1) * width])
        .chain(
            picture
                .bytes
                .chunks_exact(width)
                .flat_map(|row| [&row[0], &row[width - 1]]),
        );
    let (sum, count) = edge.fold((0u64, 0u64), |(sum, count), value| {
        (sum + u64::from(*value), count + 1)
    });
    sum < count * 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::png_of;
    use crate::{Blob, Part};

    fn grey(width: usize, height: usize, value: impl Fn(usize, usize) -> u8) -> Vec<u8> {
        let bytes: Vec<u8> = (0..width * height)
            .map(|at| value(at % width, at / width))
            .collect();
        png_of(
            width as u32,
            height as u32,
            png::ColorType::Grayscale,
            &bytes,
        )
    }

    fn item(body: &[u8]) -> Item<'_> {
        Item {
            parts: vec![Part::Bytes(Blob {
                media_type: Some("image/png"),
                body,
            })],
        }
    }

    fn digits() -> Digits {
        Digits::open("digits", b"").unwrap()
    }

    fn seen(body: &[u8]) -> Vec<f32> {
        match digits().prepare(&[item(body)]) {
            Ok(Step::Tensors(tensors)) => {
                assert_eq!(tensors[0].shape, [1, 64]);
                let numbers = tensors[0].data.as_chunks::<4>().0.iter();
                numbers.map(|b| f32::from_le_bytes(*b)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_image_of_the_models_size_is_taken_as_it_is() {
        let sheet = seen(&grey(8, 8, |x, y| {
            if (2..6).contains(&x) {
                255 - 17 * y as u8
            } else {
                255
            }
        }));
        assert_eq!(
            (sheet[0], sheet[2], sheet[3 + 8 * 7]),
            (0.0, 0.0, 17.0 * 7.0 * 16.0 / 255.0)
        );
    }

    #[test]
    fn a_drawing_fills_the_height_in_the_middle_on_light_and_on_dark_paper() {
        // A bar of 10 by 40 somewhere on a sheet of 100 by 90.
        let drawn = |x: usize, y: usize| (60..70).contains(&x) && (30..70).contains(&y);
        let light = seen(&grey(100, 90, |x, y| if drawn(x, y) { 20 } else { 240 }));
        let dark = seen(&grey(100, 90, |x, y| if drawn(x, y) { 240 } else { 20 }));
        for sheet in [light, dark] {
            for (at, value) in sheet.iter().enumerate() {
                let wanted = if (3..5).contains(&(at % 8)) {
                    16.0
                } else {
                    0.0
                };
                // Its edge is blurred by the scaling.
                assert!((value - wanted).abs() < 2.5, "{at}: {value}");
            }
        }
    }

    #[test]
    fn a_blank_sheet_is_refused() {
        for shade in [0, 90, 255] {
            let refusal = digits().prepare(&[item(&grey(20, 20, |_, _| shade))]);
            assert!(matches!(
                refusal.unwrap_err().kind,
                RefusalKind::InvalidContent(_)
            ));
        }
    }

    #[test]
    fn every_picture_becomes_numbers_within_the_contract_or_is_refused() {
        for (width, height) in [(1, 1), (1, 50), (50, 1), (2, 2), (8, 9), (300, 3)] {
            for seed in 0..16usize {
                let file = grey(width, height, |x, y| {
                    ((x * 7 + y * 13 + 3) * (seed + 1) * 41 % 256) as u8
                });
                match digits().prepare(&[item(&file)]) {
                    Ok(Step::Tensors(tensors)) => {
                        for number in tensors[0].data.as_chunks::<4>().0 {
                            assert!((0.0..=16.0).contains(&f32::from_le_bytes(*number)));
                        }
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(refusal) => assert!(matches!(refusal.kind, RefusalKind::InvalidContent(_))),
                }
            }
        }
    }

    #[test]
    fn a_configuration_has_nothing_to_say() {
        assert!(Digits::open("digits", b"{}").is_ok());
        assert!(Digits::open("digits", b"{\"width\":8}").is_err());
    }
}
