//! The worker's half of the control API: receives a request whole, hands it to the threads that may
//! block, and sends what they answer. Knows no endpoint: what a path means is a matter of `control`.
//!
//! ```text
//! worker   receive ─ take a place at the desk ─ hand over ─ … wait, watching the client … ─ send
//! api-N                                        └─ look up, check, work ─ Notice::Answer ─┘
//! ```
//!
//! Nothing here blocks or takes a lock. Every wait is bounded: the places of a worker, the calls under way,
//! the time until an answer. A client that leaves gives its place up at once; the answer that still comes for
//! it finds the place's generation changed and is dropped.

mod call;
mod desk;
mod live;
mod write;

use http::StatusCode;

use crate::http1::{BodyLength, Method};
use crate::openai::{ApiError, Endpoint};
use crate::runtime::{self, clock};

use super::Worker;
use super::body::{self, Body};
use super::downstream::Downstream;
use super::exchange::{self, After, Stop};
use super::request::Request;
use super::trace::Trace;

pub use call::{
    Answer, ApiCall, ApiHead, ApiReply, ApiRequest, Continuation, Credentials, More, Outcome,
    Question,
};
pub use desk::{CALLS_MAX, Ticket};
pub use live::{Frame, Live, Watching};

pub(super) use desk::Desk;
pub(super) use live::Viewers;

/// Answers a request to the control API.
///
/// # Errors
/// What the control side refuses it for, or 413, 415 and 503 from here.
pub(super) async fn answer(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    trace: &mut Trace<'_>,
) -> Result<After, Stop> {
    if request.has_content_coding {
        return Err(ApiError::unsupported_media_type().into());
    }
    let mut body = receive_body(worker, client, request, trace).await?;
    trace.body_received(body.len());
    let question = question(client, request, &mut body);
    drop(body);
    let mut reply = ask(worker, client, question).await?;
    let more = reply.more.take();
    let is_head = request.method == Method::Head;
    match more {
        None => Ok(write::whole(worker, client, request, &reply, trace).await),
        Some(More::Piece(next)) => {
            let stream = write::begin(worker, client, request, &reply, trace).await?;
            match is_head {
                true => Ok(stream.after()),
                false => send_pieces(worker, client, stream, next, trace).await,
            }
        }
        Some(More::Live(watching)) => {
            let _viewer = worker.shared.live.watch()?;
            let stream = write::begin(worker, client, request, &reply, trace).await?;
            match is_head {
                true => Ok(stream.after()),
                false => live::follow(worker, client, stream, watching, trace).await,
            }
        }
    }
}

/// Sends the rest of an answer that has begun, each piece once the client has taken the one before.
async fn send_pieces(
    worker: &Worker,
    client: &mut Downstream,
    mut stream: write::ReplyStream,
    mut next: Continuation,
    trace: &mut Trace<'_>,
) -> Result<After, Stop> {
    loop {
        let piece = match ask(worker, client, Question::More(next)).await {
            Ok(piece) => piece,
            // The head is out: all that is left is not to pretend that the answer is whole.
            Err(Stop::Answer(..)) => return Err(Stop::Cut),
            Err(stop) => return Err(stop),
        };
        stream.piece(worker, client, &piece.body, trace).await?;
        match piece.more {
            Some(More::Piece(further)) => next = further,
            Some(More::Live(_)) | None => return Ok(stream.end(worker, client).await?),
        }
    }
}

/// Receives the body, if there is one; from here on a read stands on the client.
async fn receive_body(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    trace: &mut Trace<'_>,
) -> Result<Body, Stop> {
    let mut body = match request.body {
        BodyLength::Empty => Body::none(request.take_received()),
        BodyLength::Fixed(_) | BodyLength::Chunked => {
            let bytes_max = Endpoint::Api.body_bytes_max(0);
            body::receive(worker, client, request, bytes_max, trace).await?
        }
    };
    exchange::body_is_here(client, request, &mut body);
    Ok(body)
}

fn question(client: &Downstream, request: &mut Request, body: &mut Body) -> Question {
    let target = std::str::from_utf8(request.target()).unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let (path, query) = (path.into(), query.map(Into::into));
    Question::Request(Box::new(ApiRequest {
        method: request.method,
        path,
        query,
        peer: client.peer,
        head: request.api.take().map(|head| *head).unwrap_or_default(),
        body: body.bytes().to_vec().into(),
    }))
}

/// Hands a question over and waits for its answer.
async fn ask(
    worker: &Worker,
    client: &mut Downstream,
    question: Question,
) -> Result<ApiReply, Stop> {
    let Some(waiting) = worker.desk.take_place() else {
        return Err(ApiError::control_busy().into());
    };
    let call = ApiCall {
        worker: worker.index,
        ticket: waiting.ticket(),
        deadline: clock::now() + ANSWER_LIMIT,
        question,
    };
    if worker.shared.api.try_send(call).is_err() {
        return Err(ApiError::control_busy().into());
    }
    let answered = runtime::timeout(ANSWER_LIMIT, waiting);
    match client.inlet.watch(answered).await? {
        Some(Ok(reply)) => Ok(reply),
        Some(Err(error)) => Err(error.into()),
        None => Err(ApiError::control_busy().into()),
    }
}

impl ApiReply {
    /// Whether the status allows a body (RFC 9110 section 15.3.5).
    fn has_body(&self) -> bool {
        self.status != StatusCode::NO_CONTENT
    }
}

/// How long a client waits for the control side. What may take longer there has a shorter limit of its own
/// and says so.
const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
