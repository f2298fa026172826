//! Compares the API description with the gate: every example runs, every path has a route, every reference resolves,
//! and the parsers refuse everything that the schemas refuse.

use crate::openapi_common::{EVERY_TYPE, wrong};
use penstock_core::ModelVersion;
use penstock_gate::openapi::{About, Described, MAX_DOCUMENT_BYTES, document};
use penstock_gate::route::route;
use penstock_tensor::{Contract, Unknown, parse_infer, parse_predict};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Returns the contracts of the repository, and some with features that those lack.
fn contracts() -> Vec<(String, Contract)> {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
    let mut contracts = Vec::new();
    for folder in std::fs::read_dir(models).unwrap() {
        let folder = folder.unwrap();
        let Ok(text) = std::fs::read_to_string(folder.path().join("model.toml")) else {
            continue;
        };
        let name = folder.file_name().into_string().unwrap();
        contracts.push((name, Contract::parse(&text).unwrap()));
    }
    assert!(contracts.len() >= 6, "the models are gone");
    for (name, text) in [
        ("every-type", EVERY_TYPE),
        ("far-ranges", FAR_RANGES),
        ("long", LONG),
    ] {
        contracts.push((name.to_owned(), Contract::parse(text).unwrap()));
    }
    contracts.sort_by(|(a, _), (b, _)| a.cmp(b));
    contracts
}

const FAR_RANGES: &str = r#"
description = "ranges without 1, scalars, no items"
inputs = [
    { name = "above", datatype = "FP32", shape = [], minimum = 2.5 },
    { name = "below", datatype = "INT8", shape = [2, 2], maximum = -3 },
]
outputs = [{ name = "y", datatype = "FP32", shape = [] }]
"#;

const LONG: &str = r#"
description = "too long for an example"
inputs = [{ name = "x", datatype = "UINT8", shape = ["N", 224, 224, 3] }]
outputs = [{ name = "y", datatype = "FP32", shape = ["N"] }]
"#;

fn whole(contracts: &[(String, Contract)]) -> Value {
    let versions = [ModelVersion::parse("1").unwrap()];
    let models: Vec<Described<'_>> = contracts
        .iter()
        .map(|(name, contract)| Described {
            name,
            versions: &versions,
            contract,
        })
        .collect();
    document(
        &models,
        &About {
            counts_usage: true,
            sends_webhooks: true,
            ..About::default()
        },
    )
}

/// Visits every value of a document.
fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Array(elements) => elements.iter().for_each(|one| walk(one, visit)),
        Value::Object(members) => members.values().for_each(|one| walk(one, visit)),
        _ => {}
    }
}

/// Returns the JSON example and the schema of an operation's body.
fn example(document: &Value, path: &str) -> Option<(Value, Value)> {
    let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"];
    let (_, example) = body.get("examples")?.as_object()?.iter().next()?;
    Some((body["schema"].clone(), example["value"].clone()))
}

#[test]
fn every_example_meets_its_schema_and_is_taken_by_the_parser() {
    let contracts = contracts();
    let document = whole(&contracts);
    let mut ran = 0;
    for (name, contract) in &contracts {
        for verb in ["predict", "infer", "batchPredict"] {
            let path = match verb {
                "infer" => format!("/v2/models/{name}/infer"),
                verb => format!("/v1/models/{name}:{verb}"),
            };
            let Some((schema, body)) = example(&document, &path) else {
                assert_eq!(name, "long");
                continue;
            };
            assert_eq!(wrong(&document, &schema, &body), None, "{path}");
            let text = |body: &Value| body.to_string().into_bytes();
            match verb {
                "infer" => drop(parse_infer(&text(&body), 0, contract, Unknown::Refuse).unwrap()),
                "predict" => drop(parse_predict(&text(&body), contract).unwrap()),
                _ => drop(parse_predict(&text(&body["requests"][0]), contract).unwrap()),
            }
            ran += 1;
        }
    }
    assert_eq!(ran, 3 * (contracts.len() - 1));
}

#[test]
fn what_the_schema_of_inputs_refuses_the_parser_refuses_too() {
    let contracts = contracts();
    let document = whole(&contracts);
    for (name, contract) in &contracts {
        let path = format!("/v1/models/{name}:predict");
        let Some((schema, body)) = example(&document, &path) else {
            continue;
        };
        for spec in &contract.inputs {
            let mut bad: Vec<Value> = vec![json!({}), json!("x"), json!([]), json!(1e300)];
            let good = &body["inputs"][&spec.name];
            bad.extend([json!([good]), json!([good, good, [good]])]);
            if let Value::Array(rows) = good {
                bad.push(Value::Array([rows.as_slice(), &[Value::Null]].concat()));
                bad.push(json!(vec![rows.first().unwrap(); 1_000]));
            }
            for value in bad {
                let mut body = body.clone();
                body["inputs"][&spec.name] = value;
                let refused = parse_predict(body.to_string().as_bytes(), contract).is_err();
                let text = body.to_string();
                let faulty = wrong(&document, &schema, &body).is_some();
                // The schema is less strict than the parser: it may accept a body that the parser refuses, but not
                // the reverse.
                assert!(
                    refused || !faulty,
                    "{name} {}: {}",
                    spec.name,
                    &text[..text.len().min(200)]
                );
            }
        }
        for (member, value) in [
            ("other", json!(1)),
            ("id", json!(5)),
            ("parameters", json!([])),
            ("parameters", json!({ "a": {} })),
            ("inputs", json!(null)),
            ("inputs", json!({})),
            ("inputs", json!({ "no such": 1 })),
        ] {
            let mut body = body.clone();
            body[member] = value;
            assert!(wrong(&document, &schema, &body).is_some(), "{body}");
            assert!(parse_predict(body.to_string().as_bytes(), contract).is_err());
        }
    }
}

