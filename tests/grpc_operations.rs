//! Long-running operations over gRPC, over real HTTP/2, with the real components, store and runtime.

use crate::common;
use crate::support::graphs;

use common::grpc_client::{Client, Ended, INFER, row, server};
use common::hyper_client::{framed, runtime};
use common::{Options, Server, heavy_model, root, write};
use penstock_proto::google::longrunning as lro;
use penstock_proto::google::protobuf::{Duration, Struct, value::Kind};
use penstock_proto::google::rpc;
use penstock_proto::grpc::reflection::v1 as reflection;
use penstock_proto::inference as pb;
use prost::Message;
use reflection::server_reflection_request::MessageRequest;
use reflection::server_reflection_response::MessageResponse;
use std::time::Instant;

const BEGIN: &str = "/penstock.v1.Operations/ModelInferAsync";

fn path(method: &str) -> String {
    format!("/google.longrunning.Operations/{method}")
}

async fn begin(client: &mut Client, metadata: &[(&str, &str)]) -> lro::Operation {
    let message = row("7", [1.0, 2.0, 3.0, 4.0]);
    client.unary(BEGIN, metadata, &message).await.one()
}

async fn get(client: &mut Client, name: &str) -> Ended {
    let message = lro::GetOperationRequest { name: name.into() };
    client.unary(&path("GetOperation"), &[], &message).await
}

/// Waits until an operation has ended, and returns it.
async fn wait(client: &mut Client, name: &str) -> lro::Operation {
    let message = lro::WaitOperationRequest {
        name: name.into(),
        timeout: None,
    };
    let told = client.unary(&path("WaitOperation"), &[], &message).await;
    let operation: lro::Operation = told.one();
    assert!(operation.done, "{operation:?}");
    operation
}

async fn cancel(client: &mut Client, name: &str) -> Ended {
    let message = lro::CancelOperationRequest { name: name.into() };
    client.unary(&path("CancelOperation"), &[], &message).await
}

async fn delete(client: &mut Client, name: &str) -> Ended {
    let message = lro::DeleteOperationRequest { name: name.into() };
    client.unary(&path("DeleteOperation"), &[], &message).await
}

/// A text of the metadata.
fn told(operation: &lro::Operation, member: &str) -> String {
    let any = operation.metadata.as_ref().unwrap();
    assert!(any.type_url.ends_with("/google.protobuf.Struct"));
    let read = Struct::decode(any.value.as_slice()).unwrap();
    match &read.fields[member].kind {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("{member}: {other:?}"),
    }
}

