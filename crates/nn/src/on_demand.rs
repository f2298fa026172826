//! The models that one component instance has open: each is read, checked and optimised at its first use, and kept for
//! the instance's life or until room is needed.
//!
//! This engine is for a component that implements wasi:nn: it has one thread, no background tasks, and a memory that is
//! bounded from outside. Decisions:
//!
//! - **Nothing is opened ahead.** A host may make an instance for a single request. That request then pays only for the
//!   models that it names.
//! - **A version is compared with its contract and run once** before it answers, as on a server, so that `ready` means
//!   the same everywhere. The result is remembered, failures too.
//! - **Everything has a bound** ([`Limits`]), because an instance without memory traps. If a bound depends on the
//!   host's own limit, the allocator is asked beforehand; it can refuse without harm.
//! - **The backend is tract.** A contract that names another backend is not ready: numbers may differ.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use crate::allocation::can_allocate;
use crate::backend::{Backends, Graph, GraphSource, ONNXRUNTIME, QUEUE_MAX, Rows, Session};
use crate::call;
use crate::contract_check;
use crate::error::{NnError, quoted};
use crate::first_run;
use crate::index_bounds::IndexBounds;
use crate::kept::{self, Run};
use crate::layout::{self, GRAPH_FILE, Unavailable, is_model_name, version_number};
use crate::tensor::NnTensor;

/// The bounds of the models and calls of one instance.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest graph that is opened, in bytes of its file. While it is optimised it is in memory
    /// [`COPIES_WHILE_OPENING`] times; larger models want a native engine anyway.
    pub graph_bytes: u64,
    /// Graphs kept open, in bytes of their files together. The least recently used is closed for a new one.
    pub kept_bytes: u64,
    /// Versions remembered, open or failed, so that a models directory of any size costs little.
    pub kept_versions: usize,
    /// Bytes of all inputs of a call, which the caller holds as well.
    pub input_bytes: usize,
    /// Bytes of all outputs of a call, which the caller takes as well.
    pub output_bytes: usize,
    /// Bytes between the operators of one run. See [`crate::LoadOptions::working_bytes`].
    pub working_bytes: usize,
}

/// The number of times a graph's bytes are in memory while it is opened: the file, its decoded form, the tensors made
/// of it, and the weights in the operators' layout.
pub const COPIES_WHILE_OPENING: u64 = 4;

impl Default for Limits {
    /// Limits for a memory of 256 MiB, the default of this project's host.
    fn default() -> Self {
        Self {
            graph_bytes: 48 << 20,
            kept_bytes: 64 << 20,
            kept_versions: 256,
            input_bytes: 32 << 20,
            output_bytes: 32 << 20,
            working_bytes: 96 << 20,
        }
    }
}

/// The models of a directory, opened when they are asked for.
pub struct OnDemand {
    root: PathBuf,
    backends: Backends,
    limits: Limits,
    /// The opened versions; the last used one is last.
    kept: Vec<LoadedVersion>,
}

struct LoadedVersion {
    model: String,
    version: u64,
    outcome: Result<Rc<Opened>, String>,
}

/// A version that was opened and can run.
pub struct Opened {
    model: String,
    version: u64,
    graph_bytes: u64,
    session: Arc<dyn Session>,
    /// The inputs that are indices, and their ranges.
    index_bounds: IndexBounds,
    rows: Rows,
    rules: call::Rules,
    input_bytes: usize,
    output_bytes: usize,
}

impl OnDemand {
    /// The models under `root`, none of them open.
    pub fn new(root: impl Into<PathBuf>, limits: Limits) -> Self {
        Self {
            root: root.into(),
            backends: Backends::builtin().explain(
                ONNXRUNTIME,
                "this host runs models in WebAssembly, where only tract is; serve it with a native wasi:nn",
            ),
            limits,
            kept: Vec::new(),
        }
    }

