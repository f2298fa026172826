//! Types and shapes of the values that a file declares.

use std::io::{BufRead, Seek};

use super::declared::Composed;
use super::field;
use super::wire::{Item, Walked, Wire};
use crate::backend::port::{Dim, Port, PortType};
use crate::tensor::TensorType;

impl<R: BufRead + Seek> Wire<R> {
    /// An input or output, and its parts if it is a sequence or a map.
    pub fn port(&mut self, end: u64) -> Walked<(Port, Option<Composed>)> {
        let mut port = Port {
            name: String::new(),
            ty: PortType::Other("a sequence, map or optional"),
            dims: None,
        };
        let mut composed = None;
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::VALUE_NAME, Item::Until(until)) => port.name = self.text(until)?,
                (field::VALUE_TYPE, Item::Until(until)) => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::TYPE_TENSOR, Item::Until(until)) => {
                                self.tensor_type(until, &mut port)?;
                            }
                            (field::TYPE_SEQUENCE, Item::Until(until)) => {
                                composed = self.sequence_type(until)?;
                            }
                            (field::TYPE_MAP, Item::Until(until)) => {
                                composed = self.map_type(until, false)?;
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok((port, composed))
    }

    /// A sequence of tensors or of maps; `None` for one of anything else.
    fn sequence_type(&mut self, end: u64) -> Walked<Option<Composed>> {
        let mut composed = None;
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::SEQUENCE_ELEMENT, Item::Until(until)) => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::TYPE_TENSOR, Item::Until(until)) => {
                                composed = Some(Composed::Sequence(self.element_type(until)?));
                            }
                            (field::TYPE_MAP, Item::Until(until)) => {
                                composed = self.map_type(until, true)?;
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok(composed)
    }

    /// A map of single values; `None` for one of anything else.
    fn map_type(&mut self, end: u64, list: bool) -> Walked<Option<Composed>> {
        let (mut keys, mut values) = (None, None);
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::MAP_KEY, Item::Number(element)) => keys = Some(port_type(element)),
                (field::MAP_VALUE, Item::Until(until)) => {
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::TYPE_TENSOR, Item::Until(until)) => {
                                values = Some(self.element_type(until)?);
                            }
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        let both = keys.zip(values);
        Ok(both.map(|(key, value)| Composed::Maps { key, value, list }))
    }

    /// The type of a tensor's elements.
    fn element_type(&mut self, end: u64) -> Walked<PortType> {
        let mut port = Port {
            name: String::new(),
            ty: port_type(0),
            dims: None,
        };
        self.tensor_type(end, &mut port)?;
        Ok(port.ty)
    }

    fn tensor_type(&mut self, end: u64, port: &mut Port) -> Walked<()> {
        port.ty = port_type(0);
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::TENSOR_TYPE_ELEMENT, Item::Number(element)) => {
                    port.ty = port_type(element);
                }
                (field::TENSOR_TYPE_SHAPE, Item::Until(until)) => {
                    let dims = port.dims.get_or_insert_default();
                    while let Some((field, item)) = self.next(until)? {
                        match (field, item) {
                            (field::SHAPE_DIM, Item::Until(until)) => dims.push(self.dim(until)?),
                            (_, Item::Until(until)) => self.skip_to(until)?,
                            _ => {}
                        }
                    }
                }
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn dim(&mut self, end: u64) -> Walked<Dim> {
        let mut dim = Dim::Symbolic(String::new());
        while let Some((field, item)) = self.next(end)? {
            match (field, item) {
                (field::DIM_VALUE, Item::Number(size)) => {
                    // In files that predate symbols, a negative length means an open one.
                    dim = u32::try_from(size)
                        .map_or_else(|_| Dim::Symbolic(String::new()), Dim::Fixed);
                }
                (field::DIM_PARAM, Item::Until(until)) => dim = Dim::Symbolic(self.text(until)?),
                (_, Item::Until(until)) => self.skip_to(until)?,
                _ => {}
            }
        }
        Ok(dim)
    }
}

/// ONNX's number for an element type.
pub fn port_type(element: u64) -> PortType {
    match element {
        1 => PortType::Tensor(TensorType::Fp32),
        2 => PortType::Tensor(TensorType::U8),
        3 => PortType::Tensor(TensorType::I8),
        4 => PortType::Tensor(TensorType::U16),
        5 => PortType::Tensor(TensorType::I16),
        6 => PortType::Tensor(TensorType::I32),
        7 => PortType::Tensor(TensorType::I64),
        8 => PortType::Tensor(TensorType::Bytes),
        9 => PortType::Tensor(TensorType::Bool),
        10 => PortType::Tensor(TensorType::Fp16),
        11 => PortType::Tensor(TensorType::Fp64),
        12 => PortType::Tensor(TensorType::U32),
        13 => PortType::Tensor(TensorType::U64),
        14 | 15 => PortType::Other("a complex number"),
        16 => PortType::Tensor(TensorType::Bf16),
        17 => PortType::Tensor(TensorType::Fp8E4m3fn),
        18 => PortType::Tensor(TensorType::Fp8E4m3fnuz),
        19 => PortType::Tensor(TensorType::Fp8E5m2),
        20 => PortType::Tensor(TensorType::Fp8E5m2fnuz),
        21 => PortType::Tensor(TensorType::U4),
        22 => PortType::Tensor(TensorType::I4),
        25 => PortType::Tensor(TensorType::U2),
        26 => PortType::Tensor(TensorType::I2),
        _ => PortType::Other("a number of less than a byte or of a rare format"),
    }
}
