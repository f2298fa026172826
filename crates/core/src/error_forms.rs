//! The bodies of errors: our own form, which OpenAI's clients read too, the Open Inference Protocol's and RFC 9457's.

use crate::violation::Violation;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::Serialize;

/// An error.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Error<'a> {
    pub(crate) error: ErrorBody<'a>,
}

/// An error.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub(crate) struct ErrorBody<'a> {
    /// A stable word for programs.
    pub(crate) code: &'static str,
    /// The problem and the remedy.
    pub(crate) message: &'a str,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The kind of error, for OpenAI's clients.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    /// The member of the body that is wrong, for OpenAI's clients; `null` if it is none of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "text_or_null"))]
    pub(crate) param: Option<Option<&'a str>>,
    #[serde(flatten)]
    pub(crate) facts: ErrorFacts<'a>,
}

/// An error in the Open Inference Protocol's form.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct OipError<'a> {
    /// The problem and the remedy.
    pub(crate) error: &'a str,
    /// A stable word for programs.
    pub(crate) code: &'static str,
    /// The HTTP status.
    pub(crate) status: u16,
    #[serde(flatten)]
    pub(crate) facts: ErrorFacts<'a>,
}

/// An error in the form of RFC 9457.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(rename = "Problem"))]
pub struct ProblemDetails<'a> {
    /// The entry of the catalogue.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(extend("format" = "uri-reference")))]
    pub(crate) kind: String,
    pub(crate) title: &'static str,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The problem and the remedy.
    pub(crate) detail: &'a str,
    /// A stable word for programs.
    pub(crate) code: &'static str,
    #[serde(flatten)]
    pub(crate) facts: ErrorFacts<'a>,
}

/// The members that all forms have.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub(crate) struct ErrorFacts<'a> {
    /// All violations in the body.
    pub(crate) details: Vec<&'a Violation>,
    /// The names that exist, if the sent one does not.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) available: &'a [String],
    /// The id of the request, as in the header `X-Request-Id`.
    pub(crate) request_id: &'a str,
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub(crate) timestamp: String,
}

/// Returns the schema of a text that may be `null`.
#[cfg(feature = "schema")]
fn text_or_null(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "anyOf": [{ "type": "string" }, { "type": "null" }] })
}
