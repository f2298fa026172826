//! What the head of a gRPC call says: its codec, its method's shape, its timeout and its compression.

use http::{HeaderMap, HeaderValue, header, request::Parts};
use penstock_core::grpc::{self, Codec};
use penstock_core::{Code, Problem};
use std::time::Duration;

pub(crate) const TIMEOUT: &str = "grpc-timeout";

pub(crate) const ENCODING: &str = "grpc-encoding";

/// How a method's messages come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One each way.
    Unary,
    /// Many each way, one for one.
    Stream,
    /// One in, and one out whenever it changes.
    Watch,
}

impl Shape {
    /// A method the gate does not know is unary: it is refused either way.
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

/// The codec a request's content type names, where it is gRPC's.
pub(crate) fn codec(headers: &HeaderMap) -> Option<Codec> {
    grpc::codec(headers.get(header::CONTENT_TYPE)?.as_bytes())
}

/// A call is not taken that has a codec, or a version of HTTP, in which it could not be answered.
pub(crate) fn admissible(parts: &Parts) -> Result<(), Problem> {
    let message = match codec(&parts.headers) {
        None => return Ok(()),
        Some(Codec::Protobuf) if parts.version == http::Version::HTTP_2 => return Ok(()),
        Some(Codec::Protobuf) => {
            "calls over gRPC need HTTP/2; connect with `h2` or with prior knowledge, and let no proxy between speak \
            HTTP/1"
        }
        Some(Codec::Other) => {
            "only the codec protobuf over plain HTTP/2 is supported; send `content-type: application/grpc`"
        }
    };
    Err(Problem::new(Code::UnsupportedMediaType, message))
}

/// How long a call's client waits, and how it compresses its messages, as `Content-Encoding` has it.
pub(crate) fn options(
    headers: &HeaderMap,
) -> Result<(Option<Duration>, Option<&'static str>), Problem> {
    let timeout = match headers.get(TIMEOUT) {
        None => None,
        Some(value) => Some(grpc::timeout(value.as_bytes()).ok_or_else(|| {
            Problem::new(
                Code::MalformedRequest,
                "grpc-timeout is not up to eight digits and one of the units H, M, S, m, u, n",
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
