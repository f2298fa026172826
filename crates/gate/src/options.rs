//! What the query of a call asks for beside the prediction. It is read once; a fault in it ends the call only where the
//! surface comes to it, because the caller and the limits come first.

use crate::record::Request;
use crate::route::{percent_decoded, shorten};
use penstock_core::{Code, Problem};

/// The options of `:predict` and `:explain`.
#[derive(Debug)]
pub(crate) struct CallOptions {
    /// `explain`: whether the prediction is to be explained too.
    pub explain: Result<bool, Problem>,
    /// `target`: the class whose value is explained.
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
    /// Reads the query of a request. The last of several parameters of one name counts.
    pub fn of(request: &Request) -> Self {
        let (mut explain, mut target) = (Ok(None), Ok(None));
        for (name, value) in request.parameters() {
            let read = match name {
                "explain" => &mut explain,
                "target" => &mut target,
                _ => continue,
            };
            // Text that cannot be read is a fault, whatever follows it.
            if read.is_ok() {
                *read = decoded(name, value).map(Some);
            }
        }
        Self {
            explain: explain.and_then(boolean),
            target,
        }
    }

    /// Whether the call asks for an explanation beside its prediction.
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
