//! `penstock keys` and `penstock tenants`: use the admin API of a running server, or open the store if none runs.
//!
//! A secret is printed once, to standard output; tokens and peppers come from the environment or from files.

use crate::action::{Action, is_id_or_name, made_json};
use crate::client::{Ask, ask, columns};
use crate::fields::problem;
use crate::listener::STORE;
use crate::serving::unix_ms;
use crate::store::StoreKv;
use anyhow::{Context, anyhow, bail};
use penstock_app::{Manifest, Serving};
use penstock_app::{RuntimeConfig, StoreKind, open_stores};
use penstock_app::{secrets, variables};
use penstock_core::Problem;
use penstock_core::clock::rfc3339;
use penstock_policy::auth::api_key::Pepper;
use penstock_policy::auth::record::{
    KeyRecord, TenantRecord, VERSION, encode, key_name, tenant_name,
};
use penstock_policy::auth::registry::{self, PageToken};
pub use penstock_policy::auth::registry::{NewKey, NewTenant};
pub use penstock_policy::auth::scopes::Scope;
use rand::RngCore;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The environment variable with the pepper. Spin reads the same one.
const PEPPER: &str = "SPIN_VARIABLE_PEPPER";

/// The way to the keys: the admin API, or the store.
#[derive(Clone, Debug)]
pub enum Via {
    /// The admin API of a running server.
    Server {
        /// Its admin API, `http://host:port`.
        admin: String,
        /// The directory of its token, if the environment does not have it.
        state_dir: PathBuf,
    },
    /// The store itself, on this machine. No server may have it open.
    Offline {
        /// The path of the manifest. It may contain the pepper.
        app: PathBuf,
        /// The runtime configuration with the store of each label.
        runtime_config: Option<PathBuf>,
        /// The directory of stores and the pepper.
        state_dir: PathBuf,
    },
}

/// Performs an action and prints the result.
pub fn run(via: &Via, action: Action, as_json: bool) -> ExitCode {
    finish(async { print(via, action, as_json, &mut std::io::stdout().lock()).await })
}

/// Prints a key that is stored nowhere, and the entries for the store of a host without an admin API.
pub fn print_record(new: &NewKey, as_json: bool) -> ExitCode {
    finish(async { record(new, as_json, &mut std::io::stdout().lock()) })
}

