//! `penstock models`: what can be typed, and what it asks for.

use clap::{Args, Subcommand};
use penstock_host::keys::duration_s;
use penstock_host::pulls::{self, Address, Digest, PullOptions, SourceSettings};
use penstock_host::rollouts::{
    self, Alias, Bounds, BoundsPatch, ByHeader, Change, Deprecated, Percent, RolloutAction,
    RolloutOptions, Shadow, SplitArm, Target, Version,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// The admin token comes from PENSTOCK_ADMIN_TOKEN, PENSTOCK_ADMIN_TOKEN_FILE or the state directory.
#[derive(Args)]
pub struct ModelsArgs {
    /// The admin API of a running server.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_ADMIN",
        default_value = "http://127.0.0.1:3001",
        value_name = "URL"
    )]
    admin: String,
    /// The application manifest, which the state directory is beside.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_APP",
        default_value = "spin.toml",
        value_name = "FILE"
    )]
    app: PathBuf,
    /// Where the server keeps its secrets; without it, `.penstock` beside the manifest.
    #[arg(long, global = true, env = "PENSTOCK_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// JSON instead of words for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Models, their versions, and how these are rolled out.
    List {
        /// List what was pulled, from where, and what is pinned; no server is asked.
        #[arg(long)]
        sources: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Pull a model from a folder, an https URL, S3, an OCI registry or a Hugging Face hub.
    Pull(Box<PullArgs>),
    /// Read the files of pulled models, and say which are not what was pulled.
    Verify {
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Remove from the cache what no model in the models directory and no source in the policy needs.
    Prune {
        /// Remove nothing, and say what would go.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// One model, with how its canary does.
    Show {
        /// Its name.
        model: String,
    },
    /// Give versions names of their own, and move these.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Say what calls get that name no version.
    Default {
        /// The model.
        model: String,
        /// A version or an alias; `latest` is the highest version that is ready.
        #[arg(value_parser = target)]
        to: Target,
    },
    /// Have some callers try a version.
    #[command(subcommand)]
    Canary(CanaryCommand),
    /// Make the canary what everybody gets.
    Promote {
        /// The model.
        model: String,
        /// The alias to move; without it, the one that is the default, or the default itself.
        #[arg(long, value_parser = alias)]
        alias: Option<Alias>,
    },
    /// End the canary because it is bad.
    Rollback {
        /// The model.
        model: String,
    },
    /// Compare versions on callers.
    Split {
        /// The model.
        model: String,
        /// A version or alias, and how many callers get it beside the others.
        #[arg(long = "arm", value_parser = arm, value_name = "VERSION=WEIGHT", required_unless_present_any = ["header", "end"])]
        arms: Vec<SplitArm>,
        /// The header by which callers get a version.
        #[arg(long, value_name = "NAME", requires = "values")]
        header: Option<String>,
        /// A value of that header, and the version or alias it gets.
        #[arg(long = "value", value_parser = value, value_name = "VALUE=VERSION", requires = "header")]
        values: Vec<(String, Target)>,
        /// Compare no longer.
        #[arg(long, conflicts_with_all = ["arms", "header"])]
        end: bool,
    },
    /// Run a version beside what answers, and compare.
    Shadow {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version, required_unless_present = "end")]
        version: Option<Version>,
        /// Of how many calls.
        #[arg(long, value_parser = percent, default_value = "100")]
        percent: Percent,
        /// Run none beside any longer.
        #[arg(long, conflicts_with = "version")]
        end: bool,
    },
    /// Say that a version is to go.
    Deprecate {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
        /// After what time it answers no more, as 30d; without it, it goes on answering.
        #[arg(long, value_parser = duration_s, value_name = "TIME")]
        sunset_in: Option<u64>,
        /// Where more is to be read.
        #[arg(long, value_name = "URL")]
        link: Option<String>,
        /// The version or alias to use in its place.
        #[arg(long, value_parser = target, value_name = "VERSION")]
        successor: Option<Target>,
    },
    /// Say that a version is to stay after all.
    Undeprecate {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
    },
}

/// Where models and policy are.
#[derive(Args)]
struct LocalArgs {
    /// The models directory; without it, the one the manifest mounts at /models.
    #[arg(long, env = "PENSTOCK_MODELS", value_name = "DIR")]
    models: Option<PathBuf>,
    /// The operator's policy, with [[models.sources]] and [models.pull].
    #[arg(
        long,
        env = "PENSTOCK_POLICY",
        default_value = "penstock.toml",
        value_name = "FILE"
    )]
    policy: PathBuf,
}

