//! The words between `auth` and the gate: what a request shows, and what is answered.
//!
//! The WIT package `penstock:auth` says the same for components; the shells in `guest` convert and add nothing.

use penstock_core::{Caller, Code, Problem};

/// What `auth` is told beside the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The key sets that the policy names as files, each with the issuer's name.
    pub key_sets: Vec<(String, String)>,
    /// Whether other machines than this one reach the server.
    pub public: bool,
}

/// What a request shows.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// In upper case; may be empty where the request is not signed.
    pub method: &'a str,
    /// Path and query as sent; may be empty where the request is not signed.
    pub target: &'a str,
    /// The headers that carry or cover credentials, names in lower case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The SHA-256 of the body, where the request is signed.
    pub body_sha256: Option<[u8; 32]>,
    /// The client's address.
    pub address: Option<&'a str>,
    /// Whether it says that it came through a proxy that nobody trusts.
    pub forwarded: bool,
    /// The client's certificate.
    pub certificate: Option<CertificateShown<'a>>,
    /// The kind of route.
    pub route: &'a str,
    /// The model that is asked for, as the caller gave its name.
    pub model: Option<&'a str>,
}

/// A client's certificate, verified.
#[derive(Clone, Copy, Debug)]
pub struct CertificateShown<'a> {
    /// SHA-256 of its DER form, lower-case hexadecimal.
    pub sha256: &'a str,
    /// Its subject alternative names.
    pub names: &'a [String],
}

/// How a caller was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// Not at all.
    None,
    /// By an API key.
    ApiKey,
    /// By a token.
    Token,
    /// By a signature.
    Signature,
    /// By a certificate.
    Certificate,
}

impl CredentialKind {
    /// The word in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ApiKey => "api_key",
            Self::Token => "token",
            Self::Signature => "signature",
            Self::Certificate => "certificate",
        }
    }
}

/// A caller that may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The caller.
    pub caller: Caller,
    /// What the caller was recognised by.
    pub credential: CredentialKind,
    /// The priority of the caller's tier; 1 is the first to run.
    pub priority: Option<u8>,
}

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

impl RefusalKind {
    /// The error a call is answered with; `None` where it is answered as if there were no such model.
    pub const fn code(self) -> Option<Code> {
        Some(match self {
            Self::Missing => Code::CredentialsMissing,
            // One code for callers; the challenge tells them apart.
            Self::Malformed | Self::Unreadable => Code::CredentialsMalformed,
            Self::Ambiguous => Code::CredentialsAmbiguous,
            Self::Invalid => Code::CredentialsInvalid,
            Self::Expired => Code::CredentialsExpired,
            Self::Revoked => Code::CredentialsRevoked,
            Self::Replayed => Code::SignatureReplayed,
            Self::Denied => Code::PermissionDenied,
            Self::TenantDisabled => Code::TenantDisabled,
            Self::Throttled => Code::QuotaExceeded,
            Self::StoreFailed => Code::StoreUnavailable,
            Self::Hidden => return None,
        })
    }
}

/// A refused call, as the caller is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub kind: RefusalKind,
    /// What was wrong, where, and what to do; never the credential itself.
    pub message: String,
    /// The value of `WWW-Authenticate`.
    pub challenge: Option<String>,
    /// Seconds after which a retry has a chance.
    pub retry_after_s: Option<u32>,
    /// The refused caller, once that is known.
    pub caller: Option<Caller>,
}

impl Refusal {
    /// The problem the call is answered with; `None` where it is answered as if there were no such model.
    pub fn problem(&self) -> Option<Problem> {
        let problem = Problem::new(self.kind.code()?, self.message.clone())
            .with_challenge(self.challenge.clone());
        Some(match self.retry_after_s {
            Some(seconds) => problem.retry_after(seconds),
            None => problem,
        })
    }
}
