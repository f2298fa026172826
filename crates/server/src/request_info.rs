//! The facts that the server keeps about a request while components have it, to refuse it or to log it.

use super::clock::unix_ms;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header};
use penstock_core::{Code, Problem, RequestId, negotiate};
use std::sync::atomic::AtomicU64;

/// The facts that a refusal needs about its request.
pub(crate) struct RequestInfo {
    pub(crate) path: String,
    pub(crate) accept: Option<String>,
    pub(crate) head: bool,
    pub(crate) request_id: RequestId,
    pub(crate) made_id: bool,
    /// Whether the client waits before it sends its body.
    pub(crate) asks_first: bool,
    /// Bytes of its body that have arrived.
    pub(crate) received: AtomicU64,
}

impl RequestInfo {
    pub(crate) fn of(parts: &http::request::Parts) -> Self {
        let own = parts
            .headers
            .get("x-request-id")
            .and_then(|v| RequestId::from_header(v.as_bytes()));
        let lines: Vec<&str> = parts
            .headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        Self {
            path: parts.uri.path().to_owned(),
            accept: (!lines.is_empty()).then(|| lines.join(", ")),
            head: parts.method == http::Method::HEAD,
            made_id: own.is_none(),
            asks_first: asks_first(parts),
            request_id: own.unwrap_or_else(|| RequestId::generate(unix_ms(), rand::random())),
            received: AtomicU64::new(0),
        }
    }

    pub(crate) fn refuse(&self, problem: &Problem) -> Response<Bytes> {
        let style = negotiate::error_style(&self.path, self.accept.as_deref());
        let (content_type, body) = problem.render(style, &self.request_id, unix_ms());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = http::StatusCode::from_u16(problem.code.status())
            .expect("the catalogue has valid statuses");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        // The same request with another Accept gets another form of answer.
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(
            HeaderName::from_static("x-request-id"),
            HeaderValue::from_str(self.request_id.as_str()).expect("visible ASCII"),
        );
        for (name, value) in problem.headers() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        // The next request would otherwise begin with the unread rest of the body.
        if self.asks_first
            || matches!(
                problem.code,
                Code::BodyTooLarge
                    | Code::RequestTimeout
                    | Code::IncompleteBody
                    | Code::MalformedRequest
            )
        {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Returns whether a client waits for the signal that its body may come. HTTP/1.0 has no such signal (RFC 9110 §10.1.1).
pub(crate) fn asks_first(parts: &http::request::Parts) -> bool {
    parts.version > http::Version::HTTP_10
        && (parts.headers.get(header::EXPECT))
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Returns the answer to HEAD: GET's headers about the body, without the body.
pub(crate) fn without_body(response: Response<Bytes>) -> Response<Bytes> {
    let (mut parts, body) = response.into_parts();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(parts, Bytes::new())
}
