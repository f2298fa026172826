//! Tries a model once, outside of a server, for `penstock init` and `penstock describe`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_tensor::Contract;
use penstock_tensor::Tensor;
use penstock_tensor::contract::{Sample, TensorSpec};

use crate::backend::{Backends, Graph, GraphSource, LoadOptions, Port, QUEUE_MAX, Session};
use crate::call;
use crate::contract_check;
use crate::derive::Shapes;
use crate::error::NnError;
use crate::first_run::{self, Inputs};
use crate::kept::{self, Run};
use crate::layout;
use crate::tensor::NnTensor;

/// A run that succeeded, with its inputs and the shapes of its outputs.
#[derive(Debug)]
pub struct Ran {
    /// The backend that ran it.
    pub backend: &'static str,
    /// The inputs of the run.
    pub inputs: Vec<Tensor>,
    /// The outputs of the run: name and lengths.
    pub outputs: Vec<(String, Vec<u32>)>,
    /// The time that the run took.
    pub took: Duration,
    /// Whether it ran on the least input that the contract allows.
    pub on_least: bool,
    /// The shapes of this run, and of a longer one if there was one.
    pub shapes: Vec<Shapes>,
    /// The outputs that came otherwise than the contract says, and why a server would refuse the model for them.
    pub contradicted: Option<(Vec<String>, NnError)>,
}

/// The reason that a model could not be tried.
#[derive(Debug)]
pub struct Failed {
    /// The error that a server would report.
    pub error: NnError,
    /// Whether the graph was loaded, so that only the run failed.
    pub loaded: bool,
}

/// Loads the graph at `path` as a server would, and runs it once on a sample or on made-up inputs.
///
/// # Errors
///
/// Those that a server would report.
pub fn run(
    contract: &Contract,
    path: &Path,
    backends: &Backends,
    sample: Option<Sample>,
) -> Result<Ran, Failed> {
    let mut loaded = false;
    tried(contract, path, backends, sample, &mut loaded).map_err(|error| Failed { error, loaded })
}

fn tried(
    contract: &Contract,
    path: &Path,
    backends: &Backends,
    sample: Option<Sample>,
    loaded: &mut bool,
) -> Result<Ran, NnError> {
    let model = Loaded::open(contract, path, backends)?;
    *loaded = true;
    let graph = model.graph.as_ref();
    let made_up = contract.samples.is_empty() && sample.is_none();
    let began = Instant::now();
    let mut tries = 0;
    let mut ran: Option<(Inputs, Inputs, Duration)> = None;
    let elapsed = || began.elapsed();
    first_run::find(contract, 1, sample, graph, elapsed, |inputs| {
        tries += 1;
        let (outputs, took) = model.once(inputs.clone())?;
        ran = Some((inputs, outputs, took));
        Ok(())
    })?;
    let (inputs, outputs, took) = ran.ok_or_else(|| NnError::runtime("it was not run"))?;
    // As a server does before the model serves.
    let mut runs = vec![Run::of(&inputs, made_up).gave(&outputs)];
    if let Some(longer) = kept::longer(contract) {
        let second = Run::of(&longer, true);
        // A run that fails at made-up lengths says nothing of the outputs.
        runs.extend((model.once(longer).ok()).map(|(outputs, _)| second.gave(&outputs)));
    }
    let ports = model.session.outputs();
    let contradicted = kept::check(contract, 1, ports, graph, &runs)
        .err()
        .map(|error| (kept::contradicted(contract, ports, graph, &runs), error));
    Ok(Ran {
        backend: model.backend,
        inputs: inputs
            .into_iter()
            .filter_map(|named| tensor_of(named, contract.inputs.iter()))
            .collect(),
        outputs: (outputs.into_iter())
            .map(|(name, tensor)| (name, tensor.dims))
            .collect(),
        took,
        on_least: tries == 1,
        shapes: runs.iter().map(Run::shapes).collect(),
        contradicted,
    })
}

