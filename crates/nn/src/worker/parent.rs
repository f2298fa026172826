//! The server's side: starts a child for each graph, hands it calls, and handles its end.

use super::instance::IsolatedInstance;
use super::process::{
    ANSWERS, InstanceShared, PATIENCE, Phase, Process, Running, Start, State, await_end,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::launcher::Launcher;
use super::restart::Restarts;
use super::shared::{Header, Looks, Segment};
use super::status::status_bytes;
use super::wire::Open;
use crate::backend::{
    Backend, Cost, GraphSource, Instance, LoadOptions, Port, ProcessStats, Rows, Session,
};
use crate::error::{NnError, quoted};

/// The load that a child is started for.
#[derive(Debug, Clone)]
pub struct ChildOptions {
    /// The model, for messages.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The longest a load may take; then its process is ended.
    pub load_timeout: Duration,
    /// Bytes of private memory that the process may map; none leaves it to what the load took and runs may take.
    pub process_bytes: Option<u64>,
    /// The times at which a process that ended is started again.
    pub restarts: Restarts,
    /// Whether no call waits for the process. It then has the lowest priority, and the kernel ends it first if memory runs
    /// out.
    pub in_background: bool,
}

/// A backend whose graphs are each in a process of their own.
pub struct Isolated {
    inner: Arc<dyn Backend>,
    launcher: Launcher,
    child: ChildOptions,
}

impl Isolated {
    /// `inner`'s graphs, in processes that `launcher` starts.
    pub fn new(inner: Arc<dyn Backend>, launcher: Launcher, child: ChildOptions) -> Self {
        Self {
            inner,
            launcher,
            child,
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
                process_bytes: self.child.process_bytes,
            },
            bytes,
            version: self.inner.version(),
            may_move: self.inner.runs_on_calling_thread(options),
            load_timeout: self.child.load_timeout,
            in_background: self.child.in_background,
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
            quoted(&self.child.model),
            self.child.version
        );
        match self.child.in_background {
            true => tracing::debug!("{label}: runs in process {}", child.id()),
            false => tracing::info!("{label}: runs in process {}", child.id()),
        }
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
                instances: BTreeMap::new(),
                next_instance: 0,
                killed: None,
                crashes: 0,
                restarts: 0,
            }),
            changed: Condvar::new(),
        });
        let supervised = process.clone();
        let thread = std::thread::Builder::new().name("penstock-child".into());
        let pid = child.id();
        let restarts = self.child.restarts;
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

    fn instance(&self) -> Result<Box<dyn Instance>, NnError> {
        let failed = |error: std::io::Error| {
            NnError::runtime(format!("no shared memory for an instance: {error}"))
        };
        let calls = Segment::new().map_err(failed)?;
        let header = Header::of(&calls);
        // No run is this one.
        header.interrupted.store(u32::MAX, Ordering::SeqCst);
        let answers = (0..ANSWERS).map(|_| Segment::new());
        let answers = answers.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut state = self.0.lock();
        let number = state.next_instance;
        state.next_instance = state.next_instance.wrapping_add(1);
        let shared = Arc::new(InstanceShared {
            number,
            calls,
            answers,
            gone: AtomicU32::new(0),
            process: self.0.clone(),
        });
        state
            .instances
            .retain(|_, instance| instance.strong_count() > 0);
        state.instances.insert(number, Arc::downgrade(&shared));
        drop(state);
        let mut instance = IsolatedInstance {
            shared,
            attached: 0,
            begun: None,
            waited: false,
            looks: Looks::default(),
            kept: None,
        };
        instance.attach()?;
        Ok(Box::new(instance))
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
