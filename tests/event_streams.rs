//! Event streams of operations over real HTTP: their events, and streams that are cut off, refused, or end early.

use crate::common;
use crate::support::graphs;

use common::{Options, Server, client, heavy_model, hyper_client};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREDICT: &str = "/v1/models/identity:predict";
const HEAVY: &str = "/v1/models/heavy:predict";
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
/// Longer than any test.
const LONG: &str = r#"{"inputs":{"times":[2000000000],"x":[1]}}"#;

/// A part of a stream, as a client of the HTML standard reads it.
#[derive(Debug)]
enum Item {
    Event {
        name: String,
        id: Option<String>,
        data: Value,
    },
    Retry(String),
    Comment,
}

/// Reads an item from its lines; `None` at the end of the stream.
fn read_item(lines: &mut impl BufRead) -> std::io::Result<Option<Item>> {
    let (mut name, mut id, mut data) = (String::new(), None, Vec::new());
    let (mut retry, mut is_empty) = (None, true);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            assert!(is_empty, "the stream ends within an event");
            return Ok(None);
        }
        let line = line.trim_end_matches('\n');
        is_empty = false;
        match line.split_once(':') {
            Some(("", _)) | None if !line.is_empty() => {}
            Some(("event", value)) => value.trim_start().clone_into(&mut name),
            Some(("id", value)) => id = Some(value.trim_start().to_owned()),
            Some(("data", value)) => data.push(value.strip_prefix(' ').unwrap_or(value).to_owned()),
            Some(("retry", value)) => retry = Some(value.trim_start().to_owned()),
            Some(other) => panic!("{other:?}"),
            None => {
                return Ok(Some(match retry {
                    Some(retry) => Item::Retry(retry),
                    None if data.is_empty() => Item::Comment,
                    None => Item::Event {
                        name,
                        id,
                        data: serde_json::from_str(&data.join("\n")).unwrap(),
                    },
                }));
            }
        }
    }
}

/// A client with an open stream. It hangs up when it is dropped.
struct Stream {
    location: String,
    lines: BufReader<Box<dyn Read + Send>>,
}

