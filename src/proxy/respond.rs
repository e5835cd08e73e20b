//! Answers the router gives by itself. The only place that turns an error into a response: status,
//! body, whether the connection goes on, and what is counted are decided here together.

use http::StatusCode;

use crate::http1::{self, CHUNK_SIZE_LINE_BYTES_MAX, HeadWriter, chunk_size_line};
use crate::openai::ApiError;
use crate::runtime::{Buf, Scratch};
use crate::telemetry::RejectionReason;

use super::Worker;
use super::downstream::{Downstream, Gone};
use super::early;
use super::exchange::{After, Stop};
use super::request::{Request, WaitNotice};
use super::request_id::RequestId;
use super::trace::Trace;

impl From<http1::Reject> for ApiError {
    fn from(reject: http1::Reject) -> Self {
        Self {
            status: reject.status,
            kind: "invalid_request_error",
            code: reject.code,
            message: reject.reason.into(),
            retry_after_secs: None,
            problems: None,
            // RFC 9110 section 15.5.6 demands it; only CONNECT is refused before there is a route.
            allow: (reject.status == StatusCode::METHOD_NOT_ALLOWED)
                .then(|| "GET, HEAD, POST".into()),
        }
    }
}

/// Answers bytes that are not a request. What follows them cannot be trusted to be one either, so the
/// connection ends.
pub(super) async fn reject(worker: &Worker, client: &mut Downstream, error: &ApiError) -> After {
    worker.count_rejection(RejectionReason::BadRequest);
    let id = worker.new_request_id();
    let mut trace = Trace::of_rejected(worker, &id);
    let envelope = Envelope {
        own: OwnFields {
            id: &id,
            wait: None,
            scope: Scope::Local,
            keep_alive: false,
        },
        has_body: true,
    };
    deliver(
        worker,
        client,
        error_response(worker, error, &envelope),
        error.status,
        &mut trace,
    )
    .await
}

/// Answers a request with an error. The connection goes on if the whole request has been received. A
/// stream that has begun ends with the error as an event.
pub(super) async fn refuse(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    error: &ApiError,
    reason: Option<RejectionReason>,
    trace: &mut Trace<'_>,
) -> After {
    if let Some(reason) = reason {
        worker.count_rejection(reason);
    }
    if let Some(head) = request.early {
        trace.answered(error.status, 0);
        let after = early::fail(worker, client, head, error).await;
        return after.unwrap_or_else(|Gone| {
            trace.client_left(client.deadline.expired());
            After::Close
        });
    }
    let scope = match &request.route {
        Ok(routed) if routed.endpoint.is_inference() => Scope::Inference,
        _ => Scope::Local,
    };
    let keep_alive = go_on_after(worker, client, request);
    let envelope = Envelope {
        own: OwnFields::of(request, scope, keep_alive),
        has_body: request.method != http1::Method::Head,
    };
    deliver(
        worker,
        client,
        error_response(worker, error, &envelope),
        error.status,
        trace,
    )
    .await
}

/// Answers a request with a body made here.
pub(super) async fn content(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    status: StatusCode,
    content_type: &str,
    body: &[u8],
    trace: &mut Trace<'_>,
) -> After {
    let keep_alive = go_on_after(worker, client, request);
    let mut head = Scratch::new();
    let mut writer = HeadWriter::new(&mut head);
    writer
        .status_line(status)
        .field("Content-Type", content_type.as_bytes());
    writer.content_length(body.len() as u64);
    let own = OwnFields::of(request, Scope::Local, keep_alive);
    write_own_fields(worker, &mut writer, &own);
    writer.end();
    let body = if request.method == http1::Method::Head {
        &[]
    } else {
        body
    };
    let response = Response::of(&head, body, keep_alive);
    deliver(worker, client, response, status, trace).await
}

/// Tells a client that waits for it to send its body (RFC 9110 section 10.1.1).
///
/// # Errors
/// When the client is gone.
pub(super) async fn go_on(worker: &Worker, client: &mut Downstream) -> Result<(), Stop> {
    let response = Buf::of(b"HTTP/1.1 100 Continue\r\n\r\n");
    Ok(write(worker, client, response).await?)
}

/// What a response belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Inference: it tells how loaded the router is (spec section 5).
    Inference,
    Local,
}

/// What the fields say that every response carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnFields<'r> {
    id: &'r RequestId,
    wait: Option<WaitNotice>,
    scope: Scope,
    keep_alive: bool,
}

impl<'r> OwnFields<'r> {
    pub(super) fn of(request: &'r Request, scope: Scope, keep_alive: bool) -> Self {
        Self {
            id: &request.id,
            wait: request.wait,
            scope,
            keep_alive,
        }
    }
}

/// Writes the fields that every response carries.
pub(super) fn write_own_fields(worker: &Worker, writer: &mut HeadWriter<'_>, own: &OwnFields<'_>) {
    writer.line(own.id.line());
    if own.scope == Scope::Inference {
        let state = worker.admission.backpressure();
        writer.field("X-Backpressure", state.as_str().as_bytes());
    }
    if let Some(wait) = own.wait {
        let mut digits = itoa::Buffer::new();
        writer.field("X-Queue-Position", digits.format(wait.place).as_bytes());
        let secs = digits.format(wait.estimate_secs);
        writer.field("X-Estimated-Wait", secs.as_bytes());
    }
    if !own.keep_alive {
        writer.field("Connection", b"close");
    }
}

