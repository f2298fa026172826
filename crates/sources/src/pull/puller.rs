//! The settings and the cache that all pulls of one server share.

use crate::address::Address;
use crate::cache::Cache;
use crate::credentials::Environment;
use crate::digest::Digest;
use crate::error::Error;
use crate::http::Client;
use crate::settings::{PullSettings, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Pulls models into one folder.
#[derive(Clone)]
pub struct Puller {
    pub(super) models: PathBuf,
    pub(super) cache: Cache,
    pub(super) client: Client,
    pub(super) settings: PullSettings,
    /// The folder that relative paths of key files start from.
    pub(super) folder: PathBuf,
    pub(super) environment: Arc<Environment>,
}

impl Puller {
    /// A puller into `models`. Relative paths of the settings start from `folder`; the cache is in `default_cache` if
    /// the settings name no other.
    pub fn new(
        models: &Path,
        default_cache: &Path,
        folder: &Path,
        settings: &PullSettings,
        environment: Arc<Environment>,
    ) -> Result<Self, Error> {
        let ca_file = settings.ca_file.as_ref().map(|file| folder.join(file));
        let idle = Duration::from_millis(settings.idle_timeout_ms);
        Ok(Self {
            models: models.to_owned(),
            cache: Cache::open(&cache_folder(settings, folder, default_cache))?,
            client: Client::new(ca_file.as_deref(), settings.allow_plain_http, idle)?,
            settings: settings.clone(),
            folder: folder.to_owned(),
            environment,
        })
    }

    /// Returns the cache of downloads.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The key of a source in the cache.
    pub fn key(source: &Source) -> String {
        // The query is part of the key: another signature of a URL may mean another file.
        let address = match &source.from {
            Address::Web(url) => url.to_string(),
            other => other.to_string(),
        };
        let endpoint = source.endpoint.as_deref().unwrap_or_default();
        let graph = source.graph.as_deref().unwrap_or_default();
        let all = format!("{address}\n{endpoint}\n{graph}");
        Digest::of(all.as_bytes()).to_string()[..32].to_owned()
    }
}

/// Returns the folder of the cache: the configured one, or `default`.
pub fn cache_folder(settings: &PullSettings, folder: &Path, default: &Path) -> PathBuf {
    match &settings.cache {
        Some(named) => folder.join(named),
        None => default.to_owned(),
    }
}
