//! Performs the plan for one source.
//!
//! - `puller`: the settings and the cache that all pulls share;
//! - `task`: one pull under way;
//! - `fetch`: listing and downloading;
//! - `make`: unpacking and checking.

mod fetch;
mod make;
mod puller;
mod task;

pub use make::sum_of;
pub use puller::{Puller, cache_folder};

use crate::adapters::Listing;
use crate::arrange;
use crate::cache::Known;
use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::install::{self, Installed, Record};
use crate::plan::{self, CachedVersion, Made, Remote, Step, UpToDateReason, Wanted};
use crate::progress::Progress;
use crate::settings::Source;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};
use task::{Pull, stopped};

/// Most steps of one plan. At most six are needed, and a fault in the cache starts the plan again.
const MAX_STEPS: usize = 16;

/// The largest small text that is read to arrange files.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// The result of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The checksum for pinning: of the single file, or over all files.
    pub sha256: Digest,
    /// The reason that nothing was done, if so.
    pub kept: Option<UpToDateReason>,
    /// The result of the installation, if there was one.
    pub installed: Option<Installed>,
    /// Whether it came from the cache without asking the source.
    pub cached: bool,
    /// The reason that the source could not be asked, if so.
    pub offline: Option<String>,
    /// Bytes that came over the network or from the folder.
    pub fetched_bytes: u64,
    /// The commit or digest that the source states.
    pub identity: Option<String>,
    /// Whether its signature was checked.
    pub signed: bool,
    /// The names of the files in the version's folder.
    pub files: Vec<String>,
    /// Whether the model has a contract.
    pub has_contract: bool,
}

impl Puller {
    /// Pulls one version, and waits for it. Must not be called in an asynchronous task: it blocks.
    pub fn pull(&self, source: &Source, progress: &dyn Progress) -> Result<Outcome, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|e| Error::io("start a pull", e))?;
        let timeout = self.settings.timeout();
        let until = Instant::now() + timeout;
        runtime.block_on(async { Pull::new(self, source, progress, until)?.run().await })
    }
}

