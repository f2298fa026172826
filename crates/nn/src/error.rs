//! The errors of the engine: wasi:nn's own error codes, so that the host hands them to a guest unchanged, and the
//! refusals that wasi:nn has no code for.

use std::fmt;
use std::time::Duration;

/// wasi:nn's `error-code` (0.2.0-rc-2024-10-28), case for case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The caller sent something the model cannot take: a wrong name, type, shape or length.
    InvalidArgument,
    /// The graph's bytes are not in the encoding they were said to be in.
    InvalidEncoding,
    /// The deadline of the call passed.
    Timeout,
    /// The backend failed while it ran.
    RuntimeError,
    /// The backend lacks something the graph or the call needs.
    UnsupportedOperation,
    /// The graph or tensor is larger than the engine takes.
    TooLarge,
    /// No model of that name or version.
    NotFound,
    /// A policy of the host forbids it.
    Security,
    /// The cause is none of the above.
    Unknown,
}

impl ErrorCode {
    /// The name wasi:nn's WIT gives the case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::InvalidEncoding => "invalid-encoding",
            Self::Timeout => "timeout",
            Self::RuntimeError => "runtime-error",
            Self::UnsupportedOperation => "unsupported-operation",
            Self::TooLarge => "too-large",
            Self::NotFound => "not-found",
            Self::Security => "security",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason that the engine refused or dropped a sound call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineRefusal {
    /// The model's queue is full. The host answers 503 with `Retry-After`.
    QueueFull,
    /// The model is being unloaded, or the server stops: the call was not run. The host answers 503.
    NotReady,
    /// The call's deadline passed while it waited or ran. The host answers 504.
    Deadline,
    /// The queue before the call is too long for its deadline: not run. The host answers 503 with `Retry-After`.
    Shed,
    /// The caller left before the call ran.
    Gone,
    /// The process that ran the call ended. The host answers 503 with `Retry-After`.
    Ended,
    /// The call has items of several requests in one run, and rows depend on each other: not run. The caller runs each
    /// by itself.
    RowsDepend,
}

/// A failed load or call.
///
/// ```
/// use penstock_nn::{ErrorCode, NnError};
///
/// let error = NnError::not_found("there is no model `digits`");
/// assert_eq!(error.code, ErrorCode::NotFound);
/// assert_eq!(error.to_string(), "not-found: there is no model `digits`");
/// assert!(error.refusal.is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NnError {
    /// The error code of wasi:nn.
    pub code: ErrorCode,
    /// The problem, its place and the remedy, in words fit for a caller.
    pub message: String,
    /// Set when the engine turned the call away and the call itself was sound.
    pub refusal: Option<EngineRefusal>,
    /// The time after which a refused call is likely to be accepted, from the present run times.
    pub retry_after: Option<Duration>,
}

impl NnError {
    /// An error of `code` that is not a refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            refusal: None,
            retry_after: None,
        }
    }

    /// Makes an error of [`ErrorCode::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// Makes an error of [`ErrorCode::RuntimeError`].
    pub fn runtime(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::RuntimeError, message)
    }

    /// Makes an error of [`ErrorCode::UnsupportedOperation`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::UnsupportedOperation, message)
    }

    /// Makes an error of [`ErrorCode::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// Makes an error of [`ErrorCode::TooLarge`].
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::TooLarge, message)
    }

    /// A graph in bytes, which no caller may load.
    pub fn graph_in_bytes() -> Self {
        Self::new(
            ErrorCode::Security,
            "graphs are not loaded from bytes here; put the model into the models directory and load it by name",
        )
    }

    /// A shadow run, where nothing can run beside a request.
    pub fn no_shadow_runs() -> Self {
        Self::unsupported(
            "nothing runs beside a request on this host, so there are no shadow runs; serve the models with Penstock's own host",
        )
    }

    /// Tensors that take more bytes than a caller may hold.
    pub fn too_many_tensors(limit: usize) -> Self {
        Self::too_large(format!(
            "more than {limit} bytes of tensors were made at once; send fewer items"
        ))
    }

    /// A refusal, under the wasi:nn code that comes nearest to it.
    #[cfg(feature = "native")]
    pub(crate) fn refused(refusal: EngineRefusal, message: impl Into<String>) -> Self {
        let code = match refusal {
            EngineRefusal::QueueFull
            | EngineRefusal::NotReady
            | EngineRefusal::Shed
            | EngineRefusal::Ended => ErrorCode::RuntimeError,
            EngineRefusal::Deadline | EngineRefusal::Gone => ErrorCode::Timeout,
            EngineRefusal::RowsDepend => ErrorCode::UnsupportedOperation,
        };
        Self {
            code,
            message: message.into(),
            refusal: Some(refusal),
            retry_after: None,
        }
    }

    /// The same error, with the time to retry.
    #[cfg(feature = "native")]
    #[must_use]
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl fmt::Display for NnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for NnError {}

/// The longest text from outside (a guest's tensor name, a backend's message) that an error repeats.
const MAX_QUOTED_CHARS: usize = 80;

/// `text` for an error message: quoted, control characters escaped, cut at a bound, because the
/// text may be a megabyte a guest made up.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// The longest list of names an error spells out.
const MAX_LISTED: usize = 12;

/// Names for an error message: quoted, separated by commas, cut at a bound.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (index, name) in names.enumerate() {
        if index == MAX_LISTED {
            text.push_str(", …");
            break;
        }
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(&quoted(name));
    }
    if text.is_empty() { "none".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_megabyte_of_name_is_cut_before_it_enters_a_message() {
        let long = "é".repeat(1 << 20);
        assert!(quoted(&long).len() < 4 * MAX_QUOTED_CHARS);
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
    }

    #[test]
    fn a_long_list_of_names_is_cut() {
        let names: Vec<String> = (0..100).map(|i| format!("n{i}")).collect();
        let text = listed(names.iter().map(String::as_str));
        assert!(text.ends_with(", …"), "{text}");
        assert_eq!(listed(std::iter::empty()), "none");
    }
}
