//! Our HTTP/1.1 head codec beside monoio-http's, on the same bytes: `cargo run --release
//! --manifest-path benches/codec/Cargo.toml`. Both stand on `httparse`, whose own time is shown too. The best of many short
//! rounds counts, the contenders taking turns.
//!
//! They do not do the same: ours checks the grammar and the meaning of every field strictly, decides the
//! framing and writes what travels on, borrowing from the bytes; monoio-http's builds an `http::HeaderMap`
//! of them and leaves the rest to later layers. monoio-http reads from a `BytesMut`, whose filling is
//! shown by itself and is in its time.
//!
//! Figures of an AMD EPYC, two cores shared with other work, in ns:
//!
//! | | ours | monoio-http 0.3.12 | httparse alone |
//! |---|---|---|---|
//! | request head, 17 fields | 627 | 1605 (12 of them filling) | 334 |
//! | response head, 4 fields | 156 | 446 | 119 |
//! | chunk of 196 bytes | 27 | 25 | |

use std::hint::black_box;
use std::time::Instant;

use bytes::BytesMut;
use llm_router::http1::{
    ChunkedDecoder, HeadLimits, HeadScan, Method, PieceKind, parse_request_onward,
    parse_response_onward,
};
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::{
    ChunkedBodyDecoder, RequestHeadDecoder, ResponseHeadDecoder,
};

/// One way of doing a piece of work; `true` if it went as meant.
type Work<'w> = (&'static str, Box<dyn FnMut() -> bool + 'w>);

fn main() {
    println!("{:<44}{:>10}", "", "ns");
    compare("request head of OpenAI's Python SDK", request_heads());
    compare("response head of uvicorn", response_heads());
    compare("chunk of 196 bytes", chunks());
}

fn request_heads() -> Vec<Work<'static>> {
    let mut lines = Vec::with_capacity(1024);
    let mut bytes = BytesMut::with_capacity(4096);
    let mut filled = BytesMut::with_capacity(4096);
    vec![
        (
            "ours, with the lines for the node",
            Box::new(move || {
                lines.clear();
                let mut scan = HeadScan::new();
                let head = black_box(REQUEST);
                parse_request_onward(head, &mut scan, &HeadLimits::DEFAULT, &mut lines).is_ok()
            }),
        ),
        (
            "monoio-http 0.3.12",
            Box::new(move || {
                fill(&mut bytes, REQUEST);
                let decoded = RequestHeadDecoder.decode(&mut bytes);
                matches!(black_box(decoded), Ok(Decoded::Some(_)))
            }),
        ),
        (
            "filling the BytesMut alone",
            Box::new(move || {
                fill(&mut filled, REQUEST);
                !filled.is_empty()
            }),
        ),
        (
            "httparse alone",
            Box::new(|| {
                let mut fields = [httparse::EMPTY_HEADER; 64];
                let mut request = httparse::Request::new(&mut fields);
                request.parse(black_box(REQUEST)).is_ok()
            }),
        ),
    ]
}

fn response_heads() -> Vec<Work<'static>> {
    let mut lines = Vec::with_capacity(1024);
    let mut bytes = BytesMut::with_capacity(4096);
    vec![
        (
            "ours, with the lines for the client",
            Box::new(move || {
                lines.clear();
                let mut scan = HeadScan::new();
                let head = black_box(RESPONSE);
                let limits = &HeadLimits::DEFAULT;
                parse_response_onward(head, Method::Post, &mut scan, limits, &mut lines).is_ok()
            }),
        ),
        (
            "monoio-http 0.3.12",
            Box::new(move || {
                fill(&mut bytes, RESPONSE);
                let decoded = ResponseHeadDecoder.decode(&mut bytes);
                matches!(black_box(decoded), Ok(Decoded::Some(_)))
            }),
        ),
        (
            "httparse alone",
            Box::new(|| {
                let mut fields = [httparse::EMPTY_HEADER; 64];
                let mut response = httparse::Response::new(&mut fields);
                response.parse(black_box(RESPONSE)).is_ok()
            }),
        ),
    ]
}

fn chunks() -> Vec<Work<'static>> {
    let mut chunk = b"c4\r\n".to_vec();
    chunk.extend_from_slice(&[b'x'; 0xc4]);
    chunk.extend_from_slice(b"\r\n");
    let same = chunk.clone();
    let mut ours = ChunkedDecoder::new();
    let mut theirs = ChunkedBodyDecoder::default();
    let mut bytes = BytesMut::with_capacity(4096);
    vec![
        (
            "ours",
            Box::new(move || {
                let mut rest = black_box(&*chunk);
                let mut data = 0;
                while let Ok(piece) = ours.decode(rest) {
                    if piece.kind == PieceKind::Data {
                        data += piece.len;
                    }
                    rest = rest.get(piece.len..).unwrap_or_default();
                    if rest.is_empty() {
                        break;
                    }
                }
                data == 0xc4
            }),
        ),
        (
            "monoio-http 0.3.12",
            Box::new(move || {
                fill(&mut bytes, &same);
                let decoded = theirs.decode(&mut bytes);
                matches!(black_box(decoded), Ok(Decoded::Some(Some(data))) if data.len() == 0xc4)
            }),
        ),
    ]
}

fn fill(bytes: &mut BytesMut, with: &[u8]) {
    bytes.clear();
    bytes.extend_from_slice(black_box(with));
}

/// Lets the contenders take turns and tells the best round of each.
fn compare(title: &str, mut contenders: Vec<Work<'_>>) {
    let mut best = vec![f64::INFINITY; contenders.len()];
    for _ in 0..ROUNDS {
        for ((name, work), best) in contenders.iter_mut().zip(&mut best) {
            let began = Instant::now();
            for _ in 0..TURNS {
                assert!(work(), "{name} does what it is to do");
            }
            *best = best.min(began.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS));
        }
    }
    println!("{title}");
    for ((name, _), best) in contenders.iter().zip(best) {
        println!("  {name:<42}{best:>10.0}");
    }
}

const ROUNDS: usize = 100;
const TURNS: u32 = 1000;
/// As OpenAI's Python SDK sends it.
const REQUEST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\n\
    Host: router.example:8080\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Connection: keep-alive\r\n\
    Accept: application/json\r\n\
    Content-Type: application/json\r\n\
    User-Agent: OpenAI/Python 3.52.0\r\n\
    X-Stainless-Lang: python\r\n\
    X-Stainless-Package-Version: 3.52.0\r\n\
    X-Stainless-OS: Linux\r\n\
    X-Stainless-Arch: x64\r\n\
    X-Stainless-Runtime: CPython\r\n\
    X-Stainless-Runtime-Version: 3.11.7\r\n\
    Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n\
    X-Stainless-Async: false\r\n\
    x-stainless-retry-count: 0\r\n\
    x-stainless-read-timeout: 600\r\n\
    Content-Length: 94\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    date: Sat, 21 Nov 2026 10:00:00 GMT\r\n\
    server: uvicorn\r\n\
    content-length: 512\r\n\
    content-type: application/json\r\n\r\n";
