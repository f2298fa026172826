//! Rules for the source of every crate: no import circles between the files of a crate, no long functions, no long files;
//! every file of tests runs.
//!
//! There are no exceptions, and every folder of `crates` with a `src` is checked. Functions of tests are functions. Lines of
//! files in `src` are counted without the code under `#[cfg(test)]`, those of files of tests as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The most lines of a function, from its `fn` to its closing brace.
const MAX_FUNCTION_LINES: usize = 150;
/// The most lines of a file: in `src` without its tests, in `tests` with everything.
const MAX_FILE_LINES: usize = 900;

#[test]
fn the_files_of_a_crate_do_not_import_each_other_in_a_circle() {
    let (mut checked, mut found) = (0, Vec::new());
    for entry in std::fs::read_dir(crates()).unwrap() {
        let folder = entry.unwrap().path().join("src");
        if !folder.is_dir() {
            continue;
        }
        checked += 1;
        for group in circles(&Modules::read(&folder).imports()) {
            found.push((folder.display().to_string(), group));
        }
    }
    assert!(checked > 10, "{checked} crates");
    assert!(
        found.is_empty(),
        "files that import each other in a circle: {found:#?}"
    );
}

#[test]
fn no_function_and_no_file_is_too_long() {
    let repository = crates().parent().unwrap().to_owned();
    let of_tests = test_files(&repository);
    assert!(of_tests.len() > 100, "{} files of tests", of_tests.len());
    let (mut functions, mut files) = (Vec::new(), Vec::new());
    for path in sources(&crates()).into_iter().chain(of_tests) {
        let place = path.strip_prefix(&repository).unwrap();
        let name = place.display();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = match Source::read(&path) {
            Some(source) if is_source(place) => source.lines(),
            _ => text.lines().count(),
        };
        if lines > MAX_FILE_LINES {
            files.push(format!("{name}: {lines} lines"));
        }
        for (function, lines) in Source::with_tests(&text).functions() {
            if lines > MAX_FUNCTION_LINES {
                functions.push(format!("{name}: {function}: {lines} lines"));
            }
        }
    }
    assert!(
        files.is_empty(),
        "files with more than {MAX_FILE_LINES} lines; split each by subject: {files:#?}"
    );
    assert!(
        functions.is_empty(),
        "functions with more than {MAX_FUNCTION_LINES} lines; move sections and tables out: {functions:#?}"
    );
}

