//! Decides an administrator's action on versions of models, and its answer. The command line performs the same
//! [`RolloutAction`]s.

use super::action::{BASE, Done};
use super::fields::{Body, Query, RETRY_AFTER_S, invalid};
use super::store::StoreKv;
use penstock_core::{Code, ModelName, ModelVersion, Problem, Violation};
use penstock_nn::Repository;
use penstock_policy::rollout::edit::{Change, EditError, Environment};
use penstock_policy::rollout::store::{self, UpdateError};
use penstock_policy::rollout::{
    ALIAS_RULE, Alias, Bounds, BoundsPatch, ByHeader, Deprecated, Percent, Rollouts, Shadow,
    SplitArm, Target, Version, judge,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Number of tries if another machine's change is in progress, and the wait between them. Most changes take
/// milliseconds.
const TRIES: u32 = 30;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// An action of an administrator.
#[derive(Clone, Debug, PartialEq)]
pub enum RolloutAction {
    /// Lists the models: `GET /admin/v1/models`.
    List,
    /// Shows the versions and the rollout of a model: `GET /admin/v1/models/{model}`.
    Show(String),
    /// All other paths below the model.
    Change(String, Change),
}

/// The models of the server.
pub struct Models {
    /// The models that this host runs.
    pub repository: Arc<Repository>,
    /// The folder with the models. It is read if components run the models.
    pub directory: PathBuf,
}

/// A model's versions, ascending, each with its state.
type Versions = Vec<(ModelVersion, &'static str)>;

impl Models {
    /// Returns the models by name, each with its versions.
    fn list(&self) -> BTreeMap<String, Versions> {
        let listed: BTreeMap<String, Versions> = (self.repository.list().into_iter())
            .map(|model| {
                let versions = model.versions.into_iter();
                let versions = versions.filter_map(|(number, state)| {
                    Some((ModelVersion::parse(&number.to_string())?, state.as_str()))
                });
                (model.name.clone(), versions.collect())
            })
            .collect();
        match listed.is_empty() {
            true => self.present(),
            false => listed,
        }
    }

    /// The versions in the directory.
    fn present(&self) -> BTreeMap<String, Versions> {
        let names = |folder: PathBuf| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok())
        };
        let models = names(self.directory.clone()).filter(|name| ModelName::parse(name).is_some());
        let models = models.map(|name| {
            let versions = names(self.directory.join(&name));
            let mut versions: Versions = versions
                .filter_map(|version| Some((ModelVersion::parse(&version)?, "present")))
                .collect();
            versions.sort_unstable();
            (name, versions)
        });
        models
            .filter(|(_, versions)| !versions.is_empty())
            .collect()
    }
}

/// The stores and models that actions need.
pub struct RolloutContext<'a> {
    /// The store of the rollouts.
    pub kv: &'a StoreKv,
    /// The store of the canaries' counters.
    pub counters: &'a StoreKv,
    /// The models of the server.
    pub models: &'a Models,
    /// Held while this server changes the rollouts.
    pub changing: &'a tokio::sync::Mutex<()>,
}

