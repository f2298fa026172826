//! Which version answers a call, as the operator's rollouts have it, and whether a canary goes on. The document is read at
//! most once a second; a model that it says nothing of costs a look into a map.

use crate::ports::{FailureKind, Headers, Ports};
use crate::record::Request;
use crate::route::shorten;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Code, ModelVersion, Problem};
use penstock_policy::rollout::judge::{self, Outcome, counter, is_to_judge, judge, numbers};
use penstock_policy::rollout::notice::http_date;
use penstock_policy::rollout::service::RolloutService;
use penstock_policy::rollout::words::RolloutFailure;
use penstock_policy::rollout::{Arm, Bounds, Chosen, NoVersion, Rollouts, Verdict};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// How long what was read is believed: the longest that a moved alias or an ended canary goes unnoticed.
pub const REFRESH_MS: u64 = 1_000;
/// Seconds a caller is told to wait for a version that the operator has to bring back.
const RETRY_MISSING_S: u32 = 60;

/// The rollouts as an instance has read them, and when.
pub struct RolloutState<S> {
    service: S,
    read_ms: Option<u64>,
    text: Option<String>,
    rollouts: Option<Rollouts>,
    /// By model: a canary's run, when it was asked for, and whether it was ended.
    rolled_back: BTreeMap<String, (u64, u64, bool)>,
}

/// Whether something is to be asked for again.
fn is_due(read_ms: Option<u64>, now_ms: u64) -> bool {
    // A clock that was put back must not make it believed for ever.
    read_ms.is_none_or(|read_ms| now_ms < read_ms || now_ms - read_ms >= REFRESH_MS)
}

impl<S: RolloutService> RolloutState<S> {
    /// A state in which nothing was read yet.
    pub fn new(service: S) -> Self {
        Self {
            service,
            read_ms: None,
            text: None,
            rollouts: None,
            rolled_back: BTreeMap::new(),
        }
    }

    /// The service that the rollouts are read from.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// Reads the rollouts, where that was not done within a second.
    pub fn refresh_if_due<P: Ports>(&mut self, ports: &P, now_ms: u64) -> Result<(), Problem> {
        match is_due(self.read_ms, now_ms) {
            true => self.refresh(ports, now_ms),
            false => Ok(()),
        }
    }

    /// What was read last.
    pub fn known(&self) -> &Rollouts {
        static NONE: LazyLock<Rollouts> = LazyLock::new(Rollouts::new);
        self.rollouts.as_ref().unwrap_or(&NONE)
    }

    fn refresh<P: Ports>(&mut self, ports: &P, now_ms: u64) -> Result<(), Problem> {
        let unread = |message: &str| {
            Problem::new(
                Code::StoreUnavailable,
                format!("which version is to answer cannot be read: {message}"),
            )
            .retry_after(RETRY_STORE_S)
        };
        match self.service.document() {
            Ok(text) => {
                if self.rollouts.is_none() || text != self.text {
                    let read = text.as_deref().map_or(Ok(Rollouts::new()), Rollouts::parse);
                    match read {
                        Ok(rollouts) => self.rollouts = Some(rollouts),
                        Err(message) => {
                            ports.log(&message);
                            if self.rollouts.is_none() {
                                return Err(unread("it was written in another form"));
                            }
                        }
                    }
                    self.text = text;
                }
            }
            Err(RolloutFailure::Unsupported(_)) => {}
            // What was read last holds on; who has read nothing must not guess.
            Err(failure) if self.rollouts.is_none() => return Err(unread(failure.message())),
            Err(failure) => ports.log(&format!(
                "the rollouts cannot be read, and stay what they were: {}",
                failure.message()
            )),
        }
        self.read_ms = Some(now_ms);
        Ok(())
    }

    /// Asks whether a model's canary was ended by itself.
    pub fn check(&mut self, model: &str, now_ms: u64) {
        let rollouts = self.rollouts.as_ref();
        let Some((canary, _)) = rollouts.and_then(|rollouts| rollouts.judged(model)) else {
            return;
        };
        let id = canary.id;
        let known = self.rolled_back.get(model).filter(|(of, _, _)| *of == id);
        let (read_ms, before) = match known {
            // Once ended it stays so.
            Some((_, _, true)) => return,
            Some((_, read_ms, before)) => (Some(*read_ms), *before),
            None => (None, false),
        };
        if !is_due(read_ms, now_ms) {
            return;
        }
        let rolled_back = match self.service.rolled_back(model, id) {
            Ok(why) => why.is_some(),
            Err(_) => before,
        };
        let known = (id, now_ms, rolled_back);
        self.rolled_back.insert(model.to_owned(), known);
    }

    /// Whether a run was ended, as far as this instance knows.
    pub fn is_rolled_back(&self, model: &str, id: u64) -> bool {
        matches!(self.rolled_back.get(model), Some((of, _, true)) if *of == id)
    }
}

