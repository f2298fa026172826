//! Sessions and their instances: one run of a compiled graph, and its early end.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use openvino_sys as ov;
use openvino_sys::ov_status_e as Status;

use super::attempt::Attempt;
use super::compiled::{Compiled, Graph, OneOf};
use super::handles::{Request, Tensor, check, lock};
use super::tensors::{read, within_32_bits};
use crate::backend::cost::Cost;
use crate::backend::port::Port;
use crate::backend::rows::Rows;
use crate::backend::session::{Instance, Interrupt, Session};
use crate::error::{ErrorCode, NnError};
use crate::tensor::NnTensor;

/// Bytes of outputs above which an instance makes a new request, so that the memory of one large run is given back.
/// Making one takes about a millisecond, and computing so many bytes far longer.
const KEPT_OUTPUT_BYTES: usize = 32 << 20;

/// The number of times a call is run if other calls spoil the compiled model it runs on. Each try is on a new one. To
/// use them all up, several callers would have to send failing inputs within each of its runs.
const MAX_TRIES: usize = 3;

/// A graph that OpenVINO has loaded.
pub struct OvSession(pub Arc<Graph>);

impl Session for OvSession {
    fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    fn rows(&self) -> Rows {
        self.0.rows.clone()
    }

    fn cost(&self) -> Cost {
        match self.0.open_shapes {
            true => Cost::Values("a run that fails on open shapes compiles the graph again".into()),
            false => self.0.cost.clone(),
        }
    }

    fn instance(&self) -> Result<Box<dyn Instance>, NnError> {
        let compiled = self.0.current()?;
        Ok(Box::new(OvInstance {
            request: compiled.request()?,
            compiled,
            graph: self.0.clone(),
            progress: Arc::new(Switch(Mutex::new(Progress::Idle))),
        }))
    }
}

struct OvInstance {
    /// Declared before the compiled model, so that it is dropped first.
    request: Request,
    compiled: Arc<Compiled>,
    graph: Arc<Graph>,
    progress: Arc<Switch>,
}

// SAFETY: the request is used by its instance, one call at a time. From other threads it is only cancelled, which
// ov::InferRequest allows while it runs; see `Progress`.
unsafe impl Send for OvInstance {}

/// The switch that ends an instance's run early.
struct Switch(Mutex<Progress>);

/// The progress of an instance's run.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Idle,
    /// The instance prepares its run, or it is too early to end it.
    Begun,
    /// The library runs this request, which lives until the instance says that it is idle.
    Started(*mut ov::ov_infer_request_t),
    /// The run is to end.
    Ended,
}

// SAFETY: the pointer is used only under the switch's lock, while the instance waits for the request.
unsafe impl Send for Progress {}

impl Interrupt for Switch {
    fn interrupt(&self) {
        let mut progress = lock(&self.0);
        match *progress {
            // The instance looks before it begins, and again before it waits.
            Progress::Idle | Progress::Begun | Progress::Ended => *progress = Progress::Ended,
            Progress::Started(request) => {
                *progress = Progress::Ended;
                // SAFETY: the request is live and runs. An error would mean that it has just ended.
                unsafe { ov::ov_infer_request_cancel(request) };
            }
        }
    }

    fn reset(&self) {
        *lock(&self.0) = Progress::Idle;
    }
}

/// The stage at which a run failed.
enum RunError {
    /// The run was not started.
    Refused(NnError),
    /// The run failed under way.
    Failed(NnError),
}

impl Instance for OvInstance {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let graph = self.graph.clone();
        if inputs.len() != graph.inputs.len() {
            return Err(NnError::invalid(format!(
                "the graph takes {} inputs and {} were given",
                graph.inputs.len(),
                inputs.len()
            )));
        }
        for guard in &graph.guards {
            guard.check(&graph.inputs, inputs)?;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let current = graph.current()?;
            if !Arc::ptr_eq(&current, &self.compiled) {
                self.request = current.request()?;
                self.compiled = current;
            }
            {
                let mut progress = lock(&self.progress.0);
                if *progress == Progress::Ended {
                    return Err(NnError::runtime("the run was ended early"));
                }
                *progress = Progress::Begun;
            }
            let compiled = self.compiled.clone();
            let one = OneOf::begin(&compiled);
            let outcome = self.start(inputs);
            let alone = one.was_alone();
            drop(one);
            let ended = {
                let mut progress = lock(&self.progress.0);
                std::mem::replace(&mut *progress, Progress::Idle) == Progress::Ended
            };
            let spoilt = || graph.open_shapes && self.compiled.spoilt.load(Ordering::SeqCst);
            match outcome {
                Err(RunError::Refused(error)) => return Err(error),
                Err(RunError::Failed(_)) if ended => {
                    graph.renew(&self.compiled)?;
                    return Err(NnError::runtime("the run was ended early"));
                }
                // Another call's failure may be the reason.
                Err(RunError::Failed(_)) | Ok(()) if spoilt() && tries < MAX_TRIES => {}
                // The other call may have failed first and not have said so yet.
                Err(RunError::Failed(_)) if graph.open_shapes && !alone && tries < MAX_TRIES => {
                    graph.renew(&self.compiled)?;
                }
                Err(RunError::Failed(error)) => {
                    graph.renew(&self.compiled)?;
                    return Err(error);
                }
                Ok(()) => {
                    let mut left = graph.most_bytes;
                    let outputs: Result<Vec<NnTensor>, NnError> =
                        (graph.outputs.iter().zip(&graph.output_at))
                            .map(|(port, index)| {
                                read(&self.request, *index, port, graph.most_bytes, &mut left)
                            })
                            .collect();
                    // A request holds its outputs until its next run. The CPU plugin holds the run's intermediate
                    // values as long as the compiled model exists.
                    if outputs.is_err() && graph.open_shapes {
                        graph.renew(&self.compiled)?;
                        self.compiled = graph.current()?;
                    }
                    if outputs.is_err() || graph.most_bytes - left > KEPT_OUTPUT_BYTES {
                        self.request = self.compiled.request()?;
                    }
                    return outputs;
                }
            }
        }
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.progress.clone())
    }
}

