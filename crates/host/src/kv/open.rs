//! Makes the stores that a configuration describes: the one place that knows their types.

use super::{StoreConfig, StoreKind};
use anyhow::{Context, anyhow, bail};
use penstock_kv::Store;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Opens stores, by label.
///
/// # Errors
///
/// The first that cannot be opened, with its label.
pub async fn open(
    configs: &BTreeMap<String, StoreConfig>,
) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>> {
    let mut stores = BTreeMap::new();
    for (label, config) in configs {
        let store = open_one(&config.kind).await.with_context(|| {
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

async fn open_one(kind: &StoreKind) -> anyhow::Result<Arc<dyn Store>> {
    match kind {
        StoreKind::Embedded { path } => {
            make_folder_of(path)?;
            bail!("embedded stores are not built yet")
        }
        StoreKind::Memory {
            max_entries: _,
            max_bytes: _,
        } => bail!("stores in memory are not built yet"),
        StoreKind::Redis { url } => {
            let _url = url.resolve().map_err(|problem| anyhow!(problem))?;
            bail!("stores on {url} are not built yet")
        }
    }
}

/// Makes the folder of a file, readable to nobody else: callers' keys and answers are kept in it.
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