#[test]
fn a_function_of_tests_has_its_lines_counted() {
    let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {\n        \"}\";\n    }\n}\n";
    let lines = |source: Source| source.functions();
    assert_eq!(lines(Source::new(text)), [("f".to_owned(), 1)]);
    let both = [("f".to_owned(), 1), ("g".to_owned(), 3)];
    assert_eq!(lines(Source::with_tests(text)), both);
}

/// Cargo finds no tests by itself where `autotests = false`. There, a file that no binary names would never run.
#[test]
fn every_file_of_tests_is_a_binary_or_a_module_of_one() {
    let packages = std::fs::read_dir(crates()).unwrap();
    let packages = packages.map(|entry| entry.unwrap().path());
    let mut checked = 0;
    for package in packages.chain([crates().parent().unwrap().to_owned()]) {
        let manifest = std::fs::read_to_string(package.join("Cargo.toml")).unwrap();
        if !manifest.contains("\nautotests = false\n") {
            continue;
        }
        let declared = manifest.split("\n[[test]]\nname = \"").skip(1);
        let binaries: Vec<&str> = declared.filter_map(|rest| rest.split('"').next()).collect();
        let file = |stem: &str| package.join("tests").join(stem).with_extension("rs");
        let roots = binaries.iter().map(|binary| {
            let root = file(binary);
            std::fs::read_to_string(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        });
        let roots: Vec<String> = roots.collect();
        for entry in std::fs::read_dir(package.join("tests")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let module = format!("mod {stem};");
            let modules = roots.iter().flat_map(|root| root.lines());
            let times = modules.filter(|line| *line == module).count()
                + usize::from(binaries.contains(&stem));
            assert!(
                times == 1,
                "{} belongs to {times} test binaries, expected 1: add `{module}` to {}, or a [[test]] to Cargo.toml",
                path.display(),
                file(binaries[0]).display()
            );
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked} files");
}

#[test]
fn a_circle_is_found_through_a_re_export_and_a_tree_has_none() {
    let modules = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(name, text)| {
            let parts = name.split("::").filter(|part| !part.is_empty());
            (parts.map(str::to_owned).collect(), Source::new(text))
        });
        Modules(files.collect())
    };
    let group = |names: &[&str]| -> Vec<Vec<String>> {
        vec![names.iter().map(|&name| name.to_owned()).collect()]
    };
    let tree = [
        ("", "mod a;\nmod b;\npub use a::A;"),
        ("a", "use crate::b::{self, B};\npub struct A;"),
        (
            "b",
            "/// See [`crate::a`].\npub struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }",
        ),
    ];
    assert_eq!(
        circles(&modules(&tree).imports()),
        Vec::<Vec<String>>::new()
    );
    let circle = [
        ("", "mod a;\nmod b;\npub use a::A;"),
        ("a", "use crate::{b::{B}};\npub struct A;"),
        ("b", "use crate::A;\npub struct B;"),
    ];
    assert_eq!(circles(&modules(&circle).imports()), group(&["a", "b"]));
    let parent = [
        ("", "mod a;"),
        ("a", "mod b;\nfn f() { b::g() }"),
        ("a::b", "pub fn g() { super::f() }"),
    ];
    assert_eq!(circles(&modules(&parent).imports()), group(&["a", "a::b"]));
    let resolved = [
        ("", "mod a;"),
        ("a", "mod b;\nmod c;\npub use c::C;\nfn f() { b::g() }"),
        ("a::b", "use super::C;\npub fn g() {}"),
        ("a::c", "pub struct C;"),
    ];
    assert_eq!(
        circles(&modules(&resolved).imports()),
        Vec::<Vec<String>>::new()
    );
}

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The Rust files in the `src` folders below a folder.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut found = rust_files(root);
    found.retain(|path| is_source(path));
    found
}

/// Whether a file is in a `src` folder.
fn is_source(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "src")
}

/// The Rust files in `tests` of the repository and of each crate.
fn test_files(repository: &Path) -> Vec<PathBuf> {
    let packages = std::fs::read_dir(crates()).unwrap();
    let folders = packages.map(|entry| entry.unwrap().path().join("tests"));
    let folders = folders.filter(|folder| folder.is_dir());
    let folders = folders.chain([repository.join("tests")]);
    folders.flat_map(|folder| rust_files(&folder)).collect()
}

/// The Rust files below a folder, sorted.
fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            // A link to a folder above would never end.
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path, without the colons between its segments.
type Segments = Vec<String>;

/// The text of a file without comments and literals, and mostly without tests. Lines stay where they are.
struct Source(String);

impl Source {
    /// Reads a file; `None` for one that holds tests only.
    fn read(path: &Path) -> Option<Self> {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "tests" || name.ends_with("_tests") {
            return None;
        }
        Some(Self::new(&std::fs::read_to_string(path).unwrap()))
    }

