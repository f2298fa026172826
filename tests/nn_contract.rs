//! `wasi:nn@0.2.0-rc-2024-10-28` from a component's view: every call, every possible error, every handle in the wrong
//! order, and every intentional mistake of a component. `tests/guests/nn-guest` does it and reports its observations,
//! and this file judges them. It tests three hosts: ours through both entry points, and `components/nn-tract` in
//! WebAssembly.
//!
//! Nothing here may end the host or affect another request. These end the request, by design:
//!
//! - a handle that the component does not hold (dropped, passed on, made up): the component model traps it;
//! - more handles than `MAX_HANDLES` (4096), or more bytes of tensors than `instances.memory_bytes`, held at once.

#![deny(dead_code)]
use crate::common;
use crate::support;

use bytes::Bytes;
use common::{call, onnxruntime, root};
use penstock_host::engine::Ticker;
use penstock_host::entry_points::{Direct, EntryPointRequest, EntryPointSettings, Http, link};
use penstock_host::server::{EntryPoint, Server};
use penstock_host::settings::Settings;
use penstock_host::{AppOptions, up};
use penstock_nn::{NnTensor, Repository, TensorType};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use support::onnx_type::{BOOL, FLOAT, STRING, UINT64};
use support::{D, Node, onnx_bytes, p};

include!("guests/nn-guest/src/list.rs");

/// The tested `wasi:nn`, and the entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Direct,
    Http,
    InWebAssembly,
}

/// A host that runs. Those of [`HOSTS`] live as long as the process.
struct Host {
    kind: Kind,
    address: SocketAddr,
    direct: Option<Arc<Direct>>,
    repository: Arc<Repository>,
    runtime: tokio::runtime::Runtime,
    _ticker: Ticker,
    _files: tempfile::TempDir,
}

const MANIFEST: &str = r#"spin_manifest_version = 2
[application]
name = "nn"
[[trigger.http]]
route = "/..."
component = "guest"
[component.guest]
source = "SOURCE"
"#;

const OUTER: &str = r#"description = "Adds a row to a column"
[[inputs]]
name = "rows"
datatype = "FP32"
shape = ["R", 1]
[[inputs]]
name = "columns"
datatype = "FP32"
shape = [1, "C"]
[[outputs]]
name = "sum"
datatype = "FP32"
shape = ["R", "C"]
"#;

/// `identity`, `slow` with additions to its contract, `outer`, models that return their inputs in other types,
/// `relative`, whose rows depend on each other, and `broken`, whose graph is invalid.
fn models(folder: &Path, slow: &str) {
    let copy = |name: &str, from: &str, contract: &str, graph: Option<&[u8]>| {
        let model = folder.join(name);
        std::fs::create_dir_all(model.join("1")).unwrap();
        let from = root().join(from);
        let text = std::fs::read_to_string(from.join("model.toml")).unwrap();
        std::fs::write(model.join("model.toml"), format!("{text}{contract}")).unwrap();
        let own = || std::fs::read(from.join("1/model.onnx")).unwrap();
        let graph = graph.map_or_else(own, <[u8]>::to_vec);
        std::fs::write(model.join("1/model.onnx"), graph).unwrap();
    };
    copy("identity", "models/identity", "", None);
    copy("broken", "models/identity", "", Some(b"not a graph"));
    copy("slow", "tests/data/slow", slow, None);
    let outer = onnx_bytes(
        &[Node("Add", vec!["rows", "columns"], vec!["sum"])],
        &[
            p("rows", FLOAT, &[D::S("R"), D::N(1)]),
            p("columns", FLOAT, &[D::N(1), D::S("C")]),
        ],
        &[p("sum", FLOAT, &[D::S("R"), D::S("C")])],
    );
    copy("outer", "models/identity", "", Some(&outer));
    std::fs::write(folder.join("outer/model.toml"), OUTER).unwrap();
    let same = |name: &str, datatype: &str, element: u64, nodes: &[Node], columns: u64| {
        let port = |port| p(port, element, &[D::S("N"), D::N(columns)]);
        let graph = onnx_bytes(nodes, &[port("a")], &[port("b")]);
        copy(name, "models/identity", "", Some(&graph));
        let side = |side, port| {
            format!(
                "[[{side}]]\nname = \"{port}\"\ndatatype = \"{datatype}\"\nshape = [\"N\", {columns}]\n"
            )
        };
        let sides = [side("inputs", "a"), side("outputs", "b")].concat();
        let text = format!("description = \"For a test\"\n{sides}");
        std::fs::write(folder.join(name).join("model.toml"), text).unwrap();
    };
    let identity = || [Node("Identity", vec!["a"], vec!["b"])];
    same("flags", "BOOL", BOOL, &identity(), 2);
    same("wide", "UINT64", UINT64, &identity(), 2);
    same("words", "BYTES", STRING, &identity(), 2);
    let by_the_largest = [
        Node("ReduceMax", vec!["a"], vec!["largest"]),
        Node("Div", vec!["a", "largest"], vec!["b"]),
    ];
    same("relative", "FP32", FLOAT, &by_the_largest, 1);
}

