//! Which answer a request gets: route, negotiation, limits, and then what the route is for. Each step
//! either goes on or ends in a [`Problem`]. Calls of models are [`call`](crate::call)'s.

use crate::answer;
use crate::call::embeddings::model_of;
use crate::call::{Method, admit, call, explains};
use crate::catalogue::{Catalogue, Model, Opened};
use crate::coding;
use crate::connection::{Announced, Connection};
use crate::cors::{self, Cors};
use crate::grpc::serve::{self, Rpc};
use crate::grpc::service;
use crate::oip;
use crate::openapi;
use crate::page;
use crate::policies::{Policies, authenticate, is_signed};
use crate::ports::{Failure, FailureKind, Headers, Ports};
use crate::record::{Request, Response};
use crate::repository;
use crate::representation::{MIN_ENCODED_BYTES, Representation, encoded_from_bytes, finish};
use crate::route::{Route, Target, route, shorten, target};
use crate::trail::Trail;
use penstock_core::clock::days_from_date;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Caller, Code, ModelVersion, PredictionId, Problem, RequestId, negotiate};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words as auth;
use penstock_policy::document;
use penstock_policy::quota::{self, service::AdmissionService, service::QuotaService};
use penstock_policy::usage::service::UsageService;
use penstock_policy::usage::{DAY_MS, MAX_DAYS};
use penstock_tensor::Contract;
use penstock_tensor::contract::Dim;
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// Seconds a caller is told to wait for a model that is loading: loading takes seconds, not minutes.
const RETRY_NOT_READY_S: u32 = 2;
/// Seconds a caller is told to wait when a queue is full: queues drain within a second.
const RETRY_OVERLOADED_S: u32 = 1;

const JSON: &str = "application/json";

/// Days `/v1/usage` reports when it is not told.
const DEFAULT_USAGE_DAYS: u64 = 30;

/// One instance of the gate: its ports and what it has read through them.
pub struct Gate<P: Ports> {
    ports: P,
    policies: Option<Policies<P>>,
    catalogue: Option<Catalogue<P>>,
    host: Option<Host>,
    cors: Cors,
    required: Required,
}

/// The models that readiness waits for, read by the first health check.
#[derive(Default)]
struct Required(OnceCell<Vec<String>>);

impl Required {
    /// Stands for every model that is there.
    const ALL: &'static str = "*";

    /// A policy that cannot be read requires none; calls report it.
    fn of<P: Ports>(&self, ports: &P) -> &[String] {
        self.0.get_or_init(|| {
            let text = ports.policy_text();
            text.and_then(|text| document::required_models(&text))
                .unwrap_or_default()
        })
    }
}

/// What the host says of itself.
struct Host {
    /// What the headers that it makes begin with, where it makes any.
    token: Option<String>,
    /// Whether it keeps an audit log.
    audits: bool,
}

/// The header by which the host hears that the body of a request may be sent.
const GO_ON: &str = "penstock-go-on";

/// The variable that holds the host's token.
const HOST_TOKEN: &str = "PENSTOCK_HOST_TOKEN";
/// The variable by which a host asks for what an audit log needs.
const HOST_AUDITS: &str = "PENSTOCK_AUDIT";

/// What every answer to one request carries.
pub(crate) struct Context {
    pub request_id: RequestId,
    pub random: u128,
    pub unix_ms: u64,
    pub started_ns: u64,
}

/// A successful answer before the headers of every answer are added.
pub(crate) struct Answered {
    pub response: Response,
    pub version: Option<ModelVersion>,
    /// Why that version answered, in a word.
    pub reason: Option<String>,
    pub prediction_id: Option<PredictionId>,
}

impl Answered {
    pub fn json(status: u16, value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        Self::whole(Response::new(status, JSON, body))
    }

    /// An answer that needs no more headers of its own.
    pub fn whole(response: Response) -> Self {
        Self {
            response,
            version: None,
            reason: None,
            prediction_id: None,
        }
    }

    /// Adds what the server says of itself, for who may read details.
    fn tell_server(&mut self, connection: &Connection) {
        if let Some(server) = &connection.server
            && let Ok(Value::Object(mut body)) = serde_json::from_slice(&self.response.body)
        {
            body.insert("server".to_owned(), server.clone());
            self.response.body = Value::Object(body).to_string().into_bytes();
        }
    }

