//! A worker's own SO_REUSEPORT listener.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::AsRawFd;
use std::time::Duration;

use monoio::io::Canceller;
use monoio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use super::deadline;
use super::stream::Stream;
use super::task;

/// A listening socket; [`Listener::accept_tasks`] tasks may accept from it at once.
///
/// Another process may hold the same socket, and accept from it on another driver. Whether it blocks is a
/// property of the socket, not of a handle, so it never does, whatever the driver.
pub struct Listener {
    socket: TcpListener,
    /// A second handle to the same socket, for emptying the backlog without waiting.
    handle: StdListener,
    closed: Cell<bool>,
    /// Ends the accepts under way.
    canceller: RefCell<Canceller>,
}

impl Listener {
    /// Takes over a socket made by [`Listener::bind`] on the thread that will accept from it.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated or registered.
    pub fn new(bound: StdListener) -> io::Result<Self> {
        bound.set_nonblocking(true)?;
        let handle = bound.try_clone()?;
        Ok(Self {
            socket: TcpListener::from_std(bound)?,
            handle,
            closed: Cell::new(false),
            canceller: RefCell::default(),
        })
    }

    /// Binds `address` with SO_REUSEPORT and TCP_NODELAY, and listens; done before the worker threads start.
    /// Every process of the same user may do so: a port that another one has is no error here, see
    /// [`Listener::check_free`].
    ///
    /// # Errors
    /// Whatever socket(2), bind(2) or listen(2) report.
    pub fn bind(address: SocketAddr) -> io::Result<StdListener> {
        let socket = Self::reserve(address)?;
        Self::listen(&socket)?;
        Ok(socket)
    }

    /// Whether nobody listens on `address`: without SO_REUSEPORT a port that has listeners cannot be bound.
    /// Connections of an earlier process that are still being closed do no harm.
    ///
    /// # Errors
    /// Whatever socket(2) or bind(2) report; `AddrInUse` when somebody listens there.
    pub fn check_free(address: SocketAddr) -> io::Result<()> {
        new_socket(address)?.bind(&address.into())
    }

    /// As [`Listener::bind`], but the kernel sends it no connection before [`Listener::listen`].
    ///
    /// # Errors
    /// Whatever socket(2) or bind(2) report.
    pub fn reserve(address: SocketAddr) -> io::Result<StdListener> {
        let socket = new_socket(address)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it: no system call per connection.
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    }

    /// Has the kernel send connections to a socket of [`Listener::reserve`]; one that listens already goes on.
    ///
    /// # Errors
    /// Whatever listen(2) reports.
    pub fn listen(socket: &StdListener) -> io::Result<()> {
        SockRef::from(socket).listen(BACKLOG)
    }

    /// How many tasks are to accept at once. On a ring a burst then costs one turn, not one per connection;
    /// on epoll monoio keeps one waker per socket, and forgets all tasks but the last.
    pub fn accept_tasks(&self) -> usize {
        match monoio::utils::is_legacy() {
            true => 1,
            false => ACCEPTS_ON_A_RING,
        }
    }

    /// Waits for the next connection. Never drop this future: a connection accepted meanwhile would be
    /// lost.
    ///
    /// # Errors
    /// Whatever accept(2) reports; an error of any kind once [`Listener::close`] or [`Listener::release`]
    /// was called.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        while !self.is_closed() {
            let handle = self.canceller.borrow().handle();
            match self.socket.cancelable_accept(handle).await {
                Ok((socket, peer)) => return Ok((Stream::new(socket), peer)),
                // Kernels that take the socket at its word instead of letting the ring wait. The wait ends
                // now and then, because it cannot be cancelled as an accept can.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    task::timeout(READINESS_WAIT, self.socket.readable(false)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Accepts no more, and leaves the socket as it is for the process that accepts from it now. Pending
    /// [`Listener::accept`]s end, with the connection they have got or with an error.
    pub fn release(&self) {
        self.closed.set(true);
        let canceller = self.canceller.take().cancel();
        self.canceller.replace(canceller);
    }

    /// Whether [`Listener::close`] or [`Listener::release`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Lets no new handshake begin while those under way still finish: a filter drops SYN segments.
    /// A client that connects meanwhile tries again a second later and is then refused, or served by
    /// another process that listens on the port.
    ///
    /// # Errors
    /// When the kernel refuses the filter.
    pub fn stop_handshakes(&self) -> io::Result<()> {
        // Classic BPF over the TCP header: flags & (SYN | ACK) == SYN is dropped, the rest passes.
        let filter = [
            SockFilter::new(0x30, 0, 0, TCP_FLAGS_OFFSET),
            SockFilter::new(0x54, 0, 0, TCP_SYN | TCP_ACK),
            SockFilter::new(0x15, 0, 1, TCP_SYN),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        SockRef::from(&self.handle).attach_filter(&filter)
    }

    /// Accepts what already stands in the backlog, then stops listening: closing a SO_REUSEPORT
    /// socket resets the connections it has not accepted. Pending [`Listener::accept`]s end.
    pub fn close(&self) -> Vec<(Stream, SocketAddr)> {
        self.closed.set(true);
        let mut accepted = Vec::new();
        while accepted.len() < BACKLOG as usize
            && let Ok((socket, peer)) = self.handle.accept()
        {
            let ready = socket.set_nonblocking(monoio::utils::is_legacy());
            if let Ok(socket) = ready.and_then(|()| TcpStream::from_std(socket)) {
                accepted.push((Stream::new(socket), peer));
            }
        }
        deadline::shut_down(self.socket.as_raw_fd());
        accepted
    }
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // Else what is left of earlier connections would keep the port for a minute.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Connections the kernel holds for us before they are accepted (also bounded by somaxconn).
const BACKLOG: i32 = 4096;
const ACCEPTS_ON_A_RING: usize = 4;
/// How long an accept task waits for a connection without looking whether it is still wanted, where it
/// has to wait for readiness.
const READINESS_WAIT: Duration = Duration::from_millis(100);
/// Where the flags stand in a TCP header, and the two that tell a new handshake (RFC 9293 section 3.1).
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_SYN: u32 = 0x02;
const TCP_ACK: u32 = 0x10;
