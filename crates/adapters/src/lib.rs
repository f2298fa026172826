//! What adapters make of raw content, and of a model's scores. Each adapter is plain Rust behind
//! [`Adapter`]; the guest room turns one into a component.
//!
//! * [`magika`]: bytes of a file to features, scores to a kind of content.

pub mod magika;

use penstock_tensor::Tensor;

/// What an adapter made of a content.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepared {
    /// Tensors to run the model on.
    Tensors(Vec<Tensor>),
    /// The prediction already, as JSON text: this content needs no model.
    Answer(String),
}

/// Why an adapter refuses a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not take this media type; the text names what it takes.
    UnsupportedMediaType(String),
    /// The content is not what its type says, or the model cannot use it.
    InvalidContent(String),
}

/// One adapter, opened for a model.
pub trait Adapter: Sized + 'static {
    /// Opens the adapter with the name and configuration the contract gives; the error is a sentence
    /// for the operator.
    fn open(name: &str, config: &[u8]) -> Result<Self, String>;
    /// Turns content into tensors.
    fn prepare(&self, media_type: Option<&str>, body: &[u8]) -> Result<Prepared, Refusal>;
    /// Turns one run's outputs into one prediction, as JSON text; the error is a sentence for the
    /// operator.
    fn answer(&self, outputs: Vec<Tensor>) -> Result<String, String>;
}
