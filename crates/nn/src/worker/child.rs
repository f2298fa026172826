//! The child: loads one graph and runs it for the server that started it.
//!
//! Its standard input is the socket to the server. It ends when that closes, and by signal when the server dies.
//! Signals that a terminal or a service manager sends to all processes of a server are ignored: the server decides when
//! its children end.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use penstock_tensor::contract::Provider;

use super::control::{Control, Kind, Note};
use super::shared::{self, BODY, Header, Looks, Segment, Slice};
use super::spawn::IN_BACKGROUND;
use super::status::mapped_bytes;
use super::wire::{self, Message, Open, Opened};
use crate::backend::{Backend, GraphSource, Instance, Interrupt, LoadOptions, Session, panic_text};
use crate::error::NnError;
use crate::tensor::NnTensor;

/// Private memory that a process may map beyond its load and its runs: stacks, the allocator's reserves, and data that
/// a runtime keeps for prepared shapes.
const SLACK_BYTES: u64 = 1 << 30;

/// The lowest priority of a process (`nice`).
const LOWEST_PRIORITY: libc::c_int = 19;

/// The longest an instance's thread sleeps before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Finds the backend of a name, with its library.
pub type Find = dyn Fn(&str, Option<&Path>) -> Result<Arc<dyn Backend>, NnError>;

