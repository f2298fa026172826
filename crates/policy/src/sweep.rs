//! Deletes entries that are no longer needed, on stores without a time to live.
//!
//! Time is divided into buckets. A caller that creates entries writes their common name into the index of the current
//! bucket. A bucket is *due* once it has been over for as long as its entries are needed. A caller that adds to the index
//! also deletes twice as many entries from a due bucket. So the store holds at most the entries created in that time and
//! two widths. This needs neither a background task nor a listing of the store.
//!
//! The width is part of the names. If entries outlive the process, it must not depend on a setting. The time for which
//! entries are needed may.
//!
//! Deleting is idempotent, and the cursor moves afterwards. A crash, a lost reply or two concurrent sweeps therefore repeat
//! work and leave nothing behind. The index has shards, so that busy callers rarely use the same one.

use penstock_core::{Kv, KvError};

/// Time after a bucket's end before it is swept, in milliseconds, because clocks differ and callers may be slow.
pub const MARGIN_MS: u64 = 60_000;

/// Slots that an instance takes at once after its first one. This saves operations of the store. An instance that ends
/// leaves fewer than this many slots empty.
const SLOTS_AT_ONCE: u64 = 16;

/// Most empty buckets that one sweep skips, so that a store unused for a year is swept step by step.
const MAX_EMPTY_BUCKETS: u32 = 64;

/// The index of one family of entries, with the memory of one instance.
#[derive(Debug)]
pub struct Index {
    /// The prefix of the names of the index.
    prefix: String,
    width_ms: u64,
    keep_ms: u64,
    shards: u32,
    lease: Option<Lease>,
    leased_before: bool,
    /// The time before which nothing in a shard is due, for each shard, as far as known.
    quiet_until_ms: Vec<u64>,
}

#[derive(Debug)]
struct Lease {
    bucket: u64,
    shard: u32,
    next: u64,
    end: u64,
}

/// The result of one sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries of the index that were removed.
    pub entries: u64,
}

impl Index {
    /// An index whose names begin with `prefix`. Entries are needed for `width_ms` after the bucket of their creation.
    pub fn new(prefix: impl Into<String>, width_ms: u64, shards: u32) -> Self {
        Self::keeping(prefix, width_ms, width_ms, shards)
    }

    /// An index with buckets of `width_ms`. Entries are needed for `keep_ms` after the end of the bucket of their creation.
    pub fn keeping(prefix: impl Into<String>, width_ms: u64, keep_ms: u64, shards: u32) -> Self {
        Self {
            prefix: prefix.into(),
            width_ms: width_ms.max(1),
            keep_ms,
            shards: shards.max(1),
            lease: None,
            leased_before: false,
            quiet_until_ms: vec![0; shards.max(1) as usize],
        }
    }

    /// The bucket of a time.
    pub fn bucket(&self, unix_ms: u64) -> u64 {
        unix_ms / self.width_ms
    }

    /// The time from which all entries of a bucket may be deleted.
    pub fn due_ms(&self, bucket: u64) -> u64 {
        (bucket + 1)
            .saturating_mul(self.width_ms)
            .saturating_add(self.keep_ms)
            .saturating_add(MARGIN_MS)
    }

    fn count_name(&self, bucket: u64, shard: u32) -> String {
        format!("{}/x/{bucket}/{shard}", self.prefix)
    }

    fn entry_name(&self, bucket: u64, shard: u32, slot: u64) -> String {
        format!("{}/x/{bucket}/{shard}/{slot}", self.prefix)
    }

    fn cursor_name(&self, shard: u32) -> String {
        format!("{}/x/{shard}", self.prefix)
    }

