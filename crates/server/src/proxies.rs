//! Decides which client a request is from if it came through proxies. A proxy is believed only if the operator names
//! it. Statements of others about clients are ignored.
//!
//! Proxies append, so the header is read from its right end. Each address there was written by the one to its right, up
//! to the first that is no trusted proxy. That one is the client. Everything to its left came from the client, which
//! may write anything there.

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use penstock_core::headers::FORWARDING;
use serde::Deserialize;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// An address, or a network of them: `::1`, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse::<IpNet>();
        let network = network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|network| Self(network.trunc())).map_err(|_| {
            format!("`{text}` is neither an IP address nor a network such as `10.0.0.0/8`")
        })
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The header in which trusted proxies name the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// The header `X-Forwarded-For`: addresses, with commas between them.
    #[default]
    XForwardedFor,
    /// The header `Forwarded` (RFC 7239).
    Forwarded,
}

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The IP address of the client, or of a proxy if `hidden`.
    pub address: IpAddr,
    /// The port, where it is known.
    pub port: Option<u16>,
    /// The request says that it came through a proxy, and no trusted proxy named the client. The address may be the
    /// proxy's.
    pub hidden: bool,
}

impl Client {
    /// The form that components get.
    pub fn text(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }
}

/// The trusted proxies, and the header in which they name the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    trusted: Vec<Network>,
    header: ForwardedHeader,
}

impl Proxies {
    /// Trusts the proxies in these networks to name the client in this header.
    pub fn new(trusted: Vec<Network>, header: ForwardedHeader) -> Self {
        Self { trusted, header }
    }

    /// Returns whether an address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted
            .iter()
            .any(|Network(network)| network.contains(&address))
    }

    /// Returns the client of a request that came from `peer` with these headers: the rightmost address that is no
    /// trusted proxy's, or the leftmost if all are. It is the peer itself if the peer is not trusted, or if its header
    /// cannot be read.
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> Client {
        let address = peer.ip().to_canonical();
        let named = if self.trusts(address) {
            self.named(headers)
        } else {
            None
        };
        match named {
            Some((address, port)) => Client {
                address,
                port,
                // A proxy has clients elsewhere. An untrusted sender wrote a client that is named as local.
                hidden: address.is_loopback(),
            },
            None => Client {
                address,
                port: Some(peer.port()),
                // A trusted proxy that names no client still has one.
                hidden: self.trusts(address)
                    || headers
                        .keys()
                        .any(|name| FORWARDING.contains(&name.as_str())),
            },
        }
    }

    fn named(&self, headers: &HeaderMap) -> Option<Node> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => header::FORWARDED,
        };
        // Of several lines the last was added last.
        let lines = headers.get_all(name).iter().rev();
        let hops = lines.flat_map(|line| split_from_right(line.as_bytes(), b','));
        let mut farthest = None;
        for hop in hops.map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty()) {
            let named = match self.header {
                ForwardedHeader::XForwardedFor => node(hop),
                ForwardedHeader::Forwarded => forwarded_for(hop),
            }?;
            farthest = Some(named);
            if !self.trusts(named.0) {
                break;
            }
        }
        farthest
    }
}

type Node = (IpAddr, Option<u16>);

/// `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:4711`.
fn node(text: &[u8]) -> Option<Node> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_canonical(), None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some((socket.ip().to_canonical(), Some(socket.port())));
    }
    let bracketed = text.strip_prefix('[')?.strip_suffix(']')?;
    let address = bracketed.parse::<Ipv6Addr>().ok()?;
    Some((IpAddr::V6(address).to_canonical(), None))
}

/// The one `for` of an element of `Forwarded`. Names that hide an address (`unknown`, `_hidden`) do not count.
fn forwarded_for(element: &[u8]) -> Option<Node> {
    let mut found = None;
    for pair in split_from_right(element, b';') {
        let pair = pair.trim_ascii();
        let Some(equals) = pair.iter().position(|b| *b == b'=') else {
            continue;
        };
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        if !name.eq_ignore_ascii_case(b"for") {
            continue;
        }
        if found.is_some() {
            return None;
        }
        let quoted = value.strip_prefix(b"\"");
        let value = match quoted {
            Some(rest) => rest.strip_suffix(b"\"")?,
            None => value,
        };
        found = Some(node(value)?);
    }
    found
}

