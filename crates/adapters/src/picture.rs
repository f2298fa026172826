//! Decodes images: PNG and JPEG, rotated by their EXIF data, as grey or as red, green and blue. Transparent pixels get a white
//! background. Sizes are checked by the header, before anything is decoded or allocated.
//!
//! A truncated image is refused. Decoders invent the missing part, and a classifier would answer about that.

use crate::{Blob, Part, RefusalKind};
use png::Transformations;
use serde::Deserialize;
use std::io::Cursor;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// The most pixels of an image: those of a phone's camera. The worst case, a progressive JPEG in four colours, takes 12 bytes
/// per pixel while it is decoded, which fits into an instance of the usual size.
pub const MAX_PIXELS: u64 = 12 << 20;
/// The longest side in pixels. A strip of this length is scaled down within the memory of a square image.
pub const MAX_SIDE: u64 = 16_384;
/// The most pixels of all images of one call. A few kilobytes can decode to a full image, and a body full of these would
/// take a minute.
pub const MAX_CALL_PIXELS: u64 = 4 * MAX_PIXELS;
/// The most scans of a progressive JPEG. Ten are usual, and each covers the whole image.
const MAX_JPEG_SCANS: usize = 64;
/// The most pieces of extended metadata in a JPEG. The decoder sorts all of them for each.
const MAX_JPEG_EXTENSIONS: usize = 256;
/// The memory of the PNG decoder beside the pixels, in bytes: a few rows and small chunks.
const PNG_BYTES: usize = 16 << 20;
/// The message for content that is neither PNG nor JPEG.
const TAKES: &str = "This model takes images, as image/png or image/jpeg.";

/// Bits of ones, with a zero byte after each byte, as in the data of a JPEG. They are more than a decoder reads ahead.
const ONES: &[u8] = &[
    0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0,
];
/// The channels of a pixel with opacity.
const RGBA: usize = 4;
const EXTENSION: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";

/// A decoded image, as the bytes of its pixels.
pub struct Picture {
    /// Number of pixels in a row.
    pub width: usize,
    /// Number of rows from top to bottom.
    pub height: usize,
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// A byte for each channel of each pixel, row by row.
    pub bytes: Vec<u8>,
}

/// The pixels that the images of a call may still have.
pub struct Allowance(u64);

impl Default for Allowance {
    fn default() -> Self {
        Self(MAX_CALL_PIXELS)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
}

impl Format {
    fn of(body: &[u8]) -> Option<Self> {
        if body.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if body.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
        }
    }
}

/// Decodes the image of a part. `grey` asks for one channel; a grey image always has one channel.
pub fn picture(
    part: &Part<'_>,
    grey: bool,
    allowance: &mut Allowance,
) -> Result<Picture, RefusalKind> {
    let (Part::Image(blob) | Part::Bytes(blob)) = part else {
        return Err(RefusalKind::UnsupportedMediaType(TAKES.into()));
    };
    let format = format(blob)?;
    let mut picture = match format {
        Format::Png => png(blob.body, allowance),
        Format::Jpeg => jpeg(blob.body, allowance),
    }?;
    if grey && picture.channels == 3 {
        let (mut from, mut to) = (0, 0);
        while let Some([r, g, b]) = picture.bytes.get(from..from + 3) {
            picture.bytes[to] = luma(*r, *g, *b);
            (from, to) = (from + 3, to + 1);
        }
        picture.bytes.truncate(to);
        picture.channels = 1;
    }
    Ok(picture)
}

