//! Compares Penstock with its baselines, in one run on one machine: a native hyper echo server, the direct entry point,
//! the HTTP entry point, and ONNX Runtime called directly. Prints requests per second, p50, p99, memory and ratios. It
//! asserts nothing: machines are noisy, so only ratios of one run are compared.
//!
//! Every server is a separate process. The client shares the machine with it, for every row of the table.

mod against;
mod auth;
mod direct;
mod echo;
mod engine;
mod load;
mod operations;
mod protocols;
mod server;
mod soak;

use anyhow::Context;
use clap::Parser;
use load::{Keys, Load, Measured};
use std::path::PathBuf;
use std::time::Duration;

/// Measures Penstock beside its baselines.
#[derive(Clone, Parser)]
struct Cli {
    /// Seconds measured for each row, after a second of warm-up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections of the throughput rows.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// The server's binary.
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
    /// The models directory.
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// The ONNX Runtime library.
    #[arg(long, env = "PENSTOCK_ONNXRUNTIME")]
    onnxruntime: PathBuf,
    /// The folder in which measured servers keep their stores. It is on the disk to be measured.
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
    /// Measure limits, idempotency and usage only.
    #[arg(long)]
    state: bool,
    /// Measure the inference engine only: batching, beside ONNX Runtime called directly and a FastAPI server.
    #[arg(long)]
    engine: bool,
    /// Measure one model by every protocol only, beside ONNX Runtime called directly.
    #[arg(long)]
    protocols: bool,
    /// Measure operations only, beside calls that are answered at once.
    #[arg(long)]
    operations: bool,
    /// Measure what knowing who calls costs only.
    #[arg(long)]
    auth: bool,
    /// Measure good callers beside idle connections, slow writers and a flood of bad credentials.
    #[arg(long)]
    soak: bool,
    /// Measure this build beside another one only: a folder that `scripts/bench --against` makes of a revision.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Serve the native echo on this port and do nothing else; the harness starts itself this way.
    #[arg(long, hide = true)]
    serve_echo: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if cli.serve_echo {
        return runtime.block_on(echo::serve());
    }
    runtime.block_on(measure(&cli))
}

