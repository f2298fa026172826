//! Key-value stores from a component's view. The host serves a component whose caller selects the operations on stores,
//! over HTTP, through both entry points.

use crate::common;

use common::{Response, call, root};
use penstock_host::app::Severity;
use penstock_host::engine::Ticker;
use penstock_host::entry_points::{Direct, EntryPointKind, EntryPointSettings, Http, link};
use penstock_host::server::{EntryPoint, Server};
use penstock_host::settings::Settings;
use penstock_host::{AppOptions, check, up};
use penstock_kv::{
    MAX_KV_KEY_BYTES, MAX_VALUE_BYTES, Page, Position, Reply, Store, StoreError, Swap, check_kv_key,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Names in one page of this store. It is small, so that a listing has several pages.
const PAGE: usize = 100;

/// A store in memory whose durability the test controls.
struct ControlledStore {
    entries: Mutex<BTreeMap<String, Vec<u8>>>,
    writes: AtomicU64,
    /// The position up to which everything is durable. A wait beyond it lasts until it is raised.
    durable: watch::Sender<u64>,
    broken: AtomicBool,
    /// Answers come later, as from another machine.
    slow: AtomicBool,
    waits: AtomicUsize,
}

impl ControlledStore {
    /// A store in which everything is durable at once.
    fn new() -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            writes: AtomicU64::new(0),
            durable: watch::Sender::new(u64::MAX),
            broken: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            waits: AtomicUsize::new(0),
        })
    }

    fn put(&self, name: &str, value: &[u8]) {
        self.entries
            .lock()
            .unwrap()
            .insert(name.to_owned(), value.to_vec());
        self.writes.fetch_add(1, Ordering::SeqCst);
    }

    fn now<'a, T: Send + 'a>(&self, answer: Result<T, StoreError>) -> Reply<'a, T> {
        if self.slow.load(Ordering::SeqCst) {
            return Reply::later(async move {
                tokio::task::yield_now().await;
                answer
            });
        }
        Reply::ready(answer)
    }
}

impl Store for ControlledStore {
    fn describe(&self) -> String {
        "held by a test".to_owned()
    }

    fn get<'a>(&'a self, name: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        self.now(Ok(self.entries.lock().unwrap().get(name).cloned()))
    }

    fn get_many<'a>(&'a self, names: &'a [String]) -> Reply<'a, Vec<Option<Vec<u8>>>> {
        let entries = self.entries.lock().unwrap();
        self.now(Ok(names.iter().map(|n| entries.get(n).cloned()).collect()))
    }

    fn exists<'a>(&'a self, name: &'a str) -> Reply<'a, bool> {
        self.now(Ok(self.entries.lock().unwrap().contains_key(name)))
    }

    fn set<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Reply<'a, ()> {
        if name == "away" {
            return self.now(Err(StoreError::Unavailable("secret.example:6379".into())));
        }
        self.put(name, value);
        self.now(Ok(()))
    }

    fn set_many<'a>(&'a self, entries: &'a [(String, Vec<u8>)]) -> Reply<'a, ()> {
        for (name, value) in entries {
            self.put(name, value);
        }
        self.now(Ok(()))
    }

    fn delete<'a>(&'a self, name: &'a str) -> Reply<'a, ()> {
        self.entries.lock().unwrap().remove(name);
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.now(Ok(()))
    }

    fn delete_many<'a>(&'a self, names: &'a [String]) -> Reply<'a, ()> {
        for name in names {
            self.entries.lock().unwrap().remove(name);
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.now(Ok(()))
    }

    fn increment<'a>(&'a self, name: &'a str, delta: i64) -> Reply<'a, i64> {
        check_kv_key(name).expect("the host has looked at the name");
        let mut entries = self.entries.lock().unwrap();
        let now = match entries
            .get(name)
            .map(|value| <[u8; 8]>::try_from(&value[..]))
        {
            None => 0,
            Some(Ok(bytes)) => i64::from_le_bytes(bytes),
            Some(Err(_)) => return self.now(Err(StoreError::NotACounter)),
        };
        let Some(sum) = now.checked_add(delta) else {
            return self.now(Err(StoreError::Overflow));
        };
        entries.insert(name.to_owned(), sum.to_le_bytes().to_vec());
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.now(Ok(sum))
    }

    fn compare_and_swap<'a>(
        &'a self,
        name: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    ) -> Reply<'a, Swap> {
        let mut entries = self.entries.lock().unwrap();
        let now = entries.get(name).cloned();
        if now.as_deref() != expected {
            return self.now(Ok(Swap::Differs(now)));
        }
        entries.insert(name.to_owned(), value.to_vec());
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.now(Ok(Swap::Swapped))
    }

    fn list<'a>(&'a self, cursor: Option<&'a str>) -> Reply<'a, Page> {
        if cursor.is_some_and(|cursor| !cursor.starts_with("after:")) {
            return self.now(Err(StoreError::BadCursor));
        }
        let after = cursor.and_then(|cursor| cursor.strip_prefix("after:"));
        let entries = self.entries.lock().unwrap();
        let names: Vec<String> = entries
            .keys()
            .filter(|name| after.is_none_or(|after| name.as_str() > after))
            .take(PAGE)
            .cloned()
            .collect();
        let full = names.len() == PAGE;
        let cursor = names.last().filter(|_| full).map(|n| format!("after:{n}"));
        self.now(Ok(Page { names, cursor }))
    }

    fn position(&self) -> Position {
        Position(self.writes.load(Ordering::SeqCst))
    }

    fn durable<'a>(&'a self, up_to: Position) -> Reply<'a, ()> {
        if self.broken.load(Ordering::SeqCst) {
            return Reply::ready(Err(StoreError::Unavailable("the disk is gone".into())));
        }
        if *self.durable.borrow() >= up_to.0 {
            return Reply::ready(Ok(()));
        }
        self.waits.fetch_add(1, Ordering::SeqCst);
        let mut durable = self.durable.subscribe();
        Reply::later(async move {
            let _ = durable.wait_for(|durable| *durable >= up_to.0).await;
            Ok(())
        })
    }
}

