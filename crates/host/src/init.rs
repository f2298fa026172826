//! `penstock init` and `penstock describe`: a contract from a graph, and the description of a graph.
//!
//! `penstock_nn::derive` decides the content of the contract. This module finds the graph, reads the files beside it,
//! writes files, runs the model once and prints.

use super::init_source::find_graph;
use crate::AppOptions;
pub use crate::init_print::DescribeOptions;
use crate::init_print::print;
use crate::prepare;
use anyhow::{Context, bail};
use penstock_nn::backend::OPENVINO;
use penstock_nn::derive::{Derived, Description, derive};
use penstock_nn::layout::{CONTRACT_FILE, GRAPH_FILE, OPENVINO_GRAPH_FILE, SAMPLE_FILE};
use penstock_nn::trial::{self, Ran};
use penstock_nn::{Backends, Graph, Port};
use penstock_tensor::contract::{Dim, Format};
use penstock_tensor::render::write_nested;
use penstock_tensor::{Contract, ModelName, Tensor};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Largest `sample.json` that is written. A model with larger inputs is called with a binary body instead.
const MAX_SAMPLE_BYTES: usize = 4 << 20;

/// Largest configuration beside a graph that is read. A tokenizer has some megabytes.
const MAX_BESIDE_BYTES: u64 = 64 << 20;

/// Most pairs of axes that are tried together at their smallest lengths: those of seven axes.
const MAX_PAIRS: usize = 21;

/// Most axes that are tried for an input whose number of axes the graph does not declare.
const MAX_TRIED_RANK: usize = 4;

/// The options of `penstock init`.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The graph, or a folder with one.
    pub from: PathBuf,
    /// The model's name. Without it, the name is derived from the file's or the folder's.
    pub name: Option<String>,
    /// Whether existing files are replaced.
    pub force: bool,
    /// Whether the graph is linked instead of copied.
    pub link: bool,
}

/// Writes a model's folder, and prints how to call it.
pub fn run(options: &AppOptions, init: &InitOptions) -> ExitCode {
    ended(initialise(options, init, &mut std::io::stdout().lock()))
}

/// Prints a graph.
pub fn describe(options: &AppOptions, describe: &DescribeOptions) -> ExitCode {
    ended(print(options, describe, &mut std::io::stdout().lock()))
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    crate::ending::with(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Derives a name for the model from the file's or the folder's.
fn name_for(from: &Path, graph: &Path) -> anyhow::Result<String> {
    let from = if from.is_dir() {
        from.canonicalize().unwrap_or_else(|_| from.to_owned())
    } else {
        graph.with_extension("")
    };
    let stem = from
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let generic = ["model", "1", "onnx", ""].contains(&stem);
    let parent = graph
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let wanted = if generic {
        parent.unwrap_or(stem)
    } else {
        stem
    };
    let name: String = wanted
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_start_matches('.').to_owned();
    match ModelName::parse(&name) {
        Some(_) => Ok(name),
        None => bail!("no name can be made of {wanted:?}; give one with --name"),
    }
}

/// Describes a graph, from the graph itself and from the files beside it.
fn described(path: &Path, backends: &Backends) -> anyhow::Result<(Description, Vec<PathBuf>)> {
    let is_ir = path.extension().is_some_and(|extension| extension == "xml");
    let (mut description, files) = if is_ir {
        let (inputs, outputs) = trial::ports(path, backends, OPENVINO)
            .map_err(|error| anyhow::anyhow!("{}", error.message))?;
        let description = Description {
            format: Format::Openvino,
            origin: "OpenVINO's own format".into(),
            inputs,
            outputs,
            ..Description::default()
        };
        (description, vec![path.with_extension("bin")])
    } else {
        let graph = Graph::read(path)
            .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.message))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = graph.files().map(|file| folder.join(file)).collect();
        (Description::of(&graph), files)
    };
    let configuration = beside(path, "config.json");
    let number = |key: &str| configuration.as_ref()?.get(key)?.as_u64();
    let tokenized = description
        .inputs
        .iter()
        .any(|port| port.name == "input_ids");
    if tokenized {
        description.most_tokens = number("max_position_embeddings");
    }
    let labels = configuration
        .as_ref()
        .and_then(|config| config.get("id2label")?.as_object().cloned());
    if let Some(labels) = labels {
        let mut numbered: Vec<(u64, String)> = (labels.iter())
            .filter_map(|(id, label)| Some((id.parse().ok()?, label.as_str()?.to_owned())))
            .collect();
        numbered.sort();
        if numbered
            .iter()
            .enumerate()
            .all(|(at, (id, _))| *id == at as u64)
        {
            description.labels = numbered.into_iter().map(|(_, label)| label).collect();
        }
    }
    Ok((description, files))
}

