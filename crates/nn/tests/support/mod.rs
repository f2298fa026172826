//! Helpers of all suites: ONNX graphs written by hand, so that no binary file has to be kept or trusted, and the
//! backends to run them on.

#![allow(dead_code)] // each suite uses its own part

pub mod child;
pub mod graphs;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_nn::backend::onnxruntime::OnnxRuntime;
use penstock_nn::backend::openvino::OpenVino;
use penstock_nn::backend::scripted::Scripted;
use penstock_nn::backend::tract::Tract;
use penstock_nn::worker::restart::Restarts;
use penstock_nn::worker::{self, ChildOptions, Find, Isolated, Launcher};
use penstock_nn::{Backend, GraphSource, LoadOptions, Model, NnTensor, TensorType};

/// ONNX's numbers for element types.
pub mod onnx_type {
    pub const FLOAT: u64 = 1;
    pub const UINT8: u64 = 2;
    pub const INT8: u64 = 3;
    pub const UINT16: u64 = 4;
    pub const INT16: u64 = 5;
    pub const INT32: u64 = 6;
    pub const INT64: u64 = 7;
    pub const STRING: u64 = 8;
    pub const BOOL: u64 = 9;
    pub const FLOAT16: u64 = 10;
    pub const DOUBLE: u64 = 11;
    pub const UINT32: u64 = 12;
    pub const UINT64: u64 = 13;
    pub const BFLOAT16: u64 = 16;
    pub const FLOAT8E4M3FN: u64 = 17;
    pub const FLOAT8E4M3FNUZ: u64 = 18;
    pub const FLOAT8E5M2: u64 = 19;
    pub const FLOAT8E5M2FNUZ: u64 = 20;
    pub const UINT4: u64 = 21;
    pub const INT4: u64 = 22;
    pub const UINT2: u64 = 25;
    pub const INT2: u64 = 26;
}

/// The ONNX operator set the graphs here are written in.
const OPSET: u64 = 17;
/// The version of the file format that goes with it.
const IR_VERSION: u64 = 8;
/// The first operator set with every type of a byte and less, and the file format that goes with it.
const OPSET_OF_SMALL_TYPES: (u64, u64) = (25, 13);

/// The contract of the scripted backend's graphs.
pub const VECTOR: &str = r#"description = "A vector"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N"]

[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N"]

[engine]
lanes = 1
"#;

/// A model whose runs a script answers.
pub fn load_script(backend: &Scripted, options: &LoadOptions) -> Model {
    let graph = GraphSource::Bytes(Default::default());
    Model::load("m", "1", backend, &graph, options).expect("a script loads")
}

/// A dimension in a graph's declaration.
#[derive(Clone, Copy)]
pub enum D {
    N(u64),
    S(&'static str),
    /// Neither a number nor a name.
    Open,
}

/// A graph's input or output.
#[derive(Clone)]
pub struct P {
    pub name: &'static str,
    pub ty: u64,
    pub dims: Option<Vec<D>>,
}

pub fn p(name: &'static str, ty: u64, dims: &[D]) -> P {
    P {
        name,
        ty,
        dims: Some(dims.to_vec()),
    }
}

/// A node of a graph: operator, inputs, outputs.
pub struct Node(
    pub &'static str,
    pub Vec<&'static str>,
    pub Vec<&'static str>,
);

/// Protocol buffers' wire format, as much of it as an ONNX file of these suites takes.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
    fn varint(mut self, field: u64, value: u64) -> Self {
        self.raw_varint(field << 3);
        self.raw_varint(value);
        self
    }
    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }
    fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }
}

fn value_info(port: &P) -> Message {
    let mut tensor = Message::default().varint(1, port.ty);
    if let Some(dims) = &port.dims {
        let shape = dims.iter().fold(Message::default(), |shape, dim| {
            shape.message(
                1,
                match dim {
                    D::N(length) => Message::default().varint(1, *length),
                    D::S(name) => Message::default().text(2, name),
                    D::Open => Message::default(),
                },
            )
        });
        tensor = tensor.message(2, shape);
    }
    Message::default()
        .text(1, port.name)
        .message(2, Message::default().message(1, tensor))
}

/// The bytes of an ONNX file.
pub fn onnx_bytes(nodes: &[Node], inputs: &[P], outputs: &[P]) -> Bytes {
    onnx_bytes_with(nodes, inputs, outputs, vec![])
}

/// The file `y = x + w`, with four numbers for `w` in the file `location`.
pub fn adds_weights_in(location: &str) -> Bytes {
    let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
    let tensor = Message::default()
        .varint(1, 4)
        .varint(2, onnx_type::FLOAT)
        .text(8, "w")
        .message(13, entry("location", location))
        .message(13, entry("offset", "0"))
        .message(13, entry("length", "16"))
        .varint(14, 1); // kept elsewhere
    adds(tensor, 4)
}

