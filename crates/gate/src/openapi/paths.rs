//! Writes the operations: those of any model, and those of one.

use super::content::taken;
use super::errors::{self, Kind};
use super::schema::{component, reference};
use super::{About, Described, example};
use penstock_core::Code;
use serde_json::{Map, Value, json};

/// One operation, before it is written.
struct Operation {
    path: String,
    method: &'static str,
    id: String,
    tag: &'static str,
    summary: String,
    description: String,
    kind: Kind,
    /// Errors have the Open Inference Protocol's form.
    oip: bool,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// The one model it is of.
    model: Option<String>,
    /// Status and response.
    answers: Vec<(&'static str, Value)>,
}

/// What kind of errors and answers an operation has.
fn operation(
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
        oip: path == "/v2" || path.starts_with("/v2/"),
        parameters: Vec::new(),
        body: None,
        model: None,
        answers: Vec::new(),
    }
}

impl Operation {
    fn saying(mut self, description: &str) -> Self {
        description.clone_into(&mut self.description);
        self
    }

    fn with(mut self, parameters: &[&str]) -> Self {
        let place = |name: &&str| json!({ "$ref": format!("#/components/parameters/{name}") });
        self.parameters.extend(parameters.iter().map(place));
        self
    }

    fn of_model(mut self, model: &str) -> Self {
        self.model = Some(model.to_owned());
        self
    }

    fn taking(mut self, content: Value) -> Self {
        self.body = Some(json!({ "required": true, "content": content }));
        self
    }

    fn taking_if_any(mut self, content: Value) -> Self {
        self.body = Some(json!({ "content": content }));
        self
    }

    fn answering(mut self, status: &'static str, description: &str, content: Value) -> Self {
        let mut names = vec!["X-Request-Id"];
        match self.kind {
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

    /// Puts the operation into `paths`.
    fn write(self, about: &About, paths: &mut Map<String, Value>) {
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
                    "description": "The copy that If-None-Match names is still good.",
                    "headers": {
                        "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" },
                        "ETag": { "$ref": "#/components/headers/ETag" },
                    },
                }),
            );
        }
        for (status, response) in errors::of(self.kind, self.oip) {
            // `/ready` says with a status of errors how things stand.
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
        // Probes, errors and this page are for everybody.
        if self.kind == Kind::Probe && about.needs_credentials {
            operation["security"] = json!([]);
        }
        let path = paths.entry(self.path).or_insert_with(|| json!({}));
        path[self.method] = operation;
    }
}

fn written(operations: Vec<Operation>, about: &About) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in operations {
        operation.write(about, &mut paths);
    }
    paths
}

