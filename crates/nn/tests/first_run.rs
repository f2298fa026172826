//! The runs of a model before it serves, and the messages about a model that runs on no input; graphs that a backend is
//! too old for; and indices outside of a table.

use crate::support;

use penstock_nn::backend::tract::Tract;
use penstock_nn::backend::versions;
use penstock_nn::{
    Backends, ErrorCode, Graph, GraphSource, LoadOptions, Model, NnTensor, Repository, Settings,
    State, TensorType,
};
use penstock_tensor::contract::Format;
use std::path::Path;
use support::{
    D, Node, P, every_backend, onnx_bytes, onnx_type, onnxruntime, p, quantised_table, table,
};

struct Models(tempfile::TempDir);

impl Models {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Loads the model `m` and says whether it is ready, or why not.
    fn load(&self, backends: Backends) -> Result<(), String> {
        let settings = Settings {
            derive: true,
            ..Settings::default()
        };
        let repository = Repository::open(self.0.path(), backends, settings).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut outcome = Err("nothing was reported".to_owned());
        runtime.block_on(repository.load_all(|report| {
            outcome = match &report.state {
                State::Ready(_) => Ok(()),
                State::Failed(reason) => Err(reason.to_string()),
                state => Err(state.as_str().to_owned()),
            };
        }));
        outcome
    }
}

fn backends() -> Backends {
    Backends::builtin().prefer(onnxruntime())
}

fn contract(inputs: &[P], outputs: &[P], more: &str) -> String {
    let table = |side: &str, port: &P| {
        let ty = match port.ty {
            onnx_type::FLOAT => "FP32",
            onnx_type::INT64 => "INT64",
            ty => panic!("type {ty}"),
        };
        let dims: Vec<String> = (port.dims.as_ref().unwrap().iter())
            .map(|dim| match dim {
                D::N(length) => length.to_string(),
                D::S(name) => format!("{name:?}"),
                D::Open => "\"open\"".into(),
            })
            .collect();
        format!(
            "[[{side}]]\nname = {:?}\ndatatype = \"{ty}\"\nshape = [{}]\n",
            port.name,
            dims.join(", ")
        )
    };
    let inputs: String = inputs.iter().map(|port| table("inputs", port)).collect();
    let outputs: String = outputs.iter().map(|port| table("outputs", port)).collect();
    format!("description = \"for tests\"\n{inputs}{outputs}{more}")
}

#[test]
fn models_that_do_not_bear_zeros_at_the_least_lengths_load() {
    let fp = onnx_type::FLOAT;
    let int = onnx_type::INT64;
    let x = |dims: &[D]| p("x", fp, dims);
    let of = |name: &'static str, length| p(name, int, &[D::N(length)]);
    let cases: Vec<(&str, Vec<&'static str>, Vec<P>)> = vec![
        (
            "Reshape",
            vec!["x", "s"],
            vec![x(&[D::N(2), D::N(3)]), of("s", 2)],
        ),
        (
            "Expand",
            vec!["x", "s"],
            vec![x(&[D::N(2), D::N(3)]), of("s", 2)],
        ),
        (
            "Tile",
            vec!["x", "s"],
            vec![x(&[D::N(2), D::N(3)]), of("s", 2)],
        ),
        (
            "Split",
            vec!["x", "s"],
            vec![x(&[D::N(6), D::N(3)]), of("s", 1)],
        ),
        (
            "Slice",
            vec!["x", "a", "b", "s"],
            vec![x(&[D::N(4)]), of("a", 1), of("b", 1), of("s", 1)],
        ),
        (
            "ReduceSum",
            vec!["x", "s"],
            vec![x(&[D::N(2), D::N(3)]), of("s", 1)],
        ),
        (
            "TopK",
            vec!["x", "s"],
            vec![x(&[D::N(2), D::N(3)]), of("s", 1)],
        ),
        (
            "Conv",
            vec!["x", "w"],
            vec![
                x(&[D::N(1), D::N(1), D::S("L")]),
                p("w", fp, &[D::N(1), D::N(1), D::N(5)]),
            ],
        ),
    ];
    for (operator, takes, inputs) in cases {
        let gives = if operator == "TopK" {
            vec!["y", "i"]
        } else {
            vec!["y"]
        };
        let declared = P {
            name: "y",
            ty: fp,
            dims: None,
        };
        let graph = onnx_bytes(
            &[Node(operator, takes, gives)],
            &inputs,
            std::slice::from_ref(&declared),
        );
        let dims: &[D] = match operator {
            "Slice" => &[D::S("a")],
            "Conv" => &[D::N(1), D::N(1), D::S("M")],
            _ => &[D::S("a"), D::S("b")],
        };
        let models = Models::new();
        models
            .file("m/model.toml", contract(&inputs, &[p("y", fp, dims)], ""))
            .file("m/1/model.onnx", graph);
        assert_eq!(models.load(backends()), Ok(()), "{operator}");
    }
}

