//! Bodies and tensors at the limits and above them, over HTTP, through both entry points. Within the limit they pass.
//! Above it the caller gets 413 with the limit, and outputs that are too large are refused with a message. Nothing
//! traps.

use crate::common;
use crate::support;

use common::{Options, Response, Server};
use std::path::Path;
use support::onnx_type::{DOUBLE, FLOAT};
use support::{D, Node, onnx_bytes, p};

const DOORS: [&str; 2] = ["direct", "http"];

/// The default of `server.max_body_bytes`.
const LIMIT: usize = 16 << 20;

fn put(folder: &Path, name: &str, contract: &str, graph: &[u8]) {
    std::fs::create_dir_all(folder.join(name).join("1")).unwrap();
    std::fs::write(folder.join(name).join("model.toml"), contract).unwrap();
    std::fs::write(folder.join(name).join("1/model.onnx"), graph).unwrap();
}

fn port(side: &str, name: &str, datatype: &str, shape: &str) -> String {
    format!("[[{side}s]]\nname = \"{name}\"\ndatatype = \"{datatype}\"\nshape = {shape}\n")
}

/// `wide` and `wide64` return their inputs; `outer` makes large outputs from small inputs.
fn models(folder: &Path) {
    for (name, ty, datatype) in [("wide", FLOAT, "FP32"), ("wide64", DOUBLE, "FP64")] {
        let graph = onnx_bytes(
            &[Node("Identity", vec!["a"], vec!["b"])],
            &[p("a", ty, &[D::S("N")])],
            &[p("b", ty, &[D::S("N")])],
        );
        let contract = format!(
            "description = \"Hands its input back\"\n[limits]\nmax_body_bytes = {}\nmax_items = 100000000\n{}{}",
            64 << 20,
            port("input", "a", datatype, "[\"N\"]"),
            port("output", "b", datatype, "[\"N\"]"),
        );
        put(folder, name, &contract, &graph);
    }
    let graph = onnx_bytes(
        &[Node("Add", vec!["rows", "columns"], vec!["sum"])],
        &[
            p("rows", FLOAT, &[D::S("R"), D::N(1)]),
            p("columns", FLOAT, &[D::N(1), D::S("C")]),
        ],
        &[p("sum", FLOAT, &[D::S("R"), D::S("C")])],
    );
    let contract = format!(
        "description = \"Adds a row to a column\"\n[limits]\nmax_items = 100000\n{}{}{}",
        port("input", "rows", "FP32", "[\"R\", 1]"),
        port("input", "columns", "FP32", "[1, \"C\"]"),
        port("output", "sum", "FP32", "[\"R\", \"C\"]"),
    );
    put(folder, "outer", &contract, &graph);
}

fn server(door: &'static str, policy: &str) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let server = Server::start_with(Options {
        door: Some(door),
        policy_text: Some(policy.to_owned()),
        models: Some(folder.path().to_owned()),
        ..Options::default()
    });
    server.ready();
    (server, folder)
}

/// A body of this many bytes with as many numbers as it holds, each two bytes of JSON, and the count of numbers.
fn body(bytes: usize, digit: char, datatype: &str) -> (String, usize) {
    let before = "{\"inputs\":[{\"name\":\"a\",\"datatype\":\"";
    let numbers = |count: usize| {
        let head = format!("{before}{datatype}\",\"shape\":[{count}],\"data\":[");
        (head, "]}]}")
    };
    let mut count = bytes / 2;
    loop {
        let (head, tail) = numbers(count);
        let length = head.len() + 2 * count - 1 + tail.len();
        if length <= bytes {
            let mut text = head;
            text.push(digit);
            for _ in 1..count {
                text.push(',');
                text.push(digit);
            }
            text.push_str(tail);
            // JSON permits spaces at its end.
            text.push_str(&" ".repeat(bytes - length));
            assert_eq!(text.len(), bytes);
            return (text, count);
        }
        count -= (length - bytes).div_ceil(2);
    }
}

fn infer(server: &Server, model: &str, body: &str) -> Response {
    server.post_json(&format!("/v2/models/{model}/infer"), body)
}

fn text(answer: &Response) -> String {
    let text = String::from_utf8_lossy(&answer.bytes);
    text.chars().take(400).collect()
}