/// Returns the parts between separators outside of quotes, the last first. It reads from the right, so that an open
/// quote of the client on the left swallows nothing that a proxy appended.
fn split_from_right(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut quoted = false;
        let at = text.iter().rposition(|byte| {
            quoted ^= *byte == b'"';
            *byte == separator && !quoted
        });
        let (before, part) = match at {
            Some(at) => (Some(&text[..at]), &text[at + 1..]),
            None => (None, text),
        };
        rest = before;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn proxies(header: ForwardedHeader) -> Proxies {
        let trusted = ["10.0.0.0/8", "::1", "2001:db8:ff::/48"];
        Proxies::new(trusted.map(|n| n.parse().unwrap()).to_vec(), header)
    }

    fn client(header: ForwardedHeader, peer: &str, lines: &[(&str, &[u8])]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        proxies(header).client(SocketAddr::new(peer.parse().unwrap(), 4711), &headers)
    }

    #[test]
    fn networks_and_addresses_are_read_and_nothing_else_is() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3/8", "10.0.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("::1", "::1", "::2"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
        ] {
            let proxies = Proxies::new(vec![text.parse().unwrap()], ForwardedHeader::default());
            assert!(proxies.trusts(inside.parse().unwrap()), "{text} {inside}");
            assert!(
                !proxies.trusts(outside.parse().unwrap()),
                "{text} {outside}"
            );
        }
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0/8", "*"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_trusted_proxy() {
        for (peer, line, expected) in [
            // An untrusted sender is the client, in spite of its header.
            ("192.0.2.9", "198.51.100.1", "192.0.2.9:4711"),
            ("192.0.2.9", "10.0.0.1", "192.0.2.9:4711"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("::1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "203.0.113.5, 198.51.100.1", "198.51.100.1"),
            (
                "10.0.0.1",
                "198.51.100.1, 10.0.0.7,10.0.0.8",
                "198.51.100.1",
            ),
            ("10.0.0.1", "10.0.0.9, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "10.0.0.9, 10.0.0.8", "10.0.0.9"),
            ("10.0.0.1", "nonsense, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "\"open, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1:4711"),
            (
                "10.0.0.1",
                "198.51.100.1, nonsense, 10.0.0.2",
                "10.0.0.1:4711",
            ),
            ("10.0.0.1", "198.51.100.1:80", "198.51.100.1:80"),
            ("10.0.0.1", "[2001:db8::7]:80", "[2001:db8::7]:80"),
            ("10.0.0.1", "[2001:db8::7]", "2001:db8::7"),
            ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
            ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1,,", "198.51.100.1"),
            ("10.0.0.1", "", "10.0.0.1:4711"),
            ("10.0.0.1", " , ", "10.0.0.1:4711"),
            ("10.0.0.1", "198.51.100.1:99999", "10.0.0.1:4711"),
            ("10.0.0.1", "198.51.100.256", "10.0.0.1:4711"),
        ] {
            let lines = [("x-forwarded-for", line.as_bytes())];
            let told = client(ForwardedHeader::XForwardedFor, peer, &lines);
            assert_eq!(told.text(), expected, "{peer} {line}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (line, expected) in [
            ("for=198.51.100.1", "198.51.100.1"),
            ("For=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1"),
            ("proto=https; for=\"198.51.100.1:80\"", "198.51.100.1:80"),
            ("for=\"[2001:db8::7]:80\"", "[2001:db8::7]:80"),
            ("for=\"[2001:db8::7]\"", "2001:db8::7"),
            (
                "for=203.0.113.5, for=198.51.100.1, for=10.0.0.2",
                "198.51.100.1",
            ),
            (
                "for=\"a,b;for=192.0.2.1\", for=198.51.100.1",
                "198.51.100.1",
            ),
            ("for=\"open, for=198.51.100.1", "198.51.100.1"),
            ("by=\"x,y\";for=198.51.100.1", "198.51.100.1"),
            ("for=unknown", "10.0.0.1:4711"),
            ("for=_hidden", "10.0.0.1:4711"),
            ("for=198.51.100.1;for=192.0.2.1", "10.0.0.1:4711"),
            ("for=\"198.51.100.1", "10.0.0.1:4711"),
            ("proto=https", "10.0.0.1:4711"),
            ("198.51.100.1", "10.0.0.1:4711"),
        ] {
            let told = client(
                ForwardedHeader::Forwarded,
                "10.0.0.1",
                &[("forwarded", line.as_bytes())],
            );
            assert_eq!(told.text(), expected, "{line}");
        }
    }

    #[test]
    fn of_several_lines_the_last_was_added_last_and_the_other_header_says_nothing() {
        let lines: [(&str, &[u8]); 4] = [
            ("x-forwarded-for", b"203.0.113.5"),
            ("x-forwarded-for", b"\xff\xfe, 198.51.100.1"),
            ("x-forwarded-for", b"10.0.0.4"),
            ("forwarded", b"for=192.0.2.66"),
        ];
        let told = client(ForwardedHeader::XForwardedFor, "10.0.0.1", &lines);
        assert_eq!((told.text().as_str(), told.hidden), ("198.51.100.1", false));
    }

    #[test]
    fn a_client_behind_a_proxy_that_nobody_trusts_is_hidden() {
        let x = ForwardedHeader::XForwardedFor;
        for (peer, lines, hidden) in [
            ("192.0.2.9", &[][..], false),
            ("192.0.2.9", &[("via", &b"1.1 x"[..])], true),
            ("192.0.2.9", &[("x-forwarded-for", b"1.2.3.4")], true),
            ("192.0.2.9", &[("forwarded", b"for=1.2.3.4")], true),
            ("10.0.0.1", &[("x-forwarded-for", b"1.2.3.4")], false),
            ("10.0.0.1", &[("x-forwarded-for", b"nonsense")], true),
            ("10.0.0.1", &[("via", b"1.1 x")], true),
            ("10.0.0.1", &[("x-forwarded-for", b"127.0.0.1")], true),
            ("10.0.0.1", &[], true),
        ] {
            assert_eq!(client(x, peer, lines).hidden, hidden, "{peer} {lines:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_a_client_writes_changes_whom_a_proxy_names(
            written in "[ -~]{0,60}",
            bytes in proptest::collection::vec(0x80u8..=0xff, 0..8),
            forwarded in any::<bool>(),
        ) {
            let (header, name, real) = if forwarded {
                (ForwardedHeader::Forwarded, "forwarded", "for=198.51.100.1")
            } else {
                (ForwardedHeader::XForwardedFor, "x-forwarded-for", "198.51.100.1")
            };
            let line = [written.as_bytes(), &bytes, b", ", real.as_bytes()].concat();
            let told = client(header, "10.0.0.1", &[(name, line.as_slice())]);
            prop_assert_eq!(told.text(), "198.51.100.1");
        }

        #[test]
        fn the_answer_is_the_peer_or_stands_in_the_header(line in "[0-9a-f.:,\\[\\] =;\"for]{0,80}") {
            for (header, name) in [
                (ForwardedHeader::XForwardedFor, "x-forwarded-for"),
                (ForwardedHeader::Forwarded, "forwarded"),
            ] {
                let told = client(header, "10.0.0.1", &[(name, line.as_bytes())]);
                let peer = told.text() == "10.0.0.1:4711";
                prop_assert!(peer || line.split(|c: char| !c.is_ascii_hexdigit() && c != '.' && c != ':')
                    .any(|part| part.parse::<IpAddr>().or_else(|_| part.parse::<SocketAddr>().map(|s| s.ip()))
                        .is_ok_and(|a| a.to_canonical() == told.address)));
            }
        }
    }
}
