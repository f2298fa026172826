//! Decides what a call may hand to a graph and what it gets back: every port filled once, by a tensor of its
//! type, rank and fixed lengths, true to its own length; outputs under their names. Every engine of this room
//! asks here, so that a call is refused in the same words wherever it would have run.

use crate::backend::{Dim, Port, PortType, Session};
use crate::error::{NnError, listed, quoted};
use crate::tensor::{NnTensor, Shape, TensorType};

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
        "{side} {} is {}, which no wasi:nn tensor carries; export the model with another type there{}",
        quoted(&port.name),
        port.ty,
        if side == "output" {
            ", or leave the output out of model.toml"
        } else {
            ""
        }
    )))
}

/// Puts the inputs in the order of the graph's ports and checks each against its port.
pub(crate) fn bind(
    model: &str,
    ports: &[Port],
    inputs: Vec<(String, NnTensor)>,
) -> Result<Vec<NnTensor>, NnError> {
    let names = || listed(ports.iter().map(|port| port.name.as_str()));
    let mut slots: Vec<Option<NnTensor>> = ports.iter().map(|_| None).collect();
    for (name, tensor) in inputs {
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
        fits(&ports[index], &tensor)?;
        slots[index] = Some(tensor);
    }
    (slots.into_iter().zip(ports))
        .map(|(slot, port)| {
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

/// Names the outputs.
pub(crate) fn label(
    ports: &[Port],
    outputs: Vec<NnTensor>,
) -> Result<Vec<(String, NnTensor)>, NnError> {
    if outputs.len() != ports.len() {
        return Err(NnError::runtime(format!(
            "the backend answered with {} outputs where the graph has {}",
            outputs.len(),
            ports.len()
        )));
    }
    Ok(ports
        .iter()
        .map(|port| port.name.clone())
        .zip(outputs)
        .collect())
}

/// Whether a tensor may go into a port.
fn fits(port: &Port, tensor: &NnTensor) -> Result<(), NnError> {
    let wrong = |what: String| {
        Err(NnError::invalid(format!(
            "input {}: {what}",
            quoted(&port.name)
        )))
    };
    if port.ty.carried_as() != Some(tensor.ty) {
        return wrong(match port.ty {
            PortType::Bool => format!(
                "{} was sent; the port is BOOL, which travels as U8",
                tensor.ty
            ),
            PortType::I8 => format!(
                "{} was sent; the port is INT8, which travels as U8",
                tensor.ty
            ),
            ty => format!("{} was sent; send {ty}", tensor.ty),
        });
    }
    if let Err(error) = tensor.check() {
        return wrong(error.message);
    }
    let shape = || Shape(&tensor.dims);
    if tensor.dims.contains(&0) {
        return wrong(format!(
            "shape {} has no elements; send at least one",
            shape()
        ));
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
    if port.ty == PortType::Bool
        && tensor.ty == TensorType::U8
        && !tensor.data.iter().all(|byte| *byte <= 1)
    {
        return wrong("the port is BOOL and a byte is neither 0 nor 1; send 0 or 1".into());
    }
    Ok(())
}
