//! Charges of calls that run later: their receipts are texts, which another instance with the same policy settles.

use penstock_core::Caller;
use penstock_core::Kv;
use penstock_core::kv::run_ready;
use penstock_policy::quota::service::{AdmissionService, KvQuota, QuotaService};
use penstock_policy::quota::words::Call;
use penstock_policy::quota::{Deferred, RefusalKind};
use penstock_testkit::MemoryKv;
use std::collections::BTreeMap;

const NOW_MS: u64 = 1_767_225_600_000;

/// Limits of 10 items, by each algorithm that counts items.
const ALGORITHMS: [(&str, &str); 5] = [
    ("sliding-window", "limit = 10\nwindow_s = 600"),
    ("fixed-window", "limit = 10\nwindow_s = 600"),
    ("calendar", "limit = 10\nperiod = \"day\""),
    ("token-bucket", "limit = 10\nwindow_s = 86400"),
    (
        "leaky-bucket",
        "limit = 10\nwindow_s = 10\nmax_wait_ms = 9000",
    ),
];

fn items_limit((algorithm, settings): (&str, &str)) -> String {
    format!(
        "[[limits]]\nname = \"items\"\nunit = \"items\"\nper = [\"tenant\"]\nalgorithm = \"{algorithm}\"\n{settings}\n"
    )
}

const COMPUTE: &str = "[[limits]]\nname = \"compute\"\nunit = \"compute-ms\"\nper = [\"tenant\"]\nlimit = 1000\nwindow_s = 600\n";

