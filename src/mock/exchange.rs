//! From a request's bytes to the reply it gets: decided at once, without waiting for anything.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::http1::{BodyLength, HeadLimits, HeadScan, Method, Parsed, RequestHead, parse_request};
use crate::openai::{ApiError, models};
use crate::runtime::Buf;

use super::answer::{self, CREATED_SECS, JSON, Origin, number, put};
use super::ask::{Api, Ask};
use super::events::Script;
use super::message::{Form, Messages, StreamFraming};
use super::node::{InFlight, Node, Outcome};

/// One thread's part: the node and a place to write messages in.
pub(super) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) messages: Messages,
}

/// What the bytes received so far call for.
pub(super) enum Step<'n> {
    /// More bytes, `bytes` in all if that is known.
    More {
        bytes: usize,
        /// The client waits to be asked for the body.
        expects_continue: bool,
    },
    /// A body of unknown length follows the first `head_bytes`.
    Chunked {
        head_bytes: usize,
        /// The client waits to be asked for the body.
        expects_continue: bool,
    },
    /// A reply; the request took up `bytes`.
    Reply { reply: Reply<'n>, bytes: usize },
}

/// How a request is replied to.
pub(super) struct Reply<'n> {
    /// How long the client waits for the first byte.
    pub(super) delay: Duration,
    pub(super) content: Content,
    /// Whether the connection ends afterwards.
    pub(super) close: bool,
    /// The request, if it counts; settled already if its outcome is certain.
    pub(super) in_flight: Option<InFlight<'n>>,
}

/// What is sent.
pub(super) enum Content {
    /// All of this.
    Whole(Buf),
    /// Half an answer, and then the connection is closed.
    Half(Buf),
    /// One event after the other.
    Stream(Box<StreamPlan>),
}

/// A stream to be sent.
pub(super) struct StreamPlan {
    pub(super) script: Script,
    pub(super) framing: StreamFraming,
    /// The event in whose middle the connection is closed, if it is.
    pub(super) breaks_in: Option<u32>,
}

