//! One caller's numbers never change another's answer. The verdict of a graph's operators about its rows is compared with
//! the results of every backend, alone and in every batch, and with the behaviour of a loaded model.

use crate::support;

use std::path::Path;
use std::sync::Arc;

use penstock_nn::{
    Backend, Backends, GraphSource, Instance, LoadOptions, NnError, NnTensor, Port, Repository,
    Rows, Session, Settings, SharedRuns, Unavailable,
};
use support::graphs::{FLOAT, file, graph, int, ints, list, node, reals, scalar, value};
use support::*;

/// The generator of Knuth: the same graphs on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = (self.0)
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) % limit as u64) as usize
    }

    /// Returns a number of either sign, and of a size from a hundredth to a hundred.
    fn real(&mut self) -> f32 {
        let size = 10f32.powf(self.below(4001) as f32 / 1000.0 - 2.0);
        size * if self.below(2) == 0 { -1.0 } else { 1.0 }
    }
}

/// The length of an axis of a made-up value: the number of items, or this many.
#[derive(Clone, Copy, PartialEq, Debug)]
enum L {
    N,
    K(u64),
}

/// A graph that is being made up: values of known shapes, of which the next operators choose.
struct Making {
    nodes: Vec<Vec<u8>>,
    constants: Vec<Vec<u8>>,
    values: Vec<(String, Vec<L>)>,
    text: String,
}

impl Making {
    fn add(&mut self, op: &str, inputs: &[&str], shape: Vec<L>, attributes: &[Vec<u8>]) {
        self.add_with(op, inputs, &[], shape, attributes);
    }

    fn add_with(
        &mut self,
        op: &str,
        inputs: &[&str],
        more: &[&str],
        shape: Vec<L>,
        attributes: &[Vec<u8>],
    ) {
        let name = format!("v{}", self.nodes.len());
        let outputs: Vec<&str> = std::iter::once(name.as_str())
            .chain(more.iter().copied())
            .collect();
        self.nodes.push(node(op, inputs, &outputs, attributes));
        self.text += &format!(" {op}{inputs:?}->{name}{shape:?}");
        self.values.push((name, shape));
    }

    fn constant(&mut self, values: &[i64]) -> String {
        let name = format!("c{}", self.constants.len());
        self.constants.push(list(&name, values));
        name
    }

    fn weight(&mut self, random: &mut Numbers, dims: &[u64]) -> String {
        let name = format!("w{}", self.constants.len());
        let values: Vec<f32> = (0..dims.iter().product())
            .map(|_| random.real() / 10.0)
            .collect();
        self.constants.push(reals(&name, dims, &values));
        name
    }
}

/// Adds an operator of kind 0 to 10, which computes with a value along an axis.
fn compute(
    made: &mut Making,
    random: &mut Numbers,
    (x, shape): (&str, Vec<L>),
    axis: usize,
    kind: usize,
) {
    use L::K;
    let (rank, signed) = (shape.len(), axis as i64);
    let last = shape[rank - 1];
    match kind {
        0 => made.add(
            ["Relu", "Tanh", "Abs", "Sigmoid"][random.below(4)],
            &[x],
            shape,
            &[],
        ),
        1 => {
            let w = made.weight(random, &[4]);
            if last == K(4) {
                made.add(["Add", "Mul"][random.below(2)], &[x, &w], shape, &[]);
            }
        }
        2 | 3 if last == K(4) && rank >= 2 => {
            let w = made.weight(random, &[4, 4]);
            made.add("MatMul", &[x, &w], shape, &[]);
        }
        4 => {
            let (other, own) = made.values[random.below(made.values.len())].clone();
            if own == shape {
                made.add(
                    ["Add", "Mul", "Sub", "Max"][random.below(4)],
                    &[x, &other],
                    shape,
                    &[],
                );
            }
        }
        5 | 6 => {
            // Keeps the axis, so that the next operator divides by it.
            let mut kept = shape.clone();
            kept[axis] = K(1);
            let op = ["ReduceMax", "ReduceMean", "ReduceMin", "ReduceL2"][random.below(4)];
            made.add(op, &[x], kept, &[ints("axes", &[signed])]);
            let scale = made.values[made.values.len() - 1].0.clone();
            made.add("Sub", &[x, &scale], shape, &[]);
        }
        7 if rank > 1 => {
            let mut without = shape;
            without.remove(axis);
            made.add(
                "ReduceMax",
                &[x],
                without,
                &[ints("axes", &[signed]), int("keepdims", 0)],
            );
        }
        8 => made.add("Softmax", &[x], shape, &[int("axis", axis as u64)]),
        9 => {
            let at = made.constant(&[signed]);
            made.add("CumSum", &[x, &at], shape, &[]);
        }
        10 if rank > 1 => {
            let mut order: Vec<i64> = (0..rank as i64).collect();
            order.swap(axis, random.below(rank));
            let turned = order.iter().map(|axis| shape[*axis as usize]).collect();
            made.add("Transpose", &[x], turned, &[ints("perm", &order)]);
        }
        _ => {}
    }
}

