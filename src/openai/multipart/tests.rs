//! The form reader on what SDKs send and on forms that could be split in two ways.

use proptest::prelude::*;

use super::{PART_HEAD_BYTES_MAX, PARTS_MAX, peek};
use crate::openai::PeekError;

const TYPE: &str = "multipart/form-data; boundary=b0";

fn code(content_type: &str, body: &[u8]) -> &'static str {
    match peek(content_type, body) {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}

fn field(name: &str, value: &str) -> String {
    format!("--b0\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn form(parts: &[String]) -> Vec<u8> {
    format!("{}--b0--\r\n", parts.concat()).into_bytes()
}

/// One part with this head, followed by a good model.
fn code_of_head(head: &str) -> &'static str {
    let part = format!("--b0\r\n{head}\r\n\r\nx\r\n");
    code(TYPE, &form(&[part, field("model", "m")]))
}

#[test]
fn a_transcription_as_sdks_send_it_is_read() {
    let mut body = concat!(
        "--b0\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n",
        "Content-Type: audio/mpeg\r\n\r\n",
    )
    .as_bytes()
    .to_vec();
    body.extend_from_slice(b"\xff\xfb\x00--b0\r\n\r\n--b\r\n--\r\n");
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(&form(&[
        field("model", "whisper-1"),
        field("stream", "True"),
    ]));
    let seen = peek(TYPE, &body).unwrap();
    assert_eq!((seen.model.as_ref(), seen.stream), ("whisper-1", true));
    assert_eq!(&body[seen.model_range], b"whisper-1");
}

#[test]
fn boundaries_are_tokens_or_quoted() {
    for (content_type, boundary) in [
        ("multipart/form-data; boundary=b0", "b0"),
        (
            "Multipart/Form-Data;charset=utf-8 ;\tBOUNDARY=\"b0\" ; x=\"y;z\"",
            "b0",
        ),
        (
            "multipart/form-data; boundary=\"a b:=?/(),'+_-.\"",
            "a b:=?/(),'+_-.",
        ),
        ("multipart/form-data; boundary=\"a\\b\"", "ab"),
        (
            "multipart/form-data; boundary=----WebKitFormBoundaryX;",
            "----WebKitFormBoundaryX",
        ),
    ] {
        let body = String::from_utf8(form(&[field("model", "m")])).unwrap();
        let body = body.replace("b0", boundary);
        assert_eq!(code(content_type, body.as_bytes()), "ok", "{content_type}");
    }
    let longest = "b".repeat(70);
    let body = String::from_utf8(form(&[field("model", "m")]))
        .unwrap()
        .replace("b0", &longest);
    assert_eq!(
        code(
            &format!("multipart/form-data; boundary={longest}"),
            body.as_bytes()
        ),
        "ok"
    );
}

#[test]
fn bad_content_types_are_refused() {
    let body = form(&[field("model", "m")]);
    let too_long = format!("multipart/form-data; boundary={}", "b".repeat(71));
    for content_type in [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/mixed; boundary=b0",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"\"",
        "multipart/form-data; boundary=\"b0",
        "multipart/form-data; boundary=\"b0 \"",
        "multipart/form-data; boundary=b0; boundary=b0",
        "multipart/form-data; boundary=b 0",
        "multipart/form-data; boundary=b:0",
        "multipart/form-data; boundary=\"b\u{e9}\"",
        "multipart/form-data; boundary=\"b\r\"",
        "multipart/form-data; boundary = b0",
        "multipart/form-data; =b0",
        "multipart/form-data; boundary=b0 x",
        &too_long,
        "multipart/form-data boundary=b0",
        "multipart/form-data; x; boundary=b0",
    ] {
        assert_eq!(
            code(content_type, &body),
            "invalid_multipart",
            "{content_type}"
        );
    }
}

#[test]
fn an_empty_first_line_and_padding_are_ignored() {
    let part = "Content-Disposition: form-data; name=\"model\"\r\n\r\nm";
    for body in [
        format!("\r\n--b0 \t\r\n{part}\r\n--b0-- \r\n"),
        format!("--b0\r\n{part}\r\n--b0--"),
    ] {
        assert_eq!(peek(TYPE, body.as_bytes()).unwrap().model, "m", "{body}");
    }
}

