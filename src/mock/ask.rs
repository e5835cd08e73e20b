//! What a request asks for, read from its head and body without copying.

use std::borrow::Cow;

use crate::http1::RequestHead;
use crate::openai::json::write_string_content;
use crate::openai::{ApiError, PeekError, multipart};

use super::json::{Members, digits, element_count, string_content};

/// One of the endpoints that answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Rerank,
    Messages,
    Speech,
    Transcriptions,
    Images,
}

impl Api {
    /// The endpoint at `path`.
    pub(super) fn at(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/v1/")? {
            "chat/completions" => Self::ChatCompletions,
            "completions" => Self::Completions,
            "embeddings" => Self::Embeddings,
            "responses" => Self::Responses,
            "rerank" => Self::Rerank,
            "messages" => Self::Messages,
            "audio/speech" => Self::Speech,
            "audio/transcriptions" | "audio/translations" => Self::Transcriptions,
            "images/generations" | "images/edits" | "images/variations" => Self::Images,
            _ => return None,
        })
    }

    /// Whether an answer consists of tokens, which take their time and can be streamed.
    pub(super) const fn generates(self) -> bool {
        matches!(
            self,
            Self::ChatCompletions | Self::Completions | Self::Responses | Self::Messages
        )
    }
}

/// A request, as far as the answer depends on it. Strings are the insides of JSON strings.
#[derive(Debug)]
pub(super) struct Ask<'b> {
    pub(super) api: Api,
    /// Empty if none was given, which only forms may do.
    pub(super) model: Cow<'b, [u8]>,
    /// The top-level `user`, else the field X-Nonce, else empty.
    pub(super) nonce: Cow<'b, [u8]>,
    pub(super) stream: bool,
    /// `stream_options.include_usage`.
    pub(super) include_usage: bool,
    /// Whether vectors are wanted in base64.
    pub(super) base64: bool,
    /// Number of texts to embed or of documents to rank, at least 1.
    pub(super) input_count: usize,
    /// Numbers per vector, if the client cares.
    pub(super) dimensions: Option<usize>,
    /// At most this many documents.
    pub(super) top_n: Option<usize>,
}

impl<'b> Ask<'b> {
    /// Reads a request.
    ///
    /// # Errors
    /// 400 for a body that cannot be read or names no model.
    pub(super) fn read(api: Api, head: &RequestHead<'b>, body: &'b [u8]) -> Result<Self, ApiError> {
        let mut ask = Self {
            api,
            model: Cow::Borrowed(&[]),
            nonce: Cow::Borrowed(&[]),
            stream: false,
            include_usage: false,
            base64: false,
            input_count: 1,
            dimensions: None,
            top_n: None,
        };
        match head.content_type {
            Some(content_type) if content_type.starts_with(b"multipart/") => {
                ask.read_form(content_type, body)?;
            }
            _ => ask.read_object(body)?,
        }
        if ask.nonce.is_empty()
            && let Some(nonce) = head.fields.first("x-nonce")
        {
            ask.nonce = escaped(nonce);
        }
        Ok(ask)
    }

    fn read_object(&mut self, body: &'b [u8]) -> Result<(), ApiError> {
        let mut members = Members::of(body);
        for (key, value) in members.by_ref() {
            match key {
                b"model" => self.model = Cow::Borrowed(string_content(value).unwrap_or_default()),
                b"user" => self.nonce = Cow::Borrowed(string_content(value).unwrap_or_default()),
                b"stream" => self.stream = value == b"true",
                b"stream_options" => {
                    self.include_usage =
                        Members::of(value).any(|member| member == (b"include_usage", b"true"));
                }
                b"encoding_format" => self.base64 = value == b"\"base64\"",
                b"dimensions" => self.dimensions = digits(value),
                b"top_n" => self.top_n = digits(value),
                b"input" if self.api == Api::Embeddings => self.input_count = text_count(value),
                b"documents" => self.input_count = element_count(value).unwrap_or(1).max(1),
                _ => {}
            }
        }
        if !members.is_whole() {
            let reason = "expected one object";
            return Err(PeekError::InvalidJson { reason, at: 0 }.into());
        }
        if self.model.is_empty() {
            return Err(PeekError::MissingModel.into());
        }
        Ok(())
    }

    fn read_form(&mut self, content_type: &[u8], body: &'b [u8]) -> Result<(), ApiError> {
        let content_type = std::str::from_utf8(content_type).unwrap_or_default();
        match multipart::peek(content_type, body) {
            Ok(form) => {
                self.model = match form.model {
                    Cow::Borrowed(model) => escaped(model.as_bytes()),
                    Cow::Owned(model) => Cow::Owned(escaped(model.as_bytes()).into_owned()),
                };
            }
            Err(PeekError::MissingModel) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// How many texts an embedding request's `input` holds: a string is one, and so is a list of tokens.
fn text_count(input: &[u8]) -> usize {
    let first = input
        .strip_prefix(b"[")
        .and_then(|elements| elements.trim_ascii_start().first());
    match first {
        Some(b'"' | b'[') => element_count(input).unwrap_or(1).clamp(1, INPUTS_MAX),
        _ => 1,
    }
}

/// `text` as the inside of a JSON string.
fn escaped(text: &[u8]) -> Cow<'_, [u8]> {
    if text
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
    {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::new();
    write_string_content(&mut out, &String::from_utf8_lossy(text));
    Cow::Owned(out)
}

/// Texts embedded per request, as many as OpenAI takes.
const INPUTS_MAX: usize = 2048;
