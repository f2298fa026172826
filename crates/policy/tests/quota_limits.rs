//! The settings of quota that are accepted, and the messages for the others.

use crate::quota_common;

use penstock_policy::quota::QuotaDocument;
use penstock_policy::quota::limits::{Algorithm, Backoff, Dimension, OnStoreFailure, Unit};
use quota_common::document;

#[test]
fn defaults_are_what_the_documentation_says() {
    let empty = document("");
    assert_eq!(empty, QuotaDocument::default());
    assert_eq!(
        empty.backoff,
        Backoff {
            soft: true,
            double_every: 10,
            max_retry_after_s: 300,
            hard_after: 0
        }
    );
    let one = document("[[limits]]\nname = \"a\"\nlimit = 5\nwindow_s = 60");
    let limit = &one.limits[0];
    assert_eq!(limit.algorithm, Algorithm::SlidingWindow);
    assert_eq!(limit.unit, Unit::Requests);
    assert_eq!(limit.on_store_failure, OnStoreFailure::Closed);
    assert!(limit.per.is_empty() && !limit.shadow && limit.lease_tokens == 0);
    assert!(one.faults().is_empty());
}

#[test]
fn a_full_document_is_understood() {
    let full = document(
        r#"
        [backoff]
        soft = false
        hard_after = 50
        [[limits]]
        name = "per-key_1"
        per = ["tenant", "api-key", "address", "route", "model", "tier"]
        routes = ["predict"]
        models = ["m"]
        tiers = ["free"]
        tenants = ["t"]
        algorithm = "token-bucket"
        limit = 100
        window_s = 60
        burst = 20
        unit = "items"
        on_store_failure = "open"
        shadow = true
        [[limits]]
        name = "paced"
        algorithm = "leaky-bucket"
        limit = 10
        window_s = 1
        max_wait_ms = 250
        unit = "bytes"
        [[limits]]
        name = "gpu"
        algorithm = "concurrency"
        limit = 4
        lease_s = 30
        [[limits]]
        name = "monthly"
        algorithm = "calendar"
        limit = 1000000
        period = "month"
        time_zone = "Europe/Berlin"
        unit = "compute-ms"
        [[limits]]
        name = "hot"
        algorithm = "fixed-window"
        limit = 100000
        window_s = 60
        lease_tokens = 100
        "#,
    );
    assert_eq!(full.faults(), []);
    assert_eq!(full.limits[0].per[1], Dimension::ApiKey);
}

#[test]
fn misspelt_settings_are_errors() {
    for text in [
        "[limit]",
        "[backoff]\nhard = true",
        "[[limits]]\nname = \"a\"\nlimit = 1\nwindow = 60",
        "[[limits]]\nname = \"a\"\nlimit = 1\nalgorithm = \"sliding\"",
        "[[limits]]\nname = \"a\"\nlimit = 1\nper = [\"ip\"]",
        "[[limits]]\nname = \"a\"\nlimit = -1\nwindow_s = 60",
        "[[limits]]\nlimit = 1\nwindow_s = 60",
    ] {
        assert!(toml::from_str::<QuotaDocument>(text).is_err(), "{text}");
    }
}

