//! Receiving a request head, and everything of it that outlives the buffer it came in.

use std::time::Duration;

use crate::admission::TurnKey;
use crate::auth::key::AuthError;
use crate::http1::{self, BodyLength, HeadLimits, HeadScan, Method, Parsed, RequestHead, Version};
use crate::openai::{ApiError, BodyKind, Endpoint, RouteError, route};
use crate::runtime::clock::Moment;
use crate::runtime::{Buf, Pooled, Scratch};

use super::Worker;
use super::api::ApiHead;
use super::downstream::{Downstream, Gone};
use super::exchange::After;
use super::request_id::RequestId;

/// A request whose head has been read and understood. What it is refused for is kept as data, so that
/// [`super::exchange`] decides the order of refusals.
pub(super) struct Request {
    pub(super) id: RequestId,
    /// When the head was complete.
    pub(super) began: Moment,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    pub(super) body: BodyLength,
    pub(super) route: Result<Routed, RouteError>,
    /// Whose turn it counts as, or why it is not let in.
    pub(super) authenticated: Result<TurnKey, AuthError>,
    /// How long its client waits for an answer, if it says so.
    pub(super) patience: Option<Duration>,
    /// What it was told of its wait, if it had to wait.
    pub(super) wait: Option<WaitNotice>,
    /// The head of a stream that went out before a node was found, if it did.
    pub(super) early: Option<EarlyHead>,
    /// The body is encoded in a way we cannot look into.
    pub(super) has_content_coding: bool,
    /// This process asks it itself, as if it were its own node.
    pub(super) is_own_probe: bool,
    /// The media type, kept only where the body is read with it.
    pub(super) content_type: Option<Box<[u8]>>,
    /// What the control API reads of the head, kept only where it is asked.
    pub(super) api: Option<Box<ApiHead>>,
    /// Whether the body was received whole and what follows it is kept for the next request.
    pub(super) is_body_received: bool,
    /// The field lines that go on to a node and the empty line behind them, then `path?query`.
    forwarded: Scratch,
    field_lines_bytes: usize,
    /// What was received: first the head, then what follows it.
    received: Buf,
    head_bytes: usize,
}

/// What a client is told about its wait (spec section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitNotice {
    /// 1-based, when it began to wait.
    pub(super) place: usize,
    /// As estimated at that moment.
    pub(super) estimate_secs: u32,
}

/// A response head that went out before the response was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EarlyHead {
    /// Whether it said that the connection goes on.
    pub(super) keep_alive: bool,
}

impl EarlyHead {
    /// What becomes of the connection once the stream has ended.
    pub(super) fn after(self) -> After {
        After::once_answered(self.keep_alive)
    }
}

/// Where a request goes.
pub(super) struct Routed {
    pub(super) endpoint: Endpoint,
    pub(super) body: BodyKind,
    pub(super) model_id: Option<Box<str>>,
}

/// Why there is no request.
pub(super) enum NoRequest {
    /// The connection ended between requests, or in a way that leaves nobody to answer.
    Closed,
    /// What came is not a request; the connection ends with this answer.
    Rejected(Pooled<ApiError>),
}

impl NoRequest {
    #[cold]
    fn rejected(error: ApiError) -> Self {
        Self::Rejected(Pooled::new(|| error))
    }
}

impl Request {
    /// The request target in origin form, query included.
    pub(super) fn target(&self) -> &[u8] {
        &self.forwarded[self.field_lines_bytes..]
    }

    /// The client's end-to-end fields as canonical field lines, with the empty line that ends a head.
    pub(super) fn field_lines(&self) -> &[u8] {
        &self.forwarded[..self.field_lines_bytes]
    }

    /// Takes a field out of what goes on to a node, each time it is there. `name` is in lower case.
    pub(super) fn drop_field(&mut self, name: &[u8]) {
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.field_lines()[start..]) {
            let end = start + length + 1;
            let line = &self.field_lines()[start..end];
            let is_this = memchr::memchr(b':', line)
                .is_some_and(|colon| line[..colon].eq_ignore_ascii_case(name));
            if is_this {
                self.forwarded.drain(start..end);
                self.field_lines_bytes -= end - start;
            } else {
                start = end;
            }
        }
    }

    /// Takes the received bytes: the window begins with the body, the head lies in front of it.
    pub(super) fn take_received(&mut self) -> Buf {
        let mut received = std::mem::replace(&mut self.received, Buf::empty());
        received.consume(std::mem::take(&mut self.head_bytes).min(received.len()));
        received
    }

    /// Takes the received bytes behind this request, if its whole body is among them: then the
    /// connection can go on although the body was not read.
    pub(super) fn skip_unread_body(&mut self) -> Option<Buf> {
        let mut received = self.take_received();
        let body_bytes = match self.body {
            BodyLength::Empty => 0,
            BodyLength::Fixed(bytes) => usize::try_from(bytes).ok()?,
            BodyLength::Chunked => return None,
        };
        if received.len() < body_bytes {
            return None;
        }
        received.consume(body_bytes);
        Some(received)
    }

    /// Whether the router looks like HTTP/1.0 to this client: no chunked framing, no keep-alive.
    pub(super) fn is_http10(&self) -> bool {
        self.version == Version::Http10
    }
}

