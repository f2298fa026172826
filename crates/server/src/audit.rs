//! Decides the audit log's line for a request: the caller, the request and the decision. One JSON object per line,
//! without bodies, queries and credentials.
//!
//! A separate thread writes the lines from a bounded queue, so that no disk delays a caller. Lines that the queue or
//! the disk refuses are lost, and the next line reports their number.

use crate::settings::AuditSettings;
use http::{HeaderValue, Method};
use penstock_core::clock::rfc3339;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines that may wait for the disk: about half a second of all answers of a server, a few megabytes.
const QUEUE_LINES: usize = 8192;
/// Most lines that are written to the file at once.
const BATCH_LINES: usize = 256;
/// Most characters of a path, and of a member that a component gives.
const MAX_TEXT_CHARS: usize = 256;
/// Bytes that are read of a component's entry.
const MAX_TOLD_BYTES: usize = 8192;
/// Pause after an error of the disk before the next try.
const RETRY: Duration = Duration::from_secs(1);
/// Only the server's user may read which caller made which request.
const FILE_MODE: u32 = 0o600;
/// The folder may be the state directory, which contains secrets and stores.
const FOLDER_MODE: u32 = 0o700;
/// The status in the log if the client disconnected before the answer. No status is sent then.
const LEFT_STATUS: u16 = 499;
const LEFT_CODE: &str = "client_left";

/// The members that are read of a component's entry. All others are ignored.
const MEMBERS: [&str; 10] = [
    "code",
    "tenant",
    "api_key_id",
    "subject",
    "tier",
    "credential",
    "route",
    "model",
    "model_version",
    "decision",
];

/// The known facts about a request when it has ended.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The time when it began.
    pub unix_ms: u64,
    /// The id of the request. `None` if a connection was refused before there was a request.
    pub request_id: Option<String>,
    /// The client's address, as trusted proxies name it.
    pub address: IpAddr,
    /// Method and path, without the query.
    pub asked: Option<(Method, String)>,
    /// The status of the answer.
    pub status: u16,
    /// The error code, if the server itself refused.
    pub code: Option<&'static str>,
    /// Time from the end of its headers to its answer.
    pub duration: Duration,
    /// Bytes of its body, as far as it was read.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The entry that components give.
    pub told: Option<HeaderValue>,
}

/// Returns the line of an entry.
pub fn line(entry: &Entry) -> String {
    let mut members = Map::new();
    members.insert("time".into(), json!(rfc3339(entry.unix_ms)));
    if let Some(id) = &entry.request_id {
        members.insert("request_id".into(), json!(id));
    }
    members.insert("address".into(), json!(entry.address.to_string()));
    if let Some((method, path)) = &entry.asked {
        members.insert("method".into(), json!(shortened(method.as_str())));
        members.insert("path".into(), json!(shortened(path)));
    }
    members.insert("status".into(), json!(entry.status));
    let micros = entry.duration.as_micros() as f64;
    members.insert("duration_ms".into(), json!(micros / 1000.0));
    members.insert("bytes_in".into(), json!(entry.bytes_in));
    members.insert("bytes_out".into(), json!(entry.bytes_out));
    if let Some(told) = &entry.told {
        members.extend(taken(told.as_bytes()));
    }
    if let Some(code) = entry.code {
        members.insert("code".into(), json!(code));
    }
    Value::Object(members).to_string() + "\n"
}

/// Reads the known members of a component's entry.
fn taken(told: &[u8]) -> Map<String, Value> {
    if told.len() > MAX_TOLD_BYTES {
        return Map::new();
    }
    let Ok(Value::Object(told)) = serde_json::from_slice(told) else {
        return Map::new();
    };
    let known = told
        .into_iter()
        .filter(|(name, _)| MEMBERS.contains(&name.as_str()));
    known
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some((name, json!(shortened(&text)))),
            Value::Number(_) | Value::Bool(_) => Some((name, value)),
            _ => None,
        })
        .collect()
}

/// Shortens a text to a bounded length. A shortened text ends in `…`.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Returns whether machines that watch the server request this path every few seconds.
fn is_probe(path: &str) -> bool {
    path.starts_with("/v2/health/")
        || matches!(
            path,
            "/healthz"
                | "/ready"
                | "/grpc.health.v1.Health/Check"
                | "/inference.GRPCInferenceService/ServerLive"
                | "/inference.GRPCInferenceService/ServerReady"
        )
}

/// The renames of a rotation, in order. The first replaces the oldest file.
fn renames(path: &Path, keep: u32) -> Vec<(PathBuf, PathBuf)> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let from = |n: u32| {
        if n == 1 {
            path.to_owned()
        } else {
            numbered(n - 1)
        }
    };
    (1..=keep).rev().map(|n| (from(n), numbered(n))).collect()
}

