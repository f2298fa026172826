//! Answers the routes of operations: reading, listing, cancelling, deleting, and the request to wait.

use crate::answer::{events, operation as answer};
use crate::exchange::Exchange;
use crate::grpc::operations::ListRequest;
use crate::grpc::status;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::prefer::{MAX_WAIT_S, Preferences, no_stream};
use crate::record::{Request, Response};
use crate::representation::Representation;
use crate::route::{OperationForm, OperationTarget, Route, percent_decoded, shorten};
use penstock_core::negotiate::Events;
use penstock_core::{Caller, Code, OperationId, Problem};
use penstock_policy::auth::service::AuthService;
use penstock_policy::operations::Cancelled;
use penstock_policy::operations::notes::{Note, Order, Push, QueuePlace};
use penstock_policy::operations::service::OperationsService;
use penstock_policy::operations::words::{Operation, OperationState, Refusal};
use penstock_policy::quota::service::QuotaService;
use serde::Deserialize;

/// The operations on a page, if the request names no number.
const DEFAULT_PAGE: u32 = 50;
/// The most operations on a page. Each is read by several operations of the store.
const MAX_PAGE: u32 = 200;

/// Answers a route of operations; `None` for other routes.
pub(crate) fn answer<P: Ports>(
    ports: &P,
    policies: &Policies<P>,
    exchange: &mut Exchange<'_>,
    route: &Route,
    caller: &Caller,
) -> Option<Result<Response, Problem>> {
    let asked = Asked {
        policies,
        caller,
        now_ms: exchange.context.unix_ms,
    };
    Some(match route {
        Route::OperationList(form) => {
            let page = match exchange.rpc.as_ref().and_then(|rpc| rpc.list()) {
                Some(list) => Page::of_message(list),
                None => Page::of(exchange.request),
            };
            page.and_then(|page| asked.list(page, form))
        }
        Route::OperationDelete(target) => asked.delete(target),
        Route::Operation(target) if exchange.events != Events::No => asked.stream(exchange, target),
        Route::Operation(target) => {
            // A client that polls learns by the tag that nothing changed.
            exchange.representation = Representation::Personal;
            let wait_ms = poll_wait_ms(exchange);
            asked.read(exchange, target, wait_ms)
        }
        Route::OperationWait(target) => {
            wait_ms(exchange).and_then(|wait_ms| asked.read(exchange, target, wait_ms))
        }
        Route::OperationResponse(target) => asked.response(target),
        Route::OperationCancel(target) => asked.cancel(ports, exchange, target),
        Route::OperationAnnounce(target) => asked.announce(exchange, target),
        _ => return None,
    })
}

/// The most milliseconds that a client may wait for an operation in one request.
const MAX_WAIT_MS: u64 = MAX_WAIT_S * 1_000;

/// Returns the milliseconds for which a request to wait waits.
pub(crate) fn wait_ms(exchange: &Exchange<'_>) -> Result<u64, Problem> {
    match &exchange.rpc {
        Some(rpc) => Ok(rpc.timeout_ms().unwrap_or(MAX_WAIT_MS).min(MAX_WAIT_MS)),
        None => wait_of(exchange.request),
    }
}

/// Returns the milliseconds for which a request that reads an operation waits for its end. Over gRPC, another method waits.
pub(crate) fn poll_wait_ms(exchange: &Exchange<'_>) -> u64 {
    match exchange.is_rpc {
        true => 0,
        false => Preferences::of(exchange.request).wait_ms(),
    }
}

/// The parts of a request about operations that all routes need.
struct Asked<'a, P: Ports> {
    policies: &'a Policies<P>,
    caller: &'a Caller,
    now_ms: u64,
}

