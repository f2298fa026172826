//! The content that an adapter turns into tensors, and the adapter's next step. The adapters and the gate share these
//! types; the WIT package `penstock:adapter` has the same types for components.

use crate::Tensor;

/// A file, an image or a recording, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a> {
    /// The media type that the caller stated.
    pub media_type: Option<&'a str>,
    /// The bytes of the file, as sent.
    pub body: &'a [u8],
}

/// A piece of content, of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A text, in UTF-8.
    Text(&'a str),
    /// Text as token ids of the model's vocabulary.
    Tokens(&'a [u32]),
    /// The file of an image, not decoded.
    Image(Blob<'a>),
    /// The file of a recording, not decoded.
    Audio(Blob<'a>),
    /// Bytes of which only the media type is known.
    Bytes(Blob<'a>),
}

/// The content for one answer: its parts, in the caller's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item<'a> {
    /// The parts, in the order of the request.
    pub parts: Vec<Part<'a>>,
}

/// The answer for one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterAnswer {
    /// The answer as JSON text.
    pub text: String,
    /// The units that the model counts in the item, such as tokens or milliseconds of sound; 0 if it counts none.
    pub units: u64,
}

/// The next step of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Run the model on these tensors, and pass its outputs to the adapter's `advance`.
    Tensors(Vec<Tensor>),
    /// Run another model on these tensors: the step of this name in the contract's pipeline. Pass its outputs to the
    /// adapter's `advance`.
    Other(String, Vec<Tensor>),
    /// Return these answers, one for each item.
    Answers(Vec<AdapterAnswer>),
}

/// The reason why an item is refused. The caller can correct each of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The adapter does not support such content; the text names the supported content.
    UnsupportedMediaType(String),
    /// The content does not match its type, or the model cannot use it.
    InvalidContent(String),
    /// The content is longer than the model can read.
    TooLong(String),
}

/// The refusal of an item by an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterRefusal {
    /// The index of the item, from 0.
    pub item: u32,
    /// The index of the part, if the refusal concerns one part.
    pub part: Option<u32>,
    /// The class of the fault, with its message for the caller.
    pub kind: RefusalKind,
}
