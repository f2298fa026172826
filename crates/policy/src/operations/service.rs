//! Operations as a service: a policy opened from its text, over a store whose operations complete immediately.

use super::store::Acceptance;
use super::words::{
    Abandoned, AcceptedCall, Claim, End, Listing, Operation, Refusal, RefusalKind, Renewal, Rules,
    Submission,
};
use super::{Announced, Operations, store::Cancelled};
use crate::document;
use penstock_core::kv::run_ready;
use penstock_core::{Kv, KvError, OperationId};
use std::cell::RefCell;

/// The operations of a policy.
pub trait OperationsService {
    /// The settings that the gate needs.
    fn rules(&self) -> Rules;
    /// Stores a call as an operation. It is durable before its answer leaves the host.
    fn accept(
        &self,
        submission: Submission,
        now_ms: u64,
        random: u128,
    ) -> Result<AcceptedCall, Refusal>;
    /// Reads an operation of a tenant; `None` if there is none.
    fn get(
        &self,
        id: &OperationId,
        tenant: Option<&str>,
        with_body: bool,
        now_ms: u64,
    ) -> Result<Option<Operation>, Refusal>;
    /// Lists operations of a tenant, the newest first.
    fn list(
        &self,
        tenant: &str,
        start: Option<(u64, u64)>,
        most: u32,
        now_ms: u64,
    ) -> Result<Listing, Refusal>;
    /// Asks for the end of an operation; `None` if there is none.
    fn cancel(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Cancelled>, Refusal>;
    /// Deletes a finished operation; `None` if there is none.
    fn delete(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Operation>, Refusal>;
    /// Has the end of an operation announced again; `None` if there is none.
    fn announce_again(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Operation>, Refusal>;
    /// Claims an operation to run it.
    fn claim(
        &self,
        id: &OperationId,
        holder: &str,
        dead_before_ms: u64,
        now_ms: u64,
    ) -> Result<Claim, Refusal>;
    /// Ends a run, whose epoch and attempt are `run`. Returns whether its end counts.
    fn complete(
        &self,
        id: &OperationId,
        run: (u32, u32),
        end: End,
        now_ms: u64,
    ) -> Result<bool, Refusal>;
    /// Gives a run back that failed with `error`, a code and a message. Returns when it runs again.
    fn give_back(
        &self,
        id: &OperationId,
        run: (u32, u32),
        error: (String, String),
        at: (u64, u64),
    ) -> Result<u64, Refusal>;
    /// Renews the lease of a holder.
    fn renew(&self, id: &OperationId, holder: &str, now_ms: u64) -> Result<Renewal, Refusal>;
    /// Ends a run whose worker was interrupted. Returns when the operation may run again, if it may.
    fn abandon(
        &self,
        id: &OperationId,
        holder: &str,
        why: Abandoned,
        at: (u64, u64),
    ) -> Result<Option<u64>, Refusal>;
}

/// Operations over a store, with the memory of one instance.
///
/// ```
/// use penstock_core::Caller;
/// use penstock_policy::operations::service::{KvOperations, OperationsService};
/// use penstock_policy::operations::words::{Claim, End, OperationState, Submission};
/// use penstock_testkit::MemoryKv;
///
/// let operations = KvOperations::open("", MemoryKv::default()).unwrap();
/// let now_ms = 1_700_000_000_000;
/// let submission = Submission {
///     caller: Caller::anonymous(None),
///     kind: "predict".into(), model: "m".into(), version: 1, priority: None, items: 1,
///     method: "POST".into(), target: "/v1/models/m:predict".into(), headers: vec![], body: b"{}".to_vec(),
///     request_id: "req_1".into(), receipt: String::new(), retry_of: None, webhook: None,
/// };
/// let id = operations.accept(submission, now_ms, 7).unwrap().operation.id;
/// let Claim::Granted(run) = operations.claim(&id, "worker 1", 0, now_ms).unwrap() else { panic!() };
/// assert_eq!(run.submission.body, b"{}");
///
/// let end = End {
///     state: OperationState::Succeeded, code: String::new(), message: String::new(),
///     status: 200, headers: vec![], body_bytes: 0, body: Some(b"[1]".to_vec()),
/// };
/// assert!(operations.complete(&id, (run.epoch, run.attempt), end, now_ms).unwrap());
/// let operation = operations.get(&id, Some("anonymous"), true, now_ms).unwrap().unwrap();
/// assert_eq!(operation.end.unwrap().body.unwrap(), b"[1]");
/// ```
#[derive(Debug)]
pub struct KvOperations<K> {
    operations: RefCell<Operations>,
    kv: K,
}

impl<K: Kv> KvOperations<K> {
    /// Reads the `[operations]` of a policy file; the error is a sentence for the operator.
    pub fn open(text: &str, kv: K) -> Result<Self, String> {
        Ok(Self {
            operations: RefCell::new(Operations::new(document::operations(text)?)),
            kv,
        })
    }
}

impl<K: Kv> OperationsService for KvOperations<K> {
    fn rules(&self) -> Rules {
        let operations = self.operations.borrow();
        let settings = operations.settings();
        Rules {
            enabled: settings.enabled,
            from_items: settings.from_items,
            max_result_bytes: settings.max_result_bytes,
        }
    }

    fn accept(
        &self,
        submission: Submission,
        now_ms: u64,
        random: u128,
    ) -> Result<AcceptedCall, Refusal> {
        let mut operations = self.operations.borrow_mut();
        match run_ready(operations.accept(&self.kv, submission, now_ms, random)) {
            Ok(Acceptance::Accepted(accepted)) => Ok(*accepted),
            Ok(Acceptance::Full(message)) => Err(Refusal {
                kind: RefusalKind::Full,
                message,
            }),
            Err(error) => Err(store_failed(&error)),
        }
    }

    fn get(
        &self,
        id: &OperationId,
        tenant: Option<&str>,
        with_body: bool,
        now_ms: u64,
    ) -> Result<Option<Operation>, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.get(&self.kv, id, tenant, with_body, now_ms))
    }

    fn list(
        &self,
        tenant: &str,
        start: Option<(u64, u64)>,
        most: u32,
        now_ms: u64,
    ) -> Result<Listing, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.list(&self.kv, tenant, start, most as usize, now_ms))
    }

    fn cancel(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Cancelled>, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.cancel(&self.kv, id, tenant, now_ms))
    }

    fn delete(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Operation>, Refusal> {
        let operations = self.operations.borrow();
        let found = stored(operations.delete(&self.kv, id, tenant, now_ms))?;
        match found {
            Some(operation) if !operation.state.is_final() => Err(Refusal {
                kind: RefusalKind::NotNow,
                message: format!(
                    "the operation is {}; cancel it first, with POST /v1/operations/{id}:cancel, or wait for its end",
                    operation.state.as_str()
                ),
            }),
            found => Ok(found),
        }
    }

    fn announce_again(
        &self,
        id: &OperationId,
        tenant: &str,
        now_ms: u64,
    ) -> Result<Option<Operation>, Refusal> {
        let operations = self.operations.borrow();
        match stored(operations.announce_again(&self.kv, id, tenant, now_ms))? {
            None => Ok(None),
            Some(Announced::Again(operation)) => Ok(Some(*operation)),
            Some(Announced::NotNow(message)) => Err(Refusal {
                kind: RefusalKind::NotNow,
                message: message.to_owned(),
            }),
        }
    }

    fn claim(
        &self,
        id: &OperationId,
        holder: &str,
        dead_before_ms: u64,
        now_ms: u64,
    ) -> Result<Claim, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.claim(&self.kv, id, holder, dead_before_ms, now_ms))
    }

    fn complete(
        &self,
        id: &OperationId,
        run: (u32, u32),
        end: End,
        now_ms: u64,
    ) -> Result<bool, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.complete(&self.kv, id, run, end, now_ms))
    }

    fn give_back(
        &self,
        id: &OperationId,
        run: (u32, u32),
        error: (String, String),
        at: (u64, u64),
    ) -> Result<u64, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.give_back(&self.kv, id, run, error, at))
    }

    fn renew(&self, id: &OperationId, holder: &str, now_ms: u64) -> Result<Renewal, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.renew(&self.kv, id, holder, now_ms))
    }

    fn abandon(
        &self,
        id: &OperationId,
        holder: &str,
        why: Abandoned,
        at: (u64, u64),
    ) -> Result<Option<u64>, Refusal> {
        let operations = self.operations.borrow();
        stored(operations.abandon(&self.kv, id, holder, why, at))
    }
}

/// Performs an operation of the store.
fn stored<T>(work: impl Future<Output = Result<T, KvError>>) -> Result<T, Refusal> {
    run_ready(work).map_err(|error| store_failed(&error))
}

fn store_failed(error: &KvError) -> Refusal {
    Refusal {
        kind: RefusalKind::StoreFailed,
        message: format!("the store of operations does not answer: {error}"),
    }
}
