//! Makes the steps of one delivery: reads and writes its entries, asks for the event, and sends the message.

use super::attempts::Attempts;
use super::keys::read_secrets;
use super::send::{Message, Sender};
use super::told::Told;
use bytes::Bytes;
use penstock_core::OperationId;
use penstock_kv::{Store, StoreError, Swap};
use penstock_policy::webhooks::WebhooksSettings;
use penstock_policy::webhooks::delivery::{Delivery, DeliveryState, LOST_MS, Outcome, message_id};
use penstock_policy::webhooks::entries::{self, Names};
use penstock_policy::webhooks::signature::{HostKey, sign};
use penstock_policy::webhooks::step::{Claim, EventOf, Facts, Step, Taken, decide, lose};
use penstock_policy::webhooks::target::Target;
use penstock_server::{Server, unix_ms};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Semaphore, watch};

/// Time before another look at a delivery after the store failed, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// The most events that the components are asked for at the same time. Each needs an instance, and calls need these, too.
const MAX_ASKING: u32 = 4;

/// At most one in this many instances may be asked for events.
const ASKING_SHARE: u32 = 4;

/// The subject of faults of the store in the log.
pub(super) const STORE_SUBJECT: &str = "the store";

/// The reason of an attempt that could not be signed. The caller may read it, so it names no path.
const UNSIGNED: &str =
    "the server has no valid secret to sign the message with; its operator must correct that";

/// Asks the components for the events of operations.
pub(crate) trait Events: Send + Sync + 'static {
    /// The event of an operation.
    fn event(&self, id: &OperationId) -> impl Future<Output = EventOf> + Send;
}

impl Events for Server {
    fn event(&self, id: &OperationId) -> impl Future<Output = EventOf> + Send {
        self.event_of(id)
    }
}

/// Writes that end an attempt. They are kept until the store has taken them, so that the outcome is not lost.
#[derive(Clone, Debug)]
struct Writes {
    /// The name of the record, the bytes that it had before, and those that it gets.
    record: (String, Option<Vec<u8>>, Vec<u8>),
    /// The marks that are written after the record.
    entries: Vec<(String, Vec<u8>)>,
    /// An entry that is removed before the record is written.
    removed: Option<String>,
    /// The time of the next look at the delivery, in milliseconds since the Unix epoch; `None` if it is over.
    due_ms: Option<u64>,
}

/// The parts of a [`Deliverer`].
pub(super) struct Parts<E> {
    pub settings: WebhooksSettings,
    /// The folder that file names in the settings are relative to.
    pub folder: PathBuf,
    pub store: Arc<dyn Store>,
    pub events: Arc<E>,
    pub key: HostKey,
    pub sender: Sender,
    pub told: Arc<Told>,
    pub attempts: Arc<Attempts>,
    /// The number of instances of the components.
    pub instances: u32,
    /// Whether the host stops, so that no new attempt begins.
    pub stop: watch::Receiver<bool>,
}

/// Takes the steps of deliveries: reads, writes and sends.
pub(super) struct Deliverer<E> {
    parts: Parts<E>,
    asking: Semaphore,
    /// The claims of others that this host waits for.
    taken: Mutex<HashMap<OperationId, Taken>>,
    /// The writes that the store has not taken.
    unwritten: Mutex<HashMap<OperationId, Writes>>,
    lost_after_ms: u64,
}

impl<E: Events> Deliverer<E> {
    pub(super) fn new(parts: Parts<E>) -> Self {
        // In an exclusive store, a claim that this process does not have is one of a process that has ended.
        let lost_after_ms = if parts.store.is_exclusive() {
            0
        } else {
            LOST_MS
        };
        let asking = (parts.instances / ASKING_SHARE).clamp(1, MAX_ASKING);
        Self {
            parts,
            asking: Semaphore::new(asking as usize),
            taken: Mutex::default(),
            unwritten: Mutex::default(),
            lost_after_ms,
        }
    }

    /// Looks at a delivery, and makes an attempt if one is due. Returns when to look at it again; `None` for never.
    pub(super) async fn handle(&self, id: &OperationId) -> Option<u64> {
        let due_ms = match self.advance(id).await {
            Ok(due_ms) => {
                self.parts.told.well(STORE_SUBJECT);
                due_ms
            }
            Err(error) => {
                (self.parts.told).wrong(STORE_SUBJECT, &error.to_string());
                Some(unix_ms() + RETRY_MS)
            }
        };
        if due_ms.is_none() {
            lock(&self.taken).remove(id);
        }
        due_ms
    }

