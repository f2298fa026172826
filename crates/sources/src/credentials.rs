//! Credentials come from the environment or a file, never from the policy or an address.

use crate::error::Error;
use crate::settings::Source;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use std::path::Path;

/// The largest file of credentials that is read; tokens are a few kilobytes.
const MAX_BYTES: u64 = 64 << 10;

/// Reads environment variables; a parameter, so that tests need not set any.
pub type Environment = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The credentials of a source. Their debug form does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Makes a secret of a text, without white space around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// User and password, if it has a colon.
    pub fn pair(&self) -> Option<(&str, &str)> {
        self.0.split_once(':')
    }

    /// Returns the whole text. Do not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Makes the `Authorization` header: Basic for `user:password`, Bearer for anything else.
    pub fn header(&self) -> Result<HeaderValue, Error> {
        let text = match self.pair() {
            Some(_) => format!("Basic {}", STANDARD.encode(&self.0)),
            None => format!("Bearer {}", self.0),
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| {
            Error::local("the credentials have characters that no header can carry")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The credentials that a source names, if it names any.
pub fn named(source: &Source, environment: &Environment) -> Result<Option<Secret>, Error> {
    if let Some(name) = &source.credentials_env {
        return match environment(name).filter(|text| !text.trim().is_empty()) {
            Some(text) => Ok(Some(Secret::new(&text))),
            None => Err(Error::local(format!(
                "the environment variable {name}, which credentials_env names, is not set"
            ))),
        };
    }
    let Some(path) = &source.credentials_file else {
        return Ok(None);
    };
    let text = small_file(path).map_err(|e| {
        Error::io(
            format!("read {}, which credentials_file names", path.display()),
            e,
        )
    })?;
    Ok(Some(Secret::new(&text)))
}

/// Reads a small text file, such as one with a key.
pub fn small_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// The credentials that `docker login` kept for a registry.
pub fn docker(registry: &str, environment: &Environment) -> Option<Secret> {
    let folder = environment("DOCKER_CONFIG")
        .map(std::path::PathBuf::from)
        .or_else(|| environment("HOME").map(|home| Path::new(&home).join(".docker")))?;
    let text = small_file(&folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let entry = &config["auths"][registry];
    let auth = STANDARD.decode(entry["auth"].as_str()?).ok()?;
    Some(Secret::new(std::str::from_utf8(&auth).ok()?))
}
