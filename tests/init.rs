//! `penstock init` and `penstock describe` on the models that scripts/models fetches, and on their bare graphs.

use crate::common::{Options, Server, media, onnxruntime, root, write};
use crate::support::{D, Node, graphs, onnx_bytes, onnx_type, p};
use serde_json::{Value, json};
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

/// The models that are here: without scripts/models, those of the repository.
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

/// Writes a graph whose output has the shape `[N, 3]`, and which declares another one.
fn write_misdeclared(models: &Path, name: &str, declared: &[D]) {
    let x = p("x", onnx_type::FLOAT, &[D::S("N"), D::N(3)]);
    let y = p("y", onnx_type::FLOAT, declared);
    let graph = onnx_bytes(&[Node("Relu", vec!["x"], vec!["y"])], &[x], &[y]);
    write(models, &format!("{name}/1/model.onnx"), graph);
}

#[test]
fn a_contract_that_the_first_run_corrected_survives_unloading_and_loading() {
    let models = tempfile::tempdir().unwrap();
    // As LightGBM and CatBoost declare them: an axis less, and a length of one.
    write_misdeclared(models.path(), "axis", &[D::S("N")]);
    write_misdeclared(models.path(), "length", &[D::N(1), D::N(3)]);
    let server = Server::start_with(Options {
        models: Some(models.path().to_owned()),
        policy: Some("[models]\ncontrol = true\n"),
        ..Options::default()
    });
    server.ready();
    for name in ["axis", "length"] {
        let predict = || {
            let body = r#"{"inputs":{"x":[[-1,0,2],[3,-4,5]]}}"#;
            server.post_json(&format!("/v1/models/{name}:predict"), body)
        };
        let served = || {
            let answer = predict();
            let text = String::from_utf8_lossy(&answer.bytes);
            assert_eq!(answer.status, 200, "{name}: {text}");
            let metadata = server.get(&format!("/v2/models/{name}")).json();
            let shape = metadata["outputs"][0]["shape"].clone();
            (answer.json()["predictions"].clone(), shape)
        };
        let expected = json!([{ "y": [0.0, 0.0, 2.0] }, { "y": [3.0, 0.0, 5.0] }]);
        assert_eq!(served(), (expected, json!([-1, 3])), "{name}");
        let control = |what: &str| {
            let path = format!("/v2/repository/models/{name}/{what}");
            server.post_json(&path, "{}").status
        };
        let before = served();
        assert_eq!(control("unload"), 200, "{name}");
        assert_eq!(predict().status, 503, "{name}");
        assert_eq!(control("load"), 200, "{name}");
        assert_eq!(served(), before, "{name}");
        // The second load began with the corrected contract.
        let logged = |text: &str| {
            let line = format!("model {name} version 1: {text}");
            let log = server.log.lock().unwrap();
            log.iter().filter(|logged| logged.contains(&line)).count()
        };
        server.until("it is loaded again", || logged("ready") >= 2);
        assert_eq!(logged("the graph declares another shape"), 1, "{name}");
    }
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

/// Puts a graph of tests/data/texts and its tokenizer into a folder, as an export of transformers has them.
fn export(into: &Path, graph: &str, files: &[(&str, Value)]) -> std::path::PathBuf {
    let from = root().join("tests/data/texts").join(graph);
    let to = into.join(format!("export-{graph}"));
    std::fs::create_dir_all(to.join("onnx")).unwrap();
    std::fs::copy(from.join("1/model.onnx"), to.join("onnx/model.onnx")).unwrap();
    std::fs::copy(from.join("tokenizer.json"), to.join("tokenizer.json")).unwrap();
    for (name, content) in files {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content.to_string()).unwrap();
    }
    to
}

/// The `config.json` that lies beside a graph of tests/data/texts, with the model's class.
fn config_of(graph: &str, class: &str) -> Value {
    let path = format!("tests/data/texts/{graph}/config.json");
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(root().join(path)).unwrap()).unwrap();
    config["architectures"] = json!([class]);
    config["max_position_embeddings"] = json!(64);
    config
}

/// Runs `init` on an export. Returns its output and the contract.
fn made(folder: &Path, graph: &str, files: &[(&str, Value)]) -> (String, String) {
    let from = export(folder, graph, files);
    let models = folder.join("models");
    let arguments = ["init", from.to_str().unwrap(), "--name", graph, "--force"];
    let (made, said) = penstock(&arguments, &models);
    assert!(made, "{graph}: {said}");
    let contract = std::fs::read_to_string(models.join(graph).join("model.toml")).unwrap();
    std::fs::remove_dir_all(from).unwrap();
    (said, contract)
}