    fn new(text: &str) -> Self {
        // A visibility names a module without importing it.
        let text = without_tests(&without_literals(text));
        let mut parts = text.split("pub(in ");
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            plain += "pub ";
            plain += part.split_once(')').map_or(part, |(_, rest)| rest);
        }
        Self(plain)
    }

    /// The same with the code under `#[cfg(test)]`.
    fn with_tests(text: &str) -> Self {
        Self(without_literals(text))
    }

    fn lines(&self) -> usize {
        self.0.trim_end().lines().count()
    }

    /// The functions, each with its lines.
    fn functions(&self) -> Vec<(String, usize)> {
        let text = &self.0;
        let mut found = Vec::new();
        for (at, _) in text.match_indices("fn ") {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let name: String = text[at + 3..].chars().take_while(|c| is_word(*c)).collect();
            let mut depth = 0;
            let body = text[at..].char_indices().find(|(_, c)| {
                depth += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
                depth == 0 && matches!(c, '{' | ';')
            });
            if let (false, Some((offset, '{'))) = (name.is_empty(), body) {
                let end = closing(text, at + offset);
                found.push((name, text[at..end].lines().count()));
            }
        }
        found
    }

    /// The paths that are used and those that are re-exported, each as its segments, with the name it gets here.
    fn paths(&self) -> (Vec<Segments>, Vec<(Segments, String)>) {
        let (mut used, mut exported) = (Vec::new(), Vec::new());
        let mut rest = String::with_capacity(self.0.len());
        let mut text = self.0.as_str();
        while let Some(at) = find_word(text, "use") {
            let end = at + text[at..].find(';').unwrap_or(text.len() - at);
            let line = text[..at]
                .rsplit(['\n', ';', '}'])
                .next()
                .unwrap_or_default();
            let mut paths = Vec::new();
            expand(&text[at + 3..end], &mut Vec::new(), &mut paths);
            match line.contains("pub") {
                true => exported.extend(paths),
                false => used.extend(paths.into_iter().map(|(path, _)| path)),
            }
            rest.push_str(&text[..at]);
            text = &text[end..];
        }
        rest.push_str(text);
        let words = rest.split(|c: char| !is_word(c) && c != ':');
        let inline = words.filter(|word| word.contains("::"));
        let segments = |word: &str| word.split("::").map(str::to_owned).collect();
        used.extend(inline.map(|word| segments(word.trim_matches(':'))));
        (used, exported)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the position of a whole word.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let alone = |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && after.is_some_and(char::is_whitespace)
    };
    let mut places = text.match_indices(word);
    places.find(|(at, _)| alone(*at)).map(|(at, _)| at)
}

/// The end of the braces that open at `open`.
fn closing(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (offset, c) in text[open..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return open + offset + 1;
        }
    }
    text.len()
}

/// The paths of a `use`, without its braces.
fn expand(tree: &str, prefix: &mut Vec<String>, found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => (path, group.rsplit_once('}').map(|(group, _)| group)),
        None => (tree, None),
    };
    let before = prefix.len();
    let (path, alias) = match path.split_once(" as ") {
        Some((path, alias)) => (path, Some(alias.trim().to_owned())),
        None => (path, None),
    };
    let segments = path.split("::").map(str::trim);
    let segments = segments.filter(|segment| !segment.is_empty());
    prefix.extend(segments.map(str::to_owned));
    match group {
        None => {
            if prefix.last().is_some_and(|last| last == "self") && prefix.len() > 1 {
                prefix.pop();
            }
            let name = alias.or_else(|| prefix.last().cloned()).unwrap_or_default();
            found.push((prefix.clone(), name));
        }
        Some(group) => {
            let (mut depth, mut from) = (0, 0);
            for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
                depth += i32::from(c == '{') - i32::from(c == '}');
                if c == ',' && depth == 0 {
                    let part = &group[from..at];
                    from = at + 1;
                    if !part.trim().is_empty() {
                        expand(part, prefix, found);
                    }
                }
            }
        }
    }
    prefix.truncate(before);
}

/// Replaces comments and literals by blanks.
fn without_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |kept: &mut String, range: &[char]| {
        kept.extend(range.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    };
    while at < chars.len() {
        let rest = &chars[at..];
        let word_before = at > 0 && is_word(chars[at - 1]);
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => {
                let end = rest.windows(2).position(|two| two == ['*', '/']);
                end.map_or(rest.len(), |end| end + 2)
            }
            ['r', '"' | '#', ..] | ['b', 'r', ..] if !word_before => raw_string(rest),
            ['"', ..] => string(rest),
            ['\'', '\\', ..] => 4 + rest[3..].iter().position(|c| *c == '\'').unwrap_or(0),
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        match length {
            0 => {
                kept.push(chars[at]);
                at += 1;
            }
            length => {
                blank(&mut kept, &rest[..length.min(rest.len())]);
                at += length;
            }
        }
    }
    kept
}

