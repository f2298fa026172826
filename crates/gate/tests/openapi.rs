//! Compares the API description with the gate: every example runs, every path has a route, every reference resolves,
//! and the parsers refuse everything that the schemas refuse.

use penstock_core::ModelVersion;
use penstock_gate::openapi::{About, Described, MAX_DOCUMENT_BYTES, document};
use penstock_gate::route::route;
use penstock_gate::{Gate, Header, Request};
use penstock_tensor::{Contract, Unknown, parse_infer, parse_predict};
use penstock_testkit::InMemory;
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

const EVERY_TYPE: &str = r#"
description = "one input of each type"
inputs = [
    { name = "bool", datatype = "BOOL", shape = ["N", 2] },
    { name = "u8", datatype = "UINT8", shape = ["N"] },
    { name = "u64", datatype = "UINT64", shape = ["N", "M"] },
    { name = "i64", datatype = "INT64", shape = ["N", 1, 1] },
    { name = "half", datatype = "FP16", shape = ["N", 3] },
    { name = "brain", datatype = "BF16", shape = ["N", 3] },
    { name = "double", datatype = "FP64", shape = ["N"] },
    { name = "bytes", datatype = "BYTES", shape = ["N", 2] },
]
outputs = [{ name = "class", datatype = "INT32", shape = ["N", 2], labels = ["a", "a"] }]
[axes]
N = { min = 2, max = 5 }
M = { min = 3 }
"#;

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

/// Returns the violation of a schema by a value, if any. Supports the keywords of the document, and panics on others.
fn wrong(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let Value::Object(keywords) = schema else {
        return (schema == &json!(false)).then(|| "nothing may be here".to_owned());
    };
    let each = |schemas: &Value| -> Vec<Option<String>> {
        let schemas = schemas.as_array().unwrap().iter();
        schemas.map(|one| wrong(document, one, value)).collect()
    };
    for (keyword, says) in keywords {
        let fault = match keyword.as_str() {
            "$ref" => {
                let place = says.as_str().unwrap().strip_prefix('#').unwrap();
                wrong(document, document.pointer(place).expect(place), value)
            }
            "type" => {
                let names = match says {
                    Value::Array(names) => names.clone(),
                    one => vec![one.clone()],
                };
                let fits = names.iter().any(|name| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                });
                (!fits).then(|| format!("{value} is no {says}"))
            }
            "enum" => {
                (!says.as_array().unwrap().contains(value)).then(|| format!("{value} of {says}"))
            }
            "const" => (says != value).then(|| format!("{value} for {says}")),
            "anyOf" => {
                let faults = each(says);
                faults
                    .iter()
                    .all(Option::is_some)
                    .then(|| format!("{faults:?}"))
            }
            "oneOf" => {
                let faults = each(says);
                let fitting = faults.iter().filter(|fault| fault.is_none()).count();
                (fitting != 1).then(|| format!("{fitting} fit: {faults:?}"))
            }
            "allOf" => each(says).into_iter().flatten().next(),
            "required" => value.as_object().and_then(|members| {
                let names = says.as_array().unwrap().iter().map(|n| n.as_str().unwrap());
                let mut missing = names.filter(|name| !members.contains_key(*name));
                missing.next().map(|name| format!("no {name}"))
            }),
            "properties" => value.as_object().and_then(|members| {
                let known = says.as_object().unwrap().iter();
                known
                    .filter_map(|(name, schema)| Some((schema, members.get(name)?)))
                    .find_map(|(schema, value)| wrong(document, schema, value))
            }),
            "additionalProperties" => value.as_object().and_then(|members| {
                let known = schema.get("properties").and_then(Value::as_object);
                let known = |name: &String| known.is_some_and(|known| known.contains_key(name));
                let mut others = members.iter().filter(|(name, _)| !known(name));
                others.find_map(|(_, value)| wrong(document, says, value))
            }),
            "items" => value.as_array().and_then(|elements| {
                let first = schema.get("prefixItems").and_then(Value::as_array);
                let mut rest = elements.iter().skip(first.map_or(0, Vec::len));
                rest.find_map(|element| wrong(document, says, element))
            }),
            "prefixItems" => value.as_array().and_then(|elements| {
                let mut pairs = says.as_array().unwrap().iter().zip(elements);
                pairs.find_map(|(schema, element)| wrong(document, schema, element))
            }),
            "minItems" | "maxItems" => value.as_array().and_then(|elements| {
                let (length, bound) = (elements.len() as u64, says.as_u64().unwrap());
                let fits = if keyword == "minItems" {
                    length >= bound
                } else {
                    length <= bound
                };
                (!fits).then(|| format!("{length} elements, {keyword} {bound}"))
            }),
            "minimum" | "maximum" => value.as_f64().and_then(|number| {
                let bound = says.as_f64().unwrap();
                let fits = if keyword == "minimum" {
                    number >= bound
                } else {
                    number <= bound
                };
                (!fits).then(|| format!("{number}, {keyword} {bound}"))
            }),
            "minLength" | "maxLength" => value.as_str().and_then(|text| {
                let (length, bound) = (text.chars().count() as u64, says.as_u64().unwrap());
                let fits = if keyword == "minLength" {
                    length >= bound
                } else {
                    length <= bound
                };
                (!fits).then(|| format!("{length} characters, {keyword} {bound}"))
            }),
            "description" | "title" | "examples" | "format" | "contentEncoding" | "pattern" => None,
            other => panic!("the check does not know the keyword {other}"),
        };
        if fault.is_some() {
            return fault;
        }
    }
    None
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
                assert_eq!(
                    types,
                    ["application/json"],
                    "{path}: orval chooses none of several"
                );
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
    assert!(bytes < MAX_DOCUMENT_BYTES + (350 << 10), "{bytes}");
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

