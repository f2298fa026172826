//! The client at the other end of a connection, and the facts that components get about it.

use crate::proxies::Client;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;

/// The client at the other end of a connection.
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    /// Whether the connection is encrypted.
    pub(crate) secure: bool,
    /// The names and digest of its verified certificate, if it showed one.
    pub(crate) certificate: Option<Value>,
}

impl Caller {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            secure: false,
            certificate: None,
        }
    }
}

/// Returns the facts about a connection, as components get them.
pub(crate) fn facts(client: Client, caller: &Caller, tls: Option<Value>) -> Map<String, Value> {
    let mut facts = Map::new();
    if client.hidden {
        facts.insert("forwarded".to_owned(), true.into());
    }
    if let Some(certificate) = &caller.certificate {
        facts.insert("certificate".to_owned(), certificate.clone());
    }
    if let Some(tls) = tls {
        facts.insert("server".to_owned(), json!({"tls": tls}));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_connection_is_said_what_there_is_to_say_and_nothing_else() {
        let mut client = Client {
            address: [192, 0, 2, 1].into(),
            port: None,
            hidden: false,
        };
        let mut caller = Caller::plain(([192, 0, 2, 1], 80).into());
        assert!(facts(client, &caller, None).is_empty());
        client.hidden = true;
        caller.certificate = Some(json!({"sha256": "ab", "names": ["dns:a"]}));
        let tls = json!({"expires": "2027-01-01T00:00:00Z", "days_left": 40});
        assert_eq!(
            Value::Object(facts(client, &caller, Some(tls))).to_string(),
            r#"{"forwarded":true,"certificate":{"sha256":"ab","names":["dns:a"]},"server":{"tls":{"expires":"2027-01-01T00:00:00Z","days_left":40}}}"#
        );
    }
}
