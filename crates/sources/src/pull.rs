//! Performs the plan for one source.

use crate::adapters::{Adapter, Item, Limits, Listing, Place, refusal, too_large};
use crate::address::Address;
use crate::archive;
use crate::arrange::{self, path_fault};
use crate::cache::{Blob, Cache, Downloaded, Guard, Known};
use crate::credentials::Environment;
use crate::digest::Digest;
use crate::error::{Error, Kind};
use crate::http::Client;
use crate::install::{self, Installed, Record};
use crate::plan::{self, Held, Kept, Made, Remote, Step, Wanted};
use crate::progress::Progress;
use crate::retry::{self, Tries};
use crate::settings::{PullSettings, Source};
use crate::signature;
use crate::transfer::{self, Conditions, Part};
use minisign_verify::PublicKey;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Steps of one plan; six are the most that are needed, and a fault in the cache starts it again.
const MAX_STEPS: usize = 16;
/// Tries in a row that bring nothing, where what was pulled before may serve.
const TRIES_WITH_SUBSTITUTE: u32 = 2;
/// Between two looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// The largest small text that is read to arrange files.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Pulls models into one folder.
#[derive(Clone)]
pub struct Puller {
    models: PathBuf,
    cache: Cache,
    client: Client,
    settings: PullSettings,
    /// Relative files of keys are in it.
    folder: PathBuf,
    environment: Arc<Environment>,
}

/// What became of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its sum, for pinning.
    pub sha256: Digest,
    /// Why nothing was done, where nothing was.
    pub kept: Option<Kept>,
    /// What was installed, where something was.
    pub installed: Option<Installed>,
    /// Whether it came from the cache, without a look at the source.
    pub cached: bool,
    /// Why the source was not asked, where it could not be.
    pub offline: Option<String>,
    /// Bytes that came over the network or from the folder.
    pub fetched_bytes: u64,
    /// Its commit or digest.
    pub identity: Option<String>,
    /// Whether its signature was checked.
    pub signed: bool,
    /// Files of the version.
    pub files: Vec<String>,
    /// Whether the model has a contract.
    pub has_contract: bool,
}

impl Puller {
    /// A puller into `models`. Relative paths of the settings are in `folder`; the cache is in `default_cache` where the
    /// settings name no other.
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

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

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

    /// Under which key the cache knows a source.
    pub fn key(source: &Source) -> String {
        // With the query: another signature of a URL may mean another file.
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

/// Where the cache is.
pub fn cache_folder(settings: &PullSettings, folder: &Path, default: &Path) -> PathBuf {
    match &settings.cache {
        Some(named) => folder.join(named),
        None => default.to_owned(),
    }
}

struct Pull<'a> {
    puller: &'a Puller,
    source: &'a Source,
    progress: &'a dyn Progress,
    until: Instant,
    key: String,
    signature_key: Option<PublicKey>,
    adapter: Adapter<'a>,
    limits: Limits,
    /// What was downloaded now or is known to be in the cache, by place in the listing.
    have: BTreeMap<usize, Downloaded>,
    /// Blobs that were hashed in this pull.
    hashed: BTreeSet<Digest>,
    fetched_bytes: u64,
    /// Whether what is installed or cached may serve while the source is away.
    has_substitute: bool,
}

impl<'a> Pull<'a> {
    fn new(
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

    fn cache(&self) -> &'a Cache {
        &self.puller.cache
    }

    fn check(&self) -> Result<(), Error> {
        if self.progress.cancelled() {
            return Err(stopped());
        }
        if Instant::now() >= self.until {
            return Err(Error::unreachable(
                "its time ran out (timeout_ms in [models.pull])",
            ));
        }
        Ok(())
    }

