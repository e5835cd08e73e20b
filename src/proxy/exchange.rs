//! The whole way of one request, in order. Each step is a small function elsewhere; early refusals
//! leave before the step that would have cost something.
//!
//! ```text
//! read head ─ route ─ authenticate ─ read body ─ peek ─ admit: permit + node + slot, or wait for them
//!           ─ attempt (connect, send, response head; again elsewhere if nothing was sent, after a
//!             further wait if it must)
//!           ─ relay body ─ give back slot and connection ─ record ─ next request
//! ```

use smallvec::SmallVec;

use crate::openai::{ApiError, BodyKind, Endpoint, Splice, multipart, peek::peek};
use crate::runtime::Pooled;
use crate::telemetry::{Phase, RejectionReason};

use super::attempt;
use super::body::{self, Body};
use super::downstream::{Downstream, Gone};
use super::queue::{self, Wish};
use super::request::{Request, Routed};
use super::trace::Trace;
use super::{Worker, local, relay, respond};

/// What becomes of the client's connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request may come.
    KeepAlive,
    /// Close it; everything was sent and nothing is left to be read.
    Close,
    /// Close it in stages, so that bytes still under way do not destroy the answer.
    Linger,
}

impl After {
    /// After an answer that said whether the connection goes on. A client that was told that it does
    /// not may still be sending.
    pub(super) fn once_answered(keep_alive: bool) -> Self {
        if keep_alive {
            Self::KeepAlive
        } else {
            Self::Linger
        }
    }
}

/// Why an exchange ends before a response of a node could be relayed.
#[derive(Debug)]
pub(super) enum Stop {
    /// With this answer, counted as this. In a place of its own: every step of an exchange hands up a
    /// result that would else have room for it.
    Answer(Pooled<ApiError>, Option<RejectionReason>),
    /// Without any: the client has left, or no longer takes what it is sent.
    Gone { is_stalled: bool },
    /// Without any: the client has part of a response that the node broke off.
    Cut,
}

impl Stop {
    /// With this answer, counted as this and not by what it says.
    #[cold]
    pub(super) fn answer(error: ApiError, reason: Option<RejectionReason>) -> Self {
        Self::Answer(Pooled::new(|| error), reason)
    }
}

impl From<ApiError> for Stop {
    #[cold]
    fn from(error: ApiError) -> Self {
        let reason = respond::rejection_reason(&error);
        Self::answer(error, reason)
    }
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone { is_stalled: false }
    }
}

/// Serves one request whose head has been read.
pub(super) async fn exchange(
    worker: &Worker,
    client: &mut Downstream,
    mut request: Pooled<Request>,
) -> After {
    let mut trace = Trace::begin(worker, &request);
    match answer(worker, client, &mut request, &mut trace).await {
        Ok(after) => after,
        Err(Stop::Answer(error, reason)) => {
            respond::refuse(worker, client, &mut request, &error, reason, &mut trace).await
        }
        Err(Stop::Cut) => After::Close,
        Err(Stop::Gone { is_stalled }) => {
            trace.client_left(is_stalled);
            After::Close
        }
    }
}

async fn answer(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    trace: &mut Trace<'_>,
) -> Result<After, Stop> {
    // Before everything else: neither a missing key nor a missing path makes it another router.
    if request.is_own_probe {
        return Err(ApiError::loop_detected().into());
    }
    let endpoint = request
        .route
        .as_ref()
        .map_err(|error| ApiError::from(*error))?
        .endpoint;
    if !endpoint.is_inference() {
        return local::answer(worker, client, request, trace).await;
    }
    if request.authenticated.is_err() {
        return Err(ApiError::invalid_api_key().into());
    }
    if request.has_content_coding {
        return Err(ApiError::unsupported_media_type().into());
    }

    let mut body = receive_body(worker, client, request, endpoint, trace).await?;
    trace.body_received(body.len());
    let wanted = read_meaning(request, &mut body)?;
    trace.model_named(&wanted.model);

    trace.pass_into(Phase::Admit);
    let wish = Wish {
        model: wanted.model_name(),
        is_stream: wanted.is_stream,
    };
    let admitted = queue::admit(worker, client, request, wish, trace).await?;
    let model = &admitted.model;
    trace.admitted(model);
    if model.is_alias() {
        rename_model(request, &mut body, wanted, model.name());
    }

    // Made where it will run: it is too large to be moved there.
    let obtaining = Pooled::new(|| attempt::obtain(worker, client, request, body, admitted, trace));
    let answer = obtaining.await?;
    relay::relay(worker, client, request, answer, trace).await
}

/// Receives the body.
async fn receive_body(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    endpoint: Endpoint,
    trace: &mut Trace<'_>,
) -> Result<Body, Stop> {
    let configured_max = worker.config().proxy.max_body_bytes;
    let body_bytes_max =
        endpoint.body_bytes_max(usize::try_from(configured_max).unwrap_or(usize::MAX));
    let mut body = body::receive(worker, client, request, body_bytes_max, trace).await?;
    body_is_here(client, request, &mut body);
    Ok(body)
}

/// The body is here: what lies behind it is the next request's. Whoever waits from now on does so within
/// `Inlet::watch` or asks `Inlet::poll_gone` itself: nothing else notices that the client has left.
pub(super) fn body_is_here(client: &mut Downstream, request: &mut Request, body: &mut Body) {
    request.is_body_received = true;
    let next = match body.take_leftover() {
        Some(leftover) => leftover,
        None => client.inlet.take(),
    };
    client.inlet.hold(next);
}

/// What a body asks for.
struct Wanted {
    /// Model names are short; the longest are kept on the heap.
    model: SmallVec<[u8; 64]>,
    /// Where the name stands in the body.
    place: std::ops::Range<usize>,
    /// Whether it asks for a stream of events.
    is_stream: bool,
}

impl Wanted {
    fn model_name(&self) -> &str {
        std::str::from_utf8(&self.model).unwrap_or_default()
    }
}

fn read_meaning(request: &Request, body: &mut Body) -> Result<Wanted, Stop> {
    let is_multipart = matches!(
        &request.route,
        Ok(Routed {
            body: BodyKind::Multipart,
            ..
        })
    );
    let seen = if is_multipart {
        let content_type = request.content_type.as_deref().unwrap_or_default();
        // A media type is ASCII; anything else cannot name a boundary.
        let content_type = std::str::from_utf8(content_type).unwrap_or_default();
        multipart::peek(content_type, body.bytes()).map_err(ApiError::from)?
    } else {
        peek(body.bytes()).map_err(ApiError::from)?
    };
    let model = SmallVec::from_slice(seen.model.as_bytes());
    Ok(Wanted {
        model,
        place: seen.model_range,
        is_stream: seen.stream,
    })
}

fn rename_model(request: &Request, body: &mut Body, wanted: Wanted, name: &str) {
    let kind = request
        .route
        .as_ref()
        .map_or(BodyKind::Json, |routed| routed.body);
    let original = body.bytes().to_vec();
    if let Some(splice) = Splice::new(&original, wanted.place, kind, name) {
        body.replace(
            splice.pieces(),
            request.field_lines().len() + body::HEAD_BYTES_EXTRA,
        );
    }
}
