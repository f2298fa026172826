//! Decides who may use the listeners of this crate: bearer tokens, and requests of browsers, which are refused.

use http::{HeaderMap, header};
use penstock_core::{Code, Problem};
use penstock_policy::auth::api_key::hex;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// Hexadecimal digits of a token's digest that name it in the log.
const TOKEN_NAME_CHARS: usize = 8;

/// A token that callers must show, by its digest.
pub(crate) struct Token {
    digest: [u8; 32],
    /// The first digits of the digest. They name the token in the log.
    name: String,
}

impl Token {
    pub(crate) fn new(text: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(text).into();
        Self {
            name: hex(&digest)[..TOKEN_NAME_CHARS].to_owned(),
            digest,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Compares with a shown token, in constant time.
    pub(crate) fn is(&self, shown: &ShownToken) -> bool {
        shown.0.ct_eq(&self.digest).into()
    }
}

/// The digest of the token that a caller shows.
pub(crate) struct ShownToken([u8; 32]);

impl ShownToken {
    /// Reads the bearer token of a request. `name` names the expected one. The time depends only on the length of the sent bytes.
    pub(crate) fn of(headers: &HeaderMap, name: &str) -> Result<Self, Problem> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Problem::new(
                Code::CredentialsMissing,
                format!(
                    "send the {name}, once, as `Authorization: Bearer`; the server's log says where it is"
                ),
            ));
        };
        let malformed = || {
            let message =
                format!("the Authorization header is not `Bearer`, a space, and the {name}");
            Problem::new(Code::CredentialsMalformed, message)
        };
        let bytes = value.as_bytes();
        let scheme = bytes.get(..7).ok_or_else(malformed)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(malformed());
        }
        Ok(Self(Sha256::digest(&bytes[7..]).into()))
    }
}

/// Refuses a request that a browser may have been tricked into.
pub(crate) fn admissible(headers: &HeaderMap, own: IpAddr) -> Result<(), Problem> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Problem::new(
            Code::PermissionDenied,
            "the request has an Origin header; this listener does not serve web pages",
        ));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    if host.is_none_or(|host| !is_own(host, own)) {
        return Err(Problem::new(
            Code::PermissionDenied,
            "the Host header is neither this listener's address nor localhost; use one of them",
        ));
    }
    Ok(())
}

/// Returns whether a `Host` is an address or localhost, and not a name that a stranger may control. The port may be a
/// tunnel's.
fn is_own(host: &str, own: IpAddr) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let (Ok(named), own) = (bare.parse::<IpAddr>(), own.to_canonical()) else {
        return false;
    };
    let named = named.to_canonical();
    named == own || named.is_loopback() || own.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_localhost_and_no_name_that_others_decide_about() {
        let own = |text: &str| text.parse::<IpAddr>().unwrap();
        for (host, listens, fits) in [
            ("127.0.0.1:3001", "127.0.0.1", true),
            ("localhost:3001", "127.0.0.1", true),
            ("LOCALHOST", "127.0.0.1", true),
            ("[::1]:4001", "::1", true),
            ("10.0.0.7:3001", "10.0.0.7", true),
            ("10.0.0.7:3001", "0.0.0.0", true),
            ("10.0.0.8:3001", "10.0.0.7", false),
            ("evil.example:3001", "127.0.0.1", false),
            ("evil.example", "0.0.0.0", false),
            ("localhost.evil.example", "127.0.0.1", false),
            ("127.0.0.1.evil.example", "127.0.0.1", false),
            ("user@localhost", "127.0.0.1", false),
            ("", "127.0.0.1", false),
        ] {
            assert_eq!(is_own(host, own(listens)), fits, "{host} on {listens}");
        }
    }

    #[test]
    fn a_token_is_known_by_all_its_bytes() {
        let token = Token::new("0123456789abcdef0123456789abcdef");
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            headers
        };
        let shown = |value: &str| ShownToken::of(&headers(value), "token");
        assert!(token.is(&shown("bearer 0123456789abcdef0123456789abcdef").unwrap()));
        assert!(!token.is(&shown("Bearer 0123456789abcdef0123456789abcdeF").unwrap()));
        for value in ["", "Bearer", "Basic 0123456789abcdef0123456789abcdef"] {
            let problem = shown(value).err().unwrap();
            assert_eq!(problem.code, Code::CredentialsMalformed, "{value}");
        }
        let problem = ShownToken::of(&HeaderMap::new(), "token").err().unwrap();
        assert_eq!(problem.code, Code::CredentialsMissing);
        assert_eq!(token.name().len(), TOKEN_NAME_CHARS);
    }
}
