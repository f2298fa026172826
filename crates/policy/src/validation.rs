//! What the operator decides about the bodies of the Open Inference Protocol.

use penstock_tensor::Unknown;
use serde::Deserialize;

/// `[validation]` of the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationSettings {
    /// What happens to members and parameters that the server knows nothing of.
    pub unknown_members: UnknownMembers,
}

/// What happens to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownMembers {
    /// They are ignored: KServe's, MLServer's and Triton's clients send some.
    #[default]
    Ignore,
    /// They are refused: most of them are misspelt.
    Refuse,
}

impl ValidationSettings {
    /// As the parsers take it.
    pub fn unknown(self) -> Unknown {
        match self.unknown_members {
            UnknownMembers::Ignore => Unknown::Ignore,
            UnknownMembers::Refuse => Unknown::Refuse,
        }
    }
}
