//! The two entry points of a gate, as the host calls them.
//!
//! * [`Direct`]: the typed entry point `penstock:gate/door`: whole request, whole answer, the cheapest;
//! * [`Http`]: `wasi:http/handler@0.3.0`, as Spin and other hosts call it.
//!
//! Both pass on the deadline of a request and its cancellation, so that a call in a model's queue knows when to stop.
//! Both keep instances for reuse, serve one request at a time in each, and bound their number. In both, an answer waits
//! until the entries that the instance saw in its key-value stores are durable. The instance does not wait.

mod counts;
mod direct;
mod error;
mod http;
mod settings;

pub use counts::InstanceCounts;
pub use direct::Direct;
pub use error::EntryPointError;
pub use http::Http;
pub use settings::{EntryPointSettings, RETAINED_BYTES};

pub use crate::linker::link;
pub use crate::request::EntryPointRequest;
pub use penstock_app::EntryPointKind;
