//! Each algorithm, and quota as a whole, in a world where nothing fails.

use crate::quota_common;

use penstock_core::kv::run_ready;
use penstock_policy::quota::limits::Algorithm;
use penstock_policy::quota::swap::SwapCheck;
use penstock_policy::quota::{CallAttributes, Cost, Quota, RefusalKind, StoreAccess, headers};
use penstock_testkit::sim::Entry;
use penstock_testkit::{Faults, MemoryKv, Sim};
use quota_common::*;
use std::collections::BTreeMap;

const WINDOWS: [(&str, &str); 3] = [
    (
        "sliding",
        "algorithm = \"sliding-window\"\nlimit = 20\nwindow_s = 60",
    ),
    (
        "fixed",
        "algorithm = \"fixed-window\"\nlimit = 20\nwindow_s = 60",
    ),
    (
        "calendar",
        "algorithm = \"calendar\"\nlimit = 20\nperiod = \"day\"",
    ),
];

/// All callers at once, each on an instance of its own; how many are admitted. No call is settled.
fn race(seed: u64, text: &str, racers: usize) -> (usize, Sim) {
    let sim = Sim::new(seed, START_MS + 10_000, Faults::NONE);
    let admitted = shared(0);
    for _ in 0..racers {
        let (sim2, admitted, mut quota) = (sim.clone(), admitted.clone(), quota(text));
        quota.assume_swap(SwapCheck::Sound);
        sim.spawn(sim.now_ms() + sim.below(3), async move {
            let result = admit(&mut quota, &sim2, &tenant("a"), ONE).await;
            *admitted.borrow_mut() += usize::from(result.is_ok());
            std::mem::forget(result);
        });
    }
    sim.run(|_| {});
    let admitted = *admitted.borrow();
    (admitted, sim)
}

#[test]
fn of_sixty_four_racers_exactly_the_limit_pass() {
    let others = [
        (
            "token",
            "algorithm = \"token-bucket\"\nlimit = 20\nwindow_s = 600",
        ),
        // Twenty calls are let through: one at once and nineteen in the time a call may wait.
        (
            "leaky",
            "algorithm = \"leaky-bucket\"\nlimit = 20\nwindow_s = 10\nmax_wait_ms = 9500",
        ),
        ("concurrency", "algorithm = \"concurrency\"\nlimit = 20"),
    ];
    for (name, settings) in WINDOWS.into_iter().chain(others) {
        let text = format!("[[limits]]\nname = \"{name}\"\n{settings}");
        for seed in 0..100 {
            let (admitted, sim) = race(seed, &text, 64);
            assert_eq!(admitted, 20, "{name}, seed {seed}");
            let sum: i64 = counters(&sim, name).values().sum();
            assert!(
                matches!((name, sum), (_, 20) | ("token" | "leaky", 0)),
                "{name}: {sum}"
            );
        }
    }
}

/// The counters of a limit: name to sum.
fn counters(sim: &Sim, limit: &str) -> BTreeMap<String, i64> {
    let (prefix, index) = (format!("q/{limit}/"), format!("q/{limit}/x/"));
    let entries = sim.entries().into_iter();
    entries
        .filter(|(name, _)| name.starts_with(&prefix) && !name.starts_with(&index))
        .filter_map(|(name, entry)| match entry {
            Entry::Counter(count) => Some((name, count)),
            Entry::Value(_) => None,
        })
        .collect()
}

