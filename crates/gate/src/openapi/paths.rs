//! Writes the operations: those of any model, and those of one.

use super::content::taken;
use super::errors::{self, Kind};
use super::names::{self, component};
use super::schema::reference;
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
        // Cohere's path is none of the protocol's.
        oip: path == "/v2" || (path.starts_with("/v2/") && path != "/v2/rerank"),
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

    /// Says which other content the body may be. It stands beside `content`: of an operation with two media types orval
    /// chooses none, and sends JSON without its content type.
    fn or_taking(mut self, media_types: &[&str], description: &str) -> Self {
        if let Some(body) = &mut self.body {
            body["description"] = json!(description);
            body["x-content-types"] = json!(media_types);
        }
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

/// An answer of `infer`: JSON, or JSON with bytes behind it. Bytes are written as OpenAPI 3.0 has them: generators know that
/// form, and not yet what 3.1 has in its place.
fn infer_answer() -> Value {
    let mut content = named("InferResponse");
    content["application/octet-stream"] = json!({
        "schema": { "type": "string", "format": "binary", "description": BYTES_NOTE },
    });
    content
}

const BYTES_NOTE: &str = "JSON of `Inference-Header-Content-Length` bytes, and behind it the tensors that are sent as bytes.";

/// What a body of `infer` may be besides JSON.
const INFER_BYTES: (&[&str], &str) = (
    &["application/octet-stream"],
    "JSON; or, as `application/octet-stream`, JSON of `Inference-Header-Content-Length` bytes and behind it the tensors that are sent as bytes.",
);

const TENSOR_NOTE: &str = "Bodies may be compressed (`Content-Encoding: gzip` or `zstd`). Nested arrays must be equally long \
on each level, axes of one name equally long in all inputs, and `data` must have as many elements as `shape` says. A body that \
does not meet the contract is answered with 422, which lists everything that is wrong.";

const CALL_PARAMETERS: [&str; 2] = ["Idempotency-Key", "X-Model-Version"];

pub fn tags() -> Value {
    json!([
        { "name": "predict", "description": "Run models" },
        { "name": "models", "description": "List models and their contracts" },
        { "name": "oip", "description": "The Open Inference Protocol v2, with Triton's extensions" },
        { "name": "openai", "description": "OpenAI's form" },
        { "name": "texts", "description": "Classes, ranks and scores of texts, in the forms of vLLM, Text Embeddings Inference and Cohere" },
        { "name": "server", "description": "The server's state and descriptions" },
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
    let html = json!({ "text/html": { "schema": { "type": "string" } } });
    let mut operations = vec![
        operation(
            ("get", "/healthz"),
            "getHealth",
            "server",
            "Check that the process answers",
            Kind::Probe,
        )
        .saying("For a liveness probe. It looks at no model.")
        .answering("200", "It answers.", named("Status")),
        operation(
            ("get", "/ready"),
            "getReady",
            "server",
            "Check that the server takes calls",
            Kind::Probe,
        )
        .saying("For a readiness probe. Shows the state of each model that the caller may know of.")
        .answering("200", "It takes calls.", named("Status"))
        .answering(
            "503",
            "It takes no calls: it loads its models, it is stopping, it is too busy to say, or a model that the operator requires cannot run.",
            named("Status"),
        ),
        operation(
            ("get", "/errors"),
            "listErrors",
            "server",
            "List the errors",
            Kind::Read,
        )
        .saying("The catalogue of errors, with the remedy for each.")
        .answering("200", "All errors.", named("ErrorCatalogue")),
        operation(
            ("get", "/errors/{code}"),
            "getError",
            "server",
            "Get one error of the catalogue",
            Kind::Read,
        )
        .saying("The `type` of an RFC 9457 error leads here.")
        .answering("200", "The error.", named("ErrorEntry")),
        operation(
            ("get", "/openapi.json"),
            "getOpenApi",
            "server",
            "Get this description",
            Kind::Read,
        )
        .saying("Describes the models that the caller may know of.")
        .answering(
            "200",
            "An OpenAPI 3.1 document.",
            as_json(json!({
                "type": "object", "description": "An OpenAPI 3.1 document.", "additionalProperties": true,
            })),
        ),
        operation(
            ("get", "/docs"),
            "getDocs",
            "server",
            "Get the page to read and try the API",
            Kind::Read,
        )
        .saying("One HTML page that loads nothing from elsewhere.")
        .answering("200", "The page.", html),
    ];
    for operation in &mut operations {
        match operation.id.as_str() {
            "getError" => operation.parameters.push(json!({
                "name": "code", "in": "path", "required": true,
                "description": "The error's `code`.",
                "schema": { "type": "string", "enum": Code::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>() },
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
            "Get the caller's own use",
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

/// A call of `:predict` or of a method like it, whichever model it is of.
struct V1Call {
    verb: &'static str,
    /// Its summary for any model, for a version, and for one model, whose name goes in place of `{}`.
    summaries: [&'static str; 3],
    description: &'static str,
    request: &'static str,
    response: &'static str,
}

const PREDICT: V1Call = V1Call {
    verb: "predict",
    summaries: ["Run a model", "Run a version of a model", "Run {}"],
    description: TENSOR_NOTE,
    request: "PredictRequest",
    response: "PredictResponse",
};
const BATCH_PREDICT: V1Call = V1Call {
    verb: "batchPredict",
    summaries: [
        "Run a model on several requests",
        "Run a version of a model on several requests",
        "Run {} on several requests",
    ],
    description: BATCH_NOTE,
    request: "BatchPredictRequest",
    response: "BatchPredictResponse",
};
const EXPLAIN: V1Call = V1Call {
    verb: "explain",
    summaries: [
        "Explain a prediction",
        "Explain a prediction of a version",
        "Explain a prediction of {}",
    ],
    description: EXPLAIN_NOTE,
    request: "PredictRequest",
    response: "ExplainResponse",
};

const BATCH_NOTE: &str = "Each request has its own result, in order; one that is wrong fails alone. The items of all \
requests together must not exceed the model's limit.";

const EXPLAIN_NOTE: &str = "For models whose contract has `[explain]`, one item at a time. Each group of features is hidden \
in turn by a baseline; its attribution is by how much the value of the class falls. The call costs one item for each group, and \
one for the item itself.";

fn v1_models() -> Vec<Operation> {
    let mut operations = vec![
        operation(
            ("get", "/v1/models"),
            "listModels",
            "models",
            "List the models",
            Kind::Read,
        )
        .saying("Those that the caller may know of.")
        .answering(
            "200",
            "All of them, with their contracts.",
            named("ModelList"),
        ),
        operation(
            ("get", "/v1/models/{model}"),
            "getModel",
            "models",
            "Get a model's contract",
            Kind::Read,
        )
        .saying("Inputs, outputs, ranges, labels and limits.")
        .with(&["model"])
        .answering("200", "The contract.", named("Model")),
        operation(
            ("get", "/v1/models/{model}/versions/{version}"),
            "getModelVersion",
            "models",
            "Get the contract of a version",
            Kind::Read,
        )
        .saying("Inputs, outputs, ranges, labels and limits of one version.")
        .with(&["model", "version"])
        .answering("200", "The contract.", named("Model")),
    ];
    for call in [PREDICT, BATCH_PREDICT, EXPLAIN] {
        for pinned in [false, true] {
            let below = if pinned { "/versions/{version}" } else { "" };
            let path = format!("/v1/models/{{model}}{below}:{}", call.verb);
            let id = format!("{}Model{}", call.verb, if pinned { "Version" } else { "" });
            let summary = call.summaries[usize::from(pinned)];
            let mut operation = operation(("post", &path), &id, "predict", summary, Kind::Call)
                .saying(call.description)
                .with(&["model"])
                .with(if pinned { &["version"] } else { &[] })
                .with(&CALL_PARAMETERS)
                .taking(named(call.request))
                .answering("200", "It ran.", named(call.response));
            if call.verb != BATCH_PREDICT.verb {
                operation = operation.or_taking(
                    &["*/*"],
                    "JSON; or, for models with an adapter, the content as it is with its own content type.",
                );
            }
            operation = match call.verb {
                "predict" => operation.with(&["explain", "target"]),
                "explain" => operation.with(&["target"]),
                _ => operation,
            };
            if call.verb == BATCH_PREDICT.verb {
                operation = operation.answering(
                    "207",
                    "Some requests failed; each has its own status.",
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
            "Make vectors of texts",
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
    operations.extend(texts());
    operations
}

/// Calls over texts and pairs of texts; the model is named in the body.
fn texts() -> Vec<Operation> {
    let call = |(path, id, tag): (&'static str, &str, &'static str),
                (summary, description): (&str, &str),
                (request, response, answered): (&str, &str, &str)| {
        operation(("post", path), id, tag, summary, Kind::Call)
            .saying(description)
            .with(&["Idempotency-Key"])
            .taking(named(request))
            .answering("200", answered, named(response))
    };
    let rerank = |path, id, summary| {
        call(
            (path, id, "texts"),
            (
                summary,
                "For models whose adapter scores pairs. Takes Cohere's members, and those of vLLM, Jina and Text Embeddings Inference (`texts`).",
            ),
            (
                "RerankRequest",
                "RerankResponse",
                "The documents, best first.",
            ),
        )
    };
    vec![
        call(
            ("/v1/classify", "classify", "texts"),
            (
                "Classify texts",
                "For models whose adapter gives classes of texts. `input` is vLLM's form, `inputs` that of Text Embeddings Inference.",
            ),
            (
                "ClassifyRequest",
                "ClassifyResponse",
                "The classes of each input, in order.",
            ),
        ),
        call(
            ("/v1/moderations", "createModeration", "openai"),
            (
                "Flag texts by categories",
                "For models whose contract has `[moderation]`.",
            ),
            (
                "ModerationRequest",
                "ModerationResponse",
                "A result for each input, in order.",
            ),
        ),
        rerank(
            "/v1/rerank",
            "rerank",
            "Rank documents by how well they fit a query",
        ),
        rerank(
            "/v2/rerank",
            "rerankV2",
            "Rank documents, at the path of Cohere's client",
        ),
        call(
            ("/v1/score", "score", "texts"),
            (
                "Score pairs of texts",
                "For models whose adapter scores pairs: one text with one or several, or as many with as many.",
            ),
            (
                "ScoreRequest",
                "ScoreResponse",
                "A score for each pair, in order.",
            ),
        ),
    ]
}

fn v2() -> Vec<Operation> {
    let mut operations = vec![
        operation(
            ("get", "/v2"),
            "getServerMetadata",
            "oip",
            "Get the server's name, version and extensions",
            Kind::Read,
        )
        .saying("The protocol's server metadata.")
        .answering(
            "200",
            "Its name, version and extensions.",
            named("ServerMetadata"),
        ),
        operation(
            ("get", "/v2/health/live"),
            "getServerLive",
            "oip",
            "Check that the server is live",
            Kind::Probe,
        )
        .saying("The protocol's liveness probe.")
        .answering("200", "It is live.", named("Status")),
        operation(
            ("get", "/v2/health/ready"),
            "getServerReady",
            "oip",
            "Check that the server is ready",
            Kind::Probe,
        )
        .saying("The protocol's readiness probe: as `/ready`, without the models.")
        .answering("200", "It takes calls.", named("Status"))
        .answering("503", "It takes no calls.", named("Status")),
    ];
    operations.extend(repository());
    for pinned in [false, true] {
        operations.extend(v2_model(pinned));
    }
    operations
}

/// The operations on a model, or on a version of it.
fn v2_model(pinned: bool) -> Vec<Operation> {
    let (base, of, a_model, parameters): (_, _, _, &[&str]) = if pinned {
        (
            "/v2/models/{model}/versions/{version}",
            "ModelVersion",
            "a version of a model",
            &["model", "version"],
        )
    } else {
        ("/v2/models/{model}", "Model", "a model", &["model"])
    };
    let read = |below: &str, id: String, summary: &str, description: &str, schema: &str| {
        let path = format!("{base}{below}");
        let summary = summary.replace("{}", a_model);
        operation(("get", &path), &id, "oip", &summary, Kind::Read)
            .saying(description)
            .with(parameters)
            .answering("200", description, named(schema))
    };
    let call = |below: &str, id: String, summary: &str, description: &str| {
        let path = format!("{base}/{below}");
        let summary = summary.replace("{}", a_model);
        operation(("post", &path), &id, "oip", &summary, Kind::Call)
            .saying(description)
            .with(parameters)
            .with(&CALL_PARAMETERS)
    };
    let events = json!({ "text/event-stream": { "schema": { "type": "string" } } });
    vec![
        read(
            "",
            format!("get{of}Metadata"),
            "Get the inputs and outputs of {}",
            "The protocol's model metadata.",
            "ModelMetadata",
        ),
        read(
            "/ready",
            format!("get{of}Ready"),
            "Check that {} is ready",
            "It is ready; otherwise the answer is 503.",
            "Status",
        ),
        read(
            "/config",
            format!("get{of}Config"),
            "Get the configuration of {}",
            "The configuration in Triton's form.",
            "ModelConfig",
        ),
        read(
            "/stats",
            format!("get{of}Statistics"),
            "Get the statistics of {}",
            "How often it ran, and for how long, in Triton's form.",
            "ModelStatistics",
        ),
        call(
            "generate",
            format!("generate{of}"),
            "Run {} on inputs by name",
            "Triton's generate extension: one object of inputs, one of outputs.",
        )
        .taking(named("GenerateRequest"))
        .answering("200", "It ran.", named("GenerateResponse")),
        call(
            "generate_stream",
            format!("generateStream{of}"),
            "Run {} and answer with an event",
            "As `generate`; the answer is one server-sent event.",
        )
        .taking(named("GenerateRequest"))
        .answering("200", "It ran.", events),
        call(
            "infer",
            format!("infer{of}"),
            "Run {} on tensors",
            TENSOR_NOTE,
        )
        .with(&["Inference-Header-Content-Length"])
        .taking(named("InferRequest"))
        .or_taking(INFER_BYTES.0, INFER_BYTES.1)
        .answering("200", "It ran.", infer_answer()),
    ]
}

/// What is told of the repository of models, and done to it.
fn repository() -> Vec<Operation> {
    let control = |verb: &'static str, id: &str, summary: &str| {
        let path = format!("/v2/repository/models/{{model}}/{verb}");
        operation(("post", &path), id, "oip", summary, Kind::Control)
            .saying("The operator allows it with `control = true` under `[models]`; otherwise the answer is 400.")
            .with(&["model"])
            .taking_if_any(named("RepositoryControl"))
            .answering("200", "It is done.", Value::Null)
    };
    vec![
        operation(
            ("get", "/v2/models/stats"),
            "getStatistics",
            "oip",
            "Get the statistics of all models",
            Kind::Read,
        )
        .saying("Of those that the caller may know of, in Triton's form.")
        .answering(
            "200",
            "How often each ran, and for how long.",
            named("ModelStatistics"),
        ),
        operation(
            ("post", "/v2/repository/index"),
            "listRepository",
            "oip",
            "List the models and their states",
            Kind::Control,
        )
        .saying("Of those that the caller may know of.")
        .taking_if_any(named("RepositoryIndexRequest"))
        .answering(
            "200",
            "One entry for each version.",
            named("RepositoryIndex"),
        ),
        control("load", "loadModel", "Load a model, or load it again"),
        control("unload", "unloadModel", "Unload a model"),
    ]
}

/// The most bytes of the examples beside the methods that are described once for all models.
const MAX_SHARED_EXAMPLE_BYTES: usize = 64 << 10;

/// The examples of calls that are described once for all models: those of the models that find room, by their names.
#[derive(Default)]
pub struct Shared {
    embeddings: Map<String, Value>,
    generate: Map<String, Value>,
    bytes: usize,
}

impl Shared {
    /// Adds a model's examples, where there is room.
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

    /// Puts the examples where they belong.
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

/// The operations of one model.
pub fn of_model(model: &Described<'_>, about: &About) -> Map<String, Value> {
    let Described { name, contract, .. } = *model;
    let base = format!("/v1/models/{name}");
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
        let media_types: &[&str] = match taken(&adapter.name) {
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
            "JSON; or the content as it is, for the adapter `{}`: {}.",
            adapter.name,
            listed.join(", ")
        );
        raw = Some((media_types, note));
    }
    if !examples.is_empty() {
        predict["application/json"]["examples"] = Value::Object(examples);
    }
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
            "It ran.",
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
        .answering("200", "It ran.", infer_answer()),
    ];
    if explains {
        operations.push(
            or_raw(v1_call(&EXPLAIN).with(&["target"]).taking(predict)).answering(
                "200",
                "It ran.",
                named(EXPLAIN.response),
            ),
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
            "schema": { "type": "string", "enum": ["true", "false"] },
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
