//! Decodes recordings: WAV with integers of 8, 16, 24 or 32 bits or 32-bit floating-point numbers, of one or two channels, at
//! any usual rate. Two channels are mixed into one, and the rate is converted. A size in a header is used only if the bytes
//! are present.
//!
//! A header that contradicts itself or the file is refused. Guessing would give a wrong answer that looks right: samples
//! outside a wrong size would count as silence, and a wrong rate would move every segment. The only exception is a size that
//! a program cannot know when it writes to a pipe. Such a recording is read to the end of the file.

use crate::{Blob, Part, RefusalKind};

/// The lowest and highest rates: lower ones cannot carry speech, and no equipment has higher ones.
pub const RATES_HZ: std::ops::RangeInclusive<u32> = 4_000..=192_000;
/// The message for content of another type.
const TAKES: &str = "This model takes recordings, as audio/wav.";
/// The data size from which a size counts as unknown: programs that write to a pipe cannot fill it in later.
/// FFmpeg writes 0xFFFFFFFF, SoX and eSpeak NG 0x7FFFF000 rounded down to whole frames, arecord 0x80000000. No body is as
/// long as the least of these.
const UNKNOWN_BYTES: u32 = 0x7fff_0000;
/// The length of a chunk's header: its name and its size.
const CHUNK_HEADER: usize = 8;
/// The length of an ID3v1 tag, which some programs append to any kind of file.
const ID3_BYTES: usize = 128;
/// The most zeros after the last chunk that count as padding: the block of a disk. More may be part of the recording.
const MAX_FILLING: usize = 4_096;
/// The highest floating-point sample that is taken, as a multiple of full scale (24 dB above it). Higher ones are whole numbers
/// that were stored as floating point without being scaled.
const MAX_FLOAT: f32 = 16.0;

/// A recording whose samples are not decoded yet: its header, with the bytes that are present.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recording<'a> {
    encoding: Encoding,
    channels: usize,
    /// Number of frames in a second.
    pub rate_hz: u32,
    data: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Encoding {
    /// 8 bits, 128 for silence.
    Unsigned8,
    /// Integers of so many bytes, little-endian, two's complement.
    Signed(usize),
    Float32,
}

fn invalid(text: impl Into<String>) -> RefusalKind {
    RefusalKind::InvalidContent(text.into())
}

/// Parses the recording of a part.
pub fn recording<'a>(part: &Part<'a>) -> Result<Recording<'a>, RefusalKind> {
    let (Part::Audio(blob) | Part::Bytes(blob)) = part else {
        return Err(RefusalKind::UnsupportedMediaType(TAKES.into()));
    };
    let Blob { media_type, body } = *blob;
    let stated = media_type
        .map(|stated| stated.split(';').next().unwrap_or_default().trim())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let is_wav = body.len() >= 12 && body.starts_with(b"RIFF") && body[8..12] == *b"WAVE";
    match stated.as_str() {
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" if !is_wav => Err(invalid(
            "The declared content type is WAV, but the content does not begin with its signature.",
        )),
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => wav(body),
        "" | "application/octet-stream" | "audio/*" if is_wav => wav(body),
        _ => Err(RefusalKind::UnsupportedMediaType(TAKES.into())),
    }
}

/// Reads the chunks of a RIFF file. The size in the file's own header is not used: the chunks tell the same and more.
fn wav(body: &[u8]) -> Result<Recording<'_>, RefusalKind> {
    let mut rest = &body[12..];
    let mut format = None;
    loop {
        let Some((id, stated, after)) = chunk_header(rest) else {
            return Err(invalid(match format {
                None => "The WAV is cut short: it has no format chunk.",
                Some(_) => "The WAV is cut short: it has no data chunk.",
            }));
        };
        if id == *b"data" {
            let (encoding, channels, rate_hz) = format
                .ok_or_else(|| invalid("The WAV's data chunk comes before its format chunk."))?;
            let mut recording = Recording {
                encoding,
                channels,
                rate_hz,
                data: &[],
            };
            recording.data = data(stated, after, recording.frame_bytes())?;
            return Ok(recording);
        }
        let (chunk, after) = split(after, stated).ok_or_else(|| {
            invalid(format!(
                "The WAV is cut short: a chunk of it states {stated} bytes, and {} are present.",
                after.len()
            ))
        })?;
        if id == *b"fmt " && format.replace(read_format(chunk)?).is_some() {
            return Err(invalid("The WAV has two format chunks; one is expected."));
        }
        rest = unpadded(stated, after);
    }
}

