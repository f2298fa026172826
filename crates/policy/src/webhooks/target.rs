//! Decides which URLs webhooks may have.
//!
//! The grammar is a strict part of RFC 3986: no user name, no fragment, no address in an unusual form. The host connects to
//! the parsed host, so no second parser can read another host into the same text.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most bytes of a URL. Longer ones are refused by common servers.
pub const MAX_URL_BYTES: usize = 2_048;

/// The header in which a call names its webhook.
pub const HEADER: &str = "webhook-url";

/// A URL that a webhook may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The host's name in lower case, or its address without brackets.
    pub host: String,
    /// The port to connect to: the one in the URL, or the scheme's default.
    pub port: u16,
    /// Host and port as in the URL, for the `Host` header.
    pub authority: String,
    /// The path and the query.
    pub target: String,
    /// Whether the operator allowed this host by name, whichever address it has.
    pub allowed: bool,
}

impl Url {
    /// Parses the text of a URL. `allow_hosts` are the hosts that may have private addresses and do without encryption. The
    /// error is the rest of a sentence that begins with "the URL".
    pub fn parse(text: &str, allow_hosts: &[String]) -> Result<Self, String> {
        if text.len() > MAX_URL_BYTES {
            return Err(format!(
                "has {} bytes; at most {MAX_URL_BYTES} are allowed",
                text.len()
            ));
        }
        if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!(
                "contains {c:?}; write characters other than visible ASCII in percent-encoded form"
            ));
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("must begin with https://".to_owned()),
        };
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.contains(['#', '\\']) {
            return Err("contains `#` or a backslash, which no request can carry".to_owned());
        }
        if let Some(wrong) = wrong_in_path(path) {
            return Err(format!("contains `{wrong}`, which must be percent-encoded"));
        }
        if authority.contains('@') {
            return Err(
                "contains a user name or a password; receivers check the signature instead"
                    .to_owned(),
            );
        }
        let authority = authority.to_ascii_lowercase();
        let (host, port) = split_authority(&authority)?;
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(port) => parse_port(port)?,
        };
        let allowed = allow_hosts
            .iter()
            .any(|allowed| allows(allowed, &host, port));
        if !tls && !allowed {
            return Err(
                "must begin with https://; the operator allows http for single hosts (webhooks.allow_hosts)"
                    .to_owned(),
            );
        }
        if let Ok(address) = host.parse::<IpAddr>()
            && !allowed
            && !super::address::is_public(address)
        {
            return Err(not_public(address));
        }
        let target = match path.strip_prefix('?') {
            Some(_) => format!("/{path}"),
            None if path.is_empty() => "/".to_owned(),
            None => path.to_owned(),
        };
        Ok(Self {
            tls,
            host,
            port,
            authority,
            target,
            allowed,
        })
    }
}

/// The first part of a path and a query that RFC 3986 (§3.3, §3.4) does not allow there.
fn wrong_in_path(path: &str) -> Option<&str> {
    let bytes = path.as_bytes();
    let is_allowed = |at: usize| match bytes[at] {
        b'%' => (1..=2).all(|n| bytes.get(at + n).is_some_and(u8::is_ascii_hexdigit)),
        b => b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&b),
    };
    let at = (0..bytes.len()).find(|at| !is_allowed(*at))?;
    path.get(at..=at)
}

/// The end of a sentence about an address that is refused.
fn not_public(address: IpAddr) -> String {
    format!(
        "leads to {address}, which is not a public address; the operator allows single hosts (webhooks.allow_hosts)"
    )
}

/// Splits an authority in lower case into host and port.
fn split_authority(authority: &str) -> Result<(String, Option<&str>), String> {
    let no_host = || "names no host".to_owned();
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(no_host)?;
        let address: Ipv6Addr = address
            .parse()
            .map_err(|_| "has no valid address in brackets".to_owned())?;
        return match port {
            "" => Ok((address.to_string(), None)),
            port => Ok((
                address.to_string(),
                Some(port.strip_prefix(':').ok_or_else(no_host)?),
            )),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    check_name(host)?;
    Ok((host.to_owned(), port))
}

/// Checks a host's name (RFC 1123 §2.1, and `_`, which some internal names have) or IPv4 address.
fn check_name(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && (label.bytes()).all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err("names a host with characters that no name has".to_owned());
    }
    // Resolvers read addresses also in hexadecimal, in octal, or with fewer parts.
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    if is_number && host.parse::<Ipv4Addr>().is_err() {
        return Err("has an address that is not four decimal numbers".to_owned());
    }
    Ok(())
}

/// Returns whether an entry of `allow_hosts` covers a host and port: `host` covers all ports, `host:port` one.
fn allows(entry: &str, host: &str, port: u16) -> bool {
    match allowed(entry) {
        Ok((allowed, of)) => allowed == host && of.is_none_or(|of| of == port),
        Err(_) => false,
    }
}