#[test]
fn of_twenty_five_requests_twenty_pass_and_the_headers_count_down() {
    for (name, settings) in WINDOWS {
        alone(|sim| async move {
            let mut quota = quota(&format!("[[limits]]\nname = \"{name}\"\n{settings}"));
            for n in 0..25_u64 {
                let result = admit(&mut quota, &sim, &tenant("a"), ONE).await;
                let (told, remaining) = match &result {
                    Ok(admission) => (headers(&admission.statuses, None), 19 - n),
                    Err(refusal) => (headers(&refusal.statuses, Some(refusal)), 0),
                };
                assert_eq!(result.is_ok(), n < 20, "{name} {n}");
                let told: BTreeMap<_, _> = told.into_iter().collect();
                assert_eq!(told["x-ratelimit-limit"], "20");
                assert_eq!(told["x-ratelimit-remaining"], remaining.to_string());
                assert!(told["ratelimit"].starts_with(&format!("\"{name}\";r={remaining};t=")));
                assert!(told["ratelimit-policy"].starts_with(&format!("\"{name}\";q=20;w=")));
                assert_eq!(told.contains_key("retry-after"), n >= 20);
                if let Err(refusal) = result {
                    assert_eq!(refusal.kind, RefusalKind::UsedUp);
                    assert_eq!(told["retry-after"], refusal.retry_after_s.to_string());
                    let words = if name == "calendar" {
                        "limit `calendar` of 20 requests a day is used up; try again in ".to_owned()
                    } else {
                        format!("limit `{name}` of 20 requests in 60 s is used up; try again in ")
                    };
                    assert!(refusal.message.starts_with(&words), "{}", refusal.message);
                }
            }
            assert_eq!(quota.tally().admitted, 20);
            assert_eq!(quota.tally().refused, 5);
            assert_eq!(quota.tally().store_failures, Default::default());
        });
    }
}

#[test]
fn retrying_after_retry_after_succeeds() {
    let others = [
        (
            "token",
            "algorithm = \"token-bucket\"\nlimit = 20\nwindow_s = 60\nburst = 5",
        ),
        (
            "leaky",
            "algorithm = \"leaky-bucket\"\nlimit = 20\nwindow_s = 60\nmax_wait_ms = 2000",
        ),
    ];
    for (name, settings) in WINDOWS.into_iter().chain(others) {
        alone(|sim| async move {
            let mut quota = quota(&format!("[[limits]]\nname = \"{name}\"\n{settings}"));
            for _ in 0..5 {
                let refusal = loop {
                    sim.sleep(sim.below(2_000)).await;
                    if let Err(refusal) = admit(&mut quota, &sim, &tenant("a"), ONE).await {
                        break refusal;
                    }
                };
                sim.sleep(refusal.retry_after_s * 1000).await;
                let again = admit(&mut quota, &sim, &tenant("a"), ONE).await;
                assert!(again.is_ok(), "{name}: {again:?} after {refusal:?}");
            }
        });
    }
}

#[test]
fn a_slow_drip_is_never_refused() {
    for (name, settings, every_ms) in [
        (
            "fixed",
            "algorithm = \"fixed-window\"\nlimit = 20\nwindow_s = 60",
            3_001,
        ),
        (
            "sliding",
            "algorithm = \"sliding-window\"\nlimit = 20\nwindow_s = 60",
            3_160,
        ),
        (
            "token",
            "algorithm = \"token-bucket\"\nlimit = 20\nwindow_s = 60\nburst = 1",
            3_000,
        ),
        (
            "leaky",
            "algorithm = \"leaky-bucket\"\nlimit = 20\nwindow_s = 60\nmax_wait_ms = 0",
            3_000,
        ),
    ] {
        alone(|sim| async move {
            let mut quota = quota(&format!("[[limits]]\nname = \"{name}\"\n{settings}"));
            let mut at = START_MS + 1_000;
            for n in 0..2_000 {
                sim.sleep(at - sim.now_ms()).await;
                at += every_ms;
                let result = admit(&mut quota, &sim, &tenant("a"), ONE).await;
                assert!(result.is_ok_and(|a| a.wait_ms == 0), "{name}: call {n}");
            }
        });
    }
}

/// The promise of the sliding window, for calls one after the other: at most L·(1 + d/W) in any
/// interval d of at most W.
#[test]
fn no_interval_sees_more_than_a_sliding_window_promises() {
    for seed in 0..200 {
        let sim = Sim::new(seed, START_MS, Faults::NONE);
        let sim2 = sim.clone();
        sim.spawn(START_MS, async move {
            let mut quota = quota("[[limits]]\nname = \"s\"\nlimit = 10\nwindow_s = 10");
            let mut passed = Vec::new();
            for _ in 0..400 {
                let pause = if sim2.below(10) == 0 { 9_000 } else { 600 };
                sim2.sleep(sim2.below(pause)).await;
                let now = sim2.now_ms();
                if admit(&mut quota, &sim2, &tenant("a"), ONE).await.is_ok() {
                    passed.push(now);
                }
            }
            for (at, start) in passed.iter().enumerate() {
                for (count, end) in passed[at..].iter().enumerate() {
                    let d = end - start;
                    let count = count as u64 + 1;
                    assert!(
                        d > 10_000 || count * 10_000 <= 10 * (10_000 + d),
                        "seed {seed}: {count} in {d} ms"
                    );
                }
            }
        });
        sim.run(|_| {});
    }
}