#[test]
fn a_tagger_of_words_becomes_no_model_of_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let tags = config_of("people", "BertForTokenClassification");
    let (said, contract) = made(folder.path(), "people", &[("config.json", tags)]);
    assert!(
        contract.contains("\n[adapter]\nname = \"token-classification\"\n"),
        "{said}{contract}"
    );
    assert!(said.contains("token-classification answers"), "{said}");
    // The graph and the tokenizer alone do not tell the meaning of the numbers.
    let (said, contract) = made(folder.path(), "people", &[]);
    assert!(!contract.contains("[adapter]"), "{contract}");
    assert!(
        said.contains("? What does the model make of a text"),
        "{said}"
    );
}

#[test]
fn exports_of_transformers_answer_texts_without_an_edit() {
    let folder = tempfile::tempdir().unwrap();
    let golden = std::fs::read(root().join("tests/data/texts/golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    for (name, class, adapter) in [
        (
            "toxic",
            "BertForSequenceClassification",
            "text-classification",
        ),
        ("overlap", "BertForSequenceClassification", "cross-encoder"),
        (
            "people",
            "BertForTokenClassification",
            "token-classification",
        ),
    ] {
        let (said, contract) = made(
            folder.path(),
            name,
            &[("config.json", config_of(name, class))],
        );
        assert!(
            contract.contains(&format!("\n[adapter]\nname = \"{adapter}\"\n")),
            "{said}{contract}"
        );
    }
    let server = Server::start_with(Options {
        models: Some(folder.path().join("models")),
        ..Options::default()
    });
    server.ready();
    let asked = |path: &str, body: Value| {
        let answer = server.post_json(path, &body.to_string());
        let said = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{path}: {said}");
        answer.json()
    };
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-6;
    let classified = asked(
        "/v1/classify",
        json!({ "model": "toxic", "input": golden["texts"] }),
    );
    for (one, expected) in
        (classified["data"].as_array().unwrap().iter()).zip(golden["toxic"].as_array().unwrap())
    {
        assert!(close(&one["probs"][0], &expected[0]), "{one}");
        assert!(close(&one["probs"][1], &expected[1]), "{one}");
    }
    let scored = asked(
        "/v1/score",
        json!({ "model": "overlap", "text_1": golden["queries"][0], "text_2": golden["texts"] }),
    );
    for (one, expected) in
        (scored["data"].as_array().unwrap().iter()).zip(golden["overlap"][0].as_array().unwrap())
    {
        assert!(close(&one["score"], expected), "{one}");
    }
    let tagged = server
        .post("/v1/models/people:predict", "text/plain", b"Ann met Bob")
        .json();
    let entities = &tagged["predictions"][0]["entities"];
    assert_eq!(entities[0]["entity_group"], "PER", "{tagged}");
    assert_eq!(entities[1]["word"], "Bob", "{tagged}");
}

#[test]
fn vectors_of_tokens_become_those_of_texts_only_as_a_file_says() {
    let folder = tempfile::tempdir().unwrap();
    // The graph gives five numbers for each token. Nothing but the files says that they are a vector.
    let model = json!({ "architectures": ["BertModel"], "max_position_embeddings": 64 });
    let pooling = json!({ "word_embedding_dimension": 5, "pooling_mode_cls_token": true,
        "pooling_mode_mean_tokens": false });
    let steps = json!([
        { "type": "sentence_transformers.models.Transformer" },
        { "type": "sentence_transformers.models.Pooling" }
    ]);
    let (said, contract) = made(
        folder.path(),
        "people",
        &[
            ("config.json", model.clone()),
            ("1_Pooling/config.json", pooling),
            ("modules.json", steps),
        ],
    );
    assert!(
        contract.contains("\n[adapter]\nname = \"text-embedding\"\n"),
        "{said}{contract}"
    );
    let written = folder.path().join("models/people/adapter.json");
    let written: Value = serde_json::from_slice(&std::fs::read(written).unwrap()).unwrap();
    let expected = json!({ "inputs": ["input_ids", "attention_mask", "token_type_ids"], "max_tokens": 64,
        "dimensions": 5, "pooling": "cls", "normalize": false });
    assert_eq!(written, expected);
    let (said, contract) = made(folder.path(), "people", &[("config.json", model)]);
    assert!(
        contract.contains("\n# [adapter]\n# name = \"text-embedding\"\n"),
        "{said}{contract}"
    );
    assert!(
        said.contains("? How do the vectors of the tokens become one?"),
        "{said}"
    );
    let written = folder.path().join("models/people/adapter.json");
    assert!(
        !std::fs::read_to_string(written)
            .unwrap()
            .contains("pooling")
    );
}

#[test]
fn an_adapter_that_does_not_answer_an_example_stays_a_comment_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = root().join("tests/data/texts/toxic/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(tokenizer).unwrap()).unwrap();
    tokenizer["pre_tokenizer"] = json!({ "type": "UnknownSplitter" });
    let config = config_of("toxic", "BertForSequenceClassification");
    let (said, contract) = made(
        folder.path(),
        "toxic",
        &[("config.json", config), ("tokenizer.json", tokenizer)],
    );
    assert!(contract.contains("\n# [adapter]\n"), "{contract}");
    assert!(
        said.contains("did not answer an example") && said.contains("UnknownSplitter"),
        "{said}"
    );
}

/// `y = Double(x)`, with an operator of a domain that no backend has.
fn doubles() -> Vec<u8> {
    use graphs::{FLOAT, number, part, value};
    const DOMAIN: &str = "example.ops";
    let node = [
        part(1, "x"),
        part(2, "y"),
        part(4, "Double"),
        part(7, DOMAIN),
    ];
    let graph = graphs::graph(
        &[part(1, node.concat())],
        &[],
        &[value("x", FLOAT, &[0, 3])],
        &[value("y", FLOAT, &[0, 3])],
    );
    let opset = [part(1, DOMAIN), number(2, 1)].concat();
    [graphs::file(&graph), part(8, opset)].concat()
}

#[test]
fn operators_of_an_unknown_domain_are_asked_about_and_an_unknown_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "doubles.onnx", doubles());
    let graph = folder.path().join("doubles.onnx");
    let models = folder.path().join("models");
    let (made, said) = penstock(&["init", graph.to_str().unwrap()], &models);
    assert!(made, "{said}");
    let question = "? Which library has the operators of the domain \"example.ops\" (\"Double\")?";
    for part in [
        question,
        "under [models.operators]: example_ops = ",
        "not run: the graph does not load: ",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let file = models.join("doubles/model.toml");
    let contract = std::fs::read_to_string(&file).unwrap();
    assert!(contract.contains(question), "{contract}");
    let commented = "\n# [engine]\n# operators = [\"example_ops\"]\n";
    assert!(contract.contains(commented), "{contract}");
    // The question is answered, and the server's settings have another library.
    let answered = commented.replace("\n# ", "\n");
    std::fs::write(&file, contract.replace(commented, &answered)).unwrap();
    let server = Server::start_with(Options {
        models: Some(models),
        policy_text: Some(format!(
            "[models.operators]\nother = \"{}\"\n",
            graph.display()
        )),
        ..Options::default()
    });
    server.logged(
        "model.toml asks for the operator library \"example_ops\", and the server's settings have \"other\"; name its \
         file under [models.operators]",
    );
    let body = r#"{"inputs":{"x":[[1,2,3]]}}"#;
    let answer = server.post_json("/v1/models/doubles:predict", body);
    assert_eq!(answer.status, 503);
}

