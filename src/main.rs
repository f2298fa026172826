//! The `penstock` command.

use clap::{Args, Parser, Subcommand, ValueEnum};
use penstock_host::app::Nn;
use penstock_host::doors::DoorKind;
use penstock_host::{check, up, usage};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A production-grade API in front of deep-learning models at the edge.
#[derive(Parser)]
#[command(name = "penstock", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the application.
    Up(UpArgs),
    /// Check manifest, policy and model contracts, and say what to mend where.
    Check(Common),
    /// Ask a running server what was used, by day, tenant, API key and model.
    Usage(UsageArgs),
    /// Print the version and what is built in.
    Version,
}

#[derive(Args)]
struct Common {
    /// The application manifest, as Spin reads it.
    #[arg(
        long,
        env = "PENSTOCK_APP",
        default_value = "spin.toml",
        value_name = "FILE"
    )]
    app: PathBuf,
    /// The models directory; without it, the one the manifest mounts at /models.
    #[arg(long, env = "PENSTOCK_MODELS", value_name = "DIR")]
    models: Option<PathBuf>,
    /// The operator's policy.
    #[arg(
        long,
        env = "PENSTOCK_POLICY",
        default_value = "penstock.toml",
        value_name = "FILE"
    )]
    policy: PathBuf,
    /// The ONNX Runtime library; without it, models run on the built-in tract.
    #[arg(long, env = "PENSTOCK_ONNXRUNTIME", value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// The OpenVINO library, libopenvino_c.so, with the rest of OpenVINO beside it.
    #[arg(long, env = "PENSTOCK_OPENVINO", value_name = "PATH")]
    openvino: Option<PathBuf>,
    /// Which key-value store each label stands for, as Spin reads it; without it, `default` is kept
    /// in the state directory and `counters` in memory.
    #[arg(long, env = "PENSTOCK_RUNTIME_CONFIG_FILE", value_name = "FILE")]
    runtime_config_file: Option<PathBuf>,
    /// Where compiled components and stores are kept between starts; without it, `.penstock` beside
    /// the manifest.
    #[arg(long, env = "PENSTOCK_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    common: Common,
    /// Where to listen.
    #[arg(
        long,
        env = "PENSTOCK_LISTEN",
        default_value = "127.0.0.1:3000",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// How log lines are written.
    #[arg(long, env = "PENSTOCK_LOG", value_enum, default_value_t = Log::Pretty)]
    log: Log,
    /// Which of the gate's doors requests go through.
    #[arg(long, env = "PENSTOCK_DOOR", value_enum, default_value_t = DoorArg::Direct)]
    door: DoorArg,
    /// Where models run.
    #[arg(long, env = "PENSTOCK_NN", value_enum, default_value_t = NnArg::Native)]
    nn: NnArg,
}

#[derive(Args)]
struct UsageArgs {
    /// The server.
    #[arg(
        long,
        env = "PENSTOCK_SERVER",
        default_value = "http://127.0.0.1:3000",
        value_name = "URL"
    )]
    server: String,
    /// The first day; without it, thirty days are reported.
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<String>,
    /// The last day; without it, today (UTC).
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<String>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Log {
    Json,
    Pretty,
}

#[derive(Clone, Copy, ValueEnum)]
enum DoorArg {
    /// The typed door: the cheapest.
    Direct,
    /// `wasi:http/handler`, as Spin calls it.
    Http,
}

#[derive(Clone, Copy, ValueEnum)]
enum NnArg {
    /// In this host, on its backends: the fastest.
    Native,
    /// In WebAssembly, as on a host without wasi:nn.
    Component,
}

impl Common {
    fn app(&self) -> penstock_host::AppOptions {
        penstock_host::AppOptions {
            app: self.app.clone(),
            models: self.models.clone(),
            policy: self.policy.clone(),
            onnxruntime: self.onnxruntime.clone(),
            openvino: self.openvino.clone(),
            runtime_config: self.runtime_config_file.clone(),
            nn: Nn::Native,
            state_dir: self.state_dir.clone(),
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Version => {
            println!("penstock {}", env!("CARGO_PKG_VERSION"));
            for line in penstock_host::built_in() {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Command::Check(common) => check::run(&common.app()),
        Command::Usage(args) => usage::run(&usage::UsageOptions {
            server: args.server,
            from: args.from,
            to: args.to,
            json: args.json,
        }),
        Command::Up(args) => {
            penstock_host::log::init(matches!(args.log, Log::Json));
            up::run(up::UpOptions {
                app: penstock_host::AppOptions {
                    nn: match args.nn {
                        NnArg::Native => Nn::Native,
                        NnArg::Component => Nn::Component,
                    },
                    ..args.common.app()
                },
                listen: args.listen,
                door: match args.door {
                    DoorArg::Direct => DoorKind::Direct,
                    DoorArg::Http => DoorKind::Http,
                },
            })
        }
    }
}
