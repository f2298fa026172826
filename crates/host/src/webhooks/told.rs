//! Logs faults that last once, and not at each attempt that meets them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The present faults, each by its subject.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<String, String>>);

impl Told {
    /// Logs a fault, unless it is the one that was logged last for this subject.
    pub(super) fn wrong(&self, subject: &str, wrong: &str) {
        if self.has_changed(subject, Some(wrong)) {
            tracing::warn!("webhooks: {subject}: {wrong}");
        }
    }

    /// Logs that a subject has no fault any more, if it had one.
    pub(super) fn well(&self, subject: &str) {
        if self.has_changed(subject, None) {
            tracing::info!("webhooks: {subject}: good again");
        }
    }

    /// Keeps the state of a subject. Returns whether it differs from the previous one.
    fn has_changed(&self, subject: &str, wrong: Option<&str>) -> bool {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.get(subject).map(String::as_str) == wrong {
            return false;
        }
        match wrong {
            Some(wrong) => faults.insert(subject.to_owned(), wrong.to_owned()),
            None => faults.remove(subject),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once_until_it_changes() {
        let told = Told::default();
        for (wrong, changed) in [
            (None, false),
            (Some("a"), true),
            (Some("a"), false),
            (Some("b"), true),
            (None, true),
            (None, false),
            (Some("b"), true),
        ] {
            assert_eq!(told.has_changed("x", wrong), changed, "{wrong:?}");
        }
    }
}
