//! The messages between server and child. Pure.
//!
//! Tensors travel as a list of descriptions followed by their bytes, in memory that both see ([`super::shared`]).
//! Messages that are written once for a load (its options, its result) are JSON. A broken process may leave any bytes
//! behind, so every length is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use penstock_tensor::contract::{Precision, Provider};
use serde_json::{Value, json};

use crate::backend::{Cost, Dim, LoadOptions, Port, PortType, Rows};
use crate::error::{ErrorCode, NnError};
use crate::tensor::{MAX_RANK, NnTensor, TensorType};

/// Tensors begin at multiples of this, which suits every element and the widest instructions.
const ALIGNMENT: usize = 64;

/// Bytes that describe a tensor, without its dimensions.
const TENSOR_HEAD: usize = 24;

/// Most tensors in a call or an answer; a count beyond it was written by a broken process.
const MAX_TENSORS: usize = 1 << 16;

/// A type's number on the wire: its place in [`TensorType::ALL`].
fn number(ty: TensorType) -> u32 {
    let at = TensorType::ALL.iter().position(|other| *other == ty);
    at.map_or(u32::MAX, |at| at as u32)
}

/// The type of a number on the wire.
fn of_number(number: u32) -> Option<TensorType> {
    TensorType::ALL.get(usize::try_from(number).ok()?).copied()
}

/// The header of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Tensors follow.
    Tensors = 1,
    /// An error's code and message follow.
    Error = 2,
}

/// The place of a tensor's bytes in a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Placed {
    /// Element type.
    pub ty: TensorType,
    /// Dimensions.
    pub dims: Vec<u32>,
    /// The offset of its bytes.
    pub at: usize,
    /// The number of its bytes.
    pub len: usize,
}

/// A message as it was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Tensors, each with the place of its bytes.
    Tensors(Vec<Placed>),
    /// The call failed.
    Error(NnError),
}

/// Bytes that `tensors` take as a message.
pub fn tensors_size(tensors: &[NnTensor]) -> usize {
    let head: usize = tensors
        .iter()
        .map(|tensor| TENSOR_HEAD + 4 * tensor.dims.len())
        .sum();
    tensors.iter().fold(8 + head, |at, tensor| {
        at.next_multiple_of(ALIGNMENT) + tensor.data.len()
    })
}

/// Writes `tensors`, which take [`tensors_size`] bytes. False if there is no room.
pub fn put_tensors(tensors: &[NnTensor], to: &mut [u8]) -> bool {
    let mut head = Vec::with_capacity(8 + tensors.len() * 48);
    head.extend((Kind::Tensors as u32).to_le_bytes());
    head.extend((tensors.len() as u32).to_le_bytes());
    let head_len: usize = tensors
        .iter()
        .map(|tensor| TENSOR_HEAD + 4 * tensor.dims.len())
        .sum();
    let mut at = 8 + head_len;
    for tensor in tensors {
        at = at.next_multiple_of(ALIGNMENT);
        head.extend(number(tensor.ty).to_le_bytes());
        head.extend((tensor.dims.len() as u32).to_le_bytes());
        head.extend((at as u64).to_le_bytes());
        head.extend((tensor.data.len() as u64).to_le_bytes());
        tensor
            .dims
            .iter()
            .for_each(|dim| head.extend(dim.to_le_bytes()));
        let Some(place) = to.get_mut(at..at + tensor.data.len()) else {
            return false;
        };
        place.copy_from_slice(&tensor.data);
        at += tensor.data.len();
    }
    let Some(place) = to.get_mut(..head.len()) else {
        return false;
    };
    place.copy_from_slice(&head);
    true
}

/// An error as a message.
pub fn error(error: &NnError) -> Vec<u8> {
    let code = error.code.as_str();
    [
        &(Kind::Error as u32).to_le_bytes()[..],
        &(code.len() as u32).to_le_bytes(),
        code.as_bytes(),
        error.message.as_bytes(),
    ]
    .concat()
}

/// Bytes of a message that are enough to know how long its head is.
pub const START: usize = 8;

