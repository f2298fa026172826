//! The two ways into a gate, as the host calls them.
//!
//! * [`Direct`]: the typed door, `penstock:gate/door`: whole request, whole answer, the cheapest;
//! * [`Http`]: `wasi:http/handler@0.3.0`, as Spin and other hosts call it.
//!
//! Both pass on when a request's answer is due and whether its caller still waits, so that a call in a model's line
//! knows when to give up. Both keep instances for reuse, serve one request at a time in each, and bound their number. In both,
//! an answer waits until what the instance saw of its key-value stores lasts; the instance does not.

mod counts;
mod direct;
mod error;
mod http;
mod settings;

pub use counts::InstanceCounts;
pub use direct::Direct;
pub use error::EntryPointError;
pub use http::Http;
pub use settings::{EntryPointKind, EntryPointSettings, RETAINED_BYTES};

pub use crate::linker::link;
pub use crate::request::EntryPointRequest;
