//! A component for tests: the path selects the operation on a store and the interface.
//!
//! Both entry points lead to the synchronous interfaces, `/wasi/…` and `/spin2/…`. The asynchronous one, `/spin3/…`,
//! must wait and so works only with the HTTP entry point. Answers are JSON. An error of an interface gets 400 with its
//! name.

#![allow(missing_docs)]

use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashMap;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package penstock:test-guest;
            world kv {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
                import fermyon:spin/key-value@2.0.0;
                export penstock:gate/door@0.1.0;
            }
        ",
        path: [
            "../../../wit/deps/keyvalue", "../../../wit/deps/spin", "../../../wit/types", "../../../wit/deps/nn", "../../../wit/nn",
            "../../../wit/auth", "../../../wit/quota", "../../../wit/idempotency", "../../../wit/usage", "../../../wit/operations", "../../../wit/batches", "../../../wit/validation", "../../../wit/inference", "../../../wit/adapter", "../../../wit/models", "../../../wit/cache", "../../../wit/policy", "../../../wit/gate",
        ],
        world: "penstock:test-guest/kv",
        generate_all,
    });
}

use bindings::exports::penstock::gate::door;
use bindings::fermyon::spin::key_value as spin2;
use bindings::wasi::keyvalue::{atomics, batch, store as wasi};
use spin_sdk::key_value as spin3;

struct Guest;
bindings::export!(Guest with_types_in bindings);

thread_local! {
    /// Buckets that outlive their request.
    static KEPT: RefCell<Vec<wasi::Bucket>> = const { RefCell::new(Vec::new()) };
    /// The value that an earlier request in this instance read.
    static REMEMBERED: RefCell<Option<Value>> = const { RefCell::new(None) };
}

/// The parameters of a call.
struct Call {
    path: String,
    query: HashMap<String, String>,
    body: Vec<u8>,
}

impl Call {
    fn new(target: &str, body: Vec<u8>) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            path: path.to_owned(),
            query,
            body,
        }
    }

    fn text(&self, name: &str) -> String {
        self.query.get(name).cloned().unwrap_or_default()
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    /// The name of the entry: `name`, or `long` letters.
    fn name(&self) -> String {
        match self.query.get("long") {
            Some(bytes) => "n".repeat(bytes.parse().unwrap_or_default()),
            None => self.text("name"),
        }
    }

    /// The value to write: `value`, or `large` bytes, or the body.
    fn value(&self) -> Vec<u8> {
        if let Some(bytes) = self.query.get("large") {
            return vec![b'v'; bytes.parse().unwrap_or_default()];
        }
        match self.query.get("value") {
            Some(value) => value.clone().into_bytes(),
            None => self.body.clone(),
        }
    }

    /// The names `prefix0`, `prefix1`, … of a batch.
    fn names(&self) -> Vec<String> {
        let prefix = self.text("prefix");
        (0..self.number("count"))
            .map(|n| format!("{prefix}{n}"))
            .collect()
    }
}

/// An error in the form that a test reads.
struct Failure(Value);

impl From<wasi::Error> for Failure {
    fn from(error: wasi::Error) -> Self {
        Self(match error {
            wasi::Error::NoSuchStore => json!({ "error": "no-such-store" }),
            wasi::Error::AccessDenied => json!({ "error": "access-denied" }),
            wasi::Error::Other(words) => json!({ "error": "other", "words": words }),
        })
    }
}

impl From<spin2::Error> for Failure {
    fn from(error: spin2::Error) -> Self {
        Self(match error {
            spin2::Error::StoreTableFull => json!({ "error": "store-table-full" }),
            spin2::Error::NoSuchStore => json!({ "error": "no-such-store" }),
            spin2::Error::AccessDenied => json!({ "error": "access-denied" }),
            spin2::Error::Other(words) => json!({ "error": "other", "words": words }),
        })
    }
}

impl From<spin3::Error> for Failure {
    fn from(error: spin3::Error) -> Self {
        Self(match error {
            spin3::Error::StoreTableFull => json!({ "error": "store-table-full" }),
            spin3::Error::NoSuchStore => json!({ "error": "no-such-store" }),
            spin3::Error::AccessDenied => json!({ "error": "access-denied" }),
            spin3::Error::Other(words) => json!({ "error": "other", "words": words }),
        })
    }
}

