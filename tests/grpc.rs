//! The gRPC service over real HTTP/2: calls of one message and of many, their refusals, and connections that send less
//! than they announce.

use crate::common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use common::hyper_client::{self, framed, runtime};
use common::{Options, Server, root};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::{HeaderMap, Request, Response};
use pb::model_infer_request::InferInputTensor;
use penstock_proto::google::rpc;
use penstock_proto::grpc::health::v1 as health;
use penstock_proto::grpc::reflection::v1 as reflection;
use penstock_proto::inference as pb;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

const SERVICE: &str = "/inference.GRPCInferenceService";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

fn server(policy: &str) -> Server {
    let server = Server::start_with(Options {
        policy_text: Some(policy.to_owned()),
        ..Options::default()
    });
    server.ready();
    server
}

/// The body of a request, piece by piece.
struct Pieces(mpsc::UnboundedReceiver<Bytes>);

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
struct Client {
    sender: SendRequest<Pieces>,
    scheme: &'static str,
    authority: String,
}

/// The end of a call.
#[derive(Debug)]
struct Ended {
    headers: HeaderMap,
    messages: Vec<Bytes>,
    /// The trailers, or the headers if there was nothing else.
    end: HeaderMap,
}

impl Ended {
    fn status(&self) -> u32 {
        let status = self.end.get("grpc-status").expect("a status");
        status.to_str().unwrap().parse().unwrap()
    }

    fn message(&self) -> &str {
        self.end
            .get("grpc-message")
            .map_or("", |message| message.to_str().unwrap())
    }

    fn one<M: Message + Default>(&self) -> M {
        assert_eq!(self.status(), 0, "{self:?}");
        assert_eq!(self.messages.len(), 1, "{self:?}");
        M::decode(self.messages[0].clone()).unwrap()
    }

    fn details(&self) -> rpc::Status {
        let text = self.end.get("grpc-status-details-bin").expect("details");
        rpc::Status::decode(STANDARD_NO_PAD.decode(text).unwrap().as_slice()).unwrap()
    }

    fn detail<M: Message + Default>(&self, name: &str) -> M {
        let details = self.details();
        let any = details
            .details
            .iter()
            .find(|any| any.type_url.ends_with(name));
        M::decode(any.expect(name).value.as_slice()).unwrap()
    }
}

/// A call whose client still sends.
struct Open {
    sender: Option<mpsc::UnboundedSender<Bytes>>,
    response: Response<Incoming>,
    received: Vec<u8>,
}

impl Open {
    fn send(&self, message: &impl Message) {
        let sender = self.sender.as_ref().expect("not ended");
        sender
            .send(framed(&message.encode_to_vec()).into())
            .unwrap();
    }