async fn measure(cli: &Cli) -> anyhow::Result<()> {
    if let Some(other) = &cli.against {
        return against::measure(cli, other).await;
    }
    if cli.engine {
        return engine::measure(cli).await;
    }
    if cli.protocols {
        return protocols::measure(cli).await;
    }
    if cli.operations {
        return operations::measure(cli).await;
    }
    if cli.auth {
        return auth::measure(cli).await;
    }
    if cli.soak {
        return soak::measure(cli).await;
    }
    let span = Duration::from_secs(cli.seconds);
    let identity = identity_body();
    let cls = cls_body();
    println!(
        "{} s a row, {} and 1 connections; identity body {} bytes, cls body {} bytes ({} numbers)\n",
        cli.seconds,
        cli.connections,
        identity.len(),
        cls.len(),
        CLS_NUMBERS
    );

    let echo = server::Echo::start().await?;
    let load = |connections, path: &str, body: &str, address| Load {
        connections,
        path: path.to_owned(),
        body: body.to_owned().into(),
        span,
        address,
        keys: Keys::None,
        header: None,
    };
    let predict = "/v1/models/identity:predict";
    state(cli, &load(cli.connections, predict, &identity, ANY)).await?;
    if cli.state {
        return Ok(());
    }
    let echo_many = load(cli.connections, predict, &identity, echo.address)
        .run()
        .await?;
    let echo_one = load(1, predict, &identity, echo.address).run().await?;
    drop(echo);
    row("native hyper echo, identity body", &echo_many, None);
    row(
        "native hyper echo, identity body, 1 connection",
        &echo_one,
        None,
    );

    for door in ["direct", "http"] {
        let served = server::Penstock::start(cli, door, "")
            .await
            .with_context(|| format!("{door} entry point"))?;
        let many = load(cli.connections, predict, &identity, served.address)
            .run()
            .await?;
        let one = load(1, predict, &identity, served.address).run().await?;
        let memory = served.resident_mib();
        row(
            &format!("{door} entry point, identity"),
            &many,
            Some(many.rps / echo_many.rps),
        );
        row(
            &format!("{door} entry point, identity, 1 connection"),
            &one,
            Some(one.rps / echo_one.rps),
        );
        println!(
            "    overhead at p50 over the echo, 1 connection: {:.0} µs; resident {memory} MiB",
            (one.p50 - echo_one.p50).as_secs_f64() * 1e6
        );
        let many = load(
            cli.connections,
            "/v1/models/cls:predict",
            &cls,
            served.address,
        )
        .run()
        .await?;
        let one = load(1, "/v1/models/cls:predict", &cls, served.address)
            .run()
            .await?;
        let memory = served.resident_mib();
        row(&format!("{door} entry point, cls"), &many, None);
        row(
            &format!("{door} entry point, cls, 1 connection"),
            &one,
            None,
        );
        drop(served);
        let model = cli.models.join("cls/1/model.onnx");
        let cores = std::thread::available_parallelism()?.get();
        let (floor_many, floor_one) = direct::measure(&cli.onnxruntime, &model, cores, span)?;
        row(
            &format!("ONNX Runtime called directly, cls, {cores} threads"),
            &floor_many,
            None,
        );
        row(
            "ONNX Runtime called directly, cls, 1 thread",
            &floor_one,
            None,
        );
        println!(
            "    {door} entry point against the direct call, cls: {:.2} at {} connections, {:.2} at 1; resident {memory} MiB",
            many.rps / floor_many.rps,
            cli.connections,
            one.rps / floor_one.rps
        );
    }
    Ok(())
}

/// Three limits of three kinds, none of which is reached.
const THREE_LIMITS: &str = r#"
[[limits]]
name = "everybody"
algorithm = "fixed-window"
limit = 100000000
window_s = 60

[[limits]]
name = "address"
per = ["address"]
algorithm = "sliding-window"
limit = 100000000
window_s = 60

[[limits]]
name = "model"
per = ["address", "model"]
algorithm = "token-bucket"
limit = 100000000
window_s = 60
burst = 1000000
"#;

/// Rounds in which the rows of a comparison take turns, so that a slow minute affects both.
const ROUNDS: usize = 3;

/// Connections of the rows that wait for the disk.
const DISK_CONNECTIONS: usize = 64;