fn start(kind: Kind, slow: &str) -> Host {
    let files = tempfile::tempdir().unwrap();
    let source = match kind {
        Kind::InWebAssembly => "build/test/nn-guest-portable.wasm",
        _ => "build/test/nn-guest.wasm",
    };
    let source = root().join(source);
    assert!(source.exists(), "run scripts/build --guests");
    let app = files.path().join("spin.toml");
    std::fs::write(
        &app,
        MANIFEST.replace("SOURCE", &source.display().to_string()),
    )
    .unwrap();
    let folder = files.path().join("models");
    models(&folder, slow);
    let options = AppOptions {
        app,
        models: Some(folder),
        policy: files.path().join("penstock.toml"),
        openvino: None,
        onnxruntime: (kind != Kind::InWebAssembly).then(onnxruntime),
        runtime_config: None,
        serving: penstock_host::app::Serving::default(),
        state_dir: Some(root().join("target/penstock-test-state")),
        launcher: None,
    };
    let mut settings = Settings::default();
    if kind == Kind::InWebAssembly {
        // The slow model takes seconds of computing there, and its compilation with it.
        settings.instances.cpu_time_ms = 120_000;
        settings.server.total_timeout_ms = 120_000;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let prepared = runtime
        .block_on(up::prepare(&options, &settings))
        .expect("the application is prepared");
    if prepared.runs_models {
        runtime.block_on(prepared.repository.load_all(|_| {}));
    }
    let ticker = Ticker::start(prepared.compiled.component.engine()).unwrap();
    let door_settings = EntryPointSettings {
        retained_bytes: settings.instances.memory_bytes,
        // One instance, so that each request finds it as the one before left it.
        count: if slow.is_empty() { 1 } else { 8 },
        max_reuse: settings.instances.max_reuse,
        total_timeout: Duration::from_millis(settings.server.total_timeout_ms),
    };
    let pre = link(&prepared.compiled).expect("linked");
    let mut direct = None;
    let door = match kind {
        Kind::Http => EntryPoint::Http(Http::new(pre, prepared.source, door_settings).unwrap()),
        _ => {
            let pool = Arc::new(Direct::new(pre, prepared.source, door_settings).unwrap());
            direct = Some(pool.clone());
            EntryPoint::Direct(pool)
        }
    };
    let server = Server::new(door, settings.server);
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { server.serve(listener, std::future::pending()).await });
    Host {
        kind,
        address,
        direct,
        repository: prepared.repository,
        runtime,
        _ticker: ticker,
        _files: files,
    }
}

static HOSTS: LazyLock<[Host; 3]> =
    LazyLock::new(|| [Kind::Direct, Kind::Http, Kind::InWebAssembly].map(|kind| start(kind, "")));

impl Host {
    fn native(&self) -> bool {
        self.kind != Kind::InWebAssembly
    }

    fn status(&self, path: &str) -> u16 {
        call(self.address, "GET", path, &[], None).status
    }

    /// Returns the observations of a case that the guest survives.
    #[track_caller]
    fn saw(&self, path: &str) -> Value {
        let answer = call(self.address, "GET", path, &[], None);
        let text = String::from_utf8_lossy(&answer.bytes);
        assert_eq!(answer.status, 200, "{:?} {path}: {text}", self.kind);
        answer.json()
    }

    /// Checks that a case ends its request, and only that.
    #[track_caller]
    fn traps(&self, path: &str) {
        let answer = call(self.address, "GET", path, &[], None);
        let text = String::from_utf8_lossy(&answer.bytes);
        assert_eq!(answer.status, 500, "{:?} {path}: {text}", self.kind);
        assert_eq!(answer.json()["error"]["code"], "internal");
        self.answers();
    }

