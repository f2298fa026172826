//! The bytes that the host holds for one request: its body, and outputs of models. They have numbers, by which components name
//! them (`crate::nn`). A number that is not there is a fault of a component.

use bytes::Bytes;
use penstock_tensor::Place;

/// The number of the request's body.
const BODY: u32 = 0;

/// The most items that are held at once. Further outputs are copied into the component, as short ones are.
const MAX_ITEMS: usize = 4096;

/// The bytes that the host holds for the current request, by number. The body is the first.
#[derive(Default)]
pub(crate) struct HeldItems {
    items: Vec<Option<Bytes>>,
    /// Numbers of outputs that were released.
    free: Vec<u32>,
}

impl HeldItems {
    /// Begins a request with its body, if the host holds it.
    pub(crate) fn begin(&mut self, body: Option<Bytes>) {
        self.end();
        self.items.push(body);
    }

    /// Ends a request and frees its items. Returns the number of bytes of its outputs.
    pub(crate) fn end(&mut self) -> usize {
        self.free.clear();
        let outputs = self.items.drain(..).skip(1).flatten();
        outputs.map(|output| output.len()).sum()
    }

    /// Keeps an output for the request. Returns its number, or `None` if there are too many.
    pub(crate) fn put(&mut self, output: Bytes) -> Option<u32> {
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
    pub(crate) fn take_output(&mut self, number: u32) -> Option<Bytes> {
        if number == BODY {
            return None;
        }
        let output = self.items.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(output)
    }

    /// The bytes at a place, without a copy.
    pub(crate) fn at(&self, place: Place) -> wasmtime::Result<Bytes> {
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
