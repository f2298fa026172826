//! The gate's ports in memory: files in a map, the real services of the policies over a store in memory, validation
//! called natively, and a model whose function the test gives.

use crate::counting::{Counted, Counter};
use crate::{FakeClock, MemoryKv, ScriptedPolicy};
use penstock_core::kv::run_ready;
use penstock_core::{Clock, Kv, ModelVersion};
use penstock_gate::ports::{
    AdapterAnswer, AdapterPort, AdapterRefusal, ContractPort, ControlFailure, ControlFailureKind,
    Failure, FailureKind, Headers, InferOptions, Item, ParsedBody, Part, Ports,
    RefusalKind as AdapterRefusalKind, Services, Step,
};
use penstock_policy::auth::service::KvAuth;
use penstock_policy::auth::words::Environment;
use penstock_policy::batches::service::KvBatches;
use penstock_policy::cache::service::KvCache;
use penstock_policy::idempotency::service::KvIdempotency;
use penstock_policy::operations::service::KvOperations;
use penstock_policy::quota::service::{AdmissionService, KvAdmission, KvQuota, QuotaService};
use penstock_policy::quota::words as quota;
use penstock_policy::rollout::service::KvRollouts;
use penstock_policy::rollout::store::DOCUMENT;
use penstock_policy::usage::service::KvUsage;
use penstock_tensor::{
    Contract, InferRequest, Rejection, Tensor, Unknown, generate, infer, predict,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The function of a scripted model.
pub type Run = dyn Fn(&str, ModelVersion, Vec<Tensor>) -> Result<Vec<Tensor>, Failure>;

/// Decides whether a scripted model is ready.
pub type Ready = dyn Fn(&str) -> Result<(), Failure>;

/// The gate's ports in memory.
#[derive(Clone)]
pub struct InMemory {
    /// The clock that the gate reads.
    pub clock: Rc<FakeClock>,
    /// Model to file name to content. A name without content stands for a folder.
    pub models: Rc<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    /// The function of all models.
    pub run: Rc<Run>,
    /// The function that decides whether a model is ready.
    pub ready: Rc<Ready>,
    /// The number of a model's runs.
    pub runs: Rc<Cell<u64>>,
    /// The text of `penstock.toml`.
    pub policy: Rc<RefCell<String>>,
    /// The store of idempotency and usage.
    pub kv: MemoryKv,
    /// The questions to the limits of the policy.
    pub quota_log: QuotaLog,
    /// The priority of a model's last run.
    pub priority: Rc<Cell<Option<u8>>>,
    /// The environment variables of the host, by name.
    pub environment: Rc<RefCell<BTreeMap<String, String>>>,
    /// The messages to the operator.
    pub logged: Rc<RefCell<Vec<String>>>,
    /// Milliseconds that the gate waited.
    pub slept_ms: Rc<Cell<u64>>,
    /// The store of the rollouts and of their counters.
    pub rollout_kv: MemoryKv,
    /// Whether the rows of all models depend on each other.
    pub rows_depend: Rc<Cell<bool>>,
    /// Versions that were run for comparison.
    pub shadowed: Rc<RefCell<Vec<ModelVersion>>>,
    /// The host's facts about its models. Without it, the host has no such store.
    pub control: Option<Rc<Control>>,
    /// The calls that the gate made.
    pub calls: Counter,
    /// The policy of the operator's own.
    pub custom: ScriptedPolicy,
    /// Called while the gate waits.
    pub meanwhile: Meanwhile,
    random: Rc<Cell<u128>>,
}

/// A function that is called after each pause of the gate.
pub type Meanwhile = Rc<RefCell<Option<Box<dyn Fn(&InMemory)>>>>;

/// A host's facts about its models, and the operations that were requested.
#[derive(Debug, Default)]
pub struct Control {
    /// The statistics of the models, as JSON text.
    pub statistics: String,
    /// The repository's index, as JSON text.
    pub index: String,
    /// The requested changes so far, such as `load iris`.
    pub asked: RefCell<Vec<String>>,
}

impl InMemory {
    fn control<T>(&self, of: impl FnOnce(&Control) -> T) -> Result<T, ControlFailure> {
        let control = self.control.as_deref().ok_or_else(|| ControlFailure {
            kind: ControlFailureKind::Unsupported,
            message: "this host has no repository".to_owned(),
        });
        control.map(of)
    }

    /// Creates ports over these models, each given as its name, its contract and its versions, and `run`.
    pub fn new(
        models: &[(&str, &str, &[&str])],
        run: impl Fn(&str, ModelVersion, Vec<Tensor>) -> Result<Vec<Tensor>, Failure> + 'static,
    ) -> Self {
        let models = models.iter().map(|(name, contract, versions)| {
            let mut files =
                BTreeMap::from([("model.toml".to_owned(), contract.as_bytes().to_vec())]);
            files.extend(versions.iter().map(|v| ((*v).to_owned(), Vec::new())));
            ((*name).to_owned(), files)
        });
        Self {
            clock: Rc::default(),
            models: Rc::new(models.collect()),
            run: Rc::new(run),
            ready: Rc::new(|_| Ok(())),
            runs: Rc::default(),
            policy: Rc::new(RefCell::new(ANYBODY.to_owned())),
            kv: MemoryKv::default(),
            quota_log: QuotaLog::default(),
            priority: Rc::default(),
            environment: Rc::default(),
            logged: Rc::default(),
            slept_ms: Rc::default(),
            rollout_kv: MemoryKv::default(),
            rows_depend: Rc::default(),
            shadowed: Rc::default(),
            control: None,
            calls: Counter::default(),
            custom: ScriptedPolicy::default(),
            meanwhile: Rc::default(),
            random: Rc::default(),
        }
    }

    /// Writes the rollouts to their store, or deletes them.
    pub fn set_rollouts(&self, document: Option<&str>) {
        let written = match document {
            Some(text) => run_ready(self.rollout_kv.set(DOCUMENT, text.as_bytes())),
            None => run_ready(self.rollout_kv.delete(DOCUMENT)),
        };
        written.expect("the store answers");
    }

    /// The counters of canaries with a count.
    pub fn canary_counters(&self) -> Vec<i64> {
        let names = self.rollout_kv.names().into_iter();
        let names = names.filter(|name| name.starts_with("rollouts:tally:"));
        let counters = names.map(|name| run_ready(self.rollout_kv.increment(&name, 0)));
        let counters = counters.map(|counter| counter.expect("the store answers"));
        counters.filter(|counter| *counter > 0).collect()
    }

    /// Adds lines to the policy.
    pub fn add_policy(&self, text: &str) {
        self.policy.borrow_mut().push_str(text);
    }

    /// Replaces the text of the policy. If it has no `[auth]`, every caller is admitted.
    pub fn set_policy(&self, text: &str) {
        let open = if text.contains("[auth") { "" } else { ANYBODY };
        *self.policy.borrow_mut() = format!("{open}{text}");
    }
}

impl Services for InMemory {
    type Auth = Counted<KvAuth<MemoryKv>>;
    type Quota = Counted<NotedQuota>;
    type Idempotency = Counted<KvIdempotency<MemoryKv>>;
    type Usage = Counted<KvUsage<MemoryKv>>;
    type Operations = Counted<KvOperations<MemoryKv>>;
    type Batches = Counted<KvBatches<MemoryKv>>;
    type Custom = Counted<ScriptedPolicy>;
    type Cache = Counted<KvCache<MemoryKv>>;
    type Rollouts = Counted<KvRollouts<MemoryKv>>;

    fn open_auth(&self, text: &str, environment: Environment) -> Result<Self::Auth, String> {
        let pepper = |name: &str| (name == "pepper").then(|| PEPPER.to_owned());
        let auth = KvAuth::open(text, environment, self.kv.clone(), pepper)?;
        Ok(self.calls.of(auth))
    }

    fn open_quota(&self, policy: &str) -> Result<Self::Quota, String> {
        Ok(self.calls.of(NotedQuota {
            quota: KvQuota::open(policy, self.kv.clone())?,
            log: self.quota_log.clone(),
        }))
    }

    fn open_idempotency(&self, text: &str) -> Result<Self::Idempotency, String> {
        Ok(self.calls.of(KvIdempotency::open(text, self.kv.clone())?))
    }

    fn open_usage(&self, text: &str) -> Result<Self::Usage, String> {
        Ok(self.calls.of(KvUsage::open(text, self.kv.clone())?))
    }

    fn open_operations(&self, text: &str) -> Result<Self::Operations, String> {
        Ok(self.calls.of(KvOperations::open(text, self.kv.clone())?))
    }

    fn open_batches(&self, text: &str) -> Result<Self::Batches, String> {
        Ok(self.calls.of(KvBatches::open(text, self.kv.clone())?))
    }

    fn open_custom(&self, _text: &str) -> Result<Self::Custom, String> {
        match &self.custom.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(self.calls.of(self.custom.clone())),
        }
    }

    fn open_cache(&self) -> Self::Cache {
        self.calls.of(KvCache::new(self.kv.clone()))
    }

    fn open_rollouts(&self) -> Self::Rollouts {
        let (kv, counters) = (self.rollout_kv.clone(), self.rollout_kv.clone());
        self.calls.of(KvRollouts::new(kv, counters, |_| true))
    }
}

