//! gRPC streams over real HTTP/2, their pauses and deadlines, and connections that send less than they announce.

use crate::common;
use common::grpc_client::{Client, INFER, STREAM, row, server};
use common::hyper_client::runtime;
use hyper::Request;
use hyper::body::Bytes;
use penstock_proto::inference as pb;
use prost::Message;
use std::time::{Duration, Instant};

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
