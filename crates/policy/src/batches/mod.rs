//! OpenAI's files and batches: a file of calls, one JSON object in each line, that run later.
//!
//! # Steps
//!
//! A batch is a chain of *steps*: the check of all lines, then lines, at most 256 at a time, then the writing of the two files of
//! results. Each step is an operation ([`operations`](crate::operations)) with a computed id. So a lease, a fencing token and an end
//! that is committed once protect it, and the host's queue, workers and restart know it as an operation. The next step follows from
//! what is stored with the end of one, which never changes. So every host that looks stores the same next step, and a
//! crash repeats the lines of one step at most.
//!
//! A step that has ended keeps a mark until the next one is stored. A host that starts looks at steps with a mark, so a batch
//! goes on if a host dies between two steps.
//!
//! Requests for the end, and the end of the window, are seen by the step that runs, and are stored with its end.
//!
//! # Entries
//!
//! A file has `h`, its record, `p0`, `p1`, … its parts, `d`, the mark of its deletion, `u`, the counter of the batches over it,
//! and `u1`, `u2`, … their ids. A batch has `h`, its record, `x`, the time of the request for its end, and `n`, the number of its
//! newest step or of an earlier one. `c` and `r` count charges and returns of the place of either. Their index for the sweep is
//! `bx`, that of the steps `bs`. The tenant's counters are `bfu` and `bbu`, the lists `bfn`, `bfl`, `bbn` and `bbl`.

mod entries;
mod files;
mod instance;
pub mod line;
pub mod service;
mod settings;
pub mod slice;
mod step;
mod store;
pub mod words;
mod work;

pub use instance::Batches;
pub use settings::BatchesSettings;
