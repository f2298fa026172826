//! Decides which version of a model answers a call, when a canary is rolled back, and how rollouts are stored.
//!
//! * [`choose`]: which version answers a call, and why;
//! * [`judge`]: whether a canary does worse than the version that it is to replace;
//! * [`edit`]: the changes of an administrator, and which of them are refused;
//! * [`notice`]: the headers that callers of a deprecated version get;
//! * [`store`]: where rollouts are stored; it assumes of the store only that `increment` is atomic;
//! * [`words`], [`service`]: the types between rollouts and the gate, and the service.
//!
//! One document holds the rollouts of all models, so a change is one write. A reader sees all of a change or nothing of
//! it. Versions here are versions of models; they have nothing to do with versions of the API.

pub mod choose;
pub mod edit;
pub mod judge;
pub mod notice;
pub mod service;
pub mod store;
pub mod words;

pub use choose::{Chosen, NoVersion, RolloutQuery, Why};
pub use judge::{Arm, Bounds, BoundsPatch, Judgement};
pub use notice::Notice;

use penstock_core::{Caller, ModelName, ModelVersion};
use penstock_tensor::json::whole_number;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The largest document, in bytes. Every instance reads and parses it after each change.
pub const MAX_DOCUMENT_BYTES: usize = 256 << 10;
/// The most aliases of a model. The answer for an unknown version lists all of them.
pub const MAX_ALIASES: usize = 32;
/// The longest alias, in bytes. It stands in paths and headers.
pub const MAX_ALIAS_BYTES: usize = 32;
/// The most arms of a split. Every call walks through all of them.
pub const MAX_ARMS: usize = 8;
/// The largest weight of an arm. No operator measures finer steps.
pub const MAX_WEIGHT: u32 = 10_000;
/// The most header values that a split distinguishes.
pub const MAX_VALUES: usize = 64;
/// The longest name and the longest value of a header that a split reads, in bytes.
pub const MAX_VALUE_BYTES: usize = 128;
/// The longest link of a deprecation, in bytes. It goes out with every answer.
pub const MAX_LINK_BYTES: usize = 512;
/// The most deprecated versions of a model.
pub const MAX_DEPRECATED: usize = 64;
/// The most ended runs whose counters are not deleted yet.
pub const MAX_RETIRED: usize = 64;

/// The alias that every model has: the highest version that is ready.
pub const LATEST: &str = "latest";
/// The form of an alias, in words.
pub const ALIAS_RULE: &str = "a lower-case letter, then at most 31 of a-z 0-9 _ -";

/// The format of the document.
const FORM: u32 = 1;

/// The rollouts of all models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollouts {
    v: u32,
    /// Raised by each write of the document.
    pub generation: u64,
    /// Rollouts by model name. A model without an entry has no aliases, default or canary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, Rollout>,
    /// Ended canary runs whose counters are still stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
}

/// The rollout of one model's versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Versions by the names that callers may use for them. Moving one is one write.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<Alias, Version>,
    /// The target of calls that name no version; `None` for `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Target>,
    /// A version that some callers get, to compare it with the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Versions among which callers are split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// A version that runs on copies of calls; its outputs are not returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// Versions that will be removed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deprecated: BTreeMap<Version, Deprecated>,
    /// The end of the last canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// A version that some callers get, and the bounds at which it is rolled back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The id of this run, new with each start. Its lowest two bits are zero.
    pub id: u64,
    /// The version to try.
    pub version: Version,
    /// The part of callers that get it. A caller that gets it at one percentage gets it at every higher one.
    pub percent: Percent,
    /// The start of the run, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// The bounds at which it is rolled back automatically; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Bounds>,
}

/// Versions among which callers are split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Decides, together with the caller's identity, which arm a caller gets.
    pub id: u64,
    /// Versions with their weights. A caller always gets the same one while arms and weights stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<SplitArm>,
    /// Versions for callers that send a certain header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<ByHeader>,
}

/// One arm of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitArm {
    /// The target of its callers.
    pub to: Target,
    /// The share of callers, relative to the weights of the other arms.
    pub weight: u32,
}

/// Versions by the value of a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByHeader {
    /// The header's name, in lower case.
    pub name: String,
    /// The target of each value. Calls with other values are not affected.
    pub values: BTreeMap<String, Target>,
}

/// A version that runs on copies of calls. Its outputs are never returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// The version that runs in addition to the one that answers.
    pub version: Version,
    /// The share of calls that it runs on.
    pub percent: Percent,
}

/// The deprecation of a version that will be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deprecated {
    /// The time from which it is deprecated, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The time from which it no longer answers; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset_ms: Option<u64>,
    /// A link to an explanation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The version or alias to use instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Target>,
}

/// The end of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The version of the canary.
    pub version: Version,
    /// The time, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// A description of the end, for operators.
    pub how: String,
}

/// An ended run whose counters are still stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// The name of the model.
    pub model: String,
    /// The id of the canary run, [`Canary::id`].
    pub id: u64,
    /// The end of the run, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
}

/// A model's version in the document: a number in values, its digits in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// A version by its number; 0 is none.
    pub fn new(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// Returns the number, which is at least 1.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the version as the rest of the gate knows it; `None` for 0, which no document that was read has.
    fn of_model(self) -> Option<ModelVersion> {
        ModelVersion::parse(&self.0.to_string())
    }
}

