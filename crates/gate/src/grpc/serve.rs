//! Decides which route a call over gRPC takes, so that the same policies see it as over REST, and how that route's answer
//! is said in its messages.

use super::decode::{self, MAX_ID_BYTES};
use super::service::{self, MAX_SMALL_MESSAGE_BYTES, Method, RpcRequest};
use super::{encode, reflection, status};
use crate::coding::{self, Coding, Decoded};
use crate::record::{Request, Response};
use crate::route::{Route, shorten};
use penstock_core::{Code, Problem, RequestId};
use penstock_proto::grpc::health::v1 as health;
use penstock_proto::inference as pb;
use prost::Message;
use serde_json::Value;
use std::borrow::Cow;

/// How much of a compressed inference request is decoded to learn what it is about, before its caller is known: its
/// heading stands before its tensors where it was written in the order of its fields.
const HEADING_BYTES: usize = 2 * coding::STEP_BYTES;

/// A call, as far as its own message tells.
pub(crate) struct Rpc {
    method: Method,
    asked: RpcRequest,
}

/// What becomes of a request.
pub(crate) enum RpcRead {
    /// It takes a route.
    Routed(Route, Rpc),
    /// It needs none: anybody may be told.
    Answered(Response),
}

/// Reads what a call asks for.
pub(crate) fn read(request: &Request) -> Result<RpcRead, Problem> {
    let method = service::method(request.path())?;
    if request.method != "POST" {
        return Err(Problem::new(
            Code::MethodNotAllowed,
            format!(
                "calls over gRPC are made with POST, not {}",
                shorten(&request.method)
            ),
        ));
    }
    let asked = match method {
        Method::ModelInfer | Method::ModelStreamInfer => {
            let (target, id) = match heading(request)? {
                Some(heading) => (heading.target, heading.id),
                None => (crate::route::target("", None), String::new()),
            };
            let form = match method {
                Method::ModelInfer => encode::Form::Unary,
                _ => encode::Form::Stream,
            };
            RpcRequest::Infer { target, id, form }
        }
        _ => {
            let coding = coding::of(request)?;
            let message = coding::body(&request.body, coding, MAX_SMALL_MESSAGE_BYTES as u64)?;
            service::asked(method, &message)?
        }
    };
    let route = match &asked {
        RpcRequest::ServerLive => Route::ServerLive,
        RpcRequest::ServerReady | RpcRequest::Health => Route::ServerReady,
        RpcRequest::ModelReady(target) => Route::ModelReady(target.clone()),
        RpcRequest::ServerMetadata => Route::ServerMetadata,
        RpcRequest::ModelMetadata(target) => Route::ModelMetadata(target.clone()),
        RpcRequest::Infer { target, .. } => Route::Infer(target.clone()),
        RpcRequest::ModelConfig(target) => Route::ModelConfig(target.clone()),
        RpcRequest::ModelStatistics(target) => Route::Statistics(target.clone()),
        RpcRequest::RepositoryIndex { ready } => Route::RepositoryIndex { ready: *ready },
        RpcRequest::ModelLoad(model) => Route::RepositoryLoad(model.clone()),
        RpcRequest::ModelUnload(model) => Route::RepositoryUnload(model.clone()),
        RpcRequest::HealthUnknown { watching: true } => {
            let status = health::health_check_response::ServingStatus::ServiceUnknown;
            return Ok(RpcRead::Answered(health_is(status)));
        }
        RpcRequest::HealthUnknown { watching: false } => {
            return Err(Problem::new(
                Code::UnknownResource,
                "there is no such service here; leave the name out to ask for the server",
            ));
        }
        RpcRequest::Reflection(asked) => {
            let answer = reflection::answer(asked.clone());
            return Ok(RpcRead::Answered(status::succeeded(answer)));
        }
    };
    Ok(RpcRead::Routed(route, Rpc { method, asked }))
}

impl Rpc {
    /// How an answer to an inference request goes out.
    pub fn form(&self) -> encode::Form {
        match self.asked {
            RpcRequest::Infer { form, .. } => form,
            _ => encode::Form::Unary,
        }
    }

