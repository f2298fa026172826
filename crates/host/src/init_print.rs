//! Prints the facts that `penstock init` and `penstock describe` found about a graph.

use super::init_source::find_graph;
use crate::{AppOptions, prepare};
use penstock_nn::backend::OPENVINO;
use penstock_nn::trial;
use penstock_nn::{Graph, Port};
use std::path::{Path, PathBuf};

/// The options of `penstock describe`.
#[derive(Clone, Debug)]
pub struct DescribeOptions {
    /// The graph, or a folder with one.
    pub from: PathBuf,
    /// Whether to print one JSON object instead of text.
    pub json: bool,
}

pub(crate) fn print(
    options: &AppOptions,
    describe: &DescribeOptions,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let path = find_graph(&describe.from)?;
    let backends = prepare::backends(options)?;
    let loads = trial::who_loads(&path, &backends);
    let size = std::fs::metadata(&path)?.len();
    let graph = match path.extension().is_some_and(|extension| extension == "xml") {
        true => None,
        false => Some(
            Graph::read(&path)
                .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.message))?,
        ),
    };
    let (inputs, outputs) = match &graph {
        Some(graph) => (graph.inputs().to_vec(), graph.outputs().to_vec()),
        None => trial::ports(&path, &backends, OPENVINO)
            .map_err(|error| anyhow::anyhow!("{}", error.message))?,
    };
    if describe.json {
        writeln!(
            out,
            "{}",
            as_json(&path, size, graph.as_ref(), &inputs, &outputs, &loads)
        )?;
        return Ok(());
    }
    writeln!(out, "{}  {size} bytes", path.display())?;
    if let Some(graph) = &graph {
        let (producer, version) = graph.producer();
        let opsets: Vec<String> = (graph.opsets().iter())
            .map(|(domain, version)| format!("{} {version}", domain_name(domain)))
            .collect();
        writeln!(
            out,
            "format     ONNX, IR {}, opset {}",
            graph.ir_version(),
            opsets.join(", ")
        )?;
        writeln!(
            out,
            "written by {}",
            printable(&format!("{producer} {version}"))
        )?;
        if !graph.description().is_empty() {
            writeln!(out, "says       {}", printable(graph.description()))?;
        }
        writeln!(out, "parameters {}", graph.parameters())?;
        for file in graph.files() {
            writeln!(out, "weights in {}", printable(file))?;
        }
        for (key, value) in graph.metadata() {
            writeln!(out, "metadata   {} = {}", printable(key), printable(value))?;
        }
    } else {
        writeln!(out, "format     OpenVINO")?;
    }
    for (side, ports) in [("input", &inputs), ("output", &outputs)] {
        for port in ports {
            writeln!(
                out,
                "{side:<10} {} {} {}",
                printable(&port.name),
                port.ty,
                printable(&port.shape_text())
            )?;
        }
    }
    if let Some(graph) = &graph {
        let operators: Vec<String> = (graph.operators().iter())
            .map(|((domain, name), count)| match domain.is_empty() {
                true => format!("{name} {count}"),
                false => format!("{domain}:{name} {count}"),
            })
            .collect();
        writeln!(out, "operators  {}", printable(&operators.join(", ")))?;
    }
    for (backend, version, loaded) in &loads {
        match loaded {
            Ok(()) => writeln!(out, "{backend:<10} {version} loads it")?,
            Err(reason) => writeln!(out, "{backend:<10} {version} does not load it: {reason}")?,
        }
    }
    Ok(())
}

pub(crate) fn domain_name(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// Makes text from a file printable on a terminal: no control characters, and a bounded length.
pub(crate) fn printable(text: &str) -> String {
    const MOST: usize = 2_000;
    let mut shown: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown.trim().to_owned()
}

pub(crate) fn as_json(
    path: &Path,
    size: u64,
    graph: Option<&Graph>,
    inputs: &[Port],
    outputs: &[Port],
    loads: &[(&'static str, String, Result<(), String>)],
) -> serde_json::Value {
    use serde_json::json;
    let ports = |ports: &[Port]| -> Vec<serde_json::Value> {
        ports
            .iter()
            .map(|port| {
                let shape = port.dims.as_ref().map(|dims| {
                    dims.iter()
                        .map(|dim| match dim {
                            penstock_nn::Dim::Fixed(length) => json!(length),
                            penstock_nn::Dim::Symbolic(name) => json!(name),
                        })
                        .collect::<Vec<_>>()
                });
                json!({"name": port.name, "datatype": port.ty.to_string(), "shape": shape})
            })
            .collect()
    };
    let backends: Vec<serde_json::Value> = loads
        .iter()
        .map(|(name, version, loaded)| {
            json!({"name": name, "version": version, "loads": loaded.is_ok(), "reason": loaded.as_ref().err()})
        })
        .collect();
    let mut document = json!({
        "file": path.display().to_string(),
        "bytes": size,
        "format": if graph.is_some() { "onnx" } else { "openvino" },
        "inputs": ports(inputs),
        "outputs": ports(outputs),
        "backends": backends,
    });
    if let Some(graph) = graph {
        let (producer, version) = graph.producer();
        let opsets: serde_json::Map<String, serde_json::Value> = (graph.opsets().iter())
            .map(|(domain, version)| (domain_name(domain).to_owned(), json!(version)))
            .collect();
        let operators: Vec<serde_json::Value> = (graph.operators().iter())
            .map(|((domain, name), count)| json!({"domain": domain_name(domain), "name": name, "count": count}))
            .collect();
        document["ir_version"] = json!(graph.ir_version());
        document["opsets"] = json!(opsets);
        document["producer"] = json!({"name": producer, "version": version});
        document["description"] = json!(graph.description());
        document["parameters"] = json!(graph.parameters());
        document["operators"] = json!(operators);
        document["metadata"] = graph
            .metadata()
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        document["files"] = graph.files().collect();
    }
    document
}
