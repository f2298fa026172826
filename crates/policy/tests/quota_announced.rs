//! Announcements to callers are true: a call passes after the announced wait, and a call of the remaining units passes while
//! a call of one unit more does not. For every algorithm and unit, by the clock of one caller that is alone.

use crate::quota_common;

use penstock_core::kv::run_ready;
use penstock_policy::quota::swap::SwapCheck;
use penstock_policy::quota::{
    Admission, Cost, Quota, QuotaRefusal, RefusalKind, Status, StoreAccess,
};
use penstock_testkit::MemoryKv;
use proptest::prelude::*;
use quota_common::{START_MS, call, quota, tenant};

/// The unit that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Requests,
    Bytes,
    Items,
}

const UNITS: [(Unit, &str); 3] = [
    (Unit::Requests, "requests"),
    (Unit::Bytes, "bytes"),
    (Unit::Items, "items"),
];

/// A sliding window of which an instance takes units ahead.
const LEASED: &str = "algorithm = \"sliding-window\"\nlimit = 50\nwindow_s = 7\nlease_tokens = 5";

const ALGORITHMS: [&str; 9] = [
    "algorithm = \"sliding-window\"\nlimit = 8\nwindow_s = 4",
    LEASED,
    "algorithm = \"fixed-window\"\nlimit = 8\nwindow_s = 10",
    "algorithm = \"fixed-window\"\nlimit = 40\nwindow_s = 10\nlease_tokens = 7",
    "algorithm = \"calendar\"\nlimit = 8\nperiod = \"day\"",
    "algorithm = \"token-bucket\"\nlimit = 7\nwindow_s = 9\nburst = 5",
    "algorithm = \"leaky-bucket\"\nlimit = 20\nwindow_s = 60\nmax_wait_ms = 7000",
    // Counted in windows, where the store's compare-and-swap cannot be trusted.
    "algorithm = \"token-bucket\"\nlimit = 70\nwindow_s = 7\nburst = 40",
    "algorithm = \"calendar\"\nlimit = 30\nperiod = \"day\"\nlease_tokens = 3",
];

/// One caller, alone with its limit.
struct World {
    kv: MemoryKv,
    quota: Quota,
    unit: Unit,
    now_ms: u64,
}

impl World {
    fn new(text: &str, unit: Unit) -> Self {
        Self {
            kv: MemoryKv::default(),
            quota: quota(text),
            unit,
            now_ms: START_MS,
        }
    }

    /// Makes a call that costs so much: how the limits stand after it.
    fn call(&mut self, cost: u64) -> Result<Vec<Status>, QuotaRefusal> {
        self.admit(cost).map(|admission| admission.statuses)
    }

    fn admit(&mut self, cost: u64) -> Result<Admission, QuotaRefusal> {
        let caller = tenant("a");
        let store = StoreAccess::new(&self.kv, self.now_ms, 7);
        let known = match self.unit {
            Unit::Requests => Cost {
                requests: cost,
                bytes: 0,
            },
            Unit::Bytes => Cost {
                requests: 1,
                bytes: cost,
            },
            Unit::Items => Cost {
                requests: 1,
                bytes: 0,
            },
        };
        let mut admission = run_ready(self.quota.admit(store, &call(&caller), known))?;
        if self.unit == Unit::Items {
            run_ready(self.quota.charge_items(store, &mut admission, cost))?;
        }
        Ok(admission)
    }
}

