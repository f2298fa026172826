//! The built server as a separate process, on a free port, with the built components.

#![allow(dead_code, missing_docs)]

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub mod grpc_client;
pub mod heavy_model;
pub mod hyper_client;
pub mod media;

/// Returns the root folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Writes a file, and makes the folders above it.
pub fn write(folder: &Path, file: &str, content: impl AsRef<[u8]>) {
    let file = folder.join(file);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, content).unwrap();
}

/// The ONNX Runtime library that tests run against.
pub fn onnxruntime() -> PathBuf {
    let path = std::env::var_os("PENSTOCK_ONNXRUNTIME").map_or_else(
        || root().join(".runtime/onnxruntime/libonnxruntime.so"),
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "{} is missing; run scripts/runtime",
        path.display()
    );
    path
}

/// Adds an `[auth]` that admits every caller, if the policy has none.
pub fn open_to_all(policy: &str) -> String {
    let anybody = "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n";
    let open = if policy.contains("[auth") {
        ""
    } else {
        anybody
    };
    format!("{open}{policy}")
}

/// A running server, killed when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub log: Arc<Mutex<Vec<String>>>,
    child: Child,
    _files: Option<tempfile::TempDir>,
}

/// The options for the start of a server.
#[derive(Default)]
pub struct Options {
    pub door: Option<&'static str>,
    pub policy: Option<&'static str>,
    /// The runtime configuration; without it, `default` is a store of this server alone.
    pub runtime_config: Option<&'static str>,
    /// The same, made by the test.
    pub runtime_config_text: Option<String>,
    pub policy_text: Option<String>,
    /// Models to serve in place of the repository's.
    pub models: Option<PathBuf>,
    /// The address to listen on, instead of a free port of the loopback address.
    pub listen: Option<&'static str>,
    pub tract: bool,
    /// A copy of the server to run instead of the built one.
    pub program: Option<PathBuf>,
    /// Run models in WebAssembly, as on a host without wasi:nn.
    pub in_webassembly: bool,
    /// Serve the admin API, on a free port.
    pub admin: bool,
    /// Serve `tests/guests/hostile-adapter` in place of the adapter, and a model `hostile` with it.
    pub hostile: bool,
    /// Texts of the manifest to replace, such as the file of a component.
    pub manifest: &'static [(&'static str, &'static str)],
    /// The folder of the application, with its state beside the manifest. It can be that of several servers.
    pub folder: Option<PathBuf>,
}

