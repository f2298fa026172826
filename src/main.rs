//! The `penstock` command.

mod models;

use clap::{Args, Parser, Subcommand, ValueEnum};
use penstock_host::Launcher;
use penstock_host::admin::AdminListen;
use penstock_host::admin::action::Action;
use penstock_host::app::Nn;
use penstock_host::entry_points::EntryPointKind;
use penstock_host::keys::{NewKey, NewTenant, Scope};
use penstock_host::{check, init, keys, up, usage};
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
    Check(CheckArgs),
    /// Write a model's folder from its graph, run it once, and print how to call it.
    Init(InitArgs),
    /// Print what a graph says of itself, and which backends load it.
    Describe(DescribeArgs),
    /// Ask a running server what was used, by day, tenant, API key and model.
    Usage(UsageArgs),
    /// Create, list, show, rotate and revoke API keys.
    Keys(KeysArgs),
    /// Create, list, show, disable and enable tenants.
    Tenants(TenantsArgs),
    /// Say which version of a model answers: aliases, canaries, splits, shadows, deprecations.
    Models(Box<models::ModelsArgs>),
    /// Print the version and what is built in.
    Version,
    /// Run one model for the server that started this.
    #[command(hide = true)]
    Worker,
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
struct CheckArgs {
    #[command(flatten)]
    common: Common,
    /// Also run made-up calls on a second backend, and warn where it answers differently.
    #[arg(long)]
    compare: bool,
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
    /// Where the admin API listens, or `off`; without it, what [admin] in the policy says.
    #[arg(long, env = "PENSTOCK_ADMIN_LISTEN", value_name = "ADDRESS|off")]
    admin_listen: Option<AdminListen>,
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
struct InitArgs {
    #[command(flatten)]
    common: Common,
    /// The graph (.onnx, or .xml of OpenVINO), or a folder with one, such as a repository of Hugging Face.
    #[arg(value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// The model's name; without it, made from the file's or the folder's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
    /// Link the graph and its weights, do not copy them.
    #[arg(long)]
    link: bool,
}

#[derive(Args)]
struct DescribeArgs {
    #[command(flatten)]
    common: Common,
    /// The graph (.onnx, or .xml of OpenVINO), or a folder with one.
    #[arg(value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
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
    /// A file with the API key to ask with; without it, what PENSTOCK_API_KEY holds, if anything.
    #[arg(long, env = "PENSTOCK_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
}

/// Who is asked. The admin token comes from PENSTOCK_ADMIN_TOKEN, PENSTOCK_ADMIN_TOKEN_FILE or the state directory.
#[derive(Args)]
struct ViaArgs {
    /// The admin API of a running server.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_ADMIN",
        default_value = "http://127.0.0.1:3001",
        value_name = "URL"
    )]
    admin: String,
    /// Open the store itself; for when no server runs.
    #[arg(long, global = true)]
    offline: bool,
    /// The application manifest, which the state directory is beside.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_APP",
        default_value = "spin.toml",
        value_name = "FILE"
    )]
    app: PathBuf,
    /// Which key-value store each label stands for; with --offline.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_RUNTIME_CONFIG_FILE",
        value_name = "FILE"
    )]
    runtime_config_file: Option<PathBuf>,
    /// Where the server keeps its stores and secrets; without it, `.penstock` beside the manifest.
    #[arg(long, global = true, env = "PENSTOCK_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// JSON instead of words for people.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Args)]