    /// Returns the next message, or the trailers.
    async fn next(&mut self) -> Result<Bytes, HeaderMap> {
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
fn cut(received: &mut Vec<u8>) -> Option<Bytes> {
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
    async fn on<S>(stream: S, scheme: &'static str, authority: String) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self {
            sender: hyper_client::http2(stream).await.unwrap(),
            scheme,
            authority,
        }
    }

    async fn to(server: &Server) -> Self {
        let stream = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        Self::on(stream, "http", server.address.to_string()).await
    }

    fn request(&self, path: &str, metadata: &[(&str, &str)], body: Pieces) -> Request<Pieces> {
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
    async fn raw(&mut self, path: &str, metadata: &[(&str, &str)], body: Vec<u8>) -> Ended {
        let (sender, pieces) = mpsc::unbounded_channel();
        if !body.is_empty() {
            sender.send(body.into()).unwrap();
        }
        drop(sender);
        let request = self.request(path, metadata, Pieces(pieces));
        let response = self.sender.send_request(request).await.unwrap();
        end_of(response).await
    }

    async fn unary(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        message: &impl Message,
    ) -> Ended {
        self.raw(path, metadata, framed(&message.encode_to_vec()))
            .await
    }

    async fn open(&mut self, path: &str, metadata: &[(&str, &str)]) -> Open {
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

async fn end_of(response: Response<Incoming>) -> Ended {
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
fn row(id: &str, values: [f32; 4]) -> pb::ModelInferRequest {
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

fn typed(id: &str, values: [f32; 4]) -> pb::ModelInferRequest {
    let mut request = row(id, values);
    request.raw_input_contents.clear();
    request.inputs[0].contents = Some(pb::InferTensorContents {
        fp32_contents: values.to_vec(),
        ..Default::default()
    });
    request
}

/// A gzip member of one stored block.
fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
        }
    }
    let length = u16::try_from(bytes.len()).unwrap();
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(bytes);
    out.extend((!crc).to_le_bytes());
    out.extend(u32::from(length).to_le_bytes());
    out
}

#[test]
fn an_inference_is_answered_the_same_through_either_door_raw_and_typed() {
    for door in ["direct", "http"] {
        let server = Server::start_with(Options {
            door: Some(door),
            ..Options::default()
        });
        server.ready();
        runtime().block_on(async {
            let mut client = Client::to(&server).await;
            for request in [
                row("7", [1.0, 2.0, 3.0, 4.0]),
                typed("7", [1.0, 2.0, 3.0, 4.0]),
            ] {
                let ended = client
                    .unary(INFER, &[("x-request-id", "mine")], &request)
                    .await;
                let said: pb::ModelInferResponse = ended.one();
                assert_eq!((&*said.model_name, &*said.id), ("identity", "7"), "{door}");
                assert_eq!(said.outputs[0].name, "b");
                assert_eq!(said.outputs[0].shape, [1, 4]);
                assert_eq!(said.raw_output_contents[0].len(), 16);
                assert_eq!(said.raw_output_contents[0][..4], 1f32.to_le_bytes());
                assert_eq!(ended.headers["x-request-id"], "mine");
                assert!(ended.headers.contains_key("x-prediction-id"));
                assert!(!ended.headers.contains_key("penstock-audit"));
            }
        });
    }
}

#[test]
fn errors_say_what_is_wrong_in_their_status_and_their_details() {
    let server = server("[server]\nmax_body_bytes = 65536\n");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let mut wrong = row("7", [0.0; 4]);
        wrong.inputs[0].shape = vec![2, 3];
        let ended = client.unary(INFER, &[], &wrong).await;
        assert_eq!((ended.status(), ended.messages.len()), (3, 0), "{ended:?}");
        assert_eq!(ended.details().code, 3);
        let bad: rpc::BadRequest = ended.detail("BadRequest");
        assert_eq!(bad.field_violations[0].field, "inputs[0]");
        let info: rpc::ErrorInfo = ended.detail("ErrorInfo");
        assert_eq!(info.reason, "invalid_inputs");
        let asked: rpc::RequestInfo = ended.detail("RequestInfo");
        assert_eq!(
            asked.request_id,
            ended.headers["x-request-id"].to_str().unwrap()
        );

        let mut unknown = row("7", [0.0; 4]);
        unknown.model_name = "other".into();
        let ended = client.unary(INFER, &[], &unknown).await;
        assert_eq!(ended.status(), 5);
        let ended = client
            .unary("/inference.GRPCInferenceService/Nothing", &[], &unknown)
            .await;
        assert_eq!(ended.status(), 12);
        let ended = client.unary("/other.Service/Method", &[], &unknown).await;
        assert_eq!(ended.status(), 12);

        let whole = framed(&row("7", [0.0; 4]).encode_to_vec());
        let mut twice = whole.clone();
        twice.extend(&whole);
        for (what, body, status) in [
            ("nothing", Vec::new(), 3),
            ("half a head", vec![0, 0, 0], 3),
            ("a cut message", whole[..whole.len() - 1].to_vec(), 3),
            ("two messages", twice, 3),
            ("a wrong flag", [&[7], &whole[1..]].concat(), 3),
            (
                "compressed without saying how",
                [&[1], &whole[1..]].concat(),
                3,
            ),
            ("a lying length", vec![0, 0xff, 0xff, 0xff, 0xff], 8),
            ("a large message", framed(&vec![0; 70_000]), 8),
            ("not protobuf", framed(&[0x0f; 10]), 3),
        ] {
            let ended = client.raw(INFER, &[], body).await;
            assert_eq!(ended.status(), status, "{what}: {}", ended.message());
        }
        // The connection has survived all of it.
        let ended = client.unary(INFER, &[], &row("7", [0.0; 4])).await;
        assert_eq!(ended.status(), 0);
    });
}

#[test]
fn what_is_no_call_over_http2_with_protobuf_is_refused_in_http() {
    let server = server("");
    let answer = server.post(INFER, "application/grpc", b"\0\0\0\0\0");
    assert_eq!(answer.status, 415);
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("HTTP/2")
    );
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        for content_type in ["application/grpc+json", "application/grpc-web"] {
            let (sender, pieces) = mpsc::unbounded_channel();
            drop(sender);
            let metadata = [("content-type", content_type)];
            let request = client.request(INFER, &metadata, Pieces(pieces));
            let response = client.sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 415, "{content_type}");
        }
    });
}