#[test]
fn a_server_without_webhooks_describes_none() {
    let document = document(&[], &About::default());
    assert_eq!(document.get("webhooks"), None);
    let text = document.to_string();
    for word in [
        "\"Webhook-Url",
        "OperationMessage",
        ":announce",
        "webhook-keys",
    ] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = whole(&contracts());
    let mut used = BTreeSet::new();
    walk(&document, &mut |value| {
        if let Some(place) = value.get("$ref").and_then(Value::as_str) {
            let place = place.strip_prefix('#').unwrap();
            assert!(document.pointer(place).is_some(), "{place}");
            used.insert(place.to_owned());
        }
    });
    for kind in ["schemas", "parameters", "headers", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let place = format!("/components/{kind}/{name}");
            assert!(used.contains(&place), "nothing refers to {place}");
        }
    }
}

/// Visits every schema of a document with its place. `named` marks the direct members of `components.schemas`.
fn schemas(document: &Value, visit: &mut impl FnMut(&str, bool, &Value)) {
    fn inside(
        place: &str,
        named: bool,
        schema: &Value,
        visit: &mut impl FnMut(&str, bool, &Value),
    ) {
        visit(place, named, schema);
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            let place = format!("{place}/{keyword}");
            match (keyword.as_str(), value) {
                ("additionalProperties", Value::Bool(_)) => {}
                ("items" | "additionalProperties", one) => inside(&place, false, one, visit),
                ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(all)) => {
                    all.iter().for_each(|one| inside(&place, false, one, visit));
                }
                ("properties", Value::Object(all)) => {
                    for (name, one) in all {
                        inside(&format!("{place}/{name}"), false, one, visit);
                    }
                }
                _ => {}
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        inside(name, true, schema, visit);
    }
    let mut others = Vec::new();
    let mut without = document.clone();
    without["components"]["schemas"].take();
    walk(&without, &mut |value| {
        if let Some(schema) = value.get("schema") {
            others.push(schema.clone());
        }
    });
    for schema in others {
        inside("a body, parameter or header", false, &schema, visit);
    }
}

#[test]
fn generators_find_nothing_they_cannot_read() {
    let document = whole(&contracts());
    let mut seen = 0;
    schemas(&document, &mut |place, named, schema| {
        seen += 1;
        assert_ne!(
            schema,
            &json!(false),
            "{place}: openapi-python-client refuses it"
        );
        let Value::Object(keywords) = schema else {
            return;
        };
        let has = |keyword: &str| keywords.contains_key(keyword);
        if schema["type"] == json!("array") {
            assert!(
                has("items") || has("prefixItems"),
                "{place}: an array of what?"
            );
        }
        if has("enum") || has("const") {
            assert!(has("type"), "{place}: the type of these values");
        }
        // A generator invents a name for an object without one, and two invented names may be equal.
        if has("properties") {
            assert!(named, "{place}: an object with members needs a name");
            assert!(has("description"), "{place}");
        }
        let choices = ["anyOf", "oneOf"].into_iter().find(|keyword| has(keyword));
        if let Some(choices) = choices {
            assert!(
                !has("properties") && !has("type"),
                "{place}: {choices} beside other keywords"
            );
        }
        if let Some(place) = schema["$ref"].as_str() {
            assert_eq!(
                keywords.len(),
                1,
                "{place}: nothing stands beside a reference"
            );
        }
    });
    assert!(seen > 500, "{seen}");
}

#[test]
fn every_operation_has_a_summary_of_its_own_a_description_and_a_tag_that_is_explained() {
    let document = whole(&contracts());
    let tags: BTreeSet<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|tag| tag["description"].is_string())
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut summaries = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let summary = operation["summary"].as_str().unwrap();
            assert!(
                summaries.insert(summary.to_owned()),
                "{path}: {summary} twice"
            );
            assert!(
                !operation["description"].as_str().unwrap().is_empty(),
                "{path}"
            );
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_lowercase()), "{path}: {id} twice");
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
            if let Some(content) = operation["requestBody"]["content"].as_object() {
                let types: Vec<&String> = content.keys().collect();
                let only = match path.as_str() {
                    "/v1/files" => "multipart/form-data",
                    _ => "application/json",
                };
                assert_eq!(types, [only], "{path}: orval chooses none of several");
            }
            let own: Vec<&str> = (operation["tags"].as_array().unwrap().iter())
                .map(|tag| tag.as_str().unwrap())
                .collect();
            assert!(own.len() == 1 && tags.contains(own[0]), "{path}: {own:?}");
        }
    }
}

