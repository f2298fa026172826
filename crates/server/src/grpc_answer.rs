//! An answer over gRPC: metadata, a message and trailers.

use super::headers::{AUDIT, SEEN};
use super::metered::{Answered, Metered};
use super::request_info::RequestInfo;
use crate::audit;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::Frame;
use penstock_core::grpc::{self, GrpcStatus};
use penstock_core::{Code, Problem};
use std::collections::VecDeque;

/// The accepted codings of messages.
pub(crate) const ACCEPTED_ENCODINGS: HeaderValue =
    HeaderValue::from_static("identity, gzip, deflate");

pub(crate) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

pub(crate) const GRPC_TYPE: HeaderValue = HeaderValue::from_static(grpc::CONTENT_TYPE);

/// The names that go into trailers, or into headers if there is nothing else.
pub(crate) const TRAILERS: [&str; 4] = [grpc::STATUS, grpc::MESSAGE, grpc::DETAILS, grpc::PUSHBACK];

/// The answer of the entry point, split into its parts.
pub(crate) struct GrpcAnswer {
    /// The headers before the message.
    pub(crate) metadata: HeaderMap,
    pub(crate) message: Bytes,
    pub(crate) trailers: HeaderMap,
    /// The entry for the audit log.
    pub(crate) told: Option<HeaderValue>,
    /// The note for metrics.
    pub(crate) note: Option<HeaderValue>,
}

impl GrpcAnswer {
    pub(crate) fn from_entry_point(response: Response<Bytes>) -> Self {
        let (parts, message) = response.into_parts();
        let mut metadata = parts.headers;
        let told = metadata.remove(&AUDIT);
        let note = metadata.remove(&SEEN);
        let mut trailers = HeaderMap::new();
        for name in TRAILERS {
            if let Some(value) = metadata.remove(name) {
                trailers.insert(HeaderName::from_static(name), value);
            }
        }
        metadata.remove(header::CONTENT_LENGTH);
        metadata.insert(header::CONTENT_TYPE, GRPC_TYPE);
        metadata.insert(ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
        let status = HeaderName::from_static(grpc::STATUS);
        if !trailers.contains_key(&status) {
            // A gate without gRPC answers in HTTP.
            let found = GrpcStatus::of_http(parts.status.as_u16());
            let found = match found {
                GrpcStatus::Unknown if parts.status.is_success() => GrpcStatus::Unimplemented,
                other => other,
            };
            trailers.insert(status, HeaderValue::from(u16::from(found.number())));
        }
        Self {
            metadata,
            message,
            trailers,
            told,
            note,
        }
    }

    pub(crate) fn of(problem: &Problem, asked: &RequestInfo) -> Self {
        let (parts, ()) = refused(problem, asked).into_parts();
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = parts.headers;
        Self::from_entry_point(response)
    }

    pub(crate) fn is_ok(&self) -> bool {
        let status = self.trailers.get(grpc::STATUS);
        status.is_some_and(|status| status.as_bytes() == b"0")
    }

    /// The equivalent HTTP status, for the audit log.
    pub(crate) fn http_status(&self) -> u16 {
        let number = self.trailers.get(grpc::STATUS);
        let number = number.and_then(|status| status.to_str().ok()?.parse::<usize>().ok());
        let status = number.and_then(|number| GrpcStatus::ALL.get(number));
        status.map_or(500, |status| status.to_http())
    }

    /// The frames of the message.
    pub(crate) fn into_message(self) -> [Frame<Bytes>; 2] {
        // No message is longer than an instance's memory, which is less than a frame's largest length.
        let head = grpc::frame_head(self.message.len()).unwrap_or_default();
        [
            Frame::data(Bytes::copy_from_slice(&head)),
            Frame::data(self.message),
        ]
    }

    /// Returns the whole answer to a unary call. Without a message its trailers are its headers.
    pub(crate) fn whole(self) -> Response<VecDeque<Frame<Bytes>>> {
        let mut response = Response::new(VecDeque::new());
        *response.headers_mut() = self.metadata.clone();
        if self.is_ok() {
            let trailers = Frame::trailers(self.trailers.clone());
            response.body_mut().extend(self.into_message());
            response.body_mut().push_back(trailers);
        } else {
            response.headers_mut().extend(self.trailers);
        }
        response
    }
}

/// Counts one message, and completes its entry of the audit log.
pub(crate) fn conclude(
    (metered, audited): (Metered<'_>, Option<audit::Open>),
    answered: Result<Response<Bytes>, Problem>,
    bytes_in: u64,
) -> Result<GrpcAnswer, Problem> {
    let mut answered = answered.map(GrpcAnswer::from_entry_point);
    metered.end(&match &answered {
        Ok(answered) => Answered {
            note: answered.note.as_ref(),
            headers: Some(&answered.metadata),
            status: answered.http_status(),
            code: None,
            bytes_in,
            bytes_out: answered.message.len() as u64,
        },
        Err(problem) => refusal(problem, bytes_in),
    });
    if let Some(audited) = audited {
        audited.close(|entry| {
            entry.bytes_in = bytes_in;
            match &mut answered {
                Ok(answered) => {
                    let told = answered.told.as_ref().and_then(told_status);
                    entry.status = told.unwrap_or_else(|| answered.http_status());
                    entry.bytes_out = answered.message.len() as u64;
                    entry.told = answered.told.take();
                }
                Err(problem) => {
                    entry.status = problem.code.status();
                    entry.code = Some(problem.code.as_str());
                }
            }
        });
    }
    answered
}

/// The facts about a refusal by the server.
pub(crate) fn refusal(problem: &Problem, bytes_in: u64) -> Answered<'static> {
    Answered {
        note: None,
        headers: None,
        status: problem.code.status(),
        code: Some(problem.code),
        bytes_in,
        bytes_out: 0,
    }
}

/// The status of the error code in the gate's entry for the audit log. It is more specific than gRPC's.
pub(crate) fn told_status(told: &HeaderValue) -> Option<u16> {
    let told: serde_json::Value = serde_json::from_slice(told.as_bytes()).ok()?;
    let word = told.get("code")?.as_str()?;
    let code = Code::parse(word)?;
    Some(code.status())
}

/// A refusal by the server, in headers alone.
pub(crate) fn refused(problem: &Problem, asked: &RequestInfo) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC_TYPE);
    headers.insert(ACCEPT_ENCODING, ACCEPTED_ENCODINGS);
    headers.insert(
        HeaderName::from_static("x-request-id"),
        HeaderValue::from_str(asked.request_id.as_str()).expect("visible ASCII"),
    );
    headers.extend(trailers(problem));
    response
}

