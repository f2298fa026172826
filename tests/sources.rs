//! Models from elsewhere, through the built program: pulled by hand, killed in the middle, pulled while a server
//! starts.

use crate::common;

use common::{Options, Server, root};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server of one file, with ranges. It sends at most this many bytes per second, and none while it is held.
struct Files {
    port: u16,
    ranges: Arc<Mutex<Vec<u64>>>,
    per_second: Arc<AtomicU64>,
    answers: Arc<AtomicUsize>,
}

impl Files {
    fn start(body: Vec<u8>, per_second: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let files = Self {
            port: listener.local_addr().unwrap().port(),
            ranges: Arc::default(),
            per_second: Arc::new(AtomicU64::new(per_second)),
            answers: Arc::default(),
        };
        let (ranges, speed, answers) = (
            files.ranges.clone(),
            files.per_second.clone(),
            files.answers.clone(),
        );
        let body = Arc::new(body);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (ranges, speed, body) = (ranges.clone(), speed.clone(), body.clone());
                answers.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || send(stream, &body, &ranges, &speed));
            }
        });
        files
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/model.onnx", self.port)
    }
}

fn send(
    mut stream: TcpStream,
    body: &[u8],
    ranges: &Mutex<Vec<u64>>,
    speed: &AtomicU64,
) -> std::io::Result<()> {
    if speed.load(Ordering::SeqCst) == DOWN {
        return Ok(());
    }
    let mut from = 0u64;
    let mut unchanged = false;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
        unchanged |= line.starts_with("if-none-match:");
        if line.is_empty() {
            break;
        }
    }
    if unchanged {
        return stream.write_all(b"HTTP/1.1 304 X\r\nConnection: close\r\nETag: \"a\"\r\n\r\n");
    }
    ranges.lock().unwrap().push(from);
    let total = body.len() as u64;
    let head = match from {
        0 => format!("HTTP/1.1 200 X\r\nContent-Length: {total}\r\n"),
        _ => format!(
            "HTTP/1.1 206 X\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{total}\r\n",
            total - from,
            total - 1
        ),
    };
    stream.write_all(format!("{head}Connection: close\r\nETag: \"a\"\r\n\r\n").as_bytes())?;
    for chunk in body[from as usize..].chunks(16 << 10) {
        while speed.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        stream.write_all(chunk)?;
        let pause = chunk.len() as f64 / speed.load(Ordering::SeqCst).max(1) as f64;
        std::thread::sleep(Duration::from_secs_f64(pause));
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read(&mut [0; 16]).map(|_| ())
}

const FAST: u64 = 1 << 40;
/// The server closes every connection.
const DOWN: u64 = u64::MAX;

