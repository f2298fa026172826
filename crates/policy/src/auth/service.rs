//! `auth` as a service: a policy opened from its text, over a store whose operations complete immediately.

use super::words::{Admitted, Presented, Refusal};
use penstock_core::Caller;

#[cfg(feature = "auth")]
pub use over_kv::KvAuth;

/// Decides which caller a request is from, and whether it may go on.
pub trait AuthService {
    /// Decides whether one request may go on.
    fn admit(&self, shown: &Presented<'_>, now_ms: u64, random: u64) -> Result<Admitted, Refusal>;
    /// The models of a list that a caller may see.
    fn sees(&self, caller: &Caller, models: &[String]) -> Vec<bool>;
    /// Whether a caller that was admitted before may make a call of a kind of route, of a model if it names one.
    fn allows(&self, caller: &Caller, route: &str, model: Option<&str>) -> bool;
}

#[cfg(feature = "auth")]
mod over_kv {
    use super::{Admitted, AuthService, Caller, Presented, Refusal};
    use crate::auth::api_key::Pepper;
    use crate::auth::settings::AuthSettings;
    use crate::auth::words::Environment;
    use crate::auth::{Authenticator, Secrets};
    use crate::{auth, document};
    use penstock_core::Kv;
    use penstock_core::kv::run_ready;
    use std::cell::RefCell;

    /// The variable with the pepper.
    const PEPPER: &str = "pepper";

    /// The `[auth]` of a policy over a store, with the caches of one instance.
    #[derive(Debug)]
    pub struct KvAuth<K> {
        authenticator: RefCell<Authenticator>,
        kv: K,
        realm: String,
    }

    impl<K: Kv> KvAuth<K> {
        /// Reads the `[auth]` of a policy file. The error is a sentence for the operator. `variable` returns the value of
        /// a variable of the host, if it is set.
        pub fn open(
            text: &str,
            environment: Environment,
            kv: K,
            variable: impl Fn(&str) -> Option<String>,
        ) -> Result<Self, String> {
            let settings = document::auth(text)?;
            let secrets = secrets(&settings, variable)?;
            let realm = settings.realm.clone();
            let mut authenticator = Authenticator::new(settings, secrets, environment.public)?;
            for (issuer, jwks) in environment.key_sets {
                authenticator.set_keys(&issuer, &jwks)?;
            }
            Ok(Self {
                authenticator: RefCell::new(authenticator),
                kv,
                realm,
            })
        }

        fn refusal(&self, refusal: auth::CheckRefusal) -> Refusal {
            Refusal {
                challenge: refusal.challenge(&self.realm),
                kind: refusal.kind,
                message: refusal.message,
                retry_after_s: refusal.retry_after_s,
                caller: refusal.caller.map(|caller| *caller),
            }
        }
    }

    fn secrets(
        settings: &AuthSettings,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Secrets, String> {
        let pepper = variable(PEPPER).map(|text| Pepper::new(text.as_bytes()));
        let named = settings
            .issuers
            .iter()
            .filter_map(|issuer| issuer.secret_variable.as_ref());
        Ok(Secrets {
            pepper: pepper.transpose()?,
            shared: named
                .filter_map(|name| variable(name).map(|value| (name.clone(), value)))
                .collect(),
        })
    }

    impl<K: Kv> AuthService for KvAuth<K> {
        fn admit(
            &self,
            shown: &Presented<'_>,
            now_ms: u64,
            random: u64,
        ) -> Result<Admitted, Refusal> {
            let mut authenticator = self.authenticator.borrow_mut();
            run_ready(authenticator.admit(&self.kv, shown, now_ms, random))
                .map_err(|refusal| self.refusal(refusal))
        }

        fn sees(&self, caller: &Caller, models: &[String]) -> Vec<bool> {
            self.authenticator.borrow().sees(caller, models)
        }

        fn allows(&self, caller: &Caller, route: &str, model: Option<&str>) -> bool {
            self.authenticator.borrow().allows(caller, route, model)
        }
    }
}
