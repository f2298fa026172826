//! `penstock models`: shows and changes the rollouts of versions through the admin API of a running server.

use crate::client::{Ask, ask, columns};
use crate::keys_command::finish;
pub use crate::rollouts::RolloutAction;
use crate::serving::unix_ms;
use anyhow::{Context, bail};
use penstock_app::secrets;
use penstock_core::ModelName;
use penstock_core::clock::rfc3339;
pub use penstock_policy::rollout::edit::Change;
pub use penstock_policy::rollout::{
    Alias, Bounds, BoundsPatch, ByHeader, Deprecated, Percent, Shadow, SplitArm, Target, Version,
};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The server, and the form of the output.
#[derive(Clone, Debug)]
pub struct RolloutOptions {
    /// The admin API, `http://host:port`.
    pub admin: String,
    /// The directory of its token, if the environment does not have it.
    pub state_dir: PathBuf,
    /// Whether to print JSON, one model per line.
    pub json: bool,
}

/// Performs an action and prints the result.
pub fn run(options: &RolloutOptions, action: &RolloutAction) -> ExitCode {
    finish(async { print(options, action, &mut std::io::stdout().lock()).await })
}

/// The time now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    unix_ms()
}

async fn print(
    options: &RolloutOptions,
    action: &RolloutAction,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let named = match action {
        RolloutAction::List => None,
        RolloutAction::Show(model) | RolloutAction::Change(model, _) => Some(model),
    };
    // It becomes part of a path.
    if let Some(model) = named.filter(|model| ModelName::parse(model).is_none()) {
        bail!("{model:?} is not a valid model name");
    }
    let token = secrets::known_admin_token(&options.state_dir, &secrets::environment)?;
    let (method, target, body) = action.request();
    let answer = ask(Ask {
        flag: "--admin",
        server: &options.admin,
        method,
        target: &target,
        bearer: Some(&token),
        body: body.as_ref(),
        start: "`penstock up` with [admin] in its policy",
    });
    let answer: Value = serde_json::from_slice(&answer.await?)
        .context("the server's answer has an unexpected form")?;
    match (action, options.json) {
        (RolloutAction::List, true) => {
            for model in answer["models"].as_array().into_iter().flatten() {
                writeln!(out, "{model}")?;
            }
            Ok(())
        }
        (RolloutAction::List, false) => {
            let head = [
                "MODEL",
                "VERSIONS",
                "DEFAULT",
                "ALIASES",
                "CANARY",
                "DEPRECATED",
            ];
            let mut lines = vec![head.map(str::to_owned).to_vec()];
            lines.extend(answer["models"].as_array().into_iter().flatten().map(line));
            columns(&lines, head.len(), out)
        }
        (_, true) => Ok(writeln!(out, "{answer}")?),
        (_, false) => show(&answer, out),
    }
}

/// Replaces characters that must not reach a terminal.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// Formats a value as one word.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