fn models(command: &str, folder: &Path, policy: &Path) -> Command {
    let mut built = Command::new(env!("CARGO_BIN_EXE_penstock"));
    built
        .args(["models", command])
        .arg("--models")
        .arg(folder.join("models"))
        .arg("--policy")
        .arg(policy);
    built.arg("--state-dir").arg(folder.join("state"));
    for variable in [
        "PENSTOCK_MODELS",
        "PENSTOCK_POLICY",
        "PENSTOCK_STATE_DIR",
        "HF_ENDPOINT",
        "HF_TOKEN",
    ] {
        built.env_remove(variable);
    }
    built
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Lists every file below a folder, hidden ones too.
fn all(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => found.extend(all(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn a_pull_that_is_killed_anywhere_leaves_no_half_model_and_goes_on() {
    let body: Vec<u8> = (0..6_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let files = Files::start(body.clone(), 20_000_000);
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("penstock.toml");
    let mut pull = models("pull", folder.path(), &policy);
    pull.arg(files.url())
        .args(["--name", "m"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let graph = folder.path().join("models/m/1/model.onnx");
    let mut kills = 0;
    // At many moments: while it connects, downloads, writes and installs.
    for delay_ms in (0..400).step_by(20) {
        let mut child = pull.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        let killed = child.kill().is_ok();
        let ended = child.wait().unwrap();
        kills += usize::from(killed && !ended.success());
        let there = folder.path().join("models/m/1").exists();
        if there {
            assert!(
                std::fs::read(&graph).unwrap() == body,
                "half a model after {delay_ms} ms"
            );
        }
    }
    assert!(kills > 3, "{kills} pulls were killed before they were done");
    files.per_second.store(FAST, Ordering::SeqCst);
    let done = pull
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", text(&done));
    assert!(std::fs::read(&graph).unwrap() == body);
    let ranges = files.ranges.lock().unwrap().clone();
    assert!(
        ranges.iter().any(|from| *from > 0),
        "none went on where another ended: {ranges:?}"
    );
    let left: Vec<_> = all(&folder.path().join("models"));
    assert_eq!(left.len(), 2, "{left:?}");
    let verified = models("verify", folder.path(), &policy).output().unwrap();
    assert!(
        verified.status.success() && text(&verified).contains("good"),
        "{}",
        text(&verified)
    );
}

#[test]
fn pulled_models_are_listed_verified_and_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let identity = root().join("models/identity");
    let graph = std::fs::read(identity.join("1/model.onnx")).unwrap();
    let files = Files::start(graph.clone(), FAST);
    let policy = folder.path().join("penstock.toml");
    std::fs::write(
        &policy,
        format!(
            "[[models.sources]]\nname = \"identity\"\nfrom = \"{}\"\n[[models.sources]]\nname = \"web\"\nfrom = \"{}\"\nversion = 3\n",
            identity.display(),
            files.url()
        ),
    )
    .unwrap();
    let run = |command: &str, more: &[&str]| {
        let output = models(command, folder.path(), &policy)
            .args(more)
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    };
    let (good, said) = run("verify", &[]);
    assert!(!good && said.matches("missing").count() == 2, "{said}");
    let (good, said) = run("pull", &[]);
    assert!(
        good && said.contains("to pin it: --sha256")
            && said.contains("the source has no model.toml"),
        "{said}"
    );
    let (good, said) = run("list", &["--sources"]);
    assert!(
        good && said.contains("identity") && said.contains("there"),
        "{said}"
    );
    let (good, said) = run("verify", &["--json"]);
    assert!(good, "{said}");
    let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["model"], &first["state"]),
        (&json!("identity"), &json!("good"))
    );
    // Nothing to remove. Then one more model, which no setting names and whose folder was removed.
    let (good, said) = run("prune", &[]);
    assert!(good && said.contains("removed 0 files"), "{said}");
    let other = folder.path().join("other.onnx");
    std::fs::write(&other, vec![5; 300_000]).unwrap();
    let (good, said) = run("pull", &[other.to_str().unwrap()]);
    assert!(good, "{said}");
    let (_, said) = run("prune", &[]);
    assert!(
        said.contains("removed 0 files"),
        "what is installed stays: {said}"
    );
    std::fs::remove_dir_all(folder.path().join("models/other")).unwrap();
    let (_, said) = run("prune", &["--dry-run"]);
    assert!(
        said.contains("would remove 1 files and free 300.0 kB"),
        "{said}"
    );
    let (_, said) = run("prune", &[]);
    assert!(said.contains("removed 1 files"), "{said}");
    // A changed graph fails, an edited contract does not.
    let contract = folder.path().join("models/identity/model.toml");
    let mut edited = std::fs::read_to_string(&contract).unwrap();
    edited.push_str("# mine\n");
    std::fs::write(&contract, edited).unwrap();
    let (good, said) = run("verify", &[]);
    assert!(good && said.contains("model.toml was edited"), "{said}");
    let graph_path = folder.path().join("models/web/3/model.onnx");
    let mut changed = graph;
    changed[10] ^= 1;
    std::fs::remove_file(&graph_path).unwrap();
    std::fs::write(&graph_path, changed).unwrap();
    let (good, said) = run("verify", &[]);
    assert!(
        !good && said.contains("web version 3: model.onnx has the SHA-256"),
        "{said}"
    );
    for (typed, words) in [
        (&["pull", "ftp://x/y"][..], "unknown scheme"),
        (&["pull", "https://u:p@h/x.onnx"], "credentials_env"),
        (&["pull", "https://h.example/", "--name", "a b"], "letters"),
        (
            &["pull", "x.onnx", "--sha256", "12"],
            "64 hexadecimal digits",
        ),
        (
            &["pull", "x.onnx", "--version", "0"],
            "whole numbers from 1",
        ),
        (&["pull", "/no/such/file.onnx"], "No such file"),
    ] {
        let (good, said) = run(typed[0], &typed[1..]);
        assert!(!good && said.contains(words), "{typed:?}: {said}");
    }
}

fn ready(server: &Server) -> (u16, String) {
    let answer = server.get("/ready");
    (
        answer.status,
        String::from_utf8_lossy(&answer.bytes).into_owned(),
    )
}

#[test]
fn a_server_pulls_its_models_while_others_already_answer_and_ready_tells() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let identity = root().join("models/identity");
    std::fs::create_dir_all(models.join("there/1")).unwrap();
    for file in ["model.toml", "1/model.onnx"] {
        std::fs::copy(identity.join(file), models.join("there").join(file)).unwrap();
    }
    let mut archive = Vec::new();
    for file in ["model.toml", "1/model.onnx"] {
        let bytes = std::fs::read(identity.join(file)).unwrap();
        archive.extend(tar_entry(file, &bytes));
    }
    archive.extend([0; 1024]);
    let files = Files::start(archive, 0);
    // A source that does not answer must delay nothing.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let policy = format!(
        "[[models.sources]]\nname = \"pulled\"\nfrom = \"{}\"\n[[models.sources]]\nname = \"never\"\nfrom = \"http://{}/x.onnx\"\n\
         [models.pull]\ncache = \"{}\"\nidle_timeout_ms = 60000\ntimeout_ms = 3000\n",
        files.url(),
        nobody.local_addr().unwrap(),
        folder.path().join("cache").display()
    );
    let server = Server::start_with(Options {
        models: Some(models.clone()),
        policy_text: Some(policy),
        ..Options::default()
    });
    let call = json!({ "inputs": [{ "name": "a", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4] }] });
    let infer = |model: &str| {
        let body = serde_json::to_vec(&call).unwrap();
        server
            .post(
                &format!("/v2/models/{model}/infer"),
                "application/json",
                &body,
            )
            .status
    };
    assert_eq!(infer("there"), 200, "while the other is pulled");
    assert_eq!(infer("pulled"), 404);
    let (status, said) = ready(&server);
    assert!(
        status == 503 && said.contains("the server is pulling model"),
        "{status} {said}"
    );
    files.per_second.store(FAST, Ordering::SeqCst);
    server.until("the pulled model serves", || infer("pulled") == 200);
    server.until("the server is ready", || ready(&server).0 == 200);
    let log = server.log.lock().unwrap().join("\n");
    assert!(log.contains("model never version 1: not pulled"), "{log}");
    drop(server);

    // The network is gone: the files in the cache serve.
    std::fs::remove_dir_all(models.join("pulled")).unwrap();
    let gone = format!(
        "[[models.sources]]\nname = \"pulled\"\nfrom = \"{}\"\n[models.pull]\ncache = \"{}\"\nidle_timeout_ms = 1000\ntimeout_ms = 3000\n",
        files.url(),
        folder.path().join("cache").display()
    );
    files.per_second.store(DOWN, Ordering::SeqCst);
    let server = Server::start_with(Options {
        models: Some(models),
        policy_text: Some(gone),
        ..Options::default()
    });
    let again = |model: &str| {
        let body = serde_json::to_vec(&call).unwrap();
        server
            .post(
                &format!("/v2/models/{model}/infer"),
                "application/json",
                &body,
            )
            .status
    };
    server.until("the model of the cache serves", || again("pulled") == 200);
}

fn tar_entry(name: &str, body: &[u8]) -> Vec<u8> {
    let mut head = [0u8; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[100..107].copy_from_slice(b"0000644");
    head[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
    head[136..147].copy_from_slice(b"00000000000");
    head[148..156].copy_from_slice(b"        ");
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut entry = head.to_vec();
    entry.extend(body);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}
