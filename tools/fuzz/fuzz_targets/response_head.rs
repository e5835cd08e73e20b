//! A response head: one verdict however split, no disagreement with `httparse`, one framing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_router::http1::{
    HeadLimits, HeadScan, HeadWriter, Method, Parsed, ResponseBody, ResponseHead, Version,
    forwards_to_client, parse_response, parse_response_onward,
};
use llm_router_fuzz::partitions;

fuzz_target!(|input: &[u8]| {
    for method in [Method::Post, Method::Head] {
        let limits = HeadLimits::DEFAULT;
        let whole = parse_response(input, method, &mut HeadScan::new(), &limits);
        for cuts in partitions(input) {
            let mut scan = HeadScan::new();
            let in_parts = cuts
                .into_iter()
                .map(|end| parse_response(&input[..end], method, &mut scan, &limits))
                .find(|result| *result != Ok(Parsed::Partial))
                .unwrap_or(Ok(Parsed::Partial));
            assert_eq!(in_parts, whole);
        }
        match whole {
            Ok(Parsed::Complete { head, bytes }) => accepted(&input[..bytes], method, &head),
            Ok(Parsed::Partial) => assert!(input.len() < limits.head_bytes_max),
            // The line scan names every grammar fault itself.
            Err(bad) => assert_ne!(bad.reason, "The head is malformed"),
        }
    }
});

fn accepted(bytes: &[u8], method: Method, head: &ResponseHead<'_>) {
    let mut headers = [httparse::EMPTY_HEADER; HeadLimits::FIELD_COUNT_CAPACITY];
    let mut other = httparse::Response::new(&mut headers);
    assert_eq!(
        other.parse(bytes),
        Ok(httparse::Status::Complete(bytes.len()))
    );
    assert_eq!(other.code, Some(head.status.as_u16()));
    assert!(
        other
            .headers
            .iter()
            .map(|field| (field.name, field.value))
            .eq(head.fields)
    );

    let count = |wanted: &str| {
        head.fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .count()
    };
    let framing = (count("content-length"), count("transfer-encoding"));
    match head.body {
        ResponseBody::Empty => {
            assert!(method == Method::Head || matches!(head.status.as_u16(), 100..=199 | 204 | 304))
        }
        ResponseBody::Fixed(_) => assert_eq!(framing, (1, 0)),
        ResponseBody::Chunked => assert_eq!((framing, head.version), ((0, 1), Version::Http11)),
        ResponseBody::UntilClose => {
            assert_eq!(framing, (0, 0));
            assert!(!head.keep_alive);
        }
    }

    let mut onward = Vec::new();
    let mut writer = HeadWriter::new(&mut onward);
    writer.status_line(head.status);
    for (name, value) in head.end_to_end_fields() {
        writer.field(name, value);
    }
    let mut lines = Vec::new();
    let (mut scan, limits) = (HeadScan::new(), HeadLimits::DEFAULT);
    assert!(parse_response_onward(bytes, method, &mut scan, &limits, &mut lines).is_ok());
    assert_eq!(lines, onward, "what the walk writes is what travels on");

    if bytes.len() > 8000 {
        return; // One space behind each colon may take it beyond a limit.
    }
    let mut written = Vec::new();
    let mut writer = HeadWriter::new(&mut written);
    writer.status_line(head.status);
    for (name, value) in head.end_to_end_fields() {
        assert!(forwards_to_client(name));
        writer.field(name, value);
    }
    match head.body {
        ResponseBody::Fixed(bytes) => {
            writer.content_length(bytes);
        }
        ResponseBody::Chunked => {
            writer.chunked();
        }
        ResponseBody::Empty | ResponseBody::UntilClose => {}
    }
    writer.end();
    let mut scan = HeadScan::new();
    let again = parse_response(&written, method, &mut scan, &HeadLimits::DEFAULT);
    let Ok(Parsed::Complete { head: again, bytes }) = again else {
        // A hundred fields and one of ours are too many.
        assert!(head.fields.iter().count() >= HeadLimits::FIELD_COUNT_CAPACITY);
        return;
    };
    assert_eq!(bytes, written.len());
    assert_eq!((again.status, again.body), (head.status, head.body));
    assert!(again.end_to_end_fields().eq(head.end_to_end_fields()));
}