/// The name and stated size of a chunk, and the bytes behind its header.
fn chunk_header(bytes: &[u8]) -> Option<([u8; 4], u32, &[u8])> {
    let ([i, j, k, l, size @ ..], after) = bytes.split_first_chunk::<CHUNK_HEADER>()?;
    Some(([*i, *j, *k, *l], u32::from_le_bytes(*size), after))
}

/// The first `stated` bytes and the rest, if there are as many.
fn split(bytes: &[u8], stated: u32) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(stated).ok()?)
}

/// The bytes after a chunk of this size. Chunks begin at even offsets, so a zero pads an odd one; some programs omit it.
fn unpadded(stated: u32, after: &[u8]) -> &[u8] {
    match after {
        [0, rest @ ..] if !stated.is_multiple_of(2) => rest,
        _ => after,
    }
}

/// The bytes of the samples. `after` are the bytes behind the header of the data chunk.
fn data(stated: u32, after: &[u8], frame_bytes: usize) -> Result<&[u8], RefusalKind> {
    let no_chunks = |rest: &[u8]| {
        invalid(format!(
            "The WAV's header states {stated} bytes of data, but {} more bytes follow that are not part of a WAV. \
         Write the size of the data, or 0xFFFFFFFF if it is unknown.",
            rest.len()
        ))
    };
    if stated >= UNKNOWN_BYTES || (stated == 0 && !tail_is_known(after, stated)?) {
        // A program that is ended while it writes to a pipe leaves a part of a frame.
        return Ok(&after[..after.len() - after.len() % frame_bytes]);
    }
    let (data, rest) = split(after, stated).ok_or_else(|| {
        invalid(format!(
            "The WAV is cut short: its header states {stated} bytes of data, and {} are present.",
            after.len()
        ))
    })?;
    let rest = unpadded(stated, rest);
    if !tail_is_known(rest, stated)? {
        return Err(no_chunks(rest));
    }
    if !data.len().is_multiple_of(frame_bytes) {
        return Err(invalid("The WAV's data end within a sample."));
    }
    Ok(data)
}

/// Returns whether the bytes behind the data cannot be samples: they are too short for a chunk, or consist of whole chunks,
/// perhaps with a padding of zeros or an ID3v1 tag after them. A second data chunk is an error, since its samples would be
/// left out.
fn tail_is_known(mut rest: &[u8], stated_data: u32) -> Result<bool, RefusalKind> {
    loop {
        let Some((id, stated, after)) = chunk_header(rest) else {
            return Ok(true);
        };
        if rest.len() == ID3_BYTES && rest.starts_with(b"TAG") {
            return Ok(true);
        }
        if !id.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            // Zeros without any data before them are a silent recording, not padding.
            let filling = stated_data > 0 && rest.len() < MAX_FILLING;
            return Ok(filling && rest.iter().all(|byte| *byte == 0));
        }
        let Some((_, after)) = split(after, stated) else {
            return Ok(false);
        };
        if let b"data" | b"fmt " | b"RIFF" = &id {
            return Err(invalid(
                "The WAV has a second recording after its data. Send each recording separately.",
            ));
        }
        rest = unpadded(stated, after);
    }
}

