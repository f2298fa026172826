//! Finds the segments of speech in a recording, by the probability that Silero VAD gives for each 32 ms.
//!
//! The model reads 512 samples and the 64 before them, and returns a state for the next chunk. A recording therefore takes
//! one run for each chunk. The recordings of a call run side by side: a run has a row for each recording with a chunk left.
//! They are sorted by length, the longest first, so that recordings that ended are the last rows and are cut off. Running
//! silence in their place would make every short recording of a batch as expensive as the longest.
//!
//! The rule for the chunks of a segment is that of the package `silero-vad` 6.2.3 with its defaults. Speech begins where
//! the probability reaches the threshold. It ends where the probability stays 0.15 below it for long enough.

use crate::outputs::{config, floats, json, tensor};
use crate::sound::{Recording, recording, resampled};
use crate::{Adapter, AdapterAnswer, AdapterRefusal, Item, RefusalKind, Step, each, only_part};
use penstock_tensor::{Datatype, Tensor};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

/// The sample rate of the model, in samples per second.
const RATE_HZ: u32 = 16_000;
/// New samples of a run.
const CHUNK: usize = 512;
/// Samples of the previous chunk that precede them.
const CONTEXT: usize = 64;
/// Numbers of one layer of the state of a recording. It has two layers.
const STATE: usize = 128;
/// The distance below the threshold at which speech ends.
const HYSTERESIS: f32 = 0.15;
/// The longest total length of the recordings of a call, in seconds. They take 37 MiB as samples of 4 bytes, and 18,750
/// chunks.
const MAX_CALL_SECONDS: u32 = 600;

/// The most runs of one call (`MAX_ADAPTER_RUNS` of the gate). A recording takes one for each of its chunks.
const MAX_RUNS: u32 = 4_096;
/// Largest `max_seconds` of a configuration: the whole seconds of as many chunks.
const MAX_RECORDING_SECONDS: u32 = MAX_RUNS * CHUNK as u32 / RATE_HZ;

#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The probability from which a chunk is speech.
    threshold: f32,
    /// Shorter segments of speech are dropped.
    min_speech_ms: u32,
    /// Shorter silence does not end speech.
    min_silence_ms: u32,
    /// The margin at both ends of a segment.
    speech_pad_ms: u32,
    /// The length of the longest recording.
    max_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            min_speech_ms: 250,
            min_silence_ms: 100,
            speech_pad_ms: 30,
            max_seconds: 60,
        }
    }
}

/// The adapter, opened with a configuration.
pub struct SileroVad {
    config: Config,
    recordings: RefCell<Option<Recordings>>,
}

/// The recordings of a call, the longest first.
struct Recordings {
    tracks: Vec<Track>,
    /// The number of chunks that have run.
    done: usize,
    /// The state of the recordings of the last run.
    state: Vec<f32>,
}

/// A recording in progress, with the probabilities of speech so far.
struct Track {
    /// Its index among the items.
    item: usize,
    /// Silence as long as the context, then the recording at the model's rate, then silence up to a whole
    /// number of chunks.
    samples: Vec<f32>,
    /// The number of samples of the recording itself.
    length: usize,
    duration_ms: u64,
    probabilities: Vec<f32>,
}

impl Track {
    fn chunks(&self) -> usize {
        (self.samples.len() - CONTEXT) / CHUNK
    }
}

