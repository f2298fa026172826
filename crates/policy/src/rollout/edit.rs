//! Decides what a change makes of a model's rollout, and refuses what could not be meant: versions that do not exist, names
//! that others rest on, and a canary that is what everybody gets anyway.

use super::judge::{MAX_MIN_CALLS, MAX_WINDOW_S, MIN_WINDOW_S};
use super::{
    ALIAS_RULE, Alias, Bounds, BoundsPatch, ByHeader, Canary, Deprecated, Ended, MAX_ALIASES,
    MAX_ARMS, MAX_DEPRECATED, MAX_DOCUMENT_BYTES, MAX_LINK_BYTES, MAX_RETIRED, MAX_VALUE_BYTES,
    MAX_VALUES, MAX_WEIGHT, Percent, Retired, Rollout, Rollouts, Shadow, Split, SplitArm, Target,
    Version,
};
use penstock_core::{ModelVersion, Violation};

/// The latest time that is taken: the year 9999, as in RFC 3339.
const MAX_TIME_MS: u64 = 253_402_300_799_999;

/// What an administrator wants changed of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Gives a version a name, or moves the name.
    SetAlias {
        /// The name.
        alias: Alias,
        /// The version.
        version: Version,
    },
    /// Takes a name away.
    RemoveAlias {
        /// The name.
        alias: Alias,
    },
    /// Says what calls get that name no version; without it, `latest`.
    SetDefault {
        /// What they get.
        to: Option<Target>,
    },
    /// Starts a canary's run, in place of one that goes on.
    StartCanary {
        /// The version to try.
        version: Version,
        /// Who tries it.
        percent: Percent,
        /// When it ends by itself; without it, never.
        rollback: Option<Bounds>,
    },
    /// Changes a run that goes on.
    SetCanary {
        /// Who tries it.
        percent: Option<Percent>,
        /// When it ends by itself: not changed, never, or what is changed of that.
        rollback: Option<Option<BoundsPatch>>,
    },
    /// Ends a run, without saying that the version is bad.
    StopCanary,
    /// Makes the canary what everybody gets.
    Promote {
        /// The alias to move; without it, the one that is the default.
        alias: Option<Alias>,
    },
    /// Ends a run because the version is bad.
    Rollback,
    /// Compares versions on callers; `None` to end that.
    SetSplit {
        /// Versions and how many callers get them, and which get them by a header.
        split: Option<(Vec<SplitArm>, Option<ByHeader>)>,
    },
    /// Runs a version beside what answers; `None` to end that.
    SetShadow {
        /// Which, and of how many calls.
        shadow: Option<Shadow>,
    },
    /// Says that a version is to go.
    Deprecate {
        /// Which.
        version: Version,
        /// From when on, until when, and what to use then.
        deprecated: Deprecated,
    },
    /// Says that it is to stay after all.
    Undeprecate {
        /// Which.
        version: Version,
    },
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// What was asked for cannot be: all that is wrong with it.
    Invalid(Vec<Violation>),
    /// What was named does not exist: what, and what does.
    NotFound {
        /// In a sentence.
        message: String,
        /// What there is instead.
        available: Vec<String>,
    },
    /// It cannot be done as things are.
    Conflict(String),
}

/// What a change is made with.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The versions the model has, ascending.
    pub versions: &'a [ModelVersion],
    /// Why the run that goes on was ended by itself, where it was.
    pub tripped: Option<&'a str>,
    /// The time.
    pub now_ms: u64,
    /// Randomness, for the number of a run.
    pub random: u64,
}

impl Surroundings<'_> {
    /// A number that JSON's readers keep exactly, with the lowest two bits zero.
    fn id(&self) -> u64 {
        (self.random >> 11) & !3
    }

    fn has(&self, version: Version) -> bool {
        self.versions.iter().any(|one| one.get() == version.get())
    }
}

