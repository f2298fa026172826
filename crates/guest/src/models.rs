//! Implements `penstock:models`. Rollouts and canary counters use `penstock-policy`. The state of the models and
//! their control use the host, which offers them as a store ([`penstock_core::model_store`]).

#[cfg(feature = "models")]
pub use component::{Component, bindings};
#[cfg(feature = "gate")]
pub use gate::WitRollouts;
#[cfg(feature = "gate")]
pub(crate) use gate::control_failure;

/// The component's side: its exports.
#[cfg(feature = "models")]
mod component {
    use crate::kv::{COUNTERS, DEFAULT, WitKv, store};
    use penstock_core::ModelName;
    use penstock_core::model_store::{AccessFault, LABEL, ModelEntry, ModelFault};
    use penstock_policy::rollout::service::{KvRollouts, RolloutService};
    use penstock_policy::rollout::words::RolloutFailure;
    use std::cell::RefCell;

    #[allow(missing_docs)]
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "penstock:models/component",
            path: ["../../wit/deps/keyvalue", "../../wit/models"],
            with: {
                "wasi:keyvalue/store@0.2.0-draft2": crate::kv::store,
                "wasi:keyvalue/atomics@0.2.0-draft2": crate::kv::atomics,
            },
            pub_export_macro: true,
            default_bindings_module: "penstock_guest::models::bindings",
        });
    }

    use bindings::exports::penstock::models::models as wit;

    /// The type that exports the interface.
    pub struct Component;

    /// The services that an instance has open.
    struct State {
        rollouts: KvRollouts<WitKv>,
        control: RefCell<Option<store::Bucket>>,
    }

    thread_local! {
        static STATE: State = State {
            rollouts: KvRollouts::new(WitKv::new(&[DEFAULT]), WitKv::new(&[COUNTERS, DEFAULT]), WitKv::is_granted),
            control: RefCell::default(),
        };
    }

    fn failure(kind: wit::FailureKind, message: impl Into<String>) -> wit::Failure {
        wit::Failure {
            kind,
            message: message.into(),
        }
    }

    fn rollout_failure(refused: RolloutFailure) -> wit::Failure {
        match refused {
            RolloutFailure::Unsupported(message) => failure(wit::FailureKind::Unsupported, message),
            RolloutFailure::Failed(message) => failure(wit::FailureKind::Failed, message),
        }
    }

    /// Calls the rollouts and converts their failure.
    fn rollouts<T>(
        ask: impl FnOnce(&KvRollouts<WitKv>) -> Result<T, RolloutFailure>,
    ) -> Result<T, wit::Failure> {
        STATE.with(|state| ask(&state.rollouts).map_err(rollout_failure))
    }

    impl wit::Guest for Component {
        fn rollouts() -> Result<Option<String>, wit::Failure> {
            rollouts(RolloutService::document)
        }

        fn tally(model: String, canary: u64, counter: u32) -> Result<(), wit::Failure> {
            rollouts(|rollouts| rollouts.count(&model, canary, counter))
        }

        fn tallies(model: String, canary: u64, counters: u32) -> Result<Vec<u64>, wit::Failure> {
            rollouts(|rollouts| rollouts.counts(&model, canary, counters))
        }

        fn roll_back(model: String, canary: u64, why: String) -> Result<bool, wit::Failure> {
            rollouts(|rollouts| rollouts.roll_back(&model, canary, &why))
        }

        fn rolled_back(model: String, canary: u64) -> Result<Option<String>, wit::Failure> {
            rollouts(|rollouts| rollouts.rolled_back(&model, canary))
        }

        fn statistics(model: Option<String>, version: Option<u64>) -> Result<String, wit::Failure> {
            let name = model.as_deref().map(named).transpose()?;
            let version = version.map(|version| version.to_string());
            let entry = ModelEntry::Statistics {
                model: name.as_ref().map(ModelName::as_str),
                version: version.as_deref(),
            };
            match read(entry)? {
                Some(text) => Ok(text),
                None => Err(access_failure(AccessFault::NoModel(
                    &model.unwrap_or_default(),
                ))),
            }
        }

        fn index(ready: bool) -> Result<String, wit::Failure> {
            read(ModelEntry::Index { ready })?.ok_or_else(|| access_failure(AccessFault::NoIndex))
        }

        fn load(model: String) -> Result<(), wit::Failure> {
            write(ModelEntry::Load(named(&model)?.as_str()))
        }

        fn unload(model: String) -> Result<(), wit::Failure> {
            write(ModelEntry::Unload(named(&model)?.as_str()))
        }
    }

    fn access_failure(fault: AccessFault<'_>) -> wit::Failure {
        let kind = match fault {
            AccessFault::NoName | AccessFault::NoModel(_) => wit::FailureKind::NotFound,
            AccessFault::NotOffered => wit::FailureKind::Unsupported,
            AccessFault::NoIndex | AccessFault::NotText | AccessFault::Withdrawn => {
                wit::FailureKind::Failed
            }
        };
        failure(kind, fault.to_string())
    }

    /// Parses a model's name, so that it can be part of an entry's name.
    fn named(model: &str) -> Result<ModelName, wit::Failure> {
        ModelName::parse(model).ok_or_else(|| access_failure(AccessFault::NoName))
    }

    fn read(entry: ModelEntry<'_>) -> Result<Option<String>, wit::Failure> {
        let found = control(|bucket| bucket.get(&entry.to_string()))?;
        let text = found.map(String::from_utf8).transpose();
        text.map_err(|_| access_failure(AccessFault::NotText))
    }

    fn write(entry: ModelEntry<'_>) -> Result<(), wit::Failure> {
        control(|bucket| bucket.set(&entry.to_string(), &[]))
    }

    /// Calls the host through its store, which is opened once.
    fn control<T>(
        ask: impl FnOnce(&store::Bucket) -> Result<T, store::Error>,
    ) -> Result<T, wit::Failure> {
        STATE.with(|state| {
            let mut control = state.control.borrow_mut();
            let bucket = match &*control {
                Some(bucket) => bucket,
                None => match store::open(LABEL) {
                    Ok(bucket) => &*control.insert(bucket),
                    Err(store::Error::NoSuchStore | store::Error::AccessDenied) => {
                        return Err(access_failure(AccessFault::NotOffered));
                    }
                    Err(store::Error::Other(message)) => return Err(control_failure(&message)),
                },
            };
            ask(bucket).map_err(|error| match error {
                store::Error::Other(message) => control_failure(&message),
                store::Error::NoSuchStore | store::Error::AccessDenied => {
                    access_failure(AccessFault::Withdrawn)
                }
            })
        })
    }

    /// Parses a failure from the host's message.
    fn control_failure(words: &str) -> wit::Failure {
        let (fault, message) = ModelFault::parse(words);
        let kind = match fault {
            ModelFault::NotFound => wit::FailureKind::NotFound,
            ModelFault::FailedPrecondition => wit::FailureKind::FailedPrecondition,
            ModelFault::Failed => wit::FailureKind::Failed,
        };
        failure(kind, message)
    }
}