/// The grants of the served component and the store of each label.
const MANIFEST: &str = r#"spin_manifest_version = 2
[application]
name = "stores"
[[trigger.http]]
route = "/..."
component = "guest"
[component.guest]
source = "SOURCE"
key_value_stores = ["default", "strict", "absent"]
[component.guest.tool.penstock]
key_value_stores = ["counters"]
"#;

const RUNTIME_CONFIG: &str = r#"
[key_value_store.strict]
type = "memory"
durability = "write"
[key_value_store.absent]
type = "memory"
[key_value_store.forbidden]
type = "memory"
"#;

/// A running server and the stores behind it.
struct Running {
    address: SocketAddr,
    store: Arc<ControlledStore>,
    strict: Arc<ControlledStore>,
    counters: Arc<ControlledStore>,
    server: Arc<Server>,
    _ticker: Ticker,
    _runtime: tokio::runtime::Runtime,
    _files: tempfile::TempDir,
}

fn application(files: &Path) -> AppOptions {
    let source = root().join("build/test/kv-guest.wasm");
    assert!(source.exists(), "run scripts/build --guests");
    let app = files.join("spin.toml");
    let text = MANIFEST.replace("SOURCE", &source.display().to_string());
    std::fs::write(&app, text).unwrap();
    let runtime_config = files.join("runtime.toml");
    std::fs::write(&runtime_config, RUNTIME_CONFIG).unwrap();
    let models = files.join("models");
    std::fs::create_dir(&models).unwrap();
    AppOptions {
        app,
        models: Some(models),
        policy: files.join("penstock.toml"),
        onnxruntime: None,
        openvino: None,
        runtime_config: Some(runtime_config),
        serving: penstock_host::app::Serving::default(),
        state_dir: Some(root().join("target/penstock-test-state")),
        launcher: None,
    }
}

