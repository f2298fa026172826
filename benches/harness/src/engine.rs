//! The inference engine over HTTP, at 1, 8 and 32 connections. It is compared with ONNX Runtime called directly with
//! its best batch size on as many threads, and with a usual FastAPI server that has the same library and the same
//! threads inside a run.

use crate::load::{Keys, Load, Measured};
use crate::{CLS_NUMBERS, Cli, Random, cls_body, direct, identity_body, row, server};
use std::time::Duration;

const CONNECTIONS: [usize; 3] = [1, 8, 32];
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Tokens of one sentence.
const TOKENS: usize = 32;
/// Items of one identity body.
const IDENTITY_ITEMS: usize = 80;

/// One model: its requests, and the same data as tensors.
struct Case {
    model: &'static str,
    body: String,
    items: usize,
    inputs: fn(batch: usize) -> Vec<direct::Input>,
}

fn cases() -> [Case; 3] {
    [
        Case {
            model: "identity",
            body: identity_body(),
            items: IDENTITY_ITEMS,
            inputs: |batch| vec![direct::Input::floats("a", &[batch, 4])],
        },
        Case {
            model: "cls",
            body: cls_body(),
            items: 1,
            inputs: |batch| {
                let input = direct::Input::floats("x", &[batch, 3, 48, 192]);
                debug_assert_eq!(input.len(), batch * CLS_NUMBERS);
                vec![input]
            },
        },
        Case {
            model: "minilm",
            body: minilm_body(),
            items: 1,
            inputs: |batch| {
                let of = |name, value: fn(usize) -> i64| {
                    direct::Input::integers(name, &[batch, TOKENS], value)
                };
                vec![
                    of("input_ids", token),
                    of("attention_mask", |_| 1),
                    of("token_type_ids", |_| 0),
                ]
            },
        },
    ]
}

fn token(at: usize) -> i64 {
    1000 + (Random(at as u64).unit().abs() * 20_000.0) as i64
}

fn minilm_body() -> String {
    let list = |value: &dyn Fn(usize) -> i64| {
        let values: Vec<String> = (0..TOKENS).map(|at| value(at).to_string()).collect();
        format!("[[{}]]", values.join(","))
    };
    format!(
        "{{\"inputs\":{{\"input_ids\":{},\"attention_mask\":{},\"token_type_ids\":{}}}}}",
        list(&token),
        list(&|_| 1),
        list(&|_| 0)
    )
}

/// Prints the table.
pub async fn measure(cli: &Cli) -> anyhow::Result<()> {
    let span = Duration::from_secs(cli.seconds);
    let fastapi = server::FastApi::start(cli).await?;
    let penstock =
        server::Penstock::start(cli, "direct", "[idempotency]\nenabled = false\n").await?;
    let cores = std::thread::available_parallelism()?.get();
    for case in cases() {
        let graph = cli.models.join(case.model).join("1/model.onnx");
        println!(
            "\n{}: body {} bytes, {} items",
            case.model,
            case.body.len(),
            case.items
        );
        let mut best = (0.0, String::new());
        // One run on all threads, and a run on each.
        for (sessions, threads) in [(1, cores), (cores, 1)] {
            for batch in BATCHES {
                let span = span / BATCHES.len() as u32;
                let measured = direct::batches(
                    &cli.onnxruntime,
                    &graph,
                    &case.inputs,
                    batch,
                    sessions,
                    threads,
                    span,
                )?;
                let rate = measured.rps * batch as f64;
                if rate > best.0 {
                    best = (
                        rate,
                        format!("batches of {batch} on {sessions} × {threads} threads"),
                    );
                }
            }
        }
        let alone = direct::batches(
            &cli.onnxruntime,
            &graph,
            &case.inputs,
            case.items,
            1,
            1,
            span / 2,
        )?;
        let floor = best.0 / case.items as f64;
        println!(
            "    ONNX Runtime directly: {floor:.0} calls/s at best ({}); one call p50 {:.1} µs",
            best.1,
            alone.p50.as_secs_f64() * 1e6
        );
        let load = |connections, address| Load {
            connections,
            path: format!("/v1/models/{}:predict", case.model),
            body: case.body.clone().into(),
            span,
            address,
            keys: Keys::None,
            header: None,
        };
        for connections in CONNECTIONS {
            let theirs = load(connections, fastapi.address).run().await?;
            let ours = load(connections, penstock.address).run().await?;
            row(&format!("Penstock, {connections} connections"), &ours, None);
            row(
                &format!("FastAPI, {connections} connections"),
                &theirs,
                None,
            );
            println!(
                "    Penstock: {:.2} of the direct call's best, {:.1} times FastAPI; p50 {:.0} µs above the direct call",
                ours.rps / floor,
                ours.rps / theirs.rps,
                above(&ours, &alone)
            );
        }
    }
    Ok(())
}

fn above(ours: &Measured, alone: &Measured) -> f64 {
    (ours.p50.as_secs_f64() - alone.p50.as_secs_f64()) * 1e6
}