/// Reads a JSON file beside the graph, or in the folder above it, as repositories of models have them.
fn beside(graph: &Path, name: &str) -> Option<serde_json::Value> {
    let folder = graph.parent()?;
    let above = folder.parent().unwrap_or(folder);
    [folder, above].iter().find_map(|folder| {
        let path = folder.join(name);
        let small = std::fs::metadata(&path).ok()?.len() <= MAX_BESIDE_BYTES;
        let text = small.then(|| std::fs::read(&path).ok())??;
        serde_json::from_slice(&text).ok()
    })
}

/// Returns the adapter for which there is evidence: its name, the file of its configuration, and the configuration.
/// Returns a question if the evidence does not decide.
fn guess_adapter(
    graph: &Path,
    description: &Description,
) -> Result<Option<(String, String, String)>, String> {
    let names: Vec<&str> = description
        .inputs
        .iter()
        .map(|port| port.name.as_str())
        .collect();
    let reads_tokens = names.contains(&"input_ids") && names.contains(&"attention_mask");
    if reads_tokens {
        return sentence(graph, description);
    }
    let image = |port: &Port| {
        let dims = port.dims.as_deref()?;
        let is = |at: usize| match dims.get(at) {
            Some(penstock_nn::Dim::Fixed(length)) => [1, 3].contains(length),
            _ => false,
        };
        (dims.len() == 4 && (is(1) || is(3))).then(|| port.name.clone())
    };
    if let ([port], true) = (description.inputs.as_slice(), description.inputs.len() == 1)
        && let Some(input) = image(port)
    {
        return Err(format!(
            "Does {input} take an image? The adapter \"image\" (docs/ADAPTERS.md) makes it from PNG or JPEG. Its \
             configuration needs mean, std and size, which the graph does not contain."
        ));
    }
    Ok(None)
}

/// Returns the adapter for embeddings of text, from the tokenizer beside the graph.
fn sentence(
    graph: &Path,
    description: &Description,
) -> Result<Option<(String, String, String)>, String> {
    let ask = |what: &str| {
        Err(format!(
            "The model reads tokens. Which tokenizer produces them? {what}; docs/ADAPTERS.md lists the adapters."
        ))
    };
    let Some(tokenizer) = beside(graph, "tokenizer.json") else {
        return ask("There is no tokenizer.json beside the graph");
    };
    let model = &tokenizer["model"];
    let lowercase = tokenizer["normalizer"]["lowercase"].as_bool() == Some(true);
    let vocabulary = model["vocab"].as_object();
    let (Some(vocabulary), Some("WordPiece"), true) =
        (vocabulary, model["type"].as_str(), lowercase)
    else {
        return ask(
            "The adapter \"sentence\" reads uncased WordPiece, but the tokenizer.json beside the graph is of another type",
        );
    };
    let mut pieces: Vec<(u64, &str)> = vocabulary
        .iter()
        .filter_map(|(piece, id)| Some((id.as_u64()?, piece.as_str())))
        .collect();
    pieces.sort_unstable();
    let gapless = pieces
        .iter()
        .enumerate()
        .all(|(at, (id, _))| *id == at as u64);
    let vectors = (description.outputs.first()).and_then(|port| match port.dims.as_deref()? {
        [_, _, penstock_nn::Dim::Fixed(width)] => Some(*width),
        _ => None,
    });
    let (Some(width), true) = (vectors, gapless) else {
        return ask("The adapter \"sentence\" needs one vector for each token");
    };
    let pooling = beside(graph, "1_Pooling/config.json");
    let first = pooling
        .as_ref()
        .is_some_and(|pooling| pooling["pooling_mode_cls_token"] == true);
    let lines: Vec<&str> = pieces.iter().map(|(_, piece)| *piece).collect();
    let configuration = serde_json::json!({
        "pooling": if first { "cls" } else { "mean" },
        "max_tokens": description.most_tokens.unwrap_or(512),
        "dimensions": width,
        "vocabulary": lines.join("\n"),
    });
    Ok(Some((
        "sentence".into(),
        "sentence.json".into(),
        configuration.to_string(),
    )))
}

/// The result of deriving a contract and running the model under it.
struct Made {
    derived: Derived,
    outcome: Result<Ran, Obstacle>,
}

