//! Runs a model for a surface: the one place where inputs go to the engine and outputs come back, whatever the call
//! looked like, with the limits of the call, and an adapter's runs one after the other.

use super::cache::Caching;
use super::version::Serving;
use super::{Call, Meter};
use crate::catalogue::{Opened, StepModel};
use crate::disclose::disclose;
use crate::gate::failure;
use crate::ports::{AdapterAnswer, AdapterPort, FailureKind, Item, Ports, Refusal, Step, Terms};
use crate::record::Response;
use penstock_core::{Code, PredictionId, Problem};
use penstock_policy::disclosure::rules;
use penstock_tensor::check::NOT_FINITE;
use penstock_tensor::contract::{Dim, TooLong};
use penstock_tensor::outputs::{Lengths, settle};
use penstock_tensor::render::{self, Ranking};
use penstock_tensor::{Contract, Tensor};
use std::ops::Range;

/// The most runs one adapter may ask for to answer one call: a minute of sound in pieces of 32 ms takes 1,875.
/// `MAX_RUNS` of the adapter `silero-vad` follows it.
pub(crate) const MAX_ADAPTER_RUNS: u32 = 4_096;

/// The most bytes of inputs that a version runs on beside what answers: they are copied, in the memory of the instance.
const MAX_SHADOW_BYTES: usize = 1 << 20;

/// How long a caller has to wait for a run to be held against the version that it did not end: whoever hangs up sooner, or
/// gives a call less time, would end canaries that are well.
const PATIENCE_NS: u64 = 1_000_000_000;

/// What a caller asks of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The line to wait in, 1 the first to run.
    pub priority: Option<u8>,
    /// Microseconds the call may take.
    pub timeout_us: Option<u64>,
    /// The rows are items of their own; see [`Runner::infer_joined`].
    pub is_joined: bool,
}