impl From<ModelVersion> for Version {
    fn from(version: ModelVersion) -> Self {
        Self(version.get())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A name for a version, never a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(String);

impl Alias {
    /// Checks and wraps a name; `None` when it breaks [`ALIAS_RULE`].
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= MAX_ALIAS_BYTES
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && (text.bytes()).all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        fits.then(|| Self(text.to_owned()))
    }

    /// Returns the name as callers write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether it is the alias that is always there.
    pub fn is_latest(&self) -> bool {
        self.0 == LATEST
    }
}

impl TryFrom<String> for Alias {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("an alias is {ALIAS_RULE}"))
    }
}

impl From<Alias> for String {
    fn from(alias: Alias) -> Self {
        alias.0
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name of a version: its number or an alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Target {
    /// The version with this number.
    Version(Version),
    /// An alias, which may be [`LATEST`].
    Alias(Alias),
}

impl Target {
    /// Reads a version's number or an alias.
    pub fn parse(text: &str) -> Option<Self> {
        match ModelVersion::parse(text) {
            Some(version) => Some(Self::Version(version.into())),
            None => Alias::parse(text).map(Self::Alias),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => version.fmt(f),
            Self::Alias(alias) => alias.fmt(f),
        }
    }
}

impl TryFrom<Value> for Target {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let read = match &value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => whole_number(&number.to_string())
                .and_then(Version::new)
                .map(Self::Version),
            _ => None,
        };
        read.ok_or_else(|| format!("write a version's number or an alias: {ALIAS_RULE}"))
    }
}

impl From<Target> for Value {
    fn from(target: Target) -> Self {
        match target {
            Target::Version(version) => Self::from(version.get()),
            Target::Alias(alias) => Self::from(alias.0),
        }
    }
}

/// A part of all, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent(u16);

/// All, in hundredths of a percent.
const WHOLE: u16 = 10_000;

impl Percent {
    /// A percentage from 0 to 100 with at most two decimals.
    pub fn new(percent: f64) -> Option<Self> {
        let hundredths = (percent * 100.0).round();
        let fits = (0.0..=100.0).contains(&percent) && (percent * 100.0 - hundredths).abs() < 1e-6;
        // In range, by the check.
        fits.then_some(Self(hundredths as u16))
    }

    /// Returns the percentage as a number from 0 to 100.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Returns whether a point, evenly spread over 0 to 9999, is among them.
    fn has(self, point: u64) -> bool {
        point < u64::from(self.0)
    }
}

impl TryFrom<f64> for Percent {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        Self::new(percent)
            .ok_or_else(|| "write a percentage from 0 to 100 with at most two decimals".to_owned())
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> Self {
        percent.get()
    }
}

/// The identity by which a caller keeps its version: the tenant, and within it the API key, the subject or the address.
/// Callers hash it before they compare it, because it is private.
pub fn identity(caller: &Caller) -> String {
    let within = (caller.api_key_id.as_ref().map(|id| ('k', id)))
        .or(caller.subject.as_ref().map(|subject| ('s', subject)))
        .or(caller.address.as_ref().map(|address| ('a', address)));
    match within {
        Some((kind, id)) => format!("{}\0{kind}{id}", caller.tenant),
        None => caller.tenant.clone(),
    }
}

impl Rollouts {
    /// Makes a document without models.
    pub fn new() -> Self {
        Self {
            v: FORM,
            ..Self::default()
        }
    }

    /// Parses the text of [`Rollouts::text`].
    ///
    /// # Errors
    ///
    /// The fault of the text, for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(format!(
                "the rollouts have {} bytes, more than {MAX_DOCUMENT_BYTES}",
                text.len()
            ));
        }
        let read: Self = serde_json::from_str(text)
            .map_err(|e| format!("the rollouts in the store cannot be read: {e}"))?;
        if read.v != FORM {
            return Err(format!(
                "the rollouts in the store have format {}, and this program reads format {FORM}; run the program \
                 that wrote them",
                read.v
            ));
        }
        for (model, rollout) in &read.models {
            if ModelName::parse(model).is_none() {
                return Err(format!(
                    "the rollouts name {model:?}, which is not a model name"
                ));
            }
            if let Some(fault) = rollout.faults().into_iter().next() {
                let (at, message) = (fault.pointer, fault.message);
                return Err(format!("the rollout of `{model}` at {at}: {message}"));
            }
        }
        Ok(read)
    }

    /// Writes the document as JSON.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("names are texts and numbers are finite")
    }

    /// The rollout of a model; `None` if it has none.
    pub fn of(&self, model: &str) -> Option<&Rollout> {
        self.models.get(model)
    }

    /// The canary run of a model, where automatic rollback is on. Only its calls are counted.
    pub fn judged(&self, model: &str) -> Option<(&Canary, &Bounds)> {
        let canary = self.of(model)?.canary.as_ref()?;
        Some((canary, canary.rollback.as_ref()?))
    }
}

/// An evenly distributed number, determined by a run and a caller.
fn point(id: u64, caller: &str, bound: u64) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("penstock rollout 1");
    hasher.update(&id.to_le_bytes());
    hasher.update(caller.as_bytes());
    let hash = hasher.finalize();
    let first: [u8; 8] = hash.as_bytes()[..8].try_into().expect("eight of 32");
    u64::from_le_bytes(first) % bound.max(1)
}
