//! `penstock check` finds faults before a request does, with their place and remedy.

use crate::common;

use common::{onnxruntime, root};
use std::path::Path;
use std::process::Command;

/// Copies the application into a new folder, without the parts that the test does not need.
fn application() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str| {
        let to = folder.path().join(from);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root().join(from), to).unwrap();
    };
    for file in [
        "spin.toml",
        "penstock.toml",
        "build/gate.wasm",
        "build/gate-direct.wasm",
        "build/auth.wasm",
        "build/quota.wasm",
        "build/idempotency.wasm",
        "build/usage.wasm",
        "build/operations.wasm",
        "build/batches.wasm",
        "build/validation.wasm",
        "build/inference.wasm",
        "build/adapters.wasm",
        "build/models.wasm",
        "build/cache.wasm",
        "build/custom.wasm",
        "models/identity/model.toml",
        "models/identity/1/model.onnx",
        "models/digits/model.toml",
        "models/digits/1/model.onnx",
    ] {
        copy(file);
    }
    folder
}

fn check(folder: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .current_dir(folder)
        .env_remove("PENSTOCK_ONNXRUNTIME")
        .env_remove("PENSTOCK_OPENVINO")
        .arg("check")
        .arg("--onnxruntime")
        .arg(onnxruntime())
        .output()
        .expect("the command runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

/// Replaces text in a file of the application; the text must be there.
fn change(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} in {file}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn the_shipped_application_is_without_errors() {
    let (passed, text) = check(application().path());
    assert!(passed, "{text}");
    assert!(text.contains("0 errors"), "{text}");
}

#[test]
fn each_mistake_is_found_with_file_line_and_remedy() {
    for (file, from, to, place, word) in [
        (
            "spin.toml",
            "source = \"build/gate.wasm\"",
            "sauce = \"build/gate.wasm\"",
            "spin.toml:",
            "sauce",
        ),
        (
            "spin.toml",
            "build/validation.wasm",
            "build/gone.wasm",
            "spin.toml:",
            "gone.wasm",
        ),
        (
            "spin.toml",
            "{ component = \"validation\" }",
            "{ component = \"nobody\" }",
            "spin.toml:",
            "nobody",
        ),
        (
            "spin.toml",
            "route = \"/...\"",
            "route = \"nowhere\"",
            "spin.toml:",
            "nowhere",
        ),
        (
            "penstock.toml",
            "max_in_flight = 512",
            "max_in_fligth = 512",
            "penstock.toml:10",
            "max_in_fligth",
        ),
        (
            "penstock.toml",
            "max_in_flight = 512",
            "max_in_flight = 0",
            "penstock.toml:10",
            "max_in_flight",
        ),
        (
            "models/identity/model.toml",
            "datatype = \"FP32\"",
            "datatype = \"FP23\"",
            "models/identity/model.toml:6",
            "FP23",
        ),
        (
            "models/identity/model.toml",
            "name = \"b\"",
            "name = \"c\"",
            "models/identity/model.toml:",
            "\"c\"",
        ),
        (
            "models/identity/model.toml",
            "shape = [\"N\", 4]",
            "shape = [\"N\", 5]",
            "models/identity/model.toml:",
            "5",
        ),
        (
            "models/digits/model.toml",
            "labels = [\"0\", ",
            "labels = [",
            "models/digits/model.toml:",
            "label",
        ),
        (
            "models/digits/model.toml",
            "[limits]",
            "[limit]",
            "models/digits/model.toml:",
            "limit",
        ),
    ] {
        let folder = application();
        change(folder.path(), file, from, to);
        let (passed, text) = check(folder.path());
        assert!(!passed, "{to} passed: {text}");
        let found = text
            .lines()
            .find(|line| line.contains(place) && line.contains(word));
        assert!(found.is_some(), "{place} … {word} in:\n{text}");
        assert!(text.contains("remedy:"), "{text}");
    }
}

#[test]
fn a_graph_that_is_no_graph_and_a_dependency_that_reaches_out_are_found() {
    let folder = application();
    std::fs::write(
        folder.path().join("models/digits/1/model.onnx"),
        b"not a graph",
    )
    .unwrap();
    let (passed, text) = check(folder.path());
    assert!(
        !passed && text.contains("models/digits/model.toml"),
        "{text}"
    );

    // The gate reads files and speaks HTTP: as a dependency that inherits nothing it must be refused.
    let folder = application();
    change(
        folder.path(),
        "spin.toml",
        "source = \"build/validation.wasm\"",
        "source = \"build/gate.wasm\"",
    );
    let (passed, text) = check(folder.path());
    assert!(!passed && text.contains("validation"), "{text}");
}

#[test]
fn models_that_do_not_fit_into_their_budget_are_found_and_so_is_a_budget_that_is_none() {
    let folder = application();
    let policy = folder.path().join("penstock.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    let with = |models: &str| {
        std::fs::write(&policy, format!("{text}\n[models]\n{models}\n")).unwrap();
        check(folder.path())
    };
    let (sound, said) = with("memory_budget_bytes = 1000000000");
    assert!(sound, "{said}");
    let (sound, said) = with("memory_budget_bytes = 1000");
    let line = said
        .lines()
        .find(|line| line.contains("allows 1000 for all models"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(!sound && line.contains("digits/model.toml"), "{line}");
    let (sound, said) = with("memory_budget_bytes = 0\npoll_interval_ms = 1");
    for part in [
        "`memory_budget_bytes` must be at least 1",
        "`poll_interval_ms` must be 0",
    ] {
        assert!(!sound && said.contains(part), "{said}");
    }
}

#[test]
fn a_missing_contract_is_one_finding_where_none_may_be_derived() {
    let folder = application();
    std::fs::remove_file(folder.path().join("models/digits/model.toml")).unwrap();
    let policy = folder.path().join("penstock.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, format!("{text}\n[models]\nderive = false\n")).unwrap();
    let (passed, said) = check(folder.path());
    assert!(!passed && said.contains("1 errors"), "{said}");
    assert!(
        said.contains("has no model.toml") && said.contains("penstock init"),
        "{said}"
    );
    std::fs::write(&policy, text).unwrap();
    let (passed, said) = check(folder.path());
    assert!(passed, "derived: {said}");
}

#[test]
fn a_file_without_a_valid_secret_for_webhooks_is_found_and_no_secret_is_shown() {
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let folder = application();
    let policy = folder.path().join("penstock.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    // The file is beside the policy.
    let tenant = "[[webhooks.tenants]]\ntenant = \"acme\"\nsecrets_file = \"acme.secret\"\n";
    std::fs::write(&policy, format!("{text}\n{tenant}")).unwrap();
    let (passed, said) = check(folder.path());
    assert!(!passed && said.contains("1 errors"), "{said}");
    for part in ["acme.secret", "cannot be read", "tenant acme", "remedy:"] {
        assert!(said.contains(part), "{part} in:\n{said}");
    }
    let with = |secret: &str| {
        std::fs::write(folder.path().join("acme.secret"), secret).unwrap();
        check(folder.path())
    };
    let (passed, said) = with(&format!("# a character too many\n{SECRET}=\n"));
    assert!(!passed && said.contains("no secret in line 2"), "{said}");
    assert!(!said.contains("C2FVsBQI"), "{said}");
    let (passed, said) = with(&format!("{SECRET}\n"));
    assert!(passed, "{said}");
}
