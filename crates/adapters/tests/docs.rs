//! Holds docs/ADAPTERS.md against the adapters and the members of their configurations.

use penstock_adapters::{Adapter, Builtin, NAMES};
use std::collections::BTreeSet;
use std::path::Path;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ADAPTERS.md");
    std::fs::read_to_string(path).expect("docs/ADAPTERS.md is there")
}

/// The names between backquotes in the first cells of the tables of a section.
fn documented(section: &str) -> BTreeSet<String> {
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// The members that an adapter names when its configuration has one that it does not know.
fn known(adapter: &str) -> Option<BTreeSet<String>> {
    let said = Builtin::open(adapter, br#"{"unknown_here": 1}"#).err()?;
    let (_, list) = said.split_once("unknown field `unknown_here`, expected ")?;
    Some(
        list.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
    )
}

#[test]
fn every_adapter_is_documented_and_every_documented_adapter_exists() {
    let page = page();
    let (_, table) = page
        .split_once("| adapter | takes | answers |")
        .expect("the table");
    let (table, _) = table.split_once("\n\n").expect("the table ends");
    let names: BTreeSet<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(documented(table), names);
}

#[test]
fn every_member_of_a_configuration_is_documented() {
    let page = page();
    let mut checked = 0;
    for adapter in NAMES {
        let Some(known) = known(adapter) else {
            continue;
        };
        let heading = |line: &&str| {
            line.strip_prefix("## ")
                .is_some_and(|names| names.split(", ").any(|name| name == *adapter))
        };
        let title = page.lines().find(heading);
        let title = title.unwrap_or_else(|| panic!("docs/ADAPTERS.md has no section {adapter}"));
        let (_, section) = page
            .split_once(&format!("\n{title}\n"))
            .expect("the section");
        let section = section.split("\n## ").next().unwrap_or_default();
        let documented = documented(section);
        // The server gives these two, from files that `[adapter]` names.
        let given = ["tokenizer", "model_config"];
        let missing: Vec<_> = known
            .iter()
            .filter(|name| !documented.contains(*name) && !given.contains(&name.as_str()))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/ADAPTERS.md omits {missing:?} of {adapter}"
        );
        checked += 1;
    }
    assert!(checked >= 6, "only {checked} adapters name their members");
}