/// The next action of a caller.
#[derive(Clone, Debug)]
enum Step {
    /// Calls, and goes on at once.
    Call(u64),
    /// Waits so many milliseconds.
    Sleep(u64),
    /// Calls; waits for the time in `Retry-After`, or in `t` after a call that passed; and calls again.
    Obey(u64),
    /// Calls again after the time in `t`, refused or not.
    ObeyReset(u64),
    /// Calls, and asks for one unit more than remains, and then for all that remain.
    Exhaust(u64),
    /// Calls, and gets a refund of the whole cost.
    Refund(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cost = 1_u64..12;
    let step = prop_oneof![
        cost.clone().prop_map(Step::Call),
        (0_u64..3_000).prop_map(Step::Sleep),
        (0_u64..12_000).prop_map(Step::Sleep),
        cost.clone().prop_map(Step::Obey),
        cost.clone().prop_map(Step::ObeyReset),
        cost.clone().prop_map(Step::Exhaust),
        cost.prop_map(Step::Refund),
    ];
    prop::collection::vec(step, 1..30)
}

fn told(outcome: &Result<Vec<Status>, QuotaRefusal>) -> Option<Status> {
    let statuses = match outcome {
        Ok(statuses) => statuses,
        Err(refusal) => &refusal.statuses,
    };
    statuses.iter().find(|status| status.name == "l").cloned()
}

fn check(text: &str, unit: Unit, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(text, unit);
    if text.contains("burst = 40") {
        let reason = "this test says so".to_owned();
        world.quota.assume_swap(SwapCheck::Unsound(reason));
    }
    let is_leaky = text.contains("leaky");
    for step in steps {
        match *step {
            Step::Sleep(ms) => world.now_ms += ms,
            Step::Call(cost) => {
                let _ = world.call(cost);
            }
            Step::Refund(cost) => {
                if unit != Unit::Items {
                    continue;
                }
                let caller_items = world.admit(cost);
                if let Ok(mut admission) = caller_items {
                    let store = StoreAccess::new(&world.kv, world.now_ms, 7);
                    run_ready(world.quota.refund_items(store, &mut admission));
                    let status = admission.statuses.last().cloned();
                    let left = status.map_or(0, |status| status.remaining);
                    if !is_leaky {
                        exhaust(&mut world, left)?;
                    }
                }
            }
            Step::Obey(cost) | Step::ObeyReset(cost) => {
                let outcome = world.call(cost);
                let wait_s = match (&outcome, step) {
                    (Err(refusal), _) if refusal.kind == RefusalKind::TooLarge => continue,
                    (Err(refusal), Step::Obey(_)) => refusal.retry_after_s,
                    _ => told(&outcome).map_or(0, |status| status.reset_s),
                };
                world.now_ms += wait_s * 1_000;
                let again = world.call(cost);
                prop_assert!(
                    again.is_ok(),
                    "{outcome:?}, and after {wait_s} s: {again:?}"
                );
            }
            Step::Exhaust(cost) => {
                let outcome = world.call(cost);
                let Some(status) = told(&outcome) else {
                    continue;
                };
                if is_leaky {
                    // Counts calls of cost 1: a larger one waits no longer before it begins.
                    for _ in 0..status.remaining {
                        prop_assert!(world.call(1).is_ok(), "{outcome:?}");
                    }
                    // Waiting calls may be let in up to the limit of one window; the announced number is cut there.
                    if status.remaining < status.limit {
                        prop_assert!(world.call(1).is_err(), "{outcome:?}");
                    }
                } else {
                    exhaust(&mut world, status.remaining)?;
                }
            }
        }
    }
    Ok(())
}

/// Asks for one unit more than is left, which is refused and says the same, and then for all that are left.
fn exhaust(world: &mut World, left: u64) -> Result<(), TestCaseError> {
    let more = world.call(left + 1);
    prop_assert!(more.is_err(), "{left} left, and {} passed", left + 1);
    let said = told(&more).map(|status| status.remaining);
    prop_assert_eq!(said, Some(left), "{:?}", more);
    if left > 0 {
        let all = world.call(left);
        prop_assert!(all.is_ok(), "{left} left, and they do not pass: {all:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn waiting_what_was_announced_succeeds_and_remaining_is_what_passes(steps in steps()) {
        for algorithm in ALGORITHMS {
            for (unit, name) in UNITS {
                if unit != Unit::Requests && algorithm.contains("lease_tokens") {
                    continue;
                }
                let text = format!("[[limits]]\nname = \"l\"\nunit = \"{name}\"\n{algorithm}");
                check(&text, unit, &steps).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            }
        }
    }

    #[test]
    fn an_announcement_of_one_instance_holds_at_every_other(
        cost in 1_u64..12,
        steps in prop::collection::vec((0_usize..3, 0_u64..4_000, any::<bool>()), 1..60),
    ) {
        for algorithm in ALGORITHMS {
            let text = format!("[[limits]]\nname = \"l\"\n{algorithm}");
            let mut world = World::new(&text, Unit::Requests);
            let mut others = [quota(&text), quota(&text), quota(&text)];
            for &(instance, sleep_ms, sleeps) in &steps {
                world.now_ms += if sleeps { sleep_ms } else { 0 };
                std::mem::swap(&mut world.quota, &mut others[instance]);
                let refused = world.call(cost).err();
                std::mem::swap(&mut world.quota, &mut others[instance]);
                let Some(refusal) = refused else { continue };
                if refusal.kind == RefusalKind::TooLarge {
                    continue;
                }
                world.now_ms += refusal.retry_after_s * 1_000;
                let next = (instance + 1) % others.len();
                std::mem::swap(&mut world.quota, &mut others[next]);
                let again = world.call(cost);
                std::mem::swap(&mut world.quota, &mut others[next]);
                prop_assert!(again.is_ok(), "{text}: {refusal:?}, and then elsewhere: {again:?}");
            }
        }
    }

    #[test]
    fn of_several_limits_the_longest_wait_is_announced(
        calls in prop::collection::vec((1_u64..6, 0_u64..4_000), 1..40),
    ) {
        let mut world = World::new(
            "[backoff]\ndouble_every = 1\n\
             [[limits]]\nname = \"burst\"\nlimit = 6\nwindow_s = 4\n\
             [[limits]]\nname = \"l\"\nalgorithm = \"token-bucket\"\nlimit = 10\nwindow_s = 30\n\
             [[limits]]\nname = \"minute\"\nalgorithm = \"fixed-window\"\nlimit = 20\nwindow_s = 60",
            Unit::Requests,
        );
        for (cost, sleep_ms) in calls {
            world.now_ms += sleep_ms;
            if let Err(refusal) = world.call(cost) {
                prop_assert_eq!(refusal.statuses.len(), 3, "{:?}", refusal);
                world.now_ms += refusal.retry_after_s * 1_000;
                let again = world.call(cost);
                prop_assert!(again.is_ok(), "{refusal:?}, and then {again:?}");
            }
        }
    }

    #[test]
    fn compute_time_is_left_where_a_call_passes_and_comes_back_when_announced(
        calls in prop::collection::vec((0_u64..400, 0_u64..4_000), 1..40),
        sliding: bool,
    ) {
        let algorithm = if sliding { "sliding-window" } else { "fixed-window" };
        let text = format!(
            "[[limits]]\nname = \"l\"\nunit = \"compute-ms\"\nalgorithm = \"{algorithm}\"\nlimit = 500\nwindow_s = 5"
        );
        let mut world = World::new(&text, Unit::Bytes);
        for (used_ms, sleep_ms) in calls {
            world.now_ms += sleep_ms;
            match world.admit(1) {
                Ok(admission) => {
                    prop_assert!(admission.statuses[0].remaining > 0);
                    let store = StoreAccess::new(&world.kv, world.now_ms, 7);
                    run_ready(world.quota.settle(store, admission, used_ms));
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal.statuses[0].remaining, 0);
                    world.now_ms += refusal.retry_after_s * 1_000;
                    let again = world.call(1);
                    prop_assert!(again.is_ok(), "{refusal:?}, and then {again:?}");
                }
            }
        }
    }

    #[test]
    fn an_announced_wait_never_shrinks_faster_than_time_passes(
        double_every in 1_u64..5,
        hard_after in prop_oneof![Just(0_u64), 2..30_u64],
        algorithm in 0..ALGORITHMS.len(),
        pauses in prop::collection::vec(0_u64..5_000, 1..80),
    ) {
        let text = format!(
            "[backoff]\ndouble_every = {double_every}\nhard_after = {hard_after}\n[[limits]]\nname = \"l\"\n{}",
            ALGORITHMS[algorithm],
        );
        let mut world = World::new(&text, Unit::Requests);
        let mut until_ms = 0;
        for pause_ms in pauses {
            world.now_ms += pause_ms;
            match world.call(5) {
                // The wait was over, or the penalty was longer than the limit: the announced time is of no more use.
                Ok(_) => until_ms = 0,
                Err(refusal) => {
                    let told_ms = world.now_ms + refusal.retry_after_s * 1_000;
                    // Seconds are rounded up.
                    prop_assert!(told_ms + 1_000 > until_ms, "{refusal:?}");
                    until_ms = told_ms.max(until_ms);
                }
            }
        }
    }
}

/// 50 in 7 s with units taken ahead: the whole second that was announced ended in the next window, where the units
/// taken ahead were lost.
#[test]
fn a_wait_that_reaches_into_the_next_window_does_not_count_on_units_taken_ahead() {
    use Step::{Exhaust, Obey, Sleep};
    let steps = [
        Sleep(1746),
        Sleep(8977),
        Sleep(10015),
        Sleep(1421),
        Sleep(3673),
        Exhaust(1),
        Sleep(3584),
        Sleep(584),
        Obey(11),
        Obey(5),
        Obey(7),
        Obey(11),
    ];
    let text = format!("[[limits]]\nname = \"l\"\n{LEASED}");
    check(&text, Unit::Requests, &steps).unwrap();
}

#[test]
fn a_window_that_is_used_up_but_for_units_taken_ahead_says_when_they_are_not_needed() {
    let mut world = World::new(
        &format!("[[limits]]\nname = \"l\"\n{LEASED}"),
        Unit::Requests,
    );
    world.now_ms += 7_000 - world.now_ms % 7_000;
    // The first call knows nothing of the window and takes one; the second takes five ahead.
    for _ in 0..2 {
        world.call(1).unwrap();
    }
    // Another instance uses all that is left.
    let mut other = quota(&format!("[[limits]]\nname = \"l\"\n{LEASED}"));
    std::mem::swap(&mut world.quota, &mut other);
    world.call(43).unwrap();
    std::mem::swap(&mut world.quota, &mut other);
    // One that is refused tells this instance so.
    let refusal = world.call(6).unwrap_err();
    assert_eq!(refusal.statuses[0].remaining, 5, "what was taken ahead");
    let status = told(&world.call(1)).unwrap();
    // All 50 count when the window ends after 7 s; the first has faded a fiftieth of a window later.
    assert_eq!((status.remaining, status.reset_s), (4, 8));
    world.now_ms += 7_000;
    assert!(world.call(1).is_err(), "what was taken ahead is lost");
    world.now_ms += 1_000;
    assert!(world.call(1).is_ok());
}

#[test]
fn a_call_that_is_too_large_says_what_is_left_now() {
    for (unit, name) in UNITS {
        for algorithm in &ALGORITHMS[..6] {
            if unit != Unit::Requests && algorithm.contains("lease_tokens") {
                continue;
            }
            let text = format!("[[limits]]\nname = \"l\"\nunit = \"{name}\"\n{algorithm}");
            let mut world = World::new(&text, unit);
            let used = told(&world.call(3)).unwrap();
            let limit = used.limit;
            let refusal = world.call(limit + 1).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::TooLarge, "{text}");
            assert_eq!(refusal.statuses[0].remaining, used.remaining, "{text}");
            // All of it has come back: the window has passed, or the bucket is full.
            world.now_ms += 2 * 86_400_000;
            let refusal = world.call(limit + 1).unwrap_err();
            assert_eq!(refusal.statuses[0].remaining, limit, "{text}");
            // An instance that never saw the limit asks the store, too.
            let mut other = World::new(&text, unit);
            std::mem::swap(&mut other.kv, &mut world.kv);
            other.now_ms = world.now_ms;
            let left = told(&other.call(2)).unwrap().remaining;
            let mut third = World::new(&text, unit);
            std::mem::swap(&mut third.kv, &mut other.kv);
            third.now_ms = other.now_ms;
            let refusal = third.call(limit + 1).unwrap_err();
            let leased = if text.contains("lease_tokens") { 7 } else { 0 };
            let seen = refusal.statuses[0].remaining;
            assert!(
                seen <= left && left <= seen + leased,
                "{text}: {seen} {left}"
            );
        }
    }
}