impl Worker {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            messages: Messages::default(),
        }
    }

    /// Looks at the bytes received since the last request.
    pub(super) fn step(&self, bytes: &[u8], scan: &mut HeadScan) -> Step<'_> {
        let (head, head_bytes) = match parse_request(bytes, scan, &HeadLimits::DEFAULT) {
            Ok(Parsed::Complete { head, bytes }) => (head, bytes),
            Ok(Parsed::Partial) => {
                return Step::More {
                    bytes: 0,
                    expects_continue: false,
                };
            }
            Err(reject) => {
                let error = ApiError::bad_request(reject.code, Cow::Borrowed(reject.reason));
                return Step::Reply {
                    reply: self.certain(self.messages.error(&error, Form::closing()), true),
                    bytes: bytes.len(),
                };
            }
        };
        let body_bytes = match head.body {
            BodyLength::Empty => 0,
            BodyLength::Fixed(length) => usize::try_from(length).unwrap_or(usize::MAX),
            BodyLength::Chunked => {
                return Step::Chunked {
                    head_bytes,
                    expects_continue: head.expect_continue,
                };
            }
        };
        if body_bytes > REQUEST_BYTES_MAX {
            let error = ApiError::payload_too_large(REQUEST_BYTES_MAX);
            return Step::Reply {
                reply: self.certain(self.messages.error(&error, Form::closing()), true),
                bytes: bytes.len(),
            };
        }
        let total = head_bytes + body_bytes;
        match bytes.get(head_bytes..total) {
            Some(body) => Step::Reply {
                reply: self.reply(&head, body),
                bytes: total,
            },
            None => Step::More {
                bytes: total,
                expects_continue: head.expect_continue,
            },
        }
    }

    /// The reply to a request whose body came in chunks.
    pub(super) fn reply_to_parts(&self, head: &[u8], body: &[u8]) -> Option<Reply<'_>> {
        match parse_request(head, &mut HeadScan::new(), &HeadLimits::DEFAULT) {
            Ok(Parsed::Complete { head, .. }) => Some(self.reply(&head, body)),
            _ => None,
        }
    }

    fn reply(&self, head: &RequestHead<'_>, body: &[u8]) -> Reply<'_> {
        let form = Form::answering(head);
        if let Some(api) = Api::at(head.path) {
            if head.method == Method::Post {
                return self.inference(api, head, body, form);
            }
            let error = ApiError::method_not_allowed("POST");
            return self.certain(self.messages.error(&error, form), form.close);
        }
        self.certain(self.information(head, form), form.close)
    }

    fn inference(&self, api: Api, head: &RequestHead<'_>, body: &[u8], form: Form) -> Reply<'_> {
        let node = &*self.node;
        let (request_number, mut in_flight) = node.begin();
        let ask = match self.examine(api, head, body, &in_flight, request_number) {
            Ok(ask) => ask,
            Err((outcome, error)) => {
                in_flight.settle(outcome);
                return self.certain(self.messages.error(&error, form), form.close);
            }
        };
        let options = &node.options;
        let breaks = node.disconnects(request_number);
        let mut delay = options.first_token_delay;
        let content = if ask.stream && api.generates() {
            node.count_stream();
            let script = Script::new(node, request_number, &ask);
            Content::Stream(Box::new(StreamPlan {
                framing: StreamFraming::of(head),
                breaks_in: breaks.then(|| script.event_count() / 2),
                script,
            }))
        } else {
            if api.generates() {
                delay += options.token_interval * options.token_count.saturating_sub(1);
            }
            let digits = number(request_number);
            let origin = Origin {
                node,
                number: digits.as_bytes(),
                model: &ask.model,
                nonce: &ask.nonce,
            };
            let mut answer = self
                .messages
                .whole(form, |out| answer::write(out, &origin, &ask));
            if breaks {
                answer.truncate(answer.len() / 2);
                Content::Half(answer)
            } else {
                Content::Whole(answer)
            }
        };
        Reply {
            delay,
            content,
            close: form.close,
            in_flight: Some(in_flight),
        }
    }

    /// What is asked, or why it is not answered.
    fn examine<'b>(
        &self,
        api: Api,
        head: &RequestHead<'b>,
        body: &'b [u8],
        in_flight: &InFlight<'_>,
        request_number: u64,
    ) -> Result<Ask<'b>, (Outcome, ApiError)> {
        if in_flight.is_over {
            return Err((Outcome::Refused, NO_SLOT));
        }
        let ask = Ask::read(api, head, body).map_err(|error| (Outcome::Rejected, error))?;
        if !ask.model.is_empty() && !self.node.serves(&ask.model) {
            let error = ApiError::model_not_found(&String::from_utf8_lossy(&ask.model));
            return Err((Outcome::Rejected, error));
        }
        if self.node.fails(request_number) {
            return Err((Outcome::Failed, FAILURE));
        }
        Ok(ask)
    }

    /// Everything that is no inference.
    fn information(&self, head: &RequestHead<'_>, form: Form) -> Buf {
        let node = &*self.node;
        if !matches!(head.method, Method::Get | Method::Head) {
            return self
                .messages
                .error(&ApiError::method_not_allowed("GET, HEAD"), form);
        }
        let ids = || node.options.models.iter().map(String::as_str);
        match head.path {
            "/health" => self.messages.whole(form, |out| {
                out.extend_from_slice(b"{\"status\":\"ok\"}");
                JSON
            }),
            "/stats" => self.messages.whole(form, |out| {
                node.stats().write(out, &node.name);
                JSON
            }),
            "/v1/models" => self.messages.whole(form, |out| {
                models::write_list(out, ids(), CREATED_SECS);
                JSON
            }),
            // What llama.cpp tells about itself, as far as routers read it.
            "/props" if node.options.slots.is_some() => self.messages.whole(form, |out| {
                let slots = node.options.slots.unwrap_or_default();
                put(
                    out,
                    &[b"{\"total_slots\":", number(slots.into()).as_bytes(), b"}"],
                );
                JSON
            }),
            path => {
                let wanted = path.strip_prefix("/v1/models/");
                match ids().find(|id| Some(*id) == wanted) {
                    Some(id) => self.messages.whole(form, |out| {
                        models::write_model(out, id, CREATED_SECS);
                        JSON
                    }),
                    None => self.messages.error(&ApiError::not_found(), form),
                }
            }
        }
    }

    /// A reply whose outcome is certain, or which does not count.
    fn certain(&self, answer: Buf, close: bool) -> Reply<'_> {
        Reply {
            delay: Duration::ZERO,
            content: Content::Whole(answer),
            close,
            in_flight: None,
        }
    }
}

/// Too many requests at once.
const NO_SLOT: ApiError = ApiError {
    status: StatusCode::SERVICE_UNAVAILABLE,
    kind: "service_unavailable",
    code: "no_free_slot",
    message: Cow::Borrowed("The mock node has no free slot"),
    retry_after_secs: Some(1),
    allow: None,
    problems: None,
};

/// What `error_rate` asks for.
const FAILURE: ApiError = ApiError {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    kind: "server_error",
    code: "internal_error",
    message: Cow::Borrowed("The mock node failed as it was told to"),
    retry_after_secs: None,
    allow: None,
    problems: None,
};

/// The largest request body taken, in bytes.
pub(super) const REQUEST_BYTES_MAX: usize = 128 << 20;
