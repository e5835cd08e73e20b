//! Getting a response head from a node: connect or reuse, send, read the head; again where that is
//! certain not to run an inference twice (spec section 6).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use crate::http1::{
    self, HeadLimits, HeadScan, HeadWriter, Method, Parsed, ResponseBody, ResponseHead,
};
use crate::nodes::{FailureReason, Node, NodeId, Permit, Slot};
use crate::openai::ApiError;
use crate::runtime::{self, Buf, HEADROOM, Scratch, Stream, clock};
use crate::telemetry::{Phase, RetryReason};
use crate::upstream::{Upstream, response_buf};

use super::Worker;
use super::body::Body;
use super::downstream::{Downstream, Gone};
use super::exchange::Stop;
use super::queue::{self, Admitted};
use super::request::Request;
use super::trace::Trace;

/// A node's response, its head understood and its body not yet relayed.
pub(super) struct Answer {
    pub(super) upstream: Upstream,
    pub(super) permit: Permit,
    pub(super) slot: Slot,
    pub(super) head: AnswerHead,
    /// Received bytes; the window begins with the body.
    pub(super) received: Buf,
    /// Whether the connection may carry another request once the body has ended.
    pub(super) is_reusable: bool,
}

/// What of a response head outlives its buffer.
pub(super) struct AnswerHead {
    pub(super) status: StatusCode,
    pub(super) body: ResponseBody,
    pub(super) is_event_stream: bool,
    /// The status line and the end-to-end fields, ready for the client; our own are still to come.
    pub(super) lines: Scratch,
    keep_alive: bool,
}

/// Obtains a response head, with at most [`RETRIES_MAX`] retries within the request's time. Where no
/// connection can be made, it waits once more for another node, if one is online.
///
/// # Errors
/// 502 or 504 when every permitted attempt failed; nothing when the client left.
pub(super) async fn obtain(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    mut body: Body,
    mut admitted: Admitted,
    trace: &mut Trace<'_>,
) -> Result<Answer, Stop> {
    let limit = worker.config().proxy.request_timeout;
    let mut until = clock::coarse() + limit;
    let mut tried: SmallVec<[NodeId; 4]> = SmallVec::new();
    let mut may_reuse = true;
    let mut retries = 0;
    loop {
        let node = admitted.slot.node();
        trace.attempt(node, body.len());
        let left = until.saturating_sub(clock::coarse());
        let failure = match attempt(
            worker, client, request, &mut body, node, left, may_reuse, trace,
        )
        .await
        {
            Ok(Reply {
                upstream,
                head,
                received,
                is_reusable,
            }) => {
                return Ok(Answer {
                    upstream,
                    permit: admitted.permit,
                    slot: admitted.slot,
                    head,
                    received,
                    is_reusable,
                });
            }
            Err(failure) => failure,
        };
        if let Some(reason) = failure.node_failure() {
            worker.count_node_failure(node, reason);
        }
        let Some(reason) = failure
            .retry_reason()
            .filter(|_| retries < RETRIES_MAX && clock::coarse() < until)
        else {
            return Err(failure.into_stop(limit));
        };
        if reason == RetryReason::StaleConnection {
            // The node closed an idle connection just as it was chosen; others may be as old.
            may_reuse = false;
        } else {
            tried.push(node.id);
            if let Some(slot) = worker.select_again(Rc::clone(&admitted.model), &tried) {
                admitted.slot = slot;
            } else {
                let began = clock::coarse();
                // In a box of its own: it is rare.
                let waiting = queue::admit_again(worker, client, request, admitted, &tried, trace);
                let Some(again) = Box::pin(waiting).await? else {
                    return Err(failure.into_stop(limit));
                };
                admitted = again;
                until += clock::coarse().saturating_sub(began);
            }
        }
        retries += 1;
        trace.retry(reason);
    }
}

/// A response head together with its connection.
struct Reply {
    upstream: Upstream,
    head: AnswerHead,
    received: Buf,
    is_reusable: bool,
}

/// Why one attempt failed.
pub(super) enum Failure {
    ClientGone,
    Connect(io::Error),
    /// We have no descriptors, ports or memory left: nobody's fault but ours.
    Exhausted,
    /// The request's time was over before a connection stood.
    OutOfTime,
    /// A pooled connection ended before a response byte: the node had closed it, or was about to.
    ReusedClosed,
    /// A fresh connection ended before a response byte.
    Closed,
    Timeout,
    BadResponse(
        #[expect(
            dead_code,
            reason = "says why to whoever debugs a node; nothing logs it yet"
        )]
        http1::BadResponse,
    ),
}

