//! Counts the calls that a gate makes. In a component, each is a call of another component or of the host.

use penstock_core::headers::Headers;
use penstock_core::{BatchId, Caller, FileId, OperationId};
use penstock_gate::ports::{AdapterPort, AdapterRefusal, ContractPort, Item, ParsedBody, Step};
use penstock_policy::auth::service::AuthService;
use penstock_policy::auth::words as auth;
use penstock_policy::batches::service::BatchesService;
use penstock_policy::batches::words as batches;
use penstock_policy::cache::service::CacheService;
use penstock_policy::cache::words as cache;
use penstock_policy::custom::service::{AdmissionService as CustomAdmission, CustomService};
use penstock_policy::custom::words as custom;
use penstock_policy::idempotency::service::{AttemptService, IdempotencyService};
use penstock_policy::idempotency::words as idempotency;
use penstock_policy::operations::service::OperationsService;
use penstock_policy::operations::{Cancelled, words as operations};
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

/// Counts the gate's calls of components and of the host. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counter(Rc<Cell<Calls>>);

impl Counter {
    /// The calls since the last `take`.
    pub fn take(&self) -> Calls {
        self.0.take()
    }

    pub(crate) fn component(&self) {
        let calls = self.0.get();
        let component = calls.component + 1;
        self.0.set(Calls { component, ..calls });
    }

    pub(crate) fn host(&self) {
        let calls = self.0.get();
        let host = calls.host + 1;
        self.0.set(Calls { host, ..calls });
    }

    /// A service or a resource whose calls are counted.
    pub(crate) fn of<T>(&self, inner: T) -> Counted<T> {
        let counter = self.clone();
        Counted { inner, counter }
    }
}

/// A service or a resource whose calls are counted.
#[derive(Debug)]
pub struct Counted<T> {
    inner: T,
    counter: Counter,
}

