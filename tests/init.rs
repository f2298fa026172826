//! `penstock init` and `penstock describe` on the models that scripts/models fetches, and on their bare graphs.

use crate::common::{Options, Server, onnxruntime, root};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn penstock(arguments: &[&str], models: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .current_dir(root())
        .env_remove("PENSTOCK_OPENVINO")
        .args(arguments)
        .arg("--onnxruntime")
        .arg(onnxruntime())
        .arg("--models")
        .arg(models)
        .output()
        .expect("the command runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// The available models: without scripts/models, those of the repository.
fn graphs() -> Vec<(String, std::path::PathBuf)> {
    let folders = std::fs::read_dir(root().join("models")).unwrap().flatten();
    let mut graphs: Vec<_> = folders
        .map(|folder| {
            let name = folder.file_name().into_string().unwrap();
            (name, folder.path().join("1/model.onnx"))
        })
        .filter(|(_, graph)| graph.is_file())
        .collect();
    graphs.sort();
    assert!(
        graphs.len() >= 2,
        "digits and identity are in the repository"
    );
    graphs
}

#[test]
fn every_model_serves_without_an_edit_and_the_printed_command_works() {
    let models = tempfile::tempdir().unwrap();
    let mut commands = Vec::new();
    for (name, graph) in graphs() {
        let graph = graph.to_str().unwrap();
        let (made, said) = penstock(&["init", graph, "--name", &name], models.path());
        assert!(made, "{name}: {said}");
        let command = said.lines().find(|line| line.trim().starts_with("curl "));
        let command = command.unwrap_or_else(|| panic!("{name}: {said}"));
        commands.push((name, command.trim().to_owned()));
    }
    let server = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    server.ready();
    for (name, command) in commands {
        let file = command.rsplit('\'').nth(1).unwrap();
        let body = std::fs::read_to_string(file).unwrap();
        let path = format!("/v1/models/{name}:predict");
        assert!(
            command.contains(&path) && command.contains(&format!("-d @'{file}'")),
            "{command}"
        );
        let answer = server.post_json(&path, &body);
        assert_eq!(
            answer.status,
            200,
            "{name}: {}",
            String::from_utf8_lossy(&answer.bytes)
        );
    }
}

#[test]
fn a_folder_that_is_there_is_not_overwritten() {
    let models = tempfile::tempdir().unwrap();
    let graph = root().join("models/digits/1/model.onnx");
    let init = |more: &[&str]| {
        let arguments = [&["init", graph.to_str().unwrap(), "--name", "d"], more].concat();
        penstock(&arguments, models.path())
    };
    assert!(init(&[]).0);
    let contract = models.path().join("d/model.toml");
    std::fs::write(&contract, "mine").unwrap();
    let (made, said) = init(&[]);
    assert!(!made && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read_to_string(&contract).unwrap(), "mine");
    let (made, said) = init(&["--force"]);
    assert!(made, "{said}");
    assert!(
        std::fs::read_to_string(&contract)
            .unwrap()
            .contains("[[inputs]]")
    );
}

#[test]
fn a_graph_is_described_for_people_and_for_programs() {
    let graph = root().join("models/digits/1/model.onnx");
    let models = tempfile::tempdir().unwrap();
    let (_, said) = penstock(&["describe", graph.to_str().unwrap()], models.path());
    for part in [
        "ONNX, IR",
        "ai.onnx",
        "pixels",
        "FP32",
        "onnxruntime",
        "loads it",
        "parameters",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let (sound, said) = penstock(
        &["describe", "--json", graph.to_str().unwrap()],
        models.path(),
    );
    let document: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(
        sound && document["inputs"][0]["name"] == "pixels",
        "{document}"
    );
    assert!(
        document["backends"]
            .as_array()
            .unwrap()
            .iter()
            .all(|backend| backend["loads"] == true),
        "{document}"
    );
    let (sound, said) = penstock(&["describe", "Cargo.toml"], models.path());
    assert!(!sound && said.contains("not an ONNX file"), "{said}");
}

#[test]
fn a_graph_without_a_contract_serves_on_loopback_and_not_where_that_is_off() {
    let models = tempfile::tempdir().unwrap();
    let version = models.path().join("bare/1");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::copy(
        root().join("models/digits/1/model.onnx"),
        version.join("model.onnx"),
    )
    .unwrap();
    let row = vec!["0"; 64].join(",");
    let body = format!("{{\"inputs\":{{\"pixels\":[[{row}]]}}}}");
    let serve = |policy| {
        Server::start_with(Options {
            models: Some(models.path().to_owned()),
            policy: Some(policy),
            ..Options::default()
        })
    };
    let server = serve("");
    server.ready();
    let answer = server.post_json("/v1/models/bare:predict", &body);
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
    drop(server);
    let server = serve("[models]\nderive = false\n");
    let answer = server.post_json("/v1/models/bare:predict", &body);
    assert!(
        [404, 503].contains(&answer.status),
        "{}",
        String::from_utf8_lossy(&answer.bytes)
    );
}

#[test]
fn classifiers_of_others_serve_with_their_probabilities_and_without_an_edit() {
    let models = tempfile::tempdir().unwrap();
    let names = [
        "forest-zipmap",
        "lightgbm-zipmap",
        "forest-integers",
        "columns",
    ];
    for name in names {
        let graph = root().join(format!("tests/data/types/{name}/1/model.onnx"));
        let (made, said) = penstock(
            &["init", graph.to_str().unwrap(), "--name", name],
            models.path(),
        );
        assert!(made, "{name}: {said}");
    }
    let server = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        ..Options::default()
    });
    server.ready();
    for name in names {
        let body = std::fs::read_to_string(models.path().join(name).join("sample.json")).unwrap();
        let answer = server.post_json(&format!("/v1/models/{name}:predict"), &body);
        let said = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{name}: {said}");
        assert!(said.contains("probabilit"), "{name}: {said}");
    }
}
