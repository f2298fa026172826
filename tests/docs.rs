//! Compares the reference documents with the program: docs/SETTINGS.md with the policy file that the server reads,
//! docs/POLICIES.md with the scopes and its own examples, and docs/COMMANDS.md with `--help`.

use crate::common;

use common::root;
use penstock_host::settings::Settings;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::Command;

/// The tables of a policy file: the name of each in docs/SETTINGS.md, and a table with all required settings.
const TABLES: &[(&str, &str)] = &[
    ("", ""),
    ("server", "[server]"),
    (
        "tls",
        "[tls]\ncertificate = \"c.pem\"\nprivate_key = \"k.pem\"\nclient_ca = \"a.pem\"",
    ),
    ("audit", "[audit]\npath = \"audit.jsonl\""),
    ("instances", "[instances]"),
    ("admin", "[admin]"),
    ("metrics", "[metrics]"),
    ("models", "[models]"),
    (
        "models.sources[]",
        "[[models.sources]]\nname = \"m\"\nfrom = \"https://models.example/m.onnx\"",
    ),
    ("models.pull", "[models.pull]"),
    ("auth", "[auth]\nstore_failure_grace_ms = 3600000"),
    ("auth.anonymous", "[auth.anonymous]"),
    ("auth.api_keys", "[auth.api_keys]"),
    ("auth.signatures", "[auth.signatures]"),
    ("auth.tiers.<name>", "[auth.tiers.t]"),
    (
        "auth.issuers[]",
        "[auth.tiers.t]\n[[auth.issuers]]\nname = \"i\"\nissuer = \"i\"\naudiences = [\"a\"]\n\
         algorithms = [\"RS256\"]\njwks_file = \"keys.json\"\ntenant = \"t\"\ntier = \"t\"",
    ),
    (
        "auth.certificates[]",
        "[auth.tiers.t]\n[[auth.certificates]]\nname = \"dns:a\"\ntenant = \"t\"\ntier = \"t\"\nscopes = [\"predict\"]",
    ),
    (
        "auth.models[]",
        "[[auth.models]]\nmodels = [\"m\"]\ntenants = [\"t\"]",
    ),
    (
        "limits[]",
        "[[limits]]\nname = \"l\"\nlimit = 1\nwindow_s = 2678400",
    ),
    ("backoff", "[backoff]"),
    ("idempotency", "[idempotency]\nlease_ms = 1000"),
    ("usage", "[usage]"),
    ("operations", "[operations]"),
    ("batches", "[batches]"),
    ("webhooks", "[webhooks]"),
    (
        "webhooks.tenants[]",
        "[[webhooks.tenants]]\ntenant = \"t\"\nurl = \"https://hooks.example/\"\nsecrets_file = \"t.secret\"",
    ),
    (
        "usage.alerts[]",
        "[[usage.alerts]]\nname = \"a\"\nunit = \"items\"\nthreshold = 1",
    ),
    ("validation", "[validation]"),
    ("cors", "[cors]"),
    ("cache[]", "[[cache]]\nmodel = \"m\"\nmax_bytes = 67108864"),
    ("disclosure[]", "[[disclosure]]\ntop = 3"),
];

/// Returns the algorithm of a setting of `[[limits]]` that only one algorithm has.
fn algorithm_of(setting: &str) -> Option<&'static str> {
    Some(match setting {
        "burst" => "algorithm = \"token-bucket\"",
        "max_wait_ms" => "algorithm = \"leaky-bucket\"",
        "lease_s" => "algorithm = \"concurrency\"",
        "period" => "algorithm = \"calendar\"",
        "time_zone" => "algorithm = \"calendar\"\nperiod = \"day\"",
        _ => return None,
    })
}

/// Returns a policy file with one table that is complete except for `setting`, with `line` in its place.
fn policy(table: &str, setting: &str, line: &str) -> String {
    let (_, base) = TABLES
        .iter()
        .find(|(name, _)| *name == table)
        .unwrap_or_else(|| panic!("tests/docs.rs does not know the table `{table}`"));
    let mut lines: Vec<&str> = base.lines().collect();
    let names = |line: &str| line.starts_with(&format!("{setting} ="));
    lines.retain(|line| !names(line));
    if table == "limits[]"
        && let Some(algorithm) = algorithm_of(setting)
    {
        if algorithm.contains("calendar") || algorithm.contains("concurrency") {
            lines.retain(|line| !line.starts_with("window_s"));
        }
        lines.extend(algorithm.lines().filter(|line| !names(line)));
    }
    lines.push(line);
    lines.join("\n")
}

