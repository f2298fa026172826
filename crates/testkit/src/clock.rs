//! A clock that moves only when told.

use penstock_core::Clock;
use std::cell::Cell;

/// A clock for tests; starts at 2026-01-01T00:00:00Z.
#[derive(Debug)]
pub struct FakeClock {
    unix_ms: Cell<u64>,
    monotonic_ns: Cell<u64>,
}

impl Default for FakeClock {
    fn default() -> Self {
        Self {
            unix_ms: Cell::new(1_767_225_600_000),
            monotonic_ns: Cell::new(0),
        }
    }
}

impl FakeClock {
    /// Advances the wall clock and the monotonic clock together.
    pub fn advance_ms(&self, ms: u64) {
        self.unix_ms.set(self.unix_ms.get() + ms);
        self.monotonic_ns
            .set(self.monotonic_ns.get() + ms * 1_000_000);
    }
}

impl Clock for FakeClock {
    fn unix_ms(&self) -> u64 {
        self.unix_ms.get()
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.get()
    }
}
