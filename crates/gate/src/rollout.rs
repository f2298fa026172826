//! Chooses the version that answers a call by the operator's rollouts, and decides whether a canary continues. The
//! document is read at most once a second. A model without a rollout costs one look-up in a map.

use crate::ports::{FailureKind, Headers, Ports};
use crate::record::Request;
use crate::route::shorten;
use penstock_core::kv::RETRY_STORE_S;
use penstock_core::{Code, ModelVersion, Problem};
use penstock_policy::rollout::judge::{self, Outcome, counter, is_to_judge, judge, numbers};
use penstock_policy::rollout::notice::http_date;
use penstock_policy::rollout::service::RolloutService;
use penstock_policy::rollout::words::RolloutFailure;
use penstock_policy::rollout::{Arm, Bounds, Chosen, Judgement, NoVersion, Rollouts};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The milliseconds for which the rollouts are used before they are read again. A moved alias or an ended canary
/// takes effect within this time.
pub const REFRESH_MS: u64 = 1_000;
/// The `Retry-After` in seconds for a missing version that the operator has to restore.
const RETRY_MISSING_S: u32 = 60;

/// The rollouts of an instance, and the time at which it read them.
pub struct RolloutState<S> {
    service: S,
    read_ms: Option<u64>,
    text: Option<String>,
    rollouts: Option<Rollouts>,
    /// For each model: the id of the canary run, the time of the last check, and whether the run was rolled back.
    rolled_back: BTreeMap<String, (u64, u64, bool)>,
}

/// Returns whether the last read is older than [`REFRESH_MS`].
fn is_due(read_ms: Option<u64>, now_ms: u64) -> bool {
    // If the clock was set back, read again. Otherwise the old data could be used without end.
    read_ms.is_none_or(|read_ms| now_ms < read_ms || now_ms - read_ms >= REFRESH_MS)
}

impl<S: RolloutService> RolloutState<S> {
    /// Creates a state in which nothing was read yet.
    pub fn new(service: S) -> Self {
        Self {
            service,
            read_ms: None,
            text: None,
            rollouts: None,
            rolled_back: BTreeMap::new(),
        }
    }

    /// Returns the service that stores the rollouts.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// Reads the rollouts if the last read is more than a second old.
    pub fn refresh_if_due<P: Ports>(&mut self, ports: &P, now_ms: u64) -> Result<(), Problem> {
        match is_due(self.read_ms, now_ms) {
            true => self.refresh(ports, now_ms),
            false => Ok(()),
        }
    }

    /// Returns the rollouts of the last read.
    pub fn known(&self) -> &Rollouts {
        static NONE: LazyLock<Rollouts> = LazyLock::new(Rollouts::new);
        self.rollouts.as_ref().unwrap_or(&NONE)
    }

    fn refresh<P: Ports>(&mut self, ports: &P, now_ms: u64) -> Result<(), Problem> {
        let unread = |message: &str| {
            Problem::new(
                Code::StoreUnavailable,
                format!("the rollouts, which select the version, cannot be read: {message}"),
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
                                return Err(unread("another release wrote them in another form"));
                            }
                        }
                    }
                    self.text = text;
                }
            }
            Err(RolloutFailure::Unsupported(_)) => {}
            // Keep the rollouts of the last read. Without any earlier read the call fails, because a guess could
            // choose the wrong version.
            Err(failure) if self.rollouts.is_none() => return Err(unread(failure.message())),
            Err(failure) => ports.log(&format!(
                "the rollouts cannot be read, so the last ones stay in use: {}",
                failure.message()
            )),
        }
        self.read_ms = Some(now_ms);
        Ok(())
    }

    /// Checks whether the canary of a model was rolled back automatically.
    pub fn check(&mut self, model: &str, now_ms: u64) {
        let rollouts = self.rollouts.as_ref();
        let Some((canary, _)) = rollouts.and_then(|rollouts| rollouts.judged(model)) else {
            return;
        };
        let id = canary.id;
        let known = self.rolled_back.get(model).filter(|(of, _, _)| *of == id);
        let (read_ms, before) = match known {
            // A rollback is final.
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

    /// Returns whether this instance knows that the canary run was rolled back.
    pub fn is_rolled_back(&self, model: &str, id: u64) -> bool {
        matches!(self.rolled_back.get(model), Some((of, _, true)) if *of == id)
    }
}

/// The version that answers, and the reason for its choice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Serving {
    pub version: ModelVersion,
    /// The reason in one word, for callers.
    pub reason: String,
    /// The canary run in which the call is counted.
    pub counted: Option<Counted>,
    /// The version of the shadow run.
    pub shadow: Option<ModelVersion>,
    /// The deprecation headers of a version that will be removed.
    pub notice: Headers,
}

/// A canary run in which a call is counted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counted {
    id: u64,
    arm: Arm,
    started_ms: u64,
    bounds: Bounds,
}

/// Converts a choice of a version to the data of a call.
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

/// Returns the text of a header that occurs exactly once.
pub(crate) fn header<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let mut found = request.headers.iter().filter(|header| header.name == name);
    let (one, None) = (found.next()?, found.next()) else {
        return None;
    };
    std::str::from_utf8(&one.value).ok()
}

/// Returns the problem of a version that cannot be chosen.
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
                format!("{named} does not exist; the operator has to restore it or name another");
            Problem::new(Code::ModelNotReady, message).retry_after(RETRY_MISSING_S)
        }
    }
}

/// Returns the effect of a run on the version's health. It is `None` if the caller's input was wrong or the queue was
/// full, because such a call says nothing about the version.
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

/// Counts a call in its canary run, and rolls the canary back if its results exceed the allowed bounds.
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
    // A failure to count must not fail a call that is already answered.
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
    if let Judgement::RollBack(why) = judge(&sums, bounds) {
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
