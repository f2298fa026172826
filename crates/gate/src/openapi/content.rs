//! Describes the content that the built-in adapters accept, each with an example that runs. Of other adapters only
//! the fact that they accept content is known.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The content that an adapter accepts.
pub struct Taken {
    /// The media types of a body that is the content itself.
    pub media_types: &'static [&'static str],
    /// Whether the adapter serves `/v1/embeddings`.
    pub embeds: bool,
    /// Returns an example part of content.
    pub part: fn() -> Value,
}

/// A picture of a vertical line: 16 by 16 grey pixels, PNG in base64.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAH0lEQVR42mP8z4AKmND4DCxQmpGB4T92FUNHgJGgbwEluwMf3+ftsgAAAABJRU5ErkJggg==";

/// The number of samples of silence in the example: slightly more than one step of the model.
const SAMPLES: usize = 640;
/// The sample rate of the example in hertz.
const RATE_HZ: u32 = 16_000;

/// Returns the content that the adapter of this name accepts; `None` if it is not built in.
pub fn taken(adapter: &str) -> Option<Taken> {
    let (media_types, embeds, part): (_, _, fn() -> Value) = match adapter {
        "magika" => (&["application/octet-stream"][..], false, bytes),
        "image" | "digits" | "object-detection" | "ocr" | "ocr-recognition" => {
            (&["image/png", "image/jpeg"][..], false, picture)
        }
        "silero-vad" => (&["audio/wav"][..], false, silence),
        "sentence" | "text-embedding" => (&["text/plain"][..], true, text),
        "text-classification" | "token-classification" => (&["text/plain"][..], false, text),
        _ => return None,
    };
    Some(Taken {
        media_types,
        embeds,
        part,
    })
}

fn text() -> Value {
    json!({ "type": "text", "text": "A cat sat on the mat." })
}

fn bytes() -> Value {
    json!({ "type": "bytes", "data": STANDARD.encode("#!/bin/sh\necho hello\n") })
}

fn picture() -> Value {
    json!({ "type": "image", "media_type": "image/png", "data": PICTURE })
}

/// Returns a recording without speech: RIFF, one channel, 16 bits.
fn silence() -> Value {
    let bytes = (SAMPLES * 2) as u32;
    let mut wav = Vec::with_capacity(44 + SAMPLES * 2);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + bytes).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&16u32.to_le_bytes());
    wav.extend_from_slice(&1u16.to_le_bytes());
    wav.extend_from_slice(&1u16.to_le_bytes());
    wav.extend_from_slice(&RATE_HZ.to_le_bytes());
    wav.extend_from_slice(&(RATE_HZ * 2).to_le_bytes());
    wav.extend_from_slice(&2u16.to_le_bytes());
    wav.extend_from_slice(&16u16.to_le_bytes());
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&bytes.to_le_bytes());
    wav.resize(44 + SAMPLES * 2, 0);
    json!({ "type": "audio", "media_type": "audio/wav", "data": STANDARD.encode(&wav) })
}
