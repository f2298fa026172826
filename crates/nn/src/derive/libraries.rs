//! Questions about operators that no backend has. Only the operator of a server knows the library that has them.

use std::collections::{BTreeMap, BTreeSet};

use penstock_tensor::contract::MAX_OPERATOR_LIBRARIES;

use crate::error::{listed, quoted};

/// Longest proposed name of a library, in characters.
const MAX_ENTRY_CHARS: usize = 60;

/// The domains of the package onnxruntime-extensions.
const EXTENSIONS: [&str; 2] = ["ai.onnx.contrib", "com.microsoft.extensions"];

/// One question for each domain, with the setting that answers it.
pub(super) fn questions(foreign: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let domains = foreign.iter().take(MAX_OPERATOR_LIBRARIES);
    domains
        .map(|(domain, operators)| {
            let known = match EXTENSIONS.contains(&domain.as_str()) {
                true => "onnxruntime-extensions has operators of this domain (docs/TYPES.md). ",
                false => "",
            };
            format!(
                "Which library has the operators of the domain {} ({})? No backend has them. {known}Give its file in the \
                 server's settings, under [models.operators]: {} = \"/path/to/library.so\". Then remove the marks before \
                 [engine].",
                quoted(domain),
                listed(operators.iter().map(String::as_str)),
                entry(domain)
            )
        })
        .collect()
}

/// The proposed names under `[models.operators]`.
pub(super) fn entries(foreign: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let domains = foreign.keys().take(MAX_OPERATOR_LIBRARIES);
    let entries: BTreeSet<String> = domains.map(|domain| entry(domain)).collect();
    entries.into_iter().collect()
}

/// The proposed name of the library for a domain. It is a key of TOML without quotes.
fn entry(domain: &str) -> String {
    if EXTENSIONS.contains(&domain) {
        return "extensions".into();
    }
    let plain = domain.chars().map(|c| match c.is_ascii_alphanumeric() {
        true => c,
        false => '_',
    });
    plain.take(MAX_ENTRY_CHARS).collect()
}
