//! Streamed answers: which events an answer has, when each is due and what it says.
//!
//! Every event carries the request's nonce and its own number. Must never put two events together:
//! the caller sends each by itself.

use std::time::Duration;

use crate::sse;

use super::answer::{Origin, Progress, number, put};
use super::ask::{Api, Ask};
use super::node::Node;

/// A streamed answer: events before the tokens, one per token, events behind them.
#[derive(Debug)]
pub(super) struct Script {
    api: Api,
    number: Vec<u8>,
    model: Vec<u8>,
    nonce: Vec<u8>,
    include_usage: bool,
    token_count: u32,
}

/// One event's place in a script.
enum Part {
    Opening(u32),
    Token(u32),
    Closing(u32),
}

impl Script {
    pub(super) fn new(node: &Node, request_number: u64, ask: &Ask<'_>) -> Self {
        Self {
            api: ask.api,
            number: number(request_number).as_bytes().to_vec(),
            model: ask.model.to_vec(),
            nonce: ask.nonce.to_vec(),
            include_usage: ask.include_usage,
            token_count: node.options.token_count,
        }
    }

    /// How many events there are, `[DONE]` included where the API ends with it.
    pub(super) const fn event_count(&self) -> u32 {
        self.opening_count() + self.token_count + self.closing_count()
    }

    /// When event `index` is due, counted from the request.
    pub(super) fn due(&self, node: &Node, index: u32) -> Duration {
        let interval_count = match self.part(index) {
            Part::Opening(_) => 0,
            Part::Token(token) => token,
            Part::Closing(_) => self.token_count.saturating_sub(1),
        };
        let options = &node.options;
        options.first_token_delay + options.token_interval * interval_count
    }

    /// Appends event `index` with its empty line.
    pub(super) fn write(&self, out: &mut Vec<u8>, node: &Node, index: u32) {
        let digits = number(index.into());
        let event = Event {
            script: self,
            origin: Origin {
                node,
                number: &self.number,
                model: &self.model,
                nonce: &self.nonce,
            },
            index: digits.as_bytes(),
        };
        let part = self.part(index);
        match self.api {
            Api::Responses => event.write_response_event(out, &part),
            Api::Messages => event.write_message_event(out, &part),
            Api::Completions => event.write_completion_chunk(out, &part),
            _ => event.write_chat_chunk(out, &part),
        }
    }

    const fn opening_count(&self) -> u32 {
        match self.api {
            Api::Responses => 4,
            Api::Messages => 2,
            Api::Completions => 0,
            _ => 1,
        }
    }

    const fn closing_count(&self) -> u32 {
        match self.api {
            Api::Responses => 4,
            Api::Messages => 3,
            // The finish reason, the usage if wanted, [DONE].
            _ => 2 + self.include_usage as u32,
        }
    }

    fn part(&self, index: u32) -> Part {
        let Some(token) = index.checked_sub(self.opening_count()) else {
            return Part::Opening(index);
        };
        match token.checked_sub(self.token_count) {
            None => Part::Token(token),
            Some(closing) => Part::Closing(closing),
        }
    }
}

/// One event being written.
struct Event<'a> {
    script: &'a Script,
    origin: Origin<'a>,
    index: &'a [u8],
}

