//! Making a version of the downloads: unpacking, checking signatures, and the checksum for pinning.

use super::task::Pull;
use crate::adapters::{FileLocation, Limits, Listing, refusal, too_large, too_many};
use crate::address::Address;
use crate::archive;
use crate::cache::{Blob, Downloaded, Known};
use crate::credentials::small_file;
use crate::digest::Digest;
use crate::error::Error;
use crate::http::Get;
use crate::signature;
use crate::transfer::Conditions;
use minisign_verify::PublicKey;
use std::collections::BTreeMap;
use std::path::Path;

impl Pull<'_> {
    /// Unpacks the downloads, and determines their checksum and signer.
    pub async fn make(&mut self, listing: &Listing, known: Option<&Known>) -> Result<Known, Error> {
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
            // The signature is checked before the archive is read.
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
            let what = match item.path.as_str() {
                "" => "a layer",
                path => path,
            };
            self.progress.step(&format!("unpacking {what}"));
            self.unpack(&path, form, left, &mut files)?;
            left = self
                .limits
                .bytes
                .saturating_sub(files.values().map(|blob| blob.bytes).sum());
            packed.push(one.blob.sha256);
        }
        if files.len() > self.limits.files {
            return Err(too_many(self.limits));
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
        // The archive's contents are in the cache, and the archive itself would be stored twice.
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

    /// Unpacks an archive into the cache and `files`. The contents may have `left` bytes.
    fn unpack(
        &self,
        path: &Path,
        form: archive::Form,
        left: u64,
        files: &mut BTreeMap<String, Blob>,
    ) -> Result<(), Error> {
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
        archive::unpack(path, form, limits, &mut sink).map_err(|e| {
            match e.message == too_large(limits).message {
                true => too_large(self.limits),
                false => e,
            }
        })?;
        Ok(())
    }

    /// The signature of a single file.
    async fn signature_text(&mut self) -> Result<String, Error> {
        let place = match (&self.source.signature, &self.source.from) {
            (Some(named), _) => match Address::parse(named)
                .map_err(|why| Error::local(format!("signature {why}")))?
            {
                Address::Path(path) => FileLocation::Local(self.puller.folder.join(path)),
                Address::Web(url) => FileLocation::Web(url),
                _ => return Err(Error::local("signature must be a file or an https URL")),
            },
            (None, Address::Path(path)) => {
                let mut name = path.clone().into_os_string();
                name.push(signature::ENDING);
                FileLocation::Local(name.into())
            }
            (None, Address::Web(url)) => {
                let mut url = url.clone();
                url.set_path(&format!("{}{}", url.path(), signature::ENDING));
                FileLocation::Web(url)
            }
            (None, Address::S3 { key, .. }) => {
                FileLocation::Object(format!("{key}{}", signature::ENDING))
            }
            (None, _) => return Err(Error::local("signature must name where the signature is")),
        };
        if let FileLocation::Local(path) = &place {
            return small_file(path)
                .map_err(|e| Error::io(format!("read its signature {}", path.display()), e));
        }
        // Credentials of the source must not go to another host that only has the signature.
        let own = match (&place, &self.source.from) {
            (FileLocation::Web(url), Address::Web(from)) => url.origin() == from.origin(),
            (FileLocation::Web(_), _) => false,
            _ => true,
        };
        let answer = match (&place, own) {
            (FileLocation::Web(url), false) => self.puller.client.get(&Get::new(url)).await?,
            _ => self.adapter.open(&place, &Conditions::default()).await?,
        };
        if answer.status != http::StatusCode::OK {
            return Err(refusal("its signature", answer).await);
        }
        let text = answer.body(signature::MAX_BYTES).await?;
        String::from_utf8(text).map_err(|_| Error::refused("its signature is not text"))
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
                    "{} has a line that sha256sum does not write",
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
                        "{path} does not match {}",
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
}

/// The checksum of several files: that of the lines that `sha256sum` prints for them, sorted by path.
pub fn sum_of(files: &BTreeMap<String, Blob>) -> Digest {
    let lines: String = files
        .iter()
        .map(|(path, blob)| format!("{}  {path}\n", blob.sha256))
        .collect();
    Digest::of(lines.as_bytes())
}
