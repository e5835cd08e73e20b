//! What a handler answers.

use http::StatusCode;
use serde::Serialize;

use crate::openai::ApiError;
use crate::proxy::api::{ApiReply, Check, Continuation, More, Watching};

use super::Context;

/// An answer in the making.
pub(super) struct Reply(ApiReply);

/// How an answer goes on: called on one of the API's threads once the client has taken what it was sent. The
/// status of what it returns is not sent any more. A 503 has it called again a little later, and so does an
/// answer that comes too late: called twice, it must return the same. Any other error cuts the answer off.
pub(super) struct Next(pub(super) NextPiece);

type NextPiece = Box<dyn Fn(&Context) -> Result<Reply, ApiError> + Send + Sync>;

impl Next {
    /// Has `check` called now and then: it says by its own answer whether to go on; by an error, that it cannot
    /// tell now.
    pub(super) fn check(
        check: impl Fn(&Context) -> Result<Reply, ApiError> + Send + Sync + 'static,
    ) -> Check {
        Check::Asked(Continuation::new(Self(Box::new(check))))
    }
}

impl Reply {
    /// 200 with `body` as JSON.
    pub(super) fn json(body: &impl Serialize) -> Result<Self, ApiError> {
        Self::json_with(StatusCode::OK, body)
    }

    /// `status` with `body` as JSON.
    pub(super) fn json_with(status: StatusCode, body: &impl Serialize) -> Result<Self, ApiError> {
        let body = simd_json::to_vec(body).map_err(|_| ApiError::internal())?;
        Ok(Self::of(status, JSON, body))
    }

    /// 204.
    pub(super) fn no_content() -> Self {
        Self::of(StatusCode::NO_CONTENT, JSON, Vec::new())
    }

    pub(super) fn of(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Self {
        Self(ApiReply {
            status,
            content_type,
            fields: Vec::new(),
            body,
            more: None,
        })
    }

    /// A further field; `value` is visible ASCII and blanks.
    #[must_use]
    pub(super) fn field(mut self, name: &'static str, value: String) -> Self {
        self.0.fields.push((name, value));
        self
    }

    /// Begins an answer that goes on: `next` is called once this part was sent.
    #[must_use]
    pub(super) fn then(
        mut self,
        next: impl Fn() -> Result<Self, ApiError> + Send + Sync + 'static,
    ) -> Self {
        let next = Next(Box::new(move |_: &Context| next()));
        self.0.more = Some(More::Piece(Continuation::new(next)));
        self
    }

    /// Goes on with live events. `point` is the last point of the series that this answer holds.
    #[must_use]
    pub(super) fn then_live(mut self, point: u64, check: Check) -> Self {
        self.0.more = Some(More::Live(Watching { check, point }));
        self
    }

    pub(super) fn into_api(self) -> ApiReply {
        self.0
    }
}

const JSON: &str = "application/json";
