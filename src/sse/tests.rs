//! The event scanner against the examples of the specification, under every split.

use proptest::prelude::*;

use super::{DONE, EventScanner, SseError, write_comment, write_data, write_event};

const LIMIT: usize = 4096;

type Seen = (String, String, String);

fn read<'s>(slices: impl IntoIterator<Item = &'s [u8]>) -> (Vec<Seen>, EventScanner) {
    let mut scanner = EventScanner::new(LIMIT);
    let mut events = Vec::new();
    for slice in slices {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        scanner
            .feed(slice, |event| {
                events.push((text(event.name), text(event.data), text(event.last_id)));
            })
            .unwrap();
    }
    (events, scanner)
}

fn data_of(stream: &str) -> Vec<String> {
    read([stream.as_bytes()])
        .0
        .into_iter()
        .map(|(_, data, _)| data)
        .collect()
}

#[test]
fn all_three_line_ends_end_lines_and_events() {
    assert_eq!(
        data_of("data: a\n\ndata: b\r\rdata: c\r\n\r\n"),
        ["a", "b", "c"]
    );
    assert_eq!(
        data_of("data: a\r\n\ndata: b\n\r\ndata: c\r\r\n"),
        ["a", "b", "c"]
    );
}

#[test]
fn data_lines_are_joined_with_line_feeds() {
    assert_eq!(
        data_of("data: YHOO\ndata: +2\ndata: 10\n\n"),
        ["YHOO\n+2\n10"]
    );
    assert_eq!(data_of("data\ndata\n\n"), ["\n"]);
}

#[test]
fn one_space_behind_the_colon_is_not_data() {
    assert_eq!(
        data_of("data:test\n\ndata: test\n\ndata:  test\n\n"),
        ["test", "test", " test"]
    );
}

#[test]
fn an_empty_data_field_is_an_event_and_no_data_field_is_none() {
    assert_eq!(data_of("data\n\nevent: x\n\n\n\n"), [""]);
}

#[test]
fn a_name_lasts_for_one_event_and_an_id_for_the_stream() {
    let stream = b"event: a\nid: 1\ndata: x\n\ndata: y\n\nid\ndata: z\n\nid: \0\ndata: w\n\n";
    let (events, _) = read([&stream[..]]);
    let expected = [
        ("a", "x", "1"),
        ("", "y", "1"),
        ("", "z", ""),
        ("", "w", ""),
    ];
    let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(events, expected);
}

#[test]
fn comments_and_unknown_fields_are_skipped() {
    assert_eq!(
        data_of(": hello\n:\ndatum: 1\nDATA: 2\n data: 3\ndata: 4\n\n"),
        ["4"]
    );
}

#[test]
fn a_byte_order_mark_is_skipped_once_at_the_start() {
    assert_eq!(data_of("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
}

#[test]
fn a_begun_event_is_not_dispatched_and_shows() {
    let (events, scanner) = read([&b"data: a\n\ndata: b\n"[..]]);
    assert_eq!(events.len(), 1);
    assert!(!scanner.is_between_events());
    let (_, scanner) = read([&b"data: a\n\n"[..]]);
    assert!(scanner.is_between_events());
    assert_eq!(scanner.event_count(), 1);
}

#[test]
fn retry_is_digits_only() {
    assert_eq!(read([&b"retry: 1500\n"[..]]).1.retry_ms(), Some(1500));
    for value in ["", "+1", "1s", "99999999999999999999999"] {
        let stream = format!("retry: 7\nretry: {value}\n");
        assert_eq!(read([stream.as_bytes()]).1.retry_ms(), Some(7), "{value}");
    }
}

#[test]
fn a_line_or_event_beyond_the_limit_is_an_error_for_good() {
    let exact = format!("data: {}\n\n", "a".repeat(10));
    let mut scanner = EventScanner::new(16);
    let mut count = 0;
    assert_eq!(scanner.feed(exact.as_bytes(), |_| count += 1), Ok(()));
    assert_eq!(scanner.feed(b"data: ", |_| count += 1), Ok(()));
    assert_eq!(
        scanner.feed(b"01234567890", |_| count += 1),
        Err(SseError::EventTooLarge)
    );
    assert_eq!(
        scanner.feed(b"\n\n", |_| count += 1),
        Err(SseError::EventTooLarge)
    );
    assert_eq!(count, 1);
    for slices in [&["12345678901234567\n"][..], &["1234567890", "1234567\n"]] {
        let mut scanner = EventScanner::new(16);
        let verdict = slices
            .iter()
            .try_for_each(|slice| scanner.feed(slice.as_bytes(), |_| {}));
        assert_eq!(verdict, Err(SseError::EventTooLarge));
    }
    let mut scanner = EventScanner::new(16);
    let many_lines = "data: 12345\n".repeat(3);
    assert_eq!(
        scanner.feed(many_lines.as_bytes(), |_| {}),
        Err(SseError::EventTooLarge)
    );
}

#[test]
fn writers_make_events_that_read_back() {
    let mut stream = Vec::new();
    write_comment(&mut stream, b"keep-alive\ndata: not an event");
    write_data(&mut stream, b"{\"a\":1}");
    write_data(&mut stream, b"two\r\nlines\rand\n");
    write_event(&mut stream, b"ping\ndata: x", b"");
    stream.extend_from_slice(DONE);
    let (events, scanner) = read([stream.as_slice()]);
    let expected = [
        ("", "{\"a\":1}", ""),
        ("", "two\nlines\nand\n", ""),
        ("pingdata: x", "", ""),
        ("", "[DONE]", ""),
    ];
    let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(events, expected);
    assert!(scanner.is_between_events());
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "data",
        ":",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "data: x",
        "event: e\n",
        "id: 7\r",
        "é",
        "\u{feff}",
        ": c\n",
        "retry: 5\n",
        "\r\n\r\n",
        "data:\n",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let (whole, whole_scanner) = read([stream.as_slice()]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let mut slices = Vec::new();
        let mut start = 0;
        for cut in cuts.into_iter().chain([stream.len()]) {
            slices.push(&stream[start..cut]);
            start = cut;
        }
        for scan in [read(slices), read(stream.chunks(1))] {
            let (events, scanner) = scan;
            prop_assert_eq!(&events, &whole);
            prop_assert_eq!(scanner.event_count(), whole_scanner.event_count());
            prop_assert_eq!(scanner.retry_ms(), whole_scanner.retry_ms());
            prop_assert_eq!(scanner.is_between_events(), whole_scanner.is_between_events());
        }
    }

    #[test]
    fn written_data_reads_back_with_line_feeds(data in "[a-z:\n\r ]{0,30}") {
        let mut stream = Vec::new();
        write_data(&mut stream, data.as_bytes());
        let expected = data.replace("\r\n", "\n").replace('\r', "\n");
        let (events, _) = read([stream.as_slice()]);
        prop_assert_eq!(events, [(String::new(), expected, String::new())]);
    }

    #[test]
    fn the_scanner_never_holds_more_than_its_limit(
        stream in prop::collection::vec(any::<u8>(), 0..400),
        size in 1_usize..64,
    ) {
        let mut scanner = EventScanner::new(32);
        for slice in stream.chunks(size) {
            let verdict = scanner.feed(slice, |event| assert!(event.data.len() < 32));
            prop_assert!(scanner.line.len() <= 32 && scanner.data.len() <= 32);
            prop_assert!(scanner.name.len() <= 32 && scanner.last_id.len() <= 32);
            prop_assert_eq!(verdict.is_err(), scanner.failed);
        }
    }
}
