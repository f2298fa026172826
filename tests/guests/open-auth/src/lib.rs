//! An auth component for benchmarks. It checks nothing and admits every caller, so that a comparison shows the cost of
//! checking.

#![allow(missing_docs)]

use penstock_guest::auth::bindings::exports::penstock::auth::auth as wit;
use penstock_guest::types::callers::Caller;

penstock_guest::auth::bindings::export!(Open with_types_in penstock_guest::auth::bindings);

struct Open;

struct Policy;

impl wit::Guest for Open {
    type Policy = Policy;
}

impl wit::GuestPolicy for Policy {
    fn open(_text: String, _environment: wit::Environment) -> Result<wit::Policy, String> {
        Ok(wit::Policy::new(Self))
    }

    fn admit(&self, request: wit::Request, _: u64, _: u64) -> Result<wit::Admitted, wit::Refusal> {
        Ok(wit::Admitted {
            caller: Caller {
                tenant: "anonymous".to_owned(),
                api_key_id: None,
                subject: None,
                tier: "anonymous".to_owned(),
                scopes: vec!["*".to_owned()],
                anonymous: true,
                address: request.address,
            },
            credential: wit::CredentialKind::None,
            priority: None,
        })
    }

    fn sees(&self, _caller: Caller, models: Vec<String>) -> Vec<bool> {
        vec![true; models.len()]
    }

    fn allows(&self, _caller: Caller, _route: String, _model: Option<String>) -> bool {
        true
    }
}
