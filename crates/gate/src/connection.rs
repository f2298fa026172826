//! Decides which facts about a request's connection the gate trusts: the client's address, use of an untrusted proxy,
//! a client certificate, and the state of the server.
//!
//! Penstock's own host sends these facts in one header. The header begins with a token that only the host and its
//! components know, and the host removes the header from clients' requests. Other hosts have no token, and the gate
//! ignores the header there.

use crate::record::Request;
use penstock_core::headers::{AUTHORITY, FORWARDING};
use penstock_policy::operations::notes::{Order, QueuePlace};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

/// The header in which a host states the client's address.
const CLIENT_ADDRESS: &str = "spin-client-addr";
/// The header in which Penstock's own host states more facts.
const CONNECTION: &str = "penstock-connection";
/// The trusted facts about a request's connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// The client's IP address, as the host states it.
    pub address: Option<String>,
    /// Whether an untrusted proxy forwarded the request.
    pub forwarded: bool,
    /// Whether the request uses a host name of the network, or comes from a web page with such a name. A browser on
    /// this machine follows instructions of any page, also under names that resolve to this machine (DNS rebinding).
    pub named: bool,
    /// The client's certificate, if it showed one that the host verified.
    pub certificate: Option<Certificate>,
    /// The server's state for `/ready`.
    pub server: Option<serde_json::Value>,
    /// The reason why the server accepts no new work, independent of its models. Health checks report it.
    pub not_ready: Option<String>,
    /// The announced length of a body that is not yet sent. The host asks whether the gate would accept it.
    pub asks: Option<Announced>,
    /// The host's own request about an operation, in place of a client's request.
    pub work: Option<Order>,
    /// The place of the requested operation in the host's queue.
    pub queue: Option<QueuePlace>,
    /// Whether the host has no room for another event stream.
    pub streams_full: bool,
    /// Whether the host reads the gate's headers for it from answers.
    pub is_hosted: bool,
}

/// The announcement of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Announced {
    /// The length in bytes; `None` if the body comes in chunks.
    pub bytes: Option<u64>,
}

/// A client certificate that the host has verified.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Certificate {
    /// The SHA-256 of the certificate's DER form, in lower-case hexadecimal.
    pub sha256: String,
    /// The subject alternative names, such as `dns:edge-7.example`.
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
    work: Option<Order>,
    queue: Option<QueuePlace>,
    #[serde(default)]
    streams_full: bool,
}

impl Connection {
    /// Reads the facts from a request. `token` is the host's token; `None` on other hosts than Penstock's own.
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
            work: said.work,
            queue: said.queue,
            streams_full: said.streams_full,
            is_hosted: true,
        }
    }
}

/// Returns whether a request is addressed by a name other than `localhost`, or comes from a page with such a name.
fn named(request: &Request) -> bool {
    let own = |authority: &str| {
        // An IPv6 address is in brackets. A port may follow the host.
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
    // HTTP/2 requests and targets in absolute form also name the server, and that name may differ from `host`.
    ["host", AUTHORITY]
        .into_iter()
        .flat_map(lines)
        .any(|header| !own(&String::from_utf8_lossy(&header.value)))
        || lines("origin").any(|header| !origin(&header.value))
}

/// Returns the client's address. The last of several headers counts, because some hosts append theirs to the
/// client's. A value that is not an IP address is ignored.
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
            body: Vec::new().into(),
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
            let nothing_said = Connection {
                is_hosted: token.is_some(),
                ..Connection::default()
            };
            assert_eq!(Connection::of(&sent, token), nothing_said, "{sent:?}");
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
        // Penstock's own host knows the trusted proxies and decides for itself.
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