/// The answer for a recording; times are in seconds.
#[derive(Serialize)]
struct Speech {
    segments: Vec<Segment>,
    /// The highest probability of all chunks.
    probability: f32,
    duration: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Segment {
    start: f64,
    end: f64,
}

impl Adapter for SileroVad {
    fn open(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let config: Config = config(name, bytes)?;
        if !(HYSTERESIS..1.0).contains(&config.threshold) {
            return Err(format!(
                "the configuration of adapter `{name}` is wrong: `threshold` must be {HYSTERESIS} to 1"
            ));
        }
        if !(1..=MAX_RECORDING_SECONDS).contains(&config.max_seconds) {
            return Err(format!(
                "the configuration of adapter `{name}` is wrong: `max_seconds` must be 1 to {MAX_RECORDING_SECONDS}, since a \
                 call may take {MAX_RUNS} runs of 32 ms"
            ));
        }
        Ok(Self {
            config,
            recordings: RefCell::default(),
        })
    }

    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
        let most_ms = u64::from(self.config.max_seconds) * 1000;
        let mut left_ms = u64::from(MAX_CALL_SECONDS) * 1000;
        let mut tracks = each(items, |item| {
            let part = only_part(item, "a recording")?;
            let at_part = |kind| (Some(0), kind);
            let recording = recording(&part).map_err(at_part)?;
            let duration_ms = recording.duration_ms();
            if duration_ms > most_ms {
                return Err(at_part(RefusalKind::InvalidContent(format!(
                    "The recording lasts {:.1} seconds; at most {} are accepted. Send it in pieces.",
                    duration_ms as f64 / 1000.0,
                    self.config.max_seconds
                ))));
            }
            left_ms = left_ms.checked_sub(duration_ms).ok_or_else(|| {
                at_part(RefusalKind::InvalidContent(format!(
                    "The recordings of this call last more than {MAX_CALL_SECONDS} seconds together. Send fewer in one call."
                )))
            })?;
            track(&recording).map_err(at_part)
        })?;
        for (item, track) in tracks.iter_mut().enumerate() {
            track.item = item;
        }
        tracks.sort_by_key(|track| std::cmp::Reverse(track.samples.len()));
        let mut recordings = Recordings {
            tracks,
            done: 0,
            state: Vec::new(),
        };
        recordings.state = vec![0.0; 2 * recordings.rows() * STATE];
        self.next(recordings).map_err(|text| AdapterRefusal {
            item: 0,
            part: None,
            kind: RefusalKind::InvalidContent(text),
        })
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let Some(mut recordings) = self.recordings.take() else {
            return Err("outputs were given, but the adapter requested no run".into());
        };
        let rows = recordings.rows();
        let probabilities = floats(&outputs, Some("output"), &[rows as u64, 1])?;
        recordings.state = floats(&outputs, Some("stateN"), &[2, rows as u64, STATE as u64])?;
        for (track, probability) in recordings.tracks.iter_mut().zip(probabilities) {
            track.probabilities.push(probability);
        }
        recordings.done += 1;
        let left = recordings.rows();
        if left < rows {
            // The state has two layers. Each loses the rows that have ended.
            recordings
                .state
                .copy_within(rows * STATE..(rows + left) * STATE, left * STATE);
            recordings.state.truncate(2 * left * STATE);
        }
        self.next(recordings)
    }
}

/// Decodes a recording to samples at the model's rate, with silence around them.
fn track(recording: &Recording<'_>) -> Result<Track, RefusalKind> {
    let duration_ms = recording.duration_ms();
    let heard = resampled(recording.samples()?, recording.rate_hz, RATE_HZ);
    let length = heard.len();
    let mut samples = vec![0.0; CONTEXT];
    samples.extend(heard);
    samples.resize(CONTEXT + length.next_multiple_of(CHUNK), 0.0);
    Ok(Track {
        item: 0,
        samples,
        length,
        duration_ms,
        probabilities: Vec::new(),
    })
}

impl Recordings {
    /// The number of recordings with a chunk left. They are the first ones.
    fn rows(&self) -> usize {
        self.tracks
            .partition_point(|track| track.chunks() > self.done)
    }
}

impl SileroVad {
    /// The next run, or the answers.
    fn next(&self, recordings: Recordings) -> Result<Step, String> {
        let rows = recordings.rows();
        if rows == 0 {
            return self.answers(recordings.tracks);
        }
        let at = recordings.done * CHUNK;
        let mut input = Vec::with_capacity(rows * (CONTEXT + CHUNK) * size_of::<f32>());
        for track in &recordings.tracks[..rows] {
            for sample in &track.samples[at..at + CONTEXT + CHUNK] {
                input.extend_from_slice(&sample.to_le_bytes());
            }
        }
        let tensors = vec![
            Tensor {
                name: "input".into(),
                datatype: Datatype::Fp32,
                shape: vec![rows as u64, (CONTEXT + CHUNK) as u64],
                data: input.into(),
            },
            tensor(
                "state",
                vec![2, rows as u64, STATE as u64],
                &recordings.state,
            ),
            Tensor {
                name: "sr".into(),
                datatype: Datatype::Int64,
                shape: Vec::new(),
                data: i64::from(RATE_HZ).to_le_bytes().to_vec().into(),
            },
        ];
        self.recordings.replace(Some(recordings));
        Ok(Step::Tensors(tensors))
    }

