//! Streams that begin while their request still waits (`queue.stream_position`): the head goes out at
//! once, comments tell the place in the queue, and what goes wrong afterwards is an event, because the
//! status is out already. Clients ignore comments (the HTML standard, section 9.2.6).

use std::io::Write;

use crate::http1::{HeadWriter, LAST_CHUNK};
use crate::openai::{ApiError, Endpoint};
use crate::runtime::{Buf, Scratch};

use super::Worker;
use super::downstream::{Downstream, Gone};
use super::exchange::After;
use super::request::{EarlyHead, Request, WaitNotice};
use super::respond::{self, OwnFields, Scope, push_chunk};

/// Whether a stream may begin before its node is known: the endpoint's streams are events as OpenAI sends
/// them, so that clients understand an error among them, and the client understands chunks.
pub(super) fn is_possible(request: &Request) -> bool {
    let endpoint = request.route.as_ref().map(|routed| routed.endpoint);
    let speaks_events = matches!(
        endpoint,
        Ok(Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses)
    );
    speaks_events && !request.is_http10()
}

/// Sends the head of a stream, and the first comment.
///
/// # Errors
/// When the client is gone.
pub(super) async fn begin(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
) -> Result<(), Gone> {
    // The head that goes out now cannot tell of a coding the node would choose.
    request.drop_field(b"accept-encoding");
    let keep_alive = request.keep_alive && !worker.is_draining();
    let mut head = Scratch::new();
    let mut writer = HeadWriter::new(&mut head);
    writer
        .status_line(http::StatusCode::OK)
        .field("Content-Type", b"text/event-stream; charset=utf-8")
        .field("Cache-Control", b"no-cache")
        .chunked();
    let own = OwnFields::of(request, Scope::Inference, keep_alive);
    respond::write_own_fields(worker, &mut writer, &own);
    writer.end();
    request.early = Some(EarlyHead { keep_alive });
    if let Some(WaitNotice {
        place,
        estimate_secs,
    }) = request.wait
    {
        push_chunk(&mut head, &comment_text(place, estimate_secs));
    }
    respond::write(worker, client, Buf::of(&head)).await
}

/// Tells the place in the queue.
///
/// # Errors
/// When the client is gone.
pub(super) async fn comment(
    worker: &Worker,
    client: &mut Downstream,
    place: usize,
    wait_secs: u32,
) -> Result<(), Gone> {
    let mut chunk = Scratch::new();
    push_chunk(&mut chunk, &comment_text(place, wait_secs));
    respond::write(worker, client, Buf::of(&chunk)).await
}

/// Ends a stream that has begun with an error event.
///
/// # Errors
/// When the client is gone.
pub(super) async fn fail(
    worker: &Worker,
    client: &mut Downstream,
    early: EarlyHead,
    error: &ApiError,
) -> Result<After, Gone> {
    let mut event = Scratch::new();
    error.write_event(&mut event);
    let mut chunks = Scratch::new();
    push_chunk(&mut chunks, &event);
    chunks.extend_from_slice(LAST_CHUNK);
    respond::write(worker, client, Buf::of(&chunks)).await?;
    Ok(early.after())
}

fn comment_text(place: usize, wait_secs: u32) -> Vec<u8> {
    let mut text = Vec::with_capacity(48);
    // Writing to a vector cannot fail.
    let _ = write!(text, ": queue position={place} wait={wait_secs}\n\n");
    text
}
