//! The arguments of `penstock models`, and the actions that they request.

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
    /// The URL of a running server's admin API.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_ADMIN",
        default_value = "http://127.0.0.1:3001",
        value_name = "URL"
    )]
    admin: String,
    /// The application manifest. The default state directory is beside it.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_APP",
        default_value = "spin.toml",
        value_name = "FILE"
    )]
    app: PathBuf,
    /// The directory of the server's secrets. Default: `.penstock` beside the manifest.
    #[arg(long, global = true, env = "PENSTOCK_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the models, their versions and their rollouts.
    List {
        /// List the pulled models, their sources and their pins. Contacts no server.
        #[arg(long)]
        sources: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Pull a model from a folder, an https URL, S3, an OCI registry or a Hugging Face hub.
    Pull(Box<PullArgs>),
    /// Read the files of pulled models, and report the files that differ from the pulled ones.
    Verify {
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Remove files from the cache that no installed model and no source in the policy needs.
    Prune {
        /// Remove nothing. Print the files that would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Show one model, its rollout and the results of its canary.
    Show {
        /// The model.
        model: String,
    },
    /// Set and remove aliases of versions.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Set the version for calls that name none.
    Default {
        /// The model.
        model: String,
        /// A version or an alias; `latest` is the highest version that is ready.
        #[arg(value_parser = target)]
        to: Target,
    },
    /// Start, change or stop a canary: a version that some callers get.
    #[command(subcommand)]
    Canary(CanaryCommand),
    /// Give the canary's version to all callers.
    Promote {
        /// The model.
        model: String,
        /// The alias to move. Default: the alias that is the model's default, or else the default itself.
        #[arg(long, value_parser = alias)]
        alias: Option<Alias>,
    },
    /// End the canary and record that its version is bad.
    Rollback {
        /// The model.
        model: String,
    },
    /// Share the callers between versions, for an A/B test.
    Split {
        /// The model.
        model: String,
        /// A version or alias, and its share of the callers relative to the other arms.
        #[arg(long = "arm", value_parser = arm, value_name = "VERSION=WEIGHT", required_unless_present_any = ["header", "end"])]
        arms: Vec<SplitArm>,
        /// The request header that selects the version.
        #[arg(long, value_name = "NAME", requires = "values")]
        header: Option<String>,
        /// A value of that header, and the version or alias that it selects.
        #[arg(long = "value", value_parser = value, value_name = "VALUE=VERSION", requires = "header")]
        values: Vec<(String, Target)>,
        /// End the split.
        #[arg(long, conflicts_with_all = ["arms", "header"])]
        end: bool,
    },
    /// Run another version on the same inputs, and compare its outputs with the answers.
    Shadow {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version, required_unless_present = "end")]
        version: Option<Version>,
        /// The percentage of calls that the version also runs.
        #[arg(long, value_parser = percent, default_value = "100")]
        percent: Percent,
        /// End the shadow runs.
        #[arg(long, conflicts_with = "version")]
        end: bool,
    },
    /// Mark a version as deprecated, with an optional end and successor.
    Deprecate {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
        /// The time until the version stops answering, such as 30d. Default: it never stops.
        #[arg(long, value_parser = duration_s, value_name = "TIME")]
        sunset_in: Option<u64>,
        /// The URL of a page with more information.
        #[arg(long, value_name = "URL")]
        link: Option<String>,
        /// The version or alias that replaces it.
        #[arg(long, value_parser = target, value_name = "VERSION")]
        successor: Option<Target>,
    },
    /// Withdraw the deprecation of a version.
    Undeprecate {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
    },
}