    /// The version of a model to call, opened if it is not: the given version, or the highest without one.
    ///
    /// # Errors
    ///
    /// The existing models or versions, or the reason that the version cannot answer.
    pub fn get(&mut self, model: &str, version: Option<&str>) -> Result<Rc<Opened>, Unavailable> {
        if let Some(number) = version.and_then(version_number)
            && let Some(at) = self.kept.iter().position(|kept| kept.is(model, number))
        {
            return self.used(at);
        }
        // Only now is a path made of it, and only of a name that is one step down from the root.
        let dir = self.root.join(model);
        if !is_model_name(model) || !dir.is_dir() {
            let names = self.names();
            return Err(Unavailable::unknown_model(
                model,
                names.iter().map(String::as_str),
            ));
        }
        let there = layout::versions(&dir).map_err(|reason| Unavailable::failed(model, &reason))?;
        let number = match version {
            None => there.last().copied(),
            Some(text) => version_number(text).filter(|number| there.contains(number)),
        };
        let Some(number) = number else {
            return Err(Unavailable::unknown_version(
                model,
                version.unwrap_or_default(),
                there.into_iter(),
            ));
        };
        if let Some(at) = self.kept.iter().position(|kept| kept.is(model, number)) {
            return self.used(at);
        }
        let outcome = self.open(model, number);
        if self.kept.len() >= self.limits.kept_versions {
            self.kept.remove(0);
        }
        self.kept.push(LoadedVersion {
            model: model.to_owned(),
            version: number,
            outcome: outcome.map_err(|error| error.message),
        });
        self.used(self.kept.len() - 1)
    }

    /// The model kept at this place, which becomes the last used.
    fn used(&mut self, at: usize) -> Result<Rc<Opened>, Unavailable> {
        self.kept[at..].rotate_left(1);
        let kept = &self.kept[self.kept.len() - 1];
        match &kept.outcome {
            Ok(opened) => Ok(opened.clone()),
            Err(reason) => Err(Unavailable::failed(&kept.model, reason)),
        }
    }

