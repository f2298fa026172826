//! The models directory while its files change, models are loaded and unloaded, and the memory is bounded.

use crate::repository_common::{Models, runtime};
use crate::support;
use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::repository::IndexEntry;
use penstock_nn::{
    Backend, Backends, GraphSource, Handle, LoadOptions, NnError, Repository, Session, Settings,
    Unavailable,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{VECTOR, fp32};

/// A repository that follows its directory, on a scripted backend. It takes graphs for broken that say so.
struct Live {
    models: Models,
    repository: Repository,
    runtime: tokio::runtime::Runtime,
}

/// Short, for short tests; and still several times the time of a scan.
const POLL: Duration = Duration::from_millis(20);

impl Live {
    fn new(files: &[(&str, &str)], backend: Scripted, settings: Settings) -> Self {
        let models = Models::new();
        for (path, content) in files {
            models.file(path, content);
        }
        let backends = Backends::builtin().prefer(Arc::new(Choosy(backend)));
        let repository = Repository::open(&models.0, backends, settings).unwrap();
        let runtime = runtime();
        runtime.block_on(repository.load_all(|_| {}));
        let run = repository.clone();
        runtime.spawn(async move { run.run(Some(POLL)).await });
        Self {
            models,
            repository,
            runtime,
        }
    }

    /// Waits until it is so.
    fn until(&self, what: &str, so: impl Fn(&Repository) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !so(&self.repository) {
            assert!(
                Instant::now() < deadline,
                "never {what}: {:#?}",
                self.repository.index()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn infer(&self, handle: &Handle) -> Result<String, String> {
        self.runtime.block_on(infer(handle))
    }

    fn entry(&self, model: &str, version: u64) -> IndexEntry {
        let index = self.repository.index();
        let found = index
            .iter()
            .find(|entry| entry.model == model && entry.version == version);
        found
            .unwrap_or_else(|| panic!("no {model} {version} in {index:#?}"))
            .clone()
    }

    fn entries(&self) -> usize {
        self.repository.index().len()
    }

    fn guests_see(&self) -> Vec<String> {
        let snapshot = self.repository.snapshot().expect("one is published");
        let mut seen = Vec::new();
        let mut left = vec![snapshot.path().to_path_buf()];
        // Held by the snapshot above, so it is there for as long as this looks.
        while let Some(dir) = left.pop() {
            for item in std::fs::read_dir(dir).unwrap().flatten() {
                let path = item.path();
                let name = path
                    .strip_prefix(snapshot.path())
                    .unwrap()
                    .display()
                    .to_string();
                if path.is_dir() {
                    left.push(path);
                }
                seen.push(name);
            }
        }
        seen.sort();
        seen
    }
}

/// Calls once and says which version answered.
async fn infer(handle: &Handle) -> Result<String, String> {
    let model = handle.model().await.map_err(|error| error.to_string())?;
    let inputs = vec![("x".into(), fp32(&[1], &[1.0]))];
    let answered = model
        .infer(inputs)
        .await
        .map_err(|error| error.to_string())?;
    assert_eq!(answered[0].1.dims, [1]);
    Ok(model.version().to_owned())
}

/// The scripted backend, for graphs whose bytes do not say that they are broken.
struct Choosy(Scripted);

impl Backend for Choosy {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn version(&self) -> String {
        self.0.version()
    }
    fn load(
        &self,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        let GraphSource::File(path) = graph else {
            panic!("a repository loads files")
        };
        let bytes = std::fs::read(path).unwrap();
        if bytes.starts_with(b"broken") {
            return Err(NnError::invalid("it is broken"));
        }
        self.0.load(graph, options)
    }
}

fn publishing() -> Settings {
    Settings {
        publish: true,
        ..Settings::default()
    }
}

#[test]
fn versions_and_models_come_change_and_go_with_their_files() {
    let live = Live::new(
        &[("m/model.toml", VECTOR), ("m/1/model.onnx", "one")],
        Scripted::echo(),
        publishing(),
    );
    let handle = live.repository.handle("m", None).unwrap();
    let first = live.repository.handle("m", Some("1")).unwrap();
    assert_eq!(live.infer(&handle).unwrap(), "1");
    assert_eq!(live.guests_see(), ["m", "m/1", "m/model.toml"]);
    let generation = live.repository.generation();
    // A version that is broken is listed, with why, and changes nothing else.
    live.models.file("m/2/model.onnx", "broken");
    live.until("failed", |r| r.readiness().failed == 1);
    assert_eq!(live.infer(&handle).unwrap(), "1");
    assert!(live.entry("m", 2).reason.unwrap().contains("it is broken"));
    assert_eq!(live.guests_see(), ["m", "m/1", "m/model.toml"]);
    assert_eq!(live.repository.generation(), generation);
    // Mended, it is the default.
    live.models.file("m/2/model.onnx", "two");
    live.until("ready", |_| live.infer(&handle).unwrap() == "2");
    assert_eq!(
        (live.infer(&handle).unwrap(), live.infer(&first).unwrap()),
        ("2".into(), "1".into())
    );
    // Guests see it a moment after the engine has it, never before.
    live.until("seen", |_| {
        live.guests_see() == ["m", "m/1", "m/2", "m/model.toml"]
    });
    assert!(live.repository.generation() > generation);
    // A graph that is replaced by a broken one serves on, and says so.
    live.models.file("m/2/model.onnx", "broken too");
    live.until("kept", |_| live.entry("m", 2).reason.is_some());
    assert_eq!(
        (live.entry("m", 2).state, live.infer(&handle).unwrap()),
        ("READY", "2".into())
    );
    // A model that is added, and one that goes.
    live.models
        .file("n/model.toml", VECTOR)
        .file("n/7/model.onnx", "seven");
    live.until("added", |r| r.handle("n", None).is_ok());
    std::fs::remove_dir_all(live.models.0.join("m")).unwrap();
    live.until("removed", |r| {
        matches!(r.handle("m", None), Err(Unavailable::UnknownModel(_)))
    });
    assert!(live.infer(&handle).unwrap_err().contains("no model \"m\""));
    live.until("seen", |_| {
        live.guests_see() == ["n", "n/7", "n/model.toml"]
    });
}

#[test]
fn guests_see_a_contract_when_the_engine_has_taken_it_and_requests_under_way_keep_theirs() {
    let live = Live::new(
        &[("m/model.toml", VECTOR), ("m/1/model.onnx", "one")],
        Scripted::echo(),
        publishing(),
    );
    let text = |r: &Repository| {
        std::fs::read_to_string(r.snapshot().unwrap().path().join("m/model.toml")).unwrap()
    };
    let old = live.repository.snapshot().unwrap();
    let under_way = live
        .repository
        .handle_in(Some(&old), "m", Some("1"))
        .unwrap();
    let serving = live.runtime.block_on(under_way.model()).ok().unwrap();
    let instances = serving.instances();
    drop(serving);
    // A contract that the graph does not meet is refused, and so is a text that is no contract.
    live.models
        .file("m/model.toml", VECTOR.replace("FP32", "INT64"));
    live.until("refused", |_| live.entry("m", 1).reason.is_some());
    live.models.file("m/model.toml", "format = ");
    live.until("unreadable", |_| {
        live.entry("m", 1)
            .reason
            .unwrap()
            .contains("model.toml line")
    });
    assert_eq!(text(&live.repository), VECTOR);
    assert_eq!(live.infer(&under_way).unwrap(), "1");
    // A contract that the graph meets is accepted; the instances of the old catalogue continue under the old contract.
    let three = VECTOR.replace("lanes = 1", "lanes = 3");
    live.models.file("m/model.toml", &three);
    live.until("taken", |r| text(r) == three);
    let new = live.repository.handle("m", None).unwrap();
    let instances_of = |handle: &Handle| {
        live.runtime
            .block_on(handle.model())
            .ok()
            .unwrap()
            .instances()
    };
    assert_eq!(
        (instances_of(&under_way), instances_of(&new)),
        (instances, 3)
    );
    let path = old.path().to_path_buf();
    assert!(path.exists());
    drop(old);
    assert!(!path.exists(), "the last instance that saw it is gone");
    live.until("let go", |_| instances_of(&under_way) == 3);
    // The same if the version itself is removed: requests that saw it are answered, all others are not.
    let old = live.repository.snapshot().unwrap();
    std::fs::remove_dir_all(live.models.0.join("m")).unwrap();
    live.until("gone", |r| r.handle("m", None).is_err());
    let late = live
        .repository
        .handle_in(Some(&old), "m", Some("1"))
        .expect("it was there");
    assert_eq!(live.infer(&late).unwrap(), "1");
    assert_eq!(live.entries(), 0);
    drop(old);
    live.until("let go", |_| live.infer(&late).is_err());
}

#[test]
fn an_unloaded_version_is_refused_brings_its_calls_to_their_end_and_stays_down() {
    let backend = Scripted::new(|call, _| match call {
        0 => Step::Echo,
        _ => Step::Delay(Duration::from_millis(200), Box::new(Step::Echo)),
    });
    let files = [("m/model.toml", VECTOR), ("m/1/model.onnx", "one")];
    let live = Live::new(&files, backend, Settings::default());
    let handle = live.repository.handle("m", Some("1")).unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let handle = handle.clone();
            live.runtime.spawn(async move { infer(&handle).await })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    let unload = |repository: Repository| async move { repository.unload("m").await };
    let first = live.runtime.spawn(unload(live.repository.clone()));
    let second = live.runtime.spawn(unload(live.repository.clone()));
    live.until("draining", |_| live.entry("m", 1).state == "UNLOADING");
    let refused = live.infer(&handle).unwrap_err();
    assert!(refused.contains("is unloaded"), "{refused}");
    for call in calls {
        assert_eq!(live.runtime.block_on(call).unwrap().unwrap(), "1");
    }
    live.runtime.block_on(first).unwrap().unwrap();
    live.runtime.block_on(second).unwrap().unwrap();
    assert_eq!(
        (live.entry("m", 1).state, live.repository.memory_bytes()),
        ("UNAVAILABLE", 0)
    );
    // Its files may change as they like.
    live.models.file("m/1/model.onnx", "another");
    std::thread::sleep(5 * POLL);
    assert!(matches!(
        live.repository.get("m", None),
        Err(Unavailable::Unloaded(_))
    ));
    live.runtime.block_on(live.repository.load("m")).unwrap();
    live.runtime.block_on(live.repository.load("m")).unwrap();
    assert_eq!(live.infer(&handle).unwrap(), "1");
    assert!(
        live.runtime
            .block_on(live.repository.unload("none"))
            .is_err()
    );
    assert!(
        live.runtime
            .block_on(live.repository.load_version("m", 9))
            .is_err()
    );
}

#[test]
fn callers_loaders_and_unloaders_may_race() {
    let loads = Arc::new(AtomicUsize::new(0));
    let backend = Scripted::echo();
    let files = [
        ("m/model.toml", VECTOR),
        ("m/1/model.onnx", "one"),
        ("m/2/model.onnx", "two"),
    ];
    let live = Live::new(&files, backend, Settings::default());
    let until = Instant::now() + Duration::from_secs(2);
    let mut tasks = Vec::new();
    for task in 0..8u64 {
        let (repository, loads) = (live.repository.clone(), loads.clone());
        tasks.push(live.runtime.spawn(async move {
            let version = 1 + task % 2;
            while Instant::now() < until {
                match task {
                    0 | 1 => repository.unload_version("m", version).await.unwrap(),
                    2..=4 => match repository.load_version("m", version).await {
                        Ok(()) => {
                            loads.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(Unavailable::Unloaded(_)) => {}
                        Err(other) => panic!("{other}"),
                    },
                    _ => match repository.handle("m", None) {
                        Ok(handle) => match infer(&handle).await {
                            Ok(_) => {}
                            Err(text) => assert!(text.contains("load"), "{text}"),
                        },
                        Err(Unavailable::Unloaded(_) | Unavailable::Loading(_)) => {}
                        Err(other) => panic!("{other}"),
                    },
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in tasks {
        live.runtime.block_on(task).unwrap();
    }
    assert!(loads.load(Ordering::SeqCst) > 10, "{loads:?}");
    live.runtime.block_on(live.repository.load("m")).unwrap();
    assert_eq!(live.repository.readiness().ready, 2);
    assert_eq!(live.repository.memory_bytes(), 6);
}

#[test]
fn reloads_lose_no_call() {
    let files = [("m/model.toml", VECTOR), ("m/1/model.onnx", "0")];
    let live = Live::new(&files, Scripted::echo(), publishing());
    let stop = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (repository, stop) = (live.repository.clone(), stop.clone());
            live.runtime.spawn(async move {
                let handle = repository.handle("m", None).unwrap();
                let mut calls = 0u64;
                while stop.load(Ordering::SeqCst) == 0 {
                    infer(&handle).await.expect("no call is lost");
                    calls += 1;
                    tokio::task::yield_now().await;
                }
                calls
            })
        })
        .collect();
    for change in 1..=30u64 {
        let (path, content) = match change % 5 {
            0 => ("m/1/model.onnx".to_owned(), "x".repeat(change as usize)),
            1 => (format!("m/{}/model.onnx", 1 + change), "new".to_owned()),
            2 => ("m/model.toml".to_owned(), format!("{VECTOR}# {change}\n")),
            3 => (format!("m/{}/model.onnx", 90 + change), "broken".to_owned()),
            _ => ("m/model.toml".to_owned(), "broken = ".to_owned()),
        };
        live.models.file(&path, content);
        std::thread::sleep(4 * POLL);
    }
    live.until("the last version", |_| live.entry("m", 27).is_default);
    stop.store(1, Ordering::SeqCst);
    let calls: u64 = callers
        .into_iter()
        .map(|c| live.runtime.block_on(c).unwrap())
        .sum();
    assert!(calls > 1_000, "{calls}");
}

#[test]
fn the_budget_puts_the_least_recently_used_to_rest_and_a_call_brings_it_back() {
    let graph = "x".repeat(100);
    let mut files = Vec::new();
    for name in ["a", "b", "c", "pinned"] {
        let pin = if name == "pinned" {
            "pinned = true\n"
        } else {
            ""
        };
        files.push((format!("{name}/model.toml"), format!("{VECTOR}{pin}")));
        files.push((format!("{name}/1/model.onnx"), graph.clone()));
    }
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let settings = Settings {
        memory_budget_bytes: Some(250),
        ..publishing()
    };
    let live = Live::new(&files, Scripted::echo(), settings);
    let readiness = live.repository.readiness();
    assert_eq!(
        (readiness.ready, readiness.evicted, readiness.failed),
        (2, 2, 0)
    );
    assert_eq!(live.repository.memory_bytes(), 200);
    let generation = live.repository.generation();
    let handles: Vec<Handle> = ["a", "b", "c", "pinned"]
        .iter()
        .map(|name| {
            live.repository
                .handle(name, Some("1"))
                .expect("it answers, wherever it is")
        })
        .collect();
    // Many at once on each: all are answered, one model at a time has the place.
    let calls: Vec<_> = (0..24)
        .map(|call| {
            let handle = handles[call % 4].clone();
            live.runtime.spawn(async move { infer(&handle).await })
        })
        .collect();
    for call in calls {
        live.runtime.block_on(call).unwrap().unwrap();
    }
    live.until("within the budget", |r| r.memory_bytes() <= 250);
    assert_eq!(live.entry("pinned", 1).state, "READY");
    assert_eq!(
        live.repository.generation(),
        generation,
        "guests need not know"
    );
    let resting = live
        .repository
        .index()
        .iter()
        .filter(|e| e.reason.is_some())
        .count();
    assert_eq!(resting, 2);
    assert!(
        live.repository
            .index()
            .iter()
            .all(|entry| entry.last_used.is_some())
    );
}
