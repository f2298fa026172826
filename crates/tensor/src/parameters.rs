//! Decides whether a parameter of the Open Inference Protocol is supported, refused or ignored. REST and gRPC use the same
//! tables.
//!
//! Clients of other servers send parameters that have no meaning here, and expect them to be ignored. A parameter is
//! refused only if ignoring it would change the result or the form of the answer.

/// The treatment of unknown members and parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// They are ignored, as Triton and KServe do.
    #[default]
    Ignore,
    /// They are refused, because most of them are misspelt.
    Refuse,
}

/// The object to which a parameter belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The request as a whole.
    Request,
    /// A request of the generate extension, whose answer is always JSON.
    Generate,
    /// One of the inputs.
    Input,
    /// One of the requested outputs.
    Output,
}

impl Of {
    /// The name of the object in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "a request",
            Self::Generate => "a generate request",
            Self::Input => "an input",
            Self::Output => "an output",
        }
    }
}

/// The supported parameters, and the objects to which they belong.
pub const TAKEN: [(&str, Of); 8] = [
    ("binary_data_output", Of::Request),
    ("priority", Of::Request),
    ("timeout", Of::Request),
    ("priority", Of::Generate),
    ("timeout", Of::Generate),
    ("binary_data_size", Of::Input),
    ("binary_data", Of::Output),
    ("classification", Of::Output),
];

/// A parameter of other servers that would change the result and is not supported here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSupported {
    /// The name of the parameter.
    pub name: &'static str,
    /// The only value that is refused. `None` refuses every value except 0, `false` and the empty string.
    pub value: Option<&'static str>,
    /// A sentence with the reason and the alternative.
    pub why: &'static str,
}

const NO_STATE: &str = "this server keeps no state between calls; send the state as an input";
const NO_SHARED_MEMORY: &str =
    "this server has no shared memory; send and request tensors in the body";

/// Every parameter that is refused with `not_supported`. docs/CONFORMANCE.md repeats this table, and a test compares the two.
pub const NOT_SUPPORTED: [NotSupported; 7] = [
    NotSupported {
        name: "sequence_id",
        value: None,
        why: NO_STATE,
    },
    NotSupported {
        name: "sequence_start",
        value: None,
        why: NO_STATE,
    },
    NotSupported {
        name: "sequence_end",
        value: None,
        why: NO_STATE,
    },
    NotSupported {
        name: "shared_memory_region",
        value: None,
        why: NO_SHARED_MEMORY,
    },
    NotSupported {
        name: "shared_memory_byte_size",
        value: None,
        why: NO_SHARED_MEMORY,
    },
    NotSupported {
        name: "shared_memory_offset",
        value: None,
        why: NO_SHARED_MEMORY,
    },
    NotSupported {
        name: "content_type",
        value: Some("base64"),
        why: "this server does not decode base64 elements; send the bytes as binary data",
    },
];

/// Parameters that every call fulfils anyway: the last answer of a call is marked as the last.
pub const DONE_ANYWAY: [&str; 1] = ["triton_enable_empty_final_response"];

/// The treatment of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterCheck {
    /// The parameter is supported there.
    Taken,
    /// Ignoring it would change the result; the text says why it is not supported.
    NotSupported(&'static str),
    /// It is supported, but as a parameter of another object.
    Misplaced(Of),
    /// No object has a parameter of this name.
    Unknown,
}

/// Decides the treatment of a parameter of `of`. `asks_nothing` says that its value is 0, `false` or empty; `text` is its
/// value if that is a string.
pub fn check(name: &str, of: Of, asks_nothing: bool, text: Option<&str>) -> ParameterCheck {
    if TAKEN.contains(&(name, of)) {
        return ParameterCheck::Taken;
    }
    if let Some((_, place)) = TAKEN.iter().find(|(known, _)| *known == name) {
        return match asks_nothing {
            true => ParameterCheck::Unknown,
            false => ParameterCheck::Misplaced(*place),
        };
    }
    let refused = NOT_SUPPORTED.iter().find(|refused| refused.name == name);
    match refused {
        Some(refused) if refused.value.is_some() => match refused.value == text {
            true => ParameterCheck::NotSupported(refused.why),
            false => ParameterCheck::Unknown,
        },
        Some(refused) if !asks_nothing => ParameterCheck::NotSupported(refused.why),
        _ => ParameterCheck::Unknown,
    }
}

/// Returns whether its value matters: strict servers accept it if it asks for nothing.
pub fn is_known(name: &str) -> bool {
    DONE_ANYWAY.contains(&name)
        || TAKEN.iter().any(|(known, _)| *known == name)
        || NOT_SUPPORTED.iter().any(|refused| refused.name == name)
}

/// The supported parameters of `of`, as a list for messages.
pub fn taken(of: Of) -> String {
    let names = TAKEN.iter().filter(|(_, place)| *place == of);
    let names: Vec<&str> = names.map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_refused_only_where_leaving_it_out_would_change_the_result() {
        use ParameterCheck::*;
        for (name, of, asks_nothing, text, expected) in [
            ("priority", Of::Request, false, None, Taken),
            ("priority", Of::Input, false, None, Misplaced(Of::Request)),
            ("priority", Of::Generate, false, None, Taken),
            (
                "binary_data_output",
                Of::Generate,
                false,
                None,
                Misplaced(Of::Request),
            ),
            ("classification", Of::Output, false, None, Taken),
            (
                "classification",
                Of::Request,
                false,
                None,
                Misplaced(Of::Output),
            ),
            ("binary_data", Of::Request, true, None, Unknown),
            ("sequence_id", Of::Request, true, None, Unknown),
            (
                "sequence_id",
                Of::Request,
                false,
                None,
                NotSupported(NO_STATE),
            ),
            (
                "shared_memory_region",
                Of::Output,
                false,
                Some("x"),
                NotSupported(NO_SHARED_MEMORY),
            ),
            ("content_type", Of::Input, false, Some("np"), Unknown),
            ("content_type", Of::Input, false, None, Unknown),
            ("headers", Of::Request, false, None, Unknown),
            ("prioritty", Of::Request, false, None, Unknown),
        ] {
            assert_eq!(check(name, of, asks_nothing, text), expected, "{name}");
        }
        let base64 = check("content_type", Of::Input, false, Some("base64"));
        assert!(matches!(base64, NotSupported(_)));
    }

    #[test]
    fn no_parameter_is_both_acted_on_and_refused() {
        for refused in NOT_SUPPORTED {
            assert!(TAKEN.iter().all(|(name, _)| *name != refused.name));
        }
    }
}
