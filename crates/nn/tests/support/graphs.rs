//! Graphs whose time follows from values or never ends, written by hand so that no binary file has to be kept. The
//! tests over HTTP use this file as well.

#![allow(dead_code)] // each suite uses its own part

pub const FLOAT: u64 = 1;
pub const INT64: u64 = 7;
pub const BOOL: u64 = 9;

/// Rows and columns of the matrices that [`slow_scan`] multiplies.
const WIDTH: u64 = 512;

/// Matrix products in one step of [`slow_scan`].
const PRODUCTS: usize = 4;

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field that is a number.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// A field that is a text or a message.
pub fn part(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [
        varint(field << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

/// A graph's input or output; a length of 0 is any length.
pub fn value(name: &str, ty: u64, dims: &[u64]) -> Vec<u8> {
    let dims = dims.iter().map(|dim| match dim {
        0 => part(1, part(2, "N")),
        dim => part(1, number(1, *dim)),
    });
    let shape: Vec<u8> = dims.flatten().collect();
    let tensor = [number(1, ty), part(2, shape)].concat();
    [part(1, name), part(2, part(1, tensor))].concat()
}

/// A FP32 input or output with two open lengths that have nothing to do with each other.
pub fn open_matrix(name: &str) -> Vec<u8> {
    let dims = ["N", "K"].map(|symbol| part(1, part(2, symbol)));
    let tensor = [number(1, FLOAT), part(2, dims.concat())].concat();
    [part(1, name), part(2, part(1, tensor))].concat()
}

pub fn tensor(name: &str, ty: u64, dims: &[u64], raw: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    [dims, number(2, ty), part(8, name), part(9, raw)].concat()
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut node = Vec::new();
    inputs.iter().for_each(|name| node.extend(part(1, name)));
    outputs.iter().for_each(|name| node.extend(part(2, name)));
    node.extend(part(4, op));
    attributes.iter().for_each(|one| node.extend(part(5, one)));
    part(1, node)
}

fn body(graph: &[u8]) -> Vec<u8> {
    [part(1, "body"), part(6, graph), number(20, 5)].concat()
}

pub fn int(name: &str, value: u64) -> Vec<u8> {
    [part(1, name), number(3, value), number(20, 2)].concat()
}

pub fn graph(
    nodes: &[Vec<u8>],
    tensors: &[Vec<u8>],
    inputs: &[Vec<u8>],
    outputs: &[Vec<u8>],
) -> Vec<u8> {
    let mut graph = nodes.concat();
    graph.extend(part(2, "g"));
    tensors.iter().for_each(|one| graph.extend(part(5, one)));
    inputs.iter().for_each(|one| graph.extend(part(11, one)));
    outputs.iter().for_each(|one| graph.extend(part(12, one)));
    graph
}

pub fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let values = values.iter().flat_map(|value| number(8, *value as u64));
    [part(1, name), values.collect(), number(20, 7)].concat()
}

/// A constant of whole numbers.
pub fn list(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tensor(name, INT64, &[values.len() as u64], &raw)
}

/// A constant whole number without axes.
pub fn scalar(name: &str, value: i64) -> Vec<u8> {
    tensor(name, INT64, &[], &value.to_le_bytes())
}

/// A constant of floating-point numbers.
pub fn reals(name: &str, dims: &[u64], values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tensor(name, FLOAT, dims, &raw)
}

pub fn file(graph: &[u8]) -> Vec<u8> {
    file_of(graph, 17)
}

/// A file in a version of ONNX's operators.
pub fn file_of(graph: &[u8], opset: u64) -> Vec<u8> {
    let opset = [part(1, ""), number(2, opset)].concat();
    [number(1, 8), part(7, graph), part(8, opset)].concat()
}

/// Adds one to `v` in each round.
fn counting() -> Vec<u8> {
    graph(
        &[
            node("Identity", &["going"], &["goes_on"], &[]),
            node("Add", &["v", "one"], &["next"], &[]),
        ],
        &[tensor("one", FLOAT, &[1], &1f32.to_le_bytes())],
        &[
            value("round", INT64, &[]),
            value("going", BOOL, &[]),
            value("v", FLOAT, &[1]),
        ],
        &[value("goes_on", BOOL, &[]), value("next", FLOAT, &[1])],
    )
}

/// `y = x + times`, one by one in a `Loop`: `times` INT64 `[1]`, `x` and `y` FP32 `[1]`. About a microsecond a round.
pub fn counting_loop() -> Vec<u8> {
    file(&graph(
        &[node(
            "Loop",
            &["times", "", "x"],
            &["y"],
            &[body(&counting())],
        )],
        &[],
        &[value("times", INT64, &[1]), value("x", FLOAT, &[1])],
        &[value("y", FLOAT, &[1])],
    ))
}

/// The same with as many rounds as there are, for every input: `x` and `y` FP32 `[1]`.
pub fn endless_loop() -> Vec<u8> {
    file(&graph(
        &[node(
            "Loop",
            &["times", "", "x"],
            &["y"],
            &[body(&counting())],
        )],
        &[tensor("times", INT64, &[1], &i64::MAX.to_le_bytes())],
        &[value("x", FLOAT, &[1])],
        &[value("y", FLOAT, &[1])],
    ))
}

/// A `Scan` with some matrix products a step: `x` and `y` FP32 `[rows, 1]`, of any number of rows if it is 0. The
/// product is carried from step to step, so that a backend cannot compute it once for all.
pub fn slow_scan(rows: u64) -> Vec<u8> {
    let mut names: Vec<String> = (0..PRODUCTS).map(|index| format!("m{index}")).collect();
    names.push("next".into());
    let pairs = names.windows(2);
    let mut nodes: Vec<Vec<u8>> = pairs
        .map(|pair| node("MatMul", &[&pair[0], "w"], &[&pair[1]], &[]))
        .collect();
    nodes.push(node(
        "ReduceMean",
        &["next"],
        &["mean"],
        &[int("keepdims", 0)],
    ));
    nodes.push(node("Add", &["step", "mean"], &["out"], &[]));
    let square = [WIDTH, WIDTH];
    let body_graph = graph(
        &nodes,
        &[],
        &[value("m0", FLOAT, &square), value("step", FLOAT, &[1])],
        &[value("next", FLOAT, &square), value("out", FLOAT, &[1])],
    );
    let weight = 1.0 / WIDTH as f32;
    let raw: Vec<u8> = (0..WIDTH * WIDTH)
        .flat_map(|_| weight.to_le_bytes())
        .collect();
    let attributes = [body(&body_graph), int("num_scan_inputs", 1)];
    file(&graph(
        &[node("Scan", &["w", "x"], &["last", "y"], &attributes)],
        &[tensor("w", FLOAT, &square, &raw)],
        &[value("x", FLOAT, &[rows, 1])],
        &[value("y", FLOAT, &[rows, 1])],
    ))
}
