//! Applies a change to a model's rollout. It refuses versions that do not exist, names that are still in use, and a canary
//! of the version that all callers get anyway.

use super::judge::{MAX_MIN_CALLS, MAX_WINDOW_S, MIN_WINDOW_S};
use super::{
    ALIAS_RULE, Alias, Bounds, BoundsPatch, ByHeader, Canary, Deprecated, Ended, MAX_ALIASES,
    MAX_ARMS, MAX_DEPRECATED, MAX_DOCUMENT_BYTES, MAX_LINK_BYTES, MAX_RETIRED, MAX_VALUE_BYTES,
    MAX_VALUES, MAX_WEIGHT, Percent, Retired, Rollout, Rollouts, Shadow, Split, SplitArm, Target,
    Version,
};
use penstock_core::{ModelVersion, Violation};

/// The latest accepted time: the end of the year 9999, as in RFC 3339.
const MAX_TIME_MS: u64 = 253_402_300_799_999;

/// A change of a model's rollout.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Gives a version a name, or moves the name.
    SetAlias {
        /// The name to set. It may name another version now.
        alias: Alias,
        /// The version that the name leads to from now on.
        version: Version,
    },
    /// Removes a name, so that calls with it are answered 404.
    RemoveAlias {
        /// The name to remove.
        alias: Alias,
    },
    /// Sets the target of calls that name no version.
    SetDefault {
        /// The target; `None` for `latest`.
        to: Option<Target>,
    },
    /// Starts a canary run. It replaces a run in progress.
    StartCanary {
        /// The version to try.
        version: Version,
        /// The part of callers that get it.
        percent: Percent,
        /// The bounds at which it is rolled back automatically; `None` for never.
        rollback: Option<Bounds>,
    },
    /// Changes a run in progress.
    SetCanary {
        /// The part of callers that get it.
        percent: Option<Percent>,
        /// The bounds of automatic rollback: `None` leaves them, `Some(None)` removes them, a patch changes them.
        rollback: Option<Option<BoundsPatch>>,
    },
    /// Ends a run without a judgement on the version.
    StopCanary,
    /// Gives the canary's version to all callers.
    Promote {
        /// The alias to move; `None` for the alias that is the default.
        alias: Option<Alias>,
    },
    /// Ends a run because the version is bad.
    Rollback,
    /// Splits callers among versions.
    SetSplit {
        /// The arms with their weights, and the versions by header; `None` ends the split.
        split: Option<(Vec<SplitArm>, Option<ByHeader>)>,
    },
    /// Runs a version on copies of calls.
    SetShadow {
        /// The version and its share of calls; `None` ends the shadow.
        shadow: Option<Shadow>,
    },
    /// Announces that a version will be removed.
    Deprecate {
        /// The version that will be removed.
        version: Version,
        /// Its dates and its successor.
        deprecated: Deprecated,
    },
    /// Withdraws the announcement that a version will be removed.
    Undeprecate {
        /// The version that stays.
        version: Version,
    },
}

/// The reason why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The request is invalid; lists every fault.
    Invalid(Vec<Violation>),
    /// Something that the request names does not exist.
    NotFound {
        /// A sentence that names it.
        message: String,
        /// The names of that kind that exist.
        available: Vec<String>,
    },
    /// The current state does not allow the change; the sentence says why.
    Conflict(String),
}

/// The facts beside the document on which a change depends.
#[derive(Clone, Copy, Debug)]
pub struct Environment<'a> {
    /// The versions of the model, ascending.
    pub versions: &'a [ModelVersion],
    /// The reason why the current run was rolled back automatically, if it was.
    pub rolled_back: Option<&'a str>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Random bits for the id of a run.
    pub random: u64,
}

impl Environment<'_> {
    /// An id of at most 53 bits, which every JSON reader keeps exactly. Its lowest two bits are zero.
    fn id(&self) -> u64 {
        (self.random >> 11) & !3
    }

    fn has(&self, version: Version) -> bool {
        self.versions.iter().any(|one| one.get() == version.get())
    }
}

