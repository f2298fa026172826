//! Joins the tensors of several requests into one batch, and splits a batch's outputs. Both work along the first axis. The
//! caller must make sure that the tensors fit each other.

use crate::tensor::{ByteStrings, Tensor};

/// Joins the tensors of several requests, which have the same names in the same order.
///
/// # Panics
///
/// If there are no requests, or if they differ in their number of tensors.
pub fn join(requests: &[&[Tensor]]) -> Vec<Tensor> {
    let first = requests[0];
    (0..first.len())
        .map(|index| {
            let all = || requests.iter().map(|tensors| &tensors[index]);
            let rows = all().map(|tensor| tensor.shape.first().copied().unwrap_or(1));
            let mut shape = first[index].shape.clone();
            if let Some(length) = shape.first_mut() {
                *length = rows.fold(0, u64::saturating_add);
            }
            let mut data = Vec::with_capacity(all().map(|tensor| tensor.data.len()).sum());
            for tensor in all() {
                data.extend_from_slice(&tensor.data);
            }
            Tensor {
                name: first[index].name.clone(),
                datatype: first[index].datatype,
                shape,
                data: data.into(),
            }
        })
        .collect()
}

/// Splits outputs into parts of `sizes` rows; `None` if an output does not have exactly all these rows.
pub fn split(outputs: Vec<Tensor>, sizes: &[u64]) -> Option<Vec<Vec<Tensor>>> {
    let rows = sizes
        .iter()
        .try_fold(0u64, |sum, size| sum.checked_add(*size))?;
    let mut parts: Vec<Vec<Tensor>> = sizes
        .iter()
        .map(|_| Vec::with_capacity(outputs.len()))
        .collect();
    for output in outputs {
        if output.shape.first() != Some(&rows) || !output.is_consistent() {
            return None;
        }
        let lengths = row_bytes(&output, rows)?;
        let mut at = 0;
        let mut lengths = lengths.into_iter();
        for (part, size) in parts.iter_mut().zip(sizes) {
            let bytes: usize = lengths.by_ref().take(usize::try_from(*size).ok()?).sum();
            let mut shape = output.shape.clone();
            shape[0] = *size;
            part.push(Tensor {
                name: output.name.clone(),
                datatype: output.datatype,
                shape,
                data: output.data.get(at..at + bytes)?.to_vec().into(),
            });
            at += bytes;
        }
    }
    Some(parts)
}

/// The number of bytes of each row.
fn row_bytes(tensor: &Tensor, rows: u64) -> Option<Vec<usize>> {
    let rows = usize::try_from(rows).ok()?;
    if rows == 0 {
        return Some(Vec::new());
    }
    if tensor.datatype.size_bytes().is_some() {
        return Some(vec![tensor.data.len() / rows; rows]);
    }
    let elements = usize::try_from(tensor.elements()?).ok()?;
    let each = elements / rows;
    let mut strings = ByteStrings::new(&tensor.data);
    (0..rows)
        .map(|_| {
            let taken = strings.by_ref().take(each);
            Some(
                taken
                    .map(|element| element.len() + crate::tensor::BYTES_PREFIX_BYTES)
                    .sum(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Datatype;
    use crate::tensor::push_byte_string;
    use proptest::prelude::*;

    fn numbers(rows: u64, first: u8) -> Tensor {
        let data = (0..rows * 3).map(|i| first.wrapping_add(i as u8)).collect();
        Tensor {
            name: "n".into(),
            datatype: Datatype::Uint8,
            shape: vec![rows, 3],
            data,
        }
    }

    fn strings(rows: u64, first: u8) -> Tensor {
        let mut data = Vec::new();
        for row in 0..rows * 2 {
            let text = vec![first; (row % 4) as usize];
            assert!(push_byte_string(&mut data, &text));
        }
        Tensor {
            name: "s".into(),
            datatype: Datatype::Bytes,
            shape: vec![rows, 2],
            data: data.into(),
        }
    }

    proptest! {
        #[test]
        fn joined_tensors_are_split_into_the_same_parts(sizes in prop::collection::vec(1u64..6, 1..6)) {
            let requests: Vec<Vec<Tensor>> = sizes
                .iter()
                .enumerate()
                .map(|(at, size)| vec![numbers(*size, at as u8), strings(*size, at as u8)])
                .collect();
            let slices: Vec<&[Tensor]> = requests.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(split(join(&slices), &sizes), Some(requests));
        }
    }

    #[test]
    fn outputs_that_are_not_one_row_for_each_item_do_not_come_apart() {
        assert_eq!(split(vec![numbers(3, 0)], &[1, 1]), None);
        let scalar = Tensor {
            shape: vec![],
            data: vec![1].into(),
            ..numbers(1, 0)
        };
        assert_eq!(split(vec![scalar], &[1]), None);
        let cut = Tensor {
            data: vec![1].into(),
            ..numbers(2, 0)
        };
        assert_eq!(split(vec![cut], &[1, 1]), None);
    }
}
