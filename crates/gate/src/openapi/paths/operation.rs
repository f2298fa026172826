//! Represents one operation and writes it into the document.

use crate::openapi::about::About;
use crate::openapi::errors::{self, Kind};
use serde_json::{Map, Value, json};

/// One operation before it is written.
pub(super) struct Operation {
    path: String,
    method: &'static str,
    pub(super) id: String,
    tag: &'static str,
    summary: String,
    description: String,
    kind: Kind,
    /// Whether errors have the Open Inference Protocol's form.
    oip: bool,
    pub(super) parameters: Vec<Value>,
    body: Option<Value>,
    /// The model, if the operation is for only one.
    model: Option<String>,
    /// The status and the response of each answer.
    answers: Vec<(&'static str, Value)>,
}

/// Creates an operation without parameters, body and answers.
pub(super) fn operation(
    (method, path): (&'static str, &str),
    id: &str,
    tag: &'static str,
    summary: &str,
    kind: Kind,
) -> Operation {
    Operation {
        path: path.to_owned(),
        method,
        id: id.to_owned(),
        tag,
        summary: summary.to_owned(),
        description: String::new(),
        kind,
        // `/v2/rerank` is Cohere's path, not the protocol's.
        oip: path == "/v2" || (path.starts_with("/v2/") && path != "/v2/rerank"),
        parameters: Vec::new(),
        body: None,
        model: None,
        answers: Vec::new(),
    }
}

impl Operation {
    pub(super) fn saying(mut self, description: &str) -> Self {
        description.clone_into(&mut self.description);
        self
    }

    pub(super) fn with(mut self, parameters: &[&str]) -> Self {
        let place = |name: &&str| json!({ "$ref": format!("#/components/parameters/{name}") });
        self.parameters.extend(parameters.iter().map(place));
        self
    }

    pub(super) fn of_model(mut self, model: &str) -> Self {
        self.model = Some(model.to_owned());
        self
    }

    pub(super) fn taking(mut self, content: Value) -> Self {
        self.body = Some(json!({ "required": true, "content": content }));
        self
    }

    pub(super) fn taking_if_any(mut self, content: Value) -> Self {
        self.body = Some(json!({ "content": content }));
        self
    }

    /// Describes other content types of the body, next to `content` instead of in it. For an operation with two media
    /// types, orval selects none and sends JSON without its content type.
    pub(super) fn or_taking(mut self, media_types: &[&str], description: &str) -> Self {
        if let Some(body) = &mut self.body {
            body["description"] = json!(description);
            body["x-content-types"] = json!(media_types);
        }
        self
    }

    pub(super) fn answering(
        mut self,
        status: &'static str,
        description: &str,
        content: Value,
    ) -> Self {
        let headers: Map<String, Value> = header_names(self.kind)
            .into_iter()
            .map(|name| {
                let place = format!("#/components/headers/{name}");
                (name.to_owned(), json!({ "$ref": place }))
            })
            .collect();
        let mut response = json!({ "description": description, "headers": headers });
        if !content.is_null() {
            response["content"] = content;
        }
        self.answers.push((status, response));
        self
    }

    /// Writes the operation into `paths`.
    pub(super) fn write(self, about: &About, paths: &mut Map<String, Value>) {
        let mut responses = Map::new();
        let reads = self.kind == Kind::Read;
        for (status, response) in self.answers {
            responses.insert(status.to_owned(), response);
        }
        let mut parameters = vec![json!({ "$ref": "#/components/parameters/X-Request-Id" })];
        parameters.extend(self.parameters);
        if reads {
            parameters.push(json!({ "$ref": "#/components/parameters/If-None-Match" }));
            responses.insert(
                "304".to_owned(),
                json!({
                    "description": "The copy that If-None-Match names is still valid.",
                    "headers": {
                        "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" },
                        "ETag": { "$ref": "#/components/headers/ETag" },
                    },
                }),
            );
        }
        for (status, response) in errors::of(self.kind, self.oip) {
            // `/ready` reports its state with an error status, so keep its own response.
            responses.entry(status).or_insert(response);
        }
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "parameters": parameters,
            "responses": responses,
        });
        if !self.description.is_empty() {
            operation["description"] = json!(self.description);
        }
        if let Some(model) = self.model {
            operation["x-model"] = json!(model);
        }
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        // Probes, errors and this document need no credentials.
        if self.kind == Kind::Probe && about.needs_credentials {
            operation["security"] = json!([]);
        }
        let path = paths.entry(self.path).or_insert_with(|| json!({}));
        path[self.method] = operation;
    }
}

/// Returns the names of the headers of an answer.
fn header_names(kind: Kind) -> Vec<&'static str> {
    let mut names = vec!["X-Request-Id"];
    match kind {
        Kind::Call => names.extend([
            "X-Model-Version",
            "X-Model-Version-Reason",
            "X-Prediction-Id",
            "Idempotency-Replayed",
            "RateLimit",
            "RateLimit-Policy",
            "Age",
            "Cache-Status",
            "Deprecation",
            "Sunset",
            "Link",
        ]),
        Kind::Read => names.extend(["ETag", "Cache-Control", "RateLimit", "RateLimit-Policy"]),
        Kind::Probe | Kind::Control => {}
    }
    names
}

/// Returns the written operations, by path and method.
pub(super) fn written(operations: Vec<Operation>, about: &About) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in operations {
        operation.write(about, &mut paths);
    }
    paths
}
