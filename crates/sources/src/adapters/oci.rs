//! An OCI registry: artifacts as ORAS, ModelPack and Docker push them.

use super::{Adapter, FileLocation, Item, Listing, MAX_DOCUMENT_BYTES, refusal};
use crate::address::Address;
use crate::credentials;
use crate::digest::Digest;
use crate::error::Error;
use crate::http::{Get, Response};
use http::header::{ACCEPT, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use url::Url;

/// The accepted types of a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";
/// Most bytes of a token's response.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// The annotations that name a layer's file, of ORAS and of ModelPack.
const TITLE: &str = "org.opencontainers.image.title";
const FILE_PATH: &str = "org.cncf.model.filepath";
const MODEL_FILE_PATH: &str = "org.cnai.model.filepath";
/// The annotation by which ORAS marks a packed folder.
const UNPACK: &str = "io.deis.oras.content.unpack";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Entry>,
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    digest: String,
    artifact_type: Option<String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The challenge of a registry that asks for authorization.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Adapter<'_> {
    fn registry(&self) -> Result<(Url, &str, &str), Error> {
        let Address::Oci {
            registry,
            repository,
            ..
        } = &self.source.from
        else {
            return Err(Error::local("the source is not in a registry"));
        };
        let wrong = |e: url::ParseError| Error::local(format!("{registry} is not a registry: {e}"));
        let secure = Url::parse(&format!("https://{registry}/v2/{repository}/")).map_err(wrong)?;
        let plain = Url::parse(&format!("http://{registry}/v2/{repository}/")).map_err(wrong)?;
        // As Docker does: registries on this machine have no certificate.
        let local = crate::http::is_loopback(&plain);
        let url = if local { plain } else { secure };
        Ok((url, registry, repository))
    }

    /// Asks a registry, and answers its challenge. Credentials go to the registry, and to the realm that it names.
    async fn ask_registry(
        &mut self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response, Error> {
        for again in [false, true] {
            let authorization = self.bearer.clone();
            let get = Get {
                url,
                authorization,
                headers: headers.to_vec(),
            };
            let answer = self.client.get(&get).await?;
            if answer.status != StatusCode::UNAUTHORIZED || again {
                return Ok(answer);
            }
            let challenge = answer.header(&WWW_AUTHENTICATE);
            let Some(challenge) = challenge.as_deref().and_then(challenge_in) else {
                return Ok(answer);
            };
            let (_, registry, repository) = self.registry()?;
            let (registry, repository) = (registry.to_owned(), repository.to_owned());
            let secret = self
                .secret
                .clone()
                .or_else(|| credentials::docker(&registry, self.environment));
            self.bearer = match challenge {
                Challenge::Basic => match secret {
                    Some(secret) => Some(secret.header()?),
                    None => return Ok(answer),
                },
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                } => {
                    // A token itself, and not a user and a password, is shown as it is.
                    match secret {
                        Some(secret) if secret.pair().is_none() => Some(secret.header()?),
                        secret => {
                            let scope =
                                scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                            Some(self.token(&realm, service, &scope, secret).await?)
                        }
                    }
                }
            };
        }
        Err(Error::refused(
            "the registry asks for other credentials each time",
        ))
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: &str,
        secret: Option<credentials::Secret>,
    ) -> Result<HeaderValue, Error> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let mut url = Url::parse(realm)
            .map_err(|e| Error::refused(format!("the registry names no realm: {e}")))?;
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        url.query_pairs_mut().append_pair("scope", scope);
        let authorization = secret.map(|secret| secret.header()).transpose()?;
        let answer = self
            .client
            .get(&Get {
                authorization,
                ..Get::new(&url)
            })
            .await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&crate::address::redacted(&url), answer).await);
        }
        let text = answer.body(MAX_TOKEN_BYTES).await?;
        let token: Token = serde_json::from_slice(&text).map_err(|_| {
            Error::refused(format!(
                "{} gave no token",
                url.host_str().unwrap_or("the realm")
            ))
        })?;
        let token = token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty());
        let token =
            token.ok_or_else(|| Error::refused("the registry's realm gave an empty token"))?;
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value =
            value.map_err(|_| Error::refused("the registry's token does not fit in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn manifest(
        &mut self,
        reference: &str,
        wanted: Option<Digest>,
    ) -> Result<(Digest, Manifest), Error> {
        let (base, ..) = self.registry()?;
        let url = base.join(&format!("manifests/{reference}"));
        let url = url.map_err(|e| Error::local(format!("{reference} is not a reference: {e}")))?;
        let accept = [(ACCEPT, HeaderValue::from_static(MANIFESTS))];
        let answer = self.ask_registry(&url, &accept).await?;
        if answer.status != StatusCode::OK {
            return Err(refusal(&self.source.from.to_string(), answer).await);
        }
        let text = answer.body(MAX_DOCUMENT_BYTES).await?;
        let digest = Digest::of(&text);
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(Error::refused(format!(
                "the registry sent a manifest with the SHA-256 {digest} for sha256:{wanted}"
            )));
        }
        let manifest = serde_json::from_slice(&text).map_err(|e| {
            Error::refused(format!(
                "the manifest of {} cannot be read: {e}",
                self.source.from
            ))
        })?;
        Ok((digest, manifest))
    }

    pub(super) async fn list_oci(&mut self) -> Result<Listing, Error> {
        let Address::Oci { tag, digest, .. } = &self.source.from else {
            return Err(Error::local("the source is not in a registry"));
        };
        let reference = match (digest, tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
        };
        let wanted = *digest;
        let (pin, mut manifest) = self.manifest(&reference, wanted).await?;
        if !manifest.manifests.is_empty() {
            let chosen = choose(&manifest.manifests).map_err(Error::refused)?;
            (_, manifest) = self
                .manifest(&format!("sha256:{chosen}"), Some(chosen))
                .await?;
            if !manifest.manifests.is_empty() {
                return Err(Error::refused("the index leads to another index"));
            }
        }
        let items: Result<Vec<Item>, Error> = manifest.layers.iter().map(item).collect();
        let items = items?;
        if items.is_empty() {
            return Err(Error::refused(format!(
                "{} has no layers",
                self.source.from
            )));
        }
        let identity = Some(format!("sha256:{pin}"));
        Ok(Listing {
            items,
            identity,
            pin: Some(pin),
            single: false,
        })
    }

    pub(super) async fn open_blob(
        &mut self,
        digest: Digest,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Response, Error> {
        let (base, ..) = self.registry()?;
        let url = base.join(&format!("blobs/sha256:{digest}"));
        let url = url.map_err(|e| Error::local(format!("{digest} is not a digest: {e}")))?;
        self.ask_registry(&url, &headers).await
    }
}

