//! Decides the source of the host's own secrets: the environment, a file that the environment names, or one that this
//! host created. Never the command line, which every process of a machine can read, and never a log.

use anyhow::{Context, bail};
use rand::RngCore;
use std::ffi::OsString;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The largest secret that is read. A key set or a certificate fits. A wrong path is not read whole.
const MAX_SECRET_BYTES: u64 = 64 << 10;
/// Bytes of a secret that the host creates. A shorter text in a file is no secret.
pub const MADE_BYTES: usize = 32;
/// The shortest token for the admin API that an operator may choose.
pub const MIN_TOKEN_CHARS: usize = 32;

/// The environment variable of the admin API's token.
pub const ADMIN_TOKEN: &str = "PENSTOCK_ADMIN_TOKEN";
const ADMIN_TOKEN_FILE: &str = "admin-token";
/// The environment variable of the token that opens the metrics, and nothing else.
pub const METRICS_TOKEN: &str = "PENSTOCK_METRICS_TOKEN";
const METRICS_TOKEN_FILE: &str = "metrics-token";

/// Reads a variable of the environment; a parameter, so that tests need not set any.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A secret and its source.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The text of the secret. Do not log it.
    pub text: String,
    /// The place from which it was read.
    pub origin: Origin,
}

/// The source of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The operator gave it, for example in an environment variable.
    Given,
    /// The host created it at an earlier start. It is in this file.
    Kept(PathBuf),
    /// The host has just created it. It is in this file.
    Made(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret(… {:?})", self.origin)
    }
}

/// Returns the value of `NAME` in the environment, or the content of the file that `NAME_FILE` names, without the
/// line's end.
///
/// # Errors
///
/// If both are set, or the value or the file cannot be read.
pub fn given(name: &str, environment: Environment<'_>) -> anyhow::Result<Option<String>> {
    let in_file = format!("{name}_FILE");
    match (environment(name), environment(&in_file)) {
        (Some(_), Some(_)) => bail!("both {name} and {in_file} are set; keep one of the two"),
        (Some(value), None) => match value.into_string() {
            Ok(value) => Ok(Some(value)),
            Err(_) => bail!("{name} is not text in UTF-8"),
        },
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            let text = read(&path).with_context(|| format!("{in_file} cannot be read"))?;
            Ok(Some(text))
        }
        (None, None) => Ok(None),
    }
}

