//! The server's side: starts a child for each graph, hands it calls, and sees to what happens when it ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak, mpsc};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::answers;
use super::control::{Control, Kind, Note};
use super::launcher::Launcher;
use super::restart::{FIRST_WAIT, Restarts};
use super::shared::{self, BODY, GONE, Header, Looks, Segment, Slice};
use super::status::status_bytes;
use super::wire::{self, Open, Opened};
use crate::backend::{
    Backend, Cost, GraphSource, Interrupt, Lane, LoadOptions, Port, ProcessStats, Rows, Session,
};
use crate::error::{NnError, Refusal, quoted};
use crate::tensor::NnTensor;

/// Segments for a lane's answers. All but one may be lent to callers at a time.
const ANSWERS: usize = 3;

/// The longest wait for a restart that a call takes part in. Where the next start is further away the call is refused
/// at once, and told when to come back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest a lane may take to be made.
const LANE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a waiting thread looks without being woken. Wake-ups are not lost; this bounds what a fault would cost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often a call that waits for a restart looks whether it was interrupted: well within the grace after which its
/// process would be ended.
const LOOK_FOR_INTERRUPT: Duration = Duration::from_millis(100);

/// Variables that a child is given where the server has them: what native runtimes read, and no secret.
const VARIABLES: [&str; 12] = [
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "ORT_LOG",
    "PATH",
    "RUST_BACKTRACE",
    "TMPDIR",
    "TZ",
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "XDG_CACHE_HOME",
    "SSL_CERT_DIR",
];

/// What the names of further such variables begin with.
const VARIABLES_OF: [&str; 8] = [
    "CUDA_",
    "KMP_",
    "LC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "OPENVINO_",
    "OV_",
];

/// What a child is started for.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The model, for messages.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The longest a load may take; then its process is ended.
    pub load_timeout: Duration,
    /// Bytes of private memory that the process may map; none leaves it to what the load took and runs may take.
    pub process_bytes: Option<u64>,
    /// When a process that ended is started again.
    pub restarts: Restarts,
}

/// A backend whose graphs are each in a process of their own.
pub struct Isolated {
    inner: Arc<dyn Backend>,
    launcher: Launcher,
    terms: Terms,
}

impl Isolated {
    /// `inner`'s graphs, in processes that `launcher` starts.
    pub fn new(inner: Arc<dyn Backend>, launcher: Launcher, terms: Terms) -> Self {
        Self {
            inner,
            launcher,
            terms,
        }
    }
}

impl Backend for Isolated {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn version(&self) -> String {
        self.inner.version()
    }

    fn library(&self) -> Option<PathBuf> {
        self.inner.library()
    }

    fn load(
        &self,
        graph: &GraphSource,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Session>, NnError> {
        let (path, bytes) = match graph {
            GraphSource::File(path) => {
                let whole = path.canonicalize().map_err(|error| {
                    NnError::not_found(format!("the graph's file cannot be opened: {error}"))
                })?;
                (Some(whole), None)
            }
            GraphSource::Bytes(bytes) => (None, Some(bytes.clone())),
        };
        let start = Start {
            launcher: self.launcher.clone(),
            open: Open {
                backend: self.inner.name().to_owned(),
                library: self.inner.library(),
                graph_bytes: bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
                path,
                options: options.clone(),
                process_bytes: self.terms.process_bytes,
            },
            bytes,
            version: self.inner.version(),
            load_timeout: self.terms.load_timeout,
        };
        // Before the child reads them, so that a change meanwhile is not missed.
        let stamp = start.stamp();
        let Running {
            child,
            control,
            opened,
        } = start.start()?;
        let label = format!(
            "model {} version {}",
            quoted(&self.terms.model),
            self.terms.version
        );
        tracing::info!("{label}: runs in process {}", child.id());
        let process = Arc::new(Process {
            label,
            start,
            stamp,
            opened,
            up: AtomicU32::new(1),
            state: Mutex::new(State {
                phase: Phase::Up {
                    pid: child.id(),
                    control: Arc::new(control),
                },
                since: Instant::now(),
                ended: Instant::now(),
                incarnation: 1,
                lanes: BTreeMap::new(),
                next_lane: 0,
                killed: None,
                crashes: 0,
                restarts: 0,
            }),
            changed: Condvar::new(),
        });
        let supervised = process.clone();
        let thread = std::thread::Builder::new().name("penstock-child".into());
        let pid = child.id();
        let restarts = self.terms.restarts;
        let spawned = thread.spawn(move || supervised.supervise(child, restarts));
        if let Err(error) = spawned {
            process.close();
            await_end(pid, 0);
            return Err(NnError::runtime(format!(
                "no thread to watch the model's process: {error}"
            )));
        }
        Ok(Arc::new(IsolatedSession(process)))
    }
}

/// How a graph's child is started, and started again.
struct Start {
    launcher: Launcher,
    open: Open,
    bytes: Option<Bytes>,
    /// Of the runtime.
    version: String,
    load_timeout: Duration,
}

/// A child that has loaded its graph.
struct Running {
    child: Child,
    control: Control,
    opened: Opened,
}

/// Names, sizes and times of the files beside a graph, which are read when the child is started again.
type Stamp = Vec<(PathBuf, u64, Option<SystemTime>)>;

impl Start {
    fn stamp(&self) -> Stamp {
        let folder = self.open.path.as_deref().and_then(Path::parent);
        let items = folder.and_then(|folder| std::fs::read_dir(folder).ok());
        let mut stamp: Stamp = (items.into_iter().flatten().flatten())
            .filter_map(|item| {
                let about = item.path().metadata().ok()?;
                about
                    .is_file()
                    .then(|| (item.path(), about.len(), about.modified().ok()))
            })
            .collect();
        stamp.sort();
        stamp
    }

