//! Requests that must be refused, as data: an id, the bytes, the one verdict. The ids are those of the
//! project's conformance list; a reader needs RFC 9110 and 9112 only.
//!
//! Every row is refused before a node hears of it, with this status and `Connection: close`, and
//! nothing behind it on the connection is looked at.

/// One refused request.
pub struct Case {
    pub id: &'static str,
    pub bytes: Vec<u8>,
    pub status: u16,
    pub code: &'static str,
}

/// Everything that is refused with the end of the connection.
pub fn refused() -> Vec<Case> {
    [framing(), chunks(), request_lines(), fields(), limits()]
        .into_iter()
        .flatten()
        .collect()
}

/// A chat request with these field lines (CRLF between them, none at the end) and body.
pub fn with_fields(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\n",
        fields.as_ref(),
        b"\r\n\r\n",
        body.as_ref(),
    ]
    .concat()
}

/// A chunked chat request whose body is exactly these bytes.
pub fn with_chunks(body: impl AsRef<[u8]>) -> Vec<u8> {
    with_fields("Transfer-Encoding: chunked", body)
}

/// `{"model":"m"}`, 13 bytes.
pub const SMALL_BODY: &str = r#"{"model":"m"}"#;

const SMUGGLED: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}";

fn bad(id: &'static str, bytes: Vec<u8>) -> Case {
    Case {
        id,
        bytes,
        status: 400,
        code: "bad_request",
    }
}

fn other(id: &'static str, status: u16, code: &'static str, bytes: Vec<u8>) -> Case {
    Case {
        id,
        bytes,
        status,
        code,
    }
}

fn framing() -> Vec<Case> {
    let chunked = format!("d\r\n{SMALL_BODY}\r\n0\r\n\r\n");
    let length = |id, value: &str| {
        bad(
            id,
            with_fields(format!("Content-Length: {value}"), SMALL_BODY),
        )
    };
    let coding = |id, value: &[u8]| {
        bad(
            id,
            with_fields([b"Transfer-Encoding: ", value].concat(), &chunked),
        )
    };
    let fields = |id, fields: &str| bad(id, with_fields(fields, SMALL_BODY));
    vec![
        bad(
            "F01 Content-Length, then Transfer-Encoding",
            with_fields(
                "Content-Length: 6\r\nTransfer-Encoding: chunked",
                format!("0\r\n\r\n{SMUGGLED}"),
            ),
        ),
        bad(
            "F02 Transfer-Encoding, then Content-Length",
            with_fields(
                "Transfer-Encoding: chunked\r\nContent-Length: 13",
                &chunked,
            ),
        ),
        fields("F03 two lengths that differ", "Content-Length: 13\r\nContent-Length: 12"),
        fields("F04 two lengths that agree", "Content-Length: 13\r\nContent-Length: 13"),
        length("F05 a list of lengths", "13, 13"),
        length("F06 a length with a comma", "13,"),
        length("F07 a plus sign", "+13"),
        length("F08 a minus sign", "-13"),
        length("F09 a hexadecimal length", "0xd"),
        length("F10 a length with a fraction", "13.0"),
        length("F11 an empty length", ""),
        length("F12 a length with letters behind it", "13abc"),
        length("F13a a length of 2^64", "18446744073709551616"),
        length("F13b a length of thirty nines", "999999999999999999999999999999"),
        length("F14 a length with a space within", "1 3"),
        fields("F17a a space before the colon", "Content-Length : 13"),
        fields("F17b a tab before the colon", "Content-Length\t: 13"),
        bad(
            "F19 a space before the first field name",
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\n Host: router\r\nContent-Length: 13\r\n\r\n{SMALL_BODY}"
            )
            .into(),
        ),
        fields("F20 a folded field", "X-A: b\r\n c\r\nContent-Length: 13"),
        coding("F21a chunked twice in one field", b"chunked, chunked"),
        bad(
            "F21b chunked in two fields",
            with_fields(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                &chunked,
            ),
        ),
        other(
            "F23a gzip before chunked",
            501,
            "not_implemented",
            with_fields("Transfer-Encoding: gzip, chunked", &chunked),
        ),
        other(
            "F23b gzip and chunked in two fields",
            501,
            "not_implemented",
            with_fields(
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
                &chunked,
            ),
        ),
        coding("F24 chunked before gzip", b"chunked, gzip"),
        coding("F25a identity", b"identity"),
        coding("F25b gzip alone", b"gzip"),
        coding("F27a a vertical tab before chunked", b"\x0bchunked"),
        coding("F27b a vertical tab behind chunked", b"chunked\x0b"),
        coding("F27c a no-break space before chunked", b"\xa0chunked"),
        coding("F27d 0x85 behind chunked", b"chunked\x85"),
        coding("F27e 0xff behind chunked", b"chunked\xff"),
        coding("F27f a NUL behind chunked", b"chunked\0"),
        coding("F29a chunked in double quotes", b"\"chunked\""),
        coding("F29b chunked in single quotes", b"'chunked'"),
        coding("F31a an empty coding", b""),
        coding("F31b an empty member", b"chunked,"),
        coding("F32 a longer word", b"chunkedfoo"),
        fields("F33a Content_Length", "Content_Length: 13"),
        bad(
            "F33b Transfer_Encoding",
            with_fields("Transfer_Encoding: chunked\r\nContent-Length: 13", SMALL_BODY),
        ),
        coding("F37 a parameter", b"chunked;q=1"),
        bad(
            "F38 Transfer-Encoding in HTTP/1.0",
            format!(
                "POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"
            )
            .into(),
        ),
    ]
}