#[test]
fn broken_framing_is_refused() {
    let part = "Content-Disposition: form-data; name=\"model\"\r\n\r\nm";
    for body in [
        String::new(),
        "--b0".to_owned(),
        "--b0\r\n".to_owned(),
        "--b0-".to_owned(),
        format!("{part}\r\n--b0--"),
        format!("preamble\r\n--b0\r\n{part}\r\n--b0--\r\n"),
        format!("--b0\r\n{part}\r\n--b0--\r\nepilogue"),
        format!("--b0\r\n{part}\r\n--b0--\r\n--b0\r\n"),
        format!("\n--b0\r\n{part}\r\n--b0--\r\n"),
        format!("--b0\r\n{part}"),
        format!("--b0\r\n{part}\r\n--b0"),
        format!("--b0\r\n{part}\r\n--b0\r\n"),
        format!("--b0\r\n{part}\r\n--b0-\r\n"),
        format!("--b0\r\n{part}\r\n--b0--x"),
        format!("--b0\r\n{part}\n--b0--\r\n"),
        format!("--b0\n{part}\r\n--b0--\r\n"),
        format!("--b0x\r\n{part}\r\n--b0--\r\n"),
        format!("--b0\r\n{part}\r\n--b0x\r\n--b0--\r\n"),
        format!("x--b0\r\n{part}\r\n--b0--\r\n"),
        "--b0\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n--b0--\r\n".to_owned(),
        "--b0\r\nContent-Disposition: form-data; name=\"model\"\r\n--b0--\r\n".to_owned(),
        "--b0\r\n\r\n\r\nm\r\n--b0--\r\n".to_owned(),
        format!(
            "--b0\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n--b0\r\n{part}\r\n--b0--\r\n"
        ),
        "--b0\r\n\r\nm\r\n--b0--\r\n".to_owned(),
    ] {
        assert_eq!(code(TYPE, body.as_bytes()), "invalid_multipart", "{body:?}");
    }
}

#[test]
fn an_empty_form_or_value_has_no_model() {
    assert_eq!(code(TYPE, b"--b0--\r\n"), "missing_model");
    assert_eq!(code(TYPE, &form(&[field("model", "")])), "missing_model");
    assert_eq!(code(TYPE, &form(&[field("prompt", "")])), "missing_model");
}

#[test]
fn dispositions_that_parsers_read_differently_are_refused() {
    for head in [
        "X: 1",
        "Content-Disposition: form-data",
        "Content-Disposition: form-data; x=\"y\"",
        "Content-Disposition: attachment; name=\"a\"",
        "Content-Disposition: form-data; name=\"a\"; name=\"model\"",
        "Content-Disposition: form-data; name=\"a\"; name*=UTF-8''model",
        "Content-Disposition: form-data; name=\"a",
        "Content-Disposition: form-data; name=\"a\\",
        "Content-Disposition: form-data; name",
        "Content-Disposition: form-data; name=\"a\" x",
        "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"",
        "Content-Disposition: form-data;\r\n name=\"a\"",
        "Content-Disposition : form-data; name=\"a\"",
        "Content-Disposition: form-data; name=\"a\"\nX: y",
        "Content-Disposition: form-data; name=\"a\"\r\nX",
        "Content-Disposition: form-data; name=\"a\"\r\n: x",
        "Content-Disposition: form-data; name=\"a\"\r\nX: \0",
        "Content-Disposition: form-data; name=\"stream\"\r\nContent-Transfer-Encoding: base64",
    ] {
        assert_eq!(code_of_head(head), "invalid_multipart", "{head:?}");
    }
    for head in [
        "content-disposition:FORM-DATA;NAME=a",
        "Content-Disposition: form-data; name=\"a;\\\"b\"; filename=\"x\\\"; name=model\"",
        "Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''x.mp3",
        "Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: base64",
        "X: 1\r\nContent-Disposition: form-data; name=\"\"; ",
    ] {
        assert_eq!(code_of_head(head), "ok", "{head:?}");
    }
}

#[test]
fn another_spelling_of_the_field_name_is_still_the_field() {
    for head in [
        "Content-Disposition: form-data; name=model",
        "Content-Disposition: form-data; name=\"mo\\del\"",
        "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: 8BIT",
    ] {
        assert_eq!(code_of_head(head), "duplicate_model", "{head:?}");
    }
    assert_eq!(
        code_of_head("Content-Disposition: form-data; name=\"Model\""),
        "ok"
    );
}

