//! Decides which calls of a model may share a run, puts their tensors together, and splits the outputs.
//!
//! Two calls may share a run when the model counts items along the first axis of every input and output, and
//! their tensors agree in every other axis except the padded one ([`Padding`](crate::batching::Padding)). Outputs
//! are handed out as slices of the run's own; they are copied only if an axis was padded, to remove the padding.

use bytes::Bytes;

use crate::backend::{Dim, Port};
use crate::batching::DynamicBatching;
use crate::error::{NnError, quoted};
use crate::schedule::Class;
use crate::tensor::{NnTensor, Shape, TensorType};

/// The part of a run that one call makes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub class: Class,
    pub items: u32,
    pub length: u32,
}

/// The way the tensors of one model are put together.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The padded axis and its padding element, by input in the graph's order.
    inputs: Vec<Option<(usize, Vec<u8>)>>,
    /// The padded axis, by output in the graph's order.
    outputs: Vec<Option<usize>>,
    /// Axes that calls choose and must agree in: input and axis.
    free: Vec<(usize, usize)>,
}

impl Plan {
    /// The plan for a graph with these ports, or the reason that its calls cannot share runs.
    pub(crate) fn new(
        options: &DynamicBatching,
        inputs: &[Port],
        outputs: &[Port],
    ) -> Result<Self, String> {
        let padding = options.padding.as_ref();
        if inputs.is_empty() {
            return Err("the graph has no input".into());
        }
        for port in inputs.iter().chain(outputs) {
            let counts = (port.dims.as_ref())
                .is_some_and(|dims| matches!(dims.first(), Some(Dim::Symbolic(_))));
            if !counts {
                return Err(format!(
                    "{} is {} in the graph, and does not begin with an axis of any length",
                    quoted(&port.name),
                    port.shape_text()
                ));
            }
            if !port.ty.carried_as().is_some_and(TensorType::is_fixed_size) {
                return Err(format!(
                    "{} is {}, whose elements differ in length",
                    quoted(&port.name),
                    port.ty
                ));
            }
        }
        let filled = |port: &Port| padding.and_then(|p| p.inputs.get(&port.name)).cloned();
        let mut free = Vec::new();
        for (input, port) in inputs.iter().enumerate() {
            let of_padding = filled(port).map(|(axis, _)| axis);
            for (axis, dim) in port.dims.iter().flatten().enumerate().skip(1) {
                if matches!(dim, Dim::Symbolic(_)) && of_padding != Some(axis) {
                    free.push((input, axis));
                }
            }
        }
        Ok(Self {
            inputs: inputs.iter().map(filled).collect(),
            outputs: outputs
                .iter()
                .map(|port| padding.and_then(|p| p.outputs.get(&port.name)).copied())
                .collect(),
            free,
        })
    }

    /// The part of a run that a call makes up. Its tensors have been checked against the ports.
    pub(crate) fn part(&self, tensors: &[NnTensor]) -> Part {
        let items = tensors[0].dims[0];
        let alone = Part {
            class: Class::Alone,
            items,
            length: 1,
        };
        if tensors.iter().any(|tensor| tensor.dims[0] != items) {
            return alone;
        }
        let mut length = None;
        for (tensor, filled) in tensors.iter().zip(&self.inputs) {
            let Some((axis, _)) = filled else { continue };
            if *length.get_or_insert(tensor.dims[*axis]) != tensor.dims[*axis] {
                return alone;
            }
        }
        let class = self
            .free
            .iter()
            .map(|(input, axis)| tensors[*input].dims[*axis]);
        Part {
            class: Class::Like(class.collect()),
            items,
            length: length.unwrap_or(1),
        }
    }

    /// The shapes of the inputs of a run of several calls.
    pub(crate) fn shapes(&self, calls: &[&[NnTensor]], longest: u32) -> Vec<Vec<u32>> {
        (self.inputs.iter().enumerate())
            .map(|(input, filled)| {
                let mut dims = calls[0][input].dims.clone();
                dims[0] = calls.iter().map(|call| call[input].dims[0]).sum();
                if let Some((axis, _)) = filled {
                    dims[*axis] = longest;
                }
                dims
            })
            .collect()
    }