struct KeysArgs {
    #[command(flatten)]
    via: ViaArgs,
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Make an API key; it is printed once.
    Create(CreateKeyArgs),
    /// List keys.
    List {
        /// Of this tenant alone.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// Show a key, without its secret.
    Show {
        /// The key's id: the 12 characters behind `pnst_`.
        id: String,
    },
    /// Make a key that takes the place of another.
    Rotate {
        /// The key's id: the 12 characters behind `pnst_`.
        id: String,
        /// How long the old key is good beside the new one, at most 30d.
        #[arg(long, value_name = "DURATION", value_parser = keys::duration_s)]
        overlap: u64,
    },
    /// Take a key back, for good.
    Revoke {
        /// The key's id: the 12 characters behind `pnst_`.
        id: String,
    },
}

#[derive(Args)]
struct CreateKeyArgs {
    /// Whose it is.
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// What its callers may cost: a tier of the policy.
    #[arg(long, value_name = "NAME")]
    tier: String,
    /// What its callers may do, as in `predict:magika` or `*`; may be repeated.
    #[arg(long, value_name = "SCOPE", required = true, value_parser = scope)]
    scope: Vec<Scope>,
    /// What it is for, for people.
    #[arg(long, default_value = "", value_name = "TEXT")]
    name: String,
    /// From when on it is no longer good, as in `90d`; without it, never.
    #[arg(long, value_name = "DURATION", value_parser = keys::duration_s)]
    expires_in: Option<u64>,
    /// Requests may be signed in its name.
    #[arg(long)]
    signs: bool,
    /// Keep it nowhere, and print the entries for the store of a host without an admin API. The pepper comes from
    /// SPIN_VARIABLE_PEPPER or SPIN_VARIABLE_PEPPER_FILE.
    #[arg(long)]
    print_record: bool,
}

#[derive(Args)]
struct TenantsArgs {
    #[command(flatten)]
    via: ViaArgs,
    #[command(subcommand)]
    command: TenantsCommand,
}

#[derive(Subcommand)]
enum TenantsCommand {
    /// Make a tenant.
    Create {
        /// Its name.
        tenant: String,
        /// Who it is, for people.
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
    },
    /// List tenants.
    List,
    /// Show a tenant.
    Show {
        /// Its name.
        tenant: String,
    },
    /// Refuse a tenant's callers, whatever they show.
    Disable {
        /// Its name.
        tenant: String,
    },
    /// Admit a tenant's callers again.
    Enable {
        /// Its name.
        tenant: String,
    },
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::try_from(text.to_owned())
}

impl ViaArgs {
    fn via(self) -> keys::Via {
        let state_dir = penstock_host::state_dir(&self.app, self.state_dir.as_deref());
        match self.offline {
            false => keys::Via::Server {
                admin: self.admin,
                state_dir,
            },
            true => keys::Via::Offline {
                app: self.app,
                runtime_config: self.runtime_config_file,
                state_dir,
            },
        }
    }
}

fn administer_keys(args: KeysArgs) -> ExitCode {
    let as_json = args.via.json;
    let action = match args.command {
        KeysCommand::Create(create) => {
            let new = NewKey {
                tenant: create.tenant,
                tier: create.tier,
                scopes: create.scope,
                name: create.name,
                expires_ms: create.expires_in.map(keys::from_now_ms),
                signs: create.signs,
            };
            if create.print_record {
                return keys::print_record(&new, as_json);
            }
            Action::CreateKey(new)
        }
        KeysCommand::List { tenant } => Action::ListKeys { tenant, page: None },
        KeysCommand::Show { id } => Action::ShowKey(id),
        KeysCommand::Rotate { id, overlap } => Action::RotateKey {
            id,
            overlap_s: overlap,
        },
        KeysCommand::Revoke { id } => Action::RevokeKey(id),
    };
    keys::run(&args.via.via(), action, as_json)
}

fn administer_tenants(args: TenantsArgs) -> ExitCode {
    let as_json = args.via.json;
    let set = |tenant, enabled| Action::SetTenant { tenant, enabled };
    let action = match args.command {
        TenantsCommand::Create {
            tenant,
            description,
        } => Action::CreateTenant(NewTenant {
            tenant,
            description,
        }),
        TenantsCommand::List => Action::ListTenants { page: None },
        TenantsCommand::Show { tenant } => Action::ShowTenant(tenant),
        TenantsCommand::Disable { tenant } => set(tenant, false),
        TenantsCommand::Enable { tenant } => set(tenant, true),
    };
    keys::run(&args.via.via(), action, as_json)
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
            launcher: Some(Launcher::this_program(&["worker"])),
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
        Command::Worker => penstock_host::worker(),
        Command::Check(args) => check::run(&args.common.app(), args.compare),
        Command::Init(args) => init::run(
            &args.common.app(),
            &init::InitOptions {
                from: args.from,
                name: args.name,
                force: args.force,
                link: args.link,
            },
        ),
        Command::Describe(args) => init::describe(
            &args.common.app(),
            &init::DescribeOptions {
                from: args.from,
                json: args.json,
            },
        ),
        Command::Usage(args) => usage::run(&usage::UsageOptions {
            server: args.server,
            from: args.from,
            to: args.to,
            json: args.json,
            api_key_file: args.api_key_file,
        }),
        Command::Keys(args) => administer_keys(args),
        Command::Tenants(args) => administer_tenants(args),
        Command::Models(args) => models::administer(*args),
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
                admin: args.admin_listen,
                door: match args.door {
                    DoorArg::Direct => EntryPointKind::Direct,
                    DoorArg::Http => EntryPointKind::Http,
                },
            })
        }
    }
}
