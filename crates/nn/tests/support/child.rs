//! A scripted backend in a child process. The first element of a call selects its behaviour.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_nn::backend::scripted::{self, Scripted, Step};
use penstock_nn::worker::restart::Restarts;
use penstock_nn::worker::{self, Launcher, ProcessStats};
use penstock_nn::{Backend, GraphSource, LoadOptions, Model, NnError, NnTensor};
use tokio::time::Instant;

use super::{as_fp32, fp32, isolated, isolated_with, launcher};

/// The behaviour of the scripted child, by the first element of a call.
pub mod asks {
    pub const ECHO: f32 = 0.0;
    /// Its own process's number.
    pub const PID: f32 = 1.0;
    pub const SIGSEGV: f32 = 2.0;
    pub const SIGSTOP: f32 = 3.0;
    /// Takes memory without end.
    pub const BLOAT: f32 = 4.0;
    pub const UNTIL_INTERRUPTED: f32 = 5.0;
    /// Runs for long and ignores interrupts.
    pub const DEAF: f32 = 6.0;
    pub const PANIC: f32 = 7.0;
    /// Answers with the number of descriptors of its process.
    pub const DESCRIPTORS: f32 = 8.0;
    /// Answers with the number of variables in its environment that begin with `PENSTOCK_` or `SPIN_`.
    pub const SECRETS: f32 = 9.0;
    /// Answers with 1 if the process can gain no privileges.
    pub const NO_NEW_PRIVILEGES: f32 = 11.0;
    /// Waits a moment before the answer.
    pub const SLOW: f32 = 10.0;
    /// Answers with the number of processors on which the call may run.
    pub const PROCESSORS: f32 = 12.0;
}

pub fn signal(pid: u32, signal: i32) {
    let status = std::process::Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()
        .expect("kill is there");
    assert!(status.success(), "process {pid} is there");
}

pub fn script(_: usize, inputs: &[NnTensor]) -> Step {
    let answer = |value: f32| Step::Answer(vec![fp32(&[1], &[value])]);
    let values = as_fp32(&inputs[0]);
    match values.first().copied().unwrap_or(asks::ECHO) {
        asks::PID => answer(std::process::id() as f32),
        asks::SIGSEGV => {
            signal(std::process::id(), 11);
            Step::Delay(Duration::from_secs(20), Box::new(Step::Echo))
        }
        asks::SIGSTOP => {
            signal(std::process::id(), 19);
            Step::Echo
        }
        asks::BLOAT => {
            let mut held = Vec::new();
            while held.len() < 4096 {
                held.push(vec![1u8; 64 << 20]);
            }
            answer(held.len() as f32)
        }
        asks::UNTIL_INTERRUPTED => Step::UntilInterrupted,
        asks::DEAF => Step::Deaf(Duration::from_secs(60)),
        asks::PANIC => Step::Panic("the script says so"),
        asks::DESCRIPTORS => {
            let there = std::fs::read_dir("/proc/self/fd")
                .expect("it is Linux")
                .count();
            answer(there as f32)
        }
        asks::SECRETS => {
            let names = std::env::vars().map(|(name, _)| name);
            let secret = |name: &String| {
                (name.starts_with("PENSTOCK_") && name != "PENSTOCK_TEST_CHILD")
                    || name.starts_with("SPIN_")
            };
            answer(names.filter(secret).count() as f32)
        }
        asks::NO_NEW_PRIVILEGES => {
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("it is Linux");
            answer(f32::from(u8::from(status.contains("NoNewPrivs:\t1"))))
        }
        asks::PROCESSORS => {
            let count = std::thread::available_parallelism().expect("it is Linux");
            answer(count.get() as f32)
        }
        asks::SLOW => Step::Delay(Duration::from_millis(300), Box::new(Step::Echo)),
        _ => Step::Echo,
    }
}

/// Set for a child that holds so many bytes from its start.
const HOLDS: &str = "PENSTOCK_TEST_HOLDS";

