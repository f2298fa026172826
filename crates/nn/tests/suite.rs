//! The tests of this crate, as one binary; Cargo.toml names those that are alone in theirs.

mod every_backend_common;
mod repository_common;
mod support;

mod batches;
mod every_backend;
mod every_backend_faults;
mod exact;
mod first_run;
mod golden;
mod loading;
mod on_demand;
mod openvino;
mod providers;
mod repository;
mod repository_changes;
mod rows;
mod schedule;
mod scheduling;
mod shadow;
mod tract_refusals;
mod worker_cost;

/// The process of a model, which [`support::launcher`] starts.
#[test]
fn worker_process() {
    support::serve_as_child(&penstock_nn::worker::find);
}
