//! The headers between the server, its clients and its components.

use http::{HeaderMap, HeaderName};

/// Where components find the address of the client, as on Spin.
pub(crate) const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");
/// What components are told of a connection, beside what its client sends; see [`ServerOptions::token`].
pub(crate) const CONNECTION: HeaderName = HeaderName::from_static("penstock-connection");
/// What components say of a request for the audit log. No client sees it.
pub(crate) const AUDIT: HeaderName = HeaderName::from_static("penstock-audit");
/// What headers between the server and its components begin with. A client's are thrown away.
pub(crate) const OWN_PREFIX: &str = "penstock-";
/// What a component answers to the head of a request whose body may be sent. No client sees it.
pub(crate) const GO_ON: HeaderName = HeaderName::from_static("penstock-go-on");
/// How long a connection is kept that is not used, in seconds (RFC 9112 appendix C.2.2).
pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Throws away what only the server may say to its components.
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
