//! Decides which route a path and a method select. The logic is pure: it knows the API's paths and no models.
//!
//! Paths follow the Open Inference Protocol v2 (`/v2/…`) and Google's AIP-136 custom methods
//! (`/v1/models/{m}:predict`).

use penstock_core::{Code, Problem, RouteKind};
use penstock_policy::operations::notes::Form;

/// The route that a request selects. Model names and versions are percent-decoded but not validated.
///
/// ```
/// use penstock_core::{Code, RouteKind};
/// use penstock_gate::route::{Route, route, target};
///
/// let predict = route("POST", "/v1/models/digits@2:predict").unwrap();
/// assert_eq!(predict, Route::Predict(target("digits", Some("2"))));
/// assert_eq!(predict.kind(), RouteKind::Predict);
/// assert_eq!(predict.model(), Some("digits"));
///
/// let refused = route("GET", "/v1/models/digits:predict").unwrap_err();
/// assert_eq!(refused.code, Code::MethodNotAllowed);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The path `/healthz`: liveness of the process.
    Healthz,
    /// The path `/ready`: success if the host takes work and every required model could run now.
    Ready,
    /// The path `/errors`: the catalogue of errors.
    ErrorCatalogue,
    /// The path `/errors/{code}`: one entry of the catalogue of errors.
    ErrorEntry(String),
    /// The path `/openapi.json`: the OpenAPI description of the API.
    OpenApi,
    /// The path `/docs`: a page on which the API description can be read and tried.
    Docs,
    /// The path `/.well-known/penstock/webhook-keys`: the public keys of the signatures of webhooks.
    WebhookKeys,
    /// The path `/v1/operations`: the caller's operations.
    OperationList(OperationForm),
    /// The path `/v1/operations/{id}`, to read one operation.
    Operation(OperationTarget),
    /// The same path with the method `DELETE`: deletes an operation that has ended.
    OperationDelete(OperationTarget),
    /// The path `/v1/operations/{id}:cancel`: asks for the end of an operation.
    OperationCancel(OperationTarget),
    /// The path `/v1/operations/{id}:wait`: answers when the operation has ended.
    OperationWait(OperationTarget),
    /// The path `/v1/operations/{id}:announce`: sends the webhook again.
    OperationAnnounce(OperationTarget),
    /// The path `/v1/operations/{id}/response`: the answer that a synchronous call would have got.
    OperationResponse(OperationTarget),
    /// The path `/v1/files`: the caller's files, and the upload of one.
    FileList,
    /// The path `/v1/files/{id}`: one file, to read or to delete.
    File(String),
    /// The path `/v1/files/{id}/content`: the content of a file.
    FileContent(String),
    /// The path `/v1/batches`: the caller's batches, and the creation of one.
    BatchList,
    /// The path `/v1/batches/{id}`: one batch.
    Batch(String),
    /// The path `/v1/batches/{id}/cancel`: asks for the end of a batch.
    BatchCancel(String),
    /// The path `/v1/usage`: the caller's own usage.
    Usage,
    /// The path `/v1/models`: the models that the caller may see.
    ModelList,
    /// `/v1/models/{m}[/versions/{v}]`.
    Model(Target),
    /// `/v1/models/{m}[/versions/{v}]:predict`.
    Predict(Target),
    /// `/v1/models/{m}[/versions/{v}]:batchPredict`.
    BatchPredict(Target),
    /// `/v1/models/{m}[/versions/{v}]:predictAsync`: a prediction as an operation.
    PredictAsync(Target),
    /// `/v1/models/{m}[/versions/{v}]:batchPredictAsync`: a batch as an operation.
    BatchPredictAsync(Target),
    /// `/v1/models/{m}[/versions/{v}]:explain`.
    Explain(Target),
    /// `/v1/embeddings`; the model is named in the body.
    Embeddings(Target),
    /// `/v1/classify`; the model is named in the body.
    Classify(Target),
    /// `/v1/moderations`; the model is named in the body.
    Moderations(Target),
    /// `/v1/rerank`, and Cohere's `/v2/rerank`; the model is named in the body.
    Rerank(Target),
    /// `/v1/score`; the model is named in the body.
    Score(Target),
    /// The path `/v2`: the server's name, version and extensions.
    ServerMetadata,
    /// The path `/v2/health/live`: liveness of the process.
    ServerLive,
    /// The path `/v2/health/ready`: readiness of the server and its required models.
    ServerReady,
    /// `/v2/models/{m}[/versions/{v}]`.
    ModelMetadata(Target),
    /// `/v2/models/{m}[/versions/{v}]/ready`.
    ModelReady(Target),
    /// `/v2/models/{m}[/versions/{v}]/config`.
    ModelConfig(Target),
    /// `/v2/models/{m}[/versions/{v}]/infer`.
    Infer(Target),
    /// `/v2/models/{m}[/versions/{v}]/generate`.
    Generate(Target),
    /// `/v2/models/{m}[/versions/{v}]/generate_stream`.
    GenerateStream(Target),
    /// `/v2/models[/{m}[/versions/{v}]]/stats`: statistics of one model, or of all.
    Statistics(Option<Target>),
    /// The path `/v2/repository/index`: the models and their states. The body can narrow the list.
    RepositoryIndex {
        /// Lists only the models that are ready.
        ready: bool,
    },
    /// The path `/v2/repository/models/{m}/load`: loads or reloads a model.
    RepositoryLoad(String),
    /// The path `/v2/repository/models/{m}/unload`: unloads a model.
    RepositoryUnload(String),
    /// A path of a Triton extension that the server does not support.
    Extension(Extension),
}

