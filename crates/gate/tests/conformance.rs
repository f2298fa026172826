//! Compares docs/CONFORMANCE.md with the code: every test that it names exists, and it contains every served path and
//! method.

use penstock_gate::openapi::{About, document};
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/CONFORMANCE.md")).unwrap()
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = page();
    let mut named = 0;
    // Take the texts between backquotes, which are every second piece.
    for piece in page.split('`').skip(1).step_by(2) {
        let Some((file, name)) = piece.split_once("::") else {
            continue;
        };
        let text = std::fs::read_to_string(root().join(file))
            .unwrap_or_else(|e| panic!("{piece}: {file}: {e}"));
        let (declared, marked) = if file.ends_with(".py") {
            (format!("def {name}("), name.starts_with("test_"))
        } else {
            let declared = format!("fn {name}(");
            let before = text.split(&declared).next().unwrap_or_default();
            // Test attributes directly precede the declaration, also within `proptest!`.
            let last = before.rsplit("#[test]").next().unwrap_or_default();
            let marked = before.contains("#[test]") && !last.contains("fn ");
            (declared, marked)
        };
        assert!(
            text.contains(&declared) && marked,
            "there is no test {piece}"
        );
        named += 1;
    }
    assert!(named > 50, "{named}");
}

#[test]
fn every_parameter_that_is_not_supported_is_in_the_page_with_its_reason() {
    let page = page();
    for refused in penstock_tensor::parameters::NOT_SUPPORTED {
        let value = match refused.value {
            Some(value) => format!("`{value}`"),
            None => "any value".to_owned(),
        };
        let row = format!("| `{}` | {value} | {} |", refused.name, refused.why);
        assert!(page.contains(&row), "{row}");
    }
    let rows = page.split("## Parameters that are refused").nth(1).unwrap();
    let rows = rows.split("## ").next().unwrap().matches("\n| `").count();
    assert_eq!(rows, penstock_tensor::parameters::NOT_SUPPORTED.len());
}

#[test]
fn every_path_of_the_protocol_that_is_served_is_in_the_page() {
    let page = page();
    let document = document(&[], &About::default());
    let mut found = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let of_protocol = path.starts_with("/v2") || path == "/v1/embeddings";
        if !of_protocol || path.contains("/versions/") {
            continue;
        }
        for method in item.as_object().unwrap().keys() {
            let entry = format!("`{} {path}`", method.to_uppercase());
            assert!(page.contains(&entry), "{entry} is not in the page");
            found += 1;
        }
    }
    assert!(found >= 8, "{found}");
}

#[test]
fn every_method_of_the_grpc_service_is_in_the_page() {
    let proto = root().join("crates/proto/proto/grpc_predict_v2.proto");
    let proto = std::fs::read_to_string(proto).unwrap();
    let page = page();
    let methods: Vec<&str> = proto
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rpc "))
        .filter_map(|rest| rest.split('(').next())
        .collect();
    assert!(methods.len() >= 12);
    for method in methods {
        assert!(page.contains(&format!("`{method}`")), "{method}");
    }
}
