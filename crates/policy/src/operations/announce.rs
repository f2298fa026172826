//! The announcement of an operation's end: what is stored for it, and how a caller has it sent again. The host sends it.

use super::entries::{PERIOD_MS, period};
use super::store::Operations;
use super::words::{Operation, Webhook};
use crate::sweep::{Index, Removal};
use crate::webhooks::delivery::{Delivery, DeliveryState, KEEP_MS, MAX_AGAIN};
use crate::webhooks::entries::Names;
use crate::webhooks::target::Target;
use penstock_core::{Kv, KvError, OperationId};

/// Shards of the index, as many as that of the operations.
const INDEX_SHARDS: u32 = 16;

/// The most attempts to change the record of a delivery that hosts change at the same time.
const TRIES: u32 = 4;

/// The result of the wish to have the end of an operation announced again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The host sends it now. The value is the operation.
    Again(Box<Operation>),
    /// It cannot be sent; the sentence for the caller.
    NotNow(&'static str),
}

/// The index of the deliveries. They are kept for longer than their operations, which are kept for `keep_ms`.
pub(super) fn index(keep_ms: u64) -> Index {
    Index::keeping(
        "wx",
        PERIOD_MS,
        keep_ms.saturating_add(KEEP_MS),
        INDEX_SHARDS,
    )
}

/// The entries that say who is told of the end of an operation.
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

impl Operations {
    /// Has the end of an operation announced again, from the first attempt on; `None` if there is no such operation.
    pub async fn announce_again<K: Kv>(
        &self,
        kv: &K,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Announced>, KvError> {
        let Some(mut operation) = self.get(kv, id, Some(tenant), false, now_ms).await? else {
            return Ok(None);
        };
        if operation.webhook.is_none() {
            return Ok(Some(Announced::NotNow(
                "nobody is told of the end of this operation: neither its call nor the operator named a webhook",
            )));
        }
        if !operation.state.is_final() {
            return Ok(Some(Announced::NotNow(
                "the operation has not ended; its end will be announced",
            )));
        }
        let names = Names::of(id);
        for _ in 0..TRIES {
            let (found, handle) = kv.read_to_swap(&names.record()).await?;
            let delivery = found.as_deref().and_then(Delivery::decode);
            let delivery = delivery.unwrap_or_default();
            if delivery.state == DeliveryState::Skipped {
                return Ok(Some(Announced::NotNow(
                    "the operator chose that your tenant is not told of this kind of event ([[webhooks.tenants]] `events`)",
                )));
            }
            if delivery.generation >= MAX_AGAIN {
                return Ok(Some(Announced::NotNow(
                    "the message was asked for again as often as is allowed; read the operation instead",
                )));
            }
            let again = delivery.again(now_ms);
            // By this mark, a host that starts finds the delivery, whatever marks earlier generations have. It comes first, so
            // that an instance that dies here leaves no record that nobody finds.
            kv.set(&names.again(again.generation), b"1").await?;
            if kv.swap(handle, &again.encode()).await? {
                if let Some(webhook) = &mut operation.webhook {
                    webhook.delivery = again;
                }
                return Ok(Some(Announced::Again(Box::new(operation))));
            }
        }
        Err(KvError::new("the record of the delivery changes too fast"))
    }
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