#[test]
fn a_stream_answers_in_order_and_goes_on_after_an_error() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let mut stream = client.open(STREAM, &[]).await;
        for n in 0..20u8 {
            let mut request = row(&n.to_string(), [f32::from(n); 4]);
            if n == 10 {
                request.model_name = "other".into();
            }
            stream.send(&request);
        }
        for n in 0..20u8 {
            let message = stream.next().await.unwrap();
            let said = pb::ModelStreamInferResponse::decode(message).unwrap();
            let answer = said.infer_response.unwrap();
            assert_eq!(answer.id, n.to_string());
            if n == 10 {
                assert!(
                    said.error_message.starts_with("unknown_model"),
                    "{}",
                    said.error_message
                );
            } else {
                assert_eq!(said.error_message, "");
                assert_eq!(
                    answer.raw_output_contents[0][..4],
                    f32::from(n).to_le_bytes()
                );
            }
        }
        stream.sender = None;
        let trailers = stream.next().await.unwrap_err();
        assert_eq!(trailers["grpc-status"], "0");

        // An invalid message ends the stream, after earlier messages have their answers.
        let mut stream = client.open(STREAM, &[]).await;
        stream.send(&row("1", [0.0; 4]));
        let sender = stream.sender.take().unwrap();
        sender.send(Bytes::from_static(b"\x09\0\0\0\0")).unwrap();
        assert!(stream.next().await.is_ok());
        assert_eq!(stream.next().await.unwrap_err()["grpc-status"], "3");

        // Half a message begins nothing either.
        let mut stream = client.open(STREAM, &[]).await;
        let sender = stream.sender.take().unwrap();
        sender
            .send(Bytes::from_static(b"\0\0\0\0\x09half"))
            .unwrap();
        drop(sender);
        assert_eq!(stream.next().await.unwrap_err()["grpc-status"], "3");
    });
}

#[test]
fn a_stream_on_which_nothing_comes_ends_and_many_of_them_keep_nobody_out() {
    let server = server(
        "[server]\nbody_idle_timeout_ms = 1500\nstream_idle_timeout_ms = 1500\nmax_in_flight = 8\n",
    );
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let mut open = Vec::new();
        for n in 0..100 {
            let stream = client.open(STREAM, &[]).await;
            if n % 2 == 0 {
                // A message is announced and never comes.
                let sender = stream.sender.as_ref().unwrap();
                if n < 8 {
                    sender.send(Bytes::from_static(b"\0\0\0\x10\0abc")).unwrap();
                }
            }
            open.push(stream);
        }
        // There are more streams than permitted requests. Idle streams hold none.
        let ended = client.unary(INFER, &[], &row("7", [0.0; 4])).await;
        assert_eq!(ended.status(), 0, "{}", ended.message());
        for stream in &mut open {
            let trailers = stream.next().await.unwrap_err();
            let status = trailers["grpc-status"].to_str().unwrap();
            assert!(matches!(status, "4" | "14"), "{trailers:?}");
        }
    });
}

