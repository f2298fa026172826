//! A port for a program that cannot choose one itself.

use std::net::{Ipv4Addr, TcpListener};

/// Returns a port of the loopback address on which nothing listens. Another process may take it before the test does.
///
/// # Panics
/// If the system has no free port.
pub fn free_port() -> u16 {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("bound").port()
}