/// The manifest in an index that fits this machine: a model's, else the one for its platform, else the only one.
fn choose(entries: &[Entry]) -> Result<Digest, String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let is_model = |entry: &&Entry| {
        (entry.artifact_type.as_deref()).is_some_and(|kind| kind.contains("model.manifest"))
    };
    let fits = |entry: &&Entry| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|p| p.architecture == architecture && p.os == std::env::consts::OS)
    };
    let any = |entry: &&Entry| entry.platform.is_none();
    let chosen = (entries.iter().find(is_model))
        .or_else(|| entries.iter().find(fits))
        .or_else(|| entries.iter().find(any))
        .or(match entries {
            [one] => Some(one),
            _ => None,
        });
    let chosen = chosen.ok_or_else(|| {
        format!(
            "none of the {} manifests in the index is for {}/{architecture}",
            entries.len(),
            std::env::consts::OS
        )
    })?;
    sha256(&chosen.digest)
}

fn sha256(digest: &str) -> Result<Digest, String> {
    let is_sha256 = digest.starts_with("sha256:");
    let digest = Digest::parse(digest).filter(|_| is_sha256);
    digest.ok_or_else(|| "the manifest names a digest that is not a sha256".to_owned())
}

fn item(layer: &Layer) -> Result<Item, Error> {
    let digest = sha256(&layer.digest).map_err(Error::refused)?;
    let kind = layer.media_type.as_str();
    let named = [FILE_PATH, MODEL_FILE_PATH, TITLE]
        .iter()
        .find_map(|name| layer.annotations.get(*name));
    let packed = kind.contains(".tar") || kind.ends_with("+tar") || kind.contains("rootfs");
    let unpack = layer
        .annotations
        .get(UNPACK)
        .is_some_and(|value| value == "true");
    let archive = unpack || packed;
    if named.is_none() && !archive {
        return Err(Error::refused(format!(
            "its layer {kind} names no file; it needs the annotation {TITLE}"
        )));
    }
    Ok(Item {
        path: named.cloned().unwrap_or_default(),
        place: FileLocation::Blob(digest),
        bytes: Some(layer.size),
        sha256: Some(digest),
        validator: None,
        immutable: true,
        archive,
    })
}

