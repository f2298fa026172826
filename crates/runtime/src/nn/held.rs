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

/// The number of the request's body.
const BODY: u32 = 0;

/// The most items that are held at once. Further outputs are copied into the component, as short ones are.
const MAX_ITEMS: usize = 4096;

/// The bytes that the host holds for the current request, by number. The body is the first.
#[derive(Default)]
pub(super) struct HeldItems {
    items: Vec<Option<Bytes>>,
    /// Numbers of outputs that were released.
    free: Vec<u32>,
}

impl HeldItems {
    /// Begins a request with its body, if the host holds it.
    pub(super) fn begin(&mut self, body: Option<Bytes>) {
        self.end();
        self.items.push(body);
    }

    /// Ends a request. Returns the number of bytes of its outputs.
    fn end(&mut self) -> usize {
        self.free.clear();
        let outputs = self.items.drain(..).skip(1).flatten();
        outputs.map(|output| output.len()).sum()
    }

    /// Keeps an output. Returns its number, or `None` if there are too many.
    fn put(&mut self, output: Bytes) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            *self.items.get_mut(number as usize)? = Some(output);
            return Some(number);
        }
        if self.items.len() >= MAX_ITEMS {
            return None;
        }
        self.items.push(Some(output));
        u32::try_from(self.items.len() - 1).ok()
    }

    /// Gives an output up. The body stays.
    fn take_output(&mut self, number: u32) -> Option<Bytes> {
        if number == BODY {
            return None;
        }
        let output = self.items.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(output)
    }

    /// The bytes at a place, without a copy.
    fn at(&self, place: Place) -> wasmtime::Result<Bytes> {
        let item = (self.items.get(place.item as usize)).and_then(Option::as_ref);
        let range = || {
            let offset = usize::try_from(place.offset).ok()?;
            let length = usize::try_from(place.length).ok()?;
            Some(offset..offset.checked_add(length)?)
        };
        match (item, range()) {
            (Some(item), Some(range)) if range.end <= item.len() => Ok(item.slice(range)),
            (Some(item), _) => Err(wasmtime::format_err!(
                "a component names {} bytes from {} of item {}, which has {} bytes",
                place.length,
                place.offset,
                place.item,
                item.len()
            )),
            (None, _) => Err(wasmtime::format_err!(
                "a component names item {}, which the host does not hold for this request",
                place.item
            )),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn place(item: u32, offset: u64, length: u64) -> Place {
        Place {
            item,
            offset,
            length,
        }
    }

    #[test]
    fn a_place_that_is_not_there_is_an_error_and_never_the_bytes_of_another_request() {
        let mut items = HeldItems::default();
        items.begin(Some(Bytes::from_static(b"first body")));
        assert_eq!(items.at(place(0, 6, 4)).unwrap(), "body");
        assert_eq!(items.at(place(0, 10, 0)).unwrap(), "");
        for wrong in [
            place(0, 7, 4),
            place(0, 11, 0),
            place(0, u64::MAX, 1),
            place(0, 1, u64::MAX),
            place(1, 0, 0),
            place(u32::MAX, 0, 0),
        ] {
            assert!(items.at(wrong).is_err(), "{wrong:?}");
        }
        let kept = items.put(Bytes::from_static(b"output")).unwrap();
        assert_eq!(items.at(place(kept, 0, 6)).unwrap(), "output");
        items.begin(None);
        assert!(items.at(place(kept, 0, 6)).is_err());
        let error = items.at(place(0, 0, 1)).unwrap_err().to_string();
        assert!(error.contains("does not hold"), "{error}");
    }

    #[test]
    fn numbers_of_released_outputs_are_used_again_and_the_body_stays() {
        let mut items = HeldItems::default();
        items.begin(Some(Bytes::from_static(b"body")));
        // An adapter that feeds its state back makes thousands of outputs, a few at a time.
        for round in 0..3 * MAX_ITEMS {
            let numbers = [(); 2].map(|()| items.put(Bytes::from_static(b"state")).unwrap());
            assert_ne!(numbers[0], numbers[1]);
            for number in numbers {
                assert!(
                    number != BODY && items.take_output(number).is_some(),
                    "{round}"
                );
                assert!(items.take_output(number).is_none(), "given up twice");
            }
        }
        assert!(items.take_output(BODY).is_none());
        assert_eq!(items.at(place(BODY, 0, 4)).unwrap(), "body");
        let kept = std::iter::from_fn(|| items.put(Bytes::from_static(b"x"))).count();
        assert_eq!(kept, MAX_ITEMS - 1);
        assert_eq!(items.end(), kept);
    }
}
