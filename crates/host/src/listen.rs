//! Reserves the addresses that a server listens on, before it compiles anything: compiling takes up to half a minute, and a
//! taken port must fail at once. A reserved address refuses connections until [`Reserved::listen`]. Other processes cannot reserve it
//! meanwhile, unless connections of a former server still wait for their end there.

use crate::settings::{AdminSettings, MetricsSettings};
use anyhow::Context;
use penstock_admin::AdminListen;
use std::io::ErrorKind;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// An address that this process has, and does not listen on yet.
#[derive(Debug)]
pub(crate) struct Reserved {
    socket: TcpSocket,
    asked: SocketAddr,
    /// The listener's name, at the beginning of a message.
    subject: &'static str,
    /// The remedy if the address is taken.
    remedy: &'static str,
    /// Whether the operator chose the address. If not, another one will do.
    is_chosen: bool,
}

impl Reserved {
    /// The address of the API.
    ///
    /// # Errors
    ///
    /// If it cannot be bound.
    pub(crate) fn public(asked: SocketAddr) -> anyhow::Result<Self> {
        let remedy = "choose another --listen";
        let socket = bind(asked).with_context(|| cannot("", asked, remedy))?;
        Ok(Self {
            socket,
            asked,
            subject: "",
            remedy,
            is_chosen: true,
        })
    }

    /// The address of the admin API: the one of the command line, else the one of the policy, else the default. Nobody
    /// chose the default. So if it is taken, the admin API gets any free port, and the log says which.
    ///
    /// # Errors
    ///
    /// If a chosen address cannot be bound.
    pub(crate) fn admin(
        named: Option<AdminListen>,
        settings: Option<&AdminSettings>,
    ) -> anyhow::Result<Option<Self>> {
        let (subject, remedy) = ("the admin API ", "choose another --admin-listen, or off");
        let (asked, is_chosen) = match (named, settings) {
            (Some(AdminListen::Off), _) | (None, None) => return Ok(None),
            (Some(AdminListen::At(address)), _) => (address, true),
            (None, Some(settings)) => (settings.listen(), settings.listen.is_some()),
        };
        let socket = match bind(asked) {
            Err(error) if !is_chosen && error.kind() == ErrorKind::AddrInUse => {
                let socket = bind_free(asked).with_context(|| cannot(subject, asked, remedy))?;
                warn_of(asked, &socket);
                socket
            }
            bound => bound.with_context(|| cannot(subject, asked, remedy))?,
        };
        Ok(Some(Self {
            socket,
            asked,
            subject,
            remedy,
            is_chosen,
        }))
    }

    /// The address of the metrics, if they have a listener of their own.
    ///
    /// # Errors
    ///
    /// If it cannot be bound.
    pub(crate) fn metrics(settings: &MetricsSettings) -> anyhow::Result<Option<Self>> {
        let Some(asked) = settings.listen else {
            return Ok(None);
        };
        let (subject, remedy) = ("the server of metrics ", "choose another metrics.listen");
        let socket = bind(asked).with_context(|| cannot(subject, asked, remedy))?;
        Ok(Some(Self {
            socket,
            asked,
            subject,
            remedy,
            is_chosen: true,
        }))
    }

    /// Begins to listen on the reserved address.
    ///
    /// # Errors
    ///
    /// If another process has begun to listen on the address meanwhile.
    pub(crate) fn listen(self) -> anyhow::Result<TcpListener> {
        let Self {
            socket,
            asked,
            subject,
            remedy,
            is_chosen,
        } = self;
        let listened = match listen(socket) {
            Err(error) if !is_chosen && error.kind() == ErrorKind::AddrInUse => bind_free(asked)
                .and_then(|socket| {
                    warn_of(asked, &socket);
                    listen(socket)
                }),
            listened => listened,
        };
        listened.with_context(|| cannot(subject, asked, remedy))
    }
}

fn cannot(subject: &str, asked: SocketAddr, remedy: &str) -> String {
    format!("{subject}cannot listen on {asked}; {remedy}")
}

