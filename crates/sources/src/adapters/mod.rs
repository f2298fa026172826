//! The kinds of sources: each adapter lists a source's files, and opens one of them.

mod hub;
mod listing;
pub mod local;
mod oci;
mod s3;

pub use listing::{FileLocation, Item, Limits, Listing, too_large, too_many};

use crate::address::{Address, redacted};
use crate::credentials::{self, Environment, Secret};
use crate::error::Error;
use crate::http::{Client, Get, Response};
use crate::settings::Source;
use crate::transfer::{self, Conditions};
use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use std::time::SystemTime;
use url::Url;

/// Bytes of a document that describes a source: a manifest, a list of files.
const MAX_DOCUMENT_BYTES: usize = 8 << 20;

/// Asks one source for its list of files and for the files.
pub struct Adapter<'a> {
    client: &'a Client,
    source: &'a Source,
    limits: Limits,
    environment: &'a Environment,
    secret: Option<Secret>,
    bearer: Option<HeaderValue>,
}

impl<'a> Adapter<'a> {
    /// Makes the adapter for a source; its credentials are read here.
    pub fn new(
        client: &'a Client,
        source: &'a Source,
        limits: Limits,
        environment: &'a Environment,
    ) -> Result<Self, Error> {
        let secret = credentials::named(source, environment)?;
        Ok(Self {
            client,
            source,
            limits,
            environment,
            secret,
            bearer: None,
        })
    }

    /// Asks the source for its present contents.
    pub async fn list(&mut self) -> Result<Listing, Error> {
        let listing = match &self.source.from {
            Address::Path(path) => local::list(path, self.limits)?,
            Address::Web(url) => Listing {
                items: vec![Item {
                    path: file_name(url),
                    place: FileLocation::Web(url.clone()),
                    bytes: None,
                    sha256: None,
                    validator: None,
                    immutable: false,
                    archive: false,
                }],
                single: true,
                ..Listing::default()
            },
            Address::S3 { .. } => self.list_s3().await?,
            Address::Oci { .. } => self.list_oci().await?,
            Address::Hub { .. } => self.list_hub().await?,
        };
        let stated = listing.items.iter().filter_map(|item| item.bytes);
        if stated.fold(0, u64::saturating_add) > self.limits.bytes {
            return Err(too_large(self.limits));
        }
        if listing.items.len() > self.limits.files {
            return Err(too_many(self.limits));
        }
        Ok(listing)
    }

    /// Asks for the bytes of one file.
    pub async fn open(
        &mut self,
        place: &FileLocation,
        conditions: &Conditions,
    ) -> Result<Response, Error> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        let mut add = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.push((name, value));
            }
        };
        if let Some(from) = conditions.from {
            add(RANGE, format!("bytes={from}-"));
        }
        if let Some(tag) = &conditions.if_range {
            add(IF_RANGE, tag.clone());
        }
        if let Some(tag) = &conditions.if_none_match {
            add(IF_NONE_MATCH, tag.clone());
        }
        match place {
            FileLocation::Local(_) => Err(Error::local("a local file is not asked for over HTTP")),
            FileLocation::Web(url) => {
                let authorization = self.authorization()?;
                self.client
                    .get(&Get {
                        url,
                        authorization,
                        headers,
                    })
                    .await
            }
            FileLocation::Object(key) => {
                let url = self.object_url(key)?;
                self.client
                    .get(&Get {
                        headers,
                        ..Get::new(&url)
                    })
                    .await
            }
            FileLocation::Blob(digest) => self.open_blob(*digest, headers).await,
        }
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, Error> {
        self.secret.as_ref().map(Secret::header).transpose()
    }

    async fn document(&self, get: &Get<'_>) -> Result<Vec<u8>, Error> {
        let answer = self.client.get(get).await?;
        if answer.status != http::StatusCode::OK {
            return Err(refusal(&redacted(get.url), answer).await);
        }
        answer.body(MAX_DOCUMENT_BYTES).await
    }
}

/// The error for a response that is not a success.
pub async fn refusal(what: &str, answer: Response) -> Error {
    let status = answer.status.as_u16();
    let after = answer.header(&RETRY_AFTER);
    let after = after.and_then(|text| transfer::wait(&text, SystemTime::now()));
    let remedy = match status {
        401 | 403 => "; give credentials by credentials_env or credentials_file, or correct them",
        404 | 410 => "; correct the address",
        _ => "",
    };
    let said = answer.body(16 << 10).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said: String = said
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect();
    let said = match said.trim() {
        "" => String::new(),
        said => format!(" (`{said}`)"),
    };
    let message = format!("{what} answered {status}{said}{remedy}");
    match status {
        408 | 425 | 429 | 500..=599 => Error {
            after,
            ..Error::unreachable(message)
        },
        _ => Error::refused(message),
    }
}

fn file_name(url: &Url) -> String {
    let last = url
        .path_segments()
        .and_then(|mut parts| parts.rfind(|part| !part.is_empty()));
    let last = last.unwrap_or("model");
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = last.chars().map(plain).take(128).collect();
    name.trim_start_matches('.').to_owned()
}