/// The first challenge that is understood.
fn challenge_in(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut values = BTreeMap::new();
    let mut rest = rest.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        values.insert(name.trim().to_ascii_lowercase(), value.to_owned());
        rest = next.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer {
        realm: values.remove("realm")?,
        service: values.remove("service"),
        scope: values.remove("scope"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_in_their_quotes() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (text, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a.example/token\",service=\"r\",scope=\"repository:a/b:pull,push\"",
                bearer(
                    "https://a.example/token",
                    Some("r"),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            (
                "bearer realm=https://a.example/t",
                bearer("https://a.example/t", None, None),
            ),
            ("Bearer service=\"r\"", None),
            ("Bearer realm=\"open", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(challenge_in(text), expected, "{text}");
        }
    }

    #[test]
    fn layers_are_files_or_archives_and_say_which() {
        let layer = |kind: &str, annotations: &[(&str, &str)]| Layer {
            media_type: kind.to_owned(),
            digest: format!("sha256:{}", Digest::of(b"x")),
            size: 1,
            annotations: annotations
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect(),
        };
        let told = |layer: &Layer| item(layer).map(|item| (item.path, item.archive)).ok();
        let file = |path: &str, archive| Some((path.to_owned(), archive));
        let onnx = [(TITLE, "model.onnx")];
        for (layer, expected) in [
            (
                layer("application/octet-stream", &onnx),
                file("model.onnx", false),
            ),
            (
                layer(
                    "application/vnd.cncf.model.weight.v1.raw",
                    &[(FILE_PATH, "a/model.onnx")],
                ),
                file("a/model.onnx", false),
            ),
            (
                layer(
                    "application/vnd.cncf.model.weight.v1.tar",
                    &[(FILE_PATH, "model.onnx")],
                ),
                file("model.onnx", true),
            ),
            (
                layer("application/vnd.oci.image.layer.v1.tar+gzip", &[]),
                file("", true),
            ),
            (
                layer(
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    &[(TITLE, "m"), (UNPACK, "true")],
                ),
                file("m", true),
            ),
            (
                layer("application/vnd.docker.image.rootfs.diff.tar.gzip", &[]),
                file("", true),
            ),
            (layer("application/octet-stream", &[]), None),
            (
                layer("application/vnd.cncf.model.weight.v1.tar+zstd", &onnx),
                file("model.onnx", true),
            ),
        ] {
            assert_eq!(told(&layer), expected, "{}", layer.media_type);
        }
        let bad = Layer {
            digest: "md5:12".to_owned(),
            ..layer("a", &onnx)
        };
        assert_eq!(told(&bad), None);
    }

    #[test]
    fn an_index_gives_the_manifest_for_this_machine() {
        let entry = |of: u8, kind: Option<&str>, platform: Option<(&str, &str)>| Entry {
            digest: format!("sha256:{}", Digest::of(&[of])),
            artifact_type: kind.map(str::to_owned),
            platform: platform.map(|(os, architecture)| Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            }),
        };
        let here = match std::env::consts::ARCH {
            "x86_64" => ("linux", "amd64"),
            _ => ("linux", "arm64"),
        };
        let elsewhere = ("plan9", "mips");
        let model = Some("application/vnd.cncf.model.manifest.v1+json");
        for (entries, expected) in [
            (
                vec![entry(1, None, Some(elsewhere)), entry(2, None, Some(here))],
                Some(2),
            ),
            (
                vec![entry(1, None, Some(here)), entry(2, model, None)],
                Some(2),
            ),
            (
                vec![entry(1, None, Some(elsewhere)), entry(2, None, None)],
                Some(2),
            ),
            (vec![entry(1, None, Some(elsewhere))], Some(1)),
            (
                vec![
                    entry(1, None, Some(elsewhere)),
                    entry(2, None, Some(elsewhere)),
                ],
                None,
            ),
        ] {
            assert_eq!(choose(&entries).ok(), expected.map(|of| Digest::of(&[of])));
        }
    }
}
