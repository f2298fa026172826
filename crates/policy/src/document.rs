//! Decides how a policy finds its section in the operator's `penstock.toml`. Each policy reads its own
//! and passes over the others; the host reads all of them at start and refuses what nobody reads.

#[cfg(feature = "auth")]
use crate::auth::settings::AuthSettings;
use crate::idempotency::IdempotencySettings;
use crate::quota::QuotaDocument;
use crate::quota::limits::{Backoff, Limit};
use crate::usage::UsageSettings;
use serde::Deserialize;

/// Reads `[[limits]]` and `[backoff]`; the error is a sentence for the operator.
pub fn quota(text: &str) -> Result<QuotaDocument, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        limits: Vec<Limit>,
        #[serde(default)]
        backoff: Backoff,
    }
    let Document { limits, backoff } = read(text)?;
    let document = QuotaDocument { limits, backoff };
    match document.faults() {
        faults if faults.is_empty() => Ok(document),
        faults => Err(sentence(faults)),
    }
}

/// Reads `[auth]`; the error is a sentence for the operator.
#[cfg(feature = "auth")]
pub fn auth(text: &str) -> Result<AuthSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        auth: AuthSettings,
    }
    let Document { auth } = read(text)?;
    match auth.faults() {
        faults if faults.is_empty() => Ok(auth),
        faults => {
            let named = |(setting, message)| (format!("auth.{setting}"), message);
            Err(sentence(faults.into_iter().map(named).collect()))
        }
    }
}

/// The key sets that `[[auth.issuers]]` names as files: the issuer's name, and the file.
pub fn key_set_files(text: &str) -> Result<Vec<(String, String)>, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        auth: Auth,
    }
    #[derive(Default, Deserialize)]
    struct Auth {
        #[serde(default)]
        issuers: Vec<Issuer>,
    }
    #[derive(Deserialize)]
    struct Issuer {
        name: String,
        jwks_file: Option<String>,
    }
    let Document { auth } = read(text)?;
    let named = |issuer: Issuer| issuer.jwks_file.map(|file| (issuer.name, file));
    Ok(auth.issuers.into_iter().filter_map(named).collect())
}

/// Faults of settings, each with what is wrong, as one sentence.
pub fn sentence(faults: Vec<(String, String)>) -> String {
    let faults: Vec<String> = faults
        .into_iter()
        .map(|(setting, message)| format!("`{setting}` {message}"))
        .collect();
    faults.join("; ")
}

/// Reads `[idempotency]`; the error is a sentence for the operator.
pub fn idempotency(text: &str) -> Result<IdempotencySettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        idempotency: IdempotencySettings,
    }
    let Document { idempotency } = read(text)?;
    checked("idempotency", idempotency.faults(), idempotency)
}

/// Reads `[usage]`; the error is a sentence for the operator.
pub fn usage(text: &str) -> Result<UsageSettings, String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        usage: UsageSettings,
    }
    let Document { usage } = read(text)?;
    checked("usage", usage.faults(), usage)
}

fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| 1 + before.matches('\n').count());
        format!("line {line}: {}", e.message())
    })
}

fn checked<T>(
    section: &str,
    faults: Vec<(&'static str, String)>,
    settings: T,
) -> Result<T, String> {
    if faults.is_empty() {
        return Ok(settings);
    }
    let named = |(setting, message)| (format!("{section}.{setting}"), message);
    Err(sentence(faults.into_iter().map(named).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_its_own_section_and_passes_over_the_others() {
        let text = "[server]\nx = 1\n[idempotency]\nttl_s = 600\n[usage]\nenabled = true\n[[limits]]\nname = \"a\"\n";
        assert_eq!(idempotency(text).map(|s| s.ttl_s), Ok(600));
        assert_eq!(usage(text).map(|s| s.enabled), Ok(true));
        assert_eq!(idempotency("").map(|s| s.ttl_s), Ok(86_400));
        assert_eq!(usage("").map(|s| s.enabled), Ok(false));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, words) in [
            ("[idempotency]\nttl = 1\n", "line 2: unknown field `ttl`"),
            (
                "[idempotency]\nttl_s = 1\n",
                "`idempotency.ttl_s` must be 60",
            ),
            ("[idempotency]\nrequired = [\"x\"]\n", "names `x`"),
            ("nonsense", "line 1"),
        ] {
            let error = idempotency(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
