//! Clients that ask over and over on kept connections, one thread each, and what they saw.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Failure;

/// A crowd of equal clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) router: SocketAddr,
    /// What they are let in with, if it takes a key.
    pub(crate) key: Option<&'static str>,
    pub(crate) model: &'static str,
    pub(crate) count: u32,
    /// Time between two requests of one client, from send to send; zero: as soon as it has the answer.
    pub(crate) pace: Duration,
}

/// One answered request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    /// When it was sent, since the crowd began.
    pub(crate) sent: Duration,
    pub(crate) latency: Duration,
    pub(crate) estimate_secs: Option<u32>,
    pub(crate) request_id: String,
}

impl Crowd {
    /// Asks for so long, and lets what is under way finish.
    pub(crate) fn run(self, time: Duration) -> Result<Vec<Seen>, Failure> {
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.count)
                .map(|number| {
                    let stop = &stop;
                    scope.spawn(move || self.client(number, began, stop))
                })
                .collect();
            super::process::pause(time);
            stop.store(true, Ordering::Relaxed);
            let mut seen = Vec::new();
            for client in clients {
                seen.extend(client.join().map_err(|_| "a client failed")??);
            }
            Ok(seen)
        })
    }

    fn client(self, number: u32, began: Instant, stop: &AtomicBool) -> Result<Vec<Seen>, Failure> {
        let mut connection = TcpStream::connect(self.router)?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let request = request(self.model, self.key);
        let mut seen = Vec::new();
        // Spread over the pace, so that the crowd does not march in step.
        let mut due = began + self.pace * number / self.count.max(1);
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if due > now {
                super::process::pause(due - now);
            }
            let sent = Instant::now();
            connection.write_all(request.as_bytes())?;
            let mut answer = receive(&mut connection)?;
            answer.sent = sent - began;
            answer.latency = sent.elapsed();
            seen.push(answer);
            // A client that was held up does not hurry afterwards.
            due = (due + self.pace).max(Instant::now());
        }
        Ok(seen)
    }
}

fn request(model: &str, key: Option<&str>) -> String {
    let key = key.map_or_else(String::new, |key| {
        format!("Authorization: Bearer {key}\r\n")
    });
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hi"}}]}}"#);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
         {key}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one answer with a length.
fn receive(connection: &mut TcpStream) -> Result<Seen, Failure> {
    let mut bytes = Vec::with_capacity(1024);
    let mut chunk = [0; 4096];
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        if let httparse::Status::Complete(head_bytes) = head.parse(&bytes)? {
            let field = |name: &str| {
                let found = head
                    .headers
                    .iter()
                    .find(|field| field.name.eq_ignore_ascii_case(name));
                found.and_then(|field| std::str::from_utf8(field.value).ok())
            };
            let length: usize = field("content-length")
                .ok_or("an answer without a length")?
                .parse()?;
            if bytes.len() >= head_bytes + length {
                return Ok(Seen {
                    status: head.code.unwrap_or_default(),
                    sent: Duration::ZERO,
                    latency: Duration::ZERO,
                    estimate_secs: field("x-estimated-wait").and_then(|secs| secs.parse().ok()),
                    request_id: field("x-request-id").unwrap_or_default().to_owned(),
                });
            }
        }
        let count = connection.read(&mut chunk)?;
        if count == 0 {
            return Err("the router closed a connection".into());
        }
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// The `quantile` of latencies of the answers with `status`.
pub(crate) fn latency_quantile<'s>(
    seen: impl Iterator<Item = &'s Seen>,
    status: u16,
    quantile: f64,
) -> Duration {
    let mut latencies: Vec<_> = seen
        .filter(|answer| answer.status == status)
        .map(|answer| answer.latency)
        .collect();
    latencies.sort_unstable();
    let index = (latencies.len() as f64 * quantile) as usize;
    latencies
        .get(index.min(latencies.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

pub(crate) fn count(seen: &[Seen], status: u16) -> usize {
    seen.iter().filter(|answer| answer.status == status).count()
}

/// Longer than any limit of the router under test.
const PATIENCE: Duration = Duration::from_secs(120);