/// Serves the process that started this one until it goes.
pub fn run(find: &Find) -> ExitCode {
    let control = match prepare() {
        Ok(control) => control,
        Err(error) => {
            eprintln!("penstock worker: cannot start: {error}; only a server starts it");
            return ExitCode::FAILURE;
        }
    };
    // It returns when the server is gone.
    let _ = serve(&control, find);
    // Without the clean-up code of native libraries: their threads may still run.
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// Reduces the process to its needs, and takes the socket.
fn prepare() -> io::Result<Control> {
    // SAFETY: each call changes this process alone, and none takes a pointer that outlives it.
    unsafe {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_IGN);
        }
        // Rust's own handlers report stack overflows. Here the server must see the signal itself.
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        // The image of a process that a runtime ended holds what clients sent, and takes long to write.
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        // Native libraries of the server may hold files open without the flag that closes them here.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
    let in_background = std::env::var_os(IN_BACKGROUND).is_some();
    // If memory runs out, the kernel should end this process before the server, and one that no call waits for first.
    let score = if in_background { "1000" } else { "500" };
    let _ = std::fs::write("/proc/self/oom_score_adj", score);
    if in_background {
        // Later threads inherit it.
        // SAFETY: changes the priority of this thread alone.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST_PRIORITY) };
    }
    // SAFETY: the descriptor is duplicated, and only this code owns the new one.
    let socket = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let nothing = File::open("/dev/null")?;
    // SAFETY: both descriptors are open.
    if unsafe { libc::dup2(nothing.as_raw_fd(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Control::of(socket))
}

/// An instance's interrupt and the run it is in.
#[derive(Default)]
struct Ending {
    interrupt: Option<Arc<dyn Interrupt>>,
    /// The run under way.
    run: Option<u32>,
}

type Endings = Mutex<Ending>;

fn lock(ending: &Endings) -> MutexGuard<'_, Ending> {
    ending
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Serves until the server is gone. `None` also if the server sent a message that it never sends.
fn serve(control: &Control, find: &Find) -> Option<()> {
    let (note, fds) = control.receive().ok()??;
    if note.kind != Kind::Open {
        return None;
    }
    let mut fds = fds.into_iter();
    let mailbox = Segment::of(fds.next()?).ok()?;
    let asked = Slice::of(&mailbox, 0, usize::try_from(note.number).ok()?)?;
    let open = Open::from_json(asked.as_ref())?;
    drop(asked);
    let loaded = catch_unwind(AssertUnwindSafe(|| load(&open, fds.next(), find)));
    let loaded = loaded.unwrap_or_else(|panic| {
        Err(NnError::runtime(format!(
            "loading it panicked ({}); this is a fault of the server",
            panic_text(&*panic)
        )))
    });
    let (opened, session) = match loaded {
        Ok((opened, session)) => (Ok(opened), Some(session)),
        Err(error) => (Err(error), None),
    };
    let text = wire::opened_to_json(&opened);
    mailbox.grow(text.len()).ok()?;
    // SAFETY: the server reads it after the message below.
    unsafe { mailbox.bytes_mut(text.len()) }.copy_from_slice(text.as_bytes());
    let answer = Note {
        kind: Kind::Opened,
        number: u32::try_from(text.len()).ok()?,
        run: 0,
    };
    control.send(answer, &[]).ok()?;
    drop(mailbox);
    let session = session?;
    let mut instances: HashMap<u32, (Arc<Endings>, Arc<Segment>)> = HashMap::new();
    loop {
        let (note, fds) = control.receive().ok()??;
        match note.kind {
            Kind::Instance => {
                let segments: Vec<Arc<Segment>> = fds
                    .into_iter()
                    .map(Segment::of)
                    .collect::<Result<_, _>>()
                    .ok()?;
                let first = segments.first()?.clone();
                let ending: Arc<Endings> = Arc::default();
                instances.insert(note.number, (ending.clone(), first));
                let session = session.clone();
                std::thread::Builder::new()
                    .name(format!("instance-{}", note.number))
                    .spawn(move || attend(&*session, &segments, &ending))
                    .ok()?;
            }
            Kind::Interrupt => {
                if let Some((ending, _)) = instances.get(&note.number) {
                    let ending = lock(ending);
                    if let (Some(run), Some(interrupt)) = (ending.run, &ending.interrupt)
                        && run == note.run
                    {
                        interrupt.interrupt();
                    }
                }
            }
            Kind::Drop => {
                if let Some((_, segment)) = instances.remove(&note.number) {
                    let header = Header::of(&segment);
                    header.end.store(1, Ordering::SeqCst);
                    header.call.fetch_add(1, Ordering::SeqCst);
                    shared::wake(&header.call);
                }
            }
            Kind::Open | Kind::Opened => return None,
        }
    }
}

fn load(
    open: &Open,
    graph: Option<OwnedFd>,
    find: &Find,
) -> Result<(Opened, Arc<dyn Session>), NnError> {
    if let Some(bytes) = open.process_bytes {
        limit_memory(bytes);
    }
    let backend = find(&open.backend, open.library.as_deref())?;
    let source = match (&open.path, graph) {
        (Some(path), _) => GraphSource::File(path.clone()),
        (None, Some(graph)) => {
            let unreadable = || NnError::runtime("the graph's bytes are incomplete");
            let segment = Segment::of(graph).map_err(|_| unreadable())?;
            let len = usize::try_from(open.graph_bytes).map_err(|_| unreadable())?;
            let slice = Slice::of(&segment, 0, len).ok_or_else(unreadable)?;
            GraphSource::Bytes(Bytes::from_owner(slice))
        }
        (None, None) => return Err(NnError::runtime("no graph was given")),
    };
    let session = backend.load(&source, &open.options)?;
    if open.process_bytes.is_none()
        && let Some(bytes) = allowance(&open.options)
    {
        limit_memory(mapped_bytes().unwrap_or(0).saturating_add(bytes));
    }
    let opened = Opened {
        version: backend.version(),
        inputs: session.inputs().to_vec(),
        defaults: (0..session.inputs().len())
            .map(|input| session.has_default(input))
            .collect(),
        outputs: session.outputs().to_vec(),
        cost: session.cost(),
        rows: session.rows(),
        memory_bytes: session.memory_bytes(),
    };
    Ok((opened, session))
}

/// Memory that runs may map beyond the load; `None` for devices whose driver maps far more than it uses.
fn allowance(options: &LoadOptions) -> Option<u64> {
    if options.provider != Provider::Cpu || options.device.is_some() {
        return None;
    }
    let a_run = u64::try_from(options.working_bytes?).ok()?;
    let instances = u64::try_from(options.instance_count()).ok()?;
    // Twice: a runtime may still hold the memory of one run while the next takes its own.
    Some(
        a_run
            .saturating_mul(2 * instances)
            .saturating_add(SLACK_BYTES),
    )
}

/// Bounds the private memory that can be written to. An allocation beyond it fails, which some runtimes report as an
/// error of the run; others end the process.
fn limit_memory(bytes: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit lives through both calls. A hard limit that is lower already holds.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_DATA, &mut limit) == 0 {
            limit.rlim_cur = bytes.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_DATA, &limit);
        }
    }
}