impl<P: Ports> Asked<'_, P> {
    fn service(&self) -> Result<&P::Operations, Problem> {
        match self.policies.operation_rules.enabled {
            true => Ok(&self.policies.operations),
            false => Err(Problem::new(
                Code::UnknownPath,
                "there are no operations here; the operator enables them with `[operations]` `enabled = true`",
            )),
        }
    }

    /// Finds the operation that a target names, if the caller may see it.
    fn find(&self, target: &OperationTarget, with_body: bool) -> Result<Operation, Problem> {
        let service = self.service()?;
        let unknown = || unknown(&target.id);
        if (target.form.tenant()).is_some_and(|tenant| *tenant != self.caller.tenant) {
            return Err(unknown());
        }
        let id = OperationId::parse(&target.id).ok_or_else(unknown)?;
        let found = service
            .get(&id, Some(&self.caller.tenant), with_body, self.now_ms)
            .map_err(Refusal::problem)?;
        let found = found.ok_or_else(unknown)?;
        let seen = self
            .policies
            .auth
            .sees(self.caller, std::slice::from_ref(&found.model));
        match seen.first() {
            Some(true) => Ok(found),
            _ => Err(unknown()),
        }
    }

    fn read(
        &self,
        exchange: &mut Exchange<'_>,
        target: &OperationTarget,
        wait_ms: u64,
    ) -> Result<Response, Problem> {
        let found = self.find(target, true)?;
        let queue = exchange.connection.queue;
        if !found.state.is_final() && wait_ms > 0 {
            exchange.headers.host_note = Some(Note {
                // Another host may have accepted it, and be gone.
                push: Some(push_of(&found)),
                wait_ms: Some(wait_ms),
                then: Some(Order::Describe {
                    form: target.form.name(),
                }),
                ..Note::about(&found.id)
            });
        }
        Ok(described(&found, queue, &target.form))
    }

    /// Opens an event stream, which the host continues.
    fn stream(
        &self,
        exchange: &mut Exchange<'_>,
        target: &OperationTarget,
    ) -> Result<Response, Problem> {
        let found = self.find(target, true)?;
        exchange.representation = Representation::Opaque;
        let last = exchange.request.header_text("last-event-id");
        let queue = exchange.connection.queue;
        let Some(part) = events::opened(&found, queue, &target.form, last) else {
            // A client of the HTML standard then stops asking.
            return Ok(Response::empty(204));
        };
        // The answer to HEAD is no stream.
        if part.next.is_some() && exchange.request.method == "GET" {
            if exchange.connection.streams_full {
                return Err(no_stream());
            }
            exchange.headers.host_note = Some(Note {
                // Another host may have accepted it, and be gone.
                push: Some(push_of(&found)),
                stream: part.next,
                ..Note::about(&found.id)
            });
        }
        Ok(part.response)
    }

    fn response(&self, target: &OperationTarget) -> Result<Response, Problem> {
        let found = self.find(target, true)?;
        stored(found)
    }

    fn list(&self, page: Page, form: &OperationForm) -> Result<Response, Problem> {
        let service = self.service()?;
        if let Some(tenant) = form.tenant()
            && *tenant != self.caller.tenant
        {
            // Over gRPC, the tenant is not a part of the path, which is a method.
            let code = match form {
                OperationForm::Grpc { .. } => Code::UnknownResource,
                _ => Code::UnknownPath,
            };
            return Err(Problem::new(
                code,
                format!("you have no tenant `{}`", shorten(tenant)),
            ));
        }
        if self.caller.anonymous
            && self
                .caller
                .address
                .as_deref()
                .is_none_or(|address| !is_loopback(address))
        {
            return Err(Problem::new(
                Code::PermissionDenied,
                "callers without credentials cannot list operations, because they would see those of others; keep the ids, or \
                 send an API key",
            ));
        }
        let Page { size, start, state } = page;
        let mut listing = service
            .list(&self.caller.tenant, start, size, self.now_ms)
            .map_err(Refusal::problem)?;
        let names: Vec<String> = listing
            .operations
            .iter()
            .map(|found| found.model.clone())
            .collect();
        let mut seen = self.policies.auth.sees(self.caller, &names).into_iter();
        listing.operations.retain(|found| {
            seen.next() == Some(true) && state.is_none_or(|state| state == found.state)
        });
        let next = listing
            .next
            .map(|(hour, number)| format!("{hour}.{number}"));
        let body = answer::list(&listing.operations, next, form);
        Ok(match form {
            OperationForm::Grpc { .. } => status::succeeded(body),
            _ => Response::new(200, "application/json", body),
        })
    }

    fn cancel(
        &self,
        ports: &P,
        exchange: &mut Exchange<'_>,
        target: &OperationTarget,
    ) -> Result<Response, Problem> {
        let found = self.find(target, false)?;
        let now_ms = self.now_ms;
        let cancelled = self
            .service()?
            .cancel(&found.id, &self.caller.tenant, now_ms)
            .map_err(Refusal::problem)?;
        let Some(Cancelled { operation, receipt }) = cancelled else {
            return Err(unknown(&target.id));
        };
        if !receipt.is_empty() {
            self.policies
                .quota
                .settle_deferred(&receipt, None, ports.unix_ms());
        }
        // This request ended it, if it had not ended before. One that runs is ended by its worker.
        let has_ended = !found.state.is_final() && operation.state.is_final();
        exchange.headers.host_note = Some(Note {
            cancel: true,
            ended: operation.state.event().filter(|_| has_ended),
            is_final: operation.state.is_final(),
            ..Note::about(&operation.id)
        });
        if matches!(target.form, OperationForm::Grpc { .. }) {
            return Ok(empty());
        }
        // It may have ended with a result before; then that is read again with the result.
        let operation = match operation.state {
            OperationState::Succeeded => self.find(target, true)?,
            _ => operation,
        };
        Ok(described(&operation, None, &target.form))
    }

    fn announce(
        &self,
        exchange: &mut Exchange<'_>,
        target: &OperationTarget,
    ) -> Result<Response, Problem> {
        let mut found = self.find(target, true)?;
        if self.policies.webhook_key.is_none() {
            return Err(Problem::new(
                Code::FailedPrecondition,
                "this server sends no webhooks; read the operation instead, or ask the operator ([[webhooks.tenants]])",
            ));
        }
        let announced = (self.service()?)
            .announce_again(&found.id, &self.caller.tenant, self.now_ms)
            .map_err(Refusal::problem)?;
        found.webhook = announced.ok_or_else(|| unknown(&target.id))?.webhook;
        exchange.headers.host_note = Some(Note {
            announce: true,
            ..Note::about(&found.id)
        });
        Ok(described(&found, None, &target.form))
    }

    fn delete(&self, target: &OperationTarget) -> Result<Response, Problem> {
        let found = self.find(target, false)?;
        let deleted = self
            .service()?
            .delete(&found.id, &self.caller.tenant, self.now_ms);
        match deleted.map_err(Refusal::problem)? {
            Some(_) if matches!(target.form, OperationForm::Grpc { .. }) => Ok(empty()),
            Some(_) => Ok(Response::json(200, &serde_json::json!({}))),
            None => Err(unknown(&target.id)),
        }
    }
}

