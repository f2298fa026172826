//! The gate's ports in memory, with every call counted: in a component, each is a call of another component or of the host.

use crate::{InMemory, ScriptedPolicy};
use penstock_core::headers::Headers;
use penstock_core::{Caller, ModelVersion};
use penstock_gate::ports::{
    AdapterPort, AdapterRefusal, ContractPort, ControlFailure, Failure, InferOptions, Item,
    ParsedBody, Ports, Services, Step,
};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words as auth;
use penstock_policy::cache::service::CacheService;
use penstock_policy::cache::words as cache;
use penstock_policy::custom::service::{AdmissionService as CustomAdmission, CustomService};
use penstock_policy::custom::words as custom;
use penstock_policy::idempotency::service::{AttemptService, IdempotencyService};
use penstock_policy::idempotency::words as idempotency;
use penstock_policy::quota::service::{AdmissionService, QuotaService};
use penstock_policy::quota::words as quota;
use penstock_policy::rollout::service::RolloutService;
use penstock_policy::rollout::words::RolloutFailure;
use penstock_policy::usage::service::UsageService;
use penstock_policy::usage::words as usage;
use penstock_tensor::{InferRequest, Rejection, Tensor, Unknown};
use std::cell::Cell;
use std::rc::Rc;

/// The calls that a gate made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls of other components: policies, validation, adapters, inference, models.
    pub component: u64,
    /// Calls of the host: clock, randomness, files, environment, log.
    pub host: u64,
}

/// Ports in memory that count.
#[derive(Clone)]
pub struct Counting {
    /// The ports behind.
    pub ports: InMemory,
    calls: Rc<Cell<Calls>>,
}

/// A service or a resource whose calls are counted.
pub struct Counted<T> {
    inner: T,
    calls: Rc<Cell<Calls>>,
}

impl<T> Counted<T> {
    fn call(&self) -> &T {
        count(&self.calls, |calls| calls.component += 1);
        &self.inner
    }

    fn wrap<U>(&self, inner: U) -> Counted<U> {
        let calls = self.calls.clone();
        Counted { inner, calls }
    }
}

fn count(calls: &Cell<Calls>, add: impl FnOnce(&mut Calls)) {
    let mut counted = calls.get();
    add(&mut counted);
    calls.set(counted);
}

impl Counting {
    /// Counts what is asked of these ports.
    pub fn new(ports: InMemory) -> Self {
        let calls = Rc::default();
        Self { ports, calls }
    }

    /// The calls since this was asked last.
    pub fn take(&self) -> Calls {
        self.calls.take()
    }

    /// Operations on the stores so far.
    pub fn store_operations(&self) -> u64 {
        self.ports.kv.operations() + self.ports.rollout_kv.operations()
    }

    fn component(&self) -> &InMemory {
        count(&self.calls, |calls| calls.component += 1);
        &self.ports
    }

    fn host(&self) -> &InMemory {
        count(&self.calls, |calls| calls.host += 1);
        &self.ports
    }

    fn counted<T>(&self, inner: T) -> Counted<T> {
        let calls = self.calls.clone();
        Counted { inner, calls }
    }
}

impl Services for Counting {
    type Auth = Counted<<InMemory as Services>::Auth>;
    type Quota = Counted<<InMemory as Services>::Quota>;
    type Idempotency = Counted<<InMemory as Services>::Idempotency>;
    type Usage = Counted<<InMemory as Services>::Usage>;
    type Custom = Counted<ScriptedPolicy>;
    type Cache = Counted<<InMemory as Services>::Cache>;
    type Rollouts = Counted<<InMemory as Services>::Rollouts>;

    fn open_auth(&self, policy: &str, more: auth::Environment) -> Result<Self::Auth, String> {
        Ok(self.counted(self.component().open_auth(policy, more)?))
    }

    fn open_quota(&self, policy: &str) -> Result<Self::Quota, String> {
        Ok(self.counted(self.component().open_quota(policy)?))
    }

    fn open_idempotency(&self, policy: &str) -> Result<Self::Idempotency, String> {
        Ok(self.counted(self.component().open_idempotency(policy)?))
    }

    fn open_usage(&self, policy: &str) -> Result<Self::Usage, String> {
        Ok(self.counted(self.component().open_usage(policy)?))
    }

    fn open_custom(&self, policy: &str) -> Result<Self::Custom, String> {
        Ok(self.counted(self.component().open_custom(policy)?))
    }

    fn open_cache(&self) -> Self::Cache {
        self.counted(self.ports.open_cache())
    }

    fn open_rollouts(&self) -> Self::Rollouts {
        self.counted(self.ports.open_rollouts())
    }
}

