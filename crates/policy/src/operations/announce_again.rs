//! The wish of a caller to have the end of an operation announced again.

use super::store::Operations;
use super::words::Operation;
use crate::webhooks::delivery::{Delivery, DeliveryState, MAX_AGAIN};
use crate::webhooks::entries::Names;
use penstock_core::{Kv, KvError, OperationId};

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
                "this operation has no webhook: neither its call nor the operator named a webhook",
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
            // By this mark, a host that starts finds the delivery, regardless of the marks of earlier generations. The mark
            // comes first. An
            // instance that dies here then leaves no record that hosts cannot find.
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
