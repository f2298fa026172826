//! `penstock init` and `penstock describe`: a contract from a graph, and the description of a graph.
//!
//! `penstock_nn::derive` decides the content of the contract. This module finds the graph, reads the files beside it,
//! writes files, runs the model once and prints.

use super::init_source::find_graph;
use crate::AppOptions;
use crate::guess::{self, CONFIG_FILE, Facts, Guess, Proposal};
pub use crate::init_print::DescribeOptions;
use crate::init_print::print;
use crate::prepare;
use anyhow::{Context, bail};
use penstock_nn::backend::OPENVINO;
use penstock_nn::derive::{AdapterTable, Derived, Description, derive};
use penstock_nn::layout::{CONTRACT_FILE, GRAPH_FILE, OPENVINO_GRAPH_FILE, SAMPLE_FILE};
use penstock_nn::trial::{self, Ran};
use penstock_nn::{Backends, Graph};
use penstock_tensor::contract::{Dim, Format};
use penstock_tensor::render::write_nested;
use penstock_tensor::{Contract, ModelName, Tensor};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Largest `sample.json` that is written. A model with larger inputs is called with a binary body instead.
const MAX_SAMPLE_BYTES: usize = 4 << 20;

/// Longest part of an adapter's answer that is printed.
const MAX_ANSWER_CHARS: usize = 160;

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
    let configuration = guess::json_beside(path, "config.json");
    let tokenized = description
        .inputs
        .iter()
        .any(|port| port.name == "input_ids");
    if tokenized {
        description.most_tokens = configuration.as_ref().and_then(guess::positions);
    }
    description.labels = guess::labels(configuration.as_ref());
    let question = guess::size_input(path, &mut description);
    description.questions.extend(question);
    Ok((description, files))
}