impl<T: AuthService> AuthService for Counted<T> {
    fn admit(
        &self,
        shown: &auth::Presented<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<auth::Admitted, auth::Refusal> {
        self.call().admit(shown, now_ms, random)
    }

    fn sees(&self, caller: &Caller, models: &[String]) -> Vec<bool> {
        self.call().sees(caller, models)
    }
}

impl<T: QuotaService> QuotaService for Counted<T> {
    type Admission = Counted<T::Admission>;

    fn scope(&self) -> quota::Scope {
        self.call().scope()
    }

    fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String> {
        self.call().fallbacks(now_ms, random)
    }

    fn admit(
        &self,
        call: &quota::Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<quota::Admitted<Self::Admission>, quota::Refusal> {
        let admitted = self.call().admit(call, now_ms, random)?;
        Ok(quota::Admitted {
            admission: self.wrap(admitted.admission),
            wait_ms: admitted.wait_ms,
            headers: admitted.headers,
        })
    }
}

impl<T: AdmissionService> AdmissionService for Counted<T> {
    fn charge_items(
        &self,
        items: u64,
        now_ms: u64,
        random: u64,
    ) -> Result<Headers, quota::Refusal> {
        self.call().charge_items(items, now_ms, random)
    }

    fn refund_items(&self, now_ms: u64) -> Headers {
        self.call().refund_items(now_ms)
    }

    fn settle(&self, compute_ms: u64, now_ms: u64) {
        self.call().settle(compute_ms, now_ms);
    }
}

impl<T: IdempotencyService> IdempotencyService for Counted<T> {
    type Attempt = Counted<T::Attempt>;

    fn rules(&self) -> idempotency::Rules {
        self.call().rules()
    }

    fn look(
        &self,
        call: &idempotency::Call<'_>,
        now_ms: u64,
    ) -> Result<idempotency::Looked<Self::Attempt>, idempotency::Refusal> {
        Ok(match self.call().look(call, now_ms)? {
            idempotency::Looked::Free(attempt) => idempotency::Looked::Free(self.wrap(attempt)),
            idempotency::Looked::Done(kept) => idempotency::Looked::Done(kept),
            idempotency::Looked::Unprotected => idempotency::Looked::Unprotected,
        })
    }
}

impl<T: AttemptService> AttemptService for Counted<T> {
    fn claim(
        &self,
        now_ms: u64,
        random: u64,
    ) -> Result<idempotency::Claimed, idempotency::Refusal> {
        self.call().claim(now_ms, random)
    }

    fn complete(
        &self,
        answer: idempotency::Kept,
        now_ms: u64,
    ) -> Result<idempotency::Completed, idempotency::Refusal> {
        self.call().complete(answer, now_ms)
    }

    fn release(&self) {
        self.call().release();
    }
}

impl<T: UsageService> UsageService for Counted<T> {
    fn enabled(&self) -> bool {
        self.call().enabled()
    }

    fn count(
        &self,
        caller: &Caller,
        model: &str,
        amounts: usage::Amounts,
        now_ms: u64,
        random: u64,
    ) -> Result<(), String> {
        self.call().count(caller, model, amounts, now_ms, random)
    }

    fn read(
        &self,
        days: (u64, u64),
        tenant: Option<&str>,
        start: Option<(u64, u64)>,
    ) -> Result<usage::Report, String> {
        self.call().read(days, tenant, start)
    }
}

impl CustomService for Counted<ScriptedPolicy> {
    type Admission = Self;

    fn scope(&self) -> custom::Scope {
        self.call().scope()
    }

    fn admit(
        &self,
        call: &custom::Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<custom::Admitted<Self>, custom::Refusal> {
        let admitted = self.call().admit(call, now_ms, random)?;
        Ok(custom::Admitted {
            admission: self.wrap(admitted.admission),
            headers: admitted.headers,
        })
    }
}

impl CustomAdmission for Counted<ScriptedPolicy> {
    fn settle(&self, outcome: custom::Outcome, now_ms: u64) {
        self.call().settle(outcome, now_ms);
    }
}

impl<T: CacheService> CacheService for Counted<T> {
    fn look(
        &self,
        at: &cache::CacheAddress<'_>,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<cache::Looked, String> {
        self.call().look(at, since_ms, waiting_since_ms, now_ms)
    }

    fn keep(
        &self,
        at: &cache::CacheAddress<'_>,
        ticket: u64,
        value: &[u8],
        now_ms: u64,
    ) -> Result<(), String> {
        self.call().keep(at, ticket, value, now_ms)
    }