impl Ports for InMemory {
    type Contract = Counted<NativeValidation>;
    type Adapter = Counted<LengthAdapter>;

    fn unix_ms(&self) -> u64 {
        self.calls.host();
        self.clock.unix_ms()
    }

    fn monotonic_ns(&self) -> u64 {
        self.calls.host();
        self.clock.monotonic_ns()
    }

    fn random(&self) -> u128 {
        self.calls.host();
        self.random.set(self.random.get() + 1);
        // The numbers are spread over all bits, so that every few bits differ from one number to the next.
        let spread = self
            .random
            .get()
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        spread.rotate_left(64)
    }

    fn log(&self, message: &str) {
        self.calls.host();
        self.logged.borrow_mut().push(message.to_owned());
    }

    fn sleep_ms(&self, ms: u32) {
        self.calls.host();
        self.slept_ms.set(self.slept_ms.get() + u64::from(ms));
        self.clock.advance_ms(u64::from(ms));
        if let Some(meanwhile) = self.meanwhile.borrow().as_ref() {
            meanwhile(self);
        }
    }

    fn policy_text(&self) -> Result<String, String> {
        self.calls.host();
        Ok(self.policy.borrow().clone())
    }

    fn read_policy_file(&self, _name: &str) -> Option<String> {
        self.calls.host();
        None
    }