/// Reads the chunk `fmt `: the encoding, the channels and the frames in a second.
fn read_format(chunk: &[u8]) -> Result<(Encoding, usize, u32), RefusalKind> {
    const PCM: u16 = 1;
    const FLOAT: u16 = 3;
    const EXTENSIBLE: u16 = 0xfffe;
    /// The bytes after the first two of a sub-format that is one of the formats.
    const SUBFORMAT: &[u8] = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71";
    let Some((fixed, extension)) = chunk.split_first_chunk::<16>() else {
        return Err(invalid("The WAV's format is cut short."));
    };
    let word = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
    let (mut tag, channels, block, bits) = (word(0), word(2), word(12), word(14));
    let long =
        |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (rate_hz, bytes_per_second) = (long(4), long(8));
    if tag == EXTENSIBLE {
        // Its own length, the bits that are used, the places of the loudspeakers, the sub-format.
        match extension.get(2..24) {
            Some([low, high, _, _, _, _, tag_low, tag_high, rest @ ..]) if rest == SUBFORMAT => {
                tag = u16::from_le_bytes([*tag_low, *tag_high]);
                let used = u16::from_le_bytes([*low, *high]);
                if used > bits {
                    return Err(invalid(format!(
                        "The WAV's format contradicts itself: {used} bits per sample are valid, and a sample has \
                         {bits}."
                    )));
                }
            }
            _ => {
                return Err(invalid(
                    "The WAV's extended format is cut short or unknown.",
                ));
            }
        }
    }
    let encoding = match (tag, bits) {
        (PCM, 8) => Encoding::Unsigned8,
        (PCM, 16 | 24 | 32) => Encoding::Signed(usize::from(bits / 8)),
        (FLOAT, 32) => Encoding::Float32,
        _ => {
            return Err(invalid(format!(
                "The WAV has samples of format {tag} with {bits} bits; accepted are PCM (1) of 8, 16, 24 or 32 bits \
                 and floating point (3) of 32."
            )));
        }
    };
    if !(1..=2).contains(&channels) {
        return Err(invalid(format!(
            "The WAV has {channels} channels; one and two are accepted."
        )));
    }
    if !RATES_HZ.contains(&rate_hz) {
        return Err(invalid(format!(
            "The WAV has {rate_hz} samples a second; {} to {} are accepted.",
            RATES_HZ.start(),
            RATES_HZ.end()
        )));
    }
    if u32::from(block) * 8 != u32::from(channels) * u32::from(bits) {
        return Err(invalid(
            "The WAV's format contradicts itself: its blocks are not as long as its samples.",
        ));
    }
    // Zero means unknown. If two rates differ, neither can be trusted.
    if bytes_per_second != 0 && u64::from(bytes_per_second) != u64::from(rate_hz) * u64::from(block)
    {
        return Err(invalid(format!(
            "The WAV's format contradicts itself: {rate_hz} samples a second of {block} bytes are not the {bytes_per_second} \
             bytes a second that it states."
        )));
    }
    Ok((encoding, channels.into(), rate_hz))
}

impl Recording<'_> {
    fn frame_bytes(&self) -> usize {
        self.channels
            * match self.encoding {
                Encoding::Unsigned8 => 1,
                Encoding::Signed(bytes) => bytes,
                Encoding::Float32 => 4,
            }
    }

    /// The number of frames: samples of each channel.
    pub fn frames(&self) -> usize {
        self.data.len() / self.frame_bytes()
    }

    /// Its length in milliseconds, rounded up.
    pub fn duration_ms(&self) -> u64 {
        (self.frames() as u64 * 1000).div_ceil(self.rate_hz.into())
    }

    /// The samples from -1 to 1, the mean of the channels.
    pub fn samples(&self) -> Result<Vec<f32>, RefusalKind> {
        let bytes = self.frame_bytes() / self.channels;
        let sample = |raw: &[u8]| match self.encoding {
            Encoding::Unsigned8 => (f32::from(raw[0]) - 128.0) / 128.0,
            Encoding::Signed(_) => {
                // Shift into the upper bytes of 32 bits, so that the sign bit is in its place.
                let mut wide = [0; 4];
                wide[4 - bytes..].copy_from_slice(raw);
                (f64::from(i32::from_le_bytes(wide)) / 2_147_483_648.0) as f32
            }
            Encoding::Float32 => f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]),
        };
        let channels = self.channels as f32;
        let mut samples = Vec::with_capacity(self.frames());
        for frame in self.data.chunks_exact(self.frame_bytes()) {
            let mean = frame.chunks_exact(bytes).map(sample).sum::<f32>() / channels;
            if !mean.is_finite() {
                return Err(invalid(format!(
                    "Sample {} of the WAV is not a finite number.",
                    samples.len()
                )));
            }
            if mean.abs() > MAX_FLOAT {
                return Err(invalid(format!(
                    "Sample {} of the WAV is {mean}; floating-point samples go from -1 to 1. Divide 16-bit integers \
                     by 32768 before you store them as floating point.",
                    samples.len()
                )));
            }
            samples.push(mean.clamp(-1.0, 1.0));
        }
        Ok(samples)
    }
}

