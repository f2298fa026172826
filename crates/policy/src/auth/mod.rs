//! Decides who calls, from what a request shows, and whether they may.
//!
//! * [`settings`]: the `[auth]` of a policy file;
//! * [`scopes`]: what a caller may do;
//! * [`credential`]: which credential a request shows;
//! * [`api_key`]: what an API key looks like and what is kept of it;
//! * [`token`]: what a token says (JWT);
//! * [`signature`]: what a signed request says (RFC 9421);
//! * [`record`]: what is kept of keys and tenants, and where;
//! * [`registry`]: who makes and unmakes them;
//! * [`cache`]: how long what was read is trusted;
//! * [`check`]: all of it together.

pub mod api_key;
pub mod cache;
pub mod check;
pub mod credential;
pub mod record;
pub mod registry;
pub mod scopes;
pub mod settings;
pub mod signature;
pub mod token;

pub use check::{Admitted, Authenticator, CertificateShown, CredentialKind, Presented, Secrets};

use penstock_core::Caller;

/// Why a caller may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Nothing was shown, and that is not enough.
    Missing,
    /// Credentials are not shown the way they must be: another scheme, several words, bytes no header may have.
    Malformed,
    /// What was shown in the right place is no credential of ours: a broken API key or token.
    Unreadable,
    /// Several different credentials were shown.
    Ambiguous,
    /// Nobody has this credential.
    Invalid,
    /// It was good, or will be.
    Expired,
    /// It was taken back.
    Revoked,
    /// A signed request came a second time.
    Replayed,
    /// The caller is known and may not do this.
    Denied,
    /// The caller's tenant is closed.
    TenantDisabled,
    /// The model is another tenant's, of which this one is not to know.
    Hidden,
    /// Too many tokens of this address did not hold.
    Throttled,
    /// The store does not answer.
    StoreFailed,
}

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
