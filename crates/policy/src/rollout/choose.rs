//! Decides which version of a model answers a call.
//!
//! A version or alias that the caller names comes first. Otherwise the order is: split by header, split by caller, canary,
//! default. A version past its sunset answers no call. A caller that names it gets an error with its successor; canaries,
//! splits and shadows of it are ignored.

use super::{
    Alias, Arm, LATEST, Notice, Rollout, Rollouts, SplitArm, Target, Version, WHOLE, point,
};
use penstock_core::ModelVersion;
use std::borrow::Cow;

/// The properties of a call that decide its version.
pub struct RolloutQuery<'a> {
    /// The version number or alias that the caller named in the path, a header or the body.
    pub pinned: Option<&'a str>,
    /// The caller's identity, as [`super::identity`] gives it.
    pub caller: &'a str,
    /// The value of a header by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
    /// The versions that the model has, ascending.
    pub versions: &'a [ModelVersion],
    /// Whether a version is ready.
    pub ready: &'a dyn Fn(ModelVersion) -> bool,
    /// Whether the canary run of an id was rolled back.
    pub rolled_back: &'a dyn Fn(u64) -> bool,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Random bits, new for each call.
    pub random: u64,
}

/// The version that answers a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The number of the version to run.
    pub version: ModelVersion,
    /// The reason why it was chosen.
    pub why: Why,
    /// The canary run in which the call counts, and its side.
    pub canary: Option<(u64, Arm)>,
    /// The version that runs as a shadow of this call.
    pub shadow: Option<ModelVersion>,
    /// The deprecation notice for the caller.
    pub notice: Option<Notice>,
}

/// The reason why a version answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The caller named its number.
    Pinned,
    /// The caller named an alias of it.
    Alias(String),
    /// It is the operator's default for calls that name no version.
    Default(String),
    /// It is the highest version that is ready.
    Latest,
    /// The caller is among those that get the canary.
    Canary(u64),
    /// The caller is in this arm of a split.
    Split(String),
    /// The caller sent this header.
    Header(String),
}

impl Why {
    /// The value of the header `x-model-version-reason`.
    pub fn as_str(&self) -> Cow<'static, str> {
        match self {
            Self::Pinned => "pinned".into(),
            Self::Alias(alias) => format!("alias:{alias}").into(),
            Self::Default(to) => format!("default:{to}").into(),
            Self::Latest => LATEST.into(),
            Self::Canary(id) => format!("canary:{id}").into(),
            Self::Split(arm) => format!("split:{arm}").into(),
            Self::Header(name) => format!("header:{name}").into(),
        }
    }
}

/// The reason why no version answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoVersion {
    /// There is no such version or alias.
    Unknown {
        /// The versions and aliases that exist.
        available: Vec<String>,
    },
    /// The version answered until its sunset.
    Gone {
        /// The version that reached its sunset.
        version: ModelVersion,
        /// The version or alias to use instead.
        successor: Option<String>,
        /// The time of its sunset.
        since_ms: u64,
    },
    /// The operator's target for calls like this one does not exist.
    Missing {
        /// The number of the version that does not exist; 0 if the alias itself does not exist.
        version: u64,
        /// The alias that leads to it, if any.
        alias: Option<String>,
    },
}

impl Rollouts {
    /// Decides which version answers a call of a model.
    ///
    /// # Errors
    ///
    /// See [`NoVersion`].
    pub fn choose(&self, model: &str, asked: &RolloutQuery<'_>) -> Result<Chosen, NoVersion> {
        let choice = self.choice(model, asked);
        match asked.pinned {
            Some(text) => choice.pinned(text),
            None => choice.free(),
        }
    }

    /// Decides which version describes a model, for requests that do not run it. Canaries and splits do not apply, because
    /// they depend on a caller.
    ///
    /// # Errors
    ///
    /// See [`NoVersion`].
    pub fn describe(&self, model: &str, asked: &RolloutQuery<'_>) -> Result<Chosen, NoVersion> {
        let choice = self.choice(model, asked);
        match asked.pinned {
            Some(text) => choice.pinned(text),
            None => choice.default(),
        }
    }

