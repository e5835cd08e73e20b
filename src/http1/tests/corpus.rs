//! Runs the corpus in `tests/data/http1`: each case whole, in two parts at every position, and byte
//! by byte; each must give the one verdict the file states.

use std::fmt::Write as _;

use http::StatusCode;

use super::super::*;

/// One case of a corpus file.
#[derive(Default)]
struct Case {
    title: String,
    bytes: Vec<u8>,
    /// `(mark, text)` of the lines that are not bytes.
    expected: Vec<(char, String)>,
}

impl Case {
    fn expects(&self, mark: char) -> Vec<&str> {
        self.expected
            .iter()
            .filter(|(found, _)| *found == mark)
            .map(|(_, text)| &**text)
            .collect()
    }

    /// Where to cut long inputs: everywhere near both ends and near limits, else sparsely.
    fn cuts(&self) -> impl Iterator<Item = usize> {
        let len = self.bytes.len();
        let stride = 1 + len / 400;
        (0..=len).filter(move |cut| cut % stride == 0 || *cut < 40 || len - cut < 40)
    }
}

#[test]
fn every_request_of_the_corpus_has_its_one_verdict() {
    let template = ("POST /v1/x HTTP/1.1\r\nHost: h\r\n", "\r\n");
    let cases = read_corpus(
        include_str!("../../../tests/data/http1/requests.txt"),
        template,
    );
    assert!(cases.len() > 200, "the whole file was read");
    for case in &cases {
        let whole = request_verdict(&[&case.bytes]);
        assert_eq!(whole.0, case.expects('=')[0], "{}", case.title);
        if let [first, ..] = case.expects('+')[..] {
            let wanted = if first == "none" {
                String::new()
            } else {
                lines(&case.expects('+'))
            };
            assert_eq!(whole.1, wanted, "{}", case.title);
        }
        for cut in case.cuts() {
            let (head, tail) = case.bytes.split_at(cut);
            assert_eq!(
                request_verdict(&[head, tail]),
                whole,
                "{} cut at {cut}",
                case.title
            );
        }
        let singles: Vec<&[u8]> = case.bytes.chunks(1).collect();
        assert_eq!(
            request_verdict(&singles),
            whole,
            "{} byte by byte",
            case.title
        );
    }
}

#[test]
fn every_response_of_the_corpus_has_its_one_verdict() {
    let template = ("HTTP/1.1 200 OK\r\n", "\r\n");
    let cases = read_corpus(
        include_str!("../../../tests/data/http1/responses.txt"),
        template,
    );
    assert!(cases.len() > 60, "the whole file was read");
    for case in &cases {
        let method = match case.expects('?')[..] {
            [] => Method::Post,
            ["HEAD"] => Method::Head,
            _ => panic!("{}: a method", case.title),
        };
        let whole = response_verdict(method, &[&case.bytes]);
        assert_eq!(whole.0, case.expects('=')[0], "{}", case.title);
        if let [first, ..] = case.expects('+')[..] {
            let wanted = if first == "none" {
                String::new()
            } else {
                lines(&case.expects('+'))
            };
            assert_eq!(whole.1, wanted, "{}", case.title);
        }
        for cut in case.cuts() {
            let (head, tail) = case.bytes.split_at(cut);
            assert_eq!(
                response_verdict(method, &[head, tail]),
                whole,
                "{} {cut}",
                case.title
            );
        }
        let singles: Vec<&[u8]> = case.bytes.chunks(1).collect();
        assert_eq!(
            response_verdict(method, &singles),
            whole,
            "{} byte by byte",
            case.title
        );
    }
}

#[test]
fn every_chunked_body_of_the_corpus_has_its_one_outcome() {
    let cases = read_corpus(
        include_str!("../../../tests/data/http1/chunked.txt"),
        ("", ""),
    );
    assert!(cases.len() > 60, "the whole file was read");
    for case in &cases {
        for passing in [Passing::Data, Passing::Chunks] {
            let whole = decode_in_parts(&[&case.bytes], passing);
            match (&whole.verdict, passing) {
                (Err(reason), _) => assert_eq!(case.expects('='), [*reason], "{}", case.title),
                (Ok(_), Passing::Data) => {
                    assert_eq!(whole.passed, raw(&case.expects('d')), "{}", case.title);
                }
                (Ok(_), Passing::Chunks) => {
                    assert_eq!(whole.passed, raw(&case.expects('w')), "{}", case.title);
                }
            }
            if let Ok(finished) = whole.verdict {
                assert!(
                    finished || case.title.starts_with("C24 "),
                    "{} ends",
                    case.title
                );
                let rest = &case.bytes[whole.consumed..];
                assert_eq!(rest, raw(&case.expects('r')), "{}", case.title);
            }
            for cut in case.cuts() {
                let (head, tail) = case.bytes.split_at(cut);
                let parts = decode_in_parts(&[head, tail], passing);
                assert_eq!(parts, whole, "{} cut at {cut}", case.title);
            }
            let singles: Vec<&[u8]> = case.bytes.chunks(1).collect();
            assert_eq!(
                decode_in_parts(&singles, passing),
                whole,
                "{} byte by byte",
                case.title
            );
        }
    }
}

