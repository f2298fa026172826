//! Servers as separate processes, ended when dropped.

use crate::Cli;
use anyhow::{Context, bail};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The native echo.
pub struct Echo {
    /// Its address.
    pub address: SocketAddr,
    child: Child,
}

impl Echo {
    /// Starts this program again as the echo server.
    pub async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve-echo")
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self {
            address: line.trim().parse()?,
            child,
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Penstock, through one of its entry points.
pub struct Penstock {
    /// Its address.
    pub address: SocketAddr,
    /// The address of its admin API.
    admin: Option<String>,
    child: Child,
    folder: tempfile::TempDir,
}

impl Penstock {
    /// Starts the server under a policy, with its own stores, and waits until its models are loaded.
    pub async fn start(cli: &Cli, door: &str, policy: &str) -> anyhow::Result<Self> {
        Self::start_app(cli, door, policy, std::path::Path::new("spin.toml")).await
    }

    /// The same with another manifest.
    pub async fn start_app(
        cli: &Cli,
        door: &str,
        policy: &str,
        app: &std::path::Path,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("penstock-bench-")
            .tempdir_in(&cli.scratch)
            .with_context(|| format!("no folder can be made in {}", cli.scratch.display()))?;
        let file = folder.path().join("penstock.toml");
        // If a policy has no `[auth]`, every caller on this machine is admitted.
        let open = "[auth.anonymous]\nscopes = [\"*\"]\n";
        let open = if policy.contains("[auth") { "" } else { open };
        std::fs::write(&file, format!("{open}{policy}"))?;
        let mut child = Command::new(&cli.penstock)
            .args(["up", "--listen", "127.0.0.1:0", "--door", door])
            .arg("--app")
            .arg(app)
            .arg("--policy")
            .arg(&file)
            .arg("--state-dir")
            .arg(folder.path())
            .arg("--models")
            .arg(&cli.models)
            .arg("--onnxruntime")
            .arg(&cli.onnxruntime)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("cannot start {}; run scripts/build", cli.penstock.display())
            })?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut admin = None;
        for line in &mut lines {
            let line = line?;
            if let Some((_, rest)) = line.split_once("admin API on http://") {
                admin = rest.split([' ', ';']).next().map(str::to_owned);
            }
            if let Some((_, rest)) = line.split_once("serving http://") {
                let address = rest
                    .split_whitespace()
                    .next()
                    .context("no address")?
                    .parse()?;
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self {
                    address,
                    child,
                    admin,
                    folder,
                });
            }
        }
        bail!("the server ended before it served")
    }

    /// Sends a command to the server's admin API, and returns its output.
    pub fn administer(&self, cli: &Cli, arguments: &[&str]) -> anyhow::Result<String> {
        let admin = self.admin.as_deref().context("the policy has no [admin]")?;
        let output = Command::new(&cli.penstock)
            .args(arguments)
            .arg("--admin")
            .arg(format!("http://{admin}"))
            .arg("--state-dir")
            .arg(self.folder.path())
            .output()?;
        if !output.status.success() {
            bail!(
                "penstock {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Computing time so far in seconds, from the kernel. It is less noisy on a busy machine than wall time.
    pub fn computed_s(&self) -> f64 {
        /// The kernel's unit, on every Linux.
        const TICKS_A_SECOND: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // After the name in parentheses, user and system time are the 12th and 13th.
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        let ticks = behind.split_whitespace().skip(11).take(2);
        ticks
            .filter_map(|text| text.parse::<f64>().ok())
            .sum::<f64>()
            / TICKS_A_SECOND
    }

    /// Resident memory in MiB, from the kernel.
    pub fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let kib = status.ok().and_then(|s| {
            let line = s.lines().find(|l| l.starts_with("VmRSS:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        kib.unwrap_or(0) / 1024
    }
}

impl Drop for Penstock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same application on Spin, with Spin's own stores.
pub struct Spin {
    /// Its address.
    pub address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

/// Longest time for Spin to compile the components and answer.
const SPIN_START: Duration = Duration::from_secs(180);

impl Spin {
    /// Starts `spin up` on the repository's manifest. Returns `None` if there is no `spin` on the PATH.
    pub async fn start(cli: &Cli) -> anyhow::Result<Option<Self>> {
        let there = Command::new("spin").arg("--version").output();
        if !there.is_ok_and(|output| output.status.success()) {
            return Ok(None);
        }
        let folder = tempfile::Builder::new()
            .prefix("penstock-bench-")
            .tempdir_in(&cli.scratch)?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new("spin")
            .args(["up", "--quiet", "--from", "spin.toml", "--listen"])
            .arg(address.to_string())
            .arg("--state-dir")
            .arg(folder.path())
            .spawn()
            .context("cannot start spin")?;
        let mut spin = Self {
            address,
            child,
            _folder: folder,
        };
        let started = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = spin.child.try_wait()? {
                bail!("spin ended before it served: {status}");
            }
            if started.elapsed() > SPIN_START {
                bail!("spin did not listen within {} s", SPIN_START.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Some(spin))
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A usual FastAPI server, in its own virtual environment.
pub struct FastApi {
    /// Its address.
    pub address: SocketAddr,
    child: Child,
}

/// Longest time for a Python server to load its models.
const PYTHON_START: Duration = Duration::from_secs(60);

impl FastApi {
    /// Installs it if needed, and starts it with one worker per core.
    pub async fn start(cli: &Cli) -> anyhow::Result<Self> {
        let folder = std::path::Path::new("benches/peers/fastapi");
        let place = cli.scratch.join("peers/fastapi");
        let python = place.join("bin/python");
        let requirements = std::fs::read_to_string(folder.join("requirements.txt"))?;
        let installed = std::fs::read_to_string(place.join("installed")).unwrap_or_default();
        if installed != requirements {
            println!("installing the FastAPI peer into {}", place.display());
            let made = Command::new("python3")
                .args(["-m", "venv"])
                .arg(&place)
                .status()?;
            anyhow::ensure!(made.success(), "python3 -m venv failed: {made}");
            let put = Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "-r"])
                .arg(folder.join("requirements.txt"))
                .status()?;
            anyhow::ensure!(put.success(), "pip install failed: {put}");
            std::fs::write(place.join("installed"), requirements)?;
        }
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let workers = std::thread::available_parallelism()?.get().to_string();
        let child = Command::new(&python)
            .args([
                "-m",
                "uvicorn",
                "server:app",
                "--host",
                "127.0.0.1",
                "--log-level",
                "warning",
            ])
            .args(["--workers", &workers, "--port", &address.port().to_string()])
            .arg("--app-dir")
            .arg(folder)
            .env("MODELS", std::fs::canonicalize(&cli.models)?)
            // Its own process group, so that its workers end with it.
            .process_group(0)
            .spawn()
            .context("cannot start uvicorn")?;
        let mut fastapi = Self { address, child };
        let started = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = fastapi.child.try_wait()? {
                bail!("uvicorn ended before it served: {status}");
            }
            anyhow::ensure!(started.elapsed() < PYTHON_START, "uvicorn did not listen");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The socket exists before every worker has its models.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(fastapi)
    }
}

impl Drop for FastApi {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let _ = self.child.wait();
    }
}
