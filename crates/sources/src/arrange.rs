//! Decides which files of a source become which files of a model: a pure function of their paths.
//!
//! ```text
//! model.toml, 1/model.onnx, …                 a folder with the layout of `models/`
//! model.toml, model.onnx, …                   the same without folders for versions
//! MLmodel, model.onnx, …                      an MLflow model
//! onnx/model.onnx, config.json, …             a Hugging Face repository
//! model.onnx  or  model.xml with model.bin    a graph
//! ```

use std::collections::{BTreeMap, BTreeSet};

const CONTRACT: &str = "model.toml";
const ONNX: &str = "model.onnx";
const MLMODEL: &str = "MLmodel";
/// Names in a message; more would bury it.
const LISTED: usize = 8;
/// The longest path in a model, and the longest name in a path, in bytes: file systems take no longer ones.
const MAX_PATH_BYTES: usize = 1024;
const MAX_NAME_BYTES: usize = 255;
/// Levels of folders that a model may have.
const MAX_DEPTH: usize = 16;

/// The place of each file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrangement {
    /// Files of the model's folder, by name there; the path in the source is the value.
    pub beside: BTreeMap<String, String>,
    /// Files of the version's folder, by path there.
    pub version: BTreeMap<String, String>,
}

/// Says why a path from elsewhere is not taken, if it is not. One that is taken stays below the folder it is put in, on
/// every file system.
pub fn path_fault(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Some("it is empty or too long");
    }
    if path.starts_with('/') || path.contains(['\\', ':']) || path.contains(char::is_control) {
        return Some("it is absolute, or has a backslash, a colon or a control character");
    }
    if path.split('/').count() > MAX_DEPTH {
        return Some("it is too deep");
    }
    path.split('/').find_map(|name| match name {
        "" | "." => Some("it has an empty part"),
        ".." => Some("it leads out of its folder with `..`"),
        name if name.len() > MAX_NAME_BYTES => Some("a part of it is too long"),
        _ => None,
    })
}

/// The files that are worth downloading, if a source has more than a model needs.
pub fn choose<'a>(paths: &[&'a str], graph: Option<&str>) -> Result<BTreeSet<&'a str>, String> {
    if paths.contains(&CONTRACT) {
        return Ok(paths
            .iter()
            .copied()
            .filter(|path| !path.starts_with('.'))
            .collect());
    }
    let graph = the_graph(paths, graph)?;
    let folder = graph.rsplit_once('/').map_or("", |(folder, _)| folder);
    let chosen = paths.iter().copied().filter(|path| {
        *path == graph
            || belongs(path, &graph, folder)
            || (!path.contains('/') && is_small_text(path))
    });
    Ok(chosen.collect())
}

/// Decides the place of each file. `text` reads a small file.
pub fn arrange(
    paths: &[&str],
    version: u64,
    graph: Option<&str>,
    text: &dyn Fn(&str) -> Option<String>,
) -> Result<Arrangement, String> {
    // Tools hide such files, and only this server writes records.
    let is_hidden = |path: &&str| path.split('/').any(|name| name.starts_with('.'));
    let paths: Vec<&str> = paths
        .iter()
        .copied()
        .filter(|path| !is_hidden(path))
        .collect();
    let paths = paths.as_slice();
    if let [only] = paths
        && graph.is_none()
        && !only.contains('/')
        && !only.ends_with(".xml")
    {
        // A download may have any name. A file that is not a graph fails its load with its own message.
        let version = BTreeMap::from([(ONNX.to_owned(), (*only).to_owned())]);
        return Ok(Arrangement {
            version,
            ..Arrangement::default()
        });
    }
    let top = top_folder(paths);
    let below = |path: &str| format!("{top}{path}");
    let stripped: Vec<&str> = paths.iter().map(|path| &path[top.len()..]).collect();
    let mut arranged = if stripped.contains(&CONTRACT) {
        own_layout(&stripped, version, graph, &|path| text(&below(path)))?
    } else if stripped.contains(&MLMODEL) {
        let about = text(&below(MLMODEL)).ok_or("its MLmodel cannot be read")?;
        let data = mlflow_graph(&about)?;
        // The graph may be the file, or the folder it is in.
        let inside = format!("{data}/");
        let named = graph.map(str::to_owned).or_else(|| {
            let found: Vec<&&str> = stripped
                .iter()
                .filter(|path| {
                    **path == data || (path.starts_with(&inside) && path.ends_with(".onnx"))
                })
                .collect();
            match found.as_slice() {
                [one] => Some((**one).to_owned()),
                _ => None,
            }
        });
        bare(
            &stripped,
            Some(&named.ok_or_else(|| format!("its MLmodel names {data}, which does not exist"))?),
        )?
    } else {
        bare(&stripped, graph)?
    };
    if ![ONNX, "model.xml"]
        .iter()
        .any(|graph| arranged.version.contains_key(*graph))
    {
        return Err("its version has no model.onnx and no model.xml".to_owned());
    }
    for from in arranged
        .beside
        .values_mut()
        .chain(arranged.version.values_mut())
    {
        *from = below(from);
    }
    Ok(arranged)
}

