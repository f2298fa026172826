//! Models that are added, changed and removed while the server runs: the effect on callers and on the process's memory.

use crate::common;

use common::{Options, Server, root};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A short interval, so that tests are fast.
const POLICY: &str = "[models]\npoll_interval_ms = 100\n";

/// A models directory for one test.
struct Models(tempfile::TempDir);

impl Models {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn serve(&self, door: &'static str, policy: &'static str) -> Server {
        Server::start_with(Options {
            models: Some(self.path()),
            door: Some(door),
            policy: Some(policy),
            ..Options::default()
        })
    }

    /// Serves with a memory budget of so many bytes.
    fn serve_within(&self, bytes: u64) -> Server {
        Server::start_with(Options {
            models: Some(self.path()),
            door: Some("direct"),
            policy_text: Some(format!("{POLICY}memory_budget_bytes = {bytes}\n")),
            ..Options::default()
        })
    }
}

fn file(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap()
}

fn digits_contract() -> String {
    String::from_utf8(file("models/digits/model.toml")).unwrap()
}

fn logged(server: &Server, text: &str) -> usize {
    let log = server.log.lock().unwrap();
    log.iter().filter(|line| line.contains(text)).count()
}

fn reloads_lose_no_request(door: &'static str) {
    let models = Models::new();
    let graph = file("models/digits/1/model.onnx");
    models.write("digits/model.toml", digits_contract());
    models.write("digits/1/model.onnx", &graph);
    let server = models.serve(door, POLICY);
    server.ready();
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let versions = Mutex::new(BTreeSet::new());
    let row = vec!["0"; 64].join(",");
    let body = format!("{{\"inputs\":{{\"pixels\":[[{row}]]}}}}");
    let ask = || {
        let answer = server.post_json("/v1/models/digits:predict", &body);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{text}");
        answer
            .header("x-model-version")
            .expect("it says which")
            .to_owned()
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // A caller that panics fails the test when the scope ends.
                while !stop.load(Ordering::SeqCst) {
                    let version = ask();
                    versions.lock().unwrap().insert(version);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let changes = || {
            assert_eq!(ask(), "1");
            // A new version, copied slowly.
            let half = graph.len() / 2;
            models.write("digits/2/model.onnx", &graph[..half]);
            std::thread::sleep(Duration::from_millis(50));
            models.write("digits/2/model.onnx", &graph);
            server.until("version 2 answers", || ask() == "2");
            // The same version with a replaced graph.
            let before = logged(&server, "version 2: ready");
            models.write("digits/2/model.onnx", &graph);
            server.until("reloaded", || logged(&server, "version 2: ready") > before);
            // A broken version: it does not answer and does not affect the others.
            models.write("digits/3/model.onnx", "not a graph");
            server.until("refused", || {
                logged(&server, "model digits: not served: ") > 0
            });
            assert_eq!(ask(), "2");
            // A broken graph replaces the good one.
            let before = logged(&server, "keeps serving");
            models.write("digits/2/model.onnx", "not a graph either");
            server.until("kept", || logged(&server, "keeps serving") > before);
            assert_eq!(ask(), "2");
            // Contracts that cannot be read, and contracts that contradict the graph.
            for broken in [
                "inputs = ".to_owned(),
                digits_contract().replace("64]", "65]"),
            ] {
                let before = logged(&server, "the new contract is not used");
                models.write("digits/model.toml", broken);
                server.until("refused", || {
                    logged(&server, "the new contract is not used") > before
                });
                assert_eq!(ask(), "2");
            }
            // A valid one: the metadata changes with it.
            let stated = "Reads a digit; changed while it served";
            let contract = digits_contract();
            let description = contract
                .lines()
                .find(|l| l.starts_with("description"))
                .unwrap();
            models.write("digits/2/model.onnx", &graph);
            models.write(
                "digits/model.toml",
                contract.replace(description, &format!("description = {stated:?}")),
            );
            server.until("the new contract is seen", || {
                String::from_utf8_lossy(&server.get("/v1/models/digits").bytes).contains(stated)
            });
            // The newest version is removed: the one before it answers.
            std::fs::remove_dir_all(models.path().join("digits/3")).unwrap();
            std::fs::remove_dir_all(models.path().join("digits/2")).unwrap();
            server.until("version 1 answers again", || ask() == "1");
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(changes));
        stop.store(true, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let (answered, versions) = (answered.into_inner(), versions.into_inner().unwrap());
    println!("{door}: {answered} answers, by versions {versions:?}, all 200");
    assert_eq!(versions, ["1".to_owned(), "2".to_owned()].into());
    assert!(answered > 50, "{answered}");
    assert_eq!(server.get("/ready").status, 200);
}

#[test]
fn reloads_lose_no_request_behind_the_direct_door() {
    reloads_lose_no_request("direct");
}

#[test]
fn reloads_lose_no_request_behind_the_http_door() {
    reloads_lose_no_request("http");
}

/// A model that picks numbers from a table of this size. The table determines its memory.
fn table(elements: usize) -> Vec<u8> {
    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    fn number(field: u64, value: u64, out: &mut Vec<u8>) {
        varint(field << 3, out);
        varint(value, out);
    }
    fn bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
        varint(field << 3 | 2, out);
        varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
    fn message(fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        fields(&mut out);
        out
    }
    const FLOAT: u64 = 1;
    const INT64: u64 = 7;
    let port = |name: &str, ty: u64| {
        let dim = message(|m| bytes(2, b"N", m));
        let shape = message(|m| bytes(1, &dim, m));
        let tensor = message(|m| {
            number(1, ty, m);
            bytes(2, &shape, m);
        });
        let ty = message(|m| bytes(1, &tensor, m));
        message(|m| {
            bytes(1, name.as_bytes(), m);
            bytes(2, &ty, m);
        })
    };
    let node = message(|m| {
        bytes(1, b"w", m);
        bytes(1, b"x", m);
        bytes(2, b"y", m);
        bytes(4, b"Gather", m);
    });
    let weights = message(|m| {
        number(1, elements as u64, m);
        number(2, FLOAT, m);
        bytes(8, b"w", m);
        // Not zeros: the system might not allocate pages for those.
        let raw: Vec<u8> = (0..elements as u32)
            .flat_map(|i| (i as f32).to_le_bytes())
            .collect();
        bytes(9, &raw, m);
    });
    let graph = message(|m| {
        bytes(1, &node, m);
        bytes(2, b"table", m);
        bytes(5, &weights, m);
        bytes(11, &port("x", INT64), m);
        bytes(12, &port("y", FLOAT), m);
    });
    let opset = message(|m| number(2, 13, m));
    message(|m| {
        number(1, 8, m);
        bytes(7, &graph, m);
        bytes(8, &opset, m);
    })
}

const TABLE: &str = r#"description = "Picks numbers out of a large table"

[[inputs]]
name = "x"
datatype = "INT64"
shape = ["N"]
minimum = 0
maximum = 100

[[outputs]]
name = "y"
datatype = "FP32"
shape = ["N"]

[engine]
lanes = 1
"#;

const MIB: usize = 1 << 20;

fn pick(server: &Server, model: &str) {
    let answer = server.post_json(
        &format!("/v1/models/{model}:predict"),
        "{\"inputs\":{\"x\":[7]}}",
    );
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    assert!(text.contains('7'), "{text}");
}

fn listed(server: &Server, model: &str) -> bool {
    server.get(&format!("/v2/models/{model}/ready")).status == 200
}

#[test]
fn one_broken_model_does_not_keep_a_server_from_being_ready_unless_it_is_required_or_the_only_one()
{
    let models = Models::new();
    let graph = file("models/digits/1/model.onnx");
    let write = |name: &str, graph: &[u8]| {
        models.write(&format!("{name}/model.toml"), digits_contract());
        models.write(&format!("{name}/1/model.onnx"), graph);
    };
    write("broken", b"no graph");
    let server = models.serve("direct", "");
    let answer = server.get("/ready");
    assert_eq!(answer.status, 503, "a new image with a broken model");
    assert_eq!(answer.json()["reason"], "every model failed to load");
    assert_eq!(server.get("/v2/health/ready").status, 503);
    drop(server);
    write("digits", &graph);
    for (policy, status) in [
        ("", 200),
        ("[models]\nrequired = [\"digits\"]\n", 200),
        ("[models]\nrequired = [\"broken\"]\n", 503),
        ("[models]\nrequired = [\"*\"]\n", 503),
    ] {
        let server = models.serve("direct", policy);
        let answer = server.get("/ready");
        assert_eq!(answer.status, status, "{policy}");
        let said = answer.json();
        let of = |name: &str| {
            let mut models = said["models"].as_array().unwrap().iter();
            models.find(|model| model["name"] == name).cloned().unwrap()
        };
        assert_eq!(of("digits")["ready"], true);
        assert_eq!(of("broken")["ready"], false);
        assert!(
            of("broken")["reason"]
                .as_str()
                .is_some_and(|r| !r.is_empty())
        );
        assert_eq!(server.get("/v2/health/ready").status, status, "{policy}");
        let listed = server.get("/v1/models").json();
        let ready: Vec<bool> = (listed["models"].as_array().unwrap().iter())
            .map(|model| model["ready"].as_bool().unwrap())
            .collect();
        assert_eq!(ready, [false, true]);
    }
}

#[test]
fn a_model_that_is_removed_gives_its_memory_back() {
    const SIZE: usize = 192 * MIB;
    let models = Models::new();
    models.write("digits/model.toml", digits_contract());
    models.write("digits/1/model.onnx", file("models/digits/1/model.onnx"));
    let server = models.serve("direct", POLICY);
    server.ready();
    let before = server.resident_kib();
    let graph = table(SIZE / 4);
    for round in 1..=2 {
        models.write("table/model.toml", TABLE);
        models.write("table/1/model.onnx", &graph);
        server.until("added", || listed(&server, "table"));
        pick(&server, "table");
        let with = server.resident_kib();
        std::fs::remove_dir_all(Path::new(&models.path()).join("table")).unwrap();
        server.until("gone", || !listed(&server, "table"));
        server.until("given back", || server.resident_kib() < before + 64 * 1024);
        let after = server.resident_kib();
        println!(
            "round {round}: {} MiB before, {} with a model of {} MiB, {} after it was removed",
            before / 1024,
            with / 1024,
            SIZE / MIB,
            after / 1024
        );
        assert!(with > before + SIZE as u64 / 1024, "{before} {with}");
    }
}

/// The private memory of a model's process. No budget evicts the model meanwhile.
fn process_bytes(models: &Models, name: &str) -> u64 {
    let server = models.serve("direct", POLICY);
    server.ready();
    let stats = server.get(&format!("/v2/models/{name}/stats")).json();
    let process = &stats["model_stats"][0]["process"];
    process["resident_bytes"]
        .as_u64()
        .unwrap_or_else(|| panic!("{stats}"))
}

#[test]
fn the_process_of_a_small_model_counts_in_the_budget_with_all_its_memory() {
    let models = Models::new();
    let graph = file("models/identity/1/model.onnx");
    for name in ["a", "b"] {
        models.write(
            &format!("{name}/model.toml"),
            file("models/identity/model.toml"),
        );
        models.write(&format!("{name}/1/model.onnx"), &graph);
    }
    let bytes = process_bytes(&models, "a");
    assert!(bytes > 1000 * graph.len() as u64, "{bytes}");
    // Room for the files of thousands of such models, and for one process.
    let server = models.serve_within(3 * bytes / 2);
    server.ready();
    until("evicted", &server, || {
        logged(&server, "over the memory budget") >= 1
    });
    for name in ["a", "b", "a"] {
        let path = format!("/v1/models/{name}:predict");
        let answer = server.post_json(&path, "{\"inputs\":{\"a\":[[1,2,3,4]]}}");
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status, 200, "{name}: {text}");
    }
    assert!(logged(&server, "over the memory budget") >= 2);
}

#[test]
fn over_the_budget_models_rest_and_come_back_and_pinned_ones_stay() {
    const SIZE: usize = 64 * MIB;
    let models = Models::new();
    let graph = table(SIZE / 4);
    for name in ["a", "b", "c"] {
        models.write(&format!("{name}/model.toml"), TABLE);
        models.write(&format!("{name}/1/model.onnx"), &graph);
    }
    models.write("pinned/model.toml", format!("{TABLE}pinned = true\n"));
    models.write("pinned/1/model.onnx", &graph);
    // Room for two of the four, each in a process of its own.
    let server = models.serve_within(5 * process_bytes(&models, "pinned") / 2);
    server.ready();
    let start = server.resident_kib();
    let mut most = 0;
    for round in 0..3 {
        for name in ["a", "pinned", "b", "c"] {
            let began = Instant::now();
            pick(&server, name);
            let now = server.resident_kib();
            most = most.max(now);
            println!(
                "round {round}: {name} answered after {} ms, {} MiB",
                began.elapsed().as_millis(),
                now / 1024
            );
        }
    }
    assert_eq!(
        logged(&server, "model pinned version 1: over the memory budget"),
        0
    );
    assert!(logged(&server, "over the memory budget") >= 6);
    assert!(logged(&server, "model a version 1: ready") >= 3);
    println!(
        "{} MiB at the start, {} MiB at most",
        start / 1024,
        most / 1024
    );
    assert_eq!(server.get("/ready").status, 200, "resting models are ready");
    // Many calls at once for models that do not fit together: all are answered.
    std::thread::scope(|scope| {
        for caller in 0..6 {
            let server = &server;
            scope.spawn(move || pick(server, ["a", "b", "c"][caller % 3]));
        }
    });
}