impl OvInstance {
    /// Sets the inputs, runs, and waits for the end.
    fn start(&self, inputs: &[NnTensor]) -> Result<(), RunError> {
        let attempt = Attempt::begin();
        let wrong = |status: Status| {
            let code = match status {
                Status::PARAMETER_MISMATCH | Status::INVALID_C_PARAM => ErrorCode::InvalidArgument,
                Status::NOT_IMPLEMENTED => ErrorCode::UnsupportedOperation,
                _ => ErrorCode::RuntimeError,
            };
            NnError::new(
                code,
                format!("OpenVINO cannot run the graph: {}", attempt.reason(status)),
            )
        };
        let refused = |status: Status| RunError::Refused(wrong(status));
        // Aligned copies of unaligned inputs. They and the inputs outlive the run, which is waited for below.
        let mut copies: Vec<Vec<u64>> = Vec::new();
        let ports = (self.graph.inputs.iter()).zip(&self.graph.elements);
        for (index, (tensor, (port, element))) in inputs.iter().zip(ports).enumerate() {
            tensor.check().map_err(RunError::Refused)?;
            within_32_bits(tensor, port).map_err(RunError::Refused)?;
            let mut data = tensor.data.as_ptr();
            if data.align_offset(tensor.ty.size()) != 0 {
                let mut copy = vec![0u64; tensor.data.len().div_ceil(size_of::<u64>())];
                // SAFETY: `copy` is at least as long as the bytes and overlaps nothing.
                unsafe {
                    ptr::copy_nonoverlapping(
                        data,
                        copy.as_mut_ptr().cast::<u8>(),
                        tensor.data.len(),
                    );
                }
                data = copy.as_ptr().cast();
                copies.push(copy);
            }
            let mut dims = [0i64; crate::tensor::MAX_RANK];
            for (to, from) in dims.iter_mut().zip(&tensor.dims) {
                *to = i64::from(*from);
            }
            let shape = ov::ov_shape_t {
                rank: tensor.dims.len() as i64,
                dims: dims.as_mut_ptr(),
            };
            let mut made = ptr::null_mut();
            // SAFETY: `data` is aligned for the element and, by `check`, as long as the shape says; the shape is
            // copied. OpenVINO reads inputs and does not write to them (the suite looks), so that the bytes are
            // shared with others is of no consequence.
            check(unsafe {
                ov::ov_tensor_create_from_host_ptr(
                    *element,
                    shape,
                    data.cast_mut().cast::<c_void>(),
                    &mut made,
                )
            })
            .map_err(refused)?;
            let made = Tensor(made);
            // SAFETY: both handles are live; the request keeps its own reference. After the run it still points at
            // these bytes, and reads them again only in a run, which sets every input again.
            check(unsafe {
                ov::ov_infer_request_set_input_tensor_by_index(self.request.0, index, made.0)
            })
            .map_err(refused)?;
        }
        // SAFETY: the request is live, idle and has all its inputs.
        check(unsafe { ov::ov_infer_request_start_async(self.request.0) }).map_err(refused)?;
        let failed = |status: Status| RunError::Failed(wrong(status));
        if self.graph.open_shapes {
            let grace = i64::try_from(self.compiled.took.as_millis()).unwrap_or(i64::MAX);
            // SAFETY: the request is live and was started.
            match unsafe { ov::ov_infer_request_wait_for(self.request.0, grace.max(1)) } {
                Status::RESULT_NOT_READY => {}
                status => return check(status).map_err(failed),
            }
        }
        {
            let mut progress = lock(&self.progress.0);
            match *progress {
                // SAFETY: the request is live and was started.
                Progress::Ended => unsafe {
                    ov::ov_infer_request_cancel(self.request.0);
                },
                _ => *progress = Progress::Started(self.request.0),
            }
        }
        // SAFETY: the request is live and was started; with every result it is idle again afterwards.
        check(unsafe { ov::ov_infer_request_wait(self.request.0) }).map_err(failed)
    }
}
