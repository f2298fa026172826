//! `penstock:quota` over `penstock-policy`, on the store for counters.

use crate::kv::{COUNTERS, DEFAULT, WitKv};
use crate::types::caller_from_wit;
use penstock_core::kv::run_ready;
use penstock_policy::document;
use penstock_policy::quota::limits::{Algorithm, Unit};
use penstock_policy::quota::{self, Ask, Call, Cost, Quota, Refusal, RefusalKind};
use std::cell::RefCell;
use std::rc::Rc;

#[allow(missing_docs)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "penstock:quota/component",
        path: ["../../wit/types", "../../wit/deps/keyvalue", "../../wit/quota"],
        with: {
            "penstock:types/callers@0.1.0": crate::types::callers,
            "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
            "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
            "wasi:keyvalue/batch@0.2.0-draft2": crate::kv::batch,
        },
        pub_export_macro: true,
        default_bindings_module: "penstock_guest::quota::bindings",
    });
}

use bindings::exports::penstock::quota::quota as wit;

/// The component.
pub struct Component;

struct Shared {
    quota: RefCell<Quota>,
    kv: WitKv,
    scope: wit::Scope,
}

/// The limits, opened once.
pub struct Policy(Rc<Shared>);

/// An admitted call.
pub struct Admission {
    shared: Rc<Shared>,
    held: RefCell<Option<quota::Admission>>,
}

impl wit::Guest for Component {
    type Policy = Policy;
    type Admission = Admission;
}

fn headers(list: Vec<(&'static str, String)>) -> Vec<wit::Header> {
    list.into_iter()
        .map(|(name, value)| wit::Header {
            name: name.to_owned(),
            value,
        })
        .collect()
}

fn refusal(refusal: Refusal) -> wit::Refusal {
    wit::Refusal {
        headers: headers(quota::headers(&refusal.statuses, Some(&refusal))),
        limit: refusal.limit.unwrap_or_default(),
        kind: match refusal.kind {
            RefusalKind::UsedUp | RefusalKind::BackOff => wit::RefusalKind::UsedUp,
            RefusalKind::TooLarge => wit::RefusalKind::TooLarge,
            RefusalKind::StoreFailure => wit::RefusalKind::StoreFailed,
        },
        message: refusal.message,
        retry_after_s: u32::try_from(refusal.retry_after_s).unwrap_or(u32::MAX),
    }
}

impl wit::GuestPolicy for Policy {
    fn open(text: String) -> Result<wit::Policy, String> {
        let document = document::quota(&text)?;
        let some = |applies: fn(Unit, Algorithm) -> bool| {
            let mut limits = document.limits.iter();
            limits.any(|limit| applies(limit.unit, limit.algorithm))
        };
        let scope = wit::Scope {
            calls: !document.limits.is_empty(),
            items: some(|unit, _| unit == Unit::Items),
            settles: some(|unit, algorithm| {
                unit == Unit::ComputeMs || algorithm == Algorithm::Concurrency
            }),
        };
        let quota = Quota::new(document).map_err(document::sentence)?;
        Ok(wit::Policy::new(Policy(Rc::new(Shared {
            quota: RefCell::new(quota),
            kv: WitKv::new(&[COUNTERS, DEFAULT]),
            scope,
        }))))
    }

    fn scope(&self) -> wit::Scope {
        self.0.scope
    }

    fn fallbacks(&self, now_ms: u64, random: u64) -> Vec<String> {
        let shared = &self.0;
        let mut quota = shared.quota.borrow_mut();
        // A store that does not answer now is asked again by the first call.
        let _ = run_ready(quota.probe_swap(Ask::new(&shared.kv, now_ms, random)));
        quota
            .fallbacks()
            .into_iter()
            .map(|fallback| {
                format!(
                    "limit `{}` counts as {} and not as {}: {}",
                    fallback.limit,
                    fallback.used.as_str(),
                    fallback.wanted.as_str(),
                    fallback.reason
                )
            })
            .collect()
    }

    fn admit(
        &self,
        call: wit::Call,
        now_ms: u64,
        random: u64,
    ) -> Result<wit::Admitted, wit::Refusal> {
        let shared = &self.0;
        let caller = caller_from_wit(call.caller);
        let asked = Call {
            caller: &caller,
            route: &call.route,
            model: call.model.as_deref(),
        };
        let cost = Cost {
            requests: 1,
            bytes: call.body_bytes,
        };
        let admitted = run_ready(shared.quota.borrow_mut().admit(
            Ask::new(&shared.kv, now_ms, random),
            &asked,
            cost,
        ))
        .map_err(refusal)?;
        Ok(wit::Admitted {
            wait_ms: u32::try_from(admitted.wait_ms).unwrap_or(u32::MAX),
            headers: headers(quota::headers(&admitted.statuses, None)),
            admission: wit::Admission::new(Admission {
                shared: shared.clone(),
                held: RefCell::new(Some(admitted)),
            }),
        })
    }
}

impl wit::GuestAdmission for Admission {
    fn charge_items(
        &self,
        items: u64,
        now_ms: u64,
        random: u64,
    ) -> Result<Vec<wit::Header>, wit::Refusal> {
        let Shared { quota, kv, .. } = &*self.shared;
        let mut held = self.held.borrow_mut();
        let Some(admission) = held.as_mut() else {
            return Ok(Vec::new());
        };
        run_ready(
            quota
                .borrow_mut()
                .charge_items(Ask::new(kv, now_ms, random), admission, items),
        )
        .map_err(refusal)?;
        Ok(headers(quota::headers(&admission.statuses, None)))
    }

    fn refund_items(&self, now_ms: u64) -> Vec<wit::Header> {
        let Shared { quota, kv, .. } = &*self.shared;
        let mut held = self.held.borrow_mut();
        let Some(admission) = held.as_mut() else {
            return Vec::new();
        };
        run_ready(
            quota
                .borrow_mut()
                .refund_items(Ask::new(kv, now_ms, 0), admission),
        );
        headers(quota::headers(&admission.statuses, None))
    }

    fn settle(&self, compute_ms: u64, now_ms: u64) {
        let Shared { quota, kv, .. } = &*self.shared;
        if let Some(admission) = self.held.borrow_mut().take() {
            run_ready(
                quota
                    .borrow_mut()
                    .settle(Ask::new(kv, now_ms, 0), admission, compute_ms),
            );
        }
    }
}
