//! The worker's half of the control API: receives a request whole, hands it to the threads that may
//! block, and sends what they answer. Knows no endpoint: what a path means is a matter of `control`, which also
//! gives the function that refuses at once what needs no thread for it.
//!
//! ```text
//! worker   receive ─ let in ─ take a place at the desk ─ hand over ─ … wait, watching the client … ─ send
//! api-N                                                 └─ look up, check, work ─ Notice::Answer ─┘
//! ```
//!
//! Nothing here blocks or takes a lock. Every wait is bounded: the places of a worker, the calls under way,
//! the time until an answer. A client that leaves gives its place up at once; the answer that still comes for
//! it finds the place's generation changed and is dropped.
//!
//! Anybody may keep the control API busy. Then requests are refused; an answer that has begun goes on: it has
//! places and a queue of its own, and is asked for again for a while before it is cut off. So has the report of a
//! node, which must not be taken for silent because of others.

mod call;
mod desk;
mod live;
mod queue;
mod tokens;
mod write;

use std::time::Duration;

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
    Answer, ApiCall, ApiHead, ApiReply, ApiRequest, CALLS_MAX, Continuation, Credentials, More,
    Outcome, Question,
};
pub use desk::Ticket;
pub use live::{Check, EndAtOnce, Frame, Live, Watching};
pub use queue::{ApiCalls, ApiInbox, Doorman, Guest, Known, QUEUED_MAX};
pub use tokens::NodeTokens;

pub(super) use desk::Desk;
pub(super) use live::Viewers;

use desk::Waiting;

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
    let asked = api_request(client, request, &mut body);
    drop(body);
    let question = match let_in(worker, &asked)? {
        Guest::Anybody => Question::Request(asked),
        Guest::Node => Question::Report(asked),
    };
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

fn let_in(worker: &Worker, asked: &ApiRequest) -> Result<Guest, ApiError> {
    let shared = &worker.shared;
    shared.api.let_in(
        asked,
        &Known {
            keys: &shared.keys.load(),
            node_tokens: &shared.node_tokens.load(),
            unix_secs: clock::unix_secs(),
        },
    )
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
        let piece = next_piece(worker, client, &next).await?;
        stream.piece(worker, client, &piece.body, trace).await?;
        match piece.more {
            Some(More::Piece(further)) => next = further,
            Some(More::Live(_)) | None => return Ok(stream.end(worker, client).await?),
        }
    }
}

/// Asks for the next piece, and again where nobody had time for it or the database did not answer.
async fn next_piece(
    worker: &Worker,
    client: &mut Downstream,
    next: &Continuation,
) -> Result<ApiReply, Stop> {
    let mut tries_left = PIECE_TRIES_MAX;
    loop {
        tries_left -= 1;
        match ask(worker, client, Question::More(next.clone())).await {
            Err(Stop::Answer(error, _))
                if error.status == StatusCode::SERVICE_UNAVAILABLE && tries_left > 0 =>
            {
                client.inlet.watch(runtime::sleep(PIECE_PAUSE)).await?;
            }
            // The head is out: all that is left is not to pretend that the answer is whole.
            Err(Stop::Answer(..)) => return Err(Stop::Cut),
            outcome => return outcome,
        }
    }
}

/// Receives the body, if there is one.
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

fn api_request(client: &Downstream, request: &mut Request, body: &mut Body) -> Box<ApiRequest> {
    let target = std::str::from_utf8(request.target()).unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let (path, query) = (path.into(), query.map(Into::into));
    Box::new(ApiRequest {
        method: request.method,
        path,
        query,
        peer: client.peer,
        head: request.api.take().map(|head| *head).unwrap_or_default(),
        body: body.bytes().to_vec().into(),
    })
}

/// Hands a question over and waits for its answer.
async fn ask(
    worker: &Worker,
    client: &mut Downstream,
    question: Question,
) -> Result<ApiReply, Stop> {
    let Some(waiting) = hand_over(worker, question) else {
        return Err(ApiError::control_busy().into());
    };
    let answered = runtime::timeout(ANSWER_LIMIT, waiting);
    match client.inlet.watch(answered).await? {
        Some(Ok(reply)) => Ok(reply),
        Some(Err(error)) => Err(error.into()),
        None => Err(ApiError::control_busy().into()),
    }
}

/// Hands a question over; the answer comes to the place it is given, within [`ANSWER_LIMIT`] or not at all. None
/// where as many wait as may.
fn hand_over(worker: &Worker, question: Question) -> Option<Waiting<'_>> {
    let waiting = worker.desk.take_place(question.kind())?;
    let is_taken = worker.shared.api.send(ApiCall {
        worker: worker.index,
        ticket: waiting.ticket(),
        deadline: clock::now() + ANSWER_LIMIT,
        question,
    });
    is_taken.then_some(waiting)
}

impl ApiReply {
    /// Whether the status allows a body (RFC 9110 section 15.3.5).
    fn has_body(&self) -> bool {
        self.status != StatusCode::NO_CONTENT
    }
}

/// How long a client waits for the control side. What may take longer there has a shorter limit of its own
/// and says so.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How often a piece is asked for. With the pauses it is longer than a database is busy with anything usual.
const PIECE_TRIES_MAX: u32 = 6;
/// How long the control side is left alone before it is asked again.
const PIECE_PAUSE: Duration = Duration::from_secs(1);