#[test]
fn a_made_up_run_does_not_refuse_lengths_that_follow_from_values() {
    let int = onnx_type::INT64;
    let inputs = [
        p("x", onnx_type::FLOAT, &[D::N(4)]),
        p("from", int, &[D::N(1)]),
        p("to", int, &[D::N(1)]),
    ];
    let outputs = |length| [p("y", onnx_type::FLOAT, &[D::N(length)])];
    let graph = |operator: &'static str, takes: &[&'static str], length| {
        let node = Node(operator, takes.to_vec(), vec!["y"]);
        onnx_bytes(&[node], &inputs, &outputs(length))
    };
    let load = |graph, length| {
        let models = Models::new();
        models
            .file("m/model.toml", contract(&inputs, &outputs(length), ""))
            .file("m/1/model.onnx", graph);
        models.load(backends())
    };
    // No made-up bounds cut three elements off.
    let slice = graph("Slice", &["x", "from", "to"], 3);
    assert_eq!(load(slice, 3), Ok(()));
    // Known bounds decide, also against the shapes that the graph declares.
    let reason = load(graph("Neg", &["x"], 3), 3).expect_err("four elements come out");
    assert!(reason.contains("4"), "{reason}");
}

/// `y = x` reshaped to `s + t`, which must be a shape of six elements; nothing in the graph says so.
fn picky() -> (Vec<P>, Vec<P>, bytes::Bytes) {
    let inputs = vec![
        p("x", onnx_type::FLOAT, &[D::N(6)]),
        p("s", onnx_type::INT64, &[D::N(2)]),
        p("t", onnx_type::INT64, &[D::N(2)]),
    ];
    let outputs = vec![p("y", onnx_type::FLOAT, &[D::S("a"), D::S("b")])];
    let nodes = [
        Node("Add", vec!["s", "t"], vec!["shape"]),
        Node("Reshape", vec!["x", "shape"], vec!["y"]),
    ];
    let graph = onnx_bytes(&nodes, &inputs, &outputs);
    (inputs, outputs, graph)
}

