//! The side of the process that runs: gives its listening sockets to one that takes over.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Uid;
use socket2::Socket;

use crate::proxy::Changes;
use crate::runtime::DESCRIPTORS_MAX;
use crate::telemetry::log;

use super::message::Message;
use super::{Arrival, Channel, PATIENCE, listen};

/// What a process that takes over is given, and what it must agree about.
pub(in crate::server) struct Offer {
    /// Where the two meet.
    pub(in crate::server) directory: PathBuf,
    /// Where this process was configured to listen.
    pub(in crate::server) host: IpAddr,
    pub(in crate::server) port: u16,
    /// Where it does listen.
    pub(in crate::server) address: SocketAddr,
    pub(in crate::server) listeners: Vec<TcpListener>,
}

/// The thread that waits for a process that takes over.
pub(in crate::server) struct Giver {
    /// Who of the two is to close the listening sockets is settled once.
    fate: Arc<AtomicU8>,
}

impl Giver {
    /// Starts the thread. `changes` are held up while a process has the sockets; `announce` is told which process
    /// is the service from now on: the new one before it hears that it is, this one again if that one did not
    /// live to hear it. `released` is told when it has.
    ///
    /// # Errors
    /// When the socket to meet at cannot be made, or the thread not be started.
    pub(in crate::server) fn start(
        offer: Offer,
        arrival: Arrival,
        changes: Arc<Changes>,
        announce: impl Fn(u32) + Send + 'static,
        released: impl FnOnce(u32) + Send + 'static,
    ) -> io::Result<Self> {
        let meeting = listen(&offer.directory, arrival)?;
        let fate = Arc::new(AtomicU8::new(SERVING));
        let desk = Desk {
            offer,
            meeting,
            fate: Arc::clone(&fate),
            changes,
            session: None,
        };
        thread::Builder::new()
            .name("handover".to_owned())
            .spawn(move || released(desk.serve(announce)))?;
        Ok(Self { fate })
    }

    /// The process is on its way out: nobody is given anything any more. `false` if somebody has just taken
    /// over.
    pub(in crate::server) fn stop(&self) -> bool {
        settle(&self.fate, LEAVING)
    }
}

struct Desk {
    offer: Offer,
    meeting: Socket,
    fate: Arc<AtomicU8>,
    changes: Arc<Changes>,
    session: Option<Session>,
}

/// A process that has the sockets and is not ready yet.
struct Session {
    channel: Channel,
    process: u32,
    until: Instant,
}

impl Desk {
    /// Serves until a process has taken over; returns its number.
    fn serve(mut self, announce: impl Fn(u32)) -> u32 {
        loop {
            let (has_newcomer, has_word) = self.wait();
            if has_word && let Some(session) = self.session.take() {
                match self.hear(&session, &announce) {
                    Ok(()) => return session.process,
                    Err(error) => log::warn(format_args!(
                        "upgrade: process {} has not taken over, this one goes on: {error}",
                        session.process
                    )),
                }
            }
            if self.session.as_ref().is_some_and(Session::is_over) {
                log::warn(format_args!(
                    "upgrade: the new process took too long, this one goes on"
                ));
                self.session = None;
            }
            if has_newcomer && let Ok((socket, _)) = self.meeting.accept() {
                self.receive(Channel(socket));
            }
            if self.session.is_none() {
                self.changes.resume();
            }
        }
    }

    /// Waits for something to do: a newcomer, and word of the process that has the sockets.
    fn wait(&self) -> (bool, bool) {
        let mut watched = vec![PollFd::new(self.meeting.as_fd(), PollFlags::POLLIN)];
        let mut timeout = PollTimeout::NONE;
        if let Some(session) = &self.session {
            watched.push(PollFd::new(session.channel.0.as_fd(), PollFlags::POLLIN));
            let left = session.until.saturating_duration_since(Instant::now());
            timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        }
        // Interrupted or timed out: then there is nothing.
        let _ = poll(&mut watched, timeout);
        let mut have = watched.iter().map(|fd| fd.any().unwrap_or(false));
        (have.next().unwrap_or(false), have.next().unwrap_or(false))
    }

