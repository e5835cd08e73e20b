//! Whole answers in the shapes of the OpenAI and Anthropic references, as bytes.
//!
//! Must never leave out a field the official SDKs insist on. All pieces are insides of JSON strings
//! already, so writing is copying.

use super::ask::{Api, Ask};
use super::node::Node;

/// Appends `pieces` one after the other.
pub(super) fn put(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// Where an answer comes from and whose it is.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) node: &'a Node,
    /// Decimal digits of the request's number at this node.
    pub(super) number: &'a [u8],
    pub(super) model: &'a [u8],
    pub(super) nonce: &'a [u8],
}

impl Origin<'_> {
    /// Appends `"mock":{…}`, the member that tells answers apart; `event` is its number, if it is one.
    pub(super) fn write_mark(&self, out: &mut Vec<u8>, event: Option<&[u8]>) {
        put(out, &[b"\"mock\":{\"node\":\"", &self.node.name]);
        put(out, &[b"\",\"request\":", self.number]);
        put(out, &[b",\"nonce\":\"", self.nonce, b"\""]);
        if let Some(event) = event {
            put(out, &[b",\"event\":", event]);
        }
        out.push(b'}');
    }

    /// Appends an id of its own for this answer, as a member named `id`.
    pub(super) fn write_id(&self, out: &mut Vec<u8>, prefix: &[u8]) {
        self.write_id_as(out, b"id", prefix);
    }

    /// Appends an id as a member with another name.
    pub(super) fn write_id_as(&self, out: &mut Vec<u8>, key: &[u8], prefix: &[u8]) {
        put(out, &[b"\"", key, b"\":\"", prefix, &self.node.name]);
        put(out, &[b"-", self.number, b"\""]);
    }

    /// Appends `,"created":…,"model":"…"`, which most objects go on with.
    pub(super) fn write_created_and_model(&self, out: &mut Vec<u8>) {
        put(
            out,
            &[
                b",\"created\":",
                CREATED,
                b",\"model\":\"",
                self.model,
                b"\"",
            ],
        );
    }

    /// Appends the text of a whole answer: the nonce, then as much text as fits.
    pub(super) fn write_text(&self, out: &mut Vec<u8>) {
        let text_bytes = self.node.text.len();
        let begin = out.len();
        if !self.nonce.is_empty() {
            put(out, &[self.nonce, b" "]);
        }
        let rest = text_bytes.saturating_sub(out.len() - begin);
        put(out, &[self.node.text.get(..rest).unwrap_or_default()]);
    }

    /// Appends `"usage":{…}` with the chat API's names.
    pub(super) fn write_usage(&self, out: &mut Vec<u8>) {
        self.write_token_counts(out, b"prompt_tokens", b"completion_tokens");
        put(
            out,
            &[
                b",\"total_tokens\":",
                number(self.total_tokens()).as_bytes(),
                b"}",
            ],
        );
    }

    /// Appends `"usage":{…` with its first two members, and leaves it open.
    pub(super) fn write_token_counts(&self, out: &mut Vec<u8>, sent: &[u8], made: &[u8]) {
        put(out, &[b"\"usage\":{\"", sent, b"\":"]);
        put(
            out,
            &[number(PROMPT_TOKENS).as_bytes(), b",\"", made, b"\":"],
        );
        put(
            out,
            &[number(self.node.options.token_count.into()).as_bytes()],
        );
    }

    /// Appends the response object of the responses API, with its output or still without.
    pub(super) fn write_response(&self, out: &mut Vec<u8>, progress: Progress) {
        out.push(b'{');
        self.write_id(out, b"resp_");
        put(out, &[b",\"object\":\"response\",\"created_at\":", CREATED]);
        put(out, &[b",\"model\":\"", self.model, b"\""]);
        put(out, &[RESPONSE_CONSTANTS]);
        if progress == Progress::Begun {
            put(
                out,
                &[b",\"status\":\"in_progress\",\"output\":[],\"usage\":null}"],
            );
            return;
        }
        put(out, &[b",\"status\":\"completed\",\"output\":["]);
        self.write_message_item(out, Progress::Ended);
        out.extend_from_slice(b"],");
        self.write_token_counts(out, b"input_tokens", b"output_tokens");
        put(out, &[RESPONSE_TOKEN_DETAILS, b",\"total_tokens\":"]);
        put(out, &[number(self.total_tokens()).as_bytes(), b"}}"]);
    }

    /// Appends the one output item of the responses API.
    pub(super) fn write_message_item(&self, out: &mut Vec<u8>, progress: Progress) {
        out.push(b'{');
        self.write_id(out, b"msg_");
        out.extend_from_slice(b",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"");
        if progress == Progress::Begun {
            out.extend_from_slice(b"in_progress\",\"content\":[]}");
            return;
        }
        out.extend_from_slice(b"completed\",\"content\":[");
        self.write_text_part(out, Progress::Ended);
        out.extend_from_slice(b"]}");
    }

    /// Appends the one part of that item.
    pub(super) fn write_text_part(&self, out: &mut Vec<u8>, progress: Progress) {
        out.extend_from_slice(
            b"{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"",
        );
        if progress == Progress::Ended {
            self.write_text(out);
        }
        out.extend_from_slice(b"\"}");
    }

    fn total_tokens(&self) -> u64 {
        PROMPT_TOKENS + u64::from(self.node.options.token_count)
    }
}