/// The part of a model that a path names.
enum Part<'p> {
    Whole,
    Verb(&'p str),
    Default,
    Alias(&'p str),
    Canary,
    Split,
    Shadow,
    Deprecation(&'p str),
}

/// Returns whether a path belongs to the rollouts.
pub fn is_path(path: &str) -> bool {
    let rest = path
        .strip_prefix(BASE)
        .and_then(|path| path.strip_prefix("models"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn part(rest: &str) -> Option<(&str, Part<'_>)> {
    let mut segments = rest.split('/');
    let model = segments.next()?;
    let below = (segments.next(), segments.next(), segments.next());
    if let Some((model, verb)) = model.split_once(':') {
        return (below.0.is_none()).then_some((model, Part::Verb(verb)));
    }
    let part = match below {
        (None, None, None) => Part::Whole,
        (Some("default"), None, None) => Part::Default,
        (Some("aliases"), Some(alias), None) => Part::Alias(alias),
        (Some("canary"), None, None) => Part::Canary,
        (Some("split"), None, None) => Part::Split,
        (Some("shadow"), None, None) => Part::Shadow,
        (Some("deprecations"), Some(version), None) => Part::Deprecation(version),
        _ => return None,
    };
    Some((model, part))
}

const PERCENTAGE: &str = "a number from 0 to 100 with at most two decimals";
const A_VERSION: &str = "a version's number";
const A_TARGET: &str = "a version's number or an alias";
const BOUNDS: &str = "an object with any of max_error_rate_increase, max_latency_ratio, quantile, min_calls, window_s";

/// Stands for a missing or wrong member until the whole body is refused.
const NOTHING: u64 = 1;

fn version(body: &mut Body, name: &str) -> Version {
    body.must(name);
    let nothing = Version::new(NOTHING).expect("not 0");
    let Some(number) = body.number(name) else {
        return nothing;
    };
    let version = Version::new(number);
    version.unwrap_or_else(|| {
        body.wrong(name, A_VERSION);
        nothing
    })
}

fn named(text: &str, what: &str, expected: &str) -> Problem {
    let text: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    invalid(vec![Violation::new(
        "",
        "invalid_name",
        expected,
        format!("`{text}` in the path is not a valid {what}"),
    )])
}

impl RolloutAction {
    /// Reads the action of a request.
    ///
    /// # Errors
    ///
    /// All faults of the request.
    pub fn of(
        method: &str,
        path: &str,
        query: Option<&str>,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Self, Problem> {
        Query::of(query, &[])?;
        let rest = path
            .strip_prefix(BASE)
            .and_then(|path| path.strip_prefix("models"));
        let rest = rest.ok_or_else(unknown_path)?;
        if rest.is_empty() {
            return match method {
                "GET" => Ok(Self::List),
                _ => Err(not_allowed(method, "GET")),
            };
        }
        let rest = rest.strip_prefix('/').ok_or_else(unknown_path)?;
        let (model, part) = part(rest).ok_or_else(unknown_path)?;
        let change = match part {
            Part::Whole if method == "GET" => return Ok(Self::Show(model.to_owned())),
            Part::Whole => return Err(not_allowed(method, "GET")),
            Part::Verb(verb) => verb_change(verb, method, body)?,
            Part::Default => default_change(method, body)?,
            Part::Alias(text) => alias_change(text, method, body)?,
            Part::Canary => canary_change(method, body)?,
            Part::Split => split_change(method, body)?,
            Part::Shadow => shadow_change(method, body)?,
            Part::Deprecation(text) => deprecation_change(text, method, body, now_ms)?,
        };
        Ok(Self::Change(model.to_owned(), change))
    }

    /// Returns the method, path and body of the action's request.
    pub fn request(&self) -> (&'static str, String, Option<Value>) {
        let (model, change) = match self {
            Self::List => return ("GET", format!("{BASE}models"), None),
            Self::Show(model) => return ("GET", format!("{BASE}models/{model}"), None),
            Self::Change(model, change) => (model, change),
        };
        let at = |part: String| format!("{BASE}models/{model}{part}");
        let put = |part: &str, body: Value| ("PUT", at(format!("/{part}")), Some(body));
        let delete = |part: String| ("DELETE", at(format!("/{part}")), None);
        match change {
            Change::SetAlias { alias, version } => {
                put(&format!("aliases/{alias}"), json!({ "version": version }))
            }
            Change::RemoveAlias { alias } => delete(format!("aliases/{alias}")),
            Change::SetDefault { to: Some(to) } => put("default", json!({ "to": to })),
            Change::SetDefault { to: None } => delete("default".to_owned()),
            Change::StartCanary {
                version,
                percent,
                rollback,
            } => put(
                "canary",
                json!({ "version": version, "percent": percent, "rollback": rollback }),
            ),
            Change::SetCanary { percent, rollback } => {
                let mut body = json!({});
                if let Some(percent) = percent {
                    body["percent"] = json!(percent);
                }
                if let Some(rollback) = rollback {
                    body["rollback"] = json!(rollback);
                }
                ("PATCH", at("/canary".to_owned()), Some(body))
            }
            Change::StopCanary => delete("canary".to_owned()),
            Change::Promote { alias } => {
                let body = match alias {
                    Some(alias) => json!({ "alias": alias }),
                    None => json!({}),
                };
                ("POST", at(":promote".to_owned()), Some(body))
            }
            Change::Rollback => ("POST", at(":rollback".to_owned()), Some(json!({}))),
            Change::SetSplit {
                split: Some((arms, header)),
            } => put("split", json!({ "arms": arms, "header": header })),
            Change::SetSplit { split: None } => delete("split".to_owned()),
            Change::SetShadow {
                shadow: Some(shadow),
            } => put("shadow", json!(shadow)),
            Change::SetShadow { shadow: None } => delete("shadow".to_owned()),
            Change::Deprecate {
                version,
                deprecated,
            } => put(&format!("deprecations/{version}"), json!(deprecated)),
            Change::Undeprecate { version } => delete(format!("deprecations/{version}")),
        }
    }

    /// Performs the action, and waits until the data behind the answer are durable.
    ///
    /// # Errors
    ///
    /// The reason why it was not done, or may not be durable.
    pub async fn perform(self, context: &RolloutContext<'_>, now_ms: u64) -> Result<Done, Problem> {
        let done = self.act(context, now_ms).await;
        let settled = context.kv.settled().await.map_err(|error| {
            let message = format!("the operation may not be durable: {error}");
            Problem::new(Code::StoreUnavailable, message).retry_after(RETRY_AFTER_S)
        });
        let done = done?;
        settled?;
        Ok(done)
    }

    async fn act(self, context: &RolloutContext<'_>, now_ms: u64) -> Result<Done, Problem> {
        let rollouts = read(context).await?;
        let models = with_rolled_out(context.models.list(), &rollouts);
        let ok = |body: Value, said: String| Done {
            status: 200,
            body,
            said,
        };
        let known = |model: &str| {
            models.get(model).cloned().ok_or_else(|| {
                let message = format!("there is no model `{}`", model.escape_debug());
                let mut available: Vec<String> = models.keys().cloned().collect();
                available.truncate(MAX_NAMED);
                Problem::new(Code::UnknownResource, message).with_available(available)
            })
        };
        match self {
            Self::List => {
                let mut listed = Vec::new();
                for (name, versions) in &models {
                    listed.push(show(context, &rollouts, name, versions, now_ms).await?);
                }
                let said = format!("listed {} models", listed.len());
                Ok(ok(
                    json!({ "generation": rollouts.generation, "models": listed }),
                    said,
                ))
            }
            Self::Show(model) => {
                let versions = known(&model)?;
                let body = show(context, &rollouts, &model, &versions, now_ms).await?;
                Ok(ok(body, format!("showed the model {model}")))
            }
            Self::Change(model, change) => {
                let versions = known(&model)?;
                let said = format!("changed the rollout of the model {model}: {change:?}");
                let rollouts = self::change(context, &model, &versions, &change, now_ms).await?;
                let body = show(context, &rollouts, &model, &versions, now_ms).await?;
                Ok(ok(body, said))
            }
        }
    }
}

fn unknown_path() -> Problem {
    let message = "the admin API has no such path; docs/ROLLOUT.md lists them";
    Problem::new(Code::UnknownPath, message)
}

fn not_allowed(method: &str, allow: &'static str) -> Problem {
    let message = format!("{method} is not allowed for this path; use {allow}");
    Problem::new(Code::MethodNotAllowed, message).with_allow(allow)
}

/// A change without members in its body.
fn bare(body: &[u8], change: Change) -> Result<Change, Problem> {
    Body::of(body)?.end(Vec::new())?;
    Ok(change)
}

fn verb_change(verb: &str, method: &str, body: &[u8]) -> Result<Change, Problem> {
    match (verb, method) {
        ("promote", "POST") => {
            let mut body = Body::of(body)?;
            let alias = body.read("alias", ALIAS_RULE);
            body.end(Vec::new())?;
            Ok(Change::Promote { alias })
        }
        ("rollback", "POST") => bare(body, Change::Rollback),
        ("promote" | "rollback", _) => Err(not_allowed(method, "POST")),
        _ => Err(unknown_path()),
    }
}

fn default_change(method: &str, body: &[u8]) -> Result<Change, Problem> {
    match method {
        "PUT" => {
            let mut body = Body::of(body)?;
            let to: Option<Target> = body.required("to", A_TARGET);
            body.end(Vec::new())?;
            Ok(Change::SetDefault { to })
        }
        "DELETE" => bare(body, Change::SetDefault { to: None }),
        _ => Err(not_allowed(method, PUT_OR_DELETE)),
    }
}

fn alias_change(text: &str, method: &str, body: &[u8]) -> Result<Change, Problem> {
    if !matches!(method, "PUT" | "DELETE") {
        return Err(not_allowed(method, PUT_OR_DELETE));
    }
    let alias = Alias::parse(text).ok_or_else(|| named(text, "alias", ALIAS_RULE))?;
    if method == "DELETE" {
        return bare(body, Change::RemoveAlias { alias });
    }
    let mut body = Body::of(body)?;
    let version = version(&mut body, "version");
    body.end(Vec::new())?;
    Ok(Change::SetAlias { alias, version })
}

fn canary_change(method: &str, body: &[u8]) -> Result<Change, Problem> {
    match method {
        "PUT" => {
            let mut body = Body::of(body)?;
            let version = version(&mut body, "version");
            let percent: Option<Percent> = body.required("percent", PERCENTAGE);
            // Most operators want a canary that rolls back automatically. `null` turns that off.
            let rollback = match body.is_null("rollback") {
                true => {
                    let _: Option<Bounds> = body.read("rollback", BOUNDS);
                    None
                }
                false => Some(body.read("rollback", BOUNDS).unwrap_or_default()),
            };
            body.end(Vec::new())?;
            Ok(Change::StartCanary {
                version,
                percent: percent.expect("it was there, or refused"),
                rollback,
            })
        }
        "PATCH" => {
            let mut body = Body::of(body)?;
            let percent: Option<Percent> = body.read("percent", PERCENTAGE);
            let never = body.is_null("rollback");
            let bounds: Option<BoundsPatch> = body.read("rollback", BOUNDS);
            body.end(Vec::new())?;
            let rollback = match never {
                true => Some(None),
                false => bounds.map(Some),
            };
            Ok(Change::SetCanary { percent, rollback })
        }
        "DELETE" => bare(body, Change::StopCanary),
        _ => Err(not_allowed(method, "DELETE, PATCH, PUT")),
    }
}

fn split_change(method: &str, body: &[u8]) -> Result<Change, Problem> {
    match method {
        "PUT" => {
            let mut body = Body::of(body)?;
            let arms: Option<Vec<SplitArm>> =
                body.read("arms", "a list of objects with `to` and `weight`");
            let header: Option<ByHeader> =
                body.read("header", "an object with `name` and `values`");
            body.end(Vec::new())?;
            Ok(Change::SetSplit {
                split: Some((arms.unwrap_or_default(), header)),
            })
        }
        "DELETE" => bare(body, Change::SetSplit { split: None }),
        _ => Err(not_allowed(method, PUT_OR_DELETE)),
    }
}

fn shadow_change(method: &str, body: &[u8]) -> Result<Change, Problem> {
    match method {
        "PUT" => {
            let mut body = Body::of(body)?;
            let version = version(&mut body, "version");
            let percent: Option<Percent> = body.required("percent", PERCENTAGE);
            body.end(Vec::new())?;
            Ok(Change::SetShadow {
                shadow: Some(Shadow {
                    version,
                    percent: percent.expect("it was there, or refused"),
                }),
            })
        }
        "DELETE" => bare(body, Change::SetShadow { shadow: None }),
        _ => Err(not_allowed(method, PUT_OR_DELETE)),
    }
}

fn deprecation_change(
    text: &str,
    method: &str,
    body: &[u8],
    now_ms: u64,
) -> Result<Change, Problem> {
    if !matches!(method, "PUT" | "DELETE") {
        return Err(not_allowed(method, PUT_OR_DELETE));
    }
    let version = ModelVersion::parse(text).map(Version::from);
    let version = version.ok_or_else(|| named(text, "version", A_VERSION))?;
    if method == "DELETE" {
        return bare(body, Change::Undeprecate { version });
    }
    let mut body = Body::of(body)?;
    let deprecated = Deprecated {
        since_ms: body.number("since_ms").unwrap_or(now_ms),
        sunset_ms: body.number("sunset_ms"),
        link: body.read("link", "a URL"),
        successor: body.read("successor", A_TARGET),
    };
    body.end(Vec::new())?;
    Ok(Change::Deprecate {
        version,
        deprecated,
    })
}

/// The methods of a part that can be set and removed.
const PUT_OR_DELETE: &str = "DELETE, PUT";

/// Returns the models by name. It includes models without a version that still have rollout settings: their folder may
/// be removed before the settings are.
fn with_rolled_out(
    mut models: BTreeMap<String, Versions>,
    rollouts: &Rollouts,
) -> BTreeMap<String, Versions> {
    for name in rollouts.models.keys() {
        models.entry(name.clone()).or_default();
    }
    models
}

/// Most names of models in the answer about an unknown one.
const MAX_NAMED: usize = 64;

/// Changes the rollouts, after other changes in progress.
async fn change(
    context: &RolloutContext<'_>,
    model: &str,
    versions: &Versions,
    change: &Change,
    now_ms: u64,
) -> Result<Rollouts, Problem> {
    let numbers: Vec<ModelVersion> = versions.iter().map(|(version, _)| *version).collect();
    let _changing = context.changing.lock().await;
    let mut tries = 0;
    loop {
        tries += 1;
        let changed = store::change(
            context.kv,
            context.counters,
            model,
            now_ms,
            |rollouts: &mut Rollouts, rolled_back: Option<&str>| {
                let around = Environment {
                    versions: &numbers,
                    rolled_back,
                    now_ms,
                    random: rand::random(),
                };
                rollouts.change(model, change.clone(), &around)
            },
        );
        match changed.await {
            Ok(rollouts) => return Ok(rollouts),
            Err(UpdateError::Busy { .. }) if tries < TRIES => {
                tokio::time::sleep(TRY_AGAIN.mul_f64(0.5 + rand::random::<f64>())).await;
            }
            Err(refused) => return Err(problem(refused)),
        }
    }
}

async fn read(context: &RolloutContext<'_>) -> Result<Rollouts, Problem> {
    let read = store::read(context.kv).await;
    read.map_err(|error| problem(error.into()))
}

/// A refusal as an error of the catalogue.
fn problem(refused: UpdateError) -> Problem {
    match refused {
        UpdateError::Change(EditError::Invalid(faults)) => invalid(faults),
        UpdateError::Change(EditError::NotFound { message, available }) => {
            Problem::new(Code::UnknownResource, message).with_available(available)
        }
        UpdateError::Change(EditError::Conflict(message)) => {
            Problem::new(Code::FailedPrecondition, message)
        }
        UpdateError::Busy { retry_after_s } => Problem::new(
            Code::FailedPrecondition,
            "another request is changing the rollouts, or failed while it did; try again later",
        )
        .retry_after(retry_after_s),
        UpdateError::Store(why) => Problem::new(
            Code::StoreUnavailable,
            format!("the operation may or may not have been done: {why}"),
        )
        .retry_after(RETRY_AFTER_S),
    }
}

/// Returns a model as JSON: its versions, its rollout, and the results of its canary.
async fn show(
    context: &RolloutContext<'_>,
    rollouts: &Rollouts,
    model: &str,
    versions: &Versions,
    now_ms: u64,
) -> Result<Value, Problem> {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(version, state)| json!({ "version": version, "state": state }))
        .collect();
    let mut body = json!({ "name": model, "versions": versions });
    let Some(rollout) = rollouts.of(model) else {
        return Ok(body);
    };
    if let Value::Object(members) = json!(rollout) {
        for (name, value) in members {
            body[name] = value;
        }
    }
    let Some(canary) = &rollout.canary else {
        return Ok(body);
    };
    let failed = |error: penstock_core::KvError| problem(error.into());
    if let Some(why) = store::rolled_back(context.kv, model, canary.id)
        .await
        .map_err(failed)?
    {
        body["canary"]["tripped"] = json!(why);
    }
    if let Some(bounds) = &canary.rollback {
        let (number, before) = judge::numbers(canary.id, canary.started_ms, bounds, now_ms);
        let mut sums = vec![0_u64; judge::COUNTERS as usize];
        for number in [number, before] {
            let tallies = store::tallies(context.counters, model, number, judge::COUNTERS);
            let tallies = tallies.await.map_err(failed)?;
            for (sum, more) in sums.iter_mut().zip(tallies) {
                *sum = sum.saturating_add(more);
            }
        }
        let [stable, tried] = judge::calls(&sums);
        let side = |(calls, failed)| json!({ "calls": calls, "failed": failed });
        body["canary"]["recent"] = json!({ "stable": side(stable), "canary": side(tried) });
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_back::{assert_read_back, assert_refused};

    #[test]
    fn the_server_reads_the_requests_of_the_command_line() {
        let version = |number| Version::new(number).unwrap();
        let alias = |text| Alias::parse(text).unwrap();
        let target = |text| Target::parse(text).unwrap();
        let percent = |number| Percent::new(number).unwrap();
        let change = |change| RolloutAction::Change("a.b".into(), change);
        for action in [
            RolloutAction::List,
            RolloutAction::Show("a.b".into()),
            change(Change::SetAlias {
                alias: alias("stable"),
                version: version(2),
            }),
            change(Change::RemoveAlias {
                alias: alias("stable"),
            }),
            change(Change::SetDefault {
                to: Some(target("stable")),
            }),
            change(Change::SetDefault {
                to: Some(target("7")),
            }),
            change(Change::SetDefault { to: None }),
            change(Change::StartCanary {
                version: version(2),
                percent: percent(12.25),
                rollback: Some(Bounds::default()),
            }),
            change(Change::StartCanary {
                version: version(2),
                percent: percent(0.0),
                rollback: None,
            }),
            change(Change::SetCanary {
                percent: Some(percent(100.0)),
                rollback: None,
            }),
            change(Change::SetCanary {
                percent: None,
                rollback: Some(None),
            }),
            change(Change::SetCanary {
                percent: None,
                rollback: Some(Some(BoundsPatch {
                    max_latency_ratio: Some(None),
                    min_calls: Some(7),
                    ..BoundsPatch::default()
                })),
            }),
            change(Change::StopCanary),
            change(Change::Promote { alias: None }),
            change(Change::Promote {
                alias: Some(alias("beta")),
            }),
            change(Change::Rollback),
            change(Change::SetSplit {
                split: Some((
                    vec![SplitArm {
                        to: target("beta"),
                        weight: 3,
                    }],
                    Some(ByHeader {
                        name: "x-plan".into(),
                        values: BTreeMap::from([("gold".into(), target("2"))]),
                    }),
                )),
            }),
            change(Change::SetSplit { split: None }),
            change(Change::SetShadow {
                shadow: Some(Shadow {
                    version: version(3),
                    percent: percent(1.0),
                }),
            }),
            change(Change::SetShadow { shadow: None }),
            change(Change::Deprecate {
                version: version(1),
                deprecated: Deprecated {
                    since_ms: 5,
                    sunset_ms: Some(6),
                    link: Some("https://a".into()),
                    successor: Some(target("stable")),
                },
            }),
            change(Change::Undeprecate {
                version: version(1),
            }),
        ] {
            let request = action.request();
            assert_read_back(RolloutAction::of, action, request);
        }
    }

    #[test]
    fn a_model_whose_folder_is_gone_is_known_as_long_as_something_is_said_of_it() {
        let ready = vec![(ModelVersion::parse("1").unwrap(), "ready")];
        let here = BTreeMap::from([("here".to_owned(), ready.clone())]);
        let text = r#"{"v":1,"generation":0,"models":{"gone":{"default":1},"here":{"default":1}}}"#;
        let known = with_rolled_out(here.clone(), &Rollouts::parse(text).unwrap());
        let gone = ("gone".to_owned(), Vec::new());
        assert_eq!(known, BTreeMap::from([gone, ("here".to_owned(), ready)]));
        assert_eq!(with_rolled_out(here.clone(), &Rollouts::new()), here);
    }

    #[test]
    fn a_request_with_a_fault_is_refused_with_its_code() {
        for (method, path, body, code) in [
            ("POST", "", "", Code::MethodNotAllowed),
            ("GET", "?x=1", "", Code::InvalidParameter),
            ("PUT", "/m", "{}", Code::MethodNotAllowed),
            ("GET", "/m/canary", "", Code::MethodNotAllowed),
            ("POST", "/m/split", "", Code::MethodNotAllowed),
            ("GET", "/m:promote", "", Code::MethodNotAllowed),
            ("POST", "/m:other", "", Code::UnknownPath),
            ("POST", "/m:promote/x", "", Code::UnknownPath),
            ("PUT", "/m/aliases", "{}", Code::UnknownPath),
            ("PUT", "/m/aliases/a/b", "{}", Code::UnknownPath),
            ("PUT", "/m/aliases/1", "{\"version\":1}", Code::InvalidBody),
            ("PUT", "/m/aliases/a", "{}", Code::InvalidBody),
            ("PUT", "/m/aliases/a", "{\"version\":0}", Code::InvalidBody),
            (
                "PUT",
                "/m/aliases/a",
                "{\"version\":\"1\"}",
                Code::InvalidBody,
            ),
            ("PUT", "/m/default", "{}", Code::InvalidBody),
            ("PUT", "/m/default", "{\"to\":null}", Code::InvalidBody),
            ("PUT", "/m/default", "{\"to\":\"A\"}", Code::InvalidBody),
            ("PUT", "/m/canary", "{\"version\":1}", Code::InvalidBody),
            (
                "PUT",
                "/m/canary",
                "{\"version\":1,\"percent\":null}",
                Code::InvalidBody,
            ),
            (
                "PUT",
                "/m/canary",
                "{\"version\":1,\"percent\":101}",
                Code::InvalidBody,
            ),
            (
                "PUT",
                "/m/canary",
                "{\"version\":1,\"percent\":1.001}",
                Code::InvalidBody,
            ),
            (
                "PUT",
                "/m/canary",
                "{\"version\":1,\"percent\":1,\"rollback\":{\"x\":1}}",
                Code::InvalidBody,
            ),
            (
                "PATCH",
                "/m/canary",
                "{\"rollback\":{\"min_calls\":null}}",
                Code::InvalidBody,
            ),
            ("PATCH", "/m/canary", "{\"version\":1}", Code::InvalidBody),
            ("PUT", "/m/split", "{\"arms\":{}}", Code::InvalidBody),
            ("PUT", "/m/shadow", "{\"percent\":1}", Code::InvalidBody),
            ("PUT", "/m/deprecations/x", "{}", Code::InvalidBody),
            (
                "PUT",
                "/m/deprecations/1",
                "{\"link\":1}",
                Code::InvalidBody,
            ),
            ("PUT", "/m/deprecations/1", "{", Code::MalformedJson),
        ] {
            let target = format!("/admin/v1/models{path}");
            assert_refused(RolloutAction::of, method, &target, body, code);
        }
        assert!(is_path("/admin/v1/models") && is_path("/admin/v1/models/m"));
        assert!(!is_path("/admin/v1/modelsx") && !is_path("/admin/v1/keys"));
    }
}