    /// The inputs of a run of several calls.
    pub(crate) fn concat(&self, calls: &[&[NnTensor]], longest: u32) -> Vec<NnTensor> {
        (self.inputs.iter().enumerate())
            .map(|(input, filled)| {
                let parts = || calls.iter().map(|call| &call[input]);
                let first = &calls[0][input];
                let mut dims = first.dims.clone();
                dims[0] = parts().map(|part| part.dims[0]).sum();
                let Some((axis, fill)) = filled else {
                    let mut data = Vec::with_capacity(parts().map(|part| part.data.len()).sum());
                    parts().for_each(|part| data.extend_from_slice(&part.data));
                    return tensor(first, dims, data);
                };
                dims[*axis] = longest;
                let elements: usize = dims.iter().map(|dim| *dim as usize).product();
                let mut data = Vec::with_capacity(elements * first.ty.size());
                for part in parts() {
                    fill_up(&mut data, part, *axis, longest, fill);
                }
                tensor(first, dims, data)
            })
            .collect()
    }

    /// Splits a run's outputs among its calls; `shares` are the items and the length of each.
    ///
    /// # Errors
    ///
    /// When an output is not as long as the run had items, so that its rows cannot be assigned.
    pub(crate) fn split(
        &self,
        outputs: &[NnTensor],
        shares: &[(u32, u32)],
        longest: u32,
    ) -> Result<Vec<Vec<NnTensor>>, NnError> {
        let items: u64 = shares.iter().map(|(items, _)| u64::from(*items)).sum();
        let mut split: Vec<Vec<NnTensor>> = (shares.iter())
            .map(|_| Vec::with_capacity(outputs.len()))
            .collect();
        for (output, filled) in outputs.iter().zip(&self.outputs) {
            let wrong = |what: &str| {
                NnError::runtime(format!(
                    "a run of {items} items gave an output of shape {}, {what}",
                    Shape(&output.dims)
                ))
            };
            if output.dims.first().map(|dim| u64::from(*dim)) != Some(items) {
                return Err(wrong("which is not one row for each item"));
            }
            if filled.is_some_and(|axis| output.dims.get(axis) != Some(&longest)) {
                return Err(wrong("which is not as long as its padded inputs"));
            }
            let row = output.data.len() / (items.max(1) as usize);
            let mut from = 0;
            for (part, (items, length)) in split.iter_mut().zip(shares) {
                let to = from + row * *items as usize;
                let mut dims = output.dims.clone();
                dims[0] = *items;
                let data = match filled {
                    Some(axis) if *length < longest => {
                        dims[*axis] = *length;
                        let rows = &output.data[from..to];
                        Bytes::from(cut_off(rows, output, *axis, *length))
                    }
                    _ => output.data.slice(from..to),
                };
                part.push(NnTensor {
                    ty: output.ty,
                    dims,
                    data,
                });
                from = to;
            }
        }
        Ok(split)
    }
}

fn tensor(like: &NnTensor, dims: Vec<u32>, data: Vec<u8>) -> NnTensor {
    NnTensor {
        ty: like.ty,
        dims,
        data: Bytes::from(data),
    }
}

/// Bytes of one element of `axis`: the product of the axes after it.
fn stride(tensor: &NnTensor, axis: usize) -> usize {
    let behind: usize = tensor.dims[axis + 1..]
        .iter()
        .map(|dim| *dim as usize)
        .product();
    behind * tensor.ty.size()
}

/// Appends a tensor with `axis` made `longest`.
fn fill_up(data: &mut Vec<u8>, part: &NnTensor, axis: usize, longest: u32, fill: &[u8]) {
    let length = part.dims[axis];
    if length == longest {
        return data.extend_from_slice(&part.data);
    }
    let stride = stride(part, axis);
    let missing = stride * (longest - length) as usize;
    for block in part.data.chunks_exact(stride * length as usize) {
        data.extend_from_slice(block);
        if fill.iter().all(|byte| *byte == 0) {
            data.resize(data.len() + missing, 0);
        } else {
            data.extend(fill.iter().copied().cycle().take(missing));
        }
    }
}

