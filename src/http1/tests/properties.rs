//! What holds for all inputs: split invariance, round trip, agreement with `httparse`, and that no
//! byte near a framing field changes the framing unnoticed.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::*;
use super::corpus::{decode_in_parts, request_verdict, response_verdict};

/// Bits of heads; sequences of them are valid often enough and wrong in every way.
const HEAD_BITS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\n",
    b"POST http://h/a?b HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 204 \r\n",
    b"Host: h\r\n",
    b"Host:h:80\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:",
    b"gzip, ",
    b"chunked",
    b"Connection: close, x\r\n",
    b"Expect: 100-continue\r\n",
    b"Authorization: Bearer k\r\n",
    b"X: \tvalue with spaces \xff\t \r\n",
    b"X:\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b"_",
    b"\0",
    b"\x7f",
    b"5",
    b"A",
    b"\r\n\r\n",
];

const CHUNK_BITS: &[&[u8]] = &[
    b"5\r\nhello\r\n",
    b"1;a=b\r\nx\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"A: b\r\n",
    b"A:POST ",
    b"10\r\n0123456789abcdef\r\n",
    b"fffffffffffffff",
    b"0",
    b"5",
    b";a",
    b"=\"b\\\"",
    b"\"",
    b" ",
    b"\r\n",
    b"\r",
    b"\n",
    b"/",
    b"\x01",
];

fn bits(of: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let bit = prop_oneof![
        20 => select(of).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..3),
    ];
    vec(bit, 0..14).prop_map(|bits| bits.concat())
}

