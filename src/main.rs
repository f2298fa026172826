//! The `penstock` command.

mod models;

use clap::{Args, Parser, Subcommand, ValueEnum};
use penstock_host::Launcher;
use penstock_host::admin::AdminListen;
use penstock_host::admin::action::Action;
use penstock_host::app::{Nn, Serving};
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
    /// Check the manifest, the policy and the model contracts. Print each problem with its place and a fix.
    Check(CheckArgs),
    /// Create a model's folder from its graph, run the model once, and print an example call.
    Init(InitArgs),
    /// Print the inputs, outputs and metadata of a graph, and the backends that load it.
    Describe(DescribeArgs),
    /// Print the usage that a running server recorded, by day, tenant, API key and model.
    Usage(UsageArgs),
    /// Create, list, show, rotate and revoke API keys.
    Keys(KeysArgs),
    /// Create, list, show, disable and enable tenants.
    Tenants(TenantsArgs),
    /// Pull models, and control which version answers: aliases, canaries, splits, shadow runs, deprecations.
    Models(Box<models::ModelsArgs>),
    /// Print the version, the built-in backends and the supported interfaces.
    Version,
    /// Run one model in its own process. The server starts this command.
    #[command(hide = true)]
    Worker,
}

#[derive(Args)]
struct Common {
    /// The application manifest, in Spin's format.
    #[arg(
        long,
        env = "PENSTOCK_APP",
        default_value = "spin.toml",
        value_name = "FILE"
    )]
    app: PathBuf,
    /// The models directory. Default: the directory that the manifest mounts at /models.
    #[arg(long, env = "PENSTOCK_MODELS", value_name = "DIR")]
    models: Option<PathBuf>,
    /// The operator's policy file.
    #[arg(
        long,
        env = "PENSTOCK_POLICY",
        default_value = "penstock.toml",
        value_name = "FILE"
    )]
    policy: PathBuf,
    /// The ONNX Runtime library. Without it, models run on the built-in tract.
    #[arg(long, env = "PENSTOCK_ONNXRUNTIME", value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// The OpenVINO library libopenvino_c.so. The other OpenVINO libraries must be in the same folder.
    #[arg(long, env = "PENSTOCK_OPENVINO", value_name = "PATH")]
    openvino: Option<PathBuf>,
    /// The runtime configuration, in Spin's format: the key-value store for each label. Without it, `default` is kept
    /// in the state directory and `counters` in memory.
    #[arg(long, env = "PENSTOCK_RUNTIME_CONFIG_FILE", value_name = "FILE")]
    runtime_config_file: Option<PathBuf>,
    /// The directory for compiled components and stores. Default: `.penstock` beside the manifest.
    #[arg(long, env = "PENSTOCK_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    common: Common,
    /// Also run generated inputs on a second backend, and warn about different outputs.
    #[arg(long)]
    compare: bool,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    common: Common,
    /// The address on which the API listens.
    #[arg(
        long,
        env = "PENSTOCK_LISTEN",
        default_value = "127.0.0.1:3000",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// The address on which the admin API listens, or `off`. Default: [admin] in the policy.
    #[arg(long, env = "PENSTOCK_ADMIN_LISTEN", value_name = "ADDRESS|off")]
    admin_listen: Option<AdminListen>,
    /// The format of log lines.
    #[arg(long, env = "PENSTOCK_LOG", value_enum, default_value_t = Log::Pretty)]
    log: Log,
    /// The gate's entry point that the host calls.
    #[arg(long, env = "PENSTOCK_DOOR", value_enum, default_value_t = EntryPointArg::Direct)]
    door: EntryPointArg,
    /// The place where models run.
    #[arg(long, env = "PENSTOCK_NN", value_enum, default_value_t = NnArg::Native)]
    nn: NnArg,
}

#[derive(Args)]
struct InitArgs {
    #[command(flatten)]
    common: Common,
    /// The graph (.onnx, or OpenVINO's .xml), or a folder that contains one, such as a Hugging Face repository.
    #[arg(value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// The model's name. Default: derived from the name of the file or folder.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Replace existing files.
    #[arg(long)]
    force: bool,
    /// Link the graph and its weights instead of copying them.
    #[arg(long)]
    link: bool,
}

