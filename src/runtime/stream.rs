//! A connected TCP socket: its deadline, its standing read, its writer.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use monoio::io::{AsyncWriteRent, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;
use socket2::SockRef;

use super::{Buf, Deadline, Reader};

/// A connected TCP socket of this worker. Dropping it closes the connection.
pub struct Stream {
    // First, so that it leaves the table before the descriptor can be closed and reused.
    /// Shuts the socket down when it passes.
    pub deadline: Deadline,
    /// The receiving half.
    pub reader: Reader,
    /// The sending half.
    pub writer: Writer,
}

impl Stream {
    pub(super) fn new(socket: TcpStream) -> Self {
        let fd = socket.as_raw_fd();
        let (read_half, write_half) = socket.into_split();
        Self {
            deadline: Deadline::register(fd),
            reader: Reader::new(read_half, fd),
            writer: Writer {
                half: write_half,
                fd,
            },
        }
    }

    /// Connects to `address` with TCP_NODELAY set.
    ///
    /// # Errors
    /// Whatever connect(2) reports.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_addr(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self::new(socket))
    }
}

/// Whether an operation failed because this process or machine has no descriptors, ports or memory
/// left: no fault of the peer, and waiting may mend it.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(
        code,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

/// The sending half of a socket.
pub struct Writer {
    half: OwnedWriteHalf<TcpStream>,
    fd: RawFd,
}

impl Writer {
    /// Sends some of the window of `buf`, at least one byte, and gives back the buffer with the rest.
    ///
    /// The send is handed to the kernel at the first poll. A dropped send leaves the stream in an
    /// unknown place: drop the whole [`Stream`] with it.
    pub async fn write(&mut self, buf: Buf) -> (io::Result<()>, Buf) {
        let (sent, mut buf) = self.half.write(buf).await;
        let result = match sent {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                buf.consume(count);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        };
        (result, buf)
    }

    /// Sends the window of `buf` until nothing of it is left, and gives the buffer back; otherwise
    /// like [`Writer::write`].
    pub async fn write_all(&mut self, mut buf: Buf) -> (io::Result<()>, Buf) {
        while !buf.is_empty() {
            let (written, back) = self.write(buf).await;
            buf = back;
            if written.is_err() {
                return (written, buf);
            }
        }
        (Ok(()), buf)
    }

    /// Says that nothing more will be sent (FIN); the other direction stays open.
    pub fn finish(&mut self) -> impl Future<Output = io::Result<()>> + '_ {
        self.half.shutdown()
    }

    /// Acknowledges what was received now instead of with the next send. A peer that writes a response
    /// in two pieces with Nagle's algorithm on otherwise waits up to 40 ms between them.
    ///
    /// # Errors
    /// Whatever setsockopt(2) reports.
    pub fn acknowledge_now(&self) -> io::Result<()> {
        self.with_socket(|socket| socket.set_tcp_quickack(true))
    }

    /// Ends the connection with a reset at once, so that a truncated response cannot be mistaken for
    /// a complete one. (Closing with SO_LINGER 0 would not do: the write half says FIN when dropped.)
    pub fn abort(&self) {
        let unspecified = libc::sockaddr {
            sa_family: libc::AF_UNSPEC as libc::sa_family_t,
            sa_data: [0; 14],
        };
        // SAFETY: plain system call on a descriptor `self` keeps open, with an address that lives
        // through it. connect(2) to AF_UNSPEC dissolves the association: TCP sends a reset.
        #[allow(unsafe_code, reason = "socket2 has no disconnect")]
        unsafe {
            libc::connect(
                self.fd,
                &raw const unspecified,
                size_of::<libc::sockaddr>() as libc::socklen_t,
            );
        }
    }

    fn with_socket<T>(&self, act: impl FnOnce(SockRef<'_>) -> T) -> T {
        // SAFETY: the descriptor is open as long as `self`; it is borrowed for this call only.
        #[allow(unsafe_code, reason = "borrow the descriptor for one system call")]
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        act(SockRef::from(&fd))
    }
}
