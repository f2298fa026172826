//! The operator's settings for sources: `[[models.sources]]` and `[models.pull]`.

use crate::address::Address;
use crate::digest::Digest;
use penstock_core::ModelName;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An entry of `[[models.sources]]`: the origin of one model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// The model that it becomes.
    pub name: String,
    /// The address; `{version}` in it stands for the version's number.
    pub from: String,
    /// The version that it becomes; 1 if neither this nor `versions` is given.
    pub version: Option<u64>,
    /// Several versions, each from its own address.
    #[serde(default)]
    pub versions: Vec<u64>,
    /// The SHA-256 that it must have.
    pub sha256: Option<Digest>,
    /// The graph's file in it, if there are several.
    pub graph: Option<String>,
    /// The minisign public key of the required signer: the key itself, or a file that holds it.
    pub signature_key: Option<String>,
    /// The address of the signature of a single file; without it, the file's address with `.minisig` behind it.
    pub signature: Option<String>,
    /// The environment variable with the credentials.
    pub credentials_env: Option<String>,
    /// The file with the credentials, relative to the policy's folder.
    pub credentials_file: Option<PathBuf>,
    /// The S3 endpoint, or the hub, in place of the usual one.
    pub endpoint: Option<String>,
    /// The region of an S3 bucket.
    pub region: Option<String>,
}

/// The section `[models.pull]`: the limits and the trust of pulls.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullSettings {
    /// The cache's folder, relative to the policy's folder; without it, `models` in the state directory.
    pub cache: Option<PathBuf>,
    /// Milliseconds that pulling one model may take.
    pub timeout_ms: u64,
    /// Milliseconds a server may send nothing.
    pub idle_timeout_ms: u64,
    /// Bytes that one model may have, downloaded and unpacked.
    pub max_bytes: u64,
    /// Files that one model may have.
    pub max_files: usize,
    /// Models pulled at the same time.
    pub at_once: usize,
    /// More certificate authorities to trust, in PEM, relative to the policy's folder.
    pub ca_file: Option<PathBuf>,
    /// Whether addresses that are not this machine's own may be reached without TLS.
    pub allow_plain_http: bool,
}

impl Default for PullSettings {
    fn default() -> Self {
        Self {
            cache: None,
            // Ten gigabytes at 100 Mbit/s take fifteen minutes.
            timeout_ms: 1_800_000,
            idle_timeout_ms: 30_000,
            // Several times the largest models that such a server holds in memory.
            max_bytes: 32 << 30,
            // The number of files that the repository looks at in the folder of a version.
            max_files: 4096,
            // More share one network, and each holds a core while it is hashed.
            at_once: 4,
            ca_file: None,
            allow_plain_http: false,
        }
    }
}

/// The longest that one pull may take: beyond it, a number is a slip.
const MAX_TIMEOUT_MS: u64 = 24 * 3_600_000;
/// Most entries of `[[models.sources]]`.
const MAX_SOURCES: usize = 1024;
/// The most pulls at once.
const MAX_AT_ONCE: usize = 64;
/// The most files of one model.
const MAX_FILES: usize = 100_000;

impl PullSettings {
    /// The faults of the settings: the name of each setting, and a message.
    pub fn faults(&self) -> Vec<(String, String)> {
        let Self {
            timeout_ms,
            idle_timeout_ms,
            max_bytes,
            max_files,
            at_once,
            ..
        } = self;
        let mut faults = Vec::new();
        let mut within = |setting: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                faults.push((
                    setting.to_owned(),
                    format!("must be from {least} to {most}"),
                ));
            }
        };
        within("timeout_ms", *timeout_ms, 1_000, MAX_TIMEOUT_MS);
        within("idle_timeout_ms", *idle_timeout_ms, 1_000, MAX_TIMEOUT_MS);
        within("max_bytes", *max_bytes, 1, i64::MAX as u64);
        within("max_files", *max_files as u64, 1, MAX_FILES as u64);
        within("at_once", *at_once as u64, 1, MAX_AT_ONCE as u64);
        faults
    }

    /// The time limit for pulling one model.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// One version to pull, after the settings were checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The name of the model that it becomes.
    pub name: String,
    /// The number of the version that it becomes.
    pub version: u64,
    /// The address from which it is pulled.
    pub from: Address,
    /// The sum it must have.
    pub sha256: Option<Digest>,
    /// The graph's file in it.
    pub graph: Option<String>,
    /// The minisign public key, or a file that holds it.
    pub signature_key: Option<String>,
    /// The address of the signature.
    pub signature: Option<String>,
    /// The environment variable with the credentials.
    pub credentials_env: Option<String>,
    /// The file with the credentials.
    pub credentials_file: Option<PathBuf>,
    /// The S3 endpoint or the hub.
    pub endpoint: Option<String>,
    /// The region of an S3 bucket.
    pub region: Option<String>,
}

