//! Implements `:batchPredict`. The body is `{"requests":[…]}`, and each request is a body of `:predict`. Each result
//! has its own status, error and prediction id, in the order of the requests.
//!
//! An invalid request fails alone. Requests with compatible tensors run as one batch if the model's rows are
//! independent. If the batch fails, each request runs separately, so that only the faulty one fails.

use super::body::{JSON, text};
use super::predict::{self, Body};
use crate::answer;
use crate::answer::errors::BatchError;
use crate::catalogue::Opened;
use crate::ports::{Item, Ports};
use crate::problem::{no_adapter, rejected, was_not_run};
use crate::record::Response;
use crate::route::shorten;
use crate::run::prepare::{item_count, prepare};
use crate::run::{RunOptions, Runner, SurfaceAnswer, Work};
use penstock_core::json::to_bytes;
use penstock_core::{Code, PredictionId, Problem, Violation};
use penstock_tensor::batch::{join, split};
use penstock_tensor::json::{Kind, Names, Scanner};
use penstock_tensor::{Contract, Rejection, Tensor, render};
use serde_json::json;
use std::ops::Range;

/// The most time in nanoseconds that adapters may spend on reading the content of one batch. An instance has ten
/// seconds of computing time for a request. Each image or recording is within its own limits, but many together may
/// exceed that time.
const MAX_PREPARING_NS: u64 = 3_000_000_000;

/// One request of the batch after parsing.
struct Entry {
    caller_id: Option<String>,
    outcome: Result<Body, Problem>,
}

/// The result of one request.
struct Outcome {
    caller_id: Option<String>,
    /// The prediction's id, its array of predictions, and the number of its values that JSON cannot represent.
    result: Result<(PredictionId, Vec<u8>, u64), Problem>,
}

struct Batch {
    entries: Vec<Entry>,
    items: u64,
}

/// Reads the body of a batch. Only an error of the body as a whole refuses the call.
pub(super) fn decode<P: Ports>(
    opened: &Opened<P>,
    body: &[u8],
) -> Result<Box<dyn Work<P>>, Problem> {
    let most = opened.contract.limits.max_items;
    let ranges = requests(body, most)?;
    let text = text(body)?.as_bytes();
    let mut items = 0;
    let mut entries = Vec::with_capacity(ranges.len());
    for range in ranges {
        let (outcome, caller_id) = match predict::read_json(opened, &text[range]) {
            Ok((_, said)) if said.model_version.is_some() => (Err(one_version()), said.id),
            Ok((read, said)) => (Ok(read), said.id),
            Err(problem) => (Err(problem), None),
        };
        items += match &outcome {
            Ok(Body::Tensors(inputs)) => item_count(inputs, &opened.contract),
            Ok(Body::Parts(_)) => 1,
            Err(_) => 0,
        };
        entries.push(Entry { caller_id, outcome });
    }
    if items > most {
        return Err(too_many(items, most));
    }
    Ok(Box::new(Batch { entries, items }))
}

/// Returns the problem of a request that names its own version. One version answers the whole batch.
fn one_version() -> Problem {
    let message = "one version answers the whole batch; name it in the path or in X-Model-Version, and not in a request";
    Problem::new(Code::InvalidBody, message).with_violations(
        vec![Violation::new(
            "/model_version",
            "unknown_member",
            "no `model_version` in a request of a batch",
            message,
        )],
        0,
    )
}

fn too_many(items: u64, most: u64) -> Problem {
    let message = format!(
        "the requests hold {items} items; this model takes at most {most} in one call, so send them in several"
    );
    Problem::new(Code::InvalidInputs, message.clone()).with_violations(
        vec![Violation::new(
            "/requests",
            "too_many_items",
            format!("at most {most} items"),
            message,
        )],
        0,
    )
}