/// The folder that all files are in, with its slash, as archives often have it; empty without one.
fn top_folder<'a>(paths: &[&'a str]) -> &'a str {
    let Some(first) = paths
        .first()
        .and_then(|path| path.split_once('/'))
        .map(|(top, _)| top)
    else {
        return "";
    };
    let with_slash = &paths[0][..=first.len()];
    // A number is a version, and `onnx` is where hubs have graphs.
    let means_something = first.bytes().all(|b| b.is_ascii_digit()) || first == "onnx";
    let common = paths.iter().all(|path| path.starts_with(with_slash));
    if common && !means_something {
        with_slash
    } else {
        ""
    }
}

fn own_layout(
    paths: &[&str],
    version: u64,
    graph: Option<&str>,
    text: &dyn Fn(&str) -> Option<String>,
) -> Result<Arrangement, String> {
    let number = |path: &str| {
        let (folder, _) = path.split_once('/')?;
        let number: u64 = folder.parse().ok()?;
        (number > 0 && number.to_string() == folder).then_some(number)
    };
    let versions: BTreeSet<u64> = paths.iter().filter_map(|path| number(path)).collect();
    let mut arranged = Arrangement::default();
    if versions.is_empty() {
        let contract = text(CONTRACT).and_then(|text| text.parse::<toml::Table>().ok());
        let format = contract.as_ref().and_then(|c| c.get("format")?.as_str());
        let config = contract
            .as_ref()
            .and_then(|c| c.get("adapter")?.get("config")?.as_str());
        for path in paths {
            if *path == CONTRACT || Some(*path) == config {
                arranged
                    .beside
                    .insert((*path).to_owned(), (*path).to_owned());
            } else {
                arranged
                    .version
                    .insert((*path).to_owned(), (*path).to_owned());
            }
        }
        if format != Some("openvino") {
            let others: Vec<&str> = paths
                .iter()
                .copied()
                .filter(|path| *path != CONTRACT)
                .collect();
            let graph = the_graph(&others, graph)?;
            arranged.version.remove(&graph);
            arranged.version.insert(ONNX.to_owned(), graph);
        }
        return Ok(arranged);
    }
    let chosen = match versions.len() {
        _ if versions.contains(&version) => version,
        1 => versions.first().copied().unwrap_or(version),
        _ => {
            let there: Vec<String> = versions.iter().map(u64::to_string).collect();
            return Err(format!(
                "it has the versions {} and no {version}; name one of them",
                there.join(", ")
            ));
        }
    };
    let folder = format!("{chosen}/");
    for path in paths {
        match path.strip_prefix(&folder) {
            Some(inside) => arranged
                .version
                .insert(inside.to_owned(), (*path).to_owned()),
            None if !path.contains('/') => arranged
                .beside
                .insert((*path).to_owned(), (*path).to_owned()),
            None => None,
        };
    }
    Ok(arranged)
}

