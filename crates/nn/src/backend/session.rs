//! The traits that a runtime implements: a [`Backend`] loads a graph, a [`Session`] is the loaded graph, and an
//! [`Instance`] runs one call at a time.

use std::path::PathBuf;
use std::sync::Arc;

use super::cost::Cost;
use super::options::{GraphSource, LoadOptions};
use super::port::Port;
use super::rows::Rows;
#[cfg(doc)]
use super::versions;
use super::versions::Reads;
use crate::error::NnError;
use crate::tensor::NnTensor;

/// A runtime that loads graphs.
pub trait Backend: Send + Sync {
    /// The name `model.toml` knows it by.
    fn name(&self) -> &'static str;

    /// The version that the runtime states, for logs.
    fn version(&self) -> String;

    /// The versions of ONNX it reads; `None` for a test backend that reads every graph. Asked only of graphs for which
    /// [`versions::is_recent`] holds, because the answer may take time.
    fn reads(&self) -> Option<Reads> {
        None
    }

    /// Returns whether its graphs lie in the memory of this process, so that the process' own account shows the memory of a
    /// load.
    fn loads_into_this_process(&self) -> bool {
        false
    }

    /// Returns whether a run of a graph that is loaded with these options does all its work on the thread that calls it, and
    /// starts no threads, which would inherit the processors of that thread.
    fn runs_on_calling_thread(&self, _options: &LoadOptions) -> bool {
        false
    }

    /// The file of the runtime, if it is not built in.
    fn library(&self) -> Option<PathBuf> {
        None
    }

    /// Reads and optimises a graph. Blocks, for seconds if the graph is large.
    ///
    /// # Errors
    ///
    /// The reason that the runtime cannot load the graph, without a path.
    fn load(&self, graph: &GraphSource, options: &LoadOptions)
    -> Result<Arc<dyn Session>, NnError>;
}

/// A graph that was loaded: weights and plans, shared by every instance.
pub trait Session: Send + Sync {
    /// The inputs, in the graph's order.
    fn inputs(&self) -> &[Port];

    /// The outputs, in the graph's order, without those that [`LoadOptions::outputs`] leaves out.
    fn outputs(&self) -> &[Port];

    /// Returns whether the graph has a value for this input, so that a run may leave it out ([`NnTensor::is_absent`]).
    fn has_default(&self, _input: usize) -> bool {
        false
    }

    /// Makes an instance: the memory that one call at a time needs beside the weights.
    fn instance(&self) -> Result<Box<dyn Instance>, NnError>;

    /// The property that the time of a run depends on. Short runs may happen on a server thread, in a guest's fiber,
    /// only if no values are part of it. A run that can become long and deep, such as compiling the graph again, must
    /// not happen there.
    fn cost(&self) -> Cost {
        Cost::default()
    }

    /// The dependence of the answer to an item on the other items of its run. Only independent rows may share a run.
    fn rows(&self) -> Rows {
        Rows::default()
    }

    /// Bytes that the loaded graph holds, if the runtime tells them; otherwise the memory of its process is measured.
    fn memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Returns whether runs happen in another process.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// The reason that no call would be answered now, because the process that runs the graph ended and will not be
    /// back soon.
    fn refuses(&self) -> Option<String> {
        None
    }

    /// The process that runs the graph, if it is not this one.
    #[cfg(feature = "native")]
    fn process(&self) -> Option<ProcessStats> {
        None
    }
}

/// An instance of a loaded graph. It runs one call at a time.
pub trait Instance: Send {
    /// Runs the graph, and blocks until the run has ended.
    ///
    /// `inputs` has one tensor for each port, in the ports' order, of the port's type and rank, and with as many bytes
    /// as its shape needs; the model has checked that. An absent tensor belongs to an input with a default. The answer
    /// has one tensor for each output port, in that order, and an absent tensor for an optional output without a value.
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError>;

    /// Hands a run to its process, and waits for at most `at_most`. True if [`Instance::run`] on the same inputs, which
    /// must be called next, returns at once or runs on the calling thread. False if it waits for another process. If
    /// this was false before anything was handed over, `run` need not be called next.
    fn begin(&mut self, inputs: &[NnTensor], at_most: std::time::Duration) -> bool {
        let _ = (inputs, at_most);
        true
    }

    /// Returns whether the last run waited for its process to be started again, so that its time proves nothing about the
    /// model.
    fn waited(&self) -> bool {
        false
    }

    /// The handle that ends a run of this instance from another thread, if the runtime has one. Asked for once, when
    /// the instance is made.
    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        None
    }
}

/// Ends an instance's run early.
pub trait Interrupt: Send + Sync {
    /// Ends the instance's run that is under way or about to begin, with an error and soon. May come at any time.
    fn interrupt(&self);

    /// Forgets an interrupt that came too late for the run it was meant for. Called before each run that may be
    /// ended early; a run does not do it by itself, or it would forget one that came just before it.
    fn reset(&self);

    /// Ends a run that continues after [`Interrupt::interrupt`], at the cost of its process. False if that is this
    /// process; then nothing was done.
    fn kill(&self) -> bool {
        false
    }
}

/// The state of a process that runs a graph.
#[cfg(feature = "native")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStats {
    /// The process number, while there is a process.
    pub pid: Option<u32>,
    /// The reason that no process answers at the moment.
    pub down: Option<String>,
    /// The number of times that a process ended unexpectedly.
    pub crashes: u64,
    /// The number of times that a process was started again.
    pub restarts: u64,
    /// Private memory that it holds.
    pub resident_bytes: Option<u64>,
}