/// Makes a call of one request. Returns whether it passed, and how many operations of the store it cost.
fn admit_now(quota: &mut Quota, kv: &MemoryKv, now_ms: u64) -> (bool, u64) {
    let before = kv.operations();
    let store = StoreAccess::new(kv, now_ms, 1);
    let admitted = run_ready(quota.admit(store, &call(&tenant("a")), ONE));
    (admitted.is_ok(), kv.operations() - before)
}

#[test]
fn the_previous_window_is_read_once_a_second_and_not_again_once_it_is_settled() {
    let kv = MemoryKv::default();
    let mut quota = quota("[[limits]]\nname = \"s\"\nlimit = 1000\nwindow_s = 60");
    let window_ms = START_MS + 60_000;
    for (at_ms, operations, why) in [
        (10_000, 2, "it is not known"),
        (10_001, 1, "it was read a moment ago"),
        (10_999, 1, "it was read within a second"),
        (11_000, 2, "it was read a second ago"),
        (40_000, 2, "it was read before it was settled"),
        (40_001, 1, "it is settled"),
        (59_999, 1, "it is settled"),
    ] {
        let cost = match at_ms {
            // The first charge registers its counter: a cursor, a count and an entry of the index.
            10_000 => admit_now(&mut quota, &kv, window_ms + at_ms).1 - 4,
            _ => admit_now(&mut quota, &kv, window_ms + at_ms).1,
        };
        assert_eq!(cost, operations, "{at_ms} ms into the window: {why}");
    }
}

#[test]
fn charges_that_arrive_late_in_the_previous_window_count_although_it_is_remembered() {
    let kv = MemoryKv::default();
    let text = "[[limits]]\nname = \"s\"\nlimit = 10\nwindow_s = 60";
    let (mut here, mut there) = (quota(text), quota(text));
    let window_ms = START_MS + 60_000;
    // A fifth of the window has passed, so a fifth of the limit passes in spite of earlier charges.
    let now_ms = window_ms + 12_000;
    assert!(admit_now(&mut here, &kv, now_ms).0);
    for _ in 0..10 {
        assert!(admit_now(&mut there, &kv, window_ms - 1).0);
    }
    assert_eq!(admit_now(&mut here, &kv, now_ms + 100), (true, 1));
    assert!(
        !admit_now(&mut here, &kv, now_ms + 200).0,
        "ten of the previous window and a third one of this are too many"
    );
}

#[test]
fn units_refunded_in_the_previous_window_are_left_again_although_it_is_remembered() {
    let kv = MemoryKv::default();
    let text = "[[limits]]\nname = \"i\"\nunit = \"items\"\nlimit = 1000\nwindow_s = 60";
    let mut quota = quota(text);
    let at = |ms: u64| StoreAccess::new(&kv, START_MS + ms, 1);
    let a = tenant("a");
    let admit = |quota: &mut Quota, ms, items| {
        let mut admission = run_ready(quota.admit(at(ms), &call(&a), ONE)).unwrap();
        run_ready(quota.charge_items(at(ms), &mut admission, items)).unwrap();
        admission
    };
    let mut early = admit(&mut quota, 59_900, 300);
    let remaining = admit(&mut quota, 60_200, 1).statuses[0].remaining;
    assert!((690..710).contains(&remaining), "{remaining}");
    run_ready(quota.refund_items(at(60_250), &mut early));
    let before = kv.operations();
    let last = admit(&mut quota, 60_300, 1);
    assert_eq!(kv.operations() - before, 1, "the window is remembered");
    assert_eq!(last.statuses[0].remaining, 998);
}

