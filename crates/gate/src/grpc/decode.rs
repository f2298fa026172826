//! Decides the meaning of a `ModelInferRequest`: tensors that meet the contract, the requested outputs, and the
//! call's priority and timeout.
//!
//! The decoder reads the message field by field and does not first build a structure. In such a structure, a field of
//! two bytes costs hundreds of bytes. Beside the message, the decoder holds at most [`MAX_LISTED`] entries of each
//! list, and the tensors. It checks the tensors' sizes against the limit for decoded bodies before it allocates
//! memory for them.
//!
//! As in Triton, either every input uses `raw_input_contents` or none does.

mod contents;
mod faults;

use super::condense::Condensed;
use super::wire::{self, Broken, Piece, Value};
use crate::route::{Target, shorten};
use penstock_core::Code;
use penstock_core::violation::escape_pointer_token;
use penstock_tensor::contract::{MAX_RANK, MAX_TENSOR_NAME_BYTES, MAX_TENSORS};
use penstock_tensor::parameters::{self, Of, ParameterCheck};
use penstock_tensor::{Buffer, Contract, Datatype, Rejection, Tensor, Unknown, check_tensors_at};

use contents::{Contents, copied, counted};
use faults::Faults;
pub use faults::malformed;

/// The most inputs, outputs, raw contents, or parameters of one element that are read. No contract has more tensors,
/// and fewer parameters are defined.
pub const MAX_LISTED: usize = MAX_TENSORS;

/// The longest `id` in bytes, as over REST. The answer repeats the id.
pub const MAX_ID_BYTES: usize = 256;

/// The longest version in bytes that is read. Real versions have a few digits.
const MAX_VERSION_BYTES: usize = 256;

/// An inference request that meets the contract.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The caller's id of the request. The answer repeats it.
    pub id: Option<String>,
    /// One tensor for each input, in the contract's order.
    pub inputs: Vec<Tensor>,
    /// The requested outputs in the caller's order, each with the number of classes to return instead of its numbers.
    /// Empty means all outputs.
    pub outputs: Vec<(String, u32)>,
    /// The priority level of the call in the model's queue, 1 is the highest; `None` means the default.
    pub priority: Option<u8>,
    /// The time that the call may take, in microseconds; `None` means the default.
    pub timeout_us: Option<u64>,
}

/// The model and the id of a request, read before its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    /// The model, and the pinned version if there is one.
    pub target: Target,
    /// The caller's id of the request.
    pub id: String,
}

/// Reads the model and the id of a request. Errors if the bytes are not a valid message.
pub fn heading(message: &[u8]) -> Result<Heading, Rejection> {
    let mut top = Top::default();
    top.read_on(message).map_err(malformed)?;
    Ok(top.heading())
}

/// Reads the heading from the first part of a message; `None` if that part names no model.
pub fn heading_of_front(front: &[u8]) -> Option<Heading> {
    let mut top = Top::default();
    // The message is cut off, so an error is expected. The fields before the error were read.
    let _ = top.read_on(front);
    (!top.model.is_empty()).then(|| top.heading())
}

/// Cuts a caller's name that is longer than any valid name. The cut name matches nothing.
fn bounded(text: &str, bytes: usize) -> String {
    let end = text.floor_char_boundary(bytes + 1);
    text.get(..end).unwrap_or_default().to_owned()
}

/// Reads an inference request whose tensors may have `limit` bytes together, and checks it against the contract.
///
/// Errors with all violations at once:
/// - `MalformedProtobuf` if the bytes are not the message.
/// - `InvalidBody` if its parts contradict each other.
/// - `NotSupported` if it requests a feature that this server does not have.
/// - `InvalidInputs` if a tensor violates the contract.
/// - `BodyTooLarge` if its tensors exceed the limit.
pub fn decode_infer(
    message: &[u8],
    contract: &Contract,
    limit: u64,
    unknown: Unknown,
) -> Result<Decoded, Rejection> {
    decode_top(
        Top::read(message).map_err(malformed)?,
        contract,
        limit,
        unknown,
    )
}

