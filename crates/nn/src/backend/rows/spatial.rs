//! Operators on images and signals: convolutions, pools, and normalisation by channel.

use super::value::{ALONG, Case, Items, Length, Value, from_front, no};
use super::walk::{Operation, Walk};
use crate::backend::cost::Attribute;

impl Walk<'_> {
    /// The operators of this file; `None` for another.
    pub(super) fn spatial_operators(
        &mut self,
        operation: &Operation<'_>,
    ) -> Case<Option<Vec<Value>>> {
        let op = operation.node.op.as_str();
        let one = |value: Value| Ok(Some(vec![value]));
        match op {
            "Conv" | "ConvInteger" | "QLinearConv" => {
                let weights = if op == "QLinearConv" { 3 } else { 1 };
                if op == "QLinearConv" && operation.get(3).is_some_and(|w| w.items.is_some()) {
                    return no("has weights that follow from items");
                }
                let channels = operation
                    .get(weights)
                    .and_then(|w| w.dims.as_ref()?.first().cloned());
                let unknown = self.unknown(false);
                let mut value = self.spatial(operation, Some(channels.unwrap_or(unknown)))?;
                if op == "QLinearConv" && operation.ints("kernel_shape")?.is_none() {
                    for dim in value
                        .dims
                        .iter_mut()
                        .flat_map(|dims| dims.iter_mut().skip(2))
                    {
                        *dim = self.unknown(false);
                    }
                }
                one(value)
            }
            "ConvTranspose" => {
                let channels = self.unknown(false);
                one(self.spatial(operation, Some(channels))?)
            }
            "AveragePool" | "MaxPool" | "LpPool" => {
                // The second output counts elements of the whole input.
                if operation
                    .node
                    .outputs
                    .get(1)
                    .is_some_and(|name| !name.is_empty())
                {
                    return no("gives places in the whole batch");
                }
                one(self.spatial(operation, None)?)
            }
            "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" => {
                let mut value = self.first_is_batch(operation)?;
                for dim in value
                    .dims
                    .iter_mut()
                    .flat_map(|dims| dims.iter_mut().skip(2))
                {
                    *dim = Length::number(1);
                }
                one(value)
            }
            "BatchNormalization" => {
                let trains = operation.int("training_mode", 0)? != 0
                    || (operation.opset < 7 && operation.int("is_test", 0)? == 0);
                if trains
                    || operation
                        .node
                        .outputs
                        .iter()
                        .skip(1)
                        .any(|name| !name.is_empty())
                {
                    return no("normalises over the items of a run");
                }
                one(self.first_is_batch(operation)?)
            }
            "InstanceNormalization" | "GroupNormalization" | "LRN" => {
                if operation.input(0)?.rank()? < 2 {
                    return no(ALONG);
                }
                one(self.first_is_batch(operation)?)
            }
            "DepthToSpace" | "SpaceToDepth" => {
                let mut value = self.first_is_batch(operation)?;
                for dim in value
                    .dims
                    .iter_mut()
                    .flat_map(|dims| dims.iter_mut().skip(1))
                {
                    *dim = self.unknown(false);
                }
                one(value)
            }
            "Resize" | "Upsample" => one(self.resized(operation)?),
            "GridSample" => {
                let (x, grid) = (operation.input(0)?, operation.input(1)?);
                if x.items != Some(Items::along(0))
                    || x.items != grid.items
                    || x.dims()?[0] != grid.dims()?[0]
                {
                    return no(ALONG);
                }
                let mut dims = x.dims()?.to_vec();
                for dim in dims.iter_mut().skip(2) {
                    *dim = self.unknown(false);
                }
                one(Value::new(dims, x.items.clone()))
            }
            _ => Ok(None),
        }
    }

    /// An operator over images or signals, whose first axis is a batch.
    pub(super) fn spatial(
        &mut self,
        operation: &Operation<'_>,
        channels: Option<Length>,
    ) -> Case<Value> {
        let x = operation.input(0)?;
        operation.constant(1)?;
        let rank = x.rank()?;
        if x.axis().is_some_and(|axis| axis != 0) {
            return no(ALONG);
        }
        let kernel = match operation.ints("kernel_shape")? {
            Some(kernel) => Some(kernel.to_vec()),
            None => (operation.get(1))
                .and_then(|w| w.dims.as_ref())
                .and_then(|dims| dims.get(2..)?.iter().map(Length::known).collect()),
        };
        let strides = operation.ints("strides")?.map(<[i64]>::to_vec);
        let pads = operation.ints("pads")?.map(<[i64]>::to_vec);
        let dilations = operation.ints("dilations")?.map(<[i64]>::to_vec);
        let auto = operation.text("auto_pad", "NOTSET")?;
        let ceil = operation.int("ceil_mode", 0)? != 0;
        let is_plain = operation.node.op != "ConvTranspose";
        let mut dims = x.dims()?.to_vec();
        if let (Some(channels), true) = (channels, rank > 1) {
            dims[1] = channels;
        }
        let count = rank.saturating_sub(2);
        for at in 0..count {
            let length = dims[at + 2].known();
            let size = || -> Option<i64> {
                let of = |list: &Option<Vec<i64>>, or: i64| {
                    list.as_ref().map_or(Some(or), |l| l.get(at).copied())
                };
                let (length, kernel) = (length?, *kernel.as_ref()?.get(at)?);
                let stride = of(&strides, 1).filter(|stride| *stride > 0)?;
                let span = of(&dilations, 1)?.checked_mul(kernel - 1)?.checked_add(1)?;
                if auto.starts_with("SAME") {
                    return Some((length + stride - 1) / stride);
                }
                let pad = match auto.as_str() {
                    "VALID" => 0,
                    _ => match &pads {
                        None => 0,
                        Some(pads) => pads.get(at)?.checked_add(*pads.get(at + count)?)?,
                    },
                };
                let left = length.checked_add(pad)?.checked_sub(span)?;
                // Runtimes differ if a window extends over the end.
                if left < 0 || (ceil && left % stride != 0) {
                    return None;
                }
                Some(left / stride + 1)
            };
            dims[at + 2] = match size().filter(|_| is_plain) {
                Some(size) => Length::number(size),
                None => self.unknown(false),
            };
        }
        Ok(Value::new(dims, x.items.clone()))
    }

    /// An operator whose first input begins with the batch and whose others are constants; the shape stays.
    pub(super) fn first_is_batch(&mut self, operation: &Operation<'_>) -> Case<Value> {
        let x = operation.input(0)?;
        operation.constant(1)?;
        x.rank()?;
        if x.axis().is_some_and(|axis| axis != 0) {
            return no(ALONG);
        }
        Ok(x.clone())
    }

    pub(super) fn resized(&mut self, operation: &Operation<'_>) -> Case<Value> {
        let x = operation.input(0)?;
        let rank = x.rank()?;
        if x.axis().is_some_and(|axis| axis != 0) {
            return no(ALONG);
        }
        let given = |at: usize| {
            (operation.get(at)).filter(|value| value.dims != Some(vec![Length::number(0)]))
        };
        let of_axes = operation.ints("axes")?.map(<[i64]>::to_vec);
        let is_whole = match &of_axes {
            None => false,
            Some(axes) => {
                let axes = axes.iter().map(|axis| from_front(*axis, rank));
                !axes.collect::<Case<Vec<_>>>()?.contains(&0)
            }
        };
        let (scales, sizes) = match (operation.node.op.as_str(), operation.opset < 11) {
            ("Upsample", _) | (_, true) => (1, usize::MAX),
            _ => (2, 3),
        };
        let keeps = is_whole
            || match (given(sizes), given(scales)) {
                (Some(sizes), _) => {
                    let first = sizes.numbers.as_ref().and_then(|numbers| numbers.first());
                    of_axes.is_none() && first == Some(&x.dims()?[0])
                }
                (None, Some(scales)) => of_axes.is_none() && scales.begins_with_one,
                (None, None) => match operation.node.attributes.get("scales") {
                    Some(Attribute::Floats(scales)) => {
                        scales.first().copied().map(f32::from_bits) == Some(1.0)
                    }
                    _ => false,
                },
            };
        if x.items.is_some() && !keeps {
            return no("resizes the axis that counts the items of a run");
        }
        let mut dims = x.dims()?.to_vec();
        for dim in dims.iter_mut().skip(1) {
            *dim = self.unknown(false);
        }
        if x.items.is_none() && !keeps {
            dims[0] = self.unknown(false);
        }
        Ok(Value::new(dims, x.items.clone()))
    }
}