/// JSON content of a schema.
fn as_json(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// JSON content of a schema that has a name.
fn named(name: &str) -> Value {
    as_json(reference(name))
}

/// An answer of `infer`: JSON, or JSON with bytes behind it.
fn tensors_content(schema: Value) -> Value {
    json!({
        "application/json": { "schema": schema },
        "application/octet-stream": {
            "schema": {
                "description": "JSON of `Inference-Header-Content-Length` bytes, and behind it the tensors that are sent as bytes.",
            },
        },
    })
}

const TENSOR_NOTE: &str = "Bodies may be compressed (`Content-Encoding: gzip` or `zstd`). Nested arrays must be equally long \
on each level, axes of one name equally long in all inputs, and `data` must have as many elements as `shape` says; what does \
not meet the contract is answered with 422, which lists everything that is wrong.";

const CALL_PARAMETERS: [&str; 2] = ["Idempotency-Key", "X-Model-Version"];

pub fn tags() -> Value {
    json!([
        { "name": "predict", "description": "Calls of models" },
        { "name": "models", "description": "What models there are" },
        { "name": "oip", "description": "The Open Inference Protocol v2, with Triton's extensions" },
        { "name": "openai", "description": "OpenAI's form" },
        { "name": "server", "description": "How the server does, and what it says of itself" },
    ])
}

/// The operations of any model, and of none.
pub fn generic(about: &About) -> Map<String, Value> {
    let mut operations = server(about);
    operations.extend(v1_models());
    operations.extend(v2());
    written(operations, about)
}

fn server(about: &About) -> Vec<Operation> {
    let object = || as_json(json!({ "type": "object" }));
    let html = json!({ "text/html": { "schema": { "type": "string" } } });
    let mut operations = vec![
        operation(
            ("get", "/healthz"),
            "healthz",
            "server",
            "Whether the process answers",
            Kind::Probe,
        )
        .answering("200", "It does.", object()),
        operation(
            ("get", "/ready"),
            "ready",
            "server",
            "Whether the server takes calls",
            Kind::Probe,
        )
        .saying("Says how each model is that the caller may know of.")
        .answering("200", "It does.", object())
        .answering(
            "503",
            "It does not: it loads its models, it is stopping, it is too busy to say, or a model that the operator requires cannot run.",
            object(),
        ),
        operation(
            ("get", "/errors"),
            "listErrors",
            "server",
            "The catalogue of errors",
            Kind::Read,
        )
        .answering("200", "All errors.", object()),
        operation(
            ("get", "/errors/{code}"),
            "getError",
            "server",
            "One error of the catalogue",
            Kind::Read,
        )
        .answering("200", "The error.", object()),
        operation(
            ("get", "/openapi.json"),
            "getOpenApi",
            "server",
            "This description",
            Kind::Read,
        )
        .answering("200", "An OpenAPI 3.1 document.", object()),
        operation(
            ("get", "/docs"),
            "getDocs",
            "server",
            "A page to read the API and try it",
            Kind::Read,
        )
        .answering("200", "The page.", html),
    ];
    for operation in &mut operations {
        match operation.id.as_str() {
            "getError" => operation.parameters.push(json!({
                "name": "code", "in": "path", "required": true,
                "schema": { "enum": Code::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>() },
            })),
            "getOpenApi" => operation.parameters.push(json!({
                "name": "model", "in": "query",
                "description": "Describes this model alone.",
                "schema": { "type": "string" },
            })),
            _ => {}
        }
    }
    if about.counts_usage {
        let mut usage = operation(
            ("get", "/v1/usage"),
            "getUsage",
            "server",
            "The caller's own use",
            Kind::Read,
        )
        .saying("By day, model and API key; at most a year at once.")
        .answering("200", "A page of it.", named("Usage"));
        for (name, schema, description) in [
            (
                "from",
                json!({ "type": "string", "format": "date" }),
                "The first day; a month before `to` where it is left out.",
            ),
            (
                "to",
                json!({ "type": "string", "format": "date" }),
                "The last day; today where it is left out.",
            ),
            (
                "page_token",
                json!({ "type": "string" }),
                "`next_page_token` of the page before.",
            ),
        ] {
            usage.parameters.push(json!({
                "name": name, "in": "query", "schema": schema, "description": description,
            }));
        }
        operations.push(usage);
    }
    operations
}

/// What every call of `:predict` and its kin is, whichever model it is of.
struct V1Call {
    verb: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    request: &'static str,
    response: &'static str,
}

const V1_CALLS: [V1Call; 3] = [
    V1Call {
        verb: "predict",
        id: "predict",
        summary: "Run the model",
        description: TENSOR_NOTE,
        request: "PredictRequest",
        response: "PredictResponse",
    },
    V1Call {
        verb: "batchPredict",
        id: "batchPredict",
        summary: "Run the model on several requests, each answered for itself",
        description: "One bad request fails alone. Items of all requests together must not exceed the model's limit.",
        request: "BatchPredictRequest",
        response: "BatchPredictResponse",
    },
    V1Call {
        verb: "explain",
        id: "explain",
        summary: "How much each group of an input's features accounts for",
        description: EXPLAIN_NOTE,
        request: "PredictRequest",
        response: "ExplainResponse",
    },
];

const EXPLAIN_NOTE: &str = "For models whose contract has `[explain]`, one item at a time. Each group of features is hidden \
in turn by a baseline; its attribution is by how much the value of the class falls. It costs as many items as there are groups, \
and one.";

fn v1_models() -> Vec<Operation> {
    let mut operations = vec![
        operation(
            ("get", "/v1/models"),
            "listModels",
            "models",
            "The models the caller may know of",
            Kind::Read,
        )
        .answering(
            "200",
            "All of them, with their contracts.",
            named("ModelList"),
        ),
        operation(
            ("get", "/v1/models/{model}"),
            "getModel",
            "models",
            "A model's contract",
            Kind::Read,
        )
        .with(&["model"])
        .answering("200", "The contract.", named("Model")),
        operation(
            ("get", "/v1/models/{model}/versions/{version}"),
            "getModelVersion",
            "models",
            "The contract of a version",
            Kind::Read,
        )
        .with(&["model", "version"])
        .answering("200", "The contract.", named("Model")),
    ];
    for call in V1_CALLS {
        for pinned in [false, true] {
            let below = if pinned { "/versions/{version}" } else { "" };
            let path = format!("/v1/models/{{model}}{below}:{}", call.verb);
            let id = format!("{}{}", call.id, if pinned { "Version" } else { "" });
            let mut content = named(call.request);
            if call.verb != "batchPredict" {
                content["*/*"] = json!({
                    "schema": { "description": "Content as it is, for models with an adapter." },
                });
            }
            let mut operation =
                operation(("post", &path), &id, "predict", call.summary, Kind::Call)
                    .saying(call.description)
                    .with(&["model"])
                    .with(if pinned { &["version"] } else { &[] })
                    .with(&CALL_PARAMETERS)
                    .taking(content)
                    .answering("200", "It ran.", named(call.response));
            operation = match call.verb {
                "predict" => operation.with(&["explain", "target"]),
                "explain" => operation.with(&["target"]),
                _ => operation,
            };
            if call.verb == "batchPredict" {
                operation = operation.answering(
                    "207",
                    "Some requests failed; each says how.",
                    named(call.response),
                );
            }
            operations.push(operation);
        }
    }
    operations.push(
        operation(
            ("post", "/v1/embeddings"),
            "createEmbeddings",
            "openai",
            "Embeddings of texts",
            Kind::Call,
        )
        .saying("For models whose adapter makes vectors of text. `model` is the model's name.")
        .with(&["Idempotency-Key"])
        .taking(named("EmbeddingRequest"))
        .answering(
            "200",
            "One vector for each input, in order.",
            named("EmbeddingResponse"),
        ),
    );
    operations
}

fn v2() -> Vec<Operation> {
    let object = || as_json(json!({ "type": "object" }));
    let mut operations = vec![
        operation(
            ("get", "/v2"),
            "serverMetadata",
            "oip",
            "What the server is",
            Kind::Read,
        )
        .answering(
            "200",
            "Its name, version and extensions.",
            named("ServerMetadata"),
        ),
        operation(
            ("get", "/v2/health/live"),
            "serverLive",
            "oip",
            "Whether the server answers",
            Kind::Probe,
        )
        .answering("200", "It does.", object()),
        operation(
            ("get", "/v2/health/ready"),
            "serverReady",
            "oip",
            "Whether every model could run now",
            Kind::Probe,
        )
        .answering("200", "All could.", object())
        .answering(
            "503",
            "Some could not, or the server is too busy to say.",
            object(),
        ),
    ];
    operations.extend(repository());
    for pinned in [false, true] {
        let base = if pinned {
            "/v2/models/{model}/versions/{version}"
        } else {
            "/v2/models/{model}"
        };
        let of = if pinned { "Version" } else { "" };
        let parameters: &[&str] = if pinned {
            &["model", "version"]
        } else {
            &["model"]
        };
        let read = |below: &str, id: &str, summary: &str, schema: &str| {
            operation(
                ("get", &format!("{base}{below}")),
                &format!("{id}{of}"),
                "oip",
                summary,
                Kind::Read,
            )
            .with(parameters)
            .answering("200", "What was asked for.", named(schema))
        };
        operations.push(read(
            "",
            "modelMetadata",
            "A model's inputs and outputs",
            "ModelMetadata",
        ));
        operations.push(
            operation(
                ("get", &format!("{base}/ready")),
                &format!("modelReady{of}"),
                "oip",
                "Whether a model could run now",
                Kind::Read,
            )
            .with(parameters)
            .answering("200", "It could.", object()),
        );
        operations.push(read(
            "/config",
            "modelConfig",
            "A model's configuration in Triton's form",
            "ModelConfig",
        ));
        operations.push(read(
            "/stats",
            "modelStatistics",
            "How often a model ran, and for how long",
            "ModelStatistics",
        ));
        let events = json!({ "text/event-stream": { "schema": { "type": "string" } } });
        for (verb, id, summary, content) in [
            (
                "generate",
                "generate",
                "Run the model on inputs by name",
                named("GenerateResponse"),
            ),
            (
                "generate_stream",
                "generateStream",
                "The same, answered with server-sent events",
                events,
            ),
        ] {
            operations.push(
                operation(
                    ("post", &format!("{base}/{verb}")),
                    &format!("{id}{of}"),
                    "oip",
                    summary,
                    Kind::Call,
                )
                .saying("Triton's generate extension: one object of inputs, one of outputs.")
                .with(parameters)
                .with(&CALL_PARAMETERS)
                .taking(named("GenerateRequest"))
                .answering("200", "It ran.", content),
            );
        }
        operations.push(
            operation(
                ("post", &format!("{base}/infer")),
                &format!("infer{of}"),
                "oip",
                "Run the model",
                Kind::Call,
            )
            .saying(TENSOR_NOTE)
            .with(parameters)
            .with(&CALL_PARAMETERS)
            .with(&["Inference-Header-Content-Length"])
            .taking(tensors_content(reference("InferRequest")))
            .answering(
                "200",
                "It ran.",
                tensors_content(reference("InferResponse")),
            ),
        );
    }
    operations
}

/// What is told of the repository of models, and done to it.
fn repository() -> Vec<Operation> {
    let control = |verb: &'static str, id: &str, summary: &str| {
        let path = format!("/v2/repository/models/{{model}}/{verb}");
        operation(("post", &path), id, "oip", summary, Kind::Control)
            .with(&["model"])
            .taking_if_any(named("RepositoryControl"))
            .answering("200", "It is done.", Value::Null)
    };
    vec![
        operation(
            ("get", "/v2/models/stats"),
            "statistics",
            "oip",
            "How often all models ran, and for how long",
            Kind::Read,
        )
        .answering("200", "What was asked for.", named("ModelStatistics")),
        operation(
            ("post", "/v2/repository/index"),
            "repositoryIndex",
            "oip",
            "The models there are, and in which state",
            Kind::Control,
        )
        .taking_if_any(named("RepositoryIndexRequest"))
        .answering(
            "200",
            "One entry for each version.",
            named("RepositoryIndex"),
        ),
        control("load", "loadModel", "Load a model, or load it anew"),
        control("unload", "unloadModel", "Let go of a model"),
    ]
}