/// Adds an operator of kind 11 to 19, which reads the shape of a value, changes it, or takes parts of the value.
fn rearrange(
    made: &mut Making,
    random: &mut Numbers,
    (x, shape): (&str, Vec<L>),
    axis: usize,
    kind: usize,
) {
    use L::{K, N};
    let (rank, signed) = (shape.len(), axis as i64);
    let last = shape[rank - 1];
    match kind {
        11 | 12 => {
            // Every shape of as many elements, whichever axis the items land on.
            let target: &[(&[i64], &[L])] = &[
                (&[-1, 4], &[N, K(4)]),
                (&[4, -1], &[K(4), N]),
                (&[-1, 2, 2], &[N, K(2), K(2)]),
                (&[2, -1, 2], &[K(2), N, K(2)]),
                (&[0, 4], &[N, K(4)]),
            ];
            let is_four = shape.iter().filter(|l| **l == N).count() == 1
                && shape
                    .iter()
                    .map(|l| if let K(k) = l { *k } else { 1 })
                    .product::<u64>()
                    == 4;
            let (to, as_shape) = target[random.below(target.len())];
            if is_four && (to[0] != 0 || shape[0] == N) {
                let to = made.constant(to);
                made.add("Reshape", &[x, &to], as_shape.to_vec(), &[]);
            }
        }
        13 => {
            let one = made.constant(&[0, 0]);
            if let K(_) = shape[axis] {
                let mut taken = shape.clone();
                taken[axis] = K(2);
                made.add("Gather", &[x, &one], taken, &[int("axis", axis as u64)]);
            } else {
                // Any item's elements for every item.
                let first = made.constant(&[0]);
                let mut taken = shape.clone();
                taken[axis] = K(1);
                made.add("Gather", &[x, &first], taken, &[int("axis", axis as u64)]);
                let first = made.values[made.values.len() - 1].0.clone();
                made.add("Add", &[x, &first], shape, &[]);
            }
        }
        14 => {
            let (k, flag) = (made.constant(&[1]), random.below(2) as u64);
            let mut kept = shape.clone();
            kept[axis] = K(1);
            let more = format!("i{}", made.nodes.len());
            let attributes = [int("axis", axis as u64), int("largest", flag)];
            made.add_with("TopK", &[x, &k], &[&more], kept, &attributes);
            let top = made.values[made.values.len() - 1].0.clone();
            made.add("Sub", &[x, &top], shape, &[]);
        }
        15 => {
            let (scale, zero) = (
                format!("s{}", made.nodes.len()),
                format!("z{}", made.nodes.len()),
            );
            made.add_with(
                "DynamicQuantizeLinear",
                &[x],
                &[&scale, &zero],
                shape.clone(),
                &[],
            );
            let (whole, _) = made.values.pop().expect("just made");
            made.add("DequantizeLinear", &[&whole, &scale, &zero], shape, &[]);
        }
        16 if rank == 2 && last == K(4) => {
            let (scale, bias) = (made.weight(random, &[4]), made.weight(random, &[4]));
            made.add(
                "LayerNormalization",
                &[x, &scale, &bias],
                shape,
                &[int("axis", 1)],
            );
        }
        17 => {
            // The number of items as a number.
            made.add("Shape", &[x], vec![K(rank as u64)], &[]);
            let (dims, _) = made.values.pop().expect("just made");
            let at = made.constant(&[signed]);
            made.add("Gather", &[&dims, &at], vec![K(1)], &[]);
            let (count, _) = made.values.pop().expect("just made");
            made.add("Cast", &[&count], vec![K(1)], &[int("to", FLOAT)]);
            let (count, _) = made.values.pop().expect("just made");
            made.add("Mul", &[x, &count], shape, &[]);
        }
        18 => {
            let (from, to, at) = (
                made.constant(&[0]),
                made.constant(&[1]),
                made.constant(&[signed]),
            );
            if shape[axis] != N {
                let mut taken = shape.clone();
                taken[axis] = K(1);
                made.add("Slice", &[x, &from, &to, &at], taken, &[]);
            }
        }
        19 => {
            // Through a shape of its own, as exporters write it.
            made.add("Shape", &[x], vec![K(rank as u64)], &[]);
            let (dims, _) = made.values.pop().expect("just made");
            made.add("Reshape", &[x, &dims], shape, &[]);
        }
        _ => {}
    }
}

