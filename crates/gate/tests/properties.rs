//! Checks that the gate answers every request in JSON, with a request id, and never with a 500.

use penstock_core::ModelVersion;
use penstock_gate::ports::Failure;
use penstock_gate::{Gate, Header, Request};
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const CONTRACT: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 1]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 1]
"#;

fn echo(_: &str, _: ModelVersion, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
    let rename = |mut tensor: Tensor| {
        tensor.name = "y".into();
        tensor
    };
    Ok(inputs.into_iter().map(rename).collect())
}

fn target() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        select(vec![
            "v1",
            "v2",
            "models",
            "plain",
            "adapted",
            "plain:predict",
            "adapted:predict",
            "versions",
            "1",
            "1:predict",
            "2",
            "infer",
            "ready",
            "health",
            "live",
            "healthz",
            "errors",
            "",
            "..",
            "%2e%2e",
            "%",
            "%00",
            "%ff",
            "?",
            "a?b=%",
        ])
        .prop_map(str::to_owned),
        ".{0,12}",
    ];
    let likely = select(vec![
        "/v1/models/plain:predict",
        "/v1/models/adapted:predict",
        "/v2/models/plain/infer",
        "/v2/models/adapted/versions/1/infer",
    ]);
    prop_oneof![
        likely.prop_map(str::to_owned),
        vec(segment, 0..7).prop_map(|segments| format!("/{}", segments.join("/"))),
        ".{0,30}",
    ]
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let name = select(vec![
        "accept",
        "content-type",
        "content-encoding",
        "x-request-id",
        "origin",
        "access-control-request-method",
        "other",
    ]);
    let value = prop_oneof![
        select(vec![
            "application/json",
            "application/problem+json",
            "text/plain",
            "*/*",
            "image/png",
            "gzip",
            "zstd",
            "identity",
            "https://app.example",
            "null",
            "a/b;q=0.5,*/*;q=0",
            ";;;,,,q=",
            "application/json; charset=utf-8",
            "é+json",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 0..40),
    ];
    vec(
        (name, value).prop_map(|(name, value)| Header {
            name: name.into(),
            value,
        }),
        0..4,
    )
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let good = select(vec![
        r#"{"inputs":{"x":[[1],[2.5]]},"id":"a"}"#,
        r#"{"inputs":[[3]]}"#,
        r#"{"id":"7","inputs":[{"name":"x","shape":[2,1],"datatype":"FP32","data":[1,2]}],"outputs":[{"name":"y"}]}"#,
        "some text",
        "known",
    ]);
    prop_oneof![
        good.clone().prop_map(|text| text.as_bytes().to_vec()),
        // The same body with one byte changed.
        (good, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        vec(any::<u8>(), 0..60),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_is_sent_the_answer_is_json_with_a_request_id_and_no_500(
        method in select(vec!["GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "", "post"]),
        target in target(),
        headers in headers(),
        body in body(),
    ) {
        let adapted = format!("{CONTRACT}\n[adapter]\nname = \"length\"\n");
        let ports = InMemory::new(&[("plain", CONTRACT, &["1", "2"]), ("adapted", &adapted, &["1"])], echo);
        *ports.policy.borrow_mut() =
            "[cors]\nallowed_origins = [\"https://app.example\"]\n[[disclosure]]\nround_decimals = 2\ntop = 1\n".into();
        let request = Request { method: method.into(), target, headers, body: body.into() };
        // The test adapter fails on this word by design.
        prop_assume!(request.body != b"broken");
        let response = Gate::new(ports).handle(&request);
        prop_assert!((200..500).contains(&response.status), "{} for {request:?}", response.status);
        prop_assert!(response.header("x-request-id").is_some_and(|id| !id.is_empty()));
        if response.status == 204 {
            prop_assert!(response.body.is_empty() && response.header("allow").is_some());
            return Ok(());
        }
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_ok());
        let kind = response.header("content-type").unwrap_or_default();
        prop_assert!(kind == "application/json" || kind == "application/problem+json");
    }
}
