//! The address of a model, as it is written in `from`.

use crate::digest::Digest;
use std::fmt;
use std::path::PathBuf;
use url::Url;

/// The parsed address of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A file or folder on this machine.
    Path(PathBuf),
    /// A file or archive behind http(s).
    Web(Url),
    /// An object, or all objects below a prefix.
    S3 {
        /// The name of the bucket.
        bucket: String,
        /// The object's key, or the prefix.
        key: String,
    },
    /// An artifact of an OCI registry.
    Oci {
        /// Host and port of the registry.
        registry: String,
        /// The path of the repository in the registry.
        repository: String,
        /// A tag; `latest` without a tag and a digest.
        tag: Option<String>,
        /// The digest of the manifest.
        digest: Option<Digest>,
    },
    /// A repository of a Hugging Face hub.
    Hub {
        /// The name of the repository, as `owner/name` or `name`.
        repository: String,
        /// A branch, tag or commit.
        revision: String,
    },
}

/// The longest address; servers refuse longer URLs.
const MAX_ADDRESS_BYTES: usize = 4096;

/// The forms of addresses, for messages.
const FORMS: &str = "a folder or file, https://…, s3://bucket/key, oci://registry/repository:tag or hf://owner/name@revision";

impl Address {
    /// Parses the text of an address. The error names the fault without repeating a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_ADDRESS_BYTES || text.contains(char::is_control) {
            return Err(format!(
                "must be {FORMS}, of at most {MAX_ADDRESS_BYTES} bytes"
            ));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Path(PathBuf::from(text)));
        };
        match scheme {
            "file" => match Url::parse(text)
                .ok()
                .and_then(|url| url.to_file_path().ok())
            {
                Some(path) => Ok(Self::Path(path)),
                None => Err("is not a file:// URL of this machine; write the path".to_owned()),
            },
            "http" | "https" => {
                let url = Url::parse(text).map_err(|e| format!("is not a URL: {e}"))?;
                if url.host_str().is_none_or(str::is_empty) {
                    return Err("names no host".to_owned());
                }
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(
                        "contains a user name or password; give them by credentials_env or credentials_file"
                            .to_owned(),
                    );
                }
                Ok(Self::Web(url))
            }
            "s3" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
                if bucket.is_empty() || !bucket.bytes().all(plain) {
                    return Err("names no bucket; write s3://bucket/key".to_owned());
                }
                Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                })
            }
            "oci" => oci(rest),
            "hf" => hub(rest),
            _ => Err(format!(
                "has the unknown scheme `{scheme}`; it may be {FORMS}"
            )),
        }
    }

    /// A model name for sources without one.
    pub fn suggested_name(&self) -> Option<String> {
        let last = match self {
            Self::Path(path) => {
                let full = path.canonicalize().unwrap_or_else(|_| path.clone());
                full.file_name()?.to_str()?.to_owned()
            }
            Self::Web(url) => url.path_segments()?.rfind(|s| !s.is_empty())?.to_owned(),
            Self::S3 { bucket, key } => {
                let last = key.split('/').rfind(|part| !part.is_empty());
                last.unwrap_or(bucket).to_owned()
            }
            Self::Oci { repository, .. } => repository.rsplit('/').next()?.to_owned(),
            Self::Hub { repository, .. } => repository.rsplit('/').next()?.to_owned(),
        };
        let mut name = last.as_str();
        for ending in [".onnx", ".gz", ".zst", ".tgz", ".tar", ".zip"] {
            name = name.strip_suffix(ending).unwrap_or(name);
        }
        let name = name.to_lowercase();
        penstock_core::ModelName::parse(&name)
            .is_some()
            .then_some(name)
    }
}

/// The address without the part that may be secret: the query of a presigned URL.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Web(url) => f.write_str(&redacted(url)),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::Oci {
                registry,
                repository,
                tag,
                digest,
            } => {
                write!(f, "oci://{registry}/{repository}")?;
                if let Some(tag) = tag {
                    write!(f, ":{tag}")?;
                }
                match digest {
                    Some(digest) => write!(f, "@sha256:{digest}"),
                    None => Ok(()),
                }
            }
            Self::Hub {
                repository,
                revision,
            } => write!(f, "hf://{repository}@{revision}"),
        }
    }
}