/// Does the same with a message whose large raw contents stay in the host. The places of faults in its encoding are those of the
/// condensed message.
pub fn decode_condensed(
    condensed: &Condensed,
    contract: &Contract,
    limit: u64,
    unknown: Unknown,
) -> Result<Decoded, Rejection> {
    let mut top = Top::read(&condensed.message).map_err(malformed)?;
    top.held = &condensed.raw;
    decode_top(top, contract, limit, unknown)
}

fn decode_top(
    top: Top<'_>,
    contract: &Contract,
    limit: u64,
    unknown: Unknown,
) -> Result<Decoded, Rejection> {
    let mut faults = Faults::new(unknown);
    let mut decoded = Decoded::default();
    if top.id.len() > MAX_ID_BYTES {
        faults.form("/id", "id_too_long", || {
            (
                format!("at most {MAX_ID_BYTES} bytes"),
                format!("id has {} bytes; send at most {MAX_ID_BYTES}", top.id.len()),
            )
        });
    } else if !top.id.is_empty() {
        decoded.id = Some(top.id.to_owned());
    }
    for (name, listed, all) in [
        ("inputs", top.inputs.len(), top.inputs_count),
        ("outputs", top.outputs.len(), top.outputs_count),
        ("parameters", top.parameters.len(), top.parameters_count),
    ] {
        if all > listed {
            faults.form(&format!("/{name}"), "too_many", || {
                (
                    format!("at most {MAX_LISTED}"),
                    format!("there are {all} {name}; send at most {MAX_LISTED}"),
                )
            });
        }
    }
    request_parameters(&top, contract, &mut decoded, &mut faults).map_err(malformed)?;
    let Listed { places, omitted } = inputs(&top, contract, limit, &mut decoded, &mut faults)?;
    outputs(&top, contract, &mut decoded, &mut faults).map_err(malformed)?;
    // An input that was left out because of a violation must not also be reported as missing.
    let place = |index: usize| {
        let place = places.get(index).copied().unwrap_or_default();
        format!("/inputs/{place}")
    };
    let checked = match check_tensors_at(&decoded.inputs, contract, &place) {
        Ok(()) => Ok(()),
        Err(rejection) => faults.join(rejection, &omitted),
    };
    faults.finish(checked)?;
    let mut sorted = Vec::with_capacity(decoded.inputs.len());
    for spec in &contract.inputs {
        let at = decoded.inputs.iter().position(|t| t.name == spec.name);
        sorted.extend(at.map(|at| decoded.inputs.swap_remove(at)));
    }
    decoded.inputs = sorted;
    Ok(decoded)
}

/// The fields of a request as slices of the message.
#[derive(Default)]
struct Top<'a> {
    model: &'a str,
    version: &'a str,
    id: &'a str,
    parameters: Vec<Piece<'a>>,
    parameters_count: usize,
    inputs: Vec<Piece<'a>>,
    inputs_count: usize,
    outputs: Vec<Piece<'a>>,
    outputs_count: usize,
    raw: Vec<Piece<'a>>,
    raw_count: usize,
    /// The raw contents that stay in the host, each with its place among all.
    held: &'a [(usize, Buffer)],
}

impl<'a> Top<'a> {
    /// The raw contents at a place, if there are any.
    fn raw(&self, index: usize) -> Option<Raw<'a>> {
        if let Some((_, held)) = self.held.iter().find(|(place, _)| *place == index) {
            return Some(Raw::Held(held));
        }
        self.raw.get(index).map(|raw| Raw::Here(raw.bytes))
    }

    fn read(message: &'a [u8]) -> Result<Self, Broken> {
        let mut top = Self::default();
        top.read_on(message)?;
        Ok(top)
    }

    fn read_on(&mut self, message: &'a [u8]) -> Result<(), Broken> {
        let mut fields = Piece::whole(message).fields();
        loop {
            let at = fields.at();
            let Some((number, value)) = fields.field()? else {
                return Ok(());
            };
            let list = match number {
                1 => {
                    self.model = value.piece(at)?.text()?;
                    continue;
                }
                2 => {
                    self.version = value.piece(at)?.text()?;
                    continue;
                }
                3 => {
                    self.id = value.piece(at)?.text()?;
                    continue;
                }
                4 => (&mut self.parameters, &mut self.parameters_count),
                5 => (&mut self.inputs, &mut self.inputs_count),
                6 => (&mut self.outputs, &mut self.outputs_count),
                7 => (&mut self.raw, &mut self.raw_count),
                _ => continue,
            };
            list_piece(list, value.piece(at)?);
        }
    }

    fn heading(&self) -> Heading {
        Heading {
            target: Target {
                model: bounded(self.model, MAX_TENSOR_NAME_BYTES),
                version: (!self.version.is_empty())
                    .then(|| bounded(self.version, MAX_VERSION_BYTES)),
            },
            id: bounded(self.id, MAX_ID_BYTES),
        }
    }
}

