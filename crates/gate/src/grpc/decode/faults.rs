//! Collects the violations of an inference request.

use crate::grpc::wire::Broken;
use penstock_core::violation::MAX_VIOLATIONS;
use penstock_core::{Code, Violation};
use penstock_tensor::{Rejection, Unknown};

/// Returns the rejection of a message that is not valid protobuf.
pub fn malformed(broken: Broken) -> Rejection {
    let message = format!(
        "the message is invalid at byte {}: {}",
        broken.at, broken.what
    );
    Rejection {
        code: Code::MalformedProtobuf,
        message: message.clone(),
        violations: vec![Violation::new(
            "",
            "malformed_protobuf",
            "a valid message of the method's type",
            message,
        )],
        omitted: 0,
    }
}

/// The violations found so far. Their texts are built only while the list has room.
#[derive(Default)]
pub(super) struct Faults {
    listed: Vec<(Code, Violation)>,
    omitted: u64,
    has_form: bool,
    has_unsupported: bool,
    /// The treatment of unknown parameters.
    pub unknown: Unknown,
}

impl Faults {
    /// Creates an empty list. `unknown` sets the treatment of unknown parameters.
    pub fn new(unknown: Unknown) -> Self {
        Self {
            unknown,
            ..Self::default()
        }
    }

    pub fn count(&self) -> u64 {
        self.listed.len() as u64 + self.omitted
    }

    pub fn omit(&mut self, more: u64) {
        self.omitted += more;
    }

    pub fn push(
        &mut self,
        code: Code,
        pointer: &str,
        rule: &str,
        say: impl FnOnce() -> (String, String),
    ) {
        self.has_form |= code == Code::InvalidBody;
        self.has_unsupported |= code == Code::NotSupported;
        if self.listed.len() == MAX_VIOLATIONS {
            self.omitted += 1;
            return;
        }
        let (expected, message) = say();
        let violation = Violation::new(pointer, rule, expected, message);
        self.listed.push((code, violation));
    }

    /// Adds a violation of the message's form.
    pub fn form(&mut self, pointer: &str, rule: &str, say: impl FnOnce() -> (String, String)) {
        self.push(Code::InvalidBody, pointer, rule, say);
    }

    /// Adds a violation of the contract.
    pub fn contract(&mut self, pointer: &str, rule: &str, say: impl FnOnce() -> (String, String)) {
        self.push(Code::InvalidInputs, pointer, rule, say);
    }

    /// Adds the violations that the contract's check found, except missing inputs that were left out because of a
    /// violation.
    pub fn join(&mut self, rejection: Rejection, left_out: &[&str]) -> Result<(), Rejection> {
        if self.count() == 0 {
            return Err(rejection);
        }
        let is_about = |violation: &Violation| {
            let named = |name: &&str| violation.message.contains(&format!("{name:?}"));
            violation.rule == "missing_input" && left_out.iter().any(named)
        };
        for violation in rejection.violations {
            if !is_about(&violation) {
                if self.listed.len() == MAX_VIOLATIONS {
                    self.omitted += 1;
                } else {
                    self.listed.push((Code::InvalidInputs, violation));
                }
            }
        }
        self.omitted += rejection.omitted;
        Ok(())
    }

    pub fn finish(self, checked: Result<(), Rejection>) -> Result<(), Rejection> {
        checked?;
        let count = self.count();
        let code = match (self.has_form, self.has_unsupported) {
            (true, _) => Code::InvalidBody,
            (false, true) => Code::NotSupported,
            (false, false) => Code::InvalidInputs,
        };
        let speaks = self.listed.iter().find(|(kind, _)| *kind == code);
        let Some((_, first)) = speaks.or(self.listed.first()) else {
            return Ok(());
        };
        let message = match count {
            1 => first.message.clone(),
            _ => format!("{count} things are wrong; the first: {}", first.message),
        };
        Err(Rejection {
            code,
            message,
            violations: self.listed.into_iter().map(|(_, v)| v).collect(),
            omitted: self.omitted,
        })
    }
}
