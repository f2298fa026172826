//! The model `heavy`, whose runs take as long as a test wants.

use super::{root, write};
use std::path::Path;

/// The input with the number of rounds.
const TIMES: &str = "[[inputs]]\nname = \"times\"\ndatatype = \"INT64\"\nshape = [1]\n";

/// Returns the contract of the graph `counting_loop`. Its last table is `[engine]`.
pub fn counting_contract(lanes: u32) -> String {
    contract(TIMES, lanes)
}

/// Returns the contract of the graph `endless_loop`, which has no input for the rounds. Its last table is `[engine]`.
pub fn endless_contract(lanes: u32) -> String {
    contract("", lanes)
}

fn contract(times: &str, lanes: u32) -> String {
    format!(
        r#"description = "Counts"
{times}[[inputs]]
name = "x"
datatype = "FP32"
shape = [1]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [1]
[engine]
lanes = {lanes}
"#
    )
}

/// Writes `heavy` into a models directory.
pub fn put(models: &Path, contract: &str, graph: &[u8]) {
    write(models, "heavy/model.toml", contract);
    write(models, "heavy/1/model.onnx", graph);
}

/// Makes a models directory with `heavy`, and with `identity` beside it.
pub fn beside_identity(contract: &str, graph: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put_beside_identity(folder.path(), contract, graph);
    folder
}

/// Writes `heavy` and `identity` into a models directory.
pub fn put_beside_identity(models: &Path, contract: &str, graph: &[u8]) {
    put(models, contract, graph);
    for file in ["identity/model.toml", "identity/1/model.onnx"] {
        let content = std::fs::read(root().join("models").join(file)).unwrap();
        write(models, file, content);
    }
}