    /// Starts a child and has it load the graph. Blocks.
    fn start(&self) -> Result<Running, NnError> {
        let failed = |what: &str, error: std::io::Error| {
            NnError::runtime(format!(
                "a process for the model cannot be started: {what}: {error}; write isolation = \"thread\" in [engine] \
                 to run it in the server"
            ))
        };
        let (control, theirs) = Control::pair().map_err(|error| failed("no socket", error))?;
        let mailbox = Segment::new().map_err(|error| failed("no shared memory", error))?;
        let text = self.open.to_json();
        let graph = match &self.bytes {
            None => None,
            Some(bytes) => {
                let segment = Segment::new().map_err(|error| failed("no shared memory", error))?;
                segment
                    .grow(bytes.len())
                    .map_err(|error| failed("no shared memory for the graph", error))?;
                // SAFETY: the child does not know the segment yet.
                unsafe { segment.bytes_mut(bytes.len()) }.copy_from_slice(bytes);
                Some(segment)
            }
        };
        mailbox
            .grow(text.len())
            .map_err(|error| failed("no shared memory", error))?;
        // SAFETY: as above.
        unsafe { mailbox.bytes_mut(text.len()) }.copy_from_slice(text.as_bytes());
        let mut command = Command::new(&self.launcher.program);
        command
            // As lists of processes show it.
            .arg0("penstock")
            .args(&self.launcher.arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_for_children(name)))
            .envs(self.launcher.environment.iter().cloned())
            .current_dir("/")
            // A signal from a terminal is for the server, which drains first.
            .process_group(0)
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null());
        let mut child = Reaped(Some(
            spawn(command).map_err(|error| failed("it does not start", error))?,
        ));
        let fds: Vec<BorrowedFd<'_>> = [Some(&mailbox), graph.as_ref()]
            .into_iter()
            .flatten()
            .map(|segment| segment.fd())
            .collect();
        let note = Note {
            kind: Kind::Open,
            number: u32::try_from(text.len()).unwrap_or(u32::MAX),
            run: 0,
        };
        let asked = control.send(note, &fds);
        let patience = control.patience(Some(self.load_timeout));
        let received = asked.and(patience).and_then(|()| control.receive());
        let answer = match received {
            Ok(Some((note, _))) if note.kind == Kind::Opened => {
                let len = usize::try_from(note.number).unwrap_or(usize::MAX);
                let text = Slice::of(&mailbox, 0, len);
                text.and_then(|text| wire::opened_from_json(text.as_ref()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(NnError::runtime(format!(
                    "loading it took longer than {} s and was ended; raise models.load_timeout_ms, or correct the graph",
                    self.load_timeout.as_secs()
                )));
            }
            Ok(_) | Err(_) => None,
        };
        let opened = answer.unwrap_or_else(|| {
            Err(NnError::runtime(format!(
                "the process that loaded it {}: the runtime cannot load this graph; try another backend or another \
                 version of the runtime",
                how(child.end())
            )))
        })?;
        if opened.version != self.version {
            return Err(NnError::runtime(format!(
                "the runtime's library was replaced (version {} was loaded, {} is there now); restart the server",
                self.version, opened.version
            )));
        }
        let _ = control.patience(None);
        let child = child
            .0
            .take()
            .ok_or_else(|| NnError::runtime("the process ended"))?;
        Ok(Running {
            child,
            control,
            opened,
        })
    }
}

/// A child that is ended when this is dropped, and that leaves nothing behind.
struct Reaped(Option<Child>);

impl Reaped {
    fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.0.take()?;
        // What ended by itself keeps its own status.
        let by_itself = Instant::now() + Duration::from_millis(500);
        while Instant::now() < by_itself {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        child.wait().ok()
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_for_children(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        VARIABLES.contains(&name) || VARIABLES_OF.iter().any(|begin| name.starts_with(begin))
    })
}

/// Starts a process from a thread that lives as long as the server: the system ends children with the *thread* that
/// started them, and loads happen on threads that come and go.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        let thread = std::thread::Builder::new().name("penstock-starter".into());
        let spawned = thread.spawn(move || {
            for (mut command, reply) in taken {
                let _ = reply.send(command.spawn());
            }
        });
        spawned.is_ok().then_some(orders)
    });
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = mpsc::channel();
    let starter = starter.as_ref().ok_or_else(gone)?;
    starter.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// How a process ended, in words that follow its name.
