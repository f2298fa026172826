//! Renders problems, and defines the problems that several files need.

use crate::grpc::{serve, service};
use crate::ports::{AdapterRefusal, Failure, FailureKind, RefusalKind};
use crate::record::{Request, Response};
use penstock_core::{Code, Problem, RequestId, Violation, negotiate};
use penstock_tensor::contract::Dim;
use penstock_tensor::{Contract, Rejection};

/// The `Retry-After` in seconds for a model that is loading. Loading takes seconds, not minutes.
pub(crate) const RETRY_NOT_READY_S: u32 = 2;
/// The `Retry-After` in seconds for a full queue. Queues drain within a second.
const RETRY_OVERLOADED_S: u32 = 1;
/// Largest `Retry-After` in seconds, also if a runtime reports a longer wait.
const MAX_RETRY_S: u64 = 3_600;

/// Renders a problem as an answer, in the form that the request accepts.
pub(crate) fn render(
    problem: &Problem,
    request: &Request,
    request_id: &RequestId,
    unix_ms: u64,
) -> Response {
    if service::is_call(request) {
        return serve::refused(problem, request, request_id);
    }
    render_over_rest(problem, request, request_id, unix_ms)
}

/// Renders a problem as an answer over REST.
pub(crate) fn render_over_rest(
    problem: &Problem,
    request: &Request,
    request_id: &RequestId,
    unix_ms: u64,
) -> Response {
    let style = negotiate::error_style(request.path(), request.header_list("accept").as_deref());
    let (content_type, body) = problem.render(style, request_id, unix_ms);
    let mut response = Response::new(problem.code.status(), content_type, body);
    // The form of the answer depends on `Accept`.
    response.push("vary", "accept");
    for (name, value) in problem.headers() {
        response.push(name, value);
    }
    response
}

/// Returns the problem of a failed run. `contract` is that of the model that ran. If it has an axis of variable
/// length besides the batch axis, the caller may be able to correct a failure of the runtime by other sizes.
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

/// Converts milliseconds to the whole seconds of `Retry-After`, rounded up, at least one.
fn whole_seconds(ms: u64) -> u32 {
    ms.div_ceil(1_000).clamp(1, MAX_RETRY_S) as u32
}

/// Returns whether an input has a symbolic axis that is not the batch axis.
fn has_open_axis(contract: &Contract) -> bool {
    let batch = contract.batch_axis();
    let open = |dim: &Dim| matches!(dim, Dim::Symbol(name) if Some(name.as_str()) != batch);
    contract
        .inputs
        .iter()
        .any(|input| input.shape.iter().any(open))
}

/// Returns whether a failure proves that the model did not run.
pub(crate) fn was_not_run(code: Code) -> bool {
    matches!(
        code,
        Code::ModelNotReady | Code::Overloaded | Code::DeadlineExceeded | Code::NotCached
    )
}

/// Returns the problem of a body that validation rejected.
pub(crate) fn rejected(rejection: Rejection) -> Problem {
    Problem::new(rejection.code, rejection.message)
        .with_violations(rejection.violations, rejection.omitted)
}

/// Returns the problem of outputs that need more memory for their JSON than is available.
pub(crate) fn outputs_too_large(bytes: usize) -> Problem {
    Problem::new(
        Code::ModelRejectedInputs,
        format!(
            "the model answered, but its outputs are {bytes} bytes of JSON, more than the available memory; \
             send fewer items"
        ),
    )
}

/// Returns the problem of content for a model without an adapter.
pub(crate) fn no_adapter(model: &str) -> Problem {
    let message = format!(
        "model `{model}` has no adapter, so it takes tensors only: as `inputs`, or as parts of type tensor"
    );
    Problem::new(Code::InvalidInputs, message.clone()).with_violations(
        vec![Violation::new("/content", "no_adapter", "tensors", message)],
        0,
    )
}

/// Returns the problem of a faulty adapter. Only the operator can repair it.
pub(crate) fn broken_adapter(model: &str, message: &str) -> Problem {
    Problem::new(
        Code::Internal,
        format!("the adapter of model `{model}` failed: {message}"),
    )
}

/// Returns the problem of content that an adapter refused.
pub(crate) fn content_refused(refusal: AdapterRefusal) -> Problem {
    let AdapterRefusal { item, part, kind } = refusal;
    match kind {
        RefusalKind::UnsupportedMediaType(message) => {
            Problem::new(Code::UnsupportedMediaType, message)
        }
        RefusalKind::InvalidContent(message) | RefusalKind::TooLong(message) => {
            let pointer = match part {
                Some(part) => format!("/content/{part}"),
                None => String::new(),
            };
            let message = if item == 0 {
                message
            } else {
                format!("item {item}: {message}")
            };
            Problem::new(Code::InvalidInputs, message.clone()).with_violations(
                vec![Violation::new(
                    pointer,
                    "invalid_content",
                    "content the adapter can read",
                    message,
                )],
                0,
            )
        }
    }
}