/// A Triton extension that lets callers access the server's machine or change its settings for all callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Tensors in shared memory: paths below `/v2/systemsharedmemory/`.
    SystemSharedMemory,
    /// Tensors in the memory of a GPU: paths below `/v2/cudasharedmemory/`.
    CudaSharedMemory,
    /// `/v2/trace/setting` and `/v2/models/{m}/trace/setting`.
    Trace,
    /// The settings of the log: `/v2/logging`.
    Logging,
}

impl Extension {
    /// Returns the 501 problem that names the extension and the alternative.
    pub fn refusal(self) -> Problem {
        let message = match self {
            Self::SystemSharedMemory => {
                "the system shared memory extension is not supported; send and ask for tensors in the body"
            }
            Self::CudaSharedMemory => {
                "the CUDA shared memory extension is not supported; send and ask for tensors in the body"
            }
            Self::Trace => {
                "the trace extension is not supported; send a `traceparent` header, and find the call in the server's log"
            }
            Self::Logging => {
                "the logging extension is not supported; the operator sets the log with RUST_LOG when the server starts"
            }
        };
        Problem::new(Code::NotSupported, message)
    }
}

/// A model and an optional pinned version, as the caller sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The model's name as sent.
    pub model: String,
    /// The version or alias as sent; `None` if the path names none.
    pub version: Option<String>,
}

/// The form in which operations are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationForm {
    /// The paths below `/v1/operations`: plain members.
    Plain,
    /// The paths below `/v1/tenants/{tenant}/operations`: the JSON of `google.longrunning.Operation`, for Google's client
    /// libraries.
    Google {
        /// The name of the tenant as sent.
        tenant: String,
    },
    /// The messages of `google.longrunning.Operations` over gRPC.
    Grpc {
        /// The name of the tenant as sent.
        tenant: String,
    },
}

impl OperationForm {
    /// Returns the tenant that the caller names; `None` in a form without one.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Plain => None,
            Self::Google { tenant } | Self::Grpc { tenant } => Some(tenant),
        }
    }

    /// Returns the word for the form in orders of the host.
    pub fn name(&self) -> Form {
        match self {
            Self::Plain => Form::Plain,
            Self::Google { .. } => Form::Google,
            Self::Grpc { .. } => Form::Grpc,
        }
    }

    /// Returns the form that an order of the host names, for an operation of a tenant.
    pub fn of(form: Form, tenant: String) -> Self {
        match form {
            Form::Plain => Self::Plain,
            Form::Google => Self::Google { tenant },
            Form::Grpc => Self::Grpc { tenant },
        }
    }
}

/// An operation, as the caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationTarget {
    /// The id of the operation as sent.
    pub id: String,
    /// The form of the answer.
    pub form: OperationForm,
}

/// The media type of a result that is a protobuf message.
pub(crate) const MESSAGE_TYPE: &str = "application/protobuf";

const READ: &str = "GET, HEAD";
const READ_OR_DELETE: &str = "GET, HEAD, DELETE";
const CALL: &str = "POST";
const BOTH: &str = "GET, HEAD, POST";

