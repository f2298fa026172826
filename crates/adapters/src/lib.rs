//! Adapters turn content into tensors, and a model's outputs into answers. Each adapter is plain Rust behind [`Adapter`]. The
//! crate `guest` turns [`Builtin`], which has all of them by name, into one component.
//!
//! * [`magika`]: bytes of a file to features, scores to a kind of content;
//! * [`image`]: PNG and JPEG for classifiers of images, and [`digits`], for handwritten digits;
//! * [`objects`]: PNG and JPEG to boxes of objects;
//! * [`lines`]: an image of a line to its text, and [`ocr`]: an image to its lines, by two models;
//! * [`silero_vad`]: WAV to chunks, one run after the other, and probabilities to segments of speech;
//! * [`sentence`]: text to tokens, and their vectors to an embedding;
//! * [`text`]: texts and pairs by a `tokenizer.json`, to vectors, classes, scores and entities.
//!
//! They use [`picture`], [`sound`], [`wordpiece`] and `tokenizer`, which are independent of models.
//!
//! [`Adapter::prepare`] takes items and returns the next [`Step`]: run the model on tensors, or return answers. The outputs
//! of a run go to [`Adapter::advance`], which returns the next step. A model that keeps state between runs takes many steps.
//! An adapter keeps its own state between two steps, and drops it at the next `prepare`.
//!
//! The content is untrusted. No content makes an adapter panic. Its allocations are bounded by the bytes that have arrived
//! and by named limits, never by a size that a header claims.

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
pub use penstock_tensor::content::{
    AdapterAnswer, AdapterRefusal, Blob, Item, Part, RefusalKind, Step,
};

/// One adapter, opened for a model.
pub trait Adapter: Sized + 'static {
    /// Opens the adapter with the name and the configuration of the contract. The error is a sentence for the operator.
    fn open(name: &str, config: &[u8]) -> Result<Self, String>;
    /// Begins with some items, at least one. Drops the state of earlier items.
    fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal>;
    /// As [`Adapter::prepare`], but truncates every longer text to `tokens` tokens, special tokens included, or to the
    /// model's maximum if that is less. An adapter that counts no tokens ignores the number.
    fn prepare_cut(&self, items: &[Item<'_>], tokens: u32) -> Result<Step, AdapterRefusal> {
        let _ = tokens;
        self.prepare(items)
    }
    /// Continues with the outputs of the requested run. The error is a sentence for the operator.
    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String>;
}

macro_rules! builtin {
    ($($name:literal => $variant:ident($adapter:path)),* $(,)?) => {
        /// The adapters that come with the server.
        pub enum Builtin {
            $(#[doc = concat!("`", $name, "`")] $variant($adapter),)*
        }

        /// The names of the adapters in [`Builtin`].
        pub const NAMES: &[&str] = &[$($name),*];

        impl Adapter for Builtin {
            fn open(name: &str, config: &[u8]) -> Result<Self, String> {
                match name {
                    $($name => <$adapter>::open(name, config).map(Self::$variant),)*
                    _ => Err(format!("no adapter is named `{name}`; use one of: {}", NAMES.join(", "))),
                }
            }

            fn prepare(&self, items: &[Item<'_>]) -> Result<Step, AdapterRefusal> {
                match self { $(Self::$variant(adapter) => adapter.prepare(items),)* }
            }

            fn prepare_cut(&self, items: &[Item<'_>], tokens: u32) -> Result<Step, AdapterRefusal> {
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

/// The refusal of content before its item is known: the part, if known, and the reason.
pub(crate) type ContentRefusal = (Option<u32>, RefusalKind);

/// The only part of an item, for adapters that accept one part.
pub(crate) fn only_part<'a>(item: &Item<'a>, takes: &str) -> Result<Part<'a>, ContentRefusal> {
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

/// Applies a function to each item. The error has the place of the first refused item.
pub(crate) fn each<'a, T>(
    items: &[Item<'a>],
    mut make: impl FnMut(&Item<'a>) -> Result<T, ContentRefusal>,
) -> Result<Vec<T>, AdapterRefusal> {
    items
        .iter()
        .zip(0u32..)
        .map(|(item, place)| {
            make(item).map_err(|(part, kind)| AdapterRefusal {
                item: place,
                part,
                kind,
            })
        })
        .collect()
}
