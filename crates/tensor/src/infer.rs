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

use crate::check::{self, Role, Shaped, shape_text};
use crate::classification::{self, MAX_CLASSES};
use crate::contract::{Contract, MAX_RANK, TensorSpec};
use crate::json::{Kind, Names, Scan, Scanner};
use crate::parameters::{self, Of, Unknown, Verdict};
use crate::rejection::{Mark, Rejection, Violations, excerpt};
use crate::tensor::{BYTES_PREFIX_BYTES, Tensor, elements};
use crate::values::{
    self, ParameterValue, Place, Values, missing_member, read_id, read_model_name, read_parameter,
    read_version, unknown_member, wrong_type,
};
use penstock_core::Violation;
use penstock_core::violation::escape_pointer_token;
use std::borrow::Cow;

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
const INPUT_MEMBERS: [&str; 5] = ["name", "shape", "datatype", "parameters", "data"];
const OUTPUT_MEMBERS: [&str; 2] = ["name", "parameters"];

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

/// What is known of an input's elements.
#[derive(Default)]
enum Data {
    /// No such member yet.
    #[default]
    Absent,
    /// Skipped; they begin at this offset.
    At(usize),
    Read(Values),
    /// Given but of no use; what is wrong has been reported.
    Useless,
}

/// The members of one input, as far as they are read.
#[derive(Default)]
struct Members<'a, 'c> {
    has_name: bool,
    spec: Option<&'c TensorSpec>,
    has_shape: bool,
    shape: Option<Vec<u64>>,
    has_datatype: bool,
    datatype: Option<Cow<'a, str>>,
    /// Whether its datatype is not the contract's, or cannot be read; reported where it was met.
    is_unusable: bool,
    data: Data,
    binary: Binary,
    /// Where violations of the elements begin and end. They are withdrawn if the datatype turns out to be another.
    elements_mark: Option<(Mark, Mark)>,
}

/// Where an input states its bytes behind the JSON.
fn binary_size_pointer(index: usize) -> String {
    format!("/inputs/{index}/parameters/binary_data_size")
}

