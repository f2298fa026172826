//! The native host: the commands that serve an application, check it and set it up. It wires the crates that do the work:
//! `penstock-app` reads the application, `penstock-runtime` runs its component, `penstock-server` and `penstock-admin` listen,
//! `penstock-nn` runs the models, and `penstock-sources` pulls them.
//!
//! * [`up`], [`check`], [`init`], [`usage`], [`pulls`]: the commands; `prepare`: makes an application ready to serve;
//! * [`settings`]: the operator's settings in `penstock.toml`; [`access`]: warnings about access;
//! * [`jwks`]: the key sets of token issuers; `https`: requests to other servers;
//! * `operations`: the unfinished operations of the store; `webhooks`: tells callers' servers of operations that end;
//! * `guess`: the adapter that a model's files suggest, for `init`;
//! * `metrics`: what is measured of this server, its models and its process;
//! * `listen`: the addresses that a server listens on; `second_server`: the store of a second server on one machine;
//! * `signals`, `ending`: how the process ends;
//! * [`log`]: the destination of log lines; `model_events`: log lines about the models.

pub mod access;
pub mod check;
mod ending;
mod guess;
mod https;
pub mod init;
mod init_print;
mod init_source;
pub mod jwks;
mod listen;
pub mod log;
mod metrics;
mod model_events;
mod operations;
mod prepare;
pub mod pulls;
mod second_server;
pub mod settings;
mod signals;
pub mod up;
pub mod usage;
mod webhooks;

pub use penstock_admin::{self as admin, keys_command as keys, rollouts_command as rollouts};
pub use penstock_app as app;
pub use penstock_nn::worker::Launcher;
pub use penstock_nn::worker::main as worker;
pub use penstock_runtime::{compile, engine, entry_points, kv, nn};
pub use penstock_server as server;
use std::path::{Path, PathBuf};

/// The options of `up` and `check`.
#[derive(Clone, Debug)]
pub struct AppOptions {
    /// The path of the manifest.
    pub app: PathBuf,
    /// The models directory, if it is not the manifest's.
    pub models: Option<PathBuf>,
    /// The path of the operator's policy, `penstock.toml`.
    pub policy: PathBuf,
    /// The path of the ONNX Runtime library, if the operator named one.
    pub onnxruntime: Option<PathBuf>,
    /// The path of the OpenVINO library, if the operator named one.
    pub openvino: Option<PathBuf>,
    /// The runtime configuration with the store of each label, if it is not the default.
    pub runtime_config: Option<PathBuf>,
    /// The engine that runs the models, and the entry point for requests.
    pub serving: app::Serving,
    /// The directory of compiled components and stores, if it is not beside the manifest.
    pub state_dir: Option<PathBuf>,
    /// Starts this program as a child that runs a model. Without it, models run only in this process.
    pub launcher: Option<Launcher>,
}

/// The folder beside the manifest where state is kept, as Spin's is `.spin`.
const DEFAULT_STATE_DIR: &str = ".penstock";

impl AppOptions {
    /// The directory of compiled components and stores.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.app, self.state_dir.as_deref())
    }
}

/// The state directory of an application: the one that was named, or the one beside its manifest.
pub fn state_dir(app: &Path, named: Option<&Path>) -> PathBuf {
    let beside = app.parent().unwrap_or(Path::new(""));
    named.map_or_else(|| beside.join(DEFAULT_STATE_DIR), Path::to_owned)
}

/// Returns the built-in parts, one line each, for `penstock version`.
pub fn built_in() -> Vec<String> {
    vec![
        "wasmtime 48 (component model, async)".to_owned(),
        format!(
            "inference backends: {}; onnxruntime and openvino where --onnxruntime and --openvino name their libraries",
            listed()
        ),
        "interfaces: penstock:*@0.1.0, wasi:nn@0.2.0-rc-2024-10-28, wasi:http@0.3.0, \
         wasi:keyvalue@0.2.0-draft2, fermyon:spin/key-value@2.0.0, spin:key-value@3.0.0, \
         fermyon:spin/variables@2.0.0"
            .to_owned(),
    ]
}

fn listed() -> String {
    let built_in = penstock_nn::Backends::builtin().list();
    let names: Vec<String> = built_in
        .into_iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    names.join(", ")
}