    fn answers(&self, mut tracks: Vec<Track>) -> Result<Step, String> {
        tracks.sort_by_key(|track| track.item);
        let answers = tracks.into_iter().map(|track| {
            let told = Speech {
                segments: segments(&track.probabilities, track.length, &self.config),
                probability: track.probabilities.iter().copied().fold(0.0, f32::max),
                duration: track.duration_ms as f64 / 1000.0,
            };
            Ok(AdapterAnswer {
                text: json(&told)?,
                units: track.duration_ms,
            })
        });
        answers.collect::<Result<_, String>>().map(Step::Answers)
    }
}

/// The segments of speech in a recording of this many samples, by the probability of each chunk.
fn segments(probabilities: &[f32], length: usize, config: &Config) -> Vec<Segment> {
    let samples = |ms: u32| ms as usize * (RATE_HZ as usize / 1000);
    let (min_speech, min_silence) = (
        samples(config.min_speech_ms),
        samples(config.min_silence_ms),
    );
    let mut spoken: Vec<(usize, usize)> = Vec::new();
    let mut began: Option<usize> = None;
    // The first silent sample since the last speech.
    let mut fell_silent: Option<usize> = None;
    let long_enough = |start: usize, end: usize| end - start > min_speech;
    for (chunk, probability) in probabilities.iter().enumerate() {
        let at = chunk * CHUNK;
        if *probability >= config.threshold {
            fell_silent = None;
            began.get_or_insert(at);
        } else if *probability < config.threshold - HYSTERESIS
            && let Some(start) = began
        {
            let end = *fell_silent.get_or_insert(at);
            if at - end >= min_silence {
                if long_enough(start, end) {
                    spoken.push((start, end));
                }
                (began, fell_silent) = (None, None);
            }
        }
    }
    if let Some(start) = began
        && start < length
        && long_enough(start, length)
    {
        spoken.push((start, length));
    }
    // Two segments closer than twice the margin share the gap between them.
    let pad = samples(config.speech_pad_ms);
    for at in 0..spoken.len() {
        if at == 0 {
            spoken[at].0 = spoken[at].0.saturating_sub(pad);
        }
        let end = spoken[at].1;
        match spoken.get(at + 1).map(|(start, _)| start - end) {
            Some(silence) if silence < 2 * pad => {
                spoken[at].1 += silence / 2;
                spoken[at + 1].0 -= silence / 2;
            }
            Some(_) => {
                spoken[at].1 += pad;
                spoken[at + 1].0 -= pad;
            }
            None => spoken[at].1 = (end + pad).min(length),
        }
    }
    // To the millisecond: a chunk is 32 of them.
    let seconds = |sample: usize| (sample as f64 / f64::from(RATE_HZ) * 1000.0).round() / 1000.0;
    spoken
        .into_iter()
        .map(|(start, end)| Segment {
            start: seconds(start),
            end: seconds(end),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sound::tests::wav_of;
    use crate::{Blob, Part};
    use serde_json::Value;

    fn item(body: &[u8]) -> Item<'_> {
        Item {
            parts: vec![Part::Audio(Blob {
                media_type: None,
                body,
            })],
        }
    }

    /// A recording of so many samples, each its number.
    fn counting(samples: usize) -> Vec<u8> {
        let data: Vec<u8> = (0..samples)
            .flat_map(|n| (n as i16).to_le_bytes())
            .collect();
        wav_of(1, 16, 1, RATE_HZ, &data)
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        let (chunks, _) = tensor.data.as_chunks::<4>();
        chunks.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn open(config: &str) -> SileroVad {
        SileroVad::open("silero-vad", config.as_bytes()).unwrap()
    }

    /// Runs a model that says how often a row's state has been through it, in hundredths, and holds every
    /// run against the contract.
    fn run(vad: &SileroVad, items: &[Item<'_>]) -> (Vec<u64>, Vec<Value>) {
        let mut rows = Vec::new();
        let mut step = vad.prepare(items).unwrap();
        loop {
            let tensors = match step {
                Step::Tensors(tensors) => tensors,
                Step::Answers(answers) => {
                    let read = |a: &AdapterAnswer| serde_json::from_str(&a.text).unwrap();
                    return (rows, answers.iter().map(read).collect());
                }
                Step::Other(..) => panic!("there is no pipeline"),
            };
            assert!(tensors.iter().all(Tensor::is_consistent));
            let [input, state, sr] = &tensors[..] else {
                panic!("{tensors:?}");
            };
            let n = input.shape[0];
            assert_eq!(
                (&input.shape[..], &state.shape[..]),
                (&[n, 576][..], &[2, n, 128][..])
            );
            assert_eq!(
                (sr.shape.len(), &sr.data[..]),
                (0, &16_000i64.to_le_bytes()[..])
            );
            rows.push(n);
            let input = numbers(input);
            let mut state = numbers(state);
            for row in 0..n as usize {
                // The context is the end of the chunk before.
                let chunk = &input[row * 576..(row + 1) * 576];
                let step = rows.len() as f32 - 1.0;
                assert!((chunk[64] * 32_768.0 - step * 512.0).abs() < 0.5 || chunk[64] == 0.0);
                if rows.len() > 1 && chunk[64] != 0.0 {
                    assert!((chunk[63] * 32_768.0 - step * 512.0 + 1.0).abs() < 0.5);
                }
                // Both layers have been as often through the model as there were chunks.
                for layer in 0..2 {
                    let own = &mut state[(layer * n as usize + row) * 128..][..128];
                    assert!(
                        own.iter().all(|v| *v == step),
                        "row {row} of {n} in step {step}"
                    );
                    own.fill(step + 1.0);
                }
            }
            let probabilities = vec![rows.len() as f32 / 100.0; n as usize];
            step = vad
                .advance(vec![
                    tensor("output", vec![n, 1], &probabilities),
                    tensor("stateN", vec![2, n, 128], &state),
                ])
                .unwrap();
        }
    }

    #[test]
    fn recordings_run_side_by_side_and_leave_when_they_end() {
        let (short, long, none) = (counting(513), counting(512 * 4), counting(0));
        let items = [item(&short), item(&none), item(&long), item(&short)];
        let (rows, answers) = run(&open(""), &items);
        assert_eq!(rows, [3, 3, 1, 1]);
        let highest: Vec<&Value> = answers.iter().map(|a| &a["probability"]).collect();
        assert_eq!(highest, [&0.02, &0.0, &0.04, &0.02]);
        assert_eq!(answers[2]["duration"], 0.128);
        assert_eq!(answers[1]["segments"], Value::Array(vec![]));
    }

    #[test]
    fn units_are_milliseconds_of_sound_at_the_recordings_own_rate() {
        let vad = open("");
        let file = wav_of(1, 8, 2, 8_000, &[128; 2 * 801]);
        let mut step = vad.prepare(&[item(&file)]).unwrap();
        while let Step::Tensors(_) = step {
            step = vad
                .advance(vec![
                    tensor("output", vec![1, 1], &[0.0]),
                    tensor("stateN", vec![2, 1, 128], &[0.0; 256]),
                ])
                .unwrap();
        }
        let Step::Answers(answers) = step else {
            panic!("{step:?}");
        };
        assert_eq!(answers[0].units, 101);
    }

    #[test]
    fn recordings_that_last_too_long_are_refused_with_the_limit() {
        let vad = open(r#"{"max_seconds":1}"#);
        let second = wav_of(1, 8, 1, 4_000, &[128; 4_000]);
        let more = wav_of(1, 8, 1, 4_000, &[128; 4_001]);
        assert!(vad.prepare(&[item(&second)]).is_ok());
        let refusal = vad.prepare(&[item(&second), item(&more)]).unwrap_err();
        assert_eq!((refusal.item, refusal.part), (1, Some(0)));
        let RefusalKind::InvalidContent(text) = refusal.kind else {
            panic!("{refusal:?}");
        };
        assert!(text.contains("at most 1 "), "{text}");
        let minute = wav_of(1, 8, 1, 4_000, &vec![128; 240_000]);
        let items: Vec<Item<'_>> = (0..11).map(|_| item(&minute)).collect();
        let refusal = open("").prepare(&items).unwrap_err();
        assert_eq!((refusal.item, refusal.part), (10, Some(0)));
    }

    #[test]
    fn outputs_that_do_not_fit_are_an_error_and_no_panic() {
        let vad = open("");
        let good = || tensor("output", vec![1, 1], &[0.5]);
        let state = || tensor("stateN", vec![2, 1, 128], &[0.0; 256]);
        assert!(vad.advance(vec![good(), state()]).is_err(), "nothing runs");
        let file = counting(5_000);
        for outputs in [
            vec![],
            vec![good()],
            vec![state()],
            vec![tensor("output", vec![2, 1], &[0.5; 2]), state()],
            vec![good(), tensor("stateN", vec![2, 128], &[0.0; 256])],
            vec![tensor("output", vec![1, 1], &[f32::NAN]), state()],
        ] {
            assert!(vad.prepare(&[item(&file)]).is_ok());
            assert!(vad.advance(outputs).is_err());
        }
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_an_error() {
        for config in [
            r#"{"threshold":1.5}"#,
            r#"{"threshold":0}"#,
            r#"{"max_seconds":0}"#,
            r#"{"max_seconds":132}"#,
            r#"{"min_speech_ms":-1}"#,
            r#"{"treshold":0.5}"#,
            "{",
        ] {
            assert!(
                SileroVad::open("silero-vad", config.as_bytes()).is_err(),
                "{config}"
            );
        }
    }

    /// Segments in chunks and parts of chunks, without margins.
    fn spoken(probabilities: &[f32], config: &Config) -> Vec<(f64, f64)> {
        let length = probabilities.len() * CHUNK;
        let chunk = 0.032;
        segments(probabilities, length, config)
            .iter()
            .map(|s| {
                (
                    (s.start / chunk * 100.0).round() / 100.0,
                    (s.end / chunk * 100.0).round() / 100.0,
                )
            })
            .collect()
    }

    fn bare() -> Config {
        Config {
            speech_pad_ms: 0,
            ..Config::default()
        }
    }

    #[test]
    fn speech_begins_at_the_threshold_and_ends_well_below_it() {
        let mut heard = vec![0.0; 30];
        heard[5..15].fill(0.5);
        // Not low enough to end it.
        heard[15..20].fill(0.36);
        assert_eq!(spoken(&heard, &bare()), [(5.0, 20.0)]);
        heard[15..20].fill(0.34);
        assert_eq!(spoken(&heard, &bare()), [(5.0, 15.0)]);
        heard.fill(0.49);
        assert_eq!(spoken(&heard, &bare()), []);
        heard.fill(0.5);
        assert_eq!(spoken(&heard, &bare()), [(0.0, 30.0)]);
    }

    #[test]
    fn a_short_silence_does_not_end_speech_and_a_short_sound_is_none() {
        let mut heard = vec![0.0; 40];
        heard[2..12].fill(0.9);
        // 3 chunks are 96 ms.
        heard[15..25].fill(0.9);
        assert_eq!(spoken(&heard, &bare()), [(2.0, 25.0)]);
        let mut heard = vec![0.0; 40];
        heard[2..12].fill(0.9);
        heard[17..27].fill(0.9);
        assert_eq!(spoken(&heard, &bare()), [(2.0, 12.0), (17.0, 27.0)]);
        // 7 chunks are 224 ms.
        let mut heard = vec![0.0; 40];
        heard[5..12].fill(0.9);
        assert_eq!(spoken(&heard, &bare()), []);
    }

    #[test]
    fn margins_stop_at_the_ends_and_half_way_to_the_neighbour() {
        let config = Config {
            speech_pad_ms: 96,
            ..Config::default()
        };
        let mut heard = vec![0.0; 30];
        heard[1..12].fill(0.9);
        heard[17..28].fill(0.9);
        assert_eq!(spoken(&heard, &config), [(0.0, 14.5), (14.5, 30.0)]);
    }

    proptest::proptest! {
        #[test]
        fn segments_are_in_order_and_within_the_recording(
            heard in proptest::collection::vec(0.0..1.0f32, 0..200),
            cut in 0..CHUNK,
            min_speech_ms in 0..400u32,
            min_silence_ms in 0..400u32,
            speech_pad_ms in 0..400u32,
        ) {
            let config = Config { min_speech_ms, min_silence_ms, speech_pad_ms, ..Config::default() };
            let length = (heard.len() * CHUNK).saturating_sub(cut);
            let mut last = 0.0;
            for segment in segments(&heard, length, &config) {
                proptest::prop_assert!(segment.start >= last && segment.end >= segment.start);
                last = segment.end;
            }
            proptest::prop_assert!(last <= length as f64 / 16_000.0 + 0.001);
        }
    }
}
