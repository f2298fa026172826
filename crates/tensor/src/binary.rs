//! Splits a body of JSON and bytes (Triton's binary tensor data extension). `Inference-Header-Content-Length` gives the
//! length of the JSON. The bytes after it are the binary inputs, one after the other. If the length is 0 there is no JSON,
//! and the whole body is the model's only input.
//!
//! The bytes have the format of [`Tensor::data`], so they are copied unchanged and then checked: booleans, the lengths of
//! byte strings, the contract's range, and that numbers are finite. The last check is skipped if the contract has
//! `allow_non_finite = true` for the input.

use crate::buffer::Buffer;
use crate::check::{self, Role};
use crate::contract::{Contract, Dim, TensorSpec};
use crate::datatype::Datatype;
use crate::excerpt::excerpt;
use crate::infer::{BinaryInput, InferRequest};
use crate::rejection::{Rejection, Violations};
use crate::tensor::{Tensor, elements, push_byte_string};
use penstock_core::{Code, Violation};

/// The header that gives the length of the JSON, in lower case.
pub const HEADER: &str = "inference-header-content-length";

/// The parts of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// A request as JSON, and the bytes of its binary inputs.
    Json {
        /// The length of the JSON. The rest are the bytes.
        json_bytes: usize,
    },
    /// The bytes of the only input, without JSON.
    Raw,
}

/// Splits a body of so many bytes at the length in `Inference-Header-Content-Length`. Without the header the whole body is
/// JSON. Errors with `MalformedRequest`.
pub fn frame(length: Option<&str>, body_bytes: usize) -> Result<Framed, Rejection> {
    let Some(text) = length.map(str::trim) else {
        return Ok(Framed::Json {
            json_bytes: body_bytes,
        });
    };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let shown = excerpt(text);
        return Err(misframed(
            "a number of bytes",
            format!(
                "Inference-Header-Content-Length is {shown:?}; send the length of the JSON in bytes as one decimal \
                 number"
            ),
        ));
    }
    // A number with too many digits exceeds the length of any body.
    let length = text.parse::<usize>().ok();
    match length.filter(|length| *length <= body_bytes) {
        Some(0) => Ok(Framed::Raw),
        Some(json_bytes) => Ok(Framed::Json { json_bytes }),
        None => Err(misframed(
            format!("at most {body_bytes}"),
            format!(
                "Inference-Header-Content-Length is {}, and the body has {body_bytes} bytes; send the length of the \
                 JSON alone, before compression",
                excerpt(text)
            ),
        )),
    }
}

fn misframed(expected: impl Into<String>, message: String) -> Rejection {
    Rejection {
        code: Code::MalformedRequest,
        message: message.clone(),
        violations: vec![Violation::new("", "wrong_header_length", expected, message)],
        omitted: 0,
    }
}

/// Fills the inputs of a request: `binary` is [`InferRequest::binary`], and `body` the whole body, with so many bytes of JSON
/// before those of the inputs. Checks the filled inputs against the contract; the others were checked while they were parsed.
/// Bytes that the host holds stay there.
pub fn fill(
    inputs: &mut [Tensor],
    binary: &[BinaryInput],
    (body, json_bytes): (&Buffer, usize),
    contract: &Contract,
) -> Result<(), Rejection> {
    let mut sink = Violations::default();
    let mut at = json_bytes;
    for one in binary {
        let end = usize::try_from(one.bytes)
            .ok()
            .and_then(|bytes| at.checked_add(bytes));
        let data = end.and_then(|end| Some((body.slice(at..end)?, end)));
        let (Some(tensor), Some((data, end))) = (inputs.get_mut(one.input), data) else {
            return Err(misplaced(body.len().saturating_sub(at)));
        };
        tensor.data = data;
        at = end;
        let Some(spec) = contract.input(&tensor.name) else {
            continue;
        };
        let at = || format!("/inputs/{}", one.index);
        if check::consistent(tensor, Role::Input, &mut sink, at) {
            check::elements(spec, tensor, Role::Input, &mut sink, true, at);
        }
    }
    if at != body.len() {
        return Err(misplaced(body.len().saturating_sub(at)));
    }
    sink.finish()
}

/// The error for a tail that differs from the one that was parsed; parsing compared the sizes already.
fn misplaced(left: usize) -> Rejection {
    let message = format!(
        "the bytes after the JSON do not match the inputs' binary_data_size: {left} bytes are left over; send the \
         whole body"
    );
    Rejection {
        code: Code::InvalidBody,
        message: message.clone(),
        violations: vec![Violation::new(
            "/inputs",
            "wrong_tail",
            "as many bytes as the inputs' binary_data_size add up to",
            message,
        )],
        omitted: 0,
    }
}

