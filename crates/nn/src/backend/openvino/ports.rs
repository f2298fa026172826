//! Inputs and outputs as OpenVINO describes them, and its element types.

use std::ptr;

use openvino_sys as ov;
use openvino_sys::{ov_element_type_e as Element, ov_status_e as Status};

use super::handles::{ConstPort, Model, check, take_text};
use crate::backend::port::{Dim, Port, PortType};
use crate::error::{NnError, quoted};
use crate::tensor::TensorType;

/// The inputs and outputs of a model, as the library describes them.
pub struct Found {
    pub inputs: Ports,
    pub outputs: Ports,
}

pub struct Ports(pub Vec<Port>);

impl Found {
    pub fn of(model: &Model) -> Result<Self, Status> {
        // SAFETY: the model is live; each call writes one number or one handle, which `ConstPort` owns.
        unsafe {
            let (mut inputs, mut outputs) = (0, 0);
            check(ov::ov_model_inputs_size(model.0, &mut inputs))?;
            check(ov::ov_model_outputs_size(model.0, &mut outputs))?;
            let input = |index| {
                let mut port = ptr::null_mut();
                check(ov::ov_model_const_input_by_index(model.0, index, &mut port))?;
                describe(&ConstPort(port))
            };
            let output = |index| {
                let mut port = ptr::null_mut();
                check(ov::ov_model_const_output_by_index(
                    model.0, index, &mut port,
                ))?;
                describe(&ConstPort(port))
            };
            Ok(Self {
                inputs: Ports((0..inputs).map(input).collect::<Result<_, _>>()?),
                outputs: Ports((0..outputs).map(output).collect::<Result<_, _>>()?),
            })
        }
    }
}

impl Ports {
    /// Compares the library's ports with the file's. The library drops the names of open dimensions and may give two
    /// ports one name, so the file's description is used. The numbers of ports must be equal.
    pub fn agree(&self, what: &str, declared: &[Port]) -> Result<(), NnError> {
        let moved = |(index, port): (usize, &Port)| {
            let named = declared.iter().position(|other| other.name == port.name);
            named.is_some_and(|named| named != index)
        };
        let retyped = |(found, declared): (&Port, &Port)| {
            found.ty != declared.ty && !matches!(found.ty, PortType::Other(_))
        };
        if self.0.len() != declared.len()
            || self.0.iter().enumerate().any(moved)
            || self.0.iter().zip(declared).any(retyped)
        {
            return Err(NnError::unsupported(format!(
                "OpenVINO finds other {what} in the graph than the graph declares; load it with backend = \
                 \"onnxruntime\""
            )));
        }
        Ok(())
    }
}

/// A port of a model.
fn describe(port: &ConstPort) -> Result<Port, Status> {
    let mut name = ptr::null_mut();
    let mut raw = Element::DYNAMIC as u32;
    let mut shape = ov::ov_partial_shape_t {
        rank: ov::ov_dimension_t { min: 0, max: 0 },
        dims: ptr::null_mut(),
    };
    // SAFETY: the port is live; each call writes to the given place. The element type is read as a number, because a
    // newer library may have one that the enumeration lacks. Everything that the calls return is freed.
    unsafe {
        check(ov::ov_port_get_element_type(
            port.0,
            (&raw mut raw).cast::<Element>(),
        ))?;
        // A port that has no name is an error of the call and a port without a name here.
        let name = match check(ov::ov_port_get_any_name(port.0, &mut name)) {
            Ok(()) => take_text(name),
            Err(_) => String::new(),
        };
        check(ov::ov_port_get_partial_shape(port.0, &mut shape))?;
        let dims = (shape.rank.min == shape.rank.max && shape.rank.min >= 0).then(|| {
            (0..shape.rank.min as usize)
                .map(|index| {
                    let dim = *shape.dims.add(index);
                    match u32::try_from(dim.min) {
                        Ok(length) if dim.min == dim.max => Dim::Fixed(length),
                        _ => Dim::Symbolic(String::new()),
                    }
                })
                .collect()
        });
        ov::ov_partial_shape_free(&mut shape);
        Ok(Port {
            name,
            ty: port_type(raw),
            dims,
        })
    }
}

/// Refuses types of a byte and less. OpenVINO reads some of them, each by another version, and gives out few.
pub fn no_small_types<'p>(mut ports: impl Iterator<Item = &'p Port>) -> Result<(), NnError> {
    match ports.find(|port| port.ty.carried_as().is_some_and(TensorType::is_small)) {
        Some(port) => Err(NnError::unsupported(format!(
            "this server does not send {} tensors to OpenVINO, and {} is one; load the graph with backend = \
             \"onnxruntime\"",
            port.ty,
            quoted(&port.name)
        ))),
        None => Ok(()),
    }
}

/// OpenVINO's number for each element type that it carries here.
const ELEMENTS: [(Element, TensorType); 14] = [
    (Element::OV_BOOLEAN, TensorType::Bool),
    (Element::BF16, TensorType::Bf16),
    (Element::F16, TensorType::Fp16),
    (Element::F32, TensorType::Fp32),
    (Element::F64, TensorType::Fp64),
    (Element::I8, TensorType::I8),
    (Element::I16, TensorType::I16),
    (Element::I32, TensorType::I32),
    (Element::I64, TensorType::I64),
    (Element::U8, TensorType::U8),
    (Element::U16, TensorType::U16),
    (Element::U32, TensorType::U32),
    (Element::U64, TensorType::U64),
    (Element::STRING, TensorType::Bytes),
];

/// The type of OpenVINO's element number. The number is not read as [`Element`], because a newer library may have one
/// that the enumeration lacks.
pub fn port_type(raw: u32) -> PortType {
    (ELEMENTS.iter())
        .find(|(element, _)| *element as u32 == raw)
        .map_or(
            PortType::Other("a number of less than a byte or of a rare format"),
            |(_, ty)| PortType::Tensor(*ty),
        )
}

/// OpenVINO's element for a type; `DYNAMIC` for types that are refused when the graph is loaded.
pub fn element(ty: PortType) -> Element {
    (ELEMENTS.iter())
        .find(|(_, known)| ty == PortType::Tensor(*known))
        .map_or(Element::DYNAMIC, |(element, _)| *element)
}