    async fn advance(&self, id: &OperationId) -> Result<Option<u64>, StoreError> {
        let unwritten = lock(&self.unwritten).remove(id);
        if let Some(writes) = unwritten {
            return self.write(id, writes).await;
        }
        let store = &self.parts.store;
        let names = Names::of(id);
        let (mut facts, mut stored) = self.read(id, &names).await?;
        loop {
            facts.now_ms = unix_ms();
            match decide(&facts, &self.parts.settings) {
                Step::Ignore => {
                    if facts.payload.is_some() {
                        // The operation was deleted, or another host ended the delivery, while the message was written.
                        store.delete(&names.payload()).await?;
                    }
                    return Ok(None);
                }
                Step::Later(due_ms) => return Ok(Some(due_ms)),
                Step::ReadMark(generation) => {
                    facts.is_marked = Some(store.exists(&names.over(generation)).await?);
                }
                Step::Mark(generation) => {
                    store.delete(&names.payload()).await?;
                    store.set(&names.over(generation), b"1").await?;
                    return Ok(None);
                }
                Step::End(record) => {
                    note_end(id, None, &record);
                    return self.write(id, Writes::of(&names, stored, &record)).await;
                }
                Step::AskEvent => facts.event = Some(self.ask(id).await),
                Step::ReadDisabled(name) => {
                    facts.is_disabled = Some(store.exists(&name).await?);
                }
                Step::KeepPayload(payload) => {
                    facts.payload = Some(self.keep(&names, payload).await?);
                }
                // Stopped attempts would be lost.
                Step::Claim(_) if *self.parts.stop.borrow() => {
                    return Ok(Some(facts.now_ms));
                }
                Step::Claim(attempt) => facts.claim = self.claim(id, &names, attempt).await?,
                Step::Lose(taken) => {
                    let record = lose(facts.record.take(), taken, unix_ms(), rand::random());
                    let written = record.encode();
                    let name = names.record();
                    // Another host may see the same loss. Its record, or a later one, must not be replaced.
                    let swap = store.compare_and_swap(&name, stored.as_deref(), &written);
                    (facts.record, stored) = match swap.await? {
                        Swap::Swapped => {
                            note_end(id, None, &record);
                            (Some(record), Some(written))
                        }
                        Swap::Differs(found) => {
                            (found.as_deref().and_then(Delivery::decode), found)
                        }
                    };
                    facts.claim = Claim::Untried;
                }
                Step::Send(url) => return self.attempt(id, &names, (facts, stored), &url).await,
            }
        }
    }

    /// Reads the entries of a delivery. Returns the record also as it is stored.
    async fn read(
        &self,
        id: &OperationId,
        names: &Names,
    ) -> Result<(Facts, Option<Vec<u8>>), StoreError> {
        let wanted = [names.target(), names.record(), names.payload()];
        let mut found = self.parts.store.get_many(&wanted).await?.into_iter();
        let mut next = || found.next().flatten();
        let target = next().and_then(|bytes| serde_json::from_slice::<Target>(&bytes).ok());
        let stored = next();
        let payload = next();
        let claim = match lock(&self.taken).get(id) {
            Some(taken) => Claim::Taken(*taken),
            None => Claim::Untried,
        };
        let facts = Facts {
            made_ms: id.unix_ms(),
            target,
            record: stored.as_deref().and_then(Delivery::decode),
            payload,
            claim,
            lost_after_ms: self.lost_after_ms,
            ..Facts::default()
        };
        Ok((facts, stored))
    }

    async fn ask(&self, id: &OperationId) -> EventOf {
        let _permit = self.asking.acquire().await;
        self.parts.events.event(id).await
    }

    /// Writes the payload, unless another host has written one. Returns the one that counts.
    async fn keep(&self, names: &Names, payload: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let name = names.payload();
        let swap = self.parts.store.compare_and_swap(&name, None, &payload);
        Ok(match swap.await? {
            Swap::Differs(Some(other)) => other,
            Swap::Differs(None) | Swap::Swapped => payload,
        })
    }

    async fn claim(
        &self,
        id: &OperationId,
        names: &Names,
        attempt: u32,
    ) -> Result<Claim, StoreError> {
        let name = names.claim(attempt);
        if self.parts.store.increment(&name, 1).await? == 1 {
            return Ok(Claim::Own);
        }
        let taken = Taken {
            attempt,
            since_ms: unix_ms(),
        };
        lock(&self.taken).insert(id.clone(), taken);
        Ok(Claim::Taken(taken))
    }

