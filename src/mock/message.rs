//! Puts heads and bodies together into the buffers that are sent. One place to write in per thread,
//! so that a message costs no allocation.

use std::cell::RefCell;

use http::StatusCode;

use crate::http1::{CHUNK_END, CHUNK_SIZE_LINE_BYTES_MAX, LAST_CHUNK, chunk_size_line};
use crate::http1::{HeadWriter, Method, RequestHead, Version};
use crate::openai::ApiError;
use crate::runtime::Buf;

use super::answer::{JSON, number};
use super::events::Script;
use super::node::Node;

/// Where a thread's messages are written before they are sent.
#[derive(Default)]
pub(super) struct Messages(RefCell<Scratch>);

#[derive(Default)]
struct Scratch {
    head: Vec<u8>,
    body: Vec<u8>,
}

/// What a message owes to its request.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// HEAD: the body is announced and left out.
    head_only: bool,
    /// Whether the connection ends afterwards.
    pub(super) close: bool,
}

impl Form {
    pub(super) fn answering(head: &RequestHead<'_>) -> Self {
        Self {
            head_only: head.method == Method::Head,
            close: !head.keep_alive,
        }
    }

    /// To what could not be read.
    pub(super) const fn closing() -> Self {
        Self {
            head_only: false,
            close: true,
        }
    }
}

/// How the end of a stream is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamFraming {
    Chunked,
    /// Chunked, and the connection ends afterwards.
    ChunkedThenClose,
    /// By the end of the connection (HTTP/1.0).
    UntilClose,
}

impl StreamFraming {
    pub(super) const fn of(head: &RequestHead<'_>) -> Self {
        match (head.version, head.keep_alive) {
            (Version::Http10, _) => Self::UntilClose,
            (Version::Http11, false) => Self::ChunkedThenClose,
            (Version::Http11, true) => Self::Chunked,
        }
    }
}

impl Messages {
    /// A whole 200; `write` appends the body and returns its media type.
    pub(super) fn whole(
        &self,
        form: Form,
        write: impl FnOnce(&mut Vec<u8>) -> &'static [u8],
    ) -> Buf {
        let mut scratch = self.0.borrow_mut();
        let scratch = &mut *scratch;
        scratch.clear();
        let media_type = write(&mut scratch.body);
        let mut head = HeadWriter::new(&mut scratch.head);
        head.status_line(StatusCode::OK);
        head.field("Content-Type", media_type);
        scratch.finish(form)
    }

    /// An error in the OpenAI shape.
    pub(super) fn error(&self, error: &ApiError, form: Form) -> Buf {
        let mut scratch = self.0.borrow_mut();
        let scratch = &mut *scratch;
        scratch.clear();
        error.write_body(&mut scratch.body);
        let mut head = HeadWriter::new(&mut scratch.head);
        head.status_line(error.status);
        head.field("Content-Type", JSON);
        if let Some(allow) = &error.allow {
            head.field("Allow", allow.as_bytes());
        }
        if let Some(seconds) = error.retry_after_secs {
            head.field("Retry-After", number(seconds.into()).as_bytes());
        }
        scratch.finish(form)
    }

    /// One event of a stream as it is sent: the head goes in front of the first, the end of the body
    /// behind the last.
    pub(super) fn event(
        &self,
        node: &Node,
        script: &Script,
        index: u32,
        framing: StreamFraming,
    ) -> Buf {
        let mut scratch = self.0.borrow_mut();
        let scratch = &mut *scratch;
        scratch.clear();
        script.write(&mut scratch.body, node, index);
        if index == 0 {
            write_stream_head(&mut scratch.head, framing);
        }
        let mut size_line = [0; CHUNK_SIZE_LINE_BYTES_MAX];
        let (size_line, end): (&[u8], &[u8]) = if framing == StreamFraming::UntilClose {
            (&[], &[])
        } else if index + 1 == script.event_count() {
            (
                chunk_size_line(scratch.body.len(), &mut size_line),
                CHUNK_AND_BODY_END,
            )
        } else {
            (
                chunk_size_line(scratch.body.len(), &mut size_line),
                CHUNK_END,
            )
        };
        joined(&[&scratch.head, size_line, &scratch.body, end])
    }

    /// `100 Continue`.
    pub(super) fn go_ahead(&self) -> Buf {
        let mut scratch = self.0.borrow_mut();
        scratch.clear();
        HeadWriter::new(&mut scratch.head)
            .status_line(StatusCode::CONTINUE)
            .end();
        joined(&[&scratch.head])
    }
}

impl Scratch {
    fn clear(&mut self) {
        self.head.clear();
        self.body.clear();
    }

    /// Ends the head for the body and puts both together.
    fn finish(&mut self, form: Form) -> Buf {
        let mut head = HeadWriter::new(&mut self.head);
        if form.close {
            head.field("Connection", b"close");
        }
        head.content_length(self.body.len() as u64).end();
        let body = if form.head_only { &[][..] } else { &self.body };
        joined(&[&self.head, body])
    }
}

fn write_stream_head(out: &mut Vec<u8>, framing: StreamFraming) {
    let mut head = HeadWriter::new(out);
    head.status_line(StatusCode::OK)
        .field("Content-Type", b"text/event-stream; charset=utf-8")
        .field("Cache-Control", b"no-cache");
    if framing != StreamFraming::Chunked {
        head.field("Connection", b"close");
    }
    if framing != StreamFraming::UntilClose {
        head.chunked();
    }
    head.end();
}

fn joined(pieces: &[&[u8]]) -> Buf {
    let mut buf = Buf::with_room(pieces.iter().map(|piece| piece.len()).sum());
    for piece in pieces {
        let appended = buf.append(piece);
        debug_assert_eq!(appended, piece.len(), "there is room for all of them");
    }
    buf
}

const CHUNK_AND_BODY_END: &[u8] = b"\r\n0\r\n\r\n";

const _: () = {
    // The constant is the two it is made of.
    assert!(CHUNK_AND_BODY_END.len() == CHUNK_END.len() + LAST_CHUNK.len());
};
