//! Relaying a response: what was received in a buffer is sent from that buffer.
//!
//! While one buffer is being sent the next read is already standing, so both reach the kernel in one
//! system call and a stream never waits for itself. At most two buffers are held per response: a
//! client that reads slowly stops the node, not the router's memory.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use crate::http1::{CHUNK_SIZE_LINE_BYTES_MAX, HeadWriter, LAST_CHUNK, chunk_size_line};
use crate::nodes::{FailureReason, Permit, Slot};
use crate::openai::ApiError;
use crate::runtime::{self, Buf, HEADROOM, Reader, Scratch, TURNS};
use crate::upstream::Upstream;

use super::Worker;
use super::attempt::{Answer, AnswerHead};
use super::downstream::{Downstream, Gone};
use super::exchange::{After, Stop};
use super::passage::{Outgoing, Passage, Progress, Ranges};
use super::request::Request;
use super::respond::{self, OwnFields, Scope};
use super::trace::Trace;

/// Sends the response head and body to the client as the node sends them.
///
/// # Errors
/// [`Stop::Gone`] when the client left or stalled, [`Stop::Cut`] when the node broke off: part of the response is
/// out, so nothing else may be said on this connection.
pub(super) async fn relay(
    worker: &Worker,
    client: &mut Downstream,
    request: &Request,
    answer: Answer,
    trace: &mut Trace<'_>,
) -> Result<After, Stop> {
    let (mut node, head, mut received) = NodeSide::of(answer);
    trace.responding(head.status, head.is_event_stream);
    let (mut passage, mut lines, after) = match request.early {
        Some(early) if head.is_stream() => (Passage::into_chunks(head.body), None, early.after()),
        Some(_) => return Err(node.explain(worker, client, &head, received, trace).await?),
        None => {
            let passage = Passage::new(head.body, request.is_http10());
            let keep_alive = request.keep_alive && !worker.is_draining();
            let lines = client_head(worker, request, head, &passage, keep_alive);
            (passage, Some(lines), After::once_answered(keep_alive))
        }
    };
    for turn in 1_u64.. {
        if turn.is_multiple_of(TURNS) {
            runtime::give_way().await;
        }
        let digest = passage.digest(received.filled());
        trace.body_from_node(passage.body_bytes());
        match digest.progress {
            Progress::More => {
                if turn == 1 {
                    node.acknowledge_head();
                }
                node.arm();
            }
            Progress::Finished { has_excess } => {
                trace.node_done(passage.usage(), turn == 1);
                node.finish(worker, has_excess);
            }
            Progress::Broken => {}
        }
        let parcel = Parcel {
            lines: lines.take(),
            received,
            ranges: digest.ranges,
        };
        send(worker, client, node.reader(), parcel, &passage).await?;
        trace.body_sent_on();
        match digest.progress {
            Progress::More => {}
            Progress::Finished { .. } => {
                if passage.outgoing() == Outgoing::Framed {
                    send_end(worker, client).await?;
                }
                break;
            }
            Progress::Broken => {
                return Err(node.cut(worker, client, &passage, FailureReason::BadResponse, trace));
            }
        }
        match next_bytes(worker, client, &mut node, &passage, trace).await? {
            Some(next) => received = next,
            None => break,
        }
    }
    trace.relayed();
    Ok(after)
}

/// Waits for the next bytes of the body; `None` when the end of the node's connection ended it.
async fn next_bytes(
    worker: &Worker,
    client: &mut Downstream,
    node: &mut NodeSide,
    passage: &Passage,
    trace: &mut Trace<'_>,
) -> Result<Option<Buf>, Stop> {
    match node.receive(worker, client).await? {
        Ok(received) => Ok(Some(received)),
        Err(NodeEnd::Closed) if passage.ends_with_connection() => {
            trace.node_done(passage.usage(), false);
            node.finish(worker, true);
            if passage.outgoing() == Outgoing::Framed {
                send_end(worker, client).await?;
            }
            Ok(None)
        }
        Err(end) => Err(node.cut(worker, client, passage, end.into(), trace)),
    }
}

/// The head for the client: the node's end-to-end fields, then what only we can say.
fn client_head(
    worker: &Worker,
    request: &Request,
    head: AnswerHead,
    passage: &Passage,
    keep_alive: bool,
) -> Scratch {
    let mut lines = head.lines;
    let mut writer = HeadWriter::new(&mut lines);
    match passage.outgoing() {
        Outgoing::Fixed(bytes) => {
            writer.content_length(bytes);
        }
        Outgoing::Chunks | Outgoing::Framed => {
            writer.chunked();
        }
        Outgoing::Empty | Outgoing::UntilClose => {}
    }
    let own = OwnFields::of(request, Scope::Inference, keep_alive);
    respond::write_own_fields(worker, &mut writer, &own);
    writer.end();
    lines
}

