use super::*;
use crate::metrics::text::{Format, MAX_BYTES};
use crate::problem::Code;
use std::time::Instant;

fn observed<'a>(model: Option<(&'a str, &'a str)>, status: u16) -> Observed<'a> {
    Observed {
        route: Some(RouteKind::Predict),
        model,
        status,
        code: (status >= 400).then_some("invalid_inputs"),
        duration: Duration::from_millis(3),
        bytes_in: 100,
        bytes_out: 2_000,
        is_replay: false,
        cache: None,
    }
}

fn written(requests: &Requests) -> String {
    let mut text = Text::new(Format::OpenMetrics);
    requests.write(&mut text);
    String::from_utf8(text.finish()).unwrap()
}

fn value(text: &str, sample: &str) -> Option<f64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[test]
fn a_request_is_counted_under_its_route_model_version_and_status() {
    let requests = Requests::default();
    for status in [200, 200, 422] {
        requests.begin();
        requests.end(&observed(Some(("digits", "2")), status));
    }
    requests.begin();
    requests.count(&Observed {
        route: None,
        code: Some(Code::UnknownPath.as_str()),
        ..observed(None, 404)
    });
    let text = written(&requests);
    let labels = "route=\"predict\",model=\"digits\",version=\"2\"";
    let name = "http_server_request_duration_seconds";
    for (sample, expected) in [
        (format!("{name}_count{{{labels},status=\"2xx\"}}"), 2.0),
        (format!("{name}_sum{{{labels},status=\"2xx\"}}"), 0.006),
        (format!("{name}_bucket{{{labels},status=\"2xx\",le=\"0.0025\"}}"), 0.0),
        (format!("{name}_bucket{{{labels},status=\"2xx\",le=\"0.005\"}}"), 2.0),
        (format!("{name}_count{{{labels},status=\"4xx\"}}"), 1.0),
        (
            format!("penstock_request_errors_total{{{labels},code=\"invalid_inputs\"}}"),
            1.0,
        ),
        (
            "penstock_request_errors_total{route=\"none\",model=\"\",version=\"\",code=\"unknown_path\"}"
                .to_owned(),
            1.0,
        ),
        ("http_server_active_requests".to_owned(), 1.0),
        ("http_server_request_body_size_bytes_sum{route=\"predict\"}".to_owned(), 300.0),
        ("http_server_response_body_size_bytes_count{route=\"none\"}".to_owned(), 1.0),
    ] {
        assert_eq!(value(&text, &sample), Some(expected), "{sample}\n{text}");
    }
}

#[test]
fn replays_and_results_of_the_cache_are_counted() {
    let requests = Requests::default();
    for header in [
        "penstock; hit; ttl=58",
        "penstock; fwd=miss; collapsed",
        "penstock; fwd=miss; stored",
        "penstock; fwd=miss",
        "penstock; fwd=request; stored",
        "penstock; fwd=bypass; detail=hit",
    ] {
        requests.count(&Observed {
            is_replay: header.contains("request"),
            cache: Some(CacheResult::of_header(header)),
            ..observed(None, 200)
        });
    }
    let text = written(&requests);
    assert_eq!(value(&text, "penstock_idempotent_replays_total"), Some(1.0));
    for (result, count) in [
        ("hit", 1.0),
        ("collapsed", 1.0),
        ("miss", 2.0),
        ("bypass", 2.0),
    ] {
        let sample = format!("penstock_cache_results_total{{result=\"{result}\"}}");
        assert_eq!(value(&text, &sample), Some(count), "{sample}");
    }
}

#[test]
fn however_many_models_are_called_a_scrape_is_bounded_and_nothing_is_lost() {
    const MODELS: u64 = 1_000_000;
    let requests = Requests::default();
    for number in 0..MODELS {
        let name = format!("made-up-{number:0>100}");
        let status = [200, 422, 500][number as usize % 3];
        requests.count(&Observed {
            route: Some(RouteKind::ALL[number as usize % RouteKind::ALL.len()]),
            code: (status >= 400).then(|| Code::ALL[number as usize % Code::ALL.len()].as_str()),
            ..observed(Some((&name, "18446744073709551615")), status)
        });
    }
    let began = Instant::now();
    let text = written(&requests);
    println!("{} bytes in {:?}", text.len(), began.elapsed());
    assert!(text.len() < MAX_BYTES, "{}", text.len());
    assert_eq!(value(&text, "penstock_metrics_dropped_series"), Some(0.0));
    let counts = text
        .lines()
        .filter(|line| line.starts_with("http_server_request_duration_seconds_count{"));
    let counts: Vec<u64> = counts
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(counts.len() <= MAX_NAMED_DURATIONS + UNNAMED_DURATIONS);
    assert_eq!(counts.iter().sum::<u64>(), MODELS);
    assert!(text.contains("model=\"other\",version=\"\""));
}

#[test]
fn there_is_always_room_for_the_codes_of_the_catalogue() {
    // With the code of a missing code and that of a client that left.
    assert!(Code::ALL.len() + 2 <= CODES, "{}", Code::ALL.len());
    let requests = Requests::default();
    for (model, routes) in [(None, true), (Some(("m", "1")), false)] {
        for code in Code::ALL {
            for route in RouteKind::ALL.map(Some).into_iter().chain([None]) {
                requests.count(&Observed {
                    route: route.filter(|_| routes),
                    code: Some(code.as_str()),
                    ..observed(model, code.status())
                });
            }
        }
    }
    let text = written(&requests);
    let errors = text
        .lines()
        .filter(|line| line.starts_with("penstock_request_errors_total{"));
    let sum: u64 = errors
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(sum, (2 * Code::ALL.len() * ROUTES) as u64);
}

#[test]
fn a_status_outside_of_the_classes_counts_as_the_servers_fault() {
    for (status, class) in [
        (100, "1xx"),
        (204, "2xx"),
        (499, "4xx"),
        (599, "5xx"),
        (0, "5xx"),
        (700, "5xx"),
    ] {
        assert_eq!(CLASSES[usize::from(class_of(status))], class, "{status}");
    }
}

/// Prints the cost of counting one request of a known model, on one thread and on two.
#[test]
fn requests_that_end_at_the_same_time_are_all_counted() {
    const REQUESTS: u64 = 100_000;
    let requests = Requests::default();
    for threads in [1, 2] {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..REQUESTS {
                        requests.begin();
                        requests.end(&observed(Some(("digits", "2")), 200));
                    }
                });
            }
        });
        let ns = began.elapsed().as_nanos() as f64 / REQUESTS as f64;
        println!("{threads} threads: {ns:.0} ns a request");
    }
    let text = written(&requests);
    let count = "http_server_request_duration_seconds_count{route=\"predict\",model=\"digits\",version=\"2\",status=\"2xx\"}";
    assert_eq!(value(&text, count), Some(3.0 * REQUESTS as f64));
    assert_eq!(value(&text, "http_server_active_requests"), Some(0.0));
}
