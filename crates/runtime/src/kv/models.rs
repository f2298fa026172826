//! Decides the answers of the store `models`. It keeps no entries. It reports this host's facts about its models, and
//! loads and unloads them. [`penstock_core::model_store`] defines the names of its entries.
//!
//! It is a store so that a component reaches it by the interfaces that every host has, with a grant like any other.
//! Without such a store, the component learns that. Its operation is complete when `set` returns, or continues without
//! the caller after [`LOAD_WAIT`].

use penstock_core::model_store::{LABEL, ModelEntry, ModelFault};
use penstock_kv::{Page, Position, Reply, Store, StoreError, Swap};
use penstock_nn::{Repository, Unavailable, protocol};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a load or an unload: less than the default time of a request, so that its caller learns the result.
/// The operation continues after that.
const LOAD_WAIT: Duration = Duration::from_secs(25);

/// The models of this host, as a store.
pub struct ModelStore {
    repository: Arc<Repository>,
    /// Whether components may load and unload.
    control: bool,
}

impl ModelStore {
    /// Creates the store of a repository. `control` allows loading and unloading.
    pub fn new(repository: Arc<Repository>, control: bool) -> Self {
        Self {
            repository,
            control,
        }
    }

    fn read(&self, kv_key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = match ModelEntry::parse(kv_key) {
            Some(ModelEntry::Index { ready }) => {
                Some(protocol::index(&self.repository.index(), ready))
            }
            Some(ModelEntry::Statistics { model, version }) => {
                match self.repository.statistics(model, version) {
                    Ok(versions) => Some(protocol::statistics(&versions)),
                    Err(_) => None,
                }
            }
            Some(ModelEntry::Load(_) | ModelEntry::Unload(_)) | None => {
                return Err(not_served(
                    "it reads `index`, `index/ready` and `statistics`",
                ));
            }
        };
        Ok(value.as_ref().map(Value::to_string).map(String::into_bytes))
    }

    async fn act(&self, kv_key: &str) -> Result<(), StoreError> {
        let act = match ModelEntry::parse(kv_key) {
            Some(act @ (ModelEntry::Load(_) | ModelEntry::Unload(_))) => act,
            _ => return Err(not_served("it sets `load/<model>` and `unload/<model>`")),
        };
        if !self.control {
            return Err(refused(
                ModelFault::FailedPrecondition,
                "this server does not load or unload models on request; the operator allows it with control = true \
                 under [models]",
            ));
        }
        let done = async {
            match act {
                ModelEntry::Load(model) => self.repository.load(model).await,
                ModelEntry::Unload(model) => self.repository.unload(model).await,
                _ => Ok(()),
            }
        };
        match tokio::time::timeout(LOAD_WAIT, done).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(unavailable)) => {
                let fault = match &unavailable {
                    Unavailable::UnknownModel(_) | Unavailable::UnknownVersion(_) => {
                        ModelFault::NotFound
                    }
                    Unavailable::Loading(_) | Unavailable::Failed(_) | Unavailable::Unloaded(_) => {
                        ModelFault::FailedPrecondition
                    }
                };
                Err(refused(fault, unavailable.message()))
            }
            Err(_) => Err(refused(
                ModelFault::Failed,
                &format!(
                    "the operation did not finish within {} s and continues; the repository's index shows when it is done",
                    LOAD_WAIT.as_secs()
                ),
            )),
        }
    }
}

fn refused(fault: ModelFault, message: &str) -> StoreError {
    StoreError::Refused(fault.say(message))
}

fn not_served(what: &str) -> StoreError {
    refused(
        ModelFault::Failed,
        &format!("the store `{LABEL}` has no such entry or operation: {what}"),
    )
}

/// The reply to operations that other stores have and this one does not.
fn never<'a, T>() -> Reply<'a, T> {
    Reply::ready(Err(not_served("it is read with get, and set")))
}

impl Store for ModelStore {
    fn describe(&self) -> String {
        let control = if self.control {
            "loaded and unloaded on request"
        } else {
            "read only"
        };
        format!("the models of this server, {control}")
    }

