//! A Redis server for one test: on a free port of this machine, with nothing on disk. It can be stopped, paused and
//! started again.

use crate::free_port;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time for a server's start before the test fails.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server, ended when dropped.
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server without a password.
    ///
    /// # Panics
    /// If `redis-server` is not on the PATH or does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further options, in the form of its command line.
    ///
    /// # Panics
    /// If `redis-server` is not on the PATH or does not start.
    pub fn start_with(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Another process may take the port between the check and the start.
        for _ in 0..5 {
            let mut server = Self {
                port: free_port(),
                options: options.iter().map(|&option| option.to_owned()).collect(),
                directory: tempfile::tempdir_in(directory.path()).expect("a temporary directory"),
                child: None,
            };
            if server.launch() {
                server.directory = directory;
                return server;
            }
        }
        panic!("redis-server did not start; run `redis-server --port 6390` to see why");
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of its first database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Ends it at once, like a crash. Its data are lost.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on its port, without data.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.stop();
        // The system may need a moment to release the port.
        assert!(
            (0..5).any(|_| self.launch()),
            "redis-server did not start again on port {}",
            self.port
        );
    }

    /// Pauses its process: connections stay, and no answers come.
    pub fn hold(&self) {
        self.signal("-STOP");
    }

    /// Continues its process after a pause.
    pub fn release(&self) {
        self.signal("-CONT");
    }

    /// Sends a line, as with telnet, and returns the first bytes of the answer.
    pub fn talk(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = [0; 512];
        let bytes = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..bytes]).into_owned())
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("it runs");
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// Returns whether it started. It may lose the race for its port.
    fn launch(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.current_dir(self.directory.path());
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "no", "--daemonize", "no"]);
        command.args(&self.options);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!(
                "cannot run `redis-server` ({error}): install your distribution's package for it \
                 (Debian: redis-server), or run scripts/test, which fetches it"
            )
        });
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return false;
            }
            // A server that needs a password answers as well.
            let answer = self.talk("PING").unwrap_or_default();
            if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}