fn start(door: EntryPointKind, settings: &str) -> Running {
    let files = tempfile::tempdir().unwrap();
    let options = application(files.path());
    std::fs::write(&options.policy, settings).unwrap();
    let settings = Settings::load(&options.policy).expect("settings");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (store, strict, counters) = (
        ControlledStore::new(),
        ControlledStore::new(),
        ControlledStore::new(),
    );
    let stores: BTreeMap<String, Arc<dyn Store>> = BTreeMap::from([
        ("default".to_owned(), store.clone() as _),
        ("strict".to_owned(), strict.clone() as _),
        ("counters".to_owned(), counters.clone() as _),
    ]);
    let prepared = runtime
        .block_on(up::prepare_with(&options, &settings, async |configs| {
            let labels: Vec<&str> = configs.keys().map(String::as_str).collect();
            assert_eq!(
                labels,
                ["absent", "counters", "default", "strict"],
                "what is not granted is not opened"
            );
            Ok(stores)
        }))
        .expect("the application is prepared");
    let ticker = Ticker::start(prepared.compiled.component.engine()).unwrap();
    let door_settings = EntryPointSettings {
        retained_bytes: penstock_host::entry_points::RETAINED_BYTES,
        count: settings.instances.count,
        max_reuse: settings.instances.max_reuse,
        total_timeout: Duration::from_millis(settings.server.total_timeout_ms),
    };
    let pre = link(&prepared.compiled).expect("linked");
    let door = match door {
        EntryPointKind::Direct => EntryPoint::Direct(Arc::new(
            Direct::new(pre, prepared.source, door_settings).expect("a direct door"),
        )),
        EntryPointKind::Http => {
            EntryPoint::Http(Http::new(pre, prepared.source, door_settings).expect("an HTTP door"))
        }
    };
    let server = Server::new(door, settings.server.clone());
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let serving = server.clone();
    runtime.spawn(async move { serving.serve(listener, std::future::pending()).await });
    Running {
        address,
        store,
        strict,
        counters,
        server,
        _ticker: ticker,
        _runtime: runtime,
        _files: files,
    }
}

impl Running {
    fn get(&self, path: &str) -> Response {
        call(self.address, "GET", path, &[], None)
    }

    /// Returns the answer of a successful call.
    #[track_caller]
    fn told(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.json());
        answer.json()
    }

    /// Returns the name of the error of a failed call.
    #[track_caller]
    fn refused(&self, path: &str) -> (String, String) {
        let answer = self.get(path);
        let body = answer.json();
        assert_eq!(answer.status, 400, "{path}: {body}");
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (text("error"), text("words"))
    }

    /// Sends a request in a thread, for answers that must wait.
    fn ask(&self, path: &str) -> std::thread::JoinHandle<Response> {
        let (address, path) = (self.address, path.to_owned());
        std::thread::spawn(move || call(address, "GET", &path, &[], None))
    }
}

const DOORS: [EntryPointKind; 2] = [EntryPointKind::Direct, EntryPointKind::Http];

/// Long enough for an answer that does not wait, on a busy machine.
const A_MOMENT: Duration = Duration::from_millis(300);

