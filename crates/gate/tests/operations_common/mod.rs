//! A gate on a host with workers, its requests, and orders of the host, for the tests of operations and webhooks.

use penstock_gate::Response;
use penstock_testkit::InMemory;
use penstock_testkit::models::{ECHO, echo};
use serde_json::{Value, json};

pub const PREDICT: &str = "/v1/models/m:predict";
pub const BODY: &[u8] = br#"{"inputs":{"a":[[1,2],[3,4],[5,6]]}}"#;
pub const ASYNC: (&str, &str) = ("prefer", "respond-async");
pub const TOKEN: &str = "the host's token";

/// A gate on Penstock's own host.
pub fn hosted(ports: InMemory) -> InMemory {
    let mut environment = ports.environment.borrow_mut();
    environment.insert("PENSTOCK_HOST_TOKEN".into(), TOKEN.into());
    drop(environment);
    ports
}

pub fn ports() -> InMemory {
    hosted(InMemory::new(
        &[("m", ECHO, &["1", "2"]), ("n", ECHO, &["1"])],
        echo,
    ))
}

pub struct Answer {
    pub response: Response,
    pub body: Value,
    pub note: Value,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.response.status
    }

    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.header(name)
    }

    /// The id of the operation that accepted a call.
    pub fn id(&self) -> String {
        assert_eq!(self.status(), 202, "{}", self.body);
        self.body["metadata"]["id"].as_str().unwrap().to_owned()
    }
}

/// Sends a request of a client. Its address is of another machine.
pub fn send(
    ports: &InMemory,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let own = [
        ("content-type", "application/json"),
        ("spin-client-addr", "192.0.2.7:4711"),
    ];
    // A later header of one name would not replace an earlier one.
    let own = own
        .iter()
        .filter(|(name, _)| headers.iter().all(|(other, _)| other != name));
    let headers: Vec<_> = headers.iter().chain(own).copied().collect();
    let response = penstock_testkit::send(ports, method, target, &headers, body);
    let note = response.header("penstock-operation");
    Answer {
        body: serde_json::from_slice(&response.body).unwrap_or(Value::Null),
        note: note.map_or(Value::Null, |note| serde_json::from_str(note).unwrap()),
        response,
    }
}

pub fn get(ports: &InMemory, target: &str) -> Answer {
    send(ports, "GET", target, &[], b"")
}

pub fn post(ports: &InMemory, target: &str) -> Answer {
    send(ports, "POST", target, &[], b"")
}

pub fn accept(ports: &InMemory) -> Answer {
    send(ports, "POST", PREDICT, &[ASYNC], BODY)
}

/// Sends an order of the host about an operation.
pub fn order(ports: &InMemory, id: &str, work: &Value) -> Answer {
    let order = format!("{TOKEN} {}", json!({ "work": work }));
    let headers = [("penstock-connection", order.as_str())];
    send(
        ports,
        "POST",
        &format!("/v1/operations/{id}"),
        &headers,
        b"",
    )
}

pub fn run(ports: &InMemory, id: &str) -> Answer {
    let work = json!({ "do": "run", "holder": "worker 1", "dead_before_ms": 0 });
    let answer = order(ports, id, &work);
    assert_eq!(answer.status(), 204, "{}", answer.body);
    answer
}

/// The state of an operation.
pub fn state(ports: &InMemory, id: &str) -> String {
    let answer = get(ports, &format!("/v1/operations/{id}"));
    assert_eq!(answer.status(), 200, "{}", answer.body);
    answer.body["metadata"]["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The list of the operator on this machine.
pub fn get_own_list(ports: &InMemory) -> Answer {
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    send(ports, "GET", "/v1/operations", &local, b"")
}

pub fn state_of(answer: &Answer) -> &str {
    answer.body["metadata"]["state"]
        .as_str()
        .unwrap_or_default()
}
