//! Decides the events of an operation's event stream, and writes them in the form `text/event-stream` of the HTML standard.
//!
//! An event says in which state an operation is. Its id is computed from the state and the epoch, which the store keeps. So every
//! host computes the same id, also after a restart, and a client that reconnects gets only events after the one that it names.
//! Steps are ordered: an operation waits for epoch 1, runs in epoch 1, waits for epoch 2, and so on, until it ends. A stream that was slow
//! skips steps, because only the present state matters to its client. It never skips the end.

use super::words::{Operation, OperationState};
use penstock_core::OperationId;

/// The time after which a client reconnects when its stream has ended, in milliseconds. A busy server gets its clients back in
/// the time of a few heartbeats, and none of them waits long for the end that it missed.
pub const RETRY_MS: u32 = 2_000;

/// A comment that keeps a connection alive through proxies.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// The name of the event that ends a stream before its operation has ended.
pub const ERROR: &str = "error";

/// A step in the life of an operation. Later steps are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step(u32);

impl Step {
    /// The operation was accepted.
    pub const CREATED: Self = Self(0);
    /// The operation has ended. No step is greater, because an end of an earlier epoch may count.
    pub const ENDED: Self = Self(u32::MAX);
    /// The word for the end in ids.
    const END: &str = "end";

    /// The step of an operation.
    pub fn of(operation: &Operation) -> Self {
        Self::at(operation.state, operation.epoch)
    }

    /// The step of a state. `epoch` is the one in which the operation runs or may run next.
    pub fn at(state: OperationState, epoch: u32) -> Self {
        let running = epoch.max(1).saturating_mul(2).min(Self::ENDED.0 - 1);
        match state {
            OperationState::Queued => Self(running - 1),
            OperationState::Running => Self(running),
            OperationState::Succeeded | OperationState::Failed | OperationState::Cancelled => {
                Self::ENDED
            }
        }
    }

    /// The id of the event that tells the step. It names the operation, so that the id of another stream is not taken for one of this.
    pub fn id(self, operation: &OperationId) -> String {
        match self {
            Self::ENDED => format!("{operation}.{}", Self::END),
            Self(number) => format!("{operation}.{number}"),
        }
    }

    /// Reads the id of an event of an operation; `None` if it is none.
    pub fn parse(id: &str, operation: &OperationId) -> Option<Self> {
        let (named, step) = id.rsplit_once('.')?;
        if named != operation.as_str() {
            return None;
        }
        let is_number = !step.is_empty()
            && step.bytes().all(|byte| byte.is_ascii_digit())
            && (step == "0" || !step.starts_with('0'));
        match step {
            Self::END => Some(Self::ENDED),
            step if is_number => {
                let number = step.parse().ok().map(Self);
                number.filter(|number| *number < Self::ENDED)
            }
            _ => None,
        }
    }
}

/// The first part of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The client has seen the end, so it needs no stream and must not ask again.
    Over,
    /// The stream begins after this step. `None` if it begins with the present state.
    After(Option<Step>),
}

/// Decides where the stream of a client begins. `last` is the last event that the client names, if it is one of this operation.
///
/// A step that the operation has not reached yet is no event that was sent. The stream then begins with the present state.
pub fn open(present: Step, last: Option<Step>) -> Opening {
    match last.filter(|last| *last <= present) {
        Some(Step::ENDED) => Opening::Over,
        last => Opening::After(last),
    }
}

/// Returns the step of the event that is due; `None` if the client knows the present state. `sent` is the step of the last event.
pub fn due(present: Step, sent: Option<Step>) -> Option<Step> {
    sent.is_none_or(|sent| sent < present).then_some(present)
}

/// Returns whether a stream is over after the event of a step.
pub fn is_over(present: Step) -> bool {
    present == Step::ENDED
}

/// The name of the event that tells a state.
pub const fn name(state: OperationState) -> &'static str {
    match state {
        OperationState::Queued => "operation.queued",
        OperationState::Running => "operation.running",
        OperationState::Succeeded => "operation.succeeded",
        OperationState::Failed => "operation.failed",
        OperationState::Cancelled => "operation.cancelled",
    }
}

/// The name of the first event of a call that became an operation.
pub const CREATED: &str = "operation.created";

/// Adds the time after which a client reconnects.
pub fn write_retry(stream: &mut Vec<u8>) {
    stream.extend_from_slice(format!("retry: {RETRY_MS}\n\n").as_bytes());
}

/// Adds an event. Without an id, the client keeps the id of the last event that had one.
pub fn write(stream: &mut Vec<u8>, name: &str, id: Option<&str>, data: &[u8]) {
    stream.reserve(data.len() + 128);
    stream.extend_from_slice(format!("event: {name}\n").as_bytes());
    if let Some(id) = id {
        stream.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    // Each kind of line end begins a new field, and the client joins the lines again. Between the tokens of JSON they are all alike.
    let mut rest = data;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
        stream.extend_from_slice(b"data: ");
        stream.extend_from_slice(line);
        stream.push(b'\n');
        rest = match after {
            [] => break,
            [b'\r', b'\n', after @ ..] | [_, after @ ..] => after,
        };
    }
    stream.push(b'\n');
}

