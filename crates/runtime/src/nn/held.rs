//! `penstock:nn/held`: bytes of the current request that stay in the host.
//!
//! The body of a request and outputs of models are items, with numbers. Components pass each other places in them instead of
//! copies. A place that is not there is a fault of a component, and aborts the request.

use super::bindings::penstock::nn::held;
use super::bindings::penstock::types::held::HeldBytes as WitPlace;
use super::bindings::penstock::types::tensors::Datatype as WitDatatype;
use super::bindings::wasi::nn::tensor::TensorDimensions;
use super::{NnTensor, NnView, Tensor, from_element};
use bytes::Bytes;
use penstock_tensor::{Datatype, Place, ValueRule};
use wasmtime::component::Resource;

fn place_from_wit(place: WitPlace) -> Place {
    Place {
        item: place.item,
        offset: place.offset,
        length: place.length,
    }
}

impl NnView<'_> {
    /// The bytes at a place, without a copy.
    ///
    /// # Errors
    ///
    /// The host does not hold so many bytes there.
    pub fn held_bytes(&self, place: Place) -> wasmtime::Result<Bytes> {
        self.ctx.items.at(place)
    }

    /// Gives up everything that was held for a request.
    pub fn forget_held(&mut self) {
        let bytes = self.ctx.items.end();
        self.held.release(bytes);
    }

    pub(super) fn read_held(&self, place: WitPlace) -> wasmtime::Result<Bytes> {
        self.held_bytes(place_from_wit(place))
    }
}

impl held::Host for NnView<'_> {
    fn read(&mut self, place: WitPlace) -> wasmtime::Result<Vec<u8>> {
        // The linker has another one. This is here because the generated trait has it.
        Ok(self.read_held(place)?.to_vec())
    }

    fn suits(&mut self, place: WitPlace, rule: held::Rule) -> wasmtime::Result<bool> {
        let rule = ValueRule {
            datatype: datatype(rule.datatype),
            finite: rule.finite,
            minimum: rule.minimum,
            maximum: rule.maximum,
        };
        Ok(rule.suits(&self.read_held(place)?))
    }

    fn create(
        &mut self,
        dims: TensorDimensions,
        ty: super::tensors::ElementType,
        place: WitPlace,
    ) -> wasmtime::Result<Resource<Tensor>> {
        let data = self.read_held(place)?;
        self.hold_tensor(NnTensor {
            ty: from_element(ty),
            dims,
            data,
        })
    }

    fn keep(&mut self, value: Resource<Tensor>) -> wasmtime::Result<Option<WitPlace>> {
        let data = self.table.get(&value)?.0.data.clone();
        let length = data.len();
        // They count as a tensor's until that is dropped, and as an item's until it is released.
        if self.held.take(length).is_err() {
            return Ok(None);
        }
        let Some(item) = self.ctx.items.put(data) else {
            self.held.release(length);
            return Ok(None);
        };
        Ok(Some(WitPlace {
            item,
            offset: 0,
            length: length as u64,
        }))
    }

    fn release(&mut self, item: u32) -> wasmtime::Result<()> {
        let released = self.ctx.items.take_output(item);
        self.held.release(released.map_or(0, |bytes| bytes.len()));
        Ok(())
    }
}

fn datatype(wit: WitDatatype) -> Datatype {
    match wit {
        WitDatatype::BoolValue => Datatype::Bool,
        WitDatatype::Uint8 => Datatype::Uint8,
        WitDatatype::Uint16 => Datatype::Uint16,
        WitDatatype::Uint32 => Datatype::Uint32,
        WitDatatype::Uint64 => Datatype::Uint64,
        WitDatatype::Int8 => Datatype::Int8,
        WitDatatype::Int16 => Datatype::Int16,
        WitDatatype::Int32 => Datatype::Int32,
        WitDatatype::Int64 => Datatype::Int64,
        WitDatatype::Fp16 => Datatype::Fp16,
        WitDatatype::Bf16 => Datatype::Bf16,
        WitDatatype::Fp32 => Datatype::Fp32,
        WitDatatype::Fp64 => Datatype::Fp64,
        WitDatatype::Bytes => Datatype::Bytes,
        WitDatatype::Int2 => Datatype::Int2,
        WitDatatype::Uint2 => Datatype::Uint2,
        WitDatatype::Int4 => Datatype::Int4,
        WitDatatype::Uint4 => Datatype::Uint4,
        WitDatatype::Fp8E4m3fn => Datatype::Fp8E4m3fn,
        WitDatatype::Fp8E4m3fnuz => Datatype::Fp8E4m3fnuz,
        WitDatatype::Fp8E5m2 => Datatype::Fp8E5m2,
        WitDatatype::Fp8E5m2fnuz => Datatype::Fp8E5m2fnuz,
    }
}
