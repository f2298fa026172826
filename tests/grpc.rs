//! The gRPC service over real HTTP/2: calls of one message and of many, their refusals, health, metadata and TLS.

use crate::common;
use common::grpc_client::{Client, INFER, Pieces, SERVICE, STREAM, row, server};
use common::hyper_client::{framed, runtime};
use common::{Options, Server, root};
use penstock_proto::google::rpc;
use penstock_proto::grpc::health::v1 as health;
use penstock_proto::grpc::reflection::v1 as reflection;
use penstock_proto::inference as pb;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use std::collections::VecDeque;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

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
fn a_call_that_is_not_protobuf_over_http2_is_refused_in_http() {
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