/// Returns the byte range of each request in the body.
fn requests(body: &[u8], most: u64) -> Result<Vec<Range<usize>>, Problem> {
    let syntax = |error| rejected(Rejection::from(error));
    let form = |pointer: &'static str, rule: &'static str, expected: String| {
        let message = format!("`{pointer}` has the wrong form; expected: {expected}");
        Problem::new(Code::InvalidBody, message.clone())
            .with_violations(vec![Violation::new(pointer, rule, expected, message)], 0)
    };
    let mut scanner = Scanner::new(body);
    if scanner.kind().map_err(|e| syntax(*e))? != Kind::Object {
        let expected = "an object with \"requests\"".to_owned();
        return Err(form("", "wrong_type", expected));
    }
    let mut names = Names::default();
    let mut found = None;
    let mut member = scanner.open_object(&mut names).map_err(|e| syntax(*e))?;
    while let Some(name) = member {
        if name != "requests" {
            let expected = format!("only `requests`; there is no `{}`", shorten(&name));
            return Err(form("", "unknown_member", expected));
        }
        if scanner.kind().map_err(|e| syntax(*e))? != Kind::Array {
            let expected = "an array of requests".to_owned();
            return Err(form("/requests", "wrong_type", expected));
        }
        let mut ranges = Vec::new();
        let mut more = scanner.open_array().map_err(|e| syntax(*e))?;
        while more {
            if ranges.len() as u64 == most {
                return Err(too_many(most + 1, most));
            }
            scanner.kind().map_err(|e| syntax(*e))?;
            let from = scanner.offset();
            scanner.skip_value().map_err(|e| syntax(*e))?;
            ranges.push(from..scanner.offset());
            more = scanner.next_element().map_err(|e| syntax(*e))?;
        }
        found = Some(ranges);
        member = scanner.next_member(&mut names).map_err(|e| syntax(*e))?;
    }
    scanner.finish().map_err(|e| syntax(*e))?;
    match found {
        Some(ranges) if !ranges.is_empty() => Ok(ranges),
        Some(_) => Err(form(
            "/requests",
            "empty",
            "at least one request".to_owned(),
        )),
        None => Err(form(
            "",
            "missing_member",
            "an object with \"requests\"".to_owned(),
        )),
    }
}

impl<P: Ports> Work<P> for Batch {
    fn items(&self) -> u64 {
        self.items
    }

    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(self.entries.len());
        let mut waiting: Vec<(usize, Vec<Tensor>)> = Vec::new();
        let mut adapted = Vec::new();
        for (index, entry) in self.entries.into_iter().enumerate() {
            let result = match entry.outcome {
                Err(problem) => Err(problem),
                Ok(read) => {
                    match read {
                        Body::Tensors(inputs) => waiting.push((index, inputs)),
                        Body::Parts(parts) => adapted.push((index, parts)),
                    }
                    // Placeholder until the request has run.
                    Err(Problem::new(Code::Internal, "the request was left out"))
                }
            };
            outcomes.push(Outcome {
                caller_id: entry.caller_id,
                result,
            });
        }
        for group in groups(waiting, runner.contract()) {
            for (index, result) in run_group(runner, group) {
                outcomes[index].result = result;
            }
        }
        let mut prepared_ns = 0;
        for (index, parts) in adapted {
            if prepared_ns > MAX_PREPARING_NS {
                outcomes[index].result = Err(Problem::new(
                    Code::Overloaded,
                    "reading the content of the requests before this one took all the time a batch may take for it; send it \
                     in another call",
                ));
                continue;
            }
            let item = Item {
                parts: parts.iter().map(|part| part.part()).collect(),
            };
            outcomes[index].result = run_adapted(runner, item, &mut prepared_ns);
        }
        runner.meter.is_to_forget = outcomes.iter().all(|outcome| {
            let problem = outcome.result.as_ref().err();
            problem.is_some_and(|problem| was_not_run(problem.code))
        });
        Ok(write(runner, outcomes))
    }
}

/// Requests that can run as one batch, each with its index in the call.
type Group = Vec<(usize, Vec<Tensor>)>;

