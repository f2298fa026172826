//! Reads an inference request of the Open Inference Protocol v2 (REST, "Inference
//! Request JSON Object"): inputs with a name, a shape, a datatype and their elements in row-major
//! order, flat or nested.
//!
//! The members of an input may come in any order. If its name comes before its elements, as every known client sends it,
//! the elements are parsed at once. Otherwise they are skipped with a check of their syntax, and parsed in a second pass
//! when the name is known.
//!
//! Of Triton's extensions, binary tensors, classification and scheduling are supported. An input whose elements follow the
//! JSON has the parameter `binary_data_size`. Sizes are checked here; [`crate::binary`] reads the bytes after the JSON.
//!
//! Clients send members and parameters that have no meaning here. They are ignored, or refused if the operator configures
//! that ([`Unknown`]). [`crate::parameters`] lists those that are always refused. `null` means that a member is absent.

mod inputs;
mod options;
mod outputs;

pub(crate) use options::{RequestOptions, taken};

use crate::contract::Contract;
use crate::json::{Kind, Names, Scan, Scanner};
use crate::parameters::{Of, Unknown};
use crate::rejection::{Rejection, Violations};
use crate::tensor::Tensor;
use crate::values::{
    missing_member, read_id, read_model_name, read_version, unknown_member, wrong_type,
};
use options::each_parameter;

/// An inference request that meets the contract.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferRequest {
    /// The caller's id of the request, repeated in the answer.
    pub id: Option<String>,
    /// The model that the body names. It must agree with the path.
    pub model_name: Option<String>,
    /// The version number or alias that the body names.
    pub model_version: Option<String>,
    /// One tensor for each input, in the contract's order. Tensors whose elements follow the JSON have no data yet.
    pub inputs: Vec<Tensor>,
    /// The inputs whose elements follow the JSON, in the order of their bytes.
    pub binary: Vec<BinaryInput>,
    /// The requested outputs, in the body's order; empty for all.
    pub outputs: Vec<OutputRequest>,
    /// Whether outputs without an [`OutputRequest`] are returned as bytes.
    pub binary_outputs: bool,
    /// The priority in the model's queue; 1 runs first. `None` for the default.
    pub priority: Option<u8>,
    /// The timeout of the call in microseconds; `None` for the default.
    pub timeout_us: Option<u64>,
}

/// An input whose elements follow the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryInput {
    /// Its index in [`InferRequest::inputs`].
    pub input: usize,
    /// Its index in the body's `inputs`.
    pub index: usize,
    /// The number of its bytes after the JSON.
    pub bytes: u64,
}

/// An output that the request names, with the form in which it is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRequest {
    /// Its name in the contract.
    pub name: String,
    /// Whether it is returned as bytes after the JSON.
    pub binary: bool,
    /// The number of classes to return instead of the numbers; 0 for the numbers.
    pub classes: u32,
}

impl InferRequest {
    /// The requested form of an output: whether as bytes, and the number of classes.
    pub fn form_of(&self, output: &str) -> (bool, u32) {
        let asked = self.outputs.iter().find(|asked| asked.name == output);
        asked.map_or((self.binary_outputs, 0), |asked| {
            (asked.binary, asked.classes)
        })
    }
}

const MEMBERS: [&str; 6] = [
    "id",
    "parameters",
    "inputs",
    "outputs",
    "model_name",
    "model_version",
];

/// Parses an inference request and checks it against the contract. `tail_bytes` bytes of tensors follow it. Memory is
/// allocated only for elements that have arrived, never for a claimed shape or size.
///
/// Errors with all violations at once: `MalformedJson` if the body is not JSON, `InvalidBody` if its form is wrong,
/// `NotSupported` if it asks for an unsupported feature, `InvalidInputs` if a tensor does not meet the contract.
pub fn parse_infer(
    body: &[u8],
    tail_bytes: u64,
    contract: &Contract,
    unknown: Unknown,
) -> Result<InferRequest, Rejection> {
    let mut sink = Violations::default();
    let request = Request {
        body,
        contract,
        unknown,
        tail: Tail {
            claims: 0,
            unsized_claims: 0,
            bytes: Some(0),
        },
        sink: &mut sink,
    }
    .read(tail_bytes)?;
    sink.finish()?;
    Ok(request)
}

struct Request<'a, 'c> {
    body: &'a [u8],
    contract: &'c Contract,
    unknown: Unknown,
    tail: Tail,
    sink: &'c mut Violations,
}

/// The claims of inputs on the bytes after the JSON.
struct Tail {
    /// The number of inputs that claim bytes, with or without faults.
    claims: usize,
    /// The number of these without a valid size; each is reported already.
    unsized_claims: usize,
    /// The sum of the claimed sizes; `None` beyond `u64`.
    bytes: Option<u64>,
}

impl<'a, 'c> Request<'a, 'c> {
    fn read(mut self, tail_bytes: u64) -> Scan<InferRequest> {
        let mut scanner = Scanner::new(self.body);
        let mut request = InferRequest::default();
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(String::new(), "the body", "an object with \"inputs\"", kind));
            scanner.skip_value()?;
            scanner.finish()?;
            return Ok(request);
        }
        let mut has_inputs = false;
        let mut outputs = Vec::new();
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            match name.as_ref() {
                "id" => request.id = read_id(&mut scanner, self.sink)?,
                "parameters" => {
                    let at = || "/parameters".to_owned();
                    let options = self.parameters(&mut scanner, at)?;
                    request.binary_outputs = options.binary_outputs;
                    request.priority = options.priority;
                    request.timeout_us = options.timeout_us;
                }
                "model_name" => {
                    request.model_name = read_model_name(&mut scanner, self.sink)?;
                }
                "model_version" => request.model_version = read_version(&mut scanner, self.sink)?,
                "inputs" => {
                    if scanner.skip_null()? {
                        member = scanner.next_member(&mut names)?;
                        continue;
                    }
                    has_inputs = true;
                    (request.inputs, request.binary) = self.inputs(&mut scanner, tail_bytes)?;
                }
                "outputs" => outputs = self.outputs(&mut scanner)?,
                _ => self.unknown_member(&mut scanner, "", &name, &MEMBERS)?,
            }
            member = scanner.next_member(&mut names)?;
        }
        scanner.finish()?;
        if !has_inputs {
            self.sink
                .form(|| missing_member("", "inputs", "an array of inputs"));
        }
        // The parameter for all outputs may follow the outputs.
        request.outputs = outputs
            .into_iter()
            .map(|(name, binary, classes)| OutputRequest {
                name,
                binary: binary.unwrap_or(request.binary_outputs),
                classes,
            })
            .collect();
        Ok(request)
    }

    /// Parses the parameters of the whole request.
    fn parameters(
        &mut self,
        scanner: &mut Scanner<'a>,
        at: impl Fn() -> String + Copy,
    ) -> Scan<RequestOptions> {
        let mut options = RequestOptions::default();
        let (contract, sink) = (self.contract, &mut *self.sink);
        each_parameter(
            scanner,
            sink,
            Of::Request,
            self.unknown,
            at,
            |sink, name, value| {
                options.take(contract, sink, at, name, &value);
            },
        )?;
        Ok(options)
    }

    /// Skips an unknown member, and reports it if the operator configures that.
    fn unknown_member(
        &mut self,
        scanner: &mut Scanner<'a>,
        parent: &str,
        name: &str,
        known: &[&str],
    ) -> Scan<()> {
        if self.unknown == Unknown::Refuse {
            self.sink.form(|| unknown_member(parent, name, known));
        }
        scanner.skip_value()
    }
}