/// Logs that the admin API has another address than the default.
fn warn_of(asked: SocketAddr, socket: &TcpSocket) {
    let address = socket.local_addr().map(|address| address.to_string());
    tracing::warn!(
        target: "admin",
        "{asked} is taken, perhaps by another server, so the admin API listens on {} until this server stops; name an address with \
         --admin-listen, or turn the admin API off with --admin-listen off",
        address.unwrap_or_default()
    );
}

fn socket(address: SocketAddr) -> std::io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// Binds to an address. Two sockets that may share an address can both bind to it as long as neither listens. So
/// sharing is allowed only if the address cannot be bound otherwise: if connections of a former server wait for their
/// end.
fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let alone = socket(address)?;
    // On Unix tokio and std leave this off for sockets that only connect or bind.
    alone.set_reuseaddr(false)?;
    match alone.bind(address) {
        Ok(()) => Ok(alone),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let shared = socket(address)?;
            shared.set_reuseaddr(true)?;
            shared.bind(address)?;
            Ok(shared)
        }
        Err(error) => Err(error),
    }
}

/// Binds to a free port of the same interface.
fn bind_free(asked: SocketAddr) -> std::io::Result<TcpSocket> {
    bind(SocketAddr::new(asked.ip(), 0))
}

/// Begins to listen on a bound socket. Connections inherit that their address may be shared, so the next server can bind it
/// while they wait for their end.
fn listen(socket: TcpSocket) -> std::io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn taken() -> (TcpListener, SocketAddr) {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn an_address_that_another_listens_on_cannot_be_reserved() {
        let (_listener, address) = taken();
        let error = format!("{:#}", Reserved::public(address).unwrap_err());
        assert!(error.contains("choose another --listen"), "{error}");
        let named = Some(AdminListen::At(address));
        let error = format!("{:#}", Reserved::admin(named, None).unwrap_err());
        assert!(error.contains("choose another --admin-listen"), "{error}");
        let chosen = AdminSettings {
            listen: Some(address),
        };
        assert!(Reserved::admin(None, Some(&chosen)).is_err());
    }

    #[tokio::test]
    async fn an_address_is_reserved_once_also_before_anybody_listens_on_it() {
        let first = Reserved::public((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = first.socket.local_addr().unwrap();
        assert!(Reserved::public(address).is_err());
        let chosen = Some(AdminListen::At(address));
        let error = format!("{:#}", Reserved::admin(chosen, None).unwrap_err());
        assert!(
            error.starts_with("the admin API cannot listen on"),
            "{error}"
        );
        first.listen().unwrap();
    }

    #[tokio::test]
    async fn an_address_nobody_chose_is_given_up_for_another_that_is_free() {
        let (_listener, taken) = taken();
        let reserved = Reserved {
            socket: bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap(),
            asked: taken,
            subject: "",
            remedy: "",
            is_chosen: false,
        };
        // Another socket listens first.
        let address = reserved.socket.local_addr().unwrap();
        let other = socket(address).unwrap();
        reserved.socket.set_reuseaddr(true).unwrap();
        other.set_reuseaddr(true).unwrap();
        other.bind(address).unwrap();
        let _other = other.listen(1).unwrap();
        let listener = reserved.listen().unwrap();
        assert_ne!(listener.local_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn a_server_gets_the_port_of_one_that_was_just_stopped() {
        let reserved = Reserved::public((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = reserved.listen().unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (served, _) = listener.accept().await.unwrap();
        // The side that closes first waits for the end of the connection.
        drop((served, listener));
        drop(client);
        let next = Reserved::public(address).unwrap();
        next.listen().unwrap();
    }

    #[tokio::test]
    async fn a_reserved_address_takes_connections_once_it_is_listened_on() {
        let reserved = Reserved::public((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = reserved.socket.local_addr().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
        let _listener = reserved.listen().unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok());
    }

    #[tokio::test]
    async fn there_is_no_admin_api_where_nobody_asks_for_one() {
        assert!(Reserved::admin(None, None).unwrap().is_none());
        let off = Reserved::admin(Some(AdminListen::Off), Some(&AdminSettings::default()));
        assert!(off.unwrap().is_none());
    }
}
