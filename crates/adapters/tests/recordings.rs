//! Recordings as programs write them, and headers that say something wrong: each is read right or refused. None gives
//! an answer about fewer, more or other samples than the file has.

use penstock_adapters::sound::{Recording, recording};
use penstock_adapters::{Blob, Part, RefusalKind};
use proptest::prelude::*;

/// 0.25 s of samples that are neither silent nor text.
const FRAMES: usize = 4_000;
const RATE_HZ: u32 = 16_000;

/// The parts of a WAV's header.
#[derive(Clone)]
struct Wav {
    riff: u32,
    tag: u16,
    channels: u16,
    rate_hz: u32,
    bytes_per_second: u32,
    block: u16,
    bits: u16,
    /// The bytes after the first 16 of the format.
    extension: Vec<u8>,
    /// Chunks before the data, as they are.
    before: Vec<u8>,
    stated: u32,
    data: Vec<u8>,
    /// The bytes after the data.
    after: Vec<u8>,
}

impl Wav {
    /// A true header of these samples.
    fn of(tag: u16, bits: u16, channels: u16, data: Vec<u8>) -> Self {
        let block = channels * bits / 8;
        Self {
            riff: 36 + data.len() as u32,
            tag,
            channels,
            rate_hz: RATE_HZ,
            bytes_per_second: RATE_HZ * u32::from(block),
            block,
            bits,
            extension: Vec::new(),
            before: Vec::new(),
            stated: data.len() as u32,
            data,
            after: Vec::new(),
        }
    }

    fn file(&self) -> Vec<u8> {
        let mut file = b"RIFF".to_vec();
        file.extend(self.riff.to_le_bytes());
        file.extend(b"WAVEfmt ");
        file.extend((16 + self.extension.len() as u32).to_le_bytes());
        file.extend(self.tag.to_le_bytes());
        file.extend(self.channels.to_le_bytes());
        file.extend(self.rate_hz.to_le_bytes());
        file.extend(self.bytes_per_second.to_le_bytes());
        file.extend(self.block.to_le_bytes());
        file.extend(self.bits.to_le_bytes());
        file.extend(&self.extension);
        file.extend(&self.before);
        file.extend(b"data");
        file.extend(self.stated.to_le_bytes());
        file.extend(&self.data);
        file.extend(&self.after);
        file
    }
}

/// Returns so many bytes of a loud noise, none of which is the name of a chunk.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 | 0x80
    })
    .take(bytes)
    .collect()
}

fn mono() -> Wav {
    Wav::of(1, 16, 1, noise(2 * FRAMES))
}

fn read(file: &[u8]) -> Result<Recording<'_>, RefusalKind> {
    recording(&Part::Audio(Blob {
        media_type: Some("audio/wav"),
        body: file,
    }))
}

fn frames(wav: &Wav) -> usize {
    let file = wav.file();
    let recording = read(&file).unwrap_or_else(|refused| panic!("{refused:?}"));
    recording.samples().unwrap();
    recording.frames()
}

