//! The description of an ONNX file, read before a runtime sees it: the graph's ports, the other files that a runtime
//! would open for it, and the properties that the time of a run depends on.
//!
//! Decisions:
//!
//! - **A graph opens no file outside its folder.** ONNX lets a tensor name a file that holds its numbers, by any path.
//!   Runtimes have followed `../`, absolute paths and special words of their own. A model file may come from anywhere,
//!   so its file names are checked here, the same way for every backend. A link in the folder is followed: the operator
//!   put it there.
//! - **Weights are skipped, not read.** The walk keeps the ports, the initializers' names and shapes, constants of a
//!   few numbers, and the operators with their attributes. A file of two gigabytes therefore costs little memory here.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::{Component, Path};

#[cfg(feature = "native")]
pub(crate) use declared::Composed;
pub(crate) use declared::Declared;
pub(super) use types::port_type;
use walk::Walk;
use wire::Malformed;

use super::cost;
use super::options::GraphSource;
use super::rows;
use crate::error::{ErrorCode, NnError, quoted};

mod declared;
mod field;
#[cfg(feature = "native")]
pub(crate) mod structure;
mod types;
mod walk;
mod wire;

/// Reads a graph's description. Refuses a graph that would have a runtime open a file outside its folder.
///
/// # Errors
///
/// `NotFound` when there is no such file, `InvalidEncoding` when it is not ONNX, `Security` when it names forbidden
/// files.
pub(crate) fn examine(graph: &GraphSource) -> Result<Declared, NnError> {
    let (declared, folder) = match graph {
        GraphSource::File(path) => {
            if path.extension().is_some_and(|extension| extension == "xml") {
                return Err(NnError::unsupported(
                    "the graph is in OpenVINO's own format, which only OpenVINO reads; load it with backend = \
                     \"openvino\"",
                ));
            }
            let file = File::open(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    NnError::not_found("the graph's file does not exist")
                }
                kind => NnError::runtime(format!("the graph's file cannot be read: {kind}")),
            })?;
            (
                read(BufReader::new(file))?,
                Some(path.parent().unwrap_or(Path::new(""))),
            )
        }
        GraphSource::Bytes(bytes) => (read(Cursor::new(bytes))?, None),
    };
    for file in &declared.files {
        allowed(file, folder)?;
    }
    Ok(declared)
}

/// Checks that a graph may keep weights in `file`; `folder` is the graph's own, if it has one.
fn allowed(file: &str, folder: Option<&Path>) -> Result<(), NnError> {
    let refused = |why: &str| {
        Err(NnError::new(
            ErrorCode::Security,
            format!(
                "the graph keeps weights in the file {}, {why}; a graph may only use files in its own folder: \
                 export it again with all weights inside",
                quoted(file)
            ),
        ))
    };
    let Some(folder) = folder else {
        return refused("and was given as bytes, without a folder");
    };
    // ONNX Runtime takes "*/_ORT_MEM_ADDR_/*" for an address in this process's own memory.
    let plain = !file.is_empty()
        && !file.contains(['\\', '*', '\0'])
        && Path::new(file)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return refused("which is outside of its folder");
    }
    if !folder.join(file).is_file() {
        return Err(NnError::not_found(format!(
            "the graph keeps weights in the file {}, which is missing in its folder; put it there",
            quoted(file)
        )));
    }
    Ok(())
}

fn read(source: impl BufRead + Seek) -> Result<Declared, NnError> {
    let mut walk = Walk::new(source);
    let initialized = walk.file().map_err(not_onnx)?;
    let Walk {
        mut declared,
        nodes,
        functions,
        initials,
        opset,
        ..
    } = walk;
    let open = cost::open_shapes(&nodes, &initialized, &functions);
    declared.open_outputs = (declared.outputs.iter())
        .filter(|port| open.contains(port.name.as_str()))
        .map(|port| port.name.clone())
        .collect();
    declared.cost = cost::cost(&nodes, initialized, &functions);
    let tables = initials
        .iter()
        .filter(|(_, initial)| !initial.dims.is_empty());
    declared.tables = tables
        .map(|(name, initial)| {
            let dims = initial.dims.iter().map(|dim| dim.unsigned_abs());
            (name.clone(), dims.collect())
        })
        .collect();
    declared.rows = rows::rows(&rows::Graph {
        nodes: &nodes,
        initials,
        functions: &functions,
        opset,
        inputs: &declared.inputs,
        outputs: &declared.outputs,
    });
    declared.nodes = nodes;
    declared.functions = functions;
    Ok(declared)
}