/// Parses an entry of `allow_hosts`: a host, and a port if only that one is allowed. The error is the rest of a sentence that
/// begins with the entry.
pub(super) fn allowed(entry: &str) -> Result<(String, Option<u16>), String> {
    let entry = entry.to_ascii_lowercase();
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Ok((address.to_string(), None));
    }
    let (host, port) = split_authority(&entry)?;
    Ok((host, port.map(parse_port).transpose()?))
}

fn parse_port(port: &str) -> Result<u16, String> {
    (port.parse().ok().filter(|port| *port > 0))
        .filter(|_| port.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| "has no valid port".to_owned())
}

/// The wish for an announcement, as it is stored with a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The tenant of the call.
    pub tenant: String,
    /// The URL that the call named; `None` for the tenant's own.
    pub url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, u16, String), String> {
        let allow = ["hooks.internal".to_owned(), "127.0.0.1:9000".to_owned()];
        Url::parse(text, &allow).map(|url| (url.host, url.port, url.target))
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, target) in [
            ("https://example.com", "example.com", 443, "/"),
            ("https://Example.COM/a?b=c", "example.com", 443, "/a?b=c"),
            ("https://example.com?b", "example.com", 443, "/?b"),
            (
                "https://example.com/a%20b/~c;d=(1)?e=@:!",
                "example.com",
                443,
                "/a%20b/~c;d=(1)?e=@:!",
            ),
            ("https://example.com:8443/", "example.com", 8443, "/"),
            ("https://1.1.1.1/x", "1.1.1.1", 443, "/x"),
            ("https://[2606:4700::1111]:1/x", "2606:4700::1111", 1, "/x"),
            ("http://hooks.internal/x", "hooks.internal", 80, "/x"),
            ("http://127.0.0.1:9000/x", "127.0.0.1", 9000, "/x"),
        ] {
            assert_eq!(
                parse(text),
                Ok((host.to_owned(), port, target.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for (text, part) in [
            ("", "https://"),
            ("ftp://example.com", "https://"),
            ("//example.com", "https://"),
            ("HTTPS://example.com", "https://"),
            ("http://example.com", "https://"),
            ("http://127.0.0.1:9001", "https://"),
            ("https://", "no host"),
            ("https:///x", "no host"),
            ("https://:443", "no host"),
            ("https://a@example.com", "user name"),
            ("https://example.com#x", "`#`"),
            ("https://example.com\\@a", "backslash"),
            ("https://example.com/a b", "' '"),
            ("https://example.com/\u{e9}", "visible ASCII"),
            ("https://example.com/<x>", "`<`"),
            ("https://example.com/x?\"", "`\"`"),
            ("https://example.com/%zz", "`%`"),
            ("https://example.com/%4", "`%`"),
            ("https://example.com/{x}", "`{`"),
            ("https://example.com:0", "port"),
            ("https://example.com:65536", "port"),
            ("https://example.com:+1", "port"),
            ("https://example.com:", "port"),
            ("https://a..b", "characters"),
            ("https://-a.b", "characters"),
            ("https://a%2eb", "characters"),
            ("https://[::1]", "not a public address"),
            ("https://[::1", "no host"),
            ("https://[1]", "brackets"),
            ("https://[2606:4700::1]x", "no host"),
            ("https://10.0.0.1/", "10.0.0.1, which is not a public"),
            ("https://2130706433", "four decimal numbers"),
            ("https://0x7f.1", "four decimal numbers"),
            ("https://a.0x7f", "four decimal numbers"),
            ("https://127.1", "four decimal numbers"),
            ("https://0177.0.0.1", "four decimal numbers"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
        }
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
        assert!(parse(&long).unwrap_err().contains("2068 bytes"));
    }

    #[test]
    fn a_host_is_allowed_with_all_its_ports_or_with_one() {
        for (entry, url, is_allowed) in [
            ("hooks.internal", "http://hooks.internal:8080", true),
            ("Hooks.Internal", "http://HOOKS.internal", true),
            ("hooks.internal:80", "http://hooks.internal", true),
            ("hooks.internal:80", "http://hooks.internal:8080", false),
            ("hooks.internal", "http://a.hooks.internal", false),
            ("10.0.0.1", "http://10.0.0.1:8080", true),
            ("10.0.0.1:80", "http://10.0.0.1:8080", false),
            ("::1", "http://[::1]:8080", true),
            ("[::1]", "http://[0:0::1]", true),
            ("[::1]:80", "http://[::1]", true),
        ] {
            let parsed = Url::parse(url, &[entry.to_owned()]);
            assert_eq!(parsed.is_ok(), is_allowed, "{entry} {url}");
        }
        for entry in ["", "https://a", "a/b", "a:b", "a:0", "*.a", "a b"] {
            assert!(allowed(entry).is_err(), "{entry}");
        }
    }
}
