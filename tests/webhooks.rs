//! Webhooks over real HTTP: the real components, store and runtime announce the ends of operations to a receiver of the test.

use crate::common;
use crate::support::graphs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{Options, Server, heavy_model, try_call, until_found};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PREDICT: &str = "/v1/models/identity:predict";
const HEAVY: &str = "/v1/models/heavy:predict";
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
/// Longer than any test.
const LONG: &str = r#"{"inputs":{"times":[2000000000],"x":[1]}}"#;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The most attempts of one tenant at the same time.
const AT_ONCE: usize = 8;

/// The reply of the receiver to a message.
#[derive(Clone, Copy)]
enum Reply {
    /// An answer with this status.
    Status(u16),
    /// There is no answer. The connection stays open.
    Nothing,
}

/// A message, as the receiver got it.
#[derive(Clone, Debug)]
struct Message {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    came: Instant,
}

impl Message {
    /// Reads one request. A request that a kill cut off is an error.
    fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Self> {
        let mut read_line = || {
            let mut line = String::new();
            match stream.read_line(&mut line)? {
                0 => Err(std::io::Error::from(ErrorKind::UnexpectedEof)),
                _ => Ok(line.trim_end().to_owned()),
            }
        };
        let line = read_line()?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let line = read_line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length");
        let length = length.and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        stream.read_exact(&mut body)?;
        Ok(Self {
            path,
            headers,
            body,
            came: Instant::now(),
        })
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    fn id(&self) -> &str {
        self.header("webhook-id")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks both signatures, as a receiver does that has the secret and the server's public key.
    fn verify(&self, key: &VerifyingKey) {
        let mut signed =
            format!("{}.{}.", self.id(), self.header("webhook-timestamp")).into_bytes();
        signed.extend_from_slice(&self.body);
        let signatures: Vec<(&str, Vec<u8>)> = (self.header("webhook-signature").split(' '))
            .map(|one| {
                let (version, text) = one.split_once(',').unwrap();
                (version, BASE64_STANDARD.decode(text).unwrap())
            })
            .collect();
        let [("v1", by_secret), ("v1a", by_key)] = &signatures[..] else {
            panic!("{signatures:?}");
        };
        let secret = SECRET.strip_prefix("whsec_").unwrap();
        let secret = BASE64_STANDARD.decode(secret).unwrap();
        assert_eq!(*by_secret, hmac_sha256(&secret, &signed));
        let by_key = Signature::from_slice(by_key).unwrap();
        key.verify_strict(&signed, &by_key).unwrap();
    }
}

/// HMAC-SHA256 (RFC 2104) with a key of at most 64 bytes. The server's own code must not check itself.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let padded = |padding: u8| {
        let mut block = vec![padding; 64];
        for (byte, of_key) in block.iter_mut().zip(key) {
            *byte ^= of_key;
        }
        block
    };
    let inner = Sha256::digest([padded(0x36), message.to_vec()].concat());
    Sha256::digest([padded(0x5c), inner.to_vec()].concat()).to_vec()
}

/// A receiver of webhooks. It gives each message the next one of its replies, and then the last one again and again.
struct Receiver {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<Message>>>,
}

impl Receiver {
    fn start(replies: &'static [Reply]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            messages: Arc::default(),
        };
        let messages = receiver.messages.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let messages = messages.clone();
                std::thread::spawn(move || serve(stream, replies, &messages));
            }
        });
        receiver
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }

    /// Waits until this number of messages has come.
    fn wait_for(&self, count: usize) {
        until_found(|| match self.messages().len() {
            came if came >= count => Ok(()),
            came => Err(format!("{came} messages of {count}")),
        });
    }

    /// The ids of the messages so far.
    fn ids(&self) -> BTreeSet<String> {
        let messages = self.messages();
        messages.iter().map(|one| one.id().to_owned()).collect()
    }
}

fn serve(
    stream: TcpStream,
    replies: &[Reply],
    messages: &Mutex<Vec<Message>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let message = Message::read(&mut stream)?;
    let number = {
        let mut messages = messages.lock().unwrap();
        messages.push(message);
        messages.len() - 1
    };
    match replies[number.min(replies.len() - 1)] {
        Reply::Status(status) => {
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes())
        }
        // Returns when the sender closes the connection.
        Reply::Nothing => stream.read(&mut [0]).map(|_| ()),
    }
}

/// A receiver, and all that outlives a server that sends to it: the store, the secret and the models.
struct Setup {
    receiver: Receiver,
    folder: tempfile::TempDir,
    /// More settings of the tenant.
    tenant: String,
    /// More tables of the policy.
    policy: &'static str,
}

