//! Finds the graph for a new model.

use anyhow::bail;
use penstock_nn::layout::{GRAPH_FILE, OPENVINO_GRAPH_FILE};
use std::path::{Path, PathBuf};

/// Most files of a folder that are searched for a graph.
pub(crate) const MAX_ENTRIES: usize = 4096;

/// Returns the graph of a path: the file itself, or in a folder `model.onnx`, `onnx/model.onnx`, the highest version of
/// a model's folder, or the only graph that is there.
pub(crate) fn find_graph(from: &Path) -> anyhow::Result<PathBuf> {
    if from.is_file() {
        return Ok(from.to_owned());
    }
    if !from.is_dir() {
        bail!(
            "{} is neither a file nor a folder; name a graph, or a folder with one",
            from.display()
        );
    }
    let here = [
        GRAPH_FILE,
        "onnx/model.onnx",
        OPENVINO_GRAPH_FILE,
        "openvino_model.xml",
    ];
    if let Some(found) = here
        .iter()
        .map(|name| from.join(name))
        .find(|path| path.is_file())
    {
        return Ok(found);
    }
    let mut graphs: Vec<PathBuf> = Vec::new();
    let mut versions: Vec<(u64, PathBuf)> = Vec::new();
    for folder in [from.to_owned(), from.join("onnx")] {
        for entry in std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_ENTRIES)
        {
            let path = entry.path();
            let version = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let (Some(version), true) = (version, path.is_dir()) {
                let graph = [GRAPH_FILE, OPENVINO_GRAPH_FILE].map(|name| path.join(name));
                versions.extend(
                    graph
                        .into_iter()
                        .find(|graph| graph.is_file())
                        .map(|graph| (version, graph)),
                );
            }
            if path.is_file()
                && path
                    .extension()
                    .is_some_and(|extension| extension == "onnx")
            {
                graphs.push(path);
            }
        }
    }
    if let Some((_, newest)) = versions.into_iter().max() {
        return Ok(newest);
    }
    graphs.sort();
    match graphs.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!(
            "there is no graph in {}; name the file itself (.onnx, or .xml of OpenVINO)",
            from.display()
        ),
        several => {
            let names: Vec<String> = several
                .iter()
                .take(12)
                .map(|path| path.display().to_string())
                .collect();
            bail!(
                "there are several graphs: {}; name one of them",
                names.join(", ")
            )
        }
    }
}