    #[track_caller]
    fn answers(&self) {
        assert_eq!(self.saw("/every_call_answers")["outputs"], ones(2));
    }
}

/// The guest's observations of the outputs of `identity` for this many rows of ones.
fn ones(rows: u32) -> Value {
    let sum: u32 = 1f32.to_le_bytes().into_iter().map(u32::from).sum();
    json!([{ "name": "b", "dims": [rows, 4], "ty": "FP32", "bytes": rows * 16, "sum": rows * 4 * sum }])
}

/// Longer than any message of ours. A name that a guest made up is shortened in a message.
const LONG_MESSAGE: usize = 1000;

#[track_caller]
fn is_error(host: &Host, what: &Value, told: &Value, code: &str) {
    assert_eq!(told[0], code, "{:?} {what}: {told}", host.kind);
    let data = told[1].as_str().unwrap();
    assert!(
        !data.is_empty() && data.len() < LONG_MESSAGE,
        "{what}: {} bytes: {data:.200}",
        data.len()
    );
}

/// The expected observations of each case.
mod cases {
    use super::*;

    pub fn every_call_answers(host: &Host) {
        let saw = host.saw("/every_call_answers");
        assert_eq!(saw["input"], json!([[2, 4], "FP32", 32, 32]));
        assert_eq!(saw["outputs"], ones(2));
    }

    pub fn every_type_and_shape_reads_back(host: &Host) {
        let saw = host.saw("/every_type_and_shape_reads_back");
        let saw = saw.as_array().unwrap();
        assert_eq!(saw.len(), TensorType::WASI.len() * 5 + 1);
        for tensor in saw {
            assert_eq!(tensor[2], true, "{:?} {tensor}", host.kind);
        }
    }

    pub fn a_graph_dropped_before_its_context(host: &Host) {
        assert_eq!(host.saw("/a_graph_dropped_before_its_context"), ones(1));
    }

    pub fn a_context_dropped_before_its_outputs(host: &Host) {
        assert_eq!(host.saw("/a_context_dropped_before_its_outputs"), ones(1));
    }

    pub fn an_error_outlives_what_raised_it(host: &Host) {
        let saw = host.saw("/an_error_outlives_what_raised_it");
        assert_eq!(saw["between"], 100);
        assert_eq!(saw["before"], saw["after"]);
        is_error(host, &saw, &saw["before"], "invalid-argument");
    }

    pub fn many_graphs_and_contexts_of_one_model(host: &Host) {
        assert_eq!(
            host.saw("/many_graphs_and_contexts_of_one_model"),
            json!([40, 40])
        );
    }

    pub fn shapes_that_lie(host: &Host) {
        let saw = host.saw("/shapes_that_lie");
        assert_eq!(saw.as_array().unwrap().len(), 19);
        for lie in saw.as_array().unwrap() {
            is_error(host, &lie[0], &lie[1], "invalid-argument");
        }
    }

    pub fn names_that_are_wrong(host: &Host) {
        let saw = host.saw("/names_that_are_wrong");
        assert_eq!(saw.as_array().unwrap().len(), 10);
        for name in saw.as_array().unwrap() {
            is_error(host, &name[0], &name[1], "invalid-argument");
        }
    }

    pub fn hostile_model_names(host: &Host) {
        let saw = host.saw("/hostile_model_names");
        for name in saw.as_array().unwrap() {
            let broken = name[0].as_str().unwrap().starts_with("broken");
            let code = if broken { "runtime-error" } else { "not-found" };
            is_error(host, &name[0], &name[1], code);
            let data = name[1][1].as_str().unwrap();
            assert_eq!(data.starts_with("not_ready: "), broken, "{name}");
            assert!(
                !data.contains("/tmp"),
                "a path of the host in a message: {data}"
            );
        }
    }

    pub fn nothing_is_loaded_from_bytes(host: &Host) {
        let saw = host.saw("/nothing_is_loaded_from_bytes");
        assert_eq!(saw.as_array().unwrap().len(), 7 * 3 * 2);
        for told in saw.as_array().unwrap() {
            is_error(host, &Value::Null, told, "security");
        }
    }

    pub fn computes_again_after_an_error(host: &Host) {
        let saw = host.saw("/computes_again_after_an_error");
        is_error(host, &Value::Null, &saw[0], "invalid-argument");
        assert_eq!(saw[1], ones(1));
        is_error(host, &Value::Null, &saw[2], "invalid-argument");
        assert_eq!(saw[3], ones(3));
    }

