//! Quota as a service: a policy opened from its text, over a store whose operations complete immediately.

use super::limits::{Algorithm, Unit};
use super::words::{Admitted, Call, Refusal, Scope};
use super::{Admission, Cost, Deferred, Quota, StoreAccess, headers, status, subject};
use crate::document;
use penstock_core::Kv;
use penstock_core::headers::Headers;
use penstock_core::kv::run_ready;
use std::cell::RefCell;
use std::rc::Rc;

/// The limits of a policy.
pub trait QuotaService {
    /// The handle of an admitted call, with which it is settled.
    type Admission: AdmissionService;

    /// The kinds of limits of the policy.
    fn scope(&self) -> Scope;
    /// One sentence for each limit that the store forces to another algorithm; for the operator.
    fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String>;
    /// Decides all limits whose cost is known before the body is read.
    fn admit(
        &self,
        call: &Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<Admitted<Self::Admission>, Refusal>;
    /// Ends a call that ran later, by its receipt: returns its items if it never ran (`None`), or charges its compute time in
    /// milliseconds.
    fn settle_deferred(&self, receipt: &str, ran: Option<u64>, now_ms: u64);
}

/// The charges of a call. If it is dropped unsettled, the charges stay.
pub trait AdmissionService {
    /// Decides the limits that count items. A refusal refunds all charges of the call.
    fn charge_items(&self, items: u64, now_ms: u64, random: u64) -> Result<Headers, Refusal>;
    /// Refunds the items of a call that provably did not run. Returns the headers afterwards.
    fn refund_items(&self, now_ms: u64) -> Headers;
    /// The receipt of a call that runs later, for [`QuotaService::settle_deferred`]; empty if no limit needs one.
    fn receipt(&self) -> String;
    /// Ends the call and frees its place. `compute_ms` is the compute time that it used, in milliseconds.
    fn settle(&self, compute_ms: u64, now_ms: u64);
}

/// Quota over a store, with the memory of one instance.
///
/// ```
/// use penstock_core::Caller;
/// use penstock_policy::quota::RefusalKind;
/// use penstock_policy::quota::service::{KvQuota, QuotaService};
/// use penstock_policy::quota::words::Call;
/// use penstock_testkit::MemoryKv;
///
/// let policy = "[[limits]]\nname = \"calls\"\nlimit = 2\nwindow_s = 60\n";
/// let quota = KvQuota::open(policy, MemoryKv::default()).unwrap();
/// let caller = Caller::anonymous(None);
/// let call = Call { caller: &caller, route: "predict", model: Some("m"), body_bytes: 100 };
/// let now_ms = 1_700_000_000_000;
/// assert!(quota.admit(&call, now_ms, 0).is_ok());
/// assert!(quota.admit(&call, now_ms, 0).is_ok());
/// let refusal = quota.admit(&call, now_ms, 0).unwrap_err();
/// assert_eq!((refusal.kind, refusal.limit.as_str()), (RefusalKind::UsedUp, "calls"));
/// ```
#[derive(Debug)]
pub struct KvQuota<K>(Rc<Shared<K>>);

/// A call that [`KvQuota`] admitted.
#[derive(Debug)]
pub struct KvAdmission<K> {
    shared: Rc<Shared<K>>,
    held: RefCell<Option<Admission>>,
}

#[derive(Debug)]
struct Shared<K> {
    quota: RefCell<Quota>,
    kv: K,
    scope: Scope,
}

impl<K: Kv> KvQuota<K> {
    /// Reads the limits of a policy file; the error is a sentence for the operator.
    pub fn open(text: &str, kv: K) -> Result<Self, String> {
        let document = document::quota(text)?;
        let some = |applies: fn(Unit, Algorithm) -> bool| {
            let mut limits = document.limits.iter();
            limits.any(|limit| applies(limit.unit, limit.algorithm))
        };
        let scope = Scope {
            calls: !document.limits.is_empty(),
            items: some(|unit, _| unit == Unit::Items),
            settles: some(|unit, algorithm| {
                unit == Unit::ComputeMs || algorithm == Algorithm::Concurrency
            }),
        };
        let quota = Quota::new(document).map_err(document::sentence)?;
        Ok(Self(Rc::new(Shared {
            quota: RefCell::new(quota),
            kv,
            scope,
        })))
    }
}

impl<K: Kv> QuotaService for KvQuota<K> {
    type Admission = KvAdmission<K>;

