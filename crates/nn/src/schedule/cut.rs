//! Decides which calls of the queue run next, and whether to wait for more: [`cut`].

use super::limits::Limits;
use super::queue::{CallId, Class, Nanos, Queue, Waiting};
use crate::schedule::run_time::RunTimeEstimate;

/// Most calls that are looked at for a run. It bounds the work under the model's lock if the queue is long and its
/// calls have many shapes.
pub const MAX_SCAN: usize = 1024;

/// The facts that a cut depends on beside the queue.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The present time of the scheduler.
    pub now: Nanos,
    /// Items of the runs under way.
    pub running_items: u64,
    /// The queue delay: the time for which the first call may wait for others.
    pub queue_delay: Nanos,
    /// Most items of a run at present, at most [`Limits::max_items`].
    pub most_items: u32,
    /// The run times by which the next run is predicted.
    pub run_time: &'a RunTimeEstimate,
}

/// The decision about the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Run these, in this order, in one run.
    Run(Vec<CallId>),
    /// Wait until then for more calls.
    Delay(Nanos),
}

/// The sums over the calls chosen so far.
struct Share {
    calls: Vec<CallId>,
    items: u32,
    longest: u32,
    /// Inputs at one item and one element of the padded axis, in bytes, of the call with the most.
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

    /// Returns the items, the greatest length, the unit and the deadline of the run with one more call.
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

/// Puts the next run together. It has the oldest call of the highest priority, and after it, in order, those that may
/// share its run. Items, bytes, tokens and all deadlines bound it, and so does the instance's part of all calls. The
/// queue must not be empty.
pub fn cut<T>(queue: &Queue<T>, limits: &Limits, situation: &Situation<'_>) -> Cut {
    let Some(leader) = queue.calls().next() else {
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
        queue
            .calls()
            .take(MAX_SCAN)
            .filter(|call| matches!(&call.ask.class, Class::Like(other) if other == class))
    };
    let available: u64 = alike().map(|call| u64::from(call.ask.items)).sum();
    let goal = goal(available, most, limits, situation.running_items);
    let mut share = Share::of(leader);
    // Whether the run can take no more calls.
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
            let done = |bytes| {
                situation
                    .now
                    .saturating_add(situation.run_time.predict(bytes))
            };
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
    // The delay lasts as long as the oldest call may wait, and not beyond any call's deadline.
    let mut until = leader.arrived.saturating_add(situation.queue_delay);
    if let Some(deadline) = share.deadline {
        until = until.min(deadline.saturating_sub(situation.run_time.predict(share.bytes())));
    }
    if until <= situation.now {
        Cut::Run(share.calls)
    } else {
        Cut::Delay(until)
    }
}

/// The number of items that a run should have, of those available: an instance's part of all that wait and run, and a
/// preferred size if there is one. An instance that took all would be busy for long, while another served the calls
/// that come later in small runs.
fn goal(available: u64, most: u32, limits: &Limits, running: u64) -> u32 {
    let instances = limits.instances.max(1) as u64;
    let most = u64::from(most).min(available.max(1));
    let part = (available + running).div_ceil(instances).clamp(1, most);
    let reachable = || (limits.preferred.iter().copied()).filter(|size| u64::from(*size) <= most);
    (reachable().find(|size| u64::from(*size) >= part))
        .or_else(|| reachable().next_back())
        .unwrap_or(part as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Ask, Scheduler};

    fn limits() -> Limits {
        Limits {
            instances: 1,
            queue_max: 1000,
            levels: 2,
            max_items: 8,
            max_bytes: 1 << 20,
            max_tokens: None,
            preferred: vec![],
            max_queue_delay: 0,
            target: None,
        }
    }

    fn ask(items: u32) -> Ask {
        Ask {
            level: 0,
            class: Class::Like(Box::new([])),
            items,
            length: 1,
            bytes: u64::from(items) * 100,
            deadline: None,
        }
    }

    /// The calls chosen from a queue of these calls, by their place in it from 1.
    fn chosen(
        limits: &Limits,
        calls: Vec<Ask>,
        change: impl FnOnce(&mut Situation<'_>),
    ) -> Result<Vec<u64>, Nanos> {
        let mut scheduler = Scheduler::new(limits.clone());
        for call in calls {
            scheduler.enter(call, (), 0).expect("there is room");
        }
        let mut run_time = RunTimeEstimate::default();
        run_time.start(1_000, 100);
        let mut situation = Situation {
            now: 0,
            running_items: 0,
            queue_delay: 0,
            most_items: limits.max_items,
            run_time: &run_time,
        };
        change(&mut situation);
        match cut(scheduler.queue(), limits, &situation) {
            Cut::Run(ids) => Ok(ids.into_iter().map(|id| id.0).collect()),
            Cut::Delay(until) => Err(until),
        }
    }

    #[test]
    fn a_run_is_filled_in_order_up_to_what_it_may_hold() {
        let calls = |items: &[u32]| items.iter().map(|items| ask(*items)).collect::<Vec<_>>();
        for (items, expected) in [
            (&[1][..], &[1u64][..]),
            (&[1, 2, 3], &[1, 2, 3]),
            (&[4, 4, 1], &[1, 2]),
            (&[5, 4, 1], &[1]),
            (&[9, 1], &[1]),
            (&[8, 1], &[1]),
        ] {
            let ran = chosen(&limits(), calls(items), |_| {});
            assert_eq!(ran.as_deref(), Ok(expected), "{items:?}");
        }
    }

    #[test]
    fn only_calls_of_one_class_share_a_run_and_the_oldest_leads() {
        let other = |class: Class| Ask { class, ..ask(1) };
        let like = |n: u32| Class::Like(Box::new([n]));
        let calls = vec![
            other(like(1)),
            other(like(2)),
            other(Class::Alone),
            other(like(1)),
        ];
        assert_eq!(chosen(&limits(), calls, |_| {}), Ok(vec![1, 4]));
        let calls = vec![other(Class::Alone), other(Class::Alone)];
        assert_eq!(chosen(&limits(), calls, |_| {}), Ok(vec![1]));
        let urgent = Ask { level: 0, ..ask(1) };
        let calls = vec![Ask { level: 1, ..ask(1) }, urgent];
        assert_eq!(chosen(&limits(), calls, |_| {}), Ok(vec![2, 1]));
    }

    #[test]
    fn every_instance_takes_its_part_of_what_waits_and_runs() {
        let two = Limits {
            instances: 2,
            ..limits()
        };
        let calls = || vec![ask(1); 6];
        assert_eq!(chosen(&two, calls(), |_| {}), Ok(vec![1, 2, 3]));
        let ran = chosen(&two, calls(), |situation| situation.running_items = 2);
        assert_eq!(ran, Ok(vec![1, 2, 3, 4]));
        let ran = chosen(&two, calls(), |situation| situation.running_items = 50);
        assert_eq!(ran, Ok(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(chosen(&two, vec![ask(1)], |_| {}), Ok(vec![1]));
    }

    #[test]
    fn a_run_ends_at_a_preferred_size_where_it_can() {
        let preferred = Limits {
            preferred: vec![2, 4],
            ..limits()
        };
        for (waiting, expected) in [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4)] {
            let ran = chosen(&preferred, vec![ask(1); waiting], |_| {});
            assert_eq!(ran.map(|ids| ids.len()), Ok(expected), "{waiting} wait");
        }
    }

    #[test]
    fn bytes_and_tokens_are_counted_with_the_filling() {
        let of = |length: u32| Ask {
            length,
            bytes: u64::from(length) * 100,
            ..ask(1)
        };
        let tokens = Limits {
            max_tokens: Some(20),
            ..limits()
        };
        let calls = || vec![of(4), of(6), of(10), of(1)];
        assert_eq!(chosen(&tokens, calls(), |_| {}), Ok(vec![1, 2]));
        let bytes = Limits {
            max_bytes: 3000,
            ..limits()
        };
        assert_eq!(chosen(&bytes, calls(), |_| {}), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_run_is_delayed_until_it_is_full_or_its_time_is_up() {
        let queue_delay = |calls: Vec<Ask>, now: Nanos| {
            chosen(&limits(), calls, |situation| {
                (situation.queue_delay, situation.now) = (500, now);
            })
        };
        assert_eq!(queue_delay(vec![ask(1); 3], 0), Err(500));
        assert_eq!(queue_delay(vec![ask(1); 3], 499), Err(500));
        assert_eq!(queue_delay(vec![ask(1); 3], 500), Ok(vec![1, 2, 3]));
        assert_eq!(queue_delay(vec![ask(1); 8], 0), Ok((1..=8).collect()));
        assert_eq!(
            queue_delay(vec![ask(5), ask(4)], 0),
            Ok(vec![1]),
            "no more fit"
        );
        let soon = Ask {
            deadline: Some(2_300),
            ..ask(1)
        };
        assert_eq!(
            queue_delay(vec![ask(1), soon], 0),
            Err(300),
            "two take 2,000"
        );
    }

    #[test]
    fn a_call_is_left_out_of_a_batch_that_it_would_make_late() {
        let soon = |deadline| Ask {
            deadline: Some(deadline),
            ..ask(1)
        };
        assert_eq!(
            chosen(&limits(), vec![soon(2_500), ask(1), ask(1)], |_| {}),
            Ok(vec![1, 2])
        );
        let hopeless = vec![soon(500), ask(1), ask(1)];
        assert_eq!(chosen(&limits(), hopeless, |_| {}), Ok(vec![1, 2, 3]));
    }
}