fn result(operation: &lro::Operation) -> pb::ModelInferResponse {
    match &operation.result {
        Some(lro::operation::Result::Response(any)) => {
            assert!(any.type_url.ends_with("/inference.ModelInferResponse"));
            pb::ModelInferResponse::decode(any.value.as_slice()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn error(operation: &lro::Operation) -> &rpc::Status {
    match &operation.result {
        Some(lro::operation::Result::Error(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_runs_later_through_either_door_and_its_operation_has_the_answer() {
    for door in ["direct", "http"] {
        let server = Server::start_with(Options {
            door: Some(door),
            ..Options::default()
        });
        server.ready();
        runtime().block_on(async {
            let mut client = Client::to(&server).await;
            let message = row("7", [1.0, 2.0, 3.0, 4.0]);
            let ended = client
                .unary(BEGIN, &[("x-request-id", "mine")], &message)
                .await;
            assert_eq!(ended.headers["x-request-id"], "mine", "{door}");
            assert!(!ended.headers.contains_key("penstock-operation"));
            let accepted: lro::Operation = ended.one();
            let id = told(&accepted, "id");
            assert_eq!(accepted.name, format!("tenants/anonymous/operations/{id}"));

            let done = wait(&mut client, &accepted.name).await;
            assert_eq!(told(&done, "state"), "succeeded");
            let synchronous: pb::ModelInferResponse =
                client.unary(INFER, &[], &message).await.one();
            let kept = result(&done);
            assert_eq!(kept.raw_output_contents, synchronous.raw_output_contents);
            assert_eq!((&*kept.id, &*kept.model_name), ("7", "identity"));
            let read: lro::Operation = get(&mut client, &accepted.name).await.one();
            assert_eq!(read, done);

            // The same operation over REST.
            let plain = server.get(&format!("/v1/operations/{id}")).json();
            assert_eq!(plain["metadata"]["kind"], "infer");
            assert_eq!(plain["response"]["content_type"], "application/protobuf");
            let whole = server.get(&format!("/v1/operations/{id}/response"));
            assert_eq!(whole.header("content-type"), Some("application/protobuf"));
            let whole = pb::ModelInferResponse::decode(whole.bytes.as_slice()).unwrap();
            assert_eq!(whole, kept);

            assert_eq!(delete(&mut client, &accepted.name).await.status(), 0);
            assert_eq!(get(&mut client, &accepted.name).await.status(), 5);
        });
    }
}

#[test]
fn a_call_that_waits_gets_the_operation_with_its_result() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let done = begin(&mut client, &[("prefer", "wait=20")]).await;
        assert!(done.done, "{done:?}");
        assert_eq!(result(&done).id, "7");
    });
}

#[test]
fn a_retry_with_the_same_key_gets_the_same_operation_and_foreign_names_are_not_found() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let key = [("idempotency-key", "once")];
        let first = begin(&mut client, &key).await;
        let again = begin(&mut client, &key).await;
        assert_eq!(first.name, again.name);
        let foreign = first.name.replace("anonymous", "acme");
        for (name, status) in [
            (foreign.as_str(), 5),
            ("tenants/anonymous/operations/op_1", 5),
            ("operations/op_1", 3),
            ("", 3),
        ] {
            assert_eq!(get(&mut client, name).await.status(), status, "{name}");
            assert_eq!(cancel(&mut client, name).await.status(), status, "{name}");
            assert_eq!(delete(&mut client, name).await.status(), status, "{name}");
        }
        let refused = get(&mut client, "operations/op_1").await;
        let bad: rpc::BadRequest = refused.detail("BadRequest");
        assert_eq!(bad.field_violations[0].field, "name");
    });
}

#[test]
fn a_list_goes_through_its_pages_and_filters_by_state() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let mut names = Vec::new();
        for _ in 0..3 {
            let accepted = begin(&mut client, &[]).await;
            wait(&mut client, &accepted.name).await;
            names.push(accepted.name);
        }
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let message = lro::ListOperationsRequest {
                name: "tenants/anonymous".into(),
                filter: "state=\"succeeded\"".into(),
                page_size: 2,
                page_token: token,
            };
            let ended = client.unary(&path("ListOperations"), &[], &message).await;
            let page: lro::ListOperationsResponse = ended.one();
            assert!(page.operations.iter().all(|one| one.result.is_none()));
            found.extend(page.operations.into_iter().map(|one| one.name));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        names.sort();
        found.sort();
        assert_eq!(found, names);
    });
}

#[test]
fn a_call_that_is_refused_leaves_no_operation_and_none_begins_where_there_are_none() {
    let with = server("");
    let without = server("[operations]\nenabled = false\n");
    runtime().block_on(async {
        let mut client = Client::to(&with).await;
        let mut wrong = row("7", [0.0; 4]);
        wrong.inputs[0].shape = vec![2, 3];
        let ended = client.unary(BEGIN, &[], &wrong).await;
        assert_eq!(ended.status(), 3);
        let info: rpc::ErrorInfo = ended.detail("ErrorInfo");
        assert_eq!(info.reason, "invalid_inputs");
        let listed = with.get("/v1/operations").json();
        assert_eq!(listed["operations"].as_array().unwrap().len(), 0);

        let mut client = Client::to(&without).await;
        let message = row("7", [0.0; 4]);
        assert_eq!(client.unary(BEGIN, &[], &message).await.status(), 12);
        let name = "tenants/anonymous/operations/op_1";
        assert_eq!(get(&mut client, name).await.status(), 12);
    });
}

/// More rounds than a test can wait for.
fn endless() -> pb::ModelInferRequest {
    let input = |name: &str, datatype: &str| pb::model_infer_request::InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1],
        ..Default::default()
    };
    let rounds = 1_000_000_000_i64.to_le_bytes().to_vec();
    pb::ModelInferRequest {
        model_name: "heavy".into(),
        inputs: vec![input("times", "INT64"), input("x", "FP32")],
        raw_input_contents: vec![rounds.into(), 0_f32.to_le_bytes().to_vec().into()],
        ..Default::default()
    }
}