fn how(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "ended".into();
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by {}", signal_name(signal)),
        (None, Some(code)) => format!("ended with status {code}"),
        (None, None) => "ended".into(),
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTRAP => "SIGTRAP",
        other => return format!("signal {other}"),
    };
    format!("{name} (signal {signal})")
}

/// A graph's child, whichever it is at the moment.
struct Process {
    /// Model and version, for messages.
    label: String,
    start: Start,
    stamp: Stamp,
    opened: Opened,
    /// Which child serves, counted from 1; 0 where none does.
    up: AtomicU32,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    phase: Phase,
    /// When the child that served last was ready.
    since: Instant,
    /// When it ended.
    ended: Instant,
    /// Children that were started.
    incarnation: u32,
    lanes: BTreeMap<u32, Weak<LaneShared>>,
    next_lane: u32,
    /// Why the child was ended by this side.
    killed: Option<String>,
    crashes: u64,
    restarts: u64,
}

enum Phase {
    /// A child serves.
    Up { pid: u32, control: Arc<Control> },
    /// It ended, and is started again at this time.
    Down { until: Instant, reason: String },
    /// It is being started again.
    Starting { reason: String },
    /// The model was unloaded.
    Closed,
}

impl State {
    /// Ends every call that the child runs.
    fn all_gone(&self) {
        for lane in self.lanes.values().filter_map(Weak::upgrade) {
            let header = Header::of(&lane.calls);
            lane.gone.store(self.incarnation, Ordering::SeqCst);
            header.done.store(GONE, Ordering::SeqCst);
            shared::wake(&header.done);
        }
    }

    /// Ends the child, unless it has ended. Its number is not another's: it is given back under this lock.
    fn kill(&mut self) -> bool {
        let Phase::Up { pid, .. } = &self.phase else {
            return false;
        };
        if let Ok(pid) = libc::pid_t::try_from(*pid) {
            // SAFETY: sends a signal to a child of this process that nobody has waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        true
    }
}

impl Process {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for the child and starts it again, until the model is unloaded.
    fn supervise(self: Arc<Self>, child: Child, mut restarts: Restarts) {
        let mut child = Some(child);
        loop {
            let Some(mut ended) = child.take() else {
                return;
            };
            await_end(ended.id(), libc::WNOWAIT);
            let mut state = self.lock();
            let status = ended.wait().ok();
            self.up.store(0, Ordering::SeqCst);
            let lived = state.since.elapsed();
            if let Phase::Closed = state.phase {
                state.all_gone();
                return;
            }
            state.ended = Instant::now();
            let wait = restarts.wait(lived, chance());
            let reason = match state.killed.take() {
                Some(why) => format!("its process was ended because {why}"),
                None => format!("its process {}", how(status)),
            };
            state.crashes += 1;
            tracing::error!(
                "{}: {reason}; it is started again in {} ms (ended {} times so far)",
                self.label,
                wait.as_millis(),
                state.crashes
            );
            state.phase = Phase::Down {
                until: Instant::now() + wait,
                reason: reason.clone(),
            };
            state.all_gone();
            drop(state);
            self.changed.notify_all();
            child = self.bring_back(&mut restarts, reason, wait);
        }
    }