fn open(text: &str, kv: &MemoryKv) -> KvQuota<MemoryKv> {
    KvQuota::open(text, kv.clone()).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

/// Charges a call of some items; the receipt, or the kind of the refusal.
fn charge(quota: &KvQuota<MemoryKv>, items: u64, now_ms: u64) -> Result<String, RefusalKind> {
    let caller = Caller {
        tenant: "t".to_owned(),
        ..Caller::anonymous(None)
    };
    let call = Call {
        caller: &caller,
        route: "predict",
        model: Some("m"),
        body_bytes: 1,
    };
    let admitted = quota
        .admit(&call, now_ms, 3)
        .map_err(|refusal| refusal.kind)?;
    let admission = admitted.admission;
    let charged = admission.charge_items(items, now_ms, 5);
    charged.map_err(|refusal| refusal.kind)?;
    let receipt = admission.receipt();
    // As the gate does: the call ends here, and its run is later.
    admission.settle(0, now_ms);
    Ok(receipt)
}

fn entries(kv: &MemoryKv) -> BTreeMap<String, Option<i64>> {
    let read = |name: String| {
        let value = run_ready(kv.get(&name)).unwrap();
        let count = match value {
            Some(_) => None,
            None => Some(run_ready(kv.increment(&name, 0)).unwrap()),
        };
        (name, count)
    };
    kv.names().into_iter().map(read).collect()
}

#[test]
fn the_items_of_a_call_that_never_ran_return_on_another_instance_by_each_algorithm() {
    for algorithm in ALGORITHMS {
        let (kv, text) = (MemoryKv::default(), items_limit(algorithm));
        let accepting = open(&text, &kv);
        let receipt = charge(&accepting, 10, NOW_MS).unwrap();
        assert!(!receipt.is_empty(), "{algorithm:?}");
        let refused = charge(&open(&text, &kv), 10, NOW_MS + 1);
        assert_eq!(refused, Err(RefusalKind::UsedUp), "{algorithm:?}");
        let settling = open(&text, &kv);
        settling.settle_deferred(&receipt, None, NOW_MS + 2);
        let again = charge(&settling, 10, NOW_MS + 3);
        assert!(again.is_ok(), "{algorithm:?}: {again:?}");
    }
}

/// Only limits on requests lease ahead, and no receipt has their charges. One that does is read, and returns items to its
/// instance alone.
#[test]
fn a_leased_charge_reads_back_with_the_largest_numbers_and_changes_no_counter() {
    let most = (u128::MAX, u64::MAX);
    let text = format!(
        "{{\"items\":[[\"items\",{{\"Leased\":{{\"subject\":{},\"span\":{},\"amount\":2}}}}]],\"compute\":[]}}",
        most.0, most.1
    );
    let parsed = Deferred::parse(&text);
    assert_eq!(parsed.to_text(), text);
    let (kv, limits) = (MemoryKv::default(), items_limit(ALGORITHMS[0]));
    open(&limits, &kv).settle_deferred(&text, None, NOW_MS);
    assert_eq!(entries(&kv), BTreeMap::new());
}

#[test]
fn a_receipt_reads_back_as_it_was_written_with_numbers_of_128_bits() {
    let text: String = ALGORITHMS
        .iter()
        .enumerate()
        .map(|(at, algorithm)| {
            items_limit(*algorithm).replace("\"items\"\nunit", &format!("\"l{at}\"\nunit"))
        })
        .chain([COMPUTE.to_owned()])
        .collect();
    let quota = open(&text, &MemoryKv::default());
    let receipt = charge(&quota, 1, NOW_MS).unwrap();
    let parsed = Deferred::parse(&receipt);
    assert_ne!(parsed, Deferred::default());
    assert_eq!(parsed.to_text(), receipt);
    let longest = receipt
        .split(|c: char| !c.is_ascii_digit())
        .map(str::len)
        .max();
    assert!(
        longest > Some(20),
        "a subject or a time has more than 64 bits: {receipt}"
    );
}

#[test]
fn a_call_that_ran_later_is_charged_for_its_compute_time_and_keeps_its_items() {
    let (kv, text) = (MemoryKv::default(), items_limit(ALGORITHMS[0]) + COMPUTE);
    let receipt = charge(&open(&text, &kv), 10, NOW_MS).unwrap();
    let later = open(&text, &kv);
    later.settle_deferred(&receipt, Some(600), NOW_MS + 1);
    assert_eq!(
        charge(&open(&text, &kv), 1, NOW_MS + 2),
        Err(RefusalKind::UsedUp),
        "of items"
    );
    let compute_alone = || open(COMPUTE, &kv);
    assert!(
        charge(&compute_alone(), 1, NOW_MS + 2).is_ok(),
        "600 of 1000"
    );
    later.settle_deferred(&receipt, Some(600), NOW_MS + 3);
    assert_eq!(
        charge(&compute_alone(), 1, NOW_MS + 4),
        Err(RefusalKind::UsedUp),
        "1200 of 1000"
    );
}

#[test]
fn a_run_of_no_compute_time_changes_nothing() {
    let (kv, text) = (MemoryKv::default(), items_limit(ALGORITHMS[0]) + COMPUTE);
    let receipt = charge(&open(&text, &kv), 3, NOW_MS).unwrap();
    let before = entries(&kv);
    open(&text, &kv).settle_deferred(&receipt, Some(0), NOW_MS + 1);
    assert_eq!(entries(&kv), before);
}

#[test]
fn a_call_without_limits_on_items_or_compute_time_has_no_receipt() {
    let requests = "[[limits]]\nname = \"requests\"\nlimit = 5\nwindow_s = 60\n";
    let concurrency = "[[limits]]\nname = \"c\"\nalgorithm = \"concurrency\"\nlimit = 5\n";
    for text in ["", requests, concurrency] {
        assert_eq!(
            charge(&open(text, &MemoryKv::default()), 1, NOW_MS),
            Ok(String::new())
        );
    }
}

#[test]
fn a_receipt_of_a_limit_that_is_gone_or_of_another_kind_now_and_other_texts_do_nothing() {
    for algorithm in ALGORITHMS {
        let (kv, text) = (MemoryKv::default(), items_limit(algorithm) + COMPUTE);
        let receipt = charge(&open(&text, &kv), 5, NOW_MS).unwrap();
        let before = entries(&kv);
        for changed in [
            "",
            "[[limits]]\nname = \"other\"\nunit = \"items\"\nlimit = 10\nwindow_s = 600\n",
            // The names count other things now.
            "[[limits]]\nname = \"items\"\nlimit = 10\nwindow_s = 600\n\
             [[limits]]\nname = \"compute\"\nalgorithm = \"concurrency\"\nlimit = 5\n",
            "[[limits]]\nname = \"items\"\nalgorithm = \"concurrency\"\nlimit = 5\n\
             [[limits]]\nname = \"compute\"\nunit = \"items\"\nlimit = 10\nwindow_s = 600\n",
        ] {
            for ran in [None, Some(7)] {
                open(changed, &kv).settle_deferred(&receipt, ran, NOW_MS + 1);
                assert_eq!(entries(&kv), before, "{algorithm:?} {changed} {ran:?}");
            }
        }
        let cut = &receipt[..receipt.len() - 1];
        let strange = [
            "x",
            "{}",
            "[]",
            "null",
            cut,
            r#"{"items":[["items",{"Counter":{"subject":-1}}]],"compute":[]}"#,
            r#"{"items":[],"compute":[["compute","not a number"],["compute","-1"]]}"#,
            r#"{"items":[],"compute":[["compute","340282366920938463463374607431768211456"]]}"#,
        ];
        for text_of_receipt in strange {
            for ran in [None, Some(7)] {
                open(&text, &kv).settle_deferred(text_of_receipt, ran, NOW_MS + 1);
                assert_eq!(entries(&kv), before, "{algorithm:?} {text_of_receipt}");
            }
        }
    }
}

#[test]
fn a_receipt_whose_window_is_over_creates_no_counter() {
    for algorithm in ALGORITHMS {
        let (kv, text) = (MemoryKv::default(), items_limit(algorithm));
        let receipt = charge(&open(&text, &kv), 5, NOW_MS).unwrap();
        let before = entries(&kv);
        open(&text, &kv).settle_deferred(&receipt, None, NOW_MS + 7 * 86_400_000);
        assert_eq!(entries(&kv), before, "{algorithm:?}");
    }
}

#[test]
fn a_store_that_fails_while_a_receipt_is_settled_harms_nothing() {
    for algorithm in ALGORITHMS {
        let (kv, text) = (MemoryKv::default(), items_limit(algorithm) + COMPUTE);
        let receipt = charge(&open(&text, &kv), 5, NOW_MS).unwrap();
        let before = entries(&kv);
        kv.set_failing(true);
        for ran in [None, Some(7)] {
            open(&text, &kv).settle_deferred(&receipt, ran, NOW_MS + 1);
        }
        kv.set_failing(false);
        assert_eq!(entries(&kv), before, "{algorithm:?}");
    }
}