impl Rollouts {
    /// Applies a change to a model's rollout. On an error nothing is changed.
    ///
    /// # Errors
    ///
    /// See [`EditError`].
    pub fn change(
        &mut self,
        model: &str,
        change: Change,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        let mut rollout = self.of(model).cloned().unwrap_or_default();
        let before = rollout.canary.as_ref().map(|canary| canary.id);
        rollout.change(change, environment)?;
        let faults = rollout.faults();
        if !faults.is_empty() {
            return Err(EditError::Invalid(faults));
        }
        let mut changed = self.clone();
        let after = rollout.canary.as_ref().map(|canary| canary.id);
        if let Some(id) = before.filter(|id| Some(*id) != after) {
            if changed.retired.len() == MAX_RETIRED {
                return Err(EditError::Conflict(format!(
                    "{MAX_RETIRED} runs ended within the last minute; try again in a minute"
                )));
            }
            changed.retired.push(Retired {
                model: model.to_owned(),
                id,
                ended_ms: environment.now_ms,
            });
        }
        // A model without versions and without a canary needs no record of its last run.
        if environment.versions.is_empty() && rollout.canary.is_none() {
            rollout.ended = None;
        }
        match rollout == Rollout::default() {
            true => changed.models.remove(model),
            false => changed.models.insert(model.to_owned(), rollout),
        };
        let bytes = changed.text().len();
        if bytes > MAX_DOCUMENT_BYTES {
            return Err(EditError::Conflict(format!(
                "the rollouts of all models would have {bytes} bytes, more than {MAX_DOCUMENT_BYTES}; remove aliases \
                 or deprecations that are no longer needed"
            )));
        }
        *self = changed;
        Ok(())
    }
}

fn invalid(
    pointer: &str,
    rule: &str,
    expected: impl Into<String>,
    message: impl Into<String>,
) -> EditError {
    EditError::Invalid(vec![Violation::new(pointer, rule, expected, message)])
}

fn no_canary() -> EditError {
    EditError::NotFound {
        message: "the model has no canary".to_owned(),
        available: Vec::new(),
    }
}

impl Rollout {
    fn change(&mut self, change: Change, environment: &Environment<'_>) -> Result<(), EditError> {
        let now_ms = environment.now_ms;
        match change {
            Change::SetAlias { alias, version } => self.set_alias(alias, version, environment)?,
            Change::RemoveAlias { alias } => self.remove_alias(&alias)?,
            Change::SetDefault { to } => {
                if let Some(to) = &to {
                    self.target(to, "/to", environment)?;
                }
                self.default = to;
            }
            Change::StartCanary {
                version,
                percent,
                rollback,
            } => {
                self.start_canary(version, percent, rollback, environment)?;
            }
            Change::SetCanary { percent, rollback } => {
                self.set_canary(percent, rollback, environment)?;
            }
            Change::StopCanary => {
                let how = environment
                    .rolled_back
                    .map_or("stopped".to_owned(), automatically);
                self.end(how, now_ms)?;
            }
            Change::Rollback => {
                let how = environment
                    .rolled_back
                    .map_or("rolled back".to_owned(), automatically);
                self.end(how, now_ms)?;
            }
            Change::Promote { alias } => {
                self.promote(alias, environment)?;
            }
            Change::SetSplit { split: None } => {
                if self.split.take().is_none() {
                    return Err(nothing("the model has no split"));
                }
            }
            Change::SetSplit {
                split: Some((arms, header)),
            } => self.set_split(arms, header, environment)?,
            Change::SetShadow { shadow: None } => {
                if self.shadow.take().is_none() {
                    return Err(nothing("the model has no shadow"));
                }
            }
            Change::SetShadow {
                shadow: Some(shadow),
            } => {
                self.usable(shadow.version, "/version", environment)?;
                self.shadow = Some(shadow);
            }
            Change::Deprecate {
                version,
                deprecated,
            } => self.deprecate(version, deprecated, environment)?,
            Change::Undeprecate { version } => {
                if self.deprecated.remove(&version).is_none() {
                    return Err(nothing(&format!("version {version} is not deprecated")));
                }
            }
        }
        Ok(())
    }

