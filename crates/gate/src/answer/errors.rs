//! Defines the catalogue of errors, and the errors of requests in a batch.

use penstock_core::{Code, Problem, Violation};
use schemars::JsonSchema;
use serde::Serialize;

/// All errors.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ErrorCatalogue {
    errors: Vec<ErrorEntry>,
}

impl ErrorCatalogue {
    pub(crate) fn new() -> Self {
        Self {
            errors: Code::ALL.iter().copied().map(ErrorEntry::new).collect(),
        }
    }
}

/// One error of the catalogue.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ErrorEntry {
    /// A stable word for programs.
    code: &'static str,
    /// The HTTP status.
    status: u16,
    title: &'static str,
    /// The next step for the caller.
    remedy: &'static str,
}

impl ErrorEntry {
    pub(crate) fn new(code: Code) -> Self {
        Self {
            code: code.as_str(),
            status: code.status(),
            title: code.title(),
            remedy: code.remedy(),
        }
    }
}

/// The error of one request in a batch.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BatchError<'a> {
    /// A stable word for programs.
    code: &'static str,
    /// The HTTP status that the request would have as a separate call.
    status: u16,
    /// The problem and the remedy.
    message: &'a str,
    /// The violations in the request.
    #[serde(skip_serializing_if = "<[Violation]>::is_empty")]
    details: &'a [Violation],
    /// The number of violations that are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    details_omitted: u64,
    /// The seconds after which a retry may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u32>,
}

impl<'a> BatchError<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Self {
        Self {
            code: problem.code.as_str(),
            status: problem.code.status(),
            message: &problem.message,
            details: &problem.violations,
            details_omitted: problem.violations_omitted,
            retry_after_s: problem.retry_after_s,
        }
    }
}

/// Returns whether a count is 0. serde passes a reference.
fn is_zero(number: &u64) -> bool {
    *number == 0
}
