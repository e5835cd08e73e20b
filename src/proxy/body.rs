//! Receiving a request body whole: within its limits of size and time, into the buffer it is sent from.
//!
//! Bodies are buffered because the model name may stand at their end and because a retry needs them.

use std::ops::Range;
use std::time::Duration;

use crate::admission::BufferReservation;
use crate::http1::{BodyLength, ChunkedDecoder, Passing};
use crate::openai::ApiError;
use crate::runtime::{Buf, LARGE, clock};
use crate::telemetry::{Phase, RejectionReason};

use super::Worker;
use super::downstream::{Downstream, REQUEST_HEADROOM};
use super::exchange::Stop;
use super::request::Request;
use super::respond;
use super::trace::Trace;

/// A whole request body in the buffer it will be sent from.
pub(super) struct Body {
    buf: Buf,
    /// Where the body lies in `buf`; in front of it there is room for a head.
    place: Range<usize>,
    /// What was received behind the body: the next request.
    leftover: Option<Buf>,
    _reservation: Option<BufferReservation>,
}

impl Body {
    pub(super) fn bytes(&mut self) -> &[u8] {
        self.buf.set_window(self.place.clone());
        self.buf.filled()
    }

    pub(super) fn len(&self) -> usize {
        self.place.len()
    }

    /// Puts other bytes in place of the body: the same request with another model name.
    pub(super) fn replace(&mut self, pieces: [&[u8]; 3], headroom: usize) {
        let body_bytes = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let mut buf = Buf::with_room(headroom + body_bytes).with_headroom(headroom);
        for piece in pieces {
            buf.append(piece);
        }
        self.place = buf.window();
        self.buf = buf;
    }

    /// The buffer with a head, of two parts, directly in front of the body, to be sent in one go. Copies
    /// the body only when the head does not fit there.
    pub(super) fn take_with_head(&mut self, first: &[u8], rest: &[u8]) -> Buf {
        let mut buf = std::mem::replace(&mut self.buf, Buf::empty());
        buf.set_window(self.place.clone());
        let head_bytes = first.len() + rest.len();
        if head_bytes > self.place.start {
            let mut roomy = Buf::with_room(head_bytes + buf.len()).with_headroom(head_bytes);
            roomy.append(buf.filled());
            self.place = roomy.window();
            buf = roomy;
        }
        let _fits = buf.prepend(rest) && buf.prepend(first);
        debug_assert!(_fits, "there is room for this head");
        buf
    }

    /// Gives the buffer back after an attempt, for the next one.
    pub(super) fn restore(&mut self, buf: Buf) {
        self.buf = buf;
    }

    pub(super) fn take_leftover(&mut self) -> Option<Buf> {
        self.leftover.take()
    }

    /// No body; what was received belongs to the next request.
    pub(super) fn none(received: Buf) -> Self {
        Self::of_whole(received, 0, None)
    }

    /// The first `body_bytes` of `buf`, which has them; what lies behind them is left over.
    fn of_whole(mut buf: Buf, body_bytes: usize, reservation: Option<BufferReservation>) -> Self {
        let start = buf.window().start;
        let leftover = leftover_behind(&mut buf, body_bytes);
        Self {
            buf,
            place: start..start + body_bytes,
            leftover,
            _reservation: reservation,
        }
    }

    fn new(buf: Buf, place: Range<usize>) -> Self {
        Self {
            buf,
            place,
            leftover: None,
            _reservation: None,
        }
    }
}

/// Receives the body of `request`, at most `body_bytes_max` bytes.
///
/// # Errors
/// 413 beyond the limit (before reading where the length is known), 408 when it comes too slowly, 400
/// for malformed chunks, 503 when the process holds too many bodies, or the client is gone.
pub(super) async fn receive(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    body_bytes_max: usize,
    trace: &mut Trace<'_>,
) -> Result<Body, Stop> {
    let length = match request.body {
        BodyLength::Empty => return Err(ApiError::length_required().into()),
        BodyLength::Fixed(bytes) => match usize::try_from(bytes) {
            Ok(bytes) if bytes <= body_bytes_max => Some(bytes),
            _ => return Err(ApiError::payload_too_large(body_bytes_max).into()),
        },
        BodyLength::Chunked => None,
    };
    let received = request.take_received();
    if let Some(bytes) = length
        && received.len() >= bytes
    {
        // As nearly always: head and body have come together.
        return Ok(Body::of_whole(received, bytes, None));
    }
    let headroom = REQUEST_HEADROOM.max(request.field_lines().len() + HEAD_BYTES_EXTRA);
    let pace = Pace::new(worker);
    trace.enter(Phase::Read);
    if request.expect_continue {
        respond::go_on(worker, client).await?;
    }
    let body = match length {
        Some(bytes) => receive_fixed(worker, client, received, bytes, headroom, &pace).await,
        None => receive_chunked(worker, client, received, body_bytes_max, headroom, &pace).await,
    };
    if body.is_ok() && client.deadline.expired() {
        client.inlet.stop_reading();
        request.keep_alive = false;
    }
    client.deadline.clear();
    body
}

