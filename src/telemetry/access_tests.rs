//! Tests of access records: their form, and the queue that never holds up a worker.

#![expect(
    clippy::disallowed_types,
    reason = "a test looks at what the thread of the log wrote"
)]

use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

fn record(request_id: &[u8]) -> Box<AccessRecord> {
    Box::new(AccessRecord {
        started_unix_ms: 1_700_000_000_123,
        request_id: ClientText::new(request_id),
        endpoint: EndpointLabel::ChatCompletions,
        model: ClientText::new(b"llama-3.2-1b"),
        node: ClientText::new(b"gpu-1"),
        status: 200,
        phase_us: [1, 2, 3, 4, 5, 6, 7, 0],
        request_bytes: 100,
        response_bytes: 2000,
        prompt_tokens: Some(7),
        completion_tokens: None,
        attempts: 1,
        ended_by: EndedBy::Node,
        ended_in: Phase::Done,
    })
}

fn line_of(record: &AccessRecord) -> String {
    let mut line = Vec::new();
    line::write(record, &mut line);
    assert!(line.len() <= line::BYTES_MAX, "{} bytes", line.len());
    String::from_utf8(line).unwrap()
}

/// Parses the line with a real JSON parser and returns one value of it.
fn parsed(line: &str, key: &str) -> String {
    let mut bytes = line.as_bytes().to_vec();
    let mut object: std::collections::HashMap<String, simd_json::OwnedValue> =
        simd_json::serde::from_slice(&mut bytes).unwrap();
    simd_json::serde::from_owned_value(object.remove(key).unwrap()).unwrap()
}

#[test]
fn a_record_is_one_line_of_json_with_every_field() {
    assert_eq!(
        line_of(&record(b"req-1")),
        concat!(
            r#"{"started_unix_ms":1700000000123,"request_id":"req-1","endpoint":"chat_completions","#,
            r#""model":"llama-3.2-1b","node":"gpu-1","status":200,"ended_by":"node","ended_in":"done","#,
            r#""attempts":1,"total_us":28,"phase_us":{"read":1,"auth":2,"admit":3,"queue":4,"#,
            r#""connect":5,"first_byte":6,"stream":7},"request_bytes":100,"response_bytes":2000,"#,
            r#""prompt_tokens":7,"completion_tokens":null}"#,
            "\n"
        )
    );
}

#[test]
fn hostile_text_can_neither_break_the_line_nor_steer_a_terminal() {
    let hostile = "a\r\nb\t\"c\\\u{1b}[31m\u{7f}\u{9b}\u{2028}\u{202e}é";
    let line = line_of(&record(hostile.as_bytes()));
    assert!(
        line.contains(r#""a\u000d\u000ab\u0009\"c\\\u001b[31m\u007f\u009b\u2028\u202eé""#),
        "{line}"
    );
    assert_eq!(line.matches('\n').count(), 1);
    assert!(
        !line
            .trim_end()
            .contains(|character: char| character.is_control())
    );
    assert_eq!(parsed(&line, "request_id"), hostile);
}

#[test]
fn bytes_that_are_not_utf_8_are_replaced() {
    let line = line_of(&record(b"a\xffb\xe3\x81"));
    assert_eq!(parsed(&line, "request_id"), "a\u{fffd}b\u{fffd}");
}

#[test]
fn long_text_is_cut_at_a_character_and_marked() {
    assert_eq!(
        parsed(&line_of(&record(&[b'x'; 256])), "request_id"),
        "x".repeat(256)
    );
    let cut = parsed(&line_of(&record(&[b'x'; 10_240])), "request_id");
    assert_eq!(cut, format!("{}…", "x".repeat(256)));
    let wide = parsed(&line_of(&record("é".repeat(200).as_bytes())), "request_id");
    assert_eq!(wide, format!("{}…", "é".repeat(128)));
    let escaped = line_of(&record(&[0x1b; 256]));
    assert!(
        escaped.contains(&format!("\"{}…\"", r"\u001b".repeat(42))),
        "{escaped}"
    );
}

#[test]
fn the_largest_record_fits_a_line() {
    let mut largest = record(&[0xff; 1000]);
    largest.model = ClientText::new(&[0x1b; 1000]);
    largest.node = ClientText::new("\u{2028}".repeat(400).as_bytes());
    largest.started_unix_ms = u64::MAX;
    largest.status = u16::MAX;
    largest.phase_us = [u64::MAX; Phase::COUNT];
    (largest.request_bytes, largest.response_bytes) = (u64::MAX, u64::MAX);
    (largest.prompt_tokens, largest.completion_tokens) = (Some(u64::MAX), Some(u64::MAX));
    largest.attempts = u32::MAX;
    assert!(line_of(&largest).len() < line::BYTES_MAX / 2);
}

/// A sink that shows what it received, and may be held up or broken.
#[derive(Clone, Default)]
struct Sink {
    written: Arc<Mutex<Vec<u8>>>,
    gate: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
    breaks: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(gate) = &self.gate {
            // Held up until the test lets go of its end.
            let _end = gate.lock().unwrap().recv();
        }
        if self.breaks {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn everything_handed_over_is_written_when_the_log_finishes() {
    let sink = Sink::default();
    let (log, writer) = AccessLog::start(sink.clone(), 10_000).unwrap();
    for number in 0..5000 {
        log.offer(record(number.to_string().as_bytes())).unwrap();
    }
    writer.finish();
    let written = String::from_utf8(sink.written.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = written.lines().collect();
    assert_eq!(lines.len(), 5000);
    assert_eq!(parsed(lines[4999], "request_id"), "4999");
    assert_eq!(log.offer(record(b"late")), Err(RecordDropped));
    assert_eq!(log.unwritten_total(), 0);
}

#[test]
fn a_stuck_sink_drops_records_instead_of_holding_up_the_worker() {
    let (release, gate) = mpsc::channel::<()>();
    let sink = Sink {
        gate: Some(Arc::new(Mutex::new(gate))),
        ..Sink::default()
    };
    let (log, writer) = AccessLog::start(sink.clone(), 4).unwrap();
    // Whatever the thread has already taken, 10 000 records do not fit a queue of 4 and a buffer of
    // 8 KiB.
    let offered = (0..10_000).map(|_| log.offer(record(b"x")));
    let (taken, dropped): (Vec<_>, Vec<_>) = offered.partition(Result::is_ok);
    assert!(!taken.is_empty() && !dropped.is_empty());
    drop(release);
    writer.finish();
    let written = sink.written.lock().unwrap();
    assert_eq!(
        written.iter().filter(|byte| **byte == b'\n').count(),
        taken.len()
    );
}

#[test]
fn a_failing_sink_is_counted_and_does_not_end_the_log() {
    let sink = Sink {
        breaks: true,
        ..Sink::default()
    };
    let (log, writer) = AccessLog::start(sink, 1000).unwrap();
    for _ in 0..500 {
        log.offer(record(b"x")).unwrap();
    }
    writer.finish();
    assert_eq!(log.unwritten_total(), 500);
}
