//! Describes the operations on one model, and adds models' examples to the operations on any model.

use super::content::{CALL_PARAMETERS, INFER_BYTES, TENSOR_NOTE, infer_answer, named};
use super::operation::{Operation, operation, written};
use super::v1::{BATCH_PREDICT, EXPLAIN, PREDICT, V1Call};
use crate::openapi::about::{About, Described};
use crate::openapi::content::taken;
use crate::openapi::errors::Kind;
use crate::openapi::example;
use crate::openapi::names::{self, component};
use penstock_tensor::Contract;
use serde_json::{Map, Value, json};

/// The most bytes of all examples in the operations on any model.
const MAX_SHARED_EXAMPLE_BYTES: usize = 64 << 10;

/// The examples for the operations on any model, by the models' names. Models that do not fit are left out.
#[derive(Default)]
pub struct Shared {
    embeddings: Map<String, Value>,
    generate: Map<String, Value>,
    bytes: usize,
}

impl Shared {
    /// Adds a model's examples, if they fit.
    pub fn offer(&mut self, model: &Described<'_>) {
        let Described { name, contract, .. } = *model;
        let value = |value: Value| json!({ "value": value });
        let generate = example::predict(contract).map(|mut body| body["inputs"].take());
        let bytes = name.len() * 3 + generate.as_ref().map_or(0, |body| body.to_string().len());
        if self.bytes + bytes > MAX_SHARED_EXAMPLE_BYTES {
            return;
        }
        self.bytes += bytes;
        if let Some(generate) = generate {
            self.generate.insert(name.to_owned(), value(generate));
        }
        let adapter = contract.adapter.as_ref();
        if adapter.is_some_and(|adapter| taken(&adapter.name).is_some_and(|taken| taken.embeds)) {
            let input = ["A cat sat on the mat.", "A dog lay on the rug."];
            let body = json!({ "model": name, "input": input });
            self.embeddings.insert(name.to_owned(), value(body));
        }
    }

    /// Writes the examples into their operations.
    pub fn write(&self, paths: &mut Map<String, Value>) {
        let mut put = |path: &str, examples: &Map<String, Value>| {
            if let Some(path) = paths.get_mut(path).filter(|_| !examples.is_empty()) {
                let content = &mut path["post"]["requestBody"]["content"]["application/json"];
                content["examples"] = json!(examples);
            }
        };
        put("/v1/embeddings", &self.embeddings);
        put("/v2/models/{model}/generate", &self.generate);
    }
}

/// Returns the operations on one model.
pub fn of_model(model: &Described<'_>, about: &About) -> Map<String, Value> {
    let Described { name, contract, .. } = *model;
    let base = format!("/v1/models/{name}");
    let Bodies {
        predict,
        batch,
        infer,
        raw,
    } = bodies(name, contract);
    let call = |path: String, verb: &str, tag: &'static str, summary: &str, note: &str| {
        operation(
            ("post", &path),
            &names::operation(verb, name),
            tag,
            &summary.replace("{}", name),
            Kind::Call,
        )
        .saying(&format!("{}\n\n{note}", contract.description))
        .of_model(name)
        .with(&CALL_PARAMETERS)
    };
    let v1_call = |call_of: &V1Call| {
        let path = format!("{base}:{}", call_of.verb);
        call(
            path,
            call_of.verb,
            "predict",
            call_of.summaries[2],
            call_of.description,
        )
    };
    let or_raw = |operation: Operation| match &raw {
        Some((media_types, note)) => operation.or_taking(media_types, note),
        None => operation,
    };
    let explains = contract.explain.is_some();
    let asked: &[&str] = if explains {
        &["explain", "target"]
    } else {
        &[]
    };
    let mut operations = vec![
        or_raw(v1_call(&PREDICT).with(asked).taking(predict.clone())).answering(
            "200",
            "The result.",
            named(&component("PredictResponse", name)),
        ),
        v1_call(&BATCH_PREDICT)
            .taking(batch)
            .answering("200", "All requests ran.", named(BATCH_PREDICT.response))
            .answering(
                "207",
                "Some requests failed; each has its own status.",
                named(BATCH_PREDICT.response),
            ),
        call(
            format!("/v2/models/{name}/infer"),
            "infer",
            "oip",
            "Run {} on tensors",
            TENSOR_NOTE,
        )
        .with(&["Inference-Header-Content-Length"])
        .taking(infer)
        .or_taking(INFER_BYTES.0, INFER_BYTES.1)
        .answering("200", "The result.", infer_answer()),
    ];
    if explains {
        operations.push(
            or_raw(v1_call(&EXPLAIN).with(&["target"]).taking(predict)).answering(
                "200",
                "The result.",
                named(EXPLAIN.response),
            ),
        );
    }
    written(operations, about)
}

/// The bodies of one model's calls, with examples that run.
struct Bodies {
    predict: Value,
    batch: Value,
    infer: Value,
    /// The media types of raw content, and the note that lists them.
    raw: Option<(&'static [&'static str], String)>,
}

fn bodies(name: &str, contract: &Contract) -> Bodies {
    let mut predict = named(&component("PredictRequest", name));
    let mut infer = named(&component("InferRequest", name));
    let mut batch = named(&component("BatchPredictRequest", name));
    let mut examples = Map::new();
    let mut raw = None;
    if let Some(body) = example::predict(contract) {
        let requests = json!({ "requests": [&body] });
        batch["application/json"]["examples"] =
            json!({ "one": { "summary": "One request", "value": requests } });
        examples.insert(
            "tensors".to_owned(),
            json!({ "summary": "Tensors", "value": body }),
        );
    }
    if let Some(body) = example::infer(contract) {
        infer["application/json"]["examples"] =
            json!({ "tensors": { "summary": "Tensors", "value": body } });
    }
    if let Some(adapter) = &contract.adapter {
        let media_types: &'static [&'static str] = match taken(&adapter.name) {
            Some(taken) => {
                let body = json!({ "content": [(taken.part)()] });
                examples.insert(
                    "content".to_owned(),
                    json!({ "summary": "Content", "value": body }),
                );
                taken.media_types
            }
            None => &["*/*"],
        };
        let listed: Vec<String> = media_types.iter().map(|one| format!("`{one}`")).collect();
        let note = format!(
            "JSON, or the raw content for the adapter `{}`: {}.",
            adapter.name,
            listed.join(", ")
        );
        raw = Some((media_types, note));
    }
    if !examples.is_empty() {
        predict["application/json"]["examples"] = Value::Object(examples);
    }
    Bodies {
        predict,
        batch,
        infer,
        raw,
    }
}