impl Server {
    /// A server with the repository's own manifest and models.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let folder = options.folder.as_deref().unwrap_or(files.path());
        let policy = folder.join("penstock.toml");
        let policy_text = options.policy_text.as_deref().or(options.policy);
        std::fs::write(&policy, open_to_all(policy_text.unwrap_or_default())).unwrap();
        // Servers share their compiled components and nothing else.
        let runtime_config = files.path().join("runtime.toml");
        let own_store = format!(
            "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
            files.path().join("default.kv").display()
        );
        std::fs::write(
            &runtime_config,
            options
                .runtime_config_text
                .as_deref()
                .or(options.runtime_config)
                .unwrap_or(&own_store),
        )
        .unwrap();
        let mut app = root().join("spin.toml");
        let mut models = options.models.unwrap_or_else(|| root().join("models"));
        if options.hostile {
            models = models_with_adapter(files.path(), "hostile");
            let hostile = [("build/adapters.wasm", "build/test/hostile-adapter.wasm")];
            app = app_with(files.path(), &models, &hostile);
        } else if !options.manifest.is_empty() || options.folder.is_some() {
            app = app_with(folder, &models, options.manifest);
        }
        let program = options.program.as_deref();
        let built = Path::new(env!("CARGO_BIN_EXE_penstock"));
        let mut command = Command::new(program.unwrap_or(built));
        command
            .args(["up", "--listen", options.listen.unwrap_or("127.0.0.1:0")])
            .arg("--app")
            .arg(&app)
            .arg("--models")
            .arg(&models)
            .arg("--policy")
            .arg(&policy)
            // The environment of the person who runs the tests must not change them.
            .env_remove("PENSTOCK_ONNXRUNTIME")
            .env_remove("PENSTOCK_OPENVINO")
            .env_remove("PENSTOCK_DOOR")
            .env_remove("PENSTOCK_NN")
            .env_remove("PENSTOCK_ADMIN_LISTEN")
            .env_remove("PENSTOCK_ADMIN_TOKEN")
            .env_remove("PENSTOCK_ADMIN_TOKEN_FILE")
            .env_remove("PENSTOCK_METRICS_TOKEN")
            .env_remove("PENSTOCK_METRICS_TOKEN_FILE")
            .env_remove("SPIN_VARIABLE_PEPPER")
            .env_remove("SPIN_VARIABLE_PEPPER_FILE")
            .env_remove("PENSTOCK_LOG")
            .env_remove("RUST_LOG")
            .env_remove("PENSTOCK_RUNTIME_CONFIG_FILE")
            .env_remove("PENSTOCK_STATE_DIR")
            .stderr(Stdio::piped());
        if options.folder.is_none() {
            command
                .arg("--runtime-config-file")
                .arg(&runtime_config)
                .arg("--state-dir")
                .arg(root().join("target/penstock-test-state"));
        }
        if !options.tract {
            command.arg("--onnxruntime").arg(onnxruntime());
        }
        if options.admin {
            command.args(["--admin-listen", "127.0.0.1:0"]);
        }
        if options.in_webassembly {
            command.args(["--nn", "component"]);
        }
        if let Some(door) = options.door {
            command.args(["--door", door]);
        }
        let mut child = command.spawn().expect("the server starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().expect("standard error is piped"));
        let (sender, ready) = std::sync::mpsc::channel();
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line
                    .split_once("serving http://")
                    .or_else(|| line.split_once("serving https://"))
                {
                    let address = rest
                        .split_whitespace()
                        .next()
                        .unwrap_or_default()
                        .to_owned();
                    let _ = sender.send(address);
                }
                let mut kept = kept.lock().unwrap();
                if kept.len() < 10_000 {
                    kept.push(line);
                }
            }
        });
        match ready.recv_timeout(Duration::from_secs(120)) {
            Ok(address) => {
                let address = address.parse().expect("an address");
                Self {
                    address,
                    log,
                    child,
                    _files: Some(files),
                }
            }
            Err(_) => {
                let _ = child.kill();
                panic!(
                    "the server did not come up:\n{}",
                    log.lock().unwrap().join("\n")
                );
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB, with that of the processes of its models.
    pub fn resident_kib(&self) -> u64 {
        let resident = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let own = resident(self.pid()).expect("it runs");
        let children = children(self.pid()).into_iter();
        own + children.filter_map(|(pid, _)| resident(pid)).sum::<u64>()
    }

    /// Sends SIGTERM and waits. Returns the exit code and the time that it took.
    pub fn terminate(&mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let killed = Command::new("kill")
            .arg("-TERM")
            .arg(self.pid().to_string())
            .status();
        assert!(killed.is_ok_and(|s| s.success()));
        let status = self.child.wait().expect("the server ends");
        (status.code(), started.elapsed())
    }

    /// Kills it, like a crash.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        let _ = self.child.wait();
    }

    /// Waits until every model is loaded.
    pub fn ready(&self) {
        self.until("the models are ready", || self.get("/ready").status == 200);
    }

    /// Waits until this holds. If it never does, the failure shows the log.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        until_found(|| {
            holds().then_some(()).ok_or(NotYet {
                what,
                log: &self.log,
            })
        });
    }

    /// Waits until a log line contains the text, and returns the line.
    pub fn logged(&self, text: &str) -> String {
        until_found(|| {
            let log = self.log.lock().unwrap();
            let line = log.iter().find(|line| line.contains(text));
            line.cloned()
                .ok_or_else(|| format!("no log line has {text:?}"))
        })
    }

    pub fn get(&self, path: &str) -> Response {
        self.call("GET", path, &[], None)
    }

    pub fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Response {
        self.call("POST", path, &[("content-type", content_type)], Some(body))
    }

    pub fn post_json(&self, path: &str, body: &str) -> Response {
        self.post(path, "application/json", body.as_bytes())
    }

    pub fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Response {
        call(self.address, method, path, headers, body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The longest wait for an event that must come. A slow machine takes longer than others; a broken server takes forever.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until this holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_found(|| holds().then_some(()).ok_or(what));
}

/// Looks until there is a value. An error says what was seen instead.
pub fn until_found<T, E: Display>(mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "not in time: {seen}"),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// An event that did not come, with the log of the server.
struct NotYet<'a> {
    what: &'a str,
    log: &'a Mutex<Vec<String>>,
}

impl Display for NotYet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let log = self.log.lock().unwrap().join("\n");
        write!(f, "{}:\n{log}", self.what)
    }
}

