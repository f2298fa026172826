//! Runs the ONNX operator tests on tract, and prints the outcome of each. `scripts/tract-conformance` fetches the
//! tests and calls this.
//!
//! ```text
//! cargo run --release -p penstock-nn --example tract_conformance -- [--raw] FOLDER
//! ```
//!
//! `FOLDER` holds the folders of the tests, each with a `model.onnx` and `test_data_set_*/{input,output}_*.pb`. Each
//! test runs three times: with the lengths that the test declares (`fixed`); with every length of the inputs left open
//! (`open`); and as real models are, with every input but the first a constant, and the first's lengths open
//! (`weights`). With `--raw` graphs are loaded that the server refuses because tract gets them wrong.
//!
//! One line for each test: outcome, form, operator, version of the operator set, test, types and
//! ranks of the inputs, attributes, message; separated by tabs. Outcomes:
//!
//! - `right`: every output agrees, as ONNX's own runner compares them.
//! - `wrong`: tract answers, and differs.
//! - `refused`: the graph does not load, with a message.
//! - `failed`: the graph loads and its run is an error.
//! - `panicked`: loading or running panics. `crashed` and `hung`: it ends the process, or takes more than ten seconds.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use bytes::Bytes;
use penstock_nn::backend::tract::{AsItIs, Tract};
use penstock_nn::{Backend, GraphSource, LoadOptions, NnTensor, PortType, TensorType};
use prost::Message;
use tract_onnx::pb::tensor_shape_proto::Dimension;
use tract_onnx::pb::type_proto::Value;
use tract_onnx::pb::{ModelProto, TensorProto};

const LIMIT: Duration = Duration::from_secs(10);

/// Tests whose expected numbers are random: another generator is right too.
const RANDOM: [&str; 4] = [
    "bernoulli",
    "training_dropout",
    "dropout_random",
    "multinomial",
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let raw = arguments.iter().any(|argument| argument == "--raw");
    if arguments.iter().any(|argument| argument == "--worker") {
        return work(raw);
    }
    let Some(folder) = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"))
    else {
        eprintln!("usage: tract_conformance [--raw] FOLDER");
        std::process::exit(2);
    };
    let mut tests: Vec<PathBuf> = Vec::new();
    find(Path::new(folder), &mut tests);
    tests.sort();
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let mut waiting: VecDeque<(PathBuf, &str)> = (tests.into_iter())
        .flat_map(|test| {
            [
                (test.clone(), "fixed"),
                (test.clone(), "open"),
                (test, "weights"),
            ]
        })
        .collect();
    let mut worker: Option<Worker> = None;
    while let Some((test, form)) = waiting.pop_front() {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        if RANDOM.iter().any(|random| name.contains(random)) {
            continue;
        }
        let current = worker.get_or_insert_with(|| Worker::start(raw));
        let line = match current.ask(&test, form) {
            Ok(line) => line,
            Err(outcome) => {
                worker.take().expect("it was asked").end();
                format!("{outcome}\t{form}\t{}", described(&test))
            }
        };
        let outcome = line.split('\t').next().unwrap_or_default().to_owned();
        *counts.entry(outcome).or_default() += 1;
        println!("{line}");
    }
    if let Some(worker) = worker {
        worker.end();
    }
    for (outcome, count) in counts {
        eprintln!("{count:6} {outcome}");
    }
}

fn find(folder: &Path, tests: &mut Vec<PathBuf>) {
    if folder.join("model.onnx").is_file() {
        return tests.push(folder.to_path_buf());
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            find(&entry.path(), tests);
        }
    }
}

/// A process that runs tests, so that one that ends it ends nothing else.
struct Worker {
    child: Child,
    lines: Receiver<String>,
}

impl Worker {
    fn start(raw: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("--worker").stdin(Stdio::piped());
        if raw {
            command.arg("--raw");
        }
        let mut child = (command.stdout(Stdio::piped()).stderr(Stdio::null()))
            .spawn()
            .expect("a process");
        let output = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    fn ask(&mut self, test: &Path, form: &str) -> Result<String, &'static str> {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{form}\t{}", test.display()).map_err(|_| "crashed")?;
        self.lines.recv_timeout(LIMIT).map_err(|error| match error {
            RecvTimeoutError::Timeout => "hung",
            RecvTimeoutError::Disconnected => "crashed",
        })
    }

    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn work(raw: bool) {
    std::panic::set_hook(Box::new(|_| {}));
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (form, test) = line.split_once('\t').expect("a form and a folder");
        let test = Path::new(test);
        let (outcome, message) = catch_unwind(AssertUnwindSafe(|| run(raw, form, test)))
            .unwrap_or_else(|panic| {
                let text = (panic.downcast_ref::<String>().cloned())
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                ("panicked", text.unwrap_or_default())
            });
        let message = message.replace(['\t', '\n'], " ");
        println!("{outcome}\t{form}\t{}\t{message}", described(test));
    }
}

