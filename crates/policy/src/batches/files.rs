//! Stores, lists and deletes files, and deletes what has expired.

use super::entries::{FileRecord, Indexed, Kind, Names, ONE, PART_BYTES, owner};
use super::instance::Batches;
use super::words::{File, Listing, NewFile, Page, Purpose, Refusal, RefusalKind};
use crate::operations::period;
use crate::records::{decode, encode};
use crate::sweep::Removal;
use penstock_core::{FileId, Kv, KvError};

/// The most bytes that a counter may lack. A store that applies an operation and loses its reply, or an instance that dies, makes
/// counters inexact. Without this, one that is too small would be that of a tenant with too many bytes.
const LACKING: i64 = 1 << 38;
/// The most entries that a refused request sweeps: enough that a full tenant has room after some attempts.
const SWEPT_IF_FULL: u64 = 32;
/// The most batches over one file that a deletion looks at. A file that has as many must be uploaded again.
pub(super) const MAX_USES: u64 = 1_000;
/// The most hours of a list that are read in one operation of the store.
const HOURS_AT_ONCE: usize = 500;

/// A result, or a refusal for the caller. The store's own errors are apart.
pub(super) type Answer<T> = Result<Result<T, Refusal>, KvError>;

impl Batches {
    /// Stores a file that a client uploads.
    pub async fn upload<K: Kv>(
        &mut self,
        kv: &K,
        new: NewFile,
        (now_ms, random): (u64, u128),
    ) -> Answer<File> {
        let bytes = new.content.len() as u64;
        let limit = self.settings.max_file_bytes;
        if bytes > limit {
            let message = format!(
                "the file has {bytes} bytes; at most {limit} are stored (batches.max_file_bytes). Divide it into several"
            );
            return Ok(Err(Refusal::new(RefusalKind::TooLarge, message)));
        }
        let id = FileId::generate(now_ms, random);
        let names = Names::of_file(&id);
        let owner = owner(&new.tenant);
        // Refusals come before the first entry, so that they leave none.
        let used = kv.increment(&Kind::File.used(&owner), 0).await?;
        if let Some(message) = self.over(used.saturating_add(amount(bytes))) {
            let shard = random as u32;
            self.index
                .sweep(kv, shard, now_ms, SWEPT_IF_FULL, &mut RemoveStored)
                .await?;
            return Ok(Err(Refusal::new(RefusalKind::Full, message)));
        }
        let number = self
            .enlist(
                kv,
                Kind::File,
                (id.as_str(), &names, &owner),
                (now_ms, random),
            )
            .await?;
        if let Some(message) = self.charge_file(kv, &names, &owner, bytes).await? {
            let shard = random as u32;
            let mut removal = RemoveStored;
            self.index
                .sweep(kv, shard, now_ms, SWEPT_IF_FULL, &mut removal)
                .await?;
            return Ok(Err(Refusal::new(RefusalKind::Full, message)));
        }
        let record = FileRecord {
            tenant: new.tenant,
            owner,
            filename: new.filename,
            purpose: Purpose::Batch,
            bytes,
            created_ms: now_ms,
            number,
        };
        let parts = new.content.chunks(PART_BYTES).map(<[u8]>::to_vec);
        let mut written: Vec<(String, Vec<u8>)> = (0..)
            .zip(parts)
            .map(|(part, bytes)| (names.part(part), bytes))
            .collect();
        // The record comes last: a file with a record has its content.
        written.push((names.head(), encode(&record)));
        kv.set_many(&written).await?;
        Ok(Ok(self.described(id, record)))
    }

    /// Writes the entries by which a file or a batch is swept and listed. They come first, so that the sweep finds the entries of an
    /// instance that dies. Returns its number in its hour.
    pub(super) async fn enlist<K: Kv>(
        &mut self,
        kv: &K,
        kind: Kind,
        (id, names, owner): (&str, &Names, &str),
        (now_ms, random): (u64, u128),
    ) -> Result<u64, KvError> {
        let mut removal = RemoveStored;
        let place = self
            .index
            .place(kv, period(now_ms), now_ms, random as u64, &mut removal)
            .await?;
        let made = kv.increment(&kind.made(names.hour, owner), 1).await?;
        let number = u64::try_from(made).unwrap_or(0).saturating_sub(1);
        let indexed = Indexed {
            kind,
            id: id.to_owned(),
            owner: owner.to_owned(),
            number,
        };
        let listed = kind.listed(names.hour, owner, number);
        kv.set_many(&[(place, indexed.encode()), (listed, id.as_bytes().to_vec())])
            .await?;
        Ok(number)
    }