/// The longest text of an error that is read. Longer ones are cut.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// An upper bound for the bytes before the tensors of a message with this start; for an error, the bound of the whole
/// message. `None` if it is not a message.
pub fn head_len(start: [u8; START]) -> Option<usize> {
    let [kind, count] = [0, 4].map(|at| start.split_at(at).1.first_chunk::<4>());
    let kind = u32::from_le_bytes(*kind?);
    let count = usize::try_from(u32::from_le_bytes(*count?)).ok()?;
    if kind == Kind::Error as u32 {
        return Some(START + MAX_ERROR_BYTES);
    }
    let whole = kind == Kind::Tensors as u32 && count <= MAX_TENSORS;
    whole.then_some(START + count * (TENSOR_HEAD + 4 * MAX_RANK))
}

/// Reads a message of `message_len` bytes from its head, which has at least [`head_len`] bytes, or from the whole
/// message; `None` if it is not a message. Every place lies within `message_len`.
pub fn read(head: &[u8], message_len: usize) -> Option<Message> {
    let mut reader = Reader(head);
    let kind = reader.u32()?;
    let count = usize::try_from(reader.u32()?).ok()?;
    if kind == Kind::Error as u32 {
        let code = std::str::from_utf8(reader.take(count)?).ok()?;
        let message = String::from_utf8_lossy(reader.0).into_owned();
        return Some(Message::Error(NnError::new(code_of(code), message)));
    }
    if kind != Kind::Tensors as u32 || count > MAX_TENSORS {
        return None;
    }
    // Tensors do not overlap. A broken child could otherwise make a small answer of any size.
    let mut left = message_len;
    let tensors = (0..count).map(|_| {
        let ty = of_number(reader.u32()?)?;
        let rank = usize::try_from(reader.u32()?).ok()?;
        let at = usize::try_from(reader.u64()?).ok()?;
        let len = usize::try_from(reader.u64()?).ok()?;
        let dims = reader.take(rank.checked_mul(4)?)?;
        let (dims, _) = dims.as_chunks::<4>();
        let end = at.checked_add(len)?;
        left = left.checked_sub(len)?;
        (end <= message_len).then(|| Placed {
            ty,
            dims: dims.iter().map(|dim| u32::from_le_bytes(*dim)).collect(),
            at,
            len,
        })
    });
    tensors.collect::<Option<_>>().map(Message::Tensors)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.take(8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

fn code_of(name: &str) -> ErrorCode {
    use ErrorCode as E;
    let all = [
        E::InvalidArgument,
        E::InvalidEncoding,
        E::Timeout,
        E::RuntimeError,
        E::UnsupportedOperation,
        E::TooLarge,
        E::NotFound,
        E::Security,
    ];
    let found = all.into_iter().find(|code| code.as_str() == name);
    found.unwrap_or(E::Unknown)
}

/// The load that a child is to make.
#[derive(Debug, Clone)]
pub struct Open {
    /// The backend's name.
    pub backend: String,
    /// The backend's library, if it has one.
    pub library: Option<PathBuf>,
    /// The graph's file; none where its bytes come as a descriptor.
    pub path: Option<PathBuf>,
    /// The number of those bytes.
    pub graph_bytes: u64,
    /// The options of the load.
    pub options: LoadOptions,
    /// Bytes of private memory that the process may map; `None` derives it from the load and the run limits.
    pub process_bytes: Option<u64>,
}

impl Open {
    /// Writes it as JSON.
    pub fn to_json(&self) -> String {
        // Field by field: a backend reads the options, so a new one must not get lost on its way to the child.
        let LoadOptions {
            instances,
            intra_op_threads,
            provider,
            device,
            outputs,
            labels,
            operator_libraries,
            optional_inputs,
            // The server decides which inputs calls may leave empty.
            empty_inputs: _,
            // These say how calls wait and share runs, which happens in the server.
            queue_max: _,
            priority_levels: _,
            default_priority: _,
            batching: _,
            working_bytes,
            precision,
            non_finite,
        } = &self.options;
        json!({
            "backend": self.backend,
            "library": self.library,
            "path": self.path,
            "graph_bytes": self.graph_bytes,
            "process_bytes": self.process_bytes,
            "instances": instances,
            "intra_op_threads": intra_op_threads,
            "provider": provider.as_str(),
            "device": device,
            "outputs": outputs,
            "labels": labels,
            "operator_libraries": operator_libraries,
            "optional_inputs": optional_inputs,
            "working_bytes": working_bytes,
            "precision": precision.as_str(),
            "non_finite": non_finite,
        })
        .to_string()
    }

    /// Reads it from JSON.
    pub fn from_json(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let path = |name: &str| value[name].as_str().map(PathBuf::from);
        let size = |name: &str| value[name].as_u64().and_then(|n| usize::try_from(n).ok());
        let provider = value["provider"].as_str()?;
        let precision = value["precision"].as_str()?;
        let outputs = value["outputs"].as_array().map(|names| {
            let names = names.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        });
        let texts = |value: &Value| -> Option<Vec<String>> {
            let texts = value.as_array()?.iter();
            texts.map(|text| Some(text.as_str()?.to_owned())).collect()
        };
        let labels = value["labels"].as_object()?.iter();
        let labels = labels
            .map(|(output, labels)| Some((output.clone(), texts(labels)?)))
            .collect::<Option<BTreeMap<_, _>>>()?;
        let libraries = texts(&value["operator_libraries"])?;
        Some(Self {
            backend: value["backend"].as_str()?.to_owned(),
            library: path("library"),
            path: path("path"),
            graph_bytes: value["graph_bytes"].as_u64()?,
            process_bytes: value["process_bytes"].as_u64(),
            options: LoadOptions {
                instances: size("instances"),
                intra_op_threads: size("intra_op_threads")?,
                provider: *Provider::ALL
                    .iter()
                    .find(|known| known.as_str() == provider)?,
                device: value["device"].as_str().map(str::to_owned),
                outputs,
                labels,
                optional_inputs: texts(&value["optional_inputs"])?,
                operator_libraries: libraries.into_iter().map(PathBuf::from).collect(),
                working_bytes: size("working_bytes"),
                precision: *Precision::ALL
                    .iter()
                    .find(|known| known.as_str() == precision)?,
                non_finite: value["non_finite"].as_bool()?,
                ..LoadOptions::default()
            },
        })
    }
}

/// The graph that a child has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The version of the runtime.
    pub version: String,
    /// The inputs.
    pub inputs: Vec<Port>,
    /// By input: whether the graph has a value for it.
    pub defaults: Vec<bool>,
    /// The outputs.
    pub outputs: Vec<Port>,
    /// The property that the time of a run depends on.
    pub cost: Cost,
    /// Whether rows of a shared run depend on each other.
    pub rows: Rows,
    /// Bytes the loaded graph holds.
    pub memory_bytes: Option<u64>,
}

/// Writes the answer to a load as JSON.
pub fn opened_to_json(opened: &Result<Opened, NnError>) -> String {
    match opened {
        Ok(opened) => json!({
            "version": opened.version,
            "inputs": opened.inputs.iter().map(port).collect::<Vec<_>>(),
            "defaults": opened.defaults,
            "outputs": opened.outputs.iter().map(port).collect::<Vec<_>>(),
            "cost": match &opened.cost {
                Cost::Shapes => json!("shapes"),
                Cost::EachShape => json!("each_shape"),
                Cost::Values(reason) => json!({"values": reason}),
            },
            "dependent_rows": match &opened.rows {
                Rows::Independent => Value::Null,
                Rows::Dependent(reason) => json!(reason),
            },
            "memory_bytes": opened.memory_bytes,
        }),
        Err(error) => json!({"error": {"code": error.code.as_str(), "message": error.message}}),
    }
    .to_string()
}

/// Reads it from text; `None` if the text is not an answer.
pub fn opened_from_json(text: &[u8]) -> Option<Result<Opened, NnError>> {
    let value: Value = serde_json::from_slice(text).ok()?;
    if let Some(error) = value.get("error") {
        let code = code_of(error["code"].as_str()?);
        return Some(Err(NnError::new(code, error["message"].as_str()?)));
    }
    let ports =
        |name: &str| -> Option<Vec<Port>> { value[name].as_array()?.iter().map(of_port).collect() };
    Some(Ok(Opened {
        version: value["version"].as_str()?.to_owned(),
        inputs: ports("inputs")?,
        defaults: (value["defaults"].as_array()?.iter())
            .map(Value::as_bool)
            .collect::<Option<_>>()?,
        outputs: ports("outputs")?,
        cost: match &value["cost"] {
            Value::String(text) if text == "shapes" => Cost::Shapes,
            Value::String(_) => Cost::EachShape,
            other => Cost::Values(other["values"].as_str()?.to_owned()),
        },
        rows: match value.get("dependent_rows")? {
            Value::Null => Rows::Independent,
            reason => Rows::Dependent(reason.as_str()?.to_owned()),
        },
        memory_bytes: value["memory_bytes"].as_u64(),
    }))
}

fn port(port: &Port) -> Value {
    let dims = port.dims.as_ref().map(|dims| {
        let dims = dims.iter().map(|dim| match dim {
            Dim::Fixed(size) => json!(size),
            Dim::Symbolic(name) => json!(name),
        });
        dims.collect::<Vec<_>>()
    });
    json!({"name": port.name, "type": port.ty.to_string(), "dims": dims})
}

fn of_port(value: &Value) -> Option<Port> {
    let dims = match &value["dims"] {
        Value::Null => None,
        dims => {
            let dims = dims.as_array()?.iter().map(|dim| match dim {
                Value::String(name) => Some(Dim::Symbolic(name.clone())),
                dim => Some(Dim::Fixed(u32::try_from(dim.as_u64()?).ok()?)),
            });
            Some(dims.collect::<Option<_>>()?)
        }
    };
    Some(Port {
        name: value["name"].as_str()?.to_owned(),
        ty: port_type(value["type"].as_str()?),
        dims,
    })
}

/// The type of a port by its displayed name.
fn port_type(name: &str) -> PortType {
    let mut known = TensorType::ALL.into_iter().map(PortType::Tensor);
    let found = known.find(|ty| ty.to_string() == name);
    found.unwrap_or_else(|| PortType::Other(kept(name)))
}

/// A text that lives as long as the process. There are as many as there are names of types.
fn kept(text: &str) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    /// More were made up by a broken process.
    const MOST: usize = 256;
    let mut texts = TEXTS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = texts.get(text) {
        return known;
    }
    if texts.len() >= MOST {
        return "unknown";
    }
    let leaked: &'static str = Box::leak(text.to_owned().into_boxed_str());
    texts.insert(leaked);
    leaked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::push_string;

    fn tensors() -> Vec<NnTensor> {
        let all = TensorType::ALL.into_iter().enumerate();
        all.map(|(index, ty)| {
            let dims = vec![index as u32, 3];
            let bytes: Vec<u8> = if ty.is_fixed_size() {
                (0..index * 3 * ty.size()).map(|at| at as u8).collect()
            } else {
                let mut strings = Vec::new();
                for at in 0..index * 3 {
                    push_string(&mut strings, &vec![0xff; at]).unwrap();
                }
                strings
            };
            NnTensor::new(ty, dims, bytes).unwrap()
        })
        .chain([
            NnTensor::new(TensorType::I64, vec![], vec![9; 8]).unwrap(),
            NnTensor::absent(TensorType::Fp32),
        ])
        .collect()
    }

    fn written(tensors: &[NnTensor]) -> Vec<u8> {
        let mut bytes = vec![0; tensors_size(tensors)];
        assert!(put_tensors(tensors, &mut bytes));
        bytes
    }

    #[test]
    fn tensors_of_every_type_come_back_as_they_were_and_lie_well() {
        let tensors = tensors();
        let bytes = written(&tensors);
        let Some(Message::Tensors(placed)) = read(&bytes, bytes.len()) else {
            panic!("they are tensors");
        };
        assert_eq!(placed.len(), tensors.len());
        for (placed, tensor) in placed.iter().zip(&tensors) {
            assert_eq!((placed.ty, &placed.dims), (tensor.ty, &tensor.dims));
            assert_eq!(&bytes[placed.at..placed.at + placed.len], &tensor.data[..]);
            assert_eq!(placed.at % ALIGNMENT, 0);
        }
        assert!(!put_tensors(&tensors, &mut vec![0; bytes.len() - 1]));
    }

    #[test]
    fn whatever_a_broken_process_wrote_is_read_without_a_panic() {
        let bytes = written(&tensors());
        for cut in 0..bytes.len() {
            let _ = read(&bytes[..cut], cut);
        }
        for at in 0..bytes.len().min(400) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = bytes.clone();
                broken[at] = value;
                if let Some(Message::Tensors(placed)) = read(&broken, broken.len()) {
                    for placed in placed {
                        assert!(placed.at + placed.len <= broken.len());
                    }
                }
            }
        }
    }

    #[test]
    fn the_head_alone_tells_where_every_tensor_lies() {
        let bytes = written(&tensors());
        let start = bytes.first_chunk().expect("it is longer");
        let head = head_len(*start).expect("it is a message").min(bytes.len());
        assert_eq!(read(&bytes[..head], bytes.len()), read(&bytes, bytes.len()));
        let error = error(&NnError::too_large("no"));
        let start = error.first_chunk().expect("it is longer");
        assert!(head_len(*start) >= Some(error.len()));
        let mut twice = written(&[NnTensor::new(TensorType::U8, vec![200], vec![0; 200]).unwrap()]);
        twice.splice(4..8, 2u32.to_le_bytes());
        let described: Vec<u8> = twice[START..START + TENSOR_HEAD + 4].to_vec();
        twice.splice(START + TENSOR_HEAD + 4..START + TENSOR_HEAD + 4, described);
        assert!(read(&twice, 400).is_some());
        assert_eq!(read(&twice, 300), None, "two tensors at one place");
        assert_eq!(head_len([0; START]), None);
        assert_eq!(head_len([1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn an_error_comes_back_with_code_and_message() {
        let sent = NnError::too_large("ü, too much");
        let bytes = error(&sent);
        assert_eq!(read(&bytes, bytes.len()), Some(Message::Error(sent)));
    }

    #[test]
    fn what_is_asked_and_what_was_loaded_come_back_as_they_were() {
        let open = Open {
            backend: "tract".into(),
            library: Some("/l.so".into()),
            path: None,
            graph_bytes: 12,
            options: LoadOptions {
                instances: Some(3),
                intra_op_threads: 2,
                provider: Provider::Openvino,
                device: Some("GPU.1".into()),
                outputs: Some(vec!["a".into(), "b".into()]),
                working_bytes: None,
                labels: [("p".into(), vec!["no".into(), "yes".into()])].into(),
                operator_libraries: vec!["/o.so".into()],
                ..LoadOptions::default()
            },
            process_bytes: Some(1 << 40),
        };
        let back = Open::from_json(open.to_json().as_bytes()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{open:?}"));
        let port = |name: &str, ty, dims| Port {
            name: name.into(),
            ty,
            dims,
        };
        let symbolic = Dim::Symbolic(String::new());
        let opened = Ok(Opened {
            version: "1.2".into(),
            inputs: vec![
                port(
                    "a",
                    PortType::Tensor(TensorType::Bf16),
                    Some(vec![symbolic, Dim::Fixed(3)]),
                ),
                port("b", PortType::Tensor(TensorType::Bool), None),
            ],
            defaults: vec![false, true],
            outputs: vec![
                port("c", PortType::Tensor(TensorType::I8), Some(vec![])),
                port(
                    "d",
                    PortType::Other("a sequence"),
                    Some(vec![Dim::Symbolic("N".into())]),
                ),
            ],
            cost: Cost::Values("Loop".into()),
            rows: Rows::Dependent("Softmax".into()),
            memory_bytes: Some(7),
        });
        let text = opened_to_json(&opened);
        assert_eq!(opened_from_json(text.as_bytes()), Some(opened));
        let failed = Err(NnError::unsupported("no"));
        let text = opened_to_json(&failed);
        assert_eq!(opened_from_json(text.as_bytes()), Some(failed));
        assert_eq!(opened_from_json(b"{}"), None);
    }
}