/// A made-up graph over `x`, `[N,4]`, whose output `y` has two axes; with its operators, for the message of a failure.
fn made_up(random: &mut Numbers) -> (Vec<u8>, String) {
    use L::{K, N};
    let mut made = Making {
        nodes: Vec::new(),
        constants: Vec::new(),
        values: vec![("x".into(), vec![N, K(4)])],
        text: String::new(),
    };
    for _ in 0..3 + random.below(5) {
        // The newest value most of the time, so that graphs grow deep.
        let count = made.values.len();
        let at = if random.below(3) > 0 {
            count - 1
        } else {
            random.below(count)
        };
        let (name, shape) = made.values[at].clone();
        let axis = random.below(shape.len());
        let operand = (name.as_str(), shape);
        match random.below(20) {
            kind @ 0..=10 => compute(&mut made, random, operand, axis, kind),
            kind => rearrange(&mut made, random, operand, axis, kind),
        }
    }
    // The newest value that can be an answer.
    let answers = |(_, shape): &&(String, Vec<L>)| shape.len() == 2 && shape[0] == N;
    let y = made
        .values
        .iter()
        .rev()
        .find(answers)
        .expect("x can")
        .0
        .clone();
    made.nodes.push(node("Identity", &[&y], &["y"], &[]));
    made.text += &format!(" y={y}");
    let model = graph(
        &made.nodes,
        &made.constants,
        &[value("x", FLOAT, &[0, 4])],
        &[value("y", FLOAT, &[0, 0])],
    );
    (file(&model), made.text)
}

/// The outputs of rows in one run; `None` where the backend cannot run them.
fn run(
    backend: &dyn Backend,
    graph: &GraphSource,
    batches: &[Vec<[f32; 4]>],
) -> Option<(Rows, Vec<Vec<f32>>)> {
    let session = backend.load(graph, &LoadOptions::default()).ok()?;
    let mut instance = session.instance().ok()?;
    let mut answers = Vec::new();
    for batch in batches {
        let values: Vec<f32> = batch.iter().flatten().copied().collect();
        let input = fp32(&[batch.len() as u32, 4], &values);
        let outputs: Vec<NnTensor> = instance.run(&[input]).ok()?;
        answers.push(as_fp32(&outputs[0]));
    }
    Some((session.rows(), answers))
}

/// Returns whether two numbers are the same except for the order of a sum. Sums of larger numbers cancel, so the difference
/// is compared with the largest.
fn same(a: &[f32], b: &[f32]) -> bool {
    let largest = a
        .iter()
        .filter(|x| x.is_finite())
        .fold(0f32, |most, x| most.max(x.abs()));
    a.len() == b.len()
        && (a.iter().zip(b))
            .all(|(a, b)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-5 * largest)
}

/// The seeds of a test, which it prints. `PENSTOCK_SEED` replaces them by one.
fn seeds(usual: &[u64]) -> Vec<u64> {
    let one = std::env::var("PENSTOCK_SEED").map(|seed| seed.parse().expect("a number"));
    one.map_or_else(|_| usual.to_vec(), |seed| vec![seed])
}

fn rows_of(random: &mut Numbers) -> Vec<[f32; 4]> {
    (0..9)
        .map(|_| std::array::from_fn(|_| random.real()))
        .collect()
}