/// Adds a model that gives embeddings to those that `/v1/embeddings` has an example for.
pub fn offer_embeddings(paths: &mut Map<String, Value>, model: &Described<'_>) {
    let adapter = model.contract.adapter.as_ref();
    if !adapter.is_some_and(|adapter| taken(&adapter.name).is_some_and(|taken| taken.embeds)) {
        return;
    }
    let input = ["A cat sat on the mat.", "A dog lay on the rug."];
    let body = json!({ "model": model.name, "input": input });
    if let Some(path) = paths.get_mut("/v1/embeddings") {
        let content = &mut path["post"]["requestBody"]["content"]["application/json"];
        content["examples"][model.name] = json!({ "value": body });
    }
}

/// The operations of one model.
pub fn of_model(model: &Described<'_>, about: &About) -> Map<String, Value> {
    let Described { name, contract, .. } = *model;
    let base = format!("/v1/models/{name}");
    let described = format!("{}\n\n{TENSOR_NOTE}", contract.description);
    let mut predict = named(&component(name, "PredictRequest"));
    let mut infer = tensors_content(reference(&component(name, "InferRequest")));
    let mut batch = named(&component(name, "BatchPredictRequest"));
    let mut examples = Map::new();
    if let Some(body) = example::predict(contract) {
        let requests = json!({ "requests": [&body] });
        batch["application/json"]["examples"] = json!({ "one": { "value": requests } });
        examples.insert("tensors".to_owned(), json!({ "value": body }));
    }
    if let Some(body) = example::infer(contract) {
        infer["application/json"]["examples"] = json!({ "tensors": { "value": body } });
    }
    if let Some(adapter) = &contract.adapter {
        let description = format!("Content as it is, for the adapter `{}`.", adapter.name);
        let schema = json!({ "schema": { "description": description } });
        let media_types = match taken(&adapter.name) {
            Some(taken) => {
                let body = json!({ "content": [(taken.part)()] });
                examples.insert("content".to_owned(), json!({ "value": body }));
                taken.media_types
            }
            None => &["*/*"],
        };
        for media_type in media_types {
            predict[*media_type] = schema.clone();
        }
    }
    if !examples.is_empty() {
        predict["application/json"]["examples"] = Value::Object(examples);
    }
    let call = |path: String, verb: &str, tag: &'static str| {
        operation(
            ("post", &path),
            &format!("{verb}_{name}"),
            tag,
            &format!("Run {name}"),
            Kind::Call,
        )
        .saying(&described)
        .of_model(name)
        .with(&CALL_PARAMETERS)
    };
    let response = component(name, "PredictResponse");
    let explains = contract.explain.is_some();
    let asked: &[&str] = if explains {
        &["explain", "target"]
    } else {
        &[]
    };
    let mut operations = vec![
        call(format!("{base}:predict"), "predict", "predict")
            .with(asked)
            .taking(predict.clone())
            .answering("200", "It ran.", named(&response)),
        call(format!("{base}:batchPredict"), "batchPredict", "predict")
            .taking(batch)
            .answering("200", "All requests ran.", named("BatchPredictResponse"))
            .answering(
                "207",
                "Some requests failed; each says how.",
                named("BatchPredictResponse"),
            ),
        call(format!("/v2/models/{name}/infer"), "infer", "oip")
            .with(&["Inference-Header-Content-Length"])
            .taking(infer)
            .answering(
                "200",
                "It ran.",
                tensors_content(reference("InferResponse")),
            ),
    ];
    if explains {
        let explain = call(format!("{base}:explain"), "explain", "predict");
        operations.push(
            explain
                .saying(EXPLAIN_NOTE)
                .with(&["target"])
                .taking(predict)
                .answering("200", "It ran.", named("ExplainResponse")),
        );
    }
    written(operations, about)
}