/// Returns the answer with a `google.protobuf.Empty`.
fn empty() -> Response {
    status::succeeded(Vec::new())
}

/// The facts about an operation for the queue of a host that did not accept it.
pub(crate) fn push_of(found: &Operation) -> Push {
    Push {
        tenant: found.tenant.clone(),
        model: found.model.clone(),
        priority: None,
        items: found.items,
    }
}

/// Returns whether an address is of this machine, where all callers without credentials are the same operator.
pub(super) fn is_loopback(address: &str) -> bool {
    address
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

/// Returns the problem of an operation that does not exist, or that the caller may not see.
pub(crate) fn unknown(id: &str) -> Problem {
    Problem::new(
        Code::UnknownOperation,
        format!(
            "you have no operation `{}`; it may have expired. List yours",
            shorten(id)
        ),
    )
}

/// Returns the answer that describes an operation.
pub(crate) fn described(
    operation: &Operation,
    queue: Option<QueuePlace>,
    form: &OperationForm,
) -> Response {
    let body = answer::operation(operation, queue, form);
    if matches!(form, OperationForm::Grpc { .. }) {
        return status::succeeded(body);
    }
    let mut response = Response::new(200, "application/json", body);
    if !operation.state.is_final() {
        // A client that only polls takes this as its pace.
        response.push("retry-after", "1");
    }
    response
}

/// Returns the answer that the call of a finished operation would have got.
pub(crate) fn stored(operation: Operation) -> Result<Response, Problem> {
    let (id, state) = (operation.id, operation.state);
    let Some(end) = operation.end else {
        return Err(Problem::new(
            Code::FailedPrecondition,
            format!(
                "the operation is {} and has no result yet; wait for it with POST /v1/operations/{id}:wait",
                state.as_str()
            ),
        )
        .retry_after(1));
    };
    if state == OperationState::Cancelled {
        return Err(Problem::new(
            Code::FailedPrecondition,
            "the operation was cancelled and has no result",
        ));
    }
    let mut response = Response {
        status: end.status,
        headers: Vec::with_capacity(end.headers.len() + 4),
        body: end.body.unwrap_or_default().into(),
    };
    for (name, value) in end.headers {
        response.push(&name, value);
    }
    if response.body.is_empty() && state == OperationState::Failed {
        // It ended without a run, so no answer was written.
        let code = Code::parse(&end.code).unwrap_or(Code::Internal);
        return Err(Problem::new(code, end.message));
    }
    Ok(response)
}

/// Returns the milliseconds that `:wait` asks for: `timeout` in the body, as a duration of protocol buffers ("10s"), or
/// `Prefer: wait`; otherwise as long as a request may wait.
fn wait_of(request: &Request) -> Result<u64, Problem> {
    #[derive(Default, Deserialize)]
    struct Body {
        timeout: Option<String>,
    }
    if let Some(wait_s) = Preferences::of(request).wait_s {
        return Ok(wait_s * 1_000);
    }
    if request.body.trim_ascii().is_empty() {
        return Ok(MAX_WAIT_MS);
    }
    let body: Body = serde_json::from_slice(&request.body).map_err(|error| {
        Problem::new(
            Code::InvalidBody,
            format!("the body is not a JSON object with a member `timeout`, such as {{\"timeout\": \"10s\"}}: {error}"),
        )
    })?;
    let Some(timeout) = body.timeout else {
        return Ok(MAX_WAIT_MS);
    };
    let wait_ms = duration_ms(&timeout).ok_or_else(|| {
        Problem::new(
            Code::InvalidBody,
            format!(
                "`timeout` is `{}`; write seconds with the letter s, such as \"10s\"",
                shorten(&timeout)
            ),
        )
    })?;
    Ok(wait_ms.min(MAX_WAIT_MS))
}

/// Reads a duration of protocol buffers: decimal seconds, a fraction of up to nine digits, and the letter s.
fn duration_ms(text: &str) -> Option<u64> {
    let number = text.strip_suffix('s')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |part: &str, most: usize| {
        (1..=most).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_digit())
    };
    if !is_number(whole, 12) || !is_number(fraction, 9) {
        return None;
    }
    let fraction_ms: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some(whole.parse::<u64>().ok()? * 1_000 + fraction_ms)
}

