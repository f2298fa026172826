//! Sessions and their instances: one run of a loaded graph.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use ort::sys;
use ort::{AsPointer, ortsys};

use super::allocator;
use super::graph::{Entry, Shared};
use super::tensors::{borrowed, read, span};
use super::value::{Value, check};
use super::values::{self, Kind};
use crate::backend::cost::Cost;
use crate::backend::message;
use crate::backend::port::Port;
use crate::backend::rows::Rows;
use crate::backend::session::{Instance, Interrupt, Session};
use crate::error::{NnError, quoted};
use crate::tensor::{NnTensor, TensorType};

/// The text in ONNX Runtime's error for a run that its options ended. There is no code for it.
const TERMINATED: &str = "due to terminate flag";

/// A graph that ONNX Runtime has loaded.
pub struct OrtSession(pub Arc<Shared>);

impl Session for OrtSession {
    fn has_default(&self, input: usize) -> bool {
        let mut flags = (self.0.entries.iter())
            .flat_map(|entry| std::iter::repeat_n(entry.has_default, entry.ports.len()));
        flags.nth(input).unwrap_or(false)
    }

    fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    fn cost(&self) -> Cost {
        self.0.cost.clone()
    }

    fn rows(&self) -> Rows {
        self.0.rows.clone()
    }

    fn instance(&self) -> Result<Box<dyn Instance>, NnError> {
        Ok(Box::new(OrtInstance {
            input_names: self
                .0
                .input_names
                .iter()
                .map(|name| name.as_ptr())
                .collect(),
            output_names: self
                .0
                .output_names
                .iter()
                .map(|name| name.as_ptr())
                .collect(),
            run: Arc::new(Run::new()?),
            shared: self.0.clone(),
        }))
    }
}

struct OrtInstance {
    shared: Arc<Shared>,
    /// Into `shared`'s names, in the form `Run` wants them.
    input_names: Vec<*const c_char>,
    output_names: Vec<*const c_char>,
    run: Arc<Run>,
}

// SAFETY: the pointers lead into `shared`, which is Send and Sync, is held for as long and never written.
unsafe impl Send for OrtInstance {}

/// The options of an instance's runs. Other threads use them to end a run.
struct Run {
    options: *mut sys::OrtRunOptions,
}

// SAFETY: after they were made, only the options' flag is written, which `Run` reads while it may be written. ONNX Runtime
// documents `RunOptionsSetTerminate` for this use.
unsafe impl Send for Run {}

// SAFETY: as above.
unsafe impl Sync for Run {}

impl Run {
    fn new() -> Result<Self, NnError> {
        let mut options = ptr::null_mut();
        // SAFETY: the call writes one pointer to the given place.
        check(ortsys![unsafe CreateRunOptions(&mut options)])?;
        Ok(Self { options })
    }
}

impl Interrupt for Run {
    fn interrupt(&self) {
        // SAFETY: the options are live. The call fails only with a status that offers no remedy.
        let _ = check(ortsys![unsafe RunOptionsSetTerminate(self.options)]);
    }

    fn reset(&self) {
        // SAFETY: as above.
        let _ = check(ortsys![unsafe RunOptionsUnsetTerminate(self.options)]);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        ortsys![unsafe ReleaseRunOptions(self.options)];
    }
}

/// Reads an output of any kind: one tensor, or those that carry a sequence or a map. An optional one may be absent.
fn read_exit(
    value: Value,
    exit: &Entry,
    borrowed: &[std::ops::Range<usize>],
    shared: &Arc<Shared>,
) -> Result<Vec<NnTensor>, NnError> {
    let named = |mut error: NnError| {
        error.message = format!("output {}: {}", quoted(&exit.name), error.message);
        error
    };
    Ok(match &exit.kind {
        _ if exit.optional && !values::is_there(&value).map_err(named)? => {
            let absent =
                |port: &Port| NnTensor::absent(port.ty.carried_as().unwrap_or(TensorType::Bytes));
            exit.ports.iter().map(absent).collect()
        }
        Kind::Tensor => vec![read(value, &exit.ports[0], borrowed, shared)?],
        Kind::Sequence(ty) => {
            values::read_sequence(&value, *ty, shared.most_bytes).map_err(named)?
        }
        Kind::Maps {
            key,
            value: of,
            list,
        } => {
            let labels = exit.labels.as_deref();
            values::read_maps(&value, (*key, *of, *list), labels, shared.most_bytes)
                .map_err(named)?
        }
    })
}

