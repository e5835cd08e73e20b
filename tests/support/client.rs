//! A client that sends exact bytes and sees exact bytes, every wait bounded.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::wait::DEADLINE;

/// One client connection.
pub struct RawClient {
    stream: TcpStream,
    /// Received and not yet consumed.
    pending: Vec<u8>,
    ended: Option<End>,
}

/// How the other side ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A clean end of the stream.
    Fin,
    /// A reset.
    Reset,
}

/// A response head as received.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub status: u16,
    pub status_line: String,
    /// In order, names as received.
    pub fields: Vec<(String, String)>,
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: ResponseHead,
    /// The payload, without framing.
    pub body: Vec<u8>,
}

impl ResponseHead {
    /// The value of a field that occurs at most once.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self
            .fields
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} is repeated");
        value
    }

    pub fn closes(&self) -> bool {
        self.field("connection") == Some("close")
    }
}

impl Response {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// `error.code` of an error body of exactly the contract's shape.
    #[track_caller]
    pub fn error_code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let object = body.as_object().unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), ["error"]);
        let error = object["error"].as_object().unwrap();
        let mut keys: Vec<&str> = error.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "type"]);
        assert_eq!(self.head.field("content-type"), Some("application/json"));
        error["code"].as_str().unwrap().to_owned()
    }
}