    /// Charges the owner a file, once. Returns the sentence for the caller if it has too many; then nothing stays charged.
    async fn charge_file<K: Kv>(
        &self,
        kv: &K,
        names: &Names,
        owner: &str,
        bytes: u64,
    ) -> Result<Option<String>, KvError> {
        let sum = charge(kv, names, owner, bytes).await?;
        let message = self.over(sum);
        if message.is_some() {
            give_back(kv, names, owner, bytes).await?;
        }
        Ok(message)
    }

    /// Returns the sentence for the caller if a sum of files and bytes is over the limits of a tenant.
    pub(super) fn over(&self, sum: i64) -> Option<String> {
        let shifted = sum.saturating_add(LACKING);
        let count = u64::try_from(shifted.div_euclid(ONE)).unwrap_or(0);
        let stored = u64::try_from(shifted.rem_euclid(ONE) - LACKING).unwrap_or(0);
        let settings = &self.settings;
        let what = if count > settings.max_files_per_tenant {
            format!("{} files", settings.max_files_per_tenant)
        } else if stored > settings.max_bytes_per_tenant {
            format!("{} bytes of files", settings.max_bytes_per_tenant)
        } else {
            return None;
        };
        Some(format!(
            "your tenant has {what}, the limit; delete some with DELETE /v1/files/{{id}}, or wait until they expire"
        ))
    }

    /// Publishes a file of results whose parts are written. A repeated attempt changes nothing.
    pub(super) async fn publish<K: Kv>(
        &mut self,
        kv: &K,
        id: &FileId,
        (tenant, filename, bytes): (&str, String, u64),
        number: u64,
    ) -> Result<(), KvError> {
        let names = Names::of_file(id);
        let owner = owner(tenant);
        if !kv.exists(&names.charged()).await? {
            // Results are never refused: the batch was admitted.
            charge(kv, &names, &owner, bytes).await?;
        }
        let record = FileRecord {
            tenant: tenant.to_owned(),
            owner,
            filename,
            purpose: Purpose::BatchOutput,
            bytes,
            created_ms: id.unix_ms(),
            number,
        };
        kv.set(&names.head(), &encode(&record)).await
    }

    pub(super) fn described(&self, id: FileId, record: FileRecord) -> File {
        File {
            id,
            filename: record.filename,
            purpose: record.purpose,
            bytes: record.bytes,
            created_ms: record.created_ms,
            expires_ms: (record.created_ms)
                .saturating_add(self.settings.result_ttl_s.saturating_mul(1_000)),
        }
    }