#[test]
fn every_call_of_the_synchronous_interfaces_does_what_it_says_through_both_doors() {
    for door in DOORS {
        let host = start(door, "");
        for slow in [false, true] {
            host.store.slow.store(slow, Ordering::SeqCst);
            host.store.entries.lock().unwrap().clear();
            for interface in ["wasi", "spin2"] {
                let at = |call: &str| host.told(&format!("/{interface}/{call}"));
                assert_eq!(at("get?label=default&name=a"), Value::Null);
                assert_eq!(at("exists?label=default&name=a"), json!(false));
                assert_eq!(at("set?label=default&name=a&value=one"), Value::Null);
                assert_eq!(at("get?label=default&name=a"), json!("one"));
                assert_eq!(at("exists?label=default&name=a"), json!(true));
                assert_eq!(
                    at("get?label=counters&name=a"),
                    Value::Null,
                    "another store"
                );
                assert_eq!(at("delete?label=default&name=a"), Value::Null);
                assert_eq!(at("delete?label=default&name=a"), Value::Null);
                assert_eq!(at("get?label=default&name=a"), Value::Null);
            }
            let increment = |delta: &str| {
                host.told(&format!(
                    "/wasi/increment?label=default&name=c&delta={delta}"
                ))
            };
            assert_eq!(increment("5"), json!(5));
            assert_eq!(increment("-7"), json!(-2));
            assert_eq!(increment("0"), json!(-2));
            assert_eq!(increment("-9223372036854775806"), json!(i64::MIN));

            host.told("/wasi/set-many?label=default&prefix=k&count=250&value=x");
            let many = host.told("/wasi/get-many?label=default&prefix=k&count=251");
            assert_eq!(many[0], json!(["k0", "x"]));
            assert_eq!(many[249], json!(["k249", "x"]));
            assert_eq!(many[250], json!(["k250", null]));

            let mut names = Vec::new();
            let mut cursor = String::new();
            let mut pages = 0;
            loop {
                let page = host.told(&format!("/wasi/list?label=default{cursor}"));
                names.extend(page["names"].as_array().unwrap().clone());
                pages += 1;
                match page["cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!((names.len(), pages), (251, 3));
            let all = host.told("/spin2/list?label=default");
            assert_eq!(all.as_array().unwrap(), &names);

            host.told("/wasi/delete-many?label=default&prefix=k&count=300");
            assert_eq!(host.told("/spin2/list?label=default"), json!(["c"]));
            for empty in ["get-many", "set-many", "delete-many"] {
                host.told(&format!(
                    "/wasi/{empty}?label=default&prefix=k&count=0&value=x"
                ));
            }
        }
    }
}

#[test]
fn the_asynchronous_interface_does_the_same_and_streams_its_listing() {
    let host = start(EntryPointKind::Http, "");
    for slow in [false, true] {
        host.store.slow.store(slow, Ordering::SeqCst);
        host.store.entries.lock().unwrap().clear();
        let at = |call: &str| host.told(&format!("/spin3/{call}"));
        assert_eq!(at("get?label=default&name=a"), Value::Null);
        assert_eq!(at("set?label=default&name=a&value=one"), Value::Null);
        assert_eq!(at("get?label=default&name=a"), json!("one"));
        assert_eq!(at("exists?label=default&name=a"), json!(true));
        assert_eq!(at("delete?label=default&name=a"), Value::Null);
        assert_eq!(at("exists?label=default&name=a"), json!(false));
        assert_eq!(at("list?label=default"), json!([]));
        assert_eq!(at("list-some?label=default"), json!(false));
        for count in [1, PAGE, 25 * PAGE + 1] {
            host.store.entries.lock().unwrap().clear();
            for n in 0..count {
                host.store.put(&format!("n{n:06}"), b"");
            }
            let names = at("list?label=default");
            let names = names.as_array().unwrap();
            assert_eq!(names.len(), count);
            assert_eq!(names[count - 1], json!(format!("n{:06}", count - 1)));
            assert_eq!(at("list-some?label=default"), json!(true));
        }
    }
    for (label, error) in [
        ("forbidden", "access-denied"),
        ("", "access-denied"),
        ("absent", "no-such-store"),
    ] {
        assert_eq!(
            host.refused(&format!("/spin3/get?label={label}&name=a")).0,
            error
        );
    }
    let (error, words) = host.refused("/spin3/set?label=default&name=a&large=4194305");
    assert_eq!(error, "other");
    assert!(words.contains("4194305 bytes"), "{words}");
    assert_eq!(
        host.refused("/spin3/hoard?label=default").0,
        "store-table-full"
    );
    assert_eq!(host.told("/spin3/open?label=default"), json!("open"));
}

#[test]
fn each_error_is_told_by_its_name() {
    for door in DOORS {
        let host = start(door, "");
        for interface in ["wasi", "spin2"] {
            for (label, error) in [
                ("forbidden", "access-denied"),
                ("nowhere", "access-denied"),
                ("", "access-denied"),
                ("Default", "access-denied"),
                ("absent", "no-such-store"),
            ] {
                let (told, _) = host.refused(&format!("/{interface}/get?label={label}&name=a"));
                assert_eq!(told, error, "{interface} {label}");
            }
        }
        let long = MAX_KV_KEY_BYTES + 1;
        let large = MAX_VALUE_BYTES + 1;
        host.told("/wasi/set?label=default&name=text&value=words");
        host.told(&format!(
            "/wasi/increment?label=default&name=top&delta={}",
            i64::MAX
        ));
        for (call, said) in [
            (
                format!("get?label=default&long={long}"),
                "a name has 513 bytes",
            ),
            (format!("exists?label=default&long={long}"), "at most 512"),
            (format!("delete?label=default&long={long}"), "a name has"),
            (
                format!("set?label=default&long={long}&value=x"),
                "a name has",
            ),
            (
                format!("increment?label=default&long={long}&delta=1"),
                "a name has",
            ),
            (
                format!("swap?label=default&long={long}&value=x"),
                "a name has",
            ),
            (
                format!("set?label=default&name=a&large={large}"),
                "a value has 4194305 bytes",
            ),
            (
                format!("swap?label=default&name=a&large={large}"),
                "a value has",
            ),
            (
                format!("set-many?label=default&prefix=p&count=2&large={large}"),
                "a value has",
            ),
            (
                "set-many?label=default&prefix=p&count=1001&value=x".into(),
                "at most 1000",
            ),
            (
                "get-many?label=default&prefix=p&count=1001".into(),
                "1001 entries",
            ),
            (
                "delete-many?label=default&prefix=p&count=1001".into(),
                "use several calls",
            ),
            (
                "increment?label=default&name=text&delta=1".into(),
                "not a counter",
            ),
            (
                "increment?label=default&name=top&delta=1".into(),
                "range of 64 bits",
            ),
            ("list?label=default&cursor=mine".into(), "cursor"),
            (
                "set?label=default&name=away&value=x".into(),
                "the server's log says why",
            ),
        ] {
            let (error, words) = host.refused(&format!("/wasi/{call}"));
            assert_eq!(error, "other", "{call}");
            assert!(words.contains(said), "{call}: {words}");
            assert!(
                words.contains("default") || words.contains("entries"),
                "{words}"
            );
            assert!(!words.contains("secret"), "{words}");
        }
        let (error, words) = host.refused(&format!("/spin2/get?label=default&long={long}"));
        assert_eq!(error, "other");
        assert!(words.contains("a name has 513 bytes"), "{words}");
        // Values at the limits are accepted.
        host.told(&format!(
            "/wasi/set?label=default&long={MAX_KV_KEY_BYTES}&large={MAX_VALUE_BYTES}"
        ));
        let read = host.told(&format!("/wasi/get?label=default&long={MAX_KV_KEY_BYTES}"));
        assert_eq!(read, json!({ "bytes": MAX_VALUE_BYTES }));
        assert_eq!(host.server.entry_point().counts().trapped(), 0);
    }
}

#[test]
fn a_batch_holds_no_more_of_the_host_than_an_instance_may() {
    let host = start(
        EntryPointKind::Direct,
        "[instances]\nmemory_bytes = 33554432\n",
    );
    for n in 0..40 {
        host.store.put(&format!("p{n}"), &vec![0; 1 << 20]);
    }
    let (error, words) = host.refused("/wasi/get-many?label=default&prefix=p&count=40");
    assert_eq!(error, "other");
    assert!(words.contains("request fewer"), "{words}");
    let few = host.told("/wasi/get-many?label=default&prefix=p&count=4");
    assert_eq!(few[3], json!(["p3", { "bytes": 1 << 20 }]));
    // The host keeps and counts the values that compare-and-swap has read.
    let (error, words) = host.refused("/wasi/hoard-cas?label=default&name=p0");
    assert_eq!(error, "other");
    assert!(words.contains("the limit is 33554432"), "{words}");
    for n in 0..2000 {
        host.store.put(&format!("{n:0>500}"), b"");
    }
    assert_eq!(
        host.told("/spin2/list?label=default")
            .as_array()
            .unwrap()
            .len(),
        2040
    );
    for n in 0..40_000 {
        host.store.put(&format!("{n:0>501}"), b"");
    }
    let (error, words) = host.refused("/spin2/list?label=default");
    assert_eq!(error, "other");
    assert!(words.contains("list them in pages"), "{words}");
}

#[test]
fn of_many_who_swap_at_once_one_wins() {
    let host = start(EntryPointKind::Direct, "");
    for round in 0..8 {
        host.store.slow.store(round % 2 == 1, Ordering::SeqCst);
        let asked: Vec<_> = (0..64)
            .map(|n| {
                host.ask(&format!(
                    "/wasi/swap?label=default&name=r{round}&value=w{n}"
                ))
            })
            .collect();
        let answers: Vec<Value> = asked
            .into_iter()
            .map(|asked| asked.join().unwrap().json())
            .collect();
        let winners: Vec<usize> = (0..64)
            .filter(|n| answers[*n]["swapped"] == json!(true))
            .collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let won = json!(format!("w{}", winners[0]));
        assert_eq!(
            host.told(&format!("/wasi/get?label=default&name=r{round}")),
            won
        );
        for (n, answer) in answers.iter().enumerate() {
            assert!(n == winners[0] || answer["seen"] == won, "{answer}");
        }
    }
    let asked: Vec<_> = (0..64)
        .map(|_| host.ask("/wasi/increment?label=counters&name=all&delta=1"))
        .collect();
    let mut sums: Vec<i64> = asked
        .into_iter()
        .map(|asked| asked.join().unwrap().json().as_i64().unwrap())
        .collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=64).collect::<Vec<i64>>());
}