    /// Hears that the new process is ready, and tells it that it is its turn.
    fn hear(&self, session: &Session, announce: impl Fn(u32)) -> io::Result<()> {
        match session.channel.receive(PATIENCE)? {
            (Message::Ready, _) if settle(&self.fate, SUCCEEDED) => {}
            (Message::Ready, _) => return Err(io::Error::other(IS_LEAVING)),
            _ => return Err(io::Error::other("it said something else")),
        }
        announce(session.process);
        let told = session.channel.send(&Message::Released, &[]);
        if told.is_err() {
            announce(std::process::id());
            self.fate.store(SERVING, Ordering::Release);
        }
        told
    }

    /// Gives a newcomer the sockets, or says why not.
    fn receive(&mut self, channel: Channel) {
        let peer = match channel.peer() {
            Ok(peer) if is_allowed(peer.uid()) => peer,
            // No word: it is not to learn anything.
            _ => {
                log::warn(format_args!(
                    "upgrade: a process of another user was turned away"
                ));
                return;
            }
        };
        let outcome = match self.refusal(&channel) {
            Ok(None) => self.give(&channel),
            Ok(Some(reason)) => {
                log::warn(format_args!(
                    "upgrade: process {} was refused: {reason}",
                    peer.pid()
                ));
                let _ = channel.send(&Message::Refused(reason), &[]);
                return;
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                log::info(format_args!("upgrade: process {} takes over", peer.pid()));
                self.session = Some(Session {
                    channel,
                    process: peer.pid().unsigned_abs(),
                    until: Instant::now() + START_PATIENCE,
                });
            }
            // A look whether anybody is here says nothing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => log::warn(format_args!("upgrade: nothing came of it: {error}")),
        }
    }

    /// Why this newcomer cannot have the sockets.
    fn refusal(&self, channel: &Channel) -> io::Result<Option<String>> {
        let (message, _) = channel.receive(PATIENCE)?;
        let Offer { host, port, .. } = self.offer;
        Ok(match message {
            _ if self.fate.load(Ordering::Acquire) == LEAVING => Some(IS_LEAVING.to_owned()),
            _ if self.session.is_some() => Some("another upgrade is under way".to_owned()),
            Message::Ask {
                host: other,
                port: at,
            } if (other, at) != (host, port) => {
                let (ours, wanted) = (SocketAddr::new(host, port), SocketAddr::new(other, at));
                Some(format!(
                    "it listens on {ours}, and is to be succeeded on {wanted}: server.host and \
                     server.port need a restart"
                ))
            }
            Message::Ask { .. } if !self.hold_changes() => {
                Some("a change of nodes or configuration takes too long".to_owned())
            }
            Message::Ask { .. } => None,
            _ => Some("that is no question".to_owned()),
        })
    }

    /// Lets nobody change anything that the new process is to read; `false` if a change did not end in time.
    fn hold_changes(&self) -> bool {
        self.changes.hold();
        let until = Instant::now() + CHANGES_PATIENCE;
        while !self.changes.is_quiet() {
            if Instant::now() >= until {
                return false;
            }
            thread::park_timeout(CHANGES_POLL);
        }
        true
    }

    fn give(&self, channel: &Channel) -> io::Result<()> {
        let offer = Message::Offer {
            address: self.offer.address,
            count: self.offer.listeners.len(),
        };
        channel.send(&offer, &[])?;
        for some in self.offer.listeners.chunks(DESCRIPTORS_MAX) {
            let sockets: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            channel.send(&Message::Sockets, &sockets)?;
        }
        Ok(())
    }
}

impl Session {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Whether a process of this user may take over: the sockets are as good as the user's own.
pub(super) fn is_allowed(uid: u32) -> bool {
    uid == Uid::effective().as_raw()
}

/// Settles what becomes of the process, if it is not settled yet.
fn settle(fate: &AtomicU8, wanted: u8) -> bool {
    fate.compare_exchange(SERVING, wanted, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

const SERVING: u8 = 0;
const SUCCEEDED: u8 = 1;
const LEAVING: u8 = 2;
const IS_LEAVING: &str = "it is shutting down";
/// How long a process that takes over may take to become ready: it opens the database, reads the keys and
/// asks its nodes.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a change that has begun may take; shorter than [`PATIENCE`], which the new process has.
const CHANGES_PATIENCE: Duration = Duration::from_secs(3);
const CHANGES_POLL: Duration = Duration::from_millis(1);