#[test]
fn a_stream_may_pause_between_messages_for_longer_than_within_one() {
    let server = server("[server]\nbody_idle_timeout_ms = 400\nstream_idle_timeout_ms = 2500\n");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let mut stream = client.open(STREAM, &[]).await;
        for n in 0..3 {
            stream.send(&row(&n.to_string(), [0.0; 4]));
            assert!(stream.next().await.is_ok(), "{n}");
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
        let started = Instant::now();
        let trailers = stream.next().await.unwrap_err();
        assert_eq!(trailers["grpc-status"], "4");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(1000), "{took:?}");
        let mut stream = client.open(STREAM, &[]).await;
        let started = Instant::now();
        let sender = stream.sender.as_ref().unwrap();
        sender.send(Bytes::from_static(b"\0\0\0\x10\0abc")).unwrap();
        let trailers = stream.next().await.unwrap_err();
        assert_eq!(trailers["grpc-status"], "4");
        let took = started.elapsed();
        assert!(took < Duration::from_millis(2000), "{took:?}");
    });
}

#[test]
fn a_connection_without_calls_is_kept_for_the_keep_alive_time_and_longer_by_its_clients_pings() {
    let server = server("[server]\nheader_timeout_ms = 300\nkeep_alive_timeout_ms = 1200\n");
    runtime().block_on(async {
        for pings in [false, true] {
            let stream = tokio::net::TcpStream::connect(server.address)
                .await
                .unwrap();
            let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
            let mut pinger = connection.ping_pong().unwrap();
            let ended = tokio::spawn(connection);
            let ask = || async {
                let request = Request::get(format!("http://{}/healthz", server.address));
                let request = request.body(()).unwrap();
                let mut client = client.clone().ready().await?;
                let (response, _) = client.send_request(request, true)?;
                response.await.map(|response| response.status())
            };
            assert_eq!(ask().await.unwrap(), 200);
            // Longer than a head may take.
            tokio::time::sleep(Duration::from_millis(800)).await;
            assert_eq!(ask().await.unwrap(), 200);
            let started = Instant::now();
            while pings && started.elapsed() < Duration::from_millis(4000) {
                tokio::time::sleep(Duration::from_millis(300)).await;
                pinger.ping(h2::Ping::opaque()).await.unwrap();
            }
            if pings {
                assert_eq!(ask().await.unwrap(), 200);
            }
            let quiet = Instant::now();
            let ended = tokio::time::timeout(Duration::from_secs(6), ended).await;
            assert!(ended.is_ok(), "it was never ended");
            let took = quiet.elapsed();
            assert!(took > Duration::from_millis(900), "{took:?}");
        }
    });
}

#[test]
fn a_call_ends_at_its_own_deadline() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let request = row("7", [0.0; 4]);
        let ended = client
            .unary(INFER, &[("grpc-timeout", "1n")], &request)
            .await;
        assert_eq!(ended.status(), 4, "{}", ended.message());
        let ended = client
            .unary(INFER, &[("grpc-timeout", "99999999H")], &request)
            .await;
        assert_eq!(ended.status(), 0, "{}", ended.message());
        let ended = client
            .unary(INFER, &[("grpc-timeout", "soon")], &request)
            .await;
        assert_eq!(ended.status(), 3, "{}", ended.message());
        let mut stream = client.open(STREAM, &[("grpc-timeout", "300m")]).await;
        assert_eq!(stream.next().await.unwrap_err()["grpc-status"], "4");
    });
}

