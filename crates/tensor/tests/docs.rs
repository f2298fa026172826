//! Holds the reference of model.toml in docs/ against the members that a contract may have.

use penstock_tensor::contract::Contract;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The first fenced block of TOML after some text of a page.
fn example(page: &str, after: &str) -> String {
    let (_, rest) = page
        .split_once(after)
        .unwrap_or_else(|| panic!("no {after:?}"));
    let (_, rest) = rest.split_once("```toml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("the example ends");
    example.to_owned()
}

/// The members of each table of an example: `inputs`, `batching.padding`, and `` for those of none.
fn members(example: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables = BTreeMap::<String, BTreeSet<String>>::new();
    let mut table = String::new();
    for line in example.lines() {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_start_matches('[');
            table = header.split(']').next().unwrap_or_default().to_owned();
            tables.entry(table.clone()).or_default();
        } else if let Some((name, _)) = line.split_once(" = ")
            && !name.starts_with([' ', '#'])
        {
            tables
                .entry(table.clone())
                .or_default()
                .insert(name.to_owned());
        }
    }
    tables
}

/// The members that the contract's parser names when it finds one that it does not know.
fn known(table: &str) -> BTreeSet<String> {
    let text = match table {
        "" => "unknown_here = 1\n".to_owned(),
        "samples" => "[[samples]]\ninputs = { x = 1 }\nunknown_here = 1\n".to_owned(),
        "inputs" | "outputs" | "explain.groups" => {
            format!("[[{table}]]\nunknown_here = 1\n")
        }
        _ => format!("[{table}]\nunknown_here = 1\n"),
    };
    let faults = Contract::parse(&text).expect_err("an unknown member is a fault");
    let fault = faults
        .iter()
        .find(|fault| fault.message.contains("no member \"unknown_here\""))
        .unwrap_or_else(|| panic!("{table}: {faults:?}"));
    let (_, list) = fault
        .remedy
        .split_once("use one of: ")
        .expect("the members");
    list.trim_end_matches('.')
        .split(", ")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_member_of_a_contract_is_documented_and_every_documented_member_exists() {
    let mut documented = members(&example(
        &page("SETTINGS.md"),
        "## `models/<name>/model.toml`",
    ));
    documented.extend(members(&example(&page("POLICIES.md"), "## Explanations")));
    let tables: BTreeSet<String> = documented.keys().cloned().collect();
    let mut wrong = Vec::new();
    for (table, members) in &documented {
        // Names of the operator's own: axes, steps, categories.
        if matches!(
            table.as_str(),
            "axes" | "pipeline" | "moderation.categories"
        ) {
            continue;
        }
        // `[[outputs]]` is documented together with `[[inputs]]`.
        for member in known(table) {
            let path = match table.as_str() {
                "" => member.clone(),
                table => format!("{table}.{member}"),
            };
            if !members.contains(&member) && !tables.contains(&path) && path != "outputs" {
                wrong.push(format!("docs/ omit `{member}` of the table `{table}`"));
            }
        }
        let known = match table.as_str() {
            "inputs" => known("inputs").union(&known("outputs")).cloned().collect(),
            table => known(table),
        };
        let unknown: Vec<_> = members.difference(&known).collect();
        if !unknown.is_empty() {
            wrong.push(format!("docs/ invent {unknown:?} in the table `{table}`"));
        }
    }
    assert!(wrong.is_empty(), "model.toml:\n{}", wrong.join("\n"));
}