impl RawClient {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the router accepts connections")
    }

    pub fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
        Some(Self::over(stream))
    }

    /// A client whose kernel holds only a little of what it does not read.
    pub fn connect_with_small_window(address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    /// A client over a connection that exists.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            pending: Vec::new(),
            ended: None,
        }
    }

    /// Sends all of `bytes`; a connection that is already closed is for the reading side to notice.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if is_timeout(error.kind()) => panic!("the router does not read"),
            _ => {}
        }
    }

    /// Sends as much of `bytes` as is taken within `limit` of silence; returns how much.
    pub fn send_until_blocked(&mut self, bytes: &[u8], limit: Duration) -> usize {
        self.stream.set_write_timeout(Some(limit)).unwrap();
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        self.stream.set_write_timeout(Some(DEADLINE)).unwrap();
        sent
    }

    /// A second handle for sending while this one receives.
    pub fn sender(&self) -> Self {
        Self::over(self.stream.try_clone().unwrap())
    }

    /// Sends each byte in a segment of its own.
    pub fn send_bytewise(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.stream.write_all(std::slice::from_ref(byte)).is_err() {
                return;
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    /// Receives more until `deadline`; false at the end of the stream or at the deadline.
    fn fill(&mut self, deadline: Instant) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.stream.set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = Some(End::Fin),
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                return true;
            }
            Err(error) if is_timeout(error.kind()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(_) => self.ended = Some(End::Reset),
        }
        false
    }

    /// Exactly the next `count` bytes.
    #[track_caller]
    pub fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + DEADLINE;
        while self.pending.len() < count {
            if !self.fill(deadline) {
                panic!(
                    "wanted {count} bytes, got {} and {:?}: {:?}",
                    self.pending.len(),
                    self.ended,
                    String::from_utf8_lossy(&self.pending)
                );
            }
        }
        self.pending.drain(..count).collect()
    }

    /// Whatever comes next, at least one byte; nothing at the end of the stream.
    #[track_caller]
    pub fn read_some(&mut self) -> Vec<u8> {
        if self.pending.is_empty() {
            let deadline = Instant::now() + DEADLINE;
            if !self.fill(deadline) {
                assert!(self.ended.is_some(), "silence for {DEADLINE:?}");
            }
        }
        std::mem::take(&mut self.pending)
    }

    /// Everything until the connection ends, and how it ended.
    #[track_caller]
    pub fn read_to_end(&mut self) -> (Vec<u8>, End) {
        self.read_to_end_within(DEADLINE)
    }

    #[track_caller]
    pub fn read_to_end_within(&mut self, limit: Duration) -> (Vec<u8>, End) {
        let deadline = Instant::now() + limit;
        while self.fill(deadline) {}
        let Some(end) = self.ended else {
            panic!(
                "still open after {limit:?}, got {:?}",
                String::from_utf8_lossy(&self.pending)
            );
        };
        (std::mem::take(&mut self.pending), end)
    }

    /// Whether nothing at all comes for this long: no byte, no end.
    pub fn is_silent_for(&mut self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        !self.fill(deadline) && self.ended.is_none() && self.pending.is_empty()
    }

    /// Waits until bytes have arrived and leaves them in the kernel.
    pub fn has_bytes_to_read(&self) -> bool {
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        self.stream.peek(&mut [0]).is_ok_and(|count| count == 1)
    }

    /// The connection ends, after nothing more than was already consumed.
    #[track_caller]
    pub fn expect_closed(&mut self) -> End {
        let (rest, end) = self.read_to_end();
        assert_eq!(String::from_utf8_lossy(&rest), "", "bytes before the end");
        end
    }

    #[track_caller]
    pub fn head(&mut self) -> ResponseHead {
        self.try_head().unwrap_or_else(|| {
            panic!(
                "no response head ({:?}): {:?}",
                self.ended,
                String::from_utf8_lossy(&self.pending)
            )
        })
    }

    pub fn try_head(&mut self) -> Option<ResponseHead> {
        let deadline = Instant::now() + DEADLINE;
        let end = loop {
            if let Some(end) = find(&self.pending, b"\r\n\r\n") {
                break end;
            }
            if !self.fill(deadline) {
                return None;
            }
        };
        let head: Vec<u8> = self.pending.drain(..end + 4).collect();
        let text = String::from_utf8(head).unwrap();
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let status_line = lines.next().unwrap().to_owned();
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let fields = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(": ")
                    .unwrap_or_else(|| panic!("not a field: {line:?}"));
                (name.to_owned(), value.to_owned())
            })
            .collect();
        Some(ResponseHead {
            status,
            status_line,
            fields,
        })
    }

    /// The next response to a request other than HEAD, framing checked.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let head = self.head();
        let body = self.body(&head);
        Response {
            status: head.status,
            head,
            body,
        }
    }

    /// The next response, or nothing when the connection ends without one.
    pub fn try_response(&mut self) -> Option<Response> {
        let head = self.try_head()?;
        let body = self.body(&head);
        Some(Response {
            status: head.status,
            head,
            body,
        })
    }

    #[track_caller]
    fn body(&mut self, head: &ResponseHead) -> Vec<u8> {
        if matches!(head.status, 100..=199 | 204 | 304) {
            return Vec::new();
        }
        match (
            head.field("content-length"),
            head.field("transfer-encoding"),
        ) {
            (Some(length), None) => self.read_exact(length.parse().unwrap()),
            (None, Some("chunked")) => {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk() {
                    body.extend_from_slice(&chunk);
                }
                body
            }
            (None, None) => self.read_to_end().0,
            framing => panic!("ambiguous framing: {framing:?}"),
        }
    }

    /// The next chunk's payload; nothing for the last chunk.
    #[track_caller]
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line();
        let size = usize::from_str_radix(&line, 16)
            .unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
        if size == 0 {
            assert_eq!(self.line(), "", "trailers are never passed on");
            return None;
        }
        let chunk = self.read_exact(size);
        assert_eq!(self.read_exact(2), b"\r\n");
        Some(chunk)
    }

    /// The next line, without its CRLF.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let deadline = Instant::now() + DEADLINE;
        let end = loop {
            if let Some(end) = find(&self.pending, b"\r\n") {
                break end;
            }
            assert!(
                self.fill(deadline),
                "no whole line ({:?}): {:?}",
                self.ended,
                String::from_utf8_lossy(&self.pending)
            );
        };
        let line: Vec<u8> = self.pending.drain(..end + 2).collect();
        String::from_utf8(line[..end].to_vec()).unwrap()
    }
}

pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

pub(super) fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
