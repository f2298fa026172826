//! Checks a guess: opens the adapter with its configuration, and lets it prepare an example, run the model and answer.

use super::facts::Proposal;
use penstock_adapters::{Adapter, Blob, Builtin, Item, Part, RefusalKind, Step};
use penstock_nn::Backends;
use penstock_nn::trial::Loaded;
use penstock_tensor::Contract;
use std::path::Path;

/// Most runs of an example. A recording takes one for each of its parts.
const MAX_RUNS: usize = 64;

/// A grey image of 2 by 2 pixels.
const PNG: &[u8] = &[
    137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0,
    0, 0, 87, 221, 82, 248, 0, 0, 0, 14, 73, 68, 65, 84, 120, 218, 99, 96, 16, 96, 16, 80, 0, 0, 0,
    134, 0, 65, 10, 121, 60, 214, 0, 0, 0, 0, 73, 69, 78, 68, 174, 66, 96, 130,
];

/// Texts of different lengths, so that the shorter one is padded.
const TEXTS: [&str; 2] = ["A short text.", "And one that is longer than that."];

/// A tenth of a second of silence at 16 kHz.
fn silence() -> Vec<u8> {
    const SAMPLES: u32 = 1_600;
    const RATE: u32 = 16_000;
    let bytes = SAMPLES * 2;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + bytes).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16u32.to_le_bytes());
    for number in [1u16, 1] {
        wav.extend(number.to_le_bytes());
    }
    wav.extend(RATE.to_le_bytes());
    wav.extend((RATE * 2).to_le_bytes());
    for number in [2u16, 16] {
        wav.extend(number.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend(bytes.to_le_bytes());
    wav.resize(wav.len() + bytes as usize, 0);
    wav
}

/// Returns the adapter's answer for the first example, as JSON.
///
/// # Errors
///
/// Why it gives none: the configuration, the content of its files, the model's inputs, the run or the outputs.
pub(crate) fn tried(
    proposal: &Proposal,
    contract: &Contract,
    graph: &Path,
    backends: &Backends,
) -> Result<String, String> {
    let adapter = Builtin::open(proposal.name, &proposal.whole()?)?;
    let model = Loaded::open(contract, graph, backends).map_err(|error| error.message)?;
    let wav = silence();
    let blob = |body| Blob {
        media_type: None,
        body,
    };
    let item = |text: &'static str| match proposal.name {
        "image" => vec![Part::Image(blob(PNG))],
        "silero-vad" => vec![Part::Audio(blob(&wav))],
        "cross-encoder" => vec![Part::Text(TEXTS[0]), Part::Text(text)],
        _ => vec![Part::Text(text)],
    };
    // Several items run together only where the contract counts them.
    let count = if contract.batch_axis().is_some() {
        2
    } else {
        1
    };
    let items = TEXTS[..count].iter().map(|text| Item { parts: item(text) });
    let items: Vec<Item<'_>> = items.collect();
    let mut step = adapter
        .prepare(&items)
        .map_err(|refusal| match refusal.kind {
            RefusalKind::UnsupportedMediaType(text)
            | RefusalKind::InvalidContent(text)
            | RefusalKind::TooLong(text) => text,
        })?;
    for _ in 0..MAX_RUNS {
        let inputs = match step {
            Step::Tensors(inputs) => inputs,
            Step::Other(name, _) => return Err(format!("it needs the model of the step {name}")),
            Step::Answers(answers) => {
                let first = answers.into_iter().next();
                return first
                    .map(|answer| answer.text)
                    .ok_or_else(|| "it gave no answer".into());
            }
        };
        let outputs = model.run(&inputs).map_err(|error| error.message)?;
        step = adapter.advance(outputs)?;
    }
    Err(format!(
        "it needs more than {MAX_RUNS} runs for a short example"
    ))
}