/// Rows of a tensor with `axis` cut to `length`.
fn cut_off(rows: &[u8], tensor: &NnTensor, axis: usize, length: u32) -> Vec<u8> {
    let stride = stride(tensor, axis);
    let (longest, kept) = (
        stride * tensor.dims[axis] as usize,
        stride * length as usize,
    );
    let mut data = Vec::with_capacity(rows.len() / longest.max(1) * kept);
    for block in rows.chunks_exact(longest.max(1)) {
        data.extend_from_slice(&block[..kept]);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::PortType;
    use crate::batching::Padding;
    use std::collections::BTreeMap;

    fn port(name: &str, dims: &[Option<u32>]) -> Port {
        let dims = dims.iter().map(|dim| match dim {
            Some(size) => Dim::Fixed(*size),
            None => Dim::Symbolic(String::new()),
        });
        Port {
            name: name.into(),
            ty: PortType::Tensor(TensorType::U8),
            dims: Some(dims.collect()),
        }
    }

    fn bytes(dims: &[u32], data: &[u8]) -> NnTensor {
        NnTensor::new(TensorType::U8, dims.to_vec(), data.to_vec()).expect("as long as its shape")
    }

    fn padded() -> Plan {
        let padding = Padding {
            inputs: BTreeMap::from([("x".into(), (1, vec![9]))]),
            outputs: BTreeMap::from([("y".into(), 1)]),
            max_tokens: 100,
        };
        let batching = DynamicBatching {
            padding: Some(padding),
            ..DynamicBatching::default()
        };
        Plan::new(
            &batching,
            &[port("x", &[None, None, Some(2)])],
            &[port("y", &[None, None, Some(2)]), port("z", &[None])],
        )
        .expect("it counts items")
    }

    #[test]
    fn calls_that_agree_are_of_one_class_and_others_are_not() {
        let inputs = [port("x", &[None, Some(2)]), port("h", &[None, None])];
        let plan =
            Plan::new(&DynamicBatching::default(), &inputs, &[port("y", &[None])]).expect("a plan");
        let part = |items: u32, free: u32| {
            let data = vec![0; (items * free) as usize];
            plan.part(&[
                bytes(&[items, 2], &vec![0; items as usize * 2]),
                bytes(&[items, free], &data),
            ])
        };
        assert_eq!(part(1, 3).class, part(4, 3).class);
        assert_ne!(part(1, 3).class, part(1, 4).class);
        assert_eq!((part(4, 3).items, part(4, 3).length), (4, 1));
        let differ = plan.part(&[bytes(&[1, 2], &[0; 2]), bytes(&[2, 1], &[0; 2])]);
        assert_eq!(differ.class, Class::Alone);
    }

    #[test]
    fn a_graph_with_a_port_that_does_not_count_items_shares_no_runs() {
        let fixed = port("y", &[Some(1), Some(2)]);
        let error =
            Plan::new(&DynamicBatching::default(), &[port("x", &[None])], &[fixed]).unwrap_err();
        assert!(error.contains("\"y\" is [1,2]"), "{error}");
        let unranked = Port {
            dims: None,
            ..port("x", &[])
        };
        assert!(
            Plan::new(
                &DynamicBatching::default(),
                &[unranked],
                &[port("y", &[None])]
            )
            .is_err()
        );
    }

    #[test]
    fn inputs_of_a_batch_are_padded_and_split_outputs_have_no_padding() {
        let plan = padded();
        let short = bytes(&[1, 1, 2], &[1, 2]);
        let long = bytes(&[2, 2, 2], &[3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(plan.part(std::slice::from_ref(&short)).length, 1);
        let batch = plan.concat(
            &[std::slice::from_ref(&short), std::slice::from_ref(&long)],
            2,
        );
        assert_eq!(
            batch[0],
            bytes(&[3, 2, 2], &[1, 2, 9, 9, 3, 4, 5, 6, 7, 8, 9, 10])
        );
        let calls = [std::slice::from_ref(&short), std::slice::from_ref(&long)];
        assert_eq!(plan.shapes(&calls, 2), [vec![3, 2, 2]]);
        let per_item = bytes(&[3], &[20, 21, 22]);
        let split = plan
            .split(&[batch[0].clone(), per_item], &[(1, 1), (2, 2)], 2)
            .expect("as long as it should be");
        assert_eq!(split[0], [short, bytes(&[1], &[20])]);
        assert_eq!(split[1], [long, bytes(&[2], &[21, 22])]);
    }

    #[test]
    fn outputs_that_are_not_one_part_an_item_are_not_handed_out() {
        let plan = padded();
        let right = bytes(&[2, 1, 2], &[0; 4]);
        for wrong in [
            vec![bytes(&[1, 1, 2], &[0; 2]), bytes(&[2], &[0; 2])],
            vec![right.clone(), bytes(&[], &[0])],
            vec![bytes(&[2, 3, 2], &[0; 12]), bytes(&[2], &[0; 2])],
        ] {
            assert!(
                plan.split(&wrong, &[(1, 1), (1, 1)], 1).is_err(),
                "{wrong:?}"
            );
        }
        assert!(
            plan.split(&[right, bytes(&[2], &[0; 2])], &[(1, 1), (1, 1)], 1)
                .is_ok()
        );
    }
}