fn joined(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    if entries.is_empty() {
        return "-".to_owned();
    }
    entries.join(" ")
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn versions(model: &Value) -> String {
    joined(entries(&model["versions"]).map(|one| {
        let (version, state) = (word(&one["version"]), word(&one["state"]));
        match state.as_str() {
            "ready" => version,
            _ => format!("{version}({state})"),
        }
    }))
}

fn aliases(model: &Value) -> String {
    joined(members(&model["aliases"]).map(|(alias, version)| format!("{}={version}", plain(alias))))
}

fn canary(model: &Value) -> String {
    let canary = &model["canary"];
    if canary.is_null() {
        return "-".to_owned();
    }
    let ended = if canary["tripped"].is_null() {
        ""
    } else {
        " (rolled back automatically)"
    };
    format!(
        "{} at {} %{ended}",
        word(&canary["version"]),
        word(&canary["percent"])
    )
}

fn line(model: &Value) -> Vec<String> {
    let default = match &model["default"] {
        Value::Null => "latest".to_owned(),
        to => word(to),
    };
    vec![
        word(&model["name"]),
        versions(model),
        default,
        aliases(model),
        canary(model),
        joined(members(&model["deprecated"]).map(|(version, _)| plain(version))),
    ]
}

/// Prints one model, one line for each of its settings.
fn show(model: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    let time = |value: &Value| value.as_u64().map_or("-".to_owned(), rfc3339);
    let mut say = |name: &str, value: String| writeln!(out, "{name:<12} {value}");
    say("model", word(&model["name"]))?;
    say("versions", versions(model))?;
    say("default", line(model).swap_remove(2))?;
    say("aliases", aliases(model))?;
    let run = &model["canary"];
    if !run.is_null() {
        say(
            "canary",
            format!(
                "version {} since {}, run {}",
                canary(model),
                time(&run["started_ms"]),
                run["id"]
            ),
        )?;
        let bounds = &run["rollback"];
        let rollback = match bounds {
            Value::Null => "never automatic".to_owned(),
            bounds => {
                let set = members(bounds).filter(|(_, value)| !value.is_null());
                joined(set.map(|(name, value)| format!("{}={value}", plain(name))))
            }
        };
        say("rollback", rollback)?;
        for side in ["stable", "canary"] {
            let counts = &run["recent"][side];
            if !counts.is_null() {
                say(
                    "recent",
                    format!(
                        "{side}: {} calls, {} failed",
                        counts["calls"], counts["failed"]
                    ),
                )?;
            }
        }
        if let Some(why) = run["tripped"].as_str() {
            say("ended", format!("automatically: {}", plain(why)))?;
        }
    }
    for arm in entries(&model["split"]["arms"]) {
        say(
            "split",
            format!("{} weighs {}", word(&arm["to"]), arm["weight"]),
        )?;
    }
    let header = &model["split"]["header"];
    for (value, to) in members(&header["values"]) {
        say(
            "split",
            format!(
                "{}: {} gets {}",
                word(&header["name"]),
                plain(value),
                word(to)
            ),
        )?;
    }
    let shadow = &model["shadow"];
    if !shadow.is_null() {
        say(
            "shadow",
            format!(
                "version {} of {} % of calls",
                shadow["version"], shadow["percent"]
            ),
        )?;
    }
    for (version, deprecated) in members(&model["deprecated"]) {
        let mut text = format!(
            "version {} since {}",
            plain(version),
            time(&deprecated["since_ms"])
        );
        if !deprecated["sunset_ms"].is_null() {
            text.push_str(&format!(
                ", stops answering at {}",
                time(&deprecated["sunset_ms"])
            ));
        }
        if !deprecated["successor"].is_null() {
            text.push_str(&format!(", use {}", word(&deprecated["successor"])));
        }
        say("deprecated", text)?;
    }
    let ended = &model["ended"];
    if !ended.is_null() {
        let (version, at, how) = (
            &ended["version"],
            time(&ended["ended_ms"]),
            word(&ended["how"]),
        );
        say("last canary", format!("version {version}, {how}, at {at}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_model_is_printed_with_what_is_said_of_it() {
        let model = json!({
            "name": "digits", "versions": [{"version": 1, "state": "ready"}, {"version": 2, "state": "failed"}],
            "default": "stable", "aliases": {"stable": 1},
            "canary": {"id": 64, "version": 2, "percent": 5.5, "started_ms": 0, "tripped": "it \u{1b}[1m failed",
                "rollback": {"quantile": 0.95, "max_latency_ratio": null},
                "recent": {"stable": {"calls": 9, "failed": 0}, "canary": {"calls": 50, "failed": 50}}},
            "deprecated": {"1": {"since_ms": 0, "sunset_ms": 86400000, "successor": 2}},
        });
        let mut out = Vec::new();
        show(&model, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "versions     1 2(failed)\n",
            "canary       version 2 at 5.5 % (rolled back automatically) since 1970-01-01T00:00:00.000Z, run 64\n",
            "rollback     quantile=0.95\n",
            "recent       canary: 50 calls, 50 failed\n",
            "ended        automatically: it \u{fffd}[1m failed\n",
            "deprecated   version 1 since 1970-01-01T00:00:00.000Z, stops answering at 1970-01-02T00:00:00.000Z, use 2\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert_eq!(
            line(&json!({"name": "m", "versions": []})),
            ["m", "-", "latest", "-", "-", "-"]
        );
    }
}
