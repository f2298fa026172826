//! The options of one call, and whether calls of a model share runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::time::Instant;

/// The sharing of runs between calls, with the reason or the difference that it makes.
#[derive(Debug, Clone, PartialEq)]
pub enum SharedRuns {
    /// Calls do not share runs, with the reason.
    No(String),
    /// Calls share runs. The value is the difference between answers alone and together in the trials, as a part of the
    /// largest element; `None` if it was not tried.
    Yes(Option<f64>),
}

impl fmt::Display for SharedRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(reason) => write!(f, "calls run one by one: {reason}"),
            Self::Yes(Some(difference)) if *difference > 0.0 => {
                write!(
                    f,
                    "calls share runs, which moves answers by up to {difference:.1e}"
                )
            }
            Self::Yes(_) => f.write_str("calls share runs"),
        }
    }
}

/// The options of a call, beside its inputs.
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// The time at which the answer is no longer of use.
    pub deadline: Option<Instant>,
    /// Its priority; 1 runs first. Without one the model's default applies; a number beyond the model's levels means
    /// the last.
    pub priority: Option<u8>,
    /// Set when the call leaves the queue and begins to run: from then on dropping it saves work only if every other
    /// call of its run is dropped as well.
    pub begun: Option<Arc<AtomicBool>>,
    /// Its rows are separate items, put into one call to save runs. It is refused if rows depend on each other.
    pub is_combined: bool,
}
