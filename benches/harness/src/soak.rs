//! Measures good callers, first alone and then beside hostile traffic: idle connections, slow writers, and a flood of
//! bad credentials. Reports the requests, the answers, the good callers' p99 in both cases, and memory.
//!
//! Good callers and the flood send at a fixed rate, and latency counts from the time when a request was due. A client
//! that waits for an answer before the next request would hide the delays that are measured.

use crate::load::{self, Measured};
use crate::{Cli, identity_body, server};
use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const POLICY: &str = r#"
[admin]
listen = "127.0.0.1:0"
[auth.tiers.free]
[server]
max_connections = 20000
"#;

const IDLE: usize = 10_000;
/// Clients that send their bodies slowly, and the number that send their headers slowly.
const SLOW: usize = 500;
/// Requests per second of good callers, and connections that they share.
const GOOD_RATE: u64 = 200;
const GOOD_CONNECTIONS: usize = 8;
/// Requests per second with bad credentials, and connections that they share.
const BAD_RATE: u64 = 1_000;
const BAD_CONNECTIONS: usize = 16;
/// Time between two bytes of a slow writer.
const SLOW_BYTE: Duration = Duration::from_secs(2);
/// Connections from one address, below the server's cap.
const PER_ADDRESS: usize = 200;

/// Answers by status; 0 for a connection that ended without one.
type Answers = Arc<Mutex<BTreeMap<u16, u64>>>;

