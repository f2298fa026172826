//! The adapter of a model in its contract.

use super::reader::Reader;
use serde::Serialize;
use toml::Spanned;
use toml::de::DeValue;

/// Largest file that an adapter reads, in bytes. The tokenizer.json of a model for a hundred languages has 17 MB.
pub const MAX_ADAPTER_FILE_BYTES: u64 = 20 << 20;

/// The adapter that serves a model, and its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdapterSpec {
    /// The adapter component's name.
    pub name: String,
    /// The configuration file beside `model.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// A `tokenizer.json` beside `model.toml`, which becomes the member `tokenizer` of its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// A `config.json` of transformers, which becomes the member `model_config` of its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_config: Option<String>,
    /// The treatment of token ids in `/v1/embeddings`.
    pub tokens: Tokens,
    /// The treatment of a text with more tokens than the model can read.
    pub too_long: TooLong,
}

impl AdapterSpec {
    /// The files beside `model.toml` that the adapter reads.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files = [&self.config, &self.tokenizer, &self.model_config];
        files.into_iter().flatten().map(String::as_str)
    }
}

/// The treatment of token ids that a client sends instead of a text. OpenAI's clients tokenize a text with a vocabulary of
/// OpenAI, even for models that they do not know. Ids of another vocabulary give a wrong vector without an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// Token ids are refused.
    #[default]
    Refuse,
    /// They are ids of the model's own vocabulary.
    Accept,
}

/// The treatment of a text with more tokens than the model can read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// Such a text is refused: an answer for its beginning would look like an answer for the whole text.
    #[default]
    Refuse,
    /// It is cut at its end.
    Truncate,
}

impl Reader<'_> {
    pub(super) fn adapter(&mut self, value: &Spanned<DeValue<'_>>) -> Option<AdapterSpec> {
        let mut members = self.table(value, "adapter")?;
        let name = match members.take("name") {
            Some(value) => self.plain_name(value, "the adapter's name", b"-_"),
            None => {
                self.missing(&members, "name", "Write the adapter component's name.");
                None
            }
        };
        let config = members
            .take("config")
            .and_then(|value| self.plain_name(value, "the adapter's config file", b"-_."));
        let mut file = |name: &'static str| {
            let value = members.take(name)?;
            self.plain_name(value, "the adapter's file", b"-_.")
        };
        let (tokenizer, model_config) = (file("tokenizer"), file("model_config"));
        let tokens = members.take("tokens").and_then(|value| {
            let words = [("refuse", Tokens::Refuse), ("accept", Tokens::Accept)];
            self.word(value, "tokens", &words)
        });
        let too_long = members.take("too_long").and_then(|value| {
            let words = [("refuse", TooLong::Refuse), ("truncate", TooLong::Truncate)];
            self.word(value, "too_long", &words)
        });
        self.unknown_members(members);
        Some(AdapterSpec {
            name: name?,
            config,
            tokenizer,
            model_config,
            tokens: tokens.unwrap_or_default(),
            too_long: too_long.unwrap_or_default(),
        })
    }
}
