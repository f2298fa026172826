//! Guesses the adapter of a model from its ports and the files beside its graph.
//!
//! A value is written only if a file has it or a run shows it. Everything else becomes a question: without an adapter if
//! it is not known which one fits, or with an adapter that stands as a comment until the question is answered.

mod facts;
mod image;
mod sound;
mod text;
mod tried;

pub(crate) use facts::{CONFIG_FILE, Facts, Guess, Proposal, json_beside, labels};
pub(crate) use image::size_input;
pub(crate) use text::positions;
pub(crate) use tried::tried;

/// Returns the adapter for which there is evidence, or a question.
pub(crate) fn guess(facts: &Facts<'_>) -> Guess {
    [text::guess, sound::guess, image::guess]
        .into_iter()
        .map(|guess| guess(facts))
        .find(|guess| !matches!(guess, Guess::Nothing))
        .unwrap_or(Guess::Nothing)
}

#[cfg(test)]
mod tests;
