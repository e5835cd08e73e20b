//! The floor: a relay on the router's runtime that reads, frames and forwards, and nothing else.
//!
//! It looks for the end of heads and for `Content-Length`, like any proxy must; it checks nothing,
//! counts nothing, chooses nothing. Fit for the load of this benchmark only.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use llm_router::runtime::{self, Buf, Driver, Listener, Stream};
use memchr::memmem;

use super::Failure;

/// Relays from an address of its own to `node` until this process ends; says first where it listens.
pub(crate) fn serve(
    driver: Driver,
    node: SocketAddr,
    say: impl Fn(SocketAddr),
) -> Result<(), Failure> {
    let bound = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    say(bound.local_addr()?);
    let served: io::Result<()> = runtime::block_on(driver, async move {
        let listener = Listener::new(bound)?;
        loop {
            let (client, _) = listener.accept().await?;
            runtime::spawn(async move {
                // Either side leaving ends both.
                let _ = relay(client, node).await;
            });
        }
    })?;
    Ok(served?)
}

async fn relay(mut client: Stream, node: SocketAddr) -> io::Result<()> {
    let mut node = Stream::connect(node).await?;
    loop {
        pass(&mut client, &mut node).await?;
        pass(&mut node, &mut client).await?;
    }
}

/// Passes one message on.
async fn pass(from: &mut Stream, to: &mut Stream) -> io::Result<()> {
    let mut buf = read(from, Buf::large()).await?;
    let head_bytes = loop {
        match memmem::find(buf.filled(), b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => buf = read(from, buf).await?,
        }
    };
    let body = body_bytes(buf.filled().get(..head_bytes).unwrap_or_default());
    let mut left = body.map(|bytes| head_bytes + bytes);
    loop {
        left = left.map(|left| left.saturating_sub(buf.len()));
        // Without a length, the last bytes look like the end of the last chunk.
        let is_last = match left {
            Some(left) => left == 0,
            None => buf.filled().ends_with(b"0\r\n\r\n"),
        };
        let (sent, back) = to.writer.write_all(buf).await;
        sent?;
        if is_last {
            return Ok(());
        }
        drop(back);
        buf = read(from, Buf::large()).await?;
    }
}

async fn read(from: &mut Stream, buf: Buf) -> io::Result<Buf> {
    match from.reader.read(buf).await {
        (Ok(0), _) => Err(io::ErrorKind::UnexpectedEof.into()),
        (Ok(_), buf) => Ok(buf),
        (Err(error), _) => Err(error),
    }
}

fn body_bytes(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        if !name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}
