//! Supervises a child process: starts it, and starts it again when it ends.

use super::control::{Control, Kind, Note};
use super::launcher::Launcher;
use super::restart::{FIRST_WAIT, Restarts};
use super::shared::{self, GONE, Header, Segment, Slice};
use super::spawn::{IN_BACKGROUND, Reaped, how, is_for_children, spawn};
use super::wire::{self, Open, Opened};
use crate::backend::Interrupt;
use crate::error::{EngineRefusal, NnError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant, SystemTime};

/// Segments for an instance's answers. All but one may be lent to callers at a time.
pub(super) const ANSWERS: usize = 3;

/// The longest wait of a call for a restart. If the next start is further away the call is refused at once, with the
/// time to retry.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The longest an instance may take to be made.
pub(super) const INSTANCE_TIMEOUT: Duration = Duration::from_secs(60);

/// The wait until a process in the background is started again: longer than anything that may wait for it.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The data to start a graph's child, and to start it again.
pub(super) struct Start {
    pub(super) launcher: Launcher,
    pub(super) open: Open,
    pub(super) bytes: Option<Bytes>,
    /// The runtime's version.
    pub(super) version: String,
    /// Whether the threads of instances may be moved to other processors between their runs.
    pub(super) may_move: bool,
    pub(super) load_timeout: Duration,
    /// Whether no call waits for the child; see [`IN_BACKGROUND`].
    pub(super) in_background: bool,
}

/// A child that has loaded its graph.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) control: Control,
    pub(super) opened: Opened,
}

/// Names, sizes and times of the files in a graph's folder that are read when the child is started again.
pub(super) type Stamp = Vec<(PathBuf, u64, Option<SystemTime>)>;

impl Start {
    pub(super) fn stamp(&self) -> Stamp {
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
    pub(super) fn start(&self) -> Result<Running, NnError> {
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
        if self.in_background {
            command.env(IN_BACKGROUND, "1");
        }
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

/// A graph's current child.
pub(super) struct Process {
    /// Model and version, for messages.
    pub(super) label: String,
    pub(super) start: Start,
    pub(super) stamp: Stamp,
    pub(super) opened: Opened,
    /// The number of the child that serves, counted from 1; 0 without one.
    pub(super) up: AtomicU32,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// The time at which the last child that served was ready.
    pub(super) since: Instant,
    /// The time at which it ended.
    pub(super) ended: Instant,
    /// Children that were started.
    pub(super) incarnation: u32,
    pub(super) instances: BTreeMap<u32, Weak<InstanceShared>>,
    pub(super) next_instance: u32,
    /// The reason that this side ended the child.
    pub(super) killed: Option<String>,
    pub(super) crashes: u64,
    pub(super) restarts: u64,
}

pub(super) enum Phase {
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
    pub(super) fn all_gone(&self) {
        for instance in self.instances.values().filter_map(Weak::upgrade) {
            let header = Header::of(&instance.calls);
            instance.gone.store(self.incarnation, Ordering::SeqCst);
            header.done.store(GONE, Ordering::SeqCst);
            shared::wake(&header.done);
        }
    }

    /// Ends the child, unless it has ended. Its number belongs to no other process, because it is released under this
    /// lock.
    pub(super) fn kill(&mut self) -> bool {
        let Phase::Up { pid, .. } = &self.phase else {
            return false;
        };
        if let Ok(pid) = libc::pid_t::try_from(*pid) {
            // SAFETY: sends a signal to a child of this process that has not been waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        true
    }
}

impl Process {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for the child and starts it again, until the model is unloaded.
    pub(super) fn supervise(self: Arc<Self>, child: Child, mut restarts: Restarts) {
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
            let wait = match self.start.in_background {
                true => NEVER,
                false => restarts.wait(lived, chance()),
            };
            let reason = match state.killed.take() {
                Some(why) => format!("its process was ended because {why}"),
                None => format!("its process {}", how(status)),
            };
            state.crashes += 1;
            match self.start.in_background {
                true => tracing::debug!("{}: {reason}", self.label),
                false => tracing::error!(
                    "{}: {reason}; it is started again in {} ms (ended {} times so far)",
                    self.label,
                    wait.as_millis(),
                    state.crashes
                ),
            }
            state.phase = Phase::Down {
                until: Instant::now() + wait,
                reason: reason.clone(),
            };
            state.all_gone();
            drop(state);
            self.changed.notify_all();
            if self.start.in_background {
                return;
            }
            child = self.bring_back(&mut restarts, reason, wait);
        }
    }

    /// Starts the child again, as often as necessary. `None` if the model was unloaded.
    pub(super) fn bring_back(
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

    pub(super) fn start_again(&self) -> Result<Running, NnError> {
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

    /// Gives the child up for good.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.kill();
        state.phase = Phase::Closed;
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the child because of the behaviour of one of its instances.
    pub(super) fn end(&self, why: String) {
        let mut state = self.lock();
        if !state.kill() {
            return;
        }
        self.up.store(0, Ordering::SeqCst);
        state.ended = Instant::now();
        state.phase = Phase::Down {
            // The thread that waits for the child gives the exact reason soon.
            until: Instant::now() + FIRST_WAIT,
            reason: format!("its process was ended because {why}"),
        };
        state.killed = Some(why);
        state.all_gone();
        drop(state);
        self.changed.notify_all();
    }

    /// The error for a call whose child ended during the run.
    pub(super) fn ended(&self) -> NnError {
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
        let remedy = match self.start.in_background {
            true => "",
            false => {
                "; it is started again: try again later, and if the same call fails again, report it to the operator"
            }
        };
        NnError::refused(
            EngineRefusal::Ended,
            format!(
                "{} did not answer: {reason} while it ran this call{remedy}",
                self.label
            ),
        )
        .retry_after(wait.max(FIRST_WAIT))
    }
}

/// Waits until a child has ended; with `WNOWAIT` its number stays taken.
pub(super) fn await_end(pid: u32, flags: i32) {
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
pub(super) fn chance() -> f64 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mixed = nanos
        .map_or(0, |since| since.subsec_nanos())
        .wrapping_mul(2_654_435_761);
    f64::from(mixed) / f64::from(u32::MAX)
}

/// The state that an instance, its interrupt and its process's thread share.
pub(super) struct InstanceShared {
    pub(super) number: u32,
    /// The header, and the inputs of a call.
    pub(super) calls: Arc<Segment>,
    pub(super) answers: Vec<Arc<Segment>>,
    /// The last child of this instance that ended.
    pub(super) gone: AtomicU32,
    pub(super) process: Arc<Process>,
}

impl InstanceShared {
    pub(super) fn header(&self) -> &Header {
        Header::of(&self.calls)
    }

    pub(super) fn control(&self) -> Option<Arc<Control>> {
        match &self.process.lock().phase {
            Phase::Up { control, .. } => Some(control.clone()),
            _ => None,
        }
    }

    pub(super) fn is_interrupted(&self) -> bool {
        let header = self.header();
        header.interrupted.load(Ordering::SeqCst) == header.run.load(Ordering::SeqCst)
    }
}

impl Interrupt for InstanceShared {
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
        self.process
            .end("an abandoned run did not end when it was told to".into());
        true
    }
}
