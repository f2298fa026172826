//! Loads that take long or never end: the messages about them, their effect on other loads, and their remains.

use crate::support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::backend::tract::Tract;
use penstock_nn::repository::{Event, EventKind};
use penstock_nn::{
    Backend, Backends, GraphSource, LoadOptions, NnError, Repository, Session, Settings, State,
};
use support::{VECTOR, graphs, onnxruntime};

/// Longer than any test waits.
const FOR_EVER: Duration = Duration::from_secs(60);

/// A backend that follows the instructions in a graph's bytes.
struct InstructedBackend;

impl Backend for InstructedBackend {
    fn name(&self) -> &'static str {
        "told"
    }
    fn version(&self) -> String {
        "1".into()
    }
    fn load(
        &self,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        let GraphSource::File(path) = graph else {
            panic!("a repository loads files")
        };
        let script = std::fs::read_to_string(path).expect("a script");
        if script == "never compiled" {
            std::thread::sleep(FOR_EVER);
        }
        let scripted = Scripted::new(move |call, inputs| match script.as_str() {
            "never runs" => Step::Deaf(FOR_EVER),
            "never runs but ends when told" => Step::UntilInterrupted,
            "never runs together" if inputs[0].dims[0] > 1 && call > 2 => Step::Deaf(FOR_EVER),
            _ => Step::Echo,
        });
        scripted.load(graph, options)
    }
}

struct Models {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Models {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let models = Self {
            folder: tempfile::tempdir().expect("a folder"),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime"),
        };
        for (name, script) in scripts {
            models.file(&format!("{name}/model.toml"), VECTOR.as_bytes());
            models.file(&format!("{name}/1/model.onnx"), script.as_bytes());
        }
        models
    }

    fn file(&self, path: &str, content: &[u8]) {
        let path: PathBuf = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, content).expect("written");
    }

    fn open(&self, backend: Arc<dyn Backend>, load_timeout: Duration) -> Repository {
        let settings = Settings {
            load_timeout,
            ..Settings::default()
        };
        let backends = Backends::builtin().prefer(backend);
        Repository::open(self.folder.path(), backends, settings).expect("it opens")
    }

    fn load_all(&self, repository: &Repository) -> Duration {
        let began = Instant::now();
        self.runtime.block_on(repository.load_all(|_| {}));
        began.elapsed()
    }
}

fn state(repository: &Repository, name: &str) -> Result<(), String> {
    let models = repository.list();
    let model = models
        .iter()
        .find(|model| model.name == name)
        .expect("listed");
    match &model.versions[0].1 {
        State::Ready(_) => Ok(()),
        State::Failed(reason) => Err(reason.to_string()),
        other => Err(other.as_str().to_owned()),
    }
}

fn all(events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

#[test]
fn a_load_that_never_ends_fails_with_its_stage_and_the_others_are_loaded() {
    let models = Models::new(&[
        ("a", "never compiled"),
        ("b", "never runs"),
        ("c", "never runs together"),
        ("d", "sound"),
    ]);
    let repository = models.open(Arc::new(InstructedBackend), Duration::from_secs(1));
    let took = models.load_all(&repository);
    assert!(took < Duration::from_secs(6), "{took:?}");
    for (name, stage) in [
        ("a", "is still compiling the graph"),
        ("b", "is still warming up"),
        ("c", "is still trying batches"),
    ] {
        let reason = state(&repository, name).expect_err("it never ends");
        assert!(reason.contains(stage), "{reason}");
        assert!(
            reason.contains("takes longer than 1000 ms to load"),
            "{reason}"
        );
        assert!(reason.contains("models.load_timeout_ms"), "{reason}");
    }
    assert_eq!(state(&repository, "d"), Ok(()));
}

#[test]
fn after_five_seconds_a_slow_load_is_told_of_and_keeps_no_other_back() {
    let models = Models::new(&[
        ("a", "never compiled"),
        ("b", "never runs"),
        ("c", "sound"),
        ("d", "sound"),
    ]);
    let repository = models.open(Arc::new(InstructedBackend), FOR_EVER);
    let mut events = repository.events();
    let loading = repository.clone();
    models
        .runtime
        .spawn(async move { loading.load_all(|_| {}).await });
    let began = Instant::now();
    while state(&repository, "c").is_err() || state(&repository, "d").is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "they are kept back"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(
        began.elapsed() >= Duration::from_secs(4),
        "two places, and both were taken"
    );
    assert_eq!(repository.readiness().loading, 2);
    let slow: Vec<Event> = all(&mut events)
        .into_iter()
        .filter(|event| event.kind == EventKind::Slow)
        .collect();
    assert_eq!(slow.len(), 2, "{slow:?}");
    for (name, stage) in [("a", "compiling the graph"), ("b", "warming up")] {
        let told = slow
            .iter()
            .find(|event| event.model == name)
            .expect("told of");
        assert!(told.text.contains("still loading after 5 s"), "{told:?}");
        assert!(told.text.contains(stage) && told.version == 1, "{told:?}");
    }
}

#[test]
fn a_load_that_can_be_ended_is_and_leaves_nothing() {
    let models = Models::new(&[("a", "never runs but ends when told")]);
    let repository = models.open(Arc::new(InstructedBackend), Duration::from_millis(300));
    let mut events = repository.events();
    models.load_all(&repository);
    assert!(state(&repository, "a").is_err());
    let began = Instant::now();
    let ended = |event: &Event| event.text.contains("the load that was given up ended");
    while !all(&mut events).iter().any(ended) {
        assert!(began.elapsed() < Duration::from_secs(5), "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Another graph in its place is loaded.
    models.file(
        "a/1/model.onnx",
        b"sound, and longer than the other graph was",
    );
    models.runtime.block_on(async {
        repository.load("a").await.expect("it loads");
    });
    assert_eq!(state(&repository, "a"), Ok(()));
}

#[test]
fn loads_that_were_given_up_are_bounded_and_the_next_one_says_so() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let scripts: Vec<_> = names.iter().map(|name| (*name, "never runs")).collect();
    let models = Models::new(&scripts);
    let repository = models.open(Arc::new(InstructedBackend), Duration::from_millis(200));
    let took = models.load_all(&repository);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let reasons: Vec<String> = (names.iter())
        .map(|name| state(&repository, name).expect_err("none ends"))
        .collect();
    let given_up = |reason: &&String| reason.contains("the load was given up");
    // One beside the fourth may have begun before the fourth was given up.
    let count = reasons.iter().filter(given_up).count();
    assert!((4..=5).contains(&count), "{reasons:?}");
    for reason in &reasons[count..] {
        assert!(
            reason.contains("loads that were given up are still running"),
            "{reasons:?}"
        );
    }
}

#[test]
fn real_graphs_whose_first_run_never_ends_fail_on_both_backends() {
    let scan = VECTOR.replace("[\"N\"]", "[100000, 1]");
    let one = VECTOR.replace("[\"N\"]", "[1]");
    for (backend, graph, contract) in [
        (onnxruntime(), graphs::endless_loop(), one),
        (
            Arc::new(Tract) as Arc<dyn Backend>,
            graphs::slow_scan(100_000),
            scan,
        ),
    ] {
        let models = Models::new(&[]);
        models.file("m/model.toml", contract.as_bytes());
        models.file("m/1/model.onnx", &graph);
        let name = backend.name();
        let repository = models.open(backend, Duration::from_secs(2));
        let took = models.load_all(&repository);
        let reason = state(&repository, "m").expect_err("it never ends");
        assert!(reason.contains("is still warming up"), "{name}: {reason}");
        assert!(took < Duration::from_secs(4), "{name}: {took:?}");
    }
}