fn shown(value: Option<Vec<u8>>) -> Value {
    match value {
        Some(value) if value.len() <= 64 => String::from_utf8_lossy(&value).into(),
        Some(value) => json!({ "bytes": value.len() }),
        None => Value::Null,
    }
}

/// Performs a call of a synchronous interface.
fn perform(call: &Call) -> Result<Value, Failure> {
    let name = call.name();
    let (interface, operation) = call.path[1..].split_once('/').unwrap_or_default();
    let bucket = || wasi::open(&call.text("label"));
    match (interface, operation) {
        ("wasi", "open") => bucket().map(|_| json!("open")).map_err(Failure::from),
        ("wasi", "get") => Ok(shown(bucket()?.get(&name)?)),
        ("wasi", "set") => Ok(json!(bucket()?.set(&name, &call.value())?)),
        ("wasi", "delete") => Ok(json!(bucket()?.delete(&name)?)),
        ("wasi", "exists") => Ok(json!(bucket()?.exists(&name)?)),
        ("wasi", "list") => {
            let page = bucket()?.list_keys(call.query.get("cursor").map(String::as_str))?;
            Ok(json!({ "names": page.keys, "cursor": page.cursor }))
        }
        ("wasi", "increment") => {
            let delta = call.number("delta");
            Ok(json!(atomics::increment(&bucket()?, &name, delta)?))
        }
        ("wasi", "get-many") => {
            let entries = batch::get_many(&bucket()?, &call.names())?;
            let shown = entries.into_iter().map(|(n, v)| json!([n, shown(v)]));
            Ok(shown.collect())
        }
        ("wasi", "set-many") => {
            let value = call.value();
            let entries: Vec<_> = call
                .names()
                .into_iter()
                .map(|n| (n, value.clone()))
                .collect();
            Ok(json!(batch::set_many(&bucket()?, &entries)?))
        }
        ("wasi", "delete-many") => Ok(json!(batch::delete_many(&bucket()?, &call.names())?)),
        // Writes `value` if the entry is `expected`, once.
        ("wasi", "swap") => {
            let cas = atomics::Cas::new(&bucket()?, &name)?;
            let seen = shown(cas.current()?);
            if seen != call.query.get("expected").map_or(Value::Null, |e| json!(e)) {
                return Ok(json!({ "swapped": false, "seen": seen }));
            }
            match atomics::swap(cas, &call.value()) {
                Ok(()) => Ok(json!({ "swapped": true })),
                Err(atomics::CasError::StoreError(error)) => Err(error.into()),
                Err(atomics::CasError::CasFailed(latest)) => {
                    Ok(json!({ "swapped": false, "seen": shown(latest.current()?) }))
                }
            }
        }
        // Reads, lets another write come between, and swaps. This fails, and then succeeds with the new handle.
        ("wasi", "swap-late") => {
            let bucket = bucket()?;
            let cas = atomics::Cas::new(&bucket, &name)?;
            bucket.set(&name, b"between")?;
            let Err(atomics::CasError::CasFailed(latest)) = atomics::swap(cas, b"late") else {
                return Ok(json!("an old handle must fail"));
            };
            let seen = shown(latest.current()?);
            let swapped = atomics::swap(latest, b"again").is_ok();
            Ok(json!({ "seen": seen, "swapped": swapped, "now": shown(bucket.get(&name)?) }))
        }
        // Drops a store before the objects made from it, and in the other order.
        ("wasi", "drop-order") => {
            let first = bucket()?;
            let second = bucket()?;
            let cas = atomics::Cas::new(&first, &name)?;
            let other = atomics::Cas::new(&first, &name)?;
            drop(first);
            let seen = shown(cas.current()?);
            let swapped = atomics::swap(cas, b"dropped").is_ok();
            drop(second);
            let lost = matches!(
                atomics::swap(other, b"x"),
                Err(atomics::CasError::CasFailed(_))
            );
            Ok(json!({ "seen": seen, "swapped": swapped, "lost": lost }))
        }
        // Writes, and then sends data in another way than its answer.
        ("wasi", "tell") => {
            bucket()?.set(&name, b"told")?;
            Ok(json!(atomics::increment(
                &wasi::open("counters")?,
                "told",
                1
            )?))
        }
        // Opens stores without end and keeps them.
        ("wasi", "hoard") => loop {
            let bucket = bucket()?;
            KEPT.with_borrow_mut(|kept| kept.push(bucket));
        },
        // Holds values in the host without end.
        ("wasi", "hoard-cas") => {
            let bucket = bucket()?;
            let mut kept = Vec::new();
            loop {
                kept.push(atomics::Cas::new(&bucket, &name)?);
            }
        }
        ("wasi", "open-and-trap") => {
            let _bucket = bucket()?;
            panic!("asked to")
        }
        // Reads once and answers with that value later, without asking the store again.
        ("wasi", "remember") => {
            let known = REMEMBERED.with_borrow(Clone::clone);
            match known {
                Some(value) => Ok(value),
                None => {
                    let value = shown(bucket()?.get(&name)?);
                    REMEMBERED.set(Some(value.clone()));
                    Ok(value)
                }
            }
        }
        ("spin2", operation) => {
            let store = spin2::Store::open(&call.text("label"))?;
            match operation {
                "open" => Ok(json!("open")),
                "get" => Ok(shown(store.get(&name)?)),
                "set" => Ok(json!(store.set(&name, &call.value())?)),
                "delete" => Ok(json!(store.delete(&name)?)),
                "exists" => Ok(json!(store.exists(&name)?)),
                "list" => Ok(json!(store.get_keys()?)),
                "hoard" => {
                    let mut kept = Vec::new();
                    loop {
                        kept.push(spin2::Store::open(&call.text("label"))?);
                    }
                }
                _ => Ok(Value::Null),
            }
        }
        ("none", _) => Ok(json!("nothing asked of any store")),
        _ => Err(Failure(json!({ "error": "no such path" }))),
    }
}

