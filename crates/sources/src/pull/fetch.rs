//! Listing a source, and downloading the files that are missing.

use super::task::Pull;
use crate::adapters::{FileLocation, Item, Listing, refusal, too_large};
use crate::address::Address;
use crate::arrange::path_fault;
use crate::cache::{Blob, Downloaded, Known, Partial};
use crate::digest::Digest;
use crate::error::Error;
use crate::plan::Remote;
use crate::retry::Tries;
use crate::settings::Source;
use crate::transfer::{self, Conditions, Part};

/// The end of one request for a file.
enum Ended {
    Unchanged,
    Forget,
    Complete { validator: Option<String> },
}

impl Pull<'_> {
    /// Asks the source for its files. Tries again after failures that may pass.
    pub async fn list(&mut self) -> Result<Listing, Error> {
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

    /// Decides which files of a listing have to be downloaded.
    pub fn listed(
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
        // The download of an archive is not kept, but its files are. So it need not be downloaded again if nothing
        // changed.
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
    pub async fn fetch(
        &mut self,
        item: &Item,
        before: Option<&Downloaded>,
    ) -> Result<Downloaded, Error> {
        if let FileLocation::Local(path) = &item.place {
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
            (Address::Web(_), FileLocation::Web(_)) => self.source.sha256,
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
                            "the server answered 304 (not modified) although no condition was sent",
                        ));
                    };
                    partial.remove();
                    return Ok(before.clone());
                }
                Ok(Ended::Forget) => {
                    partial.start_over(None)?;
                    tries = tries.and(false);
                    let error = Error::unreachable(format!(
                        "{} answers with another range than the requested one",
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
        partial: &mut Partial,
    ) -> Result<Ended, Error> {
        let mut answer = self.adapter.open(&item.place, asked).await?;
        let head = answer.head();
        let total = match transfer::judge(asked, part, &head) {
            transfer::Action::Unchanged => return Ok(Ended::Unchanged),
            transfer::Action::Forget => return Ok(Ended::Forget),
            transfer::Action::Complete => {
                return Ok(Ended::Complete {
                    validator: part.validator.clone(),
                });
            }
            transfer::Action::Retry | transfer::Action::Refused => {
                return Err(refusal(&shown(item, self.source), answer).await);
            }
            transfer::Action::Append { total } => total,
            transfer::Action::StartOver { total } => {
                if answer.is_page() {
                    return Err(Error::refused(format!(
                        "{} answers with a web page (text/html), not with a model; correct the address",
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
}

fn shown(item: &Item, source: &Source) -> String {
    match item.path.is_empty() || matches!(source.from, Address::Web(_)) {
        true => source.from.to_string(),
        false => format!("{} of {}", item.path, source.from),
    }
}
