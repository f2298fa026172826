//! Fills the server's queue of operations from the store, at the start and when there is room again.

use crate::settings::Settings;
use penstock_core::OperationId;
use penstock_kv::{Store, StoreError};
use penstock_policy::operations::queue::Job;
use penstock_policy::operations::{Accepted, Candidates, head_name};
use penstock_server::{Ends, Server, WorkSettings, unix_ms};
use std::sync::Arc;
use std::time::Duration;

/// The store that the operations component keeps operations in.
pub const STORE: &str = "default";

/// Pause before another attempt to read a store that did not answer.
const RETRY: Duration = Duration::from_secs(5);
/// Time between two looks whether operations that found no room in the queue have room now.
const LOOK: Duration = Duration::from_secs(10);

/// One in this many instances may run operations. The others are for calls, and for the renewal of leases.
const INSTANCES_SHARE: u32 = 2;

/// Returns the settings for running operations; `None` if they are off, or there is no store for them. Call it before the
/// server
/// serves: leases of an exclusive store from before this moment are over. `ends` takes the ends of operations.
pub fn work(
    settings: &Settings,
    store: Option<&Arc<dyn Store>>,
    ends: Option<Ends>,
) -> Option<WorkSettings> {
    let mut operations = settings.operations.clone();
    let store = store.filter(|_| operations.enabled)?;
    let most = (settings.instances.count / INSTANCES_SHARE).max(1);
    operations.workers = operations.workers.min(most);
    Some(WorkSettings {
        ends,
        operations,
        dead_before_ms: match store.is_exclusive() {
            true => unix_ms(),
            false => 0,
        },
    })
}

/// Adds the unfinished operations of a store to the server's queue, and runs operations until they are stopped.
pub async fn run(server: Arc<Server>, store: Arc<dyn Store>) {
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
        () = server.clone().run_operations() => {}
    }
}

/// Finds the operations of a store that may be unfinished, the oldest first.
async fn unfinished(store: &dyn Store) -> Result<Vec<Job>, StoreError> {
    let mut candidates = Candidates::default();
    each_name(store, |name| candidates.take(name)).await?;
    let mut jobs = Vec::new();
    for id in candidates.ids() {
        if let Some(job) = read(store, &id).await? {
            jobs.push(job);
        }
    }
    Ok(jobs)
}

/// Passes all names of a store to `take`.
pub async fn each_name(store: &dyn Store, mut take: impl FnMut(&str)) -> Result<(), StoreError> {
    let mut cursor = None;
    loop {
        let page = store.list(cursor.as_deref()).await?;
        for name in &page.names {
            take(name);
        }
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
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