impl Stream {
    /// Sends a request for a stream. The error is another answer than a stream: its status and its body.
    fn try_open(
        server: &Server,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Self, (u16, String)> {
        // An agent of its own, so that its connection is closed with it.
        let agent = client(Some(Duration::from_secs(60)));
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", server.address))
            .header("content-type", "application/json")
            .header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match method {
            "GET" => agent.run(request.body(()).unwrap()),
            _ => agent.run(request.body(body).unwrap()),
        }
        .unwrap();
        let status = response.status().as_u16();
        if status != 200 {
            return Err((status, response.body_mut().read_to_string().unwrap()));
        }
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let content_type = header("content-type").unwrap();
        assert!(
            content_type.starts_with("text/event-stream"),
            "{content_type}"
        );
        assert_eq!(header("cache-control"), Some("no-store"));
        assert_eq!(
            header("penstock-operation"),
            None,
            "the note is for the host"
        );
        let location = header("location").unwrap_or(path).to_owned();
        let mut stream = Self {
            location,
            lines: BufReader::new(Box::new(response.into_body().into_reader())),
        };
        match stream.item() {
            Some(Item::Retry(retry)) => assert_eq!(retry, "2000"),
            other => panic!("{other:?}"),
        }
        Ok(stream)
    }

    fn post(server: &Server, path: &str, body: &str) -> Self {
        Self::try_open(server, "POST", path, &[], body).unwrap()
    }

    /// Asks for the stream of an operation, after the event with an id.
    fn get(server: &Server, location: &str, last: Option<&str>) -> Result<Self, (u16, String)> {
        let headers: Vec<(&str, &str)> = last
            .map(|last| ("last-event-id", last))
            .into_iter()
            .collect();
        Self::try_open(server, "GET", location, &headers, "")
    }

    /// The next item; `None` at the end.
    fn item(&mut self) -> Option<Item> {
        read_item(&mut self.lines).unwrap()
    }

    /// The next event, after comments.
    fn event(&mut self) -> Option<(String, String, Value)> {
        loop {
            match self.item()? {
                Item::Event { name, id, data } => {
                    return Some((name, id.unwrap_or_default(), data));
                }
                Item::Comment => {}
                Item::Retry(retry) => panic!("a second retry: {retry}"),
            }
        }
    }

    /// Reads events until one has this name. Returns its id and its data.
    fn until(&mut self, wanted: &str) -> (String, Value) {
        let mut seen = Vec::new();
        while let Some((name, id, data)) = self.event() {
            if name == wanted {
                return (id, data);
            }
            seen.push(name);
        }
        panic!("{wanted} does not come after {seen:?}");
    }

    /// Reads all events to the end of the stream.
    fn rest(mut self) -> Vec<(String, String, Value)> {
        std::iter::from_fn(|| self.event()).collect()
    }
}

/// A models directory with `heavy`, which counts.
fn heavy(folder: &Path) -> PathBuf {
    let models = folder.join("models");
    let contract = heavy_model::counting_contract(2);
    heavy_model::put(&models, &contract, &graphs::counting_loop());
    models
}

/// A server with one worker, whose store outlives it.
fn one_worker(folder: &Path, settings: &str) -> Server {
    let store = folder.join("default.kv");
    let server = Server::start_with(Options {
        policy_text: Some(format!("[operations]\nworkers = 1\n{settings}")),
        runtime_config_text: Some(format!(
            "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
            store.display()
        )),
        models: Some(heavy(folder)),
        ..Options::default()
    });
    server.ready();
    server
}

fn cancel(server: &Server, location: &str) {
    let answer = server.post_json(&format!("{location}:cancel"), "{}");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_call_that_accepts_events_gets_those_of_its_operation_until_the_end() {
    for door in ["direct", "http"] {
        let server = Server::start_with(Options {
            door: Some(door),
            ..Options::default()
        });
        server.ready();
        let stream = Stream::post(&server, PREDICT, ONE_ITEM);
        let location = stream.location.clone();
        let events = stream.rest();
        let names: Vec<&str> = events.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names.first(), Some(&"operation.created"), "{door}");
        assert_eq!(names.last(), Some(&"operation.succeeded"), "{door}");
        // A short run may end before a look.
        assert!(
            names[1..names.len() - 1]
                .iter()
                .all(|name| ["operation.queued", "operation.running"].contains(name)),
            "{door}: {names:?}"
        );
        let (_, last, operation) = events.last().unwrap();
        assert_eq!(operation, &server.get(&location).json(), "{door}");
        let synchronous = server.post_json(PREDICT, ONE_ITEM).json();
        assert_eq!(
            operation["response"]["predictions"],
            synchronous["predictions"]
        );
        // The client is told to stop asking.
        let over = Stream::get(&server, &location, Some(last)).err();
        assert_eq!(over, Some((204, String::new())), "{door}");
        let again = Stream::get(&server, &location, None).unwrap().rest();
        assert_eq!(again.len(), 1, "{again:?}");
        assert_eq!(again[0].1, *last);
    }
}

#[test]
fn a_stream_tells_each_state_as_it_begins_and_where_an_operation_waits() {
    let folder = tempfile::tempdir().unwrap();
    let server = one_worker(folder.path(), "");
    let mut first = Stream::post(&server, HEAVY, LONG);
    first.until("operation.running");
    let mut second = Stream::post(&server, HEAVY, LONG);
    let (_, created) = second.until("operation.created");
    assert_eq!(created["metadata"]["state"], "queued");
    let (_, queued) = second.until("operation.queued");
    assert_eq!(queued["metadata"]["queue_position"], 0);
    // A waiting stream holds no instance, and the server answers.
    assert_eq!(server.get("/v1/models").status, 200);
    cancel(&server, &first.location);
    let (_, cancelled) = first.until("operation.cancelled");
    assert_eq!(cancelled["done"], true);
    assert!(first.event().is_none(), "nothing follows the end");
    let (_, running) = second.until("operation.running");
    assert_eq!(running["metadata"]["attempt"], 1);
    cancel(&server, &second.location);
    second.until("operation.cancelled");
}

#[test]
fn a_stream_goes_on_after_a_crash_of_the_server_with_the_id_of_its_last_event() {
    let folder = tempfile::tempdir().unwrap();
    let server = one_worker(folder.path(), "");
    let mut stream = Stream::post(&server, HEAVY, LONG);
    let location = stream.location.clone();
    let (last, _) = stream.until("operation.running");
    server.kill();
    // The cut is no end of an event.
    assert!(!matches!(read_item(&mut stream.lines), Ok(Some(_))));
    let server = one_worker(folder.path(), "");
    let mut stream = Stream::get(&server, &location, Some(&last)).unwrap();
    let (id, running) = stream.until("operation.running");
    assert_ne!(id, last, "the event of the first run is not sent again");
    assert_eq!(running["metadata"]["attempt"], 2);
    cancel(&server, &location);
    let (end, _) = stream.until("operation.cancelled");
    // A client that slept through it all gets the end alone.
    let events = Stream::get(&server, &location, Some(&last)).unwrap().rest();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].1, end);
}

#[test]
fn a_stream_without_events_has_signs_of_life_and_ends_after_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let server = one_worker(
        folder.path(),
        "heartbeat_ms = 100\nstream_timeout_ms = 2000\n",
    );
    let mut stream = Stream::post(&server, HEAVY, LONG);
    let location = stream.location.clone();
    let (last, _) = stream.until("operation.running");
    let mut comments = 0;
    while let Some(item) = stream.item() {
        assert!(matches!(item, Item::Comment), "{item:?}");
        comments += 1;
    }
    assert!(comments >= 3, "{comments}");
    // The client asks again, and nothing is repeated.
    let again = Stream::get(&server, &location, Some(&last)).unwrap().rest();
    assert!(again.is_empty(), "{again:?}");
    cancel(&server, &location);
}

