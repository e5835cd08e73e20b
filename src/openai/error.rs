//! The errors this router answers with, in the OpenAI shape of the product contract (section 7);
//! verdicts on malformed HTTP come from `http1::verdict`. Must never carry a node address, a file
//! path or a secret, and builds bodies only: `proxy::respond` makes the response around them.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::json::{write_string, write_string_content};
use super::peek::PeekError;
use super::routes::RouteError;

/// One refusal or failure, as the client will read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The `type` of the body.
    pub kind: &'static str,
    /// The `code` of the body; also a label in metrics.
    pub code: &'static str,
    /// The `message` of the body, not yet escaped.
    pub message: Cow<'static, str>,
    /// The value of `Retry-After` in seconds, at least 1 where present.
    pub retry_after_secs: Option<u32>,
    /// The value of `Allow`; present with 405 only.
    pub allow: Option<Cow<'static, str>>,
    /// What is wrong, one by one; with 422 only.
    pub problems: Option<Box<[String]>>,
}

impl ApiError {
    /// 400 for a body that breaks a rule; `code` names the rule.
    pub const fn bad_request(code: &'static str, message: Cow<'static, str>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, INVALID_REQUEST, code, message)
    }

    /// 401, the same for a missing, malformed, unknown or revoked key.
    pub const fn invalid_api_key() -> Self {
        Self::fixed(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "invalid_api_key",
            "Invalid API key",
        )
    }

    /// 404 for a model nobody serves. The name is shown with control characters made visible and
    /// cut at 256 characters.
    pub fn model_not_found(model: &str) -> Self {
        let mut message = String::from("The model `");
        push_shown(&mut message, model);
        message.push_str("` does not exist");
        Self::of(
            StatusCode::NOT_FOUND,
            INVALID_REQUEST,
            "model_not_found",
            Cow::Owned(message),
        )
    }

    /// 404 for a path that does not exist.
    pub const fn not_found() -> Self {
        Self::protocol(
            StatusCode::NOT_FOUND,
            "not_found",
            "There is nothing at this address",
        )
    }

    /// 405, with the methods that are allowed here.
    pub fn method_not_allowed(allow: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::protocol(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "This method is not allowed here",
        );
        error.allow = Some(allow.into());
        error
    }

    /// 408: the request did not arrive in time.
    pub const fn request_timeout() -> Self {
        Self::protocol(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "The request did not arrive in time",
        )
    }

    /// 411: a body without a length.
    pub const fn length_required() -> Self {
        Self::protocol(
            StatusCode::LENGTH_REQUIRED,
            "length_required",
            "The request body needs a length",
        )
    }

    /// 413: the body is larger than `body_bytes_max`.
    pub fn payload_too_large(body_bytes_max: usize) -> Self {
        Self::of(
            StatusCode::PAYLOAD_TOO_LARGE,
            INVALID_REQUEST,
            "payload_too_large",
            Cow::Owned(format!(
                "The request body is larger than {body_bytes_max} bytes"
            )),
        )
    }

    /// 415: a media type or content coding that cannot be read here.
    pub const fn unsupported_media_type() -> Self {
        Self::protocol(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "This media type or content coding is not supported",
        )
    }

    /// 502: no node could be reached.
    pub const fn node_unreachable() -> Self {
        Self::fixed(
            StatusCode::BAD_GATEWAY,
            BAD_GATEWAY,
            "node_unreachable",
            "The node could not be reached",
        )
    }

    /// 502: a node answered what is not HTTP/1.1.
    pub const fn bad_node_response() -> Self {
        Self::fixed(
            StatusCode::BAD_GATEWAY,
            BAD_GATEWAY,
            "bad_node_response",
            "The node sent an invalid response",
        )
    }

    /// 503: the router as a whole is overloaded.
    pub fn overloaded(retry_after_secs: u32) -> Self {
        Self::unavailable(QUEUE_FULL, "Service overloaded. Please retry later.")
            .retry_after(retry_after_secs)
    }

    /// 429: the queue of the model is full.
    pub fn model_queue_full(retry_after_secs: u32) -> Self {
        let secs = retry_after_secs.max(1);
        let unit = if secs == 1 { "second" } else { "seconds" };
        let message = format!("The queue is full. Please retry in {secs} {unit}.");
        Self::of(
            StatusCode::TOO_MANY_REQUESTS,
            QUEUE_FULL,
            QUEUE_FULL,
            Cow::Owned(message),
        )
        .retry_after(secs)
    }

    /// 503: the client has said that it would leave before its turn comes.
    pub fn wait_too_long(estimate_secs: u32, patience: Duration) -> Self {
        let message = format!(
            "The estimated wait of {} is longer than the client's limit of {}. Please retry later.",
            Seconds(Duration::from_secs(u64::from(estimate_secs))),
            Seconds(patience)
        );
        Self::of(
            StatusCode::SERVICE_UNAVAILABLE,
            SERVICE_UNAVAILABLE,
            "wait_too_long",
            Cow::Owned(message),
        )
        .retry_after(estimate_secs)
    }

    /// 503: the model is known, but none of its nodes is online.
    pub const fn no_nodes() -> Self {
        Self::unavailable("no_nodes", "No available nodes")
    }

    /// 503: the router is shutting down.
    pub fn draining() -> Self {
        Self::unavailable("draining", "The router is shutting down. Please retry.").retry_after(1)
    }

    /// 503: nothing is changed in a process that another one is about to take over from.
    pub fn handing_over() -> Self {
        let message = "Another process takes over or the router is shutting down. Please retry.";
        Self::unavailable("draining", message).retry_after(1)
    }

    /// 504: the node did not answer within the request's time.
    pub fn timeout(limit: Duration) -> Self {
        Self::gateway_timeout("timeout", limit)
    }

    /// 504: the request waited for its turn longer than the router allows.
    pub fn wait_timeout(limit: Duration) -> Self {
        Self::gateway_timeout("wait_timeout", limit)
    }

    /// 504: the request waited for its turn longer than the model's queue allows.
    pub fn queue_timeout(limit: Duration) -> Self {
        Self::of(
            StatusCode::GATEWAY_TIMEOUT,
            "queue_timeout",
            "queue_timeout",
            Cow::Owned(format!(
                "Queue wait timeout after {}. Please retry.",
                Seconds(limit)
            )),
        )
    }

    /// 508: the router has asked itself, as if it were one of its nodes.
    pub const fn loop_detected() -> Self {
        Self::fixed(
            StatusCode::LOOP_DETECTED,
            "loop_detected",
            "loop_detected",
            "This router is asked by itself",
        )
    }

    /// A node's own error, for a client whose stream has begun: the status, and what of the body is
    /// meant for people, at most [`SHOWN_CHARS_MAX`] characters of it.
    pub fn of_node(status: StatusCode, body: &[u8]) -> Self {
        let mut message = format!("The node answered with status {}", status.as_u16());
        if let Some(words) = node_words(body) {
            message.push_str(": ");
            push_shown(&mut message, &words);
        }
        let kind = if status.is_client_error() {
            INVALID_REQUEST
        } else {
            BAD_GATEWAY
        };
        Self::of(status, kind, "node_error", Cow::Owned(message))
    }

    /// Appends the body: `{"error":{"message":…,"type":…,"code":…}}`.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"error":{"message":"#);
        write_string(out, &self.message);
        out.extend_from_slice(br#","type":""#);
        write_string_content(out, self.kind);
        out.extend_from_slice(br#"","code":""#);
        write_string_content(out, self.code);
        out.push(b'"');
        if let Some(problems) = &self.problems {
            out.extend_from_slice(br#","problems":["#);
            for (index, problem) in problems.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, problem);
            }
            out.push(b']');
        }
        out.extend_from_slice(b"}}");
    }

    /// Appends the same as a server-sent event, for a stream that has begun: SDKs raise it as they
    /// raise an error response.
    pub fn write_event(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        self.write_body(out);
        out.extend_from_slice(b"\n\n");
    }

    fn gateway_timeout(code: &'static str, limit: Duration) -> Self {
        Self::of(
            StatusCode::GATEWAY_TIMEOUT,
            "gateway_timeout",
            code,
            Cow::Owned(format!("Request timeout after {}", Seconds(limit))),
        )
    }

    pub(super) const fn unavailable(code: &'static str, message: &'static str) -> Self {
        Self::fixed(
            StatusCode::SERVICE_UNAVAILABLE,
            SERVICE_UNAVAILABLE,
            code,
            message,
        )
    }

    const fn protocol(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self::fixed(status, INVALID_REQUEST, code, message)
    }

    pub(super) const fn fixed(
        status: StatusCode,
        kind: &'static str,
        code: &'static str,
        message: &'static str,
    ) -> Self {
        Self::of(status, kind, code, Cow::Borrowed(message))
    }

    const fn of(
        status: StatusCode,
        kind: &'static str,
        code: &'static str,
        message: Cow<'static, str>,
    ) -> Self {
        Self {
            status,
            kind,
            code,
            message,
            retry_after_secs: None,
            allow: None,
            problems: None,
        }
    }

    pub(super) fn retry_after(mut self, secs: u32) -> Self {
        self.retry_after_secs = Some(secs.max(1));
        self
    }
}