/// A tensor of a run under the name and the type that the contract has for it.
fn tensor_of<'c>(
    (name, tensor): (String, NnTensor),
    mut specs: impl Iterator<Item = &'c TensorSpec>,
) -> Option<Tensor> {
    Some(Tensor {
        datatype: specs.find(|spec| spec.name == name)?.datatype,
        shape: tensor.dims.iter().map(|dim| u64::from(*dim)).collect(),
        data: tensor.data.to_vec().into(),
        name,
    })
}

/// A graph that is loaded outside of a server, for runs on tensors that are already known.
pub struct Loaded {
    contract: Contract,
    graph: Option<Graph>,
    backend: &'static str,
    session: Arc<dyn Session>,
    rules: call::Rules,
}

impl Loaded {
    /// Loads the graph at `path` as a server would.
    ///
    /// # Errors
    ///
    /// Those that a server would report.
    pub fn open(contract: &Contract, path: &Path, backends: &Backends) -> Result<Self, NnError> {
        let graph = Graph::of(path);
        let (backend, _) = backends.choose_for_graph(
            contract.engine.backend.as_str(),
            contract.format,
            graph.as_ref(),
        )?;
        let options = contract_check::options(contract, QUEUE_MAX);
        let session = backend.load(&GraphSource::from(path), &options)?;
        call::carried(&*session)?;
        let rules = call::Rules::of(&*session, &options)?;
        layout::agrees(contract, 1, session.inputs(), session.outputs())?;
        Ok(Self {
            contract: contract.clone(),
            graph,
            backend: backend.name(),
            session,
            rules,
        })
    }

    fn once(&self, inputs: Inputs) -> Result<(Inputs, Duration), NnError> {
        let ports = (self.session.inputs(), self.session.outputs());
        let bound = call::bind("it", ports.0, &self.rules, inputs)?;
        let started = Instant::now();
        let outputs = self.session.instance()?.run(&bound)?;
        Ok((call::label(ports.1, outputs)?, started.elapsed()))
    }

    /// Runs the model on tensors, which are checked against the contract as those of a call are. Returns the outputs that
    /// the contract has, with the data types of the contract. Neither their types nor their shapes are checked: [`run`]
    /// reports outputs that contradict the contract.
    ///
    /// # Errors
    ///
    /// Those that a server would report for the inputs or for the run.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, NnError> {
        penstock_tensor::check_tensors(inputs, &self.contract)
            .map_err(|rejection| NnError::invalid(rejection.message))?;
        let (outputs, _) = self.once(first_run::tensors(inputs)?)?;
        Ok(outputs
            .into_iter()
            .filter_map(|named| tensor_of(named, self.contract.outputs.iter()))
            .collect())
    }
}

/// The ports of a graph as a backend sees them: for files that only a runtime reads.
///
/// # Errors
///
/// Those of the backend.
pub fn ports(
    path: &Path,
    backends: &Backends,
    backend: &str,
) -> Result<(Vec<Port>, Vec<Port>), NnError> {
    let backend = backends.choose(backend)?;
    let session = backend.load(&GraphSource::from(path), &LoadOptions::default())?;
    Ok((session.inputs().to_vec(), session.outputs().to_vec()))
}

/// Loads the graph on each backend. Returns name, version, and the reason of each that does not load it.
pub fn who_loads(
    path: &Path,
    backends: &Backends,
) -> Vec<(&'static str, String, Result<(), String>)> {
    let graph = Graph::of(path);
    backends
        .all()
        .map(|backend| {
            let refusal = graph
                .as_ref()
                .filter(|graph| crate::backend::versions::is_recent(graph))
                .and_then(|graph| backend.reads()?.refusal(graph));
            let loaded = match refusal {
                Some(refusal) => Err(format!("{} {refusal}", backend.name())),
                None => backend
                    .load(&GraphSource::from(path), &LoadOptions::default())
                    .map(drop)
                    .map_err(|error| error.message),
            };
            (backend.name(), backend.version(), loaded)
        })
        .collect()
}
