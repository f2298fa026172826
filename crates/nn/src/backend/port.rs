//! The inputs and outputs of a graph: their names, element types and shapes.

use std::fmt;

use crate::tensor::TensorType;

/// An element type of a graph's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortType {
    /// A tensor of this type.
    Tensor(TensorType),
    /// A type that no tensor carries, under ONNX's name for it ("a complex number", "a sequence").
    Other(&'static str),
}

impl PortType {
    /// The type of a tensor for this port; `None` if no tensor carries it.
    pub const fn carried_as(self) -> Option<TensorType> {
        match self {
            Self::Tensor(ty) => Some(ty),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tensor(ty) => ty.as_str(),
            Self::Other(name) => name,
        })
    }
}

/// One dimension of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// The same length in every call.
    Fixed(u32),
    /// A length that each call chooses. The graph's name for it, empty without a name.
    Symbolic(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbolic(name) if name.is_empty() => f.write_str("?"),
            Self::Symbolic(name) => f.write_str(name),
        }
    }
}

/// One input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The graph's name for it.
    pub name: String,
    /// The type of its elements, or the reason why no tensor carries it.
    pub ty: PortType,
    /// Dimensions, outermost first; `None` if the graph does not give their number.
    pub dims: Option<Vec<Dim>>,
}

impl Port {
    /// The port's shape as it is written in messages: `[N,3,48,192]`.
    pub fn shape_text(&self) -> String {
        match &self.dims {
            None => "of any shape".into(),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                format!("[{}]", dims.join(","))
            }
        }
    }
}
