//! The models directory, from files to answers.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::repository::{Readiness, Report};
use penstock_nn::{Backends, ErrorCode, NnError, Repository, Settings, State, Unavailable};
use support::{D, Node, as_fp32, fp32, onnx_bytes, onnx_type, p};

/// A directory of its own for each test, removed at the end.
struct Models(PathBuf);

impl Models {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let path =
            std::env::temp_dir().join(format!("penstock-nn-models-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }
    fn open(&self, backends: Backends) -> Repository {
        Repository::open(&self.0, backends, Settings::default()).expect("the directory is there")
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const CONTRACT: &str = r#"
description = "Adds a vector to itself"
format = "onnx"

[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 2]
minimum = 1.5

[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 2]

[axes]
N = { min = 3, max = 8 }

[engine]
lanes = 2
"#;

fn doubler() -> Vec<u8> {
    let shape = &[D::S("N"), D::N(2)];
    let (x, y) = (
        p("x", onnx_type::FLOAT, shape),
        p("y", onnx_type::FLOAT, shape),
    );
    onnx_bytes(&[Node("Add", vec!["x", "x"], vec!["y"])], &[x], &[y]).to_vec()
}

fn load(repository: &Repository) -> Vec<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut reports = Vec::new();
    runtime.block_on(repository.load_all(|report| reports.push(report)));
    reports
}

fn reason(repository: &Repository, name: &str) -> String {
    match repository.get(name, None) {
        Err(Unavailable::Failed(reason)) => reason,
        other => panic!("{name}: {:?}", other.map(|model| model.name().to_string())),
    }
}

#[test]
fn a_model_in_the_directory_answers_by_name_and_version() {
    let models = Models::new();
    models
        .file("README.md", "not a model")
        .file(".cache/x", "nor this");
    models
        .file("double/model.toml", CONTRACT)
        .file("double/labels.txt", "beside it");
    models
        .file("double/1/model.onnx", doubler())
        .file("double/10/model.onnx", doubler());
    models
        .file("double/2/model.onnx", doubler())
        .file("double/v3/model.onnx", "ignored");
    for backends in [
        Backends::builtin(),
        Backends::with_onnxruntime(&support::onnxruntime_path()).unwrap(),
    ] {
        let backend = backends.list()[0].0;
        let repository = models.open(backends);
        assert_eq!(
            repository.readiness(),
            Readiness {
                loading: 3,
                ..Readiness::default()
            }
        );
        let waiting = repository
            .get("double", None)
            .err()
            .expect("nothing is loaded yet");
        assert!(matches!(waiting, Unavailable::Loading(_)), "{waiting}");
        let reports = load(&repository);
        assert!(
            reports
                .iter()
                .all(|report| matches!(report.state, State::Ready(_))),
            "{reports:?}"
        );
        assert_eq!(reports.len(), 3);
        assert_eq!(
            repository.readiness(),
            Readiness {
                ready: 3,
                ..Readiness::default()
            }
        );
        for (asked, answers) in [
            (None, "10"),
            (Some("1"), "1"),
            (Some("2"), "2"),
            (Some("10"), "10"),
        ] {
            let model = repository.get("double", asked).expect("it is ready");
            assert_eq!(
                (model.version(), model.backend(), model.lanes()),
                (answers, backend, 2)
            );
        }
        for unknown in [
            "3",
            "0",
            "01",
            "+1",
            "1.0",
            "",
            "v3",
            "99999999999999999999999",
            "../1",
        ] {
            let error = repository
                .get("double", Some(unknown))
                .err()
                .expect(unknown);
            assert!(matches!(error, Unavailable::UnknownVersion(_)), "{unknown}");
            assert!(
                error.message().contains("it has \"1\", \"2\", \"10\""),
                "{error}"
            );
        }
        let model = repository.get("double", None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let outputs = runtime
            .block_on(model.infer(vec![("x".into(), fp32(&[1, 2], &[1.0, 2.0]))]))
            .unwrap();
        assert_eq!(as_fp32(&outputs[0].1), [2.0, 4.0]);
        let list = repository.list();
        assert_eq!(
            (list.len(), list[0].name.as_str(), list[0].versions.len()),
            (1, "double", 3)
        );
        assert_eq!(
            list[0].contract.as_ref().unwrap().description,
            "Adds a vector to itself"
        );
        assert!(load(&repository).is_empty(), "a second load does nothing");
    }
}

#[test]
fn what_is_wrong_with_one_model_is_its_state_and_stops_no_other() {
    let models = Models::new();
    models
        .file("good/model.toml", CONTRACT)
        .file("good/1/model.onnx", doubler());
    models.file("no-contract/1/model.onnx", doubler());
    models.file("no-version/model.toml", CONTRACT);
    models
        .file("no-graph/model.toml", CONTRACT)
        .file("no-graph/1/readme", "");
    models
        .file("bad-contract/model.toml", "format = \"onnx\"\nspeed = 11\n")
        .file("bad-contract/1/model.onnx", doubler());
    models
        .file("bad-graph/model.toml", CONTRACT)
        .file("bad-graph/1/model.onnx", "not a graph");
    models.file(
        "other/model.toml",
        CONTRACT
            .replace("\"x\"", "\"z\"")
            .replace("FP32", "INT32")
            .replace("1.5", "1"),
    );
    models.file("other/1/model.onnx", doubler());
    models.file(
        "no-runtime/model.toml",
        format!("{CONTRACT}backend = \"onnxruntime\"\n"),
    );
    models.file("no-runtime/1/model.onnx", doubler());
    models
        .file("white space/model.toml", CONTRACT)
        .file("white space/1/model.onnx", doubler());
    let repository = models.open(Backends::builtin());
    let reports = load(&repository);
    assert_eq!(reports.len(), 9, "{reports:?}");
    assert_eq!(
        repository.readiness(),
        Readiness {
            ready: 1,
            loading: 0,
            failed: 8
        }
    );
    assert!(repository.get("good", None).is_ok());
    for (name, parts) in [
        ("no-contract", &["has no model.toml"][..]),
        ("no-version", &["no version", "1/model.onnx"]),
        ("no-graph", &["version 1 has no model.onnx"]),
        ("bad-contract", &["model.toml line 2", "speed"]),
        ("bad-graph", &["not an ONNX file"]),
        (
            "other",
            &[
                "not what model.toml says",
                "no input \"z\"",
                "write datatype = \"FP32\"",
                "input \"x\" (FP32 [N,2])",
            ],
        ),
        (
            "no-runtime",
            &["\"onnxruntime\" is not available", "PENSTOCK_ONNXRUNTIME"],
        ),
        ("white space", &["no name for a model"]),
    ] {
        let reason = reason(&repository, name);
        for part in parts {
            assert!(reason.contains(part), "{name}: {part} is not in {reason}");
        }
        assert!(!reason.contains(models.0.to_str().unwrap()), "{reason}");
    }
    let unknown = repository.get("gone", None).err().unwrap();
    assert!(
        unknown.message().contains("no model \"gone\"; there is")
            && unknown.message().contains("\"good\""),
        "{unknown}"
    );
    assert_eq!(NnError::from(unknown).code, ErrorCode::NotFound);
}

#[test]
fn a_model_is_ready_only_after_every_lane_has_run_the_least_call_its_contract_allows() {
    let models = Models::new();
    models
        .file("double/model.toml", CONTRACT)
        .file("double/1/model.onnx", "the script does not read it");
    let port = |name: &str| penstock_nn::Port {
        name: name.into(),
        ty: penstock_nn::PortType::Tensor(penstock_nn::TensorType::Fp32),
        dims: Some(vec![
            penstock_nn::Dim::Symbolic("N".into()),
            penstock_nn::Dim::Fixed(2),
        ]),
    };
    let backend = Scripted::new(|_, inputs| {
        assert_eq!(inputs[0].dims, [3, 2]);
        assert_eq!(as_fp32(&inputs[0]), [1.5; 6]);
        Step::Echo
    })
    .with_ports(vec![port("x")], vec![port("y")]);
    let repository = models.open(Backends::builtin().prefer(Arc::new(backend.clone())));
    load(&repository);
    assert!(
        repository.get("double", None).is_ok(),
        "{:?}",
        repository.list()[0].versions
    );
    assert_eq!(backend.calls(), 2, "one run a lane");
}

#[test]
fn a_model_whose_first_run_fails_or_panics_is_failed_with_the_reason() {
    let models = Models::new();
    models.file(
        "m/model.toml",
        CONTRACT.replace(", 2]", "]").replace("min = 3", "min = 1"),
    );
    models.file("m/1/model.onnx", "").file("m/2/model.onnx", "");
    for (step, part) in [
        (
            (|| Step::Fail(NnError::runtime("no such kernel"))) as fn() -> Step,
            "no such kernel",
        ),
        (|| Step::Panic("index out of bounds"), "index out of bounds"),
    ] {
        let backend = Scripted::new(move |_, _| step());
        let repository = models.open(Backends::builtin().prefer(Arc::new(backend)));
        load(&repository);
        let reason = reason(&repository, "m");
        assert!(
            reason.contains("version 2 fails its first run") && reason.contains(part),
            "{reason}"
        );
    }
}

#[test]
fn a_failed_highest_version_is_not_hidden_behind_an_older_one() {
    let models = Models::new();
    models
        .file("m/model.toml", CONTRACT)
        .file("m/1/model.onnx", doubler())
        .file("m/2/model.onnx", "broken");
    let repository = models.open(Backends::builtin());
    load(&repository);
    assert!(reason(&repository, "m").contains("not an ONNX file"));
    assert_eq!(
        repository
            .get("m", Some("1"))
            .expect("it is ready")
            .version(),
        "1"
    );
}

#[test]
fn a_directory_that_is_not_there_is_an_error_that_names_it() {
    let missing = Path::new("no/such/directory");
    let error = Repository::open(missing, Backends::builtin(), Settings::default())
        .err()
        .expect("it is not there");
    assert!(
        error.message.contains("no/such/directory") && error.message.contains("create it"),
        "{error}"
    );
}
