//! Webhooks: announces operations that end to the callers' own servers. `penstock_policy::webhooks` describes the entries and
//! decides the receiver, the content and the time of each message. This host reads the entries, sends, and writes the
//! outcomes.
//!
//! * `intake`: finds deliveries, in the ends of operations and in the store; `queue`: their order;
//! * `deliver`: makes the steps that `penstock_policy::webhooks::step` decides;
//! * `attempts`: their number, for metrics; `send`: one request; `keys`: the secrets and the host's key; `told`: log lines that are not repeated.
//!
//! Several hosts may work on the same store. Each looks at the deliveries that it knows, and the claim of an attempt decides
//! between them.
//!
//! At SIGTERM no new attempt begins. Attempts in progress may finish while the server drains. One that does not finish leaves
//! its claim. The next start finds it, records the attempt as lost, and makes the next one.

mod attempts;
mod deliver;
mod intake;
mod keys;
mod queue;
#[cfg(test)]
mod receiver;
mod send;
mod told;

pub(crate) use attempts::Attempts;
pub(crate) use keys::findings;

use crate::AppOptions;
use crate::operations::STORE;
use crate::settings::Settings;
use deliver::{Deliverer, Events, Parts};
use intake::Intake;
use penstock_core::OperationId;
use penstock_kv::Store;
use penstock_policy::webhooks::WebhooksSettings;
use penstock_policy::webhooks::delivery::TIMEOUT_MS;
use penstock_policy::webhooks::signature::HostKey;
use penstock_server::{Ends, EndsReceiver, unix_ms};
use queue::{Queue, Shared};
use send::Sender;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinHandle, JoinSet};
use told::Told;

/// The most deliveries in the queue, about 40 MB of memory. Further ones stay in the store until there is room.
const MAX_QUEUED: usize = 100_000;

/// The most attempts at the same time. Each may take a connection and a thread that looks its host up, for 15 seconds.
const MAX_SENDING: usize = 64;

/// The most attempts of one tenant at the same time, so that slow receivers of some tenants leave places for others.
const MAX_SENDING_PER_TENANT: usize = 8;

/// Time before another look at a delivery whose attempt panicked, in milliseconds.
const BROKEN_MS: u64 = 60_000;

/// The webhooks of a server before it serves.
pub(crate) struct Webhooks {
    settings: WebhooksSettings,
    folder: PathBuf,
    store: Arc<dyn Store>,
    key: HostKey,
    ends: Ends,
    receiver: EndsReceiver,
    attempts: Arc<Attempts>,
    /// The number of instances of the components.
    instances: u32,
}

impl Webhooks {
    /// Prepares the webhooks, and warns of faults of their files. Returns `None` if no tenant has webhooks, operations are off,
    /// or there is no store for them.
    ///
    /// # Errors
    ///
    /// If the host's key can be neither read nor made.
    pub(crate) fn open(
        options: &AppOptions,
        settings: &Settings,
        store: Option<&Arc<dyn Store>>,
    ) -> anyhow::Result<Option<Self>> {
        if !settings.webhooks.is_on() {
            return Ok(None);
        }
        for finding in findings(settings, &options.policy) {
            let (file, message) = (finding.file.display(), &finding.message);
            tracing::warn!("webhooks: {file}: {message}; {}", finding.remedy);
        }
        if !settings.operations.enabled {
            return Ok(None);
        }
        let Some(store) = store else {
            tracing::warn!(
                "webhooks: nothing is announced, because the application has no store `{STORE}`; add it to key_value_stores"
            );
            return Ok(None);
        };
        let (ends, receiver) = Ends::channel();
        Ok(Some(Self {
            settings: settings.webhooks.clone(),
            folder: keys::folder(&options.policy),
            store: store.clone(),
            key: keys::host_key(&options.state_dir())?,
            ends,
            receiver,
            attempts: Arc::default(),
            instances: settings.instances.count,
        }))
    }

    /// The public key that receivers check signatures with, as text.
    pub(crate) fn public_key(&self) -> String {
        self.key.public()
    }

    /// The number of attempts, for metrics.
    pub(crate) fn attempts(&self) -> Arc<Attempts> {
        self.attempts.clone()
    }

    /// Takes the ends of operations.
    pub(crate) fn ends(&self) -> Ends {
        self.ends.clone()
    }

    /// Sends messages about the operations of a server until [`Running::end`].
    pub(crate) fn start<E: Events>(self, events: Arc<E>) -> Running {
        let told = Arc::<Told>::default();
        let queue = Queue::new(MAX_QUEUED, MAX_SENDING_PER_TENANT);
        let queue = Arc::new(Shared::new(queue));
        let ca_file = self.settings.ca_file.as_ref();
        let sender = Sender::new(
            self.settings.allow_hosts.clone(),
            ca_file.map(|file| self.folder.join(file)),
            Duration::from_millis(TIMEOUT_MS),
            told.clone(),
        );
        let intake = Intake {
            store: self.store.clone(),
            queue: queue.clone(),
            told: told.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        let deliverer = Arc::new(Deliverer::new(Parts {
            settings: self.settings,
            folder: self.folder,
            store: self.store,
            events,
            key: self.key,
            sender,
            told,
            attempts: self.attempts,
            instances: self.instances,
            stop: stopped.clone(),
        }));
        let receiver = self.receiver;
        let task = tokio::spawn(async move {
            tokio::select! {
                () = intake.run(receiver) => {}
                () = run(deliverer, &queue, stopped) => {}
            }
        });
        Running { stop, task }
    }
}

/// The webhooks of a server that serves.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Begins no new attempt from now on.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the attempts in progress, but not for longer than `time`.
    pub(crate) async fn end(mut self, time: Duration) {
        self.stop();
        if tokio::time::timeout(time, &mut self.task).await.is_err() {
            tracing::warn!(
                "webhooks: some attempts did not finish; their messages are sent again after the next start"
            );
            self.task.abort();
        }
    }
}

