//! What the clients send, and a blocking client for one exchange at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use llm_router::http1::{HeadLimits, HeadScan, Method, Parsed, parse_response};

use super::Failure;

/// Makes one exchange on a connection of its own, of a kind that every node answers at once.
///
/// # Errors
/// When the answer is not a whole 200.
pub(crate) fn try_out(address: SocketAddr) -> Result<(), Failure> {
    let body = format!(r#"{{"model":"{MODEL}","input":"a"}}"#);
    let mut connection = connect(address)?;
    connection.write_all(request("/v1/embeddings", &body).as_bytes())?;
    receive(&mut connection)
}

/// A connection that gives up after [`PATIENCE`].
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Sends one chat request.
pub(crate) fn send(connection: &mut TcpStream, body: &str) -> Result<(), Failure> {
    Ok(connection.write_all(request(PATH, body).as_bytes())?)
}

/// Receives one answer, which must be a 200 of known length, and nothing behind it.
pub(crate) fn receive(connection: &mut TcpStream) -> Result<(), Failure> {
    let mut received = Vec::with_capacity(1024);
    let mut room = [0; 4096];
    loop {
        match connection.read(&mut room)? {
            0 => return Err("the connection ended within an answer".into()),
            count => received.extend_from_slice(room.get(..count).unwrap_or_default()),
        }
        if let Some(total) = answer_bytes(&received)? {
            return match received.len() {
                count if count < total => continue,
                count if count == total => Ok(()),
                _ => Err("more bytes than the answer has".into()),
            };
        }
    }
}

/// A whole request of the size and kind SDKs send, with the key.
pub(crate) fn request(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A chat request of about 100 bytes, or of exactly `bytes` where that is more.
pub(crate) fn unary_body(bytes: usize) -> String {
    let text = "Say in one short sentence what a router does.";
    let body = |text: &str| {
        format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{text}"}}]}}"#)
    };
    let short = body(text);
    match bytes.checked_sub(short.len()) {
        Some(missing) => body(&format!("{text}{}", "x".repeat(missing))),
        None => short,
    }
}

/// A request for a stream whose every event carries `nonce`.
pub(crate) fn stream_body(nonce: &str) -> String {
    format!(
        r#"{{"model":"{MODEL}","stream":true,"user":"{nonce}","messages":[{{"role":"user","content":"Go on."}}]}}"#
    )
}

/// Bytes of the answer at the beginning of `received`, once its head is there.
fn answer_bytes(received: &[u8]) -> Result<Option<usize>, Failure> {
    let parsed = parse_response(
        received,
        Method::Post,
        &mut HeadScan::new(),
        &HeadLimits::DEFAULT,
    )
    .map_err(|error| format!("malformed answer: {error:?}"))?;
    let Parsed::Complete { head, bytes } = parsed else {
        return Ok(None);
    };
    if head.status.as_u16() != 200 {
        let text = String::from_utf8_lossy(received);
        return Err(format!("not a 200: {text}").into());
    }
    let body = head.content_length.ok_or("an answer of unknown length")?;
    Ok(Some(bytes + usize::try_from(body)?))
}

pub(crate) const PATH: &str = "/v1/chat/completions";
pub(crate) const KEY: &str = "sk-bench-0123456789abcdef";
pub(crate) const MODEL: &str = "bench-model";
const PATIENCE: Duration = Duration::from_secs(10);