/// Runs the work on its own runtime and returns its exit code.
pub(crate) fn finish(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(e) => Err(e.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

/// Seconds from a text such as `90d`, `24h`, `30m` or `10s`.
///
/// # Errors
///
/// The correct form.
pub fn duration_s(text: &str) -> Result<u64, String> {
    let wrong = || "write a number and d, h, m or s, such as 90d or 24h".to_owned();
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).ok_or_else(wrong)
}

/// The time in that many seconds, in milliseconds since 1970.
pub fn from_now_ms(seconds: u64) -> u64 {
    unix_ms().saturating_add(seconds.saturating_mul(1_000))
}

/// The way in which actions are performed.
enum Channel {
    Server { admin: String, token: String },
    Store { kv: StoreKv, pepper: Pepper },
}

impl Channel {
    async fn open(via: &Via) -> anyhow::Result<Self> {
        match via {
            Via::Server { admin, state_dir } => Ok(Self::Server {
                admin: admin.clone(),
                token: secrets::known_admin_token(state_dir, &secrets::environment)?,
            }),
            Via::Offline {
                app,
                runtime_config,
                state_dir,
            } => {
                let several = |findings: Vec<penstock_app::Finding>| {
                    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
                    anyhow!("{}", lines.join("\n"))
                };
                let manifest = Manifest::load(app, Serving::default()).map_err(several)?;
                let pepper = variables::pepper(&manifest, state_dir, &secrets::environment)?;
                let pepper = Pepper::new(pepper.text.as_bytes()).map_err(|e| anyhow!(e))?;
                let config =
                    RuntimeConfig::load(runtime_config.as_deref(), state_dir).map_err(several)?;
                let Some(store) = config.stores.get(STORE) else {
                    bail!("no store is configured for the label `{STORE}`, which holds the keys");
                };
                if matches!(store.kind, StoreKind::Memory { .. }) {
                    bail!(
                        "the store `{STORE}` exists only in the memory of a running server; leave out --offline, and ask the server"
                    );
                }
                let one = BTreeMap::from([(STORE.to_owned(), store.clone())]);
                let opened = open_stores(&one).await.context(
                    "a running server may have the store open; name it with --admin instead of --offline, or stop it",
                )?;
                let store = opened[STORE].clone();
                let kv = StoreKv::new(store);
                Ok(Self::Store { kv, pepper })
            }
        }
    }

    async fn act(&self, action: Action) -> anyhow::Result<Value> {
        match self {
            Self::Server { admin, token } => {
                let (method, target, body) = action.request();
                let answer = ask(Ask {
                    flag: "--admin",
                    server: admin,
                    method,
                    target: &target,
                    bearer: Some(token),
                    body: body.as_ref(),
                    start: "`penstock up` with [admin] in its policy",
                });
                let answer = answer.await?;
                serde_json::from_slice(&answer)
                    .context("the server's answer has an unexpected form")
            }
            Self::Store { kv, pepper } => {
                let done = action.perform(kv, pepper, unix_ms()).await;
                Ok(done.map_err(|problem| anyhow!(told(&problem)))?.body)
            }
        }
    }
}

/// Formats a problem for a terminal.
fn told(problem: &Problem) -> String {
    let mut text = problem.message.clone();
    for violation in &problem.violations {
        let (pointer, message) = (&violation.pointer, &violation.message);
        text.push_str(&format!(
            "\n  {pointer}: {message}; expected: {}",
            violation.expected
        ));
    }
    text
}

async fn print(
    via: &Via,
    action: Action,
    as_json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    checked(&action)?;
    let channel = Channel::open(via).await?;
    match action {
        Action::ListKeys { tenant, .. } => {
            let keys = all(&channel, "keys", |page| Action::ListKeys {
                tenant: tenant.clone(),
                page,
            });
            list(&keys.await?, as_json, KEY_COLUMNS, key_line, out)
        }
        Action::ListTenants { .. } => {
            let tenants = all(&channel, "tenants", |page| Action::ListTenants { page });
            list(&tenants.await?, as_json, TENANT_COLUMNS, tenant_line, out)
        }
        action => {
            let body = channel.act(action).await?;
            match as_json {
                true => Ok(writeln!(out, "{body}")?),
                false => show(&body, out),
            }
        }
    }
}

/// Checks that the typed name or id may be part of a path.
fn checked(action: &Action) -> anyhow::Result<()> {
    let named = match action {
        Action::ShowTenant(name)
        | Action::SetTenant { tenant: name, .. }
        | Action::ShowKey(name)
        | Action::RotateKey { id: name, .. }
        | Action::RevokeKey(name) => name,
        Action::ListKeys {
            tenant: Some(tenant),
            ..
        } => tenant,
        _ => return Ok(()),
    };
    if penstock_policy::auth::api_key::is_meant(named) {
        bail!("give the key's id (the 12 characters after `pnst_`), never the key itself");
    }
    if !is_id_or_name(named) {
        bail!("{named:?} is neither the id of an API key nor the name of a tenant");
    }
    Ok(())
}

/// Returns the entries of all pages of a list.
async fn all(
    channel: &Channel,
    member: &str,
    page: impl Fn(Option<PageToken>) -> Action,
) -> anyhow::Result<Vec<Value>> {
    let (mut next, mut entries) = (None, Vec::new());
    loop {
        let mut body = channel.act(page(next)).await?;
        if let Some(Value::Array(more)) = body.get_mut(member).map(Value::take) {
            entries.extend(more);
        }
        let token = body["next_page_token"].as_str().map(PageToken::parse);
        match token {
            None => return Ok(entries),
            // Page tokens only grow. A server that sent an earlier one would never end.
            Some(Some(token)) if next.is_none_or(|before| before < token) => next = Some(token),
            Some(_) => bail!("the server's answer has an unexpected form"),
        }
    }
}

const KEY_COLUMNS: &[&str] = &[
    "ID",
    "TENANT",
    "TIER",
    "STATE",
    "SCOPES",
    "NAME",
    "CREATED",
    "EXPIRES",
    "LAST USED",
];
const TENANT_COLUMNS: &[&str] = &["TENANT", "STATE", "CREATED", "DESCRIPTION"];

fn list(
    entries: &[Value],
    as_json: bool,
    head: &[&str],
    line: fn(&Value) -> Vec<String>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if as_json {
        for entry in entries {
            writeln!(out, "{entry}")?;
        }
        return Ok(());
    }
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|&name| name.to_owned()).collect()];
    lines.extend(entries.iter().map(line));
    columns(&lines, head.len(), out)
}

fn text(body: &Value, member: &str) -> String {
    match body[member].as_str() {
        None | Some("") => "-".to_owned(),
        Some(text) => text.chars().flat_map(plain).collect(),
    }
}

/// Replaces a character that must not reach a terminal.
fn plain(c: char) -> impl Iterator<Item = char> {
    let shown = if c.is_control() { '\u{fffd}' } else { c };
    std::iter::once(shown)
}

fn time(body: &Value, member: &str) -> String {
    body[member].as_u64().map_or("-".to_owned(), rfc3339)
}

fn scopes(body: &Value) -> String {
    let scopes = body["scopes"].as_array().into_iter().flatten();
    let scopes: Vec<&str> = scopes.filter_map(Value::as_str).collect();
    scopes.join(" ")
}

fn key_line(key: &Value) -> Vec<String> {
    vec![
        text(key, "id"),
        text(key, "tenant"),
        text(key, "tier"),
        text(key, "state"),
        scopes(key),
        text(key, "name"),
        time(key, "created_ms"),
        time(key, "expires_ms"),
        time(key, "last_used_ms"),
    ]
}

fn tenant_line(tenant: &Value) -> Vec<String> {
    vec![
        text(tenant, "tenant"),
        text(tenant, "state"),
        time(tenant, "created_ms"),
        text(tenant, "description"),
    ]
}