    pub fn computes_ten_thousand_times(host: &Host) {
        assert_eq!(host.saw("/computes_ten_thousand_times"), 10_000);
    }

    pub fn outputs_too_large(host: &Host) {
        let ask = |rows: u32| host.saw(&format!("/outputs_too_large?rows={rows}&columns=4096"));
        assert_eq!(ask(256), json!(["computed", [256, 4096]]));
        // Twice the accepted size, and more than the component may hold at all.
        let told = ask(8192);
        is_error(host, &Value::Null, &told, "too-large");
        assert!(told[1].as_str().unwrap().contains("send fewer"), "{told}");
        host.answers();
    }

    pub fn hoards(host: &Host) {
        for what in ["tensors", "errors", "graphs", "contexts", "outputs"] {
            let few = host.saw(&format!("/hoards?what={what}&count=500"));
            assert_eq!(few, 500, "{what}");
            let many = format!("/hoards?what={what}&count=5000");
            if host.native() {
                host.traps(&many);
            } else {
                // They are in the memory of the component that runs the models, and take few bytes there.
                assert_eq!(host.saw(&many), 5000, "{what}");
            }
        }
        assert_eq!(host.saw("/hoards?what=bytes&count=50"), 50);
        let many = "/hoards?what=bytes&count=300";
        if host.native() {
            host.traps(many);
        } else {
            // Their bytes are not kept, and `compute` would report that.
            assert_eq!(host.saw(many), 300);
        }
        host.answers();
    }

    pub fn leaks_a_little(host: &Host) {
        // In total more than an instance may hold. It is replaced long before.
        for _ in 0..200 {
            assert_eq!(host.saw("/leaks_a_little?count=20"), 20);
        }
        host.answers();
    }

    pub fn one_tensor_passed_twice(host: &Host) {
        host.traps("/one_tensor_passed_twice");
    }

    pub fn a_dropped_handle(host: &Host) {
        host.traps("/a_dropped_handle");
    }

    pub fn a_made_up_handle(host: &Host) {
        for handle in [0, 1, 2, 77, 4096, 1 << 27, u32::MAX - 1] {
            host.traps(&format!("/a_made_up_handle?handle={handle}"));
        }
    }

    pub fn waits_for_a_slow_model(host: &Host) {
        let saw = host.saw("/waits_for_a_slow_model");
        assert_eq!(saw["computed"][0]["name"], "b", "{saw}");
    }

    pub fn waits_no_longer_than_it_says(host: &Host) {
        let saw = |terms: &str| {
            let path = format!("/waits_no_longer_than_it_says?terms={terms}");
            host.saw(&path)
        };
        for terms in ["", "~60000"] {
            let saw = saw(terms);
            assert_eq!(saw[0]["name"], "b", "{terms}: {saw}");
        }
        for terms in ["~0", "~5"] {
            let saw = saw(terms);
            if !host.native() {
                // A run there cannot be ended, and the call is the only one.
                assert_eq!(saw[0]["name"], "b", "{terms}: {saw}");
            } else if saw[0] == "runtime-error" {
                // Others use the model meanwhile, and the queue was too long.
                is_refused_for_load(saw[1].as_str().unwrap());
            } else {
                is_error(host, &json!(terms), &saw, "timeout");
            }
        }
    }

    pub fn runs_in_the_shadow(host: &Host) {
        let saw = host.saw("/runs_in_the_shadow");
        if !host.native() {
            is_error(host, &Value::Null, &saw, "unsupported-operation");
            return;
        }
        assert_eq!((&saw["agrees"], &saw["differs"]), (&json!([]), &json!([])));
        for wrong in saw["wrong"].as_array().unwrap() {
            is_error(host, &saw["wrong"], wrong, "invalid-argument");
        }
        is_error(host, &Value::Null, &saw["unknown"], "not-found");
        is_error(host, &Value::Null, &saw["broken"], "runtime-error");
        host.answers();
    }

    pub fn every_element_type_reads_back(host: &Host) {
        let saw = host.saw("/every_element_type_reads_back");
        let saw = saw.as_array().unwrap();
        assert_eq!(saw.len(), TensorType::ALL.len() * 4);
        for tensor in saw {
            assert_eq!(tensor[2], true, "{:?} {tensor}", host.kind);
        }
    }