    fn choice<'c, 'a>(&'c self, model: &str, asked: &'c RolloutQuery<'a>) -> Choice<'c, 'a> {
        static NOTHING: Rollout = Rollout::NOTHING;
        let rollout = self.of(model).unwrap_or(&NOTHING);
        Choice { rollout, asked }
    }
}

impl Rollout {
    /// The choice for a model without a rollout.
    const NOTHING: Self = Self {
        aliases: std::collections::BTreeMap::new(),
        default: None,
        canary: None,
        split: None,
        shadow: None,
        deprecated: std::collections::BTreeMap::new(),
        ended: None,
    };

    /// The sunset of a version, if it has passed.
    fn gone_ms(&self, version: Version, now_ms: u64) -> Option<u64> {
        let sunset_ms = self.deprecated.get(&version)?.sunset_ms?;
        (sunset_ms <= now_ms).then_some(sunset_ms)
    }
}

/// The rollout of a model and the call that asks for a version.
struct Choice<'c, 'a> {
    rollout: &'c Rollout,
    asked: &'c RolloutQuery<'a>,
}

impl Choice<'_, '_> {
    fn pinned(&self, text: &str) -> Result<Chosen, NoVersion> {
        let unknown = || NoVersion::Unknown {
            available: self.available(),
        };
        match Target::parse(text).ok_or_else(unknown)? {
            Target::Version(version) => {
                let version = self.there(version).ok_or_else(unknown)?;
                self.not_gone(version)?;
                Ok(self.chosen(version, Why::Pinned))
            }
            Target::Alias(alias) if alias.is_latest() => {
                let version = self.latest().ok_or_else(unknown)?;
                self.not_gone(version)?;
                Ok(self.chosen(version, Why::Alias(LATEST.to_owned())))
            }
            Target::Alias(alias) => {
                let named = *self.rollout.aliases.get(&alias).ok_or_else(unknown)?;
                let version = self.named(named, &alias)?;
                self.not_gone(version)?;
                Ok(self.chosen(version, Why::Alias(alias.as_str().to_owned())))
            }
        }
    }

    /// Chooses the version for a call that names none.
    fn free(&self) -> Result<Chosen, NoVersion> {
        let asked = self.asked;
        let mut chosen = match self.split() {
            Some((version, why)) => self.chosen(version, why),
            None => self.canary_or_default()?,
        };
        if let Some(shadow) = &self.rollout.shadow
            && shadow.percent.has(asked.random % u64::from(WHOLE))
        {
            chosen.shadow = self
                .serves(shadow.version)
                .filter(|version| *version != chosen.version);
        }
        Ok(chosen)
    }

    /// The arm of a split that the call is in.
    fn split(&self) -> Option<(ModelVersion, Why)> {
        let split = self.rollout.split.as_ref()?;
        if let Some(header) = &split.header {
            let value = (self.asked.header)(&header.name);
            let to = value.and_then(|value| header.values.get(value.trim()));
            if let Some(version) = to.and_then(|to| self.arm(to)) {
                return Some((version, Why::Header(header.name.clone())));
            }
        }
        let weights = split.arms.iter().map(|arm| u64::from(arm.weight));
        let mut rest = point(split.id, self.asked.caller, weights.sum());
        for SplitArm { to, weight } in &split.arms {
            match rest.checked_sub(u64::from(*weight)) {
                Some(less) => rest = less,
                None => return Some((self.arm(to)?, Why::Split(to.to_string()))),
            }
        }
        None
    }

    fn canary_or_default(&self) -> Result<Chosen, NoVersion> {
        let stable = self.default();
        let Some(canary) = &self.rollout.canary else {
            return stable;
        };
        let Some(version) = self.serves(canary.version) else {
            return stable;
        };
        if (self.asked.rolled_back)(canary.id)
            || stable
                .as_ref()
                .is_ok_and(|stable| stable.version == version)
        {
            return stable;
        }
        let tries = canary
            .percent
            .has(point(canary.id, self.asked.caller, u64::from(WHOLE)));
        if tries {
            let mut chosen = self.chosen(version, Why::Canary(canary.id));
            chosen.canary = Some((canary.id, Arm::Canary));
            return Ok(chosen);
        }
        let mut stable = stable?;
        stable.canary = Some((canary.id, Arm::Stable));
        Ok(stable)
    }

