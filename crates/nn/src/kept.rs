//! Compares the outputs of a model's first runs with its contract. Graphs declare shapes that their own runs do not
//! keep: CatBoost's regressors declare `[N]` and answer `[N,1]`, LightGBM's classifiers declare `[1]` and answer `[N]`.
//! So a run decides about outputs, and the graph's declaration counts unless a run contradicts it.
//!
//! A run on made-up values decides nothing about an output whose shape follows from values, as that of `Slice` does
//! with computed bounds: other values give other lengths. Only its number of axes counts.

use std::collections::BTreeSet;

use penstock_tensor::contract::{AxisBounds, Contract};
use penstock_tensor::outputs::{self, Lengths};

use crate::backend::{Dim, Graph, Port};
use crate::contract_check;
#[cfg(feature = "native")]
use crate::derive::Shapes;
use crate::error::{NnError, listed, quoted};
use crate::layout::{CONTRACT_FILE, SAMPLE_FILE};
use crate::tensor::{NnTensor, TensorType};

/// The shapes of one run.
#[derive(Debug)]
pub(crate) struct Run {
    inputs: Vec<(String, Vec<u64>)>,
    outputs: Vec<(String, TensorType, Vec<u64>)>,
    /// Whether its inputs are not the operator's own samples.
    made_up: bool,
}

impl Run {
    /// Keeps the shapes of a run's inputs before the inputs are dropped.
    pub(crate) fn of(inputs: &[(String, NnTensor)], made_up: bool) -> Self {
        Self {
            made_up,
            inputs: inputs
                .iter()
                .map(|(name, tensor)| (name.clone(), wide(&tensor.dims)))
                .collect(),
            outputs: Vec::new(),
        }
    }

    /// The same with the run's outputs.
    pub(crate) fn gave(mut self, outputs: &[(String, NnTensor)]) -> Self {
        self.outputs = outputs
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.ty, wide(&tensor.dims)))
            .collect();
        self
    }
}

#[cfg(feature = "native")]
impl Run {
    /// Returns the shapes of the run, without its elements.
    pub(crate) fn shapes(&self) -> Shapes {
        let outputs = self.outputs.iter();
        Shapes {
            inputs: self.inputs.clone(),
            outputs: outputs
                .map(|(name, _, shape)| (name.clone(), shape.clone()))
                .collect(),
        }
    }
}

fn wide(dims: &[u32]) -> Vec<u64> {
    dims.iter().copied().map(u64::from).collect()
}

/// Refuses a version whose outputs do not match the contract. `ports` are the graph's outputs, and `graph` is `None` if
/// its operators are not known. Returns a remark on outputs that made-up runs could not decide about.
///
/// # Errors
///
/// `InvalidArgument`, naming for each output the expected and the actual value, and the correction.
pub(crate) fn check(
    contract: &Contract,
    version: u64,
    ports: &[Port],
    graph: Option<&Graph>,
    runs: &[Run],
) -> Result<Option<String>, NnError> {
    let open = open_outputs(contract, graph);
    let mut undecided = BTreeSet::new();
    let faults = faults(contract, ports, &open, runs, &mut undecided);
    if faults.is_empty() {
        return Ok((!undecided.is_empty()).then(|| {
            format!(
                "the lengths of {} follow from values in the inputs, so the first run could not check them against \
                 {CONTRACT_FILE}; a call with other lengths fails with 500: name the axes that may have any length, or \
                 give an input in {SAMPLE_FILE}",
                listed(undecided.into_iter())
            )
        }));
    }
    Err(NnError::invalid(format!(
        "version {version} does not match {CONTRACT_FILE}: {}",
        faults.join("; ")
    )))
}

/// The outputs that do not match the contract.
#[cfg(feature = "native")]
pub(crate) fn contradicted(
    contract: &Contract,
    ports: &[Port],
    graph: Option<&Graph>,
    runs: &[Run],
) -> Vec<String> {
    let open = open_outputs(contract, graph);
    let one = |name: &str| {
        let mut alone = contract.clone();
        alone.outputs.retain(|spec| spec.name == name);
        faults(&alone, ports, &open, runs, &mut BTreeSet::new()).is_empty()
    };
    (contract.outputs.iter())
        .filter(|spec| !one(&spec.name))
        .map(|spec| spec.name.clone())
        .collect()
}

/// The outputs whose lengths follow from values, so that a made-up run cannot tell them.
fn open_outputs<'c>(contract: &'c Contract, graph: Option<&Graph>) -> Vec<&'c str> {
    (contract.outputs.iter().map(|spec| &*spec.name))
        .filter(|name| graph.is_some_and(|graph| graph.has_open_shape(name)))
        .collect()
}