#[test]
fn a_lost_swap_gives_a_handle_with_the_latest_value() {
    for door in DOORS {
        let host = start(door, "");
        host.told("/wasi/set?label=default&name=a&value=before");
        assert_eq!(
            host.told("/wasi/swap-late?label=default&name=a"),
            json!({ "seen": "between", "swapped": true, "now": "again" })
        );
        assert_eq!(
            host.told("/wasi/swap?label=default&name=a&value=x&expected=other"),
            json!({ "swapped": false, "seen": "again" })
        );
        assert_eq!(
            host.told("/wasi/swap?label=default&name=a&value=x&expected=again"),
            json!({ "swapped": true })
        );
    }
}

#[test]
fn handles_may_be_dropped_in_any_order() {
    for door in DOORS {
        let host = start(door, "");
        host.told("/wasi/set?label=default&name=a&value=before");
        for seen in ["before", "dropped"] {
            assert_eq!(
                host.told("/wasi/drop-order?label=default&name=a"),
                json!({ "seen": seen, "swapped": true, "lost": seen == "before" })
            );
        }
    }
}

#[test]
fn an_instance_that_opens_without_end_is_stopped_and_no_other_is_harmed() {
    for door in DOORS {
        let host = start(door, "[instances]\ncount = 4\n");
        let (error, words) = host.refused("/wasi/hoard?label=default");
        assert_eq!(error, "other");
        assert!(words.contains("too many open stores"), "{words}");
        // The instance that kept them all is not used again.
        for _ in 0..8 {
            assert_eq!(host.told("/wasi/open?label=default"), json!("open"));
        }
        assert_eq!(
            host.refused("/spin2/hoard?label=default").0,
            "store-table-full"
        );
        let hoards: Vec<_> = (0..8)
            .map(|_| host.ask("/wasi/hoard?label=default"))
            .collect();
        let others: Vec<_> = (0..32)
            .map(|_| host.ask("/wasi/increment?label=default&name=n&delta=1"))
            .collect();
        for hoard in hoards {
            assert_eq!(hoard.join().unwrap().status, 400);
        }
        for other in others {
            assert_eq!(other.join().unwrap().status, 200);
        }
        assert_eq!(
            host.told("/wasi/increment?label=default&name=n&delta=0"),
            json!(32)
        );
        // A trap with a store open costs its own request.
        assert_eq!(host.get("/wasi/open-and-trap?label=default").status, 500);
        assert_eq!(host.told("/wasi/open?label=default"), json!("open"));
        assert!(host.server.entry_point().counts().live() <= 5);
    }
}

