//! Runs docs/tutorial.md like a reader: writes its files, runs its commands in order, and compares their output.

use crate::common;

use common::root;
use penstock_testkit::free_port;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A fenced block of the page.
enum Block {
    /// A file to write: its path is in the first line.
    File { path: String, text: String },
    /// The command `penstock up`. It replaces the running server, if there is one.
    Serve,
    /// Commands, and their output if the page shows it.
    Commands {
        text: String,
        prints: Option<String>,
    },
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut fences = page.split("```");
    // The text between fences is prose.
    while let (Some(_), Some(block)) = (fences.next(), fences.next()) {
        let (language, text) = block.split_once('\n').expect("a fence ends its line");
        match language {
            "sh" if text == "penstock up\n" => blocks.push(Block::Serve),
            "sh" => blocks.push(Block::Commands {
                text: text.to_owned(),
                prints: None,
            }),
            "toml" => {
                let path = text.lines().next().and_then(|line| line.strip_prefix("# "));
                let path = path.expect("a file of the tutorial begins with its path");
                blocks.push(Block::File {
                    path: path.to_owned(),
                    text: text.to_owned(),
                });
            }
            "" => match blocks.last_mut() {
                Some(Block::Commands { prints, .. }) if prints.is_none() => {
                    *prints = Some(text.to_owned());
                }
                _ => panic!("what is printed follows commands: {text}"),
            },
            other => panic!("the tutorial has no blocks of {other:?}"),
        }
    }
    blocks
}

/// Returns whether a text matches the page, where `…` stands for any text, also over several lines, and white space does not
/// count.
fn shows(shown: &str, printed: &str) -> bool {
    let dense = |text: &str| -> String { text.split_whitespace().collect() };
    let (shown, printed) = (dense(shown), dense(printed));
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A server that ends with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    for (name, _) in std::env::vars() {
        // The environment of the person who runs the tests must not change them.
        if name.starts_with("PENSTOCK_") || name.starts_with("SPIN_VARIABLE_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .args(["-c", script]);
    command
}

/// The files that a reader has after `scripts/up`: the manifest, the components, the program and the models of the
/// repository.
fn checkout(folder: &Path) {
    use std::os::unix::fs::symlink;
    let program = Path::new(env!("CARGO_BIN_EXE_penstock"));
    let digits = folder.join("models/digits/1");
    std::fs::create_dir_all(&digits).unwrap();
    std::fs::create_dir_all(folder.join("target")).unwrap();
    symlink(root().join("spin.toml"), folder.join("spin.toml")).unwrap();
    symlink(root().join("build"), folder.join("build")).unwrap();
    symlink(program.parent().unwrap(), folder.join("target/release")).unwrap();
    for file in ["model.toml", "1/model.onnx"] {
        let from = root().join("models/digits").join(file);
        std::fs::copy(from, folder.join("models/digits").join(file)).unwrap();
    }
}

#[test]
fn every_command_of_the_tutorial_works_and_prints_what_the_page_shows() {
    let folder = tempfile::tempdir().unwrap();
    checkout(folder.path());
    let page = std::fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    // The tutorial names ports, so the server cannot choose them in this test.
    let (port, admin_port) = (free_port(), free_port());
    let moved = |text: &str| text.replace("127.0.0.1:3000", &format!("127.0.0.1:{port}"));
    let mut serving: Option<Serving> = None;
    // Variables that the reader's shell keeps from one block to the next.
    let environment = folder.path().join("environment");
    std::fs::write(&environment, "").unwrap();
    let mut commands = 0;
    for block in blocks(&page) {
        match block {
            Block::File { path, text } => {
                std::fs::write(folder.path().join(path), text).unwrap();
            }
            Block::Serve => {
                drop(serving.take());
                let log = std::fs::File::create(folder.path().join("server.log")).unwrap();
                let script = format!(
                    "exec target/release/penstock up --listen 127.0.0.1:{port} --admin-listen 127.0.0.1:{admin_port}"
                );
                let child = shell(folder.path(), &script)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(log)
                    .spawn()
                    .expect("the server starts");
                serving = Some(Serving(child));
                let begun = Instant::now();
                let is_ready = format!("curl -sf -o /dev/null http://127.0.0.1:{port}/ready");
                while !shell(folder.path(), &is_ready).status().unwrap().success() {
                    assert!(
                        begun.elapsed() < Duration::from_secs(240),
                        "the server is not ready:\n{}",
                        std::fs::read_to_string(folder.path().join("server.log")).unwrap()
                    );
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            Block::Commands { text, prints } => {
                let script = format!(
                    "exec 2>&1; set -a; . {env}; set -eo pipefail\n{}\nexport -p > {env}",
                    moved(&text),
                    env = environment.display(),
                );
                let output = shell(folder.path(), "timeout 120 bash -c \"$SCRIPT\"")
                    .env("SCRIPT", script)
                    .env("PENSTOCK_ADMIN", format!("http://127.0.0.1:{admin_port}"))
                    .output()
                    .expect("bash runs");
                let printed = String::from_utf8_lossy(&output.stdout);
                assert!(
                    output.status.success(),
                    "{text}\n{printed}\n{}",
                    String::from_utf8_lossy(&output.stderr)
                );
                if let Some(shown) = prints {
                    assert!(
                        shows(&shown, &printed),
                        "{text}\nprints\n{printed}\nnot\n{shown}"
                    );
                }
                commands += 1;
            }
        }
    }
    assert!(
        commands > 12,
        "only {commands} blocks of commands were found"
    );
}

#[test]
fn an_ellipsis_stands_for_anything_and_the_rest_is_compared() {
    assert!(shows("a … c", "a b\n c"));
    assert!(shows("a …", "a"));
    assert!(shows("{\"a\":…,\n \"b\":1}", "{\"a\":2,\"b\":1}"));
    assert!(!shows("a … c", "a b d"));
    assert!(!shows("a", "a b"));
    assert!(!shows("…1…2", "2 1"));
}