/// Returns the settings that the server reads from a policy file, or all its faults.
fn read(text: &str) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("penstock.toml");
    std::fs::write(&path, text).unwrap();
    Settings::load(&path).map_err(|findings| {
        let messages = findings.iter().map(|finding| finding.to_string());
        messages.collect::<Vec<_>>().join("\n")
    })
}

fn page(name: &str) -> String {
    let path = root().join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A row of a table of docs/SETTINGS.md.
struct Row {
    /// The part `auth.issuers[]` of `auth.issuers[].name`.
    table: String,
    /// The part `name` of `auth.issuers[].name`.
    setting: String,
    default: String,
    values: String,
}

fn rows() -> Vec<Row> {
    let page = page("SETTINGS.md");
    let mut rows = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        inside = match line.starts_with('|') {
            true => inside || line.starts_with("| setting | default | values | meaning |"),
            false => false,
        };
        let cells: Vec<&str> = line.split(" | ").collect();
        let Some(name) = cells[0].strip_prefix("| `").filter(|_| inside) else {
            continue;
        };
        assert_eq!(cells.len(), 4, "{line}");
        let name = name.trim_end_matches('`');
        let (table, setting) = name.rsplit_once('.').unwrap_or(("", name));
        rows.push(Row {
            table: table.to_owned(),
            setting: setting.to_owned(),
            default: cells[1].to_owned(),
            values: cells[2].to_owned(),
        });
    }
    assert!(rows.len() > 100, "only {} rows were found", rows.len());
    rows
}

/// The names between backquotes in a text.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The names that a message lists as possible, after `before`.
fn listed(message: &str, before: &str) -> Option<BTreeSet<String>> {
    let (_, list) = message.split_once(before)?;
    let list = list.lines().next()?.split(", and after").next()?;
    let words = list.split(|c: char| c == ',' || c == '`' || c.is_whitespace());
    let words = words.filter(|word| !matches!(*word, "" | "one" | "of" | "or" | "and"));
    Some(words.map(str::to_owned).collect())
}

#[test]
fn every_setting_is_documented_and_every_documented_setting_exists() {
    let rows = rows();
    for (table, _) in TABLES {
        let refused = read(&policy(table, "", "unknown_here = 1"))
            .expect_err("an unknown setting is refused");
        let known = listed(&refused, "unknown field `unknown_here`, expected ");
        let known = known.unwrap_or_else(|| panic!("{table}: {refused}"));
        let documented: BTreeSet<String> = rows
            .iter()
            .filter(|row| row.table == *table)
            .map(|row| row.setting.clone())
            .collect();
        // `[server]` itself needs no row: its settings have theirs.
        let missing: Vec<_> = known
            .iter()
            .filter(|name| {
                let path = if table.is_empty() {
                    (*name).clone()
                } else {
                    format!("{table}.{name}")
                };
                !documented.contains(*name) && !TABLES.iter().any(|(table, _)| *table == path)
            })
            .collect();
        assert!(
            missing.is_empty(),
            "docs/SETTINGS.md omits {missing:?} of `{table}`"
        );
        let unknown: Vec<_> = documented.difference(&known).collect();
        assert!(
            unknown.is_empty(),
            "docs/SETTINGS.md invents {unknown:?} in `{table}`"
        );
    }
    for row in &rows {
        assert!(
            TABLES.iter().any(|(table, _)| *table == row.table),
            "docs/SETTINGS.md has a table `{}` that tests/docs.rs does not know",
            row.table
        );
    }
}