/// The places of the models and the policy.
#[derive(Args)]
struct LocalArgs {
    /// The models directory. Default: the directory that the manifest mounts at /models.
    #[arg(long, env = "PENSTOCK_MODELS", value_name = "DIR")]
    models: Option<PathBuf>,
    /// The operator's policy file, with [[models.sources]] and [models.pull].
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
    /// A folder or file, https://…, s3://bucket/key, oci://registry/repository:tag or hf://owner/name@revision. Default:
    /// all [[models.sources]] of the policy.
    from: Option<String>,
    /// The name of the installed model. Default: the last part of the address.
    #[arg(long, value_name = "NAME", requires = "from")]
    name: Option<String>,
    /// The number of the installed version.
    #[arg(long, default_value_t = 1, value_name = "NUMBER", requires = "from")]
    version: u64,
    /// The required SHA-256 of the file, the archive or the OCI manifest, or the sum that an earlier pull printed.
    #[arg(long, value_parser = digest, value_name = "SUM", requires = "from")]
    sha256: Option<Digest>,
    /// The path of the graph in the source. Needed if there are several graphs.
    #[arg(long, value_name = "PATH", requires = "from")]
    graph: Option<String>,
    /// The minisign public key of the required signature, or a file with the key.
    #[arg(long, value_name = "KEY", requires = "from")]
    signature_key: Option<String>,
    /// The address of the signature. Default: the source's address followed by .minisig.
    #[arg(long, value_name = "ADDRESS", requires = "signature_key")]
    signature: Option<String>,
    /// The environment variable with the credentials: user:password, a token, or the two S3 keys.
    #[arg(long, value_name = "VARIABLE", requires = "from")]
    credentials_env: Option<String>,
    /// The file with the credentials.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "credentials_env",
        requires = "from"
    )]
    credentials_file: Option<PathBuf>,
    /// The URL of the S3 endpoint or the Hugging Face hub.
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
    /// Set an alias, or move it to another version.
    Set {
        /// The model.
        model: String,
        /// The alias.
        #[arg(value_parser = alias)]
        alias: Alias,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
    },
    /// Remove an alias.
    Remove {
        /// The model.
        model: String,
        /// The alias.
        #[arg(value_parser = alias)]
        alias: Alias,
    },
}

#[derive(Subcommand)]
enum CanaryCommand {
    /// Start a canary. It replaces a running one.
    Start {
        /// The model.
        model: String,
        /// The version.
        #[arg(value_parser = version)]
        version: Version,
        /// The percentage of callers that get the version.
        #[arg(long, value_parser = percent)]
        percent: Percent,
        #[command(flatten)]
        bounds: BoundsArgs,
    },
    /// Change a running canary.
    Set {
        /// The model.
        model: String,
        /// The percentage of callers that get the version. If it grows, the present callers keep the version.
        #[arg(long, value_parser = percent)]
        percent: Option<Percent>,
        #[command(flatten)]
        bounds: BoundsArgs,
    },
    /// End a canary without recording that its version is bad.
    Stop {
        /// The model.
        model: String,
    },
}

/// The bounds at which a canary rolls back automatically.
#[derive(Args)]
struct BoundsArgs {
    /// The permitted increase of the error rate; 0.02 is two more failures in a hundred calls.
    #[arg(long, value_name = "PART")]
    max_error_increase: Option<f64>,
    /// The permitted latency relative to the stable version; 1.5 is half as long again.
    #[arg(long, value_name = "RATIO")]
    max_latency_ratio: Option<f64>,
    /// The quantile at which latencies are compared, such as 0.95.
    #[arg(long, value_name = "PART")]
    quantile: Option<f64>,
    /// The number of canary calls before the first comparison.
    #[arg(long, value_name = "COUNT")]
    min_calls: Option<u64>,
    /// Time for which a call counts in the comparison.
    #[arg(long, value_parser = duration_s, value_name = "TIME")]
    window: Option<u64>,
    /// Never roll back automatically.
    #[arg(long, conflicts_with_all = ["max_error_increase", "max_latency_ratio", "quantile", "min_calls", "window"])]
    no_rollback: bool,
}

impl BoundsArgs {
    /// Returns the bounds that were given, or `None` if none was.
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

/// Performs the command that was typed.
pub fn administer(args: ModelsArgs) -> ExitCode {
    let local = |local: &LocalArgs| PullOptions {
        app: penstock_host::AppOptions {
            app: args.app.clone(),
            models: local.models.clone(),
            policy: local.policy.clone(),
            onnxruntime: None,
            openvino: None,
            runtime_config: None,
            serving: penstock_host::app::Serving::default(),
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

/// Returns the model and the change of a command for canaries.
fn canary(command: CanaryCommand) -> (String, Change) {
    match command {
        CanaryCommand::Start {
            model,
            version,
            percent,
            bounds,
        } => {
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
        CanaryCommand::Set {
            model,
            percent,
            bounds,
        } => {
            let rollback = match bounds.no_rollback {
                true => Some(None),
                false => bounds.given().map(Some),
            };
            (model, Change::SetCanary { percent, rollback })
        }
        CanaryCommand::Stop { model } => (model, Change::StopCanary),
    }
}

fn action(command: Command) -> RolloutAction {
    let (model, change) = match command {
        // The other commands need no server. `administer` has answered them.
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
        Command::Canary(command) => canary(command),
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