/// Starts children that answer with their inputs, and hold so many bytes.
pub fn launcher_of_children_that_hold(bytes: usize) -> Launcher {
    let mut launcher = launcher();
    launcher
        .environment
        .push((HOLDS.into(), bytes.to_string().into()));
    launcher
}

/// Set for children, and says how they run any backend but the scripted one.
const OTHERS: &str = "PENSTOCK_TEST_OTHERS";
/// The load takes a second.
pub const WAIT: &str = "wait";
/// The first run ends the process.
pub const CRASH: &str = "crash";

/// Starts children that run any backend but the scripted one as [`WAIT`] or [`CRASH`] says.
pub fn launcher_of_other_backends_that(others: &str) -> Launcher {
    let mut launcher = launcher();
    launcher.environment.push((OTHERS.into(), others.into()));
    launcher
}

pub fn find(name: &str, library: Option<&Path>) -> Result<Arc<dyn Backend>, NnError> {
    let held = std::env::var(HOLDS).ok().and_then(|held| held.parse().ok());
    if name != scripted::NAME {
        match std::env::var(OTHERS).as_deref() {
            Ok(WAIT) => std::thread::sleep(Duration::from_secs(1)),
            Ok(CRASH) => {
                let crash = |_: usize, _: &[NnTensor]| -> Step { std::process::abort() };
                return Ok(Arc::new(Scripted::new(crash)));
            }
            _ => {}
        }
    }
    match (name, held) {
        (scripted::NAME, Some(held)) => {
            // Ones, because the system allocates no pages for zeros.
            std::mem::forget(std::hint::black_box(vec![1u8; held]));
            Ok(Arc::new(Scripted::echo()))
        }
        (scripted::NAME, None) => Ok(Arc::new(Scripted::new(script))),
        _ => worker::find(name, library),
    }
}

pub fn load_with(options: LoadOptions) -> Model {
    load_on(&*isolated(Arc::new(Scripted::new(script))), options)
}

/// A model whose process is started again at once.
pub fn load_that_comes_back_at_once() -> Model {
    let waits = Restarts::between(Duration::from_millis(1), Duration::from_millis(2));
    let backend = isolated_with(Arc::new(Scripted::new(script)), waits);
    load_on(
        &*backend,
        LoadOptions {
            instances: Some(1),
            ..LoadOptions::default()
        },
    )
}

fn load_on(backend: &dyn Backend, options: LoadOptions) -> Model {
    let graph = GraphSource::Bytes(vec![1, 2, 3].into());
    Model::load("m", "1", backend, &graph, &options).expect("it loads")
}

pub fn load(instances: usize) -> Model {
    load_with(LoadOptions {
        instances: Some(instances),
        ..LoadOptions::default()
    })
}

pub fn input(value: f32) -> Vec<(String, NnTensor)> {
    vec![("x".into(), fp32(&[1], &[value]))]
}

pub async fn ask(model: &Model, value: f32) -> Result<f32, NnError> {
    let deadline = Some(Instant::now() + Duration::from_secs(20));
    let outputs = model.infer_by(input(value), deadline).await?;
    Ok(as_fp32(&outputs[0].1)[0])
}

pub async fn pid(model: &Model) -> u32 {
    ask(model, asks::PID).await.expect("it answers") as u32
}

pub fn process(model: &Model) -> ProcessStats {
    model.process().expect("it is in a process of its own")
}

/// Returns whether a process stands still.
pub fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|after| after.starts_with('T'))
}

/// Returns whether every thread of a process may use so many processors.
pub fn threads_may_use(pid: u32, processors: usize) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is Linux");
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let allowed = (status.lines()).find_map(|line| line.strip_prefix("Cpus_allowed:\t"));
        let digits = allowed.unwrap_or_default().chars();
        let bits = digits.filter_map(|digit| digit.to_digit(16));
        bits.map(u32::count_ones).sum::<u32>() as usize == processors
    })
}

pub fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
