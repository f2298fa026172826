//! Decides from the head of a request whether it is accepted.

use super::framing::Framing;
use super::grpc_head;
use super::state::Server;
use http::header;
use penstock_core::{Code, Problem};

/// Bytes of a header line besides name and value: colon, space, carriage return, newline.
pub(crate) const HEADER_FRAMING_BYTES: usize = 4;
/// The longest method; the longest registered one has 17.
pub(crate) const MAX_METHOD_BYTES: usize = 32;
/// Headers in one request; browsers send about twenty.
pub(crate) const MAX_HEADERS: usize = 128;

impl Server {
    /// Checks everything that can be checked before the body.
    pub(crate) fn admissible(
        &self,
        parts: &http::request::Parts,
        seen: Framing,
    ) -> Result<(), Problem> {
        if seen == Framing::Ambiguous {
            return Err(Problem::new(
                Code::MalformedRequest,
                "the request has both Content-Length and Transfer-Encoding, so its end is ambiguous; send one of \
                them",
            ));
        }
        grpc_head::admissible(parts)?;
        let method_bytes = parts.method.as_str().len();
        if method_bytes > MAX_METHOD_BYTES {
            return Err(Problem::new(
                Code::MalformedRequest,
                format!(
                    "the method has {method_bytes} bytes; no method has more than {MAX_METHOD_BYTES}"
                ),
            ));
        }
        let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
        if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err(Problem::new(
                Code::MalformedRequest,
                "the request has a Transfer-Encoding other than chunked, the only one that is supported",
            ));
        }
        let authority_bytes = parts.uri.authority().map_or(0, |a| a.as_str().len());
        let path_bytes = parts.uri.path_and_query().map_or(0, |t| t.as_str().len());
        let target_bytes = authority_bytes + path_bytes;
        if target_bytes > self.settings.max_target_bytes as usize {
            return Err(Problem::new(
                Code::TargetTooLong,
                format!(
                    "the request target has {target_bytes} bytes; at most {} are accepted",
                    self.settings.max_target_bytes
                ),
            ));
        }
        // HTTP/1's read buffer is larger than the limit because of bodies, so the limit is checked here.
        let header_bytes: usize = parts
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + HEADER_FRAMING_BYTES)
            .sum();
        if header_bytes > self.settings.max_header_bytes as usize {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                format!(
                    "the headers have {header_bytes} bytes; at most {} are accepted",
                    self.settings.max_header_bytes
                ),
            ));
        }
        // hyper checks it for HTTP/1. HTTP/2 has no limit on the count.
        if parts.headers.len() > MAX_HEADERS {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                format!(
                    "the request has {} headers; at most {MAX_HEADERS} are accepted",
                    parts.headers.len()
                ),
            ));
        }
        if seen == Framing::TooLong {
            return Err(Problem::new(
                Code::HeadersTooLarge,
                "the request head exceeds the limits of the target and the headers together; send it without padding",
            ));
        }
        // RFC 9112 §3.2: with none or several, two servers may disagree about the target of the request.
        let hosts = parts.headers.get_all(header::HOST).iter().count();
        if parts.version == http::Version::HTTP_11 && hosts != 1 {
            return Err(Problem::new(
                Code::MalformedRequest,
                format!("the request has {hosts} Host headers; send exactly one"),
            ));
        }
        Ok(())
    }
}
