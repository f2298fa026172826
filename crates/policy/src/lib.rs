//! The decisions: one module per policy, each over ports for storage, time and randomness.
//!
//! * [`auth`]: which caller a request is from, and whether it is allowed (decisions need the feature `auth`);
//! * [`batches`]: OpenAI's files and batches, whose lines run later;
//! * [`cache`]: which results are cached, and which caller runs a call that several make at the same time;
//! * [`cors`]: which pages of other origins may read answers;
//! * [`custom`]: a policy of the operator's own;
//! * [`disclosure`]: how exact the returned scores are;
//! * [`document`]: finds the settings of each policy;
//! * [`quota`]: how much each caller may use, and the headers that report it;
//! * [`idempotency`]: whether a call that may be a retry is run, replayed or refused;
//! * [`operations`]: calls that are accepted now and run later, with their results;
//! * [`rollout`]: which version of a model answers, and when a canary is rolled back;
//! * [`services`]: the services of all policies, as the gate gets them;
//! * [`usage`]: the counts of calls, for reports;
//! * [`webhooks`]: announcements of operations that end, to servers of the callers;
//! * [`pattern`]: names with `*` in settings;
//! * [`sweep`]: deletes entries that are no longer needed.

pub mod auth;
pub mod batches;
pub mod cache;
pub mod cors;
pub mod custom;
pub mod disclosure;
pub mod document;
pub mod idempotency;
pub mod operations;
pub mod pattern;
pub mod quota;
mod records;
pub mod rollout;
pub mod services;
pub mod sweep;
pub mod usage;
pub mod validation;
pub mod webhooks;