impl Setup {
    fn new(replies: &'static [Reply]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        let models = folder.path().join("models");
        let contract = heavy_model::counting_contract(1);
        heavy_model::put_beside_identity(&models, &contract, &graphs::counting_loop());
        Self {
            receiver: Receiver::start(replies),
            folder,
            tenant: String::new(),
            policy: "",
        }
    }

    /// The same, for a tenant with a URL of its own.
    fn with_url(replies: &'static [Reply]) -> Self {
        let mut setup = Self::new(replies);
        setup.tenant = format!("url = \"{}\"\n", setup.receiver.url("/own"));
        setup
    }

    fn start(&self) -> Server {
        let folder = self.folder.path();
        let policy = format!(
            "[webhooks]\nallow_hosts = [\"{}\"]\n\
             [[webhooks.tenants]]\ntenant = \"anonymous\"\nsecrets_file = \"{}\"\n{}{}",
            self.receiver.address,
            folder.join("secret").display(),
            self.tenant,
            self.policy
        );
        let store = format!(
            "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
            folder.join("default.kv").display()
        );
        let server = Server::start_with(Options {
            policy_text: Some(policy),
            runtime_config_text: Some(store),
            models: Some(folder.join("models")),
            ..Options::default()
        });
        server.ready();
        server
    }
}

/// Sends a call that becomes an operation, and returns the operation's path. `url` is the webhook that the call names.
fn accept(server: &Server, path: &str, url: Option<&str>, body: &str) -> String {
    let mut headers = vec![
        ("content-type", "application/json"),
        ("prefer", "respond-async"),
    ];
    headers.extend(url.map(|url| ("webhook-url", url)));
    let answer = server.call("POST", path, &headers, Some(body.as_bytes()));
    let text = String::from_utf8_lossy(&answer.bytes);
    assert_eq!(answer.status, 202, "{text}");
    answer.header("location").unwrap().to_owned()
}

/// Waits until the webhook of an operation is in a state, and returns the operation.
fn reaches(server: &Server, location: &str, state: &str) -> Value {
    until_found(|| {
        let operation = server.get(location).json();
        match operation["metadata"]["webhook"]["state"] == state {
            true => Ok(operation),
            false => Err(format!("{state}: {operation}")),
        }
    })
}

/// The attempts that an operation shows.
fn attempts(operation: &Value) -> &[Value] {
    let attempts = &operation["metadata"]["webhook"]["attempts"];
    attempts.as_array().unwrap_or_else(|| panic!("{operation}"))
}

/// The operation as a message has it: a message does not describe its own delivery.
fn without_webhook(mut operation: Value) -> Value {
    let metadata = operation["metadata"].as_object_mut().unwrap();
    assert!(metadata.remove("webhook").is_some());
    operation
}

/// The id of the message about an operation with this id or path.
fn message_id(operation: &str) -> String {
    let (_, id) = operation.rsplit_once("op_").unwrap();
    format!("msg_{id}")
}

fn public_key(server: &Server) -> VerifyingKey {
    let keys = server.get("/.well-known/penstock/webhook-keys").json();
    assert_eq!(keys["keys"][0]["algorithm"], "ed25519");
    let text = keys["keys"][0]["public_key"].as_str().unwrap();
    let text = text.strip_prefix("whpk_").unwrap();
    let key = BASE64_STANDARD.decode(text).unwrap();
    VerifyingKey::from_bytes(&key.try_into().unwrap()).unwrap()
}

#[test]
fn the_end_of_an_operation_is_announced_once_with_signatures_that_verify() {
    let setup = Setup::new(&[Reply::Status(200)]);
    let server = setup.start();
    let url = setup.receiver.url("/hooks?of=a");
    let location = accept(&server, PREDICT, Some(&url), ONE_ITEM);
    let operation = reaches(&server, &location, "delivered");

    let messages = setup.receiver.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    let message = &messages[0];
    assert_eq!(message.path, "/hooks?of=a");
    assert_eq!(message.header("content-type"), "application/json");
    assert_eq!(message.id(), message_id(&location));
    let sent_s: u64 = message.header("webhook-timestamp").parse().unwrap();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(sent_s.abs_diff(now_s.as_secs()) <= 60, "{sent_s}");
    message.verify(&public_key(&server));

    let webhook = &operation["metadata"]["webhook"];
    assert_eq!(webhook["url"], url);
    assert_eq!(webhook.get("next_attempt_time"), None);
    assert_eq!(attempts(&operation).len(), 1, "{operation}");
    assert_eq!(attempts(&operation)[0]["status"], 200);
    assert_eq!(attempts(&operation)[0].get("error"), None);

    let body = message.json();
    assert_eq!(body["type"], "operation.succeeded");
    assert_eq!(body["timestamp"], operation["metadata"]["end_time"]);
    assert!(body["data"]["response"]["predictions"].is_array());
    assert_eq!(body["data"], without_webhook(operation));
}