fn chunks() -> Vec<Case> {
    let chunked = |id, body: &[u8]| bad(id, with_chunks(body));
    let rest = "{\"model\":\"m\"}\r\n0\r\n\r\n";
    let sized = |id, size_line: &str| bad(id, with_chunks(format!("{size_line}{rest}")));
    let large_trailers = format!("0\r\nX-A: {}\r\n\r\n", "a".repeat(9 * 1024));
    let many_trailers = format!("0\r\n{}\r\n", "X-A: b\r\n".repeat(33));
    vec![
        sized("C01 a size with 0x", "0xd\r\n"),
        sized("C02 a size with a sign", "+d\r\n"),
        sized("C03a a space behind the size", "d \r\n"),
        sized("C03b a space before the size", " d\r\n"),
        sized("C05 an empty size line", "\r\n"),
        sized("C06 an extension without a name", "d;\r\n"),
        sized("C09a a size line ended by LF alone", "d\n"),
        sized("C09b a size line ended by CR alone", "d\r"),
        chunked(
            "C11a data longer than its size",
            b"5\r\nabcdefg\r\n0\r\n\r\n",
        ),
        chunked("C11b data ended by LF alone", b"5\r\nabcde\n0\r\n\r\n"),
        sized("C13 a size of 17 digits", "fffffffffffffffff\r\n"),
        sized("C14 a size of 2^64", "10000000000000000\r\n"),
        sized("C17a a size with a letter beyond f", "dg\r\n"),
        sized("C17b a size with an underscore", "d_\r\n"),
        sized("C17c a size with a word behind it", "dthese-bytes\r\n"),
        sized("C18 a negative size", "-d\r\n"),
        chunked(
            "C19 a request line as trailer",
            b"0\r\nX:POST /admin HTTP/1.1\r\n\r\n",
        ),
        chunked("C20 a last chunk ended by LF", b"0\n\n"),
        chunked("C21a trailers of 9 KiB", large_trailers.as_bytes()),
        chunked("C21b 33 trailers", many_trailers.as_bytes()),
        sized(
            "C22 an extension of 300 bytes",
            &format!("d;a={}\r\n", "b".repeat(300)),
        ),
        bad(
            "C23 a bad chunk, then a valid request",
            with_chunks(format!("zz\r\n{SMUGGLED}")),
        ),
    ]
}

