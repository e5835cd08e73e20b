//! One question to a node over HTTP/1.1: bounded in time and bytes, without redirects, to an address that
//! was checked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::config::{BaseUrl, Secret};
use crate::http1::{
    ChunkedDecoder, HeadLimits, HeadScan, HeadWriter, Method, Parsed, Passing, ResponseBody,
    parse_response,
};
use crate::proxy::ProbeToken;

use super::ProbeError;

/// Whom questions go to, and until when answers are waited for. All go to one address, so that what is known
/// after the last one is known of that address.
pub(super) struct Asker<'a> {
    base_url: &'a BaseUrl,
    /// Tells this router that it is the one which asks.
    token: &'a ProbeToken,
    address: SocketAddr,
    until: Instant,
    /// To the address, for the first question.
    socket: Option<TcpStream>,
}

/// A `GET`.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) path: &'static str,
    pub(super) query: Option<&'static str>,
    pub(super) credential: Option<&'a Secret>,
    /// Whether more than the status is of interest.
    pub(super) wants_body: bool,
}

impl<'a> Asker<'a> {
    /// Connects to the first of the addresses, all of them checked, that can be connected to.
    pub(super) fn reach(
        base_url: &'a BaseUrl,
        token: &'a ProbeToken,
        addresses: &[SocketAddr],
        until: Instant,
    ) -> Result<Self, ProbeError> {
        let mut last = ProbeError::Connect;
        for (index, address) in addresses.iter().enumerate() {
            match connect(*address, until, addresses.len() - index) {
                Ok(socket) => {
                    return Ok(Self {
                        base_url,
                        token,
                        address: *address,
                        until,
                        socket: Some(socket),
                    });
                }
                Err(error) => last = ProbeError::of_connect(&error),
            }
        }
        Err(last)
    }

    /// Whom it has reached.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn ask(&mut self, question: Question<'_>) -> Result<(u16, Vec<u8>), ProbeError> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(self.address, self.until, 1)
                .map_err(|error| ProbeError::of_connect(&error))?,
        };
        self.converse(socket, question)
    }

    fn converse(
        &self,
        mut socket: TcpStream,
        question: Question<'_>,
    ) -> Result<(u16, Vec<u8>), ProbeError> {
        let mut head = Vec::with_capacity(256);
        let mut writer = HeadWriter::new(&mut head);
        writer.request_line(
            Method::Get,
            self.base_url.path_prefix(),
            question.path,
            question.query,
        );
        writer.field("Host", self.base_url.authority().as_bytes());
        if let Some(key) = question.credential {
            writer.field(
                "Authorization",
                format!("Bearer {}", key.expose()).as_bytes(),
            );
        }
        writer
            .field(ProbeToken::FIELD, self.token.as_bytes())
            .field("Accept", b"application/json")
            .field("Connection", b"close")
            .end();
        let sent = left(self.until)
            .and_then(|left| socket.set_write_timeout(Some(left)))
            .and_then(|()| socket.write_all(&head));
        sent.map_err(|error| ProbeError::of_exchange(&error))?;
        read_response(&mut socket, question.wants_body, self.until)
    }
}

/// Connects within a fair share of the time left.
fn connect(address: SocketAddr, until: Instant, addresses_left: usize) -> io::Result<TcpStream> {
    let share = left(until)? / u32::try_from(addresses_left).unwrap_or(u32::MAX);
    let socket = TcpStream::connect_timeout(&address, share)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Reads a response of at most [`RESPONSE_BYTES_MAX`] bytes; its head only where the body is not needed.
fn read_response(
    socket: &mut TcpStream,
    needs_body: bool,
    until: Instant,
) -> Result<(u16, Vec<u8>), ProbeError> {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    let mut scan = HeadScan::new();
    let mut head = None;
    loop {
        if head.is_none() {
            let parsed = parse_response(&received, Method::Get, &mut scan, &HeadLimits::DEFAULT)
                .map_err(|_| ProbeError::BadAnswer)?;
            if let Parsed::Complete {
                head: parsed,
                bytes,
            } = parsed
            {
                let (status, body, is_interim) =
                    (parsed.status.as_u16(), parsed.body, parsed.interim);
                received.drain(..bytes);
                if !is_interim {
                    head = Some((status, body));
                }
                continue;
            }
        }
        if let Some((status, _)) = head
            && !needs_body
        {
            return Ok((status, Vec::new()));
        }
        if let Some((status, framing)) = head
            && let Some(body) = whole_body(&received, framing)?
        {
            return Ok((status, body));
        }
        let received_now = left(until)
            .and_then(|left| socket.set_read_timeout(Some(left)))
            .and_then(|()| socket.read(&mut chunk));
        let count = received_now.map_err(|error| ProbeError::of_exchange(&error))?;
        match (count, head) {
            (0, Some((status, ResponseBody::UntilClose))) => return Ok((status, received)),
            (0, _) => return Err(ProbeError::Closed),
            (count, _) => received.extend_from_slice(&chunk[..count]),
        }
        if received.len() > RESPONSE_BYTES_MAX {
            return Err(ProbeError::TooLong);
        }
    }
}

/// The body, once all of it is among the bytes behind the head.
fn whole_body(received: &[u8], framing: ResponseBody) -> Result<Option<Vec<u8>>, ProbeError> {
    match framing {
        ResponseBody::Empty => Ok(Some(Vec::new())),
        ResponseBody::UntilClose => Ok(None),
        ResponseBody::Fixed(bytes) => {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            Ok(received.get(..bytes).map(<[u8]>::to_vec))
        }
        ResponseBody::Chunked => {
            let mut decoder = ChunkedDecoder::new();
            let mut body = Vec::new();
            let mut rest = received;
            while !rest.is_empty() && !decoder.is_finished() {
                let step = decoder
                    .forward_range(rest, Passing::Data)
                    .map_err(|_| ProbeError::BadAnswer)?;
                body.extend_from_slice(rest.get(step.forward).unwrap_or_default());
                rest = rest.get(step.consumed..).unwrap_or_default();
            }
            Ok(decoder.is_finished().then_some(body))
        }
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

const RESPONSE_BYTES_MAX: usize = 256 * 1024;