#[test]
fn every_documented_default_is_the_default() {
    for Row {
        table,
        setting,
        default,
        ..
    } in rows()
    {
        let at = format!("{table}.{setting}");
        if default == "required" {
            let refused = read(&policy(&table, &setting, ""));
            assert!(refused.is_err(), "{at} is documented as required");
            continue;
        }
        let Some(literal) = default
            .strip_prefix('`')
            .and_then(|rest| rest.strip_suffix('`'))
        else {
            continue;
        };
        if setting == literal || literal.contains('`') {
            continue;
        }
        // If a policy must contain a table, the table with the setting is empty.
        let given = format!("{setting} = {literal}");
        let (Ok(without), Ok(with)) = (
            read(&policy(&table, &setting, "")),
            read(&policy(&table, &setting, &given)),
        ) else {
            // The setting alone is incomplete, such as a name of a time zone.
            assert!(
                !literal.starts_with(['"', '0', '1']),
                "{at} = {literal} is refused"
            );
            continue;
        };
        assert!(without == with, "the default of {at} is not {literal}");
    }
}

#[test]
fn every_documented_value_is_accepted_and_no_other() {
    let accepted = |row: &Row, value: &str| {
        read(&policy(
            &row.table,
            &row.setting,
            &format!("{} = {value}", row.setting),
        ))
    };
    let mut checked = 0;
    let wrong = RefCell::new(Vec::new());
    for row in rows() {
        let at = format!("{}.{}", row.table, row.setting);
        let values = row.values.strip_prefix("0, or ").unwrap_or(&row.values);
        let range = |least: Option<&str>, most: Option<&str>| {
            for (end, outside) in [(least, -1), (most, 1)] {
                let Some(Ok(end)) = end.map(str::parse::<i64>) else {
                    continue;
                };
                if let Err(refused) = accepted(&row, &end.to_string()) {
                    wrong
                        .borrow_mut()
                        .push(format!("{at} = {end} is documented and refused: {refused}"));
                }
                let beyond = end + outside;
                if accepted(&row, &beyond.to_string()).is_ok() {
                    wrong.borrow_mut().push(format!(
                        "{at} = {beyond} is accepted; documented is {values}"
                    ));
                }
            }
        };
        let words: Vec<&str> = values.split(' ').collect();
        match words.as_slice() {
            [least, "to", most] => range(Some(least), Some(most)),
            ["at", "least", least] => range(Some(least), None),
            ["at", "most", most] => range(None, Some(most)),
            _ if values == "`true`, `false`" => {
                for value in ["true", "false"] {
                    assert!(accepted(&row, value).is_ok(), "{at} = {value} is refused");
                }
            }
            _ if values
                .split(", ")
                .all(|value| value.starts_with('`') && value.ends_with('`'))
                && !values.contains("://") =>
            {
                let is_list = accepted(&row, "[]").is_ok() || row.setting == "algorithms";
                let one = |name: &str| match is_list {
                    true => format!("[\"{name}\"]"),
                    false => format!("\"{name}\""),
                };
                let refused = accepted(&row, &one("nothing-such")).expect_err(&at);
                let listed = ["expected ", "must be ", "methods are ", "routes are "]
                    .iter()
                    .find_map(|before| listed(&refused, before));
                let listed = listed.unwrap_or_else(|| panic!("{at}: {refused}"));
                if quoted(values) != listed {
                    wrong.borrow_mut().push(format!(
                        "{at}: documented are {values}; accepted are {listed:?}"
                    ));
                }
            }
            _ => continue,
        }
        checked += 1;
    }
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "docs/SETTINGS.md:\n{}", wrong.join("\n"));
    assert!(
        checked > 60,
        "only {checked} settings have values that can be checked"
    );
}

/// The fenced blocks of one language in a page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .collect()
}

#[test]
fn the_examples_of_the_policies_are_one_policy_that_the_server_accepts() {
    let examples = blocks(&page("POLICIES.md"), "toml");
    let of_the_policy = |block: &&String| !block.starts_with("[explain]");
    // A block that begins with the file's name is a separate policy. The others are parts of one.
    let (whole, parts): (Vec<_>, Vec<_>) = examples
        .iter()
        .filter(of_the_policy)
        .partition(|block| block.starts_with("# penstock.toml"));
    assert!(parts.len() > 7 && !whole.is_empty());
    let parts: Vec<&str> = parts.into_iter().map(String::as_str).collect();
    let parts = parts.join("\n");
    for policy in whole.into_iter().chain([&parts]) {
        if let Err(refused) = read(policy) {
            panic!("docs/POLICIES.md: {refused}\n{policy}");
        }
    }
}