    /// Makes an attempt that this host has claimed.
    async fn attempt(
        &self,
        id: &OperationId,
        names: &Names,
        (facts, stored): (Facts, Option<Vec<u8>>),
        url: &str,
    ) -> Result<Option<u64>, StoreError> {
        let (Some(target), Some(payload)) = (facts.target, facts.payload) else {
            return Ok(None);
        };
        // A crash of the machine must not undo an end that a receiver was told of.
        let store = &self.parts.store;
        store.durable(store.position()).await?;
        let (began_ms, began) = (unix_ms(), Instant::now());
        let outcome = self.send(id, &target.tenant, url, payload.into()).await;
        self.parts.attempts.count(&outcome);
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let host = host_of(url);
        tracing::debug!("webhooks: {id} to {host}: {outcome:?} after {took_ms} ms");
        let record = facts.record.unwrap_or_else(|| Delivery::due(began_ms));
        let times = (began_ms, took_ms);
        let record = record.after(outcome, times, unix_ms(), rand::random());
        note_end(id, Some(host), &record);
        let mut writes = Writes::of(names, stored, &record);
        let mark = entries::disabled(&target.tenant, url);
        match record.state {
            DeliveryState::Disabled if target.url.is_none() => {
                let since = unix_ms().to_string().into_bytes();
                writes.entries.insert(0, (mark, since));
            }
            DeliveryState::Delivered if facts.is_disabled == Some(true) => {
                writes.removed = Some(mark);
            }
            _ => {}
        }
        self.write(id, writes).await
    }

    /// Signs a message and sends it.
    async fn send(&self, id: &OperationId, tenant: &str, url: &str, payload: Bytes) -> Outcome {
        let unsigned = || Outcome::Failed(UNSIGNED.to_owned());
        let parts = &self.parts;
        let Some(of_tenant) = parts.settings.tenant(tenant) else {
            return unsigned();
        };
        let path = parts.folder.join(&of_tenant.secrets_file);
        let subject = format!("{} (tenant {tenant})", path.display());
        // Read at each attempt, so that a new secret needs no restart.
        let read = tokio::task::spawn_blocking(move || read_secrets(&path)).await;
        let secrets = match read.map_err(|e| e.to_string()).flatten() {
            Ok(secrets) => secrets,
            Err(wrong) => {
                parts.told.wrong(&subject, &wrong);
                return unsigned();
            }
        };
        parts.told.well(&subject);
        let id = message_id(id);
        let timestamp_s = unix_ms() / 1_000;
        let signature = sign((&secrets, &parts.key), &id, timestamp_s, &payload);
        let message = Message {
            id,
            timestamp_s,
            signature,
            payload,
        };
        parts.sender.post(url, message).await
    }

    /// Makes the writes that end an attempt. If the store fails, the next look at the delivery makes them.
    async fn write(&self, id: &OperationId, writes: Writes) -> Result<Option<u64>, StoreError> {
        lock(&self.unwritten).insert(id.clone(), writes.clone());
        // Once the record says that the receiver took the message, nothing may say that it wants none.
        if let Some(name) = &writes.removed {
            self.parts.store.delete(name).await?;
        }
        let (name, before, record) = &writes.record;
        // These writes may be late: another host may have gone on, or a caller may have asked for the message again.
        let swap = self
            .parts
            .store
            .compare_and_swap(name, before.as_deref(), record);
        let counts = match swap.await? {
            Swap::Swapped => true,
            Swap::Differs(found) => found.as_deref() == Some(record),
        };
        if counts && writes.due_ms.is_none() {
            // The payload contains the result, so it does not stay. If a caller asks for the message again, it is written anew.
            // The mark comes last: no host looks at a marked delivery again.
            self.parts.store.delete(&Names::of(id).payload()).await?;
        }
        if counts {
            self.parts.store.set_many(&writes.entries).await?;
        }
        lock(&self.unwritten).remove(id);
        if !counts {
            return Ok(Some(unix_ms()));
        }
        Ok(writes.due_ms)
    }
}