/// The reason why a model did not run.
enum Obstacle {
    /// The graph was not loaded. No answer to a question helps.
    Load(String),
    /// The run failed, or its outputs contradict the contract.
    Run(String),
}

/// Derives a contract, and runs the graph under it. If the graph does not declare the number of an input's axes,
/// several numbers are tried. If it ran only on longer axes, these become the smallest lengths.
fn made(description: &Description, graph: &Path, backends: &Backends) -> Made {
    let unranked: Vec<String> = (description.inputs.iter())
        .filter(|port| port.dims.is_none())
        .map(|port| port.name.clone())
        .collect();
    let ranks = if unranked.is_empty() {
        2..=2
    } else {
        1..=MAX_TRIED_RANK
    };
    let mut last: Option<Made> = None;
    // Two axes are the most frequent by far.
    let mut order: Vec<usize> = ranks.collect();
    order.sort_by_key(|rank| (*rank != 2, *rank));
    for rank in order {
        let mut described = description.clone();
        described
            .ranks
            .extend(unranked.iter().map(|name| (name.clone(), rank)));
        let derived = derive(&described);
        let outcome = attempt(&derived, graph, backends);
        let done = outcome.is_ok();
        let made = Made { derived, outcome };
        if done {
            // Lengths first: only at the smallest ones does a longer run show which axes depend on the number of items.
            let (described, made) = with_least(described, made, graph, backends);
            return with_answers(described, made, graph, backends);
        }
        last.get_or_insert(made);
    }
    last.unwrap_or_else(|| Made {
        derived: derive(description),
        outcome: Err(Obstacle::Run("it was not run".into())),
    })
}

fn attempt(derived: &Derived, graph: &Path, backends: &Backends) -> Result<Ran, Obstacle> {
    let contract = parsed(&derived.text).map_err(Obstacle::Run)?;
    trial::run(&contract, graph, backends, None).map_err(|failed| {
        let of = if failed.loaded {
            Obstacle::Run
        } else {
            Obstacle::Load
        };
        of(failed.error.message)
    })
}

fn parsed(text: &str) -> Result<Contract, String> {
    Contract::parse(text).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        format!(
            "the contract that was derived has faults: {}",
            faults.join(" ")
        )
    })
}

/// The same with the observed shapes, if the graph declares others. Otherwise a server would refuse the model.
fn with_answers(
    mut description: Description,
    mut made: Made,
    graph: &Path,
    backends: &Backends,
) -> Made {
    if let Ok(ran) = &made.outcome
        && let Some((outputs, _)) = &ran.contradicted
    {
        let ranks = |name: &String| -> Vec<Option<usize>> {
            (ran.shapes.iter())
                .map(|run| {
                    let found = run.outputs.iter().find(|(output, _)| output == name);
                    found.map(|(_, shape)| shape.len())
                })
                .collect()
        };
        let changes = outputs.iter().any(|name| {
            let ranks = ranks(name);
            ranks.iter().any(|rank| *rank != ranks[0])
        });
        if changes {
            // The number of items decides. Then the shape for one item is known.
            let first = parsed(&made.derived.text).map(|contract| {
                let firsts = contract
                    .inputs
                    .into_iter()
                    .filter_map(|spec| spec.shape.into_iter().next());
                firsts
                    .filter_map(|dim| match dim {
                        Dim::Symbol(name) => Some(name),
                        Dim::Fixed(_) => None,
                    })
                    .collect::<Vec<_>>()
            });
            description.single.extend(first.unwrap_or_default());
            description.correct(outputs, &ran.shapes[..1]);
        } else {
            description.correct(outputs, &ran.shapes);
        }
        let derived = derive(&description);
        let outcome = attempt(&derived, graph, backends);
        made = Made { derived, outcome };
    }
    let refused = match &made.outcome {
        Ok(ran) => (ran.contradicted.as_ref()).map(|(_, error)| error.message.clone()),
        Err(_) => None,
    };
    if let Some(refused) = refused {
        made.outcome = Err(Obstacle::Run(refused));
    }
    made
}