impl Failure {
    /// What to count against the node; nothing for what is not its fault.
    pub(super) fn node_failure(&self) -> Option<FailureReason> {
        match self {
            Self::ClientGone | Self::Exhausted | Self::OutOfTime | Self::ReusedClosed => None,
            Self::Connect(error) if error.kind() == io::ErrorKind::TimedOut => {
                Some(FailureReason::ConnectTimeout)
            }
            Self::Connect(_) => Some(FailureReason::Connect),
            Self::Closed => Some(FailureReason::ClosedBeforeResponse),
            Self::Timeout => Some(FailureReason::ResponseTimeout),
            Self::BadResponse(_) => Some(FailureReason::BadResponse),
        }
    }

    fn retry_reason(&self) -> Option<RetryReason> {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::TimedOut => {
                Some(RetryReason::ConnectTimeout)
            }
            Self::Connect(_) => Some(RetryReason::Connect),
            Self::ReusedClosed => Some(RetryReason::StaleConnection),
            Self::ClientGone
            | Self::Exhausted
            | Self::OutOfTime
            | Self::Closed
            | Self::Timeout
            | Self::BadResponse(_) => None,
        }
    }

    fn into_stop(self, limit: Duration) -> Stop {
        match self {
            Self::ClientGone => Gone.into(),
            Self::Connect(_) => ApiError::node_unreachable().into(),
            Self::Exhausted => ApiError::overloaded(1).into(),
            Self::Timeout | Self::OutOfTime => ApiError::timeout(limit).into(),
            Self::ReusedClosed | Self::Closed | Self::BadResponse(_) => {
                ApiError::bad_node_response().into()
            }
        }
    }
}

impl From<Gone> for Failure {
    fn from(Gone: Gone) -> Self {
        Self::ClientGone
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call, right above; a struct would only rename it"
)]
async fn attempt(
    worker: &Worker,
    client: &mut Downstream,
    request: &Request,
    body: &mut Body,
    node: &Node,
    left: Duration,
    may_reuse: bool,
    trace: &mut Trace<'_>,
) -> Result<Reply, Failure> {
    trace.enter(Phase::Connect);
    let pooled = may_reuse.then(|| worker.pool.check_out(node.id)).flatten();
    let is_reused = pooled.is_some();
    let mut upstream = match pooled {
        Some(upstream) => {
            trace.pass_into(Phase::FirstByte);
            upstream
        }
        None => {
            let configured = worker.config().proxy.connect_timeout;
            // Boxed: connecting is rare and takes more room than all the rest of an exchange.
            let connecting = Box::pin(worker.pool.connect(node, configured.min(left)));
            let connected = client.inlet.watch(connecting).await?;
            trace.enter(Phase::FirstByte);
            connected.map_err(|error| match error.kind() {
                _ if runtime::is_exhaustion(&error) => {
                    // What we hold in reserve serves nobody now.
                    worker.pool.clear();
                    Failure::Exhausted
                }
                io::ErrorKind::TimedOut if left <= configured => Failure::OutOfTime,
                _ => Failure::Connect(error),
            })?
        }
    };
    upstream.stream.deadline.set(left);
    let own_lines = own_lines(request, client, node, body.len());
    let outgoing = body.take_with_head(&own_lines, request.field_lines());
    let conversed = converse(
        client,
        &mut upstream.stream,
        outgoing,
        body,
        request.method,
        is_reused,
    )
    .await;
    let (head, received, is_sent) = conversed?;
    let is_reusable = is_sent && head.keep_alive;
    Ok(Reply {
        upstream,
        head,
        received,
        is_reusable,
    })
}

/// What the head for the node begins with: everything in it that the router says itself. The client's
/// [`Request::field_lines`] follow.
fn own_lines(request: &Request, client: &Downstream, node: &Node, body_bytes: usize) -> Scratch {
    let mut lines = Scratch::new();
    let mut writer = HeadWriter::new(&mut lines);
    writer.request_line(request.method, &node.path_prefix, request.target(), None);
    writer.field("Host", node.host_header.as_bytes());
    if let Some(authorization) = &node.authorization {
        writer.field("Authorization", authorization.field_value());
    }
    writer
        .line(request.id.line())
        .line(&client.forwarded_for)
        .content_length(body_bytes as u64);
    lines
}