    /// The answer with the headers that describe its content.
    pub fn stamped(self) -> Response {
        let Self {
            mut response,
            version,
            reason,
            prediction_id,
        } = self;
        if let Some(version) = version {
            response.push("x-model-version", version.to_string());
        }
        if let Some(reason) = reason {
            response.push("x-model-version-reason", reason);
        }
        if let Some(id) = prediction_id {
            response.push("x-prediction-id", id.as_str());
        }
        response
    }
}

impl<P: Ports> Gate<P> {
    /// A gate that has read nothing yet.
    pub fn new(ports: P) -> Self {
        Self {
            ports,
            policies: None,
            catalogue: None,
            host: None,
            cors: Cors::default(),
            required: Required::default(),
        }
    }

    /// Answers one request. Every path through it ends in an answer.
    pub fn handle(&mut self, request: &Request) -> Response {
        let context = self.context(request);
        let mut headers = Headers::new();
        let ports = &self.ports;
        let host = self.host.get_or_insert_with(|| {
            let token = ports
                .environment(HOST_TOKEN)
                .filter(|token| !token.is_empty());
            Host {
                audits: token.is_some() && ports.environment(HOST_AUDITS).is_some(),
                token,
            }
        });
        let audits = host.audits;
        let connection = Connection::of(request, host.token.as_deref());
        let mut trail = Trail::default();
        let mut representation = Representation::Result;
        let mut encoded_from = MIN_ENCODED_BYTES;
        let is_rpc = service::is_call(request);
        let read = match is_rpc {
            true => serve::read(request).map(Some),
            false => Ok(None),
        };
        let mut response = match read {
            Ok(Some(serve::Read::Answered(response))) => response,
            Ok(read) => {
                let call = match read {
                    Some(serve::Read::Routed(route, rpc)) => Some((route, rpc)),
                    _ => None,
                };
                let answered = self.answer(
                    request,
                    &call,
                    &context,
                    &connection,
                    &mut headers,
                    &mut trail,
                    (&mut representation, &mut encoded_from),
                    audits,
                );
                let rpc = call.as_ref().map(|(_, rpc)| rpc);
                match (answered, rpc) {
                    (Ok(answered), Some(rpc)) => rpc.translate(answered.stamped()),
                    (Ok(answered), None) => answered.stamped(),
                    (Err(problem), rpc) => {
                        trail.code = Some(problem.code);
                        rpc.and_then(|rpc| rpc.soften(&problem))
                            .unwrap_or_else(|| render_problem(&problem, request, &context))
                    }
                }
            }
            Err(problem) => {
                trail.code = Some(problem.code);
                render_problem(&problem, request, &context)
            }
        };
        for (name, value) in headers {
            // A problem says itself when to come back.
            if name != "retry-after" {
                response.push(&name, value);
            }
        }
        response.push("x-request-id", context.request_id.as_str());
        // gRPC has codings of its own.
        let mut response = match is_rpc {
            true => response,
            false => finish(request, response, representation, encoded_from),
        };
        self.cors.add(&self.ports, request, &mut response);
        // What one caller is answered is not for a cache to tell the next, which shows another header.
        if (trail.personal
            || trail
                .caller
                .as_ref()
                .is_some_and(|caller| !caller.anonymous))
            && response.header("cache-control").is_none()
        {
            response.push("cache-control", "no-store");
        }
        if audits {
            trail.tell(&mut response);
        }
        response
    }

    /// Answers a request that a door could not take whole, e.g. because its body broke off.
    pub fn refuse(&self, request: &Request, problem: &Problem) -> Response {
        let context = self.context(request);
        let mut response = render_problem(problem, request, &context);
        response.push("x-request-id", context.request_id.as_str());
        self.cors.add(&self.ports, request, &mut response);
        response
    }