#[track_caller]
fn passes(server: &Server, model: &str, bytes: usize, datatype: &str) {
    let (body, count) = body(bytes, '1', datatype);
    let answer = infer(server, model, &body);
    assert_eq!(answer.status, 200, "{model}, {bytes}: {}", text(&answer));
    let shape = format!("\"shape\":[{count}]");
    assert!(text(&answer).contains(&shape), "{}", text(&answer));
}

#[test]
fn tensors_of_600_kb_and_10_mb_and_bodies_up_to_the_limit_pass() {
    for door in DOORS {
        let (server, _folder) = server(door, "");
        // Two bytes of JSON are four of a tensor.
        passes(&server, "wide", 300_000, "FP32");
        passes(&server, "wide", 5_300_000, "FP32");
        passes(&server, "wide", LIMIT, "FP32");
        // Again, in an instance that has grown.
        passes(&server, "wide", LIMIT, "FP32");
    }
}

#[test]
fn one_byte_beyond_the_limit_is_413_with_the_limit() {
    for door in DOORS {
        let (server, _folder) = server(door, "");
        for bytes in [LIMIT + 1, 2 * LIMIT] {
            let answer = infer(&server, "wide", &body(bytes, '1', "FP32").0);
            let told = answer.json();
            assert_eq!(answer.status, 413, "{door}: {told}");
            assert!(told.to_string().contains(&LIMIT.to_string()), "{told}");
        }
        passes(&server, "wide", 1000, "FP32");
    }
}

#[test]
fn the_worst_a_body_within_the_limit_can_hold_is_answered() {
    for door in DOORS {
        let (server, _folder) = server(door, "");
        // Each two bytes are eight of a tensor, both ways.
        let answer = infer(&server, "wide64", &body(LIMIT, '1', "FP64").0);
        assert!(
            [200, 413, 422].contains(&answer.status),
            "{door}: {}: {}",
            answer.status,
            text(&answer)
        );
        // As many items, each a separate object in the answer.
        let start = r#"{"inputs":{"a":["#;
        let numbers = vec!["1"; (LIMIT - start.len() - 3) / 2].join(",");
        let predict = format!("{start}{numbers}]}}}}");
        let answer = server.post_json("/v1/models/wide:predict", &predict);
        assert!(
            [200, 413, 422].contains(&answer.status),
            "{door}: {}: {}",
            answer.status,
            text(&answer)
        );
        assert_eq!(server.get("/healthz").status, 200);
    }
}

#[test]
fn a_memory_too_small_for_the_limit_lowers_the_limit() {
    for door in DOORS {
        let memory = 32 << 20;
        let (server, _folder) = server(door, &format!("[instances]\nmemory_bytes = {memory}\n"));
        let limit = memory / 16;
        assert!(
            server
                .logged("bodies of more than")
                .contains(&limit.to_string())
        );
        passes(&server, "wide", limit, "FP32");
        let answer = infer(&server, "wide", &body(limit + 1, '1', "FP32").0);
        assert_eq!(answer.status, 413, "{door}: {}", text(&answer));
        assert!(text(&answer).contains(&limit.to_string()));
    }
}

#[test]
fn outputs_that_no_answer_could_hold_are_refused_in_words() {
    for door in DOORS {
        let (server, _folder) = server(door, "");
        let ask = |rows: usize, columns: usize| {
            // The longest numbers.
            let list = |count: usize| vec!["-1.1754944e-38"; count].join(",");
            let body = format!(
                r#"{{"inputs":[{{"name":"rows","datatype":"FP32","shape":[{rows},1],"data":[{}]}},
                    {{"name":"columns","datatype":"FP32","shape":[1,{columns}],"data":[{}]}}]}}"#,
                list(rows),
                list(columns)
            );
            infer(&server, "outer", &body)
        };
        let small = ask(64, 64);
        assert_eq!(small.status, 200, "{door}: {}", text(&small));
        let mut refused = 0;
        for rows in [256, 1024, 2048, 3072, 4096, 8192, 32_768] {
            let answer = ask(rows, 4096);
            match answer.status {
                200 => assert_eq!(refused, 0, "a larger one passes"),
                422 => {
                    refused += 1;
                    let told = text(&answer);
                    assert!(told.contains("send fewer items"), "{told}");
                }
                other => panic!("{door}, {rows} rows: {other}: {}", text(&answer)),
            }
        }
        assert!(refused > 0);
        assert_eq!(ask(64, 64).status, 200);
    }
}
