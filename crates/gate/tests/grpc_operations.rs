//! Tests operations over gRPC through the whole gate: calls that become one, and the methods of
//! `google.longrunning.Operations`.

use crate::operations_common::{accept, get, hosted, order, ports, run, send};
use pb::model_infer_request::InferInputTensor;
use penstock_gate::Response;
use penstock_gate::ports::{Failure, FailureKind};
use penstock_proto::google::longrunning as lro;
use penstock_proto::google::protobuf::{Duration, Struct, Value as StructValue, value::Kind};
use penstock_proto::google::rpc;
use penstock_proto::inference as pb;
use penstock_testkit::InMemory;
use penstock_testkit::keys::{add_key, add_tenant};
use penstock_testkit::models::{ECHO, echo};
use prost::Message;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use std::io::Write;

const BEGIN: &str = "/penstock.v1.Operations/ModelInferAsync";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
const RESULT: &str = "type.googleapis.com/inference.ModelInferResponse";

const NOT_FOUND: u32 = 5;
const INVALID_ARGUMENT: u32 = 3;
const PERMISSION_DENIED: u32 = 7;
const FAILED_PRECONDITION: u32 = 9;
const UNIMPLEMENTED: u32 = 12;

/// The answer to a call over gRPC.
struct Told {
    response: Response,
    note: Value,
}

impl Told {
    fn status(&self) -> u32 {
        assert_eq!(self.response.status, 200);
        let status = self.response.header("grpc-status").expect("a status");
        status.parse().unwrap()
    }

    fn message(&self) -> &str {
        self.response.header("grpc-message").unwrap_or_default()
    }

    fn read<M: Message + Default>(&self) -> M {
        assert_eq!(self.status(), 0, "{}", self.message());
        let content_type = self.response.header("content-type");
        assert_eq!(content_type, Some("application/grpc"));
        let statuses = self.response.headers.iter();
        let statuses = statuses.filter(|header| header.name == "grpc-status");
        assert_eq!(statuses.count(), 1);
        M::decode(self.response.body.as_slice()).unwrap()
    }

    fn operation(&self) -> lro::Operation {
        self.read()
    }
}

fn call_raw(ports: &InMemory, path: &str, metadata: &[(&str, &str)], message: &[u8]) -> Told {
    let own = [
        ("content-type", "application/grpc"),
        ("spin-client-addr", "192.0.2.7:4711"),
    ];
    let own = own
        .iter()
        .filter(|(name, _)| metadata.iter().all(|(other, _)| other != name));
    let headers: Vec<_> = metadata.iter().chain(own).copied().collect();
    let response = penstock_testkit::send(ports, "POST", path, &headers, message);
    let note = response.header("penstock-operation");
    Told {
        note: note.map_or(Value::Null, |note| serde_json::from_str(note).unwrap()),
        response,
    }
}

fn call(ports: &InMemory, path: &str, metadata: &[(&str, &str)], message: &impl Message) -> Told {
    call_raw(ports, path, metadata, &message.encode_to_vec())
}

