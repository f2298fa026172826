//! Parses the parameters of an inference request.

use crate::contract::Contract;
use crate::excerpt::excerpt;
use crate::json::{Kind, Names, Scan, Scanner};
use crate::parameters::{self, Of, ParameterCheck, Unknown};
use crate::rejection::Violations;
use crate::values::{ParameterValue, read_parameter, wrong_type};
use penstock_core::Violation;
use penstock_core::violation::escape_pointer_token;

/// The options in the parameters of a whole request.
#[derive(Default)]
pub(crate) struct RequestOptions {
    pub(crate) binary_outputs: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) timeout_us: Option<u64>,
}

impl RequestOptions {
    /// Applies one parameter of the request.
    pub(crate) fn take(
        &mut self,
        contract: &Contract,
        sink: &mut Violations,
        at: impl Fn() -> String,
        name: &str,
        value: &ParameterValue,
    ) {
        match name {
            "binary_data_output" => {
                self.binary_outputs = truth(sink, at, name, value).unwrap_or_default();
            }
            "priority" => {
                let level = whole(sink, at, name, value, "a priority level; 1 runs first");
                // As in Triton, 0 and an unknown level mean the model's default.
                let levels = 1..=contract.batching.priority_levels;
                let level = level.and_then(|level| u8::try_from(level).ok());
                self.priority = level.filter(|level| levels.contains(level));
            }
            "timeout" => {
                let us = whole(sink, at, name, value, "microseconds");
                self.timeout_us = us.filter(|us| *us > 0);
            }
            _ => {}
        }
    }
}

/// Parses an object of parameters, and calls `take` with each supported one. `null` counts as absent.
pub(super) fn each_parameter(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
    of: Of,
    unknown: Unknown,
    at: impl Fn() -> String + Copy,
    mut take: impl FnMut(&mut Violations, &str, ParameterValue),
) -> Scan<()> {
    if scanner.skip_null()? {
        return Ok(());
    }
    let kind = scanner.kind()?;
    if kind != Kind::Object {
        sink.form(|| wrong_type(at(), "parameters", "an object", kind));
        return scanner.skip_value();
    }
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names)?;
    while let Some(name) = member {
        if let Some(value) = taken(scanner, sink, &name, (of, unknown), at)? {
            take(sink, &name, value);
        }
        member = scanner.next_member(&mut names)?;
    }
    Ok(())
}

/// Parses the value of one parameter, and returns it if the parameter is supported. `at` is the pointer to its parent.
pub(crate) fn taken(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
    name: &str,
    (of, unknown): (Of, Unknown),
    at: impl Fn() -> String + Copy,
) -> Scan<Option<ParameterValue>> {
    // An unknown parameter may have any value; skip it.
    if !parameters::is_known(name) {
        if unknown == Unknown::Refuse {
            sink.form(|| unknown_parameter(&at(), name, of));
        }
        scanner.skip_value()?;
        return Ok(None);
    }
    let Some(value) = read_parameter(scanner, sink, name, at)? else {
        return Ok(None);
    };
    let (reason, of) = match parameters::check(name, of, value.is_nothing(), value.as_text()) {
        ParameterCheck::Taken => return Ok(Some(value)),
        ParameterCheck::Unknown => return Ok(None),
        ParameterCheck::NotSupported(why) => (why.to_owned(), of),
        ParameterCheck::Misplaced(place) => {
            let place = place.name();
            (format!("it is a parameter of {place}; send it there"), of)
        }
    };
    sink.unsupported(|| {
        let expected = format!("one of: {}", parameters::taken(of));
        let of = of.name();
        let message = format!("parameter {name:?} of {of} is not supported: {reason}");
        Violation::new(
            parameter_pointer(&at(), name),
            "not_supported",
            expected,
            message,
        )
    });
    Ok(None)
}

fn unknown_parameter(parent: &str, name: &str, of: Of) -> Violation {
    let known = format!("one of: {}", parameters::taken(of));
    let message = format!(
        "{:?} is not a parameter of {} here; remove it, or use {known}",
        excerpt(name),
        of.name()
    );
    Violation::new(
        parameter_pointer(parent, name),
        "unknown_parameter",
        known,
        message,
    )
}

fn parameter_pointer(parent: &str, name: &str) -> String {
    format!("{parent}/{}", escape_pointer_token(&excerpt(name)))
}

/// Reads a parameter that is true or false.
pub(super) fn truth(
    sink: &mut Violations,
    parent: impl Fn() -> String,
    name: &str,
    value: &ParameterValue,
) -> Option<bool> {
    if let ParameterValue::Bool(value) = value {
        return Some(*value);
    }
    sink.form(|| {
        let message = format!("parameter {name:?} is {}; send true or false", value.text());
        let at = parameter_pointer(&parent(), name);
        Violation::new(at, "wrong_type", "true or false", message)
    });
    None
}

/// Reads a parameter that is a whole number of at least 0.
pub(super) fn whole(
    sink: &mut Violations,
    parent: impl Fn() -> String,
    name: &str,
    value: &ParameterValue,
    what: &str,
) -> Option<u64> {
    if let ParameterValue::Integer(number) = value
        && let Ok(number) = u64::try_from(*number)
    {
        return Some(number);
    }
    sink.form(|| {
        let expected = "an integer of at least 0";
        let message = format!(
            "parameter {name:?} is {}; send {what} as {expected}",
            value.text()
        );
        let at = parameter_pointer(&parent(), name);
        Violation::new(at, "wrong_type", expected, message)
    });
    None
}