/// Prints one key or tenant, with the secrets of a new one.
fn show(body: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(api_key) = body["api_key"].as_str() {
        secret(api_key, body["signing_secret"].as_str(), &body["key"], out)?;
        let old = &body["rotated"];
        if old.is_object() {
            writeln!(
                out,
                "the key {} is valid until {}",
                text(old, "id"),
                time(old, "expires_ms")
            )?;
        }
        return Ok(());
    }
    let one = match body.get("id") {
        Some(_) => (KEY_COLUMNS, key_line(body)),
        None => (TENANT_COLUMNS, tenant_line(body)),
    };
    for (name, value) in one.0.iter().zip(one.1) {
        writeln!(out, "{:<12} {value}", name.to_lowercase())?;
    }
    for member in ["revoked_ms", "disabled_ms"] {
        if body.get(member).is_some() {
            let name = member.trim_end_matches("_ms");
            writeln!(out, "{name:<12} {}", time(body, member))?;
        }
    }
    for member in ["rotated_from", "rotated_to"] {
        if body.get(member).is_some() {
            let name = member.replace('_', " ");
            writeln!(out, "{name:<12} {}", text(body, member))?;
        }
    }
    Ok(())
}

fn secret(
    api_key: &str,
    signing_secret: Option<&str>,
    key: &Value,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    writeln!(
        out,
        "API key {} of the tenant {}, tier {}, for {}:",
        text(key, "id"),
        text(key, "tenant"),
        text(key, "tier"),
        scopes(key)
    )?;
    writeln!(out, "{api_key}")?;
    if let Some(secret) = signing_secret {
        writeln!(out, "the secret for signed requests:")?;
        writeln!(out, "{secret}")?;
    }
    writeln!(out, "keep it now: it is not shown again")?;
    Ok(())
}

fn record(new: &NewKey, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let pepper = secrets::given(PEPPER, &secrets::environment)?.with_context(|| {
        format!("--print-record needs the other host's pepper: set {PEPPER} or {PEPPER}_FILE")
    })?;
    let pepper = Pepper::new(pepper.as_bytes()).map_err(|e| anyhow!(e))?;
    let now_ms = unix_ms();
    let random = |bytes: &mut [u8]| rand::rng().fill_bytes(bytes);
    let made = registry::new_key(&pepper, new, now_ms, random)
        .map_err(|refused| anyhow!(told(&problem(refused))))?;
    let key: KeyRecord = made.record.clone();
    let tenant = TenantRecord {
        v: VERSION,
        tenant: key.tenant.clone(),
        description: String::new(),
        created_ms: now_ms,
        disabled_ms: None,
    };
    let entries = [
        (tenant_name(&tenant.tenant), encode(&tenant)),
        (key_name(&key.id), encode(&key)),
    ]
    .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
    let mut body = made_json(made, now_ms);
    if as_json {
        let entries = entries.map(|(name, value)| json!({ "name": name, "value": value }));
        body["entries"] = json!(entries);
        writeln!(out, "{body}")?;
        return Ok(());
    }
    show(&body, out)?;
    writeln!(
        out,
        "put these entries into the other host's store `{STORE}`; the first is needed only for a new tenant:"
    )?;
    for (name, value) in entries {
        writeln!(out, "{name}\n  {value}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_a_unit() {
        for (text, seconds) in [
            ("90d", Some(7_776_000)),
            ("24h", Some(86_400)),
            ("30m", Some(1_800)),
            ("10s", Some(10)),
            ("0s", Some(0)),
            ("", None),
            ("d", None),
            ("10", None),
            ("-1d", None),
            ("+1d", None),
            ("1 d", None),
            ("1.5h", None),
            ("1\u{e4}", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(duration_s(text).ok(), seconds, "{text}");
        }
    }

    #[test]
    fn a_secret_is_shown_once_with_the_words_that_it_is_not_shown_again() {
        let body = json!({
            "api_key": "pnst_x", "signing_secret": "pnss_y",
            "key": { "id": "7Kx0aQ2mBv9Z", "tenant": "acme", "tier": "free", "scopes": ["predict", "models"] },
            "rotated": { "id": "8Kx0aQ2mBv9Z", "expires_ms": 0 },
        });
        let mut out = Vec::new();
        show(&body, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "API key 7Kx0aQ2mBv9Z of the tenant acme, tier free, for predict models:\npnst_x\nthe secret for \
             signed requests:\npnss_y\nkeep it now: it is not shown again\nthe key 8Kx0aQ2mBv9Z is valid \
             until 1970-01-01T00:00:00.000Z\n"
        );
    }

    #[test]
    fn a_key_that_was_pasted_in_place_of_its_id_is_not_sent_anywhere() {
        let pasted = Action::RevokeKey("pnst_7Kx0aQ2mBv9Z_secret".to_owned());
        let refused = checked(&pasted).unwrap_err().to_string();
        assert!(refused.contains("id") && !refused.contains("secret"));
        for wrong in ["a/b", "", "a?b", "a:revoke"] {
            assert!(checked(&Action::ShowKey(wrong.to_owned())).is_err());
        }
    }
}
