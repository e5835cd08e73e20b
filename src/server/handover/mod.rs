//! Upgrade without downtime: a new process takes over the listening sockets of the one that runs.
//!
//! ```text
//! new                                 old
//! ask (where it is to listen)   ──►   same user? same address? no other upgrade under way?
//!                                     changes no node and no configuration from here on
//!                               ◄──   offer, then the sockets themselves
//! reads configuration and database,
//! prepares everything; accepts nothing yet
//! ready                         ──►   names the new process to the supervisor
//!                               ◄──   released
//! accepts                             stops accepting, finishes what has begun, ends
//! ```
//!
//! Both processes hold the same sockets, so a connection that waits to be accepted waits for either: none is
//! refused and none is reset, whatever happens in between. Until it has said `released` the old process goes
//! on as if nothing had happened, and the new one has accepted nothing; if the new one fails, it just ends.
//! Only what operators and nodes would have changed meanwhile was refused: the new process has read it already.
//!
//! They meet at a socket in the data directory, which only the owner of the process may open; who connects is
//! asked for by the kernel as well. A socket file whose owner is gone is replaced.

mod give;
mod message;
mod take;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::runtime;

use super::Arrival;

use message::{MESSAGE_BYTES_MAX, Message};

pub(super) use give::{Giver, Offer};
pub(super) use take::{Taken, take};

/// The connection between the two processes.
struct Channel(Socket);

impl Channel {
    fn connect(directory: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        at(directory, FILE_NAME, |path| {
            socket.connect(&SockAddr::unix(path)?)
        })?;
        Ok(Self(socket))
    }

    fn send(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.set_write_timeout(Some(PATIENCE))?;
        let packet = message.to_string();
        uninterrupted(|| runtime::send_descriptors(self.0.as_fd(), packet.as_bytes(), sockets))
    }

    /// The next message and what came with it.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the other side is gone, what recvmsg(2) reports, and for what is
    /// no message.
    fn receive(&self, patience: Duration) -> io::Result<(Message, Vec<OwnedFd>)> {
        self.0.set_read_timeout(Some(patience))?;
        let mut packet = [0; MESSAGE_BYTES_MAX];
        let (bytes, sockets) =
            uninterrupted(|| runtime::receive_descriptors(self.0.as_fd(), &mut packet))?;
        match packet.get(..bytes).unwrap_or_default() {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            packet => match Message::parse(packet) {
                Ok(message) => Ok((message, sockets)),
                Err(error) => Err(io::Error::other(error.to_string())),
            },
        }
    }

    fn peer(&self) -> io::Result<UnixCredentials> {
        Ok(getsockopt(&self.0, PeerCredentials)?)
    }
}

/// Calls `act` again for as long as it was interrupted: by no signal of ours, those are blocked, but a ring
/// that comes to be in this process interrupts calls with a time limit as well.
fn uninterrupted<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Listens in `directory`, in place of a process that is gone, or of the one before, which is going.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] while another process answers there, or what the system reports.
fn listen(directory: &Path, arrival: Arrival) -> io::Result<Socket> {
    if arrival == Arrival::First && Channel::connect(directory).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    let new = format!("{FILE_NAME}.{}", std::process::id());
    let _ = fs::remove_file(directory.join(&new));
    at(directory, &new, |path| {
        socket.bind(&SockAddr::unix(path)?)?;
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(0o600))
    })?;
    socket.listen(BACKLOG)?;
    fs::rename(directory.join(&new), directory.join(FILE_NAME))?;
    Ok(socket)
}

/// Calls `act` with a path to `name` in `directory` that is short enough for the address of a socket.
fn at<T>(directory: &Path, name: &str, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = directory.join(name);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return act(&path);
    }
    let directory = File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    act(&short.join(name))
}

const FILE_NAME: &str = "handover.sock";
/// `sun_path` takes 108 bytes with the one that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Processes that wait to be answered; more than one is a mistake already.
const BACKLOG: i32 = 4;
/// How long either side waits for the other where nothing but an answer is to be done.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