    fn set_alias(
        &mut self,
        alias: Alias,
        version: Version,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        if alias.is_latest() {
            return Err(EditError::Conflict(
                "`latest` is always the highest version that is ready and cannot be moved; choose another name".to_owned(),
            ));
        }
        self.usable(version, "/version", environment)?;
        self.aliases.insert(alias, version);
        Ok(())
    }

    fn remove_alias(&mut self, alias: &Alias) -> Result<(), EditError> {
        if !self.aliases.contains_key(alias) {
            return Err(self.no_alias(alias));
        }
        if let Some(role) = self.role_of(&Target::Alias(alias.clone())) {
            return Err(EditError::Conflict(format!(
                "the alias `{alias}` is {role}; change that first"
            )));
        }
        self.aliases.remove(alias);
        Ok(())
    }

    fn set_split(
        &mut self,
        arms: Vec<SplitArm>,
        header: Option<ByHeader>,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        if self.canary.is_some() && !arms.is_empty() {
            return Err(EditError::Conflict(
                "the model has a canary; promote it or end it first".to_owned(),
            ));
        }
        for (n, arm) in arms.iter().enumerate() {
            self.target(&arm.to, &format!("/arms/{n}/to"), environment)?;
        }
        for to in header.iter().flat_map(|header| header.values.values()) {
            self.target(to, "/header/values", environment)?;
        }
        // The id stays, so that a change of weights moves as few callers as possible.
        let id = self
            .split
            .as_ref()
            .map_or(environment.id(), |split| split.id);
        self.split = Some(Split { id, arms, header });
        Ok(())
    }

    fn deprecate(
        &mut self,
        version: Version,
        deprecated: Deprecated,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        exists(version, "/version", environment)?;
        if let Some(successor) = &deprecated.successor {
            self.target(successor, "/successor", environment)?;
            if self.means(successor, environment) == Some(version) {
                return Err(invalid(
                    "/successor",
                    "same_version",
                    "another version",
                    "the version cannot be its own successor",
                ));
            }
        }
        if deprecated.sunset_ms.is_some()
            && let Some(role) = self.role_of_version(version, environment)
        {
            return Err(EditError::Conflict(format!(
                "version {version} is {role}, which would have no version after the sunset; move it first"
            )));
        }
        self.deprecated.insert(version, deprecated);
        Ok(())
    }

    fn start_canary(
        &mut self,
        version: Version,
        percent: Percent,
        rollback: Option<Bounds>,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        self.usable(version, "/version", environment)?;
        if self
            .split
            .as_ref()
            .is_some_and(|split| !split.arms.is_empty())
        {
            return Err(EditError::Conflict(
                "the model's callers are split among versions; end the split first".to_owned(),
            ));
        }
        let stable = self.stable(environment);
        if stable == Some(version) {
            let named = match &self.default {
                None => "`latest`, the highest version".to_owned(),
                Some(to) => format!("`{to}`"),
            };
            return Err(EditError::Conflict(format!(
                "calls that name no version get {named}, which is version {version} itself; set the default to \
                 the version that answers beside the canary first"
            )));
        }
        self.canary = Some(Canary {
            id: environment.id(),
            version,
            percent,
            started_ms: environment.now_ms,
            rollback,
        });
        Ok(())
    }

    fn set_canary(
        &mut self,
        percent: Option<Percent>,
        rollback: Option<Option<BoundsPatch>>,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        let canary = self.running(environment)?;
        canary.percent = percent.unwrap_or(canary.percent);
        match (rollback, &canary.rollback) {
            (None, _) => {}
            (Some(None), _) => canary.rollback = None,
            (Some(Some(patch)), Some(bounds)) => canary.rollback = Some(patch.onto(bounds)),
            // Automatic rollback was turned off, so the request must name a bound to turn it on.
            (Some(Some(patch)), None) => {
                canary.rollback = Some(patch.alone().ok_or_else(|| {
                    EditError::Conflict(
                        "automatic rollback is off for this canary; give max_error_rate_increase or \
                         max_latency_ratio as well to turn it on"
                            .to_owned(),
                    )
                })?);
            }
        }
        Ok(())
    }

