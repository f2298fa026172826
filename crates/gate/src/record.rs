//! Represents a complete request and a complete answer, the same for both entry points.

use penstock_core::{Code, Problem, json};
use penstock_tensor::Buffer;
use serde::Serialize;

/// One header of a request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The field name in lower case.
    pub name: String,
    /// The value of the field. HTTP allows bytes that are not UTF-8.
    pub value: Vec<u8>,
}

/// A request whose body has arrived in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, such as `GET`. It is case-sensitive (RFC 9110 §9.1).
    pub method: String,
    /// The path and the query as sent.
    pub target: String,
    /// All headers, with names in lower case.
    pub headers: Vec<Header>,
    /// The bytes of the body. A large one may lie in the host until it is needed.
    pub body: Buffer,
}

impl Request {
    /// Returns the path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns the query without its question mark; empty if there is none.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Iterates over the query's parameters as sent. Empty pairs are skipped, and a name without a value has an empty
    /// value.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.query().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// Returns the first header with this lower-case name, as bytes.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|h| h.name == name)
            .map(|h| h.value.as_slice())
    }

    /// Returns the first header with this name, if it is UTF-8.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// Returns the content type, if there is one. Errors if there are several different ones, because RFC 9110 §8.3
    /// allows one value. Otherwise a proxy and this server could interpret the same body differently.
    pub fn content_type(&self) -> Result<Option<&str>, Problem> {
        let mut lines = self
            .headers
            .iter()
            .filter(|h| h.name == "content-type")
            .map(|h| h.value.trim_ascii());
        let Some(first) = lines.next() else {
            return Ok(None);
        };
        if lines.any(|line| line != first) {
            return Err(Problem::new(
                Code::MalformedRequest,
                "the request has several Content-Type headers that differ; send one",
            ));
        }
        let text = std::str::from_utf8(first).map_err(|_| {
            Problem::new(
                Code::UnsupportedMediaType,
                "the Content-Type header is not text; send `content-type: application/json`, or the type of the content",
            )
        })?;
        Ok(Some(text))
    }

    /// Returns all headers with this name joined with commas, as RFC 9110 §5.3 allows.
    pub fn header_list(&self, name: &str) -> Option<String> {
        let mut joined: Option<String> = None;
        for header in self.headers.iter().filter(|h| h.name == name) {
            let text = String::from_utf8_lossy(&header.value);
            match &mut joined {
                None => joined = Some(text.into_owned()),
                Some(list) => {
                    list.push_str(", ");
                    list.push_str(&text);
                }
            }
        }
        joined
    }
}

/// A complete answer, before the transport's own headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<Header>,
    /// The bytes of the body. Large outputs of a model may lie in the host.
    pub body: Buffer,
}

impl Response {
    /// Creates an answer with a body of the given content type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Buffer>) -> Self {
        let mut response = Self {
            status,
            headers: Vec::with_capacity(6),
            body: body.into(),
        };
        response.push("content-type", content_type);
        response
    }

    /// Creates an answer with a JSON body.
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Self {
        Self::new(status, "application/json", json::to_bytes(value))
    }

    /// Creates an answer without a body and without a content type.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::with_capacity(8),
            body: Buffer::default(),
        }
    }

    /// Adds a header after the present ones. `name` must be lower case.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.headers.push(Header {
            name: name.to_owned(),
            value: value.as_ref().to_vec(),
        });
    }

    /// Returns the first header with this name, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|h| h.name == name)?;
        std::str::from_utf8(&header.value).ok()
    }
}
