//! Measures the cost and the benefit of compressing answers, for the levels in `representation`. Run it with
//! optimisation: `cargo run --release -p penstock-gate --example coding`, or build it for `wasm32-wasip1` and run it
//! where components run.

use penstock_gate::representation::{gzip, zstd};
use std::hint::black_box;
use std::time::Instant;
use structured_zstd::encoding::CompressionLevel;

/// A compression method with its name.
type Way = (String, Box<dyn Fn(&[u8]) -> Vec<u8>>);

fn main() {
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let numbers: Vec<f32> = (0..16_384).map(|_| random()).collect();
    let texts: Vec<String> = numbers.iter().map(f32::to_string).collect();
    let answers: Vec<String> = (0..100)
        .map(|i| {
            let p = numbers.get(i).copied().unwrap_or_default();
            format!(r#"{{"label":"{}","confidence":{p},"top":[{{"label":"{}","confidence":{p}}},{{"label":"7","confidence":{}}}]}}"#, i % 10, i % 10, 1.0 - p)
        })
        .collect();
    let model = include_str!("../../../models/magika/model.toml");
    let bodies = [
        ("metadata", model.repeat(2).into_bytes()),
        ("predictions", answers.join(",").into_bytes()),
        ("numbers as JSON", texts.join(",").into_bytes()),
        (
            "numbers as bytes",
            numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
        ),
    ];
    let mut ways: Vec<Way> = Vec::new();
    for level in [1, 2, 4, 6] {
        ways.push((
            format!("gzip {level}"),
            Box::new(move |body| gzip(body, level).unwrap_or_default()),
        ));
    }
    for level in [-1, 1, 3, 5] {
        ways.push((
            format!("zstd {level}"),
            Box::new(move |body| zstd(body, CompressionLevel::Level(level))),
        ));
    }
    for (what, body) in &bodies {
        println!("{what}, {} bytes", body.len());
        for (name, way) in &ways {
            let length = way(body).len();
            let rounds = (4 << 20) / body.len() + 1;
            let begun = Instant::now();
            for _ in 0..rounds {
                black_box(way(black_box(body)));
            }
            let each = begun.elapsed().as_secs_f64() / rounds as f64;
            println!(
                "  {name:8} {:5.1} % {:8.1} µs {:6.0} MB/s",
                100.0 * length as f64 / body.len() as f64,
                each * 1e6,
                body.len() as f64 / each / 1e6
            );
        }
    }
}