impl Route {
    /// Returns whether the route calls a model.
    pub fn is_call(&self) -> bool {
        matches!(
            self,
            Route::Predict(_)
                | Route::BatchPredict(_)
                | Route::PredictAsync(_)
                | Route::BatchPredictAsync(_)
                | Route::Explain(_)
                | Route::Embeddings(_)
                | Route::Classify(_)
                | Route::Moderations(_)
                | Route::Rerank(_)
                | Route::Score(_)
                | Route::Infer(_)
                | Route::Generate(_)
                | Route::GenerateStream(_)
        )
    }

    /// Returns the kind of route that policies name.
    pub fn kind(&self) -> RouteKind {
        match self {
            Route::Predict(_)
            | Route::BatchPredict(_)
            | Route::PredictAsync(_)
            | Route::BatchPredictAsync(_) => RouteKind::Predict,
            Route::OperationList(_)
            | Route::Operation(_)
            | Route::OperationDelete(_)
            | Route::OperationCancel(_)
            | Route::OperationWait(_)
            | Route::OperationAnnounce(_)
            | Route::OperationResponse(_)
            | Route::FileList
            | Route::File(_)
            | Route::FileContent(_)
            | Route::BatchList
            | Route::Batch(_)
            | Route::BatchCancel(_) => RouteKind::Operations,
            Route::Explain(_) => RouteKind::Explain,
            Route::Embeddings(_) => RouteKind::Embeddings,
            Route::Classify(_) => RouteKind::Classify,
            Route::Moderations(_) => RouteKind::Moderations,
            Route::Rerank(_) => RouteKind::Rerank,
            Route::Score(_) => RouteKind::Score,
            Route::Infer(_) | Route::Generate(_) | Route::GenerateStream(_) => RouteKind::Infer,
            Route::RepositoryLoad(_) | Route::RepositoryUnload(_) => RouteKind::Repository,
            Route::Usage => RouteKind::Usage,
            Route::Ready => RouteKind::Ready,
            _ => RouteKind::Models,
        }
    }

    /// Returns the model's name as sent; `None` if the route concerns no single model.
    pub fn model(&self) -> Option<&str> {
        match self {
            Route::Predict(target)
            | Route::BatchPredict(target)
            | Route::PredictAsync(target)
            | Route::BatchPredictAsync(target)
            | Route::Explain(target)
            | Route::Infer(target)
            | Route::Generate(target)
            | Route::GenerateStream(target)
            | Route::Model(target)
            | Route::ModelMetadata(target)
            | Route::ModelConfig(target)
            | Route::ModelReady(target)
            | Route::Statistics(Some(target)) => Some(&target.model),
            // The body names the model. The name is empty until the body is read.
            Route::Embeddings(target)
            | Route::Classify(target)
            | Route::Moderations(target)
            | Route::Rerank(target)
            | Route::Score(target) => (!target.model.is_empty()).then_some(&target.model),
            Route::RepositoryLoad(model) | Route::RepositoryUnload(model) => Some(model),
            _ => None,
        }
    }

    /// Returns the target to fill in from the body; `None` if the path names the model, or the route has no model.
    pub fn named_in_body(&mut self) -> Option<&mut Target> {
        match self {
            Route::Embeddings(target)
            | Route::Classify(target)
            | Route::Moderations(target)
            | Route::Rerank(target)
            | Route::Score(target) => Some(target),
            _ => None,
        }
    }

    /// Returns the media types that the route can answer with.
    pub fn media_types(&self) -> &'static [&'static str] {
        match self {
            Route::Docs => &["text/html"],
            Route::Infer(_) => &["application/json", "application/octet-stream"],
            Route::GenerateStream(_) => &["text/event-stream"],
            // OpenAI's clients ask for `application/binary`.
            Route::FileContent(_) => &[
                "application/jsonl",
                "application/binary",
                "application/octet-stream",
            ],
            // It has the type that the call asked for. The result of a call over gRPC is its message.
            Route::OperationResponse(_) => {
                &["application/json", "application/octet-stream", MESSAGE_TYPE]
            }
            _ => &["application/json"],
        }
    }

    /// Returns whether the answer may be the event stream of an operation, instead of one of [`Route::media_types`].
    pub fn may_be_streamed(&self, method: &str) -> bool {
        match self {
            Route::GenerateStream(_) => false,
            Route::Operation(_) => matches!(method, "GET" | "HEAD"),
            route => route.is_call(),
        }
    }

    /// Returns the methods of this route in the syntax of an `Allow` header.
    pub fn allow(&self) -> &'static str {
        match self {
            route if route.is_call() => CALL,
            Route::RepositoryIndex { .. }
            | Route::RepositoryLoad(_)
            | Route::RepositoryUnload(_) => CALL,
            Route::Operation(_) | Route::OperationDelete(_) | Route::File(_) => READ_OR_DELETE,
            Route::OperationCancel(_)
            | Route::OperationWait(_)
            | Route::OperationAnnounce(_)
            | Route::BatchCancel(_) => CALL,
            Route::FileList | Route::BatchList | Route::Extension(_) => BOTH,
            _ => READ,
        }
    }
}

