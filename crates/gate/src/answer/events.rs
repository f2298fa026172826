//! Writes the event streams of operations: the first part, which answers a request, and the parts that the host asks for.

use super::operation;
use crate::record::Response;
use crate::route::OperationForm;
use penstock_core::OperationId;
use penstock_policy::operations::events::{self, Opening, Step};
use penstock_policy::operations::notes::{Form, Order, QueuePlace};
use penstock_policy::operations::words::Operation;
use penstock_tensor::generate::EVENT_STREAM;

/// A part of an event stream.
pub(crate) struct Part {
    /// The events of the part.
    pub response: Response,
    /// The host's order for the next part; `None` if the stream is over.
    pub next: Option<Order>,
}

/// Returns the first part of the stream of an operation. `last` is the id of the last event that the client has. Returns `None`
/// if the client has seen the end.
pub(crate) fn opened(
    found: &Operation,
    queue: Option<QueuePlace>,
    form: &OperationForm,
    last: Option<&str>,
) -> Option<Part> {
    let last = last.and_then(|last| Step::parse(last, &found.id));
    let Opening::After(sent) = events::open(Step::of(found), last) else {
        return None;
    };
    let mut stream = Vec::new();
    events::write_retry(&mut stream);
    Some(part(stream, found, queue, form, sent))
}

/// Returns the part of a stream that follows the event with the id `after`. It is empty if the client knows the present state.
pub(crate) fn continued(
    found: &Operation,
    queue: Option<QueuePlace>,
    form: &OperationForm,
    after: Option<&str>,
) -> Part {
    let sent = after.and_then(|after| Step::parse(after, &found.id));
    part(Vec::new(), found, queue, form, sent)
}

fn part(
    mut stream: Vec<u8>,
    found: &Operation,
    queue: Option<QueuePlace>,
    form: &OperationForm,
    sent: Option<Step>,
) -> Part {
    let present = Step::of(found);
    let due = events::due(present, sent);
    if let Some(step) = due {
        let data = operation::operation(found, queue, form);
        let name = events::name(found.state);
        events::write(&mut stream, name, Some(&step.id(&found.id)), &data);
    }
    let next = (!events::is_over(present)).then(|| Order::Stream {
        form: form.name(),
        after: due.or(sent).map(|step| step.id(&found.id)),
    });
    Part {
        response: streamed(stream),
        next,
    }
}

/// Returns the first part of the stream of a call that became an operation. `accepted` is its answer without a stream, and `last` the
/// id of the last event that the client has, if it repeats the call. Returns `None` if the client has seen the end.
pub(crate) fn created(
    mut accepted: Response,
    id: &OperationId,
    last: Option<&str>,
) -> Option<Part> {
    let last = last.and_then(|last| Step::parse(last, id));
    if last == Some(Step::ENDED) {
        return None;
    }
    let mut stream = Vec::new();
    events::write_retry(&mut stream);
    if last.is_none() {
        let data = &*accepted.body;
        events::write(
            &mut stream,
            events::CREATED,
            Some(&Step::CREATED.id(id)),
            data,
        );
    }
    let Response {
        status,
        headers,
        body,
    } = streamed(stream);
    // The others say how the call was accepted.
    accepted
        .headers
        .retain(|header| header.name != "content-type");
    accepted.headers.extend(headers);
    Some(Part {
        response: Response {
            status,
            headers: accepted.headers,
            body,
        },
        next: Some(Order::Stream {
            form: Form::Plain,
            after: Some(last.unwrap_or(Step::CREATED).id(id)),
        }),
    })
}

/// Returns the answer with a part of a stream.
fn streamed(stream: Vec<u8>) -> Response {
    let mut response = Response::new(200, EVENT_STREAM, stream);
    response.push("cache-control", "no-store");
    // nginx would hold events back until it has a page of them.
    response.push("x-accel-buffering", "no");
    response
}