#[test]
fn an_answer_waits_until_what_it_rests_on_is_durable() {
    for door in DOORS {
        let host = start(door, "");
        host.told("/wasi/set?label=default&name=a&value=old");
        // From here on nothing becomes durable without the test.
        host.store.durable.send_replace(host.store.position().0);
        for path in [
            "/wasi/set?label=default&name=a&value=new",
            "/wasi/get?label=default&name=a",
            "/wasi/increment?label=default&name=n&delta=1",
            "/spin2/list?label=default",
            "/wasi/list?label=default",
            "/wasi/get-many?label=default&prefix=a&count=1",
            "/wasi/swap?label=default&name=b&value=b",
        ] {
            host.store.put("by somebody else", b"");
            let before = host.store.waits.load(Ordering::SeqCst);
            let asked = host.ask(path);
            common::until(&format!("{path} waits"), || {
                host.store.waits.load(Ordering::SeqCst) != before
            });
            std::thread::sleep(A_MOMENT);
            assert!(!asked.is_finished(), "{path} was answered too early");
            // The operation was applied, and requests that use no store do not wait.
            let place = host.store.position().0;
            host.store.durable.send_replace(place);
            assert_eq!(asked.join().unwrap().status, 200, "{path}");
        }
        assert_eq!(host.told("/wasi/get?label=default&name=a"), json!("new"));
    }
}