    /// Starts the child again, as often as it takes. None where the model was unloaded.
    fn bring_back(
        &self,
        restarts: &mut Restarts,
        mut reason: String,
        mut wait: Duration,
    ) -> Option<Child> {
        loop {
            let mut state = self.lock();
            let began = Instant::now();
            while let Some(left) = wait.checked_sub(began.elapsed()) {
                if let Phase::Closed = state.phase {
                    return None;
                }
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
            if let Phase::Closed = state.phase {
                return None;
            }
            state.phase = Phase::Starting {
                reason: reason.clone(),
            };
            drop(state);
            self.changed.notify_all();
            let started = self.start_again();
            let mut state = self.lock();
            match started {
                Ok(Running { child, control, .. }) => {
                    let mut child = Reaped(Some(child));
                    if let Phase::Closed = state.phase {
                        return None;
                    }
                    let running = child.0.take()?;
                    state.incarnation = state.incarnation.wrapping_add(1).max(1);
                    state.restarts += 1;
                    state.phase = Phase::Up {
                        pid: running.id(),
                        control: Arc::new(control),
                    };
                    state.since = Instant::now();
                    self.up.store(state.incarnation, Ordering::SeqCst);
                    tracing::info!("{}: runs again, in process {}", self.label, running.id());
                    drop(state);
                    self.changed.notify_all();
                    return Some(running);
                }
                Err(error) => {
                    wait = restarts.wait(Duration::ZERO, chance());
                    reason = format!("its process cannot be started again: {}", error.message);
                    tracing::error!(
                        "{}: {reason}; tried again in {} ms",
                        self.label,
                        wait.as_millis()
                    );
                    if let Phase::Closed = state.phase {
                        return None;
                    }
                    state.phase = Phase::Down {
                        until: Instant::now() + wait,
                        reason: reason.clone(),
                    };
                    drop(state);
                    self.changed.notify_all();
                }
            }
        }
    }

    fn start_again(&self) -> Result<Running, NnError> {
        if self.start.stamp() != self.stamp {
            return Err(NnError::runtime(
                "the graph's files changed since they were loaded; load the model again",
            ));
        }
        let running = self.start.start()?;
        let same = running.opened.inputs == self.opened.inputs
            && running.opened.outputs == self.opened.outputs;
        if !same {
            let Running { child, .. } = running;
            drop(Reaped(Some(child)));
            return Err(NnError::runtime(
                "the graph has other inputs or outputs than before; load the model again",
            ));
        }
        Ok(running)
    }

    /// Lets go of the child for good.
    fn close(&self) {
        let mut state = self.lock();
        state.kill();
        state.phase = Phase::Closed;
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the child for what one of its lanes does.
    fn end(&self, why: String) {
        let mut state = self.lock();
        if !state.kill() {
            return;
        }
        self.up.store(0, Ordering::SeqCst);
        state.ended = Instant::now();
        state.phase = Phase::Down {
            // The thread that waits for the child says it better in a moment.
            until: Instant::now() + FIRST_WAIT,
            reason: format!("its process was ended because {why}"),
        };
        state.killed = Some(why);
        state.all_gone();
        drop(state);
        self.changed.notify_all();
    }

    /// What a call is told whose child ended under it.
    fn ended(&self) -> NnError {
        let state = self.lock();
        let (reason, wait) = match &state.phase {
            Phase::Down { until, reason } => (
                reason.as_str(),
                until.saturating_duration_since(Instant::now()),
            ),
            Phase::Starting { reason } => (reason.as_str(), FIRST_WAIT),
            Phase::Up { .. } => ("its process ended", Duration::ZERO),
            Phase::Closed => ("it is being unloaded", FIRST_WAIT),
        };
        NnError::refused(
            Refusal::Ended,
            format!(
                "{} did not answer: {reason} while it ran this call; it is started again: try again later, and if the \
                 same call fails again, report it to the operator",
                self.label
            ),
        )
        .retry_after(wait.max(FIRST_WAIT))
    }
}

/// Waits until a child has ended; with `WNOWAIT` its number stays taken.
fn await_end(pid: u32, flags: i32) {
    loop {
        // SAFETY: zeroes are a valid `siginfo_t`, which the call fills.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is writable.
        let waited = unsafe { libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | flags) };
        let interrupted =
            || std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
        if waited == 0 || !interrupted() {
            return;
        }
    }
}

/// A number from 0 to 1 that differs from model to model.
fn chance() -> f64 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mixed = nanos
        .map_or(0, |since| since.subsec_nanos())
        .wrapping_mul(2_654_435_761);
    f64::from(mixed) / f64::from(u32::MAX)
}

struct IsolatedSession(Arc<Process>);

impl Drop for IsolatedSession {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Session for IsolatedSession {
    fn inputs(&self) -> &[Port] {
        &self.0.opened.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.0.opened.outputs
    }