    fn context(&self, request: &Request) -> Context {
        let unix_ms = self.ports.unix_ms();
        let random = self.ports.random();
        let request_id = request
            .header("x-request-id")
            .and_then(RequestId::from_header)
            .unwrap_or_else(|| RequestId::generate(unix_ms, random));
        Context {
            request_id,
            random,
            unix_ms,
            started_ns: self.ports.monotonic_ns(),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn answer(
        &mut self,
        request: &Request,
        rpc: &Option<(Route, Rpc)>,
        context: &Context,
        connection: &Connection,
        headers: &mut Headers,
        trail: &mut Trail,
        (representation, encoded_from): (&mut Representation, &mut usize),
        audits: bool,
    ) -> Result<Answered, Problem> {
        if let Some(response) = cors::options_of_server(request) {
            return Ok(Answered::whole(response));
        }
        let mut route = match rpc {
            Some((route, _)) => route.clone(),
            None => route(&request.method, request.path())?,
        };
        if request.method == "OPTIONS" {
            return Ok(Answered::whole(cors::options(route.allow())));
        }
        // Who may call it is asked with the model's name, which this route has in its body.
        if let Some(named) = route.named_in_body() {
            *named = target(&model_of(request).unwrap_or_default(), None);
        }
        let accept = request.header_list("accept");
        let offered = route.media_types();
        let reads_json = offered.contains(&JSON) && negotiate::accepts_json(accept.as_deref());
        let accepted =
            rpc.is_some() || reads_json || negotiate::choose(accept.as_deref(), offered).is_some();
        if !accepted {
            return Err(Problem::new(
                Code::NotAcceptable,
                format!(
                    "the Accept header `{}` rules out {}, which is what this path answers with",
                    shorten(accept.as_deref().unwrap_or_default()),
                    offered.join(" and ")
                ),
            ));
        }
        *representation = Representation::of(&route, false);
        *encoded_from = encoded_from_bytes(&route);
        let Self {
            ports,
            policies,
            catalogue,
            required,
            ..
        } = self;
        let ports: &P = ports;
        // Probes are answered whatever the policy is.
        if route == Route::ServerReady {
            return Ok(readiness(ports, catalogue, required, connection, None));
        }
        if let Some(answered) = unlimited(&route) {
            return answered;
        }
        // A signature may cover the body.
        if connection.asks.is_some() && is_signed(request) {
            return Ok(go_on());
        }
        let policies = match policies {
            Some(policies) => &*policies,
            None => &*policies.insert(Policies::open(ports)?),
        };
        let (mut kind, model) = asked(&route);
        // A prediction with its explanation is for who may have explanations.
        if matches!(route, Route::Predict(_)) && explains(request) {
            kind = "explain";
        }
        trail.route = Some(kind);
        trail.model = model.map(str::to_owned);
        let times = (context.unix_ms, context.random as u64);
        let admitted = authenticate(policies, request, connection, (kind, model), times);
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) if route == Route::Ready => {
                trail.caller = refusal.caller;
                return Ok(readiness(ports, catalogue, required, connection, None));
            }
            Err(refusal) => {
                let problem = refused(ports, catalogue, model, &refusal);
                trail.caller = refusal.caller;
                let caller = trail.caller.as_ref();
                // A model there is none of would be asked for below the limits; one that is hidden must not be told
                // from it by what the limits say.
                if let (Code::UnknownModel, Some(caller)) = (problem.code, caller) {
                    let call = quota_call(caller, &route, request);
                    let admission = admit(ports, policies, context, &call, headers)?;
                    settle(ports, policies, admission.as_ref());
                }
                return Err(withhold(policies, caller, problem));
            }
        };
        trail.personal = !admitted.caller.anonymous;
        *representation = Representation::of(&route, trail.personal);
        if audits {
            trail.caller = Some(admitted.caller.clone());
        }
        trail.credential = Some(admitted.credential.as_str());
        trail.admitted = true;
        if route == Route::Ready {
            let sees = |names: &[String]| policies.auth.sees(&admitted.caller, names);
            let mut answered = readiness(ports, catalogue, required, connection, Some(&sees));
            answered.tell_server(connection);
            return Ok(answered);
        }
        let called = match &route {
            Route::Predict(target) => Some((Method::Predict, target)),
            Route::BatchPredict(target) => Some((Method::BatchPredict, target)),
            Route::Explain(target) => Some((Method::Explain, target)),
            Route::Embeddings(target) => Some((Method::Embeddings, target)),
            Route::Classify(target) => Some((Method::Classify, target)),
            Route::Moderations(target) => Some((Method::Moderations, target)),
            Route::Rerank(target) => Some((Method::Rerank, target)),
            Route::Score(target) => Some((Method::Score, target)),
            Route::Infer(target) => Some((
                match rpc {
                    Some((_, rpc)) => Method::Grpc(rpc.form()),
                    None => Method::Infer,
                },
                target,
            )),
            Route::Generate(target) => Some((Method::Generate, target)),
            Route::GenerateStream(target) => Some((Method::GenerateStream, target)),
            _ => None,
        };
        if let Some(announced) = connection.asks {
            let judged = match called {
                None => Some(Ok(go_on())),
                Some((_, target)) => {
                    judge(ports, known(catalogue, ports), request, target, announced)
                }
            };
            // An unknown model is charged for like any call of one, so that asking does not reveal hidden models.
            if let Some(judged) = judged {
                return judged;
            }
        }
        if let Some(called) = called {
            return call(
                ports, policies, catalogue, request, context, &admitted, called, headers,
            )
            .map_err(|problem| withhold(policies, Some(&admitted.caller), problem));
        }
        let caller = &admitted.caller;
        let call = quota_call(caller, &route, request);
        let admission = admit(ports, policies, context, &call, headers)?;
        // What is asked of the repository is in the body; over gRPC it was read with the route.
        let read = match rpc {
            Some(_) => Ok(route.clone()),
            None => repository::read(&route, request, policies.unknown),
        };
        let answered = read
            .and_then(|route| limited(ports, policies, catalogue, &route, request, caller, context))
            .map_err(|problem| withhold(policies, Some(caller), problem));
        settle(ports, policies, admission.as_ref());
        answered
    }
}

