//! Compares calls that run later with calls that are answered at once: the operations that are accepted durably in a second, and
//! the time that an operation adds to a call on an idle server.

use crate::load::{self, Keys, Load};
use crate::{Cli, DISK_CONNECTIONS, ROUNDS, median, row, server, syncs_a_second};
use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Room for the operations of all rounds.
const POLICY: &str =
    "[operations]\nmax_per_tenant = 4194304\nmax_bytes_per_tenant = 549755813888\n";

const BODY: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;
const PREDICT: &str = "/v1/models/identity:predict";
const PREDICT_ASYNC: &str = "/v1/models/identity:predictAsync";
/// An operation whose answer waits for its result. The server is idle, so no wait ends before it.
const OPERATION: (&str, &str) = ("prefer", "respond-async, wait=20");

/// Longest time until the accepted operations of a row have run.
const DRAIN: Duration = Duration::from_secs(600);

/// Measures, and prints the table.
pub async fn measure(cli: &Cli) -> anyhow::Result<()> {
    let synced = syncs_a_second(&cli.scratch, Duration::from_secs(2))?;
    println!(
        "{} s a row, {ROUNDS} rounds; body {} bytes; the disk: {synced:.0} appends with sync a second, one after the other\n",
        cli.seconds,
        BODY.len()
    );
    let served = server::Penstock::start(cli, "direct", POLICY).await?;
    let load = |connections, path: &str, keys| Load {
        connections,
        path: path.to_owned(),
        body: BODY.into(),
        span: Duration::from_secs(cli.seconds),
        address: served.address,
        keys,
        header: None,
    };
    accepted(&served, &load).await?;
    overhead(&load).await?;
    println!("resident: {} MiB", served.resident_mib());
    Ok(())
}

/// Measures accepted operations beside plain calls and beside synchronous calls with a key, which wait for the disk, too.
async fn accepted(
    served: &server::Penstock,
    load: impl Fn(usize, &str, Keys) -> Load,
) -> anyhow::Result<()> {
    let (mut of_plain, mut of_keyed, mut keyed_of_keyed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let keys = |kind: &str| Keys::Fresh(format!("{kind}{round}"));
        let plain = load(DISK_CONNECTIONS, PREDICT, Keys::None).run().await?;
        row("calls, 64 connections", &plain, None);
        let keyed = load(DISK_CONNECTIONS, PREDICT, keys("call")).run().await?;
        row("calls with a new key each, 64 connections", &keyed, None);
        let accepted = load(DISK_CONNECTIONS, PREDICT_ASYNC, Keys::None);
        let accepted = accepted.run().await?;
        row("accepted operations, 64 connections", &accepted, None);
        let drained = drain(served.address).await?;
        println!(
            "    the operations that waited ran within {:.1} s after it",
            drained.as_secs_f64()
        );
        let both = load(DISK_CONNECTIONS, PREDICT_ASYNC, keys("operation"));
        let both = both.run().await?;
        row("accepted operations with a new key each", &both, None);
        drain(served.address).await?;
        of_plain.push(accepted.rps / plain.rps);
        of_keyed.push(accepted.rps / keyed.rps);
        keyed_of_keyed.push(both.rps / keyed.rps);
    }
    println!(
        "    accepted operations against calls: {}",
        median(of_plain)
    );
    println!(
        "    accepted operations against calls with a key: {}",
        median(of_keyed)
    );
    println!(
        "    accepted operations with a key against calls with a key: {}\n",
        median(keyed_of_keyed)
    );
    Ok(())
}

/// Measures one call after another on an idle server: at once, at once with a key, and as an operation whose answer waits for its end.
async fn overhead(load: impl Fn(usize, &str, Keys) -> Load) -> anyhow::Result<()> {
    let (mut over_plain, mut over_keyed) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let plain = load(1, PREDICT, Keys::None).run().await?;
        row("calls, 1 connection", &plain, None);
        let keyed = load(1, PREDICT, Keys::Fresh(format!("idle{round}")));
        let keyed = keyed.run().await?;
        row("calls with a new key each, 1 connection", &keyed, None);
        let (name, value) = OPERATION;
        let operations = Load {
            header: Some((name, value.to_owned())),
            ..load(1, PREDICT, Keys::None)
        };
        let operations = operations.run().await?;
        row("operations to their end, 1 connection", &operations, None);
        let p50_ms = |measured: &load::Measured| measured.p50.as_secs_f64() * 1e3;
        over_plain.push(p50_ms(&operations) - p50_ms(&plain));
        over_keyed.push(p50_ms(&operations) - p50_ms(&keyed));
    }
    println!(
        "    ms of an operation over a call at p50: {}",
        median(over_plain)
    );
    println!(
        "    ms of an operation over a call with a key at p50: {}",
        median(over_keyed)
    );
    Ok(())
}

/// Waits until the operations that were accepted have run. The queue is first in, first out within a tenant, so one more operation
/// is the last of them.
async fn drain(address: SocketAddr) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut sender = load::connect(address).await?;
    let post = hyper::Request::post(PREDICT_ASYNC)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(BODY.as_bytes())))?;
    let operation = ask(&mut sender, post).await?;
    let id = operation["metadata"]["id"]
        .as_str()
        .context("the operation has no id")?;
    loop {
        let get = hyper::Request::get(format!("/v1/operations/{id}"))
            .header("host", "localhost")
            .header("prefer", "wait=20")
            .body(Full::new(Bytes::new()))?;
        let state = ask(&mut sender, get).await?;
        if state["done"] == true {
            ensure!(state["metadata"]["state"] == "succeeded", "{state}");
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < DRAIN, "it did not end in time: {state}");
    }
}

/// Sends a request, and returns the JSON of its answer.
async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    request: hyper::Request<Full<Bytes>>,
) -> anyhow::Result<serde_json::Value> {
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        status.is_success(),
        "{status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(serde_json::from_slice(&body)?)
}