pub fn parameters() -> Value {
    json!({
        "model": {
            "name": "model", "in": "path", "required": true,
            "description": "A model's name, of which `/v1/models` has the list.",
            "schema": { "type": "string" },
        },
        "version": {
            "name": "version", "in": "path", "required": true,
            "description": "One of the model's versions, or an alias of one.",
            "schema": { "type": "string" },
        },
        "explain": {
            "name": "explain", "in": "query",
            "description": "Whether the answer has an `explanation` beside its prediction.",
            "schema": { "enum": ["true", "false"] },
        },
        "target": {
            "name": "target", "in": "query",
            "description": "The class whose value is explained, by label or number; the likeliest where it is left out.",
            "schema": { "type": "string" },
        },
        "X-Request-Id": {
            "name": "X-Request-Id", "in": "header",
            "description": "The caller's name for the request, repeated in the answer; one is made where it is left out or of no use.",
            "schema": { "type": "string" },
        },
        "X-Model-Version": {
            "name": "X-Model-Version", "in": "header",
            "description": "The version that is to answer, where the path names none.",
            "schema": { "type": "string" },
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key", "in": "header",
            "description": "Chosen once for each call and repeated with each retry; the call is made once, and retries get its answer.",
            "schema": {
                "type": "string",
                "pattern": "^([!#-+\\--:<-~]{1,255}|\"([ !#-\\[\\]-~]|\\\\[\"\\\\]){1,255}\")$",
            },
        },
        "If-None-Match": {
            "name": "If-None-Match", "in": "header",
            "description": "Entity tags of copies the caller holds; 304 where one is still good.",
            "schema": { "type": "string" },
        },
        "Inference-Header-Content-Length": {
            "name": "Inference-Header-Content-Length", "in": "header",
            "description": "Bytes of JSON at the beginning of the body; tensors that are sent as bytes stand behind it.",
            "schema": { "type": "integer", "minimum": 0 },
        },
    })
}