/// Tells the host that nothing speaks against the body of a request.
fn go_on() -> Answered {
    let mut response = Response {
        status: 204,
        headers: Vec::with_capacity(2),
        body: Vec::new(),
    };
    response.push(GO_ON, "1");
    Answered::whole(response)
}

/// Judges a call whose body was announced and not sent; `None` where there is no such model. Nothing is charged: the call
/// itself is, when its body has come.
fn judge<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    request: &Request,
    target: &Target,
    announced: Announced,
) -> Option<Result<Answered, Problem>> {
    let checked = |limit: Option<u64>| {
        request.content_type()?;
        coding::of(request, &mut Headers::new())?;
        match (announced.bytes, limit) {
            (Some(bytes), Some(limit)) if bytes > limit => Err(Problem::new(
                Code::BodyTooLarge,
                format!("the body is to have {bytes} bytes; this model takes at most {limit}"),
            )),
            _ => Ok(go_on()),
        }
    };
    // The body names the model.
    if target.model.is_empty() {
        return Some(checked(None));
    }
    let mut models = catalogue.iter_mut();
    let model = models.find(|model| model.name.as_str() == target.model)?;
    let opened = model.open(ports);
    Some(opened.and_then(|opened| checked(Some(opened.contract.limits.max_body_bytes))))
}

/// A request as limits see it.
fn quota_call<'a>(
    caller: &'a Caller,
    route: &'a Route,
    request: &Request,
) -> quota::words::Call<'a> {
    let (kind, model) = asked(route);
    quota::words::Call {
        caller,
        route: kind,
        // Limits by model are about calls of it.
        model: model.filter(|_| route.is_call()),
        body_bytes: request.body.len() as u64,
    }
}

/// Ends what was admitted and ran nothing.
fn settle<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    admission: Option<&<P::Quota as QuotaService>::Admission>,
) {
    if policies.scope.settles
        && let Some(admission) = admission
    {
        admission.settle(0, ports.unix_ms());
    }
}

