//! Triton's generate extension: parses a JSON object whose members are the model's inputs, and writes one whose members are
//! its outputs.
//!
//! An input's value is nested as the contract's shape, or without the batch axis for one item. It may also be one flat array
//! or a bare value, if that determines the shape (as for [`crate::binary::raw`]). Members named `id` and `parameters` are
//! never inputs. Inputs may also be members of `parameters`. Any other member counts as a parameter, as in Triton.

use crate::binary;
use crate::check::{self, Role};
use crate::contract::{Contract, TensorSpec};
use crate::excerpt::excerpt;
use crate::infer::{InferRequest, RequestOptions, taken};
use crate::json::{Kind, Names, Scan, Scanner};
use crate::parameters::{self, Of, Unknown};
use crate::predict::{NamedInput, assemble};
use crate::rejection::{Rejection, Violations};
use crate::render::{write_name, write_string, write_value};
use crate::tensor::Tensor;
use crate::values::{
    self, BodyLocation, Values, read_id, read_model_name, read_version, wrong_type,
};
use penstock_core::Violation;

/// The media type of [`event`].
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// Parses the body of `generate` or `generate_stream` and checks it against the contract.
///
/// Errors like [`crate::parse_infer`].
pub fn parse(
    body: &[u8],
    contract: &Contract,
    unknown: Unknown,
) -> Result<InferRequest, Rejection> {
    let mut sink = Violations::default();
    let request = read_body(body, contract, unknown, &mut sink)?;
    sink.finish()?;
    Ok(request)
}

fn read_body(
    body: &[u8],
    contract: &Contract,
    unknown: Unknown,
    sink: &mut Violations,
) -> Scan<InferRequest> {
    let mut scanner = Scanner::new(body);
    let mut request = InferRequest::default();
    let kind = scanner.kind()?;
    if kind != Kind::Object {
        sink.form(|| wrong_type(String::new(), "the body", "an object of inputs", kind));
        scanner.skip_value()?;
        scanner.finish()?;
        return Ok(request);
    }
    let mut read: Vec<NamedInput<'_>> = Vec::new();
    let mut asked = RequestOptions::default();
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names)?;
    while let Some(name) = member {
        match name.as_ref() {
            "id" => request.id = read_id(&mut scanner, sink)?,
            "parameters" => {
                read_parameters(
                    &mut scanner,
                    (contract, unknown),
                    &mut asked,
                    &mut read,
                    sink,
                )?;
            }
            _ => match contract.input(&name) {
                Some(spec) => {
                    let place = BodyLocation::Member(&name);
                    read_once(&mut scanner, contract, spec, place, &mut read, sink)?;
                }
                None if name == "model_name" => {
                    request.model_name = read_model_name(&mut scanner, sink)?;
                }
                None if name == "model_version" => {
                    request.model_version = read_version(&mut scanner, sink)?;
                }
                // An unknown member may be a misspelt input. In strict mode the message lists the inputs.
                None if unknown == Unknown::Refuse && !parameters::is_known(&name) => {
                    sink.contract(|| {
                        let pointer = BodyLocation::Member(&excerpt(&name)).pointer();
                        check::unknown_tensor(pointer, &name, &contract.inputs, Role::Input)
                    });
                    scanner.skip_value()?;
                }
                None => {
                    let at = String::new;
                    read_parameter(
                        &mut scanner,
                        (contract, unknown),
                        &name,
                        &mut asked,
                        at,
                        sink,
                    )?;
                }
            },
        }
        member = scanner.next_member(&mut names)?;
    }
    scanner.finish()?;
    request.inputs = assemble(read, contract, "", sink);
    request.priority = asked.priority;
    request.timeout_us = asked.timeout_us;
    Ok(request)
}

fn read_parameters<'c>(
    scanner: &mut Scanner<'_>,
    (contract, unknown): (&'c Contract, Unknown),
    asked: &mut RequestOptions,
    read: &mut Vec<NamedInput<'c>>,
    sink: &mut Violations,
) -> Scan<()> {
    if scanner.skip_null()? {
        return Ok(());
    }
    let at = || "/parameters".to_owned();
    let kind = scanner.kind()?;
    if kind != Kind::Object {
        sink.form(|| wrong_type(at(), "parameters", "an object", kind));
        return scanner.skip_value();
    }
    let mut names = Names::default();
    let mut member = scanner.open_object(&mut names)?;
    while let Some(name) = member {
        match contract.input(&name) {
            // A parameter may be absent or null; then the input is a member of the body.
            Some(_) if scanner.skip_null()? => {}
            Some(spec) => {
                let place = BodyLocation::Parameter(&name);
                read_once(scanner, contract, spec, place, read, sink)?;
            }
            None => read_parameter(scanner, (contract, unknown), &name, asked, at, sink)?,
        }
        member = scanner.next_member(&mut names)?;
    }
    Ok(())
}

fn read_parameter(
    scanner: &mut Scanner<'_>,
    (contract, unknown): (&Contract, Unknown),
    name: &str,
    asked: &mut RequestOptions,
    at: impl Fn() -> String + Copy,
    sink: &mut Violations,
) -> Scan<()> {
    let Some(value) = taken(scanner, sink, name, (Of::Generate, unknown), at)? else {
        return Ok(());
    };
    asked.take(contract, sink, at, name, &value);
    Ok(())
}

