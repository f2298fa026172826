//! The types between `auth` and the gate: the credentials of a request, and the decision on it.
//!
//! The WIT package `penstock:auth` has the same types for components. The components in `guest` only convert.

use penstock_core::{Caller, Code, Problem};

/// The facts beside the policy on which `auth` depends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The text of each key set that the policy names as a file, with the issuer's name.
    pub key_sets: Vec<(String, String)>,
    /// Whether other machines can reach the server.
    pub public: bool,
}

/// The parts of a request that decide about its caller.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The method in upper case; may be empty if the request is not signed.
    pub method: &'a str,
    /// Path and query as sent; may be empty if the request is not signed.
    pub target: &'a str,
    /// The headers that carry or cover credentials, names in lower case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The SHA-256 of the body, if the request is signed.
    pub body_sha256: Option<[u8; 32]>,
    /// The client's IP address; `None` if the host does not know it.
    pub address: Option<&'a str>,
    /// Whether it names a proxy that is not trusted.
    pub forwarded: bool,
    /// The client's certificate, if the client showed one and the host verified it.
    pub certificate: Option<CertificateShown<'a>>,
    /// The kind of route, such as `predict`.
    pub route: &'a str,
    /// The model's name as the caller gave it.
    pub model: Option<&'a str>,
}

/// A client's certificate that the host verified.
#[derive(Clone, Copy, Debug)]
pub struct CertificateShown<'a> {
    /// SHA-256 of its DER form, lower-case hexadecimal.
    pub sha256: &'a str,
    /// Its subject alternative names: `dns:…`, `uri:…`, `email:…`.
    pub names: &'a [String],
}

/// The kind of credential by which a caller was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// The request had no credential, or one that the policy ignores.
    None,
    /// An API key `pnst_…` that the registry knows.
    ApiKey,
    /// A token of a trusted issuer.
    Token,
    /// A signature with the signing secret of an API key.
    Signature,
    /// A client certificate that the policy names.
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
    /// The tenant, tier, scopes and client identity that the credential proves.
    pub caller: Caller,
    /// The credential by which the caller was recognised.
    pub credential: CredentialKind,
    /// The priority of the caller's tier; 1 is the first to run.
    pub priority: Option<u8>,
}

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The request has no credential, and one is needed.
    Missing,
    /// The header is malformed: another scheme, several words, or bytes that a header cannot contain.
    Malformed,
    /// The value is not a credential: a broken API key or token.
    Unreadable,
    /// The request has several different credentials.
    Ambiguous,
    /// The credential does not exist or does not verify.
    Invalid,
    /// The credential has expired, or is not valid yet.
    Expired,
    /// An administrator revoked the credential.
    Revoked,
    /// A signed request was sent a second time.
    Replayed,
    /// The caller has no right to this call.
    Denied,
    /// The caller's tenant is disabled.
    TenantDisabled,
    /// The model belongs to other tenants, and its existence must stay hidden.
    Hidden,
    /// Too many tokens of this address were not valid.
    Throttled,
    /// The store does not answer.
    StoreFailed,
}

impl RefusalKind {
    /// The error code of the answer; `None` if the answer is that of an unknown model.
    pub const fn code(self) -> Option<Code> {
        Some(match self {
            Self::Missing => Code::CredentialsMissing,
            // Both have one code; the challenge distinguishes them.
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

/// The refusal of a call, as the answer reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal, which decides the error code.
    pub kind: RefusalKind,
    /// Message for the caller. It names the fault, its place and the remedy. It never contains the credential.
    pub message: String,
    /// The value of the header `WWW-Authenticate`.
    pub challenge: Option<String>,
    /// Seconds after which a retry can pass.
    pub retry_after_s: Option<u32>,
    /// The refused caller, if it is known.
    pub caller: Option<Caller>,
}

impl Refusal {
    /// The problem document of the answer; `None` if the answer is that of an unknown model.
    pub fn problem(&self) -> Option<Problem> {
        let problem = Problem::new(self.kind.code()?, self.message.clone())
            .with_challenge(self.challenge.clone());
        Some(match self.retry_after_s {
            Some(seconds) => problem.retry_after(seconds),
            None => problem,
        })
    }
}