#[test]
fn models_whose_names_differ_only_in_style_share_nothing() {
    let (_, contract) = contracts().remove(0);
    let names = [
        "my-model",
        "my_model",
        "my.model",
        "My-Model",
        "MyModel",
        "mymodel",
        "MYMODEL",
        "my--model",
        "my-.model",
        "model",
        "model-version",
        "Model",
        "inputs",
        "for-digits",
        "batch",
        "batch-predict",
        "request",
        "response",
        "l6-v2",
        "l6v2",
        "l-6-v-2",
        "a-b",
        "ab",
        "AB",
        "A-B",
        "2",
        "number2",
        "dot",
        "word-dot",
    ];
    let many: Vec<(String, Contract)> = names
        .iter()
        .map(|name| ((*name).to_owned(), contract.clone()))
        .collect();
    let (none, one) = (whole(&[]), whole(&many[..1]));
    let all = whole(&many);
    let count =
        |document: &Value, kind: &str| document["components"][kind].as_object().unwrap().len();
    let of_one = count(&one, "schemas") - count(&none, "schemas");
    assert_eq!(
        count(&all, "schemas"),
        count(&none, "schemas") + of_one * names.len()
    );
    let operations = |document: &Value| -> Vec<String> {
        let paths = document["paths"].as_object().unwrap().values();
        let operations = paths.flat_map(|item| item.as_object().unwrap().values());
        operations
            .map(|one| one["operationId"].as_str().unwrap().to_owned())
            .collect()
    };
    let ids: BTreeSet<String> = operations(&all).into_iter().collect();
    assert_eq!(ids.len(), operations(&all).len());
    for name in all["components"]["schemas"].as_object().unwrap().keys() {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
    }
}

#[test]
fn generate_has_an_example_for_each_model_with_the_inputs_of_its_predict() {
    let contracts = contracts();
    let document = whole(&contracts);
    let body = &document["paths"]["/v2/models/{model}/generate"]["post"]["requestBody"]["content"];
    let examples = body["application/json"]["examples"].as_object().unwrap();
    let mut ran = 0;
    for (name, contract) in &contracts {
        let Some(example) = examples.get(name) else {
            continue;
        };
        let path = format!("/v1/models/{name}:predict");
        let (_, predict) = self::example(&document, &path).unwrap();
        assert_eq!(example["value"], predict["inputs"], "{name}: {contract:?}");
        ran += 1;
    }
    assert!(ran >= 6, "{ran}");
}

#[test]
fn every_path_has_a_route_that_takes_exactly_the_methods_described() {
    let document = whole(&contracts());
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let real = path
            .replace("{model}", "digits")
            .replace("{version}", "1")
            .replace("{operation}", "op_1")
            .replace("{file}", "file-1")
            .replace("{batch}", "batch_1")
            .replace("{tenant}", "acme")
            .replace("{code}", "internal");
        assert!(!real.contains('{'), "{path}");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let described = item.get(method.to_lowercase()).is_some();
            let found = route(method, &real);
            assert_eq!(described, found.is_ok(), "{method} {path}: {found:?}");
        }
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            let in_path: BTreeSet<&str> = path
                .split('{')
                .skip(1)
                .map(|rest| rest.split('}').next().unwrap())
                .collect();
            let parameters = operation["parameters"].as_array().unwrap().iter();
            let declared: BTreeSet<&str> = parameters
                .map(|one| match one.get("$ref").and_then(Value::as_str) {
                    Some(place) => document.pointer(&place[1..]).unwrap(),
                    None => one,
                })
                .filter(|one| one["in"] == "path")
                .map(|one| one["name"].as_str().unwrap())
                .collect();
            assert_eq!(in_path, declared, "{path}");
            assert!(operation["responses"]["404"].is_object(), "{path}");
        }
    }
}

#[test]
fn the_document_stays_within_its_bound_however_many_models_there_are() {
    let (_, contract) = contracts()
        .into_iter()
        .find(|(name, _)| name == "magika")
        .unwrap();
    let many: Vec<(String, Contract)> = (0..1_024)
        .map(|i| (format!("model-{i:04}"), contract.clone()))
        .collect();
    let document = whole(&many);
    let bytes = document.to_string().len();
    assert!(bytes < MAX_DOCUMENT_BYTES + (370 << 10), "{bytes}");
    let left_out = document["info"]["x-models-left-out"]["models"]
        .as_array()
        .unwrap();
    let described = document["paths"].as_object().unwrap();
    for (name, _) in &many {
        let path = format!("/v1/models/{name}:predict");
        assert_ne!(
            described.contains_key(&path),
            left_out.contains(&json!(name))
        );
    }
    let alone = whole(&many[1_000..1_001]);
    assert!(
        alone["paths"]
            .get("/v1/models/model-1000:predict")
            .is_some()
    );
    let small = whole(&[]);
    println!(
        "{bytes} bytes for all that fit, {} for one model, {} for none",
        alone.to_string().len(),
        small.to_string().len()
    );
}