/// Stands for an address that is filled in later.
const ANY: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Measures the cost of state: limits in memory, calls with idempotency keys and counted calls on the disk.
async fn state(cli: &Cli, load: &Load) -> anyhow::Result<()> {
    let free = server::Penstock::start(cli, "direct", "[idempotency]\nenabled = false\n").await?;
    let limited = server::Penstock::start(cli, "direct", THREE_LIMITS).await?;
    let at = |address, connections, keys| Load {
        address,
        connections,
        keys,
        ..load.clone()
    };
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let without = at(free.address, cli.connections, Keys::None).run().await?;
        let with = at(limited.address, cli.connections, Keys::None)
            .run()
            .await?;
        row("direct entry point, identity, no limit", &without, None);
        row(
            "direct entry point, identity, three limits in memory",
            &with,
            None,
        );
        ratios.push(with.rps / without.rps);
    }
    println!("    three limits against none: {}", median(ratios));
    drop((free, limited));

    let synced = syncs_a_second(&cli.scratch, Duration::from_secs(2))?;
    println!("\nthe disk: {synced:.0} appends with sync a second, one after the other");
    let keyed = server::Penstock::start(cli, "direct", "").await?;
    let fresh = at(keyed.address, DISK_CONNECTIONS, Keys::Fresh("k".into()));
    let fresh = fresh.run().await?;
    row("a new idempotency key each, 64 connections", &fresh, None);
    println!(
        "    calls for each sync of the disk: {:.0}",
        fresh.rps / synced
    );
    let same = at(keyed.address, DISK_CONNECTIONS, Keys::Same("same".into()));
    // The first call of the key is made alone. Otherwise the others would be refused while it runs.
    Load {
        connections: 1,
        span: Duration::from_millis(1),
        ..same.clone()
    }
    .run()
    .await?;
    row(
        "replays of one key, 64 connections",
        &same.run().await?,
        None,
    );
    drop(keyed);
    let counted = server::Penstock::start(cli, "direct", "[usage]\nenabled = true\n").await?;
    let counted = at(counted.address, DISK_CONNECTIONS, Keys::None)
        .run()
        .await?;
    row("every call counted durably, 64 connections", &counted, None);
    match server::Spin::start(cli).await? {
        None => println!("    no `spin` on the PATH: its rows are left out"),
        Some(spin) => {
            for (name, connections, keys) in [
                (
                    "Spin: the manifest's policy, 16 connections",
                    16,
                    Keys::None,
                ),
                (
                    "Spin: a new idempotency key each, 64 connections",
                    DISK_CONNECTIONS,
                    Keys::Fresh("s".into()),
                ),
            ] {
                match at(spin.address, connections, keys).run().await {
                    Ok(measured) => row(name, &measured, None),
                    Err(problem) => println!("{name}: {problem:#}"),
                }
            }
        }
    }
    println!();
    Ok(())
}

/// Synced page writes per second of the disk.
fn syncs_a_second(folder: &std::path::Path, span: Duration) -> anyhow::Result<f64> {
    use std::io::Write;
    let mut file = tempfile::tempfile_in(folder)?;
    let page = [0; 4096];
    let started = std::time::Instant::now();
    let mut count = 0;
    while started.elapsed() < span {
        file.write_all(&page)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

/// Ratios of several rounds in words: their median, which a slow second does not move, and their range.
fn median(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (ratios.first(), ratios.last()) else {
        return "no rounds".to_owned();
    };
    let (middle, rounds) = (ratios[ratios.len() / 2], ratios.len());
    format!("{middle:.2} (median of {rounds} rounds, {first:.2} to {last:.2})")
}

fn row(name: &str, measured: &Measured, of_echo: Option<f64>) {
    let ratio = of_echo.map_or(String::new(), |r| format!("  {r:.2} of echo"));
    println!(
        "{name:<52} {:>9.0} req/s  p50 {:>8.1} µs  p99 {:>9.1} µs{ratio}",
        measured.rps,
        measured.p50.as_secs_f64() * 1e6,
        measured.p99.as_secs_f64() * 1e6,
    );
}

/// Floats of one `cls` image, 3 × 48 × 192.
const CLS_NUMBERS: usize = 3 * 48 * 192;

/// About 3 KB of JSON: 80 items of 4 numbers.
fn identity_body() -> String {
    let mut random = Random(7);
    let items: Vec<String> = (0..80)
        .map(|_| {
            let numbers: Vec<String> = (0..4).map(|_| random.unit().to_string()).collect();
            format!("[{}]", numbers.join(","))
        })
        .collect();
    format!("{{\"inputs\":{{\"a\":[{}]}}}}", items.join(","))
}

/// One image as nested arrays `[1, 3, 48, 192]`, as a client's JSON library prints FP32 numbers.
fn cls_body() -> String {
    let mut random = Random(11);
    let nest = |parts: Vec<String>| format!("[{}]", parts.join(","));
    let image = nest(
        (0..3)
            .map(|_| {
                nest(
                    (0..48)
                        .map(|_| nest((0..192).map(|_| random.unit().to_string()).collect()))
                        .collect(),
                )
            })
            .collect(),
    );
    format!("{{\"inputs\":{{\"x\":[{image}]}}}}")
}

/// Numbers that are the same in every run (SplitMix64), in (-1, 1).
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
