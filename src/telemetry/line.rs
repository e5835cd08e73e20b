//! Owns the form of an access record: one JSON object on one line of bounded length. Whatever a
//! client sent is escaped, so that it can neither end the line nor move a terminal's cursor.

use super::access::{AccessRecord, ClientText};
use super::labels::Phase;

/// Longest line, the line feed included.
pub(super) const BYTES_MAX: usize = 4096;

/// Longest value of a client in its escaped form, without the mark of truncation.
const VALUE_BYTES_MAX: usize = 256;

/// What follows a value that was cut off.
const TRUNCATION_MARK: &str = "…";

/// Appends the line of `record`.
pub(super) fn write(record: &AccessRecord, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut object = Object {
        out,
        separator: b'{',
    };
    object.number("started_unix_ms", record.started_unix_ms);
    object.text("request_id", &record.request_id);
    object.word("endpoint", record.endpoint.as_str());
    object.text("model", &record.model);
    object.text("node", &record.node);
    object.number("status", u64::from(record.status));
    object.word("ended_by", record.ended_by.as_str());
    object.word("ended_in", record.ended_in.as_str());
    object.number("attempts", u64::from(record.attempts));
    let total = record
        .phase_us
        .iter()
        .fold(0, |sum: u64, &part| sum.saturating_add(part));
    object.number("total_us", total);
    object.key("phase_us");
    write_phases(&record.phase_us, object.out);
    object.number("request_bytes", record.request_bytes);
    object.number("response_bytes", record.response_bytes);
    object.optional("prompt_tokens", record.prompt_tokens);
    object.optional("completion_tokens", record.completion_tokens);
    out.extend_from_slice(b"}\n");
    debug_assert!(
        out.len() - begin <= BYTES_MAX,
        "an access record outgrew its line"
    );
}

/// A JSON object being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl Object<'_> {
    /// Keys are our own words and need no escaping.
    fn key(&mut self, key: &str) {
        self.out.push(self.separator);
        self.separator = b',';
        self.word_alone(key);
        self.out.push(b':');
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn optional(&mut self, key: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => {
                self.key(key);
                self.out.extend_from_slice(b"null");
            }
        }
    }

    fn word(&mut self, key: &str, value: &str) {
        self.key(key);
        self.word_alone(value);
    }

    fn word_alone(&mut self, word: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b'"');
    }

    fn text(&mut self, key: &str, value: &ClientText) {
        self.key(key);
        self.out.push(b'"');
        let complete = write_escaped(value.kept(), self.out);
        if !complete || value.is_truncated() {
            self.out.extend_from_slice(TRUNCATION_MARK.as_bytes());
        }
        self.out.push(b'"');
    }
}

fn write_phases(phase_us: &[u64; Phase::COUNT], out: &mut Vec<u8>) {
    let mut object = Object {
        out,
        separator: b'{',
    };
    // `Done` takes no time.
    for (phase, &spent_us) in Phase::ALL
        .iter()
        .zip(phase_us)
        .filter(|(phase, _)| **phase != Phase::Done)
    {
        object.number(phase.as_str(), spent_us);
    }
    out.push(b'}');
}

/// Appends `bytes` as the inside of a JSON string, whole characters only; `false` if not all found
/// room. Bytes that are not UTF-8 become U+FFFD.
fn write_escaped(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let end = out.len() + VALUE_BYTES_MAX;
    for chunk in bytes.utf8_chunks() {
        let invalid = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        for character in chunk.valid().chars().chain(invalid) {
            let begin = out.len();
            write_character(character, out);
            if out.len() > end {
                out.truncate(begin);
                return false;
            }
        }
    }
    true
}

fn write_character(character: char, out: &mut Vec<u8>) {
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        _ if is_unsafe(character) => {
            out.extend_from_slice(b"\\u");
            // All of them lie in the basic plane, so four digits are enough.
            for shift in [12, 8, 4, 0] {
                let digit = (character as u32 >> shift) & 15;
                out.push(char::from_digit(digit, 16).unwrap_or('0') as u8);
            }
        }
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Characters that end a line, steer a terminal, or reorder text for a reader.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
