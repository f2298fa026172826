//! The announcement of an operation's end: its stored entries, and their removal. The host sends it.

use super::entries::{PERIOD_MS, period};
use super::words::Webhook;
use crate::sweep::{Index, Removal};
use crate::webhooks::delivery::{Delivery, KEEP_MS};
use crate::webhooks::entries::Names;
use crate::webhooks::target::Target;
use penstock_core::{Kv, KvError, OperationId};

/// Shards of the index, as many as that of the operations.
const INDEX_SHARDS: u32 = 16;

/// The index of the deliveries. They are kept for longer than their operations, which are kept for `keep_ms`.
pub(super) fn index(keep_ms: u64) -> Index {
    Index::keeping(
        "wx",
        PERIOD_MS,
        keep_ms.saturating_add(KEEP_MS),
        INDEX_SHARDS,
    )
}

/// The entries with the receiver of the end of an operation.
pub(super) async fn target_entries<K: Kv>(
    kv: &K,
    index: &mut Index,
    (id, target): (&OperationId, &Target),
    (now_ms, random): (u64, u64),
) -> Result<[(String, Vec<u8>); 2], KvError> {
    let mut removal = RemoveDelivery;
    let place = index
        .place(kv, period(now_ms), now_ms, random, &mut removal)
        .await?;
    let target = serde_json::to_vec(target).expect("strings are JSON");
    Ok([
        // The index comes first, so that the sweep finds the target of an instance that dies.
        (place, id.as_str().as_bytes().to_vec()),
        (Names::of(id).target(), target),
    ])
}

/// Reads the announcement of an operation that has one.
pub(super) async fn webhook<K: Kv>(kv: &K, id: &OperationId) -> Result<Option<Webhook>, KvError> {
    let names = Names::of(id);
    let many = kv.read_many(&[names.target(), names.record()], 2).await?;
    let [target, record] = many.values.try_into().unwrap_or_default();
    let target = target.and_then(|target| serde_json::from_slice::<Target>(&target).ok());
    Ok(target.map(|target| Webhook {
        url: target.url,
        delivery: (record.as_deref().and_then(Delivery::decode)).unwrap_or_default(),
    }))
}

/// Ends the announcement of an operation that is deleted. The message contains its result.
pub(super) async fn forget<K: Kv>(kv: &K, id: &OperationId) -> Result<(), KvError> {
    let names = Names::of(id);
    // Without a target, hosts ignore the other entries. The sweep deletes them.
    kv.delete(&names.target()).await?;
    kv.delete(&names.payload()).await
}

/// Deletes a delivery that the index names.
pub(super) struct RemoveDelivery;

impl<K: Kv> Removal<K> for RemoveDelivery {
    async fn remove(&mut self, kv: &K, _bucket: u64, value: &[u8]) -> Result<(), KvError> {
        // No release writes another entry, so it cannot be interpreted.
        let id = std::str::from_utf8(value).ok().and_then(OperationId::parse);
        let Some(id) = id else {
            return Ok(());
        };
        let names = Names::of(&id);
        // Without a target, hosts ignore the other entries, and write none.
        kv.delete(&names.target()).await?;
        let record = kv.get(&names.record()).await?;
        let record = record.as_deref().and_then(Delivery::decode);
        let record = record.unwrap_or_default();
        let mut marks: Vec<String> = (1..=record.next_attempt())
            .map(|attempt| names.claim(attempt))
            .collect();
        // A mark of the next generation may be there without its record.
        marks.extend((0..=record.generation + 1).map(|generation| names.over(generation)));
        marks.extend((1..=record.generation + 1).map(|generation| names.again(generation)));
        let exist = kv.read_many(&marks, 0).await?.counters;
        for (mark, _) in marks.iter().zip(exist).filter(|(_, exists)| *exists) {
            kv.delete(mark).await?;
        }
        kv.delete(&names.payload()).await?;
        // The record goes last: a removal that is repeated finds the rest by it.
        kv.delete(&names.record()).await
    }
}