    fn environment(&self, name: &str) -> Option<String> {
        self.calls.host();
        self.environment.borrow().get(name).cloned()
    }

    fn list_models(&self) -> Vec<(String, Vec<String>)> {
        self.calls.host();
        self.models
            .iter()
            .map(|(name, files)| (name.clone(), files.keys().cloned().collect()))
            .collect()
    }

    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String> {
        self.calls.host();
        let found = self.models.get(model).and_then(|files| files.get(file));
        found.cloned().ok_or_else(|| format!("no file {file}"))
    }

    fn model_file_written_s(&self, model: &str, file: &str) -> Option<u64> {
        self.calls.host();
        let files = self.models.get(model)?;
        files.contains_key(file).then_some(1_767_225_600)
    }

    fn open_contract(&self, text: &str) -> Result<Self::Contract, String> {
        self.calls.component();
        Contract::parse(text)
            .map(|contract| self.calls.of(NativeValidation(contract)))
            .map_err(|faults| format!("{faults:?}"))
    }

    fn open_adapter(&self, name: &str, _config: &[u8]) -> Result<Self::Adapter, String> {
        self.calls.component();
        match name {
            "length" | "vectors" | "pictures" | "classes" | "pairs" | "pipeline" => {
                Ok(self.calls.of(LengthAdapter {
                    other: Cell::new(name == "pipeline"),
                    pipes: name == "pipeline",
                    embeds: name == "vectors",
                    pictures: name == "pictures",
                    classifies: name == "classes",
                    scores: name == "pairs",
                    ..LengthAdapter::default()
                }))
            }
            _ => Err(format!("no adapter `{name}`")),
        }
    }

    fn infer(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        outputs: &[String],
        options: InferOptions,
    ) -> Result<Vec<Tensor>, Failure> {
        self.calls.component();
        if options.is_combined && self.rows_depend.get() {
            return Err(Failure {
                kind: FailureKind::RowsDepend,
                message: "operator CumSum sums over the items of a run".to_owned(),
                retry_after_ms: None,
            });
        }
        self.priority.set(options.priority);
        self.runs.set(self.runs.get() + 1);
        let mut tensors = (self.run)(model, version, inputs)?;
        tensors.retain(|t| outputs.is_empty() || outputs.contains(&t.name));
        Ok(tensors)
    }

    fn shadow(
        &self,
        _model: &str,
        version: ModelVersion,
        _inputs: Vec<Tensor>,
        _expected: Vec<Tensor>,
    ) -> Result<(), Failure> {
        self.calls.component();
        self.shadowed.borrow_mut().push(version);
        Ok(())
    }

    fn ready(&self, model: &str, _version: ModelVersion) -> Result<(), Failure> {
        self.calls.component();
        (self.ready)(model)
    }

    fn statistics(
        &self,
        _model: Option<&str>,
        _version: Option<ModelVersion>,
    ) -> Result<String, ControlFailure> {
        self.calls.component();
        self.control(|control| control.statistics.clone())
    }

    fn index(&self, _ready: bool) -> Result<String, ControlFailure> {
        self.calls.component();
        self.control(|control| control.index.clone())
    }