/// The raw contents of one input.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Here(&'a [u8]),
    Held(&'a Buffer),
}

impl Raw<'_> {
    fn len(self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::Held(buffer) => buffer.len(),
        }
    }

    /// The contents as data of a tensor. Takes their number from `room`.
    fn data(self, room: &mut u64, limit: u64) -> Result<Buffer, Rejection> {
        match self {
            Self::Here(bytes) => Ok(copied(bytes, room, limit)?.into()),
            Self::Held(buffer) => {
                counted(buffer.len() as u64, room, limit)?;
                Ok(buffer.clone())
            }
        }
    }
}

/// Counts a piece, and keeps it if the list has fewer than [`MAX_LISTED`] entries.
fn list_piece<'a>((list, count): (&mut Vec<Piece<'a>>, &mut usize), piece: Piece<'a>) {
    *count += 1;
    if list.len() < MAX_LISTED {
        list.push(piece);
    }
}

/// The number 2^53. Every integer from 0 to this value is exactly representable as a double.
const EXACT: f64 = (1u64 << 53) as f64;

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Parameter<'a> {
    Nothing,
    Bool(bool),
    Integer(i128),
    Number(f64),
    Text(&'a str),
}

impl Parameter<'_> {
    /// Returns whether the value is absent, false or zero, that is, requests the default behaviour.
    fn is_nothing(self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Bool(value) => !value,
            Self::Integer(value) => value == 0,
            Self::Number(value) => value == 0.0,
            Self::Text(value) => value.is_empty(),
        }
    }

    /// Returns the value if it is a non-negative integer. As in JSON, 4.0 is 4.
    fn whole(self) -> Option<u64> {
        match self {
            Self::Integer(value) => u64::try_from(value).ok(),
            // Every integer up to `EXACT` is a double, so the cast does not round.
            Self::Number(value) if value.fract() == 0.0 && (0.0..=EXACT).contains(&value) => {
                Some(value as u64)
            }
            _ => None,
        }
    }

    /// Returns the value if it is a string.
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads one entry of a map of parameters.
fn parameter(entry: Piece<'_>) -> Result<(&str, Parameter<'_>), Broken> {
    let (mut name, mut parameter) = ("", Parameter::Nothing);
    let mut fields = entry.fields();
    loop {
        let at = fields.at();
        let Some((number, value)) = fields.field()? else {
            return Ok((name, parameter));
        };
        match number {
            1 => name = value.piece(at)?.text()?,
            2 => {
                let mut choices = value.piece(at)?.fields();
                loop {
                    let at = choices.at();
                    let Some((number, value)) = choices.field()? else {
                        break;
                    };
                    parameter = match (number, value) {
                        (1, Value::Varint(value)) => Parameter::Bool(value != 0),
                        (2, Value::Varint(value)) => {
                            Parameter::Integer(i128::from(value.cast_signed()))
                        }
                        (3, Value::Piece(piece)) => Parameter::Text(piece.text()?),
                        (4, Value::Fixed64(bytes)) => Parameter::Number(f64::from_le_bytes(bytes)),
                        (5, Value::Varint(value)) => Parameter::Integer(value.into()),
                        (1..=5, _) => {
                            return Err(Broken {
                                at,
                                what: wire::WRONG_KIND,
                            });
                        }
                        _ => parameter,
                    };
                }
            }
            _ => {}
        }
    }
}