/// Waits for the next request head on this connection. The request stands where it will stay for the
/// exchange.
pub(super) async fn receive(
    worker: &Worker,
    client: &mut Downstream,
) -> Result<Pooled<Request>, NoRequest> {
    let limits = &HeadLimits::DEFAULT;
    let mut scan = HeadScan::new();
    let mut is_begun = false;
    loop {
        if !client.inlet.held().is_empty() {
            if !is_begun {
                is_begun = true;
                client
                    .deadline
                    .set_receiving(worker.config().http.head_timeout);
            }
            match digest(worker, client, &mut scan, limits) {
                Ok(Parsed::Complete {
                    head: mut request,
                    bytes,
                }) => {
                    if client.deadline.expired() {
                        client.inlet.stop_reading();
                        request.keep_alive = false;
                    }
                    client.deadline.clear();
                    request.received = client.inlet.take();
                    request.head_bytes = bytes;
                    return Ok(request);
                }
                Ok(Parsed::Partial) => {}
                Err(reject) => return Err(NoRequest::rejected(reject.into())),
            }
        }
        if client.inlet.receive(limits.head_bytes_max).await == Err(Gone) {
            let is_late = is_begun && client.deadline.expired();
            return Err(if is_late {
                NoRequest::rejected(ApiError::request_timeout())
            } else {
                NoRequest::Closed
            });
        }
    }
}

/// Reads the head at the beginning of what is held, if it is whole.
fn digest(
    worker: &Worker,
    client: &mut Downstream,
    scan: &mut HeadScan,
    limits: &HeadLimits,
) -> Result<Parsed<Pooled<Request>>, http1::Reject> {
    let Downstream { inlet, key, .. } = client;
    let bytes = inlet.held();
    let mut forwarded = Scratch::new();
    // Looked at where it is: a head is large.
    let parsed = http1::parse_request_onward(bytes, scan, limits, &mut forwarded);
    let (head, bytes) = match &parsed {
        Ok(Parsed::Complete { head, bytes }) => (head, *bytes),
        Ok(Parsed::Partial) => return Ok(Parsed::Partial),
        Err(reject) => return Err(*reject),
    };
    http1::HeadWriter::new(&mut forwarded).end();
    let field_lines_bytes = forwarded.len();
    append_target(&mut forwarded, head);
    let routed = route(&head.method.into(), head.path).map(|route| Routed {
        endpoint: route.endpoint,
        body: route.body,
        model_id: route.model_id.map(|id| id.into()),
    });
    let is_multipart = routed
        .as_ref()
        .is_ok_and(|routed| routed.body == BodyKind::Multipart);
    let is_api = routed
        .as_ref()
        .is_ok_and(|routed| routed.endpoint == Endpoint::Api);
    let client_id = head.x_request_id.and_then(RequestId::from_client);
    let request = Request {
        id: client_id.unwrap_or_else(|| worker.new_request_id()),
        began: Moment::now(),
        method: head.method,
        version: head.version,
        keep_alive: head.keep_alive,
        expect_continue: head.expect_continue,
        body: head.body,
        route: routed,
        authenticated: worker.authenticate(key, head.authorization, head.x_api_key),
        patience: head.patience.and_then(seconds),
        wait: None,
        early: None,
        has_content_coding: head
            .content_encoding
            .is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")),
        is_own_probe: worker.shared.probe_token.is_in(head),
        content_type: head.content_type.filter(|_| is_multipart).map(Into::into),
        api: is_api.then(|| Box::new(ApiHead::of(head))),
        is_body_received: false,
        forwarded,
        field_lines_bytes,
        received: Buf::empty(),
        head_bytes: 0,
    };
    Ok(Parsed::Complete {
        head: Pooled::new(|| request),
        bytes,
    })
}

/// A positive number of seconds, whole or fractional; anything else says nothing.
fn seconds(value: &[u8]) -> Option<Duration> {
    let secs: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    let duration = Duration::try_from_secs_f64(secs).ok()?;
    (!duration.is_zero()).then_some(duration)
}

/// The target in origin form, query included.
fn append_target(out: &mut Vec<u8>, head: &RequestHead<'_>) {
    out.extend_from_slice(head.path.as_bytes());
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
}