    fn has_default(&self, input: usize) -> bool {
        self.0.opened.defaults.get(input) == Some(&true)
    }

    fn lane(&self) -> Result<Box<dyn Lane>, NnError> {
        let failed = |error: std::io::Error| {
            NnError::runtime(format!("no shared memory for a lane: {error}"))
        };
        let calls = Segment::new().map_err(failed)?;
        let header = Header::of(&calls);
        // No run is this one.
        header.interrupted.store(u32::MAX, Ordering::SeqCst);
        let answers = (0..ANSWERS).map(|_| Segment::new());
        let answers = answers.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut state = self.0.lock();
        let number = state.next_lane;
        state.next_lane = state.next_lane.wrapping_add(1);
        let shared = Arc::new(LaneShared {
            number,
            calls,
            answers,
            gone: AtomicU32::new(0),
            process: self.0.clone(),
        });
        state.lanes.retain(|_, lane| lane.strong_count() > 0);
        state.lanes.insert(number, Arc::downgrade(&shared));
        drop(state);
        let mut lane = IsolatedLane {
            shared,
            attached: 0,
            begun: None,
            waited: false,
            looks: Looks::default(),
        };
        lane.attach()?;
        Ok(Box::new(lane))
    }

    fn cost(&self) -> Cost {
        self.0.opened.cost.clone()
    }

    fn rows(&self) -> Rows {
        self.0.opened.rows.clone()
    }

    fn memory_bytes(&self) -> Option<u64> {
        self.0.opened.memory_bytes
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn refuses(&self) -> Option<String> {
        if self.0.up.load(Ordering::SeqCst) != 0 {
            return None;
        }
        let state = self.0.lock();
        let long = state.ended.elapsed() > PATIENCE;
        match &state.phase {
            Phase::Up { .. } => None,
            Phase::Down { until, reason } => {
                let wait = until.saturating_duration_since(Instant::now());
                (long || wait > PATIENCE).then(|| reason.clone())
            }
            Phase::Starting { reason } => long.then(|| reason.clone()),
            Phase::Closed => Some("it is being unloaded".into()),
        }
    }

    fn process(&self) -> Option<ProcessStats> {
        let state = self.0.lock();
        let (down, pid) = match &state.phase {
            Phase::Up { pid, .. } => (None, Some(*pid)),
            Phase::Down { reason, .. } | Phase::Starting { reason } => (Some(reason.clone()), None),
            Phase::Closed => (Some("unloaded".into()), None),
        };
        let (crashes, restarts) = (state.crashes, state.restarts);
        drop(state);
        Some(ProcessStats {
            pid,
            down,
            crashes,
            restarts,
            resident_bytes: pid.and_then(|pid| status_bytes(Some(pid), "RssAnon")),
        })
    }
}

/// What a lane, its interrupt and its process's thread share.
struct LaneShared {
    number: u32,
    /// The header, and the inputs of a call.
    calls: Arc<Segment>,
    answers: Vec<Arc<Segment>>,
    /// The last child of this lane that ended.
    gone: AtomicU32,
    process: Arc<Process>,
}

impl LaneShared {
    fn header(&self) -> &Header {
        Header::of(&self.calls)
    }

    fn control(&self) -> Option<Arc<Control>> {
        match &self.process.lock().phase {
            Phase::Up { control, .. } => Some(control.clone()),
            _ => None,
        }
    }

    fn is_interrupted(&self) -> bool {
        let header = self.header();
        header.interrupted.load(Ordering::SeqCst) == header.run.load(Ordering::SeqCst)
    }
}

impl Interrupt for LaneShared {
    fn interrupt(&self) {
        let header = self.header();
        let run = header.run.load(Ordering::SeqCst);
        header.interrupted.store(run, Ordering::SeqCst);
        if let Some(control) = self.control() {
            let note = Note {
                kind: Kind::Interrupt,
                number: self.number,
                run,
            };
            // A child that does not read is ended when the run's time is over.
            let _ = control.send(note, &[]);
        }
        // For a call that waits for the child to come back.
        self.process.changed.notify_all();
    }