fn faults<'c>(
    contract: &'c Contract,
    ports: &[Port],
    open: &[&str],
    runs: &[Run],
    undecided: &mut BTreeSet<&'c str>,
) -> Vec<String> {
    let mut faults = Vec::new();
    // The last run is the longest. Only there can one item be told from an axis of one element.
    for run in runs.iter().rev() {
        faults = of_run(contract, open, run, undecided);
        // Another run would report the same outputs with other numbers.
        if !faults.is_empty() {
            return faults;
        }
    }
    for spec in &contract.outputs {
        let Some(port) = ports.iter().find(|port| port.name == spec.name) else {
            continue;
        };
        let contradicted = runs
            .iter()
            .filter(|run| !(run.made_up && open.contains(&&*spec.name)))
            .flat_map(|run| &run.outputs)
            .any(|(name, _, shape)| *name == spec.name && !declares(port, shape));
        if !contradicted {
            faults.extend(contract_check::output_shape(contract, spec, port));
        }
    }
    faults
}

/// The faults in the outputs of one run. Those of `open` may have any lengths in a run on made-up inputs.
fn of_run<'c>(
    contract: &'c Contract,
    open: &[&str],
    run: &Run,
    undecided: &mut BTreeSet<&'c str>,
) -> Vec<String> {
    let inputs = (run.inputs.iter()).map(|(name, shape)| (name.as_str(), shape.iter().copied()));
    let mut lengths = Lengths::of(contract, inputs);
    let mut faults = Vec::new();
    for spec in &contract.outputs {
        let found = run.outputs.iter().find(|(name, ..)| *name == spec.name);
        let Some((_, ty, shape)) = found else {
            if spec.optional {
                continue;
            }
            faults.push(format!("the run gave no output {}", quoted(&spec.name)));
            continue;
        };
        if contract_check::tensor_type(spec.datatype) != *ty {
            faults.push(format!(
                "output {} is {ty} in the run, and {} in {CONTRACT_FILE}; correct the datatype or the graph",
                quoted(&spec.name),
                spec.datatype
            ));
            continue;
        }
        if run.made_up && open.contains(&&*spec.name) && shape.len() == spec.shape.len() {
            if outputs::shape(spec, shape, &mut lengths.clone()).is_some() {
                undecided.insert(&spec.name);
            }
            continue;
        }
        faults.extend(outputs::shape(spec, shape, &mut lengths));
    }
    faults
}

/// Returns whether a port declares this shape among others.
fn declares(port: &Port, shape: &[u64]) -> bool {
    let Some(dims) = &port.dims else { return true };
    dims.len() == shape.len()
        && (dims.iter().zip(shape)).all(|(dim, length)| match dim {
            Dim::Fixed(fixed) => u64::from(*fixed) == *length,
            Dim::Symbolic(_) => true,
        })
}

/// Returns whether the contract and the graph differ in the shape of an output, so that a run of other lengths is worth its
/// time.
pub(crate) fn in_doubt(contract: &Contract, ports: &[Port]) -> bool {
    contract.outputs.iter().any(|spec| {
        let port = ports.iter().find(|port| port.name == spec.name);
        port.is_some_and(|port| contract_check::output_shape(contract, spec, port).is_some())
    })
}

