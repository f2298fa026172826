//! Implements the gate's HTTP entry point, `wasi:http/handler`, for hosts other than ours.

use super::{GATE, answer};
use http_body_util::BodyExt;
use penstock_core::headers::AUTHORITY;
use penstock_core::{Code, Problem, grpc};
use penstock_gate::grpc::service::is_call;
use penstock_gate::{Header, Request, Response};

/// The largest body in bytes that the HTTP entry point reads. The model's own limit is checked later. It is four
/// times the largest default limit of contracts, and prevents one request from filling an instance's memory.
pub const MAX_HTTP_DOOR_BODY_BYTES: usize = 64 << 20;

/// The type that the HTTP entry point returns to the SDK.
pub type HttpResponse = spin_sdk::http::Response<HttpBody>;

/// The body of an answer: data, and the trailers after it.
pub struct HttpBody {
    data: Option<bytes::Bytes>,
    trailers: Option<http::HeaderMap>,
}

impl HttpBody {
    fn whole(data: Vec<u8>) -> Self {
        Self {
            data: (!data.is_empty()).then(|| data.into()),
            trailers: None,
        }
    }
}

impl http_body::Body for HttpBody {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let data = self.data.take().map(http_body::Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(http_body::Frame::trailers));
        std::task::Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let bytes = self.data.as_ref().map_or(0, bytes::Bytes::len);
        match self.trailers {
            // The trailers end the body, so its length is not announced.
            Some(_) => http_body::SizeHint::default(),
            None => http_body::SizeHint::with_exact(bytes as u64),
        }
    }
}

/// The header by which Penstock's own host states that the body of a gRPC call is one message without its frame.
/// Other hosts pass the body as received.
const UNFRAMED: &str = "penstock-grpc";

/// Removes the frame from a gRPC call that another host has passed. The body must be one message.
fn unframe(request: &mut Request) -> Result<(), Problem> {
    let compressed = {
        let mut deframer = grpc::Deframer::new(MAX_HTTP_DOOR_BODY_BYTES as u64);
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
        request.body = message.bytes;
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

/// Adds the frame to a message, and the status as trailers. An error has only headers.
fn frame(response: Response) -> (Response, Option<http::HeaderMap>) {
    let succeeded = response.header(grpc::STATUS) == Some("0");
    let head = grpc::frame_head(response.body.len());
    let (true, Some(head)) = (succeeded, head) else {
        return (response, None);
    };
    let mut framed = Response {
        status: response.status,
        headers: response.headers,
        body: head.to_vec(),
    };
    framed.headers.retain(|h| h.name != grpc::STATUS);
    framed.body.extend_from_slice(&response.body);
    let mut trailers = http::HeaderMap::new();
    trailers.insert(grpc::STATUS, http::HeaderValue::from_static("0"));
    (framed, Some(trailers))
}

/// Implements the HTTP entry point: reads the whole body, then answers as the direct entry point does.
pub async fn answer_http(request: spin_sdk::http::Request) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|authority| Header {
        name: AUTHORITY.to_owned(),
        value: authority.as_str().as_bytes().to_vec(),
    });
    let headers = parts.headers.iter().map(|(name, value)| Header {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec(),
    });
    let headers = headers.chain(authority).collect();
    let mut record = Request {
        method: parts.method.as_str().to_owned(),
        target: parts
            .uri
            .path_and_query()
            .map_or("/", |t| t.as_str())
            .to_owned(),
        headers,
        body: Vec::new(),
    };
    let collected = collect(body).await;
    let framed = is_call(&record) && record.header(UNFRAMED).is_none();
    let response = collected
        .and_then(|bytes| {
            record.body = bytes;
            match framed {
                true => unframe(&mut record),
                false => Ok(()),
            }
        })
        .map(|()| answer(&record))
        .unwrap_or_else(|problem| GATE.with_borrow(|gate| gate.refuse(&record, &problem)));
    let (response, trailers) = match framed {
        true => frame(response),
        false => (response, None),
    };
    let mut builder = spin_sdk::http::Response::builder().status(response.status);
    for header in &response.headers {
        builder = builder.header(&header.name, header.value.as_slice());
    }
    let mut body = HttpBody::whole(response.body);
    body.trailers = trailers;
    builder.body(body).unwrap_or_else(|_| {
        let mut broken = HttpResponse::new(HttpBody::whole(Vec::new()));
        *broken.status_mut() = spin_sdk::http::StatusCode::INTERNAL_SERVER_ERROR;
        broken
    })
}

async fn collect<B>(body: B) -> Result<Vec<u8>, Problem>
where
    B: http_body::Body<Data = bytes::Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = body.as_mut().frame().await {
        let Ok(frame) = frame else {
            return Err(Problem::new(
                Code::IncompleteBody,
                "the body ended before it was complete",
            ));
        };
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > MAX_HTTP_DOOR_BODY_BYTES {
                return Err(Problem::new(
                    Code::BodyTooLarge,
                    format!(
                        "the body has more than {MAX_HTTP_DOOR_BODY_BYTES} bytes, the maximum of this entry point"
                    ),
                ));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}
