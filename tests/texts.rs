//! Models that read text, over HTTP. Their answers equal those of ONNX Runtime and the package `tokenizers`
//! (scripts/text_models.py), under the same policies as every call.

use crate::common;

use common::{Options, Server, root};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    queries: Vec<String>,
    tagged: Vec<String>,
    /// The scores of both labels for each text.
    toxic: Vec<[f64; 2]>,
    /// The score of each text for each query.
    overlap: Vec<Vec<f64>>,
    /// The tags of the tokens for each text, with their places.
    people: Vec<Vec<(String, u64, u64)>>,
}

fn golden() -> Golden {
    let text = std::fs::read_to_string(root().join("tests/data/texts/golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn models() -> std::path::PathBuf {
    root().join("tests/data/texts")
}

fn server(policy: &'static str) -> Server {
    let server = Server::start_with(Options {
        models: Some(models()),
        policy: Some(policy),
        ..Options::default()
    });
    server.ready();
    server
}

fn asked(server: &Server, path: &str, body: Value) -> Value {
    let answer = server.post_json(path, &body.to_string());
    assert_eq!(
        answer.status,
        200,
        "{path}: {}",
        String::from_utf8_lossy(&answer.bytes)
    );
    answer.json()
}

#[track_caller]
fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-6, "{a} {b}");
}

#[test]
fn texts_are_classified_as_their_own_runtime_classifies_them() {
    let server = server("");
    let Golden { texts, toxic, .. } = golden();
    let answer = asked(
        &server,
        "/v1/classify",
        json!({ "model": "toxic", "input": texts }),
    );
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), texts.len());
    for (one, expected) in data.iter().zip(&toxic) {
        close(one["probs"][0].as_f64().unwrap(), expected[0]);
        close(one["probs"][1].as_f64().unwrap(), expected[1]);
        let best = if expected[0] >= expected[1] {
            "insult"
        } else {
            "threat"
        };
        assert_eq!(one["label"], best);
    }
    let alone = asked(
        &server,
        "/v1/classify",
        json!({ "model": "toxic", "inputs": texts[1] }),
    );
    assert_eq!(alone[0]["label"], "insult");
    close(alone[0]["score"].as_f64().unwrap(), toxic[1][0]);
    let content = server.post(
        "/v1/models/toxic:predict",
        "text/plain",
        texts[3].as_bytes(),
    );
    assert_eq!(content.json()["predictions"][0]["label"], "threat");
}

#[test]
fn texts_are_flagged_by_the_thresholds_of_the_contract() {
    let server = server("");
    let Golden { texts, toxic, .. } = golden();
    let answer = asked(
        &server,
        "/v1/moderations",
        json!({ "model": "toxic", "input": texts }),
    );
    for (one, [insult, threat]) in answer["results"].as_array().unwrap().iter().zip(toxic) {
        assert_eq!(one["categories"]["harassment"], insult >= 0.5);
        assert_eq!(one["categories"]["harassment/threatening"], threat >= 0.8);
        assert_eq!(one["flagged"], insult >= 0.5 || threat >= 0.8);
        close(
            one["category_scores"]["harassment"].as_f64().unwrap(),
            insult,
        );
    }
}

#[test]
fn documents_are_ranked_as_their_own_runtime_ranks_them() {
    let server = server("");
    let Golden {
        texts,
        queries,
        overlap,
        ..
    } = golden();
    for (query, expected) in queries.iter().zip(overlap) {
        let answer = asked(
            &server,
            "/v1/rerank",
            json!({ "model": "overlap", "query": query, "documents": texts }),
        );
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), texts.len());
        let mut before = f64::INFINITY;
        for one in results {
            let score = one["relevance_score"].as_f64().unwrap();
            close(score, expected[one["index"].as_u64().unwrap() as usize]);
            assert!(score <= before);
            before = score;
        }
        let answer = asked(
            &server,
            "/v1/score",
            json!({ "model": "overlap", "text_1": query, "text_2": texts }),
        );
        for (one, expected) in answer["data"].as_array().unwrap().iter().zip(expected) {
            close(one["score"].as_f64().unwrap(), expected);
        }
    }
}

#[test]
fn entities_lie_where_the_package_tokenizers_places_their_tokens() {
    let server = server("");
    let Golden { tagged, people, .. } = golden();
    for (text, expected) in tagged.iter().zip(people) {
        let answer = server
            .post("/v1/models/people:predict", "text/plain", text.as_bytes())
            .json();
        let found = answer["predictions"][0]["entities"]
            .as_array()
            .unwrap()
            .clone();
        // Tokens that continue an entity are joined to it.
        let mut wanted: Vec<(String, u64, u64)> = Vec::new();
        for (tag, start, end) in expected {
            match (wanted.last_mut(), tag.strip_prefix("I-")) {
                (Some(last), Some(_)) => last.2 = end,
                _ => wanted.push((tag[2..].to_owned(), start, end)),
            }
        }
        let told: Vec<(String, u64, u64)> = found
            .iter()
            .map(|e| {
                (
                    e["entity_group"].as_str().unwrap().to_owned(),
                    e["start"].as_u64().unwrap(),
                    e["end"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(told, wanted, "{text}");
        for entity in &found {
            let (start, end) = (
                entity["start"].as_u64().unwrap() as usize,
                entity["end"].as_u64().unwrap() as usize,
            );
            let part: String = text.chars().skip(start).take(end - start).collect();
            assert_eq!(entity["word"], part);
        }
    }
}

const POLICY: &str = r#"
[[limits]]
name = "items"
per = ["tenant"]
unit = "items"
algorithm = "fixed-window"
limit = 13
window_s = 3600
[usage]
enabled = true
[[disclosure]]
models = ["overlap"]
round_decimals = 1
"#;

#[test]
fn limits_on_items_usage_and_disclosure_hold_for_every_document() {
    let server = server(POLICY);
    let Golden { texts, queries, .. } = golden();
    let body = json!({ "model": "overlap", "query": queries[0], "documents": texts }).to_string();
    let first = server.post_json("/v1/rerank", &body);
    assert_eq!(
        first.status,
        200,
        "{}",
        String::from_utf8_lossy(&first.bytes)
    );
    let told: Vec<f64> = first.json()["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["relevance_score"].as_f64().unwrap())
        .collect();
    assert_eq!(told[..2], [1.0, 0.3]);
    let refused = server.post_json("/v1/rerank", &body);
    assert_eq!(
        refused.status,
        429,
        "{}",
        String::from_utf8_lossy(&refused.bytes)
    );
    let usage = server.get("/v1/usage").json().to_string();
    assert!(usage.contains("\"items\":11"), "{usage}");
}

#[test]
fn a_retry_with_the_same_key_is_answered_from_the_record() {
    let server = server("");
    let body = json!({ "model": "toxic", "input": "you stupid idiot" }).to_string();
    let send = |path: &str, body: &str| {
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", "one"),
        ];
        server.call("POST", path, &headers, Some(body.as_bytes()))
    };
    let first = send("/v1/moderations", &body);
    assert_eq!(first.status, 200);
    let again = send("/v1/moderations", &body);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(
        send("/v1/moderations", &body.replace("idiot", "cat")).status,
        422
    );
}
