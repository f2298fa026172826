//! Decides what an answer tells browsers about pages of other origins, and answers `OPTIONS`. What is allowed
//! is [`penstock_policy::cors`]'s.
//!
//! `OPTIONS` is answered before anybody asks who calls and what it may cost: a preflight has no credentials, and
//! says nothing but which methods a path has.

use crate::ports::Ports;
use crate::record::{Request, Response};
use penstock_policy::cors::{CorsSettings, answer_headers, preflight_headers};
use penstock_policy::document;
use std::cell::OnceCell;

/// What the operator allows, read by the first request that it matters to.
#[derive(Default)]
pub struct Cors(OnceCell<CorsSettings>);

/// The answer to `OPTIONS`: which methods a path has.
pub fn options(allow: &str) -> Response {
    let mut response = Response::empty(204);
    response.push("allow", allow);
    response
}

/// What `OPTIONS *` is told (RFC 9110 §9.3.7): the methods that some path of the server takes.
const EVERY_METHOD: &str = "GET, HEAD, POST, OPTIONS";

/// The answer to a request about the server as a whole; `None` where the request is about one path.
pub fn options_of_server(request: &Request) -> Option<Response> {
    (request.method == "OPTIONS" && request.target == "*").then(|| options(EVERY_METHOD))
}

impl Cors {
    /// Adds what browsers want to know to an answer, whatever it says.
    pub fn add<P: Ports>(&self, ports: &P, request: &Request, response: &mut Response) {
        let origin = request.header("origin");
        // What is not for a page matters only to caches, and those keep nothing of POST.
        if origin.is_none() && request.method == "POST" {
            return;
        }
        // A policy that cannot be read allows nothing here; it is reported where it is needed.
        let settings = self.0.get_or_init(|| {
            let text = ports.policy_text();
            text.and_then(|text| document::cors(&text))
                .unwrap_or_default()
        });
        let is_preflight = request.method == "OPTIONS"
            && response.status == 204
            && request.header("access-control-request-method").is_some();
        let headers = match response.header("allow") {
            Some(allow) if is_preflight => preflight_headers(settings, origin, allow),
            _ => answer_headers(settings, origin),
        };
        for (name, value) in headers {
            response.push(name, value);
        }
    }
}