/// What a route is to scopes and limits: its kind, and the model it is about.
fn asked(route: &Route) -> (&'static str, Option<&str>) {
    let named = |target: &'_ Target| !target.model.is_empty();
    match route {
        Route::Explain(target) => ("explain", Some(&target.model)),
        Route::Predict(target) | Route::BatchPredict(target) => ("predict", Some(&target.model)),
        Route::Embeddings(target) => ("embeddings", named(target).then_some(target.model.as_str())),
        Route::Classify(target) => ("classify", named(target).then_some(target.model.as_str())),
        Route::Moderations(target) => (
            "moderations",
            named(target).then_some(target.model.as_str()),
        ),
        Route::Rerank(target) => ("rerank", named(target).then_some(target.model.as_str())),
        Route::Score(target) => ("score", named(target).then_some(target.model.as_str())),
        Route::Infer(target) | Route::Generate(target) | Route::GenerateStream(target) => {
            ("infer", Some(&target.model))
        }
        Route::RepositoryLoad(model) | Route::RepositoryUnload(model) => {
            ("repository", Some(model))
        }
        Route::Model(target)
        | Route::ModelMetadata(target)
        | Route::ModelConfig(target)
        | Route::ModelReady(target)
        | Route::Statistics(Some(target)) => ("models", Some(&target.model)),
        Route::Usage => ("usage", None),
        Route::Ready => ("ready", None),
        _ => ("models", None),
    }
}

/// The problem a refusal is answered with. What a caller may not know of and what there is not look alike, also to a caller
/// who has no scope for it.
fn refused<P: Ports>(
    ports: &P,
    catalogue: &mut Option<Catalogue<P>>,
    model: Option<&str>,
    refusal: &auth::Refusal,
) -> Problem {
    match (refusal.problem(), model) {
        // Who is not known to belong to some tenant is told nothing of any model.
        (Some(problem), Some(model))
            if problem.code == Code::PermissionDenied && refusal.caller.is_some() =>
        {
            let catalogue = known(catalogue, ports);
            if catalogue.contains(model) {
                problem
            } else {
                catalogue.unknown(model)
            }
        }
        (Some(problem), _) => problem,
        (None, model) => known(catalogue, ports).unknown(model.unwrap_or_default()),
    }
}

/// Leaves out of a problem the models a caller may not know of.
fn withhold<P: Ports>(
    policies: &Policies<P>,
    caller: Option<&Caller>,
    problem: Problem,
) -> Problem {
    if problem.code != Code::UnknownModel || problem.available.is_empty() {
        return problem;
    }
    let names = problem.available.clone();
    let seen = match caller {
        Some(caller) => policies.auth.sees(caller, &names),
        None => Vec::new(),
    };
    let known = names.into_iter().zip(seen).filter(|(_, seen)| *seen);
    problem.with_available(known.map(|(name, _)| name).collect())
}

/// Which of some models are to be shown.
type Sees<'a> = &'a dyn Fn(&[String]) -> Vec<bool>;

/// Routes that no limit applies to.
fn unlimited(route: &Route) -> Option<Result<Answered, Problem>> {
    Some(match route {
        Route::Healthz => Ok(Answered::json(200, &json!({ "status": "ok" }))),
        Route::ServerLive => Ok(Answered::json(200, &json!({ "live": true }))),
        Route::ErrorCatalogue => {
            let all: Vec<Value> = Code::ALL.iter().map(|c| answer::error_entry(*c)).collect();
            Ok(Answered::json(200, &json!({ "errors": all })))
        }
        Route::ErrorEntry(word) => match Code::ALL.iter().find(|c| c.as_str() == word) {
            Some(code) => Ok(Answered::json(200, &answer::error_entry(*code))),
            None => Err(Problem::new(
                Code::UnknownPath,
                format!(
                    "no error has the code `{}`; GET /errors lists them",
                    shorten(word)
                ),
            )),
        },
        // It says nothing of any model: what it shows, it asks for with the credentials that are typed in.
        Route::Docs => Ok(Answered::whole(page::response())),
        Route::Extension(extension) => Err(extension.refusal()),
        _ => return None,
    })
}

