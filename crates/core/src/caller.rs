//! Who is calling, as every policy sees it.

use serde::{Deserialize, Serialize};

/// The tenant and tier of callers when nothing says otherwise.
pub const ANONYMOUS: &str = "anonymous";

/// A caller, as authentication found it. Every policy takes who is calling from here and from nowhere
/// else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Whose models, records and usage these are.
    pub tenant: String,
    /// The id (never the secret) of the API key that was shown; `None` without one.
    pub api_key_id: Option<String>,
    /// What the caller may cost.
    pub tier: String,
    /// The client's network address without its port, as the server saw it; `None` when the host does
    /// not say.
    pub address: Option<String>,
}

impl Caller {
    /// A caller who showed nothing.
    pub fn anonymous(address: Option<String>) -> Self {
        Self {
            tenant: ANONYMOUS.to_owned(),
            api_key_id: None,
            tier: ANONYMOUS.to_owned(),
            address,
        }
    }
}
