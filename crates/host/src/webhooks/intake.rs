//! Fills the queue of deliveries: from the ends of operations as they come, and from the store at the start and when ends or
//! deliveries found no room.

use super::deliver::STORE_SUBJECT;
use super::queue::Shared;
use super::told::Told;
use crate::operations::each_name;
use penstock_core::OperationId;
use penstock_kv::{Store, StoreError};
use penstock_policy::webhooks::entries::{Candidates, Names};
use penstock_policy::webhooks::target::Target;
use penstock_server::{EndsReceiver, unix_ms};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Pause before another attempt to read a store that did not answer.
const RETRY: Duration = Duration::from_secs(5);

/// Time from a listing to the next one, if that is needed. It doubles while listings are needed again and again: each reads all
/// names of the store.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest time between such listings.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Targets that are read at once.
const READ_AT_ONCE: usize = 256;

/// Fills the queue with the deliveries in the store and those of operations that end.
pub(super) struct Intake {
    pub store: Arc<dyn Store>,
    pub queue: Arc<Shared>,
    pub told: Arc<Told>,
}

impl Intake {
    /// Fills the queue, until it is dropped.
    pub(super) async fn run(self, mut ends: EndsReceiver) {
        let mut pause = FIRST_PAUSE;
        loop {
            let count = self.list_until_it_works().await;
            if count > 0 {
                tracing::info!("webhooks: {count} deliveries in the store may be unfinished");
            }
            self.follow(&mut ends, &mut pause).await;
        }
    }

    /// Takes the ends as they come, until the store must be listed again.
    async fn follow(&self, ends: &mut EndsReceiver, pause: &mut Duration) {
        let mut look = Instant::now() + *pause;
        loop {
            tokio::select! {
                end = ends.next() => match end {
                    Some(id) => self.announce(&id).await,
                    // The server is gone, and this future will be dropped.
                    None => std::future::pending().await,
                },
                () = sleep_until(look) => {
                    // Both marks are cleared.
                    if ends.missed() | self.queue.lock().take_refused() {
                        *pause = (*pause * 2).min(LONGEST_PAUSE);
                        return;
                    }
                    *pause = FIRST_PAUSE;
                    look = Instant::now() + *pause;
                }
            }
        }
    }

    /// Adds a delivery whose operation has ended. Most operations have no target, and end here.
    async fn announce(&self, id: &OperationId) {
        let name = Names::of(id).target();
        loop {
            match self.store.get(&name).await {
                Ok(found) => {
                    if let Some(target) = found.as_deref().and_then(parse) {
                        self.queue.lock().announce(id, &target.tenant, unix_ms());
                        self.queue.wake();
                    }
                    return;
                }
                Err(error) => self.wait(&error).await,
            }
        }
    }

    async fn list_until_it_works(&self) -> usize {
        loop {
            match self.list().await {
                Ok(count) => return count,
                Err(error) => self.wait(&error).await,
            }
        }
    }

    async fn wait(&self, error: &StoreError) {
        self.told.wrong(STORE_SUBJECT, &error.to_string());
        sleep(RETRY).await;
    }

    /// Adds the deliveries of the store that may be unfinished, the oldest first. Returns their number.
    async fn list(&self) -> Result<usize, StoreError> {
        let mut candidates = Candidates::default();
        each_name(&*self.store, |name| candidates.take(name)).await?;
        let ids = candidates.ids();
        for ids in ids.chunks(READ_AT_ONCE) {
            let names: Vec<String> = ids.iter().map(|id| Names::of(id).target()).collect();
            let targets = self.store.get_many(&names).await?;
            let now_ms = unix_ms();
            {
                let mut queue = self.queue.lock();
                for (id, target) in ids.iter().zip(targets) {
                    if let Some(target) = target.as_deref().and_then(parse) {
                        queue.offer(id, &target.tenant, now_ms, now_ms);
                    }
                }
            }
            self.queue.wake();
        }
        Ok(ids.len())
    }
}

fn parse(target: &[u8]) -> Option<Target> {
    serde_json::from_slice(target).ok()
}