#[test]
fn a_used_up_sliding_window_announces_when_the_next_call_passes() {
    let mut world = World::new(
        "[[limits]]\nname = \"l\"\nlimit = 3\nwindow_s = 4",
        Unit::Requests,
    );
    for _ in 0..2 {
        assert_eq!(
            told(&world.call(1)).unwrap().reset_s,
            4,
            "the window ends then"
        );
    }
    // All three count until the window ends, and the first of them has faded a third of a window later: after 5.33 s.
    let last = told(&world.call(1)).unwrap();
    assert_eq!((last.remaining, last.reset_s), (0, 6));
    let refusal = world.call(1).unwrap_err();
    assert_eq!(refusal.retry_after_s, 6);
    world.now_ms += 5_300;
    assert!(world.call(1).is_err());
    world.now_ms += 50;
    assert!(world.call(1).is_ok());
}

#[test]
fn a_refusal_that_begins_a_block_announces_the_block() {
    let text = "[backoff]\nhard_after = 2\n[[limits]]\nname = \"l\"\nalgorithm = \"fixed-window\"\nlimit = 1\nwindow_s = 2";
    let mut world = World::new(text, Unit::Requests);
    assert!(world.call(1).is_ok());
    assert_eq!(world.call(1).unwrap_err().retry_after_s, 2);
    let refusal = world.call(1).unwrap_err();
    assert_eq!(
        refusal.retry_after_s, 120,
        "until the next minute has ended"
    );
    world.now_ms += refusal.retry_after_s * 1_000;
    assert!(world.call(1).is_ok());
}
