//! The policy of the operator's own: its words, its service, and which of its headers an answer may have.
//!
//! A deployment replaces one component and its decisions run between the limits and the body. The built-in component admits
//! every call and asks to be asked nothing.

pub mod service;
pub mod words;

use penstock_core::headers::{CREDENTIALS, Headers};

/// The most headers that a policy adds to an answer. Clients and proxies limit the head of an answer.
pub const MAX_HEADERS: usize = 16;
/// The most bytes of the name and the value of such a header together.
pub const MAX_HEADER_BYTES: usize = 4096;
/// The most characters of a refusal's message that are sent.
pub const MAX_MESSAGE_CHARS: usize = 1000;

/// Headers that say how the answer is framed, encoded and kept. A policy that changed them would break the answer.
const RESERVED: [&str; 13] = [
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "etag",
    "keep-alive",
    "retry-after",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The same for headers that begin with these.
const RESERVED_PREFIXES: [&str; 3] = ["grpc-", "penstock-", "proxy-"];

/// Whether a policy may read a header of the request. Credentials are for `auth` alone.
pub fn is_readable(name: &str) -> bool {
    !CREDENTIALS.contains(&name) && !name.starts_with("penstock-")
}

/// The headers of a policy that an answer may have, and a sentence for the operator about those that it may not.
///
/// ```
/// use penstock_policy::custom::checked;
/// let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
/// let (kept, fault) = checked(vec![header("x-calls-left", b"2"), header("content-length", b"5")]);
/// assert_eq!(kept, [("x-calls-left".to_owned(), "2".to_owned())]);
/// assert!(fault.unwrap().contains("content-length"));
/// ```
pub fn checked(headers: Vec<(String, Vec<u8>)>) -> (Headers, Option<String>) {
    let mut kept = Headers::new();
    let mut fault = None;
    for (at, (name, value)) in headers.into_iter().enumerate() {
        let bytes = name.len() + value.len();
        let why = if at >= MAX_HEADERS {
            format!("more than {MAX_HEADERS} headers were given")
        } else if bytes > MAX_HEADER_BYTES {
            format!("it has {bytes} bytes, at most {MAX_HEADER_BYTES} are sent")
        } else if !is_token(&name) {
            "its name is not a lower-case token".to_owned()
        } else if RESERVED.contains(&name.as_str())
            || RESERVED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        {
            "the server sets it".to_owned()
        } else {
            match text(value) {
                Some(value) => {
                    kept.push((name, value));
                    continue;
                }
                None => "its value is not visible ASCII".to_owned(),
            }
        };
        let name: String = name.chars().take(64).collect();
        fault.get_or_insert_with(|| {
            format!("the custom policy's header `{name}` is left out of an answer: {why}")
        });
    }
    (kept, fault)
}

/// A field name of RFC 9110, in lower case.
fn is_token(name: &str) -> bool {
    let is_char = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
    };
    !name.is_empty() && name.bytes().all(is_char)
}

/// A field value without control characters, and without space at its ends.
fn text(value: Vec<u8>) -> Option<String> {
    let value = String::from_utf8(value).ok()?;
    let is_visible = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    (is_visible && value.trim() == value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &[u8]) -> (String, Vec<u8>) {
        (name.to_owned(), value.to_vec())
    }

    #[test]
    fn a_header_that_could_break_an_answer_is_left_out_and_named() {
        let bad = [
            ("", &b"1"[..], "token"),
            ("X-Upper", b"1", "token"),
            ("a b", b"1", "token"),
            ("a\r\nb", b"1", "token"),
            ("x-a", b"1\r\nset-cookie: b", "visible"),
            ("x-a", b"\xff", "visible"),
            ("x-a", b" 1", "visible"),
            ("content-length", b"1", "server"),
            ("transfer-encoding", b"chunked", "server"),
            ("penstock-audit", b"{}", "server"),
            ("grpc-status", b"0", "server"),
        ];
        for (name, value, why) in bad {
            let (kept, fault) = checked(vec![header(name, value), header("x-good", b"1")]);
            assert_eq!(kept, [("x-good".to_owned(), "1".to_owned())], "{name:?}");
            assert!(fault.as_ref().unwrap().contains(why), "{name:?}: {fault:?}");
        }
        let (kept, fault) = checked(vec![header("x-good", b"1")]);
        assert_eq!((kept.len(), fault), (1, None));
    }

    #[test]
    fn headers_beyond_the_bounds_are_left_out() {
        let many = (0..MAX_HEADERS + 3).map(|at| header(&format!("x-{at}"), b"1"));
        let (kept, fault) = checked(many.collect());
        assert_eq!(kept.len(), MAX_HEADERS);
        assert!(fault.unwrap().contains("more than 16"));
        let (kept, fault) = checked(vec![header("x-long", &vec![b'a'; MAX_HEADER_BYTES])]);
        assert!(kept.is_empty() && fault.unwrap().contains("4102 bytes"));
    }

    #[test]
    fn a_policy_never_reads_a_credential() {
        for name in CREDENTIALS.into_iter().chain(["penstock-connection"]) {
            assert!(!is_readable(name), "{name}");
        }
        assert!(is_readable("x-team"));
    }
}
