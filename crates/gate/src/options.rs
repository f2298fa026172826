//! Reads the options in the query of a call. The query is read once. An error in it ends the call only when the
//! surface uses the option, because authentication and limits come first.

use crate::record::Request;
use crate::route::{percent_decoded, shorten};
use penstock_core::{Code, Problem};

/// The options of `:predict` and `:explain`.
#[derive(Debug)]
pub(crate) struct CallOptions {
    /// The option `explain`: whether the answer includes an explanation of the prediction.
    pub explain: Result<bool, Problem>,
    /// The option `target`: the class to explain; `None` means the predicted class.
    pub target: Result<Option<String>, Problem>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            explain: Ok(false),
            target: Ok(None),
        }
    }
}

impl CallOptions {
    /// Reads the query of a request. The last of several parameters with the same name counts.
    pub fn of(request: &Request) -> Self {
        let (mut explain, mut target) = (Ok(None), Ok(None));
        for (name, value) in request.parameters() {
            let read = match name {
                "explain" => &mut explain,
                "target" => &mut target,
                _ => continue,
            };
            // A value that cannot be decoded is an error, even if a valid one follows.
            if read.is_ok() {
                *read = decoded(name, value).map(Some);
            }
        }
        Self {
            explain: explain.and_then(boolean),
            target,
        }
    }

    /// Returns whether the call asks for an explanation in addition to its prediction.
    pub fn explains(&self) -> bool {
        matches!(self.explain, Ok(true))
    }
}

fn decoded(name: &str, value: &str) -> Result<String, Problem> {
    percent_decoded(&value.replace('+', " ")).ok_or_else(|| {
        Problem::new(
            Code::InvalidParameter,
            format!(
                "the parameter `{name}` is `{}`, which is not valid percent-encoded UTF-8; write `%` as `%25`",
                shorten(value)
            ),
        )
    })
}

fn boolean(value: Option<String>) -> Result<bool, Problem> {
    match value.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Problem::new(
            Code::InvalidParameter,
            format!(
                "the parameter `explain` is `{}`; write true or false",
                shorten(other)
            ),
        )),
    }
}
