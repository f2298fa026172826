//! Decides what a refused caller is told: the words, and the value of `WWW-Authenticate`.

use super::words::RefusalKind;
use penstock_core::Caller;

/// A refusal, in words for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which kind.
    pub kind: RefusalKind,
    /// What was wrong, where, and what to do; never the credential itself.
    pub message: String,
    /// Seconds after which a retry has a chance.
    pub retry_after_s: Option<u32>,
    /// The scope that would be enough.
    pub scope: Option<String>,
    /// Who was refused, once that is known.
    pub caller: Option<Box<Caller>>,
}

impl Refusal {
    /// A refusal with a message and nothing else.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after_s: None,
            scope: None,
            caller: None,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750 §3), for the refusals that have one.
    pub fn challenge(&self, realm: &str) -> Option<String> {
        use RefusalKind as Kind;
        let error = match self.kind {
            Kind::Missing => return Some(format!("Bearer realm=\"{realm}\"")),
            Kind::Malformed | Kind::Ambiguous => "invalid_request",
            // RFC 6750 §3.1: "expired, revoked, malformed, or invalid for other reasons".
            Kind::Unreadable | Kind::Invalid | Kind::Expired | Kind::Revoked | Kind::Replayed => {
                "invalid_token"
            }
            Kind::Denied | Kind::TenantDisabled => "insufficient_scope",
            Kind::Hidden | Kind::Throttled | Kind::StoreFailed => return None,
        };
        // What is said to a caller may repeat what the caller sent, so it is held to the characters of the header.
        let plain = |c: char| match c {
            '"' | '\\' => '\'',
            ' '..='~' => c,
            _ => '?',
        };
        let description: String = self.message.chars().map(plain).collect();
        let mut value = format!(
            "Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{description}\""
        );
        if let Some(scope) = &self.scope {
            value.push_str(&format!(", scope=\"{scope}\""));
        }
        Some(value)
    }
}