/// Groups the requests that can be joined. A group has the position of its first request.
fn groups(waiting: Group, contract: &Contract) -> Vec<Group> {
    let joins = contract.batch_axis().is_some();
    let mut groups: Vec<Group> = Vec::new();
    for entry in waiting {
        let fits = |group: &&mut Group| {
            let same = |(a, b): (&Tensor, &Tensor)| {
                a.name == b.name && a.datatype == b.datatype && a.shape.get(1..) == b.shape.get(1..)
            };
            group[0].1.len() == entry.1.len() && group[0].1.iter().zip(&entry.1).all(same)
        };
        match groups.iter_mut().filter(|_| joins).find(fits) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
}

type Ran = Result<(PredictionId, Vec<u8>, u64), Problem>;

/// Runs a group as one batch if possible, else each request separately.
fn run_group<P: Ports>(runner: &mut Runner<'_, P>, group: Group) -> Vec<(usize, Ran)> {
    let contract = runner.contract();
    if group.len() > 1 {
        let sizes: Vec<u64> = group
            .iter()
            .map(|(_, inputs)| item_count(inputs, contract))
            .collect();
        let all: Vec<&[Tensor]> = group.iter().map(|(_, inputs)| inputs.as_slice()).collect();
        let joined = join(&all);
        match runner.infer_combined(joined, &[]) {
            Ok(Some(outputs)) => {
                if let Some(parts) = split(outputs, &sizes) {
                    let places = group.into_iter().map(|(index, _)| index);
                    return places
                        .zip(parts)
                        .map(|(index, outputs)| (index, finished(runner, outputs)))
                        .collect();
                }
                // The model did not return one row for each item. Undo the count; the separate runs below count
                // again.
                runner.meter.items = runner.meter.items.saturating_sub(sizes.iter().sum());
            }
            // Nothing ran, because each answer would depend on the other requests. Run them separately.
            Ok(None) => {}
            // Nothing ran, and separate runs would fail for the same reason.
            Err(problem) if was_not_run(problem.code) => {
                let places = group.into_iter().map(|(index, _)| index);
                return places.map(|index| (index, Err(problem.clone()))).collect();
            }
            // The failure counts against the version only if each request also fails separately.
            Err(_) => runner.meter.failed = None,
        }
    }
    let mut ran = Vec::with_capacity(group.len());
    for (index, inputs) in group {
        let result = runner.infer(inputs, &[], RunOptions::default());
        let result = result.and_then(|outputs| finished(runner, outputs));
        ran.push((index, result));
    }
    ran
}

fn finished<P: Ports>(runner: &mut Runner<'_, P>, outputs: Vec<Tensor>) -> Ran {
    let (predictions, non_finite) = predict::write(runner, outputs)?;
    Ok((runner.prediction_id(), predictions, non_finite))
}

fn run_adapted<P: Ports>(runner: &mut Runner<'_, P>, item: Item<'_>, prepared_ns: &mut u64) -> Ran {
    let Some(adapter) = &runner.opened.adapter else {
        return Err(no_adapter(runner.model));
    };
    let ports = runner.call.ports;
    let begun_ns = ports.monotonic_ns();
    let step = prepare(adapter, runner.contract(), runner.model, &[item]);
    *prepared_ns += ports.monotonic_ns().saturating_sub(begun_ns);
    let answers = runner.adapt(1, step?)?;
    let text = answers.into_iter().next().map_or(String::new(), |a| a.text);
    Ok((runner.prediction_id(), format!("[{text}]").into_bytes(), 0))
}

/// Returns whether a retry of the same request may succeed.
fn is_worth_a_retry(code: Code) -> bool {
    matches!(code.status(), 429 | 500 | 503 | 504)
}

fn write<P: Ports>(runner: &Runner<'_, P>, outcomes: Vec<Outcome>) -> SurfaceAnswer {
    let context = runner.call.context;
    let failed: Vec<usize> = outcomes
        .iter()
        .enumerate()
        .filter(|(_, outcome)| outcome.result.is_err())
        .map(|(index, _)| index)
        .collect();
    let retry: Vec<usize> = failed
        .iter()
        .copied()
        .filter(|index| {
            let problem = outcomes[*index].result.as_ref().err();
            problem.is_some_and(|problem| is_worth_a_retry(problem.code))
        })
        .collect();
    let mut body = Vec::with_capacity(256 * outcomes.len());
    body.extend_from_slice(b"{\"model\":");
    render::write_string(&mut body, runner.model);
    body.extend_from_slice(b",\"model_version\":");
    render::write_string(&mut body, &runner.serving.version.to_string());
    body.extend_from_slice(b",\"results\":[");
    let total = outcomes.len();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        let status = match &outcome.result {
            Ok(_) => 200,
            Err(problem) => problem.code.status(),
        };
        body.extend_from_slice(format!("{{\"index\":{index},\"status\":{status}").as_bytes());
        if let Some(id) = &outcome.caller_id {
            body.extend_from_slice(b",\"id\":");
            render::write_string(&mut body, id);
        }
        match outcome.result {
            Ok((id, predictions, non_finite)) => {
                body.extend_from_slice(b",\"prediction_id\":");
                render::write_string(&mut body, id.as_str());
                body.extend_from_slice(b",\"predictions\":");
                body.extend_from_slice(&predictions);
                if non_finite > 0 {
                    body.extend_from_slice(format!(",\"non_finite\":{non_finite}").as_bytes());
                }
            }
            Err(problem) => {
                body.extend_from_slice(b",\"error\":");
                body.extend_from_slice(&to_bytes(&BatchError::new(&problem)));
            }
        }
        body.push(b'}');
    }
    let told = json!({ "succeeded": total - failed.len(), "failed": failed.len(), "retry": retry });
    let told = told.to_string();
    body.extend_from_slice(b"],");
    body.extend_from_slice(&told.as_bytes()[1..told.len() - 1]);
    let now_ns = runner.call.ports.monotonic_ns();
    answer::write_latency(&mut body, now_ns.saturating_sub(context.started_ns));
    body.extend_from_slice(b",\"request_id\":");
    render::write_string(&mut body, context.request_id.as_str());
    body.push(b'}');
    let status = if failed.is_empty() { 200 } else { 207 };
    SurfaceAnswer {
        response: Response::new(status, JSON, body),
        prediction_id: None,
    }
}