/// Returns whether this server acts on the parameter at this place. Reports a parameter that would change the result
/// and is not supported. Reports an unknown parameter if the operator's settings require it.
fn is_taken(
    faults: &mut Faults,
    (parent, of): (&str, Of),
    name: &str,
    parameter: Parameter<'_>,
) -> bool {
    let check = parameters::check(name, of, parameter.is_nothing(), parameter.as_text());
    let at = || {
        let name = escape_pointer_token(&shorten(name));
        format!("{parent}/parameters/{name}")
    };
    let expected = || format!("one of: {}", parameters::taken(of));
    let reason = match check {
        ParameterCheck::Taken => return true,
        ParameterCheck::Unknown => {
            let refused = faults.unknown == Unknown::Refuse;
            if refused && !parameters::is_known(name) {
                faults.form(&at(), "unknown_parameter", || {
                    let message = format!(
                        "{:?} is not a parameter of {} here; remove it, or use {}",
                        shorten(name),
                        of.name(),
                        expected()
                    );
                    (expected(), message)
                });
            }
            return false;
        }
        ParameterCheck::NotSupported(why) => why.to_owned(),
        ParameterCheck::Misplaced(place) => {
            format!("it is a parameter of {}; send it there", place.name())
        }
    };
    faults.push(Code::NotSupported, &at(), "not_supported", || {
        let of = of.name();
        let message = format!(
            "parameter {:?} of {of} is not supported: {reason}",
            shorten(name)
        );
        (expected(), message)
    });
    false
}

fn wrong_parameter(faults: &mut Faults, at: &str, name: &str, expected: &str) {
    faults.form(&format!("{at}/parameters/{name}"), "wrong_type", || {
        (
            expected.to_owned(),
            format!("parameter {name:?} is not {expected}; send it as int64_param or uint64_param"),
        )
    });
}

fn request_parameters(
    top: &Top<'_>,
    contract: &Contract,
    decoded: &mut Decoded,
    faults: &mut Faults,
) -> Result<(), Broken> {
    for entry in &top.parameters {
        let (name, value) = parameter(*entry)?;
        if value == Parameter::Nothing || !is_taken(faults, ("", Of::Request), name, value) {
            continue;
        }
        match name {
            "priority" => match value.whole() {
                // As in Triton, level 0 and levels that the model does not have mean the default.
                Some(level) => {
                    let levels = 1..=contract.batching.priority_levels;
                    let level = u8::try_from(level).ok();
                    decoded.priority = level.filter(|level| levels.contains(level));
                }
                None => wrong_parameter(faults, "", name, "a priority level; 1 runs first"),
            },
            "timeout" => match value.whole() {
                Some(us) => decoded.timeout_us = Some(us).filter(|us| *us > 0),
                None => wrong_parameter(faults, "", name, "a number of microseconds"),
            },
            // Outputs are always bytes over gRPC.
            _ => {}
        }
    }
    Ok(())
}

/// One input as slices of the message.
#[derive(Default)]
struct Input<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: Vec<u64>,
    /// A length is negative, or there are more lengths than a tensor may have axes.
    odd_shape: bool,
    has_contents: bool,
    parameters: Vec<Piece<'a>>,
    parameters_count: usize,
}

impl<'a> Input<'a> {
    fn read(input: Piece<'a>) -> Result<Self, Broken> {
        let mut read = Self::default();
        let mut fields = input.fields();
        loop {
            let at = fields.at();
            let Some((number, value)) = fields.field()? else {
                return Ok(read);
            };
            match number {
                1 => read.name = value.piece(at)?.text()?,
                2 => read.datatype = value.piece(at)?.text()?,
                3 => {
                    let (shape, odd) = (&mut read.shape, &mut read.odd_shape);
                    wire::varints(value, at, |length| {
                        match u64::try_from(length.cast_signed()) {
                            Ok(length) if shape.len() <= MAX_RANK => shape.push(length),
                            Ok(_) => {}
                            Err(_) => *odd = true,
                        }
                    })?;
                }
                4 => list_piece(
                    (&mut read.parameters, &mut read.parameters_count),
                    value.piece(at)?,
                ),
                5 => read.has_contents |= !value.piece(at)?.bytes.is_empty(),
                _ => {}
            }
        }
    }
}

