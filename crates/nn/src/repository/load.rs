//! Loads one version: chooses its backend, and runs it for the first time. [`super::compare`] compares it with another
//! backend.

use super::comparisons::Comparison;
use super::event::EventKind;
use super::perform::{Core, MAX_ABANDONED_LOADS, Start};
use super::progress::{Progress, Stage};
use super::scan;
use super::settings::Settings;
use crate::agreement::{Agreement, Compare};
use crate::backend::{Backend, Graph, GraphSource};
use crate::batch_trials::try_rows;
use crate::derive::{Description, derive};
use crate::error::{NnError, listed, quoted};
use crate::held::{self, Meter};
use crate::kept::{self, Run};
use crate::layout;
use crate::model::Model;
use crate::worker::restart::Restarts;
use crate::worker::{ChildOptions, Isolated};
use crate::{contract_check, first_run};
use penstock_tensor::contract::{Contract, FirstRun, Isolation};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Core {
    /// Loads one version, compares it with its contract and runs it once on every instance. Returns it with the bytes
    /// that it holds, and the comparison that is to follow.
    pub(super) fn load(
        &self,
        start: &Start,
        progress: &Progress,
    ) -> Result<(Model, u64, Option<Comparison>), NnError> {
        let (name, version) = (&start.name, start.version);
        let contract = start.contract.as_deref().ok_or_else(|| {
            NnError::runtime("its contract changed while it was read; it is read again")
        })?;
        self.few_are_abandoned(version)?;
        let dir = self.root.join(name).join(version.to_string());
        let path = dir.join(layout::graph_file(contract.format));
        if !path.is_file() {
            return Err(layout::no_graph(version, contract.format));
        }
        let graph = Graph::of(&path);
        let (backend, too_old) = (self.backends).choose_for_graph(
            contract.engine.backend.as_str(),
            contract.format,
            graph.as_ref(),
        )?;
        if let Some(too_old) = too_old {
            let text = format!("served by {}: {too_old}", backend.name());
            self.lock().say(name, version, EventKind::Noted, text);
        }
        let mut options = contract_check::options(contract, self.settings.queue_max);
        options.working_bytes = Some(self.run_memory_bytes(contract));
        let backend = self.placed(backend, name, version, contract)?;
        options.operator_libraries = self.operator_libraries(contract)?;
        progress.at(Stage::Compiling);
        let meter = Meter::begin();
        let model = Model::load_beside(
            name,
            &version.to_string(),
            &*backend,
            &GraphSource::from(path.as_path()),
            &options,
            &self.shadows,
        )?;
        progress.compiled(&model);
        layout::agrees(contract, version, model.inputs(), model.outputs())?;
        layout::rows_agree(contract, version, &model.rows())?;
        progress.at(Stage::WarmingUp);
        let sample = layout::sample(contract, &self.root.join(name))?;
        let made_up = contract.samples.is_empty() && sample.is_none();
        let began = Instant::now();
        let elapsed = || began.elapsed();
        let mut runs = Vec::new();
        let mut comparison = None;
        first_run::find(
            contract,
            version,
            sample,
            graph.as_ref(),
            elapsed,
            |inputs| {
                let run = Run::of(&inputs, made_up);
                runs.push(run.gave(&model.warm_up(inputs)?));
                Ok(())
            },
        )?;
        if contract.engine.first_run != FirstRun::Skip {
            if let Some(longer) = kept::longer(contract) {
                // A run that fails on a made-up call of other lengths proves nothing about the outputs.
                let second = Run::of(&longer, true);
                runs.extend(model.try_run(longer).map(|outputs| second.gave(&outputs)));
            }
            let remark = kept::check(contract, version, model.outputs(), graph.as_ref(), &runs)
                .map_err(|error| {
                    let corrected = graph
                        .as_ref()
                        .and_then(|graph| self.corrected(start, contract, &model, graph, &runs));
                    corrected.unwrap_or(error)
                })?;
            if let Some(remark) = remark {
                self.lock().say(name, version, EventKind::Noted, remark);
            }
            progress.at(Stage::TryingBatches);
            try_rows(&model, contract);
            layout::rows_agree(contract, version, &model.rows())?;
            let source = GraphSource::from(path.as_path());
            if self.settings.compares_later() {
                comparison = Some(self.comparison(start, &model, contract, source, &options));
            } else if self.settings.compare != Compare::Off {
                progress.at(Stage::Comparing);
                let agreement = self.compare(&model, contract, &source, &options, progress);
                // From here on, runs are the model's own again.
                progress.compiled(&model);
                let differs = matches!(agreement, Agreement::Differs { .. });
                if differs && self.settings.compare == Compare::Refuse {
                    return Err(NnError::runtime(format!(
                        "version {version} is not served: {agreement}"
                    )));
                }
                model.note_agreement(agreement);
            }
        }
        progress.at(Stage::Reading);
        self.files_are_same(start)?;
        let bytes = match (model.memory_bytes(), backend.loads_into_this_process()) {
            (Some(bytes), _) => bytes,
            (None, true) => held::held(meter.grown(), start.job.file_bytes()),
            (None, false) => {
                let resident = model.process().and_then(|process| process.resident_bytes);
                let estimate = start.job.file_bytes();
                let held = held::held_by_process(resident, estimate);
                // A process differs a little from load to load. A model that was within the budget by its estimate still
                // serves, alone.
                let budget = self.settings.memory_budget_bytes.unwrap_or(u64::MAX);
                held.min(budget.max(estimate))
            }
        };
        Ok((model, bytes, comparison))
    }

    /// Returns the memory in bytes that a run may hold.
    fn run_memory_bytes(&self, contract: &Contract) -> usize {
        (contract.engine.run_memory_bytes).map_or(self.settings.run_memory_bytes, |bytes| {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        })
    }

    /// Refuses a load whose files changed since they were scanned.
    fn files_are_same(&self, start: &Start) -> Result<(), NnError> {
        let version = start.version;
        let dir = self.root.join(&start.name).join(version.to_string());
        if scan::graph(&dir).stamp == start.job.graph {
            return Ok(());
        }
        Err(NnError::runtime(format!(
            "version {version}'s files changed while they were loaded; they are loaded again when they stop changing"
        )))
    }

    /// Refuses a load while too many loads that were given up still run.
    fn few_are_abandoned(&self, version: u64) -> Result<(), NnError> {
        let abandoned = self.abandoned_loads.load(Ordering::SeqCst);
        if abandoned >= MAX_ABANDONED_LOADS {
            return Err(NnError::runtime(format!(
                "version {version} was not loaded: {abandoned} loads that were given up are still running, which is \
                 the maximum; correct their graphs, and restart the server"
            )));
        }
        Ok(())
    }

    /// Returns the operator libraries that a contract asks for.
    fn operator_libraries(&self, contract: &Contract) -> Result<Vec<PathBuf>, NnError> {
        let names = contract.engine.operators.iter();
        let libraries = names.map(|name| {
            let library = self.settings.operators.get(name).ok_or_else(|| {
                let known = listed(self.settings.operators.keys().map(String::as_str));
                NnError::unsupported(format!(
                    "model.toml asks for the operator library {}, and the server's settings have {}; name its file under \
                     [models.operators] in the server's settings",
                    quoted(name),
                    if known.is_empty() { "none" } else { known.as_str() }
                ))
            })?;
            Ok(library.clone())
        });
        libraries.collect()
    }

    /// Corrects a contract that was derived from this version's graph, if runs gave other shapes than the graph declares.
    /// This happens once for each derived contract, and costs a second load. Returns the outcome of this load, or `None` if
    /// nothing was corrected.
    fn corrected(
        &self,
        start: &Start,
        contract: &Contract,
        model: &Model,
        graph: &Graph,
        runs: &[Run],
    ) -> Option<NnError> {
        if start.derived_from != Some(start.version) {
            return None;
        }
        let outputs = kept::contradicted(contract, model.outputs(), Some(graph), runs);
        let shapes: Vec<_> = runs.iter().map(Run::shapes).collect();
        let mut description = Description::of(graph);
        description.correct_by(contract, &outputs, &shapes);
        let text = derive(&description).text;
        let other = layout::parsed(&start.name, &text).ok()?;
        if outputs.is_empty() || other == *contract {
            return None;
        }
        // The runs may be those of other files than the contract was derived from.
        if let Err(changed) = self.files_are_same(start) {
            return Some(changed);
        }
        if !self.correct(start, other, text.into()) {
            return None;
        }
        let names = listed(outputs.iter().map(String::as_str));
        let told = format!(
            "the graph declares another shape of {names} than its runs give; the derived contract has that of the runs"
        );
        self.lock()
            .say(&start.name, start.version, EventKind::Noted, told);
        Some(NnError::runtime(format!(
            "version {} is loaded again, under a derived contract that its first run corrected",
            start.version
        )))
    }

    /// The backend with its isolation: in this process, or in a separate one.
    pub(super) fn placed(
        &self,
        backend: Arc<dyn Backend>,
        name: &str,
        version: u64,
        contract: &Contract,
    ) -> Result<Arc<dyn Backend>, NnError> {
        let Settings {
            isolation,
            launcher,
            load_timeout,
            process_memory_bytes,
            ..
        } = &self.settings;
        let engine = &contract.engine;
        let isolation = match engine.isolation.or(*isolation) {
            Some(asked) => asked,
            // tract is memory-safe, and its panics are caught.
            None if launcher.is_none() || backend.library().is_none() => Isolation::Thread,
            None => Isolation::Process,
        };
        match (isolation, launcher) {
            (Isolation::Thread, _) => Ok(backend),
            (Isolation::Process, Some(launcher)) => Ok(Arc::new(Isolated::new(
                backend,
                launcher.clone(),
                ChildOptions {
                    model: name.to_owned(),
                    version: version.to_string(),
                    load_timeout: *load_timeout,
                    process_bytes: engine.process_memory_bytes.or(*process_memory_bytes),
                    restarts: Restarts::default(),
                    in_background: false,
                },
            ))),
            (Isolation::Process, None) => Err(NnError::unsupported(
                "isolation = \"process\" is requested, but this program cannot start processes; write isolation = \
                 \"thread\"",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::perform::example::{self, CONTRACT};
    use super::*;

    #[tokio::test]
    async fn a_contract_is_corrected_once_and_only_if_it_is_still_the_one_of_the_load() {
        let (folder, core, job) = example::opened();
        let start = Start {
            name: "m".into(),
            version: 1,
            job,
            contract: None,
            derived_from: Some(1),
        };
        let text = CONTRACT.replace("[\"N\"]", "[\"N\", 3]");
        let other = Contract::parse(&text).unwrap();
        // The files are not read for a correction.
        std::fs::remove_dir_all(folder.path().join("m")).unwrap();
        assert!(core.correct(&start, other.clone(), text.as_str().into()));
        let in_force = || core.lock().contract("m");
        assert_eq!(in_force().as_deref(), Some(&other));
        let later = Contract::parse(CONTRACT).unwrap();
        assert!(!core.correct(&start, later, CONTRACT.into()));
        assert_eq!(in_force().as_deref(), Some(&other));
        assert!(core.files_are_same(&start).is_err());
    }
}
