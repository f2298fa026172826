//! Checks a call's inputs and labels its outputs: every port is filled once, by a tensor of its type, rank and fixed
//! lengths whose bytes have the right number. Every engine of this crate uses it, so that a call is refused in the same
//! words wherever it would have run.

use crate::backend::{Dim, LoadOptions, Port, PortType, Session};
use crate::error::{NnError, listed, quoted};
use crate::tensor::{NnTensor, Shape, Strings, TensorType};

/// Refuses a graph with a port whose type no tensor carries.
pub(crate) fn carried(session: &dyn Session) -> Result<(), NnError> {
    let inputs = session.inputs().iter().map(|port| ("input", port));
    let outputs = session.outputs().iter().map(|port| ("output", port));
    let Some((side, port)) = inputs
        .chain(outputs)
        .find(|(_, port)| port.ty.carried_as().is_none())
    else {
        return Ok(());
    };
    Err(NnError::unsupported(format!(
        "{side} {} is {}, which no tensor carries; export the model with another type there{}",
        quoted(&port.name),
        port.ty,
        if side == "output" {
            ", or leave the output out of model.toml"
        } else {
            ""
        }
    )))
}

/// Most elements of one tensor of strings: more texts than any batch has. Runtimes take about 40 bytes for each, in
/// addition to its text.
pub const MAX_STRINGS: usize = 1 << 20;

/// Most bytes of one string: a long document. Runtimes copy it for each operator it goes through.
pub const MAX_STRING_BYTES: usize = 8 << 20;

/// The properties of inputs beyond their ports.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Whether a call may leave it out, for each input.
    optional: Vec<bool>,
    /// Whether a tensor may have no elements.
    empty: bool,
}

impl Rules {
    /// The rules of a loaded graph.
    ///
    /// # Errors
    ///
    /// When the contract calls an input optional that the graph has no value for.
    pub(crate) fn of(session: &dyn Session, options: &LoadOptions) -> Result<Self, NnError> {
        let ports = session.inputs();
        let optional: Vec<bool> = (ports.iter())
            .map(|port| options.optional_inputs.contains(&port.name))
            .collect();
        let wrong = (0..ports.len()).find(|at| optional[*at] && !session.has_default(*at));
        if let Some(at) = wrong {
            return Err(NnError::unsupported(format!(
                "input {} is optional in model.toml, and the graph has no value for it on this backend; remove optional, or \
                 export the graph with an initializer of that name",
                quoted(&ports[at].name)
            )));
        }
        Ok(Self {
            optional,
            empty: options.empty_inputs,
        })
    }

    /// Returns whether calls may differ in which inputs they send.
    #[cfg(feature = "native")]
    pub(crate) fn has_optional(&self) -> bool {
        self.optional.contains(&true)
    }
}

/// Puts the inputs in the order of the graph's ports and checks each against its port. An optional input that was not
/// sent is absent.
pub(crate) fn bind(
    model: &str,
    ports: &[Port],
    rules: &Rules,
    inputs: Vec<(String, NnTensor)>,
) -> Result<Vec<NnTensor>, NnError> {
    let names = || listed(ports.iter().map(|port| port.name.as_str()));
    let mut slots: Vec<Option<NnTensor>> = ports.iter().map(|_| None).collect();
    for (name, mut tensor) in inputs {
        let Some(index) = ports.iter().position(|port| port.name == name) else {
            return Err(NnError::invalid(format!(
                "model {} has no input {}; its inputs are {}",
                quoted(model),
                quoted(&name),
                names()
            )));
        };
        if slots[index].is_some() {
            return Err(NnError::invalid(format!(
                "input {} was sent twice; send it once",
                quoted(&name)
            )));
        }
        name_bytes(&ports[index], &mut tensor);
        fits(&ports[index], rules, &tensor)?;
        slots[index] = Some(tensor);
    }
    (slots.into_iter().zip(ports).enumerate())
        .map(|(at, (slot, port))| {
            if slot.is_none() && rules.optional.get(at) == Some(&true) {
                let ty = port.ty.carried_as().unwrap_or(TensorType::Bytes);
                return Ok(NnTensor::absent(ty));
            }
            slot.ok_or_else(|| {
                NnError::invalid(format!(
                    "input {} ({} {}) is missing; send every one of {}",
                    quoted(&port.name),
                    port.ty,
                    port.shape_text(),
                    names()
                ))
            })
        })
        .collect()
}