#[test]
fn an_answer_alone_is_the_answer_in_every_batch_where_operators_say_that_rows_are_independent() {
    let seeds = seeds(&[7, 2_026, 90_001, 5_000_000_007]);
    for backend in every_backend() {
        let graphs = if backend.name() == "openvino" {
            15
        } else {
            100
        };
        let (mut independent, mut dependent, mut shown) = (0, 0, 0);
        let mut in_bits = Vec::new();
        for seed in &seeds {
            let mut random = Numbers(*seed);
            for _ in 0..graphs {
                let (bytes, text) = made_up(&mut random);
                let graph = GraphSource::Bytes(bytes.clone().into());
                let rows = rows_of(&mut random);
                let alone = rows.iter().map(|row| vec![*row]);
                // From the front, from the back, and all of them.
                let mut batches: Vec<Vec<[f32; 4]>> = alone.collect();
                batches.extend([rows[..2].to_vec(), rows[6..].to_vec(), rows.clone()]);
                let Some((said, answers)) = run(&*backend, &graph, &batches) else {
                    continue;
                };
                let places = [(9, 0..2), (10, 6..9), (11, 0..9)];
                let any = |same: &dyn Fn(&[f32], &[f32]) -> bool| {
                    places.iter().any(|(at, rows)| {
                        let expected: Vec<f32> = answers[rows.clone()].concat();
                        !same(&expected, &answers[*at])
                    })
                };
                let moved = any(&same);
                match said {
                    Rows::Independent => {
                        independent += 1;
                        assert!(!moved, "{}, seed {seed}: {text}", backend.name());
                        if any(&same_bits) {
                            let text = format!("seed {seed}: {text}");
                            in_bits.push(Made { text, bytes, rows });
                        }
                    }
                    Rows::Dependent(_) => {
                        dependent += 1;
                        shown += usize::from(moved);
                    }
                }
            }
        }
        println!(
            "{}, seeds {seeds:?}: {independent} independent, of which {} differ in a bit; {dependent} dependent, of which \
             {shown} moved",
            backend.name(),
            in_bits.len()
        );
        // Operators say nothing about the order of a sum, which some processors change with the number of rows. The
        // trials at load must find such a graph, so that no answer moves where it is served.
        served(&backend, &in_bits);
        // Neither answer is given without a reason.
        let graphs = graphs * seeds.len();
        assert!(independent > graphs / 10, "{independent}");
        assert!(shown > graphs / 10, "{shown}");
        assert!(shown * 2 > dependent, "{shown} of {dependent}");
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    bits(a) == bits(b)
}

/// A backend whose runs take longer, so that calls wait and then share the next run.
struct Slowed(Arc<dyn Backend>);

impl Backend for Slowed {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn version(&self) -> String {
        self.0.version()
    }

    fn load(
        &self,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        Ok(Arc::new(SlowedSession(self.0.load(graph, options)?)))
    }
}

struct SlowedSession(Arc<dyn Session>);

impl Session for SlowedSession {
    fn inputs(&self) -> &[Port] {
        self.0.inputs()
    }

    fn outputs(&self) -> &[Port] {
        self.0.outputs()
    }

    fn rows(&self) -> Rows {
        self.0.rows()
    }

    fn instance(&self) -> Result<Box<dyn Instance>, NnError> {
        Ok(Box::new(SlowedInstance(self.0.instance()?)))
    }
}

struct SlowedInstance(Box<dyn Instance>);

impl Instance for SlowedInstance {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        std::thread::sleep(std::time::Duration::from_millis(1));
        self.0.run(inputs)
    }
}

/// Calls of some rows of a model at once. Returns the numbers of each answer, in the order of the calls.
fn at_once(
    runtime: &tokio::runtime::Runtime,
    model: &penstock_nn::Model,
    calls: &[Vec<[f32; 4]>],
) -> Vec<Vec<f32>> {
    runtime.block_on(async {
        let mut running = Vec::new();
        for rows in calls {
            let values: Vec<f32> = rows.iter().flatten().copied().collect();
            let input = vec![("x".to_owned(), fp32(&[rows.len() as u32, 4], &values))];
            let model = model.clone();
            running.push(tokio::spawn(async move { model.infer(input).await }));
        }
        let mut answers = Vec::new();
        for call in running {
            let answer = call.await.expect("it does not panic").expect("it runs");
            answers.push(as_fp32(&answer[0].1));
        }
        answers
    })
}