#[test]
fn a_refused_call_uses_up_nothing() {
    let text = "
        [[limits]]
        name = \"window\"
        limit = 100
        window_s = 60
        [[limits]]
        name = \"bytes\"
        unit = \"bytes\"
        algorithm = \"token-bucket\"
        limit = 1000
        window_s = 2000000
        [[limits]]
        name = \"gpu\"
        algorithm = \"concurrency\"
        limit = 50
        [[limits]]
        name = \"tight\"
        algorithm = \"fixed-window\"
        limit = 1
        window_s = 60
        [[limits]]
        name = \"items\"
        unit = \"items\"
        limit = 10
        window_s = 60";
    let sim = alone(|sim| async move {
        let mut quota = quota(text);
        let cost = Cost {
            requests: 1,
            bytes: 10,
        };
        let mut first = admit(&mut quota, &sim, &tenant("a"), cost).await.unwrap();
        for _ in 0..20 {
            let refusal = admit(&mut quota, &sim, &tenant("a"), cost)
                .await
                .unwrap_err();
            assert_eq!(refusal.limit.as_deref(), Some("tight"));
            let remaining: Vec<_> = refusal.statuses.iter().map(|s| s.remaining).collect();
            assert_eq!(remaining, [99, 990, 49, 0]);
            sim.sleep(1_100).await;
        }
        // The items of this call are too many for good; its earlier charges are refunded too.
        let kv = sim.kv();
        let refusal = quota
            .charge_items(StoreAccess::new(&kv, sim.now_ms(), 1), &mut first, 11)
            .await
            .unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::TooLarge);
        assert!(refusal.message.contains("11 items"), "{}", refusal.message);
        quota
            .settle(StoreAccess::new(&kv, sim.now_ms(), 1), first, 50)
            .await;
        sim.sleep(1_100).await;
        let all = Cost {
            requests: 1,
            bytes: 1000,
        };
        let mut last = admit(&mut quota, &sim, &tenant("a"), all).await.unwrap();
        let store = StoreAccess::new(&kv, sim.now_ms(), 1);
        assert!(quota.charge_items(store, &mut last, 11).await.is_err());
    });
    for limit in ["window", "bytes", "gpu", "tight", "items"] {
        assert!(
            counters(&sim, limit).values().all(|&sum| sum == 0),
            "{limit}"
        );
    }
}

#[test]
fn items_are_charged_refused_and_refunded() {
    alone(|sim| async move {
        let mut quota = quota(
            "[[limits]]\nname = \"items\"\nunit = \"items\"\nlimit = 10\nwindow_s = 60\n\
             [[limits]]\nname = \"calls\"\nlimit = 3\nwindow_s = 60",
        );
        let kv = sim.kv();
        let a = tenant("a");
        let mut first = admit(&mut quota, &sim, &a, ONE).await.unwrap();
        quota
            .charge_items(StoreAccess::new(&kv, sim.now_ms(), 1), &mut first, 6)
            .await
            .unwrap();
        assert_eq!(
            first
                .statuses
                .iter()
                .map(|s| s.remaining)
                .collect::<Vec<_>>(),
            [2, 4]
        );
        let mut second = admit(&mut quota, &sim, &a, ONE).await.unwrap();
        let refusal = quota
            .charge_items(StoreAccess::new(&kv, sim.now_ms(), 1), &mut second, 5)
            .await
            .unwrap_err();
        assert_eq!(refusal.limit.as_deref(), Some("items"));
        assert_eq!(
            refusal
                .statuses
                .iter()
                .map(|s| s.remaining)
                .collect::<Vec<_>>(),
            [2, 4]
        );
        // The model did not run for the first: its items are free again, its request is not.
        quota
            .refund_items(StoreAccess::new(&kv, sim.now_ms(), 1), &mut first)
            .await;
        assert_eq!(first.statuses[1].remaining, 10);
        quota
            .settle(StoreAccess::new(&kv, sim.now_ms(), 1), first, 0)
            .await;
        sim.sleep(1_100).await;
        let mut third = admit(&mut quota, &sim, &a, ONE).await.unwrap();
        quota
            .charge_items(StoreAccess::new(&kv, sim.now_ms(), 1), &mut third, 10)
            .await
            .unwrap();
        assert_eq!(
            third
                .statuses
                .iter()
                .map(|s| s.remaining)
                .collect::<Vec<_>>(),
            [1, 0]
        );
    });
}