/// A URL without its query and fragment, which may hold a signature.
pub fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    let hidden = url.query().is_some();
    shown.set_query(None);
    shown.set_fragment(None);
    format!("{shown}{}", if hidden { "?…" } else { "" })
}

fn oci(rest: &str) -> Result<Address, String> {
    let wrong = |what: &str| {
        Err(format!(
            "{what}; write oci://registry/repository:tag or …@sha256:…"
        ))
    };
    let Some((registry, path)) = rest.split_once('/') else {
        return wrong("names no repository");
    };
    let host = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    if registry.is_empty() || !registry.bytes().all(host) {
        return wrong("names no registry");
    }
    let (path, digest) = match path.split_once('@') {
        None => (path, None),
        Some((path, digest)) => match Digest::parse(digest) {
            Some(digest) => (path, Some(digest)),
            None => return wrong("has a digest that is not a sha256"),
        },
    };
    let (repository, tag) = match path.rsplit_once(':') {
        None => (path, None),
        Some((repository, tag)) => (repository, Some(tag)),
    };
    let part = |part: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
    };
    if !repository.split('/').all(part) {
        return wrong(
            "has an invalid repository name; it may contain lower-case letters, digits, `.`, `_`, `-` and `/`",
        );
    }
    let is_tag = |tag: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        (1..=128).contains(&tag.len()) && tag.bytes().all(plain)
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return wrong("has an invalid tag");
    }
    let tag = match (tag, digest) {
        (None, None) => Some("latest"),
        (tag, _) => tag,
    };
    Ok(Address::Oci {
        registry: registry.to_owned(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

fn hub(rest: &str) -> Result<Address, String> {
    let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let plain = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
    };
    let parts: Vec<&str> = repository.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(|part| plain(part)) {
        return Err(
            "names no repository; write hf://owner/name or hf://owner/name@revision".to_owned(),
        );
    }
    if !revision.split('/').all(plain) {
        return Err("has an invalid revision; write a branch, tag or commit".to_owned());
    }
    Ok(Address::Hub {
        repository: repository.to_owned(),
        revision: revision.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_shown_without_secrets() {
        let shown = |text: &str| Address::parse(text).map(|address| address.to_string());
        let same = |text: &str| Ok(text.to_owned());
        let sum = "0".repeat(64);
        let pinned = format!("oci://r.example/a/b@sha256:{sum}");
        for (text, expected) in [
            ("models/x", same("models/x")),
            ("file:///a/b", same("/a/b")),
            (
                "https://h.example/m.onnx?sig=secret",
                same("https://h.example/m.onnx?…"),
            ),
            ("s3://bucket/a/b/", same("s3://bucket/a/b/")),
            (
                "oci://localhost:5000/a/b",
                same("oci://localhost:5000/a/b:latest"),
            ),
            ("oci://r.example/a:v1.2", same("oci://r.example/a:v1.2")),
            (pinned.as_str(), same(&pinned)),
            ("hf://owner/name", same("hf://owner/name@main")),
            (
                "hf://owner/name@refs/pr/1",
                same("hf://owner/name@refs/pr/1"),
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        for text in [
            "",
            "ftp://h/x",
            "https://user:secret@h.example/x",
            "https://secret@h.example/x",
            "https://",
            "s3://",
            "s3:///key",
            "oci://host",
            "oci://host/UPPER",
            "oci://host/a/../b",
            "oci://host/a:b c",
            "oci://host/a@sha256:12",
            "hf://a/b/c",
            "hf://../x",
            "hf://a/b@../../x",
            "x\n",
        ] {
            let said = shown(text).expect_err(text);
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn a_name_is_suggested_by_the_last_part_of_an_address() {
        for (text, name) in [
            ("https://h.example/a/Cls.onnx?x=1", Some("cls")),
            ("https://h.example/magika-v3.tar.gz", Some("magika-v3")),
            ("https://h.example/magika-v3.tar.zst", Some("magika-v3")),
            ("https://h.example/", None),
            ("s3://bucket/models/cls/", Some("cls")),
            ("oci://h/models/cls:v1", Some("cls")),
            ("hf://o/MiniLM-L6", Some("minilm-l6")),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.suggested_name().as_deref(), name, "{text}");
        }
    }
}
