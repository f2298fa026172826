//! Decides what a gate believes of a request's way to it: the client's address, whether a proxy nobody trusts passed it on,
//! a certificate, and what the server says of itself.
//!
//! Penstock's own host says it in one header that it makes itself and that begins with a token only it and its components
//! know; what a client sends under that name it takes away. On a host that has no such token the header means nothing.

use crate::record::Request;
use penstock_core::headers::{AUTHORITY, FORWARDING};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

/// Where the server says who is at the other end.
const CLIENT_ADDRESS: &str = "spin-client-addr";
/// Where Penstock's own host says more.
const CONNECTION: &str = "penstock-connection";
/// What is known of a request's way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// The client's address.
    pub address: Option<String>,
    /// Whether a proxy nobody trusts passed it on.
    pub forwarded: bool,
    /// Whether it was addressed to a name of the network, or comes from a page with one: a browser on this machine does
    /// what pages from anywhere tell it, also under names that lead to this machine (DNS rebinding).
    pub named: bool,
    /// The client's certificate.
    pub certificate: Option<Certificate>,
    /// What the server says of itself, for `/ready`.
    pub server: Option<serde_json::Value>,
    /// Why the server as a whole takes no new work, whatever its models do; told to health checks.
    pub not_ready: Option<String>,
    /// The length that is announced of a body that has not been sent: the host asks whether it would be taken.
    pub asks: Option<Announced>,
}

/// What is announced of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Announced {
    /// Its bytes; `None` where it comes in chunks.
    pub bytes: Option<u64>,
}

/// A client's certificate, verified by the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Certificate {
    /// The SHA-256 of its DER form, in lower-case hexadecimal.
    pub sha256: String,
    /// Its subject alternative names.
    #[serde(default)]
    pub names: Vec<String>,
}

#[derive(Default, Deserialize)]
struct HostStatement {
    #[serde(default)]
    forwarded: bool,
    certificate: Option<Certificate>,
    server: Option<serde_json::Value>,
    not_ready: Option<String>,
    asks: Option<Announced>,
}

impl Connection {
    /// Reads it. `token` is the host's; `None` on hosts that are not ours.
    pub fn of(request: &Request, token: Option<&str>) -> Self {
        let address = address(request);
        let Some(token) = token else {
            let mut headers = request.headers.iter();
            return Self {
                address,
                forwarded: headers.any(|header| FORWARDING.contains(&header.name.as_str())),
                named: named(request),
                ..Self::default()
            };
        };
        let lines = request
            .headers
            .iter()
            .filter(|header| header.name == CONNECTION);
        let said = lines
            .filter_map(|header| {
                header
                    .value
                    .strip_prefix(token.as_bytes())?
                    .strip_prefix(b" ")
            })
            .find_map(|text| serde_json::from_slice::<HostStatement>(text).ok())
            .unwrap_or_default();
        Self {
            address,
            forwarded: said.forwarded,
            named: named(request),
            certificate: said.certificate,
            server: said.server,
            not_ready: said.not_ready,
            asks: said.asks,
        }
    }
}

/// Whether a request was addressed by any name other than `localhost`, or comes from a page that has one.
fn named(request: &Request) -> bool {
    let own = |authority: &str| {
        // An IPv6 address stands in brackets, and a port may follow.
        let host = match authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    };
    let lines = |name: &'static str| {
        request
            .headers
            .iter()
            .filter(move |header| header.name == name)
    };
    let origin = |value: &[u8]| {
        let origin = String::from_utf8_lossy(value);
        origin
            .split_once("://")
            .is_some_and(|(_, authority)| own(authority))
    };
    // The target of a request over HTTP/2, or in absolute form, names the server too, and may differ from `host`.
    ["host", AUTHORITY]
        .into_iter()
        .flat_map(lines)
        .any(|header| !own(&String::from_utf8_lossy(&header.value)))
        || lines("origin").any(|header| !origin(&header.value))
}