impl Writes {
    /// The writes of a record. The mark that it is over comes last: with it, nothing more is done.
    fn of(names: &Names, before: Option<Vec<u8>>, record: &Delivery) -> Self {
        let mut entries = Vec::new();
        let is_over = record.state.is_over();
        if is_over {
            entries.push((names.over(record.generation), b"1".to_vec()));
        }
        Self {
            record: (names.record(), before, record.encode()),
            entries,
            removed: None,
            due_ms: (!is_over).then_some(record.next_ms),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host in a URL, for log lines. Paths and queries may contain secrets.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let authority = &rest[..end];
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

/// Logs that a message does not reach its receiver.
fn note_end(id: &OperationId, host: Option<&str>, record: &Delivery) {
    if !matches!(
        record.state,
        DeliveryState::Failed | DeliveryState::Disabled
    ) {
        return;
    }
    let last = record
        .attempts
        .last()
        .and_then(|last| last.error.as_deref());
    let why = record
        .note
        .as_deref()
        .or(last)
        .unwrap_or("no reason is known");
    let to = host.map(|host| format!(" to {host}")).unwrap_or_default();
    tracing::warn!("webhooks: the message about {id}{to} is given up: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::receiver::Receiver;
    use penstock_kv::MemoryStore;
    use penstock_policy::webhooks::TenantWebhooks;
    use penstock_policy::webhooks::delivery::EventKind;
    use std::time::Duration;

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    const GONE: &str = "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    /// A source of events by which every operation has succeeded.
    struct Succeeded;

    impl Events for Succeeded {
        async fn event(&self, id: &OperationId) -> EventOf {
            EventOf::Ended {
                kind: EventKind::Succeeded,
                payload: format!("{{\"id\":\"{id}\"}}").into_bytes(),
            }
        }
    }

    /// A receiver, and all that sends to it.
    struct Setup {
        receiver: Receiver,
        store: Arc<MemoryStore>,
        folder: tempfile::TempDir,
        deliverer: Deliverer<Succeeded>,
    }

    impl Setup {
        async fn new(answers: &[&str]) -> Self {
            let receiver = Receiver::start(answers).await;
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("secret"), SECRET).unwrap();
            let settings = WebhooksSettings {
                allow_hosts: vec!["127.0.0.1".to_owned()],
                tenants: vec![TenantWebhooks {
                    tenant: "a".to_owned(),
                    url: Some(format!("http://{}/hook?key=hidden", receiver.address)),
                    secrets_file: "secret".to_owned(),
                    ..TenantWebhooks::default()
                }],
                ..WebhooksSettings::default()
            };
            let store = Arc::new(MemoryStore::default());
            let told = Arc::<Told>::default();
            let patience = Duration::from_secs(20);
            let sender = Sender::new(settings.allow_hosts.clone(), None, patience, told.clone());
            let deliverer = Deliverer::new(Parts {
                settings,
                folder: folder.path().to_owned(),
                store: store.clone(),
                events: Arc::new(Succeeded),
                key: HostKey::new([7; 32]),
                sender,
                told,
                attempts: Arc::default(),
                instances: 64,
                stop: watch::channel(false).1,
            });
            Self {
                receiver,
                store,
                folder,
                deliverer,
            }
        }

        /// An operation whose end is to be announced.
        async fn operation(&self, number: u128) -> OperationId {
            let id = OperationId::generate(unix_ms(), number);
            let target = Target {
                tenant: "a".to_owned(),
                url: None,
            };
            let target = serde_json::to_vec(&target).unwrap();
            let name = Names::of(&id).target();
            self.store.set(&name, &target).await.unwrap();
            id
        }

        async fn record(&self, id: &OperationId) -> Delivery {
            let stored = self.store.get(&Names::of(id).record()).await.unwrap();
            Delivery::decode(&stored.unwrap()).unwrap()
        }

        async fn is_marked(&self, id: &OperationId) -> bool {
            self.store.exists(&Names::of(id).over(0)).await.unwrap()
        }
    }

    #[tokio::test]
    async fn an_end_is_announced_once_and_operations_without_a_target_are_ignored() {
        let setup = Setup::new(&[OK]).await;
        let other = OperationId::generate(unix_ms(), 9);
        assert_eq!(setup.deliverer.handle(&other).await, None);
        let id = setup.operation(1).await;
        for _ in 0..2 {
            assert_eq!(setup.deliverer.handle(&id).await, None);
        }
        let requests = setup.receiver.requests();
        assert_eq!(requests.len(), 1);
        assert!(requests[0].contains(&format!("webhook-id: {}\r\n", message_id(&id))));
        assert!(requests[0].ends_with(&format!("\r\n\r\n{{\"id\":\"{id}\"}}")));
        let record = setup.record(&id).await;
        assert_eq!(record.state, DeliveryState::Delivered);
        assert_eq!(record.attempts[0].status, Some(200));
        assert!(setup.is_marked(&id).await);
    }

    #[tokio::test]
    async fn a_busy_receiver_gets_the_message_again_later() {
        let setup = Setup::new(&[BUSY]).await;
        let id = setup.operation(1).await;
        let now_ms = unix_ms();
        let due_ms = setup.deliverer.handle(&id).await.unwrap();
        assert!((now_ms + 60_000..now_ms + 90_000).contains(&due_ms));
        assert_eq!(setup.record(&id).await.next_ms, due_ms);
        assert!(!setup.is_marked(&id).await);
        // A look before that time sends nothing.
        assert_eq!(setup.deliverer.handle(&id).await, Some(due_ms));
        assert_eq!(setup.receiver.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_gets_no_more_until_a_caller_asks() {
        let setup = Setup::new(&[GONE, OK]).await;
        let first = setup.operation(1).await;
        assert_eq!(setup.deliverer.handle(&first).await, None);
        assert_eq!(setup.record(&first).await.state, DeliveryState::Disabled);
        let second = setup.operation(2).await;
        assert_eq!(setup.deliverer.handle(&second).await, None);
        let record = setup.record(&second).await;
        assert_eq!(record.state, DeliveryState::Disabled);
        assert!(record.attempts.is_empty() && record.note.is_some());
        assert_eq!(setup.receiver.requests().len(), 1);
        // A caller asks for the first one again, and the receiver takes it.
        let names = Names::of(&first);
        let again = setup.record(&first).await.again(unix_ms()).encode();
        setup.store.set(&names.record(), &again).await.unwrap();
        setup.store.delete(&names.over(0)).await.unwrap();
        assert_eq!(setup.deliverer.handle(&first).await, None);
        assert_eq!(setup.record(&first).await.state, DeliveryState::Delivered);
        let third = setup.operation(3).await;
        assert_eq!(setup.deliverer.handle(&third).await, None);
        assert_eq!(setup.record(&third).await.state, DeliveryState::Delivered);
    }

    #[tokio::test]
    async fn an_attempt_of_a_host_that_stopped_is_lost_after_a_while() {
        let mut setup = Setup::new(&[OK]).await;
        // As with a store that several hosts use.
        setup.deliverer.lost_after_ms = LOST_MS;
        let id = setup.operation(1).await;
        let names = Names::of(&id);
        setup.store.increment(&names.claim(1), 1).await.unwrap();
        let now_ms = unix_ms();
        let due_ms = setup.deliverer.handle(&id).await.unwrap();
        assert!((now_ms + LOST_MS..now_ms + LOST_MS + 30_000).contains(&due_ms));
        assert_eq!(setup.deliverer.handle(&id).await, Some(due_ms));
        setup.deliverer.lost_after_ms = 0;
        let due_ms = setup.deliverer.handle(&id).await.unwrap();
        let record = setup.record(&id).await;
        assert_eq!(
            record.attempts[0].error.as_deref(),
            Some("the host stopped during this attempt")
        );
        assert_eq!((record.next_attempt(), record.next_ms), (2, due_ms));
        assert!(setup.receiver.requests().is_empty());
        // Now the next attempt is due.
        let due = Delivery {
            next_ms: 0,
            ..record
        };
        setup
            .store
            .set(&names.record(), &due.encode())
            .await
            .unwrap();
        assert_eq!(setup.deliverer.handle(&id).await, None);
        assert_eq!(setup.record(&id).await.attempts.len(), 2);
        assert_eq!(setup.receiver.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_fails_the_attempt_and_a_new_one_needs_no_restart() {
        let setup = Setup::new(&[OK]).await;
        let id = setup.operation(1).await;
        let path = setup.folder.path().join("secret");
        std::fs::write(&path, format!("{SECRET}!")).unwrap();
        assert!(setup.deliverer.handle(&id).await.is_some());
        let record = setup.record(&id).await;
        assert_eq!(record.attempts[0].error.as_deref(), Some(UNSIGNED));
        assert!(setup.receiver.requests().is_empty());
        std::fs::write(&path, SECRET).unwrap();
        let other = setup.operation(2).await;
        assert_eq!(setup.deliverer.handle(&other).await, None);
        assert_eq!(setup.receiver.requests().len(), 1);
    }

    #[test]
    fn log_lines_have_only_the_host_of_a_url() {
        for (url, host) in [
            ("https://a.example/x?key=1", "a.example"),
            ("https://a.example:8443?key=1", "a.example:8443"),
            ("https://user:secret@a.example/", "a.example"),
            ("https://[::1]:1/x", "[::1]:1"),
            ("", ""),
        ] {
            assert_eq!(host_of(url), host, "{url}");
        }
    }
}