/// Routes that only read, below the limits on calls.
fn limited<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    catalogue: &mut Option<Catalogue<P>>,
    route: &Route,
    request: &Request,
    caller: &Caller,
    context: &Context,
) -> Result<Answered, Problem> {
    match route {
        Route::Usage => usage(policies, request, caller, context),
        Route::ServerMetadata => Ok(Answered::json(200, &answer::server_metadata())),
        Route::ModelList => {
            let (mut models, mut data) = (Vec::new(), Vec::new());
            let names: Vec<String> = known(catalogue, ports).names();
            let seen = policies.auth.sees(caller, &names);
            let listed = known(catalogue, ports).iter_mut().zip(seen);
            for (model, _) in listed.filter(|(_, seen)| *seen) {
                let (name, versions) = (model.name.clone(), model.versions.clone());
                models.push(match model.open(ports) {
                    Ok(opened) => {
                        data.push(answer::openai_model(name.as_str(), opened.written_s));
                        let mut said = answer::model(name.as_str(), &versions, &opened);
                        let mut states = versions.iter().map(|v| ports.ready(name.as_str(), *v));
                        said["ready"] = json!(states.any(|state| state.is_ok()));
                        said
                    }
                    Err(problem) => {
                        json!({ "name": name, "ready": false, "error": problem.message })
                    }
                });
            }
            // OpenAI's clients read `data`, which has no place for what is wrong with a model.
            let body = json!({ "object": "list", "data": data, "models": models });
            Ok(Answered::json(200, &body))
        }
        Route::OpenApi => {
            let about = openapi::About {
                needs_credentials: !caller.anonymous,
                counts_usage: policies.counts,
            };
            let sees = |names: &[String]| policies.auth.sees(caller, names);
            let catalogue = known(catalogue, ports);
            let document = openapi::serve(ports, catalogue, request, &sees, &about)?;
            Ok(Answered::json(200, &document))
        }
        Route::Model(target) => {
            describe(ports, known(catalogue, ports), target, answer::model::<P>)
        }
        Route::ModelMetadata(target) => describe(
            ports,
            known(catalogue, ports),
            target,
            answer::model_metadata::<P>,
        ),
        Route::ModelConfig(target) => {
            let write = |name: &str, versions: &[ModelVersion], opened: &Opened<P>| {
                oip::model_config(name, versions, &opened.contract)
            };
            describe(ports, known(catalogue, ports), target, write)
        }
        Route::ModelReady(target) => {
            let (model, version) = known(catalogue, ports).resolve(ports, target)?;
            let name = model.name.clone();
            ports
                .ready(name.as_str(), version)
                .map_err(|f| failure(f, None))?;
            let mut answered = Answered::json(200, &json!({ "name": name, "ready": true }));
            answered.version = Some(version);
            Ok(answered)
        }
        Route::Statistics(target) => {
            let sees = |names: &[String]| policies.auth.sees(caller, names);
            repository::statistics(ports, known(catalogue, ports), target.as_ref(), &sees)
        }
        Route::RepositoryIndex { ready } => {
            let sees = |names: &[String]| policies.auth.sees(caller, names);
            repository::index(ports, *ready, &sees)
        }
        Route::RepositoryLoad(model) => repository::load(ports, known(catalogue, ports), model),
        Route::RepositoryUnload(model) => repository::unload(ports, known(catalogue, ports), model),
        _ => unreachable!("the other routes are answered before"),
    }
}

/// The catalogue, read by the first request that needs it: a health check does not.
pub(crate) fn known<'a, P: Ports>(
    slot: &'a mut Option<Catalogue<P>>,
    ports: &P,
) -> &'a mut Catalogue<P> {
    slot.get_or_insert_with(|| Catalogue::read(ports))
}

fn describe<P: Ports>(
    ports: &P,
    catalogue: &mut Catalogue<P>,
    target: &Target,
    write: impl Fn(&str, &[ModelVersion], &Opened<P>) -> Value,
) -> Result<Answered, Problem> {
    let (model, version) = catalogue.resolve(ports, target)?;
    let (name, versions) = (model.name.clone(), model.versions.clone());
    let opened = model.open(ports)?;
    let mut answered = Answered::json(200, &write(name.as_str(), &versions, &opened));
    answered.version = Some(version);
    Ok(answered)
}

