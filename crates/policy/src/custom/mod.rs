//! The operator's own policy: its types, its service, and the headers that it may add to an answer.
//!
//! A deployment replaces one component. The gate asks that component after the limits, and before it reads the body. The built-in
//! component admits every call and wants no questions.

pub mod service;
pub mod words;

use penstock_core::headers::{CREDENTIALS, Headers};

/// The most headers that a policy adds to an answer.
pub const MAX_HEADERS: usize = 16;
/// The most bytes of the names and values of these headers together. Many gRPC clients and proxies take 8 KiB for the head of an
/// answer, and the other headers need a part of it.
pub const MAX_HEADER_BYTES: usize = 2048;
/// The most characters of a refusal's message that are sent.
pub const MAX_MESSAGE_CHARS: usize = 1000;

/// The prefix of the headers that a policy may set. Other headers have a meaning for the server, clients or proxies. They control
/// an answer's framing, caching and compression, and the pages that may read it.
const PREFIX: &str = "x-";

/// Headers with this prefix that Penstock sets, and those that change how browsers treat an answer.
const RESERVED: [&str; 7] = [
    "x-content-type-options",
    "x-dns-prefetch-control",
    "x-frame-options",
    "x-model-version",
    "x-model-version-reason",
    "x-prediction-id",
    "x-request-id",
];

/// The suffix of gRPC's binary metadata. Its value is base64, and a client fails on one that is not.
const BINARY: &str = "-bin";

/// Returns whether a policy may read a header of the request. Credentials are for `auth` alone.
pub fn is_readable(name: &str) -> bool {
    !CREDENTIALS.contains(&name) && !name.starts_with("penstock-")
}

/// Returns the headers that a policy may add to an answer, and a message for the operator about the others.
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
    let mut omitted: Vec<String> = Vec::new();
    let mut total = 0;
    let given = headers.len();
    for (name, value) in headers.into_iter().take(MAX_HEADERS) {
        let bytes = name.len() + value.len();
        let why = if total + bytes > MAX_HEADER_BYTES {
            format!("the headers have more than {MAX_HEADER_BYTES} bytes")
        } else if !is_token(&name) {
            "its name is not a lower-case token".to_owned()
        } else if !name.starts_with(PREFIX) || name.ends_with(BINARY) {
            "its name must begin with x- and not end in -bin".to_owned()
        } else if RESERVED.contains(&name.as_str()) {
            "the server sets it".to_owned()
        } else if kept.iter().any(|(other, _)| *other == name) {
            "the name occurs twice".to_owned()
        } else {
            match text(value) {
                Some(value) => {
                    total += bytes;
                    kept.push((name, value));
                    continue;
                }
                None => "its value is not visible ASCII".to_owned(),
            }
        };
        let name: String = name.chars().take(64).collect();
        omitted.push(format!("`{name}` ({why})"));
    }
    if given > MAX_HEADERS {
        omitted.push(format!(
            "{} more than the {MAX_HEADERS} that are sent",
            given - MAX_HEADERS
        ));
    }
    let fault = (!omitted.is_empty()).then(|| {
        let omitted = omitted.join(", ");
        format!("headers of the custom policy are left out of an answer: {omitted}")
    });
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
            ("content-length", b"1", "begin with x-"),
            ("transfer-encoding", b"chunked", "begin with x-"),
            ("penstock-audit", b"{}", "begin with x-"),
            ("grpc-status", b"0", "begin with x-"),
            ("access-control-allow-origin", b"*", "begin with x-"),
            ("vary", b"origin", "begin with x-"),
            ("x-data-bin", b"no base64", "-bin"),
            ("x-request-id", b"1", "server"),
            ("x-model-version", b"9", "server"),
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
    fn headers_beyond_the_bounds_and_second_ones_are_left_out() {
        let many = (0..MAX_HEADERS + 3).map(|at| header(&format!("x-{at}"), b"1"));
        let (kept, fault) = checked(many.collect());
        assert_eq!(kept.len(), MAX_HEADERS);
        assert!(fault.unwrap().contains("3 more than the 16"));
        let half = vec![b'a'; MAX_HEADER_BYTES / 2];
        let (kept, fault) = checked(vec![header("x-one", &half), header("x-two", &half)]);
        assert_eq!(kept.len(), 1);
        assert!(
            fault
                .unwrap()
                .contains("`x-two` (the headers have more than 2048 bytes)")
        );
        let (kept, fault) = checked(vec![header("x-a", b"1"), header("x-a", b"2")]);
        assert_eq!(kept, [("x-a".to_owned(), "1".to_owned())]);
        assert!(fault.unwrap().contains("twice"));
    }

    #[test]
    fn a_policy_never_reads_a_credential() {
        for name in CREDENTIALS.into_iter().chain(["penstock-connection"]) {
            assert!(!is_readable(name), "{name}");
        }
        assert!(is_readable("x-team"));
    }
}
