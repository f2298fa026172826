//! Bytes that the host holds: `penstock:nn/held` behind a [`Buffer`]. Only Penstock's own host has it, so only the gate for the
//! direct entry point imports it.

use crate::imports::bindings::penstock::nn::held as wit;
use crate::types::{self, datatype_to_wit, http, place_to_wit, tensors};
use penstock_tensor::{Buffer, HostBytes, Place, Tensor, ValueRule};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The number of the request's body. It stays until the request ends.
const BODY: u32 = 0;

/// Outputs of at least so many bytes stay in the host. A shorter one is copied faster than it is asked for.
const HELD_FROM_BYTES: u64 = 16 << 10;

thread_local! {
    /// Whether the host holds outputs of the current request. An instance serves one request at a time.
    static MAY_HOLD: Cell<bool> = const { Cell::new(false) };
}

/// An item of the host.
#[derive(Debug)]
struct Item {
    number: u32,
    /// Set when the host takes the bytes itself.
    handed_over: AtomicBool,
}

impl Item {
    fn of(number: u32, length: u64) -> Buffer {
        let item = Self {
            number,
            handed_over: AtomicBool::new(false),
        };
        Buffer::held(
            Arc::new(item),
            usize::try_from(length).unwrap_or(usize::MAX),
        )
    }

    fn place(&self, offset: usize, length: usize) -> types::held::HeldBytes {
        place_to_wit(Place {
            item: self.number,
            offset: offset as u64,
            length: length as u64,
        })
    }
}

impl HostBytes for Item {
    fn item(&self) -> u32 {
        self.number
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        wit::read(self.place(offset, length))
    }

    fn suits(&self, offset: usize, length: usize, rule: &ValueRule) -> bool {
        let rule = wit::Rule {
            datatype: datatype_to_wit(rule.datatype),
            finite: rule.finite,
            minimum: rule.minimum,
            maximum: rule.maximum,
        };
        wit::suits(self.place(offset, length), rule)
    }

    fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        if self.number != BODY && !*self.handed_over.get_mut() {
            wit::release(self.number);
        }
    }
}

/// Begins a request, and notes whether the host may hold outputs for it. Returns its body, if the host holds it.
pub(super) fn begin(request: &http::Request) -> Option<Buffer> {
    MAY_HOLD.set(request.may_hold);
    request.held_body.map(|length| Item::of(BODY, length))
}

/// The length from which outputs of the current request stay in the host.
pub(super) fn from_bytes() -> Option<u64> {
    MAY_HOLD.get().then_some(HELD_FROM_BYTES)
}

/// Converts a run's outputs. Those that the host holds stay there.
pub(super) fn tensors_from_wit(list: Vec<tensors::Tensor>) -> Vec<Tensor> {
    let convert = |tensor: tensors::Tensor| {
        let held = tensor
            .data
            .held
            .map(|place| Item::of(place.item, place.length));
        let mut tensor = types::tensor_from_wit(tensor);
        if let Some(held) = held {
            tensor.data = held;
        }
        tensor
    };
    list.into_iter().map(convert).collect()
}