impl From<PeekError> for ApiError {
    fn from(error: PeekError) -> Self {
        Self::bad_request(error.code(), error.message())
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::NotFound => Self::not_found(),
            RouteError::MethodNotAllowed { allow } => Self::method_not_allowed(allow),
        }
    }
}

/// What a node's error says to people, in the forms of OpenAI, vLLM and FastAPI.
fn node_words(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        error: Option<Error>,
        message: Option<String>,
        detail: Option<Detail>,
    }
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Detail {
        Words(String),
        /// A list of what is wrong with each field, which is no sentence.
        Other(serde::de::IgnoredAny),
    }
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Error {
        Words(String),
        Object { message: String },
    }
    // simd-json writes into what it reads.
    let body: Body = simd_json::serde::from_slice(&mut body.to_vec()).ok()?;
    let of_error = body.error.map(|error| match error {
        Error::Words(words) => words,
        Error::Object { message } => message,
    });
    let of_detail = body.detail.and_then(|detail| match detail {
        Detail::Words(words) => Some(words),
        Detail::Other(_) => None,
    });
    of_error.or(body.message).or(of_detail)
}

/// A duration in words: `60 seconds`, `1 second`, `0.5 seconds`.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == Duration::from_secs(1) {
            f.write_str("1 second")
        } else if self.0.subsec_nanos() == 0 {
            write!(f, "{} seconds", self.0.as_secs())
        } else {
            write!(f, "{} seconds", self.0.as_secs_f64())
        }
    }
}

/// Appends a name from outside so that no terminal or log acts on it: at most
/// [`SHOWN_CHARS_MAX`] characters, controls and line or direction marks in `\u{…}` form.
pub(super) fn push_shown(out: &mut String, name: &str) {
    let mut characters = name.chars();
    for character in characters.by_ref().take(SHOWN_CHARS_MAX) {
        let acts = character.is_control()
            || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if acts {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    if characters.next().is_some() {
        out.push('…');
    }
}

const SHOWN_CHARS_MAX: usize = 256;
pub(super) const INVALID_REQUEST: &str = "invalid_request_error";
const BAD_GATEWAY: &str = "bad_gateway";
const SERVICE_UNAVAILABLE: &str = "service_unavailable";
const QUEUE_FULL: &str = "queue_full";

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