#[test]
fn every_answer_has_the_form_that_the_document_gives_it_and_no_other_member() {
    let batched = r#"
description = "a class for two numbers"
inputs = [{ name = "x", datatype = "FP32", shape = ["N", 2] }]
outputs = [{ name = "x", datatype = "FP32", shape = ["N", 2], labels = ["a", "b"] }]
[explain]
target = "x"
"#;
    let adapted = |adapter: &str, more: &str| {
        format!(
            "description = \"reads texts\"\n\
             inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [\"N\", 1] }}]\n\
             outputs = [{{ name = \"x\", datatype = \"FP32\", shape = [\"N\", 1] }}]\n\
             adapter = {{ name = \"{adapter}\" }}\n{more}"
        )
    };
    let category = "[moderation.categories]\nrambling = { label = \"long\", threshold = 0.3 }\n";
    let models: &[(&str, &str, &[&str])] = &[
        ("two", batched, &["1"]),
        ("classes", &adapted("classes", category), &["1"]),
        ("pairs", &adapted("pairs", ""), &["1"]),
        ("vectors", &adapted("vectors", ""), &["1"]),
        ("bounded", EVERY_TYPE, &["1"]),
        ("broken", "description = 5", &["1"]),
        ("a folder", batched, &["1"]),
    ];
    let ports = InMemory::new(models, |_, _, inputs| Ok(inputs));
    ports.set_policy(
        "[usage]\nenabled = true\n[[usage.alerts]]\nname = \"first\"\nunit = \"requests\"\nthreshold = 1\n\
         [models]\nrequired = [\"missing\"]\n",
    );
    let token = "0123456789abcdef0123456789abcdef";
    ports
        .environment
        .borrow_mut()
        .insert("PENSTOCK_HOST_TOKEN".into(), token.into());
    let facts = format!("{token} {{\"not_ready\":\"stopping\",\"server\":{{\"tls\":{{}}}}}}");
    let send_with = |facts: &str, accept: &str, method: &str, target: &str, body: &str| {
        let headers = [
            ("content-type", "application/json"),
            ("accept", accept),
            ("penstock-connection", facts),
            // A caller without credentials lists operations from this machine only.
            ("spin-client-addr", "127.0.0.1:4711"),
        ];
        let response = Gate::new(ports.clone()).handle(&Request {
            method: method.into(),
            target: target.into(),
            headers: (headers.iter())
                .map(|(name, value)| Header {
                    name: (*name).into(),
                    value: value.as_bytes().to_vec(),
                })
                .collect(),
            body: body.as_bytes().to_vec(),
        });
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        (response.status, answer)
    };
    let send_for = |accept: &str, method: &str, target: &str, body: &str| {
        send_with(&facts, accept, method, target, body)
    };
    let send =
        |method: &str, target: &str, body: &str| send_for("application/json", method, target, body);
    let mut faults = Vec::new();
    let (status, document) = send("GET", "/openapi.json", "");
    assert_eq!(status, 200);
    let mut compare = |schema: &Value, answer: &Value, at: &str| {
        if let Some(fault) = wrong(&document, schema, answer) {
            faults.push(format!("{at}: {fault}: {answer}"));
        }
        let mut found = Vec::new();
        undescribed(&document, schema, answer, "", &mut found);
        if !found.is_empty() {
            faults.push(format!(
                "{at} answers {found:?}, which the document does not describe"
            ));
        }
    };
    let row = r#"{"inputs":{"x":[[0.25,0.75]]}}"#;
    let several = format!(r#"{{"requests":[{row},{{"inputs":{{"x":[["a"]]}}}}]}}"#);
    // Operations in several states: one that succeeded, one that was cancelled, one that waits, and one to delete.
    let operations = [(); 4].map(|()| {
        let (status, accepted) = send("POST", "/v1/models/two:predictAsync", row);
        assert_eq!(status, 202, "{accepted}");
        accepted["metadata"]["id"].as_str().unwrap().to_owned()
    });
    let order = format!(
        "{token} {}",
        json!({ "work": { "do": "run", "holder": "h", "dead_before_ms": 0 } })
    );
    for id in [&operations[0], &operations[3]] {
        let target = format!("/v1/operations/{id}");
        let (status, _) = send_with(&order, "application/json", "GET", &target, "");
        assert_eq!(status, 204);
    }
    let plain = operations
        .each_ref()
        .map(|id| format!("/v1/operations/{id}"));
    let tenant = "/v1/tenants/anonymous/operations";
    let google = operations.each_ref().map(|id| format!("{tenant}/{id}"));
    let infer =
        r#"{"id":"me","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[0.25,0.75]}]}"#;
    for (method, target, path, body) in [
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
            row,
        ),
        (
            "POST",
            "/v1/models/two:predict",
            "/v1/models/{model}:predict",
            row,
        ),
        (
            "POST",
            "/v1/models/two:predict?explain=true",
            "/v1/models/two:predict",
            row,
        ),
        (
            "POST",
            "/v1/models/two:explain",
            "/v1/models/two:explain",
            row,
        ),
        (
            "POST",
            "/v1/models/two:batchPredict",
            "/v1/models/two:batchPredict",
            &several,
        ),
        (
            "POST",
            "/v1/models/two:predict",
            "/v1/models/two:predict",
            "{\"inputs\":{}}",
        ),
        ("GET", "/v1/usage", "/v1/usage", ""),
        (
            "POST",
            "/v1/models/two:predictAsync",
            "/v1/models/{model}:predictAsync",
            row,
        ),
        (
            "POST",
            "/v1/models/two:batchPredictAsync",
            "/v1/models/{model}:batchPredictAsync",
            &several,
        ),
        (
            "POST",
            &format!("{}:cancel", plain[1]),
            "/v1/operations/{operation}:cancel",
            "",
        ),
        (
            "POST",
            &format!("{}:cancel", google[1]),
            "/v1/tenants/{tenant}/operations/{operation}:cancel",
            "",
        ),
        ("GET", &plain[0], "/v1/operations/{operation}", ""),
        ("GET", &plain[1], "/v1/operations/{operation}", ""),
        ("GET", &plain[2], "/v1/operations/{operation}", ""),
        (
            "GET",
            &google[0],
            "/v1/tenants/{tenant}/operations/{operation}",
            "",
        ),
        (
            "GET",
            &google[1],
            "/v1/tenants/{tenant}/operations/{operation}",
            "",
        ),
        (
            "GET",
            "/v1/operations/none",
            "/v1/operations/{operation}",
            "",
        ),
        ("GET", "/v1/operations?page_size=2", "/v1/operations", ""),
        ("GET", "/v1/operations?state=none", "/v1/operations", ""),
        (
            "GET",
            &format!("{tenant}?pageSize=2"),
            "/v1/tenants/{tenant}/operations",
            "",
        ),
        (
            "POST",
            &format!("{}:wait", plain[0]),
            "/v1/operations/{operation}:wait",
            "{}",
        ),
        (
            "POST",
            &format!("{}:wait", plain[0]),
            "/v1/operations/{operation}:wait",
            "[]",
        ),
        (
            "POST",
            &format!("{}:wait", google[0]),
            "/v1/tenants/{tenant}/operations/{operation}:wait",
            "",
        ),
        (
            "GET",
            &format!("{}/response", plain[0]),
            "/v1/operations/{operation}/response",
            "",
        ),
        (
            "GET",
            &format!("{}/response", plain[1]),
            "/v1/operations/{operation}/response",
            "",
        ),
        ("DELETE", &plain[2], "/v1/operations/{operation}", ""),
        ("DELETE", &plain[3], "/v1/operations/{operation}", ""),
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
            infer,
        ),
        (
            "POST",
            "/v2/models/two/infer",
            "/v2/models/{model}/infer",
            infer,
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
    ] {
        let (status, answer) = send(method, target, body);
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
        let schema = &response["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{at}: the document gives no schema");
        compare(schema, &answer, &at);
        // Errors have a second form.
        if status >= 400 && target != "/ready" && target != "/v2/health/ready" {
            let problem = "application/problem+json";
            let (same, answer) = send_for(problem, method, target, body);
            assert_eq!(same, status, "{at}");
            let schema = &response["content"][problem]["schema"];
            assert!(schema.is_object(), "{at}: the document gives no schema");
            compare(schema, &answer, &format!("{at} {problem}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