/// The type of the content, if it agrees with the caller's.
fn format(blob: &Blob<'_>) -> Result<Format, RefusalKind> {
    let stated = blob
        .media_type
        .map(|stated| stated.split(';').next().unwrap_or_default().trim())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let stated = match stated.as_str() {
        "" | "application/octet-stream" | "image/*" => None,
        "image/png" => Some(Format::Png),
        "image/jpeg" | "image/jpg" => Some(Format::Jpeg),
        _ => return Err(RefusalKind::UnsupportedMediaType(TAKES.into())),
    };
    match (stated, Format::of(blob.body)) {
        (None, Some(found)) => Ok(found),
        (Some(stated), Some(found)) if stated == found => Ok(found),
        (None, None) => Err(RefusalKind::UnsupportedMediaType(TAKES.into())),
        (Some(stated), Some(found)) => Err(invalid(format!(
            "The declared content type is {}, but the content is {}.",
            stated.name(),
            found.name()
        ))),
        (Some(stated), None) => Err(invalid(format!(
            "The declared content type is {}, but the content does not begin with its signature.",
            stated.name()
        ))),
    }
}

fn invalid(text: String) -> RefusalKind {
    RefusalKind::InvalidContent(text)
}

/// Subtracts an image of this size from the allowance. The error says why it does not fit.
fn admit(width: u64, height: u64, allowance: &mut Allowance) -> Result<(), RefusalKind> {
    let pixels = width.saturating_mul(height);
    if pixels == 0 {
        return Err(invalid("The image has no pixels.".into()));
    }
    if width.max(height) > MAX_SIDE || pixels > MAX_PIXELS {
        return Err(invalid(format!(
            "The image has {width} by {height} pixels; at most {MAX_SIDE} per side and {MAX_PIXELS} in total are \
             accepted. Scale it down first."
        )));
    }
    allowance.0 = allowance.0.checked_sub(pixels).ok_or_else(|| {
        invalid(format!(
            "The images of this call have more than {MAX_CALL_PIXELS} pixels together. Scale them down or \
             send fewer in one call."
        ))
    })?;
    Ok(())
}

fn png(body: &[u8], allowance: &mut Allowance) -> Result<Picture, RefusalKind> {
    let broken = |e: png::DecodingError| invalid(format!("The PNG cannot be read: {e}."));
    let limits = png::Limits { bytes: PNG_BYTES };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(body), limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(broken)?;
    admit(header.width.into(), header.height.into(), allowance)?;
    let indexed = header.color_type == png::ColorType::Indexed;
    if indexed {
        // The decoder turns an index outside the palette into black. `coloured` refuses it.
        decoder.set_transformations(Transformations::IDENTITY);
    }
    let mut reader = decoder.read_info().map_err(broken)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| invalid("The PNG is too large.".into()))?;
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(broken)?;
    reader.finish().map_err(broken)?;
    let info = reader.info();
    let orientation = info.exif_metadata.as_deref().and_then(orientation);
    let mut channels = frame.color_type.samples();
    if indexed {
        bytes = coloured(&bytes, &frame, info)?;
        channels = RGBA;
    }
    // Put transparent pixels on white. The bytes move towards the front of the same memory.
    let mut to = 0;
    if let 2 | 4 = channels {
        for from in (0..bytes.len() - bytes.len() % channels).step_by(channels) {
            let opacity = u32::from(bytes[from + channels - 1]);
            for channel in 0..channels - 1 {
                let over = u32::from(bytes[from + channel]) * opacity + 255 * (255 - opacity);
                bytes[to] = ((over + 127) / 255) as u8;
                to += 1;
            }
        }
        bytes.truncate(to);
    }
    let picture = Picture {
        width: frame.width as usize,
        height: frame.height as usize,
        channels: if channels < 3 { 1 } else { 3 },
        bytes,
    };
    if picture.bytes.len() != picture.width * picture.height * picture.channels {
        return Err(invalid(
            "The PNG's first frame is not the whole image.".into(),
        ));
    }
    Ok(picture.turned(orientation.unwrap_or(1)))
}