fn request_lines() -> Vec<Case> {
    let line = |id, line: &[u8]| bad(id, [line, b"\r\nHost: router\r\n\r\n"].concat());
    let other_line = |id, status, code, line: &str| {
        other(
            id,
            status,
            code,
            format!("{line}\r\nHost: router\r\n\r\n").into(),
        )
    };
    vec![
        line("L01 no version", b"GET /v1/models"),
        line("L02 two spaces", b"GET  /v1/models HTTP/1.1"),
        line("L03a tabs", b"GET\t/v1/models\tHTTP/1.1"),
        line("L03b a space at the end", b"GET /v1/models HTTP/1.1 "),
        line("L03c a space at the beginning", b" GET /v1/models HTTP/1.1"),
        line("L04a a version in lower case", b"GET /v1/models http/1.1"),
        line(
            "L04b a version with more digits",
            b"GET /v1/models HTTP/1.10",
        ),
        other(
            "L05a the preface of HTTP/2",
            505,
            "http_version_not_supported",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ),
        other_line(
            "L05b HTTP/1.2",
            505,
            "http_version_not_supported",
            "GET / HTTP/1.2",
        ),
        other_line(
            "L05c HTTP/0.9",
            505,
            "http_version_not_supported",
            "GET / HTTP/0.9",
        ),
        line("L07 CR within the line", b"GET /v1/\rmodels HTTP/1.1"),
        bad(
            "L08 LF ends the line",
            b"GET /v1/models HTTP/1.1\nHost: router\r\n\r\n".to_vec(),
        ),
        line(
            "L09a bytes above 0x7f in the target",
            b"GET /v1/m\xc3\xb6dels HTTP/1.1",
        ),
        line("L09b a NUL in the target", b"GET /v1/\0 HTTP/1.1"),
        line(
            "L09c a fragment in the target",
            b"GET /v1/models#a HTTP/1.1",
        ),
        line("L09d half a percent escape", b"GET /v1/%2 HTTP/1.1"),
        line("L10 a target without a slash", b"GET v1/models HTTP/1.1"),
        line(
            "L12 an absolute target for another host",
            b"GET http://other/v1/models HTTP/1.1",
        ),
        other_line(
            "L13 CONNECT",
            405,
            "method_not_allowed",
            "CONNECT router:443 HTTP/1.1",
        ),
        line("L14 an asterisk with GET", b"GET * HTTP/1.1"),
        other_line(
            "L15a a method in lower case",
            501,
            "not_implemented",
            "post /v1/models HTTP/1.1",
        ),
        other_line(
            "L15b TRACE",
            501,
            "not_implemented",
            "TRACE /v1/models HTTP/1.1",
        ),
        other_line(
            "L16 a method of 17 bytes",
            501,
            "not_implemented",
            "ABCDEFGHIJKLMNOPQ /v1/models HTTP/1.1",
        ),
        line(
            "L21 a target at another address",
            b"GET http://169.254.169.254/ HTTP/1.1",
        ),
        bad(
            "L22 two empty lines first",
            b"\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: router\r\n\r\n".to_vec(),
        ),
        bad(
            "L23 TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
    ]
}

fn fields() -> Vec<Case> {
    let host = |id, host: &[u8]| {
        bad(
            id,
            [b"GET /v1/models HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat(),
        )
    };
    let field = |id, line: &[u8]| {
        bad(
            id,
            [
                b"GET /v1/models HTTP/1.1\r\nHost: router\r\n",
                line,
                b"\r\n\r\n",
            ]
            .concat(),
        )
    };
    vec![
        bad("H01 no Host", b"GET /v1/models HTTP/1.1\r\n\r\n".to_vec()),
        bad(
            "H02 two Hosts",
            b"GET /v1/models HTTP/1.1\r\nHost: router\r\nHost: router\r\n\r\n".to_vec(),
        ),
        host("H03a a Host with a space", b"a b"),
        host("H03b a Host with a user", b"u@h"),
        host("H03c a port of 65536", b"h:65536"),
        host("H03d a Host with a path", b"h/x"),
        host("H03e a Host with a NUL", b"h\0"),
        host("H03f an empty Host", b""),
        host("H03g half an IPv6 address", b"[::1"),
        field("H07 CR within a value", b"X-A: b\rc"),
        field("H08 a NUL within a value", b"X-A: b\0c"),
        field("H09 0x01 within a value", b"X-A: b\x01c"),
        field("H10 DEL within a value", b"X-A: b\x7fc"),
        field("H11a a space within a name", b"X A: b"),
        field("H11b an at sign within a name", b"X@A: b"),
        field("H11c a parenthesis within a name", b"X(A: b"),
        field("H11d DEL within a name", b"X\x7fA: b"),
        field("H11e letters beyond ASCII in a name", b"X-\xc3\xa4: b"),
        field("H12 LF ends a field", b"X-A: b\nX-C: d"),
        field("H13 a line without a colon", b"X-A"),
        field("H15 a colon alone", b":"),
        field("H16 a value without a name", b": b"),
        field("H18 a bad Connection option", b"Connection: a b"),
        field(
            "H19a two Authorization",
            b"Authorization: Bearer a\r\nAuthorization: Bearer b",
        ),
        field("H19b two X-API-Key", b"X-API-Key: a\r\nX-API-Key: b"),
        bad(
            "H20 two Content-Type",
            with_fields(
                "Content-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 13",
                SMALL_BODY,
            ),
        ),
        other(
            "H25 an unknown expectation",
            417,
            "expectation_failed",
            with_fields("Expect: banana\r\nContent-Length: 13", SMALL_BODY),
        ),
    ]
}

/// Just beyond each limit of a head.
fn limits() -> Vec<Case> {
    let too_large = "request_header_fields_too_large";
    let get =
        |fields: &str| format!("GET /v1/models HTTP/1.1\r\nHost: router\r\n{fields}\r\n").into();
    vec![
        other(
            "L17 a target of 8 KiB and one byte",
            414,
            "uri_too_long",
            format!(
                "GET {} HTTP/1.1\r\nHost: router\r\n\r\n",
                target_of(8 * 1024 + 1)
            )
            .into(),
        ),
        other(
            "H17 101 fields",
            431,
            too_large,
            get(&"X-A: b\r\n".repeat(100)),
        ),
        other(
            "H22 a field of 8 KiB and one byte",
            431,
            too_large,
            get(&format!("X-A: {}\r\n", "a".repeat(8 * 1024 + 1 - 5))),
        ),
        other(
            "H24 a head of 32 KiB and one byte",
            431,
            too_large,
            head_of(32 * 1024 + 1),
        ),
    ]
}

/// A request target of exactly this many bytes that leads nowhere.
pub fn target_of(bytes: usize) -> String {
    format!("/{}", "a".repeat(bytes - 1))
}

/// A GET of `/v1/models` whose head has exactly this many bytes, at least 8 KiB.
pub fn head_of(bytes: usize) -> Vec<u8> {
    let mut head = b"GET /v1/models HTTP/1.1\r\nHost: router\r\n".to_vec();
    let line = |length: usize| format!("X-Filling: {}\r\n", "a".repeat(length - 13));
    while bytes - head.len() - 2 > 8000 {
        head.extend_from_slice(line(4000).as_bytes());
    }
    let left = bytes - head.len() - 2;
    head.extend_from_slice(line(left).as_bytes());
    head.extend_from_slice(b"\r\n");
    assert_eq!(head.len(), bytes);
    head
}
