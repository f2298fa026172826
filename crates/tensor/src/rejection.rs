//! The report of a refused body: a code by the gravest violation, a sentence, and every violation up to a limit.

use crate::json::SyntaxError;
use penstock_core::violation::MAX_VIOLATIONS;
use penstock_core::{Code, Violation};
use std::fmt;

/// The refusal of a body, with its violations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `MalformedJson` (the body is not JSON), `InvalidBody` (JSON of the wrong form), `NotSupported` (it asks for an
    /// unsupported feature) or `InvalidInputs` (the form is right, but the model's contract is not met).
    pub code: Code,
    /// The message of the only violation; of several, their number and the first message.
    pub message: String,
    /// At most [`MAX_VIOLATIONS`], in the order they were found.
    pub violations: Vec<Violation>,
    /// Violations found beyond those listed.
    pub omitted: u64,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Rejection {}

impl From<SyntaxError> for Rejection {
    fn from(error: SyntaxError) -> Self {
        let message = error.to_string();
        Self {
            code: Code::MalformedJson,
            message: message.clone(),
            violations: vec![Violation::new("", error.rule, error.expected, message)],
            omitted: 0,
        }
    }
}

impl From<Box<SyntaxError>> for Rejection {
    fn from(error: Box<SyntaxError>) -> Self {
        (*error).into()
    }
}

/// The kind of a violation, which decides the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The body has another form: its members or their JSON types.
    Form,
    /// The body uses a feature that is not supported.
    Unsupported,
    /// The body violates the model's contract.
    Contract,
}

/// Collects the violations of a body. They are built only while there is room, so a body with a million bad numbers costs a
/// counter, not a million strings.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    listed: Vec<Violation>,
    kinds: Vec<Kind>,
    form: u64,
    unsupported: u64,
    contract: u64,
}

/// A position in the list of violations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    listed: usize,
    contract: u64,
}

impl Violations {
    pub(crate) fn push(&mut self, kind: Kind, build: impl FnOnce() -> Violation) {
        match kind {
            Kind::Form => self.form += 1,
            Kind::Unsupported => self.unsupported += 1,
            Kind::Contract => self.contract += 1,
        }
        if self.listed.len() < MAX_VIOLATIONS {
            self.listed.push(build());
            self.kinds.push(kind);
        }
    }

    pub(crate) fn form(&mut self, build: impl FnOnce() -> Violation) {
        self.push(Kind::Form, build);
    }

    pub(crate) fn unsupported(&mut self, build: impl FnOnce() -> Violation) {
        self.push(Kind::Unsupported, build);
    }

    pub(crate) fn contract(&mut self, build: impl FnOnce() -> Violation) {
        self.push(Kind::Contract, build);
    }

    /// The number of violations so far.
    pub(crate) fn count(&self) -> u64 {
        self.form + self.unsupported + self.contract
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            listed: self.listed.len(),
            contract: self.contract,
        }
    }

    /// Removes the contract violations between `mark` and `end`, whether they were listed or only counted.
    pub(crate) fn withdraw(&mut self, mark: Mark, end: Mark) {
        self.contract -= end.contract - mark.contract;
        let mut index = 0;
        let kinds = &self.kinds;
        self.listed.retain(|_| {
            let within = (mark.listed..end.listed).contains(&index);
            let keep = !(within && kinds.get(index) == Some(&Kind::Contract));
            index += 1;
            keep
        });
        index = 0;
        self.kinds.retain(|kind| {
            let within = (mark.listed..end.listed).contains(&index);
            index += 1;
            !(within && *kind == Kind::Contract)
        });
    }

    /// Returns `Ok` if there were no violations.
    pub(crate) fn finish(self) -> Result<(), Rejection> {
        let count = self.count();
        if count == 0 {
            return Ok(());
        }
        let (code, kind) = match (self.form, self.unsupported) {
            (0, 0) => (Code::InvalidInputs, Kind::Contract),
            (0, _) => (Code::NotSupported, Kind::Unsupported),
            _ => (Code::InvalidBody, Kind::Form),
        };
        // The sentence is about a violation of the code's kind, if one was listed.
        let first = self.kinds.iter().position(|k| *k == kind).unwrap_or(0);
        let first = self
            .listed
            .get(first)
            .map_or("", |violation| violation.message.as_str());
        let message = match count {
            1 => first.to_owned(),
            _ => format!("{count} things are wrong; the first: {first}"),
        };
        let omitted = count - self.listed.len() as u64;
        Err(Rejection {
            code,
            message,
            violations: self.listed,
            omitted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(message: &str) -> Violation {
        Violation::new("/x", "rule", "expected", message)
    }

    #[test]
    fn one_violation_speaks_for_itself_and_several_are_counted() {
        let mut one = Violations::default();
        one.contract(|| violation("a is wrong"));
        let rejection = one.finish().unwrap_err();
        assert_eq!(
            (rejection.code, rejection.message.as_str()),
            (Code::InvalidInputs, "a is wrong")
        );
        let mut two = Violations::default();
        two.contract(|| violation("a is wrong"));
        two.form(|| violation("b is wrong"));
        let rejection = two.finish().unwrap_err();
        assert_eq!(rejection.code, Code::InvalidBody);
        assert_eq!(
            rejection.message,
            "2 things are wrong; the first: b is wrong"
        );
        assert_eq!(rejection.violations.len(), 2);
    }

    #[test]
    fn violations_beyond_the_limit_are_counted_and_not_built() {
        let mut many = Violations::default();
        for _ in 0..MAX_VIOLATIONS {
            many.contract(|| violation("listed"));
        }
        many.contract(|| unreachable!("there is no room for it"));
        many.form(|| unreachable!("there is no room for it"));
        let rejection = many.finish().unwrap_err();
        assert_eq!(
            (rejection.violations.len(), rejection.omitted),
            (MAX_VIOLATIONS, 2)
        );
        assert_eq!(rejection.code, Code::InvalidBody);
    }

    #[test]
    fn withdrawing_forgets_only_contract_violations_of_that_stretch() {
        let mut violations = Violations::default();
        violations.contract(|| violation("before"));
        let start = violations.mark();
        violations.contract(|| violation("withdrawn"));
        violations.form(|| violation("of the form"));
        let end = violations.mark();
        violations.contract(|| violation("after"));
        violations.withdraw(start, end);
        let rejection = violations.finish().unwrap_err();
        let messages: Vec<_> = rejection
            .violations
            .iter()
            .map(|v| v.message.as_str())
            .collect();
        assert_eq!(messages, ["before", "of the form", "after"]);
        assert_eq!((rejection.omitted, rejection.code), (0, Code::InvalidBody));
    }
}