/// The pixels of an image with a palette: red, green, blue and opacity.
fn coloured(
    packed: &[u8],
    frame: &png::OutputInfo,
    info: &png::Info<'_>,
) -> Result<Vec<u8>, RefusalKind> {
    let (palette, _) = info.palette.as_deref().unwrap_or_default().as_chunks::<3>();
    let opacities = info.trns.as_deref().unwrap_or_default();
    let bits = frame.bit_depth as usize;
    let width = frame.width as usize;
    let mut pixels = Vec::with_capacity(width * frame.height as usize * RGBA);
    for row in packed.chunks_exact(frame.line_size.max(1)) {
        for x in 0..width {
            // The first pixel is in the highest bits.
            let shift = 8 - bits - x * bits % 8;
            let index = usize::from(row[x * bits / 8] >> shift) & ((1 << bits) - 1);
            let Some([r, g, b]) = palette.get(index) else {
                return Err(invalid(format!(
                    "The PNG uses colour {index} of a palette with {} colours.",
                    palette.len()
                )));
            };
            let opacity = opacities.get(index).copied().unwrap_or(u8::MAX);
            pixels.extend([*r, *g, *b, opacity]);
        }
    }
    Ok(pixels)
}

fn jpeg(body: &[u8], allowance: &mut Allowance) -> Result<Picture, RefusalKind> {
    let broken = |e| invalid(format!("The JPEG cannot be read: {e:?}."));
    let Guarded { orientation, file } = guarded(body)?;
    let extensions = body
        .windows(EXTENSION.len())
        .filter(|window| *window == EXTENSION);
    if extensions.take(MAX_JPEG_EXTENSIONS + 1).count() > MAX_JPEG_EXTENSIONS {
        return Err(invalid(
            "The JPEG has too much metadata. Strip it first.".into(),
        ));
    }
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .set_strict_mode(true)
        .jpeg_set_max_scans(MAX_JPEG_SCANS);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&file[..]), options);
    decoder.decode_headers().map_err(broken)?;
    let (width, height) = decoder
        .dimensions()
        .ok_or_else(|| invalid("The JPEG does not declare its size.".into()))?;
    admit(width as u64, height as u64, allowance)?;
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let (colours, channels) = match grey {
        true => (ColorSpace::Luma, 1),
        false => (ColorSpace::RGB, 3),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    let bytes = decoder.decode().map_err(broken)?;
    if bytes.len() != width * height * channels {
        return Err(invalid("The JPEG's colours are not supported.".into()));
    }
    let picture = Picture {
        width,
        height,
        channels,
        bytes,
    };
    Ok(picture.turned(orientation))
}

/// A JPEG that the decoder refuses if its data end early.
struct Guarded {
    /// EXIF's orientation, 1 to 8.
    orientation: u8,
    file: Vec<u8>,
}