fn model_of(test: &Path) -> ModelProto {
    let bytes = std::fs::read(test.join("model.onnx")).expect("the test's graph");
    ModelProto::decode(&bytes[..]).expect("an ONNX file")
}

/// Operator, operator set, name, inputs and attributes of a test.
fn described(test: &Path) -> String {
    let model = model_of(test);
    let graph = model.graph.unwrap_or_default();
    let node = graph.node.first().cloned().unwrap_or_default();
    let operator = match (&graph.node[..], &*node.domain) {
        ([_], "" | "ai.onnx") => node.op_type.clone(),
        ([_], domain) => format!("{domain}.{}", node.op_type),
        _ => "several".to_owned(),
    };
    let opset = (model.opset_import.iter())
        .find(|set| set.domain == node.domain || graph.node.len() != 1)
        .map_or(0, |set| set.version);
    let inputs: Vec<String> = (node.input.iter())
        .map(|name| {
            let info = graph.input.iter().find(|info| info.name == *name);
            match info.and_then(|info| info.r#type.as_ref()?.value.as_ref()) {
                _ if name.is_empty() => "-".to_owned(),
                Some(Value::TensorType(tensor)) => format!(
                    "{}/{}",
                    tensor.elem_type,
                    tensor.shape.as_ref().map_or(0, |shape| shape.dim.len())
                ),
                _ => "?".to_owned(),
            }
        })
        .collect();
    let attributes: Vec<String> = (node.attribute.iter())
        .map(|attribute| {
            let value = match attribute.r#type {
                1 => attribute.f.to_string(),
                2 => attribute.i.to_string(),
                3 => String::from_utf8_lossy(&attribute.s).into_owned(),
                6 => format!("{:?}", attribute.floats),
                7 => format!("{:?}", attribute.ints),
                other => format!("type {other}"),
            };
            format!("{}={value}", attribute.name)
        })
        .collect();
    format!(
        "{operator}\t{opset}\t{}\t{}\t{}",
        test.file_name().unwrap_or_default().to_string_lossy(),
        inputs.join(" "),
        attributes.join(" ").chars().take(300).collect::<String>()
    )
}

fn run(raw: bool, form: &str, test: &Path) -> (&'static str, String) {
    let mut model = model_of(test);
    let mut given = usize::MAX;
    if form == "weights" {
        let graph = model.graph.as_mut().expect("a graph");
        let constants = graph.input.split_off(graph.input.len().min(1));
        for (index, info) in constants.into_iter().enumerate() {
            let path = test.join(format!("test_data_set_0/input_{}.pb", index + 1));
            let Ok(mut tensor) = TensorProto::decode(&std::fs::read(path).unwrap_or_default()[..])
            else {
                return ("refused", "an input is no tensor".to_owned());
            };
            tensor.name = info.name;
            graph.initializer.push(tensor);
        }
        given = 1;
    }
    if form != "fixed" {
        let graph = model.graph.as_mut().expect("a graph");
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            if let Some(Value::TensorType(tensor)) =
                info.r#type.as_mut().and_then(|ty| ty.value.as_mut())
                && let Some(shape) = &mut tensor.shape
            {
                shape.dim.fill(Dimension::default());
            }
        }
    }
    let source = GraphSource::Bytes(model.encode_to_vec().into());
    let backend: &dyn Backend = if raw { &AsItIs } else { &Tract };
    let session = match backend.load(&source, &LoadOptions::default()) {
        Ok(session) => session,
        Err(error) if error.message.starts_with("tract gives up") => {
            return ("panicked", error.message);
        }
        Err(error) => return ("refused", error.message),
    };
    let mut sets: Vec<PathBuf> = (std::fs::read_dir(test).expect("the folder"))
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    sets.sort();
    // The constants are those of the first.
    sets.truncate(given);
    for set in sets {
        let mut inputs = Vec::new();
        for (index, port) in session.inputs().iter().enumerate() {
            match read(&set.join(format!("input_{index}.pb")), port.ty) {
                Ok(tensor) => inputs.push(tensor),
                Err(reason) => return ("refused", format!("input {index}: {reason}")),
            }
        }
        let ran = session
            .instance()
            .and_then(|mut instance| instance.run(&inputs));
        let outputs = match ran {
            Ok(outputs) => outputs,
            Err(error) => return ("failed", error.message),
        };
        for (index, (got, port)) in outputs.iter().zip(session.outputs()).enumerate() {
            let wanted = match read(&set.join(format!("output_{index}.pb")), port.ty) {
                Ok(tensor) => tensor,
                Err(reason) => return ("wrong", format!("output {index}: {reason}")),
            };
            if got.dims != wanted.dims {
                let text = format!("output {index}: {:?}, not {:?}", got.dims, wanted.dims);
                return ("wrong", text);
            }
            let (got, wanted) = (numbers(got, port.ty), numbers(&wanted, port.ty));
            let tolerance = match port.ty {
                PortType::Tensor(TensorType::Fp16) => (2e-2, 2e-3),
                PortType::Tensor(TensorType::Fp32 | TensorType::Fp64) => (1e-3, 1e-5),
                _ => (0.0, 0.0),
            };
            let differs = |(got, wanted): (&f64, &f64)| {
                let same = got == wanted || (got.is_nan() && wanted.is_nan());
                let close = (got - wanted).abs() <= tolerance.1 + tolerance.0 * wanted.abs();
                !same && !close
            };
            let places = || got.iter().zip(&wanted);
            if let Some(at) = places().position(differs) {
                let count = places().filter(|pair| differs(*pair)).count();
                let text = format!(
                    "output {index}: {} of {} differ, first {} instead of {} at {at}",
                    count,
                    got.len(),
                    got[at],
                    wanted[at]
                );
                return ("wrong", text);
            }
        }
    }
    ("right", String::new())
}