/// The file `y = x + w`, with `elements` numbers for `w` in it.
pub fn adds_weights(elements: usize) -> Bytes {
    adds(weights(elements), elements as u64)
}

/// The weights `w` in FP32: 0, 1, 2, …
fn weights(elements: usize) -> Message {
    let values: Vec<u8> = (0..elements)
        .flat_map(|index| (index as f32).to_le_bytes())
        .collect();
    Message::default()
        .varint(1, elements as u64)
        .varint(2, onnx_type::FLOAT)
        .text(8, "w")
        .bytes(9, &values)
}

/// The file `y = w`, without an input.
pub fn constant(elements: usize) -> Bytes {
    onnx_bytes_with(
        &[Node("Identity", vec!["w"], vec!["y"])],
        &[],
        &[p("y", onnx_type::FLOAT, &[D::N(elements as u64)])],
        vec![weights(elements)],
    )
}

/// The file `y = x + w`, whose input `w` has a value in the file.
pub fn defaulted(elements: usize) -> Bytes {
    let shape = &[D::N(elements as u64)];
    onnx_bytes_with(
        &[Node("Add", vec!["x", "w"], vec!["y"])],
        &[
            p("x", onnx_type::FLOAT, shape),
            p("w", onnx_type::FLOAT, shape),
        ],
        &[p("y", onnx_type::FLOAT, shape)],
        vec![weights(elements)],
    )
}

fn adds(weights: Message, elements: u64) -> Bytes {
    onnx_bytes_with(
        &[Node("Add", vec!["x", "w"], vec!["y"])],
        &[p("x", onnx_type::FLOAT, &[D::N(elements)])],
        &[p("y", onnx_type::FLOAT, &[D::N(elements)])],
        vec![weights],
    )
}

fn onnx_bytes_with(
    nodes: &[Node],
    inputs: &[P],
    outputs: &[P],
    initializers: Vec<Message>,
) -> Bytes {
    let mut graph = Message::default();
    for (index, Node(op, takes, gives)) in nodes.iter().enumerate() {
        let mut node = Message::default();
        for name in takes {
            node = node.text(1, name);
        }
        for name in gives {
            node = node.text(2, name);
        }
        graph = graph.message(1, node.text(3, &format!("/node/{index}")).text(4, op));
    }
    graph = graph.text(2, "g");
    for tensor in initializers {
        graph = graph.message(5, tensor);
    }
    for port in inputs {
        graph = graph.message(11, value_info(port));
    }
    for port in outputs {
        graph = graph.message(12, value_info(port));
    }
    let has_small_types = (inputs.iter().chain(outputs)).any(|port| port.ty > onnx_type::BFLOAT16);
    let (opset, ir_version) = match has_small_types {
        true => OPSET_OF_SMALL_TYPES,
        false => (OPSET, IR_VERSION),
    };
    let opset = Message::default().text(1, "").varint(2, opset);
    Message::default()
        .varint(1, ir_version)
        .message(7, graph)
        .message(8, opset)
        .0
        .into()
}

pub fn onnx(nodes: &[Node], inputs: &[P], outputs: &[P]) -> GraphSource {
    GraphSource::Bytes(onnx_bytes(nodes, inputs, outputs))
}

/// The graph `y = x`.
pub fn identity(ty: u64, dims: &[D]) -> GraphSource {
    onnx(
        &[Node("Identity", vec!["x"], vec!["y"])],
        &[p("x", ty, dims)],
        &[p("y", ty, dims)],
    )
}

/// The file `y = x`, by way of FP32: ONNX Runtime's Identity takes no elements of less than a byte.
pub fn there_and_back(ty: u64, dims: &[D]) -> Bytes {
    onnx_bytes_with(
        &[
            Node("CastLike", vec!["x", "w"], vec!["z"]),
            Node("CastLike", vec!["z", "x"], vec!["y"]),
        ],
        &[p("x", ty, dims)],
        &[p("y", ty, dims)],
        vec![weights(1)],
    )
}

/// The path of ONNX Runtime's library on this machine.
pub fn onnxruntime_path() -> PathBuf {
    if let Some(path) = std::env::var_os("PENSTOCK_ONNXRUNTIME").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../.runtime/onnxruntime/libonnxruntime.so");
    assert!(
        kept.exists(),
        "these tests need ONNX Runtime's library: run scripts/runtime, or set PENSTOCK_ONNXRUNTIME to the path of \
         libonnxruntime.so"
    );
    kept
}

pub fn onnxruntime() -> Arc<dyn Backend> {
    OnnxRuntime::load(&onnxruntime_path()).expect("ONNX Runtime loads")
}

