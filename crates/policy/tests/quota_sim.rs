//! Quota under faults: lost requests and replies, long delays, callers that die, calls sent twice, and
//! machines whose clocks differ.
//!
//! Every schedule follows from its seed. `QUOTA_SEED=n` replays one, `QUOTA_SCHEDULES=n` runs more.

use crate::quota_common;

use penstock_policy::quota::gcra;
use penstock_policy::quota::limits::{Algorithm, Unit};
use penstock_policy::quota::swap::SwapCheck;
use penstock_policy::quota::{Cost, Limit, Quota, QuotaDocument, RefusalKind, StoreAccess};
use penstock_testkit::sim::Entry;
use penstock_testkit::{Faults, Random, Sim, for_seeds};
use quota_common::*;
use std::collections::BTreeMap;
use std::time::Instant;

/// Schedules of a plain run: seconds in release.
const SCHEDULES: u64 = 30_000;

/// Units that passed and were kept: under which limit and tenant, when by the machine's clock.
#[derive(Clone, Debug)]
struct Used {
    limit: usize,
    tenant: u64,
    clock_ms: u64,
    units: u64,
}

#[derive(Default)]
struct Log {
    used: Vec<Used>,
    /// Calls now holding a place, by limit and tenant.
    running: BTreeMap<(usize, u64), u64>,
    admitted: u64,
    refused: u64,
    ended: u64,
}

/// The parameters of one schedule.
#[derive(Clone, Debug)]
struct Plan {
    text: String,
    limits: Vec<Limit>,
    sound: bool,
    machines: u64,
    skewed: bool,
    calls: u64,
    tenants: u64,
    faults: Faults,
}

fn plan(random: &mut Random) -> Plan {
    let mut text = String::new();
    for n in 0..1 + random.below(3) {
        let limit = 1 + random.below(12);
        let window_s = [1, 5, 20, 60][random.below(4) as usize];
        let unit = ["requests", "requests", "items", "bytes"][random.below(4) as usize];
        let settings = match random.below(7) {
            0 => format!(
                "algorithm = \"fixed-window\"\nlimit = {limit}\nwindow_s = {window_s}\nunit = \"{unit}\""
            ),
            1 | 2 => format!("limit = {limit}\nwindow_s = {window_s}\nunit = \"{unit}\""),
            3 => format!(
                "algorithm = \"token-bucket\"\nlimit = {limit}\nwindow_s = {window_s}\nburst = {}\nunit = \"{unit}\"",
                1 + random.below(8)
            ),
            4 => format!(
                "algorithm = \"leaky-bucket\"\nlimit = {limit}\nwindow_s = {window_s}\nmax_wait_ms = {}\nunit = \"{unit}\"",
                random.below(4) * 500
            ),
            5 => format!(
                "algorithm = \"concurrency\"\nlimit = {}\nlease_s = 30",
                1 + limit / 3
            ),
            _ => format!(
                "limit = {}\nwindow_s = {window_s}\nlease_tokens = {}",
                limit * 4,
                1 + random.below(5)
            ),
        };
        let per = if random.permille(500) {
            "\"tenant\""
        } else {
            ""
        };
        text.push_str(&format!(
            "[[limits]]\nname = \"l{n}\"\nper = [{per}]\n{settings}\n"
        ));
    }
    let faulty = random.permille(700);
    let mut chance = |most: u64| if faulty { random.below(most) } else { 0 };
    let faults = Faults {
        lost_request: chance(60),
        lost_reply: chance(60),
        long_delay: chance(100),
        long_ms: 1_500,
        crash: chance(20),
    };
    Plan {
        limits: document(&text).limits,
        text,
        sound: random.permille(700),
        machines: 1 + random.below(4),
        skewed: random.permille(500),
        calls: 10 + random.below(50),
        tenants: 1 + random.below(2),
        faults,
    }
}

/// Gives the place back in the log, however the call ends.
struct Running(Shared<Log>, Vec<(usize, u64)>);

impl Running {
    fn begin(log: &Shared<Log>, plan: &Plan, tenant: u64) -> Self {
        let mut places = Vec::new();
        for (at, limit) in plan.limits.iter().enumerate() {
            if limit.algorithm == Algorithm::Concurrency {
                let subject = (at, subject_of(limit, tenant));
                *log.borrow_mut().running.entry(subject).or_default() += 1;
                places.push(subject);
            }
        }
        Self(log.clone(), places)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for place in &self.1 {
            *self.0.borrow_mut().running.get_mut(place).unwrap() -= 1;
        }
    }
}

