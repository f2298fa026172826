//! Keeps the thread of an instance on the processor of the server thread that waits for it.
//!
//! A thread that sleeps on another processor is woken by an interrupt there, which costs more than a short run: 45 µs
//! for an exchange instead of 15. The server's thread waits, so its own processor is most likely free. The thread of the
//! instance sleeps when it is moved, which is cheap; one that runs would have to be stopped first.

use std::path::Path;

/// The processor of the calling thread.
pub fn current() -> Option<usize> {
    // SAFETY: the call takes no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// A thread of a child, and the processor on which it is kept.
pub struct PinnedThread {
    thread: libc::pid_t,
    at: Option<usize>,
    /// The processors that the thread may use when it is kept on none.
    all: libc::cpu_set_t,
}

impl PinnedThread {
    /// A thread of the process `pid`. The child gave its number, so it is looked up among the threads of that process: a
    /// faulty child must not move threads of others. `None` if it is not there, or cannot be moved on this machine.
    pub fn new(pid: u32, thread: u32) -> Option<Self> {
        let is_there = Path::new(&format!("/proc/{pid}/task/{thread}")).exists();
        let thread = libc::pid_t::try_from(thread).ok().filter(|_| is_there)?;
        Some(Self {
            thread,
            at: None,
            all: allowed(thread)?,
        })
    }

    /// Moves the thread to a processor, or lets it use all again. False if the system refuses: then it may use all, and
    /// should not be moved again.
    pub fn follow(&mut self, named: Option<usize>) -> bool {
        if named == self.at {
            return true;
        }
        if self.at.is_none() {
            // Another program may have changed what is allowed.
            match allowed(self.thread) {
                Some(all) => self.all = all,
                None => return false,
            }
        }
        let set = match named {
            None => self.all,
            Some(at) => match self.one(at) {
                Some(one) => one,
                // The thread may not go there.
                None => return self.at.is_none() || self.follow(None),
            },
        };
        if allow(self.thread, &set) {
            self.at = named;
            return true;
        }
        allow(self.thread, &self.all);
        false
    }

    /// The set of one processor, if the thread may use it.
    fn one(&self, at: usize) -> Option<libc::cpu_set_t> {
        if at >= 8 * size_of::<libc::cpu_set_t>() {
            return None;
        }
        // SAFETY: zeroes are the empty set, and the sets have a place for the processor.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(at, &mut set);
            libc::CPU_ISSET(at, &self.all).then_some(set)
        }
    }
}

/// The processors that a thread may use; `None` if it is gone, or on a machine with more than a set has places for.
fn allowed(thread: libc::pid_t) -> Option<libc::cpu_set_t> {
    // SAFETY: zeroes are the empty set, which the call fills.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives through the call.
    let known = unsafe { libc::sched_getaffinity(thread, size_of::<libc::cpu_set_t>(), &mut set) };
    (known == 0).then_some(set)
}

fn allow(thread: libc::pid_t, set: &libc::cpu_set_t) -> bool {
    // SAFETY: the set lives through the call.
    unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), set) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calling thread, and the number of processors that it may use.
    fn this() -> (PinnedThread, impl Fn() -> i32) {
        // SAFETY: the call takes no arguments.
        let thread = unsafe { libc::gettid() };
        let kept =
            PinnedThread::new(std::process::id(), thread.cast_unsigned()).expect("it is there");
        // SAFETY: the set lives through the call.
        let count = move || allowed(thread).map_or(0, |set| unsafe { libc::CPU_COUNT(&set) });
        (kept, count)
    }

    #[test]
    fn a_thread_is_moved_to_the_named_processor_and_let_go() {
        let (mut kept, count) = this();
        let (all, here) = (count(), current());
        assert!(here.is_some());
        assert!(kept.follow(here));
        assert_eq!((count(), current()), (1, here));
        assert!(kept.follow(None));
        assert_eq!(count(), all);
    }

    #[test]
    fn a_processor_that_the_thread_may_not_use_changes_nothing() {
        let (mut kept, count) = this();
        let all = count();
        for named in [8 * size_of::<libc::cpu_set_t>() - 1, usize::MAX] {
            assert!(kept.follow(Some(named)));
            assert_eq!(count(), all, "{named}");
            assert!(kept.follow(current()));
            assert!(kept.follow(Some(named)));
            assert_eq!(count(), all, "{named}, when it was kept on another");
        }
    }

    #[test]
    fn a_thread_of_another_process_is_not_taken() {
        // SAFETY: the call takes no arguments.
        let ours = unsafe { libc::gettid() }.cast_unsigned();
        assert!(PinnedThread::new(1, ours).is_none());
        assert!(PinnedThread::new(std::process::id(), 1).is_none());
        assert!(PinnedThread::new(std::process::id(), u32::MAX).is_none());
    }
}