#[test]
fn an_answer_waits_for_entries_that_its_instance_saw_and_for_no_others() {
    let host = start(EntryPointKind::Direct, "[instances]\ncount = 1\n");
    host.store.durable.send_replace(0);
    // An instance that never used a store.
    assert_eq!(host.get("/none/at-all").status, 200);
    assert_eq!(host.store.waits.load(Ordering::SeqCst), 0);
    host.store.put("a", b"not on disk");
    let first = host.ask("/wasi/remember?label=default&name=a");
    std::thread::sleep(A_MOMENT);
    // The same instance, free again, answers with the value that it read before and asks no store.
    let second = host.ask("/wasi/remember?label=default&name=a");
    std::thread::sleep(A_MOMENT);
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(host.store.waits.load(Ordering::SeqCst), 2);
    host.store.durable.send_replace(u64::MAX);
    for asked in [first, second] {
        assert_eq!(asked.join().unwrap().json(), json!("not on disk"));
    }
    assert_eq!(host.server.entry_point().counts().created(), 1);
}

#[test]
fn an_answer_that_rests_on_what_may_be_lost_is_replaced_by_an_error() {
    for door in DOORS {
        let host = start(door, "");
        host.store.broken.store(true, Ordering::SeqCst);
        let answer = host.get("/wasi/set?label=default&name=a&value=x");
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["code"], json!("store_unavailable"));
        assert!(answer.header("retry-after").is_some());
        assert!(!answer.json().to_string().contains("the disk is gone"));
        host.store.broken.store(false, Ordering::SeqCst);
        assert_eq!(host.told("/wasi/get?label=default&name=a"), json!("x"));
        assert_eq!(host.server.entry_point().counts().trapped(), 0);
    }
}

#[test]
fn where_a_label_says_so_the_write_itself_waits() {
    let host = start(EntryPointKind::Direct, "");
    host.strict.broken.store(true, Ordering::SeqCst);
    for call in [
        "set?label=strict&name=a&value=x",
        "delete?label=strict&name=a",
        "increment?label=strict&name=n&delta=1",
        "set-many?label=strict&prefix=p&count=2&value=x",
        "delete-many?label=strict&prefix=p&count=2",
        "swap?label=strict&name=b&value=x",
    ] {
        // The guest gets the error, and its answer is held back as well.
        let answer = host.get(&format!("/wasi/{call}"));
        assert_eq!(answer.status, 503, "{call}");
    }
    host.strict.broken.store(false, Ordering::SeqCst);
    host.strict.durable.send_replace(host.strict.position().0);
    let told = || host.counters.entries.lock().unwrap().contains_key("told");
    let asked = host.ask("/wasi/tell?label=strict&name=a");
    std::thread::sleep(A_MOMENT);
    assert!(!asked.is_finished());
    assert_eq!(host.strict.waits.load(Ordering::SeqCst), 1);
    assert!(!told(), "the guest went on before its write was durable");
    host.strict.durable.send_replace(u64::MAX);
    assert_eq!(asked.join().unwrap().status, 200);
    assert!(told());
    // On another machine the guest continues and its answer waits.
    host.counters.entries.lock().unwrap().clear();
    host.store.durable.send_replace(host.store.position().0);
    let asked = host.ask("/wasi/tell?label=default&name=a");
    std::thread::sleep(A_MOMENT);
    assert!(!asked.is_finished() && told());
    host.store.durable.send_replace(u64::MAX);
    assert_eq!(asked.join().unwrap().status, 200);
}

#[test]
fn check_finds_labels_and_configurations_that_are_wrong() {
    let files = tempfile::tempdir().unwrap();
    let options = application(files.path());
    let errors = || -> Vec<String> {
        check::findings(&options, false)
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(errors(), Vec::<String>::new());
    let config = options.runtime_config.as_ref().unwrap();
    std::fs::write(config, "[key_value_store.strict]\ntype = \"memory\"\n").unwrap();
    let found = errors();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("spin.toml:9:"), "{found:?}");
    assert!(found[0].contains("no store is configured for the label `absent`"));
    std::fs::write(config, "[key_value_store.strict]\ntype = \"memry\"\n").unwrap();
    let found = errors();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("runtime.toml:2:"), "{found:?}");
}