/// The parameters of a list.
struct Page {
    size: u32,
    start: Option<(u64, u64)>,
    state: Option<OperationState>,
}

impl Page {
    const FIRST: Self = Self {
        size: DEFAULT_PAGE,
        start: None,
        state: None,
    };

    fn of(request: &Request) -> Result<Self, Problem> {
        let mut page = Self::FIRST;
        for (name, sent) in request.parameters() {
            let value = percent_decoded(&sent.replace('+', " "))
                .ok_or_else(|| invalid(name, sent, "write `%` as `%25`"))?;
            page.set(name, &value)?;
        }
        Ok(page)
    }

    /// Reads the parameters of a request over gRPC.
    fn of_message(list: &ListRequest) -> Result<Self, Problem> {
        let mut page = Self::FIRST;
        page.set("page_size", &list.page_size.to_string())?;
        page.set("page_token", &list.page_token)?;
        page.set("filter", &list.filter)?;
        Ok(page)
    }

    /// Sets a parameter. An empty filter or token is like none.
    fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        match name {
            "page_size" | "pageSize" => {
                let size: u32 = value.parse().map_err(|_| {
                    invalid(name, value, "write the number of operations on a page")
                })?;
                self.size = match size {
                    0 => DEFAULT_PAGE,
                    size => size.min(MAX_PAGE),
                };
            }
            "page_token" | "pageToken" if value.is_empty() => {}
            "page_token" | "pageToken" => {
                let token = value
                    .split_once('.')
                    .and_then(|(hour, number)| Some((hour.parse().ok()?, number.parse().ok()?)));
                self.start = Some(token.ok_or_else(|| {
                    let form = "give the `next_page_token` of an answer, or leave it out";
                    invalid(name, value, form)
                })?);
            }
            "filter" if value.is_empty() => {}
            "filter" | "state" => {
                let word = match value.split_once('=') {
                    Some((member, word)) if member.trim() == "state" => word,
                    _ => value,
                };
                let word = word.trim().trim_matches('"');
                let state = OperationState::parse(word);
                self.state = Some(state.ok_or_else(|| {
                    let known = OperationState::ALL.map(OperationState::as_str).join(", ");
                    invalid(name, value, &format!("write a state, one of {known}"))
                })?);
            }
            _ => {
                return Err(Problem::new(
                    Code::InvalidParameter,
                    format!(
                        "there is no parameter `{}`; they are `page_size`, `page_token` and `state`",
                        shorten(name)
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn invalid(name: &str, value: &str, form: &str) -> Problem {
    Problem::new(
        Code::InvalidParameter,
        format!(
            "the parameter `{}` is `{}`; {form}",
            shorten(name),
            shorten(value)
        ),
    )
}

/// Returns the answer that accepts a call as an operation.
pub(crate) fn accepted(operation: &Operation) -> Response {
    let form = OperationForm::Plain;
    let body = answer::operation(operation, None, &form);
    let mut response = Response::new(202, "application/json", body);
    response.push("location", answer::path(operation, &form));
    response
}