    fn default(&self) -> Result<Chosen, NoVersion> {
        let (version, why) = match &self.rollout.default {
            Some(Target::Version(named)) => {
                let missing = NoVersion::Missing {
                    version: named.get(),
                    alias: None,
                };
                let version = self.there(*named).ok_or(missing)?;
                (version, Why::Default(named.to_string()))
            }
            Some(Target::Alias(alias)) if !alias.is_latest() => {
                // An alias that is the default cannot be removed.
                let named = self.rollout.aliases.get(alias).copied();
                let named = named.ok_or_else(|| NoVersion::Missing {
                    version: 0,
                    alias: Some(alias.as_str().to_owned()),
                })?;
                let version = self.named(named, alias)?;
                (version, Why::Default(alias.as_str().to_owned()))
            }
            Some(Target::Alias(_)) | None => {
                let unknown = || NoVersion::Unknown {
                    available: Vec::new(),
                };
                (self.latest().ok_or_else(unknown)?, Why::Latest)
            }
        };
        self.not_gone(version)?;
        Ok(self.chosen(version, why))
    }

    /// The highest version that is ready; if none is ready, the highest. Versions past their sunset are used only if all
    /// are past it.
    fn latest(&self) -> Option<ModelVersion> {
        let serving = || {
            let versions = self.asked.versions.iter().rev().copied();
            versions.filter(|version| self.gone_ms(*version).is_none())
        };
        let ready = |version: &ModelVersion| (self.asked.ready)(*version);
        // A single version needs no check of readiness.
        let one = serving().nth(1).is_none();
        (if one { None } else { serving().find(ready) })
            .or_else(|| serving().next())
            .or(self.asked.versions.last().copied())
    }

    fn gone_ms(&self, version: ModelVersion) -> Option<u64> {
        if self.rollout.deprecated.is_empty() {
            return None;
        }
        self.rollout.gone_ms(version.into(), self.asked.now_ms)
    }

    fn not_gone(&self, version: ModelVersion) -> Result<(), NoVersion> {
        let Some(since_ms) = self.gone_ms(version) else {
            return Ok(());
        };
        let deprecated = self.rollout.deprecated.get(&version.into());
        let successor = deprecated.and_then(|deprecated| deprecated.successor.as_ref());
        Err(NoVersion::Gone {
            version,
            successor: successor.map(ToString::to_string),
            since_ms,
        })
    }

    /// A version, if the model has it.
    fn there(&self, version: Version) -> Option<ModelVersion> {
        let version = version.of_model()?;
        self.asked.versions.binary_search(&version).ok()?;
        Some(version)
    }

    /// A version, if the model has it and it is not past its sunset.
    fn serves(&self, version: Version) -> Option<ModelVersion> {
        self.there(version)
            .filter(|version| self.gone_ms(*version).is_none())
    }

    fn named(&self, version: Version, alias: &Alias) -> Result<ModelVersion, NoVersion> {
        self.there(version).ok_or_else(|| NoVersion::Missing {
            version: version.get(),
            alias: Some(alias.as_str().to_owned()),
        })
    }

    /// The version of an arm, if it may answer.
    fn arm(&self, to: &Target) -> Option<ModelVersion> {
        match to {
            Target::Version(version) => self.serves(*version),
            Target::Alias(alias) if alias.is_latest() => self.latest(),
            Target::Alias(alias) => self.serves(*self.rollout.aliases.get(alias)?),
        }
    }

    fn chosen(&self, version: ModelVersion, why: Why) -> Chosen {
        let deprecated = self.rollout.deprecated.get(&version.into());
        Chosen {
            version,
            why,
            canary: None,
            shadow: None,
            notice: deprecated.map(Notice::of),
        }
    }

    /// The names that a caller may use: versions, and aliases of existing versions.
    fn available(&self) -> Vec<String> {
        let versions = self.asked.versions.iter();
        let versions = versions.filter(|version| self.gone_ms(**version).is_none());
        let aliases = self.rollout.aliases.iter();
        let aliases = aliases.filter(|(_, version)| self.serves(**version).is_some());
        versions
            .map(ToString::to_string)
            .chain(aliases.map(|(alias, _)| alias.to_string()))
            .chain([LATEST.to_owned()])
            .collect()
    }
}