/// An input that names one of the contract's.
struct Read<'c> {
    spec: &'c TensorSpec,
    shape: Vec<u64>,
    data: Vec<u8>,
    /// Which of the body's inputs it is.
    index: usize,
    /// Its bytes behind the JSON, where they stand there.
    binary: Option<u64>,
    pointer: String,
    fits: bool,
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

    /// Checks that as many bytes stand behind the JSON as inputs claim.
    fn tail(&mut self, tail_bytes: u64) {
        let Tail {
            claims,
            unsized_claims,
            bytes: claimed,
        } = self.tail;
        if unsized_claims > 0 || claimed == Some(tail_bytes) {
            return;
        }
        self.sink.form(|| {
            let message = match claimed {
                _ if claims == 0 => format!(
                    "{tail_bytes} bytes follow the JSON, and no input claims them with binary_data_size; give each \
                     binary input that parameter, or set Inference-Header-Content-Length to the whole body"
                ),
                Some(claimed) => format!(
                    "the inputs' binary_data_size add up to {claimed} bytes, and {tail_bytes} bytes follow the JSON; \
                     send the body whole and give the JSON's length in Inference-Header-Content-Length"
                ),
                None => format!(
                    "the inputs' binary_data_size add up to more bytes than can be counted, and {tail_bytes} bytes \
                     follow the JSON; give each input's own bytes"
                ),
            };
            let expected = match claimed {
                Some(claimed) => format!("{claimed} bytes after the JSON"),
                None => "as many bytes as follow the JSON".to_owned(),
            };
            Violation::new("/inputs", "wrong_tail", expected, message)
        });
    }

    fn inputs(
        &mut self,
        scanner: &mut Scanner<'a>,
        tail_bytes: u64,
    ) -> Scan<(Vec<Tensor>, Vec<BinaryInput>)> {
        let kind = scanner.kind()?;
        if kind != Kind::Array {
            self.sink
                .form(|| wrong_type("/inputs".to_owned(), "inputs", "an array of inputs", kind));
            scanner.skip_value()?;
            return Ok((Vec::new(), Vec::new()));
        }
        let mut seen: Vec<&'c str> = Vec::new();
        let mut read: Vec<Read<'c>> = Vec::new();
        let mut more = scanner.open_array()?;
        let mut index = 0;
        while more {
            if let Some(one) = self.input(scanner, index, &mut seen)? {
                read.push(one);
            }
            index += 1;
            more = scanner.next_element()?;
        }
        for spec in &self.contract.inputs {
            if !spec.optional && !seen.contains(&spec.name.as_str()) {
                self.sink
                    .contract(|| check::missing_tensor("/inputs".to_owned(), spec, Role::Input));
            }
        }
        let shaped: Vec<Shaped<'_>> = read
            .iter()
            .filter(|one| one.fits)
            .map(|one| Shaped {
                spec: one.spec,
                shape: one.shape.clone(),
                pointer: one.pointer.clone(),
            })
            .collect();
        check::axes(self.contract, &shaped, Role::Input, self.sink);
        self.tail(tail_bytes);
        if self.sink.count() > 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        // All inputs but optional ones are there, each once, so below they have the contract's order.
        let sent: Vec<&str> = (self.contract.inputs.iter())
            .map(|spec| spec.name.as_str())
            .filter(|name| read.iter().any(|one| one.spec.name == *name))
            .collect();
        let place = |name: &str| sent.iter().position(|sent| *sent == name);
        let binary = read
            .iter()
            .filter_map(|one| {
                Some(BinaryInput {
                    input: place(&one.spec.name)?,
                    index: one.index,
                    bytes: one.binary?,
                })
            })
            .collect();
        let mut tensors = Vec::with_capacity(self.contract.inputs.len());
        for spec in &self.contract.inputs {
            let Some(index) = read.iter().position(|one| one.spec.name == spec.name) else {
                continue;
            };
            let one = read.swap_remove(index);
            tensors.push(Tensor {
                name: spec.name.clone(),
                datatype: spec.datatype,
                shape: one.shape,
                data: one.data,
            });
        }
        Ok((tensors, binary))
    }

    fn input(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        seen: &mut Vec<&'c str>,
    ) -> Scan<Option<Read<'c>>> {
        let here = || format!("/inputs/{index}");
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(here(), "an input", "an object", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let mut read = Members::default();
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            match name.as_ref() {
                "name" => {
                    read.has_name = true;
                    read.spec = self.input_name(scanner, index, seen)?;
                }
                "shape" => {
                    read.has_shape = true;
                    read.shape = self.shape(scanner, index)?;
                }
                "datatype" => self.input_datatype(scanner, index, &mut read)?,
                "parameters" => read.binary = self.input_parameters(scanner, index)?,
                "data" => self.input_data(scanner, index, &mut read)?,
                _ => self.unknown_member(scanner, &here(), &name, &INPUT_MEMBERS)?,
            }
            member = scanner.next_member(&mut names)?;
        }
        self.missing_members(index, &mut read);
        self.checked_input(index, read)
    }

    fn input_datatype(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        read: &mut Members<'a, 'c>,
    ) -> Scan<()> {
        read.has_datatype = true;
        let kind = scanner.kind()?;
        if kind == Kind::String {
            read.datatype = Some(scanner.string()?);
        } else {
            self.sink.form(|| {
                let at = format!("/inputs/{index}/datatype");
                wrong_type(at, "datatype", "a string", kind)
            });
            scanner.skip_value()?;
            read.is_unusable = true;
        }
        Ok(())
    }

    /// Reads `data`, where it is known by now which input it belongs to. Otherwise its place is kept.
    fn input_data(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        read: &mut Members<'a, 'c>,
    ) -> Scan<()> {
        // As if it were not there; the elements stand behind the JSON, or are missing.
        if scanner.skip_null()? {
            return Ok(());
        }
        let kind = scanner.kind()?;
        let start = scanner.offset();
        let stated: Option<&str> = read.datatype.as_deref();
        let is_other = |spec: &TensorSpec| stated.is_some_and(|s| s != spec.datatype.as_str());
        let spec = read.spec.filter(|spec| !is_other(spec));
        read.data = match (kind, spec) {
            (Kind::Array, Some(spec)) => {
                let mark = self.sink.mark();
                let values = self.elements(scanner, spec, index)?;
                read.elements_mark = Some((mark, self.sink.mark()));
                Data::Read(values)
            }
            (Kind::Array, None) => {
                scanner.skip_value()?;
                match read.has_name {
                    true => Data::Useless,
                    false => Data::At(start),
                }
            }
            _ => {
                self.sink.form(|| {
                    let at = format!("/inputs/{index}/data");
                    wrong_type(at, "data", "an array", kind)
                });
                scanner.skip_value()?;
                Data::Useless
            }
        };
        Ok(())
    }

    /// Reports the members that an input lacks, and elements that it gives twice.
    fn missing_members(&mut self, index: usize, read: &mut Members<'a, 'c>) {
        let has_data = !matches!(read.data, Data::Absent);
        let is_binary = !matches!(read.binary, Binary::Absent);
        for (has, name, expected) in [
            (read.has_name, "name", "the input's name"),
            (read.has_shape, "shape", "an array of lengths"),
            (
                read.has_datatype,
                "datatype",
                "the elements' datatype, e.g. \"FP32\"",
            ),
            (
                has_data || is_binary,
                "data",
                "an array of elements, or the parameter binary_data_size for elements after the JSON",
            ),
        ] {
            if !has {
                let here = format!("/inputs/{index}");
                self.sink.form(|| missing_member(&here, name, expected));
            }
        }
        if has_data && is_binary {
            self.sink.form(|| {
                let message = "an input has data and binary_data_size; send its elements in one of the two ways";
                Violation::new(
                    binary_size_pointer(index),
                    "data_given_twice",
                    "data or binary_data_size",
                    message,
                )
            });
            read.binary = Binary::Useless;
        }
    }

    /// Holds an input that was read against the contract; `None` where it cannot be used.
    fn checked_input(&mut self, index: usize, read: Members<'a, 'c>) -> Scan<Option<Read<'c>>> {
        let Members {
            spec,
            mut shape,
            datatype,
            mut is_unusable,
            data,
            binary,
            elements_mark,
            ..
        } = read;
        let here = || format!("/inputs/{index}");
        let Some(spec) = spec else { return Ok(None) };
        if let Some(stated) = &datatype
            && stated.as_ref() != spec.datatype.as_str()
        {
            if let Some((start, end)) = elements_mark {
                self.sink.withdraw(start, end);
            }
            is_unusable = true;
            self.sink.contract(|| {
                check::wrong_datatype(format!("{}/datatype", here()), spec, stated, Role::Input)
            });
        }
        let at_shape = || format!("{}/shape", here());
        // A model's configuration has no scalars: there they are an axis of one element (Triton's `reshape`).
        if spec.shape.is_empty() && shape.as_deref() == Some(&[1]) {
            shape = Some(Vec::new());
        }
        let fits = match &shape {
            Some(shape) => check::shape(spec, shape, Role::Input, self.sink, at_shape),
            None => false,
        };
        if is_unusable {
            return Ok(None);
        }
        if let Binary::Bytes(bytes) = binary {
            let Some(shape) = shape else { return Ok(None) };
            let agrees = self.binary_size(bytes, &shape, spec, || binary_size_pointer(index));
            return Ok(Some(Read {
                spec,
                shape,
                data: Vec::new(),
                index,
                binary: Some(bytes),
                pointer: at_shape(),
                fits: fits && agrees,
            }));
        }
        let values = match data {
            Data::Read(values) => values,
            Data::At(start) => self.elements(&mut Scanner::at(self.body, start), spec, index)?,
            Data::Absent | Data::Useless => return Ok(None),
        };
        let Some(shape) = shape else { return Ok(None) };
        let agrees = self.count(&values, &shape, spec, index);
        check::range(spec, &values.data, Role::Input, self.sink, |element| {
            let nested = values.shape.as_deref().unwrap_or_default();
            format!("{}/data{}", here(), check::nested_index(element, nested)).into()
        });
        let pointer = at_shape();
        Ok(Some(Read {
            spec,
            shape,
            data: values.data,
            index,
            binary: None,
            pointer,
            fits: fits && agrees,
        }))
    }

    /// Reads an input's parameters: whether its elements stand behind the JSON.
    fn input_parameters(&mut self, scanner: &mut Scanner<'a>, index: usize) -> Scan<Binary> {
        let at = || format!("/inputs/{index}/parameters");
        let mut binary = Binary::Absent;
        let (sink, tail) = (&mut *self.sink, &mut self.tail);
        each_parameter(
            scanner,
            sink,
            Of::Input,
            self.unknown,
            at,
            |sink, name, value| {
                tail.claims += 1;
                let what = "the bytes of the input after the JSON";
                binary = match whole(sink, at, name, &value, what) {
                    Some(bytes) => {
                        tail.bytes = tail.bytes.and_then(|sum| sum.checked_add(bytes));
                        Binary::Bytes(bytes)
                    }
                    None => {
                        tail.unsized_claims += 1;
                        Binary::Useless
                    }
                };
            },
        )?;
        Ok(binary)
    }

    /// Checks the size of an input that stands behind the JSON, as far as shape and datatype tell it.
    fn binary_size(
        &mut self,
        bytes: u64,
        shape: &[u64],
        spec: &TensorSpec,
        pointer: impl Fn() -> String,
    ) -> bool {
        let count = elements(shape);
        let fixed = spec.datatype.size_bytes();
        // An element of BYTES has its length before it, at least.
        let least = fixed.unwrap_or(BYTES_PREFIX_BYTES) as u64;
        let needed = count.and_then(|count| count.checked_mul(least));
        let agrees = match (fixed, needed) {
            (_, None) => false,
            (Some(_), Some(needed)) => bytes == needed,
            (None, Some(needed)) => bytes >= needed,
        };
        if !agrees {
            self.sink.contract(|| {
                let datatype = spec.datatype;
                let expected = match (fixed, needed) {
                    (_, None) => "a shape whose bytes can be counted".to_owned(),
                    (Some(_), Some(needed)) => format!("{needed} bytes"),
                    (None, Some(needed)) => format!("at least {needed} bytes"),
                };
                let message = format!(
                    "input {:?} has {bytes} bytes after the JSON; {datatype} of shape {} takes {expected}",
                    spec.name,
                    shape_text(shape)
                );
                Violation::new(pointer(), "wrong_size", expected, message)
            });
        }
        agrees
    }

    fn input_name(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        seen: &mut Vec<&'c str>,
    ) -> Scan<Option<&'c TensorSpec>> {
        let at = || format!("/inputs/{index}/name");
        let kind = scanner.kind()?;
        if kind != Kind::String {
            self.sink
                .form(|| wrong_type(at(), "name", "the input's name as a string", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let name = scanner.string()?;
        let contract = self.contract;
        let Some(spec) = contract.input(&name) else {
            self.sink
                .contract(|| check::unknown_tensor(at(), &name, &contract.inputs, Role::Input));
            return Ok(None);
        };
        if seen.contains(&spec.name.as_str()) {
            self.sink.contract(|| {
                let message = format!(
                    "input {:?} is given more than once; give it once",
                    spec.name
                );
                Violation::new(at(), "duplicate_input", "each input once", message)
            });
            return Ok(None);
        }
        seen.push(&spec.name);
        Ok(Some(spec))
    }

    fn shape(&mut self, scanner: &mut Scanner<'a>, index: usize) -> Scan<Option<Vec<u64>>> {
        let at = || format!("/inputs/{index}/shape");
        let kind = scanner.kind()?;
        if kind != Kind::Array {
            self.sink
                .form(|| wrong_type(at(), "shape", "an array of lengths", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let (mut shape, mut usable, mut rank) = (Vec::new(), true, 0usize);
        let mut more = scanner.open_array()?;
        while more {
            let start = scanner.offset();
            let length = match scanner.kind()? {
                Kind::Number => scanner.number()?.to_u64().ok(),
                _ => {
                    scanner.skip_value()?;
                    None
                }
            };
            match length {
                Some(length) if rank < MAX_RANK => shape.push(length),
                Some(_) => {}
                None => {
                    usable = false;
                    self.sink.form(|| {
                        let found = self.body.get(start..scanner.offset()).unwrap_or_default();
                        let found = String::from_utf8_lossy(found);
                        let message = format!(
                            "the length of axis {rank} is {}; send the number of elements along this axis",
                            excerpt(found.trim())
                        );
                        let at = format!("{}/{rank}", at());
                        Violation::new(at, "wrong_type", "an integer of at least 0", message)
                    });
                }
            }
            rank += 1;
            more = scanner.next_element()?;
        }
        if rank > MAX_RANK {
            usable = false;
            self.sink.contract(|| {
                let message = format!("shape has {rank} axes; a tensor has at most {MAX_RANK}");
                Violation::new(
                    at(),
                    "wrong_shape",
                    format!("at most {MAX_RANK} axes"),
                    message,
                )
            });
        }
        Ok(usable.then_some(shape))
    }

    /// Reads `data`: flat when its first element is no array.
    fn elements(
        &mut self,
        scanner: &mut Scanner<'a>,
        spec: &TensorSpec,
        index: usize,
    ) -> Scan<Values> {
        let place = Place::Data(index);
        let (levels, innermost_empty) = scanner.nesting();
        if levels <= 1 || spec.shape.is_empty() || (innermost_empty && levels < spec.shape.len()) {
            values::read_flat(scanner, spec, place, self.sink)
        } else {
            values::read_nested(scanner, spec, place, false, self.sink)
        }
    }

    /// Checks that as many elements came as the shape says, nested as it says if nested.
    fn count(&mut self, values: &Values, shape: &[u64], spec: &TensorSpec, index: usize) -> bool {
        // Ragged or too deep: reported where it was met.
        let Some(nested) = &values.shape else {
            return false;
        };
        let flat = nested.len() == 1;
        let agrees = if flat {
            elements(shape) == Some(values.count)
        } else {
            nested == shape
        };
        if !agrees {
            self.sink.contract(|| {
                let (stated, at) = (shape_text(shape), format!("/inputs/{index}/data"));
                let expected = match elements(shape) {
                    Some(count) => format!("{count} elements for shape {stated}"),
                    None => format!("the elements of shape {stated}"),
                };
                let found = if flat {
                    format!("{} elements", values.count)
                } else {
                    format!("arrays of shape {}", shape_text(nested))
                };
                let message = format!("input {:?} has {found}; send {expected}", spec.name);
                Violation::new(at, "wrong_count", expected, message)
            });
        }
        agrees
    }

    fn outputs(&mut self, scanner: &mut Scanner<'a>) -> Scan<Vec<Output>> {
        let mut outputs: Vec<Output> = Vec::new();
        if scanner.skip_null()? {
            return Ok(outputs);
        }
        let kind = scanner.kind()?;
        if kind != Kind::Array {
            self.sink.form(|| {
                wrong_type(
                    "/outputs".to_owned(),
                    "outputs",
                    "an array of outputs",
                    kind,
                )
            });
            scanner.skip_value()?;
            return Ok(outputs);
        }
        let mut more = scanner.open_array()?;
        let mut index = 0usize;
        while more {
            if let Some(output) = self.output(scanner, index, &outputs)? {
                outputs.push(output);
            }
            index += 1;
            more = scanner.next_element()?;
        }
        Ok(outputs)
    }

    fn output(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
        earlier: &[Output],
    ) -> Scan<Option<Output>> {
        let here = || format!("/outputs/{index}");
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            self.sink
                .form(|| wrong_type(here(), "an output", "an object with \"name\"", kind));
            scanner.skip_value()?;
            return Ok(None);
        }
        let (mut output, mut has_name) = (None, false);
        let (mut binary, mut classes) = (None, 0);
        let contract = self.contract;
        let mut names = Names::default();
        let mut member = scanner.open_object(&mut names)?;
        while let Some(name) = member {
            let at = || format!("{}/name", here());
            match (name.as_ref(), scanner.kind()?) {
                ("name", Kind::String) => {
                    has_name = true;
                    let name = scanner.string()?;
                    match contract.output(&name) {
                        None => self.sink.contract(|| {
                            check::unknown_tensor(at(), &name, &contract.outputs, Role::Output)
                        }),
                        Some(_) if earlier.iter().any(|(other, ..)| *other == name) => {
                            self.sink.contract(|| {
                                let message =
                                    format!("output {name:?} is requested twice; request it once");
                                Violation::new(
                                    at(),
                                    "duplicate_output",
                                    "each output once",
                                    message,
                                )
                            })
                        }
                        Some(spec) => output = Some(spec),
                    }
                }
                ("name", kind) => {
                    has_name = true;
                    self.sink
                        .form(|| wrong_type(at(), "name", "the output's name as a string", kind));
                    scanner.skip_value()?;
                }
                ("parameters", _) => {
                    (binary, classes) = self.output_parameters(scanner, index)?;
                }
                _ => self.unknown_member(scanner, &here(), &name, &OUTPUT_MEMBERS)?,
            }
            member = scanner.next_member(&mut names)?;
        }
        if !has_name {
            self.sink
                .form(|| missing_member(&here(), "name", "the output's name"));
        }
        let Some(spec) = output else { return Ok(None) };
        if classes > 0 && !classification::has_classes(spec.datatype) {
            self.sink.contract(|| {
                let message = format!(
                    "output {:?} is {}, which has no scores to rank classes by; request it without classification",
                    spec.name, spec.datatype
                );
                let at = format!("{}/parameters/classification", here());
                Violation::new(at, "wrong_datatype", "an output of numbers", message)
            });
        }
        Ok(Some((spec.name.clone(), binary, classes)))
    }

    /// Reads an output's parameters: the form it is wanted in.
    fn output_parameters(
        &mut self,
        scanner: &mut Scanner<'a>,
        index: usize,
    ) -> Scan<(Option<bool>, u32)> {
        let at = || format!("/outputs/{index}/parameters");
        let (mut binary, mut classes) = (None, 0);
        let sink = &mut *self.sink;
        each_parameter(
            scanner,
            sink,
            Of::Output,
            self.unknown,
            at,
            |sink, name, value| {
                if name == "binary_data" {
                    binary = truth(sink, at, name, &value);
                    return;
                }
                let most = u64::from(MAX_CLASSES);
                match whole(sink, at, name, &value, "the number of classes to return") {
                    Some(count) if count <= most => {
                        classes = u32::try_from(count).unwrap_or(MAX_CLASSES);
                    }
                    Some(count) => sink.form(|| {
                        let message =
                            format!("{count} classes are requested; request at most {most}");
                        let at = format!("{}/{name}", at());
                        let expected = format!("at most {most}");
                        Violation::new(at, "number_out_of_range", expected, message)
                    }),
                    None => {}
                }
            },
        )?;
        Ok((binary, classes))
    }

    /// Reads the parameters of the whole request.
    fn parameters(
        &mut self,
        scanner: &mut Scanner<'a>,
        at: impl Fn() -> String + Copy,
    ) -> Scan<Asked> {
        let mut asked = Asked::default();
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

/// An output's name, whether its own parameters want it as bytes, and how many classes they want.
type Output = (String, Option<bool>, u32);

/// Where an input's elements stand, as its parameters tell.
#[derive(Default)]
enum Binary {
    /// Not behind the JSON.
    #[default]
    Absent,
    /// So many bytes behind it.
    Bytes(u64),
    /// Said in a way that is of no use, which has been reported.
    Useless,
}

/// What the parameters of a whole request ask for.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) binary_outputs: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) timeout_us: Option<u64>,
}

impl Asked {
    /// Takes one of the parameters that a request has.
    pub(crate) fn take(
        &mut self,
        contract: &Contract,
        sink: &mut Violations,
        at: impl Fn() -> String,
        name: &str,
        value: &ParameterValue,
    ) {
        match name {
            "binary_data_output" => {
                self.binary_outputs = truth(sink, at, name, value).unwrap_or_default();
            }
            "priority" => {
                let level = whole(sink, at, name, value, "a priority level; 1 runs first");
                // As Triton does: 0 and a level the model has not are its default.
                let levels = 1..=contract.batching.priority_levels;
                let level = level.and_then(|level| u8::try_from(level).ok());
                self.priority = level.filter(|level| levels.contains(level));
            }
            "timeout" => {
                let us = whole(sink, at, name, value, "microseconds");
                self.timeout_us = us.filter(|us| *us > 0);
            }
            _ => {}
        }
    }
}

/// Reads an object of parameters, and gives `take` each that is acted on there, with its value. `null` is no object.
fn each_parameter(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
    of: Of,
    unknown: Unknown,
    at: impl Fn() -> String + Copy,
    mut take: impl FnMut(&mut Violations, &str, ParameterValue),
) -> Scan<()> {
    if scanner.skip_null()? {
        return Ok(());
    }
    let kind = scanner.kind()?;
    if kind != Kind::Object {
        sink.form(|| wrong_type(at(), "parameters", "an object", kind));
        return scanner.skip_value();
    }
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names)?;
    while let Some(name) = member {
        if let Some(value) = taken(scanner, sink, &name, (of, unknown), at)? {
            take(sink, &name, value);
        }
        member = scanner.next_member(&mut names)?;
    }
    Ok(())
}

/// Reads the value of one parameter, and gives it where something acts on it. `at` is where the parameter's parent stands.
pub(crate) fn taken(
    scanner: &mut Scanner<'_>,
    sink: &mut Violations,
    name: &str,
    (of, unknown): (Of, Unknown),
    at: impl Fn() -> String + Copy,
) -> Scan<Option<ParameterValue>> {
    // What nothing here knows may have any value, and is passed over.
    if !parameters::is_known(name) {
        if unknown == Unknown::Refuse {
            sink.form(|| unknown_parameter(&at(), name, of));
        }
        scanner.skip_value()?;
        return Ok(None);
    }
    let Some(value) = read_parameter(scanner, sink, name, at)? else {
        return Ok(None);
    };
    let (reason, of) = match parameters::verdict(name, of, value.is_nothing(), value.as_text()) {
        Verdict::Taken => return Ok(Some(value)),
        Verdict::Unknown => return Ok(None),
        Verdict::NotSupported(why) => (why.to_owned(), of),
        Verdict::Misplaced(place) => {
            let place = place.name();
            (format!("it is a parameter of {place}; send it there"), of)
        }
    };
    sink.unsupported(|| {
        let expected = format!("one of: {}", parameters::taken(of));
        let of = of.name();
        let message = format!("parameter {name:?} of {of} is not supported: {reason}");
        Violation::new(
            parameter_pointer(&at(), name),
            "not_supported",
            expected,
            message,
        )
    });
    Ok(None)
}

fn unknown_parameter(parent: &str, name: &str, of: Of) -> Violation {
    let known = format!("one of: {}", parameters::taken(of));
    let message = format!(
        "{:?} is not a parameter of {} here; remove it, or use {known}",
        excerpt(name),
        of.name()
    );
    Violation::new(
        parameter_pointer(parent, name),
        "unknown_parameter",
        known,
        message,
    )
}

fn parameter_pointer(parent: &str, name: &str) -> String {
    format!("{parent}/{}", escape_pointer_token(&excerpt(name)))
}

/// Takes a parameter that is true or false.
fn truth(
    sink: &mut Violations,
    parent: impl Fn() -> String,
    name: &str,
    value: &ParameterValue,
) -> Option<bool> {
    if let ParameterValue::Bool(value) = value {
        return Some(*value);
    }
    sink.form(|| {
        let message = format!("parameter {name:?} is {}; send true or false", value.text());
        let at = parameter_pointer(&parent(), name);
        Violation::new(at, "wrong_type", "true or false", message)
    });
    None
}

/// Takes a parameter that is a whole number, not negative.
fn whole(
    sink: &mut Violations,
    parent: impl Fn() -> String,
    name: &str,
    value: &ParameterValue,
    what: &str,
) -> Option<u64> {
    if let ParameterValue::Integer(number) = value
        && let Ok(number) = u64::try_from(*number)
    {
        return Some(number);
    }
    sink.form(|| {
        let expected = "an integer of at least 0";
        let message = format!(
            "parameter {name:?} is {}; send {what} as {expected}",
            value.text()
        );
        let at = parameter_pointer(&parent(), name);
        Violation::new(at, "wrong_type", expected, message)
    });
    None
}