    /// Reads a file of a tenant; `None` if there is none, it was deleted or it has expired.
    pub(super) async fn find_file<K: Kv>(
        &self,
        kv: &K,
        id: &FileId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<(File, FileRecord)>, KvError> {
        let names = Names::of_file(id);
        let many = kv.read_many(&[names.head(), names.deleted()], 1).await?;
        let deleted = many.counters.first() == Some(&true);
        let head = many.values.into_iter().next().flatten();
        let record = head.as_deref().and_then(decode::<FileRecord>);
        let record = record.filter(|record| !deleted && record.tenant == tenant);
        Ok(record.and_then(|record| {
            let file = self.described(id.clone(), record.clone());
            (file.expires_ms > now_ms).then_some((file, record))
        }))
    }

    /// Reads a file of a tenant, without its content.
    pub async fn file<K: Kv>(
        &self,
        kv: &K,
        id: &FileId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<File>, KvError> {
        let found = self.find_file(kv, id, tenant, now_ms).await?;
        Ok(found.map(|(file, _)| file))
    }

    /// Reads the content of a file of a tenant.
    pub async fn content<K: Kv>(
        &self,
        kv: &K,
        id: &FileId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Vec<u8>>, KvError> {
        let Some((_, record)) = self.find_file(kv, id, tenant, now_ms).await? else {
            return Ok(None);
        };
        let names = Names::of_file(id);
        let mut content = Vec::with_capacity(record.bytes as usize);
        for part in 0..parts(record.bytes) {
            let bytes = kv.get(&names.part(part)).await?;
            content.extend(bytes.ok_or_else(|| KvError::new("a part of a file is missing"))?);
        }
        Ok(Some(content))
    }

    /// Deletes a file of a tenant. Returns it as it was.
    pub async fn delete_file<K: Kv>(
        &self,
        kv: &K,
        id: &FileId,
        tenant: &str,
        now_ms: u64,
    ) -> Answer<Option<File>> {
        let Some((file, record)) = self.find_file(kv, id, tenant, now_ms).await? else {
            return Ok(Ok(None));
        };
        let names = Names::of_file(id);
        // The mark comes before the look: a batch that begins now sees it, or is seen.
        kv.set(&names.deleted(), b"1").await?;
        if let Some(batch) = self.reader_of(kv, &names, now_ms).await? {
            kv.delete(&names.deleted()).await?;
            return Ok(Err(Refusal::new(
                RefusalKind::NotNow,
                format!(
                    "the batch {batch} reads this file; cancel it with POST /v1/batches/{batch}/cancel, or wait for its end"
                ),
            )));
        }
        remove_parts(kv, &names).await?;
        give_back(kv, &names, &record.owner, record.bytes).await?;
        kv.delete(&Kind::File.listed(names.hour, &record.owner, record.number))
            .await?;
        Ok(Ok(Some(file)))
    }

    /// Lists the files of a tenant.
    pub async fn files<K: Kv>(
        &self,
        kv: &K,
        tenant: &str,
        page: &Page,
        purpose: Option<Purpose>,
        now_ms: u64,
    ) -> Answer<Listing<File>> {
        let after = match &page.after {
            None => None,
            Some(after) => {
                let id = FileId::parse(after);
                let head = match &id {
                    Some(id) => kv.get(&Names::of_file(id).head()).await?,
                    None => None,
                };
                // A file that was deleted or has expired since still names a place.
                let record = head.as_deref().and_then(decode::<FileRecord>);
                let record = record.filter(|record| record.tenant == tenant);
                let (Some(id), Some(record)) = (id, record) else {
                    return Ok(Err(no_such_place(after)));
                };
                Some((Names::of_file(&id).hour, record.number))
            }
        };
        let owner = owner(tenant);
        let mut listing = Listing {
            data: Vec::new(),
            has_more: false,
        };
        let mut places = self
            .places(kv, Kind::File, &owner, (page, after), now_ms)
            .await?;
        while let Some((name, number)) = places.next_place(&owner, Kind::File) {
            let Some(id) = kv.get(&name).await? else {
                continue;
            };
            let id = std::str::from_utf8(&id).ok().and_then(FileId::parse);
            let Some(id) = id else { continue };
            let found = self.find_file(kv, &id, tenant, now_ms).await?;
            // A repeated attempt to write results has a place of its own in the list.
            let Some((file, _)) = found.filter(|(file, record)| {
                record.number == number && purpose.is_none_or(|wanted| wanted == file.purpose)
            }) else {
                continue;
            };
            if listing.data.len() >= page.most as usize {
                listing.has_more = true;
                break;
            }
            listing.data.push(file);
        }
        Ok(Ok(listing))
    }

    /// The places of a list, in order.
    pub(super) async fn places<K: Kv>(
        &self,
        kv: &K,
        kind: Kind,
        owner: &str,
        (page, after): (&Page, Option<(u64, u64)>),
        now_ms: u64,
    ) -> Result<Places, KvError> {
        let newest = period(now_ms) + 1;
        let oldest = period(now_ms.saturating_sub(self.settings.keep_ms()));
        let mut hours: Vec<u64> = (oldest..=newest).collect();
        if !page.oldest_first {
            hours.reverse();
        }
        let mut found = Vec::new();
        for some in hours.chunks(HOURS_AT_ONCE) {
            let names: Vec<String> = some.iter().map(|hour| kind.made(*hour, owner)).collect();
            let exist = kv.read_many(&names, 0).await?.counters;
            for ((hour, name), _) in some
                .iter()
                .zip(names)
                .zip(exist)
                .filter(|(_, exists)| *exists)
            {
                let count = kv.increment(&name, 0).await?;
                found.push((*hour, u64::try_from(count).unwrap_or(0)));
            }
        }
        Ok(Places::new(found, page.oldest_first, after))
    }
}

/// The refusal of a list that begins after an entry that does not exist.
pub(super) fn no_such_place(after: &str) -> Refusal {
    let short: String = after.chars().take(64).collect();
    Refusal::new(
        RefusalKind::NoSuchFile,
        format!(
            "there is nothing with the id `{}` to begin after; give the `last_id` of the page before, or leave `after` out",
            short.escape_debug()
        ),
    )
}

/// The places of a list that are still to be read: hours, and the numbers in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Each hour, and the range of its numbers; the next one last.
    left: Vec<(u64, u64, u64)>,
    oldest_first: bool,
}

impl Places {
    fn new(hours: Vec<(u64, u64)>, oldest_first: bool, after: Option<(u64, u64)>) -> Self {
        let range = |(hour, count): (u64, u64)| match after {
            Some((at, number)) if at == hour && oldest_first => {
                (hour, number.saturating_add(1), count)
            }
            Some((at, number)) if at == hour => (hour, 0, number.min(count)),
            Some((at, _)) if (at < hour) != oldest_first => (hour, 0, 0),
            _ => (hour, 0, count),
        };
        let mut left: Vec<(u64, u64, u64)> = hours.into_iter().map(range).collect();
        left.reverse();
        Self { left, oldest_first }
    }

    /// The next number, with its hour.
    fn next(&mut self) -> Option<(u64, u64)> {
        while let Some((hour, from, to)) = self.left.last_mut() {
            if from >= to {
                self.left.pop();
                continue;
            }
            let number = match self.oldest_first {
                true => {
                    *from += 1;
                    *from - 1
                }
                false => {
                    *to -= 1;
                    *to
                }
            };
            return Some((*hour, number));
        }
        None
    }

    /// The name of the next place, and its number.
    pub fn next_place(&mut self, owner: &str, kind: Kind) -> Option<(String, u64)> {
        let (hour, number) = self.next()?;
        Some((kind.listed(hour, owner, number), number))
    }
}

/// The number of parts of a file.
pub(super) fn parts(bytes: u64) -> u64 {
    bytes.div_ceil(PART_BYTES as u64)
}

/// Charges the owner a file. Returns the sum.
async fn charge<K: Kv>(kv: &K, names: &Names, owner: &str, bytes: u64) -> Result<i64, KvError> {
    kv.increment(&names.charged(), 1).await?;
    kv.increment(&Kind::File.used(owner), amount(bytes)).await
}

/// Returns the charge of a file, once.
async fn give_back<K: Kv>(kv: &K, names: &Names, owner: &str, bytes: u64) -> Result<(), KvError> {
    if kv.exists(&names.charged()).await? && kv.increment(&names.returned(), 1).await? == 1 {
        kv.increment(&Kind::File.used(owner), -amount(bytes))
            .await?;
    }
    Ok(())
}

fn amount(bytes: u64) -> i64 {
    ONE + i64::try_from(bytes).unwrap_or(i64::MAX - ONE)
}

/// Deletes the parts of a file. The last ones go first: a removal that is repeated finds the rest.
async fn remove_parts<K: Kv>(kv: &K, names: &Names) -> Result<(), KvError> {
    let mut count = 0;
    while kv.exists(&names.part(count)).await? {
        count += 1;
    }
    for part in (0..count).rev() {
        kv.delete(&names.part(part)).await?;
    }
    Ok(())
}

/// Deletes a file or a batch that the index names.
pub(super) struct RemoveStored;

impl<K: Kv> Removal<K> for RemoveStored {
    async fn remove(&mut self, kv: &K, _bucket: u64, value: &[u8]) -> Result<(), KvError> {
        // No release writes another entry, so it cannot be interpreted.
        let Some(indexed) = Indexed::decode(value) else {
            return Ok(());
        };
        let Some(names) = indexed.names() else {
            return Ok(());
        };
        let Indexed {
            kind,
            owner,
            number,
            ..
        } = &indexed;
        match kind {
            Kind::File => {
                let head = kv.get(&names.head()).await?;
                let record = head.as_deref().and_then(decode::<FileRecord>);
                remove_parts(kv, &names).await?;
                give_back(kv, &names, owner, record.map_or(0, |record| record.bytes)).await?;
                let mut uses = 1;
                while kv.exists(&names.used_by(uses)).await? {
                    uses += 1;
                }
                for number in (1..uses).rev() {
                    kv.delete(&names.used_by(number)).await?;
                }
            }
            Kind::Batch => end_live(kv, &names, owner).await?,
        }
        kv.delete(&kind.listed(names.hour, owner, *number)).await?;
        kv.delete(&kind.made(names.hour, owner)).await?;
        for name in [
            names.uses(),
            names.cancel(),
            names.newest(),
            names.head(),
            names.deleted(),
            names.charged(),
            names.returned(),
        ] {
            kv.delete(&name).await?;
        }
        Ok(())
    }
}

/// Counts a batch among those that are not over.
pub(super) async fn begin_live<K: Kv>(kv: &K, names: &Names, owner: &str) -> Result<i64, KvError> {
    kv.increment(&names.charged(), 1).await?;
    kv.increment(&Kind::Batch.used(owner), 1).await
}

/// Counts a batch that is over no longer, once.
pub(super) async fn end_live<K: Kv>(kv: &K, names: &Names, owner: &str) -> Result<(), KvError> {
    if kv.exists(&names.charged()).await? && kv.increment(&names.returned(), 1).await? == 1 {
        kv.increment(&Kind::Batch.used(owner), -1).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_after_any_entry_in_both_orders() {
        let hours = vec![(5, 2), (7, 0), (9, 3)];
        let all = [(5, 0), (5, 1), (9, 0), (9, 1), (9, 2)];
        for oldest_first in [true, false] {
            let (mut hours, mut all) = (hours.clone(), all.to_vec());
            if !oldest_first {
                hours.reverse();
                all.reverse();
            }
            let rest = |after| {
                let mut places = Places::new(hours.clone(), oldest_first, after);
                std::iter::from_fn(|| places.next()).collect::<Vec<_>>()
            };
            assert_eq!(rest(None), all);
            for (at, place) in all.iter().enumerate() {
                assert_eq!(
                    rest(Some(*place)),
                    all[at + 1..],
                    "{oldest_first} {place:?}"
                );
            }
        }
    }
}
