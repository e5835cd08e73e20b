//! Asking a node whether it is there and what it serves: `GET {base}/v1/models`, on threads of their own.
//!
//! Bounded in time and bytes, follows no redirect, and connects only to addresses that were checked
//! after resolving.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Deserialize;

use crate::config::{BaseUrl, Host, Secret, base_url::forbidden_address};
use crate::http1::{
    ChunkedDecoder, HeadLimits, HeadScan, HeadWriter, Method, Parsed, Passing, ResponseBody,
    parse_response,
};

/// One question to one node.
pub(super) struct Probe {
    pub(super) node: Box<str>,
    pub(super) base_url: BaseUrl,
    pub(super) api_key: Option<Secret>,
    /// Whether the answer must name the node's models.
    pub(super) needs_models: bool,
    /// Whether the node is asked how many requests it works on at once.
    pub(super) needs_slots: bool,
}

/// What came of a probe.
pub(super) struct Outcome {
    pub(super) node: Box<str>,
    /// The node's addresses; `None` if they could not be found out.
    pub(super) addresses: Option<Vec<SocketAddr>>,
    pub(super) answer: io::Result<Answer>,
}

pub(super) struct Answer {
    /// The models the node names, sorted; empty if it was not asked for them.
    pub(super) models: Vec<Box<str>>,
    /// How many requests it works on at once, if it was asked and its engine tells.
    pub(super) slots: Option<u32>,
}

/// The threads that probe.
pub(super) struct Probers {
    requests: Sender<Probe>,
    outcomes: Receiver<Outcome>,
}