pub(crate) fn trailers_ok() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let ok = HeaderValue::from_static("0");
    trailers.insert(HeaderName::from_static(grpc::STATUS), ok);
    trailers
}

/// The trailers of a call that ends with an error of the server.
pub(crate) fn trailers(problem: &Problem) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let status = problem.code.grpc_status().number();
    trailers.insert(
        HeaderName::from_static(grpc::STATUS),
        HeaderValue::from(u16::from(status)),
    );
    if let Ok(message) = HeaderValue::from_str(&grpc::encode_message(&problem.message)) {
        trailers.insert(HeaderName::from_static(grpc::MESSAGE), message);
    }
    if let Some(seconds) = problem.retry_after_s {
        let ms = HeaderValue::from(u64::from(seconds) * 1_000);
        trailers.insert(HeaderName::from_static(grpc::PUSHBACK), ms);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_log_has_the_status_of_the_code_that_the_gate_tells() {
        let status = |told| told_status(&HeaderValue::from_static(told));
        let quota = r#"{"decision":"refused","code":"quota_exceeded"}"#;
        assert_eq!(status(quota), Some(429));
        for told in ["", "{}", r#"{"code":7}"#, r#"{"code":"unheard_of"}"#] {
            assert_eq!(status(told), None, "{told}");
        }
    }

    #[test]
    fn an_answer_of_the_entry_point_becomes_metadata_a_message_and_trailers() {
        let mut response = Response::new(Bytes::from_static(b"hi"));
        let headers = response.headers_mut();
        for (name, value) in [
            ("content-type", "application/grpc"),
            ("content-length", "2"),
            ("grpc-status", "0"),
            ("x-request-id", "r"),
            ("penstock-audit", "{}"),
            ("penstock-seen", "infer - m"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let answered = GrpcAnswer::from_entry_point(response);
        assert!(answered.is_ok() && answered.told.is_some() && answered.note.is_some());
        assert_eq!(answered.http_status(), 200);
        let response = answered.whole();
        assert!(!response.headers().contains_key("grpc-status"));
        assert!(!response.headers().contains_key("content-length"));
        assert!(!response.headers().contains_key("penstock-audit"));
        assert!(!response.headers().contains_key("penstock-seen"));
        assert_eq!(response.headers()["x-request-id"], "r");
        let frames = response.into_body();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].data_ref().unwrap().as_ref(), [0, 0, 0, 0, 2]);
        assert_eq!(frames[2].trailers_ref().unwrap()["grpc-status"], "0");
        // A gate that knows nothing of gRPC.
        for (status, expected) in [
            (200, "12"),
            (404, "12"),
            (503, "14"),
            (401, "16"),
            (500, "2"),
        ] {
            let mut response = Response::new(Bytes::from_static(b"{}"));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            let response = GrpcAnswer::from_entry_point(response).whole();
            assert_eq!(response.headers()["grpc-status"], expected);
            assert!(response.body().is_empty());
        }
    }
}
