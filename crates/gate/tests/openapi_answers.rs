//! Compares answers of the gate with the API description: each answer meets its schema and has no other member.

use crate::openapi_common::{EVERY_TYPE, wrong};
use penstock_testkit::{InMemory, send};
use serde_json::{Value, json};

/// Collects the members of a value that its schema does not describe, each with its place.
fn undescribed(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(place) = schema.get("$ref").and_then(Value::as_str) {
        let schema = document
            .pointer(place.trim_start_matches('#'))
            .expect(place);
        return undescribed(document, schema, value, at, found);
    }
    for keyword in ["anyOf", "oneOf"] {
        let forms = schema.get(keyword).and_then(Value::as_array);
        let fits = |form: &&Value| wrong(document, form, value).is_none();
        if let Some(form) = forms.and_then(|forms| forms.iter().find(fits)) {
            return undescribed(document, form, value, at, found);
        }
    }
    if let (Value::Array(elements), Some(items)) = (value, schema.get("items")) {
        for element in elements {
            undescribed(document, items, element, &format!("{at}/-"), found);
        }
    }
    let Value::Object(members) = value else {
        return;
    };
    for (name, value) in members {
        let at = format!("{at}/{name}");
        match schema
            .pointer("/properties")
            .and_then(|known| known.get(name))
        {
            Some(schema) => undescribed(document, schema, value, &at, found),
            None if schema.get("additionalProperties").is_some() => {}
            // A schema without any keyword but its description describes no members on purpose.
            None if schema.as_object().is_some_and(|keywords| {
                keywords.keys().all(|keyword| keyword == "description")
            }) => {}
            None => found.push(at),
        }
    }
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const TENANT: &str = "/v1/tenants/anonymous/operations";
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

const BATCHED: &str = r#"
description = "a class for two numbers"
inputs = [{ name = "x", datatype = "FP32", shape = ["N", 2] }]
outputs = [{ name = "x", datatype = "FP32", shape = ["N", 2], labels = ["a", "b"] }]
[explain]
target = "x"
"#;

fn adapted(adapter: &str, more: &str) -> String {
    format!(
        "description = \"reads texts\"\n\
         inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [\"N\", 1] }}]\n\
         outputs = [{{ name = \"x\", datatype = \"FP32\", shape = [\"N\", 1] }}]\n\
         adapter = {{ name = \"{adapter}\" }}\n{more}"
    )
}

/// A gate with models of each kind, on a host that is not ready.
fn ports() -> InMemory {
    let category = "[moderation.categories]\nrambling = { label = \"long\", threshold = 0.3 }\n";
    let models: &[(&str, &str, &[&str])] = &[
        ("two", BATCHED, &["1"]),
        ("classes", &adapted("classes", category), &["1"]),
        ("pairs", &adapted("pairs", ""), &["1"]),
        ("vectors", &adapted("vectors", ""), &["1"]),
        ("bounded", EVERY_TYPE, &["1"]),
        ("broken", "description = 5", &["1"]),
        ("a folder", BATCHED, &["1"]),
    ];
    let ports = InMemory::new(models, |_, _, inputs| Ok(inputs));
    ports.set_policy(
        "[usage]\nenabled = true\n[[usage.alerts]]\nname = \"first\"\nunit = \"requests\"\nthreshold = 1\n\
         [models]\nrequired = [\"missing\"]\n",
    );
    let mut environment = ports.environment.borrow_mut();
    environment.insert("PENSTOCK_HOST_TOKEN".into(), TOKEN.into());
    drop(environment);
    ports
}

/// Sends a call. `said` is what the host says about its connection.
fn ask_with(
    ports: &InMemory,
    said: &str,
    accept: &str,
    (method, target, body): (&str, &str, &str),
) -> (u16, Value) {
    let headers = [
        ("content-type", JSON),
        ("accept", accept),
        ("penstock-connection", said),
        // A caller without credentials lists operations from this machine only.
        ("spin-client-addr", "127.0.0.1:4711"),
    ];
    let response = send(ports, method, target, &headers, body.as_bytes());
    let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    (response.status, answer)
}

fn ask(ports: &InMemory, accept: &str, call: (&str, &str, &str)) -> (u16, Value) {
    let facts = format!("{TOKEN} {{\"not_ready\":\"stopping\",\"server\":{{\"tls\":{{}}}}}}");
    ask_with(ports, &facts, accept, call)
}

/// Four operations: two that succeeded and two that wait.
fn operations(ports: &InMemory) -> [String; 4] {
    let operations = [(); 4].map(|()| {
        let call = ("POST", "/v1/models/two:predictAsync", ROW);
        let (status, accepted) = ask(ports, JSON, call);
        assert_eq!(status, 202, "{accepted}");
        accepted["metadata"]["id"].as_str().unwrap().to_owned()
    });
    let order = format!(
        "{TOKEN} {}",
        json!({ "work": { "do": "run", "holder": "h", "dead_before_ms": 0 } })
    );
    for id in [&operations[0], &operations[3]] {
        let target = format!("/v1/operations/{id}");
        let (status, _) = ask_with(ports, &order, JSON, ("GET", &target, ""));
        assert_eq!(status, 204);
    }
    operations
}

/// The differences between an answer and its schema.
fn differences(document: &Value, schema: &Value, answer: &Value, at: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(fault) = wrong(document, schema, answer) {
        faults.push(format!("{at}: {fault}: {answer}"));
    }
    let mut found = Vec::new();
    undescribed(document, schema, answer, "", &mut found);
    if !found.is_empty() {
        faults.push(format!(
            "{at} answers {found:?}, which the document does not describe"
        ));
    }
    faults
}

const ROW: &str = r#"{"inputs":{"x":[[0.25,0.75]]}}"#;
const SEVERAL: &str = r#"{"requests":[{"inputs":{"x":[[0.25,0.75]]}},{"inputs":{"x":[["a"]]}}]}"#;
const INFER: &str =
    r#"{"id":"me","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[0.25,0.75]}]}"#;

/// A method, a target, the path by which the document describes it, and a body.
type Call<T> = (&'static str, T, &'static str, &'static str);

const CALLS_OF_MODELS: &[Call<&str>] = &[
    ("GET", "/healthz", "/healthz", ""),
    ("GET", "/ready", "/ready", ""),
    ("GET", "/errors", "/errors", ""),
    ("GET", "/errors/quota_exceeded", "/errors/{code}", ""),
    ("GET", "/v1/models", "/v1/models", ""),
    ("GET", "/v1/models/two", "/v1/models/{model}", ""),
    ("GET", "/v1/models/bounded", "/v1/models/{model}", ""),
    ("GET", "/v1/models/broken", "/v1/models/{model}", ""),
    ("GET", "/v1/models/none", "/v1/models/{model}", ""),
    (
        "GET",
        "/v1/models/two/versions/1",
        "/v1/models/{model}/versions/{version}",
        "",
    ),
    (
        "POST",
        "/v1/models/two:predict",
        "/v1/models/two:predict",
        ROW,
    ),
    (
        "POST",
        "/v1/models/two:predict",
        "/v1/models/{model}:predict",
        ROW,
    ),
    (
        "POST",
        "/v1/models/two:predict?explain=true",
        "/v1/models/two:predict",
        ROW,
    ),
    (
        "POST",
        "/v1/models/two:explain",
        "/v1/models/two:explain",
        ROW,
    ),
    (
        "POST",
        "/v1/models/two:batchPredict",
        "/v1/models/two:batchPredict",
        SEVERAL,
    ),
    (
        "POST",
        "/v1/models/two:predict",
        "/v1/models/two:predict",
        "{\"inputs\":{}}",
    ),
    ("GET", "/v1/usage", "/v1/usage", ""),
    ("GET", "/v1/files", "/v1/files", ""),
    ("GET", "/v1/files?order=up", "/v1/files", ""),
    ("POST", "/v1/files", "/v1/files", "{}"),
    ("GET", "/v1/files/file-1", "/v1/files/{file}", ""),
    ("DELETE", "/v1/files/file-1", "/v1/files/{file}", ""),
    ("GET", "/v1/batches", "/v1/batches", ""),
    ("POST", "/v1/batches", "/v1/batches", "{}"),
    ("GET", "/v1/batches/batch_1", "/v1/batches/{batch}", ""),
    (
        "POST",
        "/v1/batches/batch_1/cancel",
        "/v1/batches/{batch}/cancel",
        "",
    ),
    (
        "POST",
        "/v1/models/two:predictAsync",
        "/v1/models/{model}:predictAsync",
        ROW,
    ),
    (
        "POST",
        "/v1/models/two:batchPredictAsync",
        "/v1/models/{model}:batchPredictAsync",
        SEVERAL,
    ),
];

/// Calls about operations: one that succeeded, one to cancel, one that waits, and one to delete.
fn calls_of_operations(operations: &[String; 4]) -> Vec<Call<String>> {
    let plain = operations
        .each_ref()
        .map(|id| format!("/v1/operations/{id}"));
    let google = operations.each_ref().map(|id| format!("{TENANT}/{id}"));
    vec![
        (
            "POST",
            format!("{}:cancel", plain[1]),
            "/v1/operations/{operation}:cancel",
            "",
        ),
        (
            "POST",
            format!("{}:cancel", google[1]),
            "/v1/tenants/{tenant}/operations/{operation}:cancel",
            "",
        ),
        ("GET", plain[0].clone(), "/v1/operations/{operation}", ""),
        ("GET", plain[1].clone(), "/v1/operations/{operation}", ""),
        ("GET", plain[2].clone(), "/v1/operations/{operation}", ""),
        (
            "GET",
            google[0].clone(),
            "/v1/tenants/{tenant}/operations/{operation}",
            "",
        ),
        (
            "GET",
            google[1].clone(),
            "/v1/tenants/{tenant}/operations/{operation}",
            "",
        ),
        (
            "GET",
            "/v1/operations/none".to_owned(),
            "/v1/operations/{operation}",
            "",
        ),
        (
            "GET",
            "/v1/operations?page_size=2".to_owned(),
            "/v1/operations",
            "",
        ),
        (
            "GET",
            "/v1/operations?state=none".to_owned(),
            "/v1/operations",
            "",
        ),
        (
            "GET",
            format!("{TENANT}?pageSize=2"),
            "/v1/tenants/{tenant}/operations",
            "",
        ),
        (
            "POST",
            format!("{}:wait", plain[0]),
            "/v1/operations/{operation}:wait",
            "{}",
        ),
        (
            "POST",
            format!("{}:wait", plain[0]),
            "/v1/operations/{operation}:wait",
            "[]",
        ),
        (
            "POST",
            format!("{}:wait", google[0]),
            "/v1/tenants/{tenant}/operations/{operation}:wait",
            "",
        ),
        (
            "GET",
            format!("{}/response", plain[0]),
            "/v1/operations/{operation}/response",
            "",
        ),
        (
            "GET",
            format!("{}/response", plain[1]),
            "/v1/operations/{operation}/response",
            "",
        ),
        ("DELETE", plain[2].clone(), "/v1/operations/{operation}", ""),
        ("DELETE", plain[3].clone(), "/v1/operations/{operation}", ""),
    ]
}

const CALLS_OF_V2_AND_TEXTS: &[Call<&str>] = &[
    ("GET", "/v2", "/v2", ""),
    ("GET", "/v2/health/live", "/v2/health/live", ""),
    ("GET", "/v2/health/ready", "/v2/health/ready", ""),
    ("GET", "/v2/models/two", "/v2/models/{model}", ""),
    (
        "GET",
        "/v2/models/two/ready",
        "/v2/models/{model}/ready",
        "",
    ),
    (
        "GET",
        "/v2/models/two/config",
        "/v2/models/{model}/config",
        "",
    ),
    (
        "POST",
        "/v2/models/two/infer",
        "/v2/models/two/infer",
        INFER,
    ),
    (
        "POST",
        "/v2/models/two/infer",
        "/v2/models/{model}/infer",
        INFER,
    ),
    (
        "POST",
        "/v2/models/two/generate",
        "/v2/models/{model}/generate",
        r#"{"x":[0.25,0.75]}"#,
    ),
    ("POST", "/v2/models/two/infer", "/v2/models/two/infer", "{}"),
    ("GET", "/v2/models/none", "/v2/models/{model}", ""),
    (
        "POST",
        "/v1/embeddings",
        "/v1/embeddings",
        r#"{"model":"vectors","input":["a","b"]}"#,
    ),
    (
        "POST",
        "/v1/classify",
        "/v1/classify",
        r#"{"model":"classes","input":"a"}"#,
    ),
    (
        "POST",
        "/v1/classify",
        "/v1/classify",
        r#"{"model":"classes","inputs":[["a"],["b"]]}"#,
    ),
    (
        "POST",
        "/v1/moderations",
        "/v1/moderations",
        r#"{"model":"classes","input":"a"}"#,
    ),
    (
        "POST",
        "/v1/rerank",
        "/v1/rerank",
        r#"{"model":"pairs","query":"q","documents":["a"],"return_documents":true}"#,
    ),
    (
        "POST",
        "/v1/rerank",
        "/v1/rerank",
        r#"{"model":"pairs","query":"q","texts":["a"],"return_text":true}"#,
    ),
    (
        "POST",
        "/v1/score",
        "/v1/score",
        r#"{"model":"pairs","text_1":"q","text_2":["a"]}"#,
    ),
    ("POST", "/v1/embeddings", "/v1/embeddings", "{}"),
    (
        "POST",
        "/v1/embeddings",
        "/v1/embeddings",
        r#"{"model":"none","input":"a"}"#,
    ),
];

#[test]
fn every_answer_has_the_form_that_the_document_gives_it_and_no_other_member() {
    let ports = ports();
    let (status, document) = ask(&ports, JSON, ("GET", "/openapi.json", ""));
    assert_eq!(status, 200);
    let of_operations = calls_of_operations(&operations(&ports));
    let of_operations = of_operations
        .iter()
        .map(|(method, target, path, body)| (*method, target.as_str(), *path, *body));
    let calls = CALLS_OF_MODELS.iter().copied().chain(of_operations);
    let calls = calls.chain(CALLS_OF_V2_AND_TEXTS.iter().copied());
    let mut faults = Vec::new();
    for (method, target, path, body) in calls {
        let (status, answer) = ask(&ports, JSON, (method, target, body));
        let at = format!("{method} {target} {status}");
        if body.contains("\"model\"") && !body.contains("none") {
            assert_eq!(status, 200, "{at}: {answer}");
        }
        let operation = &document["paths"][path][method.to_lowercase()];
        assert!(operation.is_object(), "{at}: the document has no {path}");
        let mut response = &operation["responses"][status.to_string()];
        if let Some(place) = response.get("$ref").and_then(Value::as_str) {
            response = document
                .pointer(place.trim_start_matches('#'))
                .expect(place);
        }
        let schema = &response["content"][JSON]["schema"];
        assert!(schema.is_object(), "{at}: the document gives no schema");
        faults.extend(differences(&document, schema, &answer, &at));
        // Errors have a second form.
        if status >= 400 && target != "/ready" && target != "/v2/health/ready" {
            let (same, answer) = ask(&ports, PROBLEM, (method, target, body));
            assert_eq!(same, status, "{at}");
            let schema = &response["content"][PROBLEM]["schema"];
            assert!(schema.is_object(), "{at}: the document gives no schema");
            let at = format!("{at} {PROBLEM}");
            faults.extend(differences(&document, schema, &answer, &at));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
