//! Who is calling, as every policy sees it.

use serde::{Deserialize, Serialize};

/// The tenant and tier of callers when nothing says otherwise.
pub const ANONYMOUS: &str = "anonymous";

/// The scope that allows everything.
pub const ANY: &str = "*";

/// A caller, as authentication found it. Every policy takes who is calling from here and from nowhere
/// else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Whose models, records and usage these are.
    pub tenant: String,
    /// The id (never the secret) of the API key that was shown or signed with; `None` without one.
    pub api_key_id: Option<String>,
    /// Who within the tenant, where the credential says so: a token's `sub`, a certificate's name.
    pub subject: Option<String>,
    /// What the caller may cost.
    pub tier: String,
    /// What the caller may do: a kind of route, or `route:model`, with `*` for any.
    pub scopes: Vec<String>,
    /// Whether nothing was shown.
    pub anonymous: bool,
    /// The client's network address without its port, as the server saw it; `None` when the host does
    /// not say.
    pub address: Option<String>,
}

impl Caller {
    /// A caller who showed nothing, and may do everything.
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
