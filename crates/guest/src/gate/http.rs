//! Implements the gate's HTTP entry point, `wasi:http/handler`, for hosts other than ours.

use super::{GATE, answer};
use http_body_util::BodyExt;
use penstock_core::headers::AUTHORITY;
use penstock_core::{Problem, grpc};
use penstock_gate::http_entry::{BoundedBody, frame, incomplete_body, is_framed, unframe};
use penstock_gate::{Header, Request};

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
        body: Vec::new().into(),
    };
    let collected = collect(body).await;
    let framed = is_framed(&record);
    let response = collected
        .and_then(|bytes| {
            record.body = bytes.into();
            match framed {
                true => unframe(&mut record),
                false => Ok(()),
            }
        })
        .map(|()| answer(&record))
        .unwrap_or_else(|problem| GATE.with_borrow(|gate| gate.refuse(&record, &problem)));
    let (response, has_trailer) = match framed {
        true => frame(response),
        false => (response, false),
    };
    let mut builder = spin_sdk::http::Response::builder().status(response.status);
    for header in &response.headers {
        builder = builder.header(&header.name, header.value.as_slice());
    }
    let mut body = HttpBody::whole(response.body.into_vec());
    body.trailers = has_trailer.then(|| {
        let status = http::HeaderValue::from_static("0");
        [(http::HeaderName::from_static(grpc::STATUS), status)]
            .into_iter()
            .collect()
    });
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
    let mut bounded = BoundedBody::default();
    while let Some(frame) = body.as_mut().frame().await {
        let frame = frame.map_err(|_| incomplete_body())?;
        if let Ok(data) = frame.into_data() {
            bounded.push(&data)?;
        }
    }
    Ok(bounded.into_bytes())
}