/// `/ready` and `/v2/health/ready`: whether the server takes new work. It does unless the host says why not, or a model
/// that the operator requires has no version that could run now. Callers that may know of models (`sees`) are told how
/// each of them is.
fn readiness<P: Ports>(
    ports: &P,
    catalogue: &mut Option<Catalogue<P>>,
    required: &Required,
    connection: &Connection,
    sees: Option<Sees<'_>>,
) -> Answered {
    let required = required.of(ports);
    let not_ready = connection.not_ready.as_deref();
    let mut is_ready = not_ready.is_none();
    let mut models = Vec::new();
    if sees.is_some() || !required.is_empty() {
        let catalogue = known(catalogue, ports);
        let requires = |name: &str| required.iter().any(|r| r == name || r == Required::ALL);
        let mut names = catalogue.names();
        let there = names.len();
        let missing = required.iter().filter(|name| *name != Required::ALL);
        names.extend(missing.filter(|name| !catalogue.contains(name)).cloned());
        let shown = sees.map_or_else(|| vec![false; names.len()], |sees| sees(&names));
        let mut told = match shown.contains(&true) {
            true => repository::remarks(ports),
            false => BTreeMap::new(),
        };
        for (model, shown) in catalogue.iter_mut().zip(&shown) {
            let is_required = requires(model.name.as_str());
            if !*shown && !is_required {
                continue;
            }
            let states = states(ports, model);
            let could_run = states.iter().any(|(_, state)| state.is_ok());
            is_ready &= could_run || !is_required;
            for (version, state) in states.into_iter().filter(|_| *shown) {
                let mut entry = json!({
                    "name": model.name, "version": version.to_string(), "ready": state.is_ok(),
                    "required": is_required,
                });
                let reason = match state {
                    Err(reason) => Some(reason),
                    // It answers, and there is something to say all the same.
                    Ok(()) => told.remove(&(model.name.to_string(), version.to_string())),
                };
                if let Some(reason) = reason {
                    entry["reason"] = json!(reason);
                }
                models.push(entry);
            }
        }
        for (name, shown) in names.iter().zip(&shown).skip(there) {
            is_ready = false;
            if *shown {
                models.push(json!({
                    "name": name, "ready": false, "required": true,
                    "reason": "there is no such model; add it, or take its name out of `[models] required`",
                }));
            }
        }
    }
    let status = if is_ready { 200 } else { 503 };
    let mut body = json!({ "ready": is_ready });
    if let Some(sees) = sees {
        body["models"] = json!(models);
        if let Some(reason) = not_ready {
            body["reason"] = json!(reason);
        }
        let skipped = skipped(known(catalogue, ports), sees);
        if !skipped.is_empty() {
            body["skipped"] = Value::Array(skipped);
        }
    }
    let mut answered = Answered::json(status, &body);
    if !is_ready {
        answered
            .response
            .push("retry-after", RETRY_NOT_READY_S.to_string());
    }
    answered
}

/// Each version of a model, and why it could not run now.
fn states<P: Ports>(ports: &P, model: &mut Model<P>) -> Vec<(ModelVersion, Result<(), String>)> {
    let broken = model.open(ports).err();
    let state = |version: &ModelVersion| match &broken {
        Some(problem) => Err(problem.message.clone()),
        None => ports
            .ready(model.name.as_str(), *version)
            .map_err(|f| f.message),
    };
    model.versions.iter().map(|v| (*v, state(v))).collect()
}

/// The folders of the models directory that are no models, of those that the caller may know of.
fn skipped<P: Ports>(catalogue: &Catalogue<P>, sees: Sees<'_>) -> Vec<Value> {
    let skipped = catalogue.skipped();
    let folders: Vec<String> = skipped.iter().map(|one| one.folder.clone()).collect();
    let shown = skipped.iter().zip(sees(&folders)).filter(|(_, seen)| *seen);
    shown
        .map(|(one, _)| json!({ "folder": shorten(&one.folder), "reason": one.reason }))
        .collect()
}