async fn receive_fixed(
    worker: &Worker,
    client: &mut Downstream,
    received: Buf,
    body_bytes: usize,
    headroom: usize,
    pace: &Pace,
) -> Result<Body, Stop> {
    let missing = body_bytes.saturating_sub(received.len());
    let mut reservation = None;
    let mut buf = received;
    if missing > buf.room() {
        if body_bytes > LARGE {
            reservation = Some(reserve(worker, body_bytes)?);
        }
        buf = buf.grown(body_bytes, headroom);
    }
    while buf.len() < body_bytes {
        client.inlet.put_back(buf);
        let received = pace.receive(client, usize::MAX).await;
        buf = client.inlet.take();
        received?;
    }
    Ok(Body::of_whole(buf, body_bytes, reservation))
}

async fn receive_chunked(
    worker: &Worker,
    client: &mut Downstream,
    mut received: Buf,
    body_bytes_max: usize,
    headroom: usize,
    pace: &Pace,
) -> Result<Body, Stop> {
    let mut decoder = ChunkedDecoder::new();
    let mut reservation: Option<BufferReservation> = None;
    let mut data = Buf::with_room(headroom + received.len()).with_headroom(headroom);
    loop {
        while !received.is_empty() && !decoder.is_finished() {
            let step = decoder
                .forward_range(received.filled(), Passing::Data)
                .map_err(|error| ApiError::from(crate::http1::Reject::from(error)))?;
            let piece = received
                .filled()
                .get(step.forward.clone())
                .unwrap_or_default();
            if data.len() + piece.len() > body_bytes_max {
                return Err(ApiError::payload_too_large(body_bytes_max).into());
            }
            if piece.len() > data.room() {
                let room = (data.len() * 2)
                    .max(data.len() + piece.len())
                    .min(body_bytes_max);
                if room > LARGE {
                    grow_reservation(worker, &mut reservation, room)?;
                }
                data = data.grown(room, headroom);
            }
            data.append(piece);
            received.consume(step.consumed);
        }
        if decoder.is_finished() {
            let place = data.window();
            let mut body = Body::new(data, place);
            body._reservation = reservation;
            body.leftover = (!received.is_empty()).then(|| received.grown(received_room(), 0));
            return Ok(body);
        }
        client.inlet.put_back(emptied(received));
        pace.receive(client, LARGE).await?;
        received = client.inlet.take();
    }
}

/// Cuts what lies behind the body off into a buffer of its own; ordinarily there is nothing.
fn leftover_behind(buf: &mut Buf, body_bytes: usize) -> Option<Buf> {
    let behind = buf
        .filled()
        .get(body_bytes..)
        .filter(|behind| !behind.is_empty())?;
    let mut leftover = Buf::with_room(REQUEST_HEADROOM + behind.len().max(received_room()))
        .with_headroom(REQUEST_HEADROOM);
    leftover.append(behind);
    buf.truncate(body_bytes);
    Some(leftover)
}

/// A consumed buffer with its whole block free again.
fn emptied(mut buf: Buf) -> Buf {
    debug_assert!(buf.is_empty());
    buf.set_window(0..0);
    buf
}

fn reserve(worker: &Worker, bytes: usize) -> Result<BufferReservation, Stop> {
    worker
        .budget
        .try_reserve(bytes as u64)
        .ok_or_else(over_budget)
}

fn over_budget() -> Stop {
    Stop::answer(ApiError::overloaded(1), Some(RejectionReason::BufferBudget))
}

fn grow_reservation(
    worker: &Worker,
    reservation: &mut Option<BufferReservation>,
    bytes: usize,
) -> Result<(), Stop> {
    match reservation {
        None => *reservation = Some(reserve(worker, bytes)?),
        Some(held) => {
            let more = (bytes as u64).saturating_sub(held.bytes());
            if !held.try_grow(more) {
                return Err(over_budget());
            }
        }
    }
    Ok(())
}

/// How fast a body has to come: no gap longer than one limit, the whole within another.
struct Pace {
    gap: Duration,
    /// Coarse time at which the whole body must be here.
    until: Duration,
}

impl Pace {
    fn new(worker: &Worker) -> Self {
        let http = &worker.config().http;
        Self {
            gap: http.body_idle_timeout,
            until: clock::coarse() + http.body_timeout,
        }
    }

    async fn receive(&self, client: &mut Downstream, bytes_max: usize) -> Result<(), Stop> {
        let left = self.until.saturating_sub(clock::coarse());
        client.deadline.set_receiving(self.gap.min(left));
        match client.inlet.receive(bytes_max).await {
            Ok(()) => Ok(()),
            Err(_) if client.deadline.expired() => Err(ApiError::request_timeout().into()),
            Err(gone) => Err(gone.into()),
        }
    }
}

const fn received_room() -> usize {
    1024 - REQUEST_HEADROOM - 2
}

/// What our own fields and the node's may add to the client's field lines.
pub(super) const HEAD_BYTES_EXTRA: usize = 1024;