/// The version that answers, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Serving {
    pub version: ModelVersion,
    /// In a word, for callers.
    pub reason: String,
    /// The run of a canary that the call is counted for.
    pub counted: Option<Counted>,
    /// The version that runs beside it for comparison.
    pub shadow: Option<ModelVersion>,
    /// What callers are told of a version that is to go.
    pub notice: Headers,
}

/// The run of a canary that a call is counted for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counted {
    id: u64,
    arm: Arm,
    started_ms: u64,
    bounds: Bounds,
}

/// What a choice comes to for a call.
pub(crate) fn serving(rollouts: &Rollouts, model: &str, chosen: Chosen, path: &str) -> Serving {
    let counted = chosen.canary.and_then(|(id, arm)| {
        let (canary, bounds) = rollouts.judged(model)?;
        Some(Counted {
            id,
            arm,
            started_ms: canary.started_ms,
            bounds: bounds.clone(),
        })
    });
    let api = if path.starts_with("/v2") { "v2" } else { "v1" };
    let at = |version: &str| format!("/{api}/models/{model}/versions/{version}");
    Serving {
        version: chosen.version,
        reason: chosen.why.as_str().into_owned(),
        counted,
        shadow: chosen.shadow,
        notice: (chosen.notice).map_or_else(Headers::new, |notice| notice.headers(at)),
    }
}

/// The value of a header that is there once, as text.
pub(crate) fn header<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let mut found = request.headers.iter().filter(|header| header.name == name);
    let (one, None) = (found.next()?, found.next()) else {
        return None;
    };
    std::str::from_utf8(&one.value).ok()
}

/// The problem a refusal is answered with.
pub(crate) fn problem(refused: NoVersion, model: &str, pinned: Option<&str>) -> Problem {
    match refused {
        NoVersion::Unknown { available } => Problem::new(
            Code::UnknownVersion,
            format!(
                "model `{model}` has no version `{}`",
                shorten(pinned.unwrap_or_default())
            ),
        )
        .with_available(available),
        NoVersion::Gone {
            version,
            successor,
            since_ms,
        } => {
            let instead = match &successor {
                Some(successor) => format!("use `{successor}`"),
                None => "leave the version out, or use another".to_owned(),
            };
            Problem::new(
                Code::VersionGone,
                format!(
                    "version {version} of model `{model}` answered until {}; {instead}",
                    http_date(since_ms)
                ),
            )
            .with_available(successor.into_iter().collect())
        }
        NoVersion::Missing { version, alias } => {
            let named = match alias {
                Some(alias) => format!("`{alias}` of model `{model}` is version {version}, which"),
                None => format!("version {version} of model `{model}`, which is its default,"),
            };
            let message =
                format!("{named} is not there; the operator has to bring it back or name another");
            Problem::new(Code::ModelNotReady, message).retry_after(RETRY_MISSING_S)
        }
    }
}

/// What a run's end says about the version's health. It is `None` where the caller was wrong or the queue was full: such a call
/// says nothing about it.
pub(crate) fn outcome(ran: bool, failed: Option<FailureKind>) -> Option<Outcome> {
    match failed {
        Some(FailureKind::Failed | FailureKind::DeadlineExceeded | FailureKind::NotReady) => {
            Some(Outcome::Failed)
        }
        Some(FailureKind::Overloaded | FailureKind::InputsRejected | FailureKind::RowsDepend) => {
            None
        }
        None => ran.then_some(Outcome::Served),
    }
}

/// Counts a call for its run, and ends the run where it does worse than it may.
pub(crate) fn count<P: Ports>(
    (ports, rollouts): (&P, &P::Rollouts),
    model: &str,
    version: ModelVersion,
    counted: &Counted,
    (outcome, latency_ns): (Outcome, u64),
) {
    let Counted {
        id,
        arm,
        started_ms,
        bounds,
    } = counted;
    let (number, before) = numbers(*id, *started_ms, bounds, ports.unix_ms());
    let counter = counter(*arm, outcome, latency_ns);
    // A call that was answered is not refused because it could not be counted.
    if rollouts.count(model, number, counter).is_err()
        || !is_to_judge(*arm, outcome, ports.random() as u64)
    {
        return;
    }
    let counts = |number| rollouts.counts(model, number, judge::COUNTERS);
    let (Ok(mut sums), Ok(earlier)) = (counts(number), counts(before)) else {
        return;
    };
    for (sum, more) in sums.iter_mut().zip(earlier) {
        *sum = sum.saturating_add(more);
    }
    if let Verdict::RollBack(why) = judge(&sums, bounds) {
        match rollouts.roll_back(model, *id, &why) {
            Ok(true) => ports.log(&format!("model {model}: the canary was ended, run {id}: {why}")),
            Ok(false) => {}
            Err(failure) => ports.log(&format!(
                "model {model}: the canary of run {id} is to be ended and could not be, by a call of version {version}: {}",
                failure.message()
            )),
        }
    }
}
