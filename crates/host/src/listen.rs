//! Reserves the addresses that a server listens on, before it compiles anything: compiling takes up to half a minute, and a
//! taken port must fail at once. A reserved address refuses connections until [`Reserved::listen`].

use crate::settings::AdminSettings;
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
    /// What to do where the address is taken.
    remedy: &'static str,
}

impl Reserved {
    /// The address of the API.
    ///
    /// # Errors
    ///
    /// When it cannot be had.
    pub(crate) fn public(asked: SocketAddr) -> anyhow::Result<Self> {
        let remedy = "choose another --listen";
        let socket = bind(asked).with_context(|| cannot(asked, remedy))?;
        Ok(Self {
            socket,
            asked,
            remedy,
        })
    }

    /// The address of the admin API: the one of the command line, else the one of the policy, else the default. Nobody chose
    /// the default, so where it is taken the admin API gets any free port, and the log says which.
    ///
    /// # Errors
    ///
    /// When a chosen address cannot be had.
    pub(crate) fn admin(
        named: Option<AdminListen>,
        settings: Option<&AdminSettings>,
    ) -> anyhow::Result<Option<Self>> {
        let remedy = "choose another --admin-listen, or off";
        let (asked, is_chosen) = match (named, settings) {
            (Some(AdminListen::Off), _) | (None, None) => return Ok(None),
            (Some(AdminListen::At(address)), _) => (address, true),
            (None, Some(settings)) => (settings.listen(), settings.listen.is_some()),
        };
        let socket = match bind(asked) {
            Err(error) if !is_chosen && error.kind() == ErrorKind::AddrInUse => {
                let socket = bind(SocketAddr::new(asked.ip(), 0))?;
                tracing::warn!(
                    target: "admin",
                    "{asked} is taken, perhaps by another server, so the admin API listens on {} until this server stops; name \
                     an address with --admin-listen, or turn the admin API off with --admin-listen off",
                    socket.local_addr()?
                );
                socket
            }
            bound => bound.with_context(|| format!("the admin API {}", cannot(asked, remedy)))?,
        };
        Ok(Some(Self {
            socket,
            asked,
            remedy,
        }))
    }

    /// Listens.
    ///
    /// # Errors
    ///
    /// When another process has begun to listen on the address meanwhile.
    pub(crate) fn listen(self) -> anyhow::Result<TcpListener> {
        let Self {
            socket,
            asked,
            remedy,
        } = self;
        socket
            .listen(BACKLOG)
            .with_context(|| cannot(asked, remedy))
    }
}

fn cannot(asked: SocketAddr, remedy: &str) -> String {
    format!("cannot listen on {asked}; {remedy}")
}

fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A server that was just stopped must not keep the next one from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
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
