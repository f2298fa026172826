//! Fills the server's queue of operations from the store, at the start and when there is room again.

use penstock_core::OperationId;
use penstock_kv::{Store, StoreError};
use penstock_policy::operations::queue::Job;
use penstock_policy::operations::{Accepted, Candidates, OperationsSettings, head_name};
use penstock_server::{Server, WorkSettings};
use std::sync::Arc;
use std::time::Duration;

/// The store that the operations component keeps operations in.
pub const STORE: &str = "default";

/// Pause before another attempt to read a store that did not answer.
const RETRY: Duration = Duration::from_secs(5);
/// Time between two looks whether operations that found no room in the queue have room now.
const LOOK: Duration = Duration::from_secs(10);

/// What the server needs to run operations; `None` if they are off, or there is no store for them.
pub fn work(
    settings: &OperationsSettings,
    store: Option<&Arc<dyn Store>>,
    started_ms: u64,
) -> Option<WorkSettings> {
    let store = store.filter(|_| settings.enabled)?;
    Some(WorkSettings {
        operations: settings.clone(),
        dead_before_ms: match store.is_exclusive() {
            true => started_ms,
            false => 0,
        },
    })
}

/// Adds the unfinished operations of a store to the server's queue, and runs operations until they are stopped.
pub async fn run(server: Arc<Server>, store: Arc<dyn Store>) {
    let running = tokio::spawn(server.clone().run_operations());
    let filling = async {
        loop {
            match unfinished(&*store).await {
                Ok(jobs) => {
                    let count = jobs.len();
                    if count > 0 {
                        tracing::info!("operations: {count} unfinished ones found in the store");
                    }
                    server.resume_operations(jobs);
                    while !server.lacks_operations() {
                        tokio::time::sleep(LOOK).await;
                    }
                }
                Err(error) => {
                    tracing::warn!("operations: the store cannot be listed: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = filling => {}
        _ = running => {}
    }
}

/// Finds the operations of a store that may be unfinished, the oldest first.
async fn unfinished(store: &dyn Store) -> Result<Vec<Job>, StoreError> {
    let mut candidates = Candidates::default();
    let mut cursor = None;
    loop {
        let page = store.list(cursor.as_deref()).await?;
        for name in &page.names {
            candidates.take(name);
        }
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let mut jobs = Vec::new();
    for id in candidates.ids() {
        if let Some(job) = read(store, &id).await? {
            jobs.push(job);
        }
    }
    Ok(jobs)
}

async fn read(store: &dyn Store, id: &OperationId) -> Result<Option<Job>, StoreError> {
    let head = store.get(&head_name(id)).await?;
    let accepted = head.as_deref().and_then(Accepted::decode);
    Ok(accepted.map(|accepted| Job {
        id: id.clone(),
        tenant: accepted.caller.tenant,
        model: accepted.model,
        priority: accepted.priority,
        items: accepted.items,
    }))
}

/// The present time in milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