    /// Returns the name of a free place in the index of `bucket`, under which the caller writes the entry. Sweeps first if
    /// it takes new places; `remove` deletes the entries that belong to an index entry.
    pub async fn place<K: Kv>(
        &mut self,
        kv: &K,
        bucket: u64,
        unix_ms: u64,
        random: u64,
        remove: &mut impl Removal<K>,
    ) -> Result<String, KvError> {
        if !matches!(&self.lease, Some(l) if l.bucket == bucket && l.next < l.end) {
            // A new instance may serve only one request.
            let slots = if self.leased_before { SLOTS_AT_ONCE } else { 1 };
            let shard = (random % u64::from(self.shards)) as u32;
            self.sweep(kv, shard, unix_ms, 2 * slots, remove).await?;
            let end = kv
                .increment(&self.count_name(bucket, shard), slots as i64)
                .await?;
            let end = u64::try_from(end).unwrap_or(0);
            self.lease = Some(Lease {
                bucket,
                shard,
                next: end.saturating_sub(slots),
                end,
            });
            self.leased_before = true;
        }
        let lease = self.lease.as_mut().expect("taken above");
        let slot = lease.next;
        lease.next += 1;
        let (bucket, shard) = (lease.bucket, lease.shard);
        Ok(self.entry_name(bucket, shard, slot))
    }

    /// Deletes at most `budget` entries of one shard that are due.
    pub async fn sweep<K: Kv>(
        &mut self,
        kv: &K,
        shard: u32,
        unix_ms: u64,
        budget: u64,
        remove: &mut impl Removal<K>,
    ) -> Result<Swept, KvError> {
        let mut swept = Swept::default();
        let shard = shard % self.shards;
        if unix_ms < self.quiet_until_ms[shard as usize] {
            return Ok(swept);
        }
        let cursor_name = self.cursor_name(shard);
        let now = self.bucket(unix_ms);
        let cursor = kv.get(&cursor_name).await?.and_then(|v| parse_cursor(&v));
        // A wrong clock wrote a cursor ahead of the present. Do not sweep the present.
        let (mut bucket, mut slot) = match cursor {
            Some((bucket, slot)) if bucket <= now + 1 => (bucket, slot),
            _ => {
                // This creates the first entry of all, so nothing is older. Begin one bucket earlier, because clocks differ.
                let start = (now.saturating_sub(1), 0);
                kv.set(&cursor_name, &write_cursor(start)).await?;
                start
            }
        };
        let before = (bucket, slot);
        let mut left = budget;
        let mut passed = 0;
        while self.due_ms(bucket) <= unix_ms && left > 0 && passed < MAX_EMPTY_BUCKETS {
            let count_name = self.count_name(bucket, shard);
            let count = if kv.exists(&count_name).await? {
                u64::try_from(kv.increment(&count_name, 0).await?).unwrap_or(0)
            } else {
                0
            };
            while slot < count && left > 0 {
                let entry = self.entry_name(bucket, shard, slot);
                if let Some(value) = kv.get(&entry).await? {
                    remove.remove(kv, bucket, &value).await?;
                    kv.delete(&entry).await?;
                }
                slot += 1;
                left -= 1;
                swept.entries += 1;
            }
            if slot < count {
                break;
            }
            kv.delete(&count_name).await?;
            bucket += 1;
            slot = 0;
            passed += 1;
        }
        if (bucket, slot) != before {
            kv.set(&cursor_name, &write_cursor((bucket, slot))).await?;
        }
        self.quiet_until_ms[shard as usize] = self.due_ms(bucket);
        Ok(swept)
    }
}

/// Deletes the entries that belong to an index entry. Must be idempotent.
#[allow(async_fn_in_trait)]
pub trait Removal<K: Kv> {
    /// Deletes the entries that belong to `value`, registered in `bucket`.
    async fn remove(&mut self, kv: &K, bucket: u64, value: &[u8]) -> Result<(), KvError>;
}

/// A removal for index entries whose value is the only name to delete.
#[derive(Debug)]
pub struct DeleteNamed;

impl<K: Kv> Removal<K> for DeleteNamed {
    async fn remove(&mut self, kv: &K, _bucket: u64, value: &[u8]) -> Result<(), KvError> {
        match std::str::from_utf8(value) {
            Ok(name) => kv.delete(name).await,
            // No release writes such an entry, so it cannot be interpreted.
            Err(_) => Ok(()),
        }
    }
}

fn parse_cursor(value: &[u8]) -> Option<(u64, u64)> {
    let (bucket, slot) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((bucket.parse().ok()?, slot.parse().ok()?))
}

fn write_cursor((bucket, slot): (u64, u64)) -> Vec<u8> {
    // Always of the same length: a full store rejects a larger value, and this one must change to make room.
    format!("{bucket:020} {slot:020}").into_bytes()
}
