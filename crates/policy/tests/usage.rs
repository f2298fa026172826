//! Usage counters: exact under concurrency, readable, bounded.

use penstock_core::caller::Caller;
use penstock_core::kv::run_ready;
use penstock_policy::usage::{Alert, Amounts, MAX_ROWS, Unit, Usage, UsageSettings, UsageSubject};
use penstock_testkit::{Faults, MemoryKv, Sim};
use std::cell::Cell;
use std::rc::Rc;

const NOON_MS: u64 = 1_795_262_400_000;
const DAY_MS: u64 = 86_400_000;
const DAY: u64 = NOON_MS / DAY_MS;

fn settings() -> UsageSettings {
    UsageSettings {
        enabled: true,
        retention_days: 30,
        alerts: vec![Alert {
            name: "many".into(),
            unit: Unit::Items,
            threshold: 10,
            tenant: None,
            model: None,
        }],
    }
}

fn subject(model: &str) -> UsageSubject {
    UsageSubject::new(&Caller::anonymous(None), model)
}

fn amounts(items: u64) -> Amounts {
    Amounts {
        requests: 1,
        items,
        bytes: 100,
        compute_us: 1_500,
    }
}

#[test]
fn counts_add_up_by_day_and_model_and_are_read_page_by_page() {
    let (kv, mut usage) = (MemoryKv::default(), Usage::new(settings()));
    for day in 0..2 {
        for n in 0..MAX_ROWS + 5 {
            let at = NOON_MS + day * DAY_MS;
            run_ready(usage.record(&kv, &subject(&format!("m{n}")), &amounts(2), at, 7)).unwrap();
        }
    }
    run_ready(usage.record(&kv, &subject("m0"), &amounts(9), NOON_MS, 7)).unwrap();
    let page = |from| run_ready(usage.report(&kv, (DAY - 1, DAY + 1), None, from)).unwrap();
    let first = page(None);
    assert_eq!(first.rows.len(), MAX_ROWS);
    let row = &first.rows[0];
    assert_eq!(
        (
            row.subject.model.as_str(),
            row.requests,
            row.items,
            row.bytes,
            row.compute_us
        ),
        ("m0", 2, 11, 200, 3_000)
    );
    assert_eq!(row.alerts, [("many".to_owned(), NOON_MS)]);
    assert!(first.rows[1].alerts.is_empty());
    let mut rows = first.rows.len();
    let mut next = first.next;
    while let Some(from) = next {
        let page = page(Some(from));
        rows += page.rows.len();
        next = page.next;
    }
    assert_eq!(rows, 2 * (MAX_ROWS + 5));
    let others = run_ready(usage.report(&kv, (DAY, DAY), Some("other"), None)).unwrap();
    assert!(others.rows.is_empty());
}

#[test]
fn a_count_that_was_acknowledged_is_in_the_report_whatever_is_lost_or_dies() {
    for seed in 0..5_000 {
        let faults = Faults {
            lost_request: 20,
            lost_reply: 20,
            long_delay: 50,
            long_ms: 2_000,
            crash: 20,
        };
        let sim = Sim::new(seed, NOON_MS, faults);
        let acknowledged = Rc::new(Cell::new((0, 0)));
        for _ in 0..8 {
            let (kv, sim_, acknowledged) = (sim.kv(), sim.clone(), acknowledged.clone());
            sim.spawn(NOON_MS, async move {
                let mut usage = Usage::new(settings());
                for _ in 0..3 {
                    let (now, random) = (sim_.now_ms(), sim_.below(99));
                    let (said, tried) = acknowledged.get();
                    acknowledged.set((said, tried + 2));
                    if usage
                        .record(&kv, &subject("m"), &amounts(2), now, random)
                        .await
                        .is_ok()
                    {
                        let (said, tried) = acknowledged.get();
                        acknowledged.set((said + 2, tried));
                    }
                }
            });
        }
        sim.run(|_| {});
        sim.set_faults(Faults::NONE);
        let (kv, sim_) = (sim.kv(), sim.clone());
        sim.spawn(sim.now_ms(), async move {
            let usage = Usage::new(settings());
            let report = usage.report(&kv, (DAY, DAY), None, None).await.unwrap();
            let items: u64 = report.rows.iter().map(|r| r.items).sum();
            let (said, tried) = acknowledged.get();
            assert!(
                (said..=tried).contains(&items),
                "seed {seed}: {items} of {said}..{tried}"
            );
            assert!(report.rows.len() <= 1, "seed {seed}: one row for one model");
            let _ = sim_;
        });
        sim.run(|_| {});
    }
}

#[test]
fn counts_beyond_their_retention_are_deleted_as_others_are_counted() {
    let kv = MemoryKv::default();
    let mut most = 0;
    for day in 0..400 {
        let mut usage = Usage::new(settings());
        for model in 0..5 {
            let (subject, at) = (subject(&format!("m{model}")), NOON_MS + day * DAY_MS);
            run_ready(usage.record(&kv, &subject, &amounts(20), at, day)).unwrap();
        }
        most = most.max(kv.names().len());
    }
    // Nine entries for each of five models, for thirty days and two.
    assert!(most < 9 * 5 * 34, "{most}");
    assert!(most > 7 * 5 * 30, "{most}: deleted too early");
}

#[test]
fn a_page_looks_at_a_bounded_number_of_entries_whoever_they_are_of() {
    let (kv, mut usage) = (MemoryKv::default(), Usage::new(settings()));
    for n in 0..5_000 {
        let subject = UsageSubject {
            tenant: "other".into(),
            api_key_id: None,
            model: format!("m{n}"),
        };
        run_ready(usage.record(&kv, &subject, &amounts(1), NOON_MS, 7)).unwrap();
    }
    run_ready(usage.record(&kv, &subject("mine"), &amounts(1), NOON_MS, 7)).unwrap();
    let (mut next, mut rows, mut pages) = (None, 0, 0);
    loop {
        let before = kv.operations();
        let report = run_ready(usage.report(&kv, (DAY, DAY), Some("anonymous"), next)).unwrap();
        assert!(kv.operations() - before < 3_000);
        rows += report.rows.len();
        pages += 1;
        next = report.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!((rows, pages), (1, 3));
}

#[test]
fn a_store_that_takes_nothing_new_does_not_make_the_directory_grow() {
    let (kv, mut usage) = (MemoryKv::default(), Usage::new(settings()));
    run_ready(usage.record(&kv, &subject("first"), &amounts(1), NOON_MS, 7)).unwrap();
    kv.set_full(true);
    for _ in 0..1_000 {
        assert!(run_ready(usage.record(&kv, &subject("late"), &amounts(1), NOON_MS, 7)).is_err());
    }
    kv.set_full(false);
    run_ready(usage.record(&kv, &subject("late"), &amounts(1), NOON_MS, 7)).unwrap();
    let before = kv.operations();
    let report = run_ready(usage.report(&kv, (DAY, DAY), None, None)).unwrap();
    assert_eq!(report.rows.len(), 2);
    assert!(kv.operations() - before < 40);
}

#[test]
fn impossible_settings_are_faults() {
    let faults = UsageSettings {
        retention_days: 0,
        alerts: vec![Alert {
            name: String::new(),
            unit: Unit::Bytes,
            threshold: 0,
            tenant: None,
            model: None,
        }],
        ..settings()
    }
    .faults();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(settings().faults().is_empty());
}
