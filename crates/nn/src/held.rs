//! The memory that a loaded graph holds.
//!
//! File sizes are a poor measure: a graph of 23 MB with 8-bit weights takes 88 MB in a runtime that unpacks them.
//! Before a load, its weights as 32-bit numbers are the estimate ([`estimate`]). After a load into this process, the
//! growth of the heap counts, as far as it can be told from other loads ([`held`]). After a load into a process of its
//! own, the private memory of that process counts ([`held_by_process`]).

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Graph;

/// Loads that began, and loads that ended: a measurement counts only if no other load was under way.
static BEGAN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// The heap before a load.
pub(crate) struct Meter {
    heap: Option<u64>,
    /// The number of loads that had begun; `None` if another load was under way.
    alone: Option<u64>,
}

impl Meter {
    /// Begins a measurement. Call it before a load, and drop the result after it.
    pub fn begin() -> Self {
        let ended = ENDED.load(Ordering::SeqCst);
        let began = BEGAN.fetch_add(1, Ordering::SeqCst);
        Self {
            heap: heap_bytes(),
            alone: (began == ended).then_some(began + 1),
        }
    }

    /// The growth of the heap; `None` if it cannot be told.
    pub fn grown(&self) -> Option<u64> {
        let now = heap_bytes()?;
        (self.alone == Some(BEGAN.load(Ordering::SeqCst))).then_some(())?;
        Some(now.saturating_sub(self.heap?))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        ENDED.fetch_add(1, Ordering::SeqCst);
    }
}

/// The memory that a loaded graph is taken to hold. If the heap grew much less than the files, other memory was given
/// back meanwhile.
pub(crate) fn held(grown: Option<u64>, estimate: u64) -> u64 {
    grown
        .filter(|grown| *grown >= estimate / 4)
        .unwrap_or(estimate)
}

/// The memory that a graph in a process of its own is taken to hold: all private memory of the process after its first
/// runs, but at least the estimate. Nothing is subtracted, because each version has a process, and the memory of its
/// runtime and its allocator comes with it. Weights that are mapped from a file are not private; the estimate covers
/// them.
pub(crate) fn held_by_process(resident: Option<u64>, estimate: u64) -> u64 {
    resident.map_or(estimate, |resident| resident.max(estimate))
}

/// The memory that the graph at `path`, whose files have `file_bytes`, is expected to hold once it is loaded.
pub(crate) fn estimate(path: &Path, file_bytes: u64) -> u64 {
    let weights = Graph::of(path).map_or(0, |graph| graph.weight_bytes());
    file_bytes.max(weights)
}

/// Bytes that the C library's allocator has given out and not got back, which ONNX Runtime, OpenVINO and Rust share.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn heap_bytes() -> Option<u64> {
    // SAFETY: takes nothing and returns numbers; safe to call from any thread.
    let info = unsafe { libc::mallinfo2() };
    u64::try_from(info.uordblks.saturating_add(info.hblkhd)).ok()
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn heap_bytes() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growth_is_taken_unless_it_is_much_less_than_the_files() {
        assert_eq!(held(Some(88), 23), 88);
        assert_eq!(held(Some(20), 23), 20);
        assert_eq!(held(Some(3), 23), 23);
        assert_eq!(held(None, 23), 23);
    }

    #[test]
    fn a_process_counts_with_all_its_memory_and_never_with_less_than_the_files() {
        assert_eq!(held_by_process(Some(88), 23), 88);
        assert_eq!(held_by_process(Some(12), 23), 23);
        assert_eq!(held_by_process(None, 23), 23);
    }

    #[test]
    fn a_load_beside_another_is_not_measured() {
        let first = Meter::begin();
        let second = Meter::begin();
        assert_eq!((first.grown(), second.grown()), (None, None));
        drop((first, second));
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            let alone = Meter::begin();
            let block = std::hint::black_box(vec![1u8; 64 << 20]);
            let grown = alone.grown().expect("it is alone");
            assert!(grown >= 60 << 20, "{grown} of {}", block.len());
        }
    }
}
