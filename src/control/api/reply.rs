//! What a handler answers.

use http::StatusCode;
use serde::Serialize;

use crate::openai::ApiError;
use crate::proxy::api::{ApiReply, Continuation};

/// An answer in the making.
pub(super) struct Reply(ApiReply);

/// How an answer goes on: called on one of the API's threads once the client has taken what it was sent.
/// The status of what it returns is not sent any more; an error cuts the answer off.
pub(super) struct Next(pub(super) Box<dyn FnOnce() -> Result<Reply, ApiError> + Send>);

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
        next: impl FnOnce() -> Result<Self, ApiError> + Send + 'static,
    ) -> Self {
        self.0.more = Some(Continuation::new(Next(Box::new(next))));
        self
    }

    pub(super) fn into_api(self) -> ApiReply {
        self.0
    }
}

const JSON: &str = "application/json";