/// Means of the three colours, then two classes.
fn classifier_of_images() -> Vec<u8> {
    use graphs::{FLOAT, int, ints, node, reals, value};
    let axes = [ints("axes", &[2, 3]), int("keepdims", 0)];
    graphs::file(&graphs::graph(
        &[
            node("ReduceMean", &["pixel_values"], &["means"], &axes),
            node("MatMul", &["means", "w"], &["logits"], &[]),
        ],
        &[reals("w", &[3, 2], &[0.1, -0.1, 0.0, 0.2, 0.3, 0.0])],
        &[value("pixel_values", FLOAT, &[0, 3, 8, 12])],
        &[value("logits", FLOAT, &[0, 2])],
    ))
}

#[test]
fn an_export_of_an_image_model_answers_a_png_without_an_edit() {
    let folder = tempfile::tempdir().unwrap();
    let preparation = json!({
        "do_resize": true, "size": { "height": 8, "width": 12 }, "resample": 2, "do_rescale": true,
        "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    });
    let config = json!({
        "architectures": ["ViTForImageClassification"], "id2label": { "0": "cat", "1": "dog" },
    });
    write(
        folder.path(),
        "export/onnx/model.onnx",
        classifier_of_images(),
    );
    for (file, content) in [
        ("preprocessor_config.json", preparation),
        ("config.json", config),
    ] {
        write(
            folder.path(),
            &format!("export/{file}"),
            content.to_string(),
        );
    }
    let export = folder.path().join("export");
    let models = folder.path().join("models");
    let arguments = ["init", export.to_str().unwrap(), "--name", "animals"];
    let (made, said) = penstock(&arguments, &models);
    assert!(
        made && said.contains("the adapter image answers "),
        "{said}"
    );
    let server = Server::start_with(Options {
        models: Some(models),
        ..Options::default()
    });
    server.ready();
    let colour = [200u8, 100, 50];
    let answer = server.post(
        "/v1/models/animals:predict",
        "image/png",
        &media::png(12, 8, colour),
    );
    let said = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{said}");
    let (means, deviations) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);
    let values: Vec<f64> = (0..3)
        .map(|at| (f64::from(colour[at]) - means[at]) / deviations[at])
        .collect();
    let cat = 0.1 * values[0] + 0.3 * values[2];
    let dog = -0.1 * values[0] + 0.2 * values[1];
    let expected = cat.exp() / (cat.exp() + dog.exp());
    let scores = answer.json()["predictions"][0]["scores"].clone();
    let score = |label: &str| scores[label].as_f64().unwrap_or_else(|| panic!("{said}"));
    assert!((score("cat") - expected).abs() < 1e-4, "{expected}: {said}");
    assert!((score("cat") + score("dog") - 1.0).abs() < 1e-5, "{said}");
}

/// The ports of Silero VAD. The probability of speech is the largest sample of a chunk, without its sign.
fn detector_of_speech() -> Vec<u8> {
    use graphs::{FLOAT, INT64, int, ints, node, value};
    let axes = [ints("axes", &[1]), int("keepdims", 1)];
    graphs::file(&graphs::graph(
        &[
            node("Abs", &["input"], &["loud"], &[]),
            node("ReduceMax", &["loud"], &["output"], &axes),
            node("Identity", &["state"], &["stateN"], &[]),
        ],
        &[],
        &[
            value("input", FLOAT, &[0, 576]),
            value("state", FLOAT, &[2, 0, 128]),
            value("sr", INT64, &[]),
        ],
        &[
            value("output", FLOAT, &[0, 1]),
            value("stateN", FLOAT, &[2, 0, 128]),
        ],
    ))
}

#[test]
fn a_graph_with_the_ports_of_silero_vad_answers_a_recording_without_an_edit() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "speech.onnx", detector_of_speech());
    let graph = folder.path().join("speech.onnx");
    let models = folder.path().join("models");
    let (made, said) = penstock(&["init", graph.to_str().unwrap()], &models);
    assert!(
        made && said.contains("the adapter silero-vad answers "),
        "{said}"
    );
    let server = Server::start_with(Options {
        models: Some(models),
        ..Options::default()
    });
    server.ready();
    // Half a second of silence, half a second of a tone, half a second of silence.
    let half = 8_000;
    let tone = (0..half).map(|at| if at % 40 < 20 { 29_000 } else { -29_000 });
    let silence = || std::iter::repeat_n(0i16, half);
    let samples: Vec<i16> = silence().chain(tone).chain(silence()).collect();
    let answer = server.post(
        "/v1/models/speech:predict",
        "audio/wav",
        &media::wav(16_000, &samples),
    );
    let said = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{said}");
    let heard = answer.json()["predictions"][0].clone();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(
        heard["segments"].as_array().map(Vec::len),
        Some(1),
        "{said}"
    );
    let segment = &heard["segments"][0];
    assert!((number(&segment["start"]) - 0.5).abs() < 0.1, "{said}");
    assert!((number(&segment["end"]) - 1.0).abs() < 0.1, "{said}");
    assert!(
        (number(&heard["probability"]) - 0.885).abs() < 0.01,
        "{said}"
    );
    assert!((number(&heard["duration"]) - 1.5).abs() < 0.01, "{said}");
}
