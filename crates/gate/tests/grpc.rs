//! Tests calls over gRPC through the whole gate, over in-memory ports.

use pb::model_infer_request::InferInputTensor;
use penstock_core::ModelVersion;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_gate::{Gate, Request, Response};
use penstock_proto::grpc::health::v1 as health;
use penstock_proto::inference as pb;
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use prost::Message;
use prost::bytes::Bytes;
use std::io::Write;

const CONTRACT: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 2]
labels = ["no", "yes"]
"#;

fn echo(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let rename = |mut tensor: Tensor| {
        tensor.name = "y".into();
        tensor
    };
    Ok(inputs.into_iter().map(rename).collect())
}

fn gate() -> Gate<InMemory> {
    Gate::new(InMemory::new(&[("m", CONTRACT, &["1", "3"])], echo))
}

const SERVICE: &str = "/inference.GRPCInferenceService";

fn request(path: &str, headers: &[(&str, &str)], message: &[u8]) -> Request {
    let headers = [headers, &[("content-type", "application/grpc")]].concat();
    penstock_testkit::request("POST", path, &headers, message)
}

fn call(method: &str, message: &impl Message) -> Response {
    let path = match method.starts_with('/') {
        true => method.to_owned(),
        false => format!("{SERVICE}/{method}"),
    };
    gate().handle(&request(&path, &[], &message.encode_to_vec()))
}

fn status(response: &Response) -> &str {
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/grpc"));
    response.header("grpc-status").expect("a status")
}

fn answer<M: Message + Default>(response: &Response) -> M {
    let why = response.header("grpc-message");
    assert_eq!(status(response), "0", "{why:?}");
    M::decode(response.body.as_slice()).unwrap()
}

fn infer(values: &[f32]) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "m".into(),
        id: "7".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![values.len() as i64 / 2, 2],
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

#[test]
fn an_inference_is_answered_in_its_message_with_the_same_headers_as_over_rest() {
    let response = call("ModelInfer", &infer(&[1.0, 2.0, 3.0, 4.0]));
    let said: pb::ModelInferResponse = answer(&response);
    assert_eq!(
        (&*said.model_name, &*said.model_version, &*said.id),
        ("m", "3", "7")
    );
    assert_eq!(said.outputs[0].shape, [2, 2]);
    assert_eq!(said.raw_output_contents[0].len(), 16);
    assert!(said.parameters.contains_key("prediction_id"));
    for name in ["x-request-id", "x-prediction-id", "x-model-version"] {
        assert!(response.header(name).is_some(), "{name}");
    }
    let mut pinned = infer(&[1.0, 2.0]);
    pinned.model_version = "1".into();
    let said: pb::ModelInferResponse = answer(&call("ModelInfer", &pinned));
    assert_eq!(said.model_version, "1");
}

#[test]
fn classes_are_given_in_place_of_numbers() {
    let mut asked = infer(&[1.0, 2.0]);
    let choice = pb::infer_parameter::ParameterChoice::Int64Param(1);
    asked.outputs = vec![pb::model_infer_request::InferRequestedOutputTensor {
        name: "y".into(),
        parameters: [(
            "classification".to_owned(),
            pb::InferParameter {
                parameter_choice: Some(choice),
            },
        )]
        .into(),
    }];
    let said: pb::ModelInferResponse = answer(&call("ModelInfer", &asked));
    assert_eq!(said.outputs[0].datatype, "BYTES");
    assert!(said.raw_output_contents[0].ends_with(b":1:yes"));
}

#[test]
fn a_compressed_message_is_the_same_call() {
    let plain = infer(&[1.0; 20_000]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&plain.encode_to_vec()).unwrap();
    let compressed = encoder.finish().unwrap();
    let path = format!("{SERVICE}/ModelInfer");
    let mut gate = Gate::new(InMemory::new(
        &[(
            "m",
            &format!("{CONTRACT}\n[limits]\nmax_items = 100000\n"),
            &["1"],
        )],
        echo,
    ));
    let response = gate.handle(&request(
        &path,
        &[("content-encoding", "gzip")],
        &compressed,
    ));
    let said: pb::ModelInferResponse = answer(&response);
    assert_eq!(said.raw_output_contents[0].len(), 80_000);
    // The message is larger than the part that is decoded before authentication.
    let large = infer(&vec![1.0; 200_000]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&large.encode_to_vec()).unwrap();
    let compressed = encoder.finish().unwrap();
    let response = gate.handle(&request(
        &path,
        &[("content-encoding", "gzip")],
        &compressed,
    ));
    let said: pb::ModelInferResponse = answer(&response);
    assert_eq!(said.raw_output_contents[0].len(), 800_000);
    let response = gate.handle(&request(
        &path,
        &[("content-encoding", "gzip")],
        b"nonsense",
    ));
    assert_eq!(status(&response), "3");
}