/// What a node's part of an exchange holds: given back together, as soon as the node has said everything,
/// so that a client which has the whole answer never finds its own place still taken.
struct Held {
    upstream: Upstream,
    // Before the slot: whoever is given that needs a permit too.
    permit: Permit,
    slot: Slot,
}

/// The node's side of a relay, until its part is done.
struct NodeSide {
    open: Option<Held>,
    is_reusable: bool,
    is_event_stream: bool,
}

/// How a node's connection ended before its response did.
enum NodeEnd {
    Closed,
    Failed,
    Silent,
}

impl From<NodeEnd> for FailureReason {
    fn from(end: NodeEnd) -> Self {
        match end {
            NodeEnd::Closed | NodeEnd::Failed => Self::ClosedMidResponse,
            NodeEnd::Silent => Self::StreamTimeout,
        }
    }
}

impl NodeSide {
    /// Takes an answer apart: the node's side, what the client is to be told, and what has come of the
    /// body.
    fn of(answer: Answer) -> (Self, AnswerHead, Buf) {
        let Answer {
            upstream,
            permit,
            slot,
            head,
            received,
            is_reusable,
        } = answer;
        // The head is here: from now on only silence of the node is limited, while it is waited for.
        upstream.stream.deadline.clear();
        let node = Self {
            open: Some(Held {
                upstream,
                permit,
                slot,
            }),
            is_reusable,
            is_event_stream: head.is_event_stream,
        };
        (node, head, received)
    }

    /// Begins the next read. Events are small: a stream waits with a small buffer.
    fn arm(&mut self) {
        if let Some(Held { upstream, .. }) = &mut self.open {
            let buf = if self.is_event_stream {
                Buf::medium()
            } else {
                Buf::large()
            };
            upstream.stream.reader.arm(buf.with_headroom(HEADROOM));
        }
    }

    /// The body will come in further pieces: nothing may hold the next one up.
    fn acknowledge_head(&self) {
        if let Some(Held { upstream, .. }) = &self.open {
            // Only a matter of speed.
            let _ = upstream.stream.writer.acknowledge_now();
        }
    }

    fn reader(&mut self) -> Option<&mut Reader> {
        self.open
            .as_mut()
            .map(|held| &mut held.upstream.stream.reader)
    }

    /// The node has said everything: its slot and its connection serve others from now on, while the
    /// client may still be receiving.
    fn finish(&mut self, worker: &Worker, has_excess: bool) {
        if let Some(Held {
            upstream,
            permit,
            slot,
        }) = self.open.take()
        {
            let node = slot.node().id;
            // Only now: a node that keeps dying in the middle of its answers is not well.
            slot.node().live.record_success();
            drop(permit);
            drop(slot);
            if self.is_reusable && !has_excess {
                worker.pool.check_in(node, upstream);
            }
        }
    }

    /// Waits for the next bytes of the body while watching the client.
    async fn receive(
        &mut self,
        worker: &Worker,
        client: &mut Downstream,
    ) -> Result<Result<Buf, NodeEnd>, Gone> {
        let Some(Held { upstream, .. }) = &mut self.open else {
            return Ok(Err(NodeEnd::Closed));
        };
        upstream
            .stream
            .deadline
            .set(worker.config().proxy.stream_idle_timeout);
        let (received, buf) = client.inlet.watch(upstream.stream.reader.finish()).await?;
        upstream.stream.deadline.clear();
        Ok(match received {
            Ok(1..) => Ok(buf),
            _ if upstream.stream.deadline.expired() => Err(NodeEnd::Silent),
            Ok(0) => Err(NodeEnd::Closed),
            Err(_) => Err(NodeEnd::Failed),
        })
    }

