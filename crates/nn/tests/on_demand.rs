//! Models opened on demand: names, bounds, and the results that are remembered.

use std::fs;
use std::path::{Path, PathBuf};

use penstock_nn::on_demand::{Limits, OnDemand};
use penstock_nn::{ErrorCode, NnTensor, TensorType, Unavailable};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(name)
}

/// A directory with identity and digits, each under these names.
fn directory(names: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, from) in names {
        let version = folder.path().join(name).join("1");
        fs::create_dir_all(&version).unwrap();
        fs::copy(
            shipped(from).join("model.toml"),
            folder.path().join(name).join("model.toml"),
        )
        .unwrap();
        fs::copy(
            shipped(from).join("1/model.onnx"),
            version.join("model.onnx"),
        )
        .unwrap();
    }
    folder
}

fn row(numbers: [f32; 4]) -> Vec<(String, NnTensor)> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let tensor = NnTensor::new(TensorType::Fp32, vec![1, 4], bytes).unwrap();
    vec![("a".to_owned(), tensor)]
}

#[test]
fn a_model_is_opened_once_and_answers() {
    let folder = directory(&[("identity", "identity")]);
    let mut models = OnDemand::new(folder.path(), Limits::default());
    let opened = models.get("identity", None).unwrap();
    assert_eq!((opened.model(), opened.version()), ("identity", 1));
    let outputs = opened.infer(row([1.0, -0.0, f32::MAX, 1e-40])).unwrap();
    assert_eq!(outputs[0].0, "b");
    assert_eq!(outputs[0].1, row([1.0, -0.0, f32::MAX, 1e-40])[0].1);
    // From memory: the file may even be gone.
    fs::remove_dir_all(folder.path().join("identity/1")).unwrap();
    assert!(models.get("identity", Some("1")).is_ok());
}

#[test]
fn names_and_versions_that_are_none_lead_nowhere() {
    let folder = directory(&[("identity", "identity")]);
    let inside = folder.path().join("identity");
    let mut models = OnDemand::new(&inside, Limits::default());
    let mut whole = OnDemand::new(folder.path(), Limits::default());
    let absolute = inside.display().to_string();
    for name in [
        "",
        ".",
        "..",
        "../identity",
        "identity/",
        "identity/1",
        "/identity",
        &absolute,
        ".hidden",
        "a\\b",
        "a\0b",
        "identity@1",
        &"i".repeat(65),
        &"é".repeat(1 << 16),
    ] {
        for models in [&mut models, &mut whole] {
            let refused = models.get(name, Some("1")).err();
            assert!(
                matches!(refused, Some(Unavailable::UnknownModel(_))),
                "{name:?}: {refused:?}"
            );
        }
    }
    for version in [
        "",
        "0",
        "01",
        "+1",
        "-1",
        "1 ",
        "../1",
        "1/../1",
        "2",
        "99999999999999999999999",
    ] {
        let refused = whole.get("identity", Some(version)).err();
        assert!(
            matches!(refused, Some(Unavailable::UnknownVersion(_))),
            "{version:?}: {refused:?}"
        );
    }
}

#[test]
fn a_failed_version_is_remembered_with_its_reason() {
    let folder = directory(&[("identity", "identity")]);
    let graph = folder.path().join("identity/1/model.onnx");
    let good = fs::read(&graph).unwrap();
    fs::write(&graph, b"no graph").unwrap();
    let mut models = OnDemand::new(folder.path(), Limits::default());
    for _ in 0..2 {
        let Some(Unavailable::Failed(reason)) = models.get("identity", Some("1")).err() else {
            panic!("not failed");
        };
        assert!(reason.contains("not an ONNX file"), "{reason}");
        // A mended file is for the next instance.
        fs::write(&graph, &good).unwrap();
    }
}

#[test]
fn another_backend_by_name_is_not_replaced_by_this_one() {
    let folder = directory(&[("identity", "identity")]);
    let contract = folder.path().join("identity/model.toml");
    let text = fs::read_to_string(&contract).unwrap();
    fs::write(
        &contract,
        format!("{text}\n[engine]\nbackend = \"onnxruntime\"\n"),
    )
    .unwrap();
    let refused = OnDemand::new(folder.path(), Limits::default())
        .get("identity", None)
        .err();
    let Some(Unavailable::Failed(reason)) = refused else {
        panic!("not failed");
    };
    assert!(reason.contains("in WebAssembly"), "{reason}");
}

#[test]
fn the_least_recently_used_model_makes_room() {
    let folder = directory(&[("one", "digits"), ("two", "digits"), ("three", "digits")]);
    let size = fs::metadata(shipped("digits").join("1/model.onnx"))
        .unwrap()
        .len();
    let limits = Limits {
        kept_bytes: 2 * size,
        ..Limits::default()
    };
    let mut models = OnDemand::new(folder.path(), limits);
    let first = models.get("one", None).unwrap();
    let second = models.get("two", None).unwrap();
    assert!(std::rc::Rc::ptr_eq(
        &first,
        &models.get("one", None).unwrap()
    ));
    models.get("three", None).unwrap();
    // Two went, because one was used after it; it comes back when it is asked for.
    assert!(std::rc::Rc::ptr_eq(
        &first,
        &models.get("one", None).unwrap()
    ));
    assert!(!std::rc::Rc::ptr_eq(
        &second,
        &models.get("two", None).unwrap()
    ));
}

#[test]
fn a_graph_that_is_too_large_is_refused_before_it_is_read_or_run() {
    let folder = directory(&[("identity", "identity"), ("digits", "digits")]);
    let refused = |limits: Limits| {
        OnDemand::new(folder.path(), limits)
            .get("digits", None)
            .err()
            .map(|unavailable| unavailable.to_string())
            .unwrap_or_default()
    };
    let reason = refused(Limits {
        graph_bytes: 1000,
        ..Limits::default()
    });
    assert!(reason.contains("at most 1000 are opened"), "{reason}");
    let reason = refused(Limits {
        working_bytes: 16,
        ..Limits::default()
    });
    assert!(reason.contains("and may use 16:"), "{reason}");
    let mut models = OnDemand::new(
        folder.path(),
        Limits {
            input_bytes: 16,
            output_bytes: 16,
            ..Limits::default()
        },
    );
    let identity = models.get("identity", None).unwrap();
    assert!(identity.infer(row([0.0; 4])).is_ok());
    let twice = NnTensor::new(TensorType::Fp32, vec![2, 4], vec![0u8; 32]).unwrap();
    let error = identity.infer(vec![("a".to_owned(), twice)]).unwrap_err();
    assert_eq!(error.code, ErrorCode::TooLarge);
}
