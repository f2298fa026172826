//! The options of dynamic batching: which calls may share a run, and how long a call may wait for others.

use std::collections::BTreeMap;
use std::time::Duration;

/// Default of [`DynamicBatching::max_items`]: items of a run. On a processor larger runs gain nothing and delay the calls in
/// them.
pub const MAX_ITEMS: u32 = 32;

/// Default of [`DynamicBatching::max_queue_delay`]: 5 ms. This is the maximum; the actual delay adapts, starting from none.
pub const MAX_WAIT: Duration = Duration::from_millis(5);

/// Default of [`DynamicBatching::max_bytes`], 64 MiB: most bytes of the inputs of a run that several calls share.
pub const MAX_BYTES: u64 = 64 << 20;

/// Default of [`Padding::max_tokens`]: as many as 32 sentences of 256 tokens have.
pub const MAX_TOKENS: u64 = 8192;

/// The options of dynamic batching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicBatching {
    /// Most items of a shared run.
    pub max_items: u32,
    /// Most bytes of a shared run's inputs.
    pub max_bytes: u64,
    /// The longest time for which a call waits for others.
    pub max_queue_delay: Duration,
    /// The batch sizes that a run should have, ascending.
    pub preferred: Vec<u32>,
    /// The target for the latency: batches shrink if a run and its queue delay take longer.
    pub target: Option<Duration>,
    /// The axis in which calls may differ in length.
    pub padding: Option<Padding>,
    /// Whether calls share runs at all. If not, the facts about the model's rows still decide about the items of one
    /// call.
    pub shares: bool,
    /// Whether runs may be shared although the answer to an item then depends on the others.
    pub allow_dependent_rows: bool,
    /// Whether a shared run must give every answer to the last bit. Otherwise it may differ by
    /// [`crate::model::MAX_DIFFERENCE`].
    pub exact: bool,
}

impl Default for DynamicBatching {
    fn default() -> Self {
        Self {
            max_items: MAX_ITEMS,
            max_bytes: MAX_BYTES,
            max_queue_delay: MAX_WAIT,
            preferred: Vec::new(),
            target: None,
            padding: None,
            shares: true,
            allow_dependent_rows: false,
            exact: true,
        }
    }
}

/// An axis that is padded to the longest call of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding {
    /// The padded axis and the padding element as bytes, by input.
    pub inputs: BTreeMap<String, (usize, Vec<u8>)>,
    /// The padded axis, by output.
    pub outputs: BTreeMap<String, usize>,
    /// Most elements along the axis in one run: items times the longest.
    pub max_tokens: u64,
}