pub fn headers() -> Value {
    let text =
        |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let number = |description: &str| json!({ "description": description, "schema": { "type": "integer", "minimum": 0 } });
    json!({
        "X-Request-Id": text("Names the request; to be told to the operator."),
        "X-Model-Version": text("The version that answered."),
        "X-Model-Version-Reason": text("Why that version, in a word."),
        "X-Prediction-Id": text("Names the prediction for good."),
        "Idempotency-Replayed": text("`true` where the call was made before and this is its answer."),
        "RateLimit": text("How each limit stands: `\"name\";r=<left>;t=<seconds>`."),
        "RateLimit-Policy": text("The limits that apply: `\"name\";q=<quota>;w=<seconds>`."),
        "Retry-After": number("Seconds after which a retry has a chance."),
        "ETag": text("Names this body in this content coding."),
        "Cache-Control": text("Whether the answer may be kept."),
        "Allow": text("The methods the path takes."),
        "Accept-Encoding": text("The content codings that are taken."),
        "WWW-Authenticate": text("Which credentials would do."),
        "Age": number("Seconds since the result was computed, where it was kept."),
        "Cache-Status": text("Whether the result was kept from an earlier call (RFC 9211)."),
        "Deprecation": text("Since when the version is on its way out (RFC 9745)."),
        "Sunset": text("Until when the version answers (RFC 8594)."),
        "Link": text("The version to use in its place."),
    })
}
