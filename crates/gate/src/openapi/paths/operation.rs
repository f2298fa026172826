//! Represents one operation and writes it into the document.

use super::content::named;
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
    /// Whether the answer has an entity tag.
    is_tagged: bool,
    /// Whether a call may become an operation.
    is_deferrable: bool,
    /// The kind whose errors the operation can return in addition to its own.
    also: Option<Kind>,
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
        is_tagged: kind == Kind::Read,
        is_deferrable: kind == Kind::Call,
        also: None,
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

    /// Describes an answer with an entity tag.
    pub(super) fn tagged(mut self) -> Self {
        self.is_tagged = true;
        self
    }

    /// Describes a call that never becomes an operation, or always does.
    pub(super) fn not_deferrable(mut self) -> Self {
        self.is_deferrable = false;
        self
    }

    /// Adds the errors of another kind.
    pub(super) fn failing_as(mut self, kind: Kind) -> Self {
        self.also = Some(kind);
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
        let mut names = header_names(self.kind);
        if self.is_tagged && self.kind == Kind::Operations {
            names.extend(["ETag", "Cache-Control", "Retry-After"]);
        }
        let headers: Map<String, Value> = names
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

    /// Describes the answer that accepts the call as an operation.
    pub(super) fn accepting(mut self) -> Self {
        let names = [
            "X-Request-Id",
            "Location",
            "Preference-Applied",
            "X-Model-Version",
            "X-Model-Version-Reason",
            "Idempotency-Replayed",
            "RateLimit",
            "RateLimit-Policy",
        ];
        let headers: Map<String, Value> = names
            .into_iter()
            .map(|name| {
                let place = format!("#/components/headers/{name}");
                (name.to_owned(), json!({ "$ref": place }))
            })
            .collect();
        let response = json!({
            "description": "The call is accepted and runs as an operation. With `Accept: text/event-stream` the answer is 200 instead, \
                with the events of the operation, as GET of the operation has them. `operation.created` is the first.",
            "headers": headers,
            "content": named("Operation"),
        });
        self.answers.push(("202", response));
        self
    }

    /// Writes the operation into `paths`.
    pub(super) fn write(mut self, about: &About, paths: &mut Map<String, Value>) {
        if self.is_deferrable {
            self = self.with(&["Prefer"]).accepting();
        }
        let accepts = self.answers.iter().any(|(status, _)| *status == "202");
        if accepts && about.sends_webhooks {
            self = self.with(&["Webhook-Url"]);
        }
        let mut responses = Map::new();
        for (status, response) in self.answers {
            responses.insert(status.to_owned(), response);
        }
        let mut parameters = vec![json!({ "$ref": "#/components/parameters/X-Request-Id" })];
        parameters.extend(self.parameters);
        if self.is_tagged {
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
        for (status, response) in self
            .also
            .map(|kind| errors::of(kind, self.oip))
            .into_iter()
            .flatten()
        {
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
        Kind::Batches => names.extend(["RateLimit", "RateLimit-Policy"]),
        Kind::Probe | Kind::Control | Kind::Operations => {}
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
