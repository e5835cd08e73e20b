//! A content type, a line feed and a form: no panic, and a spliced form reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_router::openai::{BodyKind, Splice, multipart};

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
        return;
    };
    let (content_type, body) = (&input[..end], &input[end + 1..]);
    let Ok(content_type) = std::str::from_utf8(content_type) else {
        return;
    };
    let Ok(seen) = multipart::peek(content_type, body) else {
        return;
    };
    assert!(!seen.model.is_empty() && seen.model.len() <= 256);
    assert_eq!(&body[seen.model_range.clone()], seen.model.as_bytes());
    let splice = Splice::new(body, seen.model_range.clone(), BodyKind::Multipart, "other").unwrap();
    let spliced = splice.to_vec();
    let again = multipart::peek(content_type, &spliced).unwrap();
    assert_eq!((again.model.as_ref(), again.stream), ("other", seen.stream));
    assert_eq!(again.model_range.start, seen.model_range.start);
});
