//! All mistakes of clients, over HTTP, through the built components. Each gets its own 4xx, with the place and the
//! expected value, and never a 500.

use crate::common;

use common::Server;
use serde_json::Value;

/// Body, path, status, code, and the pointer and the rule of the first detail. An empty pointer or rule is not checked.
#[derive(Clone)]
struct Case(
    &'static str,
    &'static str,
    u16,
    &'static str,
    &'static str,
    &'static str,
);

const PREDICT: &str = "/v1/models/identity:predict";

const MALFORMED_BODIES: &[Case] = &[
    Case("", PREDICT, 400, "malformed_json", "", ""),
    Case("{", PREDICT, 400, "malformed_json", "", ""),
    Case(
        r#"{"inputs":{"a":[[1,2,3,4]]}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,4]]}} x"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,NaN]]}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,Infinity]]}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,-Infinity]]}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,01]]}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,+1]]}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,.5]]}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,4]],"a":[[1,2,3,4]]}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,4]]},"inputs":{}}"#,
        PREDICT,
        400,
        "malformed_json",
        "",
        "",
    ),
];

const INVALID_BODIES: &[Case] = &[
    Case("[]", PREDICT, 400, "invalid_body", "", ""),
    Case("3", PREDICT, 400, "invalid_body", "", ""),
    Case("{}", PREDICT, 400, "invalid_body", "", ""),
    Case(
        r#"{"inputs":{"a":[[1,2,3,4]]},"oops":1}"#,
        PREDICT,
        400,
        "invalid_body",
        "/oops",
        "",
    ),
    Case(
        r#"{"inputs":3}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs",
        "wrong_shape",
    ),
    Case(r#"{"inputs":{}}"#, PREDICT, 422, "invalid_inputs", "", ""),
    Case(
        r#"{"inputs":{"b":[[1,2,3,4]]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3]]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a",
        "wrong_shape",
    ),
    Case(
        r#"{"inputs":{"a":[1,2,3,4]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,4],[1,2]]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a/1",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,"4"]]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a/0/3",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,null]]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a/0/3",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,true]]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a/0/3",
        "",
    ),
    Case(
        r#"{"inputs":{"a":[[1,2,3,1e39]]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a/0/3",
        "number_out_of_range",
    ),
    Case(
        r#"{"inputs":{"a":[]}}"#,
        PREDICT,
        422,
        "invalid_inputs",
        "/inputs/a",
        "",
    ),
    Case(
        r#"{"inputs":{"bytes":[[1.5]]}}"#,
        "/v1/models/magika:predict",
        422,
        "invalid_inputs",
        "",
        "",
    ),
    Case(
        r#"{"inputs":{"bytes":[[3000000000]]}}"#,
        "/v1/models/magika:predict",
        422,
        "invalid_inputs",
        "",
        "",
    ),
];

#[test]
fn each_wrong_body_of_predict_gets_its_own_4xx_with_a_pointer() {
    let server = Server::start();
    let cases = [MALFORMED_BODIES, INVALID_BODIES].concat();
    for Case(body, path, status, code, pointer, rule) in cases {
        let answer = server.post_json(path, body);
        let value = answer.json();
        let error = &value["error"];
        assert_eq!(
            (answer.status, &error["code"]),
            (status, &Value::from(code)),
            "{body} {value}"
        );
        assert!(
            !error["details"].as_array().unwrap().is_empty(),
            "{body} {value}"
        );
        assert!(
            error["message"].as_str().is_some_and(|m| m.len() > 10),
            "{value}"
        );
        if !pointer.is_empty() {
            assert_eq!(error["details"][0]["pointer"], pointer, "{body} {value}");
        }
        if !rule.is_empty() {
            assert_eq!(error["details"][0]["rule"], rule, "{body} {value}");
        }
    }
}

#[test]
fn all_violations_of_a_body_are_in_one_answer() {
    let server = Server::start();
    let body = r#"{"inputs":{"input_ids":[["x",1]],"attention_mask":[[1]],"oops":[1]}}"#;
    let value = server.post_json("/v1/models/minilm:predict", body).json();
    let pointers: Vec<&str> = value["error"]["details"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|d| d["pointer"].as_str())
        .collect();
    for expected in ["/inputs/input_ids/0/0", "/inputs/oops"] {
        assert!(pointers.contains(&expected), "{expected} in {value}");
    }
    assert!(
        value.to_string().contains("token_type_ids"),
        "the missing input is named: {value}"
    );
    let many = format!(r#"{{"inputs":{{"a":[[{}1]]}}}}"#, "\"x\",".repeat(5000));
    let answer = server.post_json(PREDICT, &many);
    assert_eq!(answer.status, 422);
    assert!(
        answer.bytes.len() < 20_000,
        "an answer does not grow with the mistakes"
    );
}

#[test]
fn each_wrong_infer_gets_the_protocols_error_form() {
    let server = Server::start();
    for (body, status, needle) in [
        ("", 400, "JSON"),
        ("{}", 400, "inputs"),
        (r#"{"inputs":[]}"#, 422, "a"),
        (
            r#"{"inputs":[{"name":"a","shape":[1,4],"datatype":"FP64","data":[1,2,3,4]}]}"#,
            422,
            "FP32",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[1,4],"datatype":"FP99","data":[1,2,3,4]}]}"#,
            422,
            "FP99",
        ),
        (
            r#"{"inputs":[{"name":"b","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#,
            422,
            "b",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[1,5],"datatype":"FP32","data":[1,2,3,4,5]}]}"#,
            422,
            "4",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3]}]}"#,
            422,
            "4",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[18446744073709551615,18446744073709551615],"datatype":"FP32","data":[1]}]}"#,
            422,
            "shape",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[99999999999999999999],"datatype":"FP32","data":[1]}]}"#,
            400,
            "shape",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[-1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#,
            400,
            "shape",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]},{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#,
            422,
            "a",
        ),
        (
            r#"{"inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],"outputs":[{"name":"zzz"}]}"#,
            422,
            "zzz",
        ),
    ] {
        let answer = server.post_json("/v2/models/identity/infer", body);
        let value = answer.json();
        assert!((400..500).contains(&answer.status), "{body} {value}");
        assert_eq!(answer.status, status, "{body} {value}");
        assert!(value["error"].is_string(), "{value}");
        assert!(value.to_string().contains(needle), "{needle} in {value}");
    }
}

