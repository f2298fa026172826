//! Runs a model for a surface. This module alone sends inputs to the engine and receives outputs, for every form of
//! call. It executes an adapter's runs one after the other.

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
use cache::{CacheOutcome, Caching};
use penstock_core::{Code, PredictionId, Problem};
use penstock_policy::disclosure::rules;
use penstock_tensor::outputs::{Lengths, settle};
use penstock_tensor::render::{self, Ranking};
use penstock_tensor::{Contract, Tensor};
use prepare::{check_adapted, item_count};
use std::ops::Range;

/// The most runs that one adapter may request for one call. A minute of sound in pieces of 32 ms takes 1,875.
/// `MAX_RUNS` of the adapter `silero-vad` is the same number.
pub(crate) const MAX_ADAPTER_RUNS: u32 = 4_096;

/// The most input bytes that are copied for a shadow run. The copy is in the memory of the instance.
const MAX_SHADOW_BYTES: usize = 1 << 20;

/// Calls that the client cancelled, or gave less time than this, say nothing about a version's health. They must not
/// end a canary.
const PATIENCE_NS: u64 = 1_000_000_000;

/// The options of a run that the caller sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunOptions {
    /// The priority level; 1 runs first.
    pub priority: Option<u8>,
    /// The time that the call may take, in microseconds.
    pub timeout_us: Option<u64>,
    /// Marks the rows as independent items; see [`Runner::infer_combined`].
    pub is_combined: bool,
}

/// The answer that a surface writes.
pub(crate) struct SurfaceAnswer {
    pub response: Response,
    /// The prediction's id, if the answer is one prediction.
    pub prediction_id: Option<PredictionId>,
}

/// A decoded body that is ready to be charged, claimed and run.
pub(crate) trait Work<P: Ports> {
    /// Returns the number of items to charge. It is known before the model runs.
    fn items(&self) -> u64;
    /// Returns the version that the body requests.
    fn model_version(&self) -> Option<&str> {
        None
    }
    /// Runs the model and writes the answer.
    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<SurfaceAnswer, Problem>;
}

/// The outputs, and whether the model ran to compute them.
struct Computed {
    outputs: Vec<Tensor>,
    ran: bool,
}