impl SourceSettings {
    /// The versions it asks for; the error names the setting.
    pub fn sources(&self, folder: &Path) -> Result<Vec<Source>, (&'static str, String)> {
        if ModelName::parse(&self.name).is_none() {
            let message = format!("is `{}`; it must be {}", self.name, ModelName::RULE);
            return Err(("name", message));
        }
        let versions: Vec<u64> = match (self.version, self.versions.as_slice()) {
            (Some(_), [_, ..]) => {
                return Err((
                    "versions",
                    "cannot be used together with version; write one of them".to_owned(),
                ));
            }
            (version, []) => vec![version.unwrap_or(1)],
            (None, versions) => versions.to_vec(),
        };
        let several = versions.len() > 1;
        let setting = if self.versions.is_empty() {
            "version"
        } else {
            "versions"
        };
        let is_version = |v: &u64| penstock_core::ModelVersion::parse(&v.to_string()).is_some();
        if !versions.iter().all(is_version) {
            return Err((setting, "must be whole numbers from 1".to_owned()));
        }
        if versions.iter().collect::<BTreeSet<_>>().len() < versions.len() {
            return Err((setting, "names a version twice".to_owned()));
        }
        if several && !self.from.contains("{version}") {
            let message = "needs {version} in from, which stands for the version's number";
            return Err((setting, message.to_owned()));
        }
        if several && (self.sha256.is_some() || self.signature.is_some()) {
            let message = "cannot have one sha256 or signature; write an entry for each version";
            return Err((setting, message.to_owned()));
        }
        if self.credentials_env.is_some() && self.credentials_file.is_some() {
            let message = "cannot be used together with credentials_env; write one of them";
            return Err(("credentials_file", message.to_owned()));
        }
        if let Some(endpoint) = &self.endpoint
            && !matches!(Address::parse(endpoint), Ok(Address::Web(_)))
        {
            return Err((
                "endpoint",
                "must be an http(s) URL without a user's name".to_owned(),
            ));
        }
        if self.signature.is_some() && self.signature_key.is_none() {
            return Err((
                "signature",
                "needs signature_key, the key it is checked with".to_owned(),
            ));
        }
        let each = versions.into_iter().map(|version| {
            let from = self.from.replace("{version}", &version.to_string());
            let from = Address::parse(&from).map_err(|message| ("from", message))?;
            let from = match from {
                Address::Path(path) => Address::Path(folder.join(path)),
                other => other,
            };
            Ok(Source {
                name: self.name.clone(),
                version,
                from,
                sha256: self.sha256,
                graph: self.graph.clone(),
                signature_key: self.signature_key.clone(),
                signature: self.signature.clone(),
                credentials_env: self.credentials_env.clone(),
                credentials_file: self.credentials_file.as_ref().map(|file| folder.join(file)),
                endpoint: self.endpoint.clone(),
                region: self.region.clone(),
            })
        });
        each.collect()
    }
}

/// The faults of a list of sources: entry, setting and message.
pub fn faults(sources: &[SourceSettings]) -> Vec<(usize, &'static str, String)> {
    let mut faults = Vec::new();
    if sources.len() > MAX_SOURCES {
        faults.push((
            MAX_SOURCES,
            "name",
            format!("is one of more than {MAX_SOURCES} sources"),
        ));
    }
    let mut seen = BTreeSet::new();
    for (at, source) in sources.iter().enumerate() {
        match source.sources(Path::new("")) {
            Err((setting, message)) => faults.push((at, setting, message)),
            Ok(versions) => {
                let twice =
                    (versions.iter()).find(|one| !seen.insert((one.name.clone(), one.version)));
                if let Some(one) = twice {
                    let message =
                        format!("gives version {} of model {} twice", one.version, one.name);
                    faults.push((at, "name", message));
                }
            }
        }
    }
    faults
}