#[test]
fn compute_time_overshoots_by_what_runs_at_once() {
    for seed in 0..50 {
        let sim = Sim::new(seed, START_MS, Faults::NONE);
        let text = "[[limits]]\nname = \"cpu\"\nunit = \"compute-ms\"\nlimit = 100\nwindow_s = 600\n\
            algorithm = \"fixed-window\"";
        for _ in 0..8 {
            let (sim2, mut quota) = (sim.clone(), quota(text));
            sim.spawn(START_MS, async move {
                for _ in 0..10 {
                    let admitted = admit(&mut quota, &sim2, &tenant("a"), ONE).await;
                    sim2.sleep(sim2.below(2_000)).await;
                    if let Ok(admission) = admitted {
                        let kv = sim2.kv();
                        quota
                            .settle(StoreAccess::new(&kv, sim2.now_ms(), 3), admission, 50)
                            .await;
                    }
                }
            });
        }
        sim.run(|_| {});
        let used: i64 = counters(&sim, "cpu").values().sum();
        assert!((100..100 + 8 * 50).contains(&used), "seed {seed}: {used}");
    }
}

#[test]
fn places_are_given_back_or_forgotten() {
    let text = "[[limits]]\nname = \"gpu\"\nalgorithm = \"concurrency\"\nlimit = 2\nlease_s = 30";
    alone(|sim| async move {
        let mut quota = quota(text);
        let (a, kv) = (tenant("a"), sim.kv());
        for _ in 0..5 {
            let one = admit(&mut quota, &sim, &a, ONE).await.unwrap();
            let two = admit(&mut quota, &sim, &a, ONE).await.unwrap();
            assert_eq!(two.statuses[0].remaining, 0);
            let refusal = admit(&mut quota, &sim, &a, ONE).await.unwrap_err();
            assert_eq!(
                refusal.message,
                "limit `gpu` of 2 calls at once is used up; try again in 1 s"
            );
            // Into the next lease bucket: the places are still taken.
            sim.sleep(30_000).await;
            assert!(admit(&mut quota, &sim, &a, ONE).await.is_err());
            quota
                .settle(StoreAccess::new(&kv, sim.now_ms(), 1), one, 0)
                .await;
            let three = admit(&mut quota, &sim, &a, ONE).await.unwrap();
            // These two are never settled, and forgotten after two leases.
            drop((two, three));
            sim.sleep(60_000).await;
        }
        // A release after the lease has ended, and after the counter was swept, changes nothing.
        let late = admit(&mut quota, &sim, &a, ONE).await.unwrap();
        sim.sleep(600_000).await;
        let entries = sim.live_entries();
        quota
            .settle(StoreAccess::new(&kv, sim.now_ms(), 1), late, 0)
            .await;
        assert_eq!(sim.live_entries(), entries);
        assert_eq!(quota.tally().store_failures, Default::default());
    });
}

#[test]
fn shadow_limits_report_and_never_refuse() {
    alone(|sim| async move {
        let mut quota = quota("[[limits]]\nname = \"s\"\nshadow = true\nlimit = 2\nwindow_s = 60");
        for n in 0..5 {
            let admission = admit(&mut quota, &sim, &tenant("a"), ONE).await.unwrap();
            assert_eq!(admission.statuses[0].over, n >= 2);
            assert!(headers(&admission.statuses, None).is_empty());
        }
        assert_eq!(quota.tally().shadow_refusals, 3);
    });
}

#[test]
fn the_store_decides_nothing_while_it_is_away() {
    let away = Faults {
        lost_request: 1000,
        ..Faults::NONE
    };
    for (setting, admitted) in [("open", true), ("closed", false)] {
        alone(|sim| async move {
            let mut quota = quota(&format!(
                "[[limits]]\nname = \"l\"\nlimit = 1\nwindow_s = 60\non_store_failure = \"{setting}\"\n\
                 [[limits]]\nname = \"t\"\nalgorithm = \"token-bucket\"\nlimit = 1\nwindow_s = 60\n\
                 on_store_failure = \"{setting}\""
            ));
            sim.set_faults(away);
            for _ in 0..3 {
                match admit(&mut quota, &sim, &tenant("a"), ONE).await {
                    Ok(admission) => assert!(admitted && admission.statuses.is_empty()),
                    Err(refusal) => {
                        assert!(!admitted);
                        assert_eq!(refusal.kind, RefusalKind::StoreFailed);
                        assert_eq!(refusal.retry_after_s, 1);
                    }
                }
            }
            let failures = quota.store_failures();
            assert_eq!(failures.charges, if admitted { 6 } else { 3 });
            assert_eq!(failures.passed_open, if admitted { 6 } else { 0 });
            // The store is back: calls of the meantime were not charged.
            sim.set_faults(Faults::NONE);
            assert!(admit(&mut quota, &sim, &tenant("a"), ONE).await.is_ok());
            assert!(admit(&mut quota, &sim, &tenant("a"), ONE).await.is_err());
        });
    }
}