/// The path of OpenVINO's library on this machine. `None` if the environment says to test without it, which is for
/// machines that OpenVINO is not published for.
pub fn openvino_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PENSTOCK_OPENVINO").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    if std::env::var_os("PENSTOCK_TEST_WITHOUT").is_some_and(|what| what == "openvino") {
        return None;
    }
    let kept =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/openvino/libopenvino_c.so");
    assert!(
        kept.exists(),
        "these tests need OpenVINO's library: run scripts/openvino, or set PENSTOCK_OPENVINO to the path of \
         libopenvino_c.so, or PENSTOCK_TEST_WITHOUT=openvino to leave its part out"
    );
    Some(kept)
}

pub fn openvino() -> Option<Arc<dyn Backend>> {
    let path = openvino_path()?;
    Some(OpenVino::load(&path).expect("OpenVINO loads"))
}

/// Every backend that runs graphs.
pub fn every_backend() -> Vec<Arc<dyn Backend>> {
    let mut backends = vec![onnxruntime(), Arc::new(Tract)];
    backends.extend(openvino());
    backends
}

/// Set for a child that a suite starts of itself.
const CHILD: &str = "PENSTOCK_TEST_CHILD";

/// Starts this suite again, as a child that does nothing but its test `worker_process`.
pub fn launcher() -> Launcher {
    let arguments = [
        "worker_process",
        "--exact",
        "--nocapture",
        "--test-threads=1",
    ];
    let mut launcher = Launcher::this_program(&arguments);
    launcher.environment = vec![(CHILD.into(), "1".into())];
    launcher
}

/// The body of the test `worker_process`: it does nothing unless this is a child.
pub fn serve_as_child(find: &Find) {
    if std::env::var_os(CHILD).is_some() {
        worker::run(find);
    }
}

/// The backend with each of its graphs in a process of its own.
pub fn isolated(backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
    isolated_with(backend, Restarts::default())
}

/// The same, started again after other waits.
pub fn isolated_with(backend: Arc<dyn Backend>, restarts: Restarts) -> Arc<dyn Backend> {
    let child = ChildOptions {
        model: "m".into(),
        version: "1".into(),
        load_timeout: Duration::from_secs(60),
        process_bytes: None,
        restarts,
        in_background: false,
    };
    Arc::new(Isolated::new(backend, launcher(), child))
}

/// Every backend on threads of this process, and in processes of its own.
pub fn every_backend_both_ways() -> Vec<Arc<dyn Backend>> {
    let mut backends = every_backend();
    backends.extend(every_backend().into_iter().map(isolated));
    backends
}

pub fn fp32(dims: &[u32], values: &[f32]) -> NnTensor {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    NnTensor::new(TensorType::Fp32, dims.to_vec(), bytes).expect("as many values as the shape has")
}

pub fn as_fp32(tensor: &NnTensor) -> Vec<f32> {
    let (elements, rest) = tensor.data.as_chunks::<4>();
    assert!(rest.is_empty());
    elements
        .iter()
        .map(|element| f32::from_le_bytes(*element))
        .collect()
}

/// Picks numbers from a table of so many FP32 elements, which is the memory of the model: `y = w[x]`.
pub fn table(elements: u32) -> Bytes {
    looks_up(vec![], vec![weights(elements as usize)])
}

/// The same from a table of UINT8 that is made FP32 before it is looked into, as in a quantised model.
pub fn quantised_table(elements: u8) -> Bytes {
    let table: Vec<u8> = (0..elements).collect();
    let table = Message::default()
        .varint(1, u64::from(elements))
        .varint(2, onnx_type::UINT8)
        .text(8, "q")
        .bytes(9, &table);
    let scale = Message::default()
        .varint(2, onnx_type::FLOAT)
        .text(8, "s")
        .bytes(9, &1f32.to_le_bytes());
    let makes = Node("DequantizeLinear", vec!["q", "s"], vec!["w"]);
    looks_up(vec![makes], vec![table, scale])
}

fn looks_up(before: Vec<Node>, initializers: Vec<Message>) -> Bytes {
    let mut nodes = before;
    nodes.push(Node("Gather", vec!["w", "x"], vec!["y"]));
    onnx_bytes_with(
        &nodes,
        &[p("x", onnx_type::INT64, &[D::S("N")])],
        &[p("y", onnx_type::FLOAT, &[D::S("N")])],
        initializers,
    )
}

/// Long enough that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Holds runs in a backend until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn pass(&self) {
        let (open, changed) = &*self.0;
        let guard = open.lock().unwrap();
        let (guard, timeout) = changed
            .wait_timeout_while(guard, PATIENCE, |open| !*open)
            .unwrap();
        drop(guard);
        assert!(!timeout.timed_out(), "nobody opened the gate");
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Waits for something to come about.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
