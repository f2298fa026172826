//! `[validation]` in `penstock.toml`: the treatment of bodies of the Open Inference Protocol.

use penstock_tensor::Unknown;
use serde::Deserialize;

/// The section `[validation]` of a policy file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationSettings {
    /// The treatment of unknown members and parameters.
    pub unknown_members: UnknownMembers,
}

/// The treatment of unknown members and parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownMembers {
    /// They are ignored, because the clients of KServe, MLServer and Triton send some.
    #[default]
    Ignore,
    /// They are refused, because most of them are misspelt.
    Refuse,
}

impl ValidationSettings {
    /// The value for the parsers.
    pub fn unknown(self) -> Unknown {
        match self.unknown_members {
            UnknownMembers::Ignore => Unknown::Ignore,
            UnknownMembers::Refuse => Unknown::Refuse,
        }
    }
}