/// Closes a connection on which the client may still be sending: says that nothing more comes, then
/// reads what is under way, so that the kernel does not destroy the answer with a reset (RFC 9112
/// section 9.6). Bounded in bytes and time.
pub(super) async fn linger(client: &mut Downstream) {
    if client.writer.finish().await.is_err() {
        return;
    }
    client.deadline.set(LINGER);
    let mut bytes = 0;
    while bytes < LINGER_BYTES_MAX
        && client.inlet.discard().await.is_ok_and(|count| {
            bytes += count;
            true
        })
    {}
}

/// Whether the connection can serve another request after this one is answered without a node: the
/// request must be received whole, whether or not anyone looked at its body.
pub(super) fn go_on_after(worker: &Worker, client: &mut Downstream, request: &mut Request) -> bool {
    if !request.keep_alive || worker.is_draining() {
        return false;
    }
    if request.is_body_received {
        return true;
    }
    match request.skip_unread_body() {
        Some(behind) => {
            // An empty one would keep its whole block from an idle connection.
            if !behind.is_empty() {
                client.inlet.put_back(behind);
            }
            true
        }
        None => false,
    }
}

/// What an error response needs to know of its request.
struct Envelope<'r> {
    own: OwnFields<'r>,
    /// False for HEAD: the length is told, the body is not sent.
    has_body: bool,
}

/// A whole response made here.
pub(super) struct Response {
    bytes: Buf,
    body_bytes: usize,
    keep_alive: bool,
}

impl Response {
    pub(super) fn of(head: &[u8], body: &[u8], keep_alive: bool) -> Self {
        let mut bytes = Buf::with_room(head.len() + body.len());
        bytes.append(head);
        bytes.append(body);
        Self {
            bytes,
            body_bytes: body.len(),
            keep_alive,
        }
    }
}

fn error_response(worker: &Worker, error: &ApiError, envelope: &Envelope<'_>) -> Response {
    let Envelope { own, has_body } = envelope;
    let mut body = Scratch::new();
    error.write_body(&mut body);
    let mut head = Scratch::new();
    let mut writer = HeadWriter::new(&mut head);
    writer
        .status_line(error.status)
        .field("Content-Type", b"application/json");
    writer.content_length(body.len() as u64);
    if error.status == StatusCode::UNAUTHORIZED {
        // RFC 9110 section 15.5.2 demands a challenge.
        writer.field("WWW-Authenticate", b"Bearer");
    }
    if let Some(secs) = error.retry_after_secs {
        writer.field("Retry-After", itoa::Buffer::new().format(secs).as_bytes());
    }
    if let Some(allow) = &error.allow {
        writer.field("Allow", allow.as_bytes());
    }
    write_own_fields(worker, &mut writer, own);
    writer.end();
    Response::of(&head, if *has_body { &body } else { &[] }, own.keep_alive)
}

/// Sends a whole response.
pub(super) async fn deliver(
    worker: &Worker,
    client: &mut Downstream,
    response: Response,
    status: StatusCode,
    trace: &mut Trace<'_>,
) -> After {
    trace.answered(status, response.body_bytes);
    if write(worker, client, response.bytes).await.is_err() {
        trace.client_left(client.deadline.expired());
        return After::Close;
    }
    After::once_answered(response.keep_alive)
}

/// Sends bytes made here; the client must take some of them within the stall limit.
///
/// # Errors
/// When the client is gone.
pub(super) async fn write(
    worker: &Worker,
    client: &mut Downstream,
    response: Buf,
) -> Result<(), Gone> {
    client
        .deadline
        .set(worker.config().http.write_stall_timeout);
    let (written, _) = client.writer.write_all(response).await;
    client.deadline.clear();
    written.map_err(|_| Gone)
}

/// Appends `data`, which is not empty, as one chunk.
pub(super) fn push_chunk(out: &mut Vec<u8>, data: &[u8]) {
    let mut line = [0; CHUNK_SIZE_LINE_BYTES_MAX];
    out.extend_from_slice(chunk_size_line(data.len(), &mut line));
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// What a refusal counts as; errors of nodes are counted at the node.
pub(super) fn rejection_reason(error: &ApiError) -> Option<RejectionReason> {
    Some(match (error.status, error.code) {
        (StatusCode::UNAUTHORIZED, _) => RejectionReason::InvalidKey,
        (StatusCode::TOO_MANY_REQUESTS, "queue_full") => RejectionReason::ModelQueueFull,
        (_, "queue_full") => RejectionReason::Overloaded,
        (_, "wait_too_long") => RejectionReason::WaitTooLong,
        (_, "wait_timeout") => RejectionReason::WaitTimeout,
        (_, "queue_timeout") => RejectionReason::QueueTimeout,
        (_, "no_nodes") => RejectionReason::NoNodes,
        (_, "draining") => RejectionReason::Draining,
        (_, "model_not_found") => RejectionReason::UnknownModel,
        (status, _) if status.is_client_error() => RejectionReason::BadRequest,
        _ => return None,
    })
}

/// How long, and for how many bytes, a closing connection is still read.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1024 * 1024;
