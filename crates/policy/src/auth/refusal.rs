//! The refusal of a credential check: its message, and the value of `WWW-Authenticate`.

use super::words::RefusalKind;
use penstock_core::Caller;

/// The refusal of a request by [`super::Authenticator`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRefusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// Message for the caller. It names the fault, its place and the remedy. It never contains the credential.
    pub message: String,
    /// Seconds after which a retry can pass.
    pub retry_after_s: Option<u32>,
    /// The scope that would allow the request.
    pub scope: Option<String>,
    /// The refused caller, if it is known.
    pub caller: Option<Box<Caller>>,
}

impl CheckRefusal {
    /// A refusal with only a message.
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
        // The message may repeat text of the caller, so replace characters that a header cannot contain.
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
