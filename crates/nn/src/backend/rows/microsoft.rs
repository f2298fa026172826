//! Operators that ONNX Runtime's optimiser writes into files (`com.microsoft`).

use super::value::{ALONG, Case, Items, Length, UNKNOWN, Value, no};
use super::walk::{Operation, Walk};

impl Walk<'_> {
    /// Operators that ONNX Runtime's optimiser writes into files.
    pub(super) fn microsoft(&mut self, operation: &Operation<'_>) -> Case<Vec<Value>> {
        let op = operation.node.op.as_str();
        let x = operation.input(0)?;
        match op {
            "Gelu" | "FastGelu" | "BiasGelu" | "QuickGelu" => {
                let all: Vec<&Value> = operation.given().collect();
                Ok(vec![self.broadcast(&all)?])
            }
            "FusedMatMul" => {
                for name in ["transBatchA", "transBatchB"] {
                    if operation.int(name, 0)? != 0 {
                        return no(UNKNOWN);
                    }
                }
                let a = Self::turned(x, operation.int("transA", 0)? != 0)?;
                let b = Self::turned(operation.input(1)?, operation.int("transB", 0)? != 0)?;
                Ok(vec![self.matmul(&a, &b)?])
            }
            "FusedGemm" => {
                let a = Self::turned(x, operation.int("transA", 0)? != 0)?;
                let b = Self::turned(operation.input(1)?, operation.int("transB", 0)? != 0)?;
                let product = self.matmul(&a, &b)?;
                Ok(vec![match operation.get(2) {
                    Some(c) => self.broadcast(&[&product, c])?,
                    None => product,
                }])
            }
            "FusedConv" => {
                let channels = operation
                    .get(1)
                    .and_then(|w| w.dims.as_ref()?.first().cloned());
                let unknown = self.unknown(false);
                Ok(vec![
                    self.spatial(operation, Some(channels.unwrap_or(unknown)))?,
                ])
            }
            "MatMulNBits" => {
                operation.constant(1)?;
                let rank = x.rank()?;
                if x.axis() == Some(rank.saturating_sub(1)) {
                    return no("sums over the items of a run");
                }
                let mut dims = x.dims()?.to_vec();
                if let Some(last) = dims.last_mut() {
                    *last = Length::number(operation.int("N", 0)?);
                }
                Ok(vec![Value::new(dims, x.items.clone())])
            }
            "MatMulIntegerToFloat" => {
                operation.constant(2)?;
                for at in [2, 4] {
                    if operation.get(at).is_some_and(|scale| !scale.is_single()) {
                        return no("has a scale or zero point for each row");
                    }
                }
                Ok(vec![self.matmul(x, operation.input(1)?)?])
            }
            "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM" => {
                no("takes one scale over all items of a run")
            }
            "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
                operation.constant(2)?;
                let sum = self.broadcast(&[x, operation.input(1)?])?;
                let rank = sum.rank()?;
                if sum.axis().is_some_and(|axis| axis + 1 >= rank) {
                    return no("normalises over the items of a run");
                }
                let mut rest = sum.clone();
                for dim in rest.dims.iter_mut().flat_map(|dims| dims.last_mut()) {
                    *dim = Length::number(1);
                }
                Ok(vec![sum.clone(), rest.clone(), rest, sum])
            }
            "EmbedLayerNormalization" => {
                let items = Some(Items::along(0));
                let sizes = operation.input(2)?.dims()?;
                for at in [0, 1, 7] {
                    if let Some(value) = operation.get(at)
                        && (value.items != items || value.dims()?[0] != x.dims()?[0])
                    {
                        return no(ALONG);
                    }
                }
                if (2..7).any(|at| operation.get(at).is_some_and(|v| v.items.is_some()))
                    || operation.get(8).is_some()
                    || x.rank()? != 2
                    || sizes.len() != 2
                {
                    return no(UNKNOWN);
                }
                let dims = vec![x.dims()?[0].clone(), x.dims()?[1].clone(), sizes[1].clone()];
                let all = Value::new(dims, items.clone());
                let mask = Value::new(vec![x.dims()?[0].clone()], items);
                Ok(vec![all.clone(), mask, all])
            }
            "Attention" => {
                let items = Some(Items::along(0));
                operation.constant_but(&[0, 3])?;
                let sizes = operation.input(1)?.dims()?.to_vec();
                let mask_fits = match operation.get(3) {
                    None => true,
                    Some(mask) => mask.items == items && mask.dims()?[0] == x.dims()?[0],
                };
                if x.items != items || x.rank()? != 3 || !mask_fits || operation.inputs.len() > 4 {
                    return no(UNKNOWN);
                }
                let mut dims = x.dims()?.to_vec();
                let third = sizes.get(1).and_then(|s| s.over(&Length::number(3)));
                dims[2] = match third {
                    Some(third) => third,
                    None => self.unknown(false),
                };
                Ok(vec![Value::new(dims, items)])
            }
            "MultiHeadAttention" => {
                let items = Some(Items::along(0));
                operation.constant_but(&[0, 1, 2, 4])?;
                for at in [1, 2, 4] {
                    if let Some(value) = operation.get(at)
                        && (value.items != items || value.dims()?[0] != x.dims()?[0])
                    {
                        return no(ALONG);
                    }
                }
                if x.items != items || x.rank()? != 3 || operation.inputs.len() > 5 {
                    return no(UNKNOWN);
                }
                let mut dims = x.dims()?.to_vec();
                dims[2] = self.unknown(false);
                Ok(vec![Value::new(dims, items)])
            }
            _ => no(UNKNOWN),
        }
    }
}
