//! One connection of a mock node: requests one after the other, each replied to when it is due.
//!
//! While a reply is waited for or sent, a read stands, so that a client that leaves is noticed at
//! once. Must never decide what is replied; that is `exchange`'s.

use std::rc::Rc;
use std::time::Duration;

use crate::http1::{ChunkedDecoder, HeadScan, PieceKind};
use crate::runtime::{self, Buf, Deadline, Stream, Writer, clock};

use super::exchange::{Content, REQUEST_BYTES_MAX, Reply, Step, StreamPlan, Worker};
use super::inlet::{Gone, Inlet};
use super::message::StreamFraming;
use super::node::{InFlight, Outcome};

/// An accepted connection. The parts are separate so that one can send while the other watches.
struct Connection {
    // First, so that it leaves the deadline table before the socket can be closed.
    deadline: Deadline,
    inlet: Inlet,
    writer: Writer,
}

/// Serves a connection until one of the sides ends it.
pub(super) async fn serve(worker: Rc<Worker>, stream: Stream) {
    let _open = worker.node.open();
    let mut connection = Connection {
        deadline: stream.deadline,
        inlet: Inlet::new(stream.reader),
        writer: stream.writer,
    };
    while let Ok(After::KeepAlive) = exchange(&worker, &mut connection).await {}
}

/// What becomes of a connection behind a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    KeepAlive,
    Close,
}

/// One request and its reply.
async fn exchange(worker: &Worker, connection: &mut Connection) -> Result<After, Gone> {
    connection.deadline.set_idle(worker.node.options.keep_alive);
    let reply = receive(worker, connection).await?;
    connection.deadline.clear();
    if !reply.delay.is_zero() {
        connection.inlet.watch(runtime::sleep(reply.delay)).await?;
    }
    match reply.content {
        Content::Whole(answer) => send_answer(connection, answer, reply.in_flight).await?,
        Content::Half(part) => {
            send(connection, part).await?;
            settle(reply.in_flight, Outcome::Disconnected);
            return Ok(After::Close);
        }
        Content::Stream(plan) => {
            return send_stream(worker, connection, &plan, reply.in_flight).await;
        }
    }
    Ok(if reply.close {
        After::Close
    } else {
        After::KeepAlive
    })
}

/// Receives a request and decides about the reply.
async fn receive<'w>(worker: &'w Worker, connection: &mut Connection) -> Result<Reply<'w>, Gone> {
    let mut scan = HeadScan::new();
    let mut is_asked_for = false;
    loop {
        let held = connection.inlet.held();
        let (bytes, expects_continue) = if held.is_empty() {
            (0, false)
        } else {
            match worker.step(held, &mut scan) {
                Step::Reply { reply, bytes } => {
                    connection.inlet.consume(bytes);
                    return Ok(reply);
                }
                Step::Chunked {
                    head_bytes,
                    expects_continue,
                } => {
                    if expects_continue {
                        send(connection, worker.messages.go_ahead()).await?;
                    }
                    return receive_chunked(worker, connection, head_bytes).await;
                }
                Step::More {
                    bytes,
                    expects_continue,
                } => (bytes, expects_continue),
            }
        };
        if expects_continue && !std::mem::replace(&mut is_asked_for, true) {
            send(connection, worker.messages.go_ahead()).await?;
        }
        let was_idle = connection.inlet.held().is_empty();
        connection.inlet.receive(bytes).await?;
        if was_idle {
            connection.deadline.set_receiving(REQUEST_DURATION_MAX);
        }
    }
}

/// Receives a body that comes in chunks, behind `head_bytes` that are held.
async fn receive_chunked<'w>(
    worker: &'w Worker,
    connection: &mut Connection,
    head_bytes: usize,
) -> Result<Reply<'w>, Gone> {
    let head = connection
        .inlet
        .held()
        .get(..head_bytes)
        .unwrap_or_default()
        .to_vec();
    connection.inlet.consume(head_bytes);
    let mut decoder = ChunkedDecoder::new();
    let mut body = Vec::new();
    while !decoder.is_finished() {
        let held = connection.inlet.held();
        if held.is_empty() {
            connection.inlet.receive(0).await?;
            continue;
        }
        let piece = decoder.decode(held).map_err(|_| Gone)?;
        if piece.kind == PieceKind::Data {
            body.extend_from_slice(held.get(..piece.len).unwrap_or_default());
        }
        connection.inlet.consume(piece.len);
        if body.len() > REQUEST_BYTES_MAX {
            return Err(Gone);
        }
    }
    worker.reply_to_parts(&head, &body).ok_or(Gone)
}

/// Sends a whole answer, with the read of the next request standing.
async fn send_answer(
    connection: &mut Connection,
    answer: Buf,
    mut in_flight: Option<InFlight<'_>>,
) -> Result<(), Gone> {
    if let Some(in_flight) = &mut in_flight {
        in_flight.release_slot();
    }
    connection.inlet.stand_if_empty();
    send(connection, answer).await?;
    settle(in_flight, Outcome::Completed);
    Ok(())
}

/// Sends a stream event by event, each when it is due and by itself.
async fn send_stream(
    worker: &Worker,
    connection: &mut Connection,
    plan: &StreamPlan,
    mut in_flight: Option<InFlight<'_>>,
) -> Result<After, Gone> {
    let Connection { inlet, writer, .. } = connection;
    let StreamPlan {
        script,
        framing,
        breaks_in,
    } = plan;
    let node = &*worker.node;
    let began = clock::now();
    for index in 0..script.event_count() {
        let wait = script.due(node, index).saturating_sub(began.elapsed());
        if !wait.is_zero() {
            inlet.watch(runtime::sleep(wait)).await?;
        }
        let mut event = worker.messages.event(node, script, index, *framing);
        if *breaks_in == Some(index) {
            event.truncate(event.len() / 2);
            let _ = inlet.watch(writer.write_all(event)).await?;
            settle(in_flight, Outcome::Disconnected);
            return Ok(After::Close);
        }
        if index + 1 == script.event_count()
            && let Some(in_flight) = &mut in_flight
        {
            in_flight.release_slot();
        }
        let (sent, _) = inlet.watch(writer.write_all(event)).await?;
        sent.map_err(|_| Gone)?;
        node.count_event();
    }
    settle(in_flight, Outcome::Completed);
    Ok(if *framing == StreamFraming::Chunked {
        After::KeepAlive
    } else {
        After::Close
    })
}

async fn send(connection: &mut Connection, message: Buf) -> Result<(), Gone> {
    let (sent, _) = connection.writer.write_all(message).await;
    sent.map_err(|_| Gone)
}

fn settle(in_flight: Option<InFlight<'_>>, outcome: Outcome) {
    if let Some(mut in_flight) = in_flight {
        in_flight.settle(outcome);
    }
}

/// The longest a request may take to arrive.
const REQUEST_DURATION_MAX: Duration = Duration::from_secs(60);
