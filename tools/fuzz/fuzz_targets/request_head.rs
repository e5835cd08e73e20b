//! A request head: one verdict however split, no disagreement with `httparse`, one framing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_router::http1::{
    BodyLength, HeadLimits, HeadScan, HeadWriter, Parsed, Reject, RequestHead, Version,
    forwards_to_node, parse_request, parse_request_onward,
};
use llm_router_fuzz::partitions;

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    for cuts in partitions(input) {
        let mut scan = HeadScan::new();
        let in_parts = cuts
            .into_iter()
            .map(|end| parse_request(&input[..end], &mut scan, &HeadLimits::DEFAULT))
            .find(|result| *result != Ok(Parsed::Partial))
            .unwrap_or(Ok(Parsed::Partial));
        assert_eq!(in_parts, whole);
    }
    match whole {
        Ok(Parsed::Complete { head, bytes }) => accepted(&input[..bytes], &head),
        Ok(Parsed::Partial) => assert!(input.len() < HeadLimits::DEFAULT.head_bytes_max),
        // The line scan names every grammar fault itself.
        Err(reject) => assert_ne!(reject.reason, "The head is malformed"),
    }
});

fn parse(bytes: &[u8]) -> Result<Parsed<RequestHead<'_>>, Reject> {
    parse_request(bytes, &mut HeadScan::new(), &HeadLimits::DEFAULT)
}

fn accepted(bytes: &[u8], head: &RequestHead<'_>) {
    assert_httparse_agrees(bytes, head);
    assert_framing(head);
    let mut onward = Vec::new();
    let mut writer = HeadWriter::new(&mut onward);
    for (name, value) in head.end_to_end_fields() {
        assert!(forwards_to_node(name));
        writer.field(name, value);
    }
    let mut lines = Vec::new();
    let (mut scan, limits) = (HeadScan::new(), HeadLimits::DEFAULT);
    assert!(parse_request_onward(bytes, &mut scan, &limits, &mut lines).is_ok());
    assert_eq!(lines, onward, "what the walk writes is what travels on");
    if head.version == Version::Http10 {
        assert!(!head.keep_alive);
        return;
    }
    let mut written = Vec::new();
    let mut writer = HeadWriter::new(&mut written);
    writer.request_line(head.method, "", head.path, head.query);
    for (name, value) in head.fields {
        writer.field(name, value);
    }
    writer.end();
    if written.len() > HeadLimits::DEFAULT.head_bytes_max || bytes.len() > 8000 {
        return; // One space behind each colon may take it beyond a limit.
    }
    let Ok(Parsed::Complete { head: again, bytes }) = parse(&written) else {
        panic!("what was written is refused");
    };
    assert_eq!(bytes, written.len());
    assert_eq!(
        (again.method, again.path, again.query),
        (head.method, head.path, head.query)
    );
    assert_eq!((again.body, again.keep_alive), (head.body, head.keep_alive));
    assert_eq!(again.expect_continue, head.expect_continue);
    assert!(again.fields.iter().eq(head.fields.iter()));
    assert_httparse_agrees(&written, &again);
}

fn assert_httparse_agrees(bytes: &[u8], head: &RequestHead<'_>) {
    let mut headers = [httparse::EMPTY_HEADER; HeadLimits::FIELD_COUNT_CAPACITY];
    let mut other = httparse::Request::new(&mut headers);
    assert_eq!(
        other.parse(bytes),
        Ok(httparse::Status::Complete(bytes.len()))
    );
    assert_eq!(other.method, Some(head.method.as_str()));
    assert!(
        other
            .headers
            .iter()
            .map(|field| (field.name, field.value))
            .eq(head.fields)
    );
}

/// Derives the framing a second time, from the fields alone.
fn assert_framing(head: &RequestHead<'_>) {
    let values = |wanted: &str| -> Vec<&[u8]> {
        head.fields
            .iter()
            .filter(|(name, _)| name.replace('_', "-").eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
            .collect()
    };
    match (
        &values("content-length")[..],
        &values("transfer-encoding")[..],
    ) {
        ([], []) => assert_eq!(head.body, BodyLength::Empty),
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit));
            let digits = std::str::from_utf8(length).expect("digits");
            assert_eq!(
                head.body,
                BodyLength::Fixed(digits.parse().expect("a number"))
            );
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            assert_eq!(
                (head.body, head.version),
                (BodyLength::Chunked, Version::Http11)
            );
        }
        _ => panic!("ambiguous framing was accepted"),
    }
}