/// Runs one instance's calls.
fn attend(session: &dyn Session, segments: &[Arc<Segment>], ending: &Endings) {
    let Some((calls, answers)) = segments.split_first() else {
        return;
    };
    let header = Header::of(calls);
    // SAFETY: the call takes no arguments.
    let thread = unsafe { libc::gettid() };
    header
        .thread
        .store(thread.cast_unsigned(), Ordering::SeqCst);
    // Numbers continue from the server's: an instance outlives the process that ran it before.
    let mut seen = header.call.load(Ordering::SeqCst);
    let mut instance = None;
    let looks = Looks::default();
    // The first answer is whether there is an instance.
    let made = make(session, &mut instance, ending);
    answer(header, answers, made.map(|()| Vec::new()), seen);
    loop {
        let call = &header.call;
        if !shared::await_change(call, seen, &header.child_sleeps, &looks, LOOK_AGAIN) {
            if header.end.load(Ordering::SeqCst) != 0 {
                return;
            }
            continue;
        }
        if header.end.load(Ordering::SeqCst) != 0 {
            return;
        }
        seen = call.load(Ordering::Acquire);
        let ran = run_one(session, &mut instance, header, calls, ending);
        answer(header, answers, ran, seen);
    }
}

fn make(
    session: &dyn Session,
    instance: &mut Option<Box<dyn Instance>>,
    ending: &Endings,
) -> Result<(), NnError> {
    let made = catch_unwind(AssertUnwindSafe(|| session.instance()));
    let made = made.unwrap_or_else(|panic| Err(panicked(&*panic)))?;
    lock(ending).interrupt = made.interrupt();
    *instance = Some(made);
    Ok(())
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> NnError {
    NnError::runtime(format!(
        "the backend panicked on this call: {}",
        panic_text(panic)
    ))
}

fn run_one(
    session: &dyn Session,
    instance: &mut Option<Box<dyn Instance>>,
    header: &Header,
    calls: &Arc<Segment>,
    ending: &Endings,
) -> Result<Vec<NnTensor>, NnError> {
    if instance.is_none() {
        make(session, instance, ending)?;
    }
    let inputs = inputs(header, calls)
        .ok_or_else(|| NnError::runtime("the call reached the model's process incomplete"))?;
    let run = header.run.load(Ordering::SeqCst);
    begin(ending, run, &header.interrupted);
    let ran = catch_unwind(AssertUnwindSafe(|| match instance.as_mut() {
        Some(instance) => instance.run(&inputs),
        None => Err(NnError::runtime("the model has no instance")),
    }));
    lock(ending).run = None;
    ran.unwrap_or_else(|panic| {
        *instance = None;
        Err(panicked(&*panic))
    })
}

/// From here on the run can be interrupted; it is interrupted at once if that was asked before it began.
fn begin(ending: &Endings, run: u32, interrupted: &AtomicU32) {
    let mut ending = lock(ending);
    ending.run = Some(run);
    if let Some(interrupt) = &ending.interrupt {
        interrupt.reset();
        if interrupted.load(Ordering::SeqCst) == run {
            interrupt.interrupt();
        }
    }
}

fn inputs(header: &Header, calls: &Arc<Segment>) -> Option<Vec<NnTensor>> {
    let len = usize::try_from(header.call_bytes.load(Ordering::Acquire)).ok()?;
    let message = Slice::of(calls, BODY, len)?;
    let Message::Tensors(placed) = wire::read(message.as_ref(), len)? else {
        return None;
    };
    let tensors = placed.into_iter().map(|placed| {
        let slice = Slice::of(calls, BODY + placed.at, placed.len)?;
        Some(NnTensor {
            ty: placed.ty,
            dims: placed.dims,
            data: Bytes::from_owner(slice),
        })
    });
    tensors.collect()
}

/// Writes the result of a call, and announces it.
fn answer(
    header: &Header,
    answers: &[Arc<Segment>],
    ran: Result<Vec<NnTensor>, NnError>,
    call: u32,
) {
    let chosen = header.answer_in.load(Ordering::Acquire) as usize;
    let Some(segment) = answers.get(chosen).or_else(|| answers.first()) else {
        return;
    };
    let written = match ran {
        Ok(tensors) => {
            let size = wire::tensors_size(&tensors);
            match segment.grow(size) {
                // SAFETY: the server reads and lends out this segment only after `done`, below.
                Ok(()) if wire::put_tensors(&tensors, unsafe { segment.bytes_mut(size) }) => size,
                _ => put_error(
                    segment,
                    &NnError::too_large(format!(
                        "the model's outputs take {size} bytes, which is too much"
                    )),
                ),
            }
        }
        Err(error) => put_error(segment, &error),
    };
    header.answer_bytes.store(written as u64, Ordering::Release);
    shared::announce(&header.done, call, &header.server_sleeps);
}

fn put_error(segment: &Segment, error: &NnError) -> usize {
    let bytes = wire::error(error);
    if segment.grow(bytes.len()).is_err() {
        return 0;
    }
    // SAFETY: as above.
    unsafe { segment.bytes_mut(bytes.len()) }.copy_from_slice(&bytes);
    bytes.len()
}