/// Reads a file with a secret, without the line's end.
///
/// # Errors
///
/// If it cannot be read. The error has its path and not its content.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let size = std::fs::metadata(path)
        .with_context(|| format!("{shown}"))?
        .len();
    if size > MAX_SECRET_BYTES {
        bail!("{shown} has {size} bytes; a secret has at most {MAX_SECRET_BYTES}");
    }
    let bytes = std::fs::read(path).with_context(|| format!("{shown}"))?;
    let Ok(text) = String::from_utf8(bytes) else {
        bail!("{shown} is not text in UTF-8");
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Returns a secret in a file of the state directory. It is created if it is missing: 32 random bytes in hexadecimal.
///
/// # Errors
///
/// If the file cannot be read or created, or other users may read it.
pub fn kept(state_dir: &Path, file_name: &str) -> anyhow::Result<Secret> {
    kept_as(state_dir, file_name, |random| {
        penstock_policy::auth::api_key::hex(&random)
    })
}

/// Returns a secret in a file of the state directory. If it is missing, `write` makes its text from random bytes.
///
/// # Errors
///
/// See [`kept`].
pub fn kept_as(
    state_dir: &Path,
    file_name: &str,
    write: impl FnOnce([u8; MADE_BYTES]) -> String,
) -> anyhow::Result<Secret> {
    let path = state_dir.join(file_name);
    if let Some(text) = existing(&path)? {
        let origin = Origin::Kept(path);
        return Ok(Secret { text, origin });
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .with_context(|| format!("the folder {} cannot be made", state_dir.display()))?;
    let mut bytes = [0; MADE_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let text = write(bytes);
    // Complete or not at all. Of two servers that start at once, both use the file that the first has created.
    let mut file = tempfile::NamedTempFile::new_in(state_dir)
        .with_context(|| format!("{} cannot be written", state_dir.display()))?;
    file.write_all(format!("{text}\n").as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(&path) {
        Ok(_) => {
            std::fs::File::open(state_dir)?.sync_all()?;
            let origin = Origin::Made(path);
            Ok(Secret { text, origin })
        }
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => {
            let text = existing(&path)?.with_context(|| format!("{}", path.display()))?;
            let origin = Origin::Kept(path);
            Ok(Secret { text, origin })
        }
        Err(e) => Err(e.error).with_context(|| format!("{} cannot be written", path.display())),
    }
}

/// Reads a secret from a file that no other user may read. Returns `None` if there is no such file.
fn existing(path: &Path) -> anyhow::Result<Option<String>> {
    let shown = path.display();
    let mode = match std::fs::metadata(path) {
        Ok(found) => found.permissions().mode(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("{shown} cannot be read")),
    };
    if mode & 0o077 != 0 {
        bail!(
            "other users can read the secret in {shown} (mode {:03o}); run `chmod 600 {shown}`, and replace the secret if they \
             may have read it",
            mode & 0o777
        );
    }
    let text = read(path)?;
    if text.len() < MADE_BYTES {
        bail!("{shown} contains no secret; remove the file, and the server creates a new one");
    }
    Ok(Some(text))
}

/// Returns the token of the admin API. It is created if there is none.
///
/// # Errors
///
/// See [`given`] and [`kept`]. Also if a given token is too short or cannot be in a header.
pub fn admin_token(state_dir: &Path, environment: Environment<'_>) -> anyhow::Result<Secret> {
    token((ADMIN_TOKEN, ADMIN_TOKEN_FILE), state_dir, environment)
}

/// Returns the token that opens the metrics. It is created if there is none.
///
/// # Errors
///
/// As for [`admin_token`].
pub fn metrics_token(state_dir: &Path, environment: Environment<'_>) -> anyhow::Result<Secret> {
    token((METRICS_TOKEN, METRICS_TOKEN_FILE), state_dir, environment)
}

fn token(
    (variable, file): (&str, &str),
    state_dir: &Path,
    environment: Environment<'_>,
) -> anyhow::Result<Secret> {
    match given(variable, environment)? {
        Some(text) => {
            if text.len() < MIN_TOKEN_CHARS || !text.bytes().all(|b| b.is_ascii_graphic()) {
                bail!(
                    "{variable} must be at least {MIN_TOKEN_CHARS} random visible ASCII characters, for example from \
                     `openssl rand -hex 32`"
                );
            }
            let origin = Origin::Given;
            Ok(Secret { text, origin })
        }
        None => kept(state_dir, file),
    }
}

/// Returns the token as a client finds it. None is created.
///
/// # Errors
///
/// If there is none. The message lists the ways to give it.
pub fn known_admin_token(state_dir: &Path, environment: Environment<'_>) -> anyhow::Result<String> {
    if let Some(text) = given(ADMIN_TOKEN, environment)? {
        return Ok(text);
    }
    let path = state_dir.join(ADMIN_TOKEN_FILE);
    existing(&path)?.with_context(|| {
        format!(
            "there is no token for the admin API: set {ADMIN_TOKEN} or {ADMIN_TOKEN}_FILE, or name the server's state \
             directory with --state-dir; {} does not exist",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(values: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| {
            let found = values.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        }
    }

    #[test]
    fn a_secret_is_given_by_value_or_by_file_and_not_by_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::fs::write(&path, "from file\r\n").unwrap();
        let path = path.to_str().unwrap();
        let read =
            |values: &[(&str, &str)]| given("S", &with(values)).map_err(|e| format!("{e:#}"));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("S", "x")]), Ok(Some("x".into())));
        assert_eq!(read(&[("S_FILE", path)]), Ok(Some("from file".into())));
        let both = read(&[("S", "x"), ("S_FILE", path)]).unwrap_err();
        assert!(both.contains("S_FILE") && !both.contains("from"), "{both}");
        let missing = read(&[("S_FILE", "/nowhere/s")]).unwrap_err();
        assert!(missing.contains("/nowhere/s"), "{missing}");
        std::fs::write(path, [0xff, 0xfe]).unwrap();
        assert!(read(&[("S_FILE", path)]).unwrap_err().contains("UTF-8"));
        std::fs::write(path, vec![b'x'; 65 << 10]).unwrap();
        assert!(read(&[("S_FILE", path)]).unwrap_err().contains("65536"));
    }

    #[test]
    fn a_secret_is_made_once_and_refused_when_others_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("state");
        let made = kept(&state_dir, "pepper").unwrap();
        let path = state_dir.join("pepper");
        assert_eq!(made.origin, Origin::Made(path.clone()));
        assert_eq!(made.text.len(), 64);
        assert!(!format!("{made:?}").contains(&made.text));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = kept(&state_dir, "pepper").unwrap();
        assert_eq!(
            (again.text, again.origin),
            (made.text.clone(), Origin::Kept(path.clone()))
        );
        assert_ne!(kept(&state_dir, "other").unwrap().text, made.text);
        for mode in [0o644, 0o640, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = kept(&state_dir, "pepper").unwrap_err().to_string();
            assert!(refused.contains("chmod 600") && !refused.contains(&made.text));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(kept(&state_dir, "pepper").is_err());
    }

    #[test]
    fn servers_that_start_at_once_have_the_same_secret() {
        let folder = tempfile::tempdir().unwrap();
        let made: Vec<Secret> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| kept(folder.path(), "pepper").unwrap()))
                .collect();
            starts.into_iter().map(|s| s.join().unwrap()).collect()
        });
        assert!(made.iter().all(|secret| secret.text == made[0].text));
        let makers = made.iter().filter(|s| matches!(s.origin, Origin::Made(_)));
        assert_eq!(makers.count(), 1);
    }

    #[test]
    fn a_weak_token_is_refused_and_a_client_makes_none() {
        let folder = tempfile::tempdir().unwrap();
        for weak in ["", "short", &"a b".repeat(20)] {
            let values = [(ADMIN_TOKEN, weak)];
            assert!(
                admin_token(folder.path(), &with(&values)).is_err(),
                "{weak}"
            );
        }
        let none = with(&[]);
        let missing = known_admin_token(folder.path(), &none).unwrap_err();
        assert!(missing.to_string().contains("PENSTOCK_ADMIN_TOKEN_FILE"));
        let made = admin_token(folder.path(), &none).unwrap();
        assert_eq!(known_admin_token(folder.path(), &none).unwrap(), made.text);
    }
}
