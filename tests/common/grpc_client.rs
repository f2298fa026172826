//! A client of the gRPC service over HTTP/2.

use super::hyper_client::{self, framed};
use super::{Options, Server};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::{HeaderMap, Request, Response};
use pb::model_infer_request::InferInputTensor;
use penstock_proto::google::rpc;
use penstock_proto::inference as pb;
use prost::Message;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub const SERVICE: &str = "/inference.GRPCInferenceService";
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
pub const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

pub fn server(policy: &str) -> Server {
    let server = Server::start_with(Options {
        policy_text: Some(policy.to_owned()),
        ..Options::default()
    });
    server.ready();
    server
}

/// The body of a request, piece by piece.
pub struct Pieces(pub mpsc::UnboundedReceiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| Some(Ok(Frame::data(piece?))))
    }
}

/// A client with one connection.
pub struct Client {
    pub sender: SendRequest<Pieces>,
    pub scheme: &'static str,
    pub authority: String,
}

/// The end of a call.
#[derive(Debug)]
pub struct Ended {
    pub headers: HeaderMap,
    pub messages: Vec<Bytes>,
    /// The trailers, or the headers if there was nothing else.
    pub end: HeaderMap,
}

impl Ended {
    pub fn status(&self) -> u32 {
        let status = self.end.get("grpc-status").expect("a status");
        status.to_str().unwrap().parse().unwrap()
    }

    pub fn message(&self) -> &str {
        self.end
            .get("grpc-message")
            .map_or("", |message| message.to_str().unwrap())
    }

    pub fn one<M: Message + Default>(&self) -> M {
        assert_eq!(self.status(), 0, "{self:?}");
        assert_eq!(self.messages.len(), 1, "{self:?}");
        M::decode(self.messages[0].clone()).unwrap()
    }

    pub fn details(&self) -> rpc::Status {
        let text = self.end.get("grpc-status-details-bin").expect("details");
        rpc::Status::decode(STANDARD_NO_PAD.decode(text).unwrap().as_slice()).unwrap()
    }

    pub fn detail<M: Message + Default>(&self, name: &str) -> M {
        let details = self.details();
        let any = details
            .details
            .iter()
            .find(|any| any.type_url.ends_with(name));
        M::decode(any.expect(name).value.as_slice()).unwrap()
    }
}

/// A call whose client still sends.
pub struct Open {
    pub sender: Option<mpsc::UnboundedSender<Bytes>>,
    pub response: Response<Incoming>,
    pub received: Vec<u8>,
}

impl Open {
    pub fn send(&self, message: &impl Message) {
        let sender = self.sender.as_ref().expect("not ended");
        sender
            .send(framed(&message.encode_to_vec()).into())
            .unwrap();
    }

    /// Returns the next message, or the trailers.
    pub async fn next(&mut self) -> Result<Bytes, HeaderMap> {
        loop {
            if let Some(message) = cut(&mut self.received) {
                return Ok(message);
            }
            let frame = self.response.body_mut().frame().await;
            let frame = match frame {
                None => return Err(self.response.headers().clone()),
                Some(frame) => frame.expect("the stream goes on"),
            };
            match frame.into_data() {
                Ok(data) => self.received.extend_from_slice(&data),
                Err(frame) => return Err(frame.into_trailers().unwrap()),
            }
        }
    }
}

/// Takes the first message off.
pub fn cut(received: &mut Vec<u8>) -> Option<Bytes> {
    let head = received.first_chunk::<5>()?;
    assert_eq!(head[0], 0, "not compressed");
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if received.len() < 5 + length {
        return None;
    }
    let rest = received.split_off(5 + length);
    let message = Bytes::from(std::mem::replace(received, rest)).slice(5..);
    Some(message)
}

impl Client {
    pub async fn on<S>(stream: S, scheme: &'static str, authority: String) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self {
            sender: hyper_client::http2(stream).await.unwrap(),
            scheme,
            authority,
        }
    }

    pub async fn to(server: &Server) -> Self {
        let stream = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        Self::on(stream, "http", server.address.to_string()).await
    }

    pub fn request(&self, path: &str, metadata: &[(&str, &str)], body: Pieces) -> Request<Pieces> {
        let mut request = Request::post(format!("{}://{}{path}", self.scheme, self.authority))
            .header("te", "trailers");
        if !metadata.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        request.body(body).unwrap()
    }

    /// Sends raw bytes and waits for the end.
    pub async fn raw(&mut self, path: &str, metadata: &[(&str, &str)], body: Vec<u8>) -> Ended {
        let (sender, pieces) = mpsc::unbounded_channel();
        if !body.is_empty() {
            sender.send(body.into()).unwrap();
        }
        drop(sender);
        let request = self.request(path, metadata, Pieces(pieces));
        let response = self.sender.send_request(request).await.unwrap();
        end_of(response).await
    }

    pub async fn unary(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        message: &impl Message,
    ) -> Ended {
        self.raw(path, metadata, framed(&message.encode_to_vec()))
            .await
    }

    pub async fn open(&mut self, path: &str, metadata: &[(&str, &str)]) -> Open {
        let (sender, pieces) = mpsc::unbounded_channel();
        let request = self.request(path, metadata, Pieces(pieces));
        let response = self.sender.send_request(request).await.unwrap();
        Open {
            sender: Some(sender),
            response,
            received: Vec::new(),
        }
    }
}

pub async fn end_of(response: Response<Incoming>) -> Ended {
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/grpc");
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let mut bytes = collected.to_bytes().to_vec();
    let mut messages = Vec::new();
    while let Some(message) = cut(&mut bytes) {
        messages.push(message);
    }
    assert!(bytes.is_empty(), "whole messages");
    Ended {
        end: trailers.unwrap_or_else(|| headers.clone()),
        headers,
        messages,
    }
}

/// One row of four for `identity`.
pub fn row(id: &str, values: [f32; 4]) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "identity".into(),
        id: id.into(),
        inputs: vec![InferInputTensor {
            name: "a".into(),
            datatype: "FP32".into(),
            shape: vec![1, 4],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::from(
            values
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<_>>(),
        )],
        ..Default::default()
    }
}