/// Measures, and prints the results.
pub async fn measure(cli: &Cli) -> anyhow::Result<()> {
    let served = server::Penstock::start(cli, "direct", POLICY).await?;
    served.administer(cli, &["tenants", "create", "bench"])?;
    let create = [
        "keys", "create", "--tenant", "bench", "--tier", "free", "--scope", "*", "--json",
    ];
    let made: serde_json::Value = serde_json::from_str(&served.administer(cli, &create)?)?;
    let api_key = made["api_key"]
        .as_str()
        .context("the command printed no key")?
        .to_owned();
    let span = Duration::from_secs(cli.seconds.max(5));
    let address = served.address;
    let good = |span| {
        let api_key = api_key.clone();
        async move {
            let answers = Answers::default();
            let key = move |_| format!("Bearer {api_key}");
            let latencies = paced(
                address,
                GOOD_RATE,
                GOOD_CONNECTIONS,
                250,
                span,
                key,
                &answers,
            )
            .await?;
            anyhow::Ok((Measured::of(latencies, span), answers))
        }
    };
    good(Duration::from_secs(2)).await?;
    let memory_before = served.resident_mib();
    let (quiet, answers) = good(span).await?;
    report("good callers alone", &quiet, &answers);

    let idle = connections(address, IDLE, 1).await?;
    println!("{} idle connections are open", idle.len());
    let slow_answers = Answers::default();
    let slow = slow_writers(address, &slow_answers).await?;
    println!(
        "{SLOW} clients dawdle in their bodies and {SLOW} in their headers, a byte every {} s",
        SLOW_BYTE.as_secs()
    );
    let bad_answers = Answers::default();
    let flood = tokio::spawn({
        let bad_answers = bad_answers.clone();
        async move {
            paced(
                address,
                BAD_RATE,
                BAD_CONNECTIONS,
                251,
                span + Duration::from_secs(2),
                bad,
                &bad_answers,
            )
            .await
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (loud, answers) = good(span).await?;
    report("good callers beside them", &loud, &answers);
    flood.await??;
    let memory = served.resident_mib();
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    println!(
        "bad credentials, {BAD_RATE} a second: {}",
        told(&bad_answers)
    );
    println!("slow writers: {}", told(&slow_answers));
    println!(
        "    p99 {:.2} of its quiet value; resident {memory_before} MiB before, {memory} MiB with all of them",
        loud.p99.as_secs_f64() / quiet.p99.as_secs_f64()
    );
    drop(idle);
    Ok(())
}

fn report(name: &str, measured: &Measured, answers: &Answers) {
    println!(
        "{name:<28} {:>6.0} req/s  p50 {:>7.0} µs  p99 {:>8.0} µs  {}",
        measured.rps,
        measured.p50.as_secs_f64() * 1e6,
        measured.p99.as_secs_f64() * 1e6,
        told(answers)
    );
}

fn told(answers: &Answers) -> String {
    let answers = answers.lock().expect("nobody panics with it");
    let each = answers.iter().map(|(status, count)| match status {
        0 => format!("{count} ended without an answer"),
        status => format!("{count} of {status}"),
    });
    let each: Vec<String> = each.collect();
    if each.is_empty() {
        "nothing answered".to_owned()
    } else {
        each.join(", ")
    }
}

fn note(answers: &Answers, status: u16) {
    *answers
        .lock()
        .expect("nobody panics with it")
        .entry(status)
        .or_default() += 1;
}

/// Bad credentials of every kind in turn.
fn bad(count: u64) -> String {
    match count % 4 {
        // Its checksum is right, but no caller has it.
        0 => format!("Bearer {}", unknown_key(count)),
        1 => "Bearer pnst_short".to_owned(),
        2 => "Basic dXNlcjpwYXNzd29yZA==".to_owned(),
        _ => format!("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiI{count}In0."),
    }
}

fn unknown_key(count: u64) -> String {
    let mut state = count;
    penstock_policy::auth::api_key::generate(|bytes| {
        for byte in bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
    })
}

/// A connection from an address of this machine's own network, so that each stands for another client.
async fn connect(address: SocketAddr, network: u8, host: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let from = Ipv4Addr::new(127, network, 0, host.max(1));
    socket.bind(SocketAddr::V4(SocketAddrV4::new(from, 0)))?;
    socket.connect(address).await
}

async fn connections(
    address: SocketAddr,
    count: usize,
    network: u8,
) -> anyhow::Result<Vec<TcpStream>> {
    let mut all = Vec::with_capacity(count);
    for at in 0..count {
        let host = (at / PER_ADDRESS + 1) as u8;
        all.push(
            connect(address, network, host)
                .await
                .context("the limit of open files may be too low")?,
        );
    }
    Ok(all)
}

/// As many are slow in their headers as in their bodies. A refused one comes again after a while.
async fn slow_writers(
    address: SocketAddr,
    answers: &Answers,
) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let mut all = Vec::with_capacity(2 * SLOW);
    for at in 0..2 * SLOW {
        let answers = answers.clone();
        all.push(tokio::spawn(async move {
            loop {
                let Ok(mut stream) = connect(address, 2, (at / PER_ADDRESS + 1) as u8).await else {
                    tokio::time::sleep(SLOW_BYTE).await;
                    continue;
                };
                let head: &[u8] = if at % 2 == 0 {
                    b"POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\nx-slow: "
                } else {
                    b"POST /v1/models/identity:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
                };
                let _ = stream.write_all(head).await;
                let mut answer = [0; 12];
                let status = loop {
                    tokio::select! {
                        read = stream.read(&mut answer) => {
                            let text = std::str::from_utf8(&answer).unwrap_or_default();
                            let status = text.get(9..12).and_then(|digits| digits.parse().ok());
                            break if read.is_ok_and(|bytes| bytes > 0) { status.unwrap_or(0) } else { 0 };
                        }
                        () = tokio::time::sleep(SLOW_BYTE) => {
                            if stream.write_all(b"x").await.is_err() {
                                break 0;
                            }
                        }
                    }
                };
                note(&answers, status);
                tokio::time::sleep(SLOW_BYTE).await;
            }
        }));
    }
    Ok(all)
}

/// Sends at a fixed rate over some connections. Returns the latency of each answer since its request was due.
async fn paced(
    address: SocketAddr,
    rate: u64,
    over: usize,
    network: u8,
    span: Duration,
    credential: impl Fn(u64) -> String + Clone + Send + 'static,
    answers: &Answers,
) -> anyhow::Result<Vec<Duration>> {
    let body = Bytes::from(identity_body());
    let start = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..over)
        .map(|at| {
            let (next, body, credential, answers) = (
                next.clone(),
                body.clone(),
                credential.clone(),
                answers.clone(),
            );
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut sender = None;
                loop {
                    let count = next.fetch_add(1, Ordering::Relaxed);
                    let due = start + Duration::from_nanos(count * 1_000_000_000 / rate);
                    if due >= start + span {
                        return anyhow::Ok(latencies);
                    }
                    tokio::time::sleep_until(due.into()).await;
                    if sender.is_none() {
                        let stream = connect(address, network, at as u8 + 1).await?;
                        sender = Some(load::http1(stream).await?);
                    }
                    let request = hyper::Request::post("/v1/models/identity:predict")
                        .header("host", "localhost")
                        .header("content-type", "application/json")
                        .header("authorization", credential(count))
                        .body(Full::new(body.clone()))?;
                    let answered = async {
                        let response = sender
                            .as_mut()
                            .context("made above")?
                            .send_request(request)
                            .await?;
                        let status = response.status().as_u16();
                        response.into_body().collect().await?;
                        anyhow::Ok(status)
                    };
                    match answered.await {
                        Ok(status) => {
                            note(&answers, status);
                            latencies.push(due.elapsed());
                        }
                        Err(_) => {
                            note(&answers, 0);
                            sender = None;
                        }
                    }
                }
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for worker in workers {
        latencies.extend(worker.await??);
    }
    Ok(latencies)
}