/// Makes the deliveries of a queue until it is told to stop, and then waits for those in progress.
async fn run<E: Events>(
    deliverer: Arc<Deliverer<E>>,
    queue: &Shared,
    mut stop: watch::Receiver<bool>,
) {
    let mut running = JoinSet::new();
    let mut ids = HashMap::new();
    loop {
        while running.len() < MAX_SENDING {
            let Some(id) = queue.lock().pop(unix_ms()) else {
                break;
            };
            let (deliverer, of) = (deliverer.clone(), id.clone());
            let task = running.spawn(async move { deliverer.handle(&of).await });
            ids.insert(task.id(), id);
        }
        let has_room = running.len() < MAX_SENDING;
        tokio::select! {
            () = told_to_stop(&mut stop) => break,
            Some(ended) = running.join_next_with_id() => settle(queue, &mut ids, ended),
            () = queue.ready(unix_ms()), if has_room => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// Takes a delivery back into the queue, or out of it.
fn settle(
    queue: &Shared,
    ids: &mut HashMap<task::Id, OperationId>,
    ended: Result<(task::Id, Option<u64>), JoinError>,
) {
    let (task, due_ms) = ended.unwrap_or_else(|error| {
        tracing::error!("webhooks: a delivery broke off: {error}");
        (error.id(), Some(unix_ms() + BROKEN_MS))
    });
    if let Some(id) = ids.remove(&task) {
        queue.lock().done(&id, due_ms, unix_ms());
    }
}

/// Resolves when it is time to stop.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // It fails only if the sender is gone, and then it is time, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::receiver::{NOTHING, Receiver};
    use penstock_kv::MemoryStore;
    use penstock_policy::webhooks::TenantWebhooks;
    use penstock_policy::webhooks::delivery::EventKind;
    use penstock_policy::webhooks::entries::Names;
    use penstock_policy::webhooks::step::EventOf;
    use penstock_policy::webhooks::target::Target;

    struct Cancelled;

    impl Events for Cancelled {
        async fn event(&self, _: &OperationId) -> EventOf {
            EventOf::Ended {
                kind: EventKind::Cancelled,
                payload: b"{}".to_vec(),
            }
        }
    }

    /// The webhooks of a tenant with this receiver, and `count` unfinished deliveries in the store.
    async fn webhooks(
        receiver: &Receiver,
        folder: &std::path::Path,
        count: u128,
    ) -> (Webhooks, Vec<Names>) {
        let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        std::fs::write(folder.join("secret"), secret).unwrap();
        let settings = WebhooksSettings {
            allow_hosts: vec!["127.0.0.1".to_owned()],
            tenants: vec![TenantWebhooks {
                tenant: "a".to_owned(),
                secrets_file: "secret".to_owned(),
                ..TenantWebhooks::default()
            }],
            ..WebhooksSettings::default()
        };
        let store = Arc::new(MemoryStore::default());
        let target = Target {
            tenant: "a".to_owned(),
            url: Some(format!("http://{}/", receiver.address)),
        };
        let target = serde_json::to_vec(&target).unwrap();
        let mut names = Vec::new();
        for number in 0..count {
            let of = Names::of(&OperationId::generate(unix_ms(), number));
            store.set(&of.target(), &target).await.unwrap();
            names.push(of);
        }
        let (ends, receiver) = Ends::channel();
        let webhooks = Webhooks {
            settings,
            folder: folder.to_owned(),
            store,
            key: HostKey::new([7; 32]),
            ends,
            receiver,
            attempts: Arc::default(),
            instances: 64,
        };
        (webhooks, names)
    }

    /// Waits until a condition holds.
    async fn until(mut holds: impl AsyncFnMut() -> bool) {
        let waited = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), waited).await;
        assert!(in_time.is_ok(), "not in time");
    }

    #[tokio::test]
    async fn a_start_sends_the_unfinished_deliveries_of_the_store() {
        let receiver = Receiver::start(&["HTTP/1.1 204 No Content\r\n\r\n"]).await;
        let folder = tempfile::tempdir().unwrap();
        let (webhooks, names) = webhooks(&receiver, folder.path(), 20).await;
        let store = webhooks.store.clone();
        let running = webhooks.start(Arc::new(Cancelled));
        for of in &names {
            until(async || store.exists(&of.over(0)).await.unwrap()).await;
        }
        assert_eq!(receiver.requests().len(), names.len());
        running.end(Duration::from_secs(20)).await;
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_answer_delays_no_end() {
        let receiver = Receiver::start(&[NOTHING]).await;
        let folder = tempfile::tempdir().unwrap();
        let (webhooks, names) = webhooks(&receiver, folder.path(), 20).await;
        let store = webhooks.store.clone();
        let running = webhooks.start(Arc::new(Cancelled));
        until(async || receiver.requests().len() >= MAX_SENDING_PER_TENANT).await;
        let began = std::time::Instant::now();
        running.end(Duration::from_millis(50)).await;
        assert!(began.elapsed() < Duration::from_secs(10));
        // The claims show the next start which attempts were lost.
        assert_eq!(receiver.requests().len(), MAX_SENDING_PER_TENANT);
        let mut claimed = 0;
        for of in &names {
            claimed += store.increment(&of.claim(1), 0).await.unwrap();
        }
        assert_eq!(claimed, MAX_SENDING_PER_TENANT as i64);
    }
}