impl<T> Counted<T> {
    fn call(&self) -> &T {
        self.counter.component();
        &self.inner
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

    fn allows(&self, caller: &Caller, route: &str, model: Option<&str>) -> bool {
        self.call().allows(caller, route, model)
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
            admission: self.counter.of(admitted.admission),
            wait_ms: admitted.wait_ms,
            headers: admitted.headers,
        })
    }

    fn settle_deferred(&self, receipt: &str, ran: Option<u64>, now_ms: u64) {
        self.call().settle_deferred(receipt, ran, now_ms);
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

    fn receipt(&self) -> String {
        self.call().receipt()
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

    fn look_up(
        &self,
        call: &idempotency::Call<'_>,
        now_ms: u64,
    ) -> Result<idempotency::Lookup<Self::Attempt>, idempotency::Refusal> {
        Ok(match self.call().look_up(call, now_ms)? {
            idempotency::Lookup::Free(attempt) => {
                idempotency::Lookup::Free(self.counter.of(attempt))
            }
            idempotency::Lookup::Done(kept) => idempotency::Lookup::Done(kept),
            idempotency::Lookup::Unprotected => idempotency::Lookup::Unprotected,
        })
    }
}

impl<T: AttemptService> AttemptService for Counted<T> {
    fn claim(
        &self,
        now_ms: u64,
        random: u64,
    ) -> Result<idempotency::ClaimOutcome, idempotency::Refusal> {
        self.call().claim(now_ms, random)
    }

    fn complete(
        &self,
        answer: idempotency::StoredAnswer,
        now_ms: u64,
    ) -> Result<idempotency::Completion, idempotency::Refusal> {
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

impl<T: CustomService> CustomService for Counted<T> {
    type Admission = Counted<T::Admission>;

    fn scope(&self) -> custom::Scope {
        self.call().scope()
    }

    fn admit(
        &self,
        call: &custom::Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<custom::Admitted<Self::Admission>, custom::Refusal> {
        let admitted = self.call().admit(call, now_ms, random)?;
        Ok(custom::Admitted {
            admission: self.counter.of(admitted.admission),
            headers: admitted.headers,
        })
    }
}

impl<T: CustomAdmission> CustomAdmission for Counted<T> {
    fn settle(&self, outcome: custom::Outcome, now_ms: u64) {
        self.call().settle(outcome, now_ms);
    }
}

impl<T: CacheService> CacheService for Counted<T> {
    fn look_up(
        &self,
        at: &cache::CacheAddress<'_>,
        since_ms: u64,
        waiting_since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<cache::Lookup, String> {
        self.call().look_up(at, since_ms, waiting_since_ms, now_ms)
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

impl<T: BatchesService> BatchesService for Counted<T> {
    fn rules(&self) -> batches::Rules {
        self.call().rules()
    }

    fn upload(
        &self,
        new: batches::NewFile,
        at: (u64, u128),
    ) -> Result<batches::File, batches::Refusal> {
        self.call().upload(new, at)
    }

    fn file(
        &self,
        id: &FileId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<batches::File>, batches::Refusal> {
        self.call().file(id, tenant, now_ms)
    }

    fn content(
        &self,
        id: &FileId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Vec<u8>>, batches::Refusal> {
        self.call().content(id, tenant, now_ms)
    }

    fn delete_file(
        &self,
        id: &FileId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<batches::File>, batches::Refusal> {
        self.call().delete_file(id, tenant, now_ms)
    }

    fn files(
        &self,
        tenant: &str,
        page: &batches::Page,
        purpose: Option<batches::Purpose>,
        now_ms: u64,
    ) -> Result<batches::Listing<batches::File>, batches::Refusal> {
        self.call().files(tenant, page, purpose, now_ms)
    }

    fn create(
        &self,
        new: batches::NewBatch,
        at: (u64, u128),
    ) -> Result<batches::Batch, batches::Refusal> {
        self.call().create(new, at)
    }

    fn batch(
        &self,
        id: &BatchId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<batches::Batch>, batches::Refusal> {
        self.call().batch(id, tenant, now_ms)
    }

    fn batches(
        &self,
        tenant: &str,
        page: &batches::Page,
        now_ms: u64,
    ) -> Result<batches::Listing<batches::Batch>, batches::Refusal> {
        self.call().batches(tenant, page, now_ms)
    }

    fn cancel(
        &self,
        id: &BatchId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<batches::Batch>, batches::Refusal> {
        self.call().cancel(id, tenant, now_ms)
    }

    fn is_cancelled(&self, id: &BatchId) -> Result<bool, batches::Refusal> {
        self.call().is_cancelled(id)
    }

    fn begin(&self, step: &[u8], at: (u64, u128)) -> Result<batches::Work, batches::Refusal> {
        self.call().begin(step, at)
    }

    fn advance(
        &self,
        operation: &OperationId,
        at: (u64, u128),
    ) -> Result<Option<batches::Next>, batches::Refusal> {
        self.call().advance(operation, at)
    }
}

impl<T: OperationsService> OperationsService for Counted<T> {
    fn rules(&self) -> operations::Rules {
        self.call().rules()
    }

    fn accept(
        &self,
        submission: operations::Submission,
        now_ms: u64,
        random: u128,
    ) -> Result<operations::AcceptedCall, operations::Refusal> {
        self.call().accept(submission, now_ms, random)
    }

    fn get(
        &self,
        id: &OperationId,
        tenant: Option<&str>,
        with_body: bool,
        now_ms: u64,
    ) -> Result<Option<operations::Operation>, operations::Refusal> {
        self.call().get(id, tenant, with_body, now_ms)
    }

    fn list(
        &self,
        tenant: &str,
        start: Option<(u64, u64)>,
        most: u32,
        now_ms: u64,
    ) -> Result<operations::Listing, operations::Refusal> {
        self.call().list(tenant, start, most, now_ms)
    }

    fn cancel(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Cancelled>, operations::Refusal> {
        self.call().cancel(id, tenant, now_ms)
    }

    fn delete(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<operations::Operation>, operations::Refusal> {
        self.call().delete(id, tenant, now_ms)
    }

    fn announce_again(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<operations::Operation>, operations::Refusal> {
        self.call().announce_again(id, tenant, now_ms)
    }

    fn claim(
        &self,
        id: &OperationId,
        holder: &str,
        dead_before_ms: u64,
        now_ms: u64,
    ) -> Result<operations::Claim, operations::Refusal> {
        self.call().claim(id, holder, dead_before_ms, now_ms)
    }

    fn complete(
        &self,
        id: &OperationId,
        run: (u32, u32),
        end: operations::End,
        now_ms: u64,
    ) -> Result<bool, operations::Refusal> {
        self.call().complete(id, run, end, now_ms)
    }

    fn give_back(
        &self,
        id: &OperationId,
        run: (u32, u32),
        error: (String, String),
        at: (u64, u64),
    ) -> Result<u64, operations::Refusal> {
        self.call().give_back(id, run, error, at)
    }

    fn renew(
        &self,
        id: &OperationId,
        holder: &str,
        now_ms: u64,
    ) -> Result<operations::Renewal, operations::Refusal> {
        self.call().renew(id, holder, now_ms)
    }

    fn abandon(
        &self,
        id: &OperationId,
        holder: &str,
        why: operations::Abandoned,
        at: (u64, u64),
    ) -> Result<Option<u64>, operations::Refusal> {
        self.call().abandon(id, holder, why, at)
    }
}
