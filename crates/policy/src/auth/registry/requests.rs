//! The requests for a new key or tenant, and their faults.

use crate::auth::scopes::{MAX_SCOPES, Scope};
use crate::auth::settings::{NAME_RULE, is_name};
use penstock_core::caller::ANONYMOUS;
use penstock_core::violation::Violation;

/// The longest name of a key and description of a tenant, in bytes: one line of text.
pub const MAX_TEXT_BYTES: usize = 128;
/// The latest accepted time: the end of the year 9999, as in RFC 3339.
const MAX_TIME_MS: u64 = 253_402_300_799_999;

/// A request for a new key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// The tenant that gets the key. It must exist.
    pub tenant: String,
    /// The tier of its callers.
    pub tier: String,
    /// The scopes of its callers.
    pub scopes: Vec<Scope>,
    /// A text by which operators recognise the key.
    pub name: String,
    /// The time from which the key is refused; `None` for never.
    pub expires_ms: Option<u64>,
    /// Whether it may sign requests.
    pub signs: bool,
}

/// A request for a new tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTenant {
    /// The name of the tenant: 1 to 64 letters, digits, `-`, `_` and `.`. `anonymous` is reserved.
    pub tenant: String,
    /// A text by which operators recognise the tenant.
    pub description: String,
}

/// The fault of the name of a tenant or tier, if it has one.
fn name_fault(pointer: &str, what: &str, name: &str) -> Option<Violation> {
    if !is_name(name) {
        return Some(Violation::new(
            pointer,
            "invalid_name",
            NAME_RULE,
            format!("this is not a valid name for a {what}"),
        ));
    }
    (name == ANONYMOUS).then(|| {
        Violation::new(
            pointer,
            "reserved_name",
            "another name",
            format!("`{ANONYMOUS}` is the {what} of callers without credentials"),
        )
    })
}

/// The fault of a line of text, if it has one.
fn text_fault(pointer: &str, text: &str) -> Option<Violation> {
    let fits = text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
    let expected = format!("at most {MAX_TEXT_BYTES} bytes without control characters");
    (!fits).then(|| {
        Violation::new(
            pointer,
            "invalid_text",
            expected,
            format!("the text has {} bytes; shorten it to a line", text.len()),
        )
    })
}

impl NewKey {
    /// All faults of the request, each with its place in the body.
    pub fn faults(&self, now_ms: u64) -> Vec<Violation> {
        let mut faults: Vec<Violation> = [
            name_fault("/tenant", "tenant", &self.tenant),
            name_fault("/tier", "tier", &self.tier),
            text_fault("/name", &self.name),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.scopes.is_empty() || self.scopes.len() > MAX_SCOPES {
            faults.push(Violation::new(
                "/scopes",
                "out_of_range",
                format!("1 to {MAX_SCOPES} scopes"),
                format!(
                    "{} were given; a key without a scope cannot make any call",
                    self.scopes.len()
                ),
            ));
        }
        if let Some(expires_ms) = self.expires_ms
            && !(now_ms + 1..=MAX_TIME_MS).contains(&expires_ms)
        {
            faults.push(Violation::new(
                "/expires_ms",
                "out_of_range",
                format!(
                    "milliseconds since 1970, later than now, {now_ms}, and at most {MAX_TIME_MS}"
                ),
                "a key must not be expired when it is created",
            ));
        }
        faults
    }
}

impl NewTenant {
    /// All faults of the request, each with its place in the body.
    pub fn faults(&self) -> Vec<Violation> {
        [
            name_fault("/tenant", "tenant", &self.tenant),
            text_fault("/description", &self.description),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