/// Performs a call of the asynchronous interface, `spin3`.
async fn perform_async(call: &Call) -> Result<Value, Failure> {
    let name = call.name();
    let store = spin3::Store::open(call.text("label")).await?;
    match call.path.as_str() {
        "/spin3/open" => Ok(json!("open")),
        "/spin3/get" => Ok(shown(store.get(&name).await?)),
        "/spin3/set" => Ok(json!(store.set(&name, call.value()).await?)),
        "/spin3/delete" => Ok(json!(store.delete(&name).await?)),
        "/spin3/exists" => Ok(json!(store.exists(&name).await?)),
        "/spin3/list" => {
            let names = store.get_keys().await;
            // The listing outlives the handle it came from.
            drop(store);
            Ok(json!(names.collect().await?))
        }
        "/spin3/list-some" => {
            let mut names = store.get_keys().await;
            let first = names.next().await;
            drop(names);
            Ok(json!(first.is_some()))
        }
        "/spin3/hoard" => {
            let mut kept = Vec::new();
            loop {
                kept.push(spin3::Store::open(call.text("label")).await?);
            }
        }
        _ => Ok(Value::Null),
    }
}

fn rendered(outcome: Result<Value, Failure>) -> (u16, Vec<u8>) {
    match outcome {
        Ok(value) => (200, value.to_string().into_bytes()),
        Err(Failure(value)) => (400, value.to_string().into_bytes()),
    }
}

impl door::Guest for Guest {
    fn handle(request: door::Request) -> door::Response {
        let call = Call::new(&request.target, request.body);
        let (status, body) = rendered(perform(&call));
        door::Response {
            status,
            headers: Vec::new(),
            body,
            rest: Vec::new(),
        }
    }
}

#[spin_sdk::http_service]
async fn handle(
    request: spin_sdk::http::Request,
) -> spin_sdk::http::Response<spin_sdk::http::FullBody<bytes::Bytes>> {
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str());
    let call = Call::new(target, Vec::new());
    let outcome = if call.path.starts_with("/spin3/") {
        perform_async(&call).await
    } else {
        perform(&call)
    };
    let (status, body) = rendered(outcome);
    let mut response =
        spin_sdk::http::Response::new(spin_sdk::http::FullBody::new(bytes::Bytes::from(body)));
    *response.status_mut() = spin_sdk::http::StatusCode::from_u16(status)
        .unwrap_or(spin_sdk::http::StatusCode::INTERNAL_SERVER_ERROR);
    response
}
