//! Decides what an inference request of the Open Inference Protocol v2 means (REST, "Inference
//! Request JSON Object"): inputs with a name, a shape, a datatype and their elements in row-major
//! order, flat or nested.
//!
//! An input's members may come in any order. Its elements are read at once when its name came
//! before them, as every client in use sends it; else they are skipped, checking their syntax, and
//! read in a second pass when the name is known.
//!
//! Of Triton's extensions, the ones about binary tensors, classification and scheduling are understood.
//! An input whose elements stand behind the JSON says so in `binary_data_size`; everything about sizes is
//! decided here, and nothing behind the JSON is looked at ([`crate::binary`] does that).
//!
//! Clients send members and parameters that mean nothing here. They are ignored, or refused where the operator wants that
//! ([`Unknown`]); [`crate::parameters`] has those that are always refused. `null` means that a member was left out.

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
    /// The caller's name for the request, repeated in the answer.
    pub id: Option<String>,
    /// The model that the body names beside the path. The two must agree.
    pub model_name: Option<String>,
    /// The version that is to answer, by number or alias, where the body names one.
    pub model_version: Option<String>,
    /// One tensor for each input, in the contract's order. Those whose elements stand behind the JSON have no
    /// data yet.
    pub inputs: Vec<Tensor>,
    /// The inputs whose elements stand behind the JSON, in their order there.
    pub binary: Vec<BinaryInput>,
    /// The outputs asked for, in the body's order; empty for all.
    pub outputs: Vec<OutputRequest>,
    /// Whether outputs are wanted as bytes that no [`OutputRequest`] is about.
    pub binary_outputs: bool,
    /// Which of the model's lines the call waits in, 1 the first to run; `None` for the default.
    pub priority: Option<u8>,
    /// Microseconds the call may take; `None` for the default.
    pub timeout_us: Option<u64>,
}

/// An input whose elements stand behind the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryInput {
    /// Which of [`InferRequest::inputs`] it is.
    pub input: usize,
    /// Which of the body's `inputs` it is.
    pub index: usize,
    /// Its bytes behind the JSON.
    pub bytes: u64,
}

/// An output that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRequest {
    /// Its name in the contract.
    pub name: String,
    /// Whether its bytes are wanted behind the JSON.
    pub binary: bool,
    /// How many classes are wanted in place of the numbers; 0 for the numbers.
    pub classes: u32,
}

impl InferRequest {
    /// The form an output is wanted in.
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

/// Parses an inference request and checks it against the contract; `tail_bytes` bytes of tensors stand behind it.
/// No memory is taken on the word of a claimed shape or size: only for elements that have arrived.
///
/// Errors with everything wrong at once: `MalformedJson` where it is not JSON, `InvalidBody` where
/// its form is wrong, `NotSupported` where it asks for what is not done here, `InvalidInputs` where a tensor does not
/// meet the contract.
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

/// What inputs claim of the bytes behind the JSON.
struct Tail {
    /// How many claim some, whatever else is wrong with them.
    claims: usize,
    /// How many of these do not say how many bytes; that has been reported.
    unsized_claims: usize,
    /// The sum of what is claimed; `None` beyond `u64`.
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
                    let asked = self.parameters(&mut scanner, at)?;
                    request.binary_outputs = asked.binary_outputs;
                    request.priority = asked.priority;
                    request.timeout_us = asked.timeout_us;
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
        // What the request says of all outputs may stand behind them.
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

    /// Reads the parameters of the whole request.
    fn parameters(
        &mut self,
        scanner: &mut Scanner<'a>,
        at: impl Fn() -> String + Copy,
    ) -> Scan<RequestOptions> {
        let mut asked = RequestOptions::default();
        let (contract, sink) = (self.contract, &mut *self.sink);
        each_parameter(
            scanner,
            sink,
            Of::Request,
            self.unknown,
            at,
            |sink, name, value| {
                asked.take(contract, sink, at, name, &value);
            },
        )?;
        Ok(asked)
    }

    /// Passes over a member that this form has not, and reports it where the operator wants that.
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
