//! Loading and running a graph on any backend.

use crate::support::fp32;
use penstock_nn::{Backend, GraphSource, LoadOptions, Model, NnError, NnTensor};

pub fn load(backend: &dyn Backend, graph: &GraphSource) -> Result<Model, NnError> {
    Model::load(
        "m",
        "1",
        backend,
        graph,
        &LoadOptions {
            instances: Some(2),
            ..LoadOptions::default()
        },
    )
}

pub fn run(
    model: &Model,
    inputs: Vec<(&str, NnTensor)>,
) -> Result<Vec<(String, NnTensor)>, NnError> {
    let inputs = inputs
        .into_iter()
        .map(|(name, tensor)| (name.to_string(), tensor))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(model.infer(inputs))
}

pub fn unit(n: u32) -> NnTensor {
    let cell = |at: u32| f32::from(u8::from(at.is_multiple_of(n + 1)));
    fp32(&[n, n], &(0..n * n).map(cell).collect::<Vec<f32>>())
}
