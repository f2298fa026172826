//! Decides about the bodies of the HTTP entry point, `wasi:http/handler`, through which other hosts call the gate: their
//! largest size, and the frames of gRPC messages.

use crate::grpc::service::is_call;
use crate::record::{Header, Request, Response};
use penstock_core::{Code, Problem, grpc};

/// The largest body in bytes that the HTTP entry point reads. The model's own limit is checked later. It is four
/// times the largest default limit of contracts, and prevents one request from filling an instance's memory.
pub const MAX_HTTP_ENTRY_POINT_BODY_BYTES: usize = 64 << 20;

/// The header by which Penstock's own host states that the body of a gRPC call is one message without its frame.
/// Other hosts pass the body as received.
const UNFRAMED: &str = "penstock-grpc";

/// A body that is being read, up to [`MAX_HTTP_ENTRY_POINT_BODY_BYTES`].
#[derive(Debug, Default)]
pub struct BoundedBody(Vec<u8>);

impl BoundedBody {
    /// Appends bytes that arrived. Refuses a body beyond the limit.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Problem> {
        if self.0.len() + data.len() > MAX_HTTP_ENTRY_POINT_BODY_BYTES {
            return Err(Problem::new(
                Code::BodyTooLarge,
                format!(
                    "the body has more than {MAX_HTTP_ENTRY_POINT_BODY_BYTES} bytes, the maximum of this entry point"
                ),
            ));
        }
        self.0.extend_from_slice(data);
        Ok(())
    }

    /// Returns all bytes that were pushed, in one piece.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Returns the problem of a body whose stream failed.
pub fn incomplete_body() -> Problem {
    Problem::new(
        Code::IncompleteBody,
        "the body ended before it was complete",
    )
}

/// Returns whether the request is a gRPC call whose message is in its frame.
pub fn is_framed(request: &Request) -> bool {
    is_call(request) && request.header(UNFRAMED).is_none()
}

/// Removes the frame from a gRPC call that another host has passed. The body must be one message.
pub fn unframe(request: &mut Request) -> Result<(), Problem> {
    let compressed = {
        let mut deframer = grpc::Deframer::new(MAX_HTTP_ENTRY_POINT_BODY_BYTES as u64);
        let mut rest: &[u8] = &request.body;
        let message = deframer
            .next(&mut rest)
            .map_err(|fault| Problem::new(fault.code(), fault.to_string()))?;
        let message = message.filter(|_| rest.is_empty()).ok_or_else(|| {
            Problem::new(
                Code::MalformedRequest,
                "the body is not a single message; this host supports unary calls only",
            )
        })?;
        request.body = message.bytes.into();
        message.compressed
    };
    let encoding = request.header_text("grpc-encoding").map(str::to_owned);
    request.headers.retain(|h| h.name != "content-encoding");
    if compressed {
        // The gate decodes the message, and refuses an unsupported coding.
        let coding = encoding.unwrap_or_else(|| "none that is named".to_owned());
        request.headers.push(Header {
            name: "content-encoding".to_owned(),
            value: coding.into_bytes(),
        });
    }
    Ok(())
}

/// Adds the frame to the message of a successful answer. Returns whether the status follows as a trailer: an error has
/// only headers.
pub fn frame(response: Response) -> (Response, bool) {
    let succeeded = response.header(grpc::STATUS) == Some("0");
    let head = grpc::frame_head(response.body.len());
    let (true, Some(head)) = (succeeded, head) else {
        return (response, false);
    };
    let mut framed = Response {
        status: response.status,
        headers: response.headers,
        body: head.to_vec().into(),
    };
    framed.headers.retain(|h| h.name != grpc::STATUS);
    framed.body.to_mut().extend_from_slice(&response.body);
    (framed, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(headers: &[(&str, &str)], body: &[u8]) -> Request {
        let headers = headers.iter().map(|(name, value)| Header {
            name: (*name).to_owned(),
            value: value.as_bytes().to_vec(),
        });
        Request {
            method: "POST".to_owned(),
            target: "/inference.GRPCInferenceService/ServerLive".to_owned(),
            headers: headers.collect(),
            body: body.to_vec().into(),
        }
    }

    #[test]
    fn a_framed_call_becomes_its_message_and_an_answer_gets_a_frame() {
        let content = ("content-type", "application/grpc");
        let mut framed = call(&[content], b"\0\0\0\0\x02hi");
        assert!(is_framed(&framed));
        assert!(!is_framed(&call(&[content, (UNFRAMED, "message")], b"hi")));
        unframe(&mut framed).expect("one message");
        assert_eq!(framed.body, b"hi");
        let mut two = call(&[content], b"\0\0\0\0\x01a\0\0\0\0\x01b");
        assert_eq!(unframe(&mut two).unwrap_err().code, Code::MalformedRequest);

        let mut answer = Response {
            status: 200,
            headers: Vec::new(),
            body: b"hi".to_vec().into(),
        };
        assert!(!frame(answer.clone()).1, "no status, so no success");
        answer.push(grpc::STATUS, "0");
        let (answer, has_trailer) = frame(answer);
        assert!(has_trailer && answer.header(grpc::STATUS).is_none());
        assert_eq!(answer.body, b"\0\0\0\0\x02hi");
    }

    #[test]
    fn a_compressed_message_gets_the_coding_that_its_call_names() {
        for (encoding, expected) in [(Some("gzip"), "gzip"), (None, "none that is named")] {
            let mut headers = vec![
                ("content-type", "application/grpc"),
                ("content-encoding", "br"),
            ];
            headers.extend(encoding.map(|name| ("grpc-encoding", name)));
            let mut framed = call(&headers, b"\x01\0\0\0\x01x");
            unframe(&mut framed).expect("one message");
            let codings = framed
                .headers
                .iter()
                .filter(|h| h.name == "content-encoding");
            let codings: Vec<&[u8]> = codings.map(|h| h.value.as_slice()).collect();
            assert_eq!(codings, [expected.as_bytes()]);
        }
    }

    #[test]
    fn a_body_beyond_the_limit_is_refused() {
        let mut body = BoundedBody::default();
        let half = vec![0; MAX_HTTP_ENTRY_POINT_BODY_BYTES / 2];
        body.push(&half).expect("half");
        body.push(&half).expect("the limit itself");
        assert_eq!(body.push(&[0]).unwrap_err().code, Code::BodyTooLarge);
        assert_eq!(body.into_bytes().len(), MAX_HTTP_ENTRY_POINT_BODY_BYTES);
    }
}