    /// Turns a response that is no stream into an error: a stream has begun already.
    async fn explain(
        &mut self,
        worker: &Worker,
        client: &mut Downstream,
        head: &AnswerHead,
        mut received: Buf,
        trace: &mut Trace<'_>,
    ) -> Result<Stop, Stop> {
        // As for a client that is sent nothing but data.
        let mut passage = Passage::new(head.body, true);
        let mut body = Vec::new();
        loop {
            let digest = passage.digest(received.filled());
            for range in digest.ranges {
                body.extend_from_slice(received.filled().get(range).unwrap_or_default());
            }
            trace.body_from_node(passage.body_bytes());
            match digest.progress {
                Progress::More if body.len() < EXPLANATION_BYTES_MAX => self.arm(),
                Progress::Finished { has_excess } => {
                    self.finish(worker, has_excess);
                    break;
                }
                Progress::More | Progress::Broken => break,
            }
            match self.receive(worker, client).await? {
                Ok(next) => received = next,
                Err(_) => break,
            }
        }
        // The error is the node's own: it is no failure of the node, and no refusal of ours.
        Ok(Stop::answer(ApiError::of_node(head.status, &body), None))
    }

    /// Breaks the response off where it is, visibly.
    fn cut(
        &self,
        worker: &Worker,
        client: &Downstream,
        passage: &Passage,
        reason: FailureReason,
        trace: &mut Trace<'_>,
    ) -> Stop {
        if let Some(Held { slot, .. }) = &self.open {
            worker.count_node_failure(slot.node(), reason);
        }
        if passage.outgoing() == Outgoing::UntilClose {
            // Nothing but a reset tells this client that the end is not the end.
            client.writer.abort();
        }
        trace.node_broke_off(reason == FailureReason::StreamTimeout);
        Stop::Cut
    }
}

/// Bytes of a node's answer in which an error is looked for.
const EXPLANATION_BYTES_MAX: usize = 64 * 1024;

/// What goes out in one step.
struct Parcel {
    /// The response head, before the first bytes of the body.
    lines: Option<Scratch>,
    received: Buf,
    ranges: Ranges,
}

async fn send(
    worker: &Worker,
    client: &mut Downstream,
    mut upstream: Option<&mut Reader>,
    parcel: Parcel,
    passage: &Passage,
) -> Result<(), Stop> {
    let Parcel {
        mut lines,
        received: mut buf,
        ranges,
    } = parcel;
    let origin = buf.window().start;
    for range in ranges {
        buf.set_window(origin + range.start..origin + range.end);
        if passage.outgoing() == Outgoing::Framed {
            frame(&mut buf);
        }
        if let Some(lines) = lines.take()
            && !buf.prepend(&lines)
        {
            write(worker, client, upstream.as_deref_mut(), Buf::of(&lines)).await?;
        }
        buf = write(worker, client, upstream.as_deref_mut(), buf).await?;
    }
    if let Some(lines) = lines {
        write(worker, client, upstream, Buf::of(&lines)).await?;
    }
    Ok(())
}

/// Ends a body that was framed here.
async fn send_end(worker: &Worker, client: &mut Downstream) -> Result<(), Stop> {
    write(worker, client, None, Buf::of(LAST_CHUNK)).await?;
    Ok(())
}

/// Makes the window of `buf` one chunk, in the room around it.
fn frame(buf: &mut Buf) {
    let mut line = [0; CHUNK_SIZE_LINE_BYTES_MAX];
    let is_framed = buf.prepend(chunk_size_line(buf.len(), &mut line));
    debug_assert!(is_framed, "HEADROOM holds a chunk-size line");
    buf.append_crlf();
}

/// Sends the window of `buf`, the node's next read standing meanwhile. The client must take some of
/// it within the stall limit, again and again.
async fn write(
    worker: &Worker,
    client: &mut Downstream,
    mut upstream: Option<&mut Reader>,
    mut buf: Buf,
) -> Result<Buf, Stop> {
    let Downstream {
        deadline,
        inlet,
        writer,
        ..
    } = client;
    while !buf.is_empty() {
        deadline.set(worker.config().http.write_stall_timeout);
        let mut writing = pin!(writer.write(buf));
        let (written, back): (io::Result<()>, Buf) = poll_fn(|context| {
            let polled = writing.as_mut().poll(context).map(Ok);
            if let Some(upstream) = &mut upstream {
                // Hands the read to the kernel together with the write; its outcome is for later.
                let _ = upstream.poll_done(context);
            }
            match polled {
                Poll::Pending if inlet.poll_gone(context) => Poll::Ready(Err(Gone)),
                polled => polled,
            }
        })
        .await?;
        buf = back;
        if written.is_err() {
            return Err(Stop::Gone {
                is_stalled: deadline.expired(),
            });
        }
    }
    deadline.clear();
    Ok(buf)
}
