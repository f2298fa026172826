//! A rolling restart behind usual proxies. Two servers are stopped with SIGTERM and started again, one after the other,
//! while nginx and HAProxy pass calls to them, and no caller notices.

use crate::common;

use common::{Options, Server};
use penstock_testkit::free_port;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Health checks fail for a second before the server refuses connections. HAProxy checks five times in it.
const POLICY: &str = "[server]\ndrain_delay_ms = 1000\ndrain_timeout_ms = 15000\n";
/// Time for which nginx avoids a server that did not accept a connection. nginx has no health checks, so a server must
/// be back within that time.
const NGINX_FAIL_TIMEOUT: Duration = Duration::from_secs(8);
/// Callers of each proxy.
const CALLERS: usize = 3;
const ONE_ITEM: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;

/// A program that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a proxy and waits until it takes connections.
fn start(program: &str, arguments: &[&str], address: SocketAddr) -> Running {
    // Debian installs them outside of the usual PATH.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", &path)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run `{program}` ({error}): install your distribution's package of that name, or run scripts/test, \
                 which fetches it; PENSTOCK_TEST_WITHOUT=proxies leaves this test out"
            )
        });
    let running = Running(child);
    common::until(&format!("`{program}` comes up"), || {
        TcpStream::connect(address).is_ok()
    });
    running
}

/// Returns an address on which nothing listens.
fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn serve(address: SocketAddr, models: &Path) -> Server {
    // This leaks a few bytes until the test ends.
    let listen: &'static str = address.to_string().leak();
    let server = Server::start_with(Options {
        policy: Some(POLICY),
        listen: Some(listen),
        models: Some(models.to_owned()),
        ..Options::default()
    });
    server.ready();
    server
}

fn nginx(folder: &Path, address: SocketAddr, backends: [SocketAddr; 2]) -> Running {
    let seconds = NGINX_FAIL_TIMEOUT.as_secs();
    let servers =
        backends.map(|backend| format!("server {backend} max_fails=1 fail_timeout={seconds}s;"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {0}/nginx.pid;\nerror_log {0}/error.log;\n\
         events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{temporary}\
         upstream backends {{ {1} {2} keepalive 16; }}\n\
         server {{ listen {address};\nlocation / {{ proxy_pass http://backends; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }}\n}}\n",
        folder.display(),
        servers[0],
        servers[1]
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let log = folder.join("error.log");
    start("nginx", &["-c", file, "-e", log.to_str().unwrap()], address)
}

fn haproxy(folder: &Path, address: SocketAddr, backends: [SocketAddr; 2]) -> Running {
    let text = format!(
        "global\n  maxconn 256\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n  \
         option redispatch\n  retries 3\nfrontend calls\n  bind {address}\n  default_backend servers\nbackend servers\n  \
         option httpchk GET /ready\n  http-check expect status 200\n  default-server check inter 200ms fall 1 rise 2\n  \
         server a {}\n  server b {}\n",
        backends[0], backends[1]
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    start(
        "haproxy",
        &["-db", "-q", "-f", file.to_str().unwrap()],
        address,
    )
}

/// Calls through a proxy, one after the other on connections that are kept, until told to stop.
fn calls(
    proxy: SocketAddr,
    stop: &AtomicBool,
    answered: &AtomicUsize,
    failed: &Mutex<Vec<String>>,
) {
    let agent = common::client(Some(Duration::from_secs(20)));
    while !stop.load(Ordering::Relaxed) {
        let sent = agent
            .post(format!("http://{proxy}/v1/models/identity:predict"))
            .header("content-type", "application/json")
            .send(ONE_ITEM);
        let outcome = match sent {
            Ok(mut response) => match (
                response.status().as_u16(),
                response.body_mut().read_to_string(),
            ) {
                (200, Ok(_)) => Ok(()),
                (status, body) => Err(format!("{status}: {body:?}")),
            },
            Err(e) => Err(e.to_string()),
        };
        match outcome {
            Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(why) => failed.lock().unwrap().push(format!("{proxy}: {why}")),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_rolling_restart_behind_nginx_and_haproxy_loses_no_call() {
    if std::env::var_os("PENSTOCK_TEST_WITHOUT").is_some_and(|what| what == "proxies") {
        eprintln!("left out: PENSTOCK_TEST_WITHOUT=proxies");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // One small model, so that a server starts quickly.
    let models = folder.path().join("models");
    let (from, to) = (
        common::root().join("models/identity"),
        models.join("identity"),
    );
    std::fs::create_dir_all(to.join("1")).unwrap();
    for file in ["model.toml", "1/model.onnx"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let backends = [free(), free()];
    let mut servers = backends.map(|address| Some(serve(address, &models)));
    let proxies = [free(), free()];
    let _nginx = nginx(folder.path(), proxies[0], backends);
    let _haproxy = haproxy(folder.path(), proxies[1], backends);
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::<Mutex<Vec<String>>>::default();
    let answered: [Arc<AtomicUsize>; 2] = Default::default();
    let callers: Vec<_> = (0..2 * CALLERS)
        .map(|n| {
            let (stop, failed) = (stop.clone(), failed.clone());
            let (proxy, answered) = (proxies[n % 2], answered[n % 2].clone());
            std::thread::spawn(move || calls(proxy, &stop, &answered, &failed))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    for (at, address) in backends.into_iter().enumerate() {
        let (code, took) = servers[at].take().unwrap().terminate();
        assert_eq!(code, Some(0));
        println!("{address} stopped within {took:?}");
        let stopped = Instant::now();
        servers[at] = Some(serve(address, &models));
        assert!(
            stopped.elapsed() < NGINX_FAIL_TIMEOUT,
            "the machine is too slow for this test: it was away for {:?}",
            stopped.elapsed()
        );
        // Wait until nginx uses it again.
        std::thread::sleep(
            (NGINX_FAIL_TIMEOUT + Duration::from_secs(1)).saturating_sub(stopped.elapsed()),
        );
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().unwrap();
    }
    let failed = failed.lock().unwrap();
    let answered = answered.map(|answered| answered.load(Ordering::Relaxed));
    println!("answered through nginx and HAProxy: {answered:?}");
    assert!(
        answered.iter().all(|answered| *answered > 200),
        "{answered:?}"
    );
    assert!(
        failed.is_empty(),
        "{} of {answered:?}: {failed:#?}",
        failed.len()
    );
    for address in backends {
        let status = common::call(address, "GET", "/ready", &[], None).status;
        assert_eq!(status, 200);
    }
}