#[derive(Args)]
struct PullArgs {
    /// A folder or file, https://…, s3://bucket/key, oci://registry/repository:tag or hf://owner/name@revision; without it,
    /// all [[models.sources]] of the policy.
    from: Option<String>,
    /// The model that it becomes; without it, the last part of the address.
    #[arg(long, value_name = "NAME", requires = "from")]
    name: Option<String>,
    /// The version that it becomes.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", requires = "from")]
    version: u64,
    /// The SHA-256 that it must have: of the file or archive, of the manifest of an OCI artifact, or as a pull prints it.
    #[arg(long, value_parser = digest, value_name = "SUM", requires = "from")]
    sha256: Option<Digest>,
    /// The graph's file in it, where there are several.
    #[arg(long, value_name = "PATH", requires = "from")]
    graph: Option<String>,
    /// The minisign public key that must have signed it, or a file that holds it.
    #[arg(long, value_name = "KEY", requires = "from")]
    signature_key: Option<String>,
    /// Where its signature is; without it, at the address with .minisig behind it.
    #[arg(long, value_name = "ADDRESS", requires = "signature_key")]
    signature: Option<String>,
    /// The environment variable that holds its credentials: user:password, a token, or the two keys of S3.
    #[arg(long, value_name = "VARIABLE", requires = "from")]
    credentials_env: Option<String>,
    /// The file that holds its credentials.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "credentials_env",
        requires = "from"
    )]
    credentials_file: Option<PathBuf>,
    /// The S3 endpoint or the hub.
    #[arg(long, value_name = "URL", requires = "from")]
    endpoint: Option<String>,
    /// The S3 region.
    #[arg(long, value_name = "NAME", requires = "from")]
    region: Option<String>,
    #[command(flatten)]
    local: LocalArgs,
}

impl PullArgs {
    fn source(&self) -> Result<Option<SourceSettings>, String> {
        let Some(from) = self.from.clone() else {
            return Ok(None);
        };
        let address = Address::parse(&from).map_err(|why| format!("the address {why}"))?;
        let name = self.name.clone().or_else(|| address.suggested_name());
        let name = name.ok_or("the address suggests no name; give one with --name")?;
        Ok(Some(SourceSettings {
            name,
            from,
            version: Some(self.version),
            versions: Vec::new(),
            sha256: self.sha256,
            graph: self.graph.clone(),
            signature_key: self.signature_key.clone(),
            signature: self.signature.clone(),
            credentials_env: self.credentials_env.clone(),
            credentials_file: self.credentials_file.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
        }))
    }
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::try_from(text.to_owned())
}

#[derive(Subcommand)]
enum AliasCommand {
    /// Give a version a name, or move the name.
    Set {
        /// The model.
        model: String,
        /// The name.
        #[arg(value_parser = alias)]
        alias: Alias,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
    },
    /// Take a name away.
    Remove {
        /// The model.
        model: String,
        /// The name.
        #[arg(value_parser = alias)]
        alias: Alias,
    },
}

#[derive(Subcommand)]
enum CanaryCommand {
    /// Start it, in place of one that goes on.
    Start {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
        /// How many of the callers get it.
        #[arg(long, value_parser = percent)]
        percent: Percent,
        #[command(flatten)]
        bounds: BoundsArgs,
    },
    /// Change it while it goes on.
    Set {
        /// The model.
        model: String,
        /// How many of the callers get it. Who gets it now goes on getting it when there are more.
        #[arg(long, value_parser = percent)]
        percent: Option<Percent>,
        #[command(flatten)]
        bounds: BoundsArgs,
    },
    /// End it, without saying that the version is bad.
    Stop {
        /// The model.
        model: String,
    },
}

/// When a canary ends by itself.
#[derive(Args)]
struct BoundsArgs {
    /// How much more of its calls may fail; 0.02 is two of a hundred.
    #[arg(long, value_name = "PART")]
    max_error_increase: Option<f64>,
    /// How many times as long its calls may take.
    #[arg(long, value_name = "RATIO")]
    max_latency_ratio: Option<f64>,
    /// At which quantile latencies are compared.
    #[arg(long, value_name = "PART")]
    quantile: Option<f64>,
    /// How many of its calls are waited for.
    #[arg(long, value_name = "COUNT")]
    min_calls: Option<u64>,
    /// For how long a call counts.
    #[arg(long, value_parser = duration_s, value_name = "TIME")]
    window: Option<u64>,
    /// Never end it by itself.
    #[arg(long, conflicts_with_all = ["max_error_increase", "max_latency_ratio", "quantile", "min_calls", "window"])]
    no_rollback: bool,
}

impl BoundsArgs {
    /// What is given of the bounds; `None` where nothing is.
    fn given(&self) -> Option<BoundsPatch> {
        let given = BoundsPatch {
            max_error_rate_increase: self.max_error_increase.map(Some),
            max_latency_ratio: self.max_latency_ratio.map(Some),
            quantile: self.quantile,
            min_calls: self.min_calls,
            window_s: self.window,
        };
        (given != BoundsPatch::default()).then_some(given)
    }
}

fn alias(text: &str) -> Result<Alias, String> {
    Alias::try_from(text.to_owned())
}

