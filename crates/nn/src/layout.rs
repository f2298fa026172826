//! The layout of a models directory, and messages about directories that do not have it.
//!
//! ```text
//! models/<name>/model.toml
//! models/<name>/<version>/model.onnx      version: 1, 2, 3, …
//! models/<name>/<version>/model.xml       with model.bin, if the contract has format = "openvino"
//! ```
//!
//! Both engines of this crate read it through this module: the one that loads everything when a server starts, and the
//! one that opens models on demand. A name is checked before it becomes part of a path.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::Path;

use penstock_tensor::contract::{Contract, Format, Sample, read_sample};
use penstock_tensor::{ModelName, ModelVersion};

use crate::backend::{Port, Rows};
use crate::contract_check;
use crate::error::{ErrorCode, NnError, listed, quoted};

/// The contract's file in a model's directory.
pub const CONTRACT_FILE: &str = "model.toml";

/// A file in the model's folder with an input that is known to be valid, as a body of `:predict` or of the Open
/// Inference Protocol.
pub const SAMPLE_FILE: &str = "sample.json";

/// The largest sample that is read: an image as numbers fits.
pub const MAX_SAMPLE_BYTES: u64 = 16 << 20;

/// The graph's file in a version's directory.
pub const GRAPH_FILE: &str = "model.onnx";

/// The graph's file in a version's directory, in OpenVINO's own format; `model.bin` in the same directory has its
/// weights.
pub const OPENVINO_GRAPH_FILE: &str = "model.xml";

/// The graph's file in a version's directory, for a graph in `format`.
pub const fn graph_file(format: Format) -> &'static str {
    match format {
        Format::Onnx => GRAPH_FILE,
        Format::Openvino => OPENVINO_GRAPH_FILE,
    }
}

/// The largest contract that is read, in bytes. Real ones are a few KiB; the rest is for long lists of labels.
pub const MAX_CONTRACT_BYTES: u64 = 1 << 20;

/// The reason that there is no model to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// There is no model of that name; the message names the existing ones.
    UnknownModel(String),
    /// The model has no such version; the message names the existing ones.
    UnknownVersion(String),
    /// It is being loaded; try again soon.
    Loading(String),
    /// It could not be loaded; the message has the reason.
    Failed(String),
    /// It was unloaded on request.
    Unloaded(String),
}

