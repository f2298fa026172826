//! Adds CORS headers to answers, and answers `OPTIONS`. [`penstock_policy::cors`] decides which origins are allowed.
//!
//! `OPTIONS` is answered before authentication and rate limits, because a preflight has no credentials. Its answer
//! only reveals the methods of a path.

use crate::ports::Ports;
use crate::record::{Request, Response};
use penstock_policy::cors::{CorsSettings, answer_headers, preflight_headers};
use penstock_policy::document;
use std::cell::OnceCell;

/// The operator's CORS settings, read by the first request that needs them.
#[derive(Default)]
pub struct Cors(OnceCell<CorsSettings>);

/// Returns the answer to `OPTIONS` with the methods of a path.
pub fn options(allow: &str) -> Response {
    let mut response = Response::empty(204);
    response.push("allow", allow);
    response
}

/// The answer to `OPTIONS *` (RFC 9110 §9.3.7): every method that some path of the server accepts.
const EVERY_METHOD: &str = "GET, HEAD, POST, OPTIONS";

/// Returns the answer to `OPTIONS *`; `None` for other requests.
pub fn options_of_server(request: &Request) -> Option<Response> {
    (request.method == "OPTIONS" && request.target == "*").then(|| options(EVERY_METHOD))
}

impl Cors {
    /// Adds the CORS headers to any answer.
    pub fn add<P: Ports>(&self, ports: &P, request: &Request, response: &mut Response) {
        let origin = request.header("origin");
        // Without an `Origin`, only `Vary` for caches would be added, and caches do not store answers to POST.
        if origin.is_none() && request.method == "POST" {
            return;
        }
        // A policy that cannot be read allows no origins. The steps that need the policy report the error.
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