    fn promote(
        &mut self,
        alias: Option<Alias>,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        let version = self.running(environment)?.version;
        self.usable(version, "", environment)?;
        let alias = match alias {
            Some(alias) if alias.is_latest() || !self.aliases.contains_key(&alias) => {
                return Err(self.no_alias(&alias));
            }
            Some(alias) => Some(alias),
            None => match &self.default {
                Some(Target::Alias(alias)) if !alias.is_latest() => Some(alias.clone()),
                _ => None,
            },
        };
        let how = match alias {
            Some(alias) => {
                let how = format!("promoted to `{alias}`");
                self.aliases.insert(alias, version);
                how
            }
            None => {
                self.default = Some(Target::Version(version));
                "promoted to the default".to_owned()
            }
        };
        self.end(how, environment.now_ms)
    }

    fn end(&mut self, how: String, now_ms: u64) -> Result<(), EditError> {
        let canary = self.canary.take().ok_or_else(no_canary)?;
        self.ended = Some(Ended {
            version: canary.version,
            ended_ms: now_ms,
            how,
        });
        Ok(())
    }

    /// Returns the run in progress, unless it was rolled back.
    fn running(&mut self, environment: &Environment<'_>) -> Result<&mut Canary, EditError> {
        let canary = self.canary.as_mut().ok_or_else(no_canary)?;
        match environment.rolled_back {
            None => Ok(canary),
            Some(why) => Err(EditError::Conflict(format!(
                "the canary of version {} was rolled back automatically: {why}; start another",
                canary.version
            ))),
        }
    }

    /// The version of calls that name none.
    fn stable(&self, environment: &Environment<'_>) -> Option<Version> {
        match &self.default {
            Some(to) => self.means(to, environment),
            None => environment.versions.last().copied().map(Version::from),
        }
    }

    /// The version that a target leads to.
    fn means(&self, to: &Target, environment: &Environment<'_>) -> Option<Version> {
        match to {
            Target::Version(version) => Some(*version),
            Target::Alias(alias) if alias.is_latest() => {
                environment.versions.last().copied().map(Version::from)
            }
            Target::Alias(alias) => self.aliases.get(alias).copied(),
        }
    }

    /// Checks that a version exists and has no sunset.
    fn usable(
        &self,
        version: Version,
        at: &str,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        exists(version, at, environment)?;
        match self.deprecated.get(&version).and_then(|d| d.sunset_ms) {
            None => Ok(()),
            Some(_) => Err(EditError::Conflict(format!(
                "version {version} has a sunset; undeprecate it, or name another"
            ))),
        }
    }

    /// Checks that a target leads to a version that exists and has no sunset.
    fn target(
        &self,
        to: &Target,
        at: &str,
        environment: &Environment<'_>,
    ) -> Result<(), EditError> {
        match to {
            Target::Version(version) => self.usable(*version, at, environment),
            Target::Alias(alias) if alias.is_latest() => Ok(()),
            Target::Alias(alias) => match self.aliases.contains_key(alias) {
                true => Ok(()),
                false => Err(self.no_alias(alias)),
            },
        }
    }

    fn no_alias(&self, alias: &Alias) -> EditError {
        EditError::NotFound {
            message: format!("the model has no alias `{alias}` of its own"),
            available: self.aliases.keys().map(ToString::to_string).collect(),
        }
    }

