//! Decides the store of each label: the runtime configuration, in Spin's form and read strictly. The manifest says
//! which labels a component may open, and this file says which stores they are, because the manifest travels with the
//! application and this file belongs to the machine.
//!
//! ```toml
//! [key_value_store.default]
//! type = "redis"                  # spin | penstock | redis | memory
//! url_env = "SESSIONS_REDIS"      # or url = "redis://…"
//! durability = "answer"           # or "write"
//! ```
//!
//! Without the file, `default` is a durable store in the state directory, as in Spin, and `counters` is in memory.
//! `models` is the host's own label, and no file may define it.

use crate::document::{Reader, Section, Text};
use crate::finding::{self, Finding, Lines, SourceLocation};
use crate::manifest::StoreLabel;
use penstock_core::model_store;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The largest file that is read. It has a few lines for each label. The limit keeps a wrong path from being read
/// whole.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The table of the stores.
const STORES: &str = "key_value_store";

/// Settings of Spin's file that this host does not use.
const NOT_SERVED: [&str; 14] = [
    "state_dir",
    "log_dir",
    "max_instance_memory",
    "sqlite_database",
    "llm_compute",
    "variables_provider",
    "config_provider",
    "client_tls",
    "outbound_networking",
    "outbound_http",
    "outbound_redis",
    "outbound_pg",
    "outbound_mysql",
    "outbound_mqtt",
];

/// The type of Spin's own store: a file if `path` is set, otherwise memory.
const SPIN: &str = "spin";
/// The type of Penstock's embedded store.
const PENSTOCK: &str = "penstock";
const REDIS: &str = "redis";
const MEMORY: &str = "memory";
const TYPES: [&str; 4] = [SPIN, PENSTOCK, REDIS, MEMORY];

/// The suffix of our file for the path of a file that Spin would use. Spin's file is SQLite's and ours is not, so the
/// same configuration must not lead both to the same file.
const BESIDE_SPIN: &str = "penstock";

/// The store of each label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The stores by the label with which components open them.
    pub stores: BTreeMap<String, StoreConfig>,
}

/// The store of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The place in the file, or `None` for a default.
    pub place: Option<(PathBuf, SourceLocation)>,
    /// The kind of store, with its settings.
    pub kind: StoreKind,
    /// The moment at which written data are durable.
    pub durability: Durability,
}

/// A kind of store, with everything that is needed to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A durable store of this machine.
    Embedded {
        /// Its file, relative to the working directory. The folder may not exist yet.
        path: PathBuf,
    },
    /// A store in the memory of this process, empty at each start.
    Memory {
        /// Most entries, or `None` for the store's own limit.
        max_entries: Option<u64>,
        /// Most bytes of names and values, or `None` for the store's own limit.
        max_bytes: Option<u64>,
    },
    /// A server of Redis or Valkey.
    Redis {
        /// The URL of the server, or the variable that has it.
        url: RedisUrl,
    },
}

/// The URL of a Redis server. Neither form shows a password when it is printed.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisUrl {
    /// The URL is written in the file.
    Literal(String),
    /// The URL is in an environment variable of this name.
    Environment(String),
}

/// The moment at which written data are durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Before the answer leaves: one wait per request, shared with others.
    #[default]
    Answer,
    /// Before the write returns, for components that send data in other ways than their answer.
    Write,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "durable before an answer leaves",
            Self::Write => "durable before a write returns",
        })
    }
}