/// Returns whether a parameter of a load would replace the contract or the model's files.
pub(crate) fn replaces_model(name: &str) -> bool {
    name == "config" || name.starts_with("file:")
}

/// The most segments of any path of the API. A longer path has no route.
const MAX_SEGMENTS: usize = 8;

/// Finds the route of `path`, then checks `method` against it. Every route takes `OPTIONS`.
pub fn route(method: &str, path: &str) -> Result<Route, Problem> {
    let route = find(path)?.ok_or_else(|| {
        Problem::new(
            Code::UnknownPath,
            format!(
                "no route has the path `{}`; GET /v1/models lists the models",
                shorten(path)
            ),
        )
    })?;
    let allow = route.allow();
    if method == "OPTIONS" || allow.split(", ").any(|m| m == method) {
        Ok(match route {
            Route::Operation(target) if method == "DELETE" => Route::OperationDelete(target),
            route => route,
        })
    } else {
        Err(Problem::new(
            Code::MethodNotAllowed,
            format!("`{}` takes {allow}, not {}", shorten(path), shorten(method)),
        )
        .with_allow(allow))
    }
}

fn find(path: &str) -> Result<Option<Route>, Problem> {
    let Some(rest) = path.strip_prefix('/') else {
        return Ok(None);
    };
    if rest.split('/').count() > MAX_SEGMENTS {
        return Ok(None);
    }
    let mut decoded = Vec::with_capacity(MAX_SEGMENTS);
    for segment in rest.split('/') {
        decoded.push(percent_decode(segment)?);
    }
    let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
    Ok(match segments.as_slice() {
        ["healthz"] => Some(Route::Healthz),
        ["ready"] => Some(Route::Ready),
        ["errors"] => Some(Route::ErrorCatalogue),
        ["errors", code] => Some(Route::ErrorEntry((*code).to_owned())),
        ["openapi.json"] => Some(Route::OpenApi),
        ["docs"] => Some(Route::Docs),
        [".well-known", "penstock", "webhook-keys"] => Some(Route::WebhookKeys),
        ["v1", "usage"] => Some(Route::Usage),
        ["v1", "operations", rest @ ..] => operation(rest, OperationForm::Plain),
        ["v1", "tenants", tenant, "operations", rest @ ..] => {
            let tenant = (*tenant).to_owned();
            operation(rest, OperationForm::Google { tenant })
        }
        ["v1", "files"] => Some(Route::FileList),
        ["v1", "files", id] => Some(Route::File((*id).to_owned())),
        ["v1", "files", id, "content"] => Some(Route::FileContent((*id).to_owned())),
        ["v1", "batches"] => Some(Route::BatchList),
        ["v1", "batches", id] => Some(Route::Batch((*id).to_owned())),
        ["v1", "batches", id, "cancel"] => Some(Route::BatchCancel((*id).to_owned())),
        ["v1", "embeddings"] => Some(Route::Embeddings(target("", None))),
        ["v1", "classify"] => Some(Route::Classify(target("", None))),
        ["v1", "moderations"] => Some(Route::Moderations(target("", None))),
        ["v1", "rerank"] | ["v2", "rerank"] => Some(Route::Rerank(target("", None))),
        ["v1", "score"] => Some(Route::Score(target("", None))),
        ["v1", "models"] => Some(Route::ModelList),
        ["v1", "models", model] => v1_model(model, None),
        ["v1", "models", model, "versions", version] => v1_model(version, Some(model)),
        ["v2"] | ["v2", ""] => Some(Route::ServerMetadata),
        ["v2", "health", "live"] => Some(Route::ServerLive),
        ["v2", "health", "ready"] => Some(Route::ServerReady),
        // The protocol reserves this path, so the metadata of a model named `stats` is unreachable here.
        ["v2", "models", "stats"] => Some(Route::Statistics(None)),
        ["v2", "repository", "index"] => Some(Route::RepositoryIndex { ready: false }),
        ["v2", "repository", "models", model, "load"] => {
            Some(Route::RepositoryLoad((*model).to_owned()))
        }
        ["v2", "repository", "models", model, "unload"] => {
            Some(Route::RepositoryUnload((*model).to_owned()))
        }
        ["v2", "systemsharedmemory", ..] => Some(Route::Extension(Extension::SystemSharedMemory)),
        ["v2", "cudasharedmemory", ..] => Some(Route::Extension(Extension::CudaSharedMemory)),
        ["v2", "trace", "setting"]
        | ["v2", "models", _, "trace", "setting"]
        | ["v2", "models", _, "versions", _, "trace", "setting"] => {
            Some(Route::Extension(Extension::Trace))
        }
        ["v2", "logging"] => Some(Route::Extension(Extension::Logging)),
        ["v2", "models", model] => Some(Route::ModelMetadata(target(model, None))),
        ["v2", "models", model, what] => v2_model(target(model, None), what),
        ["v2", "models", model, "versions", version] => {
            Some(Route::ModelMetadata(target(model, Some(version))))
        }
        ["v2", "models", model, "versions", version, what] => {
            v2_model(target(model, Some(version)), what)
        }
        _ => None,
    })
}

