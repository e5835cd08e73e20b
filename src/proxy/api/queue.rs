//! The way of calls from the workers to the threads that answer them. Owns its bounds. New requests, what goes
//! on and the reports of nodes wait apart, and reports have a thread of their own: however many begin something,
//! and however long that takes, what was begun can go on and no node is taken for silent. What the control side
//! can refuse without a thread does not wait at all.

use std::sync::OnceLock;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::auth::key::KeySet;
use crate::openai::ApiError;

use super::call::Kind;
use super::{ApiCall, ApiRequest, NodeTokens};

/// Where workers hand calls over.
pub struct ApiCalls {
    requests: Sender<ApiCall>,
    more: Sender<ApiCall>,
    reports: Sender<ApiCall>,
    doorman: OnceLock<Doorman>,
}

/// Refuses a request that needs no more than what is [`Known`] to be refused, and says who else asks. Called by
/// workers: it must not wait for anything.
pub type Doorman = fn(&ApiRequest, &Known<'_>) -> Result<Guest, ApiError>;

/// What a worker knows of those who may ask.
pub struct Known<'k> {
    /// The keys that are valid now.
    pub keys: &'k KeySet,
    /// The tokens of the registered nodes.
    pub node_tokens: &'k NodeTokens,
    /// The time, in Unix seconds.
    pub unix_secs: u64,
}

/// Who asks, as far as a worker can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Maybe nobody who may.
    Anybody,
    /// A node, by its token.
    Node,
}

/// Where the threads of the control API receive them; each call reaches one of them.
#[derive(Clone)]
pub struct ApiInbox {
    requests: Receiver<ApiCall>,
    more: Receiver<ApiCall>,
    reports: Receiver<ApiCall>,
}

impl ApiCalls {
    /// Three empty queues.
    #[must_use]
    pub fn new() -> (Self, ApiInbox) {
        let (requests, new) = bounded(REQUESTS_MAX);
        let (more, begun) = bounded(MORE_MAX);
        let (reports, reported) = bounded(REPORTS_MAX);
        let inbox = ApiInbox {
            requests: new,
            more: begun,
            reports: reported,
        };
        let calls = Self {
            requests,
            more,
            reports,
            doorman: OnceLock::new(),
        };
        (calls, inbox)
    }

    /// Has `doorman` look at each request first. The first one stays.
    pub fn watch_by(&self, doorman: Doorman) {
        let _ = self.doorman.set(doorman);
    }

    /// Whether a request is to be handed over, and whose it is.
    pub(super) fn let_in(
        &self,
        request: &ApiRequest,
        known: &Known<'_>,
    ) -> Result<Guest, ApiError> {
        match self.doorman.get() {
            Some(doorman) => doorman(request, known),
            None => Ok(Guest::Anybody),
        }
    }

    /// Hands a call over; false when as many wait as may.
    pub(super) fn send(&self, call: ApiCall) -> bool {
        let queue = match call.question.kind() {
            Kind::Request => &self.requests,
            Kind::Report => &self.reports,
            Kind::More => &self.more,
        };
        queue.try_send(call).is_ok()
    }
}

impl ApiInbox {
    /// Waits for a call that is no report; none when the process ends. Where both kinds wait, neither keeps the
    /// other waiting.
    #[must_use]
    pub fn next(&self) -> Option<ApiCall> {
        // Takes one of those that are ready at random.
        select! {
            recv(self.requests) -> call => call.ok(),
            recv(self.more) -> call => call.ok(),
        }
    }

    /// Waits for a report of a node; none when the process ends.
    #[must_use]
    pub fn next_report(&self) -> Option<ApiCall> {
        self.reports.recv().ok()
    }
}

/// Requests that may wait for a thread; further ones are refused.
const REQUESTS_MAX: usize = 256;
/// Calls for more of what has begun that may wait; further ones are refused, and come again.
const MORE_MAX: usize = 256;
/// Reports of nodes that may wait; further ones are refused, and come again.
const REPORTS_MAX: usize = 256;
/// Calls that may wait in all.
pub const QUEUED_MAX: usize = REQUESTS_MAX + MORE_MAX + REPORTS_MAX;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Instant;

    use crate::http1::Method;

    use super::super::{ApiHead, ApiRequest, Continuation, Desk, Question};
    use super::*;

    fn call(question: Question) -> ApiCall {
        ApiCall {
            worker: 0,
            ticket: Desk::new().take_place(Kind::More).unwrap().ticket(),
            deadline: Instant::now(),
            question,
        }
    }

    fn asked() -> Box<ApiRequest> {
        Box::new(ApiRequest {
            method: Method::Get,
            path: "/api/keys".into(),
            query: None,
            peer: IpAddr::from([127, 0, 0, 1]),
            head: ApiHead::default(),
            body: Vec::new().into(),
        })
    }

    fn request() -> ApiCall {
        call(Question::Request(asked()))
    }

    fn more() -> ApiCall {
        call(Question::More(Continuation::new(())))
    }

    fn is_more(call: &ApiCall) -> bool {
        matches!(call.question, Question::More(_))
    }

    #[test]
    fn requests_take_no_room_from_what_goes_on() {
        let (calls, inbox) = ApiCalls::new();
        assert!((0..REQUESTS_MAX).all(|_| calls.send(request())));
        assert!(!calls.send(request()));
        assert!((0..MORE_MAX).all(|_| calls.send(more())));
        assert!(!calls.send(more()));
        assert!((0..REPORTS_MAX).all(|_| calls.send(call(Question::Report(asked())))));
        assert!(!calls.send(call(Question::Report(asked()))));
        assert!(inbox.next_report().is_some());
    }

    #[test]
    fn neither_kind_keeps_the_other_waiting() {
        let (calls, inbox) = ApiCalls::new();
        let count = 64;
        for _ in 0..count {
            assert!(calls.send(request()) && calls.send(more()));
        }
        // Each is the next with even chances: this fails once in 2 to the 63rd runs.
        let first: Vec<bool> = (0..count)
            .map(|_| is_more(&inbox.next().unwrap()))
            .collect();
        assert!(first.contains(&true) && first.contains(&false));
    }
}