/// A graph that was made up, with a description, and rows for it.
struct Made {
    text: String,
    bytes: Vec<u8>,
    rows: Vec<[f32; 4]>,
}

/// The numbers of models and calls of a test.
#[derive(Default)]
struct Counts {
    /// Models whose calls share runs, and others.
    shared: usize,
    separate: usize,
    /// Calls that ran together with another.
    joined: u64,
}

/// Serves graphs, and calls each from many callers at once. Every answer must be to the bit the answer alone.
fn served(backend: &Arc<dyn Backend>, graphs: &[Made]) -> Counts {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (inputs, outputs) = CONTRACT.split_once("[[outputs]]").expect("it has outputs");
    let contract = format!(
        "{inputs}[[outputs]]{}[engine]\nlanes = 1\n",
        outputs.replace('4', "\"K\"")
    );
    let folder = tempfile::tempdir().expect("a folder");
    for (at, made) in graphs.iter().enumerate() {
        put(folder.path(), &format!("m{at}"), &contract, &made.bytes);
    }
    let slowed: Arc<dyn Backend> = Arc::new(Slowed(backend.clone()));
    let repository = loaded(folder.path(), &slowed);
    let mut counts = Counts::default();
    for (at, Made { text, rows, .. }) in graphs.iter().enumerate() {
        let told = format!("{}, {text}", backend.name());
        let model = (repository.get(&format!("m{at}"), None))
            .unwrap_or_else(|error| panic!("{told}: {error:?}"));
        let alone: Vec<Vec<f32>> = (rows.iter())
            .flat_map(|row| at_once(&runtime, &model, &[vec![*row]]))
            .collect();
        let before = model.stats();
        let mut calls: Vec<Vec<[f32; 4]>> = rows.iter().map(|row| vec![*row]).collect();
        let mut expected = alone.clone();
        if let SharedRuns::Yes(_) = model.shared_runs() {
            counts.shared += 1;
            // Calls of several rows, which are cut out of a longer run.
            for (from, to) in [(0, 2), (3, 6), (2, 9)] {
                calls.push(rows[from..to].to_vec());
                expected.push(alone[from..to].concat());
            }
        } else {
            counts.separate += 1;
        }
        for _ in 0..3 {
            let answers = at_once(&runtime, &model, &calls);
            for (number, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
                assert!(
                    same_bits(answer, expected),
                    "{told}: call {number} answers {answer:?} among others, and {expected:?} alone"
                );
            }
        }
        let after = model.stats();
        let runs = after.execution_count - before.execution_count;
        counts.joined += (after.success - before.success).saturating_sub(runs);
    }
    counts
}

#[test]
fn an_answer_alone_is_to_the_bit_the_answer_among_calls_that_are_served_together() {
    let seeds = seeds(&[11, 4_242, 77_777]);
    for backend in every_backend() {
        let wanted = if backend.name() == "openvino" { 4 } else { 12 };
        let mut graphs = Vec::new();
        for seed in &seeds {
            let mut random = Numbers(*seed);
            let of_earlier = graphs.len();
            while graphs.len() - of_earlier < wanted {
                let (bytes, text) = made_up(&mut random);
                let rows = rows_of(&mut random);
                let source = GraphSource::Bytes(bytes.clone().into());
                let ran = run(&*backend, &source, &[rows[..1].to_vec(), rows.clone()]);
                if matches!(ran, Some((Rows::Independent, _))) {
                    let text = format!("seed {seed}: {text}");
                    graphs.push(Made { text, bytes, rows });
                }
            }
        }
        let Counts {
            shared,
            separate,
            joined,
        } = served(&backend, &graphs);
        println!(
            "{}, seeds {seeds:?}: {shared} models share runs, {separate} do not; {joined} calls went with another",
            backend.name()
        );
        assert!(shared > 0 && joined > 0, "{shared} models, {joined} calls");
    }
}