fn numbers(tensor: &NnTensor, ty: PortType) -> Vec<f64> {
    fn each<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>()
            .0
            .iter()
            .map(|bytes| read(*bytes))
            .collect()
    }
    match ty {
        PortType::Tensor(TensorType::Fp32) => {
            each(&tensor.data, |b| f64::from(f32::from_le_bytes(b)))
        }
        PortType::Tensor(TensorType::Fp64) => each(&tensor.data, f64::from_le_bytes),
        PortType::Tensor(TensorType::Fp16) => {
            each(&tensor.data, |b| half::f16::from_le_bytes(b).to_f64())
        }
        PortType::Tensor(TensorType::Bf16) => {
            each(&tensor.data, |b| half::bf16::from_le_bytes(b).to_f64())
        }
        PortType::Tensor(TensorType::I32) => {
            each(&tensor.data, |b| f64::from(i32::from_le_bytes(b)))
        }
        PortType::Tensor(TensorType::I64) => each(&tensor.data, |b| i64::from_le_bytes(b) as f64),
        PortType::Tensor(TensorType::I8) => each(&tensor.data, |b| f64::from(i8::from_le_bytes(b))),
        PortType::Tensor(TensorType::I16) => {
            each(&tensor.data, |b| f64::from(i16::from_le_bytes(b)))
        }
        PortType::Tensor(TensorType::U16) => {
            each(&tensor.data, |b| f64::from(u16::from_le_bytes(b)))
        }
        PortType::Tensor(TensorType::U32) => {
            each(&tensor.data, |b| f64::from(u32::from_le_bytes(b)))
        }
        PortType::Tensor(TensorType::U64) => each(&tensor.data, |b| u64::from_le_bytes(b) as f64),
        _ => each(&tensor.data, |b: [u8; 1]| f64::from(b[0])),
    }
}

/// A tensor of a test, as the port carries it.
fn read(path: &Path, ty: PortType) -> Result<NnTensor, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let proto = TensorProto::decode(&bytes[..]).map_err(|_| "it is no tensor")?;
    let carried = ty.carried_as().ok_or("its type is not carried")?;
    let dims: Vec<u32> = proto.dims.iter().map(|dim| *dim as u32).collect();
    let data: Vec<u8> = if !proto.raw_data.is_empty() {
        proto.raw_data
    } else {
        match proto.data_type {
            1 => (proto.float_data.iter())
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            11 => (proto.double_data.iter())
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            7 => (proto.int64_data.iter())
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            6 => (proto.int32_data.iter())
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            12 => (proto.uint64_data.iter())
                .flat_map(|x| (*x as u32).to_le_bytes())
                .collect(),
            13 => (proto.uint64_data.iter())
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            4 | 5 | 10 | 16 => (proto.int32_data.iter())
                .flat_map(|x| (*x as u16).to_le_bytes())
                .collect(),
            2 | 3 | 9 => proto.int32_data.iter().map(|x| *x as u8).collect(),
            _ => return Err("its type is not carried".to_owned()),
        }
    };
    NnTensor::new(carried, dims, Bytes::from(data)).map_err(|error| error.message)
}