    fn load(&self, model: &str) -> Result<(), ControlFailure> {
        self.calls.component();
        self.control(|control| control.asked.borrow_mut().push(format!("load {model}")))
    }

    fn unload(&self, model: &str) -> Result<(), ControlFailure> {
        self.calls.component();
        self.control(|control| control.asked.borrow_mut().push(format!("unload {model}")))
    }
}

/// Limits of every kind that a test does not reach.
pub const LIMITS: &str = "
[[limits]]
name = \"calls\"
limit = 100_000
window_s = 60
[[limits]]
name = \"items\"
unit = \"items\"
limit = 100_000
window_s = 60
[[limits]]
name = \"compute\"
unit = \"compute-ms\"
limit = 100_000
window_s = 60
";

/// An `[auth]` that permits everything to every caller.
pub const ANYBODY: &str = "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n";

/// The pepper of tests.
pub const PEPPER: &str = "a pepper that only tests have";

/// Validation called without a component boundary.
pub struct NativeValidation(Contract);

impl ContractPort for NativeValidation {
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection> {
        let parsed = predict::parse_predict(body.as_bytes(), &self.0)?;
        Ok(ParsedBody {
            id: parsed.id,
            model_version: parsed.model_version,
            inputs: parsed.inputs,
        })
    }

    fn parse_infer(
        &self,
        body: &str,
        tail_bytes: u64,
        unknown: Unknown,
    ) -> Result<InferRequest, Rejection> {
        infer::parse_infer(body.as_bytes(), tail_bytes, &self.0, unknown)
    }

    fn parse_generate(&self, body: &str, unknown: Unknown) -> Result<InferRequest, Rejection> {
        generate::parse(body.as_bytes(), &self.0, unknown)
    }
}

/// Longest content that [`LengthAdapter`] accepts.
pub const LONGEST: usize = 1 << 20;

/// An adapter that makes FP32 `[N, 1]` input `x` from the lengths of its items. It refuses images and empty content,
/// and answers for the text `known` without a model. The text `twice` is run twice. Under the name `vectors` it gives
/// embeddings, under `classes` and `pairs` classes and scores, and under `pictures` it refuses text. Under `pipeline`
/// it makes the step `second` run on the model's outputs.
#[derive(Default)]
pub struct LengthAdapter {
    again: Cell<bool>,
    /// Whether it gives embeddings too.
    embeds: bool,
    /// Whether the adapter refuses text.
    pictures: bool,
    /// Whether it gives the classes `long` and `short`: a text of 100 bytes counts as long.
    classifies: bool,
    /// Whether it gives a score, which is the length.
    scores: bool,
    /// Whether it makes the step `second` run on the model's outputs, and whether that is still to come.
    pipes: bool,
    other: Cell<bool>,
}

impl LengthAdapter {
    fn length(item: u32, content: &Item<'_>, cut_to: Option<u32>) -> Result<f32, AdapterRefusal> {
        let refusal = |part: usize, kind| AdapterRefusal {
            item,
            part: Some(part as u32),
            kind,
        };
        let mut length = 0;
        for (at, part) in content.parts.iter().enumerate() {
            length += match part {
                Part::Image(_) => {
                    return Err(refusal(
                        at,
                        AdapterRefusalKind::UnsupportedMediaType(
                            "this adapter takes text, not images".into(),
                        ),
                    ));
                }
                Part::Text(text) => text.len(),
                Part::Tokens(tokens) => tokens.len(),
                Part::Audio(blob) | Part::Bytes(blob) => blob.body.len(),
            };
            if length == 0 {
                let kind = AdapterRefusalKind::InvalidContent("the content is empty".into());
                return Err(refusal(at, kind));
            }
            if length > LONGEST && cut_to.is_none() {
                let message = format!("the content is longer than {LONGEST}");
                return Err(refusal(at, AdapterRefusalKind::TooLong(message)));
            }
        }
        let most = cut_to.map_or(LONGEST, |cut_to| LONGEST.min(cut_to as usize));
        Ok(length.min(most) as f32)
    }
}