const CONTRACT: &str = r#"
description = "for tests"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 4]
[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N", 4]
"#;

fn over_x(nodes: &[Vec<u8>], constants: &[Vec<u8>]) -> Vec<u8> {
    file(&graph(
        nodes,
        constants,
        &[value("x", FLOAT, &[0, 4])],
        &[value("y", FLOAT, &[0, 4])],
    ))
}

fn relative() -> Vec<u8> {
    over_x(
        &[
            node("ReduceMax", &["x"], &["m"], &[int("keepdims", 0)]),
            node("Div", &["x", "m"], &["y"], &[]),
        ],
        &[],
    )
}

fn running_sum() -> Vec<u8> {
    over_x(
        &[node("CumSum", &["x", "axis"], &["y"], &[])],
        &[scalar("axis", 0)],
    )
}

/// Makes a linear layer as `quantize_dynamic` writes it.
fn quantised() -> Vec<u8> {
    let weights: Vec<u8> = (0..16u8).map(|at| at.wrapping_mul(37)).collect();
    over_x(
        &[
            node("DynamicQuantizeLinear", &["x"], &["q", "s", "z"], &[]),
            node("MatMulInteger", &["q", "w", "z"], &["i"], &[]),
            node("Cast", &["i"], &["f"], &[int("to", FLOAT)]),
            node("Mul", &["s", "k"], &["k2"], &[]),
            node("Mul", &["f", "k2"], &["y"], &[]),
        ],
        &[
            support::graphs::tensor("w", 2, &[4, 4], &weights),
            reals("k", &[1], &[0.01]),
        ],
    )
}

fn plain() -> Vec<u8> {
    let weights: Vec<f32> = (0..16).map(|at| (at as f32 - 7.5) / 8.0).collect();
    over_x(
        &[
            node("MatMul", &["x", "w"], &["a"], &[]),
            node("Softmax", &["a"], &["y"], &[]),
        ],
        &[reals("w", &[4, 4], &weights)],
    )
}

fn loaded(folder: &Path, backend: &Arc<dyn Backend>) -> Repository {
    let backends = Backends::builtin().prefer(backend.clone());
    let repository = Repository::open(folder, backends, Settings::default()).expect("opened");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(repository.load_all(|_| {}));
    repository
}

fn put(folder: &Path, name: &str, contract: &str, graph: &[u8]) {
    let version = folder.join(name).join("1");
    std::fs::create_dir_all(&version).expect("made");
    std::fs::write(version.join("model.onnx"), graph).expect("written");
    std::fs::write(folder.join(name).join("model.toml"), contract).expect("written");
}

#[test]
fn models_whose_rows_depend_on_each_other_run_one_by_one_and_the_log_names_the_operator() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let cases = [
        ("relative", relative(), "ReduceMax"),
        ("running-sum", running_sum(), "CumSum"),
        ("quantised", quantised(), "DynamicQuantizeLinear"),
    ];
    for (name, graph, _) in &cases {
        put(at, name, CONTRACT, graph);
        let asked = format!("{CONTRACT}[batching]\nenabled = true\n");
        put(at, &format!("{name}-asked"), &asked, graph);
        put(
            at,
            &format!("{name}-allowed"),
            &format!("{asked}allow_dependent_rows = true\n"),
            graph,
        );
        put(
            at,
            &format!("{name}-off"),
            &format!("{CONTRACT}[batching]\nenabled = false\n"),
            graph,
        );
    }
    put(at, "plain", CONTRACT, &plain());
    put(
        at,
        "plain-off",
        &format!("{CONTRACT}[batching]\nenabled = false\n"),
        &plain(),
    );
    for backend in every_backend() {
        let repository = loaded(at, &backend);
        let get = |name: &str| repository.get(name, None);
        for (name, _, op) in &cases {
            for name in [(*name).to_owned(), format!("{name}-off")] {
                let model = get(&name).unwrap_or_else(|e| panic!("{name}: {e:?}"));
                let said = model.shared_runs().to_string();
                assert!(
                    said.contains("one by one") && said.contains(op),
                    "{name}: {said}"
                );
                assert!(matches!(model.rows(), Rows::Dependent(_)), "{name}");
            }
            let Err(Unavailable::Failed(reason)) = get(&format!("{name}-asked")) else {
                panic!("{name} loads although its calls were to share runs");
            };
            for part in [*op, "enabled = true", "allow_dependent_rows = true"] {
                assert!(reason.contains(part), "{reason}");
            }
            let allowed = get(&format!("{name}-allowed")).expect("it is allowed");
            assert!(
                matches!(allowed.shared_runs(), SharedRuns::Yes(_)),
                "{:?}",
                allowed.shared_runs()
            );
        }
        let plain = get("plain").expect("it loads");
        assert_eq!(
            plain.shared_runs(),
            SharedRuns::Yes(Some(0.0)),
            "{}",
            backend.name()
        );
        let off = get("plain-off").expect("it loads");
        assert_eq!(
            (off.rows(), matches!(off.shared_runs(), SharedRuns::No(_))),
            (Rows::Independent, true)
        );
    }
}

