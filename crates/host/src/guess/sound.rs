//! Models that read sound: the adapter for Silero VAD, and questions about all others.

use super::facts::{Facts, Guess, Proposal, fixed};
use super::image::PREPROCESSOR;
use penstock_nn::backend::PortType;
use penstock_nn::{Port, TensorType};

/// Names that inputs have which take the samples of a recording.
const SAMPLES: [&str; 12] = [
    "input_values",
    "waveform",
    "waveforms",
    "wav",
    "wave",
    "audio",
    "audio_signal",
    "input_audio",
    "speech",
    "samples",
    "sound",
    "pcm",
];

pub(super) fn guess(facts: &Facts<'_>) -> Guess {
    if is_silero(facts) {
        return Guess::Adapter(Proposal {
            name: "silero-vad",
            remarks: vec![
                "Is this Silero VAD 5 or 6? Its inputs and outputs are those of that model at 16 kHz, which the adapter \
                 \"silero-vad\" needs; no file beside the graph names it."
                    .into(),
            ],
            ..Proposal::default()
        });
    }
    let file = facts.json(PREPROCESSOR);
    let rate = file
        .as_ref()
        .and_then(|file| file.get("sampling_rate")?.as_u64());
    let input = (facts.description.inputs.iter()).find(|port| is_float(port));
    if let (Some(file), Some(rate), Some(input)) = (file, rate, input) {
        let kind = ["feature_extractor_type", "image_processor_type"];
        let kind = kind.iter().find_map(|member| file[*member].as_str());
        let members = [
            "feature_size",
            "num_mel_bins",
            "n_fft",
            "hop_length",
            "chunk_length",
            "do_normalize",
        ];
        let values: String = (members.iter())
            .filter_map(|member| Some(format!(", {member} = {}", file.get(*member)?)))
            .collect();
        return Guess::Ask(format!(
            "Does {} take sound at {rate} Hz, prepared by {}? {PREPROCESSOR} says so{values}. No adapter prepares it: callers \
             send tensors, or you write an adapter (docs/EXTENDING.md).",
            input.name,
            kind.unwrap_or("its own library"),
        ));
    }
    let samples = (facts.description.inputs.iter()).find(|port| takes_samples(port));
    match samples {
        Some(port) => Guess::Ask(format!(
            "Does {} take the samples of a recording? Say its sampling rate in Hz in the input's description; no file \
             beside the graph has it. No adapter prepares it: callers send tensors, or you write an adapter \
             (docs/EXTENDING.md).",
            port.name
        )),
        None => Guess::Nothing,
    }
}

fn is_float(port: &Port) -> bool {
    port.ty == PortType::Tensor(TensorType::Fp32)
}

/// Returns whether an input has the name of samples, and an open axis for them behind those of items and channels.
fn takes_samples(port: &Port) -> bool {
    let dims = port.dims.as_deref().unwrap_or_default();
    SAMPLES.contains(&port.name.to_lowercase().as_str())
        && is_float(port)
        && (1..=3).contains(&dims.len())
        && dims.last().is_some_and(|dim| fixed(dim).is_none())
}

/// Returns whether the ports are those of Silero VAD 5 and 6: samples, the state of two layers, and the sampling rate.
fn is_silero(facts: &Facts<'_>) -> bool {
    let has = |port: Option<&Port>, ty: TensorType, lengths: &[Option<u32>]| {
        let Some(port) = port else { return false };
        let Some(dims) = port.dims.as_deref() else {
            return false;
        };
        port.ty == PortType::Tensor(ty)
            && dims.len() == lengths.len()
            && (dims.iter().zip(lengths)).all(|(dim, length)| {
                length.is_none() || fixed(dim).is_none() || fixed(dim) == *length
            })
    };
    let (inputs, outputs) = (&facts.description.inputs, &facts.description.outputs);
    inputs.len() == 3
        && outputs.len() == 2
        && has(facts.input("input"), TensorType::Fp32, &[None, Some(576)])
        && has(
            facts.input("state"),
            TensorType::Fp32,
            &[Some(2), None, Some(128)],
        )
        && has(facts.input("sr"), TensorType::I64, &[])
        && facts.output("output").is_some()
        && facts.output("stateN").is_some()
}
