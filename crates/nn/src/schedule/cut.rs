//! Decides which calls of the line run next, and whether to wait for more: [`cut`].

use super::{CallId, Class, Limits, Line, Nanos, Waiting};
use crate::schedule::pace::Pace;

/// Calls looked at when a run is put together. It bounds the work under the model's lock where the line is long
/// and its calls are of many shapes.
pub const MAX_SCAN: usize = 1024;

/// What a cut depends on beside the line.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The time.
    pub now: Nanos,
    /// Lanes that could begin a run.
    pub free_lanes: usize,
    /// How long the first call may be held for others.
    pub hold: Nanos,
    /// Most items of a run at present, at most [`Limits::max_items`].
    pub most_items: u32,
    /// What runs take.
    pub pace: &'a Pace,
}

/// What to do with the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Run these, in this order, in one run.
    Run(Vec<CallId>),
    /// Wait until then for others to join.
    Hold(Nanos),
}

/// What the calls chosen so far add up to.
struct Share {
    calls: Vec<CallId>,
    items: u32,
    longest: u32,
    /// Inputs at one item and one element of the filled axis, in bytes, of whichever call has most.
    unit: f64,
    /// The first deadline among them.
    deadline: Option<Nanos>,
}

impl Share {
    fn of<T>(call: &Waiting<T>) -> Self {
        Self {
            calls: vec![call.id],
            items: call.ask.items,
            longest: call.ask.length,
            unit: unit(call),
            deadline: call.ask.deadline,
        }
    }

    fn bytes(&self) -> u64 {
        (self.unit * f64::from(self.items) * f64::from(self.longest)).ceil() as u64
    }

    /// With one more call.
    fn with<T>(&self, call: &Waiting<T>) -> (u64, u32, f64, Option<Nanos>) {
        let items = u64::from(self.items) + u64::from(call.ask.items);
        let deadline = match (self.deadline, call.ask.deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        (
            items,
            self.longest.max(call.ask.length),
            self.unit.max(unit(call)),
            deadline,
        )
    }
}

fn unit<T>(call: &Waiting<T>) -> f64 {
    let parts = u64::from(call.ask.items) * u64::from(call.ask.length);
    call.ask.bytes as f64 / parts.max(1) as f64
}

/// Puts the next run together: the oldest call of the highest priority, and after it, in order, those that may
/// share its run, while items, bytes, tokens and everybody's deadline allow. Where several lanes are free each
/// gets its part. The line must not be empty.
pub fn cut<T>(line: &Line<T>, limits: &Limits, situation: &Situation<'_>) -> Cut {
    let Some(leader) = line.calls().next() else {
        return Cut::Run(Vec::new());
    };
    let most = situation.most_items.clamp(1, limits.max_items.max(1));
    let Class::Like(class) = &leader.ask.class else {
        return Cut::Run(vec![leader.id]);
    };
    if leader.ask.items >= most {
        return Cut::Run(vec![leader.id]);
    }
    let alike = || {
        line.calls()
            .take(MAX_SCAN)
            .filter(|call| matches!(&call.ask.class, Class::Like(other) if other == class))
    };
    let available: u64 = alike()
        .map(|call| u64::from(call.ask.items))
        .sum::<u64>()
        .min(u64::from(u32::MAX));
    let goal = goal(available as u32, most, limits, situation.free_lanes);
    let mut share = Share::of(leader);
    // Whether the run can take no more, however many come.
    let mut full = false;
    for call in alike().skip(1) {
        if share.items >= goal {
            break;
        }
        let (items, longest, unit, deadline) = share.with(call);
        let tokens = items * u64::from(longest);
        let bytes = unit * items as f64 * f64::from(longest);
        let fits = items <= u64::from(most)
            && limits.max_tokens.is_none_or(|most| tokens <= most)
            && bytes <= limits.max_bytes as f64;
        // A larger run takes longer, and must not make one of its calls late that would be in time without it.
        let in_time = deadline.is_none_or(|deadline| {
            let done = |bytes| situation.now.saturating_add(situation.pace.predict(bytes));
            done(bytes as u64) <= deadline || done(share.bytes()) > deadline
        });
        if !fits || !in_time {
            full = true;
            break;
        }
        share.calls.push(call.id);
        share.items = items as u32;
        share.longest = longest;
        share.unit = unit;
        share.deadline = deadline;
    }
    let ideal = limits.preferred.last().copied().unwrap_or(most).min(most);
    if full || share.items >= ideal {
        return Cut::Run(share.calls);
    }
    // Held for as long as the oldest may be, and not so long that somebody's time runs out.
    let mut until = leader.arrived.saturating_add(situation.hold);
    if let Some(deadline) = share.deadline {
        until = until.min(deadline.saturating_sub(situation.pace.predict(share.bytes())));
    }
    if until <= situation.now {
        Cut::Run(share.calls)
    } else {
        Cut::Hold(until)
    }
}

/// How many items a run should have, of those available: an equal part where several lanes are free, and a
/// preferred size where there is one.
fn goal(available: u32, most: u32, limits: &Limits, free_lanes: usize) -> u32 {
    let lanes = u32::try_from(free_lanes.max(1)).unwrap_or(u32::MAX);
    let part = available.div_ceil(lanes).clamp(1, most);
    let reachable = || {
        limits
            .preferred
            .iter()
            .copied()
            .filter(|size| *size <= most.min(available))
    };
    (reachable().find(|size| *size >= part))
        .or_else(|| reachable().next_back())
        .unwrap_or(part)
}