#[test]
fn a_runtime_that_mixes_rows_on_its_own_account_is_found_out_by_trials() {
    use penstock_nn::backend::scripted::{Scripted, Step};
    // One that quantises by the largest element of a run: similar rows do not show it.
    let scaled = Scripted::new(|_, inputs| {
        let values = as_fp32(&inputs[0]);
        let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let step = if most.is_finite() && most > 1e3 {
            most / 127.0
        } else {
            0.0
        };
        let rounded = |x: &f32| {
            if step > 0.0 {
                (x / step).round() * step
            } else {
                *x
            }
        };
        let values: Vec<f32> = values.iter().map(rounded).collect();
        Step::Answer(vec![fp32(&inputs[0].dims, &values)])
    });
    // One that lets NaN of one row into the next.
    let leaking = Scripted::new(|_, inputs| {
        let mut values = as_fp32(&inputs[0]);
        for at in 1..values.len() {
            if values[at - 1].is_nan() {
                values[at] = f32::NAN;
            }
        }
        Step::Answer(vec![fp32(&inputs[0].dims, &values)])
    });
    // One that chooses another kernel from sixteen rows on.
    let sized = Scripted::new(|_, inputs| {
        let off = if inputs[0].dims[0] >= 16 { 1e-3 } else { 0.0 };
        let values: Vec<f32> = as_fp32(&inputs[0]).iter().map(|x| x + off).collect();
        Step::Answer(vec![fp32(&inputs[0].dims, &values)])
    });
    let contract = CONTRACT.replace("[\"N\", 4]", "[\"N\"]");
    for (script, word) in [
        (scaled, "ten thousands"),
        (leaking, "NaN"),
        (sized, "among many"),
    ] {
        // Only such a contract lets NaN in.
        let contract = match word {
            "NaN" => contract.replacen(
                "shape = [\"N\"]",
                "shape = [\"N\"]\nallow_non_finite = true",
                1,
            ),
            _ => contract.clone(),
        };
        let folder = tempfile::tempdir().expect("a folder");
        put(
            folder.path(),
            "m",
            &contract,
            b"the script does not read it",
        );
        put(
            folder.path(),
            "asked",
            &format!("{contract}[batching]\nenabled = true\n"),
            b"",
        );
        let backend: Arc<dyn Backend> = Arc::new(script);
        let repository = loaded(folder.path(), &backend);
        let said = repository
            .get("m", None)
            .expect("it loads")
            .shared_runs()
            .to_string();
        assert!(
            said.contains("depend on what else is in the run") && said.contains(word),
            "{said}"
        );
        assert!(matches!(
            repository.get("asked", None),
            Err(Unavailable::Failed(_))
        ));
    }
}

#[test]
fn the_models_that_are_shipped_share_runs_where_they_count_items() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    assert!(
        models.join("minilm/1/model.onnx").exists(),
        "run scripts/models"
    );
    let repository = loaded(&models, &onnxruntime());
    for name in ["identity", "digits", "cls", "magika", "minilm"] {
        let model = repository
            .get(name, None)
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
        println!("{name}: {}", model.shared_runs());
        match model.shared_runs() {
            SharedRuns::Yes(_) => {}
            // Some processors take another kernel for one row than for several, which moves answers by some 1e-7.
            SharedRuns::No(reason) if name != "identity" => {
                assert!(
                    reason.contains("with [batching] enabled = true"),
                    "{reason}"
                );
            }
            SharedRuns::No(reason) => panic!("{name}: {reason}"),
        }
    }
}