    pub fn every_element_type_computes(host: &Host) {
        let saw = host.saw("/every_element_type_computes");
        let same = |ty: &str, columns: u32| json!([["b", ty, [1, columns], true]]);
        assert_eq!(saw["flags"], same("BOOL", 2), "{:?}", host.kind);
        assert_eq!(saw["wide"], same("UINT64", 2), "{:?}", host.kind);
        assert_eq!(saw["identity"], same("FP32", 4), "{:?}", host.kind);
        if host.native() {
            assert_eq!(saw["words"], same("BYTES", 2));
        } else {
            // tract has no strings.
            is_error(host, &saw, &saw["words"], "runtime-error");
        }
        let plain = json!([{ "name": "b", "dims": [1, 2], "ty": "U8", "bytes": 2, "sum": 1 }]);
        assert_eq!(saw["flags through wasi:nn"], plain, "{:?}", host.kind);
    }

    pub fn elements_that_lie(host: &Host) {
        let saw = host.saw("/elements_that_lie");
        assert_eq!(saw.as_array().unwrap().len(), 13);
        for lie in saw.as_array().unwrap() {
            let not_served = lie[1][1].as_str().unwrap().starts_with("not_ready: ");
            let code = match not_served && !host.native() {
                true => "runtime-error",
                false => "invalid-argument",
            };
            is_error(host, &lie[0], &lie[1], code);
        }
        host.answers();
    }

    pub fn a_type_that_wasi_nn_lacks(host: &Host) {
        for element in 0..TensorType::ALL.len() {
            let path = format!("/a_type_that_wasi_nn_lacks?element={element}");
            if element < TensorType::WASI.len() {
                assert!(host.saw(&path).is_string(), "{element}");
            } else {
                host.traps(&path);
            }
        }
    }

    pub fn rows_that_were_put_together(host: &Host) {
        let saw = host.saw("/rows_that_were_put_together");
        assert_eq!(saw["relative"][0]["dims"], json!([3, 1]), "{saw}");
        assert_eq!(saw["identity, joined"], ones(2));
        let told = &saw["relative, joined"];
        is_error(host, &saw, told, "unsupported-operation");
        let data = told[1].as_str().unwrap();
        let read = penstock_core::NnData::parse(data).expect(data);
        assert_eq!(read.word, penstock_core::NnWord::RowsDepend, "{data}");
        assert!(data.contains("ReduceMax"), "{data}");
    }

    pub fn crossing(host: &Host) {
        let saw = host.saw("/crossing?bytes=600000&count=2");
        assert_eq!(saw.as_array().unwrap().len(), 2, "{saw}");
    }
}

macro_rules! test_each {
    ($($case:ident)*) => {$(
        #[test]
        fn $case() {
            for host in HOSTS.iter() {
                cases::$case(host);
            }
        }
    )*};
}
for_each_case!(test_each);

#[test]
fn a_path_that_is_no_case_is_404() {
    assert_eq!(HOSTS[0].status("/no_such_case"), 404);
}

/// Sends a request directly to the typed entry point.
fn request(path: &str, headers: &[(&str, &str)], within: Duration) -> EntryPointRequest {
    let mut request = hyper::Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    EntryPointRequest {
        parts: request.body(()).unwrap().into_parts().0,
        body: Bytes::new(),
        deadline: tokio::time::Instant::now() + within,
    }
}

const SLOW: &str = "/waits_for_a_slow_model";
const LONG: Duration = Duration::from_secs(30);

/// One instance, and one place in its queue.
const ONE_LANE: &str = "\n[engine]\nlanes = 1\nqueue_max = 1\n";

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn the_errors_of_load_and_of_time_have_their_words() {
    let host = start(Kind::Direct, ONE_LANE);
    let door = host.direct.clone().unwrap();
    let slow = host.repository.get("slow", None).unwrap();
    host.runtime.block_on(async {
        let ask = |within| {
            let door = door.clone();
            tokio::spawn(async move {
                let answer = door.call(request(SLOW, &[], within)).await.unwrap();
                serde_json::from_slice::<Value>(answer.body()).unwrap()["computed"].clone()
            })
        };
        let runs = ask(LONG);
        eventually("one runs", || slow.stats().in_flight == 1).await;
        let waits = ask(LONG);
        eventually("one waits", || slow.stats().waiting == 1).await;
        let full = ask(LONG).await.unwrap();
        assert_eq!(full[0], "runtime-error", "{full}");
        is_refused_for_load(full[1].as_str().unwrap());
        runs.await.unwrap();
        waits.await.unwrap();
        // A deadline that the run itself outlasts.
        let late = ask(Duration::from_millis(20)).await.unwrap();
        let code = late[0].as_str().unwrap();
        if code == "runtime-error" {
            // An engine that knows its pace refuses it before it runs.
            is_refused_for_load(late[1].as_str().unwrap());
        } else {
            assert_eq!(code, "timeout", "{late}");
        }
        let past = ask(Duration::ZERO).await.unwrap();
        assert_eq!(past[0], "timeout", "{past}");
    });
}

