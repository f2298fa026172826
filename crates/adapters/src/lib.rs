//! Decides what adapters make of content and of a model's outputs. Each adapter is plain Rust behind
//! [`Adapter`]; the guest room turns [`Builtin`], which is all of them by name, into one component.
//!
//! * [`magika`]: bytes of a file to features, scores to a kind of content;
//! * [`image`]: PNG and JPEG for classifiers of images, and [`digits`], for handwritten digits;
//! * [`objects`]: PNG and JPEG to boxes of objects;
//! * [`lines`]: an image of a line to its text, and [`ocr`]: an image to its lines, by two models;
//! * [`silero_vad`]: WAV to chunks, one run after the other, and probabilities to segments of speech;
//! * [`sentence`]: text to tokens, and their vectors to an embedding;
//! * [`text`]: texts and pairs by a `tokenizer.json`, to vectors, classes, scores and entities.
//!
//! Those stand on [`picture`], [`sound`], [`wordpiece`] and `tokenizer`, which know of no model.
//!
//! An adapter is asked to [`Adapter::prepare`] some items, and says by a [`Step`] what is to be done:
//! run the model on tensors, or pass answers on. The outputs of a run go to [`Adapter::advance`], which
//! gives the next step; a model that keeps a state between its runs takes many. An adapter holds what
//! it needs between two steps, and forgets it at the next `prepare`.
//!
//! The content comes from strangers. No byte of it makes an adapter panic, and what is allocated is
//! bounded by what has arrived and by named limits, never by what a header claims.

#![forbid(unsafe_code)]

pub mod digits;
pub mod image;
pub mod lines;
pub mod magika;
pub mod objects;
pub mod ocr;
mod outputs;
pub mod picture;
pub mod sentence;
pub mod silero_vad;
pub mod sound;
pub mod text;
mod tokenizer;
pub mod wordpiece;

use penstock_tensor::Tensor;
pub use penstock_tensor::content::{Answer, Blob, Item, Part, Refusal, RefusalKind, Step};

/// One adapter, opened for a model.
pub trait Adapter: Sized + 'static {
    /// Opens the adapter with the name and configuration the contract gives; the error is a sentence
    /// for the operator.
    fn open(name: &str, config: &[u8]) -> Result<Self, String>;
    /// Begins with some items, at least one; what it was doing before is forgotten.
    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, Refusal>;
    /// As [`Adapter::prepare`], with every text of more tokens cut at its end to `tokens`, those around it included, or
    /// to as many as the model can read where that is less. An adapter that counts no tokens ignores the number.
    fn prepare_cut(&self, items: &[Item<'_>], tokens: u32) -> Result<Step, Refusal> {
        let _ = tokens;
        self.prepare(items)
    }
    /// Goes on with the outputs of the run it asked for; the error is a sentence for the operator.
    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String>;
}

macro_rules! builtin {
    ($($name:literal => $variant:ident($adapter:path)),* $(,)?) => {
        /// The adapters that come with the server.
        pub enum Builtin {
            $(#[doc = concat!("`", $name, "`")] $variant($adapter),)*
        }

        /// What [`Builtin`] can be opened as.
        pub const NAMES: &[&str] = &[$($name),*];

        impl Adapter for Builtin {
            fn open(name: &str, config: &[u8]) -> Result<Self, String> {
                match name {
                    $($name => <$adapter>::open(name, config).map(Self::$variant),)*
                    _ => Err(format!("no adapter is named `{name}`; use one of: {}", NAMES.join(", "))),
                }
            }

            fn prepare(&self, items: &[Item<'_>]) -> Result<Step, Refusal> {
                match self { $(Self::$variant(adapter) => adapter.prepare(items),)* }
            }

            fn prepare_cut(&self, items: &[Item<'_>], tokens: u32) -> Result<Step, Refusal> {
                match self { $(Self::$variant(adapter) => adapter.prepare_cut(items, tokens),)* }
            }

            fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
                match self { $(Self::$variant(adapter) => adapter.advance(outputs),)* }
            }
        }
    };
}

builtin! {
    "digits" => Digits(digits::Digits),
    "image" => Image(image::Image),
    "magika" => Magika(magika::Magika),
    "sentence" => Sentence(sentence::Sentence),
    "object-detection" => ObjectDetection(objects::Objects),
    "ocr" => Ocr(ocr::Ocr),
    "ocr-recognition" => OcrRecognition(lines::Lines),
    "silero-vad" => SileroVad(silero_vad::SileroVad),
    "text-embedding" => TextEmbedding(text::Text),
    "text-classification" => TextClassification(text::Text),
    "cross-encoder" => CrossEncoder(text::Text),
    "token-classification" => TokenClassification(text::Text),
}

/// Why a piece of content is refused, before its place is known.
pub(crate) type Refused = (Option<u32>, RefusalKind);

/// The one part of an item, for adapters that look at one thing at a time.
pub(crate) fn only_part<'a>(item: &Item<'a>, takes: &str) -> Result<Part<'a>, Refused> {
    match item.parts.as_slice() {
        [part] => Ok(*part),
        [] => Err((
            None,
            RefusalKind::InvalidContent(format!(
                "The content has no parts; this model takes {takes}."
            )),
        )),
        parts => Err((
            Some(1),
            RefusalKind::InvalidContent(format!(
                "The content has {} parts; this model takes one: {takes}.",
                parts.len()
            )),
        )),
    }
}

/// Makes something of each item, and tells the place of the first that is refused.
pub(crate) fn each<'a, T>(
    items: &[Item<'a>],
    mut make: impl FnMut(&Item<'a>) -> Result<T, Refused>,
) -> Result<Vec<T>, Refusal> {
    items
        .iter()
        .zip(0u32..)
        .map(|(item, place)| {
            make(item).map_err(|(part, kind)| Refusal {
                item: place,
                part,
                kind,
            })
        })
        .collect()
}