    /// The answer to a call whose route gave `answered`.
    pub fn translate(&self, answered: Response) -> Response {
        let Response {
            status: http,
            mut headers,
            body,
        } = answered;
        let said = || serde_json::from_slice(&body).unwrap_or(Value::Null);
        let is = |ready: bool| match ready {
            true => health::health_check_response::ServingStatus::Serving,
            false => health::health_check_response::ServingStatus::NotServing,
        };
        let message = match self.method {
            // Written as what it is, and perhaps kept so.
            Method::ModelInfer | Method::ModelStreamInfer => {
                return Response {
                    status: http,
                    headers,
                    body,
                };
            }
            Method::ServerLive => pb::ServerLiveResponse { live: true }.encode_to_vec(),
            Method::ServerReady => pb::ServerReadyResponse { ready: http == 200 }.encode_to_vec(),
            Method::ModelReady => pb::ModelReadyResponse { ready: true }.encode_to_vec(),
            Method::ServerMetadata => encode::server_metadata(&said()),
            Method::ModelMetadata => encode::model_metadata(&said()),
            Method::ModelConfig => encode::model_config(&said()),
            Method::ModelStatistics => encode::statistics(&said()),
            Method::RepositoryIndex => encode::index(&said()),
            Method::RepositoryModelLoad => pb::RepositoryModelLoadResponse {}.encode_to_vec(),
            Method::RepositoryModelUnload => pb::RepositoryModelUnloadResponse {}.encode_to_vec(),
            Method::HealthCheck | Method::HealthWatch => health::HealthCheckResponse {
                status: is(http == 200).into(),
            }
            .encode_to_vec(),
            Method::Reflection => Vec::new(),
        };
        let mut response = status::succeeded(message);
        headers.retain(|header| header.name != "content-type");
        response.headers.append(&mut headers);
        response
    }

    /// The answer where the route's is an error and the method's is none: asked whether a model is ready, one that is not,
    /// or is not there, is answered with no. Triton does so too, and its clients wait for models this way.
    pub fn soften(&self, problem: &Problem) -> Option<Response> {
        let not_ready = matches!(
            problem.code,
            Code::ModelNotReady | Code::UnknownModel | Code::UnknownVersion | Code::VersionGone
        );
        if self.method == Method::ModelReady && not_ready {
            let message = pb::ModelReadyResponse { ready: false }.encode_to_vec();
            return Some(status::succeeded(message));
        }
        None
    }
}

fn health_is(is: health::health_check_response::ServingStatus) -> Response {
    status::succeeded(health::HealthCheckResponse { status: is.into() }.encode_to_vec())
}

/// An error, as the call's method says it.
pub(crate) fn refused(problem: &Problem, request: &Request, request_id: &RequestId) -> Response {
    if Method::of(request.path()) != Some(Method::ModelStreamInfer) {
        return status::refused(problem, request_id);
    }
    status::refused_in_stream(problem, request_id, &call_id(request))
}

/// The caller's name for the request of a stream; empty where it has none that can be read.
pub(crate) fn call_id(request: &Request) -> String {
    match heading(request) {
        Ok(Some(heading)) if heading.id.len() <= MAX_ID_BYTES => heading.id,
        _ => String::new(),
    }
}

/// Whether a request is one message of a stream of inference requests.
pub(crate) fn is_streamed(request: &Request) -> bool {
    service::is_call(request) && Method::of(request.path()) == Some(Method::ModelStreamInfer)
}

/// What an inference request says of itself; `None` where the part of a compressed one that is looked at does not say.
fn heading(request: &Request) -> Result<Option<decode::Heading>, Problem> {
    let coding = coding::of(request)?;
    let (message, whole) = front(&request.body, coding)?;
    match decode::heading(&message) {
        Ok(heading) => Ok(Some(heading)),
        Err(rejection) if whole => Err(service::rejected(rejection)),
        Err(_) => Ok(decode::heading_of_front(&message)),
    }
}

/// A message, or as much of a compressed one as is looked at; and whether that is all of it.
fn front(body: &[u8], coding: Option<Coding>) -> Result<(Cow<'_, [u8]>, bool), Problem> {
    let Some(coding) = coding else {
        return Ok((Cow::Borrowed(body), true));
    };
    let mut decoded = Decoded::new(HEADING_BYTES as u64);
    match coding::decode(coding, body, &mut decoded) {
        Ok(()) => Ok((Cow::Owned(decoded.bytes), true)),
        Err(coding::DecodeError::TooLarge) => Ok((Cow::Owned(decoded.bytes), false)),
        Err(coding::DecodeError::Malformed(what)) => Err(Problem::new(
            Code::InvalidContentCoding,
            format!("the message is not {}: {what}", coding.name()),
        )),
    }
}