/// Gives the outputs the names of their ports. Those that are absent are left out.
pub(crate) fn label(
    ports: &[Port],
    outputs: Vec<NnTensor>,
) -> Result<Vec<(String, NnTensor)>, NnError> {
    if outputs.len() != ports.len() {
        return Err(NnError::runtime(format!(
            "the backend returned {} outputs and the graph has {}",
            outputs.len(),
            ports.len()
        )));
    }
    Ok(ports
        .iter()
        .map(|port| port.name.clone())
        .zip(outputs)
        .filter(|(_, tensor)| !tensor.is_absent())
        .collect())
}

/// Gives bytes from `wasi:nn` the type of their port. `wasi:nn` has no BOOL and no INT8, so its callers send both as
/// U8.
fn name_bytes(port: &Port, tensor: &mut NnTensor) {
    if let (PortType::Tensor(ty @ (TensorType::Bool | TensorType::I8)), TensorType::U8) =
        (port.ty, tensor.ty)
    {
        tensor.ty = ty;
    }
}

/// Makes outputs such that `wasi:nn` can carry them: BOOL and INT8 go as the bytes they are, under U8.
///
/// # Errors
///
/// `UnsupportedOperation` when an output has another type that `wasi:nn` lacks.
pub fn for_wasi_nn(
    mut outputs: Vec<(String, NnTensor)>,
) -> Result<Vec<(String, NnTensor)>, NnError> {
    for (name, tensor) in &mut outputs {
        match tensor.ty {
            TensorType::Bool | TensorType::I8 => tensor.ty = TensorType::U8,
            ty if TensorType::WASI.contains(&ty) => {}
            ty => {
                return Err(NnError::unsupported(format!(
                    "output {} is {ty}, which wasi:nn has no type for; run the model through penstock:nn/tensors",
                    quoted(name)
                )));
            }
        }
    }
    Ok(outputs)
}

/// Checks that a tensor may go into a port.
fn fits(port: &Port, rules: &Rules, tensor: &NnTensor) -> Result<(), NnError> {
    let wrong = |what: String| {
        Err(NnError::invalid(format!(
            "input {}: {what}",
            quoted(&port.name)
        )))
    };
    if port.ty.carried_as() != Some(tensor.ty) {
        return wrong(format!("{} was sent; send {}", tensor.ty, port.ty));
    }
    if let Err(error) = tensor.check() {
        return wrong(error.message);
    }
    let shape = || Shape(&tensor.dims);
    if tensor.dims.contains(&0) && !rules.empty {
        return wrong(format!(
            "shape {} has no elements; send at least one",
            shape()
        ));
    }
    if tensor.ty == TensorType::Bytes {
        let (mut count, mut longest) = (0, 0);
        for element in Strings::new(&tensor.data) {
            count += 1;
            longest = longest.max(element.len());
        }
        if count > MAX_STRINGS {
            return wrong(format!(
                "{count} strings were sent; at most {MAX_STRINGS} are accepted"
            ));
        }
        if longest > MAX_STRING_BYTES {
            return wrong(format!(
                "a string of {longest} bytes was sent; at most {MAX_STRING_BYTES} are accepted"
            ));
        }
    }
    if let Some(dims) = &port.dims {
        if dims.len() != tensor.dims.len() {
            return wrong(format!(
                "shape {} has {} dimensions; the model takes {}",
                shape(),
                tensor.dims.len(),
                port.shape_text()
            ));
        }
        let other = |(dim, sent): (&Dim, &u32)| matches!(dim, Dim::Fixed(size) if size != sent);
        if dims.iter().zip(&tensor.dims).any(other) {
            return wrong(format!(
                "shape {} was sent; the model takes {}",
                shape(),
                port.shape_text()
            ));
        }
    }
    if tensor.ty == TensorType::Bool && !tensor.data.iter().all(|byte| *byte <= 1) {
        return wrong("the port is BOOL and a byte is neither 0 nor 1; send 0 or 1".into());
    }
    Ok(())
}