    /// The names of the models that exist, for an error about another.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = (std::fs::read_dir(&self.root).into_iter().flatten())
            .flatten()
            .filter(|item| item.path().is_dir())
            .filter_map(|item| item.file_name().into_string().ok())
            .filter(|name| is_model_name(name))
            .collect();
        names.sort();
        names
    }

    fn open(&mut self, model: &str, version: u64) -> Result<Rc<Opened>, NnError> {
        let dir = self.root.join(model);
        let contract = layout::contract(model, &dir).map_err(NnError::invalid)?;
        layout::readable(&contract)?;
        let backend = self.backends.choose(contract.engine.backend.as_str())?;
        let path = dir.join(version.to_string()).join(GRAPH_FILE);
        let graph_bytes = match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => found.len(),
            _ => return Err(layout::no_graph(version, contract.format)),
        };
        self.make_room(version, graph_bytes)?;
        let mut options = contract_check::options(&contract, QUEUE_MAX);
        options.working_bytes = Some(self.limits.working_bytes);
        let session = backend.load(&GraphSource::File(path.clone()), &options)?;
        call::carried(&*session)?;
        let rules = call::Rules::of(&*session, &options)?;
        layout::agrees(&contract, version, session.inputs(), session.outputs())?;
        let graph = Graph::of(&path);
        let index_bounds = (graph.as_ref())
            .map(|graph| IndexBounds::of(graph, session.inputs()))
            .unwrap_or_default();
        let rows = match contract.batching.allow_dependent_rows {
            true => Rows::Independent,
            false => session.rows(),
        };
        layout::rows_agree(&contract, version, &rows)?;
        let opened = Opened {
            model: model.to_owned(),
            version,
            graph_bytes,
            session,
            index_bounds,
            rows,
            rules,
            input_bytes: self.limits.input_bytes,
            output_bytes: self.limits.output_bytes,
        };
        let sample = layout::sample(&contract, &dir)?;
        let made_up = contract.samples.is_empty() && sample.is_none();
        // There need not be a clock here; the number of tries is bounded, and so is a request's time.
        let elapsed = || std::time::Duration::ZERO;
        let mut runs = Vec::new();
        first_run::find(
            &contract,
            version,
            sample,
            graph.as_ref(),
            elapsed,
            |inputs| {
                let run = Run::of(&inputs, made_up);
                runs.push(run.gave(&opened.infer(inputs)?));
                Ok(())
            },
        )?;
        let ports = opened.session.outputs();
        // Here every instance opens the models that it runs, so the second run is left out if it decides nothing.
        if !runs.is_empty()
            && kept::in_doubt(&contract, ports)
            && let Some(longer) = kept::longer(&contract)
        {
            let second = Run::of(&longer, true);
            runs.extend(opened.infer(longer).map(|outputs| second.gave(&outputs)));
        }
        kept::check(&contract, version, ports, graph.as_ref(), &runs)?;
        Ok(Rc::new(opened))
    }

    /// Closes the least recently used models until a graph of so many bytes may be opened.
    fn make_room(&mut self, version: u64, graph_bytes: u64) -> Result<(), NnError> {
        if graph_bytes > self.limits.graph_bytes {
            return Err(NnError::too_large(format!(
                "version {version} is a graph of {graph_bytes} bytes; at most {} are opened here: serve it with a \
                 native wasi:nn",
                self.limits.graph_bytes
            )));
        }
        let open = |kept: &LoadedVersion| kept.outcome.as_ref().map_or(0, |open| open.graph_bytes);
        let needed = graph_bytes.saturating_mul(COPIES_WHILE_OPENING);
        loop {
            let total: u64 = self.kept.iter().map(open).sum();
            let within = total + graph_bytes <= self.limits.kept_bytes;
            if within && can_allocate(usize::try_from(needed).unwrap_or(usize::MAX)) {
                return Ok(());
            }
            let Some(oldest) = self.kept.iter().position(|kept| kept.outcome.is_ok()) else {
                return Err(NnError::too_large(format!(
                    "opening version {version} takes about {needed} bytes and the host gives no more memory; raise \
                     its limit for an instance, or serve the model with a native wasi:nn"
                )));
            };
            self.kept.remove(oldest);
        }
    }
}

impl LoadedVersion {
    fn is(&self, model: &str, version: u64) -> bool {
        self.version == version && self.model == model
    }
}

impl Opened {
    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The number of the version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the dependence of rows on each other, by the graph's operators. Nothing is tried here: an instance may be made
    /// for one request.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Runs the model on named tensors and returns its outputs, named, in the graph's order.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when a name, type, shape or length does not fit the model, `TooLarge` when inputs, outputs or
    /// the values between operators pass their limits, and the backend's errors.
    pub fn infer(
        &self,
        inputs: Vec<(String, NnTensor)>,
    ) -> Result<Vec<(String, NnTensor)>, NnError> {
        let bytes: usize = inputs.iter().map(|(_, tensor)| tensor.data.len()).sum();
        if bytes > self.input_bytes {
            return Err(NnError::too_large(format!(
                "the inputs of model {} have {bytes} bytes; at most {} are accepted: send fewer items",
                quoted(&self.model),
                self.input_bytes
            )));
        }
        let inputs = call::bind(&self.model, self.session.inputs(), &self.rules, inputs)?;
        self.index_bounds.check(self.session.inputs(), &inputs)?;
        let outputs = self.session.instance()?.run(&inputs)?;
        let bytes: usize = outputs.iter().map(|tensor| tensor.data.len()).sum();
        if bytes > self.output_bytes {
            return Err(NnError::too_large(format!(
                "the outputs have {bytes} bytes; at most {} are accepted: send fewer items",
                self.output_bytes
            )));
        }
        call::label(self.session.outputs(), outputs)
    }
}