#[test]
fn samples_are_run_in_place_of_what_is_made_up() {
    let (inputs, outputs, graph) = picky();
    let models = Models::new();
    let write = |more: &str| {
        models
            .file("m/model.toml", contract(&inputs, &outputs, more))
            .file("m/1/model.onnx", &graph);
    };
    write("");
    let reason = models.load(backends()).expect_err("nothing made up fits");
    for part in [
        "fails its first run",
        "made-up inputs",
        "the least values",
        "[[samples]]",
        "sample.json",
        "first_run = \"skip\"",
    ] {
        assert!(reason.contains(part), "{part} is not in: {reason}");
    }
    // The cause stands in the message, with its numbers.
    assert!(
        reason.contains('6') && reason.to_lowercase().contains("reshape"),
        "{reason}"
    );
    let sample = |s: &str| {
        format!("[[samples]]\ninputs = {{ x = [1, 2, 3, 4, 5, 6], s = {s}, t = [0, 0] }}\n")
    };
    write(&sample("[2, 3]"));
    assert_eq!(models.load(backends()), Ok(()));
    write(&sample("[4, 3]"));
    let reason = models.load(backends()).expect_err("twelve are not six");
    assert!(
        reason.contains("on sample 1 of model.toml") && reason.contains("correct the sample"),
        "{reason}"
    );
    write("");
    models.file(
        "m/sample.json",
        "{\"inputs\": {\"x\": [1, 2, 3, 4, 5, 6], \"s\": [1, 2], \"t\": [1, 1]}}",
    );
    assert_eq!(models.load(backends()), Ok(()));
    models.file("m/sample.json", "{\"inputs\": {\"x\": [1]}}");
    let reason = models.load(backends()).expect_err("it is no input");
    assert!(
        reason.contains("its sample.json is not a valid input") && reason.contains("/inputs/x"),
        "{reason}"
    );
    std::fs::remove_file(models.0.path().join("m/sample.json")).unwrap();
    write("[engine]\nfirst_run = \"skip\"\n");
    assert_eq!(models.load(backends()), Ok(()));
}

#[test]
fn an_index_outside_of_its_table_is_the_callers_error_on_every_backend() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for graph in [table(10), quantised_table(10)] {
        std::fs::write(&path, graph).unwrap();
        let options = LoadOptions {
            instances: Some(1),
            ..LoadOptions::default()
        };
        for backend in every_backend() {
            let name = backend.name();
            let model = Model::load(
                "m",
                "1",
                &*backend,
                &GraphSource::from(path.as_path()),
                &options,
            )
            .expect(name);
            let call = |indices: &[i64]| {
                let bytes: Vec<u8> = indices
                    .iter()
                    .flat_map(|index| index.to_le_bytes())
                    .collect();
                let tensor =
                    NnTensor::new(TensorType::I64, vec![indices.len() as u32], bytes).unwrap();
                runtime.block_on(model.infer(vec![("x".into(), tensor)]))
            };
            assert!(call(&[0, 9]).is_ok(), "{name}");
            for wrong in [&[3, 10][..], &[-11], &[i64::MAX], &[i64::MIN]] {
                let error = call(wrong).expect_err(name);
                assert_eq!(error.code, ErrorCode::InvalidArgument, "{name}: {error}");
                assert!(
                    error.message.contains("input \"x\"") && error.message.contains("table of 10"),
                    "{name}: {error}"
                );
            }
            assert!(call(&[0]).is_ok(), "{name} goes on");
        }
    }
}

#[test]
fn a_computed_index_outside_of_its_table_is_the_callers_error_where_the_backend_tells() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // Both the table and the indices come with the call.
    let graph = onnx_bytes(
        &[Node("Gather", vec!["w", "x"], vec!["y"])],
        &[
            p("w", onnx_type::FLOAT, &[D::N(3)]),
            p("x", onnx_type::INT64, &[D::S("N")]),
        ],
        &[p("y", onnx_type::FLOAT, &[D::S("N")])],
    );
    for backend in [onnxruntime(), std::sync::Arc::new(Tract)] {
        let name = backend.name();
        let source = GraphSource::Bytes(graph.clone());
        let model = Model::load("m", "1", &*backend, &source, &LoadOptions::default()).expect(name);
        let inputs = vec![
            ("w".into(), support::fp32(&[3], &[1.0, 2.0, 3.0])),
            (
                "x".into(),
                NnTensor::new(TensorType::I64, vec![1], 7i64.to_le_bytes().to_vec()).unwrap(),
            ),
        ];
        let error = runtime.block_on(model.infer(inputs)).expect_err(name);
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{name}: {error}");
    }
}