fn not_onnx(Malformed(what): Malformed) -> NnError {
    NnError::new(
        ErrorCode::InvalidEncoding,
        format!("the graph is not an ONNX file: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::wire::MAX_DEPTH;
    use super::*;
    use crate::backend::cost::Cost;
    use bytes::Bytes;

    /// A message's field that is itself a message or a text.
    fn part(field: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for mut value in [field << 3 | 2, content.len() as u64] {
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        }
        bytes.extend_from_slice(content);
        bytes
    }

    fn tensor_in(file: &str) -> Vec<u8> {
        let entry = |key: &str, value: &str| {
            part(
                field::TENSOR_EXTERNAL,
                &[
                    part(field::ENTRY_KEY, key.as_bytes()),
                    part(field::ENTRY_VALUE, value.as_bytes()),
                ]
                .concat(),
            )
        };
        [entry("offset", "0"), entry("location", file)].concat()
    }

    fn graph(content: Vec<u8>) -> Vec<u8> {
        part(field::MODEL_GRAPH, &content)
    }

    /// Every place in a file where a tensor can lie.
    fn everywhere(tensor: &[u8]) -> Vec<Vec<u8>> {
        let sparse = part(field::SPARSE_INDICES, tensor);
        let attribute =
            |content: Vec<u8>| part(field::GRAPH_NODE, &part(field::NODE_ATTRIBUTE, &content));
        let initializer = part(field::GRAPH_INITIALIZER, tensor);
        vec![
            graph(initializer.clone()),
            graph(part(field::GRAPH_SPARSE_INITIALIZER, &sparse)),
            graph(attribute(part(field::ATTRIBUTE_TENSOR, tensor))),
            graph(attribute(part(field::ATTRIBUTE_TENSORS, tensor))),
            graph(attribute(part(field::ATTRIBUTE_SPARSE, &sparse))),
            graph(attribute(part(field::ATTRIBUTE_SPARSES, &sparse))),
            graph(attribute(part(field::ATTRIBUTE_GRAPH, &initializer))),
            graph(attribute(part(
                field::ATTRIBUTE_GRAPHS,
                &attribute(part(field::ATTRIBUTE_GRAPH, &initializer)),
            ))),
            part(
                field::MODEL_FUNCTIONS,
                &part(
                    field::FUNCTION_NODE,
                    &part(
                        field::NODE_ATTRIBUTE,
                        &part(field::ATTRIBUTE_TENSOR, tensor),
                    ),
                ),
            ),
            part(
                field::MODEL_FUNCTIONS,
                &part(
                    field::FUNCTION_ATTRIBUTE,
                    &part(field::ATTRIBUTE_TENSOR, tensor),
                ),
            ),
            part(
                field::MODEL_TRAINING,
                &part(field::TRAINING_ALGORITHM, &initializer),
            ),
        ]
    }

    #[test]
    fn a_file_outside_of_the_folder_is_refused_wherever_a_graph_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        std::fs::write(folder.path().join("weights.bin"), [0; 4]).expect("written");
        for outside in [
            "../secret",
            "/etc/passwd",
            "a/../../secret",
            "..",
            "",
            "..\\secret",
            "*/_ORT_MEM_ADDR_/*",
            "weights.bin\0",
        ] {
            for bytes in everywhere(&tensor_in(outside)) {
                std::fs::write(&path, &bytes).expect("written");
                for source in [
                    GraphSource::from(path.as_path()),
                    GraphSource::Bytes(Bytes::from(bytes)),
                ] {
                    let error = examine(&source).expect_err(outside);
                    assert_eq!(error.code, ErrorCode::Security, "{outside:?}: {error}");
                }
            }
        }
        for bytes in everywhere(&tensor_in("weights.bin")) {
            std::fs::write(&path, &bytes).expect("written");
            let declared = examine(&GraphSource::from(path.as_path())).expect("it is beside it");
            assert!(declared.files.contains("weights.bin"));
            let error = examine(&GraphSource::Bytes(Bytes::from(bytes))).expect_err("no folder");
            assert_eq!(error.code, ErrorCode::Security, "{error}");
        }
        std::fs::write(
            &path,
            graph(part(field::GRAPH_INITIALIZER, &tensor_in("absent"))),
        )
        .expect("written");
        let error = examine(&GraphSource::from(path.as_path())).expect_err("not there");
        assert!(
            error.code == ErrorCode::NotFound && error.message.contains("\"absent\""),
            "{error}"
        );
    }

    #[test]
    fn the_cost_of_a_run_is_read_from_the_operators_of_graph_and_functions() {
        let node = |operator: &str, domain: &str, inputs: &[&str], more: &[u8]| {
            let inputs = inputs
                .iter()
                .map(|name| part(field::NODE_INPUT, name.as_bytes()));
            [
                inputs.collect::<Vec<_>>().concat(),
                part(field::NODE_OUTPUT, b"y"),
                part(field::NODE_OPERATOR, operator.as_bytes()),
                part(field::NODE_DOMAIN, domain.as_bytes()),
                more.to_vec(),
            ]
            .concat()
        };
        let cost = |node: Vec<u8>, more: Vec<u8>| {
            let shape = part(field::GRAPH_INITIALIZER, &part(field::TENSOR_NAME, b"c"));
            let bytes = [
                graph([shape, part(field::GRAPH_NODE, &node)].concat()),
                more,
            ]
            .concat();
            examine(&GraphSource::Bytes(bytes.into()))
                .expect("sound")
                .cost
        };
        assert_eq!(cost(node("Relu", "", &["x"], b""), vec![]), Cost::Shapes);
        assert_eq!(
            cost(node("Reshape", "", &["x", "c"], b""), vec![]),
            Cost::Shapes
        );
        let subgraph = part(field::NODE_ATTRIBUTE, &part(field::ATTRIBUTE_GRAPH, b""));
        for unsafe_node in [
            node("Reshape", "", &["x", "z"], b""),
            node("Relu", "elsewhere", &["x"], b""),
            node("Relu", "", &["x"], &subgraph),
        ] {
            assert!(matches!(cost(unsafe_node, vec![]), Cost::Values(_)));
        }
        let function = |body: &str| {
            part(
                field::MODEL_FUNCTIONS,
                &[
                    part(field::FUNCTION_NAME, b"Own"),
                    part(field::FUNCTION_DOMAIN, b"own"),
                    part(field::FUNCTION_INPUT, b"x"),
                    part(field::FUNCTION_OUTPUT, b"y"),
                    part(field::FUNCTION_NODE, &node(body, "", &["x"], b"")),
                ]
                .concat(),
            )
        };
        let call = || node("Own", "own", &["x"], b"");
        assert_eq!(cost(call(), function("Relu")), Cost::Shapes);
        assert!(matches!(cost(call(), function("Loop")), Cost::Values(_)));
    }

    #[test]
    fn an_input_that_has_a_value_already_is_none() {
        let value = |name: &[u8]| part(field::VALUE_NAME, name);
        let bytes = graph(
            [
                part(field::GRAPH_INPUT, &value(b"x")),
                part(field::GRAPH_INPUT, &value(b"weight")),
                part(
                    field::GRAPH_INITIALIZER,
                    &part(field::TENSOR_NAME, b"weight"),
                ),
            ]
            .concat(),
        );
        let declared = examine(&GraphSource::Bytes(bytes.into())).expect("sound");
        let names: Vec<&str> = declared
            .inputs
            .iter()
            .map(|port| port.name.as_str())
            .collect();
        assert_eq!(names, ["x"]);
    }

    #[test]
    fn graphs_in_graphs_without_end_are_refused_and_not_followed() {
        let mut bytes = Vec::new();
        for _ in 0..MAX_DEPTH + 1 {
            bytes = part(
                field::GRAPH_NODE,
                &part(field::NODE_ATTRIBUTE, &part(field::ATTRIBUTE_GRAPH, &bytes)),
            );
        }
        let error = examine(&GraphSource::Bytes(graph(bytes).into())).expect_err("too deep");
        assert!(error.message.contains("too deep"), "{error}");
    }

    #[test]
    fn no_bytes_make_the_walk_panic_or_take_memory() {
        let sound = everywhere(&tensor_in("weights.bin")).concat();
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut bytes = sound.clone();
            for _ in 0..3 {
                // Knuth's generator: the same bytes each time, so that a failure can be had again.
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            drop(examine(&GraphSource::Bytes(bytes.into())));
        }
    }
}