#[test]
fn every_fault_is_named() {
    let w = "limit = 5\nwindow_s = 60";
    for (text, setting, words) in [
        (format!("name = \"A b\"\n{w}"), "name", "a-z"),
        (format!("name = \"\"\n{w}"), "name", "1 to 64"),
        (format!("name = \"{}\"\n{w}", "a".repeat(65)), "name", "1 to 64"),
        (format!("name = \"a\"\nper = [\"model\", \"model\"]\n{w}"), "per", "twice"),
        (format!("name = \"a\"\nmodels = [\"\"]\n{w}"), "models", "empty"),
        ("name = \"a\"\nlimit = 0\nwindow_s = 60".into(), "limit", "between 1"),
        ("name = \"a\"\nlimit = 1000000000000000\nwindow_s = 60".into(), "limit", "between 1"),
        ("name = \"a\"\nlimit = 1".into(), "window_s", "is missing"),
        ("name = \"a\"\nlimit = 1\nwindow_s = 0".into(), "window_s", "between 1"),
        ("name = \"a\"\nlimit = 1\nwindow_s = 2678401".into(), "window_s", "31 days"),
        (format!("name = \"a\"\nburst = 3\n{w}"), "burst", "no meaning"),
        (format!("name = \"a\"\nmax_wait_ms = 3\n{w}"), "max_wait_ms", "no meaning"),
        (format!("name = \"a\"\nlease_s = 30\n{w}"), "lease_s", "no meaning"),
        (format!("name = \"a\"\nperiod = \"day\"\n{w}"), "period", "no meaning"),
        (format!("name = \"a\"\ntime_zone = \"UTC\"\n{w}"), "time_zone", "no meaning"),
        (
            format!("name = \"a\"\nalgorithm = \"token-bucket\"\nburst = 0\n{w}"),
            "burst",
            "between 1",
        ),
        (
            "name = \"a\"\nalgorithm = \"token-bucket\"\nlimit = 1\nwindow_s = 86400\nburst = 32".into(),
            "burst",
            "31 days",
        ),
        (
            format!("name = \"a\"\nalgorithm = \"leaky-bucket\"\nmax_wait_ms = 10001\n{w}"),
            "max_wait_ms",
            "at most 10000",
        ),
        (
            format!("name = \"a\"\nalgorithm = \"token-bucket\"\nlease_tokens = 3\n{w}"),
            "lease_tokens",
            "no meaning",
        ),
        (format!("name = \"a\"\nlease_tokens = 1001\n{w}"), "lease_tokens", "at most 1000"),
        (
            format!("name = \"a\"\nunit = \"bytes\"\nlease_tokens = 10\n{w}"),
            "lease_tokens",
            "requests",
        ),
        (
            "name = \"a\"\nalgorithm = \"concurrency\"\nlimit = 1\nunit = \"bytes\"".into(),
            "unit",
            "calls at once",
        ),
        (
            format!("name = \"a\"\nalgorithm = \"leaky-bucket\"\nunit = \"compute-ms\"\n{w}"),
            "unit",
            "afterwards",
        ),
        (
            "name = \"a\"\nalgorithm = \"concurrency\"\nlimit = 1\nlease_s = 9".into(),
            "lease_s",
            "between 10",
        ),
        (
            "name = \"a\"\nalgorithm = \"concurrency\"\nlimit = 1\nwindow_s = 9".into(),
            "window_s",
            "no meaning",
        ),
        (
            "name = \"a\"\nalgorithm = \"calendar\"\nlimit = 1".into(),
            "period",
            "is missing",
        ),
        (
            "name = \"a\"\nalgorithm = \"calendar\"\nlimit = 1\nperiod = \"day\"\ntime_zone = \"Mars\"".into(),
            "time_zone",
            "Europe/Berlin",
        ),
    ] {
        let faults = document(&format!("[[limits]]\n{text}")).faults();
        let [(found, message)] = faults.as_slice() else {
            panic!("one fault in {text}, not {faults:?}");
        };
        assert_eq!(found, &format!("limits[0].{setting}"), "{text}");
        assert!(message.contains(words), "{message}");
    }
    let twice = document(&format!(
        "[[limits]]\nname = \"a\"\n{w}\n[[limits]]\nname = \"a\"\n{w}"
    ));
    assert_eq!(twice.faults()[0].0, "limits[1].name");
    let many: String = (0..65)
        .map(|i| format!("[[limits]]\nname = \"l{i}\"\n{w}\n"))
        .collect();
    assert_eq!(document(&many).faults()[0].0, "limits");
    let backoff = document("[backoff]\ndouble_every = 0\nmax_retry_after_s = 0");
    assert_eq!(backoff.faults().len(), 2);
}