#[test]
fn a_shadow_run_is_compared_after_its_request_and_counted_apart() {
    let host = start(Kind::Direct, ONE_LANE);
    let door = host.direct.clone().unwrap();
    let identity = host.repository.get("identity", None).unwrap();
    host.runtime.block_on(async {
        let answer = door.call(request("/runs_in_the_shadow", &[], LONG)).await;
        assert_eq!(answer.unwrap().status(), 200);
        eventually("both are compared", || {
            let shadow = identity.stats().shadow;
            shadow.agreed + shadow.differed == 2
        })
        .await;
    });
    let stats = identity.stats();
    let shadow = &stats.shadow;
    assert_eq!((shadow.agreed, shadow.differed, shadow.shed), (1, 1, 0));
    // The model refuses these inputs. Names of another form belong to no run.
    assert_eq!((shadow.runs, shadow.failed), (2, 4));
    assert_eq!(
        (stats.success, stats.failures, stats.execution_count),
        (0, 0, 0)
    );
}

/// Data in the form of `penstock_core::nn_data`.
#[track_caller]
fn is_refused_for_load(data: &str) {
    let read = penstock_core::NnData::parse(data).expect(data);
    assert_eq!(read.word, penstock_core::NnWord::QueueFull, "{data}");
}

#[test]
fn a_call_whose_caller_left_leaves_the_line_and_the_instance_answers_on() {
    for headers in [&[][..], &[("idempotency-key", "k")]] {
        let host = start(Kind::Direct, ONE_LANE);
        let door = host.direct.clone().unwrap();
        let slow = host.repository.get("slow", None).unwrap();
        host.runtime.block_on(async {
            let ask = || {
                let (door, request) = (door.clone(), request(SLOW, headers, LONG));
                tokio::spawn(async move { door.call(request).await })
            };
            let runs = ask();
            eventually("one runs", || slow.stats().in_flight == 1).await;
            for _ in 0..5 {
                let waits = ask();
                eventually("one waits", || slow.stats().waiting == 1).await;
                waits.abort();
                let left = Instant::now();
                eventually("it left the line", || slow.stats().waiting == 0).await;
                assert!(left.elapsed() < Duration::from_millis(100));
                assert_eq!(slow.stats().in_flight, 1, "who ran runs on");
            }
            let answer = runs.await.unwrap().unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(slow.stats().execution_count, 1);
        });
    }
}

/// Measures the cost of the border beside the engine. Run by hand:
/// `cargo it -- --ignored --nocapture what_the_border_costs`
#[test]
#[ignore = "measures; asserts nothing"]
fn what_the_border_costs() {
    const COUNT: usize = 60;
    let median = |mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    };
    for host in &HOSTS[..1] {
        for bytes in [600_000, 10_000_000] {
            let rows = bytes / 16;
            let model = host.repository.get("identity", None).unwrap();
            let data = Bytes::from(vec![1u8; rows * 16]);
            let direct: Vec<f64> = (0..COUNT)
                .map(|_| {
                    let input = NnTensor {
                        ty: TensorType::Fp32,
                        dims: vec![rows as u32, 4],
                        data: data.clone(),
                    };
                    let begun = Instant::now();
                    let run = model.infer(vec![("a".to_owned(), input)]);
                    host.runtime.block_on(run).unwrap();
                    begun.elapsed().as_secs_f64() * 1e6
                })
                .collect();
            let saw = host.saw(&format!("/crossing?bytes={bytes}&count={COUNT}"));
            let column = |at: usize| {
                let rounds = saw.as_array().unwrap().iter();
                median(rounds.map(|round| round[at].as_f64().unwrap()).collect())
            };
            println!(
                "{:?} {bytes} bytes: engine {:.0} us; through wasi:nn {:.0} us: tensor {:.0}, compute {:.0}, data {:.0}",
                host.kind,
                median(direct),
                column(3),
                column(0),
                column(1),
                column(2),
            );
        }
    }
}