/// The length of the string that begins here.
fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += 1 + usize::from(rest[at] == '\\');
    }
    at + 1
}

/// The length of the raw string that begins here; 0 where none does.
fn raw_string(rest: &[char]) -> usize {
    let begin = 1 + usize::from(rest[0] == 'b');
    let hashes = rest[begin..].iter().take_while(|c| **c == '#').count();
    if rest.get(begin + hashes) != Some(&'"') {
        return 0;
    }
    let mut end = vec!['"'];
    end.resize(1 + hashes, '#');
    let from = begin + hashes + 1;
    let found = rest[from..].windows(end.len()).position(|w| w == end);
    found.map_or(rest.len(), |at| from + at + end.len())
}

/// Removes the items that stand under `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let end = match rest[at..].find(['{', ';']) {
            Some(offset) if rest[at + offset..].starts_with('{') => closing(rest, at + offset),
            Some(offset) => at + offset + 1,
            None => rest.len(),
        };
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

/// The modules of a crate by their path; the root's is empty.
struct Modules(BTreeMap<Vec<String>, Source>);

impl Modules {
    fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for path in sources(root) {
            let Some(source) = Source::read(&path) else {
                continue;
            };
            let below = path.strip_prefix(root).unwrap().with_extension("");
            let parts = below.components().map(|part| part.as_os_str());
            let mut name: Vec<String> = parts.map(|p| p.to_str().unwrap().to_owned()).collect();
            name.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
            modules.insert(name, source);
        }
        Self(modules)
    }

    /// Returns the imports of each module. The root is left out: it declares and re-exports all of them.
    fn imports(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut exports = BTreeMap::new();
        let mut uses = BTreeMap::new();
        for (module, source) in &self.0 {
            let (used, exported) = source.paths();
            for (path, name) in exported {
                exports.insert((module.clone(), name), path);
            }
            uses.insert(module, used);
        }
        let mut imports = BTreeMap::new();
        for (module, used) in uses {
            let targets: &mut BTreeSet<String> = imports.entry(module.join("::")).or_default();
            for path in used {
                let target = self.absolute(module, &path);
                let target = target.map(|path| self.owner(&path, &exports, 0));
                if let Some(target) = target
                    && target != *module
                    && !target.is_empty()
                {
                    targets.insert(target.join("::"));
                }
            }
        }
        imports.remove("");
        imports
    }

    /// A path from the root of the crate; `None` for one into another crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = module.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            child => {
                base.push(child.to_owned());
                let is_child = self.0.contains_key(&base);
                base.pop();
                if !is_child {
                    return None;
                }
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The module that defines the item of a path.
    fn owner(
        &self,
        path: &[String],
        exports: &BTreeMap<(Vec<String>, String), Vec<String>>,
        depth: usize,
    ) -> Vec<String> {
        let mut module = Vec::new();
        for segment in path {
            let exported = exports.get(&(module.clone(), segment.clone()));
            module.push(segment.clone());
            if self.0.contains_key(&module) {
                continue;
            }
            module.pop();
            // A re-export leads to where its own path does.
            if let Some(target) = exported.and_then(|target| self.absolute(&module, target))
                && depth < 8
            {
                return self.owner(&target, exports, depth + 1);
            }
            break;
        }
        module
    }
}

/// Groups of modules of which each leads to each of the others.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&String> = imports[from].iter().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(imports.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = imports
        .keys()
        .map(|module| (module, reached(module)))
        .collect();
    let mut groups = BTreeSet::new();
    for (module, all) in &reached {
        if all.contains(*module) {
            let back = |other: &&String| reached.get(other).is_some_and(|r| r.contains(*module));
            groups.insert(all.iter().filter(back).cloned().collect::<Vec<String>>());
        }
    }
    groups.into_iter().collect()
}
