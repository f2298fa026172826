//! The services of all policies, as the gate gets them. A new policy adds its service here, and its step to the gate's
//! pipeline.

use crate::auth::service::AuthService;
use crate::auth::words::Environment;
use crate::batches::service::BatchesService;
use crate::cache::service::CacheService;
use crate::custom::service::CustomService;
use crate::idempotency::service::IdempotencyService;
use crate::operations::service::OperationsService;
use crate::quota::service::QuotaService;
use crate::rollout::service::RolloutService;
use crate::usage::service::UsageService;

/// Opens the policies of the gate. An error is a sentence for the operator.
pub trait Services {
    /// The authentication of the policy.
    type Auth: AuthService;
    /// The limits of the policy.
    type Quota: QuotaService;
    /// The idempotency of the policy.
    type Idempotency: IdempotencyService;
    /// The usage counters of the policy.
    type Usage: UsageService;
    /// The long-running calls of the policy.
    type Operations: OperationsService;
    /// The files and batches of the policy.
    type Batches: BatchesService;
    /// The policy of the operator's own.
    type Custom: CustomService;
    /// The cache of results.
    type Cache: CacheService;
    /// The rollouts of model versions.
    type Rollouts: RolloutService;

    /// Opens the authentication of a policy.
    fn open_auth(&self, policy: &str, environment: Environment) -> Result<Self::Auth, String>;
    /// Opens the limits of a policy.
    fn open_quota(&self, policy: &str) -> Result<Self::Quota, String>;
    /// Opens the idempotency of a policy.
    fn open_idempotency(&self, policy: &str) -> Result<Self::Idempotency, String>;
    /// Opens the usage counters of a policy.
    fn open_usage(&self, policy: &str) -> Result<Self::Usage, String>;
    /// Opens the long-running calls of a policy.
    fn open_operations(&self, policy: &str) -> Result<Self::Operations, String>;
    /// Opens the files and batches of a policy.
    fn open_batches(&self, policy: &str) -> Result<Self::Batches, String>;
    /// Opens the policy of the operator's own.
    fn open_custom(&self, policy: &str) -> Result<Self::Custom, String>;
    /// Opens the cache of results. The gate knows which models have one.
    fn open_cache(&self) -> Self::Cache;
    /// Opens the rollouts of all models. They change while the server runs.
    fn open_rollouts(&self) -> Self::Rollouts;
}