#[test]
fn a_message_that_the_receiver_did_not_take_is_sent_again_by_itself() {
    let setup = Setup::new(&[Reply::Status(500), Reply::Status(200)]);
    let server = setup.start();
    let url = setup.receiver.url("/");
    let location = accept(&server, PREDICT, Some(&url), ONE_ITEM);
    let failed = until_found(|| {
        let operation = server.get(&location).json();
        match attempts(&operation).is_empty() {
            false => Ok(operation),
            true => Err(operation.to_string()),
        }
    });
    let webhook = &failed["metadata"]["webhook"];
    assert_eq!(webhook["state"], "pending", "{webhook}");
    assert!(webhook["next_attempt_time"].is_string(), "{webhook}");
    assert_eq!(attempts(&failed).len(), 1, "{webhook}");
    assert_eq!(attempts(&failed)[0]["status"], 500);
    assert_eq!(attempts(&failed)[0]["error"], "it answered 500");

    let delivered = reaches(&server, &location, "delivered");
    let shown = attempts(&delivered).iter().map(|one| &one["status"]);
    assert_eq!(shown.collect::<Vec<_>>(), [500, 200], "{delivered}");
    let messages = setup.receiver.messages();
    let [first, second] = &messages[..] else {
        panic!("{messages:?}");
    };
    assert_eq!(first.id(), second.id());
    assert_eq!(first.body, second.body);
    // The schedule says five seconds, of which a tenth is random.
    let wait = second.came.duration_since(first.came);
    assert!(wait >= Duration::from_secs(4), "{wait:?}");
    let key = public_key(&server);
    first.verify(&key);
    second.verify(&key);
}

#[test]
fn a_receiver_that_answers_410_gets_nothing_more_until_a_caller_asks_for_it() {
    let setup = Setup::with_url(&[Reply::Status(410), Reply::Status(200)]);
    let server = setup.start();
    let first = accept(&server, PREDICT, None, ONE_ITEM);
    let disabled = reaches(&server, &first, "disabled");
    assert_eq!(attempts(&disabled)[0]["status"], 410, "{disabled}");
    let second = accept(&server, PREDICT, None, ONE_ITEM);
    let unsent = reaches(&server, &second, "disabled");
    assert!(attempts(&unsent).is_empty(), "{unsent}");
    let note = unsent["metadata"]["webhook"]["note"].as_str().unwrap();
    assert!(note.contains("410"), "{note}");
    assert_eq!(setup.receiver.messages().len(), 1);

    let again = server.post_json(&format!("{first}:announce"), "{}");
    let text = String::from_utf8_lossy(&again.bytes);
    assert_eq!(again.status, 200, "{text}");
    assert_eq!(again.json()["metadata"]["webhook"]["state"], "pending");
    let delivered = reaches(&server, &first, "delivered");
    assert_eq!(attempts(&delivered).len(), 1, "{delivered}");
    let messages = setup.receiver.messages();
    let [refused, taken] = &messages[..] else {
        panic!("{messages:?}");
    };
    assert_eq!(refused.id(), message_id(&first));
    assert_eq!(taken.id(), refused.id());
    assert_eq!(taken.body, refused.body);
}

#[test]
fn a_message_is_sent_again_after_a_kill_during_its_attempt() {
    let setup = Setup::new(&[Reply::Nothing, Reply::Status(200)]);
    let server = setup.start();
    let url = setup.receiver.url("/");
    let location = accept(&server, PREDICT, Some(&url), ONE_ITEM);
    setup.receiver.wait_for(1);
    let pending = reaches(&server, &location, "pending");
    assert!(attempts(&pending).is_empty(), "{pending}");
    server.kill();

    let server = setup.start();
    let delivered = reaches(&server, &location, "delivered");
    let [lost, made] = attempts(&delivered) else {
        panic!("{delivered}");
    };
    assert_eq!(lost["error"], "the host stopped during this attempt");
    assert_eq!(lost.get("status"), None);
    assert_eq!(made["status"], 200);
    let messages = setup.receiver.messages();
    let [cut_off, again] = &messages[..] else {
        panic!("{messages:?}");
    };
    assert_eq!(again.id(), message_id(&location));
    assert_eq!(again.id(), cut_off.id());
    assert_eq!(again.body, cut_off.body);
    again.verify(&public_key(&server));
}