/// Whether an object is shown before or after its text was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Begun,
    Ended,
}

/// Appends the body of a whole answer and returns its media type.
pub(super) fn write(out: &mut Vec<u8>, origin: &Origin<'_>, ask: &Ask<'_>) -> &'static [u8] {
    match ask.api {
        Api::ChatCompletions => write_chat_completion(out, origin),
        Api::Completions => write_completion(out, origin),
        Api::Embeddings => write_embeddings(out, origin, ask),
        Api::Responses => {
            origin.write_response(out, Progress::Ended);
            write_mark_into(out, origin);
        }
        Api::Rerank => write_ranking(out, origin, ask),
        Api::Messages => write_message(out, origin),
        Api::Speech => {
            write_silence(out, origin.node);
            return b"audio/wav";
        }
        Api::Transcriptions => {
            out.extend_from_slice(b"{\"text\":\"");
            origin.write_text(out);
            out.extend_from_slice(b"\",\"usage\":{\"type\":\"duration\",\"seconds\":1},");
            origin.write_mark(out, None);
            out.push(b'}');
        }
        Api::Images => {
            put(
                out,
                &[
                    b"{\"created\":",
                    CREATED,
                    b",\"data\":[{\"b64_json\":\"",
                    PIXEL_PNG,
                ],
            );
            out.extend_from_slice(b"\"}],");
            origin.write_mark(out, None);
            out.push(b'}');
        }
    }
    JSON
}

fn write_chat_completion(out: &mut Vec<u8>, origin: &Origin<'_>) {
    out.push(b'{');
    origin.write_id(out, b"chatcmpl-");
    out.extend_from_slice(b",\"object\":\"chat.completion\"");
    origin.write_created_and_model(out);
    out.extend_from_slice(
        b",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"",
    );
    origin.write_text(out);
    out.extend_from_slice(b"\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],");
    origin.write_usage(out);
    out.push(b',');
    origin.write_mark(out, None);
    out.push(b'}');
}

fn write_completion(out: &mut Vec<u8>, origin: &Origin<'_>) {
    out.push(b'{');
    origin.write_id(out, b"cmpl-");
    out.extend_from_slice(b",\"object\":\"text_completion\"");
    origin.write_created_and_model(out);
    out.extend_from_slice(b",\"choices\":[{\"index\":0,\"text\":\"");
    origin.write_text(out);
    out.extend_from_slice(b"\",\"logprobs\":null,\"finish_reason\":\"stop\"}],");
    origin.write_usage(out);
    out.push(b',');
    origin.write_mark(out, None);
    out.push(b'}');
}

fn write_message(out: &mut Vec<u8>, origin: &Origin<'_>) {
    out.push(b'{');
    origin.write_id(out, b"msg_");
    put(
        out,
        &[
            b",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"",
            origin.model,
        ],
    );
    out.extend_from_slice(b"\",\"content\":[{\"type\":\"text\",\"text\":\"");
    origin.write_text(out);
    out.extend_from_slice(b"\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,");
    origin.write_token_counts(out, b"input_tokens", b"output_tokens");
    out.extend_from_slice(b"},");
    origin.write_mark(out, None);
    out.push(b'}');
}

fn write_ranking(out: &mut Vec<u8>, origin: &Origin<'_>, ask: &Ask<'_>) {
    out.push(b'{');
    origin.write_id(out, b"rerank-");
    put(out, &[b",\"model\":\"", origin.model, b"\",\"results\":["]);
    for index in 0..ask.input_count.min(ask.top_n.unwrap_or(usize::MAX)) {
        if index > 0 {
            out.push(b',');
        }
        // Earlier is better; scores fall without ever reaching zero.
        let score = number(1_000_000 / (index as u64 + 1) - 1);
        let digits = score.as_bytes();
        put(out, &[b"{\"index\":", number(index as u64).as_bytes()]);
        put(
            out,
            &[
                b",\"relevance_score\":0.",
                b"000000".get(digits.len()..).unwrap_or_default(),
            ],
        );
        put(out, &[digits, b"}"]);
    }
    put(
        out,
        &[
            b"],\"usage\":{\"total_tokens\":",
            number(PROMPT_TOKENS).as_bytes(),
            b"},",
        ],
    );
    origin.write_mark(out, None);
    out.push(b'}');
}