fn described(folder: &Path, ir: u64, opset: u64) -> Graph {
    let path = folder.join(format!("{ir}-{opset}.onnx"));
    std::fs::write(&path, versions::smallest(ir, opset)).unwrap();
    Graph::read(&path).expect("it is ONNX")
}

#[test]
fn a_graph_that_is_too_new_goes_to_a_backend_that_reads_it_or_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let graph = described(folder.path(), 99, 28);
    let backends = backends();
    let reads = onnxruntime().reads().expect("it tells");
    assert!(reads.opset >= 24 && reads.ir >= 12, "{reads:?}");
    let (chosen, why) = backends
        .choose_for_graph("auto", Format::Onnx, Some(&graph))
        .expect("tract reads any");
    let why = why.expect("it is not the first");
    assert_eq!(chosen.name(), "tract");
    assert!(
        why.contains("onnxruntime") && why.contains("99") && why.contains(&reads.ir.to_string()),
        "{why}"
    );
    let error = backends
        .choose_for_graph("onnxruntime", Format::Onnx, Some(&graph))
        .err()
        .expect("too new");
    assert!(
        error.message.contains("99") && error.message.contains("older opset"),
        "{error}"
    );
    let graph = described(folder.path(), 10, reads.opset + 1);
    let error = backends
        .choose_for_graph("onnxruntime", Format::Onnx, Some(&graph))
        .err()
        .expect("too new");
    assert!(
        error
            .message
            .contains(&format!("opsets up to {}", reads.opset)),
        "{error}"
    );
    let old = described(folder.path(), 8, 17);
    let (chosen, why) = backends
        .choose_for_graph("auto", Format::Onnx, Some(&old))
        .expect("everybody reads it");
    assert_eq!((chosen.name(), why), ("onnxruntime", None));
}

#[test]
fn a_folder_without_a_contract_serves_under_one_that_is_derived() {
    let models = Models::new();
    let x = p("x", onnx_type::FLOAT, &[D::S("batch"), D::N(3)]);
    let y = P {
        name: "y",
        ..x.clone()
    };
    models.file(
        "m/1/model.onnx",
        onnx_bytes(&[Node("Relu", vec!["x"], vec!["y"])], &[x], &[y]),
    );
    assert_eq!(models.load(backends()), Ok(()));
    let settings = Settings::default();
    let repository = Repository::open(models.0.path(), backends(), settings).unwrap();
    let refused = repository.get("m", None).err().expect("deriving is off");
    assert!(
        refused.message().contains("has no model.toml")
            && refused.message().contains("penstock init"),
        "{refused}"
    );
}

/// A graph whose output has the axes of `came`, and which declares those of `declared`.
fn liar(declared: &[D]) -> Vec<u8> {
    let x = p("x", onnx_type::FLOAT, &[D::S("N"), D::N(3)]);
    let y = p("y", onnx_type::FLOAT, declared);
    onnx_bytes(&[Node("Relu", vec!["x"], vec!["y"])], &[x], &[y]).to_vec()
}

#[test]
fn a_folder_without_a_contract_serves_the_shapes_that_a_run_gives() {
    // As CatBoost and LightGBM declare them: an axis less, and a length of one.
    for declared in [&[D::S("N")][..], &[D::N(1), D::N(3)]] {
        let models = Models::new();
        models.file("m/1/model.onnx", liar(declared));
        let settings = Settings {
            derive: true,
            ..Settings::default()
        };
        let repository = Repository::open(models.0.path(), backends(), settings).unwrap();
        let mut events = repository.events();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut states = Vec::new();
        runtime.block_on(repository.load_all(|report| {
            states.push(report.state.as_str().to_owned());
        }));
        assert_eq!(states, ["READY"], "it is never reported as failed");
        let contract = repository.contract("m").expect("it has one");
        assert_eq!(contract.outputs[0].shape_text(), "[N, 3]");
        let told: Vec<String> = std::iter::from_fn(|| events.try_recv().ok())
            .map(|event| event.text)
            .filter(|text| text.contains("another shape"))
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
    }
}