fn infer(values: &[f32]) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "m".into(),
        id: "7".into(),
        inputs: vec![InferInputTensor {
            name: "a".into(),
            datatype: "FP32".into(),
            shape: vec![values.len() as i64 / 2, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![raw(values)],
        ..Default::default()
    }
}

fn raw(values: &[f32]) -> Bytes {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    bytes.collect::<Vec<_>>().into()
}

fn begin(ports: &InMemory) -> lro::Operation {
    call(ports, BEGIN, &[], &infer(&[1.0, 2.0])).operation()
}

fn id_of(operation: &lro::Operation) -> String {
    let (_, id) = operation.name.rsplit_once('/').unwrap();
    id.to_owned()
}

fn method(ports: &InMemory, method: &str, message: &impl Message) -> Told {
    method_as(ports, method, &[], message)
}

fn method_as(
    ports: &InMemory,
    method: &str,
    metadata: &[(&str, &str)],
    message: &impl Message,
) -> Told {
    let path = format!("/google.longrunning.Operations/{method}");
    call(ports, &path, metadata, message)
}

fn get_operation(ports: &InMemory, name: &str) -> Told {
    let name = name.to_owned();
    method(ports, "GetOperation", &lro::GetOperationRequest { name })
}

fn cancel(ports: &InMemory, name: &str) -> Told {
    let name = name.to_owned();
    let message = lro::CancelOperationRequest { name };
    method(ports, "CancelOperation", &message)
}

fn delete(ports: &InMemory, name: &str) -> Told {
    let name = name.to_owned();
    let message = lro::DeleteOperationRequest { name };
    method(ports, "DeleteOperation", &message)
}

fn wait(ports: &InMemory, name: &str, timeout: Option<Duration>) -> Told {
    let name = name.to_owned();
    let message = lro::WaitOperationRequest { name, timeout };
    method(ports, "WaitOperation", &message)
}

fn json_of(value: &StructValue) -> Value {
    match value.kind.as_ref().expect("a kind") {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => json!(number),
        Kind::StringValue(text) => json!(text),
        Kind::BoolValue(is) => json!(is),
        Kind::StructValue(object) => object_of(object),
        Kind::ListValue(list) => list.values.iter().map(json_of).collect(),
    }
}

fn object_of(object: &Struct) -> Value {
    let members = object.fields.iter();
    Value::Object(
        members
            .map(|(name, value)| (name.clone(), json_of(value)))
            .collect(),
    )
}

fn metadata(operation: &lro::Operation) -> Value {
    let any = operation.metadata.as_ref().expect("metadata");
    assert_eq!(any.type_url, STRUCT);
    object_of(&Struct::decode(any.value.as_slice()).unwrap())
}

fn error(operation: &lro::Operation) -> &rpc::Status {
    match &operation.result {
        Some(lro::operation::Result::Error(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// The response of an operation: its type, and its bytes.
fn response(operation: &lro::Operation) -> (&str, &[u8]) {
    match &operation.result {
        Some(lro::operation::Result::Response(any)) => {
            (any.type_url.as_str(), any.value.as_slice())
        }
        other => panic!("{other:?}"),
    }
}

fn result(operation: &lro::Operation) -> pb::ModelInferResponse {
    let (kind, message) = response(operation);
    assert_eq!(kind, RESULT);
    pb::ModelInferResponse::decode(message).unwrap()
}

#[test]
fn a_call_becomes_an_operation_whose_response_is_the_message_of_a_synchronous_call() {
    let ports = ports();
    let told = call(&ports, BEGIN, &[], &infer(&[1.0, 2.0, 3.0, 4.0]));
    let accepted = told.operation();
    let id = id_of(&accepted);
    assert_eq!(accepted.name, format!("tenants/anonymous/operations/{id}"));
    assert!(!accepted.done && accepted.result.is_none());
    let described = metadata(&accepted);
    assert_eq!(described["state"], "queued");
    assert_eq!(described["kind"], "infer");
    assert_eq!(described["model"], "m");
    assert_eq!(described["items"], 2.0);
    assert_eq!(
        told.note,
        json!({ "id": id, "push": { "tenant": "anonymous", "model": "m", "items": 2 } })
    );
    assert_eq!(ports.runs.get(), 0);
    run(&ports, &id);
    assert_eq!(ports.runs.get(), 1);

    let ended = get_operation(&ports, &accepted.name).operation();
    assert!(ended.done);
    assert_eq!(metadata(&ended)["state"], "succeeded");
    let kept = result(&ended);
    let synchronous: pb::ModelInferResponse =
        call(&ports, INFER, &[], &infer(&[1.0, 2.0, 3.0, 4.0])).read();
    assert_eq!(kept.raw_output_contents, synchronous.raw_output_contents);
    assert_eq!(kept.outputs, synchronous.outputs);
    assert_eq!((&*kept.id, &*kept.model_version), ("7", "2"));

    // Over REST, the message is described, and is read by itself.
    let plain = get(&ports, &format!("/v1/operations/{id}")).body;
    let location = format!("/v1/operations/{id}/response");
    assert_eq!(
        plain["response"],
        json!({ "content_type": "application/protobuf", "bytes": response(&ended).1.len(), "location": location })
    );
    let whole = get(&ports, &location).response;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("content-type"), Some("application/protobuf"));
    assert_eq!(whole.header("grpc-status"), None);
    assert_eq!(whole.header("x-model-version"), Some("2"));
    assert_eq!(whole.body.as_slice(), response(&ended).1);
    let as_message = [("accept", "application/protobuf")];
    let chosen = send(&ports, "GET", &location, &as_message, b"");
    assert_eq!(chosen.status(), 200);
}

#[test]
fn a_stored_call_runs_with_its_version_its_compression_and_all_of_its_contents() {
    let contract = format!("{ECHO}\n[limits]\nmax_items = 1000000\n");
    let ports = hosted(InMemory::new(&[("m", &contract, &["1", "2"])], echo));
    let values = vec![1.5; 400_000];
    let mut pinned = infer(&values);
    pinned.model_version = "1".into();
    let large = call(&ports, BEGIN, &[], &pinned).operation();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&pinned.encode_to_vec()).unwrap();
    let compressed = encoder.finish().unwrap();
    let gzip = [("content-encoding", "gzip")];
    let small = call_raw(&ports, BEGIN, &gzip, &compressed).operation();
    for operation in [large, small] {
        run(&ports, &id_of(&operation));
        let ended = get_operation(&ports, &operation.name).operation();
        let kept = result(&ended);
        assert_eq!(kept.model_version, "1");
        assert_eq!(kept.raw_output_contents, [raw(&values)]);
    }
}

#[test]
fn a_call_that_the_contract_refuses_is_refused_before_anything_is_stored() {
    let ports = ports();
    let mut wrong = infer(&[1.0, 2.0]);
    wrong.inputs[0].shape = vec![1, 3];
    let refused = call(&ports, BEGIN, &[], &wrong);
    assert_eq!(refused.status(), INVALID_ARGUMENT);
    assert_eq!(refused.note, Value::Null);
    let mut unknown = infer(&[1.0, 2.0]);
    unknown.model_name = "other".into();
    assert_eq!(call(&ports, BEGIN, &[], &unknown).status(), NOT_FOUND);
    let broken = call_raw(&ports, BEGIN, &[], &[0x0f; 10]);
    assert_eq!(broken.status(), INVALID_ARGUMENT);
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    let listed = send(&ports, "GET", "/v1/operations", &local, b"");
    assert_eq!(listed.body["operations"], json!([]));
}

#[test]
fn items_are_charged_as_over_rest_and_returned_if_the_operation_is_cancelled_before_its_run() {
    let ports = ports();
    ports
        .set_policy("[[limits]]\nname = \"items\"\nunit = \"items\"\nlimit = 1\nwindow_s = 3600\n");
    let accepted = begin(&ports);
    let refused = call(&ports, BEGIN, &[], &infer(&[1.0, 2.0]));
    assert_eq!(refused.status(), 8, "{}", refused.message());
    assert_eq!(cancel(&ports, &accepted.name).status(), 0);
    assert_eq!(call(&ports, BEGIN, &[], &infer(&[1.0, 2.0])).status(), 0);
}

#[test]
fn a_wait_is_bounded_and_the_host_describes_the_operation_after_it() {
    let ports = ports();
    let accepted = begin(&ports);
    let id = id_of(&accepted);
    let seconds = |seconds, nanos| Some(Duration { seconds, nanos });
    for (timeout, wait_ms) in [
        (None, Some(50_000)),
        (seconds(10, 0), Some(10_000)),
        (seconds(0, 250_000_000), Some(250)),
        (seconds(i64::MAX, 999_999_999), Some(50_000)),
        (seconds(0, 0), None),
    ] {
        let told = wait(&ports, &accepted.name, timeout);
        assert!(!told.operation().done, "{timeout:?}");
        let note = match wait_ms {
            Some(wait_ms) => json!({
                "id": id, "push": { "tenant": "anonymous", "model": "m", "items": 1 },
                "wait_ms": wait_ms, "then": { "do": "describe", "form": "grpc" },
            }),
            None => Value::Null,
        };
        assert_eq!(told.note, note, "{timeout:?}");
    }
    for timeout in [seconds(-1, 0), seconds(0, -1), seconds(1, 1_000_000_000)] {
        let refused = wait(&ports, &accepted.name, timeout);
        assert_eq!(refused.status(), INVALID_ARGUMENT, "{timeout:?}");
    }
    // Only the method for it waits.
    let name = accepted.name.clone();
    let prefer = [("prefer", "wait=5")];
    let message = lro::GetOperationRequest { name };
    let told = method_as(&ports, "GetOperation", &prefer, &message);
    assert_eq!((told.status(), &told.note), (0, &Value::Null));

    let describe = || {
        let answer = order(&ports, &id, &json!({ "do": "describe", "form": "grpc" }));
        Told {
            response: answer.response,
            note: answer.note,
        }
    };
    let early = describe();
    assert_eq!(early.note, json!({ "id": id }));
    assert!(!early.operation().done);
    run(&ports, &id);
    let late = describe();
    assert_eq!(late.note, json!({ "id": id, "is_final": true }));
    let ended = late.operation();
    assert_eq!(ended, get_operation(&ports, &accepted.name).operation());
    assert_eq!(wait(&ports, &accepted.name, None).note, Value::Null);
}

#[test]
fn a_call_with_the_preference_wait_is_answered_with_the_operation_after_it() {
    let ports = ports();
    let told = call(&ports, BEGIN, &[("prefer", "wait=10")], &infer(&[1.0, 2.0]));
    assert!(!told.operation().done);
    assert_eq!(told.note["wait_ms"], 10_000);
    assert_eq!(
        told.note["then"],
        json!({ "do": "describe", "form": "grpc" })
    );
}

#[test]
fn on_a_host_without_workers_a_wait_runs_the_operation() {
    let ports = InMemory::new(&[("m", ECHO, &["1"])], echo);
    let accepted = begin(&ports);
    assert!(!get_operation(&ports, &accepted.name).operation().done);
    let ended = wait(&ports, &accepted.name, None).operation();
    assert_eq!(result(&ended).raw_output_contents, [raw(&[1.0, 2.0])]);
    assert_eq!(ports.runs.get(), 1);
}

#[test]
fn an_operation_is_cancelled_and_a_finished_one_is_deleted() {
    let ports = ports();
    let accepted = begin(&ports);
    let early = delete(&ports, &accepted.name);
    assert_eq!(early.status(), FAILED_PRECONDITION);
    let id = id_of(&accepted);
    // Only the first one ends it.
    for note in [
        json!({ "id": id, "cancel": true, "is_final": true, "ended": "operation.cancelled" }),
        json!({ "id": id, "cancel": true, "is_final": true }),
    ] {
        let cancelled = cancel(&ports, &accepted.name);
        assert_eq!((cancelled.status(), cancelled.response.body.len()), (0, 0));
        assert_eq!(cancelled.note, note);
    }
    let ended = get_operation(&ports, &accepted.name).operation();
    assert!(ended.done);
    assert_eq!(error(&ended).code, 1);
    assert!(error(&ended).details.is_empty());
    assert_eq!(metadata(&ended)["state"], "cancelled");
    let deleted = delete(&ports, &accepted.name);
    assert_eq!((deleted.status(), deleted.response.body.len()), (0, 0));
    for told in [
        get_operation(&ports, &accepted.name),
        cancel(&ports, &accepted.name),
        delete(&ports, &accepted.name),
        wait(&ports, &accepted.name, None),
    ] {
        assert_eq!(told.status(), NOT_FOUND);
    }
    // Cancelling one that has a result changes nothing.
    let accepted = begin(&ports);
    run(&ports, &id_of(&accepted));
    assert_eq!(cancel(&ports, &accepted.name).status(), 0);
    let ended = get_operation(&ports, &accepted.name).operation();
    assert_eq!(metadata(&ended)["state"], "succeeded");
}

#[test]
fn a_list_has_pages_and_filters_and_names_the_tenant() {
    let ports = ports();
    let local = [("spin-client-addr", "127.0.0.1:4711")];
    let asked = |name: &str, filter: &str, page_size: i32, page_token: &str| {
        let message = lro::ListOperationsRequest {
            name: name.into(),
            filter: filter.into(),
            page_size,
            page_token: page_token.into(),
        };
        method_as(&ports, "ListOperations", &local, &message)
    };
    let names = |page: &lro::ListOperationsResponse| -> Vec<String> {
        page.operations.iter().map(|o| o.name.clone()).collect()
    };
    let mut all = Vec::new();
    for _ in 0..3 {
        all.insert(0, begin(&ports).name);
        ports.clock.advance_ms(3_600_000);
    }
    // One that was made over REST is in the list, too.
    all.insert(
        0,
        format!("tenants/anonymous/operations/{}", accept(&ports).id()),
    );
    let (_, second) = all[1].rsplit_once('/').unwrap();
    run(&ports, second);
    let mut found = Vec::new();
    let mut token = String::new();
    for _ in 0..5 {
        let page: lro::ListOperationsResponse = asked("tenants/anonymous", "", 2, &token).read();
        assert!(page.operations.len() <= 2);
        assert!(page.operations.iter().all(|o| o.result.is_none()));
        found.extend(names(&page));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, all);
    let page: lro::ListOperationsResponse =
        asked("tenants/anonymous/operations", "state=\"succeeded\"", 0, "").read();
    assert_eq!(names(&page), all[1..2]);
    for (name, filter, size, token, status) in [
        ("tenants/other", "", 0, "", NOT_FOUND),
        ("", "", 0, "", INVALID_ARGUMENT),
        ("operations", "", 0, "", INVALID_ARGUMENT),
        ("tenants/anonymous", "model=m", 0, "", INVALID_ARGUMENT),
        ("tenants/anonymous", "", -1, "", INVALID_ARGUMENT),
        ("tenants/anonymous", "", 0, "x", INVALID_ARGUMENT),
    ] {
        let refused = asked(name, filter, size, token);
        assert_eq!(refused.status(), status, "{name} {filter} {size} {token}");
    }
    let message = lro::ListOperationsRequest {
        name: "tenants/anonymous".into(),
        ..Default::default()
    };
    let refused = method(&ports, "ListOperations", &message);
    assert_eq!(refused.status(), PERMISSION_DENIED, "from another machine");
}

#[test]
fn a_malformed_name_is_an_invalid_argument_and_a_foreign_one_is_not_found() {
    let ports = ports();
    for tenant in ["acme", "other"] {
        add_tenant(&ports, tenant);
    }
    let owner = add_key(&ports, "acme", &["infer:m"], "free");
    let foreign = add_key(&ports, "other", &["*"], "free");
    let elsewhere = add_key(&ports, "acme", &["embeddings:n"], "free");
    ports.set_policy("[auth.tiers.free]\npriority = 2\n");
    let accepted = call(&ports, BEGIN, &[("x-api-key", &owner)], &infer(&[1.0, 2.0]));
    let name = accepted.operation().name;
    assert!(name.starts_with("tenants/acme/operations/op_"), "{name}");
    let told = |key: &str, name: &str, which: &str| {
        // All four requests have the name as their first field.
        let message = lro::GetOperationRequest { name: name.into() };
        method_as(&ports, which, &[("x-api-key", key)], &message)
    };
    let own = name.replace("acme", "other");
    for which in [
        "GetOperation",
        "WaitOperation",
        "CancelOperation",
        "DeleteOperation",
    ] {
        for (key, name) in [(&foreign, &name), (&foreign, &own), (&elsewhere, &name)] {
            let refused = told(key, name, which);
            assert_eq!(refused.status(), NOT_FOUND, "{which} {name}");
            assert_eq!(refused.note, Value::Null);
        }
        for malformed in ["", "op_1", "tenants/acme/operations/", "tenants/acme"] {
            let refused = told(&owner, malformed, which);
            assert_eq!(refused.status(), INVALID_ARGUMENT, "{which} {malformed}");
            assert!(
                refused
                    .message()
                    .contains("tenants/{tenant}/operations/{id}")
            );
        }
        let unknown = told(&owner, "tenants/acme/operations/op_1", which);
        assert_eq!(unknown.status(), NOT_FOUND);
        let nobody = told("no key", &name, which);
        assert_eq!(nobody.status(), 16);
    }
    assert_eq!(told(&owner, &name, "GetOperation").status(), 0);
    // A key for reading operations alone may not make one.
    let watcher = add_key(&ports, "acme", &["operations"], "free");
    assert_eq!(told(&watcher, &name, "GetOperation").status(), 0);
    let call = call(
        &ports,
        BEGIN,
        &[("x-api-key", &watcher)],
        &infer(&[1.0, 2.0]),
    );
    assert_eq!(call.status(), PERMISSION_DENIED);
}

#[test]
fn a_retry_with_the_same_idempotency_key_gets_the_same_operation() {
    let ports = ports();
    let key = [("idempotency-key", "k1")];
    let message = infer(&[1.0, 2.0]);
    let first = call(&ports, BEGIN, &key, &message).operation();
    let again = call(&ports, BEGIN, &key, &message);
    assert_eq!(again.response.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.operation(), first);
    let other = call(&ports, BEGIN, &key, &infer(&[3.0, 4.0]));
    assert_eq!(other.status(), FAILED_PRECONDITION, "another payload");
    // The method with another answer is another call.
    let direct: pb::ModelInferResponse = call(&ports, INFER, &key, &message).read();
    assert_eq!(direct.raw_output_contents, [raw(&[1.0, 2.0])]);
    run(&ports, &id_of(&first));
    assert_eq!(ports.runs.get(), 2);
}

#[test]
fn a_webhook_is_named_in_metadata_and_other_methods_refuse_it() {
    let url = [("webhook-url", "https://hooks.example/x")];
    let ports = ports();
    let refused = call(&ports, BEGIN, &url, &infer(&[1.0, 2.0]));
    assert_eq!(refused.status(), INVALID_ARGUMENT, "the host sends none");
    let mut environment = ports.environment.borrow_mut();
    environment.insert("PENSTOCK_WEBHOOK_KEY".into(), "whpk_1".into());
    drop(environment);
    ports.set_policy("[[webhooks.tenants]]\ntenant = \"anonymous\"\nsecrets_file = \"s\"\n");
    let accepted = call(&ports, BEGIN, &url, &infer(&[1.0, 2.0])).operation();
    let shown = get_operation(&ports, &accepted.name).operation();
    let shown = &metadata(&shown)["webhook"];
    assert_eq!(shown["url"], url[0].1);
    assert_eq!(shown["state"], "pending");
    let refused = call(&ports, INFER, &url, &infer(&[1.0, 2.0]));
    assert_eq!(refused.status(), INVALID_ARGUMENT);
    assert!(refused.message().contains("ModelInferAsync"));
}

#[test]
fn without_operations_every_method_of_them_is_unimplemented() {
    let ports = ports();
    let accepted = begin(&ports);
    ports.set_policy("[operations]\nenabled = false\n");
    let refused = call(&ports, BEGIN, &[], &infer(&[1.0, 2.0]));
    assert_eq!(refused.status(), UNIMPLEMENTED);
    assert!(refused.message().contains("`[operations]`"));
    let list = lro::ListOperationsRequest {
        name: "tenants/anonymous".into(),
        ..Default::default()
    };
    for told in [
        get_operation(&ports, &accepted.name),
        wait(&ports, &accepted.name, None),
        cancel(&ports, &accepted.name),
        delete(&ports, &accepted.name),
        method(&ports, "ListOperations", &list),
    ] {
        assert_eq!(told.status(), UNIMPLEMENTED);
        assert!(told.message().contains("`[operations]`"));
    }
    assert_eq!(call(&ports, INFER, &[], &infer(&[1.0, 2.0])).status(), 0);
}

#[test]
fn an_operation_of_rest_has_its_json_as_a_struct_and_other_bodies_are_described() {
    let ports = ports();
    let id = accept(&ports).id();
    run(&ports, &id);
    let name = format!("tenants/anonymous/operations/{id}");
    let ended = get_operation(&ports, &name).operation();
    let (kind, message) = response(&ended);
    assert_eq!(kind, STRUCT);
    let read = object_of(&Struct::decode(message).unwrap());
    let plain = get(&ports, &format!("/v1/operations/{id}")).body;
    assert_eq!(read["predictions"], plain["response"]["predictions"]);
    assert_eq!(read["prediction_id"], plain["response"]["prediction_id"]);

    let body = br#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"data":[1,2]}],
        "outputs":[{"name":"b","parameters":{"binary_data":true}}]}"#;
    let binary = send(
        &ports,
        "POST",
        "/v2/models/m/infer",
        &[("prefer", "respond-async")],
        body,
    );
    let id = binary.id();
    run(&ports, &id);
    let name = format!("tenants/anonymous/operations/{id}");
    let ended = get_operation(&ports, &name).operation();
    let (kind, message) = response(&ended);
    assert_eq!(kind, STRUCT);
    let read = object_of(&Struct::decode(message).unwrap());
    assert_eq!(read["content_type"], "application/octet-stream");
    assert_eq!(read["location"], format!("/v1/operations/{id}/response"));
}

#[test]
fn an_operation_that_failed_has_the_code_of_grpc_and_the_word_of_the_catalogue() {
    let fails = |_: &str, _, _: Vec<_>| {
        Err(Failure {
            kind: FailureKind::Failed,
            message: "the graph broke".into(),
            retry_after_ms: None,
        })
    };
    let ports = hosted(InMemory::new(&[("m", ECHO, &["1"])], fails));
    let accepted = begin(&ports);
    let id = id_of(&accepted);
    run(&ports, &id);
    let ended = get_operation(&ports, &accepted.name).operation();
    assert!(ended.done);
    let status = error(&ended);
    assert_eq!(status.code, 13);
    assert!(status.message.contains("the graph broke"));
    let info = &status.details[0];
    assert_eq!(info.type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    let info = rpc::ErrorInfo::decode(info.value.as_slice()).unwrap();
    assert_eq!(info.reason, "inference_failed");
    assert_eq!(info.metadata["http_status"], "500");
    // Over REST, its answer is that of a call over REST.
    let whole = get(&ports, &format!("/v1/operations/{id}/response"));
    assert_eq!((whole.status(), whole.code()), (500, "inference_failed"));
}
