//! Maps method and path to an endpoint. Paths are compared as they came: never normalised, so no
//! spelling of a path can mean one thing here and another thing on a node.

use std::borrow::Cow;

use http::Method;

/// One address of the public API, as metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/rerank`
    Rerank,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/audio/{transcriptions,translations,speech}`
    Audio,
    /// `POST /v1/images/{generations,edits,variations}`
    Images,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`
    Model,
    /// `GET /health`
    Health,
    /// `GET /ready`
    Ready,
    /// `GET /metrics`
    Metrics,
    /// `/api/*`, any method: the control API, which has a table of its own.
    Api,
    /// `GET /`, `GET /assets/*`: the page that shows the control API.
    Dashboard,
    /// Everything else: unknown paths. [`route`] never answers it.
    Other,
}

impl Endpoint {
    /// How many endpoints there are; every [`Endpoint::index`] is below it.
    pub const COUNT: usize = 16;

    /// All endpoints in the order of their index.
    pub const ALL: [Self; Self::COUNT] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Rerank,
        Self::Messages,
        Self::Audio,
        Self::Images,
        Self::Models,
        Self::Model,
        Self::Health,
        Self::Ready,
        Self::Metrics,
        Self::Api,
        Self::Dashboard,
        Self::Other,
    ];

    /// The place of this endpoint in an array of [`Endpoint::COUNT`] entries.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The value of the `endpoint` label in metrics and access records.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Rerank => "rerank",
            Self::Messages => "messages",
            Self::Audio => "audio",
            Self::Images => "images",
            Self::Models => "models",
            Self::Model => "model",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Metrics => "metrics",
            Self::Api => "api",
            Self::Dashboard => "dashboard",
            Self::Other => "other",
        }
    }

    /// Whether requests here are forwarded to a node.
    pub const fn is_inference(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions
                | Self::Completions
                | Self::Embeddings
                | Self::Responses
                | Self::Rerank
                | Self::Messages
                | Self::Audio
                | Self::Images
        )
    }

    /// The largest request body accepted here, in bytes, from the configured
    /// `proxy.max_body_bytes`.
    ///
    /// Embeddings get half of it and audio and images twice as much, which at the default of 32 MiB
    /// is 16 MiB and 64 MiB, and follows the operator who lowers or raises the one key there is.
    /// What the control API takes does not depend on it. Endpoints that take no body answer 0.
    pub const fn body_bytes_max(self, configured_max: usize) -> usize {
        match self {
            Self::Embeddings => configured_max / 2,
            Self::Audio | Self::Images => configured_max.saturating_mul(2),
            Self::Api => API_BODY_BYTES_MAX,
            _ if self.is_inference() => configured_max,
            _ => 0,
        }
    }
}

/// What the request body of a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// None is expected.
    None,
    /// One JSON object, read with [`peek::peek`](super::peek::peek).
    Json,
    /// `multipart/form-data`, read with [`multipart::peek`](super::multipart::peek).
    Multipart,
}

/// A request that has an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'p> {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How its body is to be read.
    pub body: BodyKind,
    /// The model id of `/v1/models/{id}`, percent-decoded and not empty; `None` elsewhere.
    pub model_id: Option<Cow<'p, str>>,
}

/// Why a request has no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// No such path: 404.
    NotFound,
    /// The path exists, the method does not apply: 405 with this `Allow` value (RFC 9110 10.2.1).
    MethodNotAllowed {
        /// The value of the `Allow` field.
        allow: &'static str,
    },
}

/// Finds the route of a request. `path` is the path of the target as received, without query.
///
/// `HEAD` is allowed wherever `GET` is (RFC 9110 section 9.1).
///
/// # Errors
/// [`RouteError::NotFound`] for any path that is not exactly a known one, and
/// [`RouteError::MethodNotAllowed`] for a known path with another method. The control API says both by
/// itself.
pub fn route<'p>(method: &Method, path: &'p str) -> Result<Route<'p>, RouteError> {
    let (endpoint, body) = lookup(path).ok_or(RouteError::NotFound)?;
    let model_id = match endpoint {
        Endpoint::Model => Some(model_id(path)?),
        _ => None,
    };
    if endpoint == Endpoint::Api {
        return Ok(Route {
            endpoint,
            body,
            model_id: None,
        });
    }
    let (allowed, allow) = match body {
        BodyKind::None => (
            *method == Method::GET || *method == Method::HEAD,
            "GET, HEAD",
        ),
        BodyKind::Json | BodyKind::Multipart => (*method == Method::POST, "POST"),
    };
    if allowed {
        Ok(Route {
            endpoint,
            body,
            model_id,
        })
    } else {
        Err(RouteError::MethodNotAllowed { allow })
    }
}

fn lookup(path: &str) -> Option<(Endpoint, BodyKind)> {
    use BodyKind::{Json, Multipart, None as NoBody};
    let Some(tail) = path.strip_prefix("/v1/") else {
        return match path {
            "/health" => Some((Endpoint::Health, NoBody)),
            "/ready" => Some((Endpoint::Ready, NoBody)),
            "/metrics" => Some((Endpoint::Metrics, NoBody)),
            "/" => Some((Endpoint::Dashboard, NoBody)),
            _ if path.starts_with("/api/") => Some((Endpoint::Api, Json)),
            _ if path.starts_with("/assets/") => Some((Endpoint::Dashboard, NoBody)),
            _ => None,
        };
    };
    Some(match tail {
        "chat/completions" => (Endpoint::ChatCompletions, Json),
        "completions" => (Endpoint::Completions, Json),
        "embeddings" => (Endpoint::Embeddings, Json),
        "responses" => (Endpoint::Responses, Json),
        "rerank" => (Endpoint::Rerank, Json),
        "messages" => (Endpoint::Messages, Json),
        "audio/transcriptions" | "audio/translations" => (Endpoint::Audio, Multipart),
        "audio/speech" => (Endpoint::Audio, Json),
        "images/generations" => (Endpoint::Images, Json),
        "images/edits" | "images/variations" => (Endpoint::Images, Multipart),
        "models" => (Endpoint::Models, NoBody),
        _ if tail.starts_with(MODEL_PREFIX) => (Endpoint::Model, NoBody),
        _ => return None,
    })
}

/// The part of `/v1/models/{id}` after the prefix, decoded. It may hold slashes and colons
/// (`org/model:tag`), either raw or percent-encoded.
fn model_id(path: &str) -> Result<Cow<'_, str>, RouteError> {
    let raw = path
        .strip_prefix("/v1/")
        .and_then(|tail| tail.strip_prefix(MODEL_PREFIX))
        .filter(|raw| !raw.is_empty())
        .ok_or(RouteError::NotFound)?;
    percent_decode(raw).ok_or(RouteError::NotFound)
}

/// Decodes `%XX` (RFC 3986 section 2.1). `None` for an incomplete or non-hex triplet, or if the
/// result is not UTF-8.
fn percent_decode(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('%') {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    loop {
        rest = match rest {
            [] => break,
            [b'%', high, low, tail @ ..] => {
                decoded.push((hex_digit(*high)? << 4) | hex_digit(*low)?);
                tail
            }
            [b'%', ..] => return None,
            [byte, tail @ ..] => {
                decoded.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

const MODEL_PREFIX: &str = "models/";
/// A thousand models of a node fit, with room to spare.
const API_BODY_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
