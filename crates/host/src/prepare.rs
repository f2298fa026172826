//! Makes an application ready to serve: reads and composes it, compiles it, and opens its stores and its models.

use crate::AppOptions;
use crate::settings::Settings;
use anyhow::Context;
use penstock_app::secrets;
use penstock_app::{
    self as app, Durability, Finding, Manifest, RuntimeConfig, StoreConfig, Variables, open_stores,
};
use penstock_core::model_store;
use penstock_kv::Store;
use penstock_nn::{Backends, Repository};
use penstock_policy::auth::api_key::Pepper;
use penstock_policy::auth::token::Issuers;
use penstock_runtime::kv::{self, ModelStore, Stores};
use penstock_runtime::state::{InstanceSource, Mount};
use penstock_runtime::{Compiled, compile, nn, variables};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The path under which a gate reads the models directory.
const MODELS_MOUNT: &str = "/models";

/// The path under which components read the operator's policy, independent of its file.
pub(crate) const POLICY_FILE: &str = "/penstock.toml";

/// An application that is ready for an entry point.
pub struct Prepared {
    /// The manifest that was read.
    pub manifest: Manifest,
    /// The composed component, compiled to machine code.
    pub compiled: Compiled,
    /// The facts by which each instance is made.
    pub source: InstanceSource,
    /// The models that this host runs.
    pub repository: Arc<Repository>,
    /// The directory they are in.
    pub models: PathBuf,
    /// The inference backends, each with its version.
    pub backends: Vec<(&'static str, String)>,
    /// Whether the application asks this host to run models; if not, none are loaded.
    pub runs_models: bool,
}

/// Reads, composes and compiles an application, and opens its stores and its models directory.
pub async fn prepare(options: &AppOptions, settings: &Settings) -> anyhow::Result<Prepared> {
    prepare_with(options, settings, async |configs| {
        open_stores(&configs).await
    })
    .await
}

/// The same, with stores that the caller opens: it gets the configured ones that are granted. A label that it leaves
/// out gets `no-such-store`.
pub async fn prepare_with(
    options: &AppOptions,
    settings: &Settings,
    open: impl AsyncFnOnce(
        BTreeMap<String, StoreConfig>,
    ) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>>,
) -> anyhow::Result<Prepared> {
    let state_dir = options.state_dir();
    let manifest = Manifest::load(&options.app, options.serving).map_err(several)?;
    let root = root_component(&manifest)?.to_owned();
    let composed = app::compose(&manifest, &root, provided).map_err(several)?;
    for warning in manifest.warnings.iter().chain(&composed.warnings) {
        tracing::warn!("{warning}");
    }
    // Before the components are compiled, because that takes longer.
    let variables =
        Variables::resolve(&manifest, &root, &state_dir, &secrets::environment).map_err(several)?;
    check_auth(settings, &variables)?;
    let mut stores = stores(options, &manifest, &root, &state_dir, open).await?;
    let compiled = compile(
        &settings.instances,
        &composed.bytes,
        &composed.imports,
        &state_dir.join("cache"),
    )?;
    let app::Visible {
        directories: mut mounts,
        mut files,
    } = app::visible(&manifest, &root, &[POLICY_FILE]).map_err(several)?;
    let models = models_directory(options, &mut mounts);
    for file in files.iter_mut().filter(|f| f.guest == POLICY_FILE) {
        file.host = options.policy.clone();
    }
    let copies = copies(&files, &mut mounts)?;
    let engines = backends(options)?;
    let backends = engines.list();
    let runs_models = composed.imports.iter().any(|i| i.starts_with("wasi:nn/"));
    let mounted = mounts.iter().any(|mount| mount.guest == MODELS_MOUNT);
    let repository_settings = penstock_nn::Settings {
        launcher: options.launcher.clone(),
        ..settings.models.repository(runs_models && mounted)
    };
    let repository = Arc::new(Repository::open(&models, engines, repository_settings)?);
    // Components see the models that this host has accepted, and not the directory that the operator is changing.
    let catalogue = (runs_models && mounted).then(|| {
        mounts.retain(|mount| mount.guest != MODELS_MOUNT);
        MODELS_MOUNT.to_owned()
    });
    let environment = manifest.components[&root]
        .environment
        .clone()
        .into_iter()
        .collect();
    if runs_models {
        // If components run the models themselves, this host has no facts about them, and there is no such store.
        let store = ModelStore::new(repository.clone(), settings.models.control);
        stores.insert(
            model_store::LABEL.to_owned(),
            (Arc::new(store), Durability::default()),
        );
    }
    let granted = &manifest.components[&root].key_value_stores;
    let labels = granted.iter().map(|label| label.name.as_str());
    let stores = Stores::grant(labels, stores);
    let source = InstanceSource {
        mounts: mounts
            .into_iter()
            .map(|m| Mount {
                host: m.host,
                guest: m.guest,
            })
            .collect(),
        catalogue,
        environment,
        copies,
        repository: repository.clone(),
        stores,
        variables: Arc::new(variables),
        memory_bytes: settings.instances.memory_bytes,
        cpu_time: Duration::from_millis(settings.instances.cpu_time_ms),
    };
    Ok(Prepared {
        manifest,
        compiled,
        source,
        repository,
        models,
        backends,
        runs_models,
    })
}

/// Copies single files into a temporary folder, and mounts it at `/`. Returns `None` without any file.
fn copies(
    files: &[app::SingleFile],
    mounts: &mut Vec<app::Mount>,
) -> anyhow::Result<Option<Arc<tempfile::TempDir>>> {
    if files.is_empty() {
        return Ok(None);
    }
    let folder = tempfile::Builder::new().prefix("penstock-").tempdir()?;
    app::copy(files, folder.path())?;
    mounts.push(app::Mount {
        host: folder.path().to_owned(),
        guest: "/".to_owned(),
    });
    Ok(Some(Arc::new(folder)))
}

/// Checks the secrets that `[auth]` needs. The auth component would find the same problem at the first request.
fn check_auth(settings: &Settings, variables: &Variables) -> anyhow::Result<()> {
    let pepper = variables.get("pepper").filter(|text| !text.is_empty());
    let checked = pepper.map(|text| Pepper::new(text.as_bytes())).transpose();
    let secret = |name: &str| variables.get(name).map(str::to_owned);
    checked
        .and_then(|_| Issuers::new(&settings.auth.issuers, &settings.auth.tiers, secret))
        .map_err(|why| {
            anyhow::anyhow!("[auth] cannot be used: {why}; docs/KEYS.md describes how to set variables of the manifest")
        })?;
    Ok(())
}

/// Opens the stores that are granted to a component, by label.
async fn stores(
    options: &AppOptions,
    manifest: &Manifest,
    root: &str,
    state_dir: &Path,
    open: impl AsyncFnOnce(
        BTreeMap<String, StoreConfig>,
    ) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>>,
) -> anyhow::Result<BTreeMap<String, (Arc<dyn Store>, Durability)>> {
    let granted = &manifest.components[root].key_value_stores;
    let config =
        RuntimeConfig::load(options.runtime_config.as_deref(), state_dir).map_err(several)?;
    config.covers(&manifest.path, granted).map_err(several)?;
    let labels = || granted.iter().map(|label| label.name.as_str());
    let mut wanted = config.stores;
    wanted.retain(|label, _| labels().any(|granted| granted == label));
    let durability: BTreeMap<String, Durability> = wanted
        .iter()
        .map(|(label, store)| (label.clone(), store.durability))
        .collect();
    let opened = open(wanted).await?;
    let opened = opened.into_iter().map(|(label, store)| {
        let durability = durability.get(&label).copied().unwrap_or_default();
        (label, (store, durability))
    });
    Ok(opened.collect())
}

/// Returns the inference backends: those whose libraries were named, and tract.
pub(crate) fn backends(options: &AppOptions) -> Result<Backends, penstock_nn::NnError> {
    Backends::with(options.onnxruntime.as_deref(), options.openvino.as_deref())
}

/// Returns the component for all paths. This host serves one application with one gate.
pub(crate) fn root_component(manifest: &Manifest) -> anyhow::Result<&str> {
    manifest.route("/").with_context(|| {
        format!(
            "{}: no [[trigger.http]] has the route \"/...\"; name the component that serves all paths",
            manifest.path.display()
        )
    })
}

/// Returns the models directory: the one that the operator named, else the one that the manifest mounts.
pub(crate) fn models_directory(options: &AppOptions, mounts: &mut Vec<app::Mount>) -> PathBuf {
    let mounted = mounts.iter_mut().find(|m| m.guest == MODELS_MOUNT);
    match (&options.models, mounted) {
        (Some(named), Some(mount)) => {
            mount.host = named.clone();
            named.clone()
        }
        (Some(named), None) => {
            mounts.push(app::Mount {
                host: named.clone(),
                guest: MODELS_MOUNT.to_owned(),
            });
            named.clone()
        }
        (None, Some(mount)) => mount.host.clone(),
        (None, None) => PathBuf::from("models"),
    }
}

/// Returns whether the host provides an import.
pub(crate) fn provided(import: &str) -> bool {
    const PROVIDED: &[&str] = &[
        "wasi:cli/",
        "wasi:clocks/",
        "wasi:filesystem/",
        "wasi:http/types@0.3",
        "wasi:http/client@0.3",
        "wasi:io/",
        "wasi:nn/",
        "penstock:nn/tensors@0.1.0",
        nn::HELD,
        "wasi:random/",
        "wasi:sockets/",
    ];
    PROVIDED.iter().any(|known| import.starts_with(known))
        || kv::INTERFACES.contains(&import)
        || import == variables::INTERFACE
}

/// Joins findings into one error, each on its own lines.
pub(crate) fn several(findings: Vec<Finding>) -> anyhow::Error {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("the application cannot be served:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_provided_in_the_versions_there_are_and_no_other() {
        for import in kv::INTERFACES {
            assert!(provided(import), "{import}");
        }
        assert!(provided(variables::INTERFACE));
        for import in [
            "wasi:keyvalue/watcher@0.2.0-draft2",
            "wasi:keyvalue/store@0.2.0-draft",
            "fermyon:spin/key-value@3.0.0",
            "fermyon:spin/sqlite@2.0.0",
            "fermyon:spin/variables@3.0.0",
            "spin:key-value/key-value@4.0.0",
        ] {
            assert!(!provided(import), "{import}");
        }
    }
}
