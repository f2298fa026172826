//! A body that the host holds.

use penstock_tensor::{Buffer, HostBytes, ValueRule};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes in the host, and a record of the gate's questions about them.
#[derive(Debug)]
pub struct HostBody {
    bytes: Vec<u8>,
    asked: Mutex<Asked>,
}

/// The questions to a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The parts that were copied.
    pub copied: Vec<Range<usize>>,
    /// The parts whose elements were checked.
    pub checked: Vec<Range<usize>>,
}

impl HostBody {
    /// A body in the host.
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            asked: Mutex::default(),
        })
    }

    /// The body, as a request has it.
    pub fn buffer(self: &Arc<Self>) -> Buffer {
        Buffer::held(self.clone(), self.bytes.len())
    }

    /// Returns the questions since the last call of this function.
    pub fn take(&self) -> Asked {
        std::mem::take(&mut *self.asked())
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostBytes for HostBody {
    fn item(&self) -> u32 {
        0
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let range = offset..offset + length;
        self.asked().copied.push(range.clone());
        self.bytes[range].to_vec()
    }

    fn suits(&self, offset: usize, length: usize, rule: &ValueRule) -> bool {
        let range = offset..offset + length;
        self.asked().checked.push(range.clone());
        rule.suits(&self.bytes[range])
    }

    fn hand_over(&self) {}
}