/// The inputs of a message that were read.
struct Listed<'a> {
    /// The position in the message of each input that was read.
    places: Vec<usize>,
    /// The names of the inputs that were left out because of a violation.
    omitted: Vec<&'a str>,
}

/// Compares the stated size with the number of raw bytes, if the input has raw bytes.
fn stated_size(faults: &mut Faults, at: &str, stated: Parameter<'_>, raw: Option<u64>) {
    let name = "binary_data_size";
    let Some(stated) = stated.whole() else {
        wrong_parameter(faults, at, name, "a number of bytes");
        return;
    };
    if let Some(raw) = raw.filter(|raw| *raw != stated) {
        faults.contract(&format!("{at}/parameters/{name}"), "wrong_size", || {
            let message = format!(
                "the input has {raw} bytes in raw_input_contents, and {name} is {stated}; send the same, or leave {name} \
                 out"
            );
            (format!("{raw} bytes"), message)
        });
    }
}

/// Checks the parameters of an input. `raw_bytes` is the number of its raw bytes, if it has them.
fn input_parameters(
    input: &Input<'_>,
    pointer: &str,
    raw_bytes: Option<u64>,
    faults: &mut Faults,
) -> Result<(), Rejection> {
    for entry in &input.parameters {
        let (name, value) = parameter(*entry).map_err(malformed)?;
        if value != Parameter::Nothing && is_taken(faults, (pointer, Of::Input), name, value) {
            // Only `binary_data_size` is accepted: KServe's client sends over gRPC the parameter that its REST form
            // needs.
            stated_size(faults, pointer, value, raw_bytes);
        }
    }
    if input.parameters_count > input.parameters.len() {
        faults.form(&format!("{pointer}/parameters"), "too_many", || {
            (
                format!("at most {MAX_LISTED}"),
                format!("there are {} parameters", input.parameters_count),
            )
        });
    }
    Ok(())
}

/// Reports an input that has contents beside raw ones.
fn contents_given_twice(input: &Input<'_>, pointer: &str, faults: &mut Faults) {
    faults.form(&format!("{pointer}/contents"), "contents_given_twice", || {
        (
            "contents or raw_input_contents".to_owned(),
            format!(
                "input {:?} has contents, and the request has raw_input_contents; send all inputs in one of the two ways",
                shorten(input.name)
            ),
        )
    });
}

/// Returns the datatype of an input, and reports one that is unknown, and a shape that no tensor has.
fn datatype_and_rank(
    input: &Input<'_>,
    pointer: &str,
    contract: &Contract,
    faults: &mut Faults,
) -> Option<Datatype> {
    let datatype = Datatype::parse(input.datatype);
    if datatype.is_none() {
        let expected = contract
            .input(input.name)
            .map(|spec| spec.datatype.as_str());
        faults.contract(&format!("{pointer}/datatype"), "wrong_datatype", || {
            let expected = expected.unwrap_or("a datatype of the protocol");
            (
                expected.to_owned(),
                format!(
                    "input {:?} has datatype {:?}; send {expected}",
                    shorten(input.name),
                    shorten(input.datatype)
                ),
            )
        });
    }
    if input.odd_shape || input.shape.len() > MAX_RANK {
        faults.contract(&format!("{pointer}/shape"), "wrong_shape", || {
            (
                format!("at most {MAX_RANK} lengths, none negative"),
                format!(
                    "the shape of input {:?} has a negative length, or more than {MAX_RANK} lengths",
                    shorten(input.name)
                ),
            )
        });
    }
    datatype
}