    /// The use of a target, in words.
    fn role_of(&self, target: &Target) -> Option<&'static str> {
        let split = self.split.as_ref();
        let mut arms = split.into_iter().flat_map(|split| {
            let by_header = split
                .header
                .iter()
                .flat_map(|header| header.values.values());
            split.arms.iter().map(|arm| &arm.to).chain(by_header)
        });
        if self.default.as_ref() == Some(target) {
            return Some("the default");
        }
        if arms.any(|to| to == target) {
            return Some("in the split");
        }
        let mut deprecated = self.deprecated.values();
        deprecated
            .any(|deprecated| deprecated.successor.as_ref() == Some(target))
            .then_some("the successor of a deprecated version")
    }

    /// The use of a version or of one of its aliases, in words.
    fn role_of_version(&self, version: Version, environment: &Environment<'_>) -> Option<String> {
        let alias = self.aliases.iter().find(|(_, named)| **named == version);
        if let Some((alias, _)) = alias {
            return Some(format!("the alias `{alias}`"));
        }
        if environment.versions.len() == 1 {
            return Some("the model's only version".to_owned());
        }
        if self
            .canary
            .as_ref()
            .is_some_and(|canary| canary.version == version)
        {
            return Some("the canary".to_owned());
        }
        if self
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.version == version)
        {
            return Some("the shadow".to_owned());
        }
        self.role_of(&Target::Version(version)).map(str::to_owned)
    }

    /// All faults of the rollout that do not depend on the versions of the model.
    pub fn faults(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        let mut fault = |pointer: &str, expected: String, message: String| {
            faults.push(Violation::new(pointer, "out_of_range", expected, message));
        };
        let at_most = |what: &str, most: usize| format!("at most {most} {what}");
        if self.aliases.len() > MAX_ALIASES {
            let message = format!("the model has {} aliases; remove some", self.aliases.len());
            fault("/aliases", at_most("aliases", MAX_ALIASES), message);
        }
        if self.deprecated.len() > MAX_DEPRECATED {
            let message = format!("{} versions are deprecated", self.deprecated.len());
            fault("/deprecated", at_most("versions", MAX_DEPRECATED), message);
        }
        if let Some(canary) = &self.canary {
            if canary.id & 3 != 0 {
                fault(
                    "/canary/id",
                    "a multiple of four".into(),
                    "the run has no number of a run".into(),
                );
            }
            if let Some(bounds) = &canary.rollback {
                for (member, expected) in bounds.faults() {
                    let message = format!("`{member}` is out of its range");
                    fault(&format!("/rollback/{member}"), expected, message);
                }
            }
        }
        if let Some(split) = &self.split {
            split.faults(&mut fault);
        }
        for (version, deprecated) in &self.deprecated {
            deprecated.faults(*version, &mut fault);
        }
        faults
    }
}

impl Split {
    /// Reports the faults of a split: the pointer, the expected value and the message of each.
    fn faults(&self, mut fault: impl FnMut(&str, String, String)) {
        let arms = self.arms.len();
        if arms == 1 || arms > MAX_ARMS || (arms == 0 && self.header.is_none()) {
            let expected = format!("2 to {MAX_ARMS} arms, or a header and no arms");
            fault("/arms", expected, format!("there are {arms} arms"));
        }
        for (n, arm) in self.arms.iter().enumerate() {
            if !(1..=MAX_WEIGHT).contains(&arm.weight) {
                let message = format!("the weight is {}", arm.weight);
                fault(
                    &format!("/arms/{n}/weight"),
                    format!("1 to {MAX_WEIGHT}"),
                    message,
                );
            }
        }
        if let Some(header) = &self.header {
            let token =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            let name = &header.name;
            if name.is_empty() || name.len() > MAX_VALUE_BYTES || !name.bytes().all(token) {
                let expected = format!("at most {MAX_VALUE_BYTES} of a-z 0-9 - _");
                fault(
                    "/header/name",
                    expected,
                    "this is not a header name in lower case".into(),
                );
            }
            if !(1..=MAX_VALUES).contains(&header.values.len()) {
                let message = format!("there are {} values", header.values.len());
                fault(
                    "/header/values",
                    format!("1 to {MAX_VALUES} values"),
                    message,
                );
            }
            let plain = |value: &str| {
                (1..=MAX_VALUE_BYTES).contains(&value.len())
                    && value.trim() == value
                    && value.bytes().all(|b| (0x20..0x7f).contains(&b))
            };
            if !header.values.keys().all(|value| plain(value)) {
                let expected = format!("1 to {MAX_VALUE_BYTES} visible ASCII characters each");
                fault(
                    "/header/values",
                    expected,
                    "a value is not valid in a header".into(),
                );
            }
        }
    }
}

