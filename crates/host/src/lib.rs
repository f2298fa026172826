//! The native host: reads the manifest Spin reads, composes and compiles its components, and serves
//! them over HTTP with native models behind `wasi:nn`.
//!
//! * [`app`]: what is served: manifest, composition, compilation;
//! * [`settings`]: what the operator decides;
//! * [`access`]: what to warn of in who may call;
//! * [`engine`], [`state`]: how a guest runs and what it may use;
//! * `nn`: `wasi:nn` for guests; [`cancellation`]: tells that a caller is gone;
//! * [`kv`]: key-value stores for guests;
//! * `linker`: which interfaces a component may import;
//! * [`doors`]: pools of instances and the ways into them;
//! * [`variables`], [`secrets`]: what components and the host are told in confidence;
//! * [`server`]: connections and requests; [`tls`]: its certificate; [`proxies`]: who is the client behind them;
//! * [`admin`]: the connections and requests of who administers keys;
//! * [`audit`]: who asked for what, for later;
//! * [`jwks`]: the key sets of those who issue tokens;
//! * [`pulls`]: models from elsewhere;
//! * [`up`], [`check`], [`init`], [`usage`], [`keys`], [`rollouts`]: the commands.

pub mod access;
pub mod admin;
pub mod app;
mod ask;
pub mod audit;
pub mod cancellation;
pub mod check;
pub mod doors;
mod ending;
pub mod engine;
mod guest_log;
mod held;
mod https;
pub mod init;
pub mod jwks;
pub mod keys;
pub mod kv;
mod linker;
pub mod log;
mod nn;
mod prepare;
pub mod proxies;
pub mod pulls;
mod request;
pub mod rollouts;
pub mod secrets;
pub mod server;
pub mod settings;
pub mod state;
pub mod tls;
pub mod up;
pub mod usage;
pub mod variables;

pub use penstock_nn::worker::Launcher;
pub use penstock_nn::worker::main as worker;
use std::path::{Path, PathBuf};

/// What `up` and `check` look at.
#[derive(Clone, Debug)]
pub struct AppOptions {
    /// The manifest.
    pub app: PathBuf,
    /// The models directory, where it is not the manifest's.
    pub models: Option<PathBuf>,
    /// The operator's policy.
    pub policy: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: Option<PathBuf>,
    /// The OpenVINO library.
    pub openvino: Option<PathBuf>,
    /// Which store each label stands for, where it is not the defaults.
    pub runtime_config: Option<PathBuf>,
    /// Where models run: natively, or in the component that a host without `wasi:nn` would serve.
    pub nn: app::Nn,
    /// Where compiled components and stores are kept, where it is not beside the manifest.
    pub state_dir: Option<PathBuf>,
    /// Starts this program as a child that runs a model; without it, models run in this process alone.
    pub launcher: Option<Launcher>,
}

/// The folder beside the manifest where state is kept, as Spin's is `.spin`.
const DEFAULT_STATE_DIR: &str = ".penstock";

impl AppOptions {
    /// Where compiled components and stores are kept.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.app, self.state_dir.as_deref())
    }
}

/// The state directory of an application: the one that was named, or the one beside its manifest.
pub fn state_dir(app: &Path, named: Option<&Path>) -> PathBuf {
    let beside = app.parent().unwrap_or(Path::new(""));
    named.map_or_else(|| beside.join(DEFAULT_STATE_DIR), Path::to_owned)
}

/// What is built in, a line each, for `penstock version`.
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