/// The same with the lengths that ran as the smallest ones, if the smallest did not run.
fn with_least(
    description: Description,
    made: Made,
    graph: &Path,
    backends: &Backends,
) -> (Description, Made) {
    let (Ok(ran), Ok(contract)) = (&made.outcome, parsed(&made.derived.text)) else {
        return (description, made);
    };
    if ran.on_least {
        return (description, made);
    }
    let mut described = description.clone();
    for (spec, tensor) in contract.inputs.iter().zip(&ran.inputs) {
        for (dim, length) in spec.shape.iter().zip(&tensor.shape) {
            if let (Dim::Symbol(name), true) = (dim, *length > 1) {
                described.least.insert(name.clone(), *length);
            }
        }
    }
    if described.least.is_empty() {
        return (description, made);
    }
    // All axes were made longer together. Axes that need no longer length are reduced again.
    let runs = |described: &Description| {
        let derived = derive(described);
        matches!(attempt(&derived, graph, backends), Ok(ran) if ran.on_least)
    };
    for name in described.least.keys().cloned().collect::<Vec<_>>() {
        let mut shorter = described.clone();
        shorter.least.remove(&name);
        if runs(&shorter) {
            described = shorter;
        }
    }
    // Two remaining axes may need equal lengths, such as the items of an input and of a state.
    let left: Vec<String> = described.least.keys().cloned().collect();
    let pairs = (left.iter().enumerate())
        .flat_map(|(at, first)| left[at + 1..].iter().map(move |second| (first, second)));
    for (first, second) in pairs.take(MAX_PAIRS) {
        let mut shorter = described.clone();
        let both = [first, second].map(|name| shorter.least.remove(name).is_some());
        if both == [true, true] && runs(&shorter) {
            described = shorter;
        }
    }
    described.questions.push(
        "The lengths under [axes] are the first ones that ran. Lower min if the model also runs shorter ones.".into(),
    );
    let derived = derive(&described);
    match attempt(&derived, graph, backends) {
        Ok(ran) => {
            let outcome = Ok(ran);
            (described, Made { derived, outcome })
        }
        Err(_) => (description, made),
    }
}

fn initialise(
    options: &AppOptions,
    init: &InitOptions,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let graph = find_graph(&init.from)?;
    let name = match &init.name {
        Some(name) => name.clone(),
        None => name_for(&init.from, &graph)?,
    };
    if ModelName::parse(&name).is_none() {
        bail!(
            "{name:?} is not a valid model name; write {}",
            ModelName::RULE
        );
    }
    let models = match &options.models {
        Some(models) => models.clone(),
        None => prepare::models_directory(options, &mut manifest_mounts(options)),
    };
    let folder = models.join(&name);
    let contract_file = folder.join(CONTRACT_FILE);
    let is_there = contract_file.exists() || folder.join("1").exists();
    let in_place = graph.canonicalize().ok().is_some_and(|graph| {
        folder
            .canonicalize()
            .is_ok_and(|folder| graph.starts_with(folder))
    });
    if contract_file.exists() && !init.force || is_there && !in_place && !init.force {
        bail!(
            "{} exists; replace it with --force, or give another --name",
            folder.display()
        );
    }
    let backends = prepare::backends(options)?;
    let (mut description, files) = described(&graph, &backends)?;
    let mut configuration = None;
    match guess_adapter(&graph, &description) {
        Ok(Some((adapter, file, text))) => {
            description.adapter = Some((adapter, file.clone()));
            configuration = Some((file, text));
        }
        Ok(None) => {}
        Err(question) => description.questions.push(question),
    }
    let Made { derived, outcome } = made(&description, &graph, &backends);
    // Written for every outcome of the run: the contract contains the questions.
    if !in_place {
        let version = folder.join("1");
        std::fs::create_dir_all(&version)
            .with_context(|| format!("cannot make {}", version.display()))?;
        let target = match description.format {
            Format::Onnx => GRAPH_FILE,
            Format::Openvino => OPENVINO_GRAPH_FILE,
        };
        place(&graph, &version.join(target), init)?;
        for file in &files {
            let to = match description.format {
                Format::Openvino => version.join("model.bin"),
                Format::Onnx => {
                    version.join(file.strip_prefix(graph.parent().unwrap_or(Path::new("")))?)
                }
            };
            place(file, &to, init)?;
        }
    }
    write(&contract_file, derived.text.as_bytes())?;
    if let Some((file, text)) = &configuration {
        write(&folder.join(file), text.as_bytes())?;
    }
    writeln!(out, "wrote {}", contract_file.display())?;
    for question in &derived.questions {
        writeln!(out, "  ? {question}")?;
    }
    for obstacle in &derived.obstacles {
        writeln!(out, "  ! {obstacle}")?;
    }
    let ran = match outcome {
        Ok(ran) => ran,
        Err(Obstacle::Load(reason)) => bail!(
            "the graph does not load: {reason}. `penstock describe {}` lists the backends that load it. The contract in \
             {} holds all that the graph declares",
            graph.display(),
            contract_file.display()
        ),
        Err(Obstacle::Run(reason)) => bail!(
            "the model does not run yet: {reason}. Answer the questions in {}, or write an input that it takes into \
             {}, and run `penstock check`",
            contract_file.display(),
            folder.join(SAMPLE_FILE).display()
        ),
    };
    let outputs: Vec<String> = (ran.outputs.iter())
        .map(|(name, dims)| format!("{name} {dims:?}"))
        .collect();
    writeln!(
        out,
        "ran on {} in {:.1} ms: {}",
        ran.backend,
        ran.took.as_secs_f64() * 1e3,
        outputs.join(", ")
    )?;
    let sample = sample_json(&ran.inputs);
    let (command, is_sample) = call(&name, &folder, &ran.inputs, &sample);
    if is_sample {
        write(&folder.join(SAMPLE_FILE), &sample)?;
    }
    writeln!(
        out,
        "\nserve it with `penstock up`, and call it:\n\n  {command}"
    )?;
    Ok(())
}