/// Returns whether a file is full before a line of so many bytes is written to it.
fn is_full(size: u64, line: u64, max_bytes: u64) -> bool {
    size > 0 && size.saturating_add(line) > max_bytes
}

enum Message {
    Line(Box<Entry>),
    Stop,
}

/// The audit log of a server.
pub struct Audit {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    probes: bool,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the log that the settings name. Returns `None` if they name none.
    pub fn start(settings: &AuditSettings, state_dir: &Path) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(path) = &settings.path else {
            return Ok(None);
        };
        let path = state_dir.join(path);
        let mut writer = Writer::new(path.clone(), settings.max_bytes, settings.keep);
        if let Some(folder) = path.parent() {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, FOLDER_MODE);
            builder.recursive(true).create(folder).map_err(|e| {
                anyhow::anyhow!("cannot make {} for the audit log: {e}", folder.display())
            })?;
        }
        writer.open().map_err(|e| {
            anyhow::anyhow!(
                "cannot write the audit log {}: {e}; make it writable, or name another in audit.path",
                path.display()
            )
        })?;
        let (sender, receiver) = sync_channel(QUEUE_LINES);
        let lost = Arc::<AtomicU64>::default();
        let counted = lost.clone();
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&receiver, &counted))?;
        Ok(Some(Arc::new(Self {
            sender,
            lost,
            probes: settings.probes,
            writing: Mutex::new(Some(thread)),
        })))
    }

    /// Returns whether requests for a path are logged.
    pub(crate) fn wants(&self, path: &str) -> bool {
        self.probes || !is_probe(path)
    }

    /// Hands an entry over. It is lost if too many wait.
    pub(crate) fn log(&self, entry: Entry) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Line(Box::new(entry))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes the waiting lines, and ends. Later entries are lost.
    pub fn close(&self) {
        let thread = self
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = self.sender.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

/// A request that is being answered. It is logged with its answer, or as left if it is dropped before.
pub(crate) struct Open {
    audit: Arc<Audit>,
    entry: Option<Entry>,
    begun: Instant,
}

impl Open {
    /// Begins a request with its known facts.
    pub fn new(audit: &Arc<Audit>, entry: Entry) -> Self {
        Self {
            audit: audit.clone(),
            entry: Some(entry),
            begun: Instant::now(),
        }
    }

    /// Logs it with its answer.
    pub fn close(mut self, end: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.entry.take() {
            entry.duration = self.begun.elapsed();
            end(&mut entry);
            self.audit.log(entry);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.duration = self.begun.elapsed();
            entry.status = LEFT_STATUS;
            entry.code = Some(LEFT_CODE);
            self.audit.log(entry);
        }
    }
}

/// The writer of the lines.
struct Writer {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: Option<File>,
    size: u64,
    /// Lines that wait to be written together.
    buffer: Vec<u8>,
    buffered: u64,
    /// Whether the file may end within a line.
    torn: bool,
    /// Lines that were lost since the last written one.
    lost: u64,
    /// The last error that was reported, until it is over.
    failing: Option<String>,
    /// The last reported error of the renaming, until it is over.
    unrotated: Option<String>,
    retry: Duration,
    retry_at: Option<Instant>,
    rotate_at: Option<Instant>,
}

impl Writer {
    fn new(path: PathBuf, max_bytes: u64, keep: u32) -> Self {
        Self {
            path,
            max_bytes,
            keep,
            file: None,
            size: 0,
            buffer: Vec::new(),
            buffered: 0,
            torn: false,
            lost: 0,
            failing: None,
            unrotated: None,
            retry: RETRY,
            retry_at: None,
            rotate_at: None,
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(FILE_MODE)
            .open(&self.path)?;
        self.size = file.metadata()?.len();
        // A crash may have left half a line.
        let mut last = [b'\n'];
        if self.size > 0 && file.seek(SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last)?;
        }
        self.torn = last != [b'\n'];
        self.file = Some(file);
        Ok(())
    }

    fn run(mut self, messages: &Receiver<Message>, dropped: &AtomicU64) {
        let mut stopped = false;
        while !stopped {
            let Ok(first) = messages.recv() else { break };
            let rest = std::iter::from_fn(|| messages.try_recv().ok());
            for message in std::iter::once(first).chain(rest).take(BATCH_LINES) {
                match message {
                    Message::Line(entry) => self.append(&line(&entry)),
                    Message::Stop => {
                        stopped = true;
                        break;
                    }
                }
            }
            self.lost += dropped.swap(0, Ordering::Relaxed);
            self.flush();
        }
        if let Some(file) = &self.file {
            let _ = file.sync_data();
        }
    }

    fn append(&mut self, line: &str) {
        let pending = self.size + self.buffer.len() as u64;
        if is_full(pending, line.len() as u64, self.max_bytes) {
            self.flush();
            self.rotate();
        }
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffered += 1;
    }

    /// Writes the buffered lines. Lines that cannot be written are lost.
    fn flush(&mut self) {
        if self.buffered == 0 && self.lost == 0 {
            return;
        }
        let now = Instant::now();
        let waits = self.retry_at.is_some_and(|at| now < at);
        let written = if waits { None } else { Some(self.write()) };
        match written {
            Some(Ok(())) => {
                self.retry_at = None;
                if self.failing.take().is_some() {
                    tracing::info!("{}: the audit log is written again", self.path.display());
                }
            }
            Some(Err(e)) => {
                self.retry_at = Some(now + self.retry);
                self.file = None;
                self.lost += self.buffered;
                let error = e.to_string();
                if self.failing.as_ref() != Some(&error) {
                    tracing::error!(
                        "{}: the audit log cannot be written: {error}; lines are lost until it can",
                        self.path.display()
                    );
                    self.failing = Some(error);
                }
            }
            None => self.lost += self.buffered,
        }
        self.buffer.clear();
        self.buffered = 0;
    }

    fn write(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        let mut bytes = Vec::new();
        if self.torn {
            bytes.push(b'\n');
        }
        if self.lost > 0 {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let time = rfc3339(now.map_or(0, |d| d.as_millis() as u64));
            bytes.extend_from_slice(
                json!({"time": time, "lost_lines": self.lost})
                    .to_string()
                    .as_bytes(),
            );
            bytes.push(b'\n');
        }
        bytes.append(&mut self.buffer);
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let written = file.write_all(&bytes);
        self.torn = written.is_err();
        written?;
        self.size += bytes.len() as u64;
        self.lost = 0;
        Ok(())
    }

    /// Begins a new file. If the old one cannot be renamed, it is written on.
    fn rotate(&mut self) {
        let now = Instant::now();
        if self.rotate_at.is_some_and(|at| now < at) {
            return;
        }
        let renamed = renames(&self.path, self.keep)
            .into_iter()
            .try_for_each(|(from, to)| match std::fs::rename(from, to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            });
        match renamed {
            Ok(()) => {
                self.unrotated = None;
                self.rotate_at = None;
                self.file = None;
                self.size = 0;
            }
            Err(e) => {
                self.rotate_at = Some(now + self.retry);
                let error = e.to_string();
                if self.unrotated.as_ref() != Some(&error) {
                    tracing::error!(
                        "{}: the audit log cannot be rotated and grows: {error}",
                        self.path.display()
                    );
                    self.unrotated = Some(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn entry(path: &str, told: Option<&str>) -> Entry {
        Entry {
            unix_ms: 1_795_000_000_123,
            request_id: Some("id-1".to_owned()),
            address: "192.0.2.7".parse().unwrap(),
            asked: Some((Method::POST, path.to_owned())),
            status: 200,
            code: None,
            duration: Duration::from_micros(1_234),
            bytes_in: 10,
            bytes_out: 20,
            told: told.map(|told| HeaderValue::from_bytes(told.as_bytes()).unwrap()),
        }
    }

    fn read(entry: &Entry) -> Value {
        let line = line(entry);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn a_line_says_who_what_and_how_it_ended() {
        let told = r#"{"tenant":"acme","tier":"free","model":"cls","model_version":3,"decision":"admitted","secret":"x",
            "credential":{"a":1},"route":null}"#
            .replace('\n', "");
        assert_eq!(
            read(&entry("/v1/models/cls:predict", Some(&told))),
            json!({
                "time": "2026-11-18T11:06:40.123Z", "request_id": "id-1", "address": "192.0.2.7", "method": "POST",
                "path": "/v1/models/cls:predict", "status": 200, "duration_ms": 1.234, "bytes_in": 10, "bytes_out": 20,
                "tenant": "acme", "tier": "free", "model": "cls", "model_version": 3, "decision": "admitted"
            })
        );
    }

    #[test]
    fn text_of_clients_is_bounded_and_stays_on_its_line() {
        let long = "é".repeat(5_000);
        let line = read(&entry(&format!("/{long}"), None));
        assert_eq!(line["path"].as_str().unwrap().chars().count(), 257);
        let told = json!({"subject": format!("a\nb\u{1b}[31m{}", "x".repeat(1_000))}).to_string();
        let line = read(&entry("/", Some(&told)));
        let subject = line["subject"].as_str().unwrap();
        assert!(subject.starts_with("a\nb\u{1b}[31m") && subject.chars().count() == 257);
        for told in [
            "",
            "[]",
            "{",
            "\"x\"",
            &format!("{{\"tenant\":\"{}\"}}", "a".repeat(9_000)),
        ] {
            assert_eq!(read(&entry("/", Some(told))).get("tenant"), None, "{told}");
        }
    }

    #[test]
    fn the_servers_own_code_is_not_a_components_to_say() {
        let mut refused = entry("/", Some(r#"{"code":"other","status":1,"address":"x"}"#));
        refused.code = Some("overloaded");
        let line = read(&refused);
        assert_eq!(line["code"], "overloaded");
        assert_eq!(
            (&line["status"], &line["address"]),
            (&json!(200), &json!("192.0.2.7"))
        );
    }

    #[test]
    fn files_are_renamed_from_the_oldest_on() {
        let named = |keep| {
            let pairs = renames(Path::new("/x/a.jsonl"), keep);
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            pairs
                .iter()
                .map(|(from, to)| format!("{} {}", name(from), name(to)))
                .collect::<Vec<_>>()
        };
        assert_eq!(named(1), ["a.jsonl a.jsonl.1"]);
        assert_eq!(
            named(3),
            [
                "a.jsonl.2 a.jsonl.3",
                "a.jsonl.1 a.jsonl.2",
                "a.jsonl a.jsonl.1"
            ]
        );
        for (size, line, full) in [
            (0, 200, false),
            (50, 50, false),
            (50, 51, true),
            (100, 1, true),
        ] {
            assert_eq!(is_full(size, line, 100), full, "{size} {line}");
        }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    #[test]
    fn a_log_keeps_its_newest_files_and_each_within_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut writer = Writer::new(path.clone(), 100, 2);
        for n in 0..10 {
            writer.append(&format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "x".repeat(30)));
        }
        writer.flush();
        let numbers = |name: &str| -> Vec<u64> {
            let lines = lines(&folder.path().join(name));
            lines.iter().map(|l| l["n"].as_u64().unwrap()).collect()
        };
        assert_eq!(numbers("audit.jsonl"), [8, 9]);
        assert_eq!(numbers("audit.jsonl.1"), [6, 7]);
        assert_eq!(numbers("audit.jsonl.2"), [4, 5]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn a_log_that_cannot_be_renamed_is_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::create_dir_all(folder.path().join("audit.jsonl.1/full")).unwrap();
        let mut writer = Writer::new(path.clone(), 100, 1);
        for n in 0..10 {
            writer.append(&format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "x".repeat(30)));
        }
        writer.flush();
        assert_eq!(lines(&path).len(), 10);
    }

    #[test]
    fn half_a_line_that_a_crash_left_does_not_take_the_next_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"n\":0}\n{\"n\":").unwrap();
        let mut writer = Writer::new(path.clone(), 1_000, 1);
        writer.append("{\"n\":2}\n");
        writer.flush();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"n\":0}\n{\"n\":\n{\"n\":2}\n"
        );
    }

    #[test]
    fn lines_that_a_full_disk_refused_are_counted_when_it_takes_lines_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut writer = Writer::new(path.clone(), 1_000, 1);
        writer.retry = Duration::ZERO;
        for n in 0..3 {
            writer.append(&format!("{{\"n\":{n}}}\n"));
            writer.flush();
        }
        assert!(writer.failing.is_some());
        std::fs::remove_file(&path).unwrap();
        writer.append("{\"n\":3}\n");
        writer.flush();
        let found = lines(&path);
        assert_eq!((found.len(), &found[0]["lost_lines"]), (2, &json!(3)));
        assert_eq!(found[1]["n"], 3);
        assert!(writer.failing.is_none());
    }

    #[test]
    fn all_that_was_handed_over_is_written_before_it_closes_and_what_was_too_much_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings {
            path: Some("deep/audit.jsonl".into()),
            ..AuditSettings::default()
        };
        let audit = Audit::start(&settings, folder.path()).unwrap().unwrap();
        assert!(
            audit.wants("/v1/models") && !audit.wants("/ready") && !audit.wants("/v2/health/live")
        );
        let count = 3 * QUEUE_LINES as u64;
        for _ in 0..count {
            audit.log(entry("/", None));
        }
        drop(Open::new(&audit, entry("/left", None)));
        audit.close();
        let found = lines(&folder.path().join("deep/audit.jsonl"));
        let lost: u64 = found.iter().filter_map(|l| l["lost_lines"].as_u64()).sum();
        let written = found.iter().filter(|l| l.get("status").is_some()).count() as u64;
        assert_eq!(written + lost, count + 1);
    }
}
