//! A client of a gate in this process.

use crate::InMemory;
use penstock_gate::{Gate, Header, Request, Response};

/// A request, with the names of its headers in lower case.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
    let headers = headers.iter().map(|(name, value)| Header {
        name: (*name).into(),
        value: value.as_bytes().to_vec(),
    });
    Request {
        method: method.into(),
        target: target.into(),
        headers: headers.collect(),
        body: body.to_vec().into(),
    }
}

/// Sends a request to a new gate over these ports.
pub fn send(
    ports: &InMemory,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    Gate::new(ports.clone()).handle(&request(method, target, headers, body))
}