#[test]
fn depth_and_size_beyond_the_limit_are_refused_without_being_read() {
    let server = Server::start();
    let deep = format!(
        r#"{{"inputs":{{"a":{}1{}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let answer = server.post_json(PREDICT, &deep);
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (400, &"malformed_json".into())
    );
    let large = vec![b' '; 17 << 20];
    let answer = server.post(PREDICT, "application/json", &large);
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (413, &"body_too_large".into())
    );
}

#[test]
fn method_path_type_and_version_mistakes_each_have_their_status() {
    let server = Server::start();
    let good = br#"{"inputs":{"a":[[1,2,3,4]]}}"#;
    for (method, path, headers, status) in [
        ("GET", PREDICT, &[][..], 405),
        ("DELETE", "/v1/models/identity", &[], 405),
        (
            "POST",
            "/v1/models/none:predict",
            &[("content-type", "application/json")],
            404,
        ),
        (
            "POST",
            "/v1/models/..%2f..%2fetc%2fpasswd:predict",
            &[("content-type", "application/json")],
            404,
        ),
        (
            "POST",
            "/v1/models/%ff:predict",
            &[("content-type", "application/json")],
            400,
        ),
        (
            "POST",
            "/v1/models/identity/versions/77:predict",
            &[("content-type", "application/json")],
            404,
        ),
        ("POST", PREDICT, &[("content-type", "application/xml")], 415),
        (
            "POST",
            PREDICT,
            &[
                ("content-type", "application/json"),
                ("accept", "text/html"),
            ],
            406,
        ),
        (
            "POST",
            PREDICT,
            &[
                ("content-type", "application/json"),
                ("content-encoding", "br"),
            ],
            415,
        ),
    ] {
        let body = (method == "POST").then_some(&good[..]);
        let answer = server.call(method, path, headers, body);
        assert_eq!(
            answer.status,
            status,
            "{method} {path} {}",
            String::from_utf8_lossy(&answer.bytes)
        );
        assert!(answer.header("x-request-id").is_some());
    }
    let answer = server.call("GET", PREDICT, &[], None);
    assert_eq!(answer.header("allow"), Some("POST"));
    assert_eq!(
        server.get("/v1/models/none").json()["error"]["available"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
}

#[test]
fn ten_thousand_mutated_bodies_cause_no_500() {
    let server = Server::start();
    let seeds: [(&str, &[u8]); 3] = [
        (PREDICT, br#"{"inputs":{"a":[[1.5,-2e3,3,4]]},"id":"x","parameters":{"p":true}}"#),
        ("/v2/models/identity/infer", br#"{"id":"7","inputs":[{"name":"a","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],"outputs":[{"name":"b"}]}"#),
        ("/v2/models/minilm/infer", br#"{"inputs":[{"name":"input_ids","shape":[1,2],"datatype":"INT64","data":[[1,2]]},{"name":"attention_mask","shape":[1,2],"datatype":"INT64","data":[1,1]},{"name":"token_type_ids","shape":[1,2],"datatype":"INT64","data":[0,0]}]}"#),
    ];
    let seed: u64 = std::env::var("PENSTOCK_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(42);
    println!("PENSTOCK_SEED={seed}");
    let mut state = seed;
    let mut next = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let alphabet = br#"[]{},:"\0123456789.-+eE tfn"#;
    let agent = common::client(None);
    for _ in 0..10_000 {
        let (path, seed_body) = seeds[next(seeds.len())];
        let mut body = seed_body.to_vec();
        for _ in 0..=next(3) {
            let at = next(body.len());
            match next(if body.len() < 2 { 1 } else { 4 }) {
                0 => body[at] = alphabet[next(alphabet.len())],
                1 => body.insert(at, alphabet[next(alphabet.len())]),
                2 => drop(body.remove(at)),
                _ => body.truncate(at.max(1)),
            }
        }
        let response = agent
            .post(format!("http://{}{path}", server.address))
            .header("content-type", "application/json")
            .send(&body[..])
            .expect("an answer");
        let status = response.status().as_u16();
        assert!(
            status == 200 || (400..500).contains(&status),
            "{status} for {:?}",
            String::from_utf8_lossy(&body)
        );
        drop(response.into_body().read_to_vec());
    }
}