/// A call that is longer by one along every open axis that has room. It tells an output of one element from an output
/// of one element for each item. `None` if no axis has room.
pub(crate) fn longer(contract: &Contract) -> Option<Vec<(String, NnTensor)>> {
    let batch = contract.batch_axis();
    let length = |axis: &str| {
        let bounds = contract.axes.get(axis);
        let AxisBounds { min, max, .. } = bounds.cloned().unwrap_or(AxisBounds {
            min: 1,
            max: None,
            description: None,
        });
        let items = contract.limits.max_items;
        let most = max.unwrap_or(u64::MAX);
        let most = if batch == Some(axis) {
            most.min(items)
        } else {
            most
        };
        (min, (min + 1).min(most).max(min))
    };
    let axes = contract.inputs.iter().flat_map(|spec| &spec.shape);
    let room = axes.clone().any(|dim| match dim {
        penstock_tensor::contract::Dim::Symbol(axis) => {
            let (least, longer) = length(axis);
            longer > least
        }
        penstock_tensor::contract::Dim::Fixed(_) => false,
    });
    if !room {
        return None;
    }
    contract_check::example_of_lengths(contract, &|axis| length(axis).1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::PortType;

    fn contract(output: &str, more: &str) -> Contract {
        let text = format!(
            "description = \"for tests\"\n[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [\"N\", 3]\n\
             [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = {output}\n{more}"
        );
        Contract::parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn port(dims: &[Option<u32>]) -> Port {
        let dim = |dim: &Option<u32>| match dim {
            Some(length) => Dim::Fixed(*length),
            None => Dim::Symbolic("n".into()),
        };
        Port {
            name: "y".into(),
            ty: PortType::Tensor(TensorType::Fp32),
            dims: Some(dims.iter().map(dim).collect()),
        }
    }

    fn run(items: u64, output: &[u64]) -> Run {
        Run {
            inputs: vec![("x".into(), vec![items, 3])],
            outputs: vec![("y".into(), TensorType::Fp32, output.to_vec())],
            made_up: true,
        }
    }

    #[test]
    fn what_comes_out_decides_and_not_what_the_graph_declares() {
        // declared, first run, second run, and which contracts are true of them.
        type Case<'a> = (&'a [Option<u32>], &'a [u64], &'a [u64], &'a [&'a str]);
        let cases: [Case<'_>; 5] = [
            // CatBoost: [N] is declared and [N, 1] comes.
            (&[None], &[1, 1], &[2, 1], &["[\"N\", 1]"]),
            // LightGBM: [1] is declared and [N] comes.
            (&[Some(1)], &[1], &[2], &["[\"N\"]"]),
            // A graph with a true declaration.
            (&[None], &[1], &[2], &["[\"N\"]"]),
            (&[Some(1)], &[1], &[1], &["[1]"]),
            (
                &[None, None],
                &[1, 3],
                &[2, 3],
                &["[\"N\", 3]", "[\"N\", \"K\"]"],
            ),
        ];
        let shapes = [
            "[]",
            "[1]",
            "[\"N\"]",
            "[\"N\", 1]",
            "[1, 1]",
            "[\"N\", 2]",
            "[\"N\", 3]",
            "[\"N\", \"K\"]",
        ];
        for (declared, first, second, right) in cases {
            for shape in shapes {
                let contract = contract(shape, "");
                let runs = [run(1, first), run(2, second)];
                let faults = faults(
                    &contract,
                    &[port(declared)],
                    &[],
                    &runs,
                    &mut BTreeSet::new(),
                );
                let open = shape == "[\"N\", \"K\"]" && first.len() == 2;
                let expected = right.contains(&shape) || open;
                assert_eq!(faults.is_empty(), expected, "{first:?} {shape}: {faults:?}");
                if !expected {
                    let told = right
                        .iter()
                        .any(|right| faults[0].contains(&format!("write shape = {right}")));
                    assert!(told, "{first:?} {shape}: {faults:?}");
                }
            }
        }
    }

    #[test]
    fn a_fixed_dimension_that_no_run_contradicts_is_written_as_a_number() {
        let contract = contract("[\"N\", 3]", "");
        let ports = [port(&[Some(1), Some(3)])];
        let runs = [run(1, &[1, 3])];
        let faults = faults(&contract, &ports, &[], &runs, &mut BTreeSet::new());
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("fixed at 1"), "{faults:?}");
        assert!(in_doubt(&contract, &ports));
    }

    #[test]
    fn a_made_up_run_decides_nothing_about_lengths_that_follow_from_values() {
        let contract = contract("[7, 3]", "");
        let ports = [port(&[Some(7), Some(3)])];
        let judged = |open: &[&str], run: Run| {
            let mut undecided = BTreeSet::new();
            let faults = faults(&contract, &ports, open, &[run], &mut undecided);
            (faults.is_empty(), undecided.contains("y"))
        };
        assert_eq!(judged(&[], run(1, &[1, 3])), (false, false));
        assert_eq!(judged(&["y"], run(1, &[1, 3])), (true, true));
        assert_eq!(judged(&["y"], run(1, &[7, 3])), (true, false));
        // The number of axes does not follow from values, and callers send samples.
        assert_eq!(judged(&["y"], run(1, &[3])), (false, false));
        let sample = Run {
            made_up: false,
            ..run(1, &[1, 3])
        };
        assert_eq!(judged(&["y"], sample), (false, false));
    }

    #[test]
    fn a_longer_call_is_longer_where_there_is_room() {
        let dims =
            |more: &str| longer(&contract("[\"N\"]", more)).map(|call| call[0].1.dims.clone());
        assert_eq!(dims(""), Some(vec![2, 3]));
        assert_eq!(dims("[axes]\nN = { min = 4 }\n"), Some(vec![5, 3]));
        assert_eq!(dims("[axes]\nN = { min = 4, max = 4 }\n"), None);
        assert_eq!(dims("[limits]\nmax_items = 1\n"), None);
    }
}