/// The name and the content of a file beside the contract.
type FileToWrite = (&'static str, Vec<u8>);

/// Guesses the model's adapter, lets it answer an example, and puts it into the contract. Returns the files to write,
/// and the answer.
fn adapted(
    made: &mut Made,
    graph: &Path,
    backends: &Backends,
) -> anyhow::Result<(Vec<FileToWrite>, Option<String>)> {
    let guessed = guess::guess(&Facts {
        graph,
        description: &made.description,
        ran: match &made.outcome {
            Ok(ran) => &ran.outputs,
            Err(_) => &[],
        },
    });
    let mut answer = None;
    let mut written = Vec::new();
    match guessed {
        Guess::Nothing => return Ok((written, answer)),
        Guess::Ask(question) => made.description.questions.push(question),
        Guess::Adapter(mut proposal) => {
            if made.outcome.is_err() {
                proposal.open.push(format!(
                    "Does the adapter \"{}\" fit? It could not be tried, because the model does not run yet. Then remove \
                     the marks before [adapter].",
                    proposal.name
                ));
            } else if proposal.open.is_empty() {
                match tried(&proposal, made, graph, backends) {
                    Ok(said) => answer = Some(format!("{} answers {said}", proposal.name)),
                    Err(reason) => proposal.open.push(format!(
                        "Which adapter fits? \"{}\" did not answer an example: {reason}. Correct {CONFIG_FILE} or the \
                         graph, then remove the marks before [adapter].",
                        proposal.name
                    )),
                }
            }
            let mut config = serde_json::to_vec_pretty(&proposal.config)?;
            config.push(b'\n');
            written.push((CONFIG_FILE, config));
            let named = std::iter::once(("config", CONFIG_FILE.to_owned()));
            let beside =
                (proposal.files.iter()).map(|(setting, file, _)| (*setting, (*file).to_owned()));
            made.description.adapter = Some(AdapterTable {
                name: proposal.name.to_owned(),
                files: named.chain(beside).collect(),
                open: proposal.open,
            });
            made.description.questions.extend(proposal.remarks);
            let files = proposal.files.into_iter();
            written.extend(files.map(|(_, file, bytes)| (file, bytes)));
        }
    }
    made.derived = derive(&made.description);
    Ok((written, answer))
}

fn tried(
    proposal: &Proposal,
    made: &Made,
    graph: &Path,
    backends: &Backends,
) -> Result<String, String> {
    let contract = parsed(&made.derived.text)?;
    let answer = guess::tried(proposal, &contract, graph, backends)?;
    let end = answer.char_indices().nth(MAX_ANSWER_CHARS);
    Ok(match end {
        Some((at, _)) => format!("{}…", &answer[..at]),
        None => answer,
    })
}

/// The result of deriving a contract and running the model under it.
struct Made {
    /// The description with everything that the runs showed.
    description: Description,
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
        let made = Made {
            description: described,
            derived,
            outcome,
        };
        if done {
            // Lengths first: only at the smallest ones does a longer run show which axes depend on the number of items.
            let made = with_least(made, graph, backends);
            return with_answers(made, graph, backends);
        }
        last.get_or_insert(made);
    }
    last.unwrap_or_else(|| Made {
        description: description.clone(),
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

/// Asks for the libraries of operators that no backend has, if the graph was not loaded.
fn ask_for_libraries(made: &mut Made, graph: &Path) {
    if !matches!(made.outcome, Err(Obstacle::Load(_))) {
        return;
    }
    let graph = Graph::of(graph);
    let foreign = graph.map(|graph| graph.foreign_operators());
    if let Some(foreign) = foreign.filter(|foreign| !foreign.is_empty()) {
        made.description.foreign = foreign;
        made.derived = derive(&made.description);
    }
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
fn with_answers(mut made: Made, graph: &Path, backends: &Backends) -> Made {
    if let (Ok(ran), Ok(contract)) = (&made.outcome, parsed(&made.derived.text))
        && let Some((outputs, _)) = &ran.contradicted
    {
        (made.description).correct_by(&contract, outputs, &ran.shapes);
        made.derived = derive(&made.description);
        made.outcome = attempt(&made.derived, graph, backends);
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
fn with_least(made: Made, graph: &Path, backends: &Backends) -> Made {
    let (Ok(ran), Ok(contract)) = (&made.outcome, parsed(&made.derived.text)) else {
        return made;
    };
    if ran.on_least {
        return made;
    }
    let mut described = made.description.clone();
    for (spec, tensor) in contract.inputs.iter().zip(&ran.inputs) {
        for (dim, length) in spec.shape.iter().zip(&tensor.shape) {
            if let (Dim::Symbol(name), true) = (dim, *length > 1) {
                described.least.insert(name.clone(), *length);
            }
        }
    }
    if described.least.is_empty() {
        return made;
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
        Ok(ran) => Made {
            description: described,
            derived,
            outcome: Ok(ran),
        },
        Err(_) => made,
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
    let (description, files) = described(&graph, &backends)?;
    let mut made = made(&description, &graph, &backends);
    ask_for_libraries(&mut made, &graph);
    let needs_library = !made.description.foreign.is_empty();
    let (beside, answer) = adapted(&mut made, &graph, &backends)?;
    let Made {
        derived, outcome, ..
    } = made;
    if let Some((file, _)) = beside.iter().find(|(file, bytes)| {
        let there = std::fs::read(folder.join(file));
        !init.force && there.is_ok_and(|there| there != *bytes)
    }) {
        bail!(
            "{} exists, and is another; replace it with --force, or give another --name",
            folder.join(file).display()
        );
    }
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
    for (file, bytes) in &beside {
        write(&folder.join(file), bytes)?;
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
        // Only the operator of the server can give the library. The contract asks for it.
        Err(Obstacle::Load(reason)) if needs_library => {
            writeln!(
                out,
                "not run: the graph does not load: {reason}\n\nanswer the question about operators in {}, and run \
                 `penstock check`",
                contract_file.display()
            )?;
            return Ok(());
        }
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
    if let Some(answer) = answer {
        writeln!(out, "the adapter {answer}")?;
    }
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