/// Parses an input that was not parsed before.
fn read_once<'c>(
    scanner: &mut Scanner<'_>,
    contract: &Contract,
    spec: &'c TensorSpec,
    place: BodyLocation<'_>,
    read: &mut Vec<NamedInput<'c>>,
    sink: &mut Violations,
) -> Scan<()> {
    if read.iter().any(|one| one.spec.name == spec.name) {
        sink.contract(|| {
            let message = format!(
                "input {:?} is given more than once; give it once",
                spec.name
            );
            Violation::new(
                place.pointer(),
                "duplicate_input",
                "each input once",
                message,
            )
        });
        return scanner.skip_value();
    }
    let (values, as_sent) = read_values(scanner, contract, spec, place, sink)?;
    let pointer = place.pointer();
    let fits = match &values.shape {
        Some(shape) => check::shape(spec, shape, Role::Input, sink, || pointer.clone()),
        None => false,
    };
    check::range(spec, &values.data, Role::Input, sink, |index| {
        format!("{pointer}{}", check::nested_index(index, &as_sent)).into()
    });
    read.push(NamedInput {
        spec,
        values,
        pointer,
        fits,
    });
    Ok(())
}

/// Parses a value in any of its forms: its elements with the contract's shape, and the shape in which it was sent.
fn read_values(
    scanner: &mut Scanner<'_>,
    contract: &Contract,
    spec: &TensorSpec,
    place: BodyLocation<'_>,
    sink: &mut Violations,
) -> Scan<(Values, Vec<u64>)> {
    let rank = spec.shape.len();
    scanner.kind()?;
    let (levels, _) = scanner.nesting();
    let batched = contract.batch_axis().is_some();
    let with_shape = |values: Values| {
        let as_sent = values.shape.clone().unwrap_or_default();
        (values, as_sent)
    };
    if levels == rank || levels > 1 && !(batched && levels + 1 == rank) {
        let values = values::read_nested(scanner, spec, place, batched, sink)?;
        return Ok(with_shape(values));
    }
    if levels > 1 {
        // One item, without the batch axis.
        let item = TensorSpec {
            shape: spec.shape.get(1..).unwrap_or_default().to_vec(),
            ..spec.clone()
        };
        let (mut values, as_sent) =
            with_shape(values::read_nested(scanner, &item, place, false, sink)?);
        if let Some(shape) = &mut values.shape {
            shape.insert(0, 1);
        }
        return Ok((values, as_sent));
    }
    let mut values = if levels == 0 {
        let scalar = TensorSpec {
            shape: Vec::new(),
            ..spec.clone()
        };
        values::read_nested(scanner, &scalar, place, false, sink)?
    } else {
        values::read_flat(scanner, spec, place, sink)?
    };
    let Some(as_sent) = values.shape.clone() else {
        return Ok((values, Vec::new()));
    };
    match binary::deduce(spec, values.count, contract) {
        Ok(shape) => values.shape = Some(shape),
        Err((expected, message)) => {
            sink.contract(|| {
                let rule = if values.count == 0 {
                    "empty_tensor"
                } else {
                    "wrong_count"
                };
                Violation::new(place.pointer(), rule, expected, message)
            });
            values.shape = None;
        }
    }
    Ok((values, as_sent))
}

/// Writes the answer to `generate`: the model and its version, and each output by its name. An output of one element is that
/// element. Every other is nested by its shape, without the batch axis for one item. Numbers that JSON cannot express are
/// `null`, and `non_finite` counts them. If an output has the name of another member, the output replaces it.
pub fn render(
    model: &str,
    version: &str,
    id: Option<&str>,
    outputs: &[Tensor],
    contract: &Contract,
    capacity: usize,
) -> Vec<u8> {
    let names = 6 * (model.len() + version.len() + id.map_or(0, str::len)) + 256;
    let mut out = Vec::with_capacity(capacity.saturating_add(names));
    out.push(b'{');
    let mut own = |name: &str, value: &str| {
        if !outputs.iter().any(|tensor| tensor.name == name) {
            write_name(&mut out, name);
            write_string(&mut out, value);
        }
    };
    own("model_name", model);
    own("model_version", version);
    if let Some(id) = id {
        own("id", id);
    }
    let batched = contract.batch_axis().is_some();
    let mut replaced = 0u64;
    for tensor in outputs {
        write_name(&mut out, &tensor.name);
        let shape = match tensor.shape.as_slice() {
            _ if tensor.elements() == Some(1) => &[],
            [1, item @ ..] if batched => item,
            whole => whole,
        };
        replaced = replaced.saturating_add(write_value(&mut out, tensor, shape));
    }
    if replaced > 0 && !outputs.iter().any(|tensor| tensor.name == "non_finite") {
        write_name(&mut out, "non_finite");
        out.extend_from_slice(itoa::Buffer::new().format(replaced).as_bytes());
    }
    out.push(b'}');
    out
}

/// Formats an answer or an error as a server-sent event. The JSON has no line breaks, so it is one line of data.
pub fn event(json: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(json.len() + 8);
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(json);
    event.extend_from_slice(b"\n\n");
    event
}