impl Rollouts {
    /// Makes a change. Where it is refused, nothing is changed.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn change(
        &mut self,
        model: &str,
        change: Change,
        around: &Surroundings<'_>,
    ) -> Result<(), Refused> {
        let mut rollout = self.of(model).cloned().unwrap_or_default();
        let before = rollout.canary.as_ref().map(|canary| canary.id);
        rollout.change(change, around)?;
        let faults = rollout.faults();
        if !faults.is_empty() {
            return Err(Refused::Invalid(faults));
        }
        let mut changed = self.clone();
        let after = rollout.canary.as_ref().map(|canary| canary.id);
        if let Some(id) = before.filter(|id| Some(*id) != after) {
            if changed.retired.len() == MAX_RETIRED {
                return Err(Refused::Conflict(format!(
                    "{MAX_RETIRED} runs ended within the last minute; try again in another"
                )));
            }
            changed.retired.push(Retired {
                model: model.to_owned(),
                id,
                ended_ms: around.now_ms,
            });
        }
        // How a canary of a model ended that is there no more is nobody's business.
        if around.versions.is_empty() && rollout.canary.is_none() {
            rollout.ended = None;
        }
        match rollout == Rollout::default() {
            true => changed.models.remove(model),
            false => changed.models.insert(model.to_owned(), rollout),
        };
        let bytes = changed.text().len();
        if bytes > MAX_DOCUMENT_BYTES {
            return Err(Refused::Conflict(format!(
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
) -> Refused {
    Refused::Invalid(vec![Violation::new(pointer, rule, expected, message)])
}

fn no_canary() -> Refused {
    Refused::NotFound {
        message: "the model has no canary".to_owned(),
        available: Vec::new(),
    }
}

impl Rollout {
    fn change(&mut self, change: Change, around: &Surroundings<'_>) -> Result<(), Refused> {
        let now_ms = around.now_ms;
        match change {
            Change::SetAlias { alias, version } => {
                if alias.is_latest() {
                    return Err(Refused::Conflict(
                        "`latest` is always the highest version that is ready and cannot be moved; choose another name"
                            .to_owned(),
                    ));
                }
                self.usable(version, "/version", around)?;
                self.aliases.insert(alias, version);
            }
            Change::RemoveAlias { alias } => {
                if !self.aliases.contains_key(&alias) {
                    return Err(self.no_alias(&alias));
                }
                if let Some(who) = self.rests_on(&Target::Alias(alias.clone())) {
                    return Err(Refused::Conflict(format!(
                        "the alias `{alias}` is {who}; change that first"
                    )));
                }
                self.aliases.remove(&alias);
            }
            Change::SetDefault { to } => {
                if let Some(to) = &to {
                    self.target(to, "/to", around)?;
                }
                self.default = to;
            }
            Change::StartCanary {
                version,
                percent,
                rollback,
            } => {
                self.start_canary(version, percent, rollback, around)?;
            }
            Change::SetCanary { percent, rollback } => {
                self.set_canary(percent, rollback, around)?;
            }
            Change::StopCanary => {
                let how = around.tripped.map_or("stopped".to_owned(), by_itself);
                self.end(how, now_ms)?;
            }
            Change::Rollback => {
                let how = around.tripped.map_or("rolled back".to_owned(), by_itself);
                self.end(how, now_ms)?;
            }
            Change::Promote { alias } => {
                self.promote(alias, around)?;
            }
            Change::SetSplit { split: None } => {
                if self.split.take().is_none() {
                    return Err(nothing("the model has no split"));
                }
            }
            Change::SetSplit {
                split: Some((arms, header)),
            } => {
                if self.canary.is_some() && !arms.is_empty() {
                    return Err(Refused::Conflict(
                        "the model has a canary; promote it or end it first".to_owned(),
                    ));
                }
                for (n, arm) in arms.iter().enumerate() {
                    self.target(&arm.to, &format!("/arms/{n}/to"), around)?;
                }
                for to in header.iter().flat_map(|header| header.values.values()) {
                    self.target(to, "/header/values", around)?;
                }
                // Whoever changes weights keeps callers where they are, as far as that goes.
                let id = self.split.as_ref().map_or(around.id(), |split| split.id);
                self.split = Some(Split { id, arms, header });
            }
            Change::SetShadow { shadow: None } => {
                if self.shadow.take().is_none() {
                    return Err(nothing("the model has no shadow"));
                }
            }
            Change::SetShadow {
                shadow: Some(shadow),
            } => {
                self.usable(shadow.version, "/version", around)?;
                self.shadow = Some(shadow);
            }
            Change::Deprecate {
                version,
                deprecated,
            } => {
                exists(version, "/version", around)?;
                if let Some(successor) = &deprecated.successor {
                    self.target(successor, "/successor", around)?;
                    if self.means(successor, around) == Some(version) {
                        return Err(invalid(
                            "/successor",
                            "same_version",
                            "another version",
                            "the version cannot be its own successor",
                        ));
                    }
                }
                if deprecated.sunset_ms.is_some()
                    && let Some(who) = self.rests_on_version(version, around)
                {
                    return Err(Refused::Conflict(format!(
                        "version {version} is {who}, which would have no version after the sunset; move it first"
                    )));
                }
                self.deprecated.insert(version, deprecated);
            }
            Change::Undeprecate { version } => {
                if self.deprecated.remove(&version).is_none() {
                    return Err(nothing(&format!("version {version} is not deprecated")));
                }
            }
        }
        Ok(())
    }

    fn start_canary(
        &mut self,
        version: Version,
        percent: Percent,
        rollback: Option<Bounds>,
        around: &Surroundings<'_>,
    ) -> Result<(), Refused> {
        self.usable(version, "/version", around)?;
        if self
            .split
            .as_ref()
            .is_some_and(|split| !split.arms.is_empty())
        {
            return Err(Refused::Conflict(
                "the model's callers are split among versions; end the split first".to_owned(),
            ));
        }
        let stable = self.stable(around);
        if stable == Some(version) {
            let named = match &self.default {
                None => "`latest`, the highest version".to_owned(),
                Some(to) => format!("`{to}`"),
            };
            return Err(Refused::Conflict(format!(
                "calls that name no version get {named}, which is version {version} itself; set the default to \
                 what answers beside the canary first"
            )));
        }
        self.canary = Some(Canary {
            id: around.id(),
            version,
            percent,
            started_ms: around.now_ms,
            rollback,
        });
        Ok(())
    }

    fn set_canary(
        &mut self,
        percent: Option<Percent>,
        rollback: Option<Option<BoundsPatch>>,
        around: &Surroundings<'_>,
    ) -> Result<(), Refused> {
        let canary = self.running(around)?;
        canary.percent = percent.unwrap_or(canary.percent);
        match (rollback, &canary.rollback) {
            (None, _) => {}
            (Some(None), _) => canary.rollback = None,
            (Some(Some(patch)), Some(bounds)) => canary.rollback = Some(patch.onto(bounds)),
            // Who said that it must not end by itself has to say what is to end it now.
            (Some(Some(patch)), None) => {
                canary.rollback = Some(patch.alone().ok_or_else(|| {
                    Refused::Conflict(
                        "automatic rollback is off for this canary; give max_error_rate_increase or \
                         max_latency_ratio as well to turn it on"
                            .to_owned(),
                    )
                })?);
            }
        }
        Ok(())
    }

    fn promote(&mut self, alias: Option<Alias>, around: &Surroundings<'_>) -> Result<(), Refused> {
        let version = self.running(around)?.version;
        self.usable(version, "", around)?;
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
        self.end(how, around.now_ms)
    }

    fn end(&mut self, how: String, now_ms: u64) -> Result<(), Refused> {
        let canary = self.canary.take().ok_or_else(no_canary)?;
        self.ended = Some(Ended {
            version: canary.version,
            ended_ms: now_ms,
            how,
        });
        Ok(())
    }

    /// The run that goes on.
    fn running(&mut self, around: &Surroundings<'_>) -> Result<&mut Canary, Refused> {
        let canary = self.canary.as_mut().ok_or_else(no_canary)?;
        match around.tripped {
            None => Ok(canary),
            Some(why) => Err(Refused::Conflict(format!(
                "the canary of version {} was ended by itself: {why}; start another",
                canary.version
            ))),
        }
    }

    /// What calls get that name no version.
    fn stable(&self, around: &Surroundings<'_>) -> Option<Version> {
        match &self.default {
            Some(to) => self.means(to, around),
            None => around.versions.last().copied().map(Version::from),
        }
    }

    /// The version something names.
    fn means(&self, to: &Target, around: &Surroundings<'_>) -> Option<Version> {
        match to {
            Target::Version(version) => Some(*version),
            Target::Alias(alias) if alias.is_latest() => {
                around.versions.last().copied().map(Version::from)
            }
            Target::Alias(alias) => self.aliases.get(alias).copied(),
        }
    }

    /// That a version exists and goes on answering.
    fn usable(&self, version: Version, at: &str, around: &Surroundings<'_>) -> Result<(), Refused> {
        exists(version, at, around)?;
        match self.deprecated.get(&version).and_then(|d| d.sunset_ms) {
            None => Ok(()),
            Some(_) => Err(Refused::Conflict(format!(
                "version {version} has a sunset; undeprecate it, or name another"
            ))),
        }
    }

    /// That something names a version which exists and goes on answering.
    fn target(&self, to: &Target, at: &str, around: &Surroundings<'_>) -> Result<(), Refused> {
        match to {
            Target::Version(version) => self.usable(*version, at, around),
            Target::Alias(alias) if alias.is_latest() => Ok(()),
            Target::Alias(alias) => match self.aliases.contains_key(alias) {
                true => Ok(()),
                false => Err(self.no_alias(alias)),
            },
        }
    }

    fn no_alias(&self, alias: &Alias) -> Refused {
        Refused::NotFound {
            message: format!("the model has no alias `{alias}` of its own"),
            available: self.aliases.keys().map(ToString::to_string).collect(),
        }
    }

    /// What rests on a target, in words.
    fn rests_on(&self, target: &Target) -> Option<&'static str> {
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

    /// What rests on a version, in words, aliases of it among them.
    fn rests_on_version(&self, version: Version, around: &Surroundings<'_>) -> Option<String> {
        let alias = self.aliases.iter().find(|(_, named)| **named == version);
        if let Some((alias, _)) = alias {
            return Some(format!("the alias `{alias}`"));
        }
        if around.versions.len() == 1 {
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
        self.rests_on(&Target::Version(version)).map(str::to_owned)
    }

    /// What is wrong with it, whatever versions there are.
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
            let arms = split.arms.len();
            if arms == 1 || arms > MAX_ARMS || (arms == 0 && split.header.is_none()) {
                let expected = format!("2 to {MAX_ARMS} arms, or a header and no arms");
                fault("/arms", expected, format!("there are {arms} arms"));
            }
            for (n, arm) in split.arms.iter().enumerate() {
                if !(1..=MAX_WEIGHT).contains(&arm.weight) {
                    let message = format!("the weight is {}", arm.weight);
                    fault(
                        &format!("/arms/{n}/weight"),
                        format!("1 to {MAX_WEIGHT}"),
                        message,
                    );
                }
            }
            if let Some(header) = &split.header {
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
        for (version, deprecated) in &self.deprecated {
            let Deprecated {
                since_ms,
                sunset_ms,
                link,
                ..
            } = deprecated;
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
        faults
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

fn by_itself(why: &str) -> String {
    format!("ended by itself: {why}")
}

fn nothing(message: &str) -> Refused {
    Refused::NotFound {
        message: message.to_owned(),
        available: Vec::new(),
    }
}

fn exists(version: Version, at: &str, around: &Surroundings<'_>) -> Result<(), Refused> {
    if around.has(version) {
        return Ok(());
    }
    let versions: Vec<String> = around.versions.iter().map(ToString::to_string).collect();
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

/// An alias that a caller wrote, or what is wrong with it.
///
/// # Errors
///
/// What an alias looks like.
pub fn alias(text: &str) -> Result<Alias, Refused> {
    Alias::parse(text).ok_or_else(|| {
        invalid(
            "/alias",
            "invalid_name",
            ALIAS_RULE,
            "this cannot be an alias",
        )
    })
}
