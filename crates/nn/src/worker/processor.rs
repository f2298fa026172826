//! Keeps the thread of an instance on the processor of the server thread that waits for it.
//!
//! A thread that sleeps on another processor is woken by an interrupt there, which costs more than a short run: 45 µs
//! for an exchange instead of 15. The server's thread waits, so its own processor is free. The server names that
//! processor with each call. The child moves itself there, so a faulty child can move no other thread.

/// The processor of the calling thread, as a call names it: counted from 1, and 0 for any.
pub fn current() -> u32 {
    // SAFETY: the call takes no arguments.
    let at = unsafe { libc::sched_getcpu() };
    u32::try_from(at).map_or(ANY, |at| at + 1)
}

/// No certain processor.
pub const ANY: u32 = 0;

/// The processor on which the calling thread is kept.
pub struct Kept {
    at: u32,
    /// The processors that the thread may use when it is kept on none; `None` if it is never kept on one.
    all: Option<libc::cpu_set_t>,
}

impl Kept {
    /// For the calling thread. `may_move` is false if the runtime starts threads during a run, because these would
    /// inherit the one processor.
    pub fn new(may_move: bool) -> Self {
        Self {
            at: ANY,
            all: may_move.then(allowed).flatten(),
        }
    }

    /// Moves the calling thread to the processor that a call names.
    pub fn follow(&mut self, named: u32) {
        let Some(all) = &self.all else { return };
        if named == self.at {
            return;
        }
        let moved = match named.checked_sub(1) {
            None => allow(all),
            Some(at) => one(at).is_some_and(|one| allow(&one)),
        };
        if moved {
            self.at = named;
        } else {
            // Another program may have changed what is allowed. Leave it at that.
            self.all = None;
        }
    }
}

/// The set of one processor; `None` if the set has no place for it.
fn one(at: u32) -> Option<libc::cpu_set_t> {
    let at = usize::try_from(at).ok()?;
    if at >= 8 * size_of::<libc::cpu_set_t>() {
        return None;
    }
    // SAFETY: zeroes are the empty set, and the set has a place for the processor.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(at, &mut set);
        Some(set)
    }
}

/// The processors that the calling thread may use; `None` on a machine with more than a set has places for.
fn allowed() -> Option<libc::cpu_set_t> {
    // SAFETY: zeroes are the empty set, which the call fills.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives through the call.
    let known = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    (known == 0).then_some(set)
}

fn allow(set: &libc::cpu_set_t) -> bool {
    // SAFETY: the set lives through the call.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count() -> i32 {
        // SAFETY: the set lives through the call.
        allowed().map_or(0, |set| unsafe { libc::CPU_COUNT(&set) })
    }

    #[test]
    fn a_thread_follows_to_the_named_processor_and_is_let_go() {
        let all = count();
        let here = current();
        assert!(here != ANY);
        let mut kept = Kept::new(true);
        kept.follow(here);
        assert_eq!((count(), current()), (1, here));
        kept.follow(ANY);
        assert_eq!(count(), all);
        let mut never = Kept::new(false);
        never.follow(here);
        assert_eq!(count(), all);
    }

    #[test]
    fn a_processor_that_is_not_there_changes_nothing() {
        let all = count();
        for named in [1 + 8 * size_of::<libc::cpu_set_t>() as u32, u32::MAX] {
            let mut kept = Kept::new(true);
            kept.follow(named);
            assert_eq!(count(), all, "{named}");
            kept.follow(current());
            assert_eq!(count(), all, "it is left at that");
        }
    }
}
