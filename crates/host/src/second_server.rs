//! The store `default` of servers on one machine that use the default state directory.
//!
//! A store on disk has one user at a time. A second server therefore gets a store of its own, `default-<port>.kv`, unless the
//! operator names a place. Two rules protect the data of the first server:
//!
//! * `default.port` lists the ports of the servers that opened `default.kv`. A server on one of these ports never gets
//!   another store. If `default.kv` is in use, the server does not start.
//! * A server whose own store exists uses it again. So from its second start on, the order of starts does not matter.
//!
//! The servers share the other files of the directory: the admin token, the pepper, compiled components, pulled models.

use anyhow::Context;
use penstock_app::{StoreConfig, StoreKind};
use penstock_kv::Store;
use penstock_kv::embedded::OpenError;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The label of the store that is on disk by default.
const LABEL: &str = "default";

/// Most ports that are recorded. A state directory that so many servers used gives none of them another store.
const MAX_PORTS: usize = 64;

/// Opens stores, by label, for a server that listens on this port. The port is 0 if the system chooses it; then there is no
/// store of the server's own, because the next start would not find it.
///
/// # Errors
///
/// The first store that cannot be opened, with its label.
pub(crate) async fn open_stores(
    mut configs: BTreeMap<String, StoreConfig>,
    port: u16,
) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>> {
    let Some(default) = default_path(&configs).filter(|_| port != 0) else {
        return penstock_app::open_stores(&configs).await;
    };
    let own = default.with_file_name(format!("{LABEL}-{port}.kv"));
    let record = default.with_file_name(format!("{LABEL}.port"));
    let known = recorded(&record);
    let is_second = !known.is_empty() && known.len() < MAX_PORTS && !known.contains(&port);
    if !(is_second && own.exists()) {
        match penstock_app::open_stores(&configs).await {
            Ok(stores) => {
                if known.len() < MAX_PORTS && !known.contains(&port) {
                    remember(&record, port)
                        .with_context(|| format!("cannot write {}", record.display()))?;
                }
                return Ok(stores);
            }
            Err(error) if is_second && is_in_use(&error, &default) => {}
            Err(error) => return Err(error),
        }
    }
    tracing::warn!(
        "this server keeps its API keys, usage, operations and idempotency records in {}, apart from the first server's in {}; \
         name a place with --state-dir or --runtime-config-file, or stop both servers and delete this one's store to use the \
         first server's",
        own.display(),
        default.display()
    );
    if let Some(config) = configs.get_mut(LABEL) {
        config.kind = StoreKind::Embedded { path: own };
    }
    penstock_app::open_stores(&configs).await
}

/// The path of the default store; `None` if the runtime configuration names another store, or no component may open it.
fn default_path(configs: &BTreeMap<String, StoreConfig>) -> Option<PathBuf> {
    let config = configs.get(LABEL)?;
    match &config.kind {
        StoreKind::Embedded { path } if config.place.is_none() => Some(path.clone()),
        _ => None,
    }
}

/// The ports of the servers that opened the default store.
fn recorded(record: &Path) -> Vec<u16> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    (text.lines().take(MAX_PORTS))
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// Adds a port. The caller has the store open, so no other server writes here.
fn remember(record: &Path, port: u16) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(record)?;
    file.write_all(format!("{port}\n").as_bytes())
}

/// Whether stores could not be opened because another process has this one.
fn is_in_use(error: &anyhow::Error, path: &Path) -> bool {
    matches!(error.downcast_ref::<OpenError>(), Some(OpenError::InUse(used)) if used == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_app::RuntimeConfig;

    type Stores = BTreeMap<String, Arc<dyn Store>>;

    async fn open(state_dir: &Path, port: u16) -> anyhow::Result<Stores> {
        open_stores(RuntimeConfig::defaults(state_dir).stores, port).await
    }

    async fn count(stores: &Stores) -> i64 {
        stores[LABEL].increment("starts", 1).await.unwrap()
    }

    #[tokio::test]
    async fn a_second_server_gets_a_store_of_its_own_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), 3000).await.unwrap();
        assert_eq!(count(&first).await, 1);
        let second = open(folder.path(), 3005).await.unwrap();
        assert_eq!(count(&second).await, 1);
        drop((first, second));
        // The second server starts first.
        let second = open(folder.path(), 3005).await.unwrap();
        assert_eq!(count(&second).await, 2);
        let first = open(folder.path(), 3000).await.unwrap();
        assert_eq!(count(&first).await, 2);
    }

    #[tokio::test]
    async fn the_first_server_never_gets_an_empty_store() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), 3000).await.unwrap());
        // A free store is used on any port, as it always was. Afterwards both ports are the first server's.
        let moved = open(folder.path(), 8080).await.unwrap();
        assert!(open(folder.path(), 8080).await.is_err());
        assert!(!folder.path().join("default-8080.kv").exists());
        let error = format!("{:#}", open(folder.path(), 3000).await.err().unwrap());
        assert!(error.contains("--state-dir"), "{error}");
        drop(moved);
        open(folder.path(), 3000).await.unwrap();
        assert!(!folder.path().join("default-3000.kv").exists());
    }

    #[tokio::test]
    async fn a_server_that_waits_for_the_end_of_the_one_before_it_gets_no_other_store() {
        let folder = tempfile::tempdir().unwrap();
        let _ending = open(folder.path(), 3000).await.unwrap();
        assert!(open(folder.path(), 3000).await.is_err());
        assert!(open(folder.path(), 0).await.is_err(), "no port to keep");
    }

    #[tokio::test]
    async fn a_store_that_the_operator_named_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[key_value_store.default]\ntype = \"penstock\"\npath = \"default.kv\"\n";
        let named = || {
            let config = RuntimeConfig::parse(Path::new("runtime.toml"), text, folder.path());
            config.unwrap().stores
        };
        let _first = open_stores(named(), 3000).await.unwrap();
        assert!(open_stores(named(), 3005).await.is_err());
        assert!(!folder.path().join("default.port").exists());
    }
}