#[test]
fn streams_are_bounded_and_a_client_that_leaves_frees_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let server = one_worker(folder.path(), "max_streams = 1\nheartbeat_ms = 100\n");
    let mut stream = Stream::post(&server, HEAVY, LONG);
    let location = stream.location.clone();
    stream.until("operation.running");
    for refused in [
        Stream::get(&server, &location, None).err(),
        Stream::try_open(&server, "POST", HEAVY, &[], LONG).err(),
    ] {
        let (status, body) = refused.unwrap();
        assert_eq!(status, 503, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"]["code"], "overloaded");
    }
    let listed = server.get("/v1/operations").json();
    let listed = listed["operations"].as_array().unwrap().len();
    assert_eq!(listed, 1, "the refused call left no operation");
    // Requests without a stream are answered.
    assert_eq!(server.get(&location).status, 200);
    drop(stream);
    server.until("the place is free", || {
        Stream::get(&server, &location, None).is_ok()
    });
    cancel(&server, &location);
}

#[test]
fn a_server_that_stops_tells_its_streams_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = one_worker(folder.path(), "");
    let mut stream = Stream::post(&server, HEAVY, LONG);
    let location = stream.location.clone();
    let (last, _) = stream.until("operation.running");
    let reader = std::thread::spawn(move || stream.rest());
    let (code, _) = server.terminate();
    assert_eq!(code, Some(0));
    let events = reader.join().unwrap();
    let (name, id, error) = events.last().unwrap();
    assert_eq!((name.as_str(), id.as_str()), ("error", ""), "{events:?}");
    assert_eq!(error["reconnect"], true);
    assert_eq!(error["error"]["code"], "overloaded");
    let server = one_worker(folder.path(), "");
    let mut stream = Stream::get(&server, &location, Some(&last)).unwrap();
    let (_, running) = stream.until("operation.running");
    assert_eq!(
        running["metadata"]["attempt"], 1,
        "the run that was given back does not count"
    );
    cancel(&server, &location);
    stream.until("operation.cancelled");
}

#[test]
fn an_operation_that_is_deleted_or_unknown_has_no_stream() {
    let server = Server::start();
    server.ready();
    let stream = Stream::post(&server, PREDICT, ONE_ITEM);
    let location = stream.location.clone();
    let last = stream.rest().pop().unwrap().1;
    assert_eq!(server.call("DELETE", &location, &[], None).status, 200);
    for last in [None, Some(last.as_str())] {
        let (status, body) = Stream::get(&server, &location, last).err().unwrap();
        assert_eq!(status, 404, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"]["code"], "unknown_operation");
    }
    // A call with a mistake gets an error and no stream.
    let wrong = r#"{"inputs":{"a":[["x"]]}}"#;
    let refused = Stream::try_open(&server, "POST", PREDICT, &[], wrong).err();
    assert_eq!(refused.unwrap().0, 422);
    assert_eq!(server.get("/v1/operations").json()["operations"], json!([]));
}

#[test]
fn streams_share_a_connection_of_http2_and_end_apart() {
    let folder = tempfile::tempdir().unwrap();
    let server = one_worker(folder.path(), "");
    let locations: Vec<String> = (0..2)
        .map(|_| {
            let accepted = server.post_json("/v1/models/heavy:predictAsync", LONG);
            accepted.header("location").unwrap().to_owned()
        })
        .collect();
    let told = hyper_client::runtime().block_on(async {
        let mut sender = hyper_client::to::<Empty<Bytes>>(server.address).await;
        let mut streams = Vec::new();
        for location in &locations {
            let request = Request::get(format!("http://{}{location}", server.address))
                .header("accept", "text/event-stream")
                .body(Empty::new())
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            streams.push(response.into_body());
        }
        for (stream, location) in streams.iter_mut().zip(&locations) {
            // The first part is there, although the operation goes on.
            let first = stream.frame().await.unwrap().unwrap();
            assert!(first.is_data());
            let (address, location) = (server.address, location.clone());
            tokio::task::spawn_blocking(move || {
                let path = format!("{location}:cancel");
                common::call(address, "POST", &path, &[], Some(b"{}"))
            })
            .await
            .unwrap();
        }
        let mut told = Vec::new();
        for stream in streams {
            let rest = stream.collect().await.unwrap().to_bytes();
            told.push(String::from_utf8(rest.to_vec()).unwrap());
        }
        told
    });
    for rest in told {
        assert!(rest.contains("event: operation.cancelled\n"), "{rest}");
        assert!(rest.ends_with("\n\n"), "{rest}");
    }
}
