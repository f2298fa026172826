//! The headers between the server, its clients and its components.

use http::{HeaderMap, HeaderName};
use penstock_core::metrics::note;

/// The header with the client's address for components, as on Spin.
pub(crate) const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");
/// The header with the server's facts about a connection for components; see [`ServerOptions::token`].
pub(crate) const CONNECTION: HeaderName = HeaderName::from_static("penstock-connection");
/// The header with the components' entry for the audit log. No client sees it.
pub(crate) const AUDIT: HeaderName = HeaderName::from_static("penstock-audit");
/// The header with the components' note for metrics. No client sees it.
pub(crate) const SEEN: HeaderName = HeaderName::from_static(note::HEADER);
/// The prefix of headers between the server and its components. The server removes such headers from clients.
pub(crate) const OWN_PREFIX: &str = "penstock-";
/// A component's answer to the head of a request whose body may be sent. No client sees it.
pub(crate) const GO_ON: HeaderName = HeaderName::from_static("penstock-go-on");
/// The time for which an unused connection is kept, in seconds (RFC 9112 appendix C.2.2).
pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Removes the headers that only the server may send to its components.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OWN_PREFIX))
        .cloned()
        .collect();
    for name in own {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_client_cannot_say_what_only_the_server_may() {
        let mut headers = HeaderMap::new();
        for name in [
            "penstock-connection",
            "Penstock-Audit",
            "penstock-",
            "penstock-x",
            "x-penstock-connection",
            "penstock",
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name.clone(), HeaderValue::from_static("1"));
            headers.append(name, HeaderValue::from_static("2"));
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["penstock", "x-penstock-connection"]);
    }
}