#[test]
fn limits_apply_to_whom_they_name_and_count_them_apart() {
    alone(|sim| async move {
        let mut quota = quota(
            "[[limits]]\nname = \"free\"\ntiers = [\"free\"]\nmodels = [\"m\"]\nper = [\"tenant\", \"route\"]\n\
             limit = 1\nwindow_s = 60",
        );
        let kv = sim.kv();
        let (a, b) = (tenant("a"), tenant("b"));
        let mut paid = tenant("c");
        paid.tier = "paid".to_owned();
        for (caller, route, model, fits) in [
            (&a, "predict", Some("m"), true),
            (&a, "predict", Some("m"), false),
            (&a, "infer", Some("m"), true),
            (&b, "predict", Some("m"), true),
            (&b, "predict", Some("m"), false),
            (&b, "predict", Some("other"), true),
            (&b, "predict", None, true),
            (&paid, "predict", Some("m"), true),
            (&paid, "predict", Some("m"), true),
        ] {
            let call = CallAttributes {
                caller,
                route,
                model,
            };
            let result = quota
                .admit(StoreAccess::new(&kv, sim.now_ms(), 1), &call, ONE)
                .await;
            assert_eq!(result.is_ok(), fits, "{call:?}");
        }
    });
}

#[test]
fn buckets_fall_back_where_swaps_lie() {
    let text = "[[limits]]\nname = \"t\"\nalgorithm = \"token-bucket\"\nlimit = 60\nwindow_s = 60\nburst = 5\n\
        [[limits]]\nname = \"l\"\nalgorithm = \"leaky-bucket\"\nlimit = 100\nwindow_s = 1";
    let sim = alone(|sim| async move {
        let kv = LyingSwap(sim.kv());
        let a = tenant("a");
        let mut quota1 = quota(text);
        let mut passed = 0;
        for _ in 0..20 {
            let result = quota1
                .admit(StoreAccess::new(&kv, sim.now_ms(), 7), &call(&a), ONE)
                .await;
            passed += u32::from(result.is_ok());
        }
        assert_eq!(passed, 5, "the burst holds");
        let fallbacks = quota1.fallbacks();
        assert_eq!(fallbacks.len(), 2);
        assert_eq!(fallbacks[0].limit, "t");
        assert_eq!(fallbacks[0].wanted, Algorithm::TokenBucket);
        assert_eq!(fallbacks[0].used, Algorithm::SlidingWindow);
        assert!(
            fallbacks[0].reason.contains("both succeeded"),
            "{}",
            fallbacks[0].reason
        );
        // Another instance knows it from the store.
        let mut quota2 = quota(text);
        let operations = sim.operations();
        quota2
            .probe_swap(StoreAccess::new(&kv, sim.now_ms(), 8))
            .await
            .unwrap();
        assert_eq!(sim.operations(), operations + 1);
        assert_eq!(quota2.fallbacks(), fallbacks);
    });
    assert!(
        sim.entries()
            .keys()
            .all(|name| !name.starts_with("q/.swap/t"))
    );
    alone(|sim| async move {
        let kv = NoSwap(sim.kv());
        let mut quota = quota(text);
        quota
            .probe_swap(StoreAccess::new(&kv, sim.now_ms(), 7))
            .await
            .unwrap();
        assert!(quota.fallbacks()[0].reason.contains("not supported"));
    });
    alone(|sim| async move {
        let mut quota = quota(text);
        quota
            .probe_swap(StoreAccess::new(&sim.kv(), sim.now_ms(), 7))
            .await
            .unwrap();
        assert!(quota.fallbacks().is_empty());
        assert!(sim.entries().contains_key("q/.swap/v1"));
    });
}

