//! A Hugging Face hub, or a mirror of it that `HF_ENDPOINT` names.

use super::{Adapter, FileLocation, Item, Listing};
use crate::address::Address;
use crate::arrange;
use crate::credentials::Secret;
use crate::digest::Digest;
use crate::error::Error;
use crate::http::Get;
use serde::Deserialize;
use url::Url;

const HUB: &str = "https://huggingface.co";

#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Adapter<'_> {
    pub(super) async fn list_hub(&mut self) -> Result<Listing, Error> {
        let Address::Hub {
            repository,
            revision,
        } = &self.source.from
        else {
            return Err(Error::local("the source is not a repository of a hub"));
        };
        let variable = |name: &str| (self.environment)(name).filter(|text| !text.is_empty());
        if self.secret.is_none() {
            self.secret = variable("HF_TOKEN").map(|token| Secret::new(&token));
        }
        let endpoint = self
            .source
            .endpoint
            .clone()
            .or_else(|| variable("HF_ENDPOINT"));
        let endpoint = endpoint.unwrap_or_else(|| HUB.to_owned());
        let endpoint = endpoint.trim_end_matches('/');
        let url = |path: &str| {
            Url::parse(&format!("{endpoint}/{path}"))
                .map_err(|e| Error::local(format!("the hub {endpoint} is not a URL: {e}")))
        };
        let revision = revision.replace('/', "%2F");
        let about = url(&format!(
            "api/models/{repository}/revision/{revision}?blobs=true"
        ))?;
        let get = Get {
            authorization: self.authorization()?,
            ..Get::new(&about)
        };
        let text = self.document(&get).await?;
        let info: Info = serde_json::from_slice(&text)
            .map_err(|e| Error::refused(format!("{endpoint} does not answer like a hub: {e}")))?;
        let paths: Vec<&str> = info
            .siblings
            .iter()
            .map(|one| one.rfilename.as_str())
            .collect();
        let chosen =
            arrange::choose(&paths, self.source.graph.as_deref()).map_err(Error::refused)?;
        let commit = info
            .sha
            .filter(|sha| !sha.is_empty() && sha.bytes().all(|b| b.is_ascii_alphanumeric()));
        let at = commit.clone().unwrap_or(revision);
        let mut items = Vec::new();
        for one in info
            .siblings
            .iter()
            .filter(|one| chosen.contains(one.rfilename.as_str()))
        {
            let mut place = url(&format!("{repository}/resolve/{at}/"))?;
            if let Ok(mut parts) = place.path_segments_mut() {
                parts.pop_if_empty().extend(one.rfilename.split('/'));
            }
            let lfs = one.lfs.as_ref();
            items.push(Item {
                path: one.rfilename.clone(),
                place: FileLocation::Web(place),
                bytes: lfs.and_then(|lfs| lfs.size).or(one.size),
                sha256: lfs.and_then(|lfs| Digest::parse(lfs.sha256.as_deref()?)),
                // A commit never changes.
                validator: commit.clone(),
                immutable: commit.is_some(),
                archive: false,
            });
        }
        Ok(Listing {
            items,
            identity: commit,
            ..Listing::default()
        })
    }
}
