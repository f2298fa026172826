//! Reads the secrets of tenants, and keeps the host's own key.

use crate::https;
use crate::settings::Settings;
use anyhow::Context;
use penstock_app::{Finding, secrets};
use penstock_policy::webhooks::signature::{HostKey, Secrets};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file in the state directory with the host's key.
const KEY_FILE: &str = "webhook-key";

/// Most bytes of a file with secrets. Two secrets and some lines of comments are much smaller.
const MAX_SECRETS_BYTES: u64 = 4 << 10;

/// The setting that names a file with more certificate authorities, for messages.
pub(super) const CA_SETTING: &str = "webhooks.ca_file";

/// The folder that file names in the policy are relative to.
pub(super) fn folder(policy: &Path) -> PathBuf {
    policy.parent().unwrap_or(Path::new("")).to_owned()
}

/// Returns the host's key. It is made if there is none.
///
/// # Errors
///
/// If the file cannot be read or created, if other users may read it, or if it contains no key.
pub(super) fn host_key(state_dir: &Path) -> anyhow::Result<HostKey> {
    let write = |random| HostKey::new(random).private();
    let secret = secrets::kept_as(state_dir, KEY_FILE, write)?;
    HostKey::parse(&secret.text).with_context(|| {
        let path = state_dir.join(KEY_FILE);
        format!(
            "{} contains no key for webhooks; remove the file, and the server creates a new one",
            path.display()
        )
    })
}

/// Reads the secrets of a tenant. The error is the rest of a sentence that begins with the file. It contains no secret.
pub(super) fn read_secrets(path: &Path) -> Result<Secrets, String> {
    let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
    // A pipe would make the open wait.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let mut bounded = file.take(MAX_SECRETS_BYTES + 1);
    bounded.read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_SECRETS_BYTES {
        return Err(format!("has more than {MAX_SECRETS_BYTES} bytes"));
    }
    Secrets::parse(&text)
}

/// The faults of the files that `[webhooks]` names, and of settings that do not fit together.
pub(crate) fn findings(settings: &Settings, policy: &Path) -> Vec<Finding> {
    let webhooks = &settings.webhooks;
    let folder = folder(policy);
    let mut findings = Vec::new();
    if webhooks.is_on() && !settings.operations.enabled {
        findings.push(Finding::warning(
            policy,
            None,
            "[[webhooks.tenants]] has entries, but operations are off, so nothing is announced",
            "set operations.enabled = true, or remove the entries",
        ));
    }
    for of in &webhooks.tenants {
        let path = folder.join(&of.secrets_file);
        if let Err(wrong) = read_secrets(&path) {
            findings.push(Finding::about(
                &path,
                format!(
                    "the file {wrong}; no webhook of the tenant {} is sent",
                    of.tenant
                ),
                "write the tenant's secret into the file, or correct `secrets_file` in [[webhooks.tenants]]",
            ));
        }
    }
    if let Some(file) = &webhooks.ca_file {
        let path = folder.join(file);
        if let Err(wrong) = https::trust(Some(&path), CA_SETTING) {
            findings.push(Finding::about(
                &path,
                wrong,
                format!("make {CA_SETTING} name a PEM file with certificates"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    #[test]
    fn the_hosts_key_is_made_once_and_only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let made = host_key(folder.path()).unwrap();
        let path = folder.path().join(KEY_FILE);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = host_key(folder.path()).unwrap();
        assert_eq!(made.public(), again.public());
        std::fs::write(&path, "x".repeat(64)).unwrap();
        let refused = host_key(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("no key") && !refused.contains("xx"));
    }

    #[test]
    fn files_without_valid_secrets_are_found_and_no_secret_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("penstock.toml");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write("right", &format!("# new\n{SECRET}\n"));
        write("wrong", &format!("{SECRET}\n{SECRET}x\n"));
        write("large", &"#\n".repeat(4 << 10));
        let settings = |files: &[&str], more: &str| -> Settings {
            let tables: Vec<String> = (files.iter())
                .map(|file| {
                    format!(
                        "[[webhooks.tenants]]\ntenant = \"{file}\"\nsecrets_file = \"{file}\"\n"
                    )
                })
                .collect();
            toml::from_str(&format!("{more}\n{}", tables.join(""))).unwrap()
        };
        assert!(findings(&settings(&[], ""), &policy).is_empty());
        assert!(findings(&settings(&["right"], ""), &policy).is_empty());
        let files = ["right", "wrong", "large", "missing", "."];
        let found = findings(&settings(&files, ""), &policy);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        for (found, words) in found.iter().zip([
            "no secret in line 2",
            "4096 bytes",
            "cannot be read",
            "is no file",
        ]) {
            assert!(found.contains(words), "{found}");
            assert!(!found.contains("C2FV"), "{found}");
        }
    }

    #[test]
    fn webhooks_without_operations_and_authorities_that_cannot_be_read_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("penstock.toml");
        std::fs::write(folder.path().join("s"), SECRET).unwrap();
        let tenant = "[[webhooks.tenants]]\ntenant = \"a\"\nsecrets_file = \"s\"\n";
        for (text, words) in [
            ("[operations]\nenabled = false\n", "operations are off"),
            ("[webhooks]\nca_file = \"ca.pem\"\n", "ca.pem"),
        ] {
            let settings: Settings = toml::from_str(&format!("{text}{tenant}")).unwrap();
            let found = findings(&settings, &policy);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].to_string().contains(words), "{found:?}");
        }
    }
}