/// Buckets keep their level when a generation of their value ends.
#[test]
fn a_bucket_survives_the_turn_of_its_generation() {
    for seed in 0..200 {
        // Generations are 600 s here; the clocks of the callers differ.
        let sim = Sim::new(seed, START_MS + 599_000, Faults::NONE);
        let text = "[[limits]]\nname = \"t\"\nalgorithm = \"token-bucket\"\nlimit = 1\nwindow_s = 60\nburst = 9";
        let admitted = shared(0);
        for racer in 0..24_u64 {
            let (sim2, admitted, mut quota) = (sim.clone(), admitted.clone(), quota(text));
            quota.assume_swap(SwapCheck::Sound);
            sim.spawn(sim.now_ms() + sim.below(2_000), async move {
                let kv = sim2.kv();
                let now = sim2.now_ms() - 2_000 + racer % 5 * 1_000;
                let a = tenant("a");
                let result = quota
                    .admit(StoreAccess::new(&kv, now, sim2.below(99)), &call(&a), ONE)
                    .await;
                *admitted.borrow_mut() += u32::from(result.is_ok());
            });
        }
        sim.run(|_| {});
        assert_eq!(*admitted.borrow(), 9, "seed {seed}");
    }
}

#[test]
fn leased_tokens_never_admit_more_and_leave_little_unused() {
    for seed in 0..100 {
        let sim = Sim::new(seed, START_MS, Faults::NONE);
        let text = "[[limits]]\nname = \"hot\"\nlimit = 1000\nwindow_s = 600\nlease_tokens = 20";
        let admitted = shared(0_u64);
        for _ in 0..8 {
            let (sim2, admitted, mut quota) = (sim.clone(), admitted.clone(), quota(text));
            sim.spawn(START_MS, async move {
                for _ in 0..200 {
                    if admit(&mut quota, &sim2, &tenant("a"), ONE).await.is_ok() {
                        *admitted.borrow_mut() += 1;
                    }
                }
            });
        }
        sim.run(|_| {});
        let admitted = *admitted.borrow();
        assert!(
            (1000 - 8 * 20..=1000).contains(&admitted),
            "seed {seed}: {admitted}"
        );
        // 1600 calls, a tenth of the trips.
        assert!(sim.operations() < 1_000, "{}", sim.operations());
    }
}

