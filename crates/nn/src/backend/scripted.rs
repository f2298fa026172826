//! A backend that follows a test's script: it answers, waits, fails or panics, call by call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::cost::Cost;
use super::options::{GraphSource, LoadOptions};
use super::port::{Dim, Port, PortType};
use super::rows::Rows;
use super::session::{Backend, Instance, Interrupt, Session};
use crate::error::NnError;
use crate::tensor::{NnTensor, TensorType};

/// The name of the backend.
pub const NAME: &str = "scripted";

/// The behaviour of one call.
pub enum Step {
    /// Answers with its inputs, in their order.
    Echo,
    /// Keeps its instance busy for so long, then goes on.
    Delay(Duration, Box<Step>),
    /// Answers with these, one an output port.
    Answer(Vec<NnTensor>),
    /// Fails with this error.
    Fail(NnError),
    /// Panics with this message.
    Panic(&'static str),
    /// Runs until it is ended early, or for as long as [`PATIENCE`].
    UntilInterrupted,
    /// Keeps its instance busy for so long without obeying interrupts, then fails.
    Deaf(Duration),
}

/// Longest a run waits to be ended early; only a test that fails reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Script = dyn Fn(usize, &[NnTensor]) -> Step + Send + Sync;

/// A backend whose every graph has the same ports and runs the same script.
#[derive(Clone)]
pub struct Scripted {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    script: Arc<Script>,
    calls: Arc<AtomicUsize>,
    loads: Result<(), NnError>,
    cost: Cost,
    rows: Rows,
}

impl Scripted {
    /// One input `x` and one output `y`, both FP32 of shape `[N]`; `script` is given the number of the call
    /// (from 0, warm-up included) and its inputs, and may itself block the instance.
    pub fn new(script: impl Fn(usize, &[NnTensor]) -> Step + Send + Sync + 'static) -> Self {
        let port = |name: &str| Port {
            name: name.into(),
            ty: PortType::Tensor(TensorType::Fp32),
            dims: Some(vec![Dim::Symbolic("N".into())]),
        };
        Self {
            inputs: vec![port("x")],
            outputs: vec![port("y")],
            script: Arc::new(script),
            calls: Arc::default(),
            loads: Ok(()),
            cost: Cost::Shapes,
            rows: Rows::Independent,
        }
    }

    /// Answers every call with its input.
    pub fn echo() -> Self {
        Self::new(|_, _| Step::Echo)
    }

    /// The same script behind other ports.
    #[must_use]
    pub fn with_ports(mut self, inputs: Vec<Port>, outputs: Vec<Port>) -> Self {
        self.inputs = inputs;
        self.outputs = outputs;
        self
    }

    /// The same with another cost.
    #[must_use]
    pub fn costing(mut self, cost: Cost) -> Self {
        self.cost = cost;
        self
    }

    /// The same with rows of which this is known.
    #[must_use]
    pub fn with_rows(mut self, rows: Rows) -> Self {
        self.rows = rows;
        self
    }

    /// Fails to load any graph.
    #[must_use]
    pub fn failing_to_load(mut self, error: NnError) -> Self {
        self.loads = Err(error);
        self
    }

    /// Calls that reached the backend so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Backend for Scripted {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        "1".into()
    }

    fn runs_on_calling_thread(&self, options: &LoadOptions) -> bool {
        options.intra_op_threads <= 1
    }

    fn load(
        &self,
        _graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        self.loads.clone()?;
        let mut session = self.clone();
        super::options::select_outputs(&mut session.outputs, options)?;
        Ok(Arc::new(session))
    }
}

impl Session for Scripted {
    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn cost(&self) -> Cost {
        self.cost.clone()
    }

    fn rows(&self) -> Rows {
        self.rows.clone()
    }

    fn instance(&self) -> Result<Box<dyn Instance>, NnError> {
        Ok(Box::new(ScriptedInstance {
            script: self.clone(),
            stop: Arc::default(),
        }))
    }
}

/// A flag that ends a run, and the signal that wakes it.
#[derive(Default)]
struct Stop(Mutex<bool>, Condvar);

impl Interrupt for Stop {
    fn interrupt(&self) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.1.notify_all();
    }

    fn reset(&self) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = false;
    }
}

struct ScriptedInstance {
    script: Scripted,
    stop: Arc<Stop>,
}

impl Instance for ScriptedInstance {
    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.stop.clone())
    }

    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let stopped = || self.stop.0.lock().unwrap_or_else(|e| e.into_inner());
        let call = self.script.calls.fetch_add(1, Ordering::SeqCst);
        let mut step = (self.script.script)(call, inputs);
        loop {
            step = match step {
                Step::Echo => return Ok(inputs.to_vec()),
                Step::Delay(time, next) => {
                    std::thread::sleep(time);
                    *next
                }
                Step::Answer(outputs) => return Ok(outputs),
                Step::Fail(error) => return Err(error),
                Step::Panic(message) => panic!("{message}"),
                Step::Deaf(time) => {
                    std::thread::sleep(time);
                    return Err(NnError::runtime("nobody could end it"));
                }
                Step::UntilInterrupted => {
                    let (ended, _) = (self.stop.1)
                        .wait_timeout_while(stopped(), PATIENCE, |stopped| !*stopped)
                        .unwrap_or_else(|e| e.into_inner());
                    let how = if *ended {
                        "was ended early"
                    } else {
                        "was never ended"
                    };
                    return Err(NnError::runtime(how));
                }
            };
        }
    }
}