/// Feeds a head in parts. The verdict, in the notation of the corpus, and the fields that go on.
pub(super) fn request_verdict(parts: &[&[u8]]) -> (String, String) {
    let (mut scan, mut received) = (HeadScan::new(), Vec::new());
    for part in parts {
        received.extend_from_slice(part);
        let mut lines = b"before".to_vec();
        let parsed = parse_request_onward(&received, &mut scan, &HeadLimits::DEFAULT, &mut lines);
        if !matches!(parsed, Ok(Parsed::Complete { .. })) {
            assert_eq!(
                lines, b"before",
                "nothing is written before a head is complete"
            );
        }
        match parsed {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete { head, .. }) => {
                assert_eq!(lines, written(b"before", None, head.end_to_end_fields()));
                return (describe_request(&head), render(head.end_to_end_fields()));
            }
            Err(reject) => {
                assert!(reject.close);
                let Reject {
                    status,
                    code,
                    reason,
                    ..
                } = reject;
                return (
                    format!("{} {code}: {reason}", status.as_u16()),
                    String::new(),
                );
            }
        }
    }
    ("partial".to_owned(), String::new())
}

/// What travels on, as the walk over the head should have written it.
fn written(before: &[u8], status: Option<StatusCode>, fields: EndToEndFields<'_>) -> Vec<u8> {
    let mut lines = before.to_vec();
    let mut writer = HeadWriter::new(&mut lines);
    if let Some(status) = status {
        writer.status_line(status);
    }
    for (name, value) in fields {
        writer.field(name, value);
    }
    lines
}

fn describe_request(head: &RequestHead<'_>) -> String {
    let mut text = format!("{} {}", head.method.as_str(), head.path);
    if let Some(query) = head.query {
        let _ = write!(text, "?{query}");
    }
    text.push_str(if head.version == Version::Http11 {
        " 1.1"
    } else {
        " 1.0"
    });
    let _ = match head.body {
        BodyLength::Empty => write!(text, " empty"),
        BodyLength::Fixed(bytes) => write!(text, " fixed:{bytes}"),
        BodyLength::Chunked => write!(text, " chunked"),
    };
    text.push_str(if head.keep_alive {
        " keep-alive"
    } else {
        " close"
    });
    text.push_str(if head.expect_continue { " expect" } else { "" });
    text
}

pub(super) fn response_verdict(method: Method, parts: &[&[u8]]) -> (String, String) {
    let (mut scan, mut received) = (HeadScan::new(), Vec::new());
    for part in parts {
        received.extend_from_slice(part);
        let mut lines = b"before".to_vec();
        let limits = &HeadLimits::DEFAULT;
        let parsed = parse_response_onward(&received, method, &mut scan, limits, &mut lines);
        if !matches!(parsed, Ok(Parsed::Complete { .. })) {
            assert_eq!(
                lines, b"before",
                "nothing is written before a head is complete"
            );
        }
        match parsed {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete { head, .. }) => {
                let fields = head.end_to_end_fields();
                assert_eq!(lines, written(b"before", Some(head.status), fields));
                return (describe_response(&head), render(head.end_to_end_fields()));
            }
            Err(bad) => return (format!("bad: {}", bad.reason), String::new()),
        }
    }
    ("partial".to_owned(), String::new())
}

fn describe_response(head: &ResponseHead<'_>) -> String {
    let mut text = head.status.as_str().to_owned();
    text.push_str(if head.version == Version::Http11 {
        " 1.1"
    } else {
        " 1.0"
    });
    let _ = match head.body {
        ResponseBody::Empty => write!(text, " empty"),
        ResponseBody::Fixed(bytes) => write!(text, " fixed:{bytes}"),
        ResponseBody::Chunked => write!(text, " chunked"),
        ResponseBody::UntilClose => write!(text, " until-close"),
    };
    text.push_str(if head.keep_alive {
        " keep-alive"
    } else {
        " close"
    });
    text.push_str(if head.interim { " interim" } else { "" });
    text
}