fn write_embeddings(out: &mut Vec<u8>, origin: &Origin<'_>, ask: &Ask<'_>) {
    let configured = origin.node.options.body_bytes.map(|bytes| bytes / 4);
    let dimensions = ask
        .dimensions
        .or(configured)
        .unwrap_or(DIMENSIONS)
        .clamp(1, DIMENSIONS_MAX);
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for index in 0..ask.input_count {
        if index > 0 {
            out.push(b',');
        }
        put(
            out,
            &[
                b"{\"object\":\"embedding\",\"index\":",
                number(index as u64).as_bytes(),
            ],
        );
        out.extend_from_slice(b",\"embedding\":");
        let sixteenths = (0..dimensions).map(|at| ((at + index) % 16) as u8);
        if ask.base64 {
            write_base64_vector(out, sixteenths);
        } else {
            write_float_vector(out, sixteenths);
        }
        out.push(b'}');
    }
    put(
        out,
        &[
            b"],\"model\":\"",
            origin.model,
            b"\",\"usage\":{\"prompt_tokens\":",
        ],
    );
    let tokens = number(PROMPT_TOKENS);
    put(
        out,
        &[
            tokens.as_bytes(),
            b",\"total_tokens\":",
            tokens.as_bytes(),
            b"},",
        ],
    );
    origin.write_mark(out, None);
    out.push(b'}');
}

/// Sixteenths are exact in binary and in four decimals, so both encodings give equal numbers.
fn write_float_vector(out: &mut Vec<u8>, sixteenths: impl Iterator<Item = u8>) {
    out.push(b'[');
    for (at, value) in sixteenths.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let digits = number(u64::from(value) * 625);
        put(
            out,
            &[
                b"0.",
                b"0000".get(digits.as_bytes().len()..).unwrap_or_default(),
            ],
        );
        out.extend_from_slice(digits.as_bytes());
    }
    out.push(b']');
}

/// 32-bit floats, little-endian, in base64 (RFC 4648 section 4).
fn write_base64_vector(out: &mut Vec<u8>, sixteenths: impl Iterator<Item = u8>) {
    let bytes: Vec<u8> = sixteenths
        .flat_map(|value| (f32::from(value) / 16.0).to_le_bytes())
        .collect();
    out.push(b'"');
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = (bits >> (18 - 6 * at)) as usize & 63;
            out.push(if at <= group.len() {
                BASE64[digit]
            } else {
                b'='
            });
        }
    }
    out.push(b'"');
}

/// A WAV file: 8-bit mono, 8 kHz, silent, with `body_bytes` samples.
fn write_silence(out: &mut Vec<u8>, node: &Node) {
    let samples = node.options.body_bytes.unwrap_or(800);
    let samples_le = (samples as u32).to_le_bytes();
    put(
        out,
        &[b"RIFF", &(samples as u32 + 36).to_le_bytes(), b"WAVEfmt "],
    );
    put(out, &[&[16, 0, 0, 0, 1, 0, 1, 0], &8000_u32.to_le_bytes()]);
    put(
        out,
        &[&8000_u32.to_le_bytes(), &[1, 0, 8, 0], b"data", &samples_le],
    );
    out.resize(out.len() + samples, 0x80);
}

/// Puts the mark into the object `out` ends with.
fn write_mark_into(out: &mut Vec<u8>, origin: &Origin<'_>) {
    let brace = out.pop();
    debug_assert_eq!(brace, Some(b'}'), "an object was written before");
    out.push(b',');
    origin.write_mark(out, None);
    out.push(b'}');
}

/// The decimal digits of a number.
pub(super) fn number(value: u64) -> Digits {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value).as_bytes();
    let mut digits = Digits {
        bytes: [0; 20],
        count: text.len(),
    };
    digits.bytes[..text.len()].copy_from_slice(text);
    digits
}

/// At most the 20 digits of a `u64`.
pub(super) struct Digits {
    bytes: [u8; 20],
    count: usize,
}

impl Digits {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.count]
    }
}

/// The media type of most answers.
pub(super) const JSON: &[u8] = b"application/json";

/// Tokens every prompt is said to have.
pub(super) const PROMPT_TOKENS: u64 = 8;

/// When every answer was made, in seconds since the Unix epoch: answers do not depend on the clock.
pub(super) const CREATED: &[u8] = b"1700000000";

/// The same as a number.
pub(super) const CREATED_SECS: u64 = 1_700_000_000;

/// Numbers per vector where nobody asks for another count.
const DIMENSIONS: usize = 16;
const DIMENSIONS_MAX: usize = 65_536;

const RESPONSE_CONSTANTS: &[u8] = concat!(
    r#","error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null"#,
    r#","metadata":{},"parallel_tool_calls":true,"previous_response_id":null"#,
    r#","reasoning":{"effort":null,"summary":null},"store":false,"temperature":1.0"#,
    r#","text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1.0"#,
    r#","truncation":"disabled","user":null"#,
)
.as_bytes();

const RESPONSE_TOKEN_DETAILS: &[u8] = concat!(
    r#","input_tokens_details":{"cached_tokens":0}"#,
    r#","output_tokens_details":{"reasoning_tokens":0}"#,
)
.as_bytes();

/// One transparent pixel.
const PIXEL_PNG: &[u8] = b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