    fn reset(&self) {
        let run = &self.header().run;
        // Never the number that says that no run was interrupted.
        run.store(
            run.load(Ordering::SeqCst).wrapping_add(1) % u32::MAX,
            Ordering::SeqCst,
        );
    }

    fn kill(&self) -> bool {
        self.process.end(
            "a run went on after nobody waited for it, and did not end when it was told to end"
                .into(),
        );
        true
    }
}

struct IsolatedLane {
    shared: Arc<LaneShared>,
    /// The child that has this lane.
    attached: u32,
    /// A call that was handed over.
    begun: Option<Result<u32, NnError>>,
    /// Whether the last run waited for a child.
    waited: bool,
    looks: Looks,
}

impl IsolatedLane {
    /// Sees to it that the child that serves has this lane. Waits for a child that is started again.
    fn attach(&mut self) -> Result<(), NnError> {
        let shared = self.shared.clone();
        let process = &shared.process;
        let up = process.up.load(Ordering::SeqCst);
        if up != 0 && up == self.attached {
            return Ok(());
        }
        self.waited = true;
        let header = shared.header();
        let mut state = process.lock();
        let refused = |reason: &str, wait: Duration| {
            let text = format!(
                "{} cannot answer at the moment: {reason}; try again later",
                process.label
            );
            NnError::refused(Refusal::NotReady, text).retry_after(wait.max(FIRST_WAIT))
        };
        let control = loop {
            match &state.phase {
                Phase::Up { control, .. } => break control.clone(),
                Phase::Down { until, reason } => {
                    let wait = until.saturating_duration_since(Instant::now());
                    if wait > PATIENCE {
                        return Err(refused(reason, wait));
                    }
                }
                Phase::Starting { .. } => {}
                Phase::Closed => return Err(refused("it is being unloaded", FIRST_WAIT)),
            }
            if shared.is_interrupted() {
                return Err(NnError::runtime("the run was ended early"));
            }
            let waited = process.changed.wait_timeout(state, LOOK_FOR_INTERRUPT);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        };
        self.attached = state.incarnation;
        let call = next_call(header);
        header.call.store(call, Ordering::SeqCst);
        header.answer_in.store(0, Ordering::SeqCst);
        let segments = std::iter::once(&shared.calls).chain(&shared.answers);
        let fds: Vec<BorrowedFd<'_>> = segments.map(|segment| segment.fd()).collect();
        let note = Note {
            kind: Kind::Lane,
            number: shared.number,
            run: 0,
        };
        let sent = control.send(note, &fds);
        drop(state);
        if let Err(error) = sent {
            self.attached = 0;
            return Err(NnError::runtime(format!(
                "the model's process does not take a lane: {error}"
            )));
        }
        match self.finish(call, Some(LANE_TIMEOUT)) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => {
                self.attached = 0;
                Err(error)
            }
            None => {
                self.attached = 0;
                process.end("it did not make a lane in time".into());
                Err(process.ended())
            }
        }
    }

    /// Hands a call to the child, and returns its number.
    fn post(&mut self, inputs: &[NnTensor]) -> Result<u32, NnError> {
        self.attach()?;
        let shared = &self.shared;
        let header = shared.header();
        let size = wire::tensors_size(inputs);
        let grown = shared.calls.grow(BODY + size);
        // SAFETY: the child reads it when it is called, below; before that nobody does.
        let room = || unsafe { shared.calls.bytes_mut(BODY + size) };
        if grown.is_err() || !wire::put_tensors(inputs, &mut room()[BODY..]) {
            return Err(NnError::too_large(format!(
                "the call's inputs take {size} bytes, which is more than a model's process is given at once"
            )));
        }
        header.call_bytes.store(size as u64, Ordering::Release);
        // The last is never lent, so there is one.
        let free = (shared.answers.iter()).position(|segment| Arc::strong_count(segment) == 1);
        let chosen = free.unwrap_or(ANSWERS - 1);
        header.answer_in.store(chosen as u32, Ordering::Release);
        let call = next_call(header);
        shared::announce(&header.call, call, &header.child_sleeps);
        Ok(call)
    }