#[test]
fn errors_are_statuses_and_streams_go_on_after_them() {
    let mut unknown = infer(&[1.0, 2.0]);
    unknown.model_name = "other".into();
    let mut version = infer(&[1.0, 2.0]);
    version.model_version = "2".into();
    for (asked, code, word) in [
        (infer(&[1.0]), "3", "invalid_inputs"),
        (unknown, "5", "unknown_model"),
        (version, "5", "unknown_version"),
    ] {
        let response = call("ModelInfer", &asked);
        assert_eq!(status(&response), code);
        assert!(response.body.is_empty());
        assert!(response.header("grpc-status-details-bin").is_some());
        let response = call("ModelStreamInfer", &asked);
        let said: pb::ModelStreamInferResponse = answer(&response);
        assert!(
            said.error_message.starts_with(word),
            "{}",
            said.error_message
        );
        assert_eq!(said.infer_response.unwrap().id, "7");
    }
    let said: pb::ModelStreamInferResponse = answer(&call("ModelStreamInfer", &infer(&[1.0, 2.0])));
    assert_eq!(said.error_message, "");
    assert_eq!(said.infer_response.unwrap().id, "7");
    let broken = request(&format!("{SERVICE}/ModelInfer"), &[], &[0x0f]);
    assert_eq!(status(&gate().handle(&broken)), "3");
    let nowhere = request("/inference.GRPCInferenceService/Nothing", &[], &[]);
    assert_eq!(status(&gate().handle(&nowhere)), "12");
    let mut wrong = request(&format!("{SERVICE}/ServerLive"), &[], &[]);
    wrong.method = "GET".into();
    assert_eq!(status(&gate().handle(&wrong)), "12");
}

#[test]
fn the_other_methods_say_what_rest_says() {
    let live: pb::ServerLiveResponse = answer(&call("ServerLive", &pb::ServerLiveRequest {}));
    assert!(live.live);
    let ready: pb::ServerReadyResponse = answer(&call("ServerReady", &pb::ServerReadyRequest {}));
    assert!(ready.ready);
    let server: pb::ServerMetadataResponse =
        answer(&call("ServerMetadata", &pb::ServerMetadataRequest {}));
    assert_eq!(server.name, "penstock");
    let named = pb::ModelReadyRequest {
        name: "m".into(),
        version: String::new(),
    };
    let ready: pb::ModelReadyResponse = answer(&call("ModelReady", &named));
    assert!(ready.ready);
    let named = pb::ModelMetadataRequest {
        name: "m".into(),
        version: String::new(),
    };
    let model: pb::ModelMetadataResponse = answer(&call("ModelMetadata", &named));
    assert_eq!(model.versions, ["1", "3"]);
    assert_eq!(model.inputs[0].shape, [-1, 2]);
    let other = pb::ModelMetadataRequest {
        name: "other".into(),
        version: String::new(),
    };
    assert_eq!(status(&call("ModelMetadata", &other)), "5");
}

#[test]
fn a_model_or_version_that_is_not_there_is_not_ready() {
    for (name, version) in [("other", ""), ("m", "99")] {
        let named = pb::ModelReadyRequest {
            name: name.into(),
            version: version.into(),
        };
        let said: pb::ModelReadyResponse = answer(&call("ModelReady", &named));
        assert!(!said.ready, "{name} {version}");
    }
}

#[test]
fn health_is_told_of_every_service_there_is() {
    use health::health_check_response::ServingStatus;
    let ask = |method: &str, service: &str| {
        call(
            &format!("/grpc.health.v1.Health/{method}"),
            &health::HealthCheckRequest {
                service: service.into(),
            },
        )
    };
    for service in ["", "inference.GRPCInferenceService"] {
        let said: health::HealthCheckResponse = answer(&ask("Check", service));
        assert_eq!(said.status(), ServingStatus::Serving);
    }
    assert_eq!(status(&ask("Check", "other")), "5");
    let said: health::HealthCheckResponse = answer(&ask("Watch", "other"));
    assert_eq!(said.status(), ServingStatus::ServiceUnknown);
}

#[test]
fn a_replay_has_the_status_of_the_answer_it_repeats() {
    fn fails(_: &str, _: ModelVersion, _: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
        Err(Failure {
            kind: FailureKind::Failed,
            message: "out of order".into(),
            retry_after_ms: None,
        })
    }
    type Run = fn(&str, ModelVersion, Vec<Tensor>) -> Result<Vec<Tensor>, Failure>;
    let runs: [(Run, &str); 2] = [(echo, "0"), (fails, "13")];
    for (run, expected) in runs {
        let mut gate = Gate::new(InMemory::new(&[("m", CONTRACT, &["1"])], run));
        let mut call = |method: &str, message: &pb::ModelInferRequest| {
            let headers = [("idempotency-key", "once")];
            let path = format!("{SERVICE}/{method}");
            gate.handle(&request(&path, &headers, &message.encode_to_vec()))
        };
        let first = call("ModelInfer", &infer(&[1.0, 2.0]));
        assert_eq!(status(&first), expected);
        let again = call("ModelInfer", &infer(&[1.0, 2.0]));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(status(&again), expected);
        assert_eq!(first.body, again.body);
        for name in ["grpc-message", "grpc-status-details-bin"] {
            assert_eq!(first.header(name), again.header(name));
        }
        let other = call("ModelInfer", &infer(&[3.0, 4.0]));
        assert_eq!(status(&other), "9");
        // The ids of a stream's requests distinguish them.
        for id in ["a", "b"] {
            let mut one = infer(&[1.0, 2.0]);
            one.id = id.into();
            for replayed in [None, Some("true")] {
                let answered = call("ModelStreamInfer", &one);
                assert_eq!(answered.header("idempotency-replayed"), replayed, "{id}");
                let said: pb::ModelStreamInferResponse = answer(&answered);
                assert_eq!(said.infer_response.unwrap().id, id);
                assert_eq!(said.error_message.is_empty(), expected == "0");
            }
        }
    }
}