/// The mounts of the manifest, if there is one. They show where the models are.
fn manifest_mounts(options: &AppOptions) -> Vec<penstock_app::Mount> {
    let found = penstock_app::Manifest::load(&options.app, penstock_app::Serving::default())
        .ok()
        .and_then(|manifest| {
            let root = prepare::root_component(&manifest).ok()?.to_owned();
            penstock_app::visible(&manifest, &root, &[prepare::POLICY_FILE]).ok()
        });
    found.map(|found| found.directories).unwrap_or_default()
}

/// Copies or links a file. It replaces an existing one only if that was requested.
fn place(from: &Path, to: &Path, init: &InitOptions) -> anyhow::Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if to.exists() && from.canonicalize()? == to.canonicalize()? {
        return Ok(());
    }
    if to.symlink_metadata().is_ok() {
        if !init.force {
            bail!("{} exists; replace it with --force", to.display());
        }
        std::fs::remove_file(to)?;
    }
    let placed = if init.link {
        let from = from.canonicalize()?;
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(from, to);
        #[cfg(not(unix))]
        let linked = std::fs::copy(from, to).map(drop);
        linked
    } else {
        // The server must not read an incomplete file.
        let part = to.with_extension("part");
        std::fs::copy(from, &part).and_then(|_| std::fs::rename(&part, to))
    };
    placed.with_context(|| format!("cannot put {} at {}", from.display(), to.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let part = path.with_extension("part");
    std::fs::write(&part, bytes)
        .and_then(|()| std::fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Returns a body of `:predict` with these inputs.
fn sample_json(inputs: &[Tensor]) -> Vec<u8> {
    let mut body = b"{\"inputs\":{".to_vec();
    for (index, tensor) in inputs.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        penstock_tensor::render::write_string(&mut body, &tensor.name);
        body.push(b':');
        write_nested(&mut body, tensor);
    }
    body.extend_from_slice(b"}}\n");
    body
}

/// Returns the command that calls the model, and whether it reads `sample.json`.
fn call(name: &str, folder: &Path, inputs: &[Tensor], sample: &[u8]) -> (String, bool) {
    const SERVER: &str = "http://127.0.0.1:3000";
    if sample.len() <= MAX_SAMPLE_BYTES {
        let file = folder.join(SAMPLE_FILE);
        let command = format!(
            "curl -s {SERVER}/v1/models/{name}:predict -H 'content-type: application/json' -d @'{}'",
            file.display()
        );
        return (command, true);
    }
    // Numbers as text would be several megabytes. Zeros are cheaper as bytes after the JSON.
    let mut header = String::from("{\"inputs\":[");
    let mut bytes = 0;
    for (index, tensor) in inputs.iter().enumerate() {
        let separator = if index > 0 { "," } else { "" };
        let mut quoted = Vec::new();
        penstock_tensor::render::write_string(&mut quoted, &tensor.name);
        let _ = write!(
            header,
            "{separator}{{\"name\":{},\"datatype\":\"{}\",\"shape\":{:?},\"parameters\":{{\"binary_data_size\":{}}}}}",
            String::from_utf8_lossy(&quoted),
            tensor.datatype.as_str(),
            tensor.shape,
            tensor.data.len()
        );
        bytes += tensor.data.len();
    }
    header.push_str("]}");
    let command = format!(
        "(printf %s '{header}'; head -c {bytes} /dev/zero) | curl -s {SERVER}/v2/models/{name}/infer -H \
         'Inference-Header-Content-Length: {}' --data-binary @-",
        header.len()
    );
    (command, false)
}