/// A folder without a contract.
fn bare(paths: &[&str], graph: Option<&str>) -> Result<Arrangement, String> {
    let mut version = BTreeMap::new();
    if let (None, Some(xml)) = (graph, the_openvino(paths)) {
        version.insert("model.xml".to_owned(), xml.to_owned());
        let weights = format!("{}.bin", xml.trim_end_matches(".xml"));
        if paths.contains(&weights.as_str()) {
            version.insert("model.bin".to_owned(), weights);
        }
        return Ok(Arrangement {
            version,
            ..Arrangement::default()
        });
    }
    let graph = the_graph(paths, graph)?;
    let folder = graph.rsplit_once('/').map_or("", |(folder, _)| folder);
    // A graph names its weights by their path relative to its folder.
    for path in paths.iter().filter(|path| belongs(path, &graph, folder)) {
        let inside = path[folder.len()..].trim_start_matches('/');
        version.insert(inside.to_owned(), (*path).to_owned());
    }
    for path in paths
        .iter()
        .filter(|path| !path.contains('/') && is_small_text(path))
    {
        version
            .entry((*path).to_owned())
            .or_insert_with(|| (*path).to_owned());
    }
    version.insert(ONNX.to_owned(), graph);
    Ok(Arrangement {
        version,
        ..Arrangement::default()
    })
}

/// Returns whether a file is weights of a graph: in its folder, and no other graph, nor the weights of another.
fn belongs(path: &str, graph: &str, folder: &str) -> bool {
    let inside = match folder {
        "" => Some(path),
        folder => path
            .strip_prefix(folder)
            .and_then(|rest| rest.strip_prefix('/')),
    };
    let Some(name) = inside.filter(|inside| !inside.contains('/')) else {
        return false;
    };
    let own = graph.rsplit('/').next().unwrap_or(graph);
    let stem = own.strip_suffix(".onnx").unwrap_or(own);
    if name == own || name.ends_with(".onnx") {
        return false;
    }
    // model.onnx_data, model.onnx.data, model.data; and names that belong to no graph, as exporters of large models write.
    name.starts_with(own)
        || name == format!("{stem}.data")
        || name == format!("{stem}.bin")
        || (!folder.is_empty() && !name.contains(".onnx") && !is_foreign(name))
        || (folder.is_empty() && name.ends_with(".data"))
}

/// Returns whether a file has weights for another framework, which this server cannot run.
fn is_foreign(name: &str) -> bool {
    [
        ".safetensors",
        ".pt",
        ".pth",
        ".h5",
        ".msgpack",
        ".pkl",
        ".ckpt",
        ".gguf",
    ]
    .iter()
    .any(|ending| name.ends_with(ending))
        || name == "pytorch_model.bin"
}

/// Vocabularies, labels and configurations, which adapters and `penstock init` read.
fn is_small_text(path: &str) -> bool {
    [".json", ".txt", ".model", ".toml", ".jinja", ".SHA256SUMS"]
        .iter()
        .any(|ending| path.ends_with(ending))
        || matches!(path, "SHA256SUMS" | "SHA256SUMS.minisig")
}

fn the_openvino<'a>(paths: &[&'a str]) -> Option<&'a str> {
    if paths.iter().any(|path| path.ends_with(".onnx")) {
        return None;
    }
    let found: Vec<&&str> = paths.iter().filter(|path| path.ends_with(".xml")).collect();
    match found.as_slice() {
        [one] => Some(**one),
        _ => None,
    }
}

/// Finds the graph: the named one, else the one at the usual place, else the only one.
fn the_graph(paths: &[&str], named: Option<&str>) -> Result<String, String> {
    if let Some(named) = named {
        return match paths.contains(&named) {
            true => Ok(named.to_owned()),
            false => Err(format!(
                "it has no {named}; it has {}",
                some(paths.iter().copied())
            )),
        };
    }
    for usual in [ONNX, "onnx/model.onnx"] {
        if paths.contains(&usual) {
            return Ok(usual.to_owned());
        }
    }
    let graphs: Vec<&str> = paths
        .iter()
        .copied()
        .filter(|path| path.ends_with(".onnx"))
        .collect();
    match graphs.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(format!(
            "it has no graph (*.onnx); it has {}. Export the model as ONNX, for instance with `optimum-cli export onnx`",
            some(paths.iter().copied())
        )),
        several => Err(format!(
            "it has several graphs: {}; name one as its graph",
            some(several.iter().copied())
        )),
    }
}

fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names
        .iter()
        .take(LISTED)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().checked_sub(LISTED) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// The file that the onnx flavour of an MLflow model names. MLflow writes block-style YAML with two spaces, and this reads
/// no other.
fn mlflow_graph(about: &str) -> Result<String, String> {
    let mut flavors = Vec::new();
    let mut within = false;
    let mut data = None;
    for line in about.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((name, value)) = line.trim().split_once(':') else {
            continue;
        };
        match indent {
            0 => within = name == "flavors",
            2 if within => flavors.push(name.to_owned()),
            4 if within && name == "data" && flavors.last().is_some_and(|f| f == "onnx") => {
                data = Some(value.trim().trim_matches(['"', '\'']).to_owned());
            }
            _ => {}
        }
    }
    match data {
        Some(data) if path_fault(&data).is_none() => Ok(data),
        Some(_) => Err("its MLmodel names a graph outside of its folder".to_owned()),
        None => Err(format!(
            "it is an MLflow model with the flavors {}; Penstock reads the flavor onnx, which mlflow.onnx.log_model writes",
            some(flavors.iter().map(String::as_str))
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MLFLOW: &str = "artifact_path: model\nflavors:\n  onnx:\n    code: null\n    data: model.onnx\n    providers:\n    \
                          - CPUExecutionProvider\n  python_function:\n    data: other\n    loader_module: mlflow.onnx\n\
                          mlflow_version: 3.1.0\n";
    const SKLEARN: &str = "flavors:\n  python_function:\n    model_path: model.pkl\n  sklearn:\n    pickled_model: model.pkl\n";

    fn pairs(map: &BTreeMap<String, String>) -> String {
        let pairs: Vec<String> = map
            .iter()
            .map(|(to, from)| {
                if to == from {
                    to.clone()
                } else {
                    format!("{to}<{from}")
                }
            })
            .collect();
        pairs.join(" ")
    }

    fn told(paths: &[&str], graph: Option<&str>, text: &str) -> Result<(String, String), String> {
        let text = text.to_owned();
        let arranged = arrange(paths, 2, graph, &|_| Some(text.clone()))?;
        Ok((pairs(&arranged.beside), pairs(&arranged.version)))
    }

    #[test]
    fn each_layout_is_arranged_as_the_models_folder_has_it() {
        for (paths, graph, text, beside, version) in [
            (&["x.onnx"][..], None, "", "", "model.onnx<x.onnx"),
            (&["download"], None, "", "", "model.onnx<download"),
            (
                &["model.toml", "1/model.onnx", "2/model.onnx", "labels.txt"],
                None,
                "",
                "labels.txt model.toml",
                "model.onnx<2/model.onnx",
            ),
            (
                &["model.toml", "7/model.onnx", "7/w.bin"],
                None,
                "",
                "model.toml",
                "model.onnx<7/model.onnx w.bin<7/w.bin",
            ),
            (
                &["m-1.0/model.toml", "m-1.0/1/model.onnx"],
                None,
                "",
                "model.toml<m-1.0/model.toml",
                "model.onnx<m-1.0/1/model.onnx",
            ),
            (
                &["model.toml", "a.onnx", "v.json", "d.bin"],
                None,
                "[adapter]\nname=\"a\"\nconfig=\"v.json\"",
                "model.toml v.json",
                "d.bin model.onnx<a.onnx",
            ),
            (
                &["model.toml", "model.xml", "model.bin"],
                None,
                "format = \"openvino\"",
                "model.toml",
                "model.bin model.xml",
            ),
            (
                &[
                    "onnx/model.onnx",
                    "onnx/model_q.onnx",
                    "onnx/model.onnx_data",
                    "onnx/model_q.onnx_data",
                    "config.json",
                    "model.safetensors",
                ],
                None,
                "",
                "",
                "config.json model.onnx<onnx/model.onnx model.onnx_data<onnx/model.onnx_data",
            ),
            (
                &["onnx/model.onnx", "onnx/model_q.onnx"],
                Some("onnx/model_q.onnx"),
                "",
                "",
                "model.onnx<onnx/model_q.onnx",
            ),
            (
                &[
                    "MLmodel",
                    "model.onnx",
                    "conda.yaml",
                    "python_env.yaml",
                    "input_example.json",
                ],
                None,
                MLFLOW,
                "",
                "input_example.json model.onnx",
            ),
            (
                &[
                    "MLmodel",
                    "model.onnx/graph.onnx",
                    "model.onnx/graph.onnx.data",
                ],
                None,
                MLFLOW,
                "",
                "graph.onnx.data<model.onnx/graph.onnx.data model.onnx<model.onnx/graph.onnx",
            ),
            (
                &["model.onnx", ".penstock.json", ".git/config", "a.json"],
                None,
                "",
                "",
                "a.json model.onnx",
            ),
            (
                &["det.xml", "det.bin"],
                None,
                "",
                "",
                "model.bin<det.bin model.xml<det.xml",
            ),
        ] {
            let expected = Ok((beside.to_owned(), version.to_owned()));
            assert_eq!(told(paths, graph, text), expected, "{paths:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_arranged_are_refused_with_the_reason() {
        for (paths, graph, text, words) in [
            (
                &["a.onnx", "b.onnx"][..],
                None,
                "",
                "several graphs: a.onnx, b.onnx",
            ),
            (&["model.safetensors", "config.json"], None, "", "no graph"),
            (&["a.onnx", "b.txt"], Some("c.onnx"), "", "it has no c.onnx"),
            (
                &["model.toml", "1/model.onnx", "3/model.onnx"],
                None,
                "",
                "the versions 1, 3 and no 2",
            ),
            (
                &["MLmodel", "model.pkl"],
                None,
                SKLEARN,
                "the flavors python_function, sklearn",
            ),
            (
                &["MLmodel", "x.onnx"],
                None,
                MLFLOW,
                "model.onnx, which does not exist",
            ),
            (
                &["MLmodel", "x.onnx"],
                None,
                "flavors:\n  onnx:\n    data: ../x\n",
                "outside",
            ),
            (&[], None, "", "no graph"),
        ] {
            let said = told(paths, graph, text).expect_err(words);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_hub_is_asked_for_the_graph_and_small_texts_only() {
        let paths = [
            ".gitattributes",
            "README.md",
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "onnx/model_fp16.onnx",
            "onnx/model.onnx_data",
            "openvino/openvino_model.bin",
        ];
        let chosen = choose(&paths, None).unwrap();
        let expected = [
            "config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "tokenizer.json",
        ];
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn no_path_leads_out_of_its_folder(path in "[a./\\\\:\u{0}b]{0,12}") {
            if path_fault(&path).is_none() {
                let joined = std::path::Path::new("/root/folder").join(&path);
                let parts: Vec<_> = joined.components().collect();
                prop_assert!(joined.starts_with("/root/folder"));
                prop_assert!(parts.iter().all(|part| !matches!(part, std::path::Component::ParentDir)));
            }
        }

        #[test]
        fn any_listing_is_arranged_or_refused(
            paths in proptest::collection::btree_set("(model.toml|MLmodel|[1-3]/model.onnx|onnx/[ab].onnx|[ab]/c.xml|[a-c].(onnx|bin|json))", 0..6)
        ) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            if let Ok(arranged) = arrange(&paths, 1, None, &|_| Some(String::new())) {
                let known = |from: &String| paths.contains(&from.as_str());
                prop_assert!(arranged.version.values().all(known));
                prop_assert!(arranged.beside.values().all(known));
                prop_assert!(arranged.version.contains_key("model.onnx") || arranged.version.contains_key("model.xml"));
            }
            let _ = choose(&paths, None);
        }
    }
}