/// The request of a body without JSON, for a model with one input. The number of bytes must determine the shape: at most
/// one axis is symbolic; or the batch axis and another are, and then the body is one item. For an input of `BYTES` the body
/// is the only element, without a length before it. The outputs are returned as bytes.
///
/// Errors with `InvalidInputs`.
pub fn raw(body: &Buffer, contract: &Contract) -> Result<InferRequest, Rejection> {
    let [spec] = contract.inputs.as_slice() else {
        let names: Vec<&str> = contract.inputs.iter().map(|s| s.name.as_str()).collect();
        return Err(not_raw(
            "unsupported_raw_body",
            "a request as JSON",
            format!(
                "a body without JSON carries one input, and this model has {}: {}; send their names and shapes as \
                 JSON, and its length in Inference-Header-Content-Length",
                names.len(),
                names.join(", ")
            ),
        ));
    };
    let count = match spec.datatype.size_bytes() {
        Some(size) if body.len().is_multiple_of(size) => (body.len() / size) as u64,
        Some(size) => {
            return Err(not_raw(
                "wrong_size",
                &format!("a multiple of {size} bytes"),
                format!(
                    "the body has {} bytes, which is not a whole number of {} elements; send {size} bytes for each",
                    body.len(),
                    spec.datatype
                ),
            ));
        }
        None => 1,
    };
    let shape = deduce(spec, count, contract).map_err(|(expected, message)| {
        let rule = "wrong_count";
        not_raw(rule, &expected, message)
    })?;
    let data = if spec.datatype == Datatype::Bytes {
        let mut data = Vec::with_capacity(body.len() + crate::tensor::BYTES_PREFIX_BYTES);
        push_byte_string(&mut data, body);
        data.into()
    } else {
        body.clone()
    };
    let inputs = vec![Tensor {
        name: spec.name.clone(),
        datatype: spec.datatype,
        shape,
        data,
    }];
    // There is no JSON to point into.
    crate::check_tensors_at(&inputs, contract, &|_| String::new())?;
    Ok(InferRequest {
        inputs,
        binary_outputs: true,
        ..InferRequest::default()
    })
}

fn not_raw(rule: &str, expected: &str, message: String) -> Rejection {
    Rejection {
        code: Code::InvalidInputs,
        message: message.clone(),
        violations: vec![Violation::new("", rule, expected, message)],
        omitted: 0,
    }
}

/// The shape of this many elements if the request does not state it. If the batch axis and another are symbolic, there is
/// one item. The error is the expected value, and a sentence.
pub(crate) fn deduce(
    spec: &TensorSpec,
    count: u64,
    contract: &Contract,
) -> Result<Vec<u64>, (String, String)> {
    let is_open = |dim: &Dim| matches!(dim, Dim::Symbol(_));
    let open = spec.shape.iter().filter(|dim| is_open(dim)).count();
    let batched = contract.batch_axis().is_some();
    let deduced = match (open, batched) {
        (0 | 1, _) => spec.shape.iter().position(is_open),
        // The batch axis is the first.
        (2, true) => spec.shape.iter().rposition(is_open),
        // A single element determines the shape.
        _ if count == 1 => None,
        _ => {
            let message = format!(
                "input {:?} has shape {}, and {count} elements do not determine its lengths; send the shape with the \
                 elements",
                spec.name,
                spec.shape_text()
            );
            return Err(("elements with their shape".to_owned(), message));
        }
    };
    let mut shape: Vec<u64> = spec
        .shape
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(length) => *length,
            Dim::Symbol(_) => 1,
        })
        .collect();
    let each = elements(&shape);
    if let (Some(axis), Some(each)) = (deduced, each)
        && count > 0
        && count.is_multiple_of(each)
        && let Some(length) = shape.get_mut(axis)
    {
        *length = count / each;
    }
    if elements(&shape) == Some(count) {
        return Ok(shape);
    }
    let wanted = match (deduced, each) {
        (Some(_), Some(each)) => format!("a multiple of {each} elements"),
        (None, Some(each)) => format!("{each} elements"),
        (_, None) => "more elements than can be counted".to_owned(),
    };
    let message = format!(
        "input {:?} has {count} elements; send {wanted} for shape {}",
        spec.name,
        spec.shape_text()
    );
    Err((wanted, message))
}