/// The gate's side: its imports.
#[cfg(feature = "gate")]
mod gate {
    use crate::imports::bindings::penstock::models::models as wit;
    use penstock_gate::ports::{ControlFailure, ControlFailureKind};
    use penstock_policy::rollout::service::RolloutService;
    use penstock_policy::rollout::words::RolloutFailure;

    pub(crate) fn control_failure(failure: wit::Failure) -> ControlFailure {
        use ControlFailureKind as Kind;
        use wit::FailureKind as Wit;
        ControlFailure {
            kind: match failure.kind {
                Wit::Unsupported => Kind::Unsupported,
                Wit::NotFound => Kind::NotFound,
                Wit::FailedPrecondition => Kind::FailedPrecondition,
                Wit::Failed => Kind::Failed,
            },
            message: failure.message,
        }
    }

    /// The rollouts as the gate imports them.
    pub struct WitRollouts;

    fn rollout_failure(failure: wit::Failure) -> RolloutFailure {
        match failure.kind {
            wit::FailureKind::Unsupported => RolloutFailure::Unsupported(failure.message),
            _ => RolloutFailure::Failed(failure.message),
        }
    }

    impl RolloutService for WitRollouts {
        fn document(&self) -> Result<Option<String>, RolloutFailure> {
            wit::rollouts().map_err(rollout_failure)
        }

        fn count(&self, model: &str, number: u64, counter: u32) -> Result<(), RolloutFailure> {
            wit::tally(model, number, counter).map_err(rollout_failure)
        }

        fn counts(
            &self,
            model: &str,
            number: u64,
            counters: u32,
        ) -> Result<Vec<u64>, RolloutFailure> {
            wit::tallies(model, number, counters).map_err(rollout_failure)
        }

        fn roll_back(&self, model: &str, run: u64, why: &str) -> Result<bool, RolloutFailure> {
            wit::roll_back(model, run, why).map_err(rollout_failure)
        }

        fn rolled_back(&self, model: &str, run: u64) -> Result<Option<String>, RolloutFailure> {
            wit::rolled_back(model, run).map_err(rollout_failure)
        }
    }
}
