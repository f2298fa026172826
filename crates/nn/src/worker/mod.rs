//! Models whose engines run in separate processes, so that a crash, a hang or a memory leak of a native runtime costs
//! only the calls of one model version.
//!
//! Decisions:
//!
//! - **One child for each loaded version.** [`Isolated`] wraps a backend. Its `load` starts this program again
//!   ([`Launcher`]) and has the child load the graph. Queues, shared runs, deadlines and counts stay in the server.
//! - **Tensors go through shared memory** ([`shared`]), and a word in it announces a call. Large outputs are lent to
//!   the caller from the place where the child wrote them.
//! - **A thread of the server waits for each child.** When a child ends, its running calls fail at once with
//!   [`EngineRefusal::Ended`](crate::EngineRefusal::Ended). The child is started again after a wait that doubles
//!   ([`restart`]), and calls that waited meanwhile run then.
//! - **A run that does not end is ended with its process**, so no thread is lost to it.
//! - **The server's thread waits for a short run itself**, for at most [`crate::model::INLINE_BUDGET`]. After that
//!   another thread waits. So even a stopped child blocks a server thread no longer than that.
//! - **The child is bound to its server**: it is sent SIGKILL when the server dies, and ends when its socket closes. It
//!   has its own process group and ignores SIGINT, SIGTERM and SIGHUP, so that a signal for all processes of the server
//!   does not end it before the server has drained.
//! - **The child has minimal rights**: a reduced environment, no descriptors except the socket, no new privileges, no
//!   core dump, a limit on its private memory.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::backend::{Backend, ONNXRUNTIME, OPENVINO, tract};
use crate::error::NnError;

mod answers;
mod child;
mod control;
mod instance;
mod launcher;
mod parent;
mod process;
mod processor;
pub mod restart;
mod shared;
mod spawn;
mod status;
mod wire;

pub use crate::backend::ProcessStats;
pub use child::{Find, run};
pub use launcher::Launcher;
pub use parent::{ChildOptions, Isolated};

/// The backends that are built in or come from a library.
///
/// # Errors
///
/// When the library cannot be loaded, and `NotFound` for a backend of another name.
pub fn find(name: &str, library: Option<&Path>) -> Result<Arc<dyn Backend>, NnError> {
    use crate::backend::{onnxruntime::OnnxRuntime, openvino::OpenVino};
    match (name, library) {
        (tract::NAME, _) => Ok(Arc::new(tract::Tract)),
        (ONNXRUNTIME, Some(path)) => Ok(OnnxRuntime::load(path)?),
        (OPENVINO, Some(path)) => Ok(OpenVino::load(path)?),
        _ => Err(NnError::not_found(format!(
            "a process of its own cannot load backend {name:?}"
        ))),
    }
}

/// Serves as a child of a server, with the backends of [`find`].
pub fn main() -> ExitCode {
    run(&find)
}