    fn get<'a>(&'a self, kv_key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        Reply::ready(self.read(kv_key))
    }

    fn get_many<'a>(&'a self, kv_keys: &'a [String]) -> Reply<'a, Vec<Option<Vec<u8>>>> {
        Reply::ready(kv_keys.iter().map(|kv_key| self.read(kv_key)).collect())
    }

    fn exists<'a>(&'a self, kv_key: &'a str) -> Reply<'a, bool> {
        Reply::ready(match ModelEntry::parse(kv_key) {
            Some(ModelEntry::Index { .. }) => Ok(true),
            Some(ModelEntry::Statistics { model, version }) => {
                Ok(self.repository.statistics(model, version).is_ok())
            }
            _ => self.read(kv_key).map(|found| found.is_some()),
        })
    }

    fn set<'a>(&'a self, kv_key: &'a str, _value: &'a [u8]) -> Reply<'a, ()> {
        Reply::later(self.act(kv_key))
    }

    fn set_many<'a>(&'a self, entries: &'a [(String, Vec<u8>)]) -> Reply<'a, ()> {
        match entries {
            [(kv_key, value)] => self.set(kv_key, value),
            // Each may take as long as a request.
            _ => Reply::ready(Err(not_served("models are loaded one at a time"))),
        }
    }

    fn delete<'a>(&'a self, _kv_key: &'a str) -> Reply<'a, ()> {
        never()
    }

    fn delete_many<'a>(&'a self, _kv_keys: &'a [String]) -> Reply<'a, ()> {
        never()
    }

    fn increment<'a>(&'a self, _kv_key: &'a str, _delta: i64) -> Reply<'a, i64> {
        never()
    }

    fn compare_and_swap<'a>(
        &'a self,
        _kv_key: &'a str,
        _expected: Option<&'a [u8]>,
        _value: &'a [u8],
    ) -> Reply<'a, Swap> {
        never()
    }

    fn list<'a>(&'a self, _cursor: Option<&'a str>) -> Reply<'a, Page> {
        never()
    }

    fn position(&self) -> Position {
        Position::default()
    }

    fn durable<'a>(&'a self, _up_to: Position) -> Reply<'a, ()> {
        // Nothing is stored, so nothing can be lost.
        Reply::ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_nn::Backends;
    use std::path::Path;

    const CONTRACT: &str = r#"description = "Tells nothing"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 4]
