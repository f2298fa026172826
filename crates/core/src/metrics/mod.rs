//! The metrics of a server: what is counted, within which bounds, and how it is written for Prometheus.
//!
//! * [`families`]: the name, type, unit, labels and meaning of every family;
//! * [`histogram`]: buckets, which are the same in every build, so that the histograms of several servers add up;
//! * [`table`]: counters by label values, with a bound on their number;
//! * [`requests`]: the counters of requests; [`models`]: the counters of models;
//! * [`process`]: the facts of a process from `/proc`;
//! * [`note`]: the facts that the gate tells the server about a request;
//! * [`text`]: the text formats of Prometheus and OpenMetrics.
//!
//! Counting takes no lock and, once a combination of label values was seen, no memory. Nothing here does input or output.

pub mod families;
pub mod histogram;
pub mod models;
pub mod note;
pub mod process;
pub mod requests;
pub mod table;
pub mod text;

pub use histogram::{Bounds, Distribution, Histogram};
pub use note::Seen;
pub use requests::{CacheResult, Observed, Requests};
pub use text::{Format, Text};