#[test]
fn a_wait_ends_at_its_timeout_before_the_clients_own_and_at_the_end_of_the_operation() {
    let models =
        heavy_model::beside_identity(&heavy_model::counting_contract(2), &graphs::counting_loop());
    let server = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    server.ready();
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let accepted: lro::Operation = client.unary(BEGIN, &[], &endless()).await.one();
        let name = accepted.name.as_str();
        assert_eq!(
            delete(&mut client, name).await.status(),
            9,
            "before the end"
        );
        let asked = |seconds: Option<i64>| lro::WaitOperationRequest {
            name: name.into(),
            timeout: seconds.map(|seconds| Duration { seconds, nanos: 0 }),
        };
        let wait_path = path("WaitOperation");
        for (metadata, seconds) in [
            (&[][..], Some(0)),
            (&[], Some(1)),
            // The answer comes while the client still waits for it.
            (&[("grpc-timeout", "2S")], None),
        ] {
            let began = Instant::now();
            let ended = client.unary(&wait_path, metadata, &asked(seconds)).await;
            let operation: lro::Operation = ended.one();
            assert!(!operation.done);
            let took = began.elapsed();
            assert!(took.as_secs() < 20, "{took:?}");
            let least = if seconds == Some(0) { 0.0 } else { 0.9 };
            assert!(took.as_secs_f64() >= least, "{took:?}");
        }
        let mut second = Client::to(&server).await;
        let message = asked(None);
        let (waited, cancelled) = tokio::join!(
            client.unary(&wait_path, &[], &message),
            cancel(&mut second, name)
        );
        assert_eq!(cancelled.status(), 0);
        let operation: lro::Operation = waited.one();
        assert!(operation.done);
        assert_eq!(told(&operation, "state"), "cancelled");
        assert_eq!(error(&operation).code, 1, "CANCELLED of gRPC");
        // Waiting for one that has ended takes no time.
        assert!(wait(&mut client, name).await.done);
    });
}

#[test]
fn large_contents_are_stored_and_come_back() {
    let models = tempfile::tempdir().unwrap();
    for file in ["model.toml", "1/model.onnx"] {
        let mut content = std::fs::read(root().join("models/identity").join(file)).unwrap();
        if file == "model.toml" {
            content.extend(b"\n[limits]\nmax_items = 100000\n");
        }
        write(models.path(), &format!("identity/{file}"), content);
    }
    let server = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    server.ready();
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let rows = 60_000;
        let mut large = row("7", [0.0; 4]);
        large.inputs[0].shape = vec![rows, 4];
        let bytes: Vec<u8> = (0..rows * 4)
            .flat_map(|n| (n as f32).to_le_bytes())
            .collect();
        large.raw_input_contents = vec![bytes.clone().into()];
        let body = framed(&large.encode_to_vec());
        let ended = client.raw(BEGIN, &[], body).await;
        assert_eq!(ended.status(), 0, "{}", ended.message());
        let accepted: lro::Operation = ended.one();
        let done = wait(&mut client, &accepted.name).await;
        assert_eq!(result(&done).raw_output_contents, [bytes]);
    });
}

#[test]
fn reflection_lists_the_services_and_knows_their_messages() {
    let server = server("");
    runtime().block_on(async {
        let mut client = Client::to(&server).await;
        let reflect = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let asked = |request| reflection::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let list = asked(MessageRequest::ListServices("*".into()));
        let said: reflection::ServerReflectionResponse =
            client.unary(reflect, &[], &list).await.one();
        let Some(MessageResponse::ListServicesResponse(list)) = said.message_response else {
            panic!("no list");
        };
        let names: Vec<&str> = list.service.iter().map(|one| one.name.as_str()).collect();
        assert!(
            names.contains(&"google.longrunning.Operations"),
            "{names:?}"
        );
        assert!(names.contains(&"penstock.v1.Operations"), "{names:?}");
        let symbol = "penstock.v1.Operations.ModelInferAsync";
        let file = asked(MessageRequest::FileContainingSymbol(symbol.into()));
        let said: reflection::ServerReflectionResponse =
            client.unary(reflect, &[], &file).await.one();
        let Some(MessageResponse::FileDescriptorResponse(files)) = said.message_response else {
            panic!("no files");
        };
        assert_eq!(files.file_descriptor_proto.len(), 8);
    });
}
