//! The note by which the gate tells its host the route, the model and the error of a request. The host removes it from the
//! answer.

use crate::ids::ModelVersion;
use crate::problem::Code;
use crate::route_kind::RouteKind;

/// The header with the note.
pub const HEADER: &str = "penstock-seen";
/// The environment variable by which a host asks the gate for notes.
pub const HOST_COUNTS: &str = "PENSTOCK_METRICS";
/// Bytes of the longest name of a model.
const MAX_WORD_BYTES: usize = 128;
/// The word for a missing part.
const NONE: &str = "-";

/// The facts about a request that only the gate knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The kind of route, if the path has one.
    pub route: Option<RouteKind>,
    /// The code of the problem, if the request was refused or failed.
    pub code: Option<Code>,
    /// The model that the request names. The gate tells it only if the answer names a version of it, so that it exists.
    pub model: Option<&'a str>,
}

impl<'a> Seen<'a> {
    /// The text of the header: route, code and model, with spaces between.
    pub fn to_header(&self) -> String {
        let route = self.route.map_or(NONE, RouteKind::as_str);
        let code = self.code.map_or(NONE, Code::as_str);
        let model = self.model.filter(|model| is_word(model));
        [route, code, model.unwrap_or(NONE)].join(" ")
    }

    /// Reads a header, without copying it. Unknown words count as missing.
    pub fn read(header: &'a str) -> Self {
        let mut words = header.split(' ');
        let mut word = || words.next().filter(|word| *word != NONE);
        Self {
            route: word().and_then(RouteKind::parse),
            code: word().and_then(Code::parse),
            model: word(),
        }
    }
}

/// Returns whether a text fits into a note. The names of models do; their rule is stricter.
fn is_word(text: &str) -> bool {
    (1..=MAX_WORD_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Returns a model and its version if both are valid names.
pub fn named<'a>(model: Option<&'a str>, version: Option<&'a str>) -> Option<(&'a str, &'a str)> {
    let (model, version) = (model?, version?);
    ModelVersion::parse(version)?;
    Some((model, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back_as_it_was() {
        for route in [None, Some(RouteKind::Predict), Some(RouteKind::Ready)] {
            for code in [None, Some(Code::QuotaExceeded)] {
                for model in [None, Some("digits"), Some("a.b-c_D9")] {
                    let seen = Seen { route, code, model };
                    let header = seen.to_header();
                    assert!(header.is_ascii());
                    assert_eq!(Seen::read(&header), seen, "{header}");
                }
            }
        }
    }

    #[test]
    fn a_name_that_would_break_the_header_is_not_told() {
        for model in ["", "a b", "é", "a\r\nx: y", "\u{1b}", &"a".repeat(129)] {
            let seen = Seen {
                model: Some(model),
                ..Seen::default()
            };
            assert_eq!(seen.to_header(), "- - -", "{model:?}");
        }
    }

    #[test]
    fn a_header_with_unknown_words_is_read_as_far_as_it_is_known() {
        assert_eq!(Seen::read(""), Seen::default());
        let seen = Seen::read("predict of_a_later_release digits and more");
        assert_eq!((seen.route, seen.code), (Some(RouteKind::Predict), None));
        assert_eq!(seen.model, Some("digits"));
    }

    #[test]
    fn a_model_counts_only_with_a_version() {
        assert_eq!(named(Some("m"), Some("1")), Some(("m", "1")));
        for (model, version) in [
            (None, Some("1")),
            (Some("m"), None),
            (Some("m"), Some("0")),
            (Some("m"), Some("latest")),
        ] {
            assert_eq!(named(model, version), None, "{model:?} {version:?}");
        }
    }
}