/// A well-formed request head in canonical or less canonical spelling, with few flaws or none.
fn request_bytes() -> impl Strategy<Value = Vec<u8>> {
    let fields = vec(select(&HEAD_BITS[5..18]), 0..6);
    let whole = (
        select(&HEAD_BITS[..3]),
        fields,
        any::<Option<(Index, u8)>>(),
    )
        .prop_map(|(line, fields, flaw)| {
            let mut bytes = [line, b"Host: h\r\n", &fields.concat(), b"\r\n"].concat();
            if let Some((index, byte)) = flaw {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    prop_oneof![whole, bits(HEAD_BITS)]
}

/// The parts that cuts at `indexes` leave.
fn parts<'a>(bytes: &'a [u8], indexes: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = indexes
        .iter()
        .map(|index| index.index(bytes.len() + 1))
        .collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_request_has_the_same_verdict_however_it_is_split(
        bytes in request_bytes(), indexes in vec(any::<Index>(), 0..6),
    ) {
        let whole = request_verdict(&[&bytes]);
        prop_assert_eq!(&request_verdict(&parts(&bytes, &indexes)), &whole);
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&request_verdict(&singles), &whole);
    }

    #[test]
    fn a_response_has_the_same_verdict_however_it_is_split(
        bytes in prop_oneof![
            bits(HEAD_BITS),
            bits(HEAD_BITS).prop_map(|rest| [b"HTTP/1.1 200 OK\r\n", &rest[..]].concat()),
        ],
        indexes in vec(any::<Index>(), 0..6),
    ) {
        let whole = response_verdict(Method::Post, &[&bytes]);
        prop_assert_eq!(&response_verdict(Method::Post, &parts(&bytes, &indexes)), &whole);
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&response_verdict(Method::Post, &singles), &whole);
    }

    #[test]
    fn a_chunked_body_passes_the_same_bytes_however_it_is_split(
        bytes in bits(CHUNK_BITS), indexes in vec(any::<Index>(), 0..6),
    ) {
        for passing in [Passing::Data, Passing::Chunks] {
            let whole = decode_in_parts(&[&bytes], passing);
            prop_assert_eq!(&decode_in_parts(&parts(&bytes, &indexes), passing), &whole);
            let singles: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&decode_in_parts(&singles, passing), &whole);
        }
    }

    #[test]
    fn what_a_chunked_relay_passes_on_is_the_same_body_without_noise(bytes in bits(CHUNK_BITS)) {
        let data = decode_in_parts(&[&bytes], Passing::Data);
        let wire = decode_in_parts(&[&bytes], Passing::Chunks);
        let again = decode_in_parts(&[&wire.passed], Passing::Data);
        prop_assert_eq!(&again.passed, &data.passed);
        if data.verdict == Ok(true) {
            prop_assert_eq!(again.verdict, Ok(true));
            prop_assert_eq!(again.consumed, wire.passed.len());
            prop_assert!(!wire.passed.contains(&b';') || data.passed.contains(&b';'));
        } else {
            prop_assert_eq!(again.verdict, Ok(false), "no clean end is invented");
        }
    }

    #[test]
    fn data_written_in_chunks_is_read_back(pieces in vec(vec(any::<u8>(), 1..300), 0..8)) {
        let mut wire = Vec::new();
        for piece in &pieces {
            wire.extend_from_slice(chunk_size_line(piece.len(), &mut [0; 18]));
            wire.extend_from_slice(piece);
            wire.extend_from_slice(CHUNK_END);
        }
        wire.extend_from_slice(LAST_CHUNK);
        let decoded = decode_in_parts(&[&wire], Passing::Data);
        prop_assert_eq!(decoded.passed, pieces.concat());
        prop_assert_eq!(decoded.verdict, Ok(true));
        // A buffer of whole chunks without noise is one range.
        let step = ChunkedDecoder::new().forward_range(&wire, Passing::Chunks);
        let whole = Step { forward: 0..wire.len(), consumed: wire.len(), finished: true };
        prop_assert_eq!(step, Ok(whole));
    }

    #[test]
    fn a_request_that_is_written_again_reads_the_same(bytes in request_bytes()) {
        if let Ok(Parsed::Complete { head, bytes: consumed }) = parse(&bytes) {
            prop_assert!(httparse_agrees(&bytes[..consumed], &head));
            let mut written = Vec::new();
            let mut writer = HeadWriter::new(&mut written);
            writer.request_line(head.method, "", head.path, head.query);
            for (name, value) in head.fields {
                writer.field(name, value);
            }
            writer.end();
            // Written as HTTP/1.1, where Host is required.
            if head.version == Version::Http11 {
                let Ok(Parsed::Complete { head: again, bytes: consumed }) = parse(&written) else {
                    return Err(TestCaseError::fail("what was written is refused"));
                };
                prop_assert_eq!(consumed, written.len());
                prop_assert_eq!((again.method, again.path), (head.method, head.path));
                prop_assert_eq!((again.query, again.body), (head.query, head.body));
                prop_assert_eq!(again.keep_alive, head.keep_alive);
                prop_assert!(again.fields.iter().eq(head.fields.iter()));
                prop_assert!(httparse_agrees(&written, &again));
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Parsed<RequestHead<'_>>, Reject> {
    parse_request(bytes, &mut HeadScan::new(), &HeadLimits::DEFAULT)
}

/// An independent reading of the same bytes, field by field.
fn httparse_agrees(bytes: &[u8], head: &RequestHead<'_>) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut other = httparse::Request::new(&mut headers);
    other.parse(bytes) == Ok(httparse::Status::Complete(bytes.len()))
        && other.method == Some(head.method.as_str())
        && other.version == Some(u8::from(head.version == Version::Http11))
        && other
            .headers
            .iter()
            .map(|field| (field.name, field.value))
            .eq(head.fields)
}

/// The sweep of every byte at every place of a framing field, written over what is there and
/// inserted: either the head is refused, or the field still means exactly what it says.
#[test]
fn no_byte_near_a_framing_field_changes_the_framing_unnoticed() {
    let mut accepted = 0;
    for line in ["Transfer-Encoding: chunked\r\n", "Content-Length: 15\r\n"] {
        for at in 0..line.len() {
            for byte in 0..=u8::MAX {
                accepted += usize::from(sweep_one(line, at..at, byte));
                accepted += usize::from(sweep_one(line, at..at + 1, byte));
            }
        }
    }
    assert!(
        accepted > 1000,
        "token characters in names are fine: {accepted}"
    );
}

fn sweep_one(line: &str, replaced: Range<usize>, byte: u8) -> bool {
    let mut line = line.as_bytes().to_vec();
    line.splice(replaced, [byte]);
    let bytes = [
        b"POST / HTTP/1.1\r\nHost: h\r\n",
        &line[..],
        b"A: b\r\n\r\n",
    ]
    .concat();
    let Ok(Parsed::Complete {
        head,
        bytes: consumed,
    }) = parse(&bytes)
    else {
        return false;
    };
    assert_eq!(consumed, bytes.len());
    assert_eq!(
        head.fields.iter().count(),
        3,
        "no field appears or disappears"
    );
    let line = line.strip_suffix(b"\r\n").expect("the line end is intact");
    let colon = line.iter().position(|&byte| byte == b':').expect("a colon");
    let name = std::str::from_utf8(&line[..colon]).expect("a token");
    let value = line[colon + 1..].trim_ascii();
    let expected = if name.eq_ignore_ascii_case("transfer-encoding") {
        assert!(value.eq_ignore_ascii_case(b"chunked"));
        BodyLength::Chunked
    } else if name.eq_ignore_ascii_case("content-length") {
        assert!(value.iter().all(u8::is_ascii_digit));
        BodyLength::Fixed(
            std::str::from_utf8(value)
                .expect("digits")
                .parse()
                .expect("a number"),
        )
    } else {
        let folded = name.replace('_', "-");
        assert!(!folded.eq_ignore_ascii_case("transfer-encoding"));
        assert!(!folded.eq_ignore_ascii_case("content-length"));
        BodyLength::Empty
    };
    assert_eq!(head.body, expected, "{:?}", line.escape_ascii().to_string());
    true
}