/// Returns the route of the path segment below a model or below a version of a model.
fn v2_model(target: Target, what: &str) -> Option<Route> {
    match what {
        "ready" => Some(Route::ModelReady(target)),
        "config" => Some(Route::ModelConfig(target)),
        "stats" => Some(Route::Statistics(Some(target))),
        "infer" => Some(Route::Infer(target)),
        "generate" => Some(Route::Generate(target)),
        "generate_stream" => Some(Route::GenerateStream(target)),
        _ => None,
    }
}

/// Returns the route of the path segments below `operations`.
fn operation(rest: &[&str], form: OperationForm) -> Option<Route> {
    let target = |id: &str| OperationTarget {
        id: id.to_owned(),
        form: form.clone(),
    };
    match rest {
        [] => Some(Route::OperationList(form)),
        [id, "response"] => Some(Route::OperationResponse(target(id))),
        [last] => match last.split_once(':') {
            None => Some(Route::Operation(target(last))),
            Some((id, "cancel")) => Some(Route::OperationCancel(target(id))),
            Some((id, "wait")) => Some(Route::OperationWait(target(id))),
            Some((id, "announce")) => Some(Route::OperationAnnounce(target(id))),
            Some(_) => None,
        },
        _ => None,
    }
}

/// Splits a custom method off the last segment: `magika:predict`, or `1:predict` below a model.
fn v1_model(last: &str, model: Option<&str>) -> Option<Route> {
    let (name, verb) = match last.split_once(':') {
        Some((name, verb)) => (name, Some(verb)),
        None => (last, None),
    };
    let target = match model {
        Some(model) => target(model, Some(name)),
        None => target(name, None),
    };
    match verb {
        None => Some(Route::Model(target)),
        Some("predict") => Some(Route::Predict(target)),
        Some("batchPredict") => Some(Route::BatchPredict(target)),
        Some("predictAsync") => Some(Route::PredictAsync(target)),
        Some("batchPredictAsync") => Some(Route::BatchPredictAsync(target)),
        Some("explain") => Some(Route::Explain(target)),
        Some(_) => None,
    }
}

/// Builds the target of a call. The version comes from the path, or from an `@` in the model's name.
pub fn target(model: &str, version: Option<&str>) -> Target {
    match (model.split_once('@'), version) {
        (Some((model, version)), None) => Target {
            model: model.to_owned(),
            version: Some(version.to_owned()),
        },
        _ => Target {
            model: model.to_owned(),
            version: version.map(str::to_owned),
        },
    }
}

/// Decodes `%XX` in one path segment.
pub(crate) fn percent_decode(segment: &str) -> Result<String, Problem> {
    percent_decoded(segment).ok_or_else(|| {
        Problem::new(
            Code::MalformedRequest,
            format!(
                "the path segment `{}` is not valid percent-encoded UTF-8; write `%` as `%25`",
                shorten(segment)
            ),
        )
    })
}

