//! The backends of this process, and which of them loads a graph.

#[cfg(feature = "native")]
use std::path::Path;
use std::sync::Arc;

use penstock_tensor::contract::Format;

use super::graph::Graph;
use super::names::{AUTO, ONNXRUNTIME, OPENVINO};
use super::session::Backend;
#[cfg(feature = "native")]
use super::{onnxruntime, openvino};
use super::{tract, versions};
use crate::error::{NnError, listed};

/// The backends of this process.
#[derive(Clone, Default)]
pub struct Backends {
    /// The backends that can be used, in order of preference.
    present: Vec<Arc<dyn Backend>>,
    /// Those that could be named but are not here, with the reason.
    absent: Vec<(&'static str, String)>,
}

impl Backends {
    /// tract, which is always built in.
    pub fn builtin() -> Self {
        Self {
            present: vec![Arc::new(tract::Tract)],
            absent: vec![
                (ONNXRUNTIME, NO_ONNXRUNTIME.into()),
                (OPENVINO, NO_OPENVINO.into()),
            ],
        }
    }

    /// tract, and ONNX Runtime from the library at `path`.
    ///
    /// # Errors
    ///
    /// As [`Backends::with`].
    #[cfg(feature = "native")]
    pub fn with_onnxruntime(path: &Path) -> Result<Self, NnError> {
        Self::with(Some(path), None)
    }

    /// Every backend that has a library, in `auto`'s order of preference: ONNX Runtime, which runs the most graphs;
    /// OpenVINO; and tract, which needs no library.
    ///
    /// # Errors
    ///
    /// When a library cannot be loaded; see [`onnxruntime::OnnxRuntime::load`] and [`openvino::OpenVino::load`]. A
    /// server that was told to use a library should stop there. A server that may go on without it leaves it out and
    /// calls [`Backends::explain`].
    #[cfg(feature = "native")]
    pub fn with(onnxruntime: Option<&Path>, openvino: Option<&Path>) -> Result<Self, NnError> {
        let mut backends = Self::builtin();
        if let Some(path) = openvino {
            backends = backends.prefer(openvino::OpenVino::load(path)?);
        }
        if let Some(path) = onnxruntime {
            backends = backends.prefer(onnxruntime::OnnxRuntime::load(path)?);
        }
        Ok(backends)
    }

    /// Puts `backend` before all others.
    #[must_use]
    pub fn prefer(mut self, backend: Arc<dyn Backend>) -> Self {
        self.absent.retain(|(name, _)| *name != backend.name());
        self.present.retain(|other| other.name() != backend.name());
        self.present.insert(0, backend);
        self
    }

    /// Notes why a backend is missing. A contract that names the backend gets this reason.
    #[must_use]
    pub fn explain(mut self, name: &'static str, reason: impl Into<String>) -> Self {
        self.absent.retain(|(other, _)| *other != name);
        self.absent.push((name, reason.into()));
        self
    }

    /// The backend `model.toml` asks for: the most preferred for `auto`, else the one of that name.
    ///
    /// # Errors
    ///
    /// `NotFound` when the named backend is not here. No other backend takes its place: numbers may differ between
    /// backends, so the operator decides which one answers.
    pub fn choose(&self, asked: &str) -> Result<Arc<dyn Backend>, NnError> {
        let names = || self.present.iter().map(|backend| backend.name());
        let found = if asked == AUTO {
            self.present.first()
        } else {
            self.present.iter().find(|backend| backend.name() == asked)
        };
        found.cloned().ok_or_else(|| {
            let reason = self
                .absent
                .iter()
                .find(|(name, _)| *name == asked)
                .map_or("", |(_, reason)| reason.as_str());
            let colon = if reason.is_empty() { "" } else { ": " };
            NnError::not_found(format!(
                "backend {asked:?} is not available{colon}{reason}; this server has {}",
                listed(names())
            ))
        })
    }

    /// The backend for a graph in `format`: as [`Backends::choose`], and OpenVINO if the graph is in OpenVINO's own
    /// format and the choice is left to the server.
    ///
    /// # Errors
    ///
    /// As [`Backends::choose`]; `UnsupportedOperation` when the named backend does not read the format.
    pub fn choose_for(&self, asked: &str, format: Format) -> Result<Arc<dyn Backend>, NnError> {
        match (format, asked) {
            (Format::Openvino, AUTO | OPENVINO) => self.choose(OPENVINO),
            (Format::Openvino, other) => Err(NnError::unsupported(format!(
                "format = \"openvino\" is read by OpenVINO alone, and backend is {other:?}; write backend = \
                 \"openvino\", or export the graph as ONNX"
            ))),
            (Format::Onnx, asked) => self.choose(asked),
        }
    }

