//! ONNX Runtime's memory on the processor: counted for each run, bounded, and given back.
//!
//! Decisions:
//!
//! - **One allocator for all sessions.** ONNX Runtime's default is an arena in each session. It has no bound, and it
//!   never gives back memory that one large run needed. This allocator is registered with the environment, and sessions
//!   are told to use it (`session.use_env_allocators`).
//! - **The account of a run belongs to its thread.** `Run` allocates outputs and the values between operators on the
//!   calling thread. The threads of an operator (`intra_op_threads`) take only small working memory. An error there
//!   would end the process, so they have no account and no bound. Memory that a session takes while it loads has none
//!   either: weights are not part of a run.
//! - **Beyond the bound the allocator throws.** ONNX Runtime never checks whether an allocator returned null, and it
//!   catches C++ exceptions, which is how its own allocators fail. So [`alloc`] calls the C++ library's
//!   `std::__throw_bad_alloc`, which the runtime itself imports, and the run ends with an error.
//! - **The system's allocator keeps often used memory.** It answers small and medium requests from memory that is still
//!   mapped. It gives blocks of more than 32 MiB back to the system when they are freed (glibc's largest dynamic
//!   `M_MMAP_THRESHOLD`). So one large run does not keep its memory in the process.

use std::alloc::Layout;
use std::cell::Cell;
use std::ffi::c_void;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use ort::sys;

/// Alignment of every block in bytes, for the widest vectors of ONNX Runtime's kernels.
const ALIGN: usize = 64;

/// Bytes after each block that kernels may read. ONNX Runtime's own allocator adds them too
/// (`MLAS_SYMM_QGEMM_BUF_OVERRUN`, 15 or 30 bytes).
const OVERRUN: usize = 64;

/// Alignment that is asked of the system, which it has for nothing.
const SYSTEM_ALIGN: usize = 16;

/// Bytes that are allocated beyond a block's own: its header, room to align it, and the overrun.
const EXTRA: usize = size_of::<Header>() + ALIGN + OVERRUN;

/// The header directly before each block.
#[derive(Clone, Copy)]
struct Header {
    /// The beginning of the system's block.
    base: *mut u8,
    /// Bytes of the system's block.
    total: usize,
    /// Bytes that were asked for.
    size: usize,
    /// The run that the block was made in; zero outside of runs.
    run: u64,
}

/// The run under way on a thread.
#[derive(Clone, Copy)]
struct Account {
    /// The number of the run; zero without a run.
    run: u64,
    limit: usize,
    used: usize,
    peak: usize,
    /// The bytes that the run wanted to hold when it passed its limit; zero if it did not.
    wanted: usize,
}

const NO_RUN: Account = Account {
    run: 0,
    limit: usize::MAX,
    used: 0,
    peak: 0,
    wanted: 0,
};

thread_local! {
    static ACCOUNT: Cell<Account> = const { Cell::new(NO_RUN) };
}

/// The memory that a run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes held together at the worst moment.
    pub peak: usize,
    /// The bytes that the run wanted to hold when it passed its limit.
    pub wanted: Option<usize>,
}

/// Counts the bytes that this thread allocates in `run`, which fails once it would hold more than `limit` bytes.
pub fn metered<T>(limit: usize, run: impl FnOnce() -> T) -> (T, Usage) {
    static RUNS: AtomicU64 = AtomicU64::new(1);
    /// Puts the account of an outer run back, also when the run panics.
    struct Before(Account);
    impl Drop for Before {
        fn drop(&mut self) {
            ACCOUNT.set(self.0);
        }
    }
    let _before = Before(ACCOUNT.replace(Account {
        run: RUNS.fetch_add(1, Ordering::Relaxed),
        limit,
        ..NO_RUN
    }));
    let done = run();
    let account = ACCOUNT.get();
    let usage = Usage {
        peak: account.peak,
        wanted: (account.wanted > 0).then_some(account.wanted),
    };
    (done, usage)
}

/// The allocator that the C functions get as `this`.
#[repr(C)]
struct Counting {
    /// First, because ONNX Runtime's pointer to it is also one to the whole.
    functions: sys::OrtAllocator,
    info: *const sys::OrtMemoryInfo,
    throw: unsafe extern "C-unwind" fn(),
}

/// The allocator's functions, to be registered once with the environment. They live as long as the process.
///
/// `info` describes memory of the processor of the kind `OrtDeviceAllocator`. `None` if the library at `path` has no
/// C++ library with which an allocator could report a failure.
pub fn make(path: &Path, info: *const sys::OrtMemoryInfo) -> Option<*mut sys::OrtAllocator> {
    // SAFETY: the library is loaded already; this only counts one more use of it.
    let library = unsafe { libloading::Library::new(path) }.ok()?;
    // SAFETY: the C++ libraries of GCC and LLVM export `void std::__throw_bad_alloc()` under this name. The lookup goes
    // through the libraries that `path` was linked with.
    let throw =
        *unsafe { library.get::<unsafe extern "C-unwind" fn()>(b"_ZSt17__throw_bad_allocv\0") }
            .ok()?;
    // Keep the library loaded, so that the function stays valid.
    std::mem::forget(library);
    let functions = sys::OrtAllocator {
        version: sys::ORT_API_VERSION,
        // SAFETY: the functions have the signatures of the fields. "C-unwind" differs from "system" only in that an
        // exception may leave them, and their only caller is C++ that expects one.
        Alloc: Some(unsafe {
            std::mem::transmute::<
                unsafe extern "C-unwind" fn(*mut sys::OrtAllocator, usize) -> *mut c_void,
                unsafe extern "system" fn(*mut sys::OrtAllocator, usize) -> *mut c_void,
            >(alloc)
        }),
        Free: Some(free),
        Info: Some(describe),
        // SAFETY: as for `Alloc`.
        Reserve: Some(unsafe {
            std::mem::transmute::<
                unsafe extern "C-unwind" fn(*const sys::OrtAllocator, usize) -> *mut c_void,
                unsafe extern "system" fn(*const sys::OrtAllocator, usize) -> *mut c_void,
            >(reserve)
        }),
        // SAFETY: leaves out the functions that may be left out.
        ..unsafe { sys::OrtAllocator::default() }
    };
    let counting = Box::new(Counting {
        functions,
        info,
        throw,
    });
    Some(Box::into_raw(counting).cast())
}