/// Decodes `%XX` (RFC 3986 §2.1). Returns `None` if an escape is malformed or the result is not UTF-8.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = |b: Option<&u8>| b.and_then(|&b| char::from(b).to_digit(16));
            let (high, low) = (hex(bytes.get(at + 1))?, hex(bytes.get(at + 2))?);
            out.push((high * 16 + low) as u8);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// The most characters of a caller's text that a message repeats.
const MAX_ECHO_CHARS: usize = 80;

/// Shortens a caller's text for a message and replaces its control characters.
pub fn shorten(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(MAX_ECHO_CHARS).map(clean).collect();
    if text.chars().nth(MAX_ECHO_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(model: &str, version: Option<&str>) -> Target {
        target(model, version)
    }

    #[test]
    fn every_documented_path_has_its_route() {
        for (method, path, expected) in [
            ("GET", "/healthz", Route::Healthz),
            ("HEAD", "/ready", Route::Ready),
            ("GET", "/errors", Route::ErrorCatalogue),
            (
                "GET",
                "/errors/internal",
                Route::ErrorEntry("internal".into()),
            ),
            ("GET", "/openapi.json", Route::OpenApi),
            ("HEAD", "/docs", Route::Docs),
            ("GET", "/v1/models", Route::ModelList),
            ("GET", "/v1/models/m", Route::Model(at("m", None))),
            (
                "GET",
                "/v1/models/m/versions/2",
                Route::Model(at("m", Some("2"))),
            ),
            (
                "POST",
                "/v1/models/m:predict",
                Route::Predict(at("m", None)),
            ),
            (
                "POST",
                "/v1/models/m%3Apredict",
                Route::Predict(at("m", None)),
            ),
            (
                "POST",
                "/v1/models/m@2:predict",
                Route::Predict(at("m", Some("2"))),
            ),
            (
                "POST",
                "/v1/models/m:batchPredict",
                Route::BatchPredict(at("m", None)),
            ),
            (
                "POST",
                "/v1/models/m:explain",
                Route::Explain(at("m", None)),
            ),
            ("POST", "/v1/files", Route::FileList),
            ("DELETE", "/v1/files/file-1", Route::File("file-1".into())),
            (
                "GET",
                "/v1/files/file-1/content",
                Route::FileContent("file-1".into()),
            ),
            ("GET", "/v1/batches", Route::BatchList),
            ("GET", "/v1/batches/batch_1", Route::Batch("batch_1".into())),
            (
                "POST",
                "/v1/batches/batch_1/cancel",
                Route::BatchCancel("batch_1".into()),
            ),
            ("POST", "/v1/embeddings", Route::Embeddings(at("", None))),
            ("POST", "/v1/classify", Route::Classify(at("", None))),
            ("POST", "/v1/moderations", Route::Moderations(at("", None))),
            ("POST", "/v1/rerank", Route::Rerank(at("", None))),
            ("POST", "/v2/rerank", Route::Rerank(at("", None))),
            ("POST", "/v1/score", Route::Score(at("", None))),
            (
                "POST",
                "/v1/models/m/versions/2:predict",
                Route::Predict(at("m", Some("2"))),
            ),
            ("GET", "/v2/models/stats", Route::Statistics(None)),
            (
                "GET",
                "/v2/models/m/stats",
                Route::Statistics(Some(at("m", None))),
            ),
            (
                "GET",
                "/v2/models/m/versions/2/stats",
                Route::Statistics(Some(at("m", Some("2")))),
            ),
            (
                "POST",
                "/v2/repository/index",
                Route::RepositoryIndex { ready: false },
            ),
            (
                "POST",
                "/v2/repository/models/m/load",
                Route::RepositoryLoad("m".into()),
            ),
            (
                "POST",
                "/v2/repository/models/..%2Fm/unload",
                Route::RepositoryUnload("../m".into()),
            ),
            ("GET", "/v2", Route::ServerMetadata),
            ("GET", "/v2/", Route::ServerMetadata),
            ("GET", "/v2/health/live", Route::ServerLive),
            ("GET", "/v2/health/ready", Route::ServerReady),
            ("GET", "/v2/models/m", Route::ModelMetadata(at("m", None))),
            (
                "GET",
                "/v2/models/m/ready",
                Route::ModelReady(at("m", None)),
            ),
            ("POST", "/v2/models/m/infer", Route::Infer(at("m", None))),
            (
                "GET",
                "/v2/models/m/config",
                Route::ModelConfig(at("m", None)),
            ),
            (
                "GET",
                "/v2/models/m/versions/2/config",
                Route::ModelConfig(at("m", Some("2"))),
            ),
            (
                "POST",
                "/v2/models/m/generate",
                Route::Generate(at("m", None)),
            ),
            (
                "POST",
                "/v2/models/m/versions/2/generate_stream",
                Route::GenerateStream(at("m", Some("2"))),
            ),
            (
                "GET",
                "/v2/models/m/versions/1",
                Route::ModelMetadata(at("m", Some("1"))),
            ),
            (
                "GET",
                "/v2/models/m/versions/1/ready",
                Route::ModelReady(at("m", Some("1"))),
            ),
            (
                "POST",
                "/v2/models/m/versions/1/infer",
                Route::Infer(at("m", Some("1"))),
            ),
        ] {
            assert_eq!(route(method, path), Ok(expected), "{method} {path}");
        }
    }

    #[test]
    fn an_extension_that_is_not_served_is_named_whatever_is_asked_of_it() {
        use Extension::*;
        for (path, extension) in [
            ("/v2/systemsharedmemory/status", SystemSharedMemory),
            (
                "/v2/systemsharedmemory/region/r/register",
                SystemSharedMemory,
            ),
            ("/v2/systemsharedmemory/unregister", SystemSharedMemory),
            ("/v2/cudasharedmemory/region/r/status", CudaSharedMemory),
            ("/v2/cudasharedmemory/region/r/unregister", CudaSharedMemory),
            ("/v2/trace/setting", Trace),
            ("/v2/models/m/trace/setting", Trace),
            ("/v2/models/m/versions/1/trace/setting", Trace),
            ("/v2/logging", Logging),
        ] {
            for method in ["GET", "HEAD", "POST", "OPTIONS"] {
                let found = route(method, path);
                assert_eq!(found, Ok(Route::Extension(extension)), "{method} {path}");
            }
            assert_eq!(extension.refusal().code, Code::NotSupported);
        }
    }

    #[test]
    fn a_path_that_is_not_ours_is_404_and_a_wrong_method_405_with_allow() {
        for path in [
            "",
            "/",
            "x",
            "/v1",
            "/v1/models/",
            "/v1/models/m:explode",
            "/v2/models",
            "/v2/models/m/versions",
            "/v2/models/m/explode",
            "/v1/models/m/",
            "/a/a/a/a/a/a/a/a/a/a",
        ] {
            // `/v1/models/` names a model with an empty name. No catalogue has such a model.
            match route("GET", path) {
                Err(problem) => assert_eq!(problem.code, Code::UnknownPath, "{path}"),
                Ok(route) => assert_eq!(route, Route::Model(at("", None)), "{path}"),
            }
        }
        for (method, path, allow) in [
            ("GET", "/v1/models/m:predict", "POST"),
            ("POST", "/v1/models/m", "GET, HEAD"),
            ("DELETE", "/v2/models/m/infer", "POST"),
            ("POST", "/v2/models/stats", "GET, HEAD"),
            ("GET", "/v2/repository/index", "POST"),
            ("GET", "/v2/repository/models/m/load", "POST"),
            ("get", "/healthz", "GET, HEAD"),
        ] {
            let problem = route(method, path).unwrap_err();
            assert_eq!(
                (problem.code, problem.allow),
                (Code::MethodNotAllowed, Some(allow))
            );
        }
    }

    #[test]
    fn broken_percent_encoding_is_400_and_never_leaves_its_segment() {
        for path in [
            "/v1/models/%",
            "/v1/models/%z1",
            "/v1/models/%ff",
            "/v1/models/%1",
        ] {
            assert_eq!(
                route("GET", path).unwrap_err().code,
                Code::MalformedRequest,
                "{path}"
            );
        }
        assert_eq!(
            route("GET", "/v1/models/..%2Fx"),
            Ok(Route::Model(at("../x", None)))
        );
    }

    #[test]
    fn text_of_a_client_is_repeated_shortened_and_without_control_characters() {
        assert_eq!(shorten("a\nb\u{1b}[0m"), "a\u{fffd}b\u{fffd}[0m");
        assert_eq!(
            shorten(&"ä".repeat(500)).chars().count(),
            MAX_ECHO_CHARS + 1
        );
    }
}