/// The tenant a limit counts by, 0 where all share.
fn subject_of(limit: &Limit, tenant: u64) -> u64 {
    if limit.per.is_empty() { 0 } else { tenant + 1 }
}

fn instance(plan: &Plan) -> Quota {
    let mut quota = quota(&plan.text);
    quota.assume_swap(verdict(plan));
    quota
}

fn verdict(plan: &Plan) -> SwapCheck {
    if plan.sound {
        SwapCheck::Sound
    } else {
        SwapCheck::Unsound("assumed".to_owned())
    }
}

/// One call from end to end, on an instance of its machine.
async fn one_call(
    sim: Sim,
    plan: Plan,
    pool: Shared<Vec<Quota>>,
    skew_ms: i64,
    log: Shared<Log>,
    mut random: Random,
) {
    let kv = sim.kv();
    let clock = |sim: &Sim| sim.now_ms().checked_add_signed(skew_ms).unwrap();
    let who = random.below(plan.tenants);
    let caller = tenant(&format!("t{who}"));
    let taken = pool.borrow_mut().pop();
    let mut quota = taken.unwrap_or_else(|| instance(&plan));
    let cost = Cost {
        requests: 1,
        bytes: 1 + random.below(4),
    };
    let items = 1 + random.below(4);
    let now = clock(&sim);
    let mut used = Vec::new();
    let mut note = |unit: Unit, units: u64, clock_ms: u64| {
        for (at, limit) in plan.limits.iter().enumerate() {
            if limit.unit == unit && limit.algorithm != Algorithm::Concurrency {
                used.push(Used {
                    limit: at,
                    tenant: subject_of(limit, who),
                    clock_ms,
                    units,
                });
            }
        }
    };
    let admitted = quota
        .admit(
            StoreAccess::new(&kv, now, random.bits()),
            &call(&caller),
            cost,
        )
        .await;
    match admitted {
        Err(refusal) => {
            assert!(refusal.retry_after_s >= 1);
            assert_ne!(refusal.kind, RefusalKind::BackOff);
            log.borrow_mut().refused += 1;
        }
        Ok(mut admission) => {
            note(Unit::Requests, cost.requests, now);
            note(Unit::Bytes, cost.bytes, now);
            let now = clock(&sim);
            let store = StoreAccess::new(&kv, now, random.bits());
            if quota
                .charge_items(store, &mut admission, items)
                .await
                .is_err()
            {
                log.borrow_mut().refused += 1;
            } else {
                let running = Running::begin(&log, &plan, who);
                log.borrow_mut().admitted += 1;
                let ran = !random.permille(300);
                if ran {
                    note(Unit::Items, items, now);
                }
                log.borrow_mut().used.append(&mut used);
                sim.sleep(random.below(4_000)).await;
                drop(running);
                let store = StoreAccess::new(&kv, clock(&sim), random.bits());
                if !ran {
                    quota.refund_items(store, &mut admission).await;
                }
                quota.settle(store, admission, 0).await;
            }
        }
    }
    log.borrow_mut().ended += 1;
    pool.borrow_mut().push(quota);
}

/// A counter window never holds more than its limit, by the clocks that chose it.
fn check_windows(used: &[Used], limit: u64, width_ms: u64) -> Result<(), String> {
    let mut sums = BTreeMap::<u64, u64>::new();
    for u in used {
        *sums.entry(u.clock_ms / width_ms).or_default() += u.units;
    }
    match sums.values().max() {
        Some(&most) if most > limit => Err(format!("{most} of {limit} in one window")),
        _ => Ok(()),
    }
}

/// In any interval d of clock times a bucket gives at most the units that it holds and those that are restored in d.
fn check_bucket(used: &[Used], bucket: &gcra::Bucket) -> Result<(), String> {
    let (held, grace_ms) = match bucket.shape {
        gcra::Shape::Token { burst } => (burst, 0),
        // One call of the largest cost begins after the longest wait.
        gcra::Shape::Leaky { max_wait_ms } => (4, max_wait_ms),
    };
    for first in used {
        for last in used.iter().filter(|u| u.clock_ms >= first.clock_ms) {
            let between = first.clock_ms..=last.clock_ms;
            let sum: u64 = used
                .iter()
                .filter(|u| between.contains(&u.clock_ms))
                .map(|u| u.units)
                .sum();
            let d = last.clock_ms - first.clock_ms;
            if sum * bucket.window_ms > held * bucket.window_ms + bucket.limit * (d + grace_ms) {
                return Err(format!("{sum} in {d} ms by {bucket:?}"));
            }
        }
    }
    Ok(())
}