    fn scope(&self) -> Scope {
        self.0.scope
    }

    fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String> {
        let Shared { quota, kv, .. } = &*self.0;
        let mut quota = quota.borrow_mut();
        // On a store failure the first call tries again.
        let _ = run_ready(quota.probe_swap(StoreAccess::new(kv, now_ms, random)));
        let fallbacks = quota.fallbacks().into_iter();
        fallbacks.map(|fallback| fallback.to_string()).collect()
    }

    fn admit(
        &self,
        call: &Call<'_>,
        now_ms: u64,
        random: u64,
    ) -> Result<Admitted<Self::Admission>, Refusal> {
        let Shared { quota, kv, .. } = &*self.0;
        let attributes = subject::CallAttributes {
            caller: call.caller,
            route: call.route,
            model: call.model,
        };
        let cost = Cost {
            requests: 1,
            bytes: call.body_bytes,
        };
        let store = StoreAccess::new(kv, now_ms, random);
        let admitted =
            run_ready(quota.borrow_mut().admit(store, &attributes, cost)).map_err(refusal)?;
        Ok(Admitted {
            wait_ms: u32::try_from(admitted.wait_ms).unwrap_or(u32::MAX),
            headers: headers(&admitted.statuses, None),
            admission: KvAdmission {
                shared: self.0.clone(),
                held: RefCell::new(Some(admitted)),
            },
        })
    }

    fn settle_deferred(&self, receipt: &str, ran: Option<u64>, now_ms: u64) {
        if receipt.is_empty() {
            return;
        }
        let Shared { quota, kv, .. } = &*self.0;
        let deferred = Deferred::parse(receipt);
        let store = StoreAccess::new(kv, now_ms, 0);
        run_ready(quota.borrow_mut().settle_deferred(store, &deferred, ran));
    }
}

impl<K: Kv> AdmissionService for KvAdmission<K> {
    fn charge_items(&self, items: u64, now_ms: u64, random: u64) -> Result<Headers, Refusal> {
        let Shared { quota, kv, .. } = &*self.shared;
        let mut held = self.held.borrow_mut();
        let Some(admission) = held.as_mut() else {
            return Ok(Headers::new());
        };
        let store = StoreAccess::new(kv, now_ms, random);
        run_ready(quota.borrow_mut().charge_items(store, admission, items)).map_err(refusal)?;
        Ok(headers(&admission.statuses, None))
    }

    fn refund_items(&self, now_ms: u64) -> Headers {
        let Shared { quota, kv, .. } = &*self.shared;
        let mut held = self.held.borrow_mut();
        let Some(admission) = held.as_mut() else {
            return Headers::new();
        };
        let store = StoreAccess::new(kv, now_ms, 0);
        run_ready(quota.borrow_mut().refund_items(store, admission));
        headers(&admission.statuses, None)
    }

    fn receipt(&self) -> String {
        let held = self.held.borrow();
        let deferred = held
            .as_ref()
            .map(|held| self.shared.quota.borrow().defer(held));
        deferred.unwrap_or_default().to_text()
    }

    fn settle(&self, compute_ms: u64, now_ms: u64) {
        let Shared { quota, kv, .. } = &*self.shared;
        if let Some(admission) = self.held.borrow_mut().take() {
            let store = StoreAccess::new(kv, now_ms, 0);
            run_ready(quota.borrow_mut().settle(store, admission, compute_ms));
        }
    }
}

fn refusal(refusal: status::QuotaRefusal) -> Refusal {
    Refusal {
        headers: headers(&refusal.statuses, Some(&refusal)),
        limit: refusal.limit.unwrap_or_default(),
        kind: refusal.kind,
        message: refusal.message,
        retry_after_s: u32::try_from(refusal.retry_after_s).unwrap_or(u32::MAX),
    }
}