/// Calls that one thread posts while another one kills the server.
struct Storm {
    /// The address of the server; `None` while there is none.
    address: Mutex<Option<SocketAddr>>,
    /// The ids of the operations whose calls have a 202.
    accepted: Mutex<BTreeSet<String>>,
    url: String,
}

impl Storm {
    const CALLS: usize = 60;
    const KILLS: usize = 2;
    /// Some 60 ms for a run, so that calls come faster than they end.
    const ROUNDS: usize = 60_000;

    /// Posts the calls, each until it has a 202.
    fn post_all(&self) {
        for number in 0..Self::CALLS {
            let id = until_found(|| self.try_post(number));
            self.accepted.lock().unwrap().insert(id);
        }
    }

    fn try_post(&self, number: usize) -> Result<String, String> {
        let address = self.address.lock().unwrap().ok_or("there is no server")?;
        let key = format!("call-{number}");
        let headers = [
            ("content-type", "application/json"),
            ("prefer", "respond-async"),
            ("webhook-url", self.url.as_str()),
            // A call whose 202 a kill cut off is repeated, and must not become a second operation.
            ("idempotency-key", key.as_str()),
        ];
        let body = json!({ "inputs": { "times": [Self::ROUNDS], "x": [number] } }).to_string();
        let sent = try_call(address, "POST", HEAVY, &headers, Some(body.as_bytes()));
        let answer = sent.map_err(|error| error.to_string())?;
        match answer.status {
            202 => Ok(id_of(&answer.json())),
            status => Err(format!(
                "{status} {}",
                String::from_utf8_lossy(&answer.bytes)
            )),
        }
    }
}

fn id_of(operation: &Value) -> String {
    operation["metadata"]["id"].as_str().unwrap().to_owned()
}

/// The ids of all operations, from all pages of the list.
fn listed(server: &Server) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut page = String::new();
    loop {
        let list = server
            .get(&format!("/v1/operations?page_size=200{page}"))
            .json();
        ids.extend(list["operations"].as_array().unwrap().iter().map(id_of));
        match list["next_page_token"].as_str() {
            Some(token) => page = format!("&page_token={token}"),
            None => return ids,
        }
    }
}

#[test]
fn every_operation_and_nothing_else_is_announced_although_the_server_is_killed_twice() {
    let mut setup = Setup::new(&[Reply::Status(200)]);
    setup.policy = "[operations]\nlease_ms = 1000\nworkers = 1\nmax_attempts = 16\n\
                    [idempotency]\nlease_ms = 1000\n";
    let first = setup.start();
    let storm = Storm {
        address: Mutex::new(Some(first.address)),
        accepted: Mutex::default(),
        url: setup.receiver.url("/"),
    };
    // The operations that were accepted before a kill, and not announced.
    let mut behind = Vec::new();
    let server = std::thread::scope(|scope| {
        scope.spawn(|| storm.post_all());
        let mut server = first;
        for kill in 1..=Storm::KILLS {
            let wanted = kill * Storm::CALLS / (Storm::KILLS + 1);
            let accepted = until_found(|| match storm.accepted.lock().unwrap().len() {
                accepted if accepted >= wanted => Ok(accepted),
                accepted => Err(format!("{accepted} calls of {wanted} have a 202")),
            });
            behind.push(accepted.saturating_sub(setup.receiver.ids().len()));
            server.kill();
            *storm.address.lock().unwrap() = None;
            server = setup.start();
            *storm.address.lock().unwrap() = Some(server.address);
        }
        server
    });
    assert!(
        behind.iter().any(|count| *count > 0),
        "all operations were announced before each kill"
    );
    let accepted = storm.accepted.lock().unwrap().clone();
    assert_eq!(accepted.len(), Storm::CALLS);
    assert_eq!(listed(&server), accepted);

    let expected: BTreeSet<String> = accepted.iter().map(|id| message_id(id)).collect();
    until_found(|| {
        let missing = expected.difference(&setup.receiver.ids()).count();
        match missing {
            0 => Ok(()),
            _ => Err(format!("{missing} operations are not announced")),
        }
    });
    assert_eq!(setup.receiver.ids(), expected);
    let messages = setup.receiver.messages();
    // Only an attempt in progress at a kill is repeated.
    let most = Storm::CALLS + Storm::KILLS * AT_ONCE;
    assert!(messages.len() <= most, "{} messages", messages.len());
    let mut bodies = BTreeMap::new();
    for message in &messages {
        let body = message.json();
        assert_eq!(body["type"], "operation.succeeded", "{body}");
        assert_eq!(message_id(&id_of(&body["data"])), message.id());
        let first = bodies.entry(message.id()).or_insert(&message.body);
        assert_eq!(**first, message.body, "{} changed", message.id());
    }
}