/// Implements `OrtAllocator::Alloc`. Throws a C++ exception if it cannot give the memory; no value with a destructor may be
/// alive
/// here then.
unsafe extern "C-unwind" fn alloc(this: *mut sys::OrtAllocator, size: usize) -> *mut c_void {
    if size == 0 {
        return ptr::null_mut();
    }
    let mut account = ACCOUNT.get();
    if account.run != 0 {
        let used = account.used.saturating_add(size);
        if used > account.limit {
            account.wanted = account.wanted.max(used);
            ACCOUNT.set(account);
            // SAFETY: `this` is a `Counting`; the exception is the caller's to catch.
            unsafe { ((*this.cast::<Counting>()).throw)() };
            return ptr::null_mut();
        }
        account.used = used;
        account.peak = account.peak.max(used);
        ACCOUNT.set(account);
    }
    let block = take(size, account.run);
    if block.is_null() {
        // SAFETY: as above.
        unsafe { ((*this.cast::<Counting>()).throw)() };
    }
    block.cast()
}

/// Implements `OrtAllocator::Reserve`, for memory that is held for long, such as weights.
unsafe extern "C-unwind" fn reserve(this: *const sys::OrtAllocator, size: usize) -> *mut c_void {
    // SAFETY: the same allocator and size.
    unsafe { alloc(this.cast_mut(), size) }
}

/// Implements `OrtAllocator::Info`: the memory is that of the processor.
unsafe extern "system" fn describe(this: *const sys::OrtAllocator) -> *const sys::OrtMemoryInfo {
    // SAFETY: `this` is a `Counting`.
    unsafe { (*this.cast::<Counting>()).info }
}

/// Implements `OrtAllocator::Free`. The thread may be another than the one that allocated.
unsafe extern "system" fn free(_: *mut sys::OrtAllocator, block: *mut c_void) {
    if block.is_null() {
        return;
    }
    // SAFETY: `take` wrote a header before each block it returned.
    let header = unsafe { block.cast::<Header>().sub(1).read_unaligned() };
    let mut account = ACCOUNT.get();
    if header.run != 0 && header.run == account.run {
        account.used = account.used.saturating_sub(header.size);
        ACCOUNT.set(account);
    }
    // SAFETY: the layout is the one `take` asked with, which was valid.
    unsafe {
        let layout = Layout::from_size_align_unchecked(header.total, SYSTEM_ALIGN);
        std::alloc::dealloc(header.base, layout);
    }
}

/// A block of `size` bytes, aligned, with its header before it; null if the system has no memory.
fn take(size: usize, run: u64) -> *mut u8 {
    let Some(total) = size.checked_add(EXTRA) else {
        return ptr::null_mut();
    };
    let Ok(layout) = Layout::from_size_align(total, SYSTEM_ALIGN) else {
        return ptr::null_mut();
    };
    // SAFETY: the size is not zero. The header and the block lie within the allocation: the block begins at most
    // `size_of::<Header>() + ALIGN - 1` bytes after `base`.
    unsafe {
        let base = std::alloc::alloc(layout);
        if base.is_null() {
            return base;
        }
        let after_header = base.add(size_of::<Header>());
        let block = after_header.add(after_header.align_offset(ALIGN));
        block.cast::<Header>().sub(1).write_unaligned(Header {
            base,
            total,
            size,
            run,
        });
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_whole() {
        for size in [1, 15, 16, 64, 1000, 1 << 20] {
            let block = take(size, 0);
            assert_eq!(block.align_offset(ALIGN), 0);
            // SAFETY: the block and its overrun were just made, and are given back once.
            unsafe {
                ptr::write_bytes(block, 7, size + OVERRUN);
                free(ptr::null_mut(), block.cast());
            }
        }
        assert!(take(usize::MAX, 0).is_null());
        assert!(take(usize::MAX / 2, 0).is_null());
    }

    #[test]
    fn a_run_is_charged_for_what_it_holds_and_not_for_what_it_gave_back() {
        let (_, usage) = metered(1000, || {
            for _ in 0..10 {
                // SAFETY: below the limit nothing is thrown; the block is given back once.
                unsafe {
                    let block = alloc(ptr::null_mut(), 600);
                    free(ptr::null_mut(), block);
                }
            }
        });
        assert_eq!(
            usage,
            Usage {
                peak: 600,
                wanted: None
            }
        );
    }

    #[test]
    fn a_block_that_outlives_a_run_is_not_credited_to_the_next() {
        // SAFETY: as above.
        let (block, _) = metered(1000, || unsafe { alloc(ptr::null_mut(), 400) });
        let (_, usage) = metered(1000, || unsafe {
            let own = alloc(ptr::null_mut(), 300);
            free(ptr::null_mut(), block);
            let other = alloc(ptr::null_mut(), 300);
            free(ptr::null_mut(), own);
            free(ptr::null_mut(), other);
        });
        assert_eq!(usage.peak, 600);
    }
}
