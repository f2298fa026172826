//! Runs a model for a surface. Here, and nowhere else, inputs go to the engine and outputs come back, whatever the call
//! looks like. An adapter's runs follow one after the other.

pub(crate) mod cache;
pub(crate) mod prepare;

use crate::call::{Meter, ModelCall};
use crate::catalogue::{Opened, StepModel};
use crate::disclose::disclose;
use crate::ports::{AdapterAnswer, AdapterPort, FailureKind, InferOptions, Ports, Step};
use crate::problem::{broken_adapter, failure, outputs_too_large, was_not_run};
use crate::record::Response;
use crate::rollout::Serving;
use crate::route::shorten;
use cache::{Caching, Lookup};
use penstock_core::{Code, PredictionId, Problem};
use penstock_policy::disclosure::rules;
use penstock_tensor::outputs::{Lengths, settle};
use penstock_tensor::render::{self, Ranking};
use penstock_tensor::{Contract, Tensor};
use prepare::{check_adapted, item_count};
use std::ops::Range;

/// The most runs one adapter may ask for to answer one call: a minute of sound in pieces of 32 ms takes 1,875.
/// `MAX_RUNS` of the adapter `silero-vad` follows it.
pub(crate) const MAX_ADAPTER_RUNS: u32 = 4_096;

/// The most bytes of inputs that a version runs on beside what answers: they are copied, in the memory of the instance.
const MAX_SHADOW_BYTES: usize = 1 << 20;

/// Calls that the client cancelled, or gave less time than this, say nothing about a version's health. They must not end a
/// canary.
const PATIENCE_NS: u64 = 1_000_000_000;

/// The options of a run, as the caller sets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunOptions {
    /// The priority level, 1 the first to run.
    pub priority: Option<u8>,
    /// Microseconds the call may take.
    pub timeout_us: Option<u64>,
    /// The rows are items of their own; see [`Runner::infer_joined`].
    pub is_joined: bool,
}

/// The answer that a surface writes.
pub(crate) struct SurfaceAnswer {
    pub response: Response,
    /// The prediction's id, where the answer is one prediction.
    pub prediction_id: Option<PredictionId>,
}

/// What a surface made of a body: it can be charged, claimed and run.
pub(crate) trait Work<P: Ports> {
    /// Items it is charged for, known before anything runs.
    fn items(&self) -> u64;
    /// The version that the body says is to answer.
    fn model_version(&self) -> Option<&str> {
        None
    }
    /// Runs it and writes the answer.
    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem>;
}

/// Outputs, and whether the model ran for them.
struct Computed {
    outputs: Vec<Tensor>,
    ran: bool,
}

/// A call that runs.
pub(crate) struct Runner<'a, P: Ports> {
    pub call: &'a ModelCall<'a, P>,
    pub opened: &'a Opened<P>,
    pub model: &'a str,
    pub serving: &'a Serving,
    pub meter: &'a mut Meter,
    pub cache: Caching<'a>,
    /// How many predictions there are so far.
    predictions: u128,
    /// The engine said that the rows of the version depend on each other.
    rows_depend: bool,
}

impl<'a, P: Ports> Runner<'a, P> {
    pub fn new(
        call: &'a ModelCall<'a, P>,
        opened: &'a Opened<P>,
        model: &'a str,
        serving: &'a Serving,
        meter: &'a mut Meter,
    ) -> Self {
        Self {
            call,
            opened,
            model,
            serving,
            meter,
            cache: Caching::of(call, model),
            predictions: 0,
            rows_depend: false,
        }
    }