fn said(wav: &Wav) -> String {
    let file = wav.file();
    match read(&file).and_then(|recording| recording.samples()) {
        Err(RefusalKind::InvalidContent(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(samples) => panic!("{} samples are taken", samples.len()),
    }
}

fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut chunk = name.to_vec();
    chunk.extend((content.len() as u32).to_le_bytes());
    chunk.extend(content);
    chunk
}

#[test]
fn a_recording_that_was_written_to_a_pipe_is_read_to_its_end() {
    // The headers are those in the output of each program.
    for (program, riff, stated) in [
        ("FFmpeg 7", u32::MAX, u32::MAX),
        ("SoX 14.4, eSpeak NG 1.51", 0x7fff_f024, 0x7fff_f000),
        ("SoX, whole frames of 6 bytes", 0x7fff_f044, 0x7fff_effc),
        ("arecord 1.2.8", 0x8000_0024, 0x8000_0000),
        ("a header that is filled in later", 0, 0),
        ("Python's wave before the first frame", 36, 0),
        ("only the file's size is known", 36 + 2 * FRAMES as u32, 0),
    ] {
        let wav = Wav {
            riff,
            stated,
            ..mono()
        };
        assert_eq!(frames(&wav), FRAMES, "{program}");
        // Ended in the middle of a frame.
        let cut = Wav {
            data: noise(2 * FRAMES - 1),
            ..wav
        };
        assert_eq!(frames(&cut), FRAMES - 1, "{program}");
    }
    let silent = Wav {
        stated: 0,
        data: vec![0; 2 * FRAMES],
        ..mono()
    };
    assert_eq!(frames(&silent), FRAMES, "silence is a recording, too");
}

#[test]
fn a_data_size_that_leaves_samples_out_is_refused_with_both_numbers() {
    for (riff, stated) in [
        // Python's `wave` on a pipe: the size of the first frames that were written.
        (36 + 2_000, 2_000),
        (36 + 2 * FRAMES as u32, 2_000),
        (u32::MAX, 2_000),
        (0, 2),
        (36 + 2 * FRAMES as u32, 2 * FRAMES as u32 - 8),
    ] {
        let text = said(&Wav {
            riff,
            stated,
            ..mono()
        });
        assert!(text.contains(&format!("{stated} bytes")), "{text}");
        let left_out = 2 * FRAMES - stated as usize;
        assert!(text.contains(&format!("{left_out} more")), "{text}");
    }
}

#[test]
fn a_data_size_beyond_the_file_is_refused() {
    for more in [1, 2, 36, 2 * FRAMES as u32] {
        let stated = 2 * FRAMES as u32 + more;
        assert!(
            said(&Wav { stated, ..mono() }).contains("cut short"),
            "{more}"
        );
    }
    assert!(
        said(&Wav {
            stated: 0x7ffe_ffff,
            ..mono()
        })
        .contains("cut short")
    );
}

#[test]
fn the_size_of_the_whole_file_does_not_matter_where_the_chunks_agree() {
    for riff in [0, 1, 36, 44 + 2 * FRAMES as u32, u32::MAX] {
        assert_eq!(frames(&Wav { riff, ..mono() }), FRAMES, "{riff}");
    }
}

#[test]
fn chunks_and_tags_behind_the_data_are_ignored() {
    let list = chunk(b"LIST", b"INFOISFT\x0e\0\0\0Lavf61.7.100\0\0");
    let mut id3 = b"TAG".to_vec();
    id3.resize(128, b' ');
    for after in [
        Vec::new(),
        b"more".to_vec(),
        list.clone(),
        [list.clone(), chunk(b"id3 ", b"ID3\x04\0")].concat(),
        // An odd chunk that is filled up, and one that is not.
        [chunk(b"cue ", b"abc"), vec![0], list.clone()].concat(),
        [chunk(b"cue ", b"abc"), list.clone()].concat(),
        vec![0; 512],
        [list.clone(), vec![0; 100]].concat(),
        id3,
    ] {
        assert_eq!(frames(&Wav { after, ..mono() }), FRAMES);
    }
    // Odd data, filled up or not.
    for after in [[vec![0], list.clone()].concat(), list.clone(), vec![0]] {
        let odd = Wav {
            after,
            ..Wav::of(1, 8, 1, noise(999))
        };
        assert_eq!(frames(&odd), 999);
    }
    // No samples at all.
    for after in [Vec::new(), list] {
        assert_eq!(
            frames(&Wav {
                after,
                ..Wav::of(1, 16, 1, Vec::new())
            }),
            0
        );
    }
}

#[test]
fn a_second_recording_in_the_file_is_refused() {
    for after in [
        chunk(b"data", &noise(100)),
        chunk(b"fmt ", &noise(16)),
        mono().file(),
    ] {
        assert!(said(&Wav { after, ..mono() }).contains("second recording"));
    }
    let before = chunk(b"fmt ", b"\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0");
    assert!(said(&Wav { before, ..mono() }).contains("two format chunks"));
    // One that does not say how long it is.
    let mut piped = mono();
    (piped.riff, piped.stated) = (u32::MAX, u32::MAX);
    assert!(
        said(&Wav {
            after: piped.file(),
            ..mono()
        })
        .contains("more bytes follow")
    );
    // Zeros that are longer than a filling.
    let more_zeros = Wav {
        after: vec![0; 8_000],
        ..mono()
    };
    assert!(said(&more_zeros).contains("8000 more"));
}

#[test]
fn chunks_before_the_data_may_be_odd_with_and_without_a_filling() {
    for before in [
        [chunk(b"bext", b"abc"), vec![0]].concat(),
        chunk(b"bext", b"abc"),
        [chunk(b"fact", &[0; 4]), chunk(b"LIST", b"a"), vec![0]].concat(),
    ] {
        assert_eq!(frames(&Wav { before, ..mono() }), FRAMES);
    }
    let beyond = [b"LIST".to_vec(), u32::MAX.to_le_bytes().to_vec()].concat();
    assert!(
        said(&Wav {
            before: beyond,
            ..mono()
        })
        .contains("cut short")
    );
}

/// The usual recording with another header.
fn changed(change: impl FnOnce(&mut Wav)) -> Wav {
    let mut wav = mono();
    change(&mut wav);
    wav
}

#[test]
fn every_field_of_the_format_that_contradicts_another_is_refused() {
    for (wav, word) in [
        (changed(|wav| wav.channels = 2), "contradicts"),
        (changed(|wav| wav.channels = 0), "0 channels"),
        (changed(|wav| wav.channels = 6), "6 channels"),
        (changed(|wav| wav.block = 4), "contradicts"),
        (changed(|wav| wav.block = 0), "contradicts"),
        (changed(|wav| wav.bits = 8), "contradicts"),
        (changed(|wav| wav.bits = 12), "12 bits"),
        (changed(|wav| wav.bits = 64), "64 bits"),
        (changed(|wav| wav.rate_hz = 8_000), "8000 samples a second"),
        (changed(|wav| wav.rate_hz = 32_000), "contradicts"),
        (changed(|wav| wav.rate_hz = 0), "0 samples a second"),
        (changed(|wav| wav.bytes_per_second = 16_000), "16000"),
        (changed(|wav| wav.bytes_per_second = u32::MAX), "4294967295"),
        (changed(|wav| wav.tag = 0), "format 0"),
        (changed(|wav| wav.tag = 2), "format 2"),
        (changed(|wav| wav.tag = 3), "format 3 with 16 bits"),
        (
            changed(|wav| {
                wav.tag = 6;
                wav.bits = 8;
            }),
            "format 6",
        ),
        (
            changed(|wav| {
                wav.tag = 7;
                wav.bits = 8;
            }),
            "format 7",
        ),
        (changed(|wav| wav.tag = 0x55), "format 85"),
    ] {
        let text = said(&wav);
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(
        frames(&Wav {
            bytes_per_second: 0,
            ..mono()
        }),
        FRAMES,
        "not stated"
    );
}

#[test]
fn the_extended_format_is_read_only_where_its_subformat_is_known() {
    const TAIL: &[u8] = b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71";
    let extended = |used: u16, sub: u16, tail: &[u8]| {
        let mut extension = b"\x16\0".to_vec();
        extension.extend(used.to_le_bytes());
        extension.extend(4u32.to_le_bytes());
        extension.extend(sub.to_le_bytes());
        extension.extend(tail);
        Wav {
            tag: 0xfffe,
            extension,
            ..mono()
        }
    };
    for used in [0, 12, 16] {
        assert_eq!(frames(&extended(used, 1, TAIL)), FRAMES, "{used}");
    }
    assert!(said(&extended(24, 1, TAIL)).contains("24 bits per sample"));
    assert!(said(&extended(16, 6, TAIL)).contains("format 6"));
    assert!(said(&extended(16, 3, TAIL)).contains("format 3 with 16 bits"));
    assert!(said(&extended(16, 1, &[7; 14])).contains("extended"));
    assert!(said(&extended(16, 1, &TAIL[..13])).contains("extended"));
}

#[test]
fn whole_numbers_stored_as_floating_point_without_scaling_are_refused() {
    let float = |values: &[f32]| {
        Wav::of(
            3,
            32,
            1,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    };
    assert!(said(&float(&[0.0, 12_000.0])).contains("Sample 1 of the WAV is 12000"));
    assert!(said(&float(&[0.0, 0.5, f32::NEG_INFINITY])).contains("Sample 2"));
    let file = float(&[1.5, -2.0]).file();
    assert_eq!(read(&file).unwrap().samples().unwrap(), [1.0, -1.0]);
}

proptest! {
    /// A header with a few wrong bytes gives an error, or exactly the samples that lie between the data's header and the end.
    #[test]
    fn no_change_of_a_header_makes_the_reader_panic_or_lose_samples(at in 4..44usize, bytes in prop::collection::vec(any::<u8>(), 1..5)) {
        let good = mono();
        let mut file = good.file();
        for (to, from) in file[at..44].iter_mut().zip(&bytes) {
            *to = *from;
        }
        if let Ok(recording) = read(&file) {
            let samples = recording.samples();
            // Rate and encoding may be others where all fields that state them agree; the bytes are all there.
            if let Ok(samples) = samples && file[20..36] == good.file()[20..36] {
                // Fewer bytes than a chunk's header may be left over.
                prop_assert!((FRAMES - 3..=FRAMES).contains(&samples.len()), "{}", samples.len());
            }
        }
    }

    #[test]
    fn any_tail_is_passed_over_or_refused_and_never_read_as_samples(after in prop::collection::vec(any::<u8>(), 0..300)) {
        let file = Wav { after, ..mono() }.file();
        if let Ok(recording) = read(&file) {
            prop_assert_eq!(recording.frames(), FRAMES);
        }
    }
}