/// Copies a JPEG up to its end, with [`ONES`] after the data.
///
/// The decoder treats an early end or restart as zero bits, and invents the rest of the image. No Huffman code consists of
/// ones only. A decoder that is not finished at the ones therefore finds an invalid code; a finished one skips them. If data
/// end without a restart or the end of the file, zune-jpeg 0.5 must meet the next marker immediately: after each scan of a
/// baseline image, and after the first scan of a progressive one. So the scans are counted.
fn guarded(body: &[u8]) -> Result<Guarded, RefusalKind> {
    const SEGMENT_HEADER: usize = 4;
    let cut = || invalid("The JPEG is cut short: its end marker is missing.".into());
    let mut file = Vec::with_capacity(body.len() + ONES.len());
    let mut orientation_found = None;
    let (mut components, mut scanned): (&[u8], Vec<u8>) = (&[], Vec::new());
    let (mut progressive, mut scans, mut in_data) = (false, 0, false);
    let (mut at, mut copied) = (2, 0);
    loop {
        let next = body.get(at..).unwrap_or_default().windows(2);
        let marker_at = at
            + next
                .into_iter()
                .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))
                .ok_or_else(cut)?;
        let marker = body[marker_at + 1];
        let (ends, restarts) = (marker == 0xd9, (0xd0..=0xd7).contains(&marker));
        let first_of_several = progressive && scans == 1;
        if in_data && !first_of_several && (ends || restarts || progressive) {
            file.extend(&body[copied..marker_at]);
            file.extend(ONES);
            copied = marker_at;
        }
        if ends {
            file.extend(&body[copied..marker_at + 2]);
            break;
        }
        // These stand alone.
        if restarts || marker == 0x01 {
            at = marker_at + 2;
            continue;
        }
        in_data = marker == 0xda;
        let length = body
            .get(marker_at + 2..marker_at + SEGMENT_HEADER)
            .map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
            .ok_or_else(cut)?;
        at = marker_at + 2 + length.max(2);
        let segment = body.get(marker_at + SEGMENT_HEADER..at).ok_or_else(cut)?;
        match (marker, segment) {
            (0xe1, [b'E', b'x', b'i', b'f', 0, 0, tiff @ ..]) => {
                orientation_found = orientation_found.or_else(|| orientation(tiff));
            }
            // The kind of frame: bits, height, width, and three bytes for each component.
            (0xc0..=0xc2, [_, _, _, _, _, _, frame @ ..]) => {
                (components, progressive) = (frame, marker == 0xc2);
            }
            (0xda, [count, scan @ ..]) => {
                scans += 1;
                let named = scan.chunks_exact(2).take(usize::from(*count));
                scanned.extend(named.map(|component| component[0]));
            }
            _ => {}
        }
    }
    let complete = components
        .chunks_exact(3)
        .all(|component| scanned.contains(&component[0]));
    // The first scan of a progressive image has one number for each block of 64 pixels.
    if !complete || (progressive && scans < 2) {
        return Err(invalid(
            "The JPEG is cut short: it ends before the last of its scans.".into(),
        ));
    }
    Ok(Guarded {
        orientation: orientation_found.unwrap_or(1),
        file,
    })
}

/// The orientation in the first directory of EXIF data.
fn orientation(tiff: &[u8]) -> Option<u8> {
    const ORIENTATION: u16 = 0x0112;
    const ENTRY_BYTES: usize = 12;
    const LONG: u16 = 4;
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk::<2>()?;
        Some(match little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        })
    };
    let offset = *tiff.get(4..)?.first_chunk::<4>()?;
    let directory = usize::try_from(match little {
        true => u32::from_le_bytes(offset),
        false => u32::from_be_bytes(offset),
    })
    .ok()?;
    for entry in 0..usize::from(u16_at(directory)?) {
        let at = directory.checked_add(2 + entry * ENTRY_BYTES)?;
        if u16_at(at)? == ORIENTATION {
            // A number of 16 bits as required, or one of 32 bits, whose lower half comes last in big-endian order.
            let value = match (u16_at(at.checked_add(2)?)?, little) {
                (LONG, false) => u16_at(at.checked_add(10)?)?,
                _ => u16_at(at.checked_add(8)?)?,
            };
            return u8::try_from(value).ok().filter(|v| (1..=8).contains(v));
        }
    }
    None
}

impl Picture {
    /// The picture, transformed by EXIF's orientation.
    fn turned(self, orientation: u8) -> Self {
        // Whether rows and columns are swapped, and then which sides are mirrored.
        let (transposed, mirrored, flipped) = match orientation {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => return self,
        };
        let (width, height) = match transposed {
            true => (self.height, self.width),
            false => (self.width, self.height),
        };
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for y in 0..height {
            let y = if flipped { height - 1 - y } else { y };
            for x in 0..width {
                let x = if mirrored { width - 1 - x } else { x };
                let (from_x, from_y) = if transposed { (y, x) } else { (x, y) };
                let at = (from_y * self.width + from_x) * self.channels;
                bytes.extend_from_slice(&self.bytes[at..at + self.channels]);
            }
        }
        Self {
            width,
            height,
            channels: self.channels,
            bytes,
        }
    }

