//! Opens the stores that a configuration describes. Only this module knows their types.

use crate::runtime_config::{StoreConfig, StoreKind};
use anyhow::{Context, anyhow};
use penstock_kv::{
    EmbeddedSettings, EmbeddedStore, MemorySettings, MemoryStore, RedisSettings, RedisStore, Store,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Opens stores, by label.
///
/// # Errors
///
/// The first store that cannot be opened, with its label.
pub async fn open_stores(
    configs: &BTreeMap<String, StoreConfig>,
) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>> {
    let mut stores = BTreeMap::new();
    for (label, config) in configs {
        let store = open_one(label, &config.kind).await.with_context(|| {
            let place = config
                .place
                .as_ref()
                .map(|(file, place)| format!(" ({}:{})", file.display(), place.line));
            format!(
                "the store `{label}`{} cannot be opened",
                place.unwrap_or_default()
            )
        })?;
        stores.insert(label.clone(), store);
    }
    Ok(stores)
}

async fn open_one(label: &str, kind: &StoreKind) -> anyhow::Result<Arc<dyn Store>> {
    match kind {
        StoreKind::Embedded { path } => {
            make_folder_of(path)?;
            Ok(Arc::new(EmbeddedStore::open(EmbeddedSettings::new(path))?))
        }
        StoreKind::Memory {
            max_entries,
            max_bytes,
        } => {
            let MemorySettings {
                max_entries: entries,
                max_bytes: bytes,
            } = MemorySettings::default();
            Ok(Arc::new(MemoryStore::new(MemorySettings {
                max_entries: max_entries.unwrap_or(entries),
                max_bytes: max_bytes.unwrap_or(bytes),
            })))
        }
        StoreKind::Redis { url } => {
            let resolved = url.resolve().map_err(|problem| anyhow!(problem))?;
            let store = RedisStore::connect(RedisSettings::new(resolved, label)).await;
            Ok(Arc::new(store.with_context(|| format!("{url}"))?))
        }
    }
}

/// Creates the folder of a file, readable only by this user: the store contains callers' keys and answers.
fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| {
            format!(
                "the folder {} cannot be made; name another `path` or --state-dir",
                folder.display()
            )
        })
}