#[derive(Args)]
struct DescribeArgs {
    #[command(flatten)]
    common: Common,
    /// The graph (.onnx, or OpenVINO's .xml), or a folder that contains one.
    #[arg(value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct UsageArgs {
    /// The URL of the running server.
    #[arg(
        long,
        env = "PENSTOCK_SERVER",
        default_value = "http://127.0.0.1:3000",
        value_name = "URL"
    )]
    server: String,
    /// The first day. Default: thirty days are reported.
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<String>,
    /// The last day. Default: today (UTC).
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<String>,
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// The file with the caller's API key. Default: the value of PENSTOCK_API_KEY, if it is set.
    #[arg(long, env = "PENSTOCK_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
}

/// The admin API or the store. The admin token comes from PENSTOCK_ADMIN_TOKEN, PENSTOCK_ADMIN_TOKEN_FILE or the state directory.
#[derive(Args)]
struct ViaArgs {
    /// The URL of a running server's admin API.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_ADMIN",
        default_value = "http://127.0.0.1:3001",
        value_name = "URL"
    )]
    admin: String,
    /// Open the store directly. No server may be running.
    #[arg(long, global = true)]
    offline: bool,
    /// The application manifest. The default state directory is beside it.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_APP",
        default_value = "spin.toml",
        value_name = "FILE"
    )]
    app: PathBuf,
    /// The key-value store for each label. Used with --offline.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_RUNTIME_CONFIG_FILE",
        value_name = "FILE"
    )]
    runtime_config_file: Option<PathBuf>,
    /// The directory of the server's stores and secrets. Default: `.penstock` beside the manifest.
    #[arg(long, global = true, env = "PENSTOCK_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print JSON instead of text.
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
    /// Create an API key. Its secret is printed once.
    Create(CreateKeyArgs),
    /// List keys.
    List {
        /// List only the keys of this tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
    /// Show a key, without its secret.
    Show {
        /// The key's id: the 12 characters after `pnst_`.
        id: String,
    },
    /// Create a key that replaces another one.
    Rotate {
        /// The key's id: the 12 characters after `pnst_`.
        id: String,
        /// Time for which the old key stays valid beside the new one, at most 30d.
        #[arg(long, value_name = "DURATION", value_parser = keys::duration_s)]
        overlap: u64,
    },
    /// Revoke a key permanently.
    Revoke {
        /// The key's id: the 12 characters after `pnst_`.
        id: String,
    },
}

#[derive(Args)]
struct CreateKeyArgs {
    /// The tenant that owns the key.
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// The tier of the key's callers, as defined in the policy.
    #[arg(long, value_name = "NAME")]
    tier: String,
    /// A permission of the key's callers, such as `predict:magika` or `*`. Repeat it for several.
    #[arg(long, value_name = "SCOPE", required = true, value_parser = scope)]
    scope: Vec<Scope>,
    /// A description of the key's purpose.
    #[arg(long, default_value = "", value_name = "TEXT")]
    name: String,
    /// The time until the key expires, such as `90d`. Default: it never expires.
    #[arg(long, value_name = "DURATION", value_parser = keys::duration_s)]
    expires_in: Option<u64>,
    /// Also create a secret for signed requests.
    #[arg(long)]
    signs: bool,
    /// Do not store the key. Print the entries to put into the store of a host without an admin API. The pepper comes
    /// from SPIN_VARIABLE_PEPPER or SPIN_VARIABLE_PEPPER_FILE.
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
    /// Create a tenant.
    Create {
        /// The tenant's name.
        tenant: String,
        /// A description of the tenant.
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
    },
    /// List tenants.
    List,
    /// Show a tenant.
    Show {
        /// The tenant's name.
        tenant: String,
    },
    /// Refuse all callers of a tenant, even with valid credentials.
    Disable {
        /// The tenant's name.
        tenant: String,
    },
    /// Admit the callers of a disabled tenant again.
    Enable {
        /// The tenant's name.
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
enum EntryPointArg {
    /// The typed entry point `penstock:gate/door`. It costs the least.
    Direct,
    /// The entry point `wasi:http/handler`, which Spin uses.
    Http,
}

#[derive(Clone, Copy, ValueEnum)]
enum NnArg {
    /// In this host, on its backends. This is the fastest.
    Native,
    /// In WebAssembly, as on a host without `wasi:nn`.
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
            serving: Serving::default(),
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
                    serving: Serving {
                        nn: match args.nn {
                            NnArg::Native => Nn::Native,
                            NnArg::Component => Nn::Component,
                        },
                        entry_point: match args.door {
                            EntryPointArg::Direct => EntryPointKind::Direct,
                            EntryPointArg::Http => EntryPointKind::Http,
                        },
                    },
                    ..args.common.app()
                },
                listen: args.listen,
                admin: args.admin_listen,
            })
        }
    }
}
