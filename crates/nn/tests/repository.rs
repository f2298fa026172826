//! The models directory, from files to answers.

use crate::repository_common::{Models, runtime};
use crate::support;
use penstock_nn::backend::scripted::{Scripted, Step};
use penstock_nn::repository::{Readiness, Report};
use penstock_nn::{Backends, ErrorCode, NnError, Repository, Settings, State, Unavailable};
use std::path::Path;
use std::sync::Arc;
use support::{D, Node, as_fp32, fp32, onnx_bytes, onnx_type, p};

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
    let runtime = runtime();
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
                (model.version(), model.backend(), model.instances()),
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
            .enable_time()
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
fn a_fault_of_one_model_is_its_state_and_stops_no_other() {
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
            failed: 8,
            ..Readiness::default()
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
                "does not match model.toml",
                "no input \"z\"",
                "write datatype = \"FP32\"",
                "input \"x\" (FP32 [N,2])",
            ],
        ),
        (
            "no-runtime",
            &["\"onnxruntime\" is not available", "PENSTOCK_ONNXRUNTIME"],
        ),
        ("white space", &["not a valid model name"]),
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
fn a_model_is_ready_only_after_every_instance_has_run_the_least_call_its_contract_allows() {
    let models = Models::new();
    // Trying whether rows depend on each other comes after, and makes runs of its own.
    models
        .file(
            "double/model.toml",
            format!("{CONTRACT}\n[batching]\nenabled = false\n"),
        )
        .file("double/1/model.onnx", "the script does not read it");
    let port = |name: &str| penstock_nn::Port {
        name: name.into(),
        ty: penstock_nn::PortType::Tensor(penstock_nn::TensorType::Fp32),
        dims: Some(vec![
            penstock_nn::Dim::Symbolic("N".into()),
            penstock_nn::Dim::Fixed(2),
        ]),
    };
    let backend = Scripted::new(|run, inputs| {
        if run < 2 {
            assert_eq!(inputs[0].dims, [3, 2]);
            assert_eq!(as_fp32(&inputs[0]), [1.5; 6]);
        }
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
    assert!(backend.calls() >= 2, "one run an instance");
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
fn calls_that_name_no_version_get_the_highest_that_answers_and_the_failure_is_listed() {
    let models = Models::new();
    models
        .file("m/model.toml", CONTRACT)
        .file("m/1/model.onnx", doubler())
        .file("m/2/model.onnx", "broken");
    let repository = models.open(Backends::builtin());
    load(&repository);
    let version = repository.get("m", None).expect("version 1 answers");
    assert_eq!(version.version(), "1");
    let refused = repository.get("m", Some("2")).err().expect("it is broken");
    assert!(refused.message().contains("not an ONNX file"), "{refused}");
    let index = repository.index();
    assert_eq!((index[1].version, index[1].state), (2, "UNAVAILABLE"));
    assert!(
        index[1]
            .reason
            .as_ref()
            .unwrap()
            .contains("not an ONNX file")
    );
    assert!(index[0].is_default && !index[1].is_default);
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

#[test]
fn statistics_are_of_every_version_there_is_and_of_no_other() {
    let models = Models::new();
    models
        .file("double/model.toml", CONTRACT)
        .file("double/1/model.onnx", doubler())
        .file("double/2/model.onnx", "not a graph")
        .file("other/model.toml", CONTRACT)
        .file("other/1/model.onnx", doubler());
    let repository = models.open(Backends::builtin());
    load(&repository);
    let runtime = runtime();
    runtime.block_on(async {
        let model = repository.get("double", Some("1")).unwrap();
        let input = vec![("x".to_owned(), fp32(&[3, 2], &[2.0; 6]))];
        model.infer(input).await.expect("runs");
    });
    let of = |model, version| {
        let listed = repository.statistics(model, version)?;
        let brief = listed.iter().map(|version| {
            (
                version.model.clone(),
                version.version,
                version.stats.success,
            )
        });
        Ok::<_, Unavailable>(brief.collect::<Vec<_>>())
    };
    let double = |version, calls| ("double".to_owned(), version, calls);
    let all = of(None, None).unwrap();
    assert_eq!(
        all,
        [double(1, 1), double(2, 0), ("other".to_owned(), 1, 0)]
    );
    assert_eq!(of(Some("double"), None).unwrap(), all[..2]);
    assert_eq!(of(Some("double"), Some("1")).unwrap(), all[..1]);
    for version in ["3", "0", "01", "one", "", "18446744073709551616"] {
        let refused = of(Some("double"), Some(version));
        assert!(
            matches!(refused, Err(Unavailable::UnknownVersion(_))),
            "{version}: {refused:?}"
        );
    }
    let refused = of(Some("nobody"), None);
    assert!(
        matches!(refused, Err(Unavailable::UnknownModel(_))),
        "{refused:?}"
    );
}

#[test]
fn a_shadow_run_uses_a_model_in_memory_and_loads_no_evicted_one() {
    let models = Models::new();
    models
        .file("double/model.toml", CONTRACT)
        .file("double/1/model.onnx", doubler());
    let repository = models.open(Backends::builtin());
    load(&repository);
    let runtime = runtime();
    let x = || vec![("x".to_owned(), fp32(&[3, 2], &[2.0; 6]))];
    let y = |value| vec![("y".to_owned(), fp32(&[3, 2], &[value; 6]))];
    let handle = repository.handle("double", Some("1")).unwrap();
    let counted = || repository.get("double", None).unwrap().stats();
    runtime.block_on(async {
        for (value, done) in [(4.0, 1), (5.0, 2)] {
            handle.shadow(x(), y(value)).expect("it serves");
            support::until("it is compared", || {
                let shadow = counted().shadow;
                shadow.agreed + shadow.differed == done
            })
            .await;
        }
        assert_eq!((counted().shadow.agreed, counted().success), (1, 0));
        let wrong = handle.shadow(y(1.0), Vec::new()).unwrap_err();
        assert_eq!(wrong.code, ErrorCode::InvalidArgument);
        repository.unload("double").await.unwrap();
        let gone = handle.shadow(x(), y(4.0)).unwrap_err();
        assert!(gone.message.contains("unloaded"), "{gone}");
    });
}