#[test]
fn every_scope_is_documented() {
    let refused = read("[auth.anonymous]\nscopes = [\"nothing-such\"]").expect_err("no scope");
    let mut scopes = listed(&refused, "write one of ").expect(&refused);
    assert!(scopes.remove("*"));
    let page = page("POLICIES.md");
    let (_, table) = page
        .split_once("| scope | allows |")
        .expect("the table of scopes");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows
        .flat_map(|row| quoted(row.split(" | ").next().unwrap_or_default()))
        .collect();
    assert_eq!(
        documented, scopes,
        "the table of scopes in docs/POLICIES.md"
    );
}

fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    // Help shows the values of variables, which differ between machines.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PENSTOCK_")) {
        command.env_remove(name);
    }
    let output = command.args(arguments).arg("-h").output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{arguments:?}");
    let text = String::from_utf8(output.stdout).expect("help is UTF-8");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}

/// The names of the commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let (_, list) = help.split_once("Commands:\n").unwrap_or(("", ""));
    let lines = list.lines().take_while(|line| !line.is_empty());
    // The second line of a description is indented further.
    let lines = lines.filter(|line| !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn describe(path: &[&str], page: &mut String) {
    let help = help(path);
    let name = ["penstock"].iter().chain(path).copied().collect::<Vec<_>>();
    page.push_str(&format!("\n## `{}`\n\n```\n{help}\n```\n", name.join(" ")));
    for command in commands(&help) {
        let path: Vec<&str> = path.iter().copied().chain([command.as_str()]).collect();
        describe(&path, page);
    }
}

#[test]
fn every_command_is_documented() {
    let mut written = String::from(
        "# Commands\n\n\
         `penstock up` serves the application; the other commands prepare, check and change it. This page is what\n\
         `penstock <command> -h` prints. A test writes it: `UPDATE_DOCS=1 cargo it docs::`.\n",
    );
    describe(&[], &mut written);
    let path = root().join("docs/COMMANDS.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &written).expect("docs/COMMANDS.md is writable");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == written,
        "docs/COMMANDS.md is out of date: UPDATE_DOCS=1 cargo it docs::"
    );
}

/// The anchors that GitHub makes from the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let headings = page.lines().filter(|line| {
        in_code ^= line.starts_with("```");
        !in_code && line.starts_with('#')
    });
    headings
        .map(|heading| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            text.chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|page| root().join(page))
        .to_vec();
    for folder in ["docs", "docs/decisions"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap().flatten();
        pages.extend(entries.map(|entry| entry.path()));
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut wrong = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split_once(')').map_or("", |(link, _)| link);
            if link.contains("://") || link.is_empty() {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let is_there = target.exists()
                && (anchor.is_empty()
                    || anchors(&std::fs::read_to_string(&target).unwrap()).contains(anchor));
            if !is_there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "links that lead nowhere:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_error_that_a_document_names_with_its_status_exists() {
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("docs")).unwrap().flatten() {
        let Ok(page) = std::fs::read_to_string(entry.path()) else {
            continue;
        };
        // "429 `quota_exceeded`", also with more codes behind a comma: "401 `credentials_expired`, `credentials_revoked`".
        for (at, _) in page.match_indices(" `") {
            let before = page[..at]
                .rsplit([' ', '\n', '(', '|'])
                .next()
                .unwrap_or_default();
            let Some(status) = before
                .parse::<u16>()
                .ok()
                .filter(|n| (400..600).contains(n))
            else {
                continue;
            };
            let mut rest = &page[at + 1..];
            while let Some((code, after)) = rest.strip_prefix('`').and_then(|r| r.split_once('`')) {
                if !code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                    break;
                }
                let known = penstock_core::Code::ALL
                    .iter()
                    .find(|known| known.as_str() == code)
                    .unwrap_or_else(|| panic!("{}: no error is {code}", entry.path().display()));
                assert_eq!(known.status(), status, "{}: {code}", entry.path().display());
                checked += 1;
                rest = after.strip_prefix(", ").unwrap_or_default();
            }
        }
    }
    assert!(checked > 15, "only {checked} errors were found");
}