    /// The picture, or a part of it, scaled. The values are those of the bytes.
    pub fn scaled(&self, part: Area, width: usize, height: usize, scaling: Scaling) -> Vec<f32> {
        let columns = weights(part.x, part.width, self.width, width, scaling);
        let rows = weights(part.y, part.height, self.height, height, scaling);
        let channels = self.channels;
        // Scale first in the direction that leaves fewer pixels.
        if width * self.height <= height * self.width {
            let mut narrow = Vec::with_capacity(width * self.height * channels);
            for row in self.bytes.chunks_exact(self.width * channels) {
                for (first, weights) in &columns {
                    for channel in 0..channels {
                        let taken = row[first * channels + channel..].iter().step_by(channels);
                        narrow.push(sum(weights, taken.map(|v| f32::from(*v))));
                    }
                }
            }
            let mut scaled = Vec::with_capacity(width * height * channels);
            for (first, weights) in &rows {
                for at in 0..width * channels {
                    let taken = narrow[first * width * channels + at..].iter();
                    scaled.push(sum(weights, taken.step_by(width * channels).copied()));
                }
            }
            scaled
        } else {
            let stride = self.width * channels;
            let mut scaled = Vec::with_capacity(width * height * channels);
            let mut line = Vec::with_capacity(stride);
            for (first, weights) in &rows {
                line.clear();
                line.resize(stride, 0.0f32);
                for (row, weight) in self.bytes[first * stride..]
                    .chunks_exact(stride)
                    .zip(weights)
                {
                    for (sum, value) in line.iter_mut().zip(row) {
                        *sum += weight * f32::from(*value);
                    }
                }
                for (first, weights) in &columns {
                    for channel in 0..channels {
                        let taken = line[first * channels + channel..].iter();
                        scaled.push(sum(weights, taken.step_by(channels).copied()));
                    }
                }
            }
            scaled
        }
    }
}

/// The filter for a new pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scaling {
    /// The mean of all pixels that it covers, weighted by a triangle. Downscaling skips no pixel. Pillow and torchvision do this.
    Smooth,
    /// The nearest two pixels in each direction, even if it covers more. OpenCV does this by default, and some models were
    /// trained with its images.
    Linear,
}

/// A part of a picture, in pixels and parts of pixels.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Its left edge, in pixels from the left.
    pub x: f64,
    /// Its upper edge, in pixels from the top.
    pub y: f64,
    /// Its width in pixels.
    pub width: f64,
    /// Its height in pixels.
    pub height: f64,
}

fn sum(weights: &[f32], values: impl Iterator<Item = f32>) -> f32 {
    weights.iter().zip(values).map(|(w, v)| w * v).sum()
}

/// For each of `to` new pixels, the first old pixel and the weights of the old pixels. The new pixels replace `length` old
/// ones from `start` on.
fn weights(
    start: f64,
    length: f64,
    from: usize,
    to: usize,
    scaling: Scaling,
) -> Vec<(usize, Vec<f32>)> {
    let scale = length / to as f64;
    let reach = match scaling {
        Scaling::Smooth => scale.max(1.0),
        Scaling::Linear => 1.0,
    };
    (0..to)
        .map(|at| {
            let centre = start + (at as f64 + 0.5) * scale;
            let last = from.saturating_sub(1);
            let low = ((centre - reach).floor().max(0.0) as usize).min(last);
            let high =
                ((centre + reach).ceil().max(0.0) as usize).clamp(low + 1, from.max(low + 1));
            let mut weights: Vec<f32> = (low..high)
                .map(|old| (1.0 - ((old as f64 + 0.5 - centre) / reach).abs()).max(0.0) as f32)
                .collect();
            let total: f32 = weights.iter().sum();
            match total > 0.0 {
                true => weights.iter_mut().for_each(|weight| *weight /= total),
                // The centre lies outside, so use the nearest pixel.
                false => weights[0] = 1.0,
            }
            (low, weights)
        })
        .collect()
}