#[test]
fn compressed_messages_are_taken_in_the_coding_that_is_offered() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let request = row("7", [1.0, 2.0, 3.0, 4.0]);
        let compressed = gzipped(&request.encode_to_vec());
        let mut body = framed(&compressed);
        body[0] = 1;
        let gzip = [("grpc-encoding", "gzip")];
        let said: pb::ModelInferResponse = client.raw(INFER, &gzip, body.clone()).await.one();
        assert_eq!(said.raw_output_contents[0].len(), 16);
        // Not every message of such a call is.
        let said: pb::ModelInferResponse = client.unary(INFER, &gzip, &request).await.one();
        assert_eq!(said.id, "7");
        let mut broken = framed(b"no gzip at all");
        broken[0] = 1;
        assert_eq!(client.raw(INFER, &gzip, broken).await.status(), 3);
        let ended = client
            .raw(INFER, &[("grpc-encoding", "snappy")], body)
            .await;
        assert_eq!(ended.status(), 12);
        assert_eq!(
            ended.headers["grpc-accept-encoding"],
            "identity, gzip, deflate"
        );
        // The server ignores a client's `content-encoding`.
        let lie = [("content-encoding", "gzip")];
        assert_eq!(client.unary(INFER, &lie, &request).await.status(), 0);
    });
}

#[test]
fn health_is_told_once_and_again_when_the_server_stops_and_services_are_listed() {
    let mut server = server("[server]\ndrain_timeout_ms = 10000\ndrain_delay_ms = 1500\n");
    let address = server.address;
    let runtime = runtime();
    let (mut client, mut watched, mut stream) =
        runtime.block_on(async {
            let mut client = Client::to(&server).await;
            let asked = |service: &str| health::HealthCheckRequest {
                service: service.into(),
            };
            let check = "/grpc.health.v1.Health/Check";
            let said: health::HealthCheckResponse =
                client.unary(check, &[], &asked("")).await.one();
            assert_eq!(said.status, 1);
            assert_eq!(client.unary(check, &[], &asked("other")).await.status(), 5);
            let mut watched = client.open("/grpc.health.v1.Health/Watch", &[]).await;
            watched.send(&asked("inference.GRPCInferenceService"));
            watched.sender = None;
            let said = health::HealthCheckResponse::decode(watched.next().await.unwrap()).unwrap();
            assert_eq!(said.status, 1);

            for version in ["v1", "v1alpha"] {
                let path =
                    format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
                let mut open = client.open(&path, &[]).await;
                open.send(&reflection::ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(
                        reflection::server_reflection_request::MessageRequest::ListServices(
                            String::new(),
                        ),
                    ),
                });
                let read = reflection::ServerReflectionResponse::decode(open.next().await.unwrap());
                let said = read.unwrap().message_response.unwrap();
                let reflection::server_reflection_response::MessageResponse::ListServicesResponse(
                    list,
                ) = said
                else {
                    panic!("{said:?}");
                };
                assert!(
                    list.service
                        .iter()
                        .any(|s| s.name == "inference.GRPCInferenceService")
                );
                open.sender = None;
                assert_eq!(open.next().await.unwrap_err()["grpc-status"], "0");
            }
            let mut stream = client.open(STREAM, &[]).await;
            stream.send(&row("1", [0.0; 4]));
            assert!(stream.next().await.is_ok());
            (client, watched, stream)
        });
    let stopping = std::thread::spawn(move || server.terminate());
    runtime.block_on(async {
        // Watchers learn it first, and calls continue meanwhile.
        let said = health::HealthCheckResponse::decode(watched.next().await.unwrap()).unwrap();
        assert_eq!(said.status, 2);
        let asked = health::HealthCheckRequest::default();
        let check = "/grpc.health.v1.Health/Check";
        let said: health::HealthCheckResponse = client.unary(check, &[], &asked).await.one();
        assert_eq!(said.status, 2);
        let ready = format!("{SERVICE}/ServerReady");
        let said: pb::ServerReadyResponse = client
            .unary(&ready, &[], &pb::ServerReadyRequest {})
            .await
            .one();
        assert!(!said.ready);
        stream.send(&row("2", [0.0; 4]));
        assert!(stream.next().await.is_ok());
        for open in [&mut watched, &mut stream] {
            let trailers = open.next().await.unwrap_err();
            assert_eq!(trailers["grpc-status"], "14", "{address}");
            assert!(trailers.contains_key("grpc-retry-pushback-ms"));
        }
        client.sender.ready().await.ok();
    });
    drop((client, watched, stream));
    drop(runtime);
    assert_eq!(stopping.join().unwrap().0, Some(0));
}