fn bucket_of(limit: &Limit) -> Option<gcra::Bucket> {
    let shape = match limit.algorithm {
        Algorithm::TokenBucket => gcra::Shape::Token {
            burst: limit.burst.unwrap_or(limit.limit),
        },
        Algorithm::LeakyBucket => gcra::Shape::Leaky {
            max_wait_ms: limit.max_wait_ms.unwrap(),
        },
        _ => return None,
    };
    Some(gcra::Bucket {
        limit: limit.limit,
        window_ms: limit.window_s.unwrap() * 1000,
        shape,
    })
}

/// Checks that the use of each limit by each subject stays within the bound of the limit.
fn check_use(plan: &Plan, log: &Log) -> Result<(), String> {
    for (at, limit) in plan.limits.iter().enumerate() {
        for tenant in 0..=plan.tenants {
            let used: Vec<Used> = log
                .used
                .iter()
                .filter(|u| u.limit == at && u.tenant == tenant)
                .cloned()
                .collect();
            let checked = match (limit.algorithm, bucket_of(limit)) {
                (Algorithm::Concurrency, _) => Ok(()),
                (_, Some(bucket)) if plan.sound => check_bucket(&used, &bucket),
                (_, Some(bucket)) => {
                    let (limit, width_ms) = bucket.fallback();
                    check_windows(&used, limit, width_ms)
                }
                _ => check_windows(&used, limit.limit, limit.window_s.unwrap() * 1000),
            };
            checked.map_err(|e| format!("{}: {e}", limit.name))?;
        }
    }
    Ok(())
}

/// Never more calls at once than a limit allows.
fn check_running(plan: &Plan, log: &Log) -> Result<(), String> {
    for (&(at, _), &running) in &log.running {
        let limit = &plan.limits[at];
        if running > limit.limit {
            return Err(format!("{running} of {} run at once", limit.limit));
        }
    }
    Ok(())
}

