//! Decides which calls a scope allows. A scope is a kind of route, or a kind of route and a model: `predict`,
//! `predict:magika`, `*:acme-*`. A call that no scope allows is denied.
//!
//! The kinds are those of [`RouteKind`].

pub use crate::pattern::Pattern;
use penstock_core::RouteKind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most scopes of one caller.
pub const MAX_SCOPES: usize = 64;

/// Most characters of a wrong scope, or of a model's name, that an answer repeats. It does not bound the length of a scope.
pub const MAX_SHOWN_CHARS: usize = 128;

/// A kind of route and a set of models.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope {
    /// The kind; `None` for any.
    route: Option<RouteKind>,
    /// The models; `None` for any model, and for calls without one.
    model: Option<Pattern>,
}

impl Scope {
    /// Returns whether it allows a kind of route for a model, or without one.
    pub fn allows(&self, route: &str, model: Option<&str>) -> bool {
        // A caller that may call a model may see the operations that such calls become. The gate hides those of other models.
        let sees_operations = route == RouteKind::Operations.as_str()
            && self.route.is_some_and(RouteKind::runs_model);
        (sees_operations || self.route.is_none_or(|own| own.as_str() == route))
            && match (&self.model, model) {
                (None, _) => true,
                (Some(pattern), Some(model)) => pattern.matches(model),
                // A caller that may use some models may list them. No other call concerns several models.
                (Some(_), None) => [RouteKind::Models, RouteKind::Operations]
                    .iter()
                    .any(|kind| kind.as_str() == route),
            }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (route, model) = match text.split_once(':') {
            Some((route, model)) => (route, Some(Pattern::try_from(model.to_owned())?)),
            None => (text.as_str(), None),
        };
        let known = RouteKind::parse(route);
        let route = match (route, known) {
            ("*", _) => None,
            (_, Some(known)) => Some(known),
            _ => {
                return Err(format!(
                    "`{}` is not a scope: write one of {} or *, and after a colon the models, as in predict:magika",
                    text.chars()
                        .take(MAX_SHOWN_CHARS)
                        .collect::<String>()
                        .escape_debug(),
                    RouteKind::list(RouteKind::ALL)
                ));
            }
        };
        Ok(Self { route, model })
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.route.map_or("*", RouteKind::as_str))?;
        match &self.model {
            Some(pattern) => write!(f, ":{pattern}"),
            None => Ok(()),
        }
    }
}

/// Returns whether one of the scopes allows the call.
pub fn allow(scopes: &[Scope], route: &str, model: Option<&str>) -> bool {
    scopes.iter().any(|scope| scope.allows(route, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_scope_allows_its_route_and_its_models_and_nothing_else() {
        for (text, route, model, allowed) in [
            ("*", "predict", Some("m"), true),
            ("*", "usage", None, true),
            ("predict", "predict", Some("m"), true),
            ("predict", "infer", Some("m"), false),
            ("predict", "models", None, false),
            ("predict:m", "predict", Some("m"), true),
            ("predict:m", "predict", Some("mm"), false),
            ("predict:m*", "predict", Some("mm"), true),
            ("*:a-*", "infer", Some("a-1"), true),
            ("*:a-*", "infer", Some("b-1"), false),
            ("*:a-*", "models", None, true),
            ("*:a-*", "usage", None, false),
            ("*:*", "predict", Some(""), true),
            ("models:m", "models", None, true),
            ("predict:m", "operations", None, true),
            ("operations", "operations", None, true),
            ("models", "operations", None, false),
            ("usage", "operations", None, false),
            ("operations", "predict", Some("m"), false),
        ] {
            assert_eq!(
                scope(text).allows(route, model),
                allowed,
                "{text} {route} {model:?}"
            );
        }
    }

    #[test]
    fn every_kind_of_route_is_a_scope() {
        for kind in RouteKind::ALL {
            assert!(scope(kind.as_str()).allows(kind.as_str(), Some("m")));
            assert_eq!(scope(&format!("{kind}:m")).to_string(), format!("{kind}:m"));
        }
    }

    #[test]
    fn a_text_that_is_no_scope_is_refused_and_a_scope_is_written_as_it_was_read() {
        for text in [
            "",
            "Predict",
            "predict:",
            "predict:a b",
            "admin",
            "predict:a:b",
            "*:\u{e4}",
        ] {
            assert!(Scope::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in ["*", "*:*", "predict", "infer:cls-*"] {
            assert_eq!(scope(text).to_string(), text);
        }
    }
}