/// What came out of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) passed: Vec<u8>,
    pub(super) consumed: usize,
    /// Whether the body ended, or why it was refused.
    pub(super) verdict: Result<bool, &'static str>,
}

pub(super) fn decode_in_parts(parts: &[&[u8]], passing: Passing) -> Decoded {
    let mut decoder = ChunkedDecoder::new();
    let mut decoded = Decoded {
        passed: Vec::new(),
        consumed: 0,
        verdict: Ok(false),
    };
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() && !decoder.is_finished() {
            match decoder.forward_range(rest, passing) {
                Ok(step) => {
                    assert!(step.consumed > 0, "every step makes progress");
                    assert!(step.consumed >= step.forward.end);
                    assert_eq!(step.finished, decoder.is_finished());
                    decoded
                        .passed
                        .extend_from_slice(&rest[step.forward.clone()]);
                    decoded.consumed += step.consumed;
                    rest = &rest[step.consumed..];
                }
                Err(error) => {
                    decoded.verdict = Err(error.reason);
                    return decoded;
                }
            }
        }
    }
    decoded.verdict = Ok(decoder.is_finished());
    decoded
}

fn render<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let fields: Vec<String> = fields
        .map(|(name, value)| {
            format!(
                "{}: {}",
                String::from_utf8_lossy(name),
                value.escape_ascii()
            )
        })
        .collect();
    fields.join("\n")
}

/// Expected fields in the form of [`render`].
fn lines(expected: &[&str]) -> String {
    let fields: Vec<String> = expected
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(": ").expect("a field");
            format!("{name}: {}", unescape(value).escape_ascii())
        })
        .collect();
    fields.join("\n")
}

fn raw(expected: &[&str]) -> Vec<u8> {
    expected.iter().flat_map(|text| unescape(text)).collect()
}

fn read_corpus(text: &str, (before, after): (&str, &str)) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_template = false;
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let Some(line) = line.strip_prefix("  ") else {
            cases.push(Case {
                title: line.to_owned(),
                ..Case::default()
            });
            in_template = false;
            continue;
        };
        let case = cases.last_mut().expect("a title comes first");
        let (mark, text) = line.split_at(1);
        let text = text.strip_prefix(' ').unwrap_or(text);
        if in_template && mark != "%" {
            case.bytes.extend_from_slice(after.as_bytes());
            in_template = false;
        }
        match mark {
            ">" => case
                .bytes
                .extend([unescape(text), b"\r\n".to_vec()].concat()),
            "|" => case.bytes.extend(unescape(text)),
            "%" => {
                if !in_template {
                    case.bytes.extend_from_slice(before.as_bytes());
                    in_template = true;
                }
                case.bytes
                    .extend([unescape(text), b"\r\n".to_vec()].concat());
            }
            _ => {
                // Verdicts may use the repetition notation too (long targets).
                let text = match mark {
                    "=" => String::from_utf8(unescape(text)).expect("text"),
                    _ => text.to_owned(),
                };
                case.expected
                    .push((mark.chars().next().expect("a mark"), text));
            }
        }
    }
    cases
}

/// `\r \n \t \0 \\ \xNN`, and `{text*N}` for N repetitions, which may be nested.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let (code, tail) = rest.split_at(1);
                rest = tail;
                match code {
                    "r" => bytes.push(b'\r'),
                    "n" => bytes.push(b'\n'),
                    "t" => bytes.push(b'\t'),
                    "0" => bytes.push(0),
                    "\\" => bytes.push(b'\\'),
                    "x" => {
                        let (digits, tail) = rest.split_at(2);
                        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                        rest = tail;
                    }
                    _ => panic!("unknown escape \\{code}"),
                }
            }
            '{' => {
                let end = closing_brace(rest);
                let (pattern, count) = rest[..end].rsplit_once('*').expect("{text*N}");
                bytes.extend(unescape(pattern).repeat(count.parse().expect("a number")));
                rest = &rest[end + 1..];
            }
            _ => bytes.extend(first.to_string().bytes()),
        }
    }
    bytes
}

fn closing_brace(text: &str) -> usize {
    let mut depth = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("no closing brace in {text}");
}
