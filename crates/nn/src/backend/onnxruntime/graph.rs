//! A loaded graph: its session, and the inputs and outputs as ONNX Runtime describes them.

use std::ffi::CString;
use std::ptr;

use ort::value::ValueType;
use ort::{AsPointer, ortsys};

use super::library::CpuMemory;
use super::value::{check, port_type};
use super::values::Kind;
use crate::backend::cost::Cost;
use crate::backend::port::{Dim, Port, PortType};
use crate::backend::rows::Rows;

/// A session with the data that every call on it needs.
pub struct Shared {
    pub session: ort::session::Session,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub input_names: Vec<CString>,
    pub output_names: Vec<CString>,
    pub entries: Vec<Entry>,
    pub exits: Vec<Entry>,
    pub cpu: CpuMemory,
    /// Bytes a run may hold: outputs, and values between operators.
    pub most_bytes: usize,
    pub cost: Cost,
    pub rows: Rows,
}

/// One input or output of the graph, and the ports that carry it.
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    pub ports: Vec<Port>,
    /// Which of the ports of an output are given out.
    pub wanted: Vec<bool>,
    /// Outputs that are maps: the order of their columns.
    pub labels: Option<Vec<String>>,
    /// Whether the graph has a value for it, if it is an input.
    pub has_default: bool,
    /// Whether the graph declares it as optional.
    pub optional: bool,
}

impl Entry {
    pub fn new(
        name: &str,
        ty: &ValueType,
        has_shape: impl FnOnce() -> bool,
        labels: Option<Vec<String>>,
    ) -> Self {
        let (optional, inner) = match ty {
            ValueType::Optional(inner) => (true, &**inner),
            ty => (false, ty),
        };
        let (kind, ports) = match Kind::of(inner) {
            None => (
                Kind::Tensor,
                vec![Port {
                    name: name.to_owned(),
                    ty: PortType::Other(
                        "a sequence, map or optional of a type that no tensor carries",
                    ),
                    dims: None,
                }],
            ),
            Some(Kind::Tensor) => {
                let mut port = port(name, inner, has_shape);
                if optional {
                    // ONNX Runtime gives no shape for the value of an optional.
                    port.dims = None;
                }
                (Kind::Tensor, vec![port])
            }
            Some(kind) => {
                let ports = kind.ports(name, labels.as_deref());
                (kind, ports)
            }
        };
        Self {
            name: name.to_owned(),
            wanted: vec![true; ports.len()],
            kind,
            ports,
            labels,
            has_default: false,
            optional,
        }
    }
}

pub enum Side {
    Input,
    Output,
}

/// Returns whether the graph gives a port a shape; without one ONNX Runtime reports the dimensions of a scalar.
pub fn has_shape(session: &ort::session::Session, index: usize, side: Side) -> bool {
    let mut info = ptr::null_mut();
    let status = match side {
        Side::Input => ortsys![unsafe SessionGetInputTypeInfo(session.ptr(), index, &mut info)],
        Side::Output => ortsys![unsafe SessionGetOutputTypeInfo(session.ptr(), index, &mut info)],
    };
    if check(status).is_err() || info.is_null() {
        return false;
    }
    let mut tensor = ptr::null();
    let status = ortsys![unsafe CastTypeInfoToTensorInfo(info, &mut tensor)];
    // SAFETY: the tensor info lives as long as the type info it came from, which is released last.
    let given = check(status).is_ok()
        && !tensor.is_null()
        && ortsys![unsafe TensorTypeAndShape_HasShape(tensor)];
    ortsys![unsafe ReleaseTypeInfo(info)];
    given
}

fn port(name: &str, ty: &ValueType, has_shape: impl FnOnce() -> bool) -> Port {
    let name = name.to_owned();
    let ValueType::Tensor {
        ty,
        shape,
        dimension_symbols,
    } = ty
    else {
        return Port {
            name,
            ty: PortType::Other("a sequence, map or optional"),
            dims: None,
        };
    };
    let dims = (shape.iter().enumerate())
        .map(|(index, size)| match u32::try_from(*size) {
            Ok(size) => Dim::Fixed(size),
            Err(_) => Dim::Symbolic(dimension_symbols.get(index).cloned().unwrap_or_default()),
        })
        .collect::<Vec<_>>();
    let dims = if dims.is_empty() && !has_shape() {
        None
    } else {
        Some(dims)
    };
    Port {
        name,
        ty: port_type(*ty),
        dims,
    }
}