impl Deprecated {
    /// Reports the faults of a deprecation: the pointer, the expected value and the message of each.
    fn faults(&self, version: Version, mut fault: impl FnMut(&str, String, String)) {
        let Deprecated {
            since_ms,
            sunset_ms,
            link,
            ..
        } = self;
        if *since_ms > MAX_TIME_MS {
            let expected = format!("milliseconds since 1970, at most {MAX_TIME_MS}");
            fault(
                "/since_ms",
                expected,
                format!("version {version} is deprecated at a time that is out of range"),
            );
        }
        if sunset_ms.is_some_and(|sunset_ms| sunset_ms < *since_ms || sunset_ms > MAX_TIME_MS) {
            let expected = format!("milliseconds since 1970, from {since_ms} to {MAX_TIME_MS}");
            fault(
                "/sunset_ms",
                expected,
                "the sunset must not be before the deprecation".into(),
            );
        }
        // It goes into a header between angle brackets.
        let fits = |link: &String| {
            link.len() <= MAX_LINK_BYTES
                && (link.starts_with("https://")
                    || link.starts_with("http://")
                    || link.starts_with('/'))
                && link
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"<>\"\\".contains(&b))
        };
        if link.as_ref().is_some_and(|link| !fits(link)) {
            let expected = format!(
                "at most {MAX_LINK_BYTES} bytes of a URL with http:// or https://, or of a path"
            );
            fault(
                "/link",
                expected,
                "this link is not valid in a header".into(),
            );
        }
    }
}

impl Bounds {
    /// Members that are out of their range, and the range.
    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut within = |member, number: f64, (least, most): (f64, f64)| {
            if !(least..=most).contains(&number) {
                faults.push((member, format!("{least} to {most}")));
            }
        };
        if let Some(increase) = self.max_error_rate_increase {
            within("max_error_rate_increase", increase, (0.0, 1.0));
        }
        if let Some(ratio) = self.max_latency_ratio {
            within("max_latency_ratio", ratio, (1.0, 1_000.0));
        }
        within("quantile", self.quantile, (0.5, 0.99));
        within(
            "min_calls",
            self.min_calls as f64,
            (1.0, MAX_MIN_CALLS as f64),
        );
        within(
            "window_s",
            self.window_s as f64,
            (MIN_WINDOW_S as f64, MAX_WINDOW_S as f64),
        );
        faults
    }
}

fn automatically(why: &str) -> String {
    format!("rolled back automatically: {why}")
}

fn nothing(message: &str) -> EditError {
    EditError::NotFound {
        message: message.to_owned(),
        available: Vec::new(),
    }
}

fn exists(version: Version, at: &str, environment: &Environment<'_>) -> Result<(), EditError> {
    if environment.has(version) {
        return Ok(());
    }
    let versions: Vec<String> = environment
        .versions
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = match versions.is_empty() {
        true => "a version that exists; the model has none, so its settings can only be removed"
            .to_owned(),
        false => format!("one of {}", versions.join(", ")),
    };
    Err(invalid(
        at,
        "unknown_version",
        expected,
        format!("the model has no version {version}"),
    ))
}

/// Parses an alias from a request.
///
/// # Errors
///
/// The rule for aliases.
pub fn alias(text: &str) -> Result<Alias, EditError> {
    Alias::parse(text).ok_or_else(|| {
        invalid(
            "/alias",
            "invalid_name",
            ALIAS_RULE,
            "this cannot be an alias",
        )
    })
}