/// A call whose model runs.
pub(crate) struct Runner<'a, P: Ports> {
    pub call: &'a ModelCall<'a, P>,
    pub opened: &'a Opened<P>,
    pub model: &'a str,
    pub serving: &'a Serving,
    pub meter: &'a mut Meter,
    pub cache: Caching<'a>,
    /// The number of prediction ids given out so far.
    predictions: u128,
    /// Set once the engine reports that the rows of this version depend on each other.
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

    /// Generates the id of one more prediction.
    pub fn prediction_id(&mut self) -> PredictionId {
        let context = self.call.context;
        let random = context.random.wrapping_add(self.predictions);
        self.predictions += 1;
        PredictionId::generate(context.unix_ms, random)
    }

    /// Adds items to the number that were run.
    pub fn ran(&mut self, items: u64) {
        self.meter.items = self.meter.items.saturating_add(items);
    }

    /// Runs the model once and counts its items. Empty `outputs` means all.
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

    /// Returns outputs of the model for these inputs, from the cache on a hit, else from a run.
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
            is_combined: options.is_combined,
            timeout_us: options.timeout_us,
        };
        let cache = (self.call.ports, &self.call.policies.results);
        let keep = match self.cache.look_up(cache, &question)? {
            CacheOutcome::Found(outputs) => {
                return Ok(Computed {
                    outputs,
                    ran: false,
                });
            }
            CacheOutcome::Run(keep) => keep,
        };
        let computed = self.compute(None, inputs, outputs, options);
        self.cache.keep(cache, keep, computed.as_deref().ok());
        Ok(Computed {
            outputs: computed?,
            ran: true,
        })
    }

    /// Runs the model once on items that were combined to save runs. Returns `None` and runs nothing if an item's
    /// answer depends on the other items. Each item then needs a run of its own.
    pub fn infer_combined(
        &mut self,
        inputs: Vec<Tensor>,
        outputs: &[String],
    ) -> Result<Option<Vec<Tensor>>, Problem> {
        if self.rows_depend {
            return Ok(None);
        }
        let options = RunOptions {
            is_combined: true,
            ..RunOptions::default()
        };
        match self.infer(inputs, outputs, options) {
            Err(_) if self.rows_depend => Ok(None),
            ran => ran.map(Some),
        }
    }

    /// Runs the model once without the cache; the caller does the counting. `other` is another model to run instead,
    /// with the same options and without a shadow run.
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
            // A timeout that the caller chose, or a cancellation, says nothing about the model's health.
            let hurried = f.kind == FailureKind::DeadlineExceeded
                && (options.timeout_us.is_some() || took_ns < PATIENCE_NS);
            let kind = f.kind;
            let problem = failure(f, Some(contract));
            self.meter.failed = Some(match problem.code {
                // Inputs that the caller has to correct say nothing about it either.
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
            // Calls that wait for an answer run before the shadow run. Its failure changes no answer, so ignore it.
            let _ = ports.shadow(self.model, version, inputs, tensors.clone());
        }
        Ok(tensors)
    }

    /// Returns the options for the engine. No caller gets a better priority than its tier's.
    fn infer_options(&self, options: RunOptions) -> InferOptions {
        let batching = &self.contract().batching;
        let usual = batching
            .default_priority
            .unwrap_or(batching.priority_levels);
        let priority = match (self.call.priority, options.priority) {
            (Some(tier), Some(asked)) => Some(tier.max(asked)),
            // If some tiers have a priority, a tier without one gets the model's default.
            (None, Some(asked)) if self.call.policies.ranks_tiers => Some(asked.max(usual)),
            (tier, asked) => tier.or(asked),
        };
        let ms = |us: u64| u32::try_from(us.div_ceil(1_000)).unwrap_or(u32::MAX);
        InferOptions {
            priority,
            timeout_ms: options.timeout_us.map(ms),
            is_combined: options.is_combined,
        }
    }

    /// Lets the adapter answer several items. They run together, or one after the other if rows depend on each other.
    /// In the second case, each is prepared on its own, so that no item is padded to the length of another. `begin`
    /// starts the adapter on a range of items. `begun` is its step for all items, if the caller already has it.
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

    /// Does the same as [`Runner::adapt_each`] without the disclosure rules; see [`Runner::adapt_whole`].
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

    /// Lets the adapter answer the items that it [`prepare`]d last, with as many runs as it requests. `count` is the
    /// number of items, `step` the adapter's step for them. This fails if rows depend on each other. For several
    /// items, use [`Runner::adapt_each`].
    pub fn adapt(&mut self, count: usize, step: Step) -> Result<Vec<AdapterAnswer>, Problem> {
        let mut answers = self.adapt_whole(count, step)?;
        for answer in &mut answers {
            self.disclose_text(&mut answer.text)?;
        }
        Ok(answers)
    }

    /// Does the same as [`Runner::adapt`] without the disclosure rules. The surface decides by the whole answer, and
    /// calls [`Runner::disclose_text`] on the part that it returns.
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
                is_combined: count > 1,
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
                        // The first step's tensors were checked before the items were charged.
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
        // Cached results are free of charge, as replays are.
        if ran || runs == 0 {
            self.ran(count as u64);
        }
        Ok(answers)
    }

    /// Returns the model of a step of the pipeline.
    fn step(&self, name: &str) -> Result<&'a StepModel, Problem> {
        self.opened.steps.get(name).ok_or_else(|| {
            let message = format!(
                "it requests the step `{}`, which [pipeline] of its model.toml does not name",
                shorten(name)
            );
            broken_adapter(self.model, &message)
        })
    }

    fn adapter(&self) -> Result<&'a P::Adapter, Problem> {
        let adapter = self.opened.adapter.as_ref();
        adapter.ok_or_else(|| broken_adapter(self.model, "the model has none"))
    }

    /// Applies the disclosure rules to an adapter's answer, which must be JSON.
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

    /// Applies the disclosure rules to outputs. Returns the original ranking of the classes if the rules hide it.
    pub fn disclose(&self, outputs: &mut [Tensor]) -> Option<Ranking> {
        disclose(
            &self.call.policies.disclosure,
            self.model,
            self.call.caller,
            self.contract(),
            outputs,
        )
    }

    /// Returns the number of bytes to reserve for outputs in a form.
    pub fn capacity(
        &self,
        outputs: &[Tensor],
        form: render::Form<'_>,
        copies: usize,
    ) -> Result<usize, Problem> {
        render::capacity(outputs, form, copies).map_err(outputs_too_large)
    }
}