    /// Waits for the answer to a call; none where it did not come in time.
    fn finish(
        &mut self,
        call: u32,
        at_most: Option<Duration>,
    ) -> Option<Result<Vec<NnTensor>, NnError>> {
        let shared = self.shared.clone();
        let header = shared.header();
        let began = Instant::now();
        loop {
            if shared.gone.load(Ordering::SeqCst) == self.attached {
                self.attached = 0;
                return Some(Err(shared.process.ended()));
            }
            let done = header.done.load(Ordering::Acquire);
            if done == call {
                return Some(self.take());
            }
            let left = match at_most {
                None => LOOK_AGAIN,
                Some(at_most) => at_most.checked_sub(began.elapsed())?.min(LOOK_AGAIN),
            };
            shared::await_change(&header.done, done, &header.server_sleeps, &self.looks, left);
        }
    }

    /// Takes the answer that is there.
    fn take(&mut self) -> Result<Vec<NnTensor>, NnError> {
        let shared = self.shared.clone();
        let header = shared.header();
        let broken = || {
            shared
                .process
                .end("it answered with an invalid message".into());
            shared.process.ended()
        };
        let chosen = header.answer_in.load(Ordering::Acquire) as usize;
        let segment = shared.answers.get(chosen).ok_or_else(broken)?;
        let len =
            usize::try_from(header.answer_bytes.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let lends = chosen + 1 < ANSWERS && len <= answers::LEND_AT_MOST;
        let outputs = answers::read(segment, len, lends).ok_or_else(broken)??;
        if !lends {
            segment.release(len);
        }
        let called = usize::try_from(header.call_bytes.load(Ordering::Acquire)).unwrap_or(0);
        shared.calls.release(BODY + called);
        Ok(outputs)
    }
}

/// The number of the next call of a lane; never [`GONE`].
fn next_call(header: &Header) -> u32 {
    header.call.load(Ordering::SeqCst).wrapping_add(1).max(1)
}

impl Lane for IsolatedLane {
    fn run(&mut self, inputs: &[NnTensor]) -> Result<Vec<NnTensor>, NnError> {
        let call = match self.begun.take() {
            Some(begun) => begun?,
            None => {
                self.waited = false;
                self.post(inputs)?
            }
        };
        let finished = self.finish(call, None);
        finished.unwrap_or_else(|| Err(self.shared.process.ended()))
    }

    fn begin(&mut self, inputs: &[NnTensor], at_most: Duration) -> bool {
        self.waited = false;
        let up = self.shared.process.up.load(Ordering::SeqCst);
        if up == 0 || up != self.attached {
            return false;
        }
        let posted = self.post(inputs);
        let ready = match &posted {
            Ok(call) => self.is_done(*call, at_most),
            Err(_) => true,
        };
        self.begun = Some(posted);
        ready
    }

    fn waited(&self) -> bool {
        self.waited
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.shared.clone())
    }
}

impl IsolatedLane {
    /// Waits for an answer without taking it.
    fn is_done(&self, call: u32, at_most: Duration) -> bool {
        let header = self.shared.header();
        let began = Instant::now();
        loop {
            let done = header.done.load(Ordering::Acquire);
            if done == call || self.shared.gone.load(Ordering::SeqCst) == self.attached {
                return true;
            }
            let Some(left) = at_most.checked_sub(began.elapsed()) else {
                return false;
            };
            shared::await_change(&header.done, done, &header.server_sleeps, &self.looks, left);
        }
    }
}

impl Drop for IsolatedLane {
    fn drop(&mut self) {
        if let Some(control) = self.shared.control() {
            let note = Note {
                kind: Kind::Drop,
                number: self.shared.number,
                run: 0,
            };
            let _ = control.send(note, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_the_server_is_in_a_childs_environment() {
        for name in [
            "PENSTOCK_ADMIN_TOKEN",
            "SPIN_VARIABLE_PEPPER",
            "AWS_SECRET_ACCESS_KEY",
            "LD_PRELOAD",
        ] {
            assert!(!is_for_children(OsStr::new(name)), "{name}");
        }
        for name in [
            "PATH",
            "LD_LIBRARY_PATH",
            "CUDA_VISIBLE_DEVICES",
            "OMP_NUM_THREADS",
        ] {
            assert!(is_for_children(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_signal_is_told_by_its_name() {
        assert_eq!(signal_name(libc::SIGSEGV), "SIGSEGV (signal 11)");
        assert_eq!(signal_name(40), "signal 40");
    }
}
