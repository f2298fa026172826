//! Panics of a runtime that are answered and not logged: a runtime in Rust panics over an index that a caller sent, and
//! a caller must not be able to fill the log with backtraces.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run` and catches its panic without calling a panic hook.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let ran = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(before);
    ran
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_with_its_message_and_the_thread_is_loud_again() {
        let caught = caught(|| -> () { panic!("index 5") }).expect_err("it panicked");
        assert_eq!(caught.downcast_ref::<&str>(), Some(&"index 5"));
        assert!(!QUIET.get());
        assert_eq!(super::caught(|| 3).ok(), Some(3));
    }
}