/// The luminance of a colour by ITU-R BT.601.
fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) + 500) / 1000) as u8
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A PNG of these bytes.
    pub(crate) fn png_of(width: u32, height: u32, colour: png::ColorType, bytes: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(colour);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(bytes).unwrap();
        drop(writer);
        file
    }

    /// 32 by 16 pixels: a red left half, a blue right one.
    pub(crate) const JPEG: &[u8] = include_bytes!("../tests/data/halves.jpg");
    /// The same, progressive, with EXIF data saying that it lies on its side.
    const TURNED: &[u8] = include_bytes!("../tests/data/halves-turned.jpg");

    fn image<'a>(media_type: Option<&'a str>, body: &'a [u8]) -> Part<'a> {
        Part::Image(Blob { media_type, body })
    }

    fn decoded(body: &[u8], grey: bool) -> Result<Picture, RefusalKind> {
        picture(&image(None, body), grey, &mut Allowance::default())
    }

    fn said(result: Result<Picture, RefusalKind>) -> String {
        match result.err().expect("refused") {
            RefusalKind::InvalidContent(text) | RefusalKind::TooLong(text) => text,
            RefusalKind::UnsupportedMediaType(text) => format!("415: {text}"),
        }
    }

    /// A PNG's signature and header, and nothing else.
    fn header(width: u32, height: u32) -> Vec<u8> {
        let mut file = png_of(1, 1, png::ColorType::Grayscale, &[0]);
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let mut crc = !0u32;
        for byte in &file[12..29] {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
        }
        file[29..33].copy_from_slice(&(!crc).to_be_bytes());
        file
    }

    #[test]
    fn colours_come_out_as_they_went_in_and_what_is_transparent_lies_on_white() {
        let rgba = [255, 0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 128, 1, 2, 3, 255];
        let file = png_of(2, 2, png::ColorType::Rgba, &rgba);
        let picture = decoded(&file, false).unwrap();
        assert_eq!((picture.width, picture.height, picture.channels), (2, 2, 3));
        assert_eq!(
            picture.bytes,
            [255, 0, 0, 255, 255, 255, 127, 255, 127, 1, 2, 3]
        );
        let grey = decoded(&file, true).unwrap();
        assert_eq!((grey.channels, grey.bytes.len()), (1, 4));
        assert_eq!(grey.bytes[..2], [76, 255]);
        let file = png_of(2, 1, png::ColorType::GrayscaleAlpha, &[9, 255, 9, 0]);
        assert_eq!(decoded(&file, false).unwrap().bytes, [9, 255]);
    }

    #[test]
    fn a_jpeg_is_turned_the_way_its_metadata_says() {
        let flat = decoded(JPEG, false).unwrap();
        assert_eq!((flat.width, flat.height, flat.channels), (32, 16, 3));
        let red = |picture: &Picture, x: usize, y: usize| {
            let at = (y * picture.width + x) * 3;
            picture.bytes[at] > 200 && picture.bytes[at + 2] < 60
        };
        assert!(red(&flat, 2, 8) && !red(&flat, 29, 8));
        // Orientation 6: the left side in the file is the top.
        let turned = decoded(TURNED, false).unwrap();
        assert_eq!((turned.width, turned.height), (16, 32));
        assert!(red(&turned, 8, 2) && !red(&turned, 8, 29));
    }

    #[test]
    fn every_orientation_puts_the_corner_where_exif_says() {
        let picture = || Picture {
            width: 3,
            height: 2,
            channels: 1,
            bytes: vec![1, 2, 3, 4, 5, 6],
        };
        for (orientation, seen) in [
            (1, [1, 2, 3, 4, 5, 6]),
            (2, [3, 2, 1, 6, 5, 4]),
            (3, [6, 5, 4, 3, 2, 1]),
            (4, [4, 5, 6, 1, 2, 3]),
            (5, [1, 4, 2, 5, 3, 6]),
            (6, [4, 1, 5, 2, 6, 3]),
            (7, [6, 3, 5, 2, 4, 1]),
            (8, [3, 6, 2, 5, 1, 4]),
        ] {
            let turned = picture().turned(orientation);
            assert_eq!(turned.bytes, seen, "{orientation}");
            assert_eq!(turned.width, if orientation < 5 { 3 } else { 2 });
        }
    }

    #[test]
    fn content_that_is_not_what_it_is_said_to_be_is_refused() {
        let file = png_of(1, 1, png::ColorType::Grayscale, &[7]);
        let take =
            |media_type, body| picture(&image(media_type, body), true, &mut Allowance::default());
        for stated in [
            None,
            Some("image/png"),
            Some("IMAGE/PNG; x=y"),
            Some("application/octet-stream"),
        ] {
            assert_eq!(take(stated, &file).unwrap().bytes, [7], "{stated:?}");
        }
        assert!(said(take(Some("image/jpeg"), &file)).contains("but the content is image/png"));
        assert!(said(take(Some("image/jpeg"), b"abc")).contains("begin"));
        assert!(said(take(Some("image/gif"), &file)).starts_with("415"));
        assert!(said(take(None, b"GIF89a")).starts_with("415"));
        assert!(said(take(None, b"")).starts_with("415"));
        let text = picture(&Part::Text("a"), true, &mut Allowance::default());
        assert!(said(text).starts_with("415"));
    }

    #[test]
    fn an_image_that_says_it_is_enormous_is_refused_before_it_is_decoded() {
        for (width, height) in [
            (1 << 30, 1 << 30),
            (MAX_SIDE as u32 + 1, 1),
            (1, MAX_SIDE as u32 + 1),
            (4096, 3073),
        ] {
            let text = said(decoded(&header(width, height), true));
            assert!(text.contains("pixels; at most"), "{text}");
        }
        // As large as may be, and nothing behind it.
        assert!(said(decoded(&header(4096, 3072), true)).contains("cannot be read"));
        let mut jpeg = JPEG.to_vec();
        let frame = jpeg.windows(2).position(|w| w == b"\xff\xc0").unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0x3f, 0xff, 0x3f, 0xff]);
        assert!(said(decoded(&jpeg, true)).contains("pixels; at most"));
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
        assert!(decoded(&jpeg, true).is_err());
    }

    #[test]
    fn the_images_of_a_call_have_one_allowance() {
        let mut allowance = Allowance(5);
        let file = png_of(2, 2, png::ColorType::Grayscale, &[0; 4]);
        assert!(picture(&image(None, &file), true, &mut allowance).is_ok());
        assert!(
            said(picture(&image(None, &file), true, &mut allowance)).contains("send fewer"),
            "the second has no room"
        );
    }

    #[test]
    fn an_image_cut_short_anywhere_is_refused() {
        let mut noise = 1u32;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .take(24 * 3 * 8)
        .collect();
        let png = png_of(24, 8, png::ColorType::Rgb, &bytes);
        assert!(decoded(&png, false).is_ok());
        for file in [&png, JPEG, TURNED] {
            for length in 0..file.len() {
                assert!(decoded(&file[..length], false).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn a_jpeg_with_metadata_without_end_is_refused() {
        let mut jpeg = JPEG[..2].to_vec();
        for _ in 0..=MAX_JPEG_EXTENSIONS {
            let mut segment = EXTENSION.to_vec();
            segment.extend([b'0'; 32]);
            segment.extend([0xff; 8]);
            jpeg.extend([0xff, 0xe1]);
            jpeg.extend((segment.len() as u16 + 2).to_be_bytes());
            jpeg.extend(segment);
        }
        jpeg.extend(&JPEG[2..]);
        assert!(said(decoded(&jpeg, false)).contains("metadata"));
    }

    #[test]
    fn scaling_keeps_what_is_even_and_means_what_is_not() {
        let bytes = [10, 10, 30, 30, 10, 10, 30, 30];
        let picture = Picture {
            width: 4,
            height: 2,
            channels: 1,
            bytes: bytes.to_vec(),
        };
        let whole = Area {
            x: 0.0,
            y: 0.0,
            width: 4.0,
            height: 2.0,
        };
        let close = |seen: &[f32], wanted: &[f32]| {
            assert_eq!(seen.len(), wanted.len());
            for (a, b) in seen.iter().zip(wanted) {
                assert!((a - b).abs() < 1e-3, "{seen:?} {wanted:?}");
            }
        };
        let scaled = |part, width, height| picture.scaled(part, width, height, Scaling::Smooth);
        close(&scaled(whole, 4, 2), &bytes.map(f32::from));
        close(&scaled(whole, 1, 1), &[20.0]);
        close(&scaled(whole, 1, 8), &[20.0; 8]);
        let left = Area {
            width: 1.0,
            ..whole
        };
        close(&scaled(left, 3, 1), &[10.0; 3]);
        assert_eq!(scaled(whole, 8, 5).len(), 40);
    }

    /// The numbers are those of `cv2.resize(…, interpolation=cv2.INTER_LINEAR)` of opencv-python-headless 5.0.0.
    #[test]
    fn linear_scaling_takes_two_neighbours_as_opencv_does() {
        let picture = Picture {
            width: 8,
            height: 1,
            channels: 1,
            bytes: vec![0, 80, 0, 0, 200, 0, 40, 120],
        };
        let whole = Area {
            x: 0.0,
            y: 0.0,
            width: 8.0,
            height: 1.0,
        };
        let close = |width, wanted: &[f32]| {
            let seen = picture.scaled(whole, width, 1, Scaling::Linear);
            for (a, b) in seen.iter().zip(wanted) {
                assert!((a - b).abs() < 0.51, "{seen:?} {wanted:?}");
            }
            assert_eq!(seen.len(), wanted.len());
        };
        close(3, &[67.0, 100.0, 53.0]);
        close(2, &[40.0, 20.0]);
        close(
            12,
            &[
                0.0, 40.0, 67.0, 13.0, 0.0, 33.0, 167.0, 100.0, 7.0, 33.0, 80.0, 120.0,
            ],
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), which in 0..4usize, at in 0..1000usize) {
            // Either noise behind a beginning, or a file with some of its bytes changed.
            let png = png_of(5, 3, png::ColorType::Rgb, &[99; 45]);
            let mut file = match which {
                0 => b"\x89PNG\r\n\x1a\n".to_vec(),
                1 => b"\xff\xd8\xff".to_vec(),
                2 => png,
                _ => JPEG.to_vec(),
            };
            if which < 2 {
                file.extend(&bytes);
            } else {
                let at = at % file.len();
                for (to, from) in file[at..].iter_mut().zip(bytes.iter().take(6)) {
                    *to = *from;
                }
            }
            if let Ok(picture) = decoded(&file, false) {
                prop_assert_eq!(picture.bytes.len(), picture.width * picture.height * picture.channels);
            }
        }

        #[test]
        fn scaling_stays_within_the_values(width in 1..40usize, height in 1..40usize, to_width in 1..50usize, to_height in 1..50usize, seed in any::<u8>()) {
            let bytes: Vec<u8> = (0..width * height * 3).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let (low, high) = (*bytes.iter().min().unwrap(), *bytes.iter().max().unwrap());
            let picture = Picture { width, height, channels: 3, bytes };
            let whole = Area { x: 0.0, y: 0.0, width: width as f64, height: height as f64 };
            let scaled = picture.scaled(whole, to_width, to_height, Scaling::Smooth);
            prop_assert_eq!(scaled.len(), to_width * to_height * 3);
            for value in scaled {
                prop_assert!(value >= f32::from(low) - 0.01 && value <= f32::from(high) + 0.01);
            }
        }
    }
}
