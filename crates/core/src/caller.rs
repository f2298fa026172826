//! The caller of a request, as every policy sees it.

use serde::{Deserialize, Serialize};

/// The default tenant and tier of callers.
pub const ANONYMOUS: &str = "anonymous";

/// The scope that allows everything.
pub const ANY: &str = "*";

/// A caller, as authentication recognised it. It is the only source of the caller's identity for all policies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// The tenant, to which models, records and usage belong.
    pub tenant: String,
    /// The id (never the secret) of the API key that the caller used; `None` without one.
    pub api_key_id: Option<String>,
    /// The caller within the tenant, if the credential names it: a token's `sub`, or a certificate's name.
    pub subject: Option<String>,
    /// The tier, which decides priority and limits.
    pub tier: String,
    /// The permissions: a kind of route, or `route:model`, with `*` for any.
    pub scopes: Vec<String>,
    /// Whether the request has no credential.
    pub anonymous: bool,
    /// The client's network address without its port, as the server saw it; `None` if the host does not tell.
    pub address: Option<String>,
}

impl Caller {
    /// A caller without a credential, with all scopes.
    pub fn anonymous(address: Option<String>) -> Self {
        Self {
            tenant: ANONYMOUS.to_owned(),
            api_key_id: None,
            subject: None,
            tier: ANONYMOUS.to_owned(),
            scopes: vec![ANY.to_owned()],
            anonymous: true,
            address,
        }
    }
}