#[test]
fn metadata_of_the_server_and_of_models_is_told_as_over_rest() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let at = |method: &str| format!("{SERVICE}/{method}");
        let live: pb::ServerLiveResponse = client
            .unary(&at("ServerLive"), &[], &pb::ServerLiveRequest {})
            .await
            .one();
        assert!(live.live);
        let said: pb::ServerMetadataResponse = client
            .unary(&at("ServerMetadata"), &[], &pb::ServerMetadataRequest {})
            .await
            .one();
        let rest = server.get("/v2").json();
        assert_eq!(rest["name"], *said.name);
        let named = pb::ModelMetadataRequest {
            name: "identity".into(),
            version: String::new(),
        };
        let said: pb::ModelMetadataResponse =
            client.unary(&at("ModelMetadata"), &[], &named).await.one();
        let rest = server.get("/v2/models/identity").json();
        assert_eq!(rest["inputs"][0]["name"], *said.inputs[0].name);
        assert_eq!(rest["platform"], *said.platform);
        let named = pb::ModelConfigRequest {
            name: "identity".into(),
            version: String::new(),
        };
        let said: pb::ModelConfigResponse =
            client.unary(&at("ModelConfig"), &[], &named).await.one();
        let rest = server.get("/v2/models/identity/config").json();
        let config = said.config.unwrap();
        assert_eq!(rest["max_batch_size"], i64::from(config.max_batch_size));
        assert_eq!(config.input[0].data_type().as_str_name(), "TYPE_FP32");
        let ended = client
            .unary(
                &at("ModelStatistics"),
                &[],
                &pb::ModelStatisticsRequest::default(),
            )
            .await;
        let said: pb::ModelStatisticsResponse = ended.one();
        assert!(
            said.model_stats
                .iter()
                .any(|model| model.name == "identity")
        );
        let ended = client
            .unary(
                &at("RepositoryIndex"),
                &[],
                &pb::RepositoryIndexRequest::default(),
            )
            .await;
        let said: pb::RepositoryIndexResponse = ended.one();
        assert!(said.models.iter().any(|model| model.name == "identity"));
    });
}

#[test]
fn a_repeated_call_with_its_key_gives_the_same_answer_and_another_call_is_refused() {
    let server = server("[idempotency]\nenabled = true\n");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let key = [("idempotency-key", "once")];
        let first = client.unary(INFER, &key, &row("7", [1.0; 4])).await;
        let again = client.unary(INFER, &key, &row("7", [1.0; 4])).await;
        assert_eq!(first.status(), 0, "{}", first.message());
        assert_eq!(first.messages, again.messages);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        let other = client.unary(INFER, &key, &row("7", [2.0; 4])).await;
        assert_eq!(other.status(), 9, "{}", other.message());
        // Requests of a stream are distinguished by their ids.
        for replayed in [false, true] {
            let mut stream = client.open(STREAM, &key).await;
            let mut ids = VecDeque::new();
            for id in ["a", "b"] {
                stream.send(&row(id, [1.0; 4]));
                let said =
                    pb::ModelStreamInferResponse::decode(stream.next().await.unwrap()).unwrap();
                assert_eq!(said.error_message, "", "{replayed}");
                ids.push_back(said.infer_response.unwrap().parameters["prediction_id"].clone());
            }
            assert_ne!(ids[0], ids[1]);
        }
    });
}