/// Sends the request and reads the head of the response, which a node may send before it has read
/// everything. Gives `outgoing` back to `body` when the attempt may be repeated.
async fn converse(
    client: &mut Downstream,
    upstream: &mut Stream,
    outgoing: Buf,
    body: &mut Body,
    method: Method,
    is_reused: bool,
) -> Result<(AnswerHead, Buf, bool), Failure> {
    let Stream {
        deadline,
        reader,
        writer,
    } = upstream;
    // A node may answer before it has read all of a large body, and then read no further.
    if outgoing.len() > AT_ONCE_BYTES {
        reader.arm(response_buf());
    }
    let mut sending = pin!(writer.write_all(outgoing));
    let mut sent = None;
    let mut reading = HeadReading::new(method);
    loop {
        poll_fn(|context| {
            if sent.is_none()
                && let Poll::Ready((result, buf)) = sending.as_mut().poll(context)
            {
                sent = Some(result);
                body.restore(buf);
                if !reader.is_armed() {
                    reader.arm(response_buf());
                }
            }
            if reader.is_armed() && reader.poll_done(context).is_ready() {
                Poll::Ready(Ok(()))
            } else if client.inlet.poll_gone(context) {
                Poll::Ready(Err(Gone))
            } else {
                Poll::Pending
            }
        })
        .await?;
        let Some((received, buf)) = reader.take() else {
            return Err(Failure::Closed);
        };
        let outcome = match received {
            Ok(1..) => reading.advance(buf),
            Ok(0) | Err(_) if deadline.expired() => Err(Failure::Timeout),
            Ok(0) | Err(_) => Err(reading.cut_short(is_reused)),
        };
        match outcome {
            Ok(Progress::Head(head, buf)) => {
                let is_sent = matches!(sent, Some(Ok(())));
                return Ok((head, buf, is_sent));
            }
            Ok(Progress::More(buf)) => reader.arm(buf),
            Err(failure) => {
                // Whatever is still being sent ends now, so that its buffer comes back.
                deadline.end_now();
                if sent.is_none() {
                    body.restore(sending.await.1);
                }
                return Err(failure);
            }
        }
    }
}

/// A request that a socket's send buffer always has room for.
const AT_ONCE_BYTES: usize = 8 * 1024;

/// Reads a response head from consecutive receives, over interim responses.
struct HeadReading {
    method: Method,
    scan: HeadScan,
    interim_count: usize,
    is_begun: bool,
}

enum Progress {
    /// The head; the buffer's window begins with the body.
    Head(AnswerHead, Buf),
    /// The buffer to receive more into.
    More(Buf),
}

impl HeadReading {
    fn new(method: Method) -> Self {
        Self {
            method,
            scan: HeadScan::new(),
            interim_count: 0,
            is_begun: false,
        }
    }

    /// What it means that the node closed the connection by now.
    const fn cut_short(&self, is_reused: bool) -> Failure {
        if self.is_begun {
            let reason = "truncated head";
            return Failure::BadResponse(http1::BadResponse { reason });
        }
        if is_reused {
            return Failure::ReusedClosed;
        }
        Failure::Closed
    }

    fn advance(&mut self, mut buf: Buf) -> Result<Progress, Failure> {
        self.is_begun = true;
        let limits = &HeadLimits::DEFAULT;
        let mut lines = Scratch::new();
        loop {
            let bytes = buf.filled();
            let parsed = http1::parse_response_onward(
                bytes,
                self.method,
                &mut self.scan,
                limits,
                &mut lines,
            )
            .map_err(Failure::BadResponse)?;
            match parsed {
                Parsed::Complete { head, bytes } if head.interim => {
                    self.interim_count += 1;
                    if self.interim_count > INTERIM_RESPONSES_MAX {
                        let reason = "too many interim responses";
                        return Err(Failure::BadResponse(http1::BadResponse { reason }));
                    }
                    buf.consume(bytes);
                    lines.clear();
                }
                Parsed::Complete { head, bytes } => {
                    let head = AnswerHead::of(&head, lines);
                    buf.consume(bytes);
                    return Ok(Progress::Head(head, buf));
                }
                Parsed::Partial if buf.room() == 0 => {
                    return Ok(Progress::More(buf.grown(limits.head_bytes_max, HEADROOM)));
                }
                Parsed::Partial => return Ok(Progress::More(buf)),
            }
        }
    }
}

impl AnswerHead {
    /// Whether it is the stream of events that was asked for.
    pub(super) fn is_stream(&self) -> bool {
        self.status == StatusCode::OK && self.is_event_stream
    }

    fn of(head: &ResponseHead<'_>, lines: Scratch) -> Self {
        let is_event_stream = head.content_type.is_some_and(|media_type| {
            media_type
                .get(..EVENT_STREAM.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
        });
        Self {
            status: head.status,
            body: head.body,
            is_event_stream,
            lines,
            keep_alive: head.keep_alive,
        }
    }
}

/// Retries of one request (spec section 6).
const RETRIES_MAX: usize = 2;
/// Interim (1xx) responses before the final one; each is swallowed.
const INTERIM_RESPONSES_MAX: usize = 8;
const EVENT_STREAM: &[u8] = b"text/event-stream";