impl Unavailable {
    /// The message, fit for a caller.
    pub fn message(&self) -> &str {
        match self {
            Self::UnknownModel(text)
            | Self::UnknownVersion(text)
            | Self::Loading(text)
            | Self::Failed(text)
            | Self::Unloaded(text) => text,
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Unavailable {}

impl From<Unavailable> for NnError {
    fn from(unavailable: Unavailable) -> Self {
        let code = match unavailable {
            Unavailable::UnknownModel(_) | Unavailable::UnknownVersion(_) => ErrorCode::NotFound,
            Unavailable::Loading(_) | Unavailable::Failed(_) | Unavailable::Unloaded(_) => {
                ErrorCode::RuntimeError
            }
        };
        NnError::new(code, unavailable.message())
    }
}

impl Unavailable {
    /// An unknown model, with the models that exist.
    pub(crate) fn unknown_model<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> Self {
        Self::UnknownModel(format!(
            "there is no model {}; there is {}",
            quoted(name),
            listed(there)
        ))
    }

    /// An unknown version of a model, with the versions that exist.
    pub(crate) fn unknown_version(
        name: &str,
        version: &str,
        there: impl Iterator<Item = u64>,
    ) -> Self {
        let there: Vec<String> = there.map(|version| version.to_string()).collect();
        Self::UnknownVersion(format!(
            "model {} has no version {}; it has {}",
            quoted(name),
            quoted(version),
            listed(there.iter().map(String::as_str))
        ))
    }

    /// A version that was unloaded on request.
    #[cfg(feature = "native")]
    pub(crate) fn unloaded(name: &str, version: u64) -> Self {
        Self::Unloaded(format!(
            "model {} version {version} is unloaded; load it, or ask for another version",
            quoted(name)
        ))
    }

    /// A version whose process is away at the moment, with the reason.
    #[cfg(feature = "native")]
    pub(crate) fn restarting(name: &str, version: u64, reason: &str) -> Self {
        Self::Loading(format!(
            "model {} version {version} cannot answer at the moment: {reason}; it is started again: try again later",
            quoted(name)
        ))
    }

    /// A version that cannot answer, with the reason.
    pub(crate) fn failed(name: &str, reason: &str) -> Self {
        Self::Failed(format!("model {} cannot answer: {reason}", quoted(name)))
    }
}

/// Returns whether a name may be a model's.
pub(crate) fn is_model_name(name: &str) -> bool {
    ModelName::parse(name).is_some()
}

/// The number of a version, as its folder is named.
pub(crate) fn version_number(text: &str) -> Option<u64> {
    ModelVersion::parse(text).map(ModelVersion::get)
}

/// Returns whether a folder is named as if it held a version, and no version is named so: `0`, `007`, or a number too large.
#[cfg(feature = "native")]
pub(crate) fn is_no_version(name: &str) -> bool {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    digits && version_number(name).is_none()
}

fn not_a_name(name: &str) -> String {
    format!(
        "{} is not a valid model name; rename its folder to {}",
        quoted(name),
        ModelName::RULE
    )
}

/// Reads the contract in a model's directory. The error is a sentence about the model.
pub(crate) fn contract(name: &str, dir: &Path) -> Result<Contract, String> {
    if !is_model_name(name) {
        return Err(not_a_name(name));
    }
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!(
                "it has no {CONTRACT_FILE}, which describes its inputs and outputs; `penstock init` writes one from the graph"
            )
        }
        _ => format!("its {CONTRACT_FILE} cannot be read: {error}"),
    };
    let file = std::fs::File::open(dir.join(CONTRACT_FILE)).map_err(unreadable)?;
    let mut text = String::new();
    file.take(MAX_CONTRACT_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_CONTRACT_BYTES {
        return Err(format!(
            "its {CONTRACT_FILE} is over {MAX_CONTRACT_BYTES} bytes; shorten it"
        ));
    }
    parsed(name, &text)
}

/// Parses the text of a model's contract. The error is a sentence about the model.
pub(crate) fn parsed(name: &str, text: &str) -> Result<Contract, String> {
    if !is_model_name(name) {
        return Err(not_a_name(name));
    }
    Contract::parse(text).map_err(|faults| {
        let faults: Vec<String> = faults
            .iter()
            .map(|fault| format!("{CONTRACT_FILE} {fault}"))
            .collect();
        faults.join(" ")
    })
}

/// The sample in a model's directory, if there is one.
pub(crate) fn sample(contract: &Contract, dir: &Path) -> Result<Option<Sample>, NnError> {
    let wrong =
        |what: String| NnError::invalid(format!("its {SAMPLE_FILE} {what}; correct or remove it"));
    let file = match std::fs::File::open(dir.join(SAMPLE_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
    };
    let mut body = Vec::new();
    file.take(MAX_SAMPLE_BYTES + 1)
        .read_to_end(&mut body)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if body.len() as u64 > MAX_SAMPLE_BYTES {
        return Err(wrong(format!("is over {MAX_SAMPLE_BYTES} bytes")));
    }
    match read_sample(&body, contract) {
        Ok(sample) => Ok(Some(sample)),
        Err(rejection) => {
            let at = (rejection.violations.first()).map_or("", |first| &*first.pointer);
            Err(wrong(format!(
                "is not a valid input, at {at:?}: {rejection}"
            )))
        }
    }
}

/// The numbers of the versions in a model's directory, also of those that cannot be loaded.
pub(crate) fn versions(dir: &Path) -> Result<BTreeSet<u64>, String> {
    let items = std::fs::read_dir(dir)
        .map_err(|error| format!("its directory cannot be listed: {error}"))?;
    let versions: BTreeSet<u64> = (items.flatten().filter(|item| item.path().is_dir()))
        .filter_map(|item| item.file_name().to_str().and_then(version_number))
        .collect();
    if versions.is_empty() {
        return Err(format!(
            "it has no version; put the graph at 1/{GRAPH_FILE} in its directory"
        ));
    }
    Ok(versions)
}

/// Refuses a contract whose graph is in a format no backend reads.
pub(crate) fn readable(contract: &Contract) -> Result<(), NnError> {
    if contract.format != Format::Onnx {
        return Err(NnError::unsupported(format!(
            "its format is {:?}, which no backend of this server reads; export it as ONNX and write format = \"onnx\"",
            contract.format.as_str()
        )));
    }
    Ok(())
}

/// The error for a version's directory without a graph.
pub(crate) fn no_graph(version: u64, format: Format) -> NnError {
    NnError::not_found(format!(
        "version {version} has no {}; put the graph there",
        graph_file(format)
    ))
}

/// Refuses a graph that does not match its contract.
pub(crate) fn agrees(
    contract: &Contract,
    version: u64,
    inputs: &[Port],
    outputs: &[Port],
) -> Result<(), NnError> {
    let faults = contract_check::check(contract, inputs, outputs);
    if faults.is_empty() {
        return Ok(());
    }
    Err(NnError::invalid(format!(
        "version {version} does not match {CONTRACT_FILE}: {}",
        faults.join("; ")
    )))
}

/// Refuses a model whose contract asks that calls share runs, and whose rows depend on each other.
pub(crate) fn rows_agree(contract: &Contract, version: u64, rows: &Rows) -> Result<(), NnError> {
    let batching = &contract.batching;
    match rows {
        Rows::Dependent(reason) if batching.is_required && !batching.allow_dependent_rows => {
            Err(NnError::invalid(format!(
                "version {version} cannot share runs between calls, as [batching] enabled = true in {CONTRACT_FILE} asks: \
                 {reason}; remove enabled = true, or write allow_dependent_rows = true if a caller's answer may depend on \
                 the other callers"
            )))
        }
        _ => Ok(()),
    }
}