    pub fn contract(&self) -> &'a Contract {
        &self.opened.contract
    }

    /// An id for one more prediction.
    pub fn prediction_id(&mut self) -> PredictionId {
        let context = self.call.context;
        let random = context.random.wrapping_add(self.predictions);
        self.predictions += 1;
        PredictionId::generate(context.unix_ms, random)
    }

    /// Counts items that were run.
    pub fn ran(&mut self, items: u64) {
        self.meter.items = self.meter.items.saturating_add(items);
    }

    /// Runs the model once; `outputs` empty means all. What was run is counted.
    pub fn infer(
        &mut self,
        inputs: Vec<Tensor>,
        outputs: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>, Problem> {
        let items = item_count(&inputs, self.contract());
        let computed = self.cached(inputs, outputs, options)?;
        if computed.ran {
            self.ran(items);
        }
        Ok(computed.outputs)
    }

    /// Outputs of the model for these inputs: from the cache where it has them, else from a run.
    fn cached(
        &mut self,
        inputs: Vec<Tensor>,
        outputs: &[String],
        options: RunOptions,
    ) -> Result<Computed, Problem> {
        let question = cache::Question {
            tenant: &self.call.caller.tenant,
            version: self.serving.version,
            contract: self.contract(),
            fingerprint: &self.opened.fingerprint,
            inputs: &inputs,
            outputs,
            is_joined: options.is_joined,
            timeout_us: options.timeout_us,
        };
        let cache = (self.call.ports, &self.call.policies.results);
        let keep = match self.cache.look(cache, &question)? {
            Lookup::Found(outputs) => {
                return Ok(Computed {
                    outputs,
                    ran: false,
                });
            }
            Lookup::Run(keep) => keep,
        };
        let computed = self.compute(None, inputs, outputs, options);
        self.cache.keep(cache, keep, computed.as_deref().ok());
        Ok(Computed {
            outputs: computed?,
            ran: true,
        })
    }

    /// Runs the model once on items that were put together to save runs. `None`, and nothing run, where the answer to an
    /// item depends on the others: then each has to be run by itself.
    pub fn infer_joined(
        &mut self,
        inputs: Vec<Tensor>,
        outputs: &[String],
    ) -> Result<Option<Vec<Tensor>>, Problem> {
        if self.rows_depend {
            return Ok(None);
        }
        let options = RunOptions {
            is_joined: true,
            ..RunOptions::default()
        };
        match self.infer(inputs, outputs, options) {
            Err(_) if self.rows_depend => Ok(None),
            ran => ran.map(Some),
        }
    }

    /// Runs the model once, past the cache, and leaves the counting to the caller. `other` is another model to run in its
    /// place, with the same options and without a shadow.
    fn compute(
        &mut self,
        other: Option<&'a StepModel>,
        inputs: Vec<Tensor>,
        outputs: &[String],
        options: RunOptions,
    ) -> Result<Vec<Tensor>, Problem> {
        let ports = self.call.ports;
        let (model, version, contract) = match other {
            Some(other) => (other.model.as_str(), other.version, &other.contract),
            None => (self.model, self.serving.version, self.contract()),
        };
        let infer_options = self.infer_options(options);
        let shadow = (self.serving.shadow)
            .filter(|_| other.is_none())
            .filter(|_| inputs.iter().map(|t| t.data.len()).sum::<usize>() <= MAX_SHADOW_BYTES)
            .map(|version| (version, inputs.clone()));
        let shapes = (inputs.iter()).map(|t| (t.name.as_str(), t.shape.iter().copied()));
        let lengths = Lengths::of(contract, shapes);
        let begun_ns = ports.monotonic_ns();
        let computed = ports.infer(model, version, inputs, outputs, infer_options);
        if let Err(failure) = &computed
            && failure.kind == FailureKind::RowsDepend
        {
            self.rows_depend = true;
            return Err(Problem::new(
                Code::ModelRejectedInputs,
                failure.message.clone(),
            ));
        }
        let took_ns = ports.monotonic_ns().saturating_sub(begun_ns);
        self.meter.compute_ns = self.meter.compute_ns.saturating_add(took_ns);
        self.meter.runs += 1;
        let mut tensors = computed.map_err(|f| {
            // Who leaves the model no time, or goes at once, says nothing of the model.
            let hurried = f.kind == FailureKind::DeadlineExceeded
                && (options.timeout_us.is_some() || took_ns < PATIENCE_NS);
            let kind = f.kind;
            let problem = failure(f, Some(contract));
            self.meter.failed = Some(match problem.code {
                // What the caller has to mend, neither.
                Code::ModelRejectedInputs => FailureKind::InputsRejected,
                _ if hurried => FailureKind::InputsRejected,
                _ => kind,
            });
            self.meter.ran_and_failed |= !was_not_run(problem.code);
            problem
        })?;
        if let Err(breach) = settle(contract, lengths, outputs, &mut tensors) {
            self.meter.failed = Some(FailureKind::Failed);
            self.meter.ran_and_failed = true;
            ports.log(&format!(
                "model {} version {}: {breach}; the call was answered with {}",
                self.model,
                self.serving.version,
                Code::ModelContractBroken.as_str()
            ));
            return Err(Problem::new(
                Code::ModelContractBroken,
                format!("the model did not keep its contract: {breach}"),
            ));
        }
        if let Some((version, inputs)) = shadow {
            // It comes after everybody who waits for an answer, so that it fails is nobody's affair.
            let _ = ports.shadow(self.model, version, inputs, tensors.clone());
        }
        Ok(tensors)
    }

    /// The options that the engine gets. No caller gets a better priority than that of its tier.
    fn infer_options(&self, options: RunOptions) -> InferOptions {
        let batching = &self.contract().batching;
        let usual = batching
            .default_priority
            .unwrap_or(batching.priority_levels);
        let priority = match (self.call.priority, options.priority) {
            (Some(tier), Some(asked)) => Some(tier.max(asked)),
            // Among tiers that have one, a tier without a priority stands where the model puts it.
            (None, Some(asked)) if self.call.policies.ranks_tiers => Some(asked.max(usual)),
            (tier, asked) => tier.or(asked),
        };
        let ms = |us: u64| u32::try_from(us.div_ceil(1_000)).unwrap_or(u32::MAX);
        InferOptions {
            priority,
            timeout_ms: options.timeout_us.map(ms),
            is_joined: options.is_joined,
        }
    }

    /// Has the adapter answer several items: together, or where rows depend on each other one after the other, each
    /// prepared by itself, so that none is filled up to the length of another. `begin` has the adapter begin with some of
    /// them, and `begun` is what it made of all where that was done before.
    pub fn adapt_each(
        &mut self,
        count: usize,
        begun: Option<Step>,
        begin: impl Fn(&Self, Range<usize>) -> Result<Step, Problem>,
    ) -> Result<Vec<AdapterAnswer>, Problem> {
        let mut answers = self.adapt_each_whole(count, begun, begin)?;
        for answer in &mut answers {
            self.disclose_text(&mut answer.text)?;
        }
        Ok(answers)
    }

    /// The same with all that the adapter answered, as [`Runner::adapt_whole`].
    pub fn adapt_each_whole(
        &mut self,
        count: usize,
        begun: Option<Step>,
        begin: impl Fn(&Self, Range<usize>) -> Result<Step, Problem>,
    ) -> Result<Vec<AdapterAnswer>, Problem> {
        if count == 1 || !self.rows_depend {
            let step = match begun {
                Some(step) => step,
                None => begin(self, 0..count)?,
            };
            match self.adapt_whole(count, step) {
                Err(_) if count > 1 && self.rows_depend => {}
                answered => return answered,
            }
        }
        let mut answers = Vec::with_capacity(count);
        for at in 0..count {
            let step = begin(self, at..at + 1)?;
            answers.extend(self.adapt_whole(1, step)?);
        }
        Ok(answers)
    }

    /// Has the adapter answer the items it [`prepare`]d last, with as many runs as it asks for. `count` is how many there
    /// are, `step` what it made of them. Where there are several, [`Runner::adapt_each`] is what callers want: this one
    /// fails where rows depend on each other.
    pub fn adapt(&mut self, count: usize, step: Step) -> Result<Vec<AdapterAnswer>, Problem> {
        let mut answers = self.adapt_whole(count, step)?;
        for answer in &mut answers {
            self.disclose_text(&mut answer.text)?;
        }
        Ok(answers)
    }

    /// The same with all that the adapter answered: the surface decides by it and calls [`Runner::disclose_text`] for what
    /// it tells.
    pub fn adapt_whole(
        &mut self,
        count: usize,
        mut step: Step,
    ) -> Result<Vec<AdapterAnswer>, Problem> {
        let adapter = self.adapter()?;
        let mut runs = 0;
        let mut ran = false;
        let answers = loop {
            let (other, tensors) = match step {
                Step::Answers(answers) => break answers,
                Step::Tensors(tensors) => (None, tensors),
                Step::Other(name, tensors) => (Some(self.step(&name)?), tensors),
            };
            if runs == MAX_ADAPTER_RUNS {
                return Err(broken_adapter(
                    self.model,
                    &format!("it asked for more than {MAX_ADAPTER_RUNS} runs"),
                ));
            }
            runs += 1;
            let options = RunOptions {
                is_joined: count > 1,
                ..RunOptions::default()
            };
            let outputs = match other {
                Some(other) => {
                    check_adapted(&tensors, &other.contract, self.model)?;
                    let outputs = self.compute(Some(other), tensors, &[], options)?;
                    ran = true;
                    outputs
                }
                None => {
                    if runs > 1 {
                        // What it made of the items was checked before they were charged.
                        check_adapted(&tensors, self.contract(), self.model)?;
                    }
                    let computed = self.cached(tensors, &[], options)?;
                    ran |= computed.ran;
                    computed.outputs
                }
            };
            step = adapter.advance(outputs).map_err(|message| {
                self.meter.ran_and_failed |= ran;
                broken_adapter(self.model, &message)
            })?;
        };
        if answers.len() != count {
            return Err(broken_adapter(
                self.model,
                &format!("it gave {} answers for {count} items", answers.len()),
            ));
        }
        // What was kept is answered for nothing, as a replay is.
        if ran || runs == 0 {
            self.ran(count as u64);
        }
        Ok(answers)
    }

    /// The model of a step of the pipeline.
    fn step(&self, name: &str) -> Result<&'a StepModel, Problem> {
        self.opened.steps.get(name).ok_or_else(|| {
            let message = format!(
                "it asks for the step `{}`, which [pipeline] of its model.toml does not name",
                shorten(name)
            );
            broken_adapter(self.model, &message)
        })
    }

    fn adapter(&self) -> Result<&'a P::Adapter, Problem> {
        let adapter = self.opened.adapter.as_ref();
        adapter.ok_or_else(|| broken_adapter(self.model, "there is none"))
    }

    /// Leaves in an adapter's answer what the caller may be told. It must be JSON.
    pub fn disclose_text(&self, text: &mut String) -> Result<(), Problem> {
        let entries = &self.call.policies.disclosure;
        if let Some(rules) = rules(entries, self.model, &self.call.caller.tier) {
            *text = rules
                .answer(text)
                .map_err(|message| broken_adapter(self.model, &message))?;
        }
        if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
            return Err(broken_adapter(self.model, "its answer is not JSON"));
        }
        Ok(())
    }

    /// Leaves in outputs what the caller may be told; how the classes ranked before, if that can be seen no more.
    pub fn disclose(&self, outputs: &mut [Tensor]) -> Option<Ranking> {
        disclose(
            &self.call.policies.disclosure,
            self.model,
            self.call.caller,
            self.contract(),
            outputs,
        )
    }

    /// How many bytes to reserve for outputs in a form.
    pub fn capacity(
        &self,
        outputs: &[Tensor],
        form: render::Form<'_>,
        copies: usize,
    ) -> Result<usize, Problem> {
        render::capacity(outputs, form, copies).map_err(outputs_too_large)
    }
}
