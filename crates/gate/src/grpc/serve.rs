//! Maps a call over gRPC to a route, so that the same policies apply as over REST, and translates the route's answer
//! to the method's message.

use super::condense::condense;
use super::decode::{self, MAX_ID_BYTES};
use super::operations::ListRequest;
use super::service::{self, MAX_SMALL_MESSAGE_BYTES, Method, RpcRequest};
use super::{encode, reflection, status};
use crate::coding::{self, Coding, Decoded};
use crate::record::{Request, Response};
use crate::route::{OperationForm, Route, shorten};
use penstock_core::{Code, Problem, RequestId};
use penstock_proto::grpc::health::v1 as health;
use penstock_proto::inference as pb;
use penstock_tensor::Buffer;
use prost::Message;
use serde_json::Value;
use std::borrow::Cow;

/// The bytes of a compressed inference request that are decoded before authentication, to read its heading. Encoders
/// that write the fields in order put the heading before the tensors.
const HEADING_BYTES: usize = 2 * coding::STEP_BYTES;

/// A call over gRPC, read up to its heading.
pub(crate) struct Rpc {
    method: Method,
    asked: RpcRequest,
}

/// The result of reading a request.
pub(crate) enum RpcRead {
    /// The request takes a route.
    Routed(Route, Rpc),
    /// The request is already answered. It needs neither a route nor authentication.
    Answered(Response),
}

/// Reads the method and its request. Reads only the heading of an inference request.
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
        Method::ModelInfer | Method::ModelStreamInfer | Method::ModelInferAsync => {
            let (target, id) = match heading(request)? {
                Some(heading) => (heading.target, heading.id),
                None => (crate::route::target("", None), String::new()),
            };
            let form = method.form();
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
        RpcRequest::GetOperation(target) => Route::Operation(target.clone()),
        RpcRequest::CancelOperation(target) => Route::OperationCancel(target.clone()),
        RpcRequest::DeleteOperation(target) => Route::OperationDelete(target.clone()),
        RpcRequest::WaitOperation { target, .. } => Route::OperationWait(target.clone()),
        RpcRequest::ListOperations(list) => Route::OperationList(OperationForm::Grpc {
            tenant: list.tenant.clone(),
        }),
        RpcRequest::HealthUnknown { watching: true } => {
            let status = health::health_check_response::ServingStatus::ServiceUnknown;
            return Ok(RpcRead::Answered(health_is(status)));
        }
        RpcRequest::HealthUnknown { watching: false } => {
            return Err(Problem::new(
                Code::UnknownResource,
                "this server has no such service; omit the name to check the whole server",
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
    /// Returns the message type of an answer to an inference request.
    pub fn form(&self) -> encode::Form {
        match self.asked {
            RpcRequest::Infer { form, .. } => form,
            _ => encode::Form::Unary,
        }
    }

    /// Returns the milliseconds for which a request waits for an operation, if it names a time.
    pub fn timeout_ms(&self) -> Option<u64> {
        match self.asked {
            RpcRequest::WaitOperation { timeout_ms, .. } => timeout_ms,
            _ => None,
        }
    }

    /// Returns the parameters of a list of operations.
    pub fn list(&self) -> Option<&ListRequest> {
        match &self.asked {
            RpcRequest::ListOperations(list) => Some(list),
            _ => None,
        }
    }

    /// Translates the route's answer to the method's message.
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
            // The surface or the description has already written the message, and idempotency may have kept it.
            Method::ModelInfer
            | Method::ModelStreamInfer
            | Method::ModelInferAsync
            | Method::GetOperation
            | Method::ListOperations
            | Method::CancelOperation
            | Method::DeleteOperation
            | Method::WaitOperation => {
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

    /// Returns the method's answer for a problem that is not an error over gRPC. `ModelReady` answers `false` for a
    /// model that is not ready or does not exist. Triton does the same, and its clients use this to wait for models.
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

/// Writes an error in the form of the call's method.
pub(crate) fn refused(problem: &Problem, request: &Request, request_id: &RequestId) -> Response {
    if Method::of(request.path()) != Some(Method::ModelStreamInfer) {
        return status::refused(problem, request_id);
    }
    status::refused_in_stream(problem, request_id, &call_id(request))
}

/// Returns the caller's id of a stream's request; empty if there is none or it cannot be read.
pub(crate) fn call_id(request: &Request) -> String {
    match heading(request) {
        Ok(Some(heading)) if heading.id.len() <= MAX_ID_BYTES => heading.id,
        _ => String::new(),
    }
}

/// Returns whether a request is one message of an inference stream.
pub(crate) fn is_streamed(request: &Request) -> bool {
    service::is_call(request) && Method::of(request.path()) == Some(Method::ModelStreamInfer)
}

/// Reads the heading of an inference request. Returns `None` if the decoded part of a compressed request does not
/// contain it.
fn heading(request: &Request) -> Result<Option<decode::Heading>, Problem> {
    let coding = coding::of(request)?;
    // Without its large tensors. If that is not well formed, the whole message tells the place of the fault.
    if coding.is_none()
        && let Some(condensed) = condense(&request.body)
        && let Ok(heading) = decode::heading(&condensed.message)
    {
        return Ok(Some(heading));
    }
    let (message, whole) = front(&request.body, coding)?;
    match decode::heading(&message) {
        Ok(heading) => Ok(Some(heading)),
        Err(rejection) if whole => Err(service::rejected(rejection)),
        Err(_) => Ok(decode::heading_of_front(&message)),
    }
}

/// Returns the message, or the first [`HEADING_BYTES`] of a compressed one. Also returns whether that is the whole
/// message.
fn front(body: &Buffer, coding: Option<Coding>) -> Result<(Cow<'_, Buffer>, bool), Problem> {
    let Some(coding) = coding else {
        return Ok((Cow::Borrowed(body), true));
    };
    let mut decoded = Decoded::new(HEADING_BYTES as u64);
    match coding::decode(coding, body, &mut decoded) {
        Ok(()) => Ok((Cow::Owned(decoded.bytes.into()), true)),
        Err(coding::DecodeError::TooLarge) => Ok((Cow::Owned(decoded.bytes.into()), false)),
        Err(coding::DecodeError::Malformed(what)) => Err(Problem::new(
            Code::InvalidContentCoding,
            format!("the message is not {}: {what}", coding.name()),
        )),
    }
}