#[test]
fn a_file_named_model_is_not_a_model_name() {
    let head = "Content-Disposition: form-data; name=\"model\"; filename=\"x\"";
    assert_eq!(code_of_head(head), "invalid_model");
}

#[test]
fn field_values_have_the_same_rules_as_in_json() {
    let of = |fields: &[(&str, &str)]| {
        let parts: Vec<String> = fields
            .iter()
            .map(|(name, value)| field(name, value))
            .collect();
        code(TYPE, &form(&parts))
    };
    assert_eq!(of(&[("model", "a"), ("model", "a")]), "duplicate_model");
    let streams = [("model", "a"), ("stream", "true"), ("stream", "true")];
    assert_eq!(of(&streams), "duplicate_stream");
    assert_eq!(of(&[("model", &"a".repeat(256))]), "ok");
    assert_eq!(of(&[("model", &"a".repeat(257))]), "invalid_model");
    for value in ["", "1", "yes", " true"] {
        assert_eq!(
            of(&[("model", "a"), ("stream", value)]),
            "invalid_stream",
            "{value}"
        );
    }
    for (value, expected) in [("true", true), ("FALSE", false), ("false", false)] {
        let body = form(&[field("stream", value), field("model", "a")]);
        assert_eq!(peek(TYPE, &body).unwrap().stream, expected);
    }
    let mut body = form(&[field("model", "@")]);
    let at = body.iter().position(|&byte| byte == b'@').unwrap();
    body[at] = 0xff;
    assert_eq!(peek(TYPE, &body), Err(PeekError::InvalidModel));
}

#[test]
fn parts_and_heads_have_limits() {
    let parts = |count: usize| {
        let mut parts = vec![field("a", "x"); count - 1];
        parts.push(field("model", "m"));
        code(TYPE, &form(&parts))
    };
    assert_eq!(parts(PARTS_MAX), "ok");
    assert_eq!(parts(PARTS_MAX + 1), "invalid_multipart");

    let head = |bytes: usize| {
        let start = "Content-Disposition: form-data; name=\"a\"\r\nX: ";
        // The line end before the head and the empty line behind it count too.
        code_of_head(&format!("{start}{}", "x".repeat(bytes - start.len() - 6)))
    };
    assert_eq!(head(PART_HEAD_BYTES_MAX), "ok");
    assert_eq!(head(PART_HEAD_BYTES_MAX + 1), "invalid_multipart");
}

proptest! {
    #[test]
    fn file_bytes_never_hide_or_forge_the_model(
        file in prop::collection::vec(prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::sample::select(vec![
                &b"\r\n"[..], b"--", b"--b0", b"b0", b"\r", b"\n--b0\r\n", b"\r\n\r\n",
                b"Content-Disposition: form-data; name=\"model\"\r\n\r\nevil",
            ]).prop_map(<[u8]>::to_vec),
        ], 0..30),
        first in any::<bool>(),
    ) {
        let file = file.concat();
        // A sender must not choose a boundary that occurs in the content.
        let mut guarded = b"\r\n".to_vec();
        guarded.extend_from_slice(&file);
        prop_assume!(memchr::memmem::find(&guarded, b"\r\n--b0").is_none());
        let head = "--b0\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
        let file_part = [head.as_bytes(), &file, b"\r\n"].concat();
        let model_part = field("model", "m").into_bytes();
        let parts = if first { [file_part, model_part] } else { [model_part, file_part] };
        let body = [parts.concat(), b"--b0--\r\n".to_vec()].concat();
        let seen = peek(TYPE, &body).unwrap();
        prop_assert_eq!(seen.model, "m");
        prop_assert_eq!(&body[seen.model_range], b"m");
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "--b0", "--b0\r\n", "\r\n", "--", "\r\n\r\n", "Content-Disposition: form-data; name=",
            "\"model\"", "model", ";", "=", "\"", "\\", "m", " ", "--b0--", "stream", "true",
        ]), 0..24),
    ) {
        let body = pieces.concat();
        if let Ok(seen) = peek(TYPE, body.as_bytes()) {
            prop_assert_eq!(&body[seen.model_range], seen.model.as_ref());
        }
    }
}
