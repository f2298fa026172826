//! One pull under way: its time, its lock, its pauses and the files it has so far.

use super::puller::Puller;
use crate::adapters::{Adapter, Limits};
use crate::cache::{Cache, Downloaded, Guard};
use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::progress::Progress;
use crate::retry::{self, Tries};
use crate::settings::Source;
use crate::signature;
use minisign_verify::PublicKey;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Tries in a row without progress, where an earlier pull can serve instead.
const TRIES_WITH_SUBSTITUTE: u32 = 2;

/// The pause between two tries to take a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// A pull of one version.
pub struct Pull<'a> {
    pub puller: &'a Puller,
    pub source: &'a Source,
    pub progress: &'a dyn Progress,
    pub until: Instant,
    pub key: String,
    pub signature_key: Option<PublicKey>,
    pub adapter: Adapter<'a>,
    pub limits: Limits,
    /// Files that were downloaded now or are known to be in the cache, by place in the listing.
    pub have: BTreeMap<usize, Downloaded>,
    /// Blobs that were hashed in this pull.
    pub hashed: BTreeSet<Digest>,
    pub fetched_bytes: u64,
    /// Whether installed or cached files may serve while the source is away.
    pub has_substitute: bool,
}

impl<'a> Pull<'a> {
    pub fn new(
        puller: &'a Puller,
        source: &'a Source,
        progress: &'a dyn Progress,
        until: Instant,
    ) -> Result<Self, Error> {
        let limits = Limits {
            bytes: puller.settings.max_bytes,
            files: puller.settings.max_files,
        };
        let key = source.signature_key.as_deref();
        Ok(Self {
            puller,
            source,
            progress,
            until,
            key: Puller::key(source),
            signature_key: key
                .map(|key| signature::key(key, &puller.folder))
                .transpose()?,
            adapter: Adapter::new(&puller.client, source, limits, &*puller.environment)?,
            limits,
            have: BTreeMap::new(),
            hashed: BTreeSet::new(),
            fetched_bytes: 0,
            has_substitute: false,
        })
    }

    pub fn cache(&self) -> &'a Cache {
        &self.puller.cache
    }

    pub fn check(&self) -> Result<(), Error> {
        if self.progress.cancelled() {
            return Err(stopped());
        }
        if Instant::now() >= self.until {
            return Err(Error::unreachable(
                "the time ran out (timeout_ms in [models.pull])",
            ));
        }
        Ok(())
    }

    /// Asks the source until the time for that is over. An earlier pull may serve even then.
    pub async fn in_time<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let left = self.until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, work(self)).await {
            Ok(result) => result,
            Err(_) => Err(Error::unreachable(format!(
                "it was not done within {} s (timeout_ms in [models.pull])",
                self.puller.settings.timeout().as_secs()
            ))),
        }
    }

    pub async fn lock(&self) -> Result<Guard, Error> {
        let mut told = false;
        loop {
            if let Some(guard) = self.cache().lock(&self.key)? {
                return Ok(guard);
            }
            if !told {
                self.progress
                    .step("waiting for another process that uses the cache");
                told = true;
            }
            self.check()?;
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    pub fn is_signed(&self, by: Option<&str>) -> bool {
        self.signature_key.is_some() && by.is_some() && by == self.source.signature_key.as_deref()
    }

    /// Waits before the next try, or gives up with the error.
    pub async fn again(&self, error: Error, tries: Tries) -> Result<(), Error> {
        self.check()?;
        let left = self.until.saturating_duration_since(Instant::now());
        let pause = match error.kind {
            Kind::Unreachable
                if self.has_substitute && tries.fruitless >= TRIES_WITH_SUBSTITUTE =>
            {
                None
            }
            Kind::Unreachable => retry::pause(tries, error.after, rand::random(), left),
            _ => None,
        };
        let Some(pause) = pause else {
            return Err(error);
        };
        self.progress.retry(&format!(
            "{error}; trying again in {:.1} s",
            pause.as_secs_f64()
        ));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

pub fn stopped() -> Error {
    Error::local("it was stopped")
}
