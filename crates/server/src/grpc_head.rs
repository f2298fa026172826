//! Reads the head of a gRPC call: its codec, its method's shape, its timeout and its compression.

use http::{HeaderMap, HeaderValue, header, request::Parts};
use penstock_core::grpc::{self, Codec};
use penstock_core::{Code, Problem};
use std::time::Duration;

pub(crate) const TIMEOUT: &str = "grpc-timeout";

pub(crate) const ENCODING: &str = "grpc-encoding";

/// The number of a method's messages in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One message in each direction.
    Unary,
    /// Many each way, one answer for each message.
    Stream,
    /// One in, and one out after each change.
    Watch,
}

impl Shape {
    /// A method that the gate does not know counts as unary. It is refused in any case.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/inference.GRPCInferenceService/ModelStreamInfer"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Stream,
            "/grpc.health.v1.Health/Watch" => Self::Watch,
            _ => Self::Unary,
        }
    }
}

/// The codec that a request's content type names, if it is one of gRPC's.
pub(crate) fn codec(headers: &HeaderMap) -> Option<Codec> {
    grpc::codec(headers.get(header::CONTENT_TYPE)?.as_bytes())
}

/// Refuses a call with a codec, or a version of HTTP, in which it could not be answered.
pub(crate) fn admissible(parts: &Parts) -> Result<(), Problem> {
    let message = match codec(&parts.headers) {
        None => return Ok(()),
        Some(Codec::Protobuf) if parts.version == http::Version::HTTP_2 => return Ok(()),
        Some(Codec::Protobuf) => {
            "calls over gRPC need HTTP/2; connect with `h2` or with prior knowledge, and use no proxy that speaks \
            HTTP/1"
        }
        Some(Codec::Other) => {
            "only the codec protobuf over plain HTTP/2 is supported; send `content-type: application/grpc`"
        }
    };
    Err(Problem::new(Code::UnsupportedMediaType, message))
}

/// Returns the time that a client waits, and the compression of its messages, in the form of `Content-Encoding`.
pub(crate) fn options(
    headers: &HeaderMap,
) -> Result<(Option<Duration>, Option<&'static str>), Problem> {
    let timeout = match headers.get(TIMEOUT) {
        None => None,
        Some(value) => Some(grpc::timeout(value.as_bytes()).ok_or_else(|| {
            Problem::new(
                Code::MalformedRequest,
                "grpc-timeout must be one to eight digits and one of the units H, M, S, m, u, n",
            )
        })?),
    };
    let coding = match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => None,
        Some(b"gzip") => Some("gzip"),
        // The zlib format, under the same name as in HTTP.
        Some(b"deflate") => Some("deflate"),
        Some(_) => {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "messages are compressed in a coding that is not supported; grpc-accept-encoding names those that \
                are",
            ));
        }
    };
    Ok((timeout, coding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_options_are_read_and_others_refused() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            options(&headers).map_err(|problem| problem.code)
        };
        assert_eq!(options(&HeaderMap::new()), Ok((None, None)));
        assert_eq!(
            with("grpc-timeout", "2S"),
            Ok((Some(Duration::from_secs(2)), None))
        );
        assert_eq!(with("grpc-timeout", "soon"), Err(Code::MalformedRequest));
        assert_eq!(with("grpc-encoding", "identity"), Ok((None, None)));
        assert_eq!(with("grpc-encoding", "gzip"), Ok((None, Some("gzip"))));
        assert_eq!(
            with("grpc-encoding", "deflate"),
            Ok((None, Some("deflate")))
        );
        assert_eq!(with("grpc-encoding", "br"), Err(Code::UnsupportedMediaType));
    }
}