/// The client's address. Of several the last counts: some hosts put their own behind what the client sent. What is no
/// address is none.
fn address(request: &Request) -> Option<String> {
    let last = request
        .headers
        .iter()
        .rfind(|header| header.name == CLIENT_ADDRESS)?;
    let text = std::str::from_utf8(&last.value).ok()?;
    let socket = text.parse::<SocketAddr>().map(|socket| socket.ip());
    let ip = socket.or_else(|_| text.parse::<IpAddr>()).ok()?;
    Some(ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Header;

    fn request(headers: &[(&str, &str)]) -> Request {
        let header = |(name, value): &(&str, &str)| Header {
            name: (*name).to_owned(),
            value: value.as_bytes().to_vec(),
        };
        Request {
            method: "GET".into(),
            target: "/".into(),
            headers: headers.iter().map(header).collect(),
            body: Vec::new(),
        }
    }

    #[test]
    fn only_the_host_is_believed_and_only_where_it_shows_its_token() {
        let said = r#"{"forwarded":true,"certificate":{"sha256":"ab","names":["dns:a"]},"server":{"x":1}}"#;
        let with = |token: &str| request(&[("penstock-connection", &format!("{token} {said}"))]);
        let believed = Connection::of(&with("secret"), Some("secret"));
        assert!(believed.forwarded && believed.server.is_some());
        assert_eq!(believed.certificate.unwrap().names, ["dns:a"]);
        for (sent, token) in [
            (with("other"), Some("secret")),
            (with("secret"), None),
            (with("secret secret"), Some("secret")),
            (with(""), Some("secret")),
            (request(&[("penstock-connection", said)]), Some("secret")),
            (
                request(&[("penstock-connection", "secret {")]),
                Some("secret"),
            ),
        ] {
            assert_eq!(
                Connection::of(&sent, token),
                Connection::default(),
                "{sent:?}"
            );
        }
    }

    #[test]
    fn on_other_hosts_a_forwarded_request_is_seen_by_its_headers() {
        for (headers, forwarded) in [
            (vec![], false),
            (vec![("x-forwarded-for", "127.0.0.1")], true),
            (vec![("forwarded", "for=1.1.1.1")], true),
            (vec![("via", "1.1 proxy")], true),
        ] {
            assert_eq!(
                Connection::of(&request(&headers), None).forwarded,
                forwarded
            );
        }
        // Our own host tells by itself, because it knows which proxies are trusted.
        let sent = request(&[("x-forwarded-for", "127.0.0.1")]);
        assert!(!Connection::of(&sent, Some("t")).forwarded);
    }

    #[test]
    fn names_of_the_network_are_seen_in_host_authority_and_origin() {
        for (headers, named) in [
            (vec![], false),
            (vec![("host", "127.0.0.1:3000")], false),
            (vec![("host", "[::1]:3000")], false),
            (vec![("host", "LocalHost")], false),
            (vec![("host", "evil.example:3000")], true),
            (vec![("host", "127.0.0.1.evil.example")], true),
            (vec![("host", "")], true),
            (vec![(":authority", "127.0.0.1:3000")], false),
            (vec![(":authority", "evil.example:3000")], true),
            (
                vec![("host", "localhost"), (":authority", "evil.example")],
                true,
            ),
            (
                vec![("host", "evil.example"), (":authority", "localhost")],
                true,
            ),
            (vec![(":authority", "localhost@evil.example")], true),
            (vec![(":authority", "127.0.0.1@evil.example:80")], true),
            (
                vec![("host", "localhost"), ("origin", "http://127.0.0.1:3000")],
                false,
            ),
            (
                vec![("host", "localhost"), ("origin", "https://evil.example")],
                true,
            ),
            (vec![("host", "localhost"), ("origin", "null")], true),
        ] {
            assert_eq!(
                Connection::of(&request(&headers), None).named,
                named,
                "{headers:?}"
            );
        }
    }

    #[test]
    fn of_several_addresses_the_last_counts_and_what_is_none_is_none() {
        for (headers, address) in [
            (
                vec![("spin-client-addr", "192.0.2.7:80")],
                Some("192.0.2.7"),
            ),
            (
                vec![("spin-client-addr", "[2001:db8::1]:80")],
                Some("2001:db8::1"),
            ),
            (
                vec![
                    ("spin-client-addr", "1.1.1.1:1"),
                    ("spin-client-addr", "2.2.2.2"),
                ],
                Some("2.2.2.2"),
            ),
            (vec![("spin-client-addr", "nobody")], None),
        ] {
            assert_eq!(
                Connection::of(&request(&headers), None).address.as_deref(),
                address
            );
        }
    }
}
