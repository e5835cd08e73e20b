//! The side of the new process: takes the listening sockets of the one that runs.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use socket2::SockRef;

use super::message::Message;
use super::{Channel, PATIENCE};

/// The sockets of the process that still runs, which waits for word.
pub(in crate::server) struct Taken {
    channel: Channel,
    /// What it was asked with.
    asked: (PathBuf, IpAddr, u16),
    /// Where they listen.
    pub(in crate::server) address: SocketAddr,
    pub(in crate::server) listeners: Vec<TcpListener>,
}

/// Asks the process that runs on the data directory for its sockets.
///
/// # Errors
/// What to tell the operator.
pub(in crate::server) fn take(directory: &Path, host: IpAddr, port: u16) -> Result<Taken, String> {
    let channel = Channel::connect(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no router that could be upgraded runs on the data directory {}",
            directory.display()
        ),
        _ => format!("cannot reach the running router: {error}"),
    })?;
    channel
        .send(&Message::Ask { host, port }, &[])
        .map_err(lost)?;
    let (address, count) = match channel.receive(PATIENCE).map_err(lost)? {
        (Message::Offer { address, count }, _) => (address, count),
        (Message::Refused(reason), _) => {
            return Err(format!("the running router refuses: {reason}"));
        }
        _ => return Err(lost("it does not keep to the protocol")),
    };
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(count);
    while listeners.len() < count {
        match channel.receive(PATIENCE).map_err(lost)? {
            (Message::Sockets, sockets) if !sockets.is_empty() => {
                listeners.extend(sockets.into_iter().map(TcpListener::from));
            }
            _ => return Err(lost("it does not keep to the protocol")),
        }
    }
    if listeners.is_empty() || !listeners.iter().all(|socket| listens_on(socket, address)) {
        return Err(lost("it gave something else than it said"));
    }
    Ok(Taken {
        channel,
        asked: (directory.to_path_buf(), host, port),
        address,
        listeners,
    })
}

impl Taken {
    /// As if this process had died between its word and the answer.
    #[cfg(test)]
    pub(super) fn stop_listening(&self) {
        self.channel.0.shutdown(std::net::Shutdown::Read).unwrap();
    }

    /// Whether it was asked for sockets of this place.
    pub(in crate::server) fn suits(&self, directory: &Path, host: IpAddr, port: u16) -> bool {
        let (asked_at, asked_host, asked_port) = &self.asked;
        (asked_at.as_path(), *asked_host, *asked_port) == (directory, host, port)
    }

    /// Says that this process could accept connections, and waits until it is its turn.
    ///
    /// # Errors
    /// What to tell the operator; then the other process goes on.
    pub(in crate::server) fn ready(&self) -> Result<(), String> {
        self.channel.send(&Message::Ready, &[]).map_err(lost)?;
        match self.channel.receive(PATIENCE).map_err(lost)? {
            (Message::Released, _) => Ok(()),
            _ => Err(lost("it does not keep to the protocol")),
        }
    }
}

fn listens_on(socket: &TcpListener, address: SocketAddr) -> bool {
    SockRef::from(socket).is_listener().unwrap_or(false)
        && socket.local_addr().is_ok_and(|own| own == address)
}

fn lost(reason: impl Display) -> String {
    format!("the running router did not hand over: {reason}")
}
