//! Asks the allocator before a large allocation, because one that fails ends the process.

/// Returns whether the allocator can give so many bytes in one piece. Nothing is written to them, so this is free if the
/// kernel provides memory on first use.
pub(crate) fn can_allocate(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}
