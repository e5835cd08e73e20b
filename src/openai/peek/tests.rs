//! The JSON peek against examples and, on mutated input, against `serde_json` as the judge.

use std::borrow::Cow;
use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{PeekError, peek};

fn code(body: &str) -> &'static str {
    match peek(body.as_bytes()) {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}

#[test]
fn model_range_covers_the_token_with_its_quotes() {
    let body = br#"{"stream":true, "model" : "llama-3.2-1b" }"#;
    let seen = peek(body).unwrap();
    assert_eq!(seen.model, "llama-3.2-1b");
    assert!(matches!(seen.model, Cow::Borrowed(_)));
    assert_eq!(&body[seen.model_range], br#""llama-3.2-1b""#);
    assert!(seen.stream);
}

#[test]
fn nested_model_and_stream_are_not_the_top_level_ones() {
    let body = r#"{"metadata":{"model":"x","stream":1},"a":[{"model":2}],"model":"m"}"#;
    let seen = peek(body.as_bytes()).unwrap();
    assert_eq!((seen.model.as_ref(), seen.stream), ("m", false));
    assert_eq!(code(r#"{"metadata":{"model":"x"}}"#), "missing_model");
}

#[test]
fn text_that_looks_like_a_member_is_text() {
    let body = r#"{"messages":[{"content":"\",\"model\":\"evil\""}],"model":"m"}"#;
    assert_eq!(peek(body.as_bytes()).unwrap().model, "m");
}

#[test]
fn escaped_keys_count_after_unescaping() {
    let body = br#"{"mo\u0064el":"m","\u0073tream":true}"#;
    let seen = peek(body).unwrap();
    assert_eq!((seen.model.as_ref(), seen.stream), ("m", true));
    assert_eq!(code(r#"{"model":"a","mo\u0064el":"a"}"#), "duplicate_model");
    assert_eq!(
        code(r#"{"model":"a","stream":true,"strea\u006D":true}"#),
        "duplicate_stream"
    );
}

#[test]
fn escaped_model_names_are_unescaped() {
    let body = r#"{"model":"a\/b\\\"\b\f\n\r\t\u00e9\ud83e\udd99\uDBFF\uDFFFz"}"#;
    let seen = peek(body.as_bytes()).unwrap();
    assert_eq!(seen.model, "a/b\\\"\u{8}\u{c}\n\r\té🦙\u{10ffff}z");
    assert_eq!(seen.model_range, 9..body.len() - 1);
}

#[test]
fn fields_of_a_wrong_type_are_named() {
    for value in ["1", "null", "true", "[\"m\"]", "{}"] {
        assert_eq!(
            code(&format!(r#"{{"model":{value}}}"#)),
            "invalid_model",
            "{value}"
        );
    }
    for value in ["1", "\"true\"", "0", "[]", "{\"a\":1}"] {
        let body = format!(r#"{{"model":"m","stream":{value}}}"#);
        assert_eq!(code(&body), "invalid_stream", "{value}");
    }
    assert_eq!(code(r#"{"model":1,"model":"m"}"#), "invalid_model");
    assert_eq!(code(r#"{"model":"m","model":1}"#), "duplicate_model");
    assert_eq!(code(r#"{"model":1,"model":1}"#), "invalid_model");
}

#[test]
fn a_null_stream_is_no_stream_but_still_the_one_allowed() {
    assert!(!peek(br#"{"model":"m","stream":null}"#).unwrap().stream);
    assert!(!peek(br#"{"model":"m","stream":false}"#).unwrap().stream);
    assert_eq!(
        code(r#"{"model":"m","stream":null,"stream":true}"#),
        "duplicate_stream"
    );
}

#[test]
fn an_absent_or_empty_model_is_missing() {
    assert_eq!(code("{}"), "missing_model");
    assert_eq!(code(r#"{"model":""}"#), "missing_model");
}

#[test]
fn a_model_name_of_256_bytes_is_the_longest() {
    let body = |name: &str| format!(r#"{{"model":"{name}"}}"#);
    assert_eq!(code(&body(&"a".repeat(256))), "ok");
    assert_eq!(code(&body(&"a".repeat(257))), "invalid_model");
    assert_eq!(code(&body(&"\\u0061".repeat(256))), "ok");
    assert_eq!(code(&body(&"\\u0061".repeat(257))), "invalid_model");
    assert_eq!(code(&body(&"é".repeat(128))), "ok");
    assert_eq!(code(&body(&"é".repeat(129))), "invalid_model");
}

#[test]
fn only_an_object_is_a_request() {
    for body in [
        "",
        " ",
        "null",
        "[]",
        "\"model\"",
        "1",
        "[{\"model\":\"m\"}]",
    ] {
        assert_eq!(code(body), "invalid_json", "{body}");
    }
}

#[test]
fn what_rfc_8259_does_not_allow_is_refused() {
    for value in [
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "-.1",
        "0x1",
        "NaN",
        "Infinity",
        "tru",
        "truE",
        "nul",
        "True",
        "'a'",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u123\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800x\"",
        "\"\\udc00\"",
        "\"\t\"",
        "\"\n\"",
        "\"\0\"",
        "\"abc",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "{\"a\":}",
        "{,}",
        "{\"a\":1]",
        "[",
        "{",
        "//x\n1",
        "1 /* */",
        "\u{feff}1",
        "\u{a0}1",
        "\u{b}1",
        "00",
        "-01",
        "1.e1",
        "1_0",
        "\"\\u+123\"",
        "\"\\\"",
        "[1",
        "{\"a\":1",
        "{\"a\"",
        "{1:2}",
        "",
    ] {
        let body = format!(r#"{{"model":"m","a":{value}}}"#);
        assert_eq!(code(&body), "invalid_json", "{body}");
    }
    for tail in ["x", "{}", ",", "\0", "\"", "]", "}"] {
        let body = format!(r#"{{"model":"m"}} {tail}"#);
        assert_eq!(code(&body), "invalid_json", "{body}");
    }
    assert_eq!(code("\u{feff}{\"model\":\"m\"}"), "invalid_json");
}

#[test]
fn what_rfc_8259_allows_is_accepted() {
    for value in [
        "0",
        "-0",
        "-0.0e-00",
        "1E5",
        "1e+5",
        "123456789012345678901234567890",
        "1e9999",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[[],{}]",
        "{\"\":{\"\":\"\"}}",
        "\"\u{7f}\u{2028}\"",
        "\"\\ud83e\\udd99\"",
        "\"\\u0000\"",
        "null",
        "[null,true,false,\"\",0]",
        " \r\n\t1\t ",
        "{\"a\":1,\"a\":2}",
    ] {
        let body = format!(" {{ \"a\" :{value} , \"model\":\"m\" }} \r\n");
        assert_eq!(code(&body), "ok", "{body}");
    }
}

#[test]
fn invalid_utf8_is_refused_wherever_it_stands() {
    for bytes in [
        &b"\xff"[..],
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ] {
        let mut body = br#"{"model":"m","a":""#.to_vec();
        body.extend_from_slice(bytes);
        body.extend_from_slice(br#""}"#);
        let refusal = PeekError::InvalidJson {
            reason: "invalid UTF-8",
            at: 18,
        };
        assert_eq!(peek(&body), Err(refusal));
    }
}

#[test]
fn sixty_four_levels_are_accepted_and_one_more_is_not() {
    let nested = |levels: usize, open: &str, close: &str| {
        format!(
            r#"{{"model":"m","a":{}1{}}}"#,
            open.repeat(levels),
            close.repeat(levels)
        )
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        assert_eq!(code(&nested(63, open, close)), "ok");
        assert_eq!(code(&nested(64, open, close)), "invalid_json");
        assert_eq!(code(&nested(100_000, open, close)), "invalid_json");
    }
    let empty_at_the_limit = format!(
        r#"{{"model":"m","a":{}{}}}"#,
        "[".repeat(64),
        "]".repeat(64)
    );
    assert_eq!(code(&empty_at_the_limit), "invalid_json");
    assert_eq!(code(&"[".repeat(100_000)), "invalid_json");
    assert_eq!(code(&nested(63, "[{\"a\":", "}]")), "invalid_json");
}

#[test]
fn closing_brackets_are_matched_in_kind_after_many_levels() {
    let wide = "[{\"a\":[[{}]]}]";
    let body = format!(r#"{{"model":"m","a":[{}]}}"#, [wide; 500].join(","));
    assert_eq!(code(&body), "ok");
    assert_eq!(
        code(&body.replacen("[[{}]]}", "[[{}]}]", 1)),
        "invalid_json"
    );
}

#[test]
fn invalid_json_wins_over_a_wrong_field_before_it() {
    assert_eq!(code(r#"{"model":1,"a":}"#), "invalid_json");
}

#[test]
fn the_message_points_at_the_offending_byte_and_quotes_nothing() {
    let error = peek(br#"{"model":"secret","a":01}"#).unwrap_err();
    assert_eq!(
        error.message(),
        "The request body is not valid JSON: expected , or } at byte 23"
    );
}

#[test]
fn a_special_byte_is_found_at_every_offset_of_a_word() {
    for length in 0..80 {
        let plain = "a".repeat(length);
        assert_eq!(code(&format!(r#"{{"a":"{plain}","model":"m"}}"#)), "ok");
        assert_eq!(
            code(&format!(r#"{{"a":"{plain}\"é\\","model":"m"}}"#)),
            "ok"
        );
        for control in ['\u{0}', '\u{1f}'] {
            let body = format!(r#"{{"a":"{plain}{control}{plain}","model":"m"}}"#);
            assert_eq!(code(&body), "invalid_json");
        }
        for harmless in [
            '\u{7f}', ' ', '!', '#', '[', ']', '\u{80}', '\u{a2}', '\u{dc}',
        ] {
            let body = format!(r#"{{"a":"{plain}{harmless}{plain}","model":"m"}}"#);
            assert_eq!(code(&body), "ok", "{harmless:?}");
        }
    }
}

/// The members of a top-level object in order, duplicates included.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What the verdict has to be by `serde_json`; `None` where it has a limit of its own.
fn judged(body: &[u8]) -> Option<Result<(String, bool), &'static str>> {
    let members = match serde_json::from_slice::<Members>(body) {
        Ok(Members(members)) => members,
        Err(error) if error.to_string().contains("number out of range") => return None,
        Err(_) => return Some(Err("invalid_json")),
    };
    let (mut model, mut stream, mut fault) = (None, None, None);
    for (key, value) in members {
        if depth(&value) >= 64 {
            return Some(Err("invalid_json"));
        }
        let found = match (key.as_str(), &value) {
            ("model", _) if model.is_some() => Some("duplicate_model"),
            ("model", Value::String(_)) => None,
            ("model", _) => Some("invalid_model"),
            ("stream", _) if stream.is_some() => Some("duplicate_stream"),
            ("stream", Value::Bool(_) | Value::Null) => None,
            ("stream", _) => Some("invalid_stream"),
            _ => None,
        };
        fault = fault.or(found);
        match (key.as_str(), value) {
            ("model", Value::String(name)) => model = Some(name),
            ("stream", value) => stream = Some(value == Value::Bool(true)),
            _ => {}
        }
    }
    Some(match (fault, model) {
        (Some(fault), _) => Err(fault),
        (None, None) => Err("missing_model"),
        (None, Some(name)) if name.is_empty() => Err("missing_model"),
        (None, Some(name)) if name.len() > 256 => Err("invalid_model"),
        (None, Some(name)) => Ok((name, stream.unwrap_or(false))),
    })
}

fn check_against_judge(body: &[u8]) -> Result<(), TestCaseError> {
    let Some(expected) = judged(body) else {
        return Ok(());
    };
    let seen = peek(body);
    let ours = match &seen {
        Ok(seen) => Ok((seen.model.to_string(), seen.stream)),
        Err(error) => Err(error.code()),
    };
    prop_assert_eq!(ours, expected, "{}", String::from_utf8_lossy(body));
    if let Ok(seen) = seen {
        let token: String = serde_json::from_slice(&body[seen.model_range]).unwrap();
        prop_assert_eq!(token, seen.model.as_ref());
    }
    Ok(())
}

/// Pieces from which mutated documents are put together.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "\\ud83e",
    "\\udd99",
    "\\u00",
    "\\n",
    "\\/",
    "\"model\":",
    "\"stream\":",
    "\"m\"",
    "\"mo\\u0064el\":",
    "true",
    "false",
    "null",
    "0",
    "-",
    "1.5",
    "e",
    "E+",
    ".",
    " ",
    "\n",
    "\t",
    "\u{1}",
    "é",
    "🦙",
    "\"a\":",
    "[1,2]",
    "{\"b\":[]}",
    "\"x\\\\\"",
    "\"a longer plain string of text\"",
    "\"\"",
    "00",
    "\u{feff}",
];

fn document() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("\"m\"".to_owned()),
        "[a-z\\\\\"/\u{0}-\u{9}é🦙]{0,20}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        prop::sample::select(vec![
            "true",
            "false",
            "null",
            "1",
            "-1.5e3",
            "[]",
            "{}",
            "[1,[2,{\"a\":\"\\u00e9\"}]]",
            "{\"model\":\"x\",\"stream\":[true]}",
            "\"\\ud83e\\udd99 text\"",
            "",
        ])
        .prop_map(str::to_owned),
    ];
    let key = prop::sample::select(vec![
        "\"model\"",
        "\"stream\"",
        "\"mo\\u0064el\"",
        "\"messages\"",
        "\"a\"",
        "\"\"",
    ]);
    let space = prop::sample::select(vec!["", " ", "\n  ", "\t"]);
    prop::collection::vec((space, key, value), 0..6).prop_map(|members| {
        let members: Vec<String> = members
            .iter()
            .map(|(space, key, value)| format!("{space}{key}{space}:{space}{value}{space}"))
            .collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    })
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0_usize..4,
        prop::sample::select(PIECES),
        any::<u8>(),
    );
    (document(), prop::collection::vec(edit, 0..4)).prop_map(|(mut body, edits)| {
        for (index, kind, piece, byte) in edits {
            let at = index.index(body.len() + 1);
            match kind {
                0 => drop(body.splice(at..at, piece.bytes())),
                1 => body.truncate(at),
                2 if at < body.len() => drop(body.remove(at)),
                _ if at < body.len() => body[at] = byte,
                _ => body.push(byte),
            }
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_verdict_on_mutated_documents_is_serde_jsons(body in mutated()) {
        check_against_judge(&body)?;
    }

    #[test]
    fn the_verdict_on_heaps_of_tokens_is_serde_jsons(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..16),
    ) {
        check_against_judge(pieces.concat().as_bytes())?;
        check_against_judge(format!("{{\"model\":\"m\",\"a\":{}}}", pieces.concat()).as_bytes())?;
    }

    #[test]
    fn the_verdict_on_strings_is_serde_jsons(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..8),
    ) {
        check_against_judge(format!("{{\"model\":\"{}\"}}", pieces.concat()).as_bytes())?;
    }

    #[test]
    fn the_verdict_on_numbers_is_serde_jsons(number in "[-+0-9.eE]{1,8}") {
        check_against_judge(format!("{{\"model\":\"m\",\"a\":{number}}}").as_bytes())?;
    }

    #[test]
    fn the_verdict_on_any_bytes_is_serde_jsons(
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        check_against_judge(&body)?;
    }
}
