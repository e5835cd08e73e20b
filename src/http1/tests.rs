//! Unit tests of the codec. Verdicts are data, see `corpus`; what holds for all inputs is in
//! `properties`.

mod corpus;
mod properties;

use http::StatusCode;

use super::*;

fn parse(bytes: &[u8]) -> Result<Parsed<RequestHead<'_>>, Reject> {
    parse_request(bytes, &mut HeadScan::new(), &HeadLimits::DEFAULT)
}

fn parsed(bytes: &[u8]) -> (RequestHead<'_>, usize) {
    match parse(bytes) {
        Ok(Parsed::Complete { head, bytes }) => (head, bytes),
        other => panic!("not a valid head: {other:?}"),
    }
}

#[test]
fn an_sdk_request_is_parsed_with_every_field_the_router_asks_for() {
    let bytes = b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: h:8080\r\n\
        Authorization: Bearer k\r\nx-api-key: l\r\nX-Request-Id: r\r\n\
        Content-Type: application/json\r\nContent-Encoding: identity\r\n\
        Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n{\"model\":1}\n";
    let (head, consumed) = parsed(bytes);
    assert_eq!(&bytes[consumed..], b"{\"model\":1}\n");
    assert_eq!(head.method, Method::Post);
    assert_eq!(
        (head.path, head.query),
        ("/v1/chat/completions", Some("x=1"))
    );
    assert_eq!(head.host, Some(&b"h:8080"[..]));
    assert_eq!(head.body, BodyLength::Fixed(12));
    assert_eq!(head.authorization, Some(&b"Bearer k"[..]));
    assert_eq!(head.x_api_key, Some(&b"l"[..]));
    assert_eq!(head.x_request_id, Some(&b"r"[..]));
    assert_eq!(head.content_type, Some(&b"application/json"[..]));
    assert_eq!(
        head.content_encoding,
        Some(&b"gzip"[..]),
        "no coding hides behind identity"
    );
    assert_eq!(
        head.fields.first("content-TYPE"),
        Some(&b"application/json"[..])
    );
    assert_eq!(head.fields.iter().count(), 8);
}

#[test]
fn two_request_ids_count_as_none() {
    let (head, _) =
        parsed(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: a\r\nX-Request-Id: b\r\n\r\n");
    assert_eq!(head.x_request_id, None);
}

#[test]
fn pipelined_requests_are_parsed_one_after_the_other() {
    let bytes = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut scan = HeadScan::new();
    let limits = HeadLimits::DEFAULT;
    let Ok(Parsed::Complete { head, bytes: first }) = parse_request(bytes, &mut scan, &limits)
    else {
        panic!("the first request");
    };
    assert_eq!(head.path, "/a");
    assert!(scan.is_fresh());
    let Ok(Parsed::Complete {
        head,
        bytes: second,
    }) = parse_request(&bytes[first..], &mut scan, &limits)
    else {
        panic!("the second request");
    };
    assert_eq!(head.path, "/b");
    assert_eq!(first + second, bytes.len());
}

#[test]
fn a_completed_head_leaves_a_scan_that_can_be_used_for_the_next_one() {
    let bytes = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut scan = HeadScan::new();
    for end in 0..bytes.len() {
        let partial = parse_request(&bytes[..end], &mut scan, &HeadLimits::DEFAULT);
        assert_eq!(partial, Ok(Parsed::Partial));
    }
    assert!(!scan.is_fresh());
    let complete = parse_request(bytes, &mut scan, &HeadLimits::DEFAULT);
    assert!(matches!(complete, Ok(Parsed::Complete { .. })));
    assert!(scan.is_fresh());
}

/// The byte at which a verdict is given when bytes come one at a time.
fn verdict_byte(bytes: &[u8]) -> Option<usize> {
    let mut scan = HeadScan::new();
    (1..=bytes.len())
        .find(|&end| parse_request(&bytes[..end], &mut scan, &HeadLimits::DEFAULT).is_err())
}

#[test]
fn a_verdict_is_given_with_the_byte_that_decides_it() {
    for (bytes, expected) in [
        // At the end of a bad line, not at the end of the head.
        (&b"GET /v1/models\r\n\r\n"[..], 16),
        (b"GET / HTTP/1.1\r\nHost h\r\nA: b\r\n\r\n", 24),
        (b"GET / HTTP/1.1\r\n A: b\r\nA: b\r\n\r\n", 23),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 16),
        (b"\x16\x03\x01\x02\x00", 1),
        (b"\r\n\r\nGET", 4),
        (b"ABCDEFGHIJKLMNOPQ /", 17),
    ] {
        assert_eq!(
            verdict_byte(bytes),
            Some(expected),
            "{}",
            bytes.escape_ascii()
        );
    }
    let target = [b"GET /", &[b'a'; 9000][..]].concat();
    assert_eq!(verdict_byte(&target), Some(4 + 8192 + 1));
    let field = [b"GET / HTTP/1.1\r\n", &[b'a'; 9000][..]].concat();
    assert_eq!(verdict_byte(&field), Some(16 + 8192 + 1));
    let fields = [b"GET / HTTP/1.1\r\n", &b"A: b\r\n".repeat(101)[..]].concat();
    assert_eq!(verdict_byte(&fields), Some(16 + 6 * 101));
    let head = [
        b"GET / HTTP/1.1\r\n",
        &[&[b'A'; 1000][..], b":\r\n"].concat().repeat(40)[..],
    ];
    assert_eq!(verdict_byte(&head.concat()), Some(32 * 1024));
}

#[test]
fn limits_can_be_tightened() {
    let bytes = b"GET /abc HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    let default = HeadLimits::DEFAULT;
    let status = |limits| {
        parse_request(bytes, &mut HeadScan::new(), &limits)
            .map_or_else(|reject| reject.status.as_u16(), |_| StatusCode::OK.as_u16())
    };
    assert_eq!(
        status(HeadLimits {
            target_bytes_max: 4,
            ..default
        }),
        200
    );
    assert_eq!(
        status(HeadLimits {
            target_bytes_max: 3,
            ..default
        }),
        414
    );
    assert_eq!(
        status(HeadLimits {
            method_bytes_max: 3,
            ..default
        }),
        200
    );
    assert_eq!(
        status(HeadLimits {
            method_bytes_max: 2,
            ..default
        }),
        501
    );
    assert_eq!(
        status(HeadLimits {
            field_bytes_max: 7,
            ..default
        }),
        200
    );
    assert_eq!(
        status(HeadLimits {
            field_bytes_max: 6,
            ..default
        }),
        431
    );
    assert_eq!(
        status(HeadLimits {
            field_count_max: 2,
            ..default
        }),
        200
    );
    assert_eq!(
        status(HeadLimits {
            field_count_max: 1,
            ..default
        }),
        431
    );
    assert_eq!(
        status(HeadLimits {
            head_bytes_max: bytes.len(),
            ..default
        }),
        200
    );
    assert_eq!(
        status(HeadLimits {
            head_bytes_max: bytes.len() - 1,
            ..default
        }),
        431
    );
}

#[test]
fn printing_a_head_shows_no_credential() {
    let (head, _) = parsed(b"GET /?canary HTTP/1.1\r\nHost: h\r\nAuthorization: canary\r\n\r\n");
    let printed = format!("{head:?}");
    assert!(printed.contains("Authorization"), "{printed}");
    assert!(!printed.contains("canary"), "{printed}");
}

#[test]
fn the_writer_has_one_form() {
    let mut out = Vec::new();
    let mut writer = HeadWriter::new(&mut out);
    writer.request_line(Method::Post, "/base", "/v1/x", Some("a=b"));
    writer.field("Host", b"node:8000").content_length(42).end();
    assert_eq!(
        out.escape_ascii().to_string(),
        b"POST /base/v1/x?a=b HTTP/1.1\r\nHost: node:8000\r\nContent-Length: 42\r\n\r\n"
            .escape_ascii()
            .to_string()
    );
    let mut out = Vec::new();
    HeadWriter::new(&mut out)
        .status_line(StatusCode::TOO_MANY_REQUESTS)
        .chunked()
        .end();
    assert_eq!(
        out,
        b"HTTP/1.1 429 Too Many Requests\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let unregistered = StatusCode::from_u16(599).expect("in range");
    let mut out = Vec::new();
    HeadWriter::new(&mut out)
        .status_line(unregistered)
        .content_length(u64::MAX)
        .end();
    assert_eq!(
        out,
        b"HTTP/1.1 599 \r\nContent-Length: 18446744073709551615\r\n\r\n"
    );
    let reread = parse_response(
        &out,
        Method::Post,
        &mut HeadScan::new(),
        &HeadLimits::DEFAULT,
    );
    assert!(matches!(
        reread,
        Ok(Parsed::Complete {
            head: ResponseHead {
                body: ResponseBody::Fixed(u64::MAX),
                ..
            },
            ..
        })
    ));
}

#[test]
fn a_field_value_is_valid_only_if_it_is_read_back_as_it_is() {
    for valid in [&b""[..], b"a", b"a b\tc", b"\"\\\"", b"\xff\x80"] {
        assert!(is_valid_field_value(valid), "{}", valid.escape_ascii());
    }
    for invalid in [
        &b"\r"[..],
        b"\n",
        b"a\r\nB: c",
        b"\0",
        b"\x7f",
        b" a",
        b"a ",
        b"\ta",
        b"\x1b[",
    ] {
        assert!(!is_valid_field_value(invalid), "{}", invalid.escape_ascii());
    }
}

#[test]
fn a_chunk_size_line_is_upper_case_hexadecimal_without_leading_zeros() {
    for (len, line) in [
        (1, "1\r\n"),
        (9, "9\r\n"),
        (10, "A\r\n"),
        (16, "10\r\n"),
        (0x00C0_FFEE, "C0FFEE\r\n"),
        (usize::MAX, "FFFFFFFFFFFFFFFF\r\n"),
    ] {
        assert_eq!(chunk_size_line(len, &mut [0; 18]), line.as_bytes());
    }
}

#[test]
fn a_decoder_names_the_kind_of_every_byte() {
    let mut decoder = ChunkedDecoder::new();
    let mut rest = &b"5;x\r\nhello\r\n0\r\nA: b\r\n\r\nnext"[..];
    let mut pieces = Vec::new();
    while !decoder.is_finished() {
        let piece = decoder.decode(rest).expect("a valid body");
        let (run, tail) = rest.split_at(piece.len);
        pieces.push((piece.kind, run));
        rest = tail;
    }
    assert_eq!(
        pieces,
        [
            (PieceKind::Framing, &b"5"[..]),
            (PieceKind::Skip, b";x"),
            (PieceKind::Framing, b"\r\n"),
            (PieceKind::Data, b"hello"),
            (PieceKind::Framing, b"\r\n0\r\n"),
            (PieceKind::Skip, b"A: b\r\n"),
            (PieceKind::End, b"\r\n"),
        ]
    );
    assert_eq!(rest, b"next");
    assert_eq!(
        decoder.decode(rest),
        Ok(Piece {
            len: 0,
            kind: PieceKind::End
        })
    );
}

#[test]
fn a_decoder_stays_small() {
    assert!(size_of::<ChunkedDecoder>() <= 24);
    assert!(size_of::<HeadScan>() <= 32);
}

#[test]
fn a_name_that_only_begins_or_ends_like_a_dropped_one_is_forwarded() {
    for name in [
        "Hosts",
        "X-Stainless",
        "X-Forwarded",
        "X-Api-Keys",
        "TES",
        "Cookies",
        "",
    ] {
        assert!(forwards_to_node(name), "{name}");
    }
    for name in [
        "HOST",
        "X-STAINLESS-OS",
        "x_forwarded_for",
        "Te",
        "X_Api-Key",
        "x-stainless-",
    ] {
        assert!(!forwards_to_node(name), "{name}");
    }
    for name in [
        "Set-Cookie",
        "Server",
        "X-Request-Ids",
        "Host",
        "Retry-After",
    ] {
        assert!(forwards_to_client(name), "{name}");
    }
    for name in [
        "X-REQUEST-ID",
        "x-backpressure",
        "Keep-Alive",
        "Content-Length",
    ] {
        assert!(!forwards_to_client(name), "{name}");
    }
}

#[test]
fn a_name_is_known_in_any_case_and_by_nothing_but_its_letters() {
    for name in [
        "content-length",
        "x-request-id",
        "proxy-authentication-info",
        "te",
        "x-api-key",
    ] {
        assert!(
            !forwards_to_client(name) || !forwards_to_node(name),
            "{name}"
        );
        for at in 0..name.len() {
            for byte in 0..=u8::MAX {
                let mut other = name.as_bytes().to_vec();
                other[at] = byte;
                let folded: Vec<u8> = other
                    .iter()
                    .map(|byte| match byte {
                        b'_' => b'-',
                        _ => byte.to_ascii_lowercase(),
                    })
                    .collect();
                let is_known = folded == name.as_bytes();
                let travels = forwards_to_client(&other) && forwards_to_node(&other);
                assert_eq!(travels, !is_known, "{}", other.escape_ascii());
            }
        }
    }
}
