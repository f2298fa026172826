//! Takes a place among the calls that run at once.

use super::Rule;
use super::outcome::{ChargeOutcome, Over, Passed, Receipt, Standing};
use crate::quota::concurrency;
use crate::quota::status::StoreFailures;
use crate::quota::store::{StoreAccess, read_counter};
use penstock_core::{Kv, KvError};

impl Rule {
    pub(super) async fn take_place<K: Kv>(
        &mut self,
        store: StoreAccess<'_, K>,
        subject: u128,
        lease_ms: u64,
        failures: &mut StoreFailures,
    ) -> Result<ChargeOutcome, KvError> {
        let bucket = concurrency::bucket(lease_ms, store.now_ms);
        self.memory.of(subject).turn(bucket);
        let name = self.name(subject, "c", bucket);
        let own = self.count(store, subject, &name, 1, failures).await?;
        let neighbours = async {
            let before = match bucket.checked_sub(1) {
                Some(before) => read_counter(store.kv, &self.name(subject, "c", before)).await?,
                None => 0,
            };
            let after = read_counter(store.kv, &self.name(subject, "c", bucket + 1)).await?;
            Ok::<_, KvError>((before, after))
        };
        let (before, after) = match neighbours.await {
            Ok(neighbours) => neighbours,
            Err(error) => {
                self.give_back(store, &name, 1, failures).await;
                return Err(error);
            }
        };
        let (fits, left) = concurrency::decide(self.limit.limit, own, before, after);
        let standing = Some(Standing {
            left,
            // The end of the running calls is unknown, so guess a second.
            retry_ms: if left == 0 { 1000 } else { 0 },
            reset_ms: 1000,
        });
        let outcome = if fits {
            Ok(Passed {
                receipt: Some(Receipt::Place {
                    name,
                    matters_until_ms: concurrency::matters_until_ms(lease_ms, bucket),
                }),
                wait_ms: 0,
            })
        } else {
            self.give_back(store, &name, 1, failures).await;
            Err(Over {
                retry_ms: 1000,
                too_large: false,
                from_memory: false,
            })
        };
        Ok(ChargeOutcome { outcome, standing })
    }
}