/// `/v1/usage`: the caller's own counts by day, model and API key.
fn usage<P: Ports>(
    policies: &Policies<P>,
    request: &Request,
    caller: &Caller,
    context: &Context,
) -> Result<Answered, Problem> {
    if !policies.counts {
        return Err(Problem::new(
            Code::UnknownPath,
            "use is not counted here; the operator turns it on with `[usage]` `enabled = true`",
        ));
    }
    let invalid = |name: &str, value: &str, form: &str| {
        Problem::new(
            Code::InvalidParameter,
            format!("the parameter `{name}` is `{}`; {form}", shorten(value)),
        )
    };
    let today = context.unix_ms / DAY_MS;
    let (mut first, mut last, mut start) = (None, None, None);
    let query = request.target.split_once('?').map_or("", |(_, q)| q);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let date = || {
            days_from_date(value).ok_or_else(|| invalid(name, value, "write a date as YYYY-MM-DD"))
        };
        match name {
            "from" => first = Some(date()?),
            "to" => last = Some(date()?),
            "page_token" => {
                let token = value
                    .split_once('.')
                    .and_then(|(day, place)| Some((day.parse().ok()?, place.parse().ok()?)));
                start = Some(token.ok_or_else(|| {
                    invalid(
                        name,
                        value,
                        "give the `next_page_token` of an answer, or leave it out",
                    )
                })?);
            }
            _ => {
                return Err(Problem::new(
                    Code::InvalidParameter,
                    format!(
                        "there is no parameter `{}`; they are `from`, `to` and `page_token`",
                        shorten(name)
                    ),
                ));
            }
        }
    }
    let last = last.unwrap_or(today);
    let first = first.unwrap_or(last.saturating_sub(DEFAULT_USAGE_DAYS - 1));
    if first > last || last - first >= MAX_DAYS {
        return Err(Problem::new(
            Code::InvalidParameter,
            format!(
                "`from` must not be after `to`, and at most {MAX_DAYS} days are reported at once"
            ),
        ));
    }
    let report = policies
        .usage
        .read((first, last), Some(&caller.tenant), start)
        .map_err(|message| {
            Problem::new(
                Code::StoreUnavailable,
                format!("the counts cannot be read: {message}"),
            )
            .retry_after(RETRY_STORE_S)
        })?;
    let rows: Vec<Value> = report.rows.iter().map(answer::usage_row).collect();
    let mut body = json!({ "tenant": caller.tenant, "usage": rows });
    if let Some((day, place)) = report.next {
        body["next_page_token"] = json!(format!("{day}.{place}"));
    }
    Ok(Answered::json(200, &body))
}

/// The problem a failed run is answered with. A runtime failure is the caller's to mend only where
/// the contract left the caller a size to choose beside the number of items.
pub(crate) fn failure(failure: Failure, contract: Option<&Contract>) -> Problem {
    let Failure {
        kind,
        message,
        retry_after_ms,
    } = failure;
    let retry_after = |default_s| retry_after_ms.map_or(default_s, whole_seconds);
    let caller_chose_sizes = contract.is_some_and(has_open_axis);
    match kind {
        FailureKind::NotReady => {
            Problem::new(Code::ModelNotReady, message).retry_after(retry_after(RETRY_NOT_READY_S))
        }
        FailureKind::Overloaded => {
            Problem::new(Code::Overloaded, message).retry_after(retry_after(RETRY_OVERLOADED_S))
        }
        FailureKind::DeadlineExceeded => Problem::new(Code::DeadlineExceeded, message),
        FailureKind::InputsRejected | FailureKind::RowsDepend => {
            Problem::new(Code::ModelRejectedInputs, message)
        }
        FailureKind::Failed if caller_chose_sizes => {
            Problem::new(Code::ModelRejectedInputs, message)
        }
        FailureKind::Failed => Problem::new(Code::InferenceFailed, message),
    }
}

/// The most a caller is told to wait, whatever a runtime makes of its own load.
const MAX_RETRY_S: u64 = 3_600;

/// A wait as `Retry-After` has it: whole seconds, rounded up, at least one.
fn whole_seconds(ms: u64) -> u32 {
    ms.div_ceil(1_000).clamp(1, MAX_RETRY_S) as u32
}

/// Whether some input has a symbolic axis that is not the batch axis.
fn has_open_axis(contract: &Contract) -> bool {
    let batch = contract.batch_axis();
    let open = |dim: &Dim| matches!(dim, Dim::Symbol(name) if Some(name.as_str()) != batch);
    contract
        .inputs
        .iter()
        .any(|input| input.shape.iter().any(open))
}

pub(crate) fn render_problem(problem: &Problem, request: &Request, context: &Context) -> Response {
    if service::is_call(request) {
        return serve::refused(problem, request, &context.request_id);
    }
    let style = negotiate::error_style(request.path(), request.header_list("accept").as_deref());
    let (content_type, body) = problem.render(style, &context.request_id, context.unix_ms);
    let mut response = Response::new(problem.code.status(), content_type, body);
    // The same request with another Accept is answered in another form.
    response.push("vary", "accept");
    for (name, value) in problem.headers() {
        response.push(name, value);
    }
    response
}