/// The parent of a process and the letter of its state.
pub fn stat(pid: u32) -> Option<(u32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after = stat.rsplit(") ").next()?.split_whitespace();
    let state = after.next()?.chars().next()?;
    Some((after.next()?.parse().ok()?, state))
}

/// The children of a process, with the letters of their states.
pub fn children(of: u32) -> Vec<(u32, char)> {
    let items = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = items.filter_map(|item| item.file_name().to_str()?.parse::<u32>().ok());
    let stats = pids.filter_map(|pid| stat(pid).map(|stat| (pid, stat)));
    (stats.filter(|(_, (parent, _))| *parent == of))
        .map(|(pid, (_, state))| (pid, state))
        .collect()
}

/// The client of all tests over HTTP/1.1. It keeps connections. A status of 400 or more is a normal answer.
pub fn client(timeout: Option<Duration>) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(timeout)
        .build()
        .into()
}

/// Connects, for a test that needs raw bytes. Reading and writing are limited to 20 seconds.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).unwrap();
    stream.set_write_timeout(limit).unwrap();
    stream
}

/// Sends bytes and reads until the server closes.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    // A server that refuses early may have closed before all of it was sent.
    let _ = stream.write_all(bytes);
    read_to_end(&mut stream)
}

/// Reads until the server closes. Fails if it does not.
pub fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer counts like a close.
    let ended = stream.read_to_end(&mut answer);
    let open = |e: std::io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!ended.is_err_and(open), "the server did not close");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one answer with a length from a connection that stays open.
pub fn read_one(stream: &mut TcpStream) -> String {
    let (mut answer, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let text = || String::from_utf8_lossy(&answer).into_owned();
        if let Some(head) = head {
            let lines = text()[..head].to_ascii_lowercase();
            let length = lines
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            let received = answer.len() - head - 4;
            assert!(received <= length, "more than one answer: {:?}", text());
            if received == length {
                return text();
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => answer.extend_from_slice(&buffer[..count]),
            other => panic!("{other:?} after {:?}", text()),
        }
    }
}

/// Sends a request and reads the whole answer.
pub fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Response {
    try_call(address, method, path, headers, body).expect("an answer")
}

/// The same for a server that may be gone: the error says why there is no whole answer.
pub fn try_call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<Response, ureq::Error> {
    let agent = client(Some(Duration::from_secs(60)));
    let mut request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = match body {
        Some(body) => agent.run(request.body(body).unwrap()),
        None => agent.run(request.body(()).unwrap()),
    };
    let mut response = response?;
    let headers = response
        .headers()
        .iter()
        .map(|(n, v)| {
            (
                n.as_str().to_owned(),
                String::from_utf8_lossy(v.as_bytes()).into_owned(),
            )
        })
        .collect();
    let status = response.status().as_u16();
    let bytes = response
        .body_mut()
        .with_config()
        .limit(256 << 20)
        .read_to_vec()?;
    Ok(Response {
        status,
        headers,
        bytes,
    })
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub bytes: Vec<u8>,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The repository's manifest with these models, and with some of its texts replaced.
fn app_with(folder: &Path, models: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let mut manifest = std::fs::read_to_string(root().join("spin.toml")).unwrap();
    for (from, to) in changes {
        assert!(manifest.contains(from), "{from} is in the manifest");
        if to.ends_with(".wasm") {
            assert!(root().join(to).exists(), "run scripts/build --guests");
        }
        manifest = manifest.replace(from, to);
    }
    let build = format!("\"{}/", root().join("build").display());
    let models = format!("source = \"{}\"", models.display());
    let manifest = (manifest.replace("\"build/", &build)).replace("source = \"models\"", &models);
    let app = folder.join("spin.toml");
    std::fs::write(&app, manifest).unwrap();
    app
}

/// A models directory with `identity`, and with the same graph behind an adapter, both under the adapter's name.
pub fn models_with_adapter(folder: &Path, adapter: &str) -> PathBuf {
    let models = folder.join("models");
    let contract = std::fs::read_to_string(root().join("models/identity/model.toml")).unwrap();
    for (name, more) in [
        ("identity", String::new()),
        (adapter, format!("\n[adapter]\nname = \"{adapter}\"\n")),
    ] {
        let version = models.join(name).join("1");
        std::fs::create_dir_all(&version).unwrap();
        let graph = root().join("models/identity/1/model.onnx");
        std::fs::copy(graph, version.join("model.onnx")).unwrap();
        let contract = format!("{contract}{more}");
        std::fs::write(models.join(name).join("model.toml"), contract).unwrap();
    }
    models
}
