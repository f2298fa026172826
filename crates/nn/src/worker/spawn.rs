//! Starts a child process with minimal rights.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// Variables that a child inherits from the server: those that native runtimes read, and no secret.
pub(super) const VARIABLES: [&str; 12] = [
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

/// Prefixes of further such variables.
pub(super) const VARIABLES_OF: [&str; 8] = [
    "CUDA_",
    "KMP_",
    "LC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "OPENVINO_",
    "OV_",
];

/// Set for a child that no call waits for.
pub(super) const IN_BACKGROUND: &str = "PENSTOCK_WORKER_IN_BACKGROUND";

/// A child that is ended when this is dropped, and that leaves nothing behind.
pub(super) struct Reaped(pub(super) Option<Child>);

impl Reaped {
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.0.take()?;
        // A process that ended by itself keeps its own status.
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

pub(super) fn is_for_children(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        VARIABLES.contains(&name) || VARIABLES_OF.iter().any(|begin| name.starts_with(begin))
    })
}

/// Starts a process from a thread that lives as long as the server: the system ends children with the *thread* that
/// started them, and loads happen on threads that come and go.
pub(super) fn spawn(command: Command) -> std::io::Result<Child> {
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
    let gone = || std::io::Error::other("the thread that starts processes has ended");
    let (reply, answer) = mpsc::channel();
    let starter = starter.as_ref().ok_or_else(gone)?;
    starter.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// The end of a process, in words that follow its name.
pub(super) fn how(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "ended".into();
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by {}", signal_name(signal)),
        (None, Some(code)) => format!("ended with status {code}"),
        (None, None) => "ended".into(),
    }
}

pub(super) fn signal_name(signal: i32) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_the_server_is_in_a_childs_environment() {
        for name in [
            "PENSTOCK_ADMIN_TOKEN",
            "PENSTOCK_METRICS_TOKEN",
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