impl Event<'_> {
    fn write_chat_chunk(&self, out: &mut Vec<u8>, part: &Part) {
        match part {
            Part::Opening(_) => self.write_chunk(out, CHAT, |out| {
                out.extend_from_slice(b"\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
                out.extend_from_slice(UNFINISHED);
            }),
            Part::Token(token) => self.write_chunk(out, CHAT, |out| {
                out.extend_from_slice(b"\"delta\":{\"content\":\"");
                self.write_token(out, *token);
                put(out, &[b"\"}", UNFINISHED]);
            }),
            Part::Closing(0) => {
                self.write_chunk(out, CHAT, |out| put(out, &[b"\"delta\":{}", FINISHED]));
            }
            Part::Closing(index) => self.write_chunk_end(out, CHAT, *index),
        }
    }

    fn write_completion_chunk(&self, out: &mut Vec<u8>, part: &Part) {
        match part {
            Part::Opening(token) | Part::Token(token) => self.write_chunk(out, COMPLETION, |out| {
                out.extend_from_slice(b"\"text\":\"");
                self.write_token(out, *token);
                put(out, &[b"\"", UNFINISHED]);
            }),
            Part::Closing(0) => {
                self.write_chunk(out, COMPLETION, |out| {
                    put(out, &[b"\"text\":\"\"", FINISHED]);
                });
            }
            Part::Closing(index) => self.write_chunk_end(out, COMPLETION, *index),
        }
    }

    /// What follows the finish reason: the usage if it was asked for, then `[DONE]`.
    fn write_chunk_end(&self, out: &mut Vec<u8>, object: ChunkObject, closing: u32) {
        if !self.script.include_usage || closing > 1 {
            out.extend_from_slice(sse::DONE);
            return;
        }
        self.write_chunk_begin(out, object);
        out.extend_from_slice(b",\"choices\":[],");
        self.origin.write_usage(out);
        self.end(out);
    }

    /// One chunk with one choice, whose own members `choice` writes.
    fn write_chunk(&self, out: &mut Vec<u8>, object: ChunkObject, choice: impl Fn(&mut Vec<u8>)) {
        self.write_chunk_begin(out, object);
        out.extend_from_slice(b",\"choices\":[{\"index\":0,");
        choice(out);
        out.extend_from_slice(b"}]");
        if self.script.include_usage {
            out.extend_from_slice(b",\"usage\":null");
        }
        self.end(out);
    }

    fn write_chunk_begin(&self, out: &mut Vec<u8>, object: ChunkObject) {
        out.extend_from_slice(b"data: {");
        self.origin.write_id(out, object.id_prefix);
        put(out, &[b",\"object\":\"", object.name, b"\""]);
        self.origin.write_created_and_model(out);
    }

    fn write_response_event(&self, out: &mut Vec<u8>, part: &Part) {
        let origin = &self.origin;
        match part {
            Part::Opening(0) => self.begin_response(out, b"response.created", Progress::Begun),
            Part::Opening(1) => self.begin_response(out, b"response.in_progress", Progress::Begun),
            Part::Opening(2) => {
                self.begin_named(out, b"response.output_item.added");
                out.extend_from_slice(b",\"output_index\":0,\"item\":");
                origin.write_message_item(out, Progress::Begun);
            }
            Part::Opening(_) => {
                self.begin_part(out, b"response.content_part.added");
                out.extend_from_slice(b",\"part\":");
                origin.write_text_part(out, Progress::Begun);
            }
            Part::Token(token) => {
                self.begin_part(out, b"response.output_text.delta");
                out.extend_from_slice(b",\"logprobs\":[],\"delta\":\"");
                self.write_token(out, *token);
                out.push(b'"');
            }
            Part::Closing(0) => {
                self.begin_part(out, b"response.output_text.done");
                out.extend_from_slice(b",\"logprobs\":[],\"text\":\"");
                origin.write_text(out);
                out.push(b'"');
            }
            Part::Closing(1) => {
                self.begin_part(out, b"response.content_part.done");
                out.extend_from_slice(b",\"part\":");
                origin.write_text_part(out, Progress::Ended);
            }
            Part::Closing(2) => {
                self.begin_named(out, b"response.output_item.done");
                out.extend_from_slice(b",\"output_index\":0,\"item\":");
                origin.write_message_item(out, Progress::Ended);
            }
            Part::Closing(_) => self.begin_response(out, b"response.completed", Progress::Ended),
        }
        put(out, &[b",\"sequence_number\":", self.index]);
        self.end(out);
    }

    fn write_message_event(&self, out: &mut Vec<u8>, part: &Part) {
        match part {
            Part::Opening(0) => {
                self.begin_named(out, b"message_start");
                out.extend_from_slice(b",\"message\":{");
                self.origin.write_id(out, b"msg_");
                put(
                    out,
                    &[b",\"type\":\"message\",\"role\":\"assistant\",\"model\":\""],
                );
                put(
                    out,
                    &[self.origin.model, b"\",\"content\":[],\"stop_reason\":null"],
                );
                out.extend_from_slice(b",\"stop_sequence\":null,\"usage\":{\"input_tokens\":8");
                out.extend_from_slice(b",\"output_tokens\":1}}");
            }
            Part::Opening(_) => {
                self.begin_named(out, b"content_block_start");
                out.extend_from_slice(b",\"index\":0,\"content_block\":{\"type\":\"text\"");
                out.extend_from_slice(b",\"text\":\"\"}");
            }
            Part::Token(token) => {
                self.begin_named(out, b"content_block_delta");
                out.extend_from_slice(b",\"index\":0,\"delta\":{\"type\":\"text_delta\"");
                out.extend_from_slice(b",\"text\":\"");
                self.write_token(out, *token);
                out.extend_from_slice(b"\"}");
            }
            Part::Closing(0) => {
                self.begin_named(out, b"content_block_stop");
                out.extend_from_slice(b",\"index\":0");
            }
            Part::Closing(1) => {
                self.begin_named(out, b"message_delta");
                out.extend_from_slice(b",\"delta\":{\"stop_reason\":\"end_turn\"");
                out.extend_from_slice(b",\"stop_sequence\":null},");
                self.origin
                    .write_token_counts(out, b"input_tokens", b"output_tokens");
                out.push(b'}');
            }
            Part::Closing(_) => self.begin_named(out, b"message_stop"),
        }
        self.end(out);
    }

    /// Begins an event that has a name, which its data repeats as `type`.
    fn begin_named(&self, out: &mut Vec<u8>, name: &[u8]) {
        put(
            out,
            &[b"event: ", name, b"\ndata: {\"type\":\"", name, b"\""],
        );
    }

    fn begin_response(&self, out: &mut Vec<u8>, name: &[u8], progress: Progress) {
        self.begin_named(out, name);
        out.extend_from_slice(b",\"response\":");
        self.origin.write_response(out, progress);
    }

    fn begin_part(&self, out: &mut Vec<u8>, name: &[u8]) {
        self.begin_named(out, name);
        out.push(b',');
        self.origin.write_id_as(out, b"item_id", b"msg_");
        out.extend_from_slice(b",\"output_index\":0,\"content_index\":0");
    }

    /// Ends the event's object with its mark, and the event.
    fn end(&self, out: &mut Vec<u8>) {
        out.push(b',');
        self.origin.write_mark(out, Some(self.index));
        out.extend_from_slice(b"}\n\n");
    }

    /// Appends the text of one token: `nonce#number ` if there is a nonce, then its share of the
    /// text. The last one takes what is left over.
    fn write_token(&self, out: &mut Vec<u8>, token: u32) {
        let text = &self.origin.node.text;
        let token_count = self.script.token_count.max(1) as usize;
        let mut share = text.len() / token_count;
        if token as usize + 1 == token_count {
            share += text.len() % token_count;
        }
        let begin = out.len();
        if !self.origin.nonce.is_empty() {
            put(out, &[self.origin.nonce, b"#", self.index, b" "]);
        }
        let rest = share.saturating_sub(out.len() - begin);
        put(out, &[text.get(..rest).unwrap_or_default()]);
    }
}

/// What tells the chunks of two APIs apart.
#[derive(Clone, Copy)]
struct ChunkObject {
    id_prefix: &'static [u8],
    name: &'static [u8],
}

const CHAT: ChunkObject = ChunkObject {
    id_prefix: b"chatcmpl-",
    name: b"chat.completion.chunk",
};
const COMPLETION: ChunkObject = ChunkObject {
    id_prefix: b"cmpl-",
    name: b"text_completion",
};
const UNFINISHED: &[u8] = b",\"logprobs\":null,\"finish_reason\":null";
const FINISHED: &[u8] = b",\"logprobs\":null,\"finish_reason\":\"stop\"";