/// Reads the inputs of the message into `decoded`.
fn inputs<'a>(
    top: &Top<'a>,
    contract: &Contract,
    limit: u64,
    decoded: &mut Decoded,
    faults: &mut Faults,
) -> Result<Listed<'a>, Rejection> {
    let (mut places, mut omitted) = (Vec::new(), Vec::new());
    let mut room = limit;
    let is_raw = top.raw_count > 0;
    let counts_agree = !is_raw || top.raw_count == top.inputs_count;
    if !counts_agree {
        faults.form("/raw_input_contents", "wrong_count", || {
            (
                format!("{} raw contents", top.inputs_count),
                format!(
                    "there are {} raw_input_contents for {} inputs; send one for each input, in their order, or none",
                    top.raw_count, top.inputs_count
                ),
            )
        });
    }
    for (index, at) in top.inputs.iter().enumerate() {
        let input = Input::read(*at).map_err(malformed)?;
        let pointer = format!("/inputs/{index}");
        let before = faults.count();
        let raw = top.raw(index).filter(|_| counts_agree);
        let raw_bytes = raw.map(|raw| raw.len() as u64);
        input_parameters(&input, &pointer, raw_bytes, faults)?;
        if is_raw && input.has_contents {
            contents_given_twice(&input, &pointer, faults);
        }
        let datatype = datatype_and_rank(&input, &pointer, contract, faults);
        let mut data = None;
        if let Some(datatype) = datatype
            && faults.count() == before
            && counts_agree
        {
            let contents = Contents {
                name: input.name,
                datatype,
                shape: &input.shape,
                pointer: &pointer,
            };
            data = match top.raw(index) {
                Some(raw) => Some(raw.data(&mut room, limit)?),
                None => (contents.read(*at, &mut room, limit, faults)?).map(Buffer::from),
            };
        }
        match (data, datatype) {
            (Some(data), Some(datatype)) => {
                let spec = contract.input(input.name);
                let is_scalar = spec.is_some_and(|spec| spec.shape.is_empty());
                decoded.inputs.push(Tensor {
                    name: bounded(input.name, MAX_TENSOR_NAME_BYTES),
                    datatype,
                    // As over REST: a model's configuration shows a scalar as one axis of one element.
                    shape: match input.shape.as_slice() {
                        [1] if is_scalar => Vec::new(),
                        _ => input.shape,
                    },
                    data,
                });
                places.push(index);
            }
            _ => omitted.push(input.name),
        }
    }
    Ok(Listed { places, omitted })
}

fn outputs(
    top: &Top<'_>,
    contract: &Contract,
    decoded: &mut Decoded,
    faults: &mut Faults,
) -> Result<(), Broken> {
    for (index, at) in top.outputs.iter().enumerate() {
        let pointer = format!("/outputs/{index}");
        let (mut name, mut classes) = ("", 0);
        let mut fields = at.fields();
        let mut entries = 0;
        loop {
            let at = fields.at();
            let Some((number, value)) = fields.field()? else {
                break;
            };
            match number {
                1 => name = value.piece(at)?.text()?,
                2 => {
                    entries += 1;
                    let (parameter_name, value) = parameter(value.piece(at)?)?;
                    let of = (pointer.as_str(), Of::Output);
                    if value == Parameter::Nothing || !is_taken(faults, of, parameter_name, value) {
                        continue;
                    }
                    // Outputs are always bytes over gRPC, so `binary_data` has no effect.
                    if parameter_name == "classification" {
                        match value.whole() {
                            Some(wanted) => classes = u32::try_from(wanted).unwrap_or(u32::MAX),
                            None => {
                                wrong_parameter(
                                    faults,
                                    &pointer,
                                    parameter_name,
                                    "a number of classes",
                                );
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        if entries > MAX_LISTED {
            faults.form(&format!("{pointer}/parameters"), "too_many", || {
                (
                    format!("at most {MAX_LISTED}"),
                    format!("there are {entries} parameters"),
                )
            });
        }
        let spec = contract.outputs.iter().find(|spec| spec.name == name);
        match spec {
            None => faults.contract(&format!("{pointer}/name"), "unknown_output", || {
                let known: Vec<&str> = contract.outputs.iter().map(|o| o.name.as_str()).collect();
                (
                    format!("one of: {}", known.join(", ")),
                    format!(
                        "the model has no output {:?}; its outputs are: {}",
                        shorten(name),
                        known.join(", ")
                    ),
                )
            }),
            Some(_) if decoded.outputs.iter().any(|(other, _)| other == name) => {
                faults.contract(&format!("{pointer}/name"), "duplicate_output", || {
                    (
                        "each output once".to_owned(),
                        format!("output {name:?} is requested twice; request it once"),
                    )
                });
            }
            Some(spec) => decoded.outputs.push((spec.name.clone(), classes)),
        }
    }
    Ok(())
}