impl Instance for OrtInstance {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let shared = &*self.shared;
        if inputs.len() != shared.inputs.len() {
            return Err(NnError::invalid(format!(
                "the graph takes {} inputs and {} were given",
                shared.inputs.len(),
                inputs.len()
            )));
        }
        // Aligned copies of unaligned inputs, and the tensors of sequences. They must outlive the values.
        let mut copies: Vec<Vec<u64>> = Vec::new();
        let mut parts: Vec<Value> = Vec::new();
        let mut values: Vec<Value> = Vec::with_capacity(inputs.len());
        // The names of the inputs that are sent, if some are left out.
        let mut names: Option<Vec<*const c_char>> = None;
        let mut rest = inputs;
        for (index, entry) in shared.entries.iter().enumerate() {
            let (own, others) = rest.split_at(entry.kind.width().min(rest.len()));
            rest = others;
            if own.iter().any(NnTensor::is_absent) {
                names.get_or_insert_with(|| self.input_names[..index].to_vec());
                continue;
            }
            if let Some(names) = &mut names {
                names.push(self.input_names[index]);
            }
            values.push(match (&entry.kind, own) {
                (Kind::Tensor, [tensor]) => borrowed(shared.cpu, tensor, &mut copies)?,
                (Kind::Sequence(_), [elements, shapes]) => {
                    elements.check()?;
                    shapes.check()?;
                    let from = parts.len();
                    for part in values::parts(elements, shapes)? {
                        // The part shares the input's bytes.
                        parts.push(borrowed(shared.cpu, &part, &mut copies)?);
                    }
                    values::sequence(&parts[from..])?
                }
                _ => {
                    return Err(NnError::unsupported(format!(
                        "input {} is a map, and tensors cannot be turned into a map; export the model with tensors \
                         there",
                        quoted(&entry.name)
                    )));
                }
            });
        }
        let input_names = names.as_ref().unwrap_or(&self.input_names);
        let mut outputs: Vec<Value> = (shared.exits.iter())
            .map(|_| Value(ptr::null_mut()))
            .collect();
        // SAFETY: `Value` is one pointer, `Run` reads `inputs` and writes one owned value for each output
        // name; concurrent calls on one session are allowed (see the module's page). The session pointer is
        // `*mut` in C and not written through.
        let (status, usage) = allocator::metered(shared.most_bytes, || {
            ortsys![unsafe Run(
                shared.session.ptr().cast_mut(),
                self.run.options.cast_const(),
                input_names.as_ptr(),
                values.as_ptr().cast::<*const sys::OrtValue>(),
                values.len(),
                self.output_names.as_ptr(),
                self.output_names.len(),
                outputs.as_mut_ptr().cast::<*mut sys::OrtValue>(),
            )]
        });
        check(status).map_err(|error| match usage.wanted {
            _ if error.message.contains(TERMINATED) => NnError::runtime("the run was ended early"),
            Some(wanted) => message::too_much_memory(wanted, shared.most_bytes),
            // Some operators report an index as a failure of their own.
            None if message::blames_an_index(&error.message) => NnError::invalid(error.message),
            None => error,
        })?;
        // The memory inputs were read from; an output that lies in it (a graph may hand an input straight
        // through) must be copied, because that memory is freed with the call.
        let borrowed: Vec<std::ops::Range<usize>> = (inputs.iter())
            .map(|tensor| span(&tensor.data))
            .chain(copies.iter().map(|copy| {
                let start = copy.as_ptr() as usize;
                start..start + size_of_val(copy.as_slice())
            }))
            .collect();
        let mut tensors = Vec::with_capacity(shared.outputs.len());
        for (value, exit) in outputs.into_iter().zip(&shared.exits) {
            if let (Kind::Tensor, [port], false) = (&exit.kind, &exit.ports[..], exit.optional) {
                tensors.push(read(value, port, &borrowed, &self.shared)?);
                continue;
            }
            let read = read_exit(value, exit, &borrowed, &self.shared)?;
            let wanted = read.into_iter().zip(&exit.wanted);
            tensors.extend(wanted.filter(|(_, wanted)| **wanted).map(|(read, _)| read));
        }
        Ok(tensors)
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.run.clone())
    }
}
