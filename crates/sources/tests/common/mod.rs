//! Servers for tests: a scripted one, and real ones.

#![allow(dead_code, missing_docs)]

use penstock_sources::{Outcome, Progress, PullSettings, Puller, Source, SourceSettings};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub target: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub fn from(&self) -> Option<usize> {
        let range = self
            .header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?;
        Some(range.parse().unwrap())
    }
}

/// A scripted answer of the test server.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Send nothing more after so many bytes of the body, and keep the connection.
    pub stall: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            body: body.to_vec(),
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file as a well-made server gives it: ranges, If-Range, If-None-Match.
    pub fn file(request: &Request, body: &[u8], tag: &str) -> Self {
        if request.header("if-none-match") == Some(tag) {
            return Self::new(304, b"").with("ETag", tag);
        }
        let same = request.header("if-range").is_none_or(|asked| asked == tag);
        match request.from().filter(|_| same) {
            Some(from) if from >= body.len() => {
                Self::new(416, b"").with("Content-Range", &format!("bytes */{}", body.len()))
            }
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Self::new(206, &body[from..])
                    .with("Content-Range", &range)
                    .with("ETag", tag)
            }
            None => Self::new(200, body).with("ETag", tag),
        }
    }
}

/// A server of this test's own.
pub struct Web {
    pub port: u16,
    pub seen: Arc<Mutex<Vec<Request>>>,
}

impl Web {
    /// Answers each request by `answer`, which gets the number of earlier requests.
    pub fn start(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (kept.clone(), answer.clone());
                std::thread::spawn(move || {
                    let _ = serve(stream, &kept, &*answer);
                });
            }
        });
        Self { port, seen }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &dyn Fn(usize, &Request) -> Reply,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { target, headers };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let reply = answer(before, &request);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
    stream.write_all(head.as_bytes())?;
    let sent = reply.cut.or(reply.stall).unwrap_or(reply.body.len());
    stream.write_all(&reply.body[..sent])?;
    stream.flush()?;
    if reply.stall.is_some() {
        std::thread::sleep(Duration::from_secs(30));
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // Closing at once could reset the connection before the client has read all.
    let mut rest = [0; 256];
    while stream.read(&mut rest).is_ok_and(|count| count > 0) {}
    Ok(())
}

/// Collects the texts of the retries of a pull.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<String>>);

impl Progress for Heard {
    fn step(&self, _: &str) {}
    fn bytes(&self, _: &str, _: u64, _: Option<u64>) {}
    fn retry(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// A folder of models with its cache.
pub struct ModelFolder {
    pub folder: tempfile::TempDir,
    pub settings: PullSettings,
    pub environment: BTreeMap<String, String>,
    pub heard: Heard,
}

impl ModelFolder {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            settings: PullSettings {
                idle_timeout_ms: 1_000,
                timeout_ms: 60_000,
                ..PullSettings::default()
            },
            environment: BTreeMap::new(),
            heard: Heard::default(),
        }
    }

    pub fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.models().join(path)
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn try_pull(&self, source: &Source) -> Result<Outcome, String> {
        let environment = self.environment.clone();
        let puller = Puller::new(
            &self.models(),
            &self.folder.path().join("cache"),
            self.folder.path(),
            &self.settings,
            Arc::new(move |name: &str| environment.get(name).cloned()),
        );
        puller
            .map_err(|e| e.message)?
            .pull(source, &self.heard)
            .map_err(|e| e.message)
    }

    #[track_caller]
    pub fn pull(&self, source: &Source) -> Outcome {
        self.try_pull(source).unwrap()
    }

    /// Files of the models folder, hidden ones too.
    pub fn all(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.models(), &self.models(), &mut found);
        found.sort();
        found
    }

    /// Partial downloads and temporary files of the cache.
    pub fn unfinished(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["partial", "tmp"] {
            walk(
                self.folder.path(),
                &self.folder.path().join("cache").join(folder),
                &mut found,
            );
        }
        found
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(root, &entry.path(), found);
        } else {
            found.push(
                entry
                    .path()
                    .strip_prefix(root)
                    .unwrap()
                    .display()
                    .to_string(),
            );
        }
    }
}

pub fn source(from: &str) -> Source {
    let settings = SourceSettings {
        name: "m".to_owned(),
        from: from.to_owned(),
        version: None,
        versions: Vec::new(),
        sha256: None,
        graph: None,
        signature_key: None,
        signature: None,
        credentials_env: None,
        credentials_file: None,
        endpoint: None,
        region: None,
    };
    settings.sources(Path::new("")).unwrap().remove(0)
}

/// Bytes that no server could have made up.
pub fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// A program that is killed when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns whether `PENSTOCK_TEST_WITHOUT` names a program, whose tests are then left out.
pub fn without(what: &str) -> bool {
    let without = std::env::var("PENSTOCK_TEST_WITHOUT").unwrap_or_default();
    let left_out = without.split(',').any(|one| one == what);
    if left_out {
        eprintln!("left out: PENSTOCK_TEST_WITHOUT={what}");
    }
    left_out
}

/// Starts a server and waits until it answers at `url`.
pub fn start(command: &mut Command, package: &str, without: &str, url: &str) -> Running {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap_or_else(|error| {
        panic!(
            "cannot run {command:?} ({error}): install {package}, or run scripts/test, which fetches it; \
             PENSTOCK_TEST_WITHOUT={without} leaves this test out"
        )
    });
    let running = Running(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match ureq::get(url).call() {
            Ok(_) | Err(ureq::Error::StatusCode(401 | 403)) => return running,
            Err(error) => assert!(
                Instant::now() < deadline,
                "{command:?} does not come up: {error}"
            ),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