pub(super) fn start(count: usize) -> io::Result<Probers> {
    let (requests, queue) = bounded::<Probe>(count);
    let (results, outcomes) = bounded(count);
    for index in 0..count {
        let (queue, results) = (queue.clone(), results.clone());
        let thread = thread::Builder::new().name(format!("probe-{index}"));
        thread.spawn(move || {
            for probe in queue {
                if results.send(carry_out(probe)).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(Probers { requests, outcomes })
}

impl Probers {
    /// Hands a probe over; false when all are busy: it is then asked for again.
    pub(super) fn request(&self, probe: Probe) -> bool {
        self.requests.try_send(probe).is_ok()
    }

    pub(super) fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }
}

fn carry_out(probe: Probe) -> Outcome {
    let resolved = resolve(&probe.base_url);
    let addresses = resolved.as_ref().ok().cloned();
    let answer = resolved.and_then(|addresses| ask(&probe, &addresses));
    Outcome {
        node: probe.node,
        addresses,
        answer,
    }
}

fn resolve(base_url: &BaseUrl) -> io::Result<Vec<SocketAddr>> {
    let port = base_url.port();
    let found: Vec<SocketAddr> = match base_url.host() {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
        Host::Name(name) => (name.as_str(), port).to_socket_addrs()?.collect(),
    };
    let allowed: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| forbidden_address(address.ip()).is_none())
        .collect();
    if allowed.is_empty() {
        Err(other("the name has no permitted address"))
    } else {
        Ok(allowed)
    }
}

fn ask(probe: &Probe, addresses: &[SocketAddr]) -> io::Result<Answer> {
    let until = Instant::now() + PROBE_TIMEOUT;
    let (status, body) = get(probe, addresses, MODELS_PATH, until)?;
    let models = match (probe.needs_models, status) {
        (true, 200) => parse_models(body)?,
        (true, _) => return Err(other("the node does not list its models")),
        (false, 500..) => return Err(other("the node answered with a server error")),
        // It is there and minds its own business: an engine without this route still serves.
        (false, _) => Vec::new(),
    };
    let slots = if probe.needs_slots {
        // An engine that does not know the question is as good as any.
        let told = get(probe, addresses, "/props", until).ok();
        told.filter(|(status, _)| *status == 200)
            .and_then(|(_, body)| parse_slots(body))
    } else {
        None
    };
    Ok(Answer { models, slots })
}

/// Sends one request to the first address that can be connected to.
fn get(
    probe: &Probe,
    addresses: &[SocketAddr],
    path: &str,
    until: Instant,
) -> io::Result<(u16, Vec<u8>)> {
    let mut last = other("no address");
    for (index, address) in addresses.iter().enumerate() {
        match connect(*address, until, addresses.len() - index) {
            Ok(socket) => return converse(probe, socket, path, until),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects within a fair share of the time left.
fn connect(address: SocketAddr, until: Instant, addresses_left: usize) -> io::Result<TcpStream> {
    let share = left(until)? / u32::try_from(addresses_left).unwrap_or(u32::MAX);
    let socket = TcpStream::connect_timeout(&address, share)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn converse(
    probe: &Probe,
    mut socket: TcpStream,
    path: &str,
    until: Instant,
) -> io::Result<(u16, Vec<u8>)> {
    let mut head = Vec::with_capacity(256);
    let mut writer = HeadWriter::new(&mut head);
    writer.request_line(Method::Get, probe.base_url.path_prefix(), path, None);
    writer.field("Host", probe.base_url.authority().as_bytes());
    if let Some(key) = &probe.api_key {
        writer.field(
            "Authorization",
            format!("Bearer {}", key.expose()).as_bytes(),
        );
    }
    writer
        .field("Accept", b"application/json")
        .field("Connection", b"close")
        .end();
    socket.set_write_timeout(Some(left(until)?))?;
    socket.write_all(&head)?;
    // Of a node whose models are configured only the status counts.
    read_response(
        &mut socket,
        probe.needs_models || path != MODELS_PATH,
        until,
    )
}

/// Reads a response of at most [`RESPONSE_BYTES_MAX`] bytes; its head only where the body is not needed.
fn read_response(
    socket: &mut TcpStream,
    needs_body: bool,
    until: Instant,
) -> io::Result<(u16, Vec<u8>)> {
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    let mut scan = HeadScan::new();
    let mut head = None;
    loop {
        if head.is_none() {
            let parsed = parse_response(&received, Method::Get, &mut scan, &HeadLimits::DEFAULT)
                .map_err(|error| other(error.reason))?;
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
        socket.set_read_timeout(Some(left(until)?))?;
        let count = socket.read(&mut chunk)?;
        match (count, head) {
            (0, Some((status, ResponseBody::UntilClose))) => return Ok((status, received)),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (count, _) => received.extend_from_slice(&chunk[..count]),
        }
        if received.len() > RESPONSE_BYTES_MAX {
            return Err(other("the answer is too long"));
        }
    }
}

/// The body, once all of it is among the bytes behind the head.
fn whole_body(received: &[u8], framing: ResponseBody) -> io::Result<Option<Vec<u8>>> {
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
                    .map_err(|error| other(error.reason))?;
                body.extend_from_slice(rest.get(step.forward).unwrap_or_default());
                rest = rest.get(step.consumed..).unwrap_or_default();
            }
            Ok(decoder.is_finished().then_some(body))
        }
    }
}

/// The ids of an OpenAI model list.
fn parse_models(mut body: Vec<u8>) -> io::Result<Vec<Box<str>>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let list: List = simd_json::serde::from_slice(&mut body)
        .map_err(|_| other("the answer is not a model list"))?;
    let usable = list
        .data
        .into_iter()
        .map(|model| model.id)
        .filter(|id| is_usable(id));
    let mut models: Vec<Box<str>> = usable.take(MODELS_MAX).map(Into::into).collect();
    models.sort_unstable();
    models.dedup();
    Ok(models)
}

/// The slots that llama.cpp's server reports at `/props`.
fn parse_slots(mut body: Vec<u8>) -> Option<u32> {
    #[derive(Deserialize)]
    struct Props {
        total_slots: u32,
    }
    let props: Props = simd_json::serde::from_slice(&mut body).ok()?;
    (1..=crate::config::CONCURRENCY_MAX)
        .contains(&props.total_slots)
        .then_some(props.total_slots)
}

/// Whether clients can ask for a model of this name.
fn is_usable(id: &str) -> bool {
    (1..=crate::openai::peek::MODEL_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

fn other(reason: &'static str) -> io::Error {
    io::Error::other(reason)
}

/// How long a node may take to answer (spec section 9).
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_BYTES_MAX: usize = 256 * 1024;
const MODELS_MAX: usize = 1000;
const MODELS_PATH: &str = "/v1/models";

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn probe_of(address: SocketAddr, needs_models: bool) -> Probe {
        Probe {
            node: "n".into(),
            base_url: BaseUrl::parse(&format!("http://{address}/base")).unwrap(),
            api_key: None,
            needs_models,
            needs_slots: false,
        }
    }

    /// Answers one connection with `response` and returns what was asked and what the probe said.
    fn probe_against(response: &'static [u8], needs_models: bool) -> (String, Outcome) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let node = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                socket.read_exact(&mut byte).unwrap();
                request.extend_from_slice(&byte);
            }
            socket.write_all(response).unwrap();
            String::from_utf8(request).unwrap()
        });
        let outcome = carry_out(probe_of(address, needs_models));
        (node.join().unwrap(), outcome)
    }

    #[test]
    fn a_model_list_is_read_whatever_its_framing() {
        let responses: [&'static [u8]; 3] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n{\"data\":[{\"id\":\"b\"},{\"id\":\"a\",\"x\":1}]}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"dat\r\n21\r\na\":[{\"id\":\"b\"},{\"id\":\"a\",\"x\":1}]}\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n{\"data\":[{\"id\":\"b\"},{\"id\":\"a\",\"x\":1}]}",
        ];
        for response in responses {
            let (request, outcome) = probe_against(response, true);
            assert!(
                request.starts_with("GET /base/v1/models HTTP/1.1\r\n"),
                "{request}"
            );
            let models = outcome.answer.unwrap().models;
            assert_eq!(models, ["a".into(), "b".into()] as [Box<str>; 2]);
        }
        let (_, outcome) = probe_against(
            b"HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n{\"data\":[{\"id\":\"a\"},{\"id\":\"bad\\n\"}]}",
            true,
        );
        assert_eq!(
            outcome.answer.unwrap().models,
            ["a".into()] as [Box<str>; 1]
        );
    }

    #[test]
    fn a_node_with_configured_models_is_up_whatever_it_answers_below_500() {
        let not_found = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        assert!(probe_against(not_found, false).1.answer.is_ok());
        assert!(probe_against(not_found, true).1.answer.is_err());
        let broken = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        assert!(probe_against(broken, false).1.answer.is_err());
    }

    #[test]
    fn slots_are_read_from_what_llama_cpp_reports_and_from_nothing_else() {
        assert_eq!(
            parse_slots(br#"{"default":{},"total_slots":4}"#.to_vec()),
            Some(4)
        );
        for other in [
            &br#"{"total_slots":0}"#[..],
            br#"{"total_slots":-1}"#,
            b"{}",
            b"no",
        ] {
            assert_eq!(parse_slots(other.to_vec()), None, "{other:?}");
        }
    }

    #[test]
    fn malformed_and_truncated_answers_fail_the_probe() {
        for response in [
            &b"HTP/1.1 200 OK\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":[]}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
            b"",
        ] {
            assert!(
                probe_against(response, true).1.answer.is_err(),
                "{response:?}"
            );
        }
    }

    #[test]
    fn a_refused_connection_fails_the_probe_but_keeps_the_address() {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let outcome = carry_out(probe_of(address, true));
        assert!(outcome.answer.is_err());
        assert_eq!(outcome.addresses, Some(vec![address]));
    }

    #[test]
    fn link_local_and_metadata_addresses_are_never_connected_to() {
        assert!(resolve(&BaseUrl::parse("http://localhost:1").unwrap()).is_ok());
        for forbidden in [
            "http://169.254.169.254",
            "http://[fe80::1]:80",
            "http://0.0.0.0:80",
        ] {
            // Refused when the configuration is read, or at the latest here.
            assert!(BaseUrl::parse(forbidden).map_or(true, |url| resolve(&url).is_err()));
        }
    }
}