[[outputs]]
name = "b"
datatype = "FP32"
shape = ["N", 4]
"#;

    /// `identity`, `broken`, whose graph is none, and a store over them.
    fn store(folder: &Path, control: bool) -> ModelStore {
        let identity =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/identity/1/model.onnx");
        let graph = std::fs::read(identity).expect("the repository has it");
        for (name, graph) in [("identity", &graph[..]), ("broken", b"not a graph")] {
            let model = folder.join(name);
            std::fs::create_dir_all(model.join("1")).unwrap();
            std::fs::write(model.join("model.toml"), CONTRACT).unwrap();
            std::fs::write(model.join("1/model.onnx"), graph).unwrap();
        }
        let settings = penstock_nn::Settings::default();
        let repository = Repository::open(folder, Backends::builtin(), settings).expect("opens");
        ModelStore::new(Arc::new(repository), control)
    }

    async fn json(store: &ModelStore, kv_key: &str) -> Option<Value> {
        let text = store.get(kv_key).await.expect("it is an entry")?;
        Some(serde_json::from_slice(&text).expect("it is JSON"))
    }

    fn words<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> (ModelFault, String) {
        match answer.expect_err("it is refused") {
            StoreError::Refused(words) => {
                let (fault, message) = ModelFault::parse(&words);
                (fault, message.to_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_facts_about_models_are_read_and_unknown_names_are_absent() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), false);
        store.repository.load_all(|_| {}).await;
        let index = json(&store, "index").await.unwrap();
        assert_eq!(index[0]["name"], "broken");
        assert_eq!(index[0]["state"], "UNAVAILABLE");
        assert!(!index[0]["reason"].as_str().unwrap().is_empty());
        let ready = json(&store, "index/ready").await.unwrap();
        assert_eq!(
            ready,
            serde_json::json!([{ "name": "identity", "version": "1", "state": "READY", "reason": "" }])
        );
        for (kv_key, there) in [
            ("statistics", Some(2)),
            ("statistics/identity", Some(1)),
            ("statistics/identity/1", Some(1)),
            ("statistics/identity/2", None),
            ("statistics/identity/x", None),
            ("statistics/nobody", None),
            ("statistics/..", None),
        ] {
            let found = json(&store, kv_key).await;
            let listed = found.map(|all| all["model_stats"].as_array().unwrap().len());
            assert_eq!(listed, there, "{kv_key}");
            assert_eq!(store.exists(kv_key).await, Ok(there.is_some()), "{kv_key}");
        }
        assert_eq!(store.exists("index").await, Ok(true));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn models_are_loaded_and_unloaded_and_what_cannot_be_has_its_word() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), true);
        store.repository.load_all(|_| {}).await;
        let ready = async || {
            json(&store, "index/ready")
                .await
                .unwrap()
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(ready().await, 1);
        store.set("unload/identity", b"").await.expect("unloads");
        assert_eq!(ready().await, 0);
        let resting = json(&store, "statistics/identity").await.unwrap();
        assert_eq!(resting["model_stats"][0]["inference_count"], 0);
        store.set("load/identity", b"").await.expect("loads");
        assert_eq!(ready().await, 1);
        let (fault, message) = words(store.set("load/nobody", b"").await);
        assert_eq!(fault, ModelFault::NotFound);
        assert!(message.contains("identity"), "{message}");
        for name in ["unload/nobody", "load/..", "unload/.."] {
            assert_eq!(
                words(store.set(name, b"").await).0,
                ModelFault::NotFound,
                "{name}"
            );
        }
        let (fault, message) = words(store.set("load/broken", b"").await);
        assert_eq!(fault, ModelFault::FailedPrecondition);
        assert!(
            !message.contains(&*folder.path().to_string_lossy()),
            "{message}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_that_the_operator_does_not_allow_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), false);
        store.repository.load_all(|_| {}).await;
        for name in ["unload/identity", "load/identity", "load/nobody"] {
            let (fault, message) = words(store.set(name, b"").await);
            assert_eq!(fault, ModelFault::FailedPrecondition, "{name}");
            assert!(message.contains("control = true"), "{message}");
        }
        let ready = json(&store, "index/ready").await.unwrap();
        assert_eq!(ready[0]["name"], "identity");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), true);
        for name in [
            "",
            "index/",
            "load/identity",
            "unload/identity",
            "default",
            "load/a/b",
        ] {
            assert_eq!(words(store.get(name).await).0, ModelFault::Failed, "{name}");
            assert_eq!(
                words(store.exists(name).await).0,
                ModelFault::Failed,
                "{name}"
            );
        }
        for name in ["", "index", "statistics", "load/", "unload/a/b", "x"] {
            assert_eq!(
                words(store.set(name, b"1").await).0,
                ModelFault::Failed,
                "{name}"
            );
        }
        assert_eq!(words(store.delete("index").await).0, ModelFault::Failed);
        assert_eq!(words(store.delete_many(&[]).await).0, ModelFault::Failed);
        assert_eq!(
            words(store.increment("index", 0).await).0,
            ModelFault::Failed
        );
        assert_eq!(words(store.list(None).await).0, ModelFault::Failed);
        let swapped = store.compare_and_swap("load/identity", None, b"").await;
        assert_eq!(words(swapped).0, ModelFault::Failed);
        let two = ["load/identity", "load/broken"].map(|name| (name.to_owned(), Vec::new()));
        assert_eq!(words(store.set_many(&two).await).0, ModelFault::Failed);
        assert_eq!(store.durable(store.position()).await, Ok(()));
    }
}