/// A surface's answer.
pub(crate) struct Answer {
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
    fn run(self: Box<Self>, runner: &mut Runner<'_, P>) -> Result<Answer, Problem>;
}

/// A call that runs.
pub(crate) struct Runner<'a, P: Ports> {
    pub call: &'a Call<'a, P>,
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
        call: &'a Call<'a, P>,
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
        wishes: Wishes,
    ) -> Result<Vec<Tensor>, Problem> {
        let items = item_count(&inputs, self.contract());
        let computed = self.cached(inputs, outputs, wishes)?;
        if computed.ran {
            self.ran(items);
        }
        Ok(computed.outputs)
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
        let wishes = Wishes {
            is_joined: true,
            ..Wishes::default()
        };
        match self.infer(inputs, outputs, wishes) {
            Err(_) if self.rows_depend => Ok(None),
            ran => ran.map(Some),
        }
    }

    /// Runs the model once, past the cache, and leaves the counting to the caller.
    pub(super) fn compute(
        &mut self,
        inputs: Vec<Tensor>,
        outputs: &[String],
        wishes: Wishes,
    ) -> Result<Vec<Tensor>, Problem> {
        self.compute_of(None, inputs, outputs, wishes)
    }

    /// The same of another model, where one is given: on the call's terms, and without a shadow.
    fn compute_of(
        &mut self,
        other: Option<&'a StepModel>,
        inputs: Vec<Tensor>,
        outputs: &[String],
        wishes: Wishes,
    ) -> Result<Vec<Tensor>, Problem> {
        let ports = self.call.ports;
        let (model, version, contract) = match other {
            Some(other) => (other.model.as_str(), other.version, &other.contract),
            None => (self.model, self.serving.version, self.contract()),
        };
        let terms = self.terms(wishes);
        let shadow = (self.serving.shadow)
            .filter(|_| other.is_none())
            .filter(|_| inputs.iter().map(|t| t.data.len()).sum::<usize>() <= MAX_SHADOW_BYTES)
            .map(|version| (version, inputs.clone()));
        let shapes = (inputs.iter()).map(|t| (t.name.as_str(), t.shape.iter().copied()));
        let lengths = Lengths::of(contract, shapes);
        let begun_ns = ports.monotonic_ns();
        let computed = ports.infer(model, version, inputs, outputs, terms);
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
                && (wishes.timeout_us.is_some() || took_ns < PATIENCE_NS);
            let kind = f.kind;
            let problem = failure(f, Some(contract));
            self.meter.failed = Some(match problem.code {
                // What the caller has to mend, neither.
                Code::ModelRejectedInputs => FailureKind::InputsRejected,
                _ if hurried => FailureKind::InputsRejected,
                _ => kind,
            });
            self.meter.ran_and_failed |= !super::was_not_run(problem.code);
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

    /// On whose terms a call runs: nobody comes before the place of their tier.
    fn terms(&self, wishes: Wishes) -> Terms {
        let batching = &self.contract().batching;
        let usual = batching
            .default_priority
            .unwrap_or(batching.priority_levels);
        let priority = match (self.call.priority, wishes.priority) {
            (Some(tier), Some(asked)) => Some(tier.max(asked)),
            // Among tiers that have one, a tier without a priority stands where the model puts it.
            (None, Some(asked)) if self.call.policies.ranks_tiers => Some(asked.max(usual)),
            (tier, asked) => tier.or(asked),
        };
        let ms = |us: u64| u32::try_from(us.div_ceil(1_000)).unwrap_or(u32::MAX);
        Terms {
            priority,
            timeout_ms: wishes.timeout_us.map(ms),
            is_joined: wishes.is_joined,
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
            let wishes = Wishes {
                is_joined: count > 1,
                ..Wishes::default()
            };
            let outputs = match other {
                Some(other) => {
                    check_adapted(&tensors, &other.contract, self.model)?;
                    let outputs = self.compute_of(Some(other), tensors, &[], wishes)?;
                    ran = true;
                    outputs
                }
                None => {
                    if runs > 1 {
                        // What it made of the items was checked before they were charged.
                        check_adapted(&tensors, self.contract(), self.model)?;
                    }
                    let computed = self.cached(tensors, &[], wishes)?;
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
                crate::route::shorten(name)
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
        render::capacity(outputs, form, copies).map_err(too_much)
    }
}

/// Why outputs cannot be written.
pub(crate) fn too_much(bytes: usize) -> Problem {
    Problem::new(
        Code::ModelRejectedInputs,
        format!(
            "the model answered, and its outputs are {bytes} bytes of JSON, more than there is memory for; \
             send fewer items"
        ),
    )
}

/// Why items could not be prepared.
pub(crate) enum Unprepared {
    /// The adapter refuses one of them.
    Refused(Refusal),
    /// The adapter is broken.
    Broken(Problem),
}

/// To how many tokens the contract has longer texts cut.
pub(crate) fn cut_to(contract: &Contract) -> Option<u32> {
    let adapter = contract.adapter.as_ref()?;
    (adapter.too_long == TooLong::Truncate).then_some(u32::MAX)
}

/// How many items of a call run together.
pub(crate) fn at_once(contract: &Contract) -> usize {
    usize::try_from(contract.limits.max_items).unwrap_or(usize::MAX)
}

/// Turns items into what the model is to run on first, checked like a stranger's: the adapter is a component of its own.
pub(crate) fn prepare<A: AdapterPort>(
    adapter: &A,
    contract: &Contract,
    model: &str,
    items: &[Item<'_>],
) -> Result<Step, Problem> {
    prepare_cut(adapter, contract, model, items, cut_to(contract)).map_err(|e| match e {
        Unprepared::Refused(refusal) => super::content::refused(refusal),
        Unprepared::Broken(problem) => problem,
    })
}

/// The same, with longer texts cut to so many tokens; the caller words what the adapter refuses.
pub(crate) fn prepare_cut<A: AdapterPort>(
    adapter: &A,
    contract: &Contract,
    model: &str,
    items: &[Item<'_>],
    cut_to: Option<u32>,
) -> Result<Step, Unprepared> {
    let step = adapter
        .prepare(items, cut_to)
        .map_err(Unprepared::Refused)?;
    if let Step::Tensors(tensors) = &step {
        check_adapted(tensors, contract, model).map_err(Unprepared::Broken)?;
    }
    Ok(step)
}

fn check_adapted(tensors: &[Tensor], contract: &Contract, model: &str) -> Result<(), Problem> {
    penstock_tensor::check_tensors(tensors, contract).map_err(|r| {
        // Content can lead to such numbers: the samples of a sound, or the state of a model that they were fed to.
        let from_content =
            !r.violations.is_empty() && r.violations.iter().all(|v| v.rule == NOT_FINITE);
        match from_content {
            true => Problem::new(
                Code::ModelRejectedInputs,
                format!(
                    "the content leads to numbers that the model does not take: {}",
                    r.message
                ),
            ),
            false => broken_adapter(model, &r.message),
        }
    })
}

/// How many items a batch has: the size of the batch axis, or one.
pub(crate) fn item_count(inputs: &[Tensor], contract: &Contract) -> u64 {
    let Some(batch) = contract.batch_axis() else {
        return 1;
    };
    // An optional input may not be there.
    let batched = contract
        .inputs
        .iter()
        .filter(|spec| matches!(spec.shape.first(), Some(Dim::Symbol(name)) if name == batch))
        .find_map(|spec| inputs.iter().find(|tensor| tensor.name == spec.name));
    batched
        .and_then(|tensor| tensor.shape.first())
        .copied()
        .unwrap_or(1)
}

pub(crate) fn broken_adapter(model: &str, message: &str) -> Problem {
    Problem::new(
        Code::Internal,
        format!("the adapter of model `{model}` failed: {message}"),
    )
}