impl Pull<'_> {
    async fn run(&mut self) -> Result<Outcome, Error> {
        let _guard = self.lock().await?;
        let wanted = Wanted {
            pin: self.source.sha256,
            signed: self.signature_key.is_some(),
        };
        let (models, name, version) = (&self.puller.models, &self.source.name, self.source.version);
        let record = install::record(models, name, version);
        let installed = record.as_ref().map(|record| CachedVersion {
            pin: record.sha256,
            // A record of another source proves nothing for this one, and a pin proves everything.
            whole: (record.source == self.key || wanted.pin.is_some())
                && install::whole(models, name, version, record),
            signed: self.is_signed(record.signed_by.as_deref()),
        });
        let mut known = self.cache().known(&self.key);
        let mut remote = Remote::NotAsked;
        let mut listing = Listing::default();
        let mut made: Option<Known> = None;
        for _ in 0..MAX_STEPS {
            if self.progress.cancelled() {
                return Err(stopped());
            }
            let cached = known.as_ref().map(|known| CachedVersion {
                pin: known.pin,
                whole: known.files.values().all(|blob| self.cache().has(blob)),
                signed: self.is_signed(known.signed_by.as_deref()),
            });
            // An archive must be downloaded again to check a signature that was not checked when it came.
            let reusable = cached
                .as_ref()
                .is_some_and(|cached| cached.whole && (cached.signed || !wanted.signed));
            let what = made.as_ref().map(|made| Made {
                pin: made.pin,
                signed: self.is_signed(made.signed_by.as_deref()),
            });
            // If an earlier pull can serve instead, the wait for an absent source is short.
            let good = |held: &CachedVersion| serves(&wanted, held);
            self.has_substitute =
                installed.as_ref().is_some_and(good) || cached.as_ref().is_some_and(good);
            match plan::next(
                &wanted,
                installed.as_ref(),
                cached.as_ref(),
                &remote,
                what.as_ref(),
            ) {
                Step::Keep(kept) => {
                    if let Some(made) = &made {
                        self.cache().remember(&self.key, made)?;
                    }
                    let record = record
                        .as_ref()
                        .ok_or_else(|| Error::local("nothing is installed that could be kept"))?;
                    return Ok(Outcome {
                        kept: Some(kept),
                        offline: offline(&remote),
                        ..self.outcome(record)
                    });
                }
                Step::Ask => {
                    self.progress.step(&format!("asking {}", self.source.from));
                    match self.in_time(Self::list).await {
                        Ok(found) => {
                            listing = found;
                            remote = self.listed(&listing, known.as_ref(), reusable)?;
                        }
                        Err(error) => remote = failed(error)?,
                    }
                }
                Step::Fetch(missing) => {
                    let reusable = known.as_ref().filter(|_| reusable);
                    remote = self.fetch_all(missing, &listing, reusable).await?;
                }
                Step::Make => made = Some(self.make(&listing, known.as_ref()).await?),
                Step::Install => {
                    let made = made
                        .as_ref()
                        .ok_or_else(|| Error::local("nothing was made to install"))?;
                    self.cache().remember(&self.key, made)?;
                    return self.install(made, false, &remote);
                }
                Step::InstallCached => {
                    let found = known
                        .as_ref()
                        .ok_or_else(|| Error::local("nothing is in the cache to install"))?;
                    if self.is_sound(found) {
                        return self.install(found, true, &remote);
                    }
                    known = None;
                }
                Step::GiveUp(why) => return Err(given_up(&remote, why)),
            }
        }
        Err(Error::local(
            "it did not finish; remove the cache and pull again",
        ))
    }

    /// Checks the files of the cache. Damaged ones are removed.
    fn is_sound(&self, found: &Known) -> bool {
        self.progress.step("checking what is in the cache");
        let is_sound = found.files.values().all(|blob| self.cache().sound(blob));
        if !is_sound {
            self.progress
                .retry("a file in the cache was damaged; it was removed");
        }
        is_sound
    }

    /// Downloads the files at these places of the listing. Returns the next state of the source.
    async fn fetch_all(
        &mut self,
        missing: Vec<usize>,
        listing: &Listing,
        reusable: Option<&Known>,
    ) -> Result<Remote, Error> {
        for at in missing {
            let item = &listing.items[at];
            // "Unchanged" helps only if the result is still in the cache: for a single file all of its contents, for
            // several files the file itself.
            let before = reusable.and_then(|known| {
                let before = known.items.iter().find(|one| one.path == item.path)?;
                let helps = listing.single || self.cache().has(&before.blob);
                (item.sha256.is_none() && helps).then_some(before)
            });
            let fetching = async |pull: &mut Self| pull.fetch(item, before).await;
            match self.in_time(fetching).await {
                Ok(downloaded) => {
                    self.have.insert(at, downloaded);
                }
                Err(error) => return failed(error),
            }
        }
        Ok(Remote::Listed {
            pin: listing.pin,
            missing: Vec::new(),
        })
    }

    fn outcome(&self, record: &Record) -> Outcome {
        let folder = self.puller.models.join(&self.source.name);
        Outcome {
            sha256: record.sha256,
            kept: None,
            installed: None,
            cached: false,
            offline: None,
            fetched_bytes: self.fetched_bytes,
            identity: record.identity.clone(),
            signed: record.signed_by.is_some(),
            files: record.files.keys().cloned().collect(),
            has_contract: folder.join("model.toml").is_file(),
        }
    }

    fn install(&self, made: &Known, cached: bool, remote: &Remote) -> Result<Outcome, Error> {
        let Source {
            name,
            version,
            graph,
            ..
        } = self.source;
        let paths: Vec<&str> = made.files.keys().map(String::as_str).collect();
        let text = |path: &str| {
            let blob = made
                .files
                .get(path)
                .filter(|blob| blob.bytes <= MAX_TEXT_BYTES)?;
            std::fs::read_to_string(self.cache().blob(blob.sha256)).ok()
        };
        let arranged =
            arrange::arrange(&paths, *version, graph.as_deref(), &text).map_err(Error::refused)?;
        let used = arranged.version.values().chain(arranged.beside.values());
        for blob in used.filter_map(|path| made.files.get(path)) {
            // A blob of an earlier pull may have changed since it was stored under its checksum.
            if !cached && !self.hashed.contains(&blob.sha256) && !self.cache().sound(blob) {
                return Err(Error::local(
                    "a file in the cache was damaged; it was removed. Pull again",
                ));
            }
        }
        let record = Record {
            from: made.from.clone(),
            source: self.key.clone(),
            sha256: made.pin,
            identity: made.identity.clone(),
            signed_by: made.signed_by.clone(),
            pulled_s: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            files: BTreeMap::new(),
            beside: BTreeMap::new(),
        };
        self.progress
            .step(&format!("installing {name} version {version}"));
        let models = &self.puller.models;
        let installed = install::install(
            models,
            name,
            *version,
            self.cache(),
            &arranged,
            &made.files,
            record,
        )?;
        let record = install::record(models, name, *version)
            .ok_or_else(|| Error::local("the version is not where it was installed"))?;
        Ok(Outcome {
            installed: Some(installed),
            cached,
            offline: offline(remote),
            ..self.outcome(&record)
        })
    }
}

/// Returns whether a version on this machine is one that the operator wants.
fn serves(wanted: &Wanted, held: &CachedVersion) -> bool {
    held.whole && wanted.pin.is_none_or(|pin| pin == held.pin) && (held.signed || !wanted.signed)
}

fn given_up(remote: &Remote, why: String) -> Error {
    match remote {
        Remote::Unreachable(_) => Error::unreachable(why),
        _ => Error::refused(why),
    }
}

fn offline(remote: &Remote) -> Option<String> {
    match remote {
        Remote::Unreachable(why) => Some(why.clone()),
        _ => None,
    }
}

fn failed(error: Error) -> Result<Remote, Error> {
    match error.kind {
        Kind::Unreachable => Ok(Remote::Unreachable(error.message)),
        Kind::Refused => Ok(Remote::Refused(error.message)),
        Kind::Local => Err(error),
    }
}