    /// The backends that may load `graph`, the most preferred first: as [`Backends::choose_for`], without those that
    /// are too old for it. Where the choice is left to the server there may be several. Returns with them why others,
    /// more preferred, are left out.
    ///
    /// # Errors
    ///
    /// As [`Backends::choose_for`]; `UnsupportedOperation` when every one is too old for the graph, with the versions
    /// that each reads.
    pub fn choose_for_graph(
        &self,
        asked: &str,
        format: Format,
        graph: Option<&Graph>,
    ) -> Result<(Arc<dyn Backend>, Option<String>), NnError> {
        let chosen = self.choose_for(asked, format)?;
        let Some(graph) =
            graph.filter(|graph| format == Format::Onnx && versions::is_recent(graph))
        else {
            return Ok((chosen, None));
        };
        let others: &[Arc<dyn Backend>] = if asked == AUTO { &self.present } else { &[] };
        let mut refusals: Vec<String> = Vec::new();
        for backend in std::iter::once(&chosen).chain(others) {
            let Some(why) = backend.reads().and_then(|reads| reads.refusal(graph)) else {
                let refusals = (!refusals.is_empty()).then(|| refusals.join("; "));
                return Ok((backend.clone(), refusals));
            };
            let why = format!("{} {} {why}", backend.name(), backend.version());
            if !refusals.contains(&why) {
                refusals.push(why);
            }
        }
        Err(NnError::unsupported(format!(
            "the graph is newer than the backend reads: {}; export it for an older opset, or give the server a newer \
             library (scripts/runtime fetches ONNX Runtime)",
            refusals.join("; ")
        )))
    }

    /// The backends, most preferred first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Backend>> {
        self.present.iter()
    }

    /// The other backends that read a graph in `format`, most preferred first.
    pub fn others(&self, than: &str, format: Format) -> Vec<Arc<dyn Backend>> {
        let reads = |backend: &&Arc<dyn Backend>| {
            backend.name() != than && (format == Format::Onnx || backend.name() == OPENVINO)
        };
        self.present.iter().filter(reads).cloned().collect()
    }

    /// Names and versions, most preferred first, for the start-up banner.
    pub fn list(&self) -> Vec<(&'static str, String)> {
        self.present
            .iter()
            .map(|backend| (backend.name(), backend.version()))
            .collect()
    }
}

const NO_ONNXRUNTIME: &str =
    "no ONNX Runtime library was given; set PENSTOCK_ONNXRUNTIME to the path of libonnxruntime.so";

const NO_OPENVINO: &str = "no OpenVINO library was given; set PENSTOCK_OPENVINO to the path of libopenvino_c.so, or \
                           start with scripts/up --with openvino";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_asked_for_by_name_and_missing_is_an_error_that_says_why() {
        let backends = Backends::builtin();
        assert_eq!(
            backends.choose("auto").ok().map(|b| b.name()),
            Some("tract")
        );
        let error = backends
            .choose("onnxruntime")
            .err()
            .expect("no library was given");
        assert!(
            error.message.contains("PENSTOCK_ONNXRUNTIME"),
            "{}",
            error.message
        );
        assert!(
            error.message.contains("this server has \"tract\""),
            "{}",
            error.message
        );
        let error = backends
            .choose("openvino")
            .err()
            .expect("no library was given");
        assert!(
            error.message.contains("PENSTOCK_OPENVINO"),
            "{}",
            error.message
        );
        let error = backends.choose("torch").err().expect("no such backend");
        assert!(
            error
                .message
                .contains("\"torch\" is not available; this server"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_graph_in_openvinos_format_goes_to_openvino_or_nowhere() {
        let backends = Backends::builtin();
        let chosen = |asked, format| backends.choose_for(asked, format).map(|b| b.name());
        assert_eq!(chosen("auto", Format::Onnx), Ok("tract"));
        for asked in ["auto", "openvino"] {
            let error = chosen(asked, Format::Openvino).expect_err("no library was given");
            assert!(error.message.contains("PENSTOCK_OPENVINO"), "{error}");
        }
        let error = chosen("tract", Format::Openvino).expect_err("it reads ONNX");
        assert!(error.message.contains("by OpenVINO alone"), "{error}");
    }
}