impl AdapterPort for LengthAdapter {
    fn prepare(&self, items: &[Item<'_>], cut_to: Option<u32>) -> Result<Step, AdapterRefusal> {
        if self.pictures {
            let message = "this adapter takes images, not text".into();
            return Err(AdapterRefusal {
                item: 0,
                part: Some(0),
                kind: AdapterRefusalKind::UnsupportedMediaType(message),
            });
        }
        let whole = |item: &Item<'_>| match item.parts.first() {
            Some(Part::Text(text)) => text.as_bytes().to_vec(),
            Some(Part::Bytes(blob)) => blob.body.to_vec(),
            _ => Vec::new(),
        };
        let answer = |text: &str| AdapterAnswer {
            text: text.into(),
            units: 0,
        };
        if let [only] = items {
            match whole(only).as_slice() {
                b"known" => return Ok(Step::Answers(vec![answer(r#"{"label":"known"}"#)])),
                b"broken" => return Ok(Step::Answers(vec![answer("{")])),
                text => self.again.set(text == b"twice"),
            }
        }
        let each = items.iter().zip(0..);
        let lengths: Vec<f32> = each
            .map(|(item, at)| Self::length(at, item, cut_to))
            .collect::<Result<_, _>>()?;
        Ok(Step::Tensors(vec![Tensor {
            name: "x".into(),
            datatype: penstock_tensor::Datatype::Fp32,
            shape: vec![items.len() as u64, 1],
            data: lengths.iter().flat_map(|n| n.to_le_bytes()).collect(),
        }]))
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        let mut output = outputs.into_iter().next().ok_or("no output")?;
        if self.other.take() {
            output.name = "x".into();
            return Ok(Step::Other("second".into(), vec![output]));
        }
        self.other.set(self.pipes);
        if self.again.take() {
            output.name = "x".into();
            return Ok(Step::Tensors(vec![output]));
        }
        let (numbers, _) = output.data.as_chunks::<4>();
        let answer = |bytes: &[u8; 4]| {
            let length = f32::from_le_bytes(*bytes);
            AdapterAnswer {
                text: match (self.embeds, self.classifies, self.scores) {
                    (true, ..) => format!("{{\"embedding\":[{length},0.5]}}"),
                    (_, true, _) => {
                        let long = (length / 100.0).min(1.0);
                        let short = 1.0 - long;
                        let label = if long > short { "long" } else { "short" };
                        format!(
                            "{{\"label\":\"{label}\",\"scores\":{{\"long\":{long},\"short\":{short}}},\"probs\":[{long},{short}]}}"
                        )
                    }
                    (.., true) => format!("{{\"score\":{length}}}"),
                    _ => format!("{{\"length\":{length}}}"),
                },
                units: length as u64,
            }
        };
        Ok(Step::Answers(numbers.iter().map(answer).collect()))
    }
}

/// The questions to the limits, as text, in their order.
pub type QuotaLog = Rc<RefCell<Vec<String>>>;

/// A quota over a store in memory, which records its questions.
#[derive(Debug)]
pub struct NotedQuota {
    quota: KvQuota<MemoryKv>,
    log: QuotaLog,
}

/// A call that [`NotedQuota`] admitted.
#[derive(Debug)]
pub struct NotedAdmission {
    admission: KvAdmission<MemoryKv>,
    log: QuotaLog,
}

impl QuotaService for NotedQuota {
    type Admission = NotedAdmission;

    fn scope(&self) -> quota::Scope {
        self.quota.scope()
    }

    fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String> {
        self.quota.fallbacks(now_ms, random)
    }

    fn admit(
        &self,
        call: &quota::Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<quota::Admitted<NotedAdmission>, quota::Refusal> {
        let address = call.caller.address.as_deref().unwrap_or("-");
        let model = call.model.unwrap_or("-");
        self.log.borrow_mut().push(format!(
            "admit {} {model} {address} {}",
            call.route, call.body_bytes
        ));
        let admitted = self.quota.admit(call, now_ms, random)?;
        Ok(quota::Admitted {
            admission: NotedAdmission {
                admission: admitted.admission,
                log: self.log.clone(),
            },
            wait_ms: admitted.wait_ms,
            headers: admitted.headers,
        })
    }

    fn settle_deferred(&self, receipt: &str, ran: Option<u64>, now_ms: u64) {
        self.log
            .borrow_mut()
            .push(format!("settle deferred {ran:?}"));
        self.quota.settle_deferred(receipt, ran, now_ms);
    }
}

impl AdmissionService for NotedAdmission {
    fn charge_items(
        &self,
        items: u64,
        now_ms: u64,
        random: u64,
    ) -> Result<Headers, quota::Refusal> {
        self.log.borrow_mut().push(format!("charge {items}"));
        self.admission.charge_items(items, now_ms, random)
    }

    fn refund_items(&self, now_ms: u64) -> Headers {
        self.log.borrow_mut().push("refund".to_owned());
        self.admission.refund_items(now_ms)
    }

    fn receipt(&self) -> String {
        self.admission.receipt()
    }

    fn settle(&self, compute_ms: u64, now_ms: u64) {
        self.log.borrow_mut().push(format!("settle {compute_ms}"));
        self.admission.settle(compute_ms, now_ms);
    }
}