#[test]
fn the_url_of_a_tenant_is_told_of_all_its_operations_and_of_cancelled_ones_too() {
    let mut setup = Setup::with_url(&[Reply::Status(200)]);
    setup.policy = "[operations]\nworkers = 1\n";
    let server = setup.start();
    let running = accept(&server, HEAVY, None, LONG);
    until_found(|| {
        let operation = server.get(&running).json();
        match operation["metadata"]["state"] == "running" {
            true => Ok(()),
            false => Err(operation.to_string()),
        }
    });
    // The only worker is busy.
    let queued = accept(&server, HEAVY, None, LONG);
    let succeeds = accept(&server, PREDICT, None, ONE_ITEM);
    for location in [&queued, &running] {
        let cancelled = server.post_json(&format!("{location}:cancel"), "{}");
        assert_eq!(cancelled.status, 200);
    }
    for (location, state, event) in [
        (&queued, "cancelled", "operation.cancelled"),
        (&running, "cancelled", "operation.cancelled"),
        (&succeeds, "succeeded", "operation.succeeded"),
    ] {
        let operation = reaches(&server, location, "delivered");
        assert_eq!(operation["metadata"]["state"], state, "{operation}");
        // It may contain a secret of the operator.
        assert_eq!(operation["metadata"]["webhook"].get("url"), None);
        let messages = setup.receiver.messages();
        let message = messages.iter().find(|one| one.id() == message_id(location));
        let message = message.unwrap_or_else(|| panic!("{location}: {messages:?}"));
        assert_eq!(message.path, "/own");
        message.verify(&public_key(&server));
        let body = message.json();
        assert_eq!(body["type"], event);
        assert_eq!(body["data"], without_webhook(operation));
    }
    assert_eq!(setup.receiver.messages().len(), 3);
}

#[test]
fn a_webhook_that_may_not_be_reached_is_refused_and_its_call_is_not_stored() {
    let setup = Setup::new(&[Reply::Status(200)]);
    let server = setup.start();
    let deferred = ("prefer", "respond-async");
    let own = setup.receiver.url("/");
    for (more, url, words) in [
        (
            Some(deferred),
            "https://10.0.0.1/x",
            "10.0.0.1, which is not a public address",
        ),
        // The operator allowed another port of this host.
        (
            Some(deferred),
            "https://127.0.0.1:1/",
            "127.0.0.1, which is not a public address",
        ),
        (
            Some(deferred),
            "http://127.0.0.1:1/",
            "must begin with https://",
        ),
        (None, own.as_str(), "`Prefer: respond-async`"),
    ] {
        let mut headers = vec![("content-type", "application/json"), ("webhook-url", url)];
        headers.extend(more);
        let answer = server.call("POST", PREDICT, &headers, Some(ONE_ITEM.as_bytes()));
        assert_eq!(answer.status, 400, "{words}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], "webhook_refused", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        assert_eq!(answer.header("location"), None);
    }
    assert!(listed(&server).is_empty());
    assert!(setup.receiver.messages().is_empty());
}

#[test]
fn a_receiver_that_never_answers_delays_neither_operations_nor_the_end_of_the_server() {
    const OPERATIONS: usize = 20;
    // Less than the time of one attempt, 15 seconds.
    const AT_MOST: Duration = Duration::from_secs(10);
    let setup = Setup::new(&[Reply::Nothing]);
    let mut server = setup.start();
    let url = setup.receiver.url("/");
    let accept = |server: &Server| accept(server, PREDICT, Some(&url), ONE_ITEM);
    // They take all the attempts that the tenant may have at the same time.
    for _ in 0..AT_ONCE {
        accept(&server);
    }
    setup.receiver.wait_for(AT_ONCE);

    let began = Instant::now();
    let locations: Vec<String> = (0..OPERATIONS).map(|_| accept(&server)).collect();
    for location in &locations {
        let wait = [("prefer", "wait=10")];
        let operation = server.call("GET", location, &wait, None).json();
        assert_eq!(operation["done"], true, "{operation}");
        let webhook = &operation["metadata"]["webhook"];
        assert_eq!(webhook["state"], "pending", "{webhook}");
        assert!(attempts(&operation).is_empty(), "{webhook}");
    }
    let took = began.elapsed();
    assert!(took < AT_MOST, "{took:?}");

    let (code, took) = server.terminate();
    assert_eq!(code, Some(0));
    assert!(took < AT_MOST, "{took:?}");
}