#[test]
fn a_refused_flood_costs_no_trips() {
    alone(|sim| async move {
        let mut quota = quota(
            "[backoff]\nhard_after = 20\n[[limits]]\nname = \"l\"\nlimit = 1\nwindow_s = 3600\nper = [\"tenant\"]",
        );
        let (a, b) = (tenant("a"), tenant("b"));
        let _ = admit(&mut quota, &sim, &a, ONE).await.unwrap();
        let mut waits = Vec::new();
        let mut blocked_at = None;
        for n in 0..200_000_u64 {
            if n % 100 == 0 && sim.now_ms() < START_MS + 60_000 {
                sim.sleep(500).await;
            }
            let refusal = admit(&mut quota, &sim, &a, ONE).await.unwrap_err();
            match refusal.kind {
                RefusalKind::UsedUp => waits.push(refusal.retry_after_s),
                RefusalKind::BackOff => {
                    blocked_at.get_or_insert(n);
                    // The block ends sooner, and the limit would refuse the call then.
                    assert!(refusal.retry_after_s > 3_000);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(blocked_at.is_some_and(|n| n < 400), "{blocked_at:?}");
        assert!(sim.operations() < 100, "{}", sim.operations());
        assert!(waits.is_sorted_by(|a, b| a <= &(b + 3600)), "{waits:?}");
        assert!(
            admit(&mut quota, &sim, &b, ONE).await.is_ok(),
            "others are not meant"
        );
        // The block ends, although the caller never paused.
        let ends = (sim.now_ms() / 60_000 + 2) * 60_000;
        sim.sleep(ends - sim.now_ms()).await;
        let refusal = admit(&mut quota, &sim, &a, ONE).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::UsedUp);
    });
}

#[test]
fn another_instance_learns_of_a_block_from_the_store() {
    alone(|sim| async move {
        let text = "[backoff]\nhard_after = 3\n[[limits]]\nname = \"l\"\nlimit = 1\nwindow_s = 1";
        let (mut one, mut two) = (quota(text), quota(text));
        let a = tenant("a");
        let _ = admit(&mut one, &sim, &a, ONE).await.unwrap();
        for _ in 0..3 {
            sim.sleep(300).await;
            let _ = admit(&mut one, &sim, &a, ONE).await;
            let _ = admit(&mut one, &sim, &a, ONE).await;
        }
        sim.sleep(60_000).await;
        let refusal = admit(&mut two, &sim, &a, ONE).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::BackOff);
        sim.sleep(60_000).await;
        assert!(admit(&mut two, &sim, &a, ONE).await.is_ok());
    });
}

#[test]
fn retry_after_grows_with_refusals() {
    alone(|sim| async move {
        let mut quota = quota("[[limits]]\nname = \"l\"\nlimit = 1\nwindow_s = 600");
        let _ = admit(&mut quota, &sim, &tenant("a"), ONE).await.unwrap();
        let mut last = 0;
        for n in 1..=40_u64 {
            let refusal = admit(&mut quota, &sim, &tenant("a"), ONE)
                .await
                .unwrap_err();
            assert!(refusal.retry_after_s >= last, "refusal {n}");
            last = refusal.retry_after_s;
        }
    });
    alone(|sim| async move {
        let mut quota = quota("[[limits]]\nname = \"c\"\nalgorithm = \"concurrency\"\nlimit = 1");
        let _held = admit(&mut quota, &sim, &tenant("a"), ONE).await.unwrap();
        let mut waits = Vec::new();
        for _ in 0..31 {
            waits.push(
                admit(&mut quota, &sim, &tenant("a"), ONE)
                    .await
                    .unwrap_err()
                    .retry_after_s,
            );
        }
        assert_eq!(
            (waits[0], waits[9], waits[10], waits[20], waits[30]),
            (1, 1, 2, 4, 8)
        );
    });
}

/// Weeks of many subjects, each seen a few times: the entries in the store stay as many as three widths of the index need.
#[test]
fn live_entries_stay_bounded_over_weeks() {
    let text = "
        [backoff]
        hard_after = 1000
        [[limits]]
        name = \"minute\"
        per = [\"address\"]
        limit = 3
        window_s = 60
        [[limits]]
        name = \"hour\"
        per = [\"address\"]
        algorithm = \"fixed-window\"
        limit = 5
        window_s = 3600
        [[limits]]
        name = \"day\"
        per = [\"address\"]
        algorithm = \"calendar\"
        period = \"day\"
        limit = 1000
        [[limits]]
        name = \"bucket\"
        per = [\"address\"]
        algorithm = \"token-bucket\"
        limit = 100
        window_s = 3600
        [[limits]]
        name = \"places\"
        per = [\"address\"]
        algorithm = \"concurrency\"
        limit = 3";
    let sim = Sim::new(7, START_MS, Faults::NONE);
    let most = shared(BTreeMap::<u64, usize>::new());
    let (sim2, most2) = (sim.clone(), most.clone());
    sim.spawn(START_MS, async move {
        let mut instances: Vec<_> = (0..4).map(|_| quota(text)).collect();
        let kv = sim2.kv();
        let mut subject = 0_u64;
        while sim2.now_ms() < START_MS + 28 * 86_400_000 {
            sim2.sleep(120_000 + sim2.below(120_000)).await;
            subject += 1;
            let mut caller = tenant("a");
            caller.api_key_id = None;
            caller.address = Some(format!(
                "2001:db8:{:x}:{:x}::1",
                subject >> 16,
                subject & 0xffff
            ));
            for _ in 0..1 + sim2.below(6) {
                let quota = &mut instances[sim2.below(4) as usize];
                let admitted = admit(quota, &sim2, &caller, ONE).await;
                if let Ok(admission) = admitted {
                    quota
                        .settle(StoreAccess::new(&kv, sim2.now_ms(), 1), admission, 0)
                        .await;
                }
            }
            let week = (sim2.now_ms() - START_MS) / (7 * 86_400_000);
            let mut most = most2.borrow_mut();
            let most = most.entry(week).or_default();
            *most = (*most).max(sim2.live_entries());
        }
    });
    sim.run(|_| {});
    for name in sim.entries().keys() {
        assert!(name.len() < 200, "{name}");
    }
    let most = most.borrow();
    println!("most live entries by week: {most:?}");
    // 480 subjects a day; the day's counters and their index live for three days at most.
    assert!(most[&0] < 10_000, "{most:?}");
    assert!(most[&3] <= most[&1] * 11 / 10, "it grows: {most:?}");
}
