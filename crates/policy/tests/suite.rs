//! The tests of this crate, as one binary.

mod auth_tokens_common;
mod batches_common;
mod operations_common;
mod quota_common;

mod auth;
mod auth_registry;
mod auth_signatures;
mod auth_tokens;
mod auth_tokens_attacks;
mod batched_reads;
mod batches;
mod batches_sim;
mod cache;
mod idempotency;
mod operations;
mod operations_events;
mod operations_queue;
mod operations_sim;
mod operations_store;
mod properties;
mod quota_announced;
mod quota_behaviour;
mod quota_deferred;
mod quota_limits;
mod quota_sim;
mod rollout;
mod rollout_sim;
mod usage;
mod webhooks;
mod webhooks_sim;