impl RedisUrl {
    /// Returns the URL, with its password.
    ///
    /// # Errors
    ///
    /// If the environment variable is not set.
    pub fn resolve(&self) -> Result<String, String> {
        match self {
            Self::Literal(url) => Ok(url.clone()),
            Self::Environment(name) => std::env::var(name).map_err(|_| {
                format!("the environment variable {name}, which `url_env` names, is not set")
            }),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(url) => f.write_str(&without_credentials(url)),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// A URL with `…` in place of user, password and query, where secrets are.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    // A password may contain an unescaped @, so the last one counts.
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{credentials}{place}")
}

impl RuntimeConfig {
    /// The configuration without a file.
    pub fn defaults(state_dir: &Path) -> Self {
        let mut config = Self {
            stores: BTreeMap::new(),
        };
        config.complete(state_dir);
        config
    }

    /// Adds the defaults to the content of the file.
    fn complete(&mut self, state_dir: &Path) {
        let defaults = [
            (
                "default",
                StoreKind::Embedded {
                    path: state_dir.join("default.kv"),
                },
            ),
            (
                "counters",
                StoreKind::Memory {
                    max_entries: None,
                    max_bytes: None,
                },
            ),
        ];
        for (label, kind) in defaults {
            self.stores.entry(label.to_owned()).or_insert(StoreConfig {
                place: None,
                kind,
                durability: Durability::default(),
            });
        }
    }

    /// Reads a file, or returns the defaults if none is named. Relative paths in it start from the state directory.
    ///
    /// # Errors
    ///
    /// All faults, in the order of the file.
    pub fn load(file: Option<&Path>, state_dir: &Path) -> Result<Self, Vec<Finding>> {
        let Some(file) = file else {
            return Ok(Self::defaults(state_dir));
        };
        let text = read(file).map_err(|finding| vec![finding])?;
        Self::parse(file, &text, state_dir)
    }

    /// Reads the text of a file. `file` is its source and is not opened.
    ///
    /// # Errors
    ///
    /// All faults, in the order of the file.
    pub fn parse(file: &Path, text: &str, state_dir: &Path) -> Result<Self, Vec<Finding>> {
        let lines = Lines::new(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let finding = |error: &toml::de::Error| {
                Finding::error(
                    file,
                    error.span().map(|span| lines.place(span.start)),
                    format!("this is not TOML: {}", error.message()),
                    "correct the syntax here; the rest of the file was not checked",
                )
            };
            let mut findings: Vec<Finding> = errors.iter().map(finding).collect();
            finding::sort(&mut findings);
            return Err(findings);
        }
        let mut reader = Reader {
            file,
            root: state_dir,
            lines,
            findings: Vec::new(),
            warnings: Vec::new(),
        };
        let mut config = reader.runtime_config(document.get_ref());
        if reader.findings.is_empty() {
            config.complete(state_dir);
            reader.distinct_files(&config);
        }
        if reader.findings.is_empty() {
            return Ok(config);
        }
        finding::sort(&mut reader.findings);
        Err(reader.findings)
    }

    /// Checks that each granted label has a store.
    ///
    /// # Errors
    ///
    /// A finding for each label without one, at the place where the manifest `file` grants it.
    pub fn covers(&self, file: &Path, granted: &[StoreLabel]) -> Result<(), Vec<Finding>> {
        let own = [model_store::LABEL];
        let known = || self.stores.keys().map(String::as_str).chain(own);
        let findings: Vec<Finding> = granted
            .iter()
            .filter(|label| !own.contains(&label.name.as_str()))
            .filter(|label| !self.stores.contains_key(&label.name))
            .map(|label| {
                let name = &label.name;
                let remedy = match finding::nearest(name, known()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!(
                        "add [{STORES}.{name}] to the file that --runtime-config-file names; \
                         configured are {}",
                        finding::list(known())
                    ),
                };
                let message = format!("no store is configured for the label `{name}`");
                Finding::error(file, Some(label.place), message, remedy)
            })
            .collect();
        if findings.is_empty() {
            Ok(())
        } else {
            Err(findings)
        }
    }

    /// Returns the problems that would prevent opening these labels on this machine now, although the configuration is
    /// valid.
    pub fn warnings(&self, granted: &[StoreLabel]) -> Vec<Finding> {
        let mut warnings = Vec::new();
        for (label, store) in &self.stores {
            let StoreKind::Redis { url } = &store.kind else {
                continue;
            };
            let (Err(problem), Some((file, place))) = (url.resolve(), &store.place) else {
                continue;
            };
            if granted.iter().any(|granted| granted.name == *label) {
                warnings.push(Finding::warning(
                    file,
                    Some(*place),
                    format!("store `{label}` cannot be opened here: {problem}"),
                    "set it where the server runs",
                ));
            }
        }
        warnings
    }
}

fn read(file: &Path) -> Result<String, Finding> {
    let refused = |problem: String, remedy: &str| Finding::about(file, problem, remedy);
    let unreadable = |error: std::io::Error| {
        refused(
            format!("the runtime configuration cannot be read ({error})"),
            "correct --runtime-config-file, or leave it out for the defaults",
        )
    };
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(refused(
            "the runtime configuration is not a file".to_owned(),
            "name the file itself",
        ));
    }
    if metadata.len() > MAX_CONFIG_BYTES {
        return Err(refused(
            format!(
                "the runtime configuration is {} bytes long; at most {MAX_CONFIG_BYTES} are read",
                metadata.len()
            ),
            "name the runtime configuration, not another file",
        ));
    }
    std::fs::read_to_string(file).map_err(unreadable)
}

impl Reader<'_> {
    fn runtime_config(&mut self, document: &DeTable<'_>) -> RuntimeConfig {
        let root = Section {
            name: "the runtime configuration".to_owned(),
            table: document,
            span: 0..0,
        };
        for (key, _) in document {
            let written: &str = key.get_ref();
            if NOT_SERVED.contains(&written) {
                let remedy = match written {
                    "state_dir" => "remove it, and use --state-dir",
                    _ => "remove it",
                };
                self.not_served(&key.span(), &format!("`{written}`"), remedy);
            } else if written != STORES {
                let remedy = match finding::nearest(written, [STORES]) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("remove it; stores are under [{STORES}.<label>]"),
                };
                let message = format!("unknown field `{written}` in {}", root.name);
                self.error(&key.span(), message, remedy);
            }
        }
        let mut stores = BTreeMap::new();
        if let Some(section) = self.subsection(&root, STORES, format!("[{STORES}]")) {
            for (key, value) in section.table {
                let label: &str = key.get_ref();
                let name = format!("[{STORES}.{label}]");
                let Some(entry) = self.section(name, value, key.span()) else {
                    continue;
                };
                if label == model_store::LABEL {
                    self.error(
                        &entry.span,
                        format!("the label `{label}` is reserved for this host's model index"),
                        "use another label, here and in key_value_stores",
                    );
                    continue;
                }
                if let Some(store) = self.store(&entry) {
                    stores.insert(label.to_owned(), store);
                }
            }
        }
        RuntimeConfig { stores }
    }

    /// Reads the store of a label, or returns `None` if a finding gives the reason.
    fn store(&mut self, section: &Section<'_>) -> Option<StoreConfig> {
        let before = self.findings.len();
        if !section.table.contains_key("type") {
            self.error(
                &section.span,
                format!("{} has no `type`", section.name),
                format!("add `type = \"…\"`, one of {}", finding::list(TYPES)),
            );
        }
        let kind = self.string(section, "type")?;
        let own: &[&str] = match kind.value {
            SPIN | PENSTOCK => &["path"],
            REDIS => &["url", "url_env"],
            MEMORY => &["max_entries", "max_bytes"],
            other => {
                let remedy = match finding::nearest(other, TYPES) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("the types are {}", finding::list(TYPES)),
                };
                let message = format!("`{other}` is not a store type");
                self.error(&kind.span, message, remedy);
                return None;
            }
        };
        let known: Vec<&str> = ["type", "durability"].iter().chain(own).copied().collect();
        self.only(section, &known);
        let durability = self.durability(section);
        let kind = match kind.value {
            REDIS => self.redis(section),
            MEMORY => Some(StoreKind::Memory {
                max_entries: self.count(section, "max_entries"),
                max_bytes: self.count(section, "max_bytes"),
            }),
            spin_or_penstock => self.embedded(section, spin_or_penstock),
        };
        let store = StoreConfig {
            place: Some((self.file.to_owned(), self.place(&section.span))),
            kind: kind?,
            durability,
        };
        (self.findings.len() == before).then_some(store)
    }

    fn embedded(&mut self, section: &Section<'_>, kind: &str) -> Option<StoreKind> {
        let path = self.string(section, "path");
        match path {
            Some(path) if path.value.is_empty() => {
                let message = format!("`path` in {} is empty", section.name);
                self.error(&path.span, message, "write the path of the store's file");
                None
            }
            Some(path) => {
                let mut path = self.root.join(path.value);
                if kind == SPIN {
                    path.as_mut_os_string().push(format!(".{BESIDE_SPIN}"));
                }
                Some(StoreKind::Embedded { path })
            }
            None if section.table.contains_key("path") => None,
            // As in Spin.
            None if kind == SPIN => Some(StoreKind::Memory {
                max_entries: None,
                max_bytes: None,
            }),
            None => {
                self.error(
                    &section.span,
                    format!("{} has no `path`", section.name),
                    "add `path = \"….kv\"`, or write `type = \"memory\"`",
                );
                None
            }
        }
    }

    fn redis(&mut self, section: &Section<'_>) -> Option<StoreKind> {
        let literal = self.string(section, "url");
        let variable = self.string(section, "url_env");
        let url = match (literal, variable) {
            (Some(literal), None) => {
                self.check_redis_url(&literal);
                RedisUrl::Literal(literal.value.to_owned())
            }
            (None, Some(name)) if name.value.is_empty() || name.value.contains(['=', '\0']) => {
                let message = format!("`url_env` in {} names no variable", section.name);
                let remedy = "write the name of an environment variable that holds the URL";
                self.error(&name.span, message, remedy);
                return None;
            }
            (None, Some(name)) => RedisUrl::Environment(name.value.to_owned()),
            (Some(_), Some(name)) => {
                let message = format!("{} has a `url` and a `url_env`", section.name);
                self.error(&name.span, message, "keep one of the two");
                return None;
            }
            (None, None) => {
                if !section.table.contains_key("url") && !section.table.contains_key("url_env") {
                    self.error(
                        &section.span,
                        format!("{} does not say where the server is", section.name),
                        "add `url = \"redis://…\"`, or `url_env = \"NAME\"` to keep it out of the file",
                    );
                }
                return None;
            }
        };
        Some(StoreKind::Redis { url })
    }

    fn check_redis_url(&mut self, url: &Text<'_>) {
        let host = ["redis://", "rediss://"]
            .iter()
            .find_map(|scheme| url.value.strip_prefix(scheme));
        if host.is_none_or(str::is_empty) {
            // The text is not shown: a value that is not a URL may be a password.
            self.error(
                &url.span,
                "`url` is not of the form redis://host:port or rediss://host:port",
                "write the URL of the server, with user and password if it needs them",
            );
        }
    }

    fn durability(&mut self, section: &Section<'_>) -> Durability {
        let Some(text) = self.string(section, "durability") else {
            return Durability::default();
        };
        match text.value {
            "answer" => Durability::Answer,
            "write" => Durability::Write,
            other => {
                self.error(
                    &text.span,
                    format!("`{other}` is not a durability"),
                    "write `answer` (the default) or `write`",
                );
                Durability::default()
            }
        }
    }

    /// A number of at least one.
    fn count(&mut self, section: &Section<'_>, field: &str) -> Option<u64> {
        let value: &Spanned<DeValue<'_>> = section.table.get(field)?;
        let what = format!("`{field}` in {}", section.name);
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(value, &what, "a whole number");
            return None;
        };
        let read = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
        match read {
            Ok(read) if read > 0 => Some(read),
            _ => {
                let span: Range<usize> = value.span();
                self.error(&span, format!("{what} is out of range"), "write at least 1");
                None
            }
        }
    }

    /// Two labels must not share a file, because it can be opened once.
    fn distinct_files(&mut self, config: &RuntimeConfig) {
        let mut seen: BTreeMap<&Path, &str> = BTreeMap::new();
        for (label, store) in &config.stores {
            let StoreKind::Embedded { path } = &store.kind else {
                continue;
            };
            let Some(earlier) = seen.insert(path, label) else {
                continue;
            };
            // One of the two may be a default, which has no place.
            let other = config.stores[earlier].place.clone();
            let place = store.place.clone().or(other).map(|(_, place)| place);
            self.findings.push(Finding::error(
                self.file,
                place,
                format!(
                    "the stores `{earlier}` and `{label}` share the file `{}`",
                    path.display()
                ),
                "give each its own `path`",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RuntimeConfig, Vec<Finding>> {
        RuntimeConfig::parse(Path::new("runtime.toml"), text, Path::new("state"))
    }

    /// Asserts that a text has exactly one finding, on this line, that says this.
    #[track_caller]
    fn refused(text: &str, line: usize, said: &str) {
        let findings = parse(text).expect_err(text);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        let shown = findings[0].to_string();
        assert!(shown.contains(said), "expected `{said}` in\n{shown}");
        assert_eq!(findings[0].line, Some(line), "{shown}");
        assert!(!findings[0].remedy.is_empty(), "{shown}");
    }

    fn label(name: &str) -> StoreLabel {
        StoreLabel {
            place: SourceLocation { line: 9, column: 5 },
            name: name.to_owned(),
        }
    }

    #[test]
    fn every_type_is_read() {
        let config = parse(
            r#"
[key_value_store.default]
type = "spin"
path = "sqlite_key_value.db"

[key_value_store.passing]
type = "spin"

[key_value_store.own]
type = "penstock"
path = "/var/lib/own.kv"
durability = "write"

[key_value_store.shared]
type = "redis"
url = "redis://user:secret@there:6379/1?password=secret"

[key_value_store.secret]
type = "redis"
url_env = "SOMEWHERE"

[key_value_store.counters]
type = "memory"
max_entries = 1_000
max_bytes = 0x10_0000
durability = "answer"
"#,
        )
        .expect("a configuration");
        let kind = |label: &str| config.stores[label].kind.clone();
        let memory = |max_entries, max_bytes| StoreKind::Memory {
            max_entries,
            max_bytes,
        };
        let embedded = |path: &str| StoreKind::Embedded { path: path.into() };
        assert_eq!(
            kind("default"),
            embedded("state/sqlite_key_value.db.penstock"),
            "Spin's file is left alone"
        );
        assert_eq!(kind("passing"), memory(None, None), "as in Spin");
        assert_eq!(kind("own"), embedded("/var/lib/own.kv"));
        assert_eq!(kind("counters"), memory(Some(1000), Some(1 << 20)));
        assert_eq!(config.stores["own"].durability, Durability::Write);
        assert_eq!(config.stores["counters"].durability, Durability::Answer);
        assert_eq!(
            kind("secret"),
            StoreKind::Redis {
                url: RedisUrl::Environment("SOMEWHERE".into())
            }
        );
        let shown = format!("{config:?} {:?}", kind("shared"));
        assert!(shown.contains("redis://…@there:6379/1"), "{shown}");
        assert!(!shown.contains("secret@"), "{shown}");
        assert!(!shown.contains("password"), "{shown}");
    }

    #[test]
    fn without_a_file_or_an_entry_the_defaults_hold() {
        let defaults = RuntimeConfig::load(None, Path::new("state")).expect("the defaults");
        assert_eq!(defaults, parse("").expect("an empty file"));
        let labels: Vec<&String> = defaults.stores.keys().collect();
        assert_eq!(labels, ["counters", "default"]);
        assert_eq!(
            defaults.stores["default"].kind,
            StoreKind::Embedded {
                path: "state/default.kv".into()
            }
        );
    }

    #[test]
    #[rustfmt::skip] // One case a line.
    fn each_mistake_is_found_with_its_line_and_a_remedy() {
        let store = |lines: &str| format!("[key_value_store.a]\n{lines}\n");
        for (text, line, said) in [
            (store("type = \"memory\"\nmax_entry = 1"), 3, "did you mean `max_entries`?"),
            (store("type = \"memory\"\npath = \"x\""), 3, "unknown field `path`"),
            (store("type = \"memory\"\nmax_bytes = 0"), 3, "out of range"),
            (store("type = \"memory\"\nmax_bytes = \"1\""), 3, "a whole number was expected"),
            (store("type = \"radis\""), 2, "did you mean `redis`?"),
            (store("type = \"azure_cosmos\""), 2, "`azure_cosmos` is not a store type"),
            (store("type = 1"), 2, "a string was expected"),
            (store("path = \"x\""), 1, "has no `type`"),
            (store("type = \"penstock\""), 1, "has no `path`"),
            (store("type = \"penstock\"\npath = \"\""), 3, "is empty"),
            (store("type = \"redis\""), 1, "does not say where the server is"),
            (store("type = \"redis\"\nurl = \"redis://a\"\nurl_env = \"A\""), 4, "keep one of the two"),
            (store("type = \"redis\"\nurl = \"hunter2\""), 3, "redis://host:port"),
            (store("type = \"redis\"\nurl_env = \"\""), 3, "names no variable"),
            (store("type = \"memory\"\ndurability = \"never\""), 3, "`never` is not a durability"),
            ("[key_value_stores.a]\ntype = \"memory\"\n".into(), 1, "did you mean `key_value_store`?"),
            ("[sqlite_database.a]\ntype = \"spin\"\n".into(), 1, "not served by this host yet"),
            ("state_dir = \"x\"\n".into(), 1, "--state-dir"),
            ("key_value_store = 1\n".into(), 1, "a table was expected"),
            ("[key_value_store\n".into(), 1, "not TOML"),
            (store("type = \"penstock\"\npath = \"default.kv\""), 1, "share the file"),
            ("[key_value_store.models]\ntype = \"memory\"\n".into(), 1, "reserved for this host's model index"),
        ] {
            refused(&text, line, said);
        }
        let findings = parse(&store("type = \"redis\"\nurl = \"hunter2\"")).unwrap_err();
        assert!(!findings[0].to_string().contains("hunter2"), "a password is never shown");
        let all = parse("oops = 1\n[key_value_store.a]\ntype = \"x\"\n[key_value_store.b]\n");
        assert_eq!(all.unwrap_err().len(), 3, "all that is wrong is found at once");
    }

    #[test]
    fn a_granted_label_must_stand_for_something() {
        let config = parse("").expect("the defaults");
        let granted = [
            label("default"),
            label("counter"),
            label("sessions"),
            label("models"),
        ];
        let findings = config
            .covers(Path::new("spin.toml"), &granted)
            .expect_err("two are not configured");
        let shown: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert!(shown[0].starts_with("spin.toml:9:5: error: no store is configured"));
        assert!(shown[0].contains("did you mean `counters`?"), "{shown:?}");
        assert!(shown[1].contains("[key_value_store.sessions]"), "{shown:?}");
        assert_eq!(config.covers(Path::new("spin.toml"), &granted[..1]), Ok(()));
    }

    #[test]
    fn a_variable_that_is_not_set_is_a_warning_where_its_store_is_granted() {
        let config = parse(
            "[key_value_store.a]\ntype = \"redis\"\nurl_env = \"PENSTOCK_TEST_NOT_SET_ANYWHERE\"",
        )
        .expect("a configuration");
        assert_eq!(config.warnings(&[label("default")]), []);
        let warnings = config.warnings(&[label("a")]);
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].line, Some(1));
    }
}
