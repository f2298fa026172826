//! A closed loop: each connection sends its next request after the last was answered.

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The requests, their target and their number.
#[derive(Clone)]
pub struct Load {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Path of every request.
    pub path: String,
    /// Body of every request.
    pub body: Bytes,
    /// Time of the measurement.
    pub span: Duration,
    /// The server.
    pub address: SocketAddr,
    /// Idempotency keys.
    pub keys: Keys,
    /// One more header: a credential, for example. Its name and its value.
    pub header: Option<(&'static str, String)>,
}

/// The idempotency key of each request.
#[derive(Clone, Debug, Default)]
pub enum Keys {
    /// No key.
    #[default]
    None,
    /// A new key with this prefix.
    Fresh(String),
    /// Always this key.
    Same(String),
}

/// The result of a measurement.
pub struct Measured {
    /// Answers per second.
    pub rps: f64,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile of latency.
    pub p99: Duration,
}

impl Measured {
    /// Sums up latencies of `span`.
    pub fn of(mut latencies: Vec<Duration>, span: Duration) -> Self {
        latencies.sort_unstable();
        let at = |q: f64| {
            let index =
                ((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1));
            latencies.get(index).copied().unwrap_or_default()
        };
        Self {
            rps: latencies.len() as f64 / span.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
        }
    }
}

/// Opens a connection of HTTP/1.1.
pub async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    http1(TcpStream::connect(address).await?).await
}

/// Begins HTTP/1.1 on a connection.
pub async fn http1(stream: TcpStream) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Time before the measurement.
pub const WARM_UP: Duration = Duration::from_secs(1);

impl Load {
    /// Runs the loop. Any answer but 200 is an error; calls that run later are answered 202.
    pub async fn run(&self) -> anyhow::Result<Measured> {
        let start = Instant::now() + WARM_UP;
        let end = start + self.span;
        let tasks: Vec<_> = (0..self.connections)
            .map(|n| tokio::spawn(self.clone().connection(n, start, end)))
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await??);
        }
        Ok(Measured::of(latencies, self.span))
    }

    async fn connection(
        self,
        number: usize,
        start: Instant,
        end: Instant,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut sender = connect(self.address).await?;
        let wanted: u16 = if self.path.ends_with("Async") {
            202
        } else {
            200
        };
        let mut latencies = Vec::new();
        for count in 0_u64.. {
            let sent = Instant::now();
            if sent >= end {
                return Ok(latencies);
            }
            let mut request = hyper::Request::post(&self.path)
                .header("host", "localhost")
                .header("content-type", "application/json");
            request = match &self.keys {
                Keys::None => request,
                Keys::Fresh(prefix) => {
                    request.header("idempotency-key", format!("{prefix}-{number}-{count}"))
                }
                Keys::Same(key) => request.header("idempotency-key", key),
            };
            if let Some((name, value)) = &self.header {
                request = request.header(*name, value);
            }
            let request = request.body(Full::new(self.body.clone()))?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            ensure!(
                status == wanted,
                "{status}: {}",
                String::from_utf8_lossy(&body)
            );
            if sent >= start {
                latencies.push(sent.elapsed());
            }
        }
        Ok(latencies)
    }
}