    /// Asks the source, until the time for that is over; what was pulled before may serve even then.
    async fn in_time<T>(
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

    async fn lock(&self) -> Result<Guard, Error> {
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

    async fn run(&mut self) -> Result<Outcome, Error> {
        let _guard = self.lock().await?;
        let wanted = Wanted {
            pin: self.source.sha256,
            signed: self.signature_key.is_some(),
        };
        let (models, name, version) = (&self.puller.models, &self.source.name, self.source.version);
        let record = install::record(models, name, version);
        let installed = record.as_ref().map(|record| Held {
            pin: record.sha256,
            // The record of another source says nothing of this one, and a pin says everything.
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
            let cached = known.as_ref().map(|known| Held {
                pin: known.pin,
                whole: known.files.values().all(|blob| self.cache().has(blob)),
                signed: self.is_signed(known.signed_by.as_deref()),
            });
            // An archive must be there once more to check a signature that nobody checked when it came.
            let reusable = cached
                .as_ref()
                .is_some_and(|cached| cached.whole && (cached.signed || !wanted.signed));
            let what = made.as_ref().map(|made| Made {
                pin: made.pin,
                signed: self.is_signed(made.signed_by.as_deref()),
            });
            // Where something may serve instead, a source that is away is not waited for long.
            let good = |held: &Held| {
                held.whole
                    && wanted.pin.is_none_or(|pin| pin == held.pin)
                    && (held.signed || !wanted.signed)
            };
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
                    let Some(record) = &record else {
                        return Err(Error::local("nothing is installed that could be kept"));
                    };
                    return Ok(Outcome {
                        kept: Some(kept),
                        offline: offline(&remote),
                        ..self.outcome(record)
                    });
                }
                Step::Ask => {
                    self.progress.step(&format!("asking {}", self.source.from));
                    match self.in_time(Self::adapter_list).await {
                        Ok(found) => {
                            listing = found;
                            remote = self.listed(&listing, known.as_ref(), reusable)?;
                        }
                        Err(error) => remote = failed(error)?,
                    }
                }
                Step::Fetch(missing) => {
                    let mut failure = None;
                    for at in missing {
                        let item = &listing.items[at];
                        // "Unchanged" helps where what came of it is still there: of one file, all of it; of several, itself.
                        let before = known.as_ref().filter(|_| reusable).and_then(|known| {
                            let before = known.items.iter().find(|one| one.path == item.path)?;
                            let helps = listing.single || self.cache().has(&before.blob);
                            (item.sha256.is_none() && helps).then_some(before)
                        });
                        let fetching = async |pull: &mut Self| pull.fetch(item, before).await;
                        match self.in_time(fetching).await {
                            Ok(downloaded) => {
                                self.have.insert(at, downloaded);
                            }
                            Err(error) => {
                                failure = Some(error);
                                break;
                            }
                        }
                    }
                    remote = match failure {
                        Some(error) => failed(error)?,
                        None => Remote::Listed {
                            pin: listing.pin,
                            missing: Vec::new(),
                        },
                    };
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
                    let Some(found) = &known else {
                        return Err(Error::local("nothing is in the cache to install"));
                    };
                    self.progress.step("checking what is in the cache");
                    let bad = found.files.values().any(|blob| !self.cache().sound(blob));
                    if bad {
                        self.progress
                            .retry("a file in the cache was damaged; it was removed");
                        known = None;
                        continue;
                    }
                    return self.install(found, true, &remote);
                }
                Step::GiveUp(why) => {
                    return Err(match &remote {
                        Remote::Unreachable(_) => Error::unreachable(why),
                        _ => Error::refused(why),
                    });
                }
            }
        }
        Err(Error::local(
            "it did not finish; remove the cache and pull again",
        ))
    }

    fn is_signed(&self, by: Option<&str>) -> bool {
        self.signature_key.is_some() && by.is_some() && by == self.source.signature_key.as_deref()
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

    /// Asks the source for its files. Tries again after failures that may pass.
    async fn adapter_list(&mut self) -> Result<Listing, Error> {
        let mut tries = Tries::default();
        loop {
            let error = match self.adapter.list().await {
                Ok(listing) => {
                    for item in listing
                        .items
                        .iter()
                        .filter(|item| !(item.archive && item.path.is_empty()))
                    {
                        if let Some(fault) = path_fault(&item.path) {
                            let shown: String = item
                                .path
                                .chars()
                                .take(100)
                                .filter(|c| !c.is_control())
                                .collect();
                            return Err(Error::refused(format!(
                                "it has a file `{shown}`, which is not accepted: {fault}"
                            )));
                        }
                    }
                    return Ok(listing);
                }
                Err(error) => error,
            };
            tries = tries.and(false);
            self.again(error, tries).await?;
        }
    }

    /// Waits before the next try, or gives up with the error.
    async fn again(&self, error: Error, tries: Tries) -> Result<(), Error> {
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

    /// Which files of a listing have to be downloaded.
    fn listed(
        &mut self,
        listing: &Listing,
        known: Option<&Known>,
        whole: bool,
    ) -> Result<Remote, Error> {
        let same = |item: &Item| -> Option<&Downloaded> {
            let mut known = known.into_iter().flat_map(|known| &known.items);
            known.find(|one| {
                let same = match item.sha256 {
                    Some(sum) => sum == one.blob.sha256,
                    None => item.validator.is_some() && item.validator == one.validator,
                };
                one.path == item.path && same
            })
        };
        let mut missing = Vec::new();
        self.have.clear();
        // The download of an archive is not kept, and what came out of it is. So it need not come again where nothing changed.
        let all: Option<Vec<&Downloaded>> = listing.items.iter().map(same).collect();
        if let Some(all) = all.filter(|all| whole && !all.is_empty()) {
            self.have = all.into_iter().cloned().enumerate().collect();
            let pin = listing.pin;
            return Ok(Remote::Listed { pin, missing });
        }
        for (at, item) in listing.items.iter().enumerate() {
            if let Some(same) = same(item).filter(|same| self.cache().has(&same.blob)) {
                self.have.insert(at, same.clone());
                continue;
            }
            let stated = item.sha256.and_then(|sum| {
                Some(Blob {
                    sha256: sum,
                    bytes: self.cache().size(sum)?,
                })
            });
            match stated {
                Some(blob) if self.cache().sound(&blob) => {
                    let (path, validator) = (item.path.clone(), item.validator.clone());
                    self.have.insert(
                        at,
                        Downloaded {
                            path,
                            validator,
                            blob,
                        },
                    );
                }
                _ => missing.push(at),
            }
        }
        Ok(Remote::Listed {
            pin: listing.pin,
            missing,
        })
    }

    /// Gets one file into the cache.
    async fn fetch(
        &mut self,
        item: &Item,
        before: Option<&Downloaded>,
    ) -> Result<Downloaded, Error> {
        if let Place::Local(path) = &item.place {
            self.progress.step(&format!("reading {}", path.display()));
            let mut from = std::fs::File::open(path)
                .map_err(|e| Error::io(format!("read {}", path.display()), e))?;
            let blob = self.cache().keep(&mut from)?;
            self.fetched_bytes += blob.bytes;
            self.hashed.insert(blob.sha256);
            return Ok(Downloaded {
                path: item.path.clone(),
                validator: item.validator.clone(),
                blob,
            });
        }
        let place = format!("{}\n{:?}", self.key, item.place);
        let mut partial = self
            .cache()
            .partial(&Digest::of(place.as_bytes()).to_string()[..32])?;
        let cached = before.and_then(|before| before.validator.clone());
        let expected = item.sha256.or(match (&self.source.from, &item.place) {
            // A pin of one file is the sum of the download.
            (Address::Web(_), Place::Web(_)) => self.source.sha256,
            _ => None,
        });
        let mut tries = Tries::default();
        let mut resumed = partial.bytes() > 0;
        loop {
            self.check()?;
            let part = Part {
                bytes: partial.bytes(),
                validator: partial.validator().map(str::to_owned),
                immutable: item.immutable || item.sha256.is_some(),
            };
            let asked = transfer::conditions(&part, cached.as_deref());
            let ended = self.transfer(item, &part, &asked, &mut partial).await;
            match ended {
                Ok(Ended::Unchanged) => {
                    let Some(before) = before else {
                        return Err(Error::refused(
                            "the server says that nothing changed since nothing",
                        ));
                    };
                    partial.remove();
                    return Ok(before.clone());
                }
                Ok(Ended::Forget) => {
                    partial.start_over(None)?;
                    tries = tries.and(false);
                    let error = Error::unreachable(format!(
                        "{} answers with another range than was asked for",
                        self.source.from
                    ));
                    self.again(error, tries).await?;
                }
                Ok(Ended::Complete { validator }) => {
                    let sum = partial.sum();
                    if let Some(expected) = expected.filter(|expected| *expected != sum) {
                        let error = Error::refused(format!(
                            "{} has the SHA-256 {sum}, and {expected} was expected; nothing was installed",
                            shown(item, self.source)
                        ));
                        if !resumed {
                            partial.remove();
                            return Err(error);
                        }
                        // Its beginning may be of another state of the file, or was damaged.
                        self.progress
                            .retry("the parts do not fit together; starting over");
                        partial.start_over(None)?;
                        resumed = false;
                        continue;
                    }
                    let validator = item.validator.clone().or(validator);
                    let blob = self.cache().finish(partial)?;
                    self.hashed.insert(blob.sha256);
                    return Ok(Downloaded {
                        path: item.path.clone(),
                        validator,
                        blob,
                    });
                }
                Err(error) => {
                    let fruitful = partial.bytes() > part.bytes;
                    resumed |= partial.bytes() > 0;
                    if partial.bytes() > 0 {
                        partial.checkpoint()?;
                    }
                    tries = tries.and(fruitful);
                    self.again(error, tries).await?;
                }
            }
        }
    }

    /// One request for one file.
    async fn transfer(
        &mut self,
        item: &Item,
        part: &Part,
        asked: &Conditions,
        partial: &mut crate::cache::Partial,
    ) -> Result<Ended, Error> {
        let mut answer = self.adapter.open(&item.place, asked).await?;
        let head = answer.head();
        let total = match transfer::judge(asked, part, &head) {
            transfer::Answer::Unchanged => return Ok(Ended::Unchanged),
            transfer::Answer::Forget => return Ok(Ended::Forget),
            transfer::Answer::Complete => {
                return Ok(Ended::Complete {
                    validator: part.validator.clone(),
                });
            }
            transfer::Answer::Retry | transfer::Answer::Refused => {
                return Err(refusal(&shown(item, self.source), answer).await);
            }
            transfer::Answer::Append { total } => total,
            transfer::Answer::StartOver { total } => {
                if answer.is_page() {
                    return Err(Error::refused(format!(
                        "{} answers with a page for people (text/html), not with a model; correct the address",
                        shown(item, self.source)
                    )));
                }
                partial.start_over(head.validator.clone())?;
                total
            }
        };
        let total = total.or(item.bytes);
        let most = item
            .bytes
            .unwrap_or(self.limits.bytes)
            .min(self.limits.bytes);
        if total.is_some_and(|total| total > self.limits.bytes) {
            return Err(too_large(self.limits));
        }
        while let Some(chunk) = answer.chunk().await? {
            if partial.bytes() + chunk.len() as u64 > most {
                return Err(match item.bytes {
                    Some(stated) => Error::refused(format!(
                        "{} has more than the {stated} bytes that its source states",
                        shown(item, self.source)
                    )),
                    None => too_large(self.limits),
                });
            }
            partial.write(&chunk)?;
            self.fetched_bytes += chunk.len() as u64;
            self.progress.bytes(&item.path, partial.bytes(), total);
            self.check()?;
        }
        if total.is_some_and(|total| total != partial.bytes()) {
            return Err(Error::unreachable(format!(
                "{} ended after {} bytes",
                shown(item, self.source),
                partial.bytes()
            )));
        }
        Ok(Ended::Complete {
            validator: head.validator,
        })
    }

    /// Unpacks what was downloaded, and finds out its sum and who signed it.
    async fn make(&mut self, listing: &Listing, known: Option<&Known>) -> Result<Known, Error> {
        let items: Vec<Downloaded> = self.have.values().cloned().collect();
        let blobs = |items: &[Downloaded]| -> Vec<(String, Digest)> {
            items
                .iter()
                .map(|item| (item.path.clone(), item.blob.sha256))
                .collect()
        };
        // The same downloads make the same files.
        let same = known.filter(|known| {
            blobs(&known.items) == blobs(&items)
                && known.files.values().all(|blob| self.cache().has(blob))
        });
        let signed_before = same.is_some_and(|same| self.is_signed(same.signed_by.as_deref()));
        if let Some(same) = same.filter(|_| self.signature_key.is_none() || signed_before) {
            return Ok(Known {
                items,
                identity: listing.identity.clone(),
                ..same.clone()
            });
        }
        let single = items.first().filter(|_| listing.single).cloned();
        let mut signed_by = None;
        if let (Some(one), Some(key)) = (&single, &self.signature_key) {
            // Before anything reads it.
            let key = key.clone();
            let blob = self.cache().blob(one.blob.sha256);
            if !blob.is_file() {
                return Err(Error::refused(
                    "the archive it came from is no longer there to check its signature; prune the cache and pull again",
                ));
            }
            let text = self.signature_text().await?;
            signature::check(&key, &text, &blob)?;
            signed_by = self.source.signature_key.clone();
        }
        let mut files: BTreeMap<String, Blob> = BTreeMap::new();
        let mut packed = Vec::new();
        let mut left = self.limits.bytes;
        for (at, one) in &self.have {
            let item = &listing.items[*at];
            let path = self.cache().blob(one.blob.sha256);
            let form = match listing.single || item.archive {
                true => archive::form(&path).map_err(|e| Error::io("read the download", e))?,
                false => None,
            };
            let Some(form) = form else {
                if item.archive {
                    return Err(Error::refused(format!(
                        "its layer sha256:{} is not an archive",
                        one.blob.sha256
                    )));
                }
                files.insert(item.path.clone(), one.blob.clone());
                continue;
            };
            self.progress.step(&format!(
                "unpacking {}",
                if item.path.is_empty() {
                    "a layer"
                } else {
                    &item.path
                }
            ));
            let limits = Limits {
                bytes: left,
                ..self.limits
            };
            let mut sink = |path: &str, from: &mut dyn std::io::Read| {
                self.check()?;
                let blob = self.cache().keep(from)?;
                let count = blob.bytes;
                if files.insert(path.to_owned(), blob).is_some() {
                    return Err(Error::refused(format!("`{path}` is in it twice")));
                }
                Ok(count)
            };
            archive::unpack(&path, form, limits, &mut sink).map_err(|e| {
                match e.message == too_large(limits).message {
                    true => too_large(self.limits),
                    false => e,
                }
            })?;
            left = self
                .limits
                .bytes
                .saturating_sub(files.values().map(|blob| blob.bytes).sum());
            packed.push(one.blob.sha256);
        }
        if files.len() > self.limits.files {
            return Err(crate::adapters::too_many(self.limits));
        }
        if signed_by.is_none()
            && let Some(key) = self.signature_key.clone()
        {
            self.check_sums(&key, &files)?;
            signed_by = self.source.signature_key.clone();
        }
        let pin = match (listing.pin, &single) {
            (Some(pin), _) => pin,
            (None, Some(one)) => one.blob.sha256,
            (None, None) => sum_of(&files),
        };
        // What came out of an archive is in the cache; the archive would be the same once more.
        for sum in packed {
            if !files.values().any(|blob| blob.sha256 == sum) {
                self.cache().forget(sum);
            }
        }
        Ok(Known {
            from: self.source.from.to_string(),
            pin,
            identity: listing.identity.clone(),
            signed_by,
            items,
            files,
        })
    }

    /// The signature of a single file.
    async fn signature_text(&mut self) -> Result<String, Error> {
        let place = match (&self.source.signature, &self.source.from) {
            (Some(named), _) => match Address::parse(named)
                .map_err(|why| Error::local(format!("signature {why}")))?
            {
                Address::Path(path) => Place::Local(self.puller.folder.join(path)),
                Address::Web(url) => Place::Web(url),
                _ => return Err(Error::local("signature must be a file or an https URL")),
            },
            (None, Address::Path(path)) => {
                let mut name = path.clone().into_os_string();
                name.push(signature::ENDING);
                Place::Local(name.into())
            }
            (None, Address::Web(url)) => {
                let mut url = url.clone();
                url.set_path(&format!("{}{}", url.path(), signature::ENDING));
                Place::Web(url)
            }
            (None, Address::S3 { key, .. }) => Place::Object(format!("{key}{}", signature::ENDING)),
            (None, _) => return Err(Error::local("signature must name where the signature is")),
        };
        if let Place::Local(path) = &place {
            return crate::credentials::small_file(path)
                .map_err(|e| Error::io(format!("read its signature {}", path.display()), e));
        }
        // Credentials of the source must not go to another host that only has the signature.
        let own = match (&place, &self.source.from) {
            (Place::Web(url), Address::Web(from)) => url.origin() == from.origin(),
            (Place::Web(_), _) => false,
            _ => true,
        };
        let answer = match (&place, own) {
            (Place::Web(url), false) => self.puller.client.get(&crate::http::Get::new(url)).await?,
            _ => self.adapter.open(&place, &Conditions::default()).await?,
        };
        if answer.status != http::StatusCode::OK {
            return Err(refusal("its signature", answer).await);
        }
        let text = answer.body(signature::MAX_BYTES).await?;
        String::from_utf8(text).map_err(|_| Error::refused("its signature is not a string"))
    }

    /// Checks the signed list of sums of a model of several files.
    fn check_sums(&self, key: &PublicKey, files: &BTreeMap<String, Blob>) -> Result<(), Error> {
        let text = |name: &str| {
            let blob = files.get(name).ok_or_else(|| {
                Error::refused(format!(
                    "it has no {name}; a model of several files is signed by {} and {}",
                    signature::SUMS,
                    signature::SUMS_SIGNATURE
                ))
            })?;
            std::fs::read_to_string(self.cache().blob(blob.sha256))
                .map_err(|e| Error::io(format!("read {name}"), e))
        };
        let signed = text(signature::SUMS_SIGNATURE)?;
        let list = text(signature::SUMS)?;
        signature::check(
            key,
            &signed,
            &self.cache().blob(files[signature::SUMS].sha256),
        )?;
        let mut listed = BTreeMap::new();
        for line in list.lines().filter(|line| !line.is_empty()) {
            let pair = line.split_once([' ', '\t']);
            let pair = pair.and_then(|(sum, path)| {
                Some((path.trim_start_matches([' ', '*']), Digest::parse(sum)?))
            });
            let (path, sum) = pair.ok_or_else(|| {
                Error::refused(format!(
                    "{} has a line that is none of sha256sum's",
                    signature::SUMS
                ))
            })?;
            listed.insert(path.strip_prefix("./").unwrap_or(path), sum);
        }
        for (path, blob) in files {
            if path == signature::SUMS || path == signature::SUMS_SIGNATURE {
                continue;
            }
            match listed.get(path.as_str()) {
                Some(sum) if *sum == blob.sha256 => {}
                Some(_) => {
                    return Err(Error::refused(format!(
                        "{path} is not what {} says",
                        signature::SUMS
                    )));
                }
                None => {
                    return Err(Error::refused(format!(
                        "{path} is not in {}, which is signed",
                        signature::SUMS
                    )));
                }
            }
        }
        Ok(())
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
            // What another pull left here under the name of its sum may have changed since.
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

enum Ended {
    Unchanged,
    Forget,
    Complete { validator: Option<String> },
}

fn stopped() -> Error {
    Error::local("it was stopped")
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

fn shown(item: &Item, source: &Source) -> String {
    match item.path.is_empty() || matches!(source.from, Address::Web(_)) {
        true => source.from.to_string(),
        false => format!("{} of {}", item.path, source.from),
    }
}

/// The sum of several files: of the lines that `sha256sum` prints for them, sorted by path.
pub fn sum_of(files: &BTreeMap<String, Blob>) -> Digest {
    let lines: String = files
        .iter()
        .map(|(path, blob)| format!("{}  {path}\n", blob.sha256))
        .collect();
    Digest::of(lines.as_bytes())
}