/// Writes the event that ends a stream early. `envelope` is the body of an error, a JSON object. It gets the member `reconnect`, which
/// says whether the client may ask for the stream again.
pub fn error(envelope: &[u8], reconnect: bool) -> Vec<u8> {
    let open = envelope.trim_ascii_end();
    let mut data = open.strip_suffix(b"}").unwrap_or(open).to_vec();
    data.extend_from_slice(format!(",\"reconnect\":{reconnect}}}").as_bytes());
    let mut stream = Vec::new();
    write(&mut stream, ERROR, None, &data);
    stream
}

#[cfg(test)]
mod tests {
    use super::*;
    use OperationState::{Cancelled, Failed, Queued, Running, Succeeded};

    fn operation(number: u128) -> OperationId {
        OperationId::generate(1_700_000_000_000, number)
    }

    #[test]
    fn steps_follow_the_life_of_an_operation() {
        let life = [
            Step::CREATED,
            Step::at(Queued, 1),
            Step::at(Running, 1),
            Step::at(Queued, 2),
            Step::at(Running, 2),
            Step::at(Queued, 64),
            Step::at(Running, 64),
            Step::at(Succeeded, 1),
        ];
        assert!(life.is_sorted_by(|a, b| a < b), "{life:?}");
        for ended in [Failed, Cancelled, Succeeded] {
            assert_eq!(Step::at(ended, 3), Step::ENDED);
        }
        assert!(Step::at(Running, u32::MAX) < Step::ENDED);
        assert_eq!(Step::at(Queued, 0), Step::at(Queued, 1));
    }

    #[test]
    fn an_id_reads_back_for_its_operation_and_all_other_texts_are_no_ids() {
        let id = operation(7);
        for step in [
            Step::CREATED,
            Step::at(Queued, 1),
            Step::at(Running, 9),
            Step::ENDED,
        ] {
            let text = step.id(&id);
            assert_eq!(Step::parse(&text, &id), Some(step), "{text}");
            assert_eq!(Step::parse(&text, &operation(8)), None, "{text}");
        }
        for end in [
            "",
            ".",
            ".-1",
            ".+1",
            ".01",
            ".1 ",
            ".END",
            ".4294967295",
            ".99999999999999999999",
            ".1.1",
        ] {
            let text = format!("{id}{end}");
            assert_eq!(Step::parse(&text, &id), None, "{text}");
        }
        for text in ["", "1", "end", ".end", "\0", "op_1.1"] {
            assert_eq!(Step::parse(text, &id), None, "{text}");
        }
    }

    #[test]
    fn a_stream_begins_after_the_event_that_the_client_names_if_it_was_one() {
        let (queued, running) = (Step::at(Queued, 1), Step::at(Running, 1));
        for (present, last, opening) in [
            (queued, None, Opening::After(None)),
            (
                queued,
                Some(Step::CREATED),
                Opening::After(Some(Step::CREATED)),
            ),
            (queued, Some(queued), Opening::After(Some(queued))),
            (running, Some(queued), Opening::After(Some(queued))),
            // No event of these steps was sent.
            (queued, Some(running), Opening::After(None)),
            (running, Some(Step::ENDED), Opening::After(None)),
            (Step::ENDED, None, Opening::After(None)),
            (Step::ENDED, Some(running), Opening::After(Some(running))),
            (Step::ENDED, Some(Step::ENDED), Opening::Over),
        ] {
            assert_eq!(open(present, last), opening, "{present:?} {last:?}");
        }
    }

    #[test]
    fn an_event_is_due_when_its_step_is_after_the_last_one() {
        let (queued, running) = (Step::at(Queued, 1), Step::at(Running, 1));
        for (present, sent, expected) in [
            (queued, None, Some(queued)),
            (queued, Some(Step::CREATED), Some(queued)),
            (queued, Some(queued), None),
            (running, Some(queued), Some(running)),
            // The owner of a lease that was over renewed it. The client was told of that run before.
            (running, Some(Step::at(Queued, 2)), None),
            (Step::ENDED, Some(running), Some(Step::ENDED)),
            (Step::ENDED, Some(Step::ENDED), None),
        ] {
            assert_eq!(due(present, sent), expected, "{present:?} {sent:?}");
        }
    }

    #[test]
    fn events_have_the_form_of_the_html_standard_whatever_the_data_is() {
        for (data, lines) in [
            (&b"{}"[..], "data: {}\n"),
            (b"", "data: \n"),
            (b"a\nb", "data: a\ndata: b\n"),
            (b"a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: \n"),
            (b"\n\nevent: x", "data: \ndata: \ndata: event: x\n"),
        ] {
            let mut stream = Vec::new();
            write(&mut stream, "n", Some("i"), data);
            let text = String::from_utf8(stream).unwrap();
            assert_eq!(text, format!("event: n\nid: i\n{lines}\n"));
        }
        let mut stream = Vec::new();
        write_retry(&mut stream);
        assert_eq!(stream, b"retry: 2000\n\n");
    }

    #[test]
    fn an_error_has_its_envelope_and_says_whether_a_client_may_reconnect() {
        for reconnect in [false, true] {
            let stream = error(b"{\"error\":{\"code\":\"internal\"}}\n", reconnect);
            let text = String::from_utf8(stream).unwrap();
            let data = text.strip_prefix("event: error\ndata: ").unwrap();
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["reconnect"], reconnect);
            assert_eq!(data["error"]["code"], "internal");
        }
    }
}