#[test]
fn a_limit_that_is_used_up_says_when_to_come_back() {
    let server = server(
        "[backoff]\nsoft = false\n[[limits]]\nname = \"few\"\nalgorithm = \"fixed-window\"\nlimit = 2\nwindow_s = 3600\n",
    );
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let first = client.unary(INFER, &[], &row("7", [0.0; 4])).await;
        assert_eq!(first.status(), 0, "{}", first.message());
        let mut last = first;
        for _ in 0..3 {
            last = client.unary(INFER, &[], &row("7", [0.0; 4])).await;
        }
        assert_eq!(last.status(), 8, "{}", last.message());
        let retry: rpc::RetryInfo = last.detail("RetryInfo");
        assert!(retry.retry_delay.unwrap().seconds > 0);
        assert!(last.end.contains_key("grpc-retry-pushback-ms"));
    });
}

#[test]
fn credentials_come_in_metadata_and_end_a_stream_that_has_none() {
    let server = Server::start_with(Options {
        policy_text: Some("[admin]\nlisten = \"127.0.0.1:0\"\n[auth.tiers.free]\n".to_owned()),
        ..Options::default()
    });
    let line = server.logged("admin API on http://");
    let admin = line.split("http://").nth(1).unwrap();
    let admin = format!("http://{}", admin.split([' ', ';']).next().unwrap());
    let administer = |arguments: &[&str]| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(arguments)
            .args(["--json", "--admin", &admin, "--state-dir"])
            .arg(root().join("target/penstock-test-state"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    };
    administer(&["tenants", "create", "acme"]);
    let made = administer(&[
        "keys",
        "create",
        "--tenant",
        "acme",
        "--tier",
        "free",
        "--scope",
        "infer:identity",
    ]);
    let api_key = made["api_key"].as_str().expect("shown once").to_owned();
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let request = row("7", [0.0; 4]);
        let bearer = format!("Bearer {api_key}");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let ended = client
                .unary(INFER, &[("authorization", &bearer)], &request)
                .await;
            if ended.status() == 0 {
                break;
            }
            // The model may still be loading.
            assert_eq!(ended.status(), 14, "{}", ended.message());
            assert!(Instant::now() < deadline, "never ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let ended = client
            .unary(INFER, &[("x-api-key", &api_key)], &request)
            .await;
        assert_eq!(ended.status(), 0, "{}", ended.message());
        assert_eq!(client.unary(INFER, &[], &request).await.status(), 16);
        let wrong = [("authorization", "Bearer nonsense")];
        assert_eq!(client.unary(INFER, &wrong, &request).await.status(), 16);
        let load = pb::RepositoryModelLoadRequest {
            model_name: "identity".into(),
            ..Default::default()
        };
        let path = format!("{SERVICE}/RepositoryModelLoad");
        let ended = client.unary(&path, &[("x-api-key", &api_key)], &load).await;
        assert_eq!(ended.status(), 7, "{}", ended.message());
        let mut stream = client.open(STREAM, &[]).await;
        stream.send(&request);
        assert_eq!(stream.next().await.unwrap_err()["grpc-status"], "16");
    });
}

#[test]
fn calls_are_taken_over_tls_with_h2_agreed_upon() {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["server.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(at("key.pem"), key.serialize_pem()).unwrap();
    let server = Server::start_with(Options {
        policy_text: Some(format!(
            "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n[tls]\ncertificate = {:?}\nprivate_key = {:?}\n",
            at("cert.pem").display().to_string(),
            at("key.pem").display().to_string()
        )),
        ..Options::default()
    });
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let name = ServerName::try_from("server.example").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut client = Client::on(stream, "https", "server.example".to_owned()).await;
        let ended = client
            .unary(
                &format!("{SERVICE}/ServerLive"),
                &[],
                &pb::ServerLiveRequest {},
            )
            .await;
        assert!(ended.one::<pb::ServerLiveResponse>().live);
    });
}
