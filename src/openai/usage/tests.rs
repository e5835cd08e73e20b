//! The usage tap on the bodies that engines send, under every split (reliability case U25).

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Usage, UsageTap};

fn tapped<'s>(slices: impl IntoIterator<Item = &'s [u8]>) -> Option<Usage> {
    let mut tap = UsageTap::new();
    for slice in slices {
        tap.feed(slice);
    }
    tap.usage()
}

/// The result for a body, which has to be the same in one slice, byte by byte and in any two.
fn usage_of(body: &str) -> Option<(u64, u64, u64)> {
    let body = body.as_bytes();
    let whole = tapped([body]);
    assert_eq!(tapped(body.chunks(1)), whole);
    for cut in 0..=body.len() {
        assert_eq!(
            tapped([&body[..cut], &[], &body[cut..]]),
            whole,
            "cut at {cut}"
        );
    }
    whole.map(|usage| {
        (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
        )
    })
}

#[test]
fn a_chat_completion_reports_all_three_counts() {
    let body = r#"{"id":"x","choices":[{"message":{"content":"hi"}}],
        "usage": { "prompt_tokens" : 25, "completion_tokens":12,
        "total_tokens":37, "prompt_tokens_details":{"cached_tokens":4,"prompt_tokens":9} } }"#;
    assert_eq!(usage_of(body), Some((25, 12, 37)));
}

#[test]
fn embeddings_have_no_completion() {
    let body = r#"{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_eq!(usage_of(body), Some((8, 0, 8)));
}

#[test]
fn the_last_chunk_of_a_stream_counts_and_null_does_not() {
    let stream = concat!(
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,",
        "\"total_tokens\":6}}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,",
        "\"total_tokens\":7}}\n\n",
        "data: {\"choices\":[],\"usage\":null}\n\n",
        "data: [DONE]\n\n",
    );
    assert_eq!(usage_of(stream), Some((5, 2, 7)));
}

#[test]
fn a_responses_stream_reports_input_and_output() {
    let stream = concat!(
        "event: response.created\r\ndata: {\"response\":{\"usage\":null}}\r\n\r\n",
        "event: response.completed\r\ndata: {\"type\":\"response.completed\",\"response\":{",
        "\"usage\":{\"input_tokens\":36,\"input_tokens_details\":{\"cached_tokens\":0},",
        "\"output_tokens\":87,\"output_tokens_details\":{\"reasoning_tokens\":0},",
        "\"total_tokens\":123},\"user\":null}}\r\n\r\n",
    );
    assert_eq!(usage_of(stream), Some((36, 87, 123)));
}

#[test]
fn message_start_and_message_delta_complete_each_other() {
    let stream = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":",
        "{\"input_tokens\":25,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":",
        "{\"input_tokens\":0,\"output_tokens\":15}}\n\n",
    );
    assert_eq!(usage_of(stream), Some((25, 15, 40)));
}

#[test]
fn text_that_a_model_wrote_is_not_usage() {
    for text in [
        r#""usage":{"prompt_tokens":1}"#,
        r#"\"usage":{"prompt_tokens":1}"#,
        r#"\\"usage":{"prompt_tokens":1}"#,
        r#"a "usage"#,
        r#""usage":"#,
        "\"usage\"\n:\n{\"total_tokens\":5}",
    ] {
        let body = json!({"content": text, "z": {"prompt_tokens": 3}}).to_string();
        assert_eq!(usage_of(&body), None, "{body}");
        let nested = json!({"arguments": body, "z": 1}).to_string();
        assert_eq!(usage_of(&nested), None, "{nested}");
    }
}

#[test]
fn the_word_as_a_value_is_not_the_key() {
    let body = r#"{"type":"usage","kinds":["usage","usage"],"usage":{"total_tokens":4}}"#;
    assert_eq!(usage_of(body), Some((0, 0, 4)));
    assert_eq!(
        usage_of(r#"{"usage":["prompt_tokens",1],"a":"usage"}"#),
        None
    );
}

#[test]
fn an_escaped_quote_right_before_the_key_does_not_hide_the_real_one() {
    let body = r#"{"a":"\"usage","b":"\\","usage":{"prompt_tokens":2,"total_tokens":2}}"#;
    assert_eq!(usage_of(body), Some((2, 0, 2)));
    // No JSON, but every split of it has to agree.
    assert_eq!(
        usage_of(r#"\"usage"usage":{"total_tokens":4}"#),
        Some((0, 0, 4))
    );
}

#[test]
fn an_object_split_over_data_lines_is_read() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = [
            "data: {\"usage\"",
            "data: :",
            "data:{\"prompt_tokens\":",
            "data: 3",
            "data: , \"completion_tokens\"",
            "data:: 4",
            "data: }",
            "data: }",
            "",
            "",
        ]
        .join(end);
        assert_eq!(usage_of(&stream), Some((3, 4, 7)), "{end:?}");
    }
}

