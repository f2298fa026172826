//! A policy of an operator's own that a test scripts. Real ones are components of others, so there is none to reuse.

use penstock_policy::custom::service::{AdmissionService, CustomService};
use penstock_policy::custom::words::{Admitted, Call, Outcome, RawHeaders, Refusal, Scope};
use std::cell::RefCell;
use std::rc::Rc;

/// Decides a call: returns headers for the answer, or a refusal.
pub type Decide = dyn Fn(&Call<'_>) -> Result<RawHeaders, Refusal>;

/// A policy that a test scripts. Without a script it asks for nothing, as the built-in one.
#[derive(Clone, Default)]
pub struct ScriptedPolicy {
    /// The questions and data that the policy needs.
    pub scope: Scope,
    /// The decision for each call. Without it, the policy admits every call.
    pub decide: Option<Rc<Decide>>,
    /// The reason why it cannot be opened, if it cannot.
    pub fault: Option<String>,
    /// The calls it was asked about, and how they ended.
    pub log: Rc<RefCell<Vec<String>>>,
}

impl ScriptedPolicy {
    /// A policy that asks for everything.
    pub fn new(
        headers: &[&str],
        decide: impl Fn(&Call<'_>) -> Result<RawHeaders, Refusal> + 'static,
    ) -> Self {
        Self {
            scope: Scope {
                calls: true,
                headers: headers.iter().map(|&name| name.to_owned()).collect(),
                settles: true,
            },
            decide: Some(Rc::new(decide)),
            log: Rc::default(),
            fault: None,
        }
    }
}

impl CustomService for ScriptedPolicy {
    type Admission = Self;

    fn scope(&self) -> Scope {
        self.scope.clone()
    }

    fn admit(&self, call: &Call<'_>, _: u64, _: u64) -> Result<Admitted<Self>, Refusal> {
        let headers = call.headers.iter();
        let headers: Vec<&str> = headers.map(|(name, _)| *name).collect();
        self.log.borrow_mut().push(format!(
            "admit {} {} {} {} {} {} {headers:?}",
            call.caller.tenant,
            call.route,
            call.model.unwrap_or("-"),
            call.method,
            call.target,
            call.body_bytes,
        ));
        let headers = match &self.decide {
            Some(decide) => decide(call)?,
            None => RawHeaders::new(),
        };
        Ok(Admitted {
            admission: self.clone(),
            headers,
        })
    }
}

impl AdmissionService for ScriptedPolicy {
    fn settle(&self, outcome: Outcome, _now_ms: u64) {
        let Outcome {
            items,
            compute_us,
            failed,
        } = outcome;
        let entry = format!("settle {items} items, {compute_us} us, failed: {failed}");
        self.log.borrow_mut().push(entry);
    }
}