/// Zero crossings of the filter on each side. More crossings suppress aliases better.
const CROSSINGS: usize = 16;
/// Values of the filter between two crossings. Values in between are interpolated.
const STEPS: usize = 256;
/// The highest frequency that passes, as a part of half the lower rate. The filter needs room to fall.
const ROLLOFF: f64 = 0.945;
/// Kaiser's beta of the filter's window: about 80 dB of attenuation.
const BETA: f64 = 8.0;

/// Samples at another rate, by band-limited interpolation with a windowed sinc.
pub fn resampled(samples: Vec<f32>, from_hz: u32, to_hz: u32) -> Vec<f32> {
    if from_hz == to_hz || samples.is_empty() {
        return samples;
    }
    // Half of the filter, from its middle, with a zero after it for the interpolation.
    let filter: Vec<f32> = (0..=CROSSINGS * STEPS + 1)
        .map(|at| {
            let x = at as f64 / STEPS as f64;
            let inside = 1.0 - (x / CROSSINGS as f64).powi(2);
            if inside <= 0.0 {
                return 0.0;
            }
            let angle = std::f64::consts::PI * x;
            let sinc = if at == 0 { 1.0 } else { angle.sin() / angle };
            (sinc * bessel_i0(BETA * inside.sqrt()) / bessel_i0(BETA)) as f32
        })
        .collect();
    let (from, to) = (u64::from(from_hz), u64::from(to_hz));
    let length = (samples.len() as u64 * to).div_ceil(from);
    // Crossings for each old sample.
    let cutoff = ROLLOFF * (f64::from(to_hz) / f64::from(from_hz)).min(1.0);
    let reach = CROSSINGS as f64 / cutoff;
    (0..length)
        .map(|at| {
            // The position among the old samples, as integer and fraction; exact for recordings of any length.
            let (whole, part) = (at * from / to, at * from % to);
            let part = part as f64 / to as f64;
            let whole = whole as i64;
            let first = (whole as f64 + part - reach).ceil().max(0.0) as usize;
            let last = ((whole as f64 + part + reach).floor() as usize).min(samples.len() - 1);
            let mut sum = 0.0f32;
            for (old, sample) in samples[first.min(last)..=last].iter().zip(first as i64..) {
                let distance = ((sample - whole) as f64 - part).abs() * cutoff * STEPS as f64;
                let step = distance as usize;
                let between = (distance - step as f64) as f32;
                if let Some([low, high]) = filter.get(step..step + 2) {
                    sum += old * (low + (high - low) * between);
                }
            }
            (sum * cutoff as f32).clamp(-1.0, 1.0)
        })
        .collect()
}

