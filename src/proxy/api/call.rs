//! What goes between a worker and the control side: calls one way, answers the other. Plain data, sent
//! whole; a secret in it is wiped when it is dropped, and nothing here can be printed.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use zeroize::Zeroizing;

use crate::http1::{Method, RequestHead};
use crate::openai::ApiError;

use super::{Ticket, Watching};

/// One call, to be answered exactly once.
pub struct ApiCall {
    /// Whose mailbox the answer goes to.
    pub worker: usize,
    /// Whom it is for there.
    pub ticket: Ticket,
    /// Nobody waits for the answer any more after that.
    pub deadline: Instant,
    /// What is asked.
    pub question: Question,
}

/// What is asked.
pub enum Question {
    /// A client's request.
    Request(Box<ApiRequest>),
    /// The request of a node that has shown its token to the worker.
    Report(Box<ApiRequest>),
    /// The next piece of an answer that has begun.
    More(Continuation),
}

/// The kinds of questions. Each has places, a queue and a bound of its own: none keeps another from being
/// answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Report,
    More,
}

impl Question {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::Report(_) => Kind::Report,
            Self::More(_) => Kind::More,
        }
    }
}

impl Kind {
    /// How many of one worker may be under way; further ones are refused.
    pub(super) const fn places(self) -> usize {
        match self {
            Self::Request => 56,
            Self::Report | Self::More => 16,
        }
    }
}

/// Calls of all kinds that one worker may have under way.
pub const CALLS_MAX: usize = Kind::Request.places() + Kind::Report.places() + Kind::More.places();

/// A client's request, received whole and not judged at all.
pub struct ApiRequest {
    /// The method.
    pub method: Method,
    /// As sent, without the query.
    pub path: Box<str>,
    /// What follows the first `?`, as sent.
    pub query: Option<Box<str>>,
    /// The client's address.
    pub peer: IpAddr,
    /// What its head said.
    pub head: ApiHead,
    /// The body, empty if there was none.
    pub body: Zeroizing<Vec<u8>>,
}

/// The fields of a head that the control API looks at.
#[derive(Clone, Default)]
pub struct ApiHead {
    /// Who asks.
    pub credentials: Credentials,
    /// From which page a browser asks.
    pub origin: Option<Box<[u8]>>,
    /// What the client calls us.
    pub host: Option<Box<[u8]>>,
    /// `X-Requested-With`: a page of another origin cannot set it.
    pub x_requested_with: Option<Box<[u8]>>,
    /// The media type of the body.
    pub content_type: Option<Box<[u8]>>,
    /// A proxy says that it passes the request on, so the peer is not who asks.
    pub is_relayed: bool,
}

/// Everything a client may prove itself with, unchecked.
#[derive(Clone, Default)]
pub struct Credentials {
    /// `Authorization`.
    pub authorization: Option<Zeroizing<Vec<u8>>>,
    /// `X-API-Key`.
    pub x_api_key: Option<Zeroizing<Vec<u8>>>,
    /// `Cookie`.
    pub cookie: Option<Zeroizing<Vec<u8>>>,
    /// `X-Node-Token`.
    pub x_node_token: Option<Zeroizing<Vec<u8>>>,
}

/// An answer on its way to its worker.
pub struct Answer {
    /// Whom it is for.
    pub ticket: Ticket,
    /// What it is.
    pub outcome: Outcome,
}

/// What a call comes to.
pub type Outcome = Result<ApiReply, ApiError>;

/// An answer, or a piece of one.
pub struct ApiReply {
    /// The status; of a further piece it says nothing.
    pub status: StatusCode,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Further fields; the values are valid as such.
    pub fields: Vec<(&'static str, String)>,
    /// The body, or its next piece.
    pub body: Vec<u8>,
    /// There is more, once this was sent.
    pub more: Option<More>,
}

/// How an answer goes on.
pub enum More {
    /// With a piece the worker asks for.
    Piece(Continuation),
    /// With what happens.
    Live(Watching),
}

/// The state of an answer that goes on; only the control side knows what is in it. The worker keeps it until the
/// client has what follows, so that it can ask again where nobody had time. Dropped when the client leaves.
#[derive(Clone)]
pub struct Continuation(Arc<dyn Any + Send + Sync>);

impl Continuation {
    /// Keeps `state` for the next piece.
    pub fn new(state: impl Any + Send + Sync) -> Self {
        Self(Arc::new(state))
    }

    /// What was kept, if it is a `T`.
    #[must_use]
    pub fn state<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl ApiHead {
    pub(in crate::proxy) fn of(head: &RequestHead<'_>) -> Self {
        let secret = |value: Option<&[u8]>| value.map(|value| Zeroizing::new(value.to_vec()));
        let plain = |name| head.fields.first(name).map(Into::into);
        Self {
            credentials: Credentials {
                authorization: secret(head.authorization),
                x_api_key: secret(head.x_api_key),
                cookie: secret(head.fields.first("cookie")),
                x_node_token: secret(head.fields.first("x-node-token")),
            },
            origin: plain("origin"),
            host: head.host.map(Into::into),
            x_requested_with: plain("x-requested-with"),
            content_type: head.content_type.map(Into::into),
            is_relayed: head.fields.iter().any(|(name, _)| is_of_proxy(name)),
        }
    }
}

/// Whether only proxies send this field.
fn is_of_proxy(name: &str) -> bool {
    let is_x_forwarded = name
        .get(..X_FORWARDED.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(X_FORWARDED));
    is_x_forwarded
        || ["forwarded", "x-real-ip", "via"]
            .iter()
            .any(|of_proxy| name.eq_ignore_ascii_case(of_proxy))
}

const X_FORWARDED: &str = "x-forwarded-";