    fn release(&self, at: &cache::CacheAddress<'_>, ticket: u64) -> Result<(), String> {
        self.call().release(at, ticket)
    }
}

impl<T: RolloutService> RolloutService for Counted<T> {
    fn document(&self) -> Result<Option<String>, RolloutFailure> {
        self.call().document()
    }

    fn count(&self, model: &str, number: u64, counter: u32) -> Result<(), RolloutFailure> {
        self.call().count(model, number, counter)
    }

    fn counts(&self, model: &str, number: u64, counters: u32) -> Result<Vec<u64>, RolloutFailure> {
        self.call().counts(model, number, counters)
    }

    fn roll_back(&self, model: &str, run: u64, why: &str) -> Result<bool, RolloutFailure> {
        self.call().roll_back(model, run, why)
    }

    fn rolled_back(&self, model: &str, run: u64) -> Result<Option<String>, RolloutFailure> {
        self.call().rolled_back(model, run)
    }
}

impl<T: ContractPort> ContractPort for Counted<T> {
    fn parse_predict(&self, body: &str) -> Result<ParsedBody, Rejection> {
        self.call().parse_predict(body)
    }

    fn parse_infer(
        &self,
        body: &str,
        tail_bytes: u64,
        unknown: Unknown,
    ) -> Result<InferRequest, Rejection> {
        self.call().parse_infer(body, tail_bytes, unknown)
    }

    fn parse_generate(&self, body: &str, unknown: Unknown) -> Result<InferRequest, Rejection> {
        self.call().parse_generate(body, unknown)
    }
}

impl<T: AdapterPort> AdapterPort for Counted<T> {
    fn prepare(&self, items: &[Item<'_>], cut_to: Option<u32>) -> Result<Step, AdapterRefusal> {
        self.call().prepare(items, cut_to)
    }

    fn advance(&self, outputs: Vec<Tensor>) -> Result<Step, String> {
        self.call().advance(outputs)
    }
}

impl Ports for Counting {
    type Contract = Counted<<InMemory as Ports>::Contract>;
    type Adapter = Counted<<InMemory as Ports>::Adapter>;

    fn unix_ms(&self) -> u64 {
        self.host().unix_ms()
    }

    fn monotonic_ns(&self) -> u64 {
        self.host().monotonic_ns()
    }

    fn random(&self) -> u128 {
        self.host().random()
    }

    fn log(&self, message: &str) {
        self.host().log(message);
    }

    fn sleep_ms(&self, ms: u32) {
        self.host().sleep_ms(ms);
    }

    fn policy_text(&self) -> Result<String, String> {
        self.host().policy_text()
    }

    fn read_policy_file(&self, name: &str) -> Option<String> {
        self.host().read_policy_file(name)
    }

    fn environment(&self, name: &str) -> Option<String> {
        self.host().environment(name)
    }

    fn list_models(&self) -> Vec<(String, Vec<String>)> {
        self.host().list_models()
    }

    fn read_model_file(&self, model: &str, file: &str) -> Result<Vec<u8>, String> {
        self.host().read_model_file(model, file)
    }

    fn model_file_written_s(&self, model: &str, file: &str) -> Option<u64> {
        self.host().model_file_written_s(model, file)
    }

    fn open_contract(&self, text: &str) -> Result<Self::Contract, String> {
        Ok(self.counted(self.component().open_contract(text)?))
    }

    fn open_adapter(&self, name: &str, config: &[u8]) -> Result<Self::Adapter, String> {
        Ok(self.counted(self.component().open_adapter(name, config)?))
    }

    fn infer(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        outputs: &[String],
        options: InferOptions,
    ) -> Result<Vec<Tensor>, Failure> {
        let ports = self.component();
        ports.infer(model, version, inputs, outputs, options)
    }

    fn shadow(
        &self,
        model: &str,
        version: ModelVersion,
        inputs: Vec<Tensor>,
        expected: Vec<Tensor>,
    ) -> Result<(), Failure> {
        self.component().shadow(model, version, inputs, expected)
    }

    fn ready(&self, model: &str, version: ModelVersion) -> Result<(), Failure> {
        self.component().ready(model, version)
    }

    fn statistics(
        &self,
        model: Option<&str>,
        version: Option<ModelVersion>,
    ) -> Result<String, ControlFailure> {
        self.component().statistics(model, version)
    }

    fn index(&self, ready: bool) -> Result<String, ControlFailure> {
        self.component().index(ready)
    }

    fn load(&self, model: &str) -> Result<(), ControlFailure> {
        self.component().load(model)
    }

    fn unload(&self, model: &str) -> Result<(), ControlFailure> {
        self.component().unload(model)
    }
}
