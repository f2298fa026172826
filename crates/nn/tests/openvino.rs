//! Tests for OpenVINO alone: its own format, and types that it computes in less precision. Tests in common with the
//! other backends are in every_backend.rs, those of its library in library.rs.

use crate::support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_nn::backend::Backends;
use penstock_nn::backend::tract::Tract;
use penstock_nn::{
    Dim, ErrorCode, GraphSource, LoadOptions, NnError, NnTensor, PortType, Session, TensorType,
};
use support::*;

/// `y = x + w`, x of shape [N,4], as OpenVINO's exporters write it; the weights lie at `offset` in the other file.
fn own_format(dim: &str, offset: usize) -> String {
    let port = |id: u32, names: &str| {
        format!(
            r#"<port id="{id}" precision="FP32"{names}><dim>{dim}</dim><dim>4</dim></port>"#,
            dim = if dim == "?" { "-1" } else { dim }
        )
    };
    format!(
        r#"<?xml version="1.0"?>
<net name="g" version="11">
<layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="{dim},4" element_type="f32"/>
<output>{x}</output></layer>
<layer id="1" name="w" type="Const" version="opset1"><data element_type="f32" shape="1, 4" offset="{offset}" size="16"/>
<output><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></output></layer>
<layer id="2" name="sum" type="Add" version="opset1"><data auto_broadcast="numpy"/>
<input>{in0}<port id="1" precision="FP32"><dim>1</dim><dim>4</dim></port></input><output>{y}</output></layer>
<layer id="3" name="y/result" type="Result" version="opset1"><input>{in0}</input></layer>
</layers>
<edges>
<edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/>
</edges>
</net>"#,
        x = port(0, r#" names="x""#),
        y = port(2, r#" names="y""#),
        in0 = port(0, ""),
    )
}

/// A version's folder with a graph in OpenVINO's format; `weights` bytes of weights.
fn folder(xml: &str, weights: Option<usize>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.xml");
    std::fs::write(&path, xml).expect("written");
    if let Some(length) = weights {
        let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .cycle()
            .take(length)
            .collect();
        std::fs::write(folder.path().join("model.bin"), bytes).expect("written");
    }
    (folder, path)
}

fn load(path: &Path) -> Option<Result<Arc<dyn Session>, NnError>> {
    Some(openvino()?.load(&GraphSource::from(path), &LoadOptions::default()))
}

#[test]
fn a_graph_in_openvinos_format_runs_with_a_batch_of_any_size() {
    let (_folder, path) = folder(&own_format("?", 0), Some(16));
    let Some(loaded) = load(&path) else { return };
    let session = loaded.expect("loads");
    let (input, output) = (&session.inputs()[0], &session.outputs()[0]);
    assert_eq!((&*input.name, &*output.name), ("x", "y"));
    for port in [input, output] {
        assert_eq!(port.ty, PortType::Tensor(TensorType::Fp32));
        assert_eq!(
            port.dims,
            Some(vec![Dim::Symbolic(String::new()), Dim::Fixed(4)])
        );
    }
    let mut instance = session.instance().expect("an instance");
    for rows in [1u32, 7, 2, 64] {
        let outputs = instance
            .run(&[fp32(&[rows, 4], &vec![0.5; rows as usize * 4])])
            .expect("runs");
        assert_eq!(outputs[0].dims, [rows, 4]);
        assert_eq!(
            as_fp32(&outputs[0]),
            [1.5, 2.5, 3.5, 4.5].repeat(rows as usize)
        );
    }
}

#[test]
fn a_fixed_batch_is_described_as_fixed() {
    let (_folder, path) = folder(&own_format("2", 0), Some(16));
    let Some(loaded) = load(&path) else { return };
    let session = loaded.expect("loads");
    assert_eq!(
        session.inputs()[0].dims,
        Some(vec![Dim::Fixed(2), Dim::Fixed(4)])
    );
}

#[test]
fn a_graph_whose_weights_are_not_there_or_too_few_is_an_error_without_a_path() {
    for (weights, offset) in [
        (None, 0),
        (Some(0), 0),
        (Some(15), 0),
        (Some(16), 4),
        (Some(16), usize::MAX - 8),
    ] {
        let (folder, path) = folder(&own_format("?", offset), weights);
        let Some(loaded) = load(&path) else { return };
        let error = loaded
            .err()
            .unwrap_or_else(|| panic!("{weights:?} {offset} loaded"));
        assert_eq!(error.code, ErrorCode::InvalidEncoding, "{error}");
        let place = folder.path().to_string_lossy();
        assert!(!error.message.contains(&*place), "{error}");
    }
}

#[test]
fn a_file_that_is_not_in_openvinos_format_does_not_load() {
    for text in [
        "",
        "not xml",
        "<net/>",
        "<?xml version=\"1.0\"?><net name=\"g\" version=\"11\"></net>",
    ] {
        let (_folder, path) = folder(text, Some(16));
        let Some(loaded) = load(&path) else { return };
        assert!(loaded.is_err(), "{text:?} loaded");
    }
    let Some(loaded) = load(Path::new("no/such/model.xml")) else {
        return;
    };
    let error = loaded.err().expect("there is none");
    assert_eq!(error.code, ErrorCode::NotFound, "{error}");
}

#[test]
fn the_other_backends_say_that_the_format_is_openvinos() {
    let (_folder, path) = folder(&own_format("?", 0), Some(16));
    for backend in [onnxruntime(), Arc::new(Tract)] {
        let error = backend
            .load(&GraphSource::from(path.as_path()), &LoadOptions::default())
            .err()
            .expect("it reads ONNX");
        assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
        assert!(error.message.contains("backend = \"openvino\""), "{error}");
    }
}

#[test]
fn an_int64_it_would_cut_is_the_callers_error_and_fp64_the_graphs() {
    let Some(runtime) = openvino() else { return };
    let options = LoadOptions::default();
    let session = runtime
        .load(&identity(onnx_type::INT64, &[D::S("N")]), &options)
        .expect("loads");
    let mut instance = session.instance().expect("an instance");
    let mut run = |value: i64| {
        let tensor = NnTensor::new(TensorType::I64, vec![1], value.to_le_bytes().to_vec());
        instance.run(&[tensor.expect("sound")])
    };
    let error = run(1 << 40).expect_err("more than 32 bits");
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
    assert!(error.message.contains("1099511627776"), "{error}");
    assert!(run(1 << 30).is_ok(), "the instance still answers");
    let error = runtime
        .load(&identity(onnx_type::DOUBLE, &[D::S("N")]), &options)
        .err();
    let error = error.expect("it would compute in FP32");
    assert!(error.message.contains("computes FP64 in FP32"), "{error}");
}

#[test]
fn it_comes_after_onnx_runtime_and_before_tract() {
    let Some(path) = openvino_path() else { return };
    let backends = Backends::with(Some(&onnxruntime_path()), Some(&path)).expect("both load");
    let names: Vec<&str> = backends.list().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["onnxruntime", "openvino", "tract"]);
    let backends = Backends::with(None, Some(&path)).expect("loads");
    assert_eq!(
        backends.choose("auto").map(|backend| backend.name()),
        Ok("openvino")
    );
    let (_, version) = &backends.list()[0];
    assert!(
        version.starts_with("20") && !version.contains('-'),
        "{version}"
    );
}

#[test]
fn an_index_outside_of_what_it_leads_into_is_the_callers_error_or_the_graph_is_refused() {
    let Some(backend) = openvino() else { return };
    let float = |name, dims: &[D]| p(name, onnx_type::FLOAT, dims);
    let int = |name, dims: &[D]| p(name, onnx_type::INT64, dims);
    let load = |nodes: &[Node], inputs: &[P], axes: usize| {
        let output = p("y", onnx_type::FLOAT, &vec![D::Open; axes]);
        let graph = onnx_bytes(nodes, inputs, &[output]);
        backend.load(&GraphSource::Bytes(graph), &LoadOptions::default())
    };
    let ask = |session: &Arc<dyn Session>, dims: Vec<u32>, index: &[i64]| {
        let data: Vec<u8> = (0..15).flat_map(|n| (n as f32).to_le_bytes()).collect();
        let index: Vec<u8> = index.iter().flat_map(|n| n.to_le_bytes()).collect();
        let inputs = [
            NnTensor::new(TensorType::Fp32, vec![5, 3], data).unwrap(),
            NnTensor::new(TensorType::I64, dims, index).unwrap(),
        ];
        session.instance().unwrap().run(&inputs)
    };
    let table = float("x", &[D::Open, D::N(3)]);
    let gather = [Node("Gather", vec!["x", "i"], vec!["y"])];
    let session = load(&gather, &[table.clone(), int("i", &[D::Open])], 2).expect("loads");
    assert!(ask(&session, vec![2], &[4, -5]).is_ok());
    for outside in [5, -6] {
        let error = ask(&session, vec![2], &[0, outside]).expect_err("there are 5 rows");
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        assert!(
            error
                .message
                .contains(&format!("holds {outside} at element 1")),
            "{error}"
        );
    }
    let tuples = [Node("GatherND", vec!["x", "i"], vec!["y"])];
    let session = load(
        &tuples,
        &[table.clone(), int("i", &[D::N(1), D::N(1), D::N(2)])],
        2,
    )
    .expect("loads");
    assert!(ask(&session, vec![1, 1, 2], &[4, 2]).is_ok());
    let error = ask(&session, vec![1, 1, 2], &[2, 3]).expect_err("there are 3 columns");
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");

    let computed = [
        Node("Neg", vec!["i"], vec!["j"]),
        Node("Gather", vec!["x", "j"], vec!["y"]),
    ];
    let error = load(&computed, &[table.clone(), int("i", &[D::Open])], 2)
        .err()
        .expect("no call could be checked");
    assert_eq!(error.code, ErrorCode::UnsupportedOperation, "{error}");
    assert!(error.message.contains("operator Gather wrong"), "{error}");
    let limited = [
        Node("ArgMax", vec!["x"], vec!["j"]),
        Node("Gather", vec!["x", "j"], vec!["y"]),
    ];
    assert!(
        load(&limited, &[table], 3).is_ok(),
        "a place is within its axis"
    );
}
