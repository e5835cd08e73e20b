//! Sends what the control side answered: whole, or piece by piece as the client takes it.

use crate::http1::{CHUNK_SIZE_LINE_BYTES_MAX, HeadWriter, LAST_CHUNK, Method, chunk_size_line};
use crate::runtime::{Buf, Scratch};

use super::super::Worker;
use super::super::downstream::{Downstream, Gone};
use super::super::exchange::After;
use super::super::request::Request;
use super::super::respond::{self, OwnFields, Response, Scope};
use super::super::trace::Trace;
use super::ApiReply;

/// Sends an answer whose body is here.
pub(super) async fn whole(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    reply: &ApiReply,
    trace: &mut Trace<'_>,
) -> After {
    let keep_alive = respond::go_on_after(worker, client, request);
    let mut head = Scratch::new();
    let mut writer = HeadWriter::new(&mut head);
    begin_head(&mut writer, reply);
    if reply.has_body() {
        writer.content_length(reply.body.len() as u64);
    }
    let own = OwnFields::of(request, Scope::Local, keep_alive);
    respond::write_own_fields(worker, &mut writer, &own);
    writer.end();
    let body: &[u8] = if request.method == Method::Head || !reply.has_body() {
        &[]
    } else {
        &reply.body
    };
    let response = Response::of(&head, body, keep_alive);
    respond::deliver(worker, client, response, reply.status, trace).await
}

/// An answer whose head is out.
pub(super) struct ReplyStream {
    keep_alive: bool,
    /// Not for HTTP/1.0: there the end of the connection is the end of the body.
    is_chunked: bool,
    body_bytes: usize,
    status: http::StatusCode,
}

/// Sends the head of an answer, and its first piece.
///
/// # Errors
/// When the client is gone.
pub(super) async fn begin(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    reply: &ApiReply,
    trace: &mut Trace<'_>,
) -> Result<ReplyStream, Gone> {
    let mut stream = ReplyStream {
        keep_alive: respond::go_on_after(worker, client, request),
        is_chunked: !request.is_http10(),
        body_bytes: 0,
        status: reply.status,
    };
    let mut head = Scratch::new();
    let mut writer = HeadWriter::new(&mut head);
    begin_head(&mut writer, reply);
    if stream.is_chunked {
        writer.chunked();
    }
    let own = OwnFields::of(request, Scope::Local, stream.keep_alive);
    respond::write_own_fields(worker, &mut writer, &own);
    writer.end();
    respond::write(worker, client, Buf::of(&head)).await?;
    trace.answered(reply.status, 0);
    if request.method != Method::Head {
        stream.piece(worker, client, &reply.body, trace).await?;
    }
    Ok(stream)
}

impl ReplyStream {
    /// Sends one more piece; the client must take some of it within the stall limit.
    pub(super) async fn piece(
        &mut self,
        worker: &Worker,
        client: &mut Downstream,
        piece: &[u8],
        trace: &mut Trace<'_>,
    ) -> Result<(), Gone> {
        if piece.is_empty() {
            // As a chunk it would be the last one.
            return Ok(());
        }
        respond::write(worker, client, framed(piece, self.is_chunked)).await?;
        self.body_bytes += piece.len();
        trace.answered(self.status, self.body_bytes);
        Ok(())
    }

    /// Ends the answer.
    pub(super) async fn end(self, worker: &Worker, client: &mut Downstream) -> Result<After, Gone> {
        if self.is_chunked {
            respond::write(worker, client, Buf::of(LAST_CHUNK)).await?;
        }
        Ok(self.after())
    }

    /// What becomes of the connection.
    pub(super) fn after(&self) -> After {
        After::once_answered(self.keep_alive)
    }
}

/// A piece as it is sent, copied once: live events are long, and many may watch.
fn framed(piece: &[u8], is_chunked: bool) -> Buf {
    let mut bytes = Buf::with_room(piece.len() + CHUNK_SIZE_LINE_BYTES_MAX);
    if is_chunked {
        let mut line = [0; CHUNK_SIZE_LINE_BYTES_MAX];
        bytes.append(chunk_size_line(piece.len(), &mut line));
        bytes.append(piece);
        bytes.append_crlf();
    } else {
        bytes.append(piece);
    }
    bytes
}

fn begin_head(writer: &mut HeadWriter<'_>, reply: &ApiReply) {
    writer.status_line(reply.status);
    if reply.has_body() {
        writer.field("Content-Type", reply.content_type.as_bytes());
    }
    // Figures, names and tokens are for whoever asked and for now; and no browser is to guess at them.
    writer
        .field("Cache-Control", b"no-store")
        .field("X-Content-Type-Options", b"nosniff");
    for (name, value) in &reply.fields {
        writer.field(name, value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_any_length_is_framed_whole() {
        for length in [1, 15, 16, 4095, 4096, 65_536, 300_000] {
            let piece: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let chunk = [format!("{length:X}\r\n").as_bytes(), &piece, b"\r\n"].concat();
            assert_eq!(framed(&piece, true).filled(), chunk);
            assert_eq!(framed(&piece, false).filled(), piece);
        }
    }
}