/// The modified Bessel function of the first kind of order zero, by its series.
fn bessel_i0(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..40 {
        term *= (x / 2.0 / f64::from(k)).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A WAV with these data.
    pub(crate) fn wav_of(tag: u16, bits: u16, channels: u16, rate: u32, data: &[u8]) -> Vec<u8> {
        let block = channels * bits / 8;
        let mut file = b"RIFF".to_vec();
        file.extend((36 + data.len() as u32).to_le_bytes());
        file.extend(b"WAVEfmt \x10\0\0\0");
        file.extend(tag.to_le_bytes());
        file.extend(channels.to_le_bytes());
        file.extend(rate.to_le_bytes());
        file.extend((rate * u32::from(block)).to_le_bytes());
        file.extend(block.to_le_bytes());
        file.extend(bits.to_le_bytes());
        file.extend(b"data");
        file.extend((data.len() as u32).to_le_bytes());
        file.extend(data);
        file
    }

    fn read(file: &[u8]) -> Result<Recording<'_>, RefusalKind> {
        recording(&Part::Audio(Blob {
            media_type: Some("audio/wav"),
            body: file,
        }))
    }

    fn said(file: &[u8]) -> String {
        match read(file).and_then(|r| r.samples()) {
            Err(RefusalKind::InvalidContent(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_encoding_comes_out_between_minus_one_and_one() {
        for (tag, bits, data, wanted) in [
            (1, 8, &[0, 128, 192][..], [-1.0, 0.0, 0.5]),
            (1, 16, &[0, 0x80, 0, 0, 0, 0x40], [-1.0, 0.0, 0.5]),
            (1, 24, &[0, 0, 0x80, 0, 0, 0, 0, 0, 0x40], [-1.0, 0.0, 0.5]),
            (
                1,
                32,
                &[0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x40],
                [-1.0, 0.0, 0.5],
            ),
            (
                3,
                32,
                &[0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0x3f],
                [-1.0, 0.0, 0.5],
            ),
        ] {
            let file = wav_of(tag, bits, 1, 16_000, data);
            let recording = read(&file).unwrap();
            assert_eq!(recording.frames(), 3);
            assert_eq!(recording.samples().unwrap(), wanted, "{tag} {bits}");
        }
        let file = wav_of(1, 16, 2, 8_000, &[0, 0x40, 0, 0, 0, 0, 0, 0x40]);
        assert_eq!(read(&file).unwrap().samples().unwrap(), [0.25, 0.25]);
    }

    #[test]
    fn chunks_that_are_not_asked_for_are_passed_over() {
        let plain = wav_of(1, 16, 1, 16_000, &[1, 0, 2, 0]);
        let mut file = plain[..12].to_vec();
        file.extend(b"LIST\x03\0\0\0abc\0");
        file.extend(&plain[12..]);
        file.extend(b"more");
        assert_eq!(
            read(&file).unwrap().samples(),
            read(&plain).unwrap().samples()
        );
        // A program that wrote to a pipe.
        let mut piped = plain.clone();
        piped[40..44].fill(0xff);
        assert_eq!(read(&piped).unwrap().frames(), 2);
        // The long form of the same format.
        let mut long = plain[..12].to_vec();
        long.extend(b"fmt \x28\0\0\0\xfe\xff");
        long.extend(&plain[22..36]);
        long.extend(b"\x16\0\x10\0\x04\0\0\0\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        long.extend(&plain[36..]);
        assert_eq!(
            read(&long).unwrap().samples(),
            read(&plain).unwrap().samples()
        );
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let good = wav_of(1, 16, 1, 16_000, &[1, 0, 2, 0]);
        let with = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            said(&file)
        };
        assert!(with(40, &[5, 0, 0, 0]).contains("states 5 bytes of data, and 4"));
        assert!(with(40, &[0xff, 0xff, 0xfe, 0x7f]).contains("cut short"));
        assert!(with(16, &[0xff, 0xff, 0xff, 0x7f]).contains("cut short"));
        assert!(with(16, &[2, 0, 0, 0]).contains("format is cut short"));
        let odd = wav_of(1, 16, 1, 16_000, &[1, 0, 2]);
        assert!(said(&odd).contains("within a sample"));
        assert!(with(20, &[2, 0]).contains("format 2"));
        assert!(with(20, &[0xfe, 0xff]).contains("extended"));
        assert!(with(22, &[0, 0]).contains("0 channels"));
        assert!(with(22, &[3, 0]).contains("3 channels"));
        assert!(with(24, &[0; 4]).contains("0 samples a second"));
        assert!(with(24, &[0xff; 4]).contains("samples a second"));
        assert!(with(32, &[4, 0]).contains("contradicts"));
        assert!(with(34, &[12, 0]).contains("12 bits"));
        assert!(with(12, b"data").contains("before its format chunk"));
        let nan = wav_of(3, 32, 1, 16_000, &f32::NAN.to_le_bytes());
        assert!(said(&nan).contains("Sample 0"));
    }

    #[test]
    fn content_that_is_not_what_it_is_said_to_be_is_refused() {
        let file = wav_of(1, 16, 1, 16_000, &[]);
        let take = |media_type, body| recording(&Part::Bytes(Blob { media_type, body }));
        for stated in [
            None,
            Some("audio/x-wav; codecs=1"),
            Some("application/octet-stream"),
        ] {
            assert_eq!(take(stated, &file).map(|r| r.frames()), Ok(0), "{stated:?}");
        }
        for (stated, body) in [
            (Some("audio/mpeg"), &file[..]),
            (None, b"ID3"),
            (None, b""),
            (Some("image/png"), &file),
        ] {
            assert!(
                matches!(
                    take(stated, body),
                    Err(RefusalKind::UnsupportedMediaType(_))
                ),
                "{stated:?}"
            );
        }
        assert!(matches!(
            take(Some("audio/wav"), b"RIFF"),
            Err(RefusalKind::InvalidContent(_))
        ));
        assert!(matches!(
            recording(&Part::Text("RIFF")),
            Err(RefusalKind::UnsupportedMediaType(_))
        ));
    }

    #[test]
    fn a_recording_cut_short_anywhere_is_refused() {
        let file = wav_of(1, 24, 2, 16_000, &[7; 60]);
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "{length}");
        }
        assert!(read(&file).is_ok());
    }

    /// A tone, half as loud as can be.
    fn tone(hz: f64, rate_hz: u32, samples: usize) -> Vec<f32> {
        let step = std::f64::consts::TAU * hz / f64::from(rate_hz);
        (0..samples)
            .map(|at| (0.5 * (at as f64 * step).sin()) as f32)
            .collect()
    }

    fn loudness(samples: &[f32]) -> f32 {
        (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
    }

    #[test]
    fn a_tone_keeps_its_shape_at_another_rate() {
        for rate_hz in [
            4_000, 8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000, 192_000,
        ] {
            let resampled = resampled(tone(440.0, rate_hz, rate_hz as usize / 4), rate_hz, 16_000);
            assert!(resampled.len().abs_diff(4_000) <= 4, "{rate_hz}");
            let wanted = tone(440.0, 16_000, resampled.len());
            // The ends lack the samples before and after them.
            for at in 200..3_800 {
                let error = (resampled[at] - wanted[at]).abs();
                assert!(error < 2e-3, "{rate_hz}: {error} at {at}");
            }
        }
    }

    #[test]
    fn tones_above_the_new_rate_are_not_heard() {
        for rate_hz in [32_000, 44_100, 48_000] {
            let heard = resampled(
                tone(9_500.0, rate_hz, rate_hz as usize / 4),
                rate_hz,
                16_000,
            );
            let heard = loudness(&heard[200..3_800]);
            assert!(heard < 2e-3, "{rate_hz}: {heard}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..60usize, kind in 0..2usize) {
            let mut file = wav_of(1, 16, 1, 8_000, &[5; 20]);
            if kind == 0 {
                file.truncate(12);
                file.extend(&bytes);
            } else {
                for (to, from) in file[at..].iter_mut().zip(bytes.iter().take(4)) {
                    *to = *from;
                }
            }
            if let Ok(samples) = read(&file).and_then(|r| r.samples()) {
                prop_assert!(samples.iter().all(|s| (-1.0..=1.0).contains(s)));
            }
        }

        #[test]
        fn resampling_any_length_at_any_rate_stays_within_bounds(length in 0..300usize, rate_hz in 4_000..192_000u32) {
            let samples = vec![1.0; length];
            let resampled = resampled(samples, rate_hz, 16_000);
            prop_assert_eq!(resampled.len() as u64, (length as u64 * 16_000).div_ceil(rate_hz.into()));
            prop_assert!(resampled.iter().all(|s| (-1.0..=1.0).contains(s)));
        }
    }
}