/// If nothing failed, every counter holds the units that were kept, and nothing else.
fn check_nothing_burnt(plan: &Plan, log: &Log, sim: &Sim) -> Result<(), String> {
    for (at, limit) in plan.limits.iter().enumerate() {
        if limit.lease_tokens > 0 || (plan.sound && bucket_of(limit).is_some()) {
            continue;
        }
        let kept: u64 = log
            .used
            .iter()
            .filter(|u| u.limit == at)
            .map(|u| u.units)
            .sum();
        let (prefix, index) = (format!("q/{}/", limit.name), format!("q/{}/x/", limit.name));
        let mut counted = 0;
        for (name, entry) in sim.entries() {
            if let (true, false, Entry::Counter(sum)) =
                (name.starts_with(&prefix), name.starts_with(&index), entry)
            {
                counted += sum;
            }
        }
        if counted != kept as i64 {
            return Err(format!("{}: {counted} counted, {kept} kept", limit.name));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Totals {
    admitted: u64,
    refused: u64,
    died: u64,
    operations: u64,
}

fn schedule(seed: u64, totals: &mut Totals) {
    let mut random = Random::new(seed);
    let plan = plan(&mut random);
    let sim = Sim::new(random.bits(), START_MS + random.below(60_000), plan.faults);
    let log = shared(Log::default());
    let machines: Vec<_> = (0..plan.machines)
        .map(|_| {
            let skew = if plan.skewed {
                random.below(4_001) as i64 - 2_000
            } else {
                0
            };
            (shared(Vec::new()), skew)
        })
        .collect();
    // In bursts, at times right around the end of a window. Fewer calls than lead to a sweep in between, so
    // that every counter is there at the end.
    let mut at = sim.now_ms();
    let mut calls = 0;
    while calls < plan.calls {
        at += match random.below(4) {
            0 => 0,
            1 => random.below(50),
            2 => random.below(1_500),
            _ => (1_000 - at % 1_000) - random.below(20).min(1_000 - at % 1_000),
        };
        // Calls are sent twice by clients that lost patience, and by machines that retry.
        for _ in 0..1 + u64::from(random.permille(150)) {
            let (pool, skew) = &machines[random.below(plan.machines) as usize];
            let random = Random::new(random.bits());
            let one = one_call(
                sim.clone(),
                plan.clone(),
                pool.clone(),
                *skew,
                log.clone(),
                random,
            );
            sim.spawn(at, one);
            calls += 1;
        }
    }
    let fail = |e: String| panic!("{e}\n{plan:?}");
    sim.run(|_| check_running(&plan, &log.borrow()).unwrap_or_else(fail));
    check_use(&plan, &log.borrow()).unwrap_or_else(fail);
    let nothing_fails = plan.faults.lost_request
        + plan.faults.lost_reply
        + plan.faults.long_delay
        + plan.faults.crash
        == 0;
    if nothing_fails {
        check_nothing_burnt(&plan, &log.borrow(), &sim).unwrap_or_else(fail);
        assert_eq!(log.borrow().ended, calls);
    }
    totals.admitted += log.borrow().admitted;
    totals.refused += log.borrow().refused;
    totals.died += calls - log.borrow().ended;
    totals.operations += sim.operations();

    // When all is quiet for two leases and two windows, everything can be used again.
    sim.set_faults(Faults::NONE);
    let (sim2, plan2) = (sim.clone(), plan.clone());
    let done = shared(false);
    let done2 = done.clone();
    let longest = |limit: &Limit| {
        let drain_ms = bucket_of(limit).map_or(0, |b| b.drain_ms());
        (limit.window_s.or(limit.lease_s).unwrap() * 1000).max(drain_ms)
    };
    let quiet_ms = 10_000 + 2 * plan.limits.iter().map(longest).max().unwrap();
    sim.spawn(sim.now_ms() + quiet_ms, async move {
        for (at, limit) in plan2.limits.iter().enumerate() {
            let most = if limit.algorithm == Algorithm::Concurrency {
                limit.limit
            } else {
                1
            };
            // Each limit alone, so that none hides another.
            let mut quota = Quota::new(QuotaDocument {
                limits: vec![limit.clone()],
                ..QuotaDocument::default()
            })
            .unwrap();
            quota.assume_swap(verdict(&plan2));
            for n in 0..most {
                let one = Cost {
                    requests: 1,
                    bytes: 1,
                };
                let admitted = admit(&mut quota, &sim2, &tenant("t0"), one).await;
                assert!(
                    admitted.is_ok(),
                    "limit {at} after a pause, call {n}: {admitted:?}"
                );
            }
        }
        *done2.borrow_mut() = true;
    });
    sim.run(|_| {});
    assert!(*done.borrow());
}

#[test]
fn the_limits_hold_under_every_failure() {
    let began = Instant::now();
    let mut totals = Totals::default();
    let mut schedules = 0;
    for_seeds("QUOTA", SCHEDULES, |seed| {
        schedule(seed, &mut totals);
        schedules += 1;
    });
    println!(
        "{schedules} schedules in {:?}: {} calls admitted, {} refused, {} died, {} operations",
        began.elapsed(),
        totals.admitted,
        totals.refused,
        totals.died,
        totals.operations
    );
}

/// Instances that try the store at the same time, with losses, trust a sound swap or none. A store that lies is never
/// trusted.
#[test]
fn a_lying_store_is_never_trusted() {
    let text = "[[limits]]\nname = \"t\"\nalgorithm = \"token-bucket\"\nlimit = 5\nwindow_s = 60";
    let mut trusted = 0;
    for_seeds("QUOTA", 2_000, |seed| {
        let faults = Faults {
            lost_request: 20,
            lost_reply: 20,
            long_delay: 50,
            long_ms: 500,
            crash: 5,
        };
        for lying in [false, true] {
            let sim = Sim::new(seed, START_MS, faults);
            let asked = shared((0, 0));
            for _ in 0..4 {
                let (sim2, asked, mut quota) = (sim.clone(), asked.clone(), quota(text));
                sim.spawn(START_MS + sim.below(100), async move {
                    let random = sim2.below(u64::MAX);
                    let now = sim2.now_ms();
                    let probed = if lying {
                        let kv = LyingSwap(sim2.kv());
                        quota.probe_swap(StoreAccess::new(&kv, now, random)).await
                    } else {
                        let kv = sim2.kv();
                        quota.probe_swap(StoreAccess::new(&kv, now, random)).await
                    };
                    if probed.is_ok() {
                        let mut asked = asked.borrow_mut();
                        asked.0 += 1;
                        asked.1 += u32::from(quota.fallbacks().is_empty());
                    }
                });
            }
            sim.run(|_| {});
            let (_, sound) = *asked.borrow();
            assert!(!lying || sound == 0, "trusted");
            trusted += sound;
        }
    });
    assert!(trusted > 0);
}
