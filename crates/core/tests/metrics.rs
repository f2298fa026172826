//! A whole scrape, read by a strict reader in both formats.

mod exposition;

use exposition::parse;
use penstock_core::metrics::families::{self, Kind};
use penstock_core::metrics::histogram::{BATCH_SIZE, REQUEST_DURATION};
use penstock_core::metrics::models::{self, ModelCounts, ProcessCounts, TritonCounts};
use penstock_core::metrics::{CacheResult, Distribution, Format, Observed, Requests, Text};
use penstock_core::{Code, RouteKind};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

fn requests() -> Requests {
    let requests = Requests::default();
    for (at, code) in Code::ALL.iter().enumerate() {
        for model in [None, Some(("digits", "1")), Some(("a.b-c", "20"))] {
            requests.begin();
            requests.end(&Observed {
                route: RouteKind::ALL.get(at % 15).copied(),
                model,
                status: if at % 2 == 0 { 200 } else { code.status() },
                code: (at % 2 == 1).then(|| code.as_str()),
                duration: Duration::from_micros(1 << (at % 26)),
                bytes_in: 1 << (at % 30),
                bytes_out: 0,
                is_replay: at % 7 == 0,
                cache: (at % 5 == 0).then_some(CacheResult::Hit),
            });
        }
    }
    requests
}

fn model(name: &str) -> ModelCounts {
    let mut queue = Distribution::empty(&REQUEST_DURATION);
    queue.add_many(7_000_000, 9);
    let mut batches = Distribution::empty(&BATCH_SIZE);
    batches.add_many(3, 3);
    ModelCounts {
        model: name.to_owned(),
        version: "1".to_owned(),
        memory_bytes: 7,
        waiting: 1,
        running: 1,
        overdue: 0,
        compute: queue.clone(),
        queue,
        batches,
        success: 9,
        failures: 1,
        refused: [1; 7],
        failed_runs: 1,
        shadow: [1; 4],
        process: Some(ProcessCounts::default()),
        triton: TritonCounts::default(),
    }
}

fn written(format: Format) -> String {
    let mut text = Text::new(format);
    requests().write(&mut text);
    models::write(&[model("a"), model("b")], true, &mut text);
    String::from_utf8(text.finish()).unwrap()
}

#[test]
fn a_strict_reader_accepts_a_scrape_in_both_formats_and_finds_the_same_in_them() {
    let plain = parse(&written(Format::Prometheus), false).unwrap();
    let open = parse(&written(Format::OpenMetrics), true).unwrap();
    assert_eq!(plain.samples.len(), open.samples.len());
    let requests = (3 * Code::ALL.len()) as f64;
    for scrape in [&plain, &open] {
        let count = "http_server_request_duration_seconds_count";
        assert_eq!(scrape.sum(count, &[]), requests);
        let count = "http_server_request_body_size_bytes_count";
        assert_eq!(scrape.sum(count, &[]), requests);
        let labels = [("model", "a"), ("version", "1")];
        assert_eq!(
            scrape.value("nv_inference_request_success", &labels),
            Some(9.0)
        );
    }
    assert_eq!(open.families["nv_inference_request_success"], "unknown");
    assert_eq!(plain.families["nv_inference_request_success"], "counter");
    assert_eq!(plain.families["penstock_request_errors_total"], "counter");
    assert_eq!(open.families["penstock_request_errors"], "counter");
}

#[test]
fn the_strict_reader_refuses_what_is_wrong() {
    let good = "# HELP a b.\n# TYPE a gauge\na 1\n";
    assert!(parse(good, false).is_ok());
    assert!(parse(&format!("{good}# EOF\n"), true).is_ok());
    for wrong in [
        good.replace("\na 1\n", "\na 1"),
        good.replace("a 1", "b 1"),
        good.replace("a 1", "a 1e3"),
        good.replace("a 1", "a{x=\"1\"}1"),
        good.replace("a 1", "a{x=\"1\",x=\"2\"} 1"),
        good.replace("a 1", "a{x=\"\\t\"} 1"),
        good.replace("a 1", "a 1\na 1"),
        good.replace("gauge", "counter").replace("a 1", "a -1"),
        good.replace("# HELP a b.\n", ""),
        format!("{good}{good}"),
        format!("{good}# EOF\n"),
        "# HELP h h.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n".to_owned(),
        "# HELP h h.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n".to_owned(),
    ] {
        assert!(parse(&wrong, false).is_err(), "{wrong}");
    }
    for wrong in [
        good.to_owned(),
        "# HELP c c.\n# TYPE c counter\nc 1\n# EOF\n".to_owned(),
        "# HELP c c.\n# TYPE c gauge\n# UNIT c seconds\nc 1\n# EOF\n".to_owned(),
        "# HELP h h.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n# EOF\n".to_owned(),
    ] {
        assert!(parse(&wrong, true).is_err(), "{wrong}");
    }
}

/// The names of metrics in a text: words with the prefixes of our families.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let is_metric = |word: &&str| {
        ["penstock_", "http_server_", "process_", "nv_"]
            .iter()
            .any(|start| word.starts_with(start))
    };
    words.filter(is_metric).collect()
}

#[test]
fn the_dashboard_and_the_alerts_use_metrics_that_exist_and_the_runbooks_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let exists = |name: &str| {
        families::ALL.iter().any(|family| {
            let suffixes: &[&str] = match family.kind {
                Kind::Histogram => &["_bucket", "_sum", "_count"],
                other => &[other.suffix()],
            };
            (name.strip_prefix(family.name)).is_some_and(|end| suffixes.contains(&end))
        })
    };
    let mut used = 0;
    for file in [
        "deploy/grafana/penstock.json",
        "deploy/prometheus/rules.yml",
        "deploy/prometheus/alerts.yml",
        "deploy/prometheus/alerts_test.yml",
    ] {
        let text = read(file);
        let unknown: Vec<&str> = named(&text)
            .into_iter()
            .filter(|name| !exists(name))
            .collect();
        assert!(unknown.is_empty(), "{file} uses {unknown:?}");
        used += named(&text).len();
    }
    assert!(used > 40, "{used}");
    let page = read("docs/METRICS.md").to_lowercase();
    let alerts = read("deploy/prometheus/alerts.yml");
    let tests = read("deploy/prometheus/alerts_test.yml");
    let mut found = 0;
    for name in alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        found += 1;
        let anchor = name.to_lowercase();
        assert!(
            alerts.contains(&format!("docs/METRICS.md#{anchor}\n")),
            "{name}"
        );
        assert!(
            page.contains(&format!("\n### {anchor}\n")),
            "{name} has no runbook"
        );
        assert!(
            tests.contains(&format!("- alertname: {name}\n")),
            "nothing makes {name} fire"
        );
    }
    assert!(found > 5, "{found}");
}