#[test]
fn an_unfinished_object_does_not_count() {
    let body = r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6"#;
    assert_eq!(usage_of(body), None);
}

#[test]
fn numbers_that_are_not_whole_are_ignored() {
    for number in [
        "-5",
        "5.5",
        "5e3",
        "\"5\"",
        "null",
        "true",
        "[5]",
        "{\"a\":5}",
        "5 5",
    ] {
        let body = format!(r#"{{"usage":{{"prompt_tokens":{number},"total_tokens":9}}}}"#);
        assert_eq!(usage_of(&body), Some((0, 0, 9)), "{number}");
    }
    let body = r#"{"usage":{"prompt_tokens":99999999999999999999999,"completion_tokens":1}}"#;
    assert_eq!(usage_of(body), Some((u64::MAX, 1, u64::MAX)));
}

#[test]
fn an_object_beyond_the_limit_is_passed_over_and_the_next_one_found() {
    let padded = |bytes: usize| {
        let object = format!(r#"{{"total_tokens":1,"x":"{}"}}"#, "a".repeat(bytes - 25));
        assert_eq!(object.len(), bytes);
        object
    };
    let limit = usize::from(UsageTap::OBJECT_BYTES_MAX);
    let tap = |object: &str, tail: &str| {
        tapped([format!(r#"{{"usage":{object}{tail}}}"#).as_bytes()])
            .map(|usage| usage.total_tokens)
    };
    assert_eq!(tap(&padded(limit), ""), Some(1));
    assert_eq!(tap(&padded(limit + 1), ""), None);
    assert_eq!(
        tap(&padded(10 * limit), r#","usage":{"total_tokens":2}"#),
        Some(2)
    );
    let deep = "[".repeat(100_000);
    assert_eq!(
        tap(
            &format!(r#"{{"a":{deep}"#),
            r#","usage":{"total_tokens":2}"#
        ),
        Some(2)
    );
}

#[test]
fn a_name_with_an_escape_is_another_name() {
    let body = r#"{"usage":{"prompt_tokens\"":5,"\tcompletion_tokens":5,"total_tokens":1}}"#;
    assert_eq!(usage_of(body), Some((0, 0, 1)));
}

#[test]
fn the_tap_is_small() {
    assert!(size_of::<UsageTap>() <= 128, "{}", size_of::<UsageTap>());
}

/// Any document without the key `usage`.
fn document() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("usage".to_owned()),
        Just("\"usage\":{\"prompt_tokens\":7}".to_owned()),
        Just("\\\"usage\\\":{\\\"total_tokens\\\":7}".to_owned()),
        "[\\\\\"a-e:{}]{0,12}",
    ];
    let leaf = prop_oneof![
        text.prop_map(Value::from),
        any::<u32>().prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("(a|prompt_tokens|\"usage\")", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn only_a_real_usage_object_is_found_in_any_document(
        before in document(),
        after in document(),
        prompt in 1_u32..,
        pretty in any::<bool>(),
    ) {
        let write = |value: &Value| {
            if pretty { format!("{value:#}") } else { value.to_string() }
        };
        let without = write(&json!([before, {"uſage": after}]));
        prop_assert_eq!(tapped([without.as_bytes()]), None, "{}", without);
        let with = write(&json!([before, {"usage": {"prompt_tokens": prompt}}, after]));
        let found = tapped(with.as_bytes().chunks(3)).map(|usage| usage.prompt_tokens);
        prop_assert_eq!(found, Some(u64::from(prompt)), "{}", with);
    }

    #[test]
    fn any_split_of_any_bytes_gives_the_same_usage(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "\"usage\"", "\"us", "age\"", "usage\"", "\"", "\\", ":", "{", "}", "\"prompt_tokens\"",
            "\"output_tokens\"", "1", "23", ",", " ", "\n", "data:", "null", "\"usage\":{",
            "\"usage\":{\"total_tokens\":4}", "[", "]",
        ]), 0..30),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let body = pieces.concat().into_bytes();
        let whole = tapped([body.as_slice()]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        let mut slices = Vec::new();
        let mut start = 0;
        for cut in cuts.into_iter().chain([body.len()]) {
            slices.push(&body[start..cut]);
            start = cut;
        }
        prop_assert_eq!(tapped(slices), whole);
        prop_assert_eq!(tapped(body.chunks(1)), whole);
    }
}
