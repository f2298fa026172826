//! Content that an adapter makes tensors of, and what the adapter wants done with them. The adapters and the gate share
//! these types; the WIT package `penstock:adapter` says the same for components.

use crate::Tensor;

/// A file, an image or a recording as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a> {
    /// The media type the caller stated.
    pub media_type: Option<&'a str>,
    /// Its bytes.
    pub body: &'a [u8],
}

/// A piece of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Text.
    Text(&'a str),
    /// Text that was taken apart already: numbers in the model's vocabulary.
    Tokens(&'a [u32]),
    /// An image.
    Image(Blob<'a>),
    /// A recording.
    Audio(Blob<'a>),
    /// What the caller said nothing of but its media type.
    Bytes(Blob<'a>),
}

/// What one answer is wanted for: its parts, in the caller's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item<'a> {
    /// The parts.
    pub parts: Vec<Part<'a>>,
}

/// One item's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// JSON text.
    pub text: String,
    /// What the item had of what such models count: tokens, milliseconds of sound; 0 where nothing is
    /// counted.
    pub units: u64,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run the model on these tensors, and hand its outputs to the adapter's `advance`.
    Tensors(Vec<Tensor>),
    /// Run another model on these tensors, the step of this name in the pipeline of the contract, and hand its outputs to
    /// the adapter's `advance`.
    Other(String, Vec<Tensor>),
    /// These are the answers, one for each item.
    Answers(Vec<Answer>),
}

/// Why an item is refused; each is the caller's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The adapter does not take such content; the text names what it takes.
    UnsupportedMediaType(String),
    /// The content is not what its type says, or the model cannot use it.
    InvalidContent(String),
    /// The content is longer than the model can read.
    TooLong(String),
}

/// A refusal, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which of the items, from 0.
    pub item: u32,
    /// Which of its parts, where it is one of them.
    pub part: Option<u32>,
    /// Why.
    pub kind: RefusalKind,
}
