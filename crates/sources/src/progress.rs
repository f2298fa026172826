//! The progress of a pull.

use std::sync::atomic::{AtomicBool, Ordering};

/// Receives the progress of a pull.
pub trait Progress: Send + Sync {
    /// A step begins; `text` names it for people.
    fn step(&self, text: &str);
    /// Bytes of a file that have come, of how many.
    fn bytes(&self, file: &str, done: u64, total: Option<u64>);
    /// A try failed, and there will be another.
    fn retry(&self, text: &str);
    /// Returns whether the pull is to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Reports nothing, and can be stopped.
#[derive(Debug, Default)]
pub struct Silent {
    stop: AtomicBool,
}

impl Silent {
    /// Stops the pull at its next step.
    pub fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn bytes(&self, _: &str, _: u64, _: Option<u64>) {}
    fn retry(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A count of bytes in a unit that people read.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1000.0;
    let mut unit = 0;
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_999, "1.0 MB"),
            (45_600_000, "45.6 MB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
