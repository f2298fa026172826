//! Memory that server and child share, and the way one wakes the other.
//!
//! A [`Segment`] is a file in memory (`memfd`) that both map. The mapping reserves addresses for [`RESERVED`] bytes, so
//! that the file can grow without a new mapping. The file is sealed against shrinking: a child that shortened it would
//! end the server with SIGBUS.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Addresses a segment reserves, and so the most bytes it holds: as many as a component's memory has.
pub const RESERVED: usize = 1 << 32;

/// Files grow in steps of this size, so that calls of similar size do not grow them one by one.
const STEP: usize = 64 * 1024;

/// Bytes that a segment keeps after a large call; the rest goes back to the system.
const KEPT: usize = 16 << 20;

/// Memory that two processes share.
pub struct Segment {
    file: OwnedFd,
    base: NonNull<u8>,
    /// Bytes that may be touched.
    size: AtomicUsize,
}

// SAFETY: the mapping lives as long as the segment. Which process and thread may touch which bytes when is decided by
// the words of `Header`.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new, empty segment.
    pub fn new() -> io::Result<Arc<Self>> {
        // SAFETY: the name is a C string; the result is checked.
        let file = unsafe {
            libc::memfd_create(
                c"penstock-tensors".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
            )
        };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and only this code owns it.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
        // SAFETY: the descriptor is open.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let segment = Self::map(file)?;
        segment.grow(STEP)?;
        Ok(segment)
    }

    /// The segment behind a descriptor that the other process sent.
    pub fn of(file: OwnedFd) -> io::Result<Arc<Self>> {
        let segment = Self::map(file)?;
        segment.look()?;
        Ok(segment)
    }

    fn map(file: OwnedFd) -> io::Result<Arc<Self>> {
        // SAFETY: a new mapping at an address that the system chooses.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                RESERVED,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base: NonNull<u8> = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        // A core dump would write all of them.
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(base.as_ptr().cast(), RESERVED, libc::MADV_DONTDUMP) };
        Ok(Arc::new(Self {
            file,
            base,
            size: AtomicUsize::new(0),
        }))
    }

    /// The descriptor, for the other process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Notes the size to which the other process has grown the file.
    fn look(&self) -> io::Result<usize> {
        // SAFETY: zeroes are a valid `stat`, which the call fills.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `stat` is writable.
        if unsafe { libc::fstat(self.file.as_raw_fd(), &mut stat) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let size = usize::try_from(stat.st_size).unwrap_or(0).min(RESERVED);
        self.size.store(size, Ordering::Relaxed);
        Ok(size)
    }

    /// Makes room for `bytes`.
    pub fn grow(&self, bytes: usize) -> io::Result<()> {
        if bytes <= self.size.load(Ordering::Relaxed) || bytes <= self.look()? {
            return Ok(());
        }
        let too_large = || io::Error::other("the tensors are larger than a segment may be");
        if bytes > RESERVED {
            return Err(too_large());
        }
        let size = (bytes + bytes / 4).next_multiple_of(STEP).min(RESERVED);
        let length = libc::off_t::try_from(size).map_err(|_| too_large())?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::ftruncate(self.file.as_raw_fd(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Whether `bytes` may be read, after the other process said that it wrote as many.
    pub fn holds(&self, bytes: usize) -> bool {
        bytes <= self.size.load(Ordering::Relaxed) || self.look().is_ok_and(|size| bytes <= size)
    }

    /// A copy of bytes that the other process may still write to; `None` if the segment does not hold them.
    pub fn copy(&self, at: usize, len: usize) -> Option<Vec<u8>> {
        let end = at.checked_add(len)?;
        if !self.holds(end) {
            return None;
        }
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: within the segment, which cannot shrink, and within the capacity. Bytes that change during the copy
        // have their old or their new value.
        unsafe {
            ptr::copy_nonoverlapping(self.base.as_ptr().add(at), bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        Some(bytes)
    }

    /// The address of the first byte.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes that the segment holds, to write to.
    ///
    /// # Safety
    ///
    /// No other thread or process may read or write them while the slice lives.
    #[allow(clippy::mut_from_ref)] // the memory is not the segment's own
    pub unsafe fn bytes_mut(&self, len: usize) -> &mut [u8] {
        let len = len.min(self.size.load(Ordering::Relaxed));
        // SAFETY: within the file, and the caller guarantees the rest.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), len) }
    }

    /// Gives back the memory of a large call. What was in it is gone.
    pub fn release(&self, used: usize) {
        if used <= KEPT {
            return;
        }
        // SAFETY: the descriptor is open; the hole is behind the kept bytes. A failure costs only memory.
        unsafe {
            libc::fallocate(
                self.file.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                KEPT as libc::off_t,
                (RESERVED - KEPT) as libc::off_t,
            )
        };
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the mapping is this segment's, and no slice of it lives.
        unsafe { libc::munmap(self.base.as_ptr().cast(), RESERVED) };
    }
}

/// Bytes of a segment, which live as long as this.
pub struct Slice {
    segment: Arc<Segment>,
    at: usize,
    len: usize,
}

impl Slice {
    /// `len` bytes at `at`; `None` if the segment does not hold them.
    pub fn of(segment: &Arc<Segment>, at: usize, len: usize) -> Option<Self> {
        let end = at.checked_add(len)?;
        segment.holds(end).then(|| Self {
            segment: segment.clone(),
            at,
            len,
        })
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: within the segment, which cannot shrink. The side that lends a slice out writes to the segment again
        // only after the slice is gone.
        unsafe { std::slice::from_raw_parts(self.segment.base().add(self.at), self.len) }
    }
}

/// Offset of tensors in an instance's first segment; before it is the [`Header`].
pub const BODY: usize = 4096;

/// The words by which the two sides of an instance talk, at the beginning of its first segment.
#[repr(C)]
pub struct Header {
    /// The number of the last call. The server writes, the child waits for a change.
    pub call: AtomicU32,
    /// The number of the last call that was answered, or [`GONE`]. The child writes, the server waits for a change.
    pub done: AtomicU32,
    /// Counts runs that may be interrupted.
    pub run: AtomicU32,
    /// The run that was interrupted last.
    pub interrupted: AtomicU32,
    /// Bytes of the call, behind [`BODY`].
    pub call_bytes: AtomicU64,
    /// Bytes of the answer.
    pub answer_bytes: AtomicU64,
    /// The number of the segment that the answer is to be in.
    pub answer_in: AtomicU32,
    /// Whether the server sleeps until `done` changes.
    pub server_sleeps: AtomicU32,
    /// Whether the child sleeps until `call` changes.
    pub child_sleeps: AtomicU32,
    /// The instance is not needed any more.
    pub end: AtomicU32,
    /// The number of the child's thread.
    pub thread: AtomicU32,
}

/// The value of `done` when the child is gone. No call has this number.
pub const GONE: u32 = 0;

impl Header {
    /// The header of an instance's first segment.
    pub fn of(segment: &Segment) -> &Self {
        // SAFETY: the segment is mapped at a page's beginning and holds at least one step; atomics may be shared, and
        // every bit pattern is a valid one.
        unsafe { &*segment.base().cast::<Self>() }
    }
}

/// Waits until `word` is not `value` any more, at most so long. May come back early.
pub fn wait(word: &AtomicU32, value: u32, at_most: Duration) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    // SAFETY: word and time live through the call. Not private: the word is in memory of two processes.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            &time,
        )
    };
}

/// Wakes those that wait for `word`.
pub fn wake(word: &AtomicU32) {
    // SAFETY: the word lives through the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Decides whether a thread spins before it sleeps. If the other side's changes come later than [`SPIN`], spinning
/// would only take processor time from it. So the thread stops after some useless tries, and tries again now and then.
#[derive(Debug, Default)]
pub struct Looks {
    in_vain: AtomicU32,
}

impl Looks {
    /// Useless spins after which a thread sleeps at once.
    const MOST_IN_VAIN: u32 = 4;

    /// The number of waits after which a thread that sleeps at once spins again. The cost is below one part in a
    /// hundred of such a wait, and a side that becomes quick is noticed soon.
    const TRY_AGAIN: u32 = 64;

    /// Whether the next wait begins with looking.
    pub fn next(&self) -> bool {
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        in_vain < Self::MOST_IN_VAIN || in_vain.is_multiple_of(Self::TRY_AGAIN)
    }

    /// Takes note of a wait: whether it was over before the thread slept.
    pub fn note(&self, found: bool) {
        let in_vain = if found {
            0
        } else {
            self.in_vain.load(Ordering::Relaxed).wrapping_add(1).max(1)
        };
        self.in_vain.store(in_vain, Ordering::Relaxed);
    }
}

/// Waits until `word` is not `value`: first looks again and again for [`SPIN`], giving way to others in between, where
/// `looks` says that this pays; then sleeps. `sleeps` tells the other side whether it has to wake this one. False where
/// `at_most` has passed.
pub fn await_change(
    word: &AtomicU32,
    value: u32,
    sleeps: &AtomicU32,
    looks: &Looks,
    at_most: Duration,
) -> bool {
    let changed = || word.load(Ordering::Acquire) != value;
    if changed() {
        return true;
    }
    let began = std::time::Instant::now();
    if looks.next() {
        while began.elapsed() < SPIN.min(at_most) {
            std::thread::yield_now();
            if changed() {
                looks.note(true);
                return true;
            }
        }
    }
    looks.note(false);
    sleeps.store(1, Ordering::SeqCst);
    let mut there = word.load(Ordering::SeqCst) != value;
    while !there {
        let Some(left) = at_most.checked_sub(began.elapsed()) else {
            break;
        };
        wait(word, value, left);
        there = changed();
    }
    sleeps.store(0, Ordering::SeqCst);
    there
}

/// Announces that `word` has changed, and wakes the other side if it sleeps.
pub fn announce(word: &AtomicU32, value: u32, sleeps: &AtomicU32) {
    word.store(value, Ordering::SeqCst);
    if sleeps.load(Ordering::SeqCst) != 0 {
        wake(word);
    }
}

/// The time that a thread spins before it sleeps. The run of a very small model is over by then, and the wake-up of a
/// sleeping thread is saved.
pub(crate) const SPIN: Duration = Duration::from_micros(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_mapping_writes_the_other_reads_also_after_it_grew() {
        let ours = Segment::new().unwrap();
        let theirs = Segment::of(ours.fd().try_clone_to_owned().unwrap()).unwrap();
        let far = 3 << 20;
        assert!(!theirs.holds(far));
        ours.grow(far).unwrap();
        // SAFETY: one thread, one slice at a time.
        let bytes = unsafe { ours.bytes_mut(far) };
        bytes[far - 1] = 7;
        assert!(theirs.holds(far));
        let slice = Slice::of(&theirs, far - 1, 1).unwrap();
        assert_eq!(slice.as_ref(), [7]);
        assert!(Slice::of(&theirs, usize::MAX, 2).is_none());
        assert!(Slice::of(&theirs, 1 << 31, 1).is_none());
    }

    #[test]
    fn a_thread_stops_looking_where_that_is_in_vain_and_begins_again_where_it_is_not() {
        let looks = Looks::default();
        let mut looked = 0;
        for _ in 0..1000 {
            looked += u32::from(looks.next());
            looks.note(false);
        }
        let most = Looks::MOST_IN_VAIN + 1000 / Looks::TRY_AGAIN;
        assert!((most - 1..=most + 1).contains(&looked), "{looked}");
        while !looks.next() {
            looks.note(false);
        }
        looks.note(true);
        assert!((0..Looks::MOST_IN_VAIN).all(|_| {
            let looked = looks.next();
            looks.note(false);
            looked
        }));
        assert!(!looks.next());
        let worn = Looks {
            in_vain: AtomicU32::new(u32::MAX),
        };
        worn.note(false);
        assert!(worn.next(), "the count goes on from its start");
    }

    #[test]
    fn a_copy_holds_what_the_segment_holds_and_no_more() {
        let segment = Segment::new().unwrap();
        // SAFETY: one thread, one slice at a time.
        unsafe { segment.bytes_mut(8) }.copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(segment.copy(2, 3), Some(vec![3, 4, 5]));
        assert_eq!(segment.copy(1 << 31, 1), None);
        assert_eq!(segment.copy(usize::MAX, 2), None);
    }

    #[test]
    fn a_segment_cannot_be_shortened() {
        let segment = Segment::new().unwrap();
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::ftruncate(segment.fd().as_raw_fd(), 0) }, -1);
        assert!(segment.grow(RESERVED + 1).is_err());
    }

    #[test]
    fn the_memory_of_a_large_call_goes_back() {
        let segment = Segment::new().unwrap();
        let large = 4 * KEPT;
        segment.grow(large).unwrap();
        // SAFETY: one thread, one slice at a time.
        unsafe { segment.bytes_mut(large) }.fill(1);
        let blocks = || {
            // SAFETY: zeroes are a valid `stat`, which the call fills.
            let mut stat: libc::stat = unsafe { std::mem::zeroed() };
            // SAFETY: the descriptor is open and `stat` is writable.
            assert_eq!(
                unsafe { libc::fstat(segment.fd().as_raw_fd(), &mut stat) },
                0
            );
            stat.st_blocks as usize * 512
        };
        assert!(blocks() >= large);
        segment.release(large);
        assert!(blocks() <= KEPT);
    }

    #[test]
    fn a_sleeper_is_woken_and_returns_after_its_time_without_a_wake_up() {
        let segment = Segment::new().unwrap();
        let header = Header::of(&segment);
        let long = Duration::from_secs(20);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                announce(&header.call, 1, &header.child_sleeps);
            });
            assert!(await_change(
                &header.call,
                0,
                &header.child_sleeps,
                &Looks::default(),
                long
            ));
        });
        let short = Duration::from_millis(20);
        assert!(!await_change(
            &header.call,
            1,
            &header.child_sleeps,
            &Looks::default(),
            short
        ));
    }
}