fn target(text: &str) -> Result<Target, String> {
    Target::parse(text).ok_or_else(|| "write a version's number or an alias".to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    match target(text)? {
        Target::Version(version) => Ok(version),
        Target::Alias(_) => Err("write a version's number".to_owned()),
    }
}

fn percent(text: &str) -> Result<Percent, String> {
    let number = text.trim_end_matches('%').trim_end().parse().ok();
    let percent = number.and_then(Percent::new);
    percent.ok_or_else(|| "write a percentage from 0 to 100 with at most two decimals".to_owned())
}

fn arm(text: &str) -> Result<SplitArm, String> {
    let wrong = || "write a version or alias, =, and a weight, as stable=90".to_owned();
    let (to, weight) = text.split_once('=').ok_or_else(wrong)?;
    Ok(SplitArm {
        to: target(to)?,
        weight: weight.parse().map_err(|_| wrong())?,
    })
}

fn value(text: &str) -> Result<(String, Target), String> {
    let wrong = || "write the header's value, =, and a version or alias, as gold=2".to_owned();
    let (value, to) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok((value.to_owned(), target(to)?))
}

/// Asks for what was typed.
pub fn administer(args: ModelsArgs) -> ExitCode {
    let local = |local: &LocalArgs| PullOptions {
        app: penstock_host::AppOptions {
            app: args.app.clone(),
            models: local.models.clone(),
            policy: local.policy.clone(),
            onnxruntime: None,
            openvino: None,
            runtime_config: None,
            nn: penstock_host::app::Nn::Native,
            launcher: None,
            state_dir: args.state_dir.clone(),
        },
        json: args.json,
    };
    match &args.command {
        Command::List {
            sources: true,
            local: at,
        } => return pulls::verify(&local(at), false),
        Command::Verify { local: at } => return pulls::verify(&local(at), true),
        Command::Prune { dry_run, local: at } => return pulls::prune(&local(at), *dry_run),
        Command::Pull(pull) => {
            return match pull.source() {
                Ok(source) => pulls::pull(&local(&pull.local), source),
                Err(why) => {
                    eprintln!("error: {why}");
                    ExitCode::FAILURE
                }
            };
        }
        _ => {}
    }
    let options = RolloutOptions {
        state_dir: penstock_host::state_dir(&args.app, args.state_dir.as_deref()),
        admin: args.admin,
        json: args.json,
    };
    rollouts::run(&options, &action(args.command))
}

fn action(command: Command) -> RolloutAction {
    let (model, change) = match command {
        // The others need no server and were answered before.
        Command::List { .. }
        | Command::Pull(_)
        | Command::Verify { .. }
        | Command::Prune { .. } => {
            return RolloutAction::List;
        }
        Command::Show { model } => return RolloutAction::Show(model),
        Command::Alias(AliasCommand::Set {
            model,
            alias,
            version,
        }) => (model, Change::SetAlias { alias, version }),
        Command::Alias(AliasCommand::Remove { model, alias }) => {
            (model, Change::RemoveAlias { alias })
        }
        Command::Default { model, to } => (model, Change::SetDefault { to: Some(to) }),
        Command::Canary(CanaryCommand::Start {
            model,
            version,
            percent,
            bounds,
        }) => {
            let rollback = match bounds.no_rollback {
                true => None,
                false => Some(bounds.given().unwrap_or_default().onto(&Bounds::default())),
            };
            let start = Change::StartCanary {
                version,
                percent,
                rollback,
            };
            (model, start)
        }
        Command::Canary(CanaryCommand::Set {
            model,
            percent,
            bounds,
        }) => {
            let rollback = match bounds.no_rollback {
                true => Some(None),
                false => bounds.given().map(Some),
            };
            (model, Change::SetCanary { percent, rollback })
        }
        Command::Canary(CanaryCommand::Stop { model }) => (model, Change::StopCanary),
        Command::Promote { model, alias } => (model, Change::Promote { alias }),
        Command::Rollback { model } => (model, Change::Rollback),
        Command::Split {
            model, end: true, ..
        } => (model, Change::SetSplit { split: None }),
        Command::Split {
            model,
            arms,
            header,
            values,
            ..
        } => {
            let values: BTreeMap<String, Target> = values.into_iter().collect();
            let header = header.map(|name| ByHeader {
                name: name.to_ascii_lowercase(),
                values,
            });
            let split = Some((arms, header));
            (model, Change::SetSplit { split })
        }
        Command::Shadow {
            model,
            version,
            percent,
            ..
        } => {
            let shadow = version.map(|version| Shadow { version, percent });
            (model, Change::SetShadow { shadow })
        }
        Command::Deprecate {
            model,
            version,
            sunset_in,
            link,
            successor,
        } => {
            let since_ms = rollouts::now_ms();
            let after = |seconds: u64| since_ms.saturating_add(seconds.saturating_mul(1_000));
            let deprecated = Deprecated {
                since_ms,
                sunset_ms: sunset_in.map(after),
                link,
                successor,
            };
            let change = Change::Deprecate {
                version,
                deprecated,
            };
            (model, change)
        }
        Command::Undeprecate { model, version } => (model, Change::Undeprecate { version }),
    };
    RolloutAction::Change(model, change)
}
